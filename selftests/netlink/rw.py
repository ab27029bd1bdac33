#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-only
#
# What is written through a disk drive is what is read, for requests of 512
# bytes to 1 MiB at odd offsets, four jobs at once, direct and buffered, with
# one and several queues, small depth and small requests, and flush, discard
# and write-zeroes reach the helper.
import ctypes
import mmap
import os
import struct

from helper import (DISCARD, F_DISCARD, F_FLUSH, F_FUA, F_READ_ONLY,
                    F_WRITE_ZEROES, FLUSH, WRITE_ZEROES, Helper, Queue, silent,
                    wait_until)
from tap import module, run, same, settle, sh

FIO = ("fio --name=v --filename=/dev/spicebd0 --rw=randrw "
       "--bsrange=512-1M --blockalign=512 --size=4M --offset_increment=4M "
       "--numjobs=4 --verify=crc32c --do_verify=1 --randseed=7 "
       "--minimal --ioengine=libaio --iodepth=8 ")


def exercise(options, *params, queues=1, rcvbuf=32 << 20):
    with module("drives=disk", *params):
        h = Helper(0, 16 << 20, queues=queues, rcvbuf=rcvbuf)
        h.insert()
        sh(FIO + options)
        same([e for q in h.queues for e in q.errors], [], "helper's errors")
        stats = h.ctl.stats(0)
        same((stats["errors"], stats["refused"]), (0, 0), "errors")
        same(h.eject_idle(), 0, "eject")
        h.close()


def direct_random_writes_of_odd_sizes():
    exercise("--direct=1")


def buffered():
    exercise("--direct=0")


def several_queues_and_sockets():
    exercise("--direct=1", "queues=2", queues=2)


def more_queues_than_sockets():
    exercise("--direct=1", "queues=2", queues=1)


def credit_for_one_large_request():
    exercise("--direct=1", queues=1, rcvbuf=1300000)


def depth_one():
    exercise("--direct=1", "queues=1", "depth=1")


def requests_of_4_kib():
    exercise("--direct=1", "max_io=4096")


def requests_of_4_mib():
    exercise("--direct=1", "max_io=4194304")


def data_lands_where_it_belongs():
    with module("drives=disk"):
        h = Helper(0, 8 << 20)
        h.insert()
        data = os.urandom(3 << 20)
        fd = os.open("/dev/spicebd0", os.O_RDWR | os.O_SYNC)
        os.pwrite(fd, data, 1536)
        os.fsync(fd)
        os.close(fd)
        same(h.store.read(1536, len(data)) == data, True, "data")
        same(h.store.read(0, 1536), bytes(1536), "bytes before")
        h.store.write(5 << 20, data[:1 << 20])
        fd = os.open("/dev/spicebd0", os.O_RDONLY)
        same(os.pread(fd, 1 << 20, 5 << 20) == data[:1 << 20], True, "read")
        os.close(fd)
        same(h.eject_idle(), 0, "eject")
        h.close()


def flush_discard_and_zeroes():
    with module("drives=disk"):
        h = Helper(0, 8 << 20)
        h.insert(F_FLUSH | F_FUA | F_DISCARD | F_WRITE_ZEROES)
        h.store.write(0, b"x" * (4 << 20))
        h.log.clear()
        sh("blkdiscard -o 1M -l 1M /dev/spicebd0")
        sh("blkdiscard -z -o 2M -l 1M /dev/spicebd0")
        fd = os.open("/dev/spicebd0", os.O_RDWR)
        os.pwrite(fd, b"y" * 512, 0)
        os.fsync(fd)
        os.close(fd)
        ops = {op for op, _, _, _ in h.log}
        for op in (FLUSH, DISCARD, WRITE_ZEROES):
            assert op in ops, "operation %d not seen" % op
        same(h.store.read(1 << 20, 2 << 20), bytes(2 << 20), "zeroes")
        same(h.store.read(3 << 20, 4), b"xxxx", "after the zeroes")
        same(h.eject_idle(), 0, "eject")
        h.close()


def a_medium_without_them_has_none():
    with module("drives=disk"):
        h = Helper(0, 8 << 20)
        h.insert(0)
        same(sh("cat /sys/block/spicebd0/queue/write_cache").strip(),
             "write through", "cache")
        same(sh("cat /sys/block/spicebd0/queue/discard_max_bytes").strip(),
             "0", "discard")
        same(h.eject_idle(), 0, "eject")
        same(h.insert(F_READ_ONLY) > 0, True)
        same(sh("cat /sys/block/spicebd0/ro").strip(), "1", "read-only")
        try:
            os.close(os.open("/dev/spicebd0", os.O_RDWR))
            raise AssertionError("opened for writing")
        except OSError:
            pass
        same(h.eject_idle(), 0, "eject")
        h.close()


def errors_of_the_helper_arrive():
    with module("drives=disk"):
        h = Helper(0, 8 << 20)
        h.insert()
        good = h.behave

        def bad(queue, io):
            if io["offset"] >= 4 << 20:
                queue.send(queue.complete(io["cookie"], 5))
            else:
                good(queue, io)
        h.behave = bad
        fd = os.open("/dev/spicebd0", os.O_RDONLY)
        same(len(os.pread(fd, 4096, 0)), 4096, "good read")
        try:
            os.pread(fd, 4096, 6 << 20)
            raise AssertionError("a bad read succeeded")
        except OSError as e:
            same(e.errno, 5, "errno")
        os.close(fd)
        same(h.eject_idle(), 0, "eject")
        h.close()


def a_completion_that_closes_the_drive():
    """A process submits a read and closes the drive. The completion drops the
    last reference, so the drive is closed in the helper's thread unless the
    driver prevents it; and closing means to write dirty pages, through that
    thread."""
    libc = ctypes.CDLL(None, use_errno=True)
    with module("drives=disk", "queues=2"):
        h = Helper(0, 8 << 20)
        h.insert()
        settle()
        assert wait_until(lambda: not h.ctl.drive(0)["openers"])
        direct = os.open("/dev/spicebd0", os.O_RDONLY | os.O_DIRECT)
        h.behave = silent
        buf = mmap.mmap(-1, 4096)
        address = ctypes.addressof(ctypes.c_char.from_buffer(buf))
        context = ctypes.c_ulong()
        same(libc.syscall(206, 1, ctypes.byref(context)), 0, "io_setup")
        iocb = ctypes.create_string_buffer(struct.pack(
            "=QIiHhIQQqQII", 0, 0, 0, 0, 0, direct, address, 4096, 1 << 20,
            0, 0, 0), 64)
        pointer = ctypes.c_void_p(ctypes.addressof(iocb))
        same(libc.syscall(209, context, 1, ctypes.byref(pointer)), 1,
             "io_submit")
        assert wait_until(lambda: h.queues[0].kept)
        h.behave = Queue.serve
        dirty = os.open("/dev/spicebd0", os.O_RDWR)
        os.pwrite(dirty, b"z" * 4096, 2 << 20)
        os.close(dirty)
        os.close(direct)
        # udev looks into what was open for writing
        settle()
        assert wait_until(lambda: h.ctl.drive(0)["openers"] == 1)
        queue = h.queues[0]
        queue.call(lambda: queue.serve(queue.kept.pop()))
        assert wait_until(lambda: not h.ctl.drive(0)["openers"]), \
            "the helper waits for itself"
        assert wait_until(lambda: h.store.read(2 << 20, 4096) == b"z" * 4096)
        same(h.eject_idle(), 0, "eject")
        h.close()


TESTS = (
    direct_random_writes_of_odd_sizes, buffered,
    several_queues_and_sockets, more_queues_than_sockets,
    credit_for_one_large_request, depth_one, requests_of_4_kib,
    requests_of_4_mib, data_lands_where_it_belongs,
    flush_discard_and_zeroes, a_medium_without_them_has_none,
    errors_of_the_helper_arrive, a_completion_that_closes_the_drive)

if __name__ == "__main__":
    run(*TESTS)
