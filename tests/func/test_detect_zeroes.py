#!/usr/bin/python3
# SPDX-FileCopyrightText: 2026 The Tidemark authors
# SPDX-License-Identifier: GPL-2.0-or-later
"""detect-zeroes: data that are all zeroes are written as zeroes, and bitmaps show them as any write."""
import os
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from harness import *  # noqa: E402,F403

KIB, MIB = 1 << 10, 1 << 20
DATA = b"\xaa" * MIB


def disk_of(tmp, name, **more):
    """A node on a file that is full of data, and its definition."""
    path = image(os.path.join(tmp, name + ".img"), MIB, [(0, DATA)])
    return {"driver": "file", "node-name": name, "filename": path,
            **{k.replace("_", "-"): v for k, v in more.items()}}


def exported(d, *definitions, **more):
    """Adds the nodes and exports the last one, under its name."""
    for one in definitions:
        d.qmp("blockdev-add", one)
    name = definitions[-1]["node-name"]
    d.qmp("block-export-add", type="nbd", id="e-" + name, node_name=name, name=name, writable=True, **more)
    return d.nbd(name, ["base:allocation"])


def space(path):
    return os.stat(path).st_blocks * 512


def shown(d, name):
    return next(n["detect_zeroes"] for n in d.qmp("query-named-block-nodes", flat=True) if n["node-name"] == name)


def status(h):
    return extents(h, "base:allocation")


@test
def zeroes_are_written_as_zeroes(tmp):
    "zeroes keep their space (on) or become holes (unmap); other data, and off, stay data"
    with Daemon(tmp) as d:
        for detect in ("off", "on", "unmap"):
            one = disk_of(tmp, "d" + detect, detect_zeroes=detect, discard="unmap")
            h = exported(d, one)
            equal(shown(d, "d" + detect), detect)
            h.pwrite(bytes(128 * KIB), 256 * KIB)
            h.pwrite(bytes(64 * KIB - 1) + b"x", 512 * KIB)
            h.pwrite(b"x" + bytes(64 * KIB - 1), 640 * KIB)
            h.pwrite(bytes(64 * KIB), 768 * KIB, 1)  # FUA
            h.flush()
            equal(h.pread(128 * KIB, 256 * KIB) + h.pread(64 * KIB, 768 * KIB), bytes(192 * KIB), detect)
            equal(h.pread(64 * KIB, 512 * KIB), bytes(64 * KIB - 1) + b"x", detect)
            if detect == "unmap":
                equal(status(h), [(0, 256 * KIB, 0), (256 * KIB, 128 * KIB, 3), (384 * KIB, 384 * KIB, 0),
                                  (768 * KIB, 64 * KIB, 3), (832 * KIB, 192 * KIB, 0)])
            equal(space(one["filename"]) < MIB - 128 * KIB, detect == "unmap", detect)


@test(needs=["qemu-img"])
def in_an_image(tmp):
    "an image stores no data for zeroes, and says so, whichever lane writes them and through a filter, too"
    with Daemon(tmp) as d:
        path = os.path.join(tmp, "a.qcow2")
        run("qemu-img", "create", "-q", "-f", "qcow2", path, MIB)
        q = {"driver": "qcow2", "node-name": "q", "detect-zeroes": "on",
             "file": {"driver": "file", "filename": path}}
        h = exported(d, q, {"driver": "raw", "node-name": "r", "file": "q"})
        for at in (0, 256 * KIB):
            h.pwrite(DATA[:128 * KIB], at)
        h.pwrite(bytes(64 * KIB), 0)  # in place: the fast lane's
        h.pwrite(bytes(64 * KIB), 512 * KIB)  # nowhere yet: a worker's
        h.pwrite(bytes(4 * KIB), 256 * KIB)  # less than a cluster: data
        equal(h.pread(4 * KIB, 256 * KIB), bytes(4 * KIB))
        equal(status(h), [(0, 64 * KIB, 3), (64 * KIB, 64 * KIB, 0), (128 * KIB, 128 * KIB, 3),
                          (256 * KIB, 128 * KIB, 0), (384 * KIB, 640 * KIB, 3)])
        h.shutdown()
    run("qemu-img", "check", "-q", path)


@test
def bitmaps_show_it(tmp):
    "zeroes that were detected are dirty in the bitmaps of the node, of one above it and of one below it"
    with Daemon(tmp) as d:
        for one in (disk_of(tmp, "f", discard="unmap"),
                    {"driver": "raw", "node-name": "m", "file": "f", "detect-zeroes": "unmap", "discard": "unmap"},
                    {"driver": "raw", "node-name": "t", "file": "m"}):
            d.qmp("blockdev-add", one)
        for name in "fmt":
            d.qmp("block-dirty-bitmap-add", node=name, name="b")
        d.qmp("block-export-add", type="nbd", id="e", node_name="t", name="t", writable=True)
        h = d.nbd("t", ["base:allocation"])
        h.pwrite(bytes(64 * KIB), 0)
        h.pwrite(DATA[:64 * KIB], 256 * KIB)
        h.pwrite(bytes(100), 512 * KIB + 1)
        equal([d.bitmap(name, "b")["count"] for name in "fmt"], [192 * KIB] * 3)
        equal(status(h)[0], (0, 64 * KIB, 3))


@test
def reopening_changes_it(tmp):
    "reopening turns it on and off; unmap needs discard=unmap"
    with Daemon(tmp) as d:
        one = disk_of(tmp, "f", discard="unmap")
        h = exported(d, one)
        for turn, (detect, flags) in enumerate((("unmap", 3), ("off", 0), ("unmap", 3))):
            d.qmp("blockdev-reopen", options=[{**one, "detect-zeroes": detect}])
            equal(shown(d, "f"), detect)
            h.pwrite(bytes(64 * KIB), turn * 128 * KIB)
            equal([s[2] for s in status(h) if s[0] <= turn * 128 * KIB < s[0] + s[1]], [flags], detect)
        for discard in ("ignore", None):
            bad = {**one, "detect-zeroes": "unmap", **({"discard": discard} if discard else {})}
            if not discard:
                del bad["discard"]
            raises(QMPError, d.qmp, "blockdev-reopen", options=[bad],
                   match="setting detect-zeroes to unmap is not allowed without setting discard operation to unmap")
        equal(shown(d, "f"), "unmap")


@test
def the_target_of_a_job(tmp):
    "a backup's target with detect-zeroes stores no zeroes, though the kernel could copy them"
    with Daemon(tmp) as d:
        source = image(os.path.join(tmp, "s.img"), 4 * MIB, [(0, DATA + bytes(2 * MIB) + DATA)])
        target = {"driver": "file", "node-name": "t", "detect-zeroes": "unmap", "discard": "unmap",
                  "filename": image(os.path.join(tmp, "t.img"), 4 * MIB, [(0, 4 * DATA)])}
        d.qmp("blockdev-add", {"driver": "file", "node-name": "s", "filename": source})
        d.qmp("blockdev-add", target)
        d.qmp("blockdev-backup", {"job-id": "j", "device": "s", "target": "t", "sync": "full"})
        d.monitor.wait_event("BLOCK_JOB_COMPLETED", device="j")
        with open(source, "rb") as a, open(target["filename"], "rb") as b:
            equal(a.read() == b.read(), True)
        equal(space(target["filename"]) < 3 * MIB, True)


@test(needs=["qemu-storage-daemon", "qemu-img"])
def as_qemu(tmp):
    "what is stored, and what is refused, is as with qemu-storage-daemon"
    said = []
    for binary, name in ((None, "t"), (QSD, "q")):
        def own(what):
            return os.path.join(tmp, name + what)
        one = []
        with Daemon(tmp, binary=binary, name=name) as d:
            for i, more in enumerate(({}, {"detect-zeroes": "on"}, {"detect-zeroes": "unmap", "discard": "unmap"},
                                      {"detect-zeroes": "unmap"}, {"detect-zeroes": "unmap", "discard": "ignore"},
                                      {"detect-zeroes": "maybe"}, {"detect-zeroes": True}, {"discard": "on"})):
                path = own("%d.qcow2" % i)
                run("qemu-img", "create", "-q", "-f", "qcow2", path, MIB)
                try:
                    d.qmp("blockdev-add", {"driver": "qcow2", "node-name": "q%d" % i, "file": {
                        "driver": "file", "filename": path}, **more})
                except QMPError as e:
                    one.append(e.bare)
                    continue
                d.qmp("block-export-add", {"type": "nbd", "id": "e%d" % i, "node-name": "q%d" % i, "name": "q%d" % i,
                                           "writable": True})
                h = d.nbd("q%d" % i, ["base:allocation"])
                for what in (DATA, bytes(MIB)):
                    for at, n in ((0, 64 * KIB), (128 * KIB, 128 * KIB), (320 * KIB, 32 * KIB), (400 * KIB, 100 * KIB)):
                        h.pwrite(what[:n], at)
                h.pwrite(bytes(64 * KIB), 832 * KIB)
                one.append((status(h), shown(d, "q%d" % i)))
                h.shutdown()
        said.append(one)
    for ours, theirs in zip(*said):
        equal(type(ours), type(theirs))
        if isinstance(ours, str):
            equal(ours, theirs)
            continue
        # They don't see that data read as zeroes.
        equal(ours[1], theirs[1])
        equal([s for s in ours[0] if s[2] & 1], [s for s in theirs[0] if s[2] & 1])


main()
