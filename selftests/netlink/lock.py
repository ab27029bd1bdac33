#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-only
#
# The administrator's lock and the lock of the drive's user; who counts as a
# user; the event that tells when a medium that was asked for is free; the state
# in sysfs, and the probe that udev puts off.
import errno
import fcntl
import mmap
import os
import re

from helper import (A_FORCE, A_INDEX, A_VERDICT, CONDITIONS, DRIVE_DEL, EJECT, H_INDEX,
                    H_LINK, LINK_REPORT, LOCK, MEDIUM_REMOVE, S_LOCKED, S_LOCKED_ADMIN,
                    S_READY, S_STALE, TRAY_CLOSE, TRAY_OPEN, UNLOCK, V_ERROR, V_INACTIVE,
                    Helper, Netlink, Uevents, attr, silent, wait_until)
from tap import module, run, same, settle, sh

CDROMEJECT, CDROM_LOCKDOOR = 0x5309, 0x5329
# Before 6.5 a driver is told who closes.
TOLD = [int(n) for n in os.uname().release.split(".")[:2]] < [6, 5]


def node(index=0, flags=os.O_RDONLY):
    return os.open("/dev/spicebd%d" % index, flags)


def watcher(index=0):
    return node(index, os.O_RDONLY | os.O_NONBLOCK)


def ioctl(fd, cmd, arg=0):
    try:
        return fcntl.ioctl(fd, cmd, arg)
    except OSError as e:
        return -e.errno


def sysfs(name, index=0, value=None):
    path = "/sys/block/spicebd%d/spicebd/%s" % (index, name)
    if value is not None:
        with open(path, "w", encoding="ascii") as f:
            f.write(value)
        return value
    with open(path, encoding="ascii") as f:
        return f.read().strip()


def names(watch, timeout=0.3):
    return [e["event"] for e in watch.events(timeout)]


def the_administrators_lock():
    with module():
        for index in (0, 1):
            h = Helper(index, 4 << 20)
            h.insert()
            h.idle()
            watch = Netlink().subscribe()
            same(h.ctl.verb(LOCK, index), 0, "lock")
            same(h.ctl.verb(LOCK, index), 0, "lock again")
            same(names(watch), ["lock_changed"], "events")
            os.close(node(index))
            h.idle()
            assert h.ctl.drive(index)["state"] & S_LOCKED_ADMIN, \
                "opened by an opener"
            same(h.ctl.drive(index)["state"] & S_LOCKED, 0, "the user's lock")
            list(watch.events(0.1))
            verbs = (EJECT, TRAY_OPEN if index == 0 else MEDIUM_REMOVE)
            for verb in verbs:
                same(h.ctl.verb(verb, index), errno.EINPROGRESS, "verb")
                assert "eject_request" in names(watch), "nobody was asked"
                h.idle()
            fd = watcher(index)
            same(ioctl(fd, CDROMEJECT), -errno.EBUSY, "CDROMEJECT")
            os.close(fd)
            h.idle()
            same(h.ctl.verb(DRIVE_DEL, index), errno.EBUSY, "del")
            list(watch.events(0.1))
            same(h.ctl.verb(UNLOCK, index), 0, "unlock")
            same(names(watch), ["lock_changed", "unused"], "events")
            same(h.ctl.verb(UNLOCK, index), 0, "unlock again")
            same(names(watch), [], "events")
            same(h.ctl.verb(LOCK, index), 0, "lock")
            same(h.ctl.verb(EJECT, index, True), 0, "eject by force")
            state = h.ctl.drive(index)
            same((state["medium"], state["state"]), (None, S_LOCKED_ADMIN),
                 "after it")
            assert "unused" not in names(watch), "told of what is gone"
            same(h.ctl.verb(UNLOCK, index), 0, "unlock")
            h.done()


def without_rights():
    with module():
        nl = Netlink()
        for cmd in (LOCK, UNLOCK):
            same(nl.verb(cmd, 0), errno.EPERM, "not a manager")
            same(nl.manage(1).verb(cmd, 0), errno.EPERM, "of another drive")
            same(nl.manage().verb(cmd, 9), errno.ENODEV, "no such drive")
            same(nl.fails(cmd), errno.EINVAL, "no index")
            nl = Netlink()
        same(nl.manage().fails(LOCK, attr(A_INDEX, 64)), errno.ERANGE)


def force_opens_the_users_lock():
    with module("drives=cdrom"):
        h = Helper(0, 4 << 20)
        h.insert()
        h.idle()
        fd = watcher()
        same(ioctl(fd, CDROM_LOCKDOOR, 1), 0, "lock")
        os.close(fd)
        h.idle()
        assert h.ctl.drive(0)["state"] & S_LOCKED, "opened by the last close"
        same(h.ctl.verb(UNLOCK, 0), 0, "unlock")
        assert h.ctl.drive(0)["state"] & S_LOCKED, "not the administrator's"
        watch = Netlink().subscribe()
        same(h.ctl.verb(EJECT, 0), errno.EINPROGRESS, "eject")
        h.idle()
        list(watch.events(0.1))
        same(h.ctl.verb(UNLOCK, 0, True), 0, "unlock by force")
        same(names(watch), ["lock_changed", "unused"], "events")
        same(h.ctl.drive(0)["state"] & S_LOCKED, 0, "locked")
        fd = watcher()
        same(ioctl(fd, CDROMEJECT), 0, "CDROMEJECT")
        os.close(fd)
        h.done()


def a_failed_open_leaves_the_door_locked():
    with module("drives=cdrom"):
        h = Helper(0, 4 << 20)
        h.insert()
        h.idle()
        fd = watcher()
        same(ioctl(fd, CDROM_LOCKDOOR, 1), 0, "lock")
        for _ in range(2):
            try:
                node(0, os.O_RDWR)
                raise AssertionError("opened for writing")
            except OSError as e:
                same(e.errno, errno.EROFS, "open for writing")
            assert h.ctl.drive(0)["state"] & S_LOCKED, "unlocked"
            os.close(fd)
            fd = node()
        os.close(fd)
        same(h.ctl.verb(UNLOCK, 0, True), 0, "unlock")
        h.done()


def watchers_do_not_hold_a_cdrom():
    with module():
        h = Helper(0, 4 << 20)
        h.insert()
        h.idle()
        fds = [watcher() for _ in range(3)]
        state = h.ctl.drive(0)
        same((state["openers"], state["users"]), (3, 0), "openers, users")
        same(sysfs("users"), "0")
        assert wait_until(lambda: h.eject() == 0), "eject"
        same(h.ctl.drive(0)["state"] & S_STALE, 0, "stale")
        h.insert()
        assert h.ctl.drive(0)["state"] & S_READY
        for fd in fds:
            os.close(fd)
        h.done()
        h = Helper(1, 4 << 20)
        h.insert()
        h.idle()
        fd = watcher(1)
        same(h.ctl.drive(1)["users"], 1, "users of a disk")
        same(h.eject(), errno.EBUSY, "eject of a disk")
        os.close(fd)
        h.done()


def users_beside_watchers():
    with module("drives=cdrom"):
        h = Helper(0, 4 << 20)
        h.insert()
        h.idle()
        # the watcher goes first
        user, fd = node(), watcher()
        same(h.ctl.drive(0)["users"], 1, "users")
        os.close(fd)
        same(h.ctl.drive(0)["users"], 1, "the watcher has gone")
        same(h.eject(), errno.EINPROGRESS, "eject")
        os.close(user)
        # udev looks at a drive whose user was asked for the medium.
        assert wait_until(lambda: h.ctl.drive(0)["users"] == 0), "the user has gone"
        h.idle()
        # the user goes first
        fd, user = watcher(), node()
        assert h.ctl.drive(0)["state"] & S_LOCKED, "not locked for a user"
        os.close(user)
        same(h.ctl.drive(0)["users"], 0 if TOLD else 1, "the user has gone")
        same(bool(h.ctl.drive(0)["state"] & S_LOCKED), not TOLD, "locked")
        os.close(fd)
        state = h.ctl.drive(0)
        same((state["users"], state["state"] & S_LOCKED), (0, 0), "all gone")
        h.idle()
        # more users than are left
        fds = [node(), node(), watcher()]
        for left in (2, 1, 0):
            os.close(fds.pop())
            assert h.ctl.drive(0)["users"] <= left
        h.idle()
        # of several old users one stays: stale
        user, fd = node(), watcher()
        same(h.eject(True), 0, "eject by force")
        assert h.ctl.drive(0)["state"] & S_STALE, "not stale"
        same(sysfs("state"), "stale")
        os.close(user)
        os.close(fd)
        assert wait_until(lambda: not h.ctl.drive(0)["state"] & S_STALE)
        h.done()


def told_when_unused():
    with module():
        for index in (0, 1):
            h = Helper(index, 4 << 20)
            h.insert()
            h.idle()
            watch = Netlink().subscribe()
            os.close(node(index))
            same("unused" in names(watch), False, "without a request")
            first, second = node(index), node(index)
            for _ in range(3):
                same(h.eject(), errno.EBUSY if index else errno.EINPROGRESS)
            settle()
            os.close(first)
            settle()
            same("unused" in names(watch), False, "one is left")
            os.close(second)
            h.idle()
            same(names(watch, 1).count("unused"), 1, "the last has gone")
            os.close(node(index))
            h.idle()
            same("unused" in names(watch), False, "once is enough")
            same(h.eject_idle(), 0, "eject")
            h.done()


def is_now(h, word, cause):
    """By netlink and in sysfs, with its cause"""
    same(sysfs("state", h.index), word)
    same(CONDITIONS[h.ctl.drive(h.index)["condition"]], word, "by netlink")
    got = sysfs("cause", h.index)
    assert re.search(cause, got), f"{word}: {got!r}"


def a_word_for_the_state():
    with module():
        for index in (0, 1):
            same(sysfs("state", index), "empty")
            h = Helper(index, 4 << 20)
            h.insert()
            h.idle()
            same(sysfs("state", index), "ready")
            h.ctl.do(LINK_REPORT, attr(H_INDEX, index) + attr(H_LINK, 1))
            is_now(h, "reconnecting", "^the far end is lost: requests (wait|fail in [0-9]+ s)$")
            h.ctl.do(LINK_REPORT, attr(H_INDEX, index) + attr(H_LINK, 0))
            same(sysfs("state", index), "ready")
            h.unbind()
            assert wait_until(lambda: sysfs("state", index) == "held"), \
                "helper lost"
            is_now(h, "held", "^no helper serves it: requests (wait|fail in [0-9]+ s)$")
            h.attach()
            is_now(h, "ready", "^requests are answered$")
            h.ctl.freeze(index)
            is_now(h, "frozen", "^frozen by 1 holder, the first since [0-9]+ s$")
            h.ctl.thaw(index)
            fd = node(index)
            same(h.eject(True), 0, "eject by force")
            # udev looks at what has changed, and is a user meanwhile.
            assert wait_until(lambda: sysfs("cause", index).endswith(" has 1 user"))
            is_now(h, "stale", "^a medium ejected by force has 1 user$")
            os.close(fd)
            assert wait_until(lambda: sysfs("state", index) == "empty")
            is_now(h, "empty", "^no medium$|^the tray is open$")
            h.done()
        h = Helper(1, 4 << 20)
        h.behave = silent
        h.insert(wait=0)
        assert wait_until(lambda: h.queues[0].kept), "no partition scan"
        same(sysfs("state", 1), "settling")
        same(h.eject(True), 0, "eject by force")
        same(sysfs("state", 1), "empty")
        h.done()


def nothing_is_read(fd):
    """An error, or the end of a medium of no size"""
    try:
        same(os.preadv(fd, [mmap.mmap(-1, 4096)], 0), 0, "bytes of what is gone")
    except OSError as e:
        same(e.errno, errno.EIO, "a read")


def why_it_is_empty():
    """Who takes the medium says why, and that lasts until the next, or an eject."""
    with module():
        for index in (0, 1):
            h = Helper(index, 4 << 20)
            for verdict, word, cause in (
                    (V_ERROR, "error", "^the medium failed [0-9]+ s ago: insert another, or eject$"),
                    (V_INACTIVE, "inactive", "^the medium moved to another host [0-9]+ s ago: ")):
                why = attr(A_INDEX, index) + attr(A_FORCE, b"") + attr(A_VERDICT, verdict)
                h.insert()
                h.idle()
                fd = node(index, os.O_RDONLY | os.O_DIRECT)
                h.ctl.do(EJECT, why)
                is_now(h, word, cause)
                same(h.ctl.drive(index)["verdict"], verdict, "verdict")
                nothing_is_read(fd)
                os.close(fd)
                assert wait_until(lambda: not h.ctl.drive(index)["state"] & S_STALE)
                h.ctl.verb(TRAY_CLOSE, index)
                is_now(h, word, cause)
                # Told to eject: it was seen.
                same(h.eject(), 0, "eject")
                h.ctl.verb(TRAY_CLOSE, index)
                is_now(h, "empty", "^no medium$")
                same(h.ctl.drive(index).get("verdict"), None, "when it was seen")
                h.ctl.do(EJECT, why)
                is_now(h, word, cause)
                h.ctl.verb(TRAY_CLOSE, index)
                h.insert()
                h.idle()
                is_now(h, "ready", "^requests are answered$")
                same(h.ctl.drive(index).get("verdict"), None, "with a medium")
                same(h.eject_idle(), 0, "eject")
                h.ctl.verb(TRAY_CLOSE, index)
                is_now(h, "empty", "^no medium$")
            same(h.ctl.fails(EJECT, attr(A_INDEX, index) + attr(A_VERDICT, 3)), errno.ERANGE,
                 "no such verdict")
            h.done()


def made_held():
    """Until it is thawed, or somebody else freezes it, too"""
    with module("held=1"):
        for index in (0, 1):
            h = Helper(index, 4 << 20)
            held = "^made held [0-9]+ s ago: requests wait for a thaw$"
            is_now(h, "held", held)
            h.ctl.freeze(index)
            is_now(h, "empty", "^no medium$")
            h.ctl.thaw(index)
            is_now(h, "held", held)
            h.insert(wait=0)
            is_now(h, "held", held)
            h.ctl.freeze(index)
            is_now(h, "frozen", "^frozen by 2 holders, the first since [0-9]+ s$")
            h.ctl.thaw(index)
            h.ctl.thaw(index, "start")
            assert wait_until(lambda: sysfs("state", index) == "ready")
            is_now(h, "ready", "^requests are answered$")
            h.done()


def plain_changes(events, number, what):
    """Uevents that only make udev look again, beside its own."""
    same(len(events.those(lambda e: e["ACTION"] == "change" and
                          "SYNTH_UUID" not in e and
                          "DISK_MEDIA_CHANGE" not in e and
                          e["DEVTYPE"] == "disk", number)), number, what)


def a_deferred_probe():
    with module():
        for index in (0, 1):
            h = Helper(index, 4 << 20)
            sysfs("deferred", index, "1")
            same(sysfs("deferred", index), "0", "an empty drive")
            h.insert()
            h.idle()
            events = Uevents()
            sysfs("deferred", index, "1")
            plain_changes(events, 1, "nothing is held: at once")
            same(sysfs("deferred", index), "0")
            h.idle()

            lost = attr(H_INDEX, index) + attr(H_LINK, 1)
            back = attr(H_INDEX, index) + attr(H_LINK, 0)
            h.ctl.do(LINK_REPORT, lost)
            sysfs("deferred", index, "1")
            same(sysfs("deferred", index), "1")
            plain_changes(events, 0, "while held")
            h.ctl.do(LINK_REPORT, back)
            plain_changes(events, 1, "link back")
            same(sysfs("deferred", index), "0")
            h.ctl.do(LINK_REPORT, lost)
            h.ctl.do(LINK_REPORT, back)
            plain_changes(events, 0, "nothing was put off")

            h.unbind()
            assert wait_until(lambda: sysfs("state", index) == "held")
            sysfs("deferred", index, "1")
            h.attach()
            plain_changes(events, 1, "another helper")

            h.idle()
            h.ctl.do(LINK_REPORT, lost)
            sysfs("deferred", index, "1")
            same(h.eject(True), 0, "eject")
            same(sysfs("deferred", index), "0", "ejected")
            plain_changes(events, 0, "ejected")
            same(h.ctl.verb(TRAY_CLOSE, 0), 0, "close the tray")
            h.done()
        same(oct(os.stat("/sys/block/spicebd0/spicebd/deferred").st_mode),
             "0o100644", "who may write")
        same(sh("echo x > /sys/block/spicebd0/spicebd/deferred", check=False)
             != 0, True, "nonsense")


run(the_administrators_lock, without_rights, force_opens_the_users_lock,
    a_failed_open_leaves_the_door_locked, watchers_do_not_hold_a_cdrom,
    users_beside_watchers, told_when_unused, a_word_for_the_state,
    why_it_is_empty, made_held, a_deferred_probe)
