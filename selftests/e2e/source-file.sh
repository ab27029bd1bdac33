#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0-only
# A local file and a local folder as source: no network, no client.
# timeout: 800
. "$(dirname "$0")/lib.sh"

truncate -s 64M "$work/disk.img"
dev=$(spicebdctl insert --disk --read-write "$work/disk.img")
equal "insert of a file prints the node" "$dev" /dev/spicebd1
io_matrix "file" "$dev"
fio --name=w --filename="$dev" --rw=write --bs=256k --size=8m --direct=1 --minimal >/dev/null
sum=$(dd if="$dev" bs=1M count=8 iflag=direct 2>/dev/null | md5sum)
check "eject" spicebdctl eject spicebd1
equal "what was written is in the file" "$(head -c 8M "$work/disk.img" | md5sum)" "$sum"

make_iso "$work/disc.iso" 12
dev=$(spicebdctl insert "$work/disc.iso")
equal "an ISO goes into the CD drive by itself" "$dev" /dev/spicebd0
equal "it is read-only" "$(blockdev --getro "$dev")" 1
equal "2048-byte blocks" "$(blockdev --getss "$dev")" 2048
equal "the whole ISO is equal" "$(md5sum <"$dev")" "$(md5sum <"$work/disc.iso")"
mkdir -p "$work/mnt"
check "mount" mount -o ro "$dev" "$work/mnt"
check "every file of it is equal" sh -c "cd '$work/mnt' && md5sum --quiet -c '$work/disc.iso.md5'"
check "umount" umount "$work/mnt"
check "eject of the ISO" spicebdctl eject spicebd0

mkdir -p "$work/folder/sub"
cp /usr/bin/ls /usr/bin/env "$work/folder/"
cp /usr/bin/stat "$work/folder/sub/"
ln -s /etc/shadow "$work/folder/secret"
dev=$(spicebdctl insert "$work/folder")
equal "a folder is a CD" "$dev" /dev/spicebd0
check "mount of the folder" mount -o ro "$dev" "$work/mnt"
check "its files are equal" cmp /usr/bin/stat "$work/mnt/sub/stat"
if [ -L "$work/mnt/secret" ] || [ ! -e "$work/mnt/secret" ]; then
	ok "a symbolic link in it is not followed"
else
	not_ok "a symbolic link in it is not followed"
fi
check "umount of the folder" umount "$work/mnt"
check "eject of the folder" spicebdctl eject "$dev"

dev=$(spicebdctl insert --disk "$work/folder")
equal "a folder is a stick when asked for" "$dev" /dev/spicebd1
part=$dev
[ -b "${dev}p1" ] && part=${dev}p1
check "mount of the FAT folder" mount -o ro "$part" "$work/mnt"
check "its files are equal, too" cmp /usr/bin/env "$work/mnt/env"
check "umount of the FAT folder" umount "$work/mnt"
check "eject of the FAT folder" spicebdctl eject "$dev"

truncate -s 32M "$work/parts.img"
printf 'label: dos\nstart=2048, size=16384, type=83\nstart=20480, type=83\n' | sfdisk -q "$work/parts.img"
dev=$(spicebdctl insert --disk "$work/parts.img")
equal "partitions are there as soon as insert has answered" \
	"$(cd /sys/block/spicebd1 && echo spicebd1p*)" "spicebd1p1 spicebd1p2"
check "eject of the partitioned one" spicebdctl eject "$dev"
equal "and are gone with the medium" "$(cd /sys/block/spicebd1 && echo spicebd1p*)" "spicebd1p*"
done_testing
