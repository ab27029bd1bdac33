#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0-only
# udisks has a drive for each of ours, mounts and unmounts, and ejects; a mount
# does not outlive its medium.
# timeout: 300
. "$(dirname "$0")/lib.bash"

# drive N PROPERTY
drive() {
	busctl get-property org.freedesktop.UDisks2 \
		"/org/freedesktop/UDisks2/drives/spicebd_Spice_$1" \
		org.freedesktop.UDisks2.Drive "$2" 2>/dev/null | cut -d' ' -f2- | tr -d '"'
}
drive_is() { [ "$(drive "$1" "$2")" = "$3" ]; }
# hint DEVICE: does udisks tell a desktop to mount it?
hint() {
	busctl get-property org.freedesktop.UDisks2 \
		"/org/freedesktop/UDisks2/block_devices/$1" \
		org.freedesktop.UDisks2.Block HintAuto 2>/dev/null
}
hint_is() { [ "$(hint "$1")" = "b $2" ]; }
mounted() { findmnt -nro TARGET -S "$1"; }
known() { udisksctl info -b "$1" 2>/dev/null | grep -q "IdLabel: *$2\$"; }

check "udisks runs" systemctl start udisks2.service
check "a drive for the cdrom" await 20 drive_is CD_0 Removable true
check "a drive for the disk" await 20 drive_is Disk_1 Removable true
for p in "CD_0 Serial 0" "CD_0 MediaAvailable false" "CD_0 Ejectable true" \
	"Disk_1 Serial 1" "Disk_1 MediaAvailable false" "Disk_1 Ejectable true"; do
	read -r d key value <<<"$p"
	equal "$p" "$(drive "$d" "$key")" "$value"
done

make_iso "$work/disc.iso" 4
check "insert an ISO" spicebdctl insert "$work/disc.iso"
settle
check "the CD drive has a medium" await 20 drive_is CD_0 MediaAvailable true
equal "an optical one" "$(drive CD_0 Optical)" true
check "its label is known" await 20 known /dev/spicebd0 SELFTEST
check "a desktop is to mount it" await 20 hint_is spicebd0 true
check "mount" udisksctl mount -b /dev/spicebd0
at=$(mounted /dev/spicebd0)
check "its files are equal" sh -c "cd '$at' && md5sum --quiet -c '$work/disc.iso.md5'"
refused "eject of the mounted one names the mount" "mounted on $at" spicebdctl eject 0
check "unmount" udisksctl unmount -b /dev/spicebd0
equal "nothing is mounted" "$(mounted /dev/spicebd0)" ""
check "eject by udisks" busctl call org.freedesktop.UDisks2 \
	/org/freedesktop/UDisks2/drives/spicebd_Spice_CD_0 org.freedesktop.UDisks2.Drive \
	Eject 'a{sv}' 0
check "the drive is empty" await 20 is 0 .medium null
check "udisks sees that" await 20 drive_is CD_0 MediaAvailable false

truncate -s 32M "$work/disk.img"
mkfs.ext4 -q -L STICK "$work/disk.img"
check "insert a disk" spicebdctl insert 1 --read-write "$work/disk.img"
settle
check "the disk has a medium" await 20 drive_is Disk_1 MediaAvailable true
check "its label is known" await 20 known /dev/spicebd1 STICK
check "a desktop is to mount it" await 20 hint_is spicebd1 true
check "mount" udisksctl mount -b /dev/spicebd1
at=$(mounted /dev/spicebd1)
check "write" sh -c "date >'$at/a file'"
check "unmount" udisksctl unmount -b /dev/spicebd1
check "eject" spicebdctl eject 1
check "the file is in the image" sh -c "debugfs -R 'ls -p' '$work/disk.img' 2>&1 | grep -q 'a file'"

check "insert it again" spicebdctl insert 1 --read-write "$work/disk.img"
settle
check "its label is known" await 20 known /dev/spicebd1 STICK
check "mount" udisksctl mount -b /dev/spicebd1
check "eject --force" spicebdctl eject --force 1
check "the mount goes by itself" await 30 sh -c '! findmnt -n -S /dev/spicebd1'
check "its mount point, too" await 20 test ! -e "$at"
check "the drive is empty and not stale" await 20 is 1 .state empty
done_testing
