#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-only
"""A relay between a guest and a client of which either may be hostile: what it keeps
is bounded, what it passes on is in step, and who breaks the rules is sent away."""
# timeout: 400
import contextlib
import random
import select
import struct
import sys
import time

import linktest as t
import relaytest as r

MIB = 1 << 20
noise = random.Random(1)


class Client(t.Share):
    """In mode "manual"; the epochs and seqs are those of the guest's hellos."""

    def __init__(self, relay, mode="manual"):
        super().__init__(relay.uri, "x" if relay.password else "", mode=mode,
                         offers=[t.offer(1, 512, "m")])

    def frame_of(self, type_):
        while True:
            got = self.wait("frame")[2]
            if got[0] == type_:
                return got


class Scene:
    """A relay, a guest that listens, and a client, with a session between them."""

    def __init__(self, relay, mode="manual"):
        self.relay = relay
        self.guest = r.RawGuest(f"{relay.prefix}.0")
        self.client = Client(relay, mode)
        self.cid = None

    def up(self, epoch=7):
        self.guest.accept()
        self.guest.hello(epoch)
        _, self.cid, _ = self.client.wait("hello")
        self.guest.hear(t.F_OFFERS_END)
        return self

    def stream(self, number, credit):
        self.guest.say(t.F_OPEN, struct.pack("<II", 1, credit), number)
        self.client.frame_of(t.F_OPEN)
        self.client.send(self.cid, t.OPENED, struct.pack("<I", MIB), number)
        self.guest.hear(t.OPENED)

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.client.close()
        self.guest.close()


def again(s, name, epoch=99):
    """The guest was sent away; the next connection works."""
    s.guest.accept()
    s.guest.hello(epoch)
    s.client.wait("hello")
    t.ok(True, name)


# ---- the guest

def guest_noise(relay):
    with Scene(relay).up() as s:
        before = relay.rss_kib()
        for _ in range(64):
            s.guest.raw(noise.randbytes(60000) + t.MAGIC)
        s.guest.hear(t.RESYNC)
        t.ok(True, "noise of a guest: it is asked for a new session")
        forged = bytearray(t.hello(11, role=1))
        forged[24:56] = b"f" * 32
        s.guest.raw(s.guest.frame(t.HELLO, bytes(forged), seq=0, epoch=11))
        s.guest.hello(12)
        e = s.client.wait("hello")
        t.ok(e[2] == 12, "a hello with another secret, as a file may hold one, is passed over")
        t.ok(relay.rss_kib() - before < 8 << 10, "nothing of it is kept")


def guest_half(relay):
    """The rest of a frame that never comes must not swallow what does."""
    with Scene(relay).up() as s:
        s.guest.raw(s.guest.frame(t.PING, bytes(8))[:20])
        s.guest.hear(t.RESYNC)
        s.guest.hello(13)
        t.ok(s.client.wait("hello")[2] == 13, "half a frame, and nothing: a new session")


def guest_breaks(relay):
    pack = struct.pack

    def opens(*args):
        return lambda s: [s.guest.say(t.F_OPEN, pack("<II", 1, c), n) for n, c in args]

    def credit(s):
        s.stream(1, 1)
        s.guest.say(t.CREDIT, pack("<I", 16 * MIB), 1)

    cases = (
        ("a stream opened twice", opens((1, 9), (1, 9))),
        ("stream 0 opened", opens((0, 9))),
        ("17 streams", opens(*[(n, 9) for n in range(1, 18)])),
        ("more credit than a stream can have", opens((1, 16 * MIB + 1))),
        ("... and by and by", credit),
        ("more credit than the relay can keep", opens(*[(n, 16 * MIB) for n in range(1, 10)])),
        ("a malformed OPEN", lambda s: s.guest.say(t.F_OPEN, b"1234", 1)),
        ("a malformed CREDIT", lambda s: s.guest.say(t.CREDIT, b"123", 1)),
        ("a share's hello", lambda s: s.guest.raw(
            s.guest.frame(t.HELLO, t.hello(14), seq=0, epoch=14))),
        ("17 sessions at once", lambda s: [s.guest.hello(100 + n) for n in range(17)]),
    )
    for name, say in cases:
        with Scene(relay).up() as s:
            with contextlib.suppress(ConnectionError):
                say(s)
            t.ok(s.guest.dropped(), f"{name}: the guest is sent away")
            again(s, "and may come again")
    t.ok(relay.proc.poll() is None, "the relay lives")


def guest_flood(relay):
    """A client that does not read holds the guest up, and nothing grows."""
    with Scene(relay).up() as s:
        s.stream(1, MIB)
        s.client.proc.send_signal(t.signal.SIGSTOP)
        before, sent = relay.rss_kib(), 0
        s.guest.conn.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            while sent < 64 * MIB:
                data = b"".join(s.guest.frame(t.DATA, bytes(65000), 1) for _ in range(4))
                while data:
                    if not select.select([], [s.guest.conn], [], 2)[1]:
                        raise BlockingIOError
                    n = s.guest.conn.send(data)
                    data, sent = data[n:], sent + n
        t.ok(sent < 16 * MIB, f"a client that stands still holds the guest up: {sent >> 10} KiB")
        t.ok(relay.rss_kib() - before < 6 << 10, "and the relay keeps none of it: "
             f"{relay.rss_kib() - before} KiB")
        s.client.proc.send_signal(t.signal.SIGCONT)


def guest_flaps(relay):
    """One that hangs up at once is not called all the time."""
    with Scene(relay) as s:
        s.guest.accept().hang_up()
        began = time.monotonic()
        for _ in range(4):
            s.guest.accept().hang_up()
        # 0.2, 0.4, 0.8 and 1.6 s, of which a slow machine sees less only at the ends
        took = time.monotonic() - began
        t.ok(took > 2.5, f"a guest that hangs up is called four times more in {took:.1f} s")
    with Scene(relay) as s:
        s.up()
        t.ok(True, "and served when it stays")
        s.guest.close()
        t.ok(relay.wait_log("no QEMU listens"), "its QEMU ends")
        s.guest = r.RawGuest(f"{relay.prefix}.0")
        s.up(8)
        t.ok(True, "the next one is found, with the client that was there")


# ---- the client

def client_breaks(relay):
    with Scene(relay).up() as s:
        s.stream(1, 1000)
        s.client.send(s.cid, t.DATA, bytes(1000), 1)
        s.guest.hear(t.DATA)
        s.client.send(s.cid, t.DATA, b"x", 1)
        s.client.wait("disconnected", "gone", "closed", "error-io")
        t.ok(s.guest.dropped(), "a client that sends more than it has credit for is sent away, "
             "and the guest sees it")
    t.ok(relay.wait_log("more data than the guest gave credit for"), "and the log says why")


def client_noise(relay):
    with Scene(relay).up() as s:
        before = relay.rss_kib()
        s.client.raw(s.cid, b"".join(noise.randbytes(60000) + t.MAGIC for _ in range(64)))
        s.guest.hear(t.RESYNC)
        s.guest.hello(20)
        s.client.wait("hello")
        t.ok(relay.rss_kib() - before < 8 << 10,
             "noise of a client: a new session, nothing is kept")


def client_half(relay):
    """One that dies within a frame: not a byte of it reaches the guest."""
    with Scene(relay).up() as s:
        s.client.send(s.cid, t.PING, bytes(8))
        half = s.client.frame(s.client.ports[s.cid], t.F_OFFER, t.offer(9, 512, "half"))[:50]
        s.client.raw(s.cid, half)
        t.ok(s.guest.hear(t.PING)[2] == bytes(8), "a frame reaches the guest")
        s.client.kill()
        rest = s.guest.buf
        with contextlib.suppress(ConnectionError):
            while data := s.guest.conn.recv(65536):
                rest += data
        t.ok(not rest, "half a frame of a client that died then does not")


def guest_stands_still(relay):
    """What it gave credit for is kept, and no more; then all of it comes."""
    size = 40 * MIB
    with Scene(relay).up() as s:
        for n in range(1, 6):
            s.stream(n, 8 * MIB)
        before, left = relay.rss_kib(), {n: 8 * MIB for n in range(1, 6)}
        while any(left.values()):
            for n in left:
                k = min(left[n], 60000)
                if k:
                    s.client.send(s.cid, t.DATA, bytes(k), n)
                left[n] -= k
        end = time.monotonic() + 40
        while relay.rss_kib() - before < 36 << 10 and time.monotonic() < end:
            select.select([], [], [], 0.05)
        grown = relay.rss_kib() - before
        t.ok(36 << 10 < grown < 48 << 10, f"40 MiB for a guest that stands still: {grown >> 10} MiB")
        got = 0
        while got < size:
            got += len(s.guest.hear(t.DATA)[2])
        t.ok(got == size, "and all of it comes when it reads")
    # What malloc gives back of it shows a moment later.
    with Scene(relay).up() as s:
        end = time.monotonic() + 40
        while relay.rss_kib() - before > 8 << 10 and time.monotonic() < end:
            select.select([], [], [], 0.05)
        t.ok(relay.rss_kib() - before < 8 << 10, "and nothing stays")


def client_floods(relay):
    """Frames that need no credit, to a guest that reads none of them."""
    with Scene(relay).up() as s:
        sent = 0
        while sent < 200 * MIB and s.client.proc.poll() is None:
            port = s.client.ports.get(s.cid)
            if not port or "more frames than" in relay.log_text():
                break
            data = b"".join(s.client.frame(port, t.F_OFFER, t.offer(2, 512, "m" * 255))
                            for _ in range(2000))
            sent += len(data)
            s.client.raw(s.cid, data)
        t.ok(relay.wait_log("more frames than the guest reads"),
             f"a client that floods a guest that stands still is sent away ({sent >> 20} MiB)")
        t.ok(relay.proc.poll() is None and relay.rss_kib() < 220 << 10,
             f"and the relay lives, with {relay.rss_kib() >> 10} MiB")


def client_silent(relay):
    """A client that stands still is found out, though its connection stands."""
    with Scene(relay).up() as s:
        s.client.proc.send_signal(t.signal.SIGSTOP)
        t.ok(s.guest.dropped(), "a client that is not heard any more is given up")
        s.client.proc.kill()


def main():
    with r.Relay("connect", "ping-interval=1\nping-timeout=60") as relay:
        relay.password = None
        relay.ready()
        only = sys.argv[1:]
        for part in (guest_noise, guest_half, guest_breaks, guest_flood, guest_flaps,
                     client_breaks, client_noise, client_half, guest_stands_still, client_floods):
            if not only or part.__name__ in only:
                part(relay)
        t.ok(relay.proc.poll() is None, "it is the same relay all the time")
    with r.Relay("connect", "ping-interval=0.5\nping-timeout=2") as relay:
        relay.password = None
        relay.ready()
        client_silent(relay)


t.run(main)
