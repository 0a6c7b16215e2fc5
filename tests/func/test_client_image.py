#!/usr/bin/python3
# SPDX-FileCopyrightText: 2026 The Tidemark authors
# SPDX-License-Identifier: GPL-2.0-or-later
"""`tidemark image`: image files without a daemon. What qemu-img says of the same images: tests/interop."""
import json
import os
import re
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from harness import *

KIB, MIB = 1 << 10, 1 << 20


def said(*args, status=0):
    """What the command prints, and complains of if it fails."""
    p = tidemark("image", *args, check=False)
    equal(p.returncode, status, "%s\n%s%s" % (args, p.stdout, p.stderr))
    return p.stderr if status else p.stdout


def as_json(*args):
    return json.loads(said(*args, "--json"))


def bitmaps(path):
    store = json.loads(tidemark("bitmap", "list", "--json", path).stdout)
    return {b["name"]: (b["granularity"], b["count"], b["recording"]) for b in store["bitmaps"]}


@test
def mistakes(tmp):
    "a mistyped word gets an error that names the word that was meant"
    path = image(os.path.join(tmp, "r"), MIB)
    for args, message in (
            (["maps", path], "unknown command 'maps': did you mean 'map'"),
            (["map"], "missing argument: usage is 'tidemark image map FILE'"),
            (["map", path, path], "unexpected argument"),
            (["map", path, "-f", "qcow"], "unknown format 'qcow': did you mean 'qcow2'"),
            (["map", path, "-x"], "unknown option '-x'"),
            (["map", path, "-f"], "option --format needs a value"),
            (["map", path, "--output", "xml"], "'xml' is neither json nor human"),
            (["map", path, "--picture", "--json"], "exclude each other"),
            (["map", path, "--start-offset", "-1"], "'-1' is not a number"),
            (["resize", path], "missing argument"),
            (["resize", path, "12q"], "'12q' is not a size"),
            (["resize", path, "1.5"], "'1.5' is not a size"),
            (["resize", path, "1.5b"], "'1.5b' is not a size"),
            (["resize", path, "1.5.0k"], "'1.5.0k' is not a size"),
            (["create", path, "1M", "-o", "size=1M"], "the size is given twice"),
            (["map", path, "--backing-names", "all"], "'all' is none of directory, none, any"),
            (["resize", path, "2M", "--preallocation", "some"], "'some' is none of off, metadata"),
            (["create"], "missing argument: usage is 'tidemark image create FILE"),
            (["create", path, "1M", "-f", "qcw2"], "unknown format 'qcw2': did you mean 'qcow2'"),
            (["create", path, "1M", "-o", "nocwo=on"], "no option 'nocwo': did you mean 'nocow'"),
            (["create", path, "1M", "-o", "nocow"], "'nocow' is not of the form NAME=VALUE"),
            (["create", path, "1M", "-o", "nocow=maybe"], "'maybe' is not on or off"),
            (["create", path, "1M", "-b", path], "raw images can't have a backing file"),
            (["info", "--image-opts", "driver=raw,file.filename=" + path],
             "option --image-opts: 'driver=raw,file.filename=.*' .* use its path, with --format"),
            (["bitmap", path, "b"], "one of --add, .* is needed"),
            (["bitmap", path, "--ad", "b"], "did you mean '--add'"),
            (["bitmap", path, "b", "--clear", "-g", "64k"], "--granularity needs --add"),
            (["bitmap", path, "b", "--add", "-g", "100"], "'100' is not a number from 512"),
            (["bitmap", path, "b", "--add", "-b", path], "--source-file needs --merge"),
            (["bitmap", path, "b", "--merge", "c", "-F", "raw"], "--source-format needs --source-file"),
    ):
        matches(said(*args, status=1), "^tidemark: .*" + message)  # as qemu-img
    for args, message in (
            (["create", path + ".no"], "the size of the image is missing"),
            (["create", "-f", "qcow2", "-b", os.path.basename(path), "-F", "raw", path], "its own backing file"),
            (["create", "-f", "qcow2", "-u", "-b", path + ".no", "-F", "raw", path + ".no", "1M"], "its own backing file"),
            (["create", "-f", "qcow2", "-b", "", "-F", "raw", path, "1M"], "backing file is empty"),
            (["resize", "--shrink", path, "0"], "it must be positive"),
            (["resize", "--shrink", "--preallocation=full", path, "512k"], "part that a resize adds"),
            (["create", path + ".no/x", "1M"], "Could not create"),
            (["create", path + ".no", "1M", "-f", "qcow2", "-o", "extent_size_hint=8G"], "hint is too large"),
            (["create", "json:{}", "1M"], "'json:{}' describes nodes"),
            (["info", 'json:{"driver":"raw"}'], "'json:{\"driver\":\"raw\"}' describes nodes.*: use its path"),
            (["info", "rbd:p/x"], "'rbd:p/x' is an image in a Ceph cluster.*: 'tidemark serve'"),
            (["map", "nbd://localhost/x"], "'nbd://localhost/x' is an NBD URI.*: 'tidemark info' and"),
            (["create", path, "1M", "-f", "qcow2", "-o", "refcount_bits=3"], "power of two"),
            (["map", path + ".no"], "Could not open .*No such file"),
            (["map", tmp], "to be a regular file or a block device"),
            (["map", path, "-f", "qcow2"], "not in qcow2 format"),
            (["resize", path, "512k"], "use --shrink to allow that"),
            (["resize", path, "-1M", "--shrink"], "can't shrink by"),
            (["resize", path, "+9223372036854775807"], "can't grow by"),
            (["bitmap", path, "b", "--clear"], "Dirty bitmap 'b' not found"),
    ):
        matches(said(*args, status=1), "^tidemark: .*" + message)
    equal(os.stat(path).st_size, MIB)
    equal(os.listdir(tmp), ["r"])


@test
def create(tmp):
    "images are made with the options given, and an image in use is left alone"
    path = os.path.join(tmp, "r")
    equal(said("create", path, "1.5M"), "Created '%s': raw, 1.5 MiB (1572864 bytes).\n" % path)
    equal(os.stat(path).st_size, 3 * MIB // 2)
    p = tidemark("image", "create", "-q", os.path.join(tmp, "x.qcow2"), "1M")
    matches(p.stderr, "warning: .*x.qcow2' is created as a raw image, despite its name")
    equal(said("create", "-q", "-o", "preallocation=full,size=2M", path), "")
    equal((os.stat(path).st_size, os.stat(path).st_blocks), (2 * MIB, 2 * MIB // 512))
    for words in (["-o", "help"], ["-o", "?"], ["-o", "nocow=on,help", path], ["-o", "?", "-o", "size=1"]):
        matches(said("create", "-f", "qcow2", *words), "^Supported qcow2 options:\n(.*\n)*  cluster_size=<size> +- 512")
    comma = os.path.join(tmp, "a,b")
    image(comma, 4 * MIB)
    said("create", "-f", "qcow2", "-o", "backing_file=a,,b,backing_fmt=raw", path)
    equal(as_json("map", path)[0]["length"], 4 * MIB)
    with Daemon(tmp, *disk(tmp, "d", path=path)):
        matches(said("create", path, "1M", status=1), "lock")
        matches(said("create", "-f", "qcow2", path, "1M", status=1), "lock")
    equal(as_json("map", path)[0]["length"], 4 * MIB)
    with open(path, "r+b") as f:  # the extension that has the format is not one any more
        head = f.read(512)
        f.seek(head.index(bytes.fromhex("e2792aca")))
        f.write(b"none")
    matches(said("map", path, status=1),
            "does not record the format .* record it with 'qemu-img rebase -u -b a,b -F FORMAT %s'" % path)


@test
def info(tmp):
    "info shows the format, sizes, backing file and bitmaps of an image"
    base, top = os.path.join(tmp, "base"), os.path.join(tmp, "top")
    said("create", "-q", base, "1M")
    said("bitmap", "--add", "-g", "4k", base, "b0")
    said("create", "-q", "-f", "qcow2", "-o", "compression_type=zstd,extended_l2=on,refcount_bits=64",
         "-b", "base", "-F", "raw", top, "20M")
    text = said("info", top)
    for line in ("image       %s" % top, "format      qcow2: version 3 (compat 1.1), zstd, extended L2, "
                 "64-bit refcounts", "disk        20 MiB (20971520 bytes)",
                 "cluster     64 KiB (65536 bytes)", "backing     base (raw), that is " + base,
                 "Use --backing-chain to show the backing files."):
        equal(line in text.split("\n"), True, "%s\n%s" % (line, text))
    text = said("info", "--backing-chain", top)
    equal(text.count("image  "), 2)
    matches(text, r"\nformat +raw\ndisk +1 MiB")
    matches(text, r"b0 +4 KiB +0 B +0 % +enabled +ok\n$")
    equal([i["format"] for i in as_json("info", "--backing-chain", top)], ["qcow2", "raw"])
    equal(as_json("info", base)["bitmaps"][0]["name"], "b0")
    with Daemon(tmp, *disk(tmp, "d", path=base)):  # in use, and no format of which a part is not there
        equal(as_json("info", base)["virtual-size"], MIB)
    with Daemon(tmp, "--blockdev", "driver=qcow2,node-name=q,backing-names=any,file.driver=file,"
                "file.filename=" + top):
        for command in ("info", "map", "check"):
            matches(said(command, top, status=1), "has '%s' open for writing; use --force-share" % top)
            said(command, "--force-share", top)


@test
def check(tmp):
    "check reports each problem and its meaning, and refuses an image that is open for writing"
    path = os.path.join(tmp, "i")
    said("create", "-q", "-f", "qcow2", path, "8M")
    matches(said("check", path), r"^No errors\n\nimage +\S+/i \(qcow2\)\nclusters +0 of 128 allocated")
    equal(said("check", "-q", path), "")
    with open(path, "r+b") as f:  # a cluster that nobody refers to
        f.seek(48)
        f.seek(int.from_bytes(f.read(8), "big"))
        block = int.from_bytes(f.read(8), "big")
        f.seek(block + 2 * 9)
        f.write(b"\0\1")
        f.truncate(16 << 16)
    p = tidemark("image", "check", path, check=False)
    equal(p.returncode, 3)
    matches(p.stdout, "Problems\n  1 leaked cluster: space is wasted, and no data is affected. --repair leaks")
    equal(tidemark("image", "check", "-q", path, check=False).returncode, 3)
    with Daemon(tmp, "--blockdev", "driver=qcow2,node-name=q,file.driver=file,file.filename=" + path):
        matches(said("check", "--repair", "leaks", path, status=1), "lock")
        matches(said("check", path, status=1), "open for writing; use --force-share")
        tidemark("image", "check", "-U", path, check=False)
    matches(said("check", "--repair", "leaks", path), "Repaired\n  1 leaked cluster: freed\nNo errors")
    equal(as_json("check", path)["check-errors"], 0)
    raw = image(os.path.join(tmp, "r"), MIB)
    matches(said("check", raw, status=63), "is a raw image, which has no metadata to check")
    for args, message in ((["check"], "missing argument"), (["check", path, "-r", "some"], "neither leaks"),
                          (["check", path, "--repiar", "all"], "did you mean '--repair'"),
                          (["check", path, "-r", "all", "-U"], "exclude each other")):
        matches(said(*args, status=1), message)


@test
def raw_map(tmp):
    "the map of a raw image is that of its file"
    path = image(os.path.join(tmp, "r"), 4 * MIB, [(MIB, b"x" * 65536)])
    entry = {"depth": 0, "present": True}
    expected = [dict(entry, start=0, length=MIB, zero=True, data=False, offset=0),
                dict(entry, start=MIB, length=65536, zero=False, data=True, offset=MIB),
                dict(entry, start=MIB + 65536, length=3 * MIB - 65536, zero=True, data=False,
                     offset=MIB + 65536)]
    equal(as_json("map", path), expected)
    equal(json.loads(said("map", "--output=json", "-f", "raw", path)), expected)
    equal(as_json("map", "-s", str(MIB), "-l65536", path), expected[1:2])
    text = said("map", path)
    matches(text, r"1048576 +65536 +64 KiB +data +0 +1048576 +\S+/r\n")
    matches(text, r"total +4128768 +3.9 MiB +hole \(98.4 %\)")
    matches(said("map", "--picture", "--width=80", path), r"\b64 KiB +1.6 %")
    empty = image(os.path.join(tmp, "e"), 0)
    equal(as_json("map", empty), [{"start": 0, "length": 0, "depth": 0, "present": False, "zero": False, "data": False}])
    equal(said("map", empty), "The range is empty.\n")


@test
def raw_resize(tmp):
    "raw images grow and shrink, and their bitmaps with them"
    path = image(os.path.join(tmp, "r"), MIB, [(0, b"x" * MIB)])
    said("bitmap", "--add", "--granularity", "4k", path, "b")
    equal(said("resize", path, "2M"), "Resized from 1 MiB to 2 MiB (2097152 bytes).\n")
    equal(bitmaps(path), {"b": (4096, MIB, True)})
    equal(said("resize", "-q", path, "+1.5M"), "")
    said("resize", "--shrink", path, "-3M")
    equal(os.stat(path).st_size, 512 * KIB)
    equal(bitmaps(path), {"b": (4096, 0, True)})
    matches(said("resize", path, "512k"), "already")
    for mode, blocks in (("falloc", 1), ("full", 1), ("off", 0)):
        before = os.stat(path).st_blocks
        said("resize", path, "+1M", "--preallocation=" + mode)
        equal((os.stat(path).st_blocks - before) // 2048, blocks, mode)
    with open(path, "rb") as f:
        equal(f.read(), b"x" * (512 * KIB) + bytes(3 * MIB))


@test
def behind_the_end(tmp):
    "the part by which an image grows does not show the data of a longer backing file"
    base = image(os.path.join(tmp, "base"), 2 * MIB, [(MIB, b"x" * MIB)])
    top = os.path.join(tmp, "top")
    said("create", "-q", "-f", "qcow2", "-b", base, "-F", "raw", top, "1M")
    matches(said("resize", "--backing-names=none", top, "2M", status=1), "may be longer.*--backing-names")
    said("resize", top, "2M")
    equal([e["data"] for e in as_json("map", top)][-1], False)
    said("resize", "--shrink", top, "1M")


@test
def raw_bitmaps(tmp):
    "several changes of a raw image's bitmaps are made in order, all or none, and a daemon goes on with them"
    path, other = image(os.path.join(tmp, "r"), MIB), image(os.path.join(tmp, "o"), MIB)
    said("bitmap", "--add", path, "a")
    said("bitmap", "--add", "--disable", "-g512", path, "b")
    equal(bitmaps(path), {"a": (65536, 0, True), "b": (512, 0, False)})
    with Daemon(tmp, *disk(tmp, "d", path=path)) as d:
        h = d.nbd("d")
        h.pwrite(b"x", 5)
        matches(said("bitmap", "--clear", path, "a", status=1), "lock|in use")
        matches(said("map", path, status=0), "data")
    equal(bitmaps(path), {"a": (65536, 65536, True), "b": (512, 0, False)})
    said("bitmap", "--merge", "a", "--enable", path, "b")
    equal(bitmaps(path)["b"], (512, 65536, True))
    matches(said("bitmap", "--clear", "--merge", "none", path, "b", status=1), "'none' not found")
    equal(bitmaps(path)["b"], (512, 65536, True))
    said("bitmap", "--add", "--merge", "a", "-b", path, other, "c", status=0)
    equal(bitmaps(other), {"c": (65536, 65536, True)})
    said("bitmap", "--remove", "--add", "--disable", "-g", "1M", path, "b")
    equal(bitmaps(path)["b"], (MIB, 0, False))
    for name in "ab":
        said("bitmap", "--remove", path, name)
    equal(os.path.exists(path + ".bitmaps"), False)


@test
def qcow2_bitmaps(tmp):
    "the bitmaps of a closed qcow2 image are shown once, with what is dirty in them and one state"
    path = os.path.join(tmp, "i")
    said("create", "-q", "-f", "qcow2", path, "8M")
    said("bitmap", "--add", "-g", "4k", path, "b")
    with Daemon(tmp, "--blockdev", "driver=qcow2,node-name=d,file.driver=file,file.filename=" + path,
                "--export", "type=nbd,id=d,node-name=d,name=d,writable=on") as d:
        h = d.nbd("d")
        h.pwrite(b"x" * 8192, MIB)
        h.shutdown()
        for text in said("info", "-U", path), tidemark("bitmap", "list", path).stdout:
            equal(re.findall(r"(?m)^b  .*", text), ["b             4 KiB  8 KiB   <0.1 %  enabled    ok"])
    said("bitmap", "--add", "-g", "64k", "--disable", path, "e")
    equal(os.path.exists(path + ".bitmaps"), False)
    for text in said("info", path), tidemark("bitmap", "list", path).stdout:
        equal(re.findall(r"(?m)^[be]  .*", text), ["b             4 KiB  8 KiB   <0.1 %  enabled    ok",
                                                   "e            64 KiB    0 B      0 %  disabled   ok"])
    equal(re.findall(r"(?m)^[be]  .*", said("info", "-f", "raw", path)), [])
    store = json.loads(tidemark("bitmap", "list", "--json", path, "b").stdout)
    equal((store["state"], [(b["name"], b["count"]) for b in store["bitmaps"]]), ("in-image", [("b", 8192)]))
    equal("bitmaps" in as_json("info", path), False)  # it is qemu-img's
    matches(tidemark("bitmap", "check", path).stdout, "the image contains its bitmaps\n\nNo problems\n")


@test
def unusable(tmp):
    "neither info nor check says that all is well with an image that can't be opened"
    path, data = os.path.join(tmp, "i"), os.path.join(tmp, "data")
    said("create", "-q", "-f", "qcow2", "-o", "data_file=" + data, path, "8M")
    matches(said("check", path), "^No errors")
    os.unlink(data)
    matches(said("check", path, status=1), "^tidemark: Could not open '%s'" % data)
    matches(said("info", path), "There are problems")
    p = tidemark("bitmap", "check", path, check=False)
    equal(p.returncode, 3)
    matches(p.stdout, "can't be opened: Could not open '%s': No such file" % data)
    said("create", "-q", "-f", "qcow2", "-u", "-b", "base", "-F", "raw", path, "8M")
    matches(said("check", path, status=1), "Could not open '%s'" % os.path.join(tmp, "base"))
    p = tidemark("image", "check", "-r", "all", path, check=False)
    equal((p.returncode, "No errors" in p.stdout, "clusters" in p.stdout), (1, False, True))  # what was repaired is said
    matches(said("check", "--backing-names=none", path), "^No errors")
    image(os.path.join(tmp, "base"), MIB)
    matches(said("check", path), "^No errors")


@test
def described(tmp):
    "a chain ends where a json: name has no backing, and a relative name needs an image that is in a file"
    def path(name):
        return os.path.join(tmp, name)

    def named(name, **more):
        return "json:" + json.dumps(dict(driver="qcow2", file={"driver": "file", "filename": path(name)}, **more))

    def create(name, backing, format):
        said("create", "-q", "-u", "-f", "qcow2", "-b", backing, "-F", format, path(name), "1M")

    def chain(name, status=0):
        return said("info", "--backing-chain", "--backing-names=any", "--json", path(name), status=status)

    image(path("b.raw"), MIB)
    create("loop", named("loop", backing=None), "qcow2")
    create("mid", "b.raw", "raw")
    create("ends", named("mid", backing=None), "qcow2")
    create("goes", named("mid"), "qcow2")
    for name, images in ("loop", 2), ("ends", 2), ("goes", 3):
        equal(len(json.loads(chain(name))), images)
        said("map", "--backing-names=any", path(name))
    with Daemon(tmp, "--blockdev", "driver=file,node-name=mid,read-only=on,filename=" + path("mid"),
                "--export", "type=nbd,id=x,node-name=mid,name=x") as d:
        create("remote", "nbd+unix:///x?socket=" + d.nbd_path, "qcow2")
        matches(chain("remote", status=1), "names 'b.raw', which is relative, but the image is in no file")


@test
def node_of_store(tmp):
    "a store made for a raw node is not taken by another node"
    path = image(os.path.join(tmp, "r"), MIB)
    args = ["--blockdev", "driver=raw,node-name=d,file.driver=file,file.filename=" + path]
    with Daemon(tmp, *args) as d:
        d.qmp("block-dirty-bitmap-add", node="d", name="b", persistent=True)
    said("resize", path, "2M")
    said("bitmap", "--add", path, "c")
    with Daemon(tmp, *args) as d:
        equal((d.bitmap("d", "b")["count"], d.bitmap("d", "c")["count"]), (MIB, 0))


main()
