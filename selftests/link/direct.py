#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-only
"""Large DATA frames go from the connection to the daemon's and to nbdkit's socket by
splice(): the data is right, and neither a slow reader nor an end in the middle of a
frame harms more than its own stream."""
# timeout: 300
import contextlib
import json
import os
import random
import signal
import socket
import struct
import subprocess
import sys
import threading
import time

import nbd

import linktest as t

SIZE = 64 << 20
PINGS = "ping-interval=0.5\nping-timeout=2"
STUCK = 4               # s: twice the ping timeout
FRAME = 40000           # bytes of a frame that is large
MEMORY = 24 << 10       # KiB that a hostile share may cost: windows, queues, the kept buffers


class RealShare:
    def __init__(self, link, *args, uri=None):
        self.log = open(os.path.join(link.dir, "share.log"), "a+", encoding="utf-8")
        self.proc = subprocess.Popen(
            [t.SHARE, "--uri", uri or link.uri, "--password-file",
             os.path.join(link.dir, "password"), *args],
            stdout=self.log, stderr=self.log, stdin=subprocess.DEVNULL)

    def servers(self):
        got = set()
        for task in os.listdir(f"/proc/{self.proc.pid}/task"):
            with open(f"/proc/{self.proc.pid}/task/{task}/children", encoding="ascii") as f:
                got |= set(map(int, f.read().split()))
        return got

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        if exc[0] is not None:
            self.log.seek(0)
            for line in self.log.read().splitlines()[-20:]:
                t.diag(line)
        self.proc.kill()
        self.proc.wait()


class Rig:
    """A link, a share that serves a file, and the daemon."""

    def __init__(self, conf=PINGS, seed=3, proxy=None):
        self.stack = contextlib.ExitStack()
        self.file = self.stack.enter_context(t.pattern_file(SIZE, seed))
        with open(self.file.name, "rb") as f:
            self.data = bytearray(f.read())
        self.link = self.stack.enter_context(t.Link(conf, tcp=True, password="x"))
        self.d = self.link.daemon()
        self.d.send(t.ADD_PORT, 0)
        self.proxy = proxy and Proxy(self.link.port, proxy)
        uri = f"spice://127.0.0.1:{self.proxy.port}" if proxy else None
        self.share = self.stack.enter_context(RealShare(self.link, "--read-write",
                                                        self.file.name, uri=uri))
        self.offer = self.d.expect(t.OFFER).offer
        self.d.expect(t.OFFERS_END)
        self.tag = 0

    def fd(self):
        self.tag += 1
        m = self.d.open(0, self.offer, self.tag)
        assert m.type == t.STREAM, m
        return m.fd

    def open(self):
        return t.nbd_on(self.fd())

    def open_with_server(self):
        was = self.share.servers()
        h = self.open()
        return h, (self.share.servers() - was).pop()

    def stays(self):
        return self.d.nothing(t.PORT_DOWN, seconds=0.1)

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.stack.__exit__(*exc)


class Reads:
    """Reads that are under way, of pieces of one size."""

    def __init__(self, h, size, at=0):
        self.h, self.size, self.at, self.bufs = h, size, at, {}

    def more(self, n):
        for _ in range(n):
            b = nbd.Buffer(self.size)
            self.bufs[self.h.aio_pread(b, self.at)] = self.at, b
            self.at = (self.at + self.size) % SIZE

    def finish(self, data, limit=60):
        """Whether all came, and was what it should be."""
        end, right = time.monotonic() + limit, True
        while self.bufs:
            self.h.poll(1000)
            for c in [c for c in self.bufs if self.h.aio_command_completed(c)]:
                at, b = self.bufs.pop(c)
                right = right and b.to_bytearray() == data[at:at + self.size]
            if time.monotonic() > end:
                raise t.Timeout(f"{len(self.bufs)} reads are not answered")
        return right


class Writes(Reads):
    def more(self, n, data):
        for _ in range(n):
            b = nbd.Buffer.from_bytearray(data[self.at:self.at + self.size])
            self.bufs[self.h.aio_pwrite(b, self.at)] = self.at, b
            self.at = (self.at + self.size) % SIZE


def pipes(pid):
    n = 0
    for fd in os.listdir(f"/proc/{pid}/fd"):
        with contextlib.suppress(OSError):
            n += os.readlink(f"/proc/{pid}/fd/{fd}").startswith("pipe:")
    return n


def status(pid, key):
    with open(f"/proc/{pid}/status", encoding="ascii") as f:
        return next(int(line.split()[1]) for line in f if line.startswith(key))


def cpu(pid):
    with open(f"/proc/{pid}/schedstat", encoding="ascii") as f:
        return int(f.read().split()[0]) / 1e9


def ends(h, limit=20):
    """Whether the daemon's end of a stream is told that it is over."""
    end = time.monotonic() + limit
    try:
        while time.monotonic() < end:
            h.poll(500)
            if h.aio_is_dead() or h.aio_is_closed():
                return True
    except nbd.Error:
        return True
    return False


def drop(h):
    """End the daemon's end, with requests under way; libnbd closes it with the handle."""
    with socket.socket(fileno=os.dup(h.aio_get_fd())) as s:
        s.shutdown(socket.SHUT_RDWR)


# ---- reads and writes

def at_depth(h, data, write):
    right = True
    for size, depth in ((64 << 10, 32), (256 << 10, 8), (1 << 20, 8), (100000, 16)):
        kind = (Writes if write else Reads)(h, size)
        for _ in range(8):
            kind.more(depth, *([data] if write else []))
            right = kind.finish(data) and right
    return right


def written(rig):
    with open(rig.file.name, "rb") as f:
        return f.read() == rig.data


def plain():
    with Rig() as rig:
        h = rig.open()
        link, share = rig.link.proc.pid, rig.share.proc.pid
        before = pipes(link), pipes(share)
        t.ok(at_depth(h, rig.data, False),
             "64 KiB to 1 MiB read, several at once: the data is right")
        t.ok(pipes(link) == before[0] + 2 and pipes(share) == before[1],
             "the link has a pipe for it, the share still has none")
        rig.data[:32 << 20] = random.Random(8).randbytes(32 << 20)
        at_depth(h, rig.data, True)
        h.flush()
        t.ok(written(rig), "... written: the data is right")
        t.ok(pipes(share) == before[1] + 2, "the share has a pipe for it")
        t.ok(at_depth(h, rig.data, False), "and is read again")
        t.ok(rig.stays(), "it was one session")


# ---- who does not keep up

def stuck_daemon():
    with Rig() as rig:
        h = rig.open()
        reads = Reads(h, 1 << 20)
        reads.more(32)
        t.ok(rig.d.nothing(t.PORT_DOWN, seconds=STUCK),
             f"a daemon does not read for {STUCK} s: pings go on")
        other = rig.open()
        t.ok(at_depth(other, rig.data, False), "another stream works beside it")
        t.ok(reads.finish(rig.data), "then it reads: all is right")
        # With one stream again, by fits and starts: held up, gone on, each time.
        drop(other)
        right = True
        for n in range(40):
            reads = Reads(h, 256 << 10, n << 20)
            reads.more(16)
            time.sleep((n % 8) * 0.002)
            right = reads.finish(rig.data) and right
        t.ok(right and rig.stays(), "a daemon that reads by fits and starts gets all of it")


def asked_on(rig, h, seconds):
    """Large reads that are not taken, and a small request every millisecond or so."""
    reads, small = Reads(h, 1 << 20), Reads(h, 512, 32 << 20)
    reads.more(32)
    end, n = time.monotonic() + seconds, 0
    while time.monotonic() < end:
        small.more(1)
        n += 1
        time.sleep(0.001)
    up = rig.stays()
    right = reads.finish(rig.data)
    return n, up, small.finish(rig.data) and right


def flood():
    with Rig() as rig:
        n, up, right = asked_on(rig, rig.open(), STUCK)
        t.ok(up, f"{n} requests of a daemon that reads nothing: pings go on")
        t.ok(right, "and all are answered in the end")


def stopped_server():
    with Rig() as rig:
        h, pid = rig.open_with_server()
        new = bytearray(random.Random(9).randbytes(SIZE))
        os.kill(pid, signal.SIGSTOP)
        writes = Writes(h, 1 << 20)
        writes.more(64, new)
        end, up = time.monotonic() + STUCK, True
        while time.monotonic() < end:
            h.poll(100)
            up = up and rig.d.nothing(t.PORT_DOWN, seconds=0.01)
        t.ok(up, f"nbdkit is stopped for {STUCK} s under large writes: pings go on")
        other = rig.open()
        t.ok(at_depth(other, rig.data, False), "another stream works beside it")
        os.kill(pid, signal.SIGCONT)
        writes.finish(new)
        h.flush()
        rig.data[:] = new
        t.ok(written(rig) and rig.stays(), "then it goes on: all is written")


# ---- ends in the middle of a frame

def closed_often():
    with Rig() as rig:
        other, r = rig.open(), random.Random(2)
        mine = Reads(other, 256 << 10)
        right = True
        for n in range(40):
            h = rig.open()
            mine.more(2)
            reads = Reads(h, 1 << 20)
            reads.more(8)
            h.poll(1000)
            time.sleep(r.random() * 0.004)
            drop(h)
            right = mine.finish(rig.data) and right
        t.ok(right, "40 streams are closed in the middle of a frame: one beside them is not harmed")
        t.ok(rig.stays(), "nor the session")
        drop(other)
        for n in range(20):
            h = rig.open()
            reads = Reads(h, 1 << 20)
            reads.more(8)
            if n % 2:
                h.poll(1000)
            time.sleep(r.random() * 0.004)
            drop(h)
        t.ok(at_depth(rig.open(), rig.data, False) and rig.stays(), "20 alone: the next one works")


def killed_server(write):
    what = "write" if write else "read"
    with Rig() as rig:
        other = rig.open()
        mine = Reads(other, 256 << 10)
        right, told = True, 0
        for n in range(6):
            h, pid = rig.open_with_server()
            some = (Writes if write else Reads)(h, 1 << 20, 32 << 20)
            some.more(16, *([rig.data] if write else []))
            h.poll(1000)
            time.sleep(n * 0.002)
            os.kill(pid, signal.SIGKILL)
            told += ends(h)
            mine.more(4)
            right = mine.finish(rig.data) and right
        t.ok(told == 6,
             f"nbdkit is killed in the middle of a large {what}, 6 times: its stream ends")
        t.ok(right and rig.stays(), "another stream and the session stay")
        t.ok(at_depth(rig.open(), rig.data, False), "the next one works")
        t.ok(written(rig), "and nothing is in the file that was not written")


def cut():
    for who in ("share", "link", "share, nobody reading"):
        with Rig() as rig:
            h = rig.open()
            reads = Reads(h, 1 << 20)
            reads.more(32)
            if "nobody" not in who:
                h.poll(1000)
            else:
                time.sleep(0.1)
            if who == "link":
                rig.link.kill()
            else:
                rig.share.proc.kill()
            t.ok(ends(h), f"{who}: killed in the middle of a frame: the daemon's stream ends")
            if who == "link":
                rig.link.start()
                rig.d = rig.link.daemon()
                rig.d.send(t.ADD_PORT, 0)
            else:
                rig.d.expect(t.PORT_DOWN, timeout=20)
                rig.share.proc.wait()
                rig.share = rig.stack.enter_context(
                    RealShare(rig.link, "--read-write", rig.file.name))
            rig.offer = rig.d.expect(t.OFFER).offer
            rig.d.expect(t.OFFERS_END)
            t.ok(at_depth(rig.open(), rig.data, False), f"{who}: the next session works")


# ---- a hostile share

class Hostile:
    """A stream of a share that says what the test wants."""

    def __init__(self, link, d):
        self.link, self.d = link, d
        self.share = t.Share(link.uri, "x", mode="manual", offers=[t.offer(1, 1 << 20, "m")])
        _, self.cid, _ = self.share.wait("hello")
        d.expect(t.OFFERS_END)
        self.port = self.share.ports[self.cid]
        d.send(t.OPEN, 0, 1, 5)
        self.stream, payload = self.heard(t.F_OPEN)
        self.credit = struct.unpack("<II", payload)[1]
        self.share.send(self.cid, t.OPENED, struct.pack("<I", 65536), self.stream)
        self.sock = socket.socket(fileno=d.expect(t.STREAM).fd)
        self.sock.settimeout(40)
        # So that what follows is not there as a whole when it is looked at.
        self.data(*[bytes([n]) * FRAME for n in range(8)])
        assert self.read(8 * FRAME) == b"".join(bytes([n]) * FRAME for n in range(8))

    def heard(self, type_):
        while True:
            _, _, (got, stream, payload) = self.share.wait("frame")
            if got == type_:
                return stream, payload

    def frame(self, payload, **kw):
        return self.share.frame(self.port, t.DATA, payload, kw.pop("stream", self.stream), **kw)

    def raw(self, *messages):
        """Each is a Spice message of its own; they are sent in one go."""
        with self.share.lock:
            for m in messages:
                self.share.raw(self.cid, m)

    def data(self, *payloads):
        self.raw(*[self.frame(p) for p in payloads])

    def read(self, n):
        got = bytearray()
        while len(got) < n:
            part = self.sock.recv(n - len(got))
            if not part:
                break
            got += part
        return bytes(got)

    def close(self):
        self.sock.close()
        self.share.close()
        self.d.expect(t.CLIENT)


def shapes(link, d):
    """Frames that are no Spice messages of their own, which is allowed."""
    h = Hostile(link, d)
    r = random.Random(4)
    want = [r.randbytes(FRAME) for _ in range(12)]
    f = [h.frame(p) for p in want]
    h.raw(f[0][:20000], f[0][20000:], f[1] + f[2], f[3], f[4][:10], f[4][10:], f[5] + f[6][:30000],
          f[6][30000:] + f[7], f[8] + f[9][:24], f[9][24:], f[10][:-1], f[10][-1:], f[11])
    t.ok(h.read(12 * FRAME) == b"".join(want), "frames cut and joined at will: the data is right")
    want = [r.randbytes(r.choice((1, 100, 16359, 16360, 16361, 65512))) for _ in range(200)]
    stream = b"".join(h.frame(p) for p in want)
    cuts = sorted(r.sample(range(len(stream)), 100))
    feeder = threading.Thread(target=h.raw, daemon=True, args=[
        stream[a:b] for a, b in zip([0, *cuts], [*cuts, len(stream)])])
    feeder.start()
    t.ok(h.read(sum(map(len, want))) == b"".join(want), "and at random")
    feeder.join()
    h.close()


def anew(name, link, d, say):
    """What heals by a new session of the same client, as it does for small frames."""
    h = Hostile(link, d)
    say(h)
    d.expect(t.PORT_DOWN)
    h.sock.settimeout(20)
    while h.sock.recv(65536):
        pass
    h.share.wait("hello")
    d.expect(t.OFFERS_END)
    t.ok(link.proc.poll() is None, f"{name}: the stream ends, a new session begins")
    h.close()


def refused(name, link, d, say):
    h = Hostile(link, d)
    say(h)
    d.expect(t.PORT_DOWN)
    h.share.wait("disconnected", "gone", "closed", "error-io")
    t.ok(link.proc.poll() is None, f"{name}: the client is cut")
    h.close()


def too_much(h):
    left = h.credit - 8 * FRAME + 1
    while left > 0:
        h.data(bytes(min(left, 65512)))
        left -= 65512


def short_frame(h):
    f = bytearray(h.frame(bytes(FRAME)))
    struct.pack_into("<I", f, 12, FRAME - 5000)
    h.raw(bytes(f), h.frame(bytes(FRAME)))


def long_frame(h):
    f = bytearray(h.frame(bytes(FRAME)))
    struct.pack_into("<I", f, 12, FRAME + 5000)
    h.raw(bytes(f), *[h.frame(bytes(FRAME)) for _ in range(3)])


def huge_frame(h):
    f = bytearray(h.frame(bytes(70000)))
    h.raw(bytes(f), h.frame(bytes(FRAME)))


def closing(link, d):
    """The daemon closes; frames of before are on their way, and then some."""
    h = Hostile(link, d)
    h.sock.shutdown(socket.SHUT_RDWR)
    h.data(*[bytes(FRAME) for _ in range(20)])
    stream, _ = h.heard(t.CLOSE)
    h.data(*[bytes(FRAME) for _ in range(20)])
    h.share.send(h.cid, t.CLOSE, struct.pack("<I", 0), stream)
    d.send(t.OPEN, 0, 1, 6)
    stream, _ = h.heard(t.F_OPEN)
    h.share.send(h.cid, t.OPENED, struct.pack("<I", 65536), stream)
    with socket.socket(fileno=d.expect(t.STREAM).fd) as s:
        h.sock.close()
        h.sock, h.stream = s, stream
        s.settimeout(20)
        want = random.Random(6).randbytes(FRAME)
        h.data(want, want)
        t.ok(h.read(2 * FRAME) == 2 * want, "large frames of a stream that is being closed are "
             "nobody's, and the next stream works")
        h.close()


def hostile():
    with t.Link("ping-timeout=60", tcp=True, password="x") as link:
        d = link.daemon()
        d.send(t.ADD_PORT, 0)
        shapes(link, d)
        before = status(link.proc.pid, "VmHWM:")
        refused("more than its credit", link, d, too_much)
        refused("an unknown stream", link, d,
                lambda h: h.raw(h.frame(bytes(FRAME), stream=h.stream + 7)))
        anew("a wrong number", link, d, lambda h: h.raw(h.frame(bytes(FRAME), seq=h.port.seq + 1)))
        anew("a number again", link, d, lambda h: h.raw(h.frame(bytes(FRAME), seq=h.port.seq - 1)))
        anew("a frame shorter than its message", link, d, short_frame)
        anew("a frame longer than its message", link, d, long_frame)
        anew("a frame that is too large", link, d, huge_frame)
        closing(link, d)
        grown = status(link.proc.pid, "VmHWM:") - before
        t.ok(grown < MEMORY, f"memory stays in bounds ({before} and {grown} KiB)")


class Proxy:
    """Between a share and its link; once armed, it stops in the middle of a large
    message of the share for act(), which gets the link's socket."""

    def __init__(self, port, act):
        self.to, self.act = ("127.0.0.1", port), act
        self.armed = threading.Event()
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self):
        while True:
            a = self.listener.accept()[0]
            b = socket.create_connection(self.to)
            threading.Thread(target=self.pump, args=(b, a, False), daemon=True).start()
            threading.Thread(target=self.pump, args=(a, b, True), daemon=True).start()

    def pump(self, a, b, up):
        with contextlib.suppress(OSError):
            while data := a.recv(20000):
                if up and len(data) == 20000 and self.armed.is_set():
                    self.armed.clear()
                    b.sendall(data[:10000])
                    time.sleep(0.05)	# it is being moved
                    self.act(b)
                    data = data[10000:]
                b.sendall(data)
        for s in (a, b):
            with contextlib.suppress(OSError):
                s.shutdown(socket.SHUT_RDWR)


@contextlib.contextmanager
def behind_proxy(act):
    with Rig("ping-timeout=60", proxy=act) as rig:
        h = rig.open()
        assert at_depth(h, rig.data, False)
        yield rig, h


def urgent():
    said = threading.Event()

    def say(sock):
        sock.send(b"!", socket.MSG_OOB)
        said.set()

    with behind_proxy(say) as (rig, h):
        Reads(h, 1 << 20).more(4)
        rig.proxy.armed.set()
        threading.Thread(target=ends, args=(h,), daemon=True).start()
        t.ok(said.wait(20), "an urgent byte comes in the middle of a frame")
        used = cpu(rig.link.proc.pid)
        rig.d.nothing(t.PORT_DOWN, seconds=3)
        used = cpu(rig.link.proc.pid) - used
        t.ok(used < 1, f"the link does not look for it all the time ({used:.2f} s of 3)")


def reset():
    """The daemon resets the port while the rest of a frame is still on its way."""
    over = threading.Semaphore(0)
    box = []

    def again(_):
        box[0].d.send(t.RESET_PORT, 0)
        box[0].d.expect(t.PORT_DOWN, timeout=20)
        over.release()

    with behind_proxy(again) as (rig, h):
        box.append(rig)
        right = True
        for _ in range(6):
            reads = Reads(h, 1 << 20)
            reads.more(8)
            rig.proxy.armed.set()
            right = ends(h) and over.acquire(timeout=20) and right
            rig.offer = rig.d.expect(t.OFFER).offer
            rig.d.expect(t.OFFERS_END)
            h = rig.open()
        t.ok(right, "6 resets in the middle of a frame: the streams end")
        t.ok(at_depth(h, rig.data, False) and rig.stays(), "the next session works")
        with open(rig.share.log.name, encoding="utf-8") as f:
            t.ok("the session is closed" not in f.read(), "nothing of the old one was in it")


# ---- one request at a time

def switches(conf):
    """The link's waits for each request, and its processor time when there are no more."""
    with Rig(conf) as rig:
        fd, pid = rig.fd(), rig.link.proc.pid
        with subprocess.Popen(
                [t.built("../bench/nbdload", "libnbd"), "--fd", str(fd), "--op", "read", "--size",
                 "4096", "--depth", "1", "--secs", "0.5", "--file", rig.file.name],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, pass_fds=[fd]) as load:
            os.close(fd)
            load.stdout.readline()
            was = status(pid, "voluntary_ctxt")
            print(file=load.stdin, flush=True)
            load.stdout.readline()
            waits = status(pid, "voluntary_ctxt") - was
            # The stream stays open, and nobody uses it.
            t.select.select([], [], [], 0.5)
            used = cpu(pid)
            t.select.select([], [], [], 2)
            used = cpu(pid) - used
            print(file=load.stdin, flush=True)
            return waits / json.loads(load.stdout.readline())["requests"], used


def busy_poll():
    if len(os.sched_getaffinity(0)) < 2:
        t.ok(True, "busy-poll= # SKIP it is without effect with one processor")
        return
    quiet = "ping-interval=60\nping-timeout=120"
    never, _ = switches(f"{quiet}\nbusy-poll=no")
    # After some looks in vain, as others used the processors, it seldom looks for a while.
    for _ in range(8):
        looks, idle = switches(quiet)
        if looks < never / 2:
            break
    t.ok(looks < never / 2, f"it looks before it sleeps: {looks:.2f} waits for a request of "
         f"4 KiB, {never:.2f} without")
    t.ok(idle < 0.1, f"and when nothing comes any more, it sleeps ({idle * 1000:.1f} ms in 2 s)")


PARTS = {f.__name__: f for f in (plain, stuck_daemon, flood, stopped_server, closed_often, cut,
                                 hostile, urgent, reset, busy_poll)}
PARTS["killed_read"] = lambda: killed_server(False)
PARTS["killed_write"] = lambda: killed_server(True)


def main():
    if not os.access(t.SHARE, os.X_OK):
        print(f"ok 1 - spicebd-share # SKIP {t.SHARE} is not built")
        sys.exit(4)
    for name in sys.argv[1:] or PARTS:
        began = time.monotonic()
        PARTS[name]()
        t.diag(f"{name}: {time.monotonic() - began:.1f} s")


t.run(main)
