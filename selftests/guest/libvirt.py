#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-only
# timeout: 300
"""What Documentation/guest.rst says of libvirt: that libvirt's own schema and parser take
each piece of XML, and its QEMU driver makes of it the options of QEMU that stand there.

libvirt comes from Debian's packages, unpacked beside the machine; nothing is started but
virsh, which has the drivers in itself."""
import os
import re
import subprocess
import sys
import tempfile
import textwrap

sys.dont_write_bytecode = True
sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from guestlib import TREE, finish, ok, sh		# noqa: E402

DOMAIN = """<domain type='qemu'>
  <name>vm1</name>
  <memory unit='MiB'>512</memory>
  <vcpu>1</vcpu>
  <os><type arch='x86_64' machine='q35'>hvm</type></os>
  <devices>
    <emulator>/usr/bin/qemu-system-x86_64</emulator>
    <graphics type='spice' autoport='yes'/>
%s
  </devices>
</domain>
"""
# In a mount namespace of its own: libvirt's files where it looks for them, the user that
# its package would make, and a directory for all that it writes.
VIRSH = """set -e
root=$1 prefix=$2 uri=$3
shift 3
mkdir -p $root/etc
printf 'user="root"\\ngroup="root"\\nsecurity_driver="none"\\ncgroup_controllers=[]\\n' \\
	>$root/etc/qemu.conf
{ cat /etc/passwd; echo libvirt-qemu:x:64055:64055::/:/bin/false; } >$root/passwd
{ cat /etc/group; echo libvirt-qemu:x:64055:; } >$root/group
mount --bind $root/passwd /etc/passwd
mount --bind $root/group /etc/group
mount -t overlay -o lowerdir=$prefix/usr/share:/usr/share overlay /usr/share
lib=$prefix/usr/lib/x86_64-linux-gnu
LD_LIBRARY_PATH=$lib LIBVIRT_DRIVER_DIR=$lib/libvirt/connection-driver \\
	exec $prefix/usr/bin/virsh -q -c "$uri" "$@"
"""


def document():
    with open(f"{TREE}/Documentation/guest.rst", encoding="utf-8") as f:
        return f.read()


def channels(text):
    """The pieces of XML, as a reader would copy them"""
    return [textwrap.dedent(x) for x in
            re.findall(r"^ *<channel .*?</channel>$", text, re.M | re.S)]


def virsh(tmp, uri, *args):
    """(exit status, output)"""
    p = subprocess.run(["unshare", "-m", "sh", "-c", VIRSH, "virsh", tmp, PREFIX, uri, *args],
                       stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=200,
                       check=False)
    return p.returncode, p.stdout


def domain(tmp, piece):
    path = f"{tmp}/domain.xml"
    with open(path, "w", encoding="utf-8") as f:
        f.write(DOMAIN % piece)
    return path


def options(tmp, piece):
    """What QEMU is started with for it: the character device's, and the name of the port"""
    status, text = virsh(tmp, f"qemu:///embed?root={tmp}/root", "domxml-to-native", "qemu-argv",
                         domain(tmp, piece))
    device = re.search(r"-chardev (\S+),id=charchannel0,?(\S*)", text)
    name = re.search(r'"virtserialport".*?"name":"([^"]*)"', text)
    if status or not device or not name:
        print("#", text.replace("\n", "\n# "))
        return None, None
    return f"{device[1]},{device[2]}", name[1]


def known(text, options_of_ours, options_of_libvirt):
    """Is each option that we name, but for the id, in force in libvirt's?"""
    theirs = set(options_of_libvirt.split(","))
    ours = set(o for o in options_of_ours.split(",") if not o.startswith("id="))
    # what is QEMU's default is not said again
    return options_of_ours in text and ours - theirs <= {"server=off"}


def main():
    print("TAP version 13", flush=True)
    text = document()
    pieces = channels(text)
    ok(len(pieces) == 2, f"guest.rst has {len(pieces)} pieces of XML")
    pieces.append(pieces[1].replace("mode='connect'", "mode='bind'"))
    pieces[2] = re.sub(r">\s*<reconnect.*?</source>", "/>", pieces[2], flags=re.S) \
        .replace("/run/spicebd/vm1.0", "/run/vm1/spicebd.0")
    ours = ["spiceport,id=drive0,name=org.spice-space.spicebd.0",
            "socket,id=drive0,path=/run/spicebd/vm1.0,server=off,reconnect=1",
            "socket,id=drive0,path=/run/vm1/spicebd.0,server=on,wait=off"]
    with tempfile.TemporaryDirectory(prefix="spicebd-libvirt.") as tmp:
        os.mkdir(f"{tmp}/root")
        status, _ = virsh(f"{tmp}/root", "test:///default", "define", "--validate",
                          domain(tmp, pieces[0].replace("spiceport", "spiceprot")))
        ok(status, "what is wrong is refused")
        for piece, mine in zip(pieces, ours):
            what = mine.split(",", maxsplit=1)[0] + " " + mine.rsplit(",", maxsplit=1)[-1]
            status, said = virsh(f"{tmp}/root", "test:///default", "define", "--validate",
                                 domain(tmp, piece))
            ok(not status, f"{what}: libvirt's schema and parser take the XML")
            if status:
                print("#", said.replace("\n", "\n# "))
            got, name = options(tmp, piece)
            good = ok(got and known(text, mine, got),
                      f"{what}: QEMU gets the options that the page names")
            ok(name == "org.spice-space.spicebd.0", f"{what}: and the port its name")
            if not good:
                print(f"# {got}, not {mine}")
    return finish()


sh(f"{TREE}/selftests/vm/setup", "libvirt")
PREFIX = sh("bash", "-c", f". {TREE}/selftests/vm/lib.sh && echo $vm_cache").strip() + "/libvirt"
sys.exit(main())
