#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-only
"""Who is being served is not thrown out by the next, who is told so."""
import linktest as t


def main():
    with t.Link("hello-timeout=2", tcp=True, password="x") as link:
        d = link.daemon()
        d.send(t.ADD_PORT, 0)
        with t.Share(link.uri, "x", offers=[t.offer(1, 512, "a")]) as first:
            first.wait("hello")
            d.expect(t.OFFERS_END)
            for n in range(3):
                with t.Share(link.uri, "x") as second:
                    e = second.wait("error-link", "error-auth", "port")
                    t.ok(e[0] == "error-link", f"second session refused ({n})")
            t.ok(d.nothing(t.PORT_DOWN, t.CLIENT), "the first one did not notice")
            d.send(t.ADD_PORT, 1)
            t.ok(d.expect(t.PORT_UP).port == 1, "and may link further channels")
        d.expect(t.PORT_DOWN)
        with t.Share(link.uri, "x") as third:
            third.wait("hello")
            t.ok(d.expect(t.PORT_UP), "when it is gone the next is let in")
        # a session that has not said hello yet is given its time
        with t.Share(link.uri, "x", mode="mute") as slow:
            slow.wait("port")
            with t.Share(link.uri, "x") as other:
                t.ok(other.wait("error-link", "port")[0] == "error-link",
                     "a new session has time to say hello")


t.run(main)
