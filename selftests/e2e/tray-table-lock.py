#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-only
# timeout: 900
"""Verbs on a drive that is held: with force and without, over QMP and by
spicebdctl. --list names the rows. What holds it:

  opened    somebody opened it for data; a cdrom's door is then locked, too
  lockdoor  CDROM_LOCKDOOR, and nobody has it open (cdrom)
  admin     spicebd-lock
"""
import contextlib
import fcntl
import os

from traylib import CDROM, CDROM_LOCKDOOR, DISK, Bench, Table, same, until
from trayrows import IS_OPEN, ByCtl, ByDevice

OPENED, LOCKDOOR, ADMIN = "opened", "lockdoor", "admin"
HELD = "is locked|busy"


def ctl_of(c):
    return isinstance(c.hand, ByCtl)


class Held:
    """A drive with a medium, and what holds it."""

    def __init__(self, bench, personality, kind, hand):
        self.bench, self.q = bench, bench.q
        self.drive = bench.drives[personality]
        self.kind, self.hand = kind, hand(bench, self.drive)
        if "lock" not in bench.made:
            bench.made["lock"] = bench.image("old"), bench.image("new")
        self.old, self.new = bench.made["lock"]
        self.tray = self.drive.has_tray
        self.fd = -1

    # (the user's door lock, the administrator's) while it is held
    def locks(self):
        return {OPENED: (self.tray, False), LOCKDOOR: (True, False),
                ADMIN: (False, True)}[self.kind]

    def begin(self):
        self.q.cmd("spicebd-unlock", drive=self.drive.name, force=True)
        self.drive.empty_all()
        self.hand.fill(self.old)
        self.drive.settle()
        self.drive.forget()

    def lockdoor(self, lock):
        fd = os.open(self.drive.node, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            fcntl.ioctl(fd, CDROM_LOCKDOOR, lock)
        finally:
            os.close(fd)

    def hold(self):
        if self.kind == OPENED:
            self.fd = os.open(self.drive.node, os.O_RDONLY | os.O_CLOEXEC)
        elif self.kind == LOCKDOOR:
            self.lockdoor(1)
        elif ctl_of(self):
            self.hand.run("lock", self.drive.name).good()
        else:
            self.q.do("spicebd-lock", drive=self.drive.name)
        self.drive.events(lock=[self.locks()] if any(self.locks()) else [])
        self.is_held()

    def is_held(self):
        q = self.drive.query()
        same((q["locked"], q["locked-by-admin"]), self.locks(), "locked, locked-by-admin")
        same(self.drive.block()["locked"], any(self.locks()), "query-block: locked")

    def release(self):
        if self.kind == OPENED:
            if self.fd >= 0:
                os.close(self.fd)
                self.fd = -1
        elif self.kind == LOCKDOOR:
            self.lockdoor(0)
        elif ctl_of(self):
            self.hand.run("unlock", self.drive.name).good()
        else:
            self.q.do("spicebd-unlock", drive=self.drive.name)

    def end(self):
        if self.fd >= 0:
            os.close(self.fd)
        if self.tray:
            self.lockdoor(0)
        self.q.cmd("spicebd-unlock", drive=self.drive.name, force=True)

    def refused(self, answer):
        """Whoever holds it was asked once, and the medium is still there."""
        answer.bad(HELD, self.hand.refused)
        self.drive.events(request=1)
        self.unmoved()

    def unmoved(self):
        self.drive.holds("closed", self.old)
        self.is_held()

    def asked_by_force(self):
        """A lock's owner is told even so; a mere opener of a disk is not."""
        return int(any(self.locks()))


def open_tray(c):
    """As with QEMU the asker waits for the tray's event; spicebdctl does that."""
    if c.tray:
        answer = c.hand.open()
        if ctl_of(c):
            answer.bad(HELD, c.hand.refused)
        else:
            answer.good()
        c.drive.events(request=1)
    else:
        c.hand.open().good()
        c.drive.events()
    c.unmoved()


def open_tray_by_force(c):
    c.hand.open(force=True).good()
    if not c.tray:
        c.drive.events()
        c.unmoved()
        return
    c.drive.events(["open"], [None], request=1)
    c.drive.holds("open", c.old)
    c.is_held()


def eject(c):
    c.refused(c.hand.eject())


def eject_by_force(c):
    c.hand.eject(force=True).good()
    c.drive.events(["open"], [None], request=c.asked_by_force())
    c.is_held()
    same(c.drive.query()["stale"], c.kind == OPENED, "stale")
    same("inserted" in c.drive.block(), False, "query-block: inserted")


def change(c):
    c.refused(c.hand.change(c.new))


def change_by_force(c):
    """An old opener must not meet the new medium: the node is made anew."""
    c.hand.change(c.new, force=True).good()
    if c.kind == OPENED:
        until(lambda: c.drive.query()["state"] == "ready", "the new medium is ready")
        c.drive.holds("closed", c.new)
        try:
            data = os.pread(c.fd, 512, 0)
        except OSError:
            data = b""
        assert c.new.label.encode() not in data, "an old opener reads the new medium"
        return
    c.drive.events(["open", "closed"], [None, c.new.name], request=c.asked_by_force())
    c.drive.holds("closed", c.new)
    c.is_held()


def remove(c):
    answer = c.hand.remove()
    if not c.tray:
        c.refused(answer)
        return
    answer.bad(IS_OPEN, c.hand.refused)
    c.drive.events()
    c.unmoved()


def remove_by_force(c):
    """A closed tray is closed for force, too."""
    answer = c.hand.remove(force=True)
    if c.tray:
        answer.bad(IS_OPEN, c.hand.refused)
        c.drive.events()
        c.unmoved()
        return
    answer.good()
    c.drive.events([], [None], request=c.asked_by_force())
    same(c.drive.query()["stale"], c.kind == OPENED, "stale")


def let_go(c):
    """When it is released, the verb without force goes."""
    c.release()
    c.drive.events(lock=[(False, False)] if any(c.locks()) else [])
    c.drive.settle()
    c.hand.eject().good()
    c.drive.events(["open"], [None])
    c.drive.holds("open", None)


def unlock_by_force(c):
    """The administrator opens any lock; then the verb without force goes."""
    if ctl_of(c):
        c.hand.run("unlock", c.drive.name, "--force").good()
    else:
        c.q.do("spicebd-unlock", drive=c.drive.name, force=True)
    c.drive.events(lock=[(False, False)])
    c.hand.eject().good()
    c.drive.events(["open"], [None])
    c.drive.holds("open", None)


def unlock_without_force(c):
    """... but without force only his own."""
    if ctl_of(c):
        c.hand.run("unlock", c.drive.name)
    else:
        c.q.do("spicebd-unlock", drive=c.drive.name)
    c.drive.events()
    c.unmoved()


def fill_when_locked(c):
    """The administrator's lock keeps an empty drive empty, but for force."""
    c.release()
    c.drive.empty()
    c.drive.forget()
    c.hold()
    if c.tray:
        c.hand.change(c.new).bad(HELD, c.hand.refused)
        c.drive.events(request=1)
        c.drive.holds("closed", None)
        c.hand.change(c.new, force=True).good()
        c.drive.events(["open", "closed"], [c.new.name], request=1)
    else:
        # A slot has no door: the lock keeps a medium in, not out.
        c.hand.change(c.new).good()
        c.drive.events([], [c.new.name])
    c.drive.holds("closed", c.new)


def run_row(bench, fn, personality, kind, hand):
    c = Held(bench, personality, kind, hand)
    with contextlib.ExitStack() as stack:
        stack.callback(c.end)
        c.begin()
        c.hold()
        fn(c)


ALWAYS = (open_tray, open_tray_by_force, eject, eject_by_force, change, change_by_force,
          remove, remove_by_force, let_go)
table = Table()
for p, kinds in ((CDROM, (OPENED, LOCKDOOR, ADMIN)), (DISK, (OPENED, ADMIN))):
    for k in kinds:
        for way, h in (("qmp", ByDevice), ("ctl", ByCtl)):
            more = {OPENED: (), LOCKDOOR: (unlock_without_force, unlock_by_force),
                    ADMIN: (unlock_by_force, fill_when_locked)}[k]
            for row in ALWAYS + more:
                table.add(f"{p} {k} {way}: {row.__name__}", run_row, row, p, k, h)

if __name__ == "__main__":
    table.main(Bench)
