#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-only
# timeout: 800
"""The tray's verbs over QMP, in QEMU's words, and what a peer may not do."""

import array
import json
import os
import socket
import sys
import tempfile
import time

RUN = os.environ.get("SPICEBD_RUN_DIR", "/run/spicebd")
count = failed = 0


def result(ok, name, why=""):
    global count, failed
    count += 1
    if not ok:
        failed += 1
        print("#", why)
    print(f"{'' if ok else 'not '}ok {count} - {name}", flush=True)


class Qmp:
    def __init__(self, name="control", negotiate=True):
        self.s = socket.socket(socket.AF_UNIX)
        self.s.settimeout(40)
        self.s.connect(f"{RUN}/{name}.sock")
        self.f = self.s.makefile("rb")
        self.events = []
        self.greeting = json.loads(self.f.readline())
        if negotiate:
            self.ok("qmp_capabilities")

    def cmd(self, name, fd=None, **args):
        data = json.dumps({"execute": name, "arguments": {k.replace("_", "-"): v for k, v in args.items()}}).encode()
        anc = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [fd]))] if fd is not None else []
        self.s.sendmsg([data + b"\n"], anc)
        return self.answer()

    def answer(self):
        while True:
            o = json.loads(self.f.readline())
            if "event" not in o:
                return o
            self.events.append(o)

    def ok(self, name, **args):
        o = self.cmd(name, **args)
        if "return" not in o:
            raise AssertionError(f"{name}: {o}")
        return o["return"]

    def block(self, dev):
        return [b for b in self.ok("query-block") if b["device"] == dev][0]

    def moves(self, dev, want):
        """tray events of dev so far, once there are as many as wanted, or too late"""
        end = time.monotonic() + 3
        while True:
            self.ok("query-name")
            got = [e["data"]["tray-open"] for e in self.events
                   if e["event"] == "DEVICE_TRAY_MOVED" and e["data"]["device"] == dev]
            if len(got) >= len(want) or time.monotonic() > end:
                self.events.clear()
                return got
            time.sleep(0.05)


def settle(q, dev):
    """until no probe of udev's has it open: that would hold the tray"""
    end = time.monotonic() + 20
    while time.monotonic() < end:
        if not q.ok("spicebd-query", drive=dev)[0]["openers"]:
            return
        time.sleep(0.05)


def expect_error(q, name, part, cls, cmd, **args):
    o = q.cmd(cmd, **args)
    e = o.get("error", {})
    result(e.get("class") == cls and part in e.get("desc", ""), name, o)


def tray_table(q, dev, tray, img, other):
    def b():
        return q.block(dev)

    def state(want_open, want_medium, name):
        x = b()
        good = ("inserted" in x) == want_medium and (x.get("tray_open") == want_open if tray else "tray_open" not in x)
        result(good, f"{dev}: {name}", x)

    def events(want, name):
        want = want if tray else []
        got = q.moves(dev, want)
        result(got == want, f"{dev}: {name}: tray events {want}", got)

    if b().get("tray_open"):    # as an eject by an earlier test leaves it
        q.cmd("blockdev-close-tray", id=dev)
        q.moves(dev, [False])
    q.events.clear()
    state(False, False, "empty at first")
    q.ok("blockdev-close-tray", id=dev)
    events([], "close on closed")
    q.ok("blockdev-open-tray", id=dev)
    q.ok("blockdev-close-tray", id=dev)
    state(False, False, "open and close without a medium")
    events([True, False], "open and close")
    q.ok("blockdev-change-medium", id=dev, filename=img, format="raw")
    state(False, True, "change into an empty drive")
    events([True, False], "change")
    settle(q, dev)
    q.ok("blockdev-open-tray", id=dev)
    state(True, True, "the medium survives the open tray")
    q.ok("blockdev-close-tray", id=dev)
    state(False, True, "and the close")
    events([True, False], "open and close with a medium")
    settle(q, dev)
    q.ok("blockdev-change-medium", id=dev, filename=other, format="raw")
    state(False, True, "change")
    result(b()["inserted"]["file"] == other, f"{dev}: it is the other one", b())
    q.moves(dev, [True, False])
    q.ok("eject", id=dev, force=True)
    state(True, False, "eject")
    events([True], "eject")
    q.ok("blockdev-change-medium", id=dev, filename=img, format="raw")
    state(False, True, "change of an ejected drive")
    events([False], "change of an ejected drive")

    # the cycle, by nodes
    q.ok("blockdev-add", driver="file", node_name="new", filename=other, read_only=True)
    if tray:
        expect_error(q, f"{dev}: remove with the tray closed", "is not open", "GenericError",
                     "blockdev-remove-medium", id=dev)
    settle(q, dev)
    q.ok("blockdev-open-tray", id=dev)
    expect_error(q, f"{dev}: insert on filled", "already is a medium", "GenericError",
                 "blockdev-insert-medium", id=dev, node_name="new")
    q.ok("blockdev-remove-medium", id=dev)
    state(True, False, "removed")
    q.ok("blockdev-remove-medium", id=dev)
    result(True, f"{dev}: remove of nothing")
    q.ok("blockdev-insert-medium", id=dev, node_name="new")
    state(True, True, "inserted by node")
    expect_error(q, f"{dev}: a node in use stays", "in use", "GenericError", "blockdev-del", node_name="new")
    q.ok("blockdev-close-tray", id=dev)
    state(False, True, "closed")
    result(b()["inserted"]["node-name"] == "new", f"{dev}: the node's name", b())
    events([True, False], "the cycle")
    q.ok("eject", id=dev, force=True)
    q.ok("blockdev-del", node_name="new")
    q.ok("blockdev-close-tray", id=dev)
    if tray:
        q.ok("blockdev-add", driver="file", node_name="n", filename=img, read_only=True)
        expect_error(q, f"{dev}: insert with the tray closed", "is not open", "GenericError",
                     "blockdev-insert-medium", id=dev, node_name="n")
        q.ok("blockdev-del", node_name="n")
    expect_error(q, f"{dev}: a change that fails", "cannot open", "GenericError",
                 "blockdev-change-medium", id=dev, filename="/nonexistent", format="raw")
    q.moves(dev, [True, False])


def read_only_modes(q, rw, ro):
    dev = "spicebd1"

    def change(f, mode):
        settle(q, dev)
        return q.cmd("blockdev-change-medium", id=dev, filename=f, format="raw", **{"read_only_mode": mode})

    change(rw, "read-write")
    result(not q.block(dev)["inserted"]["ro"], "read-write is writable")
    change(rw, "read-only")
    result(q.block(dev)["inserted"]["ro"], "read-only is not")
    change(rw, "retain")
    result(q.block(dev)["inserted"]["ro"], "retain keeps read-only")
    change(rw, "read-write")
    before = q.block(dev)["inserted"]["file"]
    # A descriptor that cannot write, so that root is refused, too.
    fd = os.open(ro, os.O_RDONLY)
    n = q.cmd("add-fd", fd=fd)["return"]["fdset-id"]
    os.close(fd)
    o = change(f"/dev/fdset/{n}", "retain")
    result("error" in o and "read-only" in o["error"]["desc"], "what cannot be written, wanted writable", o)
    x = q.block(dev)["inserted"]
    result(x["file"] == before and not x["ro"], "and the old medium is still there", x)
    q.ok("remove-fd", fdset_id=n)
    q.ok("eject", id=dev)


def peers(q, img):
    s = Qmp("status")
    result("QMP" in s.greeting, "the status socket greets")
    names = {c["name"] for c in s.ok("query-commands")}
    result("eject" not in names and "query-block" in names, "it has queries alone", names)
    expect_error(s, "and refuses others", "not allowed", "CommandNotFound", "eject", id="spicebd1")
    q.ok("spicebd-insert", source=img, drive="spicebd1")
    text = json.dumps(s.ok("spicebd-query")) + json.dumps(s.ok("query-block"))
    result(os.path.basename(img) not in text, "no names or paths on it", text)
    q.ok("eject", id="spicebd1")
    expect_error(q, "an unknown command", "not been found", "CommandNotFound", "frobnicate")
    expect_error(q, "an unknown drive", "spicebd77", "DeviceNotFound", "eject", id="spicebd77")
    expect_error(q, "an argument too many", "'x' is unexpected", "GenericError", "eject", id="spicebd1", x=1)
    expect_error(q, "an argument missing", "'node-name' is missing", "GenericError", "blockdev-del")
    expect_error(q, "an argument of another type", "expected: boolean", "GenericError", "eject",
                 id="spicebd1", force="yes")
    # A crowd: the last are turned away, the first goes on.
    crowd = []
    for _ in range(1000):
        c = socket.socket(socket.AF_UNIX)
        c.setblocking(False)
        try:
            c.connect(f"{RUN}/status.sock")
        except BlockingIOError:
            c.close()
            time.sleep(0.01)
            continue
        crowd.append(c)
    result(q.ok("query-name")["name"] == "spicebdd", "a thousand connections do not disturb")
    for c in crowd:
        c.close()
    end = time.monotonic() + 5
    while time.monotonic() < end:
        try:
            Qmp("status").ok("query-name")
            break
        except (OSError, ValueError):
            time.sleep(0.1)
    else:
        result(False, "and afterwards others may come")
        return
    result(True, "and afterwards others may come")


def main():
    with tempfile.TemporaryDirectory() as d:
        imgs = [f"{d}/{n}.img" for n in ("a", "b", "ro")]
        for i in imgs:
            with open(i, "wb") as f:
                f.truncate(4 << 20)
        q = Qmp()
        tray_table(q, "spicebd0", True, imgs[0], imgs[1])
        tray_table(q, "spicebd1", False, imgs[0], imgs[1])
        read_only_modes(q, imgs[0], imgs[2])
        peers(q, imgs[0])
    print(f"1..{count}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
