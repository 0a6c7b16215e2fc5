# SPDX-FileCopyrightText: 2026 The Tidemark authors
# SPDX-License-Identifier: GPL-2.0-or-later
"""tidemark restore and verify, beside what does less: copies of the disk without a repository, and sha256sum.

The repository has a full and an increment of 5 % on it; its second point is restored. All restored files are
synced. --dir on a disk: what is read is in the page cache as far as memory goes."""
import os
import resource
import shutil
import subprocess
import time

import backup
import load
import servers

NAMES = ["restore", "verify"]


class Way:
    """One way to read or to check what there is; subclasses have run()."""

    def __init__(self, bench, repository):
        self.bench, self.repository = bench, repository
        self.points = sorted(name for name in os.listdir(repository) if os.path.isdir(os.path.join(repository, name)))
        self.target = os.path.join(bench.dir, "restored.raw")

    def call(self, *command):
        done = subprocess.run([str(c) for c in command], stdin=subprocess.DEVNULL, capture_output=True, text=True,
                              timeout=20 * load.TIMEOUT)
        if done.returncode:
            raise RuntimeError("%s: %s" % (command[0], done.stderr.strip()))

    def tidemark(self, *arguments):
        self.call(os.path.join(os.path.dirname(self.bench.walker), "..", "client", "tidemark"), *arguments)

    def image(self, point):
        return os.path.join(self.repository, point, "disk.qcow2")

    def measure(self):
        os.sync()
        before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
        self.run()
        took, after = time.monotonic() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
        if os.path.exists(self.target):
            os.unlink(self.target)
        return {"took_ms": took * 1e3, "cpu": after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime}


class Restore(Way):
    def run(self):
        self.tidemark("restore", self.repository, self.target)


class Convert(Way):
    def run(self):
        self.call("qemu-img", "convert", "-W", "-m", "16", "-O", "raw", self.image(self.points[-1]), self.target)
        self.call("sync", self.target)


class Nbdcopy(Way):
    def run(self):
        self.call("nbdcopy", "--flush", "--", "[", "qemu-nbd", "-f", "qcow2", "-r", self.image(self.points[-1]), "]",
                  self.target)
        self.call("sync", self.target)


class Cp(Way):
    def run(self):
        self.call("cp", "--sparse=always", "--reflink=never", self.bench.image, self.target)
        self.call("sync", self.target)


class Verify(Way):
    def run(self):
        self.tidemark("verify", self.repository)


class Sha256sum(Way):
    def run(self):
        self.call("sha256sum", *map(self.image, self.points))


WAYS = {"restore": [("tidemark restore", Restore), ("cp --sparse", Cp), ("nbdcopy, qemu-nbd", Nbdcopy),
                    ("qemu-img convert", Convert)],
        "verify": [("tidemark verify", Verify), ("sha256sum", Sha256sum)]}


def make_repository(bench):
    """Returns where it is."""
    way = backup.Tidemark(bench, True)
    way.target = os.path.join(bench.dir, "repository")
    way.server = servers.Tidemark(bench.programs, os.path.join(bench.dir, "s")).start(way.node)
    try:
        way.command()
        way.write_blocks()
        way.command()
    finally:
        way.server.stop()
    return way.target


def family(bench):
    wanted = [name for name in NAMES if bench.wanted(name)]
    if not wanted:
        return
    bench.make_image()
    repository = make_repository(bench)
    for name in wanted:
        bench.interleave({name: lambda way: way.measure()}, [(column, way(bench, repository)) for column, way in WAYS[name]],
                         name)
    shutil.rmtree(repository)
