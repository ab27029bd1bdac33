#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-only
# timeout: 400
#
# The daemon's messages to the kernel now and then find no memory, and sendmsg()
# fails: it sends them again, no answer is lost, and no user of the drive sees
# an error. Needs a kernel with fault injection, and build/tests/netlink_fuzz.
import glob
import os
import signal
import subprocess
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(HERE, "../netlink"))
sys.dont_write_bytecode = True
import inject					# noqa: E402
from helper import Netlink, wait_until		# noqa: E402
from tap import run, same, sh			# noqa: E402

FUZZ = os.path.join(HERE, "../../build/tests/netlink_fuzz")
FAULTS = 300


def pid_of_the_daemon():
    return sh("pgrep -x spicebdd").split()[0]


def may_fail(pid, yes):
    for task in glob.glob("/proc/%s/task/*/make-it-fail" % pid):
        with open(task, "w", encoding="ascii") as f:
            f.write("1" if yes else "0")


def a_daemon_whose_messages_find_no_memory():
    inject.need()
    sh("truncate -s 8M /tmp/disk.img")
    sh("spicebdctl insert --disk /tmp/disk.img")
    drive = sh("spicebdctl list --json | jq -r '[.[] | select(.medium != null)][0].drive'").strip()
    pid = pid_of_the_daemon()
    inject.setup(inject.range_of("netlink_sendmsg"))
    for point in inject.POINTS:
        inject.put(point, "task-filter", "Y")
    io = subprocess.Popen([FUZZ, "io", "1", "/dev/" + drive], stdout=subprocess.PIPE, text=True)
    may_fail(pid, True)
    with inject.anybody(20) as failed:
        assert wait_until(lambda: failed() >= FAULTS or io.poll() is not None, 60, 0.2), \
            "only %d faults" % failed()
        count = failed()
    may_fail(pid, False)
    io.send_signal(signal.SIGTERM)
    line = io.stdout.read().strip()
    print("# %d messages found no memory; %s" % (count, line))
    same((io.wait(), count >= FAULTS), (0, True), line)
    same(pid_of_the_daemon(), pid, "the daemon")
    stats = Netlink().stats(int(drive.replace("spicebd", "")))
    same((stats["errors"], stats["refused"]), (0, 0), "errors, refused")
    sh("udevadm settle; spicebdctl eject %s --force" % drive)


run(a_daemon_whose_messages_find_no_memory)
