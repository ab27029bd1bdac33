# SPDX-License-Identifier: GPL-2.0-only
# shellcheck shell=bash
#
# Stages of a test run, their results and the closing line. Sourced by check and
# check-full with the top of the tree as working directory. Results are one JSON
# object a line, as selftests/runner writes them, in build/results/NAME/.
#
#   SPICEBD_AGAIN   not empty: a test that fails is run a second time, as
#                   selftests/runner says; the closing lines name it

again=()
[ -z "${SPICEBD_AGAIN-}" ] || again=(--again)

stages_begin() {
	stages_dir=$PWD/build/results/$1
	rm -rf "$stages_dir"
	mkdir -p "$stages_dir"
	results=$stages_dir/results.jsonl
	: >"$results"
}

# stage NAME COMMAND…: one result
stage() {
	local name=$1 began=$SECONDS status
	shift
	echo "# stage $name"
	"$@" 2>&1 | tee "$stages_dir/$name.log"
	status=${PIPESTATUS[0]}
	if [ "$status" -eq 0 ]; then
		echo "ok - $name ($((SECONDS - began)) s)"
		stage_result "$name" 1 0
	else
		echo "not ok - $name: exit status $status ($((SECONDS - began)) s)"
		stage_result "$name" 0 1
	fi
	return "$status"
}

stage_result() {
	printf '{"test":"%s","passed":%d,"failed":%d,"skipped":0,"failures":[]}\n' "$1" "$2" "$3" >>"$results"
}

# tests.list: "WHERE PATH" a line; WHERE is host, vm, long or systemd
tests_of() {
	sed -n "s/^$1[[:space:]]\\{1,\\}//p" selftests/tests.list
}

# nth_of N OF: of the tests that come in those that the N-th of so many parts runs
nth_of() {
	awk -v n="$1" -v of="$2" 'NR % of == n % of'
}

# C tests name their own build line in a comment: /* BUILD: gcc … */
build_c_test() {
	local src=$1 out=$2 line
	line=$(sed -n 's/.*BUILD: *//p' "$src" | sed 's|[[:space:]]*\*/.*||' | head -n 1)
	[ -n "$line" ] || { echo "$src names no BUILD line" >&2; return 1; }
	# The line may use $(pkg-config …) and ends without -o.
	eval "$line -o \"$out\""
}

stage_tests() {
	local t list=() out
	mkdir -p build/tests
	for t in $(tests_of "$1"); do
		case $t in
		*.c)
			out=build/tests/$(basename "$t" .c)
			if build_c_test "$t" "$out"; then
				list+=("$out")
			else
				echo "not ok - build of $t"
				stage_result "build $t" 0 1
			fi ;;
		*)	list+=("$t") ;;
		esac
	done
	[ ${#list[@]} -eq 0 ] || selftests/runner "${again[@]}" --results "$results" --prefix "$1:" "${list[@]}"
}

# stage_vm WHERE KERNEL [ARG…]: the tests of one place, or those that
# SPICEBD_TESTS names, in one boot of a machine
stage_vm() {
	local where=$1 k=$2 t status
	shift 2
	local list
	mapfile -t list < <(printf '%s' "${SPICEBD_TESTS:-$(tests_of "$where")}" | tr -s ' ' '\n')
	if [ ${#list[@]} -eq 0 ]; then
		echo "# no tests for $where"
		return 0
	fi
	mkdir -p build/tests
	local got=$stages_dir/$where-$k
	echo "# stage $where-$k: ${#list[@]} test programs"
	selftests/vm/run --kernel "$k" --timeout "${SPICEBD_VM_TIMEOUT:-1500}" --share "$got" "$@" -- \
		sh -c 'exec selftests/runner --results "$SPICEBD_SHARE/results.jsonl" --prefix "$0:" "$@"' \
		"$where-$k" "${again[@]}" "${list[@]}"
	status=$?
	[ -f "$got/results.jsonl" ] && cat "$got/results.jsonl" >>"$results"
	# The machine's own verdict (a splat, a death, the time limit) counts
	# beside those of the tests in it.
	if [ "$status" -eq 0 ] || { [ "$status" -eq 1 ] && [ -f "$got/results.jsonl" ]; }; then
		stage_result "machine $where-$k" 1 0
	else
		echo "not ok - machine $where-$k: exit status $status"
		stage_result "machine $where-$k" 0 1
	fi
}

stages_failed() {
	! /usr/bin/python3 - "$results" <<'PY'
import json, sys
bad = [r for r in map(json.loads, open(sys.argv[1])) if r["failed"]]
sys.exit(1 if bad else 0)
PY
}

# stages_total FILE…: what failed, at once or at last, and the closing line
stages_total() {
	/usr/bin/python3 - "$@" <<'PY'
import json, sys
n = {"passed": 0, "failed": 0, "skipped": 0}
for name in sys.argv[1:]:
    for r in map(json.loads, open(name)):
        for k in n:
            n[k] += r[k]
        for f in r.get("unsteady", ()):
            print(f"UNSTEADY {r['test']} {f}")
        for f in r["failures"] or ([""] if r["failed"] else []):
            print(f"FAILED {r['test']} {f}")
print("{passed} passed, {failed} failed, {skipped} skipped".format(**n))
sys.exit(1 if n["failed"] or not n["passed"] else 0)
PY
}

# stages_parts NAME PARTS [PART…]: runs these parts, or those of PARTS that have
# not passed for this commit yet; part() says what each is. --list names them.
stages_parts() {
	local name=$1 parts=$2 commit kept p
	shift 2

	if [ "${1-}" = --list ]; then
		printf '%s\n' $parts
		exit 0
	fi
	commit=$(git rev-parse --short=12 HEAD 2>/dev/null || echo none)
	# A changed tree is another one: its results are never kept for the next call.
	[ -z "$(git status --porcelain 2>/dev/null)" ] || commit=$commit-changed-$$
	kept=build/results/$name-$commit
	mkdir -p "$kept"

	for p in ${*:-$parts}; do
		[ -z "${1-}" ] && [ -f "$kept/$p.ok" ] && continue
		stages_begin "$name-$commit/$p"
		part "$p"
		if stages_failed; then
			rm -f "$kept/$p.ok"
		else
			touch "$kept/$p.ok"
		fi
	done
	stages_total "$kept"/*/results.jsonl
}

stages_end() {
	stages_total "$results"
}
