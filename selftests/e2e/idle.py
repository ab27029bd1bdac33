#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-only
"""An inserted medium that nobody uses costs no wakeups but the ping's."""
# timeout: 200
import os
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "../bench"))
sys.dont_write_bytecode = True
import limits				# noqa: E402

limits.test("idle-guest", "1", "5")
