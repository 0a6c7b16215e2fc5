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


def serve_disk(tmp, kind, definition, again=False):
    d = Daemon(tmp, name=kind)
    d.qmp("blockdev-add", dict(definition, **{"node-name": "d"}))
    if not again:
        d.qmp("block-dirty-bitmap-add", node="d", name="b", persistent=True)
    d.qmp("block-export-add", type="nbd", id="d", node_name="d", writable=True, bitmaps=["b"])
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


main()
