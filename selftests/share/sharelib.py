# SPDX-License-Identifier: GPL-2.0-only
"""What the tests of spicebd-share have in common: KTAP, a Spice server whose
port is a socket (spiceport), and a link's end of the frame layer that says what
a test wants it to say. Everything that waits has a limit and raises Timeout."""
import atexit
import json
import os
import secrets
import select
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time

HERE = os.path.dirname(os.path.abspath(__file__))
TOP = os.path.dirname(os.path.dirname(HERE))
BIN = os.environ.get("SPICEBD_BIN", os.path.join(TOP, "build/bin"))
SHARE = os.path.join(BIN, "spicebd-share")
LIMIT = 30

(HELLO, RESYNC, OFFER, WITHDRAW, OFFERS_END, OPEN, OPENED, DATA, CREDIT, CLOSE, NOTICE,
 EJECT_REQUEST, PING, PONG, MOVE, BYE) = range(1, 17)
INSERTED, EJECTED, LOCKED, UNLOCKED, BUSY = range(1, 6)
READ_ONLY, DURABLE, MULTI, OFFER_BUSY = 1, 2, 4, 8
(OK, ERR_PROTOCOL, ERR_VERSION, ERR_NO_SUCH_OFFER, ERR_BUSY, ERR_SERVER, ERR_LIMIT,
 ERR_TIMEOUT, ERR_SHUTDOWN) = range(9)
CDROM, DISK = 1, 2
ANSWERS = 2              # capability
FORCE, REPLACE = 1, 2    # of an eject request
MAGIC = 0x46444253
WINDOW = 4 << 20


# Programs of these tests leave nothing in the home of who runs them.
os.environ["XDG_STATE_HOME"] = tempfile.mkdtemp(prefix="share-state-")
atexit.register(shutil.rmtree, os.environ["XDG_STATE_HOME"], ignore_errors=True)


class Timeout(Exception):
    pass


class Skip(Exception):
    pass


# ---- KTAP

def run(tests):
    """Runs functions by turns; a test's name is the first line of its docstring."""
    print("KTAP version 1")
    print(f"1..{len(tests)}")
    failed = 0
    for n, test in enumerate(tests, 1):
        name = (test.__doc__ or test.__name__).strip().splitlines()[0].rstrip(".")
        try:
            test()
            print(f"ok {n} {name}")
        except Skip as e:
            print(f"ok {n} {name} # SKIP {e}")
        except Exception as e:  # noqa: BLE001: a test may fail in any way
            failed += 1
            tb = e.__traceback__
            while tb.tb_next and tb.tb_next.tb_frame.f_code.co_filename.endswith(".py") \
                    and "selftests" in tb.tb_next.tb_frame.f_code.co_filename:
                tb = tb.tb_next
            print(f"# {type(e).__name__} at line {tb.tb_lineno}: {e}".replace("\n", "\n# "))
            print(f"not ok {n} {name}")
        finally:
            cleanup()
            sys.stdout.flush()
    sys.exit(1 if failed else 0)


def check(cond, what):
    if not cond:
        raise AssertionError(what)


def equal(got, want, what):
    check(got == want, f"{what}: {got!r}, expected {want!r}")


# ---- what a test started

_started = []


def cleanup():
    while _started:
        _started.pop()()


atexit.register(cleanup)


def later(fn):
    _started.append(fn)


def workdir():
    d = tempfile.mkdtemp(prefix="share-test-")
    later(lambda: shutil.rmtree(d, ignore_errors=True))
    return d


def end(p):
    if p.poll() is None:
        p.kill()
    p.wait()


def gone(pid, limit=LIMIT):
    """Whether the process has ended, at last."""
    until = time.monotonic() + limit
    while time.monotonic() < until:
        try:
            with open(f"/proc/{pid}/stat") as f:
                if f.read().rsplit(")", 1)[1].split()[0] == "Z":
                    return True
        except OSError:
            return True
        select.select([], [], [], 0.02)
    return False


def need(*programs):
    for p in programs:
        if not shutil.which(p) and not os.access(p, os.X_OK):
            raise Skip(f"{p} is not there")


class Lines:
    """Lines of a pipe, with a limit for each wait."""

    def __init__(self, f):
        self.f, self.buf, self.eof, self.seen = f, b"", False, []

    def get(self, limit=LIMIT):
        until = time.monotonic() + limit
        while b"\n" not in self.buf and not self.eof:
            left = until - time.monotonic()
            if left <= 0 or not select.select([self.f], [], [], left)[0]:
                raise Timeout(f"no line in {limit} s; before: {self.seen[-8:]}")
            d = os.read(self.f.fileno(), 65536)
            self.eof = not d
            self.buf += d
        if not self.buf:
            raise EOFError(f"end of output; before: {self.seen[-8:]}")
        line, _, self.buf = self.buf.partition(b"\n")
        self.seen.append(line.decode(errors="replace"))
        return self.seen[-1]


_tool = None


def spiceport():
    """Builds the tool once a run."""
    global _tool
    if _tool is None:
        need("gcc", "pkg-config")
        d = tempfile.mkdtemp(prefix="spiceport-")
        atexit.register(shutil.rmtree, d, ignore_errors=True)
        _tool = os.path.join(d, "spiceport")
        r = subprocess.run(
            f"gcc -O1 -g -o {_tool} {HERE}/spiceport.c "
            "$(pkg-config --cflags --libs spice-server spice-protocol gio-unix-2.0)",
            shell=True, capture_output=True, text=True, check=False)
        if r.returncode:
            raise Skip("spiceport does not build: " + r.stderr.strip().splitlines()[-1])
    return _tool


class Server:
    """A Spice server on a unix socket, with ports."""

    def __init__(self, ports=(0,), password=None, directory=None):
        self.dir = directory or workdir()
        self.uri = f"spice+unix://{self.dir}/spice"
        args = [spiceport()] + (["-p", password] if password else [])
        args += [f"{self.dir}/spice", self.dir] + [str(p) for p in ports]
        for p in ports:
            if os.path.exists(f"{self.dir}/{p}.sock"):
                os.unlink(f"{self.dir}/{p}.sock")
        self.p = subprocess.Popen(args, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                  stderr=subprocess.DEVNULL)
        later(lambda: end(self.p))
        self.out = Lines(self.p.stdout)
        equal(self.out.get(), "ready", "spiceport")

    def port(self, n=0):
        s = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        s.connect(f"{self.dir}/{n}.sock")
        later(s.close)
        return s


class Share:
    """spicebd-share, started with --json; its events are waited for by name."""

    def __init__(self, *args, json_lines=True, env=None, stdin=subprocess.DEVNULL):
        need(SHARE, "nbdkit")
        self.json = json_lines
        cmd = [SHARE] + (["--json"] if json_lines else []) + list(args)
        self.err = tempfile.TemporaryFile()
        self.p = subprocess.Popen(cmd, stdout=subprocess.PIPE, stderr=self.err,
                                  stdin=stdin, env=dict(os.environ, **(env or {})))
        later(lambda: end(self.p))
        self.out = Lines(self.p.stdout)

    def event(self, name, /, limit=LIMIT, **match):
        while True:
            try:
                e = json.loads(self.out.get(limit))
            except EOFError as end_of_output:
                raise EOFError(f"{end_of_output}; {self.errors()}") from None
            if e["event"] == name and all(e.get(k) == v for k, v in match.items()):
                return e

    def stop(self, sig=signal.SIGINT, limit=LIMIT):
        self.p.send_signal(sig)
        return self.wait(limit)

    def wait(self, limit=LIMIT):
        try:
            return self.p.wait(limit)
        except subprocess.TimeoutExpired:
            raise Timeout(f"spicebd-share still runs after {limit} s") from None

    def errors(self):
        self.err.seek(0)
        return self.err.read().decode(errors="replace")

    def children(self):
        """Processes below it, by /proc."""
        r = {}
        for pid in filter(str.isdigit, os.listdir("/proc")):
            try:
                with open(f"/proc/{pid}/stat") as f:
                    stat = f.read().rsplit(")", 1)[1].split()
                if int(stat[1]) == self.p.pid and stat[0] != "Z":
                    with open(f"/proc/{pid}/cmdline") as f:
                        r[int(pid)] = f.read().split("\0")
            except (OSError, IndexError):
                pass
        return r


# ---- the link's end of the frame layer

class Frame:
    def __init__(self, type, stream, epoch, seq, payload):
        self.type, self.stream, self.epoch, self.seq = type, stream, epoch, seq
        self.payload = payload

    def u32(self):
        return struct.unpack(f"<{len(self.payload) // 4}I", self.payload)

    def code(self):
        return struct.unpack("<I", self.payload[:4])[0]

    def __repr__(self):
        return f"<type {self.type} stream {self.stream} {self.payload[:60]!r}>"


def offer_of(f):
    v = struct.unpack("<IIQ16s16sHH12x", f.payload[:64])
    keys = ("id", "flags", "size", "medium_id", "incarnation", "kind", "name_len")
    o = dict(zip(keys, v))
    o["name"] = f.payload[64:64 + o.pop("name_len")].decode()
    return o


class Link:
    """Speaks on a port's socket. Frames of streams go to the streams' sockets by a
    thread; the rest is kept for get()."""

    def __init__(self, sock):
        self.sock, self.buf = sock, b""
        self.epoch = self.seq = 0
        self.rx_seq = None
        self.frames, self.streams, self.offers = [], {}, {}
        self.cond = threading.Condition()
        self.next_stream = 1
        self.closed = False
        self.pong = True
        self.gives_back = True      # answers an eject request as an idle drive does
        self.lock = threading.RLock()
        threading.Thread(target=self._receive, daemon=True).start()

    # sending
    def send(self, type, payload=b"", stream=0, epoch=None, seq=None, magic=MAGIC, length=None):
        with self.lock:
            e = self.epoch if epoch is None else epoch
            s = self.seq if seq is None else seq
            if seq is None:
                self.seq += 1
            n = len(payload) if length is None else length
            self.sock.sendall(struct.pack("<IHHIIII", magic, type, 0, stream, n, e, s) + payload)

    def hello(self, version=1, secret=bytes(32), answer=True, caps=ANSWERS):
        """Begins a session. A hello can overtake the port's events, and is lost with the
        session before; a share then asks for another one, and a link sends it."""
        until = time.monotonic() + LIMIT
        while True:
            self._begin(version, secret, caps)
            if not answer:
                return None
            h = self.get(HELLO, RESYNC, limit=max(until - time.monotonic(), 0.1))
            if h.type == HELLO:
                self.get(OFFERS_END)
                return h

    def _begin(self, version, secret, caps):
        with self.lock:
            self.epoch = secrets.randbits(32) | 1
            self.seq, self.next_stream = 0, 1
            with self.cond:
                for st in self.streams.values():
                    st.over = True
                self.streams, self.offers, self.frames = {}, {}, []
            self.send(HELLO, struct.pack("<HHIIIII32s16s16s8x", version, 1, caps, self.epoch, 65536,
                                         2000, 10000, secret, b"B" * 16, b"L" * 16))

    # receiving
    def _receive(self):
        try:
            while True:
                d = self.sock.recv(1 << 20)
                if not d:
                    break
                self.buf += d
                while self._one():
                    pass
        except OSError:
            pass
        with self.cond:
            self.closed = True
            self.cond.notify_all()

    def _one(self):
        # what may stand before a RESYNC, between two frames
        self.buf = self.buf.lstrip(b"\0")
        if len(self.buf) < 24:
            return False
        magic, type, _, stream, n, epoch, seq = struct.unpack("<IHHIIII", self.buf[:24])
        assert magic == MAGIC and n <= 65536 - 24, "no frame"
        if len(self.buf) < 24 + n:
            return False
        f = Frame(type, stream, epoch, seq, self.buf[24:24 + n])
        self.buf = self.buf[24 + n:]
        self._take(f)
        return True

    def _take(self, f):
        st = None
        with self.cond:
            if f.type != RESYNC and f.epoch != self.epoch:
                return True         # of an older session
            if f.type != RESYNC:
                assert f.type != HELLO or f.seq == 0
                assert f.type == HELLO or f.seq == self.rx_seq + 1, "a gap"
                self.rx_seq = f.seq
            if f.type == OFFER:
                o = offer_of(f)
                self.offers[o["id"]] = o
            elif f.type == WITHDRAW:
                self.offers.pop(f.u32()[0], None)
            st = self.streams.get(f.stream) if f.stream else None
            if not st or f.type in (OPENED, CLOSE):
                self.frames.append(f)
            self.cond.notify_all()
        if f.type == PING and self.pong:
            self.send(PONG, f.payload)
        if f.type == EJECT_REQUEST and self.gives_back:
            for one in list(self.streams.values()):
                one.close()
            self.notice(EJECTED, {"id": f.u32()[0]})
        if st:
            st.take(f)
        return True

    def get(self, *types, limit=LIMIT, stream=None):
        """The next frame of one of these types; others stay."""
        def find():
            for f in self.frames:
                if f.type in types and (stream is None or f.stream == stream):
                    return f
            return None
        with self.cond:
            if not self.cond.wait_for(lambda: find() or self.closed, limit) or not find():
                raise Timeout(f"no frame of type {types}: closed {self.closed}, "
                              f"there are {self.frames[-6:]}")
            f = find()
            self.frames.remove(f)
            return f

    def offer(self, name, limit=LIMIT):
        def find():
            return next((o for o in self.offers.values() if o["name"] == name), None)
        with self.cond:
            if not self.cond.wait_for(find, limit):
                raise Timeout(f"no offer {name!r}: {self.offers}")
            return find()

    def wait_offers(self, cond, limit=LIMIT):
        with self.cond:
            if not self.cond.wait_for(lambda: cond(self.offers), limit):
                raise Timeout(f"offers: {self.offers}")

    def open(self, offer, credit=WINDOW):
        with self.lock:
            st = Stream(self, self.next_stream, credit)
            self.next_stream += 1
            with self.cond:
                self.streams[st.id] = st
            self.send(OPEN, struct.pack("<II", offer["id"], credit), st.id)
        return st.opened()

    def notice(self, what, offer, text=""):
        self.send(NOTICE, struct.pack("<II", what, offer["id"]) + text.encode())


class Stream:
    """One NBD stream: self.fd is a socket for libnbd."""

    def __init__(self, link, id, credit):
        self.link, self.id = link, id
        self.mine, self.theirs = socket.socketpair()
        self.credit, self.cond = 0, threading.Condition()
        self.granted = credit
        self.fd = self.theirs.detach()
        self.over = False

    def opened(self):
        f = self.link.get(OPENED, CLOSE, stream=self.id)
        if f.type == CLOSE:
            raise ConnectionRefusedError(f.code(), f.payload[4:].decode())
        self.credit = f.u32()[0]
        threading.Thread(target=self._pump, daemon=True).start()
        return self

    def send(self, type, payload):
        with self.link.lock:        # a hello of another thread ends us under it
            if not self.over:
                self.link.send(type, payload, self.id)
            return not self.over

    def _pump(self):
        try:
            while True:
                d = self.mine.recv(65536 - 24)
                if not d:
                    break
                while d:
                    with self.cond:
                        if not self.cond.wait_for(lambda: self.credit or self.over, LIMIT):
                            raise Timeout("no credit")
                        n = min(len(d), self.credit)
                        self.credit -= n
                    if not self.send(DATA, d[:n]):
                        return
                    d = d[n:]
        except (OSError, Timeout):
            pass
        self.close()

    def take(self, f):
        if f.type == DATA:
            assert 0 < len(f.payload) <= self.granted, "more than its credit"
            self.granted -= len(f.payload)
            try:
                self.mine.sendall(f.payload)
            except OSError:
                return
            self.granted += len(f.payload)
            self.send(CREDIT, struct.pack("<I", len(f.payload)))
        elif f.type == CREDIT:
            with self.cond:
                self.credit += f.u32()[0]
                self.cond.notify_all()
        elif f.type == CLOSE:
            self.close()
            with self.cond:
                self.cond.notify_all()
            self.mine.close()

    def close(self):
        try:
            self.send(CLOSE, struct.pack("<I", OK))
        except OSError:
            pass
        self.over = True

    def nbd(self):
        import nbd
        h = nbd.NBD()
        h.connect_socket(self.fd)
        return h


def linked(*args, ports=(0,), server=None, stdin=subprocess.DEVNULL):
    """Server, share and the links of its ports, up."""
    server = server or Server(ports)
    links = [Link(server.port(n)) for n in ports]
    share = Share("--uri", server.uri, *args, stdin=stdin)
    share.event("connected")
    for link in links:
        link.hello()
    return share, server, links[0] if len(links) == 1 else links


def random_file(path, size):
    with open(path, "wb") as f:
        f.write(os.urandom(size))
    return path


def make_iso(path, size_mib=2):
    need("xorriso")
    d = workdir()
    random_file(f"{d}/data.bin", size_mib << 20)
    subprocess.run(["xorriso", "-as", "mkisofs", "-quiet", "-J", "-r", "-V", "TEST", "-o", path, d],
                   check=True, stderr=subprocess.DEVNULL)
    return path
