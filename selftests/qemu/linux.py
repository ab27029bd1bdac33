# SPDX-License-Identifier: GPL-2.0-only
"""A Linux in a QEMU in a test machine: guest.c's other end."""
import os
import select
import socket
import subprocess
import time

from machine import LIMIT, Died, Qemu

HERE = os.path.dirname(os.path.abspath(__file__))
BOOT = 1200     # seconds: emulation in emulation, often on a busy machine
APPEND = ("console=ttyS0 quiet loglevel=4 panic=-1 tsc=reliable no_timer_check lpj=5000000 "
          "mitigations=off nokaslr audit=0 lsm= block.events_dfl_poll_msecs=500")


class Linux(Qemu):
    """A guest that boots; up() returns when it has"""

    def __init__(self, directory, *args):
        if not os.path.exists(f"{directory}/initrd"):
            subprocess.run([f"{HERE}/mkguest", os.environ["SPICEBD_VM"], directory], check=True)
        self.console = f"{directory}/guest-console"
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(f"{directory}/port")
        listener.listen(1)
        self.port = None
        self.buffer = b""
        self.events = []        # (action, name, what)
        super().__init__("-M", "pc", "-accel", "tcg", "-cpu", "max", "-smp", "1", "-m", "128",
                         "-no-reboot", "-kernel", f"{directory}/kernel",
                         "-initrd", f"{directory}/initrd", "-append", APPEND,
                         "-serial", f"file:{self.console}",
                         "-chardev", f"socket,id=port,path={directory}/port",
                         "-serial", "chardev:port", *args)
        self.port = listener.accept()[0]
        listener.close()

    def up(self):
        """Until its init runs; how long that took"""
        began = time.monotonic()
        line = ""
        while line != "guest up":
            line = self._line(BOOT)
            if line is None:
                raise Died(f"the guest did not come up within {BOOT} s")
        return time.monotonic() - began

    def _line(self, limit):
        """The next line that is no uevent's, or None"""
        end = time.monotonic() + limit
        while True:
            while b"\n" in self.buffer:
                line, self.buffer = self.buffer.split(b"\n", 1)
                text = line.decode(errors="replace").rstrip("\r")
                if not text.startswith("uevent "):
                    return text
                self.events.append(tuple((text.split(" ") + ["", "", ""])[1:4]))
            left = end - time.monotonic()
            if not select.select([self.port], [], [], max(0, left))[0]:
                return None
            data = self.port.recv(4096)
            if not data:
                raise Died(f"the guest's port was closed: {self.said()}")
            self.buffer += data

    def do(self, command):
        """The answer to a command"""
        self.port.sendall(command.encode() + b"\n")
        line = self._line(LIMIT)
        if line is None:
            raise Died(f"no answer to {command}")
        return line

    def event(self, limit, name, what, action="change"):
        """Is there such an event? It and all before it are taken."""
        end = time.monotonic() + limit
        while True:
            for i, e in enumerate(self.events):
                if e == (action, name, what):
                    del self.events[:i + 1]
                    return True
            if time.monotonic() > end:
                return False
            self._line(0.2)

    def more(self, name, seconds=3):
        """All events of a device until there are none for some seconds: twice
        the time is more than the guest's interval of polling by far"""
        end = time.monotonic() + seconds
        seen = len(self.events)
        while time.monotonic() < end:
            self._line(0.2)
            if len(self.events) != seen:
                seen = len(self.events)
                end = time.monotonic() + seconds
        got = [e for e in self.events if e[1] == name]
        self.events.clear()
        return got
