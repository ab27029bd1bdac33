#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0-only
# The programs that people use on drives, unchanged, on both personalities,
# empty and filled: what they print is compared with what is true, and what
# they cannot do fails at once and in their own words.
# timeout: 900
. "$(dirname "$0")/lib.sh"

cd=/dev/spicebd0
disk=/dev/spicebd1
mnt=$work/mnt
mkdir "$mnt"

# run_tool COMMAND…: both outputs in $work/out, its exit status returned
run_tool() { LC_ALL=C timeout 60 "$@" >"$work/out" 2>&1; }

tool_failed() {
	echo "# $1: exit status $2, expected $3"
	sed 's/^/# /' "$work/out" | head -n 30
	not_ok "$name"
}

# says NAME REGEX COMMAND…: succeeds, and a line of it matches
says() {
	local name=$1 want=$2 status
	shift 2
	run_tool "$@"
	status=$?
	if [ $status -eq 0 ] && grep -Eq -- "$want" "$work/out"; then
		ok "$name"
	else
		tool_failed "$*" $status "0 and /$want/"
	fi
}

# fails NAME REGEX COMMAND…: in its own words, not by a signal or a time limit
fails() {
	local name=$1 want=$2 status
	shift 2
	run_tool "$@"
	status=$?
	if [ $status -ne 0 ] && [ $status -lt 124 ] && grep -Eqi -- "$want" "$work/out"; then
		ok "$name: $(grep -Eim1 -- "$want" "$work/out")"
	else
		tool_failed "$*" $status "a failure and /$want/"
	fi
}

# prints NAME WANTED COMMAND…: exactly that
prints() {
	local name=$1 want=$2 status
	shift 2
	run_tool "$@"
	status=$?
	if [ $status -eq 0 ] && [ "$(cat "$work/out")" = "$want" ]; then
		ok "$name"
	else
		tool_failed "$*" $status "0 and \"$want\""
	fi
}

property() { udevadm info --query=property "$1" | sed -n "s/^$2=//p"; }
idle() {
	udevadm settle --timeout 60
	await 60 sh -c "[ \"\$(spicebdctl status ${1##*/} --json | jq .openers)\" = 0 ]"
}
has_medium() { [ "$(spicebdctl status "${1##*/}" --json | jq '.medium != null')" = "$2" ]; }

cat >"$work/cdioctl.py" <<'PY'
# What a burning program asks first: one line "name value" each, or the error.
import errno, fcntl, os, sys
fd = os.open(sys.argv[1], os.O_RDONLY | os.O_NONBLOCK)
for name, cmd in (("drive", 0x5326), ("disc", 0x5327), ("changed", 0x5325),
                  ("again", 0x5325), ("capability", 0x5331)):
    try:
        print(name, fcntl.ioctl(fd, cmd, 0x7fffffff if cmd == 0x5326 else 0))
    except OSError as e:
        print(name, errno.errorcode[e.errno])
PY
cdioctl() { python3 "$work/cdioctl.py" "$1" | sed -n "s/^$2 //p"; }

make_iso "$work/disc.iso" 1
truncate -s 16M "$work/stick.img"
echo '2048,,L' | sfdisk -q "$work/stick.img"
mke2fs -q -F -t ext4 -L STICK -E offset=1048576 "$work/stick.img" 15M
iso_size=$(stat -c %s "$work/disc.iso")
iso_blocks=$((iso_size / 2048))

# Empty
for d in $cd $disk; do
	what=disk
	[ $d != $cd ] || what=cdrom
	for o in --getsize64 --getro --rereadpt; do
		fails "$what, empty: blockdev $o" "no medium" blockdev $o $d
	done
	prints "$what, empty: lsblk" "${d##*/} 1 0" sh -c "lsblk -bdnro NAME,RM,SIZE $d"
	run_tool blkid -p $d
	equal "$what, empty: blkid -p finds nothing" "$? $(cat "$work/out")" "2 "
	fails "$what, empty: fdisk -l" "no medium" fdisk -l $d
	fails "$what, empty: parted" "no medium" parted -s $d unit B print
	fails "$what, empty: mount" "no medium" mount $d "$mnt"
	fails "$what, empty: dd" "no medium" dd if=$d of=/dev/null count=1
	equal "$what, empty: udev knows no file system" "$(property $d ID_FS_TYPE)" ""
done
fails "cdrom, empty: cd-info" "No medium" cd-info --no-cddb --no-device-info -C $cd
fails "cdrom, empty: iso-info" "Error in opening" iso-info -i $cd
equal "cdrom, empty: CDROM_DRIVE_STATUS is no disc" "$(cdioctl $cd drive)" 1
equal "cdrom, empty: CDROM_DISC_STATUS is no disc" "$(cdioctl $cd disc)" 1
equal "cdrom, empty: udev: a drive" "$(property $cd ID_CDROM)" 1
equal "cdrom, empty: udev: without medium" "$(property $cd ID_CDROM_MEDIA)" ""

# The tray, by eject(1)
check "cdrom: eject opens the empty tray" eject $cd
equal "CDROM_DRIVE_STATUS is tray open" "$(cdioctl $cd drive)" 2
check "cdrom: eject -t closes it" eject -t $cd
equal "CDROM_DRIVE_STATUS is no disc again" "$(cdioctl $cd drive)" 1
autoclose=$(sysctl -n dev.cdrom.autoclose)
sysctl -qw dev.cdrom.autoclose=0
eject $cd
fails "autoclose off: an open finds no medium" "no medium" dd if=$cd of=/dev/null count=1
equal "and the tray stays open" "$(cdioctl $cd drive)" 2
sysctl -qw dev.cdrom.autoclose=1
fails "autoclose on: an open finds no medium" "no medium" dd if=$cd of=/dev/null count=1
equal "and has closed the tray" "$(cdioctl $cd drive)" 1
sysctl -qw dev.cdrom.autoclose="$autoclose"
fails "disk: eject -t is told that there is no tray" "eject:" eject -t $disk

# Filled
check "insert a CD" spicebdctl insert --cdrom "$work/disc.iso"
check "insert a disk" spicebdctl insert --disk --read-write "$work/stick.img"
idle $cd
idle $disk
prints "cdrom: blockdev --getsize64" "$iso_size" blockdev --getsize64 $cd
prints "cdrom: blockdev --getsz" "$((iso_size / 512))" blockdev --getsz $cd
prints "cdrom: blockdev --getro" 1 blockdev --getro $cd
prints "cdrom: blockdev --getss" 2048 blockdev --getss $cd
prints "cdrom: blockdev --getpbsz" 2048 blockdev --getpbsz $cd
fails "cdrom: blockdev --rereadpt: has no partitions" "invalid argument" blockdev --rereadpt $cd
check "cdrom: blockdev --flushbufs" blockdev --flushbufs $cd
prints "disk: blockdev --getsize64" $((16 << 20)) blockdev --getsize64 $disk
prints "disk: blockdev --getro" 0 blockdev --getro $disk
prints "disk: blockdev --getss" 512 blockdev --getss $disk
check "disk: blockdev --rereadpt" blockdev --rereadpt $disk
check "disk: blockdev --flushbufs" blockdev --flushbufs $disk
idle $disk
check "disk: its partition is there" await 30 test -b ${disk}p1

prints "cdrom: lsblk: removable, read-only, size" "spicebd0 1 1 $iso_size" \
	lsblk -bdnro NAME,RM,RO,SIZE $cd
prints "disk: lsblk: removable, writable, size" "spicebd1 1 0 $((16 << 20))" \
	lsblk -bdnro NAME,RM,RO,SIZE $disk
says "cdrom: lsblk -f" "spicebd0 +iso9660 .*SELFTEST" lsblk -f $cd
says "disk: lsblk -f" "spicebd1p1 +ext4 .*STICK" lsblk -f $disk
says "cdrom: lsblk: a model" "^.*[[:alpha:]]" lsblk -dno MODEL $cd
says "disk: lsblk: a model" "^.*[[:alpha:]]" lsblk -dno MODEL $disk
check "lsblk: a transport column" lsblk -dno TRAN $cd $disk
prints "cdrom: blkid -p" SELFTEST blkid -p -o value -s LABEL $cd
prints "cdrom: blkid, cached" iso9660 blkid -o value -s TYPE $cd
prints "disk: blkid -p of the partition" STICK blkid -p -o value -s LABEL ${disk}p1
prints "disk: blkid -p of the table" dos blkid -p -o value -s PTTYPE $disk
prints "blkid finds the label" $cd blkid -L SELFTEST

equal "cdrom: udev: a CD is in" "$(property $cd ID_CDROM_MEDIA)" 1
equal "cdrom: udev: file system and label" \
	"$(property $cd ID_FS_TYPE) $(property $cd ID_FS_LABEL)" "iso9660 SELFTEST"
equal "disk: udev: the partition's" \
	"$(property ${disk}p1 ID_FS_TYPE) $(property ${disk}p1 ID_FS_LABEL)" "ext4 STICK"
equal "cdrom: udev: the link by label" "$(readlink -f /dev/disk/by-label/SELFTEST)" $cd

says "disk: fdisk -l" "^${disk}p1 +2048 +32767 +30720 .*Linux" fdisk -l $disk
says "disk: fdisk -l: sectors" "Sector size.*512 bytes" fdisk -l $disk
says "disk: parted" "^1:1048576B:16777215B:15728640B:ext4" parted -s -m $disk unit B print
says "cdrom: fdisk -l" "spicebd0: .* $iso_size bytes" fdisk -l $cd

says "cdrom: cd-info: one data track" "^ +1: .* data " cd-info --no-cddb --no-device-info -C $cd
says "cdrom: iso-info: the volume" "Volume +: SELFTEST" iso-info -i $cd
says "cdrom: cd-info: where it ends" "^170: .* 0*$iso_blocks +leadout" \
	cd-info --no-cddb --no-device-info -C $cd
says "cdrom: cd-info: blocks and label" "^ISO 9660: $iso_blocks blocks, label .SELFTEST " \
	cd-info --no-cddb --no-device-info -C $cd
equal "CDROM_DRIVE_STATUS is a disc" "$(cdioctl $cd drive)" 4
equal "CDROM_DISC_STATUS is data, mode 1" "$(cdioctl $cd disc)" 101
equal "CDROM_MEDIA_CHANGED tells it once" "$(cdioctl $cd again)" 0
cap=$(cdioctl $cd capability)
# close, open, lock, media changed, drive status; neither audio nor burning
equal "CDROM_GET_CAPABILITY says what it can" $((cap & 0x887)) $((0x887))
equal "and not what it cannot" $((cap & 0x376100)) 0
says "the kernel's list of CD drives has it" "^drive name:.*spicebd0" cat /proc/sys/dev/cdrom/info
equal "disk: no CD ioctls" "$(cdioctl $disk drive) $(cdioctl $disk disc)" "ENOTTY ENOTTY"

equal "cdrom: dd reads it all" "$(dd if=$cd bs=64k status=none | md5sum)" \
	"$(md5sum <"$work/disc.iso")"
fails "cdrom: dd cannot write" "read-only|not permitted|No medium" dd if=/dev/zero of=$cd count=4
dd if=/dev/urandom of="$work/block" bs=64k count=1 status=none
check "disk: dd writes" dd if="$work/block" of=$disk bs=64k count=1 seek=10 conv=fsync
equal "disk: and it is in the file" "$(dd if="$work/stick.img" bs=64k skip=10 count=1 status=none | md5sum)" \
	"$(md5sum <"$work/block")"
idle $disk

# What is no SCSI and no ATA drive says so, and lives on.
for d in $cd $disk; do
	run_tool hdparm -I $d
	if [ $? -lt 124 ] && ! grep -q "Model Number" "$work/out"; then
		ok "$d: hdparm -I has nothing to tell"
	else
		tool_failed "hdparm -I $d" $? "no identity"
	fi
	says "$d: hdparm -r" "readonly" hdparm -r $d
	fails "$d: sg_inq" "inappropriate|not supported|failed" sg_inq $d
done
for o in -X "-x 4"; do
	# shellcheck disable=SC2086 # an option and its value
	run_tool eject $o $cd
	status=$?
	if [ $status -eq 0 ] || { [ $status -eq 1 ] && [ "$(wc -l <"$work/out")" -eq 1 ]; }; then
		ok "cdrom: eject $o: a number, or one line why not: $(head -n 1 "$work/out")"
	else
		not_ok "cdrom: eject $o"
	fi
done

# Mounts
check "mount by path" mount $cd "$mnt"
check "its files are right" sh -c "cd $mnt && md5sum --quiet -c $work/disc.iso.md5"
check "umount" umount "$mnt"
check "mount by label" mount LABEL=SELFTEST "$mnt"
equal "it is ours" "$(findmnt -no SOURCE "$mnt")" $cd
check "umount" umount "$mnt"
check "disk: mount by label" mount LABEL=STICK "$mnt"
equal "it is ours" "$(findmnt -no SOURCE "$mnt")" ${disk}p1
check "disk: write and umount" sh -c "echo hello >$mnt/hello && umount $mnt"
idle $cd
idle $disk

# The door
check "eject -i on" eject -i on $cd
fails "a locked door keeps the ioctl out" "busy" python3 -c "
import fcntl, os
fcntl.ioctl(os.open('$cd', os.O_RDONLY | os.O_NONBLOCK), 0x5309)"
check "eject -i off" eject -i off $cd
check "then it goes" python3 -c "
import fcntl, os
fcntl.ioctl(os.open('$cd', os.O_RDONLY | os.O_NONBLOCK), 0x5309)"
check "the medium is out" await 30 has_medium $cd false
udevadm settle --timeout 60
equal "udev forgets its file system" "$(property $cd ID_FS_TYPE)$(property $cd ID_FS_LABEL)" ""
equal "and its label's link is gone" "$(ls /dev/disk/by-label/SELFTEST 2>/dev/null)" ""
fails "disk: eject -i is told that there is no door" "eject:" eject -i on $disk

# eject unmounts first
check "insert it again" spicebdctl insert 0 "$work/disc.iso"
idle $cd
check "mount" mount $cd "$mnt"
says "cdrom: eject -v on a mounted drive: unmounts" "unmount" eject -v $cd
check "nothing is mounted" sh -c "! findmnt $mnt"
check "and the medium is out" await 30 has_medium $cd false
check "disk: mount" mount ${disk}p1 "$mnt"
says "disk: eject -v on its mounted drive: unmounts" "unmount" eject -v $disk
check "nothing is mounted" sh -c "! findmnt $mnt"
check "and the medium is out" await 30 has_medium $disk false
check "what was written is in the file" sh -c "debugfs -R 'cat hello' '$work/stick.img?offset=1048576' 2>/dev/null | grep -q hello"
done_testing
