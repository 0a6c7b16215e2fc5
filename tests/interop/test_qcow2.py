#!/usr/bin/python3
# SPDX-FileCopyrightText: 2026 The Tidemark authors
# SPDX-License-Identifier: GPL-2.0-or-later
# timeout: 300
"""qcow2 images made by qemu-img and qemu-io, read through us: the same bytes, whatever the image is made
of."""
import os
import random
import re
import struct


from harness import *
import nbd
from images import create, raw, scribble

NEEDS = ["qemu-img", "qemu-io"]
M = 1 << 20
SIZE = 12 * M + 3 * 512


def make(tmp, name, options="", size=SIZE, backing=None):
    return create(os.path.join(tmp, name + ".qcow2"), options, size, backing)


def blockdev(path, node="disk0", backing="null", **more):
    """--blockdev of an image. backing: JSON text."""
    return '{"driver": "qcow2", "node-name": "%s", "read-only": true, "file": {"driver": "file", "filename": "%s"}%s%s}' % (
        node, path, ', "backing": %s' % backing if backing else "",
        "".join(', "%s": %s' % (k.replace("_", "-"), v) for k, v in more.items()))


def serve(tmp, definition):
    return Daemon(tmp, "--blockdev", definition, "--export", "type=nbd,id=e,node-name=disk0,name=disk0")


def same(tmp, d, path, size=SIZE, image_opts=None):
    """What we serve is what qemu-img reads: all of it at once, and in odd pieces from several places."""
    expected = raw(path, image_opts)
    equal(len(expected), size)
    h = d.nbd(contexts=["base:allocation"])
    equal(h.get_size(), size)
    rng = random.Random(5)
    for _ in range(2):  # tables are not in memory at first
        got = b"".join(h.pread(min(M, size - at), at) for at in range(0, size, M))
        if got != expected:
            at = next(i for i in range(size) if got[i] != expected[i])
            fail("different from byte %d on" % at)
        for _ in range(100):
            at = rng.randrange(size)
            n = rng.randrange(1, min(200000, size - at) + 1)
            equal(h.pread(n, at) == expected[at:at + n], True, "%d bytes at %d" % (n, at))
    for at, n, flags in extents(h, "base:allocation"):
        if flags & 2:
            equal(expected[at:at + n].count(0), n, "zeroes at %d" % at)


@test(needs=NEEDS)
def every_kind(tmp):
    "images of every cluster size, version and feature have the same bytes as for QEMU"
    cases = [("compat=0.10", 65536), ("", 65536), ("cluster_size=512", 512), ("cluster_size=4096", 4096),
             ("cluster_size=2M", 2 * M), ("extended_l2=on", 65536), ("extended_l2=on,cluster_size=16k", 16384),
             ("extended_l2=on,cluster_size=2M", 2 * M), ("compression_type=zstd", 65536),
             ("compression_type=zstd,cluster_size=4096", 4096), ("lazy_refcounts=on", 65536),
             ("refcount_bits=1", 65536), ("refcount_bits=64", 65536), ("preallocation=metadata", 65536),
             ("preallocation=falloc,cluster_size=128k", 131072)]
    for seed, (options, cluster) in enumerate(cases):
        path = make(tmp, "i%d" % seed, options)
        scribble(path, seed, SIZE, cluster, compressed="extended" not in options)
        with serve(tmp, blockdev(path)) as d:
            same(tmp, d, path)
        os.unlink(path)


@test(needs=NEEDS)
def backing(tmp):
    "backing chains of raw and qcow2, longer and shorter ones, have the same bytes as for QEMU"
    base = os.path.join(tmp, "base.raw")
    with open(base, "wb") as f:
        f.write(os.urandom(7 * M + 123 * 512))
    middle = make(tmp, "middle", backing=(base, "raw"))
    scribble(middle, 1, SIZE, 65536)
    top = make(tmp, "top", "cluster_size=8k", size=20 * M, backing=(middle, "qcow2"))
    scribble(top, 2, 20 * M, 8192)
    short = make(tmp, "short", "extended_l2=on", size=3 * M, backing=(middle, "qcow2"))
    scribble(short, 3, 3 * M, 65536, compressed=False)
    below = '{"driver": "file", "filename": "%s"}' % base
    chain = blockdev(middle, "middle", below)
    for path, size in ((top, 20 * M), (short, 3 * M)):
        with serve(tmp, blockdev(path, backing=chain)) as d:
            same(tmp, d, path, size)
    with serve(tmp, blockdev(top, backing="null")) as d:
        h = d.nbd()
        h.pread(20 * M, 0)
    d = raises(Failure, serve, tmp, blockdev(top, backing=None, backing_names='"none"'))
    matches(str(d), "names the backing file '.*middle.qcow2' \\(qcow2\\): specify it with 'backing'")


@test(needs=NEEDS + ["qemu-storage-daemon"])
def extents_like_theirs(tmp):
    "base:allocation and qemu:allocation-depth of chains are qemu-storage-daemon's"
    base = os.path.join(tmp, "base.raw")
    with open(base, "wb") as f:
        f.truncate(9 * M + 512)
        f.write(os.urandom(3 * M))
        f.seek(5 * M)
        f.write(os.urandom(M))
    below = '{"driver": "raw", "file": {"driver": "file", "filename": "%s"}}' % base
    for seed, (options, cluster) in enumerate((("", 65536), ("extended_l2=on", 65536), ("cluster_size=4k", 4096),
                                               ("compat=0.10", 65536), ("cluster_size=2M", 2 * M))):
        middle = make(tmp, "middle%d" % seed, options, backing=(base, "raw"))
        scribble(middle, 1 + seed, SIZE, cluster, "extended" not in options)
        top = make(tmp, "top%d" % seed, "extended_l2=on" if seed % 2 else "", size=14 * M, backing=(middle, "qcow2"))
        scribble(top, 50 + seed, 14 * M, 65536, not seed % 2)
        said = []
        for binary, name in ((None, "t"), (QSD, "q")):
            definition = blockdev(top, backing=blockdev(middle, "middle", below))
            with Daemon(tmp, "--blockdev", definition, "--export",
                        "type=nbd,id=e,node-name=disk0,name=disk0,allocation-depth=on", binary=binary, name=name) as d:
                h = d.nbd(contexts=["base:allocation", "qemu:allocation-depth"])
                # QEMU tells zeroes in the sectors of a file's last block; we to the byte.
                said.append([extents(h, c) for c in ("qemu:allocation-depth", "base:allocation")])
        equal(said[0][0], said[1][0], "depth, " + options)
        equal(*([e for e in s[1] if e[2] & 1] for s in said), "holes, " + options)
        for at, n, flags in said[0][1]:  # we may know more zeroes, never fewer
            theirs = [f for a, m, f in said[1][1] if a < at + n and at < a + m]
            if not flags & 2:
                equal(all(not f & 2 for f in theirs), True, "zeroes at %d, %s" % (at, options))


@test(needs=NEEDS + ["qemu-storage-daemon"])
def extents_through_filters(tmp):
    "filters and raw show an image's holes and its depth as qemu-storage-daemon's do"
    base, top = make(tmp, "base", size=2 * M), make(tmp, "top", size=2 * M, backing=("base.qcow2", "qcow2"))
    for path, start in ((base, 0), (top, M)):
        done = ("write -P 1 %d 64k", "write -z %d 64k", "write -zu %d 64k", "write -P 1 %d 128k", "discard %d 64k")
        run("qemu-io", "-d", "unmap", *(w for i, what in enumerate(done)
                                        for w in ("-c", what % (start + (i * 128 << 10)))), path)
    above = [("throttled", "throttle,throttle-group=g,file=base"), ("debugged", "blkdebug,image=base"),
             ("rawed", "raw,file=base"), ("window", "raw,offset=65536,size=1048576,file=throttled"),
             ("throttled-chain", "throttle,throttle-group=g,file=top"), ("debugged-chain", "blkdebug,image=top"),
             ("two-filters", "blkdebug,image=throttled-chain"), ("raw-chain", "raw,file=throttled-chain")]
    said = []
    for binary, name in ((None, "t"), (QSD, "q")):
        with Daemon(tmp, "--object", "throttle-group,id=g", "--blockdev", blockdev(base, "base"),
                    "--blockdev", blockdev(top, "top", '"base"'),
                    *(w for node, what in above for w in ("--blockdev", what + ",read-only=on,node-name=" + node)),
                    binary=binary, name=name) as d:
            said.append({})
            for node, _ in above:
                d.qmp("block-export-add", {"type": "nbd", "id": node, "name": node, "node-name": node,
                                           "allocation-depth": True})
                h = d.nbd(node, ["base:allocation", "qemu:allocation-depth"])
                said[-1][node] = [extents(h, c) for c in ("base:allocation", "qemu:allocation-depth")]
                h.shutdown()
    ours, theirs = said
    # They call what raw shows of a backing image a hole that may be anything, at depth 0.
    status, depth = ours["throttled-chain"]
    equal(ours.pop("raw-chain"), [status, [(at, n, x + 1 if x > 1 else x) for at, n, x in depth]])
    for node in ours:
        equal(ours[node], theirs[node], node)


@test(needs=NEEDS)
def names(tmp):
    "backing-names says which paths named by images are followed"
    def named(name, backing, form="raw", directory=tmp):
        path = os.path.join(directory, name)
        run("qemu-img", "create", "-q", "-f", "qcow2", "-u", "-b", backing, *(["-F", form] if form else []), path, M,
            cwd=directory, check=False)
        return path

    os.mkdir(os.path.join(tmp, "sub"))
    for where in ("base", "sub/base"):
        with open(os.path.join(tmp, where), "wb") as f:
            f.write(os.urandom(M))
    named("middle", "base")
    top = named("top", "middle", "qcow2")
    with serve(tmp, blockdev(top, backing=None)) as d:
        same(tmp, d, top, M)
        nodes = {n["file"]: n for n in d.qmp("query-named-block-nodes")}
        equal(nodes[os.path.join(tmp, "base")]["ro"], True)
        equal(len(nodes), 3)
    for path in named("below", "sub/base"), named("absolute", os.path.join(tmp, "base")):
        with serve(tmp, blockdev(path, backing=None)) as d:
            same(tmp, d, path, M)
    far = named("far", "../base", directory=os.path.join(tmp, "sub"))
    for path in (far,):
        matches(str(raises(Failure, serve, tmp, blockdev(path, backing=None))), "own directory")
        with serve(tmp, blockdev(path, backing=None, backing_names='"any"')) as d:
            same(tmp, d, path, M)
    for backing, form, says in (("nbd:unix:/tmp/x", "raw", "connect to '/tmp/x'"), ("json:{}", "raw", "'file' is not an"),
                                ("base", "vmdk", "format 'vmdk'"), ("gone", "raw", "Could not open backing file.*gone"),
                                ("ring", "qcow2", "longer than 256 images")):
        path = named("ring", backing, form)
        matches(str(raises(Failure, serve, tmp, blockdev(path, backing=None, backing_names='"any"'))), says)
    first = open(named("n000", "n001", "qcow2"), "rb").read()
    for i in range(1, 256):  # 256 images, by one whose name is patched
        with open(os.path.join(tmp, "n%03d" % i), "wb") as f:
            f.write(first.replace(b"n001", b"n%03d" % (i + 1)))
    named("n255", os.path.join(tmp, "base"))
    with serve(tmp, blockdev(os.path.join(tmp, "n001"), backing=None, backing_names='"any"')) as d:
        equal(bytes(d.nbd().pread(M, 0)), open(os.path.join(tmp, "base"), "rb").read())
    equal(len(tidemark("image", "info", "--output=json", "--backing-chain", os.path.join(tmp, "n001")).stdout) > 0, True)
    matches(str(raises(Failure, serve, tmp, blockdev(os.path.join(tmp, "n000"), backing=None, backing_names='"any"'))),
            "longer than 256 images")
    matches(str(raises(Failure, tidemark, "image", "info", "--backing-chain", os.path.join(tmp, "n000"))),
            "more than 256 images")
    bad = bytearray(open(named("noformat", "base"), "rb").read())
    at = bad.index(struct.pack(">I", 0xe2792aca))
    struct.pack_into(">I", bad, at, 0x12345678)
    open(os.path.join(tmp, "noformat"), "wb").write(bad)
    matches(str(raises(Failure, serve, tmp, blockdev(os.path.join(tmp, "noformat"), backing=None, backing_names='"any"'))),
            "not its format")


def answers(d, path):
    """What the daemon says while an image is opened with what it names, opened anew and closed."""
    said = []

    def ask(command, *args, **more):
        try:
            said.append(d.qmp(command, *args, **more))
        except QMPError as e:
            said.append((e.cls, re.sub("Option '(driver|data-file)'", "Option", e.bare)))

    def nodes():
        found = d.qmp("query-named-block-nodes")
        for n in found:
            n["node-name"] = re.sub("#block.*", "#", n["node-name"])
            n.pop("active", None)  # of QEMU 10
            for which in n, n["image"]:  # QEMU's has the definition in it if that differs from the names in the image
                for key in {"file", "filename"} & which.keys():
                    which[key] = re.sub(r'^json:.*"filename": "([^"]*)".*', r"\1", which[key])
            n["image"]["virtual-size"] += -n["image"]["virtual-size"] % 512  # QEMU's are whole sectors
        said.extend(sorted(found, key=lambda n: (n["file"], n["drv"])))

    q = {"driver": "qcow2", "node-name": "q", "file": {"driver": "file", "filename": path}}
    for more in {}, {"read-only": True}, {"cache": {"direct": True}}, {"backing": None}:
        ask("blockdev-add", q, **more)
        nodes()
        ask("blockdev-reopen", options=[dict(q, **more)])
        ask("blockdev-reopen", options=[dict(q, backing=None, **{k: v for k, v in more.items() if k != "backing"})])
        nodes()
        ask("blockdev-reopen", options=[q])
        ask("blockdev-del", node_name="q")
        nodes()
    return said


@test(needs=NEEDS + ["qemu-storage-daemon"])
def names_like_theirs(tmp):
    "the nodes of the files that an image names are shown, reopened and removed as by qemu-storage-daemon"
    os.mkdir(os.path.join(tmp, "sub"))
    image(os.path.join(tmp, "base"), M)
    create(os.path.join(tmp, "sub", "mid"), "", M, ("../base", "raw"))
    run("qemu-img", "rebase", "-u", "-b", os.path.join(tmp, "base"), "-F", "raw", os.path.join(tmp, "sub", "mid"))
    os.link(os.path.join(tmp, "base"), os.path.join(tmp, "sub", "base"))
    run("qemu-img", "rebase", "-u", "-b", "base", "-F", "raw", os.path.join(tmp, "sub", "mid"))
    tops = [create(os.path.join(tmp, "relative"), "", M, ("sub/mid", "qcow2")),
            create(os.path.join(tmp, "absolute"), "", M, (os.path.join(tmp, "sub", "mid"), "qcow2")),
            create(os.path.join(tmp, "external"), "data_file=%s/d,data_file_raw=off" % tmp, M),
            create(os.path.join(tmp, "gone"), "", M, ("base", "raw"))]
    run("qemu-img", "rebase", "-u", "-b", "missing", "-F", "raw", tops[-1])
    for path in tops:
        said = []
        for binary in QSD, None:
            with Daemon(tmp, binary=binary, name="q" if binary else "t") as d:
                said.append(answers(d, path))
        for theirs, ours in zip(*said):
            equal(ours, theirs, path)


@test(needs=NEEDS + ["qemu-storage-daemon"])
def overlap_check(tmp):
    "overlap-check takes and refuses what qemu-storage-daemon does, as a word and as an object"
    path = create(os.path.join(tmp, "i"), "", M)
    flags = ("main-header", "active-l1", "active-l2", "refcount-table", "refcount-block", "snapshot-table", "inactive-l1",
             "inactive-l2", "bitmap-directory")
    values = ["all", "cached", "constant", "none", "bogus", {}, {"template": "all", "bitmap-directory": True},
              {"template": "bogus"}, {"bogus": True}, {"main-header": "on"}, 5, [], None, True,
              dict({f: True for f in flags}, template="none")]
    words = ["=all", ".template=all,overlap-check.main-header=off", ".active-l1=5", "=bogus", ".bogus=on",
             "=all,overlap-check.main-header=on"]
    said = []
    for binary in QSD, None:
        answers = []
        with Daemon(tmp, binary=binary, name="q" if binary else "t") as d:
            for value in values:
                try:
                    d.qmp("blockdev-add", {"driver": "qcow2", "node-name": "n", "overlap-check": value,
                                           "file": {"driver": "file", "filename": path}})
                    d.qmp("blockdev-del", node_name="n")
                    answers.append(None)
                except QMPError as e:
                    answers.append(e.bare)
        for number, word in enumerate(words):
            try:
                Daemon(tmp, "--blockdev", "driver=qcow2,node-name=n,file.driver=file,file.filename=%s,overlap-check%s"
                       % (path, word), binary=binary, name="%s%d" % ("w" if binary else "u", number)).stop()
                answers.append(None)
            except Failure as e:
                answers.append(re.search("Parameters? '[^\n]*", str(e)).group(0))
        # Ours say in full where the value is, and what is expected.
        said.append([a and re.sub("(?<=')overlap-check[.]|Qcow2OverlapChecks|string or object|: expected one of.*", "", a)
                     for a in answers])
    equal(*said)


@test(needs=NEEDS)
def data_file(tmp):
    "an image with an external data file is read, with and without data_file_raw"
    for raw in ("off", "on"):
        data = os.path.join(tmp, "data." + raw)
        path = make(tmp, "x" + raw, "data_file=%s,data_file_raw=%s" % (data, raw))
        scribble(path, 4, SIZE, 65536, compressed=False)
        with serve(tmp, blockdev(path, data_file='{"driver": "file", "filename": "%s"}' % data)) as d:
            same(tmp, d, path)
        with serve(tmp, blockdev(path)) as d:
            same(tmp, d, path)
        matches(str(raises(Failure, serve, tmp, blockdev(path, data_file="null"))), "'data-file' is required")


@test(needs=NEEDS)
def small_cache(tmp):
    "with a cache of one table many clients at once read the right data"
    path = make(tmp, "c", "cluster_size=512", size=4 * M)
    scribble(path, 9, 4 * M, 512)
    expected = raw(path)
    with serve(tmp, blockdev(path, l2_cache_size="1")) as d:
        def read(seed):
            h, rng = d.nbd(), random.Random(seed)
            for _ in range(200):
                at = rng.randrange(4 * M)
                n = rng.randrange(1, min(100000, 4 * M - at) + 1)
                equal(h.pread(n, at) == expected[at:at + n], True)

        in_threads(*(lambda s=s: read(s) for s in range(4)))


@test(needs=NEEDS)
def snapshots_and_bitmaps(tmp):
    "images with internal snapshots and with bitmaps are read as they are now"
    path = make(tmp, "s")
    scribble(path, 6, SIZE, 65536)
    run("qemu-img", "snapshot", "-c", "one", path)
    run("qemu-img", "bitmap", "--add", path, "b0")
    scribble(path, 7, SIZE, 65536)
    with serve(tmp, blockdev(path)) as d:
        same(tmp, d, path)


HEADER = {"magic": (0, ">I", 1), "version": (4, ">I", 9), "cluster bits": (20, ">I", 40),
          "cluster bits 0": (20, ">I", 0), "size": (24, ">Q", 1 << 63), "size for L1": (24, ">Q", 1 << 60),
          "crypt": (32, ">I", 2), "l1 size": (36, ">I", 0xffffffff), "l1 offset": (40, ">Q", 1 << 50),
          "l1 unaligned": (40, ">Q", 513), "incompatible": (72, ">Q", 1 << 40), "refcount order": (96, ">I", 9),
          "header length": (100, ">I", 8), "header length huge": (100, ">I", 0xfffffff8),
          "backing name": (8, ">Q", 1 << 40), "backing length": (16, ">I", 5000),
          "compression": (104, ">B", 9), "data file": (72, ">Q", 4), "extended": (20, ">I", 9)}


@test(needs=NEEDS)
def hostile(tmp):
    "an impossible field of the header is refused by name, and impossible tables are I/O errors"
    path = make(tmp, "h", size=M)
    scribble(path, 8, M, 65536)
    good = open(path, "rb").read()
    with Daemon(tmp) as d:
        def add(text):
            open(path, "wb").write(text)
            d.qmp("blockdev-add", json.loads(blockdev(path, "disk0")))

        for name, (at, form, value) in HEADER.items():
            bad = bytearray(good)
            struct.pack_into(form, bad, at, value)
            if name.startswith("backing"):
                struct.pack_into(">QI", bad, 8, *((1 << 40, 4) if "name" in name else (200, 5000)))
            if name == "extended":
                struct.pack_into(">Q", bad, 72, 16)
            e = raises(QMPError, add, bytes(bad), match="(?i)qcow2|L1|cluster|data-file|Reference|Image")
            equal("\n" in str(e), False, name)
        for n in (0, 3, 71, 100, 65535):
            raises(QMPError, add, good[:n])
        l1 = struct.unpack_from(">Q", good, 40)[0]
        bad = bytearray(good)
        struct.pack_into(">Q", bad, l1, 12345 << 9 | 512)
        raises(QMPError, add, bytes(bad), match="L2 table 0 is at")
        l2 = struct.unpack_from(">Q", good, l1)[0] & 0x00fffffffffffe00
        rng = random.Random(1)
        for turn in range(60):
            bad = bytearray(good)
            for i in range(16):
                struct.pack_into(">Q", bad, l2 + 8 * i, rng.choice((
                    rng.getrandbits(64), 1 << 62 | rng.getrandbits(62), rng.getrandbits(40) << 16, 1 << 63 | 3 << 16)))
            add(bytes(bad))
            d.qmp("block-export-add", type="nbd", id="e", node_name="disk0", name="disk0")
            h = d.nbd(contexts=["base:allocation"])
            for i in range(16):
                try:
                    h.pread(65536, i * 65536)
                except nbd.Error as e:
                    equal(e.errno, "EIO")
            try:
                h.block_status(M, 0, lambda *_: 0)
            except nbd.Error:
                pass
            h.shutdown()
            d.unexport("e")
            d.qmp("blockdev-del", node_name="disk0")


main()
