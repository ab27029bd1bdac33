#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0-only
# A medium is mounted by itself, and again each next one, read-only and without
# rights; it goes when it is asked for, and leaves nothing, also by force.
# timeout: 900
. "$(dirname "$0")/lib.bash"
. "$(dirname "$0")/mountlib.bash"
automount "# as it comes"

cycle() {
	local d=$1 file=$2 at=$place/$3 name="$4"
	check "$name: insert" spicebdctl insert "${d#spicebd}" "$file"
	check "$name: mounted on $at" await 60 mounted_at "$d" "$at"
	check "$name: eject" spicebdctl eject "${d#spicebd}"
	check "$name: nothing is left" await 30 nothing_left "$d"
}

make_iso "$work/disc.iso" 2
check "insert an ISO" spicebdctl insert 0 "$work/disc.iso"
check "it is mounted" await 60 mounted_at spicebd0 $place/SELFTEST
check "its files are equal" sh -c "cd $place/SELFTEST && md5sum --quiet -c $work/disc.iso.md5"
check "everybody may read them" setpriv --reuid=65534 --regid=65534 --clear-groups \
	sh -c "cat $place/SELFTEST/* >/dev/null"
for o in ro nosuid nodev noexec; do
	check "it is $o" option spicebd0 $o
done
equal "the mark tells of it" "$(cat /run/spicebd/mount/spicebd0)" "spicebd0 $place/SELFTEST"
check "the service tells of it" says spicebd0 "mounted on $place/SELFTEST \(iso9660, read-only\)"
pid=$(unit "$(service spicebd0)" MainPID)
equal "it is seen by all: the service has no mounts of its own" \
	"$(readlink "/proc/$pid/ns/mnt")" "$(readlink /proc/1/ns/mnt)"
of() { sed -n "s/^$1:[[:space:]]*//p" "/proc/$pid/status"; }
equal "the service: CAP_SYS_ADMIN, CAP_SETUID, CAP_SETGID and no more" "$(of CapEff)" 00000000002000c0
equal "the service: NoNewPrivs and seccomp" "$(of NoNewPrivs) $(of Seccomp)" "1 2"
check "eject" spicebdctl eject 0
check "nothing is left" await 30 nothing_left spicebd0

# One after the other, on both drives: each is a new one.
genisoimage -quiet -V SECOND -o "$work/second.iso" /etc/hostname
genisoimage -quiet -udf -V BRIDGE -o "$work/bridge.iso" /etc/hostname 2>/dev/null
make_fs "$work/disk.img" "a disk" 16
cycle spicebd0 "$work/second.iso" SECOND "second ISO"
cycle spicebd0 "$work/bridge.iso" BRIDGE "ISO 9660 and UDF"
check "of both UDF was taken" said spicebd0 "mounted on $place/BRIDGE \(udf,"
cycle spicebd0 "$work/disc.iso" SELFTEST "the first again"
cycle spicebd1 "$work/disk.img" "a disk" "a disk"
cycle spicebd1 "$work/disc.iso" SELFTEST "an ISO in the disk drive"

# Without a drive that is seen empty in between.
check "insert" spicebdctl insert 0 "$work/disc.iso"
check "mounted" await 60 mounted_at spicebd0 $place/SELFTEST
check "change" spicebdctl change 0 "$work/second.iso"
check "the next medium is mounted" await 60 mounted_at spicebd0 $place/SECOND
equal "and nothing else" "$(ls $place)" SECOND

# Who unmounts by hand does not get it back at once.
check "umount by hand" umount $place/SECOND
check "the mount point goes" await 20 test ! -e $place/SECOND
check "udev looks again" udevadm trigger --settle /sys/block/spicebd0
settle
equal "it is not mounted again" "$(mounted spicebd0)" ""
check "change" spicebdctl change 0 "$work/disc.iso"
check "the next medium is" await 60 mounted_at spicebd0 $place/SELFTEST
check "the other drive's, of the same name" spicebdctl insert 1 "$work/disc.iso"
check "is mounted beside it" await 60 mounted_at spicebd1 "$place/SELFTEST-2"
check "eject" spicebdctl eject 1

# Somebody uses it.
( cd $place/SELFTEST && exec sleep 1000 ) &
user=$!
pids+=($user)
await 10 sh -c "[ \$(readlink /proc/$user/cwd) = $place/SELFTEST ]"
refused "eject of one in use" "busy|in use|mounted on" spicebdctl eject 0
equal "it is still mounted" "$(mounted spicebd0)" $place/SELFTEST
check "the service tells why" await 30 said spicebd0 "not unmounted: it is in use"
check "spicebdd is restarted" systemctl restart spicebdd.service
check "the drive is ready" await 30 is 0 .state ready
equal "it is still mounted" "$(mounted spicebd0)" $place/SELFTEST
check "and can be read" sh -c "echo 1 >/proc/sys/vm/drop_caches; cd $place/SELFTEST &&
	md5sum --quiet -c $work/disc.iso.md5"
began=$SECONDS
check "eject --force" spicebdctl eject --force 0
check "nothing is left but the user" await 30 nothing_left spicebd0
echo "# after $((SECONDS - began)) s"
kill $user
wait $user 2>/dev/null
check "the drive is empty" await 20 is 0 .state empty
cycle spicebd0 "$work/second.iso" SECOND "after that"

# The service is killed: what it had mounted goes with it.
check "insert" spicebdctl insert 0 "$work/disc.iso"
check "mounted" await 60 mounted_at spicebd0 $place/SELFTEST
check "kill -9" kill -9 "$(unit "$(service spicebd0)" MainPID)"
check "the mount and the mount point go" await 20 sh -c \
	"! findmnt -n -S /dev/spicebd0 && [ -z \"\$(ls -A $place)\" ] && [ ! -e /run/spicebd/mount/spicebd0 ]"
systemctl reset-failed "$(service spicebd0)"
check "eject" spicebdctl eject 0

equal "no unit failed" "$(systemctl list-units --failed --plain --no-legend)" ""
done_testing
