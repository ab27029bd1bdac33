# SPDX-License-Identifier: GPL-2.0-only
"""A relay, and what stands at its sockets in the place of QEMU."""
import contextlib
import os
import pwd
import select
import socket
import struct
import time

import linktest as t
from portlink import PortLink


def link_user():
    """Who a link becomes when root starts it; None if it stays who it is."""
    for name in ("spicebd-link", "nobody") if os.geteuid() == 0 else ():
        with contextlib.suppress(KeyError):
            return pwd.getpwnam(name).pw_name
    return None


class Relay(t.Link):
    """how: listen or connect, at self.prefix"""

    def __init__(self, how="listen", conf="", **kw):
        self.how, self.more, self.starts = how, conf, 0
        super().__init__(own_sockets=True, **kw)

    def start(self):
        self.prefix = os.path.join(self.dir, "vm")
        path = os.path.join(self.dir, "links.d/t.conf")
        with open(path, encoding="utf-8") as f:
            text = f.read()
        user = link_user()
        if "relay=" not in text:
            with open(path, "a", encoding="utf-8") as f:
                f.write(f"relay={self.how}:{self.prefix}\n{self.more}\n")
                if user and self.how == "listen":
                    f.write(f"relay-user={user}\n")
        self.starts += 1
        super().start()

    def ready(self, limit=40):
        """Whether it listens, also after the last of several starts."""
        end = time.monotonic() + limit
        while self.log_text().count("relaying: " + self.how) < self.starts:
            if time.monotonic() > end:
                return False
            select.select([], [], [], 0.02)
        return True


class GuestLink(PortLink):
    """The link of a guest that has a relay's sockets as its ports."""

    def __init__(self, prefix, conf=""):
        self.given = prefix
        super().__init__(conf)

    def place(self):
        return self.given


class RawGuest:
    """A guest that says what the test wants; it listens, as QEMU does with server=on."""

    def __init__(self, path):
        self.path, self.conn = path, None
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(path)
        os.chmod(path, 0o666)
        self.listener.listen(4)
        self.buf = b""

    def accept(self, timeout=40):
        self.listener.settimeout(timeout)
        self.conn, _ = self.listener.accept()
        self.conn.settimeout(40)
        self.buf, self.epoch, self.seq = b"", 0, 0
        return self

    def frame(self, type_, payload=b"", stream=0, seq=None, epoch=None):
        if seq is None:
            seq = self.seq
            self.seq += 1
        return t.HEADER.pack(t.MAGIC, type_, 0, stream, len(payload),
                             self.epoch if epoch is None else epoch, seq) + payload

    def say(self, *frame, **kw):
        self.raw(self.frame(*frame, **kw))

    def raw(self, data):
        self.conn.sendall(data)

    def hello(self, epoch, secret=b"s" * 32):
        self.epoch, self.seq = epoch, 0
        h = bytearray(t.hello(epoch, role=1))
        h[24:56] = secret
        self.say(t.HELLO, bytes(h))

    def hear(self, *types):
        """The next frame of one of these types, as type, stream, payload."""
        while True:
            while len(self.buf) < 24 or len(self.buf) < 24 + struct.unpack_from(
                    "<I", self.buf, 12)[0]:
                data = self.conn.recv(65536)
                if not data:
                    raise EOFError
                self.buf += data
            magic, type_, _, stream, length, _, _ = t.HEADER.unpack_from(self.buf)
            assert magic == t.MAGIC, "the relay sent what is no frame"
            payload, self.buf = self.buf[24:24 + length], self.buf[24 + length:]
            if type_ in types:
                return type_, stream, payload

    def dropped(self):
        """Whether the relay ends the connection."""
        with contextlib.suppress(ConnectionError, EOFError, BrokenPipeError):
            try:
                self.hear(-1)
            except TimeoutError:
                return False
        return True

    def drain(self, seconds=0.0):
        """Bytes that are there, or come within that time."""
        n, end = 0, time.monotonic() + seconds
        while select.select([self.conn], [], [], max(end - time.monotonic(), 0))[0]:
            data = self.conn.recv(1 << 20)
            if not data:
                break
            n += len(data)
        return n

    def hang_up(self):
        if self.conn:
            self.conn.close()
        self.conn = None

    def close(self):
        self.hang_up()
        self.listener.close()
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self.path)

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.close()
