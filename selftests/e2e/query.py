#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-only
# timeout: 400
"""The object of a drive: as Documentation/drive.schema.json says in every situation,
and the same by QMP and by spicebdctl status --json."""
import json
import os

import jsonschema

from snapshot import DRIVE, MIB, SIZE, Snapshots, client, patterns, read, write
from traylib import Qmp, Table, same, sh, until

HERE = os.path.dirname(os.path.abspath(__file__))
with open(f"{HERE}/../../Documentation/drive.schema.json", encoding="utf-8") as schema_file:
    SCHEMA = json.load(schema_file)
jsonschema.Draft7Validator.check_schema(SCHEMA)
VALIDATOR = jsonschema.Draft7Validator(SCHEMA)


def valid(o):
    e = jsonschema.exceptions.best_match(VALIDATOR.iter_errors(o))
    assert e is None, f"{'/'.join(map(str, e.absolute_path))}: {e.message}: {o}"
    return o


def shape(o):
    """Everything but the numbers, which change"""
    if isinstance(o, dict):
        return {k: shape(v) for k, v in o.items() if k not in ("hold-left-ms", "latency-us",
                                                               "reason")}
    if isinstance(o, list):
        return [shape(v) for v in o]
    return "number" if isinstance(o, int) and not isinstance(o, bool) else o


def both(b, name=DRIVE):
    """The object, valid and the same both ways"""
    by_qmp = valid(b.q.do("spicebd-query", drive=name)[0])
    by_ctl = valid(json.loads(b.ctl("status", name, "--json")))
    same(shape(by_ctl), shape(by_qmp), "status --json and spicebd-query")
    return by_qmp


def settled(b, state):
    until(lambda: b.q.do("spicebd-query", drive=DRIVE)[0]["state"] == state, f"it is {state}")
    return both(b)


def empty(b):
    for name in ("spicebd0", DRIVE):
        o = both(b, name)
        same((o["state"], o["medium"], o["blockers"], o["snapshots"]), ("empty", None, [], []), name)
    for o in json.loads(b.ctl("status", "--json")) + json.loads(b.ctl("list", "--json")):
        valid(o)


def with_a_medium(b):
    with b.medium(patterns):
        before = settled(b, "ready")
        same((before["medium"]["source"]["type"], before["medium"]["source"]["transport"]),
             ("file", "local"), "source")
        write(0x11, 0, MIB)
        read(32 * MIB, MIB)
        after = both(b)
        link, old = after["medium"]["link"], before["medium"]["link"]
        assert link["sent-bytes"] >= old["sent-bytes"] + MIB, (old, link)
        assert link["received-bytes"] >= old["received-bytes"] + MIB, (old, link)
        assert link["latency-us"] > 0, link
        assert after["stats"]["write-bytes"] >= before["stats"]["write-bytes"] + MIB, after
        assert link["connections"] and link["up"], link


def frozen(b):
    with b.medium():
        b.q.do("spicebd-freeze", drive=DRIVE, holder="test")
        o = settled(b, "frozen")
        same([h["name"] for h in o["holders"]], ["test"], "holders")
        assert "frozen by test" in o["reason"], o
        assert any("test" in x["owner"] and "eject" in x["blocks"] for x in o["blockers"]), o
        b.q.do("spicebd-thaw", drive=DRIVE, holder="test")
        settled(b, "ready")


def snapshots(b):
    with b.medium(patterns):
        uri = b.create("--name", "q")
        h = client(uri)
        b.clients(1)
        write(0x11, 0, 4096)
        o = both(b)
        same([(s["name"], s["clients"]) for s in o["snapshots"]], [("q", 1)], "snapshots")
        assert o["snapshots"][0]["copied"] >= 64 << 10, o
        same([x["owner"] for x in o["blockers"]], ["snapshot q"], "blockers")
        text = b.ctl("status", DRIVE)
        assert "snapshot 'q' is exported to 1 client" in text, text
        h.shutdown()
        b.clients(0)
        b.ctl("snapshot", "delete", "q")


def other_sources(b):
    for what, transport in ((["--unix", f"{b.dir}/n.sock"], "unix"), (["--port", "10899"], "tcp")):
        server = b.spawn("nbdkit", "-f", "--exit-with-parent", *what, "memory", "16M")
        uri = f"nbd+unix:///?socket={b.dir}/n.sock" if transport == "unix" else "nbd://127.0.0.1:10899"
        until(lambda: sh(f"nbdinfo --size '{uri}' 2>/dev/null", check=False), "the server listens")
        b.ctl("insert", DRIVE, uri)
        o = settled(b, "ready")
        same((o["medium"]["source"]["type"], o["medium"]["source"]["transport"]), ("nbd", transport),
             "source")
        server.kill()
        server.wait()
        o = settled(b, "reconnecting")
        assert not o["medium"]["link"]["up"] and o["reason"], o
        b.q.do("eject", id=DRIVE, force=True)
        b.settle()


def grown(b):
    """a medium that grows at its server keeps its size until it is inserted again"""
    def resize():
        return b.q.cmd("block_resize", device=DRIVE, size=2 * SIZE)
    resize().bad(f"^drive {DRIVE}: cannot resize its medium: it has no medium$")
    with b.medium() as path:
        os.truncate(path, 2 * SIZE)
        resize().bad(f"^drive {DRIVE}: cannot resize its medium: NBD tells a size only when")
        same(both(b)["medium"]["size"], SIZE, "size")
        same(int(sh(f"blockdev --getsize64 /dev/{DRIVE}")), SIZE, "the device's size")
        b.create("--name", "g")
        resize().bad("cannot resize its medium: it has snapshot 'g'")
        assert any("resize" in x["blocks"] for x in both(b)["blockers"])
        b.ctl("snapshot", "delete", "g")
        b.ctl("eject", DRIVE)
        b.ctl("insert", DRIVE, path, "--read-write")
        b.settle()
        same(settled(b, "ready")["medium"]["size"], 2 * SIZE, "size, inserted again")


def of_everybody(b):
    """the status socket has the same object, without names"""
    q = Qmp("status")
    with b.medium(patterns):
        b.create("--name", "secret")
        b.q.do("spicebd-freeze", drive=DRIVE, holder="holder-secret")
        o = q.do("spicebd-query", drive=DRIVE)[0]
        assert "secret" not in json.dumps(o) and b.dir not in json.dumps(o), o
        same(o["state"], "frozen", "state")
        same((len(o["snapshots"]), len(o["holders"])), (1, 1), "what there is")
        b.q.do("spicebd-thaw", drive=DRIVE, holder="holder-secret")
    q.close()


ROWS = (empty, with_a_medium, frozen, snapshots, other_sources, grown, of_everybody)

if __name__ == "__main__":
    t = Table()
    for fn in ROWS:
        t.add(fn.__doc__ or fn.__name__.replace("_", " "), fn)
    t.main(Snapshots)
