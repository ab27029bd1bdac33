#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-only
# timeout: 400
"""spicebd-share against a link that says what a test wants it to say: hello and
epochs, streams, credits, the fence, eject, loss, and a peer that breaks rules."""
import sharelib as s
from sharelib import Link, Server, Share, check, equal, linked, make_iso, random_file, workdir
import fcntl
import os
import pty
import re
import select
import shutil
import signal
import socket
import struct
import termios
import threading
import time


def image(mib=4, name="disk.img"):
    return random_file(f"{workdir()}/{name}", mib << 20)


def content(path):
    with open(path, "rb") as f:
        return f.read()


def nbdkits(share):
    return sorted(p for p, a in share.children().items() if "nbdkit" in a[0])


def wait_for(cond, what, limit=s.LIMIT):
    until = time.monotonic() + limit
    while not cond():
        if time.monotonic() > until:
            raise s.Timeout(what)
        select.select([], [], [], 0.02)


def frozen(pid):
    """Stops a process; it goes on when the test ends."""
    os.kill(pid, signal.SIGSTOP)
    s.later(lambda: os.path.exists(f"/proc/{pid}") and os.kill(pid, signal.SIGKILL))


def iso_checksum():
    """a 64 MiB ISO read over Spice is the original"""
    path = make_iso(f"{workdir()}/x.iso", 64)
    share, _, link = linked(path)
    n = link.open(link.offer("x.iso")).nbd()
    check(n.can_multi_conn() and n.is_read_only(), "flags")
    want, size, got = content(path), n.get_size(), []
    for at in range(0, size, 1 << 20):
        got.append(bytes(n.pread(min(1 << 20, size - at), at)))
    check(b"".join(got) == want, "content")
    n.shutdown()
    share.event("closed")
    equal(share.stop(), 0, "exit status")


def several_streams():
    """four streams at once, each with its own content and small credit"""
    path = image(16)
    want = content(path)
    share, _, link = linked(path)
    o = link.offer("disk.img")
    handles = [link.open(o, credit=c).nbd() for c in (4096, 70000, 1 << 20, s.WINDOW)]
    wrong = []

    def read(h, start):
        for at in range(start << 18, 16 << 20, 1 << 20):
            if bytes(h.pread(1 << 18, at)) != want[at:at + (1 << 18)]:
                wrong.append(at)
        h.shutdown()

    threads = [threading.Thread(target=read, args=(h, i)) for i, h in enumerate(handles)]
    for t in threads:
        t.start()
    for t in threads:
        t.join(s.LIMIT * 2)
        check(not t.is_alive(), "reads do not end")
    equal(wrong, [], "offsets with other content")
    wait_for(lambda: not nbdkits(share), "nbdkits end")
    equal(share.stop(), 0, "exit status")


def writes():
    """what is written lands in the file, flush and FUA included"""
    import nbd
    path = image()
    want = bytearray(content(path))
    share, _, link = linked("--read-write", path)
    n = link.open(link.offer("disk.img")).nbd()
    for at, size in ((0, 512), (4096, 1 << 20), (3 << 20, 1 << 20), (12345, 77777)):
        data = os.urandom(size)
        n.pwrite(data, at, nbd.CMD_FLAG_FUA if size == 512 else 0)
        want[at:at + size] = data
    n.zero(8192, 2 << 20)
    want[2 << 20:(2 << 20) + 8192] = bytes(8192)
    n.flush()
    n.shutdown()
    share.event("closed")
    check(content(path) == want, "content of the file")
    equal(share.stop(), 0, "exit status")


def read_only():
    """a read-only medium refuses a write and stays as it is"""
    import nbd
    path = image()
    want = content(path)
    _, _, link = linked(path)
    n = link.open(link.offer("disk.img")).nbd()
    n.set_strict_mode(0)
    try:
        n.pwrite(b"x" * 512, 0)
        check(False, "written")
    except nbd.Error as e:
        check(e.errno in ("EPERM", "EROFS"), e)
    check(content(path) == want, "content")


def only_that_file():
    """no export name leads anywhere else, and a replaced path neither"""
    import nbd
    path = image(1)
    want = content(path)
    share, _, link = linked(path)
    o = link.offer("disk.img")
    for name in ("1", "2", "4", "5", "6", "7", "8", "9", "10", "..", "../../etc/passwd", "3/x"):
        h = nbd.NBD()
        h.set_export_name(name)
        try:
            h.connect_socket(link.open(o).fd)
            check(False, f"export {name} opened")
        except nbd.Error:
            pass
    os.rename(path, path + ".away")
    with open(path, "wb") as f:
        f.write(b"another file" * 100000)
    n = link.open(o).nbd()
    check(bytes(n.pread(1 << 20, 0)) == want, "the file that was given")
    os.unlink(path + ".away")
    n = link.open(o).nbd()
    check(bytes(n.pread(1 << 20, 0)) == want, "also when it has no name any more")
    equal(share.stop(), 0, "exit status")


def hello():
    """our hello answers theirs: version, role, epoch, boot id, an instance"""
    share, _, link = linked(image(1))
    h = link.hello()
    version, role, _, epoch, frame_max, interval, timeout = struct.unpack("<HHIIIII",
                                                                         h.payload[:24])
    equal((version, role, epoch, frame_max), (1, 2, link.epoch, 65536), "hello")
    check(0 < interval < timeout <= 30000, "ping")
    with open("/proc/sys/kernel/random/boot_id") as f:
        equal(h.payload[56:72].hex(), f.read().strip().replace("-", ""), "boot id")
    check(any(h.payload[72:88]), "instance")
    again = link.hello()
    equal(again.payload[56:88], h.payload[56:88], "the same machine and process")
    equal(share.stop(), 0, "exit status")


def resync():
    """it asks for a hello when none comes, and never speaks first otherwise"""
    server = Server()
    link = Link(server.port())
    share = Share("--uri", server.uri, image(1))
    share.event("connected")
    t = time.monotonic()
    f = link.get(s.RESYNC, limit=6)
    check(time.monotonic() - t > 1, "patience")
    equal((f.epoch, f.seq, f.payload), (0, 0, b""), "resync")
    equal(link.frames, [], "nothing else")
    share.event("drive-silent", limit=10)
    link.hello()
    share.event("drive-connected")
    equal(share.stop(), 0, "exit status")


def lost_bytes():
    """a gap, garbage, a wrong magic: a resync, and all streams are ended"""
    share, _, link = linked(image(1))

    def gap():
        link.seq += 1
        link.send(s.PING, bytes(8))

    def garbage():
        link.sock.sendall(os.urandom(100000).replace(b"SBDF", b"----"))

    def half():
        link.send(s.DATA, b"x" * 10, stream=1, length=1000)
        link.send(s.PING, bytes(8), seq=0)
        link.sock.sendall(bytes(2000))

    for fault in (gap, garbage, half):
        link.open(link.offer("disk.img"))
        share.event("opened")
        fault()
        link.get(s.RESYNC)
        share.event("closed")
        link.hello()
    equal(share.stop(), 0, "exit status")


def old_epoch():
    """frames of another epoch are dropped without a word"""
    share, _, link = linked(image(1))
    for _ in range(3):
        link.send(s.OPEN, struct.pack("<II", 1, 1 << 20), stream=9, epoch=link.epoch ^ 0x55, seq=7)
    link.send(s.PING, b"12345678")
    equal(link.get(s.PONG).payload, b"12345678", "pong")
    equal(nbdkits(share), [], "nothing was opened")
    equal(share.stop(), 0, "exit status")


def rules():
    """what breaks the rules ends the session with one BYE"""
    share, server, link = linked(image(1))
    u = lambda *v: struct.pack(f"<{len(v)}I", *v)
    cases = [
        lambda: link.send(s.OFFERS_END),
        lambda: link.send(99),
        lambda: link.send(s.OPEN, u(1, (16 << 20) + 1), stream=5),
        lambda: link.send(s.OPEN, u(1, 1)),
        lambda: link.send(s.OPEN, u(1), stream=5),
        lambda: link.send(s.DATA, b"x", stream=77),
        lambda: link.send(s.CLOSE, u(0), stream=77),
        lambda: link.send(s.NOTICE, u(1)),
        lambda: link.send(s.PING, b"short"),
        lambda: (link.open(link.offer("disk.img"), credit=16 << 20),
                 link.send(s.CREDIT, u(0xffffffff), stream=1)),
        lambda: (link.open(link.offer("disk.img")),
                 link.send(s.OPEN, u(1, 1), stream=1)),
    ]
    for n, case in enumerate(cases):
        # A fresh share: after five errors a port is left alone.
        if n % 3 == 0 and n:
            equal(share.stop(), 0, "exit status")
            share = Share("--uri", server.uri, image(1))
            share.event("connected")
            link.hello()
        case()
        f = link.get(s.BYE)
        equal(f.code(), s.ERR_PROTOCOL, f"case {n}")
        share.event("drive-disconnected")
        link.hello()
    for _ in range(6):
        try:
            link.send(99)
            link.get(s.BYE, limit=3)
            link.hello()
        except s.Timeout:
            break
    else:
        check(False, "it is patient for ever")
    check("left alone" in share.errors(), share.errors())
    equal(share.stop(), 0, "exit status")


def optional():
    """an unknown frame with the optional bit is passed over"""
    share, _, link = linked(image(1))
    link.send(0x8123, b"whatever")
    link.send(s.PING, b"12345678")
    link.get(s.PONG)
    equal(share.stop(), 0, "exit status")


def version():
    """another version of the protocol: a BYE and a line that says it"""
    share, _, link = linked(image(1))
    link.hello(version=2, answer=False)
    link.get(s.HELLO)
    equal(link.get(s.BYE).code(), s.ERR_VERSION, "code")
    wait_for(lambda: "version 2" in share.errors(), "the line")
    equal(share.stop(), 0, "exit status")


def no_offer():
    """an offer that does not exist, and too many streams, are refused with a reason"""
    share, _, link = linked(image(1))
    for offer, code in ((0, s.ERR_NO_SUCH_OFFER), (2, s.ERR_NO_SUCH_OFFER)):
        try:
            link.open({"id": offer})
            check(False, "opened")
        except ConnectionRefusedError as e:
            equal(e.args[0], code, "code")
    o = link.offer("disk.img")
    streams = [link.open(o) for _ in range(16)]
    try:
        link.open(o)
        check(False, "17 streams")
    except ConnectionRefusedError as e:
        equal(e.args[0], s.ERR_LIMIT, "code")
    streams[3].close()
    link.get(s.CLOSE, stream=streams[3].id)
    link.open(o)
    equal(share.stop(), 0, "exit status")


def fence():
    """a hello is answered only when the servers of older epochs are gone"""
    path = image()
    share, _, link = linked("--read-write", path)
    o = link.offer("disk.img")
    n = link.open(o).nbd()
    n.pwrite(b"a" * 4096, 0)
    old, = nbdkits(share)
    frozen(old)
    n.aio_pwrite(bytearray(b"b" * 4096), 0)
    link.hello()
    check(not os.path.exists(f"/proc/{old}"), "the old server was not reaped")
    new = link.offer("disk.img")
    equal(new["medium_id"], o["medium_id"], "the same medium")
    check(new["incarnation"] != o["incarnation"], "another incarnation")
    check(not new["flags"] & s.OFFER_BUSY, "free")
    n = link.open(new).nbd()
    check(nbdkits(share) != [old], "another server")
    equal(bytes(n.pread(4096, 0)), b"a" * 4096, "the old write was not done")
    equal(share.stop(), 0, "exit status")


def fence_close():
    """a CLOSE is answered, and a stream after it opened, when its server is gone"""
    path = image()
    share, _, link = linked("--read-write", path)
    o = link.offer("disk.img")
    st = link.open(o)
    n = st.nbd()
    n.pwrite(b"a" * 4096, 0)
    old, = nbdkits(share)
    frozen(old)
    n.aio_pwrite(bytearray(b"b" * 4096), 0)
    st.close()
    m = link.open(o).nbd()
    check(not os.path.exists(f"/proc/{old}"), "the old server was not reaped")
    link.get(s.CLOSE, stream=st.id)
    m.pwrite(b"c" * 4096, 0)
    equal(bytes(m.pread(4096, 0)), b"c" * 4096, "content")
    equal(share.stop(), 0, "exit status")


def fence_lost():
    """the fence holds over a lost connection, too"""
    path = image()
    server = Server()
    share, _, link = linked("--read-write", path, server=server)
    n = link.open(link.offer("disk.img")).nbd()
    n.pwrite(b"a" * 4096, 0)
    old, = nbdkits(share)
    frozen(old)
    server.p.kill()
    server.p.wait()
    server = Server(directory=server.dir)
    link = Link(server.port())
    share.event("reconnecting")
    share.event("connected")
    link.hello()
    check(not os.path.exists(f"/proc/{old}"), "the old server was not reaped")
    link.open(link.offer("disk.img")).nbd().shutdown()
    equal(share.stop(), 0, "exit status")


def busy():
    """a writable medium is open in one drive at a time; a read-only one in several"""
    d = workdir()
    rw, ro = random_file(f"{d}/rw", 1 << 20), make_iso(f"{d}/ro.iso")
    share, _, (a, b) = linked("--read-write", rw, ro, ports=(0, 3))
    st = a.open(a.offer("rw"))
    b.wait_offers(lambda o: any(x["name"] == "rw" and x["flags"] & s.OFFER_BUSY
                                for x in o.values()))
    check(not a.offer("rw")["flags"] & s.OFFER_BUSY, "not for the one that has it")
    try:
        b.open(b.offer("rw"))
        check(False, "opened twice")
    except ConnectionRefusedError as e:
        equal(e.args[0], s.ERR_BUSY, "code")
    a.open(a.offer("rw")).nbd()
    ra, rb = a.open(a.offer("ro.iso")).nbd(), b.open(b.offer("ro.iso")).nbd()
    equal(bytes(ra.pread(4096, 32768)), bytes(rb.pread(4096, 32768)), "content")
    st.close()
    a.hello()
    b.wait_offers(lambda o: any(x["name"] == "rw" and not x["flags"] & s.OFFER_BUSY
                                for x in o.values()))
    b.open(b.offer("rw")).nbd().pwrite(b"x" * 512, 0)
    equal(share.stop(), 0, "exit status")


def server_dies():
    """an nbdkit that is killed: CLOSE with a reason, and the next stream works"""
    path = image()
    share, _, link = linked("--read-write", path)
    o = link.offer("disk.img")
    st = link.open(o)
    os.kill(nbdkits(share)[0], signal.SIGKILL)
    equal(link.get(s.CLOSE, stream=st.id).code(), s.ERR_SERVER, "code")
    share.event("error")
    link.wait_offers(lambda x: x[o["id"]]["incarnation"] != o["incarnation"])
    equal(link.offer("disk.img")["medium_id"], o["medium_id"], "the same store")
    link.open(o).nbd().shutdown()
    equal(share.stop(), 0, "exit status")


def folder_server_dies():
    """a folder's server that is killed comes back as another medium"""
    d = workdir()
    os.mkdir(f"{d}/f")
    random_file(f"{d}/f/x", 100000)
    share, _, link = linked(f"{d}/f")
    o = link.offer("f")
    st = link.open(o)
    os.kill(nbdkits(share)[0], signal.SIGKILL)
    check(link.get(s.CLOSE, stream=st.id).code() in (s.OK, s.ERR_SERVER), "code")
    link.wait_offers(lambda x: x and o["id"] not in x)
    check(link.offer("f")["medium_id"] != o["medium_id"], "another medium")
    link.open(link.offer("f")).nbd().shutdown()
    equal(share.stop(), 0, "exit status")


def changed():
    """a file that another program changes is another medium"""
    path = image()
    share, _, link = linked(path)
    o = link.offer("disk.img")
    st = link.open(o)
    with open(path, "r+b") as f:
        f.write(b"changed")
    try:
        link.open(o)
        check(False, "opened")
    except ConnectionRefusedError as e:
        equal(e.args[0], s.ERR_SERVER, "code")
    equal(link.get(s.CLOSE, stream=st.id).code(), s.ERR_SERVER, "the older stream")
    new = link.offer("disk.img")
    check(new["medium_id"] != o["medium_id"] and new["id"] != o["id"], "another medium")
    link.open(new).nbd().shutdown()
    equal(share.stop(), 0, "exit status")


def window():
    """what the server does not take is bounded by the credit it has given"""
    path = image()
    share, _, link = linked("--read-write", path)
    link.sock.settimeout(s.LIMIT)
    st = s.Stream(link, link.next_stream, s.WINDOW)
    link.next_stream += 1
    link.streams[st.id] = st
    link.send(s.OPEN, struct.pack("<II", 1, s.WINDOW), st.id)
    credit = link.get(s.OPENED, stream=st.id).u32()[0]
    check(65536 <= credit <= 16 << 20, f"credit {credit}")
    frozen(nbdkits(share)[0])
    left = credit
    while left:
        n = min(left, 65512)
        link.send(s.DATA, bytes(n), st.id)
        left -= n
    # What the socket took comes back as credit; beyond that is an error.
    link.send(s.PING, b"12345678")
    link.get(s.PONG)
    for _ in range((credit + st.credit) // 65512 + 40):
        link.send(s.DATA, bytes(65512), st.id)
    equal(link.get(s.BYE).code(), s.ERR_PROTOCOL, "code")
    with open(f"/proc/{share.p.pid}/status") as f:
        rss = int(next(x for x in f if x.startswith("VmRSS")).split()[1])
    check(rss < 100 << 10 or "san" in s.BIN, f"{rss} kB")
    equal(share.stop(), 0, "exit status")


def no_reader():
    """a link that gives no credit, or reads nothing, holds nobody else up"""
    path = image(16)
    share, _, (a, b) = linked(path, ports=(0, 1))
    stuck = a.open(a.offer("disk.img"), credit=100000)
    stuck.take = lambda f: None             # grants nothing any more
    n = b.open(b.offer("disk.img")).nbd()
    for at in range(0, 16 << 20, 1 << 20):
        n.pread(1 << 20, at)
    n.shutdown()
    equal(share.stop(), 0, "exit status")


def silence():
    """nothing heard for the ping timeout: the session is ended and made anew"""
    server = Server()
    share, _, link = linked(image(1), server=server)
    link.open(link.offer("disk.img"))
    link.pong = False
    f = link.get(s.PING, limit=8)
    equal(len(f.payload), 8, "ping")
    share.event("drive-lost", limit=25)
    wait_for(lambda: not nbdkits(share), "its servers are gone")
    share.event("connected", limit=25)
    link.pong = True
    link.hello()
    equal(share.stop(), 0, "exit status")


def reconnect():
    """a lost connection is made again by itself, with the same media"""
    server = Server()
    share, _, link = linked(image(1), server=server)
    o = link.offer("disk.img")
    server.p.kill()
    server.p.wait()
    share.event("drive-disconnected")
    share.event("reconnecting")
    server = Server(directory=server.dir)
    link = Link(server.port())
    share.event("connected")
    link.hello()
    equal(link.offer("disk.img")["medium_id"], o["medium_id"], "the same medium")
    equal(share.stop(), 0, "exit status")


class Door(threading.Thread):
    """Before a Spice server: ends the first @ended connections of ports unheard."""

    def __init__(self, server, ended):
        super().__init__(daemon=True)
        self.to, self.ended = f"{server.dir}/spice", ended
        self.path = f"{server.dir}/door"
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.bind(self.path)
        self.sock.listen(16)
        s.later(self.close)
        self.start()

    def close(self):
        self.sock.shutdown(socket.SHUT_RDWR)
        self.sock.close()

    def run(self):
        while True:
            try:
                client, _ = self.sock.accept()
            except OSError:
                return
            # Header, session, then the kind of channel: 10 is a port.
            head = client.recv(21, socket.MSG_WAITALL)
            if len(head) < 21 or (head[20] == 10 and self.ended):
                self.ended -= len(head) == 21
                client.close()
                continue
            server = socket.socket(socket.AF_UNIX)
            server.connect(self.to)
            server.sendall(head)
            for a, b in ((client, server), (server, client)):
                threading.Thread(target=self.pump, args=(a, b), daemon=True).start()

    @staticmethod
    def pump(a, b):
        try:
            while d := a.recv(1 << 16):
                b.sendall(d)
            b.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass


def port_not_let_in():
    """a port that does not link while the main channel stands is linked by a new connection"""
    server = Server()
    door = Door(server, 2)
    link = Link(server.port())
    share = Share("--uri", f"spice+unix://{door.path}", image(1))
    share.event("connected")
    share.event("reconnecting")
    share.event("connected")
    share.event("reconnecting")
    share.event("connected")
    link.hello()
    equal(door.ended, 0, "connections left to end")
    link.open(link.offer("disk.img")).nbd().shutdown()
    equal(share.stop(), 0, "exit status")


def no_reconnect():
    """--no-reconnect: status 1 when the connection is lost"""
    server = Server()
    share, _, _ = linked("--no-reconnect", image(1), server=server)
    server.p.kill()
    equal(share.wait(), 1, "exit status")


def reopened():
    """a port that is closed and opened is a new session"""
    server = Server()
    share, _, link = linked(image(1), server=server)
    link.open(link.offer("disk.img"))
    link.sock.close()
    again = Link(server.port())
    share.event("drive-disconnected")
    again.hello()
    wait_for(lambda: not nbdkits(share), "servers of the old session")
    again.open(again.offer("disk.img")).nbd().shutdown()
    equal(share.stop(), 0, "exit status")


def interrupt():
    """Ctrl-C asks for the media back, waits for them, says goodbye, ends with 0"""
    share, _, link = linked("--read-write", image(1))
    link.gives_back = False
    o = link.offer("disk.img")
    st = link.open(o)
    link.notice(s.INSERTED, o)
    share.event("inserted")
    share.p.send_signal(signal.SIGINT)
    f = link.get(s.EJECT_REQUEST)
    equal(f.u32(), (o["id"], 0), "request")
    link.notice(s.BUSY, o)
    share.event("busy")
    check(share.p.poll() is None, "it waits")
    st.close()
    link.notice(s.EJECTED, o)
    share.event("ejected")
    equal(link.get(s.BYE).code(), s.ERR_SHUTDOWN, "goodbye")
    equal(share.wait(), 0, "exit status")


def interrupt_twice():
    """Ctrl-C twice leaves at once, and leaves no server behind"""
    share, _, link = linked("--read-write", image(1))
    link.gives_back = False
    o = link.offer("disk.img")
    link.open(o)
    pid, = nbdkits(share)
    link.notice(s.INSERTED, o)
    share.event("inserted")
    share.p.send_signal(signal.SIGINT)
    link.get(s.EJECT_REQUEST)
    share.event("leaving")
    t = time.monotonic()
    share.p.send_signal(signal.SIGTERM)
    link.get(s.BYE)
    equal(share.wait(), 0, "exit status")
    check(time.monotonic() - t < 4, "at once")
    check(not os.path.exists(f"/proc/{pid}"), "nbdkit is gone")


def interrupt_refused():
    """Ctrl-C with a drive that does not answer: after 5 s it leaves all the same"""
    share, _, link = linked(image(1))
    link.gives_back = False
    link.notice(s.INSERTED, link.offer("disk.img"))
    share.event("inserted")
    t = time.monotonic()
    share.p.send_signal(signal.SIGINT)
    share.event("not-ejected", limit=10)
    check(4 < time.monotonic() - t < 9, "5 s")
    equal(share.wait(), 0, "exit status")


def exit_on_eject():
    """--exit-on-eject ends when all media were ejected"""
    d = workdir()
    a, b = random_file(f"{d}/a", 4096), random_file(f"{d}/b", 4096)
    share, _, link = linked("--exit-on-eject", a, b)
    for name in "ab":
        check(share.p.poll() is None, "not before")
        link.notice(s.INSERTED, link.offer(name))
        link.notice(s.EJECTED, link.offer(name))
        share.event("ejected")
    equal(share.wait(), 0, "exit status")


class Screen:
    """What a terminal of 100 columns shows of what spicebd-share says to it"""

    def __init__(self, *args, stdin=True, **env):
        s.need(s.SHARE, "nbdkit")
        self.rows, self.row, self.column, self.saved = [""], 0, 0, (0, 0)
        self.fd, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 100, 0, 0))
        self.p = s.subprocess.Popen([s.SHARE, *args], stdout=slave, stderr=slave,
                                    stdin=slave if stdin else s.subprocess.DEVNULL,
                                    start_new_session=True, env=dict(os.environ, TERM="xterm", **env))
        os.close(slave)
        s.later(lambda: s.end(self.p))
        s.later(lambda: os.close(self.fd))

    def erase(self, how):
        if how == "K":
            self.rows[self.row] = self.rows[self.row][:self.column]
        else:
            del self.rows[self.row]
            self.rows.append("")

    def escape(self, text):
        """One sequence; the length of it"""
        m = re.match(r"\033(?:\[(\d*)([ABKM])|([78]))", text)
        check(m, f"an escape sequence that is not known: {text[:10]!r}")
        if m[3] == "7":
            self.saved = self.row, self.column
        elif m[3]:
            self.row, self.column = self.saved
        elif m[2] in "AB":
            self.row += int(m[1] or 1) * (1 if m[2] == "B" else -1)
            check(0 <= self.row < len(self.rows), "the cursor stays in what was written")
        else:
            self.erase(m[2])
        return m.end()

    def take(self, text):
        while text:
            n = 1
            if text[0] == "\033":
                n = self.escape(text)
            elif text[0] == "\r":
                self.column = 0
            elif text[0] == "\n":
                self.row += 1
                self.rows += [""] * (self.row == len(self.rows))
            else:
                row = self.rows[self.row].ljust(self.column)
                self.rows[self.row] = row[:self.column] + text[0] + row[self.column + 1:]
                self.column += 1
            text = text[n:]

    def look(self):
        while select.select([self.fd], [], [], 0)[0]:
            self.take(os.read(self.fd, 65536).decode().replace("\u00a0", " "))

    def until(self, what, busy=lambda: None):
        """what(rows) is true"""
        end = time.monotonic() + s.LIMIT
        while True:
            self.look()
            if what([r.rstrip() for r in self.rows]):
                return
            check(time.monotonic() < end, f"on the screen there is: {self.rows}")
            busy()
            select.select([self.fd], [], [], 0.2)

    def type(self, text):
        os.write(self.fd, text.encode())

    def stop(self):
        self.p.send_signal(signal.SIGINT)
        self.p.send_signal(signal.SIGINT)
        equal(self.p.wait(s.LIMIT), 0, "exit status")


def live_line():
    """on a terminal a line shows the traffic, then the last access and who has it"""
    server = Server()
    link = Link(server.port())
    t = Screen("--uri", server.uri, image(64), stdin=False)
    link.hello()
    o = link.offer("disk.img")
    st = link.open(o)
    n = st.nbd()

    def read():
        for at in range(0, 64 << 20, 4 << 20):
            n.pread(4 << 20, at)

    def last(line):
        return lambda rows: re.fullmatch(line, rows[-1])
    moved = r"disk.img: [\d.]+ .iB out, [\d.]+ \w+ in, "
    t.until(last(moved + r"[\d.]+ .iB/s; drive 0"), read)
    link.notice(s.INSERTED, o)
    t.until(last(moved + "last just now; drive 0"))
    link.notice(s.LOCKED, o, "mounted on /mnt")
    t.until(last(moved + r"last (just now|10 s ago); drive 0 \(mounted on /mnt\)"))
    check("drive 0: in use: 'disk.img' is mounted on /mnt" in t.rows, "the event has its own line")
    t.until(last(moved + r"last 10 s ago; drive 0 \(mounted on /mnt\)"))
    link.notice(s.LOCKED, o)
    t.until(last(moved + r"last \d0 s ago; drive 0 \(in use\)"))
    link.notice(s.UNLOCKED, o)
    t.until(last(moved + r"last \d0 s ago; drive 0"))
    link.notice(s.LOCKED, o, "mounted on /" + "x" * 120)
    t.until(lambda rows: rows[-1].endswith("xxx") and len(rows[-1]) == 99)
    st.close()
    link.notice(s.EJECTED, o)
    t.until(lambda rows: rows[-1] == "" and any("ejected" in r for r in rows))
    t.stop()


def live_line_and_commands():
    """the line does not touch what is typed below it"""
    server = Server()
    link = Link(server.port())
    t = Screen("--uri", server.uri, image(1))
    link.hello()
    o = link.offer("disk.img")
    link.notice(s.INSERTED, o)
    t.until(lambda rows: rows[-2:] == ["disk.img: 0 bytes out, 0 bytes in, never read; drive 0", ""])
    n = link.open(o).nbd()
    t.until(lambda rows: rows[-2].endswith("last just now; drive 0"))
    t.type("li")
    t.until(lambda rows: rows[-1] == "li")
    # What is read changes the line; no other is said.
    n.pread(256 << 10, 0)
    t.until(lambda rows: rows[-1] == "li" and rows[-2].startswith("disk.img: 256.") and
            rows[-2].endswith("last just now; drive 0"))
    t.type("st\n")
    t.until(lambda rows: rows[-1] == "" and rows[-2].startswith("disk.img: ") and
            rows[-3].startswith("'disk.img': disk, 1.0 MiB, read-only, in drive 0; ") and
            rows[-4] == "list")
    equal(sum(r.startswith("disk.img: ") for r in t.rows), 1, "there is one such line")
    t.type("nonsense\n")
    t.until(lambda rows: rows[-1] == "" and rows[-2].startswith("disk.img: ") and
            rows[-3].startswith("nonsense: failed") and rows[-4] == "nonsense")
    n.shutdown()
    # One that waits for the drive has a bar, until it is answered.
    link.gives_back = False
    t.type("eject\n")
    t.until(lambda rows: re.fullmatch(r"eject 'disk\.img': waiting for the drive \[#+\.+\] "
                                      r"\d+ s, 15 s at most", rows[-2]) and rows[-1] == "")
    link.notice(s.EJECTED, o)
    t.until(lambda rows: rows[-2:] == ["eject 'disk.img': done", ""])
    t.stop()


def image_bar():
    """on a terminal a bar shows how far the image of a folder is"""
    s.need("xorriso")
    d, n = workdir(), 8
    os.makedirs(f"{d}/folder")
    for i in range(n):
        random_file(f"{d}/folder/{i}", 1 << 20)
    # It stops half-way until it is told to go on.
    os.mkdir(f"{d}/bin")
    with open(f"{d}/bin/xorriso", "w") as f:
        f.write(f"#!/bin/sh\n{shutil.which('xorriso')} \"$@\" >{d}/image 2>/dev/null || exit\n"
                f"head -c {n << 19} {d}/image; cat {d}/go; tail -c +$(({n << 19} + 1)) {d}/image\n")
    os.chmod(f"{d}/bin/xorriso", 0o755)
    os.mkfifo(f"{d}/go")
    server = Server()
    t = Screen("--uri", server.uri, f"{d}/folder", stdin=False, PATH=f"{d}/bin:{os.environ['PATH']}")
    t.until(lambda rows: re.fullmatch(
        r"image \[#{8,10}\.{10,12}\] 4\.0 MiB of about [89]\.\d MiB of 'folder'", rows[-1]))
    open(f"{d}/go", "wb").close()
    t.until(lambda rows: any(r.startswith("connected to") for r in rows) and "image [" not in rows[-1])
    check(any(r.startswith("offering 'folder': CD, ") for r in t.rows), t.rows)
    t.stop()


def secret():
    """after a loss a hello with another secret is passed over"""
    share, _, link = linked(image(1))
    link.hello(secret=b"S" * 32)
    link.seq += 1
    link.send(s.PING, bytes(8))
    link.get(s.RESYNC)
    link.hello(secret=b"F" * 32, answer=False)
    link.get(s.RESYNC)
    check(not any(f.type == s.HELLO for f in link.frames), "a forged hello was answered")
    link.hello(secret=b"S" * 32)
    link.hello(secret=b"N" * 32)
    link.open(link.offer("disk.img")).nbd().shutdown()
    equal(share.stop(), 0, "exit status")


def left_behind():
    """it leaves no directory, no process and no lock behind"""
    d = workdir()
    os.mkdir(f"{d}/f")
    random_file(f"{d}/f/x", 1000)
    os.mkdir(f"{d}/run", 0o700)
    server = Server()
    links = Link(server.port())
    share = Share("--uri", server.uri, f"{d}/f", env={"XDG_RUNTIME_DIR": f"{d}/run"})
    share.event("connected")
    links.hello()
    sub, = os.listdir(f"{d}/run")
    equal(os.stat(f"{d}/run/{sub}").st_mode & 0o777, 0o700, "mode")
    kids = nbdkits(share)
    equal(share.stop(signal.SIGTERM), 0, "exit status")
    equal(os.listdir(f"{d}/run"), [], "left in the runtime directory")
    for pid in kids:
        check(not os.path.exists(f"/proc/{pid}"), "nbdkit left")


if __name__ == "__main__":
    s.run([iso_checksum, several_streams, writes, read_only, only_that_file, hello, resync,
           lost_bytes, old_epoch, rules, optional, version, no_offer, fence, fence_close,
           fence_lost, busy, server_dies, folder_server_dies, changed, window, no_reader,
           silence, reconnect, port_not_let_in, no_reconnect, reopened, interrupt, interrupt_twice,
           interrupt_refused, exit_on_eject, live_line, live_line_and_commands, image_bar,
           secret, left_behind])
