#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-only
"""spicebd-share at the other end: read, write, its death, the link's death, a second one."""
# timeout: 180
import hashlib
import os
import signal
import subprocess
import sys

import linktest as t

SIZE = 64 << 20


class RealShare:
    def __init__(self, link, *args):
        self.log = open(os.path.join(link.dir, "share.log"), "a+")
        self.proc = subprocess.Popen(
            [t.SHARE, "--uri", link.uri, "--password-file", os.path.join(link.dir, "password"),
             *args], stdout=self.log, stderr=self.log, stdin=subprocess.DEVNULL)

    def close(self, sig=signal.SIGKILL):
        self.proc.send_signal(sig)
        return self.proc.wait(15)


def checksum(h):
    m = hashlib.sha256()
    for at in range(0, SIZE, 1 << 20):
        m.update(h.pread(1 << 20, at))
    return m.hexdigest()


def main():
    if not os.access(t.SHARE, os.X_OK):
        print(f"ok 1 - spicebd-share # SKIP {t.SHARE} is not built")
        sys.exit(4)
    with t.pattern_file(SIZE, 5) as f, t.Link(tcp=True, password="pass word") as link:
        want = hashlib.sha256(open(f.name, "rb").read()).hexdigest()
        d = link.daemon()
        d.send(t.ADD_PORT, 0)
        share = RealShare(link, "--read-write", f.name)
        m = d.expect(t.OFFER)
        o = m.offer_fields()
        d.expect(t.OFFERS_END)
        t.ok(o["size"] == SIZE and o["name"] == os.path.basename(f.name), "it offers the file")
        h = t.nbd_on(d.open(0, m.offer).fd)
        t.ok(checksum(h) == want, "64 MiB read, checksum is right")
        data = os.urandom(8 << 20)
        for n in range(8):
            h.pwrite(data[n << 20:(n + 1) << 20], n << 20)
        h.flush()
        t.ok(open(f.name, "rb").read(8 << 20) == data, "8 MiB written")
        want = hashlib.sha256(open(f.name, "rb").read()).hexdigest()
        medium = o["medium"]

        d.send(t.RESET_PORT, 0)
        d.expect(t.PORT_DOWN)
        m = d.expect(t.OFFER, timeout=20)
        t.ok(m.offer_fields()["medium"] == medium, "after a reset it is the same medium")
        d.expect(t.OFFERS_END)
        h = t.nbd_on(d.open(0, m.offer).fd)
        t.ok(checksum(h) == want, "and is read again")

        with t.pattern_file(1 << 20) as other:
            second = RealShare(link, other.name)
            status = second.proc.wait(30)
            t.ok(status == 3 and d.nothing(t.PORT_DOWN), f"a second share is refused ({status})")

        share.close()
        d.expect(t.PORT_DOWN)
        share = RealShare(link, "--read-write", f.name)
        m = d.expect(t.OFFER)
        d.expect(t.OFFERS_END)
        h = t.nbd_on(d.open(0, m.offer).fd)
        t.ok(checksum(h) == want, "killed and started again it serves again")

        link.kill()
        d.close()
        link.start()
        d = link.daemon()
        d.send(t.ADD_PORT, 0)
        m = d.expect(t.OFFER, timeout=40)
        d.expect(t.OFFERS_END)
        h = t.nbd_on(d.open(0, m.offer).fd)
        t.ok(checksum(h) == want, "the link is killed: the share comes back by itself")
        t.ok(m.offer_fields()["medium"] != bytes(16), "with a medium id")
        share.close(signal.SIGTERM)
        d.expect(t.PORT_DOWN)
        t.ok(True, "it ends in good order")
        share.log.seek(0)
        for line in share.log.read().splitlines()[-40:]:
            t.diag(line)


t.run(main)
