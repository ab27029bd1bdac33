#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0-only
# The part of 'shutdown' that runs in the machine.
. "$(dirname "$0")/lib.bash"
. "$(dirname "$0")/mountlib.bash"
trap - EXIT
automount disk-writable=yes

spicebdctl insert 0 "$SPICEBD_SHARE/disc.iso"
spicebdctl insert 1 --read-write "$SPICEBD_SHARE/disk.img"
await 60 mounted_at spicebd0 $place/READ || exit 1
await 60 mounted_at spicebd1 $place/WRITTEN || exit 1
echo "written before the end" >$place/WRITTEN/file
# An ordinary service uses it, and is stopped before the mount is.
systemd-run -q --unit=uses-it -p WorkingDirectory=$place/WRITTEN sleep 100000
await 30 sh -c "[ \$(readlink /proc/\$(systemctl show -p MainPID --value uses-it)/cwd) = $place/WRITTEN ]" ||
	exit 1
echo "SPICEBD-TEST asks for a reboot" >/dev/kmsg
systemctl --no-block reboot
sleep 600
exit 1
