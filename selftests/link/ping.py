#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-only
"""A client that stops answering is given up within the ping timeout, and may come again."""
import signal
import time

import linktest as t


def main():
    with t.Link("ping-interval=0.5\nping-timeout=2", tcp=True, password="x") as link:
        d = link.daemon()
        d.send(t.ADD_PORT, 0)
        d.send(t.ADD_PORT, 1)
        with t.Share(link.uri, "x", offers=[t.offer(1, 512, "m")]) as share:
            for _ in range(2):
                d.expect(t.OFFERS_END)
            t.ok(d.nothing(t.PORT_DOWN, seconds=4), "an idle client that answers stays")
            share.proc.send_signal(signal.SIGSTOP)
            began = time.monotonic()
            d.expect(t.PORT_DOWN)
            took = time.monotonic() - began
            t.ok(1 < took < 4, f"a frozen one is given up after {took:.1f} s")
            d.expect(t.CLIENT)
            with t.Share(link.uri, "x", offers=[t.offer(1, 512, "m")]) as again:
                again.wait("hello")
                t.ok(time.monotonic() - began < 6, "the person comes again at once")
            share.proc.send_signal(signal.SIGCONT)
        with t.Share(link.uri, "x", mode="frozen", offers=[t.offer(1, 512, "m")]) as share:
            share.wait("hello")
            share.wait("disconnected", "closed", "error-io", timeout=6)
            t.ok(True, "a share that answers no PING is disconnected")


t.run(main)
