#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-only
#
# Insert and eject, over and over, on both personalities, with udev looking at
# each medium: the uevents are counted exactly, and the kernel's memory does not
# grow. As a module: cycles(n) is such a test with n cycles.
import ctypes
import os

from helper import Helper, Uevents, wait_until
from tap import module, run, same, settle

# Every object that is lost in each cycle is seen as growth in each batch.
BATCHES = 3
SAMPLES = 4
MEMBARRIER, MEMBARRIER_CMD_GLOBAL = 324, 1     # of x86-64


def shrunk():
    """Objects of each slab cache, those that are not needed given back."""
    with open("/proc/sys/vm/drop_caches", "w", encoding="ascii") as f:
        f.write("3")
    # Much is freed after a grace period of RCU only, for which this waits.
    ctypes.CDLL(None).syscall(MEMBARRIER, MEMBARRIER_CMD_GLOBAL, 0, 0)
    for name in os.listdir("/sys/kernel/slab"):
        directory = "/sys/kernel/slab/" + name
        if os.path.islink(directory):
            continue
        with open(directory + "/shrink", "w", encoding="ascii") as f:
            f.write("1")
    out = {}
    with open("/proc/slabinfo", encoding="ascii") as f:
        for line in f.readlines()[2:]:
            name, active = line.split()[:2]
            # The debug kernel's own record of what all other caches hold; it
            # looks for leaks itself when the machine ends.
            if not name.startswith("kmemleak_"):
                out[name] = int(active)
    # These are freed late, many at a time, after buffers of large messages: not
    # how many there are tells of a leak, but how many are in use.
    with open("/proc/vmallocinfo", encoding="ascii") as f:
        out["vmap_area"] = sum("unpurged" not in line for line in f)
    return out


def objects():
    """The least that is seen of each cache: one sample also counts what is
    about to be freed, and a processor's slabs as if they were full."""
    settle()
    samples = [shrunk() for _ in range(SAMPLES)]
    return {k: min(s.get(k, 0) for s in samples) for k in samples[0]}


def leaks(batch, n):
    """Caches that grew by at least one object for two rounds, in each batch."""
    batch(n)                                    # what is only made once
    grown = []
    before = objects()
    for _ in range(BATCHES):
        batch(n)
        after = objects()
        grown.append({k: after[k] - before.get(k, 0) for k in after})
        before = after
    return {k: [g.get(k, 0) for g in grown] for k in grown[0]
            if all(g.get(k, 0) >= n // 2 for g in grown)}


def lost_objects_are_seen():
    kept = []

    def batch(n):
        kept.extend(os.memfd_create("x") for _ in range(n))
    found = leaks(batch, 40)
    for fd in kept:
        os.close(fd)
    assert found, "no cache grew"
    same(leaks(lambda n: None, 40), {}, "growth without a reason")


def one_personality(index, n):
    h = Helper(index, 4 << 20)
    events = Uevents()
    counts = {"changes": 0, "requests": 0, "cycles": 0}

    def count():
        for e in events.read(0):
            counts["changes"] += ("DISK_MEDIA_CHANGE" in e and
                                  e["DEVTYPE"] == "disk")
            counts["requests"] += "DISK_EJECT_REQUEST" in e

    def idle():
        settle()
        assert wait_until(lambda: not h.ctl.drive(index)["openers"])

    def batch(rounds):
        for _ in range(rounds):
            h.insert()
            idle()
            same(h.eject(), 0, "eject")
            idle()
            count()
            counts["cycles"] += 1
            h.log.clear()
    found = leaks(batch, n // (BATCHES + 1))
    count()
    print("# %s: %r" % ("disk" if index else "cdrom", counts))
    same((counts["changes"], counts["requests"]), (2 * counts["cycles"], 0),
         "uevents")
    same(h.ctl.stats(index)["medium_changes"], 2 * counts["cycles"], "counter")
    h.close()
    same(found, {}, "slab caches that grew in each batch")


def cycles(n):
    """Tests of about n cycles for each personality."""
    def on_a_cdrom():
        with module("drives=cdrom,disk"):
            one_personality(0, n)

    def on_a_disk():
        with module("drives=cdrom,disk"):
            one_personality(1, n)
    return lost_objects_are_seen, on_a_cdrom, on_a_disk


if __name__ == "__main__":
    run(*cycles(60))
