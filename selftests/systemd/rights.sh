#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0-only
# Each unit's processes have, in every thread, what Documentation/processes.rst
# says and no more; systemd-analyze security finds each unit within its limit.
# timeout: 300
. "$(dirname "$0")/lib.bash"
. "$(dirname "$0")/mountlib.bash"

export_units() { systemctl list-units --plain --no-legend 'spicebd-export@*' | awk '{ print $1 }'; }
pids() { cat "/sys/fs/cgroup/$(unit "$1" ControlGroup)/cgroup.procs"; }

# within UNIT COMM CAPABILITIES…: every thread of its processes of that name has
# none but these, nor can get any
within() {
	local bad
	# shellcheck disable=SC2016
	bad=$(python3 -c '
import glob, sys
bits = dict(dac_override=1, dac_read_search=2, setgid=6, setuid=7, net_admin=12, ipc_lock=14,
            sys_admin=21, sys_resource=24)
comm, most = sys.argv[1], sum(1 << bits[c] for c in sys.argv[3:])
n = 0
for pid in sys.argv[2].split():
    with open(f"/proc/{pid}/comm") as f:
        if f.read().strip() != comm:
            continue
    for path in glob.glob(f"/proc/{pid}/task/*/status"):
        with open(path) as f:
            s = dict(line.rstrip("\n").split(":\t", 1) for line in f if ":\t" in line)
        n += 1
        wrong = [c for c in ("CapEff", "CapPrm", "CapBnd") if int(s[c], 16) & ~most]
        wrong += [c for c in ("CapInh", "CapAmb") if int(s[c], 16)]
        wrong += [c for c, v in (("NoNewPrivs", "1"), ("Seccomp", "2")) if s[c] != v]
        for c in wrong:
            print(s["Name"], c, s[c])
if not n:
    print("no such process")
' "$2" "$(pids "$1" | tr '\n' ' ')" "${@:3}" 2>&1)
	equal "$1, $2: within [${*:3}] in each thread, no new privileges, seccomp" "$bad" ""
}

# exposed UNIT TENTHS: at most so much, as systemd-analyze sees it
exposed() {
	local line tenths
	line=$(systemd-analyze security --no-pager "$1" | sed -n 's/^→ Overall exposure level for //p')
	tenths=$(sed -n 's/.*: \([0-9]*\)\.\([0-9]\) .*/\1\2/p' <<<"$line")
	echo "# $line"
	check "$1: exposed at most $(($2 / 10)).$(($2 % 10))" test "${tenths:-99}" -le "$2"
}

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
sys.exit("error" in o and o["error"]["desc"])' "$1" "$2"
}

truncate -s 8M "$work/disk.img"
check "a medium" spicebdctl insert --disk --read-write "$work/disk.img"
check "listen" spice_listen
automount "# as it comes"
make_iso "$work/disc.iso" 2
check "a medium to be mounted" spicebdctl insert 0 "$work/disc.iso"
check "it is mounted" await 60 mounted_at spicebd0 "$place/SELFTEST"
check "an NBD server" qmp nbd-server-start \
	'{"addr": {"type": "unix", "data": {"path": "/run/exports.sock"}}}'
check "an export" qmp nbd-server-add '{"device": "spicebd1", "name": "disc"}'
# A client that stays.
background nbdsh -u 'nbd+unix:///disc?socket=/run/exports.sock' -c 'import time; time.sleep(600)'
check "a client of it" await 60 sh -c "[ \"\$(cat /sys/fs/cgroup/$(unit "$(export_units)" ControlGroup)/cgroup.procs | wc -l)\" -gt 1 ]"

nbdkit=$(nbdkit_units | head -1)
export=$(export_units)
within spicebdd.service spicebdd
within spicebdd.service spicebdd-sock net_admin
within spicebd-link@default.service spicebd-link
within "$nbdkit" spicebd-nbdkit dac_override dac_read_search sys_resource ipc_lock
within "$nbdkit" nbdkit dac_override dac_read_search sys_resource ipc_lock
within "$export" spicebd-export
within "$export" nbdkit
within spicebd-mount@spicebd0.service spicebd-mount sys_admin setuid setgid

exposed spicebdd.service 35
exposed spicebd-link@default.service 31
exposed "$nbdkit" 18
exposed "$export" 22
exposed spicebd-mount@spicebd0.service 40

check "spicebdd cannot write to /etc, /usr, /home, /var" sh -c "
	for d in /etc /usr /home /var; do
		nsenter -t $(unit spicebdd.service MainPID) -m sh -c \"touch \$d/x\" 2>/dev/null && exit 1
	done; true"
check "eject" spicebdctl eject 0
check "unlisten" spicebdctl unlisten
check "the server's end" qmp nbd-server-stop '{}'
check "eject the other" spicebdctl eject 1
done_testing
