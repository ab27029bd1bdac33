#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-only
"""The family, driven by the kernel tree's own YNL command line from the
specification alone: do, several do, dump, subscribe, errors."""
import json
import os
import select
import subprocess
import sys
import time

HERE = os.path.dirname(os.path.abspath(__file__))
TREE = os.path.join(HERE, "../../build/ktree")
sys.path.insert(0, os.path.join(HERE, "../netlink"))
from tap import module, run, same  # noqa: E402

CLI = ["/usr/bin/python3", "-u", f"{TREE}/tools/net/ynl/cli.py",
       "--spec", f"{TREE}/Documentation/netlink/specs/spicebd.yaml", "--output-json"]


def cli(*args):
    return subprocess.run([*CLI, *args], capture_output=True, text=True, timeout=60)


def answer(*args):
    r = cli(*args)
    assert r.returncode == 0, r
    return json.loads(r.stdout)


def do_and_dump():
    with module("drives=cdrom,disk"):
        one = answer("--do", "drive-get", "--json", '{"index": 1}')
        same((one["index"], one["name"], one["personality"]), (1, "spicebd1", "disk"), "one")
        every = answer("--dump", "drive-get")
        same([d["personality"] for d in every], ["cdrom", "disk"], "all")
        same(every[1]["name"], one["name"], "and they agree")


def manager():
    """Whoever becomes a manager may add and delete, on the same socket."""
    with module("drives="):
        got = answer("--multi", "manage", "{}", "--multi", "drive-add",
                     '{"personality": "cdrom", "index": 5, "nr-queues": 2, "queue-depth": 8}')
        same((got[1]["index"], got[1]["nr-queues"], got[1]["queue-depth"]), (5, 2, 8), "added")
        answer("--multi", "manage", "{}", "--multi", "drive-del", '{"index": 5}')
        same(answer("--dump", "drive-get"), [], "deleted")


def errors():
    with module("drives=disk"):
        r = cli("--do", "drive-get", "--json", '{"index": 7}')
        assert r.returncode and "No such device" in r.stdout + r.stderr, r
        r = cli("--multi", "manage", "{}", "--multi", "drive-add",
                '{"personality": "disk", "nr-queues": 99}')
        said = r.stdout + r.stderr
        assert r.returncode and "integer out of range" in said, r


def groups_of(pid):
    """Does a netlink socket of that process listen to a group?"""
    with open("/proc/net/netlink") as f:
        rows = [line.split() for line in f.readlines()[1:]]
    return any(int(r[3], 16) for r in rows if int(r[2]) == pid and r[1] == "16")


def subscribe():
    with module("drives="):
        p = subprocess.Popen([*CLI, "--subscribe", "events", "--sleep", "40"],
                             stdout=subprocess.PIPE, text=True)
        end = time.monotonic() + 60
        while not groups_of(p.pid):
            assert time.monotonic() < end and p.poll() is None, "it listens"
            select.select([], [], [], 0.05)
        answer("--multi", "manage", "{}", "--multi", "drive-add",
               '{"personality": "disk", "index": 2}')
        said, _ = p.communicate(timeout=120)
        assert "drive-ntf" in said and "spicebd2" in said and "drive-added" in said, said


run(do_and_dump, manager, errors, subscribe)
