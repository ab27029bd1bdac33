#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0-only
# A link as a unit: listen, a share on loopback, the whole medium, unlisten.
# timeout: 200
. "$(dirname "$0")/lib.bash"

link=spicebd-link@default.service
check "listen" spice_listen
equal "the unit runs" "$(unit $link ActiveState)" active
make_iso "$work/disc.iso" 12
share "$work/disc.iso"
check "the ISO is offered" await 60 offered disc.iso
equal "insert" "$(spicebdctl insert spice:disc.iso)" /dev/spicebd0
equal "the whole ISO is equal" "$(md5sum </dev/spicebd0)" "$(md5sum <"$work/disc.iso")"
settle
equal "udev knows it" "$(prop /dev/spicebd0 ID_FS_LABEL)" SELFTEST
check "eject" spicebdctl eject 0
check "the share hears of it" await 20 grep -q '"eject' "$work/share.log"
refused "a second listen" "already" \
	spicebdctl listen 127.0.0.1:5931 --password-file "$work/password"
check "unlisten" spicebdctl unlisten
equal "the unit has ended" "$(unit $link ActiveState)" inactive
check "nobody listens" sh -c '! ss -Hltn "sport = :5930" | grep -q .'
check "nothing of it is left" sh -c \
	'[ -z "$(ls /run/spicebd/link /run/spicebd/links.d | grep default)" ]'

mkdir -p /etc/spicebd/links.d
printf 'address=127.0.0.1:5930\ncolour=red\n' >/etc/spicebd/links.d/wrong.conf
chmod 600 /etc/spicebd/links.d/wrong.conf
check "a wrong configuration does not start" sh -c '! systemctl start spicebd-link@wrong.service'
equal "and is not tried again" "$(unit spicebd-link@wrong.service ActiveState)" failed
check "the journal says why" sh -c 'journalctl -b -u spicebd-link@wrong.service | grep -q colour'
rm /etc/spicebd/links.d/wrong.conf
systemctl reset-failed spicebd-link@wrong.service
done_testing
