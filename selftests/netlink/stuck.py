#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-only
# timeout: 600
#
# Nothing waits for longer than it was told to: a helper that is stopped is
# unbound when its time is over, and those who wait for a helper fail when theirs
# is; nobody is left in uninterruptible sleep; the module goes when its last user
# has. With payload in messages and in registered memory, for both personalities.
import os
import signal
import subprocess
import sys
import time

import helper as H
from helper import (CDROM, DISK, DRIVE_DEL, EJECT, HELPER_LOST, Helper,
                    Netlink, silent, wait_until)
from tap import module, run, same, settle, sh, unload
from watch import (KIND, LONG, blocked, dev, mounter, nobody_is_stuck, out,
                   prober, reader, ready_then_silent, writer)

HERE = os.path.dirname(os.path.abspath(__file__))
MEMORY = 4 << 20
SIZE = 8 << 20


def everybody(index):
    """One of each who can wait for a drive."""
    users = [reader(dev(index)), prober(dev(index)),
             mounter(dev(index), KIND[index])]
    if index == DISK:
        users += [writer(dev(index), "fsync"), writer(dev(index))]
    return users


def serve(index, memory):
    p = subprocess.Popen([sys.executable, HERE + "/helper.py", "--drive",
                          str(index), "--size", "8M", "--memory",
                          str(memory)], stdout=subprocess.PIPE)
    assert p.stdout.readline() == b"ready\n", "the helper did not start"
    settle()
    return p


def strays():
    with open("/sys/module/spicebd/parameters/stray_replies",
              encoding="ascii") as f:
        return int(f.read())


def a_stopped_helper_is_unbound():
    with module("drives=cdrom,disk"):
        nl = Netlink().manage()
        for index in CDROM, DISK:
            for memory in 0, MEMORY:
                what = "drive %d, memory %d" % (index, memory)
                before = strays()
                p = serve(index, memory)
                assert wait_until(lambda: not nl.drive(index)["openers"], LONG)
                nl.set(index, stall_timeout=2, reconnect_timeout=1)
                p.send_signal(signal.SIGSTOP)
                begin = time.monotonic()
                users = everybody(index)
                for user in users:
                    user.end(what)
                took = time.monotonic() - begin
                nobody_is_stuck(what)
                assert took > 2, "%s: given up after %.1f s" % (what, took)
                same(users[0].process.returncode != 0, True, "the read")
                same(nl.drive(index)["helper"], HELPER_LOST, what)
                same(nl.drive(index)["nr_sockets"], 0, what)
                # What it then answers is too late.
                p.send_signal(signal.SIGCONT)
                assert wait_until(lambda: strays() > before, LONG), \
                    what + ": a late answer was not counted"
                same(nl.verb(EJECT, index, True), 0, what)
                p.kill()
                p.wait()


def those_who_wait_for_a_helper(seconds):
    with module("drives=cdrom,disk"):
        nl = Netlink().manage()
        for index in CDROM, DISK:
            for memory in 0, MEMORY:
                what = "drive %d, memory %d, %d s" % (index, memory, seconds)
                p = serve(index, memory)
                assert wait_until(lambda: not nl.drive(index)["openers"], LONG)
                nl.set(index, reconnect_timeout=seconds)
                p.send_signal(signal.SIGUSR1)
                same(p.stdout.readline(), b"silent\n", what)
                first = reader(dev(index))
                assert wait_until(lambda: nl.drive(index)["in_flight"], LONG)
                p.kill()
                p.wait()
                if seconds:
                    assert wait_until(lambda: nl.drive(index)["held"], LONG)
                users = [first] + everybody(index)
                if seconds < 0:
                    assert wait_until(lambda: nl.drive(index)["held"] > 1, LONG)
                    assert "hold_left" not in nl.drive(index), what
                    assert all(u.running() for u in users[:2]), what
                    nl.set(index, reconnect_timeout=1)
                for user in users:
                    user.end(what)
                nobody_is_stuck(what)
                same(first.process.returncode != 0, True, what)
                assert wait_until(lambda: not nl.drive(index)["openers"], LONG)
                same(nl.verb(EJECT, index, True), 0, what)


def waiting_not_at_all():
    those_who_wait_for_a_helper(0)


def waiting_for_two_seconds():
    those_who_wait_for_a_helper(2)


def waiting_for_ever():
    those_who_wait_for_a_helper(-1)


def a_helper_whose_credit_is_at_its_end():
    """What it was given was ended by force, so nothing is started that time
    could run out for; it is found out all the same."""
    for memory in 0, MEMORY:
        with module("drives=cdrom", "queues=1", "depth=1"):
            h = Helper(0, SIZE, memory=memory)
            h.ctl.set(0, stall_timeout=2, reconnect_timeout=1)
            ready_then_silent(h)
            first = reader(dev(0))
            out(h, 0)
            same(h.ctl.verb(H.TRAY_OPEN, 0, True), 0, "the tray")
            first.end("the first read")
            assert wait_until(lambda: not h.ctl.drive(0)["users"], LONG)
            same(h.ctl.verb(H.TRAY_CLOSE, 0), 0, "the tray")
            second = reader(dev(0), 8)
            same(second.end("the second read") != 0, True, "the second read")
            nobody_is_stuck("memory %d" % memory)
            same(h.ctl.drive(0)["helper"], HELPER_LOST, "helper")
            same(h.ctl.verb(EJECT, 0, True), 0, "eject")
            h.close()


def the_module_goes_with_its_last_user():
    for memory in 0, MEMORY:
        sh("modprobe spicebd drives=disk")
        h = Helper(0, SIZE, memory=memory)
        ready_then_silent(h)
        user = writer(dev(0), "fsync")
        out(h, 0)
        assert unload() != 0, "unloaded with requests under way"
        fd = os.open(dev(0), os.O_RDONLY | os.O_NONBLOCK)
        same(h.ctl.verb(DRIVE_DEL, 0, True), 0, "del by force")
        user.end("del by force")
        assert unload() != 0, "unloaded under an open file"
        os.close(fd)
        # The helper is attached, bound and has not answered.
        assert wait_until(lambda: unload() == 0, LONG), "it stays"
        h.close()

        # Nobody has it open, but the partition scan hangs.
        sh("modprobe spicebd drives=disk")
        settle()
        h = Helper(0, SIZE, memory=memory)
        h.behave = silent
        h.insert(wait=0)
        out(h, 0)
        assert wait_until(lambda: unload() == 0, LONG), \
            "a partition scan keeps the module: %r" % blocked()
        h.close()
        nobody_is_stuck("memory %d" % memory)


if __name__ == "__main__":
    run(a_stopped_helper_is_unbound, waiting_not_at_all,
        waiting_for_two_seconds, waiting_for_ever,
        a_helper_whose_credit_is_at_its_end, the_module_goes_with_its_last_user)
