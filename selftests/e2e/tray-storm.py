#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-only
# timeout: 1500
"""Odd timing: three QMP clients at once on the same two drives, and a spicebdd
that is killed while it changes a medium."""
import json
import os
import random
import re
import select
import signal
import threading
import time

from traylib import CDROM, DISK, DRIVES, PATIENCE, RUN, Bench, Qmp, Table, daemon_pid, same, sh, until

CYCLES = 200
CLIENTS = 3
KILLS = 10
SEED = 20
# What three who do not know of each other may be told. Anything else is wrong.
TOLERATED = re.compile(r"busy|in progress|already (is|has)|is not open|"
                       r"ejected before it was readable|ended by an eject|still open|"
                       r"is locked and force|one of the two would write")


def sizes(pid):
    """Resident KiB, descriptors, threads."""
    with open(f"/proc/{pid}/status", encoding="ascii") as f:
        text = f.read()
    number = {k: int(re.search(rf"^{k}:\s+(\d+)", text, re.M).group(1))
              for k in ("VmRSS", "Threads")}
    return number["VmRSS"], len(os.listdir(f"/proc/{pid}/fd")), number["Threads"]


class Client(threading.Thread):
    """One connection: commands with an id, each answered exactly once."""

    def __init__(self, number, cycles, images):
        super().__init__(daemon=True)
        self.q = Qmp(timeout=4 * PATIENCE)
        self.random = random.Random(SEED + number)
        self.number, self.cycles, self.images = number, cycles, images
        self.sent = self.done = 0
        self.told = {}
        self.wrong = None
        self.generation = {}

    def cmd(self, name, **args):
        self.sent += 1
        line = {"execute": name, "id": [self.number, self.sent],
                "arguments": {k.replace("_", "-"): v for k, v in args.items()}}
        self.q.sock.sendall(json.dumps(line).encode() + b"\n")
        while True:
            o = self.q.read()
            if "event" in o:
                self.event(o)
                continue
            same(o.get("id"), line["id"], "id of an answer")
            break
        if "error" in o:
            assert TOLERATED.search(o["error"]["desc"]), f"{name} {args}: {o}"
            self.told[name] = self.told.get(name, 0) + 1
        else:
            self.done += 1
        return o

    def event(self, o):
        if o["event"] == "SPICEBD_MEDIUM_CHANGED":
            d = o["data"]
            last = self.generation.get(d["drive"], 0)
            assert d["generation"] >= last, f"generation went back: {last}, then {o}"
            self.generation[d["drive"]] = d["generation"]

    def cycle(self):
        drive = self.random.choice(list(DRIVES.values()))
        one, two = self.random.sample(self.images, 2)
        self.cmd("spicebd-insert", drive=drive, source=one.path)
        self.cmd("blockdev-change-medium", id=drive, filename=two.path, format="raw",
                 force=self.random.random() < 0.5)
        if drive == DRIVES[CDROM]:
            self.cmd("blockdev-open-tray", id=drive)
            self.cmd("blockdev-close-tray", id=drive)
        self.cmd("eject", id=drive, force=self.random.random() < 0.7)

    def run(self):
        try:
            for _ in range(self.cycles):
                self.cycle()
            self.cmd("query-name")
            extra = select.select([self.q.sock], [], [], 0)[0] and self.q.read()
            assert not extra or "event" in extra, f"an answer too many: {extra}"
        except BaseException as e:  # pylint: disable=broad-except
            self.wrong = e


def storm(images, cycles):
    clients = [Client(i, cycles // CLIENTS + 1, images) for i in range(CLIENTS)]
    for c in clients:
        c.start()
    for c in clients:
        c.join(1200)
        assert not c.is_alive(), f"client {c.number} waits after {c.sent} commands"
    for c in clients:
        c.q.close()
        if c.wrong:
            raise AssertionError(f"client {c.number}, command {c.sent}: {c.wrong!r}")
    return clients


def media(b):
    """Three files and an NBD server, so that both ways of connecting are used."""
    if "storm" not in b.made:
        b.made["storm"] = [b.image(f"storm {i}") for i in range(3)]
        b.made["storm"].append(b.export("storm nbd"))
    return b.made["storm"]


def usable(b):
    """Both drives take a medium, show it and give it back."""
    for d in b.drives.values():
        d.empty()
        for i in media(b)[2:]:
            b.q.do("spicebd-insert", drive=d.name, source=i.path)
            d.settle()
            d.holds("closed", i)
            b.q.do("eject", id=d.name)
            d.empty()


def quiet(b):
    """What ejected media leave ends by itself: their servers, their tasks."""
    for d in b.drives.values():
        d.empty()
    until(lambda: not [n for n in os.listdir(f"{RUN}/nbdkit") if n.endswith(".ctl")],
          "no file server is left")


def three_clients(b):
    images = media(b)
    storm(images, 30)		# libraries loaded, caches filled
    quiet(b)
    pid = daemon_pid()
    before = sizes(pid)
    began = time.monotonic()
    clients = storm(images, CYCLES)
    took = time.monotonic() - began
    quiet(b)
    same(daemon_pid(), pid, "spicebdd's pid")
    until(lambda: sizes(pid)[2] <= before[2], "its tasks have ended")
    after = sizes(pid)
    sent, done = sum(c.sent for c in clients), sum(c.done for c in clients)
    told = {}
    for c in clients:
        for k, n in c.told.items():
            told[k] = told.get(k, 0) + n
    print(f"# {sum(c.cycles for c in clients)} cycles in {took:.0f} s: {sent} commands, "
          f"{done} done, refused: {told}")
    print("# KiB resident, descriptors, threads: %d, %d, %d; afterwards %d, %d, %d"
          % (before + after))
    assert done > CYCLES, "hardly anything was done"
    assert after[0] - before[0] < 2048, "spicebdd grew by more than 2 MiB"
    assert after[1] <= before[1], "descriptors were left open"
    usable(b)


def state_after(q, drive):
    """What a restarted spicebdd makes of the drive, once it knows."""
    def known():
        o = q.do("spicebd-query", drive=drive)[0]
        return o if o["state"] in ("ready", "empty", "error") else None
    return until(known, f"{drive} is ready or empty", 90)


def reconnect(b, old_pid):
    """To the spicebdd that was started in place of the killed one."""
    until(lambda: sh("pgrep -x spicebdd", check=False).split() not in ([], [str(old_pid)]),
          "another spicebdd", 60)
    b.q.close()
    b.q = Qmp()
    b.marker.q = b.q
    for d in b.drives.values():
        d.q = b.q


def time_of_change(b, drive, old, new):
    """How long one takes here and now; the answer comes when it is readable."""
    b.q.do("spicebd-insert", drive=drive.name, source=old.path)
    drive.settle()
    began = time.monotonic()
    b.q.do("blockdev-change-medium", id=drive.name, filename=new.path, format="raw")
    took = time.monotonic() - began
    drive.empty()
    return took


def killed_once(b, drive, old, new, delay):
    """Kills spicebdd some time into a change; which medium is there then."""
    b.q.do("spicebd-insert", drive=drive.name, source=old.path)
    drive.settle()
    pid = daemon_pid()
    b.q.send("blockdev-change-medium", id=drive.name, filename=new.path, format="raw")
    time.sleep(delay)
    os.kill(pid, signal.SIGKILL)
    reconnect(b, pid)
    o = state_after(b.q, drive.name)
    drive.settle()
    if not o["medium"]:
        same(drive.block().get("inserted"), None, "query-block of an empty drive")
        got = None
    else:
        got = next(i for i in (old, new) if i.name == o["medium"]["name"])
        if o["tray"] == "open":
            b.q.do("blockdev-close-tray", id=drive.name)
            until(lambda: drive.kernel_status() == "ready", "it is readable")
        drive.holds("closed", got)
    drive.empty()
    return got


def killed_in_a_change(b, personality):
    """At ten points from its beginning to well after its end."""
    drive = b.drives[personality]
    old, new = media(b)[:2]
    found = {"old": 0, "new": 0, "empty": 0}
    drive.empty()
    took = time_of_change(b, drive, old, new)
    for n in range(KILLS):
        got = killed_once(b, drive, old, new, took * 1.5 * n / (KILLS - 1))
        found["old" if got is old else "new" if got is new else "empty"] += 1
    print(f"# a change takes {took:.2f} s; spicebdd killed at {KILLS} points of it, "
          f"found afterwards: {found}")
    assert found["old"] and found["new"], "not from before to after the change"
    usable(b)
    quiet(b)


def killed_maker_of_sockets(b):
    """spicebdd's child keeps the one right that it gave up. Without it spicebdd
    is started anew; a medium that is in stays in, and others can come."""
    disk, cd = b.drives[DISK], b.drives[CDROM]
    disk.empty_all()
    here, other = media(b)[:2]
    b.q.do("spicebd-insert", drive=disk.name, source=here.path)
    disk.settle()
    pid = daemon_pid()
    os.kill(int(sh("pgrep -x spicebdd-sock")), signal.SIGKILL)
    reconnect(b, pid)
    same(state_after(b.q, disk.name)["state"], "ready", "the medium that was in")
    disk.settle()
    disk.holds("closed", here)
    b.q.do("spicebd-insert", drive=cd.name, source=other.path, read_only_mode="read-only")
    cd.settle()
    cd.holds("closed", other)
    disk.empty_all()


table = Table()
table.add("storm: three clients, insert, change, tray, eject", three_clients)
for p in (CDROM, DISK):
    table.add(f"kill: spicebdd in the middle of a change, {p}", killed_in_a_change, p)
table.add("kill: spicebdd's maker of sockets", killed_maker_of_sockets)

if __name__ == "__main__":
    table.main(Bench)
