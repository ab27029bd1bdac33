#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0-only
# One uevent for a medium that comes, one for a medium that goes, both with the
# number of the medium that is there; udev looks at each.
# timeout: 300
. "$(dirname "$0")/lib.bash"

make_iso "$work/disc.iso" 1
truncate -s 8M "$work/disk.img"
mkfs.ext4 -q -L CYCLE "$work/disk.img"
spicebdctl start >/dev/null
settle

cycle() {
	local d=$1 label=$2 seq
	uevents_begin
	spicebdctl insert "$d" "$3" >/dev/null || return
	settle
	seq=$(cat "/sys/block/spicebd$d/diskseq")
	[ "$(prop "/dev/spicebd$d" ID_FS_LABEL)" = "$label" ] && seen=$((seen + 1))
	[ "/dev/disk/by-label/$label" -ef "/dev/spicebd$d" ] && linked=$((linked + 1))
	[ "$(prop "/dev/spicebd$d" DISKSEQ)" = "$seq" ] && true_seq=$((true_seq + 1))
	spicebdctl eject "$d" >/dev/null || return
	await 10 sh -c "[ \$(grep -c DISK_MEDIA_CHANGE=1 $work/uevents) -ge 2 ]"
	settle
	uevents_end
	[ "$(media_changes "spicebd$d")" = 2 ] && counted=$((counted + 1))
	[ -e "/dev/disk/by-label/$label" ] || gone=$((gone + 1))
	[ $counted -ge "$n" ] || sed "s/^/# cycle $n: /" "$work/uevents"
}

for drive in "0 SELFTEST disc.iso" "1 CYCLE disk.img"; do
	read -r d label file <<<"$drive"
	seen=0 linked=0 true_seq=0 counted=0 gone=0
	for n in 1 2 3 4 5 6 7 8; do
		cycle "$d" "$label" "$work/$file"
	done
	equal "spicebd$d: cycles with one uevent each way" $counted 8
	equal "spicebd$d: udev looked at every medium" $seen 8
	equal "spicebd$d: and made its link" $linked 8
	equal "spicebd$d: the uevent's DISKSEQ is the drive's" $true_seq 8
	equal "spicebd$d: the link went with the medium" $gone 8
done
done_testing
