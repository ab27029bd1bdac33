#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0-only
# source-nbd.sh again, with libnbd doing the transmission, as it does under TLS.
# timeout: 300
exec "$(dirname "$0")/again" SPICEBD_TRANSMISSION=libnbd source-nbd.sh
