#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-only
"""A share that breaks the protocol is cut, with one line in the log; the link lives."""
import random
import struct

import linktest as t




def attack(link, d, name, say, opened=False, credit_says="protocol error"):
    share = t.Share(link.uri, "x", mode="manual", offers=[t.offer(1, 1 << 20, "m")])
    _, cid, _ = share.wait("hello")
    d.expect(t.OFFERS_END)
    port = share.ports[cid]
    stream = fd = None
    if opened:
        d.send(t.OPEN, 0, 1, 5)
        while True:
            _, _, (type_, stream, payload) = share.wait("frame")
            if type_ == t.F_OPEN:
                break
        credit = struct.unpack("<II", payload)[1]
        if opened == "open":
            share.send(cid, t.OPENED, struct.pack("<I", 65536), stream)
            fd = d.expect(t.STREAM).fd
        say(share, cid, port, stream, credit)
    else:
        say(share, cid, port)
    d.expect(t.PORT_DOWN)
    share.wait("disconnected", "gone", "closed", "error-io")
    t.ok(link.proc.poll() is None, name)
    share.close()
    d.expect(t.CLIENT)
    if fd is not None:
        t.os.close(fd)


def flood(share, cid, port, stream, credit):
    """The daemon does not read; bytes beyond the credit."""
    left = credit + 1
    while left:
        n = min(left, 65000)
        share.send(cid, t.DATA, bytes(n), stream)
        left -= n


def patience(link, d):
    """What is no fault, or one that a new session heals, however much of it comes."""
    before = link.rss_kib()
    share = t.Share(link.uri, "x", mode="manual", offers=[t.offer(1, 512, "m")])
    _, cid, _ = share.wait("hello")
    d.expect(t.OFFERS_END)
    port = share.ports[cid]
    for c in share.frame(port, t.F_OFFER, t.offer(2, 1024, "slow")):
        share.raw(cid, bytes([c]))
    t.ok(d.expect(t.OFFER).offer == 2, "an offer a byte at a time")
    for n in range(2000):
        share.raw(cid, share.frame(port, t.F_WITHDRAW, struct.pack("<I", 1), seq=n,
                                   epoch=port.epoch ^ (n + 1)))
        share.send(cid, t.F_WITHDRAW, struct.pack("<I", 1000 + n))
    share.send(cid, t.F_WITHDRAW, struct.pack("<I", 2))
    t.ok(d.expect(t.WITHDRAW).offer == 2, "frames of other epochs, and of offers that are none")
    noise = random.Random(1)
    # In one piece: between two its answer to the new hello would begin another session.
    share.raw(cid, b"".join(noise.randbytes(60000) + t.MAGIC for _ in range(64)))
    d.expect(t.PORT_DOWN)
    share.wait("hello")
    d.expect(t.OFFERS_END)
    t.ok(True, "four megabytes of noise end in a new session")
    t.ok(link.rss_kib() - before < 8 << 10, "none of it is kept")
    share.close()


def main():
    with t.Link(tcp=True, password="x") as link:
        d = link.daemon()
        d.send(t.ADD_PORT, 0)
        before = link.rss_kib()
        attack(link, d, "data beyond its credit", flood, "open")
        t.ok(link.rss_kib() - before < 64 << 10, f"and memory stays in bounds ({before} to {link.rss_kib()} KiB)")
        attack(link, d, "data before OPENED",
               lambda s, c, p, st, cr: s.send(c, t.DATA, b"x", st), "opening")
        attack(link, d, "an empty DATA", lambda s, c, p, st, cr: s.send(c, t.DATA, b"", st), "open")
        attack(link, d, "OPENED twice",
               lambda s, c, p, st, cr: s.send(c, t.OPENED, struct.pack("<I", 1), st), "open")
        attack(link, d, "OPENED with too much credit",
               lambda s, c, p, st, cr: s.send(c, t.OPENED, struct.pack("<I", 1 << 31), st), "opening")
        attack(link, d, "CREDIT beyond the limit",
               lambda s, c, p, st, cr: s.send(c, t.CREDIT, struct.pack("<I", 0xffffffff), st), "open")
        attack(link, d, "CREDIT of 0",
               lambda s, c, p, st, cr: s.send(c, t.CREDIT, struct.pack("<I", 0), st), "open")
        attack(link, d, "DATA of an unknown stream", lambda s, c, p: s.send(c, t.DATA, b"x", 7))
        attack(link, d, "a CLOSE that is too short",
               lambda s, c, p, st, cr: s.send(c, t.CLOSE, b"", st), "open")
        attack(link, d, "a type of the link's", lambda s, c, p: s.send(c, t.F_OPEN, bytes(8), 1))
        attack(link, d, "an unknown type", lambda s, c, p: s.send(c, 77))
        attack(link, d, "a name with a control character",
               lambda s, c, p: s.send(c, t.F_OFFER, t.offer(2, 512, "a\nb")))
        attack(link, d, "a name with a separator",
               lambda s, c, p: s.send(c, t.F_OFFER, t.offer(2, 512, "../b")))
        attack(link, d, "a medium of 2^63 bytes",
               lambda s, c, p: s.send(c, t.F_OFFER, t.offer(2, 1 << 63, "b")))
        attack(link, d, "65 offers", lambda s, c, p: [
            s.send(c, t.F_OFFER, t.offer(n, 512, "b")) for n in range(2, 70)])
        attack(link, d, "OFFERS_END twice", lambda s, c, p: s.send(c, t.F_OFFERS_END))
        attack(link, d, "RESYNC without end", lambda s, c, p: [
            s.raw(c, s.frame(p, t.RESYNC, seq=0, epoch=0)) for n in range(200)])

        share = t.Share(link.uri, "x", mode="manual", offers=[t.offer(1, 512, "m")])
        _, cid, _ = share.wait("hello")
        share.send(cid, 0x8000 | 77, b"later")
        share.send(cid, t.F_WITHDRAW, struct.pack("<I", 1))
        t.ok(d.expect(t.WITHDRAW).offer == 1, "an unknown optional type is skipped")
        share.close()
        patience(link, d)
        log = link.log_text()
        t.ok(log.count("the client is disconnected") == 17, "one line in the log for each")


t.run(main)
