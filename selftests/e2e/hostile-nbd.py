#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-only
# timeout: 1200
"""NBD servers that break every rule, against spicebdd: in the handshake and in
the transmission. Who asked is told in one line and in time, a reader gets an
error, the daemon neither grows nor dies nor fills the log, and a medium beside
it is read all the while."""
import contextlib
import itertools
import os
import random
import shutil
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time

INSERT_S = 5		# --timeout
RECONNECT_S = 3		# of the drive
SLACK_S = 60		# for a machine that is busy
LINES_MAX = 6		# of the daemon's, for one server
GROWTH_KIB = 48 << 10	# over all of them
MIB = 1 << 20

results = []


def ok(cond, name):
    results.append(bool(cond))
    print(f"{'ok' if cond else 'not ok'} {len(results)} - {name}", flush=True)


def ctl(*args):
    return subprocess.run(["spicebdctl", *map(str, args)], capture_output=True, text=True,
                          timeout=INSERT_S + SLACK_S + 30, check=False)


def daemon():
    return int(subprocess.check_output(["pgrep", "-o", "-x", "spicebdd"], text=True))


def rss_kib(pid):
    with open(f"/proc/{pid}/status") as f:
        return next(int(line.split()[1]) for line in f if line.startswith("VmRSS"))


def log_lines(pid):
    """Lines of the daemon's own, in what its stderr goes to."""
    with open(os.readlink(f"/proc/{pid}/fd/2"), errors="replace") as f:
        return [line for line in f if line.startswith("spicebdd:")]


# ---- servers

NBDMAGIC, OPTMAGIC, REPMAGIC = 0x4e42444d41474943, 0x49484156454f5054, 0x3e889045565a9
STRUCTURED, INFO, GO = 8, 6, 7
ACK, REP_INFO, UNSUP = 1, 3, 0x80000001


def exactly(c, n):
    b = b""
    while len(b) < n:
        part = c.recv(n - len(b))
        if not part:
            raise EOFError
        b += part
    return b


def greet(c):
    c.sendall(struct.pack(">QQH", NBDMAGIC, OPTMAGIC, 3))
    exactly(c, 4)


def option(c):
    magic, opt, n = struct.unpack(">QII", exactly(c, 16))
    exactly(c, n)
    return opt


def reply(c, opt, type_, data=b"", length=None):
    c.sendall(struct.pack(">QIII", REPMAGIC, opt, type_,
                          len(data) if length is None else length) + data)


def negotiate(c, size=8 * MIB, flags=0x103, structured=False, blocks=None):
    """As a good server does; size and flags are what it says of itself."""
    greet(c)
    while True:
        opt = option(c)
        if opt == STRUCTURED and structured:
            reply(c, opt, ACK)
        elif opt in (INFO, GO):
            reply(c, opt, REP_INFO, struct.pack(">HQH", 0, size, flags))
            if blocks:
                reply(c, opt, REP_INFO, struct.pack(">HIII", 3, *blocks))
            reply(c, opt, ACK)
            if opt == GO:
                return
        else:
            reply(c, opt, UNSUP)


def request(c):
    magic, flags, type_, cookie, offset, n = struct.unpack(">IHHQQI", exactly(c, 28))
    return type_, cookie, offset, n


def simple(c, cookie, data=b"", error=0, magic=0x67446698):
    c.sendall(struct.pack(">IIQ", magic, error, cookie) + data)


def chunk(c, cookie, type_, data=b"", flags=1, length=None):
    c.sendall(struct.pack(">IHHQI", 0x668e33ef, flags, type_, cookie,
                          len(data) if length is None else length) + data)


def wait_for_end(c):
    with contextlib.suppress(OSError):
        while c.recv(65536):
            pass


def endless_replies(c):
    greet(c)
    opt = option(c)
    while True:
        reply(c, opt, REP_INFO, struct.pack(">HI", 77, 0) * 100)


def endless_reply(c):
    greet(c)
    reply(c, option(c), REP_INFO, length=0xffffffff)
    while True:
        c.sendall(bytes(65536))


def silent_option(c):
    greet(c)
    option(c)
    wait_for_end(c)


def other_option(c):
    greet(c)
    reply(c, option(c) + 40, ACK)
    wait_for_end(c)


def bad_reply_magic(c):
    greet(c)
    option(c)
    c.sendall(bytes(20))
    wait_for_end(c)


def slowly(c):
    """A byte a second: alive, and never done."""
    for b in struct.pack(">QQH", NBDMAGIC, OPTMAGIC, 3):
        c.sendall(bytes([b]))
        time.sleep(1)
    wait_for_end(c)


def sized(size, **kw):
    def serve(c):
        negotiate(c, size, **kw)
        while True:
            type_, cookie, _, n = request(c)
            simple(c, cookie, bytes(n) if type_ == 0 else b"")
    return serve


def silent_after(c):
    negotiate(c)
    wait_for_end(c)


def closes_after(c):
    negotiate(c)


def garbage(c):
    c.sendall(random.Random(1).randbytes(4096))
    wait_for_end(c)


HANDSHAKES = [
    ("garbage", garbage), ("a wrong magic", lambda c: (c.sendall(bytes(18)), wait_for_end(c))),
    ("nothing at all", wait_for_end), ("the end at once", lambda c: None),
    ("a byte a second", slowly), ("silence after the first option", silent_option),
    ("option replies without end", endless_replies), ("one reply of 4 GiB", endless_reply),
    ("a reply to another option", other_option), ("a wrong reply magic", bad_reply_magic),
    ("a size of 2^63", sized(1 << 63)), ("a size of 2^64 - 1", sized((1 << 64) - 1)),
    ("a size of 0", sized(0)), ("a size of 1 byte", sized(1)),
    ("silence after the handshake", silent_after), ("the end after it", closes_after),
]

# What makes no sense is not taken into account: the medium is one all the same.
IGNORED = [(0, 0, 0), (3, 5, 7), (1 << 31, 1 << 31, 1 << 31)]


class Server:
    """serve(connection) runs for each client; afterwards the connection ends."""

    def __init__(self, path, serve):
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(path)
        self.listener.listen(64)
        self.serve, self.clients, self.over = serve, [], False
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self):
        while not self.over:
            try:
                c, _ = self.listener.accept()
            except OSError:
                return
            self.clients.append(c)
            threading.Thread(target=self.run, args=(c,), daemon=True).start()

    def run(self, c):
        with contextlib.suppress(OSError, EOFError, struct.error):
            self.serve(c)
        c.close()

    def close(self):
        self.over = True
        with contextlib.suppress(OSError):
            self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        for c in self.clients:
            with contextlib.suppress(OSError):
                c.shutdown(socket.SHUT_RDWR)


# ---- transmissions: good until told otherwise

def evil_magic(c, cookie, n):
    simple(c, cookie, bytes(n), magic=0x12345678)


def evil_cookie(c, cookie, n):
    simple(c, cookie ^ 0x5555, bytes(n))


def evil_twice(c, cookie, n):
    simple(c, cookie, bytes(n))
    simple(c, cookie, bytes(n))


def evil_short(c, cookie, n):
    simple(c, cookie, bytes(n // 2))
    c.shutdown(socket.SHUT_RDWR)


def evil_stuck(c, cookie, n):
    simple(c, cookie, bytes(n // 2))
    wait_for_end(c)


def evil_long(c, cookie, n):
    simple(c, cookie, bytes(n) + b"\xee" * 4096)


def evil_error(c, cookie, n):
    simple(c, cookie, error=0xdeadbeef)


def evil_silence(c, cookie, n):
    wait_for_end(c)


def evil_chunk(type_, data, **kw):
    def serve(c, cookie, n):
        chunk(c, cookie, type_, data, **kw)
        wait_for_end(c)
    return serve


TRANSMISSIONS = [
    ("a wrong reply magic", evil_magic, False), ("a cookie of nobody", evil_cookie, False),
    ("half of the data and the end", evil_short, False),
    ("half of the data and silence", evil_stuck, False), ("more data than asked", evil_long, False),
    ("an unknown error", evil_error, False), ("silence", evil_silence, False),
    ("a chunk far outside", evil_chunk(1, struct.pack(">Q", 1 << 62) + bytes(512)), True),
    ("a chunk of 4 GiB", evil_chunk(1, bytes(16), length=0xffffffff), True),
    ("a hole of 4 GiB", evil_chunk(2, struct.pack(">QI", 0, 0xffffffff)), True),
    ("an unknown chunk", evil_chunk(0x1234, b"what"), True),
    ("an error chunk of another length", evil_chunk(0x8001, struct.pack(">IH", 5, 60000)), True),
]


def transmission(evil, structured, is_evil, blocks=None):
    def serve(c):
        negotiate(c, structured=structured, **({"blocks": blocks} if blocks else {}))
        while True:
            type_, cookie, offset, n = request(c)
            if type_ == 0 and is_evil.is_set():
                evil(c, cookie, n)
            elif type_ == 0 and structured:
                chunk(c, cookie, 1, struct.pack(">Q", offset) + bytes(n))
            elif type_ == 2:
                return
            else:
                simple(c, cookie, bytes(n) if type_ == 0 else b"")
    return serve


# ---- the medium beside

class Neighbour:
    """Reads its medium all the time, and compares."""

    def __init__(self, device, content):
        self.fd = os.open(device, os.O_RDONLY | os.O_DIRECT)
        self.content, self.reads, self.wrong, self.over = content, 0, [], False
        self.thread = threading.Thread(target=self.run)
        self.thread.start()

    def run(self):
        import mmap
        buf, r = mmap.mmap(-1, 65536), random.Random(7)
        while not self.over:
            at = r.randrange(len(self.content) // 65536) * 65536
            try:
                n = os.preadv(self.fd, [buf], at)
                if n != 65536 or buf[:] != self.content[at:at + 65536]:
                    self.wrong.append(f"other bytes at {at}")
            except OSError as e:
                self.wrong.append(str(e))
            self.reads += 1
            time.sleep(0.01)		# it shall not be all that the machine does

    def goes_on(self):
        """Some reads from now on."""
        want, end = self.reads + 3, time.monotonic() + SLACK_S
        while self.reads < want and time.monotonic() < end:
            time.sleep(0.02)
        return self.reads >= want and not self.wrong

    def close(self):
        self.over = True
        self.thread.join()
        os.close(self.fd)


def read_fails(device):
    """Seconds until a read of it fails, or None."""
    began = time.monotonic()
    with contextlib.suppress(subprocess.TimeoutExpired):
        p = subprocess.run(["dd", f"if={device}", "of=/dev/null", "bs=64k", "iflag=direct",
                            "skip=3", "count=1"], capture_output=True, check=False,
                           timeout=RECONNECT_S + SLACK_S + 60)
        return time.monotonic() - began if p.returncode else None
    return None


class Test:
    def __init__(self, work):
        self.sock, self.pid = f"{work}/nbd", daemon()
        self.uri = f"nbd+unix:///?socket={self.sock}"
        content = random.Random(3).randbytes(16 * MIB)
        with open(f"{work}/beside.img", "wb") as f:
            f.write(content)
        device = ctl("insert", "--disk", "--read-only", f"{work}/beside.img").stdout.strip()
        self.neighbour = Neighbour(device, content)
        self.drive = ctl("add", "disk", "--reconnect-timeout", RECONNECT_S).stdout.strip()
        self.rss = rss_kib(self.pid)

    def check(self, what, lines, fine, how):
        new = len(log_lines(self.pid)) - lines
        fine = fine and daemon() == self.pid and new <= LINES_MAX and self.neighbour.goes_on()
        ok(fine, f"{what}: {how}; {new} lines in the log")

    def handshake(self, name, serve):
        server, lines, began = Server(self.sock, serve), len(log_lines(self.pid)), time.monotonic()
        p = ctl("insert", self.drive, "--timeout", INSERT_S, self.uri)
        took = time.monotonic() - began
        server.close()
        said = p.stderr.strip()
        self.check(f"handshake, {name}", lines,
                   p.returncode and len(said.splitlines()) == 1 and took < INSERT_S + SLACK_S, said)
        ctl("eject", self.drive, "--force")

    def insert(self):
        """Without a cache: a machine that is busy looks like one that is far away, and
        what had been fetched ahead would be read."""
        return ctl("insert", self.drive, "--read-only", "--cache", "off", self.uri)

    def transmission(self, name, evil, structured):
        is_evil = threading.Event()
        server = Server(self.sock, transmission(evil, structured, is_evil))
        lines = len(log_lines(self.pid))
        p = self.insert()
        if p.returncode:
            server.close()
            self.check(f"transmission, {name}", lines, False, p.stderr)
            return
        is_evil.set()
        took = read_fails(self.drive)
        ctl("eject", self.drive, "--force")
        server.close()
        self.check(f"transmission, {name}", lines,
                   took is not None and took < RECONNECT_S + SLACK_S,
                   "the read " + ("hangs or succeeds" if took is None else "fails"))

    def ignored(self, blocks):
        server = Server(self.sock, transmission(None, False, threading.Event(), blocks))
        lines = len(log_lines(self.pid))
        p = self.insert()
        took = read_fails(self.drive) if not p.returncode else 0
        ctl("eject", self.drive, "--force")
        server.close()
        self.check(f"blocks of {blocks[0]} bytes", lines, took is None,
                   p.stderr.strip() or "inserted and read")

    def twice(self):
        """The first of two replies is a good one, after which all is over."""
        is_evil, ended = threading.Event(), []

        def evil(c, cookie, n):
            evil_twice(c, cookie, n)
            is_evil.clear()
            wait_for_end(c)
            ended.append(True)
        server = Server(self.sock, transmission(evil, False, is_evil))
        lines = len(log_lines(self.pid))
        p = self.insert()
        is_evil.set()
        took = read_fails(self.drive)
        end = time.monotonic() + SLACK_S
        while not ended and time.monotonic() < end:
            time.sleep(0.02)
        again = read_fails(self.drive)
        ctl("eject", self.drive, "--force")
        server.close()
        self.check("transmission, the same reply twice", lines, not p.returncode and
                   took is None and ended and again is None,
                   "the connection is given up, the next one serves")

    def close(self):
        self.neighbour.close()
        grown = rss_kib(self.pid) - self.rss
        ok(grown < GROWTH_KIB, f"the daemon grew by {grown} KiB over all of it")
        ok(not self.neighbour.wrong and self.neighbour.reads,
           f"{self.neighbour.reads} reads of the medium beside it, all as they should be")
        for line in itertools.islice(self.neighbour.wrong, 5):
            print(f"# {line}")
        ctl("del", self.drive, "--force")
        ctl("eject", 1, "--force")


def main():
    work = tempfile.mkdtemp()
    test = Test(work)
    try:
        for name, serve in HANDSHAKES:
            test.handshake(name, serve)
        for name, evil, structured in TRANSMISSIONS:
            test.transmission(name, evil, structured)
        for blocks in IGNORED:
            test.ignored(blocks)
        test.twice()
    finally:
        test.close()
        shutil.rmtree(work, ignore_errors=True)
    print(f"1..{len(results)}", flush=True)
    os._exit(0 if all(results) else 1)


if __name__ == "__main__":
    sys.exit(main())
