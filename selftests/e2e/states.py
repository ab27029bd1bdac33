#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-only
# timeout: 1500
"""What a drive is, by each of the ways in which that is told, and which command is
refused in which state, and by which words. Each cell of the table is a row; a command
that is refused leaves everything as it was. Documentation/qmp.rst has the same table."""
import os
import re
import select
import signal
import socket
import time

from snapshot import Snapshots
from traylib import PATIENCE, Answer, Qmp, Table, daemon_pid, same, until

HERE = os.path.dirname(os.path.abspath(__file__))
from helper import (A_FORCE, A_INDEX, A_VERDICT, CONDITIONS, EJECT,  # noqa: E402
                    V_INACTIVE, Netlink, attr)

# yes: it is carried out; else why not: REASONS.
CELLS = """
                empty      ready      frozen     held       reconnecting  error      inactive   migrating
insert          yes        medium     frozen     medium     medium        yes        yes        migrating
insert --force  yes        yes        frozen     frozen     yes           yes        yes        migrating
change          yes        yes        frozen     frozen     yes           yes        yes        migrating
eject           yes        yes        frozen     frozen     yes           yes        yes        migrating
eject --force   yes        yes        yes        yes        yes           yes        yes        yes
remove          yes        yes        frozen     frozen     yes           yes        yes        migrating
remove --force  yes        yes        yes        yes        yes           yes        yes        yes
open            yes        yes        frozen     frozen     yes           yes        yes        migrating
open --force    yes        yes        yes        yes        yes           yes        yes        migrating
close           yes        yes        frozen     frozen     yes           yes        yes        migrating
lock            yes        yes        yes        yes        yes           yes        yes        yes
unlock          yes        yes        yes        yes        yes           yes        yes        yes
freeze          yes        yes        yes        yes        lost          yes        yes        migrating
thaw            thawed     thawed     yes        thawed     thawed        thawed     thawed     thawed
snapshot        empty      yes        yes        yes        lost          empty      empty      migrating
snapshot delete -          yes        yes        yes        yes           -          -          -
migrate         empty      yes        frozen     frozen     lost          empty      empty      migrating
resize          empty      size       frozen     frozen     size          empty      empty      migrating
set             yes        yes        yes        yes        yes           yes        yes        yes
delete          yes        medium     frozen     frozen     medium        yes        yes        migrating
delete --force  yes        yes        yes        yes        yes           yes        yes        yes
status          yes        yes        yes        yes        yes           yes        yes        yes
list            yes        yes        yes        yes        yes           yes        yes        yes
"""

REASONS = {
    "medium": "it has a medium: .*: eject it first, or use force$",
    "frozen": "it is frozen by (somebody|start) since [0-9]+ s$",
    "migrating": "it is being migrated$",
    "lost": "the far end is lost",
    "thawed": "is not frozen$|is no holder: it is frozen by start since [0-9]+ s$",
    "empty": "it has no medium($|: .*, [0-9]+ s ago: insert another, or eject$)",
    "size": "NBD tells a size only when a connection is made: eject it and insert it again$",
}

# What the drive is after a command that was carried out, if it is something else then.
AFTER = {
    "insert": "ready", "insert --force": "ready", "change": "ready", "eject": "empty",
    "eject --force": "empty", "remove": "empty", "remove --force": "empty",
    "open": {"ready": "empty", "reconnecting": "empty"},
    "open --force": {"ready": "empty", "frozen": "empty", "reconnecting": "empty"},
    "freeze": {"ready": "frozen", "held": "frozen"},
    "thaw": {"frozen": "ready"},
    "delete": None, "delete --force": None,
}

# Seconds: nothing is to come to its end while the rows are run.
LIMIT = 3600

# What is said of each state: by sysfs, and by spicebdd.
CAUSES = {
    "empty": ("^no medium$", None),
    "ready": ("^requests are answered$", None),
    "frozen": ("^frozen by 1 holder, the first since [0-9]+ s$",
               "^frozen by somebody since [0-9]+ s$"),
    "held": ("^made held [0-9]+ s ago: requests wait for a thaw$",
             "^frozen by start since [0-9]+ s$"),
    "reconnecting": ("^the far end is lost: requests fail in [0-9]+ s$",
                     "^.+: requests fail in [0-9]+ s$"),
    "error": ("^the medium failed [0-9]+ s ago: insert another, or eject$",
              "^medium '.+' was ejected with errors: .+, [0-9]+ s ago: insert another, or eject$"),
    "inactive": ("^the medium moved to another host [0-9]+ s ago: insert another, or eject$",
                 "^the medium moved to another host, [0-9]+ s ago: insert another, or eject$"),
    "migrating": ("^requests are answered$", None),
}


def parse(text):
    """{command: {state: cell}}; what they are called, in their order"""
    lines = [line for line in text.splitlines() if line.strip()]
    states = lines[0].split()
    table = {}
    for line in lines[1:]:
        words = line.split()
        table[" ".join(words[:-len(states)])] = dict(zip(states, words[-len(states):]))
    return states, table


STATES, TABLE = parse(CELLS)
WORD = {s: "ready" if s == "migrating" else s for s in STATES}


class Drive:
    """A drive in one state, made anew when a command has changed it"""

    def __init__(self, b, personality, state, snapshot_first=False):
        self.b, self.q, self.state = b, b.q, state
        self.personality = personality
        self.server = self.path = self.migration = None
        kw = {"hold": True} if state == "held" else \
            {"reconnect_timeout": 1 if state == "error" else LIMIT}
        self.name = self.q.do("spicebd-drive-add", personality=personality, **kw)["drive"]
        if state != "empty":
            self.fill()
        if snapshot_first:
            snapshot(b, self).good()
        getattr(self, f"be_{state}")()
        self.quiet()
        self.base = self.look()
        same(self.base["state"], WORD[state], "its state")

    index = property(lambda self: int(self.name[len("spicebd"):]))

    def query(self):
        found = [d for d in self.q.do("spicebd-query") if d["drive"] == self.name]
        return found[0] if found else None

    def look(self):
        """What no refused command may change"""
        d = self.query()
        return d and {k: d[k] for k in ("state", "tray", "locked-by-admin", "medium",
                                        "generation", "snapshots")} | {
            "holders": [h["name"] for h in d["holders"]], "blockers": [x["owner"] for x in
                                                                        d["blockers"]],
            "medium": d["medium"] and d["medium"]["name"]}

    def word(self, want):
        until(lambda: self.query()["state"] == want, f"the drive is {want}")

    def quiet(self):
        """udev has looked at it, or leaves it alone"""
        self.b.settle()
        until(lambda: not self.query()["openers"], "nobody has it open")

    def fill(self):
        self.path, self.server = self.b.serve()
        a = self.b.insert(self, self.path)
        a.good()
        self.word("held" if self.state == "held" else "ready")
        self.quiet()

    def lose(self):
        self.server.kill()
        self.server.wait()

    # Getting there

    def be_empty(self):
        pass

    def be_ready(self):
        pass

    def be_held(self):
        pass

    def be_frozen(self):
        self.q.do("spicebd-freeze", drive=self.name, holder="somebody", timeout=0)

    def be_reconnecting(self):
        self.lose()
        self.word("reconnecting")
        # its limit runs
        until(lambda: "hold-left-ms" in self.query(), "the kernel knows it")

    def be_error(self):
        self.lose()
        self.word("error")

    def be_inactive(self):
        """As when it was moved: who takes it out says so"""
        self.b.nl.do(EJECT, attr(A_INDEX, self.index) + attr(A_FORCE, b"") +
                     attr(A_VERDICT, V_INACTIVE))
        self.word("inactive")
        until(lambda: not self.query()["medium"], "it is out")

    def be_migrating(self):
        self.begun = time.monotonic()
        self.migration = Migration(self)
        self.migration.begin()

    def fresh(self):
        """A migration whose other side says nothing has an end"""
        if self.migration and time.monotonic() > self.begun + 15:
            self.migration.end()
            self.be_migrating()

    def gone(self):
        if self.query():
            self.q.do("spicebd-drive-del", drive=self.name, force=True)
        until(lambda: not self.query(), "the drive is gone")
        until(lambda: not self.b.snapshots(), "so are its snapshots")
        if self.migration:
            self.migration.over()
        if self.server:
            self.server.kill()
            self.server.wait()
            self.b.children.remove(self.server)


class Migration:
    """To a host that says nothing, over a connection of its own"""

    def __init__(self, drive):
        self.drive = drive
        self.q = Qmp()
        self.here, self.there = socket.socketpair()
        self.here.settimeout(PATIENCE)

    def ask(self):
        self.q.send("spicebd-migrate", fd=self.there.fileno(), drive=self.drive.name,
                    uri="unix:/elsewhere")

    def begin(self):
        self.ask()
        assert b"prepare" in self.here.recv(65536), "the other host hears nothing"

    def over(self):
        """Its command is answered; the answer"""
        a = self.q.receive()
        self.close()
        return a

    def close(self):
        self.q.close()
        self.here.close()
        self.there.close()

    def end(self):
        self.drive.q.do("spicebd-migrate-cancel", drive=self.drive.name)
        self.over().bad("cancelled")
        until(lambda: not self.drive.query()["blockers"], "it is over")


class States(Snapshots):
    def __init__(self):
        super().__init__()
        self.nl = Netlink()
        self.nl.manage()
        self.served = 0
        self.other, _ = self.serve()
        self.bed = None

    def serve(self):
        """A server that can die"""
        self.served += 1
        path = f"{self.dir}/{self.served}.sock"
        server = self.spawn("nbdkit", "-f", "--exit-with-parent", "--unix", path, "memory", "4M")
        until(lambda: os.path.exists(path), "the server listens")
        return path, server

    def insert(self, d, path=None, **kw):
        return self.q.cmd("spicebd-insert", drive=d.name,
                          source=f"nbd+unix:///?socket={path or self.other}", **kw)

    def drive(self, state, personality, snapshot_first=False):
        """One in this state: the last one, if it still is what it was"""
        d = self.bed
        if d and not snapshot_first and (d.state, d.personality) == (state, personality) and d.look() == d.base:
            d.fresh()
            return d
        self.drop()
        self.bed = Drive(self, personality, state, snapshot_first)
        return self.bed

    def drop(self):
        if self.bed:
            d, self.bed = self.bed, None
            d.gone()

    def __exit__(self, *exc):
        self.drop()
        super().__exit__(*exc)


# The commands: each answers. What undoes it, if it was carried out, is UNDO.


def snapshot(b, d):
    fd = os.open(b.scratch, os.O_TMPFILE | os.O_RDWR, 0o600)
    try:
        return b.q.cmd("spicebd-snapshot-create", drive=d.name, name="s", scratch=b.q.add_fd(fd))
    finally:
        os.close(fd)


def migrate(b, d):
    """Of one that begins it is enough to know that it has"""
    if d.migration:
        return b.q.cmd("spicebd-migrate", drive=d.name, uri="unix:/elsewhere")
    m = Migration(d)
    m.ask()
    while True:
        ready, _, _ = select.select([m.here, m.q.sock], [], [], PATIENCE)
        assert ready, "it neither begins nor is refused"
        if m.here in ready:
            m.end()
            return None
        o = m.q.next()
        if o:
            m.close()
            return Answer(None, o["error"]["class"], o["error"]["desc"])


def by_netlink(b, d):
    """There is no such command of spicebdd"""
    b.nl.set(d.index, stall_timeout=31)


def plain(name, key="drive", **kw):
    return lambda b, d: b.q.cmd(name, **{key: d.name}, **kw)


def by_ctl(*argv):
    def run(b, d):
        assert d.name in b.ctl(*argv, *([d.name] if argv == ("status",) else [])), "not there"
    return run


WAIT = {"timeout": PATIENCE}
COMMANDS = {
    "insert": lambda b, d: b.insert(d),
    "insert --force": lambda b, d: b.insert(d, force=True),
    "change": lambda b, d: b.q.cmd("blockdev-change-medium", id=d.name, read_only_mode="read-write",
                                   filename=f"nbd+unix:///?socket={b.other}", **WAIT),
    "eject": plain("eject", "id", **WAIT),
    "eject --force": plain("eject", "id", force=True),
    "remove": plain("blockdev-remove-medium", "id", **WAIT),
    "remove --force": plain("blockdev-remove-medium", "id", force=True),
    "open": plain("blockdev-open-tray", "id", wait=True, **WAIT),
    "open --force": plain("blockdev-open-tray", "id", force=True),
    "close": plain("blockdev-close-tray", "id"),
    "lock": plain("spicebd-lock"),
    "unlock": plain("spicebd-unlock"),
    "freeze": lambda b, d: b.q.cmd("spicebd-freeze", drive=d.name, holder="another",
                                   timeout=2 if d.state == "reconnecting" else 0),
    "thaw": plain("spicebd-thaw", holder="somebody"),
    "snapshot": snapshot,
    "snapshot delete": lambda b, d: b.q.cmd("spicebd-snapshot-delete", name="s"),
    "migrate": migrate,
    "resize": plain("block_resize", "id", size=8 << 20),
    "set": by_netlink,
    "delete": plain("spicebd-drive-del"),
    "delete --force": plain("spicebd-drive-del", force=True),
    "status": by_ctl("status"),
    "list": by_ctl("list"),
}
UNDO = {
    "lock": plain("spicebd-unlock"),
    "freeze": plain("spicebd-thaw", holder="another"),
    "snapshot": lambda b, d: b.q.cmd("spicebd-snapshot-delete", name="s", force=True),
}


def after(command, state):
    """Its state then; False: as before"""
    to = AFTER.get(command, False)
    if isinstance(to, dict):
        to = to.get(state, False)
    # Made held it stays, whatever is in it.
    if to == "empty" and state == "held":
        to = False
    return to


def cell(b, state, command, want):
    d = b.drive(state, "cdrom" if command.split()[0] in ("open", "close") else "disk",
                command == "snapshot delete")
    a = COMMANDS[command](b, d)
    if want != "yes":
        a.bad(REASONS[want])
        assert d.name in a.desc, f"which drive? {a}"
        same(d.look(), d.base, f"after it was refused ({a.desc})")
        return
    if a is not None:
        a.good()
    to = after(command, state)
    if to is None:
        until(lambda: not d.query(), "it is gone")
        return
    until(lambda: d.query()["state"] == (to or WORD[state]), f"it is {to or WORD[state]}")
    if command in UNDO:
        UNDO[command](b, d).good()
        until(lambda: not d.query()["snapshots"], "nothing is left of it")
    d.quiet()


def everywhere(b, state):
    """One word by netlink, sysfs, QMP, status and list, each with its cause"""
    d = b.drive(state, "disk")
    now = d.query()
    words = {"QMP": now["state"], "netlink": CONDITIONS[b.nl.drive(d.index)["condition"]]}
    with open(f"/sys/block/{d.name}/spicebd/state", encoding="ascii") as f:
        words["sysfs"] = f.read().strip()
    with open(f"/sys/block/{d.name}/spicebd/cause", encoding="ascii") as f:
        cause = f.read().strip()
    said = re.search("^  state +([a-z]+)(?:: (.*))?$", b.ctl("status", d.name), re.M)
    words["status"] = said.group(1)
    words["list"] = re.search(f"^{d.name} +disk +([a-z]+)", b.ctl("list"), re.M).group(1)
    same(words, dict.fromkeys(words, WORD[state]), "what it is")
    block, = [x for x in b.q.do("query-block") if x["device"] == d.name]
    same(block["io-status"], "failed" if state == "error" else "ok", "in QEMU's words")
    of_kernel, of_daemon = CAUSES[state]
    assert re.search(of_kernel, cause), f"sysfs: {cause!r}"
    for who, text in (("QMP", now.get("reason")), ("status", said.group(2))):
        if of_daemon is None:
            same(text, None, who)
        else:
            assert text and re.search(of_daemon, text), f"{who}: {text!r}"
    blockers = {o for x in now["blockers"] for o in x["blocks"]}
    refused = {c for c in TABLE if TABLE[c][state] in ("frozen", "migrating", "lost")}
    names = {"open": "tray", "close": "tray"}
    # Of a far end that is lost freeze is told by the kernel, when it was tried.
    for c in refused - {"insert --force", "open --force"} - \
            ({"freeze"} if state == "reconnecting" else set()):
        assert names.get(c, c) in blockers, f"{c} is refused, and not among {blockers}"


def seconds(text):
    return int(re.search("([0-9]+) s(?: ago|$)", text).group(1))


def counts(b, state, step):
    """The seconds pass, by all that tell them"""
    d = b.drive(state, "disk")
    def told():
        with open(f"/sys/block/{d.name}/spicebd/cause", encoding="ascii") as f:
            now = d.query()
            return (seconds(f.read().strip()), seconds(now["reason"]),
                    now.get("hold-left-ms", 0))
    first = told()
    if state == "reconnecting":
        assert all(0 < n <= LIMIT for n in first[:2]) and 0 < first[2] <= LIMIT * 1000, first
    until(lambda: all(step * (n - f) > 0 for n, f in zip(told()[:2], first)), "they pass")
    if state == "reconnecting":
        assert told()[2] < first[2], "hold-left-ms"


def restarted(b):
    """Another spicebdd knows that it failed and when, if not why"""
    d = b.drive("error", "disk")
    os.kill(daemon_pid(), signal.SIGKILL)
    b.again()
    d.q = b.q
    now = d.query()
    same((now["state"], now["medium"]), ("error", None), "what it is")
    assert re.search("^the medium failed, [0-9]+ s ago: insert another, or eject$",
                     now.get("reason", "")), now.get("reason")
    b.drop()


def documented(b):
    """Documentation/qmp.rst has this table"""
    with open(f"{HERE}/../../Documentation/qmp.rst", encoding="utf-8") as f:
        page = f.read()
    block = re.search(r"By the state of the drive::\n\n((?:    .*\n|\n)+)", page)
    assert block, "there is no table"
    same(parse(block.group(1)), (STATES, TABLE), "the table")


def main():
    t = Table()
    t.add("the table is documented", documented)
    for state in STATES:
        t.add(f"{state}: one word, with its cause", everywhere, state)
        if state in ("reconnecting", "error"):
            t.add(f"{state}: the seconds pass", counts, state, -1 if state == "reconnecting" else 1)
        last = ("open", "open --force", "close")
        for command in sorted(TABLE, key=last.__contains__):
            want = TABLE[command][state]
            if want != "-":
                t.add(f"{state}: {command}: {want}", cell, state, command, want)
        if state == "error":
            t.add("error: another spicebdd", restarted)
    t.main(States)


if __name__ == "__main__":
    main()
