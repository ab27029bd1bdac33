#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0-only
# A drive that does not answer now holds nobody up: udev keeps what it knows,
# and looks again when the medium can be read.
# timeout: 500
. "$(dirname "$0")/lib.bash"
. "$(dirname "$0")/mountlib.bash"

state() { [ "$(cat "/sys/block/$1/spicebd/state")" = "$2" ]; }
helper=spicebdd.service

# The helper is killed, and none comes until let_go: systemd starts none by
# itself, nor for who asks the sockets.
hold() {
	local pid
	pid=$(unit $helper MainPID)
	systemctl mask --runtime $helper spicebdd.socket spicebdd-status.socket 2>/dev/null
	kill -9 "$pid"
	systemctl stop spicebdd.socket spicebdd-status.socket 2>/dev/null
	await 20 sh -c "! kill -0 $pid" && ! pgrep -x spicebdd >/dev/null
}
let_go() {
	systemctl unmask --runtime $helper spicebdd.socket spicebdd-status.socket 2>/dev/null
	systemctl reset-failed 2>/dev/null
	systemctl start spicebdd.socket spicebdd-status.socket $helper
}

# quick NAME: settle in less than 5 s
quick() {
	local began=${EPOCHREALTIME/[.,]/} ms
	udevadm settle --timeout=60
	ms=$(((${EPOCHREALTIME/[.,]/} - began) / 1000))
	echo "# $1: settle took $ms ms"
	check "$1: udevadm settle is back in 5 s" [ $ms -lt 5000 ]
}

make_iso "$work/disc.iso" 2
truncate -s 64M "$work/parts.img"
printf 'label: gpt\nsize=16MiB\nsize=16MiB\n' | sfdisk -q "$work/parts.img"
make_fs "$work/p1.img" ONE 16
dd if="$work/p1.img" of="$work/parts.img" bs=1M seek=1 conv=notrunc status=none
check "an ISO" spicebdctl insert 0 "$work/disc.iso"
check "a disk" spicebdctl insert 1 --read-write "$work/parts.img"
settle
known() {
	for d in spicebd0 spicebd1 spicebd1p1; do
		echo "$d $(prop /dev/$d ID_FS_TYPE) $(prop /dev/$d ID_FS_LABEL) $(prop /dev/$d ID_PART_TABLE_TYPE)" \
			"$(prop /dev/$d DEVLINKS | tr ' ' '\n' | sort | tr '\n' ' ')"
	done
}
before=$(known)
sed 's/^/# /' <<<"$before"
check "spicebdd is killed, and stays away" hold
for d in spicebd0 spicebd1; do
	check "$d is held" await 20 state $d held
done
udevadm trigger /sys/block/spicebd0 /sys/block/spicebd1 /sys/block/spicebd1/spicebd1p1
quick "held"
equal "udev keeps what it knew" "$(known)" "$before"
equal "systemd keeps the device" "$(unit dev-spicebd0.device ActiveState)" active
for d in spicebd0 spicebd1; do
	equal "$d: the kernel is to tell" "$(cat /sys/block/$d/spicebd/deferred)" 1
	equal "$d: the probe was put off" "$(prop /dev/$d SPICEBD_DEFERRED)" 1
done
udevadm trigger --action=add /sys/block/spicebd0
quick "held, an add"
uevents_begin
let_go
for d in spicebd0 spicebd1; do
	check "$d is ready" await 60 state $d ready
	check "$d: udev has looked" await 60 sh -c \
		"[ -z \"\$(udevadm info -q property --property=SPICEBD_DEFERRED --value /dev/$d)\" ]"
done
check "the partition, too" await 60 sh -c \
	'[ -z "$(udevadm info -q property --property=SPICEBD_DEFERRED --value /dev/spicebd1p1)" ]'
settle
uevents_end
equal "no uevent says another medium" "$(media_changes spicebd)" 0
equal "udev knows the same" "$(known)" "$before"
equal "nothing waits any more" "$(cat /sys/block/spicebd[01]/spicebd/deferred | tr '\n' ' ')" "0 0 "
equal "no request failed" "$(status 0 .stats.errors) $(status 1 .stats.errors)" "0 0"
check "eject of both" sh -c "spicebdctl eject 0 && spicebdctl eject 1"
settle
equal "nothing is kept of them" "$(udevadm info -q property /dev/spicebd0 /dev/spicebd1 |
	grep -E '^(ID_FS|ID_PART|SPICEBD_DEFERRED)')" ""

# The far end of a Spice connection stops.
check "listen" spice_listen
share "$work/disc.iso"
check "the ISO is offered" await 60 offered disc.iso
check "insert" spicebdctl insert 0 spice:disc.iso
settle
label=$(prop /dev/spicebd0 ID_FS_LABEL)
kill -STOP "$share_pid"
check "its loss is seen" await 60 state spicebd0 reconnecting
udevadm trigger /sys/block/spicebd0
quick "the far end has stopped"
equal "udev keeps the label" "$(prop /dev/spicebd0 ID_FS_LABEL)" "$label"
kill -CONT "$share_pid"
check "the drive is ready" await 60 state spicebd0 ready
check "udev has looked" await 60 sh -c \
	'[ -z "$(udevadm info -q property --property=SPICEBD_DEFERRED --value /dev/spicebd0)" ]'
equal "the label" "$(prop /dev/spicebd0 ID_FS_LABEL)" "$label"
check "eject" spicebdctl eject 0
done_testing
