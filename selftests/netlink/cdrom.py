#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-only
#
# The uniform CD-ROM layer's ioctls on a cdrom drive: status, eject, close,
# lock, media-changed, autoclose; a mount of an ISO; CDROMEJECT on a disk.
import errno
import fcntl
import os

from helper import (EJECT, MEDIUM_REMOVE, S_READY, TRAY_OPEN, Helper, Netlink,
                    Uevents, wait_until)
from tap import Skip, module, run, same, settle, sh

CDROMEJECT, CDROMCLOSETRAY = 0x5309, 0x5319
CDROM_MEDIA_CHANGED, CDROM_DRIVE_STATUS = 0x5325, 0x5326
CDROM_LOCKDOOR, CDROM_GET_CAPABILITY = 0x5329, 0x5331
CDROM_DISC_STATUS, CDROMREADTOCENTRY, CDROMMULTISESSION = 0x5327, 0x5306, 0x5310
NO_DISC, TRAY_IS_OPEN, NOT_READY, DISC_OK = 1, 2, 3, 4


def ioctl(fd, cmd, arg=0):
    try:
        return fcntl.ioctl(fd, cmd, arg)
    except OSError as e:
        return -e.errno


def nonblock(index=0):
    return os.open("/dev/spicebd%d" % index, os.O_RDONLY | os.O_NONBLOCK)


def status():
    fd = nonblock()
    try:
        return ioctl(fd, CDROM_DRIVE_STATUS)
    finally:
        os.close(fd)


def drive_status():
    with module("drives=cdrom"):
        same(status(), NO_DISC, "empty")
        h = Helper(0, 4 << 20)
        h.insert()
        same(status(), DISC_OK, "medium")
        assert wait_until(lambda: h.ctl.verb(TRAY_OPEN, 0) == 0)
        same(status(), TRAY_IS_OPEN, "tray open")
        h.close()


def eject_and_close():
    with module("drives=cdrom"):
        h = Helper(0, 4 << 20)
        h.insert()
        settle()
        events = Uevents()
        watch = Netlink().subscribe()
        fd = nonblock()
        same(ioctl(fd, CDROMEJECT), 0, "CDROMEJECT")
        assert watch.wait_event(2, lambda e: e["event"] == "tray_moved" and
                                e["tray"] == 1)
        assert watch.wait_event(2, lambda e: e["event"] == "medium_changed" and
                                not e["state"] & S_READY)
        same(ioctl(fd, CDROM_DRIVE_STATUS), TRAY_IS_OPEN, "status")
        same(ioctl(fd, CDROMCLOSETRAY), 0, "CDROMCLOSETRAY")
        same(ioctl(fd, CDROM_DRIVE_STATUS), DISC_OK, "status")
        os.close(fd)
        settle()
        n = [e for e in events.read(1) if e.get("DISK_MEDIA_CHANGE")]
        same(len(n), 2, "uevents")
        sh("eject /dev/spicebd0")
        same(h.ctl.drive(0)["tray"], 1, "tray after eject(1)")
        sh("eject -t /dev/spicebd0")
        same(h.ctl.drive(0)["tray"], 0, "tray after eject -t")
        settle()
        sh("eject /dev/spicebd0")
        settle()
        same(h.ctl.verb(MEDIUM_REMOVE, 0), 0, "remove")
        same(status(), TRAY_IS_OPEN, "status")
        h.close()


def busy_and_locked():
    with module("drives=cdrom"):
        h = Helper(0, 4 << 20)
        h.insert()
        settle()
        user = os.open("/dev/spicebd0", os.O_RDONLY)
        fd = nonblock()
        same(ioctl(fd, CDROMEJECT), -errno.EBUSY, "eject of an open drive")
        os.close(user)
        os.close(fd)
        settle()
        fd = nonblock()
        same(ioctl(fd, CDROM_LOCKDOOR, 1), 0, "lock")
        assert h.ctl.drive(0)["state"] & 4, "not locked"
        same(ioctl(fd, CDROMEJECT), -errno.EBUSY, "eject of a locked one")
        same(ioctl(fd, CDROM_LOCKDOOR, 0), 0, "unlock")
        same(ioctl(fd, CDROMEJECT), 0, "eject")
        os.close(fd)
        h.close()


def media_changed():
    with module("drives=cdrom"):
        h = Helper(0, 4 << 20)
        settle()
        fd = nonblock()
        ioctl(fd, CDROM_MEDIA_CHANGED, 0x7fffffff)
        os.close(fd)
        same(h.insert() > 0, True)
        settle()
        fd = nonblock()
        ioctl(fd, CDROM_GET_CAPABILITY)
        for cmd in (CDROM_DISC_STATUS, CDROMREADTOCENTRY, CDROMMULTISESSION):
            ioctl(fd, cmd, bytes(64))
        os.close(fd)
        assert h.ctl.verb(EJECT, 0) in (0, errno.EINPROGRESS)
        assert wait_until(lambda: h.ctl.verb(EJECT, 0) == 0)
        h.close()


def autoclose():
    with module("drives=cdrom"):
        with open("/proc/sys/dev/cdrom/autoclose", encoding="ascii") as f:
            if f.read().strip() != "1":
                raise Skip("autoclose is off")
        h = Helper(0, 4 << 20)
        h.store.write(0, b"hello")
        h.insert()
        settle()
        assert wait_until(lambda: h.ctl.verb(TRAY_OPEN, 0) == 0)
        settle()
        same(h.ctl.drive(0)["tray"], 1, "tray")
        fd = os.open("/dev/spicebd0", os.O_RDONLY)
        same(os.pread(fd, 5, 0), b"hello", "data")
        os.close(fd)
        same(h.ctl.drive(0)["tray"], 0, "tray closed by an open")
        settle()
        assert wait_until(lambda: h.ctl.verb(EJECT, 0) == 0)
        settle()
        try:
            os.close(os.open("/dev/spicebd0", os.O_RDONLY))
            raise AssertionError("opened without a medium")
        except OSError as e:
            same(e.errno, errno.ENOMEDIUM, "open of an empty drive")
        same((h.ctl.drive(0)["tray"], h.ctl.drive(0)["state"]), (0, 0))
        h.close()


def an_iso_is_mounted():
    with module("drives=cdrom"):
        sh("mkdir -p /tmp/iso /tmp/mnt; cp -r /usr/share/common-licenses/. "
           "/tmp/iso; genisoimage -quiet -R -o /tmp/x.iso /tmp/iso")
        h = Helper(0, os.stat("/tmp/x.iso").st_size, path="/tmp/x.iso")
        h.insert()
        settle()
        if sh("modprobe isofs", check=False):
            raise Skip("no isofs")
        sh("mount -o ro /dev/spicebd0 /tmp/mnt")
        sh("diff -r /tmp/iso /tmp/mnt")
        same(h.eject(), errno.EINPROGRESS, "eject of a mounted one")
        sh("umount /tmp/mnt")
        assert wait_until(lambda: h.eject() == 0)
        h.close()


def eject_of_a_disk():
    with module("drives=disk"):
        h = Helper(0, 4 << 20)
        h.insert()
        settle()
        fd = nonblock(0)
        same(ioctl(fd, CDROM_GET_CAPABILITY), -errno.ENOTTY, "capability")
        same(ioctl(fd, CDROM_DRIVE_STATUS), -errno.ENOTTY, "status")
        user = os.open("/dev/spicebd0", os.O_RDONLY)
        same(ioctl(fd, CDROMEJECT), -errno.EBUSY, "eject, in use")
        os.close(user)
        settle()
        same(ioctl(fd, CDROMEJECT), 0, "eject")
        os.close(fd)
        same(h.ctl.drive(0)["medium"], None, "medium")
        h.insert()
        settle()
        assert wait_until(lambda: not sh("eject /dev/spicebd0", check=False))
        same(h.ctl.drive(0)["medium"], None, "medium after eject(1)")
        h.close()


run(drive_status, eject_and_close, busy_and_locked, media_changed, autoclose,
    an_iso_is_mounted, eject_of_a_disk)
