#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0-only
# The machine goes towards sleep, as far as stopping every process, with media
# mounted, written and read: nothing is lost, nothing hangs, no medium changes.
# timeout: 900
. "$(dirname "$0")/lib.sh"

if [ ! -e /sys/power/pm_test ]; then
	skip "suspend" "this kernel has no CONFIG_PM_DEBUG"
	done_testing
fi
echo freezer >/sys/power/pm_test
echo 3 >/sys/module/suspend/parameters/pm_test_delay

# sleeps STATE: so far and back; 0, or 1 if it was refused
sleeps() {
	echo "$1" 2>/dev/null >/sys/power/state
}

changes() {
	spicebdctl status "$1" --json | jq '[.generation, .stats.errors]' -c
}

# files_of DIR: all its checksums
files_of() {
	(cd "$1" && find . -type f -exec md5sum {} + | sort -k2)
}

check "listen" spice_listen
make_iso "$work/disc.iso" 24
truncate -s 96M "$work/stick.img"
mkfs.ext4 -q -E lazy_itable_init=0,lazy_journal_init=0 "$work/stick.img"
share --read-write "$work/disc.iso" "$work/stick.img"
check "both media are offered" await 60 offered disc.iso stick.img
check "insert the disc" spicebdctl insert spice:disc.iso
check "insert the stick" spicebdctl insert spice:stick.img --read-write
mkdir -p "$work/disc" "$work/stick"
check "mount the disc" mount -o ro /dev/spicebd0 "$work/disc"
check "mount the stick" mount /dev/spicebd1 "$work/stick"
want=$(files_of "$work/disc")
before="$(changes 0) $(changes 1)"

for state in freeze disk; do
	dd if=/dev/urandom of="$work/stick/$state" bs=64k count=32 2>/dev/null
	sum=$(md5sum <"$work/stick/$state")
	check "idle, $state" sleeps "$state"
	echo 3 >/proc/sys/vm/drop_caches
	equal "what was written before, $state" "$(md5sum <"$work/stick/$state")" "$sum"
	equal "the disc's files, $state" "$(files_of "$work/disc" | md5sum)" "$(md5sum <<<"$want")"
done
equal "no change of medium, no error" "$(changes 0) $(changes 1)" "$before"

# Under way: it may be refused, since who waits for a drive cannot be stopped.
fio --name=v --directory="$work/stick" --rw=randwrite --bsrange=4k-64k --size=16m --direct=1 \
	--ioengine=libaio --iodepth=8 --verify=crc32c --verify_fatal=1 --verify_state_save=0 \
	--time_based --runtime=40 --minimal >"$work/fio.log" 2>&1 &
fio=$!
await 60 sh -c 'spicebdctl status 1 --json | jq -e ".stats.writes > 0"'
slept=0 tried=0
while kill -0 $fio 2>/dev/null && [ $tried -lt 4 ]; do
	! sleeps freeze || slept=$((slept + 1))
	tried=$((tried + 1))
	check "the drive answers after attempt $tried" \
		timeout 60 dd if=/dev/spicebd1 of=/dev/null bs=4k count=1 iflag=direct
done
echo "# slept $slept times of $tried"
wait $fio
status=$?
[ $status -eq 0 ] || sed 's/^/# /' "$work/fio.log"
equal "fio verifies everything" $status 0
equal "no change of medium, no error, under load" "$(changes 0) $(changes 1)" "$before"

# The client's machine stops answering: named, within seconds. Else the kernel syncs
# before it asks anybody, and waits for the far end with that.
echo 0 >/sys/power/sync_on_suspend
kill -STOP "$share_pid"
check "the drive waits" await 60 sh -c \
	'spicebdctl status 1 --json | jq -e ".state == \"reconnecting\""'
dmesg -C
if sleeps freeze; then
	not_ok "a drive that reconnects keeps the machine awake"
else
	ok "a drive that reconnects keeps the machine awake"
fi
check "and is named" sh -c 'dmesg | grep "spicebd1: .*cannot sleep"'
echo 1 >/sys/power/sync_on_suspend
kill -CONT "$share_pid"
check "it is back" await 120 sh -c \
	'spicebdctl status 1 --json | jq -e ".state == \"ready\""'
check "the machine can sleep again" sleeps freeze
check "umount" umount "$work/disc" "$work/stick"
check "fsck" fsck.ext4 -fn /dev/spicebd1
check "eject" sh -c "spicebdctl eject 0 && spicebdctl eject 1"
done_testing
