#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-only
"""A real Spice client, on connections that the link accepted itself, says hello."""
import linktest as t


def one(tcp, password):
    what = f"{'TCP' if tcp else 'unix'}, {'password' if password else 'none'}"
    with t.Link(tcp=tcp, password=password) as link:
        d = link.daemon()
        m = d.expect(t.READY)
        t.ok(m.version == 1, f"{what}: the link greets the daemon")
        d.send(t.ADD_PORT, 0)
        offers = [t.offer(1, 4096, "a.iso", kind=1), t.offer(2, 8192, "b.img")]
        with t.Share(link.uri, password or "", offers=offers) as share:
            share.wait("hello")
            m = d.expect(t.PORT_UP)
            t.ok(m.u[:32] == b"B" * 16 + b"I" * 16, f"{what}: port up, with the share's identity")
            a = d.expect(t.OFFER).offer_fields()
            b = d.expect(t.OFFER).offer_fields()
            d.expect(t.OFFERS_END)
            t.ok(a["name"] == "a.iso" and a["kind"] == 1 and b["size"] == 8192,
                 f"{what}: offers arrive as they were made")
            # a port that is added while the client is connected
            d.send(t.ADD_PORT, 5)
            m = d.expect(t.PORT_UP)
            t.ok(m.port == 5, f"{what}: a port added later comes up")
            d.send(t.DEL_PORT, 5)
            m = d.expect(t.PORT_DOWN)
            t.ok(m.port == 5, f"{what}: a port removed goes down")
        m = d.expect(t.PORT_DOWN)
        t.ok(m.port == 0, f"{what}: the client leaves, the port goes down")


def main():
    one(False, None)
    one(False, "secret")
    one(True, "secret")


t.run(main)
