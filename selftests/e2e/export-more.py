#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-only
# timeout: 400
"""The rows of export.py that make check has no time for."""
from export import BEGIN, END, LONG, TCP, main

main(BEGIN[1:], LONG, END, TCP)
