#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-only
# timeout: 240
"""QEMU's own QMP client library, its older interface and its qmp-shell drive
spicebdd as they are. selftests/vm/setup qmp fetches them."""
import asyncio
import os
import subprocess
import sys
import tempfile

RUN = os.environ.get("SPICEBD_RUN_DIR", "/run/spicebd")
CACHE = os.environ.get("SPICEBD_CACHE") or \
    (os.path.expanduser("~/.cache/spicebd") if os.environ.get("HOME") else "/var/cache/spicebd")
WHERE = os.path.join(CACHE, "qmp")
CONTROL = f"{RUN}/control.sock"
DRIVE, CDROM = "spicebd1", "spicebd0"

if not os.path.isdir(WHERE):
    print(f"TAP version 13\n1..1\nok 1 - qemu.qmp # SKIP not fetched: selftests/vm/setup qmp")
    sys.exit(0)
sys.path.insert(0, WHERE)
# The library is not there before the line above. pylint: disable=wrong-import-position
from qemu.qmp import EventListener, ExecuteError, QMPClient  # noqa: E402
from qemu.qmp.legacy import QEMUMonitorProtocol  # noqa: E402

count = failed = 0


def result(good, name, why=""):
    global count, failed
    count += 1
    failed += not good
    if not good:
        print("# " + repr(why))
    print(f"{'ok' if good else 'not ok'} {count} - {name}", flush=True)


async def refused(client, cls, command, args):
    try:
        got = await client.execute(command, args)
    except ExecuteError as e:
        result(e.error_class == cls, f"{command} is refused: {e}", e.error_class)
    else:
        result(False, f"{command} is refused", got)


def block(answer, drive):
    return [b for b in answer if b["device"] == drive][0]


async def tray_events(client):
    with client.listener("DEVICE_TRAY_MOVED") as moved:
        await client.execute("blockdev-open-tray", {"id": CDROM})
        await client.execute("blockdev-close-tray", {"id": CDROM})
        got = [(await asyncio.wait_for(moved.get(), 30))["data"]["tray-open"] for _ in "ab"]
    result(got == [True, False], "two events of the tray", got)


async def media(client, image):
    node = {"driver": "raw", "node-name": "stock", "read-only": True,
            "file": {"driver": "file", "filename": image}}
    await client.execute("blockdev-add", node)
    await client.execute("blockdev-insert-medium", {"id": DRIVE, "node-name": "stock"})
    got = block(await client.execute("query-block"), DRIVE)
    result(got["inserted"]["node-name"] == "stock" and got["inserted"]["ro"], "a node inserted", got)
    await client.execute("eject", {"id": DRIVE, "force": True})
    await client.execute("blockdev-del", {"node-name": "stock"})
    await client.execute("blockdev-change-medium",
                         {"id": DRIVE, "filename": image, "format": "raw"})
    got = block(await client.execute("query-block"), DRIVE)
    result(got["inserted"]["file"] == image, "a medium changed", got)
    await client.execute("eject", {"id": DRIVE, "force": True})
    fd = os.open(image, os.O_RDONLY)
    client.send_fd_scm(fd)
    os.close(fd)
    got = await client.execute("add-fd")
    result("fdset-id" in got, "a descriptor passed", got)
    await client.execute("remove-fd", {"fdset-id": got["fdset-id"]})


async def client_library(image):
    client = QMPClient("spicebd")
    everything = EventListener()
    client.register_listener(everything)
    await client.connect(CONTROL)
    result(client.greeting is not None, "connected, and negotiated", client.greeting)
    got = await client.execute("query-version")
    result("qemu" in got, "query-version", got)
    names = [c["name"] for c in await client.execute("query-commands")]
    schema = {e["name"]: e for e in await client.execute("query-qmp-schema")}
    result(all(schema[n]["meta-type"] == "command" for n in names), "query-qmp-schema", names)
    many = await asyncio.gather(*[client.execute("query-name") for _ in range(100)])
    result(many == [{"name": "spicebdd"}] * 100, "a hundred commands at once")
    await tray_events(client)
    await media(client, image)
    await refused(client, "DeviceNotFound", "eject", {"id": "nothing"})
    await refused(client, "CommandNotFound", "human-monitor-command", {"command-line": "info"})
    await refused(client, "GenericError", "blockdev-del", {"node-name": "nothing"})
    result(not everything.empty(), "a listener to everything heard something")
    await client.disconnect()


def older_interface():
    asyncio.set_event_loop(asyncio.new_event_loop())  # it takes the thread's
    q = QEMUMonitorProtocol(CONTROL)
    q.connect()
    result(q.command("query-status")["running"], "the older interface")
    q.command("blockdev-open-tray", id=CDROM)
    got = q.pull_event(wait=30.0)
    result(got["event"] == "DEVICE_TRAY_MOVED", "and its events", got)
    q.command("blockdev-close-tray", id=CDROM)
    q.close()


def shell():
    """Its own way of writing nested arguments, too."""
    lines = ("query-status\nblockdev-open-tray id=spicebd0\nblockdev-close-tray id=spicebd0\n"
             "blockdev-add driver=nbd node-name=sh "
             'server={"type":"unix","path":"/nothing"}\n'
             "query-named-block-nodes\nblockdev-del node-name=sh\nfrobnicate\n")
    p = subprocess.run([sys.executable, "-m", "qemu.qmp.qmp_shell", CONTROL], input=lines,
                       capture_output=True, text=True, timeout=100, check=False,
                       env={**os.environ, "PYTHONPATH": WHERE, "HOME": "/tmp"})
    good = ("Connected to QEMU" in p.stdout and '"running": true' in p.stdout.replace("True", "true")
            and "nbd+unix:" in p.stdout and "CommandNotFound" in p.stdout
            and p.stdout.count("GenericError") == 0)
    result(good, "qmp-shell", p.stdout + p.stderr)


def main():
    print("TAP version 13")
    with tempfile.TemporaryDirectory() as d:
        image = d + "/stock.img"
        with open(image, "wb") as f:
            f.truncate(4 << 20)
        asyncio.run(client_library(image))
    older_interface()
    shell()
    print(f"1..{count}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
