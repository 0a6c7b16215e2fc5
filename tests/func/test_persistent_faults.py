#!/usr/bin/python3
# SPDX-FileCopyrightText: 2026 The Tidemark authors
# SPDX-License-Identifier: GPL-2.0-or-later
"""A store that the daemon can't write, or that is taken from under it: writes to the disk go on, the bitmap
degrades honestly and is told, heals once it can, and never calls clean what was written."""
import os
import signal
import time

from harness import *

MIB = 1 << 20
G = 65536
SIZE = 64 * MIB
REGION = 64 * MIB  # of the map of a disk of 1 TiB


class Small:
    """A file system of a few hundred KiB for stores, mounted while the case runs; skips without root."""

    def __init__(self, tmp, size="256k"):
        self.path = os.path.join(tmp, "small")
        os.mkdir(self.path)
        if os.getuid() or run("mount", "-t", "tmpfs", "-o", "size=" + size, "tmpfs", self.path,
                              check=False).returncode:
            skip("only root can mount a small file system")

    def fill(self):
        with open(os.path.join(self.path, "ballast"), "wb", buffering=0) as f:
            try:
                while True:
                    f.write(bytes(4096))
            except OSError:
                pass

    def empty(self):
        os.unlink(os.path.join(self.path, "ballast"))

    def __enter__(self):
        return self

    def __exit__(self, *_):
        run("umount", "-l", self.path)


def start(tmp, store, size=None):
    return Daemon(tmp, *disk(tmp, "disk0", size, bitmap_store=store))


def add(d, name, **more):
    d.qmp("block-dirty-bitmap-add", dict({"node": "disk0", "name": name, "persistent": True,
                                          "granularity": G}, **more))


def write(d, *granules):
    h = d.nbd("disk0")
    for n in granules:
        h.pwrite(b"x" * 512, n * G)
    h.shutdown()


def granules(d, name):
    d.qmp("block-export-add", {"type": "nbd", "id": "x", "node-name": "disk0", "name": "x",
                               "bitmaps": [name], "writable": True})
    h = d.nbd("x", ["qemu:dirty-bitmap:" + name])
    found = {n for o, length in dirty(h, name) for n in range(o // G, -(-(o + length) // G))}
    h.shutdown()
    d.unexport("x")
    return found


def covers(d, name, written):
    """The bitmap is inconsistent, or has at least these."""
    info = d.bitmap("disk0", name)
    if not info.get("inconsistent"):
        equal(written - granules(d, name), set(), "called clean: %s" % info)
    return info


@test
def full_at_a_command(tmp):
    "a full file system refuses new bitmaps with the reason and leaves the others as they are"
    with Small(tmp) as small:
        store = os.path.join(small.path, "b")
        with start(tmp, store, SIZE) as d:
            add(d, "b")
            write(d, 1)
            small.fill()
            e = raises(QMPError, add, d, "c", match="No space left on device")
            matches(e.desc, os.path.basename(store))
            raises(QMPError, d.qmp, "transaction", match="No space", actions=[
                {"type": "block-dirty-bitmap-clear", "data": {"node": "disk0", "name": "b"}},
                {"type": "block-dirty-bitmap-add", "data": {"node": "disk0", "name": "d",
                                                            "persistent": True}}])
            equal(d.bitmap("disk0", "c"), None)
            equal(d.bitmap("disk0", "d"), None)
            equal(granules(d, "b"), {1})
            write(d, 2)
            d.kill()
        with start(tmp, store) as d:
            equal(granules(d, "b"), {1, 2})
            small.empty()
            add(d, "c")


@test
def full_at_the_end(tmp):
    "a full file system at the end: the exit status says so, and what others change meanwhile is dirty"
    with Small(tmp, "1m") as small:
        store = os.path.join(small.path, "b")
        with start(tmp, store, SIZE) as d:
            add(d, "b", granularity=4096)
            write(d, *range(0, 1000, 3))
            small.fill()
            d.process.send_signal(signal.SIGTERM)
            d.wait(1)
        with open(os.path.join(tmp, "disk0.img"), "r+b") as f:
            f.seek(700 * G)
            f.write(b"y" * G)
        small.empty()
        with start(tmp, store) as d:
            covers(d, "b", set(range(0, 1000, 3)) | {700})


@test
def full_under_writes(tmp):
    "a full file system under writes: they go on, the bitmap says that it is coarse, and heals"
    with Small(tmp, "32m") as small:
        store = os.path.join(small.path, "b")
        size = 1 << 40
        with start(tmp, store, size) as d:
            add(d, "b", granularity=4096)
            small.fill()
            written = set(range(0, size // G, size // G // 64))
            write(d, *written)
            d.monitor.wait_event("BITMAP_DEGRADED")
            equal(written - granules(d, "b"), set(), "called clean while it could not be stored")
            d.kill()
        with start(tmp, store) as d:
            info = covers(d, "b", written)
            equal(info["recovered"], info["count"], "what is dirty for want of room: %s" % info)
            equal(info["count"] <= len(written) * REGION, True, info)
            matches(info["reason"], "no room for marks: 64 regions")
            small.empty()
            write(d, 12345)
            d.monitor.wait_event("BITMAP_HEALED")
            d.kill()
        with start(tmp, store) as d:
            covers(d, "b", written | {12345})


@test
def cut_off_under_it(tmp):
    "a store that is truncated while it is mapped does not kill the daemon; the bitmap degrades and heals"
    store = os.path.join(tmp, "b")
    for length in (0, 4096, 20000):
        with start(tmp, store, SIZE) as d:
            add(d, "b")
            write(d, 1, 2)
            os.truncate(store, length)
            write(d, 3, *range(500, 520))
            wait_until(lambda: not d.bitmap("disk0", "b").get("reason") or d.monitor.events, "a word")
            covers(d, "b", {1, 2, 3})
            d.kill()
        with start(tmp, store) as d:
            info = d.bitmap("disk0", "b")
            if info:
                covers(d, "b", {1, 2, 3} | set(range(500, 520)))
                d.qmp("block-dirty-bitmap-remove", node="disk0", name="b")
            d.stop()
        if os.path.exists(store):
            os.unlink(store)


@test
def deleted_under_it(tmp):
    "a store that is deleted while it is open is missed within seconds and made anew"
    store = os.path.join(tmp, "b")
    with start(tmp, store, SIZE) as d:
        add(d, "b")
        write(d, 1)
        os.unlink(store)
        write(d, 2)
        matches(d.monitor.wait_event("BITMAP_DEGRADED")["data"]["reason"], "it was deleted")
        d.monitor.wait_event("BITMAP_HEALED")
        write(d, 3)
        equal(granules(d, "b"), {1, 2, 3})
        d.kill()
    with start(tmp, store) as d:
        equal(granules(d, "b"), {1, 2, 3})


@test
def foreign_file_over_it(tmp):
    "a file that was moved over an open store is somebody's: it is kept, and healing waits for the path"
    store = os.path.join(tmp, "b")
    with start(tmp, store, SIZE) as d:
        add(d, "b")
        write(d, 1)
        with open(store + ".letter", "w") as f:
            f.write("a letter\n" * 2000)
        os.rename(store + ".letter", store)
        matches(d.monitor.wait_event("BITMAP_DEGRADED")["data"]["reason"], "it was deleted")
        write(d, 2)
        time.sleep(3)
        equal(open(store).read(8), "a letter", "somebody's file was overwritten")
        os.unlink(store)
        d.monitor.wait_event("BITMAP_HEALED")
        equal(granules(d, "b"), {1, 2})
        d.kill()
    with start(tmp, store) as d:
        equal(granules(d, "b"), {1, 2})


@test
def strange_files(tmp):
    "a directory, FIFO, device or foreign file in the store's place is reported by name, and never waited for"
    store = os.path.join(tmp, "b")
    image(os.path.join(tmp, "disk0.img"), SIZE)

    def make_text():
        with open(store, "w") as f:
            f.write("a letter\n" * 2000)

    for make, remove in ((lambda: os.mkdir(store), os.rmdir), (lambda: os.mkfifo(store), os.unlink),
                         (lambda: os.symlink("/dev/zero", store), os.unlink),
                         (make_text, os.unlink)):
        make()
        done = run(TIDEMARKD, *disk(tmp, "disk0", export=False, bitmap_store=store), "--blockdev",
                   "driver=nonsense,node-name=stop", check=False)
        equal(done.returncode, 1)
        matches(done.stderr, "%s|nonsense" % store)
        if make is make_text:
            equal(open(store).read(8), "a letter", "somebody's file was overwritten")
        remove(store)


main()
