#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-only
"""With a session and a stream that nobody uses, the link sleeps until its next ping."""
import os
import select
import socket

import linktest as t

QUIET = 4


def wakeups(pid):
    """how often its threads have waited"""
    n = 0
    for task in os.listdir(f"/proc/{pid}/task"):
        with open(f"/proc/{pid}/task/{task}/status", encoding="ascii") as f:
            n += next(int(line.split()[1]) for line in f
                      if line.startswith("voluntary_ctxt_switches"))
    return n


def settled(pid):
    """what it has still to do after a session came up ends within some seconds"""
    was = wakeups(pid)
    for _ in range(20):
        select.select([], [], [], 0.5)
        now = wakeups(pid)
        if now == was:
            return now
        was = now
    return was


def main():
    with t.Link("ping-interval=60\nping-timeout=120", tcp=True, password="x") as link:
        d = link.daemon()
        for port in range(3):
            d.send(t.ADD_PORT, port)
        server = socket.socket(socket.AF_UNIX)	# a far end that says nothing
        server.bind(os.path.join(link.dir, "nbd"))
        server.listen()
        with t.Share(link.uri, "x", offers=[t.offer(1, 512, "m")], nbd=server.getsockname()):
            for _ in range(3):
                d.expect(t.OFFERS_END)
            stream = d.open(0, 1, tag=1)
            t.ok(stream.type == t.STREAM, "a stream is open")
            before = settled(link.proc.pid)
            select.select([], [], [], QUIET)
            n = wakeups(link.proc.pid) - before
            t.ok(n == 0, f"no wakeup in {QUIET} s without a ping ({n})")
            os.close(stream.fd)


t.run(main)
