#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-only
# timeout: 900
"""Snapshots: the rows of snapshot.py that take their time."""
import snapshot

if __name__ == "__main__":
    snapshot.table(snapshot.MORE)
