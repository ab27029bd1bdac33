#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-only
"""What a QMP peer may not do: the status socket's limits, wrong arguments, a
crowd of connections."""
import json
import os
import socket
import time

from traylib import DISK, DRIVES, RUN, Bench, Qmp, Table, daemon_pid, until

DRIVE = DRIVES[DISK]


def status_socket_has_queries_alone(_):
    s = Qmp("status")
    names = {c["name"] for c in s.do("query-commands")}
    assert "eject" not in names and "query-block" in names, names
    s.cmd("eject", id=DRIVE).bad("not allowed", "CommandNotFound")
    s.close()


def status_socket_tells_no_names_or_paths(b):
    s = Qmp("status")
    i = b.image("a secret name")
    b.q.do("spicebd-insert", source=i.path, drive=DRIVE)
    text = json.dumps(s.do("spicebd-query")) + json.dumps(s.do("query-block"))
    b.q.do("eject", id=DRIVE, force=True)
    s.do("query-name")
    text += json.dumps(s.events)
    assert i.name not in text and b.dir not in text, text
    s.close()


def an_error(command, args, words, cls="GenericError"):
    return lambda b: b.q.cmd(command, **args).bad(words, cls)


def a_thousand_connections(b):
    """The last are turned away, the first goes on, and others may come after."""
    crowd = []
    for _ in range(1000):
        c = socket.socket(socket.AF_UNIX)
        c.setblocking(False)
        try:
            c.connect(f"{RUN}/status.sock")
            crowd.append(c)
        except BlockingIOError:
            c.close()
            time.sleep(0.01)
    assert len(crowd) > 100, f"only {len(crowd)} of 1000 could connect at all"
    assert b.q.do("query-name")["name"] == "spicebdd"
    for c in crowd:
        c.close()

    def another():
        try:
            s = Qmp("status", timeout=5)
        except (OSError, EOFError, ValueError):
            return False
        s.close()
        return True
    until(another, "others may come")


def descriptors_do_not_grow(b):
    """Of what peers pass and never use, nothing stays when they go."""
    def fds():
        return len(os.listdir(f"/proc/{pid}/fd"))
    pid = daemon_pid()
    before = fds()
    for _ in range(20):
        s = Qmp()
        for _ in range(4):
            r, w = os.pipe()
            s.cmd("add-fd", fd=r)
            os.close(r)
            os.close(w)
        s.close()
    b.q.do("query-name")
    until(lambda: fds() <= before, "descriptors of peers that went are closed")


table = Table()
table.add("the status socket has queries alone", status_socket_has_queries_alone)
table.add("the status socket tells no names and no paths",
          status_socket_tells_no_names_or_paths)
table.add("an unknown command",
          an_error("frobnicate", {}, "not been found", "CommandNotFound"))
table.add("an unknown drive",
          an_error("eject", {"id": "spicebd77"}, "spicebd77", "DeviceNotFound"))
table.add("an argument too many",
          an_error("eject", {"id": DRIVE, "x": 1}, "'x' is unexpected"))
table.add("an argument missing",
          an_error("blockdev-del", {}, "'node-name' is missing"))
table.add("an argument of another type",
          an_error("eject", {"id": DRIVE, "force": "yes"}, "expected: boolean"))
table.add("a thousand connections", a_thousand_connections)
table.add("descriptors that are passed and not used", descriptors_do_not_grow)

if __name__ == "__main__":
    table.main(Bench)
