#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-only
"""spicebd-tls, the way of a migration over TLS: who is let in, who is not, what is said
of it, and that what passes is whole."""
import os
import socket
import subprocess
import threading

import procs
from procs import BIN, await_true, equal, ok, run

# timeout: 120

TLS = os.path.join(BIN, "spicebd-tls")


def openssl(*args):
    subprocess.run(["openssl", *args], check=True, capture_output=True)


def authority(d, name):
    os.makedirs(d, exist_ok=True)
    openssl("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes",
            "-keyout", f"{d}/ca-key.pem", "-out", f"{d}/ca-cert.pem", "-subj", f"/CN={name}",
            "-days", "2")


def certificate(ca, d, who, cn, alt):
    """@who: server or client"""
    os.makedirs(d, exist_ok=True)
    openssl("req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-keyout",
            f"{d}/{who}-key.pem", "-out", f"{d}/{who}.csr", "-subj", f"/CN={cn}")
    with open(f"{d}/{who}.ext", "w", encoding="ascii") as f:
        f.write(f"subjectAltName={alt}\n")
    openssl("x509", "-req", "-in", f"{d}/{who}.csr", "-CA", f"{ca}/ca-cert.pem", "-CAkey",
            f"{ca}/ca-key.pem", "-CAcreateserial", "-extfile", f"{d}/{who}.ext", "-days", "2",
            "-out", f"{d}/{who}-cert.pem")
    if d != ca:
        with open(f"{ca}/ca-cert.pem", encoding="ascii") as f, \
                open(f"{d}/ca-cert.pem", "w", encoding="ascii") as out:
            out.write(f.read())


class Listener:
    """Somebody who lets others come, at a port of its own."""

    def __init__(self, certificates, *options):
        with socket.socket() as s:
            s.bind(("127.0.0.1", 0))
            self.port = str(s.getsockname()[1])
        self.log = open(f"{procs.run_dir}/listen-{self.port}.log", "w+", encoding="utf8")
        self.p = procs.spawn([TLS, "listen", f"127.0.0.1:{self.port}", "--certificates",
                              certificates, *options], stdout=self.log, stderr=self.log)
        await_true(lambda: "can come at" in self.said(), 60)

    def said(self):
        with open(self.log.name, encoding="utf8") as f:
            return f.read()


def connect(port, certificates, *options, host="127.0.0.1"):
    return run(TLS, "connect", host, port, "--certificates", certificates, *options)


def refused(r, text, name):
    ok(r.returncode == 1 and text in r.stderr and r.stderr.count("\n") == 1,
       f"{name}: {r.stderr.strip()}", r)


def stands(listener, spicebdd):
    """A way to it: the process, our end, and the other spicebdd's."""
    r, w = os.pipe()
    a, b = socket.socketpair()
    p = procs.spawn([TLS, "connect", "127.0.0.1", listener.port, "--certificates",
                     f"{procs.run_dir}/client", "--ready-fd", str(w)], stdin=b, stdout=b,
                    pass_fds=[w])
    os.close(w)
    b.close()
    equal(os.read(r, 1), b"\0", "it says when the way stands")
    os.close(r)
    far, _ = spicebdd.accept()
    for s in a, far:
        s.settimeout(60)
    return p, a, far


def received(s, count):
    got = b""
    while len(got) < count:
        piece = s.recv(65536)
        if not piece:
            break
        got += piece
    return got


def passes(listener, spicebdd):
    p, a, far = stands(listener, spicebdd)
    sent = os.urandom(300000)
    for src, dst, way in (a, far, "there"), (far, a, "back"):
        t = threading.Thread(target=src.sendall, args=(sent,), daemon=True)
        t.start()
        ok(received(dst, len(sent)) == sent, f"all of it arrives {way}")
        t.join(60)
    far.sendall(b"last words")
    far.close()
    equal(received(a, 100), b"last words", "and what is said last, before the end")
    equal(p.wait(60), 0, "then it ends")
    ok(await_true(lambda: "CN=source has come" in listener.said()), "the log says who has come")


def tests():
    d = procs.run_dir
    ca, other = f"{d}/ca", f"{d}/other"
    authority(ca, "authority")
    authority(other, "another authority")
    certificate(ca, f"{d}/server", "server", "target", "IP:127.0.0.1,DNS:localhost")
    certificate(ca, f"{d}/elsewhere", "server", "elsewhere", "IP:192.0.2.1,DNS:elsewhere")
    certificate(ca, f"{d}/client", "client", "source", "DNS:source")
    certificate(other, f"{d}/stranger", "client", "source", "DNS:source")
    # knows the server's authority, and has another one's certificate
    with open(f"{ca}/ca-cert.pem", encoding="ascii") as f, \
            open(f"{d}/stranger/ca-cert.pem", "w", encoding="ascii") as out:
        out.write(f.read())
    certificate(other, f"{d}/mistrusts", "client", "source", "DNS:source")

    spicebdd = socket.socket(socket.AF_UNIX)
    spicebdd.bind(f"{d}/migrate.sock")
    there = Listener(f"{d}/server")
    refused(connect(there.port, f"{d}/client"), "is it running", "nobody at the socket")
    spicebdd.listen(8)
    passes(there, spicebdd)

    refused(connect(there.port, f"{d}/stranger"), "refuses us", "another authority's certificate")
    refused(connect(there.port, f"{d}/mistrusts"), "not the host", "a server of another authority")
    refused(connect(Listener(f"{d}/elsewhere").port, f"{d}/client"), "not the host",
            "a server of another name")
    refused(connect("1", f"{d}/client"), "cannot reach", "nobody listens")
    picky = Listener(f"{d}/server", "--allow", "friend", "--allow", "other.example")
    refused(connect(picky.port, f"{d}/client"), "may come", "a name that may not come")
    ok(await_true(lambda: "CN=source was refused" in picky.said()), "the log says so")
    picky = Listener(f"{d}/server", "--allow", "friend", "--allow", "source")
    p, a, far = stands(picky, spicebdd)
    ok(True, "one that may does")
    a.close()
    equal(far.recv(1), b"", "its end is seen there")
    equal(p.wait(60), 0, "and is no error")

    with socket.create_connection(("127.0.0.1", there.port)) as s:
        s.sendall(b"GET / HTTP/1.0\r\n\r\n")
        ok(await_true(lambda: "a host was refused" in there.said()), "who speaks no TLS")
    silent = [socket.create_connection(("127.0.0.1", there.port)) for _ in range(8)]
    with socket.create_connection(("127.0.0.1", there.port)) as s:
        s.settimeout(60)
        equal(s.recv(1), b"", "the ninth that says nothing has to go")
    for s in silent:
        s.close()
    await_true(lambda: connect(there.port, f"{d}/stranger").stderr.count("refuses us"), 60)
    stands(there, spicebdd)
    ok(True, "and when they have gone there is room again")

    os.chmod(f"{d}/client/client-key.pem", 0o644)
    refused(connect(there.port, f"{d}/client"), "read by others", "a key that others can read")
    refused(connect(there.port, d), "certificate of the authority", "no certificates")
    refused(run(TLS, "listen", "127.0.0.1:x", "--certificates", f"{d}/server"), "PORT", "no port")
    refused(run(TLS, "listen", there.port, "--certificates", f"{d}/client"), "server-cert",
            "no certificate of a server")


if __name__ == "__main__":
    procs.main(tests, "spicebd-tls")
