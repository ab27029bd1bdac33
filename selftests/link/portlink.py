# SPDX-License-Identifier: GPL-2.0-only
"""A link whose address is a port."""
import os

import linktest as t


class PortLink(t.Link):
    """A link whose address is a port, made of what t.Link knows."""

    def __init__(self, conf=""):
        super().__init__(conf, own_sockets=True)

    def start(self):
        self.prefix = self.place()
        path = os.path.join(self.dir, "links.d/t.conf")
        with open(path, encoding="utf-8") as f:
            text = f.read()
        with open(path, "w", encoding="utf-8") as f:
            f.write("".join(f"address=port:{self.prefix}\n" if line.startswith("address=") else
                            line + "\n" for line in text.splitlines()))
        super().start()

    def place(self):
        return os.path.join(self.dir, "p", "org.spice-space.spicebd")

    def opener(self):
        """pid of its one child"""
        with open(f"/proc/{self.proc.pid}/task/{self.proc.pid}/children", encoding="ascii") as f:
            return int(f.read().split()[0])
