#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-only
"""A small helper for spicebd drives, and the netlink it needs.

As a module: class Netlink speaks the family (commands, events), class Helper
serves a drive from memory or a file, and can be told to misbehave.

As a program: serves one drive until it is killed; SIGUSR1 makes it silent.

    helper.py --drive 1 --size 64M [--read-only] [--file F] [--misbehave ...]

Nothing but Python's standard library, and root.
"""
import argparse
import ctypes
import errno
import mmap
import os
import select
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
import weakref

LIBC = ctypes.CDLL(None, use_errno=True)
NETLINK_GENERIC = 16
NETLINK_KOBJECT_UEVENT = 15
SOL_NETLINK = 270
NETLINK_ADD_MEMBERSHIP = 1
NETLINK_CAP_ACK = 10
NETLINK_EXT_ACK = 11
NETLINK_NO_ENOBUFS = 5
SO_RCVBUFFORCE = 33
SO_SNDBUFFORCE = 32
NLM_F_REQUEST, NLM_F_MULTI, NLM_F_ACK, NLM_F_DUMP = 1, 2, 4, 0x300
NLM_F_CAPPED, NLM_F_ACK_TLVS = 0x100, 0x200
NLMSG_ERROR, NLMSG_DONE = 2, 3
GENL_ID_CTRL, CTRL_CMD_GETFAMILY = 16, 3
NLA_F_NESTED = 0x8000
PIECE_MAX = 60 * 1024
# A slow test machine stretches every limit by this.
SCALE = int(os.environ.get("SPICEBD_TIME_SCALE", "1"))

# enum spicebd_cmd
(DRIVE_GET, DRIVE_NTF, MANAGE, DRIVE_ADD, DRIVE_SET, DRIVE_DEL, ATTACH, DETACH,
 KEY_NEW, QUEUE_BIND, LINK_REPORT, MEDIUM_INSERT, MEDIUM_REMOVE, TRAY_OPEN,
 TRAY_CLOSE, EJECT, IO_REQUEST, IO_DATA, IO_COMPLETE, LOCK, UNLOCK,
 IO_REQUESTS, IO_ANSWERS, MEDIUM_SET, FREEZE, THAW) = range(1, 27)
# attributes of a drive
(A_PAD, A_INDEX, A_NAME, A_MAJOR, A_MINOR, A_PERSONALITY, A_NR_QUEUES,
 A_QUEUE_DEPTH, A_MAX_IO, A_RECONNECT_TIMEOUT, A_STALL_TIMEOUT, A_TRAY,
 A_STATE, A_HELPER, A_HELPER_PID, A_LINK, A_NR_SOCKETS, A_OPENERS, A_IN_FLIGHT,
 A_HELD, A_HOLD_LEFT, A_GENERATION, A_MEDIUM, A_STATS, A_FORCE,
 A_EVENT, A_USERS, A_FREEZE, A_FREEZE_ERROR, A_HOLDER, A_HOLD_LIMIT,
 A_HELD_START, A_HOLDERS, A_OPEN_WAIT, A_CONDITION, A_VERDICT,
 A_VERDICT_SINCE) = range(1, 38)
# of a holder
(HO_PAD, HO_NAME, HO_SINCE, HO_LEFT) = range(1, 5)
# of a medium
(M_PAD, M_ID, M_SIZE, M_FLAGS, M_BLOCK_SIZE, M_IO_OPT, M_DISCARD_ALIGN,
 M_MAX_DISCARD, M_READ_AHEAD) = range(1, 10)
# counters
STATS = ("reads writes flushes discards write_zeroes read_bytes write_bytes "
         "errors refused resent medium_changes").split()
# of a helper
(H_PAD, H_INDEX, H_NR_KEYS, H_KEY, H_QUEUES, H_CREDIT, H_CREDIT_BYTES,
 H_LINK, H_BUFFER_ADDR, H_BUFFER_LEN) = range(1, 11)
# of I/O
(I_PAD, I_COOKIE, I_OP, I_FLAGS, I_OFFSET, I_LENGTH, I_QUEUE, I_DATA_OFFSET,
 I_DATA, I_ERROR, I_GENERATION, I_REQUESTS, I_ANSWERS) = range(1, 14)
# struct spicebd_io_request, struct spicebd_io_answer
REQUEST = struct.Struct("=QQQIIHBBI")
ANSWER = struct.Struct("=QII")
READ, WRITE, FLUSH, DISCARD, WRITE_ZEROES = range(5)
CDROM, DISK = range(2)
F_READ_ONLY, F_ROTATIONAL, F_FLUSH, F_FUA, F_DISCARD, F_WRITE_ZEROES = \
    (1 << i for i in range(6))
S_MEDIUM, S_READY, S_LOCKED, S_STALE, S_HOLDING, S_LOCKED_ADMIN, S_FREEZING = \
    (1 << i for i in range(7))
THAWED, DRAINING, FLUSHING, FROZEN, FAILED = range(5)
EVENTS = ("drive_added drive_removed tray_moved medium_changed eject_request "
          "lock_changed helper_attached helper_lost link_lost "
          "link_back unused freeze freeze_expired").split()
HELPER_NONE, HELPER_ATTACHED, HELPER_LOST = range(3)
CONDITIONS = ("empty ready settling held reconnecting frozen error inactive "
              "stale gone").split()
V_NONE, V_ERROR, V_INACTIVE = range(3)

NUMBERS = {A_INDEX: "index", A_MAJOR: "major", A_MINOR: "minor",
           A_PERSONALITY: "personality", A_NR_QUEUES: "nr_queues",
           A_QUEUE_DEPTH: "depth", A_MAX_IO: "max_io",
           A_STALL_TIMEOUT: "stall_timeout", A_TRAY: "tray",
           A_STATE: "state", A_HELPER: "helper", A_HELPER_PID: "pid",
           A_LINK: "link", A_NR_SOCKETS: "nr_sockets", A_OPENERS: "openers",
           A_USERS: "users",
           A_IN_FLIGHT: "in_flight", A_HELD: "held",
           A_HOLD_LEFT: "hold_left", A_FREEZE: "freeze",
           A_FREEZE_ERROR: "freeze_error", A_CONDITION: "condition",
           A_VERDICT: "verdict"}


class NetlinkError(OSError):
    """An error that the kernel answered, with its explanation."""


def attr(kind, data):
    """One attribute; data: bytes, or a number (u32)."""
    if isinstance(data, int):
        data = struct.pack("=I", data & 0xffffffff)
    return (struct.pack("=HH", len(data) + 4, kind) + data +
            b"\0" * (-len(data) % 4))


def u64(kind, value):
    return attr(kind, struct.pack("=Q", value))


def parse(data):
    """Attributes as a list of (kind, payload)."""
    out, at = [], 0
    while at + 4 <= len(data):
        length, kind = struct.unpack_from("=HH", data, at)
        out.append((kind & 0x3fff, data[at + 4:at + length]))
        at += (max(length, 4) + 3) & ~3
    return out


def number(payload):
    return int.from_bytes(payload, sys.byteorder)


def message(family, cmd, attrs=b"", flags=NLM_F_REQUEST, seq=0):
    body = struct.pack("=BBH", cmd, 1, 0) + attrs
    return struct.pack("=IHHII", len(body) + 16, family, flags, seq, 0) + body


def split(data):
    """Messages of a datagram: (type, flags, seq, body)."""
    at = 0
    while at + 16 <= len(data):
        length, kind, flags, seq, _ = struct.unpack_from("=IHHII", data, at)
        yield kind, flags, seq, data[at + 16:at + length]
        at += (length + 3) & ~3


def holder_dict(payload):
    h = dict(parse(payload))
    return {"name": h.get(HO_NAME, b"").rstrip(b"\0").decode(),
            "since": number(h[HO_SINCE]),
            "left": number(h[HO_LEFT]) if HO_LEFT in h else None}


def drive_dict(body):
    out = {"medium": None, "holders": []}
    for kind, payload in parse(body[4:]):
        if kind in NUMBERS:
            out[NUMBERS[kind]] = number(payload)
        elif kind == A_NAME:
            out["name"] = payload.rstrip(b"\0").decode()
        elif kind == A_GENERATION:
            out["generation"] = number(payload)
        elif kind == A_RECONNECT_TIMEOUT:
            out["reconnect_timeout"] = struct.unpack("=i", payload)[0]
        elif kind == A_MEDIUM:
            out["medium"] = dict(parse(payload))
        elif kind == A_STATS:
            out["stats"] = {STATS[k - 2]: number(v)
                            for k, v in parse(payload) if k >= 2}
        elif kind == A_HOLDERS:
            out["holders"].append(holder_dict(payload))
        elif kind == A_EVENT:
            out["event"] = EVENTS[number(payload)]
    return out


class Netlink:
    """A generic netlink socket."""

    def __init__(self, rcvbuf=0):
        self.sock = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW |
                                  socket.SOCK_CLOEXEC, NETLINK_GENERIC)
        self.sock.bind((0, 0))
        self.sock.setsockopt(SOL_NETLINK, NETLINK_EXT_ACK, 1)
        self.sock.setsockopt(SOL_NETLINK, NETLINK_CAP_ACK, 1)
        if rcvbuf:
            self.sock.setsockopt(SOL_NETLINK, NETLINK_NO_ENOBUFS, 1)
            self.sock.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE,
                                 rcvbuf // 2)
            self.sock.setsockopt(socket.SOL_SOCKET, SO_SNDBUFFORCE, 8 << 20)
        self.seq = 0
        self.family, self.group = self._family()

    def fileno(self):
        return self.sock.fileno()

    def close(self):
        self.sock.close()

    def _family(self):
        reply = self._talk(GENL_ID_CTRL, CTRL_CMD_GETFAMILY,
                           attr(2, b"spicebd\0"))[0]
        family = group = None
        for kind, payload in parse(reply[4:]):
            if kind == 1:
                family = number(payload)
            if kind == 7:
                for _, nest in parse(payload):
                    group = number(dict(parse(nest))[2])
        return family, group

    def _talk(self, family, cmd, attrs, flags=NLM_F_ACK):
        self.seq += 1
        self.sock.send(message(family, cmd, attrs, NLM_F_REQUEST | flags,
                               self.seq))
        out = []
        while True:
            for kind, hflags, seq, body in split(self.sock.recv(1 << 18)):
                if seq != self.seq:
                    continue
                if kind == NLMSG_DONE:
                    return out
                if kind == NLMSG_ERROR:
                    code = struct.unpack_from("=i", body)[0]
                    if code:
                        raise self.error(code, hflags, body)
                    return out
                out.append(body)

    @staticmethod
    def error(code, flags, body):
        text = ""
        if flags & NLM_F_ACK_TLVS:
            for kind, payload in parse(body[20:]):
                if kind == 1:
                    text = payload.rstrip(b"\0").decode()
        return NetlinkError(-code, text or os.strerror(-code))

    def do(self, cmd, attrs=b""):
        """A command; returns the bodies of its answers, or raises."""
        return self._talk(self.family, cmd, attrs)

    def fails(self, cmd, attrs=b""):
        """The errno of a command, 0 if it succeeds."""
        try:
            self.do(cmd, attrs)
        except NetlinkError as e:
            return e.errno
        return 0

    def drives(self):
        bodies = self._talk(self.family, DRIVE_GET, b"", NLM_F_DUMP)
        return [drive_dict(b) for b in bodies]

    def drive(self, index):
        return drive_dict(self.do(DRIVE_GET, attr(A_INDEX, index))[0])

    def stats(self, index):
        return self.drive(index)["stats"]

    def manage(self, *indexes):
        self.do(MANAGE, b"".join(attr(A_INDEX, i) for i in indexes))
        return self

    def add(self, personality, **kw):
        names = {v: k for k, v in NUMBERS.items()}
        names["reconnect_timeout"] = A_RECONNECT_TIMEOUT
        attrs = attr(A_PERSONALITY, personality)
        for name, value in kw.items():
            attrs += attr(names[name], value)
        return drive_dict(self.do(DRIVE_ADD, attrs)[0])

    def set(self, index, **kw):
        names = {"reconnect_timeout": A_RECONNECT_TIMEOUT,
                 "stall_timeout": A_STALL_TIMEOUT}
        self.do(DRIVE_SET, attr(A_INDEX, index) + b"".join(
            attr(names[n], v) for n, v in kw.items()))

    def verb(self, cmd, index, force=False):
        """errno of a tray or medium command."""
        return self.fails(cmd, attr(A_INDEX, index) +
                          (attr(A_FORCE, b"") if force else b""))

    def freeze(self, index, holder="test", limit=0):
        return drive_dict(self.do(FREEZE, attr(A_INDEX, index) +
                                  attr(A_HOLDER, holder.encode() + b"\0") +
                                  attr(A_HOLD_LIMIT, limit))[0])

    def thaw(self, index, holder="test"):
        return drive_dict(self.do(THAW, attr(A_INDEX, index) +
                                  attr(A_HOLDER, holder.encode() + b"\0"))[0])

    def keys(self, cmd, index, nr):
        body = self.do(cmd, attr(H_INDEX, index) + attr(H_NR_KEYS, nr))[0]
        return [v for k, v in parse(body[4:]) if k == H_KEY]

    def bind(self, key, queues=None, memory=None):
        attrs = attr(H_KEY, key)
        if queues is not None:
            attrs += u64(H_QUEUES, queues)
        if memory is not None:
            attrs += u64(H_BUFFER_ADDR, memory.addr)
            attrs += u64(H_BUFFER_LEN, memory.size)
        # No ACK: requests may arrive as soon as the answer is there, so
        # before one.
        self.seq += 1
        self.sock.send(message(self.family, QUEUE_BIND, attrs, NLM_F_REQUEST,
                               self.seq))
        _, flags, _, body = next(split(self.sock.recv(1 << 18)))
        if struct.unpack_from("=H", body)[0] != QUEUE_BIND | 1 << 8:
            raise self.error(struct.unpack_from("=i", body)[0], flags, body)
        return dict(parse(body[4:]))

    def insert(self, index, size, flags=0, medium_id=b"", **kw):
        names = {"block_size": M_BLOCK_SIZE, "io_opt": M_IO_OPT,
                 "discard_align": M_DISCARD_ALIGN,
                 "max_discard": M_MAX_DISCARD,
                 "read_ahead": M_READ_AHEAD}
        medium = u64(M_SIZE, size) + attr(M_FLAGS, flags)
        if medium_id:
            medium += attr(M_ID, medium_id)
        for name, value in kw.items():
            medium += attr(names[name], value)
        body = self.do(MEDIUM_INSERT, attr(A_INDEX, index) +
                       attr(A_MEDIUM | NLA_F_NESTED, medium))[0]
        return number(dict(parse(body[4:]))[A_GENERATION])

    def read_ahead(self, index, value):
        return self.fails(MEDIUM_SET, attr(A_INDEX, index) +
                          attr(A_MEDIUM | NLA_F_NESTED,
                               attr(M_READ_AHEAD, value)))

    def subscribe(self):
        self.sock.setsockopt(SOL_NETLINK, NETLINK_ADD_MEMBERSHIP, self.group)
        return self

    def events(self, timeout):
        """Events until none has come for so long."""
        while select.select([self.sock], [], [], timeout)[0]:
            for kind, _, _, body in split(self.sock.recv(1 << 18)):
                if kind == self.family and body[0] == DRIVE_NTF:
                    yield drive_dict(body)

    def wait_event(self, timeout, test):
        """The first event that passes the test, or None."""
        end = time.monotonic() + timeout * SCALE
        while True:
            left = end - time.monotonic()
            if left <= 0 or not select.select([self.sock], [], [], left)[0]:
                return None
            for kind, _, _, body in split(self.sock.recv(1 << 18)):
                if kind != self.family or body[0] != DRIVE_NTF:
                    continue
                event = drive_dict(body)
                if test(event):
                    return event


class Store:
    """A medium's bytes: memory or a file."""

    def __init__(self, size, path=None):
        self.size = size
        self.file = None
        if path:
            flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC
            self.file = os.open(path, flags, 0o600)
            if os.fstat(self.file).st_size < size:
                os.ftruncate(self.file, size)
        else:
            self.memory = bytearray(size)

    def read(self, offset, length):
        if self.file is not None:
            return os.pread(self.file, length, offset)
        return bytes(self.memory[offset:offset + length])

    def write(self, offset, data):
        if self.file is not None:
            os.pwrite(self.file, data, offset)
        else:
            self.memory[offset:offset + len(data)] = data

    def flush(self):
        if self.file is not None:
            os.fdatasync(self.file)


class Memory:
    """Locked memory, to be registered."""

    def __init__(self, size, lock=True):
        self.size = size
        self.map = mmap.mmap(-1, size)
        self.addr = ctypes.addressof(ctypes.c_char.from_buffer(self.map))
        if lock and LIBC.mlock(ctypes.c_void_p(self.addr),
                               ctypes.c_size_t(size)):
            raise OSError(ctypes.get_errno(), "mlock")


class Queue(threading.Thread):
    """One queue socket and the thread that serves it."""

    def __init__(self, helper, key, queues=None):
        super().__init__(daemon=True)
        self.helper = helper
        self.nl = Netlink(helper.rcvbuf)
        self.memory = Memory(helper.memory) if helper.memory else None
        answer = self.nl.bind(key, queues, self.memory)
        self.credit = number(answer[H_CREDIT])
        self.credit_bytes = number(answer[H_CREDIT_BYTES])
        self.writes = {}
        self.kept = []
        self.errors = []
        self.stopping = False
        self.calls = []
        self.wake = os.eventfd(0)
        weakref.finalize(self, os.close, self.wake)

    def pause(self):
        """End the thread; the socket stays open, and its caller's."""
        self.stopping = True
        os.eventfd_write(self.wake, 1)
        if self.is_alive():
            self.join()

    def call(self, function):
        """Have the thread call this."""
        self.calls.append(function)
        os.eventfd_write(self.wake, 1)

    def stop(self):
        """End the thread and close the socket."""
        self.pause()
        self.nl.close()

    def send(self, *messages):
        self.nl.sock.send(b"".join(
            m + b"\0" * (-len(m) % 4) for m in messages))

    def complete(self, cookie, error=0, extra=b""):
        if self.memory:
            return self.answers((cookie, error))
        return message(self.nl.family, IO_COMPLETE, u64(I_COOKIE, cookie) +
                       (attr(I_ERROR, error) if error else b"") + extra)

    def answers(self, *answers):
        """Answers, with registered memory: (cookie, error) each."""
        return message(self.nl.family, IO_ANSWERS, attr(
            I_ANSWERS, b"".join(ANSWER.pack(c, e, 0) for c, e in answers)))

    def pieces(self, cookie, data, piece=PIECE_MAX):
        """A read's answer: all pieces but the last, then the completion."""
        out, at = [], 0
        while len(data) - at > piece:
            out.append(message(self.nl.family, IO_DATA,
                               u64(I_COOKIE, cookie) +
                               attr(I_DATA_OFFSET, at) +
                               attr(I_DATA, data[at:at + piece])))
            at += piece
        out.append(self.complete(cookie, 0, attr(I_DATA_OFFSET, at) +
                                 attr(I_DATA, data[at:])))
        return out

    def run(self):
        poll = select.poll()
        poll.register(self.nl.sock, select.POLLIN)
        poll.register(self.wake, select.POLLIN)
        while True:
            poll.poll()
            if self.stopping:
                return
            if self.calls:
                os.eventfd_read(self.wake)
                self.calls.pop(0)()
            try:
                data = self.nl.sock.recv(1 << 18, socket.MSG_DONTWAIT)
            except BlockingIOError:
                continue
            except OSError as e:
                self.errors.append(e.errno)
                continue
            for kind, flags, _, body in split(data):
                if kind == NLMSG_ERROR:
                    code = struct.unpack_from("=i", body)[0]
                    self.errors.append(-code)
                elif kind == self.nl.family:
                    self.handle(body[0], dict(parse(body[4:])))

    def requests(self, data):
        """Requests whose payload is in registered memory."""
        with self.helper.lock:
            self.helper.batches.append(len(data) // REQUEST.size)
        for r in REQUEST.iter_unpack(data):
            io = dict(zip(("cookie", "offset", "generation", "length",
                           "buffer", "queue", "op", "flags"), r))
            assert io["buffer"] + (io["length"] if io["op"] in (READ, WRITE)
                                   else 0) <= self.memory.size
            io["data"] = b""
            if io["op"] == WRITE:
                io["data"] = self.memory.map[io["buffer"]:
                                             io["buffer"] + io["length"]]
            self.take(io)

    def handle(self, cmd, a):
        if cmd == IO_REQUESTS:
            self.requests(a[I_REQUESTS])
            return
        cookie = number(a[I_COOKIE])
        if cmd == IO_REQUEST:
            io = {"cookie": cookie, "op": number(a[I_OP]),
                  "flags": number(a[I_FLAGS]),
                  "offset": number(a[I_OFFSET]),
                  "length": number(a[I_LENGTH]),
                  "queue": number(a[I_QUEUE]),
                  "generation": number(a[I_GENERATION]), "data": b""}
        else:
            io = self.writes.pop(cookie)
        if I_DATA in a:
            at = number(a.get(I_DATA_OFFSET, b"\0"))
            assert at == len(io["data"]), "pieces out of order"
            io["data"] += a[I_DATA]
        if io["op"] == WRITE and len(io["data"]) < io["length"]:
            self.writes[cookie] = io
            return
        self.take(io)

    def take(self, io):
        with self.helper.lock:
            self.helper.seen += 1
            self.helper.log.append((io["op"], io["offset"], io["length"],
                                    io["flags"]))
        self.helper.behave(self, io)

    def serve(self, io):
        """The right answer to a request."""
        store = self.helper.store
        if io["offset"] + io["length"] > store.size:
            self.send(self.complete(io["cookie"], errno.EIO))
        elif io["op"] == READ and self.memory:
            self.memory.map[io["buffer"]:io["buffer"] + io["length"]] = \
                store.read(io["offset"], io["length"])
            self.send(self.complete(io["cookie"]))
        elif io["op"] == READ:
            data = store.read(io["offset"], io["length"])
            for m in self.pieces(io["cookie"], data):
                self.send(m)
        else:
            if io["op"] == WRITE:
                store.write(io["offset"], io["data"])
            elif io["op"] in (DISCARD, WRITE_ZEROES):
                store.write(io["offset"], b"\0" * io["length"])
            else:
                store.flush()
            self.send(self.complete(io["cookie"]))


class Helper:
    """Serves one drive."""

    # Bytes that each queue registers; 0: payload in messages.
    MEMORY = 0

    def __init__(self, index, size=64 << 20, path=None, queues=1,
                 rcvbuf=32 << 20, store=None, memory=None):
        self.index = index
        self.memory = self.MEMORY if memory is None else memory
        self.batches = []
        self.store = store or Store(size, path)
        self.rcvbuf = rcvbuf
        self.behave = Queue.serve
        self.lock = threading.Lock()
        self.seen = 0
        self.log = []
        self.queues = []
        self.ctl = Netlink().manage()
        self.nr = queues
        self.attach()

    def attach(self):
        keys = self.ctl.keys(ATTACH, self.index, self.nr)
        self.queues = [Queue(self, key) for key in keys]
        for q in self.queues:
            q.start()

    def insert(self, flags=F_FLUSH | F_FUA | F_DISCARD | F_WRITE_ZEROES,
               wait=60, size=None, **kw):
        """Insert the medium; for a cdrom open and close the tray."""
        watch = Netlink().subscribe()
        cdrom = self.ctl.drive(self.index)["personality"] == CDROM
        if cdrom:
            # A probe of the last change may still have the drive open.
            assert wait_until(lambda: self.ctl.verb(TRAY_OPEN, self.index) == 0), \
                "the tray does not open"
        generation = self.ctl.insert(
            self.index, self.store.size if size is None else size, flags, **kw)
        if cdrom:
            self.ctl.do(TRAY_CLOSE, attr(A_INDEX, self.index))
        if wait:
            event = watch.wait_event(
                wait, lambda e: e["event"] == "medium_changed" and
                e["index"] == self.index and e["state"] & S_READY)
            assert event, "the medium did not become readable"
            assert event["generation"] >= generation
        watch.close()
        return generation

    def eject(self, force=False):
        return self.ctl.verb(EJECT, self.index, force)

    def eject_idle(self, timeout=60):
        """Eject as soon as nobody has the drive open: udev looks into it
        whenever a writer has closed it."""
        busy = (errno.EBUSY, errno.EINPROGRESS)
        wait_until(lambda: self.eject() not in busy, timeout)
        return self.eject()

    def idle(self, openers=0, timeout=60):
        """Waits until only so many have the drive open, and udev, which looks
        into it after each change, is done."""
        subprocess.run(["udevadm", "settle"], stderr=subprocess.DEVNULL,
                       check=False)
        assert wait_until(lambda: self.ctl.drive(self.index)["openers"] ==
                          openers, timeout), "the drive is in use"

    def done(self):
        """Close, when nobody is left who would wait for an answer."""
        self.idle()
        self.close()

    def unbind(self):
        for q in self.queues:
            q.stop()
        self.queues = []

    def close(self):
        self.unbind()
        self.ctl.close()


def with_memory(test):
    """The same test, with registered memory."""
    def again():
        Helper.MEMORY = 8 << 20
        try:
            test()
        finally:
            Helper.MEMORY = 0
    again.__name__ = test.__name__ + "_with_memory"
    return again


# Ways to misbehave: helper.behave = one of these.

def silent(queue, io):
    """Keeps every request."""
    queue.kept.append(io)


def delayed(seconds):
    def behave(queue, io):
        time.sleep(seconds)
        queue.serve(io)
    return behave


def die(queue, io):
    os.kill(os.getpid(), signal.SIGKILL)


def hostile(kind):
    """Answers in a wrong way first, then in the right way."""
    def behave(queue, io):
        nl, cookie = queue.nl, io["cookie"]
        if kind == "cookie":
            queue.send(queue.complete(cookie ^ (1 << 40)))
        elif kind == "tag":
            queue.send(queue.complete((cookie & ~0xffffffff) | 0xffffffff))
        elif kind == "duplicate":
            queue.serve(io)
            queue.send(queue.complete(cookie))
            return
        elif kind == "short" and io["op"] == READ:
            queue.send(queue.complete(cookie))
        elif kind == "long" and io["op"] == READ:
            queue.send(queue.complete(cookie, 0, attr(
                I_DATA, b"x" * (io["length"] + 1)
                if io["length"] < PIECE_MAX else b"x" * PIECE_MAX) +
                attr(I_DATA_OFFSET, io["length"])))
        elif kind == "order" and io["op"] == READ:
            queue.send(message(nl.family, IO_DATA, u64(I_COOKIE, cookie) +
                               attr(I_DATA_OFFSET, 512) +
                               attr(I_DATA, b"x" * 512)))
        elif kind == "write-data" and io["op"] == WRITE:
            queue.send(message(nl.family, IO_DATA, u64(I_COOKIE, cookie) +
                               attr(I_DATA_OFFSET, 0) +
                               attr(I_DATA, b"x" * 512)))
        elif kind == "error-data" and io["op"] == READ:
            queue.send(queue.complete(cookie, errno.EIO,
                                      attr(I_DATA, b"x" * 512)))
        queue.serve(io)
    return behave


class Uevents:
    """The kernel's uevents, as a list of dictionaries."""

    def __init__(self):
        self.sock = socket.socket(socket.AF_NETLINK, socket.SOCK_DGRAM |
                                  socket.SOCK_CLOEXEC, NETLINK_KOBJECT_UEVENT)
        self.sock.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 4 << 20)
        self.sock.bind((0, 1))

    def one(self, timeout):
        """The next uevent of our drives, or None."""
        while select.select([self.sock], [], [], timeout)[0]:
            fields = self.sock.recv(1 << 16).split(b"\0")
            event = {"ACTION": fields[0].decode().split("@")[0]}
            for field in fields[1:]:
                name, _, value = field.decode().partition("=")
                if name:
                    event[name] = value
            if event.get("DEVNAME", "").startswith("spicebd"):
                return event
        return None

    def read(self, timeout):
        """Uevents of our drives until none has come for so long."""
        while event := self.one(timeout):
            yield event

    def those(self, test, number):
        """Uevents that pass the test: so many are awaited, and more come soon
        or are not to come."""
        got = []
        while event := self.one(60 if len(got) < number else 0.5):
            if test(event):
                got.append(event)
        return got


def wait_until(test, timeout=60, step=0.01):
    """Polls what has no event; returns what it came to."""
    end = time.monotonic() + timeout * SCALE
    while time.monotonic() < end:
        value = test()
        if value:
            return value
        time.sleep(step)
    return test()


def bytes_of(text):
    unit = {"K": 10, "M": 20, "G": 30, "T": 40}.get(text[-1:].upper())
    return int(text[:-1]) << unit if unit else int(text, 0)


def main():
    p = argparse.ArgumentParser(description="serve one spicebd drive")
    p.add_argument("--drive", type=int, required=True)
    p.add_argument("--size", type=bytes_of, default=64 << 20)
    p.add_argument("--file")
    p.add_argument("--read-only", action="store_true")
    p.add_argument("--queues", type=int, default=1)
    p.add_argument("--block-size", type=int, default=0)
    p.add_argument("--memory", type=bytes_of, default=0,
                   help="register that much for each queue")
    p.add_argument("--no-insert", action="store_true",
                   help="serve the medium that is in the drive")
    p.add_argument("--misbehave", metavar="HOW",
                   help="silent, die, delay=SECONDS, or a wrong answer: "
                   "cookie, tag, duplicate, short, long, order, write-data, "
                   "error-data")
    a = p.parse_args()
    if a.file and os.path.exists(a.file):
        a.size = os.stat(a.file).st_size
    h = Helper(a.drive, a.size, a.file, a.queues, memory=a.memory)
    if not a.no_insert:
        kw = {"block_size": a.block_size} if a.block_size else {}
        h.insert(F_READ_ONLY if a.read_only else
                 F_FLUSH | F_FUA | F_DISCARD | F_WRITE_ZEROES, **kw)
    if a.misbehave:
        how, _, value = a.misbehave.partition("=")
        h.behave = {"silent": silent, "die": die}.get(how) or (
            delayed(float(value)) if how == "delay" else hostile(how))
    def fall_silent(*_):
        h.behave = silent
        print("silent", flush=True)
    signal.signal(signal.SIGUSR1, fall_silent)
    print("ready", flush=True)
    while True:
        signal.pause()


if __name__ == "__main__":
    main()
