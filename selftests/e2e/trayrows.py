# SPDX-License-Identifier: GPL-2.0-only
"""The rows of the acceptance table, once, for every way of giving the verbs.

The names are those of the methods of QEMU's iotest 118, from which the table
comes; Documentation/tray-acceptance.rst lists them. What each row expects is in
terms of a drive, so it holds for QMP and for spicebdctl alike.
"""
import os
import subprocess

from traylib import CDROM, DISK, PATIENCE, Answer

IS_OPEN = "is not open"
IS_FILLED = "already is a medium|has a medium"


# Ways of giving the verbs


class ByDevice:
    """QMP, the drive by "device", the media by file name."""
    refused = "GenericError"
    key = "device"

    def __init__(self, bench, drive):
        self.bench, self.q, self.drive = bench, bench.q, drive

    def do(self, command, **args):
        args[self.key] = self.drive.name
        return self.q.cmd(command, **args)

    def open(self, force=None):
        return self.do("blockdev-open-tray", force=force)

    def close(self):
        return self.do("blockdev-close-tray")

    def eject(self, force=None):
        return self.do("eject", force=force)

    def remove(self, force=None):
        return self.q.cmd("blockdev-remove-medium", id=self.drive.name, force=force)

    def change(self, image, mode=None, force=None):
        return self.do("blockdev-change-medium", filename=image.path, format="raw",
                       read_only_mode=mode, force=force)

    def insert(self, image, read_only=None):
        """By node, as there is no other way in QMP."""
        node = self.bench.add_node(driver="file", filename=image.path,
                                   read_only=read_only)
        return self.q.cmd("blockdev-insert-medium", id=self.drive.name, node_name=node)

    def fill(self, image):
        self.change(image).good()


class ByNode(ByDevice):
    """QMP, the drive by "id", what it is filled with by node, over NBD."""
    key = "id"

    def fill(self, image):
        node = self.bench.add_node(driver="nbd", server=image.server())
        self.q.do("blockdev-open-tray", id=self.drive.name)
        self.q.do("blockdev-insert-medium", id=self.drive.name, node_name=node)
        self.q.do("blockdev-close-tray", id=self.drive.name)


class ByCtl:
    """spicebdctl."""
    refused = "exit status 1"

    def __init__(self, bench, drive):
        self.bench, self.q, self.drive = bench, bench.q, drive

    def run(self, verb, *args):
        argv = ["spicebdctl", verb, *args]
        p = subprocess.run(argv, capture_output=True, text=True, check=False,
                           timeout=PATIENCE * 2)
        self.q.heard.append(f"-> {' '.join(argv)}: {p.returncode} {p.stdout}{p.stderr}")
        if p.returncode == 0:
            assert not p.stderr, f"{argv}: done, but said {p.stderr!r}"
            return Answer(p.stdout)
        lines = p.stderr.splitlines()
        assert len(lines) == 1, f"{argv}: not one line of error: {p.stderr!r}"
        return Answer(None, f"exit status {p.returncode}", lines[0])

    def force(self, force):
        return ["--force"] if force else []

    def open(self, force=None):
        return self.run("open", self.drive.name, *self.force(force))

    def close(self):
        return self.run("close", self.drive.name)

    def eject(self, force=None):
        return self.run("eject", self.drive.name, *self.force(force))

    def remove(self, force=None):
        return self.run("remove", self.drive.name, *self.force(force))

    def change(self, image, mode=None, force=None):
        mode = [f"--{mode}"] if mode else []
        return self.run("change", self.drive.name, image.path, *mode, *self.force(force))

    def insert(self, image, read_only=None):
        mode = ["--read-only"] if read_only else []
        return self.run("insert", "--on-tray", self.drive.name, image.path, *mode)

    def fill(self, image):
        self.run("insert", self.drive.name, image.path).good()


# The rows


class Case:
    """One drive, filled or empty, in one hand."""

    def __init__(self, bench, personality, hand, filled):
        self.drive = bench.drives[personality]
        self.hand = hand(bench, self.drive)
        self.filled = filled
        self.old, self.new = bench.media(hand)
        self.tray = self.drive.has_tray
        self.inside = self.old if filled else None

    def begin(self):
        self.drive.empty_all()
        if self.filled:
            self.hand.fill(self.old)
            self.drive.settle()
        self.drive.bench.drop_nodes()
        self.drive.forget()
        self.drive.holds("closed", self.inside)

    def went(self):
        """Events of the medium that is taken away, if there is one."""
        return [None] if self.filled else []

    def hides(self):
        """... of the tray that opens with it; a slot has none."""
        return self.went() if self.tray else []

    def shows(self):
        return [self.old.name] if self.filled and self.tray else []

    def refuse(self, answer, words):
        answer.bad(words, self.hand.refused)


def test_blockdev_change_medium(c):
    c.hand.change(c.new).good()
    c.drive.events(["open", "closed"], c.went() + [c.new.name])
    c.drive.holds("closed", c.new)


def test_eject(c):
    c.hand.eject(force=True).good()
    c.drive.events(["open"], c.went())
    c.drive.holds("open", None)


def test_tray_eject_change(c):
    c.hand.eject(force=True).good()
    c.drive.events(["open"], c.went())
    c.drive.holds("open", None)
    c.hand.change(c.new).good()
    c.drive.events(["closed"], [c.new.name])
    c.drive.holds("closed", c.new)


def test_tray_open_close(c):
    c.hand.open(force=True).good()
    c.drive.events(["open"], c.hides())
    c.drive.holds("open", c.inside)
    c.hand.close().good()
    c.drive.events(["closed"], c.shows())
    c.drive.holds("closed", c.inside)


def test_tray_eject_close(c):
    c.hand.eject(force=True).good()
    c.drive.events(["open"], c.went())
    c.drive.holds("open", None)
    c.hand.close().good()
    c.drive.events(["closed"])
    c.drive.holds("closed", None)


def test_tray_open_change(c):
    c.hand.open(force=True).good()
    c.drive.events(["open"], c.hides())
    c.drive.holds("open", c.inside)
    c.hand.change(c.new).good()
    c.drive.events(["closed"], ([] if c.tray else c.went()) + [c.new.name])
    c.drive.holds("closed", c.new)


def test_cycle(c, read_only=None):
    c.hand.open(force=True).good()
    c.drive.events(["open"], c.hides())
    c.drive.holds("open", c.inside)
    c.hand.remove().good()
    c.drive.events([], [] if c.tray else c.went())
    c.drive.holds("open", None)
    c.hand.insert(c.new, read_only).good()
    c.drive.events([], [] if c.tray else [c.new.name])
    c.drive.holds("open", c.new)
    c.hand.close().good()
    c.drive.events(["closed"], [c.new.name] if c.tray else [])
    c.drive.holds("closed", c.new, ro=bool(read_only) or c.tray)


def test_cycle_read_only_media(c):
    test_cycle(c, read_only=True)


def test_close_on_closed(c):
    c.hand.close().good()
    c.drive.events()
    c.drive.holds("closed", c.inside)


def test_remove_on_closed(c):
    """A slot is never closed: what is in it can be taken."""
    answer = c.hand.remove()
    if c.tray:
        c.refuse(answer, IS_OPEN)
        c.drive.events()
        c.drive.holds("closed", c.inside)
    else:
        answer.good()
        c.drive.events([], c.went())
        c.drive.holds("closed", None)


def test_insert_on_closed(c):
    """A slot is never closed: it is empty, or it has a medium already."""
    answer = c.hand.insert(c.new)
    if c.tray or c.filled:
        # Both are wrong with a filled tray: any of the two may be said.
        c.refuse(answer, f"{IS_OPEN}|{IS_FILLED}" if c.filled and c.tray else
                 IS_OPEN if c.tray else IS_FILLED)
        c.drive.events()
        c.drive.holds("closed", c.inside)
    else:
        answer.good()
        c.drive.events([], [c.new.name])
        c.drive.holds("closed", c.new)


def test_insert_on_filled(c):
    c.hand.open().good()
    c.drive.events(["open"], c.hides())
    c.refuse(c.hand.insert(c.new), IS_FILLED)
    c.drive.events()
    c.drive.holds("open", c.old)


def test_remove_on_empty(c):
    c.hand.open().good()
    c.drive.events(["open"])
    c.hand.remove().good()
    c.drive.events()
    c.drive.holds("open", None)


ALWAYS = (test_blockdev_change_medium, test_eject, test_tray_eject_change,
          test_tray_open_close, test_tray_eject_close, test_tray_open_change,
          test_cycle, test_cycle_read_only_media, test_close_on_closed,
          test_remove_on_closed, test_insert_on_closed)
FILLED = (test_insert_on_filled,)
EMPTY = (test_remove_on_empty,)
HANDS = {"qmp": ByDevice, "node": ByNode, "ctl": ByCtl}


def run_row(bench, fn, personality, hand, filled):
    c = Case(bench, personality, hand, filled)
    c.begin()
    fn(c)


def add_rows(table, *ways):
    """All rows, given in these ways: "qmp", "node", "ctl"."""
    for personality in (CDROM, DISK):
        for way in ways:
            for filled in (True, False):
                for fn in ALWAYS + (FILLED if filled else EMPTY):
                    table.add(f"{personality} {'filled' if filled else 'empty'} "
                              f"{way}: {fn.__name__}", run_row, fn, personality,
                              HANDS[way], filled)


def images(bench):
    """Two media as files, and two of an NBD server, for Case."""
    files = bench.image("old"), bench.image("new")
    served = []

    def media(hand):
        if hand is not ByNode:
            return files
        if not served:
            served.append(bench.export("old over nbd"))
        return served[0], files[1]
    bench.media = media
    return bench
