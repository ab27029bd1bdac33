#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-only
"""The manual pages say what the programs take: options, verbs, keys of the
configuration and parameters of the module, no more and no less, and how they end;
and man(1) shows each page without a word of its own. So does the shell's completion."""
import glob
import os
import re
import subprocess

import procs
from procs import BIN, TOP, equal, ok, run

# timeout: 120

MAN = f"{TOP}/Documentation/man"
OPTION = re.compile(r"^(--[a-z][a-z-]*)( [A-Z]+)?(?:  |$)", re.M)
# In the list, or in the usage; not where prose speaks of another verb's.
IN_HELP = re.compile(r"(?:^ +|\[|(?<=, )|(?<=DRIVE ))(--[a-z][a-z-]*)", re.M)
COMMON = {"--help", "--json", "--version"}


def page(name):
    with open(f"{MAN}/{name}.rst") as f:
        return f.read()


def sections(text, mark):
    """Titles that are underlined with this, and what is below each."""
    parts = re.split(rf"^(\S.*)\n{re.escape(mark)}+\n", text, flags=re.M)
    return {t: re.split(r"^\S.*\n[=-]{3,}\n", b, flags=re.M)[0]
            for t, b in zip(parts[1::2], parts[2::2])}


def documented(text):
    """{option: takes a value}"""
    return {m.group(1): bool(m.group(2)) for m in OPTION.finditer(text)}


def in_source(*files):
    found = set()
    for f in files:
        with open(f"{TOP}/{f}") as src:
            found |= {"--" + o for o in re.findall(
                r'\{ "([a-z-]+)", (?:no|required)_argument', src.read())}
    return found


def parser_agrees(command, options, what):
    """Whether each is known, and takes a value where the page says so."""
    for o, value in sorted(options.items()):
        if value:
            said = run(*command, o).stderr
            want = "requires an argument"
        else:
            said = run(*command, o + "=x").stderr
            want = "doesn't allow an argument"
        ok(want in said, f"{what} {o} {'VALUE' if value else ''}", said)


def verbs():
    ctl = f"{BIN}/spicebdctl"
    known = re.search(r"^verbs: (.*)$", run(ctl, "--help").stdout, re.M).group(1).split()
    text = page("spicebdctl.8")
    about = {t.split()[0]: b for t, b in sections(text, "-").items()
             if t.split()[0] in known}
    equal(sorted(about), sorted(known), "every verb has its section")
    told = documented(text)
    for v, body in sorted(about.items()):
        told_here = documented(body)
        helped = set(IN_HELP.findall(run(ctl, v, "--help").stdout))
        equal(sorted(told_here), sorted(helped - COMMON), f"{v}: options")
        parser_agrees([ctl, v], told_here, v)
    equal(sorted(set(told) - {"--help", "--json"}),
          sorted(in_source(*[os.path.relpath(f, TOP) for f in
                             glob.glob(f"{TOP}/userhelper/ctl/*.c")]) - {"--help", "--json"}),
          "and there are no others")


def programs():
    for name, source in (("spicebd-share.1", "share/main.c"), ("spicebdd.8", "daemon/main.c"),
                         ("spicebd-link.8", "link/main.c"), ("spicebd-supervisor.8", "supervisor/main.c"),
                         ("spicebd-mount.8", "mount/main.c"), ("spicebd-tls.8", "tls/main.c"),
                         ("spicebd-web.8", "web/main.c")):
        prog = f"{BIN}/{name[:-2]}"
        told = documented(page(name).split("COMMANDS\n")[0])
        synopsis = set(IN_HELP.findall(page(name)))
        helped = set(re.findall(r"(?<![\w-])--[a-z][a-z-]*", run(prog, "--help").stdout))
        known = in_source(f"userhelper/{source}")
        # It may tell of another program's, too.
        equal(sorted(known - helped - {"--help", "--version"}), [],
              f"{name}: --help tells all options")
        equal(sorted(set(told) | (synopsis & COMMON)), sorted(known), f"{name}: so does the page")
        parser_agrees([prog], told, name[:-2])


def statuses():
    """The page, the help and the program's own list have the same numbers."""
    for name, source in (("spicebdctl.8", "ctl/ctl.h"), ("spicebd-share.1", "share/main.c")):
        told = re.findall(r"^(\d+)$", sections(page(name), "=")["EXIT STATUS"], re.M)
        helped = re.search(r"Exit status: ((?:.|\n)*?)\.\n", run(f"{BIN}/{name[:-2]}", "--help").stdout)
        with open(f"{TOP}/userhelper/{source}") as f:
            known = re.search(r"enum[\w ]* \{\s*((?:EXIT_\w+(?: = \d+)?,?\s*)+)\}", f.read()).group(1)
        want = [str(i) for i in range(len(re.findall(r"EXIT_\w+", known)))]
        equal(told, want, f"{name}: exit statuses")
        equal(re.findall(r"(?:^|[,;]\s)(\d+) ", helped.group(1)), want, f"{name}: in its help, too")


def keys():
    bodies = sections(page("spicebd.conf.5"), "=")

    def told(title):
        return sorted(re.findall(r"\*\*([a-z-]+)=\*\*(?=,|\n)", bodies[title]))

    with open(f"{TOP}/userhelper/lib/linkconf.c") as f:
        equal(told("LISTENERS"), sorted(re.findall(r'KEY\("([a-z-]+)"', f.read())), "links.d: keys")
    with open(f"{TOP}/userhelper/mount/automount.conf") as f:
        usual = re.findall(r"^#([a-z-]+)=(.*)$", f.read(), re.M)
    equal(told("AUTOMOUNT"), sorted(k for k, _ in usual), "automount.conf: keys")
    conf = f"{procs.run_dir}/automount.conf"
    for k, v in usual:
        with open(conf, "w") as f:
            f.write(f"{k}={v}\n")
        ok(run(f"{BIN}/spicebd-mount", "--check", conf).returncode == 0, f"{k}= is taken")
    with open(conf, "w") as f:
        f.write("colour=blue\n")
    ok(run(f"{BIN}/spicebd-mount", "--check", conf).returncode != 0, "another is not")


def parameters():
    known = set()
    for f in glob.glob(f"{TOP}/kmod/*.c"):
        with open(f) as src:
            known |= set(re.findall(r"^module_param(?:_cb)?\((\w+)", src.read(), re.M))
    told = re.findall(r"^\*\*(\w+)\*\*$", sections(page("spicebd.4"), "=")["PARAMETERS"], re.M)
    equal(sorted(told), sorted(known), "the module's parameters")


def rendered():
    """As they are installed, in a terminal."""
    r = run("make", "-s", "-C", f"{TOP}/userhelper", f"O={procs.run_dir}", "man")
    ok(r.returncode == 0 and not r.stderr, "rst2man makes them without a warning", r)
    pages = sorted(os.listdir(f"{procs.run_dir}/man"))
    equal(pages, ["spicebd-export.8", "spicebd-link.8", "spicebd-mount.8", "spicebd-nbdkit.8",
                  "spicebd-share.1", "spicebd-supervisor.8", "spicebd-tls.8", "spicebd-web.8",
                  "spicebd.4",
                  "spicebd.conf.5", "spicebdctl.8", "spicebdd.8"], "the pages")
    for p in pages:
        r = subprocess.run(["man", "--warnings", "-l", f"{procs.run_dir}/man/{p}"],
                           capture_output=True, text=True,
                           env={**os.environ, "LC_ALL": "C.UTF-8", "MANWIDTH": "80", "MAN_KEEP_FORMATTING": ""})
        name = p.rsplit(".", 1)[0]
        ok(r.returncode == 0 and not r.stderr and re.search(rf"^ +{re.escape(name)} +- +\S", r.stdout, re.M),
           f"man shows {p}", r.stderr)
        others = set(re.findall(r"\b(spicebd[a-z.-]*)\((\d)\)", r.stdout))
        ok(all(f"{n}.{s}" in pages for n, s in others), f"{p} names pages that there are", others)


def complete(*words):
    """What bash would offer for the last word."""
    script = f"""
. /usr/share/bash-completion/bash_completion
PATH={BIN}:$PATH
. {TOP}/userhelper/completion/spicebdctl
COMP_WORDS=({' '.join(words)}{" ''" if not words[-1] else ''})
COMP_CWORD={len(words) - 1}
COMP_LINE="{' '.join(words)}"
COMP_POINT=${{#COMP_LINE}}
compopt() {{ :; }}
_spicebdctl spicebdctl
printf '%s\\n' "${{COMPREPLY[@]}}"
"""
    return run("bash", "--norc", "-c", script).stdout.split("\n")[:-1]


def completion():
    equal(complete("spicebdctl", "fr"), ["freeze"], "completion of a verb")
    equal(sorted(complete("spicebdctl", "freeze", "--")),
          ["--fs", "--help", "--holder", "--json", "--timeout"], "of its options")
    equal(complete("spicebdctl", "migrate", "--resolve", "r"), ["run-here"], "of an option's value")
    os.mkdir(f"{procs.run_dir}/cwd")
    with open(f"{procs.run_dir}/cwd/disc.iso", "w"):
        pass
    os.chdir(f"{procs.run_dir}/cwd")
    ok("disc.iso" in complete("spicebdctl", "insert", "di"), "of a file")


def test():
    verbs()
    programs()
    statuses()
    keys()
    parameters()
    rendered()
    completion()


procs.main(test, "spicebdctl", "spicebdd", "spicebd-link", "spicebd-share", "spicebd-mount",
           "spicebd-supervisor", "spicebd-tls", "spicebd-web")
