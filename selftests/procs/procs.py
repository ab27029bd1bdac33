# SPDX-License-Identifier: GPL-2.0-only
"""What the tests of the programs around spicebdd share: KTAP, a run directory
of their own, the job of spicebd-nbdkit, a small NBD client, and waiting for
events with a bound.
"""
import array
import contextlib
import os
import select
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import time
import traceback

TOP = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
BIN = os.environ.get("SPICEBD_BIN", os.path.join(TOP, "build/bin"))

_results = []
_cleanup = contextlib.ExitStack()
run_dir = None


# ---- KTAP ----

def ok(cond, name, detail=None):
    _results.append(bool(cond))
    if not cond and detail is not None:
        diag(repr(detail))
    print(f"{'ok' if cond else 'not ok'} {len(_results)} - {name}", flush=True)
    return cond


def equal(got, want, name):
    return ok(got == want, name, f"got {got!r}, wanted {want!r}")


def diag(text):
    print("# " + str(text).replace("\n", "\n# "), flush=True)


def skip(name, why):
    _results.append(True)
    print(f"ok {len(_results)} - {name} # SKIP {why}", flush=True)


def main(test, *programs):
    """Run test() with a run directory; a traceback counts as a failure."""
    global run_dir
    print("TAP version 13", flush=True)
    for prog in programs:
        if not os.access(os.path.join(BIN, prog), os.X_OK):
            print(f"ok 1 - {prog} # SKIP it is not built\n1..1")
            sys.exit(4)
    run_dir = tempfile.mkdtemp(prefix="spicebd-")
    os.chmod(run_dir, 0o755)
    os.environ["SPICEBD_RUN_DIR"] = run_dir
    try:
        with _cleanup:
            test()
    except Exception:
        diag(traceback.format_exc())
        ok(False, "no exception")
    finally:
        shutil.rmtree(run_dir, ignore_errors=True)
    print(f"1..{len(_results)}", flush=True)
    sys.exit(0 if all(_results) and _results else 1)


# ---- processes ----

def end(p):
    if p.poll() is None:
        p.send_signal(signal.SIGCONT)
        p.kill()
    p.wait(10)


def spawn(argv, **kw):
    kw.setdefault("stdin", subprocess.DEVNULL)
    p = subprocess.Popen(argv, **kw)
    _cleanup.callback(end, p)
    return p


def run(*argv, env=None, timeout=60):
    return subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, text=True,
                          timeout=timeout, env=dict(os.environ, **(env or {})))


def gone(pid, limit=10):
    """Await the end of a process that need not be a child."""
    try:
        fd = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        return bool(select.select([fd], [], [], limit)[0])
    finally:
        os.close(fd)


def await_true(what, limit=10):
    """For what no event can be had of: look until it is so, at most limit s."""
    until = time.monotonic() + limit
    while True:
        got = what()
        if got or time.monotonic() > until:
            return got
        select.select([], [], [], 0.02)


# ---- spicebd-nbdkit ----

MAGIC = 0x4B424453
FILE, ISO, FAT = 1, 2, 3
STATUS, FENCE, STOP = 1, 2, 3


class Answer:
    def __init__(self, data):
        magic, self.error, self.pid, self.incarnation, text = struct.unpack("<IIi16s228s", data)
        assert magic == MAGIC
        self.text = text.split(b"\0")[0].decode()

    def __repr__(self):
        return f"<error {self.error} pid {self.pid} {self.text!r}>"


def receive(sock, limit=20):
    """One answer, or None at the end of the connection."""
    sock.settimeout(limit)
    data = sock.recv(512)
    return Answer(data) if data else None


def send_job(sock, fd, mode=FILE, read_only=False, threads=0, label=b"", id=None, raw=None):
    id = id or os.urandom(16).hex()
    msg = raw or struct.pack("<IIII33s33s2x", MAGIC, mode, 1 if read_only else 0, threads,
                             id.encode(), label)
    fds = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [fd]))] if fd is not None else []
    sock.sendmsg([msg], fds)
    return id


class Launcher:
    """A spicebd-nbdkit with us as the asker."""

    def __init__(self, what, flags=os.O_RDWR, env=None, **job):
        self.sock, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.proc = spawn([os.path.join(BIN, "spicebd-nbdkit")], close_fds=False,
                          preexec_fn=lambda: os.dup2(theirs.fileno(), 3),
                          stderr=subprocess.DEVNULL, env=dict(os.environ, **(env or {})))
        theirs.close()
        fd = os.open(what, flags) if isinstance(what, str) else what
        self.id = send_job(self.sock, fd, **job)
        if isinstance(what, str) and fd is not None:
            os.close(fd)

    def answer(self):
        return receive(self.sock)

    def path(self, ext):
        return f"{run_dir}/nbdkit/{self.id}.{ext}"

    def control(self):
        s = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        s.connect(self.path("ctl"))
        return s

    def command(self, cmd):
        with self.control() as s:
            s.send(struct.pack("<II", MAGIC, cmd))
            return receive(s)

    def status(self):
        return self.proc.wait(15)


# ---- NBD ----

class Nbd:
    """Just enough of a client to hold a request in flight."""

    def __init__(self, path, limit=20):
        self.s = socket.socket(socket.AF_UNIX)
        self.s.settimeout(limit)
        self.s.connect(path)
        self.handle = 0

    def handshake(self):
        assert self._get(16) == b"NBDMAGICIHAVEOPT"
        self._get(2)
        self.s.sendall(struct.pack(">I", 3))
        self.s.sendall(struct.pack(">QIIIH", 0x49484156454F5054, 7, 6, 0, 0))
        self.size = None
        while True:
            magic, _, kind, length = struct.unpack(">QIII", self._get(20))
            assert magic == 0x3E889045565A9
            data = self._get(length)
            if kind == 3 and struct.unpack(">H", data[:2])[0] == 0:
                self.size, self.flags = struct.unpack(">QH", data[2:12])
            if kind == 1:
                return self
            if kind & 0x80000000:
                raise ConnectionError(f"server says {kind:#x} {data!r}")

    def _get(self, n):
        data = b""
        while len(data) < n:
            got = self.s.recv(n - len(data))
            if not got:
                raise ConnectionError("end")
            data += got
        return data

    def send(self, cmd, offset, length, data=b""):
        self.handle += 1
        self.s.sendall(struct.pack(">IHHQQI", 0x25609513, 0, cmd, self.handle, offset, length) + data)

    def reply(self, length=0):
        magic, error, _ = struct.unpack(">IIQ", self._get(16))
        assert magic == 0x67446698
        return error, self._get(length) if length and not error else b""

    def write(self, offset, data):
        self.send(1, offset, len(data), data)
        return self.reply()[0]

    def read(self, offset, length):
        self.send(0, offset, length)
        error, data = self.reply(length)
        return None if error else data

    def close(self):
        self.s.close()
