#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0-only
# spicebdd is stopped (SIGSTOP): the kernel takes the drives from it when their
# stall timeout is over, holds the requests, and spicebdd takes them up again when
# it goes on. Whatever is forced meanwhile is done at once, and del --force says
# who is left. The module can be removed and loaded under a spicebdd that runs.
# timeout: 900
. "$(dirname "$0")/lib.sh"

mkfs_image() {
	truncate -s 64M "$1"
	mkfs.ext4 -q -F "$1"
}
status() { spicebdctl status "$1" --json | jq -e "$2"; }
sysfs() { cat "/sys/block/spicebd$1/spicebd/$2"; }
daemon() { pgrep -o -x spicebdd; }
# forced NAME COMMAND…: it ends, and how long it took, which a busy machine spoils
forced() {
	local name=$1 began ms
	shift
	began=$(date +%s%N)
	check "$name" timeout 60 "$@"
	ms=$((($(date +%s%N) - began) / 1000000))
	echo "# $ms ms"
	if [ $ms -lt 15000 ]; then ok "$name: at once"; else not_ok "$name: took $ms ms"; fi
}

truncate -s 64M "$work/disk.img"
dev=$(spicebdctl add disk --stall-timeout 3 --reconnect-timeout 300)
equal "a drive with a short stall timeout" "$dev" /dev/spicebd2
check "insert" spicebdctl insert 2 --read-write "$work/disk.img"
generation=$(sysfs 2 generation)
fio --name=v --filename="$dev" --rw=randwrite --bs=16k --size=64m --io_size=16m --direct=1 \
	--ioengine=libaio --iodepth=16 --verify=crc32c --verify_fatal=1 --verify_state_save=0 \
	--rate=2m --minimal >"$work/fio.log" 2>&1 &
fio=$!
for _ in 1 2; do
	check "writes are under way" await 60 sh -c "[ \$(cat /sys/block/spicebd2/spicebd/writes) -gt 20 ]"
	kill -STOP "$(daemon)"
	# fio may have written all by now
	background dd if="$dev" of=/dev/null bs=4k count=1 iflag=direct status=none
	check "a stopped helper is unbound" await 60 grep -qx lost /sys/block/spicebd2/spicebd/helper
	check "and what it had is held" await 60 sh -c "[ \$(cat /sys/block/spicebd2/spicebd/held) -gt 0 ]"
	kill -CONT "$(daemon)"
	check "it takes the drive up again" await 60 status 2 '.state == "ready"'
done
wait $fio
status=$?
[ $status -eq 0 ] || sed 's/^/# /' "$work/fio.log"
equal "fio verifies everything" $status 0
equal "the same medium" "$(sysfs 2 generation)" "$generation"
equal "no request failed" "$(sysfs 2 errors)" 0
check "eject" spicebdctl eject 2

# By force, while it is stopped.
mkfs_image "$work/fs.img"
mkdir "$work/mnt"
check "insert a file system" spicebdctl insert 2 --read-write "$work/fs.img"
check "mount it" mount "$dev" "$work/mnt"
exec 7>"$work/mnt/open"
kill -STOP "$(daemon)"
forced "eject --force, helper stopped, mounted" spicebdctl eject --force 2
exec 7>&-
umount "$work/mnt"
check "nobody has it" await 60 grep -qx 0 /sys/block/spicebd2/spicebd/openers
forced "eject --force of an empty drive" spicebdctl eject --force 2
kill -CONT "$(daemon)"
check "spicebdd knows" await 60 status 2 '.medium == null'
check "insert again" spicebdctl insert 2 --read-write "$work/disk.img"
exec 7<"$dev"
kill -STOP "$(daemon)"
forced "del --force, helper stopped, open" sh -c "spicebdctl del --force 2 >$work/del"
kill -CONT "$(daemon)"
sed 's/^/# /' "$work/del"
check "it names who has it" grep -q "removed; .*PID $$ (" "$work/del"
check "the module cannot go" sh -c "! modprobe -r spicebd 2>/dev/null"
exec 7<&-
check "spicebdd knows" await 60 sh -c "! spicebdctl status 2"
spicebdctl add disk >/dev/null
udevadm settle
check "nobody looks at a new drive" await 60 grep -qx 0 /sys/block/spicebd2/spicebd/openers
equal "del of an unused drive says no more" "$(spicebdctl del --force 2)" "spicebd2 is removed"

# The module goes and comes back, with a medium in a drive that nobody has open.
check "insert" spicebdctl insert 1 "$work/disk.img"
check "nobody has it open" await 60 grep -qx 0 /sys/block/spicebd1/spicebd/openers
old=$(daemon)
check "the module goes, though a helper is attached" await 60 modprobe -r spicebd
check "spicebdd is still there" kill -0 "$old"
check "it comes back" modprobe spicebd drives=disk,cdrom,disk
check "spicebdd begins anew" await 60 sh -c "p=\$(pgrep -o -x spicebdd) && [ \$p != $old ]"
check "with the new drives" await 60 sh -c \
	"[ \"\$(spicebdctl list --json | jq -c '[.[] | .personality]')\" = '[\"disk\",\"cdrom\",\"disk\"]' ]"
equal "which are empty" "$(spicebdctl list --json | jq -c '[.[] | .medium]')" '[null,null,null]'
check "the old medium's server is gone" await 60 sh -c '! pgrep -x nbdkit'
check "insert" spicebdctl insert 2 --read-write "$work/disk.img"
check "and write" dd if=/dev/zero of=/dev/spicebd2 bs=1M count=4 oflag=direct status=none
check "eject" spicebdctl eject 2

# As the next test expects to find it.
check "the module goes again" await 60 modprobe -r spicebd
check "and comes back" modprobe spicebd
check "with the usual drives" await 60 sh -c \
	"[ \"\$(spicebdctl list --json | jq -c '[.[] | .personality]')\" = '[\"cdrom\",\"disk\"]' ]"
done_testing
