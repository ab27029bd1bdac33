#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-only
# timeout: 400
"""Point-in-time snapshots: what a client reads while the drive goes on, what
refuses and what ends one, and that none of it is ever the drive's harm. The table
of patterns has the cases of QEMU's image-fleecing test. All rows are here; those
that take their time are run by snapshot-more.py."""
import contextlib
import mmap
import os
import re
import shutil
import signal
import subprocess

import nbd

from traylib import PATIENCE, Bench, Table, daemon_pid, same, sh, until

KIB, MIB = 1 << 10, 1 << 20
SIZE = 64 * MIB + 1536
DRIVE, NODE = "spicebd1", "/dev/spicebd1"

# name, offset, length of what is there before; a byte each
BEFORE = ((0x5d, 0, 64 * KIB), (0xd5, MIB, 64 * KIB), (0xdc, 32 * MIB, 64 * KIB),
          (0xcd, SIZE - SIZE % 4096 - 64 * KIB, 64 * KIB))
# what is done to it, and what the drive then has there
AFTER = (("write", 0xab, 0, 64 * KIB),			# a whole cluster
         ("write", 0xad, MIB - 4 * KIB, 8 * KIB),	# over the edge of two
         ("write", 0x1d, 8 * MIB, 512),			# where nothing was
         ("zero", 0, 32 * MIB, 64 * KIB),
         ("discard", 0, 48 * MIB, 3 * MIB),
         ("write", 0xea, SIZE - 512, 512))		# the last, short one


class Snapshots(Bench):
    def __init__(self):
        super().__init__()
        self.scratch = f"{self.dir}/scratch"
        os.mkdir(self.scratch)

    def ctl(self, *argv, ok=True):
        p = subprocess.run(["spicebdctl", *argv], capture_output=True, text=True,
                           timeout=PATIENCE * 3, check=False)
        self.q.heard.append(f"$ spicebdctl {' '.join(argv)}: {p.returncode} {p.stdout}{p.stderr}")
        assert (p.returncode == 0) == ok, f"spicebdctl {argv}: {p.returncode}: {p.stdout}{p.stderr}"
        return (p.stdout if ok else p.stderr).strip()

    def settle(self):
        subprocess.run(["udevadm", "settle", f"--timeout={PATIENCE}"], check=False)

    @contextlib.contextmanager
    def medium(self, fill=None, size=SIZE, path=None):
        """A writable image in the disk drive, and what it is at the beginning"""
        path = path or f"{self.dir}/medium.img"
        with open(path, "wb") as f:
            f.truncate(size)
            if fill:
                fill(f)
        self.ctl("insert", DRIVE, path, "--read-write")
        self.settle()
        try:
            yield path
        finally:
            self.q.cmd("eject", id=DRIVE, force=True)
            until(lambda: not self.snapshots(), "all snapshots are gone")
            self.settle()
            os.unlink(path)

    def create(self, *argv, ok=True):
        return self.ctl("snapshot", "create", DRIVE, "--scratch", self.scratch, *argv, ok=ok)

    def snapshots(self):
        return self.q.do("spicebd-query-snapshots")

    def clients(self, n):
        until(lambda: [s["clients"] for s in self.snapshots()] == [n], f"{n} clients")

    def restart(self):
        """spicebdd dies, and is another one"""
        os.kill(daemon_pid(), signal.SIGKILL)
        self.again()
        until(lambda: self.q.do("spicebd-query", drive=DRIVE)[0]["state"] == "ready", "adopted")


def patterns(f):
    for byte, offset, length in BEFORE:
        f.seek(offset)
        f.write(bytes([byte]) * length)


def client(uri):
    h = nbd.NBD()
    h.add_meta_context(nbd.CONTEXT_BASE_ALLOCATION)
    h.connect_uri(uri)
    return h


def fails(fn, *a):
    try:
        fn(*a)
    except nbd.Error as e:
        return e
    raise AssertionError("it did not fail")


def write(byte, offset, length):
    """Through the drive, to the far end"""
    fd = os.open(NODE, os.O_WRONLY | os.O_CLOEXEC)
    try:
        same(os.pwrite(fd, bytes([byte]) * length, offset), length, "written")
        os.fdatasync(fd)
    finally:
        os.close(fd)


def read(offset, length):
    """From the drive, past the page cache"""
    sector = offset // 512 * 512
    size = (offset + length - sector + 511) // 512 * 512
    fd = os.open(NODE, os.O_RDONLY | os.O_DIRECT | os.O_CLOEXEC)
    try:
        with mmap.mmap(-1, size) as m:
            os.preadv(fd, [m], sector)
            return m[offset - sector:offset - sector + length]
    finally:
        os.close(fd)


def change(what, byte, offset, length):
    if what == "write":
        write(byte, offset, length)
    else:
        sh(f"blkdiscard {'-z' if what == 'zero' else ''} -f -o {offset} -l {length} {NODE}")


def content(h):
    return b"".join(h.pread(min(MIB, h.get_size() - at), at) for at in range(0, h.get_size(), MIB))


# Rows


def words(b):
    """what is refused, and by which words"""
    q = b.q
    def make(**kw):
        fd = os.open(b.scratch, os.O_TMPFILE | os.O_RDWR, 0o600)
        os.pwrite(fd, kw.pop("holds", b""), 0)
        a = q.cmd("spicebd-snapshot-create", scratch=q.add_fd(fd), **kw)
        os.close(fd)
        return a
    make(drive="spicebd9").bad("not found", cls="DeviceNotFound")
    make(drive=DRIVE).bad(f"^drive {DRIVE}: cannot make a snapshot: it has no medium$")
    q.cmd("spicebd-snapshot-delete", name="none").bad("^snapshot 'none' is not found$")
    same(b.ctl("snapshot", "delete", "none", ok=False), "spicebdctl: snapshot 'none' is not found", "words")
    with b.medium():
        for name in ("", "a/b", "-x", "x" * 64, "a b", "ä"):
            make(drive=DRIVE, name=name).bad("a snapshot's name is 1 to 63 letters")
        make(drive=DRIVE, socket="here").bad("the socket's path is absolute")
        make(drive=DRIVE, socket="/" + "x" * 107).bad("the socket's path is absolute")
        make(drive=DRIVE, socket="/nonexistent/s").bad("No such file or directory")
        make(drive=DRIVE, holds=b"x").bad("the scratch file is not empty")
        q.cmd("spicebd-snapshot-create", drive=DRIVE, scratch="here").bad("no absolute path")
        q.cmd("spicebd-snapshot-create", drive=DRIVE, scratch="/dev/fdset/77").bad("no such file desc")
        fd = os.open(b.scratch, os.O_TMPFILE | os.O_WRONLY, 0o600)
        q.cmd("spicebd-snapshot-create", drive=DRIVE, scratch=q.add_fd(fd)).bad("can be read and written")
        os.close(fd)
        same(b.snapshots(), [], "snapshots")
        assert "is there already" in b.ctl("snapshot", "create", DRIVE, "--scratch",
                                           f"{b.dir}/medium.img", ok=False)
        b.create("--name", "x")
        assert "snapshot 'x'" in b.create(ok=False)
        same(os.listdir(b.scratch), [], "left in the scratch folder")
        b.ctl("snapshot", "delete", "x")
        same(b.q.do("spicebd-query", drive=DRIVE)[0]["freeze"], "thawed", "the drive")


def fleecing(b):
    """old patterns in the snapshot, new ones on the drive"""
    with b.medium(patterns) as path:
        with open(path, "rb") as f:
            old = f.read()
        h = client(b.create("--name", "fleece"))
        assert h.is_read_only() and h.can_multi_conn()
        same(h.get_size(), SIZE, "size")
        for step in AFTER:
            change(*step)
        for byte, offset, length in BEFORE:
            same(h.pread(length, offset), bytes([byte]) * length, f"the pattern at {offset}")
        for what, byte, offset, length in AFTER:
            if what != "discard":
                same(read(offset, length), bytes([byte]) * length, f"the drive at {offset}")
        assert content(h) == old, "the snapshot is not what the medium was"
        # Once more over it: what was copied stays what it is.
        for byte, offset, length in BEFORE:
            write(byte ^ 0xff, offset, length)
        second = client(b.snapshots()[0]["uri"])
        assert content(second) == old, "a second client"
        b.clients(2)
        new = read(0, 4 * KIB)
        b.ctl("snapshot", "delete", "fleece", "--force")
        fails(second.pread, 512, 0)
        same(read(0, 4 * KIB), new, "the drive afterwards")
        write(0x77, 0, 4 * KIB)
        same(read(0, 4 * KIB), bytes([0x77]) * 4 * KIB, "and it can be written")


def map_of(h):
    got = []
    def extent(context, offset, entries, err):
        for length, bits in zip(entries[::2], entries[1::2]):
            got.append((offset, length, bits))
            offset += length
    at = 0
    while at < h.get_size():
        h.block_status(h.get_size() - at, at, extent)
        at = got[-1][0] + got[-1][1]
    return got


def block_status(b):
    """holes are told, and what was copied is data"""
    with b.medium(lambda f: (f.seek(MIB), f.write(b"x" * MIB))):
        h = client(b.create())
        assert h.can_meta_context(nbd.CONTEXT_BASE_ALLOCATION)
        write(0x11, 8 * MIB, 4 * KIB)
        data = [(o, o + n) for o, n, bits in map_of(h) if not bits & nbd.STATE_HOLE]
        assert any(o <= MIB and e >= 2 * MIB for o, e in data), data
        assert any(o <= 8 * MIB < e for o, e in data), data
        assert sum(e - o for o, e in data) <= 3 * MIB, data
        same(h.pread(4 * KIB, 8 * MIB), bytes(4 * KIB), "what was there")


def deleting(b):
    """with readers it is refused, by force they are dropped"""
    with b.medium(patterns):
        uri = b.create("--name", "d")
        h = client(uri)
        b.clients(1)
        want = "snapshot 'd' is exported to 1 client"
        b.q.cmd("spicebd-snapshot-delete", name="d").bad(want)
        same(h.pread(512, 0), b"\x5d" * 512, "it is still there")
        b.q.do("spicebd-snapshot-delete", name="d", force=True)
        fails(h.pread, 512, 0)
        b.q.cmd("spicebd-snapshot-delete", name="d", force=True).bad("^snapshot 'd' is not found$")
        fails(client, uri)
        # Its name and its socket are free again.
        uri = b.create("--name", "d", "--socket", f"{b.dir}/own.sock")
        assert f"{b.dir}/own.sock" in uri
        same(client(uri).pread(512, 0), b"\x5d" * 512, "the next one")
        b.ctl("snapshot", "delete", "d", "--force")
        assert not os.path.exists(f"{b.dir}/own.sock"), "the socket is left"


def blocking(b):
    """eject, change, remove, delete and migrate; by force it ends first"""
    with b.medium(patterns) as path:
        h = client(b.create())
        b.clients(1)
        why = "snapshot 's0' is exported to 1 client$"
        for verb, words_, kw in (("eject", "eject", {"id": DRIVE}),
                                 ("blockdev-remove-medium", "remove its medium", {"id": DRIVE}),
                                 ("blockdev-change-medium", "change its medium",
                                  {"id": DRIVE, "filename": path}),
                                 ("spicebd-drive-del", "delete it", {"drive": DRIVE}),
                                 ("spicebd-migrate", "migrate it", {"drive": DRIVE, "uri": "unix:/x"})):
            b.q.cmd(verb, timeout=0 if verb[0] in "eb" else None, **kw).bad(
                f"^drive {DRIVE}: cannot {words_}: {why}")
        blockers = b.q.do("spicebd-query", drive=DRIVE)[0]["blockers"]
        same([(x["owner"], x["reason"]) for x in blockers],
             [("snapshot s0", "snapshot 's0' is exported to 1 client")], "blockers")
        same(sorted(blockers[0]["blocks"]),
             ["change", "delete", "eject", "migrate", "remove", "resize", "snapshot"],
             "what it blocks")
        same(b.q.do("spicebd-freeze", drive=DRIVE, holder="t")[0]["drive"], DRIVE, "freeze")
        b.q.do("spicebd-thaw", drive=DRIVE, holder="t")
        b.q.do("eject", id=DRIVE, force=True)
        fails(h.pread, 512, 0)
        until(lambda: not b.snapshots(), "the snapshot is gone")


def failed(b, words_):
    def got():
        s = b.snapshots()
        return s and s[0]["state"] == "failed" and s[0]
    s = until(got, "it has failed")
    assert re.search(words_, s["reason"]), s
    return s


def full(b):
    """a full scratch file ends the snapshot, never the drive"""
    b.scratch = f"{b.dir}/small"
    os.mkdir(b.scratch)
    sh(f"mount -t tmpfs -o size=1M none {b.scratch}")
    b.undo.append(lambda: sh(f"umount -l {b.dir}/small", check=False))
    with b.medium(lambda f: f.write(os.urandom(8 * MIB))):
        h = client(b.create())
        for i in range(8):
            write(0x40 + i, i * MIB, MIB)
        failed(b, "scratch file: No space left")
        fails(h.pread, 512, 0)
        fails(h.pread, 512, 32 * MIB)
        assert "No space left" in b.ctl("snapshot", "list")
        for i in range(8):
            same(read(i * MIB, MIB), bytes([0x40 + i]) * MIB, "the drive")
        same(sh(f"df --output=used {b.scratch} | tail -1").strip(), "0", "its room is given back")
        same(b.q.do("spicebd-query", drive=DRIVE)[0]["blockers"], [], "blockers")
        # It is in nobody's way: another one can be made, and this one deleted.
        b.scratch = f"{b.dir}/scratch"
        other = client(b.create())
        same(other.pread(1, 0), b"\x40", "another one")
        b.ctl("snapshot", "delete", "s0")
        same([s["name"] for s in b.snapshots()], ["s1"], "snapshots")


def upon_itself(b):
    """nothing of a snapshot's lies upon the drive"""
    with b.medium(size=48 * MIB):
        sh(f"mkfs.ext4 -q -F {NODE}")
        mnt, inner = f"{b.dir}/mnt", f"{b.dir}/inner"
        os.mkdir(mnt)
        os.mkdir(inner)
        sh(f"mount {NODE} {mnt}")
        try:
            why = b.create("--socket", f"{mnt}/sock", ok=False)
            assert "the socket lies on the drive itself" in why, why
            b.scratch = mnt
            why = b.create(ok=False)
            assert re.search("scratch file .*lies on the drive itself", why), why
            fd = os.open(mnt, os.O_TMPFILE | os.O_RDWR, 0o600)
            given = b.q.add_fd(fd)
            b.q.cmd("spicebd-snapshot-create", drive=DRIVE, scratch=given).bad(
                f"^drive {DRIVE}: cannot make a snapshot: the scratch file lies on the drive itself")
            b.q.do("remove-fd", fdset_id=int(given.split("/")[-1]))
            os.close(fd)
            sh(f"modprobe loop; truncate -s 24M {mnt}/image; mkfs.ext4 -q {mnt}/image; "
               f"mount -o loop {mnt}/image {inner}")
            b.scratch = inner
            why = b.create(ok=False)
            assert re.search(r"lies on the drive itself \(by way of loop\d+\)", why), why
            # Somewhere else it is made, frozen file systems and all.
            b.scratch = f"{b.dir}/scratch"
            sh(f"umount {inner}; rm {mnt}/image")
            b.create("--fs")
            sh(f"touch {mnt}/thawed")
        finally:
            b.scratch = f"{b.dir}/scratch"
            sh(f"! mountpoint -q {inner} || umount {inner}; umount {mnt}")


def killed(b):
    """spicebdd dies: an error to its readers, never a newer byte"""
    with b.medium(patterns):
        h = client(b.create())
        write(0x11, 0, 64 * KIB)
        same(h.pread(512, 0), b"\x5d" * 512, "before")
        b.restart()
        write(0x22, MIB, 64 * KIB)
        fails(h.pread, 512, 0)
        fails(h.pread, 512, MIB)
        same(b.snapshots(), [], "snapshots")
        same(read(0, 512) + read(MIB, 512), b"\x11" * 512 + b"\x22" * 512, "the drive")
        until(lambda: not sh("pgrep -x spicebd-export", check=False), "its server has ended")
        same(client(b.create()).pread(512, 0), b"\x11" * 512, "the next one")


def server_killed(b):
    """the medium's server is killed: requests go again, the snapshot stays"""
    with b.medium(patterns) as path:
        with open(path, "rb") as f:
            old = f.read()
        h = client(b.create())
        write(0x11, 0, 4 * KIB)
        for pid in sh("pgrep -x spicebd-nbdkit").split():
            sh(f"pkill -KILL -P {pid}", check=False)
        write(0x12, MIB, 64 * KIB)
        write(0x13, 40 * MIB, 4 * KIB)
        # Who was connected to that server has lost it, and comes again.
        fails(lambda: [h.pread(512, 60 * MIB) for _ in range(1000)])
        uri = b.snapshots()[0]["uri"]
        def comes():
            try:
                return client(uri)
            except nbd.Error:
                return None
        assert content(until(comes, "it is served")) == old, "the snapshot"


def export_killed(b):
    """its own server is killed: another one serves it"""
    with b.medium(patterns):
        uri = b.create()
        write(0x11, 0, 64 * KIB)
        sh("pkill -KILL -x spicebd-export")
        def comes():
            try:
                return client(uri)
            except nbd.Error:
                return None
        same(until(comes, "it is served").pread(512, 0), b"\x5d" * 512, "the snapshot")


def cdrom(b):
    """of a medium that nobody can write, too"""
    img = b.image("disc", size=4 * MIB)
    b.ctl("insert", "spicebd0", img.path)
    b.settle()
    uri = b.ctl("snapshot", "create", "spicebd0", "--scratch", b.scratch, "--name", "cd")
    same(client(uri).pread(4, 0), b"disc", "the medium")
    b.drives["cdrom"].empty()
    until(lambda: not b.snapshots(), "it ended with its medium")


def storm(b):
    """beside a drive that is written all over, byte for byte"""
    def fill(f):
        for at in range(0, SIZE, MIB):
            f.seek(at)
            if at // MIB % 4:
                f.write(os.urandom(min(MIB, SIZE - at)))
    with b.medium(fill) as path:
        shutil.copyfile(path, f"{b.dir}/old")
        job = subprocess.Popen(
            ["fio", "--thread", "--name=w", f"--filename={NODE}", "--direct=1", "--ioengine=libaio",
             "--iodepth=32", "--bssplit=4k/50:36k/30:256k/20", "--rw=randwrite", "--time_based",
             "--runtime=600", "--trim_percentage=0", "--randrepeat=0"],
            stdout=subprocess.DEVNULL)
        b.children.append(job)
        stats = lambda: b.q.do("spicebd-query", drive=DRIVE)[0]["stats"]["writes"]
        job.send_signal(signal.SIGSTOP)
        # The first bytes of it are to be known: it is stopped until the snapshot stands.
        until(lambda: not b.q.do("spicebd-query", drive=DRIVE)[0]["in-flight"], "it is quiet")
        sh(f"sync {path}; cp {path} {b.dir}/old")
        uri = b.create()
        job.send_signal(signal.SIGCONT)
        before = stats()
        until(lambda: stats() > before + 50, "it is being written")
        sh(f"nbdcopy --connections=2 '{uri}' {b.dir}/copy")
        sh(f"cmp {b.dir}/old {b.dir}/copy")
        assert job.poll() is None, "fio has ended"
        s = b.snapshots()[0]
        assert s["state"] == "active" and s["copied"] > MIB, s
        sh(f"qemu-img convert -f raw -O raw '{uri}' {b.dir}/copy2 && cmp {b.dir}/old {b.dir}/copy2")
        job.terminate()
        job.wait(PATIENCE)
        b.ctl("snapshot", "delete", s["name"])


def backup(b):
    """an ext4 in use, by nbdcopy and by qemu-img: it mounts, fsck finds nothing"""
    mnt, there = f"{b.dir}/mnt2", f"{b.dir}/there"
    os.mkdir(mnt)
    os.mkdir(there)
    with b.medium():
        sh(f"mkfs.ext4 -q -F {NODE}; mount {NODE} {mnt}")
        try:
            with open(f"{mnt}/before", "wb") as f:
                f.write(b"all of this" * 100000)
            job = subprocess.Popen(
                ["fio", "--thread", "--name=f", f"--directory={mnt}", "--nrfiles=8", "--size=16M",
                 "--rw=randwrite", "--bs=4k", "--fsync=8", "--time_based", "--runtime=3600"],
                stdout=subprocess.DEVNULL)
            b.children.append(job)

            def writes():
                assert job.poll() is None, "fio has ended"
                return b.q.do("spicebd-query", drive=DRIVE)[0]["stats"]["writes"]
            n = writes()
            until(lambda: writes() > n + 100, "it is being written")
            uri = b.create("--fs")
            n = writes()
            sh(f"nbdcopy '{uri}' {b.dir}/a && qemu-img convert -O raw '{uri}' {b.dir}/b")
            until(lambda: writes() > n, "it went on meanwhile")
        finally:
            for child in b.children:
                child.terminate()
                child.wait(PATIENCE * 2)
            b.children.clear()
            sh(f"umount {mnt}")
        sh(f"cmp {b.dir}/a {b.dir}/b")
        out = sh(f"fsck.ext4 -fn {b.dir}/a")
        assert "recovering journal" not in out, out
        sh(f"modprobe loop; mount -o loop,ro,noload {b.dir}/a {there}")
        try:
            with open(f"{there}/before", "rb") as f:
                same(f.read() == b"all of this" * 100000, True, "the file")
        finally:
            sh(f"umount {there}")


QUICK = (words, fleecing, block_status, deleting, blocking)
MORE = (full, upon_itself, killed, server_killed, export_killed, cdrom, storm, backup)


def table(rows):
    t = Table()
    for fn in rows:
        t.add(fn.__doc__, fn)
    t.main(Snapshots)


if __name__ == "__main__":
    table(QUICK)
