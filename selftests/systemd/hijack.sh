#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0-only
# A stranger's medium becomes no part of this machine: its labels and UUIDs
# displace nobody's, nothing is assembled, activated or registered from it.
# timeout: 500
. "$(dirname "$0")/lib.bash"
. "$(dirname "$0")/mountlib.bash"
automount "# as it comes"

# insert FILE: into the disk drive, until udev has looked at it and at partitions
insert() {
	check "$1: insert" spicebdctl insert 1 --read-write "$work/$1"
	settle
}

root=$(findmnt -nro SOURCE /)
uuid=$(blkid -p -s UUID -o value "$root")
check "the root file system has a by-uuid link" test "/dev/disk/by-uuid/$uuid" -ef "$root"
# Of a mounted file system that is an ioctl, and no writer closes the node.
e2label "$root" MACHINE
udevadm trigger --settle "/sys/class/block/${root#/dev/}"
check "and a by-label link" await 20 test /dev/disk/by-label/MACHINE -ef "$root"

truncate -s 16M "$work/root.img"
mkfs.ext4 -q -U "$uuid" -L MACHINE "$work/root.img"
truncate -s 32M "$work/rootpart.img"
printf 'label: gpt\ntype=4f68bce3-e8cd-4db1-96e7-fbcaf984b709,name=root\n' |
	sfdisk -q "$work/rootpart.img"
dd if="$work/root.img" of="$work/rootpart.img" bs=1M seek=1 conv=notrunc status=none
for image in root.img rootpart.img; do
	insert $image
	device=/dev/spicebd1
	[ $image = root.img ] || device=${device}p1
	equal "$image: seen" "$(prop $device ID_FS_UUID)" "$uuid"
	check "$image: by-uuid is still the root's" test "/dev/disk/by-uuid/$uuid" -ef "$root"
	check "$image: by-label, too" test /dev/disk/by-label/MACHINE -ef "$root"
	check "$image: no gpt-auto-root" test ! -e /dev/gpt-auto-root
	equal "$image: systemd's unit of the UUID is the root's" \
		"$(unit "$(systemd-escape -p --suffix=device "/dev/disk/by-uuid/$uuid")" SysFSPath)" \
		"$(udevadm info -q path "$root" | sed 's|^|/sys|')"
	check "$image: eject" spicebdctl eject 1
	settle
	check "$image: ejected, by-uuid is still the root's" \
		test "/dev/disk/by-uuid/$uuid" -ef "$root"
done

# member IMAGE TYPE: how udev shows it
member() {
	equal "$1: no ID_FS_TYPE" "$(prop /dev/spicebd1 ID_FS_TYPE)" ""
	equal "$1: SPICEBD_FS_TYPE" "$(prop /dev/spicebd1 SPICEBD_FS_TYPE)" "$2"
	equal "$1: no link but its own" "$(prop /dev/spicebd1 DEVLINKS)" /dev/disk/by-id/spicebd-1
	equal "$1: udev's flag for other rules is gone" \
		"$(prop /dev/spicebd1 DM_UDEV_DISABLE_OTHER_RULES_FLAG)" ""
	check "$1: not mounted, and why" await 60 says spicebd1 "it holds $2, which types="
}

# To make them, loop devices stand for another machine's disks.
modprobe -a loop dm_mod md_mod raid1 btrfs bcache 2>/dev/null
truncate -s 64M "$work/pv.img" "$work/md.img"
loop=$(losetup -f --show "$work/pv.img")
check "a volume group is made" sh -c "pvcreate -q $loop && vgcreate -q stranger $loop &&
	lvcreate -q -an -Zn -l 4 -n lv stranger && vgchange -q -an stranger"
losetup -d "$loop"
loop=$(losetup -f --show "$work/md.img")
check "an array is made" mdadm --create /dev/md/stranger --run --level=1 --raid-devices=2 \
	--metadata=1.2 --homehost=any "$loop" missing
mdadm --stop /dev/md/stranger
losetup -d "$loop"
truncate -s 128M "$work/btrfs.img"
mkfs.btrfs -q -L BTRFS "$work/btrfs.img"
truncate -s 16M "$work/bcache.img"
make-bcache -B "$work/bcache.img" >/dev/null
udevadm settle

insert pv.img
member pv.img LVM2_member
equal "pv.img: no unit activates it" "$(systemctl list-units --all --plain --no-legend 'lvm-activate-*')" ""
check "pv.img: udev's add" udevadm trigger --action=add --settle /sys/block/spicebd1
equal "pv.img: no unit activates it then" \
	"$(systemctl list-units --all --plain --no-legend 'lvm-activate-*')" ""
equal "pv.img: no volume" "$(ls /dev/mapper | grep -v control)" ""
check "eject" spicebdctl eject 1

insert md.img
member md.img linux_raid_member
check "md.img: udev's add" udevadm trigger --action=add --settle /sys/block/spicebd1
equal "md.img: no array" "$(sed -n '/^md/p' /proc/mdstat) $(ls /dev/md* 2>/dev/null)" " "
check "eject" spicebdctl eject 1

# The first is what the machine's rules do to a device that is not ours.
loop=$(losetup -f --show "$work/btrfs.img")
settle
equal "a btrfs elsewhere is registered" "$(prop "$loop" ID_BTRFS_READY)" 1
losetup -d "$loop"
settle
btrfs device scan --forget
insert btrfs.img
equal "btrfs.img: its type is told" "$(prop /dev/spicebd1 ID_FS_TYPE)" btrfs
equal "btrfs.img: nobody registers it" "$(prop /dev/spicebd1 ID_BTRFS_READY)" ""
check "btrfs.img: systemd has the device" await 20 sh -c \
	'[ "$(systemctl show -p ActiveState --value dev-spicebd1.device)" = active ]'
check "btrfs.img: the kernel knows none" sh -c '! btrfs filesystem show -m 2>/dev/null | grep -q spicebd'
check "eject" spicebdctl eject 1

insert bcache.img
member bcache.img bcache
check "bcache.img: udev's add" udevadm trigger --action=add --settle /sys/block/spicebd1
equal "bcache.img: no cache" "$(ls /sys/block | grep bcache)" ""
check "eject" spicebdctl eject 1

# Whoever opens an empty drive's node closes its tray.
check "the tray is opened" eject /dev/spicebd0
settle
udevadm trigger --settle /sys/block/spicebd0
settle
equal "no rule closed it" "$(cat /sys/block/spicebd0/spicebd/tray)" open

truncate -s 32M "$work/luks.img"
echo secret | cryptsetup -q luksFormat --type luks1 --pbkdf-force-iterations 1000 "$work/luks.img" - 2>&1
insert luks.img
equal "luks.img: its type is told" "$(prop /dev/spicebd1 ID_FS_TYPE)" crypto_LUKS
equal "luks.img: it has no by-uuid link" "$(prop /dev/spicebd1 DEVLINKS)" /dev/disk/by-id/spicebd-1
check "eject" spicebdctl eject 1
equal "no unit failed" "$(systemctl list-units --failed --plain --no-legend)" ""
done_testing
