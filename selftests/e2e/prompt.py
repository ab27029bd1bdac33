#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-only
# timeout: 900
"""Commands answer within 100 ms while the far end answers nothing, for longer than half a
minute, and requests wait for it. A busy machine makes everything late now and then, a
command that waits for I/O is late each time: so the best of several counts, in each part
of that time."""
import os
import signal
import subprocess
import time

import nbd

from snapshot import Snapshots, client
from traylib import PATIENCE, Qmp, Table, same, until

LIMIT = 0.1
SILENT = 31		# s; the far end's
WINDOW = 5		# s; of each the best counts
ROUNDS = 5
DEPTH = 64


class Hung(Snapshots):
    """Drives whose servers are stopped, with requests under way"""

    def __init__(self):
        super().__init__()
        self.n = 0
        self.names, self.servers = [], []
        self.begun = None

    def begin(self, number=1):
        for _ in range(number):
            self.n += 1
            path = f"{self.dir}/far{self.n}.sock"
            self.servers.append(self.spawn("nbdkit", "-f", "--unix", path, "memory", "64M",
                                           stderr=subprocess.DEVNULL))
            until(lambda: os.path.exists(path), "the server listens")
            name = self.q.do("spicebd-drive-add", personality="disk")["drive"]
            self.names.append(name)
            self.q.do("spicebd-insert", drive=name, source=f"nbd+unix:///?socket={path}",
                      read_only_mode="read-write", resend=True)
            until(lambda: self.query(name)["state"] == "ready", "it is ready")
        self.settle()

    def hang(self):
        """Since when nothing is answered: self.begun"""
        for server in self.servers:
            server.send_signal(signal.SIGSTOP)
        jobs = [x for name in self.names for x in (f"--name={name}", f"--filename=/dev/{name}")]
        self.spawn("fio", "--thread", "--direct=1", "--rw=randread", "--ioengine=libaio",
                   f"--iodepth={DEPTH}", "--bs=4k", "--size=64M", "--time_based",
                   "--runtime=3600", *jobs, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        self.waiting()
        self.begun = time.monotonic()

    def waiting(self):
        for name in self.names:
            until(lambda: self.query(name)["in-flight"] + self.query(name)["held"] >= DEPTH // 2,
                  "requests wait")

    def silent(self, seconds):
        """That the far end says nothing for so long is what is tested"""
        time.sleep(max(self.begun + seconds - time.monotonic(), 0))
        self.waiting()

    def end(self):
        for server in self.servers:
            server.send_signal(signal.SIGCONT)
        for name in self.names:
            self.q.do("spicebd-drive-del", drive=name, force=True)
        until(lambda: not self.snapshots(), "no snapshot is left")
        for p in self.children:
            if p.poll() is None:
                p.terminate()
            p.wait(120)
        self.children.clear()
        until(lambda: not {d["drive"] for d in self.q.do("spicebd-query")} & set(self.names),
              "the drives are gone")
        self.names, self.servers = [], []
        self.settle()

    def query(self, name):
        return self.q.do("spicebd-query", drive=name)[0]

    def snapshot(self, name):
        fd = os.open(self.scratch, os.O_TMPFILE | os.O_RDWR, 0o600)
        try:
            return self.q.do("spicebd-snapshot-create", drive=name, name=name,
                             scratch=self.q.add_fd(fd))["uri"]
        finally:
            os.close(fd)


def took(fn, *a, **kw):
    begin = time.monotonic()
    fn(*a, **kw)
    return time.monotonic() - begin


def prompt(times, what):
    best = min(times)
    print(f"# {what}: best {best * 1000:.1f} ms, worst {max(times) * 1000:.1f} ms of {len(times)}")
    assert best < LIMIT, f"{what}: {best:.3f} s at best"


def late(times):
    return [what for what, t in times.items() if min(t) >= LIMIT]


def of_clients(b, second, status):
    """{what: a command}; none of them changes anything in the end"""
    name, = b.names
    commands = {}
    for q, who in ((b.q, "the first client"), (second, "another"), (status, "the status socket")):
        for query in ("spicebd-query", "query-block", "spicebd-query-snapshots", "query-version"):
            commands[f"{query}, {who}"] = lambda q=q, query=query: q.do(query)
    for verb in ("spicebd-lock", "spicebd-unlock"):
        commands[f"{verb}, another"] = lambda verb=verb: second.do(verb, drive=name)
    for verb in ("blockdev-open-tray", "blockdev-close-tray"):
        commands[f"{verb} of another drive, another"] = \
            lambda verb=verb: second.do(verb, id="spicebd0")
    return commands


def lasting(b):
    """status, list and two clients' commands, all the time"""
    second, status = Qmp(), Qmp("status")
    b.begin()
    commands = of_clients(b, second, status)
    programs = {"spicebdctl status": ("status", *b.names), "spicebdctl list": ("list",)}
    alone = {w: min(took(b.ctl, *c) for _ in range(4 * ROUNDS)) for w, c in programs.items()}
    b.hang()
    while time.monotonic() < b.begun + SILENT:
        begin = time.monotonic()
        times, rounds = {}, 0
        while rounds < ROUNDS or time.monotonic() < begin + WINDOW or \
                (late(times) and time.monotonic() < begin + WINDOW + PATIENCE):
            rounds += 1
            for what, fn in commands.items():
                times.setdefault(what, []).append(took(fn))
            # A program takes its own time to start, which is none of spicebdd's.
            for what, argv in programs.items():
                times.setdefault(what, []).append(max(took(b.ctl, *argv) - alone[what], 0))
        for what, t in times.items():
            prompt(t, f"after {begin - b.begun:.0f} s: {what}")
        b.waiting()
    second.close()
    status.close()
    b.end()


def ejects(b, seconds):
    """eject by force, when nothing was answered for {} s"""
    b.begin(ROUNDS)
    b.hang()
    b.silent(seconds)
    times = [took(b.q.do, "eject", id=name, force=True) for name in b.names]
    same({b.query(name)["state"] for name in b.names}, {"empty"}, "the drives")
    b.end()
    prompt(times, "eject, force")


def deletes(b, seconds):
    """deleting a snapshot by force, with a reader that waits, after {} s"""
    b.begin(ROUNDS)
    readers = [client(b.snapshot(name)) for name in b.names]
    until(lambda: [s["clients"] for s in b.snapshots()] == [1] * ROUNDS, "they are read")
    b.hang()
    for h in readers:
        h.aio_pread(nbd.Buffer(4096), 0)
    b.silent(seconds)
    times = [took(b.q.do, "spicebd-snapshot-delete", name=name, force=True) for name in b.names]
    same(b.snapshots(), [], "snapshots")
    b.end()
    prompt(times, "spicebd-snapshot-delete, force")


if __name__ == "__main__":
    t = Table()
    t.add(lasting.__doc__, lasting)
    for after in (0, SILENT // 2, SILENT):
        t.add(ejects.__doc__.format(after), ejects, after)
    for after in (0, SILENT):
        t.add(deletes.__doc__.format(after), deletes, after)
    t.main(Hung)
