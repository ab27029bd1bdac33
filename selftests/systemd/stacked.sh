#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0-only
# freeze --fs of a drive that something is stacked on: LUKS, LVM, an array, a btrfs
# over two devices, swap. Each is refused by name and freezes nothing; when it is gone,
# the drive can be frozen.
# timeout: 500
. "$(dirname "$0")/lib.bash"

drive=/dev/spicebd1
modprobe -a dm_mod dm_crypt md_mod raid1 btrfs 2>/dev/null
mkdir "$work/m"

# stacked NAME WHAT: WHAT is what the command names
stacked() {
	refused "$1: freeze --fs" "spicebd1: .*$2 is stacked on it" spicebdctl freeze 1 --fs
	equal "$1: the drive is not frozen" "$(status 1 .freeze)" thawed
	check "$1: it can be frozen without" spicebdctl freeze 1
	check "$1: and thawed" spicebdctl thaw 1
}

gone() {
	settle
	check "$1: when it is gone, freeze --fs" spicebdctl freeze 1 --fs
	check "$1: thaw" spicebdctl thaw 1
	check "$1: its traces are wiped" wipefs -qa $drive
	settle
}

truncate -s 160M "$work/disk.img"
check "insert" spicebdctl insert 1 --read-write "$work/disk.img"
settle

check "LUKS" sh -c "echo secret | cryptsetup -q luksFormat --type luks1 \
	--pbkdf-force-iterations 1000 --key-file - $drive &&
	echo secret | cryptsetup open --key-file - $drive hidden"
stacked LUKS "dm-[0-9]+ \(device mapper hidden\)"
check "LUKS: a file system on it" sh -c "mkfs.ext4 -q /dev/mapper/hidden && mount /dev/mapper/hidden $work/m"
stacked "LUKS, mounted" "dm-[0-9]+ \(device mapper hidden\)"
check "LUKS: closed" sh -c "umount $work/m && cryptsetup close hidden"
gone LUKS

# lvm uses devices of known kinds only
lvm() { command lvm "$@" --config 'devices { types=["spicebd",16] }'; }
make_volume() {
	lvm pvcreate -q $drive && lvm vgcreate -q group $drive &&
		lvm lvcreate -q -y -Zn -Wn -l 4 -n volume group
}
check "LVM" make_volume
stacked LVM "dm-[0-9]+ \(device mapper group-volume\)"
check "LVM: deactivated" lvm vgchange -q -an group
gone LVM

check "an array" mdadm --create /dev/md/one --run --level=1 --raid-devices=2 --metadata=1.2 \
	--homehost=any $drive missing
stacked array "md[0-9]+"
check "array: stopped" mdadm --stop /dev/md/one
gone array

truncate -s 160M "$work/other.img"
loop=$(losetup -f --show "$work/other.img")
check "a btrfs over two" sh -c "mkfs.btrfs -q -f -m single -d single $drive $loop && btrfs device scan &&
	mount $drive $work/m"
stacked btrfs "a btrfs that lies on ${loop#/dev/}, too,"
check "btrfs: the other one is taken away" btrfs device remove "$loop" "$work/m"
losetup -d "$loop"
check "btrfs: over one, freeze --fs" spicebdctl freeze 1 --fs
check "btrfs: thaw" spicebdctl thaw 1
check "btrfs: umount" umount "$work/m"
gone btrfs

check "swap" sh -c "mkswap -q $drive && swapon $drive"
stacked swap swap
check "swap: off" swapoff $drive
gone swap
check "eject" spicebdctl eject 1
done_testing
