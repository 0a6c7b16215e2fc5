#!/usr/bin/python3
# SPDX-FileCopyrightText: 2026 The Tidemark authors
# SPDX-License-Identifier: GPL-2.0-or-later
# timeout: 180
"""Bitmaps that are kept in the cluster beside their image (bitmap-place=disk): two daemons are two hosts, which share
nothing but the cluster. What is dirty afterwards is compared with what was written, and is never less."""
import json
import os
import random
import shutil
import signal
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from images import *  # noqa: E402,F403
from images import cluster_module, harness  # noqa: E402

BOUND = SIZE // 200  # what may be dirty without having been written


def Host(tmp, image, *args, name="d", writable="on", **options):
    """A daemon with the image as disk0, exported with its bitmaps."""
    options = dict({"pool": "rbd", "image": image, "conf": cluster().conf, "bitmap-place": "disk",
                    "bitmap-accept-changed": "on"}, **{k.replace("_", "-"): v for k, v in options.items()})
    more = ",".join("%s=%s" % pair for pair in options.items())
    return harness.Daemon(tmp, "--module", cluster_module.MODULE, "--blockdev", "driver=rbd,node-name=disk0," + more,
                          "--export", "type=nbd,id=e0,node-name=disk0,writable=" + writable, *args, name=name)


def store(image):
    """The object of the image's bitmaps."""
    return "rbd_tidemark.%s.bitmaps" % json.loads(cluster().rbd("info", "--format", "json", "rbd/" + image))["id"]


def rados(*args, check=True):
    return run("rados", "-c", cluster().conf, "-p", "rbd", *args, check=check)


def granules(offset, length):
    return set(range(offset // GRANULE, (offset + length - 1) // GRANULE + 1))


def dirty_of(d, bitmap="b0"):
    d.qmp("block-export-add", {"type": "nbd", "id": "eb", "node-name": "disk0", "name": "bitmaps",
                               "writable": True, "bitmaps": [bitmap]})
    h = d.nbd("bitmaps", contexts=["qemu:dirty-bitmap:" + bitmap])
    found = {g for o, n in dirty(h, bitmap) for g in granules(o, n)}
    h.shutdown()
    d.qmp("block-export-del", id="eb", mode="hard")
    return found


def covers(d, written, bitmap="b0"):
    """The bitmap has all that was written, and not much more."""
    found = dirty_of(d, bitmap)
    equal(sorted(written - found), [], "granules that were written and are clean")
    more = len(found - written) * GRANULE
    equal(more <= BOUND, True, "%d bytes are dirty and were not written" % more)
    equal(d.bitmap("disk0", bitmap).get("inconsistent", False), False)


def scatter(h, rng, n):
    """Writes here and there; what that touches."""
    touched = set()
    for _ in range(n):
        offset, length = rng.randrange(SIZE - MIB), rng.choice([1, 4096, 100000])
        h.pwrite(os.urandom(length), offset)
        touched |= granules(offset, length)
    return touched


@test
def from_host_to_host(tmp):
    "a bitmap follows the image: another host finds exactly what was written on the hosts before"
    image, rng, written = new_image("moves"), random.Random(1), set()
    with Host(tmp, image) as d:
        d.qmp("block-dirty-bitmap-add", node="disk0", name="b0", persistent=True)
        d.qmp("block-dirty-bitmap-add", node="disk0", name="old", persistent=True, granularity=4096, disabled=True)
    for i in range(3):
        with Host(tmp, image, name="host%d" % i) as d:
            equal(dirty_of(d), written)
            equal(d.bitmap("disk0", "old")["count"], 0)
            h = d.nbd()
            written |= scatter(h, rng, 10)
            h.shutdown()
            equal(dirty_of(d), written)
    with Host(tmp, image) as d:
        d.qmp("block-dirty-bitmap-clear", node="disk0", name="b0")
    with Host(tmp, image) as d:
        equal(dirty_of(d), set())
        d.qmp("block-dirty-bitmap-remove", node="disk0", name="b0")
        d.qmp("block-dirty-bitmap-remove", node="disk0", name="old")
        matches(rados("stat", store(image)).stdout, "size 0")
    with Host(tmp, image) as d:
        equal(d.qmp("query-named-block-nodes")[0].get("dirty-bitmaps", []), [])


@test
def a_host_is_lost(tmp):
    "after kill -9, with all local files gone, another host finds the bitmap with all that was written"
    image, rng, written = new_image("lost"), random.Random(2), set()
    for i in range(4):
        here = os.path.join(tmp, "host%d" % i)
        os.mkdir(here)
        d = Host(here, image)
        if not i:
            d.qmp("block-dirty-bitmap-add", node="disk0", name="b0", persistent=True)
        covers(d, written)
        h = d.nbd()
        written |= scatter(h, rng, 15)
        if i % 2:
            h.flush()
        d.kill()
        shutil.rmtree(here)
    with Host(tmp, image) as d:
        covers(d, written)


@test
def others_who_may_have_written(tmp):
    "without the user's word, a bitmap is inconsistent, because others may have written"
    image = new_image("shared")
    with Host(tmp, image) as d:
        d.qmp("block-dirty-bitmap-add", node="disk0", name="b0", persistent=True)
    with Host(tmp, image, bitmap_accept_changed="off") as d:
        equal(d.bitmap("disk0", "b0")["inconsistent"], True)
        matches(d.log(), "others may have written to the disk while it was not open here")


@test
def a_host_that_was_cut_off(tmp):
    "a host that hangs loses the store with the disk: what it writes afterwards fails, and changes neither"
    import nbd
    image = new_image("cut")
    d = Host(tmp, image)
    d.qmp("block-dirty-bitmap-add", node="disk0", name="b0", persistent=True)
    h = d.nbd()
    h.pwrite(b"a" * 4096, 0)
    h.flush()
    d.process.send_signal(signal.SIGSTOP)
    with Host(tmp, image, name="other") as other:
        covers(other, {0})
        mine = other.nbd()
        mine.pwrite(b"b" * 4096, 5 * GRANULE)
        d.process.send_signal(signal.SIGCONT)
        raises(nbd.Error, h.pwrite, b"c" * 4096, 20 * MIB, match="Input/output error")
        raises(nbd.Error, h.pwrite, b"c" * 4096, 0, match="Input/output error")
        matches(d.log(), "RBD image 'rbd/cut': .*every request fails from now on")
        mine.pwrite(b"b" * 4096, 9 * GRANULE)
        mine.shutdown()
    d.kill()
    with Host(tmp, image) as d:
        equal(dirty_of(d), {0, 5, 9})
    equal(cluster().export("rbd/cut")[:4096], b"a" * 4096)


@test
def a_store_that_was_taken_over(tmp):
    "where the cluster shuts nobody out, the owner of the store does: the first write that needs a mark fails"
    import nbd
    image = new_image("taken")
    d = Host(tmp, image)
    d.qmp("block-dirty-bitmap-add", node="disk0", name="b0", persistent=True)
    h = d.nbd()
    h.pwrite(b"a" * 4096, 0)
    name = store(image)
    rados("get", name, os.path.join(tmp, "before"))
    rados("setxattr", name, "tidemark.owner", "somebody else of 24 byte")
    raises(nbd.Error, h.pwrite, b"c" * 4096, 20 * MIB, match="Input/output error")
    raises(nbd.Error, h.pwrite, b"c" * 4096, 0, match="Input/output error")
    matches(d.log(), "RBD image 'rbd/taken': another host has taken over the store of its bitmaps")
    rados("get", name, os.path.join(tmp, "after"))
    equal(open(os.path.join(tmp, "after"), "rb").read() == open(os.path.join(tmp, "before"), "rb").read(), True)
    d.kill()
    equal(cluster().export("rbd/taken")[20 * MIB:20 * MIB + 4096], bytes(4096))


@test
def a_cluster_that_does_not_answer(tmp):
    "a first touch waits for the cluster, is not acknowledged before its mark is there, and then goes on"
    import nbd
    image = new_image("silent")
    d = Host(tmp, image)
    d.qmp("block-dirty-bitmap-add", node="disk0", name="b0", persistent=True)
    h = d.nbd()
    h.pwrite(b"a" * 4096, 0)
    osd = [p for p in cluster().processes if "osd" in p.args[0]][0]
    osd.send_signal(signal.SIGSTOP)
    try:
        cookie = h.aio_pwrite(nbd.Buffer.from_bytearray(bytearray(b"b" * 4096)), 30 * MIB)
        h.poll(300)
        equal(h.aio_command_completed(cookie), False, "a write was acknowledged that nothing has recorded")
        d.qmp("query-status")
    finally:
        osd.send_signal(signal.SIGCONT)
    while not h.aio_command_completed(cookie):
        h.poll(-1)
    d.kill()
    with Host(tmp, image, name="other") as other:
        covers(other, {0, 30 * MIB // GRANULE})


def pool_is_full():
    return "full" in json.loads(cluster().ceph("osd", "dump", "--format", "json"))["pools"][0]["flags_names"]


def set_full(ratio):
    for kind in ("nearfull", "backfillfull", "full"):
        cluster().ceph("osd", "set-%s-ratio" % kind, ratio)


_places = iter(range(SIZE // 2, SIZE, 4096))


def refuses(h):
    """Whether a write is refused that needs space: each is where nothing was written before."""
    import nbd
    try:
        h.pwrite(b"more", next(_places))
        return False
    except nbd.Error as e:
        equal(e.errno, "ENOSPC")
        return True


@test
def a_full_pool(tmp):
    "in a full pool what is overwritten is marked before it is acknowledged, and is dirty on the next host"
    with own_cluster():
        image, rng = new_image("full"), random.Random(5)
        d = Host(tmp, image)
        h = d.nbd()
        for at in range(0, SIZE // 2, OBJECT):
            h.pwrite(b"a" * OBJECT, at)
        d.qmp("block-dirty-bitmap-add", node="disk0", name="b0", persistent=True)
        set_full("0.02")
        wait_until(pool_is_full, "the pool to be full")
        wait_until(lambda: refuses(h), "the OSD to know that it is full")
        written = set()
        for _ in range(20):
            at = rng.randrange(SIZE // 2 - GRANULE)
            h.pwrite(b"b" * 4096, at)
            written |= granules(at, 4096)
        d.kill()
        set_full("0.9")
        wait_until(lambda: not pool_is_full(), "the pool to have space")
        with Host(tmp, image, name="other") as other:
            equal(sorted(written - dirty_of(other)), [], "granules that were written and are clean")
            h = other.nbd()
            wait_until(lambda: not refuses(h), "writes to succeed")
            h.shutdown()


@test
def options(tmp):
    "bitmap-place=disk needs a driver that keeps bitmaps, and no bitmap-store"
    image = new_image("options")
    disk = os.path.join(tmp, "disk")
    open(disk, "wb").truncate(MIB)
    p = run(TIDEMARKD, "--blockdev", "driver=file,node-name=f,bitmap-place=disk,filename=" + disk, check=False)
    matches(p.stderr, "Node 'f' can't have bitmap-place=disk: its driver 'file' can't keep bitmaps beside its disk")
    p = run(TIDEMARKD, "--module", cluster_module.MODULE, "--blockdev",
            "driver=rbd,node-name=r,bitmap-place=disk,pool=rbd,image=%s,bitmap-store=%s/s,conf=%s" % (
                image, tmp, cluster().conf), check=False)
    matches(p.stderr, "Node 'r' has the options bitmap-store, which names a file, and bitmap-place=disk")
    with Host(tmp, image) as d:
        d.qmp("block-dirty-bitmap-add", node="disk0", name="b0", persistent=True)
        with Host(tmp, image, name="reader", read_only="on", writable="off") as reader:
            equal(reader.qmp("query-named-block-nodes")[0].get("dirty-bitmaps", []), [])
            matches(reader.log(), "is in use by another process")
        raises(QMPError, d.qmp, "blockdev-reopen", options=[{"driver": "rbd", "node-name": "disk0", "pool": "rbd",
                                                             "image": image}],
               match="does not support reopening")
    with Host(tmp, image, name="reader", read_only="on", writable="off") as reader:
        equal(reader.bitmap("disk0", "b0")["count"], 0)


main()
