#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0-only
# The helper starts by itself with the first insert, and without its sockets,
# too; what only asks starts nothing.
# timeout: 200
. "$(dirname "$0")/lib.bash"

systemctl stop spicebdd.service
equal "spicebdd does not run" "$(unit spicebdd.service ActiveState)" inactive
check "list works" spicebdctl list
equal "two drives" "$(spicebdctl list --json | jq -c '[.[].drive]')" '["spicebd0","spicebd1"]'

make_iso "$work/disc.iso" 6
equal "the first insert" "$(spicebdctl insert "$work/disc.iso")" /dev/spicebd0
equal "spicebdd runs" "$(unit spicebdd.service ActiveState)" active
equal "it started once" "$(unit spicebdd.service NRestarts)" 0
equal "the medium is readable" "$(md5sum </dev/spicebd0)" "$(md5sum <"$work/disc.iso")"
mapfile -t units < <(nbdkit_units)
equal "one unit serves it" "${#units[@]}" 1
equal "status" "$(status 0 '[.state, .medium.name] | join(" ")')" "ready disc.iso"
check "list" sh -c 'spicebdctl list | grep -q disc.iso'
check "status for everybody" setpriv --reuid=65534 --regid=65534 --clear-groups \
	spicebdctl status 0
refused "insert is not" "root|denied|permitted" setpriv --reuid=65534 --regid=65534 --clear-groups \
	spicebdctl insert 1 /etc/hostname
check "eject" spicebdctl eject 0
check "its unit has gone" await 20 sh -c \
	'[ -z "$(systemctl list-units --plain --no-legend "spicebd-nbdkit@*")" ]'

check "spicebdctl stop" spicebdctl stop
equal "the socket, too, is stopped" "$(unit spicebdd.socket ActiveState)" inactive
check "nothing is left to connect to" test ! -e /run/spicebd/control.sock
equal "an insert starts all of it" "$(spicebdctl insert "$work/disc.iso")" /dev/spicebd0
equal "readable" "$(md5sum </dev/spicebd0)" "$(md5sum <"$work/disc.iso")"
check "eject" spicebdctl eject 0
check "the status socket for the next one" systemctl start spicebdd-status.socket
equal "no unit failed" "$(systemctl list-units --failed --plain --no-legend 'spicebd*')" ""
done_testing
