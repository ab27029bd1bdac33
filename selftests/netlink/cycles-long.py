#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-only
#
# cycles.py with more of them: 400 in one machine.
# timeout: 1200
from cycles import cycles
from tap import run

run(*cycles(200))
