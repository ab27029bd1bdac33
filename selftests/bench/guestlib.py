# SPDX-License-Identifier: GPL-2.0-only
"""What the tables of this directory share, in the machine that is measured.

Systems are block devices whose medium is at an NBD server of their own, nbdkit's
memory plugin on a unix socket, with a filter that counts what it serves.
"""

import fcntl
import glob
import json
import mmap
import os
import re
import signal
import struct
import subprocess
import sys
import tempfile
import time

BENCH = os.path.dirname(os.path.abspath(__file__))
PROGRAMS = os.path.abspath(f"{BENCH}/../../build/bench-bin")
TRACING = "/sys/kernel/tracing"
SIZE = 64 << 20

# name: rw, block size, depth
CASES = {
    "4k randread QD1": ("randread", 4096, 1),
    "4k randread QD32": ("randread", 4096, 32),
    "4k randwrite QD32": ("randwrite", 4096, 32),
    "128k read QD8": ("read", 131072, 8),
    "128k write QD8": ("write", 131072, 8),
    "1M read QD4": ("read", 1 << 20, 4),
    "1M write QD4": ("write", 1 << 20, 4),
}


def emit(**what):
    print(json.dumps(what), flush=True)


def remark(text):
    print(f"# {text}", flush=True)


def sh(*args):
    p = subprocess.run(args, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                       check=False)
    if p.returncode:
        sys.exit(f"{' '.join(args)}: {p.stderr.strip() or p.stdout.strip()}")
    return p.stdout


def wait_for(what, ready, seconds=60):
    end = time.monotonic() + seconds
    while not ready():
        if time.monotonic() > end:
            sys.exit(f"{what} did not come within {seconds} s")
        time.sleep(0.01)


class Server:
    """an nbdkit, and what it has counted"""

    def __init__(self, name, size=SIZE):
        self.dir = tempfile.mkdtemp(prefix=f"bench-{name}-")
        self.socket, path = f"{self.dir}/nbd", f"{self.dir}/counts"
        self.proc = subprocess.Popen(	# pylint: disable=consider-using-with
            ["nbdkit", "-f", "-U", self.socket, f"--filter={PROGRAMS}/nbdkit-count-filter.so",
             "memory", f"size={size}", f"countfile={path}"])
        wait_for("nbdkit", lambda: os.path.exists(self.socket))
        with open(path, "r+b") as f:
            self.map = mmap.mmap(f.fileno(), 40)

    def counts(self):
        """bytes read and written, so far"""
        return struct.unpack("=5Q", self.map[:])[:2]

    def stop(self):
        self.proc.terminate()
        self.proc.wait()
        sh("rm", "-rf", self.dir)


def tids(pid):
    try:
        return [int(t) for t in os.listdir(f"/proc/{pid}/task")]
    except OSError:
        return []


def named(*names):
    """processes by what they are called"""
    out = []
    for p in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{p}/comm", encoding="utf-8") as f:
                if f.read().strip() in names:
                    out.append(int(p))
        except OSError:
            pass
    return out


class System:
    """one way to have the medium as a block device"""

    def __init__(self, name):
        self.name = name
        self.server = Server(name)
        self.helpers = []		# processes between kernel and server
        self.device = None
        self.lock = -1

    def roles(self):
        return {"helper": self.helpers, "server": [self.server.proc.pid]}

    def stop(self):
        if self.lock >= 0:
            os.close(self.lock)
        self.detach()
        self.server.stop()

    def detach(self):
        pass


class Nbd(System):
    """the kernel's NBD client"""

    def __init__(self, name, number, connections):
        super().__init__(name)
        if not os.path.exists("/sys/module/nbd"):
            sh("modprobe", "nbd", "nbds_max=4")
        self.device = f"/dev/nbd{number}"
        sh("nbd-client", "-unix", self.server.socket, self.device, "-b", "512",
           "-C", str(connections))

    def detach(self):
        sh("nbd-client", "-d", self.device)


class Ublk(System):
    """a ublk server that speaks NBD: ublk_nbd.c"""

    def __init__(self, name):
        super().__init__(name)
        self.proc = subprocess.Popen(	# pylint: disable=consider-using-with
            [f"{PROGRAMS}/ublk_nbd", self.server.socket], stdout=subprocess.PIPE, text=True)
        self.helpers = [self.proc.pid]
        self.device = self.proc.stdout.readline().strip()
        if not self.device:
            sys.exit(f"the ublk server ended with status {self.proc.wait()}")

    @staticmethod
    def possible():
        return subprocess.run(["modprobe", "-q", "ublk_drv"], check=False).returncode == 0

    def detach(self):
        self.proc.terminate()
        self.proc.wait()


class Spicebd(System):
    """spicebd, with a drive of its own of so many queues"""

    def __init__(self, name, queues):
        super().__init__(name)
        self.device = json.loads(sh("spicebdctl", "add", "disk", "--queues", str(queues),
                                    "--json"))["device"]
        self.drive = os.path.basename(self.device)
        sh("spicebdctl", "insert", self.drive, f"nbd+unix:///?socket={self.server.socket}",
           "--read-write", "--read-ahead", "off", "--cache", "off")
        self.helpers = named("spicebdd")

    def detach(self):
        sh("spicebdctl", "eject", self.drive, "--force")
        sh("spicebdctl", "del", self.drive)


SYSTEMS = {
    "nbd.ko": lambda: Nbd("nbd1", 0, 1),
    "nbd.ko x4": lambda: Nbd("nbd4", 1, 4),
    "ublk": lambda: Ublk("ublk"),
    "spicebd": lambda: Spicebd("spicebd1", 1),
    "spicebd x4": lambda: Spicebd("spicebd4", 4),
}


def prepare(system):
    """random data; nothing that merges, orders or reads ahead"""
    queue = f"/sys/block/{os.path.basename(system.device)}/queue"
    for name, value in (("scheduler", "none"), ("read_ahead_kb", "0")):
        with open(f"{queue}/{name}", "w", encoding="utf-8") as f:
            f.write(value)
    sh("dd", "if=/dev/urandom", f"of={system.device}", "bs=1M", f"count={SIZE >> 20}",
       "oflag=direct", "status=none")


def start(names):
    """those of the systems that there can be in this kernel"""
    out = []
    for n in names:
        if n == "ublk" and not Ublk.possible():
            remark("this kernel has no ublk_drv: no ublk column")
            continue
        s = SYSTEMS[n]()
        s.label = n
        prepare(s)
        out.append(s)
    quiet_udev(out)
    return out


def quiet_udev(systems):
    """
    udev looks at a device that was open for writing, and has the kernel look for
    partitions: reads that would be counted. A lock on the device tells it not to
    (systemd's BLOCK_DEVICE_LOCKING); what is in its queue comes afterwards.
    """
    for s in systems:
        s.lock = os.open(s.device, os.O_RDONLY | os.O_CLOEXEC)
    if not os.path.exists("/run/udev/control"):
        return
    sh("udevadm", "settle")
    for s in systems:
        fcntl.flock(s.lock, fcntl.LOCK_EX)
    sh("udevadm", "control", "--stop-exec-queue")


def loud_udev():
    """When all is measured: udev answers late where each instruction is counted."""
    if os.path.exists("/run/udev/control"):
        subprocess.run(["udevadm", "control", "--start-exec-queue"], check=False)


# Processor time.

def ticks(pid):
    """seconds of a process, user and system"""
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8") as f:
            v = f.read().rsplit(")", 1)[1].split()
    except OSError:
        return 0.0
    return (int(v[11]) + int(v[12])) / os.sysconf("SC_CLK_TCK")


def busy():
    """seconds in which the machine's processors were not idle"""
    with open("/proc/stat", encoding="utf-8") as f:
        v = [int(x) for x in f.readline().split()[1:9]]
    return (sum(v) - v[3] - v[4]) / os.sysconf("SC_CLK_TCK")


class Usage:
    """processor time between begin() and end(): by role, and the kernel's own"""

    def __init__(self, roles):
        self.roles = roles
        self.me = os.getpid()

    def _now(self):
        t = os.times()
        now = {r: sum(ticks(p) for p in pids) for r, pids in self.roles.items()}
        now["fio"] = t.children_user + t.children_system
        now["self"] = t.user + t.system
        return now, busy()

    def begin(self):
        self.was, self.was_busy = self._now()

    def end(self):
        now, total = self._now()
        used = {r: now[r] - self.was[r] for r in now}
        used["kernel"] = total - self.was_busy - sum(used.values())
        del used["self"]
        return {r: round(v, 3) for r, v in used.items()}


# Load.

def fio(system, rw, bs, depth, *, number=None, runtime=None):
    """one case on one system; exits if the server did not serve just that"""
    before = system.server.counts()
    usage = Usage(system.roles())
    usage.begin()
    args = ["fio", "--name=x", f"--filename={system.device}", "--direct=1",
            "--ioengine=io_uring", f"--rw={rw}", f"--bs={bs}", f"--iodepth={depth}",
            f"--size={SIZE}", "--norandommap", "--randrepeat=1", "--output-format=json"]
    if number:
        args += [f"--number_ios={number}", f"--io_size={number * bs}", "--time_based=0"]
    else:
        args += ["--time_based", f"--runtime={runtime}"]
    j = json.loads(sh(*args))["jobs"][0]
    used = usage.end()
    write = "write" in rw
    d = j["write" if write else "read"]
    if number and d["total_ios"] != number:
        sys.exit(f"fio did {d['total_ios']} of {number} requests")
    served = [a - b for a, b in zip(system.server.counts(), before)]
    wanted = [0, d["io_bytes"]] if write else [d["io_bytes"], 0]
    if served != wanted:
        sys.exit(f"{system.label}: fio moved {wanted} bytes (read, written), "
                 f"the server {served}")
    return {"requests": d["total_ios"], "bytes": d["io_bytes"], "ms": d["runtime"],
            "iops": d["iops"], "cpu": used, "served": sum(served)}


# System calls.

HIST = re.compile(r"\{ common_pid:\s*(\d+)(?:, id:[^}]*?)? *\} hitcount:\s*(\d+)")


class Syscalls:
    """the kernel's own count of system calls of each thread"""

    def __init__(self):
        self.event = f"{TRACING}/events/raw_syscalls/sys_enter"
        if not os.path.exists(self.event):
            sys.exit("no tracefs with raw_syscalls: is tracefs mounted?")

    def _trigger(self, text):
        with open(f"{self.event}/trigger", "w", encoding="utf-8") as f:
            f.write(text)

    def __enter__(self):
        self._trigger("hist:keys=common_pid:size=4096")
        return self

    def __exit__(self, *_):
        self._trigger("!hist:keys=common_pid:size=4096")

    def by_thread(self):
        with open(f"{self.event}/hist", encoding="utf-8") as f:
            return {int(t): int(n) for t, n in HIST.findall(f.read())}


def syscalls(system, case, number):
    """system calls per request, of each role"""
    def count():
        seen = s.by_thread()
        return {r: sum(seen.get(t, 0) for p in pids for t in tids(p))
                for r, pids in system.roles().items() if pids}
    with Syscalls() as s:
        before = count()
        fio(system, *CASES[case], number=number)
        after = count()
    return {r: round((after[r] - before[r]) / number, 3) for r in after}


def terminate(*_):
    sys.exit("ended by a signal")


def run(main):
    """main(), with everything that it began ended"""
    if not glob.glob("/sys/module/spicebd"):
        print("spicebd.ko is not loaded: modprobe spicebd, spicebdctl start", file=sys.stderr)
        sys.exit(4)		# benchlib.NOT_HERE
    signal.signal(signal.SIGTERM, terminate)
    try:
        main()
    finally:
        loud_udev()
