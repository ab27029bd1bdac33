# SPDX-License-Identifier: GPL-2.0-only
"""Programs that use a drive and may be stuck with it, and who is stuck."""
import glob
import os
import subprocess

from helper import CDROM, DISK, SCALE, silent, wait_until

LONG = 120
KIND = {CDROM: "iso9660", DISK: "ext4"}


def dev(index):
    return "/dev/spicebd%d" % index


def out(h, index):
    assert wait_until(lambda: h.ctl.drive(index)["in_flight"] > 0, LONG), \
        "no request is under way"


def ready_then_silent(h):
    h.insert(wait=LONG)
    h.idle(timeout=LONG)
    h.behave = silent


def blocked():
    """Tasks in uninterruptible sleep, kernel threads too: (tid, name)."""
    out = []
    for path in glob.glob("/proc/[0-9]*/task/[0-9]*/stat"):
        try:
            with open(path, encoding="utf-8", errors="replace") as f:
                text = f.read()
        except OSError:
            continue
        name, _, rest = text.partition("(")[2].rpartition(")")
        if rest.split()[0] == "D":
            out.append((int(text.split()[0]), name))
    return out


def nobody_is_stuck(what):
    assert wait_until(lambda: not blocked(), LONG, 0.05), \
        "%s: stuck: %r" % (what, blocked())


class User:
    """A program that uses the drive, and is waited for only by us."""

    def __init__(self, *command):
        self.command = " ".join(command)
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL,
                                        stderr=subprocess.DEVNULL,
                                        stdin=subprocess.DEVNULL)

    def running(self):
        return self.process.poll() is None

    def stuck(self):
        return self.process.pid in [tid for tid, _ in blocked()]

    def end(self, what):
        """Its exit status; it ends, or the test fails."""
        try:
            return self.process.wait(LONG * SCALE)
        except subprocess.TimeoutExpired:
            raise AssertionError("%s: %s does not end; stuck: %r" %
                                 (what, self.command, blocked())) from None


def reader(dev, block=4):
    return User("dd", "if=" + dev, "of=/dev/null", "bs=4k", "count=1",
                "skip=%d" % block, "iflag=direct")


def writer(dev, *more):
    return User("dd", "if=/dev/zero", "of=" + dev, "bs=64k", "count=4",
                "conv=notrunc" + ("," if more else "") + ",".join(more))


def prober(dev):
    return User("blkid", "-p", dev)


def mounter(dev, kind):
    os.makedirs("/tmp/stuck", exist_ok=True)
    return User("mount", "-t", kind, "-o", "ro", dev, "/tmp/stuck")
