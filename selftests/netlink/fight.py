#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-only
# timeout: 900
#
# Under I/O that is verified: helpers that fight for one drive; sockets that
# are bound, register memory and go again; processors that go offline and come
# back, also while requests are held. With payload in messages and in registered
# memory.
import errno
import os
import random
import subprocess
import sys

import helper as H
from helper import (Helper, Memory, Netlink, NetlinkError, Queue,
                    silent, wait_until)
from tap import Skip, module, run, same
from watch import LONG, nobody_is_stuck, reader

HERE = os.path.dirname(os.path.abspath(__file__))
MEMORY = 4 << 20
STORE = "/tmp/spicebd-fight"
CPU = "/sys/devices/system/cpu/cpu1/online"
FIO = ("fio --name=v --filename=/dev/spicebd0 --rw=randwrite --bsrange=4k-128k "
       "--size=4M --offset_increment=4M --numjobs=4 --verify=crc32c "
       "--do_verify=1 --verify_fatal=1 --direct=1 --ioengine=libaio "
       "--iodepth=8 --loops=%d --minimal")


class Fio:
    """Verified writes that go on until they are told to stop."""

    def __init__(self, loops):
        self.process = subprocess.Popen(FIO % loops, shell=True,
                                        stdout=subprocess.PIPE,
                                        stderr=subprocess.STDOUT)

    def running(self):
        return self.process.poll() is None

    def verify(self, what):
        text = self.process.communicate(timeout=600 * H.SCALE)[0].decode()
        same(self.process.returncode, 0, "%s: fio: %s" % (what, text))


def end(h, what):
    stats = h.ctl.stats(0)
    same(stats["errors"], 0, what + ": errors")
    same(h.eject_idle(LONG), 0, what)
    h.close()


# Attaches whenever it can, serves for a moment, goes in one way or another.
FIGHTER = """
import os, random, sys, time
sys.path.insert(0, %r)
import helper as H
store, seed = sys.argv[1], int(sys.argv[2])
rnd = random.Random(seed)
won = lost = 0
H.LIBC.prctl(1, 9)
while not os.path.exists(store + ".stop"):
    try:
        h = H.Helper(0, 16 << 20, store, queues=rnd.choice((1, 2)),
                     memory=rnd.choice((0, 4 << 20)))
    except H.NetlinkError as e:
        # Busy; or detached by nobody but gone: the key is of no use.
        assert e.errno in (H.errno.EBUSY, H.errno.EKEYREJECTED), e
        lost += 1
        time.sleep(rnd.random() / 50)
        continue
    won += 1
    time.sleep(rnd.random() / 4)
    if rnd.random() < .3:
        h.ctl.do(H.DETACH, H.attr(H.H_INDEX, 0))
    h.close()
print(won, lost)
"""


def two_helpers_fight_for_a_drive():
    with module("drives=disk", "queues=2"):
        for name in STORE, STORE + ".stop":
            if os.path.exists(name):
                os.unlink(name)
        h = Helper(0, 16 << 20, STORE)
        h.insert(wait=LONG)
        h.idle(timeout=LONG)
        fio = Fio(3)
        assert wait_until(lambda: h.ctl.drive(0)["in_flight"], LONG)
        seed = random.randrange(1 << 30)
        print("# seed %d" % seed)
        fighters = [subprocess.Popen([sys.executable, "-c", FIGHTER % HERE,
                                      STORE, str(seed + i)],
                                     stdout=subprocess.PIPE)
                    for i in range(2)]
        h.close()
        fio.verify("two helpers")
        with open(STORE + ".stop", "w", encoding="ascii"):
            pass
        total = [0, 0]
        for p in fighters:
            won, lost = map(int, p.communicate(timeout=LONG * H.SCALE)[0].split())
            same(p.returncode, 0, "a fighter")
            assert won > 2, "one of them had the drive %d times" % won
            total = [total[0] + won, total[1] + lost]
        nl = Netlink().manage()
        stats = nl.stats(0)
        print("# attached %d times, refused %d times, %d requests resent" %
              (*total, stats["resent"]))
        same(stats["errors"], 0, "errors")
        assert total[1] > 2 and stats["resent"] > 0, "they never met"
        wait_until(lambda: nl.drive(0)["helper"] != H.HELPER_ATTACHED, LONG)
        h = Helper(0, 16 << 20, STORE)
        end(h, "two helpers")
        os.unlink(STORE)
        os.unlink(STORE + ".stop")


def pinned():
    with open("/proc/sys/vm/stat_refresh", "w", encoding="ascii") as f:
        f.write("1")
    v = dict(line.split() for line in open("/proc/vmstat", encoding="ascii"))
    return int(v["nr_foll_pin_acquired"]) - int(v["nr_foll_pin_released"])


def bound_and_unbound_under_load():
    with module("drives=disk", "queues=2"):
        for memory in 0, MEMORY:
            what = "memory %d" % memory
            before = pinned()
            h = Helper(0, 16 << 20, memory=memory)
            h.insert(wait=LONG)
            h.idle(timeout=LONG)
            room = Memory(MEMORY)
            fio, turns, refused = Fio(2), 0, 0
            while fio.running():
                turns += 1
                key = h.ctl.keys(H.KEY_NEW, 0, 1)[0]
                if turns % 3:
                    # A whole helper's socket, which serves for a moment.
                    h.memory = (0, MEMORY)[turns % 2]
                    q = Queue(h, key, (None, 1, 2)[turns % 3])
                    q.start()
                    q.stop()
                    continue
                # One that takes its share and answers nothing.
                nl = Netlink(1 << 20)
                try:
                    nl.bind(key, 2, room)
                except NetlinkError as e:
                    # What the last ones had is let go a little later.
                    same(e.errno, errno.ENOSPC, what)
                    refused += 1
                    # The key is as good as before: 32 may be unused at most.
                    h.ctl.fails(H.QUEUE_BIND, H.attr(H.H_KEY, key))
                nl.close()
            fio.verify(what)
            print("# %s: %d sockets came and went, %d found no share left" %
                  (what, turns, refused))
            assert turns > 20, turns
            h.memory = memory
            end(h, what)
            assert wait_until(lambda: pinned() == before, LONG), \
                what + ": pages stay pinned"


def online(value):
    with open(CPU, "w", encoding="ascii") as f:
        f.write(str(value))


def processors():
    if not os.path.exists(CPU):
        raise Skip("one processor")


def processors_come_and_go_under_load():
    processors()
    with module("drives=disk", "queues=2"):
        for memory in 0, MEMORY:
            what = "memory %d" % memory
            h = Helper(0, 16 << 20, queues=2, memory=memory)
            h.insert(wait=LONG)
            h.idle(timeout=LONG)
            fio, turns = Fio(2), 0
            while fio.running():
                online(turns % 2)
                turns += 1
            online(1)
            fio.verify(what)
            print("# %s: %d times" % (what, turns))
            assert turns > 4, turns
            end(h, what)


def processors_come_and_go_while_requests_are_held():
    processors()
    with module("drives=disk", "queues=2"):
        for memory in 0, MEMORY:
            what = "memory %d" % memory
            h = Helper(0, 16 << 20, queues=2, memory=memory)
            h.insert(wait=LONG)
            h.idle(timeout=LONG)
            h.behave = silent
            users = [reader("/dev/spicebd0", 8 * i) for i in range(8)]
            nl = Netlink()
            assert wait_until(lambda: nl.drive(0)["in_flight"] == 8, LONG)
            online(0)
            online(1)
            h.close()
            assert wait_until(lambda: nl.drive(0)["held"] == 8, LONG), what
            for _ in range(3):
                online(0)
                online(1)
            online(0)
            # They came over a queue that has no processor now.
            h2 = Helper(0, store=h.store, memory=memory)
            for user in users:
                same(user.end(what), 0, what)
            online(1)
            nobody_is_stuck(what)
            end(h2, what)


run(two_helpers_fight_for_a_drive, bound_and_unbound_under_load,
    processors_come_and_go_under_load,
    processors_come_and_go_while_requests_are_held)
