#!/usr/bin/python3
# SPDX-FileCopyrightText: 2026 The Tidemark authors
# SPDX-License-Identifier: GPL-2.0-or-later
"""The graph changes again and again while qemu-img bench writes to an export: no request fails, and none is lost."""
import os
import subprocess
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "func"))
from harness import *  # noqa: E402,F403

KIB, MIB = 1 << 10, 1 << 20


def bench(d, count):
    """qemu-img bench, which writes its pattern over the export, 32 requests in flight."""
    return subprocess.Popen(["qemu-img", "bench", "-f", "raw", "-t", "none", "-w", "--pattern=90", "-c", str(count), "-d", "32",
                             "-s", "4096", "nbd+unix:///disk0?socket=" + d.nbd_path],
                            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def while_writing(d, change, least):
    """Writes every block of 8 MiB, at least once, until the graph has changed so many times."""
    turns = 0
    while turns < least:
        p = bench(d, 2048)
        while p.poll() is None:
            change()
            turns += 1
        equal(p.returncode, 0, p.stdout.read())


@test(needs=["qemu-img"])
def overlays(tmp):
    "overlays of the node that is written come and go"
    image(os.path.join(tmp, "disk0.img"), 8 * MIB)
    top = os.path.join(tmp, "top.qcow2")
    run("qemu-img", "create", "-q", "-f", "qcow2", "-F", "raw", "-b", os.path.join(tmp, "disk0.img"), top)
    with Daemon(tmp, "--object", "iothread,id=t0", *disk(tmp, "disk0", None, export=False)) as d:
        d.qmp("block-export-add", {"type": "nbd", "id": "e", "node-name": "disk0", "name": "disk0", "writable": True,
                                   "iothread": "t0", "fixed-iothread": True})
        d.qmp("block-dirty-bitmap-add", node="disk0", name="b", granularity=4096)

        def change():
            d.qmp("blockdev-add", {"driver": "qcow2", "node-name": "top", "backing": "disk0", "read-only": True,
                                   "file": {"driver": "file", "filename": top}})
            d.qmp("blockdev-del", {"node-name": "top"})

        while_writing(d, change, 10)
        equal(d.bitmap("disk0", "b")["count"], 8 * MIB)
        equal(d.nbd().pread(8 * MIB, 0) == b"Z" * 8 * MIB, True, "what was written")


@test(needs=["qemu-img"])
def filters(tmp):
    "a throttle is put between the export's disk and its file, and taken away"
    with Daemon(tmp, "--object", "throttle-group,id=g", *disk(tmp, "disk0", 8 * MIB, export=False)) as d:
        d.qmp("blockdev-add", {"driver": "raw", "node-name": "top", "file": "disk0"})
        d.qmp("block-dirty-bitmap-add", node="top", name="b", granularity=4096)
        d.qmp("block-export-add", {"type": "nbd", "id": "e", "node-name": "top", "name": "disk0", "writable": True})

        def change():
            d.qmp("blockdev-add", {"driver": "throttle", "node-name": "t", "throttle-group": "g", "file": "disk0"})
            d.qmp("blockdev-reopen", options=[{"driver": "raw", "node-name": "top", "file": "t"}])
            d.qmp("blockdev-reopen", options=[{"driver": "raw", "node-name": "top", "file": "disk0"}])
            d.qmp("blockdev-del", {"node-name": "t"})

        while_writing(d, change, 10)
        equal(d.bitmap("top", "b")["count"], 8 * MIB)
        with open(os.path.join(tmp, "disk0.img"), "rb") as f:
            equal(f.read() == b"Z" * 8 * MIB, True, "what was written")


@test(needs=["qemu-img"])
def snapshots(tmp):
    "external snapshots are taken one above the other, and the chain has all that was written"
    names = ["s%d.qcow2" % i for i in range(12)]
    with Daemon(tmp, *disk(tmp, "disk0", 8 * MIB)) as d:
        taken = ["disk0"]

        def change():
            if len(taken) > len(names):
                return
            d.qmp("blockdev-snapshot-sync", {"node-name": taken[-1], "snapshot-node-name": "n%d" % len(taken),
                                             "snapshot-file": os.path.join(tmp, names[len(taken) - 1])})
            taken.append("n%d" % len(taken))

        while_writing(d, change, 12)
        equal(d.nbd().pread(8 * MIB, 0) == b"Z" * 8 * MIB, True, "what was written")
    run("qemu-img", "convert", "-O", "raw", os.path.join(tmp, names[len(taken) - 2]), os.path.join(tmp, "all"))
    with open(os.path.join(tmp, "all"), "rb") as f:
        equal(f.read() == b"Z" * 8 * MIB, True, "what qemu-img reads in the chain")


main()
