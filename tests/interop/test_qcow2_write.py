#!/usr/bin/python3
# SPDX-FileCopyrightText: 2026 The Tidemark authors
# SPDX-License-Identifier: GPL-2.0-or-later
# timeout: 600
"""qcow2 images written by us: random I/O against a model; then qemu-img finds nothing wrong with them and
reads the same."""
import json
import os
import random


from harness import *
import nbd
from images import create, raw, scribble

NEEDS = ["qemu-img", "qemu-io"]
M = 1 << 20
SIZE = 6 * M + 3 * 512


def definition(path, node="disk0", backing=None, **more):
    d = {"driver": "qcow2", "node-name": node, "discard": "unmap", "backing": backing,
         "file": {"driver": "file", "filename": path}}
    d.update((k.replace("_", "-"), v) for k, v in more.items())
    return json.dumps(d)


def serve(tmp, text, *more):
    return Daemon(tmp, "--blockdev", text, "--export", "type=nbd,id=e,node-name=disk0,name=disk0,writable=on", *more)


def serve_by(tmp, text, binary, writable="on"):
    return Daemon(tmp, "--blockdev", text, "--export", "type=nbd,id=e,node-name=disk0,name=disk0,writable=" + writable,
                  binary=binary, name="d" if binary is None else "q")


class Model:
    """A disk that is written at random, and what it should be."""

    def __init__(self, h, data, seed, cluster, discard_zeroes=True):
        self.h, self.data, self.rng, self.cluster = h, data, random.Random(seed), cluster
        self.discard_zeroes = discard_zeroes

    def place(self):
        size, rng = len(self.data), self.rng
        n = rng.choice((1, 512, 4096, 5000, self.cluster, 2 * self.cluster, 3 * self.cluster + 700, rng.randrange(1, 200000)))
        n = min(n, size)
        at = rng.choice((rng.randrange(size - n + 1), rng.randrange(size - n + 1) // self.cluster * self.cluster, size - n))
        return at, n

    def step(self):
        at, n = self.place()
        what = self.rng.randrange(16)
        if what < 8:
            b = self.rng.randbytes(min(n, 64)) * (n // min(n, 64) + 1)
            self.data[at:at + n] = b[:n]
            self.h.pwrite(b[:n], at, nbd.CMD_FLAG_FUA if self.rng.randrange(10) == 0 else 0)
        elif what < 11:
            self.data[at:at + n] = bytes(n)
            self.h.zero(n, at, self.rng.choice((0, nbd.CMD_FLAG_NO_HOLE)))
        elif what == 11:
            try:
                self.h.zero(n, at, nbd.CMD_FLAG_FAST_ZERO)
                self.data[at:at + n] = bytes(n)
            except nbd.Error as e:
                equal(e.errno, "ENOTSUP")
                self.data[at:at + n] = self.h.pread(n, at)  # what it did until then is not said
        elif what < 14:
            self.h.trim(n, at)
            first, last = -(-at // self.cluster) * self.cluster, (at + n) // self.cluster * self.cluster
            if at + n == len(self.data):
                last = at + n
            if first < last and self.discard_zeroes:
                self.data[first:last] = bytes(last - first)
            elif first < last:  # each cluster as it was, or zeroes
                for c in range(first, last, self.cluster):
                    got = self.h.pread(min(self.cluster, last - c), c)
                    equal(got in (bytes(len(got)), self.data[c:c + len(got)]), True, "discarded at %d" % c)
                    self.data[c:c + len(got)] = got
        elif what == 14:
            self.h.flush()
        else:
            self.same(at, n)

    def same(self, at, n):
        got = self.h.pread(n, at)
        if got != self.data[at:at + n]:
            fail("different from byte %d on (of %d at %d)" % (at + next(i for i in range(n) if got[i] != self.data[at + i]), n, at))

    def whole(self):
        for at in range(0, len(self.data), M):
            self.same(at, min(M, len(self.data) - at))


def sound(path, model, opts=None):
    """Nothing is wrong with the image, not even a leak, and qemu-img reads what it should."""
    out = run("qemu-img", "check", path, check=False)
    matches(out.stdout if hasattr(out, "stdout") else str(out), "No errors were found")
    equal(raw(path, opts) == model, True, "qemu-img reads the same")


CASES = [("compat=0.10", 65536), ("", 65536), ("cluster_size=512", 512), ("cluster_size=4096", 4096),
         ("cluster_size=2M", 2 * M), ("extended_l2=on", 65536), ("extended_l2=on,cluster_size=16k", 16384),
         ("compression_type=zstd", 65536), ("lazy_refcounts=on", 65536), ("refcount_bits=1", 65536),
         ("refcount_bits=8,cluster_size=1024", 1024), ("refcount_bits=64,cluster_size=512", 512), ("refcount_bits=2", 65536),
         ("preallocation=metadata", 65536), ("preallocation=falloc,cluster_size=128k", 131072)]


@test(needs=NEEDS)
def every_kind(tmp):
    "images of every version, cluster size and feature are sound after random writes"
    for seed, (options, cluster) in enumerate(CASES):
        path = create(os.path.join(tmp, "i%d" % seed), options, SIZE)
        scribble(path, seed, SIZE, cluster, "extended" not in options)
        model = raw(path)
        for turn in range(2):
            with serve(tmp, definition(path)) as d:
                m = Model(d.nbd(), model, seed + 100 * turn, cluster)
                for _ in range(150):
                    m.step()
                m.whole()
            sound(path, model)
        os.unlink(path)


def work(tmp, path, model, seed, cluster, text, steps=150, opts=None, turns=1, **more):
    """Turns of random I/O, each with a daemon of its own, and the image is sound after each."""
    for turn in range(turns):
        with serve(tmp, text) as d:
            m = Model(d.nbd(), model, seed + 100 * turn, cluster, **more)
            for _ in range(steps):
                m.step()
            m.whole()
        sound(path, model, opts)


@test(needs=NEEDS)
def backing(tmp):
    "writes to an overlay leave its backing as it is, whatever their sizes"
    base = os.path.join(tmp, "base.raw")
    with open(base, "wb") as f:
        f.write(os.urandom(3 * M + 123 * 512))
    middle = create(os.path.join(tmp, "middle"), "cluster_size=16k", size=5 * M, backing=(base, "raw"))
    scribble(middle, 1, 5 * M, 16384)
    below = open(middle, "rb").read(), open(base, "rb").read()
    chain = json.loads(definition(middle, "middle", {"driver": "file", "filename": base, "read-only": True}))
    chain["read-only"] = True
    for seed, (options, cluster, size) in enumerate((("", 65536, SIZE), ("extended_l2=on", 65536, SIZE),
                                                     ("cluster_size=512", 512, 2 * M), ("cluster_size=2M", 2 * M, SIZE),
                                                     ("extended_l2=on,cluster_size=2M", 2 * M, 5 * M),
                                                     ("compat=0.10", 65536, SIZE))):
        path = create(os.path.join(tmp, "top%d" % seed), options, size, (middle, "qcow2"))
        scribble(path, seed, size, cluster, "extended" not in options)
        work(tmp, path, raw(path), seed, cluster, definition(path, backing=chain), turns=2,
             discard_zeroes="0.10" not in options)
        equal((open(middle, "rb").read(), open(base, "rb").read()), below, "the images below")


@test(needs=NEEDS)
def data_file(tmp):
    "images with external data files are written; a raw data file equals the disk at any time"
    for seed, (options, cluster) in enumerate((("", 65536), (",data_file_raw=on", 65536),
                                               (",data_file_raw=on,cluster_size=4096", 4096), (",extended_l2=on", 65536))):
        data = os.path.join(tmp, "data%d" % seed)
        path = create(os.path.join(tmp, "x%d" % seed), "data_file=%s%s" % (data, options), SIZE)
        scribble(path, seed, SIZE, cluster, False)
        model = raw(path)
        work(tmp, path, model, seed, cluster, definition(path, data_file={"driver": "file", "filename": data}), turns=2)
        if "raw" in options:
            equal(open(data, "rb").read()[:SIZE].ljust(SIZE, b"\0") == model, True, "the data file is the disk")


@test(needs=NEEDS)
def snapshots(tmp):
    "internal snapshots keep what they have while the disk is written over them"
    for seed, (options, cluster) in enumerate((("", 65536), ("cluster_size=4096", 4096), ("extended_l2=on", 65536),
                                               ("compat=0.10", 65536))):
        path = create(os.path.join(tmp, "s%d" % seed), options, SIZE)
        scribble(path, seed, SIZE, cluster, "extended" not in options)
        kept = []
        for n in range(3):
            run("qemu-img", "snapshot", "-c", "snap%d" % n, path)
            kept.append(raw(path))
            model = bytearray(kept[-1])
            work(tmp, path, model, seed + n, cluster, definition(path), 80)
        for n in (0, 1, 2):
            run("qemu-img", "convert", "-l", "snap%d" % n, "-O", "raw", path, path + ".raw")
            equal(open(path + ".raw", "rb").read() == kept[n], True, "snap%d" % n)
        run("qemu-img", "snapshot", "-a", "snap1", path)
        run("qemu-img", "snapshot", "-d", "snap0", path)
        work(tmp, path, bytearray(kept[1]), seed, cluster, definition(path), 80)


@test(needs=NEEDS)
def small_caches(tmp):
    "with caches of one table several clients at once write the right data"
    for options, cluster in (("cluster_size=512", 512), ("cluster_size=4096,extended_l2=off", 4096)):
        path = create(os.path.join(tmp, "c%d" % cluster), options, 4 * M)
        scribble(path, 9, 4 * M, cluster)
        model = raw(path)
        with serve(tmp, definition(path, l2_cache_size=1, refcount_cache_size=1)) as d:
            def part(n):
                # parts of odd sizes share clusters and tables
                first, end = 4 * M // 4 * n + 100 * n, 4 * M // 4 * (n + 1) + 100 * (n + 1)
                h, rng = d.nbd(), random.Random(n)
                for _ in range(150):
                    at = rng.randrange(first, min(end, 4 * M) - 1)
                    size = min(rng.choice((1, 512, 3000, 20000)), min(end, 4 * M) - at)
                    what = rng.randrange(6)
                    if what < 4:
                        b = rng.randbytes(size)
                        h.pwrite(b, at)
                    elif what == 4:
                        b = bytes(size)
                        h.zero(size, at, rng.choice((0, nbd.CMD_FLAG_NO_HOLE)))
                    else:
                        h.flush()
                        continue
                    model[at:at + size] = b
                    equal(h.pread(size, at) == b, True)

            in_threads(*(lambda n=n: part(n) for n in range(4)))
            h = d.nbd()
            equal(b"".join(h.pread(M, at) for at in range(0, 4 * M, M)) == model, True)
        sound(path, model)


@test(needs=NEEDS)
def flushed_then_killed(tmp):
    "after kill -9 flushed data is there, and qemu-img finds at most leaks"
    for seed, options in enumerate(("", "cluster_size=512", "extended_l2=on", "cluster_size=2M", "refcount_bits=64,cluster_size=512")):
        path = create(os.path.join(tmp, "k%d" % seed), options, SIZE)
        cluster = {"": 65536, "cluster_size=2M": 2 * M}.get(options, 512 if "512" in options else 65536)
        model = raw(path)
        for turn in range(2):
            d = serve(tmp, definition(path))
            m = Model(d.nbd(), model, seed + 10 * turn, cluster)
            for _ in range(60):
                m.step()
            m.h.flush()
            d.kill()
            out = run("qemu-img", "check", "--output=json", path, check=False)
            report = json.loads(out.stdout)
            equal((report.get("corruptions", 0), report["check-errors"]), (0, 0), out.stdout)
            equal(raw(path) == model, True, "what was flushed")
        run("qemu-img", "check", "-q", "-r", "leaks", path, check=False)
        work(tmp, path, model, seed, cluster, definition(path), 60)


@test(needs=NEEDS + ["qemu-storage-daemon"])
def in_turn(tmp):
    "qemu-storage-daemon and Tidemark write an image in turn, and each finds the other's data"
    for seed, (options, cluster) in enumerate((("", 65536), ("extended_l2=on", 65536), ("cluster_size=512", 512),
                                               ("compat=0.10", 65536), ("refcount_bits=1,compression_type=zstd", 65536))):
        path = os.path.join(tmp, "t%d" % seed)
        create(path, options, SIZE)
        # With seed 3 qemu-io itself puts data and compressed clusters into one host cluster.
        scribble(path, 10 + seed, SIZE, cluster, "extended" not in options)
        model = raw(path)
        for turn in range(4):
            ours = turn % 2 == 0
            with serve_by(tmp, definition(path), None if ours else QSD) as d:
                h = d.nbd(contexts=["base:allocation"])
                m = Model(h, model, seed + 100 * turn, cluster, discard_zeroes=ours)
                m.whole()
                for _ in range(30):
                    m.step()
                m.whole()
                mine = extents(h, "base:allocation")
            sound(path, model)
            with serve_by(tmp, definition(path, read_only=True), QSD if ours else None, writable="off") as d:
                theirs = extents(d.nbd(contexts=["base:allocation"]), "base:allocation")
                # Whether allocated clusters read as zeroes depends on what the file system still has in memory.
                equal([e for e in theirs if e[2] & 1], [e for e in mine if e[2] & 1], "holes after turn %d, %s" % (turn, options))


@test(needs=NEEDS + ["qemu-storage-daemon"])
def lazy(tmp):
    "an image with lazy refcounts left by a killed QEMU is read as it is, and repaired before it is written"
    path = create(os.path.join(tmp, "l"), "lazy_refcounts=on", SIZE)
    with Daemon(tmp, "--blockdev", definition(path), "--export", "type=nbd,id=e,node-name=disk0,name=disk0,writable=on",
                binary=QSD, name="q") as d:
        m = Model(d.nbd(), bytearray(SIZE), 1, 65536)
        for _ in range(40):
            m.step()
        m.h.flush()
        d.kill()
    checked = run("qemu-img", "check", path, check=False)
    equal(checked.returncode in (2, 3), True, "QEMU left it in disorder")
    with Daemon(tmp, "--blockdev", definition(path, read_only=True), "--export", "type=nbd,id=e,node-name=disk0,name=disk0") as d:
        equal(d.nbd().pread(SIZE, 0) == m.data, True)
    work(tmp, path, m.data, 2, 65536, definition(path), 60)


@test(needs=NEEDS)
def resizing(tmp):
    "after block_resize in both directions the grown part reads as zeroes"
    base = os.path.join(tmp, "base.raw")
    with open(base, "wb") as f:
        f.write(os.urandom(3 * M))
    for seed, (options, over) in enumerate((("", None), ("cluster_size=512", None), ("extended_l2=on", base), ("", base),
                                            ("cluster_size=512", base), ("compat=0.10", None))):
        path = create(os.path.join(tmp, "r%d" % seed), options, M, (over, "raw") if over else None)
        below = {"driver": "file", "filename": over, "read-only": True} if over else None
        rng, model = random.Random(seed), raw(path)
        for turn in range(4):
            with Daemon(tmp, "--blockdev", definition(path, backing=below)) as d:
                size = rng.randrange(1, 6 * M // 512) * 512
                d.qmp("block_resize", node_name="disk0", size=size)
                model = model[:size] + bytes(max(0, size - len(model)))
                d.qmp("block-export-add", type="nbd", id="e", node_name="disk0", name="disk0", writable=True)
                m = Model(d.nbd(), model, turn, 512 if "512" in options else 65536)
                equal(m.h.get_size(), size)
                m.whole()
                for _ in range(30):
                    m.step()
                m.whole()
                model = m.data
                m.h.shutdown()
                d.unexport("e")
            sound(path, model)


@test(needs=NEEDS)
def compressed(tmp):
    "the compress filter writes whole clusters and parts of them over any old content"
    for seed, (options, cluster) in enumerate((("", 65536), ("compression_type=zstd", 65536), ("cluster_size=4k", 4096),
                                               ("cluster_size=512,refcount_bits=1", 512), ("cluster_size=2M", 2 * M),
                                               ("extended_l2=on", 65536))):
        path = create(os.path.join(tmp, "z%d" % seed), options, SIZE)
        scribble(path, seed, SIZE, cluster, "extended" not in options)
        model = raw(path)
        below = definition(path, "below")
        for turn in range(2):
            with Daemon(tmp, "--blockdev", below, "--blockdev", "driver=compress,node-name=disk0,file=below,discard=unmap",
                        "--export", "type=nbd,id=e,node-name=disk0,name=disk0,writable=on") as d:
                m = Model(d.nbd(), model, seed + 100 * turn, cluster)
                for _ in range(100):
                    m.step()
                m.whole()
            sound(path, model)
        m = json.loads(run("qemu-img", "check", "--output=json", path).stdout)
        if "refcount_bits" not in options:
            equal(m["compressed-clusters"] > 0, True, m)
    with Daemon(tmp) as d:
        d.qmp("blockdev-add", driver="null-co", node_name="n")
        raises(QMPError, d.qmp, "blockdev-add", driver="compress", node_name="c", file="n",
               match="Compression is not supported")


main()
