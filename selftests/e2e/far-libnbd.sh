#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0-only
# far.sh again, with libnbd doing the transmission.
# timeout: 300
exec "$(dirname "$0")/again" SPICEBD_TRANSMISSION=libnbd far.sh
