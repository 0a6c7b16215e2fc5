#!/usr/bin/python3
# SPDX-FileCopyrightText: 2026 The Tidemark authors
# SPDX-License-Identifier: GPL-2.0-or-later
"""preallocate: a file gets space ahead for the format above it, and loses what was not used."""
import os
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from harness import *  # noqa: E402,F403
from images import create, raw

KIB, MIB = 1 << 10, 1 << 20
SIZE, ALIGN = 8 * MIB, 3 * MIB
NEEDS = ["qemu-img"]


def nodes(path, **more):
    """A file, the filter, and an image in it."""
    return [{"driver": "file", "node-name": "f", "filename": path},
            {"driver": "preallocate", "node-name": "p", "file": "f", "prealloc-size": SIZE, "prealloc-align": ALIGN,
             **{k.replace("_", "-"): v for k, v in more.items()}},
            {"driver": "qcow2", "node-name": "q", "file": "p"}]


def opened(d, path, **more):
    for node in nodes(path, **more):
        d.qmp("blockdev-add", node)
    d.qmp("block-export-add", type="nbd", id="e", node_name="q", name="q", writable=True)
    return d.nbd("q")


def size(path):
    return os.stat(path).st_size


def space(path):
    return os.stat(path).st_blocks * 512


def shown(d, name):
    return next(n["image"]["virtual-size"] for n in d.qmp("query-named-block-nodes", flat=True)
                if n["node-name"] == name)


@test(needs=NEEDS)
def a_file_grows_ahead(tmp):
    "the file grows in large steps that have their space, and a clean end cuts off what was not used"
    path = create(os.path.join(tmp, "a.qcow2"), "", 64 * MIB)
    before = size(path)
    with Daemon(tmp) as d:
        h = opened(d, path)
        equal((size(path), shown(d, "p")), (before, before))
        sizes = set()
        for at in range(0, 24 * MIB, MIB):
            h.pwrite(b"x" * MIB, at)
            sizes.add(size(path))
            equal([size(path) % ALIGN, size(path) - shown(d, "p") <= SIZE + ALIGN], [0, True])
        equal(2 <= len(sizes) <= 4, True, sizes)
        equal(space(path) >= size(path) - MIB, True)
        equal(shown(d, "f"), size(path))
        equal(shown(d, "p") < shown(d, "f"), True)
    equal(24 * MIB < size(path) < 26 * MIB, True, size(path))
    run("qemu-img", "check", "-q", path)
    content = raw(path)
    equal((content.count(b"x"), bytes(content[24 * MIB:]).count(0)), (24 * MIB, 40 * MIB))


@test(needs=NEEDS)
def killed(tmp):
    "after a kill the file is longer, and the image whole"
    path = create(os.path.join(tmp, "a.qcow2"), "", 64 * MIB)
    d = Daemon(tmp)
    h = opened(d, path)
    h.pwrite(b"x" * MIB, 0)
    h.flush()
    d.kill()
    equal(size(path) % ALIGN, 0)
    run("qemu-img", "check", "-q", path)
    equal(raw(path).count(b"x"), MIB)
    with Daemon(tmp) as d:
        h = opened(d, path)
        equal(h.pread(MIB, 0), b"x" * MIB)
        h.pwrite(b"y" * MIB, MIB)
    run("qemu-img", "check", "-q", path)
    equal(raw(path).count(b"y"), MIB)


@test
def resizing_is_exact(tmp):
    "a disk that is resized gets no more than that"
    path = image(os.path.join(tmp, "a"), MIB)
    with Daemon(tmp) as d:
        for node in nodes(path)[:2] + [{"driver": "raw", "node-name": "r", "file": "p"}]:
            d.qmp("blockdev-add", node)
        for n in (5 * MIB, 2 * MIB, 2 * MIB + 512):
            d.qmp("block_resize", node_name="r", size=n)
            equal((size(path), shown(d, "p"), shown(d, "r")), (n, n, n))
        raises(QMPError, d.qmp, "block_resize", node_name="f", size=MIB, match="Permission conflict on node 'f'")


@test(needs=NEEDS)
def what_can_not_be_had(tmp):
    "without room for more, the file gets what it needs"
    path = create(os.path.join(tmp, "a.qcow2"), "", 64 * MIB)
    with Daemon(tmp) as d:
        h = opened(d, path, prealloc_size=1 << 62)
        h.pwrite(b"x" * MIB, 0)
        equal(shown(d, "p"), size(path))
        h.shutdown()
        d.unexport("e")
        d.qmp("blockdev-reopen", options=nodes(path)[1:2])
        d.qmp("block-export-add", type="nbd", id="e2", node_name="q", name="q", writable=True)
        d.nbd("q").pwrite(b"x" * 4 * MIB, MIB)
        equal((size(path) % ALIGN, shown(d, "p") < size(path)), (0, True))


@test(needs=NEEDS)
def bitmaps_see_writes(tmp):
    "bitmaps of the image, of the filter and of the file show writes, and the file that has grown"
    path = create(os.path.join(tmp, "a.qcow2"), "", 64 * MIB)
    with Daemon(tmp) as d:
        h = opened(d, path)
        h.pwrite(b"x" * 64 * KIB, 0)
        for node in ("q", "p", "f"):
            d.qmp("block-dirty-bitmap-add", node=node, name="b")
        h.pwrite(b"y" * 64 * KIB, 0)  # in place
        equal([d.bitmap(node, "b")["count"] for node in ("q", "p", "f")], [64 * KIB] * 3)
        h.pwrite(b"y" * 16 * MIB, MIB)
        p, f = (d.bitmap(node, "b")["count"] for node in ("p", "f"))
        equal([d.bitmap("q", "b")["count"], p >= 16 * MIB, f >= p], [16 * MIB + 64 * KIB, True, True])


@test(needs=NEEDS)
def kept_bitmaps(tmp):
    "persistent bitmaps of each of the nodes are whole after a clean end, which cuts the file, and after a kill"
    for node in ("q", "p", "f"):
        path = create(os.path.join(tmp, node + ".qcow2"), "", 64 * MIB)
        d = Daemon(tmp)
        h = opened(d, path)
        d.qmp("block-dirty-bitmap-add", node=node, name="b", persistent=True)
        for turn, end in enumerate((Daemon.stop, Daemon.kill)):
            h.pwrite(b"x" * MIB, 2 * turn * MIB)
            h.flush()
            h.shutdown()
            end(d)
            d = Daemon(tmp)
            h = opened(d, path)
            b = d.bitmap(node, "b")
            equal((b.get("inconsistent"), b["count"] >= (turn + 1) * MIB), (None, True), (node, turn, b))
            equal(node != "q" or b["count"] == (turn + 1) * MIB, True, b)
        h.shutdown()
        d.stop()


@test(needs=NEEDS + [QSD])
def as_qemu(tmp):
    "options are checked, and a file grows, as with qemu-storage-daemon"
    said = []
    for binary, name in ((None, "t"), (QSD, "q")):
        path = create(os.path.join(tmp, name + ".qcow2"), "", 64 * MIB)
        one = []
        with Daemon(tmp, binary=binary, name=name) as d:
            h = opened(d, path)
            h.pwrite(b"x" * MIB, 0)
            one.append((size(path) % ALIGN, size(path) >= SIZE))
            d.qmp("blockdev-add", {"driver": "null-co", "node-name": "n", "size": MIB})
            d.qmp("blockdev-add", {"driver": "blkdebug", "node-name": "aligned", "image": "n", "align": 4096})
            for file, more in (("n", {}), ("n", {"prealloc-align": 100}), ("n", {"prealloc-align": 0}),
                               ("n", {"prealloc-align": -512}), ("n", {"prealloc-size": -1}),
                               ("n", {"prealloc-size": 12345}), ("n", {"prealloc-align": 4608}),
                               ("aligned", {"prealloc-align": 4608}), ("aligned", {"prealloc-size": "1M"}), (None, {})):
                try:
                    d.qmp("blockdev-add", {"driver": "preallocate", "node-name": "x", **({"file": file} if file else {}),
                                           **more})
                    d.qmp("blockdev-del", node_name="x")
                    one.append("ok")
                except QMPError as e:
                    one.append(e.bare)
        one.append(size(path) < 4 * MIB)
        said.append(one)
    for ours, theirs in zip(*said):
        equal(ours, theirs)


main()
