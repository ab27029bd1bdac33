#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-only
# timeout: 400
"""A share that is killed and started again: the same medium only where the file
can be shown to be the same."""
import os
import shutil
import signal

import sharelib as s
from sharelib import Link, Server, Share, check, equal, random_file, workdir


class Place:
    """A Spice server, a file, and shares of it one after the other."""

    def __init__(self):
        self.dir = workdir()
        self.path = random_file(f"{self.dir}/disk.img", 1 << 20)
        self.serve()
        self.env = {"XDG_STATE_HOME": f"{self.dir}/state"}

    def serve(self):
        self.server = Server()
        self.link = Link(self.server.port())

    def share(self, *args):
        """Starts one; returns it and its offer."""
        share = Share("--uri", self.server.uri, *args, self.path, env=self.env)
        share.event("connected")
        self.link.hello()
        return share, self.link.offer("disk.img")

    def records(self):
        d = f"{self.dir}/state/spicebd/media"
        return [f"{d}/{n}" for n in os.listdir(d)]

    def age(self, seconds=10):
        """As if that had been written so long ago."""
        for r in self.records():
            t = os.stat(r).st_mtime - seconds
            os.utime(r, (t, t))

    def killed(self, *args, then=lambda: None, write=False):
        """Kills a share, and starts another after @then; was it the same medium?"""
        share, before = self.share(*args)
        if write:
            n = self.link.open(before).nbd()
            n.pwrite(os.urandom(4096), 8192)
        kids = list(share.children())
        os.kill(share.p.pid, signal.SIGKILL)
        share.wait()
        for pid in kids:
            check(s.gone(pid), "a server outlives it")
        # libspice-server may have died with a client that was still linking.
        self.serve()
        then()
        share, after = self.share(*args)
        equal(share.stop(), 0, "exit status")
        check(before["incarnation"] != after["incarnation"], "another process, another incarnation")
        return before["medium_id"] == after["medium_id"]


def read_only():
    """a file shared read-only and not changed is the same medium"""
    check(Place().killed(), "another one")


def written():
    """so is one that nobody but its own servers has written to"""
    check(Place().killed("--read-write", write=True), "another one")


def touched():
    """a read-only one with another time of change is another medium, its size and content alike"""
    p = Place()
    check(not p.killed(then=lambda: os.utime(p.path)), "the same")


def written_by_others():
    """one that was written to later than a share can have is another medium"""
    p = Place()

    def write():
        p.age()
        with open(p.path, "r+b") as f:
            f.write(b"somebody else")
    check(not p.killed("--read-write", write=True, then=write), "the same")


def time_set_back():
    """nor does it help to set its time back"""
    p = Place()

    def write():
        old = os.stat(p.path)
        p.age()
        with open(p.path, "r+b") as f:
            f.write(b"somebody else")
        os.utime(p.path, ns=(old.st_atime_ns, old.st_mtime_ns))
    check(not p.killed("--read-write", then=write), "the same")


def replaced():
    """another file of the same name, size and content is another medium"""
    p = Place()

    def replace():
        shutil.copy2(p.path, p.path + ".new")
        os.rename(p.path + ".new", p.path)
    check(not p.killed(then=replace), "read-only: the same")
    check(not p.killed("--read-write", then=replace), "read-write: the same")


def smaller():
    """one that became smaller is another medium"""
    p = Place()
    check(not p.killed("--read-write", then=lambda: os.truncate(p.path, 65536)), "the same")


def no_record():
    """without what was remembered, or with nonsense in its place, it is another medium"""
    p = Place()
    check(not p.killed(then=lambda: os.unlink(p.records()[0])), "none: the same")

    def spoil():
        with open(p.records()[0], "r+") as f:
            f.write("9")
    check(not p.killed(then=spoil), "nonsense: the same")
    check(not p.killed(then=lambda: os.chmod(p.records()[0], 0o666)), "everybody's: the same")


def old_records():
    """what was remembered long ago is forgotten, also of other files"""
    p = Place()
    share, _ = p.share()
    equal(share.stop(), 0, "exit status")
    p.age(40 * 24 * 3600)
    old, = p.records()
    os.rename(old, old + "0")
    share, _ = p.share()
    equal(share.stop(), 0, "exit status")
    equal(p.records(), [old], "records")


if __name__ == "__main__":
    s.run([read_only, written, touched, written_by_others, time_set_back, replaced, smaller,
           no_record, old_records])
