#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-only
"""Lost bytes, garbage, RESYNC, BYE, a reset by the daemon: a new epoch, never garbage."""
import struct

import linktest as t


def again(share, d, epochs, what):
    d.expect(t.PORT_DOWN)
    _, _, epoch = share.wait("hello")
    d.expect(t.OFFERS_END)
    t.ok(epoch not in epochs, what)
    epochs.add(epoch)


def main():
    with t.Link(password="x") as link:
        d = link.daemon()
        d.send(t.ADD_PORT, 0)
        with t.Share(link.uri, "x", mode="manual", offers=[t.offer(1, 512, "m")]) as share:
            _, cid, epoch = share.wait("hello")
            d.expect(t.OFFERS_END)
            epochs = {epoch}
            port = share.ports[cid]
            secret = port.secret

            share.raw(cid, b"garbage that is no frame" * 9)
            again(share, d, epochs, "garbage")
            port.seq += 1
            share.send(cid, t.PING, bytes(8))
            again(share, d, epochs, "a gap in the sequence")
            share.raw(cid, share.frame(port, t.PING, bytes(8))[5:])
            share.send(cid, t.PING, bytes(8))
            again(share, d, epochs, "the start of a frame is missing")
            share.raw(cid, struct.pack("<4sHHIIII", b"SBDF", 8, 0, 1, 0xfffffff0, port.epoch, port.seq))
            again(share, d, epochs, "a length beyond the limit")
            share.raw(cid, share.frame(port, t.RESYNC, seq=0, epoch=0))
            again(share, d, epochs, "RESYNC")
            d.send(t.RESET_PORT, 0)
            again(share, d, epochs, "a reset by the daemon")
            t.ok(port.secret == secret and secret != bytes(32), "the secret stays the same")

            share.raw(cid, share.frame(port, t.DATA, b"x" * 100, 1, 0, port.epoch ^ 1))
            share.send(cid, t.F_WITHDRAW, struct.pack("<I", 1))
            t.ok(d.expect(t.WITHDRAW, t.PORT_DOWN).type == t.WITHDRAW, "a foreign epoch is dropped")

            # what a session that was reset left open ends with it
            share.send(cid, t.F_OFFER, t.offer(1, 512, "m"))
            d.expect(t.OFFER)
            d.send(t.OPEN, 0, 1, 5)
            while share.wait("frame")[2][0] != t.F_OPEN:
                pass
            d.send(t.RESET_PORT, 0)
            m = d.expect(t.STREAM_FAILED)
            t.ok(m.tag == 5 and m.error == 107, "an open that waits fails with the session")
            again(share, d, epochs, "and a new session begins")

            share.send(cid, t.BYE, struct.pack("<I", 8) + b"quitting")
            m = d.expect(t.PORT_DOWN)
            t.ok("quitting" in m.text, "BYE ends the session")
            share.send(cid, t.PING, bytes(8))
            t.ok(d.nothing(t.PORT_UP), "nothing is heard after it")
            share.raw(cid, share.frame(port, t.RESYNC, seq=0, epoch=0))
            d.expect(t.PORT_UP)
            t.ok(True, "but RESYNC")


t.run(main)
