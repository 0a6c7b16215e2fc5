#!/usr/bin/python3
# SPDX-FileCopyrightText: 2026 The Tidemark authors
# SPDX-License-Identifier: GPL-2.0-or-later
# timeout: 1800
"""A unit that runs out of memory: the kernel of an emulated machine kills the daemon, and its bitmaps are exact.

Not every kernel gives a container a limit of memory; a machine of its own has one. It takes one to six minutes."""
import sys

from harness import *
from machine import PREFIX, ROOT, installed, needs_install

sys.path.insert(0, os.path.join(SRCDIR, "tests", "vm"))
import guest

# In the machine, as a unit. The daemon's limit goes below what it uses.
SCRIPT = """#!/bin/sh
unit=tidemarkd@oom.service
qmp=/run/tidemark/oom/qmp.sock
uri='nbd+unix:///disk0?socket=/run/tidemark/oom/nbd.sock'
say() { echo "report $*"; }
restarts() { systemctl show --value --property=NRestarts $unit; }

install -d -o tidemark -g tidemark /var/lib/tidemark/oom
truncate -s 8M /var/lib/tidemark/oom/disk0.img
chown tidemark: /var/lib/tidemark/oom/disk0.img
systemctl start $unit || say "no start: $(systemctl show --value --property=StatusText $unit)"
tidemark bitmap add --socket $qmp disk0 b --persistent --granularity 64K || say "no bitmap"
tidemark bitmap offer --socket $qmp disk0 b || say "no offer"
truncate -s 8M /root/pattern
printf x | dd of=/root/pattern bs=1 seek=0 conv=notrunc status=none
printf x | dd of=/root/pattern bs=1 seek=3145728 conv=notrunc status=none
nbdcopy --destination-is-zero --request-size=65536 /root/pattern "$uri" || say "no copy"
say before $(nbdinfo --map=qemu:dirty-bitmap:b "$uri")
systemctl set-property --runtime $unit MemoryMax=64K
while [ "$(restarts)" = 0 ]; do sleep 0.2; done
systemctl set-property --runtime $unit MemoryMax=infinity
for i in 1 2 3 4 5 6 7 8 9 10; do
    systemctl is-active --quiet $unit && break
    systemctl reset-failed $unit
    systemctl start $unit
done
tidemark bitmap offer --socket $qmp disk0 b || say "no offer again"
say killed $(journalctl --output=cat --unit=$unit | grep -c "killed by the OOM killer")
say after $(nbdinfo --map=qemu:dirty-bitmap:b "$uri")
systemctl poweroff
"""
UNIT = """[Unit]
After=multi-user.target
[Service]
Type=idle
ExecStart=/bin/sh /ops-script
StandardOutput=file:/dev/ttyS1
StandardError=inherit
"""
CONFIG = {
    "blockdevs": [{"driver": "file", "node-name": "disk0", "filename": "/var/lib/tidemark/oom/disk0.img"}],
    "nbd-servers": [{"addr": {"type": "unix", "data": {"path": "/run/tidemark/oom/nbd.sock"}}}],
    "exports": [{"type": "nbd", "id": "disk0", "node-name": "disk0", "writable": True}],
    "chardevs": [{"id": "qmp", "backend": {"type": "socket", "data": {
        "addr": {"type": "unix", "data": {"path": "/run/tidemark/oom/qmp.sock"}}, "server": True}}}],
    "monitors": [{"chardev": "qmp"}],
}


def make_disk(tmp):
    """The container's root directory with what is installed, as an image."""
    top = os.path.join(tmp, "root")
    run("cp", "--archive", "--one-file-system", ROOT, top)
    run("cp", "--archive", installed(os.path.join(tmp, "installed")) + "/.", top + PREFIX)
    for path, text in (("/ops-script", SCRIPT), ("/etc/systemd/system/ops.service", UNIT),
                       (PREFIX + "/etc/tidemark/oom.conf", json.dumps(CONFIG))):
        os.makedirs(os.path.dirname(top + path), exist_ok=True)
        with open(top + path, "w") as f:
            f.write(text)
    os.makedirs(top + "/etc/systemd/system/default.target.wants", exist_ok=True)
    os.symlink("../ops.service", top + "/etc/systemd/system/default.target.wants/ops.service")
    # Without udev nobody would find its device.
    os.symlink("/dev/null", top + "/etc/systemd/system/serial-getty@ttyS0.service")
    os.symlink("sbin/init", top + "/init")
    path = os.path.join(tmp, "root.img")
    run("mke2fs", "-q", "-t", "ext4", "-d", top, path, "800M", timeout=4 * PATIENCE)
    shutil.rmtree(top)
    return path


class Emulated:
    """What guest.Guest wants of a machine."""

    accelerator = ["-accel", "tcg", "-cpu", "max"]

    def __init__(self, tmp):
        where = guest.kernel()
        self.tmp, self.kernel = tmp, os.path.join(where, "vmlinuz")
        self.initramfs = guest.make_initramfs(tmp, where)


@test
def out_of_memory(tmp):
    "a daemon that the kernel kills for want of memory is started again, and its bitmaps are exact"
    guest.needs()
    needs_install()
    if not os.path.exists(os.path.join(ROOT, "etc", "debian_version")):
        skip("build-ops/root is missing: scripts/ops-root makes it")
    with guest.Guest(Emulated(tmp), "oom", "ops", guest.file_disk(make_disk(tmp)), memory=512) as g:
        wait_until(lambda: g.process.poll() is not None, "the machine to power off", timeout=40 * PATIENCE)
        reports = dict(line.split(" ", 2)[1:] for line in g.reports() if line.startswith("report "))
        if set(reports) != {"before", "killed", "after"}:
            fail("%s\n%s" % (g.reports(), g.said("console")[-3000:]))
    if int(reports["killed"]) == 0:
        fail("the kernel killed nobody")
    # Two granules of 64 KiB, at 0 and at 3 MiB.
    equal(reports["before"].split(), "0 65536 1 dirty 65536 3080192 0 clean 3145728 65536 1 dirty "
          "3211264 5177344 0 clean".split())
    equal(reports["after"], reports["before"])


main()
