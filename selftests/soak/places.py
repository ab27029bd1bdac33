# SPDX-License-Identifier: GPL-2.0-only
"""The media of a soak, where they come from, and the processes in between."""
import fcntl
import json
import os
import select
import signal
import subprocess
import threading
import time

from helper import SCALE

PASSWORD, LISTEN, PROXY = "/run/soak/password", 5930, 5931
HERE = os.path.dirname(os.path.abspath(__file__))
MIB = 1 << 20


def run(*cmd, limit=90):
    return subprocess.run(cmd, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, text=True, timeout=limit * SCALE, check=False)


def ctl(*args, limit=90):
    """spicebdctl; None when it failed."""
    try:
        p = run("spicebdctl", *args, limit=limit)
    except subprocess.TimeoutExpired:
        return None
    return p.stdout if p.returncode == 0 else None


def status(index):
    text = ctl("status", str(index), "--json", limit=30)
    try:
        return json.loads(text) if text else None
    except ValueError:
        return None


def all_states():
    """State of each drive, by index; {} without an answer."""
    text = ctl("list", "--json", limit=30)
    try:
        return {d["index"]: d for d in json.loads(text)} if text else {}
    except ValueError:
        return {}


def stat_of(pid):
    """(name, parent, start time), or None when it is gone or a zombie."""
    try:
        with open(f"/proc/{pid}/stat", errors="replace") as f:
            head, _, rest = f.read().rpartition(")")
    except OSError:
        return None
    rest = rest.split()
    if rest[0] in "ZX":
        return None
    return head.partition("(")[2], int(rest[1]), rest[19]


def processes(name, parent=None):
    """Pids of programs of that name, whose parent has the other name."""
    found = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        s = stat_of(pid)
        if not s or s[0] != name[:15]:
            continue
        if parent:
            of = stat_of(s[1])
            if not of or of[0] != parent[:15]:
                continue
        found.append(int(pid))
    return sorted(found)


def kill_dead(pid, limit=60):
    """SIGKILL, and whether that very process was then seen to be gone."""
    try:
        fd = os.pidfd_open(pid)
    except ProcessLookupError:
        return False
    try:
        signal.pidfd_send_signal(fd, signal.SIGKILL)
        return bool(select.select([fd], [], [], limit * SCALE)[0])
    except ProcessLookupError:
        return False
    finally:
        os.close(fd)


def log_file(name):
    """For what programs say, each line with its time; where it is found after a run that
    was ended from outside, too."""
    r, w = os.pipe()
    path = os.environ.get("SPICEBD_SHARE", "/run/soak") + f"/{name}.log"

    def copy():
        with os.fdopen(r, "rb") as said, open(path, "ab", buffering=0) as log:
            for line in said:
                log.write(time.strftime("%H:%M:%S ").encode() + line)

    threading.Thread(target=copy, daemon=True).start()
    return os.fdopen(w, "w")


class Kept:
    """A program of ours that is started again whenever it ends."""

    def __init__(self, name, *cmd, env=None):
        self.name, self.cmd, self.env = name, cmd, dict(os.environ, **(env or {}))
        self.end = False
        self.statuses = []
        self.log = log_file(name)
        self.p = self.begin()
        self.thread = threading.Thread(target=self.keep, daemon=True)
        self.thread.start()

    def begin(self):
        return subprocess.Popen(self.cmd, stdin=subprocess.DEVNULL, stdout=self.log,
                                stderr=subprocess.STDOUT, env=self.env)

    def keep(self):
        while True:
            self.statuses.append(self.p.wait())
            if self.end:
                return
            time.sleep(0.3)
            self.p = self.begin()

    def stop(self):
        self.end = True
        while self.thread.is_alive():
            self.p.terminate()
            self.thread.join(10)
            if self.thread.is_alive():
                self.p.kill()


class Network:
    """proxy.py, asked by one thread at a time."""

    def __init__(self):
        self.p = subprocess.Popen(["/usr/bin/python3", f"{HERE}/proxy.py", str(PROXY),
                                   str(LISTEN)], stdin=subprocess.PIPE,
                                  stdout=subprocess.PIPE, text=True)
        assert self.p.stdout.readline() == "ready\n"

    def do(self, text):
        self.p.stdin.write(text + "\n")
        self.p.stdin.flush()
        assert self.p.stdout.readline() == "ok\n"


class Medium:
    """A drive and what is in it."""

    queues = 2
    cdrom = False
    reconnect_timeout = 300 * SCALE

    def __init__(self, name, path):
        self.name, self.path, self.tag = name, path, name.encode()[:8]
        self.users, self.out_until = [], 0
        kind = "cdrom" if self.cdrom else "disk"
        out = ctl("add", kind, "--queues", str(self.queues), "--reconnect-timeout",
                  str(self.reconnect_timeout), "--stall-timeout", str(12 * SCALE))
        assert out, f"{name}: no drive"
        self.device = out.strip()
        self.index = int(self.device.removeprefix("/dev/spicebd"))

    def may_fail(self):
        """For a while after the medium was taken out by force."""
        return time.monotonic() < self.out_until

    def source(self):
        return self.path

    def force_out(self):
        """The medium by force, under load; returns how long that took, or None."""
        self.out_until = time.monotonic() + 600
        began = time.monotonic()
        out = ctl("eject", str(self.index), "--force", limit=60)
        return None if out is None else time.monotonic() - began

    def back_in(self):
        """A user notices the old one's end at its next request at the latest."""
        self.insert()
        self.out_until = time.monotonic() + 60

    def insert(self, limit=60):
        end = time.monotonic() + limit * SCALE
        while True:
            args = [] if self.cdrom else ["--read-write"]
            p = run("spicebdctl", "insert", str(self.index), self.source(), *args, limit=120)
            if p.returncode == 0:
                return
            assert time.monotonic() < end, f"{self.name}: {p.stdout}"
            time.sleep(0.5)

    def repair(self, state):
        """Called now and then, for what rules may have taken away."""


class Disk(Medium):
    def __init__(self, name, path):
        with open(path, "wb") as f:
            f.truncate(32 * MIB)
        super().__init__(name, path)


class ShareDisk(Disk):
    def source(self):
        return "spice:" + os.path.basename(self.path)


class ShareDiskOne(ShareDisk):
    queues = 1


class BriefDisk(Disk):
    """One whose users wait for a moment only when its helper or far end is away: then
    what they asked for fails, and the medium has to be put in again."""

    reconnect_timeout = 4

    def may_fail(self):
        return True

    def repair(self, state):
        if state and state["medium"] is None and not state["stale"]:
            self.insert()


class PlainDisk(Disk):
    """A server that can prove nothing: what was under way when its connection broke
    fails by rule, and the medium with it."""

    def __init__(self, name, path):
        super().__init__(name, path)
        self.socket = f"/run/soak/{name}.sock"
        self.server = None
        self.serve()

    def serve(self):
        """A new process: nothing of the old one can land any more."""
        if self.server:
            self.server.kill()
            self.server.wait()
        if os.path.exists(self.socket):
            os.unlink(self.socket)
        self.server = subprocess.Popen(["nbdkit", "-f", "-U", self.socket, "file", self.path],
                                       stdin=subprocess.DEVNULL)

    def source(self):
        return f"nbd+unix:///?socket={self.socket}"

    def may_fail(self):
        return True

    def repair(self, state):
        if self.server.poll() is not None:
            self.serve()
        if state and state["medium"] is None and not state["stale"]:
            self.serve()
            self.insert()


class Disc(Medium):
    """Two discs, by turns."""

    cdrom = True

    def __init__(self, name, paths):
        super().__init__(name, paths[0])
        self.paths, self.now = paths, 0
        self.discs = []
        for p in paths:
            with open(p, "rb") as f:
                self.discs.append(f.read())

    def source(self):
        return self.paths[self.now]

    def change(self):
        """Another disc at once, whoever reads the old one."""
        self.now = 1 - self.now
        self.out_until = time.monotonic() + 600
        out = ctl("change", str(self.index), self.source(), "--force")
        self.bring_back()
        return "change by force" if out is not None else "change by force refused"

    def eject_and_insert(self):
        """Another disc; returns how the old one left."""
        how = "eject"
        if ctl("eject", str(self.index)) is None:
            s = status(self.index)
            if s and s["medium"] is not None:
                how = "eject by force"
                self.out_until = time.monotonic() + 600
                if ctl("eject", str(self.index), "--force") is None:
                    how = "eject refused"
        self.now = 1 - self.now
        self.bring_back()
        return how

    def bring_back(self):
        end = time.monotonic() + 300 * SCALE
        while True:
            s = status(self.index)
            if s and s["medium"] is not None and s["state"] == "ready":
                break
            run("spicebdctl", "insert", str(self.index), self.source(), limit=120)
            assert time.monotonic() < end, f"{self.name}: no disc comes in"
            time.sleep(0.3)
        # A reader notices the old one's end at its next read at the latest.
        if self.out_until:
            self.out_until = time.monotonic() + 60


class ShareDisc(Disc):
    def source(self):
        return "spice:" + os.path.basename(self.paths[self.now])


def make_disc(path, label):
    folder = path + ".d"
    os.makedirs(folder)
    for i in range(4):
        with open(f"{folder}/{label}{i}", "wb") as f:
            f.write(os.urandom(2 * MIB))
    p = run("genisoimage", "-quiet", "-R", "-V", label, "-o", path, folder)
    assert p.returncode == 0, p.stdout


def lock_free(path):
    with open(path, "rb") as f:
        try:
            fcntl.flock(f, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except OSError:
            return False
