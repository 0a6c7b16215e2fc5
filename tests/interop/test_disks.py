#!/usr/bin/python3
# SPDX-FileCopyrightText: 2026 The Tidemark authors
# SPDX-License-Identifier: GPL-2.0-or-later
# timeout: 300
"""Kinds of disks as other people's clients see them: preallocated, huge and sparse, loop devices."""
import random

from harness import *

M = 1 << 20


def pattern(seed, size):
    return random.Random(seed).randbytes(size)


def filled(tmp, size=6 * M, name="disk0.img"):
    """A disk with data at both ends and in the middle, holes between them."""
    return image(os.path.join(tmp, name), size,
                 [(0, pattern(1, 100000)), (3 * M + 512, pattern(2, 65536)),
                  (size - 5000, pattern(3, 5000))])


def serve(tmp, path, **more):
    more.setdefault("discard", "unmap")
    return Daemon(tmp, *disk(tmp, "disk0", path=path, **more))


def contents(path):
    with open(path, "rb") as f:
        return f.read()


def tool_json(*command):
    return json.loads(run(*command).stdout)


def opts(d, export="disk0", **more):
    """--image-opts of QEMU's tools for an export."""
    return "driver=nbd,server.type=unix,server.path=%s,export=%s%s" % (
        d.nbd_path, export, "".join(",%s=%s" % (k.replace("_", "-"), v) for k, v in more.items()))


def add(d, name="b0", node="disk0", export="exp-disk0", **more):
    """A bitmap, offered by the export; nothing else is."""
    d.qmp("block-dirty-bitmap-add", node=node, name=name, **more)
    d.qmp("block-export-dirty-bitmap", id=export, bitmaps=[name])


@test(needs=["qemu-img"])
def img_map_no_such_bitmap(tmp):
    "a bitmap that the export doesn't offer is refused by the client"
    with serve(tmp, filled(tmp)) as d:
        done = run("qemu-img", "map", "--image-opts", opts(d, x_dirty_bitmap="qemu:dirty-bitmap:no"),
                   check=False)
        equal(done.returncode, 1)
        matches(done.stderr, "x-dirty-bitmap")


@test(needs=["nbdinfo", "qemu-io"])
def preallocated(tmp):
    "a preallocated disk reads as zeroes, and takes data"
    path = os.path.join(tmp, "disk0.img")
    with open(path, "wb") as f:
        os.posix_fallocate(f.fileno(), 0, 4 * M)
    with serve(tmp, path) as d:
        run("qemu-io", "-f", "raw", "-c", "read -P 0 0 4M", "-c", "write -P 5 1M 64k", "-c",
            "read -P 5 1M 64k", d.uri())
        found = tool_json("nbdinfo", "--json", "--map", d.uri())
        equal([e["type"] & 2 for e in found if e["offset"] <= M < e["offset"] + e["length"]], [0])


@test(needs=["qemu-io", "nbdinfo", "qemu-img"])
def large(tmp):
    "sparse disks of 5 GiB and 8 TiB have the right data, bitmaps and block status beyond 4 GiB"
    for size in (5 << 30, 8 << 40):
        path = os.path.join(tmp, "disk0.img")
        try:
            image(path, size)
        except OSError as e:
            skip("no file of %d bytes here: %s" % (size, e.strerror))
        at = size - 3 * M
        with serve(tmp, path) as d:
            add(d, granularity=65536)
            run("qemu-io", "-f", "raw", "-c", "write -P 1 4G 64k", "-c", "write -P 2 %d 1M" % at, "-c",
                "read -P 1 4G 64k", "-c", "read -P 2 %d 1M" % at, "-c", "read -P 0 2G 64k",
                "-c", "write -nz 1G 3G" if size < 1 << 40 else "flush", d.uri())
            dirt = [(4 << 30, 65536), (at, M)]
            if size < 1 << 40:
                dirt = [(1 << 30, (3 << 30) + 65536), (at, M)]
            equal([(e["offset"], e["length"]) for e in
                   tool_json("nbdinfo", "--json", "--map=qemu:dirty-bitmap:b0", d.uri()) if e["type"]], dirt)
            equal(sum(e["length"] for e in tool_json("qemu-img", "map", "--output=json", "--image-opts",
                                                     opts(d))), size)
        os.unlink(path)


@test(needs=["losetup", "qemu-io", "nbdinfo"])
def loop_device(tmp):
    "a loop device is served, mapped, discarded and never grown"
    if os.geteuid():
        skip("only root can set up a loop device")
    path = image(os.path.join(tmp, "backing"), 4 * M)
    done = run("losetup", "-f", "--show", path, check=False)
    if done.returncode:
        skip("no loop device to be had: %s" % done.stderr.strip())
    device = done.stdout.strip()
    try:
        with Daemon(tmp, "--blockdev", "driver=host_device,node-name=disk0,discard=unmap,filename=" + device,
                    "--export", "type=nbd,id=exp-disk0,node-name=disk0,name=disk0,writable=on") as d:
            add(d, granularity=65536)
            run("qemu-io", "-f", "raw", "-c", "write -P 3 1M 64k", "-c", "read -P 3 1M 64k", "-c",
                "discard 1M 64k", "-c", "read -P 0 1M 64k", "-c", "write -P 4 3M 64k", d.uri())
            h = d.nbd(contexts=["qemu:dirty-bitmap:b0"])
            equal(dirty(h, "b0"), [(M, 65536), (3 * M, 65536)])
            h.shutdown()
            d.stop()
        equal(contents(path)[3 * M:3 * M + 65536], b"\4" * 65536)
    finally:
        run("losetup", "-d", device)


main()
