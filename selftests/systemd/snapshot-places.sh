#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0-only
# What a snapshot needs may not lie upon the drive, whatever is between: a partition,
# LUKS, LVM, an array, a btrfs over two devices, an overlay, and those upon each other.
# Scratch file, socket, journal and log of spicebdd; refused by name, the scratch file by
# spicebdctl, before anything is frozen, and all of it by spicebdd.
# timeout: 600
. "$(dirname "$0")/lib.bash"

drive=/dev/spicebd1 m=$work/m
modprobe -a loop dm_mod dm_crypt md_mod raid1 btrfs overlay 2>/dev/null
mkdir "$m" "$work/scratch"

# upon NAME BY FOLDER: nothing of a snapshot's may be there
upon() {
	local by=${2:+" \\(by way of $2\\)"}
	refused "$1: the scratch file" "the scratch file at $3 lies on the drive itself$by: give" \
		spicebdctl snapshot create 1 --scratch "$3"
	refused "$1: the socket" "cannot make a snapshot: the socket lies on the drive itself$by: put" \
		spicebdctl snapshot create 1 --scratch "$work/scratch" --socket "$3/s"
	equal "$1: there is none" "$(status 1 '.snapshots | length')" 0
}

# mounted NAME DEVICE BY: with a file system on that
mounted() {
	check "$1: a file system" sh -c "mkfs.ext4 -qF $2 && mount $2 $m"
	upon "$1" "$3" "$m"
}

wiped() {
	settle
	check "$1: a snapshot, when it is gone" spicebdctl snapshot create 1 --scratch "$work/scratch"
	check "$1: and its end" spicebdctl snapshot delete s0
	wipefs -qa $drive
	settle
}

truncate -s 160M "$work/disk.img"
check "insert" spicebdctl insert 1 --read-write "$work/disk.img"
settle

mounted "the drive" $drive ""
# What it is read from is no place where anything is written.
mkdir "$work/upper" "$work/over" "$m/upper" "$m/worker" "$m/lower"
check "an overlay upon it" mount -t overlay -o "lowerdir=/etc,upperdir=$m/upper,workdir=$m/worker" overlay "$work/over"
upon overlay overlay "$work/over"
umount "$work/over"
mkdir "$work/upper/u" "$work/upper/w"
check "an overlay of which only the lower folder is there" mount -t overlay -o \
	"lowerdir=$m/lower,upperdir=$work/upper/u,workdir=$work/upper/w" overlay "$work/over"
check "it may be" spicebdctl snapshot create 1 --scratch "$work/over"
check "and its end" spicebdctl snapshot delete s0
umount "$work/over"

check "the journal, upon it" sh -c "mkdir -p /var/log/journal '$m/journal' && mount --bind '$m/journal' /var/log/journal"
refused "the journal" "cannot make a snapshot: the journal lies on the drive itself" \
	spicebdctl snapshot create 1 --scratch "$work/scratch"
umount /var/log/journal
: >"$m/log"
mkdir -p /run/systemd/system/spicebdd.service.d
printf '[Service]\nStandardError=append:%s\n' "$m/log" >/run/systemd/system/spicebdd.service.d/log.conf
check "a log, upon it" sh -c "systemctl daemon-reload && systemctl restart spicebdd.service"
check "spicebdd has the drive" await 60 is 1 .state ready
refused "the log" "cannot make a snapshot: spicebdd's log lies on the drive itself" \
	spicebdctl snapshot create 1 --scratch "$work/scratch"
rm -r /run/systemd/system/spicebdd.service.d
systemctl daemon-reload
check "as before" systemctl restart spicebdd.service
check "spicebdd has the drive" await 60 is 1 .state ready
umount "$m"
wiped "the drive"

check "a partition" sh -c "echo '2048,,L' | sfdisk -q $drive"
check "it is there" await 30 test -b ${drive}p1
mounted partition ${drive}p1 ""
umount "$m"
wiped partition

check "LUKS" sh -c "echo secret | cryptsetup -q luksFormat --type luks1 \
	--pbkdf-force-iterations 1000 --key-file - $drive &&
	echo secret | cryptsetup open --key-file - $drive hidden"
mounted LUKS /dev/mapper/hidden "dm-[0-9]+"
check "LUKS: a file in it, as a loop device" sh -c "truncate -s 40M $m/image && mkdir $work/inner &&
	mkfs.ext4 -qF $m/image && mount -o loop $m/image $work/inner"
upon "loop upon LUKS" "loop[0-9]+, dm-[0-9]+" "$work/inner"
umount "$work/inner" "$m"
cryptsetup close hidden
wiped LUKS

# lvm uses devices of known kinds only
lvm() { command lvm "$@" --config 'devices { types=["spicebd",16] }'; }
make_volume() {
	lvm pvcreate -q $drive && lvm vgcreate -q group $drive &&
		lvm lvcreate -q -y -Zn -Wn -l 30 -n volume group
}
check "LVM" make_volume
mounted LVM /dev/group/volume "dm-[0-9]+"
umount "$m"
lvm vgchange -q -an group
wiped LVM

check "an array" mdadm --create /dev/md/one --run --level=1 --raid-devices=2 --metadata=1.2 \
	--homehost=any $drive missing
mounted array /dev/md/one "md[0-9]+"
umount "$m"
mdadm --stop /dev/md/one
wiped array

truncate -s 160M "$work/other.img"
loop=$(losetup -f --show "$work/other.img")
check "a btrfs over two" sh -c "mkfs.btrfs -q -f -m single -d single $loop $drive && btrfs device scan &&
	mount $loop $m"
upon btrfs btrfs "$m"
umount "$m"
losetup -d "$loop"
wiped btrfs
check "eject" spicebdctl eject 1
done_testing
