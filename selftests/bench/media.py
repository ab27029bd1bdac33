# SPDX-License-Identifier: GPL-2.0-only
"""A medium from each kind of source, for the tables that only look at them."""

import json
import os
import subprocess
import tempfile

import guestlib as g

URI = "127.0.0.1:5931"


class Media:
    """drives with a local file, an NBD server and a Spice client behind them"""

    def __init__(self):
        self.dir = tempfile.mkdtemp(prefix="bench-media-")
        self.procs, self.drives, self.listening = [], [], False

    def file(self, name, mib=64):
        path = f"{self.dir}/{name}"
        with open(path, "wb") as f:
            f.truncate(mib << 20)
        return path

    def drive(self, *options):
        d = os.path.basename(json.loads(g.sh("spicebdctl", "add", "disk", *options,
                                             "--json"))["device"])
        self.drives.append(d)
        return d

    def delete(self, drive):
        g.sh("spicebdctl", "del", drive)
        self.drives.remove(drive)

    def insert(self, drive, source, *options):
        g.sh("spicebdctl", "insert", drive, source, *options)
        return f"/dev/{drive}"

    def start(self, *cmd):
        p = subprocess.Popen(	# pylint: disable=consider-using-with
            cmd, stdout=subprocess.DEVNULL)
        self.procs.append(p)
        return p

    def local(self, *options):
        return self.insert(self.drive(), self.file("local.img"), *options)

    def nbd(self, *options):
        s = f"{self.dir}/nbd"
        # one thread for each connection: its memory is not what is measured
        self.start("nbdkit", "-f", "-t", "1", "-U", s, "memory", "size=64M")
        g.wait_for("nbdkit", lambda: os.path.exists(s))
        return self.insert(self.drive(), f"nbd+unix:///?socket={s}", *options)

    def spice(self, *options):
        """shared by a spicebd-share on this machine"""
        path, password = self.file("shared.img"), f"{self.dir}/password"
        with open(os.open(password, os.O_WRONLY | os.O_CREAT, 0o600), "w",
                  encoding="ascii") as f:
            f.write("secret\n")
        g.sh("spicebdctl", "listen", URI, "--password-file", password)
        self.listening = True
        self.start("spicebd-share", "--uri", f"spice://{URI}", "--password-file", password,
                   "--wait", "--json", *(["--read-write"] if "--read-write" in options else []),
                   path)

        def offered():
            media = json.loads(g.sh("spicebdctl", "media", "--json"))
            return any(m["name"] == "shared.img" for link in media for m in link["media"])

        g.wait_for("the shared medium", offered)
        return self.insert(self.drive(), "spice:shared.img", *options)

    def stop(self):
        for d in self.drives:
            subprocess.run(["spicebdctl", "eject", d, "--force"], check=False,
                           stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            subprocess.run(["spicebdctl", "del", d], check=False,
                           stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        if self.listening:
            subprocess.run(["spicebdctl", "unlisten"], check=False, stdout=subprocess.DEVNULL)
        for p in self.procs:
            p.terminate()
            p.wait()
        g.sh("rm", "-rf", self.dir)
