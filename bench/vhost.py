# SPDX-FileCopyrightText: 2026 The Tidemark authors
# SPDX-License-Identifier: GPL-2.0-or-later
"""A disk as the queues of a virtual machine: our vhost-user-blk exports beside qemu-storage-daemon's, beside NBD,
and beside a program that does the same I/O to the file.

The client is tests/vhost/load.c. It waits for the server's calls as the driver of a guest does."""
import subprocess

import load
import servers

KIB, MIB = 1 << 10, 1 << 20
QUEUES = 4
TESTS = {"vhost-%s-%s-qd%d-q%d" % (rw, label, depth, queues): (rw, block, depth, queues)
         for label, block in (("4k", 4 * KIB), ("1m", MIB)) for depth in (1, 32) for queues in (1, QUEUES)
         for rw in ("read", "write")}
NAMES = list(TESTS)


class Plain:
    """A program that reads and writes the file, with a thread for each queue."""

    def __init__(self, bench):
        self.bench = bench

    def run(self, *what):
        return load.vhost(self.bench.loader, "plain", ["--file", self.bench.image], self.bench.options.seconds, *what)

    def stop(self):
        pass


class Queues:
    """An export as the queues of a virtual machine."""

    def __init__(self, bench, server):
        self.bench, self.server = bench, server

    def run(self, *what):
        return load.vhost(self.bench.loader, self.server.name, [self.server.vhost], self.bench.options.seconds, *what)

    def stop(self):
        self.server.stop()


class Nbd(Queues):
    """The same disk of the same server, with a connection for each queue."""

    def run(self, rw, block, depth, queues):
        return load.fio(self.server, "rand" + rw, block, depth, queues, self.bench.options.seconds)


def record(bench, server):
    """Into a persistent bitmap, which has all of the disk already."""
    server.add_bitmaps(1, persistent=True)
    subprocess.run(["nbdcopy", bench.image, server.uri], check=True)


def ways(bench):
    found = []
    for column, kind in (("tidemarkd", servers.Tidemark), ("tidemarkd, persistent", servers.Tidemark),
                         ("qsd", servers.Qsd), ("qsd-uring", servers.QsdUring)):
        server = bench.start(kind, {"driver": "file", "filename": bench.image}, column, queues=QUEUES)
        if not server:
            continue
        if column.endswith("persistent"):
            record(bench, server)
        found.append((column, Queues(bench, server)))
        if column in ("tidemarkd", "qsd"):
            found.append((column + ", nbd", Nbd(bench, server)))
    return found + [("plain", Plain(bench))]


def family(bench):
    if not any(map(bench.wanted, TESTS)):
        return
    bench.make_image()
    columns = ways(bench)
    for label, unit in (("4k", "M requests"), ("1m", "GiB")):
        bench.interleave({name: lambda way, what=what: way.run(*what) for name, what in TESTS.items()
                          if "-%s-" % label in name}, columns, unit)
    bench.finish(columns)
