#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0-only
# Two hundred media, one after the other: each is mounted, none leaves a mount,
# a mount point, a link, a unit or memory, and each is one uevent in and one out.
# timeout: 2400
. "$(dirname "$0")/lib.bash"
. "$(dirname "$0")/mountlib.bash"
automount "# as it comes"

cycles=${CYCLES:-200}
genisoimage -quiet -V EVEN -o "$work/EVEN.iso" /etc/hostname
make_fs "$work/ODD.img" ODD 8
# The servers are there all the time: what is measured is the drive.
nbd_server "$work/EVEN.sock" -r file "$work/EVEN.iso"
nbd_server "$work/ODD.sock" file "$work/ODD.img"

# kB of all slabs, after everything that can be given back was
slab() {
	sync
	udevadm settle
	echo 3 >/proc/sys/vm/drop_caches
	sed -n 's/^Slab: *\([0-9]*\) kB/\1/p' /proc/meminfo
}
rss() { sed -n 's/^VmRSS:[[:space:]]*\([0-9]*\) kB/\1/p' "/proc/$(unit spicebdd.service MainPID)/status"; }

mounted_well=0 linked=0 cleaned=0
cycle() {
	local d=$1 label=$2 at=$place/$2
	spicebdctl insert "$d" "nbd+unix:///?socket=$work/$label.sock" >"$work/cycle" 2>&1 || return
	await 60 mounted_at "spicebd$d" "$at" || return
	mounted_well=$((mounted_well + 1))
	[ "/dev/disk/by-label/$label" -ef "/dev/spicebd$d" ] && linked=$((linked + 1))
	spicebdctl eject "$d" >"$work/cycle" 2>&1 || return
	await 30 nothing_left "spicebd$d" || return
	settle
	[ ! -e "/dev/disk/by-label/$label" ] && cleaned=$((cleaned + 1))
}
both() {
	for n in $(seq "$1"); do
		if [ $((n % 2)) = 0 ]; then cycle 0 EVEN; else cycle 1 ODD; fi || {
			echo "# cycle $n:"
			sed 's/^/# /' "$work/cycle"
		}
	done
}

both $((cycles < 20 ? cycles : 20))
slab_before=$(slab) rss_before=$(rss)
mounted_well=0 linked=0 cleaned=0
uevents_begin
began=$SECONDS
both "$cycles"
uevents_end
echo "# $cycles cycles in $((SECONDS - began)) s"
equal "each was mounted" $mounted_well "$cycles"
equal "each had its link" $linked "$cycles"
equal "each left nothing" $cleaned "$cycles"
for d in 0 1; do
	equal "spicebd$d: one uevent in and one out" "$(media_changes "spicebd$d")" "$cycles"
done
equal "no mount of a drive" "$(grep -c " /dev/spicebd" /proc/self/mountinfo)" 0
equal "no unit of it" "$(systemctl list-units --all --plain --no-legend 'spicebd-mount@*' 'run-media*')" ""
slab_after=$(slab) rss_after=$(rss)
echo "# slab: $slab_before kB, then $slab_after kB; spicebdd: $rss_before kB, then $rss_after kB"
# 2 KiB a cycle would be a leak of one small object; caches breathe by 4 MiB.
check "the kernel's slabs have not grown" [ $((slab_after - slab_before)) -lt $((4096 + cycles * 2)) ]
check "spicebdd has not" [ $((rss_after - rss_before)) -lt 4096 ]
done_testing
