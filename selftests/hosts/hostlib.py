# SPDX-License-Identifier: GPL-2.0-only
"""Two hosts in one machine: two supervisors with a run directory and a range of drives
each, a listener each, one share, and a proxy on every way between them that can hold
what it is told to hold."""
import errno
import json
import mmap
import os
import re
import shutil
import signal
import socket
import struct
import subprocess
import tempfile
import threading
import time

LIMIT = 90
BLOCK = 4096
SIZE = 4 << 20


def until(test, what, limit=LIMIT):
    end = time.monotonic() + limit
    while True:
        found = test()
        if found:
            return found
        if time.monotonic() > end:
            raise AssertionError(f"not within {limit} s: {what() if callable(what) else what}")
        time.sleep(0.1)


def same(got, want, what):
    if got != want:
        raise AssertionError(f"{what}: {got!r}, not {want!r}")


def line_of(e):
    tb = e.__traceback__
    while tb.tb_next and "hosts" in tb.tb_next.tb_frame.f_code.co_filename:
        tb = tb.tb_next
    return f"{os.path.basename(tb.tb_frame.f_code.co_filename)}:{tb.tb_lineno}"


class Tap:
    def __init__(self):
        self.n = self.failed = 0

    def test(self, name, fn, *args):
        began = time.monotonic()
        self.n += 1
        try:
            fn(*args)
            print(f"# {time.monotonic() - began:.1f} s\nok {self.n} - {name}", flush=True)
        except Exception as e:		# whatever goes wrong in a test fails it
            self.failed += 1
            text = str(e).replace("\n", "\n# ")
            print(f"# {type(e).__name__} at {line_of(e)}: {text}\nnot ok {self.n} - {name}",
                  flush=True)

    def end(self):
        print(f"1..{self.n}")
        return 1 if self.failed else 0


# ---- what passes between them, and what is held

def frames(verb, kind=15):
    """Begins a MOVE (or, of kind 17, a MOVE_STATE) of this verb (or result)."""
    return re.compile(b"SBDF" + struct.pack("<H", kind) + b".{18}" + struct.pack("<I", verb), re.S)


COMMIT, CANCEL, ACCEPT, BEGIN = frames(2), frames(3), frames(4), frames(1)
READY, GRANTED, OVER = frames(2, 17), frames(3, 17), frames(4, 17)


def message(name):
    return re.compile(b'"message":"' + name.encode() + b'"')


class Half(threading.Thread):
    """One direction of one connection."""

    def __init__(self, proxy, src, dst):
        super().__init__(daemon=True)
        self.proxy, self.src, self.dst, self.tail = proxy, src, dst, b""
        self.start()

    def run(self):
        try:
            while True:
                data = self.src.recv(65536)
                if not data:
                    break
                if self.proxy:
                    self.proxy.look(self, data)
                self.dst.sendall(data)
        except OSError:
            pass
        for s in (self.src, self.dst):
            try:
                s.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass


class Proxy:
    """A unix socket before another. hold(): from what matches on, nothing passes in that
    direction before go(); cut(): all connections end, and no more are taken until open()."""

    def __init__(self, path, target):
        self.path, self.target = path, target
        self.pattern, self.held, self.gate = None, threading.Event(), threading.Event()
        self.gate.set()
        self.pairs, self.closed = [], False
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(path)
        self.listener.listen(32)
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self):
        while True:
            try:
                a, _ = self.listener.accept()
            except OSError:
                return
            b = socket.socket(socket.AF_UNIX)
            try:
                if self.closed:
                    raise OSError(errno.ECONNREFUSED, "closed")
                b.connect(self.target)
            except OSError:
                a.close()
                b.close()
                continue
            self.pairs.append((a, b))
            Half(self, a, b)
            Half(self, b, a)

    def look(self, half, data):
        text = half.tail + data
        half.tail = text[-512:]
        if self.pattern and self.pattern.search(text):
            self.pattern = None
            self.held.set()
        if self.held.is_set():
            self.gate.wait()

    def hold(self, pattern):
        self.held.clear()
        self.gate.clear()
        self.pattern = pattern

    def wait(self):
        if not self.held.wait(LIMIT):
            raise AssertionError("what was to be held never came")

    def go(self):
        self.pattern = None
        self.held.clear()
        self.gate.set()

    def cut(self):
        self.closed = True
        for pair in self.pairs:
            for s in pair:
                try:
                    s.shutdown(socket.SHUT_RDWR)
                except OSError:
                    pass
        self.pairs = []
        self.go()

    def open(self):
        self.closed = False


# ---- a host

def qmp(run, command, **args):
    """One command to the spicebdd of that run directory; its answer."""
    with socket.socket(socket.AF_UNIX) as s:
        s.settimeout(LIMIT)
        s.connect(f"{run}/control.sock")
        f = s.makefile("rw")
        f.readline()
        for c, a in (("qmp_capabilities", {}), (command, args)):
            f.write(json.dumps({"execute": c, "arguments": a}) + "\n")
            f.flush()
            while True:
                answer = json.loads(f.readline())
                if "event" not in answer:
                    break
        return answer


class Host:
    def __init__(self, work, name, first, last, port=None, wait=None):
        self.name, self.run, self.port = name, f"{work}/{name}", port
        self.first, self.last = first, last
        os.mkdir(self.run)
        self.env = dict(os.environ, SPICEBD_RUN_DIR=self.run, SPICEBD_DRIVES=f"{first}-{last}")
        if wait:
            self.env["SPICEBD_MIGRATE_WAIT"] = str(wait)
        self.log = open(f"{work}/{name}.log", "w+")
        self.supervisor = subprocess.Popen(["spicebd-supervisor"], env=self.env,
                                           stdin=subprocess.DEVNULL, stdout=self.log,
                                           stderr=self.log)
        until(lambda: os.path.exists(f"{self.run}/migrate.sock"), f"{name}: spicebdd listens")
        if port:
            self.password = f"{self.run}/password"
            with open(os.open(self.password, os.O_CREAT | os.O_WRONLY, 0o600), "w",
                      encoding="utf8") as f:
                f.write(f"password of {name}\n")
            self.ctl("listen", f"127.0.0.1:{port}", "--password-file", self.password)
        else:
            self.ctl("listen", f"unix:{self.run}/spice.sock")
            until(lambda: os.path.exists(f"{self.run}/spice.sock"), f"{name}: the link listens")
        self.spice = Proxy(f"{self.run}/spice.proxy", f"{self.run}/spice.sock")
        self.stream = Proxy(f"{self.run}/migrate.proxy", f"{self.run}/migrate.sock")

    def ctl(self, *args, ok=True):
        p = subprocess.run(["spicebdctl", *args], env=self.env, stdin=subprocess.DEVNULL,
                           capture_output=True, text=True, timeout=LIMIT * 3, check=False)
        if ok and p.returncode:
            raise AssertionError(f"{self.name}: {' '.join(args)}: {p.stderr.strip()}")
        return p

    def qmp(self, command, **args):
        return qmp(self.run, command, **args)

    def pid(self):
        for p in os.listdir("/proc"):
            if not p.isdigit():
                continue
            try:
                with open(f"/proc/{p}/cmdline", "rb") as f:
                    program = os.path.basename(f.read().split(b"\0")[0])
                with open(f"/proc/{p}/stat", encoding="latin1") as f:
                    parent = int(f.read().rpartition(")")[2].split()[1])
            except OSError:
                continue
            if program == b"spicebdd" and parent == self.supervisor.pid:
                return int(p)
        return None

    def kill(self):
        """kill -9; the supervisor starts another."""
        old = until(self.pid, "spicebdd runs")
        os.kill(old, signal.SIGKILL)
        return old

    def back(self, old):
        until(lambda: self.pid() not in (None, old), "a new spicebdd")

        def answers():
            try:
                return "return" in self.qmp("spicebd-query")
            except (OSError, ValueError):
                return False
        until(answers, "the new spicebdd answers")

    def drives(self):
        """Its own, as its spicebdd tells them."""
        try:
            return {d["index"]: d for d in self.qmp("spicebd-query")["return"]}
        except (OSError, ValueError, KeyError):
            return {}

    def migrations(self):
        try:
            return self.qmp("spicebd-query-migrate")["return"]
        except (OSError, ValueError, KeyError):
            return []

    def migration(self, direction):
        return next((m for m in reversed(self.migrations()) if m["direction"] == direction), None)

    def with_medium(self):
        return [d for d in self.drives().values() if d["medium"]]

    def end(self):
        self.supervisor.terminate()
        self.supervisor.wait(LIMIT)


class Share:
    """spicebd-share, whose nbdkits write down every request with their pids."""

    def __init__(self, work, files, args=("--read-write",)):
        self.work, self.files, self.args = work, files, args
        self.bin, self.p = f"{work}/bin", None
        self.state = f"{work}/state"
        os.makedirs(self.bin, exist_ok=True)
        real = shutil.which("nbdkit")
        with open(f"{self.bin}/nbdkit", "w", encoding="utf8") as f:
            f.write("#!/bin/sh\nlast=\nfor a; do case $a in --filter=exportname) "
                    "set -- \"$@\" --filter=log;; esac; set -- \"$@\" \"$a\"; shift; done\n"
                    f"exec {real} \"$@\" logfile={work}/nbd.$$\n")
        os.chmod(f"{self.bin}/nbdkit", 0o755)

    def start(self, host):
        if not host.port:
            where = ["--uri", f"spice+unix://{host.spice.path}"]
        else:
            where = ["--uri", f"spice://{getattr(host, 'address', '127.0.0.1')}:{host.port}",
                     "--password-file", host.password]
        self.log = f"{self.work}/share.log"
        with open(self.log, "a", encoding="utf8") as log:
            self.p = subprocess.Popen(
                ["spicebd-share", *where, "--wait", "--debug", "--json", *self.args, *self.files],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                env=dict(os.environ, PATH=f"{self.bin}:{os.environ['PATH']}",
                         XDG_STATE_HOME=self.state))

    def kill(self):
        self.p.kill()
        self.p.wait(LIMIT)

    def end(self):
        if self.p and self.p.poll() is None:
            self.p.terminate()
            self.p.wait(LIMIT)

    def text(self):
        with open(self.log, encoding="utf8", errors="replace") as f:
            return f.read()

    def pids(self):
        return {int(p): int(d) for d, p in
                re.findall(r"drive (\d+): nbdkit (\d+) serves", self.text())}

    def writes(self):
        """(begin, end, drive) of every write that a server was asked for, in order. One that
        its server did not live to answer has no end."""
        pids, found = self.pids(), []
        for name in os.listdir(self.work):
            if name.startswith("nbd."):
                found += [(*w, pids[int(name[4:])]) for w in logged(f"{self.work}/{name}")]
        return sorted(found)

    def writers(self):
        """(begin, end, host) of every write; a host's drives tell which it is."""
        return [(b, e, "b" if d >= 16 else "a") for b, e, d in self.writes()]


def logged(path):
    """(begin, end) of the writes in the log of an nbdkit."""
    begun, done = {}, []
    with open(path, encoding="utf8") as f:
        for line in f:
            m = re.match(r"(\S+ \S+) .*?connection=(\d+) (\.\.\.)?Write id=(\d+) ", line)
            if not m:
                continue
            when, key = m[1], (m[2], m[4])
            if not m[3]:
                begun[key] = when
            else:
                done.append((begun.pop(key), when))
    return done + [(b, "") for b in begun.values()]


class Server:
    """In the share's place, a plain NBD server that both hosts reach. Behind its socket each
    host has an nbdkit of its own on the one file, which writes down what that host writes.
    @paths: the file, by host, for a test in which there are two."""

    def __init__(self, work, paths, read_only=False):
        self.socket, self.work, self.p = f"{work}/nbd.sock", work, {}
        for host, path in paths.items():
            self.p[host] = subprocess.Popen(
                ["nbdkit", "-f", *["-r"] * read_only, "-U", f"{self.socket}.{host}",
                 "--filter=log", "file", path, f"logfile={work}/server.{host}"],
                stdin=subprocess.DEVNULL)
        until(lambda: all(os.path.exists(f"{self.socket}.{h}") for h in "ab"), "nbdkit listens")
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(self.socket)
        self.listener.listen(32)
        threading.Thread(target=self.accept, daemon=True).start()
        self.uri = f"nbd+unix:///?socket={self.socket}"

    @staticmethod
    def host_of(sock):
        """Whose run directory the one who has connected works in."""
        pid = struct.unpack("iii", sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))[0]
        with open(f"/proc/{pid}/environ", "rb") as f:
            found = re.search(rb"(?:^|\0)SPICEBD_RUN_DIR=[^\0]*/([ab])(?:\0|$)", f.read())
        return found[1].decode()

    def accept(self):
        while True:
            try:
                client, _ = self.listener.accept()
            except OSError:
                return
            server = socket.socket(socket.AF_UNIX)
            try:
                server.connect(f"{self.socket}.{self.host_of(client)}")
            except (OSError, TypeError) as e:	# the connection is refused, and told of
                print(f"# the server refuses somebody: {e}", flush=True)
                client.close()
                server.close()
                continue
            Half(None, client, server)
            Half(None, server, client)

    def writers(self):
        """As Share's."""
        return sorted((*w, h) for h in "ab" for w in logged(f"{self.work}/server.{h}"))

    def end(self):
        self.listener.shutdown(socket.SHUT_RDWR)
        for p in self.p.values():
            p.kill()		# it waits for its clients else
            p.wait(LIMIT)


def turns(writers):
    """Who wrote, by turns. A turn that begins before each write of the one before was
    answered is not one."""
    found, latest = [], ""
    for begin, end, host in writers:
        if not found or found[-1] != host:
            if begin < latest:
                raise AssertionError(f"{host} writes at {begin}, and the one before it until "
                                     f"{latest}")
            found.append(host)
        latest = max(latest, end)
    return found


# ---- somebody who uses a drive

class Writer(threading.Thread):
    """Writes numbered blocks, one after the other, as long as that works. What was
    acknowledged counts."""

    def __init__(self, device, tag, done=None):
        super().__init__(daemon=True)
        self.fd = os.open(device, os.O_RDWR | os.O_DIRECT)
        self.tag, self.done, self.n = tag, done if done is not None else {}, 0
        self.error, self.stop = None, False
        self.buf = mmap.mmap(-1, BLOCK)
        self.start()

    def run(self):
        try:
            while not self.stop:
                block = self.n % (SIZE // BLOCK)
                text = f"{self.tag} {self.n:08d} ".encode().ljust(64, b".")
                self.buf[:] = text * (BLOCK // 64)
                os.pwrite(self.fd, self.buf, block * BLOCK)
                self.done[block] = text
                self.n += 1
                time.sleep(0.005)
        except OSError as e:
            self.error = e.errno

    def some(self, count=5):
        """So many more are acknowledged."""
        want = self.n + count
        until(lambda: self.n >= want or self.error,
              lambda: f"{self.tag} writes: {self.n}, {self.error}")
        if self.error:
            raise AssertionError(f"{self.tag}: the write failed: {os.strerror(self.error)}")

    def fails(self):
        until(lambda: self.error, "the write fails")
        if self.error not in (errno.EIO, errno.ENOMEDIUM, errno.ENODEV, errno.ENOSPC):
            raise AssertionError(f"a write fails with {os.strerror(self.error)}")

    def end(self):
        self.stop = True
        self.join(LIMIT)
        if self.is_alive():
            raise AssertionError(f"a write of {self.tag} does not end")
        if self.fd >= 0:
            os.close(self.fd)
        self.fd = -1


class Uevents(threading.Thread):
    """Media changes that the kernel told of: device names, one each."""

    def __init__(self):
        super().__init__(daemon=True)
        self.s = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 15)
        self.s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
        self.s.bind((0, 1))
        self.seen = []
        self.start()

    def run(self):
        while True:
            words = self.s.recv(65536).split(b"\0")
            if b"DISK_MEDIA_CHANGE=1" in words:
                self.seen += [w[8:].decode() for w in words if w.startswith(b"DEVNAME=")]

    def count(self, device, begin=0):
        return self.seen[begin:].count(os.path.basename(device))


def all_there(path, done):
    with open(path, "rb") as f:
        for block, text in done.items():
            f.seek(block * BLOCK)
            got = f.read(64)
            if got != text:
                raise AssertionError(f"block {block} has {got!r}, not {text!r}")


def work_dir():
    return tempfile.mkdtemp(prefix="hosts-")
