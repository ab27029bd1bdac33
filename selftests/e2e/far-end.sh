#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0-only
# The far end dies, hangs, comes back the same or another; the helper is stopped
# in order, killed, frozen. What may go on goes on, what may not ends with errors.
# timeout: 900
. "$(dirname "$0")/lib.sh"

status() { spicebdctl status "$1" --json | jq -r "$2"; }
is() { [ "$(status "$1" "$2")" = "$3" ]; }
uri() { echo "nbd+unix:///?socket=$work/$1"; }
serve() { nbd_server "$work/$1" "${@:2}"; }
end_server() { kill -9 "$1"; wait "$1" 2>/dev/null; }
restarted() { local n; n=$(pgrep -o -x spicebdd) && [ "$n" != "$1" ]; }
writes() {
	fio --name=v --filename="$1" --rw=randwrite --bs=16k --size=32m --io_size=12m --direct=1 \
		--ioengine=libaio --iodepth=16 --verify=crc32c --verify_fatal=1 --verify_state_save=0 \
		--rate="${2:-4m}" --minimal >"$work/fio.log" 2>&1 &
	fio=$!
	local before
	before=$(status "${1: -1}" .stats.writes)
	await 30 sh -c "[ \$(spicebdctl status ${1: -1} --json | jq .stats.writes) -gt $((before + 20)) ]"
}

# A local file: its server is killed under load, and fenced.
truncate -s 32M "$work/disk.img"
equal "a file" "$(spicebdctl insert --disk --read-write "$work/disk.img")" /dev/spicebd1
errors=$(status 1 .stats.errors)
writes /dev/spicebd1
kill -9 "$(pgrep -x nbdkit)"
wait $fio
equal "its server is killed: fio verifies everything" $? 0
equal "no request failed" "$(status 1 .stats.errors)" "$errors"
generation=$(status 1 .generation)
writes /dev/spicebd1
kill -9 "$(pgrep -x spicebd-nbdkit)"
wait $fio
equal "its server's parent is killed: fio verifies everything" $? 0
old=$(pgrep -o -x spicebdd)
kill -9 "$old"
check "spicebdd is killed, and is back" await 30 restarted "$old"
check "it took over" await 30 is 1 .state ready
writes /dev/spicebd1
kill -9 "$(pgrep -x spicebd-nbdkit)"
wait $fio
equal "the parent once more: fio verifies everything" $? 0
equal "still no request failed" "$(status 1 .stats.errors)" "$errors"
equal "the same medium all the time" "$(status 1 .generation)" "$generation"
check "eject" spicebdctl eject 1
check "no server is left" await 30 sh -c '! pgrep -x spicebd-nbdkit && ! pgrep -x nbdkit'
equal "nor a descriptor of the file" "$(find "/proc/$(pgrep -o -x spicebdd)/fd" -lname "$work/disk.img" | wc -l)" 0

# A folder: its image is what is kept.
mkdir "$work/folder"
head -c 3M /dev/urandom >"$work/folder/data"
check "a folder" spicebdctl insert --cdrom "$work/folder"
sum=$(md5sum </dev/spicebd0)
generation=$(status 0 .generation)
touch "$work/folder/another"
for victim in nbdkit spicebd-nbdkit; do
	old=$(pgrep -x $victim)
	kill -9 "$old"
	check "its $victim is killed, and another serves" await 30 sh -c "n=\$(pgrep -x $victim) && [ \$n != $old ]"
	check "it is ready" await 30 is 0 .state ready
	echo 3 >/proc/sys/vm/drop_caches
	equal "its image is what it was" "$(md5sum </dev/spicebd0)" "$sum"
done
equal "the same medium" "$(status 0 .generation)" "$generation"
await 20 is 0 .openers 0
check "eject" spicebdctl eject 0

# A plain server, read-only: the same comes back, then another.
head -c 16M /dev/urandom >"$work/a.img"
head -c 16M /dev/urandom >"$work/b.img"
serve ro -r file "$work/a.img"
equal "a read-only server" "$(spicebdctl insert --disk "$(uri ro)")" /dev/spicebd1
generation=$(status 1 .generation)
end_server "$pid"
check "its loss is seen" await 20 is 1 .state reconnecting
dd if=/dev/spicebd1 of=/dev/null bs=64k count=1 iflag=direct 2>"$work/dd" &
reader=$!
serve ro -r file "$work/a.img"
wait $reader
equal "the same comes back: a read that waited succeeds" $? 0
equal "it is the same medium" "$(status 1 .generation)" "$generation"
end_server "$pid"
check "lost again" await 20 is 1 .state reconnecting
exec 7</dev/spicebd1
serve ro -r file "$work/b.img" 7<&-	# the server is not to have the drive open
check "another one comes instead: the medium is ejected" await 30 is 1 .medium null
check "and the reason is told" sh -c 'spicebdctl status 1 --json | jq -e ".reason | test(\"another\")"'
equal "who has the old one open reads nothing" "$(dd bs=4k count=1 status=none <&7 2>/dev/null | wc -c)" 0
exec 7<&-
check "once nobody has it open, the new one appears" await 60 is 1 .state ready
equal "with its own content" "$(md5sum </dev/spicebd1)" "$(md5sum <"$work/b.img")"
if [ "$(status 1 .generation)" != "$generation" ]; then ok "as another one"; else not_ok "as another one"; fi
await 20 is 1 .openers 0
check "eject" spicebdctl eject 1
end_server "$pid"

# A plain server, writable: what was under way cannot be sent again.
serve rw memory 32M
check "a writable server" spicebdctl insert 1 --read-write "$(uri rw)"
end_server "$pid"
check "lost with nothing under way" await 20 is 1 .state reconnecting
serve rw memory 32M
check "it goes on" await 20 is 1 .state ready
check "write" dd if=/dev/zero of=/dev/spicebd1 bs=64k count=4 oflag=direct
end_server "$pid"
await 20 is 1 .state reconnecting
serve rw memory 32M
check "lost with acknowledged writes: it goes on" await 20 is 1 .state ready
if python3 -c 'import os; os.fsync(os.open("/dev/spicebd1", os.O_RDWR))' 2>/dev/null; then
	not_ok "but the next flush fails"
else
	ok "but the next flush fails"
fi
check "and the one after it does not" python3 -c 'import os; os.fsync(os.open("/dev/spicebd1", os.O_RDWR))'
check "its eject" spicebdctl eject 1
end_server "$pid"

serve slow --filter=delay memory 32M delay-write=6
check "a slow writable server" spicebdctl insert 1 --read-write "$(uri slow)"
dd if=/dev/zero of=/dev/spicebd1 bs=4k count=1 oflag=direct 2>/dev/null &
writer=$!
await 10 sh -c '[ "$(spicebdctl status 1 --json | jq ".\"in-flight\"")" -gt 0 ]'
end_server "$pid"
serve slow memory 32M
if wait $writer; then
	not_ok "lost with a write under way: it fails"
else
	ok "lost with a write under way: it fails"
fi
check "and the medium is out" await 20 is 1 .medium null

# The helper: ended in order, killed, frozen.
old=$(pgrep -o -x spicebdd)
check "a writable server again" spicebdctl insert 1 --read-write "$(uri slow)"
check "write" dd if=/dev/urandom of=/dev/spicebd1 bs=64k count=4 oflag=direct
generation=$(status 1 .generation)
kill -TERM "$old"
check "spicebdd ends in order" await 30 sh -c "! kill -0 $old"
check "asked for, its successor takes over" await 30 is 1 .state ready
check "a flush still succeeds" python3 -c 'import os; os.fsync(os.open("/dev/spicebd1", os.O_RDWR))'
old=$(pgrep -o -x spicebdd)
await 5 is 1 .openers 0
kill -9 "$old"
check "spicebdd is killed idle, and is back" await 30 restarted "$old"
check "it took over again" await 30 is 1 .state ready
equal "the same medium all the time" "$(status 1 .generation)" "$generation"
check "ejected" spicebdctl eject 1
end_server "$pid"

dev=$(spicebdctl add disk --stall-timeout 3)
check "a file in a drive with a stall limit of 3 s" spicebdctl insert 2 --read-write "$work/disk.img"
old=$(pgrep -o -x spicebdd)
writes /dev/spicebd2 1m
kill -STOP "$old"
await 30 sh -c '[ "$(spicebdctl status 2 --json | jq -r .helper)" = lost ]'
equal "a frozen helper loses the drive" $? 0
kill -CONT "$old"
wait $fio
status_of_fio=$?
[ $status_of_fio -eq 0 ] || sed 's/^/# /' "$work/fio.log"
equal "thawed, it takes the drive up again: fio verifies everything" $status_of_fio 0
equal "the same process" "$(pgrep -o -x spicebdd)" "$old"
check "eject" spicebdctl eject 2
check "del" spicebdctl del 2

# A server that hangs: seen, and the force eject does not wait for it.
serve hang -r memory 32M
check "a server" spicebdctl insert 1 "$(uri hang)"
kill -STOP "$pid"
dd if=/dev/spicebd1 of=/dev/null bs=4k count=1 iflag=direct 2>"$work/dd" &
reader=$!
check "its silence is seen" await 20 is 1 .state reconnecting
began=$(date +%s%N)
check "eject --force" spicebdctl eject --force 1
ms=$((($(date +%s%N) - began) / 1000000))
if [ $ms -lt 2000 ]; then ok "took $ms ms"; else not_ok "took $ms ms"; fi
# It may have been waiting in its open, and then it finds an empty drive.
wait $reader
check "the reader ends, with nothing" grep -Eq "Input/output error|No medium|^0 bytes" "$work/dd"
kill -CONT "$pid"

# Somebody at the host presses the button.
make_iso "$work/disc.iso" 2
check "a disc" spicebdctl insert --cdrom "$work/disc.iso"
await 20 is 0 .openers 0
check "eject(1)" eject /dev/spicebd0
check "the medium is out" await 10 is 0 .medium null
check "its server has ended" await 20 sh -c '! pgrep -x spicebd-nbdkit'
done_testing
