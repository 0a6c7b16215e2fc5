#!/usr/bin/python3
# SPDX-FileCopyrightText: 2026 The Tidemark authors
# SPDX-License-Identifier: GPL-2.0-or-later
"""QEMU's programs as clients: qemu-img looks at, compares and copies our exports, qemu-io writes them."""
import json
import os
import random
import socket
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "func"))
from harness import *  # noqa: E402,F403

KIB, MIB, GIB = 1 << 10, 1 << 20, 1 << 30
NEEDS = ["qemu-img", "qemu-io"]


def noise(length, seed=1):
    return random.Random(seed).randbytes(length)


def image_opts(where, *more, name="disk0"):
    """What --image-opts takes for an export of a Daemon or at a TCP port."""
    if isinstance(where, int):
        server = ["server.type=inet", "server.host=127.0.0.1", "server.port=%d" % where]
    else:
        server = ["server.type=unix", "server.path=" + where.nbd_path]
    return ",".join(["driver=nbd", "export=" + name, *server, *more])


def image_map(*args):
    """qemu-img map as (start, length, data, zero, present), equal neighbours merged."""
    found = []
    for e in json.loads(run("qemu-img", "map", "--output=json", *args).stdout):
        state = (e["data"], e["zero"], e["present"])
        if found and found[-1][2:] == state:
            found[-1] = (found[-1][0], found[-1][1] + e["length"], *state)
        else:
            found.append((e["start"], e["length"], *state))
    return found


def image_bitmap(where, bitmap):
    """The dirty extents of a bitmap as x-dirty-bitmap shows them: dirty is what is no data."""
    opts = image_opts(where, "x-dirty-bitmap=qemu:dirty-bitmap:" + bitmap)
    return [(start, length) for start, length, data, *_ in image_map("--image-opts", opts) if not data]


def qemu_io(where, *commands, status=0, args=()):
    """Runs commands on the export, all by one qemu-io, and returns what it printed."""
    command = ["qemu-io", *args, "--image-opts", image_opts(where)]
    for c in commands:
        command += ["-c", c]
    p = run(*command, check=False)
    equal(p.returncode, status, p.stdout + p.stderr)
    if status == 0 and "failed" in p.stdout + p.stderr:
        fail(p.stdout + p.stderr)
    return p.stdout + p.stderr


def add_bitmaps(daemon, *names, **more):
    for name in names:
        daemon.qmp("block-dirty-bitmap-add", node="disk0", name=name, **more)
    daemon.qmp("block-export-add", {"type": "nbd", "id": "e0", "node-name": "disk0",
                                    "name": "disk0", "writable": True, "bitmaps": list(names)})


def over_tcp(daemon):
    """Lets a Daemon(nbd=False) listen on a free port, and returns that."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    daemon.qmp("nbd-server-start", {"addr": {"type": "inet", "data": {"host": "127.0.0.1",
                                                                      "port": str(port)}}})
    return port


def same_files(a, b):
    with open(a, "rb") as f, open(b, "rb") as g:
        equal(f.read() == g.read(), True, "%s and %s differ" % (a, b))


@test(needs=NEEDS)
def info(tmp):
    "qemu-img info shows the size, also an odd one and one beyond 4 GiB"
    args = [*disk(tmp, "a", MIB), *disk(tmp, "odd", 3 * MIB + 513), *disk(tmp, "big", 5 * GIB + 512)]
    with Daemon(tmp, *args, qmp=False) as d:
        for name, size in (("a", MIB), ("odd", 3 * MIB + 1024), ("big", 5 * GIB + 512)):
            got = json.loads(run("qemu-img", "info", "--output=json", d.uri(name)).stdout)
            # QEMU counts in sectors and rounds up
            equal((got["format"], got["virtual-size"]), ("raw", size), name)


@test(needs=NEEDS)
def map_of_file(tmp):
    "qemu-img map of the export equals that of the file: data, holes, fallocated, odd end"
    path = image(os.path.join(tmp, "disk0.img"), 16 * MIB + 512, [
        (0, noise(64 * KIB)), (5 * MIB, noise(MIB)), (16 * MIB, noise(512))])
    with open(path, "r+b") as f:
        os.posix_fallocate(f.fileno(), 8 * MIB, 2 * MIB)
    with Daemon(tmp, *disk(tmp, "disk0", path=path, writable=False), qmp=False) as d:
        ours = image_map("-f", "raw", d.uri())
        equal(ours, image_map("-f", "raw", "--force-share", path))
        equal([e[:3] for e in ours if e[2]], [
            (0, 64 * KIB, True), (5 * MIB, MIB, True), (16 * MIB, 512, True)])


@test(needs=NEEDS)
def map_of_sparse_giant(tmp):
    "a sparse disk of 9 TiB is mapped and compared at once"
    path = image(os.path.join(tmp, "disk0.img"), 9 << 40, [(5 * GIB, b"x" * 4096)])
    with Daemon(tmp, *disk(tmp, "disk0", path=path), qmp=False) as d:
        equal([e[:3] for e in image_map(d.uri())], [
            (0, 5 * GIB, False), (5 * GIB, 4096, True),
            (5 * GIB + 4096, (9 << 40) - 5 * GIB - 4096, False)])
        matches(run("qemu-img", "compare", "-U", d.uri(), path).stdout, "Images are identical")


@test(needs=NEEDS)
def bitmap_map(tmp):
    "x-dirty-bitmap shows what qemu-io wrote, zeroed and discarded, at each bitmap's granularity"
    with Daemon(tmp, *disk(tmp, "disk0", 8 * GIB, export=False, discard="unmap")) as d:
        d.qmp("block-dirty-bitmap-add", node="disk0", name="fine", granularity=512)
        add_bitmaps(d, "b0")
        for name in ("b0", "fine"):
            if name == "fine":
                d.qmp("block-export-dirty-bitmap", id="e0", bitmaps=["b0", "fine"])
            equal(image_bitmap(d, name), [])
        qemu_io(d, "write -P 1 1000k 4k", "write -z 4M 128k", "write -z -u 5G 64k",
                "discard 7G 1M", "write -P 2 8191M 1M", "flush")
        equal(image_bitmap(d, "b0"), [(960 * KIB, 64 * KIB), (4 * MIB, 128 * KIB),
                                      (5 * GIB, 64 * KIB), (7 * GIB, MIB), (8191 * MIB, MIB)])
        equal(image_bitmap(d, "fine"), [(1000 * KIB, 4 * KIB), (4 * MIB, 128 * KIB),
                                        (5 * GIB, 64 * KIB), (7 * GIB, MIB), (8191 * MIB, MIB)])
        p = run("qemu-img", "map", "--output=json", "--image-opts",
                image_opts(d, "x-dirty-bitmap=qemu:dirty-bitmap:none"), check=False)
        equal(p.returncode, 1)
        matches(p.stderr, "Could not open")


@test(needs=NEEDS)
def io_patterns(tmp):
    "what qemu-io writes, zeroes and discards is what it reads, and what the file holds"
    with Daemon(tmp, *disk(tmp, "disk0", 64 * MIB, discard="unmap"), qmp=False) as d:
        path = os.path.join(tmp, "disk0.img")
        qemu_io(d, "write -P 0xa5 0 40M", "read -v -P 0xa5 39M 512",  # more than one request's limit
                "write -z 1M 1M", "write -z -u 3M 1M", "discard 5M 1M", "write -P 7 -f 3500k 512",
                "aio_write -P 1 50M 64k", "aio_write -P 2 51M 64k", "aio_flush", "flush")
        checks = ["read -P 0xa5 0 1M", "read -P 0 1M 1M", "read -P 0xa5 2M 1M", "read -P 0 3M 428k",
                  "read -P 7 3500k 512", "read -P 0 5M 1M", "read -P 0xa5 6M 34M",
                  "read -P 0 40M 10M", "read -P 1 50M 64k", "read -P 2 51M 64k"]
        qemu_io(d, *checks)
        holes = [(e[0], e[1]) for e in image_map(d.uri()) if not e[2]]
        equal((5 * MIB, MIB) in holes, True, "no hole where it was discarded: %s" % holes)
        matches(qemu_io(d, "read -P 1 0 512", status=1), "Pattern verification failed")
        matches(qemu_io(d, "write 64M 512", status=1), "Input/output error|No space|Invalid arg")
    args = ["qemu-io", "-f", "raw", path]
    for c in checks:
        args += ["-c", c]
    equal("failed" in run(*args).stdout, False)


@test(needs=NEEDS)
def odd_size(tmp):
    "the last bytes of a disk of odd size are written and read"
    data = noise(MIB + 77)
    path = image(os.path.join(tmp, "disk0.img"), len(data), [(0, data)])
    with Daemon(tmp, *disk(tmp, "disk0", path=path), qmp=False) as d:
        copy = os.path.join(tmp, "copy")
        run("qemu-img", "convert", "-f", "raw", "-O", "raw", d.uri(), copy)
        with open(copy, "rb") as f:
            equal(f.read() == data + bytes(512 - 77), True, "the copy differs")
        qemu_io(d, "write -P 9 %d 77" % MIB, "read -P 9 %d 77" % MIB)
    equal(os.path.getsize(path), len(data))
    with open(path, "rb") as f:
        equal(f.read()[-78:], data[MIB - 1:MIB] + b"\x09" * 77)


@test(needs=NEEDS)
def read_only(tmp):
    "a read-only export is refused for writing and read without"
    path = image(os.path.join(tmp, "disk0.img"), MIB, [(0, noise(MIB))])
    with Daemon(tmp, *disk(tmp, "disk0", path=path, writable=False), qmp=False) as d:
        matches(qemu_io(d, "write 0 512", status=1),
                "request write access denied|read-only|Permission denied")
        matches(qemu_io(d, "read 0 1M", args=["-r"]), "read 1048576/1048576")
        run("qemu-img", "compare", d.uri(), path)


def copies(tmp, where, path):
    """convert to and from an export of 32 MiB, with several requests out of order."""
    uri = "nbd://127.0.0.1:%d/disk0" % where if isinstance(where, int) else where.uri()
    source = image(os.path.join(tmp, "source"), 32 * MIB, [
        (0, noise(MIB)), (9 * MIB, noise(5 * MIB, 2)), (32 * MIB - 512, noise(512, 3))])
    run("qemu-img", "convert", "-n", "-W", "-m", "8", "-f", "raw", "-O", "raw", source, uri)
    matches(run("qemu-img", "compare", "-f", "raw", "-F", "raw", source, uri).stdout, "identical")
    back = os.path.join(tmp, "back")
    run("qemu-img", "convert", "-W", "-m", "8", "-f", "raw", "-O", "raw", uri, back)
    same_files(source, back)
    equal(os.stat(back).st_blocks * 512 <= 8 * MIB, True, "the copy isn't sparse")
    qcow2 = os.path.join(tmp, "back.qcow2")
    run("qemu-img", "convert", "-O", "qcow2", "-f", "raw", uri, qcow2)
    run("qemu-img", "compare", qcow2, uri)
    qemu_io(where, "write -P 1 20M 512")
    p = run("qemu-img", "compare", "-f", "raw", "-F", "raw", source, uri, check=False)
    equal((p.returncode, p.stdout), (1, "Content mismatch at offset %d!\n" % (20 * MIB)))
    return source


@test(needs=NEEDS)
def convert_unix(tmp):
    "qemu-img convert and compare work both ways over a unix socket"
    with Daemon(tmp, *disk(tmp, "disk0", 32 * MIB, discard="unmap"), qmp=False) as d:
        source = copies(tmp, d, os.path.join(tmp, "disk0.img"))
        qemu_io(d, "write -z 20M 512")
    same_files(source, os.path.join(tmp, "disk0.img"))


@test(needs=NEEDS)
def convert_tcp(tmp):
    "qemu-img convert and compare work both ways over TCP, with threads and O_DIRECT"
    with Daemon(tmp, "--io-engine", "threads", *disk(tmp, "disk0", 32 * MIB, export=False,
                                                     cache__direct="on"), nbd=False) as d:
        port = over_tcp(d)
        add_bitmaps(d)
        source = copies(tmp, port, os.path.join(tmp, "disk0.img"))
        qemu_io(port, "write -z 20M 512")
    same_files(source, os.path.join(tmp, "disk0.img"))


@test(needs=NEEDS)
def incremental_backup(tmp):
    "an incremental backup by QEMU's tools makes the copy equal again"
    with Daemon(tmp, *disk(tmp, "disk0", 6 * GIB, export=False, discard="unmap")) as d:
        add_bitmaps(d, "b0", granularity=32768)
        qemu_io(d, "write -P 1 0 1M", "write -P 2 5G 1M")
        full = os.path.join(tmp, "full")
        run("qemu-img", "convert", "-f", "raw", "-O", "raw", d.uri(), full)
        d.qmp("block-export-dirty-bitmap", id="e0", bitmaps=[])
        d.qmp("block-dirty-bitmap-clear", node="disk0", name="b0")
        d.qmp("block-export-dirty-bitmap", id="e0", bitmaps=["b0"])
        qemu_io(d, "write -P 3 5243k 10k", "write -z -u 5G 512k", "write -P 4 3G 100k")
        for start, length in image_bitmap(d, "b0"):
            h = d.nbd()
            with open(full, "r+b") as f:
                f.seek(start)
                f.write(h.pread(length, start))
            h.shutdown()
        run("qemu-img", "compare", "-f", "raw", "-F", "raw", full, d.uri())


@test(needs=[*NEEDS, QSD])
def qsd_as_client(tmp):
    "qemu-storage-daemon re-exports our export, and its writes arrive and are marked"
    with Daemon(tmp, *disk(tmp, "disk0", 16 * MIB, export=False, discard="unmap")) as d:
        add_bitmaps(d, "b0")
        with Daemon(tmp, "--blockdev", "driver=nbd,node-name=n0,export=disk0,discard=unmap,"
                    "server.type=unix,server.path=" + d.nbd_path,
                    "--export", "type=nbd,id=e,node-name=n0,name=disk0,writable=on",
                    binary=QSD, name="q") as q:
            qemu_io(q, "write -P 5 1M 1M", "write -z 3M 64k", "discard 4M 64k", "flush",
                    "read -P 5 1M 1M", "read -P 0 2M 3M")
        equal(image_bitmap(d, "b0"), [(MIB, MIB), (3 * MIB, 64 * KIB), (4 * MIB, 64 * KIB)])
        qemu_io(d, "read -P 5 1M 1M", "read -P 0 2M 3M")


main()
