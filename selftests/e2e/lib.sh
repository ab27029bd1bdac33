# SPDX-License-Identifier: GPL-2.0-only
# shellcheck shell=bash
#
# For the tests of the whole way, in the test machine: module loaded, helper
# under its supervisor, programs in PATH. Sourced first.

set -u
cd "$(dirname "$0")/../.." || exit 1

ktap_n=0
ktap_failed=0
work=$(mktemp -d)
pids=()

cleanup() {
	local d
	for d in $(spicebdctl list --json 2>/dev/null | jq -r '.[] | select(.medium != null) | .drive'); do
		umount -A "/dev/$d" 2>/dev/null
		spicebdctl eject "$d" --force >/dev/null 2>&1
	done
	spicebdctl unlisten >/dev/null 2>&1
	for d in "${pids[@]}"; do
		kill -CONT "$d" 2>/dev/null
		kill "$d" 2>/dev/null
	done
	wait 2>/dev/null
	rm -rf "$work"
}
trap cleanup EXIT

ok() {
	ktap_n=$((ktap_n + 1))
	echo "ok $ktap_n - $*"
}

not_ok() {
	ktap_n=$((ktap_n + 1))
	ktap_failed=$((ktap_failed + 1))
	echo "not ok $ktap_n - $*"
}

skip() {
	ktap_n=$((ktap_n + 1))
	echo "ok $ktap_n - $1 # SKIP $2"
}

done_testing() {
	echo "1..$ktap_n"
	[ "$ktap_failed" -eq 0 ]
	exit
}

# check NAME COMMAND…: passes when the command does; its output only if not
check() {
	local name=$1
	shift
	if "$@" >"$work/check.log" 2>&1; then
		ok "$name"
	else
		sed 's/^/# /' "$work/check.log"
		not_ok "$name"
		return 1
	fi
}

# equal NAME GOT WANTED
equal() {
	if [ "$2" = "$3" ]; then
		ok "$1"
	else
		echo "# got: $2"
		echo "# wanted: $3"
		not_ok "$1"
	fi
}

# refused NAME REGEX COMMAND…: fails, with one line on stderr that says so, and
# in no more time than a person waits
refused() {
	local name=$1 want=$2 status began=$SECONDS
	shift 2
	timeout $((60 * ${SPICEBD_TIME_SCALE:-1})) "$@" >"$work/out" 2>"$work/err"
	status=$?
	if [ $status -ne 0 ] && [ $status -lt 124 ] && [ "$(wc -l <"$work/err")" -eq 1 ] &&
	   grep -Eqi -- "$want" "$work/err"; then
		ok "$name: $(cat "$work/err")"
	else
		echo "# $*: exit status $status after $((SECONDS - began)) s"
		sed 's/^/# /' "$work/err"
		not_ok "$name"
	fi
}

# await SECONDS COMMAND…: until it succeeds; for what no event can be had of
await() {
	local end=$((SECONDS + $1 * ${SPICEBD_TIME_SCALE:-1}))
	shift
	until "$@" >/dev/null 2>&1; do
		[ $SECONDS -lt $end ] || return 1
		sleep 0.1
	done
}

# background COMMAND…: ended at the end; its pid in $pid
background() {
	"$@" &
	pid=$!
	pids+=("$pid")
}

# nbd_server SOCKET NBDKIT-ARGUMENTS…: its pid in $pid
nbd_server() {
	local s=$1
	shift
	rm -f "$s" "$s.pid"
	background nbdkit -f -U "$s" -P "$s.pid" "$@"
	await 20 test -s "$s.pid"
}

# One password and one listener for all Spice tests of a file.
spice_listen() {
	(umask 077; head -c 12 /dev/urandom | base64 >"$work/password")
	spicebdctl listen 127.0.0.1:5930 --password-file "$work/password"
}

# share ARGUMENTS…: a share in the background, its lines in $work/share.log
share() {
	: >"$work/share.log"
	spicebd-share --uri spice://127.0.0.1:5930 --password-file "$work/password" \
		--wait --json "$@" >"$work/share.log" 2>&1 &
	pid=$!
	share_pid=$pid
	pids+=("$pid")
}

# described NAME DRIVE TYPE TRANSPORT: status --json is as Documentation/drive.schema.json
# says, and the medium comes from there, and some of it has come
described() {
	spicebdctl status "$2" --json >"$work/drive.json"
	check "$1: status --json is as documented" /usr/bin/python3 -c 'import json, jsonschema, sys
jsonschema.validate(*(json.load(open(f)) for f in sys.argv[1:]))' "$work/drive.json" Documentation/drive.schema.json
	equal "$1: where it comes from" "$(jq -r '.medium | [.source.type, .source.transport,
		.link.up, .link."received-bytes" > 0, .link."latency-us" > 0] | join(" ")' "$work/drive.json")" \
		"$3 $4 true true true"
}

# offered NAME…: the host sees all of them
offered() {
	local n have
	have=$(spicebdctl media --json | jq -r '.[].media[].name') || return 1
	for n; do
		grep -qxF -- "$n" <<<"$have" || return 1
	done
}

# An ISO of files of this machine: path, MiB; its files' checksums in PATH.md5
make_iso() {
	local out=$1 want=$(($2 * 1048576)) dir f n size=0
	dir=$(mktemp -d "$work/iso.XXXXXX")
	while IFS= read -r -d '' f; do
		n=$(stat -Lc %s "$f")
		cp "$f" "$dir/"
		size=$((size + n))
		[ $size -lt $want ] || break
	done < <(find /usr/bin /usr/sbin -maxdepth 1 -type f -size +4k -size -4M -print0 | sort -z)
	(cd "$dir" && find . -type f -print0 | sort -z | xargs -0 md5sum) >"$out.md5"
	genisoimage -quiet -R -J -joliet-long -V SELFTEST -o "$out" "$dir" 2>/dev/null
	rm -rf "$dir"
}

# fio with verify, several jobs, over the whole device: NAME DEVICE EXTRA…
fio_verify() {
	local name=$1 dev=$2
	shift 2
	check "$name" fio --name=v --filename="$dev" --rw=randwrite --verify=crc32c \
		--verify_fatal=1 --verify_state_save=0 --group_reporting --minimal \
		--randrepeat=1 --allow_file_create=0 "$@"
}

# All of a writable medium of 64 MiB or more: sizes, offsets, jobs, direct and
# buffered
io_matrix() {
	local what=$1 dev=$2
	fio_verify "$what: direct, 512 B to 1 MiB, 4 jobs" "$dev" --direct=1 --ioengine=libaio \
		--iodepth=16 --numjobs=4 --offset_increment=16m --size=16m --io_size=3m \
		--bsrange=512-1m --bs_unaligned=0 --blockalign=512
	fio_verify "$what: buffered, 4 jobs" "$dev" --ioengine=psync --numjobs=4 \
		--offset_increment=16m --size=16m --io_size=2m --bsrange=1k-256k --end_fsync=1
	check "$what: model of reads and writes at odd offsets, buffered" \
		selftests/e2e/iomodel "$dev" --ops 120 --jobs 4 --max 1048576
	check "$what: model of reads and writes, direct" \
		selftests/e2e/iomodel "$dev" --ops 80 --jobs 4 --max 1048576 --direct
}
