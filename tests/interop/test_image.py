#!/usr/bin/python3
# SPDX-FileCopyrightText: 2026 The Tidemark authors
# SPDX-License-Identifier: GPL-2.0-or-later
# timeout: 300
"""`tidemark image` beside qemu-img, on the same images: the same JSON, exit statuses and results."""
import contextlib
import functools
import json
import os
import subprocess
import sys
import tempfile

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), os.pardir, "func"))
from harness import *

KIB, MIB = 1 << 10, 1 << 20

# What images are made of, and what is done in them with qemu-io. {b} is a backing file, {d} a data file.
OPTIONS = ["", "compat=0.10", "cluster_size=512", "cluster_size=2M", "extended_l2=on", "refcount_bits=1",
           "refcount_bits=64", "compression_type=zstd", "lazy_refcounts=on", "preallocation=metadata",
           "preallocation=falloc", "preallocation=full", "data_file={d}", "data_file={d},data_file_raw=on",
           "backing_file={b},backing_fmt=qcow2", "backing_file={b},backing_fmt=qcow2,extended_l2=on",
           "backing_file={r},backing_fmt=raw", "compat=0.10,backing_file={b},backing_fmt=qcow2"]
CONTENT = ["write 0 300k", "write -z 1M 200k", "discard 64k 64k", "write 3M 64k", "write -z -u 3M 32k",
           "write 5000k 3"]
WITHOUT_COMPRESSED = ["data_file", "=2M", "=512", "preallocation"]
COMPRESSED = ["write -c 2M 64k", "write -c 2176k 64k"]


def qemu_img(*args, check=True):
    return run("qemu-img", *args, check=check)


def ours(*args, check=True):
    return tidemark("image", *args, check=check)


@contextlib.contextmanager
def qemu_nbd(socket, path):
    "The bytes of @path as the export e, to be read."
    server = subprocess.Popen(["qemu-nbd", "-f", "raw", "-r", "-t", "-x", "e", "-e", "4", "-k", os.path.abspath(socket),
                               path])
    try:
        wait_until(lambda: listens(os.path.abspath(socket)), "qemu-nbd")
        yield
    finally:
        server.terminate()
        server.wait()


def qemu_io(path, *commands):
    run("qemu-io", "-f", "qcow2", *[x for c in commands for x in ("-c", c)], path)


@contextlib.contextmanager
def inside(tmp):
    """Names of images are relative to where we are, as users have them."""
    before = os.getcwd()
    os.chdir(tmp)
    try:
        yield
    finally:
        os.chdir(before)


@functools.cache
def templates():
    """A directory of images, made once; and their options and names."""
    at, made = tempfile.mkdtemp(), []
    with inside(at):
        qemu_img("create", "-q", "-f", "qcow2", "base", "5M")
        qemu_io("base", "write 512k 1M", "write 2200k 100k", "write -z 4M 128k", "write -c 4608k 64k")
        image("raw", 4 * MIB, [(256 * KIB, b"x" * MIB)])
        for number, options in enumerate(OPTIONS):
            path = "i%d" % number
            options = options.format(b="base", r="raw", d="d%d" % number)
            qemu_img("create", "-q", "-f", "qcow2", *(["-o", options] if options else []), path, "8M")
            qemu_io(path, *CONTENT, *([] if any(o in options for o in WITHOUT_COMPRESSED) else COMPRESSED))
            made.append((options, path))
    return at, made


def images():
    """Copies them to here; their options and names."""
    at, made = templates()
    run("cp", "-r", "--sparse=always", at + "/.", ".")
    run("sync", *os.listdir("."))  # the space that they take does not change any more
    return made


@test(needs=["qemu-img", "qemu-io"])
def maps(tmp):
    "image map --json is qemu-img map's, for images of every kind"
    with inside(tmp):
        for options, path in images() + [("raw", "raw"), ("base", "base")]:
            for more in ([], ["--start-offset=100000", "--max-length=3000000"]):
                equal(json.loads(ours("map", "--output=json", *more, path).stdout),
                      json.loads(qemu_img("map", "--output=json", *more, path).stdout),
                      "%s %s" % (options, more))


def info(path):
    """What qemu-img says of it, but for the space that it takes and its own name."""
    facts = json.loads(qemu_img("info", "--output=json", path).stdout)
    facts["filename"] = facts["filename"].replace(".qemu", "")
    del facts["actual-size"]
    data = facts.get("format-specific", {}).get("data", {})
    if "data-file" in data:
        data["data-file"] = data["data-file"].replace(".qemu", "")
    return facts


@test(needs=["qemu-img", "qemu-io"])
def facts(tmp):
    "image info and image check print qemu-img's JSON, for images of every kind"
    with inside(tmp):
        for options, path in images() + [("base", "base"), ("raw", "raw")]:
            if path == "base":
                for args in (["b0"], ["-g", "4k", "b1"], ["--disable", "b2"]):
                    qemu_img("bitmap", "--add", *args[:-1], path, args[-1])
                qemu_img("snapshot", "-c", "snap", path)
            for command in (["info"], ["info", "--backing-chain"], ["info", "-U"], ["check"]):
                got, expected = (c(*command, "--output=json", path, check=False) for c in (ours, qemu_img))
                equal(got.returncode, expected.returncode, "%s %s" % (command, options) + got.stderr)
                if expected.stdout or got.stdout:
                    equal(json.loads(got.stdout), json.loads(expected.stdout),
                          "%s %s" % (command, options))
            ours(command[0], path, check=False)


def damage(path, offset, data):
    with open(path, "r+b") as f:
        f.seek(offset)
        f.write(data)


def u64(path, offset):
    with open(path, "rb") as f:
        f.seek(offset)
        return int.from_bytes(f.read(8), "big")


@test(needs=["qemu-img", "qemu-io"])
def checking(tmp):
    "image check finds, repairs and exits as qemu-img check does"
    with inside(tmp):
        qemu_img("create", "-q", "-f", "qcow2", "good", "8M")
        qemu_io("good", "write 0 1M", "write 4M 64k")
        l2 = u64("good", u64("good", 40)) & ~(1 << 63)
        block = u64("good", u64("good", 48))
        kinds = {
            "sound": [],
            "leak": [(block + 2 * 30, b"\0\1")],
            "leaks": [(block + 2 * 30, b"\0\1" * 50)],
            "refcount": [(block + 2 * 8, b"\0\0")],
            "too often": [(block + 2 * 8, b"\0\2")],
            "copied": [(l2 + 8, (u64("good", l2 + 8) & ~(1 << 63)).to_bytes(8, "big"))],
            "twice": [(l2 + 8, u64("good", l2).to_bytes(8, "big"))],
            "crooked": [(l2 + 8, (u64("good", l2 + 8) | 512).to_bytes(8, "big"))],
            "both": [(block + 2 * 30, b"\0\1"), (block + 2 * 8, b"\0\0")],
            "header": [(4, b"\0\0\0\7")],
        }
        for kind, places in kinds.items():
            for repair in ([], ["-r", "leaks"], ["-r", "all"]):
                results = []
                for check in (ours, qemu_img):
                    run("cp", "--sparse=always", "good", "i")
                    for place in places:
                        damage("i", *place)
                    p = check("check", *repair, "--output=json", "i", check=False)
                    found = json.loads(p.stdout) if p.stdout else {}
                    results.append([p.returncode, {k: v for k, v in found.items() if k in (
                        "leaks", "corruptions", "leaks-fixed", "corruptions-fixed", "check-errors",
                        "allocated-clusters", "filename", "format")}])
                    again = qemu_img("check", "-q", "i", check=False).returncode
                    results[-1].append(again)
                if kind != "header" and results[1][0] == 1:  # it gives up where refcounts are missing
                    equal((results[0][0], results[0][2]), (2, 2), kind)
                    continue
                equal(results[0], results[1], "%s %s" % (kind, repair))
        for args in (["raw.img"], ["none"], ["i", "-r", "some"], ["i", "-f", "raw"], ["i", "-x"]):
            image("raw.img", MIB)
            equal(ours("check", *args, check=False).returncode,
                  qemu_img("check", *args, check=False).returncode, str(args))


@test(needs=["qemu-img"])
def creating(tmp):
    "image create makes the same images as qemu-img create"
    with inside(tmp):
        qemu_img("create", "-q", "-f", "qcow2", "b", "5M")
        image("r", 4 * MIB)
        sizes = [["1G"], ["1000"], ["0"], ["1.5M"], ["7T"]]
        for number, options in enumerate(OPTIONS):
            args = ["-o", options] if options else []
            size = sizes[number % len(sizes)] if "preallocation" not in options else ["4M"]
            if "data_file_raw" in options or "=512" in options:
                size = ["4M"]
            for words in (size, []) if "backing" in options else (size,):
                for create, path in ((qemu_img, "i.qemu"), (ours, "i")):
                    these = [a.format(b="b", r="r", d="d" + path[1:]) for a in args]
                    create("create", "-q", "-f", "qcow2", *these, path, *words)
                equal(info("i"), info("i.qemu"), "%s %s" % (options, words))
                qemu_img("check", "-q", "i")
                equal([[e[k] for k in ("start", "length", "depth", "present", "zero", "data")]
                       for e in json.loads(qemu_img("map", "--output=json", "i").stdout)],
                      [[e[k] for k in ("start", "length", "depth", "present", "zero", "data")]
                       for e in json.loads(qemu_img("map", "--output=json", "i.qemu").stdout)], options)
        for args in (["r2", "1"], ["r2", "1M"], ["-f", "raw", "-o", "preallocation=full", "r2", "1M"]):
            for create, path in ((qemu_img, "r2.qemu"), (ours, "r2")):
                create("create", "-q", *[path if a == "r2" else a for a in args])
            equal(info("r2"), info("r2.qemu"), str(args))
        for args in (["x"], ["x", "abc"], ["x", "1M", "2M"], ["-f", "no", "x", "1M"], ["x", "9E"],
                     ["-f", "qcow2", "-b", "b", "x"], ["-f", "qcow2", "-b", "none", "-F", "raw", "x"],
                     ["-f", "qcow2", "-b", "r", "-F", "qcow2", "x"], ["-b", "b", "-F", "qcow2", "x", "1M"],
                     ["-f", "qcow2", "-u", "-b", "none", "-F", "raw", "x"],
                     ["-f", "qcow2", "-o", "no=1", "x", "1M"], ["-f", "qcow2", "-o", "compat=v4", "x", "1M"],
                     ["-f", "qcow2", "-o", "cluster_size=3000", "x", "1M"],
                     ["-f", "qcow2", "-o", "refcount_bits=3", "x", "1M"],
                     ["-f", "qcow2", "-o", "extended_l2=maybe", "x", "1M"],
                     ["-f", "qcow2", "-o", "preallocation=some", "x", "1M"],
                     ["-f", "qcow2", "-o", "data_file_raw=on", "x", "1M"],
                     ["-f", "qcow2", "-o", "lazy_refcounts=on,compat=v2", "x", "1M"]):
            for create in (qemu_img, ours):
                p = create("create", "-q", *args, check=False)
                equal((p.returncode != 0, bool(p.stderr)), (True, True), "%s %s" % (create, args))
                if create is ours:
                    equal(os.path.exists("x"), False, str(args))
                elif os.path.exists("x"):
                    os.unlink("x")


def image_bitmaps(path):
    data = json.loads(qemu_img("info", "--output=json", path).stdout)["format-specific"]["data"]
    return data.get("bitmaps", [])


def digests(tmp, path, names):
    """Of the contents, as QEMU sees them."""
    with Daemon(tmp, "--blockdev", "driver=qcow2,node-name=q,read-only=on,file.driver=file,file.filename=" + path,
                binary=QSD, name="q", nbd=False) as d:
        return {n: d.qmp("x-debug-block-dirty-bitmap-sha256", node="q", name=n)["sha256"] for n in names}


@test(needs=["qemu-img", "qemu-io", "qemu-storage-daemon"])
def bitmaps(tmp):
    "image bitmap changes qcow2 images as qemu-img bitmap does, and QEMU goes on with the result"
    with inside(tmp):
        qemu_img("create", "-q", "-f", "qcow2", "base", "8M")
        qemu_img("bitmap", "--add", "-g", "64k", "base", "old")
        qemu_io("base", "write 1M 100k", "write 5M 64k")
        qemu_img("create", "-q", "-f", "qcow2", "other", "8M")
        qemu_img("bitmap", "--add", "-g", "4k", "other", "theirs")
        qemu_io("other", "write 3M 5k")
        for path in ("i", "i.qemu"):
            run("cp", "base", path)
        for args in (["--add"], ["--add", "b"], ["--add", "b"], ["--add", "--disable", "-g", "1k", "c"],
                     ["--merge", "old", "b"], ["--clear", "old"], ["--merge", "b", "--enable", "c"],
                     ["--disable", "b"], ["--merge", "theirs", "-b", "other", "-F", "qcow2", "old"],
                     ["--remove", "none"], ["--merge", "none", "b"], ["--add", "-g", "1000", "d"],
                     ["--add", "-g", "4G", "d"], ["--remove", "c"], ["--clear", "c"],
                     ["--add", "--merge", "b", "d"], ["--remove", "b"], ["--add", "b" * 1023],
                     ["--add", "b" * 1024], ["--remove", "b" * 1023]):
            status = []
            for bitmap, path in ((ours, "i"), (qemu_img, "i.qemu")):
                p = bitmap("bitmap", *args[:-1], "-f", "qcow2", path, args[-1], check=False)
                status.append(p.returncode != 0)
            equal(status[0], status[1], str(args))
            found, expected = (sorted(image_bitmaps(p), key=lambda b: b["name"]) for p in ("i", "i.qemu"))
            equal(found, expected, str(args))
            names = [b["name"] for b in found]
            equal(digests(tmp, "i", names), digests(tmp, "i.qemu", names), str(args))
            qemu_img("check", "-q", "i")
            equal(os.path.exists("i.bitmaps"), False, str(args))


@test(needs=["qemu-img", "qemu-io"])
def resizing(tmp):
    "images grown and shrunk by image resize are sound and equal for qemu-img"
    with inside(tmp):
        for options, path in images():
            if "compat=0.10" in options and "backing" in options:
                continue  # version 2 has no clusters of zeroes to hide the backing file with
            resize(options, path)


@test(needs=["qemu-img"])
def preallocation(tmp):
    "preallocation gives the added part its space at once"
    with inside(tmp):
        for mode in ("metadata", "falloc", "full"):
            qemu_img("create", "-q", "-f", "qcow2", "i", "1M")
            ours("resize", "--preallocation", mode, "i", "5M")
            qemu_img("check", "-q", "i")
            equal([e["present"] for e in json.loads(qemu_img("map", "--output=json", "i").stdout)],
                  [False, True], mode)
        image("r", MIB)
        for resize in (ours, qemu_img):
            equal(resize("resize", "-f", "raw", "--preallocation=metadata", "r", "2M",
                         check=False).returncode, 1)


def resize(options, path):
    copy = path + ".qemu"
    run("cp", "--sparse=always", path, copy)
    for size in ("+8M", "-14M", "+1M"):
        shrink = ["--shrink"] if size[0] == "-" else []
        p = ours("resize", *shrink, path, size, check=False)
        equal(p.returncode, 0, options + p.stderr)
        if "data_file" not in options:  # the copy would have the same data file
            qemu_img("resize", "-q", *shrink, copy, size)
            run("qemu-img", "compare", "-f", "qcow2", "-F", "qcow2", path, copy)
        equal(qemu_img("check", "-q", path, check=False).returncode, 0, options)


@test(needs=["qemu-img"])
def statuses(tmp):
    "mistakes end with qemu-img's exit status"
    with inside(tmp):
        image("r", MIB)
        qemu_img("create", "-q", "-f", "qcow2", "q", "1M")
        image("cut", 100, [(0, b"QFI\xfb\0\0\0\3")])
        for args in (["map", "none"], ["map", "-f", "qcow2", "r"], ["map", "cut"], ["resize", "q", "512k"],
                     ["resize", "q", "x"], ["resize", "q", "-2M"], ["resize", "none", "1M"],
                     ["bitmap", "--remove", "q", "b"], ["bitmap", "--merge", "a", "q", "b"],
                     ["resize", "--shrink", "q", "0"], ["resize", "--shrink", "r", "0"],
                     ["create", "-q", "-f", "qcow2", "-b", "", "-F", "raw", "o", "1M"],
                     ["create", "-q", "-f", "qcow2", "-o", "backing_file=", "-F", "raw", "o", "1M"],
                     ["map", "q"], ["map", "-U", "r"], ["resize", "q", "+1M"], ["resize", "r", "+512"]):
            got, expected = ours(*args, check=False), qemu_img(*args, check=False)
            equal(got.returncode != 0, expected.returncode != 0, "%s %s" % (args, got.stderr))
            equal(bool(got.stderr), got.returncode != 0, str(args))
        with open("q", "r+b") as f:  # there is no such refcount block: the check can't be completed
            f.seek(0x10000)
            f.write(bytes([0, 0, 0, 0, 0, 2, 0x2a, 0]))
        equal([run_("check", "q", check=False).returncode for run_ in (qemu_img, ours)], [1, 1])


@test(needs=["qemu-img", "qemu-storage-daemon"])
def in_use(tmp):
    "an image that QEMU has open is read with --force-share only, and not changed, as by qemu-img"
    with inside(tmp):
        qemu_img("create", "-q", "-f", "qcow2", "q", "1M")
        image("r", MIB)
        with Daemon(tmp, "--blockdev", "driver=qcow2,node-name=q,file.driver=file,file.filename=q",
                    "--blockdev", "driver=file,node-name=r,filename=r",
                    *[a for n in "qr" for a in ("--export", "type=nbd,id=%s,node-name=%s,writable=on" % (n, n))],
                    binary=QSD):
            for args in (["info", "q"], ["info", "r"], ["map", "q"], ["map", "r"], ["check", "q"],
                         ["info", "-U", "q"], ["map", "-U", "r"], ["map", "-U", "q"],
                         ["resize", "q", "2M"], ["resize", "r", "2M"], ["check", "-r", "all", "q"],
                         ["bitmap", "--add", "q", "b"], ["create", "r", "1M"],
                         ["create", "-f", "qcow2", "q", "1M"]):
                got, expected = (c(*args, check=False).returncode != 0 for c in (ours, qemu_img))
                equal(got, expected, str(args))


def extensions(path):
    """The header's, but for the end."""
    with open(path, "rb") as f:
        head = f.read(65536)
    at, found = int.from_bytes(head[100:104], "big"), []
    while kind := int.from_bytes(head[at:at + 4], "big"):
        size = int.from_bytes(head[at + 4:at + 8], "big")
        found.append((kind, head[at + 8:at + 8 + size]))
        at += 8 + (size + 7) // 8 * 8
    return found


def set_extensions(path, found):
    """And moves the backing file's name out of their way."""
    with open(path, "r+b") as f:
        head = f.read(65536)
        name, size = int.from_bytes(head[8:16], "big"), int.from_bytes(head[16:20], "big")
        if name:
            f.seek(4096)
            f.write(head[name:name + size])
            f.seek(8)
            f.write((4096).to_bytes(8, "big"))
        f.seek(int.from_bytes(head[100:104], "big"))
        for kind, body in found + [(0, b"")]:
            f.write(kind.to_bytes(4, "big") + len(body).to_bytes(4, "big") + body + bytes(-len(body) % 8))


FORMAT, FEATURES, BITMAPS, DATA_FILE = 0xe2792aca, 0x6803f857, 0x23852875, 0x44415441


def features(*names):
    return FEATURES, b"".join(bytes([0, bit]) + name.encode().ljust(46, b"\0") for bit, name in names)


@test(needs=["qemu-img", "qemu-io"])
def unsound(tmp):
    "images that can't be opened, or only in part, have qemu-img's exit statuses, and every unknown feature is named"
    def change(what):
        return lambda: set_extensions("x", [e for e in map(what, extensions("x")) if e])

    def fields(*values):
        return lambda: [damage("x", at, value.to_bytes(size, "big")) for at, size, value in values]

    def add(*more, first=()):
        return lambda: set_extensions("x", list(first) + extensions("x") + list(more))

    unknown = 1 << 20 | 1 << 33 | 1 << 60
    cases = {  # how it is made, what befalls it, whether we are stricter
        "sound": ([], lambda: None, ()),
        "L1 beyond the end": ([], fields((40, 8, 1 << 40)), ("map",)),
        "L1 unaligned": ([], fields((40, 8, 0x30001)), ()),
        "L1 too large": ([], fields((36, 4, 0x7fffffff)), ()),
        "L1 too small": ([], fields((36, 4, 0)), ()),
        "L1 at 0": ([], fields((40, 8, 0)), ()),
        "no refcount table": ([], fields((56, 4, 0)), ()),
        "refcount table empty": ([], lambda: damage("x", 65536, bytes(65536)), ()),
        "snapshots beyond the end": (["snapshot"], fields((64, 8, 1 << 40)), ()),
        "one snapshot too many": (["snapshot"], fields((60, 4, 2)), ()),
        "cut short": ([], lambda: os.truncate("x", 70000), ("map",)),
        "unknown feature": ([], fields((72, 8, 1 << 20)), ()),
        "unknown features": ([], fields((72, 8, unknown)), ()),
        "two of three named": ([], lambda: (fields((72, 8, unknown))(),
                                            set_extensions("x", [features((20, "twenty"), (60, "sixty"))])), ()),
        "two tables of names": ([], lambda: (fields((72, 8, 3 << 20))(), set_extensions(
            "x", [features((20, "first")), features((21, "second"))])), ()),
        "two backing formats": (["-b", "base", "-F", "raw"], add((FORMAT, b"qcow2")), ()),
        "two backing formats, the last right": (["-b", "base", "-F", "raw"], add(first=[(FORMAT, b"qcow2")]), ()),
        "backing format too long": (["-b", "base", "-F", "raw"], add((FORMAT, b"r" * 16)), ()),
        "backing file gone": (["-u", "-b", "gone", "-F", "raw"], lambda: None, ()),
        "two names of data files": (["-o", "data_file=d"], add((DATA_FILE, b"e")), ()),
        "data file gone": (["-o", "data_file=d"], lambda: os.unlink("d"), ()),
        "data file without a name": (["-o", "data_file=d"], change(lambda e: e if e[0] != DATA_FILE else None), ()),
        "bitmaps cut short": (["bitmap"], change(lambda e: e if e[0] != BITMAPS else (BITMAPS, e[1][:16])), ()),
        "two bitmaps extensions": (["bitmap"], add((BITMAPS, bytes(24))), ()),
        "end of extensions too long": ([], lambda: damage("x", 116 + sum(
            8 + (len(data) + 7) // 8 * 8 for _, data in extensions("x")), b"\xff\xff\xff\xff"), ()),
        "encrypted": ([], fields((32, 4, 9)), ()),
        "name of the backing file in Latin-1": (["-b", os.fsdecode(b"caf\xe9"), "-F", "raw"], lambda: None, ()),
    }
    with inside(tmp):
        image("base", MIB)
        image(b"caf\xe9", MIB)
        for name, (options, befall, stricter) in cases.items():
            more = {"bitmap", "snapshot"}.intersection(options)
            qemu_img("create", "-q", "-f", "qcow2", *(o for o in options if o not in more), "x", "64M")
            if options[:1] != ["-u"]:
                qemu_io("x", "write 0 1M")
            if "bitmap" in more:
                qemu_img("bitmap", "--add", "x", "b")
            if "snapshot" in more:
                qemu_img("snapshot", "-c", "s", "x")
            befall()
            for command in ["check"], ["check", "--output=json"], ["info"], ["info", "--output=json"], ["map"]:
                mine, theirs = (c(*command, "x", check=False) for c in (ours, qemu_img))
                if command[0] not in stricter:
                    equal(mine.returncode, theirs.returncode, "%s: %s\n%s" % (name, command, mine.stderr))
                if "feature(s)" in theirs.stderr:
                    equal(mine.stderr[mine.stderr.index("Unsupp"):], theirs.stderr[theirs.stderr.index("Unsupp"):])
                if "json" in command[-1] and theirs.stdout and (command[0] == "info" or not theirs.returncode):
                    equal(json.loads(mine.stdout), json.loads(theirs.stdout), name)


@test(needs=["qemu-img", "qemu-io"])
def empty(tmp):
    "an image of no bytes, and a range of none, are mapped as by qemu-img; a missing refcount table is made anew"
    with inside(tmp):
        qemu_img("create", "-q", "-f", "qcow2", "none", "0")
        qemu_img("create", "-q", "-f", "qcow2", "x", "64M")
        qemu_io("x", "write -P 5 0 1M")
        for command in ["map", "none"], ["map", "--output=json", "none"], ["map", "--output=json", "-s", "1G", "x"]:
            mine, theirs = (c(*command) for c in (ours, qemu_img))
            if "--output=json" in command:
                equal(json.loads(mine.stdout), json.loads(theirs.stdout))
        damage("x", 56, bytes(4))
        equal(ours("check", "-r", "leaks", "x", check=False).returncode, 2)
        equal(ours("check", "-r", "all", "x").returncode, 0)
        qemu_img("check", "-q", "x")
        qemu_io("x", "read -P 5 0 1M")
        equal(ours("info", "x").returncode, 0)


@test(needs=["qemu-img"])
def sizes(tmp):
    "sizes are read as by qemu-img"
    with inside(tmp):
        for size in ("1024.0", "3.0", "3.5", "1.5k", "1024.0b", "5.", "5.k", "0.5k", "1.5b", ".5k", "1..5k", "1.5kk",
                     "0x100", "7.25M", "1e3", "12X", "-1", ""):
            said = []
            for command in ours, qemu_img:
                if os.path.exists("x"):
                    os.unlink("x")
                status = command("create", "-q", "x", size, check=False).returncode
                said.append((status, os.path.exists("x") and os.stat("x").st_size))
            equal(*said, size)


@test(needs=["qemu-img"])
def foreign(tmp):
    "images of unsupported formats are not taken for raw ones unless -f raw is given"
    with inside(tmp):
        for format in ("vmdk", "vdi", "qed", "vhdx", "qcow"):
            qemu_img("create", "-q", "-f", format, "x", "1M")
            matches(ours("info", "x", check=False).stderr, "'x' is a %s image, .* --format raw" % format)
            equal(ours("info", "-f", "raw", "x").returncode, 0)


@test(needs=["qemu-img"])
def chains(tmp):
    "names in images are followed beside the image and below, by the recorded format, and never in circles"
    with inside(tmp):
        image("raw", MIB, [(0, b"QFI\xfb\0\0\0\3" + bytes(500))])  # a guest that would like to be qcow2
        qemu_img("create", "-q", "-f", "qcow2", "-b", "raw", "-F", "raw", "top")
        equal(json.loads(ours("map", "--json", "--backing-names=none", "top").stdout),
              [{"start": 0, "length": MIB, "depth": 0, "present": False, "zero": False, "data": False}])
        equal(json.loads(ours("map", "--json", "top").stdout),
              json.loads(qemu_img("map", "--output=json", "top").stdout))
        qemu_img("rebase", "-u", "-b", "top", "-F", "qcow2", "top")
        matches(ours("map", "top", check=False).stderr, "is a loop: 'top' comes again")
        qemu_img("rebase", "-u", "-b", "nbd://localhost/x", "-F", "raw", "top")
        matches(ours("map", "top", check=False).stderr, "is not a path: use --backing-names any")
        qemu_img("rebase", "-u", "-b", 'json:{"driver":"null-co"}', "-F", "raw", "top")
        matches(ours("map", "top", check=False).stderr, "is not a path: use --backing-names any")
        qemu_img("rebase", "-u", "-b", "raw", "-F", "raw", "top")
        os.mkdir("sub")
        os.rename("top", "sub/top")
        matches(ours("map", "sub/top", check=False).stderr, "'sub/raw': No such file")
        os.rename("raw", "sub/raw")
        equal(len(json.loads(ours("map", "--json", "sub/top").stdout)), 2)


@test(needs=["qemu-img", "qemu-io", "qemu-nbd"])
def described(tmp):
    "with --backing-names=any, names that describe a file or an export are opened as by qemu-img, and no other ones"
    def answers(*args):
        mine = ours(args[0], "--backing-names=any", *args[1:], "x", check=False)
        theirs = qemu_img(*args, "x", check=False)
        return mine, theirs

    def as_json(done):
        return [{k: v for k, v in image.items() if k != "dirty-flag"} for image in json.loads(done.stdout)]

    def names():
        def in_file(driver, path, **more):
            return dict(driver=driver, file={"driver": "file", "filename": path}, **more)

        def nbd(**more):
            return {"driver": "raw", "file": dict(driver="nbd", export="e", **more)}

        for name in (in_file("raw", "raw0"), in_file("qcow2", "base", backing=None),
                     in_file("raw", "raw0", offset=65536, size=65536), {"driver": "qcow2", "file.filename": "base"},
                     nbd(server={"type": "unix", "path": "s"}), nbd(path="s")):
            yield "json:" + json.dumps(name), name["driver"]
        yield 'json:{"file.driver":"file","file":{"filename":"base"}}', "qcow2"
        yield 'json:{"file.driver":"nbd","file":{"path":"s","export":"e"}}', "raw"
        yield "file:raw0", "raw"
        yield "nbd:unix:s:exportname=e", "raw"
        yield "nbd+unix:///e?socket=s", "raw"
        yield "nbd+unix:///e?socket=t", "qcow2"

    refused = {"http://localhost/x": "protocol 'http' is not supported", "nbds://localhost/x": "protocol 'nbds'",
               "nbd:x": "is not nbd:HOST:PORT", "nbd+unix:///e": "is not nbd.unix:///EXPORT.socket=PATH",
               "nbd://h/e?tls=1": "parameters other than 'socket'", "json:[1]": "not a JSON object",
               "json:{": "not a JSON object", "json:" + "[" * 900: "not a JSON object",
               'json:{"file":"node"}': "'file' is not an object", 'json:{"driver":"null-co"}': "'file' is not an object",
               'json:{"file.driver":"null-co"}': "driver 'null-co' is not taken",
               'json:{"file":{"driver":"file","filename":"base","locking":"off"}}': "'locking' is not taken",
               'json:{"read-only":false,"file.filename":"base"}': "'read-only' is not taken",
               'json:{"backing":{},"file.filename":"base"}': "'backing' is not null",
               'json:{"file":1,"file.filename":"base"}': "'file.filename' contradicts",
               'json:{"file":{"driver":"nbd","path":null}}': "'path' is not a string",
               'json:{"file":{"driver":"nbd","host":null}}': "'host' is not a string",
               'json:{"file":{"driver":"nbd","host":"h","port":[1]}}': "'port' is not a string",
               'json:{"file":{"driver":"nbd","path":"s","export":["e"]}}': "'export' is not a string",
               'json:{"file":{"driver":"file","filename":{}}}': "'filename' is not a string",
               'json:{"file":{"driver":["file"],"filename":"base"}}': "'driver' is not a string",
               'json:{".":1,"file.filename":"base"}': r"'\.' is not taken",
               'json:{"file":{"filename":"base","a..":1}}': r"'a\.\.' is not taken",
               "nbd://user:secret@localhost/e": "user information in URIs is not supported",
               "nbd+unix://user@/e?socket=s": "user information in URIs is not supported"}
    with inside(tmp), contextlib.ExitStack() as stack:
        image("raw0", MIB, [(0, b"r" * 65536)])
        qemu_img("create", "-q", "-f", "qcow2", "base", "1M")
        qemu_io("base", "write -P 6 64k 64k")
        for socket, path in ("s", "raw0"), ("t", "base"):
            stack.enter_context(qemu_nbd(socket, path))
        for name, format in names():
            qemu_img("create", "-q", "-u", "-f", "qcow2", "-b", name, "-F", format, "x", "1M")
            mine, theirs = answers("map", "--output=json")
            equal((mine.returncode, json.loads(mine.stdout)), (0, json.loads(theirs.stdout)), name)
            mine, theirs = (as_json(a) for a in answers("info", "--output=json", "--backing-chain"))
            equal(mine[0], theirs[0])
            equal(len(mine), 2)
            if "offset" not in name:
                equal(mine[1], theirs[1], name)
            matches(ours("map", "x", check=False).stderr, "is not a path: use --backing-names any")
            equal(ours("create", "-q", "-f", "qcow2", "-b", name, "-F", format, "y").returncode, 0)
            equal(json.loads(ours("info", "--json", "y").stdout)["backing-filename"], name)
        for name, why in refused.items():
            qemu_img("create", "-q", "-u", "-f", "qcow2", "-b", name, "-F", "raw", "x", "1M")
            matches(ours("map", "--backing-names=any", "x", check=False).stderr, "^tidemark: 'x' names '.*%s" % why)


main()
