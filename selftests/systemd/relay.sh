#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0-only
# A relay as a unit: its sockets are those of the user that is named, whom alone it
# lets in; it serves a guest, here a second link whose ports they are; it is killed
# and comes again; unlisten leaves nothing.
# timeout: 400
. "$(dirname "$0")/lib.bash"
trap 'spicebdctl unlisten vm1 >/dev/null 2>&1; spicebdctl unlisten guest >/dev/null 2>&1
	cleanup' EXIT

relay=spicebd-link@vm1.service guest=spicebd-link@guest.service
prefix=/run/spicebd/vm1
(umask 077; head -c 12 /dev/urandom | base64 >"$work/password")
relay_listen=(spicebdctl listen vm1 127.0.0.1:5930 --password-file "$work/password"
	--relay listen:$prefix --relay-user)
sockets() { stat -c '%n %U %a' $prefix.* 2>/dev/null; }

refused "a user that is none" "did not start" "${relay_listen[@]}" nobody-of-that-name
check "the journal says why" sh -c "journalctl -b -u $relay | grep -q 'no such user'"
systemctl reset-failed $relay 2>/dev/null

check "listen" "${relay_listen[@]}" games
equal "both sockets are that user's" "$(sockets)" "$prefix.0 games 600
$prefix.1 games 600"
# as USER: what comes of connecting to it
as() {
	setpriv --reuid "$1" --clear-groups python3 - "$prefix.0" <<-EOF
		import socket, sys
		try:
		    socket.socket(socket.AF_UNIX).connect(sys.argv[1])
		    print("in")
		except OSError as e:
		    print(e.strerror)
	EOF
}
equal "it lets that user in" "$(as games)" in
equal "and no other" "$(as nobody)" "Permission denied"
check "unlisten" spicebdctl unlisten vm1
equal "no socket is left" "$(sockets)" ""

check "listen for the user of links" "${relay_listen[@]}" spicebd-link
equal "the unit runs" "$(unit $relay ActiveState)" active
pid=$(unit $relay MainPID)
equal "as its own user" "$(stat -c %U "/proc/$pid")" spicebd-link
equal "without a right" "$(grep -E '^Cap(Prm|Eff|Bnd|Amb)' "/proc/$pid/status" | awk '{ print $2 }' | sort -u)" \
	0000000000000000
check "the guest's link" spicebdctl listen guest "port:$prefix"

make_iso "$work/disc.iso" 8
truncate -s 8M "$work/stick.img"
share --read-write "$work/disc.iso" "$work/stick.img"
check "both media are offered to the guest" await 60 offered disc.iso stick.img
equal "insert the disc" "$(spicebdctl insert spice:guest/disc.iso)" /dev/spicebd0
equal "insert the stick" "$(spicebdctl insert spice:guest/stick.img --read-write)" /dev/spicebd1
equal "the whole disc is equal" "$(md5sum </dev/spicebd0)" "$(md5sum <"$work/disc.iso")"
settle
writes /dev/spicebd1 8
systemctl kill -s KILL $relay
check "the relay is started again" await 60 started $relay "$pid"
verified "what was written is right, all the same"
equal "the sockets are that user's again" "$(sockets)" "$prefix.0 spicebd-link 600
$prefix.1 spicebd-link 600"
check "eject the disc" spicebdctl eject 0
settle
check "eject the stick" await 60 spicebdctl eject 1
check "the guest's link ends" spicebdctl unlisten guest
equal "it has ended" "$(unit $guest ActiveState)" inactive
check "the relay ends" spicebdctl unlisten vm1
equal "it has, too" "$(unit $relay ActiveState)" inactive
equal "nothing of them is left" \
	"$(sockets; find /run/spicebd/link /run/spicebd/links.d -name 'vm1*' -o -name 'guest*')" ""

# to last: as a unit of its own, from /etc
mkdir -p /etc/spicebd/links.d
printf '%s\n' address=127.0.0.1:5930 "password-file=$work/password" "relay=listen:$prefix" \
	relay-user=games relay-ports=3 >/etc/spicebd/links.d/vm1.conf
check "systemctl start" systemctl start $relay
equal "the socket of its port" "$(sockets)" "$prefix.3 games 600"
check "unlisten ends that, too" spicebdctl unlisten vm1
equal "without its socket" "$(sockets)" ""
rm /etc/spicebd/links.d/vm1.conf
done_testing
