#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0-only
# same-medium.py again, with the payload in messages instead of registered memory.
# timeout: 1500
exec "$(dirname "$0")/again" SPICEBD_PAYLOAD=messages same-medium.py
