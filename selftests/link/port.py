#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-only
"""address=port: the link on the ports of a virtual machine.

A unix socket stands in place of each port, as QEMU's -chardev socket would be at
the other end of it; what only a real port does is selftests/guest's to test.
"""
import contextlib
import hashlib
import os
import select
import socket
import threading

import linktest as t
from portlink import PortLink


class PortShare(t.Share):
    """A share whose transport is a socket that the link connects to."""

    # the base class's own begins with a Spice client
    # pylint: disable=super-init-not-called
    def __init__(self, path, mode="serve", offers=(), nbd=None, caps=t.CAP_CHECKS):
        self.caps, self.mode, self.offers, self.nbd = caps, mode, list(offers), nbd
        self.events, self.key = t.queue.Queue(), (path, "")
        self.ports, self.up = {}, set()
        self.lock = threading.RLock()
        self.number = int(path.rsplit(".", 1)[1])
        self.path = path
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(path)
        os.chmod(path, 0o666)
        self.listener.listen(1)
        self.conn = None
        self.reads = threading.Event()
        self.reads.set()
        threading.Thread(target=self.reader, daemon=True).start()

    def reader(self):
        while True:
            try:
                conn, _ = self.listener.accept()
            except OSError:
                return
            with self.lock:
                self.drop_port(0)
                self.conn, self.ports[0] = conn, t.PortState(self.number)
            self.events.put(("port", 0, None))
            with contextlib.suppress(OSError):
                while data := conn.recv(65536):
                    self.reads.wait()
                    if self.mode != "quiet":
                        self.frames(0, data)
            self.events.put(("gone", 0, None))
            conn.close()

    def raw(self, cid, data, kind=b"D"):
        with contextlib.suppress(OSError):
            self.conn.sendall(data)

    def hang_up(self):
        with contextlib.suppress(OSError):
            if self.conn:
                self.conn.shutdown(socket.SHUT_RDWR)

    def close(self):
        os.unlink(self.path)
        with contextlib.suppress(OSError):
            self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        self.drop_port(0)
        self.hang_up()


def switches(pid):
    """How often a process went to sleep or lost the processor."""
    n = 0
    with open(f"/proc/{pid}/status", encoding="ascii") as f:
        for line in f:
            if "ctxt_switches" in line:
                n += int(line.split()[1])
    return n


def idle(link):
    pids = [link.proc.pid, link.opener()]
    before = [switches(p) for p in pids]
    select.select([], [], [], 3)
    return sum(switches(p) - b for p, b in zip(pids, before))


def confined(link):
    for pid, who in ((link.proc.pid, "the link"), (link.opener(), "its opener")):
        with open(f"/proc/{pid}/status", encoding="ascii") as f:
            s = dict(line.rstrip("\n").split(":\t", 1) for line in f if ":\t" in line)
        t.ok(s["NoNewPrivs"] == "1" and s["Seccomp"] == "2" and int(s["CapBnd"], 16) == 0 and
             (os.geteuid() or "0" not in s["Uid"].split()), f"{who} has no rights left")
    fds = os.listdir(f"/proc/{link.opener()}/fd")
    t.ok(len(fds) <= 5, f"the opener has its own descriptors only ({len(fds)})")


def data(link, d, image, offers, nbd):
    path = f"{link.prefix}.0"
    with PortShare(path, offers=offers, nbd=nbd) as share:
        share.wait("hello")
        d.expect(t.OFFERS_END)
        t.ok(True, "a port that appears later is opened, and a share there says hello")
        h = t.nbd_on(d.open(0, 1).fd)
        size = h.get_size()
        got = hashlib.sha256()
        for at in range(0, size, 1 << 20):
            got.update(h.pread(min(1 << 20, size - at), at))
        with open(image, "rb") as f:
            t.ok(got.digest() == hashlib.sha256(f.read()).digest(), "16 MiB are read equal")
        block = os.urandom(3 << 20)
        h.pwrite(block, 12345)
        h.flush()
        t.ok(h.pread(len(block), 12345) == block, "3 MiB written are read again")
        share.raw(0, b"not a frame" * 7)
        d.expect(t.PORT_DOWN)
        share.wait("hello")
        d.expect(t.OFFERS_END)
        t.ok(True, "garbage: a new session in the same connection")
        share.hang_up()
        d.expect(t.PORT_DOWN)
        share.wait("hello")
        d.expect(t.OFFERS_END)
        t.ok(True, "the port hangs up: it is opened again, and the share is back")
    d.expect(t.PORT_DOWN)


def moved(pid):
    """What a process has read and written so far, by read() and its kind and by as many of
    them: sockets' own calls do not count, but a port is read like a file."""
    with open(f"/proc/{pid}/io", encoding="ascii") as f:
        return dict(line.split(": ") for line in f.read().splitlines())


def batched(link, d, offers, nbd):
    """A port is slow by the call. One buffer of its driver's is 4 KiB to read and 32 KiB to
    write: on the average more than that goes at once."""
    with PortShare(f"{link.prefix}.0", offers=offers, nbd=nbd) as share:
        share.wait("hello")
        d.expect(t.OFFERS_END)
        h = t.nbd_on(d.open(0, 1).fd)
        for what, fn, piece, calls, count in (
                ("read", lambda at: h.pread(1 << 20, at), 4096, "syscr", "rchar"),
                ("written", lambda at: h.pwrite(bytes(1 << 20), at), 32768, "syscw", "wchar")):
            before = moved(link.proc.pid)
            for i in range(8):
                fn(i << 20)
            after = moved(link.proc.pid)
            n = int(after[calls]) - int(before[calls])
            mean = (int(after[count]) - int(before[count])) // n
            t.ok(mean > piece, f"8 MiB are {what} by {n} calls, {mean} bytes each")
    d.expect(t.PORT_DOWN)


def breaks(link, d):
    with PortShare(f"{link.prefix}.0", mode="manual", offers=[t.offer(1, 512, "m")]) as share:
        share.wait("hello")
        d.expect(t.OFFERS_END)
        share.send(0, t.DATA, b"x", 77)
        frame = share.wait("frame")[2]
        t.ok(frame[0] == t.BYE, "a share that breaks the protocol hears BYE")
        share.wait("gone")
        d.expect(t.PORT_DOWN)
        share.wait("hello")
        d.expect(t.OFFERS_END)
        t.ok(True, "then the port is closed, and opened again")


def missing_bytes(link, d, offers, nbd):
    """As in a migration: no byte of a frame that is not whole reaches the daemon."""
    with PortShare(f"{link.prefix}.0", mode="manual", offers=offers, nbd=nbd) as share:
        share.wait("hello")
        d.expect(t.OFFERS_END)
        for what, cut, whole in (("in the middle", slice(1000, 2000), 0),
                                 ("at the end", slice(-4, None), 2),
                                 ("of a whole frame's length", slice(5000, 5000 + 9032), 0)):
            d.send(t.OPEN, 0, 1, 9)
            while (f := share.wait("frame")[2])[0] != t.F_OPEN:
                pass
            share.send(0, t.OPENED, (1 << 20).to_bytes(4, "little"), f[1])
            stream = socket.socket(fileno=d.expect(t.STREAM).fd)
            stream.settimeout(40)
            share.send(0, t.DATA, b"whole", f[1])
            port = share.ports[0]
            frames = bytearray(b"".join(share.frame(port, t.DATA, bytes(9000), f[1])
                                        for _ in range(3)))
            del frames[cut]
            share.raw(0, bytes(frames) + bytes(65536))
            got = b""
            while data := stream.recv(65536):
                got += data
            t.ok(got == b"whole" + bytes(9000 * whole), f"bytes are missing {what}: what came whole was given, no more")
            stream.close()
            d.expect(t.PORT_DOWN)
            share.wait("hello")
            d.expect(t.OFFERS_END)
        t.ok(True, "and each time a new session")
    d.expect(t.PORT_DOWN)


def unchecked(link, d):
    with PortShare(f"{link.prefix}.0", mode="manual", caps=0) as share:
        bye = share.wait("frame")[2]
        t.ok(bye[0] == t.BYE and bye[2][:4] == b"\2\0\0\0",
             f"a share that does not check its frames is told so: {bye[2][4:].decode()}")
        share.wait("gone")
        share.caps = t.CAP_CHECKS
        share.wait("hello")
        t.ok(d.expect(t.PORT_UP).type == t.PORT_UP, "and one that does is heard")
    d.expect(t.PORT_DOWN)


def stalled(link, d, nbd):
    """One that takes nothing: bounded, and nobody else waits."""
    media = [t.offer(1, 16 << 20, "m")]
    with PortShare(f"{link.prefix}.0", mode="manual", offers=media) as a, \
            PortShare(f"{link.prefix}.1", offers=media, nbd=nbd) as b:
        for _ in range(2):
            d.expect(t.OFFERS_END)
        t.ok(True, "two ports, a session in each")
        d.send(t.OPEN, 0, 1, 9)
        _, stream, _ = a.wait("frame")[2]
        a.send(0, t.OPENED, (16 << 20).to_bytes(4, "little"), stream)
        stuck = socket.socket(fileno=d.expect(t.STREAM).fd)
        stuck.setblocking(False)
        a.reads.clear()
        base, sent = link.rss_kib(), 0
        with contextlib.suppress(BlockingIOError):
            while sent < 16 << 20:
                sent += stuck.send(bytes(1 << 16))
                select.select([], [stuck], [], 1)
        h = t.nbd_on(d.open(1, 1).fd)
        t.ok(len(h.pread(1 << 20, 0)) == 1 << 20, "a port that is stuck does not hold up another")
        t.ok(sent < 4 << 20 and link.rss_kib() - base < 1 << 10,
             f"and takes no more than {sent >> 10} KiB")
        a.reads.set()
        stuck.close()
        while a.wait("frame")[2][0] != t.CLOSE:
            pass
        t.ok(b.ports, "when it takes again, all of it comes")


def main():
    image = t.pattern_file(16 << 20)
    with PortLink("ping-interval=60\nping-timeout=120") as link, t.Nbdkit(image.name) as nbd:
        d = link.daemon()
        d.send(t.ADD_PORT, 0)
        t.ok(link.wait_log("waiting for it"), "a port that is not there is waited for")
        confined(link)
        n = idle(link)
        t.ok(n <= 2, f"waiting costs nothing: woken {n} times in 3 s")
        os.mkdir(os.path.dirname(link.prefix))
        offers = [t.offer(1, 16 << 20, "m")]
        data(link, d, image.name, offers, nbd.sock)
        if os.access(f"/proc/{link.proc.pid}/io", os.R_OK):
            batched(link, d, offers, nbd.sock)
        else:
            t.ok(True, "a port's calls are counted # SKIP only root can look")
        breaks(link, d)
        d.expect(t.PORT_DOWN)
        missing_bytes(link, d, offers, nbd.sock)
        unchecked(link, d)
        d.send(t.ADD_PORT, 1)
        stalled(link, d, nbd.sock)
        d.send(t.DEL_PORT, 0)
        with PortShare(f"{link.prefix}.0"):
            t.ok(not link.wait_log("port 0: opened again", 1), "a port that was removed is left alone")
        with PortShare(f"{link.prefix}.1", offers=offers, nbd=nbd.sock) as share:
            share.wait("hello")
            link.kill()
            share.wait("gone")
            link.start()
            d = link.daemon()
            d.send(t.ADD_PORT, 1)
            share.wait("hello")
            t.ok(True, "kill -9: the next one begins anew in the same port")
            opener = link.opener()
            os.kill(opener, 9)
            t.ok(link.proc.wait(10) == 1, "without its opener the link ends, to be started again")
            link.start()
            d = link.daemon()
            d.send(t.ADD_PORT, 1)
            share.wait("hello")


t.run(main)
