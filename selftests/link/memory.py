#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-only
"""A client that sends huge messages cannot take more memory than the link may have."""
import linktest as t

CAP = 96	# MiB


def main():
    with t.Link(f"memory-max={CAP}", tcp=True, password="x") as link:
        d = link.daemon()
        d.send(t.ADD_PORT, 0)
        share = t.Share(link.uri, "x", mode="manual", offers=[t.offer(1, 512, "m")])
        _, cid, _ = share.wait("hello")
        d.expect(t.OFFERS_END)
        peak = 0
        junk = b"SBDF" * (8 << 20)
        for _ in range(6):
            share.raw(cid, junk * 4)	# 128 MiB in one Spice message
            for _ in range(10):
                t.select.select([], [], [], 0.02)
                if link.proc.poll() is None:
                    try:
                        peak = max(peak, link.rss_kib() or 0)
                    except (FileNotFoundError, TypeError):
                        pass
            if link.proc.poll() is not None:
                break
        share.kill()
        t.ok(peak < (CAP + 40) << 10, f"it stays below its cap ({peak >> 10} MiB, cap {CAP})")
        try:
            link.proc.wait(2)
            t.diag(f"it ended with {link.proc.returncode} and is started again")
            link.start()
            d = link.daemon()
            d.send(t.ADD_PORT, 0)
        except t.subprocess.TimeoutExpired:
            t.diag("it lived on")
        with t.Share(link.uri, "x", offers=[t.offer(1, 512, "m")]) as share:
            share.wait("hello")
            d.expect(t.OFFERS_END)
            t.ok(True, "and the next client is served")


t.run(main)
