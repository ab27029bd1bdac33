#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-only
#
# What a slot for sticks answers to ioctls and programs, empty and full, as a
# removable disk does: sizes, read-only media, CDROMEJECT, eject(1).
import errno
import fcntl
import os
import struct

from helper import F_READ_ONLY, Helper, Netlink, wait_until
from tap import module, run, same, settle, sh

CDROMEJECT, CDROMCLOSETRAY, CDROM_LOCKDOOR = 0x5309, 0x5319, 0x5329
CDROM_DRIVE_STATUS, CDROM_GET_CAPABILITY = 0x5326, 0x5331
BLKROGET, BLKSSZGET, BLKPBSZGET, BLKGETSIZE64 = \
    0x125e, 0x1268, 0x127b, 0x80081272
NODE = "/dev/spicebd0"


def ioctl(fd, cmd, arg=0):
    try:
        return fcntl.ioctl(fd, cmd, arg)
    except OSError as e:
        return -e.errno


def nonblock():
    return os.open(NODE, os.O_RDONLY | os.O_NONBLOCK)


def open_errno(flags=os.O_RDONLY, path=NODE):
    try:
        os.close(os.open(path, flags))
    except OSError as e:
        return e.errno
    return 0


def sizes():
    fd = nonblock()
    try:
        return (struct.unpack("=i", ioctl(fd, BLKROGET, bytes(4)))[0],
                struct.unpack("=i", ioctl(fd, BLKSSZGET, bytes(4)))[0],
                struct.unpack("=I", ioctl(fd, BLKPBSZGET, bytes(4)))[0],
                struct.unpack("=Q", ioctl(fd, BLKGETSIZE64, bytes(8)))[0])
    finally:
        os.close(fd)


def sizes_when_empty_and_full():
    with module("drives=disk"):
        same(sizes(), (0, 512, 512, 0), "empty")
        h = Helper(0, 4 << 20)
        h.insert(block_size=4096)
        h.idle()
        same(sizes(), (0, 512, 4096, 4 << 20), "full")
        same(h.eject_idle(), 0, "eject")
        h.idle()
        _, logical, _, size = sizes()
        same((logical, size), (512, 0), "empty again")
        h.insert(F_READ_ONLY)
        h.idle()
        same(sizes(), (1, 512, 512, 4 << 20), "read-only")
        same(h.eject_idle(), 0, "eject")
        h.idle()
        h.insert()
        h.idle()
        same(sizes(), (0, 512, 512, 4 << 20), "writable again")
        h.done()


def opens():
    with module("drives=disk"):
        same(open_errno(), errno.ENOMEDIUM, "empty")
        same(open_errno(os.O_RDWR), errno.ENOMEDIUM, "empty, for writing")
        same(open_errno(os.O_RDONLY | os.O_NONBLOCK), 0, "empty, O_NONBLOCK")
        h = Helper(0, 4 << 20)
        h.insert(F_READ_ONLY)
        h.idle()
        same(open_errno(), 0, "read-only")
        same(open_errno(os.O_RDWR), errno.EROFS, "read-only, for writing")
        same(h.eject_idle(), 0, "eject")
        h.insert()
        h.idle()
        same(open_errno(os.O_RDWR), 0, "writable")
        h.done()


def eject_by_ioctl():
    with module("drives=disk"):
        h = Helper(0, 4 << 20)
        fd = nonblock()
        same(ioctl(fd, CDROMEJECT), 0, "an empty slot")
        os.close(fd)
        h.insert()
        h.idle()
        fd = nonblock()
        for cmd in (CDROM_GET_CAPABILITY, CDROM_DRIVE_STATUS, CDROMCLOSETRAY,
                    0x2285, 0x1234):
            same(ioctl(fd, cmd), -errno.ENOTTY, "ioctl 0x%x" % cmd)
        same(ioctl(fd, CDROM_LOCKDOOR, 0), 0, "unlock")
        same(ioctl(fd, CDROM_LOCKDOOR, 1), -errno.EOPNOTSUPP, "lock")
        user = os.open(NODE, os.O_RDONLY)
        same(ioctl(fd, CDROMEJECT), -errno.EBUSY, "eject, in use")
        os.close(user)
        h.idle(1)
        same(ioctl(fd, CDROMEJECT), 0, "eject")
        os.close(fd)
        same(h.ctl.drive(0)["medium"], None, "medium")
        h.done()


def eject_by_its_program():
    with module("drives=disk"):
        h = Helper(0, 4 << 20)
        h.insert()
        h.idle()
        sh("eject " + NODE)
        same(h.ctl.drive(0)["medium"], None, "medium")
        h.insert()
        h.idle()
        sh("mkfs.vfat -I %s >/dev/null; mkdir -p /tmp/m" % NODE)
        h.idle()
        sh("mount %s /tmp/m; echo x > /tmp/m/f" % NODE)
        sh("eject " + NODE)
        same(sh("findmnt " + NODE, check=False), 1, "findmnt: no mount")
        same(h.ctl.drive(0)["medium"], None, "medium after umount")
        h.done()


def read_ahead_kb():
    with open("/sys/block/spicebd0/queue/read_ahead_kb",
              encoding="ascii") as f:
        return int(f.read())


def read_ahead():
    with module("drives=disk"):
        usual = read_ahead_kb()
        h = Helper(0, 4 << 20)
        same(h.ctl.read_ahead(0, 1 << 20), errno.ENOMEDIUM, "set, empty")
        h.insert(read_ahead=5 << 20)
        h.idle()
        same(read_ahead_kb(), 5 << 10, "of the insert")
        same(h.ctl.read_ahead(0, 1 << 20), 0, "set")
        same(read_ahead_kb(), 1 << 10, "as set")
        same(h.ctl.read_ahead(0, (64 << 20) + 1), errno.ERANGE, "too much")
        same(Netlink().manage().read_ahead(0, 4096), errno.EPERM, "a stranger")
        same(h.ctl.read_ahead(0, 0), 0, "set to the default")
        same(read_ahead_kb(), usual, "default")
        same(h.ctl.read_ahead(0, 64 << 20), 0, "the most")
        same(h.eject_idle(), 0, "eject")
        same(wait_until(lambda: read_ahead_kb() == usual), True,
             "the default again")
        h.done()


run(sizes_when_empty_and_full, read_ahead, opens, eject_by_ioctl, eject_by_its_program)
