#!/usr/bin/python3
# SPDX-FileCopyrightText: 2026 The Tidemark authors
# SPDX-License-Identifier: GPL-2.0-or-later
"""copy-on-read: what is read from a backing image stays in the image above it, and no bitmap shows that."""
import os
import random
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from harness import *  # noqa: E402,F403
from images import create, raw
import nbd  # noqa: E402

KIB, MIB = 1 << 10, 1 << 20
NEEDS = ["qemu-img", "qemu-io"]
DEPTH = "qemu:allocation-depth"


def chain(tmp, *names, size=4 * MIB, options=""):
    """Images, each above the one before, with 64 KiB of data at a place of its own and elsewhere; their definitions."""
    nodes = []
    for i, name in enumerate(names):
        path = os.path.join(tmp, name + ".qcow2")
        create(path, options, size, (names[i - 1] + ".qcow2", "qcow2") if i else None)
        places = [i * MIB, i * MIB + 200 * KIB, 3 * MIB + i * 128 * KIB]
        run("qemu-io", *(w for k, at in enumerate(places)
                         for w in ("-c", "write -P %d %d 64k" % (16 * i + k + 1, at))), path)
        nodes.append({"driver": "qcow2", "node-name": name, "backing": names[i - 1] if i else None,
                      "file": {"driver": "file", "filename": path, "node-name": "f-" + name}})
    return nodes


def filtered(d, *nodes, name="cor", writable=True, **more):
    """Adds the nodes and copy-on-read above the last one, exports it, and connects."""
    for node in nodes:
        d.qmp("blockdev-add", node)
    d.qmp("blockdev-add", {"driver": "copy-on-read", "node-name": name, "file": nodes[-1]["node-name"], **more})
    d.qmp("block-export-add", {"type": "nbd", "id": name, "name": name, "node-name": name, "writable": writable,
                               "allocation-depth": True})
    return d.nbd(name, [DEPTH, "base:allocation"])


def own(h):
    """The ranges that the topmost image has."""
    return [(at, n) for at, n, depth in extents(h, DEPTH) if depth == 1]


def read_all(h):
    """All bytes; the server reads no holes for that."""
    return b"".join(h.pread(MIB, at) for at in range(0, h.get_size(), MIB))


def data_is_own(h):
    """Whether all data are in the topmost image."""
    depth = [(at, at + n) for at, n in own(h)]
    return all(any(a <= at and at + n <= b for a, b in depth)
               for at, n, flags in extents(h, "base:allocation") if not flags)


@test(needs=NEEDS)
def reads_copy(tmp):
    "a read copies whole clusters from the backing, zeroes as zeroes; the disk is the same without the backing"
    nodes = chain(tmp, "base", "top")
    top = nodes[1]["file"]["filename"]
    whole = raw(top)
    for writable in (True, False):  # whoever uses it
        with Daemon(tmp) as d:
            h = filtered(d, *nodes, writable=writable)
            before = own(h)
            equal(h.pread(1000, 5) + h.pread(512, 2 * MIB), bytes(whole[5:1005] + whole[2 * MIB:2 * MIB + 512]))
            copied = [(0, 64 * KIB), (2 * MIB, 64 * KIB)]
            if writable:
                equal(own(h), sorted(before + copied))
                equal([f for at, n, f in extents(h, "base:allocation") if at <= 2 * MIB < at + n], [3])
            else:
                equal(data_is_own(h), False)
                equal([read_all(h) == whole, data_is_own(h), read_all(h) == whole], [True] * 3)
    run("qemu-img", "rebase", "-u", "-b", "", top)
    equal(raw(top) == whole, True)
    run("qemu-img", "check", "-q", top)


@test(needs=NEEDS)
def bitmaps_stay(tmp):
    "bitmaps of the image and of the filter don't show what was copied; those of its file do; writes show everywhere"
    nodes = chain(tmp, "base", "top")
    with Daemon(tmp) as d:
        h = filtered(d, *nodes)
        for node in ("cor", "top", "f-top"):
            d.qmp("block-dirty-bitmap-add", node=node, name="b")
        h.pread(MIB, 0)
        equal([d.bitmap(n, "b")["count"] for n in ("cor", "top")], [0, 0])
        equal(d.bitmap("f-top", "b")["count"] > 0, True)
        h.pwrite(b"x" * 1000, 2 * MIB)
        h.pwrite(b"x" * 1000, 100)
        equal([d.bitmap(n, "b")["count"] for n in ("cor", "top")], [128 * KIB] * 2)
        equal(h.pread(1000, 100), b"x" * 1000)


@test(needs=NEEDS)
def bottom(tmp):
    "nothing is copied that comes from below the bottom, nor while the bottom is not in the chain"
    nodes = chain(tmp, "base", "middle", "top")
    with Daemon(tmp) as d:
        h = filtered(d, *nodes, bottom="middle")
        before = own(h)
        read_all(h)
        copied = [(MIB, 64 * KIB), (MIB + 192 * KIB, 128 * KIB), (3 * MIB + 128 * KIB, 64 * KIB)]
        equal({at for start, n in own(h) for at in range(start, start + n, 64 * KIB)},
              {at for start, n in before + copied for at in range(start, start + n, 64 * KIB)})
        d.qmp("blockdev-add", {"driver": "null-co", "node-name": "elsewhere", "size": MIB})
        d.qmp("blockdev-reopen", options=[{"driver": "copy-on-read", "node-name": "cor", "file": "top",
                                           "bottom": "elsewhere"}])
        before = own(h)
        read_all(h)
        equal([own(h), data_is_own(h)], [before, False])
        d.qmp("blockdev-reopen", options=[{"driver": "copy-on-read", "node-name": "cor", "file": "top"}])
        read_all(h)
        equal(data_is_own(h), True)


@test(needs=NEEDS)
def through_filters(tmp):
    "what is below may be a filter, or a window of raw; NBD_CMD_CACHE copies, too"
    nodes = chain(tmp, "base", "top")
    with Daemon(tmp, "--object", "throttle-group,id=g") as d:
        h = filtered(d, *nodes, {"driver": "throttle", "node-name": "t", "file": "top", "throttle-group": "g"},
                     {"driver": "raw", "node-name": "w", "file": "t", "offset": 64 * KIB, "size": 2 * MIB})
        h.cache(1000, 64 * KIB)
        d.qmp("block-export-add", {"type": "nbd", "id": "top", "name": "top", "node-name": "top",
                                   "allocation-depth": True})
        t = d.nbd("top", [DEPTH])
        equal((128 * KIB, 64 * KIB) in own(t), True, own(t))
        read_all(h)
        equal(own(t)[0], (128 * KIB, 192 * KIB))
        equal([f for at, n, f in extents(t, DEPTH) if at <= 0 < at + n], [2], "the window does not show it")


@test(needs=NEEDS)
def a_copy_that_fails(tmp):
    "a read whose copy fails fails, and goes on when the disk does"
    nodes = chain(tmp, "base", "top")
    debug = {"driver": "blkdebug", "node-name": "debug", "image": nodes[1]["file"]}
    with Daemon(tmp) as d:
        d.qmp("blockdev-add", debug)
        h = filtered(d, nodes[0], {**nodes[1], "file": "debug"})
        equal(h.pread(4, 0), b"\1" * 4)
        d.qmp("blockdev-reopen", options=[{**debug, "inject-error": [
            {"event": "none", "iotype": "write", "errno": 28}]}])
        raises(nbd.Error, h.pread, 4, 200 * KIB, match="No space")
        d.qmp("blockdev-reopen", options=[debug])
        equal(h.pread(4, 200 * KIB), b"\2" * 4)
        equal(own(h)[1][0], 192 * KIB)


@test(needs=NEEDS)
def a_write_during_a_copy(tmp):
    "what is written while a slow backing is copied stays"
    nodes = chain(tmp, "base", "top")
    debug = {"driver": "blkdebug", "node-name": "debug", "image": nodes[0]["file"]}
    with Daemon(tmp) as d:
        d.qmp("blockdev-add", debug)
        reader = filtered(d, {**nodes[0], "file": "debug"}, nodes[1])
        d.qmp("block-export-add", type="nbd", id="top", node_name="top", name="top", writable=True)
        writer = d.nbd("top")
        d.qmp("blockdev-reopen", options=[{**debug, "inject-delay": [
            {"event": "none", "iotype": "read", "delay-ns": 150000000}]}])
        for at in (0, 200 * KIB, 256 * KIB, 3 * MIB):  # in the base, but for the ends of clusters
            buffer = nbd.Buffer(512)
            cookie = reader.aio_pread(buffer, at)
            writer.pwrite(b"new" * 512, at + 1024)
            while not reader.aio_command_completed(cookie):
                reader.poll(-1)
            equal(reader.pread(3 * 512, at + 1024), b"new" * 512, at)


@test(needs=NEEDS)
def writes_meanwhile(tmp):
    "reads that copy never undo writes of the same clusters, by the same export or one below the filter"
    nodes = chain(tmp, "base", "top", options="cluster_size=4k")
    with Daemon(tmp) as d:
        filtered(d, *nodes).shutdown()
        d.qmp("block-export-add", type="nbd", id="top", node_name="top", name="top", writable=True)
        h = d.nbd("cor")
        model = bytearray(read_all(d.nbd("top")))
        rng = random.Random(3)
        places = rng.sample(range(0, 4 * MIB, 512), 1500)

        def write(name, mine):
            own_handle = d.nbd(name)
            for at in mine:
                own_handle.pwrite(bytes([at // 512 % 255 + 1]) * 512, at)
            own_handle.shutdown()

        def read(seed):
            other, own_rng = d.nbd("cor"), random.Random(seed)
            for _ in range(600):
                at = own_rng.randrange(0, 4 * MIB - 8 * KIB)
                other.pread(8 * KIB, at)
            other.shutdown()

        in_threads(lambda: write("cor", places[::2]), lambda: write("top", places[1::2]), lambda: read(1), lambda: read(2))
        for at in places:
            model[at:at + 512] = bytes([at // 512 % 255 + 1]) * 512
        equal(read_all(h) == model, True)


@test(needs=NEEDS + [QSD])
def as_qemu(tmp):
    "what is copied, and what is refused, is as with qemu-storage-daemon"
    said = []
    for binary, name in ((None, "t"), (QSD, "q")):
        place = os.path.join(tmp, name)
        os.mkdir(place)
        nodes = chain(place, "base", "middle", "top")
        one = []
        with Daemon(tmp, "--object", "throttle-group,id=g", binary=binary, name=name) as d:
            for node in nodes:
                d.qmp("blockdev-add", node)
            d.qmp("blockdev-add", {"driver": "throttle", "node-name": "t", "file": "top", "throttle-group": "g"})
            d.qmp("blockdev-add", {**nodes[0], "node-name": "ro", "read-only": True, "file": {
                **nodes[0]["file"], "node-name": "f-ro", "read-only": True}, "force-share": True})
            for more in ({"file": "ro"}, {"file": "top", "bottom": "nosuch"}, {"file": "t", "bottom": "t"}, {},
                         {"file": "top", "bottom": 1}, {"file": "nosuch"}):
                try:
                    one.append(d.qmp("blockdev-add", {"driver": "copy-on-read", "node-name": "c", **more}))
                except QMPError as e:
                    one.append(e.bare)
            for k, bottom in enumerate(("middle", None)):
                d.qmp("blockdev-add", {"driver": "copy-on-read", "node-name": "c%d" % k, "file": "t",
                                       **({"bottom": bottom} if bottom else {})})
                d.qmp("block-export-add", {"type": "nbd", "id": "e%d" % k, "name": "e", "node-name": "c%d" % k,
                                           "allocation-depth": True})
                h = d.nbd("e", [DEPTH, "base:allocation"])
                for at, n in ((5, 10), (130 * KIB, 200 * KIB), (MIB, MIB), (2 * MIB + 100, 4 * KIB), (3 * MIB, MIB)):
                    h.pread(n, at)
                one.append([extents(h, c) for c in (DEPTH, "base:allocation")])
                h.shutdown()
                d.unexport("e%d" % k)
        said.append(one)
    for ours, theirs in zip(*said):
        equal(ours, theirs)


main()
