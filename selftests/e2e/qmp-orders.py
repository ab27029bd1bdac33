#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-only
# timeout: 300
"""Verbs in odd orders, by two clients at once, of a drive that somebody uses:
each is answered once, and the drive is what the answers say."""
import errno
import os
import socket
import threading
import time

from traylib import CDROM, DISK, DRIVES, PATIENCE, Bench, Qmp, Table, same, until

DISK_DRIVE, CD_DRIVE = DRIVES[DISK], DRIVES[CDROM]


class Held:
    """The drive, open as its user has it."""

    def __init__(self, name):
        self.fd = os.open(f"/dev/{name}", os.O_RDONLY | os.O_CLOEXEC)

    def go(self):
        if self.fd >= 0:
            os.close(self.fd)
        self.fd = -1

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.go()


class Silent:
    """An NBD server that accepts and says nothing."""

    def __init__(self, b, name):
        self.path = f"{b.dir}/{name}.sock"
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.bind(self.path)
        self.sock.listen(8)
        self.uri = f"nbd+unix:///?socket={self.path}"

    def met(self):
        """Until somebody has connected."""
        self.sock.settimeout(PATIENCE)
        return self.sock.accept()[0]


def fill(b, drive, label):
    image = b.image(label)
    b.drives[drive].empty()
    b.q.do("spicebd-insert", source=image.path, drive=DRIVES[drive])
    b.drives[drive].settle()
    b.drives[drive].forget()
    return image


def eject_during_insert(b):
    d, s, q = b.drives[DISK], Silent(b, "eject"), Qmp()
    d.empty()
    q.send("spicebd-insert", source=s.uri, drive=d.name)
    peer = s.met()
    b.q.cmd("eject", id=d.name).bad("insert in progress")
    began = time.monotonic()
    b.q.do("eject", id=d.name, force=True)
    q.receive().bad("ended by an eject")
    took = time.monotonic() - began
    assert took < 5, f"{took:.1f} s"
    d.holds("closed", None)
    peer.close()
    q.close()


def change_and_del_during_insert(b):
    d, s, q = b.drives[DISK], Silent(b, "change"), Qmp()
    image = b.image("change during insert")
    d.empty()
    q.send("spicebd-insert", source=s.uri, drive=d.name, timeout=60)
    peer = s.met()
    b.q.cmd("blockdev-change-medium", id=d.name, filename=image.path).bad("insert in progress")
    b.q.cmd("spicebd-insert", source=image.path, drive=d.name).bad("insert in progress")
    b.q.cmd("spicebd-drive-del", drive=d.name).bad("insert in progress")
    peer.close()
    q.receive().bad(".")
    b.q.do("spicebd-insert", source=image.path, drive=d.name)
    d.holds("closed", image)
    q.close()
    d.empty()


def asker_goes_during_insert(b):
    d, s, q = b.drives[DISK], Silent(b, "gone"), Qmp()
    d.empty()
    q.send("spicebd-insert", source=s.uri, drive=d.name, timeout=60)
    peer = s.met()
    q.close()
    b.q.cmd("eject", id=d.name).bad("insert in progress")
    b.q.do("eject", id=d.name, force=True)
    image = b.image("after it went")

    def free():
        return b.q.cmd("spicebd-insert", source=image.path, drive=d.name).cls is None
    until(free, "the drive is free again")
    d.holds("closed", image)
    peer.close()
    d.empty()


def del_during_eject(b):
    name = b.q.do("spicebd-drive-add", personality=DISK)["drive"]
    image, q = b.image("del during eject"), Qmp()
    b.q.do("spicebd-insert", source=image.path, drive=name)
    until(lambda: not b.q.do("spicebd-query", drive=name)[0]["users"], "nobody probes it")
    with Held(name):
        q.send("eject", id=name, timeout=60)
        until(lambda: any(e["event"] == "SPICEBD_EJECT_REQUEST" and e["data"]["drive"] == name
                          for e in b.q.events) or not b.q.do("query-name"), "the request")
        b.q.do("spicebd-drive-del", drive=name, force=True)
        q.receive()
    until(lambda: not os.path.exists(f"/sys/block/{name}"), "it is deleted")
    b.q.cmd("eject", id=name).bad(name, "DeviceNotFound")
    q.close()


def two_inserts_at_once(b):
    d, qs = b.drives[DISK], [Qmp(), Qmp()]
    d.empty()
    images = [b.image("one of two"), b.image("two of two")]
    for q, i in zip(qs, images):
        q.send("spicebd-insert", source=i.path, drive=d.name)
    answers = [q.receive() for q in qs]
    good = [a for a in answers if a.cls is None]
    same(len(good), 1, f"answers {answers}")
    d.holds("closed", images[answers.index(good[0])])
    for q in qs:
        q.send("eject", id=d.name, force=True)
    for q in qs:
        q.receive().good()
        q.close()
    d.holds("closed", None)


def an_eject_waits_for_its_user(b):
    fill(b, DISK, "eject waits")
    d, q = b.drives[DISK], Qmp()
    with Held(d.name) as held:
        q.send("eject", id=d.name, timeout=60)
        until(lambda: ("request", True) in d.drain(), "the request")
        time_of_going = time.monotonic()
        held.go()
        q.receive().good()
        took = time.monotonic() - time_of_going
    assert took < 5, f"{took:.1f} s after its user went"
    d.events([], [None], request=1)
    d.holds("closed", None)
    q.close()


def an_eject_does_not_wait_for_ever(b):
    image = fill(b, DISK, "eject gives up")
    d = b.drives[DISK]
    with Held(d.name):
        b.q.cmd("eject", id=d.name, timeout=0).bad("busy")
        b.q.cmd("eject", id=d.name, timeout=1).bad("busy")
        b.q.cmd("eject", id=d.name, timeout=-1).bad("'timeout'")
        d.holds("closed", image)
    d.events(request=2)
    d.empty()


def an_open_tray_waits_in_the_background(b):
    image = fill(b, CDROM, "open waits")
    d = b.drives[CDROM]
    with Held(d.name) as held:
        b.q.do("blockdev-open-tray", id=d.name, timeout=60)
        until(lambda: ("request", True) in d.drain(), "the request")
        b.q.cmd("blockdev-open-tray", id=d.name, wait=True, timeout=0).bad("locked|busy")
        held.go()
        until(lambda: ("tray", "open") in d.drain(), "the tray opens")
    d.holds("open", image)
    b.q.do("blockdev-close-tray", id=d.name)
    until(lambda: d.query()["state"] == "ready", "it is read again")
    d.holds("closed", image)
    d.empty()


def a_change_waits_for_its_user(b):
    fill(b, DISK, "change waits")
    d, q, new = b.drives[DISK], Qmp(), b.image("changed at last")
    with Held(d.name) as held:
        q.send("blockdev-change-medium", id=d.name, filename=new.path, timeout=60)
        until(lambda: ("request", True) in d.drain(), "the request")
        held.go()
        q.receive().good()
    d.holds("closed", new)
    q.close()
    d.empty()


def a_change_that_is_refused(b):
    """By the drive's user, and by a lock: no event but the request's."""
    image = fill(b, CDROM, "change refused")
    d, new = b.drives[CDROM], b.image("never in")
    with Held(d.name):
        b.q.cmd("blockdev-change-medium", id=d.name, filename=new.path, timeout=0).bad(
            "locked|busy")
        d.holds("closed", image)
    d.collect()
    until(lambda: not b.q.do("spicebd-query", drive=d.name)[0]["users"], "nobody uses it")
    d.forget()
    b.q.do("spicebd-lock", drive=d.name)
    began = time.monotonic()
    b.q.cmd("blockdev-change-medium", id=d.name, filename=new.path, timeout=60).bad("is locked")
    b.q.cmd("eject", id=d.name, timeout=60).bad("is locked")
    took = time.monotonic() - began
    assert took < 20, f"waited {took:.0f} s for the administrator's lock"
    d.holds("closed", image)
    d.events(request=2, lock=[(False, True)])
    b.q.do("spicebd-unlock", drive=d.name)
    d.events(lock=[(False, False)])
    b.q.do("blockdev-change-medium", id=d.name, filename=new.path)
    d.holds("closed", new)
    d.empty()


def force_passes_a_lock(b):
    fill(b, DISK, "locked")
    d = b.drives[DISK]
    b.q.do("spicebd-lock", drive=d.name)
    b.q.cmd("spicebd-drive-del", drive=d.name).bad(".")
    b.q.do("eject", id=d.name, force=True)
    d.holds("closed", None)
    b.q.do("spicebd-unlock", drive=d.name)


def parameters(b, name):
    q = b.q.do("spicebd-query", drive=name)[0]
    return {k: q[k] for k in ("personality", "queues", "depth", "max-io", "reconnect-timeout",
                              "stall-timeout", "open-wait", "index")}


def a_probe_does_not_make_it_stale_for_long(b):
    """Who looks at a medium while it is ejected by force, and goes, is waited for."""
    old, new = b.image("the old one"), b.image("the new one")
    b.drives[DISK].empty()
    name = b.drives[DISK].name
    b.q.do("spicebd-insert", source=old.path, drive=name)
    with Held(name):
        b.q.do("eject", id=name, force=True)
        same(b.q.do("spicebd-query", drive=name)[0]["stale"], True, "stale")
        b.q.send("spicebd-insert", source=new.path, drive=name)
        other = Qmp()
        other.cmd("spicebd-insert", source=new.path, drive=name).bad("insert in progress")
    b.q.receive().good()
    other.close()
    with open(f"/dev/{name}", "rb") as f:
        same(f.read(len(new.label)), new.label.encode(), "the new medium's data")
    b.drives[DISK].empty()


def a_stale_drive_is_made_anew(b):
    old, new = b.image("the old one"), b.image("the new one")
    name = b.q.do("spicebd-drive-add", personality=DISK, queues=1, depth=7, max_io=65536,
                  reconnect_timeout=11, stall_timeout=12, open_wait=13)["drive"]
    b.q.do("spicebd-insert", source=old.path, drive=name)
    until(lambda: not b.q.do("spicebd-query", drive=name)[0]["users"], "nobody probes it")
    before = parameters(b, name)
    with Held(name) as held:
        b.q.do("eject", id=name, force=True)
        same(b.q.do("spicebd-query", drive=name)[0]["stale"], True, "stale")
        b.q.cmd("spicebd-insert", source=new.path, drive=name).bad("still open")
        b.q.do("spicebd-insert", source=new.path, drive=name, force=True)
        same(parameters(b, name), before, "what the new drive is like")
        with open(f"/dev/{name}", "rb") as f:
            same(f.read(len(new.label)), new.label.encode(), "the new medium's data")
        try:
            same(os.pread(held.fd, 4096, 0), b"", "what the old descriptor reads")
        except OSError as e:
            assert e.errno in (errno.EIO, errno.ENXIO, errno.ENODEV), e
    b.q.do("spicebd-drive-del", drive=name, force=True)


def change_by_force_of_one_in_use(b):
    """The medium's user does not go: the drive is made anew with the change."""
    fill(b, DISK, "in use")
    d, new = b.drives[DISK], b.image("by force")
    with Held(d.name):
        b.q.do("blockdev-change-medium", id=d.name, filename=new.path, force=True)
        d.holds("closed", new)
    d.empty()


def a_hundred_changes_by_two(b):
    """Whoever is refused is told so, and at the end the drive can be used."""
    d, images = b.drives[DISK], [b.image("left"), b.image("right")]
    d.empty()
    wrong = []

    def run(image):
        q = Qmp()
        for _ in range(50):
            a = q.cmd("spicebd-insert", source=image.path, drive=d.name, force=True)
            if a.cls not in (None, "GenericError", "DeviceNotFound"):
                wrong.append(a)
        q.close()
    threads = [threading.Thread(target=run, args=(i,)) for i in images]
    for t in threads:
        t.start()
    for t in threads:
        t.join(200)
    assert not wrong and not any(t.is_alive() for t in threads), wrong
    b.q.do("spicebd-insert", source=images[0].path, drive=d.name, force=True)
    d.holds("closed", images[0])
    d.empty()


table = Table()
for fn in (eject_during_insert, change_and_del_during_insert, asker_goes_during_insert,
           del_during_eject, two_inserts_at_once, an_eject_waits_for_its_user,
           an_eject_does_not_wait_for_ever, an_open_tray_waits_in_the_background,
           a_change_waits_for_its_user, a_change_that_is_refused, force_passes_a_lock,
           a_probe_does_not_make_it_stale_for_long,
           a_stale_drive_is_made_anew, change_by_force_of_one_in_use,
           a_hundred_changes_by_two):
    table.add(fn.__name__.replace("_", " "), fn)

if __name__ == "__main__":
    table.main(Bench)
