#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-only
#
# The uniform CD-ROM layer's ioctls on a cdrom drive: status, eject, close,
# lock, media-changed, table of contents, what such a drive cannot do, and the
# sysctls autoclose, autoeject and check_media; a mount of an ISO; programs that
# look at a CD.
import contextlib
import errno
import fcntl
import os
import struct

from helper import (EJECT, MEDIUM_REMOVE, S_LOCKED, S_READY, TRAY_CLOSE,
                    TRAY_OPEN, Helper, Netlink, Uevents, wait_until)
from tap import Skip, module, run, same, settle, sh

CDROMEJECT, CDROMCLOSETRAY = 0x5309, 0x5319
CDROM_MEDIA_CHANGED, CDROM_DRIVE_STATUS = 0x5325, 0x5326
CDROM_LOCKDOOR, CDROM_GET_CAPABILITY = 0x5329, 0x5331
CDROM_DISC_STATUS, CDROMREADTOCENTRY, CDROMMULTISESSION = 0x5327, 0x5306, 0x5310
CDROMREADTOCHDR, CDROMSUBCHNL, CDROMRESET = 0x5305, 0x530b, 0x5312
CDROM_SELECT_SPEED, CDROM_SELECT_DISC, CDROM_GET_MCN = 0x5322, 0x5323, 0x5311
CDROM_LAST_WRITTEN, CDROM_CHANGER_NSLOTS, CDROMPLAYMSF = 0x5395, 0x5328, 0x5303
CDROM_TIMED_MEDIA_CHANGE, SG_IO = 0x5396, 0x2285
BLKROGET, BLKSSZGET, BLKPBSZGET, BLKGETSIZE64 = \
    0x125e, 0x1268, 0x127b, 0x80081272
LBA, MSF, LEADOUT, DATA_1 = 1, 2, 0xaa, 101
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
        assert watch.wait_event(60, lambda e: e["event"] == "tray_moved" and
                                e["tray"] == 1)
        assert watch.wait_event(60, lambda e: e["event"] == "medium_changed" and
                                not e["state"] & S_READY)
        same(ioctl(fd, CDROM_DRIVE_STATUS), TRAY_IS_OPEN, "status")
        same(ioctl(fd, CDROMCLOSETRAY), 0, "CDROMCLOSETRAY")
        same(ioctl(fd, CDROM_DRIVE_STATUS), DISC_OK, "status")
        os.close(fd)
        settle()
        n = events.those(lambda e: e.get("DISK_MEDIA_CHANGE"), 2)
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


@contextlib.contextmanager
def sysctl(name, value):
    """A setting of the CD-ROM layer, for all drives, and back."""
    path = "/proc/sys/dev/cdrom/" + name
    with open(path, encoding="ascii") as f:
        before = f.read().strip()
    with open(path, "w", encoding="ascii") as f:
        f.write(str(value))
    try:
        yield
    finally:
        with open(path, "w", encoding="ascii") as f:
            f.write(before)


def filled(size=4 << 20, **kw):
    h = Helper(0, min(size, 4 << 20))
    h.insert(size=size, **kw)
    h.idle()
    return h


def ask(cmd, data):
    """What an ioctl makes of a structure, or -errno."""
    fd = nonblock()
    try:
        return ioctl(fd, cmd, data)
    finally:
        os.close(fd)


def open_errno(flags=os.O_RDONLY):
    try:
        os.close(os.open("/dev/spicebd0", flags))
    except OSError as e:
        return e.errno
    return 0


def the_door_is_locked_while_used():
    with module("drives=cdrom"):
        h = filled()
        watch = Netlink().subscribe()

        def locked():
            return bool(h.ctl.drive(0)["state"] & S_LOCKED)
        same(locked(), False, "idle")
        fd = nonblock()
        same(locked(), False, "open for ioctls")
        os.close(fd)
        first = os.open("/dev/spicebd0", os.O_RDONLY)
        same(locked(), True, "first open")
        second = os.open("/dev/spicebd0", os.O_RDONLY)
        os.close(first)
        same(locked(), True, "one of two has gone")
        os.close(second)
        same(locked(), False, "last close")
        same([e["event"] for e in watch.events(0.3)], ["lock_changed"] * 2)
        # what eject -i on does
        fd = os.open("/dev/spicebd0", os.O_RDONLY)
        same(ioctl(fd, CDROM_LOCKDOOR, 1), 0, "lock")
        os.close(fd)
        same(locked(), True, "kept")
        fd = nonblock()
        same(ioctl(fd, CDROMEJECT), -errno.EBUSY, "eject")
        same(ioctl(fd, CDROM_LOCKDOOR, 0), 0, "unlock")
        os.close(fd)
        sh("eject -i on /dev/spicebd0")
        h.idle()
        same(locked(), True, "eject -i on")
        same(h.ctl.verb(EJECT, 0), errno.EINPROGRESS, "eject")
        sh("eject -i off /dev/spicebd0")
        h.idle()
        same(locked(), False, "eject -i off")
        h.done()


def autoclose_can_be_turned_off():
    with module("drives=cdrom"), sysctl("autoclose", 0):
        h = filled()
        same(h.ctl.verb(TRAY_OPEN, 0), 0, "open tray")
        h.idle()
        same(open_errno(), errno.ENOMEDIUM, "open")
        same(h.ctl.drive(0)["tray"], 1, "tray")
        with sysctl("autoclose", 1):
            same(open_errno(), 0, "open")
            same(h.ctl.drive(0)["tray"], 0, "tray")
        h.done()


def autoeject():
    with module("drives=cdrom"):
        h = filled()
        with sysctl("autoeject", 1):
            os.close(nonblock())
            same(h.ctl.drive(0)["tray"], 0, "after an open for ioctls")
            first = os.open("/dev/spicebd0", os.O_RDONLY)
            fd = nonblock()
            os.close(first)
            same(h.ctl.drive(0)["tray"], 0, "one is left")
            os.close(fd)
            same(h.ctl.drive(0)["tray"], 1, "last close")
        h.idle()
        same(h.ctl.verb(TRAY_CLOSE, 0), 0, "close")
        h.idle()
        same(open_errno(), 0, "open")
        same(h.ctl.drive(0)["tray"], 0, "when off")
        h.done()


def check_media_finds_data():
    with module("drives=cdrom"), sysctl("check_media", 1):
        h = filled()
        same(open_errno(), 0, "open")
        h.done()


def closetray_with_and_without_a_medium():
    with module("drives=cdrom"):
        h = Helper(0, 4 << 20)
        fd = nonblock()
        same(ioctl(fd, CDROMEJECT), 0, "eject an empty drive")
        same(ioctl(fd, CDROM_DRIVE_STATUS), TRAY_IS_OPEN)
        same(ioctl(fd, CDROMEJECT), 0, "eject an open one")
        same(ioctl(fd, CDROMCLOSETRAY), 0, "close an empty one")
        same(ioctl(fd, CDROM_DRIVE_STATUS), NO_DISC)
        same(ioctl(fd, CDROMCLOSETRAY), 0, "close a closed one")
        h.insert()
        settle()
        same(ioctl(fd, CDROMEJECT), 0, "eject")
        same(ioctl(fd, CDROMCLOSETRAY), 0, "close")
        same(ioctl(fd, CDROM_DRIVE_STATUS), DISC_OK)
        os.close(fd)
        h.done()


def timed_media_change():
    with module("drives=cdrom"):
        h = filled()

        def since(last):
            return struct.unpack("=qQ", ask(CDROM_TIMED_MEDIA_CHANGE,
                                            struct.pack("=qQ", last, 0)))
        last, flags = since(0)
        assert last > 0 and flags == 1, "since boot: %r" % ((last, flags),)
        same(since(last), (last, 0), "nothing since")
        same(h.eject_idle(), 0, "eject")
        h.insert()
        h.idle()
        later, flags = since(last)
        assert later > last and flags == 1, "not seen: %r" % ((later, flags),)
        h.done()


def media_changed_once_for_each():
    with module("drives=cdrom"):
        h = filled()
        fd = nonblock()
        ioctl(fd, CDROM_MEDIA_CHANGED, 0x7fffffff)
        same(ioctl(fd, CDROM_MEDIA_CHANGED, 0x7fffffff), 0, "unchanged")
        assert wait_until(lambda: h.eject() == 0)
        h.insert()
        same(ioctl(fd, CDROM_MEDIA_CHANGED, 0x7fffffff), 1, "changed")
        same(ioctl(fd, CDROM_MEDIA_CHANGED, 0x7fffffff), 0, "told once")
        os.close(fd)
        h.done()


def toc_entry(track, form):
    """Kind, and address, of a track; or -errno."""
    got = ask(CDROMREADTOCENTRY, struct.pack("=BBBxiBxxx", track, 0, form, 0,
                                             0))
    if isinstance(got, int):
        return got
    _, adr_ctrl, got_form, addr, _ = struct.unpack("=BBBxiBxxx", got)
    same(got_form, form, "format of the address")
    if form == MSF:
        addr = tuple(addr.to_bytes(4, "little")[:3])
    return adr_ctrl >> 4, addr


def table_of_contents():
    with module("drives=cdrom"):
        h = Helper(0, 4 << 20)
        same(ask(CDROMREADTOCHDR, bytes(2)), -errno.ENOMEDIUM, "empty")
        same(toc_entry(1, LBA), -errno.ENOMEDIUM, "empty")
        same(ask(CDROM_DISC_STATUS, 0), NO_DISC, "empty")
        session = struct.pack("=iBBxx", -1, 0, LBA)
        same(ask(CDROMMULTISESSION, session), -errno.ENOMEDIUM, "empty")
        h.insert()
        h.idle()
        same(ask(CDROMREADTOCHDR, bytes(2)), b"\1\1", "tracks")
        same(toc_entry(1, LBA), (4, 0), "track 1")
        same(toc_entry(1, MSF), (4, (0, 2, 0)), "track 1")
        same(toc_entry(LEADOUT, LBA), (4, 2048), "lead-out")
        same(toc_entry(LEADOUT, MSF), (4, (0, 29, 23)), "lead-out")
        for track in (0, 2, 99, 255):
            same(toc_entry(track, LBA), -errno.EINVAL, "track %d" % track)
        same(toc_entry(1, 3), -errno.EINVAL, "an unknown format")
        same(ask(CDROM_DISC_STATUS, 0), DATA_1, "disc status")
        same(struct.unpack("=iBBxx", ask(CDROMMULTISESSION, session))[:2],
             (0, 0), "last session")
        same(h.eject_idle(), 0, "eject")
        # an address that minutes, seconds and frames cannot tell
        h.insert(size=8 << 30)
        h.idle()
        same(toc_entry(LEADOUT, MSF), (4, (255, 59, 74)), "lead-out of a DVD")
        h.done()


def what_it_cannot_do():
    with module("drives=cdrom"):
        h = filled()
        for cmd, arg, error in (
                (CDROM_GET_MCN, bytes(14), errno.ENOSYS),
                (CDROM_LAST_WRITTEN, bytes(8), errno.ENOSYS),
                (CDROM_SELECT_SPEED, 8, errno.ENOSYS),
                (CDROM_SELECT_DISC, 0, errno.ENOSYS),
                (CDROMRESET, 0, errno.ENOSYS),
                (CDROMPLAYMSF, bytes(6), errno.ENOSYS),
                (CDROMSUBCHNL, b"\2" + bytes(15), errno.EINVAL),
                (SG_IO, bytes(88), errno.ENOTTY),
                (0x1234, 0, errno.ENOTTY)):
            same(ask(cmd, arg), -error, "ioctl 0x%x" % cmd)
        same(ask(CDROM_CHANGER_NSLOTS, 0), 1, "slots")
        # close tray, open tray, lock, multi-session, media changed, drive
        # status, DVD; nothing else
        capability = ask(CDROM_GET_CAPABILITY, 0)
        same(capability, 0x1 | 0x2 | 0x4 | 0x20 | 0x80 | 0x800 | 0x8000,
             "capability")
        h.done()


def sizes_when_empty_and_full():
    with module("drives=cdrom"):
        def sizes():
            return (struct.unpack("=i", ask(BLKROGET, bytes(4)))[0],
                    struct.unpack("=i", ask(BLKSSZGET, bytes(4)))[0],
                    struct.unpack("=I", ask(BLKPBSZGET, bytes(4)))[0],
                    struct.unpack("=Q", ask(BLKGETSIZE64, bytes(8)))[0])
        same(sizes(), (1, 2048, 2048, 0), "empty")
        h = filled(block_size=4096)
        same(sizes(), (1, 2048, 4096, 4 << 20), "full")
        same(h.eject_idle(), 0, "eject")
        h.idle()
        ro, logical, _, size = sizes()
        same((ro, logical, size), (1, 2048, 0), "empty again")
        h.done()


def programs_see_a_data_disc():
    with module("drives=cdrom"):
        sh("mkdir -p /tmp/iso; echo hello > /tmp/iso/hello.txt; "
           "genisoimage -quiet -R -V SPICEBD -o /tmp/x.iso /tmp/iso")
        h = Helper(0, os.stat("/tmp/x.iso").st_size, path="/tmp/x.iso")
        h.insert()
        h.idle()
        text = sh("cd-info --no-cddb --no-header -C /dev/spicebd0")
        assert "Disc mode is listed as: CD-DATA" in text, text
        assert "CD-ROM Track List (1 - 1)" in text, text
        assert "ISO 9660" in text and "SPICEBD" in text, text
        text = sh("iso-info -l -i /dev/spicebd0")
        assert "hello.txt" in text.lower(), text
        h.idle()
        same(h.ctl.drive(0)["state"] & S_LOCKED, 0, "locked")
        h.done()


run(drive_status, eject_and_close, busy_and_locked, media_changed, autoclose,
    an_iso_is_mounted, the_door_is_locked_while_used,
    autoclose_can_be_turned_off, autoeject, check_media_finds_data,
    closetray_with_and_without_a_medium, timed_media_change,
    media_changed_once_for_each, table_of_contents, what_it_cannot_do,
    sizes_when_empty_and_full, programs_see_a_data_disc)
