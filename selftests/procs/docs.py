#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-only
"""The pages of Documentation/ are well-formed, and what they name is there: other
pages, files of the tree, verbs and their options, texts of the programs. That of the
netlink family is the one that the specification gives."""
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


procs.main(docs, "spicebdctl")
