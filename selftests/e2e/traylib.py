# SPDX-License-Identifier: GPL-2.0-only
"""What the tests of the tray's acceptance table share.

Rows (a name and a function, printed as KTAP, listed by --list), a QMP client
that keeps every event, a marker that shows that no more events are under way,
and a look at a drive from three sides: spicebdd, kernel, data.
"""
import array
import fcntl
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import traceback

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)),
                                "..", "netlink"))
from helper import SCALE, Uevents  # noqa: E402 pylint: disable=wrong-import-position

RUN = os.environ.get("SPICEBD_RUN_DIR", "/run/spicebd")
PATIENCE = 40 * SCALE	# seconds; for an emulated machine that is busy
IMAGE_SIZE = 1440 << 10

CDROM, DISK = "cdrom", "disk"
DRIVES = {CDROM: "spicebd0", DISK: "spicebd1"}

CDROM_LOCKDOOR = 0x5329
CDROM_DRIVE_STATUS = 0x5326
CDS = {1: "empty", 2: "open", 3: "not ready", 4: "ready"}


class Skip(Exception):
    """Why a row cannot be run here."""


def same(got, want, what):
    if got != want:
        raise AssertionError(f"{what}: {got!r}, expected {want!r}")


def until(test, what, seconds=PATIENCE):
    """For what has no event: polls, with an end."""
    end = time.monotonic() + seconds
    while True:
        got = test()
        if got:
            return got
        if time.monotonic() > end:
            raise AssertionError(f"{what}: not within {seconds} s")
        time.sleep(0.02)


def sh(command, check=True):
    p = subprocess.run(["sh", "-c", command], capture_output=True, text=True,
                       timeout=120 * SCALE, check=False)
    if check and p.returncode:
        raise AssertionError(f"{command}: exit status {p.returncode}: "
                             f"{p.stdout}{p.stderr}")
    return p.stdout


def daemon_pid():
    """Of spicebdd itself: it has a child that goes by a longer name."""
    return int(sh("pgrep -x spicebdd"))


# Rows


class Table:
    """The rows of one test program."""

    def __init__(self):
        self.rows = []

    def add(self, name, fn, *args):
        self.rows.append((name, fn, args))

    def main(self, bench):
        """Lists the rows, or runs them with what bench() makes; exits."""
        args = sys.argv[1:]
        if args == ["--list"]:
            print("\n".join(name for name, _, _ in self.rows))
            sys.exit(0)
        rows = [r for r in self.rows
                if not args or any(re.search(a, r[0]) for a in args)]
        print(f"TAP version 13\n1..{len(rows)}", flush=True)
        failed = 0
        with bench() as b:
            for i, (name, fn, a) in enumerate(rows, 1):
                failed += not one(i, name, lambda: fn(b, *a), b)
        sys.exit(1 if failed or not rows else 0)


def one(i, name, fn, bench):
    try:
        fn()
        print(f"ok {i} - {name}", flush=True)
        return True
    except Skip as e:
        print(f"ok {i} - {name} # SKIP {e}", flush=True)
        return True
    except BaseException as e:  # pylint: disable=broad-except
        for line in traceback.format_exc().splitlines():
            print("# " + line)
        for line in bench.story():
            print("# " + line)
        print(f"not ok {i} - {name}", flush=True)
        if isinstance(e, KeyboardInterrupt):
            raise
        return False


# QMP


class Answer:
    """What came of a command: a value, or an error's class and words."""

    def __init__(self, value=None, cls=None, desc=None):
        self.value, self.cls, self.desc = value, cls, desc

    def __repr__(self):
        return repr(self.value) if self.cls is None else f"{self.cls}: {self.desc}"

    def good(self):
        assert self.cls is None, f"refused: {self}"
        return self.value

    def bad(self, words, cls="GenericError"):
        assert self.cls is not None, f"not refused: {self}"
        assert self.cls == cls and re.search(words, self.desc, re.I), \
            f"refused with other words: {self}; expected {cls}: {words}"
        return self


class Qmp:
    """One connection. Events are kept, in the order in which they came."""

    def __init__(self, name="control", negotiate=True, timeout=PATIENCE):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(timeout)
        self.sock.connect(f"{RUN}/{name}.sock")
        self.file = self.sock.makefile("rb")
        self.events = []
        self.heard = []
        self.greeting = self.read()
        if negotiate:
            self.do("qmp_capabilities")

    def close(self):
        self.file.close()
        self.sock.close()

    def read(self):
        line = self.file.readline()
        if not line:
            raise EOFError("spicebdd closed the connection")
        return json.loads(line)

    def send(self, name, /, fd=None, **args):
        args = {k.replace("_", "-"): v for k, v in args.items() if v is not None}
        line = json.dumps({"execute": name, "arguments": args}).encode() + b"\n"
        anc = [] if fd is None else \
            [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [fd]))]
        self.heard.append(f"-> {name} {args}")
        sent = self.sock.sendmsg([line], anc)
        if sent < len(line):
            self.sock.sendall(line[sent:])

    def next(self):
        """The next object; an event is kept, and None returned."""
        o = self.read()
        if "event" in o:
            self.events.append(o)
            self.heard.append(f"<- {o['event']} {o['data']}")
            return None
        return o

    def receive(self):
        while True:
            o = self.next()
            if o is None:
                continue
            if "error" in o:
                a = Answer(None, o["error"]["class"], o["error"]["desc"])
            else:
                a = Answer(o["return"])
            self.heard.append(f"<- {a}"[:300])
            return a

    def cmd(self, name, /, fd=None, **args):
        self.send(name, fd=fd, **args)
        return self.receive()

    def do(self, name, /, **args):
        return self.cmd(name, **args).good()

    def add_fd(self, fd):
        """Passes a descriptor; what to call it."""
        got = self.cmd("add-fd", fd=fd).good()
        return f"/dev/fdset/{got['fdset-id']}"


class Marker:
    """An empty cdrom drive whose tray is moved to make an event.

    The kernel's events reach spicebdd through one socket and a peer through
    another, both in order. So what has not come before the marker's event, of
    what happened before the marker moved, never comes.
    """

    def __init__(self, q):
        self.q = q
        self.name = q.do("spicebd-drive-add", personality=CDROM)["drive"]
        self.open = False

    def flush(self):
        self.open = not self.open
        verb = "open" if self.open else "close"
        self.q.do(f"blockdev-{verb}-tray", id=self.name)
        while not self.seen():
            self.q.next()

    def seen(self):
        for i, e in enumerate(self.q.events):
            if e["event"] == "DEVICE_TRAY_MOVED" and e["data"]["id"] == self.name:
                del self.q.events[i]
                return True
        return False

    def remove(self):
        self.q.cmd("spicebd-drive-del", drive=self.name, force=True)


# A drive


KINDS = {"DEVICE_TRAY_MOVED": "tray", "SPICEBD_MEDIUM_CHANGED": "medium",
         "SPICEBD_EJECT_REQUEST": "request", "SPICEBD_LOCK_CHANGED": "lock"}


def event_of(e):
    """(kind, what it says), or None: another event than those of the table."""
    d = e["data"]
    kind = KINDS.get(e["event"])
    if kind == "tray":
        return kind, "open" if d["tray-open"] else "closed"
    if kind == "medium":
        return kind, d["medium"] and d["medium"]["name"]
    if kind == "request":
        return kind, True
    if kind == "lock":
        return kind, (d["locked"], d.get("locked-by-admin", False))
    return None


class Drive:
    """A drive of the table, and the events that concern it."""

    def __init__(self, bench, personality):
        self.bench, self.q = bench, bench.q
        self.personality = personality
        self.name = DRIVES[personality]
        self.node = "/dev/" + self.name
        self.has_tray = personality == CDROM
        self.seen = []
        self.changes = 0

    def drain(self):
        self.bench.marker.flush()
        return self.collect()

    def collect(self):
        rest = []
        for e in self.q.events:
            d = e["data"]
            if d.get("drive", d.get("device")) == self.name:
                x = event_of(e)
                if x:
                    self.seen.append(x)
            else:
                rest.append(e)
        self.q.events[:] = rest
        return self.seen

    def forget(self):
        """From here on events count."""
        self.drain()
        self.seen = []
        self.bench.media_uevents(self.name)
        self.changes = self.query()["stats"]["medium-changes"]

    def events(self, tray=(), medium=(), request=0, lock=()):
        """Exactly these came since the last look, each kind in this order.

        A tray's moves, locks and requests are told while the verb is carried
        out, a medium when it has been shown to the block layer or hidden from
        it: so these have an order of their own.
        """
        want = {"tray": list(tray) if self.has_tray else [],
                "medium": list(medium), "request": [True] * request,
                "lock": list(lock)}
        n = sum(map(len, want.values()))
        end = time.monotonic() + PATIENCE
        while len(self.drain()) < n and time.monotonic() < end:
            time.sleep(0.02)
        seen, self.seen = self.seen, []
        got = {k: [v for kind, v in seen if kind == k] for k in want}
        same(got, want, f"events of {self.name}")
        self.never_readable_when_open(seen)
        self.uevents(len(medium))

    def uevents(self, n):
        """One for each medium that came or went: sent before the event is, so
        what is to come has come; the kernel's own count beside it."""
        same(self.bench.media_uevents(self.name), n,
             f"uevents of {self.name} with DISK_MEDIA_CHANGE")
        changes = self.query()["stats"]["medium-changes"]
        same(changes - self.changes, n, f"{self.name}: medium-changes")
        self.changes = changes

    def never_readable_when_open(self, seen):
        is_open = False
        for kind, what in seen:
            if kind == "tray":
                is_open = what == "open"
            assert not (kind == "medium" and what and is_open), \
                f"{self.name}: a medium was announced in an open tray: {seen}"

    def block(self):
        return [b for b in self.q.do("query-block") if b["device"] == self.name][0]

    def query(self):
        return self.q.do("spicebd-query", drive=self.name)[0]

    def kernel_status(self):
        """What the kernel says, without spicebdd."""
        if self.has_tray:
            fd = os.open(self.node, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
            try:
                return CDS.get(fcntl.ioctl(fd, CDROM_DRIVE_STATUS, 0))
            finally:
                os.close(fd)
        with open(f"/sys/block/{self.name}/size", encoding="ascii") as f:
            return "ready" if int(f.read()) else "empty"

    def head(self):
        """The first bytes of the medium, from the node. O_NONBLOCK: an open
        that means data would lock a cdrom's door."""
        fd = os.open(self.node, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            return os.pread(fd, 512, 0).split(b"\n")[0].decode()
        finally:
            os.close(fd)

    def holds(self, tray, medium, ro=None):
        """tray: "open" or "closed"; medium: an Image or None."""
        b = self.block()
        same(b.get("tray_open"), (tray == "open") if self.has_tray else None,
             "query-block: tray_open")
        same("inserted" in b, medium is not None, "query-block: inserted")
        q = self.query()
        same(q["tray"], tray if self.has_tray else "closed", "spicebd-query: tray")
        same(q["medium"] is not None, medium is not None, "spicebd-query: medium")
        shown = medium is not None and (tray == "closed" or not self.has_tray)
        kernel = "ready" if shown else "open" if self.has_tray and tray == "open" \
            else "empty"
        same(self.kernel_status(), kernel, "the kernel's status")
        if not medium:
            return
        same(q["medium"]["size"], medium.size, "size")
        medium.check_block(b["inserted"])
        if ro is not None:
            same(b["inserted"]["ro"], ro, "query-block: ro")
            same(q["medium"]["read-only"], ro, "spicebd-query: read-only")
        if shown:
            same(self.head(), medium.label, "the data")
            if ro is not None and not self.has_tray:
                same(sh(f"blockdev --getro {self.node}").strip(), str(int(ro)),
                     "the kernel's read-only flag")

    def settle(self):
        """Until udev has looked at the medium: it holds a disk while it does,
        and none of the table's verbs is to meet it."""
        subprocess.run(["udevadm", "settle", f"--timeout={PATIENCE}"], check=False)
        until(lambda: not self.query()["openers"], f"{self.name} is not used")

    def empty_all(self):
        """The other drives too: one file is not for two drives if one writes."""
        for d in self.bench.drives.values():
            d.empty()

    def empty(self):
        """Tray closed and no medium, whatever it was, by force."""
        q = self.query()
        if q["medium"] or q["stale"]:
            self.settle()
            self.q.do("eject", id=self.name, force=True)
        if self.has_tray and (q["medium"] or q["tray"] == "open"):
            self.q.do("blockdev-close-tray", id=self.name)
        until(lambda: self.kernel_status() == "empty", f"{self.name} is empty")
        self.settle()


class Image:
    """A medium in a file. Its first line tells which it is."""

    def __init__(self, path, label, size=IMAGE_SIZE):
        self.path, self.label, self.size = path, label, size
        self.name = os.path.basename(path)
        with open(path, "wb") as f:
            f.write(label.encode() + b"\n")
            f.truncate(size)

    def check_block(self, inserted):
        same(inserted["image"]["filename"], self.path, "query-block: filename")
        same(inserted["image"]["virtual-size"], self.size, "query-block: virtual-size")


class Export(Image):
    """The same behind an NBD server on a unix socket."""

    def __init__(self, bench, directory, label, *nbdkit_args, **kw):
        super().__init__(f"{directory}/{label.replace(' ', '-')}.img", label, **kw)
        self.socket = f"{directory}/{label.replace(' ', '-')}.sock"
        pid = self.socket + ".pid"
        options = [a for a in nbdkit_args if a.startswith("-")]
        # Its words must not get between ours.
        with open(self.socket + ".log", "wb") as log:
            bench.spawn("nbdkit", "-f", "-U", self.socket, "-P", pid, *options,
                        "file", self.path, *[a for a in nbdkit_args if a not in options],
                        stderr=log)
        until(lambda: os.path.exists(pid), "nbdkit listens")
        self.file, self.path = self.path, f"nbd+unix:///?socket={self.socket}"
        self.name = os.path.basename(self.socket)

    def server(self):
        return {"type": "unix", "path": self.socket}


class Bench:
    """Connection, marker, drives, a directory for media; undone at the end."""

    def __init__(self):
        self.dir = tempfile.mkdtemp(prefix="tray-")
        os.chmod(self.dir, 0o755)
        self.children = []
        self.q = Qmp()
        self.marker = Marker(self.q)
        self.drives = {p: Drive(self, p) for p in DRIVES}
        self.undo = []
        self.made = {}		# media, by the rows that need them
        self.nodes = []
        self.node_count = 0
        self.uevents = Uevents()
        self.uevents_of = dict.fromkeys(DRIVES.values(), 0)

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        for d in self.drives.values():
            self.q.cmd("spicebd-unlock", drive=d.name, force=True)
            self.q.cmd("eject", id=d.name, force=True)
            if d.has_tray:
                self.q.cmd("blockdev-close-tray", id=d.name)
        self.marker.remove()
        self.drop_nodes()
        self.q.close()
        for p in self.children:
            p.terminate()
            p.wait(PATIENCE)
        for fn in reversed(self.undo):
            fn()
        shutil.rmtree(self.dir, ignore_errors=True)

    def media_uevents(self, name):
        """How many have come for this drive since it was asked last."""
        for e in self.uevents.read(0):
            if e.get("DISK_MEDIA_CHANGE") and e.get("DEVTYPE") == "disk" and \
               e["DEVNAME"] in self.uevents_of:
                self.uevents_of[e["DEVNAME"]] += 1
        n = self.uevents_of[name]
        self.uevents_of[name] = 0
        return n

    def add_node(self, **args):
        """blockdev-add; its name."""
        self.node_count += 1
        name = f"node{self.node_count}"
        self.q.do("blockdev-add", node_name=name, **args)
        self.nodes.append(name)
        return name

    def drop_nodes(self):
        """Those that no medium uses."""
        self.nodes = [n for n in self.nodes if self.q.cmd("blockdev-del", node_name=n).cls]

    def spawn(self, *argv, **kw):
        p = subprocess.Popen(argv, **kw)
        self.children.append(p)
        return p

    def image(self, label, **kw):
        return Image(f"{self.dir}/{label.replace(' ', '-')}.img", label, **kw)

    def export(self, label, *nbdkit_args, **kw):
        return Export(self, self.dir, label, *nbdkit_args, **kw)

    def again(self):
        """spicebdd is another one now"""
        self.q.close()

        def connect():
            try:
                return Qmp()
            except (OSError, EOFError):
                return None

        self.q = until(connect, "spicebdd answers")
        for d in self.drives.values():
            d.q = self.q
        self.marker.q = self.q

    def story(self):
        """What was said lately, for the reader of a failure."""
        return [line[:200] for line in self.q.heard[-16:]]
