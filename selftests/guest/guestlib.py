# SPDX-License-Identifier: GPL-2.0-only
"""What the tests with a guest of QEMU share: the guest, told what to do through a
directory that it has in common with this machine; a spicebd-share; media; KTAP."""
import contextlib
import hashlib
import json
import os
import pwd
import queue
import select
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time

TREE = os.path.abspath(os.path.join(os.path.dirname(__file__), "../.."))
LIMIT = 180		# s: emulated, on a busy machine
PORT = "org.spice-space.spicebd"
_results = []


def ok(cond, name):
    _results.append(bool(cond))
    print(f"{'ok' if cond else 'not ok'} {len(_results)} - {name}", flush=True)
    return cond


def finish():
    """The plan; returns the exit status."""
    print(f"1..{len(_results)}", flush=True)
    return 0 if _results and all(_results) else 1


def sh(*args):
    return subprocess.run(args, check=True, stdout=subprocess.PIPE, text=True).stdout


def build():
    sh("make", "-s", "-C", f"{TREE}/userhelper", f"O={TREE}/build")


def link_user():
    """Who a link becomes when root starts it; None if it stays who it is."""
    for name in ("spicebd-link", "nobody") if os.geteuid() == 0 else ():
        with contextlib.suppress(KeyError):
            return pwd.getpwnam(name).pw_name
    return None


def spice_ports(spice, ports=2):
    """For QEMU: its own Spice server at a socket, and ports of ours in it."""
    args = ["-spice", f"unix=on,addr={spice},disable-ticketing=on", "-device", "virtio-serial-pci"]
    for n in range(ports):
        args += ["-chardev", f"spiceport,id=p{n},name={PORT}.{n}",
                 "-device", f"virtserialport,chardev=p{n},name={PORT}.{n}"]
    return args


# ---- the machine, whose command is a shell that is told what to do

class Guest:
    def __init__(self, kernel, tmp, qemu, *options, systemd=True):
        """qemu: arguments for QEMU; options: for selftests/vm/run"""
        self.dir = os.path.join(tmp, "share")
        os.mkdir(self.dir)
        cmd = [f"{TREE}/selftests/vm/run", "--kernel", kernel, "--timeout", "900",
               "--share", self.dir, *(["--systemd"] if systemd else []), *options]
        for a in qemu:
            cmd += ["--qemu-arg", a]
        loop = """n=0; : >"$SPICEBD_SHARE/up"
            until [ -e "$SPICEBD_SHARE/end" ]; do
                f=$SPICEBD_SHARE/$n
                if [ -e "$f.sh" ]; then
                    timeout 170 bash "$f.sh" >"$f.txt" 2>&1; echo $? >"$f.new"
                    mv "$f.new" "$f.rc"; n=$((n + 1))
                else
                    sleep 0.1
                fi
            done"""
        self.n, self.out = 0, ""
        self.vm = subprocess.Popen([*cmd, "--", "bash", "-c", loop], stdout=sys.stderr)

    def wait(self, name, limit=LIMIT):
        end = time.monotonic() + limit
        path = os.path.join(self.dir, name)
        while not os.path.exists(path):
            if self.vm.poll() is not None or time.monotonic() > end:
                raise RuntimeError(f"the test machine is gone or stuck, waiting for {name}")
            select.select([], [], [], 0.05)
        with open(path, encoding="utf-8", errors="replace") as f:
            return f.read()

    def start(self, command):
        """Begin a command; returns its number."""
        path = os.path.join(self.dir, str(self.n))
        with open(path + ".new", "w", encoding="utf-8") as f:
            f.write(command + "\n")
        os.rename(path + ".new", path + ".sh")
        self.n += 1
        return self.n - 1

    def end(self, n):
        """Its exit status; its output is left in self.out."""
        rc = int(self.wait(f"{n}.rc"))
        self.out = self.wait(f"{n}.txt").strip()
        return rc

    def run(self, command):
        return self.end(self.start(command))

    def check(self, name, command):
        rc = self.run(command)
        if not ok(rc == 0, name):
            for line in f"{command}\nexit status {rc}\n{self.out}".splitlines():
                print(f"# {line}")
        return rc == 0

    def boot_anew(self, q, limit=400):
        """Resets the machine, which is not told beforehand, and waits for it."""
        self.run("sync")
        # The launcher's QEMU ends where another one would reset; firmware may do so
        # once more on its own.
        q("set-action", reboot="reset")
        for name in os.listdir(self.dir):
            os.unlink(os.path.join(self.dir, name))
        self.n = 0
        q("system_reset")
        q.wait("RESET")
        self.wait("up", limit)
        q("set-action", reboot="shutdown")

    def stop(self):
        open(os.path.join(self.dir, "end"), "w", encoding="utf-8").close()
        try:
            return self.vm.wait(60)
        except subprocess.TimeoutExpired:
            self.vm.terminate()
            return self.vm.wait()


class Qmp:
    """QEMU's monitor; events that come are kept."""

    def __init__(self, path, limit=LIMIT):
        end = time.monotonic() + limit
        self.sock = socket.socket(socket.AF_UNIX)
        while True:
            try:
                self.sock.connect(path)
                break
            except OSError:
                if time.monotonic() > end:
                    raise
                select.select([], [], [], 0.05)
        self.answers, self.events, self.seen = queue.Queue(), queue.Queue(), []
        threading.Thread(target=self.reader, daemon=True).start()
        self.answers.get(timeout=limit)
        self("qmp_capabilities")

    def reader(self):
        with self.sock.makefile() as f:
            for line in f:
                m = json.loads(line)
                if "event" in m:
                    self.seen.append(m)
                    self.events.put(m)
                else:
                    self.answers.put(m)

    def __call__(self, execute, **arguments):
        arguments = {k.replace("_", "-"): v for k, v in arguments.items()}
        self.sock.sendall(json.dumps({"execute": execute, "arguments": arguments}).encode())
        answer = self.answers.get(timeout=LIMIT)
        if "error" in answer:
            raise RuntimeError(f"{execute}: {answer['error']['desc']}")
        return answer["return"]

    def wait(self, event, limit=LIMIT, **data):
        """The next event of that name whose data has these members."""
        end = time.monotonic() + limit
        while time.monotonic() < end:
            try:
                m = self.events.get(timeout=1)
            except queue.Empty:
                continue
            if m["event"] == event and data.items() <= m.get("data", {}).items():
                return m
        raise RuntimeError(f"no {event} of QEMU")


class Program:
    """One that tells what happens in lines."""

    def __init__(self, *argv, **kw):
        self.proc = subprocess.Popen(argv, stdout=subprocess.PIPE, text=True, **kw)
        self.lines, self.seen = queue.Queue(), []
        threading.Thread(target=self.reader, daemon=True).start()

    def reader(self):
        for line in self.proc.stdout:
            self.seen.append(line.strip())
            self.lines.put(line.strip())
        self.lines.put(None)

    def wait(self, begin, limit=LIMIT):
        """The next line that begins so, or None."""
        end = time.monotonic() + limit
        while time.monotonic() < end:
            try:
                line = self.lines.get(timeout=1)
            except queue.Empty:
                continue
            if line is None:
                break
            if line.startswith(begin):
                return line
        print(f"# no '{begin}': {self.seen[-20:]}")
        return None

    def end(self, sig=signal.SIGTERM):
        self.proc.send_signal(sig)
        return self.proc.wait(60)


class StockViewer:
    """A viewer that knows nothing of us, on a screen that nobody sees."""

    def __init__(self, spice):
        r, w = os.pipe()
        self.screen = subprocess.Popen(["Xvfb", "-displayfd", str(w), "-screen", "0",
                                        "1024x768x24", "-nolisten", "tcp"], pass_fds=[w],
                                       stderr=subprocess.DEVNULL)
        os.close(w)
        with os.fdopen(r) as f:
            display = f.readline().strip()
        self.home = tempfile.TemporaryDirectory(prefix="spicebd-viewer.")
        env = dict(os.environ, DISPLAY=f":{display}", HOME=self.home.name, GDK_BACKEND="x11",
                   NO_AT_BRIDGE="1", XDG_RUNTIME_DIR=self.home.name)
        self.proc = subprocess.Popen(["spicy", f"--uri=spice+unix://{spice}"], env=env,
                                     stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def end(self):
        for p in (self.proc, self.screen):
            p.kill()
            p.wait()
        self.home.cleanup()


class Link:
    """A spicebd-link of this machine, in a run directory of its own."""

    def __init__(self, tmp, name, conf):
        self.dir, self.name = os.path.join(tmp, f"run-{name}"), name
        for d in ("links.d", "link"):
            os.makedirs(os.path.join(self.dir, d))
        with open(os.path.join(self.dir, f"links.d/{name}.conf"), "w", encoding="utf-8") as f:
            f.write(conf)
        os.chmod(f.name, 0o600)
        os.chmod(self.dir, 0o755)
        self.log = os.path.join(self.dir, "log")
        self.starts, self.proc = 0, None
        self.start()

    def text(self):
        with open(self.log, encoding="utf-8", errors="replace") as f:
            return f.read()

    def start(self, limit=LIMIT):
        with open(self.log, "a", encoding="utf-8") as f:
            self.proc = subprocess.Popen([f"{TREE}/build/bin/spicebd-link", self.name], stderr=f,
                                         env=dict(os.environ, SPICEBD_RUN_DIR=self.dir))
        self.starts += 1
        end = time.monotonic() + limit
        while self.text().count(f"link {self.name}: ") < self.starts:
            if self.proc.poll() is not None or time.monotonic() > end:
                raise RuntimeError(f"spicebd-link did not start: {self.text()[-500:]}")
            select.select([], [], [], 0.05)

    def kill(self):
        self.proc.kill()
        self.proc.wait()

    def end(self):
        self.proc.terminate()
        try:
            return self.proc.wait(30)
        except subprocess.TimeoutExpired:
            self.kill()
            return None


class Share:
    def __init__(self, spice, *media):
        self.proc = subprocess.Popen(
            [f"{TREE}/build/bin/spicebd-share", "--uri", f"spice+unix://{spice}", "--json",
             "--read-write", *media], stdout=subprocess.PIPE, text=True)
        self.events = queue.Queue()
        threading.Thread(target=self.reader, daemon=True).start()

    def reader(self):
        for line in self.proc.stdout:
            self.events.put(json.loads(line).get("event"))
        self.events.put(None)

    def wait(self, event, limit=LIMIT):
        end, seen = time.monotonic() + limit, []
        while time.monotonic() < end and None not in seen:
            try:
                seen.append(self.events.get(timeout=1))
            except queue.Empty:
                continue
            if seen[-1] == event:
                return True
        print(f"# the share said {seen}")
        return False

    def end(self, sig):
        self.proc.send_signal(sig)
        return self.proc.wait(60)


def sum_of(path):
    with open(path, "rb") as f:
        return hashlib.sha256(f.read()).hexdigest()


def media(tmp):
    os.mkdir(f"{tmp}/files")
    with open(f"{tmp}/files/data", "wb") as f:
        f.write(os.urandom(24 << 20))
    sh("genisoimage", "-quiet", "-R", "-o", f"{tmp}/disc.iso", f"{tmp}/files")
    with open(f"{tmp}/stick.img", "wb") as f:
        f.write(os.urandom(16 << 20))
    return f"{tmp}/disc.iso", f"{tmp}/stick.img"
