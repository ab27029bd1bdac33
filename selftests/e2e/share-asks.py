#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-only
# timeout: 400
"""What a share may ask of an empty drive, and by which reasons of the drive's that is
refused; and what it is told of those who use its medium. The link is a test's own."""
import os
import socket

import fakelink
from snapshot import DRIVE, MIB, NODE, Snapshots
from traylib import PATIENCE, Qmp, Table, same, sh, until

EJECT_REQUEST, INSERT = 9, 4
INSERTED, EJECTED, LOCKED, UNLOCKED, BUSY = range(1, 6)
PORT = int(DRIVE[len("spicebd"):])


class Link(fakelink.Link):
    """One that keeps what its share is told"""

    def __init__(self, name):
        self.heard, self.slow = [], False
        super().__init__(name)

    def notice(self, what, text):
        self.heard.append((what, text))

    def open(self, port, tag):
        """Where it is slow, the daemon waits for the stream"""
        if not self.slow:
            super().open(port, tag)

    def ask(self):
        self.heard.clear()
        with self.lock:
            self.send(EJECT_REQUEST, PORT, 1, flags=INSERT)

    def told(self, what):
        """The text of the next notice of that kind"""
        until(lambda: any(w == what for w, _ in self.heard), f"a notice {what} in {self.heard}")
        return [t for w, t in self.heard if w == what][-1]


class Asks(Snapshots):
    def __init__(self):
        super().__init__()
        path = f"{self.dir}/shared.img"
        with open(path, "wb") as f:
            f.truncate(16 * MIB)
        self.link = Link("fake")
        self.medium_ = fakelink.Medium(path, "shared.img")
        self.link.up(self.medium_)
        self.offered()

    def offered(self):
        """To this drive, not only to others"""
        self.ctl("insert", DRIVE, "spice:fake/shared.img", "--timeout", str(PATIENCE))
        self.settle()
        self.out()
        self.link.heard.clear()

    def state(self):
        return self.q.do("spicebd-query", drive=DRIVE)[0]

    def out(self):
        self.q.cmd("eject", id=DRIVE, force=True)
        until(lambda: not self.state()["medium"], "it is out")

    def __exit__(self, *exc):
        self.out()
        self.link.end()
        super().__exit__(*exc)


def puts_in(b):
    """into an empty drive it is put, and the share is told; not where there is one"""
    b.link.ask()
    b.link.told(INSERTED)
    same(b.state()["medium"]["name"], "shared.img", "the medium")
    b.link.ask()
    same(b.link.told(BUSY), "the drive has a medium", "why not")
    b.out()


def at_once(b):
    """of two wishes one is carried out, the other refused by the first"""
    b.link.slow = True
    b.link.ask()
    until(lambda: [x["owner"] for x in b.state()["blockers"]] == ["insert"], "it is under way")
    b.link.ask()
    same(b.link.told(BUSY), f"drive {DRIVE}: cannot insert into it: insert in progress", "why not")
    b.link.slow = False
    b.link.down()
    b.link.up(b.medium_)
    until(lambda: not b.state()["blockers"], "it is over")
    b.out()
    b.offered()


def beside_another(b):
    """nor is one while the administrator inserts another, or keeps the drive frozen"""
    silent = socket.socket(socket.AF_UNIX)
    silent.bind(f"{b.dir}/silent")
    silent.listen()
    other = Qmp()
    other.send("spicebd-insert", drive=DRIVE, source=f"nbd+unix:///?socket={b.dir}/silent",
               timeout=PATIENCE * 4)
    until(lambda: [x["owner"] for x in b.state()["blockers"]] == ["insert"], "it is under way")
    b.link.ask()
    same(b.link.told(BUSY), f"drive {DRIVE}: cannot insert into it: insert in progress", "why not")
    silent.close()
    other.receive().bad("")
    other.close()
    until(lambda: not b.state()["blockers"], "it is over")
    b.q.do("spicebd-freeze", drive=DRIVE, holder="somebody")
    b.link.ask()
    why = b.link.told(BUSY)
    assert why.startswith(f"drive {DRIVE}: cannot insert into it: it is frozen by somebody"), why
    b.q.do("spicebd-thaw", drive=DRIVE, holder="somebody")
    same(b.state()["medium"], None, "the medium")


def users(b):
    """it is told where its medium is mounted, and who locks it, and when that is over"""
    b.ctl("insert", DRIVE, "spice:fake/shared.img", "--read-write")
    b.settle()
    places = [f"{b.dir}/m1", f"{b.dir}/m 2"]
    for p in places:
        os.mkdir(p)
    sh(f"mkfs.ext4 -qF {NODE}")
    b.settle()
    b.link.heard.clear()
    sh(f"mount {NODE} '{places[0]}'")
    same(b.link.told(LOCKED), f"mounted on {places[0]}", "text")
    b.link.heard.clear()
    sh(f"mount --bind '{places[0]}' '{places[1]}'")
    same(b.link.told(LOCKED), f"mounted on {places[0]} and {places[1]}", "text")
    b.link.heard.clear()
    sh(f"umount '{places[0]}'")
    same(b.link.told(LOCKED), f"mounted on {places[1]}", "text")
    # Mounts of other things are told to nobody.
    b.link.heard.clear()
    sh(f"mount -t tmpfs none '{places[0]}'; umount '{places[0]}'; umount '{places[1]}'")
    b.link.told(UNLOCKED)
    same(b.link.heard, [(UNLOCKED, "")], "what it was told")
    b.link.heard.clear()
    b.q.do("spicebd-lock", drive=DRIVE)
    same(b.link.told(LOCKED), "locked by the administrator there", "text")
    b.q.do("spicebd-unlock", drive=DRIVE)
    b.link.told(UNLOCKED)
    # After a loss it has forgotten all of it.
    sh(f"mount {NODE} '{places[0]}'")
    b.link.told(LOCKED)
    b.link.heard.clear()
    b.link.down()
    until(lambda: b.state()["state"] == "reconnecting", "it is lost")
    b.link.up(b.medium_)
    b.link.told(INSERTED)
    same(b.link.told(LOCKED), f"mounted on {places[0]}", "text")
    same([w for w, _ in b.link.heard], [INSERTED, LOCKED], "what it was told")
    sh(f"umount '{places[0]}'")
    b.link.told(UNLOCKED)
    b.out()


ROWS = (puts_in, at_once, beside_another, users)

if __name__ == "__main__":
    t = Table()
    for fn in ROWS:
        t.add(fn.__doc__, fn)
    t.main(Asks)
