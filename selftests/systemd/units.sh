#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0-only
# The units: well-formed, and their processes have given up what they were
# started with.
# timeout: 200
. "$(dirname "$0")/lib.bash"

check "systemd-analyze verify" sh -c \
	'out=$(systemd-analyze verify --man=no /usr/lib/systemd/system/spicebd* 2>&1) &&
	 [ -z "$out" ] || { echo "$out"; false; }'
check "udev takes the rules" sh -c \
	'! udevadm test --action=change /sys/block/spicebd0 2>&1 |
	 grep -E "60-spicebd.*(nvalid|nknown|ignoring)"'

# of PID KEY: from /proc/PID/status
of() { sed -n "s/^$2:[[:space:]]*//p" "/proc/$1/status"; }
none() {
	equal "$1: CapEff, CapPrm, CapInh, CapAmb" \
		"$(for c in CapEff CapPrm CapInh CapAmb; do of "$2" $c; done | sort -u)" 0000000000000000
	equal "$1: NoNewPrivs" "$(of "$2" NoNewPrivs)" 1
	equal "$1: seccomp" "$(of "$2" Seccomp)" 2
}

truncate -s 8M "$work/disk.img"
check "a medium" spicebdctl insert --disk --read-write "$work/disk.img"
daemon=$(unit spicebdd.service MainPID)
none spicebdd "$daemon"
equal "spicebdd: threads with a capability" \
	"$(grep -h CapEff /proc/"$daemon"/task/*/status | grep -vc 0000000000000000)" 0
opener=$(pgrep -P "$daemon" -x spicebdd-sock)
equal "its opener of queue sockets: CAP_NET_ADMIN and no more" \
	"$(of "$opener" CapEff)" 0000000000001000
equal "its opener: NoNewPrivs" "$(of "$opener" NoNewPrivs)" 1

server=$(nbdkit_units)
pid=$(unit "$server" MainPID)
equal "spicebd-nbdkit: NoNewPrivs" "$(of "$pid" NoNewPrivs)" 1
equal "spicebd-nbdkit: seccomp" "$(of "$pid" Seccomp)" 2
equal "spicebd-nbdkit: no network" "$(nsenter -t "$pid" -n ip -br link | grep -vc '^lo ')" 0
echo "# spicebd-nbdkit: CapEff $(of "$pid" CapEff)"

check "listen" spice_listen
link=$(unit spicebd-link@default.service MainPID)
none spicebd-link "$link"
equal "spicebd-link: nothing to get" "$(of "$link" CapBnd)" 0000000000000000
equal "spicebd-link: its user" "$(of "$link" Uid)" \
	"$(printf '%s\t%s\t%s\t%s' $(for _ in 1 2 3 4; do id -u spicebd-link; done))"
equal "spicebd-link: no groups" "$(of "$link" Groups | tr -d ' ')" ""

# The sandbox was closed when the unit said that it is ready.
equal "spicebd-link: filters of the unit and its own" \
	"$(($(of "$link" Seccomp_filters) > $(of "$daemon" Seccomp_filters)))" 1
equal "control.sock" "$(stat -c %a /run/spicebd/control.sock)" 600
equal "status.sock" "$(stat -c %a /run/spicebd/status.sock)" 666
equal "nbdkit.sock" "$(stat -c %a /run/spicebd/nbdkit.sock)" 600
equal "link/default.sock" "$(stat -c %a /run/spicebd/link/default.sock)" 600
for u in spicebdd.service "$server" spicebd-link@default.service; do
	echo "# $(systemd-analyze security --no-pager "$u" | sed -n 's/^→ //p')"
done

# What has to survive until the last file system is unmounted.
for u in spicebdd.socket spicebdd.service spicebd-nbdkit.socket "$server" \
	spicebd-link@default.service; do
	equal "$u: not stopped by shutdown.target" "$(unit "$u" Conflicts | grep -c shutdown.target)" 0
	equal "$u: IgnoreOnIsolate" "$(unit "$u" IgnoreOnIsolate)" yes
	[ "${u%.service}" = "$u" ] ||
		equal "$u: its slice is not stopped either" "$(unit "$u" Slice)" system.slice
done
check "unlisten" spicebdctl unlisten
check "eject" spicebdctl eject 1
done_testing
