#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-only
"""spicebd-export with us as spicebdd: exports, clients, their ends, another
spicebdd, and what strangers may not do."""
import array
import os
import re
import signal
import socket
import stat
import struct
import subprocess
import threading

import nbd

import procs
from procs import await_true, equal, gone, ok

# timeout: 240

MAGIC = 0x58424453
UNIX, INET = 1, 2
ADD, DEL, STREAM, SYNC_BEGIN, SYNC_END, STOP = range(1, 7)
WRITABLE, WRITETHROUGH, HARD = 1, 2, 4
ANSWER, OPEN, CLIENTS = 1, 2, 3
ENOENT, EBUSY, EEXIST = 2, 16, 17


class Backend:
    """nbdkit with a file, as a medium's own server would be"""

    def __init__(self, name, size=8 << 20, fill=None, args=("file",)):
        self.file = f"{procs.run_dir}/{name}"
        with open(self.file, "wb") as f:
            f.truncate(size)
            if fill:
                f.write(fill)
        self.sock = f"{procs.run_dir}/{name}.nbd"
        self.proc = procs.spawn(["nbdkit", "-f", "-U", self.sock, *args, self.file])
        assert await_true(lambda: os.path.exists(self.sock))

    def connect(self):
        s = socket.socket(socket.AF_UNIX)
        s.connect(self.sock)
        return s


class Owner:
    """Answers as spicebdd does, in a thread."""

    def __init__(self, sock, backends):
        self.sock = sock
        self.backends = backends          # number -> Backend, None: never answers
        self.answers = {}
        self.clients = {}
        self.opened = 0
        self.tag = 0
        self.news = threading.Condition()
        self.thread = threading.Thread(target=self.run, daemon=True)
        self.thread.start()

    def run(self):
        while True:
            try:
                data = self.sock.recv(1024)
            except OSError:
                data = b""
            with self.news:
                if not data:
                    self.answers[None] = True
                    self.news.notify_all()
                    return
                magic, event, tag, number, error, clients, text = struct.unpack("<6I228s", data)
                assert magic == MAGIC
                if event == ANSWER:
                    self.answers[tag] = (error, text.split(b"\0")[0].decode())
                elif event == CLIENTS:
                    self.clients[number] = clients
                else:
                    self.opened += 1
                self.news.notify_all()
            if event == OPEN:
                b = self.backends.get(number)
                if b:
                    with b.connect() as s:
                        self.send(STREAM, number, tag=tag, fd=s.fileno())

    def send(self, cmd, number=0, flags=0, name=b"", text=b"", error=0, tag=None, fd=None):
        if tag is None:
            self.tag += 1
            tag = self.tag
        m = struct.pack("<6I4097s4097s2x", MAGIC, cmd, tag, number, flags, error, name, text)
        anc = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [fd]))] if fd is not None else []
        self.sock.sendmsg([m], anc)
        return tag

    def wait(self, tag, limit=20):
        with self.news:
            self.news.wait_for(lambda: tag in self.answers or None in self.answers, limit)
            return self.answers.get(tag)

    def do(self, *a, **kw):
        return self.wait(self.send(*a, **kw))

    def count(self, number, want, limit=20):
        with self.news:
            self.news.wait_for(lambda: self.clients.get(number, 0) == want, limit)
            return self.clients.get(number, 0)


class Server:
    def __init__(self, family=UNIX, path="", host="", port="", most=0, raw=None, env=None):
        self.id = os.urandom(16).hex()
        self.path = path
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.log = open(f"{procs.run_dir}/log", "w+")
        self.proc = procs.spawn([f"{procs.BIN}/spicebd-export"], close_fds=False, stderr=self.log,
                                preexec_fn=lambda: os.dup2(theirs.fileno(), 3),
                                env=dict(os.environ, **(env or {})))
        theirs.close()
        ours.send(raw or struct.pack("<4I33s108s256s32s3x", MAGIC, family, 0, most, self.id.encode(),
                                     path.encode(), host.encode(), port.encode()))
        self.sock = ours

    def answer(self):
        self.sock.settimeout(20)
        data = self.sock.recv(1024)
        self.sock.settimeout(None)
        if not data:
            return None
        f = struct.unpack("<6I228s", data)
        return f[4], f[6].split(b"\0")[0].decode()

    def own(self, backends):
        self.owner = Owner(self.sock, backends)
        return self.owner

    def again(self, backends):
        """another spicebdd"""
        s = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        s.connect(f"{procs.run_dir}/export/{self.id}.ctl")
        self.owner = Owner(s, backends)
        return self.owner

    def said(self):
        self.log.seek(0)
        return self.log.read()

    def children(self):
        out = procs.run("pgrep", "-P", str(self.proc.pid)).stdout
        return [int(p) for p in out.split()]


def client(path, name, **kw):
    h = nbd.NBD()
    h.set_export_name(name)
    h.add_meta_context("base:allocation")
    h.connect_unix(path)
    return h


def fails(fn, *a):
    try:
        fn(*a)
    except nbd.Error as e:
        return e
    return None


def uri(path, name=""):
    return f"nbd+unix:///{name}?socket={path}"


def two_exports():
    a = Backend("a", fill=b"A" * 65536)
    b = Backend("b", fill=b"B" * 65536)
    path = f"{procs.run_dir}/nbd.sock"
    s = Server(path=path)
    equal(s.answer(), (0, ""), "it listens")
    st = os.lstat(path)
    ok(stat.S_ISSOCK(st.st_mode) and stat.S_IMODE(st.st_mode) == 0o600, "on a socket of mode 0600")
    o = s.own({1: a, 2: b})
    equal(o.do(ADD, 1, name=b"first", text=b"what it is"), (0, ""), "an export")
    equal(o.do(ADD, 2, WRITABLE, name=b"../../second"), (0, ""), "another, writable, with a path for a name")
    equal(o.do(ADD, 3, name=b"first")[0], EEXIST, "a name that is in use")
    equal(o.do(ADD, 1, name=b"first"), (0, ""), "the same again")

    r = procs.run("nbdinfo", "--list", uri(path))
    ok(r.returncode == 0 and 'export="first"' in r.stdout and "what it is" in r.stdout and
       'export="../../second"' in r.stdout, "nbdinfo --list shows both, and the description", r)

    c, d = client(path, "first"), client(path, "../../second")
    equal(c.pread(512, 0), b"A" * 512, "the first is read")
    equal(d.pread(512, 0), b"B" * 512, "the second is another medium")
    ok(c.is_read_only() and not d.is_read_only(), "one is read-only, one is not")
    ok(d.can_flush() and d.can_fua() and d.can_trim() and d.can_zero() and d.can_multi_conn() and
       d.can_cache() and d.get_structured_replies_negotiated(), "what the medium's server can, it can",
       r.stdout)
    ok(fails(d.pwrite, b"x", 8 << 20) is not None, "a write beyond the end is an error")
    d.pwrite(b"w" * 4096, 4096, nbd.CMD_FLAG_FUA)
    d.zero(4096, 65536 - 4096)
    d.trim(4096, 0)
    d.cache(4096, 0)
    d.flush()
    with open(b.file, "rb") as f:
        data = f.read(65536)
    ok(data[4096:8192] == b"w" * 4096 and data[-4096:] == bytes(4096), "write, zero and flush reach the file")
    r = fails(c.pwrite, b"x" * 512, 0)
    ok(r is not None and r.errno == "EPERM" or r.errno == "EINVAL", "a write to the read-only one is refused", r)
    equal(o.count(1, 1), 1, "one client of the first")
    equal(o.count(2, 1), 1, "one of the second")
    extents = []
    c.block_status(8 << 20, 0, lambda ctx, off, e, err: extents.extend(e) or 0)
    ok(sum(extents[::2]) == 8 << 20 and extents[1] == 0 and extents[-1] == 3, "holes are told", extents)

    for pid in s.children():
        with open(f"/proc/{pid}/status") as f:
            t = f.read()
        ok(re.search(r"^CapEff:\s0+$", t, re.M) and re.search(r"^CapBnd:\s0+$", t, re.M) and
           re.search(r"^Seccomp:\s2$", t, re.M) and re.search(r"^NoNewPrivs:\s1$", t, re.M),
           "a nbdkit has no capabilities and is shut in", t)

    equal(o.do(DEL, 1), (EBUSY, "still in use"), "a removal with a client is refused")
    equal(c.pread(512, 0), b"A" * 512, "and the client goes on")
    equal(o.do(DEL, 1, HARD), (0, ""), "by force it is not")
    e = fails(c.pread, 512, 0)
    ok(e is not None, "the client's read fails")
    ok(fails(client, path, "first") is not None, "and nobody opens it any more")
    equal(d.pread(512, 4096), b"w" * 512, "a client of the other export notices nothing")
    equal(o.do(DEL, 1)[0], ENOENT, "it is gone")
    d.shutdown()
    equal(o.do(DEL, 2), (0, ""), "a removal right after the client's end is not refused")
    ok("malformed" not in s.said() and "signal" not in s.said(), "no complaint in the log", s.said())
    tag = o.send(STOP)
    equal(o.wait(tag), (0, ""), "stop")
    equal(s.proc.wait(20), 0, "it ends")
    ok(not os.path.exists(path) and os.listdir(f"{procs.run_dir}/export") == [], "nothing is left")


def programs():
    """stock clients, several connections, a whole image"""
    src = Backend("src", size=32 << 20)
    with open(src.file, "r+b") as f:
        for i in range(0, 32, 3):
            f.seek(i << 20)
            f.write(os.urandom(700000))
    dst = Backend("dst", size=32 << 20)
    path = f"{procs.run_dir}/nbd.sock"
    s = Server(path=path)
    s.answer()
    o = s.own({1: src, 2: dst})
    o.do(ADD, 1, name=b"src")
    o.do(ADD, 2, WRITABLE | WRITETHROUGH, name=b"dst")
    r = procs.run("nbdcopy", "--connections=4", uri(path, "src"), uri(path, "dst"), timeout=120)
    equal(r.returncode, 0, f"nbdcopy from one export to another, 4 connections {r.stderr}")
    equal(procs.run("cmp", src.file, dst.file).returncode, 0, "the copy is right")
    r = procs.run("qemu-img", "convert", "-n", "-O", "raw", uri(path, "src"), uri(path, "dst"), timeout=120)
    equal(r.returncode, 0, f"qemu-img convert {r.stderr}")
    equal(procs.run("cmp", src.file, dst.file).returncode, 0, "is right, too")
    r = procs.run("qemu-img", "map", "--output=json", uri(path, "src"))
    ok('"data": false' in r.stdout and '"data": true' in r.stdout, "qemu-img map sees data and holes", r)
    r = procs.run("qemu-io", "-f", "raw", "-c", "write -P 7 1M 64k", "-c", "discard 2M 1M", "-c", "flush",
                  "-c", "read -P 7 1M 64k", uri(path, "dst"))
    ok(r.returncode == 0 and "read 65536/65536" in r.stdout and "failed" not in r.stdout, "qemu-io", r)
    r = procs.run("qemu-io", "-r", "-f", "raw", "-c", "read 0 1M", uri(path, "none"))
    ok(r.returncode != 0, "an export that is not there")
    equal(await_true(lambda: not s.children()), True, "all nbdkits have ended")
    o.send(STOP)
    equal(s.proc.wait(20), 0, "the end")


def another_spicebdd():
    a = Backend("a2", fill=b"A" * 4096)
    path = f"{procs.run_dir}/nbd.sock"
    s = Server(path=path)
    s.answer()
    o = s.own({7: a, 8: a})
    o.do(ADD, 7, name=b"kept")
    o.do(ADD, 8, name=b"dropped")
    c, d = client(path, "kept"), client(path, "dropped")
    s.sock.shutdown(socket.SHUT_RDWR)
    equal(c.pread(512, 0), b"A" * 512, "without spicebdd a client goes on")
    late = []
    t = threading.Thread(target=lambda: late.append(client(path, "kept")))
    t.start()
    ok(await_true(lambda: len(s.children()) == 3) and not late, "one that comes now waits")
    o = s.again({7: a})
    o.send(SYNC_BEGIN)
    o.do(ADD, 7, name=b"kept")
    equal(o.do(SYNC_END), (0, ""), "another spicebdd says what there is")
    t.join(20)
    ok(late and late[0].pread(512, 0) == b"A" * 512, "and the one that waited is served")
    equal(c.pread(512, 0), b"A" * 512, "the client of before, too")
    equal(o.count(7, 2), 2, "both are counted")
    ok(fails(d.pread, 512, 0) is not None, "an export that it does not know has ended")
    a.proc.kill()
    e = fails(c.pread, 512, 0)
    ok(e is not None and e.errno in ("EIO", "ENOTCONN"), "the medium's server dies: an error", e)
    equal(o.count(7, 0), 0, "and the connections end")
    o.backends[7] = b = Backend("b2", fill=b"B" * 4096)
    c = client(path, "kept")
    children = s.children()
    procs.end(s.proc)
    ok(os.path.exists(path), "killed, it leaves its socket's file")
    ok(children and all(gone(p) for p in children), "but no nbdkit", children)
    ok(fails(c.pread, 512, 0) is not None, "and no connection")
    s2 = Server(path=path)
    equal(s2.answer(), (0, ""), "another one takes its place")
    s2.own({})
    s2.proc.send_signal(signal.SIGTERM)
    equal(s2.proc.wait(20), 0, "a signal ends it in order")
    ok(not os.path.exists(path), "without a file left")


def addresses():
    path = f"{procs.run_dir}/precious"
    with open(path, "w") as f:
        f.write("data")
    s = Server(path=path)
    r = s.answer()
    ok(r[0] and "no socket" in r[1], "a file in the socket's place is refused", r)
    equal(s.proc.wait(20), 1, "and it ends")
    with open(path) as f:
        equal(f.read(), "data", "and the file is what it was")
    s = Server(path="/nonexistent/x")
    ok("Failed to bind socket to /nonexistent/x: No such file" in s.answer()[1], "a path that is not there")
    s = Server(raw=b"x" * 445)
    ok("malformed" in s.answer()[1], "a job that makes no sense")

    taken = socket.socket()
    taken.bind(("127.0.0.1", 0))
    taken.listen()
    port = taken.getsockname()[1]
    s = Server(INET, host="127.0.0.1", port=str(port))
    r = s.answer()
    ok(r[0] and "Address already in use" in r[1], "a TCP port that is taken", r)
    taken.close()
    a = Backend("a3", fill=b"A" * 4096)
    s = Server(INET, host="127.0.0.1", port=str(port))
    equal(s.answer(), (0, ""), "TCP")
    o = s.own({1: a})
    o.do(ADD, 1, name=b"x")
    h = nbd.NBD()
    h.set_export_name("x")
    h.connect_tcp("127.0.0.1", str(port))
    equal(h.pread(512, 0), b"A" * 512, "is served")
    h.shutdown()
    o.send(STOP)
    equal(s.proc.wait(20), 0, "the end")
    s = Server(path=f"{procs.run_dir}/moved")
    s.answer()
    o = s.own({})
    os.rename(f"{procs.run_dir}/moved", f"{procs.run_dir}/elsewhere")
    with open(f"{procs.run_dir}/moved", "w"):
        pass
    o.send(STOP)
    s.proc.wait(20)
    ok(os.path.exists(f"{procs.run_dir}/moved"), "a file put into its socket's place stays")


def strangers():
    a = Backend("a4", fill=b"A" * 4096)
    path = f"{procs.run_dir}/nbd.sock"
    s = Server(path=path, most=2)
    s.answer()
    o = s.own({1: a, 2: None})
    o.do(ADD, 1, name=b"x")
    o.do(ADD, 2, name=b"slow")
    c, d = client(path, "x"), client(path, "x")
    e = socket.socket(socket.AF_UNIX)
    e.settimeout(0.3)
    e.connect(path)
    try:
        got = e.recv(8)
    except TimeoutError:
        got = None
    equal(got, None, "max-connections: a third client waits")
    d.shutdown()
    e.settimeout(20)
    equal(e.recv(8), b"NBDMAGIC", "until one has gone")
    e.sendall(os.urandom(4096))
    e.settimeout(20)
    try:
        while e.recv(4096):
            pass
    except ConnectionError:
        pass
    equal(c.pread(512, 0), b"A" * 512, "garbage from one does not disturb another")
    for name in ("\x01\x1b[31m", "x" * 4096, "%s%n", ".."):
        ok(fails(client, path, name) is not None, f"no export {name[:8]!r}")
    ok("\x1b" not in s.said(), "and no escape sequence in the log")
    slow = subprocess.Popen(["nbdinfo", uri(path, "slow")], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    ok(await_true(lambda: o.opened >= 3), "a medium that does not come")
    equal(c.pread(512, 0), b"A" * 512, "keeps nobody else")
    equal(o.do(DEL, 2, HARD), (0, ""), "and can be removed")
    ok(slow.wait(20) != 0, "which its client is told")
    c.shutdown()
    o.send(STOP)
    equal(s.proc.wait(20), 0, "the end")


def test():
    two_exports()
    programs()
    another_spicebdd()
    addresses()
    strangers()


procs.main(test, "spicebd-export", "nbdkit-spicebd-plugin.so")
