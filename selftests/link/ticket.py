#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-only
"""The password opens one session; what comes later comes by that session's secret:
a port that is reset, a drive that is added, the link or the share started again."""
# timeout: 240
import contextlib
import os
import tempfile
import threading

import linktest as t
from tls import certificates

NOT_IN = "error-auth", "error-link", "error-io", "error-tls", "closed", "gone"


def refused(link, why, password="x", secret="", ca=None, uri=None):
    """Somebody who knows the password, and nothing else."""
    with t.Share(uri or link.uri, password, secret=secret, ca_file=ca) as s:
        e = s.wait("port", *NOT_IN)
        t.ok(e[0] == "error-auth", f"{why}: {e[0]}")


class Person:
    """A share of the test's own, and what it was told."""

    def __init__(self, link, d, uri, ca, secret=""):
        self.link, self.d, self.uri, self.ca = link, d, uri, ca
        self.share = t.Share(uri, "x", offers=[t.offer(1, 512, "m")], ca_file=ca, secret=secret)

    def up(self, ports=1):
        for _ in range(ports):
            self.d.expect(t.OFFERS_END)
        return t.SECRETS[self.share.key]

    def gone(self):
        self.share.close()
        # The gate has let go of it when its client is told to be gone.
        while self.d.expect(t.CLIENT).flags:
            pass


def daemon_of(link, ports):
    d = link.daemon()
    for n in ports:
        d.send(t.ADD_PORT, n)
    return d


def spent(link, uri, ca, what):
    d = daemon_of(link, (0, 1))
    p = Person(link, d, uri, ca)
    first = p.up(2)
    d.send(t.RESET_PORT, 0)
    d.expect(t.PORT_DOWN, port=0)
    d.expect(t.OFFERS_END, port=0)
    t.ok(True, f"{what}: a port is reset")
    # Its channel is linked anew, by a ticket.
    d.send(t.ADD_PORT, 2)
    d.expect(t.OFFERS_END, port=2)
    t.ok(p.share.wait("again")[0] == "again", f"{what}: a drive is added: the password is refused")
    d.send(t.DEL_PORT, 0)
    d.expect(t.PORT_DOWN, port=0)
    d.send(t.ADD_PORT, 0)
    d.expect(t.OFFERS_END, port=0)
    t.ok(True, f"{what}: a drive that was taken away and added is linked by the secret")
    p.gone()

    refused(link, f"{what}: the spent password opens nothing", ca=ca, uri=uri)
    refused(link, f"{what}: nor does a wrong secret", "00" * 16, ca=ca, uri=uri)
    refused(link, f"{what}: nor a piece of it", first[:31], ca=ca, uri=uri)
    refused(link, f"{what}: nor nothing", "", ca=ca, uri=uri)

    p = Person(link, d, uri, ca, first)
    t.ok(p.up(3) == first, f"{what}: the share is started again: by the secret, which stays")
    link.kill()
    p.share.wait("disconnected", "closed", "error-io", "gone")
    p.share.close()
    d.close()
    link.start()
    d = daemon_of(link, (0,))
    refused(link, f"{what}: the link is started again: the password stays spent", ca=ca, uri=uri)
    p = Person(link, d, uri, ca, first)
    t.ok(p.up() == first, f"{what}: and the share is let in by the secret")
    # One who has the password only is no danger for it.
    with t.Share(uri, "x", secret="", ca_file=ca) as s:
        t.ok(s.wait("port", *NOT_IN)[0] != "port", f"{what}: beside it nobody comes in")
    t.ok(d.nothing(t.PORT_DOWN), f"{what}: and it did not notice")
    p.gone()
    t.ok("used already" in link.log_text(), f"{what}: the log says what to do")
    mode = os.stat(os.path.join(link.dir, "link/t.ticket")).st_mode & 0o777
    t.ok(mode == 0o600, f"{what}: the record is nobody else's to read ({mode:o})")
    d.close()


def changed(link):
    """The administrator gives a new password: the old secret is void."""
    link.kill()
    with open(os.path.join(link.dir, "password"), "w") as f:
        f.write("y\n")
    link.start()
    d = daemon_of(link, (0,))
    old = t.SECRETS[(link.uri, "x")]
    refused(link, "a new password: the old one", "x")
    refused(link, "a new password: the old secret", old)
    with t.Share(link.uri, "y", offers=[t.offer(1, 512, "m")]) as s:
        d.expect(t.OFFERS_END)
        t.ok(t.SECRETS[(link.uri, "y")] != old, "a new password: is good, for a new secret")
        s.close()
    d.close()


def turned_away(shares, n, limit=40):
    """Which of them have ended; waits until there are n."""
    out, end = {}, t.time.monotonic() + limit
    while len(out) < n and t.time.monotonic() < end:
        for i, s in enumerate(shares):
            if i not in out:
                with contextlib.suppress(t.Timeout):
                    out[i] = s.wait("disconnected", *NOT_IN, timeout=0.1)[0]
    return out


def race(link, uri, ca, what, rounds=4):
    """Several come at once by one password: one is served, and goes on undisturbed."""
    for n in range(rounds):
        t.SECRETS.clear()
        d = daemon_of(link, (0, 1))
        together = threading.Barrier(3)
        shares, lock = [], threading.Lock()

        def come():
            together.wait()
            s = t.Share(uri, "x", offers=[t.offer(1, 512, "m")], ca_file=ca, secret="")
            with lock:
                shares.append(s)

        threads = [threading.Thread(target=come) for _ in range(3)]
        for th in threads:
            th.start()
        for th in threads:
            th.join()
        d.expect(t.OFFERS_END)
        # The others are told that they are not let in, or out again.
        out = turned_away(shares, 2)
        t.ok(len(out) == 2, f"{what}: two of three are turned away ({n}: {out})")
        refused_later(uri, ca, f"{what}: and come in no more by the password ({n})")
        t.ok(len(turned_away(shares, 3, 1)) <= 2 and d.nothing(t.PORT_DOWN, seconds=0.2),
             f"{what}: the third is served ({n})")
        for s in shares:
            s.close()
        d.close()
        link.kill()
        os.unlink(os.path.join(link.dir, "link/t.ticket"))
        link.start()


def refused_later(uri, ca, why):
    with t.Share(uri, "x", secret="", ca_file=ca) as s:
        t.ok(s.wait("port", *NOT_IN)[0] != "port", why)


def state_file(link):
    """A record that is not ours to use is refused, by name; garbage in it begins anew."""
    path = os.path.join(link.dir, "link/t.ticket")
    link.kill()
    os.unlink(path)
    os.symlink("/etc/hostname", path)
    link.start()
    t.ok(link.proc.wait(60) == 1 and link.wait_log("t.ticket, where it is remembered"),
         "a link in its place is not followed, and the log names it")
    os.unlink(path)
    with open(path, "wb", opener=lambda n, f: os.open(n, f, 0o600)) as f:
        f.write(os.urandom(500))
    link.start()
    d = daemon_of(link, (0,))
    t.SECRETS.clear()
    with t.Share(link.uri, "y", offers=[t.offer(1, 512, "m")]):
        d.expect(t.OFFERS_END)
        t.ok(True, "garbage in it: the password is good")
    d.close()


def main():
    with tempfile.TemporaryDirectory() as c:
        certificates(c)
        conf = f"tls-cert={c}/cert.pem\ntls-key={c}/key.pem\ntls-ca={c}/ca.pem\n"
        ca = f"{c}/ca.pem"
        with t.Link(tcp=True, password="x") as link:
            spent(link, link.uri, None, "TCP")
            changed(link)
            state_file(link)
        with t.Link(password="x") as link:
            race(link, link.uri, None, "unix socket")
        with t.Link(conf, tcp=True, password="x") as link:
            uri = f"spice://127.0.0.1?tls-port={link.port}"
            spent(link, uri, ca, "TLS")
        with t.Link(conf, tcp=True, password="x") as link:
            race(link, f"spice://127.0.0.1?tls-port={link.port}", ca, "TLS", 3)


if __name__ == "__main__":
    t.run(main)
