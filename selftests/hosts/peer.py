#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-only
"""One of two test machines on one network, as ./machines starts them. Machine b does what
machine a asks it for, by files in the directory that both have; a has the share, and the
tests: the medium of a drive goes from machine to machine, by ssh and over TLS."""
import json
import mmap
import os
import random
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
import traceback

sys.dont_write_bytecode = True
sys.path.append(os.path.join(os.path.dirname(os.path.abspath(__file__)), "../procs"))
from tls import authority, certificate				# noqa: E402
from hostlib import (BLOCK, LIMIT, Share, Tap, Uevents, Writer,	# noqa: E402
                     all_there, qmp, same, turns, until)

BOTH = os.environ["SPICEBD_SHARE"]
ADDRESS = {"a": "10.77.0.1", "b": "10.77.0.2"}
MAC = {"a": "52:54:00:77:00:0a", "b": "52:54:00:77:00:0b"}
PORT, TLS_PORT = 5950, 10810
SIZE = 128 << 20
LONG = 300
HOOK = os.path.join(os.path.dirname(os.path.abspath(__file__)),
                    "../../Documentation/examples/libvirt-qemu-hook")
DOMAIN = """<domain type='qemu' id='3'>
  <name>guest1</name>
  <devices>
    <disk type='file' device='disk'>
      <source file='/var/lib/libvirt/images/guest1.img'/>
      <target dev='vda' bus='virtio'/>
    </disk>
    <disk type='block' device='%s'>
      <driver name='qemu' type='raw'/>
      <source dev='/dev/spicebd30' startupPolicy='optional' index='1'/>
      <backingStore/>
      <target dev='sda' bus='sata'/>
    </disk>
  </devices>
</domain>
"""
FIO = ["--direct=1", "--ioengine=psync", "--thread", "--rw=randwrite", "--bs=4k", "--offset=8M",
       "--size=100M", "--verify=crc32c", "--randseed=20"]


def put(name, text):
    """At once, or not at all."""
    with open(f"{BOTH}/{name}.new", "w", encoding="utf8") as f:
        f.write(text)
    os.rename(f"{BOTH}/{name}.new", f"{BOTH}/{name}")


def get(name, limit=LONG):
    until(lambda: os.path.exists(f"{BOTH}/{name}"), f"{name} of the other machine", limit)
    with open(f"{BOTH}/{name}", encoding="utf8") as f:
        return f.read()


def run(*argv, limit=LONG):
    p = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, text=True,
                       timeout=limit, check=False)
    return p.returncode, p.stdout, p.stderr


def must(*argv):
    code, out, err = run(*argv)
    if code:
        raise AssertionError(f"{' '.join(argv)}: {err.strip()}")
    return out.strip()


class Machine:
    """This one. What it is asked for, and what it answers, can be written as JSON."""

    def __init__(self, me):
        self.me, self.other = me, "ab".replace(me, "")
        self.work = tempfile.mkdtemp(prefix="machine-")
        self.address, self.port = ADDRESS[me], PORT
        self.writer = self.fio = None
        self.events = Uevents()
        self.network()
        self.sshd()
        self.password = f"{self.work}/password"
        with open(os.open(self.password, os.O_CREAT | os.O_WRONLY, 0o600), "w",
                  encoding="utf8") as f:
            f.write(f"password of {me}\n")
        must("spicebdctl", "listen", f"{self.address}:{PORT}", "--password-file", self.password,
             "--insecure")

    def network(self):
        must("modprobe", "virtio_net")

        def found():
            for name in os.listdir("/sys/class/net"):
                try:
                    with open(f"/sys/class/net/{name}/address", encoding="ascii") as f:
                        if f.read().strip() == MAC[self.me]:
                            return name
                except OSError:		# it has got another name just now
                    pass
            return None

        until(found, "the network's device")
        must("udevadm", "settle")		# by which it has its name
        self.device = until(found, "the network's device")
        must("ip", "address", "add", f"{self.address}/24", "dev", self.device)
        must("ip", "link", "set", self.device, "up")

    def sshd(self):
        """Machines that know each other's keys, and nobody's passwords."""
        os.makedirs("/root/.ssh", 0o700, exist_ok=True)
        os.makedirs("/run/sshd", 0o755, exist_ok=True)
        must("mount", "-t", "tmpfs", "-o", "mode=700", "keys", "/root/.ssh")
        # a shell that reads nothing of whoever's machine this is
        must("usermod", "-p", "*", "-s", "/bin/sh", "root")
        for path in ("/root/.ssh/id_ed25519", f"{self.work}/host_key"):
            must("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", path)
        for name, path in (("user", "/root/.ssh/id_ed25519.pub"),
                           ("host", f"{self.work}/host_key.pub")):
            with open(path, encoding="ascii") as f:
                put(f"{self.me}.{name}", f.read())
        with open(f"{self.work}/authorized_keys", "w", encoding="ascii") as f:
            f.write(get(f"{self.other}.user"))
        with open(f"{self.work}/sshd_config", "w", encoding="ascii") as f:
            f.write(f"ListenAddress {self.address}\nHostKey {self.work}/host_key\nUsePAM no\n"
                    f"AuthorizedKeysFile {self.work}/authorized_keys\nStrictModes no\n"
                    "PasswordAuthentication no\nPermitRootLogin prohibit-password\n"
                    f"PidFile none\nSetEnv PATH={os.environ['PATH']}\n")
        must("/usr/sbin/sshd", "-f", f"{self.work}/sshd_config", "-E", f"{self.work}/sshd.log")

    def knows(self):
        """From now on it knows the other one's key."""
        key = " ".join(get(f"{self.other}.host").split()[:2])
        with open("/root/.ssh/known_hosts", "w", encoding="ascii") as f:
            f.write(f"{ADDRESS[self.other]} {key}\n")

    # ---- what is asked of it

    def ctl(self, *args):
        return run("spicebdctl", *args)

    def run(self, *argv):
        return run(*argv)

    def drives(self):
        return qmp("/run/spicebd", "spicebd-query")["return"]

    def changes(self, device):
        return self.events.count(device)

    def cut(self, how):
        """Nothing that this machine sends arrives."""
        must("tc", "qdisc", how, "dev", self.device, "root", *(["netem", "loss", "100%"]
                                                               if how == "add" else []))

    def write(self, device, tag, done):
        self.writer = Writer(device, tag, {int(k): v.encode() for k, v in done.items()})
        self.writer.some()

    def some(self):
        self.writer.some()

    def fails(self):
        self.writer.fails()

    def written(self):
        """Ends it. What was acknowledged."""
        self.writer.end()
        return {k: v.decode() for k, v in self.writer.done.items()}

    def read(self, device, done):
        buf = mmap.mmap(-1, BLOCK)
        fd = os.open(device, os.O_RDONLY | os.O_DIRECT)
        try:
            for block, text in done.items():
                same(os.preadv(fd, [buf], int(block) * BLOCK), BLOCK, "bytes read")
                same(buf[:len(text)], text.encode(), f"block {block} of {device}")
        finally:
            os.close(fd)

    def listen(self):
        """For others that come over TLS."""
        shutil.copytree(f"{BOTH}/certificates-{self.me}", "/etc/spicebd/migrate-tls")
        self.log = open(f"{self.work}/tls.log", "w", encoding="utf8")
        self.tls = subprocess.Popen(["spicebd-tls", "listen", f"{self.address}:{TLS_PORT}",
                                     "--allow", f"host-{self.other}"], stdin=subprocess.DEVNULL,
                                    stdout=self.log, stderr=self.log)

        def listens():
            with open(self.log.name, encoding="utf8") as f:
                return "can come at" in f.read()
        until(listens, "spicebd-tls listens")

    def configure_hook(self):
        os.makedirs("/etc/spicebd", exist_ok=True)
        with open("/etc/spicebd/migration", "w", encoding="ascii") as f:
            f.write(f"# the other host\npeer=root@{ADDRESS[self.other]}\n")

    def hook(self, xml, *args):
        """As libvirt calls it."""
        p = subprocess.run([HOOK, *args], input=xml, capture_output=True, text=True,
                           timeout=LONG, check=False)
        same(p.stdout, "", "what libvirt would take for XML")
        return p.returncode, p.stderr

    def checksum(self, device):
        return must("sha256sum", device).split()[0]

    def fio_begin(self, device, name):
        log = open(f"{BOTH}/{name}.fio", "w", encoding="utf8")
        self.fio = subprocess.Popen(
            ["fio", f"--name={name}", f"--filename={device}", *FIO, "--do_verify=0",
             "--verify_state_save=1", "--rate_iops=150"], cwd=BOTH, stdin=subprocess.DEVNULL,
            stdout=log, stderr=log)

        def some():
            with open(f"/proc/{self.fio.pid}/io", encoding="ascii") as f:
                return int(re.search(r"wchar: (\d+)", f.read())[1]) > 1 << 20
        until(some, "fio writes")

    def fio_end(self, name):
        """It ends when its drive has no medium any more. How many it wrote."""
        self.fio.wait(LIMIT)
        with open(f"{BOTH}/{name}.fio", encoding="utf8") as f:
            text = f.read()
        if not self.fio.returncode or "error=Input/output error" not in text or "verify:" in text:
            raise AssertionError(f"fio: {text[:300]}")
        return int(re.search(r"issued rwts: total=\d+,(\d+)", text)[1])

    def fio_verify(self, device, name):
        """All that fio was told it had written, at another drive. How many it read."""
        code, out, err = run("sh", "-c", 'cd "$0" && exec fio "$@"', BOTH, f"--name={name}",
                             f"--filename={device}", *FIO, "--verify_only",
                             "--verify_state_load=1")
        if code or "verify:" in out + err:
            raise AssertionError(f"fio: {(out + err)[:300]}")
        return int(re.search(r"issued rwts: total=(\d+),", out)[1])


class Far:
    """The other machine."""

    def __init__(self, me):
        self.me, self.n, self.lock = me, 0, threading.Lock()

    def __getattr__(self, op):
        def call(*args):
            with self.lock:
                self.n += 1
                put(f"ask.{self.n}", json.dumps([op, args]))
                answer = json.loads(get(f"answer.{self.n}", LONG + LIMIT))
            if "error" in answer:
                raise AssertionError(f"machine {self.me}: {answer['error']}")
            return answer["return"]
        return call


def serve(machine):
    n = 0
    while True:
        n += 1
        op, args = json.loads(get(f"ask.{n}", 3600))
        if op == "end":
            put(f"answer.{n}", json.dumps({"return": None}))
            return 0
        try:
            answer = {"return": getattr(machine, op)(*args)}
        except Exception as e:		# is the asker's
            traceback.print_exc()
            answer = {"error": f"{type(e).__name__}: {e}"}
        put(f"answer.{n}", json.dumps(answer))


# ---- the tests

class Tests:
    def __init__(self, a, b):
        self.a, self.b = a, b
        self.path = f"{a.work}/disk.img"
        with open(self.path, "wb") as f:
            f.truncate(SIZE)
        self.disc = f"{a.work}/disc.img"
        with open(self.disc, "wb") as f:
            f.write(random.randbytes(1 << 20))
        self.share = Share(a.work, [self.path, self.disc])
        self.share.start(a)
        until(lambda: "disk.img" in a.ctl("media")[1], "the medium is offered")
        self.ok(a, "add", "disk", "--index", "8")
        self.ok(a, "insert", "spicebd8", "spice:disk.img")
        self.at, self.other, self.drive = a, b, "spicebd8"
        self.done, self.numbers = {}, {"a": 8, "b": 16}
        self.rounds, self.n = [], 0

    @staticmethod
    def ok(machine, *args):
        code, out, err = machine.ctl(*args)
        if code:
            raise AssertionError(f"{machine.me}: spicebdctl {' '.join(args)}: {err.strip()}")
        return out

    @staticmethod
    def running(machine):
        return [d for d in machine.drives() if d["medium"] and d["state"] == "ready" and
                d["freeze"] == "thawed"]

    def refused(self, uri, text, *options):
        code, _, err = self.at.ctl("migrate", self.drive, "--to", uri, *options)
        print(f"# {err.strip()}")
        lines = [l for l in err.splitlines() if l.startswith("spicebdctl:")]
        if not code or len(lines) != 1 or not all(re.search(x, err) for x in text):
            raise AssertionError(f"{code}: {err}")
        same([d["drive"] for d in self.running(self.at)], [self.drive], "the drive goes on")

    def unknown(self):
        self.refused(f"ssh://{ADDRESS['b']}", ("not migrated", "Host key"))

    def nobody(self):
        self.refused(f"ssh://{ADDRESS['b']}:9", ("not migrated", "refused"))

    def begin(self):
        """A new held drive at the other machine, and who uses the one that there is."""
        self.numbers[self.other.me] += 1
        self.next = f"spicebd{self.numbers[self.other.me]}"
        self.ok(self.other, "add", "disk", "--hold", "--index", str(self.numbers[self.other.me]))
        self.at.write(f"/dev/{self.drive}", f"{self.at.me}{self.drive}", self.done)

    def migrate(self, tls=False):
        where = ADDRESS[self.other.me]
        return self.at.ctl("migrate", self.drive, "--to",
                           f"tls://{where}:{TLS_PORT}" if tls else f"ssh://{where}",
                           "--to-drive", self.next)

    def gone(self):
        """Who used it has errors, and nothing of what it was told is lost."""
        def inactive():
            return [d for d in self.at.drives() if d["drive"] == self.drive and
                    d["state"] == "inactive"]
        reason = until(inactive, f"{self.at.me} knows that it has gone")[0]["reason"]
        if self.next not in reason or ADDRESS[self.other.me] not in reason:
            raise AssertionError(f"{self.at.me} does not say where it is: {reason}")
        self.at.fails()
        self.done = self.at.written()
        same([d["drive"] for d in until(lambda: self.running(self.other), "it runs there")],
             [self.next], "the drive there")
        same(self.other.changes(f"/dev/{self.next}"), 1, "media changes told there")
        self.other.read(f"/dev/{self.next}", self.done)
        self.ok(self.at, "del", self.drive)
        self.at, self.other, self.drive = self.other, self.at, self.next

    def order(self):
        """The server's log: never a write of one after the first of the other."""
        writers = self.share.writers()
        hosts, wrote = [w[2] for w in writers], turns(writers)
        print(f"# {len(hosts)} writes, {hosts.count('a')} of a, {hosts.count('b')} of b; "
              f"by turns: {' '.join(wrote)}")
        same(wrote, ["a"] + self.rounds, "who wrote, by turns")

    def certificates(self):
        """Of one authority, and one that is not."""
        ca = f"{self.a.work}/ca"
        authority(ca, "hosts")
        for me, address in ADDRESS.items():
            for who in ("server", "client"):
                certificate(ca, f"{BOTH}/certificates-{me}", who, f"host-{me}",
                            f"IP:{address},DNS:host-{me}")
        for machine in (self.a, self.b):
            machine.listen()
        self.refused(f"tls://{ADDRESS['b']}:9", ("no way", "cannot reach"))
        authority(f"{self.a.work}/other", "strangers")
        certificate(f"{self.a.work}/other", f"{self.a.work}/strange", "client", "host-a",
                    "DNS:host-a")
        shutil.copy(f"{ca}/ca-cert.pem", f"{self.a.work}/strange/ca-cert.pem")
        self.refused(f"tls://{ADDRESS['b']}:{TLS_PORT}", ("no way", "refuses us"),
                     "--tls-certificates", f"{self.a.work}/strange")

    def there(self, tls=False):
        self.n += 1
        source, name = self.at, f"job{self.n}"
        self.begin()
        source.fio_begin(f"/dev/{self.drive}", name)
        began = time.monotonic()
        code, out, err = self.migrate(tls)
        print(f"# {(out or err).strip()}: {time.monotonic() - began:.1f} s")
        same(code, 0, "migrate")
        written = source.fio_end(name)
        self.gone()
        read = self.at.fio_verify(f"/dev/{self.drive}", name)
        print(f"# fio wrote {written} blocks here, and read {read} there")
        # The last of them may have failed.
        if not 0 <= written - read <= 1 or read < 256:
            raise AssertionError("fio did not look at what it had written")
        self.rounds.append(self.at.me)
        # It is written to there, too.
        self.at.write(f"/dev/{self.drive}", "new", self.done)
        self.done = self.at.written()
        self.order()

    def stayed(self):
        same([d["drive"] for d in self.running(self.at)], [self.drive], "the drive goes on")
        self.at.some()
        self.done = self.at.written()
        self.at.read(f"/dev/{self.drive}", self.done)

        def empty():
            return all(not d["medium"] and d["freeze"] != "freezing" for d in self.other.drives())
        until(empty, f"{self.other.me} has no medium")
        if any(d["drive"] == self.next for d in self.other.drives()):
            self.ok(self.other, "del", self.next, "--force")

    def broken(self, after, seconds):
        """Nothing comes through for a while, somewhere on the way."""
        self.begin()
        answer = []
        t = threading.Thread(target=lambda: answer.append(self.migrate()), daemon=True)
        t.start()
        time.sleep(after)		# the moment is the test's parameter
        self.a.cut("add")
        time.sleep(seconds)
        self.a.cut("del")
        t.join(LONG)
        if t.is_alive():
            raise AssertionError("migrate does not end")
        print(f"# {(answer[0][1] or answer[0][2]).strip()}")

        def decided():
            return bool(self.running(self.at)) != bool(self.running(self.other))
        until(decided, "exactly one of them has it", LONG)
        if self.running(self.at):
            self.stayed()
        else:
            self.gone()
            self.rounds.append(self.at.me)
            self.at.write(f"/dev/{self.drive}", "new", self.done)
            self.done = self.at.written()
        self.order()

    # ---- as libvirt's hook does it

    def hook_refuses(self):
        """A disk, which QEMU cannot wait for, and a drive that is there already."""
        code, said = self.b.hook(DOMAIN % "disk", "guest1", "migrate", "begin", "-")
        if not code or "spicebd30 is a disk" not in said:
            raise AssertionError(f"{code}: {said}")
        same([d for d in self.b.drives() if d["index"] == 30], [], "the drive")
        self.ok(self.b, "add", "cdrom", "--index", "30")
        code, said = self.b.hook(DOMAIN % "cdrom", "guest1", "migrate", "begin", "-")
        if not code:
            raise AssertionError("it takes a drive that is another's")
        # That was not for a migration, and stays.
        same(self.b.hook(DOMAIN % "cdrom", "guest1", "release", "end", "failed")[0], 0, "release")
        same(len([d for d in self.b.drives() if d["index"] == 30]), 1, "drives")
        self.ok(self.b, "del", "spicebd30")

    def hook_undoes(self):
        """The guest does not come, for whatever reason, or libvirt does not say for which."""
        for reason in "failed", "-":
            code, said = self.b.hook(DOMAIN % "cdrom", "guest1", "migrate", "begin", "-")
            same(code, 0, f"begin: {said}")
            same([d["freeze"] for d in self.b.drives() if d["index"] == 30], ["frozen"], "a drive")
            same(self.b.hook(DOMAIN % "cdrom", "guest1", "release", "end", reason)[0], 0, "release")
            until(lambda: not [d for d in self.b.drives() if d["index"] == 30], "the drive goes")

    def hook_moves(self, one, other, reason):
        """What is called in order, and of it only the last one does anything."""
        def state():
            return [d["state"] for d in one.drives() if d["index"] == 30]

        code, said = one.hook(DOMAIN % "cdrom", "guest1", "release", "end", "-")
        same(code, 0, f"a shutdown before: {said}")
        same(state(), ["ready"], "nobody waits for it")
        code, said = other.hook(DOMAIN % "cdrom", "guest1", "migrate", "begin", "-")
        same(code, 0, f"begin: {said}")
        for args in ("started", "begin", "-"), ("stopped", "end", reason), \
                ("release", "end", "shutdown"):
            same(one.hook(DOMAIN % "cdrom", "guest1", *args)[0], 0, " ".join(args))
        same(state(), ["ready"], "where it was")
        code, said = one.hook(DOMAIN % "cdrom", "guest1", "release", "end", reason)
        print(f"# {said.strip()}")
        same(code, 0, "release")
        same(state(), ["inactive"], "where it was")
        same(other.checksum("/dev/spicebd30"), self.sum, "what is read there")
        self.ok(one, "del", "spicebd30", "--force")

    def hook_there(self):
        self.ok(self.a, "add", "cdrom", "--index", "30")
        self.ok(self.a, "insert", "spicebd30", "spice:disc.img")
        self.sum = self.a.checksum(self.disc)
        same(self.a.checksum("/dev/spicebd30"), self.sum, "what is read here")
        self.hook_moves(self.a, self.b, "migrated")

    def hook_back(self):
        self.hook_moves(self.b, self.a, "-")
        self.ok(self.a, "eject", "spicebd30", "--force")
        self.ok(self.a, "del", "spicebd30", "--force")

    def end(self):
        self.share.end()
        all_there(self.path, {int(k): v.encode() for k, v in self.done.items()})


def main(me):
    machine = Machine(me)
    if me == "b":
        machine.knows()
        return serve(machine)
    other, tap = Far("b"), Tap()
    seed = int(os.environ.get("SEED") or random.randrange(1 << 31))
    print(f"# SEED={seed}", flush=True)
    chance = random.Random(seed)
    tests = Tests(machine, other)
    tap.test("a machine whose key is not known", tests.unknown)
    machine.knows()
    tap.test("nobody listens there", tests.nobody)
    tap.test("to the other machine, under fio, and verified there", tests.there)
    tap.test("and back", tests.there)
    tap.test("a way over TLS, and who has none", tests.certificates)
    tap.test("over TLS, under fio, and verified there", tests.there, True)
    tap.test("and back over TLS", tests.there, True)
    for m in (machine, other):
        m.configure_hook()
    tap.test("libvirt's hook refuses what cannot go", tests.hook_refuses)
    tap.test("libvirt's hook, and the guest does not come", tests.hook_undoes)
    tap.test("libvirt's hook, and the guest's drive follows it", tests.hook_there)
    tap.test("libvirt's hook, and back, of a libvirt that does not say why", tests.hook_back)
    for i in range(2):
        after = chance.uniform(0, 8)
        tap.test(f"the network fails for a while, {i + 1}", tests.broken, after, 10)
    tap.test("the file has it all", tests.end)
    other.end()
    return tap.end()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
