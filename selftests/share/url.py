#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-only
# timeout: 240
"""Addresses as media: what a web server has there, fetched as it is read."""
import contextlib
import email.utils
import http.server
import os
import re
import ssl
import subprocess
import threading
import time

import sharelib as s
from sharelib import check, equal, linked, make_iso, random_file, workdir

NOWHERE = "spice+unix:///nonexistent/spice"
AUTHORITIES = "/etc/ssl/certs/ca-certificates.crt"


class Web:
    """A web server of one folder, with ranges and times unless told otherwise."""

    def __init__(self, ranges=True, tls=None):
        self.dir, self.ranges, self.tls, self.asked = workdir(), ranges, tls, []
        web = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *args):	# pylint: disable=arguments-differ
                pass

            def do_HEAD(self):
                self.answer(False)

            def do_GET(self):
                self.answer(True)

            def answer(self, body):
                web.asked.append((self.command, self.headers["Range"]))
                path = web.dir + self.path.split("?")[0]
                if not os.path.isfile(path):
                    return self.tell(404)
                changed = os.stat(path).st_mtime
                unless = self.headers["If-Unmodified-Since"]
                if unless and int(changed) > \
                        email.utils.parsedate_to_datetime(unless).timestamp():
                    return self.tell(412)
                with open(path, "rb") as f:
                    data = f.read()
                m = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers["Range"] or "")
                if not m or not web.ranges:
                    return self.tell(200, data, body, changed)
                a, b = int(m[1]), min(int(m[2]), len(data) - 1)
                return self.tell(206, data[a:b + 1], body, changed,
                                 f"bytes {a}-{b}/{len(data)}")

            def tell(self, status, data=b"", body=True, changed=None, part=None):
                self.send_response(status)
                self.send_header("Content-Length", str(len(data)))
                if web.ranges:
                    self.send_header("Accept-Ranges", "bytes")
                if changed:
                    self.send_header("Last-Modified",
                                     email.utils.formatdate(changed, usegmt=True))
                if part:
                    self.send_header("Content-Range", part)
                self.end_headers()
                if body:
                    self.wfile.write(data)

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        if tls:
            self.server.handle_error = lambda *a: None	# those who do not trust us
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(f"{tls}/cert.pem", f"{tls}/key.pem")
            # Not while it is accepted: who says nothing would keep others waiting.
            self.server.socket = context.wrap_socket(self.server.socket, server_side=True,
                                                     do_handshake_on_connect=False)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        s.later(self.server.shutdown)

    def url(self, path):
        return f"http{'s' if self.tls else ''}://127.0.0.1:{self.server.server_address[1]}/{path}"

    def file(self, name, data=None, size=0, age=3600):
        """Written so long ago, so that a change has another second."""
        path = f"{self.dir}/{name}"
        if data is None:
            random_file(path, size)
        else:
            with open(path, "wb") as f:
                f.write(data)
        os.utime(path, (time.time() - age,) * 2)
        with open(path, "rb") as f:
            return f.read()


def whole(n, size):
    return b"".join(bytes(n.pread(min(1 << 20, size - at), at))
                    for at in range(0, size, 1 << 20))


def disk():
    """a disk image: what is there is what is read, in pieces"""
    web = Web()
    data = web.file("stick.img", size=(3 << 20) + 512)
    share, _, link = linked("--read-write", web.url("stick.img?x=1"))
    o = link.offer("stick.img")
    equal((o["kind"], o["size"]), (s.DISK, len(data)), "kind and size")
    check(o["flags"] & s.READ_ONLY, "read-only, whatever was wished")
    check(not o["flags"] & s.DURABLE, "another medium the next time")
    n = link.open(o).nbd()
    check(n.is_read_only(), "read-only for NBD")
    check(whole(n, len(data)) == data, "content")
    n.shutdown()
    check(all(r for c, r in web.asked if c == "GET"), "only ranges are asked for")
    link.notice(s.EJECTED, o)
    equal(share.stop(), 0, "exit status")


def disc():
    """an ISO is a CD, unless it was said otherwise"""
    s.need("xorriso")
    web = Web()
    with open(make_iso(f"{workdir()}/a.iso"), "rb") as f:
        data = web.file("a.iso", f.read())
    web.file("b.iso", data)
    share, _, link = linked(web.url("a.iso"))
    equal(link.offer("a.iso")["kind"], s.CDROM, "kind")
    n = link.open(link.offer("a.iso")).nbd()
    check(whole(n, len(data)) == data, "content")
    n.shutdown()
    link.notice(s.EJECTED, link.offer("a.iso"))
    equal(share.stop(), 0, "exit status")
    share, _, link = linked("--disk", web.url("b.iso"))
    equal(link.offer("b.iso")["kind"], s.DISK, "kind with --disk")
    equal(share.stop(), 0, "exit status")


def certificate(host):
    """A server's, which is its own authority."""
    d = workdir()
    subprocess.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt",
                    "ec_paramgen_curve:P-256", "-nodes", "-keyout", f"{d}/key.pem", "-out",
                    f"{d}/cert.pem", "-subj", "/CN=web", "-addext", f"subjectAltName=IP:{host}",
                    "-days", "2"], check=True, capture_output=True)
    return d


@contextlib.contextmanager
def trusting(tls):
    """Shares of a machine that has this among its authorities."""
    path = f"{tls}/share"
    with open(path, "w") as f:
        f.write(f"""#!/bin/sh
exec unshare -m --propagation private sh -c \\
    'mount --bind {tls}/cert.pem {AUTHORITIES} && exec {s.SHARE} "$@"' share "$@"
""")
    os.chmod(path, 0o755)
    real, s.SHARE = s.SHARE, path
    try:
        yield
    finally:
        s.SHARE = real


def https():
    """by https, from a server that this machine trusts, and from no other"""
    s.need("openssl", "unshare")
    if os.getuid() or not os.path.exists(AUTHORITIES):
        raise s.Skip("needs root, and authorities to replace")
    web = Web(tls=certificate("127.0.0.1"))
    data = web.file("f", size=(1 << 20) + 512)
    refused(web.url("f"), "nbdkit cannot serve it", "certificate")
    with trusting(web.tls):
        share, _, link = linked(web.url("f"))
        n = link.open(link.offer("f")).nbd()
        check(whole(n, len(data)) == data, "content")
        n.shutdown()
        equal(share.stop(), 0, "exit status")
    other = Web(tls=certificate("127.0.0.2"))
    other.file("f", size=4096)
    with trusting(other.tls):
        refused(other.url("f"), "nbdkit cannot serve it", "certificate|name")
    equal(other.asked, [], "it was asked for nothing")


def changed():
    """no byte of what was put there later is read: reading fails"""
    import nbd	# pylint: disable=import-outside-toplevel
    web = Web()
    old = web.file("f", size=1 << 20)
    share, _, link = linked(web.url("f"))
    n = link.open(link.offer("f")).nbd()
    check(bytes(n.pread(4096, 0)) == old[:4096], "at first")
    web.file("f", size=1 << 20, age=-5)
    for at in (0, 8192, 1 << 19):
        try:
            n.pread(4096, at)
            check(False, f"byte {at} was read")
        except nbd.Error as e:
            equal(e.errno, "EIO", "error")
    share.stop()


def refused(url, *says, status=1):
    s.need(s.SHARE, "nbdkit")
    r = subprocess.run([s.SHARE, "--uri", NOWHERE, url], capture_output=True, text=True,
                       timeout=s.LIMIT, check=False)
    equal(r.returncode, status, f"{url}: {r.stderr!r}")
    for word in says:
        check(re.search(word, r.stderr), f"{r.stderr!r} does not say {word!r}")


def errors():
    """what cannot be shared is told at once, with the reason"""
    web, plain = Web(), Web(ranges=False)
    plain.file("f", size=4096)
    web.file("empty", b"")
    refused(web.url("none"), "nbdkit cannot serve it", "404")
    refused(plain.url("f"), "nbdkit cannot serve it", "range")
    refused(web.url("empty"), "empty|nothing|size")
    refused("http://127.0.0.1:1/f", "nbdkit cannot serve it")
    refused("http://user:secret@127.0.0.1/f", "seen by all")
    refused("http://127.0.0.1/a b", "spaces")
    refused("http://", "no address")
    refused("https://" + "a" * 2000, "longer")
    refused("ftp://127.0.0.1/f", "No such file")


if __name__ == "__main__":
    s.run([disk, disc, https, changed, errors])
