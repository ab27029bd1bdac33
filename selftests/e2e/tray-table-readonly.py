#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-only
# timeout: 900
"""read-only-mode over QMP; --list names the rows."""
from traylib import Bench, Table
from trayreadonly import add_rows, binds_by_mode, refuses_writes

table = Table()
table.add("disk file: a file's mode binds spicebdd", binds_by_mode)
add_rows(table, "file", "fd", "nbd")
table.add("disk nbd: a server that refuses each write", refuses_writes)

if __name__ == "__main__":
    table.main(Bench)
