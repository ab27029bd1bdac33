#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-only
"""spicebd-nbdkit: serve the very descriptor, fence, stop, start again, and
errors with a reason."""
import fcntl
import os
import signal
import socket
import struct
import subprocess

import procs
from procs import (FAT, FENCE, FILE, ISO, STATUS, STOP, Launcher, Nbd, await_true, end, equal, gone,
                   ok)

# timeout: 180


def image(name, size=1 << 20, mode=0o600):
    path = f"{procs.run_dir}/{name}"
    with open(path, "wb") as f:
        f.truncate(size)
    os.chmod(path, mode)
    return path


def lock_is_free(path):
    """Whether nobody of this id is left, as spicebdd would find out."""
    fd = os.open(path, os.O_RDWR)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return True
    except BlockingIOError:
        return False
    finally:
        os.close(fd)


def serve():
    path = image("disk")
    l = Launcher(path)
    a = l.answer()
    if not ok(a and a.error == 0 and a.pid > 0, "a file is served", a):
        return
    # Its name is another file's now: what is served is what was opened.
    os.rename(path, path + ".moved")
    image("disk", 4096)
    c = Nbd(l.path("sock")).handshake()
    equal(c.size, 1 << 20, "the descriptor is served, whatever became of its name")
    equal(c.write(512, b"x" * 512), 0, "it can be written")
    with open(path + ".moved", "rb") as f:
        equal(os.pread(f.fileno(), 512, 512), b"x" * 512, "the write is in the file")
    ok(c.flags & 0x100, "several connections are allowed")
    s = l.command(STATUS)
    ok(s.error == 0 and s.pid == a.pid and s.incarnation == a.incarnation,
       "STATUS tells the same pid and incarnation", (a, s))
    ok(not lock_is_free(l.path("lock")), "the lock is held while it serves")
    stop = l.command(STOP)
    equal(stop.error, 0, "STOP")
    equal(l.status(), 0, "it ends after STOP")
    ok(gone(a.pid), "so does nbdkit")
    equal(os.listdir(f"{procs.run_dir}/nbdkit"), [], "nothing is left in the run directory")


def read_only():
    path = image("ro")
    l = Launcher(path, flags=os.O_RDONLY, read_only=True)
    a = l.answer()
    equal(a.error, 0, "a read-only descriptor is served")
    c = Nbd(l.path("sock")).handshake()
    ok(c.flags & 2, "the export is read-only")
    ok(c.write(0, b"x" * 512) != 0, "a write is refused")
    end(l.proc)
    a2 = Launcher(path, flags=os.O_RDONLY)
    a = a2.answer()
    ok(a.error != 0 and "read-only" in a.text, "writing wanted of a read-only descriptor", a)
    equal(a2.status(), 1, "and it ends")


def wrapper(delay):
    """An nbdkit whose writes take their time: the delay filter before the file."""
    path = f"{procs.run_dir}/slow-nbdkit"
    with open(path, "w") as f:
        f.write(f"""#!/bin/sh
# the first one is slow, the next is not
if mkdir {procs.run_dir}/was-slow 2>/dev/null; then
	exec nbdkit --filter=delay "$@" wdelay={delay}
fi
exec nbdkit "$@"
""")
    os.chmod(path, 0o755)
    return path


def fence():
    path = image("fenced")
    l = Launcher(path, env={"SPICEBD_NBDKIT": wrapper(3)})
    a = l.answer()
    equal(a.error, 0, "a slow server starts")
    c = Nbd(l.path("sock")).handshake()
    c.send(1, 0, 512, b"O" * 512)		# held for 3 s inside nbdkit
    waiting = Nbd(l.path("sock"))		# stays in the backlog or is reset
    f = l.command(FENCE)
    ok(f.error == 0 and f.pid != a.pid and f.incarnation != a.incarnation,
       "FENCE answers with another pid and incarnation", (a, f))
    ok(gone(a.pid, 0), "the old one is gone when the answer comes")
    try:
        lost = c.reply()
        ok(lost[0] != 0, "the old write was not acknowledged", lost)
    except (ConnectionError, OSError):
        ok(True, "the old write was not acknowledged")
    n = Nbd(l.path("sock")).handshake()
    equal(n.write(0, b"N" * 512), 0, "the sector is written again by the new one")
    # Longer than the old write would have been held.
    try:
        waiting.s.settimeout(3.5)
        while waiting.s.recv(4096):
            pass
    except (socket.timeout, OSError):
        pass
    equal(n.read(0, 512), b"N" * 512, "the old write did not land afterwards")
    again = l.command(FENCE)
    ok(again.error == 0 and again.pid != f.pid, "FENCE once more", again)
    busy = Nbd(l.path("sock")).handshake()	# an orderly end would wait for it
    busy.send(1, 0, 512, b"O" * 512)
    end(l.proc)
    ok(gone(again.pid), "nbdkit dies with its parent's SIGKILL, whoever is connected")
    ok(await_true(lambda: lock_is_free(l.path("lock"))), "and the lock shows it")


def backlog():
    """A connection made while nothing accepts is served after the fence."""
    l = Launcher(image("backlog"))
    a = l.answer()
    os.kill(a.pid, signal.SIGSTOP)
    c = Nbd(l.path("sock"))
    f = l.command(FENCE)
    equal(f.error, 0, "a stopped nbdkit is fenced")
    equal(c.handshake().size, 1 << 20, "a connection outlived the fence in the backlog")
    l.command(STOP)


def restart():
    l = Launcher(image("restart"))
    a = l.answer()
    os.kill(a.pid, signal.SIGKILL)
    s = await_true(lambda: (lambda s: s if s.error == 0 and s.pid != a.pid else None)(l.command(STATUS)))
    ok(s and s.incarnation != a.incarnation, "a killed nbdkit is started again, as another", s)
    kills = 1
    pid = s.pid
    while l.proc.poll() is None and kills < 20:
        os.kill(pid, signal.SIGKILL)
        kills += 1

        def next_pid():
            if l.proc.poll() is not None:
                return -1
            try:
                s = l.command(STATUS)
            except OSError:
                return None
            return s.pid if s and s.error == 0 and s.pid != pid else None
        pid = await_true(next_pid, 15)
        if not pid or pid < 0:
            break
    equal(l.status(), 1, "it gives up")
    equal(kills, 6, "after 5 restarts in 60 s")
    ok(not os.path.exists(l.path("sock")), "and takes its sockets away")


def orphan():
    l = Launcher(image("orphan"))
    a = l.answer()
    l.sock.close()
    s = l.command(STATUS)
    equal(s.pid, a.pid, "it outlives the one who asked for it")
    l.proc.send_signal(signal.SIGTERM)
    equal(l.status(), 0, "SIGTERM ends it")
    ok(gone(a.pid), "with its nbdkit")


def folder():
    d = f"{procs.run_dir}/folder"
    os.mkdir(d)
    with open(d + "/a.txt", "w") as f:
        f.write("hello")
    os.symlink("/etc/shadow", d + "/secret")
    for mode, what, size in ((ISO, "iso", 32768), (FAT, "fat", 512)):
        l = Launcher(d, flags=os.O_RDONLY | os.O_DIRECTORY, mode=mode, read_only=True,
                     label=b"MY DISC")
        a = l.answer()
        if not ok(a.error == 0, f"a folder is served as {what}", a):
            continue
        c = Nbd(l.path("sock")).handshake()
        before = c.read(0, min(c.size, 1 << 20))
        ok(c.flags & 2, f"{what}: read-only")
        if mode == ISO:
            ok(before[32769:32774] == b"CD001" and b"MY DISC" in before, f"{what}: format and label")
            ok(b"hello" in before, f"{what}: its file is in it")
        else:
            equal(before[510:512], b"\x55\xaa", f"{what}: a partition table")
        ok(b"root:" not in before, f"{what}: a symbolic link is not followed")
        with open(d + "/b.txt", "w") as f:
            f.write("another")
        l.command(FENCE)
        c = Nbd(l.path("sock")).handshake()
        equal(c.read(0, min(c.size, 1 << 20)), before,
              f"{what}: the same bytes after a fence, though the folder changed")
        os.unlink(d + "/b.txt")
        l.command(STOP)


def refused():
    path = image("refused")
    d = f"{procs.run_dir}/folder"

    def no(name, want, *a, **kw):
        l = Launcher(*a, **kw)
        r = l.answer()
        ok(r and r.error != 0 and want in r.text, f"{name}: {r and r.text}", r)
        equal(l.status(), 1, f"{name}: it ends")

    no("a character device", "regular file", "/dev/null")
    no("a folder as a file", "regular file", d, flags=os.O_RDONLY)
    no("a file as a folder", "not a folder", path, mode=ISO)
    no("nbdkit is not there", "not installed", path, env={"SPICEBD_NBDKIT": "no-such-nbdkit"})
    no("nbdkit fails", "status 1", path, env={"SPICEBD_NBDKIT": "/bin/false"})
    no("an id that is a path", "malformed", path, id="../../etc/passwd".ljust(32, "x"))
    no("an unknown mode", "malformed", path, mode=9)
    no("a short message", "malformed", path, raw=b"abc")
    no("no descriptor", "malformed", None)
    l = Launcher(path)
    l.answer()
    no("an id in use", "in use", path, id=l.id)
    ok(l.command(STATUS).error == 0, "which disturbs the one that has it in nothing")
    with l.control() as s:
        s.send(b"nonsense, and too long for a command")
        ok(procs.receive(s) is None, "nonsense on the control socket closes it")
    with l.control() as s:
        s.send(struct.pack("<II", procs.MAGIC, 77))
        ok(procs.receive(s).error != 0, "an unknown command is answered with an error")
    l.command(STOP)
    l = Launcher(path, env={"SPICEBD_NBDKIT": "/bin/cat"})
    l.sock.close()
    equal(l.status(), 1, "an asker who goes away before the answer cancels the job")
    left = [x for x in ("sock", "ctl", "lock") if os.path.exists(l.path(x))]
    equal(left, [], "and leaves nothing behind")


def test():
    if subprocess.run(["sh", "-c", "command -v nbdkit"], capture_output=True).returncode:
        procs.skip("all", "nbdkit is not installed")
        return
    for t in (serve, read_only, fence, backlog, restart, orphan, folder, refused):
        t()


procs.main(test, "spicebd-nbdkit")
