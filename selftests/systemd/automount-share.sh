#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0-only
# The whole way, as a person sees it: share an ISO and it is mounted; eject, and
# it is unmounted and ejected and the share says so; the next ISO, another label.
# timeout: 500
. "$(dirname "$0")/lib.bash"
. "$(dirname "$0")/mountlib.bash"
automount "# as it comes"

make_iso "$work/first.iso" 2
genisoimage -quiet -R -V SECOND -o "$work/second.iso" "$work/first.iso.md5"
check "listen" spice_listen
share "$work/first.iso" "$work/second.iso"
check "both are offered" await 60 offered first.iso second.iso

udevadm monitor --kernel --udev --property --subsystem-match=block >"$work/monitor" 2>&1 &
monitor=$!
pids+=($monitor)
await 20 grep -q KERNEL "$work/monitor"
uevents_begin
equal "the first is put in" "$(spicebdctl insert spice:first.iso)" /dev/spicebd0
check "it is mounted by itself" await 60 mounted_at spicebd0 $place/SELFTEST
check "its files are equal" sh -c "cd $place/SELFTEST && md5sum --quiet -c $work/first.iso.md5"
check "eject(1)" eject /dev/spicebd0
check "it is unmounted, and nothing is left" await 30 nothing_left spicebd0
check "the drive is empty" await 20 is 0 .medium null
check "the share says so" await 20 grep -q '"eject' "$work/share.log"
settle
uevents_end
kill $monitor
equal "one uevent for each change of medium" "$(media_changes spicebd0)" 2
sed 's/^/# /' "$work/monitor"
grep eject "$work/share.log" | sed 's/^/# share: /'

check "the second is put in" spicebdctl insert 0 spice:second.iso
check "it is mounted by itself" await 60 mounted_at spicebd0 $place/SECOND
settle
equal "the label is another one" "$(prop /dev/spicebd0 ID_FS_LABEL)" SECOND
check "its link, too" test /dev/disk/by-label/SECOND -ef /dev/spicebd0
check "and the old one has gone" test ! -e /dev/disk/by-label/SELFTEST
check "spicebdctl eject" spicebdctl eject 0
check "nothing is left" await 30 nothing_left spicebd0

# The person goes, with the medium still mounted here.
check "the first again" spicebdctl insert 0 spice:first.iso
check "mounted" await 60 mounted_at spicebd0 $place/SELFTEST
kill "$share_pid"
check "the share ends" await 60 sh -c "! kill -0 $share_pid"
check "the drive is empty" await 90 is 0 .medium null
check "nothing is left" await 30 nothing_left spicebd0
check "unlisten" spicebdctl unlisten
done_testing
