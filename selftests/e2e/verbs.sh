#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0-only
# list, status, add, del, monitor, --json and --help; with the daemon and
# without it.
# timeout: 600
. "$(dirname "$0")/lib.sh"

equal "two drives at first" "$(spicebdctl list --json | jq -c '[.[] | [.drive, .personality]]')" \
	'[["spicebd0","cdrom"],["spicebd1","disk"]]'
for v in insert change eject open close remove lock unlock freeze thaw release list status add del monitor top metrics listen unlisten media; do
	check "$v --help" sh -c "spicebdctl $v --help | grep -q 'spicebdctl $v'"
done

spicebdctl monitor --json >"$work/monitor" &
pids+=($!)
await 10 grep -q monitoring "$work/monitor"
got=$(spicebdctl add disk --json)
equal "add prints the drive" "$(jq -r .device <<<"$got")" /dev/spicebd2
check "the node is there" test -b /dev/spicebd2
check "the event comes" await 10 grep -q spicebd2 "$work/monitor"
truncate -s 16M "$work/a.img"
equal "insert into it by number" "$(spicebdctl insert 2 "$work/a.img")" /dev/spicebd2
equal "status says so" "$(spicebdctl status spicebd2 --json | jq -r .medium.size)" $((16 << 20))
check "status for people" sh -c "spicebdctl status spicebd2 | grep -q a.img"

sh -c 'while dd if=/dev/spicebd2 of=/dev/null bs=64k iflag=direct 2>/dev/null; do :; done' &
reader=$!
pids+=($reader)
spicebdctl top --count 2 --interval 2 --json >"$work/top"
check "top sees a reader" jq -se 'map(select(.drive == "spicebd2")) | length == 2 and
	all(."read-bytes-per-second" > 0 and ."requests-per-second" > 0 and ."latency-ms" > 0
	and .queue > 0 and ."write-bytes-per-second" == 0 and .errors == 0)' "$work/top"
check "and nothing of another drive" jq -se 'map(select(.drive == "spicebd0")) | length == 2 and
	all(."read-bytes-per-second" == 0 and .state == "empty")' "$work/top"
spicebdctl top --count 1 --interval 2 >"$work/top"
check "for people, too: a line of titles, and one for each drive" sh -c "grep -q '^DRIVE  *STATE ' $work/top &&
	grep -Eq '^spicebd0  +empty  +0 B/s  +0 B/s  +0  +0\.0 ms  +0\.0  +0  +0\$' $work/top &&
	grep -Eq '^spicebd2  +ready  +[0-9.]+ [KMG]iB/s  +0 B/s  +[1-9][0-9]*  ' $work/top"
check "metrics: each line is a metric's, and the reads are there" sh -c "spicebdctl metrics >$work/m &&
	! grep -Ev '^(# (HELP|TYPE) spicebd_[a-z_]+ .+|spicebd_[a-z_]+\{[a-z_]+=\"[^\"]+\"(,[a-z_]+=\"[^\"]+\")*\} [0-9]+)\$' $work/m &&
	grep -q 'spicebd_read_bytes_total{drive=\"spicebd2\"} [1-9]' $work/m"
kill $reader
wait $reader 2>/dev/null
await 30 sh -c 'spicebdctl status 2 --json | jq -e ".users == 0"'
export TERM=xterm
check "top on a terminal ends by q" timeout 60 sh -c "printf q | script -qec 'spicebdctl top' /dev/null"
check "colours on a terminal" sh -c "script -qec 'spicebdctl list' /dev/null | grep -q '\[32mready'"
check "in status, too" sh -c "script -qec 'spicebdctl status' /dev/null | grep -q '\[32mready'"
check "none for who wants none" sh -c "! NO_COLOR=1 script -qec 'spicebdctl list' /dev/null | grep -q '\[3'"
check "and none into a file" sh -c "! spicebdctl list | grep -q '\[3'"
unset TERM
exec 7</dev/spicebd2
refused "eject names its user" "busy.*$$|$$.*busy|open by" spicebdctl eject spicebd2
refused "del while open" "busy|open" spicebdctl del spicebd2
exec 7<&-
check "eject" spicebdctl eject spicebd2
check "del" spicebdctl del spicebd2
check "the node has gone" await 10 sh -c '! test -e /dev/spicebd2'
check "its event" await 10 grep -qi 'removed' "$work/monitor"

# Without a name the first empty drive that fits is taken, and one more made.
d1=$(spicebdctl insert --disk "$work/a.img")
cp "$work/a.img" "$work/b.img"
d2=$(spicebdctl insert --disk "$work/b.img")
equal "the first that fits, then a new one" "$d1 $d2" "/dev/spicebd1 /dev/spicebd2"
check "eject both" sh -c 'spicebdctl eject 1 && spicebdctl eject 2'
check "del the new one" spicebdctl del 2

nbd_server "$work/nbd" memory 16M
dev=$(spicebdctl insert --disk --read-write "nbd+unix:///?socket=$work/nbd")
kill -STOP "$pid"
background dd if="$dev" of=/dev/null bs=4k count=1 iflag=direct
await 10 sh -c 'spicebdctl status 1 --json | jq -e ".\"in-flight\" > 0"'
began=$(date +%s%N)
check "eject --force with a far end that hangs" spicebdctl eject --force "$dev"
ms=$((($(date +%s%N) - began) / 1000000))
if [ $ms -lt 3000 ]; then ok "took $ms ms"; else not_ok "took $ms ms"; fi
check "and the drive is empty" sh -c 'spicebdctl status 1 --json | jq -e ".medium == null"'
check "a long wait tells how it goes" sh -c "TERM=xterm script -qec \
	'spicebdctl insert --disk --timeout 4 nbd+unix:///?socket=$work/nbd' /dev/null |
	grep -q 'inserting \['"
done_testing
