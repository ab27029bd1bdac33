#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-only
# timeout: 600
"""A far end that takes longer than a stranger is given: it is let in all the same.
And strangers that say nothing keep nobody out, for all that."""
import contextlib
import signal
import socket
import struct
import subprocess
import tempfile
import threading
import time

import linktest as t
from tls import certificates

SLOW = 17               # s: more than a link gives a stranger, or a share its first attempt
PLACES = 32             # of connections that nobody has authenticated
# A request for a session's main channel: header, message, no capability of note.
MAIN = struct.pack("<IIIIIBBIII", 0x51444552, 2, 2, 22, 0, 1, 0, 1, 0, 18) + bytes(4)


class Proxy:
    """Holds back the ticket of each connection for a while, or all connections but the
    first until it is told to go on."""

    def __init__(self, port, ticket=0, hold=False):
        self.to, self.ticket = ("127.0.0.1", port), ticket
        self.go = threading.Event()
        if not hold:
            self.go.set()
        self.n = 0
        self.held = threading.Semaphore(0)
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self):
        while True:
            client = self.listener.accept()[0]
            self.n += 1
            threading.Thread(target=self.begin, args=(client, self.n), daemon=True).start()

    def begin(self, client, n):
        if n > 1 and not self.go.is_set():
            self.held.release()
            self.go.wait()
        try:
            server = socket.create_connection(self.to)
        except OSError:
            client.close()
            return
        threading.Thread(target=self.pump, args=(server, client, 0), daemon=True).start()
        self.pump(client, server, self.ticket)

    @staticmethod
    def pump(a, b, ticket):
        seen = 0
        try:
            while data := a.recv(65536):
                if ticket and not seen:
                    # The request, of 16 bytes and what they announce; then the ticket.
                    seen = 16 + struct.unpack_from("<I", data, 12)[0]
                    b.sendall(data[:seen])
                    data = data[seen:] or a.recv(65536)
                    time.sleep(ticket)
                b.sendall(data)
        except OSError:
            pass
        for s in (a, b):
            try:
                s.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass


def answer(sock):
    """The first bytes of what the link says, b"" when it has gone."""
    sock.settimeout(60)
    try:
        return sock.recv(4)
    except ConnectionError:
        return b""


@contextlib.contextmanager
def shared(uri, link, *more):
    """spicebd-share with one medium; yields the events that it told, as they come."""
    with tempfile.TemporaryDirectory() as work:
        with open(f"{work}/m.img", "wb") as f:
            f.truncate(1 << 20)
        share = subprocess.Popen(
            [t.SHARE, "--uri", uri, "--wait", "--json", *more, "--password-file",
             f"{link.dir}/password", f"{work}/m.img"],
            stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        said = []
        reader = threading.Thread(target=lambda: said.extend(share.stdout), daemon=True)
        reader.start()
        try:
            yield said
            share.terminate()
            t.ok(share.wait(60) == 0, "the share ends in peace")
        finally:
            share.kill()
            share.wait()
            reader.join()


def ports_up(d, n, timeout):
    up = set()
    while len(up) < n:
        up.add(d.expect(t.PORT_UP, timeout=timeout).port)
    return up


def slow_tickets():
    """Each ticket comes late, of the main channel and of the ports; so does a stranger."""
    with t.Link(tcp=True, password="x") as link:
        d = link.daemon()
        for n in range(3):
            d.send(t.ADD_PORT, n)
        proxy = Proxy(link.port, ticket=SLOW)
        silent = socket.create_connection(("127.0.0.1", link.port))
        with shared(f"spice://127.0.0.1:{proxy.port}", link) as said:
            t.ok(ports_up(d, 3, 300) == {0, 1, 2},
                 f"a share whose tickets take {SLOW} s each is let in, with three ports")
            t.ok(any("did not answer within 10 s" in line for line in said),
                 "at its second attempt, which had longer")
            silent.sendall(MAIN)
            t.ok(answer(silent) == b"REDQ", "who said nothing for as long is answered, too")
            silent.close()
        t.ok("did not authenticate in time" not in link.log_text(), "and nobody was sent away")


def silent_link():
    """A link that is silent, and again: the second time the share waits for longer."""
    with t.Link("ping-timeout=120", tcp=True, password="x") as link:
        d = link.daemon()
        d.send(t.ADD_PORT, 0)
        with shared(link.uri, link) as said:
            def lost():
                return sum('"drive-lost"' in line for line in list(said))
            ports_up(d, 1, 60)
            link.proc.send_signal(signal.SIGSTOP)
            end = time.monotonic() + 60
            while not lost() and time.monotonic() < end:
                time.sleep(0.05)
            t.ok(lost() == 1, "a silent link is given up")
            link.proc.send_signal(signal.SIGCONT)
            t.ok(ports_up(d, 1, 120) == {0}, "the share comes again")
            link.proc.send_signal(signal.SIGSTOP)
            time.sleep(13)		# more than the first time took
            link.proc.send_signal(signal.SIGCONT)
            d.send(t.ADD_PORT, 1)
            t.ok(d.expect(t.PORT_UP, t.PORT_DOWN, timeout=120).port == 1, "and stays, silent as it is")
            t.ok(lost() == 1, "nothing was given up")


def silent_strangers():
    """All places are taken by who says nothing: the next one gets in, at their cost."""
    with t.Link(tcp=True, password="x") as link:
        d = link.daemon()
        d.send(t.ADD_PORT, 0)
        strangers = [socket.create_connection(("127.0.0.1", link.port)) for _ in range(PLACES)]
        end = time.monotonic() + 60
        got = b""
        while got != b"REDQ" and time.monotonic() < end:
            with socket.create_connection(("127.0.0.1", link.port)) as s:
                try:
                    s.sendall(MAIN)
                    got = answer(s)
                except ConnectionError:
                    pass
        t.ok(got == b"REDQ", f"who comes after {PLACES} that say nothing is answered")
        t.ok(link.wait_log("did not say what it wants in time"), "and one of them had to go")
        with t.Share(link.uri, "x", offers=[t.offer(1, 512, "m")]):
            d.expect(t.OFFERS_END, timeout=60)
            t.ok(True, "a share is served beside the others")
        for s in strangers:
            s.close()


def strangers_in_tls():
    """They take the places of a client's channels, where they cannot be told apart."""
    with tempfile.TemporaryDirectory() as c:
        certificates(c)
        with t.Link(f"tls-cert={c}/cert.pem\ntls-key={c}/key.pem\ntls-ca={c}/ca.pem\n"
                    "hello-timeout=300", tcp=True, password="x") as link:
            proxy = Proxy(link.port, hold=True)
            d = link.daemon()
            for n in range(2):
                d.send(t.ADD_PORT, n)
            with shared(f"spice://127.0.0.1?tls-port={proxy.port}", link, "--ca-file",
                        f"{c}/ca.pem"):
                while not d.expect(t.CLIENT, timeout=60).flags:
                    pass
                t.ok(proxy.held.acquire(timeout=60), "a client's other channels are on their way")
                strangers = [socket.create_connection(("127.0.0.1", link.port)) for _ in range(3)]
                for s in strangers:
                    s.sendall(b"\x16")
                proxy.go.set()
                t.ok(ports_up(d, 2, 120) == {0, 1}, "and get in, as the strangers have to go")
                t.ok(link.wait_log("did not authenticate in time"), "the log says so")
                for s in strangers:
                    s.close()


def main():
    slow_tickets()
    silent_link()
    silent_strangers()
    strangers_in_tls()


t.run(main)
