# SPDX-License-Identifier: GPL-2.0-only
# shellcheck shell=bash
#
# For the tests in the machine with systemd: the helper's sockets are active,
# the rest is started by need. Sourced first.

# shellcheck source-path=SCRIPTDIR source=../e2e/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/../e2e/lib.sh"

# automount LINE…: what automount.conf holds; off, unless a test turns it on:
# a medium that is mounted by itself is in use.
automount() {
	mkdir -p /etc/spicebd
	printf '%s\n' "$@" >/etc/spicebd/automount.conf
}
automount enable=no

trap 'spicebdctl unlisten >/dev/null 2>&1; cleanup' EXIT

# settle: until udev has handled all that the kernel has said so far
settle() { udevadm settle --timeout=60; }

# prop DEVICE KEY: what udev knows, empty if nothing
prop() { udevadm info -q property --property="$2" --value "$1"; }

# unit UNIT PROPERTY
unit() { systemctl show -p "$2" --value "$1"; }

# status DRIVE FILTER; is DRIVE FILTER VALUE
status() { spicebdctl status "$1" --json | jq -r "$2"; }
is() { [ "$(status "$1" "$2")" = "$3" ]; }

# started UNIT NOT-PID: runs, and not as that process
started() {
	[ "$(unit "$1" ActiveState)" = active ] && [ "$(unit "$1" MainPID)" != "$2" ] &&
		[ "$(unit "$1" MainPID)" != 0 ]
}

nbdkit_units() { systemctl list-units --plain --no-legend 'spicebd-nbdkit@*' | awk '{ print $1 }'; }

# uevents_begin, uevents_end: what the kernel said between them, in $work/uevents
uevents_begin() {
	rm -f "$work/uevents"
	background selftests/systemd/uevents "$work/uevents"
	uevents_pid=$pid
	await 20 grep -q listening "$work/uevents"
}

uevents_end() {
	kill "$uevents_pid"
	wait "$uevents_pid"
}

# media_changes PREFIX: of the devices so named
media_changes() { grep -c "^$1 .*DISK_MEDIA_CHANGE=1" "$work/uevents"; }

# writes DEVICE MIB: fio with verify in the background, slow enough to be met
# under way; its pid in $fio, until some requests are done
writes() {
	local d=${1#/dev/} before
	before=$(status "$d" .stats.writes)
	fio --name=v --filename="$1" --rw=randwrite --bs=16k --size=32m --io_size="$2m" --direct=1 \
		--ioengine=libaio --iodepth=16 --verify=crc32c --verify_fatal=1 \
		--verify_state_save=0 --rate=2m --minimal >"$work/fio.log" 2>&1 &
	fio=$!
	pids+=("$fio")
	await 30 sh -c "[ \$(spicebdctl status $d --json | jq .stats.writes) -gt $((before + 20)) ]"
}

# verified NAME: that fio's end
verified() {
	wait "$fio"
	local s=$?
	[ $s -eq 0 ] || sed 's/^/# /' "$work/fio.log"
	equal "$1" $s 0
}
