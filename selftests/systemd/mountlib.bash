# SPDX-License-Identifier: GPL-2.0-only
# shellcheck shell=bash
#
# For the tests of automount. Sourced after lib.bash.

place=/run/media/spicebd
service() { echo "spicebd-mount@$1.service"; }

# mounted DEVICE: where
mounted() { findmnt -nro TARGET -S "/dev/$1" | sed 's/\\x20/ /g'; }

# mounted_at DEVICE PATH
mounted_at() { [ "$(mounted "$1")" = "$2" ]; }

# option DEVICE OPTION: of the mount
option() { findmnt -nro OPTIONS -S "/dev/$1" | tr , '\n' | grep -qx "$2"; }

# said DEVICE REGEX: the service of it, in this boot
said() { journalctl -b -o cat -u "$(service "$1")" | grep -Eq -- "$2"; }

# says DEVICE REGEX: what the service tells people now
says() { unit "$(service "$1")" StatusText | grep -Eq -- "$2"; }

# nothing_left DEVICE…: neither mount, mount point, mark, nor running or failed
# service
nothing_left() {
	local d
	for d; do
		[ -z "$(mounted "$d")" ] || return
		[ "$(unit "$(service "$d")" ActiveState)" = inactive ] || return
		[ ! -e "/run/spicebd/mount/${d%p*[0-9]}" ] && [ ! -e "/run/spicebd/mount/$d" ] || return
	done
	[ -z "$(ls -A $place 2>/dev/null)" ] && none_failed
}

none_failed() { [ -z "$(systemctl list-units --failed --plain --no-legend)" ]; }

# make_fs FILE LABEL MIB: ext4
make_fs() {
	truncate -s "$3M" "$1"
	mkfs.ext4 -q -F -L "$2" "$1"
}

# hello FILE TEXT: a file in the ext4 image
hello() { debugfs -w -R "write /dev/stdin hello" "$1" >/dev/null 2>&1 <<<"$2"; }
