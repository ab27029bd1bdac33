# SPDX-License-Identifier: GPL-2.0-only
# shellcheck shell=bash
# A far path, for the tests of it. Sourced first.
. "$(dirname "$0")/lib.sh"

status() { spicebdctl status "$1" --json | jq -r "$2"; }
is() { [ "$(status "$1" "$2")" = "$3" ]; }
holds() { spicebdctl status "$1" --json | jq -e "$2" >/dev/null; }
same() { [ "$(dd if="$1" iflag=direct "${@:3}" status=none | md5sum)" = "$(dd if="$2" "${@:3}" status=none | md5sum)" ]; }

# far SOCKET NBDKIT-ARGUMENTS…: a server behind a slow path; its URI in $uri
far() {
	nbd_server "$work/$1" "${@:2}" || return
	server=$pid
	background selftests/bench/delayproxy "unix:$work/$1.far" "unix:$work/$1" 20 1000 >"$work/$1.log"
	proxy=$pid
	uri="nbd+unix:///?socket=$work/$1.far"
	await 20 grep -q listening "$work/$1.log"
}

selftests/bench/delayproxy 2>/dev/null	# builds it
