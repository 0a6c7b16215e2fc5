#!/usr/bin/python3
# SPDX-FileCopyrightText: 2026 The Tidemark authors
# SPDX-License-Identifier: GPL-2.0-or-later
"""Snapshots and what is shown of the graph: the same commands to qemu-storage-daemon and to tidemarkd, the same answers,
the same data."""
import json
import os
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "func"))
from harness import *  # noqa: E402,F403

MIB, CLUSTER = 1 << 20, 64 << 10
NEEDS = [QSD, "qemu-img"]


class Play:
    """One daemon with images of its own, and what it said."""

    def __init__(self, tmp, name, binary):
        self.folder, self.said = os.path.join(tmp, name), []
        os.mkdir(self.folder)
        self.d = Daemon(self.folder, binary=binary)

    def path(self, name):
        return os.path.join(self.folder, name)

    def __call__(self, command, arguments=None, **more):
        try:
            answer = self.d.qmp(command, arguments, **more)
        except QMPError as e:
            answer = e.cls, e.bare
        self.said.append((command, json.loads(json.dumps(answer).replace(self.folder, "FOLDER"))))

    def images(self, *names, size="4M"):
        for name in names:
            run("qemu-img", "create", "-q", "-f", "qcow2", self.path(name), size)

    def add(self, name, driver="qcow2", **more):
        self("blockdev-add", dict({"driver": driver, "node-name": name,
                                   "file": {"driver": "file", "filename": self.path(name)}}, **more))

    def export(self, node):
        self("block-export-add", {"type": "nbd", "id": "e", "node-name": node, "name": "e", "writable": True})

    def snapshot(self, node, overlay):
        self("blockdev-snapshot", node=node, overlay=overlay)

    def sync(self, **more):
        self("blockdev-snapshot-sync", dict(more, **{"snapshot-file": self.path(more["snapshot-file"])}))

    def transaction(self, *actions):
        self("transaction", actions=[{"type": kind, "data": data} for kind, data in actions])

    def graph(self, flat=False):
        """Nodes that have a name of the user's, and where the exports are."""
        for n in self.d.qmp("query-named-block-nodes", flat=flat):
            image, chain = n["image"], 0
            while "backing-image" in image:
                image, chain = image["backing-image"], chain + 1
            if not n["node-name"].startswith("#"):
                self.said.append((n["node-name"], n["drv"], n["ro"], "backing_file" in n,
                                  n["backing_file_depth"], chain,
                                  [(b["name"], b["recording"], b["count"]) for b in n.get("dirty-bitmaps", [])]))
        self.said.append([[x[k] for k in ("id", "node-name", "type", "shutting-down")]
                          for x in self.d.qmp("query-block-exports")])
        self("query-block")


def both(tmp, play):
    said = []
    for name, binary in (("q", QSD), ("t", None)):
        p = Play(tmp, name, binary)
        play(p)
        p.d.stop()
        said.append(p.said)
    for i, (theirs, ours) in enumerate(zip(*said)):
        equal(ours, theirs, "at %d, after %s" % (i, shown(said[0][max(0, i - 2):i])))
    equal(len(said[1]), len(said[0]))


@test(needs=NEEDS)
def snapshots(tmp):
    "blockdev-snapshot: alone and in transactions; what is refused"
    def play(p):
        p.images("base", "top", "more")
        image(p.path("raw"), 4 * MIB)
        p("object-add", {"qom-type": "throttle-group", "id": "g"})
        p.add("base")
        p.add("top", backing=None)
        p.add("more", backing=None)
        p.add("raw", "raw")
        p("blockdev-add", {"driver": "throttle", "node-name": "filter", "throttle-group": "g", "file": "raw"})
        p.export("base")
        p("block-dirty-bitmap-add", node="base", name="b")
        h = p.d.nbd("e")
        h.pwrite(b"1" * CLUSTER, 0)
        for node, overlay in (("nosuch", "top"), ("base", "nosuch"), ("base", "base"), ("base", "raw"), ("base", "filter"),
                              ("base", "top"), ("base", "more"), ("top", "base")):
            p.snapshot(node, overlay)
        p.graph()
        h.pwrite(b"2" * CLUSTER, CLUSTER)
        step = "blockdev-snapshot", {"node": "top", "overlay": "more"}
        p.transaction(step, ("abort", {}))
        p.graph()
        p.transaction(("block-dirty-bitmap-add", {"node": "more", "name": "b"}), step,
                      ("block-dirty-bitmap-disable", {"node": "base", "name": "b"}))
        h.pwrite(b"3" * CLUSTER, 2 * CLUSTER)
        p.graph()
        p.graph(flat=True)
        p.said.append(bytes(h.pread(3 * CLUSTER, 0)[::CLUSTER]))
        p("blockdev-del", node_name="top")
        p("blockdev-del", node_name="more")
        h.shutdown()

    both(tmp, play)


@test(needs=NEEDS)
def made_by_the_command(tmp):
    "blockdev-snapshot-sync"
    def play(p):
        p.images("base", "there")
        p.add("base")
        p.export("base")
        p.sync(**{"snapshot-file": "s"})
        p.sync(**{"snapshot-file": "s", "device": "base"})
        for more in ({}, {"snapshot-node-name": "base"}, {"snapshot-node-name": "s", "format": "raw"},
                     {"snapshot-node-name": "s", "format": "x"}, {"snapshot-node-name": "s", "mode": "existing"},
                     {"snapshot-node-name": "s", "mode": "x"}, {"snapshot-node-name": "s"}):
            p.sync(**dict({"snapshot-file": "s", "node-name": "base"}, **more))
            p.graph()
        p.sync(**{"snapshot-file": "there", "node-name": "s", "snapshot-node-name": "there", "mode": "existing"})
        p.graph()
        p("blockdev-del", node_name="there")
        info = run("qemu-img", "info", "-U", "--output=json", p.path("s")).stdout
        p.said.append([json.loads(info.replace(p.folder, "")).get(k) for k in (
            "virtual-size", "backing-filename", "backing-filename-format")])

    both(tmp, play)


@test(needs=NEEDS)
def other_files(tmp):
    "blockdev-reopen with another file or backing: what is refused, and what clients then read"
    def play(p):
        p.images("base", "top")
        for name, byte in (("f", b"f"), ("g", b"g")):
            image(p.path(name), 4 * MIB, [(0, byte * CLUSTER)])
            p("blockdev-add", {"driver": "file", "node-name": name, "filename": p.path(name)})
        raw = {"driver": "raw", "node-name": "raw", "file": "f"}
        top = {"driver": "qcow2", "node-name": "top", "file": {"driver": "file", "filename": p.path("top")},
               "backing": "raw"}
        p("blockdev-add", raw)
        p("blockdev-add", top)
        p.export("top")
        h = p.d.nbd("e")
        h.pwrite(b"t" * CLUSTER, CLUSTER)

        def reopen(node, **changes):
            p("blockdev-reopen", options=[dict(node, **changes)])
            p.said.append(bytes(h.pread(2 * CLUSTER, 0)[::CLUSTER]))

        reopen(raw, file="g")
        reopen(raw, file="nosuch")
        reopen(raw, file="top")
        reopen(raw, file="raw")
        reopen(raw, file=None)
        reopen(raw)
        reopen(top, backing=None)
        reopen(top, backing="g")
        reopen(top, backing="top")
        reopen(top, backing="nosuch")
        reopen({k: v for k, v in top.items() if k != "backing"})
        reopen(top)
        h.shutdown()

    both(tmp, play)


@test(needs=NEEDS)
def children_stay(tmp):
    "x-blockdev-change: no driver here can have more or fewer children"
    def play(p):
        p.images("base", "top")
        p.add("base")
        p.add("top", backing="base")
        for more in ({}, {"child": "x", "node": "base"}, {"child": "x"}, {"child": "file"}, {"child": "backing"},
                     {"node": "base"}, {"node": "nosuch"}):
            p("x-blockdev-change", dict({"parent": "top"}, **more))
        p("x-blockdev-change", {"parent": "nosuch", "child": "file"})
        p("x-blockdev-change", {"parent": "base", "child": "backing"})

    both(tmp, play)


@test(needs=NEEDS)
def graph_as_shown(tmp):
    "query-named-block-nodes of filters and chains, nested and flat"
    def play(p):
        p.images("base", "top")
        image(p.path("raw"), MIB)
        p("object-add", {"qom-type": "throttle-group", "id": "g"})
        p.add("base", **{"read-only": True})
        p.add("top", backing="base")
        p.add("raw", "raw")
        for name, child in (("f1", "raw"), ("f2", "top"), ("f3", "f2")):
            p("blockdev-add", {"driver": "throttle", "node-name": name, "throttle-group": "g", "file": child})
        p.graph()
        p.graph(flat=True)

    both(tmp, play)


main()
