#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-only
#
# Tray, medium and lock over netlink, on both personalities: the verbs' errors,
# the states and events between, force, and a drive that is stale.
import errno
import mmap
import os
import threading
import time

from helper import (EJECT, HELPER_ATTACHED, MEDIUM_REMOVE, SCALE, S_MEDIUM, S_READY,
                    S_STALE, TRAY_CLOSE, TRAY_OPEN, Helper, Netlink,
                    NetlinkError, Uevents, silent, wait_until)
from tap import module, run, same, settle, sh


def open_errno(index, flags=os.O_RDONLY):
    try:
        os.close(os.open("/dev/spicebd%d" % index, flags))
    except OSError as e:
        return e.errno
    return 0


def empty_drives():
    with module():
        for i in (0, 1):
            same(open_errno(i), errno.ENOMEDIUM, "open")
            same(open_errno(i, os.O_RDONLY | os.O_NONBLOCK), 0, "nonblock")
            same(sh("cat /sys/block/spicebd%d/size" % i).strip(), "0", "size")
            same(sh("cat /sys/block/spicebd%d/removable" % i).strip(), "1")
        nl = Netlink().manage()
        same(nl.verb(EJECT, 1), 0, "eject of an empty disk")
        same(nl.verb(MEDIUM_REMOVE, 1), 0, "remove of an empty disk")
        same(nl.verb(TRAY_OPEN, 1), errno.ENOSYS, "tray of a disk")
        same(nl.verb(TRAY_CLOSE, 1), errno.ENOSYS, "tray of a disk")
        same(nl.verb(MEDIUM_REMOVE, 0), errno.EINVAL, "remove, tray closed")
        watch = Netlink().subscribe()
        same(nl.verb(TRAY_CLOSE, 0), 0, "close a closed tray")
        same(list(watch.events(0.2)), [], "events")
        same(nl.verb(EJECT, 0), 0, "eject of an empty cdrom")
        same(nl.drive(0)["tray"], 1, "tray")
        same(nl.verb(TRAY_CLOSE, 0), 0, "close")
        same(nl.drive(0)["tray"], 0, "tray")
        same(nl.verb(EJECT, 7), errno.ENODEV, "no such drive")


def cdrom_cycle():
    with module("drives=cdrom"):
        h = Helper(0, 4 << 20)
        watch = Netlink().subscribe()
        try:
            h.ctl.insert(0, 4 << 20)
            raise AssertionError("inserted through a closed tray")
        except NetlinkError as e:
            same(e.errno, errno.EINVAL, "insert, tray closed")
        same(h.ctl.verb(TRAY_OPEN, 0), 0, "open tray")
        h.ctl.insert(0, 4 << 20)
        same(h.ctl.drive(0)["state"], S_MEDIUM, "state")
        try:
            h.ctl.insert(0, 4 << 20)
            raise AssertionError("inserted twice")
        except NetlinkError as e:
            same(e.errno, errno.EEXIST, "insert")
        list(watch.events(0.1))
        same(h.ctl.verb(TRAY_CLOSE, 0), 0, "close tray")
        assert watch.wait_event(60, lambda e: e["event"] == "medium_changed" and
                                e["state"] & S_READY), "not ready"
        settle()
        same(sh("blockdev --getsize64 /dev/spicebd0").strip(), str(4 << 20))
        same(sh("blockdev --getss /dev/spicebd0").strip(), "2048")
        same(sh("blockdev --getro /dev/spicebd0").strip(), "1")
        same(open_errno(0, os.O_RDWR), errno.EROFS, "open for writing")
        same(h.ctl.verb(MEDIUM_REMOVE, 0), errno.EINVAL, "remove")
        fd = os.open("/dev/spicebd0", os.O_RDONLY)
        assert h.ctl.drive(0)["state"] & 4, "not locked while open"
        same(h.ctl.verb(EJECT, 0), errno.EINPROGRESS, "eject of a locked one")
        os.close(fd)
        assert wait_until(lambda: not h.ctl.drive(0)["state"] & 4), \
            "locked after the last close"
        list(watch.events(0.1))
        assert wait_until(lambda: h.ctl.verb(TRAY_OPEN, 0) == 0), "open tray"
        assert watch.wait_event(60, lambda e: e["event"] == "medium_changed")
        same(h.ctl.drive(0)["state"], S_MEDIUM, "state, tray open")
        same(open_errno(0, os.O_RDONLY | os.O_NONBLOCK), 0, "nonblock")
        same(h.ctl.verb(MEDIUM_REMOVE, 0), 0, "remove")
        same(h.ctl.verb(MEDIUM_REMOVE, 0), 0, "remove again")
        same(h.ctl.verb(TRAY_CLOSE, 0), 0, "close")
        same(h.ctl.drive(0)["state"], 0, "state")
        same(open_errno(0), errno.ENOMEDIUM, "open")
        h.close()


def disk_in_use():
    with module("drives=disk"):
        h = Helper(0, 4 << 20)
        h.insert()
        settle()
        events = Uevents()
        watch = Netlink().subscribe()
        fd = os.open("/dev/spicebd0", os.O_RDONLY)
        same(h.eject(), errno.EBUSY, "eject")
        assert watch.wait_event(60, lambda e: e["event"] == "eject_request")
        seen = events.those(lambda e: "DISK_EJECT_REQUEST" in e, 1)
        same(len(seen), 1, "eject requests")
        os.close(fd)
        same(h.eject_idle(), 0, "eject")
        same(open_errno(0), errno.ENOMEDIUM, "open")
        h.close()


def force_ends_every_request_at_once():
    with module():
        for index in (0, 1):
            h = Helper(index, 16 << 20)
            h.insert()
            settle()
            h.behave = silent
            fd = os.open("/dev/spicebd%d" % index, os.O_RDONLY | os.O_DIRECT)
            result = []
            buf = mmap.mmap(-1, 4096)

            def read():
                try:
                    result.append(-os.preadv(fd, [buf], 1 << 20))
                except OSError as e:
                    result.append(e.errno)
            thread = threading.Thread(target=read)
            thread.start()
            assert wait_until(lambda: h.ctl.drive(index)["in_flight"] > 0)
            start = time.monotonic()
            same(h.eject(True), 0, "eject --force")
            thread.join(60)
            took = time.monotonic() - start
            same(result, [errno.EIO], "the read")
            assert took < 5 * SCALE, "it took %.2f s" % took
            state = h.ctl.drive(index)
            assert state["state"] & S_STALE, "not stale"
            same(state["in_flight"], 0, "in flight")
            try:
                same(os.preadv(fd, [buf], 0), 0, "read of a stale drive")
            except OSError as e:
                same(e.errno, errno.EIO, "read of a stale drive")
            try:
                h.ctl.insert(index, 16 << 20)
                raise AssertionError("inserted into a stale drive")
            except NetlinkError as e:
                same(e.errno, errno.EBUSY, "insert")
            os.close(fd)
            assert wait_until(lambda: not h.ctl.drive(index)["state"] &
                              S_STALE), "still stale"
            # a late answer to what was ended is no offence
            for io in list(h.queues[0].kept):
                h.queues[0].serve(io)
            same(h.ctl.stats(index)["refused"], 0, "refused")
            h.behave = type(h.queues[0]).serve
            if index == 0:
                same(h.ctl.verb(TRAY_CLOSE, 0), 0, "close the tray")
            h.insert()
            same(len(sh("dd if=/dev/spicebd%d bs=4k count=1 2>/dev/null" %
                        index)) > 0, True, "read")
            same(h.eject_idle(), 0, "eject")
            h.close()


def credit_comes_back_after_force():
    with module("drives=disk", "depth=4", "queues=1"):
        h = Helper(0, 16 << 20)
        for _ in range(5):
            h.insert()
            settle()
            h.behave = silent
            p = [threading.Thread(target=lambda: sh(
                "dd if=/dev/spicebd0 of=/dev/null iflag=direct bs=4k count=1 "
                "skip=%d" % n, check=False)) for n in range(4)]
            for t in p:
                t.start()
            assert wait_until(lambda: h.ctl.drive(0)["in_flight"] == 4)
            same(h.eject(True), 0, "eject")
            for t in p:
                t.join(60)
            h.behave = type(h.queues[0]).serve
            for io in h.queues[0].kept:
                h.queues[0].serve(io)
            h.queues[0].kept.clear()
            assert wait_until(lambda: not h.ctl.drive(0)["openers"])
        h.insert()
        sh("dd if=/dev/spicebd0 of=/dev/null iflag=direct bs=64k")
        same(h.ctl.stats(0)["refused"], 0, "refused")
        same(h.eject_idle(), 0, "eject")
        h.close()


def sizes():
    with module():
        h = Helper(1, 4 << 20)
        for size, sectors in ((512, 1), (513, 1), (1535, 2),
                              ((1 << 63) - 512, (1 << 54) - 1)):
            h.insert(0, size=size)
            same(sh("cat /sys/block/spicebd1/size").strip(), str(sectors))
            settle()
            same(h.eject(True), 0, "eject")
            wait_until(lambda: not h.ctl.drive(1)["state"] & S_STALE)
        for size, error in ((0, errno.ENOMEDIUM), (511, errno.ENOMEDIUM),
                            (1 << 63, errno.EFBIG)):
            try:
                h.ctl.insert(1, size)
                raise AssertionError("took a medium of %d bytes" % size)
            except NetlinkError as e:
                same(e.errno, error, "insert of %d bytes" % size)
        h.close()
        h = Helper(0, 6000)
        h.insert()
        same(sh("cat /sys/block/spicebd0/size").strip(), "8", "cdrom, 6000")
        same(h.eject_idle(), 0, "eject")
        h.close()


def added_again(nl):
    try:
        return nl.add(1, index=3)["index"] == 3
    except NetlinkError as e:
        if e.errno != errno.EBUSY:
            raise
        return False


def delete_and_add():
    with module("drives="):
        nl = Netlink().manage()
        same(nl.drives(), [], "drives")
        d = nl.add(1, index=3, nr_queues=1, depth=8, max_io=65536)
        same((d["index"], d["name"], d["depth"], d["max_io"]),
             (3, "spicebd3", 8, 65536), "drive")
        same(nl.fails(5 - 1, b""), errno.EINVAL, "add without personality")
        for _ in range(5):
            settle()
            h = Helper(3, 4 << 20)
            h.insert()
            settle()
            h.behave = silent
            fd = os.open("/dev/spicebd3", os.O_RDONLY)
            t = threading.Thread(target=lambda: sh(
                "dd if=/dev/spicebd3 of=/dev/null bs=4k count=1 iflag=direct",
                check=False))
            t.start()
            assert wait_until(lambda: nl.drive(3)["in_flight"] > 0)
            same(nl.verb(6, 3), errno.EBUSY, "del of an open drive")
            start = time.monotonic()
            same(nl.verb(6, 3, True), 0, "del --force")
            assert time.monotonic() - start < 5 * SCALE, "del --force was slow"
            # Its number is free when it has gone for good.
            assert wait_until(lambda: added_again(nl)), "add again"
            t.join(60)
            os.close(fd)
            h.close()
        same(len(nl.drives()), 1, "drives")


def helper_state():
    with module("drives=disk"):
        h = Helper(0, 4 << 20)
        same(h.ctl.drive(0)["helper"], HELPER_ATTACHED)
        same(h.ctl.drive(0)["pid"], os.getpid(), "pid")
        h.close()
        nl = Netlink()
        assert wait_until(lambda: nl.drive(0)["helper"] == 0)


run(empty_drives, cdrom_cycle, disk_in_use, force_ends_every_request_at_once,
    credit_comes_back_after_force, sizes, delete_and_add, helper_state)
