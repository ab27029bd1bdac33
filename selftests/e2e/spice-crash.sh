#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0-only
# What libspice-server does of itself to the process that it is in, while a medium
# is written and verified: its own client sends, inside TLS, the message that the
# library overflows its heap with; and a link that dies by a signal, as of a fault of
# the library, is started again. To the drive either is no more than requests that
# are held: none fails, none is lost, no medium changes.
# timeout: 900
. "$(dirname "$0")/lib.sh"

status() { spicebdctl status "$drive" --json | jq -r "$1"; }
link() { pgrep -o -x spicebd-link; }
served() { spicebdctl status "$drive" --json | jq -e '.state == "ready"'; }
written() { [ "$(status .stats.writes)" -gt "$1" ]; }
another() { local n; n=$(link) && [ "$n" != "$1" ]; }
told() { [ "$(grep -c injected "$work/proxy.log")" -eq "$1" ]; }
# The share says so each time that it was sent away.
sent_away() { grep -c '"drive-disconnected"' "$work/share.log"; }
gone() { [ "$(sent_away)" -gt "$1" ]; }
changes() { grep -c '^DISK_MEDIA_CHANGE=1' "$work/uevents"; }

certificates() {
	(cd "$work" && openssl req -x509 -newkey rsa:2048 -nodes -keyout key.pem -out cert.pem \
		-days 2 -subj /CN=localhost -addext subjectAltName=IP:127.0.0.1,DNS:localhost)
}

# Verified writes, again and again until they are told to end.
writer() {
	while [ -e "$work/go" ]; do
		fio --name=v --filename="$device" --rw=randwrite --bsrange=4k-64k --size=16m \
			--io_size=4m --direct=1 --ioengine=libaio --iodepth=16 --verify=crc32c \
			--verify_fatal=1 --verify_state_save=0 --rate=1m --allow_file_create=0 \
			--randrepeat=0 --minimal >"$work/fio.log" 2>&1 || return
		echo run >>"$work/runs"
	done
}

# goes_on WHAT: it is served, and written to, again
goes_on() {
	local at
	check "$1: the drive is served again" await 120 served
	at=$(status .stats.writes)
	check "$1: it is written to" await 120 written $((at + 5))
}

check "certificates" certificates
chmod 755 "$work"
chmod 644 "$work/key.pem"
(umask 077; echo secret >"$work/password")
check "listen with TLS" spicebdctl listen 127.0.0.1:5930 --password-file "$work/password" \
	--tls-cert "$work/cert.pem" --tls-key "$work/key.pem" --tls-ca "$work/cert.pem"
mkfifo "$work/tell"
exec 6<>"$work/tell"
selftests/link/spiceproxy.py 5940 5930 "$work/cert.pem" "$work/key.pem" "$work/cert.pem" \
	<"$work/tell" >"$work/proxy.log" &
pids+=("$!")
check "the proxy stands" await 60 grep -q ready "$work/proxy.log"
truncate -s 64M "$work/stick.img"
XDG_STATE_HOME=$work/state spicebd-share --uri "spice://127.0.0.1?tls-port=5940" \
	--ca-file "$work/cert.pem" --password-file "$work/password" --wait --json --read-write \
	"$work/stick.img" >"$work/share.log" 2>&1 &
share_pid=$!
pids+=("$share_pid")
check "the medium is offered" await 60 offered stick.img
# A busy machine may need long for what is to be no more than a moment.
device=$(spicebdctl add disk --reconnect-timeout 300)
drive=${device#/dev/spicebd}
equal "insert" "$(spicebdctl insert "$drive" spice:stick.img --read-write --timeout 120)" "$device"
udevadm settle
generation=$(status .generation)
udevadm monitor --kernel --property --subsystem-match=block >"$work/uevents" &
pids+=("$!")
check "uevents are heard" await 60 grep -q KERNEL "$work/uevents"

touch "$work/go"
writer &
writer=$!
check "it is written to" await 60 written 20

first=$(link)
for n in 1 2; do
	before=$(sent_away)
	echo inject >&6
	check "message $n is sent" await 60 told "$n"
	check "message $n: its sender is sent away" await 60 gone "$before"
	goes_on "message $n"
done
equal "the link has lived through it" "$(link)" "$first"
for n in SEGV ABRT; do
	pid=$(link)
	kill -$n "$pid"
	check "$n: another link" await 60 another "$pid"
	goes_on "$n"
done

rm "$work/go"
wait "$writer"
equal "everything was verified" $? 0
[ -s "$work/runs" ] || sed 's/^/# /' "$work/fio.log"
check "more than once" test "$(wc -l <"$work/runs")" -ge 1
equal "no request failed" "$(status .stats.errors)" 0
equal "the same medium" "$(status .generation)" "$generation"
udevadm settle
equal "no uevent tells of another medium" "$(changes)" 0
check "the share is the same process" kill -0 "$share_pid"
check "eject" spicebdctl eject "$drive"
check "del" spicebdctl del "$drive"
done_testing
