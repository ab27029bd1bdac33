#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-only
"""Memory of the daemon and the link, below their limits."""
# timeout: 600
import os
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "../bench"))
sys.dont_write_bytecode = True
import limits				# noqa: E402

limits.test("memory-guest", "processes")
