#!/usr/bin/python3
# SPDX-FileCopyrightText: 2026 The Tidemark authors
# SPDX-License-Identifier: GPL-2.0-or-later
"""External snapshots: the overlay takes what is written, the node stays as it is, bitmaps stay with their nodes, and
nothing is lost while clients write or the daemon is killed."""
import json
import os
import random
import sys
import threading

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from harness import *  # noqa: E402,F403

KIB, MIB = 1 << 10, 1 << 20
CLUSTER = 64 * KIB
FUA = 1  # NBD_CMD_FLAG_FUA: metadata of an image are on the medium, too


def qcow2(tmp, name, size="4M", *options):
    path = os.path.join(tmp, name + ".qcow2")
    if not os.path.exists(path):
        run("qemu-img", "create", "-q", "-f", "qcow2", *options, path, size)
    return path


def add(d, tmp, name, backing=None, **more):
    d.qmp("blockdev-add", dict({"driver": "qcow2", "node-name": name, "backing": backing,
                                "file": {"driver": "file", "filename": qcow2(tmp, name)}}, **more))


def export(d, node, name="e", writable=True, **more):
    d.qmp("block-export-add", dict({"type": "nbd", "id": name, "node-name": node, "name": name,
                                    "writable": writable}, **more))


def action(kind, **data):
    return {"type": kind, "data": {k.replace("_", "-"): v for k, v in data.items()}}


def transaction(d, *actions):
    d.qmp("transaction", actions=list(actions))


def snapshot(node, overlay):
    return action("blockdev-snapshot", node=node, overlay=overlay)


def node(d, name):
    found, = [n for n in d.qmp("query-named-block-nodes", flat=True) if n["node-name"] == name]
    return found


def count(d, name, bitmap):
    return d.bitmap(name, bitmap)["count"]


def allocated(path):
    """The ranges that the image has itself."""
    runs = json.loads(run("qemu-img", "map", "-U", "-f", "qcow2", "--output=json", path).stdout)
    return [(r["start"], r["length"]) for r in runs if r["depth"] == 0 and r["data"]]


@test(needs=["qemu-img", "qemu-io"])
def overlay_takes_writes(tmp):
    "the export moves to the overlay; the node stays as it is, becomes read-only, and others can read it"
    with Daemon(tmp) as d:
        add(d, tmp, "base")
        export(d, "base")
        d.qmp("block-dirty-bitmap-add", node="base", name="b", persistent=True)
        h = d.nbd("e")
        h.pwrite(b"1" * CLUSTER, 0)
        add(d, tmp, "top")
        d.qmp("blockdev-snapshot", node="base", overlay="top")
        h.pwrite(b"2" * CLUSTER, CLUSTER, FUA)
        equal(h.pread(2 * CLUSTER, 0) == b"1" * CLUSTER + b"2" * CLUSTER, True)
        equal([x["node-name"] for x in d.qmp("query-block-exports")], ["top"])
        equal((node(d, "base")["ro"], node(d, "top")["ro"]), (True, False))
        equal(count(d, "base", "b"), CLUSTER, "the bitmap of the node says what was written to the node")
        run("qemu-io", "-r", "-f", "qcow2", "-c", "read -P 0x31 0 64k", "-c", "read -P 0 64k 64k", qcow2(tmp, "base"))
        equal(allocated(qcow2(tmp, "top")), [(CLUSTER, CLUSTER)])
        raises(QMPError, d.qmp, "blockdev-del", node_name="base", match="node is used as backing hd of 'top'")
        h.shutdown()


@test(needs=["qemu-img"])
def bitmaps_begin_with_it(tmp):
    "bitmaps that begin in the same transaction, before or after the action, are clean and record the overlay"
    with Daemon(tmp) as d:
        add(d, tmp, "base")
        export(d, "base")
        d.qmp("block-dirty-bitmap-add", node="base", name="b", persistent=True)
        h = d.nbd("e")
        h.pwrite(b"1" * CLUSTER, 0)
        add(d, tmp, "top")
        d.qmp("block-dirty-bitmap-add", node="top", name="old")
        transaction(d, action("block-dirty-bitmap-add", node="top", name="b", persistent=True), snapshot("base", "top"),
                    action("block-dirty-bitmap-add", node="top", name="c"))
        equal([count(d, "top", b) for b in "bc"], [0, 0])
        equal(count(d, "top", "old"), 4 * MIB, "what shows the backing now reads otherwise than before")
        h.pwrite(b"2" * CLUSTER, 2 * CLUSTER)
        equal([count(d, "top", b) for b in "bc"], [CLUSTER, CLUSTER])
        equal(count(d, "base", "b"), CLUSTER)
        d.qmp("block-dirty-bitmap-add", node="top", name="sum", disabled=True)
        d.qmp("block-dirty-bitmap-merge", node="top", target="sum", bitmaps=["b", {"node": "base", "name": "b"}])
        equal(count(d, "top", "sum"), 2 * CLUSTER)
        d.qmp("block-export-dirty-bitmap", id="e", bitmaps=["c", {"node": "base", "name": "b"}])
        h2 = d.nbd("e", contexts=["qemu:dirty-bitmap:b", "qemu:dirty-bitmap:c"])
        equal((dirty(h2, "b"), dirty(h2, "c")), ([(0, CLUSTER)], [(2 * CLUSTER, CLUSTER)]))
        h.shutdown()
        h2.shutdown()
    with Daemon(tmp) as d:
        add(d, tmp, "base")
        d.qmp("blockdev-add", {"driver": "qcow2", "node-name": "top", "backing": "base",
                               "file": {"driver": "file", "filename": qcow2(tmp, "top")}})
        equal((count(d, "base", "b"), count(d, "top", "b")), (CLUSTER, CLUSTER), "after a restart")


@test(needs=["qemu-img"])
def overlay_active_again(tmp):
    "what is above an inactive node becomes inactive with the snapshot, and not if that fails"
    def active(*names):
        return [node(d, n)["active"] for n in names]

    with Daemon(tmp) as d:
        add(d, tmp, "h", active=False)
        for name in ("o1", "o2"):
            add(d, tmp, name)
        raises(QMPError, transaction, d, snapshot("h", "o1"), snapshot("o1", "o2"), action("abort"), match="Abort action")
        equal(active("h", "o1", "o2"), [False, True, True])
        add(d, tmp, "used", backing=None)
        add(d, tmp, "above", backing="used")
        raises(QMPError, d.qmp, "blockdev-snapshot", node="h", overlay="above", match="already has a backing")
        equal(active("used", "above"), [True, True])
        raises(QMPError, transaction, d, snapshot("h", "o1"), snapshot("nosuch", "o2"), match="nosuch")
        equal(active("h", "o1", "o2"), [False, True, True])
        transaction(d, snapshot("h", "o1"))
        equal(active("h", "o1", "o2"), [False, False, True])


@test(needs=["qemu-img"])
def all_or_nothing(tmp):
    "a transaction that fails leaves exports, backings and bitmaps as they were"
    with Daemon(tmp) as d:
        add(d, tmp, "base")
        export(d, "base")
        h = d.nbd("e")
        for name in ("o1", "o2"):
            add(d, tmp, name)
        d.qmp("block-dirty-bitmap-add", node="base", name="b")
        raises(QMPError, transaction, d, snapshot("base", "o1"), snapshot("o1", "o2"),
               action("block-dirty-bitmap-add", node="o2", name="x"), action("abort"), match="Abort action")
        equal([x["node-name"] for x in d.qmp("query-block-exports")], ["base"])
        equal([node(d, n)["ro"] for n in ("base", "o1", "o2")], [False] * 3)
        equal([node(d, n).get("backing_file") for n in ("o1", "o2")], [None] * 2)
        equal(d.bitmap("o2", "x"), None)
        h.pwrite(b"1" * CLUSTER, 0)
        equal(count(d, "base", "b"), CLUSTER)
        transaction(d, snapshot("base", "o1"), snapshot("o1", "o2"))
        h.pwrite(b"2" * CLUSTER, CLUSTER)
        equal(h.pread(2 * CLUSTER, 0) == b"1" * CLUSTER + b"2" * CLUSTER, True)
        equal([x["node-name"] for x in d.qmp("query-block-exports")], ["o2"])
        equal(count(d, "base", "b"), CLUSTER)
        h.shutdown()


@test(needs=["qemu-img", "qemu-io"])
def other_data_is_dirty(tmp):
    "an overlay that has data of its own: bitmaps above are dirty there; a refused snapshot marks nothing"
    path = qcow2(tmp, "top")
    run("qemu-io", "-f", "qcow2", "-c", "write -P 7 1M 64k", path)
    with Daemon(tmp) as d:
        add(d, tmp, "base")
        d.qmp("blockdev-add", {"driver": "raw", "node-name": "window", "file": "base", "offset": MIB, "size": MIB})
        d.qmp("block-dirty-bitmap-add", node="window", name="w")
        d.qmp("block-dirty-bitmap-add", node="base", name="b")
        add(d, tmp, "top")
        d.qmp("block-dirty-bitmap-add", node="top", name="t")
        export(d, "top", writable=False)
        raises(QMPError, d.qmp, "blockdev-snapshot", node="base", overlay="top", match="already in use")
        raises(QMPError, d.qmp, "blockdev-snapshot", node="base", overlay="base", match="already in use")
        equal((count(d, "window", "w"), count(d, "base", "b"), count(d, "top", "t")), (0, 0, 0))
        d.qmp("block-export-del", id="e")
        d.qmp("blockdev-snapshot", node="base", overlay="top")
        export(d, "window", writable=False, bitmaps=[{"node": "window", "name": "w"}])
        h = d.nbd("e", contexts=["qemu:dirty-bitmap:w"])
        equal(h.pread(1, 0), b"\7")
        equal(dirty(h, "w"), [(0, CLUSTER)])
        equal((count(d, "base", "b"), count(d, "top", "t")), (0, 4 * MIB - CLUSTER))
        h.shutdown()


@test(needs=["qemu-img"])
def offered_bitmaps(tmp):
    "a snapshot is refused while an export offers a bitmap that would record nothing more; not one that records no more"
    with Daemon(tmp) as d:
        for name in ("base", "top"):
            add(d, tmp, name)
        d.qmp("blockdev-add", {"driver": "raw", "node-name": "r", "file": "base"})
        for n, b in (("base", "b"), ("base", "old"), ("r", "c")):
            d.qmp("block-dirty-bitmap-add", node=n, name=b, disabled=b == "old")
        export(d, "r", bitmaps=["c", "b"])
        for n in ("base", "r"):
            raises(QMPError, d.qmp, "blockdev-snapshot", node=n, overlay="top",
                   match="Node '%s' is busy: its bitmap '%s' is in use and enabled" % (n, "b" if n == "base" else "c"))
        d.qmp("block-export-dirty-bitmap", id="e", bitmaps=["c", {"node": "base", "name": "old"}])
        d.qmp("blockdev-snapshot", node="base", overlay="top")
        h = d.nbd("e", contexts=["qemu:dirty-bitmap:c"])
        h.pwrite(b"1" * CLUSTER, 0)
        equal((dirty(h, "c"), count(d, "base", "b")), ([(0, CLUSTER)], 0))
        h.shutdown()


@test(needs=["qemu-img"])
def sizes(tmp):
    "a longer overlay makes the disk longer for new clients; a shorter one, and a longer one below a raw node, is refused"
    with Daemon(tmp) as d:
        add(d, tmp, "base")
        export(d, "base")
        h = d.nbd("e")
        qcow2(tmp, "short", "2M")
        qcow2(tmp, "long", "8M")
        for name in ("short", "long"):
            add(d, tmp, name)
        raises(QMPError, d.qmp, "blockdev-snapshot", node="base", overlay="short",
               match="'short' has 2097152 bytes, expected 4194304, the size of node 'base'")
        d.qmp("blockdev-add", {"driver": "raw", "node-name": "r", "file": "base"})
        raises(QMPError, d.qmp, "blockdev-snapshot", node="base", overlay="long", match="which node 'r' relies on")
        d.qmp("blockdev-del", node_name="r")
        d.qmp("blockdev-snapshot", node="base", overlay="long")
        h2 = d.nbd("e")
        equal((h.get_size(), h2.get_size()), (4 * MIB, 8 * MIB))
        h2.pwrite(b"z" * 512, 8 * MIB - 512)
        equal(h2.pread(512, 8 * MIB - 512), b"z" * 512)
        h.shutdown()
        h2.shutdown()


@test(needs=["qemu-img"])
def file_that_was_moved(tmp):
    "a node whose file is elsewhere by now is not opened anew: it stays writable, and nothing is lost"
    with Daemon(tmp) as d:
        add(d, tmp, "base")
        export(d, "base")
        h = d.nbd("e")
        h.pwrite(b"1" * CLUSTER, 0)
        os.rename(qcow2(tmp, "base"), os.path.join(tmp, "moved"))
        add(d, tmp, "top")
        d.qmp("blockdev-snapshot", node="base", overlay="top")
        h.pwrite(b"2" * CLUSTER, CLUSTER)
        equal(h.pread(2 * CLUSTER, 0) == b"1" * CLUSTER + b"2" * CLUSTER, True)
        equal((node(d, "base")["ro"], "lost" in node(d, "base")), (False, False))
        matches(d.log(), "node 'base' stays writable: its file is not where it was opened")
        h.shutdown()


@test(needs=["qemu-img"])
def made_by_the_command(tmp):
    "blockdev-snapshot-sync makes the image, with the node's file as its backing file; what fails leaves no file"
    raw, first, second = (os.path.join(tmp, n) for n in ("raw.img", "first.qcow2", "second.qcow2"))

    def sync(name, path, **more):
        return dict({"node-name": name, "snapshot-file": path, "snapshot-node-name": "o-" + os.path.basename(path)}, **more)

    with Daemon(tmp, *disk(tmp, "raw", MIB, path=raw)) as d:
        h = d.nbd("raw")
        h.pwrite(b"1" * CLUSTER, 0)
        raises(QMPError, transaction, d, {"type": "blockdev-snapshot-sync", "data": sync("raw", first)}, action("abort"))
        equal(os.path.exists(first), False)
        equal([n["node-name"] for n in d.qmp("query-named-block-nodes")], ["raw"])
        for more, match in (({"format": "raw"}, "Backing file not supported for file format 'raw'"),
                            ({"format": "x"}, "Unknown file format 'x'"), ({"mode": "existing"}, "No such file"),
                            ({"snapshot-node-name": "raw"}, "already in use")):
            raises(QMPError, d.qmp, "blockdev-snapshot-sync", sync("raw", first, **more), match=match)
            equal(os.path.exists(first), False)
        transaction(d, {"type": "blockdev-snapshot-sync", "data": sync("raw", first)},
                    action("block-dirty-bitmap-add", node="o-first.qcow2", name="b", persistent=True))
        h.pwrite(b"2" * CLUSTER, CLUSTER)
        d.qmp("blockdev-snapshot-sync", sync("o-first.qcow2", second))
        h.pwrite(b"3" * CLUSTER, 2 * CLUSTER)
        info = json.loads(run("qemu-img", "info", "-U", "--backing-chain", "--output=json", second).stdout)
        equal([(i["filename"], i.get("backing-filename"), i.get("backing-filename-format")) for i in info],
              [(second, first, "qcow2"), (first, raw, "raw"), (raw, None, None)])
        equal(count(d, "o-first.qcow2", "b"), CLUSTER)
        h.shutdown()
    run("qemu-img", "convert", "-O", "raw", second, os.path.join(tmp, "copy"))
    with open(os.path.join(tmp, "copy"), "rb") as f:
        equal(f.read(3 * CLUSTER) == b"".join(c * CLUSTER for c in (b"1", b"2", b"3")), True)


@test
def made_over_a_file(tmp):
    "a snapshot that fails over a file that was there leaves an empty overlay in it; a file in use is not touched"
    raw, there = os.path.join(tmp, "raw.img"), os.path.join(tmp, "there.qcow2")
    sync = {"node-name": "raw", "snapshot-file": there, "snapshot-node-name": "top"}
    with Daemon(tmp, *disk(tmp, "raw", MIB, path=raw)) as d:
        image(there, MIB, [(0, b"old" * 1000)])
        before = open(there, "rb").read()
        h = d.nbd("raw")
        h.pwrite(b"1" * CLUSTER, 0)
        d.qmp("blockdev-add", {"driver": "file", "node-name": "user", "filename": there})
        d.qmp("block-export-add", {"type": "nbd", "id": "u", "node-name": "user", "writable": True})
        raises(QMPError, d.qmp, "blockdev-snapshot-sync", sync, match="lock|in use")
        equal(open(there, "rb").read() == before, True)
        d.qmp("block-export-del", id="u")
        d.qmp("blockdev-del", node_name="user")
        raises(QMPError, transaction, d, {"type": "blockdev-snapshot-sync", "data": sync}, action("abort"))
        info = json.loads(run("qemu-img", "info", "--output=json", there).stdout)
        equal((info["format"], info["virtual-size"], info["backing-filename"]), ("qcow2", MIB, raw))
        equal(allocated(there), [])
        equal([n["node-name"] for n in d.qmp("query-named-block-nodes")], ["raw"])
        h.pwrite(b"2" * CLUSTER, CLUSTER)
        d.qmp("blockdev-snapshot-sync", sync)
        equal(h.pread(2 * CLUSTER, 0) == b"1" * CLUSTER + b"2" * CLUSTER, True)
        h.shutdown()


@test(needs=["qemu-img"])
def nobody_uses_the_node(tmp):
    "the overlay of a node that nobody uses is closed; its file stays, and can be opened above the node"
    top = os.path.join(tmp, "top.qcow2")
    with Daemon(tmp) as d:
        add(d, tmp, "base")
        d.qmp("blockdev-snapshot-sync", {"node-name": "base", "snapshot-file": top, "snapshot-node-name": "top"})
        equal([n["node-name"] for n in d.qmp("query-named-block-nodes") if n["drv"] == "qcow2"], ["base"])
        d.qmp("blockdev-add", {"driver": "qcow2", "node-name": "top", "backing": "base",
                               "file": {"driver": "file", "filename": top}})
        export(d, "top")
        h = d.nbd("e")
        h.pwrite(b"1" * CLUSTER, 0)
        h.shutdown()
        equal(json.loads(run("qemu-img", "info", "-U", "--output=json", top).stdout)["backing-filename"],
              qcow2(tmp, "base"))


def faulty(tmp, name, iotype, **more):
    """A definition of an image; requests of that kind of its file fail."""
    return dict({"driver": "qcow2", "node-name": name, "file": {
        "driver": "blkdebug", "image": {"driver": "file", "filename": qcow2(tmp, name)},
        "inject-error": [{"event": "none", "iotype": iotype, "errno": 5}]}}, **more)


def as_before(d, h, data, dirty=2 * CLUSTER):
    """The snapshot that failed has changed nothing: what is written is in the node, and in its bitmap."""
    equal([x["node-name"] for x in d.qmp("query-block-exports")], ["base"])
    equal((node(d, "base")["ro"], node(d, "top").get("backing_file"), d.bitmap("top", "t")), (False, None, None))
    h.pwrite(data * CLUSTER, 2 * CLUSTER)
    equal(h.pread(3 * CLUSTER, 0) == b"1" * CLUSTER + bytes(CLUSTER) + data * CLUSTER, True)
    equal(count(d, "base", "b"), dirty)


@test(needs=["qemu-img"])
def flush_errors(tmp):
    "a snapshot whose node can't be flushed is not taken"
    with Daemon(tmp) as d:
        image(os.path.join(tmp, "base.qcow2"), 4 * MIB)
        d.qmp("blockdev-add", faulty(tmp, "base", "flush", driver="raw"))
        d.qmp("block-dirty-bitmap-add", node="base", name="b")
        add(d, tmp, "top")
        export(d, "base")
        h = d.nbd("e")
        h.pwrite(b"1" * CLUSTER, 0)
        raises(QMPError, transaction, d, action("block-dirty-bitmap-add", node="top", name="t"), snapshot("base", "top"),
               match="Could not flush node 'base': Input/output error")
        as_before(d, h, b"2", 4 * MIB)  # all is dirty after a failed flush
        h.shutdown()
        d.process.terminate()
        d.wait(1)  # the last flush fails, too


@test(needs=["qemu-img"])
def errors_of_the_overlay(tmp):
    "a snapshot is taken back if the bitmaps that begin with it can't be stored in the overlay"
    with Daemon(tmp) as d:
        add(d, tmp, "base")
        d.qmp("block-dirty-bitmap-add", node="base", name="b", persistent=True)
        d.qmp("blockdev-add", faulty(tmp, "top", "write", backing=None))
        export(d, "base")
        h = d.nbd("e")
        h.pwrite(b"1" * CLUSTER, 0)
        for persistent in (snapshot("base", "top"), action("block-dirty-bitmap-add", node="top", name="t", persistent=True)), \
                (action("block-dirty-bitmap-add", node="top", name="t", persistent=True), snapshot("base", "top")):
            raises(QMPError, transaction, d, *persistent, match="Input/output error")
        as_before(d, h, b"2")
        h.shutdown()
        d.process.terminate()
        d.wait(1)  # the overlay can't be flushed


@test(needs=["qemu-img"])
def during_a_backup(tmp):
    "a node that a backup job reads gets no overlay; the job goes on, and so does its bitmap"
    with Daemon(tmp) as d:
        for name in ("base", "top", "target"):
            add(d, tmp, name)
        export(d, "base")
        d.qmp("block-dirty-bitmap-add", node="base", name="b")
        h = d.nbd("e")
        h.pwrite(b"1" * 4 * CLUSTER, 0)
        d.qmp("blockdev-backup", {"job-id": "j", "device": "base", "target": "target", "sync": "full", "speed": 1})
        raises(QMPError, d.qmp, "blockdev-snapshot", node="base", overlay="top", match="Node 'base' is busy")
        raises(QMPError, d.qmp, "blockdev-snapshot", node="target", overlay="top", match="busy|in use")
        h.pwrite(b"2" * CLUSTER, 0)
        equal(count(d, "base", "b"), 4 * CLUSTER)
        d.qmp("block-job-set-speed", device="j", speed=0)
        d.monitor.wait_event("BLOCK_JOB_COMPLETED")
        d.qmp("blockdev-snapshot", node="base", overlay="top")
        h.pwrite(b"3" * CLUSTER, 0)
        export(d, "target", "t", writable=False)
        t = d.nbd("t")
        equal(t.pread(5 * CLUSTER, 0) == b"1" * 4 * CLUSTER + bytes(CLUSTER), True)
        equal(count(d, "base", "b"), 4 * CLUSTER)
        for one in (h, t):
            one.shutdown()


class Writer(threading.Thread):
    """Writes clusters until it is stopped or its daemon is gone; .model is what was answered, .maybe what was not."""

    def __init__(self, d, seed):
        super().__init__()
        self.h = d.nbd("e")
        self.rnd, self.model, self.maybe = random.Random(seed), {}, None
        self.n, self.stopping = 0, False
        self.start()

    def run(self):
        import nbd
        while not self.stopping:
            at = self.rnd.randrange(self.h.get_size() // CLUSTER)
            self.n += 1
            self.maybe = at, self.n
            try:
                self.h.pwrite(self.n.to_bytes(4, "little") * (CLUSTER // 4), at * CLUSTER, FUA)
            except nbd.Error:
                return
            self.model[at] = self.n
            self.maybe = None

    def more(self):
        seen = self.n
        wait_until(lambda: self.n > seen + 8 or not self.is_alive(), "more writes")

    def stop(self):
        self.stopping = True
        self.join()

    def check(self, h):
        for at, n in self.model.items():
            got = int.from_bytes(h.pread(4, at * CLUSTER), "little")
            equal(got in (n, self.maybe[1] if self.maybe and self.maybe[0] == at else n), True, "cluster %d" % at)


@test(needs=["qemu-img"])
def writers_go_on(tmp):
    "clients write while snapshot follows snapshot: every layer's bitmap has all that its image has"
    layers = 6
    with Daemon(tmp) as d:
        add(d, tmp, "l0")
        export(d, "l0")
        d.qmp("block-dirty-bitmap-add", node="l0", name="b", persistent=True)
        writers = [Writer(d, 1)]
        for i in range(1, layers):
            writers[0].more()
            add(d, tmp, "l%d" % i)
            transaction(d, snapshot("l%d" % (i - 1), "l%d" % i),
                        action("block-dirty-bitmap-add", node="l%d" % i, name="b", persistent=True))
        writers[0].more()
        writers[0].stop()
        writers[0].check(writers[0].h)
        writers[0].h.shutdown()
        for i in range(layers):
            has = sum(n for _, n in allocated(qcow2(tmp, "l%d" % i)))
            equal(count(d, "l%d" % i, "b"), has, "layer %d" % i)


def open_chain(d, tmp, layers):
    for i in range(layers):
        add(d, tmp, "l%d" % i, "l%d" % (i - 1) if i else None, **{"read-only": i < layers - 1})


def check_chain(tmp, writer, layers):
    """After a kill: what was answered is there, and dirty in the bitmap of its layer, if that has one."""
    with Daemon(tmp) as d:
        open_chain(d, tmp, layers)
        export(d, "l%d" % (layers - 1))
        h = d.nbd("e")
        writer.check(h)
        h.shutdown()
        for i in range(layers):
            if d.bitmap("l%d" % i, "b"):
                export(d, "l%d" % i, "x%d" % i, False, bitmaps=[{"node": "l%d" % i, "name": "b"}])
                h = d.nbd("x%d" % i, contexts=["qemu:dirty-bitmap:b"])
                shown = dirty(h, "b")
                h.shutdown()
                for at, n in allocated(qcow2(tmp, "l%d" % i)):
                    equal(any(a <= at and at + n <= a + m for a, m in shown), True,
                          "layer %d has data at %d, its bitmap %r" % (i, at, shown))
        equal(bool(d.bitmap("l0", "b")), True)


KILL = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>
/* The AT-th call of one of these, after the file ARMED has appeared, is the last one. */
static void step(void)
{
    static int calls;
    struct stat st;

    if (stat(getenv("ARMED"), &st) == 0 && __atomic_add_fetch(&calls, 1, 5) == atoi(getenv("AT")))
        raise(SIGKILL);
}
#define STEP(type, name, parameters, ...) \
    type name parameters { type (*next) parameters = (type (*) parameters)dlsym(RTLD_NEXT, #name); step(); \
                           return next(__VA_ARGS__); }
STEP(int, fdatasync, (int fd), fd)
STEP(int, fsync, (int fd), fd)
STEP(int, msync, (void *p, size_t n, int flags), p, n, flags)
STEP(ssize_t, pwrite64, (int fd, const void *p, size_t n, off_t at), fd, p, n, at)
STEP(ssize_t, pwritev2, (int fd, const struct iovec *v, int n, off_t at, int flags), fd, v, n, at, flags)
STEP(ssize_t, pwritev64v2, (int fd, const struct iovec *v, int n, off_t at, int flags), fd, v, n, at, flags)
STEP(int, ftruncate64, (int fd, off_t n), fd, n)
STEP(int, unlink, (const char *path), path)
STEP(int, rename, (const char *from, const char *to), from, to)
"""


@test(needs=["qemu-img", "cc"])
def killed_at_steps(tmp):
    "kill -9 at every third write and sync of a snapshot with its bitmap: no write and no mark is lost"
    library, armed = os.path.join(tmp, "kill.so"), os.path.join(tmp, "armed")
    if "Sanitizer" in run("nm", "-D", "--undefined-only", TIDEMARKD, check=False).stdout or "san_" in run(
            "nm", "-D", TIDEMARKD, check=False).stdout:
        skip("a library that replaces system calls does not go with a sanitizer")
    run("cc", "-shared", "-fPIC", "-o", library, "-x", "c", "-", input=KILL)
    for at in range(1, 100, 3):
        folder = os.path.join(tmp, str(at))
        os.mkdir(folder)
        d = Daemon(folder, env={"LD_PRELOAD": library, "ARMED": armed, "AT": str(at)})
        add(d, folder, "l0")
        export(d, "l0")
        d.qmp("block-dirty-bitmap-add", node="l0", name="b", persistent=True)
        writer = Writer(d, at)
        writer.more()
        writer.stop()
        add(d, folder, "l1")
        open(armed, "w").close()
        try:
            transaction(d, snapshot("l0", "l1"), action("block-dirty-bitmap-add", node="l1", name="b", persistent=True))
            survived = True
        except (OSError, EOFError, Failure):
            survived = False
        os.unlink(armed)
        d.kill()
        check_chain(folder, writer, 2)
        if survived:
            equal(at > 3, True, "nothing was stored")
            return
    fail("a snapshot takes more than 99 steps")


@test(needs=["qemu-img"])
def killed_while_written(tmp):
    "kill -9 while clients write and snapshots are taken: what was answered is there, and dirty"
    for seed in range(4):
        rnd, folder = random.Random(seed), os.path.join(tmp, "k%d" % seed)
        os.mkdir(folder)
        d = Daemon(folder)
        add(d, folder, "l0")
        export(d, "l0")
        d.qmp("block-dirty-bitmap-add", node="l0", name="b", persistent=True)
        writer, layers = Writer(d, seed), 1
        for i in range(1, 4):
            add(d, folder, "l%d" % i)
            layers = i + 1
            if i == 3:
                threading.Timer(rnd.random() / 30, d.process.kill).start()
            try:
                transaction(d, snapshot("l%d" % (i - 1), "l%d" % i),
                            action("block-dirty-bitmap-add", node="l%d" % i, name="b", persistent=True))
                if i == 3:
                    writer.join()
            except (OSError, EOFError, Failure):
                break
        writer.join()
        d.kill()
        check_chain(folder, writer, layers)


main()
