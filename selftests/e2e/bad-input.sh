#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0-only
# What cannot work is answered with one line, and leaves nothing behind.
# timeout: 800
. "$(dirname "$0")/lib.sh"

children() { pgrep -c -x nbdkit; }
before=$(children)

refused "a path that is not there" "no such file" spicebdctl insert "$work/nothing.iso"
touch "$work/empty"
refused "an empty file" "empty|0 bytes" spicebdctl insert --disk "$work/empty"
refused "a device that is no block device" "not|cannot" spicebdctl insert /dev/null
mkfifo "$work/fifo"
refused "a fifo" "not|cannot" spicebdctl insert "$work/fifo"
truncate -s 8M "$work/a.img"
install -m 444 "$work/a.img" "$work/ro.img"
refused "drive number that does not exist" "no drive|no such drive|spicebd9" spicebdctl insert 9 "$work/a.img"
check "eject of an empty slot: nothing to do" spicebdctl eject spicebd1
refused "eject of a drive that does not exist" "no drive|no such drive|spicebd9" spicebdctl eject 9
refused "status of a drive that does not exist" "no drive|no such drive|spicebd9" spicebdctl status 9
check "a medium" spicebdctl insert 1 "$work/a.img"
refused "insert into a full drive" "already|has a medium|full" spicebdctl insert 1 "$work/ro.img"
check "its eject" spicebdctl eject 1

refused "no NBD server there" "connect|no such file" spicebdctl insert "nbd+unix:///?socket=$work/none"
refused "nobody listens" "refused|connect" spicebdctl insert nbd://127.0.0.1:1/
background socat UNIX-LISTEN:"$work/garbage",fork SYSTEM:'head -c 4096 /dev/urandom'
await 10 test -S "$work/garbage"
refused "a server that speaks something else" "nbd|magic|handshake|server" spicebdctl insert "nbd+unix:///?socket=$work/garbage"
background socat UNIX-LISTEN:"$work/silent",fork SYSTEM:'read x'
await 10 test -S "$work/silent"
refused "a server that says nothing" "time|answer|respon" spicebdctl insert --timeout 3 "nbd+unix:///?socket=$work/silent"
nbd_server "$work/zero" memory 0
refused "an empty NBD export" "empty|0 bytes" spicebdctl insert --disk "nbd+unix:///?socket=$work/zero"
nbd_server "$work/tiny" memory 100
refused "an export smaller than a block" "multiple|block|small" spicebdctl insert --disk "nbd+unix:///?socket=$work/tiny"
nbd_server "$work/ronly" -r memory 8M
refused "writing wanted, the server is read-only" "read-only" spicebdctl insert --disk --read-write "nbd+unix:///?socket=$work/ronly"
mkdir "$work/pki"
(cd "$work/pki" && openssl req -x509 -newkey rsa:2048 -nodes -keyout server-key.pem -out server-cert.pem \
	-subj /CN=localhost -days 2 2>/dev/null && cp server-cert.pem ca-cert.pem)
nbd_server "$work/tls" --tls=require --tls-certificates="$work/pki" memory 8M
refused "a server that wants TLS" "tls" spicebdctl insert --disk "nbd+unix:///?socket=$work/tls"

refused "an unknown verb" "unknown|usage|verb" spicebdctl frobnicate
refused "a source of no known kind" "unknown|source|no such file" spicebdctl insert gopher://x/
refused "both personalities" "cdrom.*disk|one of" spicebdctl insert --cdrom --disk "$work/a.img"
refused "a listener beyond loopback without TLS" "tls|insecure" spicebdctl listen bad1 0.0.0.0:5999 --password-file /etc/hostname
refused "a TCP listener without a password" "password" spicebdctl listen bad2 127.0.0.1:5998

check "listen" spice_listen
echo wrong >"$work/wrong"
timeout 60 spicebd-share --uri spice://127.0.0.1:5930 --password-file "$work/wrong" "$work/a.img" >"$work/out" 2>"$work/err"
equal "a wrong password: exit status 4" $? 4
timeout 60 spicebd-share --uri spice://127.0.0.1:5997 "$work/a.img" >"$work/out" 2>"$work/err"
equal "no Spice server there: exit status 3" $? 3
refused "no share connected" "no.*(client|share|medi)|not offered|nobody" spicebdctl insert --timeout 2 spice:a.img
check "unlisten" spicebdctl unlisten

equal "no drive has a medium" "$(spicebdctl list --json | jq '[.[] | select(.medium != null)] | length')" 0
check "no server is left behind of what failed" await 20 sh -c "[ \$(pgrep -c -x spicebd-nbdkit) = 0 ]"
echo "# nbdkit processes before: $before, now: $(children)"
done_testing
