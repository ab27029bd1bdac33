#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0-only
# nbds:// with an authority of the test's own: the server's certificate must be of
# that authority, in time, and of the name that was asked for; a server may ask for
# a certificate of ours. Nothing goes over a connection that was not proven.
# timeout: 300
. "$(dirname "$0")/lib.sh"

mkdir -m 755 "$work/ca" "$work/other" "$work/server" "$work/expired" "$work/me" "$work/stranger" \
	"$work/nobody"

# authority DIR: its certificate and key
authority() {
	openssl req -x509 -newkey rsa:2048 -nodes -keyout "$1/key.pem" -out "$1/ca-cert.pem" \
		-days 2 -subj "/CN=$(basename "$1")" >/dev/null 2>&1
}

# certificate CA DIR KIND NAME DAYS: DIR/KIND-{cert,key}.pem, and that authority's
certificate() {
	local ca=$1 dir=$2 kind=$3 days=$5
	openssl req -newkey rsa:2048 -nodes -keyout "$dir/$kind-key.pem" -out "$dir/req.pem" \
		-subj "/CN=$4" >/dev/null 2>&1
	printf 'subjectAltName=DNS:%s\n' "$4" >"$dir/ext"
	openssl x509 -req -in "$dir/req.pem" -CA "$ca/ca-cert.pem" -CAkey "$ca/key.pem" \
		-CAcreateserial -out "$dir/$kind-cert.pem" -days "$days" -extfile "$dir/ext" \
		>/dev/null 2>&1
	[ -e "$dir/ca-cert.pem" ] || cp "$work/ca/ca-cert.pem" "$dir/"
	chmod 600 "$dir/$kind-key.pem"
}

# server PORT DIR OPTIONS…: a TLS server of $work/disk.img; nothing but TLS
server() {
	background nbdkit -f -i 127.0.0.1 -p "$1" -P "$work/$1.pid" --tls=require \
		--tls-certificates="$2" "${@:3}" file "$work/disk.img"
	await 40 test -s "$work/$1.pid"
}

# in_vain NAME REGEX URI: no medium comes of it, and the reason is told
in_vain() {
	refused "$1" "$2" spicebdctl insert --disk 1 "$3"
	equal "$1: the drive is empty" "$(spicebdctl status 1 --json | jq -c .medium)" null
}

# works NAME URI: the whole medium is read
works() {
	check "$1: insert" spicebdctl insert --disk 1 "$2" || return
	equal "$1: the data" "$(md5sum </dev/spicebd1)" "$(md5sum <"$work/disk.img")"
	described "$1" 1 nbd tls
	check "$1: eject" spicebdctl eject 1
}

spicebdctl eject 1 --force >/dev/null 2>&1
head -c 2M /dev/urandom >"$work/disk.img"
check "authorities" authority "$work/ca"
authority "$work/other"
certificate "$work/ca" "$work/server" server localhost 2
check "an expired certificate" certificate "$work/ca" "$work/expired" server localhost -1
certificate "$work/ca" "$work/me" client me 2
certificate "$work/other" "$work/stranger" client me 2
cp "$work/ca/ca-cert.pem" "$work/nobody/"
server 10901 "$work/server"
server 10902 "$work/expired"
server 10903 "$work/server" --tls-verify-peer

good="nbds://localhost:10901/?tls-certificates=$work/nobody"
works "the right authority, the right name" "$good"
in_vain "without TLS" "tls" "nbd://localhost:10901/"
in_vain "an authority that nobody named" "no authority is known" "nbds://localhost:10901/"
in_vain "a folder without one" "no authority's certificate" \
	"nbds://localhost:10901/?tls-certificates=$work"
mkdir -p /etc/spicebd/tls
cp "$work/other/ca-cert.pem" /etc/spicebd/tls/
in_vain "the machine's own, which is another" "certificate" "nbds://localhost:10901/"
cp "$work/ca/ca-cert.pem" /etc/spicebd/tls/
works "the machine's own" "nbds://localhost:10901/"
rm -r /etc/spicebd/tls
in_vain "the wrong authority" "certificate|trust|issuer" \
	"nbds://localhost:10901/?tls-certificates=$work/other"
in_vain "another name" "certificate|name|host" \
	"nbds://127.0.0.1:10901/?tls-certificates=$work/nobody"
in_vain "a certificate of the past" "certificate|expired" \
	"nbds://localhost:10902/?tls-certificates=$work/nobody"
works "a client's certificate" "nbds://localhost:10903/?tls-certificates=$work/me"
in_vain "no client's certificate where one is wanted" "gnutls|certificate|connection" \
	"nbds://localhost:10903/?tls-certificates=$work/nobody"
in_vain "one of another authority" "gnutls|certificate|connection" \
	"nbds://localhost:10903/?tls-certificates=$work/stranger"
works "after all that, the right one" "$good"
done_testing
