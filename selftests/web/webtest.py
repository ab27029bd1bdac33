# SPDX-License-Identifier: GPL-2.0-only
"""What the tests of spicebd-web share: the program in front of a link of the test's, a
browser's half of HTTP and of WebSocket, made of nothing of ours."""
import base64
import os
import re
import socket
import ssl
import struct
import sys
import threading

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(os.path.dirname(HERE), "procs"))
import procs  # noqa: E402  pylint: disable=wrong-import-position

WEB = os.path.join(procs.BIN, "spicebd-web")
LIMIT = 60


class StubLink:
    """The link's place: a listening socket, and what comes to it."""

    def __init__(self, name="link.sock"):
        self.path = f"{procs.run_dir}/{name}"
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.bind(self.path)
        os.chmod(self.path, 0o666)
        self.sock.listen(64)
        self.address = "unix:" + self.path

    def accept(self, limit=LIMIT):
        self.sock.settimeout(limit)
        s, _ = self.sock.accept()
        s.settimeout(LIMIT)
        return s

    def nobody(self):
        """Whether nobody has come. What was refused has been answered by now."""
        self.sock.settimeout(0)
        try:
            self.sock.accept()
        except BlockingIOError:
            return True
        return False


class Encrypted:
    """TLS on a socket, for one thread that sends and another one that receives, which
    ssl's own sockets are not made for."""

    def __init__(self, context, raw, name):
        self.raw = raw
        self.incoming, self.outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = context.wrap_bio(self.incoming, self.outgoing, server_hostname=name)
        self.lock = threading.Lock()        # guards tls and both BIOs
        self.sending = threading.Lock()     # what leaves keeps its order
        while not self._try(self.tls.do_handshake):
            self._more()

    def _try(self, fn, *args):
        """[what it returns], or nothing when more has to come first."""
        with self.sending:
            with self.lock:
                try:
                    got = [fn(*args)]
                except ssl.SSLWantReadError:
                    got = []
                except ssl.SSLEOFError:
                    got = [b""]
                out = self.outgoing.read()
            if out:
                self.raw.sendall(out)
        return got

    def _more(self):
        data = self.raw.recv(65536)
        with self.lock:
            if data:
                self.incoming.write(data)
            else:
                self.incoming.write_eof()

    def recv(self, n):
        while not (got := self._receive(n)):
            self._more()
        return got[0]

    def _receive(self, n):
        with self.lock:
            try:
                return [self.tls.read(n)]
            except ssl.SSLWantReadError:
                return []
            except (ssl.SSLEOFError, ssl.SSLZeroReturnError):
                return [b""]

    def sendall(self, data):
        self._try(self.tls.write, data)

    def close(self):
        self.raw.close()

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.close()


class Web:
    """spicebd-web, at a port that the kernel chose."""

    def __init__(self, link, *options, tls=None, listen="127.0.0.1:0"):
        self.log = open(f"{procs.run_dir}/web-{os.urandom(4).hex()}.log", "w+", encoding="utf8")
        self.tls = None
        if tls:
            options += ("--tls-cert", f"{tls}/cert.pem", "--tls-key", f"{tls}/key.pem")
            self.tls = ssl.create_default_context(cafile=f"{tls}/cert.pem")
        self.p = procs.spawn([WEB, "--listen", listen, "--link", link, *options],
                             stdout=self.log, stderr=self.log)
        procs.await_true(lambda: self.p.poll() is not None or "the page is at" in self.said(),
                         LIMIT)
        self.port = int(re.search(r"\(port (\d+)\)", self.said()).group(1))
        self.host = f"127.0.0.1:{self.port}"
        self.scheme = "https" if tls else "http"
        self.origin = f"{self.scheme}://{self.host}"

    def said(self):
        with open(self.log.name, encoding="utf8") as f:
            return f.read()

    def connect(self, encrypted=True):
        s = socket.create_connection(("127.0.0.1", self.port), LIMIT)
        return Encrypted(self.tls, s, "localhost") if self.tls and encrypted else s

    def ask(self, path="/", method="GET", host="", headers=(), body=b""):
        """(status, {header: value}, body); host None: no Host at all"""
        lines = [f"{method} {path} HTTP/1.1"]
        if host is not None:
            lines.append(f"Host: {host or self.host}")
        lines += [*headers, "Connection: close", "", ""]
        with self.connect() as s:
            s.sendall("\r\n".join(lines).encode() + body)
            got = b""
            while data := s.recv(65536):
                got += data
        return parse(got)

    def memory_kib(self):
        with open(f"/proc/{self.p.pid}/status", encoding="ascii") as f:
            return int(re.search(r"VmRSS:\s+(\d+)", f.read()).group(1))


def parse(got):
    head, _, body = got.partition(b"\r\n\r\n")
    lines = head.decode().split("\r\n")
    status = int(lines[0].split()[1])
    headers = {k.lower(): v for k, v in (h.split(": ", 1) for h in lines[1:])}
    return status, headers, body


TEXT, BINARY, CLOSE, PING, PONG = 1, 2, 8, 9, 10


class Refused(Exception):
    def __init__(self, status):
        super().__init__(str(status))
        self.status = status


class Tab:
    """A WebSocket, frame by frame."""

    def __init__(self, web, origin="", host="", protocol="spicebd", path="/link"):
        self.sock = web.connect()
        origin = web.origin if origin == "" else origin
        lines = [f"GET {path} HTTP/1.1", f"Host: {host or web.host}", "Upgrade: websocket",
                 "Connection: Upgrade", "Sec-WebSocket-Version: 13",
                 "Sec-WebSocket-Key: " + base64.b64encode(os.urandom(16)).decode()]
        if origin:
            lines.append(f"Origin: {origin}")
        if protocol:
            lines.append(f"Sec-WebSocket-Protocol: {protocol}")
        self.sock.sendall(("\r\n".join(lines) + "\r\n\r\n").encode())
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            data = self.sock.recv(1)
            if not data:
                break
            head += data
        self.status = int(head.split()[1])
        if self.status != 101:
            self.sock.close()
            raise Refused(self.status)

    @staticmethod
    def frame(payload, opcode=BINARY, fin=True, masked=True, reserved=0, length=None):
        n = len(payload) if length is None else length
        first = bytes([(0x80 if fin else 0) | reserved << 4 | opcode])
        bit = 0x80 if masked else 0
        if n < 126:
            head = first + bytes([bit | n])
        elif n < 65536:
            head = first + struct.pack(">BH", bit | 126, n)
        else:
            head = first + struct.pack(">BQ", bit | 127, n)
        if not masked:
            return head + payload
        mask = os.urandom(4)
        whole = mask * (len(payload) // 4 + 1)
        mixed = int.from_bytes(payload, "big") ^ int.from_bytes(whole[:len(payload)], "big")
        return head + mask + mixed.to_bytes(len(payload), "big")

    def send(self, payload, opcode=BINARY, **how):
        self.sock.sendall(self.frame(payload, opcode, **how))

    def _exactly(self, n):
        got = bytearray()
        while len(got) < n:
            data = self.sock.recv(n - len(got))
            if not data:
                raise EOFError
            got += data
        return bytes(got)

    def recv(self):
        """(opcode, payload)"""
        first, n = self._exactly(2)
        assert first & 0x70 == 0 and first & 0x80 and not n & 0x80
        if n == 126:
            n = struct.unpack(">H", self._exactly(2))[0]
        elif n == 127:
            n = struct.unpack(">Q", self._exactly(8))[0]
        return first & 0x0f, self._exactly(n)

    def code(self):
        """Of the CLOSE that comes; data before it is passed over."""
        while True:
            opcode, payload = self.recv()
            if opcode == CLOSE:
                return struct.unpack(">H", payload[:2])[0]

    def close(self):
        self.sock.close()
