#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-only
"""relay=: a share at the relay's listener, and the link of a guest at its sockets.

The sockets are what QEMU's -chardev socket would be connected to; what only a real
guest does is selftests/guest's to test.
"""
# timeout: 120
import hashlib
import os

import linktest as t
import relaytest as r


def confined(relay):
    with open(f"/proc/{relay.proc.pid}/status", encoding="ascii") as f:
        s = dict(line.rstrip("\n").split(":\t", 1) for line in f if ":\t" in line)
    t.ok(s["NoNewPrivs"] == "1" and s["Seccomp"] == "2" and int(s["CapBnd"], 16) == 0 and
         (os.geteuid() or "0" not in s["Uid"].split()), "the relay has no rights left")
    t.ok(not os.path.exists(f"{relay.dir}/link/t.sock"), "and no daemon will take it for a link")


def data(d, port, image):
    h = t.nbd_on(d.open(port, 1).fd)
    got = hashlib.sha256()
    for at in range(0, 16 << 20, 1 << 20):
        got.update(h.pread(1 << 20, at))
    with open(image, "rb") as f:
        t.ok(got.digest() == hashlib.sha256(f.read()).digest(), f"port {port}: 16 MiB are read equal")
    block = os.urandom(3 << 20)
    h.pwrite(block, 12345)
    h.flush()
    t.ok(h.pread(len(block), 12345) == block, "3 MiB written are read again")
    return h


def gone(d, ports=2):
    for _ in range(ports):
        d.expect(t.PORT_DOWN)


def back(d, ports=2):
    for _ in range(ports):
        d.expect(t.OFFERS_END)


def lives(relay, guest, image, nbd):
    offers = [t.offer(1, 16 << 20, "m")]
    d = guest.daemon()
    for n in range(2):
        d.send(t.ADD_PORT, n)
    t.ok(guest.wait_log("port 1: a client is at the other end"), "the guest connects before a client does")
    share = t.Share(relay.uri, caps=t.CAP_CHECKS, offers=offers, nbd=nbd)
    back(d)
    t.ok(True, "a share at the listener is seen by the guest, on both ports")
    handle = data(d, 0, image)
    data(d, 1, image)
    share.kill()
    gone(d)
    t.ok(True, "kill -9 of the client: the guest sees the ports go down")
    del handle
    share = t.Share(relay.uri, caps=t.CAP_CHECKS, offers=offers, nbd=nbd)
    back(d)
    guest.kill()
    guest.start()
    d = guest.daemon()
    for n in range(2):
        d.send(t.ADD_PORT, n)
    back(d)
    data(d, 0, image)
    t.ok(share.proc.poll() is None, "kill -9 of the guest's link: the next one finds the same client")
    relay.kill()
    gone(d)
    share.close()
    relay.start()
    relay.ready()
    share = t.Share(relay.uri, caps=t.CAP_CHECKS, offers=offers, nbd=nbd)
    back(d)
    data(d, 1, image)
    t.ok(True, "kill -9 of the relay: the next one serves the same guest")
    share.close()


def tickets():
    """The password opens one session; the secret of the guest's link its later ones."""
    offers = [t.offer(1, 512, "m")]
    with r.Relay(tcp=True, password="x") as relay:
        relay.fds = {}
        relay.ready()
        with r.GuestLink(relay.prefix) as guest:
            d = guest.daemon()
            d.send(t.ADD_PORT, 0)
            with t.Share(relay.uri, "x", caps=t.CAP_CHECKS, offers=offers):
                back(d, 1)
                with t.Share(relay.uri, "x", caps=t.CAP_CHECKS, secret="") as other:
                    e = other.wait("port", "error-auth", "error-link", "error-io", "gone")
                    t.ok(e[0] != "port", "a second client is refused")
            gone(d, 1)
            with t.Share(relay.uri, "x", caps=t.CAP_CHECKS, secret="") as stranger:
                e = stranger.wait("port", "error-auth", "error-link", "error-io", "gone")
                t.ok(e[0] == "error-auth", "the password that was used opens nothing")
            relay.kill()
            relay.start()
            relay.ready()
            with t.Share(relay.uri, "x", caps=t.CAP_CHECKS, offers=offers):
                back(d, 1)
                t.ok(True, "the share comes again by the secret of the guest's link, "
                     "also to the next relay")


def main():
    image = t.pattern_file(16 << 20)
    with r.Relay() as relay, t.Nbdkit(image.name) as nbd:
        t.ok(relay.ready(), "a relay listens for a guest")
        confined(relay)
        with r.GuestLink(relay.prefix) as guest:
            lives(relay, guest, image.name, nbd.sock)
    tickets()


t.run(main)
