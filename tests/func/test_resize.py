#!/usr/bin/python3
# SPDX-FileCopyrightText: 2026 The Tidemark authors
# SPDX-License-Identifier: GPL-2.0-or-later
"""A disk grows while clients use it; block_resize of what nobody uses is in test_persistent.py."""
import os
import random
import threading

from harness import *

MIB = 1 << 20
SIZE, GROWN = 8 * MIB, 20 * MIB
B = "qemu:dirty-bitmap:b"


def images(tmp):
    """Definitions of a disk "d" of each kind that can grow, by name."""
    path = lambda kind: os.path.join(tmp, "disk." + kind)
    yield "file", {"driver": "file", "filename": image(path("file"), SIZE)}
    yield "raw", {"driver": "raw", "file": {"driver": "file", "filename": image(path("raw"), SIZE)}}
    if have("qemu-img"):
        run("qemu-img", "create", "-q", "-f", "qcow2", path("qcow2"), str(SIZE))
        yield "qcow2", {"driver": "qcow2", "file": {"driver": "file", "filename": path("qcow2")}}


def serve_disk(tmp, kind, definition, again=False, bitmaps=("b",)):
    d = Daemon(tmp, name=kind)
    d.qmp("blockdev-add", dict(definition, **{"node-name": "d"}))
    if not again:
        d.qmp("block-dirty-bitmap-add", node="d", name="b", persistent=True)
    d.qmp("block-export-add", type="nbd", id="d", node_name="d", writable=True, bitmaps=list(bitmaps))
    return d


@test
def clients_keep_the_size_they_have_been_given(tmp):
    "an exported disk grows: sessions keep the old size, new ones see the new one, what is added is dirty"
    for kind, definition in images(tmp):
        with serve_disk(tmp, kind, definition) as d:
            old = d.nbd("d", [B, "base:allocation"])
            d.qmp("block_resize", node_name="d", size=GROWN)
            equal(old.get_size(), SIZE, kind)
            old.set_strict_mode(0)
            old.pwrite(b"o" * 65536, SIZE - 65536)
            raises(Exception, old.pwrite, b"x", SIZE, match="[Ii]nvalid|No space")
            raises(Exception, old.pread, 1, SIZE, match="[Ii]nvalid")
            equal(sum(n for o, n, f in extents(old, B, SIZE)), SIZE, kind)
            new = d.nbd("d", [B])
            equal(new.get_size(), GROWN, kind)
            equal(dirty(new, "b"), [(SIZE - 65536, GROWN - SIZE + 65536)], kind)
            new.pwrite(b"n" * 65536, GROWN - 65536)
            equal(new.pread(2, SIZE - 1), b"o\0", kind)
            equal(new.pread(1, GROWN - 1), b"n", kind)
            old.shutdown(), new.shutdown()


@test
def shrinking_is_refused(tmp):
    "an exported disk can't shrink, and one that another node stands on changes with that node only"
    with serve_disk(tmp, *next(images(tmp))) as d:
        raises(QMPError, d.qmp, "block_resize", node_name="d", size=SIZE - 512, match="'resize' are both required")
        d.qmp("blockdev-add", driver="raw", node_name="top", file="d")
        raises(QMPError, d.qmp, "block_resize", node_name="d", size=GROWN, match="'resize' are both required")
        d.qmp("block_resize", node_name="top", size=GROWN)
        equal([d.nbd("d").get_size(), os.path.getsize(os.path.join(tmp, "disk.file"))], [GROWN, GROWN])
        raises(QMPError, d.qmp, "block_resize", node_name="top", size=SIZE, match="'resize' are both required")


@test
def growing_under_load(tmp):
    "what clients write while the disk grows again and again is there, and in the bitmap; so after kill -9"
    for kind, definition in images(tmp):
        d = serve_disk(tmp, kind, definition)
        expected, over, rand = bytearray(SIZE), threading.Event(), random.Random(7)

        def writes(client):
            h, mine, n = d.nbd("d", [B]), random.Random(client), 0
            while not over.is_set() or n < 50:
                at = mine.randrange(SIZE // 65536 // 4) * 4 * 65536 + client * 65536
                fill = bytes([mine.randrange(1, 256)]) * 65536
                h.pwrite(fill, at)
                expected[at:at + 65536] = fill
                extents(h, B, SIZE)
                n += 1
            h.flush()  # or else a format may lose what it has not written down
            h.shutdown()

        def grows():
            size = SIZE
            try:
                for _ in range(25):
                    size += rand.randrange(1, 40) * 4096
                    d.qmp("block_resize", node_name="d", size=size)
            finally:
                over.set()
        in_threads(*[lambda c=c: writes(c) for c in range(4)], grows)
        d.kill()
        d = serve_disk(tmp, kind, definition, again=True)
        h = d.nbd("d", [B])
        equal(h.get_size() > SIZE, True)
        equal(h.pread(SIZE, 0) == expected, True, kind)
        found = dirty(h, "b")
        clean = [at for at in range(0, SIZE, 65536) if any(expected[at:at + 65536]) and
                 not any(o <= at and at + 65536 <= o + n for o, n in found)]
        equal(clean, [], kind)
        equal((found[-1][0] <= SIZE, sum(found[-1])), (True, h.get_size()), "%s: %s" % (kind, found[-3:]))
        h.shutdown()
        d.stop()


@test
def a_session_has_the_size_that_it_shows(tmp):
    "a client that connects while the disk grows can write to the end that it is shown"
    with serve_disk(tmp, *next(images(tmp)), bitmaps=[]) as d:
        over = threading.Event()

        def connects():
            while not over.is_set():
                h = d.nbd("d")
                h.pwrite(b"e" * 512, h.get_size() - 512)
                h.shutdown()

        def grows():
            try:
                for i in range(200):
                    d.qmp("block_resize", node_name="d", size=SIZE + (i + 1) * 4096)
            finally:
                over.set()
        in_threads(connects, connects, connects, grows)


def grow_under_backup(d, kind, expected):
    """A backup whose disk grows while it is written and the backup is read: what was written meanwhile, and the new
    size."""
    size, written, over = len(expected), [], threading.Event()
    snapshot = d.nbd("d@b", [B, "base:allocation"])
    equal(snapshot.get_size(), size, kind)

    def writes(client):
        h, rand = d.nbd("d"), random.Random(client)
        while not over.is_set() or len(written) < 60:
            at = rand.randrange(h.get_size() // 4096 // 2) * 8192 + client * 4096
            h.pwrite(b"w" * 4096, at)
            written.append((at, 4096))
            if not rand.randrange(20):  # to what has been added, too
                h.shutdown()
                h = d.nbd("d")
        h.flush()
        h.shutdown()

    def grows():
        try:
            for i in range(4):
                d.qmp("block_resize", node_name="d", size=size + (i + 1) * 100 * 1024)
        finally:
            over.set()
    in_threads(*[lambda c=c: writes(c) for c in range(2)], grows)
    snapshot.shutdown()
    snapshot = d.nbd("d@b", [B])
    equal(snapshot.get_size(), size, kind)
    equal(snapshot.pread(size, 0) == expected, True, "%s: the disk at the instant" % kind)
    equal(dirty(snapshot, "b"), [(0, 65536)], kind)
    raises(Exception, snapshot.pread, 1, size)
    snapshot.shutdown()
    return written, size + 400 * 1024


def covers(d, bitmap, written, old, size, kind):
    d.qmp("block-export-add", type="nbd", id="x", name="x", node_name="d", writable=True, bitmaps=[bitmap])
    h = d.nbd("x", ["qemu:dirty-bitmap:" + bitmap])
    equal(h.get_size(), size, kind)
    found = dirty(h, bitmap)
    missing = [(at, n) for at, n in written + [(old, size - old)] if
               not any(o <= at and at + n <= o + m for o, m in found)]
    equal(missing, [], "%s: not dirty in %s" % (kind, bitmap))
    h.shutdown()


@test
def a_backup_keeps_its_size(tmp):
    "the disk of a running backup grows: its exports keep the size, and the bitmap that is left has what was added"
    for ending in "success", "failure", "kill":
        home = os.path.join(tmp, ending)
        os.mkdir(home)
        for kind, definition in list(images(home))[1:]:
            d = serve_disk(home, kind, definition, bitmaps=[])
            h = d.nbd("d")
            h.pwrite(b"o" * 65536, 0)
            expected = h.pread(SIZE, 0)
            h.shutdown()
            d.qmp("backup-begin", {"id": "b", "disks": [{"node": "d", "from": "b"}], "checkpoint": "c",
                                   "scratch": {"directory": tmp}})
            written, size = grow_under_backup(d, kind, expected)
            raises(QMPError, d.qmp, "block_resize", node_name="d", size=SIZE, match="'resize' are both required")
            if ending == "kill":
                d.kill()
                d = serve_disk(home, kind, definition, again=True, bitmaps=[])
            else:
                d.qmp("backup-end", id="b", success=ending == "success")
            left, gone = ("c", "b") if ending == "success" else ("b", "c")
            equal(d.bitmap("d", gone), None)
            covers(d, left, written, SIZE, size, kind + ", " + ending)
            d.stop()


@test
def growing_under_filters(tmp):
    "a disk grows under copy-before-write made by hand, whose snapshot keeps the size; so does a format's file"
    disks = ["--blockdev", "file,node-name=f,filename=" + image(tmp + "/f", SIZE - 4096),
             "--blockdev", "file,node-name=t,filename=" + image(tmp + "/t", SIZE - 4096)]
    with Daemon(tmp, *disks) as d:
        d.qmp("blockdev-add", driver="copy-before-write", node_name="cbw", file="f", target="t")
        d.qmp("block-export-add", type="nbd", id="d", name="d", node_name="cbw", writable=True)
        d.qmp("blockdev-add", driver="snapshot-access", node_name="s", file="cbw")
        d.qmp("block-export-add", type="nbd", id="s", name="s", node_name="s")
        d.qmp("block-dirty-bitmap-add", node="cbw", name="b")
        d.qmp("blockdev-add", driver="file", node_name="t2", filename=image(tmp + "/t2", SIZE - 4096))
        d.qmp("blockdev-add", driver="copy-before-write", node_name="beside", file="f", target="t2")
        for node, size in ("f", SIZE), ("cbw", GROWN):
            d.qmp("block_resize", node_name=node, size=size)
            h = d.nbd("d")
            equal(h.get_size(), size)
            h.pwrite(b"n" * 16384, size - 16384)
            equal(h.pread(2, size - 16385), b"\0n")
            h.shutdown()
        equal(d.bitmap("cbw", "b")["count"], GROWN - SIZE + 65536)
        sizes = {i["node-name"]: i["image"]["virtual-size"] for i in d.qmp("query-named-block-nodes", flat=True)}
        equal([sizes[n] for n in ("f", "cbw", "beside")], [GROWN] * 3)
        s = d.nbd("s")
        equal(s.pread(SIZE - 4096, 0), bytes(SIZE - 4096))
        s.shutdown()
        d.unexport("d")
        d.unexport("s")
        d.qmp("blockdev-del", node_name="s")
        d.qmp("blockdev-del", node_name="beside")
        raises(QMPError, d.qmp, "block_resize", node_name="cbw", size=SIZE // 2, match="can't become shorter")


@test
def a_job_keeps_its_size(tmp):
    "a disk grows while blockdev-backup copies it: the copy is as long as it was, and the bitmap has what was added"
    with serve_disk(tmp, *next(images(tmp)), bitmaps=[]) as d:
        h = d.nbd("d")
        h.pwrite(b"o" * (2 * MIB), MIB)
        with open(tmp + "/disk.file", "rb") as f:
            expected = f.read()
        d.qmp("blockdev-add", driver="file", node_name="t", filename=image(tmp + "/t", SIZE))
        d.qmp("blockdev-backup", job_id="j", device="d", target="t", sync="incremental", bitmap="b", speed=MIB)
        d.qmp("block_resize", node_name="d", size=GROWN)
        h.shutdown()
        h = d.nbd("d")
        for at in 0, 2 * MIB, SIZE - 4096, GROWN - 4096:
            h.pwrite(b"n" * 4096, at)
        d.qmp("block-job-set-speed", device="j", speed=0)
        d.monitor.wait_event("BLOCK_JOB_COMPLETED")
        with open(tmp + "/t", "rb") as f:
            equal(f.read() == expected, True)
        covers(d, "b", [(0, 4096), (2 * MIB, 4096), (SIZE - 4096, 4096)], SIZE, GROWN, "job")
        equal(d.bitmap("d", "b")["count"], GROWN - SIZE + 3 * 65536)
        h.shutdown()


@test(needs=["qemu-img"])
def a_format_grows_its_file(tmp):
    "a qcow2 image goes on allocating through a filter that keeps its file as it was"
    run("qemu-img", "create", "-q", "-f", "qcow2", tmp + "/q", "64M")
    with open(tmp + "/q", "rb") as f:
        before = f.read()
    with Daemon(tmp, "--blockdev", "file,node-name=f,filename=%s/q" % tmp,
                "--blockdev", "file,node-name=t,filename=" + image(tmp + "/t", len(before)),
                "--blockdev", "copy-before-write,node-name=cbw,file=f,target=t",
                "--blockdev", "snapshot-access,node-name=s,file=cbw", "--export", "nbd,id=s,node-name=s",
                "--blockdev", "qcow2,node-name=q,file=cbw", "--export", "nbd,id=q,node-name=q,writable=on") as d:
        h, s = d.nbd("q"), d.nbd("s")
        h.pwrite(b"x" * (4 * MIB), MIB)
        h.flush()
        equal(s.pread(s.get_size(), 0) == before, True)
        equal(h.pread(4 * MIB, MIB) == b"x" * (4 * MIB), True)
        h.shutdown(), s.shutdown()
    run("qemu-img", "check", tmp + "/q")


main()
