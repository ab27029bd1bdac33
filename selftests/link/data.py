#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-only
"""NBD over a port: 64 MiB read and written with checksums, several streams at once."""
import hashlib
import os

import linktest as t

SIZE = 64 << 20
STEP = 1 << 20


def read_all(h):
    m = hashlib.sha256()
    for at in range(0, SIZE, STEP):
        m.update(h.pread(STEP, at))
    return m.hexdigest()


def many_in_flight(h, data):
    """16 writes of 256 KiB outstanding, then the same for reads."""
    import nbd
    n = 256 << 10
    bufs = {}
    for write in (True, False):
        cookies, at = {}, 0
        while at < SIZE or cookies:
            while at < SIZE and len(cookies) < 16:
                b = nbd.Buffer.from_bytearray(bytearray(data[at:at + n])) if write \
                    else nbd.Buffer(n)
                c = h.aio_pwrite(b, at) if write else h.aio_pread(b, at)
                cookies[c] = (at, b)
                at += n
            h.poll(-1)
            for c in [c for c in cookies if h.aio_command_completed(c)]:
                pos, b = cookies.pop(c)
                if not write:
                    bufs[pos] = b.to_bytearray()
    return b"".join(bytes(bufs[p]) for p in sorted(bufs))


def main():
    with t.pattern_file(SIZE, 7) as f, t.Nbdkit(f.name) as server, t.Link(password="x") as link:
        want = hashlib.sha256(open(f.name, "rb").read()).hexdigest()
        d = link.daemon()
        d.send(t.ADD_PORT, 0)
        offers = [t.offer(3, SIZE, "disk.img")]
        with t.Share(link.uri, "x", offers=offers, nbd=server.sock) as share:
            d.expect(t.OFFERS_END)
            m = d.open(0, 3, tag=77)
            t.ok(m.type == t.STREAM and m.fd is not None, "open gives a connected socket")
            h = t.nbd_on(m.fd)
            t.ok(h.get_size() == SIZE, "the size is the server's")
            t.ok(read_all(h) == want, "64 MiB read, checksum is right")
            data = os.urandom(SIZE)
            got = many_in_flight(h, data)
            t.ok(got == data, "64 MiB written and read back, 16 requests in flight")
            h.flush()
            with open(f.name, "rb") as g:
                t.ok(g.read() == data, "the file has what was written")
            others = [t.nbd_on(d.open(0, 3, tag=n).fd) for n in range(3)]
            t.ok(all(o.pread(512, 4096) == data[4096:4608] for o in others),
                 "three more streams on the same medium")
            d.send(t.GET_STATS, 0)
            m = d.expect(t.STATS)
            import struct
            rx, tx, _, _, rtt, streams = struct.unpack_from("=QQQQII", m.u)
            t.ok(rx > 2 * SIZE and tx > SIZE and streams == 4, "counters count")
            others[0].shutdown()
            m = share.wait("close")
            t.ok(m[2][0] == 2, "a stream that the daemon ends is closed at the share")
            t.ok(h.pread(512, 0) == data[:512], "the other streams go on")
            m = d.open(0, 99, tag=5)
            t.ok(m.type == t.STREAM_FAILED and m.error == 2, "an offer that is not there: ENOENT")
            m = d.open(9, 1, tag=6)
            t.ok(m.type == t.STREAM_FAILED and m.error == 19, "a port that is not there: ENODEV")
            for tag in range(100, 113):
                m = d.open(0, 3, tag=tag)
                assert m.type == t.STREAM, m
            m = d.open(0, 3, tag=200)
            t.ok(m.type == t.STREAM_FAILED and m.error == 24, "a 17th stream: EMFILE")
            t.diag(f"RSS {link.rss_kib()} KiB")


t.run(main)
