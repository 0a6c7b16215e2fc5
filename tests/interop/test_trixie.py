#!/usr/bin/python3
# SPDX-FileCopyrightText: 2026 The Tidemark authors
# SPDX-License-Identifier: GPL-2.0-or-later
"""QEMU 10 and libnbd 1.22, which speaks extended headers, as clients and as servers: `make trixie` puts them
into build-trixie (or TRIXIE says where they are)."""
import json
import os
import random
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "func"))
from harness import *  # noqa: E402,F403

BIN = os.path.join(os.environ.get("TRIXIE") or os.path.join(SRCDIR, "build-trixie"), "bin")
KIB, MIB, GIB, TIB, PIB = (1 << n for n in (10, 20, 30, 40, 50))


def newer(name, *args, **kwargs):
    """run() of one of its programs."""
    path = os.path.join(BIN, name)
    if not os.path.exists(path):
        skip("there are no newer peers here (make trixie)")
    return run(path, *args, **kwargs)


def python(uri, code):
    """Runs code with libnbd 1.22, where h is connected to the URI; what it prints."""
    return newer("python3", "-c", "import nbd, sys\nh = nbd.NBD()\n%s" % code.replace(
        "CONNECT", "h.connect_uri(%r)" % uri)).stdout.split()


def sparse(tmp, size, name="disk.img"):
    path = os.path.join(tmp, name)
    with open(path, "wb") as f:
        f.truncate(size)
    return path


def exported(tmp, path, *bitmaps, **more):
    """A daemon with the file at path as disk0, and bitmaps recorded and offered."""
    d = Daemon(tmp, "--blockdev", "driver=file,node-name=disk0,discard=unmap,filename=" + path)
    for name in bitmaps:
        d.qmp("block-dirty-bitmap-add", node="disk0", name=name)
    d.qmp("block-export-add", dict({"type": "nbd", "id": "e", "node-name": "disk0", "writable": True,
                                    "bitmaps": list(bitmaps)}, **more))
    return d


def uri(d, export="disk0"):
    return "nbd+unix:///%s?socket=%s" % (export, d.nbd_path)


@test
def info(tmp):
    "nbdinfo negotiates extended headers and shows more than 4 GiB in one extent"
    newer("nbdinfo", "--version")
    with exported(tmp, sparse(tmp, 9 * TIB), "b0") as d:
        about = json.loads(newer("nbdinfo", "--json", uri(d)).stdout)
        equal(about.get("extended"), True, about)
        rows = json.loads(newer("nbdinfo", "--map=qemu:dirty-bitmap:b0", "--json", uri(d)).stdout)
        equal([(r["offset"], r["length"], r["type"]) for r in rows], [(0, 9 * TIB, 0)])
        rows = json.loads(newer("nbdinfo", "--map", "--json", uri(d)).stdout)
        equal([(r["offset"], r["length"], r["type"]) for r in rows], [(0, 9 * TIB, 3)])


@test
def clean_petabyte(tmp):
    "a clean bitmap of 1 PiB is answered by one extent"
    newer("nbdinfo", "--version")
    with Daemon(tmp, "--blockdev", "driver=null-co,node-name=n,read-zeroes=on,size=%d" % PIB) as d:
        d.qmp("block-dirty-bitmap-add", node="n", name="b0", granularity=1 << 16)
        d.qmp("block-export-add", {"type": "nbd", "id": "e", "node-name": "n",
                                     "writable": True, "bitmaps": ["b0"]})
        got = python(uri(d, "n"), """
h.add_meta_context("qemu:dirty-bitmap:b0")
CONNECT
print(h.get_extended_headers_negotiated())
h.block_status_64(h.get_size(), 0, lambda c, o, e, err: print(c, o, e[0][0], e[0][1], len(e)))
""")
        equal(got, ["True", "qemu:dirty-bitmap:b0", "0", str(PIB), "0", "1"])


@test
def wide_contexts(tmp):
    "a user context with values of 64 bits is listed, selected and read; libnbd's old API leaves it out"
    with exported(tmp, sparse(tmp, 9 * TIB), "b0") as d:
        d.qmp("block-export-context-set", {"id": "e", "name": "stamp", "width": 64, "ranges": [
            {"offset": 0, "length": 5 * TIB, "value": 0xfedcba9876543210},
            {"offset": 5 * TIB, "length": 512, "value": 1}]})
        name = "x-tidemark:user:stamp"
        about = json.loads(newer("nbdinfo", "--json", uri(d)).stdout)["exports"][0]
        equal(about["contexts"], ["base:allocation", "qemu:dirty-bitmap:b0",
                                  "x-tidemark:backup:b0", name])
        rows = json.loads(newer("nbdinfo", "--map=" + name, "--json", uri(d)).stdout)
        equal([(r["offset"], r["length"], r["type"]) for r in rows], [
            (0, 5 * TIB, 0xfedcba9876543210), (5 * TIB, 512, 1), (5 * TIB + 512, 4 * TIB - 512, 0)])
        rows = json.loads(newer("nbdinfo", "--map=x-tidemark:backup:b0", "--json", uri(d)).stdout)
        equal([(r["offset"], r["length"], r["type"]) for r in rows], [(0, 9 * TIB, 0)])
        got = python(uri(d), """
h.add_meta_context("%s")
h.set_request_extended_headers(False)
CONNECT
print(h.can_meta_context("%s"))
""" % (name, name))
        equal(got, ["False"])


@test
def large_ranges(tmp):
    "zeroing, trimming and caching ranges of more than 4 GiB in one request"
    path = sparse(tmp, 20 * GIB)
    with exported(tmp, path, "b0", "b1") as d:
        got = python(uri(d), """
CONNECT
h.pwrite(b"x" * 4096, 3 << 30)
h.pwrite(b"y" * 4096, 12 << 30)
h.zero(9 << 30, 0)
print(h.pread(4096, 3 << 30) == bytes(4096), bytes(h.pread(1, 12 << 30)))
h.trim(19 << 30, 1 << 30)
print(h.pread(4096, 12 << 30) == bytes(4096))
h.cache(20 << 30, 0)
h.flush()
""")
        equal(got, ["True", "b'y'", "True"])
        rows = json.loads(newer("nbdinfo", "--map=qemu:dirty-bitmap:b0", "--json", uri(d)).stdout)
        equal([(r["offset"], r["length"], r["type"]) for r in rows], [(0, 20 * GIB, 1)])


@test
def chosen_contexts(tmp):
    "a client picks among its contexts with each request"
    with exported(tmp, sparse(tmp, 8 * GIB), "b0", "b1") as d:
        got = python(uri(d), """
for name in ("base:allocation", "qemu:dirty-bitmap:b0", "qemu:dirty-bitmap:b1"):
    h.add_meta_context(name)
CONNECT
print(h.can_block_status_payload())
h.pwrite(b"x", 5 << 30)
def show(c, o, e, err):
    print(c, o, sum(x[0] for x in e))
h.block_status_filter(h.get_size(), 0, ["qemu:dirty-bitmap:b1"], show)
print("and")
h.block_status_filter(h.get_size(), 0, ["base:allocation", "qemu:dirty-bitmap:b0"], show)
""")
        whole = str(8 * GIB)
        equal(got[:5], ["True", "qemu:dirty-bitmap:b1", "0", whole, "and"])
        equal(sorted(got[5::3]), ["base:allocation", "qemu:dirty-bitmap:b0"])
        equal(got[7::3], [whole, whole])


@test
def copies(tmp):
    "nbdcopy and qemu-img copy to and from us, and compare equal"
    rng = random.Random(7)
    path, back = sparse(tmp, 64 * MIB), os.path.join(tmp, "back.img")
    with open(path, "r+b") as f:
        for _ in range(40):
            f.seek(rng.randrange(0, 63 * MIB))
            f.write(rng.randbytes(rng.randrange(1, 300000)))
    with exported(tmp, path) as d:
        newer("nbdcopy", uri(d), back)
        equal(open(path, "rb").read() == open(back, "rb").read(), True, "nbdcopy")
        newer("qemu-img", "compare", "-f", "raw", "-F", "raw", uri(d), back)
        newer("nbdcopy", back, uri(d))
        newer("qemu-img", "convert", "-n", "-f", "raw", "-O", "raw", back, uri(d))
        newer("qemu-img", "compare", "-f", "raw", "-F", "raw", uri(d), back)
        newer("qemu-io", "-f", "raw", "-c", "write -P 7 4k 64k", "-c", "read -P 7 4k 64k", "-c",
              "write -z 1M 1M", "-c", "read -P 0 1M 1M", "-c", "discard 2M 4M", "-c", "flush", uri(d))


@test
def qemu_reads_the_bitmap(tmp):
    "QEMU 10 reads a dirty bitmap through x-dirty-bitmap"
    with exported(tmp, sparse(tmp, 16 * MIB), "b0") as d:
        python(uri(d), "CONNECT\nh.pwrite(b'x' * 65536, 1 << 20)\nh.flush()\n")
        rows = json.loads(newer(
            "qemu-img", "map", "--output=json", "--image-opts",
            "driver=nbd,server.type=unix,server.path=%s,export=disk0,"
            "x-dirty-bitmap=qemu:dirty-bitmap:b0" % d.nbd_path).stdout)
        equal([(r["start"], r["length"]) for r in rows if not r["data"]], [(MIB, 65536)])


@test
def from_qemu_10(tmp):
    "tidemark copies from QEMU 10's daemon"
    path, back = sparse(tmp, 8 * MIB), os.path.join(tmp, "back.img")
    with open(path, "r+b") as f:
        f.seek(MIB)
        f.write(b"z" * 100000)
    newer("qemu-storage-daemon", "--version")
    with Daemon(tmp, "--blockdev", "driver=file,node-name=disk0,filename=" + path, "--export",
                "type=nbd,id=e,node-name=disk0,name=disk0",
                binary=os.path.join(BIN, "qemu-storage-daemon")) as d:
        tidemark("copy", uri(d), back)
        equal(open(path, "rb").read() == open(back, "rb").read(), True)


@test(needs=["qemu-img"])
def handed_over(tmp):
    "an image goes to QEMU 10 and back by blockdev-set-active, and both say the same of its node"
    newer("qemu-storage-daemon", "--version")
    path, mark = os.path.join(tmp, "a.qcow2"), iter(range(1, 9))
    run("qemu-img", "create", "-q", "-f", "qcow2", path, MIB)

    def start(name, active, **more):
        d = Daemon(tmp, name=name, **more)
        d.qmp("blockdev-add", {"driver": "qcow2", "node-name": "disk0", "active": active,
                               "file": {"driver": "file", "filename": path, "node-name": "f", "active": active}})
        d.qmp("block-export-add", {"type": "nbd", "id": "e", "node-name": "disk0", "writable": True, "allow-inactive": True})
        return d

    def active(d, on):
        d.qmp("blockdev-set-active", {"node-name": "disk0", "active": on})
        d.qmp("blockdev-set-active", {"node-name": "f", "active": on})

    def shown(d):
        return {n["node-name"]: n["active"] for n in d.qmp("query-named-block-nodes", flat=True)}

    with start("d", True) as ours, start("q", False, binary=os.path.join(BIN, QSD)) as theirs:
        data = b""
        for has, other in ((ours, theirs), (theirs, ours), (ours, theirs), (theirs, ours)):
            data += bytes([next(mark)]) * KIB
            h = has.nbd("disk0")
            equal(h.pread(len(data), 0) == data[:-KIB] + bytes(KIB), True)
            h.pwrite(data[-KIB:], len(data) - KIB)
            h.shutdown()
            active(has, False)
            equal((shown(has), shown(has)["disk0"]), ({"disk0": False, "f": False}, False))
            active(other, True)
            equal(shown(other), {"disk0": True, "f": True})
            if has is ours:  # QEMU goes on with old tables after such an error
                raises(QMPError, active, has, True, match='Failed to get "write" lock|Failed to get shared')


main()
