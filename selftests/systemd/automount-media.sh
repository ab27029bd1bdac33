#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0-only
# What automount makes of all sorts of media: partitions, images of two minds,
# types nobody allowed, none at all, hostile names; and of its configuration.
# timeout: 900
. "$(dirname "$0")/lib.bash"
. "$(dirname "$0")/mountlib.bash"
automount "types=iso9660 udf vfat exfat disk:ext4"

# left_alone NAME FILE REGEX: it is inserted into the disk drive, not mounted, and
# the journal says why; no unit fails
left_alone() {
	check "$1: insert" spicebdctl insert 1 "$2"
	check "$1: not mounted, and the journal says why" await 60 says spicebd1 "$3"
	equal "$1: nothing is mounted" "$(findmnt -nro TARGET -S /dev/spicebd1)" ""
	check "$1: no unit failed" none_failed
	check "$1: eject" spicebdctl eject 1
	check "$1: nothing is left" await 30 nothing_left spicebd1
}

head -c 8M /dev/urandom >"$work/noise.img"
left_alone "no file system" "$work/noise.img" "not mounted: there is no file system"

truncate -s 16M "$work/swap.img"
mkswap "$work/swap.img" >/dev/null 2>&1
left_alone "swap" "$work/swap.img" "not mounted: it holds swap, which types= "

# A file system and the magic of another one.
make_fs "$work/two.img" TWO 32
printf '_BHRfS_M' | dd of="$work/two.img" bs=1 seek=$((65536 + 64)) conv=notrunc status=none
blkid -p "$work/two.img" | sed 's/^/# blkid -p: /'
truncate -s 128M "$work/btrfs.img"
mkfs.btrfs -q "$work/btrfs.img"
dd if="$work/btrfs.img" of="$work/two.img" bs=4096 skip=16 seek=16 count=1 conv=notrunc status=none
left_alone "two file systems" "$work/two.img" "more than one thing \(.*btrfs.*\)"

# ext4 leaves the first KiB alone: room for a table that says otherwise.
make_fs "$work/table.img" TABLE 32
printf 'label: dos\nstart=16384,type=83\n' | sfdisk -q --wipe never "$work/table.img"
left_alone "a file system and a partition table" "$work/table.img" \
	"more than one thing \(ext4, a partition table \(dos\)\)"

# An ISO that is a disk as well, as installers are.
make_iso "$work/hybrid.iso" 2
truncate -s 8M "$work/hybrid.iso"
printf 'label: dos\nstart=8192,size=4096,type=ef\n' | sfdisk -q --wipe never "$work/hybrid.iso"
truncate -s 2M "$work/efi.img"
mkfs.vfat -n EFI "$work/efi.img" >/dev/null
dd if="$work/efi.img" of="$work/hybrid.iso" bs=1M seek=4 conv=notrunc status=none
check "hybrid image: insert" spicebdctl insert 1 "$work/hybrid.iso"
check "hybrid image: the whole is mounted" await 60 mounted_at spicebd1 $place/SELFTEST
check "hybrid image: its partition is not" await 60 says spicebd1p1 "part of an optical image"
check "eject" spicebdctl eject 1
check "nothing is left" await 30 nothing_left spicebd1 spicebd1p1

# Partitions: one vfat with a hostile name, one ext4, one of nothing.
truncate -s 64M "$work/parts.img"
printf 'label: gpt\nsize=16MiB\nsize=16MiB\nsize=8MiB\n' | sfdisk -q "$work/parts.img"
truncate -s 16M "$work/p1.img"
mkfs.vfat -n 'A$B(C)' "$work/p1.img" >/dev/null
make_fs "$work/p2.img" '../../x' 16
dd if="$work/p1.img" of="$work/parts.img" bs=1M seek=1 conv=notrunc status=none
dd if="$work/p2.img" of="$work/parts.img" bs=1M seek=17 conv=notrunc status=none
sum=$(md5sum <"$work/parts.img")
check "partitions: insert" spicebdctl insert 1 --read-write "$work/parts.img"
check "partitions: vfat, its name made harmless" await 60 mounted_at spicebd1p1 "$place/A_B_C_"
check "partitions: ext4, its name made harmless" await 60 mounted_at spicebd1p2 $place/_._.._x
check "partitions: the third" await 60 says spicebd1p3 "there is no file system"
check "partitions: the whole" await 60 says spicebd1 "partition table \(gpt\): its partitions"
ls $place | sed 's/^/# mount point: /'
equal "nothing else was made" "$(find $place -mindepth 1 -maxdepth 1 | wc -l)" 2
equal "nothing outside" "$(ls -d /x /run/x /run/media/x 2>/dev/null)" ""
for p in 1 2; do
	for o in ro nosuid nodev noexec; do
		check "partition $p is $o" option spicebd1p$p $o
	done
done
equal "the mark tells of both" "$(wc -l </run/spicebd/mount/spicebd1)" 2
check "eject" spicebdctl eject 1
check "nothing is left" await 30 nothing_left spicebd1 spicebd1p1 spicebd1p2 spicebd1p3
equal "the medium was not written" "$(md5sum <"$work/parts.img")" "$sum"

check "partitions again: insert" spicebdctl insert 1 --read-write "$work/parts.img"
check "partitions again: mounted" await 60 mounted_at spicebd1p2 $place/_._.._x
check "partitions again: both" await 60 sh -c 'findmnt -n -S /dev/spicebd1p1'
check "eject --force" spicebdctl eject --force 1
check "nothing is left" await 30 nothing_left spicebd1 spicebd1p1 spicebd1p2 spicebd1p3
check "the drive is empty and not stale" await 20 is 1 .state empty

# An ext4 that was not unmounted, and asks for a panic when it is damaged.
make_fs "$work/dirty.img" DIRTY 16
tune2fs -e panic "$work/dirty.img" >/dev/null
debugfs -w -R "feature needs_recovery" "$work/dirty.img" >/dev/null 2>&1
sum=$(md5sum <"$work/dirty.img")
check "not unmounted before: insert" spicebdctl insert 1 --read-write "$work/dirty.img"
check "not unmounted before: mounted" await 60 mounted_at spicebd1 $place/DIRTY
check "errors=remount-ro, whatever it asks for" option spicebd1 errors=remount-ro
check "eject" spicebdctl eject 1
equal "its journal was not replayed" "$(md5sum <"$work/dirty.img")" "$sum"
dd if=/dev/urandom of="$work/dirty.img" bs=4096 seek=2 count=40 conv=notrunc status=none
left_alone "a broken ext4" "$work/dirty.img" "not mounted: ext4 cannot be mounted"

# Configuration.
automount place=/run/elsewhere/media disk-writable=yes options=exec,noatime,ext4:stripe=16
make_fs "$work/fs.img" FS 16
check "configured: insert" spicebdctl insert 1 --read-write "$work/fs.img"
check "configured: its place" await 60 mounted_at spicebd1 /run/elsewhere/media/FS
for o in rw nosuid nodev noatime stripe=16; do
	check "configured: $o" option spicebd1 $o
done
check "configured: not noexec" sh -c '! findmnt -nro OPTIONS -S /dev/spicebd1 | grep -q noexec'
check "a file is written" sh -c 'echo hello >/run/elsewhere/media/FS/file'
check "eject" spicebdctl eject 1
equal "it is in the image" "$(debugfs -R 'cat file' "$work/fs.img" 2>/dev/null)" hello
check "and the image is clean" e2fsck -fn "$work/fs.img"
check "read-only: insert" spicebdctl insert 1 --read-only "$work/fs.img"
check "read-only: mounted" await 60 mounted_at spicebd1 /run/elsewhere/media/FS
check "read-only: ro" option spicebd1 ro
check "eject" spicebdctl eject 1

chmod 777 /run/elsewhere
check "a place that anybody could change: insert" spicebdctl insert 1 "$work/fs.img"
check "is refused" await 60 said spicebd1 "no directory that root alone can write"
equal "nothing is mounted" "$(mounted spicebd1)" ""
check "eject" spicebdctl eject 1
systemctl reset-failed
automount place=/run/link
ln -s /run/media /run/link
check "a place that is a link: insert" spicebdctl insert 1 "$work/fs.img"
check "is refused" await 60 said spicebd1 "/run/link.* is no directory"
check "eject" spicebdctl eject 1
systemctl reset-failed
automount colour=red
check "a mistyped key: insert" spicebdctl insert 1 "$work/fs.img"
check "is told" await 60 said spicebd1 "automount.conf:1: colour= is no key"
equal "--check tells it, too" "$(spicebd-mount --check 2>&1)" \
	"spicebd-mount: /etc/spicebd/automount.conf:1: colour= is no key that this version knows"
check "eject" spicebdctl eject 1
systemctl reset-failed
automount enable=no
check "off: insert" spicebdctl insert 1 "$work/fs.img"
settle
equal "off: udev starts nothing" "$(unit "$(service spicebd1)" ActiveState)" inactive
equal "off: it is nobody's" "$(prop /dev/spicebd1 SPICEBD_AUTOMOUNT)" no
check "eject" spicebdctl eject 1
equal "no unit failed" "$(systemctl list-units --failed --plain --no-legend)" ""
done_testing
