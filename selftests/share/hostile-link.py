#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-only
# timeout: 400
"""spicebd-share and a link that means it harm: floods beyond its credit, hellos and
opens without end, answers that it never reads, a byte at a time, noise. Each time
the share lives, does not grow, ends its servers, and says what it did in a line or
two; and somebody who keeps the rules is served afterwards."""
import os
import random
import secrets
import select
import struct
import threading
import time

import sharelib as s
from sharelib import check, equal, linked, random_file, workdir

MIB = 1 << 20
GROWTH_KIB = 96 << 10	# the windows of all streams are 64 MiB
LINES_MAX = 4


def u32(*v):
    return struct.pack(f"<{len(v)}I", *v)


def rss_kib(share):
    with open(f"/proc/{share.p.pid}/status") as f:
        return next(int(line.split()[1]) for line in f if line.startswith("VmRSS"))


def nbdkits(share):
    return [p for p, a in share.children().items() if "nbdkit" in a[0]]


def wait_for(cond, what, limit=s.LIMIT):
    until = time.monotonic() + limit
    while not cond():
        if time.monotonic() > until:
            raise s.Timeout(what)
        select.select([], [], [], 0.02)


def again(link):
    """A new session, as a link begins one: once more when it is asked to."""
    for _ in range(3):
        link.hello(answer=False)
        if link.get(s.HELLO, s.RESYNC).type == s.HELLO:
            link.get(s.OFFERS_END)
            return
    check(False, "no session, however often it is asked for")


def read_on(share):
    """Its events are nobody's here; unread they would stop it."""
    try:
        while True:
            share.out.get(3600)
    except (EOFError, OSError, ValueError, s.Timeout):
        pass


def attack(act):
    """act(link, share, offer); then a good session on the same port."""
    path = random_file(f"{workdir()}/disk.img", 2 * MIB)
    share, server, link = linked("--read-write", path)
    threading.Thread(target=read_on, args=(share,), daemon=True).start()
    before = rss_kib(share)
    act(link, share, link.offer("disk.img"))
    check(share.p.poll() is None, f"it lives: {share.errors()}")
    grown = rss_kib(share) - before
    check(grown < GROWTH_KIB, f"it grew by {grown} KiB")
    said = share.errors().strip().splitlines()
    check(len(said) <= LINES_MAX, f"{len(said)} lines: {said[:10]}")
    # Whoever comes next at that port is no worse off.
    link.hello()
    n = link.open(link.offer("disk.img")).nbd()
    with open(path, "rb") as f:
        check(bytes(n.pread(MIB, 0)) == f.read(MIB), "content")
    n.shutdown()
    wait_for(lambda: not nbdkits(share), "its servers end")
    equal(share.stop(), 0, "exit status")
    server.p.kill()


def flood():
    """data beyond its credit, to a server that does not take it"""
    def act(link, share, offer):
        st = link.open(offer)
        for pid in nbdkits(share):
            os.kill(pid, 19)
            s.later(lambda pid=pid: gone_on(pid))
        left = st.credit + 1
        while left:
            n = min(left, 65000)
            link.send(s.DATA, bytes(n), st.id)
            left -= n
        equal(link.get(s.BYE).code(), s.ERR_PROTOCOL, "BYE")
    attack(act)


def gone_on(pid):
    if os.path.exists(f"/proc/{pid}"):
        os.kill(pid, 9)


def hellos():
    """thirty new sessions in a row, each in the middle of a stream open for writing"""
    def act(link, share, offer):
        for _ in range(30):
            again(link)
            link.send(s.OPEN, u32(offer["id"], 1000), stream=1)
        again(link)
        wait_for(lambda: not nbdkits(share), "no server is left")
    attack(act)


def too_soon():
    """a link that never waits for the answer to its hello is left alone in the end"""
    path = random_file(f"{workdir()}/disk.img", MIB)
    share, _, link = linked("--read-write", path)
    threading.Thread(target=read_on, args=(share,), daemon=True).start()
    offer = link.offer("disk.img")
    for _ in range(300):
        link.hello(answer=False)
        link.send(s.OPEN, u32(offer["id"], 1000), stream=1)
    wait_for(lambda: "left alone" in share.errors(), "it is left alone")
    check(len(share.errors().splitlines()) <= 12, "lines of the log are bounded")
    wait_for(lambda: not nbdkits(share), "no server is left")
    equal(share.stop(), 0, "exit status")


def quiet_hellos():
    """a thousand new sessions in a row that say nothing"""
    def act(link, share, offer):
        for _ in range(1000):
            link.hello(answer=False)
        again(link)
    attack(act)


def opens():
    """more streams than there may be, open and closed again"""
    def act(link, share, offer):
        for n in range(1, 200):
            link.send(s.OPEN, u32(offer["id"], 1000), stream=n)
            if n % 2:
                link.send(s.CLOSE, u32(0), stream=n)
        wait_for(lambda: len(nbdkits(share)) <= 16, "servers are bounded")
        link.hello()
        wait_for(lambda: not nbdkits(share), "no server is left")
    attack(act)


def noise():
    """eight megabytes of noise, with the magic in it"""
    def act(link, share, offer):
        r = random.Random(5)
        for _ in range(128):
            link.sock.sendall(r.randbytes(32768) + b"SBDF" + r.randbytes(32764))
        link.get(s.RESYNC)
    attack(act)


def slowly():
    """a hello a byte at a time, and a frame of which the end never comes"""
    def act(link, share, offer):
        e = secrets.randbits(32) | 1
        h = struct.pack("<IHHIIII", s.MAGIC, s.HELLO, 0, 0, 96, e, 0) + struct.pack(
            "<HHIIIII32s16s16s8x", 1, 1, s.ANSWERS, e, 65536, 2000, 10000, bytes(32), b"B" * 16,
            b"L" * 16)
        link.epoch, link.seq = e, 1
        for c in h:
            link.sock.sendall(bytes([c]))
        link.get(s.HELLO)
        link.sock.sendall(struct.pack("<IHHIIII", s.MAGIC, s.DATA, 0, 1, 65512, e, 1) + b"x" * 99)
        link.sock.sendall(bytes(65512 - 99))
        equal(link.get(s.BYE).code(), s.ERR_PROTOCOL, "BYE")
    attack(act)


def credit():
    """more credit than there may be, in one and in many pieces"""
    def act(link, share, offer):
        st = link.open(offer, credit=1)
        # The server's greeting may come before the last of these.
        st.granted += 17 * MIB
        for _ in range(17):
            link.send(s.CREDIT, u32(MIB), st.id)
        equal(link.get(s.BYE).code(), s.ERR_PROTOCOL, "BYE")
        link.hello()
        link.open(offer, credit=0)
        link.send(s.CREDIT, u32(0), 1)
        equal(link.get(s.BYE).code(), s.ERR_PROTOCOL, "BYE")
    attack(act)


def old_epoch():
    """frames of older epochs and of epochs that never were, by the thousand"""
    def act(link, share, offer):
        old = link.epoch
        link.hello()
        for n in range(2000):
            link.send(s.OPEN, u32(offer["id"], 9), 1, epoch=old if n % 2 else old ^ n, seq=n)
        link.send(s.PING, struct.pack("<Q", 77))
        equal(link.get(s.PONG).payload, struct.pack("<Q", 77), "its session stands")
        check(not nbdkits(share), "nothing was opened")
    attack(act)


def texts():
    """notices with control characters, and about offers that are none"""
    def act(link, share, offer):
        for n in range(1, 300):
            link.send(s.NOTICE, u32(n % 7, n) + b"words")
        link.send(s.NOTICE, u32(5, offer["id"]) + b"\x1b[2J\xff")
        equal(link.get(s.BYE).code(), s.ERR_PROTOCOL, "BYE")
        check("\x1b" not in share.errors(), "nothing of it reaches a terminal")
    attack(act)


if __name__ == "__main__":
    s.run([flood, hellos, too_soon, quiet_hellos, opens, noise, slowly, credit, old_epoch, texts])
