# SPDX-License-Identifier: GPL-2.0-only
"""read-only-mode: the rows of iotest 118's TestChangeReadOnly, over QMP and by
spicebdctl, with media that really cannot be written by who opens them:

  file   a file of mode 0444, opened by spicebdd, which is root without
         any capability, so that the mode counts (a row shows that it has none)
  fd     a descriptor that an unprivileged user opened, passed by add-fd
  nbd    an NBD server that refuses to be written
  ctl    a file on a read-only mount, opened by spicebdctl as root
"""
import array
import errno
import os
import socket

from traylib import CDROM, DISK, Export, Image, daemon_pid, same, sh
from trayrows import ByCtl, ByDevice

NOBODY = 65534
RO, RW = "ro", "rw"
CANNOT_WRITE = "read-only|permission denied"


def open_as_nobody(path, flags):
    """A descriptor from a child that has no rights, or its error."""
    ours, theirs = socket.socketpair()
    pid = os.fork()
    if not pid:
        code = 1
        try:
            os.setgroups([])
            os.setresgid(NOBODY, NOBODY, NOBODY)
            os.setresuid(NOBODY, NOBODY, NOBODY)
            try:
                fd = os.open(path, flags)
                anc = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [fd]))]
                theirs.sendmsg([b"\0\0"], anc)
            except OSError as e:
                theirs.send(e.errno.to_bytes(2, "big"))
            code = 0
        finally:
            os._exit(code)
    theirs.close()
    data, anc, _, _ = ours.recvmsg(2, socket.CMSG_SPACE(4))
    ours.close()
    _, status = os.waitpid(pid, 0)
    same(status, 0, "the unprivileged child's status")
    error = int.from_bytes(data, "big")
    if error:
        raise OSError(error, os.strerror(error))
    return array.array("i", anc[0][2])[0]


class Passed(Image):
    """A file that an unprivileged user opens, anew for each use."""

    def __init__(self, bench, path, label, mode):
        self.file = path
        super().__init__(path, label)
        os.chmod(path, 0o444 if mode == RO else 0o666)
        self.bench, self.mode = bench, mode
        self.given = None

    @property
    def path(self):
        if self.mode == RO:
            try:
                os.close(open_as_nobody(self.file, os.O_RDWR))
            except OSError as e:
                same(e.errno, errno.EACCES, "an unprivileged open for writing")
            else:
                raise AssertionError(f"{self.file} can be written by anybody")
        fd = open_as_nobody(self.file, os.O_RDONLY if self.mode == RO else os.O_RDWR)
        self.given = self.bench.q.add_fd(fd)
        os.close(fd)
        self.name = os.path.basename(self.given)
        return self.given

    @path.setter
    def path(self, value):
        pass

    def check_block(self, inserted):
        same(inserted["image"]["filename"], self.given, "query-block: filename")


def media(bench, kind):
    """Two that can be written and two that cannot: {mode: (old, new)}."""
    if kind in bench.made:
        return bench.made[kind]
    d = f"{bench.dir}/{kind}"
    os.mkdir(d)
    got = {}
    if kind == "ctl":
        os.mkdir(f"{d}/real")
        os.mkdir(f"{d}/mount")
    for mode in (RO, RW):
        pair = []
        for which in ("old", "new"):
            label = f"{kind} {which} {mode}"
            path = f"{d}/{which}-{mode}.img"
            if kind == "fd":
                i = Passed(bench, path, label, mode)
            elif kind == "nbd":
                i = Export(bench, d, label, *(["-r"] if mode == RO else []))
            elif kind == "ctl" and mode == RO:
                i = Image(f"{d}/real/{which}.img", label)
                i.path = f"{d}/mount/{which}.img"
            else:
                i = Image(path, label)
                os.chmod(path, 0o444 if mode == RO else 0o644)
            pair.append(i)
        got[mode] = tuple(pair)
    if kind == "ctl":
        sh(f"mount --bind {d}/real {d}/mount && mount -o remount,bind,ro {d}/mount")
        bench.undo.append(lambda: sh(f"umount {d}/mount"))
    bench.made[kind] = got
    return got


def writes(drive, works):
    """A block is written to the node, or cannot be."""
    try:
        fd = os.open(drive.node, os.O_RDWR | os.O_DSYNC | os.O_CLOEXEC)
    except OSError as e:
        assert not works, f"{drive.node} cannot be opened for writing: {e}"
        assert e.errno in (errno.EROFS, errno.EACCES), e
        return
    try:
        assert works, f"{drive.node} of a read-only medium can be opened for writing"
        same(os.pwrite(fd, b"written".ljust(512, b"\0"), 8192), 512, "write")
        os.fsync(fd)
    finally:
        os.close(fd)


def fill(bench, hand, drive, image, mode):
    drive.empty()
    q = bench.q
    if isinstance(hand, ByCtl):
        flag = "--read-only" if mode == RO else "--read-write"
        hand.run("insert", drive.name, image.path, flag).good()
    else:
        q.do("spicebd-insert", drive=drive.name, source=image.path,
             read_only_mode="read-only" if mode == RO else "read-write")
    drive.settle()
    drive.forget()
    drive.holds("closed", image, ro=mode == RO)


def change_row(bench, kind, old_mode, new_mode, how, result):
    drive = bench.drives[DISK]
    hand = (ByCtl if kind == "ctl" else ByDevice)(bench, drive)
    m = media(bench, kind)
    old, new = m[old_mode][0], m[new_mode][1]
    fill(bench, hand, drive, old, old_mode)
    answer = hand.change(new, mode=how)
    if result is None:
        answer.bad(CANNOT_WRITE, hand.refused)
        drive.events()
        drive.holds("closed", old, ro=old_mode == RO)
        writes(drive, old_mode == RW)
    else:
        answer.good()
        drive.events([], [None, new.name])
        drive.holds("closed", new, ro=result == RO)
        drive.settle()
        writes(drive, result == RW)
    drive.settle()


def cycle_row(bench, kind):
    drive = bench.drives[DISK]
    hand = (ByCtl if kind == "ctl" else ByDevice)(bench, drive)
    m = media(bench, kind)
    old, new = m[RW][0], m[RO][1]
    fill(bench, hand, drive, old, RW)
    if kind == "nbd":
        node = bench.add_node(driver="nbd", server=new.server(), read_only=True)
    elif kind != "ctl":
        node = bench.add_node(driver="file", filename=new.path, read_only=True)
    drive.events()
    drive.holds("closed", old, ro=False)
    hand.remove().good()
    drive.events([], [None])
    drive.holds("closed", None)
    if kind == "ctl":
        hand.insert(new, read_only=True).good()
    else:
        bench.q.do("blockdev-insert-medium", id=drive.name, node_name=node)
    drive.events([], [new.name])
    drive.holds("closed", new, ro=True)
    writes(drive, False)
    drive.settle()
    drive.empty()
    bench.drop_nodes()


def binds_by_mode(_):
    """Otherwise a mode of 0444 would not keep root from writing."""
    with open(f"/proc/{daemon_pid()}/status", encoding="ascii") as f:
        status = dict(line.rstrip("\n").split(":\t", 1) for line in f if ":\t" in line)
    for which in ("CapEff", "CapPrm", "CapInh", "CapAmb"):
        same(int(status[which], 16), 0, which)


def cdrom_row(bench, way, how, works):
    """A cdrom is read-only whatever its media are; it says so, and keeps them."""
    drive = bench.drives[CDROM]
    hand = (ByCtl if way == "ctl" else ByDevice)(bench, drive)
    old, new = media(bench, "file")[RW]
    drive.empty()
    bench.q.do("spicebd-insert", drive=drive.name, source=old.path)
    drive.settle()
    drive.forget()
    answer = hand.change(new, mode=how)
    if works:
        answer.good()
        drive.events(["open", "closed"], [None, new.name])
        drive.holds("closed", new, ro=True)
    else:
        answer.bad("read-only", hand.refused)
        drive.events()
        drive.holds("closed", old, ro=True)


def refuses_writes(bench):
    """A server that says it can be written, and then refuses each write: the
    writer is told, the medium stays and can be read."""
    drive = bench.drives[DISK]
    i = bench.export("liar", "--filter=error", "error-pwrite=EPERM",
                     "error-pwrite-rate=100%")
    fill(bench, ByDevice(bench, drive), drive, i, RW)
    fd = os.open(drive.node, os.O_RDWR | os.O_DSYNC | os.O_CLOEXEC)
    try:
        os.pwrite(fd, bytes(512), 8192)
        raise AssertionError("a write was acknowledged that the server refused")
    except OSError as e:
        assert e.errno in (errno.EIO, errno.EPERM), e
    finally:
        os.close(fd)
    drive.settle()
    drive.events()
    drive.holds("closed", i, ro=False)
    same(drive.query()["state"], "ready", "state")
    bench.q.do("eject", id=drive.name)
    drive.events([], [None])


METHODS = {
    "test_ro_ro_retain": (RO, RO, "retain", RO),
    "test_ro_rw_retain": (RO, RW, "retain", RO),
    "test_rw_ro_retain": (RW, RO, "retain", None),
    "test_ro_rw": (RO, RW, "read-write", RW),
    "test_rw_ro": (RW, RO, "read-only", RO),
    "test_make_rw_ro": (RW, RW, "read-only", RO),
    "test_make_ro_rw": (RW, RO, "read-write", None),
    "test_make_rw_ro_by_retain": (RO, RW, "retain", RO),
    "test_make_ro_rw_by_retain": (RW, RO, "retain", None),
}

def add_rows(table, *kinds):
    """The rows for media of these kinds: "file", "fd", "nbd", "ctl"."""
    for kind in kinds:
        for method, spec in METHODS.items():
            table.add(f"disk {kind}: {method}", change_row, kind, *spec)
        table.add(f"disk {kind}: test_rw_ro_cycle", cycle_row, kind)
    for way in {"qmp" if kind != "ctl" else "ctl" for kind in kinds}:
        for how, works in (("retain", True), ("read-only", True), ("read-write", False)):
            table.add(f"cdrom {way}: read-only-mode {how}", cdrom_row, way, how, works)
