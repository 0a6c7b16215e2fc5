# SPDX-FileCopyrightText: 2026 The Tidemark authors
# SPDX-License-Identifier: GPL-2.0-or-later
"""What persistent bitmaps cost: while writing, and when they are found again. Beside qemu-storage-daemon
with the bitmap of a qcow2 image, and the same image without one.

Each column has a disk of its own in the same directory, because a store belongs to one daemon. "none"
stands there twice: what the two differ by is noise."""
import os
import signal
import subprocess
import time

import load
import servers

KIB, MIB, TIB = 1 << 10, 1 << 20, 1 << 40
MANY = 1000
FIRST = {1: 2000, 32: 10000}  # writes of the phase in which regions are touched for the first time
NAMES = (["persistent-steady-4k-qd%d" % depth for depth in (1, 32)] +
         ["persistent-first-4k-qd%d" % depth for depth in (1, 32)] +
         ["persistent-open-million", "persistent-recover-1tib"])


class Qcow2(servers.Qsd):
    name = "qsd qcow2"


class Way:
    """One column: a server, how its disk is kept, and which bitmaps it has."""

    def __init__(self, kind, bitmaps, count=0, persistent=False, **options):
        self.kind, self.count, self.persistent, self.options = kind, count, persistent, options
        self.column = "%s, %s" % ("tidemarkd" if kind is servers.Tidemark else kind.name, bitmaps)
        self.path = self.server = None

    def node(self, **more):
        if self.kind is Qcow2:
            return dict(self.options, driver="qcow2", discard="unmap",
                        **{"file.driver": "file", "file.filename": self.path}, **more)
        return dict(self.options, driver="file", filename=self.path, discard="unmap", **more)

    def add(self):
        if self.count:
            self.server.add_bitmaps(self.count, persistent=self.persistent, granularity=64 * KIB)

    def clear(self):
        """As a checkpoint does: all that was touched is untouched."""
        if self.count:
            self.server.transaction("block-dirty-bitmap-clear", self.count)

    def make(self, bench, size, filled):
        self.path = os.path.join(bench.dir, "p%d.img" % bench.count)
        if filled:
            load.fill(self.path, size)
        elif self.kind is not Qcow2:
            with open(self.path, "wb") as file:
                file.truncate(size)
        if self.kind is Qcow2:
            qemu_img = ["convert", "-O", "qcow2", self.path, self.path + ".q"] if filled else [
                "create", "-q", "-f", "qcow2", self.path, str(size)]
            subprocess.run(["qemu-img"] + qemu_img, check=True)
            if filled:
                os.rename(self.path + ".q", self.path)

    def start(self, bench, size, filled):
        """Whether it can be had here."""
        self.server = bench.start(self.kind, {"driver": "null-co"})  # says what is missing
        if not self.server:
            return False
        self.server.stop()
        self.make(bench, size, filled)
        self.server = bench.start(self.kind, self.node(), self.column)
        if self.server:
            try:
                self.add()
                return True
            except RuntimeError as why:
                bench.skip(self.column, why)
        self.end()
        return False

    def end(self):
        if self.server:
            self.server.stop()
        for name in (self.path, self.path + ".bitmaps"):
            if os.path.exists(name):
                os.unlink(name)


POWER = {"bitmap-durability": "power-loss"}
PROCESS = {"bitmap-durability": "process-death"}


def ways():
    ours = servers.Tidemark
    return [Way(ours, "none"), Way(ours, "none again"), Way(ours, "transient", 1),
            Way(ours, "power loss", 1, True, **POWER),
            Way(ours, "process death", 1, True, **PROCESS),
            Way(ours, "power loss x 1,000", MANY, True, **POWER),
            Way(servers.Qsd, "none"), Way(Qcow2, "none"), Way(Qcow2, "persistent", 1, True)]


def compare(bench, tests, size, filled):
    """@tests: {name: function(way) -> figures}."""
    if not any(map(bench.wanted, tests)):
        return
    columns = []
    for way in filter(lambda way: bench.shown(way.column), ways()):
        bench.progress("persistent: %s" % way.column)
        if way.start(bench, size, filled):
            columns.append((way.column, way))
    bench.interleave(tests, columns, "M requests")
    for _, way in columns:
        way.end()


def steady(bench):
    """Writes to what is dirty already."""

    def measure(depth):
        return lambda way: load.fio(way.server, "randwrite", 4096, depth, 1, bench.options.seconds)

    def warm(way):
        load.walk(bench.walker, way.server, "dirty", size // (64 * KIB), 64 * KIB)

    size = min(bench.options.size, 256) * MIB
    tests = {"persistent-steady-4k-qd%d" % depth: measure(depth) for depth in (1, 32)}
    warmed = set()

    def once_warm(test):
        def run(way):
            if way not in warmed:
                warm(way)
                warmed.add(way)
            return test(way)
        return run

    compare(bench, {name: once_warm(test) for name, test in tests.items()}, size, True)


def first(bench):
    """Writes at random places of a sparse disk of 1 TiB, of which nothing is dirty; then more of the
    same. Who is slow does less."""
    seeds = iter(range(1, 1 << 20))

    def measure(depth):
        def run(way):
            way.clear()
            subprocess.run(["sync", "-f", bench.dir], check=True)  # what others have written, too
            done = [load.walk(bench.walker, way.server, "scatter", FIRST[depth], depth, next(seeds), 2)
                    for _ in range(2)]
            return {"iops": done[0]["writes"] / done[0]["seconds"],
                    "then_iops": done[1]["writes"] / done[1]["seconds"],
                    "cpu": done[0]["cpu_s"] / (done[0]["writes"] / 1e6)}
        return run

    compare(bench, {"persistent-first-4k-qd%d" % depth: measure(depth) for depth in (1, 32)}, TIB,
            False)


# ---- found again


class Reopening:
    """A disk whose bitmap somebody left behind, opened again and again through one monitor."""

    def __init__(self, way, killed):
        self.way, self.kept = way, None
        self.column = way.column.replace("power loss", "kill -9" if killed else "clean end")
        self.killed = killed

    def prepare(self, bench, size, fill):
        if not self.way.start(bench, size, False):
            return False
        if self.way.count:
            fill(self.way.server)
        self.dirty = self.count_dirty()
        if self.way.count and not self.dirty:
            raise RuntimeError("nothing is dirty")
        if self.killed:
            os.killpg(self.way.server.pid, signal.SIGKILL)
        self.way.server.stop()
        self.store = self.way.path + ".bitmaps"
        if self.killed:
            with open(self.store, "rb") as file:
                self.kept = file.read()
        # The peers' stand there with a disk that is none of this.
        self.way.server = bench.start(self.way.kind, {"driver": "null-co"})
        return True

    def count_dirty(self):
        return sum(b["count"] for node in self.way.server.monitor().run("query-named-block-nodes")
                   for b in node.get("dirty-bitmaps", []))

    def measure(self):
        if self.kept:  # in place, because a store knows its inode
            with open(self.store, "r+b") as file:
                file.write(self.kept)
                file.truncate()
        run = self.way.server.monitor().run
        began = time.perf_counter()
        run("blockdev-add", **nested(self.way.node(**{"node-name": "again"})))
        took = time.perf_counter() - began
        if self.count_dirty() != self.dirty:
            raise RuntimeError("%d bytes were dirty, now %d" % (self.dirty, self.count_dirty()))
        began = time.perf_counter()
        run("blockdev-del", **{"node-name": "again"})
        return {"open_ms": took * 1e3, "close_ms": (time.perf_counter() - began) * 1e3}


def nested(options):
    """Dotted keys as blockdev-add wants them."""
    result = {}
    for key, value in options.items():
        place = result
        *path, last = key.split(".")
        for part in path:
            place = place.setdefault(part, {})
        place[last] = value
    return result


def reopen(bench):
    runs = bench.options.runs
    alternate = ("persistent-open-million", runs * 128 * KIB,
                 lambda server: load.walk(bench.walker, server, "trim", runs, 128 * KIB))
    scattered = ("persistent-recover-1tib", TIB,
                 lambda server: load.walk(bench.walker, server, "sprinkle", runs))
    for test, size, fill in (alternate, scattered):
        if not bench.wanted(test):
            continue
        columns = []
        for way, killed in ((Way(servers.Tidemark, "none"), False),
                            (Way(servers.Tidemark, "power loss", 1, True, **POWER), False),
                            (Way(servers.Tidemark, "power loss", 1, True, **POWER), True),
                            (Way(Qcow2, "none"), False), (Way(Qcow2, "clean end", 1, True), False)):
            reopening = Reopening(way, killed)
            bench.progress("%s: filling %s" % (test, reopening.column))
            try:
                if reopening.prepare(bench, size, fill):
                    columns.append((reopening.column, reopening))
            except (RuntimeError, OSError, subprocess.TimeoutExpired) as why:
                bench.skip(test + "/" + reopening.column, why)
                way.end()
        bench.interleave({test: lambda reopening: reopening.measure()}, columns, "")
        for _, reopening in columns:
            reopening.way.end()


def sync_time(directory):
    """Milliseconds that a sync takes there: the median of overwriting a block and fdatasync()."""
    path = os.path.join(directory, "sync")
    times = []
    with open(path, "wb", buffering=0) as file:
        file.write(bytes(MIB))
        os.fsync(file.fileno())
        for i in range(51):
            began = time.perf_counter()
            os.pwrite(file.fileno(), b"x" * 4096, i * 37 % 256 * 4096)
            os.fdatasync(file.fileno())
            times.append(time.perf_counter() - began)
    os.unlink(path)
    return sorted(times)[25] * 1e3
