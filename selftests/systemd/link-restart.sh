#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0-only
# A link's unit is killed and restarted while its medium is read: systemd keeps
# its sockets, the share comes back by itself, the reader goes on.
# timeout: 300
. "$(dirname "$0")/lib.bash"

link=spicebd-link@default.service
listener() { ss -Hltne "sport = :$1" | grep -o 'ino:[0-9]*'; }

check "listen" spice_listen
make_iso "$work/disc.iso" 12
share "$work/disc.iso"
check "the ISO is offered" await 60 offered disc.iso
equal "insert" "$(spicebdctl insert spice:disc.iso)" /dev/spicebd0
settle
generation=$(status 0 .generation)
socket=$(listener 5930)
control=$(stat -c %i /run/spicebd/link/default.sock)
uevents_begin

# what COMMAND…: it happens to the link while the medium is read
disturb() {
	local what=$1 old reader
	shift
	old=$(unit $link MainPID)
	echo 1 >/proc/sys/vm/drop_caches
	blockdev --flushbufs /dev/spicebd0
	(dd if=/dev/spicebd0 bs=64k count=16 && "$@" >&2 && dd if=/dev/spicebd0 bs=64k skip=16) \
		2>"$work/dd" | md5sum >"$work/md5" &
	reader=$!
	wait $reader
	equal "$what: the whole is read" "$(cut -d' ' -f1 <"$work/md5")" \
		"$(md5sum <"$work/disc.iso" | cut -d' ' -f1)" || sed 's/^/# /' "$work/dd"
	check "$what: it is another process" await 20 started $link "$old"
	equal "$what: the listening socket is the same" "$(listener 5930)" "$socket"
	equal "$what: the private one, too" "$(stat -c %i /run/spicebd/link/default.sock)" "$control"
	check "$what: the drive is ready" await 30 is 0 .state ready
}

kill_it() {
	kill -9 "$(unit $link MainPID)"
	# Whoever comes now waits for the next one.
	exec 7<>/dev/tcp/127.0.0.1/5930 && exec 7<&-
}

disturb "killed" kill_it
disturb "restarted" systemctl restart $link
disturb "killed again" kill_it
uevents_end
equal "no uevent says another medium" "$(media_changes spicebd)" 0
equal "the same medium" "$(status 0 .generation)" "$generation"
equal "no request failed" "$(status 0 .stats.errors)" 0
check "the share is the same process" kill -0 "$share_pid"
check "eject" spicebdctl eject 0

# An address that was changed is not that of the kept socket.
sed -i 's/:5930/:5931/' /run/spicebd/links.d/default.conf
check "restart with another address" systemctl restart $link
check "it listens there" listener 5931
check "and no more where it did" sh -c '! ss -Hltn "sport = :5930" | grep -q .'
check "unlisten" spicebdctl unlisten
check "nobody listens" sh -c '! ss -Hltn "sport = :5931" | grep -q .'
done_testing
