#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-only
# timeout: 400
"""Snapshots by QEMU's commands, in the order in which a client of QEMU gives them:
a node for what is overwritten, blockdev-backup with sync=none into it, the node
exported by the NBD server."""
import os

import nbd

from snapshot import (DRIVE, KIB, MIB, SIZE, Snapshots, client, content, fails, patterns, write)
from traylib import Table, same, sh, until


def server(b):
    path = f"{b.dir}/nbd.sock"
    b.q.do("nbd-server-start", addr={"type": "unix", "data": {"path": path}})
    return lambda name: f"nbd+unix:///{name}?socket={path}"


def target(b, size=SIZE, holds=b""):
    """A node, of a file as qemu-img create -f raw makes it"""
    path = f"{b.dir}/target-{b.node_count}"
    with open(path, "wb") as f:
        f.write(holds)
        f.truncate(size)
    return b.add_node(driver="raw", file={"driver": "file", "filename": path}), path


def backup(b, **kw):
    return b.q.cmd("blockdev-backup", **{"device": DRIVE, "sync": "none", **kw})


def events(b, name):
    b.q.do("query-version")
    got = [e["data"] for e in b.q.events if e["event"] == name]
    b.q.events[:] = [e for e in b.q.events if e["event"] != name]
    return got


def fleecing(b):
    """backup into a node, export it, read, take it all down"""
    q = b.q
    with b.medium(patterns) as path:
        with open(path, "rb") as f:
            old = f.read()
        node, file = target(b)
        uri = server(b)
        backup(b, job_id="j0", target=node).good()
        q.do("nbd-server-add", device=node, name="fleece")
        h = client(uri("fleece"))
        write(0xab, 0, 64 * KIB)
        write(0xcd, 32 * MIB, 4 * KIB)
        assert content(h) == old, "the target is not what the medium was"
        same(h.is_read_only(), True, "it is read-only")
        job = q.do("query-block-jobs")
        same([(j["device"], j["type"], j["len"], j["status"]) for j in job],
             [("j0", "backup", SIZE, "running")], "jobs")
        assert job[0]["offset"] >= 128 * KIB, job
        same([(j["id"], j["status"]) for j in q.do("query-jobs")], [("j0", "running")], "jobs")
        until(lambda: b.snapshots()[0]["clients"] == 1, "its client counts")
        q.cmd("eject", id=DRIVE).bad("cannot eject: snapshot 'j0' is exported to 1 client$")
        q.cmd("block-job-cancel", device="j0").bad("snapshot 'j0' is exported to 1 client: ")
        q.cmd("blockdev-del", node_name=node).bad("in use")
        q.cmd("blockdev-insert-medium", id="spicebd0", node_name=node).bad("already in use|not open")
        # The live medium beside it, as it is now.
        q.do("block-export-add", type="nbd", id="live", node_name=DRIVE, name="live")
        same(client(uri("live")).pread(4 * KIB, 0), b"\xab" * 4 * KIB, "the drive's own export")
        h.shutdown()
        until(lambda: b.snapshots()[0]["clients"] == 0, "the client has gone")
        q.do("nbd-server-remove", name="fleece")
        events(b, "BLOCK_JOB_CANCELLED")
        q.do("block-job-cancel", device="j0")
        same([(e["device"], e["len"]) for e in events(b, "BLOCK_JOB_CANCELLED")], [("j0", SIZE)],
             "events")
        q.cmd("block-job-cancel", device="j0").bad("^Job 'j0' not found$", cls="DeviceNotActive")
        same(q.do("query-block-jobs"), [], "jobs")
        q.do("nbd-server-stop")
        q.do("blockdev-del", node_name=node)
        b.nodes.remove(node)
        os.unlink(file)


def by_export_add(b):
    """block-export-add knows the target, too; the job's end takes the export along"""
    q = b.q
    with b.medium(patterns):
        node, _ = target(b, size=0)
        uri = server(b)
        backup(b, target=node).good()
        q.cmd("block-export-add", type="nbd", id="w", node_name=node, writable=True).bad(
            "Cannot export read-only node as writable")
        q.do("block-export-add", type="nbd", id="e", node_name=node)
        h = client(uri(node))
        write(0x11, 0, 4 * KIB)
        same(h.pread(4 * KIB, 0), b"\x5d" * 4 * KIB, "the snapshot")
        q.do("job-cancel", id=DRIVE)
        fails(h.pread, 512, 0)
        until(lambda: q.do("query-block-exports") == [], "its export is gone")
        q.do("nbd-server-stop")


def words(b):
    """what is refused, and by which words"""
    with b.medium():
        node, _ = target(b)
        backup(b, target="none").bad("Cannot find device='' nor node-name='none'")
        backup(b, target=node, device="none").bad("Cannot find device='none' nor node-name='none'")
        for sync in ("full", "top", "incremental", "bitmap"):
            backup(b, target=node, sync=sync).bad("Parameter 'sync' must be 'none'")
        backup(b, target=node, sync="some").bad("does not accept value 'some'")
        backup(b, target=node, speed=1).bad("Parameter 'speed' must be 0")
        backup(b, target=node, on_target_error="stop").bad("'on-target-error' must be 'report'")
        backup(b, target=target(b, holds=b"x")[0]).bad("the scratch file is not empty")
        backup(b, target=target(b, size=MIB)[0]).bad("the scratch file is not empty")
        read_only = b.add_node(driver="file", filename=f"{b.dir}/medium.img", read_only=True)
        backup(b, target=read_only).bad("no file that can be written")
        backup(b, target=node).good()
        backup(b, target=node).bad("already in use")
        backup(b, target=target(b)[0]).bad(f"cannot make a snapshot: it has snapshot '{DRIVE}'")
        same([s["name"] for s in b.snapshots()], [DRIVE], "snapshots")
        b.q.cmd("block-job-cancel", device="other").bad("not found", cls="DeviceNotActive")
        b.q.cmd("job-cancel", id="other").bad("^Job not found: 'other'$")


def full(b):
    """a target without room ends the job with an error, never the drive"""
    small = f"{b.dir}/small"
    os.mkdir(small)
    sh(f"mount -t tmpfs -o size=1M none {small}; truncate -s {SIZE} {small}/t")
    b.undo.append(lambda: sh(f"umount -l {small}", check=False))
    with b.medium(lambda f: f.write(os.urandom(8 * MIB))):
        node = b.add_node(driver="file", filename=f"{small}/t")
        uri = server(b)
        backup(b, target=node).good()
        b.q.do("nbd-server-add", device=node)
        h = client(uri(node))
        for i in range(8):
            write(0x40 + i, i * MIB, MIB)
        until(lambda: b.q.do("query-block-jobs") == [], "the job is over")
        got = events(b, "BLOCK_JOB_COMPLETED")
        same(len(got), 1, "events")
        assert "No space left" in got[0]["error"], got
        fails(h.pread, 512, 0)
        until(lambda: not b.snapshots(), "nothing of it is left")
        until(lambda: b.q.do("query-block-exports") == [], "its export is gone")
        b.q.do("nbd-server-stop")


def restarted(b):
    """after a restart of spicebdd its export is gone, and is never the live medium"""
    with b.medium(patterns):
        node, _ = target(b)
        uri = server(b)
        backup(b, target=node).good()
        b.q.do("nbd-server-add", device=node, name="snap")
        b.q.do("nbd-server-add", device=DRIVE, name="live")
        same(client(uri("snap")).pread(512, 0), b"\x5d" * 512, "the snapshot")
        b.restart()
        b.nodes.clear()
        write(0x11, 0, 4 * KIB)
        until(lambda: [x["id"] for x in b.q.do("query-block-exports")] == ["live"], "one is left")

        def live():
            try:
                return client(uri("live")).pread(512, 0)
            except nbd.Error:
                return None
        fails(client, uri("snap"))
        until(lambda: live() == b"\x11" * 512, "the live one is served")
        fails(client, uri("snap"))
        b.q.do("nbd-server-stop")


ROWS = (fleecing, by_export_add, words, full, restarted)

if __name__ == "__main__":
    t = Table()
    for fn in ROWS:
        t.add(fn.__doc__, fn)
    t.main(Snapshots)
