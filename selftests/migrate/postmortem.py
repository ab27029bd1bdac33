# SPDX-License-Identifier: GPL-2.0-only
"""What is left of a guest that has died or stands still, kept below build/migrate."""
import os
import shutil
import subprocess
import time

from machine import Died, until


def processors(vm, log):
    """The registers, three times: who runs, who waits, and where"""
    for _ in range(3):
        log.write(f"--- {time.monotonic():.1f}\n{vm.hmp('info registers -a')}\n")
        time.sleep(1)
    for command in ("info lapic", "info pic", "info irq", "info status", "info migrate",
                    "info virtio"):
        log.write(f"--- {command}\n{vm.hmp(command)}\n")


def alive(vm, log, out):
    """QEMU answers: ask the machine, then its kernel, by an NMI that it does not know."""
    log.write(f"status {vm.qmp.ok('query-status')}\n")
    processors(vm, log)
    vm.qmp.cmd("dump-guest-memory", paging=False, protocol=f"file:{out}/memory", format="kdump-zlib")
    if vm.qmp.ok("query-status")["running"]:
        vm.qmp.ok("inject-nmi")
        until(20, lambda: not vm.qmp.ok("query-status")["running"])
        log.write(f"after an NMI {vm.qmp.ok('query-status')}\n")


def keep(tmp, vm, name, tree):
    """The directory where everything is"""
    out = f"{tree}/build/migrate/{time.strftime('%H%M%S')}-{name}"
    os.makedirs(out)
    with open(f"{out}/qemu", "w", encoding="utf-8") as log:
        log.write(" ".join(vm.p.args) + "\n")
        ended = until(2, lambda: vm.p.poll() is not None)
        log.write(f"exit status {vm.p.poll() if ended else 'none: it lives'}\n")
        try:
            if not ended:
                alive(vm, log, out)
        except (Died, OSError, AssertionError) as e:
            log.write(f"{e}\n")
        log.write(f"it said: {vm.said()}\n")
        for e in vm.qmp.events:
            log.write(f"{e}\n")
    for root in (tmp, f"{tmp}/state"):
        for n in os.listdir(root) if os.path.isdir(root) else ():
            if n.startswith(("console-", "reset-", "share.log")):
                shutil.copy(f"{root}/{n}", out)
    subprocess.run(["find", out, "-empty", "-delete"], check=False)
    return out
