#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0-only
# The NBD server under systemd: a unit of its own without any right, which
# outlives spicebdd, is started anew after its own death, and ends with stop.
# timeout: 200
. "$(dirname "$0")/lib.bash"

export_units() { systemctl list-units --plain --no-legend 'spicebd-export@*' | awk '{ print $1 }'; }

# qmp COMMAND [ARGUMENTS]: the answer
qmp() {
	python3 -c '
import json, socket, sys
s = socket.socket(socket.AF_UNIX)
s.settimeout(60)
s.connect("/run/spicebd/control.sock")
f = s.makefile("r")
f.readline()
for name, args in (("qmp_capabilities", {}), (sys.argv[1], json.loads(sys.argv[2]))):
    s.sendall(json.dumps({"execute": name, "arguments": args}).encode())
    while "event" in (o := json.loads(f.readline())):
        pass
print(json.dumps(o))' "$1" "${2:-{\}}"
}
returned() { qmp "$@" | jq -e 'has("return")'; }
refused() { qmp "${@:2}" | jq -r .error.desc | grep -E "$1"; }
of() { sed -n "s/^$2:[[:space:]]*//p" "/proc/$1/status"; }

uri="nbd+unix:///disc?socket=/run/exports.sock"
head -c 4M /dev/urandom >"$work/disk.img"
check "a medium" spicebdctl insert --disk --read-only "$work/disk.img"
settle
check "a path that is read-only for it" refused "Failed to bind.*Read-only file system" \
	nbd-server-start '{"addr": {"type": "unix", "data": {"path": "/etc/exports.sock"}}}'
check "nbd-server-start" returned nbd-server-start \
	'{"addr": {"type": "unix", "data": {"path": "/run/exports.sock"}}}'
check "nbd-server-add" returned nbd-server-add '{"device": "spicebd1", "name": "disc"}'
u=$(export_units)
pid=$(unit "$u" MainPID)
equal "a unit of its own" "$(wc -w <<<"$u")" 1
equal "no capabilities" "$(for c in CapEff CapPrm CapBnd CapAmb; do of "$pid" $c; done | sort -u)" \
	0000000000000000
equal "NoNewPrivs" "$(of "$pid" NoNewPrivs)" 1
equal "seccomp" "$(of "$pid" Seccomp)" 2
echo "# $(systemd-analyze security --no-pager "$u" | sed -n 's/^→ //p')"
check "a copy" nbdcopy "$uri" "$work/copy"
check "is right" cmp "$work/copy" "$work/disk.img"

check "restart of spicebdd" systemctl restart spicebdd.service
equal "the export's process is the same" "$(unit "$u" MainPID)" "$pid"
check "a copy after it" nbdcopy "$uri" "$work/copy"
kill -9 "$pid"
check "killed, another one comes" await 40 nbdinfo "$uri"
equal "it is one" "$(export_units | wc -w)" 1
check "a copy from it" nbdcopy "$uri" "$work/copy"
check "is right, too" cmp "$work/copy" "$work/disk.img"
check "nbd-server-stop" returned nbd-server-stop
check "no file is left" test ! -e /run/exports.sock
check "no unit is left" await 20 sh -c '[ -z "$(systemctl list-units --plain --no-legend "spicebd-export@*")" ]'
check "eject" spicebdctl eject 1 --force
done_testing
