#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-only
#
# The machine is to sleep: each drive becomes quiet first, one that cannot is
# named and keeps it awake, and processes that use a drive can be stopped.
import errno
import glob
import os
import re
import subprocess
import time

import helper as H
from death import Read
from helper import (DRAINING, FLUSH, FROZEN, LINK_REPORT, READ, THAWED, Helper,
                    Netlink, Queue, attr, silent, wait_until, with_memory)
from tap import Skip, module, run, same, sh

POWER = "/sys/power/"
DELAY = "/sys/module/suspend/parameters/pm_test_delay"
LONG = 60


def write(path, text):
    with open(path, "w", encoding="ascii") as f:
        f.write(text)


def sleeps(state="freeze", level="freezer"):
    """Go so far towards sleep, and come back: errno, and the time it took."""
    if not os.path.exists(POWER + "pm_test"):
        raise Skip("this kernel has no CONFIG_PM_DEBUG")
    write(POWER + "pm_test", level)
    write(DELAY, "1")
    began = time.monotonic()
    try:
        write(POWER + "state", state)
        error = 0
    except OSError as e:
        error = e.errno
    return error, time.monotonic() - began


def says(since):
    """What the module has logged since."""
    return [line for line in sh("dmesg").splitlines()[since:]
            if "spicebd" in line]


def log_length():
    return len(sh("dmesg").splitlines())


def worked():
    """Processor time of all kernel workers, in ticks of 10 ms."""
    total = 0
    for path in glob.glob("/proc/[0-9]*/stat"):
        try:
            with open(path, encoding="ascii", errors="replace") as f:
                name, _, rest = f.read().partition("(")[2].rpartition(")")
        except OSError:
            continue
        if name.startswith("kworker/"):
            total += sum(map(int, rest.split()[11:13]))
    return total


def ready(**kw):
    h = Helper(0, 32 << 20, **kw)
    h.insert()
    h.idle()
    return h


def awake(h, nl, reads=True):
    same((nl.drive(0)["freeze"], nl.drive(0)["holders"]), (THAWED, []))
    same(h.ctl.drive(0)["helper"], H.HELPER_ATTACHED, "helper")
    if reads:
        r = Read(1 << 20)
        r.join(LONG)
        same(r.error, 0, "a read afterwards")


def an_idle_medium():
    with module("drives=cdrom,disk,disk"):
        h = Helper(1, 8 << 20)
        h.insert()
        h.idle()
        nl = Netlink().manage()
        for state in "freeze", "disk":
            watch = Netlink().subscribe()
            h.log.clear()
            same(sleeps(state)[0], 0, state)
            same([op for op, *_ in h.log], [FLUSH], state)
            steps = [e["freeze"] for e in watch.events(0.5)
                     if e["event"] == "freeze"]
            # It may be thawed again when it is told of as frozen.
            assert steps[0] == DRAINING and steps[-1] == THAWED, steps
        same(nl.drive(1)["stats"]["errors"], 0)
        h.done()


def a_mounted_file_system(state):
    """Dirty pages on their way; what was written is there."""
    with module("drives=disk"):
        h = ready()
        nl = Netlink().manage()
        # What ext4 puts off it does in a thread that the kernel stops after the
        # helper, and if it waits for the drive just then, the machine stays
        # awake.
        sh("mkfs.ext4 -q -E lazy_itable_init=0,lazy_journal_init=0 "
           "/dev/spicebd0; mkdir -p /tmp/m; "
           "mount /dev/spicebd0 /tmp/m")
        data = os.urandom(4 << 20)
        with open("/tmp/m/before", "wb") as f:
            f.write(data)
        same(sleeps(state)[0], 0, "sleep")
        sh("echo 3 > /proc/sys/vm/drop_caches")
        with open("/tmp/m/before", "rb") as f:
            assert f.read() == data
        with open("/tmp/m/after", "wb") as f:
            f.write(data)
        sh("umount /tmp/m; fsck.ext4 -fn /dev/spicebd0")
        same(nl.drive(0)["stats"]["errors"], 0, "errors")
        awake(h, nl)
        h.done()


def suspend_with_a_mounted_file_system():
    a_mounted_file_system("freeze")


def hibernation_with_a_mounted_file_system():
    a_mounted_file_system("disk")


def refused(what, text, state="freeze"):
    since = log_length()
    error, took = sleeps(state)
    same(error, errno.EBUSY, what)
    # Five seconds; a busy machine may take longer for the rest.
    assert took < 15, "%s: %.1f s" % (what, took)
    assert any(re.search("spicebd0: " + text, line) for line in says(since)), \
        (what, says(since))


def a_far_end_that_is_gone():
    with module("drives=disk"):
        h = ready()
        nl = Netlink().manage()
        h.ctl.do(LINK_REPORT, attr(H.H_INDEX, 0) + attr(H.H_LINK, 1))
        for state in "freeze", "disk":
            refused("link lost", "it waits for its helper or its far end",
                    state)
        h.ctl.do(LINK_REPORT, attr(H.H_INDEX, 0) + attr(H.H_LINK, 0))
        same(sleeps()[0], 0, "link back")
        awake(h, nl)
        h.done()


def a_helper_that_is_gone():
    """Its clock goes on as if nobody had asked."""
    with module("drives=disk"):
        h = ready()
        nl = Netlink().manage()
        h.close()
        r = Read()
        assert wait_until(lambda: nl.drive(0)["held"], LONG)
        left = nl.drive(0)["hold_left"]
        refused("helper lost", "it waits for its helper or its far end")
        assert nl.drive(0)["hold_left"] < left, "the clock began anew"
        h = Helper(0, store=h.store)
        r.join(LONG)
        same(r.error, 0, "the read that waited")
        awake(h, nl)
        h.done()


def one_whose_time_was_over():
    """Nobody waits for it: it keeps no machine awake."""
    with module("drives=disk"):
        h = ready()
        nl = Netlink().manage()
        h.close()
        nl.set(0, reconnect_timeout=2)
        r = Read()
        r.join(LONG)
        same(r.error, errno.EIO, "a read")
        # Whoever fails requests has nothing more to do.
        before = worked()
        time.sleep(1)
        assert worked() - before < 50, "a worker runs on and on"
        same(sleeps()[0], 0, "sleep")
        same(nl.drive(0)["hold_left"], 0, "its time")
        r = Read()
        r.join(LONG)
        same(r.error, errno.EIO, "a read afterwards")
        same(nl.verb(H.EJECT, 0, True), 0, "eject")


def one_that_does_not_answer():
    for ops, what in (((READ,), "a read"), ((FLUSH,), "a flush")):
        with module("drives=disk"):
            h = ready()
            nl = Netlink().manage()
            h.behave = lambda queue, io, ops=ops: \
                (silent if io["op"] in ops else Queue.serve)(queue, io)
            r = None
            if READ in ops:
                r = Read()
                assert wait_until(lambda: h.queues[0].kept, LONG)
            refused(what, "its requests are not answered")
            same((nl.drive(0)["freeze"], nl.drive(0)["holders"]),
                 (THAWED, []), what)
            h.behave = Queue.serve
            q = h.queues[0]
            q.call(lambda: [q.serve(io) for io in q.kept])
            if r:
                r.join(LONG)
                same(r.error, 0, what)
            same(sleeps()[0], 0, what)
            awake(h, nl)
            h.done()


def under_load():
    """Whether it sleeps or not, nothing is lost, and no helper is taken for a
    silent one while it was stopped."""
    with module("drives=disk", "queues=2"):
        h = ready(queues=2)
        nl = Netlink().manage()
        nl.set(0, stall_timeout=1)
        with subprocess.Popen(
                "fio --name=v --filename=/dev/spicebd0 --rw=randwrite "
                "--bsrange=4k-64k --size=8M --offset_increment=8M --numjobs=2 "
                "--time_based --runtime=15 --verify=crc32c --verify_async=1 "
                "--direct=1 --minimal --ioengine=libaio --iodepth=8",
                shell=True, stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT) as fio:
            assert wait_until(lambda: nl.stats(0)["writes"], LONG)
            since = log_length()
            got = []
            while fio.poll() is None and len(got) < 5:
                got.append(sleeps()[0])
            out = fio.communicate()[0]
        same(fio.returncode, 0, "fio: %s" % out)
        print("# slept %d times of %d" % (got.count(0), len(got)))
        assert got and set(got) <= {0, errno.EBUSY}, got
        same([x for x in says(since) if "has not answered" in x], [])
        same((nl.stats(0)["errors"], nl.stats(0)["resent"]), (0, 0))
        awake(h, nl)
        h.done()


def the_holder_is_the_kernels():
    with module("drives=disk"):
        nl = Netlink().manage()
        name = attr(H.A_INDEX, 0) + attr(H.A_HOLDER, b"suspend\0")
        for cmd in H.FREEZE, H.THAW:
            same(nl.fails(cmd, name), errno.EINVAL)
        # Sixteen others leave no room for it, and it needs none.
        h = ready()
        for i in range(16):
            nl.freeze(0, "holder-%d" % i)
        assert wait_until(lambda: nl.drive(0)["freeze"] == FROZEN, LONG)
        same(sleeps()[0], 0, "sleep")
        same(len(nl.drive(0)["holders"]), 16)
        for i in range(16):
            nl.thaw(0, "holder-%d" % i)
        awake(h, nl)
        h.done()


run(an_idle_medium, suspend_with_a_mounted_file_system,
    with_memory(suspend_with_a_mounted_file_system),
    hibernation_with_a_mounted_file_system, a_far_end_that_is_gone,
    a_helper_that_is_gone, one_whose_time_was_over, one_that_does_not_answer,
    with_memory(one_that_does_not_answer), under_load,
    with_memory(under_load), the_holder_is_the_kernels)
