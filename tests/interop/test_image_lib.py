#!/usr/bin/python3
# SPDX-FileCopyrightText: 2026 The Tidemark authors
# SPDX-License-Identifier: GPL-2.0-or-later
# timeout: 300
"""Images made, checked and repaired by us beside qemu-img: what is made is what it makes, what is found in damaged
images is what it finds, and what a repair leaves satisfies it."""
import os
import random
import shutil
import struct

from harness import *

NEEDS = ["qemu-img", "qemu-io"]
M = 1 << 20
OFFSET = 0x00fffffffffffe00
FIGURES = ("corruptions", "leaks", "check-errors", "image-end-offset", "total-clusters", "allocated-clusters",
           "fragmented-clusters", "compressed-clusters")


# ---- making

QEMU_NAMES = {"version": "compat"}
QEMU_VALUES = {"v2": "0.10", "v3": "1.1", True: "on", False: "off"}


def create(d, **options):
    d.qmp("blockdev-create", job_id="j", options={k.replace("_", "-"): v for k, v in options.items()})
    d.monitor.wait_event("JOB_STATUS_CHANGE", id="j", status="concluded")
    (job,) = d.qmp("query-jobs")
    equal(job.get("error"), None, options)
    d.qmp("job-dismiss", id="j")


def facts(path):
    info = json.loads(run("qemu-img", "info", "--output=json", path).stdout)
    for name in ("filename", "actual-size"):
        info.pop(name)
    info["format-specific"]["data"].pop("data-file", None)
    return info


def cases():
    for size in (0, 512, M, 12 * M + 1536, 1 << 30, 1 << 40):
        yield size, {}
    yield 1 << 50, {"cluster_size": 2 * M}
    for cluster in (512, 4096, 2 * M):
        yield 64 * M, {"cluster_size": cluster}
        yield 16 * M, {"cluster_size": cluster, "preallocation": "metadata"}
    for bits in (1, 2, 4, 8, 32, 64):
        yield 16 * M, {"refcount_bits": bits, "preallocation": "metadata"}
        yield 4 * M, {"refcount_bits": bits, "cluster_size": 512, "preallocation": "metadata"}
    for p in ("metadata", "falloc", "full"):
        for more in ({}, {"extended_l2": True}, {"version": "v2"}):
            yield 9 * M + 512, dict(more, preallocation=p)
    for more in ({"version": "v2"}, {"lazy_refcounts": True}, {"compression_type": "zstd"}, {"extended_l2": True},
                 {"extended_l2": True, "cluster_size": 16384}):
        yield M, more
    backing = {"backing_file": "base.raw", "backing_fmt": "raw"}
    for more in ({}, {"version": "v2"}, {"extended_l2": True, "preallocation": "metadata"}, {"cluster_size": 1024}):
        yield M, dict(more, **backing)
    for p in ("off", "metadata", "falloc", "full"):
        for raw in (False, True):
            yield M + 512, {"data_file": "d", "data_file_raw": raw, "preallocation": p}


@test(needs=NEEDS)
def created(tmp):
    "qemu-img finds images by blockdev-create sound and equal to its own"
    ours, theirs, data = (os.path.join(tmp, n) for n in ("ours", "theirs", "data"))
    with open(os.path.join(tmp, "base.raw"), "wb") as f:
        f.write(os.urandom(M))
    with Daemon(tmp) as d:
        for size, options in cases():
            mine, qemu = dict(options), dict(options)
            with open(ours, "wb") as f:
                f.write(b"QFI\xfb" + os.urandom(100000))  # what was there is gone
            if "data_file" in options:
                for name in (data, data + ".qemu"):
                    if os.path.exists(name):
                        os.unlink(name)
                image(data, 0)
                mine["data_file"] = {"driver": "file", "filename": data}
                qemu["data_file"] = data + ".qemu"
            create(d, driver="qcow2", file={"driver": "file", "filename": ours}, size=size, **mine)
            words = ",".join("%s=%s" % (QEMU_NAMES.get(k, k), QEMU_VALUES.get(v, v) if not type(v) is int else v)
                             for k, v in qemu.items())
            if os.path.exists(theirs):
                os.unlink(theirs)
            run("qemu-img", "create", "-q", "-u", "-f", "qcow2", *(["-o", words] if words else []), theirs, size)
            matches(run("qemu-img", "check", ours).stdout, "No errors were found")
            equal(facts(ours), facts(theirs), options)
            run("qemu-img", "compare", ours, theirs)
            if "data_file" in options and facts(ours)["format-specific"]["data"]["data-file-raw"]:
                equal(os.path.getsize(data), size, options)  # a raw image of the disk
            if options.get("preallocation") in ("falloc", "full"):
                filled = data if "data_file" in options else ours
                equal(os.stat(filled).st_blocks * 512 >= size, True, options)
            run("qemu-io", "-c", "write -P 7 0 512", ours, check=size > 0)


# ---- damage

def make(rng, path):
    "An image with whatever a qcow2 image may have; qemu-img and qemu-io made it."
    cluster = rng.choice((512, 4096, 65536))
    size = rng.choice((1, 4, 9)) * M // (8 if cluster == 512 else 1) + 512 * rng.randrange(3)
    old = rng.random() < .2
    options = ["cluster_size=%d" % cluster]
    if old:
        options.append("compat=0.10")
    else:
        if rng.random() < .3:
            options.append("refcount_bits=%d" % rng.choice((1, 4, 8, 32, 64)))
        if cluster >= 16384 and rng.random() < .4:
            options.append("extended_l2=on")
    if rng.random() < .2:
        options.append("preallocation=metadata")
    run("qemu-img", "create", "-q", "-f", "qcow2", "-o", ",".join(options), path, size)

    def scribble():
        commands = []
        for _ in range(rng.randrange(5, 40)):
            at = rng.randrange(0, size - 512, 512)
            n = min(rng.choice((512, cluster, 3 * cluster, 20 * cluster)), size - at)
            what = rng.randrange(8)
            if what < 4:
                commands += ["-c", "write -q -P %d %d %d" % (rng.randrange(1, 256), at, n)]
            elif what < 6:
                commands += ["-c", "write -q -z %s %d %d" % (rng.choice(("", "-u")), at, n)]
            elif what == 6:
                commands += ["-c", "discard -q %d %d" % (at, n)]
            else:
                at = at // cluster * cluster
                commands += ["-c", "write -q -c -P %d %d %d" % (rng.randrange(256), at, min(cluster, size - at))]
        run("qemu-io", "-d", "unmap", *commands, path, check=False)  # compressed over data: refused

    scribble()
    if rng.random() < .4 and "refcount_bits=1" not in options:
        for n in range(rng.randrange(1, 4)):
            run("qemu-img", "snapshot", "-c", "s%d" % n, path)
            scribble()
    if not old and rng.random() < .3:
        run("qemu-img", "bitmap", "--add", path, "b0")
        scribble()


class Image:
    "The bytes of an image, and where in them its tables are."

    def __init__(self, path):
        with open(path, "rb") as f:
            self.bytes = bytearray(f.read())
        version, = struct.unpack_from(">I", self.bytes, 4)
        self.cluster = 1 << struct.unpack_from(">I", self.bytes, 20)[0]
        self.bits = 1 << (struct.unpack_from(">I", self.bytes, 96)[0] if version > 2 else 4)
        self.entry = 16 if version > 2 and self.get(72) & 16 else 8
        l1_size, l1 = struct.unpack_from(">IQ", self.bytes, 36)
        table, clusters = struct.unpack_from(">QI", self.bytes, 48)
        self.l1 = [l1 + 8 * i for i in range(l1_size) if self.get(l1 + 8 * i) & OFFSET]
        self.blocks = [table + 8 * i for i in range(clusters * self.cluster // 8) if self.get(table + 8 * i) & ~511]
        self.entries = [at for t in self.l1 for at in range(self.get(t) & OFFSET, (self.get(t) & OFFSET) + self.cluster,
                                                            self.entry) if self.get(at)]

    def get(self, at):
        return struct.unpack_from(">Q", self.bytes, at)[0] if at + 8 <= len(self.bytes) else 0

    def put(self, at, value):
        if at + 8 <= len(self.bytes):
            struct.pack_into(">Q", self.bytes, at, value % (1 << 64))

    def refcount(self, rng):
        block = self.get(rng.choice(self.blocks)) & ~511
        i = rng.randrange(min(self.cluster * 8 // self.bits, len(self.bytes) // self.cluster + 1))
        at, n = block + i * self.bits // 8, max(1, self.bits // 8)
        value = rng.choice((0, 0, 1, 2, 3)) if self.bits >= 8 else rng.randrange(256)
        self.bytes[at:at + n] = value.to_bytes(n, "big")

    def harm(self, rng, kind):
        entries = self.entries or [self.cluster]
        at = rng.choice(entries)
        if kind == "refcount":
            self.refcount(rng)
        elif kind == "copied":
            at = rng.choice(entries + self.l1)
            self.put(at, self.get(at) ^ 1 << 63)
        elif kind == "drop":
            self.put(at, 0)
        elif kind == "double":
            self.put(at, self.get(rng.choice(entries)))
        elif kind == "bit":
            self.put(at, self.get(at) ^ 1 << rng.randrange(64))
        elif kind == "subclusters" and self.entry == 16:
            self.put(at + 8, rng.getrandbits(64))
        elif kind == "unaligned" and self.entry == 8:
            self.put(at, self.get(at) & OFFSET | 512 * rng.randrange(8) | 1)
        elif kind == "l1" and self.l1:
            at = rng.choice(self.l1)
            self.put(at, rng.choice((0, self.get(at) ^ 1 << rng.randrange(64))))
        elif kind == "block":
            at = rng.choice(self.blocks)
            self.put(at, rng.choice((0, self.get(at) ^ 1 << rng.randrange(40))))
        elif kind == "cut":
            del self.bytes[len(self.bytes) - rng.randrange(1, 3 * self.cluster):]


KINDS = ["refcount"] * 4 + ["copied", "copied", "drop", "double", "bit", "subclusters", "unaligned", "l1", "block", "cut"]


def parsed(done):
    try:
        return json.loads(done.stdout)
    except ValueError:
        return None


def figures(report):
    return {name: report.get(name, 0) for name in FIGURES}


def theirs(path, *more):
    return parsed(run("qemu-img", "check", "-f", "qcow2", "--output=json", *more, path, check=False, timeout=60))


def ours(path, *more):
    done = tidemark("image", "check", "--json", "-q", "-f", "qcow2", *more, path, check=False, timeout=60)
    equal(done.returncode in (0, 1, 2, 3), True, done.stderr)
    return parsed(done)


def same_damage(tmp, seed):
    rng = random.Random(seed)
    path = os.path.join(tmp, "i")
    make(rng, path)
    equal(figures(ours(path)), figures(theirs(path)), "seed %d, whole" % seed)
    before = Image(path)
    kinds = rng.choice((["refcount", "copied"], ["refcount", "drop", "copied", "double"], KINDS))
    done = [rng.choice(kinds) for _ in range(rng.choice((1, 1, 3, 10)))]
    for kind in done:
        before.harm(rng, kind)
    with open(path, "wb") as f:
        f.write(before.bytes)
    mine, other = ours(path), theirs(path)
    where = "seed %d, %s" % (seed, done)
    if mine is None or other is None:
        return "refused" if mine is other else fail("%s: %s, %s" % (where, mine, other))
    equal(figures(mine), figures(other), where)
    content, refcounts_only = None, set(done) <= {"refcount", "copied"}
    if refcounts_only:
        content = os.path.join(tmp, "content")
        run("qemu-img", "convert", "-O", "raw", path, content)
    for how in ("leaks", "all"):
        mended = path + "." + how
        shutil.copy(path, mended)
        mine, other = ours(mended, "--repair", how), theirs(mended)
        equal(figures(mine), figures(other), "%s, after -r %s" % (where, how))
    shutil.copy(path, path + ".qemu")
    other = theirs(path + ".qemu", "-r", "all")
    if other:  # never worse than qemu-img's own repair
        for name in ("corruptions", "leaks"):
            equal(mine.get(name, 0) <= other.get(name, 0), True, "%s: %s, %s" % (where, mine, other))
    if refcounts_only:
        equal(figures(mine)["corruptions"] + figures(mine)["leaks"], 0, where)
        equal(run("qemu-img", "compare", "-f", "qcow2", "-F", "raw", mended, content).returncode, 0)
    return "clean" if not mine.get("corruptions") and not mine.get("leaks") else "lost"


@test(needs=NEEDS)
def damaged(tmp):
    "damaged in 16 ways an image has qemu-img's figures, and a repaired one is clean for it and keeps its data"
    results = [same_damage(tmp, seed) for seed in range(16)]
    equal(results.count("clean") > 6, True, results)


@test(needs=NEEDS)
def dirty(tmp):
    "a repair clears the dirty and the corrupt bit; without one they stay"
    path = os.path.join(tmp, "i")
    run("qemu-img", "create", "-q", "-f", "qcow2", "-o", "lazy_refcounts=on", path, "8M")
    run("qemu-io", "-c", "write -P 5 0 1M", "-c", "abort", path, check=False)
    with open(path, "r+b") as f:
        f.seek(72)
        bits, = struct.unpack(">Q", f.read(8))
        f.seek(72)
        f.write(struct.pack(">Q", bits | 3))
    equal(ours(path)["corruptions"] > 0, True)
    equal(facts(path)["dirty-flag"], True)
    equal(ours(path, "--repair", "all").get("corruptions", 0), 0)
    equal((facts(path)["dirty-flag"], facts(path)["format-specific"]["data"]["corrupt"]), (False, False))
    matches(run("qemu-io", "-r", "-c", "read -P 5 0 1M", path).stdout, "read 1048576/1048576")


@test(needs=NEEDS)
def kept(tmp):
    "a repair keeps internal snapshots and bitmaps, where qemu-img 7.2 loses the snapshots"
    path = os.path.join(tmp, "i")
    run("qemu-img", "create", "-q", "-f", "qcow2", path, "8M")
    run("qemu-io", "-c", "write -q -P 1 0 1M", path)
    run("qemu-img", "snapshot", "-c", "s0", path)
    run("qemu-img", "bitmap", "--add", path, "b0")
    run("qemu-io", "-c", "write -q -P 2 0 1M", path)
    before = facts(path)
    for how in ("leaks", "all"):
        damaged = Image(path)
        block = damaged.get(damaged.blocks[0])
        damaged.bytes += bytes(-len(damaged.bytes) % damaged.cluster + damaged.cluster)
        struct.pack_into(">H", damaged.bytes, block + 2 * (len(damaged.bytes) // damaged.cluster - 1), 1)
        with open(path, "wb") as f:
            f.write(damaged.bytes)
        equal(ours(path)["leaks"], 1)
        equal(ours(path, "--repair", how).get("leaks-fixed"), 1)
        equal(figures(theirs(path))["leaks"], 0)
        equal(facts(path), before, how)
    run("qemu-img", "convert", "-O", "raw", "-l", "snapshot.name=s0", path, path + ".raw")
    with open(path + ".raw", "rb") as f:
        equal(f.read(M) == b"\1" * M, True)


@test(needs=NEEDS)
def snapshots(tmp):
    "an internal snapshot is read by its id or its name; never written"
    path, raw = os.path.join(tmp, "i"), os.path.join(tmp, "raw")
    run("qemu-img", "create", "-q", "-f", "qcow2", "-o", "cluster_size=4k", path, "4M")
    contents = {}
    for n in range(3):
        run("qemu-io", *("-c", "write -q -P %d %dk 300k" % (n + 1, 700 * n)), path)
        run("qemu-img", "snapshot", "-c", "name%d" % n, path)
        run("qemu-img", "convert", "-O", "raw", "-l", "snapshot.name=name%d" % n, path, raw)
        with open(raw, "rb") as f:
            contents[n] = f.read()
        if n == 1:
            run("qemu-img", "resize", "-q", path, "6M")
    run("qemu-io", "-c", "write -q -P 9 0 6M", path)

    def node(name, **more):
        return dict({"driver": "qcow2", "node-name": "disk0", "read-only": True,
                     "file": {"driver": "file", "filename": path}, "snapshot": name}, **more)

    with Daemon(tmp) as d:
        for n in range(3):
            for name in ("name%d" % n, str(n + 1)):
                d.qmp("blockdev-add", node(name))
                d.qmp("block-export-add", type="nbd", id="e", node_name="disk0", name="disk0")
                h = d.nbd()
                equal(h.get_size(), len(contents[n]))
                equal(h.pread(h.get_size(), 0) == contents[n], True, name)
                h.shutdown()
                d.unexport("e")
                d.qmp("blockdev-del", node_name="disk0")
        d.qmp("blockdev-add", node("3"))
        listed = [n["image"] for n in d.qmp("query-named-block-nodes") if n["node-name"] == "disk0"]
        equal(listed[0]["snapshots"], json.loads(run("qemu-img", "info", "-U", "--output=json", path).stdout)["snapshots"])
        d.qmp("blockdev-del", node_name="disk0")
        raises(QMPError, d.qmp, "blockdev-add", node("none"), match="Can't find snapshot 'none'")
        raises(QMPError, d.qmp, "blockdev-add", node("1", **{"read-only": False}), match="read-only=on")


main()
