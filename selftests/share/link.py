#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-only
# timeout: 240
"""spicebd-share and spicebd-link together, with a daemon made of the private
socket alone: offers, a whole ISO, writes, eject, deaths of either."""
import os
import signal
import struct
import sys
import time

import sharelib as s
from sharelib import Share, check, equal, make_iso, random_file, workdir

sys.path.insert(0, os.path.join(s.TOP, "selftests/link"))
sys.dont_write_bytecode = True
import linktest as t            # noqa: E402

PASSWORD = "open sesame"


def started(*args, ports=(0,), **conf):
    """Link, daemon, share with its media offered on all ports."""
    s.need(t.LINK)
    link = t.Link(password=PASSWORD, **conf)
    s.later(link.close)
    d = link.daemon()
    for n in ports:
        d.send(t.ADD_PORT, n)
    d.expect(t.READY)
    share = Share("--uri", link.uri, "--password-file", os.path.join(link.dir, "password"), *args)
    share.event("connected")
    return link, d, share


def offers(d):
    """What a port offers, by name."""
    got = {}
    while True:
        m = d.expect(t.OFFER, t.OFFERS_END, timeout=s.LIMIT)
        if m.type == t.OFFERS_END:
            return got
        got[m.offer_fields()["name"]] = (m.offer, m.offer_fields())


def nbd_of(d, offer, port=0, tag=1):
    import nbd
    m = d.open(port, offer, tag=tag, timeout=s.LIMIT)
    equal(m.type, t.STREAM, f"{m}")
    h = nbd.NBD()
    h.connect_socket(m.fd)
    return h


def read_all(h):
    size = h.get_size()
    return b"".join(bytes(h.pread(min(1 << 20, size - at), at)) for at in range(0, size, 1 << 20))


def content(path):
    with open(path, "rb") as f:
        return f.read()


def offer_list():
    """the daemon sees what the person shares"""
    d = workdir()
    iso, img = make_iso(f"{d}/disc.iso"), random_file(f"{d}/stick.img", 1 << 20)
    os.mkdir(f"{d}/folder")
    random_file(f"{d}/folder/x", 1000)
    _, daemon, share = started("--read-write", iso, img, f"{d}/folder")
    got = offers(daemon)
    equal(sorted(got), ["disc.iso", "folder", "stick.img"], "names")
    equal((got["disc.iso"][1]["kind"], got["stick.img"][1]["kind"]), (1, 2), "kinds")
    equal(got["disc.iso"][1]["size"], os.path.getsize(iso), "size")
    check(got["disc.iso"][1]["flags"] & 1 and not got["stick.img"][1]["flags"] & 1, "read-only")
    equal(share.stop(), 0, "exit status")
    daemon.expect(t.PORT_DOWN, timeout=s.LIMIT)


def whole_iso():
    """a 64 MiB ISO is equal, over a unix socket and over TCP"""
    iso = make_iso(f"{workdir()}/disc.iso", 64)
    for tcp in (False, True):
        _, daemon, share = started(iso, tcp=tcp)
        h = nbd_of(daemon, offers(daemon)["disc.iso"][0])
        began = time.monotonic()
        check(read_all(h) == content(iso), "content")
        print(f"# {64 / (time.monotonic() - began):.0f} MiB/s")
        h.shutdown()
        share.event("closed")
        equal(share.stop(), 0, "exit status")


def writing():
    """what the drive writes lands in the file"""
    img = random_file(f"{workdir()}/stick.img", 16 << 20)
    want = bytearray(content(img))
    _, daemon, share = started("--read-write", img)
    h = nbd_of(daemon, offers(daemon)["stick.img"][0])
    for at, size in ((0, 4096), (1 << 20, 4 << 20), (15 << 20, 1 << 20), (777, 99999)):
        data = os.urandom(size)
        h.pwrite(data, at)
        want[at:at + size] = data
    check(read_all(h) == want, "read back")
    h.flush()
    check(content(img) == want, "content of the file")
    h.shutdown()
    equal(share.stop(), 0, "exit status")


def many():
    """sixteen streams on two drives, and each has the right bytes"""
    iso = make_iso(f"{workdir()}/disc.iso", 8)
    want = content(iso)
    _, daemon, share = started(iso, ports=(0, 1))
    a, b = offers(daemon)["disc.iso"][0], offers(daemon)["disc.iso"][0]
    hs = [nbd_of(daemon, (a, b)[n % 2], port=n % 2, tag=n) for n in range(16)]
    for n, h in enumerate(hs):
        check(bytes(h.pread(1 << 20, n << 18)) == want[n << 18:][:1 << 20], f"stream {n}")
    for h in hs:
        h.shutdown()
    equal(share.stop(), 0, "exit status")


def eject():
    """notices reach the person, the person's wish reaches the daemon"""
    iso = make_iso(f"{workdir()}/disc.iso")
    _, daemon, share = started(iso)
    o = offers(daemon)["disc.iso"][0]
    h = nbd_of(daemon, o)
    share.event("opened", drive=0, name="disc.iso", kind="cdrom")
    for what, name in ((s.INSERTED, "inserted"), (s.LOCKED, "locked"), (s.UNLOCKED, "unlocked")):
        daemon.send(t.NOTICE, 0, o, flags=what)
        share.event(name)
    share.p.send_signal(signal.SIGINT)
    equal(daemon.expect(t.EJECT_REQUEST, timeout=s.LIMIT).offer, o, "the offer")
    daemon.send(t.NOTICE, 0, o, flags=s.BUSY)
    share.event("busy")
    h.shutdown()
    daemon.send(t.NOTICE, 0, o, flags=s.EJECTED)
    share.event("ejected")
    equal(share.wait(), 0, "exit status")


def wrong_password():
    """a wrong password: status 4"""
    link, daemon, share = started(make_iso(f"{workdir()}/disc.iso"))
    offers(daemon)
    equal(share.stop(), 0, "exit status")
    with open(os.path.join(link.dir, "password"), "w") as f:
        f.write("wrong\n")
    share = Share("--uri", link.uri, "--password-file", os.path.join(link.dir, "password"),
                  "/etc/os-release", env={"XDG_STATE_HOME": workdir()})
    equal(share.wait(), 4, share.errors())


def link_dies():
    """the link is killed and comes again: the share too, with the same media"""
    img = random_file(f"{workdir()}/stick.img", 1 << 20)
    link, daemon, share = started("--read-write", img)
    before = offers(daemon)["stick.img"][1]
    h = nbd_of(daemon, 1)
    h.pwrite(b"x" * 4096, 0)
    old, = [p for p, a in share.children().items() if "nbdkit" in a[0]]
    os.kill(old, signal.SIGSTOP)
    h.aio_pwrite(bytearray(b"y" * 4096), 0)
    link.kill()
    link.start()
    daemon = link.daemon()
    daemon.send(t.ADD_PORT, 0)
    share.event("reconnecting")
    share.event("connected")
    o, after = offers(daemon)["stick.img"]
    check(not os.path.exists(f"/proc/{old}"), "the old server was not reaped")
    equal(after["medium"], before["medium"], "medium id")
    check(after["incarnation"] != before["incarnation"], "incarnation")
    h = nbd_of(daemon, o)
    equal(bytes(h.pread(4096, 0)), b"x" * 4096, "what was acknowledged is there")
    h.shutdown()
    equal(share.stop(), 0, "exit status")


def new_epoch():
    """a port that the daemon resets: offers again, old streams are gone"""
    iso = make_iso(f"{workdir()}/disc.iso")
    _, daemon, share = started(iso)
    h = nbd_of(daemon, offers(daemon)["disc.iso"][0])
    daemon.send(t.RESET_PORT, 0)
    daemon.expect(t.PORT_UP, timeout=s.LIMIT)
    h2 = nbd_of(daemon, offers(daemon)["disc.iso"][0])
    check(read_all(h2) == content(iso), "content")
    try:
        h.pread(512, 0)
        check(False, "the old stream still reads")
    except Exception as e:      # noqa: BLE001: libnbd's
        check("nbd" in type(e).__module__, e)
    h2.shutdown()
    equal(share.stop(), 0, "exit status")


def later_port():
    """a drive that is added later is offered the media, a removed one not"""
    iso = make_iso(f"{workdir()}/disc.iso")
    _, daemon, share = started(iso)
    offers(daemon)
    daemon.send(t.ADD_PORT, 7)
    share.event("drive-connected", drive=7)
    h = nbd_of(daemon, offers(daemon)["disc.iso"][0], port=7)
    check(read_all(h) == content(iso), "content")
    daemon.send(t.DEL_PORT, 7)
    share.event("drive-disconnected", drive=7)
    equal(share.stop(), 0, "exit status")


def share_killed():
    """a share that is killed leaves the link free for the next one"""
    iso = make_iso(f"{workdir()}/disc.iso")
    link, daemon, share = started(iso)
    offers(daemon)
    share.p.kill()
    # The gate has let go of it when its client is told to be gone.
    while daemon.expect(t.CLIENT, timeout=s.LIMIT).flags:
        pass
    args = "--uri", link.uri, "--password-file", os.path.join(link.dir, "password"), iso
    # The password was used: who knows nothing else is somebody else.
    other = Share(*args, env={"XDG_STATE_HOME": workdir()})
    equal(other.wait(), 4, other.errors())
    check("used for another session" in other.errors(), other.errors())
    # What the one before was told, its successor has from the user's own files.
    kept = [os.path.join(d, n) for d, _, ns in os.walk(os.environ["XDG_STATE_HOME"]) for n in ns]
    check(kept and all(os.stat(n).st_mode & 0o777 == 0o600 for n in kept), f"{kept}")
    share = Share(*args)
    offers(daemon)
    equal(share.stop(), 0, "exit status")


def in_use():
    """a second share is told that the server is in use: status 3"""
    link, daemon, share = started(make_iso(f"{workdir()}/disc.iso"))
    offers(daemon)
    second = Share("--uri", link.uri, "--password-file", os.path.join(link.dir, "password"),
                   "/etc/os-release")
    equal(second.wait(), 3, second.errors())
    check("in use by another client" in second.errors(), second.errors())
    equal(share.stop(), 0, "exit status")


def certificates(d, address="127.0.0.1"):
    """Two authorities, and a server's certificate of the first."""
    s.need("openssl")

    def run(*a):
        s.subprocess.run(["openssl", *a], check=True, capture_output=True, cwd=d)
    for ca in ("ca", "other"):
        run("req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", f"{ca}.key", "-out",
            f"{ca}.pem", "-days", "2", "-subj", f"/CN={ca}")
    run("req", "-newkey", "rsa:2048", "-nodes", "-keyout", "key.pem", "-out", "req.pem",
        "-subj", f"/CN={address}")
    with open(f"{d}/ext", "w") as f:
        f.write(f"subjectAltName=IP:{address}\n")
    run("x509", "-req", "-in", "req.pem", "-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial",
        "-out", "cert.pem", "-days", "2", "-extfile", "ext")
    os.chmod(f"{d}/key.pem", 0o600)


def tls_link(address="127.0.0.1"):
    """A directory with certificates, an ISO, a link that wants TLS, its daemon."""
    s.need(t.LINK)
    d = workdir()
    certificates(d, address)
    iso = make_iso(f"{d}/disc.iso")
    link = t.Link(f"tls-cert={d}/cert.pem\ntls-key={d}/key.pem\ntls-ca={d}/ca.pem",
                  tcp=True, password=PASSWORD)
    s.later(link.close)
    daemon = link.daemon()
    daemon.send(t.ADD_PORT, 0)
    return d, iso, link, daemon


def tls():
    """TLS with the authority's file; without it, or with another, status 3"""
    d, iso, link, daemon = tls_link()
    args = ["--password-file", os.path.join(link.dir, "password"), iso]
    uri = f"spice://127.0.0.1?tls-port={link.port}"
    for wrong in ([], ["--ca-file", f"{d}/other.pem"]):
        share = Share("--uri", uri, *wrong, *args)
        equal(share.wait(), 3, share.errors())
        check("TLS failed" in share.errors() and "--ca-file" in share.errors(), share.errors())
    share = Share("--uri", f"spice://127.0.0.1:{link.port}", *args)
    equal(share.wait(), 3, share.errors())
    check("tls-port" in share.errors(), share.errors())
    share = Share("--uri", uri, "--ca-file", f"{d}/ca.pem", *args)
    share.event("connected")
    h = nbd_of(daemon, offers(daemon)["disc.iso"][0])
    check(read_all(h) == content(iso), "content")
    h.shutdown()
    equal(share.stop(), 0, "exit status")


def tls_of_another_host():
    """TLS: a good certificate, but of another host: status 3, and no password is sent"""
    d, iso, link, daemon = tls_link("192.0.2.7")
    share = Share("--uri", f"spice://127.0.0.1?tls-port={link.port}", "--ca-file",
                  f"{d}/ca.pem", "--password-file", os.path.join(link.dir, "password"), iso)
    equal(share.wait(), 3, share.errors())
    check("TLS failed" in share.errors(), share.errors())
    # The link has seen a handshake that was broken off, and nobody who linked.
    link.wait_log("SSL")
    check("linked" not in link.log_text(), link.log_text())


def tls_again():
    """TLS: a port that is reset, and a link that dies"""
    d, iso, link, daemon = tls_link()
    share = Share("--uri", f"spice://127.0.0.1?tls-port={link.port}", "--ca-file",
                  f"{d}/ca.pem", "--password-file", os.path.join(link.dir, "password"), iso)
    share.event("connected")
    offers(daemon)
    daemon.send(t.RESET_PORT, 0)
    daemon.expect(t.PORT_UP, timeout=s.LIMIT)
    h = nbd_of(daemon, offers(daemon)["disc.iso"][0])
    check(read_all(h) == content(iso), "content after the reset")
    h.shutdown()
    link.kill()
    link.start()
    daemon = link.daemon()
    daemon.send(t.ADD_PORT, 0)
    h = nbd_of(daemon, offers(daemon)["disc.iso"][0])
    check(read_all(h) == content(iso), "content after the death")
    h.shutdown()
    equal(share.stop(), 0, "exit status")


if __name__ == "__main__":
    s.run([offer_list, whole_iso, writing, many, eject, wrong_password, link_dies, new_epoch,
           later_port, share_killed, in_use, tls, tls_of_another_host, tls_again])
