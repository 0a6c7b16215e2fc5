# SPDX-FileCopyrightText: 2026 The Tidemark authors
# SPDX-License-Identifier: GPL-2.0-or-later
"""Images in a Ceph cluster of one node: ours beside qemu-storage-daemon's driver, and beside `rbd bench`, which is
librbd without a server. And what the first touch of a granule costs.

Each column has an image of its own. "direct" is without librbd's cache, as ours always is: a write is answered when the
cluster has it. With the cache, librbd answers it before."""
import importlib
import os
import subprocess
import sys

import load
import servers

KIB, MIB = 1 << 10, 1 << 20
SIZE = 96 * MIB  # all images fit into the memory of the OSD
RW = {"read": "randread", "write": "randwrite"}
SMALL = {"rbd-%s-4k-qd%d" % (rw, depth): (RW[rw], 4 * KIB, depth) for depth in (1, 16, 64) for rw in RW}
LARGE = {"rbd-%s-1m-seq" % rw: (rw, MIB, 4) for rw in RW}
FIRST = "rbd-first-4k-qd1"
FIRST_WRITES = 500
NAMES = [*SMALL, *LARGE, FIRST]


class Ours(servers.Tidemark):
    """With the plug-in of the build."""

    module = None

    def command(self, node, **settings):
        command = super().command(node, **settings)
        return [command[0], "--module", self.module, *command[1:]]


class Daemon:
    """One column: a server, and its image."""

    def __init__(self, kind, column, bitmap=None, **options):
        self.kind, self.column, self.bitmap, self.options = kind, column, bitmap, options
        self.server = None

    def start(self, bench, cluster, image):
        node = dict(self.options, driver="rbd", pool="rbd", image=image, conf=cluster.conf, discard="unmap")
        if self.bitmap == "persistent":
            node["bitmap-store"] = os.path.join(bench.dir, image + ".bitmaps")
        self.server = bench.start(self.kind, node, self.column)
        if self.server and self.bitmap:
            self.server.add_bitmaps(1, granularity=64 * KIB, persistent=self.bitmap == "persistent")
        if self.server:  # the first flush turns on a cache
            load.fio(self.server, "randwrite", 4 * KIB, 1, 1, 0.05, "--end_fsync=1")
        return bool(self.server)

    def run(self, bench, rw, block, depth):
        return load.fio(self.server, rw, block, depth, 1, bench.options.seconds)

    def first(self, bench, seed):
        if self.bitmap:
            self.server.transaction("block-dirty-bitmap-clear", 1)
        done = load.walk(bench.walker, self.server, "scatter", FIRST_WRITES, 1, seed)
        return {"iops": done["writes"] / done["seconds"], "cpu": done["cpu_s"] / (done["writes"] / 1e6)}

    def end(self):
        self.server.stop()


class Librbd:
    """rbd bench: as many requests as take about as long as the others do."""

    def __init__(self, column, *options):
        self.column, self.options = column, options
        self.rates = {}

    def start(self, bench, cluster, image):
        self.command = ["rbd", "-c", cluster.conf, *self.options, "bench", "rbd/" + image]
        return True

    def run(self, bench, rw, block, depth):
        count = int(self.rates.get((rw, block, depth), 200) * bench.options.seconds) + depth
        done = subprocess.run(
            [*self.command, "--io-type", rw.replace("rand", ""), "--io-pattern", "rand" if "rand" in rw else "seq",
             "--io-size", str(block), "--io-threads", str(depth), "--io-total", str(count * block)],
            capture_output=True, text=True, check=False, timeout=load.TIMEOUT)
        words = done.stdout.split()
        if done.returncode != 0 or "ops/sec:" not in words:
            raise RuntimeError("rbd bench: %s" % (done.stderr.strip().splitlines() or ["failed"])[-1])
        rate = float(words[words.index("ops/sec:") + 1])
        if (rw, block, depth) not in self.rates:
            self.rates[rw, block, depth] = rate
            return self.run(bench, rw, block, depth)
        self.rates[rw, block, depth] = rate
        return {"iops": rate, "gib_s": rate * block / (1 << 30)}

    def end(self):
        pass


def start_cluster(bench):
    """Of the tests; Unavailable: why there is none."""
    build = os.path.abspath(bench.options.build)
    os.environ["BUILDDIR"] = build
    sys.path.insert(0, os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "tests", "rbd"))
    cluster = importlib.import_module("cluster")
    try:
        made = cluster.Cluster()
    except importlib.import_module("harness").Skip as why:
        raise servers.Unavailable(str(why)) from why
    Ours.module = cluster.MODULE
    return made


def compare(bench, cluster, ways, tests, cpu_unit):
    """@tests: {name: function(way) -> figures}."""
    if not any(map(bench.wanted, tests)):
        return
    columns = []
    for i, way in enumerate(way for way in ways if bench.shown(way.column)):
        image = "%s%d" % (next(iter(tests)), i)
        cluster.rbd("import", bench.image, "rbd/" + image)
        if way.start(bench, cluster, image):
            columns.append((way.column, way))
    bench.interleave(tests, columns, cpu_unit)
    for _, way in columns:
        way.end()
    for i in range(len(columns)):
        cluster.rbd("rm", "--no-progress", "%s/%s%d" % ("rbd", next(iter(tests)), i), check=False)


def family(bench):
    if not any(map(bench.wanted, NAMES)):
        return
    try:
        cluster = start_cluster(bench)
    except servers.Unavailable as why:
        bench.skip("rbd", why)
        return
    image, bench.image = bench.image, os.path.join(bench.dir, "rbd.img")
    load.fill(bench.image, SIZE)
    direct = {"cache.direct": "on"}
    for tests, unit in ((SMALL, "M requests"), (LARGE, "GiB")):
        ways = [Daemon(Ours, "tidemarkd", "transient"), Daemon(servers.Qsd, "qsd"),
                Daemon(servers.Qsd, "qsd, direct", **direct), Librbd("rbd bench"),
                Librbd("rbd bench, direct", "--rbd_cache=false")]
        compare(bench, cluster, ways,
                {name: lambda way, what=what: way.run(bench, *what) for name, what in tests.items()}, unit)
    seeds = iter(range(1, 1 << 20))
    compare(bench, cluster, [Daemon(Ours, "tidemarkd, none"), Daemon(Ours, "tidemarkd, transient", "transient"),
                             Daemon(Ours, "tidemarkd, persistent", "persistent")],
            {FIRST: lambda way: way.first(bench, next(seeds))}, "M requests")
    cluster.stop()
    os.unlink(bench.image)
    bench.image = image
