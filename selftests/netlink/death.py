#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-only
#
# A helper that dies, stalls or loses its far end: requests are held and sent
# again to the next one, or fail when their time is over; nobody waits longer.
import errno
import mmap
import os
import signal
import subprocess
import sys
import threading
import time

import helper as H
from helper import (HELPER_LOST, HELPER_NONE, LINK_REPORT, S_HOLDING, Helper,
                    Netlink, Uevents, attr, silent, wait_until)
from tap import Skip, module, run, same, settle, sh

HERE = os.path.dirname(os.path.abspath(__file__))


def start(*args):
    p = subprocess.Popen([sys.executable, HERE + "/helper.py", *args],
                         stdout=subprocess.PIPE)
    assert p.stdout.readline() == b"ready\n", "the helper did not start"
    return p


def kill(p):
    p.send_signal(signal.SIGKILL)
    p.wait()


class Read(threading.Thread):
    """A direct read that may take its time."""

    def __init__(self, offset=0):
        super().__init__(daemon=True)
        self.offset = offset
        self.error = None
        self.start()

    def run(self):
        fd = os.open("/dev/spicebd0", os.O_RDONLY | os.O_DIRECT)
        try:
            os.preadv(fd, [mmap.mmap(-1, 4096)], self.offset)
            self.error = 0
        except OSError as e:
            self.error = e.errno
        os.close(fd)


def killed_under_load(*options):
    with module("drives=disk", "queues=2"):
        store = "/tmp/spicebd-death"
        args = ("--drive", "0", "--size", "32M", "--file", store,
                "--queues", "2", *options)
        p = start(*args)
        settle()
        uevents = Uevents()
        nl = Netlink()
        fio = subprocess.Popen(
            "fio --name=v --filename=/dev/spicebd0 --rw=randwrite "
            "--bsrange=4k-256k --size=8M --offset_increment=8M --numjobs=4 "
            "--loops=2 --verify=crc32c --do_verify=1 --direct=1 --minimal "
            "--ioengine=libaio --iodepth=8", shell=True,
            stdout=subprocess.PIPE)
        for _ in range(6):
            # Die with requests out.
            assert wait_until(lambda: nl.drive(0)["in_flight"] > 2 or
                              fio.poll() is not None, 30)
            kill(p)
            p = start(*args, "--no-insert")
        out = fio.communicate()[0]
        same(fio.returncode, 0, "fio: %s" % out)
        stats = nl.stats(0)
        same(stats["errors"], 0, "errors")
        assert stats["resent"] > 0, "nothing was resent"
        same([e for e in uevents.read(0.2) if "DISK_MEDIA_CHANGE" in e], [],
             "uevents for the same medium")
        settle()
        kill(p)
        os.unlink(store)
        assert wait_until(lambda: nl.drive(0)["helper"] == HELPER_LOST)
        same(Netlink().manage().verb(H.EJECT, 0, True), 0, "eject")
        same(nl.drive(0)["helper"], HELPER_NONE, "helper")


def held_then_resent():
    with module("drives=disk"):
        h = Helper(0, 8 << 20)
        h.insert()
        settle()
        h.behave = silent
        r = [Read(4096 * i) for i in range(4)]
        nl = Netlink()
        assert wait_until(lambda: nl.drive(0)["in_flight"] == 4)
        watch = Netlink().subscribe()
        h.close()
        assert watch.wait_event(60, lambda e: e["event"] == "helper_lost")
        d = nl.drive(0)
        same((d["helper"], d["held"], d["in_flight"]), (HELPER_LOST, 4, 0))
        assert d["state"] & S_HOLDING and 0 < d["hold_left"] <= 60000, d
        r.append(Read(65536))
        assert wait_until(lambda: nl.drive(0)["held"] == 5)
        h2 = Helper(0, store=h.store)
        for t in r:
            t.join(60)
        same([t.error for t in r], [0] * 5, "errors")
        same(nl.stats(0)["resent"], 4, "resent")
        assert "hold_left" not in nl.drive(0)
        same(h2.eject_idle(), 0, "eject")
        h2.close()


def one_socket_of_two():
    with module("drives=disk", "queues=2"):
        h = Helper(0, 8 << 20, queues=2)
        h.insert()
        settle()
        h.behave = silent
        r = [Read(4096 * i) for i in range(8)]
        assert wait_until(lambda: h.ctl.drive(0)["in_flight"] == 8)
        h.behave = H.Queue.serve
        for q in h.queues:
            if not q.kept:
                continue
            q.stop()
            break
        for other in h.queues:
            if other is not q:
                for io in other.kept:
                    other.serve(io)
        for t in r:
            t.join(60)
        same([t.error for t in r], [0] * 8, "errors")
        same(h.ctl.drive(0)["nr_sockets"], 1, "sockets")
        same(h.ctl.drive(0)["helper"], H.HELPER_ATTACHED, "helper")
        same(h.eject_idle(), 0, "eject")
        h.close()


def reconnect_timeout(seconds):
    with module("drives=disk"):
        h = Helper(0, 8 << 20)
        h.ctl.set(0, reconnect_timeout=seconds)
        h.insert()
        settle()
        h.behave = silent
        nl = Netlink()
        r = Read()
        assert wait_until(lambda: nl.drive(0)["in_flight"] == 1)
        begin = time.monotonic()
        h.close()
        r.join(seconds + 60)
        took = time.monotonic() - begin
        same(r.error, errno.EIO, "the held read")
        assert seconds * 0.9 <= took < seconds + 20, "after %.1f s" % took
        r = Read(8192)
        r.join(60)
        same(r.error, errno.EIO, "a new read")
        h2 = Helper(0, store=h.store)
        r = Read(16384)
        r.join(60)
        same(r.error, 0, "a read with a new helper")
        same(h2.eject_idle(), 0, "eject")
        h2.close()


def reconnect_timeout_of_zero():
    reconnect_timeout(0)


def reconnect_timeout_of_two_seconds():
    reconnect_timeout(2)


def forced_eject_while_held():
    with module("drives=disk"):
        h = Helper(0, 8 << 20)
        h.ctl.set(0, reconnect_timeout=-1)
        h.insert()
        settle()
        h.behave = silent
        r = [Read(4096 * i) for i in range(3)]
        nl = Netlink().manage()
        assert wait_until(lambda: nl.drive(0)["in_flight"] == 3)
        h.close()
        assert wait_until(lambda: nl.drive(0)["held"] == 3)
        assert "hold_left" not in nl.drive(0)
        same(nl.verb(H.EJECT, 0, True), 0, "eject")
        for t in r:
            t.join(60)
        same([t.error for t in r], [errno.EIO] * 3, "errors")


def a_silent_helper_is_unbound():
    with module("drives=disk"):
        h = Helper(0, 8 << 20)
        h.ctl.set(0, stall_timeout=2, reconnect_timeout=0)
        h.insert()
        settle()
        h.behave = silent
        begin = time.monotonic()
        r = Read()
        r.join(60)
        took = time.monotonic() - begin
        same(r.error, errno.EIO, "the read")
        assert 1.5 < took < 30 * H.SCALE, "after %.1f s" % took
        same(h.ctl.drive(0)["helper"], HELPER_LOST, "helper")
        h.queues[0].pause()
        same(h.queues[0].nl.fails(H.IO_COMPLETE, H.u64(H.I_COOKIE, 1)),
             errno.ENOTCONN, "a reply afterwards")
        h.unbind()
        h.behave = H.Queue.serve
        h.attach()
        r = Read(8192)
        r.join(60)
        same(r.error, 0, "a read after attaching again")
        same(h.eject_idle(), 0, "eject")
        h.close()


def a_lost_link_stops_one_clock_and_starts_another():
    with module("drives=disk"):
        h = Helper(0, 8 << 20)
        h.ctl.set(0, stall_timeout=1, reconnect_timeout=60)
        h.insert()
        settle()
        watch = Netlink().subscribe()
        h.ctl.do(LINK_REPORT, attr(H.H_INDEX, 0) + attr(H.H_LINK, 1))
        assert watch.wait_event(60, lambda e: e["event"] == "link_lost")
        h.behave = silent
        r = Read()
        assert wait_until(lambda: h.queues[0].kept)
        r.join(4)
        same(r.error, None, "the read, link lost")
        same(h.ctl.drive(0)["helper"], H.HELPER_ATTACHED, "helper")
        assert h.ctl.drive(0)["hold_left"] < 60000
        h.ctl.set(0, reconnect_timeout=1)
        r.join(60)
        same(r.error, errno.EIO, "the read, when time was over")
        h.behave = H.Queue.serve
        h.ctl.do(LINK_REPORT, attr(H.H_INDEX, 0) + attr(H.H_LINK, 0))
        assert watch.wait_event(60, lambda e: e["event"] == "link_back")
        h.queues[0].serve(h.queues[0].kept[0])
        r = Read(8192)
        r.join(60)
        same(r.error, 0, "a read, link back")
        same(h.ctl.stats(0)["refused"], 0, "refused")
        same(h.eject_idle(), 0, "eject")
        h.close()


def processor_offline_while_held():
    if not os.path.exists("/sys/devices/system/cpu/cpu1/online"):
        raise Skip("one processor")
    with module("drives=disk", "queues=2"):
        h = Helper(0, 8 << 20)
        h.insert()
        settle()
        h.behave = silent
        r = [Read(4096 * i) for i in range(8)]
        nl = Netlink()
        assert wait_until(lambda: nl.drive(0)["in_flight"] == 8)
        h.close()
        assert wait_until(lambda: nl.drive(0)["held"] == 8)
        sh("timeout 20 sh -c 'echo 0 > /sys/devices/system/cpu/cpu1/online'")
        sh("echo 1 > /sys/devices/system/cpu/cpu1/online")
        h2 = Helper(0, store=h.store)
        for t in r:
            t.join(60)
        same([t.error for t in r], [0] * 8, "errors")
        same(h2.eject_idle(), 0, "eject")
        h2.close()


TESTS = (
    killed_under_load, held_then_resent, one_socket_of_two,
    reconnect_timeout_of_zero, reconnect_timeout_of_two_seconds,
    forced_eject_while_held, a_silent_helper_is_unbound,
    a_lost_link_stops_one_clock_and_starts_another,
    processor_offline_while_held)

if __name__ == "__main__":
    run(*TESTS)
