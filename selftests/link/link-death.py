#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-only
"""The link is killed and started again on the same sockets; client and daemon return."""
import linktest as t


def main():
    with t.pattern_file(4 << 20) as f, t.Nbdkit(f.name) as server, t.Link(tcp=True, password="x") as link:
        for n in range(3):
            d = link.daemon()
            d.expect(t.READY)
            d.send(t.ADD_PORT, 0)
            share = t.Share(link.uri, "x", offers=[t.offer(1, 4 << 20, "m")], nbd=server.sock)
            d.expect(t.OFFERS_END)
            h = t.nbd_on(d.open(0, 1).fd)
            link.kill()
            share.wait("disconnected", "closed", "error-io", "gone")
            try:
                h.pread(512, 0)
                t.ok(False, "the stream fails")
            except Exception:
                t.ok(True, f"the stream fails ({n})")
            share.close()
            d.close()
            # The listener is held by us: who comes now waits, and is served later.
            share = t.Share(link.uri, "x", offers=[t.offer(1, 4 << 20, "m")], nbd=server.sock)
            link.start()
            d = link.daemon()
            d.send(t.ADD_PORT, 0)
            d.expect(t.OFFERS_END)
            h = t.nbd_on(d.open(0, 1).fd)
            t.ok(len(h.pread(1 << 20, 0)) == 1 << 20, f"all is served again ({n})")
            share.close()
            d.expect(t.PORT_DOWN)
            d.close()


t.run(main)
