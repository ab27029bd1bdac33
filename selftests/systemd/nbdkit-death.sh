#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0-only
# The server of a local medium is killed under load, then its parent: another one
# is started and nothing is lost. Its parent and spicebdd at once: the medium is
# lost, and nothing else.
# timeout: 300
. "$(dirname "$0")/lib.bash"

make_iso "$work/disc.iso" 2
truncate -s 32M "$work/disk.img"
equal "a disk" "$(spicebdctl insert --disk --read-write "$work/disk.img")" /dev/spicebd1
settle
generation=$(status 1 .generation)
daemon=$(unit spicebdd.service MainPID)
server=$(nbdkit_units)
uevents_begin

parent=$(unit "$server" MainPID)
old=$(pgrep -x -P "$parent" nbdkit)
writes /dev/spicebd1 6
check "nbdkit is killed" kill -9 "$old"
check "its parent starts another" await 30 sh -c \
	"n=\$(pgrep -x -P $parent nbdkit) && [ \"\$n\" != $old ]"
verified "fio verifies everything"
equal "the unit is the same" "$(nbdkit_units) $(unit "$server" MainPID)" "$server $parent"

uevents_end
equal "no uevent says another medium" "$(media_changes spicebd)" 0
equal "the same medium" "$(status 1 .generation)" "$generation"
equal "no request failed" "$(status 1 .stats.errors)" 0

writes /dev/spicebd1 6
check "the parent is killed" kill -9 "$parent"
verified "fio verifies everything"
server=$(nbdkit_units)
check "another unit serves it" test "$(unit "$server" MainPID)" != "$parent"
equal "still the same medium" "$(status 1 .generation)" "$generation"
equal "still no request failed" "$(status 1 .stats.errors)" 0

# Who has the opened file are the two: without both the medium is lost, and says so.
parent=$(unit "$server" MainPID)
check "another medium" spicebdctl insert "$work/disc.iso"
# Stopped first, so that neither sees the other go.
kill -STOP "$daemon" "$parent"
check "both are killed" kill -9 "$daemon" "$parent"
check "the medium is out" await 60 is 1 .medium null
echo "# $(status 1 .reason)"
check "the reason is told" test -n "$(status 1 '.reason // empty')"
check "nothing of its unit is left" await 20 sh -c \
	"! systemctl list-units --plain --no-legend '$server' | grep -q . && ! pgrep -x nbdkit -P $parent"
check "no nbdkit but the other drive's" await 20 sh -c '[ "$(pgrep -x nbdkit | wc -l)" = 1 ]'
check "the other drive is ready" await 60 is 0 .state ready
equal "and reads" "$(md5sum </dev/spicebd0)" "$(md5sum <"$work/disc.iso")"
check "the same file again" spicebdctl insert 1 --read-write "$work/disk.img"
check "it is readable" dd if=/dev/spicebd1 of=/dev/null bs=1M
check "eject of both" sh -c "spicebdctl eject 0 && spicebdctl eject 1"
check "no server is left" await 20 sh -c '! pgrep -x nbdkit && ! pgrep -x spicebd-nbdkit'
check "no file of it" await 20 sh -c '[ -z "$(ls /run/spicebd/nbdkit)" ]'
done_testing
