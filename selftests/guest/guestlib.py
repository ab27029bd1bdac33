# SPDX-License-Identifier: GPL-2.0-only
"""What the tests with a guest of QEMU share: the guest, told what to do through a
directory that it has in common with this machine; a spicebd-share; media; KTAP."""
import hashlib
import json
import os
import queue
import select
import subprocess
import sys
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


def spice_ports(spice, ports=2):
    """For QEMU: its own Spice server at a socket, and ports of ours in it."""
    args = ["-spice", f"unix=on,addr={spice},disable-ticketing=on", "-device", "virtio-serial-pci"]
    for n in range(ports):
        args += ["-chardev", f"spiceport,id=p{n},name={PORT}.{n}",
                 "-device", f"virtserialport,chardev=p{n},name={PORT}.{n}"]
    return args


# ---- the machine, whose command is a shell that is told what to do

class Guest:
    def __init__(self, kernel, tmp, qemu, *options):
        """qemu: arguments for QEMU; options: for selftests/vm/run"""
        self.dir = os.path.join(tmp, "share")
        os.mkdir(self.dir)
        cmd = [f"{TREE}/selftests/vm/run", "--kernel", kernel, "--systemd", "--timeout", "900",
               "--share", self.dir, *options]
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

    def stop(self):
        open(os.path.join(self.dir, "end"), "w", encoding="utf-8").close()
        try:
            return self.vm.wait(60)
        except subprocess.TimeoutExpired:
            self.vm.terminate()
            return self.vm.wait()


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
