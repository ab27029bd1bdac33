#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-only
#
# A held drive whose opens wait: each comes in when the drive is released, with
# its medium, or has an end of its own; nothing goes to the helper before, and
# nobody else is kept from opening, closing or deleting the drive meanwhile.
import os
import signal
import subprocess
import sys
import time

import helper as H
from helper import (CDROM, DISK, DRIVE_ADD, DRIVE_DEL, FROZEN, SCALE, Helper, Netlink, attr,
                    wait_until)
from tap import load, module, run, same, settle, sh

LONG = 60
WAIT = 600			# s: so long that it is not what ends a test
OPENER = """
import errno, os, sys
try:
    fd = os.open(sys.argv[1], int(sys.argv[2]))
    print("open", os.lseek(fd, 0, os.SEEK_END), os.pread(fd, 4, 0).hex(), flush=True)
except OSError as e:
    print(errno.errorcode[e.errno], flush=True)
"""


class Opener:
    """A process that opens the drive, and reads it"""

    def __init__(self, flags=os.O_RDONLY, index=0):
        self.p = subprocess.Popen([sys.executable, "-c", OPENER, f"/dev/spicebd{index}",
                                   str(flags)], stdout=subprocess.PIPE, text=True)

    def where(self):
        with open(f"/proc/{self.p.pid}/wchan", encoding="ascii") as f:
            return f.read()

    def state(self):
        with open(f"/proc/{self.p.pid}/stat", encoding="ascii") as f:
            return f.read().rsplit(")", 1)[1].split()[0]

    def waits(self):
        """In ->open, where a signal reaches it"""
        assert wait_until(lambda: "await_release" in self.where(), LONG), \
            f"{self.where()} {self.p.poll()}"
        same(self.state(), "S", "the state of who waits")
        return self

    def says(self, wanted):
        out, _ = self.p.communicate(timeout=LONG * SCALE)
        same(out.strip(), wanted)


def held(personality=DISK, wait=WAIT):
    """A new held drive, its manager"""
    nl = Netlink().manage()
    nl.do(DRIVE_ADD, attr(H.A_PERSONALITY, personality) + attr(H.A_HELD_START, b"") +
          attr(H.A_OPEN_WAIT, wait))
    assert wait_until(lambda: nl.drive(0)["freeze"] == FROZEN, LONG)
    settle()
    return nl


def let_in():
    """Several, each of them, as soon as the medium is there"""
    for personality, flags in ((DISK, os.O_RDWR), (CDROM, os.O_RDONLY)):
        with module("drives="):
            nl = held(personality)
            openers = [Opener(flags).waits()]
            h = Helper(0, 8 << 20)
            h.store.write(0, b"held")
            h.insert(wait=0)
            openers += [Opener(flags).waits() for _ in range(3)]
            same(h.log, [], "requests before the release")
            nl.thaw(0, "start")
            for o in openers:
                o.says(f"open {8 << 20} {b'held'.hex()}")
            h.done()


def a_mount():
    """Claims the drive and waits; another claim waits behind it, and gets it after."""
    with module("drives="):
        nl = held()
        sh("rm -f /tmp/fs; truncate -s 16M /tmp/fs; mkfs.ext4 -q -F /tmp/fs; mkdir -p /tmp/m")
        with open("/tmp/fs", "rb") as f:
            image = f.read()
        mount = subprocess.Popen(["mount", "-t", "ext4", "/dev/spicebd0", "/tmp/m"])

        def there():
            with open(f"/proc/{mount.pid}/wchan", encoding="ascii") as f:
                return "await_release" in f.read()
        assert wait_until(there, LONG), "the mount does not wait"
        excl = Opener(os.O_RDONLY | os.O_EXCL)
        h = Helper(0, len(image))
        h.store.write(0, image)
        h.insert(wait=0)
        nl.thaw(0, "start")
        same(mount.wait(LONG * SCALE), 0, "mount")
        excl.says("EBUSY")
        sh("test -d /tmp/m/lost+found && umount /tmp/m")
        h.done()


def partitions_are_found():
    """By whoever is first, before any open ends."""
    with module("drives="):
        nl = held()
        sh("rm -f /tmp/table; truncate -s 8M /tmp/table; printf '2048,4096\\n' | "
           "sfdisk -q /tmp/table")
        with open("/tmp/table", "rb") as f:
            image = f.read()
        o = Opener().waits()
        h = Helper(0, len(image))
        h.store.write(0, image)
        h.insert(wait=0)
        nl.thaw(0, "start")
        o.says(f"open {len(image)} {image[:4].hex()}")
        same(os.path.exists("/sys/block/spicebd0/spicebd0p1"), True, "the partition")
        h.done()


def others_do_not_wait():
    """With O_NONBLOCK, to close it, and to ask: nothing of that needs the one who waits."""
    for personality in (DISK, CDROM):
        with module("drives="):
            nl = held(personality)
            early = os.open("/dev/spicebd0", os.O_RDONLY | os.O_NONBLOCK)
            o = Opener().waits()
            os.close(early)
            fd = os.open("/dev/spicebd0", os.O_RDONLY | os.O_NONBLOCK)
            same(os.lseek(fd, 0, os.SEEK_END), 0, "its size")
            os.close(fd)
            o.waits()
            nl.thaw(0, "start")
            o.says("ENOMEDIUM")		# released without one


def a_signal():
    with module("drives="):
        held()
        for sig in (signal.SIGTERM, signal.SIGKILL):
            o = Opener().waits()
            o.p.send_signal(sig)
            same(o.p.wait(LONG * SCALE), -sig, "how it ended")
        o = Opener().waits()
        for sig in (signal.SIGSTOP, signal.SIGCONT):	# and goes on waiting
            o.p.send_signal(sig)
            wanted = "T" if sig == signal.SIGSTOP else "S"
            assert wait_until(lambda w=wanted: o.state() == w, LONG), o.state()
        o.waits().p.kill()
        o.p.wait()


def the_medium_is_taken():
    """An eject ends the wait, one before the medium was seen does not."""
    for personality in (DISK, CDROM):
        with module("drives="):
            held(personality)
            h = Helper(0, 8 << 20)
            h.insert(wait=0)
            same(h.eject(force=True), 0, "eject")
            o = Opener().waits()
            h.insert(wait=0)
            o.waits()
            same(h.eject(force=True), 0, "eject")
            o.says("ENOMEDIUM")
            same(h.log, [], "requests")
            h.done()


def the_drive_is_deleted():
    for personality in (DISK, CDROM):
        with module("drives="):
            nl = held(personality)
            openers = [Opener().waits() for _ in range(3)]
            same(nl.verb(DRIVE_DEL, 0, True), 0, "del --force")
            for o in openers:
                o.says("ENXIO")


def the_time_is_over():
    """No sooner, and not much later."""
    with module("drives="):
        held(wait=3)
        begin = time.monotonic()
        Opener().says("ENOMEDIUM")
        took = time.monotonic() - begin
        assert 2.9 < took < 30 * SCALE, f"it took {took:.1f} s"


def only_as_configured():
    """Neither by default nor once the medium was shown"""
    with module("drives=disk", "held=1"):
        Opener().says("ENOMEDIUM")
    with module("drives=disk,cdrom", "held=1", f"open_wait={WAIT}"):
        nl = Netlink().manage()
        h = Helper(0, 8 << 20)
        h.store.write(0, b"here")
        h.insert(wait=0)
        o, empty = Opener().waits(), Opener(index=1).waits()
        nl.thaw(0, "start")
        o.says(f"open {8 << 20} {b'here'.hex()}")
        h.idle()
        nl.freeze(0)
        fd = os.open("/dev/spicebd0", os.O_RDONLY)	# the medium is there
        os.close(fd)
        nl.thaw(0)
        nl.thaw(1, "start")
        empty.says("ENOMEDIUM")
        h.done()
    assert load("drives=disk", "held=1", "open_wait=86401") != 0, "a wait of more than a day"


run(let_in, a_mount, partitions_are_found, others_do_not_wait, a_signal, the_medium_is_taken,
    the_drive_is_deleted, the_time_is_over, only_as_configured)
