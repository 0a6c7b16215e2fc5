# SPDX-FileCopyrightText: 2026 The Tidemark authors
# SPDX-License-Identifier: GPL-2.0-or-later
"""qcow2: allocated clusters read and overwritten, new ones allocated; ours beside qemu-storage-daemon's, on
equal images of their own, and beside ours without a format."""
import os
import subprocess

import load
import servers

MIB = 1 << 20
ALLOCATED = {"qcow2-read-4k-qd32-c1": ("randread", 4096, 32, 1), "qcow2-write-4k-qd32-c1": ("randwrite", 4096, 32, 1),
             "qcow2-read-4k-qd32-c4": ("randread", 4096, 32, 4), "qcow2-write-4k-qd32-c4": ("randwrite", 4096, 32, 4),
             "qcow2-read-1m-seq": ("read", MIB, 4, 1)}
NEW = {"qcow2-alloc-4k-qd32-c1": ("randwrite", 4096, 32, 1), "qcow2-alloc-4k-qd32-c4": ("randwrite", 4096, 32, 4),
       "qcow2-alloc-64k-seq": ("write", 65536, 8, 1)}
NAMES = list(ALLOCATED) + list(NEW)
SECONDS = 0.5  # of allocation: then the disk is not full yet


class Way:
    """One column: a server and its image."""

    def __init__(self, bench, kind, form):
        self.bench, self.kind, self.form = bench, kind, form
        self.column = "%s, %s" % (kind.name, form)
        self.path = os.path.join(bench.dir, "q-%s-%s" % (kind.name, form))
        self.server = None

    def start(self):
        node = {"driver": "file", "filename": self.path, "discard": "unmap"}
        if self.form == "qcow2":
            node = {"driver": "qcow2", "discard": "unmap", "file.driver": "file", "file.filename": self.path}
        self.server = self.bench.start(self.kind, node, self.column)
        return self.server

    def full(self):
        subprocess.run(["qemu-img", "convert", "-O", self.form, self.bench.image, self.path], check=True)
        return self.start()

    def empty(self):
        subprocess.run(["qemu-img", "create", "-q", "-f", self.form, self.path, "4G"], check=True)
        return self.start()

    def allocate(self, *what):
        """On a new image."""
        self.server.stop()
        self.empty()
        return load.fio(self.server, *what, SECONDS)


def ways(bench, raw):
    kinds = [servers.Tidemark, servers.Qsd, servers.QsdUring]
    if os.path.exists(bench.programs[servers.Qsd10.name]):
        kinds.append(servers.Qsd10)
    return ([Way(bench, servers.Tidemark, "raw")] if raw else []) + [Way(bench, kind, "qcow2") for kind in kinds]


def family(bench, tests, start, raw):
    if not any(map(bench.wanted, tests)):
        return
    columns = [(way.column, way) for way in ways(bench, raw) if start(way)]
    bench.interleave(tests, columns, "M requests")
    bench.finish([(column, way.server) for column, way in columns])


def allocated(bench):
    if any(map(bench.wanted, ALLOCATED)):
        bench.make_image()
    family(bench, {name: lambda way, what=what: load.fio(way.server, *what, bench.options.seconds)
                   for name, what in ALLOCATED.items()}, Way.full, True)


def new(bench):
    family(bench, {name: lambda way, what=what: way.allocate(*what) for name, what in NEW.items()}, Way.empty, False)
