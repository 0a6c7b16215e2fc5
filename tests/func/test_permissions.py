#!/usr/bin/python3
# SPDX-FileCopyrightText: 2026 The Tidemark authors
# SPDX-License-Identifier: GPL-2.0-or-later
"""Who may do what with a node, answers as QEMU's; and bitmaps see what reaches their disk by another road."""
import json
import os
import random
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from harness import *
import nbd  # noqa: E402

KIB, MIB = 1 << 10, 1 << 20
BITMAP = "qemu:dirty-bitmap:"


def file_node(tmp, name, size=4 * MIB, **more):
    path = os.path.join(tmp, name + ".img")
    if not os.path.exists(path):
        image(path, size)
    return dict({"driver": "file", "node-name": name, "filename": path}, **more)


def qcow2_nodes(tmp, name, *args, size="4M", **more):
    path = os.path.join(tmp, name + ".qcow2")
    if not os.path.exists(path):
        run("qemu-img", "create", "-q", "-f", "qcow2", *args, path, size)
    return [{"driver": "file", "node-name": name + "-file", "filename": path},
            dict({"driver": "qcow2", "node-name": name, "file": name + "-file"}, **more)]


def raw(name, file, **more):
    return dict({"driver": "raw", "node-name": name, "file": file}, **more)


def add(d, *definitions):
    for definition in definitions:
        d.qmp("blockdev-add", definition)


def export(d, node, writable=True, **more):
    d.qmp("block-export-add", dict({"type": "nbd", "id": node, "node-name": node, "name": node, "writable": writable}, **more))


def write(d, node, offset, length, byte=b"w"):
    h = d.nbd(node)
    h.pwrite(byte * length, offset)
    h.shutdown()


def dirt(d, node, name="b"):
    """The dirty 64 KiB of a bitmap, by number."""
    export(d, node, False, id="look", name="look", bitmaps=[{"node": node, "name": name}])
    h = d.nbd("look", [BITMAP + name])
    found = [i for o, n, f in extents(h, BITMAP + name) if f for i in range(o >> 16, (o + n + 65535) >> 16)]
    h.shutdown()
    d.unexport("look")
    return found


def bitmap(d, node, persistent=False, **more):
    d.qmp("block-dirty-bitmap-add", dict({"node": node, "name": "b", "persistent": persistent}, **more))


@test(needs=[QSD, "qemu-img"])
def as_qemu(tmp):
    "permissions are refused where qemu-storage-daemon refuses them, with its messages"
    def steps(at):
        os.mkdir(at)
        export = {"type": "nbd", "writable": True}
        base, over = qcow2_nodes(at, "b"), qcow2_nodes(at, "t", backing="b")
        yield from (("blockdev-add", n) for n in [file_node(at, "f"), raw("r", "f"), *base, *over])
        add = lambda node, **more: ("block-export-add", dict(export, id=node, **{"node-name": node}, **more))
        delete = lambda node: ("block-export-del", {"id": node})
        resize = lambda node: ("block_resize", {"node-name": node, "size": MIB})
        yield from [add("r"), resize("f"), resize("r"), add("f"), resize("f"), delete("r"), delete("f")]
        yield from [resize("b-file"), add("b"), add("t"), add("t-file"), add("t-file", writable=False), add("b-file")]
        reopened = lambda n: ("blockdev-reopen", {"options": [dict(n, **{"read-only": True})]})
        yield from [reopened(base[1]), reopened(base[0]), delete("b"), delete("t"), reopened(base[1]), reopened(base[0])]
        yield from [("blockdev-add", {"driver": "qcow2", "node-name": "n", "file": "t-file"}),
                    ("blockdev-add", {"driver": "qcow2", "node-name": "n", "file": "t-file", "read-only": True}),
                    ("blockdev-add", {"driver": "qcow2", "node-name": "n", "file": "b-file", "read-only": True}),
                    add("b-file", writable=False)]
        yield from [("blockdev-add", raw("w1", "f", offset=0, size=MIB)),
                    ("blockdev-add", raw("w2", "f", offset=MIB // 2, size=MIB)), add("w1"), add("w2"), resize("f")]

    with Daemon(tmp) as ours, Daemon(tmp, binary=QSD, name="q") as theirs:
        both = zip(steps(os.path.join(tmp, "ours")), steps(os.path.join(tmp, "theirs")))
        for mine, other in both:
            answers = []
            for d, (command, arguments) in (ours, mine), (theirs, other):
                try:
                    answers.append(d.qmp(command, arguments))
                except QMPError as e:
                    answers.append(e.bare)
                if command == "block-export-del" and answers[-1] == {}:
                    d.monitor.wait_event("BLOCK_EXPORT_DELETED", id=arguments["id"])
            equal(answers[0], answers[1], "%s %s" % (mine[0], json.dumps(mine[1])))


@test(needs=["qemu-img"])
def formats_are_alone(tmp):
    "nobody else writes to the nodes below a writable format, however the nodes are added"
    f, q = qcow2_nodes(tmp, "q")
    conflict = "Permission conflict on node 'q-file': permissions '%s' are both required by .* and unshared by"
    with Daemon(tmp) as d:
        add(d, f)
        export(d, "q-file")
        raises(QMPError, add, d, q, match=conflict % "write")
        raises(QMPError, add, d, dict(q, **{"read-only": True}), match=conflict % "write")
        d.qmp("block-export-del", id="q-file")
        d.monitor.wait_event("BLOCK_EXPORT_DELETED", id="q-file")
        add(d, q)
        raises(QMPError, add, d, raw("r", "q-file"), match=conflict % "resize")
        raises(QMPError, export, d, "q-file", match=conflict % "write")
        raises(QMPError, d.qmp, "block-export-add", type="nbd", id="e", node_name="q-file", name="e",
               match=conflict % "resize")
    run("qemu-img", "check", "-q", f["filename"])


@test
def below(tmp):
    "a write to the file is in the bitmaps of all that show it, at its place there, and stays after a restart"
    nodes = [file_node(tmp, "f"), raw("whole", "f"), raw("first", "f", offset=0, size=MIB),
             raw("second", "f", offset=MIB + 64 * KIB, size=MIB), raw("both", "whole", offset=MIB - 64 * KIB, size=MIB)]
    names = [n["node-name"] for n in nodes]
    with Daemon(tmp) as d:
        add(d, *nodes)
        for name in names:
            bitmap(d, name, name == "whole")
            export(d, name)
        seen = {"f": [], "whole": [], "first": [], "second": [], "both": []}
        starts = {"f": 0, "whole": 0, "first": 0, "second": 17, "both": 15}
        ends = {"f": 64, "whole": 64, "first": 16, "second": 33, "both": 31}

        def wrote(node, place):
            write(d, node, (place - starts[node]) << 16, 512)
            for name in names:
                if starts[name] <= place < ends[name]:
                    seen[name] = sorted(set(seen[name]) | {place - starts[name]})
            equal({name: dirt(d, name) for name in names}, seen)

        for node, place in ("f", 0), ("f", 15), ("f", 16), ("second", 20), ("both", 30), ("first", 3), ("whole", 63):
            wrote(node, place)
        h = d.nbd("f")
        h.zero(3 * 65536, 31 * 65536)  # half in one window, and not in the other
        h.shutdown()
        for name in names:
            seen[name] = sorted(set(seen[name]) | {p - starts[name] for p in (31, 32, 33) if starts[name] <= p < ends[name]})
        equal({name: dirt(d, name) for name in names}, seen)
    with Daemon(tmp) as d:
        add(d, *nodes)
        equal(dirt(d, "whole"), seen["whole"])


@test
def any_road(tmp):
    "bitmaps of random windows of windows see every write, whichever node it comes from"
    rng = random.Random(7)
    with Daemon(tmp) as d:
        add(d, file_node(tmp, "n0"))
        place = {"n0": (0, 64)}  # in 64 KiB of the file
        for i in range(1, 8):
            below = rng.choice(list(place))
            start, length = place[below]
            a = rng.randrange(length)
            n = rng.randrange(1, length - a + 1)
            add(d, raw("n%d" % i, below, offset=a << 16, size=n << 16))
            place["n%d" % i] = (start + a, n)
        dirty = {}
        for name in place:
            bitmap(d, name, name == "n3")
            export(d, name)
            dirty[name] = set()
        for _ in range(25):
            name = rng.choice(list(place))
            start, length = place[name]
            at = rng.randrange(length)
            write(d, name, at << 16, 4096)
            for other, (first, n) in place.items():
                if first <= start + at < first + n:
                    dirty[other].add(start + at - first)
            if rng.random() < 0.3:
                d.qmp("block-dirty-bitmap-clear", node=name, name="b")
                dirty[name] = set()
        equal({name: dirt(d, name) for name in place}, {n: sorted(s) for n, s in dirty.items()})


@test(needs=["qemu-img"])
def backings(tmp):
    "a write into a backing is in the bitmaps of all overlays above it, shorter or not"
    with Daemon(tmp) as d:
        add(d, *qcow2_nodes(tmp, "base"), *qcow2_nodes(tmp, "mid", size="2M", backing="base"),
            *qcow2_nodes(tmp, "top", backing="mid"), raw("r", "top", offset=MIB))
        for name in "base", "mid", "top", "r":
            bitmap(d, name, name != "r")
        export(d, "base")
        export(d, "top")
        write(d, "base", 17 << 16, 512)
        write(d, "base", 40 << 16, 512)  # beyond the end of the one in the middle
        write(d, "top", 20 << 16, 512)
        equal([dirt(d, "base"), dirt(d, "mid"), dirt(d, "top"), dirt(d, "r")],
              [[17, 40], [17], [17, 20], [1, 4]])


@test(needs=["qemu-img"])
def copies_on_their_way(tmp):
    "a bitmap is cleared after what is copied from a backing has arrived, as the backing may have changed meanwhile"
    with Daemon(tmp, "--object", "throttle-group,id=g,limits.bps-write=65536") as d:
        file, top = qcow2_nodes(tmp, "top", file="slow", backing="base")
        add(d, file_node(tmp, "base"), file, {"driver": "throttle", "node-name": "slow", "throttle-group": "g",
                                              "file": "top-file"}, dict(top, file="slow"), raw("r", "top"))
        export(d, "base")
        export(d, "r")
        write(d, "base", 0, MIB, b"1")
        bitmap(d, "r", granularity=4 * KIB)
        h, other = d.nbd("r"), d.nbd("r")

        def reads():
            return next(n["stats"]["rd_operations"] for n in d.qmp("query-blockstats", {"query-nodes": True})
                        if n.get("node-name") == "base")

        seen = reads()
        h.pwrite(b"x" * 64 * KIB, 2 * MIB)  # the file now writes nothing for a second
        cookie = h.aio_pwrite(nbd.Buffer.from_bytearray(bytearray(b"x" * 4 * KIB)), 0)
        wait_until(lambda: h.poll(10) is not None and reads() > seen, "the read of what is around the write")
        write(d, "base", 32 * KIB, 4 * KIB, b"2")
        d.qmp("block-dirty-bitmap-clear", node="r", name="b")
        before = other.pread(64 * KIB, 0)
        while not h.aio_command_completed(cookie):
            h.poll(1000)
        after = other.pread(64 * KIB, 0)
        export(d, "r", id="look", name="look", bitmaps=["b"])
        marked = dirty(d.nbd("look", [BITMAP + "b"]), "b")
        for at in range(0, 64 * KIB, 4 * KIB):
            if before[at:at + 4 * KIB] != after[at:at + 4 * KIB] and not any(a <= at < a + n for a, n in marked):
                fail("at %d the disk has changed, and the bitmap has not" % at)


@test(needs=["qemu-img"])
def another_backing(tmp):
    "after a reopening with another backing what shows through is dirty in all overlays, and nothing else"
    top, q = qcow2_nodes(tmp, "q", backing="a")
    q2 = dict(q, backing="b")
    with Daemon(tmp) as d:
        add(d, file_node(tmp, "a"), file_node(tmp, "b"), top, q, raw("r", "q"))
        export(d, "r")
        write(d, "r", MIB, MIB)
        bitmap(d, "q", True)
        bitmap(d, "r")
        d.qmp("blockdev-reopen", options=[q2])
        shown = [i for i in range(64) if not 16 <= i < 32]
        equal([dirt(d, "q"), dirt(d, "r")], [shown, shown])
        d.qmp("block-dirty-bitmap-clear", node="q", name="b")
        raises(QMPError, d.qmp, "blockdev-reopen", options=[q, {"driver": "file", "node-name": "b", "filename": "x"}])
        d.qmp("blockdev-reopen", options=[q2])
        equal(dirt(d, "q"), [])
        export(d, "a")
        export(d, "b")
        write(d, "a", 0, 512)  # nobody's backing any more
        write(d, "b", 5 << 16, 512)
        equal(dirt(d, "q"), [5])
        d.qmp("blockdev-reopen", options=[dict(q, backing=None)])
        equal(dirt(d, "q"), shown)
        d.kill()
    with Daemon(tmp) as d:
        add(d, file_node(tmp, "a"), top, dict(q, backing=None))
        equal(dirt(d, "q"), shown)


@test(needs=["qemu-img"])
def layers_in_one_change(tmp):
    "bitmaps of an image and of its file change in one transaction, also where the image's file grows by it"
    f, q = qcow2_nodes(tmp, "q", "-o", "cluster_size=4096")
    for i in range(8):
        run("qemu-img", "bitmap", "--add", f["filename"], "b%d" % i)

    def change(kind, node, name, **more):
        return {"type": "block-dirty-bitmap-" + kind, "data": dict({"node": node, "name": name}, **more)}

    with Daemon(tmp) as d:
        add(d, dict(f, **{"bitmap-store": os.path.join(tmp, "store")}), q)
        export(d, "q")
        h = d.nbd("q")
        for i in range(8):
            for k in range(3):
                h.pwrite(b"x" * 4096, (3 * i + k) * 65536)
            d.qmp("transaction", actions=[change("remove", "q", "b%d" % i),
                                          change("add", "q-file", "x%d" % i, persistent=i % 2 == 1),
                                          change("add", "q", "y%d" % i, persistent=True)])
            raises(QMPError, d.qmp, "transaction", actions=[
                change("clear", "q", "y%d" % i), change("clear", "q-file", "x%d" % i), {"type": "abort", "data": {}}])
        size = os.path.getsize(f["filename"])
        h.pwrite(b"x" * MIB, 3 * MIB)
        h.flush()
        now = os.path.getsize(f["filename"])
        equal((d.bitmap("q-file", "x7")["count"] >= now - size, now > size), (True, True), "%d %d" % (size, now))
        equal(dirt(d, "q", "y7"), list(range(48, 64)))
        h.shutdown()
    run("qemu-img", "check", "-q", f["filename"])


@test()
def one_place_for_two(tmp):
    "of two nodes on one file the first with persistent bitmaps has the store; the other gets an error with the reason"
    f = file_node(tmp, "f")

    def change(kind, node, name, **more):
        return {"type": "block-dirty-bitmap-" + kind, "data": dict({"node": node, "name": name}, **more)}

    with Daemon(tmp) as d:
        add(d, f, raw("r", "f"), raw("s", "f"))
        both = [change("add", n, "b", persistent=True) for n in ("r", "s")]
        says = "Node '%s' can't keep persistent bitmaps in '.*f.*', which has those of node '%s': see the option bitmap-store"
        raises(QMPError, d.qmp, "transaction", actions=both, match=says % ("s", "r"))
        bitmap(d, "s", True)
        raises(QMPError, bitmap, d, "r", True, match=says % ("r", "s"))
        raises(QMPError, bitmap, d, "f", True, match=says % ("f", "s"))
        bitmap(d, "r")
        d.qmp("block-dirty-bitmap-remove", node="r", name="b")
        d.qmp("block-dirty-bitmap-remove", node="s", name="b")
        bitmap(d, "r", True)


@test(needs=["qemu-img"])
def layers_under_load(tmp):
    "transactions on an image and its file work while clients write and flush"
    f, q = qcow2_nodes(tmp, "q", "-o", "cluster_size=4096")
    with Daemon(tmp) as d:
        add(d, f, q, raw("r", "q"))
        for node in "q", "r", "q-file":
            bitmap(d, node, node == "q")
        export(d, "r")
        stop = []

        def client():
            h, i = d.nbd("r"), 0
            while not stop:
                h.pwrite(b"y" * 4096, i % 1024 * 4096)
                h.flush()
                i += 1
            h.shutdown()

        def manager():
            try:
                for _ in range(40):
                    d.qmp("transaction", actions=[{"type": "block-dirty-bitmap-clear", "data": {"node": n, "name": "b"}}
                                                  for n in ("q-file", "r", "q")])
            finally:
                stop.append(True)

        in_threads(client, client, manager)


@test(needs=["qemu-img", "qemu-io"])
def of_other_nodes(tmp):
    "an export offers bitmaps of its backing chain, and of any node that is named, of whatever size; not of a format's file"
    base = os.path.join(tmp, "base.qcow2")
    run("qemu-img", "create", "-q", "-f", "qcow2", base, "1M")
    run("qemu-img", "bitmap", "--add", base, "b3")
    run("qemu-io", "-f", "qcow2", "-c", "write -q 960k 64k", base)
    with Daemon(tmp) as d:
        add(d, *[dict(n, **{"read-only": True}) for n in qcow2_nodes(tmp, "base")], *qcow2_nodes(tmp, "top", backing="base"),
            {"driver": "null-co", "node-name": "other", "size": 100000})
        bitmap(d, "other", granularity=512)
        bitmap(d, "top-file")
        export(d, "other")
        write(d, "other", 99999, 1)
        export(d, "top", False, bitmaps=["b3", {"node": "other", "name": "b"}])
        h = d.nbd("top", [BITMAP + "b3", BITMAP + "b"])
        equal(extents(h, BITMAP + "b3"), [(0, 960 * KIB, 0), (960 * KIB, 64 * KIB, 1), (MIB, 3 * MIB, 0)])
        end = (100000 + 511) // 512 * 512
        equal(extents(h, BITMAP + "b"), [(0, end - 512, 0), (end - 512, 512, 1), (end, 4 * MIB - end, 0)])
        for start in 99999, end - 1, end, end + 1, 3 * MIB:
            equal(extents(h, BITMAP + "b", start=start),
                  ([(start, end - start, 1)] if start < end else []) + [(max(start, end), 4 * MIB - max(start, end), 0)])
        h.shutdown()
        raises(QMPError, export, d, "top", id="e", name="e", bitmaps=["b"], match="Bitmap 'b' is not found")
        raises(QMPError, export, d, "top", id="e", name="e", bitmaps=[{"node": "none", "name": "b"}], match="Node 'none' not found")


main()
