#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-only
# timeout: 600
"""Commands answer within 100 ms while the far end answers nothing and requests wait for
it. A busy machine makes everything late now and then, a command that waits for I/O is
late each time: so the best of several counts."""
import os
import signal
import subprocess
import time

import nbd

from snapshot import DRIVE, NODE, Snapshots, client
from traylib import Qmp, Table, same, until

LIMIT = 0.1
ROUNDS = 5
DEPTH = 64


class Hung(Snapshots):
    def __init__(self):
        super().__init__()
        self.n = 0
        self.server = self.job = None

    def begin(self):
        """Requests under way to a server that is stopped"""
        self.n += 1
        path = f"{self.dir}/far{self.n}.sock"
        self.server = self.spawn("nbdkit", "-f", "--unix", path, "memory", "64M",
                                 stderr=subprocess.DEVNULL)
        until(lambda: os.path.exists(path), "the server listens")
        self.q.do("spicebd-insert", drive=DRIVE, source=f"nbd+unix:///?socket={path}",
                  read_only_mode="read-write", resend=True)
        until(lambda: self.query()["state"] == "ready", "it is ready")
        self.settle()

    def hang(self):
        self.server.send_signal(signal.SIGSTOP)
        self.job = self.spawn(
            "fio", "--thread", "--name=r", f"--filename={NODE}", "--direct=1", "--rw=randread",
            "--ioengine=libaio", f"--iodepth={DEPTH}", "--bs=4k", "--time_based",
            "--runtime=600", stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        until(lambda: self.query()["in-flight"] >= DEPTH // 2, "requests are under way")

    def end(self):
        self.server.send_signal(signal.SIGCONT)
        self.q.cmd("eject", id=DRIVE, force=True)
        until(lambda: not self.snapshots(), "no snapshot is left")
        for p in self.children:
            if p.poll() is None:
                p.terminate()
            p.wait(120)
        self.children.clear()
        until(lambda: self.query()["state"] == "empty", "it is empty")
        self.settle()

    def query(self):
        return self.q.do("spicebd-query", drive=DRIVE)[0]


def took(fn, *a, **kw):
    begin = time.monotonic()
    fn(*a, **kw)
    return time.monotonic() - begin


def prompt(times, what):
    best = min(times)
    print(f"# {what}: best {best * 1000:.1f} ms, worst {max(times) * 1000:.1f} ms of {len(times)}")
    assert best < LIMIT, f"{what}: {best:.3f} s at best"


def queries(b):
    """queries of two clients"""
    second, status = Qmp(), Qmp("status")
    b.begin()
    b.hang()
    for q, who in ((b.q, "the first client"), (second, "another"), (status, "the status socket")):
        for name in ("spicebd-query", "query-block", "spicebd-query-snapshots", "query-version"):
            prompt([took(q.do, name) for _ in range(4 * ROUNDS)], f"{name}, {who}")
    assert b.query()["in-flight"] >= DEPTH // 2, "nothing was under way"
    second.close()
    status.close()
    b.end()


def lists(b):
    """spicebdctl status and list, beside what they take by themselves"""
    b.begin()
    commands = (("status", DRIVE), ("list",))
    alone = [min(took(b.ctl, *c) for _ in range(4 * ROUNDS)) for c in commands]
    b.hang()
    for c, base in zip(commands, alone):
        prompt([max(took(b.ctl, *c) - base, 0) for _ in range(4 * ROUNDS)], f"{' '.join(c)}, more")
    b.end()


def ejects(b):
    """eject by force"""
    times = []
    for _ in range(ROUNDS):
        b.begin()
        b.hang()
        times.append(took(b.q.do, "eject", id=DRIVE, force=True))
        b.end()
    prompt(times, "eject, force")


def deletes(b):
    """deleting a snapshot by force, with a reader that waits, too"""
    times = []
    for _ in range(ROUNDS):
        b.begin()
        h = client(b.create("--name", "hung"))
        b.clients(1)
        b.hang()
        h.aio_pread(nbd.Buffer(4096), 0)
        times.append(took(b.q.do, "spicebd-snapshot-delete", name="hung", force=True))
        same(b.snapshots(), [], "snapshots")
        b.end()
    prompt(times, "spicebd-snapshot-delete, force")


if __name__ == "__main__":
    t = Table()
    for fn in (queries, lists, ejects, deletes):
        t.add(fn.__doc__, fn)
    t.main(Hung)
