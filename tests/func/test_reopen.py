#!/usr/bin/python3
# SPDX-FileCopyrightText: 2026 The Tidemark authors
# SPDX-License-Identifier: GPL-2.0-or-later
"""blockdev-reopen: other options for open nodes, answers as QEMU's, all or nothing, clients meanwhile."""
import fcntl
import itertools
import os
import random
import sys
import threading
import time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from harness import *

KIB, MIB = 1 << 10, 1 << 20


def reopen(d, *definitions):
    return d.qmp("blockdev-reopen", options=list(definitions))


def node(definition, **changes):
    return dict(definition, **{k.replace("_", "-"): v for k, v in changes.items()})


def answer(d, command, arguments):
    try:
        return d.qmp(command, arguments)
    except QMPError as e:
        return e.desc


def facts(d, name):
    for info in d.qmp("query-named-block-nodes", flat=True):
        if info["node-name"] == name:
            return info
    return None


def file_node(tmp, name, size=4 * MIB, **more):
    path = os.path.join(tmp, name + ".img")
    if not os.path.exists(path):
        image(path, size)
    return node({"driver": "file", "node-name": name, "filename": path}, **more)


def qcow2_image(path, *args):
    run("qemu-img", "create", "-q", "-f", "qcow2", *args[:-1], path, args[-1])
    return path


@test(needs=["qemu-storage-daemon", "qemu-img"])
def as_qemu(tmp):
    "answers and what nodes are afterwards are QEMU's"
    f = file_node(tmp, "f")
    r = {"driver": "raw", "node-name": "r", "file": "f"}
    ro = file_node(tmp, "ro", read_only=True)
    nested = {"driver": "raw", "node-name": "n", "file": {
        "driver": "file", "filename": image(os.path.join(tmp, "nested.img"), MIB)}}
    base = qcow2_image(os.path.join(tmp, "base"), "4M")
    top = qcow2_image(os.path.join(tmp, "top"), "-b", base, "-F", "qcow2", "4M")
    q = {"driver": "qcow2", "node-name": "q", "file": {"driver": "file", "filename": top},
         "backing": {"driver": "qcow2", "node-name": "bk", "read-only": True,
                     "file": {"driver": "file", "filename": base}}}
    q0 = {k: v for k, v in q.items() if k != "backing"}
    files = [f["filename"], ro["filename"], nested["file"]["filename"], base, top]
    for path in files:  # each daemon has files of its own, as they are locked
        run("cp", "--sparse=always", path, path + ".peer")
    export = {"type": "nbd", "id": "e", "node-name": "r", "name": "e"}
    steps = [("blockdev-add", f), ("blockdev-add", r), ("blockdev-add", ro), ("blockdev-add", nested),
             ("blockdev-add", q),
             ("blockdev-add", {"driver": "null-co", "node-name": "nul", "size": 4 * MIB}),
             {}, {"options": f}, {"options": ["f"]}, {"options": [{"driver": "file"}]}]
    lists = [
        [node(f, read_only=True)], [f], [node(f, cache={"direct": True})], [f], [f, f],
        [node(f, filename=ro["filename"])], [node(f, driver="host_device")],
        [node(f, node_name="other")], [{"driver": "file", "filename": f["filename"]}],
        [{"node-name": "f", "filename": f["filename"]}], [node(f, x=1)],
        [node(r, file=node(f))], [node(r, file={"driver": "file", "filename": f["filename"]})],
        [node(r, file="none")], [node(r, size=MIB)], [node(r, size=4 * MIB + 512)], [r],
        [node(r, read_only=True)], [node(f, read_only=True)], [r], [f, r], [r, f],
        [node(f, read_only=True), node(r, read_only=True)], [r, f],
        [node(f, read_only=True), node(r, file="none")],
        [node(ro, read_only=False)], [ro],
        [nested], [node(nested, read_only=True)], [nested],
        [q], [q0], [node(q, backing={"driver": "null-co"})], [node(q, backing="q")],
        [node(q, backing="none")], [node(q, backing="nul")], [q], [node(q, backing=None)],
        [node(q, backing="bk")], [node(q, read_only=True, backing=None)],
        [node(q, backing=None), f, node(f, x=2)],
    ]
    steps += [{"options": options} for options in lists]
    steps += [("block-export-add", node(export, writable=True)), {"options": [node(r, read_only=True)]},
              {"options": [node(f, read_only=True)]}, {"options": [node(r, read_only=True), f]},
              ("block-export-del", {"id": "e"})]
    with Daemon(tmp) as d, Daemon(tmp, binary=QSD, name="q") as peer:
        for step in steps:
            command, arguments = step if isinstance(step, tuple) else ("blockdev-reopen", step)
            mine, other = [], []
            for daemon, result in ((d, mine), (peer, other)):
                text = json.dumps(arguments)
                if daemon is peer:
                    for path in files:
                        text = text.replace('"%s"' % path, '"%s.peer"' % path)
                result.append(answer(daemon, command, json.loads(text)))
                result.append(sorted(
                    (i["node-name"], i["drv"] != "raw" and i["ro"],  # ours is as its file is
                     i["cache"]["direct"], i["image"]["virtual-size"])
                    for i in daemon.qmp("query-named-block-nodes", flat=True)
                    if not i["node-name"].startswith("#")))
            equal(mine, other, "%s %s" % (command, arguments))
            if command == "block-export-del":
                for daemon in (d, peer):
                    wait_until(lambda: not daemon.qmp("query-block-exports"), "the export to go")


@test
def nothing_else(tmp):
    "what says which disk and which bitmaps a node has can't change; an empty list is fine"
    f = file_node(tmp, "f")
    with Daemon(tmp) as d:
        d.qmp("blockdev-add", f)
        equal(reopen(d), {})
        for name, value in (("bitmap-store", tmp + "/s"), ("bitmap-place", "disk"), ("bitmap-durability", "process-death")):
            raises(QMPError, reopen, d, node(f, **{name: value}),
                   match="Cannot change the option '%s'" % name)
        reopen(d, node(f, locking="off"), node(f, read_only=True))  # what was said last counts
        equal(facts(d, "f")["ro"], True)


@test
def exports(tmp):
    "a read-only export stays so when its node becomes writable; who writes keeps a node writable"
    f = file_node(tmp, "f", read_only=True)
    w = node(f, read_only=False)
    with Daemon(tmp) as d:
        d.qmp("blockdev-add", f)
        d.qmp("block-export-add", type="nbd", id="a", node_name="f", name="a")
        raises(QMPError, d.qmp, "block-export-add", type="nbd", id="b", node_name="f", name="b",
               writable=True, match="Cannot export read-only node as writable")
        reader = d.nbd("a")
        reopen(d, w)
        equal((reader.is_read_only(), d.nbd("a").is_read_only()), (True, True))
        d.qmp("block-export-add", type="nbd", id="b", node_name="f", name="b", writable=True)
        writer = d.nbd("b")
        writer.pwrite(b"x" * 512, 0)
        equal(bytes(reader.pread(512, 0)), b"x" * 512)
        raises(QMPError, reopen, d, f, match="^GenericError: Read-only block node 'f' cannot support")
        writer.pwrite(b"y" * 512, 0)
        writer.shutdown()
        d.unexport("b")
        reopen(d, f)
        equal(bytes(reader.pread(512, 0)), b"y" * 512)


@test(needs=["qemu-img"])
def formats_write(tmp):
    "a format writes to its file of itself: the file stays writable as long as the format is"
    path = qcow2_image(os.path.join(tmp, "i"), "4M")
    f = {"driver": "file", "node-name": "f", "filename": path}
    q = {"driver": "qcow2", "node-name": "q", "file": "f"}
    with Daemon(tmp) as d:
        d.qmp("blockdev-add", f)
        d.qmp("blockdev-add", q)
        d.qmp("block-export-add", type="nbd", id="e", node_name="q", name="e", writable=True)
        h = d.nbd("e")
        h.pwrite(b"q" * KIB, 3 * MIB)
        reopen(d, node(f, cache={"direct": True}))  # under the format, which goes on
        equal(bytes(h.pread(KIB, 3 * MIB)), b"q" * KIB)
        h.pwrite(b"r" * KIB, 2 * MIB + 7)
        h.shutdown()
        d.unexport("e")
        raises(QMPError, reopen, d, node(f, read_only=True),
               match="Read-only block node 'f' cannot support read-write users")
        reopen(d, node(f, read_only=True), node(q, read_only=True))
        run("qemu-img", "check", "-q", path)
        d.qmp("block-export-add", type="nbd", id="e2", node_name="q", name="e2")
        with_data = d.nbd("e2")
        equal(bytes(with_data.pread(KIB, 2 * MIB + 7)), b"r" * KIB)
        raises(QMPError, reopen, d, q, match="child 'file' is read-only")
        equal(bytes(with_data.pread(KIB, 2 * MIB + 7)), b"r" * KIB)
        reopen(d, q, f)  # in whatever order they are named
        equal((facts(d, "q")["ro"], facts(d, "f")["ro"]), (False, False))
    run("qemu-img", "check", "-q", path)


@test(needs=["qemu-img"])
def other_backing(tmp):
    "another backing shows at once to a client that is there; the one that nobody needs is closed"
    base = qcow2_image(os.path.join(tmp, "base"), "4M")
    top = qcow2_image(os.path.join(tmp, "top"), "-b", base, "-F", "qcow2", "4M")
    raw = image(os.path.join(tmp, "raw"), 2 * MIB, [(0, b"r" * 4096)])
    q = {"driver": "qcow2", "node-name": "q", "file": {"driver": "file", "filename": top},
         "backing": {"driver": "qcow2", "node-name": "bk", "read-only": True,
                     "file": {"driver": "file", "filename": base}}}
    with Daemon(tmp) as d:
        d.qmp("blockdev-add", q)
        d.qmp("blockdev-add", driver="file", node_name="raw", filename=raw, read_only=True)
        d.qmp("block-export-add", type="nbd", id="e", node_name="q", name="e", allocation_depth=True)
        h = d.nbd("e", ["qemu:allocation-depth", "base:allocation"])
        equal(bytes(h.pread(4096, 0)), bytes(4096))
        reopen(d, node(q, backing="raw"))
        equal(bytes(h.pread(4096, 0)), b"r" * 4096)
        equal(extents(h, "qemu:allocation-depth"), [(0, 4 * MIB, 2)])  # behind its end, too
        equal(facts(d, "bk"), None)
        raises(QMPError, d.qmp, "blockdev-del", node_name="raw", match="node is used as backing hd of 'q'")
        equal([i["node-name"] for i in d.qmp("query-named-block-nodes")
               if not i["node-name"].startswith("#")], ["q", "raw"])
        reopen(d, node(q, backing=None))
        equal(bytes(h.pread(4096, 0)), bytes(4096))
        d.qmp("blockdev-del", node_name="raw")


@test(needs=["qemu-img"])
def named_backing(tmp):
    "a backing that was opened as the image names it is kept, given back, and never comes by itself"
    base = qcow2_image(os.path.join(tmp, "base"), "4M")
    run("qemu-io", "-f", "qcow2", "-c", "write -P 98 0 4k", base)
    top = qcow2_image(os.path.join(tmp, "top"), "-b", base, "-F", "qcow2", "4M")
    q = {"driver": "qcow2", "node-name": "q", "file": {"driver": "file", "filename": top},
         "backing-names": "any"}
    g = file_node(tmp, "g", read_only=True)
    with Daemon(tmp) as d:
        d.qmp("blockdev-add", g)
        d.qmp("blockdev-add", q)
        d.qmp("block-export-add", type="nbd", id="e", node_name="q", name="e")
        h = d.nbd("e")

        def count():
            return len(d.qmp("query-named-block-nodes"))

        def fails(*definitions):
            raises(QMPError, reopen, d, *definitions, node(g, aio="native"), match="aio=native")

        before, full, empty = count(), b"b" * 4096, bytes(4096)
        raises(QMPError, reopen, d, q, match="backing is missing for 'q'")
        fails(node(q, backing=None))  # taken back: the old options do not say what the backing is
        equal((bytes(h.pread(4096, 0)), count()), (full, before))
        reopen(d, node(q, backing=None))
        equal((bytes(h.pread(4096, 0)), count()), (empty, before - 2))
        raises(QMPError, reopen, d, q, match="backing is missing for 'q'")
        equal((bytes(h.pread(4096, 0)), count()), (empty, before - 2))
        d.unexport("e")
        d.qmp("blockdev-del", node_name="q")
        d.qmp("blockdev-add", q)
        reopen(d, node(q, backing={"driver": "qcow2", "file": {"driver": "file", "filename": base}}))
        equal(count(), before)
        equal([i["ro"] for i in d.qmp("query-named-block-nodes") if i["file"] == base], [True, True])


@test(needs=["qemu-img"])
def cycles(tmp):
    "two changes that together would make a cycle are found"
    nodes = []
    for name in "ab":
        path = qcow2_image(os.path.join(tmp, name), "1M")
        nodes.append({"driver": "qcow2", "node-name": name, "read-only": True, "backing": None,
                      "file": {"driver": "file", "filename": path}})
    with Daemon(tmp) as d:
        for n in nodes:
            d.qmp("blockdev-add", n)
        raises(QMPError, reopen, d, node(nodes[0], backing="b"), node(nodes[1], backing="a"),
               match="would create a cycle")
        reopen(d, node(nodes[0], backing="b"), nodes[1])  # a child that is younger, opened first
        raises(QMPError, reopen, d, node(nodes[1], backing="a"),
               match="Making 'a' a backing child of 'b' would create a cycle")
        reopen(d, nodes[0], node(nodes[1], backing="a"))
        d.qmp("blockdev-del", node_name="b")
        d.qmp("blockdev-del", node_name="a")


@test
def all_or_nothing(tmp):
    "if one of the nodes can't be opened the new way, all are as they were, and clients notice nothing"
    f, g = file_node(tmp, "f"), file_node(tmp, "g", read_only=True)
    with Daemon(tmp) as d:
        for n in (f, g):
            d.qmp("blockdev-add", n)
            d.qmp("block-export-add", type="nbd", id=n["node-name"], node_name=n["node-name"],
                  name=n["node-name"], writable=n is f)
        h = d.nbd("f"), d.nbd("g")
        h[0].pwrite(b"1" * 512, 0)
        raises(QMPError, reopen, d, node(f, cache={"direct": True}), node(g, aio="native"),
               match="aio=native was specified")
        equal((facts(d, "f")["cache"]["direct"], facts(d, "g")["ro"]), (False, True))
        h[0].pwrite(b"2" * 512, 512)
        equal(bytes(h[0].pread(KIB, 0)), b"1" * 512 + b"2" * 512)
        equal(bytes(h[1].pread(KIB, 0)), bytes(KIB))


@test
def lost(tmp):
    "a node that can't be opened again at all fails every request, says so, and can be healed"
    f = file_node(tmp, "f")
    r = {"driver": "raw", "node-name": "r", "file": "f"}
    with Daemon(tmp) as d:
        d.qmp("blockdev-add", f)
        d.qmp("blockdev-add", r)
        d.qmp("block-export-add", type="nbd", id="r", node_name="r", name="r", writable=True)
        h = d.nbd("r", ["base:allocation"])
        h.pwrite(b"a" * 512, 0)
        os.rename(f["filename"], f["filename"] + ".away")
        message = str(raises(QMPError, reopen, d, node(f, cache={"direct": True})))
        matches(message, "Could not open .*; node 'f' could not be opened again as it was, and is lost: "
                         "Could not open")
        matches(d.log(), "node 'f' is lost")
        for request in (lambda: h.pread(512, 0), lambda: h.pwrite(b"b" * 512, 0), h.flush,
                        lambda: h.zero(512, 0), lambda: h.block_status(512, 0, lambda *x: 0)):
            equal(raises(Exception, request).errno, "EIO")
        matches(facts(d, "f")["lost"], "Could not open")
        matches(tidemark("info", "--socket", d.qmp_path).stdout, r"f +file +4 MiB +LOST")
        raises(QMPError, reopen, d, node(f, cache={"direct": True}), match="Could not open")
        os.rename(f["filename"] + ".away", f["filename"])
        reopen(d, f)
        equal("lost" in facts(d, "f"), False)
        equal(bytes(h.pread(512, 0)), b"a" * 512)
        h.pwrite(b"c" * 512, 512)
        h.flush()


def granules(d, export):
    h = d.nbd(export, ["qemu:dirty-bitmap:b"])
    found = [(o // (64 * KIB), n // (64 * KIB)) for o, n in dirty(h, "b")]
    h.shutdown()
    return found


@test
def bitmaps(tmp):
    "persistent bitmaps rest cleanly while their node is read-only, and go on after; exports keep them"
    for name in "fr":
        bitmaps_of(os.path.join(tmp, name), name)


def bitmaps_of(tmp, name):
    """The node that has the bitmap is the file, which is reopened, or stands on it."""
    os.mkdir(tmp)
    f = file_node(tmp, "f")
    r = {"driver": "raw", "node-name": "r", "file": "f"}
    store = os.path.join(tmp, "store")
    (f if name == "f" else r)["bitmap-store"] = store

    def start(which="d", **changes):
        d = Daemon(tmp, name=which)
        d.qmp("blockdev-add", node(f, **changes))
        d.qmp("blockdev-add", node(r, **changes))
        return d

    def write(d, at):
        d.qmp("block-export-add", type="nbd", id="w", node_name=name, name="w", writable=True)
        h = d.nbd("w")
        h.pwrite(b"x" * 512, at)
        h.shutdown()
        d.unexport("w")

    d = start()
    d.qmp("block-dirty-bitmap-add", node=name, name="b", persistent=True, granularity=64 * KIB)
    write(d, 0)
    reopen(d, node(f, read_only=True))  # with what stands on it
    equal((facts(d, "f")["ro"], facts(d, "r")["ro"]), (True, True))
    said = tidemark("bitmap", "check", "--json", "--disk", f["filename"], store)
    equal(json.loads(said.stdout)["state"], "closed")
    d.qmp("block-export-add", {"type": "nbd", "id": "e", "node-name": name, "name": "e",
                               "bitmaps": ["b"]})
    raises(QMPError, d.qmp, "block-dirty-bitmap-add", node=name, name="x", persistent=True,
           match="it is read-only")
    equal(granules(d, "e"), [(0, 1)])
    reopen(d, f)
    equal((facts(d, "f")["ro"], facts(d, "r")["ro"]), (False, False))
    write(d, 2 * MIB)
    equal(granules(d, "e"), [(0, 1), (32, 1)])
    d.kill()
    d = start()
    equal((d.bitmap(name, "b")["count"], d.bitmap(name, "b")["recording"]), (2 * 64 * KIB, True))
    d.stop()

    # one that can't be had for writing, as another process writes to the store
    d = start(read_only=True)
    with open(store, "r+b") as other:
        fcntl.lockf(other, fcntl.LOCK_EX)
        raises(QMPError, reopen, d, r, f, match="is in use by another process")
    equal((facts(d, "f")["ro"], d.bitmap(name, "b")["count"]), (True, 2 * 64 * KIB))
    reopen(d, r, f)
    write(d, 3 * MIB)
    d.kill()

    # and one whose disk is another meanwhile
    d = start()
    equal(d.bitmap(name, "b")["count"], 3 * 64 * KIB)
    reopen(d, node(f, read_only=True))
    with open(f["filename"], "r+b") as disk_file:
        disk_file.write(b"behind its back")
    reopen(d, f)
    equal(d.bitmap(name, "b").get("inconsistent"), True)
    d.stop()


@test
def bitmaps_in_memory(tmp):
    "what others write while a node is read-only makes its bitmaps in memory inconsistent once it is writable"
    f = file_node(tmp, "f")
    r = {"driver": "raw", "node-name": "r", "file": "f"}
    with Daemon(tmp) as d:
        d.qmp("blockdev-add", f)
        d.qmp("blockdev-add", r)
        d.qmp("block-dirty-bitmap-add", node="f", name="before")
        reopen(d, node(f, read_only=True))
        d.qmp("block-dirty-bitmap-add", node="r", name="meanwhile")
        reopen(d, f)
        equal([d.bitmap("f", "before").get("inconsistent"), d.bitmap("r", "meanwhile").get("inconsistent")], [None] * 2)
        reopen(d, node(f, read_only=True))
        with open(f["filename"], "r+b") as disk_file:
            disk_file.write(b"behind its back")
        reopen(d, node(f, read_only=True))
        reopen(d, f)
        equal([d.bitmap("f", "before").get("inconsistent"), d.bitmap("r", "meanwhile").get("inconsistent")], [True] * 2)
        d.qmp("block-dirty-bitmap-remove", node="f", name="before")
        d.qmp("blockdev-del", node_name="r")
        d.qmp("blockdev-del", node_name="f")

        d.qmp("blockdev-add", node(f, read_only=True))
        d.qmp("block-dirty-bitmap-add", node="f", name="first")
        with open(f["filename"], "r+b") as disk_file:
            disk_file.write(b"behind its back again")
        reopen(d, f)
        equal(d.bitmap("f", "first").get("inconsistent"), True)


@test(needs=["qemu-img"])
def bitmaps_in_images(tmp):
    "bitmaps of qcow2 images are in the image, for QEMU too, while it is read-only, and go on after"
    path = os.path.join(tmp, "i")
    run("qemu-img", "create", "-q", "-f", "qcow2", path, "8M")
    q = {"driver": "qcow2", "node-name": "q", "file": {"driver": "file", "filename": path}}

    def flags():
        data = json.loads(run("qemu-img", "info", "-U", "--output=json", path).stdout)
        return [b["flags"] for b in data["format-specific"]["data"]["bitmaps"]]

    def write(d, at):
        d.qmp("block-export-add", type="nbd", id="w", node_name="q", name="w", writable=True)
        h = d.nbd("w")
        h.pwrite(b"x" * 512, at)
        h.shutdown()
        d.unexport("w")

    d = Daemon(tmp)
    d.qmp("blockdev-add", q)
    d.qmp("block-dirty-bitmap-add", node="q", name="b", persistent=True, granularity=64 * KIB)
    write(d, 0)
    reopen(d, node(q, read_only=True))
    equal(flags(), [["auto"]])
    equal(d.bitmap("q", "b")["count"], 64 * KIB)
    run("qemu-img", "check", "-q", "-U", path)
    reopen(d, q)
    write(d, MIB)
    equal(d.bitmap("q", "b")["count"], 2 * 64 * KIB)
    d.kill()
    d = Daemon(tmp)
    d.qmp("blockdev-add", q)
    equal((d.bitmap("q", "b")["count"], d.bitmap("q", "b")["recording"]), (2 * 64 * KIB, True))
    d.stop()
    equal(flags(), [["auto"]])
    run("qemu-img", "check", "-q", path)


@test
def bitmaps_of_failures(tmp):
    "a reopening that fails leaves persistent bitmaps recording, and a change of size reaches them"
    f, g = file_node(tmp, "f"), file_node(tmp, "g", read_only=True)
    r = {"driver": "raw", "node-name": "r", "file": "f", "bitmap-store": os.path.join(tmp, "store")}
    d = Daemon(tmp)
    for n in (f, g, r):
        d.qmp("blockdev-add", n)
    d.qmp("block-dirty-bitmap-add", node="r", name="b", persistent=True)
    raises(QMPError, reopen, d, node(f, read_only=True), node(g, aio="native"), match="aio=native")
    raises(QMPError, reopen, d, node(r, offset=512), match="'offset' .* node 'r' has dirty bitmaps")
    reopen(d, node(r, size=2 * MIB))
    equal(facts(d, "r")["image"]["virtual-size"], 2 * MIB)
    d.qmp("block-export-add", type="nbd", id="w", node_name="r", name="w", writable=True)
    h = d.nbd("w")
    h.pwrite(b"x", 2 * MIB - 1)
    d.kill()
    d = Daemon(tmp)
    d.qmp("blockdev-add", f)
    d.qmp("blockdev-add", node(r, size=2 * MIB))
    equal((d.bitmap("r", "b")["count"], d.bitmap("r", "b").get("inconsistent")), (65536, None))
    d.stop()


@test(needs=["qemu-img"])
def under_load(tmp):
    "clients that read, write, flush and ask all the time see their data and no error"
    path = qcow2_image(os.path.join(tmp, "i"), "-o", "cluster_size=4k", "8M")
    f = {"driver": "file", "node-name": "f", "filename": path, "discard": "unmap"}
    q = {"driver": "qcow2", "node-name": "q", "file": "f", "discard": "unmap"}
    g = file_node(tmp, "g", size=8 * MIB)
    r = {"driver": "raw", "node-name": "r", "file": "g"}
    done = threading.Event()
    until = time.monotonic() + 3
    rounds = 0

    def client(name, number, seed):
        rng = random.Random(seed)
        base, size = number * 2 * MIB, 2 * MIB
        model = bytearray(size)
        h = d.nbd(name, ["base:allocation"])
        while not done.is_set():
            at = rng.randrange(0, size - 1)
            n = rng.randrange(1, min(size - at, 70000) + 1)
            what = rng.randrange(8)
            if what < 3:
                data = rng.randbytes(n)
                h.pwrite(data, base + at)
                model[at:at + n] = data
            elif what < 6:
                equal(bytes(h.pread(n, base + at)) == bytes(model[at:at + n]), True,
                      "%s: other data at %d+%d" % (name, base + at, n))
            elif what == 6:
                h.zero(n, base + at)
                model[at:at + n] = bytes(n)
            elif rng.randrange(2):
                h.flush()
            else:
                h.block_status(n, base + at, lambda *x: 0)
        equal(bytes(h.pread(size, base)) == bytes(model), True, "%s: other data at the end" % name)
        h.shutdown()

    def changes():
        nonlocal rounds
        try:
            for i in itertools.count():
                if i >= 240 and time.monotonic() > until:
                    break
                direct = {"cache": {"direct": bool(i % 2)}}
                reopen(d, *((node(f, **direct),), (node(g, **direct),), (node(q, l2_cache_size=65536),),
                            (node(f, **direct), node(q)), (r,), (node(r), node(g, **direct)))[i % 6])
                rounds += 1
        finally:
            done.set()

    with Daemon(tmp) as d:
        for n in (f, q, g, r):
            d.qmp("blockdev-add", n)
        for name in "qr":
            d.qmp("block-export-add", type="nbd", id=name, node_name=name, name=name, writable=True)
        in_threads(changes, *[lambda i=i, name=name: client(name, i, 100 + i)
                              for i in range(3) for name in "qr"])
    equal(rounds >= 240, True)
    run("qemu-img", "check", "-q", path)


@test(needs=["qemu-storage-daemon", "qemu-img"])
def filters_as_qemu(tmp):
    "a filter is put in and taken out by the option file, with the answers of QEMU"
    path = qcow2_image(tmp + "/i", "4M")
    run("cp", path, path + ".peer")
    limits = {"x-iops-total": 10000}
    for step in ("t.img", "u.img", "g.img"):
        image(os.path.join(tmp, step), 4 * MIB)
        image(os.path.join(tmp, step + ".peer"), 4 * MIB)
    r = {"driver": "raw", "node-name": "r", "file": "g"}
    q = {"driver": "qcow2", "node-name": "q", "file": "below"}
    th = {"driver": "throttle", "node-name": "th", "file": "r", "throttle-group": "tg"}
    cbw = {"driver": "copy-before-write", "node-name": "cbw", "file": "g", "target": "t"}
    steps = [("blockdev-add", {"driver": "file", "node-name": n, "filename": os.path.join(tmp, f)})
             for n, f in (("g", "g.img"), ("t", "t.img"), ("u", "u.img"), ("i", "i"))]
    steps += [("object-add", dict(limits, **{"qom-type": "throttle-group", "id": "tg"}))]
    below = {"driver": "throttle", "node-name": "below", "file": "i", "throttle-group": "tg"}
    steps += [("blockdev-add", n) for n in (r, below, q, th, cbw)]
    steps += [("blockdev-add", {"driver": "raw", "node-name": "top", "file": "th"}),
              ("block-export-add", {"type": "nbd", "id": "e", "node-name": "r", "name": "e", "writable": True})]
    lists = [
        [node(r, file="cbw")], [node(r, file="cbw")], [node(cbw, file="r")], [cbw], [node(cbw, target="u")],
        [node(r, file="top")], [node(r, file="r")], [node(r, file="none")], [r], [node(r, file="cbw")],
        [node(th, file="cbw")], [node(th, file="g")], [th], [r, node(th, file="cbw")], [r, th],
        [node(r, file="cbw"), node(q, driver="raw")], [r],
    ]
    steps += [{"options": options} for options in lists]
    steps += [("blockdev-del", {"node-name": "cbw"}),
              ("blockdev-del", {"node-name": "below"}),
              ("blockdev-add", {"driver": "copy-before-write", "node-name": "c2", "file": "g", "target": "u"}),
              {"options": [node(r, file="c2")]}, ("blockdev-del", {"node-name": "c2"}), {"options": [r]},
              ("blockdev-del", {"node-name": "c2"}), ("blockdev-del", {"node-name": "u"})]
    with Daemon(tmp) as d, Daemon(tmp, binary=QSD, name="q") as peer:
        for step in steps:
            command, arguments = step if isinstance(step, tuple) else ("blockdev-reopen", step)
            theirs = dict(arguments, filename=arguments["filename"] + ".peer") if "filename" in arguments else arguments
            equal(answer(d, command, arguments), answer(peer, command, theirs), "%s %s" % (command, arguments))


@test
def filter_by_file(tmp):
    "copy-before-write put in below a node by blockdev-reopen keeps the instant under load, and bitmaps miss nothing"
    f, t = file_node(tmp, "f"), file_node(tmp, "t")
    r = {"driver": "raw", "node-name": "r", "file": "f"}
    over = threading.Event()

    def client(number):
        h, rng, n = d.nbd("r"), random.Random(number), 0
        while not over.is_set():
            at = (rng.randrange(4 * MIB // 8192) * 2 + number) * 4096
            n += 1
            h.pwrite(bytes([n % 255 + 1]) * 4096, at)
            written[number].append((at, n % 255 + 1))
        h.shutdown()

    with Daemon(tmp) as d:
        for n in (f, t, r):
            d.qmp("blockdev-add", n)
        d.qmp("block-dirty-bitmap-add", node="r", name="b", persistent=True)
        d.qmp("block-export-add", type="nbd", id="r", node_name="r", name="r", writable=True)
        written = [[], []]

        def changes():
            try:
                for i in range(8):
                    time.sleep(0.05)
                    d.qmp("blockdev-add", driver="copy-before-write", node_name="cbw", file="f", target="t")
                    least = [len(w) for w in written]
                    reopen(d, node(r, file="cbw"))
                    most = [len(w) + 1 for w in written]
                    d.qmp("blockdev-add", driver="snapshot-access", node_name="s", file="cbw")
                    d.qmp("block-export-add", type="nbd", id="s%d" % i, node_name="s", name="s")
                    s = d.nbd("s")
                    time.sleep(0.05)
                    content = s.pread(s.get_size(), 0)
                    for w, a, b in zip(written, least, most):
                        shown_at(content, w, a, b)
                    s.shutdown()
                    d.unexport("s%d" % i)
                    d.qmp("blockdev-del", node_name="s")
                    raises(QMPError, d.qmp, "blockdev-del", node_name="cbw", match="in use")
                    reopen(d, r)
                    d.qmp("blockdev-del", node_name="cbw")
            finally:
                over.set()
        in_threads(changes, lambda: client(0), lambda: client(1))
        granules_written = {at // 65536 for w in written for at, _ in w}
        equal(d.bitmap("r", "b")["count"], len(granules_written) * 65536)


def content(d, export="e"):
    h = d.nbd(export)
    data = bytes(h.pread(h.get_size(), 0))
    h.shutdown()
    return data


def bitmaps(d, name):
    return {b["name"]: b["count"] for b in facts(d, name).get("dirty-bitmaps", [])}


@test
def another_disk(tmp):
    "file becomes a node of another disk: persistent bitmaps are those of the disk, others are dirty everywhere"
    f, g = file_node(tmp, "f", locking="off"), file_node(tmp, "g", locking="off")
    r = {"driver": "raw", "node-name": "r", "file": "f"}
    with Daemon(tmp) as d:
        for n in (f, g, r, {"driver": "raw", "node-name": "w", "file": "r", "offset": MIB, "size": MIB}):
            d.qmp("blockdev-add", n)
        d.qmp("block-export-add", type="nbd", id="e", node_name="r", name="e", writable=True)
        d.qmp("block-dirty-bitmap-add", node="r", name="kept", persistent=True)
        for one in ("r", "w"):
            d.qmp("block-dirty-bitmap-add", node=one, name="t")
        h = d.nbd("e")
        h.pwrite(b"f" * 65536, 0)
        equal((bitmaps(d, "r"), bitmaps(d, "w")), ({"kept": 65536, "t": 65536}, {"t": 0}))
        reopen(d, node(r, file="g"))
        equal(h.pread(1, 0), b"\0")
        equal((bitmaps(d, "r"), bitmaps(d, "w")), ({"t": 4 * MIB}, {"t": MIB}))
        d.qmp("block-dirty-bitmap-add", node="r", name="kept", persistent=True)
        h.pwrite(b"g" * 131072, MIB)
        equal(bitmaps(d, "r"), {"kept": 131072, "t": 4 * MIB})
        reopen(d, r)
        equal((bitmaps(d, "r"), h.pread(1, 0), h.pread(1, MIB)), ({"kept": 65536, "t": 4 * MIB}, b"f", b"\0"))
        h.pwrite(b"f" * 65536, 2 * MIB)
        reopen(d, node(r, file="g"))
        equal(bitmaps(d, "r")["kept"], 131072)
        h.pwrite(b"h" * 65536, 3 * MIB)
        h.shutdown()
        d.kill()
    with Daemon(tmp) as d:
        for n in (f, g, r, node(r, node_name="r2", file="g")):
            d.qmp("blockdev-add", n)
        equal((bitmaps(d, "r"), bitmaps(d, "r2")), ({"kept": 131072}, {"kept": 196608}), "after a kill")


@test
def another_disk_is_recorded(tmp):
    "bitmaps that are not persistent record on another disk, also after a reopening that failed; disabled ones don't"
    f, g = file_node(tmp, "f"), file_node(tmp, "g")
    r, x = {"driver": "raw", "node-name": "r", "file": "f"}, file_node(tmp, "x")
    with Daemon(tmp) as d:
        for n in (f, g, r, x):
            d.qmp("blockdev-add", n)
        d.qmp("block-export-add", type="nbd", id="e", node_name="r", name="e", writable=True)
        h = d.nbd("e")
        for name in ("on", "off"):
            d.qmp("block-dirty-bitmap-add", node="r", name=name, disabled=name == "off")
        for i, definitions in enumerate(([node(r, file="g")], [r, node(x, aio="native")])):
            try:
                reopen(d, *definitions)
            except QMPError:
                equal(i, 1)
            for name in ("on", "off"):
                d.qmp("block-dirty-bitmap-clear", node="r", name=name)
            h.pwrite(bytes([i + 1]) * 65536, 0)
            equal(bitmaps(d, "r"), {"on": 65536, "off": 0})
        h.shutdown()


@test(needs=["qemu-img"])
def refused_with_another_file(tmp):
    "a reopening that is refused when files have changed leaves no node lost"
    f = file_node(tmp, "f", MIB)
    g = node(f, node_name="g", filename=qcow2_image(os.path.join(tmp, "g"), MIB))
    q = {"driver": "qcow2", "node-name": "q", "file": "g", "read-only": True}
    r, w = {"driver": "raw", "node-name": "r", "file": "f"}, {"driver": "raw", "node-name": "w", "file": "g"}
    with Daemon(tmp) as d:
        for n in (f, g, q, r, w):
            d.qmp("blockdev-add", n)
        d.qmp("block-dirty-bitmap-add", node="r", name="b")
        raises(QMPError, reopen, d, node(q, read_only=False), node(r, file="q"), match="by node 'w' [^;]*$")
        equal([(n, facts(d, n)["ro"], "lost" in facts(d, n)) for n in "qr"], [("q", True, False), ("r", False, False)])
        d.qmp("block-export-add", type="nbd", id="e", node_name="r", name="e", writable=True)
        h = d.nbd("e")
        h.pwrite(b"1" * 65536, 0)
        h.shutdown()
        equal(bitmaps(d, "r"), {"b": MIB})


@test(needs=["qemu-img"])
def another_image(tmp):
    "the file of a qcow2 node becomes that of another image; what shows it through a backing is dirty"
    paths = [qcow2_image(os.path.join(tmp, n), "4M") for n in ("a", "b")]
    run("qemu-io", "-f", "qcow2", "-c", "write -P 98 0 64k", paths[1])
    run("qemu-img", "bitmap", "--add", paths[1], "inside")
    over = qcow2_image(os.path.join(tmp, "over"), "4M")
    run("qemu-io", "-f", "qcow2", "-c", "write -P 1 64k 64k", over)
    q = {"driver": "qcow2", "node-name": "q", "file": "a"}
    with Daemon(tmp) as d:
        for name, path in zip("ab", paths):
            d.qmp("blockdev-add", {"driver": "file", "node-name": name, "filename": path})
        d.qmp("blockdev-add", q)
        d.qmp("blockdev-add", {"driver": "qcow2", "node-name": "over", "backing": "q",
                               "file": {"driver": "file", "filename": over}})
        d.qmp("block-dirty-bitmap-add", node="q", name="of-a", persistent=True)
        d.qmp("block-dirty-bitmap-add", node="over", name="o", persistent=True)
        d.qmp("block-export-add", type="nbd", id="e", node_name="over", name="e")
        reopen(d, node(q, file="b"))
        equal((bitmaps(d, "q"), bitmaps(d, "over")), ({"inside": 0}, {"o": 4 * MIB - 65536}))
        equal(content(d)[:65537], b"b" * 65536 + b"\1")
        reopen(d, q)
        equal(bitmaps(d, "q"), {"of-a": 0})
        equal(content(d)[:65537], bytes(65536) + b"\1")
    for path, names in zip(paths, (["of-a"], ["inside"])):
        info = json.loads(run("qemu-img", "info", "--output=json", path).stdout)
        equal([b["name"] for b in info["format-specific"]["data"]["bitmaps"]], names)


@test(needs=["qemu-img"])
def another_disk_is_refused(tmp):
    "as long as bitmaps are in use, an image is in it, or something keeps its earlier state; nothing changes then"
    f, g, small = (file_node(tmp, n, size) for n, size in (("f", 4 * MIB), ("g", 4 * MIB), ("small", MIB)))
    image_file = qcow2_image(os.path.join(tmp, "h.img"), "4M")
    r = {"driver": "raw", "node-name": "r", "file": "f"}
    with Daemon(tmp) as d:
        for n in (f, g, small, r):
            d.qmp("blockdev-add", n)
        d.qmp("block-dirty-bitmap-add", node="r", name="b", persistent=True)
        d.qmp("block-export-add", type="nbd", id="e", node_name="r", name="e", writable=True, bitmaps=["b"])
        h = d.nbd("e", contexts=["qemu:dirty-bitmap:b"])
        raises(QMPError, reopen, d, node(r, file="g"), match="'r' can't change to another disk: its bitmaps are in use")
        d.qmp("block-export-dirty-bitmap", id="e", bitmaps=[])
        h.shutdown()
        wait_until(lambda: not d.bitmap("r", "b")["busy"], "the session to go")
        raises(QMPError, reopen, d, node(r, file="small"), match="would change its size")
        h = d.nbd("e")
        h.pwrite(b"x" * 65536, 0)
        equal((bitmaps(d, "r"), bitmaps(d, "small"), "lost" in facts(d, "r")), ({"b": 65536}, {}, False))
        h.shutdown()
        d.unexport("e")
        d.qmp("blockdev-add", file_node(tmp, "target"))
        d.qmp("blockdev-add", driver="copy-before-write", node_name="cbw", file="r", target="target")
        raises(QMPError, reopen, d, node(r, file="g"), match="'cbw' can't change to another disk: it keeps an earlier")
        d.qmp("blockdev-del", node_name="cbw")
        d.qmp("blockdev-add", file_node(tmp, "h"))
        reopen(d, node(r, file="h"))
        q = {"driver": "qcow2", "node-name": "q", "file": "r"}
        d.qmp("blockdev-add", q)
        raises(QMPError, reopen, d, node(r, file="g"), match="'q' can't change to another disk: its image is in it")
        run("cp", image_file, os.path.join(tmp, "i.img"))
        d.qmp("blockdev-add", file_node(tmp, "i"))
        reopen(d, node(r, file="i"), q)
    with Daemon(tmp) as d:
        for n in (f, r):
            d.qmp("blockdev-add", n)
        equal(bitmaps(d, "r"), {"b": 65536}, "after a restart")


@test
def disks_change_while_written(tmp):
    "clients write while a node changes its disk: each write is on one of the disks, and dirty in that disk's bitmap"
    names = ("f", "g")
    r = {"driver": "raw", "node-name": "r", "file": "f"}
    with Daemon(tmp) as d:
        for n in names:
            d.qmp("blockdev-add", file_node(tmp, n, 16 * MIB))
        d.qmp("blockdev-add", r)
        d.qmp("block-export-add", type="nbd", id="e", node_name="r", name="e", writable=True)
        for n in reversed(names):
            reopen(d, node(r, file=n))
            d.qmp("block-dirty-bitmap-add", node="r", name="b", persistent=True)
        over, done = threading.Event(), []

        def client():
            h, rnd = d.nbd("e"), random.Random(5)
            while not over.is_set():
                at = rnd.randrange(256)
                h.pwrite(b"w" * 65536, at * 65536)
                done.append(at)
            h.shutdown()

        def changes():
            try:
                for i in range(20):
                    seen = len(done)
                    wait_until(lambda: len(done) > seen + 3 or over.is_set(), "writes")
                    reopen(d, node(r, file=names[i % 2]))
            finally:
                over.set()
        in_threads(client, changes)
        written = {}
        for n in names:
            reopen(d, node(r, file=n))
            data = content(d)
            written[n] = {i for i in range(256) if data[i * 65536] != 0}
            equal(bitmaps(d, "r")["b"], len(written[n]) * 65536, n)
        equal(written["f"] | written["g"], set(done))


@test(needs=["qemu-img"])
def an_overlay_is_another_disk(tmp):
    "a node that goes from an overlay to its backing image is dirty, and an export with bitmaps can't go there"
    base = qcow2_image(os.path.join(tmp, "base.qcow2"), MIB)
    over = qcow2_image(os.path.join(tmp, "over.qcow2"), MIB)
    r = {"driver": "raw", "node-name": "r", "file": "over"}
    with Daemon(tmp) as d:
        for name, path, more in (("base", base, {}), ("over", over, {"backing": "base"})):
            d.qmp("blockdev-add", {"driver": "qcow2", "node-name": name, "file": {
                "driver": "file", "filename": path}, **more})
        d.qmp("blockdev-add", r)
        for one in ("r", "over"):
            d.qmp("block-dirty-bitmap-add", node=one, name="b")
        d.qmp("block-export-add", type="nbd", id="e", node_name="over", name="e", bitmaps=["b"], writable=True)
        equal((bitmaps(d, "r"), bitmaps(d, "over")), ({"b": 0}, {"b": 0}))
        reopen(d, node(r, file="base"))
        equal((bitmaps(d, "r"), bitmaps(d, "over")), ({"b": MIB}, {"b": 0}))
        raises(QMPError, d.qmp, "qom-set", path="/exports/e", property="drive", value="base",
               match="node 'base' shows another disk")


@test(needs=["qemu-img"])
def marks_that_cannot_be_stored(tmp):
    "the backing of a read-only image with bitmaps that record is not written to, and not replaced"
    f, g = file_node(tmp, "f", MIB), file_node(tmp, "g", MIB)
    over = qcow2_image(os.path.join(tmp, "over.qcow2"), MIB)
    q = {"driver": "qcow2", "node-name": "q", "backing": "f", "file": {"driver": "file", "filename": over}}
    e = {"type": "nbd", "id": "e", "node-name": "f", "name": "e", "writable": True}
    with Daemon(tmp) as d:
        for n in (f, g, q):
            d.qmp("blockdev-add", n)
        d.qmp("block-dirty-bitmap-add", node="q", name="b", persistent=True)
        raises(QMPError, reopen, d, node(q, read_only=True, backing="g"), match="'q' is read-only and has persistent")
        equal((facts(d, "q")["ro"], facts(d, "q")["backing_file"]), (False, f["filename"]))
        reopen(d, node(q, read_only=True))
        raises(QMPError, d.qmp, "block-export-add", e, match="unshared by node 'q'")
        raises(QMPError, reopen, d, node(q, read_only=True, backing="g"), match="'q' is read-only and has persistent")
        raises(QMPError, reopen, d, node(q, read_only=True, backing=None), match="make it writable first, or disable")
        reopen(d, q)
        d.qmp("block-export-add", e)
        raises(QMPError, reopen, d, node(q, read_only=True), match="'write' .* unshared by node 'q'")
        equal((facts(d, "q")["ro"], bitmaps(d, "q")), (False, {"b": 0}))
        h = d.nbd("e")
        h.pwrite(b"1" * 65536, 0)
        h.shutdown()
        d.kill()
    with Daemon(tmp) as d:
        d.qmp("blockdev-add", f)
        d.qmp("block-export-add", e)
        raises(QMPError, d.qmp, "blockdev-add", node(q, read_only=True), match="unshared by node 'q'")
        d.qmp("block-export-del", id="e")
        d.qmp("blockdev-add", g)
        d.qmp("blockdev-add", q)
        equal(bitmaps(d, "q"), {"b": 65536})
        d.qmp("block-dirty-bitmap-disable", node="q", name="b")
        reopen(d, node(q, read_only=True, backing="g"))
        equal(bitmaps(d, "q"), {"b": 65536})


@test
def under_a_backup(tmp):
    "a node above a disk in a backup is reopened as it was defined, and its writes still pass by the filter"
    f = file_node(tmp, "f")
    r = {"driver": "raw", "node-name": "r", "file": "f"}
    with Daemon(tmp) as d:
        for n in (f, r):
            d.qmp("blockdev-add", n)
        d.qmp("block-export-add", type="nbd", id="r", node_name="r", name="r", writable=True)
        d.qmp("backup-begin", {"id": "b", "disks": [{"node": "f"}], "scratch": {"directory": tmp}})
        h, s = d.nbd("r"), d.nbd("f@b")
        reopen(d, node(r, discard="unmap"))
        h.pwrite(b"n" * 4096, 0)
        equal(s.pread(4096, 0), bytes(4096))
        h.shutdown(), s.shutdown()
        d.qmp("backup-end", id="b", success=True)
        reopen(d, r)


def shown_at(content, written, least, most):
    """Checks that the blocks of one writer are those of a prefix of what it wrote, of that length."""
    for n in range(least, most + 1):
        last = dict(written[:n])
        if all(content[at:at + 4096] == bytes([last.get(at, 0)]) * 4096 for at, _ in written[:most]):
            return
    fail("no prefix of %d to %d requests" % (least, most))


main()
