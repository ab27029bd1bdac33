#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-only
"""make install: what goes where, units that systemd takes without a word, and
nothing left by uninstall."""
import os
import shutil

import procs
from procs import TOP, equal, ok, run

# timeout: 60

PROGRAMS = {"bin": ["spicebdctl", "spicebd-share"],
            "sbin": ["spicebdd", "spicebd-link", "spicebd-nbdkit", "spicebd-export", "spicebd-supervisor"],
            "lib/spicebd": ["nbdkit-spicebd-plugin.so"]}
UNITS = ["spicebd-export.socket", "spicebd-export@.service", "spicebd-link@.service", "spicebd-nbdkit.socket", "spicebd-nbdkit@.service",
         "spicebdd-status.socket", "spicebdd.service", "spicebdd.socket"]
NEEDED = ["sysinit.target", "basic.target", "sockets.target", "network.target", "shutdown.target",
          "multi-user.target", "systemd-tmpfiles-setup.service", "systemd-modules-load.service"]


def make(target, dest, *args):
    return run("make", "-s", "-C", TOP, "-f", "userhelper/install.mk", target, f"DESTDIR={dest}",
               f"O={procs.run_dir}/build", *args)


def files(d):
    return sorted(os.path.relpath(os.path.join(p, f), d) for p, _, fs in os.walk(d) for f in fs)


def test():
    built = procs.run_dir + "/build/bin"
    os.makedirs(built)
    for p in sum(PROGRAMS.values(), []):
        shutil.copy("/bin/true", f"{built}/{p}")
    dest = procs.run_dir + "/dest"
    r = make("install", dest, "prefix=/usr")
    if not ok(r.returncode == 0, "make install DESTDIR=", r):
        return
    got = files(dest)
    want = [f"usr/{d}/{p}" for d, ps in PROGRAMS.items() for p in ps]
    want += [f"usr/lib/systemd/system/{u}" for u in UNITS]
    want += ["usr/lib/udev/rules.d/60-spicebd.rules", "usr/lib/sysusers.d/spicebd.conf",
             "usr/lib/tmpfiles.d/spicebd.conf"]
    equal(got, sorted(want), "what is installed")
    ok(os.path.isdir(f"{dest}/etc/spicebd/links.d"), "/etc/spicebd/links.d is there")
    units = f"{dest}/usr/lib/systemd/system"
    for u in UNITS:
        with open(f"{units}/{u}") as f:
            text = f.read()
        ok("@" not in text.replace("@system-service", "").replace("link@", "").replace("nbdkit@", "")
           .replace("export@", ""),
           f"{u}: no placeholder is left")
    if not shutil.which("systemd-analyze"):
        procs.skip("systemd-analyze verify", "no systemd-analyze")
    else:
        for n in NEEDED:
            for d in ("/usr/lib/systemd/system", "/lib/systemd/system"):
                if os.path.exists(f"{d}/{n}"):
                    shutil.copy(f"{d}/{n}", units)
        os.environ["SYSTEMD_LOG_COLOR"] = "0"
        r = run("systemd-analyze", "verify", "--man=no", f"--root={dest}",
                *[u.replace("@.", "@x.") for u in UNITS])
        equal((r.returncode, r.stderr), (0, ""), "systemd-analyze verify")
        for n in NEEDED:
            if os.path.exists(f"{units}/{n}"):
                os.unlink(f"{units}/{n}")
    r = make("uninstall", dest, "prefix=/usr")
    equal((r.returncode, files(dest)), (0, []), "uninstall leaves no file")


procs.main(test)
