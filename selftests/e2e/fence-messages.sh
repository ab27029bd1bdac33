#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0-only
# fence.py again, with the payload in messages instead of registered memory.
# timeout: 1500
spicebdctl stop >/dev/null 2>&1
export SPICEBD_PAYLOAD=messages
spicebdctl start >/dev/null || exit 1
tr '\0' '\n' <"/proc/$(pidof -s spicebdd)/environ" | grep -qx SPICEBD_PAYLOAD=messages || {
	echo "Bail out! spicebdd does not know that its payload goes in messages"
	exit 1
}
"$(dirname "$0")/fence.py"
status=$?
spicebdctl stop >/dev/null
unset SPICEBD_PAYLOAD
spicebdctl start >/dev/null
exit $status
