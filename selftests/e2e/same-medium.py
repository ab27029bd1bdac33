#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-only
# timeout: 1500
"""The far end is lost and comes back: as the same medium, which goes on, or as
another one, which never passes for the old one. Each store has bytes that no other
has, and every byte that is read is looked at."""
import errno
import json
import mmap
import os
import secrets
import signal
import subprocess
import sys
import tempfile
import threading
import time

import fakelink

LIMIT = 90
SIZE, BLOCK = 1 << 20, 4096
RUN = "/run/spicebd"


def sh(*cmd):
    p = subprocess.run(cmd, stdin=subprocess.DEVNULL, capture_output=True, text=True,
                       timeout=LIMIT, check=False)
    if p.returncode:
        raise AssertionError(f"{' '.join(cmd)}: {p.stderr.strip()}")
    return p.stdout.strip()


def same(got, want, what):
    if got != want:
        raise AssertionError(f"{what}: {got!r}, not {want!r}")


def until(test, what):
    end = time.monotonic() + LIMIT
    while True:
        found = test()
        if found:
            return found
        if time.monotonic() > end:
            raise AssertionError(f"not within {LIMIT} s: {what}")
        time.sleep(0.05)


def content(tag, block):
    return f"{tag} {block:08d} ".encode().ljust(32, b".") * (BLOCK // 32)


def make(path, tag, size=SIZE):
    with open(path, "wb") as f:
        for b in range(size // BLOCK):
            f.write(content(tag, b))
    return path


def pread(fd, block):
    buf = mmap.mmap(-1, BLOCK)
    got = os.preadv(fd, [buf], block * BLOCK)
    if not got:
        raise OSError(errno.ENOMEDIUM, "the end of an empty drive")
    same(got, BLOCK, "bytes read")
    return buf[:]


def pwrite(fd, block, data):
    buf = mmap.mmap(-1, BLOCK)
    buf[:] = data
    same(os.pwrite(fd, buf, block * BLOCK), BLOCK, "bytes written")


def fails(fn, *args):
    """The error of a call, or 0."""
    try:
        fn(*args)
    except OSError as e:
        return e.errno
    return 0


class Later(threading.Thread):
    """A call that may take long; its result or error."""

    def __init__(self, fn, *args):
        super().__init__(daemon=True)
        self.call, self.result, self.error = (fn, args), None, None
        self.start()

    def run(self):
        try:
            self.result = self.call[0](*self.call[1])
        except OSError as e:
            self.error = e

    def end(self):
        self.join(LIMIT)
        if self.is_alive():
            raise AssertionError("a request does not end")
        return self


class Drive:
    """One with a medium in it, and an open descriptor."""

    def __init__(self, source, tag, *args, size=SIZE):
        self.device = sh("spicebdctl", "add", "disk", "--queues", "2")
        self.index = int(self.device.removeprefix("/dev/spicebd"))
        sh("spicebdctl", "insert", str(self.index), source, *args)
        self.fd, self.generation = -1, 0
        self.is_there(tag, size)
        self.errors = self.status()["stats"]["errors"]

    def status(self):
        p = subprocess.run(["spicebdctl", "status", str(self.index), "--json"],
                           capture_output=True, text=True, timeout=LIMIT, check=False)
        return json.loads(p.stdout) if p.returncode == 0 else {}

    def state(self, want):
        until(lambda: self.status().get("state") == want, f"state {want}: {self.status()}")

    def open(self):
        mode = os.O_RDONLY if self.status()["medium"]["read-only"] else os.O_RDWR
        self.fd = os.open(self.device, mode | os.O_DIRECT)

    def close(self):
        os.close(self.fd)
        self.fd = -1

    def is_there(self, tag, size=SIZE):
        """This store, all of it, and nothing else."""
        if self.fd < 0:
            self.open()
        same(os.lseek(self.fd, 0, os.SEEK_END), size, "size")
        for b in range(size // BLOCK):
            if pread(self.fd, b) != content(tag, b):
                raise AssertionError(f"block {b} has {pread(self.fd, b)[:32]!r}, not {tag}")
        self.generation = self.status()["generation"]

    def goes_on(self, tag):
        """The same medium as before: nobody was told of another, no request failed."""
        self.state("ready")
        before = self.generation
        self.is_there(tag)
        same(self.generation, before, "generation")
        same(self.status()["stats"]["errors"], self.errors, "failed requests")

    def replaced(self, waiting, tag, size=SIZE, meanwhile=lambda: None):
        """What waited failed, the old one is out, the new one comes once it is closed."""
        same(waiting.end().error and waiting.error.errno, errno.EIO, "the request that waited")
        until(lambda: self.status().get("medium", 1) is None, "the old one is out")
        reason = self.status()["reason"]
        print(f"# {reason}")
        if fails(pread, self.fd, 0) not in (errno.EIO, errno.ENOMEDIUM):
            raise AssertionError("who has the old one open can read")
        old = self.generation
        self.close()
        meanwhile()
        self.state("ready")
        self.is_there(tag, size)
        if self.generation == old:
            raise AssertionError("nobody is told of another medium")

    def end(self):
        if self.fd >= 0:
            self.close()
        until(lambda: subprocess.run(["spicebdctl", "eject", str(self.index)], check=False,
                                     capture_output=True).returncode == 0, "eject")
        until(lambda: subprocess.run(["spicebdctl", "del", str(self.index)], check=False,
                                     capture_output=True).returncode == 0, "del")


class Case:
    """A fake link with one medium, and a drive that has it."""

    def __init__(self, work, link, durable=True, read_only=False):
        self.link, self.tag = link, secrets.token_hex(4)
        self.path = f"{work}/{self.tag}"
        self.medium = fakelink.Medium(make(self.path, self.tag), "disk.img", durable, read_only)
        link.boot = secrets.token_bytes(16)
        link.up(self.medium)
        until(lambda: "disk.img" in sh("spicebdctl", "media", "--json"), "it is offered")
        self.drive = Drive("spice:fake/disk.img", self.tag,
                           *([] if read_only else ["--read-write"]))

    def lose(self):
        self.link.down()
        self.drive.state("reconnecting")
        return Later(pread, self.drive.fd, 5)

    def other(self, tag, size=SIZE):
        m = fakelink.Medium(make(f"{self.path}.other", tag, size), "disk.img",
                            self.medium.durable, self.medium.read_only)
        m.id = self.medium.id
        m.incarnation = self.medium.incarnation
        return m

    def end(self):
        self.drive.end()
        self.link.down()


def the_same(c):
    waiting = c.lose()
    c.link.up(c.medium)
    same(waiting.end().result, content(c.tag, 5), "the read that waited")
    c.drive.goes_on(c.tag)


def durable_incarnation(c):
    waiting = c.lose()
    c.medium.incarnation = secrets.token_bytes(16)
    c.link.instance = secrets.token_bytes(16)
    c.link.up(c.medium)
    same(waiting.end().result, content(c.tag, 5), "the read that waited")
    c.drive.goes_on(c.tag)


def volatile_incarnation(c):
    waiting = c.lose()
    m = c.other("volatile")
    m.incarnation = secrets.token_bytes(16)
    c.link.up(m)
    c.drive.replaced(waiting, "volatile")


def another(c):
    waiting = c.lose()
    m = c.other("another!")
    m.id = secrets.token_bytes(16)
    c.link.up(m)
    c.drive.replaced(waiting, "another!")


def another_late(c):
    """Its server does not answer yet when the drive is free for it."""
    waiting = c.lose()
    m = c.other("late")
    m.id = secrets.token_bytes(16)
    c.link.refuse_streams = True
    c.link.up(m)

    def refused():
        before = c.link.refused
        until(lambda: c.link.refused > before, "it is tried")
        c.link.refuse_streams = False
    c.drive.replaced(waiting, "late", meanwhile=refused)


def smaller(c):
    waiting = c.lose()
    c.link.up(c.other("smaller!", SIZE // 2))
    c.drive.replaced(waiting, "smaller!", SIZE // 2)


def write_one(c):
    pwrite(c.drive.fd, 3, content(c.tag, 3))


def reboot(c):
    c.link.down()
    c.drive.state("reconnecting")
    c.link.boot, c.link.instance = secrets.token_bytes(16), secrets.token_bytes(16)


def lost_writes_are_told(c):
    """By one flush that fails, and by the drive."""
    reason = c.drive.status().get("reason") or ""
    same("flush" in reason, True, f"the drive says it before: {reason!r}")
    same(fails(os.fsync, c.drive.fd), errno.EIO, "the flush")
    reason = c.drive.status().get("reason") or ""
    print(f"# {reason}")
    same("lost" in reason, True, f"the drive says it: {reason!r}")
    write_one(c)
    same(fails(os.fsync, c.drive.fd), 0, "the flush after it")


def rebooted(c):
    write_one(c)
    reboot(c)
    c.link.up(c.medium)
    c.drive.state("ready")
    lost_writes_are_told(c)


def rebooted_clean(c):
    write_one(c)
    os.fsync(c.drive.fd)
    reboot(c)
    c.link.up(c.medium)
    c.drive.state("ready")
    same(fails(os.fsync, c.drive.fd), 0, "the flush")
    c.drive.goes_on(c.tag)


def rebooted_and_lost(c):
    """Once more, before a connection stands: the first reboot is not forgotten."""
    write_one(c)
    reboot(c)
    c.link.refuse_streams, c.link.refused = True, 0
    c.link.up(c.medium)
    until(lambda: c.link.refused, "a stream is asked for")
    c.link.down()
    c.link.refuse_streams = False
    c.link.up(c.medium)
    c.drive.state("ready")
    lost_writes_are_told(c)


def rebooted_and_killed(c):
    """spicebdd dies before anybody has flushed."""
    write_one(c)
    reboot(c)
    c.link.up(c.medium)
    c.drive.state("ready")
    old = int(sh("pgrep", "-o", "-x", "spicebdd"))
    os.kill(old, signal.SIGKILL)
    until(lambda: subprocess.run(["pgrep", "-o", "-x", "spicebdd"], capture_output=True, text=True,
                                 check=False).stdout.strip() not in ("", str(old)), "a new one")
    c.drive.state("ready")
    lost_writes_are_told(c)


class Tap:
    def __init__(self):
        self.n = self.failed = 0

    def test(self, name, fn, *args):
        self.n += 1
        try:
            fn(*args)
            print(f"ok {self.n} - {name}", flush=True)
        except Exception as e:		# whatever goes wrong in a test fails it
            self.failed += 1
            print(f"# {type(e).__name__} at line {line_of(e)}: {e}\nnot ok {self.n} - {name}",
                  flush=True)


def line_of(e):
    tb = e.__traceback__
    while tb.tb_next and tb.tb_next.tb_frame.f_code.co_filename == __file__:
        tb = tb.tb_next
    return tb.tb_lineno


def identities(t, work):
    link = fakelink.Link("fake")

    def case(fn, **kw):
        c = Case(work, link, **kw)
        try:
            fn(c)
        finally:
            c.end()

    for name, fn, kw in (
            ("the same: goes on", the_same, {}),
            ("the same, read-only: goes on", the_same, {"read_only": True}),
            ("a durable one behind another server: goes on", durable_incarnation, {}),
            ("a volatile one behind another server: another one", volatile_incarnation,
             {"durable": False}),
            ("another of that name and size", another, {}),
            ("another of that name and size, read-only", another, {"read_only": True}),
            ("another, whose server is late", another_late, {}),
            ("a smaller one", smaller, {}),
            ("its machine restarted: the next flush fails", rebooted, {}),
            ("its machine restarted, all was flushed: no flush fails", rebooted_clean, {}),
            ("its machine restarted, and it was lost once more", rebooted_and_lost, {}),
            ("its machine restarted, and spicebdd was killed", rebooted_and_killed, {})):
        t.test(name, lambda fn=fn, kw=kw: case(fn, **kw))
    link.end()


def plain(work, resend):
    """A plain server ends with a write under way, and comes back with the same store."""
    m = fakelink.Medium(make(f"{work}/plain{resend}", "plain"), "plain")
    serve_delayed(m, 20000)
    device = sh("spicebdctl", "add", "disk", "--queues", "1")
    index = int(device.removeprefix("/dev/spicebd"))
    sh("spicebdctl", "insert", str(index), f"nbd+unix:///?socket={m.socket}", "--read-write",
       *(["--resend"] if resend else []))
    fd = os.open(device, os.O_RDWR | os.O_DIRECT)
    writer = Later(pwrite, fd, 7, content("new", 7))

    def status():
        return json.loads(sh("spicebdctl", "status", str(index), "--json"))

    until(lambda: status()["in-flight"], "the write is under way")
    m.stop()
    serve_delayed(m, 0)
    writer.end()
    os.close(fd)
    if resend:
        same(writer.error, None, "the write")
        until(lambda: status()["state"] == "ready", "ready")
    else:
        same(writer.error and writer.error.errno, errno.EIO, "the write")
        until(lambda: status()["medium"] is None, "the medium is out")
        same("under way" in status()["reason"], True, status()["reason"])
    with open(m.path, "rb") as f:
        f.seek(7 * BLOCK)
        same(f.read(BLOCK), content("new" if resend else "plain", 7), "in the store")
    until(lambda: subprocess.run(["spicebdctl", "del", "--force", str(index)], check=False,
                                 capture_output=True).returncode == 0, "del")
    m.stop()


def serve_delayed(m, ms):
    if os.path.exists(m.socket):
        os.unlink(m.socket)
    m.server = subprocess.Popen(["nbdkit", "-f", "-U", m.socket, "--filter=delay", "file", m.path,
                                 f"delay-write={ms}ms"], stdin=subprocess.DEVNULL)
    until(lambda: os.path.exists(m.socket), "nbdkit")


def silence(work):
    """A share that is frozen: seen by the link's own clock; thawed, it goes on."""
    path = make(f"{work}/frozen.img", "frozen")
    os.makedirs(f"{RUN}/links.d", exist_ok=True)
    with open(f"{RUN}/links.d/quick.conf", "w") as f:
        f.write(f"address=unix:{work}/spice\nping-interval=1\nping-timeout=3\n")
    sh("spicebd-supervisor", "link-start", "quick")
    share = subprocess.Popen(["spicebd-share", "--uri", f"spice+unix://{work}/spice", "--wait",
                              "--read-write", path], stdout=subprocess.DEVNULL)
    until(lambda: "frozen.img" in sh("spicebdctl", "media", "--json"), "it is offered")
    d = Drive("spice:frozen.img", "frozen", "--read-write")
    os.kill(share.pid, signal.SIGSTOP)
    began = time.monotonic()
    try:
        d.state("reconnecting")
        took = time.monotonic() - began
        print(f"# idle, seen after {took:.1f} s")
        # Configured to 3 s; a drive alone would not have noticed at all.
        same(took < 30, True, f"seen after {took:.1f} s")
        waiting = Later(pwrite, d.fd, 9, content("frozen", 9))
    finally:
        os.kill(share.pid, signal.SIGCONT)
    same(waiting.end().error, None, "the write that waited")
    d.goes_on("frozen")
    d.end()
    share.terminate()
    share.wait(LIMIT)
    sh("spicebdctl", "unlisten", "quick")


def main():
    t = Tap()
    work = tempfile.mkdtemp(prefix="same-")
    identities(t, work)
    t.test("a plain server: a write under way is not sent again", plain, work, False)
    t.test("a plain server with resend: it is", plain, work, True)
    t.test("a frozen share", silence, work)
    print(f"1..{t.n}")
    return 1 if t.failed else 0


if __name__ == "__main__":
    sys.exit(main())
