#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-only
# timeout: 400
#
# An eject or delete by force ends at once, whatever hangs in the drive: its
# partition scan, a probe, the last close, a mount; and so does whoever was stuck
# with it. With payload in messages and in registered memory, for both
# personalities.
import errno
import statistics
import time

import helper as H
from helper import (CDROM, DISK, DRIVE_DEL, EJECT, Helper, Netlink,
                    NetlinkError, silent, wait_until)
from tap import module, run, same
from watch import (KIND, LONG, dev, mounter, nobody_is_stuck, out, prober,
                   reader, ready_then_silent, writer)

MEMORY = 4 << 20
SIZE = 8 << 20


# What hangs. Each returns the programs that are stuck in it.

def in_the_partition_scan(h, index):
    h.behave = silent
    h.insert(wait=0)
    out(h, index)
    # It waits for the scan, in open().
    user = reader(dev(index))
    assert wait_until(user.stuck, LONG), "the open is not stuck"
    return [user]


def in_a_probe(h, index):
    ready_then_silent(h)
    user = prober(dev(index))
    out(h, index)
    return [user]


def in_the_last_close(h, index):
    ready_then_silent(h)
    user = writer(dev(index))
    out(h, index)
    return [user, prober(dev(index))]


def in_a_mount(h, index):
    ready_then_silent(h)
    personality = h.ctl.drive(index)["personality"]
    user = mounter(dev(index), KIND[personality])
    out(h, index)
    return [user]


HANGS = {CDROM: (in_a_probe, in_a_mount),
         DISK: (in_the_partition_scan, in_a_probe, in_the_last_close,
                in_a_mount)}


def add_again(nl, watch, personality, index):
    """Deleting may take longer than its answer; then its end is announced."""
    try:
        nl.add(personality, index=index)
    except NetlinkError as e:
        same(e.errno, errno.EBUSY, "add: %s" % e)
        assert watch.wait_event(LONG, lambda e: e["event"] == "drive_removed"),\
            "the drive is never gone"
        nl.add(personality, index=index)


def force(verb, took):
    with module("drives=cdrom,disk"):
        nl = Netlink().manage()
        for index, hangs in HANGS.items():
            for hang in hangs:
                for memory in 0, MEMORY:
                    what = "%s of a %s that hangs %s, memory %d" % (
                        "del" if verb == DRIVE_DEL else "eject",
                        ("cdrom", "disk")[index],
                        hang.__name__.replace("_", " "), memory)
                    h = Helper(index, SIZE, memory=memory)
                    users = hang(h, index)
                    watch = Netlink().subscribe()
                    begin = time.monotonic()
                    same(nl.verb(verb, index, True), 0, what)
                    took.append(time.monotonic() - begin)
                    for user in users:
                        user.end(what)
                    nobody_is_stuck(what)
                    h.close()
                    if verb == DRIVE_DEL:
                        add_again(nl, watch, index, index)
                    else:
                        assert wait_until(lambda: nl.drive(index)["helper"] ==
                                          H.HELPER_NONE, LONG)
                        assert not nl.drive(index)["medium"], what
                    watch.close()


def force_ends_whatever_hangs(verb):
    took = []
    force(verb, took)
    print("# %d times: %.3f s in the middle, %.3f s at most" %
          (len(took), statistics.median(took), max(took)))
    # One may have waited for a processor; that is not what is meant.
    assert statistics.median(took) < H.SCALE and max(took) < 5 * H.SCALE, took


def eject_by_force_whatever_hangs():
    force_ends_whatever_hangs(EJECT)


def delete_by_force_whatever_hangs():
    force_ends_whatever_hangs(DRIVE_DEL)


run(eject_by_force_whatever_hangs, delete_by_force_whatever_hangs)
