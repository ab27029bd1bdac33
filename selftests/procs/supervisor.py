#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-only
"""spicebd-supervisor: sockets that outlive the programs, restarts, links, an
orderly end, and what a killed supervisor leaves behind. spicebdd and
spicebd-link are stubs."""
import json
import os
import select
import signal
import socket
import stat
import time

import procs
import stubs
from procs import BIN, await_true, equal, gone, ok, run, spawn

# timeout: 180

SUP = os.path.join(BIN, "spicebd-supervisor")


def path(name):
    return f"{procs.run_dir}/{name}"


def lines(name):
    try:
        with open(path(name)) as f:
            return f.read().splitlines()
    except FileNotFoundError:
        return []


def request(text, limit=20):
    s = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    s.settimeout(limit)
    with s:
        s.connect(path("supervisor.sock"))
        s.send(text.encode())
        return s.recv(1024).decode()


def kill(pid):
    """Dead when it returns: what connects next cannot reach it any more."""
    os.kill(pid, signal.SIGKILL)
    gone(pid)


def up():
    try:
        return request("ping") == "ok"
    except OSError:
        return False


class Qmp:
    def __init__(self, name="control.sock", limit=20):
        self.s = socket.socket(socket.AF_UNIX)
        self.s.settimeout(limit)
        self.s.connect(path(name))
        self.f = self.s.makefile("rwb", buffering=0)

    def call(self, what):
        self.f.write(json.dumps({"execute": what}).encode() + b"\n")
        for line in self.f:
            r = json.loads(line)
            if "return" in r or "error" in r:
                return r
        return None

    def pid(self):
        json.loads(self.f.readline())
        return int(self.call("query-name")["return"]["name"])


def daemon():
    sup = spawn([SUP, "--foreground"], stderr=open(path("sup.log"), "wb"))
    ok(await_true(up), "it starts")
    modes = [stat.S_IMODE(os.stat(path(n)).st_mode) for n in
             ("", "control.sock", "status.sock", "nbdkit.sock", "export.sock", "supervisor.sock")]
    equal([oct(m) for m in modes], ["0o755", "0o600", "0o666", "0o600", "0o600", "0o600"], "modes")
    q = Qmp()
    first = q.pid()
    ok(Qmp("status.sock").pid() == first, "spicebdd has both sockets, by name")
    equal(request("ping"), "ok", "ping")
    r = run(SUP)
    ok(r.returncode == 1 and "already" in r.stderr, "a second supervisor refuses", r)

    q.call("die")
    gone(first)
    # The connection is made before the next one runs: it waits for it.
    second = Qmp().pid()
    ok(second != first, "a dead spicebdd is started again; nobody is refused meanwhile")
    kill(second)
    third = Qmp().pid()
    ok(third != second, "and a killed one")
    equal([x.split(" ")[1] for x in lines("starts")], [""] * 3, "it gets no descriptors but its own")

    began = time.monotonic()
    for _ in range(3):
        kill(Qmp().pid())
    took = time.monotonic() - began
    ok(took > 0.5, f"deaths in a row are followed by a growing pause ({took:.1f} s for 3)")
    q = Qmp()
    pid = q.pid()
    last = len(lines("starts"))
    q.call("quit")
    gone(pid)
    ok(not select.select([], [], [], 1.5)[0] and len(lines("starts")) == last,
       "one that was told to quit stays away")
    ok(Qmp("status.sock").pid() > 0, "until somebody connects")
    return sup


def conf(name, text):
    os.makedirs(path("links.d"), exist_ok=True)
    with open(path(f"links.d/{name}.conf"), "w") as f:
        f.write(text)
    os.chmod(path(f"links.d/{name}.conf"), 0o600)


def links():
    address = path("spice.sock")
    conf("one", f"# a comment\naddress = unix:{address}\nsocket-mode=0660\n")
    equal(request("link-start one"), "ok", "link-start")
    equal(oct(stat.S_IMODE(os.stat(address).st_mode)), "0o660", "its socket has the mode asked for")
    started = await_true(lambda: lines("link-starts"))
    pid, name, names = started[0].split(" ")
    equal((name, names), ("one", "spice:control"), "the link gets its name and both sockets")
    ok(os.path.exists(path("link/one.sock")), "its private socket is there")
    ok("already" in request("link-start one"), "link-start once more is refused")
    kill(int(pid))
    again = await_true(lambda: lines("link-starts")[1:])
    ok(again, "a killed link is started again")
    with socket.socket(socket.AF_UNIX) as s:
        s.connect(address)
        ok(True, "its address never went away")
    equal(request("link-stop one"), "ok", "link-stop")
    ok(gone(int(again[0].split(" ")[0]), 0), "answered when it is gone")
    ok(not os.path.exists(address) and not os.path.exists(path("link/one.sock")),
       "its sockets are removed")

    for text, want in (
            ("address=unix:/x\nfoo=1\n", ':2: "foo" is no known key'),
            ("address=unix:/x\naddress=unix:/y\n", ':2: "address" is given twice'),
            ("address=unix:relative\n", "no absolute path"),
            ("password-file=/x\n", "no address="),
            ("address=127.0.0.1:5\n", "password file"),
            ("address=0.0.0.0:5937\npassword-file=/x\n", "beyond loopback"),
            ("address=[::]:5937\npassword-file=/x\n", "beyond loopback"),
            ("address=127.0.0.1:99999\npassword-file=/x\n", "neither unix"),
            ("address=127.0.0.1\npassword-file=/x\n", "neither unix"),
            ("address=unix:/x\nmemory-max=12k\n", ':2: "memory-max" is no number'),
            ("address=unix:/x\nmemory-max=1\n", "out of range"),
            ("address=unix:/x\nsocket-mode=999\n", "no octal mode"),
            ("address=unix:/x\ninsecure=maybe\n", "neither yes nor no"),
            ("address=unix:/x\ntls-cert=/c\n", "TLS needs all of"),
            ("address=unix:/x\ntls-cert=c\n", "no absolute path"),
            ("address\n", "is not key=value"),
            ("address=\n", "has no value"),
            ("address=unix:/x\nping-interval=5\nping-timeout=2.5\n", "shorter than"),
            ("address=unix:/x\nping-interval=inf\n", "no number of seconds"),
            ("address=unix:/x\nping-interval=0.01\n", "out of range"),
            ("address=unix:/x\0\n", "binary"),
            ("address=unix:/x\n" + "#" * 20000, "too long")):
        conf("bad", text)
        got = request("link-start bad")
        ok(got.startswith("error ") and want in got, f"refused: {got[6:]}", (text[:60], got))
    conf("bad", "address=unix:/x\n")
    os.chmod(path("links.d/bad.conf"), 0o666)
    ok("others may write it" in request("link-start bad"), "refused: a file that others may write")
    os.unlink(path("links.d/bad.conf"))
    ok("not configured" in request("link-start bad"), "refused: one without a file")
    for name in ("../bad", "", "A", "-x", "x" * 32):
        ok("no name" in request(f"link-start {name}"), f"refused: the name {name!r}")
    ok("does not listen" in request("link-stop bad"), "link-stop of one that does not run")
    ok("unknown" in request("frobnicate"), "an unknown request")


def wrong_link():
    """Status 2 is a configuration that is wrong: no further try, until asked."""
    address = path("wrong.spice")
    conf("wrong", f"address=unix:{address}\n")
    equal(request("link-start wrong"), "ok", "link-start of one that will not do")
    ok(await_true(lambda: not os.path.exists(path("link/wrong.sock"))), "it is given up")
    ok(not os.path.exists(address), "and its address is free")
    n = sum(" wrong " in x for x in lines("link-starts"))
    equal(n, 1, "it was started once")
    equal(request("link-start wrong"), "ok", "and may be started again")
    ok(await_true(lambda: sum(" wrong " in x for x in lines("link-starts")) == 2), "it was")
    os.unlink(path("links.d/wrong.conf"))


def nbdkits():
    img = path("disk")
    with open(img, "wb") as f:
        f.truncate(1 << 20)
    s = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    s.connect(path("nbdkit.sock"))
    fd = os.open(img, os.O_RDWR)
    id = procs.send_job(s, fd)
    os.close(fd)
    a = procs.receive(s)
    if not ok(a and a.error == 0, "nbdkit.sock starts a launcher", a):
        return None
    other = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    other.connect(path("nbdkit.sock"))
    other.send(b"rubbish")
    r = procs.receive(other)
    ok(r.error != 0, "another connection, another launcher", r)
    ok(procs.receive(other) is None, "which ends the connection when it ends")
    return a.pid


def orderly_end(sup, nbdkit_pid):
    conf("two", f"address=unix:{path('two.sock')}\n")
    request("link-start two")
    began = time.monotonic()
    equal(request("stop", 40), "ok", "stop")
    equal(sup.wait(10), 0, f"it ends ({time.monotonic() - began:.1f} s)")
    if nbdkit_pid:
        ok(gone(nbdkit_pid, 0), "the nbdkit has ended")
    left = [n for n in os.listdir(procs.run_dir) if n.endswith(".sock")]
    left += os.listdir(path("link")) + os.listdir(path("nbdkit"))
    equal(left, [], "no socket is left")


def killed_supervisor():
    sup = spawn([SUP], stderr=open(path("sup.log"), "ab"))
    await_true(up)
    old = Qmp().pid()
    link = await_true(lambda: [x for x in lines("link-starts") if " two " in x])[-1].split(" ")[0]
    pid = nbdkits()
    sup.kill()
    sup.wait(10)
    ok(gone(old), "spicebdd dies with a killed supervisor")
    sup = spawn([SUP], stderr=open(path("sup.log"), "ab"))
    await_true(up)
    ok(Qmp().pid() != old, "the next supervisor starts another")
    ok(gone(int(link), 5), "the old link is gone")
    ok(not gone(pid, 0), "an nbdkit that serves a medium goes on serving it")
    os.kill(sup.pid, signal.SIGTERM)
    equal(sup.wait(30), 0, "SIGTERM ends it in order")
    ok(gone(pid, 5), "and the nbdkit that was left with it")


def detached():
    r = run(SUP, "--detach")
    equal((r.returncode, r.stderr), (0, ""), "--detach returns when spicebdd answers")
    ok(Qmp().pid() > 0, "and it does")
    equal(run(SUP, "--detach").returncode, 0, "once more is no error")
    equal(run(SUP, "stop").returncode, 0, "spicebd-supervisor stop")
    r = run(SUP, "stop")
    ok(r.returncode == 1 and "does not run" in r.stderr, "stop of none", r)
    open(path("fail"), "w").close()
    began = time.monotonic()
    r = run(SUP, "--detach")
    os.unlink(path("fail"))
    ok(r.returncode == 1 and "cannot do it today" in r.stderr and r.stderr.count("\n") == 1,
       f"a spicebdd that does not start: {r.stderr.strip()}", r)
    ok(time.monotonic() - began < 10, "told soon")
    ok(await_true(lambda: not os.path.exists(path("control.sock"))), "nothing is left running")
    equal(run(SUP, "--frobnicate").returncode, 2, "usage errors have status 2")
    os.chmod(procs.run_dir, 0o777)
    r = run(SUP, "--detach")
    ok(r.returncode == 1 and "others" in r.stderr, "a run directory that others may write is refused", r)
    os.chmod(procs.run_dir, 0o755)


def test():
    stubs.make()
    sup = daemon()
    links()
    wrong_link()
    orderly_end(sup, nbdkits())
    killed_supervisor()
    detached()


procs.main(test, "spicebd-supervisor", "spicebd-nbdkit")
