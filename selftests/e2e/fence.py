#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-only
# timeout: 1500
"""An old write never lands after a newer one. One write is held inside nbdkit;
something dies or breaks; the write is sent again and answered, and its sector
overwritten; the old write is let go; what is read back is the new data."""
import ctypes
import json
import mmap
import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import threading
import time

LIMIT = 120
SECTOR = 4096
HERE = os.path.dirname(os.path.abspath(__file__))
PIDFD_GETFD = 438
libc = ctypes.CDLL(None, use_errno=True)


def sh(*cmd):
    p = subprocess.run(cmd, stdin=subprocess.DEVNULL, capture_output=True, text=True,
                       timeout=LIMIT, check=False)
    if p.returncode:
        raise AssertionError(f"{' '.join(cmd)}: {p.stderr.strip()}")
    return p.stdout.strip()


def until(test, what):
    end = time.monotonic() + LIMIT
    while True:
        found = test()
        if found:
            return found
        if time.monotonic() > end:
            raise AssertionError(f"not within {LIMIT} s: {what}")
        time.sleep(0.05)


def status(index):
    p = subprocess.run(["spicebdctl", "status", str(index), "--json"], capture_output=True,
                       text=True, timeout=LIMIT, check=False)
    return json.loads(p.stdout) if p.returncode == 0 else {}


def pids(name, parent=None):
    args = ["pgrep", "-x", name] + (["-P", str(parent)] if parent else [])
    return [int(p) for p in subprocess.run(args, capture_output=True, text=True,
                                           check=False).stdout.split()]


def one(name):
    found = pids(name)
    if len(found) != 1:
        raise AssertionError(f"{name}: {found}")
    return found[0]


def alive(pid):
    try:
        with open(f"/proc/{pid}/stat") as f:
            return f.read().rsplit(")", 1)[1].split()[0] not in "ZX"
    except OSError:
        return False


def kill(name):
    """Kills the one process of that name and sees it dead."""
    pid = one(name)
    os.kill(pid, signal.SIGKILL)
    until(lambda: not alive(pid), f"{name} is dead")


class Hold:
    """One write that is held: hold_filter.c."""

    def __init__(self, work):
        self.dir = f"{work}/hold"
        os.mkdir(self.dir)
        filt = f"{work}/nbdkit-hold-filter.so"
        flags = sh("pkg-config", "--cflags", "nbdkit").split()
        sh("gcc", "-O1", "-shared", "-fPIC", "-o", filt, f"{HERE}/hold_filter.c", *flags)
        self.nbdkit = os.path.realpath(shutil.which("nbdkit"))
        os.mkdir(f"{work}/real")
        shutil.copy(self.nbdkit, f"{work}/real/nbdkit")
        with open(f"{work}/nbdkit", "w") as f:
            f.write(f"#!/bin/sh\nHOLD_DIR={self.dir} exec {work}/real/nbdkit --filter={filt} \"$@\"\n")
        os.chmod(f"{work}/nbdkit", 0o755)
        # Whoever starts an nbdkit from here on starts this one.
        sh("mount", "--bind", f"{work}/nbdkit", self.nbdkit)

    def end(self):
        sh("umount", self.nbdkit)

    def files(self, name):
        return [int(f.partition(".")[2]) for f in os.listdir(self.dir)
                if f.startswith(name + ".")]

    def arm(self):
        for f in os.listdir(self.dir):
            os.unlink(f"{self.dir}/{f}")
        open(f"{self.dir}/arm", "w").close()

    def held(self):
        return until(lambda: self.files("held"), "a write is held")[0]

    def release(self):
        """Until it has landed, or can never: its process is gone."""
        pid, = self.files("held")
        open(f"{self.dir}/release", "w").close()
        until(lambda: pid in self.files("done") or not alive(pid), "the old write's end")
        return pid in self.files("done")


class Writer(threading.Thread):
    """One write that may take long."""

    def __init__(self, device, offset, data):
        super().__init__(daemon=True)
        self.device, self.offset, self.data, self.error = device, offset, data, None
        self.start()

    def run(self):
        try:
            access(self.device, self.offset, self.data)
        except OSError as e:
            self.error = e

    def ended(self):
        self.join(LIMIT)
        if self.is_alive():
            raise AssertionError("the write does not end")
        if self.error:
            raise AssertionError(f"the write failed: {self.error}")


def access(device, offset, data=None):
    """Writes, or reads a sector, past the page cache."""
    buf = mmap.mmap(-1, SECTOR)
    fd = os.open(device, os.O_DIRECT | (os.O_RDWR if data else os.O_RDONLY))
    try:
        if data:
            buf[:] = data
            done = os.pwrite(fd, buf, offset)
        else:
            done = os.preadv(fd, [buf], offset)
    finally:
        os.close(fd)
    if done != SECTOR:
        raise AssertionError(f"{done} of {SECTOR} bytes")
    return buf[:]


class Place:
    """A drive with a writable medium of a file."""

    def __init__(self, work, hold, name, source):
        self.hold, self.path, self.turn = hold, f"{work}/{name}.img", 0
        self.device = sh("spicebdctl", "add", "disk", "--queues", "2")
        self.index = int(self.device.removeprefix("/dev/spicebd"))
        sh("spicebdctl", "insert", str(self.index), source, "--read-write")
        self.before = status(self.index)
        if self.before["medium"]["link"]["connections"] != 2:
            raise AssertionError(f"not two connections: {self.before}")

    def pattern(self, what):
        return f"{what} {self.turn:06d} ".encode().ljust(16, b".") * (SECTOR // 16)

    def fence(self, fault):
        self.turn += 1
        offset = self.turn * SECTOR
        old, new = self.pattern("old"), self.pattern("new")
        self.hold.arm()
        writer = Writer(self.device, offset, old)
        pid = self.hold.held()
        fault(pid)
        writer.ended()
        access(self.device, offset, new)
        landed = self.hold.release()
        print(f"# the old write {'landed' if landed else 'never landed'}")
        got = access(self.device, offset)
        if got != new:
            raise AssertionError(f"read back: {got[:16]!r}, not {new[:16]!r}")
        with open(self.path, "rb") as f:
            f.seek(offset)
            got = f.read(SECTOR)
        if got != new:
            raise AssertionError(f"in the file: {got[:16]!r}, not {new[:16]!r}")
        until(lambda: status(self.index).get("state") == "ready", "the drive is ready")
        now = status(self.index)
        if now["generation"] != self.before["generation"]:
            raise AssertionError("another medium")
        if now["stats"]["errors"] != self.before["stats"]["errors"]:
            raise AssertionError("requests failed")

    def end(self):
        until(lambda: subprocess.run(["spicebdctl", "eject", str(self.index)],
                                     capture_output=True, check=False).returncode == 0, "eject")
        sh("spicebdctl", "del", str(self.index))


class Share:
    """A spicebd-share that is started again when it was killed."""

    def __init__(self, uri, path):
        self.cmd = ["spicebd-share", "--uri", uri, "--wait", "--read-write", path]
        self.p = subprocess.Popen(self.cmd, stdout=subprocess.DEVNULL)

    def kill(self, _):
        self.p.kill()
        self.p.wait()
        # Refused as long as a server of the old one holds the file.
        self.p = subprocess.Popen(self.cmd, stdout=subprocess.DEVNULL)

    def other_server(self, pid):
        """Kills a server that is not the one with the write."""
        others = [p for p in pids("nbdkit", self.p.pid) if p != pid]
        if len(others) != 1:
            raise AssertionError(f"servers: {others} and {pid}")
        os.kill(others[0], signal.SIGKILL)

    def end(self):
        self.p.terminate()
        self.p.wait(LIMIT)


def connections(path):
    """spicebdd's sockets to a server that listens there: duplicates of them."""
    daemon = one("spicebdd")
    pidfd = os.pidfd_open(daemon)
    found = []
    for n in os.listdir(f"/proc/{daemon}/fd"):
        fd = libc.syscall(PIDFD_GETFD, pidfd, int(n), 0)
        if fd < 0:
            continue
        if not stat.S_ISSOCK(os.fstat(fd).st_mode):
            os.close(fd)
            continue
        s = socket.socket(fileno=fd)		# closes it, if nobody keeps it
        if s.family != socket.AF_UNIX or s.type != socket.SOCK_STREAM:
            continue
        try:
            if s.getpeername() == path:
                found.append(s)
        except OSError:
            pass
    os.close(pidfd)
    return found


def cut_one(_):
    """One of the two connections to the local nbdkit."""
    path, = [f"/run/spicebd/nbdkit/{n}" for n in os.listdir("/run/spicebd/nbdkit")
             if n.endswith(".sock")]
    found = connections(path)
    if len(found) != 2:
        raise AssertionError(f"connections: {found}")
    found[0].shutdown(socket.SHUT_RDWR)


def daemon_killed(_):
    kill("spicebdd")


def server_survives(pid):
    """spicebdd alone dies: the nbdkit with the write outlives it."""
    kill("spicebdd")
    if not alive(pid):
        print("# fenced at once")


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
            print(f"# {type(e).__name__}: {e}\nnot ok {self.n} - {name}", flush=True)


def shared(t, work, hold):
    path = f"{work}/share.img"
    sh("truncate", "-s", "16M", path)
    sh("spicebdctl", "listen", f"unix:{work}/spice")
    share = Share(f"spice+unix://{work}/spice", path)
    p = Place(work, hold, "share", "spice:share.img")
    t.test("share: spicebdd is killed", p.fence, daemon_killed)
    t.test("share: spicebd-link is killed", p.fence, lambda _: kill("spicebd-link"))
    t.test("share: one connection of several is lost", p.fence, share.other_server)
    t.test("share: it is killed itself", p.fence, share.kill)
    t.test("share: nothing dies, the server is silent", p.fence, lambda _: None)
    t.test("share: its end", p.end)
    share.end()
    sh("spicebdctl", "unlisten")


def local(t, work, hold):
    path = f"{work}/file.img"
    sh("truncate", "-s", "16M", path)
    p = Place(work, hold, "file", path)
    t.test("a local nbdkit that outlives its spicebdd", p.fence, server_survives)
    t.test("a local nbdkit: one connection of several is lost", p.fence, cut_one)
    t.test("a local nbdkit: its parent is killed", p.fence, lambda _: kill("spicebd-nbdkit"))
    t.test("a local nbdkit: nothing dies, it is silent", p.fence, lambda _: None)
    t.test("a local nbdkit: its end", p.end)


def main():
    t = Tap()
    work = tempfile.mkdtemp(prefix="fence-")
    hold = Hold(work)
    try:
        shared(t, work, hold)
        local(t, work, hold)
    finally:
        hold.end()
    shutil.rmtree(work)
    print(f"1..{t.n}")
    return 1 if t.failed else 0


if __name__ == "__main__":
    sys.exit(main())
