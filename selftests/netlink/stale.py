#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-only
# timeout: 300
#
# Replies of yesterday, of tomorrow and of strangers: to a request that was
# given to another socket since, to one that was not given out yet, on a socket
# that got a dead helper's port id, on the socket of another drive. They are
# refused, counted, told with a limit, and complete nothing. With payload in
# messages and in registered memory, for both personalities.
import errno
import mmap
import os
import random
import socket
import struct
import subprocess
import sys
import threading

import helper as H
from helper import (CDROM, DISK, EJECT, IO_ANSWERS, IO_COMPLETE, Helper,
                    Netlink, Queue, attr, message, silent, u64, wait_until)
from tap import module, run, same, sh

HERE = os.path.dirname(os.path.abspath(__file__))
LONG = 60
MEMORY = 4 << 20
PATTERN = bytes(range(256)) * 16


class Read(threading.Thread):
    """A direct read that may take its time."""

    def __init__(self, index, offset=0):
        super().__init__(daemon=True)
        self.index, self.offset = index, offset
        self.data = mmap.mmap(-1, 4096)
        self.error = None
        self.start()

    def run(self):
        fd = os.open("/dev/spicebd%d" % self.index, os.O_RDONLY | os.O_DIRECT)
        try:
            os.preadv(fd, [self.data], self.offset)
            self.error = 0
        except OSError as e:
            self.error = e.errno
        os.close(fd)

    def ends(self, what):
        self.join(LONG * H.SCALE)
        assert self.error is not None, what + ": the read does not end"
        same(self.error, 0, what)
        same(self.data[:] == PATTERN, True, what + ": what was read")


def drive(index, memory, queues=1):
    h = Helper(index, 8 << 20, memory=memory, queues=queues)
    h.store.write(0, PATTERN * (8 << 20 >> 12))
    h.insert(wait=LONG)
    h.idle(timeout=LONG)
    return h


def strays():
    with open("/sys/module/spicebd/parameters/stray_replies",
              encoding="ascii") as f:
        return int(f.read())


def answers(family, memory, cookies):
    """Replies to all of them, as a helper would send them."""
    if memory:
        return [message(family, IO_ANSWERS, attr(H.I_ANSWERS, b"".join(
            H.ANSWER.pack(c, 0, 0) for c in cookies[at:at + 16])))
            for at in range(0, len(cookies), 16)]
    return [message(family, IO_COMPLETE, u64(H.I_COOKIE, c) +
                    attr(H.I_DATA_OFFSET, 0) + attr(H.I_DATA, b"z" * 4096))
            for c in cookies]


def each(test):
    """For each personality and way of payload, with the module loaded once."""
    with module("drives=cdrom,disk", "queues=2"):
        for index in CDROM, DISK:
            for memory in 0, MEMORY:
                test(index, memory, "drive %d, memory %d" % (index, memory))


def gone(index, what):
    nl = Netlink().manage()
    same(nl.verb(EJECT, index, True), 0, what)
    assert wait_until(lambda: nl.drive(index)["helper"] == H.HELPER_NONE,
                      LONG), what
    nl.close()


def to_a_request_that_another_socket_has():
    def test(index, memory, what):
        h = drive(index, memory, 2)
        h.behave = silent
        r = Read(index)
        assert wait_until(lambda: any(q.kept for q in h.queues), LONG), what
        mine = next(q for q in h.queues if q.kept)
        other = next(q for q in h.queues if q is not mine)
        old = mine.kept[0]["cookie"]
        # Not the other's yet.
        before = h.ctl.stats(index)["refused"]
        other.call(lambda: other.send(*answers(other.nl.family, memory, [old])))
        assert wait_until(lambda: h.ctl.stats(index)["refused"] > before,
                          LONG), what
        mine.stop()
        # Now it is, by another name.
        assert wait_until(lambda: other.kept, LONG), what
        new = other.kept[0]["cookie"]
        assert new != old, what + ": the same cookie again"
        before = h.ctl.stats(index)["refused"]
        other.call(lambda: other.send(*answers(other.nl.family, memory, [old])))
        assert wait_until(lambda: h.ctl.stats(index)["refused"] > before,
                          LONG), what
        same(h.ctl.drive(index)["in_flight"], 1, what)
        same(r.error, None, what)
        h.behave = Queue.serve
        other.call(lambda: other.serve(other.kept[0]))
        r.ends(what)
        h.close()
        gone(index, what)
    each(test)


def on_the_socket_of_another_drive():
    with module("drives=cdrom,disk", "queues=1"):
        for memory in 0, MEMORY:
            what = "memory %d" % memory
            a, b = drive(CDROM, memory), drive(DISK, memory)
            a.behave = silent
            r = Read(CDROM)
            qa, qb = a.queues[0], b.queues[0]
            assert wait_until(lambda: qa.kept, LONG), what
            cookie = qa.kept[0]["cookie"]
            before = b.ctl.stats(DISK)["refused"]
            qb.call(lambda: qb.send(*answers(qb.nl.family, memory, [cookie])))
            assert wait_until(lambda: b.ctl.stats(DISK)["refused"] > before,
                              LONG), what
            same(a.ctl.stats(CDROM)["refused"], 0, what)
            same(a.ctl.drive(CDROM)["in_flight"], 1, what)
            same(r.error, None, what)
            a.behave = Queue.serve
            qa.call(lambda: qa.serve(qa.kept[0]))
            r.ends(what)
            for h, index in ((a, CDROM), (b, DISK)):
                h.close()
                gone(index, what)


def to_requests_that_were_not_given_out():
    """Whoever knows one cookie of a bind can guess the next ones."""
    def test(index, memory, what):
        h = drive(index, memory)
        q = h.queues[0]
        known = []

        def note(queue, io):
            known.append(io["cookie"])
            queue.serve(io)
        h.behave = note
        Read(index).ends(what)
        h.idle(timeout=LONG)
        guesses = [((known[-1] >> 32) ^ change) << 32 | queue << 16 | tag
                   for change in range(1, 32) for queue in range(2)
                   for tag in range(16)]
        random.Random(1).shuffle(guesses)
        before = h.ctl.stats(index)["refused"]

        def guess():
            for m in answers(q.nl.family, memory, guesses):
                q.send(m)
        q.call(guess)
        assert wait_until(lambda: h.ctl.stats(index)["refused"] >= before +
                          len(guesses), LONG), what
        same(h.ctl.stats(index)["refused"], before + len(guesses), what)
        # ... and while others are under way: none is hit by chance.
        Read(index).ends(what)
        h.behave = silent
        del known[:]
        r = [Read(index, 4096 * i) for i in range(4)]
        assert wait_until(lambda: h.ctl.drive(index)["in_flight"] == 4, LONG)
        assert wait_until(lambda: len(q.kept) == 4, LONG), what
        out = {io["cookie"] for io in q.kept}
        wrong = [c ^ bit << 32 for c in out for bit in range(1, 64)]
        wrong = [c for c in wrong if c not in out]
        before = h.ctl.stats(index)["refused"]
        q.call(lambda: [q.send(m) for m in answers(q.nl.family, memory, wrong)])
        assert wait_until(lambda: h.ctl.stats(index)["refused"] == before +
                          len(wrong), LONG), what
        same(h.ctl.drive(index)["in_flight"], 4, what)
        same([t.error for t in r], [None] * 4, what)
        h.behave = Queue.serve
        q.call(lambda: [q.serve(io) for io in q.kept])
        for t in r:
            t.ends(what)
        same(h.ctl.stats(index)["errors"], 0, what)
        h.close()
        gone(index, what)
    each(test)


# A helper that tells what it was given and never answers; its queue socket has
# the port id that it is told.
DEAF = """
import os, sys, socket
sys.path.insert(0, %r)
import helper as H
index, memory, port = map(int, sys.argv[1:])
real = socket.socket.bind
def bind(self, address):
    if H.bind_port:
        address = (H.bind_port, 0)
    real(self, address)
H.bind_port = 0
socket.socket.bind = bind
h = H.Helper.__new__(H.Helper)
h.index, h.memory, h.batches, h.rcvbuf = index, memory, [], 32 << 20
h.behave, h.lock, h.seen, h.log = None, H.threading.Lock(), 0, []
h.ctl = H.Netlink().manage()
key = h.ctl.keys(H.ATTACH, index, 1)[0]
H.bind_port = port
q = H.Queue(h, key)
H.bind_port = 0
def tell(queue, io):
    print(io["cookie"], flush=True)
h.behave = tell
q.start()
print("ready", flush=True)
q.join()
"""


def takeover(port):
    """A socket with that port id, as soon as it can be had."""
    while True:
        s = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW |
                          socket.SOCK_CLOEXEC, H.NETLINK_GENERIC)
        try:
            s.bind((port, 0))
            return s
        except OSError as e:
            s.close()
            same(e.errno, errno.EADDRINUSE, "bind")


def error_of(sock):
    """errno of the answer to what was sent on the socket."""
    sock.settimeout(LONG * H.SCALE)
    for kind, _, _, body in H.split(sock.recv(1 << 18)):
        same(kind, H.NLMSG_ERROR, "the answer's type")
        return -struct.unpack_from("=i", body)[0]
    raise AssertionError("no answer")


def on_a_socket_with_a_dead_helpers_port_id():
    def test(index, memory, what):
        first = drive(index, memory)
        store, family = first.store, first.queues[0].nl.family
        first.close()
        nl = Netlink().manage()
        assert wait_until(lambda: nl.drive(index)["helper"] == H.HELPER_LOST,
                          LONG), what
        for turn in range(2):
            port = 0x5b000000 + index * 4096 + bool(memory) * 256 + turn
            p = subprocess.Popen([sys.executable, "-c", DEAF % HERE, str(index),
                                  str(memory), str(port)],
                                 stdout=subprocess.PIPE)
            same(p.stdout.readline(), b"ready\n", what)
            r = Read(index, 4096 * turn)
            cookie = int(p.stdout.readline())
            before, refused = strays(), nl.stats(index)["refused"]
            p.kill()
            s = takeover(port)
            for m in answers(family, memory, [cookie]):
                s.send(m)
            same(error_of(s), errno.ENOTCONN, what)
            same(strays(), before + 1, what + ": counted")
            same(nl.stats(index)["refused"], refused, what)
            p.wait()
            # Nothing that was meant for the dead one comes here.
            assert wait_until(lambda: nl.drive(index)["held"] == 1, LONG), what
            s.setblocking(False)
            try:
                raise AssertionError("%s: a stranger was sent %r" %
                                     (what, s.recv(65536)))
            except BlockingIOError:
                pass
            same(r.error, None, what)
            h = Helper(index, store=store, memory=memory)
            r.ends(what)
            # Also not when there is a helper again.
            for m in answers(family, memory, [cookie]):
                s.send(m)
            same(error_of(s), errno.ENOTCONN, what)
            s.close()
            h.close()
            assert wait_until(lambda: nl.drive(index)["helper"] ==
                              H.HELPER_LOST, LONG), what
        nl.close()
        gone(index, what)
    each(test)


def what_is_told_has_a_limit():
    with module("drives=disk", "queues=1"):
        h = drive(0, 0)
        q = h.queues[0]
        sh("dmesg -C")
        nl = Netlink()
        before = strays()
        for _ in range(500):
            same(nl.fails(IO_COMPLETE, u64(H.I_COOKIE, 7)), errno.ENOTCONN)
        same(strays() - before, 500, "strays")
        refused = h.ctl.stats(0)["refused"]
        q.call(lambda: [q.send(q.complete(7)) for _ in range(500)])
        assert wait_until(lambda: h.ctl.stats(0)["refused"] == refused + 500,
                          LONG)
        text = sh("dmesg")
        told = text.count("refused a reply")
        print("# 1000 refusals, %d lines" % told)
        assert 1 <= told < 100, text
        assert "spicebd0: refused a reply: " in text, text
        h.close()
        gone(0, "log")


run(to_a_request_that_another_socket_has, on_the_socket_of_another_drive,
    to_requests_that_were_not_given_out,
    on_a_socket_with_a_dead_helpers_port_id, what_is_told_has_a_limit)
