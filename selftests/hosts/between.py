#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-only
# timeout: 2400
"""A drive's medium goes to another host, and everything on the way is stopped, cut and
killed at every step. After each: exactly one side has the medium, it is the one that the
share says, the other knows that it has not, what was acknowledged is there, and the
share's servers never saw a write of one side after one of the other.

usage: between.py [PATTERN]	only the cases whose names match"""
import contextlib
import errno
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time

from hostlib import (ACCEPT, BEGIN, BLOCK, COMMIT, GRANTED, READY, SIZE, Host, Server, Share,
                     Tap, Uevents, Writer, all_there, message, same, turns, until, work_dir)

sys.dont_write_bytecode = True
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "../qemu"))
from machine import Qemu					# noqa: E402


class World:
    """Two hosts, a share at the first, its medium in a drive there, and who writes to it."""

    def __init__(self, events, *, args=("--read-write",), insert=("--disk",), add=None,
                 room=True, write=True, ports=(None, None), nbd=False, wait=None, fill=None,
                 twin=None, read_only=False):
        self.events, self.work, self.begin = events, work_dir(), len(events.seen)
        self.a = Host(self.work, "a", 8, 15, ports[0])
        self.b = Host(self.work, "b", 16, 23 if room else 16, ports[1], wait)
        self.path = f"{self.work}/disk.img"
        with open(self.path, "wb") as f:
            f.write(bytes([fill or 0]) * SIZE)
        if nbd:
            other = f"{self.work}/other.img" if twin else self.path
            if twin:
                with open(other, "wb") as f:
                    f.truncate(twin)
            self.share = Server(self.work, {"a": self.path, "b": other}, read_only)
            source = self.share.uri
        else:
            self.share, source = Share(self.work, [self.path], args), "spice:disk.img"
            self.share.start(self.a)
            until(lambda: "disk.img" in self.a.ctl("media").stdout, "the medium is offered")
        name = self.a.ctl("add", *add).stdout.strip() if add else None
        self.a.ctl("insert", *([name] if name else []), source, *insert)
        self.drive = self.a.with_medium()[0]
        self.before = events.count(self.drive["device"], self.begin)
        self.writer = Writer(self.drive["device"], "A") if write else None
        self.asked, self.others = None, 0 if room else 1
        # who has the medium, one after the other, and writes to it
        self.owners, self.last = ["a"], None
        if write:
            self.writer.some()

    def migrate(self, *more, to=None, share=None):
        """In the background: what it says when it ends."""
        args = ["migrate", self.drive["drive"], "--to", to or f"unix:{self.b.stream.path}", *more]
        if not self.b.port:
            args += ["--share-uri", share or f"spice+unix://{self.b.spice.path}"]

        def run():
            self.answer = self.a.ctl(*args, ok=False)
        self.asked = threading.Thread(target=run, daemon=True)
        self.asked.start()

    def answered(self):
        self.asked.join(200)
        if self.asked.is_alive():
            raise AssertionError("migrate does not end")
        print(f"# {(self.answer.stderr or self.answer.stdout).strip()}")
        return self.answer.returncode

    # ---- how it is in the end

    def told(self):
        return (f"a: {[(d['drive'], d['state'], d['freeze']) for d in self.a.drives().values()]} "
                f"{self.a.migrations()} b: "
                f"{[(d['drive'], d['state'], d['freeze']) for d in self.b.drives().values()]} "
                f"{self.b.migrations()}")

    def stays(self):
        """At a, as if nothing had been."""
        until(lambda: [d for d in self.a.with_medium()
                       if d["state"] == "ready" and d["freeze"] == "thawed"],
              lambda: f"the drive goes on at a: {self.told()}")
        if self.writer:
            self.writer.some()
        now = self.a.with_medium()[0]
        same(now["generation"], self.drive["generation"], "generation")
        same(now["stats"]["errors"], self.drive["stats"]["errors"], "failed requests")
        same(self.events.count(now["device"], self.begin), self.before, "media changes told")
        until(lambda: not self.b.with_medium(), lambda: f"b has no medium: {self.told()}")
        until(lambda: (self.b.migration("in") or {"status": "failed"})["status"] == "failed",
              lambda: f"b knows that it gets none: {self.told()}")
        until(lambda: (self.a.migration("out") or {"status": "failed"})["status"] == "failed",
              lambda: f"a knows that it stays: {self.told()}")
        until(lambda: len(self.b.drives()) == self.others,
              lambda: f"the drive that b made is gone: {self.told()}")

    def moved(self, known=True):
        """To b, where it is announced once; a knows that it is there."""
        until(lambda: [d for d in self.b.with_medium()
                       if d["state"] == "ready" and d["freeze"] == "thawed"],
              lambda: f"the drive runs at b: {self.told()}")
        drive = self.b.with_medium()[0]
        # At once: if a can still write it does so meanwhile, and the log will tell.
        writer = Writer(drive["device"], "B", dict(self.writer.done))
        writer.some()
        if known:
            until(lambda: [d for d in self.a.drives().values() if d["state"] == "inactive"],
                  lambda: f"a knows that it has gone: {self.told()}")
            reason = [d for d in self.a.drives().values() if d["state"] == "inactive"][0]["reason"]
            if drive["drive"] not in reason or not re.search("unix:|ssh:", reason):
                raise AssertionError(f"a does not say where it is: {reason}")
            self.writer.fails()
            # It waited while the drive was frozen.
            same(self.writer.error, errno.EIO, "what a write at a ends with")
            try:
                os.close(os.open(self.drive["device"], os.O_RDONLY))
                raise AssertionError("a's drive can be opened")
            except OSError as e:
                same(e.errno, errno.ENOMEDIUM, "an open at a")
        writer.end()
        same(self.events.count(drive["device"], self.begin), 1, "media changes told at b")
        same(drive["generation"], 1, "generations at b")
        self.wrote("b", writer)

    def wrote(self, host, writer):
        """The medium is there now, and its last writer was that one."""
        self.owners.append(host)
        self.last = writer

    def finish(self):
        """After each case. Nobody writes any more: look at what was written, and by whom.

        Two walls keep the hosts apart. The source's: its drive is frozen before the share
        is asked, and without a medium when the share has answered. The share's: it ends the
        source's servers before it grants the medium, and serves nobody but the owner, and
        one writer at a time. Each of them is enough: with one of them taken out of the
        programs there is still no write of a after one of b. With both taken out there is,
        and this is what says so."""
        if self.writer:
            self.writer.end()
        wrote = turns(self.share.writers())
        print(f"# who wrote, by turns: {' '.join(wrote) or 'nobody'}")
        same(wrote, self.owners if self.writer else [], "who wrote, by turns")
        if self.writer:
            all_there(self.path, (self.last or self.writer).done)

    def end(self):
        for h in (self.a, self.b):
            h.spice.go()
            h.stream.go()
        self.share.end()
        for h in (self.a, self.b):
            for d in h.drives().values():
                h.ctl("del", d["drive"], "--force", ok=False)
        if self.writer and not self.writer.stop:
            self.writer.end()
        self.a.end()
        self.b.end()

    def logs(self):
        for name in ("a.log", "b.log", "share.log"):
            if not os.path.exists(f"{self.work}/{name}"):
                continue
            with open(f"{self.work}/{name}", encoding="utf8", errors="replace") as f:
                for line in f.read().splitlines()[-14:]:
                    print(f"# {name}: {line[:180]}")


# ---- the way there

def there_and_back(w):
    w.migrate()
    same(w.answered(), 0, "migrate")
    w.moved()
    until(lambda: '"left"' in w.share.text(), "the share leaves a")
    drive = w.b.with_medium()[0]
    p = w.b.ctl("migrate", drive["drive"], "--to", f"unix:{w.a.stream.path}", "--share-uri",
                f"spice+unix://{w.a.spice.path}")
    print(f"# {p.stdout.strip()}")
    again = until(w.a.with_medium, "it is back at a")[0]
    until(lambda: w.a.drives()[again["index"]]["freeze"] == "thawed", "it runs at a")
    last = Writer(again["device"], "C", dict(w.last.done))
    last.some()
    last.end()
    w.wrote("a", last)
    same([d["state"] for d in w.b.drives().values()], ["inactive"], "b")


def same_parameters(w, verb=None, key=None, value=None, near=None):
    """And what was done to it before: that verb, by which that came to be so."""
    if verb:
        w.a.ctl(verb, w.drive["drive"])
        w.drive = w.a.drives()[w.drive["index"]]
        same(w.drive[key], value, key)
    drive = w.drive
    w.migrate()
    same(w.answered(), 0, "migrate")
    got = until(w.b.with_medium, "it is at b")[0]
    for key in ("personality", "queues", "depth", "max-io", "reconnect-timeout", "stall-timeout",
                "open-wait", "locked-by-admin", "tray"):
        same(got[key], drive[key], key)
    same(got["medium"]["size"], drive["medium"]["size"], "size")
    same(got["medium"]["read-only"], drive["medium"]["read-only"], "read-only")
    if near:
        for d in drive, got:
            same((d["medium"]["read-ahead"], d["medium"]["cache"]["limit"]), near,
                 "read-ahead and cache")
    if got["tray"] == "open":
        w.b.ctl("close", got["drive"])
    until(lambda: w.b.with_medium()[0]["state"] == "ready", "it can be read")
    with open(got["device"], "rb") as there, open(w.path, "rb") as here:
        same(there.read(BLOCK), here.read(BLOCK), "what is read there")


def held_drive(w):
    """One that is there, held, and open already: it gets the medium."""
    device = w.b.ctl("add", "disk", "--hold").stdout.strip()
    w.migrate("--to-drive", os.path.basename(device))
    same(w.answered(), 0, "migrate")
    same([d["device"] for d in w.b.with_medium()], [device], "the drive at b")
    w.moved()


def by_ssh(w):
    """What is run at the other host is run here, with that host's directory."""
    os.mkdir(f"{w.work}/ssh")
    with open(f"{w.work}/ssh/ssh", "w", encoding="utf8") as f:
        f.write(f"#!/bin/sh\necho \"$@\" >{w.work}/ssh.args\nfor last; do :; done\n"
                f"SPICEBD_RUN_DIR={w.b.run} exec sh -c \"$last\"\n")
    os.chmod(f"{w.work}/ssh/ssh", 0o755)
    w.a.env["PATH"] = f"{w.work}/ssh:{w.a.env['PATH']}"
    for uri in ("ssh://", "ssh://-oProxyCommand=id", "ssh://host:0", "ssh://host/path", "host"):
        same(w.a.ctl("migrate", w.drive["drive"], "--to", uri, ok=False).returncode, 2, uri)
    w.migrate(to="ssh://somebody@host2:2222")
    same(w.answered(), 0, "migrate")
    w.moved()
    with open(f"{w.work}/ssh.args", encoding="utf8") as f:
        args = f.read().split()
    if "somebody@host2" not in args or "2222" not in args or "BatchMode=yes" not in args:
        raise AssertionError(f"ssh was called with {args}")


def by_invitation(w):
    """The target's link has a password, which the share does not know."""
    w.migrate()
    same(w.answered(), 0, "migrate")
    w.moved()
    with open(w.b.password, encoding="utf8") as f:
        if f.read().strip() in w.share.text():
            raise AssertionError("the share knows the password")
    # What it came by opens nothing else, and it comes again by its own secret.
    link = int(re.findall(r"started spicebd-link default \(pid (\d+)\)", open(w.b.log.name,
               encoding="utf8").read())[-1])
    os.kill(link, 9)
    drive = w.b.with_medium()[0]
    w.last = Writer(drive["device"], "D", dict(w.last.done))
    w.last.some(20)
    w.last.end()


# ---- by a migration manager, with the machine that uses the drive

EXAMPLE = os.path.join(os.path.dirname(os.path.abspath(__file__)),
                       "../../Documentation/examples/migrate-by-qmp")


def manager(*args):
    return subprocess.run([EXAMPLE, *args], stdin=subprocess.DEVNULL, capture_output=True,
                          text=True, timeout=400, check=False)


def machine(drive, *more):
    """A QEMU whose CD is that drive."""
    return Qemu("-m", "64", "-device", "virtio-scsi-pci,id=bus",
                "-device", "scsi-cd,id=cd0,bus=bus.0,drive=h0", "-blockdev",
                f"host_cdrom,node-name=h0,filename=/dev/{drive},read-only=on", *more)


def reads(w, qemu):
    """All of the medium, as QEMU has it: each byte is the same."""
    path = f"{w.work}/seen"
    qemu.qmp.ok("nbd-server-start", addr={"type": "unix", "data": {"path": f"{path}.sock"}})
    qemu.qmp.ok("block-export-add", type="nbd", id="seen", node_name="h0")
    subprocess.run(["qemu-img", "convert", "-f", "raw", "-O", "raw",
                    f"nbd+unix:///h0?socket={path}.sock", path], check=True,
                   capture_output=True, timeout=200)
    qemu.qmp.ok("nbd-server-stop")
    with open(path, "rb") as f:
        data = f.read()
    os.remove(path)
    if data != b"\x5a" * SIZE:
        raise AssertionError(f"it reads {len(data)} bytes, {len(data.strip(bytes([0x5a])))} wrong")


def runs(qemu, what):
    until(lambda: qemu.qmp.ok("query-status")["status"] == "running", what)


def by_manager(w):
    """First there is no way to the other spicebdd, then there is."""
    p = manager("prepare", f"{w.b.run}/control.sock", "cdrom")
    to = p.stdout.strip()
    old = machine(w.drive["drive"])
    try:
        move = ["move", f"{w.a.run}/control.sock", w.drive["drive"], f"{w.b.run}/control.sock", to]
        for way in "nowhere", "migrate.sock":
            new = machine(to, "-S", "-incoming", "defer")
            try:
                p = manager(*move, f"unix:{w.b.run}/{way}", old.monitors[0], new.monitors[0],
                            f"unix:{w.work}/guest-{way}")
                print(f"# {(p.stdout or p.stderr).strip()}")
                if way == "nowhere":
                    same(p.returncode, 1, "it says")
                    runs(old, "the guest goes on where it was")
                    reads(w, old)
                    continue
                same(p.returncode, 0, "it says")
                runs(new, "the guest runs there")
                same(old.qmp.ok("query-status")["status"], "postmigrate", "the guest here")
                reads(w, new)
                same([d["drive"] for d in w.b.with_medium()], [to], "the drive")
                same([d["state"] for d in w.a.drives().values()], ["inactive"], "a")
            finally:
                new.close()
    finally:
        old.close()


def by_hand(w):
    """A store that both hosts reach, as Documentation/freeze.rst has it."""
    def ask(host, command, **args):
        answer = host.qmp(command, **args)
        if "return" not in answer:
            raise AssertionError(f"{host.name}: {command}: {answer}")
        return answer["return"]

    drive = w.drive["drive"]
    to = ask(w.b, "spicebd-drive-add", personality="cdrom", index=17, hold=True)["drive"]
    ask(w.b, "spicebd-insert", drive=to, source=w.share.uri)
    old, new = machine(drive), None
    try:
        reads(w, old)
        new = machine(to, "-S", "-incoming", f"unix:{w.work}/guest")
        old.qmp.ok("migrate-set-capabilities", capabilities=[
            {"capability": "pause-before-switchover", "state": True}])
        old.qmp.ok("migrate", uri=f"unix:{w.work}/guest")
        until(lambda: old.qmp.ok("query-migrate")["status"] == "pre-switchover", "it is stopped")
        ask(w.a, "spicebd-freeze", drive=drive, holder="migration", timeout=0)
        ask(w.a, "eject", id=drive, force=True)
        ask(w.b, "spicebd-thaw", drive=to, holder="start")
        old.qmp.ok("migrate-continue", state="pre-switchover")
        until(lambda: old.qmp.ok("query-migrate")["status"] == "completed", "it has moved")
        new.qmp.ok("cont")
        ask(w.a, "spicebd-thaw", drive=drive, holder="migration")
        runs(new, "it runs there")
        reads(w, new)
        same(w.a.with_medium(), [], "media at a")
        same([d["freeze"] for d in w.b.with_medium()], ["thawed"], "the drive at b")
    finally:
        for q in old, new:
            if q:
                q.close()


# ---- without a share

def plain(w):
    w.migrate()
    same(w.answered(), 0, "migrate")
    w.moved()


def undecided_there(w, host):
    """That host holds its drive, and says that it is to be told."""
    direction, status = {"a": ("out", "released"), "b": ("in", "accepted")}[host.name]
    until(lambda: (host.migration(direction) or {}).get("status") == status,
          lambda: f"{host.name} has to be told: {w.told()}")
    same([d["freeze"] for d in host.with_medium()], ["frozen"], f"the drive at {host.name}")


def plain_stopped(w, how, say, untold, owner):
    """Cancelled, or one of the two killed, while this message is held. There is nobody who
    decides but the administrator, who is asked at the hosts that cannot know."""
    p = stop_at(w, "b.stream", message(say))
    if how == "cancelled":
        said = w.a.ctl("migrate", w.drive["drive"], "--cancel", ok=owner == A)
        same("nobody can take it back" in said.stderr, owner == B, "it is too late for that")
        p.go()
    else:
        host = w.a if how == "source" else w.b
        old = host.kill()
        p.go()
        host.back(old)
    w.answered()
    if untold == PERHAPS:
        # The connection ends with a cancel, which may be lost in that.
        m = until(lambda: [m for m in [w.b.migration("in")] if m["status"] == "failed" or
                           "look there" in m.get("reason", "")], "b hears of its end")[0]
        untold = "" if m["status"] == "failed" else B
    hosts = [h for h in (w.a, w.b) if h.name in untold]
    for h in hosts:
        undecided_there(w, h)
    if len(hosts) == 2:
        time.sleep(1)		# for a write that must not come
        same(set(turns(w.share.writers())), {"a"}, "who wrote")
    for h in hosts:
        name = w.drive["drive"] if h is w.a else h.with_medium()[0]["drive"]
        h.ctl("migrate", name, "--resolve", "run-here" if h.name == owner else "give-up")
    if owner == A:
        w.stays()
    else:
        w.moved()


def plain_undecided(w, owner):
    """The release is lost with the connection: both wait, and neither writes."""
    p = stop_at(w, "b.stream", message("release"))
    p.cut()
    if not w.answered() or "undecided" not in w.answer.stderr:
        raise AssertionError(f"migrate says {w.answer.stderr}")
    count = len(w.share.writers())
    for h, direction, want in ((w.a, "out", "released"), (w.b, "in", "accepted")):
        same([d["freeze"] for d in h.with_medium()], ["frozen"], "the drive")
        same(h.migration(direction)["status"], want, h.name)
    old = w.a.kill()
    w.a.back(old)
    old = w.b.kill()
    w.b.back(old)
    for h, direction, want in ((w.a, "out", "released"), (w.b, "in", "accepted")):
        until(lambda h=h: [d["medium"]["link"]["up"] for d in h.with_medium()] == [True],
              lambda h=h: f"{h.name} is taken up again: {w.told()}")
        same([d["freeze"] for d in h.with_medium()], ["frozen"], "the drive, started anew")
        same(h.migration(direction)["status"], want, h.name)
    same(len(w.share.writers()), count, "writes meanwhile")
    names = {A: w.drive["drive"], B: w.b.with_medium()[0]["drive"]}
    w.a.ctl("migrate", names[A], "--resolve", "run-here" if owner == A else "give-up")
    w.b.ctl("migrate", names[B], "--resolve", "run-here" if owner == B else "give-up")
    if owner == A:
        w.stays()
    else:
        w.moved()


# ---- what is refused, and leaves everything as it was

def refused(w, text):
    if not w.answered():
        raise AssertionError("migrate succeeds")
    if not re.search(text, w.answer.stderr):
        raise AssertionError(f"it does not say why: {w.answer.stderr}")
    same(len(w.answer.stderr.strip().splitlines()), 1, "lines of the reason")
    w.stays()


def no_target(w):
    w.migrate(to=f"unix:{w.work}/nobody")
    refused(w, "cannot reach")


def silent_target(w):
    s = socket.socket(socket.AF_UNIX)
    s.bind(f"{w.work}/silent")
    s.listen(1)
    w.migrate(to=f"unix:{w.work}/silent")
    refused(w, "does not answer")


def share_cannot_go(w):
    w.migrate(share=f"spice+unix://{w.work}/nowhere")
    refused(w, "stays|share")


def no_link(w):
    w.b.ctl("unlisten")
    until(lambda: w.b.qmp("spicebd-query-media")["return"] == [], "b's link is gone")
    w.migrate()
    refused(w, "no link")


def no_room(w):
    w.b.ctl("add", "cdrom")
    w.migrate()
    refused(w, "cannot add a drive")


def another_medium(w):
    """By the same address another export is found from there."""
    w.migrate()
    refused(w, "another medium")


@contextlib.contextmanager
def being_frozen(w, for_long=False):
    """The share's servers take what is written, and do not answer; and, for long, so do
    those that are started in their place."""
    p = stop_at(w, "b.stream", message("ready"))
    servers = [pid for pid in w.share.pids() if os.path.exists(f"/proc/{pid}")]
    for pid in servers:
        os.kill(pid, signal.SIGSTOP)
    program = f"{w.share.bin}/nbdkit"
    if for_long:
        os.rename(program, f"{program}.good")
        with open(os.open(program, os.O_CREAT | os.O_WRONLY, 0o755), "w", encoding="ascii") as f:
            f.write("#!/bin/sh\nexec sleep 1000\n")
    p.go()
    try:
        until(lambda: (w.a.migration("out") or {}).get("status") == "freezing",
              lambda: f"the drive is being frozen: {w.told()}")
        yield
    finally:
        if for_long:
            os.rename(f"{program}.good", program)
        for pid in servers:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)


def not_flushed(w):
    with being_frozen(w, True):
        w.answered()
    refused(w, "not frozen: the limit came first")


def in_the_freeze(w, how):
    """It ends there, as if nothing had been."""
    with being_frozen(w):
        if how == "cancelled":
            w.a.ctl("migrate", w.drive["drive"], "--cancel")
        elif how == "cancelled at the target":
            w.b.ctl("migrate", w.b.migration("in")["drive"], "--cancel")
        elif "share" in how:
            w.share.kill()
            w.share.start(w.a)
        else:
            host = w.a if "source" in how else w.b
            host.back(host.kill())
    in_the_end(w, A)


def cannot_write_down(w, host, pattern):
    """The next that this host would do, so it does not."""
    p = stop_at(w, "b.stream", pattern)
    path = f"{host(w).run}/state.json"
    os.rename(path, f"{path}.away")
    os.makedirs(f"{path}/in-the-way")
    p.go()
    refused(w, "cannot write .*state.json")


def other_version_there(w):
    s = socket.socket(socket.AF_UNIX)
    s.bind(f"{w.work}/other")
    s.listen(1)

    def target():
        c, _ = s.accept()
        same(json.loads(c.makefile().readline())["spicebd-migrate"], 1, "version")
        c.sendall(b'{"message":"error","text":"version 1 is not spoken here"}\n')
    t = threading.Thread(target=target, daemon=True)
    t.start()
    w.migrate(to=f"unix:{w.work}/other")
    refused(w, "version 1")


def say(w, *lines):
    """To b's socket, as anybody might; what it answers."""
    with socket.socket(socket.AF_UNIX) as s:
        s.settimeout(60)
        s.connect(f"{w.b.run}/migrate.sock")
        try:
            for line in lines:
                s.sendall(line)
            return s.makefile("rb").readline()
        except OSError:
            return b""


def other_version_here(w):
    answer = say(w, b'{"message":"prepare","spicebd-migrate":2}\n')
    if b'"error"' not in answer or b"version 2" not in answer:
        raise AssertionError(f"{answer}")


def nonsense(w):
    good = {"message": "prepare", "spicebd-migrate": 1, "id": "11" * 16,
            "drive": {"personality": "disk"}, "medium": {"source": "spice", "id": "02" + "22" * 16},
            "target": {}}
    cases = [b"\n\n\0\0", b"GET / HTTP/1.0\r\n\r\n", b"[" * 100000, b'{"a":' * 5000,
             b'{"message":"' + b"x" * 100000 + b'"}\n', b'{"message":"release"}\n',
             b'{"message":7}\n', b'{"message":"prepare","spicebd-migrate":1}\n']
    for key, value in (("id", "0"), ("id", 5), ("drive", []), ("drive", {"personality": "tape"}),
                       ("medium", {}), ("medium", {"source": "spice", "id": "zz"}),
                       ("medium", {"source": "nbd", "uri": "/etc/passwd"}),
                       ("target", {"drive": "sda"}), ("target", {"link": "../x"}), ("target", 1)):
        cases.append(json.dumps(dict(good, **{key: value})).encode() + b"\n")
    for c in cases:
        answer = say(w, c)
        if answer and b'"error"' not in answer:
            raise AssertionError(f"{c[:80]}: {answer}")
    same(list(w.b.drives()), [], "drives made for them")
    w.migrate()
    same(w.answered(), 0, "a good one after them")
    w.moved()


def not_root(w):
    p = subprocess.run(["setpriv", "--reuid=65534", "--clear-groups", sys.executable, "-c",
                        "import socket; socket.socket(socket.AF_UNIX).connect"
                        f"('{w.b.run}/migrate.sock')"], capture_output=True, text=True, check=False)
    if "PermissionError" not in p.stderr:
        raise AssertionError(p.stderr or "anybody can connect")


# ---- stopped at every step

A, B = "a", "b"
# what is right either way: as migrate says, or as the share does
EITHER, SHARE = "either", "share"
# name: which proxy, what is held there; whose the medium is in the end if it is cancelled or
# a spicebdd dies there, and what is held then comes
POINTS = (
    ("the request", "b.stream", message("prepare"), A),
    ("the target's place", "b.stream", message("prepared"), A),
    ("the move's begin", "a.spice", BEGIN, A),
    ("word that the share was told", "b.stream", message("begun"), A),
    ("the target's acceptance", "b.spice", ACCEPT, A),
    ("the share's word that it is accepted", "a.spice", READY, A),
    ("the target's word that it is ready", "b.stream", message("ready"), A),
    ("the commit", "a.spice", COMMIT, B),
    ("the share's word to the target", "b.spice", GRANTED, B),
    ("the share's word to the source", "a.spice", GRANTED, B),
    ("the target's word that it runs", "b.stream", message("running"), B),
)


# A plain NBD medium: what is held of the two hosts' talk; whose the medium is in the end, and
# which of them have to be told that.
PERHAPS = "perhaps"
PLAIN = (
    ("the request", "prepare", {"cancelled": (A, ""), "source": (A, ""), "target": (A, "")}),
    ("the target's place", "prepared",
     {"cancelled": (A, ""), "source": (A, ""), "target": (A, "")}),
    ("the last question", "ask", {"cancelled": (A, ""), "source": (A, B), "target": (A, "")}),
    ("the target's word that it is ready", "ready",
     {"cancelled": (A, PERHAPS), "source": (A, B), "target": (A, A + B)}),
    ("the release", "release", {"cancelled": (B, ""), "source": (B, A), "target": (B, A + B)}),
    ("the target's word that it runs", "running",
     {"cancelled": (B, ""), "source": (B, A), "target": (B, "")}),
)


def proxy_of(w, where):
    host, what = where.split(".")
    return getattr(getattr(w, host), what)


def stop_at(w, where, pattern):
    p = proxy_of(w, where)
    p.hold(pattern)
    w.migrate()
    p.wait()
    return p


def in_the_end(w, owner):
    status = w.answered()
    if owner == EITHER:
        owner = A if status else B
    if owner == SHARE:
        said = until(lambda: re.search(r'"event": "(moved|stayed)"', w.share.text()),
                     "the share says which it was")
        owner = B if said[1] == "moved" else A
        print(f"# {said[1]}")
    if owner == A and not status:
        raise AssertionError("migrate said that it had moved")
    if owner == A:
        w.stays()
    else:
        w.moved()


def cancelled(w, where, pattern, owner):
    p = stop_at(w, where, pattern)
    w.a.ctl("migrate", w.drive["drive"], "--cancel", ok=owner == A)
    p.go()
    # The cancel may come while the last servers end.
    in_the_end(w, EITHER if pattern is COMMIT else owner)


def cancelled_there(w, where, pattern, owner):
    """By the administrator of the target, whose word does not stand above the share's."""
    p = stop_at(w, where, pattern)
    w.b.ctl("migrate", w.b.migration("in")["drive"], "--cancel", ok=owner == A)
    p.go()
    # The share hears of it by another way than of the commit.
    in_the_end(w, SHARE if pattern is COMMIT else owner)


def source_killed(w, where, pattern, owner):
    p = stop_at(w, where, pattern)
    old = w.a.kill()
    p.go()
    w.a.back(old)
    in_the_end(w, SHARE if pattern is COMMIT else owner)


def target_killed(w, where, pattern, owner):
    p = stop_at(w, where, pattern)
    old = w.b.kill()
    p.go()
    w.b.back(old)
    # It has accepted: the source may commit before it sees that its connection ended.
    accepted = pattern is READY or pattern.pattern == b'"message":"ready"'
    in_the_end(w, EITHER if accepted else owner)


def without_share(pattern, owner):
    """The commit is lost with it. What does not need it yet may find it back, or not."""
    if pattern is COMMIT:
        return A
    return EITHER if pattern.pattern in (b'"message":"prepare"', b'"message":"prepared"') else owner


def share_lost(w, where, pattern, owner):
    """Its connections break, and come back."""
    p = stop_at(w, where, pattern)
    w.a.spice.cut()
    w.b.spice.cut()
    w.a.spice.open()
    w.b.spice.open()
    p.go()
    in_the_end(w, without_share(pattern, owner))


def share_killed(w, where, pattern, owner):
    """And started anew, at the host that has the medium; in the end at the other one, too."""
    p = stop_at(w, where, pattern)
    w.share.kill()
    # What it has said to the target comes, what it has said to the source does not.
    lost = where == "a.spice" and pattern is GRANTED
    if lost:
        p.cut()
        p.open()
    else:
        p.go()
    owner = without_share(pattern, owner)
    w.share.start(w.b if owner == B else w.a)
    if owner != B:
        in_the_end(w, owner)
        return
    # The source was told just before the share was killed, or not.
    either = where == "b.spice" and pattern is GRANTED
    w.moved(not lost and not either)
    if either and any(d["state"] == "inactive" for d in w.a.drives().values()):
        w.writer.fails()
        return
    if not lost and not either:
        return
    # What a was not told it does not assume.
    same([d["state"] for d in w.a.with_medium() if d["freeze"] == "frozen"] != [], True,
         f"a is held: {w.told()}")
    w.share.end()
    w.share.start(w.a)
    until(lambda: [d for d in w.a.drives().values() if d["state"] == "inactive"],
          lambda: f"a is told: {w.told()}")
    w.writer.fails()
    w.answered()


def nobody_says(w):
    """The share and the source's word are lost when the target has accepted: it gives its
    drive up, and hears whenever the share comes."""
    p = stop_at(w, "b.stream", message("ready"))
    same([(d["state"], d.get("reason")) for d in w.b.drives().values()],
         [("inactive", "its medium is not here yet: it is being migrated")], "b meanwhile")
    w.share.kill()
    p.cut()
    until(lambda: (w.a.migration("out") or {})["status"] == "failed", "the source runs on")
    w.share.start(w.a)
    in_the_end(w, A)
    w.share.end()
    same(w.b.migration("in")["reason"].split(";")[0],
         "no share came to say which host has the medium", "why")
    old = w.b.kill()
    w.b.back(old)
    # A share is seen by the ports of drives.
    w.b.ctl("add", "disk")
    w.share.start(w.b)
    until(lambda: "does not know" in (w.b.migration("in") or {}).get("reason", ""),
          lambda: f"b hears that nothing comes: {w.told()}")
    same([d["medium"] for d in w.b.drives().values()], [None], "drives at b")


def granted_late(w, cancel=False):
    """The share was killed when it had granted, before the target heard, and comes when
    the target has given up its drive: after a while, or since it was cancelled there."""
    w.b.ctl("add", "disk")
    w.others = 1
    p = stop_at(w, "b.spice", GRANTED)
    w.share.kill()
    w.a.stream.cut()
    w.b.stream.cut()
    p.cut()
    p.open()
    if cancel:
        w.b.ctl("migrate", w.b.migration("in")["drive"], "--cancel")
    until(lambda: (w.b.migration("in") or {})["status"] == "failed",
          lambda: f"b gives its drive up: {w.told()}")
    until(lambda: len(w.b.drives()) == 1, "the drive that was made for it is gone")
    old = w.b.kill()
    w.b.back(old)
    w.share.start(w.b)
    w.moved(False)
    w.share.end()
    w.share.start(w.a)
    until(lambda: [d for d in w.a.drives().values() if d["state"] == "inactive"],
          lambda: f"a is told: {w.told()}")
    w.writer.fails()
    w.answered()


def deleted_there(w):
    """The target's drive, by force, when the share has granted the medium to it."""
    # A share is seen by the ports of drives.
    w.b.ctl("add", "disk")
    w.others = 1
    p = stop_at(w, "b.spice", GRANTED)
    w.b.ctl("del", w.b.migration("in")["drive"], "--force")
    p.go()
    in_the_end(w, B)


def undecided(w, how):
    """The share never comes back: the administrator decides."""
    p = stop_at(w, "a.spice", COMMIT)
    w.share.kill()
    p.go()
    until(lambda: (w.a.migration("out") or {})["status"] == "released", "it is undecided")
    same(w.writer.error, None, "the writer waits")
    same(w.a.drives()[w.drive["index"]]["freeze"], "frozen", "the drive")
    if not w.answered():
        raise AssertionError("migrate said that it had moved")
    if "undecided" not in w.answer.stderr:
        raise AssertionError(w.answer.stderr)
    w.a.ctl("migrate", w.drive["drive"], "--resolve", how)
    if how == "give-up":
        w.writer.fails()
        same(w.a.drives()[w.drive["index"]]["state"], "inactive", "a")
    else:
        w.share.start(w.a)
        w.stays()


def ejected(w):
    """By force, half-way: that is done at once, and nothing comes to the target."""
    p = stop_at(w, "b.stream", message("ready"))
    w.a.ctl("eject", w.drive["drive"], "--force")
    p.go()
    if not w.answered():
        raise AssertionError("migrate said that it had moved")
    w.writer.fails()
    until(lambda: not w.b.drives(), lambda: f"nothing at b: {w.told()}")
    same(w.a.drives()[w.drive["index"]]["state"], "empty", "a")


def blocked(w):
    """What would disturb it is refused, with the reason."""
    p = stop_at(w, "b.stream", message("ready"))
    name = w.drive["drive"]
    for command, args in (("eject", {"id": name}), ("spicebd-drive-del", {"drive": name}),
                          ("spicebd-freeze", {"drive": name}),
                          ("spicebd-insert", {"drive": name, "source": "spice:"}),
                          ("spicebd-migrate", {"drive": name,
                                               "uri": f"unix:{w.b.run}/migrate.sock"})):
        answer = w.a.qmp(command, **args)
        if "being migrated" not in answer.get("error", {}).get("desc", ""):
            raise AssertionError(f"{command}: {answer}")
    p.go()
    in_the_end(w, B)


def main():
    t, events = Tap(), Uevents()
    wanted = re.compile(sys.argv[1] if len(sys.argv) > 1 else "")

    def case(name, fn, *args, **world):
        def run():
            w = World(events, **world)
            try:
                fn(w, *args)
                w.finish()
            except BaseException:
                w.logs()
                raise
            finally:
                w.end()
        if wanted.search(name):
            t.test(name, run)

    case("there, and back", there_and_back)
    case("a drive of special parameters, locked", same_parameters, "lock", "locked-by-admin",
         True, write=False, fill=0x5a,
         add=("disk", "--queues", "2", "--depth", "17", "--max-io", "65536", "--reconnect-timeout",
              "33", "--stall-timeout", "44", "--open-wait", "5"), insert=())
    case("a CD drive, and how its medium is made near", same_parameters, None, None, None,
         (320 << 10, 5 << 20), write=False, args=("--cdrom",),
         insert=("--read-ahead", "320K", "--cache", "5M"), fill=0x5a)
    case("a CD drive whose tray is open", same_parameters, "open", "tray", "open", write=False,
         args=("--cdrom",), insert=(), fill=0x5a)
    case("a held drive gets it", held_drive)
    case("over ssh", by_ssh)
    case("to a link with a password", by_invitation, ports=(5951, 5952))
    case("a machine with its drive, by QMP", by_manager, write=False, args=("--cdrom",), insert=(),
         fill=0x5a)
    case("a machine whose CD both hosts reach, by QMP", by_hand, write=False, nbd=True,
         insert=("--cdrom",), fill=0x5a)
    case("a plain NBD medium", plain, nbd=True)
    for how, what in (("cancelled", "cancelled"), ("source", "the source's spicebdd is killed"),
                      ("target", "the target's spicebdd is killed")):
        for name, say, ends in PLAIN:
            owner, untold = ends[how]
            case(f"a plain NBD medium, {what}, held: {name}", plain_stopped, how, say, untold,
                 owner, nbd=True, insert=("--disk", "--resend"))
    case("a plain NBD medium, undecided: a", plain_undecided, A, nbd=True)
    case("a plain NBD medium, undecided: b", plain_undecided, B, nbd=True)
    case("nobody there", no_target)
    case("somebody who says nothing", silent_target)
    case("the share cannot go there", share_cannot_go)
    case("no link there", no_link)
    case("no room there", no_room, room=False)
    case("another medium there", another_medium, nbd=True, twin=2 * SIZE)
    case("another medium there, as large", another_medium, nbd=True, twin=SIZE, write=False,
         read_only=True, insert=("--cdrom",), fill=0x5a)
    case("what was written cannot be flushed", not_flushed)
    for how in ("cancelled", "cancelled at the target", "the source's spicebdd is killed",
                "the target's spicebdd is killed", "the share is killed"):
        case(f"while the drive is being frozen: {how}", in_the_freeze, how)
    case("the source cannot write down that it releases it", cannot_write_down, lambda w: w.a,
         message("ready"))
    case("the target cannot write down that it accepts it", cannot_write_down, lambda w: w.b,
         message("begun"))
    case("another version there", other_version_there)
    case("another version comes", other_version_here)
    case("nonsense comes", nonsense)
    case("others than root", not_root)
    case("what would disturb it", blocked)
    case("the medium is ejected by force", ejected)
    for how, fn in (("cancelled", cancelled), ("cancelled at the target", cancelled_there),
                    ("the source's spicebdd is killed", source_killed),
                    ("the target's spicebdd is killed", target_killed),
                    ("the share's connections break", share_lost),
                    ("the share is killed", share_killed)):
        # What the target has not heard of yet cannot be cancelled there.
        for name, where, pattern, owner in POINTS[1 if fn is cancelled_there else 0:]:
            case(f"{how}, held: {name}", fn, where, pattern, owner,
                 wait=20 if fn is share_killed and owner == A else None)
    case("the share is killed, and nobody says whose it is", nobody_says, wait=10)
    case("the share is killed, and comes late to the target", granted_late, wait=10)
    case("the share is killed, cancelled at the target, and comes late", granted_late, True)
    case("the target's drive is deleted when it was granted", deleted_there)
    case("undecided: run here", undecided, "run-here")
    case("undecided: give up", undecided, "give-up")
    return t.end()


if __name__ == "__main__":
    sys.exit(main())
