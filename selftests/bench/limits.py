# SPDX-License-Identifier: GPL-2.0-only
"""A program of this directory as a selftest: what it measures has limits."""

import json
import os
import subprocess
import sys

BENCH = os.path.dirname(os.path.abspath(__file__))


def test(name, *args):
    """KTAP of the values that have a limit; exits"""
    p = subprocess.run([f"{BENCH}/{name}", *args], stdout=subprocess.PIPE, text=True, check=False)
    n = failed = 0
    print("TAP version 13")
    for line in p.stdout.splitlines():
        if not line.startswith("{"):
            print(f"# {line}")
            continue
        r = json.loads(line)
        if "limit" not in r:
            print(f"# {line}")
            continue
        n += 1
        good = r["value"] <= r["limit"]
        failed += not good
        print(f"{'ok' if good else 'not ok'} {n} - {r['what']}: {r['value']:.4g} {r['unit']}, "
              f"at most {r['limit']}")
    if p.returncode or not n:
        n += 1
        failed += 1
        print(f"not ok {n} - {name} measures to the end (status {p.returncode})")
    print(f"1..{n}", flush=True)
    sys.exit(bool(failed))
