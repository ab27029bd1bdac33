#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-only
"""A stock viewer, which never says hello, is left alone, and gives way to a share."""
import linktest as t


def main():
    with t.Link("hello-timeout=1", tcp=True, password="x") as link:
        d = link.daemon()
        d.send(t.ADD_PORT, 0)
        d.send(t.ADD_PORT, 1)
        with t.Share(link.uri, "x", mode="quiet") as viewer:
            viewer.wait("port")
            d.expect(t.CLIENT)
            t.ok(d.nothing(t.PORT_UP, t.OFFER, seconds=2.5), "the ports stay quiet")
            m = d.open(0, 1)
            t.ok(m.type == t.STREAM_FAILED and m.error == 107, "open is refused: ENOTCONN")
            said = link.log_text().count("port 0: the client is connected but offers no media")
            t.ok(said == 1, "the log says so, once a port")
            t.ok(viewer.proc.poll() is None and link.proc.poll() is None,
                 "the viewer stays connected")
            with t.Share(link.uri, "x") as share:
                share.wait("hello")
                t.ok(d.expect(t.PORT_UP), "a share takes its place")
                viewer.wait("disconnected", "closed", "error-io")
                t.ok(True, "the viewer is told")


t.run(main)
