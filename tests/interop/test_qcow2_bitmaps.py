#!/usr/bin/python3
# SPDX-FileCopyrightText: 2026 The Tidemark authors
# SPDX-License-Identifier: GPL-2.0-or-later
# timeout: 300
"""Bitmaps in qcow2 images: taken over from QEMU and left for it, turn by turn; what is left of them when
either is killed."""
import hashlib
import json
import os
import random
import shutil
import struct


from harness import *
import nbd

NEEDS = ["qemu-img", "qemu-io", "qemu-storage-daemon"]
M = 1 << 20
BITMAPS, BESIDE = 1, 1 << 63


class Model:
    """What each bitmap must say: granules, by name."""

    def __init__(self, size):
        self.size, self.bitmaps = size, {}

    def add(self, name, granularity, enabled=True):
        self.bitmaps[name] = {"granularity": granularity, "enabled": enabled, "dirty": set()}

    def mark(self, offset, length):
        for b in self.bitmaps.values():
            if b["enabled"]:
                g = b["granularity"]
                b["dirty"].update(range(offset // g, (offset + length - 1) // g + 1))

    def merge(self, target, source):
        t, s = self.bitmaps[target], self.bitmaps[source]
        for n in s["dirty"]:
            end = min((n + 1) * s["granularity"], self.size)
            t["dirty"].update(range(n * s["granularity"] // t["granularity"], (end - 1) // t["granularity"] + 1))

    def sha256(self, name):
        b = self.bitmaps[name]
        bits = -(-self.size // b["granularity"])
        data = bytearray(-(-bits // 64) * 8)
        for n in b["dirty"]:
            data[n // 8] |= 1 << n % 8
        return hashlib.sha256(data).hexdigest()

    def extents(self, name):
        b, found = self.bitmaps[name], []
        for n in sorted(b["dirty"]):
            at = n * b["granularity"]
            end = min(at + b["granularity"], self.size)
            if found and sum(found[-1]) == at:
                found[-1] = (found[-1][0], end - found[-1][0])
            else:
                found.append((at, end - at))
        return found

    def check(self, d, what=""):
        listed = {b["name"]: b for b in nodes(d)["disk0"].get("dirty-bitmaps", [])}
        equal(sorted(listed), sorted(self.bitmaps), what)
        for name, b in self.bitmaps.items():
            info = listed[name]
            equal((info["granularity"], info["recording"], info["persistent"], info.get("inconsistent", False)),
                  (b["granularity"], b["enabled"], True, False), what + name)
            equal(info["count"], len(b["dirty"]) * b["granularity"], what + name)
            equal(d.qmp("x-debug-block-dirty-bitmap-sha256", node="disk0", name=name)["sha256"],
                  self.sha256(name), what + name)

    def check_nbd(self, d, name):
        d.qmp("block-export-add", type="nbd", id="look", name="look", bitmaps=[name], writable=True,
              **{"node-name": "disk0"})
        h = d.nbd("look", contexts=["qemu:dirty-bitmap:" + name])
        equal(dirty(h, name), self.extents(name), name)
        h.shutdown()
        d.unexport("look")
        wait_until(lambda: not d.qmp("query-block-exports") or
                   all(e["id"] != "look" for e in d.qmp("query-block-exports")), "the export to go")

    def check_info(self, path):
        got = {b["name"]: (b["granularity"], sorted(b["flags"])) for b in bitmaps_of(path)}
        equal(got, {name: (b["granularity"], ["auto"] if b["enabled"] else [])
                    for name, b in self.bitmaps.items()}, "qemu-img info")


def nodes(d):
    return {n["node-name"]: n for n in d.qmp("query-named-block-nodes", flat=True)}


def bitmaps_of(path, *more):
    info = json.loads(run("qemu-img", "info", "-U", "--output=json", *more, path).stdout)
    return info["format-specific"]["data"].get("bitmaps", [])


def autoclear(path):
    with open(path, "rb") as f:
        f.seek(88)
        return struct.unpack(">Q", f.read(8))[0]


def settled(path):
    """Nothing of ours is left in or beside the image, and QEMU finds no fault in it."""
    run("qemu-img", "check", "-U", "-q", path)
    equal(os.path.exists(path + ".bitmaps"), False)
    equal(autoclear(path) & BESIDE, 0)


def create(path, size, options=""):
    run("qemu-img", "create", "-q", "-f", "qcow2", *(["-o", options] if options else []), path, size)
    return path


def serve(tmp, path, binary=None, **more):
    d = {"driver": "qcow2", "node-name": "disk0", "file": {"driver": "file", "filename": path}}
    d.update((k.replace("_", "-"), v) for k, v in more.items())
    writable = "off" if more.get("read_only") else "on"
    return Daemon(tmp, "--blockdev", json.dumps(d), "--export",
                  "type=nbd,id=e,node-name=disk0,name=disk0,writable=" + writable, binary=binary)


def resize(d, size, refused=None):
    if d.qmp("query-block-exports"):
        d.unexport("e")
        wait_until(lambda: not d.qmp("query-block-exports"), "the export to go")
    if refused:
        raises(QMPError, d.qmp, "block_resize", size=size, match=refused, **{"node-name": "disk0"})
    else:
        d.qmp("block_resize", size=size, **{"node-name": "disk0"})


def scribble(d, model, rnd, n=20):
    h = d.nbd()
    for _ in range(n):
        length = rnd.choice((512, 4096, 65536, 3 * 65536))
        offset = rnd.randrange(0, model.size - length + 1, 512)
        if rnd.random() < 0.8:
            h.pwrite(rnd.randbytes(length), offset)
        else:
            h.zero(length, offset)
        model.mark(offset, length)
    h.flush()
    h.shutdown()


def operate(d, model, rnd, granularities):
    """One change of the bitmaps, on both sides."""
    names = sorted(model.bitmaps)
    what = rnd.choice(["add", "add", "enable", "disable", "merge", "clear", "remove"])
    if what == "add" or not names:
        name, g, enabled = "b%d" % rnd.randrange(10 ** 6), rnd.choice(granularities), rnd.random() < 0.7
        d.qmp("block-dirty-bitmap-add", node="disk0", name=name, granularity=g, persistent=True,
              disabled=not enabled)
        model.add(name, g, enabled)
        return
    name = rnd.choice(names)
    if what == "merge":
        source = rnd.choice(names)
        if source != name:
            d.qmp("block-dirty-bitmap-merge", node="disk0", target=name, bitmaps=[source])
            model.merge(name, source)
    elif what == "remove" and len(names) > 3:
        d.qmp("block-dirty-bitmap-remove", node="disk0", name=name)
        del model.bitmaps[name]
    elif what == "clear":
        d.qmp("block-dirty-bitmap-clear", node="disk0", name=name)
        model.bitmaps[name]["dirty"] = set()
    elif what in ("enable", "disable"):
        d.qmp("block-dirty-bitmap-" + what, node="disk0", name=name)
        model.bitmaps[name]["enabled"] = what == "enable"


def turns(tmp, options, size, granularities, seed, data_file=False, n=10):
    rnd = random.Random(seed)
    path = create(os.path.join(tmp, "i.qcow2"), size,
                  options + (",data_file=%s" % os.path.join(tmp, "i.data") if data_file else ""))
    model = Model(size)
    more = {"data_file": {"driver": "file", "filename": os.path.join(tmp, "i.data")}} if data_file else {}
    for turn in range(n):
        binary = QSD if turn % 2 == 0 else None
        with serve(tmp, path, binary, **more) as d:
            what = "seed %d, turn %d: " % (seed, turn)
            model.check(d, what)
            for _ in range(4):
                operate(d, model, rnd, granularities)
                scribble(d, model, rnd, 6)
            model.check(d, what)
            if model.bitmaps:
                model.check_nbd(d, rnd.choice(sorted(model.bitmaps)))
        settled(path)
        model.check_info(path)


@test(needs=NEEDS)
def turn_by_turn(tmp):
    "QEMU and Tidemark take turns with an image, and its bitmaps always have what was written"
    turns(tmp, "", 12 * M + 512 * 7, [512, 4096, 65536, M], 1)


@test(needs=NEEDS)
def turn_by_turn_small_clusters(tmp):
    "bitmaps survive taking turns with the smallest clusters"
    turns(tmp, "cluster_size=512", 24 * M + 512, [512, 4096], 2)


@test(needs=NEEDS)
def turn_by_turn_large_clusters(tmp):
    "bitmaps survive taking turns with the largest clusters and granularities"
    turns(tmp, "cluster_size=2M", 12 * M, [512, M, 1 << 30, 1 << 31], 3, n=6)


@test(needs=NEEDS)
def turn_by_turn_extended(tmp):
    "bitmaps survive taking turns with extended L2 entries"
    turns(tmp, "extended_l2=on,cluster_size=32k", 12 * M, [512, 32768, 65536], 4, n=6)


@test(needs=NEEDS)
def turn_by_turn_data_file(tmp):
    "bitmaps survive taking turns with an external data file"
    turns(tmp, "cluster_size=4k", 12 * M, [512, 65536], 5, data_file=True, n=6)


# ---- killed


def opened_with_bitmaps(tmp, path, model, rnd):
    """Made by QEMU, with two bitmaps."""
    with serve(tmp, path, QSD) as d:
        for name, g, enabled in (("on", 65536, True), ("off", 4096, True)):
            d.qmp("block-dirty-bitmap-add", node="disk0", name=name, granularity=g, persistent=True)
            model.add(name, g)
        scribble(d, model, rnd)
        d.qmp("block-dirty-bitmap-disable", node="disk0", name="off")
        model.bitmaps["off"]["enabled"] = False


@test(needs=NEEDS)
def killed(tmp):
    "after kill -9 all bitmaps are there again, and meanwhile other programs see them in use"
    rnd = random.Random(7)
    path = create(os.path.join(tmp, "i.qcow2"), 12 * M)
    model = Model(12 * M)
    opened_with_bitmaps(tmp, path, model, rnd)
    d = serve(tmp, path)
    for turn in range(4):
        model.check(d)
        operate(d, model, rnd, [512, 65536])
        scribble(d, model, rnd)
        equal(autoclear(path) & BESIDE, BESIDE)
        d.kill()
        for b in bitmaps_of(path):
            equal("in-use" in b["flags"], True, b["name"])
        d = serve(tmp, path)
    model.check(d)
    d.stop()
    settled(path)
    model.check_info(path)


@test(needs=NEEDS)
def killed_and_read(tmp):
    "after kill -9 all bitmaps are there for a read-only node too, and reading by QEMU changes nothing"
    rnd = random.Random(8)
    path = create(os.path.join(tmp, "i.qcow2"), 12 * M)
    model = Model(12 * M)
    opened_with_bitmaps(tmp, path, model, rnd)
    d = serve(tmp, path)
    scribble(d, model, rnd)
    d.kill()
    run("qemu-img", "map", path)
    with serve(tmp, path, read_only=True) as d:
        model.check(d)
        raises(QMPError, d.qmp, "block-dirty-bitmap-remove", node="disk0", name="on",
               match="Bitmap 'on' is readonly and cannot be modified")
    with serve(tmp, path) as d:
        model.check(d)
    settled(path)
    with serve(tmp, path, read_only=True) as d:
        model.check(d)
        raises(QMPError, d.qmp, "block-dirty-bitmap-clear", node="disk0", name="on", match="readonly")


@test(needs=NEEDS)
def killed_then_foreign(tmp):
    "after kill -9 and a write by QEMU the bitmaps are inconsistent for both, and can be removed"
    rnd = random.Random(9)
    path = create(os.path.join(tmp, "i.qcow2"), 12 * M)
    opened_with_bitmaps(tmp, path, Model(12 * M), rnd)
    d = serve(tmp, path)
    scribble(d, Model(12 * M), rnd)
    d.kill()
    equal(os.path.exists(path + ".bitmaps"), True)
    run("qemu-io", "-c", "write -q 0 64k", path)
    equal(autoclear(path), BITMAPS)
    with serve(tmp, path) as d:
        for name in ("on", "off"):
            b = d.bitmap("disk0", name)
            equal((b["inconsistent"], b["recording"], b["persistent"]), (True, False, True))
            raises(QMPError, d.qmp, "block-dirty-bitmap-clear", node="disk0", name=name, match="inconsistent")
        resize(d, 24 * M, "Bitmap '.*' is inconsistent and cannot be used")
        d.qmp("block-dirty-bitmap-remove", node="disk0", name="on")
    run("qemu-img", "check", "-q", path)
    equal([(b["name"], b["flags"]) for b in bitmaps_of(path)], [("off", ["in-use"])])
    with serve(tmp, path) as d:
        d.qmp("block-dirty-bitmap-remove", node="disk0", name="off")
        resize(d, 24 * M)
    settled(path)
    equal(bitmaps_of(path), [])
    equal(autoclear(path), 0)


@test(needs=NEEDS)
def qemu_killed(tmp):
    "after kill -9 of QEMU its bitmaps are inconsistent"
    path = create(os.path.join(tmp, "i.qcow2"), 12 * M)
    opened_with_bitmaps(tmp, path, Model(12 * M), random.Random(10))
    serve(tmp, path, QSD).kill()
    with serve(tmp, path) as d:
        equal(sorted((b["name"], b["inconsistent"]) for b in nodes(d)["disk0"]["dirty-bitmaps"]),
              [("off", True), ("on", True)])
        matches(d.log(), "bitmap 'on': it was in use")


@test(needs=NEEDS)
def removed_then_killed(tmp):
    "a bitmap that was removed stays so after kill -9, for us and for QEMU"
    path = create(os.path.join(tmp, "i.qcow2"), 12 * M)
    model = Model(12 * M)
    opened_with_bitmaps(tmp, path, model, random.Random(11))
    d = serve(tmp, path)
    d.qmp("block-dirty-bitmap-remove", node="disk0", name="on")
    d.kill()
    equal([b["name"] for b in bitmaps_of(path)], ["off"])
    d = serve(tmp, path)
    del model.bitmaps["on"]
    model.check(d)
    d.qmp("block-dirty-bitmap-remove", node="disk0", name="off")
    d.kill()
    equal(bitmaps_of(path), [])
    with serve(tmp, path) as d:
        equal(nodes(d)["disk0"].get("dirty-bitmaps", []), [])
    settled(path)


@test(needs=NEEDS)
def taken_back(tmp):
    "a change that comes to nothing leaves no word of a store in the image"
    path = create(os.path.join(tmp, "i.qcow2"), 12 * M)
    d = serve(tmp, path)
    add = {"type": "block-dirty-bitmap-add", "data": {"node": "disk0", "name": "b", "persistent": True}}
    raises(QMPError, d.qmp, "transaction", actions=[add, {"type": "abort", "data": {}}])
    equal(autoclear(path) & BESIDE, 0)
    d.qmp("block-dirty-bitmap-add", node="disk0", name="b")
    equal(autoclear(path) & BESIDE, 0)
    d.kill()
    with serve(tmp, path) as d:
        equal(nodes(d)["disk0"].get("dirty-bitmaps", []), [])
    settled(path)


# ---- states of an image


@test(needs=NEEDS)
def foreign_without_bitmaps(tmp):
    "without the autoclear bit the bitmaps extension is dropped"
    path = create(os.path.join(tmp, "i.qcow2"), 12 * M)
    opened_with_bitmaps(tmp, path, Model(12 * M), random.Random(12))
    with open(path, "r+b") as f:
        f.seek(88)
        f.write(bytes(8))
    with serve(tmp, path) as d:
        equal(nodes(d)["disk0"].get("dirty-bitmaps", []), [])
        matches(d.log(), "does not know bitmaps")
    equal(bitmaps_of(path), [])
    run("qemu-img", "check", "-q", "-r", "leaks", path)


def directory(path):
    with open(path, "rb") as f:
        head = f.read(65536)
    at = struct.unpack_from(">I", head, 100)[0]
    while True:
        kind, length = struct.unpack_from(">II", head, at)
        if kind == 0x23852875:
            return struct.unpack_from(">IIQQ", head, at + 8)
        at += 8 + (length + 7) // 8 * 8


def patch(path, at, data):
    with open(path, "r+b") as f:
        f.seek(at)
        f.write(data)


@test(needs=NEEDS)
def damaged(tmp):
    "a damaged bitmap is inconsistent and says why; the disk, and the others, are there"
    path = create(os.path.join(tmp, "i.qcow2"), 12 * M)
    model = Model(12 * M)
    opened_with_bitmaps(tmp, path, model, random.Random(13))
    offset = directory(path)[3]
    with open(path, "rb") as f:
        f.seek(offset)
        table = struct.unpack(">Q", f.read(8))[0]
    patch(path, table, struct.pack(">Q", 0x4000000000010000))
    with serve(tmp, path) as d:
        first, second = sorted(("on", "off"), key=lambda n: not d.bitmap("disk0", n).get("inconsistent", False))
        equal(d.bitmap("disk0", first)["inconsistent"], True)
        equal(d.bitmap("disk0", second).get("inconsistent", False), False)
        matches(d.log(), "entry 0 of its table is 0x4000000000010000, expected a cluster within the file")
        d.nbd().pwrite(b"x" * 512, 0)
        d.qmp("block-dirty-bitmap-remove", node="disk0", name=first)
    equal([b["name"] for b in bitmaps_of(path)], [second])


@test(needs=NEEDS)
def damaged_over_tables(tmp):
    "a bitmap that says its bits are in L1, or in an L2 table: when it goes, those stay what they are"
    for n, of_l1 in enumerate((True, False)):
        path = create(os.path.join(tmp, "i%d.qcow2" % n), 12 * M)
        opened_with_bitmaps(tmp, path, Model(12 * M), random.Random(13))
        offset = directory(path)[3]
        with open(path, "rb") as f:
            f.seek(40)
            l1 = struct.unpack(">Q", f.read(8))[0]
            f.seek(l1)
            l2 = struct.unpack(">Q", f.read(8))[0] & ~(1 << 63)
            f.seek(offset)
            table = struct.unpack(">Q", f.read(8))[0]
        patch(path, table, struct.pack(">Q", l1 if of_l1 else l2))
        with serve(tmp, path) as d:
            first = [name for name in ("on", "off") if d.bitmap("disk0", name).get("inconsistent", False)]
            equal(len(first), 1)
            matches(d.log(), "some of its clusters are also used by other parts of the image")
            d.qmp("block-dirty-bitmap-remove", node="disk0", name=first[0])
            h = d.nbd()
            h.flush()
            data = random.Random(n).randbytes(12 * M)
            for at in range(0, 12 * M, M):
                h.pwrite(data[at:at + M], at)
            h.flush()
        report = json.loads(run("qemu-img", "check", "--output=json", path, check=False).stdout)
        equal((report.get("corruptions", 0), report["check-errors"]), (0, 0))
        run("qemu-img", "convert", "-O", "raw", path, path + ".raw")
        with open(path + ".raw", "rb") as f:
            equal(f.read() == data, True)


@test(needs=NEEDS)
def damaged_directory(tmp):
    "an image with an impossible bitmap directory can be read only, and the error says why"
    path = create(os.path.join(tmp, "i.qcow2"), 12 * M)
    opened_with_bitmaps(tmp, path, Model(12 * M), random.Random(14))
    n, _, size, offset = directory(path)
    good = open(path, "rb").read()
    for at, data, message, checked in (
            (0, struct.pack(">Q", 1), "bitmap '.*': bitmap_table_offset is 1, expected", None),
            (8, struct.pack(">I", 0), "bitmap_table_size is 0, expected", None),
            (8, struct.pack(">I", 0x7fffffff), "bitmap_table_size is 2147483647, expected", "a table of at most"),
            (12, struct.pack(">I", 0x80), "flags is 128, expected", None),
            (16, b"\x02", "type is 2, expected", "type 1"),
            (17, b"\x20", "granularity_bits is 32, expected 9 to 31", "granularity_bits from 9 to 31"),
            (18, b"\x00\x00", "a name of 0 bytes", "a name of 1 to 1023 bytes"),
            (18, b"\x08\x00", "expected at most 64", "an entry within"),
            (20, struct.pack(">I", 0xffffffff), "expected at most 64", "an entry within")):
        with open(path, "wb") as f:
            f.write(good)
        patch(path, offset + at, data)
        with Daemon(tmp) as d:
            node = {"driver": "qcow2", "node-name": "disk0", "file": {"driver": "file", "filename": path}}
            raises(QMPError, d.qmp, "blockdev-add", node, match=message)
            d.qmp("blockdev-add", dict(node, **{"read-only": True}))
            matches(d.log(), message)
        if checked:
            matches(run(TIDEMARK, "image", "check", path, check=False).stdout,
                    "bitmaps extension: entry 0 of the directory is invalid, expected " + checked)
            matches(run(TIDEMARK, "image", "map", path, check=False).stderr, "'%s': " % path)


@test(needs=NEEDS)
def reserved_field(tmp):
    "check reports a bitmaps extension that QEMU does not open"
    path = create(os.path.join(tmp, "i.qcow2"), 12 * M)
    opened_with_bitmaps(tmp, path, Model(12 * M), random.Random(14))
    with open(path, "rb") as f:
        at = f.read(65536).index(struct.pack(">II", 0x23852875, 24))
    patch(path, at + 12, struct.pack(">I", 7))
    equal(run("qemu-img", "check", path, check=False).returncode, 1)
    p = run(TIDEMARK, "image", "check", path, check=False)
    equal(p.returncode, 2)
    matches(p.stdout, "ERROR bitmaps extension: its reserved field is 7, expected 0")


@test(needs=NEEDS)
def extra_data(tmp):
    "extra data of a bitmap that may be kept is kept"
    path = create(os.path.join(tmp, "i.qcow2"), 12 * M)
    model = Model(12 * M)
    opened_with_bitmaps(tmp, path, model, random.Random(15))
    n, _, size, offset = directory(path)
    with open(path, "rb") as f:
        f.seek(offset)
        old = f.read(size)
    new, at = b"", 0
    while at < size:
        table, entries, flags, kind, bits, name, extra = struct.unpack_from(">QIIBBHI", old, at)
        entry = struct.pack(">QIIBBHI", table, entries, flags | 4, kind, bits, name, 5) + b"extra"
        entry += old[at + 24:at + 24 + name]
        new += entry + bytes(-len(entry) % 8)
        at += (24 + name + 7) // 8 * 8
    patch(path, offset, new)
    with open(path, "rb") as f:
        head = f.read(65536)
    patch(path, head.index(struct.pack(">II", 0x23852875, 24)) + 16, struct.pack(">Q", len(new)))
    for _ in range(2):
        with serve(tmp, path) as d:
            model.check(d)
            scribble(d, model, random.Random(16), 3)
    n, _, size, offset = directory(path)
    with open(path, "rb") as f:
        f.seek(offset)
        equal(f.read(size).count(b"extra"), 2)


@test(needs=NEEDS)
def bounds(tmp):
    "a bitmap that QEMU would not store is refused when it is added"
    path = create(os.path.join(tmp, "i.qcow2"), 4 << 40, "cluster_size=2M")
    with serve(tmp, path) as d:
        raises(QMPError, d.qmp, "block-dirty-bitmap-add", node="disk0", name="b", granularity=512, persistent=True,
               match="Can't make bitmap 'b' persistent in 'disk0': Too much space will be occupied by the bitmap")
        d.qmp("block-dirty-bitmap-add", node="disk0", name="b", granularity=1024, persistent=True)
        resize(d, 8 << 40, "Bitmap 'b' does not fit into the image after the change: Too much space")
    settled(path)
    path = create(os.path.join(tmp, "old.qcow2"), M, "compat=0.10")
    with serve(tmp, path) as d:
        raises(QMPError, d.qmp, "block-dirty-bitmap-add", node="disk0", name="b", persistent=True,
               match="Cannot store dirty bitmaps in qcow2 v2 files")


@test(needs=NEEDS)
def resized(tmp):
    "bitmaps follow the disk's size, and QEMU loads them"
    path = create(os.path.join(tmp, "i.qcow2"), 12 * M, "cluster_size=512")
    model = Model(12 * M)
    rnd = random.Random(17)
    opened_with_bitmaps(tmp, path, model, rnd)
    for size in (40 * M, 7 * M + 512):
        old = model.size
        with serve(tmp, path) as d:
            resize(d, size)
            model.size = size
            for b in model.bitmaps.values():
                g = b["granularity"]
                if size > old:
                    b["dirty"].update(range(old // g, -(-size // g)))
                b["dirty"] = {n for n in b["dirty"] if n * g < size}
            model.check(d)
        settled(path)
        with serve(tmp, path, QSD) as d:
            model.check(d)


@test(needs=NEEDS)
def read_only_directory(tmp):
    "in a read-only directory bitmaps work as in QEMU"
    if os.getuid() == 0:
        skip("root writes everywhere")
    where = os.path.join(tmp, "ro")
    os.mkdir(where)
    path = create(os.path.join(where, "i.qcow2"), 12 * M)
    model = Model(12 * M)
    opened_with_bitmaps(tmp, path, model, random.Random(18))
    os.chmod(where, 0o555)
    try:
        with serve(tmp, path) as d:
            scribble(d, model, random.Random(19))
            model.check(d)
            equal(autoclear(path) & BESIDE, 0)
            matches(d.log(), "recorded in memory only")
        settled(path)
        with serve(tmp, path) as d:
            model.check(d)
            d.kill()
        with serve(tmp, path) as d:
            equal(d.bitmap("disk0", "on")["inconsistent"], True)
    finally:
        os.chmod(where, 0o755)


@test(needs=NEEDS)
def reopened(tmp):
    "reopened read-only the bitmaps are in the image; writable again, beside it"
    path = create(os.path.join(tmp, "i.qcow2"), 12 * M)
    model = Model(12 * M)
    rnd = random.Random(20)
    opened_with_bitmaps(tmp, path, model, rnd)
    node = {"driver": "qcow2", "node-name": "disk0", "file": "file0"}
    with Daemon(tmp) as d:
        d.qmp("blockdev-add", {"driver": "file", "node-name": "file0", "filename": path})
        d.qmp("blockdev-add", node)
        for turn in range(3):
            d.qmp("block-export-add", type="nbd", id="e", name="disk0", writable=True, **{"node-name": "disk0"})
            scribble(d, model, rnd)
            d.unexport("e")
            wait_until(lambda: not d.qmp("query-block-exports"), "the export to go")
            model.check(d)
            d.qmp("blockdev-reopen", options=[dict(node, **{"read-only": True})])
            settled(path) if turn else equal(autoclear(path), BITMAPS)
            model.check(d)
            model.check_info(path)
            raises(QMPError, d.qmp, "block-dirty-bitmap-clear", node="disk0", name="on", match="readonly")
            d.qmp("blockdev-reopen", options=[node])
            equal(autoclear(path), BITMAPS | BESIDE)
            model.check(d)
    settled(path)
    model.check_info(path)


main()
