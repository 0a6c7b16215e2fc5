#!/usr/bin/python3
# SPDX-FileCopyrightText: 2026 The Tidemark authors
# SPDX-License-Identifier: GPL-2.0-or-later
# timeout: 240
"""qcow2 images whose file ends where the image does not: within a cluster, or before clusters that it has; disks that
grow over what tables have behind their end; and media that are full. As QEMU takes them, and nothing is lost."""
import json
import os
import struct


from harness import *
import nbd
from images import create

NEEDS = ["qemu-img", "qemu-io"]
K, M, G = 1 << 10, 1 << 20, 1 << 30
LATIN = os.fsdecode(b"caf\xe9")


def serve(tmp, path, driver="file", **more):
    definition = dict({"driver": "qcow2", "node-name": "disk0", "discard": "unmap",
                       "file": {"driver": driver, "filename": path, "discard": "unmap"}}, **more)
    return Daemon(tmp, "--blockdev", json.dumps(definition), "--export",
                  "type=nbd,id=e,node-name=disk0,name=disk0,writable=on")


def qemu_io(path, *commands, discard="ignore"):
    run("qemu-io", "-f", "qcow2", "-d", discard, *(x for c in commands for x in ("-c", c)), path)


def reads(path, *commands):
    "what a writer of QEMU's patterns finds there"
    done = run("qemu-io", "-r", "-f", "qcow2", *(x for c in commands for x in ("-c", c)), path, check=False)
    equal((done.returncode, "Pattern verification failed" in done.stdout), (0, False), done.stdout)


def sound(path, corrupt=False):
    info = json.loads(run("qemu-img", "info", "--output=json", path).stdout)
    equal(info["format-specific"]["data"].get("corrupt", False), corrupt)
    if not corrupt:
        done = run("qemu-img", "check", path, check=False)
        equal(done.returncode, 0, done.stdout)


def shorten(path, bytes_):
    os.truncate(path, os.stat(path).st_size - bytes_)


@test(needs=NEEDS)
def within_a_cluster(tmp):
    "data written into the last cluster beyond the end of the file is there after a clean end"
    for options, cluster in (("extended_l2=on", 64 * K), ("", 64 * K), ("cluster_size=2M", 2 * M)):
        path = create(os.path.join(tmp, "a"), options, 8 * M)
        qemu_io(path, "write -q -P 1 0 2k")
        os.truncate(path, (os.stat(path).st_size - 1) // cluster * cluster + 2048)
        with serve(tmp, path) as d:
            h = d.nbd()
            h.pwrite(b"\2" * 16384, cluster // 2)
            h.flush()
        reads(path, "read -P 1 0 2k", "read -P 2 %d 16k" % (cluster // 2))
        with serve(tmp, path) as d:
            h = d.nbd()
            h.pwrite(b"\3" * 4096, 4 * M)
            h.zero(4096, 4 * M)
        reads(path, "read -P 1 0 2k", "read -P 2 %d 16k" % (cluster // 2), "read -P 0 2k %d" % (cluster // 2 - 2 * K))
        sound(path)


@test(needs=NEEDS)
def behind_the_end(tmp):
    "clusters and tables beyond the end of the file read as zeroes, can be written, and are given to nobody else"
    for lost in 64 * K, 4 * 64 * K, 5 * 64 * K, 5 * 64 * K + 100:  # data; all of it; the L2 table, too
        path = create(os.path.join(tmp, "b"), "", 4 * M)
        qemu_io(path, "write -q -P 1 0 256k")
        shorten(path, lost)
        with serve(tmp, path) as d:
            h = d.nbd()
            equal(h.pread(64 * K, 192 * K), bytes(64 * K))
            h.pwrite(b"\2" * 4096, 192 * K)
            h.pwrite(b"\3" * 4096, 0)
            h.pwrite(b"\4" * 4096, 512 * K)
            h.flush()
            h.zero(64 * K, 192 * K)
            h.flush()
            h.flush()
            h.pwrite(b"\5" * 512, 2 * M)
            equal(h.pread(64 * K, 2 * M), b"\5" * 512 + bytes(64 * K - 512))
            h.pwrite(b"\2" * 4096, 192 * K)
        sound(path) if lost == 64 * K else run("qemu-img", "info", path)
        reads(path, "read -P 2 192k 4k", "read -P 0 196k 60k", "read -P 3 0 4k", "read -P 4 512k 4k")


@test(needs=NEEDS)
def mended(tmp):
    "a repair gives a file its end back; without refcounts nothing is written before"
    path = create(os.path.join(tmp, "c"), "cluster_size=512", M)
    qemu_io(path, "write -q -P 1 0 256k")
    for end in os.stat(path).st_size - 8 * K, 128 * K:  # there is a refcount block
        os.truncate(path, end)
        if end == 128 * K:
            raises(Exception, serve, tmp, path, match="refcount .* is beyond the end of the file")
        tidemark("image", "check", "-q", "--repair", "all", path, check=False)
        sound(path)
        with serve(tmp, path) as d:
            h = d.nbd()
            h.pwrite(b"\2" * 4096, 192 * K)
            h.pwrite(b"\3" * 4096, 512 * K)
        sound(path)
        reads(path, "read -P 2 192k 4k", "read -P 3 512k 4k")


@test(needs=NEEDS)
def stale(tmp):
    "table entries beyond the end of the disk don't show when it grows"
    for size, at, grown in (M, "0", G), (M, "0", 600 * M), (M, "0", 1 << 40), (2 * M, None, 4 * M):
        path = create(os.path.join(tmp, "d"), "", size)
        if at is None:  # in the table that there is
            qemu_io(path, "write -q -P 7 0 2M")
            with open(path, "r+b") as f:
                f.seek(24)
                f.write(struct.pack(">Q", M))
        else:
            qemu_io(path, "write -q -b -P 77 %s 128k" % at)
        tidemark("image", "resize", "-q", path, str(grown))
        for start in (M, 512 * M):
            if start < grown:
                reads(path, "read -P 0 %d %d" % (start, min(grown - start, 64 * M)))
        sound(path)


@test(needs=NEEDS)
def shrunk_with_snapshots(tmp):
    "a disk shrinks although there are snapshots, which keep what they have"
    path = create(os.path.join(tmp, "s"), "cluster_size=4k", 64 * M)
    qemu_io(path, "write -q -P 1 0 1M", "write -q -P 2 40M 1M")
    run("qemu-img", "snapshot", "-c", "s", path)
    qemu_io(path, "write -q -P 3 40M 64k")
    tidemark("image", "resize", "-q", "--shrink", path, "10M")
    sound(path)
    tidemark("image", "resize", "-q", path, "50M")
    reads(path, "read -P 1 0 1M", "read -P 0 10M 40M")
    run("qemu-img", "snapshot", "-a", "s", path)
    reads(path, "read -P 1 0 1M", "read -P 2 40M 1M", "read -P 0 10M 30M")
    sound(path)


def until_full(h, unit, step):
    at = 0
    while True:
        try:
            h.pwrite(b"\1" * unit, at)
        except nbd.Error as e:
            equal(e.errno, "ENOSPC")
            return at // step
        at += step


@test(needs=NEEDS)
def full(tmp):
    "on a full file system answered writes can be flushed, and discards make room"
    where = os.path.join(tmp, "m")
    os.mkdir(where)
    if os.getuid() or run("mount", "-t", "tmpfs", "-o", "size=4M", "none", where, check=False).returncode:
        skip("tmpfs can't be mounted here")
    try:
        for options, size, unit, step in (("", G, 64 * K, 64 * K), ("cluster_size=4k", 16 * G, 4 * K, 2 * M),
                                          ("cluster_size=512", G, 4 * K, 68 * K)):
            path = create(os.path.join(where, "i"), options, size)
            with serve(tmp, path) as d:
                h = d.nbd()
                n = until_full(h, unit, step)
                h.flush()
                for i in range(0, n, 2):
                    h.trim(unit, i * step)
                h.flush()
                h.pwrite(b"\2" * unit, (n + 9) * step)
                h.flush()
                d.kill()
            run("qemu-img", "check", "-q", "-r", "leaks", path, check=False)
            sound(path)
            reads(path, *("read -q -P 1 %d %d" % (i * step, unit) for i in range(1, min(n, 41), 2)),
                  "read -q -P 2 %d %d" % ((n + 9) * step, unit))
            os.unlink(path)
    finally:
        run("umount", "-l", where)


@test(needs=NEEDS + ["losetup"])
def full_device(tmp):
    "a write that a block device has no space for fails with ENOSPC"
    path = image(os.path.join(tmp, "disk"), 4 * M)
    done = run("losetup", "-f", "--show", path, check=False)
    if done.returncode:
        skip("no loop device can be had")
    device = done.stdout.strip()
    try:
        create(device, "", 100 * M)
        with serve(tmp, device, "host_device") as d:
            h = d.nbd()
            n = until_full(h, 64 * K, 64 * K)
            h.flush()
        equal(n > 40, True)
        sound(device)
        reads(device, "read -P 1 0 %d" % (n * 64 * K))
    finally:
        run("losetup", "-d", device)


@test(needs=NEEDS)
def names_of_bytes(tmp):
    "a bitmap whose name is not UTF-8 is in nobody's way, goes on recording, and keeps its name"
    path = create(os.path.join(tmp, "n"), "", M)
    run("qemu-img", "bitmap", "--add", path, LATIN)
    with serve(tmp, path) as d:
        equal([b["name"] for b in d.qmp("query-named-block-nodes")[0]["dirty-bitmaps"]], ["caf\\xe9"])
        d.nbd().pwrite(b"\1" * 4096, 0)
    with serve(tmp, path) as d:
        equal(d.bitmap("disk0", "caf\\xe9")["count"], 65536)
    tidemark("image", "resize", "-q", path, "2M")
    tidemark("image", "check", "-q", path)
    equal(b"caf\xe9" in open(path, "rb").read(), True)
    tidemark("image", "bitmap", "--remove", path, LATIN)
    equal("bitmaps" in run("qemu-img", "info", path).stdout, False)
    equal(tidemark("image", "bitmap", "--add", path, LATIN, check=False).returncode, 1)
    sound(path)


main()
