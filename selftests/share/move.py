#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-only
# timeout: 400
"""A share that goes to another host with a medium: one owner at a time, whatever is
lost, and the same answer for whoever asks."""
import os
import secrets
import signal
import struct

import sharelib as s
from sharelib import Link, Server, Share, check, equal, random_file, workdir

CAPS = s.ANSWERS | 4
MOVE_STATE = 17
BEGIN, COMMIT, CANCEL, ACCEPT, DONE = range(1, 6)
WAITING, READY, GRANTED, OVER = range(1, 5)
AWAY, ERR_MOVED = 16, 9
LIMIT = s.LIMIT


class State:
    def __init__(self, f):
        self.result, self.offer, self.epoch = struct.unpack("<III", f.payload[:12])
        self.id, self.text = f.payload[12:28], f.payload[28:].decode()

    def __repr__(self):
        return f"<result {self.result} epoch {self.epoch} {self.text}>"


class Host:
    """A link's end, whose port is @n."""

    def __init__(self, n, *more, **kw):
        self.n = n
        self.server = Server((n, *more), **kw)
        self.link = Link(self.server.port(n))
        self.others = [Link(self.server.port(other)) for other in more]

    def hello(self):
        self.link.hello(caps=CAPS)

    def move(self, verb, id, name="disk.img", uri=b"", port=0, subject=b"", ticket=b""):
        offer = self.link.offer(name)["id"]
        p = struct.pack("<II16s", verb, offer, id)
        if verb == BEGIN:
            p += struct.pack("<IBBBB", port, len(uri), len(subject), len(ticket), 0)
            p += uri + subject + ticket
        self.link.send(s.MOVE, p)

    def state(self, *want):
        """Until one of these results."""
        while True:
            got = State(self.link.get(MOVE_STATE))
            if got.result in want:
                return got

    def open(self):
        return self.link.open(self.link.offer("disk.img"))

    def refused(self):
        try:
            self.open()
        except ConnectionRefusedError as e:
            equal(e.args[0], ERR_MOVED, "code")
        else:
            raise AssertionError("a stream opens at the wrong host")

    def away(self, want):
        self.link.wait_offers(lambda all: [bool(o["flags"] & AWAY) for o in all.values()] == [want])


class Case:
    """A share at the first host, and a second one."""

    def __init__(self, *args, others=(), **kw):
        self.dir = workdir()
        self.path = random_file(f"{self.dir}/disk.img", 1 << 20)
        self.args = args or ("--read-write",)
        self.env = {"XDG_STATE_HOME": f"{self.dir}/state"}
        self.a, self.b = Host(3), Host(5, *others, **kw)
        self.id = secrets.token_bytes(16)
        self.start(self.a)

    def start(self, host):
        self.share = Share("--uri", host.server.uri, *self.args, self.path, env=self.env)
        self.share.event("connected")
        host.hello()

    def kill(self):
        kids = list(self.share.children())
        os.kill(self.share.p.pid, signal.SIGKILL)
        self.share.wait()
        for pid in kids:
            check(s.gone(pid), "a server outlives it")

    def begin(self, **kw):
        kw.setdefault("uri", self.b.server.uri.encode())
        self.a.move(BEGIN, self.id, port=self.b.n, **kw)

    def ready(self):
        self.begin()
        self.b.hello()
        self.b.move(ACCEPT, self.id)
        self.b.state(READY)
        self.a.state(READY)

    def moved(self):
        self.ready()
        self.a.move(COMMIT, self.id)
        equal(self.b.state(GRANTED).epoch, 1, "owner epoch at the target")
        equal(self.a.state(GRANTED).epoch, 1, "owner epoch at the source")

    def left(self, host):
        said = self.share.event("left")["text"]
        check(said.startswith(f"left {host.server.uri}: "), f"which host it left: {said}")

    def at_b(self):
        """It is the target's, and nobody else's."""
        self.a.away(True)
        self.b.away(False)
        self.a.refused()
        n = self.b.open().nbd()
        n.pwrite(b"B" * 4096, 4096)
        n.shutdown()

    def at_b_alone(self):
        self.b.away(False)
        self.b.open().nbd().shutdown()

    def at_a_again(self):
        self.a.away(False)
        self.a.open().nbd().shutdown()

    def at_a(self):
        self.a.away(False)
        n = self.a.open().nbd()
        n.pwrite(b"A" * 4096, 4096)
        n.shutdown()


def moves():
    """it comes to belong to the other host, and the share leaves the first one"""
    c = Case()
    old = c.a.open().nbd()
    old.pwrite(b"A" * 4096, 0)
    c.ready()
    c.b.refused()
    old.pwrite(b"A" * 4096, 8192)
    c.a.move(COMMIT, c.id)
    c.b.state(GRANTED)
    c.a.state(GRANTED)
    try:
        old.pwrite(b"A" * 4096, 4096)
    except Exception:	# libnbd's own kind
        pass
    else:
        raise AssertionError("a write of the first host's after the grant")
    c.at_b()
    with open(c.path, "rb") as f:
        equal(f.read(4096) + f.read(4096) + f.read(4096), b"A" * 4096 + b"B" * 4096 + b"A" * 4096,
              "content")
    c.a.move(DONE, c.id)
    c.share.event("left")
    equal(c.share.stop(), 0, "exit status")


def and_back():
    """back again: what the first host says of the first move does not disturb the second"""
    c = Case()
    c.moved()
    first, c.id = c.id, secrets.token_bytes(16)
    c.a.move(DONE, first)
    c.left(c.a)
    c.b.move(BEGIN, c.id, uri=c.a.server.uri.encode(), port=c.a.n)
    c.a.hello()
    c.a.move(DONE, first)
    c.a.move(ACCEPT, c.id)
    c.a.state(READY)
    c.b.move(COMMIT, c.id)
    equal(c.a.state(GRANTED).epoch, 2, "owner epoch")
    c.a.move(DONE, first)
    c.b.move(DONE, c.id)
    c.left(c.b)
    c.at_a_again()


def not_ejected():
    """a share that ends with the eject does not take the move for one"""
    c = Case("--read-write", "--exit-on-eject")
    c.a.link.notice(s.INSERTED, c.a.link.offer("disk.img"))
    c.moved()
    c.a.link.notice(s.EJECTED, c.a.link.offer("disk.img"))
    c.a.move(DONE, c.id)
    c.share.event("left")
    c.b.link.notice(s.INSERTED, c.b.link.offer("disk.img"))
    c.share.event("inserted", drive=c.b.n)
    c.at_b_alone()
    c.b.link.notice(s.EJECTED, c.b.link.offer("disk.img"))
    equal(c.share.wait(), 0, "exit status")


def waits():
    """it is granted only when the last server of the first host is gone"""
    c = Case()
    n = c.a.open().nbd()
    n.pwrite(b"A" * 4096, 0)
    kid = list(c.share.children())[0]
    c.ready()
    os.kill(kid, signal.SIGSTOP)
    c.a.move(COMMIT, c.id)
    c.b.state(GRANTED)
    check(s.gone(kid), "the server is there after the grant")
    c.at_b()


def cancelled():
    """a cancel before the commit is final, also for a commit that comes later"""
    c = Case()
    c.ready()
    c.a.move(CANCEL, c.id)
    equal(c.a.state(OVER).text, "cancelled", "why")
    c.b.state(OVER)
    c.a.move(COMMIT, c.id)
    c.a.state(OVER)
    c.b.away(True)
    c.at_a()


def too_late():
    """a cancel after the grant is answered by the grant, however often it is asked"""
    c = Case()
    c.moved()
    for _ in range(3):
        c.a.move(CANCEL, c.id)
        equal(c.a.state(GRANTED, OVER).result, GRANTED, "the answer")
    c.at_b()


def cancelled_there():
    """the other host cancels, too"""
    c = Case()
    c.ready()
    c.b.move(CANCEL, c.id)
    check("at the other host" in c.a.state(OVER).text, "why")
    c.at_a()


def cancelled_elsewhere():
    """the target may cancel on another of its ports, and is answered there"""
    c = Case(others=(6,))
    c.ready()
    port = c.b.others[0]
    port.hello(caps=CAPS)
    offer = port.offer("disk.img")["id"]
    port.send(s.MOVE, struct.pack("<II16s", CANCEL, offer, c.id))
    equal(State(port.get(MOVE_STATE)).result, OVER, "result")
    c.b.state(OVER)
    c.a.state(OVER)
    c.at_a()


def not_accepted():
    """what the other host has not accepted is not granted"""
    c = Case()
    c.begin()
    c.b.hello()
    c.a.move(COMMIT, c.id)
    c.a.state(OVER)
    c.at_a()


def accepted_before():
    """nor what it accepted in a session that is over"""
    c = Case()
    c.ready()
    c.b.hello()
    c.a.move(COMMIT, c.id)
    c.a.state(OVER)
    c.at_a()


def unreachable():
    """a host that cannot be reached, or is no address"""
    for uri in (b"spice+unix:///nowhere", b"http://x", b"spice://", b"x" * 127):
        c = Case()
        c.begin(uri=uri)
        check(c.a.state(OVER).text, "no reason")
        c.at_a()
        equal(c.share.stop(), 0, "exit status")
        s.cleanup()


def ticket():
    """the other host's ticket is shown there"""
    c = Case(password="sesame")
    c.begin(ticket=b"wrong")
    check("password" in c.a.state(OVER).text, "why")
    c.id = secrets.token_bytes(16)
    c.begin(ticket=b"sesame")
    c.b.hello()
    c.b.move(ACCEPT, c.id)
    c.a.state(READY)


def asked_later():
    """a session of the first host's that begins after it is told, too"""
    c = Case()
    c.moved()
    c.a.hello()
    c.a.away(True)
    c.a.move(CANCEL, c.id)
    c.a.state(GRANTED)
    c.at_b()


def killed_before():
    """a share that is killed before the grant: the next one knows of no move"""
    c = Case()
    before = c.a.link.offer("disk.img")["medium_id"]
    c.ready()
    c.kill()
    c.start(c.a)
    equal(c.a.link.offer("disk.img")["medium_id"], before, "medium")
    c.a.move(CANCEL, c.id)
    equal(c.a.state(GRANTED, OVER).epoch, 0, "owner epoch")
    c.at_a()


def killed_after():
    """one that is killed after it: the next one says the new owner epoch to both"""
    c = Case()
    before = c.a.link.offer("disk.img")["medium_id"]
    c.moved()
    c.kill()
    c.start(c.a)
    equal(c.a.link.offer("disk.img")["medium_id"], before, "medium")
    c.a.move(CANCEL, c.id)
    equal(c.a.state(GRANTED, OVER).result, GRANTED, "what the source is told")
    c.a.move(CANCEL, secrets.token_bytes(16))
    got = c.a.state(GRANTED, OVER)
    equal((got.result, got.epoch), (OVER, 1), "what is told of another move")
    c.kill()
    c.start(c.b)
    c.b.move(ACCEPT, c.id)
    got = c.b.state(GRANTED, OVER)
    equal((got.result, got.epoch), (GRANTED, 1), "what the target is told")


def cannot_write_down():
    """what cannot be written down is not granted"""
    c = Case()
    c.ready()
    records = f"{c.dir}/state/spicebd/media"
    for name in os.listdir(records):
        os.unlink(f"{records}/{name}")
        os.mkdir(f"{records}/{name}")
        os.mkdir(f"{records}/{name}/in-the-way")
    c.a.move(COMMIT, c.id)
    check("write down" in c.a.state(GRANTED, OVER).text, "it is granted")
    c.at_a()


def one_at_a_time():
    """a second move meanwhile, and an owner that is none, are refused"""
    c = Case()
    c.begin()
    first, c.id = c.id, secrets.token_bytes(16)
    c.begin()
    check("on its way" in c.a.state(OVER).text, "why")
    c.id = first
    c.b.hello()
    c.b.move(ACCEPT, c.id)
    c.a.state(READY)
    c.a.move(COMMIT, c.id)
    c.b.state(GRANTED)
    c.id = secrets.token_bytes(16)
    c.begin()
    check("another host" in c.a.state(OVER).text, "why")
    c.at_b()


def hostile():
    """what makes no sense ends the session, and no other"""
    zeros, one = bytes(16), b"1" * 16
    head = struct.pack("<II", BEGIN, 1) + one
    for payload in (b"", struct.pack("<II16s", 0, 1, one), struct.pack("<II16s", 6, 1, one),
                    struct.pack("<II16s", COMMIT, 1, zeros), struct.pack("<II16sI", COMMIT, 1, one, 0),
                    head, head + struct.pack("<IBBBB", 1, 0, 0, 0, 0),
                    head + struct.pack("<IBBBB", 1, 5, 0, 0, 0) + b"1234",
                    head + struct.pack("<IBBBB", 1, 3, 0, 0, 0) + b"a\nb",
                    head + struct.pack("<IBBBB", 1, 1, 96, 0, 0) + b"a" * 97,
                    head + struct.pack("<IBBBB", 1, 128, 0, 0, 0) + b"a" * 128):
        c = Case("--read-only")
        c.a.link.send(s.MOVE, payload)
        f = c.a.link.get(s.BYE)
        equal(f.code(), s.ERR_PROTOCOL, f"{payload!r}")
        c.a.hello()
        c.a.open()
        s.cleanup()


def in_the_commit():
    """the first host cannot open a stream while the last ones end"""
    c = Case()
    c.a.open().nbd()
    c.ready()
    c.a.move(COMMIT, c.id)
    c.a.refused()
    c.b.state(GRANTED)
    c.at_b()


if __name__ == "__main__":
    s.run([moves, and_back, not_ejected, waits, in_the_commit, cancelled, too_late, cancelled_there,
           cancelled_elsewhere, not_accepted,
           accepted_before, unreachable, ticket, asked_later, killed_before, killed_after,
           cannot_write_down, one_at_a_time, hostile])
