#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-only
# timeout: 1500
"""The module's tests as a target of the kernel's selftests: run in the tree, and
as they were installed. Those that take long are run by "make check"; here it is
the frame that is looked at."""
import os
import re
import subprocess
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
TREE = os.path.join(HERE, "../../build/ktree")
sys.path.insert(0, os.path.join(HERE, "../netlink"))
from tap import run, same  # noqa: E402

FEW = ["netlink/params.py", "netlink/spec.py", "netlink/disk.py"]


def results(said):
    return re.findall(r"^(ok|not ok) \d+ selftests: spicebd: (\S+)", said, re.M)


def in_the_tree():
    r = subprocess.run(["make", "-s", "-C", f"{TREE}/tools/testing/selftests", "TARGETS=spicebd",
                        f"TEST_PROGS={' '.join(FEW)}", "run_tests"],
                       capture_output=True, text=True, timeout=1200)
    print("\n".join("# " + line for line in (r.stdout + r.stderr).splitlines()[-60:]))
    same((r.returncode, results(r.stdout)), (0, [("ok", os.path.basename(t)) for t in FEW]),
         "each test is ok")


def installed():
    with open(f"{TREE}/installed/kselftest-list.txt") as f:
        names = f.read().split()
    with open(f"{HERE}/../tests.list") as f:
        bare = re.findall(r"^bare\s+selftests/netlink/(\S+)$", f.read(), re.M)
    same(sorted(names), sorted(f"spicebd:{t}" for t in bare), "all of them are installed")
    r = subprocess.run([f"{TREE}/installed/run_kselftest.sh", "-t", "spicebd:disk.py"],
                       capture_output=True, text=True, timeout=600)
    print("\n".join("# " + line for line in (r.stdout + r.stderr).splitlines()[-30:]))
    same((r.returncode, results(r.stdout)), (0, [("ok", "disk.py")]), "one is run there")


run(in_the_tree, installed)
