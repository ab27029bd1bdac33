#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-only
# timeout: 240
"""What spicebd-share takes, what it refuses, and what it calls it."""
import sharelib as s
from sharelib import Link, Server, Share, check, equal, linked, make_iso, random_file, workdir
import hashlib
import json
import os
import re
import signal
import socket
import stat
import struct
import subprocess

NOWHERE = "spice+unix:///nonexistent/spice"


def refused(status, *args, says=None):
    """Runs it to its end; it must say one line."""
    s.need(s.SHARE, "nbdkit")
    r = subprocess.run([s.SHARE, *args], capture_output=True, text=True, timeout=s.LIMIT,
                       check=False, env=dict(os.environ, LC_ALL="C.UTF-8"))
    err = [x for x in r.stderr.splitlines() if "ASan" not in x and "alse positive" not in x
           and "sanitizers" not in x]
    equal(r.returncode, status, f"exit status of {args}; {r.stderr!r}")
    check(len(err) == 1, f"one line on stderr: {err}")
    check(err[0].startswith("spicebd-share: "), err[0])
    if says:
        check(re.search(says, err[0]), f"{err[0]!r} does not say {says!r}")


def usage():
    """wrong usage ends with status 2 and one line"""
    f = random_file(f"{workdir()}/f", 4096)
    u = ("--uri", NOWHERE)
    refused(2, f, says="--uri")
    refused(2, *u, says="no file")
    refused(2, *u, "--read-only", "--read-write", f)
    refused(2, *u, "--cdrom", "--disk", f)
    refused(2, *u, "--cdrom", "--read-write", f)
    refused(2, *u, "--name", "a", "--name", "b", f)
    for name in ("", ".", "..", "a/b", "a\nb", "a\x7f", "a\u202eb", "x" * 256):
        refused(2, *u, "--name", name, f, says="--name")
    for uri in ("http://x:1", "spice://", "spice://host", "x", "spice://h:1?password=x"):
        refused(2, "--uri", uri, f)


def help_and_version():
    """--help and --version"""
    s.need(s.SHARE)
    r = subprocess.run([s.SHARE, "--help"], capture_output=True, text=True, check=True)
    for word in ("--uri", "--read-write", "--exit-on-eject", "Exit status", "Examples"):
        check(word in r.stdout, word)
    check(max(map(len, r.stdout.splitlines())) <= 80, "80 columns")
    r = subprocess.run([s.SHARE, "--version"], capture_output=True, text=True, check=True)
    check(re.fullmatch(r"spicebd-share \d\S*\n", r.stdout), r.stdout)


def bad_files():
    """what cannot be shared is refused with status 1 and one line"""
    d = workdir()
    u = ("--uri", NOWHERE)
    os.mkfifo(f"{d}/fifo")
    open(f"{d}/empty", "w").close()
    so = socket.socket(socket.AF_UNIX)
    so.bind(f"{d}/sock")
    refused(1, *u, f"{d}/missing", says="No such file")
    refused(1, *u, f"{d}/fifo", says="no file")
    refused(1, *u, f"{d}/sock", says="no file")
    refused(1, *u, "/dev/null", says="no file")
    refused(1, *u, f"{d}/empty", says="empty")
    refused(1, *u, "--password-file", f"{d}/none", f"{d}/empty", says="password-file")
    refused(1, *u, "--password-file", f"{d}/empty", f"{d}/empty", says="first line")


def unwritable():
    """a file that may not be read or written is refused at the start"""
    if os.getuid() or not os.path.exists("/usr/bin/setpriv"):
        raise s.Skip("needs root and setpriv")
    d = workdir()
    os.chmod(d, 0o755)
    f = random_file(f"{d}/f", 4096)
    for mode, args, says in ((0o600, [], "cannot be read"), (0o644, ["--read-write"],
                                                            "cannot be written")):
        os.chmod(f, mode)
        r = subprocess.run(["setpriv", "--reuid=65534", "--clear-groups", s.SHARE, "--uri",
                            NOWHERE, *args, f], capture_output=True, text=True, check=False,
                           timeout=s.LIMIT)
        equal(r.returncode, 1, r.stderr)
        check(says in r.stderr, r.stderr)


def unreachable():
    """no server: status 3; with --wait it keeps trying"""
    d = workdir()
    f = random_file(f"{d}/f", 4096)
    refused(3, "--uri", f"spice+unix://{d}/none", f, says="no connection")
    with socket.socket() as so:
        so.bind(("127.0.0.1", 0))
        port = so.getsockname()[1]
        refused(3, "--uri", f"spice://127.0.0.1:{port}", f)
    share = Share("--uri", f"spice+unix://{d}/spice", "--wait", f)
    share.event("reconnecting")
    Server(directory=d)
    share.event("connected")
    equal(share.stop(), 0, "exit status")


def no_spice():
    """a server that does not speak Spice: status 3"""
    d = workdir()
    f = random_file(f"{d}/f", 4096)
    with socket.socket(socket.AF_UNIX) as so:
        so.bind(f"{d}/s")
        so.listen()
        share = Share("--uri", f"spice+unix://{d}/s", f)
        c = so.accept()[0]
        c.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n" * 8)
        equal(share.wait(), 3, share.errors())
        c.close()


def password():
    """the password: right one, wrong one, none"""
    d = workdir()
    f = random_file(f"{d}/f", 4096)
    server = Server(password="secret")
    for text in ("wrong\n", "Secret"):
        with open(f"{d}/pw", "w") as p:
            p.write(text)
        refused(4, "--uri", server.uri, "--password-file", f"{d}/pw", f,
                says="refused the password")
    refused(4, "--uri", server.uri, f, says="wants a password")
    with open(f"{d}/pw", "w") as p:
        p.write("secret\r\nand more\n")
    share = Share("--uri", server.uri, "--password-file", f"{d}/pw", f)
    share.event("connected")
    with open(f"/proc/{share.p.pid}/cmdline") as p:
        check("secret" not in p.read(), "the password is in argv")
    equal(share.stop(), 0, "exit status")


def names():
    """names are made from paths, cleaned and unique"""
    d = workdir()
    os.mkdir(f"{d}/b")
    bad = b"a\xffb\nc\x1b[1m"
    paths = [f"{d}/x.img", f"{d}/b/x.img", os.fsencode(d) + b"/" + bad, f"{d}/" + "\u202eev",
             f"{d}/" + "x" * 250, f"{d}/\u00e4\u00f6 \u65e5"]
    for p in paths:
        random_file(p, 4096)
    _, _, link = linked("--name", "given", f"{d}/x.img", *paths)
    got = sorted(o["name"] for o in link.offers.values())
    equal(len(got), 7, "offers")
    for name in got:
        check(not re.search("[\x00-\x1f\x7f-\x9f/\u202a-\u202e]", name), f"{name!r}")
        check(len(name.encode()) <= 255, name)
    for name in ("given", "x.img", "x.img (2)", "_ev", "\u00e4\u00f6 \u65e5"):
        check(name in got, f"{name!r} in {got}")
    equal(len(set(got)), 7, "unique")
    equal(len({o["medium_id"] for o in link.offers.values()}), 7, "medium ids")


def kinds():
    """kinds by content, options over content, read-only unless asked"""
    d = workdir()
    iso = make_iso(f"{d}/x.iso")
    img = random_file(f"{d}/x.img", 1 << 20)
    udf = f"{d}/x.udf"
    with open(udf, "wb") as f:
        f.truncate(1 << 20)
        for i, v in enumerate((b"BEA01", b"NSR03", b"TEA01")):
            f.seek(32768 + 2048 * i + 1)
            f.write(v)
    for args, want in (
            ([], {"x.iso": (s.CDROM, True), "x.udf": (s.CDROM, True), "x.img": (s.DISK, True)}),
            (["--read-write"], {"x.iso": (s.CDROM, True), "x.udf": (s.CDROM, True),
                                "x.img": (s.DISK, False)}),
            (["--disk", "--read-write"], {"x.iso": (s.DISK, False), "x.udf": (s.DISK, False),
                                          "x.img": (s.DISK, False)}),
            (["--cdrom"], {"x.iso": (s.CDROM, True), "x.udf": (s.CDROM, True),
                           "x.img": (s.CDROM, True)})):
        share, _, link = linked(*args, iso, udf, img)
        for name, (kind, ro) in want.items():
            o = link.offer(name)
            equal(o["kind"], kind, f"{args}: kind of {name}")
            equal(bool(o["flags"] & s.READ_ONLY), ro, f"{args}: {name} read-only")
            check(o["flags"] & s.DURABLE, "a file is durable")
            equal(o["size"], os.path.getsize(f"{d}/{name}"), "size")
        equal(share.stop(), 0, "exit status")


def words():
    """the lines for people say size, kind and writability"""
    f = random_file(f"{workdir()}/f", 1 << 20)
    for args, says in (([], "read-only"), (["--read-write"], "read-write")):
        server = Server()
        share = Share("--uri", server.uri, *args, f, json_lines=False)
        line = share.out.get().replace("\u00a0", " ").split(" (")[0]
        equal(line, f"offering 'f': disk, 1.0 MiB, {says}", "line")
        check(share.out.get().startswith("connected to "), "connected")
        equal(share.stop(), 0, "exit status")
        check("\033" not in "".join(share.out.seen), "no live line in a pipe")


def folder(disk):
    d = workdir()
    os.makedirs(f"{d}/my folder/sub")
    secret = f"{d}/secret"
    with open(secret, "w") as f:
        f.write("NOT-TO-BE-SHARED" * 100)
    data = os.urandom(300000)
    with open(f"{d}/my folder/sub/data.bin", "wb") as f:
        f.write(data)
    os.symlink(secret, f"{d}/my folder/link")
    os.symlink(d, f"{d}/my folder/up")
    os.mkfifo(f"{d}/my folder/fifo")
    if os.getuid() == 0:
        os.mknod(f"{d}/my folder/device", stat.S_IFCHR | 0o666, os.makedev(1, 5))
    os.symlink(f"{d}/my folder", f"{d}/by link")
    share, _, link = linked(*(["--disk"] if disk else []), f"{d}/by link")
    o = link.offer("by link")
    equal(o["kind"], s.DISK if disk else s.CDROM, "kind")
    check(o["flags"] & s.READ_ONLY, "a folder is read-only")
    check(not o["flags"] & s.DURABLE, "its image is not durable")
    n = link.open(o).nbd()
    equal(n.get_size(), o["size"], "size")
    check(n.is_read_only(), "read-only for NBD")
    image = b"".join(bytes(n.pread(min(1 << 20, o["size"] - at), at))
                     for at in range(0, o["size"], 1 << 20))
    n.shutdown()
    check(b"NOT-TO-BE-SHARED" not in image, "a symbolic link was followed")
    # Of the device's nothing: it has no end.
    check(len(image) < 16 << 20, f"a device was read: {len(image)} bytes")
    with open(f"{d}/image", "wb") as f:
        f.write(image)
    link.notice(s.EJECTED, o)
    equal(share.stop(), 0, "exit status")
    return d, data


def folder_iso():
    """a folder as a CD: its files are there, what its links point to is not"""
    s.need("xorriso", "isoinfo")
    d, data = folder(False)
    out = subprocess.run(["isoinfo", "-R", "-i", f"{d}/image", "-x", "/sub/data.bin"],
                         capture_output=True, check=True).stdout
    equal(hashlib.md5(out).digest(), hashlib.md5(data).digest(), "content")
    out = subprocess.run(["isoinfo", "-d", "-i", f"{d}/image"], capture_output=True, text=True,
                         check=True).stdout
    check("Volume id: BY_LINK" in out, "label")


def folder_fat():
    """a folder as a disk with --disk"""
    d, data = folder(True)
    with open(f"{d}/image", "rb") as f:
        image = f.read()
    equal(image[510:512], b"\x55\xaa", "partition table")
    check(data[:4096] in image, "content")


def folder_errors():
    """a folder that cannot be made an image of: status 1, one line"""
    d = workdir()
    random_file(f"{d}/f", 1 << 20)
    env = dict(os.environ, TMPDIR="/nonexistent")
    r = subprocess.run([s.SHARE, "--uri", NOWHERE, d], capture_output=True, text=True, env=env,
                       timeout=s.LIMIT, check=False)
    equal(r.returncode, 1, r.stderr)
    check("nbdkit cannot serve it" in r.stderr, r.stderr)


def folder_estimate():
    """what an image will be like is told before it is made; and that there is no room"""
    s.need("xorriso")
    d = workdir()
    os.makedirs(f"{d}/many/sub")
    for i in range(50):
        random_file(f"{d}/many/sub/{i}", 40000 + i)
    os.symlink("/", f"{d}/many/root")
    share, _, link = linked(f"{d}/many")
    told = json.loads(next(x for x in share.out.seen if '"preparing"' in x))
    size = link.offer("many")["size"]
    check(0.8 * size < told["size"] < 1.25 * size, f"{told['size']} for {size}")
    equal(told["files"], 50, "files")
    equal(share.stop(), 0, "exit status")
    with open(f"{d}/many/huge", "wb") as f:
        os.truncate(f.fileno(), 8 << 40)
    refused(1, "--uri", NOWHERE, f"{d}/many", says="needs about 8.0.TiB .* are free")


def locks():
    """a file that is being written is shared once"""
    d = workdir()
    f = random_file(f"{d}/f", 1 << 20)
    u = ("--uri", NOWHERE)
    refused(1, *u, "--read-write", f, f, says="shared already")
    share, _, link = linked("--read-write", f)
    refused(1, *u, "--read-write", f, says="shared already")
    refused(1, *u, f, says="read-write already")
    # A killed share's servers die with it, and only then the lock is free.
    n = link.open(link.offer("f")).nbd()
    pid, = share.children()
    share.p.kill()
    share.p.wait()
    again, _, _ = linked("--read-write", f)
    check(not os.path.exists(f"/proc/{pid}") or
          open(f"/proc/{pid}/stat").read().rsplit(")", 1)[1].split()[0] == "Z",
          "the lock was free while a server lived")
    equal(again.stop(), 0, "exit status")
    del n


def no_nbdkit():
    """without nbdkit: status 1 and what to install"""
    s.need(s.SHARE)
    f = random_file(f"{workdir()}/f", 4096)
    r = subprocess.run([s.SHARE, "--uri", NOWHERE, f], capture_output=True, text=True,
                       env=dict(os.environ, PATH="/nonexistent"), timeout=s.LIMIT, check=False)
    equal(r.returncode, 1, r.stderr)
    check("install" in r.stderr, r.stderr)


if __name__ == "__main__":
    s.run([usage, help_and_version, bad_files, unwritable, unreachable, no_spice, password, names,
           kinds, words, folder_iso, folder_fat, folder_errors,
           folder_estimate, locks, no_nbdkit])
