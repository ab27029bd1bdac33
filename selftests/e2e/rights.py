#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-only
"""Who has which rights. A stranger, as a plain user, as root of a user namespace of
his own, and in a network namespace of his own too, tries every command of the
netlink family, every command of both QMP sockets, and every file of ours: he reads
status, in which there are no paths, addresses or clients, and nothing else. And each
thread of each program has what Documentation/processes.rst says, and no more."""
# timeout: 300
import ctypes
import errno
import json
import os
import shutil
import socket
import subprocess
import sys

import nbd
import yaml

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "../netlink"))
sys.dont_write_bytecode = True
import helper as H                      # noqa: E402
import tap                              # noqa: E402
from traylib import Qmp, RUN, until     # noqa: E402

TOP = os.path.join(os.path.dirname(os.path.abspath(__file__)), "../..")
NOBODY = 65534
DRIVES = "spicebd0", "spicebd1", "spicebd2"
VALUES = {"u8": 1, "u16": 2, "u32": 4, "s32": 4, "u64": 8}
# Rights of the programs, as bits; Documentation/processes.rst.
DAC_OVERRIDE, DAC_READ_SEARCH, NET_ADMIN, IPC_LOCK, SYS_RESOURCE = 1 << 1, 1 << 2, 1 << 12, \
    1 << 14, 1 << 24
MEDIUM = DAC_OVERRIDE | DAC_READ_SEARCH | IPC_LOCK | SYS_RESOURCE


def spec():
    with open(f"{TOP}/Documentation/netlink/specs/spicebd.yaml", encoding="utf-8") as f:
        return yaml.safe_load(f)


def body(s, set_name, wanted):
    """Attributes that the policy takes: the least value of each."""
    out, kind = b"", -1
    attributes = next(a for a in s["attribute-sets"] if a["name"] == set_name)["attributes"]
    consts = {d["name"]: d.get("value") for d in s["definitions"]}
    for a in attributes:
        kind = a.get("value", kind + 1)
        if a["name"] not in wanted:
            continue
        least = a.get("checks", {}).get("min", 0)
        least = consts.get(least, least) or (4096 if a["type"] == "u64" else 0)
        if a["type"] in VALUES:
            out += H.attr(kind, (least & (1 << 8 * VALUES[a["type"]]) - 1).to_bytes(
                VALUES[a["type"]], sys.byteorder))
        elif a["type"] == "nest":
            out += H.attr(kind | H.NLA_F_NESTED, H.u64(H.M_SIZE, 1 << 20))
        elif a["type"] == "flag":
            out += H.attr(kind, b"")
        else:
            out += H.attr(kind, bytes(16))
    return out


def commands():
    """Each command of the family: name, number, attributes; None: none to be sent."""
    s, number = spec(), -1
    for op in s["operations"]["list"]:
        number = op.get("value", number + 1)
        if number == 0:
            continue
        do = op.get("do", {}).get("request")
        yield op["name"], number, do and body(s, op["attribute-set"], do["attributes"])


# ---- the stranger; what he could do goes to the parent as JSON

def try_netlink():
    try:
        nl = H.Netlink()
    except OSError as e:
        return {"family": errno.errorcode[e.errno]}
    out, raw = {}, b""
    for name, number, attrs in commands():
        try:
            for b in nl.do(number, attrs or b""):
                raw += b
            code = 0
        except OSError as e:
            code = e.errno
        out[name] = "EOPNOTSUPP" if code == errno.EOPNOTSUPP else errno.errorcode.get(code, "0")
    raw += b"".join(nl._talk(nl.family, H.DRIVE_GET, b"", H.NLM_F_DUMP))
    nl.subscribe()
    return {"family": "0", "commands": out, "said": raw.hex()}


def try_path(path):
    """The ways in which it opens to him."""
    ways = []
    for flags, name in ((os.O_RDONLY, "read"), (os.O_WRONLY, "write")):
        try:
            os.close(os.open(path, flags | os.O_NONBLOCK))
            ways.append(name)
        except OSError:
            pass
    for kind in (socket.SOCK_STREAM, socket.SOCK_SEQPACKET):
        with socket.socket(socket.AF_UNIX, kind) as s:
            try:
                s.connect(path)
                ways.append("connect")
            except OSError:
                pass
    if os.path.isdir(path):
        try:
            os.mkdir(f"{path}/stranger")
            ways.append("create")
            os.rmdir(f"{path}/stranger")
        except OSError:
            pass
    for what in (lambda: os.chmod(path, 0o777), lambda: os.rename(path, path + "x"),
                 lambda: os.setxattr(path, "user.x", b"x")):
        try:
            what()
            ways.append("change")
        except OSError:
            pass
    return ways


def try_qmp(names):
    q = Qmp("status")
    out, said = {}, ""
    for name in names:
        a = q.cmd(name)
        out[name] = getattr(a, "desc", None) or "allowed"
        said += repr(vars(a))
    q.close()
    return {"commands": out, "said": said}


def contents(paths):
    text = ""
    for p in paths:
        try:
            with open(os.open(p, os.O_RDONLY | os.O_NONBLOCK), "rb") as f:
                text += f.read(1 << 16).decode(errors="replace")
        except OSError:
            pass
    return text


def stranger(what):
    job = json.load(sys.stdin)
    with open("/proc/self/status", encoding="ascii") as f:
        caps = next(line.split()[1] for line in f if line.startswith("CapEff"))
    out = {"uid": os.getuid(), "caps": caps, "netlink": try_netlink()}
    if what == "all":
        out["qmp"] = try_qmp(job["qmp"])
        out["paths"] = {p: w for p in job["paths"] if (w := try_path(p))}
        out["sysfs"] = [p for p in job["sysfs"] if "write" in try_path(p)]
        out["said"] = contents(job["sysfs"])
    json.dump(out, sys.stdout)


# ---- the world that he meets

class World:
    def __init__(self):
        self.dir = "/root/geheim"
        shutil.rmtree(self.dir, ignore_errors=True)
        os.makedirs(self.dir, 0o700)
        self.procs, self.q = [], Qmp()

    def spawn(self, *argv):
        self.procs.append(subprocess.Popen(argv, stdout=subprocess.DEVNULL,
                                           stderr=subprocess.DEVNULL))

    def build(self):
        d = self.dir
        for n in ("disk.img", "far.img", "shared.img"):
            with open(f"{d}/{n}", "wb") as f:
                f.truncate(8 << 20)
        self.spawn("nbdkit", "-f", "-U", f"{d}/nbd.sock", "file", f"{d}/far.img")
        until(lambda: os.path.exists(f"{d}/nbd.sock"), "nbdkit")
        tap.sh(f"spicebdctl insert --disk --read-write {d}/disk.img")
        tap.sh(f"spicebdctl insert --disk nbd+unix:///?socket={d}/nbd.sock")
        with open(os.open(f"{d}/password", os.O_CREAT | os.O_WRONLY, 0o600), "w",
                  encoding="ascii") as f:
            f.write("geheim\n")
        tap.sh(f"spicebdctl listen 127.0.0.1:5930 --password-file {d}/password")
        self.spawn("spicebd-share", "--uri", "spice://127.0.0.1:5930", "--password-file",
                   f"{d}/password", "--cdrom", f"{d}/shared.img")
        until(lambda: "shared.img" in tap.sh("spicebdctl media"), "the share")
        tap.sh("spicebdctl insert --cdrom spice:shared.img")
        self.q.do("nbd-server-start", addr={"type": "unix", "data": {"path": f"{d}/export.sock"}})
        self.q.do("nbd-server-add", device="spicebd1", name="x")
        self.client = nbd.NBD()
        self.client.set_export_name("x")
        self.client.connect_unix(f"{d}/export.sock")
        self.client.pread(512, 0)

    def state(self):
        keys = ("name", "tray", "state", "generation", "helper", "reconnect_timeout",
                "stall_timeout")
        return [{k: d.get(k) for k in keys} for d in H.Netlink().drives()]

    def paths(self):
        return [RUN] + [os.path.join(d, n) for d, ds, fs in os.walk(RUN) for n in ds + fs] + \
            [f"/dev/{d}" for d in os.listdir("/dev") if d.startswith("spicebd")] + \
            [p for p in ("/sys/kernel/debug/spicebd", "/sys/kernel/tracing/events/spicebd")
             if os.path.exists(p)]

    @staticmethod
    def sysfs():
        tops = [os.path.realpath(f"/sys/block/{d}") for d in DRIVES] + ["/sys/module/spicebd"]
        return [os.path.join(d, n) for t in tops for d, _, fs in os.walk(t) for n in fs]

    def send(self, what, *how):
        names = [e["name"] for e in self.q.do("query-qmp-schema") if e["meta-type"] == "command"]
        job = {"qmp": names, "paths": self.paths(), "sysfs": self.sysfs()}
        p = subprocess.run([*how, sys.executable, os.path.abspath(__file__), what],
                           input=json.dumps(job), capture_output=True, text=True, timeout=200,
                           check=False)
        assert p.returncode == 0, p.stderr
        return json.loads(p.stdout)

    def close(self):
        self.q.cmd("nbd-server-stop")
        for d in DRIVES:
            tap.sh(f"spicebdctl eject --force {d}", check=False)
        tap.sh("spicebdctl del --force spicebd2", check=False)
        tap.sh("spicebdctl unlisten", check=False)
        for p in self.procs:
            p.kill()
            p.wait()
        shutil.rmtree(self.dir)


WORLD = None            # the tests', not the stranger's
AS_USER = "setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups", "--inh-caps=-all"
QUEUE_SOCKETS = {"queue-bind": "EKEYREJECTED", "io-data": "ENOTCONN", "io-complete": "ENOTCONN",
                 "io-answers": "ENOTCONN"}


def check_netlink(got, names):
    tap.same(got["family"], "0", "the family is there")
    tap.same(sorted(got["commands"]), sorted(names), "each command was tried")
    for name, number, attrs in commands():
        want = "0" if name == "drive-get" else "EOPNOTSUPP" if attrs is None else \
            QUEUE_SOCKETS.get(name, "EPERM")
        have = got["commands"][name]
        assert have == want, f"{name} ({number}): {have}, not {want}"
    said = bytes.fromhex(got["said"])
    assert b"spicebd1" in said and b"geheim" not in said, said


def check_files(got):
    listed = {RUN, f"{RUN}/links.d", f"{RUN}/mount"}
    for path, ways in got["paths"].items():
        want = {"connect"} if path == f"{RUN}/status.sock" else \
            {"read"} if path in listed or path.startswith(f"{RUN}/mount/") else set()
        assert set(ways) <= want, f"{path} lets a stranger {ways}"
    assert got["paths"].get(f"{RUN}/status.sock") == ["connect"], got["paths"]
    tap.same(got["sysfs"], [], "files of sysfs that he may write")
    assert "geheim" not in got["said"], "sysfs tells of it"


def check_qmp(got):
    assert len(got["commands"]) > 20, got["commands"]
    for name, answer in got["commands"].items():
        may = name.startswith(("query-", "spicebd-query")) or name == "qmp_capabilities"
        assert may or "not allowed on the status socket" in answer, f"{name}: {answer}"
    for word in ("geheim", "127.0.0.1", "nbd+unix", "local process"):
        assert word not in got["said"], f"the status socket tells of {word}: {got['said']}"


def check_all(got, caps):
    before = check_all.state
    tap.same(set(got["caps"]) != {"0"}, caps, f"capabilities: {got['caps']}")
    check_netlink(got["netlink"], [n for n, _, _ in commands()])
    check_qmp(got["qmp"])
    check_files(got)
    tap.same(WORLD.state(), before, "the drives are as they were")


def a_plain_user():
    WORLD.build()
    check_all.state = WORLD.state()
    assert len(check_all.state) == 3, check_all.state
    # That it is not the commands that are wrong: who may, does.
    root = H.Netlink().manage()
    tap.same([root.verb(H.LOCK, 0), root.verb(H.UNLOCK, 0)], [0, 0], "as the administrator")
    check_all(WORLD.send("all", *AS_USER), False)


def namespaces():
    """Must be allowed here, or this says nothing."""
    path = "/proc/sys/kernel/unprivileged_userns_clone"
    if os.path.exists(path):
        with open(path, "w", encoding="ascii") as f:
            f.write("1")


def root_of_a_user_namespace():
    namespaces()
    got = WORLD.send("all", *AS_USER, "unshare", "-Ur")
    tap.same(got["uid"], 0, "is root there")
    check_all(got, True)


def root_of_a_mount_and_pid_namespace_too():
    check_all(WORLD.send("all", *AS_USER, "unshare", "-Urmpf", "--mount-proc"), True)


def root_of_a_network_namespace_too():
    got = WORLD.send("netlink", *AS_USER, "unshare", "-Urn")
    tap.same((got["uid"], got["netlink"]), (0, {"family": "ENOENT"}), "there is no family")


def root_in_a_user_namespace_of_its_own():
    """Whose files are ours, but whose capabilities are not."""
    got = WORLD.send("netlink", "unshare", "-Ur")
    check_netlink(got["netlink"], [n for n, _, _ in commands()])
    tap.same(WORLD.state(), check_all.state, "the drives are as they were")


# ---- our own programs

def processes():
    """pid: (name, ppid, cmdline) of all of ours."""
    out = {}
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{pid}/stat", encoding="utf-8") as f:
                stat = f.read()
            with open(f"/proc/{pid}/cmdline", encoding="utf-8") as f:
                argv = f.read().split("\0")
        except OSError:
            continue
        name = stat[stat.index("(") + 1:stat.rindex(")")]
        out[int(pid)] = (name, int(stat.rsplit(")", 1)[1].split()[1]), argv)
    return out


def threads(pid):
    for tid in os.listdir(f"/proc/{pid}/task"):
        with open(f"/proc/{pid}/task/{tid}/status", encoding="utf-8") as f:
            yield tid, dict(line.rstrip("\n").split(":\t", 1) for line in f if ":\t" in line)


def rights(pid, name, most, least=0, seccomp=None, bound=None):
    """Each thread: capabilities within these, no new privileges."""
    n = 0
    for tid, s in threads(pid):
        n += 1
        have = {c: int(s[c], 16) for c in ("CapEff", "CapPrm", "CapInh", "CapAmb", "CapBnd")}
        for c, bits in have.items():
            limit = 0 if c in ("CapInh", "CapAmb") else bound if c == "CapBnd" else most
            assert not bits & ~limit, f"{name}, thread {tid}: {c} {bits:x}, not within {limit:x}"
        assert have["CapEff"] & least == least, f"{name}: CapEff {have['CapEff']:x}"
        tap.same(s["NoNewPrivs"], "1", f"{name}, thread {tid}: NoNewPrivs")
        if seccomp is not None:
            tap.same(s["Seccomp"], seccomp, f"{name}, thread {tid}: Seccomp")
    print(f"# {name}: {n} threads, at most {most:x}")


def our_programs():
    all_ = processes()

    def of(name, parent=None):
        got = [p for p, (n, pp, _) in all_.items()
               if n == name[:15] and (parent is None or pp in parent)]
        assert got, f"there is no {name}"
        return got
    daemon = of("spicebdd")
    for p in daemon:
        rights(p, "spicebdd", 0, bound=0)
    for p in of("spicebdd-sock", daemon):
        rights(p, "its opener of queue sockets", NET_ADMIN, NET_ADMIN, bound=0)
    for p in of("spicebd-link"):
        rights(p, "spicebd-link", 0, bound=0, seccomp="2")
        for _, s in threads(p):
            assert "0" not in s["Uid"].split() + s["Gid"].split() and not s["Groups"].strip(), s
    wrappers = of("spicebd-nbdkit")
    for p in wrappers:
        rights(p, "spicebd-nbdkit", MEDIUM, bound=MEDIUM)
    for p in of("nbdkit", wrappers):
        rights(p, "its nbdkit", MEDIUM, bound=MEDIUM)
    exports = of("spicebd-export")
    for p in exports:
        rights(p, "spicebd-export", 0, bound=0)
    for p in of("nbdkit", exports):
        rights(p, "its nbdkit, for a client", 0, bound=0, seccomp="2")


def a_process_of_the_same_user():
    """Who is uid nobody, as the link may be, gets at nothing of the link's."""
    link = [p for p, (n, _, _) in processes().items() if n == "spicebd-link"][0]
    uid = os.stat(f"/proc/{link}/environ").st_uid
    tap.same(uid, 0, "its /proc is root's: no core, no ptrace, no memory")
    libc = ctypes.CDLL(None, use_errno=True)
    child = os.fork()
    if not child:
        try:
            with open(f"/proc/{link}/status", encoding="utf-8") as f:
                user = next(int(line.split()[1]) for line in f if line.startswith("Uid"))
            os.setgroups([])
            os.setgid(user)
            os.setuid(user)
            failed = libc.ptrace(16, link, 0, 0) < 0 and ctypes.get_errno() == errno.EPERM
            failed &= not try_path(f"/proc/{link}/mem") and not try_path(f"/proc/{link}/environ")
            os._exit(0 if failed else 1)
        finally:
            os._exit(2)
    tap.same(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), 0, "its uid is no key to it")
    WORLD.close()


if __name__ == "__main__":
    if len(sys.argv) > 1:
        stranger(sys.argv[1])
        sys.exit(0)
    WORLD = World()
    tap.run(a_plain_user, root_of_a_user_namespace, root_of_a_mount_and_pid_namespace_too,
            root_of_a_network_namespace_too, root_in_a_user_namespace_of_its_own, our_programs,
            a_process_of_the_same_user)
