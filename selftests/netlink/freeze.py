#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-only
#
# Freeze and thaw: holders and their limits; requests that are out are awaited,
# then the far end's cache is flushed, and what comes meanwhile waits; force,
# delete, insert and a helper's death while a drive is frozen.
import errno
import fcntl
import mmap
import os
import threading
import time

import helper as H
from helper import (DISK, DRAINING, DRIVE_ADD, DRIVE_DEL, DRIVE_SET, EJECT,
                    FAILED, FLUSH, FLUSHING, FROZEN, READ, S_FREEZING, S_READY,
                    THAWED, TRAY_OPEN, WRITE, Helper, Netlink, Queue, Uevents,
                    attr, silent, wait_until, with_memory)
from tap import module, run, same, settle, sh

CDROMEJECT = 0x5309
LONG = 60
EXPIRED = ("spicebd0: short has kept it frozen for as long as it may: others still do",
           "spicebd0: long has kept it frozen for as long as it may: thawed")


class Io(threading.Thread):
    """A direct read or write that may take its time."""

    def __init__(self, offset=0, data=None):
        super().__init__(daemon=True)
        self.offset, self.data = offset, data
        self.error = self.got = None
        self.over = threading.Event()
        self.start()

    def run(self):
        page = mmap.mmap(-1, 4096)
        try:
            fd = os.open("/dev/spicebd0", os.O_RDWR | os.O_DIRECT | os.O_CLOEXEC)
        except OSError as e:
            self.error = e.errno
            self.over.set()
            return
        try:
            if self.data is None:
                os.preadv(fd, [page], self.offset)
                self.got = page[:]
            else:
                page[:] = self.data * 4096
                os.pwritev(fd, [page], self.offset)
            self.error = 0
        except OSError as e:
            self.error = e.errno
        self.over.set()
        # It may have to wait: udev reads the partition table anew, with the disk's
        # open_mutex held, and a frozen drive holds up that read.
        os.close(fd)

    def ended(self, error=0):
        self.over.wait(LONG)
        same(self.error, error, "the end of a request")


def reaches(nl, state, index=0):
    assert wait_until(lambda: nl.drive(index)["freeze"] == state, LONG), \
        nl.drive(index)


def waits(nl, number, index=0):
    """At least so many: udev looks into a drive when a writer has closed it."""
    assert wait_until(lambda: nl.drive(index)["held"] >= number, LONG), \
        nl.drive(index)


def ready(**kw):
    """A helper with a medium in drive 0, which nobody looks at. It may keep a request
    for as long as a busy machine takes to look at that."""
    Netlink().manage().set(0, stall_timeout=10 * LONG)
    h = Helper(0, 8 << 20)
    h.insert(**kw)
    h.idle()
    return h


def keeps(*ops):
    """A helper that keeps these and answers others."""
    def behave(queue, io):
        (silent if io["op"] in ops else Queue.serve)(queue, io)
    return behave


def answer(h, error=0):
    """What it kept."""
    for q in h.queues:
        kept, q.kept = q.kept, []
        for io in kept:
            if error:
                q.send(q.complete(io["cookie"], error))
            else:
                q.serve(io)


def has(h, op):
    """The helper keeps such a request: any other may be udev's."""
    assert wait_until(lambda: any(io["op"] == op for q in h.queues
                                  for io in q.kept), LONG), h.log


def freezes(nl):
    return lambda e: e["event"] == "freeze" and e["freeze"]


def drained_then_flushed():
    with module("drives=disk"):
        h = ready()
        h.behave = keeps(WRITE, FLUSH)
        nl = Netlink().manage()
        out = Io(0, b"a")
        has(h, WRITE)
        watch = Netlink().subscribe()
        d = nl.freeze(0, "one")
        same((d["freeze"], d["holders"][0]["name"]), (DRAINING, "one"))
        assert d["state"] & S_FREEZING, d
        late = [Io(4096, b"b"), Io(8192)]
        waits(nl, 2)
        same(nl.drive(0)["freeze"], DRAINING, "while a write is out")
        same([op for op, *_ in h.log if op == FLUSH], [], "no flush yet")
        answer(h)
        out.ended()
        reaches(nl, FLUSHING)
        # The event of each step, in order; only a manager is told names.
        steps = []
        while FLUSHING not in steps:
            e = watch.wait_event(LONG, freezes(nl))
            steps.append(e["freeze"])
            same(e["holders"][0]["name"], "", "a name in an event")
        same(steps, [DRAINING, FLUSHING])
        has(h, FLUSH)
        same(h.log[-1][0], FLUSH, "the last request")
        answer(h)
        reaches(nl, FROZEN)
        e = watch.wait_event(LONG, freezes(nl))
        assert e and e["freeze"] == FROZEN, (e, nl.drive(0))
        seen = h.seen
        waits(nl, 2)
        h.behave = Queue.serve
        same(nl.thaw(0, "one")["freeze"], THAWED)
        for t in late:
            t.ended()
        same((h.store.read(0, 1), h.store.read(4096, 1)), (b"a", b"b"))
        assert h.seen > seen
        h.done()


def the_flush_has_a_tag_of_its_own():
    """All others are taken by requests that wait."""
    with module("drives=disk", "queues=1", "depth=1"):
        h = ready()
        h.behave = keeps(WRITE)
        nl = Netlink().manage()
        first = Io(0, b"a")
        has(h, WRITE)
        nl.freeze(0)
        same(nl.drive(0)["freeze"], DRAINING)
        answer(h)
        first.ended()
        reaches(nl, FROZEN)
        late = [Io(4096 * i, b"b") for i in range(1, 4)]
        waits(nl, 1)
        h.log.clear()
        h.behave = Queue.serve
        nl.thaw(0)
        for t in late:
            t.ended()
        # The second write takes the tag as soon as the first one leaves it,
        # and the others are in the queue before the flush.
        h.behave = keeps(WRITE, FLUSH)
        late = [Io(4096 * i, b"c") for i in range(4)]
        has(h, WRITE)
        nl.freeze(0)
        answer(h)
        reaches(nl, FLUSHING)
        waits(nl, 1)
        has(h, FLUSH)
        same(h.log[-1][0], FLUSH, "the last request")
        # It also does when it is handed to the next helper.
        h.close()
        waits(nl, 2)
        h = Helper(0, store=h.store)
        reaches(nl, FROZEN)
        same([op for op, *_ in h.log], [FLUSH], "requests")
        nl.thaw(0)
        for t in late:
            t.ended()
        h.done()


def a_read_only_medium_is_not_flushed():
    with module("drives=disk"):
        h = ready(flags=H.F_READ_ONLY)
        nl = Netlink().manage()
        h.log.clear()
        nl.freeze(0)
        reaches(nl, FROZEN)
        same(h.log, [], "requests")
        nl.thaw(0)
        h.done()


def holders_are_counted_by_name():
    with module("drives=disk"):
        h = ready()
        nl = Netlink().manage()
        nl.freeze(0, "a")
        nl.freeze(0, "b", 1000)
        nl.freeze(0, "a", 500)
        reaches(nl, FROZEN)
        got = {x["name"]: x["left"] for x in nl.drive(0)["holders"]}
        assert got.keys() == {"a", "b"} and 400000 < got["a"] <= 500000 \
            and 900000 < got["b"] <= 1000000, got
        t = Io(0)
        waits(nl, 1)
        same(nl.thaw(0, "a")["freeze"], FROZEN, "with one left")
        for who in "a", "nobody":
            try:
                nl.thaw(0, who)
                raise AssertionError("thawed by " + who)
            except H.NetlinkError as e:
                same(e.errno, errno.ENOENT)
        same(t.error, None, "it waits")
        same(nl.thaw(0, "b")["freeze"], THAWED, "with none left")
        t.ended()
        for i in range(16):
            nl.freeze(0, "holder-%d" % i)
        try:
            nl.freeze(0, "one more")
            raise AssertionError("seventeen")
        except H.NetlinkError as e:
            same(e.errno, errno.ENOSPC)
        nl.freeze(0, "holder-7", 100)
        same(len(nl.drive(0)["holders"]), 16)
        for i in range(16):
            nl.thaw(0, "holder-%d" % i)
        same(nl.drive(0)["freeze"], THAWED)
        index = attr(H.A_INDEX, 0)
        for bad in (index, index + attr(H.A_HOLDER, b"\0"),
                    attr(H.A_HOLDER, b"x\0")):
            same(nl.fails(H.FREEZE, bad), errno.EINVAL, "FREEZE")
            same(nl.fails(H.THAW, bad), errno.EINVAL, "THAW")
        assert nl.fails(H.FREEZE, index + attr(H.A_HOLDER, b"n" * 32 + b"\0"))
        same(Netlink().fails(H.FREEZE, index + attr(H.A_HOLDER, b"x\0")),
             errno.EPERM, "who is no manager")
        h.done()


def limits_come():
    with module("drives=disk"):
        h = ready()
        nl = Netlink().manage()
        watch = Netlink().subscribe()
        began = time.monotonic()
        logged = [sh("dmesg").count(line) for line in EXPIRED]
        nl.freeze(0, "short", 1)
        nl.freeze(0, "long", 2)
        reaches(nl, FROZEN)
        t = Io(0, b"x")
        waits(nl, 1)
        for left in 1, 0:
            e = watch.wait_event(LONG,
                                 lambda e: e["event"] == "freeze_expired")
            same(len(e["holders"]), left, "holders left")
            assert time.monotonic() - began > 1.9 - left, "too early"
        same(e["freeze"], THAWED)
        t.ended()
        same([sh("dmesg").count(line) for line in EXPIRED], [n + 1 for n in logged],
             "what the kernel's log says")
        # A limit set anew does not come at its old time.
        nl.freeze(0, "again", 1)
        nl.freeze(0, "again", 1000)
        assert not watch.wait_event(
            1.5, lambda e: e["event"] == "freeze_expired")
        nl.thaw(0, "again")
        h.done()


def a_flush_that_fails():
    with module("drives=disk"):
        h = ready()
        h.behave = keeps(FLUSH)
        nl = Netlink().manage()
        nl.freeze(0)
        reaches(nl, FLUSHING)
        has(h, FLUSH)
        answer(h, errno.EIO)
        reaches(nl, FAILED)
        same(nl.drive(0)["freeze_error"], errno.EIO)
        h.behave = Queue.serve
        nl.freeze(0)		# another try
        reaches(nl, FROZEN)
        assert "freeze_error" not in nl.drive(0)
        nl.thaw(0)
        h.done()


def thawed_before_it_was_frozen():
    """What was done for the first freeze is not taken for the second."""
    with module("drives=disk"):
        h = ready()
        h.behave = keeps(FLUSH)
        nl = Netlink().manage()
        nl.freeze(0)
        reaches(nl, FLUSHING)
        has(h, FLUSH)
        nl.thaw(0)
        Io(0, b"z").ended()
        nl.freeze(0)
        same(nl.drive(0)["freeze"], DRAINING, "the old flush is out")
        flushes = len([1 for op, *_ in h.log if op == FLUSH])
        answer(h)
        has(h, FLUSH)
        same(len([1 for op, *_ in h.log if op == FLUSH]), flushes + 1)
        same(nl.drive(0)["freeze"], FLUSHING)
        answer(h)
        reaches(nl, FROZEN)
        nl.thaw(0)
        h.done()


def quick(nl, cmd, index=0):
    began = time.monotonic()
    same(nl.verb(cmd, index, True), 0, "by force")
    took = time.monotonic() - began
    assert took < 5 * H.SCALE, "%.1f s" % took


def verbs_while_frozen():
    for ops, verb in (((FLUSH,), EJECT), ((READ, FLUSH), EJECT),
                      ((READ, FLUSH), DRIVE_DEL)):
        with module("drives=disk"):
            h = ready()
            h.behave = keeps(*ops)
            nl = Netlink().manage()
            out = Io(0) if READ in ops else None
            if out:
                has(h, READ)
            nl.freeze(0)
            reaches(nl, DRAINING if out else FLUSHING)
            same(nl.verb(EJECT, 0), errno.EBUSY, "eject")
            same(nl.verb(DRIVE_DEL, 0), errno.EBUSY, "delete")
            late = Io(4096)
            waits(nl, 1)
            quick(nl, verb)
            late.ended(errno.EIO)
            if out:
                out.ended(errno.EIO)
            if verb == DRIVE_DEL:
                h.close()
                settle()
                continue
            same(nl.drive(0)["medium"], None, "the medium")
            assert nl.drive(0)["holders"], "a holder stays"
            answer(h)
            nl.thaw(0)
            h.done()


def a_cdrom():
    with module("drives=cdrom"):
        h = Helper(0, 8 << 20)
        h.insert(flags=0)
        h.idle()
        nl = Netlink().manage()
        nl.freeze(0)
        reaches(nl, FROZEN)
        same(nl.verb(TRAY_OPEN, 0), errno.EBUSY, "tray")
        fd = os.open("/dev/spicebd0", os.O_RDONLY | os.O_NONBLOCK)
        try:
            fcntl.ioctl(fd, CDROMEJECT)
            raise AssertionError("ejected")
        except OSError as e:
            same(e.errno, errno.EBUSY, "CDROMEJECT")
        os.close(fd)
        quick(nl, TRAY_OPEN)
        # Closed while frozen: readable when it is thawed.
        same(nl.verb(H.TRAY_CLOSE, 0), 0, "close")
        assert not nl.drive(0)["state"] & S_READY
        nl.thaw(0)
        assert wait_until(lambda: nl.drive(0)["state"] & S_READY, LONG)
        h.done()


def insert_while_frozen():
    with module("drives=disk"):
        h = Helper(0, 8 << 20)
        nl = Netlink().manage()
        nl.freeze(0)
        reaches(nl, FROZEN)
        uevents = Uevents()
        h.insert(wait=0)
        try:
            os.open("/dev/spicebd0", os.O_RDONLY)
            raise AssertionError("opened")
        except OSError as e:
            same(e.errno, errno.ENOMEDIUM)
        same(h.log, [], "requests")
        watch = Netlink().subscribe()
        nl.thaw(0)
        assert watch.wait_event(LONG, lambda e: e["event"] == "medium_changed"
                                and e["state"] & S_READY)
        same(len(uevents.those(lambda e: "DISK_MEDIA_CHANGE" in e, 1)), 1)
        Io(0, b"q").ended()
        h.done()


def made_held():
    with module("drives=disk", "held=1"):
        nl = Netlink().manage()
        reaches(nl, FROZEN)
        same(nl.drive(0)["holders"][0]["name"], "start")
        h = Helper(0, 8 << 20)
        h.insert(wait=0)
        same(h.log, [], "requests")
        d = H.drive_dict(nl.do(DRIVE_ADD, attr(H.A_PERSONALITY, DISK) +
                               attr(H.A_HELD_START, b""))[0])
        same(d["holders"][0]["name"], "start")
        reaches(nl, FROZEN, d["index"])
        nl.thaw(d["index"], "start")
        # udev looks into a new drive.
        assert wait_until(lambda: nl.verb(DRIVE_DEL, d["index"]) == 0), "delete"
        nl.thaw(0, "start")
        assert wait_until(lambda: nl.drive(0)["state"] & S_READY, LONG)
        h.idle()
        Io(0).ended()
        h.done()


def a_disc_in_a_held_drive():
    """Who waits for the drive may know how large it will be, and no more."""
    with module("drives=cdrom", "held=1"):
        nl = Netlink().manage()
        reaches(nl, FROZEN)
        uevents = Uevents()
        h = Helper(0, 8 << 20)
        fd = os.open("/dev/spicebd0", os.O_RDONLY | os.O_NONBLOCK)
        same(os.lseek(fd, 0, os.SEEK_END), 0, "the size before")
        h.insert(wait=0)
        assert wait_until(lambda: os.lseek(fd, 0, os.SEEK_END) == 8 << 20, LONG)
        try:
            os.open("/dev/spicebd0", os.O_RDONLY)
            raise AssertionError("opened")
        except OSError as e:
            same(e.errno, errno.ENOMEDIUM)
        same(h.eject(force=True), 0, "a forced eject")
        assert wait_until(lambda: os.lseek(fd, 0, os.SEEK_END) == 0, LONG)
        h.insert(wait=0)
        assert wait_until(lambda: os.lseek(fd, 0, os.SEEK_END) == 8 << 20, LONG)
        same([e for e in uevents.read(1) if "DISK_MEDIA_CHANGE" in e], [], "told")
        same(h.log, [], "requests")
        # Before anybody, udev too, can have read it.
        h.store.memory[4 << 20:(4 << 20) + 4096] = b"held" * 1024
        nl.thaw(0, "start")
        assert wait_until(lambda: nl.drive(0)["state"] & S_READY, LONG)
        same(len([e for e in uevents.read(1) if "DISK_MEDIA_CHANGE" in e]), 1)
        assert os.pread(fd, 4096, 4 << 20) == b"held" * 1024
        os.close(fd)
        h.done()


def the_helper_dies():
    """The clock of the reconnect timeout stands while the drive is frozen."""
    with module("drives=disk"):
        h = ready()
        nl = Netlink().manage()
        nl.do(DRIVE_SET, attr(H.A_INDEX, 0) + attr(H.A_RECONNECT_TIMEOUT, 1))
        h.behave = keeps(READ)
        out = Io(0)
        has(h, READ)
        nl.freeze(0)
        late = Io(4096)
        waits(nl, 1)
        h.close()
        # What it had is held, and a flush waits for the next one.
        waits(nl, 3)
        reaches(nl, FLUSHING)
        assert "hold_left" not in nl.drive(0)
        time.sleep(2)		# twice as long as they would be waited for
        same((out.error, late.error), (None, None), "they wait")
        h = Helper(0, store=h.store)
        reaches(nl, FROZEN)
        same((out.error, late.error), (None, None), "they wait")
        nl.thaw(0)
        out.ended()
        late.ended()
        h.idle()
        # Without another helper the clock begins with the thaw.
        nl.freeze(0)
        reaches(nl, FROZEN)
        late = Io(0)
        waits(nl, 1)
        h.close()
        time.sleep(2)
        same(late.error, None, "it waits")
        nl.thaw(0)
        late.ended(errno.EIO)
        quick(nl, EJECT)
        settle()


def cycles_under_load():
    """fio verifies; the helper never gets a request while frozen."""
    with module("drives=disk", "queues=2"):
        h = Helper(0, 8 << 20, queues=2)
        h.insert()
        h.idle()
        nl = Netlink().manage()
        wrong = []
        done = threading.Event()

        def load():
            wrong.append(sh(
                "fio --name=v --filename=/dev/spicebd0 --rw=randwrite "
                "--bsrange=4k-64k --size=2M --offset_increment=2M --numjobs=4 "
                "--loops=4 --verify=crc32c --do_verify=1 --direct=1 "
                "--minimal --ioengine=libaio --iodepth=8", check=False))
            done.set()
        threading.Thread(target=load, daemon=True).start()
        cycles = 0
        while not done.is_set() or cycles < 20:
            nl.freeze(0)
            reaches(nl, FROZEN)
            seen = h.seen
            if cycles % 10 == 0:
                time.sleep(0.05)
            same(h.seen, seen, "requests while frozen")
            same(nl.drive(0)["in_flight"], 0)
            nl.thaw(0)
            cycles += 1
        same(wrong, [0], "fio")
        same(nl.stats(0)["errors"], 0, "errors")
        print("# %d cycles" % cycles)
        h.done()


run(drained_then_flushed, with_memory(drained_then_flushed),
    the_flush_has_a_tag_of_its_own,
    with_memory(the_flush_has_a_tag_of_its_own),
    a_read_only_medium_is_not_flushed, holders_are_counted_by_name,
    limits_come, a_flush_that_fails, thawed_before_it_was_frozen,
    verbs_while_frozen, with_memory(verbs_while_frozen), a_cdrom,
    insert_while_frozen, made_held, a_disc_in_a_held_drive, the_helper_dies,
    with_memory(the_helper_dies), cycles_under_load,
    with_memory(cycles_under_load))
