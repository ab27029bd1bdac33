#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-only
"""The client is killed in mid-transfer, again and again, and comes back clean."""
import os
import threading

import linktest as t

ROUNDS = 15


def main():
    with t.pattern_file(16 << 20) as f, t.Nbdkit(f.name) as server, t.Link(password="x") as link:
        data = open(f.name, "rb").read()
        d = link.daemon()
        d.send(t.ADD_PORT, 0)
        d.send(t.ADD_PORT, 1)
        epochs, clean, dead = set(), 0, 0
        for n in range(ROUNDS):
            share = t.Share(link.uri, "x", offers=[t.offer(1, 16 << 20, "m")], nbd=server.sock)
            end = d.expect(t.OFFERS_END, port=0)
            epochs.add(end.epoch)
            h = t.nbd_on(d.open(0, 1).fd)
            clean += h.pread(65536, 1 << 20) == data[1 << 20:(1 << 20) + 65536]
            failed = threading.Event()

            def work():
                import nbd
                try:
                    while True:
                        h.pwrite(data[:1 << 20], 0)
                        h.pread(1 << 20, 8 << 20)
                except nbd.Error:
                    failed.set()
            threading.Thread(target=work, daemon=True).start()
            t.select.select([], [], [], 0.01 * (n % 5))
            share.kill()
            d.expect(t.PORT_DOWN, port=0)
            dead += failed.wait(5)
        t.ok(clean == ROUNDS, "every new client serves the medium")
        t.ok(len(epochs) == ROUNDS, "in an epoch of its own")
        t.ok(dead == ROUNDS, "what was in flight fails at once")
        t.ok(link.proc.poll() is None, "the link lives")
        fds = len(os.listdir(f"/proc/{link.proc.pid}/fd"))
        t.ok(fds < 20, f"no descriptor was left behind ({fds})")


t.run(main)
