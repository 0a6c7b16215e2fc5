# SPDX-FileCopyrightText: 2026 The Tidemark authors
# SPDX-License-Identifier: GPL-2.0-or-later
"""How long backup-begin and backup-end take, of many disks with many checkpoints, while guests write to all of
them as fast as they can; and how long the guests' writes take meanwhile.

What a sync takes there is measured under the same load: as many files as there are disks, each overwritten and
synced, all at a time."""
import concurrent.futures
import json
import os
import subprocess
import time

import load
import servers

KIB, MIB = 1 << 10, 1 << 20
DISKS, CHECKPOINTS = 10, 100
NAMES = ["begin-%dx%d" % (DISKS, CHECKPOINTS), "begin-%dx1" % DISKS]
DEPTH = 8
WARM, APART = 0.7, 0.3  # seconds: before the begin, and between it and what follows


class Disks:
    """A server with disks that have checkpoints, the last of which the next backup is based on."""

    def __init__(self, bench, n, checkpoints):
        self.bench, self.n, self.last = bench, n, "c%d" % (checkpoints - 1)
        self.turn = 0
        self.column = "tidemarkd"
        self.server = bench.start(servers.Tidemark, {"driver": "null-co"})
        self.run = self.server.monitor().run
        self.dir = os.path.join(bench.dir, "begin")
        os.makedirs(self.dir, exist_ok=True)
        for i in range(n):
            path = self.path("d%d" % i)
            load.fill(path, min(bench.options.size, 128) * MIB)
            self.run("blockdev-add", driver="file", filename=path, discard="unmap",
                     **{"node-name": "d%d" % i})
            self.run("block-export-add", type="nbd", id="x%d" % i, name="d%d" % i, writable=True,
                     **{"node-name": "d%d" % i})
        self.add(checkpoints)
        self.files = [open(self.path("sync%d" % i), "wb", buffering=0) for i in range(n)]

    def path(self, name):
        return os.path.join(self.dir, name)

    def uri(self, disk):
        return "nbd+unix:///d%d?socket=%s" % (disk, self.server.sock)

    def add(self, checkpoints, at_a_time=10):
        """Writes come between, so that what they say differs."""
        for first in range(0, checkpoints, at_a_time):
            self.run("transaction", actions=[
                {"type": "block-dirty-bitmap-add",
                 "data": {"node": "d%d" % disk, "name": "c%d" % i, "persistent": True, "granularity": 64 * KIB}}
                for disk in range(self.n) for i in range(first, min(first + at_a_time, checkpoints))])
            for disk in range(self.n):
                subprocess.run([self.bench.walker, "scatter", self.uri(disk), "100", "8", str(first)], check=True,
                               stdout=subprocess.DEVNULL)

    def guests(self, seconds):
        return [subprocess.Popen([self.bench.walker, "guest", self.uri(i), str(seconds), str(DEPTH), str(i)],
                                 stdout=subprocess.PIPE, text=True) for i in range(self.n)]

    def timed(self, command, **arguments):
        began = time.monotonic()
        self.run(command, **arguments)
        return began, time.monotonic()

    def begin(self):
        return self.timed("backup-begin", id="b", checkpoint="t%d" % self.turn,
                          scratch={"directory": self.dir},
                          disks=[{"node": "d%d" % i, "from": self.last} for i in range(self.n)])

    def sync_all(self):
        """The least that changing something durable in all stores takes: one sync of each."""
        def sync(file):
            os.pwrite(file.fileno(), os.urandom(4 * KIB), 0)
            os.fdatasync(file.fileno())

        with concurrent.futures.ThreadPoolExecutor(self.n) as pool:
            list(pool.map(sync, self.files))  # they are there
            began = time.monotonic()
            list(pool.map(sync, self.files))
            return time.monotonic() - began

    def measure(self):
        guests = self.guests(WARM + 4 * APART + 1)
        time.sleep(WARM)
        began = self.begin()
        time.sleep(APART)
        ended = self.timed("backup-end", id="b", success=True)
        self.last = "t%d" % self.turn
        self.turn += 1
        time.sleep(APART)
        sync = self.sync_all()
        found = [json.loads(guest.communicate()[0]) for guest in guests]
        slow = [(end - us / 1e6, end, us / 1e3) for guest in found for end, us in guest["slow"]]

        def longest(window):
            return max([ms for start, end, ms in slow if start < window[1] and end > window[0]], default=0)

        apart = [ms for start, end, ms in slow
                 if not any(start < w[1] + APART and end > w[0] for w in (began, ended))]
        return {"begin_ms": (began[1] - began[0]) * 1e3, "end_ms": (ended[1] - ended[0]) * 1e3,
                "begin_stall_ms": longest(began), "end_stall_ms": longest(ended),
                "other_stall_ms": max(apart, default=0), "sync_ms": sync * 1e3,
                "iops": sum(guest["writes"] / guest["seconds"] for guest in found),
                "p99_us": max(guest["p99_us"] for guest in found)}

    def end(self):
        for file in self.files:
            file.close()
        self.server.stop()
        for name in os.listdir(self.dir):
            os.unlink(self.path(name))


def family(bench):
    for name, checkpoints in zip(NAMES, (CHECKPOINTS, 1)):
        if not bench.wanted(name):
            continue
        bench.progress("%s: checkpoints" % name)
        disks = Disks(bench, DISKS, checkpoints)
        bench.interleave({name: lambda disks: disks.measure()}, [(disks.column, disks)], "")
        disks.end()
