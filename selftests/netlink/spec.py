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

UAPI = ("uapi/linux/spicebd.h", "include/uapi/linux/spicebd.h")
CTRL_CMD_GETPOLICY = 10
NLM_F_DUMP = 0x300
# nl80211-style types that the kernel's policy dump uses
TYPES = {1: "flag", 2: "u8", 3: "u16", 4: "u32", 5: "u64", 6: "s8", 7: "s16",
         8: "s32", 9: "s64", 10: "binary", 11: "string", 12: "string",
         13: "nest"}
# NL_POLICY_TYPE_ATTR_*
LIMITS = {2: "min", 3: "max", 4: "min", 5: "max", 6: "min-len", 7: "max-len"}


def tree():
    """Where the header and the specification are: our tree, or a kernel's."""
    at = os.path.dirname(os.path.abspath(__file__))
    while at != "/":
        at = os.path.dirname(at)
        if any(os.path.exists(f"{at}/{u}") for u in UAPI):
            return at
    raise Skip("installed alone, without the tree")


def header_text():
    path = next(p for p in (f"{tree()}/{u}" for u in UAPI) if os.path.exists(p))
    with open(path, encoding="utf-8") as f:
        return re.sub(r"/\*.*?\*/", "", f.read(), flags=re.S)


def spec():
    try:
        import yaml
    except ImportError as e:
        raise Skip("no yaml module") from e
    with open(tree() + "/Documentation/netlink/specs/spicebd.yaml",
              encoding="utf-8") as f:
        return yaml.safe_load(f)


def header():
    """Constants of the header, as the compiler's preprocessor and rules of
    enumerations would have them."""
    text = header_text()
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
    text = header_text()
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


def rule(what):
    """Type and limits of an attribute, in the specification's words."""
    limits = {LIMITS[k]: number(v) for k, v in what.items() if k in LIMITS}
    if "min-len" in limits and limits["min-len"] == limits.get("max-len"):
        limits["exact-len"] = limits["max-len"]
    return TYPES[number(what[1])], limits


def told(kind, limits, checks):
    """What the kernel tells of these. It is silent on the length of binary data
    whose range does not fit into a policy's 16 bits."""
    if kind == "binary" and not limits:
        return checks
    return {k: v for k, v in limits.items() if k in checks}


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
                            policies.setdefault(index, {})[at] = rule(dict(parse(what)))
        sets = {a["name"]: a["attributes"] for a in s["attribute-sets"]}
        wanted = {}
        for i, op in enumerate(s["operations"]["list"]):
            if "do" not in op:
                continue
            names = op["do"]["request"]["attributes"]
            wanted[i] = {at: (e["type"], e.get("checks", {})) for at, e in enumerate(
                sets[op["attribute-set"]]) if e["name"] in names}
        same({i: set(policies[p]) for i, p in ops.items()},
             {i: set(w) for i, w in wanted.items()}, "attributes of each command")
        same({i: {at: (kind, told(kind, limits, wanted[i][at][1]))
                  for at, (kind, limits) in policies[p].items()} for i, p in ops.items()},
             wanted, "policies")


run(header_and_spec, spec_and_module)
