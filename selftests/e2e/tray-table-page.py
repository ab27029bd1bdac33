#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-only
"""Documentation/tray-acceptance.rst and the tests name the same rows: every
name on the page is in a test's --list, and every row is on the page."""
import os
import re
import subprocess
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
PAGE = os.path.join(HERE, "../../Documentation/tray-acceptance.rst")
PROGRAMS = ("tray-table.py", "tray-table-ctl.py", "tray-table-readonly.py",
            "tray-table-lock.py")
# The names of 118: the general ones (12 in each class, one of them where filled
# and another where empty), those for read-only-mode, the one for jobs.
METHODS_OF_118 = 13 + 10 + 1


def rows_listed():
    """Of all programs: name of a row, without its class: its classes."""
    rows = {}
    for p in PROGRAMS:
        out = subprocess.run([os.path.join(HERE, p), "--list"], check=True,
                             capture_output=True, text=True).stdout
        for line in out.splitlines():
            group, colon, name = line.partition(": ")
            assert colon, f"{p}: a row without a class: {line}"
            rows.setdefault(name, []).append(group)
    return rows


def tables(text):
    """The lines, as cells, of the page's simple tables: those of 118's methods,
    and those of our own rows."""
    found = {"method of 118": [], "own row": []}
    rules, columns, head = 0, [], None
    for line in text.splitlines():
        if re.fullmatch(r"=+( +=+)+", line):
            rules = rules % 3 + 1
            columns = [m.start() for m in re.finditer("=+", line)] + [None]
            continue
        if rules not in (1, 2):
            continue
        cells = [line[a:b].strip() for a, b in zip(columns, columns[1:])]
        if rules == 1:
            head = cells[0]
        elif head in found:
            found[head].append(cells)
    return found["method of 118"], found["own row"]


def main():
    with open(PAGE, encoding="utf-8") as f:
        text = f.read()
    listed = rows_listed()
    methods, own = tables(text)
    absent = re.findall(r"^``(test_\w+)``$", text.split("Not applicable")[1], re.M)
    on_page = {c[1] for c in methods} | {c[0] for c in own if c[0]}
    checks = [
        ("the page names each method of iotest 118",
         len({c[0] for c in methods} | set(absent)) == METHODS_OF_118,
         f"{len(methods)} in tables, {len(absent)} not applicable, not {METHODS_OF_118}"),
        ("a method has one row or none",
         len(methods) == len({c[0] for c in methods}) and
         not {c[0].strip('`') for c in methods} & set(absent), methods),
        ("each name on the page is a row of a test", not on_page - set(listed),
         sorted(on_page - set(listed))),
        ("each row of a test is on the page", not set(listed) - on_page,
         sorted(set(listed) - on_page)),
    ]
    for method, row, where in methods:
        want = len(classes(where))
        got = len(listed.get(row, []))
        checks.append((f"{method.strip('`')}: {row} in {want} classes", want == got,
                       f"in {got}: {listed.get(row)}"))
    print(f"1..{len(checks)}")
    for i, (name, good, why) in enumerate(checks, 1):
        if not good:
            print("#", why)
        print(f"{'ok' if good else 'not ok'} {i} - {name}")
    sys.exit(any(not good for _, good, _ in checks))


def classes(where):
    """What the third column stands for."""
    general = [f"{p} {f} {w}" for p in ("cdrom", "disk") for f in ("filled", "empty")
               for w in ("qmp", "node", "ctl")]
    return {"all": general, "filled": [c for c in general if "filled" in c],
            "empty": [c for c in general if "empty" in c],
            "all media": ["file", "fd", "nbd", "ctl"]}[where]


if __name__ == "__main__":
    main()
