# SPDX-License-Identifier: GPL-2.0-only
"""Our side of it: KTAP, spicebdctl, a share on loopback, and media."""
import json
import os
import random
import signal
import subprocess
import sys
import tempfile

from machine import until

PORT = 5931


class Tap:
    """Results, as they come"""

    def __init__(self):
        self.n = self.failed = 0

    def ok(self, good, name, why=""):
        self.n += 1
        self.failed += not good
        if not good:
            print("#", str(why).replace("\n", "\n# "))
        print(f"{'' if good else 'not '}ok {self.n} - {name}", flush=True)
        return good

    def same(self, got, wanted, name):
        return self.ok(got == wanted, name, f"got {got}, wanted {wanted}")

    def done(self):
        print(f"1..{self.n}", flush=True)
        sys.exit(self.failed != 0)


def ctl(*args, limit=60):
    """(exit status, what it printed)"""
    p = subprocess.run(["spicebdctl", *args], stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                       stdin=subprocess.DEVNULL, text=True, timeout=limit, check=False)
    return p.returncode, p.stdout.strip()


def must(*args):
    """A spicebdctl that has to succeed"""
    status, text = ctl(*args)
    if status:
        raise AssertionError(f"spicebdctl {' '.join(args)}: {text}")
    return text


def status(drive):
    return json.loads(must("status", drive, "--json"))


def settle():
    """Until udev has done with what it was told"""
    subprocess.run(["udevadm", "settle"], check=False)


def make_iso(path, kib, label):
    """An ISO of random files, the same every time; its size"""
    rnd = random.Random(label)
    with tempfile.TemporaryDirectory() as d:
        for i in range(4):
            with open(f"{d}/file{i}", "wb") as f:
                f.write(rnd.randbytes(kib * 256))
        subprocess.run(["genisoimage", "-quiet", "-R", "-V", label, "-o", path, d],
                       check=True, stderr=subprocess.DEVNULL)
    return os.stat(path).st_size


class Child:
    """A program whose lines go to a file; ended with us"""

    def __init__(self, log, *cmd):
        self.log = log
        with open(log, "wb") as f:
            self.p = subprocess.Popen(cmd, stdin=subprocess.DEVNULL, stdout=f,
                                      stderr=subprocess.STDOUT)

    def said(self):
        with open(self.log, encoding="utf-8", errors="replace") as f:
            return f.read()

    def await_line(self, part, limit=30):
        return until(limit, lambda: part in self.said() or self.p.poll() is not None) and \
            part in self.said()

    def end(self, sig=signal.SIGTERM, limit=30):
        """Its exit status"""
        if self.p.poll() is None:
            self.p.send_signal(sig)
        try:
            return self.p.wait(limit)
        except subprocess.TimeoutExpired:
            self.p.kill()
            return self.p.wait()


class Share(Child):
    """A Spice client on loopback that shares these files"""

    def __init__(self, directory, *files):
        password = f"{directory}/password"
        if not os.path.exists(password):
            with open(os.open(password, os.O_CREAT | os.O_WRONLY, 0o600), "w",
                      encoding="ascii") as f:
                f.write("under-qemu\n")
            must("listen", f"127.0.0.1:{PORT}", "--password-file", password)
        super().__init__(f"{directory}/share.log", "spicebd-share", "--uri",
                         f"spice://127.0.0.1:{PORT}", "--password-file", password, "--wait",
                         "--json", *files)
        wanted = {os.path.basename(f) for f in files if not f.startswith("-")}

        def offered():
            have = json.loads(must("media", "--json"))
            return wanted <= {x["name"] for link in have for x in link["media"]}
        if not until(60, offered):
            raise AssertionError(f"the share offers nothing: {self.said()}")


class Follower(Child):
    """spicebdctl qemu"""

    def __init__(self, directory, socket, drive="spicebd0"):
        super().__init__(f"{directory}/follower-{drive}", "spicebdctl", "qemu", drive,
                         "--qmp", socket)
        if not self.await_line("follows"):
            raise AssertionError(f"spicebdctl qemu: {self.said()}")
