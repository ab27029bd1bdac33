#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0-only
# A plain NBD server as source of a writable medium, and of a read-only one.
# timeout: 800
. "$(dirname "$0")/lib.sh"

nbd_server "$work/nbd" memory 64M || { not_ok "nbdkit starts"; done_testing; }
uri="nbd+unix:///?socket=$work/nbd"

dev=$(spicebdctl insert --disk --read-write "$uri")
equal "insert prints the device node" "$dev" /dev/spicebd1
equal "the medium's size" "$(blockdev --getsize64 "$dev")" $((64 << 20))
equal "it is writable" "$(blockdev --getro "$dev")" 0
io_matrix "nbd+unix" "$dev"
check "discard" blkdiscard --offset 1M --length 8M "$dev"
check "discarded blocks read as the server's zeroes" cmp -n $((8 << 20)) -i $((1 << 20)):0 "$dev" /dev/zero
check "write zeroes" blkdiscard --zeroout --offset 16M --length 4M "$dev"
check "zeroed blocks are zero" cmp -n $((4 << 20)) -i $((16 << 20)):0 "$dev" /dev/zero
check "mkfs.ext4" mke2fs -q -t ext4 -F "$dev"
mkdir -p "$work/mnt"
check "mount" mount "$dev" "$work/mnt"
check "copy a tree" cp -r /etc/systemd "$work/mnt/"
check "umount" umount "$work/mnt"
check "fsck" e2fsck -fn "$dev"
check "eject" spicebdctl eject "$dev"
equal "empty afterwards" "$(blockdev --getsize64 /dev/spicebd1 2>&1 | grep -c 'No medium')" 1

dev=$(spicebdctl insert --disk --read-only "$uri")
equal "read-only when asked for" "$(blockdev --getro "$dev")" 1
if dd if=/dev/zero of="$dev" bs=512 count=1 oflag=direct 2>/dev/null; then
	not_ok "a write to a read-only medium is refused"
else
	ok "a write to a read-only medium is refused"
fi
check "eject of the read-only one" spicebdctl eject "$dev"

nbd_server "$work/odd" memory 10000001
refused "a size that is no multiple of 512 is refused, nothing cut off" "multiple of 512" \
	spicebdctl insert --disk "nbd+unix:///?socket=$work/odd"

# Two neighbours' read-modify-writes could lose one: the filter has a lock for that.
nbd_server "$work/4k" --filter=blocksize-policy memory 8M blocksize-minimum=4096 \
	blocksize-preferred=4096 blocksize-maximum=1M blocksize-error-policy=error
refused "a server of larger blocks is refused, and what helps is told" \
	"smallest block is 4096 .*nbdkit.*--filter=blocksize nbd" \
	spicebdctl insert --disk "nbd+unix:///?socket=$work/4k"
nbd_server "$work/512" --filter=blocksize nbd "uri=nbd+unix:///?socket=$work/4k"
dev=$(spicebdctl insert --disk --read-write "nbd+unix:///?socket=$work/512")
equal "through nbdkit's filter it is taken" "$dev" /dev/spicebd1
check "with blocks of 512 bytes, none of them lost" selftests/e2e/iomodel "$dev" --ops 60 \
	--jobs 4 --max 65536 --direct
check "eject" spicebdctl eject "$dev"
done_testing
