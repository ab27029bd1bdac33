#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0-only
# The tests of an NBD server again, with libnbd doing the transmission, as it
# does under TLS.
# timeout: 300
spicebdctl stop >/dev/null 2>&1
export SPICEBD_TRANSMISSION=libnbd
spicebdctl start >/dev/null || exit 1
tr '\0' '\n' <"/proc/$(pidof -s spicebdd)/environ" | grep -qx SPICEBD_TRANSMISSION=libnbd || {
	echo "Bail out! spicebdd was not told"
	exit 1
}
"$(dirname "$0")/source-nbd.sh"
status=$?
spicebdctl stop >/dev/null
unset SPICEBD_TRANSMISSION
spicebdctl start >/dev/null
exit $status
