#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0-only
# The part of 'shutdown' that runs in the machine: reboot or kexec.
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
if [ "$1" = kexec ]; then
	tar -C /usr -xf "$SPICEBD_SHARE/kexec.tar" sbin kernel initrd
	tar -C / -xf "$SPICEBD_SHARE/kexec.tar" usr/lib
	kexec -l --args-linux /usr/kernel --initrd=/usr/initrd \
		--command-line="console=ttyS0 quiet panic=-1" || exit 1
	dmesg -n 6	# the kernel says that it starts another one
fi
echo "SPICEBD-TEST asks for its end" >/dev/kmsg
systemctl --no-block "$1"
sleep 600
exit 1
