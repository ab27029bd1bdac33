#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-only
# timeout: 2400
"""A Linux guest of a stock QEMU on our drives: a Spice client shares, and the
guest has it; the guest ejects and locks, and client and host know."""
import os
import signal
import sys
import tempfile
import zlib

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "../qemu"))
from host import Follower, Share, Tap, ctl, make_iso, must, settle, status
from linux import Linux
from machine import Died, until

tap = Tap()
MEDIA = "DISK_MEDIA_CHANGE=1"
REQUEST = "DISK_EJECT_REQUEST=1"


def sum_of(path):
    with open(path, "rb") as f:
        data = f.read()
    return f"{len(data)} {zlib.adler32(data)}"


class Drive:
    """A CD drive of ours, and what it is in the guest"""

    def __init__(self, name, drive, dev, vm, share):
        self.name, self.drive, self.dev = name, drive, dev
        self.vm, self.share = vm, share

    def is_told(self, what):
        """QEMU's ide-cd shows another medium as none, and then as there: a
        guest that looks in between has an event of each. scsi-cd has one."""
        tap.ok(self.vm.event(60, self.dev, MEDIA), f"{self.name}: {what}: the guest has an event",
               self.vm.events)
        more = self.vm.more(self.dev)
        most = 1 if self.name == "ide-cd" else 0
        tap.ok(len(more) <= most, f"{self.name}: {what}: {1 + len(more)} in all", more)

    def reads(self, path, what):
        """A command that meets the attention fails, in Linux a read: again"""
        wanted, tries = sum_of(path), []

        def once():
            tries.append(self.vm.do(f"sum {self.dev}"))
            return tries[-1] == wanted
        tap.ok(until(30, once), f"{self.name}: {what}: all of it", tries)
        if len(tries) > 1:
            print(f"# {tries[:-1]} before")

    def host(self, what, **wanted):
        def look():
            o = status(self.drive)
            o["medium"] = o["medium"] is not None
            return {k: o[k] for k in wanted} == wanted
        tap.ok(until(60, look), f"{self.name}: {what}", status(self.drive))

    def guest(self, wanted, what):
        got = until(30, lambda: (lambda s: s in wanted and s)(self.vm.do(f"status {self.dev}")))
        tap.ok(got, f"{self.name}: {what}: the guest's status: {got}")


def cdrom(d, a, b):
    d.guest(["no-disc"], "started empty")
    d.vm.more(d.dev, 1)
    must("insert", d.drive, "spice:a.iso")
    d.is_told("insert")
    d.guest(["disc-ok"], "insert")
    d.reads(a, "insert")
    must("insert", d.drive, "spice:b.iso", "--force")
    d.is_told("change")
    d.reads(b, "change")

    tap.same(d.vm.do(f"mount {d.dev}"), "done", f"{d.name}: the guest mounts it")
    tap.ok("file0" in d.vm.do("list"), f"{d.name}: and finds its files")
    d.host("which locks the tray on the host", locked=True, medium=True)
    heard = d.share.said().count('"ejected"')
    code, text = ctl("eject", d.drive)
    tap.ok(code == 1 and "\n" not in text, f"{d.name}: refused: {text}", (code, text))
    tap.ok(d.vm.event(60, d.dev, REQUEST), f"{d.name}: the guest is asked for it", d.vm.events)
    d.reads(b, "the locked medium")
    tap.same(d.vm.do("umount"), "done", f"{d.name}: the guest unmounts it")
    d.host("which unlocks the tray", locked=False)
    tap.same(d.vm.do(f"eject {d.dev}"), "done", f"{d.name}: and ejects it")
    d.host("the host's tray is open, and empty", tray="open", medium=False)
    tap.ok(until(60, lambda: d.share.said().count('"ejected"') > heard),
           f"{d.name}: the client hears of it", d.share.said())
    d.guest(["tray-open"], "ejected")
    tap.same(d.vm.do(f"load {d.dev}"), "done", f"{d.name}: the guest closes the tray")
    d.host("and so it is on the host", tray="closed")

    d.vm.more(d.dev)
    must("insert", d.drive, "spice:a.iso")
    d.is_told("insert after an eject")
    d.reads(a, "insert after an eject")
    settle()
    must("eject", d.drive)
    d.is_told("eject on the host")
    d.guest(["tray-open", "no-disc"], "eject on the host")
    d.host("ejected", tray="open", medium=False)


def plug(vm, device, **properties):
    """A disk drive that has a medium, into the guest; its name there"""
    vm.qmp.ok("blockdev-add", driver="host_device", node_name="disk", filename="/dev/spicebd1",
              cache={"direct": True})
    vm.events.clear()
    if device == "scsi-hd":
        properties["bus"] = "bus.0"
    vm.qmp.ok("device_add", driver=device, id="disk0", drive="disk", **properties)
    return "vda" if device.startswith("virtio") else "sda"


def unplug(vm, name):
    vm.qmp.ok("device_del", id="disk0")
    gone = vm.qmp.event(120, lambda e: e["event"] == "DEVICE_DELETED" and
                        e["data"].get("device") == "disk0")
    tap.ok(gone, f"{name}: unplugged")
    vm.qmp.ok("blockdev-del", node_name="disk")


def disk(vm, device, stick):
    dev = plug(vm, device)
    tap.ok(vm.event(120, dev, "", "add"), f"{device}: the guest has it", vm.events)
    tap.same(vm.do(f"sum {dev}"), sum_of(stick), f"{device}: all of it")
    tap.same(vm.do(f"write {dev} 3 W"), "done", f"{device}: a write")
    code, text = ctl("eject", "spicebd1")
    tap.ok(code == 1 and "qemu" in text, f"{device}: the host's eject names QEMU: {text}", text)
    unplug(vm, device)
    must("eject", "spicebd1")
    with open(stick, "rb") as f:
        tap.same(f.read()[3 * 4096:4 * 4096], b"W" * 4096, f"{device}: the client's file has it")


def stale(vm, stick, other):
    """An eject by force: what the guest still writes reaches no other medium.
    Without werror=report QEMU takes the drive for full and stops the guest."""
    dev = plug(vm, "scsi-hd", werror="report")
    tap.ok(vm.event(120, dev, "", "add"), "by force: the guest has it", vm.events)
    before = sum_of(stick), sum_of(other)
    must("eject", "--force", "spicebd1")
    got = vm.do(f"write {dev} 5 X")
    tap.ok(got.startswith("error"), f"by force: the guest's write fails: {got}")
    code, text = ctl("insert", "spicebd1", "spice:other.img", "--read-write")
    tap.ok(code == 1 and "\n" not in text, f"by force: the next is not let in: {text}", text)
    got = vm.do(f"write {dev} 5 X")
    tap.ok(got.startswith("error"), f"by force: nor a write: {got}")
    unplug(vm, "by force")
    must("insert", "spicebd1", "spice:other.img", "--read-write")
    must("eject", "spicebd1")
    tap.same((sum_of(stick), sum_of(other)), before, "by force: both media are as they were")


def main():
    with tempfile.TemporaryDirectory() as t:
        a, b, stick, other = (f"{t}/{n}" for n in ("a.iso", "b.iso", "stick.img", "other.img"))
        make_iso(a, 512, "FIRST")
        make_iso(b, 768, "SECOND")
        for path, c in (stick, b"s"), (other, b"o"):
            with open(path, "wb") as f:
                f.write(c * (2 << 20))
        second = must("add", "cdrom").rsplit("/", 1)[-1]
        vm = Linux(t, "-blockdev", "host_cdrom,node-name=h0,filename=/dev/spicebd0,read-only=on",
                   "-device", "ide-cd,id=cd0,bus=ide.1,drive=h0",
                   "-device", "virtio-scsi-pci,id=bus",
                   "-blockdev", f"host_cdrom,node-name=h1,filename=/dev/{second},read-only=on",
                   "-device", "scsi-cd,id=cd1,bus=bus.0,drive=h1",
                   "-device", "qemu-xhci,id=usb")
        share = Share(t, "--read-write", a, b, stick, other)
        try:
            print(f"# the guest was up after {vm.up():.0f} s", flush=True)
        except Died:
            with open(vm.console, encoding="utf-8", errors="replace") as f:
                print("# the guest's console:", f.read()[-2000:].replace("\n", "\n# "))
            raise
        names = {("ide" if "ata" in vm.do(f"path {n}") else "scsi"): n for n in ("sr0", "sr1")}
        drives = [Drive("ide-cd", "spicebd0", names["ide"], vm, share),
                  Drive("scsi-cd", second, names["scsi"], vm, share)]
        followers = [Follower(t, vm.monitors[0], "spicebd0")]
        followers.append(Follower(t, vm.monitors[1], second))
        for d in drives:
            cdrom(d, a, b)

        for device in "virtio-blk-pci", "scsi-hd", "usb-storage":
            must("insert", "spicebd1", "spice:stick.img", "--read-write")
            disk(vm, device, stick)
        must("insert", "spicebd1", "spice:stick.img", "--read-write")
        stale(vm, stick, other)

        d = drives[0]
        must("insert", d.drive, "spice:a.iso")
        d.is_told("before the client leaves")
        # Linux tells of no further change until somebody has opened the drive.
        d.reads(a, "before the client leaves")
        share.end(signal.SIGINT)
        d.is_told("the client leaves")
        d.guest(["tray-open", "no-disc"], "the client left")
        tap.same(vm.said(), "", "QEMU has nothing to complain of")
        vm.close()
        tap.same([f.end() for f in followers], [0, 0], "the followers end with QEMU")
        must("del", second)
        must("unlisten")
    tap.done()


if __name__ == "__main__":
    main()
