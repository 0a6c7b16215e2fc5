#!/usr/bin/python3
# SPDX-FileCopyrightText: 2026 The Tidemark authors
# SPDX-License-Identifier: GPL-2.0-or-later
"""A QEMU process with reconnect-delay: its disk survives a kill -9 of the daemon and a new start. With a whole guest
that is `make check-vm`; here QEMU's monitor writes the disk."""
import os
import subprocess
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "func"))
from harness import *  # noqa: E402,F403

KIB, MIB = 1 << 10, 1 << 20
QEMU = "qemu-system-x86_64"


class Machine:
    """A stopped machine with the disk 'vd' on an export."""

    def __init__(self, tmp, d):
        path = os.path.join(tmp, "vm.qmp")
        self.process = subprocess.Popen(
            [QEMU, "-S", "-nodefaults", "-display", "none", "-machine", "pc,accel=tcg", "-m", "16",
             "-qmp", "unix:%s,server=on,wait=off" % path, "-device", "virtio-blk-pci,drive=n,id=vd", "-blockdev",
             "driver=nbd,node-name=n,export=disk0,server.type=unix,server.path=%s,reconnect-delay=60" % d.nbd_path],
            stdin=subprocess.DEVNULL)
        wait_until(lambda: listens(path) or self.process.poll() is not None, "QEMU")
        self.qmp = QMP(path, peer=True)

    def io(self, command):
        said = self.qmp("human-monitor-command", {
            "command-line": 'qemu-io -d /machine/peripheral/vd/virtio-backend "%s"' % command})
        if "rror" in said or "failed" in said:
            fail("%s: %s" % (command, said))

    def end(self):
        self.qmp.close()
        self.process.terminate()
        self.process.wait(PATIENCE)


@test(needs=[QEMU])
def killed(tmp):
    "writes wait while the daemon is away, none fails, and the persistent bitmap has them all"
    args = [*disk(tmp, "disk0", 8 * MIB)]
    d = Daemon(tmp, *args)
    d.qmp("block-dirty-bitmap-add", node="disk0", name="b", persistent=True)
    machine = Machine(tmp, d)
    try:
        for turn in range(3):
            machine.io("write -P %d %dM 64k" % (turn + 1, turn))
            d.kill()
            machine.qmp.send(json.dumps({"execute": "human-monitor-command", "arguments": {
                "command-line": 'qemu-io -d /machine/peripheral/vd/virtio-backend "write -P %d %dk 64k"' %
                                (turn + 11, turn * 1024 + 512)}}).encode() + b"\n")
            os.unlink(d.nbd_path)
            d = Daemon(tmp, *args)
            equal("rror" in machine.qmp.reply().get("return", "error"), False, "the write that waited")
        machine.io("flush")
        with open(os.path.join(tmp, "disk0.img"), "rb") as f:
            content = f.read()
        for turn in range(3):
            for at, value in (turn * MIB, turn + 1), (turn * MIB + 512 * KIB, turn + 11):
                equal(content[at:at + 64 * KIB] == bytes([value]) * 64 * KIB, True, "the write at %d" % at)
        found = next(b for b in d.qmp("query-named-block-nodes")[0]["dirty-bitmaps"] if b["name"] == "b")
        equal((found.get("inconsistent", False), found["recording"], found["count"] >= 6 * 64 * KIB), (False, True, True))
    finally:
        machine.end()
    d.stop()


main()
