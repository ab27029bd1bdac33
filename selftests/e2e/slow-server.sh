#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0-only
# A server that answers, but later than a silence that is taken for its loss: with
# each new connection it is borne with for longer, until its answer comes.
# timeout: 900
. "$(dirname "$0")/lib.sh"

status() { spicebdctl status "$1" --json | jq -r "$2"; }
is() { [ "$(status "$1" "$2")" = "$3" ]; }
serve() { nbd_server "$work/sock" -r "$@"; }
end_server() { kill -9 "$pid"; wait "$pid" 2>/dev/null; }
read_at() { dd if="$1" of="$2" bs=4k skip=100 count=1 iflag=direct status=none; }

head -c 16M /dev/urandom >"$work/a.img"
dd if="$work/a.img" of="$work/want" bs=4k skip=100 count=1 status=none
dev=$(spicebdctl add disk --reconnect-timeout 600)
serve file "$work/a.img"
check "a server" spicebdctl insert "${dev: -1}" "nbd+unix:///?socket=$work/sock"
check "a read" read_at "$dev" "$work/got"
generation=$(status "${dev: -1}" .generation)
end_server
check "its loss is seen" await 30 is "${dev: -1}" .state reconnecting

read_at "$dev" "$work/slow" 2>"$work/dd" &
reader=$!
serve --filter=delay file "$work/a.img" delay-read=9
wait $reader
equal "one that takes 9 s for each answer comes instead: a read succeeds" $? 0
check "with the right bytes" cmp "$work/slow" "$work/want"
equal "the same medium" "$(status "${dev: -1}" .generation)" "$generation"
equal "no request failed" "$(status "${dev: -1}" .stats.errors)" 0
equal "another read succeeds at once" \
	"$(read_at "$dev" "$work/slow" 2>&1; cmp "$work/slow" "$work/want" && echo same)" same

end_server
check "its loss is seen, too" await 60 is "${dev: -1}" .state reconnecting
serve file "$work/a.img"
check "a fast one comes back" await 60 is "${dev: -1}" .state ready
check "a read of it" read_at "$dev" "$work/got"
check "eject" await 30 spicebdctl eject "${dev: -1}"
check "del" spicebdctl del "${dev: -1}"
end_server
done_testing
