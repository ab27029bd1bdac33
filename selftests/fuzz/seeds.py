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
    # large ones past the tap: begun in pieces, refused, held, into a sink that is full or gone
    write, body, end, steer, far, turn = 24, 26, 20, 21, 22, 23  # each with its events after it
    begun = tap_message(2, 101, 50) + u8(write, 30, 0) + b"\x65\0" + u32(60000) + bytes(24)
    rest = tap_message(body, 3, 59970) + tap_message(body, 101, 40000) + tap_message(body, 101, 9)
    for how in (2, 3, 6):
        yield u8(how) + (begun + rest) * 3 + u8(far, 255) + talk
        for c in (1, 2, 4, 8):
            yield u8(how) + begun + u8(steer, c) + rest + u8(steer, 0) + (begun + rest) * 3
            yield u8(how) + u8(9, c) + (begun + rest) * 2 + u8(steer, 8) + (begun + rest) * 2
        yield u8(how) + begun + tap_message(body, 3, 20000) + u8(far, 20) + u8(far, 128) + (begun + rest) * 2
        for n in range(1, 17):
            yield u8(how + 64, n) + begun + u8(turn) + rest + begun + rest
        yield u8(how) + begun + u8(turn) + tap_message(body, 3, 20000) + u8(end)
        yield u8(how) + begun + rest + tap_message(body, 1, 4) + talk
    yield u8(2) + u8(9, 1) + (u8(write, 30, 0) + b"\x65\0" + u32(200000) + bytes(24) +
                              tap_message(body, 3, 60000) * 3)


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
    yield up + say(2, 0, 1) + u8(11) + u16(4096) + link_frame(OPENED, u32(10), 1) + u8(14) + \
        u8(13, 64) + u16(5000) + u8(11) + u16(9000) + link_frame(CREDIT, u32(100), 1) + u8(11) + u16(9000)
    yield up + link_stream() + u8(3, 1, 0) + u16(512) + u8(3) + b"abc" + u8(0)
    yield up + link_stream() + u8(15) + u8(12) + u16(2000) + u8(4, 0) + u8(9, 2)
    # a transport that may lose bytes: with checks, one of them bent, and without
    checked = link_up(how=0x32)
    yield checked + link_stream() + carry + link_frame(CLOSE, u32(0), 1) + u8(13, 128) + u16(0)
    yield checked + link_stream() + u8(7, DATA, 1, 4) + b"abcd" + u8(70, 1) + u8(9, 0x32) + carry
    yield link_up(how=0x22) + link_frame(PING, bytes(8))
    yield up + link_up(1) + link_up(2, 4) + link_stream(1) + say(1, 1) + link_stream(2) + u8(14)
    yield up + link_frame(0xf1, b"later") + link_frame(77) + u8(11) + u16(999)
    yield u8(0) + say(0, 0) + u8(4, 16) + u8(9, 2) + u8(15) + u8(12) + u16(1100) + u8(4, 6 + 32) + \
        u8(4, 7) + u8(4, 0)
    # large frames by pieces: moved, given, with a daemon that reads, leaves, asks
    large = u8(5 + 16, DATA, 1, 254)
    for piece in (1, 2 + 40, 4, 1 + 80):
        yield up + link_stream() + (large + u8(1) + u8(piece) * 60) * 4 + carry
        yield up + link_stream() + large + u8(1) + u8(1, 41, 3 + 64 + 40) + u8(13, 0) + u16(9999) + \
            u8(piece, 67, 128) + u16(0) + u8(piece) * 40 + link_frame(CLOSE, u32(0), 1) + carry
    yield up + link_stream() + large + u8(0) + large + u8(1, 1, 3, 4, 0, 0, 0, 0, 0) + u8(1) * 40
    yield up + link_stream() + link_stream(0, 2) + (large + u8(1) + u8(81) * 20) * 9
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
    checked = u8(0, 0x22)
    yield checked + opened + talk + share_frame(CLOSE, u32(0), 1) + done
    yield checked + write + u8(4, DATA, 2, 4) + b"abcd" + u8(70, 1) + checked + write + done
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
    # large frames by pieces: moved, given, with a server that reads, ends, dies
    rw = share_frame(OPEN, u32(2, 4096), 2) + u8(7, 0, 0) + u16(18)
    large = u8(14, DATA, 2, 254)
    for piece in (1, 2 + 40, 4, 1 + 80):
        yield hello + rw + (large + u8(1) + u8(piece) * 60) * 6 + u8(7, 1, 0) + u16(65535)
        for server in (1, 2, 3):
            yield hello + rw + large + u8(1) + u8(piece, 67, server, 0) + u16(9000) + u8(piece) * 60 + \
                share_frame(CLOSE, u32(0), 2) + done
    yield hello + rw + large + u8(0) + u8(14 + 32, DATA, 2, 254, 9, 1, 1) + done + hello + rw
    yield hello + rw + opened + (large + u8(1) + u8(81) * 20) * 9
    yield hello + share_frame(0xf3, b"later") + share_frame(MOVE) + u8(5, 24) + \
        frame_bytes(DATA, 1, 2) + u8(0, 2)


def links_msg(type_, port=0, offer=0, tag=0, flags=0, error=0, extra=b"", text=b"", how=0, fds=b""):
    return u8(1, how, type_, port, offer, tag, flags, error) + extra + u8(len(text)) + text + fds


def links():
    """Links that offer, open streams, fail, ask for media, and pass what they should not."""
    def offer(id_, name=b"a.iso", how=0):
        return links_msg(4, 0, id_, 0, 5, 0, u32(1 << 20) + u8(3, 7, len(name)) + name, how=how)
    up = links_msg(2) + offer(1) + links_msg(6)
    ask = u8(4, 0, 0, 1)
    yield up
    yield up + ask + u8(5, 3) + links_msg(7, 0, 1, 0) + links_msg(3, text=b"gone")
    for tag in range(4):
        yield up + ask * 2 + u8(4, 1, 0, 1) + links_msg(7, 0, 1, tag) + links_msg(8, 0, 1, tag, 0, 5, text=b"no")
    for kind in range(6):
        yield up + ask + links_msg(7, 0, 1, 0, how=4, fds=u8(1, kind)) + u8(0)
        yield up + ask + links_msg(7, 0, 1, 0, how=4, fds=u8(kind * 3, 2)) + u8(0)
    yield up + ask + u8(6) + u8(0) + up + ask
    yield up + links_msg(9, 0, 1, 0, 1) + links_msg(9, 0, 1, 0, 2, extra=u8(1)) + links_msg(5, 0, 1)
    yield up + b"".join(offer(n) for n in range(1, 70))
    yield up + offer(2, b"a/b") + u8(0) + up + offer(2, b"x", 2) + u8(0) + up
    yield up + links_msg(10, flags=1, text=b"who") + links_msg(11) + links_msg(1)
    yield up + u8(5, 0, 0) + up + u8(5, 4, 1) + links_msg(2, 1) + u8(5, 1, 0, 1) + u8(5, 2, 0)
    yield up + links_msg(12) + u8(0) + up + links_msg(2, how=8) + u8(0) + links_msg(4, 4)
    yield up + ask + links_msg(8, 0, 1, 0, 0, 5, how=1) + links_msg(10, how=1)


def qmp():
    """Each command with what it takes, as clients write them, and what they get wrong."""
    def say(*lines, op=6):
        return b"".join(u8(op) + line.encode() + b"\n" for line in lines)

    def cmd(name, args="", op=6):
        return say('{"execute":"%s"%s,"id":1}' % (name, ',"arguments":{%s}' % args if args else ""), op=op)
    for name in ("query-version", "query-status", "query-block", "query-commands", "quit",
                 "query-qmp-schema", "query-named-block-nodes", "query-block-exports",
                 "query-spicebd", "query-spicebd-media", "query-fdsets", "nbd-server-stop"):
        yield cmd(name)
    cd, disk = '"id":"spicebd0"', '"device":"spicebd1"'
    yield cmd("eject", cd) + cmd("eject", disk + ',"force":true,"timeout":3')
    yield cmd("blockdev-open-tray", cd) + cmd("blockdev-remove-medium", cd) + cmd("blockdev-close-tray", cd)
    yield cmd("blockdev-open-tray", disk + ',"wait":true')
    yield cmd("spicebd-lock", '"drive":"spicebd0"') + cmd("eject", cd) + \
        cmd("spicebd-unlock", '"drive":"spicebd0","force":true') + cmd("query-block")
    yield cmd("spicebd-freeze", '"holder":"a","timeout":0') + \
        cmd("spicebd-freeze", '"drives":["spicebd0","spicebd1"]') + cmd("eject", cd) + \
        cmd("spicebd-thaw", '"drive":"spicebd0"') + cmd("spicebd-query") + \
        cmd("spicebd-thaw", '"holder":"a"')
    yield cmd("blockdev-add", '"driver":"nbd","node-name":"n","server":{"type":"unix","path":"/x"},"export":"e"') + \
        cmd("blockdev-insert-medium", cd + ',"node-name":"n"') + cmd("blockdev-del", '"node-name":"n"')
    yield cmd("blockdev-add", '"driver":"raw","node-name":"r","read-only":true,'
              '"file":{"driver":"file","filename":"/dev/null"}') + cmd("query-named-block-nodes")
    yield cmd("blockdev-add", '"driver":"nbd","node-name":"t","server":{"type":"inet","host":"::1","port":"1"}')
    yield cmd("blockdev-change-medium", cd + ',"filename":"nbd://localhost:1/x","read-only-mode":"retain"')
    yield cmd("spicebd-insert", '"source":"spice:a/b","read-only-mode":"read-only","cache":"auto",'
              '"timeout":5,"personality":"cdrom"')
    for source in ("/dev/null", "nbd+unix:///e?socket=/x", "nbds://h", "spice:", "/dev/fdset/1", ""):
        yield cmd("spicebd-insert", '"source":"%s","drive":"spicebd1","force":true' % source)
    yield u8(2) + cmd("add-fd", '"fdset-id":1') + cmd("remove-fd", '"fdset-id":1') + cmd("add-fd")
    yield cmd("spicebd-drive-add", '"personality":"disk","index":4,"queues":1,"depth":8') + \
        cmd("spicebd-drive-del", '"drive":"spicebd4"') + cmd("spicebd-drive-add", '"personality":"cdrom"')
    yield cmd("nbd-server-start", '"addr":{"type":"unix","data":{"path":"/x"}},"max-connections":3')
    yield cmd("nbd-server-start", '"addr":{"type":"inet","data":{"host":"h","port":"1","ipv6":false}}')
    yield cmd("nbd-server-add", disk + ',"name":"x","description":"d","writable":true')
    yield cmd("block-export-add", '"type":"nbd","id":"e","node-name":"n"') + cmd("block-export-del", '"id":"e"')
    yield cmd("spicebd-snapshot-create", '"drive":"spicebd1","scratch":"/dev/fdset/0","name":"s","socket":"/x"') + \
        cmd("spicebd-query-snapshots", '"drive":"spicebd1"') + \
        cmd("spicebd-snapshot-delete", '"name":"s","force":true')
    yield cmd("blockdev-add", '"driver":"file","node-name":"t","filename":"/dev/null"') + \
        cmd("blockdev-backup", '"job-id":"j","device":"spicebd1","target":"t","sync":"none","speed":0') + \
        cmd("query-block-jobs") + cmd("query-jobs") + cmd("block-job-cancel", '"device":"j","force":true') + \
        cmd("job-cancel", '"id":"j"')
    yield u8(16 + 32 + 64) + cmd("query-block", op=6 + 64) + cmd("quit", op=6 + 64) + cmd("query-spicebd", op=70)
    yield u8(0 + 64) + cmd("query-block", op=6 + 64) + say('{"execute":"qmp_capabilities"}', op=70)
    yield u8(1, 5) + b'{"exe' + say('cute":"query-block"}')
    yield say('{', '}', '[]', '{"execute":5}', '{"execute":"x","id":{"a":[1,null,1e9]}}', '"a"', '{"a":' * 70)
    yield say('{"execute":"eject","arguments":{"id":"\\ud800","force":"yes"}}', '{"execute":"eject","oob":1}')
    yield u8(4, 1) + cmd("eject", cd) + u8(4, 2) + cmd("spicebd-lock", '"drive":"spicebd1"') + u8(5, 3) + u8(5, 6)


def attr(type_, data):
    return u8(type_, len(data)) + data


def ring():
    """Requests whole, in pieces and in lists; answers and errors between them."""
    def msg(cmd, *attrs, how=0):
        return u8(1, how + len(attrs), cmd) + b"".join(attrs)
    n = seed_numbers()

    def request(cookie, op, offset, length, *more):
        return msg(n["CMD_IO_REQUEST"], attr(n["A_IO_COOKIE"], struct.pack("<Q", cookie)),
                   attr(n["A_IO_OP"], u32(op)), attr(n["A_IO_OFFSET"], struct.pack("<Q", offset)),
                   attr(n["A_IO_LENGTH"], u32(length)), *more)
    done = b"".join(u8(16 * i + 4 if (16 * i + 4) % 6 == 4 else 16 * i + 10) for i in range(4)) + u8(29)
    data = attr(n["A_IO_DATA"], b"d" * 32)
    for registered in (0, 1):
        for op in range(6):
            yield u8(registered) + request(7, op, 4096, 512) + done + request(7, op, 0, 1 << 20) + done
            yield u8(registered) + b"".join(request(c, op, 0, 4096) for c in range(6)) + done
        yield u8(registered) + request(9, 1, 0, 32, data) + done
        yield u8(registered) + request(9, 1, 0, 64, data) + msg(
            n["CMD_IO_DATA"], attr(n["A_IO_COOKIE"], struct.pack("<Q", 9)), data) + done
        one = struct.pack("<QQQIIII", 1, 0, 4096, 0, 512, 0, 0)
        for size in (16, 24, 32, 40, 48, 56, 63):
            yield u8(registered) + msg(n["CMD_IO_REQUESTS"], attr(n["A_IO_REQUESTS"], one[:size].ljust(size, b"\0")))
        yield u8(registered) + u8(1, 16, 0) + request(1, 0, 0, 512) + u8(0, 20) + b"\x14\0\0\0" * 5


def seed_numbers():
    """Enumerators of uapi/linux/spicebd.h, as the compiler counts them."""
    import re
    import subprocess
    top = os.path.join(os.path.dirname(os.path.abspath(__file__)), "../..")
    text = open(os.path.join(top, "uapi/linux/spicebd.h")).read()
    names = sorted(set(re.findall(r"\bSPICEBD_((?:CMD|A)_IO_[A-Z]+)\b", text)))
    names = [n for n in names if not n.endswith("MAX")]
    body = "".join(f'printf("{n} %d\\n", SPICEBD_{n});' for n in names)
    code = f'#include <linux/spicebd.h>\n#include <stdio.h>\nint main(void){{{body}return 0;}}'
    subprocess.run(["gcc", "-xc", "-", "-I", os.path.join(top, "uapi"), "-o", "/tmp/seed-numbers"],
                   input=code.encode(), check=True)
    out = subprocess.run(["/tmp/seed-numbers"], capture_output=True, text=True, check=True).stdout
    os.unlink("/tmp/seed-numbers")
    return {k: int(v) for k, v in (line.split() for line in out.splitlines())}


def state():
    """What a spicebdd writes, of each kind of source, and members of wrong kinds."""
    import json
    medium = {
        "index": 0, "id": "11" * 16, "name": "a.iso", "read-only": True, "kind": 1,
        "connections": 1, "clean": False, "cache": -1, "read-ahead": -1,
        "export": {"size": 1 << 20, "min-block": 1, "pref-block": 4096, "max-payload": 1 << 25,
                   "server-read-only": True, "flush": True, "fua": True, "trim": False,
                   "zero": False, "multi": True, "rotational": False, "digest": "22" * 32},
    }
    sources = [
        {"type": "nbd", "uri": "nbd://h/x", "name": "x", "resend": False},
        {"type": "spice", "uri": "spice:l/m", "name": "m", "link": "l", "medium": "m",
         "medium-id": "33" * 16, "incarnation": "44" * 16, "boot-id": "55" * 16, "durable": True},
        {"type": "file", "uri": "/x", "name": "x", "id": "6" * 32, "incarnation": "44" * 16,
         "node-name": "n", "read-only": True, "no-discard": True, "filename": "/x"},
    ]
    media = []
    for i, s in enumerate(sources):
        media.append(dict(medium, index=i % 2, source=s))
        yield json.dumps({"version": 1, "media": [media[-1]]}).encode()
    yield json.dumps({"version": 1, "media": media[:2]}).encode()
    yield json.dumps({"version": 1, "media": [], "nbd-server": {
        "id": "7" * 32, "address": {"type": "unix", "path": "/x"}, "max-connections": 3,
        "exports": [{"id": "e", "node-name": "n", "name": "x", "number": 1, "writable": True}]}}).encode()
    for wrong in (5, "x", None, [], {}, 1e300, -1):
        for key in ("index", "id", "name", "source", "export", "kind"):
            yield json.dumps({"version": 1, "media": [dict(media[0], **{key: wrong})]}).encode()
        for src in sources:
            for key in src:
                yield json.dumps({"version": 1, "media": [
                    dict(medium, source=dict(src, **{key: wrong}))]}).encode()
        for key in ("version", "media", "nbd-server"):
            yield json.dumps(dict({"version": 1, "media": []}, **{key: wrong})).encode()
        yield json.dumps({"version": 1, "media": [
            dict(media[0], export=dict(medium["export"], digest=wrong, size=wrong))]}).encode()


def handshake():
    """Servers that negotiate well, up to reads, with properties of all kinds."""
    def opt(option, type_, data=b""):
        return u8(2, option, type_, len(data)) + data

    def export(size, shift, flags, tail=b""):
        return u8(1, 3) + opt(8, 1) + u8(3) + u32(size) + u8(shift) + u16(flags) + tail + u8(7, 7)
    desc = opt(7, 3, struct.pack(">H", 2) + b"a disc") + opt(7, 3, struct.pack(">H", 1) + b"name")
    blocks = [(1, 4096, 1 << 25), (512, 512, 512), (0, 0, 0), (3, 5, 7), (1 << 31, 1 << 31, 1 << 31)]
    for flags in (1, 3, 0x1ff, 0xffff, 0):
        for size, shift in ((1, 20), (1, 9), (0, 0), (0x7fffffff, 32), (0xffffffff, 32), (511, 0), (1, 62)):
            yield export(size, shift, flags) + b"".join(u8(5, 0, n, 8) for n in range(1, 20))
            yield export(size, shift, flags, desc) + b"".join(
                u8(6, 1, 1, n) + u32(0) + u8(8) for n in range(1, 8))
    for b in blocks:
        yield export(1, 24, 3, u8(4) + u32(*b) + desc) + b"".join(u8(5, 0, n, 8) for n in range(1, 20))
    yield export(1, 20, 3) + u8(5, 5, 1, 0) + u8(5, 5, 2, 0) + u8(5, 99, 3, 0)
    yield u8(1, 3) + opt(8, 0x81) + opt(7, 0x86, b"no such export")
    yield u8(1, 1) + opt(8, 1) + opt(7 + 128, 3, b"") + u32(0xffffffff)
    yield u8(1, 0) + struct.pack("<QI", 1 << 20, 0)
    yield u8(0, 18) + b"NBDMAGIC" + b"\0\0\x42\x02\x81\x86\x12\x53" + b"\0\0"
    yield u8(0, 5) + b"SSH-2"
    yield u8(1, 3) + opt(8, 1) + desc * 40 + opt(7, 1)


def probe():
    """What an nbdkit answers."""
    def piece(*b):
        return b"".join(u8(len(x)) + x for x in b)

    def reply(type_, data=b""):
        return struct.pack(">QIII", 0x3e889045565a9, 6, type_, len(data)) + data
    hello = b"NBDMAGICIHAVEOPT\0\3"
    info = reply(3, struct.pack(">HQH", 0, 1 << 20, 3))
    yield piece(hello, info + info, reply(1))
    yield piece(hello + info + reply(1))
    yield piece(*[bytes([c]) for c in hello + info + reply(1)])
    yield piece(hello, reply(0x80000006, b"unknown export"))
    yield piece(hello, struct.pack(">QIII", 0x3e889045565a9, 6, 3, 60000), b"x" * 250, b"x" * 250)
    yield piece(hello, struct.pack(">QIII", 1, 6, 3, 0))


def supervisor():
    """Each request, and what is none."""
    def ask(text, how=0, op=1):
        return u8(op, how) + u16(len(text)) + text
    for text in (b"ping", b"ping\n", b"link-start a", b"link-start ../x", b"link-stop a",
                 b"link-stop " + b"x" * 300, b"what", b"", b"\0", b"p" * 599):
        yield u8(1) + ask(text) + u8(3)
        yield u8(0) + ask(text) + u8(3) + u8(0) + ask(text, 33) + u8(3) + u8(0) + ask(text, 32 + 19)
    yield u8(1) + ask(b"link-stop a") + u8(0 + 66) + ask(b"link-stop a", op=65) + u8(5) + u8(3)
    yield u8(1) + ask(b"stop") + u8(0, 66) + ask(b"link-start a", op=65) + u8(5 + 24) + u8(3)
    yield u8(1) + (u8(0) + u8(4 + 6)) * 20 + u8(0, 66, 132, 192) + ask(b"ping") + u8(3)


def export():
    """Exports that come and go, and clients who list, open, wait and leave."""
    def order(cmd, number=1, flags=0, tag=1, name=1, say=0, more=b""):
        # cmd is what is left by 8; 32 beside it: a text follows
        return u8(3, cmd, number, flags, tag) + u8(name) + more + u8(say)
    def ask(kind, more=b"", say=0, client=0):
        return u8(1 + 64 * client, kind) + more + u8(say)
    add, delete, begin, end, stop = 1, 2, 4, 5, 6
    stream = u8(3, 3, 1, 0) + u8(0, 0)		# with the tag that was asked for
    opened = order(add) + ask(1, u8(1)) + u8(5) + stream + u8(5)
    yield opened + ask(2) + u8(6)
    yield order(add) + order(add, 2, name=2) + ask(3, u8(0)) + ask(3, u8(1)) + ask(3, u8(2)) + u8(5)
    yield opened + order(delete) + u8(5) + order(delete, flags=1) + u8(5, 6) + order(delete) + u8(5)
    yield opened + u8(8) + order(begin) + order(end) + u8(5, 6, 5)
    yield opened + u8(8) + order(begin) + order(add) + order(end) + u8(5) + ask(4)
    yield order(add) + ask(1, u8(1)) + u8(7, 100) + u8(5) + stream + u8(5)
    yield order(add) + ask(1, u8(1)) + u8(8) + order(begin) + order(add) + order(end) + u8(5) + stream
    yield opened + ask(1, u8(1)) + u8(0) + ask(1, u8(192) + b"n" * 192) + u8(5) + order(stop)
    yield b"".join(order(add, n, name=n % 4) for n in range(5)) + order(7) + u8(5)
    for say in (241, 246, 251):
        yield opened + ask(2, say=say) + order(add, 2, name=2, say=say) + u8(5)


def job():
    """Jobs of each kind with descriptors of each kind; commands of two peers."""
    def one(how, kind, mode=1, flags=0, threads=0, label=b"A label"):
        return u8(3, how, kind) + u32(0x4b424453, mode, flags, threads) + b"0123456789abcdef" * 2 + \
            b"\0" + label.ljust(33, b"\0") + bytes(2)
    for kind in range(6):
        for mode in (1, 2, 3):
            yield one(31, kind, mode) + one(0, kind, mode, 1, 4)
    for bad in (one(0, 0, 7), one(0, 0, flags=2), one(0, 0, threads=65), one(0, 0, label=b"x" * 33),
                one(0, 2, 2, label=b"-f'$(x)"), one(64, 0), one(200, 0), one(0, 251), one(0, 253)):
        yield bad
    for cmd in range(6):
        yield u8(1, cmd, 2) + u8(32, 33, cmd, 34) + u8(5, 2, 5 + 18, 34)
        yield u8(4, 3) + u8(1, cmd, 2) + u8(5 + 24) + u8(2, 1, 235) + u32(cmd) + u8(2)


def opener():
    """Wishes for ports that are there, that are none, and that come."""
    def wish(number, tag=1, fd=0):
        return u8(0, number, tag, fd)
    for number in range(8):
        yield wish(number) + u8(3) + wish(number, 2) + u8(3) + wish(number, 0) + u8(3)
    yield wish(3) + u8(3) + u8(2 + 8) + u8(3) + wish(3, 2) + u8(2) + wish(3, 3) + u8(3)
    yield b"".join(wish(n, n + 1) for n in range(8)) + u8(3) * 3
    yield wish(245) + u8(0, 251) + u32(256) + u8(1, 0)
    yield wish(0, 1, 251) + u8(0, 254, 1, 0)
    yield u8(0, 255, 1, 0)


def tlsguard():
    """Clients that link, with each set of capabilities, and talk."""
    def link(caps, n=1, offset=18):
        mess = struct.pack("<IBBIII", 5, 10, 0, n, 0, offset) + u32(caps)
        return b"REDQ" + u32(2, 2, len(mess)) + mess
    for caps in (0, 1, 8, 11, 15):
        for step in (0, 5, 255):
            ticket = bytes(128) if not caps & 1 else bytes(132)
            short = struct.pack("<HI", 101, 3) + b"abc" + struct.pack("<HI", 104, 0)
            full = struct.pack("<QHII", 1, 101, 3, 0) + b"abc"
            yield u8(step) + link(caps) + ticket + (short if caps & 8 else full) * 2
            yield u8(step) + link(caps) + ticket + struct.pack("<HI", 101, 0xfffffff0) + b"x" * 50
            yield u8(step) + link(caps) + ticket + struct.pack("<QHII", 1, 102, 9, 0) + b"x" * 50
    yield u8(3) + link(11, 0) + bytes(200)
    yield u8(3) + link(11, 1, 0xffffffff) + bytes(200)
    yield u8(3) + b"REDQ" + u32(2, 2, 5000) + bytes(200)


def relay_frame(type_, payload=b"", stream=0, op=11, whole=0):
    return u8(op, type_, stream, len(payload)) + payload + u8(whole)


def relay():
    """Sessions with data and credit, checked and not, and either side's death in each."""
    g = 0x80
    for how in (8, 8 + 3):
        up = u8(0, 2, 0) + u8(9 + g, how, 6, 1) + u8(9, how) + u8(5, 19)
        stream = relay_frame(OPEN, u32(1, 100000), 1, 11 + g) + u8(6, 1) + \
            relay_frame(OPENED, u32(4096), 1) + relay_frame(DATA, b"NBDMAGIC", 1) + u8(5, 19)
        carry = relay_frame(DATA, b"abcd", 1, 11 + g) + u8(6, 1) + \
            relay_frame(CREDIT, u32(8), 1, 11 + g) + u8(6, 1)
        big = u8(11, DATA, 1, 220, 0, 0)
        yield up + stream + carry * 3 + relay_frame(CLOSE, u32(0), 1) + u8(5, 19)
        yield up + stream + big * 4 + u8(5, 10) + big + u8(5, 19)
        yield up + stream + big * 6
        yield up + stream + carry + relay_frame(DATA, b"half", 1, 11, 255) + u8(1, 5, 19, 0, 2, 0)
        yield up + stream + relay_frame(DATA, b"half", 1, 11 + g, 255) + u8(6, 1, 4, 255, 255, 6, 1) + \
            u8(5, 19) + u8(9 + g, how + 16, 6, 1, 9, how, 5, 19)
        yield up + stream + u8(7 + g, 4) + b"junk" + u8(6, 1, 5, 19) + u8(9 + g, how + 16, 6, 1)
        yield up + stream + u8(7, 4) + b"junk" + u8(5, 19) + u8(9 + g, how + 16, 6, 1, 9, how, 5, 19)
        yield up + stream + u8(3, 4, 100, 0, 2, 0) + u8(9 + g, how + 24, 6, 1, 9, how, 5, 19)
        yield up + stream + u8(4, 255, 255) + carry + relay_frame(PING, bytes(8)) + u8(5, 19)
        yield up + u8(7, 24) + frame_bytes(RESYNC, 0, 0) + u8(5, 19) + u8(9 + g, how + 32, 6, 1)
        yield up + u8(8 + g, PING, 0, 8) + bytes(8) + u8(30, 1, 0) + u8(6, 1, 5, 19)
        yield up + b"".join(relay_frame(OPEN, u32(1, 9), n, 11 + g) + u8(6, 1) for n in range(1, 19))
        yield up + b"".join(u8(9 + g, how + 8 * n, 6, 1) for n in range(2, 20))
        yield up + relay_frame(OPEN, u32(1, 5 << 20), 1, 11 + g) + u8(6, 1)


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
