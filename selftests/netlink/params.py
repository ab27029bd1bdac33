#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-only
#
# Module parameters, and rmmod: works unless a drive is open, whoever is
# attached.
import os

from helper import Helper, Netlink, silent, wait_until
from tap import load, module, run, same, settle, sh, unload


def names():
    return [d["name"] for d in Netlink().drives()]


def two_drives_by_default():
    with module():
        drives = Netlink().drives()
        same([(d["name"], d["personality"], d["depth"], d["max_io"])
              for d in drives],
             [("spicebd0", 0, 64, 1 << 20), ("spicebd1", 1, 64, 1 << 20)])
        same(drives[0]["nr_queues"], min(4, os.cpu_count()), "queues")


def any_list():
    with module("drives=disk,disk,cdrom"):
        same([d["personality"] for d in Netlink().drives()], [1, 1, 0])
    with module("drives="):
        same(names(), [], "drives")
    with module("drives=" + ",".join(["disk", "cdrom"] * 32), "queues=1",
                "depth=1"):
        same(len(names()), 64, "drives")


def bad_parameters():
    for bad in ("drives=floppy", "drives=disk,", "drives=cdrom,,disk",
                "drives=" + ",".join(["disk"] * 65), "queues=17", "depth=0",
                "depth=257", "max_io=5000", "max_io=8388608"):
        assert load(bad) != 0, "loaded with " + bad
        assert not os.path.exists("/sys/module/spicebd"), bad
    text = sh("dmesg | grep spicebd:")
    assert "'floppy' is neither cdrom nor disk" in text, text


def rmmod_of_an_open_drive():
    assert load() == 0
    settle()
    fd = os.open("/dev/spicebd0", os.O_RDONLY | os.O_NONBLOCK)
    assert unload() != 0, "unloaded under an open drive"
    os.close(fd)
    settle()
    same(unload(), 0, "rmmod")


def rmmod_with_a_helper():
    assert load() == 0
    h = Helper(1, 8 << 20)
    h.insert()
    settle()
    assert wait_until(lambda: not h.ctl.drive(1)["openers"])
    same(unload(), 0, "rmmod with a medium in the drive")
    h.close()
    assert load() == 0
    settle()
    same(unload(), 0, "rmmod")


def rmmod_after_a_forced_delete():
    assert load() == 0
    settle()
    h = Helper(1, 8 << 20)
    h.insert()
    fd = os.open("/dev/spicebd1", os.O_RDONLY)
    h.behave = silent
    same(h.ctl.verb(6, 1, True), 0, "del --force")
    assert unload() != 0, "unloaded under an open drive"
    os.close(fd)
    h.close()
    settle()
    same(unload(), 0, "rmmod")


run(two_drives_by_default, any_list, bad_parameters, rmmod_of_an_open_drive,
    rmmod_with_a_helper, rmmod_after_a_forced_delete)
