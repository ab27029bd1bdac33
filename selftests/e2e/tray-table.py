#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-only
# timeout: 900
"""The tray's acceptance table over QMP: drives named by "device" with media by
file name, and by "id" with media by node; --list names the rows."""
from traylib import Bench, Table
from trayrows import add_rows, images

table = Table()
add_rows(table, "qmp", "node")

if __name__ == "__main__":
    table.main(lambda: images(Bench()))
