# SPDX-License-Identifier: GPL-2.0-only
"""A guest of ./mkguest under a QEMU, with our ports: what ./run and ../power/run share."""
import contextlib
import hashlib
import json
import os
import random
import socket
import subprocess
import sys
import threading
import time

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [os.path.join(HERE, "../guest"), os.path.join(HERE, "../qemu")]
import guestlib					# noqa: E402
from guestlib import PORT, TREE, sh		# noqa: E402
from machine import Died, Qemu, until		# noqa: E402

LIMIT = 300		# s: emulated, on a busy machine
APPEND = "console=ttyS0 quiet loglevel=4 panic=-1 tsc=reliable no_timer_check audit=0 " \
    "unknown_nmi_panic"


def newer_qemu():
    """Where the one is that selftests/vm fetches. Debian 12's, without KVM, forgets pages
    that are written while it looks for such (mended in QEMU 9.0): now and then a guest
    that was migrated went on with an old stack. So ./run's way "plain" shows."""
    sh(f"{TREE}/selftests/vm/setup", "qemu-10")
    cache = sh("bash", "-c", f". {TREE}/selftests/vm/lib.sh && echo $vm_cache").strip()
    return f"{cache}/qemu-10"


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


class Vm(Qemu):
    """A QEMU that has the guest, or waits for it"""

    def __init__(self, tmp, n, opts, *more, incoming=False, append="", kernel=True):
        self.port, self.spice = free_port(), f"{tmp}/spice-{n}"
        self.console, self.agent_path = f"{tmp}/console-{n}", f"{tmp}/agent-{n}"
        # A guest that shuts down or is reset stays, to be looked at.
        args = ["-M", "q35", "-accel", f"tcg,thread={opts.thread}", "-cpu", opts.cpu,
                "-smp", str(opts.cpus), "-m", "512",
                "-action", "reboot=shutdown,shutdown=pause,panic=pause",
                "-d", "cpu_reset,guest_errors", "-D", f"{tmp}/reset-{n}",
                "-drive", f"file={tmp}/disk,format=raw,if=virtio,readonly=on",
                "-serial", f"file:{self.console}",
                "-chardev", f"socket,id=agent,path={self.agent_path},server=on,wait=off",
                "-serial", "chardev:agent"]
        if kernel:
            args += ["-kernel", f"{tmp}/kernel", "-initrd", f"{tmp}/initrd",
                     "-append", APPEND + " plain" * (opts.way == "plain") + append]
        args += self.disks(tmp) if opts.way == "plain" else self.ports(opts.way)
        super().__init__(*args, *more, *(["-incoming", "defer"] if incoming else []),
                         prefix=opts.qemu)
        self.qmp.ok("migrate-set-capabilities",
                    capabilities=[{"capability": "events", "state": True}])

    def ports(self, way):
        seamless = "on" if way == "seamless" else "off"
        spice = f"unix=on,addr={self.spice}" if way == "none" else \
            f"port={self.port},addr=127.0.0.1,seamless-migration={seamless}"
        args = ["-spice", f"{spice},disable-ticketing=on", "-device", "virtio-serial-pci"]
        for p in range(2):
            args += ["-chardev", f"spiceport,id=p{p},name={PORT}.{p}",
                     "-device", f"virtserialport,chardev=p{p},name={PORT}.{p}"]
        return args

    @staticmethod
    def disks(tmp):
        """The same media, as any guest has them"""
        return ["-drive", f"file={tmp}/disc.iso,format=raw,if=virtio,readonly=on",
                "-drive", f"file={tmp}/stick.img,format=raw,if=virtio,cache=none"]

    def hmp(self, line):
        return self.qmp.ok("human-monitor-command", command_line=line)

    def wait(self, name, **data):
        """An event with these fields; Died if it does not come"""
        def wanted(e):
            return e["event"] == name and all(e["data"].get(k) == v for k, v in data.items())
        e = self.qmp.event(LIMIT, wanted)
        if not e:
            raise Died(f"QEMU says no {name} {data}: {self.said()}")
        return e

    def ended(self):
        """Why the machine runs no more, or None"""
        return self.qmp.event(0, lambda e: e["event"] in ("SHUTDOWN", "GUEST_PANICKED"))


class Agent:
    """What ../agent is asked"""

    def __init__(self, vm):
        self.vm, self.buffer, self.id = vm, b"", random.randrange(1 << 30)
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.connect(vm.agent_path)

    def once(self, limit, do, **args):
        """None: no answer"""
        self.id += 1
        with contextlib.suppress(BrokenPipeError):
            self.sock.sendall(json.dumps({"id": self.id, "do": do, **args}).encode() + b"\n")
        end = time.monotonic() + limit
        while (left := end - time.monotonic()) > 0:
            while b"\n" in self.buffer:
                line, self.buffer = self.buffer.split(b"\n", 1)
                with contextlib.suppress(ValueError):	# the end of somebody else's
                    o = json.loads(line)
                    # the guest's terminal may still have said our own words again
                    if o["id"] == self.id and "do" not in o:
                        return o
            self.sock.settimeout(min(left, 2))
            try:
                data = self.sock.recv(65536)
            except TimeoutError:
                if why := self.vm.ended():
                    raise Died(f"the guest is gone: {why}") from None
                continue
            if not data:
                raise Died(f"the guest is gone: {self.vm.said()}")
            self.buffer += data
        return None

    def do(self, what, limit=LIMIT, **args):
        o = self.once(limit, what, **args)
        if o is None:
            raise Died(f"the guest does not answer to {what}")
        if "raised" in o:
            raise Died(f"{what}: {o['raised']}")
        return o["return"]

    def sh(self, command, limit=100):
        """Its output; what fails ends the test"""
        o = self.do("sh", command=command, limit=limit)
        if o["status"]:
            raise Died(f"in the guest: {command}: {o['text']}")
        return o["text"]

    def up(self):
        """The guest may still be on its way, and lose what it is asked."""
        if not until(LIMIT, lambda: self.once(10, "ping")):
            with open(self.vm.console, encoding="utf-8", errors="replace") as f:
                raise Died("the guest does not come up: " + f.read()[-3000:])

    def close(self):
        self.sock.close()


class Share(guestlib.Share):
    """The client; what it says is kept"""

    def __init__(self, uri, state, *media):		# pylint: disable=super-init-not-called
        with open(f"{state}/share.log", "wb") as log:
            self.proc = subprocess.Popen(
                [f"{TREE}/build/bin/spicebd-share", "--uri", uri, "--json", "--debug", *media],
                stdout=subprocess.PIPE, stderr=log, stdin=subprocess.DEVNULL, text=True,
                env=dict(os.environ, XDG_STATE_HOME=state))
        self.events = guestlib.queue.Queue()
        threading.Thread(target=self.reader, daemon=True).start()


def make_media(tmp):
    """A disc, a disk with a file system, and the sums of the disc's files"""
    sums = {}
    os.mkdir(f"{tmp}/files")
    for i in range(3):
        data = os.urandom(6 << 20)
        sums[f"file{i}"] = hashlib.sha256(data).hexdigest()
        with open(f"{tmp}/files/file{i}", "wb") as f:
            f.write(data)
    sh("genisoimage", "-quiet", "-R", "-o", f"{tmp}/disc.iso", f"{tmp}/files")
    sh("truncate", "-s", "48M", f"{tmp}/stick.img")
    sh("mkfs.ext4", "-q", "-L", "STICK", f"{tmp}/stick.img")
    # A share reads other people's files, and writes what it may.
    os.chmod(f"{tmp}/disc.iso", 0o444)
    return sums
