#!/usr/bin/python3
"""qcow2 images written by us: random I/O against a model; then qemu-img finds nothing wrong with them and
reads the same."""
import json
import os
import random

import nbd

from harness import *

NEEDS = ["qemu-img", "qemu-io"]
M = 1 << 20
SIZE = 6 * M + 3 * 512


def create(path, options="", size=SIZE, backing=None):
    run("qemu-img", "create", "-q", "-f", "qcow2", *(["-b", backing[0], "-F", backing[1]] if backing else []),
        *(["-o", options] if options else []), path, size)
    return path


def fill(path, seed, size, cluster, compressed=True):
    """What qemu-io leaves in an image: data, zeroes, holes, compressed clusters."""
    rng = random.Random(seed)
    commands = []
    for _ in range(30):
        at = rng.randrange(0, size - 512, 512)
        n = min(rng.choice((512, 4096, cluster, 3 * cluster)), size - at)
        what = rng.randrange(10)
        if what < 6:
            commands += ["-c", "write -q -P %d %d %d" % (rng.randrange(1, 256), at, n)]
        elif what < 8:
            commands += ["-c", "write -q -z %s %d %d" % (rng.choice(("", "-u")), at, n)]
        elif what == 8:
            commands += ["-c", "discard -q %d %d" % (at, n)]
        elif compressed:
            at = at // cluster * cluster
            commands += ["-c", "write -q -c -P %d %d %d" % (rng.randrange(256), at, min(cluster, size - at))]
    run("qemu-io", "-d", "unmap", *commands, path, timeout=60, check=False)  # compressed over data: refused


def raw(path, opts=None):
    to = path + ".raw"
    run("qemu-img", "convert", "-O", "raw", *(["--image-opts", opts] if opts else [path]), to)
    with open(to, "rb") as f:
        data = f.read()
    os.unlink(to)
    return bytearray(data)


def definition(path, node="disk0", backing=None, **more):
    d = {"driver": "qcow2", "node-name": node, "discard": "unmap", "backing": backing,
         "file": {"driver": "file", "filename": path}}
    d.update((k.replace("_", "-"), v) for k, v in more.items())
    return json.dumps(d)


def serve(tmp, text, *more):
    return Daemon(tmp, "--blockdev", text, "--export", "type=nbd,id=e,node-name=disk0,name=disk0,writable=on", *more)


class Model:
    """A disk that is written at random, and what it should be."""

    def __init__(self, h, data, seed, cluster, discard_zeroes=True):
        self.h, self.data, self.rng, self.cluster = h, data, random.Random(seed), cluster
        self.discard_zeroes = discard_zeroes

    def place(self):
        size, rng = len(self.data), self.rng
        n = rng.choice((1, 512, 4096, 5000, self.cluster, 2 * self.cluster, 3 * self.cluster + 700, rng.randrange(1, 200000)))
        n = min(n, size)
        at = rng.choice((rng.randrange(size - n + 1), rng.randrange(size - n + 1) // self.cluster * self.cluster, size - n))
        return at, n

    def step(self):
        at, n = self.place()
        what = self.rng.randrange(16)
        if what < 8:
            b = self.rng.randbytes(min(n, 64)) * (n // min(n, 64) + 1)
            self.data[at:at + n] = b[:n]
            self.h.pwrite(b[:n], at, nbd.CMD_FLAG_FUA if self.rng.randrange(10) == 0 else 0)
        elif what < 11:
            self.data[at:at + n] = bytes(n)
            self.h.zero(n, at, self.rng.choice((0, nbd.CMD_FLAG_NO_HOLE)))
        elif what == 11:
            try:
                self.h.zero(n, at, nbd.CMD_FLAG_FAST_ZERO)
                self.data[at:at + n] = bytes(n)
            except nbd.Error as e:
                equal(e.errno, "ENOTSUP")
                self.data[at:at + n] = self.h.pread(n, at)  # what it did until then is not said
        elif what < 14:
            self.h.trim(n, at)
            first, last = -(-at // self.cluster) * self.cluster, (at + n) // self.cluster * self.cluster
            if at + n == len(self.data):
                last = at + n
            if first < last and self.discard_zeroes:
                self.data[first:last] = bytes(last - first)
        elif what == 14:
            self.h.flush()
        else:
            self.same(at, n)

    def same(self, at, n):
        got = self.h.pread(n, at)
        if got != self.data[at:at + n]:
            fail("different from byte %d on (of %d at %d)" % (at + next(i for i in range(n) if got[i] != self.data[at + i]), n, at))

    def whole(self):
        for at in range(0, len(self.data), M):
            self.same(at, min(M, len(self.data) - at))


def sound(path, model, opts=None):
    """Nothing is wrong with the image, not even a leak, and qemu-img reads what it should."""
    out = run("qemu-img", "check", path, check=False)
    matches(out.stdout if hasattr(out, "stdout") else str(out), "No errors were found")
    equal(raw(path, opts) == model, True, "qemu-img reads the same")


CASES = [("compat=0.10", 65536), ("", 65536), ("cluster_size=512", 512), ("cluster_size=4096", 4096),
         ("cluster_size=2M", 2 * M), ("extended_l2=on", 65536), ("extended_l2=on,cluster_size=16k", 16384),
         ("compression_type=zstd", 65536), ("lazy_refcounts=on", 65536), ("refcount_bits=1", 65536),
         ("refcount_bits=8,cluster_size=1024", 1024), ("refcount_bits=64,cluster_size=512", 512), ("refcount_bits=2", 65536),
         ("preallocation=metadata", 65536), ("preallocation=falloc,cluster_size=128k", 131072)]


@test(needs=NEEDS)
def every_kind(tmp):
    "versions, cluster sizes, refcount widths, extended L2, preallocation: written at random, and sound"
    for seed, (options, cluster) in enumerate(CASES):
        path = create(os.path.join(tmp, "i%d" % seed), options)
        fill(path, seed, SIZE, cluster, "extended" not in options)
        model = raw(path)
        for turn in range(2):
            with serve(tmp, definition(path)) as d:
                m = Model(d.nbd(), model, seed + 100 * turn, cluster)
                for _ in range(150):
                    m.step()
                m.whole()
            sound(path, model)
        os.unlink(path)


main()
