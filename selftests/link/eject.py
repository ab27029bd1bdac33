#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-only
"""A share asks for its medium back, by force, or for another one in its place;
the daemon's answers and their texts; what the administrator forbids."""
import struct

import linktest as t

MEDIA = [t.offer(1, 512, "one"), t.offer(2, 512, "two", medium=b"2" * 16)]
FORCE, REPLACE, INSERT = 1, 2, 4
BUSY = 5


def ask(share, cid, offer, flags, *by):
    share.send(cid, t.F_EJECT_REQUEST, struct.pack(f"<{2 + len(by)}I", offer, flags, *by))


def notice_of(share, **kw):
    return share.wait("notice", **kw)[2]


def answers(d, share, cid):
    ask(share, cid, 1, 0)
    m = d.expect(t.EJECT_REQUEST)
    t.ok((m.offer, m.flags) == (1, 0), "a plain request")
    ask(share, cid, 1, FORCE | 0xf0)
    m = d.expect(t.EJECT_REQUEST)
    t.ok((m.offer, m.flags) == (1, FORCE), "one by force; unknown bits are dropped")
    ask(share, cid, 1, REPLACE, 2)
    m = d.expect(t.EJECT_REQUEST)
    t.ok((m.offer, m.flags, m.u[:4]) == (1, REPLACE, struct.pack("=I", 2)),
         "one with a replacement")
    ask(share, cid, 7, 0)
    ask(share, cid, 0, FORCE)
    ask(share, cid, 1, REPLACE, 9)
    n = notice_of(share)
    t.ok(n[:2] == (BUSY, 1) and "not offered" in n[2], f"a replacement that is none: {n[2]}")
    t.ok(d.nothing(t.EJECT_REQUEST), "requests for what is not offered go nowhere")
    text = "mounted on /m\u00fcller; open by 2 programs"
    d.send(t.NOTICE, 0, offer=1, flags=BUSY, u=text.encode())
    t.ok(notice_of(share) == (BUSY, 1, text), "the daemon's answer comes with its reason")
    d.send(t.NOTICE, 0, offer=1, flags=BUSY, u=b"a\nb\xff" + b"x" * 300)
    d.send(t.NOTICE, 0, offer=1, flags=BUSY, u=b"a\nb\xff" + b"x" * 251)
    t.ok(notice_of(share)[2] == "a?b?" + "x" * 251, "cleaned, and only one that has an end")


def main():
    with t.Link() as link:
        d = link.daemon()
        d.send(t.ADD_PORT, 0)
        with t.Share(link.uri, offers=MEDIA, caps=t.CAP_ANSWERS) as share:
            cid = share.wait("hello")[1]
            d.expect(t.OFFERS_END)
            answers(d, share, cid)
            share.send(cid, t.BYE, struct.pack("<I", 1))
            t.ok(d.expect(t.PORT_DOWN).flags == 0, "a BYE after an error is no end for good")
        with t.Share(link.uri, offers=MEDIA) as share:
            cid = share.wait("hello")[1]
            d.expect(t.OFFERS_END)
            d.send(t.NOTICE, 0, offer=1, flags=BUSY, u=b"why")
            t.ok(notice_of(share) == (BUSY, 1, ""), "a share of an older version gets no text")
            share.send(cid, t.BYE, struct.pack("<I", 8))
            t.ok(d.expect(t.PORT_DOWN).flags == 1, "the share that ends is told as such")
        with t.Share(link.uri, offers=MEDIA) as share:
            cid = share.wait("hello")[1]
            ask(share, cid, 1, 0, 2)
            t.ok(share.wait("bye")[2][0] == 1, "a length that does not fit is an error")
    with t.Link("client-force=no\nclient-change=no") as link:
        d = link.daemon()
        d.send(t.ADD_PORT, 0)
        with t.Share(link.uri, offers=MEDIA, caps=t.CAP_ANSWERS) as share:
            cid = share.wait("hello")[1]
            d.expect(t.OFFERS_END)
            ask(share, cid, 1, FORCE)
            n = notice_of(share)
            t.ok(n[:2] == (BUSY, 1) and "client-force=no" in n[2], f"force is forbidden: {n[2]}")
            ask(share, cid, 1, REPLACE, 2)
            n = notice_of(share)
            t.ok(n[:2] == (BUSY, 1) and "client-change=no" in n[2], f"change, too: {n[2]}")
            t.ok(d.nothing(t.EJECT_REQUEST), "the daemon hears nothing of either")
            ask(share, cid, 1, INSERT)
            n = notice_of(share)
            t.ok(n[:2] == (BUSY, 1) and "client-insert=yes" in n[2], f"and to insert: {n[2]}")
            t.ok(d.nothing(t.EJECT_REQUEST), "nor of that")
            ask(share, cid, 1, 0)
            t.ok(d.expect(t.EJECT_REQUEST).flags == 0, "a plain request always goes")
    with t.Link("client-insert=yes") as link:
        d = link.daemon()
        d.send(t.ADD_PORT, 0)
        with t.Share(link.uri, offers=MEDIA, caps=t.CAP_ANSWERS) as share:
            cid = share.wait("hello")[1]
            d.expect(t.OFFERS_END)
            ask(share, cid, 7, INSERT)
            ask(share, cid, 2, INSERT | FORCE)
            m = d.expect(t.EJECT_REQUEST)
            t.ok((m.offer, m.flags) == (2, INSERT), "a client that may: what it has is to be inserted")


t.run(main)
