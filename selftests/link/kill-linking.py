#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-only
"""Clients are killed while their channels are linking; libspice-server must not notice."""
# timeout: 240
import random

import linktest as t

ROUNDS = 80


def main():
    for tcp in (True, False):
        with t.Link(tcp=tcp, password="x") as link:
            d = link.daemon()
            for n in range(6):
                d.send(t.ADD_PORT, n)
            r = random.Random(3)
            for n in range(ROUNDS):
                share = t.Share(link.uri, "x", offers=[t.offer(1, 512, "m")])
                try:
                    if n % 2:
                        share.wait("hello", "port", timeout=5)
                    else:
                        share.wait("opened", timeout=5)
                        t.select.select([], [], [], r.random() * 0.05)
                except t.Timeout:
                    pass	# it came while the one before was not quite gone
                share.kill()
                if link.proc.poll() is not None:
                    break
            t.ok(link.proc.poll() is None, f"{ROUNDS} clients killed, {'TCP' if tcp else 'unix'}")
            d.sock.setblocking(False)
            try:
                while d.sock.recv(512):
                    pass
            except BlockingIOError:
                pass
            with t.Share(link.uri, "x", offers=[t.offer(1, 512, "m")]):
                for n in range(6):
                    d.expect(t.OFFERS_END)
                t.ok(True, "and the next one is served on all ports")


t.run(main)
