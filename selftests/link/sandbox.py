#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-only
"""A link that serves has no rights left; one that is configured wrongly does not start."""
import os
import socket
import subprocess

import linktest as t


def status(pid):
    with open(f"/proc/{pid}/status") as f:
        return dict(line.rstrip("\n").split(":\t", 1) for line in f if ":\t" in line)


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as s:
        return s.getsockname()[1]


def refuses(conf, what, password=None, args=("t",)):
    with t.tempfile.TemporaryDirectory() as d:
        os.mkdir(f"{d}/links.d")
        if conf is not None:
            with open(f"{d}/links.d/t.conf", "w") as f:
                f.write(conf.replace("@", d))
        with open(f"{d}/pw", "w") as f:
            f.write((password or "") + "\n")
        p = subprocess.run([t.LINK, *args], env=dict(os.environ, SPICEBD_RUN_DIR=d), timeout=20,
                           stderr=subprocess.PIPE, text=True)
        lines = p.stderr.strip().splitlines()
        t.ok(p.returncode in (1, 2) and len(lines) == 1 and what in lines[0],
             f"refused: {what}" + ("" if len(lines) == 1 else f" but said {lines}"))


def main():
    with t.Link(own_sockets=True, password="x") as link:
        d = link.daemon()
        d.send(t.ADD_PORT, 0)
        with t.Share(link.uri, "x") as share:
            share.wait("hello")
            t.ok(True, "a link that binds its sockets itself serves")
            s = status(link.proc.pid)
            if os.geteuid() == 0:
                t.ok("0" not in s["Uid"].split() and not s["Groups"].strip(), "it is nobody special")
            t.ok(all(int(s[c], 16) == 0 for c in ("CapEff", "CapPrm", "CapInh", "CapAmb", "CapBnd")),
                 "has no capabilities, and none to get")
            t.ok(s["NoNewPrivs"] == "1" and s["Seccomp"] == "2", "no new privileges, seccomp")
            t.ok(s["Threads"] == "1", "one thread")
            mode = os.stat(os.path.join(link.dir, "link/t.sock")).st_mode & 0o777
            t.ok(mode == 0o600, f"its private socket has mode 0600 ({mode:o})")
        p = subprocess.run([t.LINK, "t"], env=dict(os.environ, SPICEBD_RUN_DIR=link.dir),
                           timeout=20, stderr=subprocess.PIPE, text=True)
        t.ok(p.returncode == 1 and p.stderr.count("\n") == 1, "a second one of the name is refused")
    port = free_port()
    tcp = f"address=127.0.0.1:{port}\npassword-file=@/pw"
    refuses(None, "not configured")
    refuses("", "no address=")
    refuses("address=unix:@/s\ncolour=red", "no known key")
    refuses("address=unix:@/s\nmemory-max=lots", "is no number")
    refuses("address unix:@/s", "is not key=value")
    refuses("address=unix:relative", "no absolute path")
    refuses(f"address=127.0.0.1:{port}", "needs a password")
    refuses(f"address=127.0.0.1:{port}\npassword-file=@/none", "cannot read the password file")
    refuses(tcp, "first line is empty")
    refuses(tcp, "longer than", "x" * 60)
    refuses(f"address=0.0.0.0:{port}\npassword-file=@/pw", "beyond loopback TLS is needed", "x")
    refuses("address=203.0.113.1:5999\npassword-file=@/pw\ninsecure=yes", "cannot listen on", "x")
    refuses("address=127.0.0.1\npassword-file=@/pw", "nor HOST:PORT", "x")
    refuses(tcp + "\ntls-cert=@/pw", "TLS needs all of", "x")
    refuses(tcp + "\ntls-cert=@/no\ntls-key=@/pw\ntls-ca=@/pw", "cannot read tls-cert", "x")
    refuses("address=unix:@/s\ntls-cert=@/pw\ntls-key=@/pw\ntls-ca=@/pw", "TCP addresses only")
    refuses("address=unix:@/s\nuser=nosuchuser", "no such user") if os.geteuid() == 0 else None
    refuses("address=unix:@/s\nuser=root", "root is not allowed") if os.geteuid() == 0 else None
    p = subprocess.run([t.LINK, "../etc"], stderr=subprocess.DEVNULL, timeout=20)
    t.ok(p.returncode == 2, "a name that is none is a usage error")


t.run(main)
