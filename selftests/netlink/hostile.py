#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-only
#
# Replies that answer nothing, or wrongly, are refused and counted, and
# complete no request; short, long and unknown messages are errors; another
# socket's replies are worth nothing; two helpers do not share a drive; and a
# user without rights can look and do nothing else.
import errno
import os
import random
import socket
import struct
import subprocess
import sys
import threading

import helper as H
from helper import (ATTACH, EJECT, IO_COMPLETE, IO_DATA, MANAGE, QUEUE_BIND,
                    Helper, Netlink, NetlinkError, attr, hostile, message,
                    u64, wait_until)
from tap import module, run, same, settle, sh


WRONG = {"cookie": errno.ENOENT, "tag": errno.ENOENT,
         "duplicate": errno.ENOENT, "short": errno.EINVAL,
         "long": errno.EINVAL, "order": errno.EINVAL,
         "write-data": errno.EINVAL, "error-data": errno.EINVAL}


def wrong_replies(index, queues):
    h = Helper(index, 8 << 20, queues=queues)
    h.insert()
    settle()
    dev, good = "/dev/spicebd%d" % index, h.behave
    for kind, error in WRONG.items():
        if index == H.CDROM and kind == "write-data":
            continue
        for q in h.queues:
            q.errors.clear()
        before = h.ctl.stats(index)["refused"]
        data = os.urandom(65536)
        if index == H.CDROM:
            # Nothing of it is cached: it was not open.
            h.idle()
            h.store.write(1 << 20, data)
            h.behave = hostile(kind)
        else:
            h.behave = hostile(kind)
            fd = os.open(dev, os.O_RDWR | os.O_SYNC)
            os.pwrite(fd, data, 1 << 20)
            os.close(fd)
        fd = os.open(dev, os.O_RDONLY)
        same(os.pread(fd, 65536, 1 << 20) == data, True, kind)
        os.close(fd)
        settle()
        assert wait_until(lambda: any(q.errors for q in h.queues), 60), kind
        assert h.ctl.stats(index)["refused"] > before, kind
        same({e for q in h.queues for e in q.errors}, {error}, kind)
        h.behave = good
    same(h.ctl.stats(index)["errors"], 0, "errors")
    same(h.eject_idle(), 0, "eject")
    h.close()


def wrong_replies_are_refused():
    with module("drives=cdrom,disk", "queues=2"):
        for index, queues in ((H.DISK, 1), (H.CDROM, 2)):
            nl = Netlink()
            assert wait_until(lambda: nl.drive(index)["helper"] !=
                              H.HELPER_ATTACHED, 60)
            wrong_replies(index, queues)


def replies_on_another_socket():
    with module("drives=disk", "queues=2"):
        h = Helper(0, 8 << 20, queues=2)
        h.insert()
        settle()
        h.behave = H.silent
        t = threading.Thread(target=lambda: sh(
            "dd if=/dev/spicebd0 of=/dev/null bs=4k count=1 iflag=direct"))
        t.start()
        assert wait_until(lambda: any(q.kept for q in h.queues))
        mine = next(q for q in h.queues if q.kept)
        other = next(q for q in h.queues if q is not mine)
        io = mine.kept[0]
        stranger = Netlink()
        for nl, error in ((stranger, errno.ENOTCONN),
                          (h.ctl, errno.ENOTCONN)):
            same(nl.fails(IO_COMPLETE, u64(H.I_COOKIE, io["cookie"])), error)
        other.send(*other.pieces(io["cookie"], bytes(4096)))
        assert wait_until(lambda: other.errors)
        same(other.errors, [errno.ENOENT], "on the other queue's socket")
        same(h.ctl.drive(0)["in_flight"], 1, "in flight")
        h.behave = H.Queue.serve
        mine.serve(io)
        t.join(60)
        same(h.eject_idle(), 0, "eject")
        h.close()


def short_long_and_unknown_messages():
    with module("drives=disk"):
        h = Helper(0, 8 << 20)
        nl = h.ctl
        same(nl.fails(0), errno.EOPNOTSUPP, "command 0")
        last = H.THAW
        for cmd in (H.DRIVE_NTF, H.IO_REQUEST, H.IO_REQUESTS, last + 1, 200):
            same(nl.fails(cmd), errno.EOPNOTSUPP, "command %d" % cmd)
        for cmd in range(1, last + 1):
            if cmd in (MANAGE, H.DRIVE_NTF, H.IO_REQUEST, H.IO_REQUESTS):
                continue
            assert nl.fails(cmd), "command %d without attributes" % cmd
            assert nl.fails(cmd, attr(77, 1)), "unknown attribute"
            assert nl.fails(cmd, b"\x03\x00\x02\x00"), "length 3"
            assert nl.fails(cmd, struct.pack("=HH", 40, 2) + b"1234")
            assert nl.fails(cmd, struct.pack("=HHH", 6, 2, 0) + b"\0\0")
        same(nl.fails(EJECT, attr(H.A_INDEX, 64)), errno.ERANGE, "index 64")
        same(nl.fails(H.ATTACH, attr(H.H_INDEX, 0) + attr(H.H_NR_KEYS, 17)),
             errno.ERANGE, "17 keys")
        same(nl.fails(QUEUE_BIND, attr(H.H_KEY, b"x" * 15)), errno.ERANGE)
        same(nl.fails(QUEUE_BIND, attr(H.H_KEY, b"x" * 16)),
             errno.EKEYREJECTED, "a made up key")
        same(nl.fails(IO_DATA, u64(H.I_COOKIE, 1) +
                      attr(H.I_DATA, bytes(61441))), errno.ERANGE)
        # raw rubbish on a bound socket
        q = h.queues[0].nl
        rnd = random.Random(1)
        for _ in range(300):
            junk = bytearray(message(q.family, rnd.choice(
                (IO_DATA, IO_COMPLETE)), u64(H.I_COOKIE, rnd.getrandbits(64)) +
                attr(H.I_DATA, rnd.randbytes(rnd.randrange(64)))))
            for _ in range(rnd.randrange(4)):
                junk[rnd.randrange(len(junk))] = rnd.randrange(256)
            q.sock.send(bytes(junk))
        h.insert()
        same(h.eject_idle(), 0, "eject")
        h.close()


def two_helpers():
    with module("drives=disk", "queues=2"):
        h = Helper(0, 8 << 20)
        other = Netlink().manage()
        same(other.fails(ATTACH, attr(H.H_INDEX, 0)), errno.EBUSY, "attach")
        same(other.fails(H.DETACH, attr(H.H_INDEX, 0)), errno.EPERM)
        same(other.fails(H.KEY_NEW, attr(H.H_INDEX, 0)), errno.EPERM)
        same(other.fails(H.LINK_REPORT, attr(H.H_INDEX, 0) +
                         attr(H.H_LINK, 1)), errno.EPERM, "link")
        try:
            other.insert(0, 8 << 20)
            raise AssertionError("a stranger inserted a medium")
        except NetlinkError as e:
            same(e.errno, errno.EPERM, "insert")
        key = h.ctl.keys(H.KEY_NEW, 0, 1)[0]
        nl = Netlink()
        nl.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
        same(nl.fails(QUEUE_BIND, attr(H.H_KEY, key)), errno.ENOBUFS)
        nl = Netlink(32 << 20)
        same(nl.fails(QUEUE_BIND, attr(H.H_KEY, key) +
                      u64(H.H_QUEUES, 1 << 5)), errno.EINVAL, "queue 5")
        nl.bind(key)
        same(nl.fails(QUEUE_BIND, attr(H.H_KEY, key)), errno.EBUSY)
        same(Netlink(32 << 20).fails(QUEUE_BIND, attr(H.H_KEY, key)),
             errno.EKEYREJECTED, "a used key")
        nl.close()
        h.insert()
        h.ctl.do(H.DETACH, attr(H.H_INDEX, 0))
        h.queues[0].pause()
        same(h.queues[0].nl.fails(IO_COMPLETE, u64(H.I_COOKIE, 1)),
             errno.ENOTCONN, "after detach")
        other.keys(ATTACH, 0, 1)
        same(h.ctl.verb(EJECT, 0, True), 0, "eject")
        other.close()
        h.close()
        for _ in range(50):
            Helper(0, 1 << 20, queues=2).close()


def without_rights():
    code = """
import os, sys
sys.path.insert(0, %r)
os.setgid(65534); os.setuid(65534)
from helper import *
nl = Netlink()
assert nl.drive(0)["name"] == "spicebd0"
assert M_ID not in nl.drive(0)["medium"], "the medium's id is shown"
assert len(nl.drives()) == 1
nl.subscribe()
assert nl.fails(MANAGE) == errno.EPERM
for cmd in range(4, MEDIUM_SET + 1):
    if cmd in (IO_REQUEST, IO_REQUESTS):
        continue
    for a in (attr(A_INDEX, 0), attr(A_PERSONALITY, 1)):
        assert nl.fails(cmd, a), cmd
assert nl.fails(EJECT, attr(A_INDEX, 0)) == errno.EPERM
""" % os.path.dirname(os.path.abspath(__file__))
    with module("drives=disk"):
        h = Helper(0, 8 << 20)
        h.insert(medium_id=b"secret")
        same(h.ctl.drive(0)["medium"][H.M_ID], b"secret", "id for a manager")
        same(subprocess.run([sys.executable, "-c", code],
                            check=False).returncode, 0, "as nobody")
        if sh("unshare -Ur true", check=False) == 0:
            code2 = code.replace("os.setgid(65534); os.setuid(65534)", "")
            same(subprocess.run(["unshare", "-Ur", sys.executable, "-c",
                                 code2], check=False).returncode, 0,
                 "as root of a user namespace")
        scoped = Netlink().manage(5)
        same(scoped.verb(EJECT, 0), errno.EPERM, "manager of another drive")
        same(scoped.fails(H.DRIVE_ADD, attr(H.A_PERSONALITY, 1)),
             errno.EPERM, "a scoped manager adds")
        same(h.eject_idle(), 0, "eject")
        h.close()


run(wrong_replies_are_refused, replies_on_another_socket,
    short_long_and_unknown_messages, two_helpers, without_rights)
