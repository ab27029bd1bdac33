# SPDX-License-Identifier: GPL-2.0-only
"""A spicebd-link and its share for spicebdd, that say of themselves and of their
media what a test wants: identities, incarnations, the boot of their machine."""
import os
import secrets
import socket
import struct
import subprocess
import threading
import time

(READY, PORT_UP, PORT_DOWN, OFFER, WITHDRAW, OFFERS_END, STREAM, STREAM_FAILED, _,
 CLIENT) = range(1, 11)
ADD_PORT, DEL_PORT, OPEN, NOTICE, RESET_PORT = range(64, 69)
READ_ONLY, DURABLE, MULTI = 1, 2, 4
HEAD = struct.Struct("=8I")
RUN = os.environ.get("SPICEBD_RUN_DIR", "/run/spicebd")
LIMIT = 60


class Medium:
    """What is offered: a file, its server, and what is said of it."""

    def __init__(self, path, name, durable=True, read_only=False):
        self.path, self.name, self.durable, self.read_only = path, name, durable, read_only
        self.id, self.incarnation = secrets.token_bytes(16), secrets.token_bytes(16)
        self.socket, self.server = path + ".sock", None

    def start(self):
        if os.path.exists(self.socket):
            os.unlink(self.socket)
        ro = ["-r"] if self.read_only else []
        self.server = subprocess.Popen(["nbdkit", "-f", *ro, "-U", self.socket, "file",
                                        self.path], stdin=subprocess.DEVNULL)
        end = time.monotonic() + LIMIT
        while not os.path.exists(self.socket):
            if time.monotonic() > end:
                raise AssertionError("nbdkit does not start")
            time.sleep(0.02)

    def stop(self):
        if self.server:
            self.server.kill()
            self.server.wait()
        self.server = None

    def offer(self):
        flags = MULTI | (DURABLE if self.durable else 0) | (READ_ONLY if self.read_only else 0)
        return struct.pack("=QII16s16s256s", os.stat(self.path).st_size, flags, 2, self.id,
                           self.incarnation, self.name.encode())


class Link:
    """One link; a share of one medium comes and goes on each of its ports."""

    def __init__(self, name):
        self.name, self.path = name, f"{RUN}/link/{name}.sock"
        self.boot, self.instance = secrets.token_bytes(16), secrets.token_bytes(16)
        self.medium, self.ports, self.sock = None, set(), None
        self.is_up, self.refuse_streams, self.refused = False, False, 0
        self.lock = threading.RLock()		# guards all of the above
        self.listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        if os.path.exists(self.path):
            os.unlink(self.path)
        self.listener.bind(self.path)
        self.listener.listen(8)
        threading.Thread(target=self.serve, daemon=True).start()

    def send(self, kind, port=0, offer=0, tag=0, flags=0, error=0, epoch=0, u=b"", text=b"",
             fd=None):
        msg = HEAD.pack(kind, port, offer, tag, flags, error, epoch, 1) + u.ljust(384, b"\0") + \
            text.ljust(96, b"\0")
        try:
            socket.send_fds(self.sock, [msg], [fd] if fd is not None else [])
        except OSError:
            pass				# spicebdd has just died

    def serve(self):
        while True:
            sock, _ = self.listener.accept()
            with self.lock:
                self.sock, self.ports = sock, set()
                self.send(READY, u=b"fake")
                self.send(CLIENT, flags=1, text=b"a test")
            while True:
                try:
                    data = sock.recv(1024)
                except OSError:
                    data = b""
                if not data:
                    break
                with self.lock:
                    head = HEAD.unpack_from(data)
                    if head[0] == NOTICE:
                        self.notice(head[4], data[HEAD.size:][:384].partition(b"\0")[0].decode())
                    else:
                        self.take(*head[:4])

    def notice(self, what, text):
        """What the share is told"""

    def take(self, kind, port, offer, tag):
        if kind == ADD_PORT:
            self.ports.add(port)
            if self.is_up:
                self.hello(port)
        elif kind == DEL_PORT:
            self.ports.discard(port)
        elif kind == RESET_PORT and self.is_up:
            # As a share does: not before the servers of the old epoch are gone.
            self.medium.stop()
            self.medium.start()
            self.send(PORT_DOWN, port)
            self.hello(port)
        elif kind == OPEN:
            self.open(port, tag)

    def open(self, port, tag):
        s = socket.socket(socket.AF_UNIX)
        try:
            if self.refuse_streams or not self.is_up:
                raise OSError("refused")
            s.connect(self.medium.socket)
            self.send(STREAM, port, tag=tag, fd=s.fileno())
        except OSError:
            self.refused += 1
            self.send(STREAM_FAILED, port, tag=tag, error=111, text=b"not now")
        finally:
            s.close()

    def hello(self, port):
        self.send(PORT_UP, port, epoch=secrets.randbits(31) | 1, u=self.boot + self.instance)
        self.send(OFFER, port, 1, u=self.medium.offer())
        self.send(OFFERS_END, port)

    def up(self, medium):
        with self.lock:
            self.medium = medium
            if not medium.server:
                medium.start()
            self.is_up = True
            for p in self.ports:
                self.hello(p)

    def down(self):
        """The share is gone; its servers with it."""
        with self.lock:
            self.is_up = False
            self.medium.stop()
            for p in self.ports:
                self.send(PORT_DOWN, p, text=b"cut")

    def end(self):
        self.down()
        self.listener.close()
        os.unlink(self.path)
