#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-only
"""A new daemon gets told all that stands; the old one's streams are gone, ports stay."""
import linktest as t


def main():
    with t.pattern_file(1 << 20) as f, t.Nbdkit(f.name) as server, t.Link(password="x") as link:
        d = link.daemon()
        d.send(t.ADD_PORT, 0)
        d.send(t.ADD_PORT, 3)
        offers = [t.offer(i, 1 << 20, f"m{i}") for i in (1, 2, 9)]
        with t.Share(link.uri, "x", offers=offers, nbd=server.sock) as share:
            for _ in range(2):
                d.expect(t.OFFERS_END)
            m = d.open(3, 9)
            h = t.nbd_on(m.fd)
            d.close()
            e = share.wait("close")
            t.ok(e[0] == "close", "the old daemon's stream is closed at the share")
            d = link.daemon()
            t.ok(d.recv().type == t.READY, "READY comes first")
            m = d.recv()
            t.ok(m.type == t.CLIENT and m.flags == 1, "then who is connected")
            said = {}
            for _ in range(10):
                m = d.recv()
                said.setdefault(m.port, []).append((m.type, m.offer))
            want = [(t.PORT_UP, 0), (t.OFFER, 1), (t.OFFER, 2), (t.OFFER, 9), (t.OFFERS_END, 0)]
            t.ok(said == {0: want, 3: want}, "ports and offers are told again, in order")
            try:
                h.pread(512, 0)
                t.ok(False, "the old stream is dead")
            except Exception:
                t.ok(True, "the old stream is dead")
            h = t.nbd_on(d.open(3, 9).fd)
            t.ok(len(h.pread(4096, 0)) == 4096, "a new stream serves")
            # a daemon beside it ends the session of the first
            d2 = link.daemon()
            t.ok(d2.expect(t.OFFERS_END, port=0), "a second daemon takes over")
            try:
                while True:
                    d.recv(2)
            except (EOFError, ConnectionError):
                t.ok(True, "the first one is let go")
            d2.send(t.ADD_PORT, 3)
            d2.send(99)
            d2.send(t.GET_STATS, 3)
            t.ok(d2.expect(t.STATS), "a port added twice and an unknown message do no harm")
            d2.sock.send(b"short")
            try:
                while True:
                    d2.recv(2)
            except (EOFError, ConnectionError):
                t.ok(True, "a malformed message ends the session")
            d3 = link.daemon()
            t.ok(d3.expect(t.OFFERS_END, port=3), "and the next daemon starts afresh")


t.run(main)
