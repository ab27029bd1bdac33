#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-only
"""A wrong password gets an authentication error, and disturbs nobody."""
import linktest as t


def main():
    with t.Link(tcp=True, password="right") as link:
        d = link.daemon()
        d.send(t.ADD_PORT, 0)
        with t.Share(link.uri, "wrong") as bad:
            e = bad.wait("error-auth", "port")
            t.ok(e[0] == "error-auth", "a wrong password is refused as such")
        with t.Share(link.uri, "") as bad:
            e = bad.wait("error-auth", "port")
            t.ok(e[0] == "error-auth", "no password is refused as such")
        t.ok(link.wait_log("was not let in: wrong password"), "the log says it")
        with t.Share(link.uri, "right") as share:
            share.wait("hello")
            t.ok(d.expect(t.PORT_UP), "the right one is let in")
            with t.Share(link.uri, "wrong") as bad:
                bad.wait("error-auth", "error-link")
            t.ok(d.nothing(t.PORT_DOWN), "a wrong one beside it disturbs nothing")


t.run(main)
