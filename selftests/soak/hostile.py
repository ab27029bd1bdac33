#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-only
"""Somebody who means ill, and speaks the family, beside a soak: see README.

usage: hostile.py SEED DRIVE...

DRIVEs are others' and must not notice. Two more are made, 60 (CD) and 61 (disk),
which are served here: each request is answered in a wrong way or late, and at last
in the right one; their users verify what they read. Runs until the end of its
standard input. Prints "ERROR …" for each thing that ought not to be, and at the
end counts as JSON.
"""
import collections
import errno
import json
import os
import random
import select
import socket
import subprocess
import sys
import threading
import time

HERE = os.path.dirname(os.path.abspath(__file__))
sys.dont_write_bytecode = True
sys.path[:0] = [HERE, os.path.join(HERE, "../netlink")]
import helper as H			# noqa: E402
import model				# noqa: E402
from helper import Helper, Netlink, NetlinkError, Queue, attr, message, u64	# noqa: E402

OURS = {60: H.CDROM, 61: H.DISK}
WILD = 59				# malformed commands may do what they like to it
SIZE, MEMORY = 8 << 20, 4 << 20
ROOM = 4 << 20			# of a socket that is to be bound
LIMIT = 120				# s, for what the kernel must let happen
TRACING = "/sys/kernel/tracing"
tally = model.Tally()
stop = threading.Event()
# Cookies of requests that others' helpers have, newest last: (drive, cookie).
theirs = collections.deque(maxlen=256)


def expect(what, got, *may):
    """One more of these; it is an error if the kernel says anything else."""
    tally.add(what)
    if got not in may:
        tally.error(f"hostile: {what}: {errno.errorcode.get(got, got)}")


def pause(rnd, most):
    stop.wait(rnd.uniform(0, most) * H.SCALE)


def replies(cookie, rnd):
    """One that pretends to be the answer to a request, in each of the three ways."""
    return rnd.choice((
        (H.IO_COMPLETE, u64(H.I_COOKIE, cookie)),
        (H.IO_DATA, u64(H.I_COOKIE, cookie) + attr(H.I_DATA_OFFSET, 0) +
         attr(H.I_DATA, b"z" * 512)),
        (H.IO_ANSWERS, attr(H.I_ANSWERS, H.ANSWER.pack(cookie, 0, 0)))))


# ---- helpers of drives of their own, which answer wrong

class Own:
    """What model.py wants to know of a medium."""

    def __init__(self, index):
        self.index, self.cdrom = index, OURS[index] == H.CDROM
        self.name, self.tag = f"hostile{index}", b"hostile%d" % (index - 60)
        self.out_until, self.inserting = 0, True

    def may_fail(self):
        return time.monotonic() < self.out_until

    @property
    def device(self):
        """None while a medium is put in: an open closes the tray."""
        return f"/dev/spicebd{self.index}" + ("-later" if self.inserting else "")


class Villain(threading.Thread):
    INLINE = ("cookie", "tag", "duplicate", "short", "long", "order", "write-data", "error-data")
    LISTS = ("cookie", "tag", "duplicate", "order", "write-data")

    def __init__(self, seed, index):
        super().__init__(daemon=True)
        self.random, self.index, self.medium = random.Random(seed), index, Own(index)
        self.store = H.Store(SIZE)
        if self.medium.cdrom:
            self.store.write(0, os.urandom(SIZE))
        self.medium.discs = [bytes(self.store.memory)]
        self.old = collections.deque(maxlen=64)		# of sockets that are closed
        self.known = collections.deque(maxlen=64)
        self.inserted = False
        Netlink().manage().add(OURS[index], index=index, nr_queues=2, depth=16,
                               reconnect_timeout=300)
        kind = model.Reader if self.medium.cdrom else model.Writer
        more = [() if self.medium.cdrom else (n * 256, 256) for n in range(2)]
        self.users = [kind(self.medium, tally, f"{seed}{n}", f"{self.medium.name}/{n}", *more[n])
                      for n in range(2)]

    def run(self):
        while not stop.is_set():
            try:
                self.life()
            except NetlinkError as e:
                # another attached first, or the slot of a dead one is not free yet
                if e.errno not in (errno.EBUSY, errno.EKEYREJECTED):
                    tally.error(f"hostile: helper of {self.index}: {e}")
                    return
                pause(self.random, 0.1)
            except Exception as e:	# a bug of ours must not pass for success
                tally.error(f"hostile: helper of {self.index}: {type(e).__name__}: {e}")
                return
        self.last()

    def life(self):
        h = Helper(self.index, store=self.store, queues=2,
                   memory=self.random.choice((0, MEMORY)))
        if not self.inserted:
            self.insert(h)
        self.inserted = True
        h.behave = self.behave
        end = time.monotonic() + self.random.uniform(2, 8) * H.SCALE
        tricks = (self.attach_again, self.bad_key, self.bad_queue, self.bind_again,
                  self.register, self.yesterday, self.foreign, self.list_of_nonsense)
        while time.monotonic() < end and not stop.is_set():
            self.random.choice(tricks)(h)
            pause(self.random, 0.2)
        if self.random.random() < 0.3:
            self.end_early(h)
        h.behave = H.silent
        pause(self.random, 0.1)
        if self.random.random() < 0.3:
            h.ctl.do(H.DETACH, attr(H.H_INDEX, self.index))
        h.close()
        self.old.extend(self.known)
        tally.add("lives of a hostile helper")

    def insert(self, h):
        """Again and again, while users still have the old medium open."""
        h.behave, self.medium.inserting = Queue.serve, True
        flags = H.F_READ_ONLY if self.medium.cdrom else H.F_FLUSH | H.F_FUA
        end = time.monotonic() + LIMIT * H.SCALE
        while True:
            try:
                h.insert(flags, wait=LIMIT)
                self.medium.inserting = False
                return
            except NetlinkError as e:
                may = errno.EUCLEAN, errno.EBUSY, errno.EINPROGRESS, errno.EINVAL
                if time.monotonic() > end or e.errno not in may:
                    raise
            time.sleep(0.1)

    def behave(self, q, io):
        """Wrong first, then right; a write reaches the store at once or not at all,
        for it is given to the next helper if this one has gone."""
        cookie = io["cookie"]
        self.known.append(cookie)
        kind = self.random.choice((self.LISTS if q.memory else self.INLINE) +
                                  ("good", "late", "late", "other socket", "not yet", "way"))
        tally.add(f"reply: {kind}")
        if kind == "late":
            self.late(q, io)
            return
        if kind == "other socket":
            for other in q.helper.queues:
                if other is not q:
                    other.send(other.complete(cookie))
        elif kind == "not yet":
            # the next ones, as one would guess them
            q.send(*[q.complete(cookie + (n << 32)) for n in range(1, 5)])
        elif kind == "way":
            q.send(message(q.nl.family, H.IO_COMPLETE, u64(H.I_COOKIE, cookie)) if q.memory else
                   message(q.nl.family, H.IO_ANSWERS,
                           attr(H.I_ANSWERS, H.ANSWER.pack(cookie, 0, 0))))
        elif kind != "good":
            H.hostile(kind)(q, io)
            return
        q.serve(io)

    def late(self, q, io):
        if io["op"] == H.WRITE:
            self.store.write(io["offset"], io["data"])

        def answer():
            try:
                if io["op"] == H.READ:
                    q.serve(io)
                else:
                    q.send(q.complete(io["cookie"]))
            except OSError:
                pass			# the socket is closed: it was too late
        t = threading.Timer(self.random.choice((0.01, 0.1, 1)) * H.SCALE, answer)
        t.daemon = True
        t.start()

    # Tricks of a helper that is attached.

    def attach_again(self, h):
        nl = self.random.choice((h.ctl, Netlink().manage()))
        expect("attach while attached", nl.fails(H.ATTACH, attr(H.H_INDEX, self.index) +
                                                 attr(H.H_NR_KEYS, 1)), errno.EBUSY)

    def bad_key(self, _):
        expect("bind with a wrong key",
               Netlink(ROOM).fails(H.QUEUE_BIND, attr(H.H_KEY, os.urandom(16))),
               errno.EKEYREJECTED)

    def bad_queue(self, h):
        key = h.ctl.keys(H.KEY_NEW, self.index, 1)[0]
        mask = 1 << self.random.choice((2, 17, 63))
        nl = Netlink(ROOM)
        expect("bind of a queue that is not", nl.fails(
            H.QUEUE_BIND, attr(H.H_KEY, key) + u64(H.H_QUEUES, mask)), errno.EINVAL)
        nl.bind(key)			# it was not used up
        nl.close()

    def bind_again(self, h):
        key = h.ctl.keys(H.KEY_NEW, self.index, 1)[0]
        q = self.random.choice(h.queues)
        q.send(message(q.nl.family, H.QUEUE_BIND, attr(H.H_KEY, key)))
        tally.add("bind of a bound socket")
        Netlink(ROOM).bind(key)

    def register(self, h):
        key = h.ctl.keys(H.KEY_NEW, self.index, 1)[0]
        nl, room = Netlink(ROOM), H.Memory(MEMORY)
        nl.bind(key, None, room)
        pause(self.random, 0.02)
        nl.close()
        tally.add("registered and unregistered")

    def yesterday(self, h):
        for cookie in self.some(self.old):
            q = self.random.choice(h.queues)
            q.send(q.complete(cookie))
            tally.add("reply of yesterday")

    def foreign(self, h):
        for _, cookie in self.some(theirs):
            q = self.random.choice(h.queues)
            q.send(q.complete(cookie))
            tally.add("reply to another drive's request")

    def some(self, of):
        of = list(of)
        return self.random.sample(of, min(len(of), 8))

    def list_of_nonsense(self, h):
        q = self.random.choice(h.queues)
        q.send(message(q.nl.family, H.IO_ANSWERS,
                       attr(H.I_ANSWERS, os.urandom(self.random.choice((1, 15, 16, 17, 4096))))))
        tally.add("list of nonsense")

    def end_early(self, h):
        """Requests that wait here are ended by a forced eject, and answered then: once
        is owed, twice is not."""
        h.behave = H.silent
        end = time.monotonic() + 5 * H.SCALE
        while not any(q.kept for q in h.queues) and time.monotonic() < end:
            time.sleep(0.01)
        self.medium.out_until = time.monotonic() + 2 * LIMIT * H.SCALE
        expect("forced eject", h.eject(force=True), 0)
        for q in h.queues:
            for io in list(q.kept):
                q.send(q.complete(io["cookie"]))
                q.send(q.complete(io["cookie"]))
                tally.add("reply to a request that was ended early")
        self.insert(h)
        # A user notices at its next request at the latest.
        self.medium.out_until = time.monotonic() + 60 * H.SCALE

    def last(self):
        """The users end first: who waits for an answer gets it."""
        h = Helper(self.index, store=self.store, queues=2)
        for u in self.users:
            u.stop.set()
        for u in self.users:
            u.join(LIMIT * H.SCALE)
            if u.is_alive():
                tally.error(f"{u.name}: a request does not end")
        h.eject(force=True)
        h.close()


# ---- strangers, who serve nothing

def trace_of_cookies():
    """An own instance of the tracer that tells what others' helpers are given."""
    own = TRACING + "/instances/soak-hostile"
    if not os.path.exists(TRACING + "/instances"):
        subprocess.run(["mount", "-t", "tracefs", "tracefs", TRACING], check=True)
    os.makedirs(own, exist_ok=True)
    event = own + "/events/spicebd/spicebd_dispatch"
    for name, value in (("filter", "drive < 32"), ("enable", "1")):
        with open(f"{event}/{name}", "w", encoding="ascii") as f:
            f.write(value)
    return os.open(own + "/trace_pipe", os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)


def learn(fd):
    """All that is there to read; the newest cookies are kept."""
    while select.select([fd], [], [], 0)[0]:
        try:
            text = os.read(fd, 1 << 16).decode(errors="replace")
        except BlockingIOError:
            return
        for line in text.splitlines():
            head, _, value = line.rpartition("value=0x")
            if ": spicebd" in head and value:
                index = head.rpartition("spicebd_dispatch: spicebd")[2].partition(" ")[0]
                if index.isdigit():
                    theirs.append((int(index), int(value, 16)))


def stranger(rnd):
    """Answers what others were asked, with their very cookies, now and later."""
    fd, nl = trace_of_cookies(), Netlink()
    while not stop.is_set():
        learn(fd)
        now = list(theirs)
        for _, cookie in now[-2:] + rnd.sample(now, min(len(now), 4)):
            expect("reply of a stranger", nl.fails(*replies(cookie, rnd)),
                   errno.ENOTCONN)
            cookie ^= 1 << rnd.randrange(64)
            expect("forged reply of a stranger", nl.fails(*replies(cookie, rnd)),
                   errno.ENOTCONN)
        if rnd.random() < 0.05:
            nl.close()
            nl = Netlink()
        pause(rnd, 0.1)
    os.close(fd)


def port_ids():
    """Of all generic netlink sockets but ours."""
    with open("/proc/net/netlink", encoding="ascii") as f:
        rows = [line.split() for line in f][1:]
    inodes = set()
    for fd in os.listdir("/proc/self/fd"):
        try:
            inodes.add(os.readlink(f"/proc/self/fd/{fd}"))
        except OSError:
            pass
    return {int(r[2]) for r in rows if r[1] == "16" and r[2] != "0" and
            f"socket:[{r[9]}]" not in inodes}


def taker(rnd):
    """Has a port id as soon as its owner has died, and answers what that one owed."""
    nl, known = Netlink(), collections.deque(maxlen=32)
    while not stop.is_set():
        for port in port_ids():
            if port not in known:
                known.append(port)
        end = time.monotonic() + 1
        while time.monotonic() < end and not stop.is_set():
            for port in list(known):
                s = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC,
                                  H.NETLINK_GENERIC)
                try:
                    s.bind((port, 0))
                except OSError:
                    s.close()
                    continue
                known.remove(port)
                use_port(s, nl, rnd)
            stop.wait(0.02)


def use_port(s, nl, rnd):
    nl.sock, mine = s, nl.sock
    try:
        tally.add("port id taken over")
        for _, cookie in list(theirs)[-8:]:
            expect("reply from a dead helper's port id",
                   nl.fails(*replies(cookie, rnd)), errno.ENOTCONN)
    finally:
        nl.sock = mine
        s.close()


def rival(rnd, drives):
    """A second helper, for drives that have one; whenever theirs is dead it gets the
    requests, answers what was asked before, and goes."""
    nl = Netlink().manage()
    while not stop.is_set():
        index = rnd.choice(drives)
        one = attr(H.H_INDEX, index)
        # A drive of which the old medium is put out by force may be made anew.
        for what, cmd, more in (
                ("keys", H.KEY_NEW, attr(H.H_NR_KEYS, 1)), ("detach", H.DETACH, b""),
                ("link report", H.LINK_REPORT, attr(H.H_LINK, rnd.randrange(2)))):
            expect(f"{what} of another's drive", nl.fails(cmd, one + more),
                   errno.EPERM, errno.ENODEV)
        # Only what others were given: from now on some may be ours.
        old = [cookie for of, cookie in list(theirs)[-64:] if of == index]
        try:
            key = nl.keys(H.ATTACH, index, 1)[0]
            tally.add("rival attached")
            hold_for_a_moment(nl, rnd, index, key, old)
            nl.close()
            nl = Netlink().manage()
        except NetlinkError as e:
            expect("rival refused", e.errno, errno.EBUSY, errno.ENODEV)
        pause(rnd, 0.1)


def hold_for_a_moment(nl, rnd, index, key, old):
    if rnd.random() < 0.5:
        q = Netlink(8 << 20)
        try:
            q.bind(key)
        except NetlinkError as e:
            expect("rival bound", e.errno, errno.EKEYREJECTED)
            return
        tally.add("rival bound")
        for cookie in old:
            q.sock.send(message(q.family, *replies(cookie, rnd)))
            tally.add("stale reply on the drive's own socket")
        pause(rnd, 0.3)
        q.close()
    else:
        pause(rnd, 0.1)
    if rnd.random() < 0.3:
        nl.fails(H.DETACH, attr(H.H_INDEX, index))


def junk(rnd):
    """An attribute: of a right kind and length, or not."""
    size = rnd.choice((0, 1, 4, 4, 4, 8, 8, 16, 17, 300))
    data = rnd.choice((bytes(size), os.urandom(size), b"\xff" * size))
    if rnd.random() < 0.2:
        data += junk(rnd)
    a = bytearray(attr(rnd.choice((rnd.randrange(36), rnd.randrange(1 << 16))), data))
    if rnd.random() < 0.1:
        a[0:2] = os.urandom(2)		# a length that lies
    return bytes(a)


def malformed(rnd):
    """By a manager of one drive, which is nobody's."""
    nl = Netlink().manage(WILD)
    while not stop.is_set():
        body = attr(H.A_INDEX, WILD) if rnd.random() < 0.7 else b""
        body += b"".join(junk(rnd) for _ in range(rnd.randrange(6)))
        flags = H.NLM_F_ACK | (H.NLM_F_DUMP if rnd.random() < 0.1 else 0)
        nl.sock.send(message(nl.family, rnd.randrange(32), body, H.NLM_F_REQUEST | flags))
        tally.add("malformed message")
        while select.select([nl.sock], [], [], 0)[0]:
            try:
                nl.sock.recv(1 << 18)
            except OSError:
                pass
        if rnd.random() < 0.02:
            nl.close()
            nl = Netlink().manage(WILD)
        stop.wait(rnd.uniform(0, 0.03) * H.SCALE)


# What a manager would send, for those who are none.
VERBS = {H.MANAGE: b"", H.DRIVE_SET: b"", H.DRIVE_DEL: attr(H.A_FORCE, b""), H.MEDIUM_REMOVE: b"",
         H.TRAY_OPEN: b"", H.TRAY_CLOSE: b"", H.EJECT: attr(H.A_FORCE, b""), H.LOCK: b"",
         H.UNLOCK: b"", H.ATTACH: attr(H.H_NR_KEYS, 1), H.DETACH: b"",
         H.KEY_NEW: attr(H.H_NR_KEYS, 1), H.LINK_REPORT: attr(H.H_LINK, 0)}


def nobody(seed, drives, parent):
    """A process without rights: how many commands it was refused; -1: one was not."""
    os.setgid(65534)
    os.setuid(65534)
    rnd, nl, n = random.Random(seed), Netlink(), 0
    while not select.select([parent], [], [], rnd.uniform(0, 0.2) * H.SCALE)[0]:
        cmd = rnd.choice(list(VERBS))
        # drive and helper have their index at the same place
        got = nl.fails(cmd, attr(H.A_INDEX, rnd.choice(drives)) + VERBS[cmd])
        n += 1
        if got != errno.EPERM:
            print(f"ERROR hostile: command {cmd} of a plain user: "
                  f"{errno.errorcode.get(got, got)}", flush=True)
            return -1
    return n


def without_rights(seed, drives):
    """Starts nobody(); returns how it is ended, and what it says then."""
    down, up = os.pipe(), os.pipe()
    pid = os.fork()
    if not pid:
        os.close(down[1])
        n = -1
        try:
            n = nobody(seed, drives, down[0])
        finally:
            os.write(up[1], b"%d" % n)
            os._exit(0)
    os.close(down[0])
    os.close(up[1])

    def end():
        os.close(down[1])
        n = int(os.read(up[0], 32) or -1)
        os.waitpid(pid, 0)
        return n
    return end


# ----

def guarded(function, *args):
    def run():
        try:
            function(*args)
        except Exception as e:		# a bug of ours must not pass for success
            tally.error(f"hostile: {function.__name__}: {type(e).__name__}: {e}")
    return threading.Thread(target=run, daemon=True)


def refused():
    """What the kernel counted: of strangers, and of each drive."""
    with open("/sys/module/spicebd/parameters/stray_replies", encoding="ascii") as f:
        strays = int(f.read())
    return strays, {d["index"]: d["stats"]["refused"] for d in Netlink().drives()}


def main():
    seed, drives = int(sys.argv[1]), [int(a) for a in sys.argv[2:]]
    model.give_way()
    end_nobody = without_rights(seed, drives)	# before there are threads
    villains = [Villain(f"{seed}{i}", i) for i in OURS]
    threads = villains + [guarded(stranger, random.Random(seed + 1)),
                          guarded(taker, random.Random(seed + 2)),
                          guarded(rival, random.Random(seed + 3), drives),
                          guarded(malformed, random.Random(seed + 4))]
    strays, _ = refused()
    for t in threads + [u for v in villains for u in v.users]:
        t.start()
    print("ready", flush=True)
    sys.stdin.read()
    stop.set()
    for t in threads:
        t.join(4 * LIMIT * H.SCALE)
        if t.is_alive():
            tally.error(f"hostile: {t.name} does not end")
    tally.add("refused commands of a plain user", end_nobody())
    now, drives_now = refused()
    nl = Netlink().manage()
    for index in (*OURS, WILD):
        nl.verb(H.DRIVE_DEL, index, True)
    print(json.dumps({"counts": tally.counts, "strays": now - strays,
                      "refused": sum(drives_now.get(i, 0) for i in OURS)}), flush=True)
    os._exit(1 if tally.errors else 0)


if __name__ == "__main__":
    main()
