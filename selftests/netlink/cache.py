#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-only
#
# A cdrom that somebody watches (O_NONBLOCK) over a change of medium, with pages
# of the old medium cached, mapped and referenced: never are they shown as the
# new medium's, nor at all while the drive is empty.
import errno
import fcntl
import mmap
import os

from helper import (S_READY, S_STALE, TRAY_CLOSE, TRAY_OPEN, Helper,
                    wait_until)
from tap import module, run, same, settle

SIZE = 2 << 20
WINDOW = 256 << 10
CDROMEJECT, CDROMCLOSETRAY = 0x5309, 0x5319


def content(letter):
    return letter * SIZE


def filled(letter=b"A"):
    h = Helper(0, SIZE)
    h.store.write(0, content(letter))
    h.insert()
    h.idle()
    return h


class Pages:
    """An open file of the drive with pages cached, mapped and in a pipe."""

    def __init__(self, flags):
        self.fd = os.open("/dev/spicebd0", os.O_RDONLY | flags)
        self.map = mmap.mmap(self.fd, SIZE, mmap.MAP_SHARED, mmap.PROT_READ)
        self.pipe = os.pipe()
        self.copy = os.pipe()

    def mapped(self, offset, length=1):
        """What is mapped, or EFAULT. By way of a system call: an access of our
        own would stop the thread that serves the drive, or kill us."""
        with memoryview(self.map) as view, view[offset:offset + length] as v:
            try:
                os.write(self.copy[1], v)
            except OSError as e:
                return e.errno
        return os.read(self.copy[0], length)

    def fill(self, letter):
        for offset in range(0, WINDOW, 4096):
            same(self.mapped(offset), letter, "mapped")
        same(os.pread(self.fd, 4096, SIZE // 2), letter * 4096, "read")
        os.splice(self.fd, self.pipe[1], 16384, offset_src=4096)

    def shows(self, letter, what):
        for offset in (0, 4096, WINDOW - 1, SIZE // 2, SIZE - 1):
            same(self.mapped(offset), letter, "mapped, " + what)
            same(os.pread(self.fd, 1, offset), letter, "read, " + what)

    def shows_nothing(self):
        same(self.mapped(0), errno.EFAULT, "mapped of an empty drive")
        same(os.pread(self.fd, 1, 0), b"", "read of an empty drive")

    def close(self):
        self.map.close()
        for fd in (self.fd, *self.pipe, *self.copy):
            os.close(fd)


def change(h, letter):
    h.store.write(0, content(letter))
    h.insert()


def a_watcher_over_a_change():
    with module("drives=cdrom"):
        h = filled()
        pages = Pages(os.O_NONBLOCK)
        pages.fill(b"A")
        for letter in (b"B", b"C", b"D"):
            h.idle(1)
            same(h.eject(), 0, "eject")
            assert wait_until(lambda: not h.ctl.drive(0)["medium"])
            same(open("/sys/block/spicebd0/spicebd/state").read(), "empty\n")
            assert wait_until(lambda: os.pread(pages.fd, 1, 0) == b"")
            pages.shows_nothing()
            change(h, letter)
            pages.shows(letter, "after the change")
            fd = os.open("/dev/spicebd0", os.O_RDONLY | os.O_NONBLOCK)
            same(os.pread(fd, 4096, 4096), letter * 4096, "another opener")
            os.close(fd)
            pages.fill(letter)
        pages.close()
        h.done()


def a_tray_opened_and_closed():
    with module("drives=cdrom"):
        h = filled()
        pages = Pages(os.O_NONBLOCK)
        pages.fill(b"A")
        h.idle(1)
        same(h.ctl.verb(TRAY_OPEN, 0), 0, "open the tray")
        h.store.write(0, content(b"B"))
        same(h.ctl.verb(TRAY_CLOSE, 0), 0, "close the tray")
        assert wait_until(lambda: h.ctl.drive(0)["state"] & S_READY), \
            "not ready"
        pages.shows(b"B", "after closing the tray")
        pages.close()
        h.done()


def a_user_that_opens_its_own_tray():
    with module("drives=cdrom"):
        h = filled()
        pages = Pages(0)
        pages.fill(b"A")
        h.idle(1)
        same(fcntl.ioctl(pages.fd, CDROMEJECT), 0, "eject")
        same(h.ctl.drive(0)["state"] & S_STALE, 0, "stale")
        h.store.write(0, content(b"B"))
        same(fcntl.ioctl(pages.fd, CDROMCLOSETRAY), 0, "close")
        pages.shows(b"B", "after its own change")
        pages.close()
        h.done()


def a_watcher_beside_an_old_user():
    with module("drives=cdrom"):
        h = filled()
        pages = Pages(os.O_NONBLOCK)
        user = os.open("/dev/spicebd0", os.O_RDONLY)
        pages.fill(b"A")
        settle()
        same(h.eject(True), 0, "eject by force")
        assert h.ctl.drive(0)["state"] & S_STALE, "not stale"
        try:
            h.ctl.insert(0, SIZE)
            raise AssertionError("inserted over an old user")
        except OSError:
            pass
        os.close(user)
        if h.ctl.drive(0)["state"] & S_STALE:
            # Nobody told the driver who closed; the watcher has to go, too.
            pages.close()
            assert wait_until(lambda: not h.ctl.drive(0)["state"] & S_STALE)
            pages = Pages(os.O_NONBLOCK)
        change(h, b"B")
        pages.shows(b"B", "after the old user has gone")
        pages.close()
        h.done()


run(a_watcher_over_a_change, a_tray_opened_and_closed,
    a_user_that_opens_its_own_tray, a_watcher_beside_an_old_user)
