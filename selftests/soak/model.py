# SPDX-License-Identifier: GPL-2.0-only
"""Who uses the media: writers that know what each block may hold, and readers."""
import errno
import mmap
import os
import random
import struct
import subprocess
import threading
import time

from helper import SCALE

BLOCK = 4096
RUN = 16			# blocks of one request, at most
EMPTY = {errno.ENOMEDIUM, errno.ENXIO, errno.ENODEV, errno.ENOENT, errno.EBUSY}


class Tally:
    """Counts and errors of all threads."""

    def __init__(self):
        self.lock = threading.Lock()
        self.counts, self.errors = {}, []

    def add(self, what, n=1):
        with self.lock:
            self.counts[what] = self.counts.get(what, 0) + n

    def error(self, text):
        with self.lock:
            self.errors.append(text)
        print(f"ERROR {text}", flush=True)


def content(tag, block, seq):
    """No block of any medium is ever written twice with the same bytes."""
    if not seq:
        return bytes(BLOCK)
    return struct.pack("<8s8sQQ", b"spicebd!", tag, block, seq) * (BLOCK // 32)


def describe(data):
    head = data[:32]
    if head == bytes(32):
        return "zeros"
    if data != head * (BLOCK // 32):
        return f"torn: {head!r} …"
    return "%r block %d seq %d" % struct.unpack("<8x8sQQ", head)


class User(threading.Thread):
    """Uses one medium until it is told to end."""

    def __init__(self, medium, tally, seed, name):
        super().__init__(name=name, daemon=True)
        self.medium, self.tally = medium, tally
        self.random = random.Random(seed)
        self.stop = threading.Event()
        self.fd = -1
        self.buffer = mmap.mmap(-1, RUN * BLOCK)	# page-aligned, for O_DIRECT

    def leave(self):
        if self.fd >= 0:
            os.close(self.fd)
        self.fd = -1

    def enter(self, flags):
        """Opens the drive; False: it is empty now."""
        if self.fd >= 0:
            return True
        try:
            self.fd = os.open(self.medium.device, flags | os.O_DIRECT | os.O_CLOEXEC)
            return True
        except OSError as e:
            if e.errno not in EMPTY and not self.medium.may_fail():
                self.tally.error(f"{self.name}: open: {e}")
            self.stop.wait(0.2)
            return False

    def failed(self, what, e):
        self.leave()
        if self.medium.may_fail():
            self.tally.add("failed by rule")
        else:
            self.tally.error(f"{self.name}: {what}: {e}")
        self.stop.wait(0.2)

    def run(self):
        give_way()
        while not self.stop.is_set():
            try:
                self.turn()
            except Exception as e:		# a bug of ours must not pass for success
                self.tally.error(f"{self.name}: {type(e).__name__}: {e}")
                return
        self.leave()


class Writer(User):
    """Owns blocks [first, first + number). may[b]: the writes whose content block b
    may have: one that was acknowledged, or more after a write that failed."""

    def __init__(self, medium, tally, seed, name, first, number):
        super().__init__(medium, tally, seed, name)
        self.first, self.number, self.seq = first, number, 0
        self.may = [frozenset([0])] * number

    def write(self, at, n):
        self.seq += 1
        data = b"".join(content(self.medium.tag, self.first + b, self.seq)
                        for b in range(at, at + n))
        self.buffer[:len(data)] = data
        new = frozenset([self.seq])
        old = self.may[at:at + n]
        # Until it is acknowledged it may be either; also when we are ended before.
        self.may[at:at + n] = [o | new for o in old]
        done = os.pwrite(self.fd, memoryview(self.buffer)[:len(data)], (self.first + at) * BLOCK)
        if done != len(data):
            self.tally.error(f"{self.name}: {done} of {len(data)} bytes written")
            return
        self.may[at:at + n] = [new] * n
        self.tally.add("writes")

    def check(self, data, at, where):
        for i in range(len(data) // BLOCK):
            block, got = at + i, data[i * BLOCK:(i + 1) * BLOCK]
            if any(got == content(self.medium.tag, self.first + block, s)
                   for s in self.may[block]):
                continue
            self.tally.error(f"{self.name}: {where}: block {self.first + block} has "
                             f"{describe(got)}, not seq {sorted(self.may[block])}")

    def read(self, at, n):
        got = os.preadv(self.fd, [memoryview(self.buffer)[:n * BLOCK]], (self.first + at) * BLOCK)
        if got != n * BLOCK and self.medium.may_fail():
            raise OSError(errno.EIO, "the end of an empty drive")
        if got != n * BLOCK:
            self.tally.error(f"{self.name}: {got} of {n * BLOCK} bytes read")
            return
        self.check(self.buffer[:got], at, "read")
        self.tally.add("reads")

    def turn(self):
        if not self.enter(os.O_RDWR):
            return
        n = self.random.choice((1, 1, 2, 4, RUN))
        # A few blocks often, so that the same sector is written again and again.
        most = self.number - n if self.random.random() < 0.5 else 4 * RUN
        at = self.random.randint(0, most)
        what = self.random.random()
        try:
            if what < 0.55:
                self.write(at, n)
            elif what < 0.95:
                self.read(at, n)
            else:
                os.fsync(self.fd)
                self.tally.add("flushes")
        except OSError as e:
            self.failed("write" if what < 0.55 else "read" if what < 0.95 else "flush", e)
        self.stop.wait(self.random.uniform(0, 0.03))

    def verify_all(self):
        """All of it, through the drive. Called when the thread has ended."""
        fd = os.open(self.medium.device, os.O_RDONLY | os.O_DIRECT)
        try:
            self.fd = fd
            for at in range(0, self.number, RUN):
                self.read(at, min(RUN, self.number - at))
        except OSError as e:
            self.tally.error(f"{self.name}: at the end: {e}")
        finally:
            self.leave()

    def verify_file(self, path):
        """All of it, in the file behind the medium, which is out."""
        with open(path, "rb") as f:
            f.seek(self.first * BLOCK)
            self.check(f.read(self.number * BLOCK), 0, "in the file")


class Reader(User):
    """Reads discs: what comes in one opening is of one disc, and right."""

    def turn(self):
        if not self.enter(os.O_RDONLY):
            return
        discs = range(len(self.medium.discs))
        try:
            for _ in range(self.random.randint(5, 40)):
                discs = self.piece(discs)
                if self.stop.wait(self.random.uniform(0, 0.03)):
                    break
            self.leave()
        except OSError as e:
            self.failed("read", e)
        self.stop.wait(self.random.uniform(0, 0.2))

    def piece(self, discs):
        """Which of the discs it may still be, after one more read."""
        n = self.random.choice((1, 4, RUN)) * BLOCK
        size = min(len(d) for d in self.medium.discs) // BLOCK * BLOCK
        at = self.random.randrange(0, size - n, BLOCK)
        got = os.preadv(self.fd, [memoryview(self.buffer)[:n]], at)
        data = self.buffer[:got]
        if got != n and self.medium.may_fail():
            raise OSError(errno.EIO, "the end of an empty drive")
        if got != n:
            self.tally.error(f"{self.name}: {got} of {n} bytes read")
        of = [i for i, d in enumerate(self.medium.discs) if d[at:at + got] == data]
        both = [i for i in discs if i in of]
        if not of:
            self.tally.error(f"{self.name}: {got} bytes at {at} are of no disc")
        elif not both:
            self.tally.error(f"{self.name}: {got} bytes at {at} are of another disc")
        self.tally.add("reads")
        return both or discs


class Fio(User):
    """fio with its own verification, over and over."""

    def turn(self):
        p = subprocess.run(
            ["fio", "--name=v", f"--filename={self.medium.device}", "--rw=randwrite",
             "--bsrange=4k-64k", "--size=16m", "--io_size=3m", "--direct=1", "--ioengine=libaio",
             "--iodepth=16", "--verify=crc32c", "--verify_fatal=1", "--verify_state_save=0",
             "--fsync=64", "--rate=600k", "--allow_file_create=0", "--minimal",
             f"--randseed={self.random.randrange(1 << 30)}"],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            text=True, check=False)
        if p.returncode:
            self.tally.error(f"{self.name}: fio: {p.stdout.strip()[-600:]}")
            self.stop.wait(2)
        else:
            self.tally.add("fio runs")


def give_way():
    """On a slow kernel the users of the drives, and who means ill, could take all of
    the machine, and nothing that was killed would ever be up again. For the calling
    thread and what it starts."""
    if SCALE > 1:
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), 10)


def wait_until(test, limit, step=0.1):
    end = time.monotonic() + limit * SCALE
    while not test():
        if time.monotonic() > end:
            return False
        time.sleep(step)
    return True
