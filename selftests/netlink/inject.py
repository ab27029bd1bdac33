# SPDX-License-Identifier: GPL-2.0-only
"""Allocations of the module that fail on demand: fault injection of a debug
kernel, narrowed to what has a function of the module among its callers.

See the kernel's Documentation/fault-injection/fault-injection.rst.
"""
import contextlib
import os

from tap import Skip

DEBUG = "/sys/kernel/debug/"
POINTS = ("failslab", "fail_page_alloc")
TIMES = 1 << 30


def available():
    return os.path.exists(DEBUG + "failslab/require-start")


def need():
    if not available():
        raise Skip("this kernel has no fault injection with a stack trace filter")


def put(point, name, value):
    with open(DEBUG + point + "/" + name, "w", encoding="ascii") as f:
        f.write(str(value))


def get(point, name):
    with open(DEBUG + point + "/" + name, encoding="ascii") as f:
        return int(f.read())


def functions():
    """Address, name and module of each; to be asked again when the module was
    loaded anew."""
    with open("/proc/kallsyms", encoding="ascii") as f:
        words = [line.split() for line in f]
    found = [(int(w[0], 16), w[2], w[3] if len(w) > 3 else "") for w in words
             if w[1] in "tT"]
    assert any(f[0] for f in found), "kallsyms does not tell the functions"
    return found


def module_text():
    """The range of the module's functions."""
    ours = [at for at, _, module in functions() if module == "[spicebd]"]
    return min(ours), max(ours) + 4096


def range_of(name):
    """From this function to the next."""
    all_of_them = functions()
    at, = [f[0] for f in all_of_them if f[1] == name]
    return at, min(f[0] for f in all_of_them if f[0] > at)


def setup(text=None):
    """Which allocations may fail: those below functions in this range."""
    low, high = text or module_text()
    for point in POINTS:
        put(point, "probability", 0)
        put(point, "interval", 1)
        put(point, "times", -1)
        put(point, "space", 0)
        put(point, "verbose", 0)
        put(point, "task-filter", "N")
        # also those that may wait for memory
        put(point, "ignore-gfp-wait", "N")
        put(point, "stacktrace-depth", 32)
        put(point, "require-start", "0x%x" % low)
        put(point, "require-end", "0x%x" % high)
    # A copy from or to userspace is no allocation, but would be counted as one.
    put("fail_usercopy", "stacktrace-depth", 32)
    put("fail_usercopy", "require-start", "0x1")
    put("fail_usercopy", "require-end", "0x2")
    put("fail_page_alloc", "ignore-gfp-highmem", "N")
    put("fail_page_alloc", "min-order", 0)


class Nth:
    """The n-th allocation of this thread fails, once."""

    def __init__(self):
        self.fd = os.open("/proc/thread-self/fail-nth", os.O_RDWR | os.O_CLOEXEC)

    def arm(self, n):
        os.pwrite(self.fd, b"%d" % n, 0)

    def disarm(self):
        """Did it come to that?"""
        fired = int(os.pread(self.fd, 16, 0).split(b"\0")[0]) == 0
        os.pwrite(self.fd, b"0", 0)
        return fired


@contextlib.contextmanager
def once(point, space):
    """One allocation of any thread fails, after so many bytes (failslab) or
    pages (fail_page_alloc); yields whether it has come to that."""
    put(point, "space", space)
    put(point, "times", 1)
    put(point, "probability", 100)
    try:
        yield lambda: get(point, "times") == 0
    finally:
        put(point, "probability", 0)


@contextlib.contextmanager
def anybody(percent, times=TIMES, space=0):
    """Allocations of any thread fail; yields how many did so far."""
    for point in POINTS:
        put(point, "space", space)
        put(point, "times", times)
        put(point, "probability", percent)
    try:
        yield lambda: sum(times - get(p, "times") for p in POINTS)
    finally:
        for point in POINTS:
            put(point, "probability", 0)
