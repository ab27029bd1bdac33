#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-only
# timeout: 500
"""Snapshots: where the scratch file is, and what becomes of the snapshot when that
place is none for it, or loses what it was given; what is copied before a discard; and
that spicebdd may be ended."""
import contextlib
import os
import signal
import subprocess

from snapshot import (DRIVE, KIB, MIB, NODE, Snapshots, change, client, content, fails, failed,
                      patterns, read, write)
from traylib import Table, daemon_pid, same, sh, until


class Places(Snapshots):
    """With another drive, and what is in it"""

    @contextlib.contextmanager
    def other(self, source, mkfs):
        """A file system on a drive that is made for it; its name and where it is mounted"""
        name = self.q.do("spicebd-drive-add", personality="disk")["drive"]
        mnt = f"{self.dir}/{name}"
        os.makedirs(mnt, exist_ok=True)
        try:
            self.ctl("insert", name, source, "--read-write")
            self.settle()
            sh(f"{mkfs} /dev/{name} && mount /dev/{name} {mnt}")
            yield name, mnt
        finally:
            sh(f"! mountpoint -q {mnt} || umount {mnt}", check=False)
            self.settle()
            self.q.do("spicebd-drive-del", drive=name, force=True)


def by_name(b):
    """a file that is named: made, used, and gone from its folder at once"""
    with b.medium(patterns):
        b.scratch = f"{b.dir}/a file"
        h = client(b.create())
        same(os.path.exists(b.scratch), False, "its name is left")
        same(b.snapshots()[0]["scratch"], b.scratch, "where it was")
        assert h.get_structured_replies_negotiated(), "no structured replies"
        write(0x11, 0, 64 * KIB)
        same(h.pread(64 * KIB, 0), b"\x5d" * 64 * KIB, "what was there")
        b.ctl("snapshot", "delete", "s0", "--force")
        got = b.q.do("spicebd-snapshot-create", drive=DRIVE, scratch=f"{b.dir}/by QMP")
        same(got["name"], "s0", "the same by QMP")
        same(os.path.exists(f"{b.dir}/by QMP"), False, "its name is left")
        b.scratch = f"{b.dir}/scratch"


def nameless(b):
    """a folder of a file system that has no files without a name"""
    sh(f"modprobe -a loop vfat; truncate -s 100M {b.dir}/fat && mkfs.vfat {b.dir}/fat && "
       f"mkdir {b.dir}/fat.d && mount -o loop {b.dir}/fat {b.dir}/fat.d")
    b.undo.append(lambda: sh(f"umount -l {b.dir}/fat.d", check=False))
    b.scratch = f"{b.dir}/fat.d"
    try:
        os.close(os.open(b.scratch, os.O_TMPFILE | os.O_RDWR))
        raise AssertionError("vfat has such files by now: take another one")
    except OSError:
        pass
    with b.medium(patterns):
        h = client(b.create())
        same(os.listdir(b.scratch), [], "left there")
        write(0x11, 0, 64 * KIB)
        same(h.pread(64 * KIB, 0), b"\x5d" * 64 * KIB, "what was there")
    sh(f"umount {b.scratch}")
    b.scratch = f"{b.dir}/scratch"


def discards(b):
    """what is discarded, or zeroed, was copied before"""
    def fill(f):
        f.seek(40 * MIB)
        f.write(os.urandom(8 * MIB))
    with b.medium(fill) as path:
        with open(path, "rb") as f:
            old = f.read()
        h = client(b.create())
        # Not whole clusters, either.
        change("discard", 0, 41 * MIB + 512, 3 * MIB)
        change("zero", 0, 45 * MIB - 512, MIB)
        same(read(42 * MIB, MIB) + read(45 * MIB, MIB // 2), bytes(MIB + MIB // 2), "the drive")
        stats = b.q.do("spicebd-query", drive=DRIVE)[0]["stats"]
        assert stats["discards"] and stats["write-zeroes"], stats
        assert b.snapshots()[0]["copied"] >= 4 * MIB, b.snapshots()
        assert content(h) == old, "the snapshot is not what the medium was"


def lost_later(b):
    """what was copied cannot be written back: an error, never other bytes"""
    sock, broken = f"{b.dir}/far.sock", f"{b.dir}/broken"
    b.spawn("nbdkit", "-f", "--exit-with-parent", "--unix", sock, "--filter=error", "memory", "64M",
            "error=EIO", "error-pwrite-rate=100%", f"error-file={broken}",
            stderr=subprocess.DEVNULL)
    until(lambda: os.path.exists(sock), "the server listens")
    # Without a journal, which would end the file system.
    with b.other(f"nbd+unix:///?socket={sock}", "mkfs.ext2 -q -F") as (_, b.scratch), \
            b.medium(patterns):
        first, second = (client(u) for u in [b.create()] * 2)
        write(0x11, 0, 64 * KIB)
        same(first.pread(64 * KIB, 0), b"\x5d" * 64 * KIB, "what was there")
        open(broken, "wb").close()
        sh(f"sync -f {b.scratch}; echo 3 >/proc/sys/vm/drop_caches", check=False)
        fails(first.pread, 64 * KIB, 0)
        fails(second.pread, 64 * KIB, 0)
        failed(b, "scratch file: ")
        fails(first.pread, 512, MIB)
        same(read(0, 4 * KIB), b"\x11" * 4 * KIB, "the drive")
        write(0x22, MIB, 64 * KIB)
        same(read(MIB, 4 * KIB), b"\x22" * 4 * KIB, "it can be written")
        os.unlink(broken)
    b.scratch = f"{b.dir}/scratch"


def upon_another_drive(b):
    """a medium of another drive that is a file upon this one"""
    mnt = f"{b.dir}/mnt"
    os.mkdir(mnt)
    with b.medium(size=48 * MIB):
        sh(f"mkfs.ext4 -q -F {NODE}; mount {NODE} {mnt}; truncate -s 24M {mnt}/file")
        try:
            with b.other(f"{mnt}/file", "mkfs.ext4 -q -F") as (name, b.scratch):
                why = b.create(ok=False)
                assert f"the scratch file lies on the drive itself (by way of {name})" in why, why
                inner, b.scratch = b.scratch, f"{b.dir}/scratch"
                why = b.create("--socket", f"{inner}/s", ok=False)
                assert f"the socket lies on the drive itself (by way of {name})" in why, why
            b.create()
        finally:
            b.scratch = f"{b.dir}/scratch"
            sh(f"umount {mnt}", check=False)


def ended(b):
    """spicebdd is ended in order: an error to its readers, and the drive goes on"""
    with b.medium(patterns):
        h = client(b.create())
        write(0x11, 0, 64 * KIB)
        same(h.pread(512, 0), b"\x5d" * 512, "before")
        pid = daemon_pid()
        os.kill(pid, signal.SIGTERM)
        until(lambda: not os.path.exists(f"/proc/{pid}"), "it has ended")
        fails(h.pread, 512, 0)
        fails(h.pread, 512, 32 * MIB)
        b.ctl("start")
        b.again()
        until(lambda: b.q.do("spicebd-query", drive=DRIVE)[0]["state"] == "ready", "adopted")
        same(b.snapshots(), [], "snapshots")
        same(read(0, 512), b"\x11" * 512, "the drive")


ROWS = (by_name, nameless, discards, lost_later, upon_another_drive, ended)

if __name__ == "__main__":
    t = Table()
    for fn in ROWS:
        t.add(fn.__doc__, fn)
    t.main(Places)
