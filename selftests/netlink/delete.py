#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-only
#
# A drive that is deleted by force while a partition of it is mounted for
# writing: its number and name are free at once, the next drive of that number
# gets nothing of what the old file system still writes, and whoever asks for
# the number too early is told so.
import errno
import os
import threading
import time

from helper import DISK, DRIVE_DEL, SCALE, Helper, Netlink, NetlinkError, silent, \
    wait_until
from tap import module, run, same, settle, sh

SIZE = 48 << 20


def partitioned():
    """An image with one ext4 partition."""
    img = "/tmp/spicebd-delete"
    sh("rm -f {0}; truncate -s {1} {0}; printf '2048,\\n' | sfdisk -q {0}; "
       "mkfs.ext4 -q -F -E offset=1048576 {0} 40000k".format(img, SIZE))
    with open(img, "rb") as f:
        data = f.read()
    os.unlink(img)
    return data


def mounted(index):
    h = Helper(index, SIZE)
    h.store.write(0, partitioned())
    h.insert()
    settle()
    sh("mkdir -p /tmp/m; mount /dev/spicebd%dp1 /tmp/m; "
       "head -c 4M /dev/urandom > /tmp/m/written" % index)
    return h


def a_mounted_drive_is_replaced():
    with module("drives=disk"):
        for stuck in (False, True):
            h = mounted(0)
            if stuck:
                h.behave = silent
                threading.Thread(target=lambda: sh(
                    "sync -f /tmp/m", check=False), daemon=True).start()
                assert wait_until(lambda: h.queues[0].kept), "nothing is out"
            same(h.ctl.verb(DRIVE_DEL, 0), errno.EBUSY, "del")
            begin = time.monotonic()
            same(h.ctl.verb(DRIVE_DEL, 0, True), 0, "del by force")
            took = time.monotonic() - begin
            assert took < 5 * SCALE, "it took %.2f s" % took
            sh("head -c 1M /dev/urandom > /tmp/m/later", check=False)

            watch = Netlink().subscribe()
            try:
                h.ctl.add(DISK, index=0)
            except NetlinkError as e:
                # Deleting took longer than the answer; then it is announced.
                same(e.errno, errno.EBUSY, "add: " + str(e))
                assert watch.wait_event(
                    20, lambda e: e["event"] == "drive_removed"), "never gone"
                h.ctl.add(DISK, index=0)
            watch.close()
            same(h.ctl.drive(0)["name"], "spicebd0")
            same(os.path.exists("/sys/block/spicebd0/spicebd0p1"), False)
            h.close()

            new = Helper(0, SIZE)
            data = os.urandom(SIZE)
            new.store.write(0, data)
            new.insert()
            settle()
            # the old file system gets errors, and nothing else
            same(sh("echo x > /tmp/m/after && sync -f /tmp/m", check=False)
                 != 0, True, "a write to the old file system")
            sh("sync")
            sh("umount /tmp/m")
            sh("sync")
            settle()
            same(new.store.read(0, SIZE) == data, True,
                 "what is on the next medium")
            same([x for x in new.log if x[0] != 0], [],
                 "requests that are no reads")
            same(new.ctl.verb(DRIVE_DEL, 0, True), 0, "del")
            new.close()
            nl = Netlink().manage()
            assert wait_until(lambda: nl.fails(DRIVE_DEL) == errno.EINVAL)
            wait_until(lambda: add_errno(nl) == 0)
            same([d["index"] for d in nl.drives()], [0], "drives")


def add_errno(nl, index=0):
    try:
        nl.add(DISK, index=index)
    except NetlinkError as e:
        return e.errno
    return 0


def an_add_in_the_very_moment():
    with module("drives="):
        nl = Netlink().manage()
        results, stop = set(), threading.Event()

        def race():
            other = Netlink().manage()
            while not stop.is_set():
                try:
                    other.add(DISK, index=0, nr_queues=1, depth=4)
                    results.add(0)
                except NetlinkError as e:
                    assert str(e), "no reason"
                    results.add(e.errno)
        threads = [threading.Thread(target=race) for _ in range(2)]
        for t in threads:
            t.start()
        for _ in range(20):
            assert wait_until(lambda: nl.drives()), "no drive"
            assert nl.verb(DRIVE_DEL, 0, True) in (0, errno.ENODEV)
        stop.set()
        for t in threads:
            t.join()
        print("# results: %s" % ", ".join(
            errno.errorcode.get(r, "0") for r in sorted(results)))
        same(results <= {0, errno.EEXIST, errno.EBUSY}, True, "results")
        same({0, errno.EEXIST} <= results, True, "results")
        assert len(nl.drives()) <= 1, "two drives of one number"


run(a_mounted_drive_is_replaced, an_add_in_the_very_moment)
