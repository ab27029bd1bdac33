#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-only
# timeout: 900
"""The tray's acceptance table by spicebdctl; --list names the rows."""
import trayreadonly
import trayrows
from traylib import Bench, Table

table = Table()
trayrows.add_rows(table, "ctl")
trayreadonly.add_rows(table, "ctl")

if __name__ == "__main__":
    table.main(lambda: trayrows.images(Bench()))
