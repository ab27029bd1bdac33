#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-only
#
# One DISK_MEDIA_CHANGE uevent for each change of medium, when it is readable;
# one multicast message, not before the uevent; partitions are scanned before
# both, off the command path, and go with the medium.
import os
import threading
import time

from helper import (EJECT, SCALE, S_READY, TRAY_CLOSE, TRAY_OPEN, Helper, Netlink,
                    Uevents, silent, wait_until)
from tap import module, run, same, settle, sh


def media_changes(events, number, what):
    same(len(events.those(lambda e: e.get("DISK_MEDIA_CHANGE") and
                          e["DEVTYPE"] == "disk", number)), number, what)


def one_for_each_change_of_a_disk():
    with module("drives=disk"):
        h = Helper(0, 8 << 20)
        settle()
        events = Uevents()
        for _ in range(5):
            h.insert()
            media_changes(events, 1, "insert")
            same(h.eject_idle(), 0, "eject")
            media_changes(events, 1, "eject")
        same(h.ctl.stats(0)["medium_changes"], 10, "counter")
        h.close()


def one_for_each_change_of_a_cdrom():
    with module("drives=cdrom"):
        h = Helper(0, 8 << 20)
        settle()
        events = Uevents()
        h.insert()
        media_changes(events, 1, "insert and close")
        for _ in range(3):
            assert wait_until(lambda: h.ctl.verb(TRAY_OPEN, 0) == 0)
            media_changes(events, 1, "open")
            same(h.ctl.verb(TRAY_CLOSE, 0), 0, "close")
            media_changes(events, 1, "close")
        assert wait_until(lambda: h.ctl.verb(EJECT, 0) == 0)
        media_changes(events, 1, "eject")
        same(h.ctl.verb(TRAY_CLOSE, 0), 0, "close an empty tray")
        media_changes(events, 0, "close an empty tray")
        h.close()


def readable_when_announced():
    with module("drives=disk"):
        h = Helper(0, 8 << 20)
        h.store.write(4096, b"here it is")
        settle()
        events = Uevents()

        def one():
            for e in events.read(60):
                if e.get("DISK_MEDIA_CHANGE"):
                    return
            raise AssertionError("no uevent")
        for _ in range(10):
            h.insert(wait=0)
            one()
            fd = os.open("/dev/spicebd0", os.O_RDONLY)
            same(os.pread(fd, 10, 4096), b"here it is", "data")
            os.close(fd)
            assert wait_until(lambda: h.ctl.drive(0)["state"] & S_READY)
            same(h.eject_idle(), 0, "eject")
            one()
        h.close()


def partitions():
    with module("drives=disk"):
        h = Helper(0, 16 << 20)
        img = "/tmp/spicebd-parts"
        sh("truncate -s 16M %s; printf '2048,8192\\n10240,8192\\n' | "
           "sfdisk -q %s" % (img, img))
        with open(img, "rb") as f:
            h.store.write(0, f.read())
        os.unlink(img)
        settle()
        events = Uevents()
        h.insert()
        seen = []
        while not any(e.get("DISK_MEDIA_CHANGE") for e in seen):
            seen.append(events.one(60))
            assert seen[-1], seen
        seen += events.read(0.5)
        kinds = [(e["ACTION"], e["DEVNAME"]) for e in seen
                 if e["DEVTYPE"] == "partition" and e["ACTION"] == "add"]
        same(kinds, [("add", "spicebd0p1"), ("add", "spicebd0p2")])
        order = [i for i, e in enumerate(seen) if e.get("DISK_MEDIA_CHANGE")]
        last = max(i for i, e in enumerate(seen)
                   if e["DEVTYPE"] == "partition" and e["ACTION"] == "add")
        same(len(order), 1, "uevents")
        assert order[0] > last, "announced before the partitions"
        settle()
        same(sh("blockdev --getsize64 /dev/spicebd0p2").strip(), "4194304")
        same(h.eject_idle(), 0, "eject")
        assert wait_until(lambda: not os.path.exists(
            "/sys/block/spicebd0/spicebd0p1"))
        h.close()


def scan_does_not_hold_up_commands():
    with module("drives=disk"):
        h = Helper(0, 8 << 20)
        settle()
        h.behave = silent
        events = Uevents()
        begin = time.monotonic()
        h.insert(wait=0)
        assert wait_until(lambda: h.queues[0].kept), "no partition scan"
        same(h.ctl.drive(0)["state"] & S_READY, 0, "ready")
        same(h.eject(True), 0, "eject --force")
        assert time.monotonic() - begin < 20 * SCALE, "the scan held it up"
        media_changes(events, 0, "uevents of what never was there")
        h.behave = type(h.queues[0]).serve
        for io in h.queues[0].kept:
            h.queues[0].serve(io)
        h.insert()
        media_changes(events, 1, "insert")
        same(h.eject_idle(), 0, "eject")
        h.close()


def a_mounted_partition_is_stale():
    with module("drives=disk"):
        h = Helper(0, 32 << 20)
        img = "/tmp/spicebd-parts"
        sh("truncate -s 32M %s; printf '2048,\\n' | sfdisk -q %s; "
           "mkfs.vfat --offset 2048 %s 31000 >/dev/null" % (img, img, img))
        with open(img, "rb") as f:
            h.store.write(0, f.read())
        h.insert()
        settle()
        sh("mkdir -p /tmp/m; mount /dev/spicebd0p1 /tmp/m; echo x > /tmp/m/f")
        same(h.eject(), 16, "eject of a mounted one")
        same(h.eject(True), 0, "eject --force")
        other = os.urandom(32 << 20)
        h2 = h.store
        sh("echo more > /tmp/m/g", check=False)
        try:
            h.ctl.insert(0, 32 << 20)
            raise AssertionError("inserted while an old medium is mounted")
        except OSError as e:
            same(e.errno, 16, "insert")
        sh("umount /tmp/m")
        assert wait_until(lambda: not h.ctl.drive(0)["openers"])
        assert wait_until(lambda: not os.path.exists(
            "/sys/block/spicebd0/spicebd0p1")), "the old partition stayed"
        h2.write(0, other)
        h.insert()
        settle()
        sh("sync")
        same(h.eject_idle(), 0, "eject")
        same(h2.read(0, 32 << 20) == other, True, "the next medium's data")
        os.unlink(img)
        h.close()


def commands_and_events_do_not_wait():
    with module("drives=disk"):
        h = Helper(0, 8 << 20)
        h.insert()
        settle()
        h.behave = silent
        t = threading.Thread(target=lambda: sh(
            "dd if=/dev/spicebd0 of=/dev/null bs=4k count=1 iflag=direct",
            check=False))
        t.start()
        assert wait_until(lambda: h.queues[0].kept)
        begin = time.monotonic()
        for _ in range(20):
            Netlink().drives()
        assert time.monotonic() - begin < 5 * SCALE
        same(h.eject(True), 0, "eject")
        t.join(60)
        assert not t.is_alive(), "the read hangs"
        h.close()


run(one_for_each_change_of_a_disk, one_for_each_change_of_a_cdrom,
    readable_when_announced, partitions, scan_does_not_hold_up_commands,
    a_mounted_partition_is_stale, commands_and_events_do_not_wait)
