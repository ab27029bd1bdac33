#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-only
# timeout: 300
"""QEMU's NBD server and block exports: commands, words, stock clients, and
what an export and a drive are to each other. After QEMU's iotest 205. All rows
are here; those that take their time are run by export-more.py."""
import os
import re
import signal
import socket
import stat
import subprocess
import time

import nbd

from traylib import Bench, Qmp, Table, same, sh, until

MIB = 1 << 20


class Exports(Bench):
    """A bench with the NBD server's socket and some images"""

    def __init__(self):
        super().__init__()
        self.path = f"{self.dir}/nbd.sock"
        self.addr = {"type": "unix", "data": {"path": self.path}}
        self.n = 0

    def __exit__(self, *exc):
        self.q.cmd("nbd-server-stop")
        super().__exit__(*exc)

    def node(self, label, size=4 * MIB, **kw):
        img = self.image(label, size=size)
        return img, self.add_node(driver="file", filename=img.path, **kw)

    def uri(self, name=""):
        return f"nbd+unix:///{name}?socket={self.path}"

    def client(self, name):
        h = nbd.NBD()
        h.set_export_name(name)
        h.connect_unix(self.path)
        return h

    def add(self, **kw):
        return self.q.cmd("block-export-add", type="nbd", **kw)

    def deleted(self, want):
        """BLOCK_EXPORT_DELETED, as it comes"""
        def got():
            self.q.do("query-name")
            return [e["data"]["id"] for e in self.q.events if e["event"] == "BLOCK_EXPORT_DELETED"]
        until(lambda: len(got()) >= len(want), f"events for {want}")
        same(sorted(got()), sorted(want), "BLOCK_EXPORT_DELETED")
        self.q.events[:] = [e for e in self.q.events if e["event"] != "BLOCK_EXPORT_DELETED"]


def fails(fn, *a):
    try:
        fn(*a)
    except nbd.Error as e:
        return e
    raise AssertionError("it did not fail")


def alive(h):
    try:
        h.pread(512, 0)
    except nbd.Error:
        return False
    return True


def words_before(b):
    """without a server"""
    _, node = b.node("early")
    q = b.q
    b.add(id="a", node_name=node).bad("^NBD server not running$")
    q.cmd("nbd-server-stop").bad("^NBD server not running$")
    q.cmd("nbd-server-start").bad("^Parameter 'addr' is missing$")
    for addr, want in (
            ({"type": "foo", "data": {}}, "^Parameter 'type' does not accept value 'foo'$"),
            ({"type": "unix"}, "^Parameter 'addr.data' is missing$"),
            ({"type": "unix", "data": {}}, "^Parameter 'addr.data.path' is missing$"),
            ({"type": "unix", "data": {"path": 7}}, "'addr.data.path', expected: string"),
            ({"type": "unix", "data": {"path": "here"}}, "is not absolute"),
            ({"type": "unix", "data": {"path": "/" + "x" * 200}}, "too long"),
            ({"type": "unix", "data": {"path": "/tmp/x", "abstract": True}}, "abstract sockets are not supported"),
            ({"type": "inet", "data": {"host": "127.0.0.1"}}, "^Parameter 'addr.data.port' is missing$"),
            ({"type": "unix", "data": {"path": "/nonexistent/x"}},
             "Failed to bind socket to /nonexistent/x: No such file or directory"),
            ({"type": "inet", "data": {"host": "127.0.0.1", "port": "no-such-service"}},
             "address resolution failed for 127.0.0.1:no-such-service")):
        q.cmd("nbd-server-start", addr=addr).bad(want)
    q.cmd("nbd-server-start", addr=b.addr, tls_creds="x").bad("TLS is not supported here")
    q.cmd("nbd-server-start", addr=b.addr, max_connections=-1).bad("'max-connections' expects uint32_t")
    with open(b.path, "w", encoding="ascii") as f:
        f.write("precious")
    q.cmd("nbd-server-start", addr=b.addr).bad("what is there is no socket")
    with open(b.path, encoding="ascii") as f:
        same(f.read(), "precious", "the file that was there")
    os.unlink(b.path)
    same(q.do("query-block-exports"), [], "exports")


def server(b):
    b.q.do("nbd-server-start", addr=b.addr)
    st = os.lstat(b.path)
    assert stat.S_ISSOCK(st.st_mode) and stat.S_IMODE(st.st_mode) == 0o600, oct(st.st_mode)
    b.q.cmd("nbd-server-start", addr=b.addr).bad("^NBD server already running$")
    pid = int(sh("pgrep -x spicebd-export"))
    text = sh(f"cat /proc/{pid}/status")
    same(re.findall(r"^Cap(?:Eff|Prm|Bnd):\s+(\w+)", text, re.M), ["0" * 16] * 3, "capabilities")
    assert sh(f"ps -o ppid= -p {pid}").strip() != sh("pgrep -x spicebdd").strip(), "a child of spicebdd"


def words(b):
    _, node = b.node("words")
    _, ro = b.node("words ro", read_only=True)
    b.add(id="a", node_name="none").bad("^Cannot find device='none' nor node-name='none'$")
    b.q.cmd("block-export-add", type="fuse", id="a", node_name=node).bad(
        "^Parameter 'type' does not accept value 'fuse'$")
    for name in ("a/b", "", "1a", "..", "a b"):
        b.add(id=name, node_name=node).bad("^Invalid block export id$")
    b.add(id="a", node_name=ro, writable=True).bad("^Cannot export read-only node as writable$")
    b.add(id="a", node_name=node, name="x" * 4097).bad("^export name 'x+.*' too long$")
    b.add(id="a", node_name=node, description="x" * 4097).bad("^description 'x+.*' too long$")
    b.add(id="a", node_name=node, name="a\x1b[31mb").bad("^export name has control characters$")
    b.add(id="a", node_name=node, name="a\nb").bad("^export name has control characters$")
    b.add(id="a", node_name=node, bitmaps=["x"]).bad("'bitmaps' is not supported")
    same(b.q.do("query-block-exports"), [], "exports")
    b.add(id="a", node_name=node).good()
    b.add(id="a", node_name=ro).bad("^Block export id 'a' is already in use$")
    b.add(id="b", node_name=ro, name=node).bad(f"^NBD server already has export named '{node}'$")
    b.q.cmd("blockdev-del", node_name=node).bad(f"^Node {node} is in use$")
    same(b.q.do("query-block-exports"),
         [{"id": "a", "type": "nbd", "node-name": node, "shutting-down": False}], "query-block-exports")
    b.q.cmd("block-export-del", id="a", mode="foo").bad("^Parameter 'mode' does not accept value 'foo'$")
    b.q.cmd("block-export-del", id="zz").bad("^Export 'zz' is not found$")
    b.q.cmd("nbd-server-remove", name="zz").bad("^Export 'zz' is not found$")
    b.q.do("block-export-del", id="a")
    b.deleted(["a"])
    same(Qmp("status").cmd("query-block-exports").cls, "CommandNotFound", "the status socket")
    b.q.do("nbd-server-add", device=ro, writable=True, name="old", description="as it was")
    assert b.client("old").is_read_only(), "nbd-server-add made a read-only node writable"
    b.q.cmd("nbd-server-add", device=node, name="old").bad("^Block export id 'old' is already in use$")
    b.q.do("nbd-server-remove", name="old")
    b.deleted(["old"])


def names(b):
    """hostile ones are names, and nothing else"""
    img = b.export("names", size=MIB)
    node = b.add_node(driver="nbd", server=img.server())
    want = ["../../etc/passwd", "%s%n a'\"\\", "ä" * 2048, ""]
    for i, name in enumerate(want):
        b.add(id=f"x{i}", node_name=node, name=name, description=f"the {i}th").good()
    listing = nbd.NBD()
    listing.set_opt_mode(True)
    listing.connect_unix(b.path)
    got = []
    listing.opt_list(lambda name, desc: got.append((name, desc)) or 0)
    listing.opt_abort()
    same(sorted(got), sorted((n, f"the {i}th") for i, n in enumerate(want)), "the list")
    for name in want:
        same(b.client(name).pread(5, 0), img.label.encode(), f"export {name[:10]!r}")
    for name in ("...", "x" * 4096, "../", "\x01"):
        fails(b.client, name)
    for i in range(len(want)):
        b.q.do("block-export-del", id=f"x{i}", mode="hard")
    b.deleted([f"x{i}" for i in range(len(want))])


def stock(b):
    """two exports at once, one written, by the programs that everybody has"""
    src, node = b.node("source", size=24 * MIB)
    with open(src.path, "r+b") as f:
        for i in range(0, 24, 5):
            f.seek(i * MIB + 12345)
            f.write(os.urandom(600000))
    dst, other = b.node("target", size=24 * MIB)
    b.add(id="src", node_name=node).good()
    b.add(id="dst", node_name=other, writable=True, writethrough=True, name="d").good()
    out = sh(f"nbdinfo --list '{b.uri()}'")
    assert f'export="{node}"' in out and 'export="d"' in out, out
    for flag in ("can_multi_conn: true", "can_flush: true", "base:allocation", "using structured packets"):
        assert flag in out, f"{flag}: {out}"
    sh(f"nbdcopy '{b.uri(node)}' '{b.uri('d')}' && cmp {src.path} {dst.path}")
    sh(f"qemu-img map --output=json '{b.uri(node)}' | grep -q '\"data\": false'")
    out = sh(f"qemu-io -f raw -c 'write -P 9 1M 128k' -c 'discard 4M 2M' -c 'write -z 8M 1M' -c flush "
             f"-c 'read -P 9 1M 128k' -c 'read -P 0 8M 1M' '{b.uri('d')}'")
    assert "failed" not in out, out
    with open(dst.path, "rb") as f:
        f.seek(MIB)
        same(f.read(3), b"\x09\x09\x09", "the file")
    out = sh(f"qemu-io -f raw -c 'write 0 512' '{b.uri(node)}' 2>&1", check=False)
    assert re.search("read-only|not permitted|denied", out, re.I), out
    b.q.do("block-export-del", id="src")
    b.q.do("block-export-del", id="dst")
    b.deleted(["src", "dst"])
    sh(f"cmp -n 1024 {src.path} {dst.path}")


def removal(b):
    """iotest 205"""
    for verb, key in (("block-export-del", "id"), ("nbd-server-remove", "name")):
        _, node = b.node("removed " + key)
        _, kept = b.node("kept " + key)
        b.add(id="exp", node_name=node, name="exp").good()
        b.add(id="keep", node_name=kept, name="keep").good()
        h, k = b.client("exp"), b.client("keep")
        same(h.pread(4, 0), b"remo", "the client reads")
        b.q.cmd(verb, **{key: "exp"}).bad("^export 'exp' still in use$")
        b.q.cmd(verb, mode="safe", **{key: "exp"}).bad("^export 'exp' still in use$")
        same(h.pread(4, 0), b"remo", "the client reads on")
        b.q.do(verb, mode="hard", **{key: "exp"})
        fails(h.pread, 4, 0)
        b.deleted(["exp"])
        b.q.cmd(verb, mode="hard", **{key: "exp"}).bad("^Export 'exp' is not found$")
        fails(b.client, "exp")
        same(k.pread(4, 0), b"kept", "the other export's client")
        k.shutdown()
        b.q.do(verb, **{key: "keep"})
        b.deleted(["keep"])


def medium(b, which):
    """the medium of a drive"""
    d = b.drives[which]
    d.empty()
    img = b.image(f"in {which}", size=8 * MIB)
    with open(img.path, "r+b") as f:
        f.seek(MIB)
        f.write(os.urandom(MIB))
    node = b.add_node(driver="file", filename=img.path, read_only=which == "cdrom")
    if d.has_tray:
        b.q.do("blockdev-open-tray", id=d.name)
    b.q.do("blockdev-insert-medium", id=d.name, node_name=node)
    if d.has_tray:
        b.q.do("blockdev-close-tray", id=d.name)
    d.settle()
    b.add(id="m", node_name=node, writable=True).bad(
        "^Cannot export read-only node as writable$" if which == "cdrom" else
        f"^Conflicts with use by {d.name} as 'root', which does not allow 'write' on {node}$")
    b.add(id="m", node_name=node, name="disc").good()
    b.q.do("nbd-server-add", device=d.name)
    sh(f"nbdcopy '{b.uri('disc')}' {b.dir}/copy && cmp {b.dir}/copy {img.path} && cmp {b.dir}/copy {d.node}")
    h = b.client("disc")
    assert h.is_read_only()
    d.settle()
    why = "cannot eject: its medium is exported as 'disc' to 1 client$"
    b.q.cmd("eject", id=d.name).bad(why)
    out = sh(f"spicebdctl eject {d.name} 2>&1; echo status $?")
    assert re.search(why, out, re.M) and "status 1" in out, out
    b.q.cmd("blockdev-change-medium", id=d.name, filename=img.path, format="raw").bad(
        "cannot change its medium: its medium is exported as 'disc' to 1 client$")
    same(h.pread(2, 0), b"in", "the client reads")
    same(d.head(), img.label, "the drive")
    h.shutdown()
    h = b.client(d.name)
    began = time.monotonic()
    b.q.do("eject", id=d.name, force=True)
    took = time.monotonic() - began
    # An emulated machine may be slow; a patience or a time limit is longer.
    print(f"# the forced eject took {took:.2f} s")
    assert took < 10, f"the forced eject took {took:.2f} s"
    # Another process serves it: the event tells when it has let go of the medium.
    b.deleted(["m", d.name])
    fails(h.pread, 2, 0)
    same(b.q.do("query-block-exports"), [], "exports")
    d.empty()
    b.q.do("spicebd-insert", source=img.path, drive=d.name)
    d.settle()
    b.q.do("nbd-server-add", device=d.name, name="idle")
    same(b.client("idle").pread(2, 0), b"in", "a medium without a node")
    b.q.do("eject", id=d.name)
    b.deleted(["idle"])
    d.empty()


def stores(b):
    """what a client may write to is in no drive, and the other way round"""
    img, node = b.node("one store", size=8 * MIB)
    other = b.add_node(driver="file", filename=img.path)
    d = b.drives["disk"]
    d.empty()
    b.add(id="w", node_name=node, writable=True).good()
    b.q.cmd("blockdev-insert-medium", id=d.name, node_name=other).bad("is exported writable as")
    b.q.do("block-export-del", id="w")
    b.q.do("blockdev-insert-medium", id=d.name, node_name=other)
    b.add(id="w", node_name=node, writable=True).bad("^Conflicts with use by spicebd1 as 'root'")
    b.add(id="r", node_name=node).good()
    d.settle()
    b.q.do("eject", id=d.name)
    same(b.client(node).pread(3, 0), b"one", "an export of the node goes on")
    b.q.do("block-export-del", id="r", mode="hard")
    b.deleted(["w", "r"])


def remote(b):
    """another NBD server's export, exported again; and its death"""
    e = b.export("far away", size=4 * MIB)
    node = b.add_node(driver="nbd", server=e.server())
    b.add(id="far", node_name=node, writable=True).good()
    h = b.client(node)
    h.pwrite(b"x" * 512, MIB)
    h.flush()
    with open(e.file, "rb") as f:
        f.seek(MIB)
        same(f.read(4), b"xxxx", "the far file")
    p = b.children.pop()
    p.kill()
    p.wait(20)
    fails(h.pread, 512, 0)
    fails(b.client, node)
    assert b.add(id="dead", node_name=node).cls, "an export of a server that is dead"
    b.q.do("block-export-del", id="far", mode="hard")
    b.deleted(["far"])
    b.add(id="x", node_name=b.add_node(driver="spice", medium="none")).bad("insert it first")


def deaths(b):
    img, node = b.node("long lived")
    disc = b.image("long disc", size=4 * MIB)
    d = b.drives["cdrom"]
    d.empty()
    sh(f"spicebdctl insert --cdrom {disc.path}")
    b.add(id="n", node_name=node, name="own", writable=True).good()
    b.q.do("nbd-server-add", device=d.name, name="disc")
    h, k = b.client("own"), b.client("disc")
    os.kill(int(sh("pgrep -x spicebdd")), signal.SIGKILL)
    same(h.pread(4, 0), b"long", "a client without spicebdd")
    b.again()
    same(sorted(x["id"] for x in b.q.do("query-block-exports")), ["disc", "n"], "adopted exports")
    h.pwrite(b"LONG", 0)
    same(k.pread(4, 512), bytes(4), "the other client")
    same(b.client("own").pread(4, 0), b"LONG", "another client")
    until(lambda: b.q.cmd("block-export-del", id="n").desc == "export 'n' still in use", "n is in use")
    until(lambda: not d.query()["openers"] and d.query()["state"] == "ready", "the drive is served again")
    b.q.cmd("eject", id=d.name).bad("exported as 'disc' to 1 client")
    k.shutdown()
    b.q.cmd("spicebd-insert", source=img.path, drive="spicebd1").bad("is exported writable as 'own'")

    os.kill(int(sh("pgrep -x spicebd-export")), signal.SIGKILL)
    until(lambda: not alive(h), "its client's connection ends")
    def again():
        try:
            return b.client("own")
        except nbd.Error:
            return None
    same(until(again, "another spicebd-export").pread(4, 0), b"LONG", "a client of it")
    same(b.client("disc").pread(4, 0), b"long", "and of the other export")
    same(sh("pgrep -c -x spicebd-export").strip(), "1", "servers")
    b.q.do("block-export-del", id="n", mode="hard")
    b.q.do("eject", id=d.name, force=True)
    b.deleted(["n", "disc"])
    d.empty()


def share(b):
    """a medium at the other end of a Spice connection"""
    d = b.drives["cdrom"]
    d.empty()
    img = b.image("shared", size=6 * MIB)
    sh(f"(umask 077; echo secret >{b.dir}/pw); spicebdctl listen 127.0.0.1:5931 --password-file {b.dir}/pw")
    p = b.spawn("spicebd-share", "--uri", "spice://127.0.0.1:5931", "--password-file", f"{b.dir}/pw", "--wait",
                "--read-only", img.path, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        until(lambda: "shared.img" in sh("spicebdctl media --json"), "the offer")
        b.q.do("spicebd-insert", source="spice:shared.img", drive=d.name)
        d.settle()
        b.q.do("nbd-server-add", device=d.name, name="far")
        sh(f"nbdcopy '{b.uri('far')}' {b.dir}/copy && cmp {b.dir}/copy {img.path}")
        h = b.client("far")
        same(h.pread(6, 0), b"shared", "a client")
        p.kill()
        fails(h.pread, 6, 0)
        b.q.do("eject", id=d.name, force=True)
        b.deleted(["far"])
    finally:
        p.kill()
        sh("spicebdctl unlisten", check=False)
    d.empty()


def stop(b):
    _, node = b.node("last")
    b.add(id="one", node_name=node).good()
    b.add(id="two", node_name=node, name="two").good()
    h = b.client("two")
    b.q.do("nbd-server-stop")
    b.deleted(["one", "two"])
    fails(h.pread, 4, 0)
    assert not os.path.exists(b.path), "the socket's file is left"
    same(sh("pgrep -x spicebd-export", check=False), "", "servers")
    same(os.listdir("/run/spicebd/export"), [], "files")
    until(lambda: not sh("pgrep -x spicebd-nbdkit", check=False), "the files' own servers end, too")
    b.q.cmd("nbd-server-stop").bad("^NBD server not running$")
    b.q.cmd("block-export-del", id="one").bad("^Export 'one' is not found$")


def inet(b):
    img, node = b.node("tcp")
    s = socket.socket()
    s.bind(("127.0.0.1", 0))
    port = str(s.getsockname()[1])
    s.listen()
    addr = {"type": "inet", "data": {"host": "127.0.0.1", "port": port}}
    b.q.cmd("nbd-server-start", addr=addr).bad(f"Failed to listen on 127.0.0.1:{port}: Address already in use")
    s.close()
    b.q.do("nbd-server-start", addr=addr, max_connections=1)
    b.add(id="t", node_name=node).good()
    h = nbd.NBD()
    h.set_export_name(node)
    h.connect_tcp("127.0.0.1", port)
    same(h.pread(3, 0), b"tcp", "TCP")
    second = socket.create_connection(("127.0.0.1", int(port)))
    second.settimeout(1)
    try:
        raise AssertionError(f"max-connections: a second client got {second.recv(8)!r}")
    except TimeoutError:
        pass
    h.shutdown()
    second.settimeout(40)
    same(second.recv(8), b"NBDMAGIC", "and when the first has gone")
    second.close()
    b.q.do("nbd-server-stop")
    b.deleted(["t"])
    sh(f"cmp -n 3 {img.path} {img.path}")


def row(b, fn, *args):
    """one row; what it left is no other's"""
    began = time.monotonic()
    try:
        fn(b, *args)
    finally:
        print(f"# {time.monotonic() - began:.1f} s")
        for x in b.q.cmd("query-block-exports").value or []:
            b.q.cmd("block-export-del", id=x["id"], mode="hard")
        b.q.events[:] = [e for e in b.q.events if e["event"] != "BLOCK_EXPORT_DELETED"]


BEGIN = (
    ("without a server", words_before),
    ("nbd-server-start: mode, rights, no child of spicebdd", server))
SHORT = (
    ("removal with clients: safe, hard, again", removal),
    ("a cdrom's medium: read, blocks eject, force", medium, "cdrom"))
LONG = (
    ("QEMU's words", words),
    ("names", names),
    ("nbdinfo, nbdcopy, qemu-img, qemu-io", stock),
    ("a disk's medium: read, blocks eject, force", medium, "disk"),
    ("one store, one writer", stores),
    ("another server's export", remote),
    ("death of spicebdd, of spicebd-export", deaths),
    ("a share's medium", share))
END = (("nbd-server-stop", stop),)
TCP = (("inet, max-connections", inet),)


def main(*rows):
    table = Table()
    for title, fn, *args in sum(rows, ()):
        table.add(title, row, fn, *args)
    table.main(Exports)


if __name__ == "__main__":
    main(BEGIN, SHORT, END)
