#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0-only
# spicebd-web as a unit: a listener's page by the options of web.d, a WebSocket through to
# the listener, its rights, its death, and options that make no sense.
# timeout: 300
. "$(dirname "$0")/lib.bash"

install -d /etc/spicebd/web.d
cat >/etc/spicebd/web.d/test <<'EOF'
OPTIONS=--listen 127.0.0.1:8080 --link 127.0.0.1:5930
EOF
install -m 600 /dev/stdin "$work/password" <<<"a word"
check "a listener" spicebdctl listen 127.0.0.1:5930 --password-file "$work/password"

# ask HOST: the status of the page's answer
ask() {
	python3 - "$1" <<'PY'
import socket, sys, time
for _ in range(600):
    try:
        s = socket.create_connection(("127.0.0.1", 8080), 30)
        break
    except ConnectionRefusedError:
        time.sleep(0.1)
s.sendall(f"GET / HTTP/1.1\r\nHost: {sys.argv[1]}\r\nConnection: close\r\n\r\n".encode())
got = b""
while data := s.recv(65536):
    got += data
print(got.split(None, 2)[1].decode())
PY
}

# A WebSocket, and a Spice link message in it: what comes back is the listener's answer.
# spice ORIGIN
spice() {
	python3 - "$1" <<'PY'
import os, socket, struct, sys
s = socket.create_connection(("127.0.0.1", 8080), 30)
s.settimeout(60)
s.sendall(("GET /link HTTP/1.1\r\nHost: localhost:8080\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
           "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n"
           f"Sec-WebSocket-Protocol: spicebd\r\nOrigin: {sys.argv[1]}\r\n\r\n").encode())
head = b""
while not head.endswith(b"\r\n\r\n") and (c := s.recv(1)):
    head += c
if b" 101 " not in head:
    sys.exit(head.split(b"\r\n")[0].decode())
link = b"REDQ" + struct.pack("<IIIIBBIII", 2, 2, 22, 0, 1, 0, 1, 0, 18) + struct.pack("<I", 11)
s.sendall(bytes([0x82, 0x80 | len(link), 0, 0, 0, 0]) + link)
got = b""
while len(got) < 20 and (data := s.recv(4096)):
    got += data
print("Spice" if b"REDQ" in got else got)
PY
}

systemctl start spicebd-web@test.service
equal "the page" "$(ask localhost:8080)" 200
equal "another name" "$(ask elsewhere:8080)" 403
equal "a WebSocket reaches the listener" "$(spice http://localhost:8080)" Spice
equal "another's page gets none" "$(spice http://elsewhere:8080 2>&1)" "HTTP/1.1 403 Forbidden"

# bad PID: what a thread has that it should not
bad() {
	local t
	for t in /proc/"$1"/task/*/status; do
		grep -E '^Cap(Eff|Prm|Inh|Amb|Bnd):' "$t" | grep -v '0000000000000000$'
		grep -E '^(NoNewPrivs:.0|Seccomp:.[01]|Uid:.*\<0\>)' "$t"
	done
}
pid=$(unit spicebd-web@test.service MainPID)
equal "no capability, no new privileges, a filter, and not root, in each thread" "$(bad "$pid")" ""
equal "it is the listeners' user" "$(ps -o user:20= -p "$pid" | tr -d " ")" spicebd-link

kill -9 "$pid"
check "killed, it is started again" await 60 sh -c \
	"p=\$(systemctl show -P MainPID spicebd-web@test.service); [ \"\$p\" != 0 ] && [ \"\$p\" != $pid ]"
equal "and serves" "$(ask localhost:8080)" 200
check "it ends in good order" systemctl stop spicebd-web@test.service
equal "with success" "$(unit spicebd-web@test.service Result)" success

echo 'OPTIONS=--listen 127.0.0.1:8080' >/etc/spicebd/web.d/test
systemctl start spicebd-web@test.service
check "options that make no sense: it is not tried again and again" await 60 sh -c \
	'systemctl is-failed -q spicebd-web@test.service'
check "and the journal tells why" sh -c \
	"journalctl -b -u spicebd-web@test.service | grep -q 'are needed'"
systemctl reset-failed spicebd-web@test.service
rm -f /etc/spicebd/web.d/test
check "unlisten" spicebdctl unlisten
done_testing
