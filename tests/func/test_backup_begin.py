#!/usr/bin/python3
# SPDX-FileCopyrightText: 2026 The Tidemark authors
# SPDX-License-Identifier: GPL-2.0-or-later
"""backup-begin and backup-end: what their exports show while writes never stop, what each end leaves, and that
nothing is left over.

The model: each writer writes one request after the other, of numbers that grow, to all disks in turn. So what an instant
left is, of each writer, all requests up to some number and none after it."""
import random
import struct

from harness import *
import nbd

MIB = 1 << 20
SIZE = 6 * MIB
BLOCK = 4096
WRITERS = 2


class Writer:
    """One connection to each disk; blocks are its own, every WRITERS-th."""

    def __init__(self, d, disks, number):
        self.d, self.disks, self.number = d, disks, number
        self.log = []  # (disk, block, zero): request n is the nth, from 1
        self.done = 0
        self.resting = threading.Event()
        self.error = None

    def content(self, n):
        return struct.pack("<QQ", self.number + 1, n) * (BLOCK // 16)

    def work(self):
        try:
            rnd = random.Random(self.number)
            handles = [self.d.nbd(disk) for disk in self.disks]
            while not self.resting.is_set():
                which = len(self.log) % len(handles)
                near = rnd.random() < 0.7
                block = rnd.randrange(SIZE // BLOCK // WRITERS // (8 if near else 1)) * WRITERS + self.number
                zero = rnd.random() < 0.1
                self.log.append((which, block, zero))
                if zero:
                    handles[which].zero(BLOCK, block * BLOCK)
                else:
                    handles[which].pwrite(self.content(len(self.log)), block * BLOCK)
                self.done = len(self.log)
            for h in handles:
                h.shutdown()
        except Exception as e:  # carried over to rest()
            self.error = e

    def shown_at(self, images, least, most):
        """Checks that the images have a prefix of the log, of that length."""
        for n in range(least, most + 1):
            last = {}
            for i, (which, block, zero) in enumerate(self.log[:n], 1):
                last[which, block] = bytes(BLOCK) if zero else self.content(i)
            wrong = [(w, b) for w, image in enumerate(images)
                     for b in range(self.number, SIZE // BLOCK, WRITERS)
                     if image[b * BLOCK:(b + 1) * BLOCK] != last.get((w, b), bytes(BLOCK))]
            if not wrong:
                return
        fail("writer %d: no prefix of %d to %d requests is what was exported; at %d, blocks %s differ" % (
            self.number, least, most, n, wrong[:8]))


class Load:
    def __init__(self, d, disks):
        self.writers = [Writer(d, disks, i) for i in range(WRITERS)]
        self.threads = [threading.Thread(target=w.work) for w in self.writers]

    def __enter__(self):
        for thread in self.threads:
            thread.start()
        self.more()
        return self

    def more(self, n=40):
        """Some more requests of each."""
        for w in self.writers:
            seen = w.done
            wait_until(lambda: w.error or w.done > seen + n, "requests")

    def rest(self):
        for w in self.writers:
            w.resting.set()
        for thread in self.threads:
            thread.join()
        for w in self.writers:
            if w.error:
                raise w.error

    def __exit__(self, *unused):
        self.rest()

    def during(self, function):
        """What it returns, and how far each writer had come before and after."""
        least = [w.done for w in self.writers]
        result = function()
        return result, [(a, len(w.log)) for a, w in zip(least, self.writers)]

    def check(self, images, bounds):
        for w, (least, most) in zip(self.writers, bounds):
            w.shown_at(images, least, most)


def disk_file(tmp):
    path = os.path.join(tmp, "f.img")
    with open(path, "wb") as f:
        f.truncate(SIZE)
    return "--blockdev", "driver=file,node-name=f,filename=%s" % path


def scratch(tmp, **more):
    path = os.path.join(tmp, "scratch")
    os.makedirs(path, exist_ok=True)
    return dict(more, directory=path)


def begin(d, tmp, disks, id="b", checkpoint=None, **more):
    """disks: names, or (name, from)."""
    arguments = dict({"id": id, "scratch": scratch(tmp), "disks": [
        {"node": disk} if isinstance(disk, str) else {"node": disk[0], "from": disk[1]} for disk in disks]},
        **{k.replace("_", "-"): v for k, v in more.items()})
    if checkpoint:
        arguments["checkpoint"] = checkpoint
    return d.qmp("backup-begin", arguments)


def end(d, success, id="b", **more):
    d.qmp("backup-end", id=id, success=success, **more)


def read(d, export, ranges=None, image=None):
    """The export's content; with ranges, only these, into the image."""
    h = d.nbd(export)
    image = bytearray(h.get_size()) if image is None else image
    for offset, length in ranges if ranges is not None else [(0, len(image))]:
        for at in range(offset, offset + length, MIB):
            n = min(MIB, offset + length - at)
            image[at:at + n] = h.pread(n, at)
    h.shutdown()
    return image


def names(d, node="disk0"):
    for info in d.qmp("query-named-block-nodes", flat=True):
        if info["node-name"] == node:
            return sorted(b["name"] for b in info.get("dirty-bitmaps", []))
    return None


def add(d, name, node="disk0", **more):
    d.qmp("block-dirty-bitmap-add", dict({"node": node, "name": name, "persistent": True}, **more))


def count(d, name, node="disk0"):
    return d.bitmap(node, name)["count"]


def nothing_left(d, tmp, nodes=("disk0",)):
    equal(d.qmp("query-backups"), [])
    equal(sorted(n["node-name"] for n in d.qmp("query-named-block-nodes")), sorted(nodes))
    equal(sorted(x["id"] for x in d.qmp("query-block-exports")),
          ["exp-" + n for n in sorted(nodes) if n.startswith("disk")])
    equal(os.listdir(scratch(tmp)["directory"]), [])


def chain(tmp, *args):
    """A full backup and increments of two disks, while they are written."""
    disks = ["disk0", "disk1"]
    with Daemon(tmp, *args) as d, Load(d, disks) as load:
        nodes = [n["node-name"] for n in d.qmp("query-named-block-nodes", flat=True)]
        copies = None
        for i in range(4):
            load.more()
            froms = [(n, "c%d" % (i - 1)) if i else n for n in disks]
            begun, bounds = load.during(lambda: begin(d, tmp, froms, checkpoint="c%d" % i))
            load.more()
            exports = ["%s@b" % n for n in disks]
            equal([x["export"] for x in begun["disks"]], exports)
            full = [read(d, x) for x in exports]
            load.check(full, bounds)
            if copies is None:
                copies = full
            else:
                for copy, x, said in zip(copies, exports, begun["disks"]):
                    context = "qemu:dirty-bitmap:c%d" % (i - 1)
                    equal(context in said["contexts"], True)
                    h = d.nbd(x, [context])
                    ranges = dirty(h, "c%d" % (i - 1))
                    equal(sum(n for _, n in ranges), said["dirty"])
                    h.shutdown()
                    read(d, x, ranges, copy)
            equal(copies == full, True, "the chain differs after increment %d" % i)
            end(d, True)
            equal(names(d), ["c%d" % i])
            equal(names(d, "disk1"), ["c%d" % i])
        load.rest()
        nothing_left(d, tmp, nodes)


@test
def raw_chain(tmp):
    "exports of two raw disks show one instant, and increments add up, while both are written"
    chain(tmp, *disk(tmp, "disk0", SIZE), *disk(tmp, "disk1", SIZE))


@test(needs=["qemu-img"])
def qcow2_chain(tmp):
    "the same of a qcow2 image with a backing file beside a raw disk"
    base, path = os.path.join(tmp, "base.qcow2"), os.path.join(tmp, "top.qcow2")
    run("qemu-img", "create", "-q", "-f", "qcow2", base, str(SIZE))
    run("qemu-img", "create", "-q", "-f", "qcow2", "-b", "base.qcow2", "-F", "qcow2", path)
    chain(tmp, "--blockdev", "driver=qcow2,node-name=disk0,file.driver=file,file.filename=%s,"
          "backing-names=directory" % path, "--export", "type=nbd,id=exp-disk0,node-name=disk0,name=disk0,writable=on",
          *disk(tmp, "disk1", SIZE))


@test
def ends(tmp):
    "each end leaves the bitmaps that it promises; a second end changes nothing, and says so"
    with Daemon(tmp, *disk(tmp, "disk0", SIZE)) as d:
        add(d, "from")
        h = d.nbd()
        h.pwrite(b"a", 0)
        begin(d, tmp, [("disk0", "from")], checkpoint="next")
        equal([d.bitmap("disk0", n)["busy"] for n in ("from", "next")], [True, True])
        h.pwrite(b"b", MIB)
        raises(QMPError, d.qmp, "block-dirty-bitmap-clear", node="disk0", name="from", match="in use")
        raises(QMPError, d.qmp, "block-dirty-bitmap-remove", node="disk0", name="next", match="in use")
        other = d.new_monitor()
        other("backup-end", id="b", success=False)
        equal(names(d), ["from"])
        equal(count(d, "from"), 2 * 65536)
        equal(d.monitor.wait_event("BACKUP_ENDED")["data"], {"id": "b", "success": False})
        raises(QMPError, end, d, True, match="Backup 'b' has ended already, without success")
        raises(QMPError, end, d, True, id="x", match="Backup 'x' not found")
        equal(names(d), ["from"])
        nothing_left(d, tmp)

        begin(d, tmp, [("disk0", "from")], checkpoint="next")
        h.pwrite(b"c", 2 * MIB)
        end(d, True, **{"keep-from": True})
        equal(names(d), ["from", "next"])
        equal([count(d, "from"), count(d, "next")], [3 * 65536, 65536])
        raises(QMPError, other, "backup-end", id="b", success=False, match="has ended already, with success")

        begin(d, tmp, [("disk0", "from")], checkpoint="third")
        h.pwrite(b"d", 3 * MIB)
        end(d, True)
        equal(names(d), ["next", "third"])
        equal(count(d, "third"), 65536)
        h.shutdown()
        nothing_left(d, tmp)


@test
def without_a_flush(tmp):
    "a begin flushes nothing; if a flush fails before the end, what began then is dirty everywhere"
    with Daemon(tmp, *disk_file(tmp)) as d:
        d.qmp("blockdev-add", {  # the first flush after the first write fails
            "driver": "blkdebug", "node-name": "disk0", "image": "f", "bitmap-store": os.path.join(tmp, "store"),
            "set-state": [{"event": "pwritev", "state": 1, "new_state": 2}],
            "inject-error": [{"event": "flush_to_disk", "iotype": "flush", "state": 2, "once": True}]})
        d.qmp("block-export-add", {"type": "nbd", "id": "exp-disk0", "node-name": "disk0", "name": "disk0",
                                   "writable": True})
        add(d, "from")
        h = d.nbd()
        h.pwrite(b"a", 0)
        begin(d, tmp, [("disk0", "from")], checkpoint="next")
        h.pwrite(b"b", MIB)
        equal(count(d, "next"), 65536)
        end(d, True)
        equal(names(d), ["next"])
        equal(count(d, "next"), SIZE)
        h.shutdown()


@test
def each_disk_has_its_checkpoint(tmp):
    "a checkpoint of a disk's own instead of that of the backup, or none"
    with Daemon(tmp, *[a for i in range(3) for a in disk(tmp, "disk%d" % i, SIZE)]) as d:
        disks = [{"node": "disk0", "checkpoint": "mine"}, {"node": "disk1"}]
        said = d.qmp("backup-begin", id="b", disks=disks, checkpoint="c", scratch=scratch(tmp))
        equal([s["checkpoint"] for s in said["disks"]], ["mine", "c"])
        end(d, True)
        equal([names(d, "disk0"), names(d, "disk1")], [["mine"], ["c"]])
        disks = [{"node": "disk0", "from": "mine", "checkpoint": "next"}, {"node": "disk2"}]
        said = d.qmp("backup-begin", id="b", disks=disks, scratch=scratch(tmp))
        equal([s.get("checkpoint") for s in said["disks"]], ["next", None])
        end(d, False)
        equal([names(d, "disk0"), names(d, "disk2")], [["mine"], []])


@test
def answers(tmp):
    "the answer, the query and the export say what a client needs"
    with Daemon(tmp, *disk(tmp, "disk0", SIZE)) as d:
        add(d, "from")
        h = d.nbd()
        h.pwrite(b"a" * 65536, 0)
        before = time.time_ns()
        said = begin(d, tmp, [("disk0", "from")], checkpoint="next", scratch=scratch(tmp, **{"max-size": MIB}))
        equal(before <= said["instant"] <= time.time_ns(), True)
        contexts = ["base:allocation", "qemu:dirty-bitmap:from", "x-tidemark:backup:from"]
        shown = {"node": "disk0", "from": "from", "checkpoint": "next", "export": "disk0@b", "size": SIZE,
                 "contexts": contexts, "dirty": 65536}
        equal(said["disks"], [shown])
        h.pwrite(b"b" * 65536, 65536)  # a hole at the instant: nothing to keep
        h.pwrite(b"b" * 65536, 0)
        x = d.nbd("disk0@b", contexts)
        equal([x.is_read_only(), x.can_trim(), x.get_size()], [True, True, SIZE])
        equal([x.can_meta_context(c) for c in contexts], [True] * 3)
        equal(dirty(x, "from"), [(0, 65536)])
        equal(extents(x, "x-tidemark:backup:from"), [(0, 65536, 1), (65536, SIZE - 65536, 0)])
        equal(extents(x, "base:allocation"), [(0, 65536, 0), (65536, SIZE - 65536, 3)])
        [info] = d.qmp("query-backups")
        equal(info["disks"], [dict(shown, **{"sessions": 1, "copied-before-writes": info["disks"][0]["copied-before-writes"]})])
        equal(info["disks"][0]["copied-before-writes"] >= 65536, True)
        equal(info["scratch"], {"used": 65536, "max-size": MIB})
        equal([info["id"], info["checkpoint"], info["instant"], info["timeout"]], ["b", "next", said["instant"], 60])
        x.shutdown()
        end(d, False)


@test
def released(tmp):
    "what a client has trimmed costs writes nothing, and can't be read or written"
    with Daemon(tmp, *disk(tmp, "disk0", SIZE)) as d:
        h = d.nbd()
        h.pwrite(b"a" * MIB, 0)
        begin(d, tmp, ["disk0"])
        h.pwrite(b"b" * 65536, 0)
        x = d.nbd("disk0@b", strict_mode=0)
        equal(x.pread(MIB, 0), b"a" * MIB)
        raises(nbd.Error, x.pwrite, b"c", 0, match="not permitted")
        x.trim(MIB, 0)
        raises(nbd.Error, x.pread, 4096, 0)
        copied = d.qmp("query-backups")[0]["disks"][0]["copied-before-writes"]
        h.pwrite(b"d" * MIB, 0)
        [info] = d.qmp("query-backups")
        equal(info["disks"][0]["copied-before-writes"], copied)
        equal(info["scratch"]["used"], 0)
        equal(x.pread(MIB, MIB), bytes(MIB))
        x.shutdown()
        end(d, True)
        equal(h.pread(MIB, 0), b"d" * MIB)


@test
def all_or_none(tmp):
    "a backup that can't begin on one disk begins on none, and leaves nothing"
    nodes = ["disk0", "disk1"]
    with Daemon(tmp, *disk(tmp, "disk0", SIZE), *disk(tmp, "disk1", SIZE)) as d:
        add(d, "from")
        add(d, "taken", "disk1")
        for match, more in (("already exists: taken", {"checkpoint": "taken"}),
                            ("Could not create a scratch file", {"scratch": {"directory": tmp + "/nowhere"}}),
                            ("NBD server 'x' not running", {"servers": ["x"]}),
                            ("No authorization object with id 'x'", {"allow_open": "x"}),
                            ("Invalid backup id", {"id": "1"})):
            raises(QMPError, begin, d, tmp, [("disk0", "from"), "disk1"], match=match, **more)
            equal([names(d), names(d, "disk1")], [["from"], ["taken"]])
            equal(d.bitmap("disk0", "from")["busy"], False)
            nothing_left(d, tmp, nodes)
        for match, disks in (("listed twice", ["disk0", "disk0"]), ("'nope' not found", [("disk0", "nope")]),
                             ("node-name='disk9'", ["disk0", "disk9"]), ("at least one disk", [])):
            raises(QMPError, begin, d, tmp, disks, checkpoint="next", match=match)
            nothing_left(d, tmp, nodes)
        begin(d, tmp, [("disk0", "from")])
        raises(QMPError, begin, d, tmp, ["disk1"], match="Backup 'b' already exists")
        raises(QMPError, begin, d, tmp, [("disk0", "from")], id="c", match="in use")
        begin(d, tmp, ["disk0", "disk1"], id="c")  # another instant of the same disk
        end(d, True, id="c")
        end(d, False)
        nothing_left(d, tmp, nodes)


@test
def without_clients(tmp):
    "a backup that has no client for its timeout ends without success, and not before"
    with Daemon(tmp, *disk(tmp, "disk0", SIZE)) as d:
        add(d, "from")
        begin(d, tmp, [("disk0", "from")], checkpoint="next", timeout=1)
        x = d.nbd("disk0@b")
        time.sleep(2.5)
        equal(len(d.qmp("query-backups")), 1)
        x.shutdown()
        left = time.monotonic()
        data = d.monitor.wait_event("BACKUP_ABORTED")["data"]
        equal(data, {"id": "b", "reason": "no client for 1 seconds"})
        equal(time.monotonic() - left > 0.9, True)
        equal(names(d), ["from"])
        matches(d.log(), "backup 'b' has ended without success: no client for 1 seconds")
        raises(QMPError, end, d, True, match="has ended already, without success: no client")
        wait_until(lambda: len(d.qmp("query-named-block-nodes")) == 1, "the nodes to go")
        nothing_left(d, tmp)


@test
def scratch_full(tmp):
    "a scratch that is full ends the backup, or makes writes fail, as on-scratch-full says"
    small = scratch(tmp, **{"max-size": 2 * 65536})
    with Daemon(tmp, *disk(tmp, "disk0", SIZE)) as d:
        add(d, "from")
        h = d.nbd()
        h.pwrite(b"a" * MIB, 0)
        begin(d, tmp, [("disk0", "from")], checkpoint="next", scratch=small)
        x = d.nbd("disk0@b")
        h.pwrite(b"b" * MIB, 0)
        equal(h.pread(MIB, 0), b"b" * MIB)
        equal(raises(nbd.Error, x.pread, 4096, 0).errno, "EIO")
        reason = d.monitor.wait_event("BACKUP_ABORTED", id="b")["data"]["reason"]
        matches(reason, "the scratch is full")
        equal(names(d), ["from"])
        equal(count(d, "from"), MIB)
        equal(raises(nbd.Error, x.pread, 4096, 2 * MIB).errno, "EIO")
        raises(QMPError, end, d, True, match="has ended already")
        x.shutdown()
        wait_until(lambda: len(d.qmp("query-named-block-nodes")) == 1, "the nodes to go")
        nothing_left(d, tmp)

        begin(d, tmp, [("disk0", "from")], scratch=small, on_scratch_full="stop")
        h.pwrite(b"c" * 65536, 0)
        equal(raises(nbd.Error, h.pwrite, b"c" * MIB, 0).errno, "ENOSPC")
        equal(read(d, "disk0@b")[:MIB], b"b" * MIB)
        end(d, True)
        h.pwrite(b"d" * MIB, 0)
        equal(names(d), [])
        h.shutdown()
        nothing_left(d, tmp)


@test
def clients_of_an_aborted_one(tmp):
    "clients that have still to find out that a backup was aborted are not in the way of who knows"
    small = scratch(tmp, **{"max-size": 65536})
    with Daemon(tmp, *disk(tmp, "disk0", SIZE)) as d:
        add(d, "from")
        h = d.nbd()

        def abort(id):
            begin(d, tmp, [("disk0", "from")], checkpoint=id, scratch=small, id=id)
            x = d.nbd("disk0@" + id, ["qemu:dirty-bitmap:from"])
            h.pwrite(os.urandom(MIB), 0)
            h.pwrite(os.urandom(MIB), 0)
            d.monitor.wait_event("BACKUP_ABORTED", id=id)
            equal(raises(nbd.Error, x.pread, 4096, 0).errno, "EIO")
            return x

        h.pwrite(b"a" * MIB, 0)
        x, y = abort("b"), abort("c")
        raises(nbd.Error, x.pread, 4096, 0)
        raises(QMPError, end, d, False, id="c", match="has ended already, without success")
        nothing_left(d, tmp)
        d.qmp("block-dirty-bitmap-remove", node="disk0", name="from")
        equal(names(d), [])
        del x, y
        h.shutdown()


@test
def killed(tmp):
    "after kill -9 the checkpoint is gone, from is whole, no scratch file is left, and it is reported"
    args = disk(tmp, "disk0", SIZE)
    d = Daemon(tmp, *args)
    add(d, "from")
    add(d, "other")
    h = d.nbd()
    h.pwrite(b"a" * MIB, 0)
    begin(d, tmp, [("disk0", "from")], checkpoint="next")
    h.pwrite(b"b" * 65536, 0)
    h.pwrite(b"b", 3 * MIB)
    d.kill()
    with Daemon(tmp, *disk(tmp, "disk0")) as d:
        equal(names(d), ["from", "other"])
        equal([count(d, n) for n in ("from", "other")], [MIB + 65536] * 2)
        matches(d.log(), "node 'disk0', bitmap 'next': the backup that began this checkpoint did not end")
        nothing_left(d, tmp)
        begin(d, tmp, [("disk0", "from")], checkpoint="next")
        end(d, True)
    d = Daemon(tmp, *disk(tmp, "disk0"))
    equal(names(d), ["next", "other"])
    d.stop()
    with Daemon(tmp) as d:
        d.qmp("blockdev-add", {"driver": "file", "node-name": "disk0", "filename": tmp + "/disk0.img"})
        begin(d, tmp, [("disk0", "next")], checkpoint="last")
        d.kill()
    with Daemon(tmp) as d:
        d.qmp("blockdev-add", {"driver": "file", "node-name": "disk0", "filename": tmp + "/disk0.img"})
        equal(d.monitor.wait_event("BACKUP_ABORTED")["data"], {
            "node-name": "disk0", "checkpoint": "last", "reason": "the backup that began this checkpoint did not end"})


@test(needs=["qemu-img"])
def killed_while_written(tmp):
    "kills at any moment of backups of a raw and a qcow2 disk lose no write from any bitmap that is there"
    rnd = random.Random(5)
    path = os.path.join(tmp, "disk1.qcow2")
    run("qemu-img", "create", "-q", "-f", "qcow2", path, str(SIZE))
    image(os.path.join(tmp, "disk0.img"), SIZE)
    args = disk(tmp, "disk0") + [
        "--blockdev", "driver=qcow2,node-name=disk1,file.driver=file,file.filename=" + path,
        "--export", "type=nbd,id=exp-disk1,node-name=disk1,name=disk1,writable=on"]
    disks = ["disk0", "disk1"]
    written = [{"from": set()}, {"from": set()}]  # of each bitmap: granules that must be dirty
    d = Daemon(tmp, *args)
    for disk_ in disks:
        add(d, "from", disk_)
    for life in range(6):
        handles = [d.nbd(disk_) for disk_ in disks]

        def write():
            for h, bitmaps in zip(handles, written):
                at = rnd.randrange(SIZE // 65536)
                h.pwrite(b"w" * 512, at * 65536)
                for granules in bitmaps.values():
                    granules.add(at)

        stop = rnd.randrange(6)
        for step in range(6):
            write()
            if step == 2:
                begin(d, tmp, [(n, "from") for n in disks], checkpoint="next")
                for bitmaps in written:
                    bitmaps["next"] = set()
            if step == 4:
                end(d, life % 2 == 0)
                for bitmaps in written:
                    bitmaps["from"] = bitmaps["from"] if life % 2 else bitmaps["next"]
                    del bitmaps["next"]
                if life % 2 == 0:  # the next life's from
                    for disk_ in disks:
                        d.qmp("transaction", actions=[
                            {"type": "block-dirty-bitmap-add", "data": {"node": disk_, "name": "from", "persistent": True}},
                            {"type": "block-dirty-bitmap-merge", "data": {"node": disk_, "target": "from", "bitmaps": ["next"]}},
                            {"type": "block-dirty-bitmap-remove", "data": {"node": disk_, "name": "next"}}])
            if step == stop:
                break
        d.kill()
        d = Daemon(tmp, *args)
        for disk_, bitmaps in zip(disks, written):
            bitmaps.pop("next", None)
            equal(names(d, disk_), ["from"])
            equal(count(d, "from", disk_), 65536 * len(bitmaps["from"]))
        equal(d.qmp("query-backups"), [])
    d.stop()


@test
def in_use(tmp):
    "an end that can't remove its bitmap changes nothing, and can be tried again; exports may have gone before"
    with Daemon(tmp, *disk(tmp, "disk0", SIZE)) as d:
        add(d, "from")
        begin(d, tmp, [("disk0", "from")], checkpoint="next", timeout=0)
        d.qmp("block-export-dirty-bitmap", id="exp-disk0", bitmaps=["from"])
        raises(QMPError, end, d, True, match="Bitmap 'from' is currently in use")
        equal(names(d), ["from", "next"])
        equal(len(d.qmp("query-backups")), 1)
        raises(QMPError, d.qmp, "block-dirty-bitmap-remove", node="disk0", name="next", match="in use")
        d.qmp("block-export-dirty-bitmap", id="exp-disk0", bitmaps=[])
        end(d, True)
        equal(names(d), ["next"])
        begin(d, tmp, [("disk0", "next")], checkpoint="last", timeout=0)
        d.qmp("nbd-server-stop")
        equal(d.qmp("query-block-exports"), [])
        end(d, False)
        equal(names(d), ["next"])
        equal([n["node-name"] for n in d.qmp("query-named-block-nodes")], ["disk0"])


@test
def scratch_node(tmp):
    "a scratch node reads as zeroes where nothing was written, has a bound, and its file has no name"
    where = scratch(tmp)["directory"]
    with Daemon(tmp, "--blockdev", "driver=scratch,node-name=disk0,discard=unmap,size=%d,max-size=8192,directory=%s"
                % (SIZE + 512, where), "--export", "type=nbd,id=e,node-name=disk0,name=disk0,writable=on") as d:
        equal(os.listdir(where), [])
        h = d.nbd(contexts=["base:allocation"])
        equal(h.get_size(), SIZE + 512)
        h.pwrite(b"a" * 512, SIZE)
        h.pwrite(b"b" * 512, 1000)
        h.zero(4096, 65536)  # nothing is there
        equal(raises(nbd.Error, h.pwrite, b"c", MIB).errno, "ENOSPC")
        equal(h.pread(1536, 512), bytes(488) + b"b" * 512 + bytes(536))
        equal(h.pread(512, SIZE), b"a" * 512)
        equal(extents(h, "base:allocation"), [(0, 4096, 0), (4096, SIZE - 4096, 3), (SIZE, 512, 0)])
        h.zero(512, 1000)
        equal(h.pread(2048, 0), bytes(2048))
        h.trim(512, SIZE)
        h.pwrite(b"c" * 512, MIB)
        equal(h.pread(512, SIZE), bytes(512))
        h.shutdown()
        raises(QMPError, d.qmp, "blockdev-add", {"driver": "scratch", "node-name": "x", "size": 1, "directory": "/nowhere"},
               match="Could not create a scratch file in '/nowhere': No such file or directory")


@test
def daemon_ends(tmp):
    "a daemon that ends in the midst leaves from whole and no checkpoint"
    d = Daemon(tmp, *disk(tmp, "disk0", SIZE))
    add(d, "from")
    h = d.nbd()
    h.pwrite(b"a" * MIB, 0)
    begin(d, tmp, [("disk0", "from")], checkpoint="next")
    x = d.nbd("disk0@b")
    h.pwrite(b"b" * MIB, MIB)
    d.stop()
    matches(d.log(), "backup 'b' has ended without success: the daemon has ended")
    with Daemon(tmp, *disk(tmp, "disk0")) as d:
        equal(names(d), ["from"])
        equal(count(d, "from"), 2 * MIB)
        equal("did not end" in d.log(), False)


@test
def clients_killed(tmp):
    "backups whose clients are cut off in the midst of reading end in either way, while the disk is written"
    with Daemon(tmp, *disk(tmp, "disk0", SIZE)) as d, Load(d, ["disk0"]) as load:
        add(d, "from")
        for success in (False, False, True):
            begin(d, tmp, [("disk0", "from")], checkpoint="next")
            stopped = threading.Event()

            def pull():
                try:
                    while not stopped.is_set():
                        read(d, "disk0@b")
                except nbd.Error:
                    pass

            thread = threading.Thread(target=pull)
            thread.start()
            load.more(20)
            end(d, success)
            stopped.set()
            thread.join()
            equal(names(d), ["next" if success else "from"])
            nothing_left(d, tmp)
        load.rest()


@test
def an_export_comes_back(tmp):
    "an export that is added while a backup runs writes through its filter, also of two backups"
    with Daemon(tmp, *disk(tmp, "disk0", SIZE)) as d:
        h = d.nbd()
        h.pwrite(b"o" * SIZE, 0)
        h.shutdown()
        begin(d, tmp, ["disk0"], id="b", checkpoint="c")
        begin(d, tmp, ["disk0"], id="b2")
        for export in d.qmp("query-block-exports"):
            if not export["id"].startswith("b"):
                d.unexport(export["id"])
        d.qmp("block-export-add", type="nbd", id="again", node_name="disk0", name="again", writable=True)
        h = d.nbd("again")
        h.pwrite(b"n" * 4096, MIB)
        equal([bytes(read(d, "disk0@" + id)) == b"o" * SIZE for id in ("b", "b2")], [True, True])
        for id in "b2", "b":
            end(d, True, id=id)
            h.pwrite(b"m" * 4096, MIB)
        equal(h.pread(1, MIB), b"m")
        equal(d.bitmap("disk0", "c")["count"], 65536)
        h.shutdown()


main()
