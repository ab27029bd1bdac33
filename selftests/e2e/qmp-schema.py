#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-only
# timeout: 300
"""query-qmp-schema tells the truth: everything that it names is defined, every
command takes what it says and answers what it says, and so do the events."""
import json

from qmplib import Schema
from traylib import CDROM, DISK, DRIVES, Bench, Qmp, Table, until

DISK_DRIVE, CD_DRIVE = DRIVES[DISK], DRIVES[CDROM]
WRONG = {"str": 5, "int": "five", "bool": "yes"}


def schema(b):
    if not hasattr(b, "schema"):
        b.schema = Schema(b.q.do("query-qmp-schema"))
    return b.schema


def complete(b):
    s = schema(b)
    used = set()
    for e in s.entities:
        for name in s.references(e):
            assert name in s.of, f"{e['name']} names {name}, which is not defined"
            used.add(name)
    tops = {e["name"] for m in ("command", "event") for e in s.all(m)}
    assert set(s.of) == used | tops, f"nobody uses {set(s.of) - used - tops}"
    s.check_return("query-qmp-schema", s.entities)


def the_same_as_query_commands(b):
    s = schema(b)
    for query, meta in (("query-commands", "command"), ("query-events", "event")):
        got = sorted(o["name"] for o in b.q.do(query))
        assert got == sorted(e["name"] for e in s.all(meta)), got


def of_the_status_socket(b):
    q = Qmp("status")
    s = Schema(q.do("query-qmp-schema"))
    got = sorted(e["name"] for e in s.all("command"))
    assert got == sorted(o["name"] for o in q.do("query-commands")), got
    for e in s.entities:
        assert all(n in s.of for n in s.references(e)), e
    q.close()


def queries_answer_what_it_says(b):
    s = schema(b)
    image = b.image("schema")
    b.q.do("spicebd-insert", source=image.path, drive=DISK_DRIVE)
    b.add_node(driver="file", filename=image.path, read_only=True)
    for e in s.all("command"):
        if e["name"].startswith(("query-", "spicebd-query")):
            s.check_return(e["name"], b.q.do(e["name"]))
    b.q.do("eject", id=DISK_DRIVE, force=True)
    s.check_return("spicebd-query", b.q.do("spicebd-query", drive=DISK_DRIVE))


def others_answer_what_it_says(b):
    s, q = schema(b), b.q
    image = b.image("others")
    made = q.do("spicebd-drive-add", personality="disk")
    s.check_return("spicebd-drive-add", made)
    name = made["drive"]
    s.check_return("spicebd-insert", q.do("spicebd-insert", source=image.path, drive=name))
    for command in ("spicebd-lock", "spicebd-unlock"):
        s.check_return(command, q.do(command, drive=name))
    s.check_return("eject", q.do("eject", id=name, force=True))
    s.check_return("spicebd-drive-del", q.do("spicebd-drive-del", drive=name, force=True))
    for command in ("blockdev-open-tray", "blockdev-close-tray"):
        s.check_return(command, q.do(command, id=CD_DRIVE))


def events_are_as_it_says(b):
    """Those of everything that was done so far."""
    s = schema(b)
    b.q.do("spicebd-lock", drive=CD_DRIVE)
    b.q.do("spicebd-unlock", drive=CD_DRIVE)
    b.drives[CDROM].bench.marker.flush()
    kinds = {e["event"] for e in b.q.events}
    for e in b.q.events:
        s.check_event(e)
    wanted = {"DEVICE_TRAY_MOVED", "SPICEBD_DRIVE_ADDED", "SPICEBD_DRIVE_REMOVED",
              "SPICEBD_LOCK_CHANGED", "SPICEBD_MEDIUM_CHANGED"}
    assert wanted <= kinds, wanted - kinds


def cmd(b, e, args):
    b.q.sock.sendall(json.dumps({"execute": e["name"], "arguments": args}).encode())
    return b.q.receive()


def commands_take_what_it_says(b):
    """Each member: left out, of another type; and one that there is not. None
    of these gets as far as being done."""
    s = schema(b)
    for e in s.all("command"):
        if e["name"] == "qmp_capabilities":
            continue
        arg = s.of[e["arg-type"]]
        cmd(b, e, {**sample(s, arg), "frobnicate": 1}).bad(
            "'frobnicate' is unexpected")
        for m in arg["members"]:
            rest = sample(s, arg)
            rest.pop(m["name"], None)
            if "default" not in m and m["name"] != arg.get("tag"):
                cmd(b, e, rest).bad(f"'{m['name']}' is missing")
            if m["type"] in WRONG:
                rest[m["name"]] = WRONG[m["type"]]
                cmd(b, e, rest).bad(f"type for '{m['name']}'")
            elif s.of[m["type"]]["meta-type"] == "enum":
                rest[m["name"]] = "frobnicate"
                cmd(b, e, rest).bad(f"'{m['name']}' does not accept")


def sample(s, e):
    """The least value that an object of that type can have."""
    value = {}
    for m in e["members"]:
        if "default" not in m:
            value[m["name"]] = sample_of(s, m["type"])
    for m in s.members(e, value):
        if "default" not in m and m["name"] not in value:
            value[m["name"]] = sample_of(s, m["type"])
    return value


def sample_of(s, name):
    e = s.of[name]
    meta = e["meta-type"]
    if meta == "builtin":
        return {"string": "x", "int": 1, "boolean": False}.get(e["json-type"])
    if meta == "enum":
        return e["members"][0]["name"]
    if meta == "object":
        return sample(s, e)
    return [] if meta == "array" else sample_of(s, e["members"][0]["type"])


def nested_nodes(b):
    """Format over protocol, inside and by reference, as QEMU's clients do."""
    q, image = b.q, b.image("nested")
    q.do("blockdev-add", driver="raw", node_name="fmt", read_only=True,
         file={"driver": "file", "filename": image.path, "node-name": "prot"})
    names = {n["node-name"] for n in q.do("query-named-block-nodes")}
    assert {"fmt", "prot"} <= names, names
    q.cmd("blockdev-del", node_name="prot").bad("Block device prot is in use")
    q.do("blockdev-insert-medium", id=DISK_DRIVE, node_name="fmt")
    got = b.drives[DISK].block()["inserted"]
    assert got["node-name"] == "fmt" and got["ro"] and got["file"] == image.path, got
    q.cmd("blockdev-del", node_name="fmt").bad("Node fmt is in use")
    q.do("eject", id=DISK_DRIVE, force=True)
    q.do("blockdev-del", node_name="fmt")
    q.do("blockdev-add", driver="raw", node_name="fmt", file="prot")
    q.cmd("blockdev-insert-medium", id=DISK_DRIVE, node_name="nothing").bad("'nothing' not found")
    q.do("blockdev-insert-medium", id=DISK_DRIVE, node_name="fmt")
    assert not b.drives[DISK].block()["inserted"]["ro"]
    q.do("eject", id=DISK_DRIVE, force=True)
    q.do("blockdev-del", node_name="fmt")
    q.do("blockdev-del", node_name="prot")
    q.cmd("blockdev-del", node_name="prot").bad("Failed to find node")


def wrong_nodes(b):
    q, image = b.q, b.image("wrong")
    f = {"driver": "file", "filename": image.path}
    before = q.do("query-named-block-nodes")
    q.cmd("blockdev-add", **f).bad("'node-name' must be specified")
    q.cmd("blockdev-add", node_name="0x", **f).bad("Invalid node-name")
    q.cmd("blockdev-add", driver="qcow2", node_name="n").bad("does not accept value 'qcow2'")
    q.cmd("blockdev-add", driver="raw", node_name="n", file={**f, "node-name": "n"}).bad("Duplicate")
    q.cmd("blockdev-add", driver="raw", node_name="n", file="nothing").bad("nothing")
    q.cmd("blockdev-add", driver="raw", node_name="n", file=5).bad("'file', expected: BlockdevRef")
    q.cmd("blockdev-add", driver="raw", node_name="n",
          file={"driver": "nbd", "server": {"type": "unix"}}).bad(r"'file\.server\.path' is missing")
    q.cmd("blockdev-add", driver="nbd", node_name="n",
          server={"type": "inet", "host": "h", "port": "1", "path": "p"}).bad("'server.path' is unexp")
    deep = f
    for _ in range(12):
        deep = {"driver": "raw", "file": deep}
    q.cmd("blockdev-add", node_name="n", **deep).bad("nested too deeply")
    assert q.do("query-named-block-nodes") == before, "a node was left behind"


def ids_of_any_type(b):
    q = Qmp()
    for i in (0, -1, 2.5, "x", None, True, [], [1, {"a": None}], {}, {"id": "id"}):
        q.sock.sendall(json.dumps({"execute": "query-name", "id": i}).encode())
        o = q.read()
        assert "id" in o and o["id"] == i and isinstance(o["id"], type(i)), (i, o)
    q.sock.sendall(b'{"execute":"query-name"}')
    assert "id" not in q.read()
    q.close()


def pipelined(b):
    """Five hundred at once, answered in order."""
    q = Qmp()
    text = "".join(json.dumps({"execute": "query-name", "id": i}) for i in range(500))
    q.sock.sendall(text.encode())
    got = [q.read()["id"] for _ in range(500)]
    assert got == list(range(500)), got
    q.close()


def capabilities(b):
    q = Qmp(negotiate=False)
    assert q.greeting["QMP"]["capabilities"] == [], q.greeting
    q.cmd("query-name").bad("Expecting capabilities negotiation", "CommandNotFound")
    q.cmd("qmp_capabilities", enable=["oob"]).bad("does not accept|not available|not support")
    q.do("qmp_capabilities", enable=[])
    q.cmd("qmp_capabilities").bad("already complete", "CommandNotFound")
    q.do("query-name")
    q.close()


def two_of_many_clients_hear_events(b):
    others = [Qmp(), Qmp("status")]
    before = [len(q.events) for q in others]
    b.q.do("blockdev-open-tray", id=CD_DRIVE)
    b.q.do("blockdev-close-tray", id=CD_DRIVE)
    for q, n in zip(others, before):
        until(lambda q=q: q.do("query-name") and
              sum(e["event"] == "DEVICE_TRAY_MOVED" for e in q.events[n:]) == 2, "both hear both")
        for e in q.events:
            schema(b).check_event(e)
            assert set(e["timestamp"]) == {"seconds", "microseconds"}, e
        q.close()


table = Table()
for fn in (complete, the_same_as_query_commands, of_the_status_socket,
           queries_answer_what_it_says, others_answer_what_it_says, events_are_as_it_says,
           commands_take_what_it_says, nested_nodes, wrong_nodes, ids_of_any_type, pipelined,
           capabilities, two_of_many_clients_hear_events):
    table.add(fn.__name__.replace("_", " "), fn)

if __name__ == "__main__":
    table.main(Bench)
