#!/usr/bin/python3
# SPDX-FileCopyrightText: 2026 The Tidemark authors
# SPDX-License-Identifier: GPL-2.0-or-later
"""Bitmaps that leave a daemon as files, and are imported elsewhere: exact, or refused."""
import hashlib
import json
import os
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from harness import *  # noqa: E402,F403

MIB, G = 1 << 20, 65536
SIZE = 16 * MIB


def add(d, path, name="disk0", **more):
    d.qmp("blockdev-add", dict({"driver": "file", "node-name": name, "filename": path}, **more))


def writable(d, name="disk0"):
    d.qmp("block-export-add", {"type": "nbd", "id": "e", "node-name": name, "name": "e", "writable": True})
    return d.nbd("e")


def closed(d, h):
    h.shutdown()
    d.qmp("block-export-del", id="e", mode="hard")
    wait_until(lambda: not d.qmp("query-block-exports"), "the export to end")


def sha(d, name, node="disk0"):
    return d.qmp("x-debug-block-dirty-bitmap-sha256", node=node, name=name)["sha256"]


def tidemark(d, *args, **more):
    return run(TIDEMARK, *args, "--socket", d.qmp_path, **more)


def refused(d, message, *args, **more):
    p = tidemark(d, *args, check=False, **more)
    equal((p.returncode, p.stdout), (1, ""))
    matches(p.stderr, message)
    equal(p.stderr.count("\n"), 1)


def sealed(lines):
    """The text of a file with these lines and its checksum."""
    text = "".join(line + "\n" for line in lines)
    return text + "sha256 %s\n" % hashlib.sha256(text.encode()).hexdigest()


def with_bitmap(d, path, name="b0", **more):
    add(d, path)
    d.qmp("block-dirty-bitmap-add", node="disk0", name=name, **more)
    h = writable(d)
    h.pwrite(b"x" * G, 3 * G)
    h.pwrite(b"x", SIZE - 1)
    closed(d, h)


@test
def to_another_daemon(tmp):
    "a bitmap is exact in the daemon that opens the disk next, and goes on recording there"
    path, file = image(os.path.join(tmp, "disk"), SIZE), os.path.join(tmp, "b0.bitmap")
    with Daemon(tmp, name="a") as a:
        with_bitmap(a, path, granularity=4096)
        tidemark(a, "bitmap", "export", "disk0", "b0", file)
        to_stdout = tidemark(a, "bitmap", "export", "disk0", "b0").stdout
        was = sha(a, "b0")
    lines = open(file).read().splitlines()
    equal(to_stdout.splitlines()[1], lines[1])
    head = json.loads(lines[0])
    equal([head[k] for k in ("format", "version", "name", "node", "size", "granularity", "count", "recording")],
          ["tidemark-bitmap", 1, "b0", "disk0", SIZE, 4096, G + 4096, True])
    equal(lines[1], "48 16 4031 1")
    equal(sealed(lines[:-1]), open(file).read())
    with Daemon(tmp, name="b") as b:
        add(b, path)
        tidemark(b, "bitmap", "import", "disk0", file)
        tidemark(b, "bitmap", "import", "disk0", "-", "--name", "coarse", "--granularity", "64k", "--persistent",
                 input=open(file).read())
        equal(sha(b, "b0"), was)
        h = writable(b)
        h.pwrite(b"y", 0)
        closed(b, h)
        equal(b.bitmap("disk0", "b0")["count"], G + 2 * 4096)
        equal(b.bitmap("disk0", "coarse")["count"], 3 * G)
        refused(b, "Bitmap already exists: b0", "bitmap", "import", "disk0", file, "--disabled")
        refused(b, "its disk was written since it was exported", "bitmap", "import", "disk0", file, "--name", "late")
        tidemark(b, "bitmap", "import", "disk0", file, "--name", "past", "--disabled")
        equal((sha(b, "past"), b.bitmap("disk0", "past")["recording"]), (was, False))
        b.qmp("block-dirty-bitmap-add", node="disk0", name="more", granularity=G)
        tidemark(b, "bitmap", "import", "disk0", file, "--name", "more", "--merge")
        equal(b.bitmap("disk0", "more")["count"], 2 * G)
    with Daemon(tmp, name="c") as c:
        add(c, path)
        equal(c.bitmap("disk0", "coarse")["count"], 3 * G)


@test
def what_does_not_fit(tmp):
    "a bitmap of another size or disk, or that would miss writes, is refused and changes nothing"
    path, other, longer = (image(os.path.join(tmp, n), s) for n, s in (("disk", SIZE), ("other", SIZE), ("l", 2 * SIZE)))
    file, busy = os.path.join(tmp, "b0.bitmap"), os.path.join(tmp, "busy")
    with Daemon(tmp, name="a") as a:
        with_bitmap(a, path)
        tidemark(a, "bitmap", "export", "disk0", "b0", file)
        h = writable(a)
        tidemark(a, "bitmap", "export", "disk0", "b0", busy)
        equal("modified" in json.loads(open(busy).readline())["disk"], False)
        refused(a, "others can write to its disk now", "bitmap", "import", "disk0", file, "--name", "b1")
        closed(a, h)
        refused(a, "its disk could be written when it was exported", "bitmap", "import", "disk0", busy, "--name", "b1")
        tidemark(a, "bitmap", "import", "disk0", busy, "--name", "b1", "--disabled")
        for name, p in (("other", other), ("longer", longer)):
            add(a, p, name)
            for more in ((), ("--disabled",)):
                refused(a, "Node '%s' has .* bytes|into node '%s': it is of another disk" % (name, name),
                        "bitmap", "import", name, file, *more)
            a.qmp("block-dirty-bitmap-add", node=name, name="b0")
        a.qmp("blockdev-add", driver="null-co", node_name="null", size=SIZE)
        refused(a, "nothing shows whether its disk was written since it was exported", "bitmap", "import", "null", file)
        refused(a, "nothing shows whether it is of the same disk", "bitmap", "import", "null", file, "--disabled")
        tidemark(a, "bitmap", "import", "other", file, "--merge")
        equal(a.bitmap("other", "b0")["count"], 2 * G)
        refused(a, "Node 'longer' has 33554432 bytes, and the bitmap is of a disk of 16777216 bytes",
                "bitmap", "import", "longer", file, "--merge")
        equal(a.bitmap("longer", "b0")["count"], 0)
        refused(a, "Dirty bitmap 'none' not found", "bitmap", "export", "disk0", "none", file)
        refused(a, "Failed to find node with node-name='none'", "bitmap", "export", "none", "b0", file)
        equal(open(file).read().count("\n"), 3, "a failed export leaves the file")
        equal([b["name"] for n in a.qmp("query-named-block-nodes") if n["node-name"] == "disk0"
               for b in n["dirty-bitmaps"]], ["b1", "b0"])


@test
def files_that_are_damaged(tmp):
    "a file that is cut off, damaged or says what can't be is refused"
    path, file = image(os.path.join(tmp, "disk"), SIZE), os.path.join(tmp, "b0.bitmap")

    def bad(message, text):
        with open(file, "w") as f:
            f.write(text)
        refused(d, message, "bitmap", "import", "disk0", file, "--disabled", "--name", "new")

    with Daemon(tmp) as d:
        with_bitmap(d, path)
        tidemark(d, "bitmap", "export", "disk0", "b0", file)
        text = open(file).read()
        head, runs = text.splitlines()[:2]
        bad("first line is no JSON object with the format", "")
        bad("first line is no JSON object with the format", "QFI\xfb")
        bad("its last line is no checksum", "{")
        bad("its last line is no checksum", text[:-1])
        bad("its checksum is not that of its content", text.replace(runs, "4 1 250 1"))
        bad("first line is no JSON object with the format", sealed(['{"format": "other"}']))
        bad("has version 2", sealed([head.replace('"version": 1', '"version": 2')]))
        bad("lacks the name, the size or the granularity", sealed([head.replace('"size"', '"sice"')]))
        for granularity in "0", "511", "65535", "4294967295":
            bad("Granularity must be power of 2|out of range|expected", sealed([
                head.replace('"granularity": 65536', '"granularity": ' + granularity), runs]))
        for wrong in "3", "3 0", "x 1", "3 1 ", "-3 1", "3  1", "3 1 x", "18446744073709551616 1":
            if wrong != "3 1 ":
                bad("is no run of granules", sealed([head, wrong]))
        for beyond in "0 257", "256 1", "99999999999999999 1", "9999999999999999 1", "1 9999999999999999":
            bad("goes beyond the 256 granules of the disk|no run", sealed([head, beyond]))
        equal(len([n for n in d.qmp("query-named-block-nodes")][0]["dirty-bitmaps"]), 1)


@test
def many_runs(tmp):
    "a bitmap with more runs than an answer has is exported and imported in parts, as of one instant"
    path, file = image(os.path.join(tmp, "disk"), 128 * MIB), os.path.join(tmp, "b0.bitmap")
    with Daemon(tmp) as d:
        add(d, path)
        d.qmp("block-dirty-bitmap-add", node="disk0", name="b0", granularity=512)
        head = tidemark(d, "bitmap", "export", "disk0", "b0").stdout.splitlines()[0]
        with open(file, "w") as f:
            f.write(sealed([head, "1 1 " * 49999 + "1 1", "1 1 " * 49999 + "1 1"]))
        tidemark(d, "bitmap", "import", "disk0", file, "--name", "b1")
        equal(d.bitmap("disk0", "b1")["count"], 100000 * 512)
        page = d.qmp("block-dirty-bitmap-export", node="disk0", name="b1")
        equal((page["count"], len(page["runs"].split())), (100000 * 512, 65536))
        d.qmp("block-dirty-bitmap-clear", node="disk0", name="b1")
        n = 65536
        while "cursor" in page:
            page = d.qmp("block-dirty-bitmap-export", node="disk0", name="b1", cursor=page["cursor"])
            n += len(page["runs"].split())
        equal(n, 200000)
        first = d.qmp("block-dirty-bitmap-import", node="disk0", name="b2", size=128 * MIB, granularity=512, runs="1 1",
                      more=True)["cursor"]
        raises(QMPError, d.qmp, "block-dirty-bitmap-import", node="disk0", name="b3", runs="", cursor=first,
               match="Bitmap 'b3' of node 'disk0' is not on its way with cursor")
        for _ in range(16):
            d.qmp("block-dirty-bitmap-import", node="disk0", name="b2", size=128 * MIB, granularity=512, runs="",
                  more=True)
        raises(QMPError, d.qmp, "block-dirty-bitmap-import", node="disk0", name="b2", runs="", cursor=first,
               match="begin again without a cursor")
        raises(QMPError, d.qmp, "block-dirty-bitmap-import", node="disk0", name="b2", runs="",
               match="Parameter 'size' is missing")


@test
def of_another_size(tmp):
    "runs of a disk of another size are not taken, whatever follows"
    with Daemon(tmp) as d:
        add(d, image(os.path.join(tmp, "disk"), SIZE))
        first = {"node": "disk0", "name": "b0", "size": 1 << 62, "granularity": 512, "runs": "1 1", "more": True}
        raises(QMPError, d.qmp, "block-dirty-bitmap-import", first,
               match="Node 'disk0' has 16777216 bytes, and the bitmap is of a disk of 4611686018427387904 bytes")
        raises(QMPError, d.qmp, "block-dirty-bitmap-import", dict(first, node="none"), match="Failed to find node")


@test
def to_a_node_that_is_read_only(tmp):
    "what others write before a node becomes writable is not missed: the bitmap is inconsistent then"
    path = image(os.path.join(tmp, "disk"), SIZE)
    with Daemon(tmp, name="a") as a, Daemon(tmp, name="b") as b:
        with_bitmap(a, path)
        page = a.qmp("block-dirty-bitmap-export", node="disk0", name="b0")
        a.qmp("blockdev-del", {"node-name": "disk0"})
        for written in (False, True):
            add(b, path, **{"read-only": True})
            about = {key: page[key] for key in ("runs", "size", "granularity", "disk")}
            b.qmp("block-dirty-bitmap-import", about, node="disk0", name="b0", recording=True)
            if written:
                add(a, path)
                h = writable(a)
                h.pwrite(b"y" * G, 9 * G)
                closed(a, h)
                a.qmp("blockdev-del", {"node-name": "disk0"})
            b.qmp("blockdev-reopen", {"options": [{"driver": "file", "node-name": "disk0", "filename": path}]})
            equal(b.bitmap("disk0", "b0").get("inconsistent", False), written)
            b.qmp("blockdev-del", {"node-name": "disk0"})


@test
def from_a_node_that_is_read_only(tmp):
    "a bitmap of a read-only node is of the disk as it was when the bitmap began, or was opened: others wrote since"
    path = image(os.path.join(tmp, "disk"), SIZE)
    with Daemon(tmp, name="a") as a, Daemon(tmp, name="b") as b:
        add(a, path)
        a.qmp("block-dirty-bitmap-add", node="disk0", name="stored", persistent=True)
        a.qmp("blockdev-del", {"node-name": "disk0"})
        add(b, path, **{"read-only": True})
        b.qmp("block-dirty-bitmap-add", node="disk0", name="added")
        add(a, path)
        pages = [b.qmp("block-dirty-bitmap-export", node="disk0", name=n) for n in ("stored", "added")]
        imports = [dict({key: page[key] for key in ("runs", "size", "granularity", "disk")}, node="disk0", recording=True)
                   for page in pages]
        for n, about in enumerate(imports):
            a.qmp("block-dirty-bitmap-import", about, name="unwritten%d" % n)
        h = writable(a)
        h.pwrite(b"y" * G, 9 * G)
        closed(a, h)
        for name in ("stored", "added"):
            page = b.qmp("block-dirty-bitmap-export", node="disk0", name=name)
            about = {key: page[key] for key in ("runs", "size", "granularity", "disk")}
            raises(QMPError, a.qmp, "block-dirty-bitmap-import", about, node="disk0", name="x", recording=True,
                   match="its disk was written since it was exported")


@test
def while_a_job_has_it(tmp):
    "a bitmap that a job has frozen is exported with what was written since"
    path = image(os.path.join(tmp, "disk"), SIZE, [(0, b"a" * SIZE)])
    with Daemon(tmp) as d:
        with_bitmap(d, path)
        add(d, image(os.path.join(tmp, "copy"), SIZE), "copy")
        h = writable(d)
        d.qmp("blockdev-backup", {"job-id": "j", "device": "disk0", "target": "copy", "sync": "bitmap", "bitmap": "b0",
                                  "bitmap-mode": "on-success", "speed": 1})
        h.pwrite(b"y" * G, 9 * G)
        equal(d.bitmap("disk0", "b0")["count"], 2 * G, "as of the instant of the job")
        page = d.qmp("block-dirty-bitmap-export", node="disk0", name="b0")
        equal((page["count"], page["runs"]), (3 * G, "3 1 5 1 245 1"))
        d.qmp("block-job-cancel", device="j", force=True)
        wait_until(lambda: not d.qmp("query-block-jobs"), "the job to end")
        closed(d, h)


@test(needs=["qemu-img"])
def without_a_daemon(tmp):
    "the persistent bitmaps of an image are exported as the next daemon would find them"
    raw, qcow2 = image(os.path.join(tmp, "disk.raw"), SIZE), os.path.join(tmp, "disk.qcow2")
    run("qemu-img", "create", "-q", "-f", "qcow2", qcow2, str(SIZE))
    for path in raw, qcow2:
        definition = {"driver": "file", "filename": path}
        if path == qcow2:
            definition = {"driver": "qcow2", "file": definition}
        with Daemon(tmp, name="a") as a:
            a.qmp("blockdev-add", dict(definition, **{"node-name": "disk0"}))
            a.qmp("block-dirty-bitmap-add", node="disk0", name="b0", persistent=True)
            h = writable(a)
            h.pwrite(b"x" * G, 5 * G)
            closed(a, h)
        lines = run(TIDEMARK, "bitmap", "export", path, "b0").stdout.splitlines()
        equal(lines[1], "5 1")
        p = run(TIDEMARK, "bitmap", "export", path, "none", check=False)
        matches(p.stderr, "Dirty bitmap 'none' not found")
        with Daemon(tmp, name="b") as b:
            b.qmp("blockdev-add", dict(definition, **{"node-name": "disk0", "read-only": True}))
            tidemark(b, "bitmap", "import", "disk0", "--name", "b1", input=sealed(lines[:-1]))
            equal(b.bitmap("disk0", "b1")["count"], G)


@test(needs=["qemu-img"])
def into_an_inactive_node(tmp):
    "a bitmap in memory is exact where the node becomes active, and in the one that became inactive; not if others wrote"
    for kind in "raw", "qcow2":
        path = image(os.path.join(tmp, "disk." + kind), SIZE)
        if kind == "qcow2":
            run("qemu-img", "create", "-q", "-f", "qcow2", path, str(SIZE))
        definition = {"driver": kind, "node-name": "disk0", "file": {"driver": "file", "filename": path}}
        with Daemon(tmp, name="a") as a, Daemon(tmp, name="b") as b:
            a.qmp("blockdev-add", definition)
            b.qmp("blockdev-add", dict(definition, active=False))
            b.qmp("block-dirty-bitmap-add", node="disk0", name="older")
            a.qmp("block-dirty-bitmap-add", node="disk0", name="b0")
            a.qmp("block-dirty-bitmap-add", node="disk0", name="past")
            h = writable(a)
            h.pwrite(b"x" * G, 5 * G)
            closed(a, h)
            a.qmp("block-dirty-bitmap-disable", node="disk0", name="past")
            a.qmp("blockdev-set-active", active=False)
            a.qmp("blockdev-set-active", active=True)
            a.qmp("blockdev-set-active", active=False)
            equal(a.bitmap("disk0", "b0")["count"], G)
            text = tidemark(a, "bitmap", "export", "disk0", "b0").stdout
            tidemark(b, "bitmap", "import", "disk0", input=tidemark(a, "bitmap", "export", "disk0", "past").stdout)
            tidemark(b, "bitmap", "import", "disk0", input=text)
            b.qmp("blockdev-set-active", active=True)
            equal([b.bitmap("disk0", n)["count"] for n in ("past", "b0", "older")], [G, G, SIZE])
            h = writable(b)
            h.pwrite(b"y", 0)
            closed(b, h)
            equal(b.bitmap("disk0", "b0")["count"], 2 * G)
            b.qmp("blockdev-set-active", active=False)
            equal(a.bitmap("disk0", "b0")["count"], G, "not known until it is active")
            refused(a, "its disk was written since", "bitmap", "import", "disk0", "--name", "late", input=text)
            late = tidemark(a, "bitmap", "export", "disk0", "b0").stdout
            refused(b, "its disk was written since", "bitmap", "import", "disk0", "--name", "late", input=late)
            a.qmp("blockdev-set-active", active=True)
            equal(a.bitmap("disk0", "b0")["count"], SIZE, "another daemon wrote meanwhile")


main()
