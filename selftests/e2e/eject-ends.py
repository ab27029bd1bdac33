#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-only
# timeout: 1500
"""Who takes a medium out, and from where: spicebdctl, QMP, the ioctl, eject(1),
spicebd-share's commands, its Ctrl-C, its death; for both personalities; unused,
mounted, locked, by force. What each side is told, how long it takes, and that
other media notice nothing. Then the rule of the stale drive, to its end."""
import contextlib
import fcntl
import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time

from traylib import CDROM, CDROM_LOCKDOOR, DISK, Qmp, Table, same, sh, until

CDROMEJECT = 0x5309
FORCE_S = 1.0
LEAVE_S = 5.0
RECONNECT = 3


class Refused(Exception):
    """Words of whoever refused."""


def ctl(*args):
    p = subprocess.run(["spicebdctl", *map(str, args)], capture_output=True, text=True,
                       timeout=60, check=False)
    if p.returncode:
        lines = p.stderr.strip().splitlines()
        same(len(lines), 1, f"lines on stderr of {args}: {p.stderr}")
        raise Refused(lines[0])
    return p.stdout


def timed(fn, *args):
    began = time.monotonic()
    fn(*args)
    return time.monotonic() - began


class Share:
    """spicebd-share with its commands; events are kept, and waited for."""

    def __init__(self, uri, *paths):
        self.events, self.cond, self.over = [], threading.Condition(), False
        self.p = subprocess.Popen(
            ["spicebd-share", "--uri", uri, "--wait", "--json", "--commands", "--read-write",
             *paths], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self):
        for line in self.p.stdout:
            with self.cond:
                self.events.append(json.loads(line))
                self.cond.notify_all()
        with self.cond:
            self.over = True
            self.cond.notify_all()

    def mark(self):
        return len(self.events)

    def wait(self, since, name, seconds=40, **match):
        def find():
            return next((e for e in self.events[since:] if e["event"] == name and
                         all(e.get(k) == v for k, v in match.items())), None)
        with self.cond:
            self.cond.wait_for(lambda: find() or self.over, seconds)
            e = find()
            assert e, f"no {name} {match} of the share: {self.events[since:]}"
            return e

    def ask(self, line):
        """A command's answer; its refusal is raised."""
        since = self.mark()
        self.p.stdin.write(line.encode() + b"\n")
        self.p.stdin.flush()
        e = self.wait(since, "answer")
        if e["result"] != "done":
            raise Refused(f"{e['result']}: {e.get('text')}")

    def kill(self):
        self.p.kill()
        self.p.wait(20)


class Reader:
    """Reads a medium that nothing here concerns, all the time."""

    def __init__(self, path, want):
        self.path, self.want, self.rounds, self.wrong = path, want, 0, None
        self.end = threading.Event()
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def _run(self):
        try:
            while not self.end.is_set():
                fd = os.open(self.path, os.O_RDONLY)
                os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
                with open(fd, "rb") as f:
                    if hashlib.md5(f.read()).hexdigest() != self.want:
                        self.wrong = "other content"
                self.rounds += 1
                self.end.wait(0.3)
        except OSError as e:
            self.wrong = str(e)

    def stop(self):
        self.end.set()
        self.thread.join(30)


def md5(path):
    with open(path, "rb") as f:
        return hashlib.md5(f.read()).hexdigest()


def random_file(path, size):
    with open(path, "wb") as f:
        f.write(os.urandom(size))
    return path


class Bench:
    """Two drives that give up a lost far end after 3 s, two that are left alone."""

    def __enter__(self):
        self.dir = tempfile.mkdtemp()
        self.mnt = f"{self.dir}/mnt"
        os.mkdir(self.mnt)
        self.qmp = Qmp()
        self.share = None
        self.media()
        self.uri = f"spice+unix://{self.dir}/spice"
        ctl("listen", "ends", f"unix:{self.dir}/spice")
        self.drive = {p: json.loads(ctl("add", p, "--reconnect-timeout", RECONNECT,
                                        "--json"))["drive"] for p in (CDROM, DISK)}
        ctl("insert", "spicebd1", f"{self.dir}/left.img")
        self.left = self.status("spicebd1")["generation"]
        self.reader = Reader("/dev/spicebd1", md5(f"{self.dir}/left.img"))
        return self

    def media(self):
        tree = f"{self.dir}/tree"
        os.mkdir(tree)
        random_file(f"{tree}/data", 1 << 20)
        for n in ("a", "b", "left"):
            sh(f"genisoimage -quiet -r -V {n.upper()} -o {self.dir}/{n}.iso {tree}")
            with open(f"{self.dir}/{n}.img", "wb") as f:
                f.truncate(8 << 20)
            sh(f"mke2fs -q -F -t ext4 -d {tree} {self.dir}/{n}.img")

    def __exit__(self, *exc):
        self.reader.stop()
        sh(f"umount -A {self.mnt}", check=False)
        for d in (*self.drive.values(), "spicebd0", "spicebd1"):
            sh(f"spicebdctl eject {d} --force", check=False)
        if self.share:
            self.share.kill()
        sh("spicebdctl unlisten ends", check=False)
        shutil.rmtree(self.dir)

    def story(self):
        return [f"share: {e}" for e in (self.share.events[-12:] if self.share else [])] + \
            sh("spicebdctl list", check=False).splitlines() + \
            sh("dmesg | tail -n 5", check=False).splitlines()

    def quick(self, fn, *args):
        """Takes less than a second, not counting what starting a program, and its
        talk with two others, takes in this emulated machine at this time."""
        usual = timed(ctl, "status", "spicebd1")
        took = timed(fn, *args)
        usual = max(usual, timed(ctl, "status", "spicebd1"))
        print(f"# {took * 1000:.0f} ms; a program that only asks takes {usual * 1000:.0f} ms")
        assert took - 2 * usual < FORCE_S, "too long"

    # state

    def status(self, drive):
        return json.loads(ctl("status", drive, "--json"))

    def name(self, pers):
        m = self.status(self.drive[pers])["medium"]
        # While it goes the kernel may still have one that spicebdd knows no more.
        return m and m.get("name", "?")

    def dev(self, pers):
        return f"/dev/{self.drive[pers]}"

    def running(self):
        """A share that offers all, with one of its media in a drive not concerned."""
        if self.share and self.share.p.poll() is None:
            return self.share
        if self.share:      # the drive that was left alone waits 60 s for a killed one
            ctl("eject", "spicebd0", "--force")
        self.share = Share(self.uri, *(f"{self.dir}/{n}" for n in
                                       ("a.iso", "a.img", "b.iso", "b.img", "left.iso")))
        until(lambda: "left.iso" in ctl("media"), "the share's offers")
        ctl("insert", "spicebd0", "spice:left.iso")
        self.kept = self.status("spicebd0")["generation"]
        return self.share

    def fill(self, pers):
        """Our medium is in the drive, and nobody uses it."""
        share = self.running()
        d, want = self.drive[pers], "a.iso" if pers == CDROM else "a.img"
        names = ctl("media")
        if want not in names:
            share.ask(f"add {self.dir}/{want}")
            until(lambda: want in ctl("media"), "the medium is offered again")
        if self.name(pers) != want:
            ctl("insert", d, f"spice:{want}", "--force",
                *(["--read-write"] if pers == DISK else []))
        self.idle(pers)
        return d

    def idle(self, pers):
        sh("udevadm settle --timeout 60")
        until(lambda: self.status(self.drive[pers])["openers"] == 0, "udev's probes have ended")

    @contextlib.contextmanager
    def used(self, pers, how):
        """The drive in a situation; out of it at the end, however that comes."""
        fd = os.open(self.dev(pers), os.O_RDONLY | os.O_NONBLOCK)
        try:
            if how == "mounted":
                sh(f"mount {self.dev(pers)} {self.mnt}")
            elif how == "door locked":
                fcntl.ioctl(fd, CDROM_LOCKDOOR, 1)
            elif how == "locked":
                ctl("lock", self.drive[pers])
            os.close(fd)
            fd = -1
            yield
        finally:
            if fd >= 0:
                os.close(fd)
            if how == "mounted":
                sh(f"umount {self.mnt}", check=False)
            elif how == "door locked":
                self.unlock_door(pers)
            elif how == "locked":
                ctl("unlock", self.drive[pers])

    def unlock_door(self, pers):
        fd = os.open(self.dev(pers), os.O_RDONLY | os.O_NONBLOCK)
        with contextlib.suppress(OSError):
            fcntl.ioctl(fd, CDROM_LOCKDOOR, 0)
        os.close(fd)

    # what must hold after every row

    def undisturbed(self):
        same(self.reader.wrong, None, "the reader of another medium")
        same(self.status("spicebd1")["generation"], self.left, "another source's medium")
        if self.share and self.share.p.poll() is None:
            same(self.status("spicebd0")["generation"], self.kept, "the share's other medium")
            same(self.status("spicebd0")["medium"]["name"], "left.iso", "the share's other medium")

    def stays(self, pers, name):
        same(self.name(pers), name, "the medium in the drive")

    def out(self, pers):
        until(lambda: self.name(pers) is None, "the drive is empty")


# The ends: each takes the medium out, or raises the words of the refusal.


def by_ctl(b, pers, force):
    ctl("eject", b.drive[pers], *(["--force"] if force else []))


def by_qmp(b, pers, force):
    a = b.qmp.cmd("eject", device=b.drive[pers], force=force)
    if a.cls:
        raise Refused(a.desc)


def by_ioctl(b, pers, force):
    fd = os.open(b.dev(pers), os.O_RDONLY | os.O_NONBLOCK)
    try:
        fcntl.ioctl(fd, CDROMEJECT)
    except OSError as e:
        raise Refused(os.strerror(e.errno)) from None
    finally:
        os.close(fd)


def by_program(b, pers, force):
    p = subprocess.run(["eject", b.dev(pers)], capture_output=True, text=True, timeout=60,
                       check=False)
    if p.returncode:
        raise Refused(p.stderr.strip())


def by_share(b, pers, force):
    b.share.ask(f"eject {b.name(pers)}" + (" --force" if force else ""))


ENDS = {"spicebdctl": by_ctl, "QMP": by_qmp, "CDROMEJECT": by_ioctl, "eject(1)": by_program,
        "the share's eject": by_share}

# What the asker reads, by end and situation. "door locked" is what a program at
# the drive does (CDROM_LOCKDOOR), "locked" what its administrator does.
WORDS = {
    ("spicebdctl", "door locked"): r"busy: .*locked",
    ("QMP", "door locked"): r"locked",
    ("CDROMEJECT", "door locked"): r"busy|in progress",
    ("the share's eject", "door locked"): r"busy: drive \d+: .*locked",
    ("spicebdctl", "mounted"): r"busy: mounted on \S*/mnt",
    ("spicebdctl", "locked"): r"is locked; .*spicebdctl unlock",
    ("QMP", "mounted"): r"busy|locked",
    ("QMP", "locked"): r"locked",
    ("CDROMEJECT", "mounted"): r"busy",
    ("CDROMEJECT", "locked"): r"busy|in progress",
    ("eject(1)", "locked"): r"eject",
    ("the share's eject", "mounted"): r"busy: drive \d+: mounted on \S*/mnt",
    ("the share's eject", "locked"): r"busy: drive \d+: .*locked",
}


def refused(words, fn, *args):
    try:
        fn(*args)
    except Refused as e:
        assert re.search(words, str(e), re.I), f"refused by other words: {e}; not {words}"
        return str(e)
    raise AssertionError("it was not refused")


def unused(b, pers, end):
    b.fill(pers)
    since = b.share.mark()
    ENDS[end](b, pers, False)
    b.out(pers)
    b.share.wait(since, "ejected", drive=int(b.drive[pers][7:]))
    b.undisturbed()


def in_use(b, pers, end, how):
    b.fill(pers)
    name = b.name(pers)
    with b.used(pers, how):
        text = refused(WORDS[end, how], ENDS[end], b, pers, False)
        print(f"# {text}")
        b.stays(pers, name)
        if how == "mounted":
            sh(f"md5sum {b.mnt}/data")
    b.stays(pers, name)
    b.undisturbed()


def forced(b, pers, end, how):
    b.fill(pers)
    since = b.share.mark()
    with b.used(pers, how):
        b.quick(ENDS[end], b, pers, True)
        same(b.name(pers), None, "the medium, when the answer has come")
        b.share.wait(since, "ejected", drive=int(b.drive[pers][7:]))
    b.undisturbed()


def program_unmounts(b, pers):
    b.fill(pers)
    with b.used(pers, "mounted"):
        by_program(b, pers, False)
        assert not os.path.ismount(b.mnt), "still mounted"
        b.out(pers)
    b.undisturbed()


def opens_door(b):
    b.fill(CDROM)
    with b.used(CDROM, "door locked"):
        by_program(b, CDROM, False)
        b.out(CDROM)
    b.undisturbed()


def named(b, pers):
    d = b.fill(pers)
    fd = os.open(b.dev(pers), os.O_RDONLY)
    try:
        with b.used(pers, "mounted"):
            text = refused("busy", by_ctl, b, pers, False)
        want = rf"^spicebdctl: {d} is busy: mounted on {b.mnt}; open by PID .*\b{os.getpid()} \(\S+\).*; " \
            r"--force ejects it all the same"
        assert re.search(want, text), text
        text = refused("busy", by_share, b, pers, False)
        assert re.search(r"open by \d+ program|open by PID \d+", text), text
    finally:
        os.close(fd)
    b.undisturbed()


# Another medium in its place


def change(b, pers, how):
    b.fill(pers)
    old = b.name(pers)
    ext = old[1:]
    new = f"new{ext}"
    shutil.copy(f"{b.dir}/b{ext}", f"{b.dir}/{new}")
    with b.used(pers, how):
        line = f"change {old} {b.dir}/{new}"
        if how == "unused":
            before = b.status(b.drive[pers])["generation"]
            b.share.ask(line)
            b.stays(pers, new)
            assert b.status(b.drive[pers])["generation"] > before, "the generation"
            until(lambda: old not in ctl("media").split(), "the old one is offered no more")
        else:
            text = refused(r"mounted on|locked", b.share.ask, line)
            print(f"# {text}")
            b.stays(pers, old)
            until(lambda: new not in ctl("media").split(), "the new one is offered no more")
    b.undisturbed()
    if how == "unused":
        b.share.ask(f"remove {new}")
        b.out(pers)


# The share ends


def ctrl_c(b, pers, how, twice=False):
    b.fill(pers)
    share = b.share
    with b.used(pers, how):
        since, began = share.mark(), time.monotonic()
        share.p.send_signal(signal.SIGINT)
        share.wait(since, "leaving")
        if twice:
            share.p.send_signal(signal.SIGINT)
        same(share.p.wait(40), 0, "its exit status")
        took = time.monotonic() - began
        print(f"# it ended after {took:.1f} s")
        if how == "mounted" and not twice:
            assert took > LEAVE_S - 0.5, "it did not wait"
            share.wait(since, "busy")
            share.wait(since, "not-ejected")
        assert took < (LEAVE_S + 5 if how == "mounted" and not twice else LEAVE_S), "too long"
        until(lambda: b.name(pers) is None, "the drive is empty", seconds=LEAVE_S)
        if how == "mounted":
            s = b.status(b.drive[pers])
            assert "ended" in s.get("reason", ""), f"the reason: {s}"
    b.undisturbed()


def killed(b, pers, how):
    b.fill(pers)
    with b.used(pers, how):
        began = time.monotonic()
        b.share.kill()
        until(lambda: b.status(b.drive[pers])["state"] == "reconnecting", "it is waited for")
        until(lambda: b.name(pers) is None, "it is given up")
        took = time.monotonic() - began
        print(f"# given up after {took:.1f} s")
        assert took > RECONNECT - 1.5, "it was not waited for"
        assert took < RECONNECT + 20, "too long"
    b.undisturbed()


# A forced eject under a mounted, written partition


def stale(b):
    first, second = f"{b.dir}/first.img", f"{b.dir}/second.img"
    with open(first, "wb") as f:
        f.truncate(16 << 20)
    sh(f"echo 2048,,L | sfdisk -q {first}")
    sh(f"mke2fs -q -F -t ext4 -E offset=1048576 {first} 15M")
    random_file(second, 16 << 20)
    sum_second = md5(second)
    share, d = b.running(), b.drive[DISK]
    with contextlib.suppress(Refused):
        ctl("eject", d, "--force")
    share.ask(f"add {first}")
    share.ask(f"add {second}")
    until(lambda: "second.img" in ctl("media"), "the offers")
    ctl("insert", d, "spice:first.img", "--read-write")
    part = f"/dev/{d}p1"
    until(lambda: os.path.exists(part), "the partition")
    sh(f"mount {part} {b.mnt}")
    try:
        with open(f"{b.mnt}/dirty", "wb") as f:
            f.write(os.urandom(4 << 20))
        b.quick(ctl, "eject", d, "--force")
        same(b.status(d)["stale"], True, "stale")
        text = refused(r"old medium.* still .*mounted on", ctl, "insert", d, "spice:second.img",
                       "--read-write")
        print(f"# {text}")
        ctl("insert", d, "spice:second.img", "--read-write", "--force")
        same(b.name(DISK), "second.img", "the second medium")
        same(b.status(d)["stale"], False, "stale")
        same(md5(f"/dev/{d}"), sum_second, "the second medium, read")
    finally:
        sh("sync")
        sh(f"umount {b.mnt}", check=False)
    sh("sync")
    sh(f"blockdev --flushbufs /dev/{d}")
    same(md5(f"/dev/{d}"), sum_second, "the second medium, read again")
    b.idle(DISK)
    ctl("eject", d)
    same(md5(second), sum_second, "the second medium's file")
    b.undisturbed()


def reader_worked(b):
    b.reader.stop()
    same(b.reader.wrong, None, "the reader")
    assert b.reader.rounds > 10, f"{b.reader.rounds} rounds"
    same(b.status("spicebd1")["stats"]["errors"], 0, "errors of the medium left alone")


HOW = {CDROM: ("mounted", "door locked", "locked"), DISK: ("mounted", "locked")}


def main():
    t = Table()
    t.add("cdrom: eject(1), door locked: opens it, as that of any drive", opens_door)
    for pers in (CDROM, DISK):
        for end in ENDS:
            t.add(f"{pers}: {end}, unused", unused, pers, end)
            for how in HOW[pers]:
                if (end, how) in WORDS:
                    t.add(f"{pers}: {end}, {how}: refused", in_use, pers, end, how)
        t.add(f"{pers}: eject(1), mounted: unmounts first", program_unmounts, pers)
        t.add(f"{pers}: a refusal names mount and program", named, pers)
        for end in ("spicebdctl", "QMP", "the share's eject"):
            for how in HOW[pers]:
                t.add(f"{pers}: {end}, {how}, by force: within a second", forced, pers, end, how)
        for how in ("unused", *HOW[pers]):
            t.add(f"{pers}: the share's change, {how}", change, pers, how)
        t.add(f"{pers}: the share's Ctrl-C, unused", ctrl_c, pers, "unused")
        t.add(f"{pers}: the share's Ctrl-C, mounted: waits 5 s and leaves", ctrl_c, pers, "mounted")
        t.add(f"{pers}: a second Ctrl-C leaves at once", ctrl_c, pers, "mounted", True)
        t.add(f"{pers}: the share is killed, unused", killed, pers, "unused")
        t.add(f"{pers}: the share is killed, mounted", killed, pers, "mounted")
    t.add("disk: a stale drive never writes into the next medium", stale)
    t.add("the medium that was left alone was read all the time", reader_worked)
    t.main(Bench)


if __name__ == "__main__":
    sys.exit(main())
