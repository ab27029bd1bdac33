#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0-only
# A medium 20 ms away, as it is told to be: sizes of cache and read-ahead, a file
# of our own whose server dies, near media, and such as are written to.
# timeout: 300
. "$(dirname "$0")/farlib.sh"

head -c 8M /dev/urandom >"$work/c.img"
far ro -r file "$work/c.img"

# As it is told to be.
check "a small cache, a fixed read-ahead" \
	spicebdctl insert --disk "$uri" --cache 1M --read-ahead 512K
equal "its read-ahead" "$(cat /sys/block/spicebd1/queue/read_ahead_kb)" 512
check "all of it, 32 KiB at a time" same /dev/spicebd1 "$work/c.img" bs=32k
check "the cache keeps its bound" holds 1 '.medium.cache | .used <= 1048576 and .prefetched > 4194304'
check "ejected" spicebdctl eject 1
check "none of both" spicebdctl insert --disk "$uri" --cache off --read-ahead off
check "there is no cache" holds 1 '.medium.cache == null and .medium.path == null'
equal "nor another read-ahead" "$(cat /sys/block/spicebd1/queue/read_ahead_kb)" 128
check "ejected" spicebdctl eject 1
refused "nonsense" "cache.*auto.*off" spicebdctl insert --disk "$uri" --cache much

# A file of our own: it is the same store, so what was fetched stays.
check "a local file with a cache" spicebdctl insert --disk --read-only "$work/c.img" --cache 4M
check "read" same /dev/spicebd1 "$work/c.img" bs=4k count=256
used=$(status 1 .medium.cache.used)
kill -9 "$(pgrep -x nbdkit -n)"
check "its server dies and comes back" await 20 sh -c "spicebdctl status 1 --json | jq -e '.state == \"ready\" and .medium.link.connections > 0'"
check "what was fetched is still there" holds 1 ".medium.cache.used >= $used and $used > 0"
check "and right" same /dev/spicebd1 "$work/c.img" bs=4k count=256
check "ejected" spicebdctl eject 1

# Not for a near one, and never for one that is written to.
check "a near server" spicebdctl insert --disk "nbd+unix:///?socket=$work/ro" --cache auto
check "has no cache unless it takes long to answer" \
	holds 1 '.medium.cache == null or .medium.path."round-trip-us" >= 2000'
check "ejected" spicebdctl eject 1
far rw memory 16M
check "a writable server far away" spicebdctl insert --disk --read-write "$uri"
check "is measured, not cached" holds 1 '.medium.path != null and .medium.cache == null'
check "written and flushed" dd if="$work/c.img" of=/dev/spicebd1 bs=1M count=4 conv=fsync status=none
check "and read back" same /dev/spicebd1 "$work/c.img" bs=1M count=4
check "ejected" spicebdctl eject 1
refused "a cache for one that is written to" "read-only" \
	spicebdctl insert --disk --read-write "$uri" --cache 4M

done_testing
