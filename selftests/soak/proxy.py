#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-only
"""The network between two ports of this machine, with its bad days.

usage: proxy.py LISTEN-PORT TARGET-PORT

A line on standard input, answered by "ok":
  cut          every connection ends
  stall MS     nothing goes through for so long, then all of it
  swallow MS   what comes in that time is lost; then the connections end
Ends at the end of its input.
"""
import os
import selectors
import socket
import sys
import time

WINDOW = 1 << 20


class Side:
    def __init__(self, sock):
        self.sock, self.out, self.other, self.eof = sock, b"", None, False


class Proxy:
    def __init__(self, listen, target):
        self.target, self.sel = target, selectors.DefaultSelector()
        self.listener = socket.create_server(("127.0.0.1", listen))
        self.sides = []
        self.stalled = self.swallowing = 0
        self.commands = b""

    def accept(self):
        a, _ = self.listener.accept()
        try:
            b = socket.create_connection(("127.0.0.1", self.target), 10)
        except OSError:
            a.close()
            return
        sides = [Side(a), Side(b)]
        for s, o in (sides, sides[::-1]):
            s.other = o
            s.sock.setblocking(False)
            s.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.sides += sides

    def end(self, s):
        for one in (s, s.other):
            if one in self.sides:
                self.sides.remove(one)
                one.sock.close()

    def cut(self):
        while self.sides:
            self.end(self.sides[0])

    def command(self, text):
        word, *rest = text.split()
        until = time.monotonic() + int(rest[0]) / 1000 if rest else 0
        if word == "cut":
            self.cut()
        elif word == "stall":
            self.stalled = until
        else:
            self.swallowing = until
        print("ok", flush=True)

    def read(self, s):
        try:
            data = s.sock.recv(65536)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self.end(s)
        elif not self.swallowing:
            s.other.out += data

    def write(self, s):
        try:
            n = s.sock.send(s.out)
            s.out = s.out[n:]
        except BlockingIOError:
            pass
        except OSError:
            self.end(s)

    def turn(self):
        now = time.monotonic()
        if self.stalled and now >= self.stalled:
            self.stalled = 0
        if self.swallowing and now >= self.swallowing:
            self.swallowing = 0
            self.cut()
        sel = selectors.DefaultSelector()
        sel.register(0, selectors.EVENT_READ, None)
        if not self.stalled:
            sel.register(self.listener, selectors.EVENT_READ, self.listener)
            for s in self.sides:
                want = selectors.EVENT_READ if len(s.other.out) < WINDOW else 0
                want |= selectors.EVENT_WRITE if s.out else 0
                if want:
                    sel.register(s.sock, want, s)
        ends = [t - now for t in (self.stalled, self.swallowing) if t]
        ready = sel.select(min(ends) if ends else None)
        sel.close()
        for key, what in ready:
            if key.data is None:
                data = os.read(0, 4096)
                if not data:
                    return False
                self.commands += data
                while b"\n" in self.commands:
                    line, _, self.commands = self.commands.partition(b"\n")
                    self.command(line.decode())
            elif key.data is self.listener:
                self.accept()
            else:
                if what & selectors.EVENT_READ and key.data in self.sides:
                    self.read(key.data)
                if what & selectors.EVENT_WRITE and key.data in self.sides:
                    self.write(key.data)
        return True


if __name__ == "__main__":
    p = Proxy(int(sys.argv[1]), int(sys.argv[2]))
    print("ready", flush=True)
    while p.turn():
        pass
