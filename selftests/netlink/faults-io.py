#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-only
# timeout: 500
#
# Allocations of the module fail now and then, in whatever thread: while requests
# are dispatched and answered no I/O may fail for it and no byte be wrong. And each
# allocation of the worker that shows and hides a medium fails once: the medium
# becomes readable all the same, with its uevent, and is gone, with its own. Needs
# a kernel with fault injection, and build/tests/netlink_fuzz (fuzz/build).
import os
import signal
import subprocess
import sys
import threading

import helper as H
import inject
from helper import Helper, Netlink, Uevents, wait_until
from tap import module, run, same

HERE = os.path.dirname(os.path.abspath(__file__))
FUZZ = os.path.join(HERE, "../../build/tests/netlink_fuzz")
SEED = int(os.environ.get("SPICEBD_FUZZ_SEED", "0")) or \
    int.from_bytes(os.urandom(4), "little") | 1
# Faults that have to have happened.
FAULTS = int(os.environ.get("SPICEBD_FAULTS", "200"))
# So many cycles without one, with ever more room, are the end.
SPARED = 3


def serve(memory):
    p = subprocess.Popen([sys.executable, os.path.join(HERE, "helper.py"), "--drive", "0",
                          "--size", "4M", "--queues", "2", "--memory", memory],
                         stdout=subprocess.PIPE, text=True)
    same(p.stdout.readline(), "ready\n", "the helper")
    return p


def traffic(memory):
    """Several users at once, so that requests meet in batches."""
    with module("drives=disk", "queues=2", "depth=8"):
        inject.setup()
        helper = serve(memory)
        io = [subprocess.Popen([FUZZ, "io", str(SEED), "/dev/spicebd0"],
                               stdout=subprocess.PIPE, text=True)]
        reader = subprocess.Popen(
            "while dd if=/dev/spicebd0 of=/dev/null bs=64k count=16 2>&1 &&"
            " dd if=/dev/spicebd0 of=/dev/null bs=256k iflag=direct 2>&1; do :; done",
            shell=True, stdout=subprocess.PIPE, text=True, start_new_session=True)
        text = []
        t = threading.Thread(target=lambda: text.extend(reader.stdout.readlines()))
        t.start()
        with inject.anybody(10) as failed:
            assert wait_until(lambda: failed() >= FAULTS or io[0].poll() is not None, 100, 0.2), \
                "only %d faults" % failed()
            count = failed()
        io[0].send_signal(signal.SIGTERM)
        line = io[0].stdout.read().strip()
        print("# seed %d: %d allocations failed; %s" % (SEED, count, line), flush=True)
        same((io[0].wait(), count >= FAULTS), (0, True), line)
        same(reader.poll(), None, "".join(text[-5:]))
        os.killpg(reader.pid, signal.SIGTERM)
        t.join()
        nl = Netlink().manage()
        stats = nl.stats(0)
        same((stats["errors"], stats["refused"]), (0, 0), "errors, refused")
        helper.kill()
        helper.wait()
        assert wait_until(lambda: not nl.drive(0)["openers"]), "still open"
        same(nl.verb(H.EJECT, 0, True), 0, "eject")
        nl.close()


def dispatch_in_messages():
    traffic("0")


def dispatch_with_registered_memory():
    traffic("1M")


F = H.F_FLUSH | H.F_FUA


def changes(events):
    return any("DISK_MEDIA_CHANGE" in e for e in events)


def one_fault(h, index, watch, point, space):
    """A medium in and out; did an allocation fail?"""
    with inject.once(point, space) as failed:
        h.insert(F, wait=0)
        assert wait_until(lambda: h.ctl.drive(index)["state"] & H.S_READY, 30), "never readable"
        assert wait_until(lambda: changes(watch.read(0.05)), 30), "no uevent of the insert"
        same(h.eject(True), 0, "eject")
        assert wait_until(lambda: changes(watch.read(0.05)), 30), "no uevent of the eject"
        return failed()


def every_fault(h, index, watch, point, step):
    """The worker's first allocation fails, then one behind so much that it has
    got, and so on until nothing is left to fail."""
    fired = space = spared = 0
    while spared < SPARED:
        if one_fault(h, index, watch, point, space):
            fired += 1
            spared = 0
        else:
            spared += 1
        space += max(step, space // 8)
    print("# %s: an allocation failed in %d cycles, the last after %d %s" % (
        point, fired, space, "pages" if point == "fail_page_alloc" else "bytes"), flush=True)
    assert fired, "%s: nothing failed" % point


def media(index):
    with module("drives=cdrom,disk"):
        # What shows and hides a medium.
        inject.setup(inject.range_of("sbd_medium_work"))
        h = Helper(index, 4 << 20)
        h.store.write(0, os.urandom(65536))
        watch = Uevents()
        every_fault(h, index, watch, "failslab", 96)
        every_fault(h, index, watch, "fail_page_alloc", 1)
        # and without faults
        h.insert(F)
        with open("/dev/spicebd%d" % index, "rb", buffering=0) as f:
            same(f.read(65536) == h.store.read(0, 65536), True, "what is read")
        watch.sock.close()
        h.close()


def media_in_a_cdrom():
    media(0)


def media_in_a_disk():
    media(1)


def with_faults(test):
    def again():
        inject.need()
        test()
    again.__name__ = test.__name__
    return again


run(*map(with_faults, (dispatch_in_messages, dispatch_with_registered_memory,
                       media_in_a_cdrom, media_in_a_disk)))
