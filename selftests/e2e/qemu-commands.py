#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-only
# timeout: 600
"""A stock QEMU on our drives, SCSI command by SCSI command: what its guest is
told and does, with the guest's part played by its ports (no code runs there)."""
import os
import subprocess
import sys
import tempfile

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "../qemu"))
from host import Follower, Share, Tap, ctl, make_iso, must, settle, status
from machine import Qemu, until
from scsi import (CHANGED, EJECT_REQUEST, GONE, GOOD, NEW_MEDIA, NO_CHANGE, NOT_PRESENT,
                  Ide, Scsi)

tap = Tap()
NODE = "host_cdrom,node-name=host,filename=/dev/spicebd0,read-only=on"
SCSI = ["-device", "virtio-scsi-pci,id=bus,addr=4,ioeventfd=off"]
KINDS = {
    "ide-cd": (["-blockdev", NODE, "-device", "ide-cd,id=cd,bus=ide.1,drive=host"], Ide),
    "scsi-cd": (["-blockdev", NODE, *SCSI, "-device", "scsi-cd,id=cd,bus=bus.0,drive=host"],
                lambda q: Scsi(q, 4)),
    # as libvirt writes it, with cache='none'
    "scsi-cd, raw over O_DIRECT": (
        ["-blockdev", NODE + ",cache.direct=on", "-blockdev",
         "raw,node-name=raw,file=host,read-only=on", *SCSI,
         "-device", "scsi-cd,id=cd,bus=bus.0,drive=raw"], lambda q: Scsi(q, 4)),
}


def blocks_equal(drive, path):
    """Some blocks, among them the first and the last"""
    count = os.stat(path).st_size // 2048
    with open(path, "rb") as f:
        for b in sorted({0, 1, 16, count // 3, count // 2, count - 2, count - 1}):
            f.seek(b * 2048)
            if drive.read(b) != f.read(2048):
                return False
    return True


class Guest:
    """One QEMU with one of our drives, and what is expected of it"""

    def __init__(self, kind, directory):
        args, make = KINDS[kind]
        self.kind, self.dir = kind, directory
        self.q = Qemu("-M", "pc", *args, qtest=True)
        self.d = make(self.q)
        self.ide = kind.startswith("ide")
        self.d.attentions()     # of its own power-on
        self.d.media_event()

    def is_told(self, event, senses, what):
        """The media event comes once, and so does the attention"""
        got = until(30, lambda: (lambda e: e[0] != NO_CHANGE and e)(self.d.media_event()))
        tap.ok(got and got[0] == event, f"{self.kind}: {what}: the guest is told", got)
        tap.same(self.d.attentions(), senses, f"{self.kind}: {what}: TEST UNIT READY")
        again = [self.d.media_event()[0] for _ in range(3)]
        tap.same(again, [NO_CHANGE] * 3, f"{self.kind}: {what}: told once")

    def has(self, path, what):
        tap.same(self.d.capacity(), os.stat(path).st_size, f"{self.kind}: {what}: its size")
        tap.ok(blocks_equal(self.d, path), f"{self.kind}: {what}: its data")


def host_is(kind, what, **wanted):
    """What spicebdctl says of the CD drive"""
    def look():
        o = status("spicebd0")
        o["medium"] = o["medium"] is not None
        got = {k: o[k] for k in wanted}
        return got == wanted and got
    got = until(20, look)
    tap.ok(got, f"{kind}: {what}", status("spicebd0"))


def insert_and_change(g, a, b, changed):
    must("insert", "spicebd0", "spice:a.iso")
    g.is_told(NEW_MEDIA, changed, "insert")
    g.has(a, "insert")
    must("insert", "spicebd0", "spice:b.iso", "--force")
    g.is_told(NEW_MEDIA, changed, "change")
    g.has(b, "change")


def lock_and_eject(g, share, b):
    kind, d = g.kind, g.d
    tap.same(d.prevent(1), GOOD, f"{kind}: the guest locks the tray")
    host_is(kind, "and so it is on the host", locked=True, tray="closed")
    tap.ok(d.eject()[1] == 0x53, f"{kind}: its own eject is refused then")
    code, text = ctl("eject", "spicebd0")
    tap.ok(code == 1 and "\n" not in text, f"{kind}: so is the host's: {text}", (code, text))
    got = until(30, lambda: d.media_event()[0] == EJECT_REQUEST)
    tap.ok(got, f"{kind}: which asks the guest for the medium")
    g.has(b, "the locked medium")

    heard = share.said().count('"ejected"')
    tap.same(d.prevent(0), GOOD, f"{kind}: the guest unlocks the tray")
    host_is(kind, "and so it is on the host", locked=False)
    tap.same(d.eject(), GOOD, f"{kind}: the guest ejects")
    host_is(kind, "the host's tray is open, and empty", tray="open", medium=False)
    told = until(20, lambda: share.said().count('"ejected"') > heard)
    tap.ok(told, f"{kind}: the share hears of it", share.said())
    tap.same(d.ready()[:2], NOT_PRESENT[:2], f"{kind}: no medium then")
    tap.same(d.load(), GOOD, f"{kind}: the guest closes the tray")
    host_is(kind, "and so it is on the host", tray="closed", medium=False)
    settle()
    d.attentions()
    d.media_event()


def eject_on_host(g, b, changed):
    kind, d = g.kind, g.d
    must("insert", "spicebd0", "spice:b.iso")
    g.is_told(NEW_MEDIA, changed, "insert after an eject")
    must("eject", "spicebd0")
    host_is(kind, "the host ejects", tray="open", medium=False)
    got = until(30, lambda: (lambda e: e[0] != NO_CHANGE and e)(d.media_event()))
    tap.same(got, (NEW_MEDIA, 0, 0), f"{kind}: the guest is told, of no medium")
    got = until(30, lambda: d.ready()[:2] == NOT_PRESENT[:2])
    tap.ok(got, f"{kind}: the guest has no medium then", d.ready())
    tap.ok(isinstance(d.read(16), tuple), f"{kind}: and reads none")
    d.attentions()
    d.media_event()
    must("insert", "spicebd0", "spice:b.iso")
    g.is_told(NEW_MEDIA, changed, "insert on the open tray")
    g.has(b, "insert on the open tray")

    d.prevent(1)
    host_is(kind, "the guest locks it", locked=True)
    must("eject", "--force", "spicebd0")
    host_is(kind, "eject --force", tray="open", medium=False)
    got = until(30, lambda: d.ready()[:2] == NOT_PRESENT[:2])
    tap.ok(got, f"{kind}: it is gone for the guest, too", d.ready())
    d.prevent(0)
    d.load()


def cdrom(kind, directory, share, a, b):
    # What one change is to a guest that asks only whether the unit is ready:
    # no medium once, then another medium once.
    changed = [NOT_PRESENT if kind == "ide-cd" else GONE, CHANGED, GOOD]
    g = Guest(kind, directory)
    tap.same(g.d.ready(), NOT_PRESENT, f"{kind}: started empty")
    follower = Follower(directory, g.q.monitors[0])
    insert_and_change(g, a, b, changed)
    if "O_DIRECT" not in kind:
        lock_and_eject(g, share, b)
        eject_on_host(g, b, changed)
    tap.same(g.q.said(), "", f"{kind}: QEMU has nothing to complain of")
    g.q.close()
    tap.same(follower.end(), 0, f"{kind}: the follower ends with QEMU")
    tap.ok(until(20, lambda: status("spicebd0")["openers"] == 0), f"{kind}: closed")
    ctl("eject", "spicebd0")


def killed(directory):
    """A QEMU that dies with its guest's lock on the drive"""
    must("insert", "spicebd0", "spice:a.iso")
    g = Guest("scsi-cd", directory)
    g.d.prevent(1)
    host_is("killed", "the guest locks the tray", locked=True)
    g.q.p.kill()
    g.q.close()
    tap.ok(until(20, lambda: status("spicebd0")["openers"] == 0), "killed: closed")
    tap.ok(status("spicebd0")["locked"], "killed: as of any drive, its lock stays")
    subprocess.run(["eject", "-i", "off", "/dev/spicebd0"], check=True,
                   stdout=subprocess.DEVNULL)
    must("eject", "spicebd0")
    host_is("killed", "its lock can be opened", locked=False, medium=False)


def alone(directory, a, b):
    """What stock QEMU does with nobody to tell it"""
    kind = "scsi-cd alone"
    g = Guest("scsi-cd", directory)
    for path in a, b:
        must("insert", "spicebd0", f"spice:{os.path.basename(path)}")
        settle()
        tap.same(g.d.ready(), GOOD, f"{kind}: sees a medium")
        g.has(path, f"{kind}: {os.path.basename(path)}")
        must("eject", "spicebd0")
        tap.same(g.d.ready(), NOT_PRESENT, f"{kind}: and that it has gone")
    g.q.close()


def complaints(directory):
    """What spicebdctl qemu says when it cannot"""
    q = Qemu("-M", "pc", qtest=True)
    for want, *args in (
            ("QEMU does not run", "spicebd0", "--qmp", f"{directory}/none"),
            ("has no tray", "spicebd1", "--qmp", q.monitors[0]),
            ("no such drive", "spicebd9", "--qmp", q.monitors[0]),
            ("no drive of QEMU uses /dev/spicebd0", "spicebd0", "--qmp", q.monitors[0]),
            ('no drive "cd9"', "spicebd0", "--qmp", q.monitors[0], "--device", "cd9"),
            ("--qmp is missing", "spicebd0")):
        code, text = ctl("qemu", *args)
        tap.ok(code and want in text and "\n" not in text, f"complaint: {text}", (code, text))
    q.close()


def main():
    with tempfile.TemporaryDirectory() as d:
        a, b = f"{d}/a.iso", f"{d}/b.iso"
        make_iso(a, 512, "FIRST")
        make_iso(b, 768, "SECOND")
        share = Share(d, a, b)
        for kind in KINDS:
            cdrom(kind, d, share, a, b)
        alone(d, a, b)
        killed(d)
        complaints(d)
        share.end()
        must("unlisten")
    tap.done()


main()
