#!/usr/bin/python3
# SPDX-FileCopyrightText: 2026 The Tidemark authors
# SPDX-License-Identifier: GPL-2.0-or-later
"""Bitmaps that a driver keeps beside the disk (bitmap-place=disk), with a plug-in whose disk several daemons reach, one
after the other: closed, killed, handed over, cut off, and with a store that can't be written."""
import os
import random
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import harness  # noqa: E402
from harness import *  # noqa: E402,F403

MIB = 1 << 20
SIZE = 64 * MIB
GRANULE = 65536
MODULE = os.path.join(BUILDDIR, "tests", "plugin", "hosts.so")


def Host(tmp, *args, name="d", writable="on", **options):
    """A daemon that has the disk as disk0, and exports it with its bitmap b0, if that is there."""
    options = dict({"path": os.path.join(tmp, "disk"), "bitmap-place": "disk", "bitmap-accept-changed": "on"},
                   **{k.replace("_", "-"): v for k, v in options.items()})
    more = ",".join("%s=%s" % pair for pair in options.items())
    return harness.Daemon(tmp, "--module", MODULE, "--blockdev", "driver=hosts,node-name=disk0," + more, "--export",
                          "type=nbd,id=e0,node-name=disk0,writable=%s,allow-inactive=on" % writable, *args, name=name)


def new_disk(tmp):
    with open(os.path.join(tmp, "disk"), "wb") as f:
        f.truncate(SIZE)


def add(d, name="b0", **more):
    d.qmp("block-dirty-bitmap-add", node="disk0", name=name, persistent=True, **more)


def granules(offset, length):
    return set(range(offset // GRANULE, (offset + length - 1) // GRANULE + 1))


def dirty_of(d):
    d.qmp("block-export-add", {"type": "nbd", "id": "eb", "node-name": "disk0", "name": "bitmaps", "writable": True,
                               "bitmaps": ["b0"]})
    h = d.nbd("bitmaps", contexts=["qemu:dirty-bitmap:b0"])
    found = {g for o, n in dirty(h, "b0") for g in granules(o, n)}
    h.shutdown()
    d.qmp("block-export-del", id="eb", mode="hard")
    return found


@test
def from_host_to_host(tmp):
    "bitmaps are exact after a clean end; after kill -9 they have what was written, and at most the bound more"
    new_disk(tmp)
    rng, written = random.Random(1), set()
    with Host(tmp) as d:
        add(d)
        equal(os.path.exists(os.path.join(tmp, "disk.bitmaps")), False, "a local store was made")
    for i in range(6):
        d = Host(tmp, name="host%d" % i)
        found = dirty_of(d)
        equal(sorted(written - found), [], "granules that were written and are clean")
        equal(len(found - written) * GRANULE <= SIZE // 200 * (i + 1), True)
        if i % 2 == 1:
            equal(found, written, "after a clean end")
        h = d.nbd()
        for _ in range(10):
            offset, length = rng.randrange(SIZE - MIB), rng.choice([1, 4096, 100000])
            h.pwrite(bytes([1]) * length, offset)
            written |= granules(offset, length)
        if i % 2:
            d.kill()
            continue
        h.shutdown()
        written |= dirty_of(d)
        d.process.terminate()
        d.wait(0)
    with Host(tmp) as d:
        d.qmp("block-dirty-bitmap-remove", node="disk0", name="b0")
        equal(os.path.getsize(os.path.join(tmp, "disk.store")), 0)


@test
def handed_over(tmp):
    "an inactive node has let go of the store; the next host has its bitmaps, and so has the first one when it is back"
    new_disk(tmp)
    with Host(tmp) as one:
        add(one)
        h = one.nbd()
        h.pwrite(b"x", 0)
        one.qmp("blockdev-set-active", node_name="disk0", active=False)
        with Host(tmp, name="two") as two:
            equal(dirty_of(two), {0})
            mine = two.nbd()
            mine.pwrite(b"x", 5 * GRANULE)
            mine.shutdown()
        one.qmp("blockdev-set-active", node_name="disk0", active=True)
        equal(dirty_of(one), {0, 5})
        h.pwrite(b"x", 9 * GRANULE)
        h.shutdown()
        equal(dirty_of(one), {0, 5, 9})
    with Host(tmp) as d:
        equal(dirty_of(d), {0, 5, 9})


@test
def cut_off(tmp):
    "a host whose store was taken over writes neither the store nor the disk any more"
    import nbd
    new_disk(tmp)
    one = Host(tmp)
    add(one)
    h = one.nbd()
    h.pwrite(b"a", 0)
    with Host(tmp, name="two") as two:
        raises(nbd.Error, h.pwrite, b"b", 9 * GRANULE, match="Input/output error")
        matches(one.log(), "as the store can't be marked as out of date, the disk is not written any more")
        raises(nbd.Error, h.pwrite, b"b", 0, match="Input/output error")
        mine = two.nbd()
        mine.pwrite(b"c", 5 * GRANULE)
        mine.shutdown()
        one.process.terminate()
        one.wait(1)
        equal(dirty_of(two), {0, 5})
    with Host(tmp) as d:
        equal(dirty_of(d), {0, 5})
    with open(os.path.join(tmp, "disk"), "rb") as f:
        equal(f.read(1), b"a")


@test
def a_store_that_can_not_be_written(tmp):
    "if the store can be neither written nor marked, no write is acknowledged; a change of bitmaps fails and is undone"
    import nbd
    new_disk(tmp)
    broken = os.path.join(tmp, "disk.broken")
    with Host(tmp) as d:
        add(d)
    open(broken, "w").close()
    d = Host(tmp)
    h = d.nbd()
    raises(nbd.Error, h.pwrite, b"x", 0, match="Input/output error")
    d.kill()
    os.unlink(broken)
    with Host(tmp) as d:
        equal(dirty_of(d), set())
        open(broken, "w").close()
        raises(QMPError, add, d, "b1", match="Could not write bitmap store '.*/disk.store': No space left on device")
        os.unlink(broken)


@test
def what_is_refused(tmp):
    "the options are checked; the node can't be reopened; a reader has the bitmaps of a closed store"
    new_disk(tmp)
    p = run(TIDEMARKD, "--blockdev", "driver=file,node-name=f,bitmap-place=disk,filename=%s/disk" % tmp, check=False)
    matches(p.stderr, "Node 'f' can't have bitmap-place=disk: its driver 'file' can't keep bitmaps beside its disk")
    p = run(TIDEMARKD, "--module", MODULE, "--blockdev",
            "driver=hosts,node-name=r,bitmap-place=disk,path=%s/disk,bitmap-store=%s/s" % (tmp, tmp), check=False)
    matches(p.stderr, "Node 'r' has the options bitmap-store, which names a file, and bitmap-place=disk")
    with Host(tmp) as d:
        add(d)
        raises(QMPError, d.qmp, "blockdev-reopen", options=[{"driver": "hosts", "node-name": "disk0", "path": "x"}],
               match="does not support reopening")
    with Host(tmp, read_only="on", writable="off") as d:
        equal(d.bitmap("disk0", "b0")["count"], 0)
    with Host(tmp, bitmap_accept_changed="off") as d:
        equal(d.bitmap("disk0", "b0")["inconsistent"], True)


main()
