#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-only
# timeout: 500
#
# Every allocation that a command makes fails once: the first, the second, and
# so on until there is none left to fail. The command then says that there was
# no memory and has changed nothing, or it succeeds all the same; the next try
# succeeds. Likewise with what dispatches a request, which always succeeds.
# Needs a kernel with fault injection, and no udev. With SPICEBD_FAULTS_SHORT
# only some of those that are many.
import errno
import mmap
import os
import random
import socket

import helper as H
import inject
from helper import Helper, Memory, Netlink, NetlinkError, attr, wait_until
from tap import module, run, same

INDEX = 7
CLEAN = (errno.ENOMEM, errno.ENOBUFS)
# What the driver core says of a disk for whose name there was no memory.
NO_NAME = errno.EINVAL
SHORT = "SPICEBD_FAULTS_SHORT" in os.environ
# Behind so many not each fails.
MANY = 20 if SHORT else 60
# Allocations of one command, at most: more, and it would never end.
MOST = 3000


def step(n):
    """To the next; over some where there are hundreds, as of a new disk, most of
    them the block layer's; in a short run over many."""
    if n <= MANY:
        return 1
    return random.randrange(1, 200 if SHORT else 20)


def attempt(act):
    """errno and result."""
    try:
        return 0, act()
    except NetlinkError as e:
        return e.errno, None


def every_allocation(name, act, undo, begin=None, unchanged=None, atleast=1, clean=CLEAN):
    """Lets each allocation below act() fail. undo() makes up for a success,
    begin() comes before each try, unchanged() looks after a failure. At least so
    many are there: none where a worker does all that takes memory."""
    nth = inject.Nth()
    failed = survived = n = 0
    while n < MOST:
        n += step(n)
        if begin:
            begin()
        nth.arm(n)
        error, result = attempt(act)
        if not nth.disarm():
            same(error, 0, "%s, nothing failed" % name)
            undo(result)
            break
        assert error == 0 or error in clean, "%s, allocation %d: error %d, %s" % (
            name, n, error, os.strerror(error))
        if error:
            failed += 1
            if unchanged:
                unchanged()
            error, result = attempt(act)
            same(error, 0, "%s again, after allocation %d failed" % (name, n))
        else:
            survived += 1
        undo(result)
    else:
        raise AssertionError("%s: no end of allocations" % name)
    print("# %s: %d allocations failed, %d errors, %d survived" % (
        name, failed + survived, failed, survived), flush=True)
    assert failed + survived >= atleast, "%s: only %d allocations were hit" % (
        name, failed + survived)


def nothing(_=None):
    pass


def absent(nl, index):
    return index not in [d["index"] for d in nl.drives()]


def listener():
    """One that an event without memory does not stop."""
    return Netlink(1 << 20).subscribe()


def is_gone(watch):
    """Only then the number is free."""
    assert watch.wait_event(60, lambda e: e["event"] == "drive_removed" and
                            e["index"] == INDEX), "the drive stays"


def add(personality):
    nl, watch = Netlink().manage(), listener()

    def act():
        return nl.add(personality, index=INDEX, nr_queues=2, depth=2)

    def unchanged():
        assert absent(nl, INDEX), "there is a drive after a failed add"
        assert not os.path.exists("/sys/block/spicebd%d" % INDEX)

    def undo(_):
        same(nl.verb(H.DRIVE_DEL, INDEX, True), 0, "delete")
        is_gone(watch)

    every_allocation("add", act, undo, unchanged=unchanged, atleast=20,
                     clean=CLEAN + (NO_NAME,))
    watch.close()
    nl.close()


def adding_a_cdrom():
    add(H.CDROM)


def adding_a_disk():
    add(H.DISK)


def deleting():
    nl, watch = Netlink().manage(), listener()
    every_allocation("delete", lambda: nl.do(H.DRIVE_DEL, attr(H.A_INDEX, INDEX)),
                     lambda _: is_gone(watch),
                     begin=lambda: nl.add(H.DISK, index=INDEX, nr_queues=1, depth=1),
                     atleast=0)
    watch.close()
    nl.close()


def attaching():
    nl = Netlink().manage()
    detach = lambda _=None: nl.do(H.DETACH, attr(H.H_INDEX, 0))

    def unchanged():
        same(nl.drive(0)["helper"], H.HELPER_NONE, "helper after a failed attach")

    every_allocation("attach", lambda: nl.keys(H.ATTACH, 0, 1), detach, unchanged=unchanged)
    nl.keys(H.ATTACH, 0, 1)
    # There is room for 32: keys that nobody was told would soon fill it.
    for _ in range(3):
        every_allocation("key-new", lambda: nl.keys(H.KEY_NEW, 0, 1), nothing)
    detach()
    every_allocation("detach", detach, nothing, begin=lambda: nl.keys(H.ATTACH, 0, 1))
    nl.close()


def bind(memory):
    nl = Netlink().manage()
    key = [nl.keys(H.ATTACH, 0, 1)[0]]
    socks = []

    def begin():
        socks.append(Netlink(8 << 20))

    def undo(_):
        same(nl.drive(0)["nr_sockets"], 1, "bound sockets")
        while socks:
            socks.pop().close()
        # the socket was the last: with it the helper is gone
        assert wait_until(lambda: nl.drive(0)["helper"] == H.HELPER_NONE), "still attached"
        key[0] = nl.keys(H.ATTACH, 0, 1)[0]

    def unchanged():
        same(nl.drive(0)["nr_sockets"], 0, "bound sockets after a failed bind")

    # The same key again after a failure: it has not been used.
    every_allocation("bind", lambda: socks[-1].bind(key[0], None, memory), undo, begin,
                     unchanged, atleast=2)
    nl.close()


def binding():
    bind(None)


def binding_with_memory():
    bind(Memory(1 << 20))


def insert_and_eject(index):
    h = Helper(index, 4 << 20, memory=4 << 20)
    cdrom = h.ctl.drive(index)["personality"] == H.CDROM
    if cdrom:
        same(h.ctl.verb(H.TRAY_OPEN, index), 0, "open")

    def unchanged():
        same(h.ctl.drive(index)["medium"], None, "medium after a failed insert")

    def take_out(_=None):
        same(h.ctl.verb(H.MEDIUM_REMOVE, index, True), 0, "remove")

    def put_in():
        if not h.ctl.drive(index)["medium"]:
            h.ctl.insert(index, 4 << 20)

    every_allocation("insert", lambda: h.ctl.insert(index, 4 << 20, medium_id=b"x"), take_out,
                     unchanged=unchanged)
    force = attr(H.A_INDEX, index) + attr(H.A_FORCE, b"")
    every_allocation("remove", lambda: h.ctl.do(H.MEDIUM_REMOVE, force), nothing, begin=put_in,
                     atleast=0)
    put_in()
    every_allocation("medium-set", lambda: h.ctl.do(
        H.MEDIUM_SET, attr(H.A_INDEX, index) + attr(H.A_MEDIUM | H.NLA_F_NESTED,
                                                    attr(H.M_READ_AHEAD, 65536))), nothing,
                     atleast=0)
    if cdrom:
        every_allocation("tray-close", lambda: h.ctl.do(H.TRAY_CLOSE, attr(H.A_INDEX, index)),
                         nothing, begin=lambda: h.ctl.verb(H.TRAY_OPEN, index, True))
        every_allocation("tray-open", lambda: h.ctl.do(H.TRAY_OPEN, force), nothing,
                         begin=lambda: h.ctl.verb(H.TRAY_CLOSE, index))
        same(h.ctl.verb(H.TRAY_CLOSE, index), 0, "close")
    every_allocation("eject", lambda: h.ctl.do(H.EJECT, force),
                     lambda _: h.ctl.verb(H.TRAY_OPEN, index), begin=put_in, atleast=0)
    h.close()


def inserting_into_a_cdrom():
    insert_and_eject(0)


def inserting_into_a_disk():
    insert_and_eject(1)


def direct(fd, write, offset, data, length):
    """A request that is dispatched by this very thread."""
    page = mmap.mmap(-1, length)
    if write:
        page[:] = data
        same(os.pwritev(fd, [page], offset), length, "what was written")
    else:
        same(os.preadv(fd, [page], offset), length, "what was read")
        same(page[:] == data, True, "the data of a read")
    page.close()


def dispatch(memory):
    """No I/O fails for want of memory, and its data is right."""
    h = Helper(1, 4 << 20, memory=memory)
    h.insert()
    fd = os.open("/dev/spicebd1", os.O_RDWR | os.O_DIRECT)
    for length in (4096, 256 << 10):
        data = os.urandom(length)
        offset = 1 << 20

        def stored():
            same(h.store.read(offset, length) == data, True, "the data of a write")

        every_allocation("write of %d bytes" % length,
                         lambda: direct(fd, True, offset, data, length),
                         lambda _: stored(),
                         begin=lambda: h.store.write(offset, bytes(length)))
        every_allocation("read of %d bytes" % length,
                         lambda: direct(fd, False, offset, data, length), nothing)
    os.close(fd)
    stats = h.ctl.stats(1)
    same((stats["errors"], stats["refused"]), (0, 0), "errors, refused")
    assert wait_until(lambda: not h.ctl.drive(1)["openers"]), "still open"
    same(h.eject(True), 0, "eject")
    h.close()


def dispatching_in_messages():
    dispatch(0)


def dispatching_with_memory():
    dispatch(1 << 20)


def what_needs_little():
    nl = Netlink().manage()
    index = attr(H.A_INDEX, 0)
    every_allocation("manage", lambda: Netlink().do(H.MANAGE), nothing)
    every_allocation("get", lambda: nl.drive(0), nothing)
    every_allocation("dump", nl.drives, nothing, atleast=0)
    every_allocation("lock", lambda: nl.do(H.LOCK, index), nothing,
                     begin=lambda: nl.verb(H.UNLOCK, 0, True))
    every_allocation("unlock", lambda: nl.do(H.UNLOCK, index), nothing,
                     begin=lambda: nl.verb(H.LOCK, 0))
    every_allocation("set", lambda: nl.set(0, reconnect_timeout=60), nothing, atleast=0)
    nl.keys(H.ATTACH, 0, 1)
    down = [0]

    def report():
        nl.do(H.LINK_REPORT, attr(H.H_INDEX, 0) + attr(H.H_LINK, down[0]))

    def turn():
        down[0] ^= 1

    every_allocation("link-report", report, nothing, begin=turn)
    nl.close()


def a_listener_learns_that_it_missed_something():
    watch, nl, nth = Netlink().subscribe(), Netlink().manage(), inject.Nth()
    nl.verb(H.UNLOCK, 0, True)
    list(watch.events(0))
    nth.arm(1)
    nl.do(H.LOCK, attr(H.A_INDEX, 0))
    assert nth.disarm(), "the event needed no memory"
    try:
        got = watch.sock.recv(1 << 16, socket.MSG_DONTWAIT)
        raise AssertionError("an event came that had no memory: %r" % got)
    except OSError as e:
        same(e.errno, errno.ENOBUFS, "what the listener was told")
    nl.verb(H.UNLOCK, 0, True)
    nl.close()
    watch.close()


def with_faults(test):
    def again():
        inject.need()
        with module("drives=cdrom,disk"):
            inject.setup()
            test()
    again.__name__ = test.__name__
    return again


run(*map(with_faults, (
    adding_a_disk, adding_a_cdrom, deleting, attaching, binding, binding_with_memory,
    inserting_into_a_cdrom, inserting_into_a_disk, dispatching_in_messages,
    dispatching_with_memory, what_needs_little,
    a_listener_learns_that_it_missed_something)))
