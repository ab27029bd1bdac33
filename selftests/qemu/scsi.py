# SPDX-License-Identifier: GPL-2.0-only
"""SCSI commands to an emulated drive, by the ports of the machine it is in."""
import struct

from machine import until

GOOD = (0, 0, 0)
NOT_PRESENT = (2, 0x3a, 0)
TRAY_OPEN = (2, 0x3a, 2)
GONE = (6, 0x3a, 0)
CHANGED = (6, 0x28, 0)

# GET EVENT STATUS NOTIFICATION, class media
NO_CHANGE, EJECT_REQUEST, NEW_MEDIA = 0, 1, 2


class Drive:
    """What all have: packets in terms of command(cdb, n) -> (sense, data)"""

    def ready(self):
        """TEST UNIT READY: the sense, (key, asc, ascq)"""
        return self.command(bytes(12), 0)[0]

    def attentions(self, most=8):
        """The senses of TEST UNIT READY until it says the same twice"""
        seen = []
        for _ in range(most):
            seen.append(self.ready())
            if len(seen) > 1 and seen[-1] == seen[-2] and seen[-1][0] != 6:
                return seen[:-1]
        return seen

    def media_event(self):
        """GET EVENT STATUS NOTIFICATION: (event, tray open, medium there)"""
        sense, data = self.command(bytes([0x4a, 1, 0, 0, 0x10, 0, 0, 0, 8, 0, 0, 0]), 8)
        if sense != GOOD:
            return sense
        return data[4] & 0xf, data[5] & 1, data[5] >> 1 & 1

    def eject(self):
        """START STOP UNIT, load/eject: the sense"""
        return self.command(bytes([0x1b, 0, 0, 0, 2] + [0] * 7), 0)[0]

    def load(self):
        """START STOP UNIT, load: the sense"""
        return self.command(bytes([0x1b, 0, 0, 0, 3] + [0] * 7), 0)[0]

    def prevent(self, on):
        """PREVENT ALLOW MEDIUM REMOVAL: the sense"""
        return self.command(bytes([0x1e, 0, 0, 0, on] + [0] * 7), 0)[0]

    def capacity(self):
        """READ CAPACITY: bytes, or the sense"""
        sense, data = self.command(bytes([0x25] + [0] * 11), 8)
        if sense != GOOD:
            return sense
        last, block = struct.unpack(">II", data)
        return (last + 1) * block

    def read(self, block, n=1, size=2048):
        """READ (10): data, or the sense"""
        cdb = struct.pack(">BBIBHBxx", 0x28, 0, block, 0, n, 0)
        sense, data = self.command(cdb, n * size)
        return data if sense == GOOD else sense


class Ide(Drive):
    """ide-cd as the first drive of a PC's second channel, by PIO"""

    def __init__(self, qemu):
        self.q = qemu

    def _status(self):
        """Once it is not busy"""
        got = []

        def idle():
            got.append(self.q.inp("b", 0x177))
            return not got[-1] & 0x80
        if not until(60, idle):
            raise AssertionError("the IDE drive stays busy")
        return got[-1]

    def _packet(self, cdb, n):
        q = self.q
        q.ask("outb 0x176 0xa0", "outb 0x171 0", "outb 0x174 0xfe", "outb 0x175 0xff",
              "outb 0x177 0xa0")
        if not self._status() & 8:
            raise AssertionError("the IDE drive takes no packet")
        q.ask(*[f"outw 0x170 {w:#x}" for w in struct.unpack("<6H", cdb)])
        data = b""
        while True:
            status = self._status()
            if not status & 8:
                return status & 1, data[:n]
            count = q.inp("b", 0x174) | q.inp("b", 0x175) << 8
            words = q.inp_many("w", 0x170, (count + 1) // 2)
            data += struct.pack(f"<{len(words)}H", *words)

    def command(self, cdb, n):
        """(sense, data)"""
        failed, data = self._packet(cdb, n)
        if not failed:
            return GOOD, data
        _, sense = self._packet(bytes([3, 0, 0, 0, 18] + [0] * 7), 18)
        return (sense[2] & 0xf, sense[12], sense[13]), b""


class Virtio:
    """A legacy virtio device in a slot of a PC; one queue, one request"""

    PORTS, RING, BUFFER = 0xc000, 0x100000, 0x200000

    def __init__(self, qemu, slot, queue):
        self.q, self.queue, self.used = qemu, queue, 0
        qemu.pci(slot, 0x10, self.PORTS)
        qemu.pci(slot, 4, 7)
        for status in 0, 1, 3:
            qemu.out("b", self.PORTS + 18, status)
        qemu.out("l", self.PORTS + 4, 0)
        qemu.out("w", self.PORTS + 14, queue)
        self.size = qemu.inp("w", self.PORTS + 12)
        self.avail = self.RING + 16 * self.size
        self.done = -(-(self.avail + 6 + 2 * self.size) // 4096) * 4096
        qemu.write(self.RING, bytes(self.done + 4096 + 8 * self.size - self.RING))
        qemu.out("l", self.PORTS + 8, self.RING >> 12)
        qemu.out("b", self.PORTS + 18, 7)

    def request(self, out, lengths):
        """Sends out, and returns what came into buffers of these lengths"""
        at = self.BUFFER
        self.q.write(at, out)
        table = [(at, len(out), 0)]
        at += len(out)
        answers = []
        for n in lengths:
            table.append((at, n, 2))
            answers.append((at, n))
            at += n
        self.q.write(at - sum(lengths), bytes(sum(lengths)))
        raw = b""
        for i, (address, n, flags) in enumerate(table):
            last = i == len(table) - 1
            raw += struct.pack("<QIHH", address, n, flags | (not last), 0 if last else i + 1)
        self.q.write(self.RING, raw)
        self.q.write(self.avail + 4 + 2 * (self.used % self.size), struct.pack("<H", 0))
        self.used = self.used + 1 & 0xffff
        self.q.write(self.avail + 2, struct.pack("<H", self.used))
        self.q.out("w", self.PORTS + 16, self.queue)

        def ended():
            return struct.unpack("<H", self.q.read(self.done + 2, 2))[0] == self.used
        if not until(60, ended):
            raise AssertionError("a virtio request does not end")
        return [self.q.read(a, n) for a, n in answers]


class Scsi(Drive):
    """The drive at target 0 of virtio-scsi-pci in this slot"""

    def __init__(self, qemu, slot):
        self.v = Virtio(qemu, slot, 2)

    def command(self, cdb, n):
        """(sense, data)"""
        head = bytes([1, 0, 0x40, 0, 0, 0, 0, 0]) + bytes(11) + cdb.ljust(32, b"\0")
        answers = self.v.request(head, [108] + [n] * bool(n))
        _, residual, _, status, response = struct.unpack("<IIHBB", answers[0][:12])
        if response:
            raise AssertionError(f"virtio-scsi response {response}")
        sense = answers[0][12:]
        if status == 2:
            return (sense[2] & 0xf, sense[12], sense[13]), b""
        if status:
            raise AssertionError(f"SCSI status {status}")
        return GOOD, answers[1][:n - residual] if n else b""
