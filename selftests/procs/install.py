#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-only
"""make install: what goes where, units that systemd takes without a word, and
nothing left by uninstall."""
import os
import re
import shutil

import procs
from procs import TOP, equal, ok, run

# timeout: 60

PROGRAMS = {"bin": ["spicebdctl", "spicebd-share"],
            "sbin": ["spicebdd", "spicebd-link", "spicebd-nbdkit", "spicebd-export", "spicebd-supervisor",
                     "spicebd-mount", "spicebd-tls", "spicebd-web"],
            "lib/spicebd": ["nbdkit-spicebd-plugin.so", "spicebd-memlock.so"]}
UNITS = ["spicebd-export.socket", "spicebd-export@.service", "spicebd-link@.service",
         "spicebd-mount@.service", "spicebd-nbdkit.socket", "spicebd-nbdkit@.service",
         "spicebd-tls@.service", "spicebd-web@.service", "spicebdd-status.socket", "spicebdd.service", "spicebdd.socket"]
PAGES = ["man1/spicebd-share.1", "man4/spicebd.4", "man5/spicebd.conf.5", "man8/spicebd-export.8",
         "man8/spicebd-link.8", "man8/spicebd-mount.8", "man8/spicebd-nbdkit.8",
         "man8/spicebd-supervisor.8", "man8/spicebd-tls.8", "man8/spicebd-web.8", "man8/spicebdctl.8", "man8/spicebdd.8"]
NEEDED = ["sysinit.target", "basic.target", "sockets.target", "network.target", "shutdown.target",
          "local-fs-pre.target", "local-fs.target", "umount.target",
          "multi-user.target", "systemd-tmpfiles-setup.service", "systemd-modules-load.service"]


def make(target, dest, *args):
    return run("make", "-s", "-C", TOP, "-f", "userhelper/install.mk", target, f"DESTDIR={dest}",
               f"O={procs.run_dir}/build", *args)


def files(d):
    return sorted(os.path.relpath(os.path.join(p, f), d) for p, _, fs in os.walk(d) for f in fs)


def ours(d):
    return [os.path.join(p, x) for p, ds, _ in os.walk(d) for x in ds if "spicebd" in x]


def elsewhere(dest):
    """prefix= is where everything is, and what the units and rules name."""
    r = make("install", dest, "prefix=/opt/x")
    ok(r.returncode == 0 and all(f.startswith(("opt/x/", "etc/spicebd/")) for f in files(dest)),
       "prefix=: nothing is elsewhere", r)
    named = set()
    for f in files(f"{dest}/opt/x/lib"):
        with open(f"{dest}/opt/x/lib/{f}", errors="replace") as text:
            named |= set(re.findall(r"(/[\w/]*s?bin/spicebd[\w-]*)", text.read()))
    ok(named and all(n.startswith("/opt/x/") for n in named), "prefix=: units and rules name it", named)
    make("uninstall", dest, "prefix=/opt/x")
    equal((files(dest), ours(dest)), ([], []), "prefix=: uninstall leaves nothing")


def test():
    built = procs.run_dir + "/build/bin"
    os.makedirs(built)
    for p in sum(PROGRAMS.values(), []):
        shutil.copy("/bin/true", f"{built}/{p}")
    dest = procs.run_dir + "/dest"
    r = make("install", dest, "prefix=/usr")
    ok(r.returncode == 0 and "no manual pages" in r.stdout and
       not os.path.exists(f"{dest}/usr/share/man"), "without rst2man there are no pages", r)
    os.makedirs(procs.run_dir + "/build/man")
    for p in PAGES:
        shutil.copy("/bin/true", f"{procs.run_dir}/build/man/{os.path.basename(p)}")
    r = make("install", dest, "prefix=/usr")
    if not ok(r.returncode == 0, "make install DESTDIR=", r):
        return
    got = files(dest)
    want = [f"usr/{d}/{p}" for d, ps in PROGRAMS.items() for p in ps]
    want += [f"usr/lib/systemd/system/{u}" for u in UNITS]
    want += ["usr/lib/udev/rules.d/60-spicebd.rules", "usr/lib/udev/rules.d/90-spicebd.rules",
             "usr/lib/udev/rules.d/61-spicebd-port.rules",
             "usr/lib/sysusers.d/spicebd.conf", "usr/lib/tmpfiles.d/spicebd.conf",
             "etc/spicebd/automount.conf", "usr/share/bash-completion/completions/spicebdctl"]
    want += [f"usr/share/man/{p}" for p in PAGES]
    want += [f"usr/share/spicebd/web/{f}" for f in os.listdir(f"{TOP}/userhelper/web/page")]
    equal(got, sorted(want), "what is installed")
    ok(os.path.isdir(f"{dest}/etc/spicebd/links.d"), "/etc/spicebd/links.d is there")
    units = f"{dest}/usr/lib/systemd/system"
    for u in UNITS:
        with open(f"{units}/{u}") as f:
            text = f.read()
        ok(not re.search(r"@[a-z]+@", text),
           f"{u}: no placeholder is left")
    if not shutil.which("systemd-analyze"):
        procs.skip("systemd-analyze verify", "no systemd-analyze")
    else:
        for n in NEEDED:
            for d in ("/usr/lib/systemd/system", "/lib/systemd/system"):
                if os.path.exists(f"{d}/{n}"):
                    shutil.copy(f"{d}/{n}", units)
        os.makedirs(f"{dest}/bin")
        shutil.copy("/bin/true", f"{dest}/bin/kill")
        os.environ["SYSTEMD_LOG_COLOR"] = "0"
        r = run("systemd-analyze", "verify", "--man=no", f"--root={dest}",
                *[u.replace("@.", "@x.") for u in UNITS])
        equal((r.returncode, r.stderr), (0, ""), "systemd-analyze verify")
        for n in NEEDED:
            if os.path.exists(f"{units}/{n}"):
                os.unlink(f"{units}/{n}")
        shutil.rmtree(f"{dest}/bin")
    with open(f"{dest}/usr/lib/udev/rules.d/90-spicebd.rules") as f:
        ok("/usr/sbin/spicebd-mount --owner" in f.read(), "the rules name the installed program")
    conf = f"{dest}/etc/spicebd/automount.conf"
    with open(conf, "a") as f:
        f.write("enable=no\n")
    make("install", dest, "prefix=/usr")
    with open(conf) as f:
        ok("enable=no\n" in f.read().splitlines(True)[-1:], "a changed automount.conf is kept")
    make("uninstall", dest, "prefix=/usr")
    ok(os.path.exists(conf), "also by uninstall")
    os.unlink(conf)
    make("install", dest, "prefix=/usr")
    r = make("uninstall", dest, "prefix=/usr")
    equal((r.returncode, files(dest)), (0, []), "uninstall leaves no file")
    equal(ours(dest), [], "and no directory of ours")
    elsewhere(procs.run_dir + "/other")


procs.main(test)
