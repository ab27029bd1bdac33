#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-only
"""The pages of Documentation/ are well-formed, and what they name is there: other
pages, files of the tree, verbs and their options, texts of the programs. That of the
netlink family is the one that the specification gives. Each command and event of QMP
and each file in sysfs is told of, and the internals have their diagrams."""
import glob
import os
import re
import subprocess

import docutils.core
import docutils.utils

import procs
from procs import BIN, TOP, equal, ok, run

# timeout: 120

DOCS = f"{TOP}/Documentation"
# Written by a build, or of another tree.
ELSEWHERE = re.compile(r"^(build/|scripts/sign-file)")
TREE = re.compile(r"(?<![\w/.-])((?:kmod|userhelper|selftests|uapi|Documentation|packaging)"
                  r"/[\w./-]*\w)")
# Where it is typed, not where a sentence speaks of it.
COMMAND = re.compile(r"(?:``|^\s+(?:sudo |[\w.]+:\s+)?)spicebdctl (\S.*)")
STRINGS = re.compile(r'"((?:[^"\\\n]|\\.)*)"(?:\s*(?:PRI\w+)?\s*"((?:[^"\\\n]|\\.)*)")*')


def pages():
    return sorted(glob.glob(f"{DOCS}/*.rst")) + [f"{TOP}/README.md"]


def text_of(path):
    with open(path, encoding="utf-8") as f:
        return f.read()


def well_formed(path):
    said = []

    class Heard:
        def write(self, text):
            said.append(text)

        def close(self):
            pass

    docutils.core.publish_doctree(text_of(path), source_path=path, settings_overrides={
        "report_level": 2, "halt_level": 5, "warning_stream": Heard(),
        "file_insertion_enabled": False})
    return "".join(said)


def missing_pages(text):
    there = {os.path.basename(p) for p in glob.glob(f"{DOCS}/**/*.rst", recursive=True)}
    return sorted(set(re.findall(r"(?<![\w/.{,-])([\w-]+\.rst)", text)) - there)


def missing_files(text):
    names = {n for n in TREE.findall(text) if not ELSEWHERE.match(n)}
    return sorted(n for n in names if not os.path.exists(f"{TOP}/{n}")
                  and not glob.glob(f"{TOP}/{n}*"))


def unknown_commands(text, known):
    """Verbs that are none, and options that the verb of their line has not."""
    wrong = []
    for line in text.replace("\\\n", " ").splitlines():
        for typed in COMMAND.findall(line):
            words = re.split(r"``|\s\||\s#|'|$", typed)[0].split()
            if words[0] not in known:
                wrong.append(words[0])
                continue
            options = [w.strip("[]") for w in words if w.strip("[]").startswith("--")]
            wrong += [f"{words[0]} {o}" for o in options
                      if o.split("=")[0] not in known[words[0]]]
    return wrong


def verbs():
    """{verb: what its help names}"""
    listed = re.search(r"^verbs: (.*)$", run(f"{BIN}/spicebdctl", "--help").stdout, re.M)
    return {v: set(re.findall(r"--[a-z][a-z-]*", run(f"{BIN}/spicebdctl", v, "--help").stdout)) |
            {"--help", "--json"} for v in listed.group(1).split()}


def texts_of_programs():
    """All string constants, those that follow each other as one."""
    out = []
    for path in glob.glob(f"{TOP}/userhelper/**/*.c", recursive=True):
        joined = re.sub(r'"\s*\n?\s*"', "", text_of(path))
        out += [m.group(1).replace('\\"', '"') for m in STRINGS.finditer(joined)]
    return out


def symptoms():
    """The texts in quotes that stand where a symptom does."""
    guide = text_of(f"{DOCS}/admin-guide.rst").split("Troubleshooting\n===")[1]
    return re.findall(r'^"(.*)"$', guide, re.M)


def sources(where):
    return "".join(text_of(p) for p in sorted(glob.glob(f"{TOP}/{where}")))


def quoted():
    """All that stands as code in a page."""
    return set(re.findall(r"``([^`\n]+)``", "".join(text_of(p) for p in pages())))


def qmp():
    code = sources("userhelper/daemon/*.c")
    tables = re.findall(r"^const struct cmd_desc \w+\[\] = \{\n(.*?)^\};", code, re.M | re.S)
    commands = {c for t in tables for c in re.findall(r'^\t\{ "([\w-]+)",', t, re.M)}
    events = set(re.findall(r'"([A-Z][A-Z_]+)",?\s*\n?\s*"[a-z-]+:',
                            text_of(f"{TOP}/userhelper/daemon/schema_types.c")))
    ok(len(commands) > 40 and len(events) > 10, "the tables of QMP are found", (commands, events))
    # "``eject {device?, force?}``" is of it, too.
    told = {q.split()[0] for q in quoted()}
    equal(sorted(commands - told), [], "every command of QMP is told of")
    equal(sorted(events - told), [], "every event, too")


def sysfs():
    files = set(re.findall(r"&dev_attr_(\w+)\.attr", sources("kmod/*.c")))
    terms = re.findall(r"^(``\w+``(?:, ``\w+``)*)$", text_of(f"{DOCS}/sysfs.rst"), re.M)
    equal(sorted(re.findall(r"``(\w+)``", " ".join(terms))), sorted(files),
          "sysfs.rst has each file, and no other")


def section(text, title):
    """Up to the next heading of its kind."""
    m = re.search(rf"^{re.escape(title)}\n([=-])\1+\n(.*?)(?=^\S[^\n]*\n\1{{3,}}\n|\Z)", text,
                  re.M | re.S)
    return m.group(2) if m else ""


def internals():
    text = text_of(f"{DOCS}/internals.rst")
    kmod = sources("kmod/*.[ch]")
    for title in ("Locks", "Life of a request", "Life of a medium"):
        drawn = [b for b in re.findall(r"::\n\n((?:    .*\n|\n)+)", section(text, title))
                 if b.count("|") >= 5]
        ok(drawn, f"internals.rst: {title}: there is a diagram")
        named = set(re.findall(r"\b(?:sbd_|drive->|disk->|sock->)\w+", "".join(drawn)))
        gone = [n for n in named if not re.search(rf"\b{n.split('->')[-1]}\b", kmod)]
        equal(gone, [], f"internals.rst: {title}: what it names is in the module")


def docs():
    known = verbs()
    for path in pages():
        name, text = os.path.basename(path), text_of(path)
        if name.endswith(".rst"):
            equal(well_formed(path), "", f"{name}: well-formed")
        equal(missing_pages(text), [], f"{name}: pages")
        equal(missing_files(text), [], f"{name}: files")
        equal(unknown_commands(text, known), [], f"{name}: commands")
    told = symptoms()
    ok(len(told) > 10, "symptoms are found", told)
    texts = texts_of_programs()
    for s in told:
        ok(any(s in t for t in texts), f'a program says "{s}"')
    rendered = subprocess.run([f"{DOCS}/netlink/render"], capture_output=True, text=True,
                              check=False)
    ok(rendered.stdout == text_of(f"{DOCS}/netlink.rst"),
       "netlink.rst is made from the specification", rendered.stderr)
    qmp()
    sysfs()
    internals()


procs.main(docs, "spicebdctl")
