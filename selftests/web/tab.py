#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-only
"""The page's modules in node, against a real spicebd-link: they connect, offer, serve
what libnbd asks for, survive what no client asks for, give back and come back."""
# timeout: 300
import contextlib
import hashlib
import json
import os
import random
import shutil
import struct
import subprocess
import sys
import tempfile

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(os.path.dirname(HERE), "link"))
import linktest as t  # noqa: E402  pylint: disable=wrong-import-position
import nbd  # noqa: E402  pylint: disable=wrong-import-position
import socket  # noqa: E402  pylint: disable=wrong-import-position
import threading  # noqa: E402  pylint: disable=wrong-import-position
import xxhash  # noqa: E402  pylint: disable=wrong-import-position

SIZE = (24 << 20) + 1000
LIMIT = 60


def page_copy(directory):
    """As node wants modules: it has to be told that they are."""
    page = f"{directory}/page"
    shutil.copytree(os.path.join(t.TOP, "userhelper/web/page"), page)
    with open(f"{page}/package.json", "w", encoding="ascii") as f:
        f.write('{"type": "module"}')
    return page


class Tab:
    def __init__(self, page, link):
        self.p = subprocess.Popen(["node", f"{HERE}/tab.mjs", page, link.uri.split("//")[1]],
                                  stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.seen = []
        self.cond = threading.Condition()
        threading.Thread(target=self._hear, daemon=True).start()
        self.wait("ready")

    def _hear(self):
        for line in self.p.stdout:
            with self.cond:
                self.seen.append(json.loads(line))
                self.cond.notify()

    def wait(self, event, **match):
        """The next one that is so; what was before it is forgotten."""
        found = []

        def there():
            while self.seen and not found:
                e = self.seen.pop(0)
                if e["event"] == event and all(
                        v(e.get(k)) if callable(v) else e.get(k) == v for k, v in match.items()):
                    found.append(e)
            return found
        with self.cond:
            if not self.cond.wait_for(there, LIMIT):
                raise t.Timeout(f"no {event} {match}")
        return found[0]

    def do(self, *words):
        self.p.stdin.write(" ".join(words) + "\n")
        self.p.stdin.flush()

    def end(self):
        self.p.kill()
        self.p.wait(LIMIT)


def offered(d):
    m = d.expect(t.OFFER, timeout=LIMIT)
    return m.offer, m.offer_fields()


def reads(d, offer, want, what):
    h = t.nbd_on(d.open(0, offer).fd)
    t.ok(h.get_size() == SIZE and h.is_read_only() and h.can_multi_conn(), f"{what}: libnbd's view of it")
    got = b"".join(bytes(h.pread(min(1 << 20, SIZE - at), at)) for at in range(0, SIZE, 1 << 20))
    t.ok(hashlib.sha256(got).digest() == hashlib.sha256(want).digest(), f"{what}: all of it is equal")
    return h


def many_at_once(d, offer, want):
    """32 requests in flight on each of 4 streams, of all sizes and places."""
    hs = [t.nbd_on(d.open(0, offer, tag=n).fd) for n in range(2, 6)]
    bad, rnd = 0, random.Random(3)
    for _ in range(6):
        pending = []
        for h in hs:
            for _ in range(32):
                n = rnd.choice((1, 512, 4096, 65536, 300000))
                at = rnd.randrange(0, SIZE - n)
                buf = nbd.Buffer(n)
                pending.append((h, h.aio_pread(buf, at), buf, at, n))
        for h, cookie, buf, at, n in pending:
            while not h.aio_command_completed(cookie):
                h.poll(1000)
            bad += bytes(buf.to_bytearray()) != want[at:at + n]
    t.ok(bad == 0, "128 reads at once on 4 streams, six times: each has its own bytes")
    for h in hs:
        h.shutdown()


def told_by_nbdinfo(d, offer, directory):
    """Through a socket of ours, as a link gives no address of a stream's."""
    path = f"{directory}/nbd.sock"
    listening = socket.socket(socket.AF_UNIX)
    listening.bind(path)
    listening.listen(4)
    listening.settimeout(LIMIT)

    def pump(a, b):
        try:
            while data := a.recv(65536):
                b.sendall(data)
            b.shutdown(socket.SHUT_WR)
        except OSError:
            pass

    def serve():
        for n in range(40, 44):
            try:
                s, _ = listening.accept()
            except OSError:
                return
            far = socket.socket(fileno=d.open(0, offer, tag=n).fd)
            far.settimeout(LIMIT)
            for pair in ((s, far), (far, s)):
                threading.Thread(target=pump, args=pair, daemon=True).start()
    threading.Thread(target=serve, daemon=True).start()
    r = subprocess.run(["nbdinfo", "--json", f"nbd+unix:///?socket={path}"], capture_output=True,
                       text=True, timeout=LIMIT, check=False)
    listening.close()
    e = json.loads(r.stdout)["exports"][0] if r.returncode == 0 else {}
    t.ok(e.get("export-size") == SIZE and e["is_read_only"] and e["can_multi_conn"] and
         e["block_size_maximum"] == 32 << 20, f"nbdinfo's view of it {r.stderr}")


class Lossy:
    """A link's end of a port that may lose bytes, with checks; frame by frame."""
    SECRET = bytes(range(32))

    def __init__(self, page, path):
        self.s, theirs = socket.socketpair()
        self.s.settimeout(LIMIT)
        self.p = subprocess.Popen(["node", f"{HERE}/tab.mjs", page, "port", str(theirs.fileno()), path],
                                  pass_fds=[theirs.fileno()], stdout=subprocess.DEVNULL)
        theirs.close()
        self.seed = struct.unpack("<Q", self.SECRET[24:])[0]
        self.epoch = 0

    def pack(self, kind, payload, stream=0):
        checked = kind != t.HELLO
        head = t.HEADER.pack(b"SBDF", kind, int(checked), stream, len(payload) + 8 * checked,
                             self.epoch, self.seq)
        self.seq += 1
        tail = struct.pack("<Q", xxhash.xxh64_intdigest(head + payload, seed=self.seed)) if checked else b""
        return head + payload + tail

    def send(self, *args, **kw):
        self.s.sendall(self.pack(*args, **kw))

    def hello(self, epoch, secret=SECRET):
        self.epoch, self.seq = epoch, 0
        self.send(t.HELLO, struct.pack("<HHIIIII", 1, 1, 3, epoch, 65536, 2000, 10000) + secret +
                  b"B" * 16 + b"L" * 16 + bytes(8))

    def exactly(self, n):
        got = b""
        while len(got) < n:
            data = self.s.recv(n - len(got))
            if not data:
                raise EOFError
            got += data
        return got

    def exactly_until_resync(self):
        """What was under way, then zeros, then a RESYNC."""
        buf, mark = b"", bytes(65536) + t.HEADER.pack(b"SBDF", t.RESYNC, 0, 0, 0, 0, 0)
        while mark not in buf:
            data = self.s.recv(65536)
            if not data or len(buf) > 1 << 20:
                return False
            buf += data
        return buf.endswith(mark)

    def frame(self, *kinds):
        """(kind, payload) of the next one of these; each has to be whole."""
        while True:
            head = self.exactly(24)
            # Between sessions zeros come before a RESYNC.
            while head[0] == 0:
                head = head.lstrip(b"\0")
                head += self.exactly(24 - len(head))
            magic, kind, flags, _, length, _, _ = t.HEADER.unpack(head)
            assert magic == b"SBDF", head
            payload = self.exactly(length)
            if kind not in (t.HELLO, t.RESYNC):
                assert flags == 1
                check = xxhash.xxh64_intdigest(head + payload[:-8], seed=self.seed)
                assert struct.unpack("<Q", payload[-8:])[0] == check
                payload = payload[:-8]
            if kind in kinds:
                return kind, payload


def where_bytes_are_lost(page, path, want):
    lossy = Lossy(page, path)
    lossy.hello(77)
    _, h = lossy.frame(t.HELLO)
    t.ok(struct.unpack_from("<I", h, 4)[0] & t.CAP_CHECKS, "a port that may lose bytes: it takes checks")
    _, o = lossy.frame(t.F_OFFER)
    lossy.send(t.F_OPEN, o[:4] + struct.pack("<I", 1 << 20), 1)
    lossy.send(t.DATA, struct.pack(">I", 3) + struct.pack(">QII", OPTS, 1, 0) +
               struct.pack(">IHHQQI", REQ, 0, 0, 7, 4096, 100000), 1)
    got = b""
    while len(got) < 18 + 10 + 16 + 100000:
        got += lossy.frame(t.DATA)[1]
    t.ok(got[44:] == want[4096:104096], "a read passes, each frame of it checked")
    lossy.send(t.PING, bytes(8))
    broken = bytearray(lossy.pack(t.PING, bytes(8)))
    broken[26] ^= 1
    lossy.s.sendall(broken)
    rest = lossy.exactly_until_resync()
    t.ok(rest, "a frame that was changed on the way: it asks for a new session, after 64 KiB of nothing")
    lossy.hello(78, secret=bytes(32))
    lossy.hello(79)
    kind, h = lossy.frame(t.HELLO)
    t.ok(struct.unpack_from("<I", h, 8)[0] == 79, "and passes over a hello with another secret")
    _, again = lossy.frame(t.F_OFFER)
    t.ok(again == o, "it is the same medium")
    lossy.p.kill()
    lossy.p.wait(LIMIT)


def hostile_link(page, path):
    """What no link sends: the session ends with a BYE that says so, and another one is
    good after it."""
    lossy = Lossy(page, path)
    epoch = [100]

    def fresh():
        epoch[0] += 1
        lossy.hello(epoch[0])
        while struct.unpack_from("<I", lossy.frame(t.HELLO)[1], 8)[0] != epoch[0]:
            pass
        return lossy.frame(t.F_OFFER)[1][:4]

    def u32(*v):
        return struct.pack(f"<{len(v)}I", *v)

    for what, frames in (
            ("data of no stream", [(t.DATA, b"x", 9)]),
            ("an empty DATA", [(t.F_OPEN, None, 1), (t.DATA, b"", 1)]),
            ("more data than there is credit", [(t.F_OPEN, None, 1)] + 2 * [(t.DATA, bytes(60000), 1)]),
            ("more credit than is allowed", [(t.F_OPEN, None, 1), (t.CREDIT, u32((1 << 24) + 1), 1)]),
            ("no credit", [(t.F_OPEN, None, 1), (t.CREDIT, u32(0), 1)]),
            ("an OPEN twice", [(t.F_OPEN, None, 1), (t.F_OPEN, None, 1)]),
            ("an OPEN of the session", [(t.F_OPEN, None, 0)]),
            ("a CLOSE twice", [(t.F_OPEN, None, 1), (t.CLOSE, u32(0), 1), (t.CLOSE, u32(0), 1)]),
            ("a short PING", [(t.PING, b"x", 0)]), ("a short NOTICE", [(t.F_NOTICE, b"xxxx", 0)]),
            ("a NOTICE that is no text", [(t.F_NOTICE, u32(1, 1) + b"\xff", 0)]),
            ("a NOTICE with a new line", [(t.F_NOTICE, u32(1, 1) + b"a\nb", 0)]),
            ("what a share may say only", [(t.F_OFFER, bytes(64), 0)]),
            ("an unknown kind", [(99, b"", 0)])):
        if epoch[0] % 4 == 0:       # after several in a row the port would be left alone
            lossy.p.kill()
            lossy.p.wait(LIMIT)
            lossy = Lossy(page, path)
        offer = fresh()
        for kind, payload, stream in frames:
            lossy.send(kind, offer + u32(0) if payload is None else payload, stream)
        kind, bye = lossy.frame(t.BYE)
        t.ok(struct.unpack_from("<I", bye)[0] == 1, f"a hostile link: {what}")
    fresh()
    lossy.send(0x8063, b"whatever")
    lossy.send(t.PING, b"12345678")
    t.ok(lossy.frame(t.BYE, t.PONG) == (t.PONG, b"12345678"), "an unknown optional kind is passed over")
    offer = fresh()
    for n in range(1, 18):
        lossy.send(t.F_OPEN, offer + u32(1 << 16), n)
    t.ok(struct.unpack_from("<I", lossy.frame(t.CLOSE, t.BYE)[1])[0] == 6, "a 17th stream is refused")
    rnd = random.Random(11)
    for n in range(600):
        if n % 6 == 0:
            epoch[0] += 1
            lossy.hello(epoch[0])
        whole = bytearray(lossy.pack(rnd.choice((t.F_OPEN, t.DATA, t.CREDIT, t.CLOSE, t.PING, t.F_NOTICE)),
                                     rnd.randbytes(rnd.choice((0, 4, 8, 300))), rnd.choice((0, 1, 2))))
        for _ in range(rnd.randrange(3)):
            whole[rnd.randrange(len(whole))] ^= 1 << rnd.randrange(8)
        lossy.s.sendall(whole)
    lossy.s.shutdown(socket.SHUT_WR)
    with contextlib.suppress(ConnectionResetError):
        while lossy.s.recv(65536):
            pass
    t.ok(lossy.p.wait(LIMIT) == 0, "600 frames at random, some changed: it does not fall over")


OPTS, REQ = 0x49484156454F5054, 0x25609513


class Raw:
    """NBD by hand."""

    def __init__(self, d, offer, tag, go=True):
        self.s = socket.socket(fileno=d.open(0, offer, tag=tag).fd)
        self.s.settimeout(LIMIT)
        self.exactly(18)
        self.s.sendall(struct.pack(">I", 3))
        if go:
            self.s.sendall(struct.pack(">QII", OPTS, 1, 0))
            self.exactly(10)

    def exactly(self, n):
        got = b""
        while len(got) < n:
            data = self.s.recv(n - len(got))
            if not data:
                raise EOFError
            got += data
        return got

    def ask(self, kind, offset, length, flags=0, payload=b"", magic=REQ):
        self.s.sendall(struct.pack(">IHHQQI", magic, flags, kind, 7, offset, length) + payload)

    def error(self):
        return struct.unpack(">IIQ", self.exactly(16))[1]

    def ended(self):
        try:
            while self.s.recv(65536):
                pass
        except ConnectionResetError:
            pass
        return True


def hostile(d, offer):
    r = Raw(d, offer, 20)
    for what, args, want in (
            ("a read of nothing", (0, 0, 0), 22), ("past the end", (0, SIZE, 1), 22),
            ("across the end", (0, SIZE - 1, 2), 22), ("at 2^64 - 1", (0, 2**64 - 1, 4096), 22),
            ("of 32 MiB and one", (0, 0, (32 << 20) + 1), 22),
            ("of 4 GiB", (0, 0, 2**32 - 1), 22), ("with unknown flags", (0, 0, 512, 0x8000), 22),
            ("a write", (1, 0, 4096, 0, bytes(4096)), 1), ("a trim", (4, 0, 4096), 1),
            ("zeroes", (6, 0, 4096), 1), ("an unknown command", (99, 0, 0), 22),
            ("a flush", (3, 0, 0), 0)):
        r.ask(*args)
        t.ok(r.error() == want, f"{what}: answered by {want}")
    r.ask(0, 0, 512)
    t.ok(r.error() == 0 and len(r.exactly(512)) == 512, "and it goes on serving")
    r.ask(0, 0, 1, magic=1)
    t.ok(r.ended(), "no request at all: the stream ends")
    r = Raw(d, offer, 21)
    r.ask(1, 0, 2**32 - 1)
    t.ok(r.ended(), "a write of 4 GiB: it ends")
    r = Raw(d, offer, 22, go=False)
    r.s.sendall(struct.pack(">QII", OPTS, 7, 2**32 - 1))
    t.ok(r.ended(), "an option of 4 GiB: it ends")
    r = Raw(d, offer, 23, go=False)
    r.s.sendall(struct.pack(">QII", OPTS, 7, 8) + struct.pack(">IHH", 2**31, 0, 0))
    t.ok(struct.unpack(">QIII", r.exactly(20))[2] == 0x80000003, "an option that contradicts itself")
    r.s.sendall(struct.pack(">QII", OPTS, 200, 0))
    t.ok(struct.unpack(">QIII", r.exactly(20))[2] == 0x80000001, "an unknown option")
    r.s.sendall(struct.pack(">QII", OPTS, 200, 0) * 64)
    t.ok(r.ended(), "options without an end: it ends")
    t.ok(d.nothing(t.PORT_DOWN, seconds=0.2), "the session has seen nothing of it")


def slow_reader(d, tab, offer):
    """Who asks for much and takes nothing: the tab does not read on."""
    r = Raw(d, offer, 30)
    tab.do("served")
    before = tab.wait("served")["bytes"]
    for _ in range(200):
        r.ask(0, 0, 16 << 20)
    other = t.nbd_on(d.open(0, offer, tag=31).fd)
    t.ok(len(other.pread(4096, 0)) == 4096, "another stream is served meanwhile")
    tab.do("served")
    got = tab.wait("served")
    t.ok(got["bytes"] - before < 48 << 20, f"of 3200 MiB asked for {(got['bytes'] - before) >> 20} were read")
    r.s.close()


def ejects(d, tab, offer):
    d.send(t.NOTICE, 0, offer, flags=1)
    tab.wait("changed", inserted=True)
    t.ok(True, "the tab hears that a drive has it")
    d.send(t.NOTICE, 0, offer, flags=3)
    tab.wait("changed", locked=True, user="")
    d.send(t.NOTICE, 0, offer, flags=3, u=b"mounted on /mnt")
    tab.wait("changed", locked=True, user="mounted on /mnt")
    t.ok(True, "and who uses it")
    d.send(t.NOTICE, 0, offer, flags=4)
    tab.wait("changed", locked=False)
    d.send(t.NOTICE, 0, offer, flags=3)
    tab.wait("changed", locked=True, user="")
    tab.do("eject")
    m = d.expect(t.EJECT_REQUEST)
    t.ok(m.offer == offer and m.flags == 0, "it asks for it back, without force")
    d.send(t.NOTICE, 0, offer, flags=5)
    tab.wait("error", text=lambda s: "not ejected" in s)
    t.ok(True, "and hears that it is in use")
    tab.do("eject")
    d.expect(t.EJECT_REQUEST)
    d.send(t.NOTICE, 0, offer, flags=2)
    tab.wait("changed", inserted=False, asked=False)
    t.ok(True, "and that it was given back")


def comes_back(link, d, tab, offer, fields, want):
    d.send(t.RESET_PORT, 0)
    d.expect(t.PORT_DOWN)
    o, again = offered(d)
    t.ok(again == fields, "a new session: the same medium, and the same server of it")
    d.expect(t.OFFERS_END)
    tab.do("cut")
    d.expect(t.PORT_DOWN)
    tab.wait("changed", state="lost")
    o, again = offered(d)
    t.ok(again == fields, "the connections are cut: it comes back by the secret, with the same medium")
    d.expect(t.OFFERS_END)
    reads(d, o, want, "after that")
    return o


def changes(d, tab, directory, offer):
    d.send(t.NOTICE, 0, offer, flags=1)
    tab.wait("changed", inserted=True)
    with open(f"{directory}/other.img", "wb") as f:
        f.write(os.urandom(5000))
    tab.do("share", f"{directory}/other.img")
    o, fields = offered(d)
    m = d.expect(t.EJECT_REQUEST)
    t.ok(fields["name"] == "other.img" and m.offer == offer and m.flags == 2 and
         struct.unpack_from("=I", m.u)[0] == o, "another file: the drive is asked to change")
    d.send(t.NOTICE, 0, offer, flags=2)
    d.send(t.NOTICE, 0, o, flags=1)
    t.ok(d.expect(t.WITHDRAW).offer == offer, "and the old one is offered no more")
    tab.wait("changed", medium="other.img", inserted=True)
    tab.do("stop")
    tab.wait("closes", main=False)
    tab.wait("closes", main=True)
    t.ok(True, "the session ends after its ports, so that what was said there is heard")
    m = d.expect(t.PORT_DOWN)
    t.ok(m.flags == 1, "a tab that is closed says so: nobody waits for it")


INSERT = 4


def asks_to_insert(page, directory):
    """Where the listener's client may: what is picked is put in, once for each wish."""
    with t.Link("client-insert=yes", password="right") as link:
        d = link.daemon()
        d.send(t.ADD_PORT, 0)
        d.send(t.ADD_PORT, 1)
        tab = Tab(page, link)
        tab.do("share", f"{directory}/a disc.iso")
        tab.do("start", "right")
        m = d.expect(t.EJECT_REQUEST, timeout=LIMIT)
        t.ok((m.port, m.flags) == (0, INSERT), "a file picked beforehand: to be put in once it stands")
        d.send(t.NOTICE, 0, m.offer, flags=5, u=b"the drive has a medium")
        tab.wait("error", text="It was not inserted: the drive has a medium.")
        t.ok(True, "it is told why not")
        tab.do("choose", "1")
        o, _ = offered(d)
        t.ok(d.nothing(t.EJECT_REQUEST), "and not asked for again by itself")
        tab.do("insert")
        m = d.expect(t.EJECT_REQUEST, timeout=LIMIT)
        t.ok((m.port, m.offer, m.flags) == (1, o, INSERT), "but by the person, for the drive that was chosen")
        d.send(t.NOTICE, 1, o, flags=1)
        tab.wait("changed", inserted=True, asked=False, may=False)
        d.send(t.NOTICE, 1, o, flags=2)
        tab.wait("changed", inserted=False, may=True)
        t.ok(d.nothing(t.EJECT_REQUEST), "what was ejected stays out")
        tab.do("share", f"{directory}/other.img")
        o, _ = offered(d)
        m = d.expect(t.EJECT_REQUEST, timeout=LIMIT)
        t.ok((m.offer, m.flags) == (o, INSERT), "the next file is put in")
        tab.end()


def refused(page, directory):
    with t.Link(password="right") as link:
        d = link.daemon()
        d.send(t.ADD_PORT, 0)
        tab = Tab(page, link)
        tab.do("start", "wrong")
        tab.wait("error", text=lambda s: "password is wrong" in s)
        t.ok(True, "a wrong password is told")
        tab.do("start", "right")
        tab.wait("changed", state="on")
        t.ok(True, "the right one opens then")
        other = Tab(page, link)
        other.do("start", "right")
        other.wait("error", text=lambda s: s.startswith("Not connected"))
        t.ok(True, "a second tab is refused")
        other.end()
        open(f"{directory}/empty", "wb").close()
        tab.do("share", f"{directory}/empty")
        tab.wait("error", text=lambda s: "is empty" in s)
        t.ok(True, "an empty file is refused")
        tab.end()


def checksums(page):
    out = subprocess.run(["node", f"{HERE}/tab.mjs", page, "xxh64"], capture_output=True,
                         text=True, timeout=LIMIT, check=True).stdout
    got = [json.loads(line) for line in out.splitlines()]
    want = [[n, f"{xxhash.xxh64_intdigest(bytes((i * 131 + 7) & 255 for i in range(n)), seed=0x89abcdef01234567):016x}"]
            for n, _ in got]
    t.ok(len(got) == 16 and got == want, "checks of frames are XXH64's")


def main():
    directory = tempfile.mkdtemp(prefix="spicebd-tab.")
    try:
        page = page_copy(directory)
        checksums(page)
        want = os.urandom(SIZE)
        with open(f"{directory}/a disc.iso", "wb") as f:
            f.write(want)
        with t.Link(password="pass word") as link:
            d = link.daemon()
            d.send(t.ADD_PORT, 0)
            tab = Tab(page, link)
            tab.do("share", f"{directory}/a disc.iso")
            tab.do("start", "pass word")
            o, fields = offered(d)
            t.ok(fields["name"] == "a disc.iso" and fields["size"] == SIZE and
                 fields["flags"] == 7 and fields["kind"] == 2, "the file is offered")
            d.expect(t.OFFERS_END)
            h = reads(d, o, want, "at first")
            many_at_once(d, o, want)
            told_by_nbdinfo(d, o, directory)
            hostile(d, o)
            slow_reader(d, tab, o)
            h.shutdown()
            ejects(d, tab, o)
            o = comes_back(link, d, tab, o, fields, want)
            changes(d, tab, directory, o)
            tab.end()
        asks_to_insert(page, directory)
        refused(page, directory)
        hostile_link(page, f"{directory}/a disc.iso")
        where_bytes_are_lost(page, f"{directory}/a disc.iso", want)
    finally:
        shutil.rmtree(directory, ignore_errors=True)


t.run(main)
