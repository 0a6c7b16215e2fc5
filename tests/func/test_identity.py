#!/usr/bin/python3
# SPDX-FileCopyrightText: 2026 The Tidemark authors
# SPDX-License-Identifier: GPL-2.0-or-later
"""Whether the disk under a persistent bitmap is still the disk it was: replaced, put back from a copy,
opened in another way after a crash, or while it was being opened anew. Then the bitmap says that it can't
be used, and why; and what changes nothing of the content does no harm."""
import json
import os
import shutil
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from harness import *
from loop import Loop

KIB, MIB = 1 << 10, 1 << 20
SIZE = 8 * MIB


def file_node(path, name="disk0", **more):
    return dict({"driver": "file", "node-name": name, "filename": path},
                **{k.replace("_", "-"): v for k, v in more.items()})


def raw_node(path, name="disk0", **more):
    file = {"driver": "file", "filename": path}
    return dict({"driver": "raw", "node-name": name, "file": file},
                **{k.replace("_", "-"): v for k, v in more.items()})


def start(tmp, *nodes, export="disk0"):
    d = Daemon(tmp)
    for node in nodes:
        d.qmp("blockdev-add", node)
    if export:
        d.qmp("block-export-add", type="nbd", id="e", node_name=export, name=export, writable=True)
    return d


def write(d, at=0, name="disk0", data=b"z" * 512):
    h = d.nbd(name)
    h.pwrite(data, at)
    h.flush()
    h.shutdown()


def begin(tmp, node, name="disk0"):
    "A daemon with a bitmap that has one granule."
    d = start(tmp, node, export=name)
    d.qmp("block-dirty-bitmap-add", node=name, name="b", persistent=True, granularity=64 * KIB)
    write(d, MIB, name)
    return d


def has_xattrs(path):
    try:
        os.setxattr(path, "user.x", b"1")
        return True
    except OSError:
        return False


def judged(tmp, node, why=None, name="disk0"):
    "Opens it: exact, or inconsistent for a reason that says @why, which is logged, too."
    with start(tmp, node, export=None) as d:
        b = d.bitmap(name, "b")
        equal(b is None, False, "the bitmap is there")
        if why:
            equal(b.get("inconsistent"), True, str(b))
            matches(b["reason"], why)
            matches(d.log(), why)
        else:
            equal((b.get("inconsistent", False), b["count"]), (False, 64 * KIB), str(b))


@test
def opened_otherwise(tmp):
    "after kill -9 a write through another driver, link, part or store is noticed"
    if not has_xattrs(image(os.path.join(tmp, "probe"), 1)):
        skip("no extended attributes here")
    for i, how in enumerate(("driver", "window", "hard link", "symbolic link", "another store", "resized",
                              "as it was", "not written")):
        path = image(os.path.join(tmp, "%d.img" % i), SIZE)
        link = path + ".link"
        begin(tmp, file_node(path)).kill()
        (os.symlink if how == "symbolic link" else os.link)(path, link)
        node = {"driver": raw_node(path), "window": raw_node(path, offset=MIB, size=MIB),
                "another store": file_node(path, bitmap_store=path + ".other"),
                "as it was": file_node(path), "symbolic link": file_node(link)}.get(how, file_node(link))
        if how == "not written":
            start(tmp, dict(node, **{"read-only": True}), export=None).stop()
        else:
            d = start(tmp, node, export=None if how == "resized" else "disk0")
            if how == "resized":
                for size in (MIB, SIZE):
                    d.qmp("block_resize", node_name="disk0", size=size)
            else:
                write(d, MIB if how in ("as it was", "symbolic link") else 0)
            d.stop()
        same = how in ("as it was", "symbolic link", "not written")
        judged(tmp, file_node(path), None if same else "opened for writing without the store")


@test
def put_back(tmp):
    "after kill -9 a disk put back from a copy is noticed: made anew, moved there with its mark, copied over"
    for i, how in enumerate(("new", "moved", "moved closed", "written", "closed and written")):
        path = image(os.path.join(tmp, "%d.img" % i), SIZE)
        copy = path + ".copy"
        d = begin(tmp, file_node(path))
        run("cp", "-a", path, copy)
        write(d, MIB)
        (d.stop if "closed" in how else d.kill)()
        if how == "new":
            os.unlink(path)
            shutil.copyfile(copy, path)
        elif "moved" in how:
            os.rename(copy, path)
        elif "closed" in how:
            run("cp", "-a", "--no-preserve=links", copy, path)
        else:
            continue
        judged(tmp, file_node(path), "not the file that|restored from a copy|modification time has changed")


@test
def harmless(tmp):
    "another name, mode, owner or link is no change, nor is a copy of a closed disk with its times"
    for i, end in enumerate(("stop", "kill")):
        path, moved = (image(os.path.join(tmp, "%d.img" % i), SIZE), os.path.join(tmp, "m%d.img" % i))
        getattr(begin(tmp, file_node(path)), end)()
        os.chmod(path, 0o640)
        os.link(path, path + ".link")
        os.rename(path, moved)
        os.rename(path + ".bitmaps", moved + ".bitmaps")
        judged(tmp, file_node(moved))
    os.mkdir(os.path.join(tmp, "copy"))
    run("cp", "-a", moved, moved + ".bitmaps", os.path.join(tmp, "copy"))
    judged(tmp, file_node(os.path.join(tmp, "copy", "m1.img")))


@test
def written_after_the_end(tmp):
    "a write right after a clean end is noticed, however fast"
    path = image(os.path.join(tmp, "a.img"), SIZE)
    d = begin(tmp, file_node(path))
    with open(path, "r+b") as f:
        d.process.terminate()
        d.process.wait()
        f.write(b"foreign")
    judged(tmp, file_node(path), "changed by somebody else")


@test
def opened_anew(tmp):
    "blockdev-reopen notices another file in the place, and a change while the node was lost"
    for i, how in enumerate(("another", "changed", "same", "changed and killed")):
        path = image(os.path.join(tmp, "%d.img" % i), SIZE)
        node = file_node(path, discard="unmap")
        d = begin(tmp, file_node(path))
        d.qmp("block-dirty-bitmap-add", node="disk0", name="t")
        if how == "another":
            os.rename(image(path + ".new", SIZE, [(0, b"new")]), path)
        elif how != "same":
            os.rename(path, path + ".away")
            raises(QMPError, d.qmp, "blockdev-reopen", options=[node], match="is lost")
            with open(path + ".away", "r+b") as f:
                f.write(b"foreign")
            os.rename(path + ".away", path)
        if how == "changed and killed":  # the store was closed when the node was lost
            d.kill()
            judged(tmp, file_node(path), "changed by somebody else")
            continue
        d.qmp("blockdev-reopen", options=[node])
        for name in ("b", "t"):
            equal(d.bitmap("disk0", name).get("inconsistent", False), how != "same", how + " " + name)
        if how == "same":
            write(d, MIB)
        d.stop()
        judged(tmp, file_node(path), None if how == "same" else "another file|changed by somebody else")


@test(needs=["qemu-img"])
def over_images(tmp):
    "a filter over an image with bitmaps stores none of its own, and says where they belong"
    path = os.path.join(tmp, "a.qcow2")
    run("qemu-img", "create", "-q", "-f", "qcow2", path, "8M")
    image_node = {"driver": "qcow2", "node-name": "q", "file": {"driver": "file", "filename": path}}
    for driver in ("raw", "compress"):
        with start(tmp, image_node, {"driver": driver, "node-name": "disk0", "file": "q"}) as d:
            raises(QMPError, d.qmp, "block-dirty-bitmap-add", node="disk0", name="b", persistent=True,
                   match="image of node 'q', which keeps bitmaps itself")
            d.qmp("block-dirty-bitmap-add", node="q", name=driver, persistent=True)
            write(d)
        with start(tmp, image_node, export=None) as d:
            equal(d.bitmap("q", driver)["count"], 64 * KIB)
    with start(tmp, image_node, export=None) as d:
        raises(QMPError, d.qmp, "blockdev-add", {"driver": "raw", "node-name": "disk0", "file": "q",
                                                 "bitmap-store": path + ".s"},
               match="can't have a bitmap-store")


@test
def two_parts(tmp):
    "two parts of a file have a store each, which a stop and a kill leave exact"
    path = image(os.path.join(tmp, "a.img"), SIZE)
    nodes = [file_node(path, "f")]
    for i in range(2):
        nodes.append({"driver": "raw", "node-name": "r%d" % i, "file": "f", "offset": i * 4 * MIB,
                      "size": 4 * MIB, "bitmap-store": os.path.join(tmp, "s%d" % i)})
    d = start(tmp, *nodes, export=None)
    for name in ("r0", "r1"):
        d.qmp("block-dirty-bitmap-add", node=name, name="b", persistent=True)
        d.qmp("block-export-add", type="nbd", id=name, node_name=name, name=name, writable=True)
        write(d, 0, name)
    for end in ("kill", "stop", "stop"):
        getattr(d, end)()
        d = start(tmp, *nodes, export=None)
        for name in ("r0", "r1"):
            b = d.bitmap(name, "b")
            equal((b.get("inconsistent", False), b["count"]), (False, 64 * KIB), end)
    d.stop()


@test
def readers(tmp):
    "a reader and a writer don't lock each other out, and the reader shows no bitmap that is being written"
    path = image(os.path.join(tmp, "a.img"), SIZE)
    begin(tmp, file_node(path)).stop()
    reader = file_node(path, read_only=True, force_share=True)
    with start(os.path.join(tmp), reader, export=None) as r:
        equal(r.bitmap("disk0", "b")["count"], 64 * KIB)
        os.mkdir(os.path.join(tmp, "w"))
        with start(os.path.join(tmp, "w"), file_node(path)) as w:
            write(w, 0)
            equal(w.bitmap("disk0", "b")["count"], 128 * KIB)
            os.mkdir(os.path.join(tmp, "r"))
            with start(os.path.join(tmp, "r"), reader, export=None) as other:
                equal(other.bitmap("disk0", "b"), None)
                matches(other.log(), "in use by another process")


@test
def deleted(tmp):
    "a store that is removed by hand is written anew before a change of bitmaps is answered"
    path = image(os.path.join(tmp, "a.img"), SIZE)
    d = begin(tmp, file_node(path))
    os.unlink(path + ".bitmaps")
    d.qmp("block-dirty-bitmap-add", node="disk0", name="c", persistent=True)
    equal(os.path.exists(path + ".bitmaps"), True)
    matches(d.log(), "was deleted")
    d.kill()
    judged(tmp, file_node(path))


@test
def long_names(tmp):
    "an image whose name is too long for a store's opens, and says so when a store is needed"
    for length in (243, 244, 255):
        path = image(os.path.join(tmp, "i" * length), SIZE)
        with start(tmp, file_node(path)) as d:
            write(d)
            add = dict(node="disk0", name="b", persistent=True)
            if length == 243:
                d.qmp("block-dirty-bitmap-add", **add)
                continue
            raises(QMPError, d.qmp, "block-dirty-bitmap-add", **add, match="too long for a store")
        with start(tmp, file_node(path, bitmap_store=os.path.join(tmp, "s%d" % length))) as d:
            d.qmp("block-dirty-bitmap-add", **add)


@test(needs=["qemu-img", "qemu-io"])
def checked_without_a_daemon(tmp):
    "after a kill and a write by QEMU 'tidemark bitmap check' says what the next daemon finds"
    for stored in (True, False):
        path = os.path.join(tmp, "%s.qcow2" % stored)
        run("qemu-img", "create", "-q", "-f", "qcow2", path, "8M")
        node = {"driver": "qcow2", "node-name": "disk0", "file": {"driver": "file", "filename": path}}
        d = begin(tmp, node)
        if stored:
            d.stop()
            d = start(tmp, node)
        d.kill()
        equal(tidemark("bitmap", "check", path).returncode, 0)
        run("qemu-io", "-c", "write -q 4M 64k", path)
        said = tidemark("bitmap", "check", "--json", path, check=False)
        equal(said.returncode, 3, said.stdout)
        found = json.loads(said.stdout)
        equal((found["state"], [b.get("inconsistent") for b in found["bitmaps"]]),
              ("of-the-past", [True] if stored else []))
        matches(found["problems"][0], "bitmap 'b'")
        equal(tidemark("bitmap", "check", "--repair", path, check=False).returncode, 1)
        with start(tmp, node, export=None) as d:
            b = d.bitmap("disk0", "b")
            if stored:
                equal((b["inconsistent"], b["reason"]), (True, found["bitmaps"][0]["reason"]))
            else:
                equal(b, None)
            matches(d.log(), "bitmap 'b'")


@test(needs=["losetup"])
def devices(tmp):
    "a loop device stands for its file: another file or a change is noticed, another number is not"
    store = os.path.join(tmp, "s")
    for end in ("stop", "kill"):
        a, b = (image(os.path.join(tmp, "%s%s" % (name, end)), SIZE) for name in "ab")

        def node(device):
            return file_node(device, driver="host_device", bitmap_store=store + end)

        with Loop(a) as device:
            getattr(begin(tmp, node(device)), end)()
            judged(tmp, node(device))
            getattr(start(tmp, node(device)), end)()
            with Loop(a) as again:
                judged(tmp, node(again))
        with Loop(b) as device:
            judged(tmp, node(device), "modification time has changed")


@test(needs=["qemu-img"])
def image_made_writable(tmp):
    "reopening an image for writing first marks the stores that would not see its driver's writes"
    path = os.path.join(tmp, "image")
    run("qemu-img", "create", "-q", "-f", "qcow2", path, SIZE)
    if not has_xattrs(path):
        skip("the file system has no extended attributes")
    image = {"driver": "qcow2", "node-name": "q", "read-only": True,
             "file": {"driver": "file", "filename": path, "auto-read-only": True}}
    node = raw_node(path, bitmap_store=os.path.join(tmp, "store"))
    with start(tmp, node, export=None) as d:
        d.qmp("block-dirty-bitmap-add", node="disk0", name="b", persistent=True)
        d.kill()
    with start(tmp, image, export=None) as d:
        equal("user.tidemark.bitmaps" in os.listxattr(path), True)
        d.qmp("blockdev-reopen", options=[dict(image, **{"read-only": False})])
        equal("user.tidemark.bitmaps" in os.listxattr(path), False)
        d.kill()
    judged(tmp, node, "opened for writing without the store")


main()
