# SPDX-License-Identifier: GPL-2.0-only
"""KTAP output, and the module, for the tests of this directory.

A test is a function without arguments that raises an exception to fail, or
Skip; its name, with spaces, is what is printed.
"""
import contextlib
import os
import subprocess
import sys
import time
import traceback


class Skip(Exception):
    """Why a test cannot be run here."""


def run(*tests):
    """Runs the tests and exits: 0 if none failed."""
    print("TAP version 13\n1..%d" % len(tests), flush=True)
    failed = 0
    for i, test in enumerate(tests, 1):
        name = test.__name__.replace("_", " ")
        try:
            test()
            print("ok %d %s" % (i, name), flush=True)
        except Skip as e:
            print("ok %d %s # SKIP %s" % (i, name, e), flush=True)
        except BaseException:  # pylint: disable=broad-except
            failed += 1
            for line in traceback.format_exc().splitlines():
                print("# " + line)
            print("not ok %d %s" % (i, name), flush=True)
    sys.stdout.flush()
    os._exit(bool(failed))


def sh(command, check=True):
    """Runs a shell command; its output as text, or with check=False its
    exit status."""
    p = subprocess.run(["sh", "-c", command], stdout=subprocess.PIPE,
                       stderr=subprocess.STDOUT, check=False)
    text = p.stdout.decode(errors="replace")
    if not check:
        return p.returncode
    assert p.returncode == 0, "%s: %s" % (command, text)
    return text


def load(*params):
    """Loads the module; its exit status."""
    return subprocess.run(["modprobe", "spicebd", *params],
                          stderr=subprocess.DEVNULL, check=False).returncode


def unload():
    """Unloads the module; its exit status."""
    return subprocess.run(["rmmod", "spicebd"], stderr=subprocess.DEVNULL,
                          check=False).returncode


def gone():
    """Unloads the module when udev, which may look into a drive at any time
    after a writer has closed it, lets go of it."""
    end = time.monotonic() + 30
    while True:
        settle()
        if unload() == 0:
            return
        assert time.monotonic() < end, "cannot unload the module"
        time.sleep(0.1)


@contextlib.contextmanager
def module(*params):
    """With the module loaded; a test begins with a fresh one."""
    if os.path.exists("/sys/module/spicebd"):
        gone()
    assert load(*params) == 0, "cannot load the module"
    settle()
    yield
    gone()


def settle():
    """Waits until udev has let go of our devices."""
    subprocess.run(["udevadm", "settle"], stderr=subprocess.DEVNULL,
                   check=False)


def same(got, expected, what=""):
    assert got == expected, "%s: %r, expected %r" % (what, got, expected)
