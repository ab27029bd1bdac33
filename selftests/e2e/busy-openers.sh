#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0-only
# Who opens an empty drive closes its tray; somebody may do so all the time. A medium
# goes in nevertheless, from a file and by a change.
# timeout: 900
. "$(dirname "$0")/lib.sh"

ROUNDS=10
openers=()

head -c 4M /dev/urandom >"$work/a.iso"
head -c 4M /dev/urandom >"$work/b.iso"
dev=$(spicebdctl add cdrom)
n=${dev: -1}
begin() {
	: >"$work/on"
	openers=()
	for _ in 1 2; do
		(while [ -e "$work/on" ]; do : <"$dev"; done) 2>/dev/null &
		openers+=($!)
	done
}

end() {
	rm -f "$work/on"
	wait "${openers[@]}"
}

same() { [ "$(md5sum <"$dev")" = "$(md5sum <"$1")" ]; }

inserted=0 right=0
begin
for _ in $(seq $ROUNDS); do
	spicebdctl insert "$n" "$work/a.iso" >"$work/insert" 2>&1 || { sed 's/^/# /' "$work/insert"; break; }
	inserted=$((inserted + 1))
	same "$work/a.iso" && right=$((right + 1))
	await 60 spicebdctl eject "$n" --force
done
end
equal "a medium goes in while others open the drive all the time" $inserted $ROUNDS
equal "and is what is read" $right $ROUNDS

check "a medium" spicebdctl insert "$n" "$work/a.iso"
changed=0 right=0
begin
for i in $(seq $ROUNDS); do
	next=$work/$([ $((i % 2)) = 1 ] && echo b || echo a).iso
	spicebdctl change "$n" "$next" --force >"$work/insert" 2>&1 || { sed 's/^/# /' "$work/insert"; break; }
	changed=$((changed + 1))
	same "$next" && right=$((right + 1))
done
end
equal "it is changed while others open the drive all the time" $changed $ROUNDS
equal "and the other one is what is read" $right $ROUNDS
check "eject" await 60 spicebdctl eject "$n"
check "del" await 60 spicebdctl del "$n"
done_testing
