#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0-only
# A medium 20 ms away: measured, read ahead, cached, and never a byte of another
# medium or of an older state of it, whatever ends while blocks are on their way.
# timeout: 300
. "$(dirname "$0")/farlib.sh"

make_iso "$work/a.iso" 6
mkdir "$work/mnt"

# Mounted and read, with everything as it is by default.
far ro -r file "$work/a.iso"
equal "a read-only server far away" "$(spicebdctl insert 0 "$uri")" /dev/spicebd0
check "the round trip is measured" holds 0 '.medium.path."round-trip-us" >= 20000'
check "the read-ahead follows" holds 0 '.medium."read-ahead" >= 1048576'
equal "and is the kernel's" "$(cat /sys/block/spicebd0/queue/read_ahead_kb)" \
	"$(($(status 0 '.medium."read-ahead"') / 1024))"
check "it has a cache" holds 0 '.medium.cache.limit == 67108864'
check "it is mounted" mount -o ro -t iso9660 /dev/spicebd0 "$work/mnt"
check "all its files are right" sh -c "cd '$work/mnt' && md5sum --quiet -c '$work/a.iso.md5'"
check "more reads were foreseen than not" holds 0 '.medium.cache | .hits + .joined > .misses'
check "and little was in vain" holds 0 '.medium.cache.wasted < 2097152'
check "status tells" sh -c "spicebdctl status 0 | grep -q 'round trip'"
umount "$work/mnt"
check "ejected" spicebdctl eject 0
equal "the kernel's own read-ahead is back" "$(cat /sys/block/spicebd0/queue/read_ahead_kb)" 128

# Another medium of the same size, while blocks of the old one are coming.
size=$(stat -c %s "$work/a.iso")
head -c "$size" /dev/urandom >"$work/b.img"
far other -r file "$work/b.img"
other=$uri
stale=0
for i in 1 2 3; do
	spicebdctl insert --disk "nbd+unix:///?socket=$work/ro.far" >/dev/null || stale=insert
	dd if=/dev/spicebd1 iflag=direct of=/dev/null bs=4k count=$((i * 8)) status=none || stale=read
	before=$(date +%s%N)
	spicebdctl insert 1 --force --disk "$other" >/dev/null || stale=change
	[ $((($(date +%s%N) - before) / 1000000)) -lt 8000 ] || stale=slow
	same /dev/spicebd1 "$work/b.img" bs=16k count=64 || stale=content
	spicebdctl eject 1 --force >/dev/null || stale=eject
done
equal "three changes of medium with blocks under way: never a stale byte" "$stale" 0
kill "$proxy" "$server"

# Fetching ahead runs into errors: they are nobody's until he asks.
good=$((1048576 + 20480))
far bad eval get_size='echo 4194304' pwrite='exit 1' \
	pread="[ \$((\$3 + \$4)) -le $good ] || { echo EIO bad sector >&2; exit 1; }; dd if='$work/b.img' iflag=skip_bytes,count_bytes skip=\$4 count=\$3 status=none"
check "a medium with bad sectors" spicebdctl insert --disk --read-only "$uri" --cache 2M
udevadm settle
errors=$(status 1 .stats.errors)
check "all of it that is good, up to the last sector" \
	same /dev/spicebd1 "$work/b.img" bs=4096 count=$((good / 4096))
equal "no request failed" "$(status 1 .stats.errors)" "$errors"
check "what is bad is an error" sh -c "! dd if=/dev/spicebd1 iflag=direct bs=4096 skip=$((good / 4096)) count=1 of=/dev/null 2>/dev/null"
check "beside it all is good still" \
	same /dev/spicebd1 "$work/b.img" bs=4096 skip=$((good / 4096 - 2)) count=2
check "ejected" spicebdctl eject 1
kill "$proxy" "$server"

# A plain server is lost and comes back with the same export, which somebody
# wrote to where no fingerprint is taken.
cp "$work/b.img" "$work/c.img"
far back -r file "$work/c.img"
check "a server that will be lost" spicebdctl insert --disk --read-only "$uri" --cache 4M
check "read" same /dev/spicebd1 "$work/b.img" bs=4k skip=40 count=64
check "cached" same /dev/spicebd1 "$work/b.img" bs=4k skip=40 count=64
dd if=/dev/spicebd1 iflag=direct bs=4k skip=200 of=/dev/null status=none &
reader=$!
kill -9 "$server"
check "it is lost" await 20 is 1 .state reconnecting
head -c 4096 /dev/zero | dd of="$work/c.img" bs=4k seek=50 conv=notrunc status=none
nbd_server "$work/back" -r file "$work/c.img"
server=$pid
wait $reader
equal "a reader goes on" $? 0
check "what was cached is read anew" same /dev/spicebd1 "$work/c.img" bs=4k skip=40 count=64
check "ejected" spicebdctl eject 1
kill "$proxy" "$server"

done_testing
