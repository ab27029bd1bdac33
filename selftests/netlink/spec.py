#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-only
#
# uapi/linux/spicebd.h, the YNL spec and the module's policies say the same:
# names and numbers of the first two (needs no module), and the attributes and
# types that each command of the loaded module takes.
import os
import re
import struct

from helper import GENL_ID_CTRL, Netlink, attr, number, parse
from tap import Skip, module, run, same

TREE = os.path.join(os.path.dirname(os.path.abspath(__file__)), "../..")
CTRL_CMD_GETPOLICY = 10
NLM_F_DUMP = 0x300
# nl80211-style types that the kernel's policy dump uses
TYPES = {1: "flag", 2: "u8", 3: "u16", 4: "u32", 5: "u64", 6: "s8", 7: "s16",
         8: "s32", 9: "s64", 10: "binary", 11: "string", 12: "string",
         13: "nest"}


def spec():
    try:
        import yaml
    except ImportError as e:
        raise Skip("no yaml module") from e
    with open(TREE + "/Documentation/netlink/specs/spicebd.yaml",
              encoding="utf-8") as f:
        return yaml.safe_load(f)


def header():
    """Constants of the header, as the compiler's preprocessor and rules of
    enumerations would have them."""
    with open(TREE + "/uapi/linux/spicebd.h", encoding="utf-8") as f:
        text = re.sub(r"/\*.*?\*/", "", f.read(), flags=re.S)
    out = {}
    for name, value in re.findall(r"#define (SPICEBD_\w+)\s+(.+)", text):
        try:
            out[name] = eval(value.replace("U", ""), {}, dict(out))
        except (SyntaxError, NameError):
            out[name] = value
    for body in re.findall(r"enum \w* ?\{(.*?)\}", text, flags=re.S):
        value = 0
        for entry in body.split(","):
            name, _, given = entry.strip().partition("=")
            if not name:
                continue
            if given:
                value = eval(given, {}, dict(out))
            out[name.strip()] = value
            value += 1
    return out


def members(name):
    """Members of a struct in the header."""
    with open(TREE + "/uapi/linux/spicebd.h", encoding="utf-8") as f:
        text = re.sub(r"/\*.*?\*/", "", f.read(), flags=re.S)
    body = re.search(r"struct %s \{(.*?)\}" % name, text, flags=re.S)[1]
    return [(n, t) for t, n in re.findall(r"__(\w+) (\w+);", body)]


def upper(*parts):
    return "".join(parts).upper().replace("-", "_")


def header_and_spec():
    s, h = spec(), header()
    seen = set()

    def is_same(name, value):
        seen.add(name)
        same(h.get(name), value, name)
    for d in s["definitions"]:
        if d["type"] == "struct":
            same(members(d["name"].replace("-", "_")),
                 [(m["name"].replace("-", "_"), m["type"]) for m in
                  d["members"]], d["name"])
            continue
        prefix = d["name-prefix"]
        if d["type"] == "const":
            is_same(upper(prefix, d["name"]), d["value"])
            continue
        for i, e in enumerate(d["entries"]):
            name = e["name"] if isinstance(e, dict) else e
            is_same(upper(prefix, name), 1 << i if d["type"] == "flags" else i)
    for a in s["attribute-sets"]:
        for i, e in enumerate(a["attributes"]):
            is_same(upper(a["name-prefix"], e["name"]), i)
    for i, op in enumerate(s["operations"]["list"]):
        is_same(upper(s["operations"]["name-prefix"], op["name"]), i)
    for name in h:
        if name.startswith("__") or name.endswith("_MAX") or \
           "_DEFAULT_" in name or "_FAMILY_" in name or "_MCGRP_" in name:
            continue
        assert name in seen, name + " is not in the spec"


def spec_and_module():
    s = spec()
    with module("drives="):
        nl = Netlink()
        ops, policies = {}, {}
        for body in nl._talk(GENL_ID_CTRL, CTRL_CMD_GETPOLICY,
                             attr(1, struct.pack("=H", nl.family)),
                             NLM_F_DUMP):
            for kind, payload in parse(body[4:]):
                for index, inner in parse(payload):
                    if kind == 9:       # CTRL_ATTR_OP_POLICY
                        ops[index] = number(dict(parse(inner))[1])
                    elif kind == 8:     # CTRL_ATTR_POLICY
                        for at, what in parse(inner):
                            policies.setdefault(index, {})[at] = TYPES[
                                number(dict(parse(what))[1])]
        sets = {a["name"]: a["attributes"] for a in s["attribute-sets"]}
        wanted = {}
        for i, op in enumerate(s["operations"]["list"]):
            if "do" not in op:
                continue
            names = op["do"]["request"]["attributes"]
            wanted[i] = {at: e["type"] for at, e in enumerate(
                sets[op["attribute-set"]]) if e["name"] in names}
        same({i: policies[p] for i, p in ops.items()}, wanted, "policies")


run(header_and_spec, spec_and_module)
