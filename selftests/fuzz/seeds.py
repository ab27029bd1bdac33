#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-only
"""Write seeds: whole, valid sessions in each target's script, for the fuzzer to bend.

usage: seeds.py TARGET DIR
"""
import os
import struct
import sys


def u8(*v):
    return bytes(v)


def u16(v):
    return struct.pack("<H", v)


def u32(*v):
    return struct.pack(f"<{len(v)}I", *v)


HELLO, RESYNC, OFFER, WITHDRAW, OFFERS_END, OPEN, OPENED, DATA, CREDIT, CLOSE, NOTICE, \
    EJECT, PING, PONG, MOVE, BYE = range(1, 17)


def frame_bytes(type_, epoch, seq, payload=b"", stream=0):
    return struct.pack("<IHHIIII", 0x46444253, type_, 0, stream, len(payload), epoch, seq) + payload


def hello_payload(role, epoch, secret=bytes(32), version=1):
    return struct.pack("<HHIIIII", version, role, 2, epoch, 65536, 5000, 15000) + secret + \
        b"b" * 16 + b"i" * 16 + bytes(8)


def offer_payload(id_, name=b"a.iso", size=1 << 20):
    return struct.pack("<IIQ", id_, 5, size) + b"m" * 16 + b"n" * 16 + \
        struct.pack("<HH", 1, len(name)) + bytes(12) + name


def frame():
    """The receiver: a session of each role, whole and with a gap."""
    e = 0x01010101
    share = [(HELLO, hello_payload(2, e), 0), (OFFER, offer_payload(1), 0), (OFFERS_END, b"", 0),
             (OPENED, u32(1 << 20), 1), (DATA, b"NBDMAGIC", 1), (CREDIT, u32(9), 1),
             (EJECT, u32(1, 0), 0), (EJECT, u32(1, 2, 3), 0), (PING, bytes(8), 0),
             (CLOSE, u32(5) + b"gone", 1), (BYE, u32(8) + b"quit", 0)]
    link = [(HELLO, hello_payload(1, e), 0), (OPEN, u32(1, 4096), 1), (DATA, b"\0\0\0\3", 1),
            (NOTICE, u32(5, 1) + b"mounted", 0), (PONG, bytes(8), 0), (CLOSE, u32(0), 1)]
    for how in (0, 1, 20, 255):
        for frames in (share, link):
            b = [frame_bytes(t, e, n, p, s) for n, (t, p, s) in enumerate(frames)]
            yield u8(how) + b"".join(b)
            yield u8(how) + b"".join(b[:2] + b[3:])
            yield u8(how) + b"".join(b[:2]) + b"junk" + frame_bytes(RESYNC, 0, 0) + b"".join(b)


def tap_message(op, type_, length):
    return u8(op, type_) + u32(length)


def spicetap():
    """DATA, messages for the library, a migration, and what has no end."""
    talk = b"".join([
        tap_message(16 + 2, 101, 100), tap_message(16 + 2, 4, 8), tap_message(16 + 4, 3, 12),
        u8(16 + 7, 3) + u16(700), u8(16 + 5) + u16(60000), u8(16 + 6) + u16(60000),
        tap_message(16 + 2, 101, 65000), u8(16 + 9) * 3, tap_message(16 + 3, 101, 0xfffffff0),
        u8(16 + 9) * 3])
    yield u8(0) + talk
    yield u8(1) + talk + tap_message(16 + 4, 1, 4) + tap_message(16 + 2, 1, 4) + talk
    for n in (1, 2, 3, 5):
        yield u8(65, n) + talk + tap_message(18, 1, 4) + u8(16 + 8)
    yield u8(0) + u8(16, 4, 0) + b"\x65\0\x08\0" + u8(16 + 64, 5) + b"\0\0abc" + u8(16 + 64, 5) + b"defgh"
    for side in (8, 8 + 32, 8 + 64, 8 + 96):
        yield u8(0) + talk + u8(16 + side) + talk
    yield u8(0) + tap_message(18, 4, 1 << 20) + u8(16) * 9
    yield u8(0) + tap_message(20, 4, 1 << 21) + u8(25)
    yield u8(0) + tap_message(18, 102, 10) + talk


def nbd_simple(cookie, error=0, data=b""):
    return struct.pack(">IIQ", 0x67446698, error, cookie) + data


def nbd_chunk(cookie, type_, flags=1, data=b""):
    return struct.pack(">IHHQI", 0x668e33ef, flags, type_, cookie, len(data)) + data


def nbdwire():
    """Answers to requests with the handles 1 << 32 | place."""
    for step in (0, 6, 255):
        for use in (0, 1):
            c = [use << 32 | i for i in range(4)] + [1 << 32 | i for i in range(4)]
            for base in (c[:4], c[4:], [i << 32 | 1 for i in range(4)]):
                yield u8(0, step) + b"".join(nbd_simple(i, 0, bytes(128)) for i in base[:3]) + \
                    nbd_simple(base[3])
                yield u8(0, step) + b"".join(nbd_simple(i, 5) for i in base)
                offset = [struct.pack(">Q", 4096 * i) for i in range(4)]
                yield u8(1, step) + b"".join([
                    nbd_chunk(base[0], 1, 1, offset[0] + bytes(128)),
                    nbd_chunk(base[1], 1, 0, offset[1] + bytes(64)),
                    nbd_chunk(base[1], 2, 1, struct.pack(">QI", 4096 + 64, 64)),
                    nbd_chunk(base[2], 0x8002, 1, struct.pack(">IH", 5, 3) + b"bad" + offset[2]),
                    nbd_chunk(base[3], 0, 1)])
                yield u8(1, step) + nbd_chunk(base[0], 0x8001, 1, struct.pack(">IH", 28, 0)) + \
                    nbd_chunk(base[1], 0x7fff, 1, b"unknown")


def say(type_, port=0, offer=0, tag=0, flags=0, text=b"", op=1):
    return u8(op, type_, port, offer, tag, flags, len(text)) + text


def link_frame(type_, payload=b"", stream=0, port=0, op=5):
    return u8(op | port << 6, type_, stream, len(payload)) + payload


def link_up(port=0, how=2):
    """A daemon that adds a port, an opener that opens it, a share's hello and offer."""
    return b"".join([
        u8(0), say(0, port), u8(4, 0), u8(9 | port << 6, how),
        u8(10 | port << 6, 1, 5) + u32(4096) + u8(8, 1, 5) + b"a.iso",
        link_frame(OFFERS_END, port=port), u8(14)])


def link_stream(port=0, stream=1):
    return b"".join([
        say(2, port, 1, stream), u8(11 | port << 6) + u16(4096),
        link_frame(OPENED, u32(1 << 20), stream, port), u8(14)])


def link():
    """Sessions with streams that carry data both ways and end in each way."""
    carry = b"".join([link_frame(DATA, b"NBDMAGIC", 1), u8(13, 0) + u16(100),
                      u8(13, 64) + u16(5000), u8(11) + u16(9000), link_frame(CREDIT, u32(100), 1)])
    flood = u8(5, DATA, 1, 255, 0) * 6 + u8(13, 0) + u16(60000) * 1
    up = link_up()
    yield up
    yield up + link_stream() + carry + link_frame(CLOSE, u32(0), 1) + u8(13, 128) + u16(0)
    yield up + link_stream() + carry + u8(13, 128) + u16(0) + u8(11) + u16(999) + \
        link_frame(CLOSE, u32(0), 1)
    yield up + link_stream() + flood + u8(13, 0) + u16(65535) + link_frame(CLOSE, u32(5) + b"x", 1)
    yield up + b"".join(link_stream(0, n) for n in range(1, 19))
    yield up + link_stream() + link_frame(PING, bytes(8)) * 3 + u8(12) + u16(6000) + \
        u8(12) + u16(30000) + u8(11) + u16(999)
    yield up + say(2, 0, 1, 9) + u8(12) + u16(31000) + link_frame(PING, bytes(8)) + u8(12) + u16(31000)
    yield up + say(4, 0) + u8(9, 0) + say(3, 0, 1, 0, 5, b"mounted") + say(5, 0) + u8(14)
    yield up + link_frame(EJECT, u32(1, 0)) + link_frame(EJECT, u32(1, 1)) + \
        link_frame(EJECT, u32(1, 2, 1)) + say(3, 0, 1, 0, 2) + link_frame(WITHDRAW, u32(1)) + u8(14)
    yield up + link_frame(BYE, u32(8) + b"quit") + u8(8, 24) + frame_bytes(RESYNC, 0, 0) + u8(9, 2)
    yield up + (u8(8, 24) + frame_bytes(RESYNC, 0, 0)) * 18
    yield up + link_stream() + u8(7, DATA, 1, 4) + b"abcd" + u8(20, 1) + u8(9, 2) + u8(11) + u16(999)
    yield up + link_stream() + u8(0) + u8(14) + carry
    yield up + link_stream() + u8(3, 1, 0) + u16(512) + u8(3) + b"abc" + u8(0)
    yield up + link_stream() + u8(15) + u8(12) + u16(2000) + u8(4, 0) + u8(9, 2)
    yield up + link_up(1) + link_up(2, 4) + link_stream(1) + say(1, 1) + link_stream(2) + u8(14)
    yield up + link_frame(0xf1, b"later") + link_frame(77) + u8(11) + u16(999)
    yield u8(0) + say(0, 0) + u8(4, 16) + u8(9, 2) + u8(15) + u8(12) + u16(1100) + u8(4, 6 + 32) + \
        u8(4, 7) + u8(4, 0)
    for n in (0, 1, 2, 17):
        yield up + u8(3, n, 1) + u16(512) + u8(8) + u32(66, 0) + u8(0) + u8(14)


def share_frame(type_, payload=b"", stream=0, drive=0, op=1):
    return u8(op | drive << 7, type_, stream, len(payload)) + payload


def share():
    """Drives that open media, read and write, die at each moment and come again."""
    hello, done = u8(0, 2), u8(15)
    opened = share_frame(OPEN, u32(1, 1 << 20), 1) + u8(7, 0, 0) + u16(18)
    talk = share_frame(DATA, b"\0\0\0\3", 1) + u8(7, 1, 0) + u16(99) + u8(7, 0, 0) + u16(60000) + \
        share_frame(CREDIT, u32(500), 1) + done
    write = share_frame(OPEN, u32(2, 4096), 2) + u8(7, 0, 0) + u16(18) + u8(1, DATA, 2, 250) + b"w"
    yield hello + opened + talk + share_frame(CLOSE, u32(0), 1) + done
    yield hello + opened + talk + hello + opened + talk + done + u8(9, 1) + talk
    yield hello + write + u8(0 | 128, 2) + share_frame(OPEN, u32(2, 4096), 1, 1) + done
    yield hello + write * 3 + u8(0, 0) + share_frame(OPEN, u32(2, 9), 1) + u8(9, 1) + u8(9, 9)
    yield hello + write + share_frame(CLOSE, u32(0), 2) + share_frame(OPEN, u32(2, 4096), 3) + \
        u8(7, 1, 0) + u16(65000) + u8(7, 2, 0, 0, 0) + u8(9, 3) + u8(7, 0, 0) + u16(18)
    for status in (3, 7, 11):
        yield hello + opened + talk + u8(7, status, 0) + u16(0) + done + opened
        yield hello + write + u8(7, status, 0) + u16(0) + done + write
    yield hello + b"".join(share_frame(OPEN, u32(1, 0), n) for n in range(1, 40))
    yield hello + share_frame(NOTICE, u32(1, 1)) + u8(10, 2, 1) + \
        share_frame(NOTICE, u32(5, 1) + b"mounted") + u8(10, 10, 1) + share_frame(NOTICE, u32(2, 1))
    yield hello + share_frame(NOTICE, u32(1, 1)) + u8(10, 4, 1, 2) + share_frame(NOTICE, u32(1, 2))
    yield hello + share_frame(NOTICE, u32(1, 1)) + u8(10, 2, 1) + u8(11) + u16(16000)
    yield hello + opened + u8(10, 1, 1) + u8(10, 0, 0) + share_frame(CLOSE, u32(0), 1) + done
    yield hello + opened + u8(10, 5, 2) + share_frame(OPEN, u32(1, 4096), 2) + done
    yield hello + (share_frame(PING, bytes(8)) + u8(6, 1)) * 4 + share_frame(PONG, bytes(8)) + \
        u8(11) + u16(11000) + u8(11) + u16(3000)
    yield hello + opened + u8(4, DATA, 1, 4) + b"abcd" + u8(20, 1) + u8(0, 16 + 8) + u8(0, 2) + done
    yield hello + opened + u8(12, 1) + u8(0, 2) + u8(12, 0) + done + u8(12, 1) + u8(11) + u16(2100)
    yield u8(0, 0xf2) + u8(0, 2) + share_frame(77) + u8(0, 2) + share_frame(BYE, u32(0))
    yield hello + share_frame(CREDIT, u32(0), 9) + (u8(0, 2) + share_frame(DATA, b"x", 9)) * 6
    yield hello + opened + u8(1, DATA, 1, 255, 0) * 6 + u8(7, 1, 0) + u16(65535)
    yield u8(11) + u16(2100) + (u8(11) + u16(1100)) * 12 + hello
    yield hello + share_frame(0xf3, b"later") + share_frame(MOVE) + u8(5, 24) + \
        frame_bytes(DATA, 1, 2) + u8(0, 2)


def main():
    target, folder = sys.argv[1:3]
    os.makedirs(folder, exist_ok=True)
    make = globals().get(target.replace("-", "_"))
    n = 0
    for n, b in enumerate(make(), 1):
        with open(os.path.join(folder, f"seed-{n:03}"), "wb") as f:
            f.write(b)
    print(f"{target}: {n} seeds")


if __name__ == "__main__":
    main()
