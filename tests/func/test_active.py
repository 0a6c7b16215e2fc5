#!/usr/bin/python3
# SPDX-FileCopyrightText: 2026 The Tidemark authors
# SPDX-License-Identifier: GPL-2.0-or-later
"""blockdev-set-active: an image goes from one daemon to another and back, with its bitmaps, and nothing is lost."""
import os
import random
import sys
import threading

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from harness import *  # noqa: E402,F403

MIB, CLUSTER = 1 << 20, 64 << 10
SIZE = 16 * MIB


def make(tmp, kind):
    path = os.path.join(tmp, "disk." + kind)
    if kind == "raw":
        return image(path, SIZE)
    run("qemu-img", "create", "-q", "-f", "qcow2", path, str(SIZE))
    return path


def definition(path, **more):
    file = {"driver": "file", "filename": path}
    if path.endswith("raw"):
        return dict(file, **{"node-name": "disk0"}, **more)
    return dict({"driver": "qcow2", "node-name": "disk0", "file": file}, **more)


def export(d, **more):
    d.qmp("block-export-add", dict({"type": "nbd", "id": "e", "node-name": "disk0", "name": "e", "writable": True},
                                   **{k.replace("_", "-"): v for k, v in more.items()}))


def active(d, on, **more):
    d.qmp("blockdev-set-active", active=on, **more)


def node(d, name="disk0"):
    found, = [n for n in d.qmp("query-named-block-nodes", flat=True) if n["node-name"] == name]
    return found


def bitmaps(d, name="disk0"):
    return {b["name"]: b["count"] for b in node(d, name).get("dirty-bitmaps", [])}


def refused(d, function, *args):
    import nbd
    raises(nbd.Error, function, *args, match="not permitted")


def both_kinds(test_one):
    def run_both(tmp):
        for kind in ("raw", "qcow2"):
            folder = os.path.join(tmp, kind)
            os.mkdir(folder)
            test_one(folder, make(folder, kind))
    run_both.__name__, run_both.__doc__ = test_one.__name__, test_one.__doc__
    return test(needs=["qemu-img"])(run_both)


@both_kinds
def handed_over_and_back(tmp, path):
    "the other daemon has the image while it is inactive here; bitmaps go with it, others are dirty when it is back"
    with Daemon(tmp, name="a") as a, Daemon(tmp, name="b") as b:
        a.qmp("blockdev-add", definition(path))
        export(a, allow_inactive=True)
        a.qmp("block-dirty-bitmap-add", node="disk0", name="kept", persistent=True)
        a.qmp("block-dirty-bitmap-add", node="disk0", name="here")
        h = a.nbd("e")
        h.pwrite(b"a" * CLUSTER, 0)
        b.qmp("blockdev-add", definition(path, active=False))
        equal((node(b)["active"], node(b)["ro"], bitmaps(b)), (False, False, {}))
        export(b, allow_inactive=True)
        raises(QMPError, active, b, True, match='Failed to get "write" lock|Failed to get shared')
        equal(node(b)["active"], False)
        h.pwrite(b"b" * CLUSTER, CLUSTER)
        active(a, False)
        equal((node(a)["active"], node(a)["ro"]), (False, False))
        equal(h.pread(2 * CLUSTER, 0) == b"a" * CLUSTER + b"b" * CLUSTER, True)
        refused(a, h.pwrite, b"x" * 512, 0)
        refused(a, h.trim, CLUSTER, 0)
        refused(a, h.zero, CLUSTER, 0)
        active(b, True)
        equal(bitmaps(b), {"kept": 2 * CLUSTER})
        g = b.nbd("e")
        equal(g.pread(2 * CLUSTER, 0) == b"a" * CLUSTER + b"b" * CLUSTER, True)
        g.pwrite(b"c" * CLUSTER, 2 * CLUSTER)
        raises(QMPError, active, a, True, match='Failed to get "write" lock|Failed to get shared')
        equal("lost" in node(a), False)
        active(b, False, node_name="disk0")
        active(b, False)  # again
        active(a, True)
        equal(bitmaps(a), {"kept": 3 * CLUSTER, "here": SIZE})
        equal(h.pread(3 * CLUSTER, 0) == b"a" * CLUSTER + b"b" * CLUSTER + b"c" * CLUSTER, True)
        h.pwrite(b"d" * CLUSTER, 3 * CLUSTER)
        equal(bitmaps(a)["kept"], 4 * CLUSTER)
        h.shutdown()
        g.shutdown()
    with Daemon(tmp, name="c") as c:
        c.qmp("blockdev-add", definition(path))
        equal(bitmaps(c), {"kept": 4 * CLUSTER}, "after a restart")


@both_kinds
def killed_while_inactive(tmp, path):
    "a daemon that is killed with an inactive node has nothing to lose; the other one's marks are whole"
    a = Daemon(tmp, name="a")
    a.qmp("blockdev-add", definition(path))
    export(a, allow_inactive=True)
    a.qmp("block-dirty-bitmap-add", node="disk0", name="kept", persistent=True)
    h = a.nbd("e")
    h.pwrite(b"a" * CLUSTER, 0)
    active(a, False)
    a.kill()
    b = Daemon(tmp, name="b")
    b.qmp("blockdev-add", definition(path))
    export(b)
    equal(bitmaps(b), {"kept": CLUSTER})
    g = b.nbd("e")
    g.pwrite(b"b" * CLUSTER, CLUSTER)
    g.flush()
    b.kill()
    with Daemon(tmp, name="c") as c:
        c.qmp("blockdev-add", definition(path))
        equal(bitmaps(c), {"kept": 2 * CLUSTER})


@test(needs=["qemu-img", "qemu-io"])
def other_program(tmp):
    "QEMU may write while the node is inactive: it keeps the bitmaps of a qcow2 image, and those of a raw disk notice"
    for kind in ("raw", "qcow2"):
        path = make(tmp, kind)
        with Daemon(tmp, name=kind) as d:
            d.qmp("blockdev-add", definition(path))
            export(d, allow_inactive=True)
            d.qmp("block-dirty-bitmap-add", node="disk0", name="kept", persistent=True)
            write = "qemu-io", "-f", kind, "-c", "write -P 7 1M 64k", path
            equal(run(*write, check=False).returncode, 1)
            active(d, False)
            run(*write)
            active(d, True)
            bitmap = d.bitmap("disk0", "kept")
            if kind == "raw":
                equal(bitmap["inconsistent"], True)
            else:
                equal((bitmap["count"], "inconsistent" in bitmap), (CLUSTER, False))
            h = d.nbd("e")
            equal(h.pread(1, MIB), b"\7")
            h.shutdown()


@test(needs=["qemu-img"])
def chains(tmp):
    "a node with its children, which stay active if others need them; what writes can't stand on what is inactive"
    base, top = (os.path.join(tmp, n) for n in ("base", "top"))
    run("qemu-img", "create", "-q", "-f", "qcow2", base, "4M")
    run("qemu-img", "create", "-q", "-f", "qcow2", base + "2", "4M")
    run("qemu-img", "create", "-q", "-f", "qcow2", top, "4M")

    def states(d):
        return {n["node-name"]: n["active"] for n in d.qmp("query-named-block-nodes") if n["node-name"][0] != "#"}

    def add(d, name, path, **more):
        d.qmp("blockdev-add", dict({"driver": "qcow2", "node-name": name, "file": {
            "driver": "file", "node-name": "file-" + name, "filename": path}}, **more))

    with Daemon(tmp) as d:
        add(d, "base", base)
        add(d, "top", top, backing="base")
        d.qmp("blockdev-add", {"driver": "raw", "node-name": "view", "file": "base"})
        raises(QMPError, active, d, False, node_name="base", match="Node has active parent node")
        raises(QMPError, active, d, False, node_name="nosuch", match="Failed to find node with node-name='nosuch'")
        active(d, False, node_name="top")
        equal(states(d), {"top": False, "file-top": False, "base": True, "file-base": True, "view": True})
        raises(QMPError, d.qmp, "blockdev-add", {"driver": "raw", "node-name": "r", "file": "top"},
               match="Inactive 'top' can't be a file child of active 'r'")
        d.qmp("blockdev-add", {"driver": "raw", "node-name": "r", "file": "top", "active": False})
        raises(QMPError, d.qmp, "blockdev-reopen", options=[
            {"driver": "raw", "node-name": "r", "file": "top", "active": True}], match="Cannot change the option")
        d.qmp("blockdev-reopen", options=[{"driver": "raw", "node-name": "r", "file": "top"}])
        equal(states(d)["r"], False)
        d.qmp("blockdev-del", node_name="r")
        active(d, False)
        equal(set(states(d).values()), {False})
        active(d, True, node_name="top")
        equal(states(d), {"top": True, "file-top": True, "base": True, "file-base": True, "view": False})
        active(d, True)
        equal(set(states(d).values()), {True})


@test(needs=["qemu-img"])
def snapshot(tmp):
    "the overlay of an inactive node becomes inactive; both are active later, and the node is read-only"
    path, over = make(tmp, "qcow2"), os.path.join(tmp, "over")
    run("qemu-img", "create", "-q", "-f", "qcow2", over, str(SIZE))
    with Daemon(tmp) as d:
        d.qmp("blockdev-add", definition(path))
        d.qmp("block-dirty-bitmap-add", node="disk0", name="kept", persistent=True)
        export(d, allow_inactive=True)
        h = d.nbd("e")
        h.pwrite(b"1" * CLUSTER, 0)
        d.qmp("blockdev-add", dict(definition(over), **{"node-name": "over", "backing": None}))
        active(d, False, node_name="disk0")
        d.qmp("blockdev-snapshot", node="disk0", overlay="over")
        equal([(node(d, n)["active"], node(d, n)["ro"]) for n in ("disk0", "over")], [(False, True), (False, False)])
        refused(d, h.pwrite, b"x" * 512, 0)
        equal(h.pread(CLUSTER, 0), b"1" * CLUSTER)
        active(d, True)
        h.pwrite(b"2" * CLUSTER, CLUSTER)
        equal(h.pread(2 * CLUSTER, 0) == b"1" * CLUSTER + b"2" * CLUSTER, True)
        equal([(node(d, n)["active"], node(d, n)["ro"]) for n in ("disk0", "over")], [(True, True), (True, False)])
        equal(bitmaps(d), {"kept": CLUSTER})
        h.shutdown()


@test
def exports(tmp):
    "who writes must know of it; an export that doesn't activates its node"
    path = make(tmp, "raw")
    with Daemon(tmp) as d:
        d.qmp("blockdev-add", definition(path, active=False))
        export(d)
        equal(node(d)["active"], True)
        raises(QMPError, active, d, False, match="Failed to inactivate all nodes: Operation not permitted: an unnamed "
                                                 "block device writes to")
        raises(QMPError, active, d, False, node_name="disk0", match="Failed to inactivate node: Operation not permitted")
        d.qmp("block-export-del", id="e")
        export(d, writable=False)
        active(d, False)  # who only reads may stay
        h = d.nbd("e")
        equal(h.pread(1, 0), b"\0")
        h.shutdown()
        raises(QMPError, d.qmp, "block_resize", node_name="disk0", size=2 * SIZE, match="read-only|inactive")
        raises(QMPError, d.qmp, "block-dirty-bitmap-add", node="disk0", name="b", persistent=True,
               match="Can't store persistent bitmaps to disk0: .*the node is inactive")
        d.unexport("e")
        active(d, True)
        d.qmp("block-dirty-bitmap-add", node="disk0", name="b", persistent=True)
        export(d, allow_inactive=True, bitmaps=["b"])
        raises(QMPError, active, d, False, match="bitmaps of node 'disk0' are in use")
        equal(node(d)["active"], True)


@both_kinds
def while_written(tmp, path):
    "clients write while the image goes to and fro: each write fails or is there and dirty"
    import nbd
    turns = 6
    with Daemon(tmp, name="a") as a, Daemon(tmp, name="b") as b:
        for d, on in ((a, True), (b, False)):
            d.qmp("blockdev-add", definition(path, active=on))
            export(d, allow_inactive=True)
        a.qmp("block-dirty-bitmap-add", node="disk0", name="kept", persistent=True)
        over, written = threading.Event(), {}

        def client(d, seed):
            h, rnd, n = d.nbd("e"), random.Random(seed), 0
            while not over.is_set():
                at, n = rnd.randrange(SIZE // CLUSTER // 2) * 2 + seed, n + 1
                try:
                    h.pwrite(n.to_bytes(8, "little") * (CLUSTER // 8), at * CLUSTER)
                    written[at] = n
                except nbd.Error as e:
                    matches(str(e), "not permitted")
            h.shutdown()

        def hands():
            try:
                for i in range(turns):
                    seen = len(written)
                    wait_until(lambda: len(written) > seen or len(written) > 50, "writes")
                    first, then = (a, b) if i % 2 == 0 else (b, a)
                    active(first, False)
                    active(then, True)
            finally:
                over.set()
        in_threads(hands, lambda: client(a, 0), lambda: client(b, 1))
        h = a.nbd("e")
        for at, n in written.items():
            equal(int.from_bytes(h.pread(8, at * CLUSTER), "little"), n, "cluster %d" % at)
        h.shutdown()
        equal(bitmaps(a)["kept"], len(written) * CLUSTER)


main()
