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


CALLS = {"open": ("/etc/hostname",), "socket": (), "connect": (), "exec": ("/bin/true",)}


def attempt(tid, call):
    """What a thread gets when it makes the call: an int, or the way it ended."""
    end = t.time.monotonic() + 40
    while True:
        p = subprocess.run([t.built("inject"), str(tid), call, *CALLS[call]], timeout=60,
                           stdout=subprocess.PIPE, text=True)
        # 3: it was busy just then, and soon waits again.
        if p.returncode != 3 or t.time.monotonic() > end:
            break
    return int(p.stdout[2:]) if p.stdout.startswith("= ") else p.stdout.strip()


def serving(args=()):
    link = t.Link(password="x", args=args)
    d = link.daemon()
    d.send(t.ADD_PORT, 0)
    share = t.Share(link.uri, "x", offers=[t.offer(1, 512, "m")], secret="")
    d.expect(t.OFFERS_END)
    return link, d, share


def taken_over():
    """Each thread of a link that serves tries what whoever takes it over would try."""
    if os.uname().machine != "x86_64":
        print("ok - calls are injected # SKIP only known for x86_64")
        return
    link, d, share = serving()
    threads = os.listdir(f"/proc/{link.proc.pid}/task")
    for tid in threads:
        for call in ("open", "socket", "connect"):
            t.ok(attempt(tid, call) == -1, f"thread {threads.index(tid)}: {call} fails: EPERM")
    for call, number in (("open", 2), ("socket", 41), ("connect", 42)):
        t.ok(link.log_text().count(f"refused system call {number} ") == 1,
             f"the log tells of {call}, once")
    d.send(t.RESET_PORT, 0)
    d.expect(t.OFFERS_END)
    t.ok(True, "and it goes on serving")
    t.ok(attempt(threads[0], "exec") == "ended with status 159" and link.proc.wait(40) == 159,
         "exec is its end")
    t.ok(link.wait_log("refused system call 59, which"), "the log tells of it")
    share.close()
    link.start()
    link.close()
    # Would it be seen if there was no sandbox?
    link, d, share = serving(["--no-sandbox"])
    pid = link.proc.pid
    t.ok(attempt(pid, "open") >= 0 and attempt(pid, "socket") >= 0 and
         attempt(pid, "connect") not in (-1, -13), "without the sandbox they would do it")
    t.ok(attempt(pid, "exec") == "ended with status 0", "exec, too")
    link.proc.wait(40)
    share.close()
    link.start()
    link.close()


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
            for tid in os.listdir(f"/proc/{link.proc.pid}/task"):
                each = status(f"{link.proc.pid}/task/{tid}")
                t.ok(all(int(each[c], 16) == 0 for c in
                         ("CapEff", "CapPrm", "CapInh", "CapAmb", "CapBnd")),
                     "has no capabilities, and none to get")
                t.ok(each["NoNewPrivs"] == "1" and each["Seccomp"] == "2",
                     "no new privileges, seccomp")
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
    for host in ("127.0.0.1", "[::1]", "127.1.2.3"):
        refuses(f"address={host}:{port}", "needs a password")
        refuses(f"address={host}:{port}\ninsecure=yes", "needs a password")
    for host in ("[::]", "198.51.100.7"):
        refuses(f"address={host}:{port}\npassword-file=@/pw", "beyond loopback TLS is needed", "x")
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
    taken_over()


t.run(main)
