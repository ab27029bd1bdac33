# SPDX-License-Identifier: GPL-2.0-only
"""A QEMU of the test's own: its QMP, and its ports and memory (qtest)."""
import json
import os
import select
import socket
import subprocess
import tempfile
import time

# Under emulation inside an emulated machine everything is slow.
LIMIT = 180


class Died(Exception):
    """QEMU has ended or does not answer"""


class Qmp:
    """One QMP connection; events are kept in order"""

    def __init__(self, sock):
        self.s = sock
        self.buffer = b""
        self.events = []
        self._line(LIMIT)
        self.ok("qmp_capabilities")

    def _line(self, limit):
        """The next message, or None when nothing comes within the limit"""
        end = time.monotonic() + limit
        while b"\n" not in self.buffer:
            if not select.select([self.s], [], [], max(0, end - time.monotonic()))[0]:
                return None
            data = self.s.recv(65536)
            if not data:
                raise Died("QMP was closed")
            self.buffer += data
        line, self.buffer = self.buffer.split(b"\n", 1)
        return json.loads(line)

    def cmd(self, name, **args):
        """The whole answer; '_' in names of arguments means '-'"""
        args = {k.replace("_", "-"): v for k, v in args.items()}
        self.s.sendall(json.dumps({"execute": name, "arguments": args}).encode() + b"\n")
        while True:
            o = self._line(LIMIT)
            if o is None:
                raise Died(f"no answer to {name}")
            if "event" not in o:
                return o
            self.events.append(o)

    def ok(self, name, **args):
        """What it returns; an error is ours"""
        o = self.cmd(name, **args)
        if "return" not in o:
            raise AssertionError(f"{name}: {o}")
        return o["return"]

    def event(self, limit, wanted):
        """The first event that is wanted, taken out of the list, or None"""
        end = time.monotonic() + limit
        while True:
            for i, e in enumerate(self.events):
                if wanted(e):
                    return self.events.pop(i)
            o = self._line(max(0, end - time.monotonic()))
            if o is None:
                return None
            self.events.append(o)


class Qemu:
    """A QEMU without firmware, screen or default devices"""

    def __init__(self, *args, qtest=False, prefix=""):
        """prefix: where another QEMU than the machine's is"""
        self.dir = tempfile.TemporaryDirectory()
        # for others, one for each: a monitor has one client
        self.monitors = [f"{self.dir.name}/other{i}" for i in range(2)]
        listeners = {n: self._listen(n) for n in ["qmp"] + ["qtest"] * qtest}
        env = dict(os.environ)
        if prefix:
            env["QEMU_MODULE_DIR"] = f"{prefix}/usr/lib/x86_64-linux-gnu/qemu"
        cmd = [f"{prefix}/usr/bin/qemu-system-x86_64", "-nodefaults", "-no-user-config", "-display", "none",
               "-chardev", f"socket,id=qmp,path={self.dir.name}/qmp",
               "-mon", "chardev=qmp,mode=control"]
        for i, path in enumerate(self.monitors):
            cmd += ["-chardev", f"socket,id=other{i},path={path},server=on,wait=off",
                    "-mon", f"chardev=other{i},mode=control"]
        if qtest:
            cmd += ["-S", "-qtest", f"unix:{self.dir.name}/qtest",
                    "-qtest-log", "none", "-m", "16"]
        self.log = open(f"{self.dir.name}/log", "w+b")
        self.p = subprocess.Popen(cmd + list(args), stdin=subprocess.DEVNULL, env=env,
                                  stdout=self.log, stderr=self.log)
        try:
            if qtest:
                self.q = self._accept(listeners["qtest"])
                self.qbuf = b""
            self.qmp = Qmp(self._accept(listeners["qmp"]))
        except BaseException:
            self.close()
            raise
        finally:
            for s in listeners.values():
                s.close()

    def _listen(self, name):
        s = socket.socket(socket.AF_UNIX)
        s.bind(f"{self.dir.name}/{name}")
        s.listen(1)
        return s

    def _accept(self, listener):
        end = time.monotonic() + LIMIT
        while not select.select([listener], [], [], 0.2)[0]:
            if self.p.poll() is not None or time.monotonic() > end:
                raise Died(f"QEMU did not start: {self.said()}")
        return listener.accept()[0]

    def said(self):
        """What QEMU has printed so far"""
        with open(f"{self.dir.name}/log", "rb") as f:
            return f.read().decode(errors="replace").strip()

    def close(self):
        """Ends it, by force if need be; waits until it is gone"""
        self.p.terminate()
        try:
            self.p.wait(20)
        except subprocess.TimeoutExpired:
            self.p.kill()
            self.p.wait()
        self.log.close()
        self.dir.cleanup()

    # qtest: one line each way

    def ask(self, *lines):
        """What follows OK in the answers to these lines"""
        self.q.sendall("".join(l + "\n" for l in lines).encode())
        out = []
        while len(out) < len(lines):
            line = self._answer()
            word, _, rest = line.partition(" ")
            if word != "OK":
                raise AssertionError(f"qtest: {lines[len(out)]}: {line}")
            out.append(rest)
        return out

    def _answer(self):
        while b"\n" not in self.qbuf:
            if not select.select([self.q], [], [], LIMIT)[0]:
                raise Died("qtest does not answer")
            data = self.q.recv(65536)
            if not data:
                raise Died("qtest was closed")
            self.qbuf += data
        line, self.qbuf = self.qbuf.split(b"\n", 1)
        return line.decode()

    def out(self, size, port, value):
        """Write a port; size is b, w or l"""
        self.ask(f"out{size} {port:#x} {value:#x}")

    def inp(self, size, port):
        """Read a port"""
        return int(self.ask(f"in{size} {port:#x}")[0], 16)

    def inp_many(self, size, port, n):
        """Read a port often"""
        return [int(x, 16) for x in self.ask(*[f"in{size} {port:#x}"] * n)]

    def write(self, address, data):
        """Write memory"""
        self.ask(f"write {address:#x} {len(data):#x} 0x{data.hex()}")

    def read(self, address, n):
        """Read memory"""
        return bytes.fromhex(self.ask(f"read {address:#x} {n:#x}")[0][2:])

    def pci(self, slot, register, value=None):
        """A device's configuration space, by 32 bits"""
        self.out("l", 0xcf8, 0x80000000 | slot << 11 | register)
        if value is None:
            return self.inp("l", 0xcfc)
        return self.out("l", 0xcfc, value)


def until(limit, test):
    """Poll for what no event can be had of; the last answer"""
    end = time.monotonic() + limit
    while True:
        got = test()
        if got or time.monotonic() > end:
            return got
        time.sleep(0.02)
