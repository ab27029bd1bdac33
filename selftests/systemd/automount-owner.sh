#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0-only
# Who mounts: spicebd, also beside udisks and for a text console; a desktop
# where somebody has one; or whom the configuration names. Never both.
# timeout: 600
. "$(dirname "$0")/lib.bash"
. "$(dirname "$0")/mountlib.bash"
automount "# as it comes"

hint() {
	busctl get-property org.freedesktop.UDisks2 \
		/org/freedesktop/UDisks2/block_devices/spicebd0 \
		org.freedesktop.UDisks2.Block HintAuto 2>/dev/null
}
hint_is() { [ "$(hint)" = "b $1" ]; }
session_is() { loginctl show-session "$1" -p Type --value 2>/dev/null | grep -qx "$2"; }

# login NAME TYPE TTY: a session of a person at seat0
login() {
	systemd-run -q --unit="seat-$1" -p User=person -p PAMName=login -p TTYPath="/dev/tty$3" \
		-p StandardInput=tty -p StandardOutput=null -p StandardError=journal \
		-p UtmpIdentifier="tty$3" -p UtmpMode=user -E XDG_SEAT=seat0 -E XDG_VTNR="$3" \
		-E XDG_SESSION_TYPE="$2" -E XDG_SESSION_CLASS=user sleep 1000
	await 60 sh -c "loginctl list-sessions --no-legend | grep -q 'person *seat0'"
	loginctl list-sessions --no-legend | sed 's/^/# session: /'
}
logout() {
	systemctl stop "seat-$1"
	loginctl terminate-user person 2>/dev/null
	await 60 sh -c '! loginctl list-sessions --no-legend | grep -q person'
}

# ours NAME; theirs NAME: the next medium's owner, seen by what happens
ours() {
	check "$1: insert" spicebdctl insert 0 "$work/disc.iso"
	check "$1: spicebd mounts it" await 60 mounted_at spicebd0 $place/SELFTEST
	check "$1: and keeps udisks from it" await 20 hint_is false
	check "$1: eject" spicebdctl eject 0
	check "$1: nothing is left" await 30 nothing_left spicebd0
}
theirs() {
	check "$1: insert" spicebdctl insert 0 "$work/disc.iso"
	settle
	equal "$1: it is udisks'" "$(prop /dev/spicebd0 SPICEBD_AUTOMOUNT)" udisks
	check "$1: which offers to mount it" await 20 hint_is true
	equal "$1: spicebd's service was not started" "$(unit "$(service spicebd0)" ActiveState)" inactive
	check "$1: udisks mounts it" udisksctl mount -b /dev/spicebd0
	equal "$1: once" "$(findmnt -nro TARGET -S /dev/spicebd0 | wc -l)" 1
	check "$1: and unmounts it" udisksctl unmount -b /dev/spicebd0
	check "$1: eject" spicebdctl eject 0
	check "$1: udisks has seen it go" await 20 sh -c \
		'! busctl get-property org.freedesktop.UDisks2 \
			/org/freedesktop/UDisks2/drives/spicebd_Spice_CD_0 \
			org.freedesktop.UDisks2.Drive MediaAvailable | grep true'
}

make_iso "$work/disc.iso" 1
useradd -m person
check "udisks runs" systemctl start udisks2.service
ours "nobody is logged in"
check "somebody logs in on a text console" login text tty 1
ours "a text console"
logout text
check "somebody logs in to a desktop" login desktop x11 2
check "logind says so" await 20 sh -c \
	'for s in $(loginctl list-sessions --no-legend | awk "{ print \$1 }"); do
		loginctl show-session $s -p Type --value; done | grep -qx x11'
theirs "a desktop"
automount owner=spicebd
ours "a desktop, owner=spicebd"
automount "# as it comes"
check "a medium of the desktop's" spicebdctl insert 0 "$work/disc.iso"
settle
logout desktop
udevadm trigger --settle /sys/block/spicebd0
settle
equal "it stays the desktop's when that is gone" "$(prop /dev/spicebd0 SPICEBD_AUTOMOUNT)" udisks
check "eject" spicebdctl eject 0
check "nothing is left" await 30 nothing_left spicebd0
ours "nobody is logged in any more"
automount owner=udisks
theirs "nobody is logged in, owner=udisks"
automount enable=no
check "enable=no: insert" spicebdctl insert 0 "$work/disc.iso"
settle
equal "enable=no: it is nobody's" "$(prop /dev/spicebd0 SPICEBD_AUTOMOUNT)" no
check "enable=no: udisks may" await 20 hint_is true
check "eject" spicebdctl eject 0
userdel -r person 2>/dev/null
done_testing
