#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0-only
# A medium that a Spice client shares: the whole way, reading and writing.
# timeout: 900
. "$(dirname "$0")/lib.sh"

check "listen on loopback" spice_listen
make_iso "$work/disc.iso" 24
truncate -s 64M "$work/stick.img"
share --read-write "$work/disc.iso" "$work/stick.img"
check "both media are offered" await 60 offered disc.iso stick.img

# completed LINE WORD…: what bash offers for LINE, which readline has split into WORDs
completed() {
	bash --norc -c '. /usr/share/bash-completion/bash_completion
		. userhelper/completion/spicebdctl
		compopt() { :; }
		COMP_WORDBREAKS=$(printf " \t\n\"'"'"'><=;|&(:")
		COMP_LINE=$1 COMP_POINT=${#1}
		shift
		COMP_WORDS=("$@") COMP_CWORD=$(($# - 1))
		_spicebdctl spicebdctl
		printf "%s\n" "${COMPREPLY[@]}"' bash "$@" | sort | tr "\n" " "
}
equal "bash completes media" "$(completed "spicebdctl insert spice:" spicebdctl insert spice :)" \
	"default/disc.iso default/stick.img "
equal "one of them" "$(completed "spicebdctl insert spice:default/d" spicebdctl insert spice : default/d)" \
	"default/disc.iso "
equal "and drives" "$(completed "spicebdctl eject spi" spicebdctl eject spi)" "spicebd0 spicebd1 "

dev=$(spicebdctl insert spice:disc.iso)
equal "the ISO goes into the CD drive" "$dev" /dev/spicebd0
equal "the whole ISO is equal over Spice" "$(md5sum <"$dev")" "$(md5sum <"$work/disc.iso")"
described spice 0 spice spice
mkdir -p "$work/mnt"
# told NAME: what the share was told last of a medium's users
told() {
	sed -nE "s/^.*\"event\": \"(inserted|locked|unlocked)\".*\"name\": \"$1\"([^}]*\"text\": \"([^\"]*)\")?.*/\1 \3/p" \
		"$work/share.log" | tail -n 1
}
is_told() { [ "$(told "$1")" = "$2" ]; }
check "mount" mount -o ro "$dev" "$work/mnt"
check "the share is told where" await 20 is_told disc.iso "locked mounted on $work/mnt"
check "every file of it is equal" sh -c "cd '$work/mnt' && md5sum --quiet -c '$work/disc.iso.md5'"

stick=$(spicebdctl insert spice:stick.img --read-write)
equal "the image goes into the other drive" "$stick" /dev/spicebd1
io_matrix "spice" "$stick"
dd if=/dev/urandom of="$work/random" bs=1M count=16 2>/dev/null
check "write 16 MiB" dd if="$work/random" of="$stick" bs=256k oflag=direct conv=fsync
check "the client's file has it" cmp -n $((16 << 20)) "$work/random" "$work/stick.img"
mkdir "$work/stick" "$work/stick2"
check "a disk, which nothing locks" sh -c "mkfs.ext4 -qF $stick && mount $stick '$work/stick'"
check "the share is told that, too" await 20 is_told stick.img "locked mounted on $work/stick"
check "once more elsewhere" mount --bind "$work/stick" "$work/stick2"
check "and both places" await 20 is_told stick.img "locked mounted on $work/stick and $work/stick2"
pkill -KILL -x spicebd-link
check "after a loss it is told anew" await 60 sh -c "tail -n +\$(grep -n '\"event\": \"reconnecting\"' \
	'$work/share.log' | tail -n 1 | cut -d: -f1) '$work/share.log' | grep -q '\"locked\".*stick.img.*mounted on'"
check "umount" umount "$work/stick" "$work/stick2"
check "nobody has it any more" await 20 is_told stick.img "unlocked "

refused "eject of the mounted one" "busy|mounted" spicebdctl eject spicebd0
check "umount" umount "$work/mnt"
check "eject of the ISO" spicebdctl eject spicebd0
check "the share hears of it" await 20 grep -q '"eject' "$work/share.log"
check "the same once more" spicebdctl insert spice:disc.iso
equal "and it is the same" "$(dd if=/dev/spicebd0 bs=1M count=4 2>/dev/null | md5sum)" \
	"$(dd if="$work/disc.iso" bs=1M count=4 2>/dev/null | md5sum)"
refused "a medium that nobody offers" "no.*nosuch|nosuch" spicebdctl insert --timeout 2 spice:nosuch.iso
check "eject of all" sh -c "spicebdctl eject spicebd0 && spicebdctl eject spicebd1"

kill -INT "$share_pid"
wait "$share_pid"
equal "the share ends well" $? 0
check "its offers are gone" await 20 sh -c '[ "$(spicebdctl media --json | jq "[.[].media[]] | length")" = 0 ]'
check "unlisten" spicebdctl unlisten
done_testing
