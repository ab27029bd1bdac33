#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-only
"""spicebd-web: what it refuses to serve, who gets a WebSocket, and that what passes
through one is whole and never kept in memory."""
import os
import random
import re
import select
import subprocess
import threading

import webtest
from webtest import BINARY, CLOSE, LIMIT, PING, PONG, TEXT, Refused, StubLink, Tab, Web, parse
import procs
from procs import equal, ok, run

# timeout: 120

MEMORY_KIB = 24 << 10


def certificate(d):
    os.makedirs(d)
    subprocess.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt",
                    "ec_paramgen_curve:P-256", "-nodes", "-keyout", f"{d}/key.pem", "-out",
                    f"{d}/cert.pem", "-subj", "/CN=localhost", "-addext",
                    "subjectAltName=DNS:localhost,IP:127.0.0.1", "-days", "2"],
                   check=True, capture_output=True)
    return d


def refused_options(tls):
    link = "unix:/nowhere"
    cert = ["--tls-cert", f"{tls}/cert.pem", "--tls-key", f"{tls}/key.pem"]
    for what, args, said in (
            ("http beyond this machine", ["--listen", "0.0.0.0:0", "--link", link],
             "without TLS only"),
            ("http on an address of IPv6", ["--listen", "[::]:0", "--link", link],
             "without TLS only"),
            ("every address, without a name", ["--listen", "0.0.0.0:0", "--link", link, *cert],
             "--name"),
            ("a name that is none",
             ["--listen", "127.0.0.1:0", "--link", link, "--name", "a b/c"], "NAME[:PORT]"),
            ("no address", ["--listen", "somewhere", "--link", link], "ADDRESS:PORT"),
            ("no address of a link", ["--listen", "127.0.0.1:0", "--link", "unix:x"],
             "unix:/PATH or HOST:PORT"),
            ("a link without a port", ["--listen", "127.0.0.1:0", "--link", "somewhere"],
             "unix:/PATH or HOST:PORT"),
            ("no page", ["--listen", "127.0.0.1:0", "--link", link, "--page", procs.run_dir],
             "no index.html"),
            ("to stay root",
             ["--listen", "127.0.0.1:0", "--link", link, "--user", "root"], "user")):
        r = run(webtest.WEB, *args)
        ok(r.returncode == 1 and said in r.stderr and r.stderr.count("\n") == 1, what, r)
    os.chmod(f"{tls}/key.pem", 0o644)
    r = run(webtest.WEB, "--listen", "127.0.0.1:0", "--link", link, *cert)
    ok(r.returncode == 1 and "0600" in r.stderr, "a key that others can read", r)
    os.chmod(f"{tls}/key.pem", 0o600)
    r = run(webtest.WEB, "--listen", "127.0.0.1:0", "--link", link, *cert[:2])
    equal(r.returncode, 2, "a certificate without its key")
    with Web(link).connect() as s:
        port = s.getpeername()[1]
        r = run(webtest.WEB, "--listen", f"127.0.0.1:{port}", "--link", link)
        ok(r.returncode == 1 and "in use" in r.stderr, "an address that is in use", r)


def page(web):
    status, headers, body = web.ask()
    equal(status, 200, "the page")
    policy = dict(p.strip().split(" ", 1) for p in headers["content-security-policy"].split(";"))
    equal(policy, {"default-src": "'none'", "script-src": "'self'", "style-src": "'self'",
                   "connect-src": f"ws://{web.host}/link", "frame-ancestors": "'none'",
                   "base-uri": "'none'", "form-action": "'none'"},
          "its policy: nothing but its own, and one WebSocket")
    for name, value in (("x-content-type-options", "nosniff"), ("referrer-policy", "no-referrer"),
                        ("cross-origin-opener-policy", "same-origin"),
                        ("cross-origin-resource-policy", "same-origin"),
                        ("cross-origin-embedder-policy", "require-corp")):
        equal(headers.get(name), value, name)
    ok("server" not in headers, "it does not say what program it is", headers)
    status, headers, nothing = web.ask(method="HEAD")
    equal((status, nothing), (200, b""), "HEAD")
    local = web.ask(host=f"localhost:{web.port}")
    ok(local[0] == 200 and f"connect-src ws://localhost:{web.port}/link" in
       local[1]["content-security-policy"], "by its other name, the WebSocket is of that name")
    return body


def sources(web):
    """What the policy forbids is not in the page, either, and each file is served."""
    folder = os.path.join(procs.TOP, "userhelper/web/page")
    for name in sorted(os.listdir(folder)):
        with open(f"{folder}/{name}", "rb") as f:
            text = f.read()
        status, headers, body = web.ask("/" if name == "index.html" else f"/{name}")
        kind = {"html": "text/html", "css": "text/css", "js": "text/javascript"}
        ok(status == 200 and body == text and
           headers["content-type"].startswith(kind[name.rsplit(".", 1)[1]]), f"{name} is served")
        bad = re.findall(rb"\beval\b|new Function|innerHTML|outerHTML|document\.write|https?://"
                         rb"|<script(?![^>]* src=)|<style|\son[a-z]+=|style=", text)
        equal(bad, [], f"{name}: nothing inline, nothing of elsewhere, no text that becomes code")


def wrong_requests(web):
    for host in ("evil.example", f"evil.example:{web.port}", "127.0.0.1", 
                 f"127.0.0.1:{web.port + 1 if web.port < 65535 else 1}"):
        equal(web.ask(host=host)[0], 403, f"Host {host.replace(str(web.port), 'PORT')[:24]}")
    ok(web.ask(host=None)[0] in (400, 403), "no Host")
    for path in ("/../../../etc/passwd", "/%2e%2e/%2e%2e/etc/passwd", "//etc/passwd",
                 "/..%2fetc/passwd", "/index.html/../../x", "/index.html%00.js", "/index.html",
                 "/etc/passwd", "/%", "/x" * 200):
        status, _, body = web.ask(path)
        ok(status in (400, 404) and b"root:" not in body, f"path {path[:30]}", status)
    for method in ("POST", "PUT", "DELETE", "OPTIONS", "TRACE"):
        equal(web.ask(method=method)[0], 405, method)


def one_request(web):
    with web.connect() as s:
        s.sendall(f"GET / HTTP/1.1\r\nHost: {web.host}\r\n\r\n".encode())
        got = b""
        while data := s.recv(65536):
            got += data
    status, headers, body = parse(got)
    ok(status == 200 and headers["connection"] == "close" and
       int(headers["content-length"]) == len(body),
       "a connection has one request, whole, and is told so", headers)


def large_requests(web):
    before = web.memory_kib()
    size = 48 << 20
    with web.connect() as s:
        s.sendall(f"POST / HTTP/1.1\r\nHost: {web.host}\r\nContent-Length: {size}\r\n\r\n".encode())
        try:
            for _ in range(size >> 16):
                s.sendall(bytes(1 << 16))
        except OSError:
            pass
    with web.connect() as s:
        s.sendall(f"GET / HTTP/1.1\r\nHost: {web.host}\r\n".encode())
        try:
            for i in range(1 << 10):
                s.sendall(f"X-{i}: ".encode() + b"x" * (48 << 10) + b"\r\n")
        except OSError:
            pass
    grown = web.memory_kib() - before
    ok(grown < MEMORY_KIB, "neither a large request nor large headers are kept", f"{grown} KiB")
    equal(web.ask()[0], 200, "and it goes on serving")


def who_gets_in(web, link):
    for what, how in (("no Origin", {"origin": None}), ("Origin null", {"origin": "null"}),
                      ("another's page", {"origin": "http://evil.example"}),
                      ("another port's", {"origin": f"http://127.0.0.1:{web.port ^ 1}"}),
                      ("another scheme's", {"origin": f"https://{web.host}"}),
                      ("our other name's", {"origin": f"http://localhost:{web.port}"}),
                      ("a name of ours with more behind it", {"origin": web.origin + ".evil"}),
                      ("a Host that we are not", {"host": "evil.example",
                                                  "origin": "http://evil.example"}),
                      ("no protocol", {"protocol": None}),
                      ("another protocol", {"protocol": "binary"}),
                      ("another path", {"path": "/"})):
        try:
            status = Tab(web, **how).status
        except Refused as e:
            status = e.status
        want = (200,) if what == "another path" else (400, 403)
        ok(status in want, f"WebSocket refused: {what}", status)
    ok(link.nobody(), "the link has heard of none of them")
    equal(web.ask("/link")[0], 403, "its address is no page")


def pair(web, link):
    tab = Tab(web)
    return tab, link.accept()


def whole(web, link):
    tab, far = pair(web, link)
    rnd = random.Random(7)
    data = rnd.randbytes(3 << 20)
    echo = threading.Thread(target=lambda: [far.sendall(d) for d in iter(lambda: far.recv(50000),
                                                                         b"")], daemon=True)
    echo.start()

    def talk():
        at, sizes = 0, [0, 1, 125, 126, 127, 65535, 65536, 65537, 1 << 20]
        while at < len(data):
            n = sizes.pop(0) if sizes else rnd.randrange(1, 90000)
            piece = data[at:at + n]
            if rnd.random() < 0.3 and n > 2:
                tab.send(piece[:n // 2], fin=False)
                tab.send(b"in between", PING)
                tab.send(piece[n // 2:], 0)
            else:
                tab.send(piece)
            at += n
        tab.send(b"the last", PING)
    talker = threading.Thread(target=talk, daemon=True)
    talker.start()
    got, pongs = bytearray(), []
    while len(got) < len(data) or b"the last" not in pongs:
        opcode, payload = tab.recv()
        if opcode == PONG:
            pongs.append(payload)
        else:
            assert opcode == BINARY
            got += payload
    equal(bytes(got) == data, True, "3 MiB there and back are equal, in frames of all sizes")
    ok(len(pongs) >= 1 and set(pongs) <= {b"in between", b"the last"}, "pings are answered")
    tab.send(b"\x03\xe8", CLOSE)
    equal(tab.code(), 1000, "a CLOSE is answered")
    echo.join(LIMIT)
    ok(not echo.is_alive(), "and the link's connection ends")


def hostile(web, link):
    frame = Tab.frame
    for what, raw, code in (
            ("without a mask", frame(b"x", masked=False), 1002),
            ("reserved bits", frame(b"x", reserved=4), 1002),
            ("an unknown kind", frame(b"x", opcode=3), 1002),
            ("an unknown kind of control", frame(b"x", opcode=11), 1002),
            ("text", frame(b"x", opcode=TEXT), 1003),
            ("a PING in pieces", frame(b"x", opcode=PING, fin=False), 1002),
            ("a long PING", frame(b"x" * 126, opcode=PING), 1002),
            ("the rest of no message", frame(b"x", opcode=0), 1002),
            ("a message within another", frame(b"x", fin=False) + frame(b"y"), 1002),
            ("a long frame", frame(b"", length=(1 << 20) + 1), 1009),
            ("the longest frame", frame(b"", length=(1 << 64) - 1), 1009)):
        tab, far = pair(web, link)
        tab.sock.sendall(raw)
        equal(tab.code(), code, f"a frame that is refused: {what}")
        tab.close()
        while far.recv(100):
            pass
        far.close()
    tab, far = pair(web, link)
    tab.send(b"half", fin=False)
    tab.close()
    ok(far.recv(100) in (b"half", b"") and (far.recv(100) == b""), "a tab that is gone")
    tab, far = pair(web, link)
    far.sendall(b"good bye")
    far.close()
    equal(tab.recv(), (BINARY, b"good bye"), "what the link said last comes")
    equal(tab.code(), 1001, "and then, that it went")


def fill(sock, data):
    """Send until nothing is taken any more for a while."""
    sent = 0
    sock.setblocking(False)
    while select.select([], [sock], [], 0.5)[1]:
        try:
            sent += sock.send(data[:len(data) - sent % len(data)])
        except BlockingIOError:
            pass
        if sent > 256 << 20:
            break
    sock.settimeout(LIMIT)
    return sent


def slow_readers(web, link):
    tab, far = pair(web, link)
    before = web.memory_kib()
    sent = fill(far, bytes(1 << 20))
    ok(sent < 64 << 20, "a tab that does not read stops the link", f"{sent >> 20} MiB")
    ok(web.memory_kib() - before < 4096, "and nothing is kept for it",
       f"{web.memory_kib() - before} KiB")
    equal(web.ask()[0], 200, "others are served meanwhile")
    got = 0
    while got < sent:
        got += len(tab.recv()[1])
    equal(got, sent, "when it reads again all of it comes")
    frame = tab.frame(bytes(60000))
    sent = fill(tab.sock, frame)
    ok(sent < 64 << 20, "a link that does not read stops the tab", f"{sent >> 20} MiB")
    ok(web.memory_kib() - before < 4096, "and nothing is kept for it",
       f"{web.memory_kib() - before} KiB")
    want, got = sent // len(frame) * 60000, 0
    while got < want:
        got += len(far.recv(1 << 20))
    ok(got >= want, "when it reads again all of it comes")
    tab.close()
    far.close()


def no_link(web, link):
    os.rename(link.path, link.path + ".away")
    equal(Tab(web).code(), 1013, "where there is no link, it is said")
    ok("is spicebd-link listening" in web.said(), "in the log, too")
    os.rename(link.path + ".away", link.path)


def crowd(web, link):
    """Of those who have no WebSocket, the 49th waits; those who have one do not count."""
    tabs = [pair(web, link) for _ in range(8)]
    idle = [web.connect() for _ in range(48)]
    late = web.connect()
    late.sendall(f"GET / HTTP/1.1\r\nHost: {web.host}\r\n\r\n".encode())
    ok(not select.select([late], [], [], 1)[0], "too many connections: the next one waits")
    tabs[0][0].send(b"x")
    equal(tabs[0][1].recv(1), b"x", "what there is goes on")
    idle.pop().close()
    ok(select.select([late], [], [], LIMIT)[0] and late.recv(12) == b"HTTP/1.1 200",
       "when another one goes it is served")
    for s in [*idle, late, *(s for tab, far in tabs for s in (tab.sock, far))]:
        s.close()
    equal(web.ask()[0], 200, "and so is everybody then")


class Lingerers:
    """Who says nothing, and who says a header a byte at a time: neither may stay."""

    def __init__(self, web):
        self.idle, self.drip, self.half = web.connect(), web.connect(), web.connect(False)
        threading.Thread(target=self.dripping, daemon=True).start()

    def dripping(self):
        try:
            for c in "GET / HTTP/1.1\r\nX: " + "x" * 200:
                self.drip.sendall(c.encode())
                select.select([], [], [], 0.5)
        except OSError:
            pass

    def check(self, what):
        for name, s in (("who says nothing", self.idle), ("who says it slowly", self.drip),
                        ("who begins nothing", self.half)):
            try:
                gone = b"HTTP/1.1 200" not in s.recv(100)
            except ConnectionResetError:
                gone = True
            except TimeoutError:
                gone = False
            ok(gone, f"{what}: {name} is sent away")
            s.close()


def rights(web, what):
    """Of every thread; GLib has some of its own."""
    found = []
    for thread in os.listdir(f"/proc/{web.p.pid}/task"):
        with open(f"/proc/{web.p.pid}/task/{thread}/status", encoding="ascii") as f:
            found.append(dict(line.rstrip("\n").split(":\t", 1) for line in f))
    for c in ("CapEff", "CapPrm", "CapInh", "CapAmb", "CapBnd"):
        if c != "CapBnd" or os.geteuid() == 0:
            equal({s[c] for s in found}, {"0" * 16}, f"{what}: no capability: {c}")
    equal({s["NoNewPrivs"] for s in found}, {"1"}, f"{what}: no new privileges")
    if os.geteuid() == 0:
        ok(not any("0" in s["Uid"].split() or s["Groups"].strip() for s in found),
           f"{what}: not root's", found[0]["Uid"])


def over_tls(tls, link):
    web = Web(link.address, "--name", "localhost", tls=tls)
    web.host = f"localhost:{web.port}"
    web.origin = f"https://{web.host}"
    status, headers, _ = web.ask()
    ok(status == 200 and f"connect-src wss://{web.host}/link;" in
       headers["content-security-policy"], "https: the page, and its policy", headers)
    equal(web.ask(host=f"127.0.0.1:{web.port}")[0], 403, "with --name, only that name")
    with web.connect(encrypted=False) as s:
        s.sendall(f"GET / HTTP/1.1\r\nHost: {web.host}\r\n\r\n".encode())
        try:
            got = s.recv(100)
        except ConnectionResetError:
            got = b""
    ok(b"HTTP/1" not in got, "https: http is not answered", got)
    whole(web, link)
    slow_readers_tls(web, link)
    rights(web, "https")
    try:
        status = Tab(web, origin=f"http://{web.host}").status
    except Refused as e:
        status = e.status
    equal(status, 403, "https: a page that came by http is another's")


def slow_readers_tls(web, link):
    tab, far = pair(web, link)
    before = web.memory_kib()
    sent = fill(far, bytes(1 << 20))
    ok(sent < 64 << 20 and web.memory_kib() - before < 4096,
       "https: a tab that does not read stops the link", f"{sent >> 20} MiB")
    tab.close()
    far.close()


def test():
    tls = certificate(f"{procs.run_dir}/tls")
    refused_options(tls)
    link = StubLink()
    web = Web(link.address)
    slow = [(Lingerers(Web(link.address)), "http"), (Lingerers(Web(link.address, tls=tls)), "https")]
    ok(b"<html" in page(web), "it is a page")
    sources(web)
    wrong_requests(web)
    who_gets_in(web, link)
    whole(web, link)
    hostile(web, link)
    slow_readers(web, link)
    one_request(web)
    large_requests(web)
    no_link(web, link)
    crowd(web, link)
    rights(web, "http")
    over_tls(tls, link)
    for who, what in slow:
        who.check(what)
    web.p.terminate()
    equal(web.p.wait(LIMIT), 0, "it ends when it is told to")


procs.main(test, "spicebd-web")
