# SPDX-License-Identifier: GPL-2.0-only
"""What the tests of spicebd-link share: the link in a directory of its own, a
daemon that speaks its private socket, a share made of spice-client-glib and
nothing of ours, and KTAP.

The frame layer is written here a second time, from its page in Documentation/,
so that the program and the page are held against each other.
"""
import contextlib
import os
import queue
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
import traceback

import xxhash

TOP = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
BIN = os.environ.get("SPICEBD_BIN", os.path.join(TOP, "build/bin"))
LINK = os.path.join(BIN, "spicebd-link")
SHARE = os.path.join(BIN, "spicebd-share")

# Programs of these tests leave nothing in the home of who runs them.
os.environ["XDG_STATE_HOME"] = _state = tempfile.mkdtemp(prefix="linktest.state.")

# ---- KTAP ----

_results = []


def ok(cond, name):
    _results.append(bool(cond))
    print(f"{'ok' if cond else 'not ok'} {len(_results)} - {name}", flush=True)
    return cond


def diag(text):
    print(f"# {text}", flush=True)


def run(main):
    """Run main(), count a traceback as a failure, end with the right status."""
    print("TAP version 13", flush=True)
    for prog in (LINK,):
        if not os.access(prog, os.X_OK):
            print(f"ok 1 - spicebd-link # SKIP {prog} is not built")
            sys.exit(4)
    try:
        main()
    except Exception:
        for line in traceback.format_exc().splitlines():
            diag(line)
        ok(False, "no exception")
    print(f"1..{len(_results)}", flush=True)
    sys.stdout.flush()
    shutil.rmtree(_state, ignore_errors=True)
    os._exit(0 if all(_results) and _results else 1)


class Timeout(Exception):
    pass


# ---- the private socket ----

READY, PORT_UP, PORT_DOWN, OFFER, WITHDRAW, OFFERS_END, STREAM, STREAM_FAILED, \
    EJECT_REQUEST, CLIENT, STATS = range(1, 12)
ADD_PORT, DEL_PORT, OPEN, NOTICE, RESET_PORT, GET_STATS = range(64, 70)
NAMES = {v: k for k, v in list(globals().items()) if k.isupper() and isinstance(v, int)}


class Msg:
    HEAD = struct.Struct("=8I")

    def __init__(self, data, fd=None):
        (self.type, self.port, self.offer, self.tag, self.flags, self.error,
         self.epoch, self.version) = self.HEAD.unpack_from(data)
        self.u = data[32:416]
        self.text = data[416:512].split(b"\0")[0].decode()
        self.fd = fd

    def offer_fields(self):
        size, flags, kind = struct.unpack_from("=QII", self.u)
        return {"size": size, "flags": flags, "kind": kind, "medium": self.u[16:32],
                "incarnation": self.u[32:48], "name": self.u[48:].split(b"\0")[0].decode()}

    def __repr__(self):
        return (f"<{NAMES.get(self.type, self.type)} port={self.port} offer={self.offer} "
                f"tag={self.tag} error={self.error} {self.text!r}>")


class Daemon:
    def __init__(self, path, timeout=40):
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        end = time.monotonic() + timeout
        while True:
            try:
                self.sock.connect(path)
                break
            except (FileNotFoundError, ConnectionRefusedError):
                if time.monotonic() > end:
                    raise
                select.select([], [], [], 0.02)
        self.seen = []

    def send(self, type_, port=0, offer=0, tag=0, flags=0, u=b""):
        head = Msg.HEAD.pack(type_, port, offer, tag, flags, 0, 0, 0)
        self.sock.send((head + u).ljust(512, b"\0"))

    def recv(self, timeout=40):
        self.sock.settimeout(max(timeout, 0.001))
        try:
            data, fds, flags, _ = socket.recv_fds(self.sock, 512, 4)
        except TimeoutError:
            raise Timeout("nothing from the link") from None
        if not data:
            raise EOFError("the link closed the private socket")
        assert len(data) == 512 and len(fds) <= 1 and not flags & socket.MSG_CTRUNC
        m = Msg(data, fds[0] if fds else None)
        self.seen.append(m)
        return m

    def expect(self, *types, timeout=40, port=None):
        """The next message of one of these types; others are passed over."""
        end = time.monotonic() + timeout
        while True:
            left = end - time.monotonic()
            if left <= 0:
                raise Timeout(f"no {[NAMES[t] for t in types]}; seen {self.seen[-6:]}")
            try:
                m = self.recv(left)
            except Timeout:
                continue
            if m.type in types and (port is None or m.port == port):
                return m

    def nothing(self, *types, seconds=0.5):
        try:
            m = self.expect(*types, timeout=seconds)
        except Timeout:
            return True
        diag(f"unexpected {m}")
        return False

    def open(self, port, offer, tag=1, timeout=40):
        self.send(OPEN, port, offer, tag)
        m = self.expect(STREAM, STREAM_FAILED, timeout=timeout)
        assert m.tag == tag
        return m

    def close(self):
        self.sock.close()


# ---- the link ----

class Link:
    """spicebd-link in a run directory of its own; listeners are ours, so it may die."""

    def __init__(self, conf="", password=None, tcp=False, own_sockets=False, args=()):
        self.dir = tempfile.mkdtemp(prefix="linktest.")
        os.chmod(self.dir, 0o755)
        self.log = open(os.path.join(self.dir, "log"), "a+")
        self.args = list(args) + os.environ.get("LINKTEST_ARGS", "").split()
        os.makedirs(os.path.join(self.dir, "links.d"))
        os.makedirs(os.path.join(self.dir, "link"))
        self.control_path = os.path.join(self.dir, "link/t.sock")
        self.fds, self.proc = {}, None
        if not own_sockets:
            self.fds["control"] = self._unix(self.control_path, socket.SOCK_SEQPACKET)
        if tcp:
            s = socket.create_server(("127.0.0.1", 0))
            self.fds["spice"] = s
            self.port = s.getsockname()[1]
            address = f"127.0.0.1:{self.port}"
            self.uri = f"spice://{address}"
        else:
            path = os.path.join(self.dir, "spice.sock")
            address = "unix:" + path
            self.uri = "spice+unix://" + path
            if not own_sockets:
                self.fds["spice"] = self._unix(path, socket.SOCK_STREAM)
        if password:
            p = os.path.join(self.dir, "password")
            with open(p, "w") as f:
                f.write(password + "\n")
            conf += f"\npassword-file={p}"
        with open(os.path.join(self.dir, "links.d/t.conf"), "w") as f:
            f.write(f"# made by a test\naddress={address}\n{conf}\n")
        self.start()

    @staticmethod
    def _unix(path, type_):
        s = socket.socket(socket.AF_UNIX, type_)
        s.bind(path)
        s.listen(16)
        return s

    def start(self):
        env = dict(os.environ, SPICEBD_RUN_DIR=self.dir)
        cmd = [LINK, "--debug", *self.args, "t"]
        fds = [s.fileno() for s in self.fds.values()]
        if fds:
            # As a service manager does it: descriptors from 3 on, named, our own pid.
            script = ('export LISTEN_PID=$$ LISTEN_FDS=%d LISTEN_FDNAMES=%s; exec "$@" %s'
                      % (len(fds), ":".join(self.fds),
                         " ".join(f"{3 + i}<&{fd}" for i, fd in enumerate(
                             f + 100 for f in range(len(fds))))))
            cmd = ["bash", "-c", script, "bash", *cmd]

            def renumber():
                for i, fd in enumerate(fds):
                    os.dup2(fd, 100 + i, inheritable=True)
            self.proc = subprocess.Popen(cmd, env=env, stderr=self.log, preexec_fn=renumber,
                                         close_fds=False)
        else:
            self.proc = subprocess.Popen(cmd, env=env, stderr=self.log)

    def daemon(self):
        return Daemon(self.control_path)

    def kill(self, sig=signal.SIGKILL):
        self.proc.send_signal(sig)
        return self.proc.wait(40)

    def log_text(self):
        with open(os.path.join(self.dir, "log"), errors="replace") as f:
            return f.read()

    def wait_log(self, text, timeout=40):
        end = time.monotonic() + timeout
        while text not in self.log_text():
            if time.monotonic() > end or self.proc.poll() is not None and time.monotonic() > end:
                return False
            select.select([], [], [], 0.05)
        return True

    def rss_kib(self):
        with open(f"/proc/{self.proc.pid}/status") as f:
            for line in f:
                if line.startswith("VmRSS"):
                    return int(line.split()[1])

    def close(self):
        status = self.proc.poll()
        if status is None:
            self.proc.terminate()
            try:
                status = self.proc.wait(5)
            except subprocess.TimeoutExpired:
                self.proc.kill()
                status = "killed by the test"
        if status != 0:
            diag(f"spicebd-link ended with {status}")
        if not all(_results) or status != 0:
            for line in self.log_text().splitlines()[-40:]:
                diag(line)
        shutil.rmtree(self.dir, ignore_errors=True)
        return status

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        if exc[0] is not None:
            _results.append(False)
        self.close()


# ---- the frame layer ----

MAGIC = b"SBDF"
(HELLO, RESYNC, F_OFFER, F_WITHDRAW, F_OFFERS_END, F_OPEN, OPENED, DATA, CREDIT, CLOSE,
 F_NOTICE, F_EJECT_REQUEST, PING, PONG, MOVE, BYE) = range(1, 17)
HEADER = struct.Struct("<4sHHIIII")


CAP_CHECKS = 1
CAP_ANSWERS = 2


def hello(epoch, role=2, version=1, ping=5000, timeout=15000, caps=0):
    return struct.pack("<HHIIIII", version, role, caps, epoch, 65536, ping, timeout) + \
        bytes(32) + b"B" * 16 + b"I" * 16 + bytes(8)


def offer(id_, size, name, flags=4, kind=0, medium=b"M" * 16, incarnation=b"N" * 16):
    name = name.encode() if isinstance(name, str) else name
    return struct.pack("<IIQ16s16sHH12x", id_, flags, size, medium, incarnation, kind,
                       len(name)) + name


class Stream:
    """A stream of the share, pumped to an NBD server's socket."""
    GRANT = 1 << 20

    def __init__(self, share, port, sid, credit, sock):
        self.share, self.port, self.id, self.credit, self.sock = share, port, sid, credit, sock
        self.cond = threading.Condition()
        self.closed = False
        self.sending = threading.Lock()     # guards ended, and what is sent
        self.ended = False                  # our CLOSE was sent: nothing follows it
        self.inbox = queue.Queue()
        threading.Thread(target=self.to_server, daemon=True).start()
        threading.Thread(target=self.from_server, daemon=True).start()

    def send(self, type_, payload):
        with self.sending:
            if not self.ended:
                self.ended = type_ == CLOSE
                self.share.send(self.port, type_, payload, self.id)

    def to_server(self):
        while (data := self.inbox.get()) is not None:
            try:
                self.sock.sendall(data)
            except OSError:
                return
            self.send(CREDIT, struct.pack("<I", len(data)))

    def from_server(self):
        while True:
            with self.cond:
                self.cond.wait_for(lambda: self.credit > 0 or self.closed)
                n = min(self.credit, 60000)
            try:
                data = b"" if self.closed else self.sock.recv(n)
            except OSError:
                data = b""
            if not data:
                self.send(CLOSE, struct.pack("<I", 0))
                return
            with self.cond:
                self.credit -= len(data)
            self.send(DATA, data)

    def add_credit(self, n):
        with self.cond:
            self.credit += n
            self.cond.notify()

    def close(self):
        with self.cond:
            self.closed = True
            self.cond.notify()
        self.inbox.put(None)
        with contextlib.suppress(OSError):
            self.sock.shutdown(socket.SHUT_RDWR)
        self.sock.close()


class PortState:
    """What the share knows of one port channel."""

    def __init__(self, number):
        self.number = number
        self.buf = bytearray()
        self.epoch = self.seq = self.rx_seq = 0
        self.streams = {}
        self.secret = None
        self.seed = None                # of the checks, if frames have them


def portclient():
    return built("portclient", "spice-client-glib-2.0")


def built(name, *packages):
    """Build a program of the tests once per source, shared by all of them."""
    src = os.path.join(TOP, f"selftests/link/{name}.c")
    out = os.path.join(TOP, "build/tests", os.path.basename(name))
    os.makedirs(os.path.dirname(out), exist_ok=True)
    if not os.path.exists(out) or os.path.getmtime(out) < os.path.getmtime(src):
        flags = subprocess.check_output(["pkg-config", "--cflags", "--libs", *packages],
                                        text=True).split() if packages else []
        tmp = f"{out}.{os.getpid()}"
        subprocess.check_call(["gcc", "-O2", "-o", tmp, src, *flags])
        os.rename(tmp, out)
    return out


# The secrets that shares were told, by address and password: the next one on the
# same machine would have it from its predecessor's state.
SECRETS = {}


ERROR_NAMES = {"10": "opened", "11": "switching", "12": "closed", "20": "error-connect",
               "21": "error-tls", "22": "error-link", "23": "error-auth", "24": "error-io"}


class Share:
    """A Spice client and, in mode "serve", a share behind it.

    mode "quiet" is a stock viewer: it links all channels and says nothing;
    "manual" says hello and leaves the rest to the test. secret: of an earlier
    session, None for the one that was heard last, "" for none.
    """

    def __init__(self, uri, password="", mode="serve", offers=(), nbd=None, ca_file=None,
                 caps=0, secret=None):
        self.caps = caps
        self.key = uri, password
        if secret is None:
            secret = SECRETS.get(self.key, "") if password else ""
        self.mode, self.offers, self.nbd = mode, list(offers), nbd
        self.events = queue.Queue()
        self.ports, self.up = {}, set()
        self.lock = threading.RLock()
        self.proc = subprocess.Popen(
            [portclient(), uri, password, ca_file or "", *([secret] if secret else [])],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0,
            stderr=None if os.environ.get("LINKTEST_DEBUG") else subprocess.DEVNULL)
        threading.Thread(target=self.reader, daemon=True).start()

    # the client's pipe

    def read_exact(self, n):
        out = b""
        while len(out) < n:
            part = self.proc.stdout.read(n - len(out))
            if not part:
                raise EOFError
            out += part
        return out

    def reader(self):
        try:
            while True:
                kind, cid, length = struct.unpack("<cII", self.read_exact(9))
                self.got(kind.decode(), cid, self.read_exact(length))
        except EOFError:
            self.events.put(("gone", None, None))

    def got(self, kind, cid, data):
        if kind == "O":
            with self.lock:
                self.drop_port(cid)
                self.ports[cid] = PortState(int(data.decode().rsplit(".", 1)[1]))
            self.events.put(("port", cid, data.decode()))
        elif kind == "E":
            text = ERROR_NAMES.get(data.decode(), data.decode())
            self.events.put((text, cid, None))
        elif kind == "R":
            self.events.put(("again", cid, None))
        elif kind == "X":
            self.events.put(("disconnected", None, None))
        elif kind == "D" and self.mode != "quiet":
            self.frames(cid, data)

    def wait(self, *kinds, timeout=40):
        """The next event of one of these kinds; others are passed over."""
        end = time.monotonic() + timeout
        seen = []
        while True:
            try:
                e = self.events.get(timeout=max(end - time.monotonic(), 0.001))
            except queue.Empty:
                raise Timeout(f"no {kinds} at the client; seen {seen[-8:]}") from None
            if e[0] in kinds:
                return e
            seen.append(e)

    def raw(self, cid, data, kind=b"D"):
        with self.lock:
            try:
                view = memoryview(struct.pack("<cII", kind, cid, len(data)) + data)
                while view:
                    view = view[self.proc.stdin.write(view):]
            except (OSError, ValueError):	# the client was killed
                pass

    # frames

    def frame(self, port, type_, payload=b"", stream=0, seq=None, epoch=None):
        if seq is None:
            seq = port.seq
            port.seq += 1
        checked = port.seed is not None and type_ not in (HELLO, RESYNC)
        frame = HEADER.pack(MAGIC, type_, checked, stream, len(payload) + 8 * checked,
                            port.epoch if epoch is None else epoch, seq) + payload
        return frame + self.check(port, frame) if checked else frame

    @staticmethod
    def check(port, data):
        return xxhash.xxh64_intdigest(data, port.seed).to_bytes(8, "little")

    def send(self, cid, type_, payload=b"", stream=0):
        with self.lock:
            if cid in self.ports:
                self.raw(cid, self.frame(self.ports[cid], type_, payload, stream))

    def drop_port(self, cid):
        old = self.ports.pop(cid, None)
        for st in list(old.streams.values()) if old else ():
            st.close()

    def frames(self, cid, data):
        port = self.ports.get(cid)
        if not port:
            return
        port.buf += data
        while len(port.buf) >= 24:
            magic, type_, flags, stream, length, epoch, seq = HEADER.unpack_from(port.buf)
            assert magic == MAGIC and length <= 65536 - 24, "the link sent no frame"
            if len(port.buf) < 24 + length:
                return
            frame = bytes(port.buf[:24 + length])
            payload = frame[24:]
            del port.buf[:24 + length]
            if type_ == HELLO:
                assert seq == 0 and length == 96 and epoch
                port.rx_seq, port.seed = 0, None
            elif epoch != port.epoch:
                continue
            assert (flags == 1) == (port.seed is not None), "a check, or none, out of place"
            if flags:
                payload = frame[24:-8]
                assert frame[-8:] == self.check(port, frame[:-8]), "a wrong check"
            assert seq == port.rx_seq, f"sequence {seq} instead of {port.rx_seq}"
            port.rx_seq += 1
            self.hear(cid, port, type_, stream, payload, epoch)

    def hear(self, cid, port, type_, stream, payload, epoch):
        if type_ == HELLO:
            for st in port.streams.values():
                st.close()
            port.streams = {}
            port.epoch, port.seq, port.secret = epoch, 0, payload[24:56]
            if self.mode == "mute":
                return
            if self.key[1]:
                SECRETS[self.key] = port.secret[:16].hex()
                self.raw(0, SECRETS[self.key].encode(), b"S")
            self.send(cid, HELLO, hello(epoch, caps=self.caps))
            if self.caps & CAP_CHECKS & payload[4]:
                port.seed = int.from_bytes(payload[48:56], "little")
            for o in self.offers:
                self.send(cid, F_OFFER, o)
            if self.offers:
                self.send(cid, F_OFFERS_END)
            self.events.put(("hello", cid, epoch))
        elif type_ == PING and self.mode != "frozen":
            self.send(cid, PONG, payload)
        elif self.mode == "manual":
            self.events.put(("frame", cid, (type_, stream, payload)))
        elif type_ == F_OPEN:
            _, credit = struct.unpack("<II", payload)
            s = socket.socket(socket.AF_UNIX)
            s.connect(self.nbd)
            self.send(cid, OPENED, struct.pack("<I", Stream.GRANT), stream)
            port.streams[stream] = Stream(self, cid, stream, credit, s)
        elif type_ == DATA:
            port.streams[stream].inbox.put(payload)
        elif type_ == CREDIT:
            port.streams[stream].add_credit(struct.unpack("<I", payload)[0])
        elif type_ == CLOSE:
            st = port.streams.pop(stream, None)
            if st:
                st.send(CLOSE, struct.pack("<I", 0))
                st.close()
            self.events.put(("close", cid, (stream, payload)))
        elif type_ == F_NOTICE:
            self.events.put(("notice", cid, (*struct.unpack("<II", payload[:8]),
                                             payload[8:].decode())))
        elif type_ == BYE:
            self.events.put(("bye", cid, payload))

    def kill(self):
        self.proc.kill()
        self.proc.wait()
        self.close()

    def close(self):
        for cid in list(self.ports):
            self.drop_port(cid)
        with contextlib.suppress(OSError):
            self.proc.stdin.close()
        try:
            self.proc.wait(5)
        except subprocess.TimeoutExpired:
            self.proc.kill()
            self.proc.wait()

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.close()


# ---- an NBD server ----

class Nbdkit:
    def __init__(self, path, *args, readonly=False):
        self.dir = tempfile.mkdtemp(prefix="linktest-nbd.")
        self.sock = os.path.join(self.dir, "nbd")
        self.proc = subprocess.Popen(["nbdkit", "-f", "-U", self.sock,
                                      *(["-r"] if readonly else []), "file", path, *args],
                                     stderr=subprocess.DEVNULL)
        end = time.monotonic() + 10
        while not os.path.exists(self.sock):
            if self.proc.poll() is not None or time.monotonic() > end:
                raise RuntimeError("nbdkit did not start")
            select.select([], [], [], 0.02)

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.proc.kill()
        self.proc.wait()
        shutil.rmtree(self.dir, ignore_errors=True)


def nbd_on(fd):
    import nbd
    h = nbd.NBD()
    h.connect_socket(fd)
    return h


def pattern_file(size, seed=1):
    """A file of bytes that do not repeat, and that are the same every time."""
    import random
    f = tempfile.NamedTemporaryFile(prefix="linktest.", suffix=".img")
    r = random.Random(seed)
    left = size
    while left:
        n = min(left, 1 << 20)
        f.write(r.randbytes(n))
        left -= n
    f.flush()
    return f
