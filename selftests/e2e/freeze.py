#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-only
# timeout: 400
"""Freeze and thaw: by QMP, by spicebdctl with and without spicebdd; holders,
limits, dead far ends, other verbs meanwhile, held drives."""
import contextlib
import json
import os
import re
import signal
import socket
import subprocess

from traylib import (CDROM, DISK, DRIVES, PATIENCE, Bench, Qmp, Table, daemon_pid, same, sh,
                     until)

DISK_DRIVE, CD_DRIVE = DRIVES[DISK], DRIVES[CDROM]
MIB = 1 << 20
RECORD = f"/run/spicebd/fsfreeze/{DISK_DRIVE}"


class Far:
    """A writable medium behind an NBD server that logs what it is asked for."""

    all = []

    def __init__(self, b, label, drive=DISK_DRIVE, size=4 * MIB, prepare=None):
        # Of a row that failed.
        for f in self.all:
            f.go_on()
        self.all.append(self)
        self.b, self.log = b, f"{b.dir}/{label}.log"
        self.export = b.export(label, "--filter=log", f"logfile={self.log}", size=size)
        self.pid = b.children[-1].pid
        if prepare:
            prepare(self.export.file)
        b.drives[DISK].empty()
        b.q.do("spicebd-insert", source=self.export.path, drive=drive,
               read_only_mode="read-write")
        b.drives[DISK].settle()

    def stop(self):
        """And sees that none of its threads runs: until one has taken the signal, the
        others answer."""
        os.kill(self.pid, signal.SIGSTOP)
        until(self.stands, "it stands still")

    def stands(self):
        for thread in os.listdir(f"/proc/{self.pid}/task"):
            with open(f"/proc/{self.pid}/task/{thread}/stat", encoding="ascii") as f:
                if f.read().rpartition(") ")[2][0] != "T":
                    return False
        return True

    def go_on(self):
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGCONT)

    def asked(self, what):
        """How many requests of a kind have come, Write or Flush."""
        with open(self.log, encoding="ascii", errors="replace") as f:
            return len(re.findall(rf" {what} id=\d+", f.read()))


class Unsynced:
    """A writable medium, all zeros, whose server's flushes fail when they are to."""

    def __init__(self, b, label, drive=DISK_DRIVE):
        self.flag = f"{b.dir}/{label}.fails"
        where = f"{b.dir}/{label}.sock"
        b.spawn("nbdkit", "-f", "-U", where, "-P", f"{where}.pid", "eval",
                f"get_size=echo {4 * MIB}", "pread=head -c $3 /dev/zero", "can_write=exit 0",
                "pwrite=cat >/dev/null", "can_flush=exit 0",
                f"flush=if [ -e {self.flag} ]; then echo EIO it cannot >&2; exit 1; fi",
                stderr=subprocess.DEVNULL)
        until(lambda: os.path.exists(f"{where}.pid"), "nbdkit listens")
        b.q.do("spicebd-insert", source=f"nbd+unix:///?socket={where}", drive=drive,
               read_only_mode="read-write")
        sh("udevadm settle")
        until(lambda: not query(b, drive)["openers"], "nobody uses it")

    def fail(self, does):
        if not does:
            os.unlink(self.flag)
            return
        with open(self.flag, "w", encoding="ascii"):
            pass


class Writer:
    """A write of 4 KiB to the device, that may have to wait."""

    def __init__(self, b, n=1, node="/dev/" + DISK_DRIVE):
        self.p = b.spawn("dd", "if=/dev/urandom", f"of={node}", "bs=4k", f"seek={n}", "count=1",
                         "oflag=direct", "conv=notrunc", stderr=subprocess.DEVNULL)

    def waits(self):
        return self.p.poll() is None

    def good(self):
        same(self.p.wait(PATIENCE), 0, "the writer's exit status")

    def bad(self):
        assert self.p.wait(PATIENCE), "the writer succeeded"


def query(b, name=DISK_DRIVE):
    return b.q.do("spicebd-query", drive=name)[0]


def holders(b, name=DISK_DRIVE):
    return [h["name"] for h in query(b, name)["holders"]]


def held_one(b, name=DISK_DRIVE):
    until(lambda: query(b, name)["held"], "a request is held")


def thawed(b, *names):
    for name in names or (DISK_DRIVE,):
        q = query(b, name)
        same((q["freeze"], q["holders"]), ("thawed", []), name)


def event(b, name, test=lambda d: True):
    """Until such an event has come."""
    def seen():
        b.q.do("query-name")
        return [e["data"] for e in b.q.events if e["event"] == name and test(e["data"])]
    return until(seen, f"an event {name}")[0]


def ctl(*args, run_dir=None, status=0, words=None):
    env = dict(os.environ, SPICEBD_RUN_DIR=run_dir) if run_dir else None
    p = subprocess.run(["spicebdctl", *args], capture_output=True, text=True, env=env,
                       timeout=120, check=False)
    same(p.returncode, status, f"spicebdctl {args}: {p.stdout}{p.stderr}")
    if words:
        assert re.search(words, p.stdout + p.stderr), f"{words}: {p.stdout}{p.stderr}"
        assert not status or p.stderr.count("\n") == 1, p.stderr
    return p.stdout


def drained_flushed_and_quiet(b):
    far = Far(b, "quiet")
    errors = query(b)["stats"]["errors"]
    w = Writer(b)
    w.good()
    flushes = far.asked("Flush")
    got = b.q.do("spicebd-freeze", drive=DISK_DRIVE)
    same(got[0]["drive"], DISK_DRIVE, "the answer")
    assert 0 < got[0]["left-ms"] <= 60000, got
    assert far.asked("Flush") > flushes, "it answered without a flush"
    q = query(b)
    same((q["freeze"], q["in-flight"]), ("frozen", 0), "state")
    writes = far.asked("Write")
    w = Writer(b, 2)
    held_one(b)
    # What is let through would have come before this: one thread, one socket.
    b.marker.flush()
    same(far.asked("Write"), writes, "writes of a frozen drive")
    assert w.waits()
    b.q.do("spicebd-thaw", drive=DISK_DRIVE)
    w.good()
    same(far.asked("Write"), writes + 1, "writes afterwards")
    thawed(b)
    same(query(b)["stats"]["errors"], errors, "errors")


def two_holders(b):
    b.q.events.clear()
    b.q.do("spicebd-freeze", drive=DISK_DRIVE)
    b.q.do("spicebd-freeze", drive=DISK_DRIVE, holder="backup", timeout=0)
    q = query(b)
    same([h["name"] for h in q["holders"]], ["admin", "backup"], "holders")
    assert 0 < q["holders"][0]["left-ms"] <= 60000 and "left-ms" not in q["holders"][1], q
    status = Qmp("status")
    for h in status.do("spicebd-query", drive=DISK_DRIVE)[0]["holders"]:
        assert "name" not in h and "since-ms" in h, h
    status.cmd("spicebd-freeze").bad("not allowed", "CommandNotFound")
    status.close()
    b.q.cmd("spicebd-freeze", drive=DISK_DRIVE, holder="backup").bad(
        "'backup' is a holder already: it is frozen by admin since \\d+ s.*backup since")
    b.q.cmd("spicebd-thaw", drive=DISK_DRIVE, holder="nobody").bad(
        "'nobody' is no holder: it is frozen by")
    w = Writer(b)
    held_one(b)
    b.q.do("spicebd-thaw", drive=DISK_DRIVE)
    same(query(b)["freeze"], "frozen", "with one holder left")
    assert w.waits()
    b.q.do("spicebd-thaw", holder="backup")
    w.good()
    b.q.cmd("spicebd-thaw", drive=DISK_DRIVE).bad(f"{DISK_DRIVE} is not frozen")
    b.q.cmd("spicebd-thaw").bad("'admin' has no drive frozen")
    event(b, "SPICEBD_FREEZE", lambda d: d["freeze"] == "frozen" and
          d["holders"] == ["admin", "backup"])
    event(b, "SPICEBD_FREEZE", lambda d: d["freeze"] == "thawed" and d["holders"] == [])


def names_and_arguments(b):
    for name in ("", "a b", "x" * 32, "-x", ".x", "a/b", "a\n"):
        b.q.cmd("spicebd-freeze", drive=DISK_DRIVE, holder=name).bad("'holder' is 1 to 31")
    for t in (-1, 86401):
        b.q.cmd("spicebd-freeze", drive=DISK_DRIVE, timeout=t).bad("'timeout' is 0 to")
    b.q.cmd("spicebd-freeze", drive="spicebd63").bad("not found", "DeviceNotFound")
    b.q.cmd("spicebd-freeze", drives=[DISK_DRIVE, DISK_DRIVE]).bad("named twice")
    b.q.cmd("spicebd-freeze", drive=DISK_DRIVE, drives=[CD_DRIVE]).bad("exclude")
    b.q.do("spicebd-freeze", drive=DISK_DRIVE, holder="x" * 31)
    b.q.do("spicebd-thaw", drive=DISK_DRIVE, holder="x" * 31)
    for i in range(16):
        b.q.do("spicebd-freeze", drive=DISK_DRIVE, holder=f"h{i}")
    b.q.cmd("spicebd-freeze", drive=DISK_DRIVE, holder="h16").bad("as many holders")
    for i in range(16):
        b.q.do("spicebd-thaw", drive=DISK_DRIVE, holder=f"h{i}")
    thawed(b)


def all_or_none(b):
    far = Far(b, "all")
    drives = {d["drive"] for d in b.q.do("spicebd-query")}
    same({d["drive"] for d in b.q.do("spicebd-freeze")}, drives, "frozen")
    same({query(b, d)["freeze"] for d in drives}, {"frozen"}, "all")
    b.q.do("spicebd-thaw")
    thawed(b, *drives)
    Writer(b).good()
    far.stop()
    b.q.cmd("spicebd-freeze", timeout=2).bad(f"drive {DISK_DRIVE}: not frozen: the limit came")
    far.go_on()
    thawed(b, *drives)


def a_far_end_that_hangs(b):
    far = Far(b, "hangs")
    far.stop()
    w = Writer(b)
    until(lambda: query(b)["in-flight"], "a request is out")
    b.q.cmd("spicebd-freeze", drive=DISK_DRIVE, timeout=2).bad(
        "not frozen: the limit came first: .*1 request is out")
    thawed(b)
    far.go_on()
    w.good()
    # Nothing is out, not even udev's look at what was written, and that cannot
    # be flushed.
    b.drives[DISK].settle()
    far.stop()
    b.q.cmd("spicebd-freeze", drive=DISK_DRIVE, timeout=2).bad("the limit came first: .*flush")
    thawed(b)
    far.go_on()
    b.q.do("spicebd-freeze", drive=DISK_DRIVE)
    b.q.do("spicebd-thaw", drive=DISK_DRIVE)


def a_far_end_that_is_lost(b):
    far = Far(b, "lost")
    Writer(b).good()
    b.drives[DISK].settle()
    b.q.events.clear()
    os.kill(far.pid, signal.SIGKILL)
    event(b, "SPICEBD_LINK", lambda d: not d["up"])
    b.q.cmd("spicebd-freeze", drive=DISK_DRIVE, timeout=2).bad(
        "not frozen: the limit came first: the far end is lost: .*flush")
    thawed(b)
    ctl("freeze", DISK_DRIVE, "--timeout", "2", status=1, words="the far end is lost")
    thawed(b)


def a_flush_that_fails(b):
    """Nothing stays frozen of it, and what cannot be on the far end's store is named."""
    b.drives[DISK].empty()
    far = Unsynced(b, "unsynced")
    words = r"not frozen: the flush failed \(Input/output error\): what was written before"
    for run_dir in None, "/nonexistent":
        Writer(b).good()
        far.fail(True)
        b.q.cmd("spicebd-freeze", drive=DISK_DRIVE).bad(words)
        thawed(b)
        ctl("freeze", DISK_DRIVE, run_dir=run_dir, status=1, words=words)
        thawed(b)
        far.fail(False)
        ctl("freeze", DISK_DRIVE, run_dir=run_dir, words="is frozen")
        ctl("thaw", DISK_DRIVE)
    Writer(b).good()
    b.drives[DISK].empty()


def a_spicebdd_that_is_dead(b):
    """And none comes. Who asks hears so, of the kernel within the limit, and who waits for
    the drive goes on when there is one again."""
    far = Far(b, "dead")
    b.drives[DISK].empty()
    b.q.do("spicebd-insert", source=far.export.path, drive=DISK_DRIVE,
           read_only_mode="read-write", resend=True)
    b.drives[DISK].settle()
    Writer(b).good()
    b.drives[DISK].settle()
    # What was acknowledged and not flushed would be the next flush's error.
    b.q.do("spicebd-freeze", drive=DISK_DRIVE)
    b.q.do("spicebd-thaw", drive=DISK_DRIVE)
    daemon = daemon_pid()
    with open(f"/proc/{daemon}/stat", encoding="ascii") as f:
        supervisor = int(f.read().rpartition(")")[2].split()[1])
    os.kill(supervisor, signal.SIGSTOP)
    try:
        os.kill(daemon, signal.SIGKILL)

        def lost():
            with open(f"/sys/block/{DISK_DRIVE}/spicebd/state", encoding="ascii") as f:
                return f.read().strip() == "held"
        until(lost, "the drive has no helper")
        words = r"not frozen: the limit came first: its helper \(spicebdd\) is not there: the flush"
        ctl("freeze", DISK_DRIVE, "--timeout", "2", run_dir="/nonexistent", status=4, words=words)
        w = Writer(b)
        ctl("freeze", DISK_DRIVE, "--timeout", "2", run_dir="/nonexistent", status=4, words=words)
        # Its socket is there, at which it could be started.
        ctl("freeze", DISK_DRIVE, "--timeout", "2", status=4, words="does not answer in time")
        assert w.waits(), "the writer has ended"
    finally:
        os.kill(supervisor, signal.SIGCONT)
        b.again()
    w.good()
    thawed(b)
    flushes = far.asked("Flush")
    b.q.do("spicebd-freeze", drive=DISK_DRIVE)
    assert far.asked("Flush") > flushes, "it answered without a flush"
    b.q.do("spicebd-thaw", drive=DISK_DRIVE)


def a_spicebdd_that_hangs(b):
    """Who asks it hears so, and so does who asks the kernel; the limit counts for both."""
    Far(b, "stopped")
    Writer(b).good()
    b.drives[DISK].settle()
    daemon = daemon_pid()
    os.kill(daemon, signal.SIGSTOP)
    try:
        ctl("freeze", DISK_DRIVE, "--timeout", "2", run_dir="/nonexistent", status=4,
            words="not frozen: the limit came first")
        ctl("freeze", DISK_DRIVE, "--timeout", "2", status=4, words="does not answer in time")
    finally:
        os.kill(daemon, signal.SIGCONT)
    # It hears of the second one now, and that nobody waits for it.
    until(lambda: not holders(b), "nobody holds it")
    thawed(b)
    Writer(b).good()


def the_limit_under_io(b):
    Far(b, "limit")
    b.q.events.clear()
    b.q.do("spicebd-freeze", drive=DISK_DRIVE, holder="short", timeout=5)
    w = Writer(b)
    held_one(b)
    same(event(b, "SPICEBD_FREEZE_EXPIRED"), {"drive": DISK_DRIVE, "holder": "short"}, "event")
    w.good()
    # By which whoever copied the store meanwhile knows that the copy is not good.
    b.q.cmd("spicebd-thaw", drive=DISK_DRIVE, holder="short").bad(f"{DISK_DRIVE} is not frozen")
    b.q.do("spicebd-freeze", drive=DISK_DRIVE, holder="other")
    b.q.cmd("spicebd-thaw", drive=DISK_DRIVE, holder="short").bad("'short' is no holder")
    b.q.do("spicebd-thaw", drive=DISK_DRIVE, holder="other")
    thawed(b)


def clock_stands_while_frozen(b):
    """The far end is lost for longer than the drive's limit, and back."""
    far = Far(b, "clock")
    sh(f"spicebdctl del {DISK_DRIVE} --force")
    until(lambda: not os.path.exists(f"/sys/block/{DISK_DRIVE}"), "it is deleted")
    b.q.do("spicebd-drive-add", personality=DISK, index=1, reconnect_timeout=2)
    b.q.do("spicebd-insert", source=far.export.path, drive=DISK_DRIVE,
           read_only_mode="read-write", resend=True)
    b.drives[DISK].settle()
    b.q.do("spicebd-freeze", drive=DISK_DRIVE)
    b.q.events.clear()
    os.kill(far.pid, signal.SIGKILL)
    event(b, "SPICEBD_LINK", lambda d: not d["up"])
    w = Writer(b)
    # Another drive's clock, of the same length: when that has run, ours has stood.
    name = b.q.do("spicebd-drive-add", personality=DISK)["drive"]
    b.q.do("spicebd-freeze", drive=name, holder="clock", timeout=6)
    event(b, "SPICEBD_FREEZE_EXPIRED", lambda d: d["drive"] == name)
    assert query(b)["medium"], "the medium was ejected though its clock stands"
    assert w.waits(), "a request failed while frozen"
    os.unlink(far.export.socket)
    b.spawn("nbdkit", "-f", "-U", far.export.socket, "file", far.export.file,
            stderr=subprocess.DEVNULL)
    event(b, "SPICEBD_LINK", lambda d: d["up"])
    b.q.do("spicebd-thaw", drive=DISK_DRIVE)
    w.good()
    b.q.do("spicebd-drive-del", drive=name, force=True)
    b.drives[DISK].empty()
    b.q.do("spicebd-drive-del", drive=DISK_DRIVE, force=True)
    until(lambda: not os.path.exists(f"/sys/block/{DISK_DRIVE}"), "it is deleted")
    b.q.do("spicebd-drive-add", personality=DISK, index=1)


def other_verbs_are_refused(b):
    far = Far(b, "verbs")
    b.q.do("spicebd-freeze", drive=DISK_DRIVE, holder="backup")
    b.q.do("spicebd-freeze", drive=CD_DRIVE, holder="backup")
    words = "it is frozen by backup since \\d+ s"
    image = b.image("verbs image")
    for name, args in (("eject", {"id": DISK_DRIVE}),
                       ("blockdev-remove-medium", {"id": DISK_DRIVE}),
                       ("blockdev-change-medium", {"id": DISK_DRIVE, "filename": image.path}),
                       ("spicebd-insert", {"source": image.path, "drive": CD_DRIVE}),
                       ("spicebd-insert", {"source": image.path, "drive": CD_DRIVE,
                                           "force": True}),
                       ("blockdev-open-tray", {"id": CD_DRIVE}),
                       ("spicebd-drive-del", {"drive": DISK_DRIVE})):
        b.q.cmd(name, **args).bad(words)
    ctl("eject", DISK_DRIVE, status=1, words=words)
    # One that is not named is another one.
    got = b.q.do("spicebd-insert", source=image.path)["drive"]
    assert got not in (DISK_DRIVE, CD_DRIVE), got
    b.q.do("eject", id=got, force=True)
    b.q.do("spicebd-drive-del", drive=got, force=True)
    w = Writer(b)
    held_one(b)
    b.q.do("eject", id=DISK_DRIVE, force=True)
    w.bad()
    same(query(b)["medium"], None, "medium")
    same(holders(b), ["backup"], "holders after a forced eject")
    b.q.do("spicebd-thaw", holder="backup")
    thawed(b, DISK_DRIVE, CD_DRIVE)
    del far


def ejected_while_it_freezes(b):
    far, q = Far(b, "ejected"), Qmp()
    far.stop()
    w = Writer(b)
    until(lambda: query(b)["in-flight"], "a request is out")
    q.send("spicebd-freeze", drive=DISK_DRIVE)
    until(lambda: holders(b), "it begins")
    q2 = Qmp()
    q2.send("spicebd-freeze", drive=DISK_DRIVE, holder="second")
    until(lambda: len(holders(b)) == 2, "another one")
    b.q.cmd("eject", id=DISK_DRIVE).bad("frozen by admin")
    b.q.do("eject", id=DISK_DRIVE, force=True)
    q.receive().bad("its medium was ejected meanwhile")
    q2.receive().bad("its medium was ejected meanwhile")
    thawed(b)
    w.bad()
    far.go_on()
    q.close()
    q2.close()


def deleted_while_it_freezes(b):
    name = b.q.do("spicebd-drive-add", personality=DISK)["drive"]
    far, q = Far(b, "deleted", name), Qmp()
    far.stop()
    w = Writer(b, node=f"/dev/{name}")
    until(lambda: query(b, name)["in-flight"], "a request is out")
    q.send("spicebd-freeze", drives=[name, CD_DRIVE])
    until(lambda: holders(b, CD_DRIVE), "it begins")
    b.q.cmd("spicebd-drive-del", drive=name).bad("frozen by admin")
    b.q.do("spicebd-drive-del", drive=name, force=True)
    q.receive().bad("deleted meanwhile|ejected meanwhile")
    thawed(b, CD_DRIVE)
    w.bad()
    far.go_on()
    q.close()


def during_an_insert(b):
    d, q = b.drives[DISK], Qmp()
    d.empty()
    path = f"{b.dir}/silent.sock"
    s = socket.socket(socket.AF_UNIX)
    s.bind(path)
    s.listen(1)
    s.settimeout(PATIENCE)
    q.send("spicebd-insert", source=f"nbd+unix:///?socket={path}", drive=DISK_DRIVE)
    peer = s.accept()[0]
    b.q.cmd("spicebd-freeze", drive=DISK_DRIVE).bad("cannot freeze it: insert in progress")
    b.q.cmd("spicebd-freeze").bad("insert in progress")
    thawed(b, DISK_DRIVE, CD_DRIVE)
    b.q.do("eject", id=DISK_DRIVE, force=True)
    q.receive().bad("ended by an eject")
    peer.close()
    s.close()
    q.close()


CROSSING = {
    "insert": ("spicebd-insert", {}),
    "eject": ("eject", {}),
    "eject by force": ("eject", {"force": True}),
    "delete": ("spicebd-drive-del", {}),
    "delete by force": ("spicebd-drive-del", {"force": True}),
    "another freeze": ("spicebd-freeze", {"holder": "other"}),
}


def cross(b, q, image, what, freeze_first):
    """That verb, and a freeze by another peer before either is answered. spicebdd may
    take them in either order: what they are told has to agree with one of the two."""
    name = b.q.do("spicebd-drive-add", personality=DISK)["drive"]
    insert = {"source": image.path, "drive": name, "read_only_mode": "read-only"}
    if what not in ("insert", "delete"):
        b.q.do("spicebd-insert", **insert)
    sh("udevadm settle")
    until(lambda: not query(b, name)["openers"], "nobody uses it")
    verb, args = CROSSING[what]
    args = dict(args, **(insert if what == "insert" else
                         {"id": name} if verb == "eject" else {"drive": name}))
    peers = [(b.q, "spicebd-freeze", {"drive": name, "holder": "cross"}), (q, verb, args)]
    for peer, command, arguments in peers if freeze_first else reversed(peers):
        peer.send(command, **arguments)
    froze, did = b.q.receive(), q.receive()

    def known():
        return any(d["drive"] == name for d in b.q.do("spicebd-query"))
    if what.startswith("delete") and not did.cls:
        until(lambda: not known(), "spicebdd knows that it is deleted")
    there = known()
    by = holders(b, name) if there else []
    told = f"{what}: {did}; freeze: {froze}; {by}, there: {there}"
    if froze.cls:
        assert re.search("insert in progress|being deleted|not found|no such drive|meanwhile",
                         froze.desc), told
        same("cross" in by, False, told)
    elif there:
        same("cross" in by, True, told)
        b.q.do("spicebd-thaw", drive=name, holder="cross")
    if did.cls:
        assert not froze.cls and "force" not in what and what != "another freeze", told
        assert "frozen by cross" in did.desc, told
    elif what == "delete":
        assert froze.cls and not there, told
    elif what == "another freeze":
        same(sorted(by), ["cross", "other"], told)
        b.q.do("spicebd-thaw", drive=name, holder="other")
    if there:
        want = {"insert": not did.cls, "delete": False, "another freeze": True}
        same(query(b, name)["medium"] is not None, want.get(what, bool(did.cls)), told)
        thawed(b, name)
        b.q.do("spicebd-drive-del", drive=name, force=True)
    until(lambda: not os.path.exists(f"/sys/block/{name}"), "it is deleted")
    return "refused" if froze.cls else "frozen"


def verbs_that_cross_a_freeze(b):
    image, q = b.image("crossing"), Qmp()
    for what in CROSSING:
        came = [cross(b, q, image, what, bool(i % 2)) for i in range(4)]
        print(f"# {what}: {' '.join(came)}", flush=True)
    q.close()


def an_asker_that_goes(b):
    far = Far(b, "asker")
    far.stop()
    w = Writer(b)
    until(lambda: query(b)["in-flight"], "a request is out")
    q = Qmp()
    q.send("spicebd-freeze", drive=DISK_DRIVE, timeout=0)
    until(lambda: holders(b), "it begins")
    q.close()
    far.go_on()
    w.good()
    until(lambda: not holders(b), "thawed, for nobody waits")
    thawed(b)


def thawed_while_it_freezes(b):
    far, q = Far(b, "thawed"), Qmp()
    far.stop()
    w = Writer(b)
    until(lambda: query(b)["in-flight"], "a request is out")
    q.send("spicebd-freeze", drive=DISK_DRIVE)
    until(lambda: holders(b), "it begins")
    b.q.do("spicebd-thaw", drive=DISK_DRIVE)
    q.receive().bad("somebody thawed it meanwhile")
    far.go_on()
    w.good()
    q.close()


def held_at_start(b):
    image = b.image("held at start")
    name = b.q.do("spicebd-drive-add", personality=DISK, hold=True)["drive"]
    same(holders(b, name), ["start"], "holders")
    b.q.do("spicebd-insert", source=image.path, drive=name, read_only_mode="read-only")
    same(query(b, name)["stats"]["reads"], 0, "reads before the release")
    with open(f"/sys/block/{name}/size", encoding="ascii") as f:
        same(int(f.read()), 0, "size before the release")
    b.q.events.clear()
    ctl("release", name, words=f"{name} is thawed")
    event(b, "SPICEBD_MEDIUM_CHANGED", lambda d: d["drive"] == name and d["medium"])
    with open(f"/dev/{name}", "rb") as f:
        same(f.readline(), b"held at start\n", "the medium")
    ctl("release", name, status=1, words=f"{name} is not frozen")
    sh("udevadm settle")
    b.q.do("spicebd-drive-del", drive=name, force=True)
    out = ctl("add", "disk", "--hold", run_dir="/nonexistent")
    name = os.path.basename(out.strip())
    until(lambda: b.q.cmd("spicebd-query", drive=name).cls is None, "spicebdd knows it")
    until(lambda: holders(b, name) == ["start"], "and who holds it")
    b.q.do("spicebd-insert", source=image.path, drive=name, read_only_mode="read-only")
    b.q.do("spicebd-drive-del", drive=name, force=True)


def spicebdctl(b):
    Far(b, "ctl")
    ctl("freeze", DISK_DRIVE, words=f"{DISK_DRIVE} is frozen")
    ctl("freeze", DISK_DRIVE, status=1, words="'admin' is a holder already")
    ctl("status", DISK_DRIVE, words=r"(?s)freeze +frozen.*held by +admin since \d+ s, for \d+ s more")
    ctl("list", words=f"{DISK_DRIVE} +disk +frozen")
    ctl("thaw", DISK_DRIVE, "--holder", "x", status=1, words="frozen by admin")
    ctl("thaw", words=f"{DISK_DRIVE} is thawed")
    ctl("thaw", status=1, words='"admin" has no drive frozen')
    ctl("freeze", "--timeout", "soon", status=2, words="no number of seconds")
    ctl("freeze", "--holder", "a b", status=2, words="is no name")
    got = json.loads(ctl("freeze", DISK_DRIVE, CD_DRIVE, "--holder", "two", "--json"))
    same([g["drive"] for g in got], [DISK_DRIVE, CD_DRIVE], "freeze --json")
    ctl("thaw", "--holder", "two")
    thawed(b, DISK_DRIVE, CD_DRIVE)


def spicebdctl_without_spicebdd(b):
    """Of another run directory it finds none."""
    nowhere = "/nonexistent"
    far = Far(b, "without")
    Writer(b).good()
    flushes = far.asked("Flush")
    ctl("freeze", DISK_DRIVE, run_dir=nowhere, words="is frozen")
    assert far.asked("Flush") > flushes, "it answered without a flush"
    same(holders(b), ["admin"], "holders")
    ctl("freeze", DISK_DRIVE, run_dir=nowhere, status=1, words="is a holder already")
    ctl("status", DISK_DRIVE, run_dir=nowhere, words=r"held by +admin")
    ctl("thaw", DISK_DRIVE, run_dir=nowhere, words="is thawed")
    Writer(b).good()
    far.stop()
    ctl("freeze", DISK_DRIVE, "--timeout", "2", run_dir=nowhere, status=4,
        words="not frozen: the limit came first")
    far.go_on()
    thawed(b)


table = Table()
for fn in (drained_flushed_and_quiet, two_holders, names_and_arguments, all_or_none,
           a_far_end_that_hangs, a_far_end_that_is_lost, a_flush_that_fails,
           a_spicebdd_that_hangs, a_spicebdd_that_is_dead,
           the_limit_under_io, clock_stands_while_frozen,
           other_verbs_are_refused, ejected_while_it_freezes, deleted_while_it_freezes,
           thawed_while_it_freezes, during_an_insert, verbs_that_cross_a_freeze,
           an_asker_that_goes, held_at_start, spicebdctl, spicebdctl_without_spicebdd):
    table.add(fn.__name__.replace("_", " "), fn)

if __name__ == "__main__":
    table.main(Bench)
