# SPDX-License-Identifier: GPL-2.0-only
"""Programs in the place of spicebdd and spicebd-link, for the supervisor."""
import os

import procs

SPICEBDD = """#!/usr/bin/python3
import json, os, signal, socket, sys, threading, time
assert os.environ["LISTEN_PID"] == str(os.getpid())
names = os.environ["LISTEN_FDNAMES"].split(":")
fds = dict(zip(names, range(3, 3 + int(os.environ["LISTEN_FDS"]))))
strange = [f for f in os.listdir("/proc/self/fd") if int(f) > 4 and os.path.exists("/proc/self/fd/" + f)]
run = os.environ["SPICEBD_RUN_DIR"]
if os.path.exists(run + "/fail"):
    print("spicebdd: cannot do it today", file=sys.stderr)
    sys.exit(1)
with open(run + "/starts", "a") as f:
    f.write(f"{os.getpid()} {','.join(strange)}\\n")

def serve(c):
    c.sendall(b'{"QMP": {"version": {}, "capabilities": []}}\\n')
    for line in c.makefile("rb"):
        q = json.loads(line)
        what = q["execute"]
        if what == "die":
            os._exit(9)
        if what == "quit":
            os._exit(0)
        if os.path.exists(run + "/slow") and what != "qmp_capabilities":
            time.sleep(2.5)
        if what == "hang":
            signal.pause()
        known = {"qmp_capabilities": {}, "query-name": {"name": str(os.getpid())},
                 "spicebd-query-media": [{"link": "default", "client": True, "media": [
                     {"name": "disc.iso", "size": 734003200, "read-only": True, "kind": "cdrom"}]}]}
        r = ({"return": known[what]} if what in known else
             {"error": {"class": "CommandNotFound", "desc": "no such command"}})
        c.sendall(b'{"event": "NOISE", "data": {}}\\n' + json.dumps(dict(r, id=q.get("id"))).encode() + b"\\n")

def listen(fd):
    s = socket.socket(fileno=fd)
    s.setblocking(True)
    while True:
        c, _ = s.accept()
        threading.Thread(target=serve, args=(c,), daemon=True).start()

threading.Thread(target=listen, args=(fds["status"],), daemon=True).start()
listen(fds["control"])
"""

LINK = """#!/bin/sh
echo "$$ $1 $LISTEN_FDNAMES" >>"$SPICEBD_RUN_DIR/link-starts"
[ "$1" != wrong ] || exit 2
exec cat "$SPICEBD_RUN_DIR/never"
"""


def make():
    """A SPICEBD_BIN_DIR with stubs, and the real launcher and supervisor."""
    d = procs.run_dir + "/bin"
    os.mkdir(d)
    for name, text in (("spicebdd", SPICEBDD), ("spicebd-link", LINK)):
        with open(f"{d}/{name}", "w") as f:
            f.write(text)
        os.chmod(f"{d}/{name}", 0o755)
    os.mkfifo(procs.run_dir + "/never")
    for name in ("spicebd-nbdkit", "spicebd-supervisor"):
        os.symlink(os.path.join(procs.BIN, name), f"{d}/{name}")
    os.environ["SPICEBD_BIN_DIR"] = d
    os.environ["SPICEBD_CONF_DIR"] = procs.run_dir + "/etc"
    return d
