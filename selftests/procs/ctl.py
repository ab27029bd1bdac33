#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-only
"""spicebdctl without a kernel module: usage, exit statuses, one line for each
error, starting a daemon, links. spicebdd is a stub."""
import json
import os
import stat

import procs
import stubs
from procs import BIN, equal, ok, run

# timeout: 120

CTL = os.path.join(BIN, "spicebdctl")
VERBS = "insert change eject open close remove lock unlock freeze thaw release list status add del monitor listen unlisten media start stop".split()


def path(name):
    return f"{procs.run_dir}/{name}"


def ctl(*args, **kw):
    return run(CTL, *args, **kw)


def refused(status, want, *args, **kw):
    r = ctl(*args, **kw)
    ok(r.returncode == status and want.lower() in r.stderr.lower() and r.stderr.count("\n") == 1 and
       not r.stdout, f"{' '.join(args)[:60]}: {r.stderr.strip()}", r)


def usage():
    for v in VERBS:
        r = ctl(v, "--help")
        ok(r.returncode == 0 and r.stdout.startswith(f"usage: spicebdctl {v}"), f"{v} --help", r)
    equal(ctl().returncode, 2, "no verb")
    r = ctl("--help")
    ok(r.returncode == 0 and all(v in r.stdout for v in VERBS), "--help names all verbs")
    refused(2, "unknown verb", "frobnicate")
    refused(2, "unrecognized option", "list", "--frobnicate")
    refused(2, "a source is wanted", "insert")
    refused(2, "a source is wanted", "insert", "a", "b", "c")
    refused(2, "one of --cdrom and --disk", "insert", "--cdrom", "--disk", "x")
    refused(2, "one of --read-only and --read-write", "insert", "--read-only", "--read-write", "x")
    refused(2, "no number of seconds", "insert", "--timeout", "soon", "x")
    refused(2, "requires an argument", "insert", "--timeout")
    for v in ("lock", "unlock"):
        refused(2, "name one drive", v)
    refused(2, "unrecognized option", "lock", "--force", "0")
    refused(2, "unrecognized option", "unlock", "--timeout", "1", "0")
    refused(2, "no number of seconds", "freeze", "--timeout", "soon")
    refused(2, "is no name", "freeze", "--holder", "a b")
    refused(2, "is no name", "thaw", "--holder", "")
    refused(2, "unrecognized option", "thaw", "--fs")
    refused(2, "name one drive", "release")
    for v in ("eject", "open", "close", "remove", "lock", "unlock"):
        refused(2, "one drive at a time", v, "0", "1")
    for v in ("eject", "open", "remove"):
        refused(2, "no number of seconds", v, "--timeout", "soon")
    refused(2, "unrecognized option", "close", "--force")
    refused(2, "a source is wanted", "change", "--force")
    refused(2, "unrecognized option", "change", "--cdrom", "x")
    refused(2, "one of --read-only, --read-write and --retain", "change", "--retain", "--read-only", "x")
    refused(2, "unrecognized option", "insert", "--retain", "x")
    refused(2, "say cdrom or disk", "add")
    refused(2, "neither cdrom nor disk", "add", "floppy")
    refused(2, "out of range", "add", "--queues", "99", "disk")
    refused(2, "out of range", "add", "--depth=-1", "disk")
    refused(2, "name one drive", "del")
    refused(2, "no number of events", "monitor", "--count", "0")
    refused(2, "an address is wanted", "listen", "one", "two", "three")
    refused(2, "is no name", "listen", "Upper", "unix:/x")
    refused(2, "no arguments", "media", "x")


def module():
    if os.path.exists("/sys/module/spicebd"):
        procs.skip("without the module", "it is loaded")
        return
    for args in (["list"], ["status"], ["insert", "/etc/passwd"], ["eject"], ["open", "0"],
                 ["close"], ["remove"], ["lock", "0"], ["unlock", "0"], ["freeze"], ["thaw", "0"], ["release", "0"], ["change", "/etc/passwd"], ["monitor"], ["del", "0"]):
        refused(1, "modprobe spicebd", *args)


def daemon():
    refused(3, "no such file", "media", env={"SPICEBD_BIN_DIR": path("nothing")})
    open(path("fail"), "w").close()
    refused(3, "cannot do it today", "media")
    os.unlink(path("fail"))
    r = ctl("stop")
    equal((r.returncode, r.stderr), (0, ""), "stop of none is done")
    r = ctl("media")
    ok(r.returncode == 0 and "700 MiB" in r.stdout and "disc.iso" in r.stdout,
       "media starts the daemon, and shows a table", r)
    r = ctl("media", "--json")
    equal(json.loads(r.stdout)[0]["media"][0]["size"], 734003200, "media --json")
    r = ctl("start", "--json")
    equal(json.loads(r.stdout), {"running": True}, "start of a running one is done")


def long_wait():
    """What takes more than a second says so, at a terminal alone."""
    open(path("slow"), "w").close()
    r = run("script", "-qec", f"{CTL} media", "/dev/null", env={"TERM": "xterm"})
    ok(r.returncode == 0 and "waiting for the answer [" in r.stdout and "disc.iso" in r.stdout,
       "a slow answer: a bar until it is there", r)
    r = ctl("media")
    ok(r.returncode == 0 and not r.stderr and "disc.iso" in r.stdout, "but not in a file", r)
    os.unlink(path("slow"))


def listen():
    password = path("password")
    with open(password, "w") as f:
        f.write("secret\n")
    os.chmod(password, 0o600)
    empty = path("empty")
    open(empty, "w").close()
    refused(1, "password", "listen", "127.0.0.1:5938")
    refused(1, "beyond loopback", "listen", "0.0.0.0:5938", "--password-file", password)
    refused(1, "no such file", "listen", "127.0.0.1:5938", "--password-file", path("nothing"))
    refused(1, "first line is empty", "listen", "127.0.0.1:5938", "--password-file", empty)
    refused(1, "regular file", "listen", "127.0.0.1:5938", "--password-file", procs.run_dir)
    refused(1, "neither unix", "listen", "nonsense")
    refused(1, "TLS needs all of", "listen", "unix:" + path("s"), "--tls-cert", password)
    refused(1, "cannot listen", "listen", "unix:/no/such/folder/s")
    equal([n for n in os.listdir(path("links.d")) if n.endswith(".conf")], [],
          "what was refused left no configuration")

    os.chdir(procs.run_dir)
    r = ctl("listen", "127.0.0.1:5938", "--password-file", "password")
    equal((r.returncode, r.stdout), (0, "link default listens on 127.0.0.1:5938\n"), "listen")
    conf = path("links.d/default.conf")
    equal(oct(stat.S_IMODE(os.stat(conf).st_mode)), "0o600", "the configuration is root's alone")
    with open(conf) as f:
        text = f.read()
    ok(f"password-file={password}\n" in text, "a relative path was made absolute", text)
    refused(1, "listens already, on 127.0.0.1:5938", "listen", "127.0.0.1:5939",
            "--password-file", password)
    refused(1, "listens already, with other settings", "listen", "127.0.0.1:5938")
    r = ctl("listen", "127.0.0.1:5938", "--password-file", "password")
    equal((r.returncode, r.stdout), (0, "link default listens on 127.0.0.1:5938\n"),
          "listen once more as it is")
    r = ctl("listen", "second", path("s"), "--json")
    equal(json.loads(r.stdout), {"link": "second", "address": "unix:" + path("s")},
          "a second link, by path, with --json")
    equal(ctl("unlisten").returncode, 0, "unlisten")
    ok(not os.path.exists(conf), "the configuration has gone")
    refused(1, "does not listen", "unlisten")
    equal(ctl("unlisten", "second").returncode, 0, "unlisten of the second")
    r = ctl("listen")
    equal((r.returncode, r.stdout), (0, f"link default listens on unix:{path('spice.sock')}\n"),
          "without an address it is a unix socket")
    equal(oct(stat.S_IMODE(os.stat(path("spice.sock")).st_mode)), "0o600", "that is root's alone")
    equal(ctl("unlisten").returncode, 0, "unlisten of that")
    os.chmod(password, 0o644)
    r = ctl("listen", "127.0.0.1:5938", "--password-file", password)
    ok(r.returncode == 0 and "others can read" in r.stderr, "a readable password file is warned of", r)
    ctl("unlisten")


def test():
    stubs.make()
    usage()
    module()
    daemon()
    long_wait()
    listen()
    r = ctl("stop")
    equal((r.returncode, r.stdout), (0, "spicebdd is stopped\n"), "stop")
    ok(not os.path.exists(path("control.sock")), "nothing listens any more")


procs.main(test, "spicebdctl", "spicebd-supervisor")
