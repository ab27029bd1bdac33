#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-only
# timeout: 300
"""Peers that break QMP: each gets an error or a closed socket, spicebdd does not
grow, and a drive that is read meanwhile is not disturbed."""
import json
import mmap
import os
import pwd
import socket
import threading
import time

from traylib import DISK, DRIVES, RUN, Bench, Qmp, Table, daemon_pid, until

DRIVE = DRIVES[DISK]
GROWTH = 12 << 20	# what an answer or two and the allocator may take
LABEL = "a medium that is read all the time"


def status(field):
    with open(f"/proc/{daemon_pid()}/status", encoding="ascii") as f:
        for line in f:
            if line.startswith(field + ":"):
                return int(line.split()[1]) << 10
    raise AssertionError(field)


class Growth:
    """The peak of what spicebdd has in memory, from here on."""

    def __init__(self):
        with open(f"/proc/{daemon_pid()}/clear_refs", "w", encoding="ascii") as f:
            f.write("5")
        self.before, self.pid = status("VmRSS"), daemon_pid()

    def check(self, most=GROWTH):
        assert daemon_pid() == self.pid, "spicebdd died"
        grown = status("VmHWM") - self.before
        print(f"# grew by {grown >> 10} KiB", flush=True)
        assert grown < most, f"grew by {grown} bytes"


class Reader(threading.Thread):
    """Reads the medium past the page cache, and counts."""

    def __init__(self):
        super().__init__(daemon=True)
        self.rounds, self.wrong, self.go = 0, None, True
        self.longest = 0.0

    def run(self):
        buf = mmap.mmap(-1, 4096)
        fd = os.open(f"/dev/{DRIVE}", os.O_RDONLY | os.O_DIRECT)
        try:
            while self.go:
                began = time.monotonic()
                os.preadv(fd, [buf], 0)
                self.longest = max(self.longest, time.monotonic() - began)
                if not buf[:].startswith(LABEL.encode()):
                    raise AssertionError("other data")
                self.rounds += 1
        except (OSError, AssertionError) as e:
            self.wrong = e
        finally:
            os.close(fd)

    def check(self):
        n = self.rounds
        until(lambda: self.rounds > n + 1 or self.wrong, "the drive is read")
        assert not self.wrong, self.wrong


def raw(name="control"):
    q = Qmp(name)
    q.sock.settimeout(60)
    return q


def answer_or_end(q):
    """The next answer, or None where the socket was closed."""
    try:
        while True:
            line = q.file.readline()
            if not line:
                return None
            o = json.loads(line)
            if "event" not in o:
                return o
    except ConnectionResetError:
        return None


def spoil(data, then=True):
    """What breaks the rules is an error, and the next command is done."""
    def row(b):
        g = Growth()
        q = raw()
        q.sock.sendall(data)
        o = answer_or_end(q)
        assert o is None or o["error"]["class"] == "GenericError", o
        if o is not None and then:
            q.sock.sendall(b'\n{"execute":"query-name","id":"after"}\n')
            while o is not None and o.get("id") != "after":
                o = answer_or_end(q)
            assert o and "return" in o, o
        q.close()
        g.check()
        b.reader.check()
    return row


def a_long_line(b):
    g = Growth()
    q = raw()
    piece = b"x" * (1 << 20)
    try:
        q.sock.sendall(b'{"execute":"')
        for _ in range(100):
            q.sock.sendall(piece)
        q.sock.sendall(b'"}\n')
        o = answer_or_end(q)
        assert o and o["error"]["class"] == "GenericError", o
    except (BrokenPipeError, ConnectionResetError):
        pass
    q.close()
    g.check()
    b.reader.check()


def many_long_lines(b):
    """A megabyte that is no command yet, on thirty connections."""
    g = Growth()
    crowd = [raw() for _ in range(30)]
    for q in crowd:
        q.sock.sendall(b'{"execute":"' + b"x" * (1 << 19))
    assert b.q.do("query-name")
    for q in crowd:
        q.close()
    until(lambda: status("VmRSS") - g.before < GROWTH, "what they took is given back")
    g.check(30 * (2 << 20))
    b.reader.check()


def one_that_never_reads(b):
    g = Growth()
    q = raw()
    q.sock.settimeout(1)
    line = b'{"execute":"query-qmp-schema"}\n' * 100
    end = time.monotonic() + 90
    closed = False
    while not closed and time.monotonic() < end:
        try:
            q.sock.sendall(line)
        except (BrokenPipeError, ConnectionResetError):
            closed = True
        except TimeoutError:
            pass
    assert closed, "it is still connected"
    assert b.q.do("query-name")
    q.sock.close()
    g.check(GROWTH + (8 << 20))
    b.reader.check()


def one_that_never_reads_events(b):
    """Nothing asked, a thousand events: they wait, in bounds."""
    g = Growth()
    q = raw()
    for _ in range(500):
        b.q.send("spicebd-lock", drive=b.marker.name)
        b.q.send("spicebd-unlock", drive=b.marker.name)
        b.q.receive()
        b.q.receive()
    b.q.events.clear()
    g.check()
    q.close()
    b.reader.check()


def as_nobody(n):
    """Connections of another user to the status socket, held by a child."""
    nobody = pwd.getpwnam("nobody").pw_uid
    ready, tell = os.pipe()
    wait, go = os.pipe()
    child = os.fork()
    if not child:
        os.close(go)
        os.setuid(nobody)
        socks, served = [], 0
        for _ in range(n):
            s = socket.socket(socket.AF_UNIX)
            s.settimeout(10)
            try:
                s.connect(f"{RUN}/status.sock")
                served += bool(s.recv(16))
            except OSError:
                pass
            socks.append(s)
        os.write(tell, str(served).encode())
        os.read(wait, 1)
        os._exit(0)
    os.close(wait)
    return child, int(os.read(ready, 16)), go


def a_crowd_of_strangers(b):
    child, served, go = as_nobody(300)
    try:
        assert 0 < served <= 16, f"{served} of one uid were let in"
        for name in ("status", "control"):
            q = Qmp(name)
            assert q.do("query-name")
            q.close()
    finally:
        os.close(go)
        os.waitpid(child, 0)
    b.reader.check()


def the_longest_read(b):
    """After everything else."""
    b.reader.go = False
    b.reader.join(30)
    print(f"# {b.reader.rounds} reads, the longest {b.reader.longest * 1000:.0f} ms")
    assert not b.reader.wrong, b.reader.wrong
    assert b.reader.longest < 10, b.reader.longest
    b.q.do("eject", id=DRIVE)


def bench():
    b = Bench()
    image = b.image(LABEL)
    b.q.do("spicebd-insert", source=image.path, drive=DRIVE)
    b.reader = Reader()
    b.reader.start()
    return b


DEEP = b'{"execute":' + b"[" * 100000
table = Table()
for title, data, go_on in (
        ("no JSON at all", b"GET / HTTP/1.1\r\n\r\n", True),
        ("an object that is none", b'{"execute" "query-name"}\n', True),
        ("half an object, then a line's end in a string", b'{"execute":"quer\ny"}\n', True),
        ("an array", b'["query-name"]\n', True),
        ("a bare value", b"17\n", True),
        ("nested too deeply", DEEP + b"\n", True),
        ("nested too deeply, of objects", b'{"a":' * 100000 + b"\n", True),
        ("half a character of UTF-8", b'{"execute":"query-name\xc3"}\n', True),
        ("a surrogate in UTF-8", b'{"execute":"\xed\xa0\x80"}\n', True),
        ("a NUL in a string", b'{"execute":"query\0-name"}\n', True),
        ("NULs between commands", b"\0\0\0\0\n", True),
        ("a member that is none of QMP's", b'{"execute":"query-name","x":1}\n', True),
        ("exec-oob, which nobody enabled", b'{"exec-oob":"query-name"}\n', True),
        ("execute that is no string", b'{"execute":{}}\n', True),
        ("arguments that are no object", b'{"execute":"query-name","arguments":[]}\n', True),
        ("a number without end", b'{"execute":"query-name","id":' + b"9" * 400000 + b"x}\n", True)):
    table.add(title, spoil(data, go_on))
for fn in (a_long_line, many_long_lines, one_that_never_reads, one_that_never_reads_events,
           a_crowd_of_strangers, the_longest_read):
    table.add(fn.__name__.replace("_", " "), fn)

if __name__ == "__main__":
    table.main(bench)
