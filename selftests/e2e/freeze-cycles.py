#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-only
# timeout: 1500
"""A thousand times frozen and thawed while fio writes and verifies, and then the
far end compared with what the drive says. CYCLES and SEED are for trying."""
import hashlib
import os
import random
import subprocess
import sys

from freeze import DISK_DRIVE, MIB, Far, query, thawed
from traylib import Bench, Table, same, until

CYCLES = int(os.environ.get("CYCLES", 1000))
SEED = int(os.environ.get("SEED", random.randrange(1 << 32)))
NODE = "/dev/" + DISK_DRIVE
SIZE = 64 * MIB


def start_fio(b, cycle):
    """A pass of its own each time; the verify pass at its end reads all."""
    return b.spawn("fio", "--name=v", f"--filename={NODE}", "--rw=randwrite", "--bsrange=4k-128k",
                   "--verify=crc32c", "--verify_fatal=1", "--verify_state_save=0", "--direct=1",
                   "--ioengine=libaio", "--iodepth=16", "--numjobs=2",
                   "--offset_increment=32m", f"--size={SIZE // 2}", "--io_size=24m",
                   f"--randseed={SEED + cycle}", "--minimal", "--output=/dev/null",
                   stderr=subprocess.PIPE)


def digest(path):
    h = hashlib.sha256()
    with open(path, "rb") as f:
        for block in iter(lambda: f.read(MIB), b""):
            h.update(block)
    return h.hexdigest()


def done_of(b):
    stats = query(b)["stats"]
    return stats["reads"] + stats["writes"]


def cycles(b):
    print(f"# {CYCLES} cycles, SEED={SEED}", flush=True)
    rnd = random.Random(SEED)
    far = Far(b, "cycles", size=SIZE)
    q = query(b)
    before = q["stats"]["errors"], q["stats"]["resent"]
    fio = start_fio(b, 0)
    runs, moved, last = 1, 0, 0
    for i in range(CYCLES):
        if fio.poll() is not None:
            same((fio.returncode, fio.stderr.read()), (0, b""), "fio")
            fio = start_fio(b, runs)
            runs += 1
        both = not rnd.randrange(4)
        b.q.do("spicebd-freeze", drive=DISK_DRIVE)
        if both:
            b.q.do("spicebd-freeze", drive=DISK_DRIVE, holder="second")
        q = query(b)
        same((q["freeze"], q["in-flight"]), ("frozen", 0), f"cycle {i}")
        done = q["stats"]["reads"] + q["stats"]["writes"]
        moved += done > last
        last = done
        if rnd.randrange(2):
            # The order of letting go is neither's business.
            b.q.do("spicebd-thaw", drive=DISK_DRIVE)
            if both:
                b.q.do("spicebd-thaw", drive=DISK_DRIVE, holder="second")
        else:
            if both:
                b.q.do("spicebd-thaw", drive=DISK_DRIVE, holder="second")
            b.q.do("spicebd-thaw", drive=DISK_DRIVE)
        # fio is slow beside us on a busy machine; some cycles come at once.
        if i % 4:
            until(lambda: fio.poll() is not None or done_of(b) > last, "fio goes on")
        b.q.events.clear()
        if i % 100 == 99:
            print(f"# {i + 1} cycles, {runs} runs of fio", flush=True)
    same((fio.wait(600), fio.stderr.read()), (0, b""), "the last fio")
    thawed(b)
    q = query(b)
    same((q["stats"]["errors"], q["stats"]["resent"]), before, "errors and requests resent")
    print(f"# fio moved in {moved} of {CYCLES} cycles, {runs} runs of it, "
          f"{q['stats']['writes']} writes, {q['stats']['reads']} reads", flush=True)
    assert moved >= CYCLES // 2, "fio hardly ran between the freezes"
    os.sync()
    same(digest(far.export.file), digest(NODE), "the far end's bytes")


table = Table()
table.add(f"{CYCLES} freezes under fio with verify", cycles)

if __name__ == "__main__":
    sys.exit(table.main(Bench))
