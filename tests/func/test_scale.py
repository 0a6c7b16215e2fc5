#!/usr/bin/python3
# SPDX-FileCopyrightText: 2026 The Tidemark authors
# SPDX-License-Identifier: GPL-2.0-or-later
"""Hundreds of disks in one daemon: what each of them takes, and queries in pages. Nothing here is timed: bench/fleet
measures how long thousands take."""
import json
import os
import resource
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from harness import *

GIB = 1 << 30
DISKS = 500


def configuration(tmp, n, bitmaps):
    """The path of one with @n disks, each exported; files with persistent bitmaps, or, without bitmaps, of no medium."""
    names = ["d%03d" % i for i in range(n)]
    path = os.path.join(tmp, "conf")
    with open(path, "w") as f:
        json.dump({
            "blockdevs": [{"driver": "file", "node-name": name, "filename": image(os.path.join(tmp, name + ".img"), GIB)}
                          if bitmaps else {"driver": "null-co", "node-name": name, "size": GIB} for name in names],
            "bitmaps": [{"node": name, "name": "b%d" % i, "persistent": True} for name in names for i in range(bitmaps)],
            "nbd-servers": [{"addr": {"type": "unix", "data": {"path": os.path.join(tmp, "d.nbd")}},
                             "max-connections": 0}],
            "exports": [{"type": "nbd", "id": "x-" + name, "node-name": name, "writable": True} for name in names],
        }, f)
    return path


class Fleet(Daemon):
    def __init__(self, tmp, n, bitmaps=0):
        super().__init__(tmp, "--config", configuration(tmp, n, bitmaps), nbd=False)
        self.nbd_path = os.path.join(tmp, "d.nbd")

    def proc(self, name):
        with open("/proc/%d/%s" % (self.pid, name)) as f:
            return f.read()

    def threads(self):
        return int(re.search(r"Threads:\s*(\d+)", self.proc("status")).group(1))

    def memory(self):
        """KiB that are the daemon's alone."""
        return sum(map(int, re.findall(r"Private_\w+:\s*(\d+)", self.proc("smaps_rollup"))))

    def descriptors(self):
        return len(os.listdir("/proc/%d/fd" % self.pid))

    def mappings(self):
        return self.proc("maps").count(".bitmaps")


def sanitized():
    with open(os.path.join(BUILDDIR, "meson-info", "intro-buildoptions.json")) as f:
        return {o["name"]: o["value"] for o in json.load(f)}["b_sanitize"] != "none"


def walk(d, command, name, limit, between=lambda page: None, **arguments):
    """All that @command lists, a page at a time; between(page) is called after each of them."""
    found, after = [], {}
    while True:
        page = d.qmp(command, limit=limit, **arguments, **after)
        found += page
        if len(page) < limit:
            return found
        after = {"after": page[-1][name]}
        between(len(found) // limit)


def in_memory(case):
    """A case whose directory is in memory, if there is such a file system: a thousand syncs are not its subject."""
    def run_it(tmp):
        with tempfile.TemporaryDirectory(dir="/dev/shm" if os.path.isdir("/dev/shm") else tmp) as directory:
            case(directory)
    run_it.__doc__, run_it.__name__ = case.__doc__, case.__name__
    return run_it


@test
@in_memory
def resources(tmp):
    "a disk with a persistent bitmap takes 3 descriptors, a mapping, no thread, a small store, and bounded memory"
    for sub in "one", "all":
        os.mkdir(os.path.join(tmp, sub))
    with Fleet(os.path.join(tmp, "one"), 1, bitmaps=1) as d:
        threads, memory, descriptors, mappings = d.threads(), d.memory(), d.descriptors(), d.mappings()
        most = threads + sum(pool["max-threads"] for pool in d.qmp("query-workers"))
    with Fleet(os.path.join(tmp, "all"), DISKS, bitmaps=1) as d:
        equal(d.descriptors() - descriptors <= 3 * (DISKS - 1) + 8, True, "descriptors")
        equal(d.mappings() - mappings, DISKS - 1)
        equal(d.threads() <= most, True, "threads")
        if not sanitized():
            equal((d.memory() - memory) // (DISKS - 1) <= 64, True, "KiB of a disk: %d" % (
                (d.memory() - memory) // (DISKS - 1)))
        sizes = {os.path.getsize(os.path.join(tmp, "all", name))
                 for name in os.listdir(os.path.join(tmp, "all")) if name.endswith(".bitmaps")}
        equal(sizes, {os.path.getsize(os.path.join(tmp, "one", "d000.img.bitmaps"))})
        stores = [one["bitmap-store"] for one in d.qmp("query-blockstats", {"query-nodes": True, "details": True})]
        equal({store["open-intents"] for store in stores}, {0})


@test
def pages(tmp):
    "queries return pages in the order of names, each disk once, whatever is added and removed meanwhile"
    with Fleet(tmp, DISKS) as d:
        nodes, exports = d.qmp("query-named-block-nodes"), d.qmp("query-block-exports")
        equal([n["node-name"] for n in nodes], ["d%03d" % i for i in reversed(range(DISKS))])
        equal([x["id"] for x in exports], ["x-d%03d" % i for i in reversed(range(DISKS))])
        equal(walk(d, "query-named-block-nodes", "node-name", 64), nodes[::-1])
        equal(walk(d, "query-named-block-nodes", "node-name", 50, flat=True), nodes[::-1])
        equal(walk(d, "query-block-exports", "id", 64), exports[::-1])
        equal([s["device"] for s in walk(d, "query-blockstats", "device", 99)], [x["id"] for x in exports[::-1]])
        equal([s["node-name"] for s in walk(d, "query-blockstats", "node-name", 99, **{"query-nodes": True})],
              [n["node-name"] for n in nodes[::-1]])
        equal(len(d.qmp("query-named-block-nodes", after="d490")), 9)
        equal(d.qmp("query-named-block-nodes", limit=0), [])
        equal(d.qmp("query-named-block-nodes", after="e"), [])

        def change(page):
            d.qmp("blockdev-add", {"driver": "null-co", "node-name": "a%d" % page})
            d.qmp("blockdev-add", {"driver": "null-co", "node-name": "z%d" % page})
            d.qmp("block-export-del", id="x-d%03d" % (100 * page - 1), mode="hard")
            d.qmp("blockdev-del", {"node-name": "d%03d" % (100 * page - 1)})

        equal([n["node-name"] for n in walk(d, "query-named-block-nodes", "node-name", 100, change)],
              ["d%03d" % i for i in range(DISKS)] + ["z%d" % i for i in range(1, 6)])


@test
def descriptors(tmp):
    "without a descriptor for one more disk the error shows the limit"
    with Fleet(tmp, 1) as d:
        used = d.descriptors()
        resource.prlimit(d.pid, resource.RLIMIT_NOFILE, (used + 8, used + 8))
        raises(QMPError, lambda: [d.qmp("blockdev-add", {
            "driver": "file", "node-name": "f%d" % i, "filename": image(os.path.join(tmp, "f%d.img" % i), GIB)})
            for i in range(8)], match=r"Too many open files \(this process may have %d: raise LimitNOFILE=" % (used + 8))


@test
def sessions(tmp):
    "query-nbd-sessions returns pages in the order of ids; a session that has ended does not end the walk"
    with Fleet(tmp, 4) as d:
        clients = [d.nbd("d%03d" % (i % 4)) for i in range(150)]
        found = d.qmp("query-nbd-sessions")
        equal([s["id"] for s in found], sorted(s["id"] for s in found))
        equal(len(found), 150)
        for x in d.qmp("query-block-exports"):
            equal(sorted(c["id"] for c in x["clients"]), [s["id"] for s in found if s["export"] == x["id"]])

        def hang_up(page):
            d.qmp("nbd-session-disconnect", id=found[20 * page - 1]["id"])
            wait_until(lambda: found[20 * page - 1]["id"] not in [s["id"] for s in d.qmp("query-nbd-sessions")],
                       "the end of a session")

        equal([s["id"] for s in walk(d, "query-nbd-sessions", "id", 20, hang_up)], [s["id"] for s in found])
        equal([len(x["clients"]) for x in d.qmp("query-block-exports")],
              [len([s for s in found[:19] + found[20:39] + found[40:59] + found[60:79] + found[80:99] + found[100:119]
                    + found[120:139] + found[140:] if s["export"] == "x-d%03d" % i]) for i in reversed(range(4))])
        for client in clients:
            client.shutdown()


@test
@in_memory
def backups(tmp):
    "a backup begins and ends over 100 disks at one instant, among others"
    n = 20 if sanitized() else 100  # the thread sanitizer ends if a thread has more than 64 locks
    with Fleet(tmp, n + 10, bitmaps=1) as d:
        begun = d.qmp("backup-begin", id="s", checkpoint="c", scratch={"directory": tmp},
                      disks=[{"node": "d%03d" % i, "from": "b0"} for i in range(n)])
        equal(len(begun["disks"]), n)
        equal(len(d.qmp("query-block-exports")), 2 * n + 10)
        d.qmp("backup-end", id="s", success=True)
        equal({tuple(b["name"] for b in one["dirty-bitmaps"]) for one in d.qmp("query-named-block-nodes")
               if one["node-name"] < "d%03d" % n}, {("c",)})
        wait_until(lambda: len(d.qmp("query-block-exports")) == n + 10, "the end of its exports")


main()
