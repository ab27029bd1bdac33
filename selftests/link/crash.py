#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-only
"""A client sends the message that libspice-server 0.15 overflows its heap with.

Without TLS it never reaches that library: the link takes data from the socket
itself and goes on. With TLS it may kill the link: then the next one on the same
sockets serves again, and nothing but that process was lost.
"""
import os
import subprocess
import tempfile

import linktest as t
import tls

PROXY = os.path.join(os.path.dirname(os.path.abspath(__file__)), "spiceproxy.py")


class Proxy:
    def __init__(self, server_port, *pem):
        self.proc = subprocess.Popen(["/usr/bin/python3", PROXY, "0", str(server_port), *pem],
                                     stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.port = int(self.proc.stdout.readline().split()[1])

    def inject(self):
        self.proc.stdin.write("inject\n")
        self.proc.stdin.flush()
        return self.proc.stdout.readline().strip() == "injected"

    def close(self):
        self.proc.kill()
        self.proc.wait()


def session(link, uri, server, size, before=None, **kw):
    """before: an earlier session's share: the password let that one in, and is spent."""
    if before:
        kw["secret"] = t.SECRETS[before.key]
    d = link.daemon()
    d.send(t.ADD_PORT, 0)
    share = t.Share(uri, "x", offers=[t.offer(1, size, "m")], nbd=server.sock, **kw)
    d.expect(t.OFFERS_END)
    return d, share, t.nbd_on(d.open(0, 1).fd)


def plain(server, data):
    with t.Link(tcp=True, password="x") as link:
        proxy = Proxy(link.port)
        d, share, h = session(link, f"spice://127.0.0.1:{proxy.port}", server, len(data))
        t.ok(h.pread(65536, 0) == data[:65536], "plain: a session through the proxy")
        before = link.rss_kib()
        t.ok(proxy.inject(), "plain: the message is sent")
        # What follows it is garbage for the frame layer: a new session is asked for.
        d.expect(t.PORT_DOWN)
        t.ok(link.proc.poll() is None, "plain: the link lives")
        t.ok(link.rss_kib() - before < 16 << 10, "plain: and did not grow")
        proxy.close()
        share.close()
        d.close()
        d, share, h = session(link, link.uri, server, len(data), share)
        t.ok(h.pread(65536, 0) == data[:65536], "plain: the next session is served by it")
        share.close()
        d.close()


def with_tls(server, data, c):
    with t.Link(f"tls-cert={c}/cert.pem\ntls-key={c}/key.pem\ntls-ca={c}/ca.pem",
                tcp=True, password="x") as link:
        proxy = Proxy(link.port, f"{c}/cert.pem", f"{c}/key.pem", f"{c}/ca.pem")
        uri = "spice://127.0.0.1?tls-port="
        d, share, h = session(link, f"{uri}{proxy.port}", server, len(data), ca_file=f"{c}/ca.pem")
        t.ok(h.pread(65536, 0) == data[:65536], "TLS: a session through the proxy")
        t.ok(proxy.inject(), "TLS: the message is sent")
        share.wait("disconnected", "closed", "error-io", "gone", timeout=60)
        try:
            while d.expect(t.PORT_DOWN, t.CLIENT, timeout=60).type != t.PORT_DOWN:
                pass
            t.ok(link.proc.poll() is None, "TLS: the link lives, without its client")
        except EOFError:
            status = link.proc.wait(60)
            t.ok(status < 0, f"TLS: the link died of it (signal {-status}), and nobody else")
            link.start()
        try:
            h.pread(512, 0)
            t.ok(False, "TLS: its stream ended")
        except Exception:
            t.ok(True, "TLS: its stream ended")
        proxy.close()
        share.close()
        d.close()
        d, share, h = session(link, f"{uri}{link.port}", server, len(data), share,
                              ca_file=f"{c}/ca.pem")
        t.ok(h.pread(65536, 0) == data[:65536], "TLS: all is served again")
        share.close()
        d.close()


def main():
    with tempfile.TemporaryDirectory() as c, t.pattern_file(4 << 20) as f, \
            t.Nbdkit(f.name) as server:
        data = open(f.name, "rb").read()
        tls.certificates(c)
        plain(server, data)
        with_tls(server, data, c)


t.run(main)
