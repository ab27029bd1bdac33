# SPDX-License-Identifier: GPL-2.0-only
"""What the tables of this directory share, on the machine that starts them.

A table is an executable NAME here. It takes what parser() defines, prints itself
to standard output, writes the same as JSON to --json, and ends with
  0   measured, and everything that it checks held
  1   measured, but a check failed: the figures are not to be believed
  4   cannot be measured here; standard error says why
What has to run where the kernel module is, is a program NAME-guest: guest() runs
it in a test machine, or here with --here. It prints one JSON object a line; other
lines are its remarks.
"""

import argparse
import json
import os
import platform
import re
import shutil
import statistics
import subprocess
import sys

BENCH = os.path.dirname(os.path.abspath(__file__))
TREE = os.path.abspath(f"{BENCH}/../..")
BUILD = f"{TREE}/build"
OK, FAILED, NOT_HERE = 0, 1, 4

# The machine that figures in time are measured in: kernels that copy by a string
# instruction would pay for each byte there (selftests/vm/README).
CPU = "max,-erms,-fsrm"


def parser(description, rounds=5):
    p = argparse.ArgumentParser(description=description)
    p.add_argument("--kernel", default="6.12", help="of the test machine: 6.1, 6.12 or 7.3")
    p.add_argument("--rounds", type=int, default=rounds,
                   help="times each case is run, in turn with its peers"
                        + (f" (default {rounds})" if rounds else ""))
    p.add_argument("--json", metavar="FILE", help="where the figures go, too")
    p.add_argument("--quick", action="store_true", help="shorter, less exact")
    p.add_argument("--here", action="store_true",
                   help="on this machine, whose kernel has the module loaded; as root")
    return p


def not_here(why):
    print(why, file=sys.stderr)
    sys.exit(NOT_HERE)


def build(o):
    """the programs of this tree, and those of this directory"""
    if not o.here:
        subprocess.run([f"{TREE}/selftests/vm/setup", "packages"], check=True, stdout=sys.stderr)
    for where in (f"{TREE}/userhelper", BENCH):
        subprocess.run(["make", "-s", f"-j{os.cpu_count()}", "-C", where, f"O={BUILD}"],
                       check=True, stdout=sys.stderr)


def _command(o, name, args, icount, env, timeout, vm_args):
    prog = f"{BENCH}/{name}"
    if o.here:
        return [prog, *args], dict(os.environ, PATH=f"{BUILD}/bin:{os.environ['PATH']}", **env)
    cmd = [f"{TREE}/selftests/vm/run", "--kernel", o.kernel, "--timeout", str(timeout)]
    cmd += ["--icount"] if icount else ["--qemu-arg", "-cpu", "--qemu-arg", CPU]
    for k, v in env.items():
        cmd += ["--env", f"{k}={v}"]
    return [*cmd, *vm_args, "--", prog, *args], None


def guest(o, name, args=(), icount=False, env=None, timeout=3600, vm_args=()):
    """run NAME in the machine to be measured; its objects, as they come"""
    build(o)
    cmd, environ = _command(o, name, [str(a) for a in args], icount, env or {}, timeout, vm_args)
    with subprocess.Popen(cmd, stdout=subprocess.PIPE, text=True, env=environ) as p:
        for line in p.stdout:
            if line.startswith("{"):
                yield json.loads(line)
            else:
                print(line, end="", file=sys.stderr, flush=True)
        status = p.wait()
    if status:
        here = o.here and status == NOT_HERE
        sys.exit(NOT_HERE if here else f"{name} ended with status {status}")


def _first_line(*cmd):
    if not shutil.which(cmd[0]):
        return "not installed"
    p = subprocess.run(cmd, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                       check=False)
    return (p.stdout.splitlines() or ["?"])[0].strip()


def _processor():
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as f:
            m = re.search(r"^model name\s*: (.*)$", f.read(), re.M)
        return m.group(1) if m else platform.machine()
    except OSError:
        return platform.machine()


def commit():
    p = subprocess.run(["git", "-C", TREE, "describe", "--always", "--dirty", "--abbrev=12"],
                       stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, check=False)
    return p.stdout.strip() or "unknown"


def machine(o):
    """what the figures were measured on"""
    m = {
        "processor": _processor(), "cpus": os.cpu_count(), "load": os.getloadavg()[0],
        "host kernel": platform.release(),
        "fio": _first_line("fio", "--version"), "nbdkit": _first_line("nbdkit", "--version"),
        "nbd-client": _first_line("nbd-client", "--version"),
        "spicebd": commit(),
    }
    if o.here:
        m["kernel"], m["accelerator"] = platform.release(), "none: this machine itself"
        return m
    cache = subprocess.run(["bash", "-c", f". {TREE}/selftests/vm/lib.sh; echo $vm_cache"],
                           stdout=subprocess.PIPE, text=True, check=True).stdout.strip()
    try:
        with open(f"{cache}/kernels/{o.kernel}/release", encoding="utf-8") as f:
            m["kernel"] = f.read().strip()
    except OSError:
        m["kernel"] = o.kernel
    m["qemu"], m["accelerator"] = _first_line("qemu-system-x86_64", "--version"), "tcg"
    return m


def stats(values):
    return {"median": statistics.median(values), "min": min(values), "max": max(values),
            "n": len(values)}


def columns(head, rows):
    """a table as text: the first column to the left, the others to the right"""
    rows = [[str(c) for c in r] for r in [head, *rows]]
    width = [max(len(r[i]) for r in rows if i < len(r)) for i in range(len(head))]
    return "\n".join("  ".join(c.ljust(w) if i == 0 else c.rjust(w)
                               for i, (c, w) in enumerate(zip(r, width))).rstrip()
                     for r in rows)


class Report:
    """the table of one program: its text, its JSON, and what it checked"""

    def __init__(self, o, title):
        self.o = o
        self.data = {"title": title, "machine": machine(o), "rounds": o.rounds,
                     "rows": [], "samples": [], "checks": []}
        print(f"{title}\n")

    def table(self, head, rows):
        print(columns(head, rows) + "\n", flush=True)

    def say(self, text):
        self.data.setdefault("notes", []).append(text)
        print(text, flush=True)

    def check(self, what, good):
        """something without which the figures mean nothing"""
        self.data["checks"].append({"what": what, "good": bool(good)})
        print(f"{'ok' if good else 'FAILED'}: {what}", flush=True)

    def limits(self, rows):
        """checks those of the values that have a limit"""
        for r in rows:
            if "limit" in r:
                self.check(f"{r['what']}: {r['value']:.4g}, at most {r['limit']}",
                           r["value"] <= r["limit"])

    def end(self):
        if self.o.json:
            with open(self.o.json, "w", encoding="utf-8") as f:
                json.dump(self.data, f, indent=1)
        sys.exit(OK if all(c["good"] for c in self.data["checks"]) else FAILED)
