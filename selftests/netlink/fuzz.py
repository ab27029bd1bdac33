#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-only
# timeout: 900
#
# Messages that are nearly right, by the hundred thousand, from managers, from
# bound sockets and from users without rights, while two drives are used whose
# data is verified. Afterwards those have lost nothing, nobody without rights
# has got anything done, and every drive can still be deleted, made and read.
#
#   SPICEBD_FUZZ_MESSAGES   how many the kernel has to answer (default 20000)
#   SPICEBD_FUZZ_SECONDS    limit for them (default 400; a slow machine stretches it)
#   SPICEBD_FUZZ_SEED       default: another one each time
#
# Built before, by fuzz/build. It leaves its figures in $SPICEBD_SHARE.
import json
import os
import signal
import subprocess
import sys
import time

import helper as H
from helper import Helper, Netlink, wait_until
from tap import module, run, same

HERE = os.path.dirname(os.path.abspath(__file__))
FUZZ = os.path.join(HERE, "../../build/tests/netlink_fuzz")
SAFE, WILD = (62, 63), (2, 3, 4, 5)
MESSAGES = int(os.environ.get("SPICEBD_FUZZ_MESSAGES", "20000"))
SECONDS = int(os.environ.get("SPICEBD_FUZZ_SECONDS", "400")) * H.SCALE
SEED = int(os.environ.get("SPICEBD_FUZZ_SEED", "0")) or \
    int.from_bytes(os.urandom(4), "little") | 1
# What anybody may do.
OPEN_TO_ALL = {"drive-get"}
result = {}
procs = {}


def start(name, *command):
    procs[name] = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    return procs[name]


def serve_the_safe_drives():
    nl = Netlink().manage()
    for index, more in zip(SAFE, ((), ("--memory", "4M"))):
        nl.add(H.DISK, index=index, nr_queues=2, depth=16)
        p = start("helper%d" % index, sys.executable, os.path.join(HERE, "helper.py"),
                  "--drive", str(index), "--size", "4M", "--queues", "2", *more)
        same(p.stdout.readline(), "ready\n", "helper of %d" % index)
    for index in WILD:
        nl.add(H.DISK if index & 1 else H.CDROM, index=index, nr_queues=2, depth=8)
    nl.close()
    for index in SAFE:
        start("io%d" % index, FUZZ, "io", str(SEED + index), "/dev/spicebd%d" % index)


def fuzz():
    began = time.monotonic()
    p = start("fuzz", FUZZ, str(SEED), str(MESSAGES), str(SECONDS))
    lines = p.stdout.read().splitlines()
    same(p.wait(), 0, "exit status of the fuzzer")
    result.update(json.loads(lines[-1]))
    errors, done = {}, {}
    for a in result["actors"]:
        for into, what in ((errors, "errors"), (done, "done")):
            for k, v in a[what].items():
                into[k] = into.get(k, 0) + v
    print("# seed %d: %d messages answered in %d s, %d opens, %d requests given to the fuzzer"
          % (SEED, result["messages"], time.monotonic() - began, result["opened"],
             sum(a["requests"] for a in result["actors"])))
    print("# errors: " + " ".join("%s:%d" % (os.strerror(int(k)).replace(" ", "_"), v)
                                  for k, v in sorted(errors.items(), key=lambda e: -e[1])))
    print("# succeeded: " + " ".join("%s:%d" % e for e in sorted(done.items())))
    share = os.environ.get("SPICEBD_SHARE")
    if share:
        with open(os.path.join(share, "fuzz-%d.json" % SEED), "w", encoding="ascii") as f:
            json.dump(result, f)
    assert result["messages"] >= MESSAGES, "too slow: %d of %d messages in %d s" % (
        result["messages"], MESSAGES, SECONDS)
    # What never succeeds is not tested behind its first check.
    # Some succeed by chance only, so seldom that it takes many messages.
    rare = ("tray-open", "lock", "key-new") if MESSAGES >= 100000 else ()
    for command in ("attach", "queue-bind", "medium-insert", "unlock", "drive-set",
                    "link-report") + rare:
        assert done.get(command), command + " never succeeded"
    for command in ("io-complete", "io-answers"):
        assert done.get(command, 0) >= MESSAGES // 1000, "only %d %s succeeded" % (
            done.get(command, 0), command)


def users_without_rights_got_nothing_done():
    for a in result["actors"]:
        if a["role"] in ("nobody", "namespace"):
            assert a["answered"] > 100, "%s sent next to nothing" % a["role"]
            same(set(a["done"]) - OPEN_TO_ALL, set(), a["role"])


def the_safe_drives_lost_nothing():
    for index in SAFE:
        p = procs["io%d" % index]
        same(p.poll(), None, "traffic on %d has ended: %s" % (
            index, p.stdout.read() if p.poll() is not None else ""))
        p.send_signal(signal.SIGTERM)
        text = p.stdout.read()
        print("# " + text.strip())
        same(p.wait(), 0, text)
        assert int(text.split()[1]) > 20, "there was next to no traffic"
        stats = Netlink().stats(index)
        same((stats["errors"], stats["refused"]), (0, 0), "errors, refused on %d" % index)


def every_drive_can_be_deleted():
    nl = Netlink().manage()
    for d in nl.drives():
        if d["index"] not in SAFE:
            same(nl.verb(H.DRIVE_DEL, d["index"], True), 0, "delete %d" % d["index"])
    assert wait_until(lambda: {d["index"] for d in nl.drives()} <= set(SAFE), 60)
    nl.close()


def a_new_drive_works():
    nl = Netlink().manage()
    # Its number is free when the last user of the old one lets it go.
    def add():
        try:
            return nl.add(H.DISK, index=WILD[0])
        except H.NetlinkError:
            return None
    assert wait_until(add, 60), "the number is not free again"
    h = Helper(WILD[0], 4 << 20)
    h.insert(wait=60)
    data = os.urandom(65536)
    fd = os.open("/dev/spicebd%d" % WILD[0], os.O_RDWR | os.O_SYNC)
    os.pwrite(fd, data, 4096)
    os.close(fd)
    same(h.store.read(4096, len(data)) == data, True, "what was written")
    h.done()
    same(nl.verb(H.DRIVE_DEL, WILD[0], True), 0, "delete")


def the_module_can_be_unloaded():
    for index in SAFE:
        procs["helper%d" % index].kill()
        procs["helper%d" % index].wait()
    assert wait_until(lambda: os.system("rmmod spicebd 2>/dev/null") == 0, 60), \
        "rmmod: " + subprocess.getoutput("rmmod spicebd; fuser -v /dev/spicebd*")
    with module("drives=disk"):
        same(len(Netlink().drives()), 1, "drives")


def begin():
    os.system("modprobe spicebd drives=")
    serve_the_safe_drives()


begin()
run(fuzz, users_without_rights_got_nothing_done, the_safe_drives_lost_nothing,
    every_drive_can_be_deleted, a_new_drive_works, the_module_can_be_unloaded)
