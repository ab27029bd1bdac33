#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-only
# timeout: 300
#
# Registered buffers: the tests of the data path with them, and what is
# theirs alone: what may be registered, how much, for how long, to whom a part
# of the memory belongs, and that requests of one plug come together.
import ctypes
import errno
import mmap
import os
import resource

import death
import helper as H
import rw
from helper import (ATTACH, EJECT, Helper, Memory, Netlink, NetlinkError,
                    Queue, attr, silent, wait_until, with_memory)
from tap import module, run, same, settle, sh

PAGE = mmap.PAGESIZE


def killed_with_memory():
    death.killed_under_load("--memory", "4M")


def pinned():
    # The counters are spread over the CPUs; this brings them together.
    with open("/proc/sys/vm/stat_refresh", "w", encoding="ascii") as f:
        f.write("1")
    v = dict(line.split() for line in open("/proc/vmstat", encoding="ascii"))
    return int(v["nr_foll_pin_acquired"]) - int(v["nr_foll_pin_released"])


def locked():
    for line in open("/proc/self/status", encoding="ascii"):
        if line.startswith("VmLck"):
            return int(line.split()[1]) << 10
    raise AssertionError("no VmLck")


class Range:
    """A range of memory that is lied about."""

    def __init__(self, memory, addr=0, size=None):
        self.memory = memory
        self.addr = memory.addr + addr
        self.size = memory.size if size is None else size


def refused(key, memory, code, what):
    nl = Netlink(1 << 20)
    try:
        nl.bind(key, None, memory)
    except NetlinkError as e:
        same(e.errno, code, what)
        nl.close()
        return
    raise AssertionError(what + ": was accepted")


def what_may_not_be_registered():
    with module("drives=disk"):
        ctl = Netlink().manage()
        key = ctl.keys(ATTACH, 0, 1)[0]
        good = Memory(4 << 20)
        before = pinned()
        refused(key, Range(good, 512), errno.EINVAL, "not aligned")
        refused(key, Range(good, 0, (4 << 20) - 512), errno.EINVAL, "part of a page")
        refused(key, Range(good, 0, 0), errno.EINVAL, "nothing")
        refused(key, Range(good, 0, 1 << 40), errno.EINVAL, "too much")
        refused(key, Range(good, 0, 2 ** 64 - PAGE), errno.EINVAL, "around the end")
        refused(key, Range(good, 0, PAGE), errno.EINVAL, "less than a request")
        refused(key, Range(good, 0, 8 << 20), errno.EFAULT, "more than there is")
        refused(key, Memory(4 << 20, lock=False), errno.EFAULT, "not present")
        refused(key, Range(good, 1 << 46), errno.EFAULT, "nowhere")
        settle()
        assert wait_until(lambda: pinned() == before), "pages stay pinned"
        # The key is still good.
        nl = Netlink(1 << 20)
        nl.bind(key, None, good)
        same(pinned() - before, 1024, "pinned pages")
        nl.close()
        assert wait_until(lambda: pinned() == before), "pages stay pinned"
        ctl.close()


def no_more_than_the_process_may_lock():
    with module("drives=disk"):
        ctl = Netlink().manage()
        key = ctl.keys(ATTACH, 0, 1)[0]
        good = Memory(4 << 20)
        nl = Netlink(1 << 20)
        old = resource.getrlimit(resource.RLIMIT_MEMLOCK)
        before = locked()
        resource.setrlimit(resource.RLIMIT_MEMLOCK, (before + PAGE, old[1]))
        os.seteuid(65534)
        try:
            nl.bind(key, None, good)
            raise AssertionError("more than the limit was registered")
        except NetlinkError as e:
            same(e.errno, errno.ENOMEM, "beyond the limit")
        finally:
            os.seteuid(0)
            resource.setrlimit(resource.RLIMIT_MEMLOCK, old)
        same(locked(), before, "locked after the refusal")
        nl.bind(key, None, good)
        same(locked() - before, 4 << 20, "accounted")
        nl.close()
        assert wait_until(lambda: locked() == before), "it stays accounted"
        ctl.close()


def no_more_than_a_drive_may_have():
    with module("drives=disk"):
        ctl = Netlink().manage()
        keys = ctl.keys(ATTACH, 0, 3)
        first = Netlink(1 << 20)
        first.bind(keys[0], None, Memory(60 << 20))
        refused(keys[1], Memory(8 << 20), errno.ENOSPC, "more than 64 MiB")
        second = Netlink(1 << 20)
        second.bind(keys[1], None, Memory(4 << 20))
        first.close()
        small = Memory(60 << 20)

        def fits():
            nl = Netlink(1 << 20)
            try:
                nl.bind(keys[2], None, small)
            except NetlinkError:
                nl.close()
                return False
            nl.close()
            return True
        assert wait_until(fits), "the share of a closed socket stays taken"
        second.close()
        ctl.close()


def requests_of_one_plug_come_together():
    with module("drives=disk", "queues=1"):
        h = Helper(0, 16 << 20, memory=4 << 20)
        h.insert()
        settle()
        h.batches.clear()
        sh("fio --name=v --filename=/dev/spicebd0 --rw=randread --bs=4k "
           "--size=8M --direct=1 --ioengine=io_uring --iodepth=16 "
           "--iodepth_batch_submit=16 --iodepth_batch_complete_min=16 --minimal")
        # Neighbours in one plug are merged, few of them.
        assert sum(h.batches) > 1500, "%d requests" % sum(h.batches)
        assert max(h.batches) == 16, "at most %d at once" % max(h.batches)
        assert len(h.batches) < sum(h.batches) / 4, \
            "%d messages for %d requests" % (len(h.batches), sum(h.batches))
        same(h.eject_idle(), 0, "eject")
        h.close()


def a_part_stays_the_helpers_until_it_answers():
    with module("drives=disk", "queues=1"):
        h = Helper(0, 8 << 20, memory=1 << 20)
        h.insert()
        settle()
        h.behave = silent
        r = death.Read()
        queue = h.queues[0]
        assert wait_until(lambda: queue.kept)
        same(h.eject(True), 0, "forced eject")
        r.join(60)
        same(r.error, errno.EIO, "the read")
        kept = queue.kept[0]
        theirs = range(kept["buffer"], kept["buffer"] + kept["length"])
        h.behave = Queue.serve
        assert wait_until(lambda: not h.ctl.drive(0)["openers"])
        met = []

        def watch(q, io):
            if io["op"] in (H.READ, H.WRITE):
                met.append(io["buffer"] < theirs.stop and
                           theirs.start < io["buffer"] + io["length"])
            q.serve(io)
        h.behave = watch
        h.insert()
        settle()
        sh("fio --name=v --filename=/dev/spicebd0 --rw=randrw --bsrange=4k-256k "
           "--size=4M --direct=1 --ioengine=libaio --iodepth=8 --minimal "
           "--verify=crc32c --do_verify=1 --loops=2")
        assert len(met) > 50, "requests"
        same(any(met), False, "a part that was not given back was used")
        refusals = h.ctl.stats(0)["refused"]
        queue.call(lambda: queue.send(queue.complete(kept["cookie"])))
        sh("dd if=/dev/spicebd0 of=/dev/null bs=1M iflag=direct status=none")
        same(h.ctl.stats(0)["refused"], refusals, "a late answer is no crime")
        assert any(met), "the part does not come back"
        same(h.eject_idle(), 0, "eject")
        h.close()


def answers_that_are_wrong():
    with module("drives=disk", "queues=1"):
        h = Helper(0, 8 << 20, memory=4 << 20)
        h.insert()
        settle()
        h.store.write(0, b"x" * 4096)
        count = [0]

        def wrong(q, io):
            nl, cookie = q.nl, io["cookie"]
            bad = cookie ^ (1 << 40)
            q.send(H.message(nl.family, H.IO_COMPLETE, H.u64(H.I_COOKIE, cookie)))
            q.send(H.message(nl.family, H.IO_DATA, H.u64(H.I_COOKIE, cookie) +
                             attr(H.I_DATA_OFFSET, 0) + attr(H.I_DATA, b"y" * 512)))
            q.send(H.message(nl.family, H.IO_ANSWERS, attr(H.I_ANSWERS, b"z" * 20)))
            q.send(H.message(nl.family, H.IO_ANSWERS, attr(H.I_ANSWERS, b"z" * 16 * 17)))
            q.send(H.message(nl.family, H.IO_ANSWERS))
            if io["op"] == H.READ:
                q.memory.map[io["buffer"]:io["buffer"] + io["length"]] = \
                    h.store.read(io["offset"], io["length"])
            count[0] += 1
            # The one good answer is taken, twice is once too often.
            q.send(q.answers((bad, 0), (cookie, 0), (cookie, 0)))
        h.behave = wrong
        fd = os.open("/dev/spicebd0", os.O_RDONLY | os.O_DIRECT)
        buf = mmap.mmap(-1, 4096)
        same(os.preadv(fd, [buf], 0), 4096, "read")
        same(buf[:], b"x" * 4096, "data")
        os.close(fd)
        # The message's last answer is looked at after the read has ended.
        # All but the list that is longer than the policy lets pass are counted.
        assert wait_until(lambda: h.ctl.stats(0)["refused"] == 6 * count[0], 60), \
            "%d of %d" % (h.ctl.stats(0)["refused"], 6 * count[0])
        stats = h.ctl.stats(0)
        same(stats["errors"], 0, "errors")
        h.behave = Queue.serve
        same(h.eject_idle(), 0, "eject")
        # Lists are for sockets with memory alone.
        h.close()
        assert wait_until(lambda: Netlink().drive(0)["helper"] == H.HELPER_NONE)
        plain = Helper(0, 8 << 20)
        plain.insert()
        settle()

        def lists(q, io):
            q.send(H.message(q.nl.family, H.IO_ANSWERS, attr(
                H.I_ANSWERS, H.ANSWER.pack(io["cookie"], 0, 0))))
            q.serve(io)
        plain.behave = lists
        sh("dd if=/dev/spicebd0 of=/dev/null bs=4k count=4 iflag=direct status=none")
        assert plain.ctl.stats(0)["refused"] >= stats["refused"] + 4
        plain.behave = Queue.serve
        same(plain.eject_idle(), 0, "eject")
        plain.close()


def memory_that_is_unmapped_stays_pinned():
    with module("drives=disk", "queues=1"):
        h = Helper(0, 8 << 20, memory=4 << 20)
        h.insert()
        settle()
        m = h.queues[0].memory
        before = pinned()
        m.map[0:PAGE * 16] = b"q" * (PAGE * 16)

        def blind(q, io):
            q.send(q.complete(io["cookie"]))
        h.behave = blind
        # Nothing of Python's looks at it any more.
        same(H.LIBC.madvise(ctypes.c_void_p(m.addr), ctypes.c_size_t(m.size),
                            4), -1, "madvise of locked memory")
        same(H.LIBC.munlock(ctypes.c_void_p(m.addr), ctypes.c_size_t(m.size)), 0, "munlock")
        same(H.LIBC.madvise(ctypes.c_void_p(m.addr), ctypes.c_size_t(m.size), 4), 0, "madvise")
        fd = os.open("/dev/spicebd0", os.O_RDONLY | os.O_DIRECT)
        buf = mmap.mmap(-1, 4096)
        same(os.preadv(fd, [buf], 0), 4096, "read")
        same(buf[:], b"q" * 4096, "what the pinned page holds")
        os.close(fd)
        same(pinned(), before, "pinned")
        same(h.ctl.verb(EJECT, 0, True), 0, "eject")
        h.close()
        assert wait_until(lambda: before - pinned() == 1024), "unpinned at the end"


run(with_memory(rw.several_queues_and_sockets),
    with_memory(rw.more_queues_than_sockets), with_memory(rw.depth_one),
    with_memory(rw.requests_of_4_mib), with_memory(rw.data_lands_where_it_belongs),
    with_memory(rw.flush_discard_and_zeroes),
    with_memory(rw.errors_of_the_helper_arrive),
    with_memory(rw.a_completion_that_closes_the_drive),
    with_memory(death.held_then_resent), with_memory(death.one_socket_of_two),
    killed_with_memory, with_memory(death.forced_eject_while_held),
    what_may_not_be_registered, no_more_than_the_process_may_lock,
    no_more_than_a_drive_may_have, requests_of_one_plug_come_together,
    a_part_stays_the_helpers_until_it_answers, answers_that_are_wrong,
    memory_that_is_unmapped_stays_pinned)
