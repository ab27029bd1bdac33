#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-only
# timeout: 300
"""Commands to a running spicebd-share: what they ask of the drive, what they
answer, what they leave behind; from a pipe and on a terminal."""
import os
import pty
import select
import signal
import subprocess
import time

import sharelib as s
from sharelib import check, equal, linked, random_file, workdir


def tell(share, line):
    share.p.stdin.write((line + "\n").encode())
    share.p.stdin.flush()


def answer(share, line, command=None, limit=s.LIMIT):
    """What a command line is answered: (result, text)."""
    tell(share, line)
    e = share.event("answer", limit=limit, command=command or line.split()[0])
    return e["result"], e.get("text")


def listed(share):
    tell(share, "list")
    return {m["name"]: m for m in share.event("list")["media"]}


def begin(*names, ports=(0,), args=()):
    d = workdir()
    paths = [random_file(f"{d}/{n}", 1 << 20) for n in names]
    share, server, link = linked("--commands", *args, *paths, ports=ports,
                                 stdin=subprocess.PIPE)
    return d, share, server, link


def take(link, name):
    """A drive takes a medium: its stream and its offer."""
    o = link.offer(name)
    st = link.open(o)
    link.notice(s.INSERTED, o)
    return o, st


def lists():
    """list tells names, sizes, drives, traffic"""
    _, share, _, links = begin("a.img", "b.img", ports=(0, 3))
    m = listed(share)
    equal(sorted(m), ["a.img", "b.img"], "names")
    equal(m["a.img"]["drives"], [], "in no drive")
    take(links[1], "a.img")
    share.event("inserted", name="a.img", drive=3)
    equal(listed(share)["a.img"]["drives"], [3], "in one")
    check(m["a.img"]["ready"] and m["a.img"]["size"] == 1 << 20, m)
    equal(m["a.img"]["in-use"], [], "used by nobody")
    check("last-used-ms" not in m["a.img"], "and never was")
    links[1].notice(s.LOCKED, links[1].offer("a.img"))
    share.event("locked")
    m = listed(share)["a.img"]
    equal((m["in-use"], m["users"]), ([3], {}), "used there, by whom is not said")
    check(m["last-used-ms"] >= 0, "read from")
    links[1].notice(s.LOCKED, links[1].offer("a.img"), "mounted on /m\u00fc")
    equal(share.event("locked")["text"], "mounted on /m\u00fc", "the event")
    equal(listed(share)["a.img"]["users"], {"3": "mounted on /m\u00fc"}, "mounted there")
    links[1].notice(s.UNLOCKED, links[1].offer("a.img"))
    share.event("unlocked")
    m = listed(share)["a.img"]
    equal((m["in-use"], m["users"]), ([], {}), "no longer")


def eject():
    """eject asks the drive and says that it is done"""
    _, share, _, link = begin("a.img")
    result, text = answer(share, "eject a.img")
    check(result == "failed" and "no drive" in text, text)
    take(link, "a.img")
    share.event("inserted")
    equal(answer(share, "eject a.img"), ("done", None), "answer")
    equal(link.get(s.EJECT_REQUEST).u32()[1], 0, "flags")
    check("a.img" in listed(share), "it is still offered")


def busy():
    """a refusal comes with its reason, and the medium stays"""
    _, share, _, link = begin("a.img")
    link.gives_back = False
    o, _ = take(link, "a.img")
    share.event("inserted")
    tell(share, "eject a.img")
    link.get(s.EJECT_REQUEST)
    why = "mounted on /m\u00fc; open by PID 5 (dd)"
    link.notice(s.BUSY, o, why)
    equal(share.event("busy")["text"], why, "the event")
    e = share.event("answer")
    equal((e["result"], e["text"]), ("busy", "drive 0: " + why), "the answer")
    equal(listed(share)["a.img"]["drives"], [0], "still there")
    tell(share, "eject")
    link.get(s.EJECT_REQUEST)
    link.notice(s.BUSY, o)
    e = share.event("answer")
    check(e["name"] == "a.img" and "in use" in e["text"], "without a name, and without a text")


def force():
    """eject --force is answered within a second, also when nobody answers"""
    _, share, _, link = begin("a.img")
    link.gives_back = False
    o, _ = take(link, "a.img")
    share.event("inserted")
    began = time.monotonic()
    result, text = answer(share, "eject a.img --force")
    took = time.monotonic() - began
    equal(link.get(s.EJECT_REQUEST).u32(), (o["id"], s.FORCE), "the request")
    check(result == "no answer" and took < 2, f"{result}, {text}, {took:.2f} s")
    link.gives_back = True
    equal(answer(share, "eject --force a.img"), ("done", None), "done")


def change():
    """change offers another file, and takes the old one away when it is in"""
    d, share, _, link = begin("a.img")
    link.gives_back = False
    random_file(f"{d}/the other.img", 2 << 20)
    old, _ = take(link, "a.img")
    share.event("inserted")
    tell(share, f"change a.img '{d}/the other.img'")
    new = link.offer("the other.img")
    equal(link.get(s.EJECT_REQUEST).u32(), (old["id"], s.REPLACE, new["id"]), "the request")
    for st in list(link.streams.values()):
        st.close()
    link.open(new)
    link.notice(s.EJECTED, old)
    check(not any('"answer"' in x for x in share.out.seen), "not done yet")
    link.notice(s.INSERTED, new)
    equal(share.event("answer")["result"], "done", "answer")
    link.wait_offers(lambda o: [x["name"] for x in o.values()] == ["the other.img"])
    equal(listed(share)["the other.img"]["drives"], [0], "where it is")


def change_refused():
    """a change that is refused, or cannot be, leaves everything as it was"""
    d, share, _, link = begin("a.img")
    link.gives_back = False
    random_file(f"{d}/b.img", 2 << 20)
    old, _ = take(link, "a.img")
    share.event("inserted")
    result, text = answer(share, f"change a.img {d}/none.img")
    check(result == "failed" and "none.img" in text, text)
    tell(share, f"change a.img {d}/b.img")
    looked_at = link.open(link.offer("b.img"))
    link.get(s.EJECT_REQUEST)
    link.notice(s.BUSY, old, "mounted on /mnt")
    link.get(s.CLOSE, stream=looked_at.id)
    e = share.event("answer")
    equal((e["result"], e["text"]), ("busy", "drive 0: mounted on /mnt"), "answer")
    link.wait_offers(lambda o: [x["name"] for x in o.values()] == ["a.img"])
    equal(sorted(listed(share)), ["a.img"], "only the old one")
    link.hello(caps=0)
    link.open(link.offer("a.img"))
    result, text = answer(share, f"change a.img {d}/b.img")
    check(result == "busy" and "cannot change media" in text, f"an older link: {text}")
    check(s.EJECT_REQUEST not in [f.type for f in link.frames], "it is not asked")


def change_folder():
    """a folder may take another's place: it is waited for"""
    d, share, _, link = begin("a.img")
    link.gives_back = False
    s.need("xorriso")
    os.mkdir(f"{d}/folder")
    random_file(f"{d}/folder/x", 1 << 20)
    old, _ = take(link, "a.img")
    share.event("inserted")
    tell(share, f"change a.img {d}/folder")
    new = link.offer("folder")
    equal(link.get(s.EJECT_REQUEST).u32(), (old["id"], s.REPLACE, new["id"]), "the request")
    link.notice(s.EJECTED, old)
    link.notice(s.INSERTED, new)
    equal(share.event("answer")["result"], "done", "answer")


def add_and_remove():
    """add and remove, in use or not, and the file's lock goes with it"""
    d, share, _, link = begin("a.img", args=("--read-write",))
    random_file(f"{d}/b.img", 1 << 20)
    equal(answer(share, f"add {d}/b.img 'my disk'")[0], "done", "add")
    o, st = take(link, "my disk")
    share.event("inserted")
    result, text = answer(share, f"add {d}/a.img a.img")
    check(result == "failed" and "taken" in text, text)
    link.gives_back = False
    tell(share, "remove 'my disk'")
    link.get(s.EJECT_REQUEST)
    link.notice(s.BUSY, o, "mounted on /mnt")
    equal(share.event("answer")["result"], "busy", "remove while it is in use")
    check("my disk" in listed(share), "it stays")
    h = st.nbd()
    h.pread(512, 0)
    began = time.monotonic()
    equal(answer(share, "remove 'my disk' --force"), ("done", None), "by force")
    link.get(s.WITHDRAW)
    link.get(s.CLOSE, stream=st.id)
    check(time.monotonic() - began < 1, "within a second")
    equal(sorted(listed(share)), ["a.img"], "it is gone")
    other = s.Share("--uri", share.p.args[share.p.args.index("--uri") + 1] + "x", "--wait",
                    "--read-write", f"{d}/b.img")
    other.event("ready")
    equal(answer(share, "remove a.img"), ("done", None), "one that is in no drive")
    equal(listed(share), {}, "nothing is left")


def wrong_lines():
    """wrong lines are answered, and harm nothing"""
    _, share, _, link = begin("a.img")
    for line, want in (("eject x.img", "nothing of that name"), ("dance", "no such command"),
                       ("change a.img", "usage"), ("list --force", "usage"),
                       ("eject a b c d e f", "usage"), ("add /no/such", "cannot be shared")):
        result, text = answer(share, line)
        check(result == "failed" and want in text, f"{line}: {text}")
    for line, want in (("eject 'a.img", "match"), ("eject \udc80".encode("utf8", "surrogateescape"),
                                                   "UTF-8"), ("x" * 20000, "too long")):
        share.p.stdin.write((line.encode() if isinstance(line, str) else line) + b"\n")
        share.p.stdin.flush()
        e = share.event("answer")
        check(e["result"] == "failed" and want in e["text"], f"{line[:20]}: {e['text']}")
    tell(share, "\n   \n\r")
    tell(share, "help")
    check("eject" in share.event("help")["text"], "help")
    check("a.img" in listed(share), "it still works")


def quits():
    """quit and the end of the input are as Ctrl-C"""
    _, share, _, link = begin("a.img")
    take(link, "a.img")
    share.event("inserted")
    tell(share, "quit")
    share.event("leaving")
    equal(share.wait(), 0, "exit status")
    check(link.get(s.EJECT_REQUEST), "it asked first")
    _, share, _, link = begin("a.img")
    share.p.stdin.close()
    equal(share.wait(), 0, "at the end of the input")


def connection_lost():
    """a request whose connection ends is answered"""
    _, share, _, link = begin("a.img")
    link.gives_back = False
    take(link, "a.img")
    share.event("inserted")
    tell(share, "eject a.img")
    link.get(s.EJECT_REQUEST)
    link.hello()
    e = share.event("answer")
    check(e["result"] == "busy" and "connection ended" in e["text"], e)


def stops_while_waiting():
    """a signal while commands wait ends in order"""
    d, share, _, link = begin("a.img")
    link.gives_back = False
    take(link, "a.img")
    share.event("inserted")
    for _ in range(80):
        tell(share, "eject a.img")
    while "too many" not in (share.event("answer").get("text") or ""):
        pass
    share.p.send_signal(signal.SIGINT)
    share.event("leaving")
    equal(share.stop(), 0, "exit status")


def terminal():
    """on a terminal commands are taken without being asked for, in words"""
    s.need(s.SHARE, "nbdkit")
    path = random_file(f"{workdir()}/a.img", 1 << 20)
    server = s.Server()
    link = s.Link(server.port(0))
    ours, theirs = pty.openpty()
    p = subprocess.Popen([s.SHARE, "--uri", server.uri, path], stdin=theirs,
                         stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True)
    os.close(theirs)
    s.later(lambda: s.end(p))
    out = s.Lines(p.stdout)

    def until(text):
        while text not in (x := out.get()):
            pass
        return x
    until("'help'")
    link.hello()
    os.write(ours, b"list\n")
    until("'a.img': disk, 1.0\u00a0MiB, read-only")
    os.write(ours, b"eject\n")
    until("eject: failed: no drive")
    os.write(ours, b"\x04")
    equal(p.wait(s.LIMIT), 0, "exit status after Ctrl-D")
    os.close(ours)


def background():
    """in the background of a terminal it is neither stopped nor spins"""
    s.need(s.SHARE, "nbdkit")
    path = random_file(f"{workdir()}/a.img", 1 << 20)
    server = s.Server()
    s.Link(server.port(0))
    ours, theirs = pty.openpty()
    code = ("import os, signal, subprocess, sys, time, fcntl, termios\n"
            "fcntl.ioctl(0, termios.TIOCSCTTY, 0)\n"
            "p = subprocess.Popen(sys.argv[1:], stdin=0, process_group=0)\n"
            "print('pid', p.pid, flush=True); p.wait()")
    p = subprocess.Popen(["/usr/bin/python3", "-c", code, s.SHARE, "--json", "--uri", server.uri,
                          path], stdin=theirs, stdout=subprocess.PIPE, start_new_session=True)
    os.close(theirs)
    s.later(lambda: s.end(p))
    out = s.Lines(p.stdout)
    pid = int(out.get().split()[1])
    while "connected" not in out.get():
        pass

    def ticks():
        with open(f"/proc/{pid}/stat") as f:
            v = f.read().rsplit(")", 1)[1].split()
        return v[0], int(v[11]) + int(v[12])

    os.write(ours, b"list\n")
    before = ticks()[1]
    select.select([], [], [], 1.5)
    state, after = ticks()
    check(state in "SR", f"state {state}")
    check(after - before < 50, f"{after - before} ticks")
    os.kill(pid, signal.SIGTERM)
    p.wait(s.LIMIT)
    os.close(ours)


s.run([lists, eject, busy, force, change, change_refused, change_folder, add_and_remove,
       wrong_lines, quits, connection_lost, stops_while_waiting, terminal, background])
