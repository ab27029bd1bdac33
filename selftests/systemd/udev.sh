#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0-only
# What udev knows of a drive, filled and empty, of both personalities, and of
# partitions; nothing of a medium stays behind.
# timeout: 200
. "$(dirname "$0")/lib.bash"

stale() { udevadm info -q property "$1" | grep -E '^ID_(FS|PART|CDROM_MEDIA)'; }
links() { prop "$1" DEVLINKS | tr ' ' '\n' | sort | tr '\n' ' '; }

empty() {
	local d=/dev/spicebd$1
	settle
	equal "$2: SYSTEMD_READY" "$(prop "$d" SYSTEMD_READY)" 0
	equal "$2: nothing of a medium" "$(stale "$d")" ""
	equal "$2: its only link" "$(links "$d")" "/dev/disk/by-id/spicebd-$1 "
	equal "$2: ID_SERIAL" "$(prop "$d" ID_SERIAL)" "spicebd_$1"
}

empty 0 "cdrom, empty"
empty 1 "disk, empty"
equal "cdrom: ID_CDROM" "$(prop /dev/spicebd0 ID_CDROM)" 1
equal "disk: no ID_CDROM" "$(prop /dev/spicebd1 ID_CDROM)" ""
equal "cdrom: ID_TYPE" "$(prop /dev/spicebd0 ID_TYPE)" cd
equal "disk: ID_TYPE" "$(prop /dev/spicebd1 ID_TYPE)" disk
equal "cdrom: its group" "$(stat -c %G /dev/spicebd0)" cdrom
equal "disk: its group" "$(stat -c %G /dev/spicebd1)" disk

make_iso "$work/disc.iso" 2
check "insert an ISO" spicebdctl insert "$work/disc.iso"
settle
for p in ID_CDROM=1 ID_CDROM_MEDIA=1 ID_FS_TYPE=iso9660 ID_FS_LABEL=SELFTEST \
	ID_FS_USAGE=filesystem ID_SERIAL=spicebd_0 ID_BUS=spicebd SYSTEMD_READY=; do
	equal "cdrom, filled: $p" "$(prop /dev/spicebd0 "${p%%=*}")" "${p#*=}"
done
check "by-label leads to it" test /dev/disk/by-label/SELFTEST -ef /dev/spicebd0
check "by-id, too" test /dev/disk/by-id/spicebd-0 -ef /dev/spicebd0
check "eject" spicebdctl eject 0
empty 0 "cdrom, ejected"

truncate -s 16M "$work/fs.img"
mkfs.ext4 -q -L FSLABEL "$work/fs.img"
check "insert a file system" spicebdctl insert 1 --read-write "$work/fs.img"
settle
for p in ID_FS_TYPE=ext4 ID_FS_LABEL=FSLABEL ID_SERIAL=spicebd_1 SYSTEMD_READY=; do
	equal "disk, filled: $p" "$(prop /dev/spicebd1 "${p%%=*}")" "${p#*=}"
done
# Whoever changes it is seen by the watch on the node.
check "another label" tune2fs -L OTHER /dev/spicebd1
check "udev sees it" await 20 test /dev/disk/by-label/OTHER -ef /dev/spicebd1
settle
check "the old link has gone" test ! -e /dev/disk/by-label/FSLABEL
check "eject" spicebdctl eject 1
empty 1 "disk, ejected"

truncate -s 32M "$work/parts.img"
printf 'label: gpt\nname=one,size=8MiB\nname=two\n' | sfdisk -q "$work/parts.img"
check "insert a partitioned disk" spicebdctl insert 1 --read-write "$work/parts.img"
settle
equal "ID_PART_TABLE_TYPE" "$(prop /dev/spicebd1 ID_PART_TABLE_TYPE)" gpt
for n in 1 2; do
	check "partition $n by-id" test "/dev/disk/by-id/spicebd-1-part$n" -ef "/dev/spicebd1p$n"
done
check "by-partlabel" test /dev/disk/by-partlabel/two -ef /dev/spicebd1p2
equal "ID_PART_ENTRY_NUMBER" "$(prop /dev/spicebd1p2 ID_PART_ENTRY_NUMBER)" 2
check "a file system on one" mkfs.ext4 -q -L PARTLABEL /dev/spicebd1p1
check "its label's link" await 20 test /dev/disk/by-label/PARTLABEL -ef /dev/spicebd1p1
check "eject" spicebdctl eject 1
settle
check "insert it again" spicebdctl insert 1 "$work/parts.img"
settle
equal "the partition is looked at when it comes" "$(prop /dev/spicebd1p1 ID_FS_LABEL)" PARTLABEL
equal "its number is its medium's" "$(prop /dev/spicebd1p1 DISKSEQ)" "$(cat /sys/block/spicebd1/diskseq)"
check "eject" spicebdctl eject 1
empty 1 "disk, ejected again"
check "no partition is left" sh -c '! ls /dev/spicebd1p* /dev/disk/by-id/*-part* 2>/dev/null'
check "no link of it" sh -c \
	'! ls /dev/disk/by-label/PARTLABEL /dev/disk/by-partlabel/two 2>/dev/null'
done_testing
