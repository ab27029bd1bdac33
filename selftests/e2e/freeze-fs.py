#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-only
# timeout: 400
"""spicebdctl freeze --fs: file systems first, thawed last, however it ends."""
import contextlib
import os
import signal
import subprocess

from freeze import DISK_DRIVE, MIB, RECORD, Far, Unsynced, Writer, ctl, holders, query, thawed
from traylib import PATIENCE, Bench, Table, same, sh, until

NODE = "/dev/" + DISK_DRIVE


def mkfs(path):
    sh(f"mkfs.ext4 -q -F {path}")


@contextlib.contextmanager
def mounted(b, node=NODE, where="m", options="rw"):
    path = f"{b.dir}/{where}"
    os.makedirs(path, exist_ok=True)
    sh(f"mount -o {options} {node} '{path}'")
    # So that looking for a file in it needs no drive.
    os.listdir(path)
    try:
        yield path
    finally:
        # A row that failed may have left both frozen, without a limit.
        sh("spicebdctl thaw", check=False)
        sh(f"fsfreeze -u '{path}'", check=False)
        sh(f"umount '{path}'")


class FileWriter:
    """Makes a file; a frozen file system lets it wait."""

    def __init__(self, b, where, name="new"):
        self.path = f"{where}/{name}"
        self.p = b.spawn("sh", "-c", 'echo x >"$0" && sync -f "$0"', self.path,
                         stderr=subprocess.DEVNULL)

    def blocked(self):
        def asleep():
            assert self.p.poll() is None, "it wrote to a frozen file system"
            with open(f"/proc/{self.p.pid}/stat", encoding="ascii") as f:
                return f.read().rsplit(")", 1)[1].split()[0] == "D"
        until(asleep, "the writer is blocked")
        assert not os.path.exists(self.path), "the file is there"

    def good(self):
        same(self.p.wait(PATIENCE), 0, "the writer's exit status")


def keeper():
    return int(sh("pgrep -x spicebd-fskeep").split()[0])


def no_keeper():
    until(lambda: not sh("pgrep -x spicebd-fskeep", check=False) and
          not os.path.exists(RECORD), "the keeper has ended, and its record")


def writes(b, where, name="after"):
    FileWriter(b, where, name).good()


def clean(far):
    """What the far end has while it is frozen needs no journal replayed."""
    got = sh(f"dumpe2fs -h {far.export.file} 2>/dev/null")
    return "needs_recovery" not in got


def frozen_first_thawed_last(b):
    far = Far(b, "fs", size=16 * MIB, prepare=mkfs)
    errors = query(b)["stats"]["errors"]
    with mounted(b) as m:
        writes(b, m, "before")
        assert not clean(far), "a mounted file system is said to be clean"
        ctl("freeze", DISK_DRIVE, "--fs", words="is frozen")
        assert clean(far), "the file system was not frozen before the drive"
        sh(f"e2fsck -fn {far.export.file}")
        w = FileWriter(b, m)
        w.blocked()
        ctl("freeze", DISK_DRIVE, "--fs", "--holder", "b", status=1,
            words="frozen by admin.*file systems cannot be any more")
        # Another holder: they stay frozen as long as the drive does.
        ctl("freeze", DISK_DRIVE, "--holder", "b")
        ctl("thaw", DISK_DRIVE, words="stays frozen by b")
        w.blocked()
        ctl("thaw", DISK_DRIVE, "--holder", "b", words="is thawed")
        assert not os.path.exists(RECORD), "thaw did not wait for the file systems"
        w.good()
        no_keeper()
    same(query(b)["stats"]["errors"], errors, "errors")


def by_its_limit(b):
    """Never before the drive, which another holder may keep frozen for longer."""
    Far(b, "fslimit", size=16 * MIB, prepare=mkfs)
    with mounted(b) as m:
        ctl("freeze", DISK_DRIVE, "--fs", "--timeout", "10")
        w = FileWriter(b, m)
        w.good()
        no_keeper()
        thawed(b)
        ctl("freeze", DISK_DRIVE, "--fs", "--timeout", "10")
        ctl("freeze", DISK_DRIVE, "--holder", "b", "--timeout", "0")
        w = FileWriter(b, m, "second")
        until(lambda: holders(b) == ["b"], "the limit has come")
        w.blocked()
        same(query(b)["held"], 0, "requests of a file system that was thawed first")
        ctl("thaw", DISK_DRIVE, "--holder", "b", words="is thawed")
        w.good()
        no_keeper()


def by_an_eject(b):
    Far(b, "fseject", size=16 * MIB, prepare=mkfs)
    with mounted(b, options="ro") as m:
        ctl("freeze", DISK_DRIVE, "--fs")
        assert not os.path.exists(RECORD), "a read-only file system was frozen"
        ctl("thaw", DISK_DRIVE)
        sh(f"mount -o remount,rw {m}")
        ctl("freeze", DISK_DRIVE, "--fs")
        b.q.do("eject", id=DISK_DRIVE, force=True)
        ctl("thaw", DISK_DRIVE)
        no_keeper()


def a_far_end_that_hangs(b):
    far = Far(b, "fshangs", size=16 * MIB, prepare=mkfs)
    with mounted(b) as m:
        sh(f"echo y >{m}/dirty")
        far.stop()
        ctl("freeze", DISK_DRIVE, "--fs", "--timeout", "2", status=4,
            words="could not be frozen in time: it waits for the drive")
        same(holders(b), [], "holders")
        far.go_on()
        writes(b, m)
        no_keeper()


def the_drive_cannot_be(b):
    """File systems are frozen, and then one of two drives is not: neither is in the end."""
    name = b.q.do("spicebd-drive-add", personality="disk")["drive"]
    other = Far(b, "fssecond", drive=name)
    far = Far(b, "fsfirst", size=16 * MIB, prepare=mkfs)
    sh("udevadm settle")
    until(lambda: not query(b, name)["openers"], "nobody uses the second")
    errors = query(b)["stats"]["errors"]
    with mounted(b) as m:
        writes(b, m, "before")
        other.stop()
        p = b.spawn("spicebdctl", "freeze", DISK_DRIVE, name, "--fs", "--timeout", "30",
                    stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        try:
            until(lambda: holders(b) and holders(b, name), "both are being frozen")
            assert clean(far), "the file system was not frozen before the drives"
            w = FileWriter(b, m)
            w.blocked()
            # Who keeps the first drive frozen, whatever becomes of both.
            b.q.do("spicebd-freeze", drive=DISK_DRIVE, holder="b", timeout=0)
            err = p.communicate(timeout=2 * PATIENCE)[1]
        finally:
            other.go_on()
        assert p.returncode and f"{name}: not frozen: the limit came first" in err, err
        until(lambda: holders(b) == ["b"], "the first one is held by another alone")
        w.blocked()
        same(query(b)["held"], 0, "requests of a file system that was thawed first")
        b.q.do("spicebd-thaw", drive=DISK_DRIVE, holder="b")
        w.good()
        no_keeper()
        thawed(b, DISK_DRIVE, name)
    same(query(b)["stats"]["errors"], errors, "errors")
    b.q.do("spicebd-drive-del", drive=name, force=True)
    until(lambda: not os.path.exists(f"/sys/block/{name}"), "it is deleted")


def the_flush_fails(b):
    """Of a second drive, at once."""
    name = b.q.do("spicebd-drive-add", personality="disk")["drive"]
    Far(b, "fssynced", size=16 * MIB, prepare=mkfs)
    other = Unsynced(b, "fsunsynced", drive=name)
    with mounted(b) as m:
        writes(b, m, "before")
        Writer(b, node=f"/dev/{name}").good()
        other.fail(True)
        ctl("freeze", DISK_DRIVE, name, "--fs", status=1,
            words=f"{name}: not frozen: the flush failed")
        thawed(b, DISK_DRIVE, name)
        writes(b, m)
        no_keeper()
    b.q.do("spicebd-drive-del", drive=name, force=True)
    until(lambda: not os.path.exists(f"/sys/block/{name}"), "it is deleted")


def spicebdctl_killed(b):
    """Its file systems are frozen, the drive is not yet."""
    Far(b, "fsrefused", size=16 * MIB, prepare=mkfs)
    with mounted(b) as m:
        daemon = int(sh("pgrep -x spicebdd"))
        os.kill(daemon, signal.SIGSTOP)
        try:
            p = b.spawn("spicebdctl", "freeze", DISK_DRIVE, "--fs",
                        stderr=subprocess.DEVNULL)
            until(lambda: os.path.exists(RECORD) and os.path.getsize(RECORD), "its file systems are being frozen")
            p.kill()
            p.wait(PATIENCE)
        finally:
            os.kill(daemon, signal.SIGCONT)
        writes(b, m)
        no_keeper()
        until(lambda: not holders(b), "nobody holds it")
        thawed(b)


def keeper_ended_politely(b):
    Far(b, "fsterm", size=16 * MIB, prepare=mkfs)
    with mounted(b) as m:
        ctl("freeze", DISK_DRIVE, "--fs", "--timeout", "0")
        os.kill(keeper(), signal.SIGTERM)
        writes(b, m)
        no_keeper()
        thawed(b)


def keeper_killed(b):
    Far(b, "fskill", size=16 * MIB, prepare=mkfs)
    with mounted(b) as m:
        ctl("freeze", DISK_DRIVE, "--fs", "--timeout", "0")
        os.kill(keeper(), signal.SIGKILL)
        w = FileWriter(b, m)
        w.blocked()
        ctl("thaw", DISK_DRIVE, words="is thawed")
        w.good()
        no_keeper()
        # By its limit, and nobody is there to thaw them: the next freeze does.
        ctl("freeze", DISK_DRIVE, "--fs", "--timeout", "10")
        os.kill(keeper(), signal.SIGKILL)
        until(lambda: not holders(b), "the limit has come")
        w = FileWriter(b, m, "second")
        w.blocked()
        ctl("freeze", DISK_DRIVE, "--fs")
        ctl("thaw", DISK_DRIVE)
        w.good()
        no_keeper()


def partition(path):
    sh(f"printf 'label: dos\\nstart=1MiB,size=15MiB\\nstart=16MiB\\n' | sfdisk -q {path}")


def nested_and_in_other_namespaces(b):
    Far(b, "fsnested", size=32 * MIB, prepare=partition)
    for i in (1, 2):
        until(lambda i=i: os.path.exists(f"{NODE}p{i}"), f"partition {i}")
        mkfs(f"{NODE}p{i}")
    with mounted(b, f"{NODE}p1", "outer") as outer, \
            mounted(b, f"{NODE}p2", "outer/inner") as inner:
        ctl("freeze", DISK_DRIVE, "--fs")
        ws = [FileWriter(b, outer), FileWriter(b, inner)]
        for w in ws:
            w.blocked()
        ctl("thaw", DISK_DRIVE)
        for w in ws:
            w.good()
    p = b.spawn("unshare", "-m", "sh", "-c", f"mount {NODE}p1 /mnt && echo up && exec cat",
                stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    same(p.stdout.readline(), b"up\n", "mounted there")
    os.listdir(f"/proc/{p.pid}/root/mnt")
    ctl("freeze", DISK_DRIVE, "--fs")
    w = FileWriter(b, f"/proc/{p.pid}/root/mnt", "elsewhere")
    w.blocked()
    ctl("thaw", DISK_DRIVE)
    w.good()
    p.stdin.close()
    p.wait(PATIENCE)


def stacked_is_refused(b):
    Far(b, "fsstacked", size=16 * MIB, prepare=lambda path: sh(
        f"printf 'label: dos\\nstart=1MiB\\n' | sfdisk -q {path}"))
    until(lambda: os.path.exists(f"{NODE}p1"), "the partition")
    for below in f"{NODE}p1", NODE:
        sectors = int(sh(f"blockdev --getsz {below}"))
        sh(f"dmsetup create stacked --table '0 {sectors} linear {below} 0'")
        try:
            ctl("freeze", DISK_DRIVE, "--fs", status=1,
                words=r"dm-\d+ \(device mapper stacked\) is stacked on it")
            thawed(b)
            ctl("freeze", DISK_DRIVE)
            ctl("thaw", DISK_DRIVE)
        finally:
            sh("udevadm settle; dmsetup remove --retry stacked")
    sh(f"wipefs -qa {NODE}; udevadm settle")
    mkfs(NODE)
    with mounted(b) as m:
        sh(f"truncate -s 1M {m}/img")
        loop = sh(f"losetup -f --show {m}/img").strip()
        try:
            ctl("freeze", DISK_DRIVE, "--fs", status=1, words=os.path.basename(loop))
        finally:
            sh(f"losetup -d {loop}")


def what_cannot_be_frozen(b):
    Far(b, "vfat", size=16 * MIB, prepare=lambda p: sh(f"mkfs.vfat {p} >/dev/null"))
    with mounted(b) as m:
        ctl("freeze", DISK_DRIVE, "--fs", status=1, words="vfat, mounted on .*/m, cannot be frozen")
        thawed(b)
        no_keeper()
        writes(b, m)
    b.drives["disk"].empty()
    Far(b, "busy", size=16 * MIB, prepare=mkfs)
    with mounted(b) as m:
        sh(f"fsfreeze -f {m}")
        ctl("freeze", DISK_DRIVE, "--fs", status=1, words="frozen already, by something else")
        sh(f"fsfreeze -u {m}")
        no_keeper()
        writes(b, m)


table = Table()
for fn in (frozen_first_thawed_last, by_its_limit, by_an_eject, a_far_end_that_hangs,
           the_drive_cannot_be, the_flush_fails, spicebdctl_killed, keeper_ended_politely,
           keeper_killed, nested_and_in_other_namespaces, stacked_is_refused,
           what_cannot_be_frozen):
    table.add(fn.__name__.replace("_", " "), fn)

if __name__ == "__main__":
    table.main(Bench)
