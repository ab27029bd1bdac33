#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0-only
# The helper dies with writes in flight: its successor adopts the medium, the
# requests are sent again, nothing is lost.
# timeout: 800
. "$(dirname "$0")/lib.sh"

truncate -s 64M "$work/disk.img"
dev=$(spicebdctl insert --disk --read-write "$work/disk.img")
equal "insert" "$dev" /dev/spicebd1
generation=$(spicebdctl status 1 --json | jq .generation)
errors=$(spicebdctl status 1 --json | jq .stats.errors)

fio --name=v --filename="$dev" --rw=randwrite --bs=16k --size=64m --io_size=24m --direct=1 \
	--ioengine=libaio --iodepth=16 --verify=crc32c --verify_fatal=1 --verify_state_save=0 \
	--rate=4m --minimal >"$work/fio.log" 2>&1 &
fio=$!
kills=0
for _ in 1 2 3; do
	old=$(pgrep -o -x spicebdd)
	await 30 sh -c 'spicebdctl status 1 --json | jq -e ".state == \"ready\" and .stats.writes > 0"' || break
	kill -9 "$old" && kills=$((kills + 1))
	await 30 sh -c "n=\$(pgrep -o -x spicebdd) && [ \"\$n\" != $old ]" || break
done
wait $fio
status=$?
[ $status -eq 0 ] || sed 's/^/# /' "$work/fio.log"
equal "fio verifies everything" $status 0
equal "kills of spicebdd" $kills 3
await 30 sh -c 'spicebdctl status 1 --json | jq -e ".state == \"ready\""'
equal "no change of medium" "$(spicebdctl status 1 --json | jq .generation)" "$generation"
equal "no request failed" "$(spicebdctl status 1 --json | jq .stats.errors)" "$errors"
check "eject" spicebdctl eject 1
done_testing
