#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-only
"""TLS on connections that the link accepted; plain ones and second sessions are refused."""
import os
import subprocess
import tempfile

import linktest as t


def certificates(d):
    def run(*a):
        subprocess.check_call(["openssl", *a], stdout=subprocess.DEVNULL,
                              stderr=subprocess.DEVNULL, cwd=d)
    run("req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", "ca.key", "-out", "ca.pem",
        "-days", "2", "-subj", "/CN=Test CA")
    run("req", "-newkey", "rsa:2048", "-nodes", "-keyout", "key.pem", "-out", "req.pem",
        "-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1")
    with open(os.path.join(d, "ext"), "w") as f:
        f.write("subjectAltName=IP:127.0.0.1,DNS:localhost\n")
    run("x509", "-req", "-in", "req.pem", "-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial",
        "-out", "cert.pem", "-days", "2", "-extfile", "ext")
    os.chmod(os.path.join(d, "key.pem"), 0o600)


def main():
    with tempfile.TemporaryDirectory() as c, t.pattern_file(8 << 20) as f, \
            t.Nbdkit(f.name) as server:
        certificates(c)
        data = open(f.name, "rb").read()
        with t.Link(f"tls-cert={c}/cert.pem\ntls-key={c}/key.pem\ntls-ca={c}/ca.pem\n"
                    "hello-timeout=1", tcp=True, password="x") as link:
            uri = f"spice://127.0.0.1?tls-port={link.port}"
            d = link.daemon()
            d.send(t.ADD_PORT, 0)
            offers = [t.offer(1, 8 << 20, "m")]
            with t.Share(uri, "x", offers=offers, nbd=server.sock, ca_file=f"{c}/ca.pem") as share:
                share.wait("hello")
                d.expect(t.OFFERS_END)
                t.ok(True, "a session over TLS")
                h = t.nbd_on(d.open(0, 1).fd)
                t.ok(b"".join(h.pread(1 << 20, n << 20) for n in range(8)) == data,
                     "serves its medium")
                d.send(t.ADD_PORT, 1)
                t.ok(d.expect(t.PORT_UP).port == 1, "links a channel that is added later")
                d.nothing(t.PORT_DOWN, seconds=1.2)	# the inputs channel's time is over
                with t.Share(uri, "x", ca_file=f"{c}/ca.pem") as second:
                    e = second.wait("error-link", "error-io", "error-tls", "error-connect",
                                    "closed", "port")
                    t.ok(e[0] != "port", f"a second session is refused ({e[0]})")
                t.ok(h.pread(512, 0) == data[:512], "the first one did not notice")
            d.expect(t.PORT_DOWN, port=0)
            while d.expect(t.CLIENT).flags:
                pass
            t.ok(True, "the end of the session is noticed")
            with t.Share(link.uri, "x") as plain:
                e = plain.wait("error-link", "error-io", "error-tls", "error-connect", "port")
                t.ok(e[0] != "port", f"a plain connection is refused ({e[0]})")
            with t.Share(uri, "wrong", ca_file=f"{c}/ca.pem") as bad:
                t.ok(bad.wait("error-auth", "port")[0] == "error-auth", "a wrong password, too")
            with t.Share(uri, "x", offers=offers, ca_file=f"{c}/ca.pem") as share:
                share.wait("hello")
                t.ok(True, "and the next session is let in")


if __name__ == "__main__":
    t.run(main)
