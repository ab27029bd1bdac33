#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0-only
# The tests of a far medium again, with libnbd doing the transmission.
# timeout: 300
spicebdctl stop >/dev/null 2>&1
export SPICEBD_TRANSMISSION=libnbd
spicebdctl start >/dev/null || exit 1
"$(dirname "$0")/far.sh"
status=$?
spicebdctl stop >/dev/null
unset SPICEBD_TRANSMISSION
spicebdctl start >/dev/null
exit $status
