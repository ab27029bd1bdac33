#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0-only
# spicebdd is killed, and restarted in order, under load: the unit comes back,
# adopts what is there, and neither a reader nor a writer nor udev notices.
# timeout: 400
. "$(dirname "$0")/lib.bash"

make_iso "$work/disc.iso" 12
truncate -s 32M "$work/disk.img"
equal "an ISO" "$(spicebdctl insert "$work/disc.iso")" /dev/spicebd0
equal "a disk" "$(spicebdctl insert --disk --read-write "$work/disk.img")" /dev/spicebd1
settle
servers() { for u in $(nbdkit_units); do unit "$u" MainPID; done; }
servers=$(servers)
generations="$(status 0 .generation) $(status 1 .generation)"
restarts=$(unit spicebdd.service NRestarts)
uevents_begin

writes /dev/spicebd1 12
md5sum /dev/spicebd0 >"$work/md5" 2>&1 &
reader=$!
kills=0
for _ in 1 2 3; do
	old=$(unit spicebdd.service MainPID)
	kill -9 "$old" && kills=$((kills + 1))
	await 40 started spicebdd.service "$old" || break
	await 30 is 1 .state ready || break
done
equal "kills of spicebdd" $kills 3
equal "the unit counts them" "$(($(unit spicebdd.service NRestarts) - restarts))" 3
old=$(unit spicebdd.service MainPID)
check "systemctl restart" systemctl restart spicebdd.service
check "another process" started spicebdd.service "$old"
verified "fio verifies everything"
wait $reader
equal "the reader came to its end" $? 0
equal "with the right bytes" "$(cut -d' ' -f1 <"$work/md5")" \
	"$(md5sum <"$work/disc.iso" | cut -d' ' -f1)"
uevents_end
equal "no uevent says another medium" "$(media_changes spicebd)" 0
equal "the same media" "$(status 0 .generation) $(status 1 .generation)" "$generations"
equal "no request failed" "$(status 0 .stats.errors) $(status 1 .stats.errors)" "0 0"
equal "the servers are the same" "$(servers)" "$servers"
check "eject of both" sh -c "spicebdctl eject 0 && spicebdctl eject 1"
done_testing
