#!/usr/bin/python3
# SPDX-FileCopyrightText: 2026 The Tidemark authors
# SPDX-License-Identifier: GPL-2.0-or-later
"""libnbd's programs, fio and nbdkit as clients of our exports; nbdkit as the server that the client copies."""
import json
import os
import random
import socket
import subprocess
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "func"))
from harness import *  # noqa: E402,F403
import nbd  # noqa: E402

KIB, MIB, GIB = 1 << 10, 1 << 20, 1 << 30


def noise(length, seed=1):
    return random.Random(seed).randbytes(length)


def same_files(a, b):
    with open(a, "rb") as f, open(b, "rb") as g:
        equal(f.read() == g.read(), True, "%s and %s differ" % (a, b))


def with_bitmaps(d, *names, **more):
    """Adds bitmaps to disk0 and exports it with them."""
    for name in names:
        d.qmp("block-dirty-bitmap-add", node="disk0", name=name)
    d.qmp("block-export-add", dict({"type": "nbd", "id": "e0", "node-name": "disk0", "name": "disk0",
                                    "writable": True, "bitmaps": list(names)}, **more))


def over_tcp(d):
    """Lets a Daemon(nbd=False) listen on a free port; returns the URI of disk0."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    d.qmp("nbd-server-start", {"addr": {"type": "inet", "data": {"host": "127.0.0.1",
                                                                 "port": str(port)}}})
    return "nbd://127.0.0.1:%d/disk0" % port


def info_map(uri, context="base:allocation", *more):
    """nbdinfo --map as (offset, length, type), equal neighbours merged."""
    found = []
    for e in json.loads(run("nbdinfo", "--json", "--map=" + context, *more, uri).stdout):
        if found and found[-1][2] == e["type"]:
            found[-1] = (found[-1][0], found[-1][1] + e["length"], e["type"])
        else:
            found.append((e["offset"], e["length"], e["type"]))
    return found


@test(needs=[QSD, "qemu-img"])
def preferred_block_size(tmp):
    "the preferred block size is qemu-storage-daemon's, whatever the disk is"
    raw, qcow2 = image(os.path.join(tmp, "a"), 4 * MIB), os.path.join(tmp, "q")
    run("qemu-img", "create", "-q", "-f", "qcow2", "-o", "cluster_size=2M", qcow2, "4M")
    nodes = ["file,filename=" + raw, "raw,cache.direct=on,file.driver=file,file.filename=" + raw,
             "qcow2,file.driver=file,file.filename=" + qcow2, "null-co,size=%d" % MIB,
             "blkdebug,align=65536,image.driver=null-co"]
    said = []
    for binary, name in ((None, "t"), (QSD, "q")):
        with Daemon(tmp, *(w for i, n in enumerate(nodes)
                           for w in ("--blockdev", "%s,node-name=n%d,read-only=on,auto-read-only=off" % (n, i),
                                     "--export", "nbd,id=e%d,node-name=n%d" % (i, i))), binary=binary, name=name) as d:
            handles = [d.nbd("n%d" % i) for i in range(len(nodes))]
            said.append([h.get_block_size(nbd.SIZE_PREFERRED) for h in handles])
            if not binary:
                equal({h.get_block_size(nbd.SIZE_MINIMUM) for h in handles}, {1})
    equal(*said)


@test(needs=["nbdinfo"])
def info_json(tmp):
    "nbdinfo --json shows size, flags, block sizes, contexts and the description"
    with Daemon(tmp, *disk(tmp, "disk0", 5 * GIB + 512, export=False)) as d:
        with_bitmaps(d, "b0", "b1", description="the disk", **{"allocation-depth": True})
        got = json.loads(run("nbdinfo", "--json", d.uri()).stdout)
        equal((got["protocol"], got["TLS"]), ("newstyle-fixed", False))
        e = got["exports"][0]
        equal({k: e[k] for k in ("export-size", "is_read_only", "can_flush", "can_fua", "can_trim",
                                 "can_zero", "can_df", "can_multi_conn", "can_cache", "is_rotational")},
              {"export-size": 5 * GIB + 512, "is_read_only": False, "can_flush": True,
               "can_fua": True, "can_trim": True, "can_zero": True, "can_df": True,
               "can_multi_conn": True, "can_cache": True, "is_rotational": False})
        equal(sorted(e["contexts"]), ["base:allocation", "qemu:allocation-depth",
                                      "qemu:dirty-bitmap:b0", "qemu:dirty-bitmap:b1",
                                      "x-tidemark:backup:b0", "x-tidemark:backup:b1"])
        equal(e["block_size_minimum"], 1)
        equal(e["block_size_preferred"], 4096)
        equal(e["block_size_maximum"], 32 * MIB)
        listed = json.loads(run("nbdinfo", "--json", "--list",
                                "nbd+unix://?socket=" + d.nbd_path).stdout)["exports"]
        equal([(x["export-name"], x["description"]) for x in listed], [("disk0", "the disk")])


@test(needs=["nbdinfo"])
def info_list(tmp):
    "nbdinfo --list lists every export once, writable or not"
    args = [*disk(tmp, "a", MIB), *disk(tmp, "b", 2 * MIB, writable=False), *disk(tmp, "c", 0)]
    with Daemon(tmp, *args, qmp=False) as d:
        uri = "nbd+unix://?socket=" + d.nbd_path
        listed = json.loads(run("nbdinfo", "--json", "--list", uri).stdout)["exports"]
        equal([(x["export-name"], x["export-size"], x["is_read_only"]) for x in listed],
              [("a", MIB, False), ("b", 2 * MIB, True), ("c", 0, False)])
        equal(run("nbdinfo", "--size", d.uri("b")).stdout, "%d\n" % (2 * MIB))
        p = run("nbdinfo", d.uri("none"), check=False)
        equal(p.returncode, 1)
        matches(p.stderr, "none|not (available|known)")


@test(needs=["nbdinfo"])
def can(tmp):
    "nbdinfo --can and --is answer by exit status, for writable and read-only"
    with Daemon(tmp, *disk(tmp, "rw", MIB), *disk(tmp, "ro", MIB, writable=False), qmp=False) as d:
        for name, question, expected in (
                ("rw", ("--can", "connect"), True), ("rw", ("--can", "write"), True),
                ("rw", ("--can", "flush"), True), ("rw", ("--can", "fua"), True),
                ("rw", ("--can", "trim"), True), ("rw", ("--can", "zero"), True),
                ("rw", ("--can", "fast-zero"), True), ("rw", ("--can", "df"), True),
                ("rw", ("--can", "cache"), True), ("rw", ("--can", "multi-conn"), True),
                ("rw", ("--can", "structured-reply"), True), ("rw", ("--is", "tls"), False),
                ("rw", ("--is", "read-only"), False), ("ro", ("--is", "read-only"), True),
                ("ro", ("--can", "write"), False), ("ro", ("--can", "trim"), False),
                ("ro", ("--can", "multi-conn"), True), ("none", ("--can", "connect"), False)):
            p = run("nbdinfo", *question, d.uri(name), check=False)
            equal(p.returncode == 0, expected, "%s %s: %s" % (name, question, p.stderr))


@test(needs=["nbdinfo"])
def own_contexts(tmp):
    "libnbd lists and reads user contexts and the joint context for backups"
    with Daemon(tmp, *disk(tmp, "disk0", 8 * GIB, export=False, discard="unmap")) as d:
        with_bitmaps(d, "b0")
        d.qmp("block-export-context-set", {"id": "e0", "name": "tier", "ranges": [
            {"offset": 5 * GIB, "length": GIB, "value": 0xffffffff},
            {"offset": 512, "length": 1, "value": 7}]})
        d.qmp("block-export-context-set", {"id": "e0", "name": "wide", "width": 64, "ranges": []})
        user, backup = "x-tidemark:user:tier", "x-tidemark:backup:b0"
        contexts = json.loads(run("nbdinfo", "--json", d.uri()).stdout)["exports"][0]["contexts"]
        equal(contexts, ["base:allocation", "qemu:dirty-bitmap:b0", backup, user])
        equal(info_map(d.uri(), user), [
            (0, 512, 0), (512, 1, 7), (513, 5 * GIB - 513, 0), (5 * GIB, GIB, 0xffffffff),
            (6 * GIB, 2 * GIB, 0)])
        equal(info_map(d.uri(), backup), [(0, 8 * GIB, 0)])
        h = d.nbd()
        h.pwrite(noise(65536), 0)
        h.zero(MIB, MIB)
        h.shutdown()
        equal(info_map(d.uri(), backup), [(0, 65536, 1), (65536, MIB - 65536, 0), (MIB, MIB, 3),
                                          (2 * MIB, 8 * GIB - 2 * MIB, 0)])


@test(needs=["nbdinfo"])
def maps(tmp):
    "nbdinfo --map shows allocation, depth and dirty bitmaps, with totals"
    path = image(os.path.join(tmp, "disk0.img"), 8 * GIB, [(MIB, noise(MIB)), (5 * GIB, noise(4096))])
    with Daemon(tmp, *disk(tmp, "disk0", path=path, export=False, discard="unmap")) as d:
        with_bitmaps(d, "b0", **{"allocation-depth": True})
        equal(info_map(d.uri()), [(0, MIB, 3), (MIB, MIB, 0), (2 * MIB, 5 * GIB - 2 * MIB, 3),
                                  (5 * GIB, 4096, 0), (5 * GIB + 4096, 3 * GIB - 4096, 3)])
        equal(info_map(d.uri(), "qemu:dirty-bitmap:b0"), [(0, 8 * GIB, 0)])
        depth = info_map(d.uri(), "qemu:allocation-depth")
        equal(sum(e[1] for e in depth), 8 * GIB)
        equal({e[2] for e in depth} <= {0, 1}, True, depth)
        equal([e[2] for e in depth if e[0] <= MIB < e[0] + e[1]], [1], "no depth 1 where data is")
        h = d.nbd()
        h.pwrite(noise(100), 6 * GIB - 50)
        h.trim(MIB, MIB)
        h.shutdown()
        equal(info_map(d.uri(), "qemu:dirty-bitmap:b0"), [
            (0, MIB, 0), (MIB, MIB, 1), (2 * MIB, 6 * GIB - 2 * MIB - 65536, 0),
            (6 * GIB - 65536, 131072, 1), (6 * GIB + 65536, 2 * GIB - 65536, 0)])
        totals = json.loads(run("nbdinfo", "--json", "--totals", "--map=qemu:dirty-bitmap:b0",
                                d.uri()).stdout)
        equal({t["type"]: t["size"] for t in totals}, {0: 8 * GIB - MIB - 131072, 1: MIB + 131072})
        p = run("nbdinfo", "--map=qemu:dirty-bitmap:none", d.uri(), check=False)
        equal(p.returncode, 1)
        matches(p.stderr, "does not support metadata context")


def nbdcopies(tmp, uri, *options):
    """A sparse file into the export and back, equal and still sparse; source size is 32 MiB + 513."""
    size = 32 * MIB + 513
    source = image(os.path.join(tmp, "source"), size, [
        (100, noise(MIB)), (9 * MIB, noise(5 * MIB, 2)), (size - 600, noise(600, 3))])
    back = os.path.join(tmp, "back")
    if os.path.exists(back):
        os.unlink(back)
    run("nbdcopy", "--flush", *options, source, uri)
    run("nbdcopy", *options, uri, back)
    same_files(source, back)
    equal(os.stat(back).st_blocks * 512 < 16 * MIB, True, "the copy isn't sparse")
    return source


@test(needs=[QSD])
def short_holes(tmp):
    "holes in short and long reads are reported as by qemu-storage-daemon"
    path = image(os.path.join(tmp, "s.img"), MIB, [(i * 8192, b"x" * 4096) for i in range(64)] +
                 [(MIB - 4096, b"y" * 2048)])
    with open(path, "r+b") as f:
        f.seek(600 << 10)
        f.write(bytes(8192))  # zeroes that are there

    def pieces(d):
        h = d.nbd()
        found = []
        for offset, length in ((0, 4096), (4096, 4096), (0, 8192), (4096, 12288), (5000, 1), (1000, 3000),
                               (4608, 512), (3000, 9000), (600 << 10, 4096), (596 << 10, 16384),
                               (MIB - 8192, 8192), (0, 65536), (0, MIB), (0, 32768)):
            at = []
            data = h.pread_structured(length, offset, lambda part, where, status, error: at.append(
                (where, len(part), status)))
            found.append((offset, length, sorted(at), bytes(data)))
        h.shutdown()
        return found

    with Daemon(tmp, *disk(tmp, "disk0", path=path, writable=False)) as d:
        warm = pieces(d)
    with Daemon(tmp, *disk(tmp, "disk0", path=path, writable=False, cache__direct="on"), name="c") as d:
        cold = pieces(d)
    with Daemon(tmp, *disk(tmp, "disk0", path=path, writable=False), binary=QSD, name="q") as d:
        qsd = pieces(d)
    for ours, theirs in zip(warm, qsd):
        equal(ours, theirs)
    for ours, theirs in zip(cold, qsd):
        equal(ours, theirs, "cache.direct=on")


@test(needs=["nbdcopy"])
def nbdcopy_alone(tmp):
    "nbdcopy works with one connection if there is no place for more"
    source = image(os.path.join(tmp, "source"), 4 * MIB, [(0, noise(MIB))])
    for places in (1, 2):
        with Daemon(tmp, *disk(tmp, "disk0", 4 * MIB, path=os.path.join(tmp, "d%d" % places)),
                    max_connections=places, name="m%d" % places) as d:
            held = [d.nbd() for _ in range(places - 1)]
            run("nbdcopy", source, d.uri())
            for h in held:
                h.shutdown()
        same_files(source, os.path.join(tmp, "d%d" % places))


@test(needs=["nbdcopy"])
def nbdcopy_unix(tmp):
    "nbdcopy copies both ways with one and several connections, over data and zeroes"
    path = os.path.join(tmp, "disk0.img")
    image(path, 32 * MIB + 513, [(0, noise(32 * MIB + 513, 9))])
    with Daemon(tmp, *disk(tmp, "disk0", path=path, discard="unmap"), qmp=False) as d:
        for options in ((), ("-C", "8", "-T", "8"), ("--synchronous",),
                        ("-C", "2", "--request-size=%d" % (32 * MIB),), ("--no-extents", "-S", "0")):
            if options[-1:] == ("0",):  # writes every zero, so nothing to say about holes
                run("nbdcopy", *options, os.path.join(tmp, "source"), d.uri())
                continue
            nbdcopies(tmp, d.uri(), *options)
    same_files(os.path.join(tmp, "source"), path)


@test(needs=["nbdcopy"])
def nbdcopy_tcp(tmp):
    "nbdcopy copies both ways over TCP, to and from io_uring with O_DIRECT"
    with Daemon(tmp, *disk(tmp, "disk0", 32 * MIB + 513, export=False, cache__direct="on",
                           aio="io_uring"), nbd=False) as d:
        uri = over_tcp(d)
        with_bitmaps(d, "b0")
        source = nbdcopies(tmp, uri, "-C", "4")
        equal(info_map(uri, "qemu:dirty-bitmap:b0") if have("nbdinfo") else None,
              [(0, 32 * MIB + 513, 1)] if have("nbdinfo") else None)
    same_files(source, os.path.join(tmp, "disk0.img"))


@test(needs=["nbdcopy"])
def nbdcopy_between(tmp):
    "nbdcopy copies from one export to another of the same daemon"
    source = image(os.path.join(tmp, "a.img"), 16 * MIB, [(0, noise(MIB)), (10 * MIB, noise(MIB, 2))])
    with Daemon(tmp, *disk(tmp, "a", path=source, writable=False), *disk(tmp, "b", 16 * MIB),
                qmp=False) as d:
        run("nbdcopy", "-C", "4", d.uri("a"), d.uri("b"))
    same_files(source, os.path.join(tmp, "b.img"))


@test
def shell(tmp):
    "nbdsh (python3 -m nbd) writes, zeroes, trims, caches, flushes and reads back"
    with Daemon(tmp, *disk(tmp, "disk0", MIB, discard="unmap"), qmp=False) as d:
        p = run(sys.executable, "-m", "nbd", "--base-allocation", "-u", d.uri(), "-c", """
h.pwrite(b'a' * 65536, 0, nbd.CMD_FLAG_FUA)
h.pwrite(b'b' * 65536, 65536)
h.zero(4096, 4096)
h.zero(4096, 12288, nbd.CMD_FLAG_NO_HOLE)
h.trim(65536, 65536)
h.cache(65536, 0)
h.flush()
print([bytes(h.pread(1, at)) for at in (0, 4096, 8192, 12288, 65535)])
e = []
h.block_status(1 << 20, 0, lambda c, o, entries, err: e.extend(entries))
print(e)
""")
        lines = p.stdout.splitlines()
        equal(lines[0], str([b"a", b"\0", b"a", b"\0", b"a"]))
        entries = json.loads(lines[1])
        equal(sum(entries[::2]), MIB)
        equal(entries[-1], 3)
        p = run(sys.executable, "-m", "nbd", "-u", d.uri(), "-c", "h.set_strict_mode(0)\nh.pread(2, h.get_size() - 1)",
                check=False)
        equal(p.returncode, 1)
        matches(p.stderr, "Invalid argument")


@test
def python_in_flight(tmp):
    "64 requests in flight on one connection complete, each with its own data"
    with Daemon(tmp, *disk(tmp, "disk0", 16 * MIB), qmp=False) as d:
        h = d.nbd()
        blocks = [noise(65536, i) for i in range(64)]
        cookies = [h.aio_pwrite(nbd.Buffer.from_bytearray(bytearray(b)), i * 200000)
                   for i, b in enumerate(blocks)]
        while h.aio_in_flight():
            h.poll(-1)
        equal([h.aio_command_completed(c) for c in cookies], [True] * 64)  # raises what failed
        buffers = [nbd.Buffer(65536) for _ in blocks]
        cookies = [h.aio_pread(b, i * 200000) for i, b in enumerate(buffers)]
        while h.aio_in_flight():
            h.poll(-1)
        equal([h.aio_command_completed(c) for c in cookies], [True] * 64)
        equal([bytes(b.to_bytearray()) == c for b, c in zip(buffers, blocks)], [True] * 64)
        h.shutdown()


def fio(d, *options, size="32M"):
    if "nbd" not in run("fio", "--enghelp").stdout.split():
        skip("fio has no nbd engine")
    p = run("fio", "--name=v", "--ioengine=nbd", "--uri=" + d.uri(), "--size=" + size,
            "--rw=randrw", "--verify=crc32c", "--verify_fatal=1", "--randrepeat=1",
            "--output-format=json", *options, timeout=60, cwd=os.path.dirname(d.own_path))
    job = json.loads(p.stdout[p.stdout.index("{"):])["jobs"][0]
    equal(job["error"], 0)
    equal(job["write"]["total_ios"] > 0, True)


@test(needs=["fio"])
def fio_verify(tmp):
    "fio verifies what it wrote: buffered and O_DIRECT, io_uring and threads, odd block sizes"
    for number, (engine, options, more) in enumerate((
            ("io_uring", {}, ["--bs=4k", "--iodepth=32"]),
            ("io_uring", {"cache__direct": "on"}, ["--bsrange=512-64k", "--bs_unaligned", "--iodepth=16"]),
            ("threads", {"cache__direct": "on"}, ["--bs=4k", "--iodepth=32"]),
            ("threads", {"discard": "unmap"}, ["--bsrange=1k-128k", "--iodepth=8"]))):
        with Daemon(tmp, "--io-engine", engine, *disk(tmp, "disk0", 32 * MIB, **options),
                    qmp=False, name="d%d" % number) as d:
            fio(d, *more, size="16M")


@test(needs=["fio"])
def fio_connections(tmp):
    "four fio jobs on connections of their own, each verified, while bitmaps come and go"
    with Daemon(tmp, *disk(tmp, "disk0", 32 * MIB)) as d:
        over = []

        def churn():
            while not over:
                d.qmp("block-dirty-bitmap-add", node="disk0", name="b", granularity=4096)
                d.qmp("block-dirty-bitmap-clear", node="disk0", name="b")
                d.qmp("block-dirty-bitmap-remove", node="disk0", name="b")

        def load():
            try:
                fio(d, "--bs=4k", "--iodepth=8", "--numjobs=4", "--offset_increment=8M", "--thread",
                    size="8M")
            finally:
                over.append(True)

        in_threads(churn, load)


class Nbdkit:
    """nbdkit on a unix socket, killed in the end."""

    def __init__(self, tmp, *args, name="k"):
        self.socket = os.path.join(tmp, name + ".sock")
        if os.path.exists(self.socket):
            os.unlink(self.socket)
        self.uri = "nbd+unix:///?socket=" + self.socket
        self.process = subprocess.Popen(["nbdkit", "-f", "-U", self.socket, *args],
                                        stderr=subprocess.DEVNULL)
        wait_until(lambda: self.process.poll() is not None or listens(self.socket), "nbdkit")
        if self.process.poll() is not None:
            skip("nbdkit doesn't run with %s" % " ".join(args))

    def __enter__(self):
        return self

    def __exit__(self, *unused):
        self.process.kill()
        self.process.wait()


@test(needs=["nbdkit", "nbdcopy"])
def nbdkit_as_client(tmp):
    "nbdkit's nbd plugin passes our export on, with extents, zeroes and trims"
    path = image(os.path.join(tmp, "disk0.img"), 16 * MIB, [(0, noise(16 * MIB))])
    with Daemon(tmp, *disk(tmp, "disk0", path=path, discard="unmap"), qmp=False) as d:
        with Nbdkit(tmp, "nbd", "socket=" + d.nbd_path, "export=disk0", "shared=true") as kit:
            source = image(os.path.join(tmp, "new"), 16 * MIB, [(3 * MIB, noise(MIB, 2))])
            run("nbdcopy", "--flush", source, kit.uri)
            back = os.path.join(tmp, "back")
            run("nbdcopy", kit.uri, back)
            same_files(source, back)
    same_files(source, path)


@test(needs=["nbdkit", "nbdcopy"])
def checked_by_nbdkit(tmp):
    "nbdkit's checkwrite filter finds that our exports read as the file does"
    path = image(os.path.join(tmp, "disk0.img"), 24 * MIB, [(100, noise(MIB)), (9 * MIB, noise(3 * MIB))])
    with Daemon(tmp, *disk(tmp, "disk0", path=path, writable=False), qmp=False) as d:
        with Nbdkit(tmp, "--filter=checkwrite", "file", path) as kit:
            run("nbdcopy", "-C", "4", d.uri(), kit.uri)


@test(needs=["nbdkit"])
def tidemark_copies_nbdkit(tmp):
    "the client copies nbdkit's disks: random, patterned, slow, with block size rules, sparse giants"
    for number, args in enumerate((
            ["sparse-random", "64M", "seed=3"],
            ["pattern", "3000001"],
            ["--filter=delay", "pattern", "4M", "rdelay=20ms"],
            ["--filter=blocksize-policy", "pattern", "4M", "blocksize-minimum=4096",
             "blocksize-preferred=65536", "blocksize-maximum=65536",
             "blocksize-error-policy=error"],
            ["--filter=noparallel", "sparse-random", "32M", "seed=4"],
            ["data", 'data=@4294967290 "over the edge"', "size=6G"])):
        target = os.path.join(tmp, "copy%d" % number)
        with Nbdkit(tmp, *args) as kit:
            tidemark("copy", kit.uri, target)
            if number == 5:
                equal(os.path.getsize(target), 6 * GIB)
                equal(os.stat(target).st_blocks * 512 <= MIB, True, "the copy isn't sparse")
                with open(target, "rb") as f:
                    f.seek(4294967280)
                    equal(f.read(32).strip(b"\0"), b"over the edge")
            else:
                h = nbd.NBD()
                h.connect_uri(kit.uri)
                equal(h.get_size(), os.path.getsize(target))
                with open(target, "rb") as f:
                    for at in range(0, h.get_size(), 65536):
                        n = min(65536, h.get_size() - at)
                        equal(bytes(h.pread(n, at)) == f.read(n), True, "differs from %d on" % at)
                h.shutdown()


main()
