#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-only
"""relay=: a share at the relay's listener, and the link of a guest at its sockets.

The sockets are what QEMU's -chardev socket would be connected to; what only a real
guest does is selftests/guest's to test.
"""
# timeout: 120
import contextlib
import hashlib
import os
import select
import tempfile
import time

import linktest as t
import relaytest as r
from ticket import NOT_IN
from tls import certificates


def status(pid):
    with open(f"/proc/{pid}/status", encoding="ascii") as f:
        return dict(line.rstrip("\n").split(":\t", 1) for line in f if ":\t" in line)


def confined(relay):
    # It says that it listens just before it shuts itself in.
    end = time.monotonic() + 40
    while status(relay.proc.pid)["Seccomp"] != "2" and time.monotonic() < end:
        select.select([], [], [], 0.02)
    s = status(relay.proc.pid)
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


def tickets(tls):
    """The password opens one session; the secret of the guest's link its later ones."""
    offers = [t.offer(1, 512, "m")]
    what = "TLS" if tls else "TCP"
    kw = {"caps": t.CAP_CHECKS}
    with contextlib.ExitStack() as stack:
        conf = ""
        if tls:
            c = stack.enter_context(tempfile.TemporaryDirectory())
            certificates(c)
            conf = f"tls-cert={c}/cert.pem\ntls-key={c}/key.pem\ntls-ca={c}/ca.pem\n"
            kw["ca_file"] = f"{c}/ca.pem"
        relay = stack.enter_context(r.Relay(conf=conf, tcp=True, password="x"))
        uri = f"spice://127.0.0.1?tls-port={relay.port}" if tls else relay.uri
        relay.ready()
        guest = stack.enter_context(r.GuestLink(relay.prefix))
        d = guest.daemon()
        d.send(t.ADD_PORT, 0)
        with t.Share(uri, "x", offers=offers, **kw):
            back(d, 1)
            with t.Share(uri, "x", secret="", **kw) as other:
                e = other.wait("port", *NOT_IN)
                t.ok(e[0] != "port", f"{what}: a second client is refused")
        gone(d, 1)
        with t.Share(uri, "x", secret="", **kw) as stranger:
            e = stranger.wait("port", *NOT_IN)
            t.ok(e[0] == "error-auth", f"{what}: the password that was used opens nothing")
        relay.kill()
        relay.start()
        relay.ready()
        image = stack.enter_context(t.pattern_file(16 << 20))
        nbd = stack.enter_context(t.Nbdkit(image.name))
        with t.Share(uri, "x", offers=[t.offer(1, 16 << 20, "m")], nbd=nbd.sock, **kw):
            back(d, 1)
            t.ok(True, f"{what}: the share comes again by the secret of the guest's link, "
                 "also to the next relay")
            data(d, 0, image.name)


def main():
    image = t.pattern_file(16 << 20)
    with r.Relay() as relay, t.Nbdkit(image.name) as nbd:
        t.ok(relay.ready(), "a relay listens for a guest")
        confined(relay)
        with r.GuestLink(relay.prefix) as guest:
            lives(relay, guest, image.name, nbd.sock)
    tickets(False)
    tickets(True)


t.run(main)
