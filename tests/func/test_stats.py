#!/usr/bin/python3
# SPDX-FileCopyrightText: 2026 The Tidemark authors
# SPDX-License-Identifier: GPL-2.0-or-later
"""query-blockstats and query-block: what exports and nodes did, counted exactly, also of clients that have gone."""
import os
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from harness import *  # noqa: E402,F403

KIB, MIB = 1 << 10, 1 << 20
KINDS = ("rd", "wr", "flush", "unmap")


def export(d, id="exp-disk0"):
    return next(e for e in d.qmp("query-blockstats") if e["device"] == id)


def node(d, name):
    return next(e for e in d.qmp("query-blockstats", query_nodes=True) if e["node-name"] == name)


def counts(stats):
    """Operations and bytes by kind."""
    return {k: (stats[k + "_operations"], stats.get(k + "_bytes", 0)) for k in KINDS}


def failures(stats):
    return {k: stats["failed_%s_operations" % k] for k in KINDS}


def settled(d, expected):
    """Waits for the counts of the export: replies arrive before a request is done for good."""
    wait_until(lambda: counts(export(d)["stats"]) == expected, "%s, not %s" % (
        expected, counts(export(d)["stats"])))


@test
def requests_and_bytes(tmp):
    "each kind of request is counted once, of the export and of the nodes it passes"
    path = image(os.path.join(tmp, "disk0.img"), 8 * MIB)
    with Daemon(tmp, "--blockdev", "driver=file,node-name=f,discard=unmap,filename=" + path,
                "--blockdev", "driver=raw,node-name=disk0,file=f,discard=unmap",
                "--export", "type=nbd,id=exp-disk0,node-name=disk0,name=disk0,writable=on") as d:
        nothing = {k: (0, 0) for k in KINDS}
        equal(counts(export(d)["stats"]), nothing)
        h = d.nbd()
        for i in range(40):
            h.pwrite(b"x" * 4096, i * 8192)
        for i in range(30):
            h.pread(512, i * 512)
        h.zero(64 * KIB, MIB)
        h.trim(128 * KIB, 2 * MIB)
        h.flush()
        h.flush()
        expected = {"rd": (30, 30 * 512), "wr": (41, 40 * 4096 + 64 * KIB), "flush": (2, 0),
                    "unmap": (1, 128 * KIB)}
        settled(d, expected)
        for name in "disk0", "f":
            stats = node(d, name)["stats"]
            equal(counts(stats), expected, name)
            equal(stats["wr_highest_offset"], MIB + 64 * KIB)
            for kind in KINDS:
                equal(stats[kind + "_total_time_ns"] > 0, True, name + kind)
        equal(export(d)["stats"]["rd_total_time_ns"] > 0, True)
        equal(export(d)["parent"]["node-name"], "f")
        equal(node(d, "disk0")["parent"]["node-name"], "f")
        equal("parent" in node(d, "f"), False)
        h.shutdown()
        wait_until(lambda: not d.qmp("query-nbd-sessions"), "the session to be gone")
        equal(counts(export(d)["stats"]), expected, "what it did stays")
        h = d.nbd()
        h.pread(MIB, 0)
        h.shutdown()
        wait_until(lambda: not d.qmp("query-nbd-sessions"), "the session to be gone")
        equal(counts(export(d)["stats"])["rd"], (31, 30 * 512 + MIB))
        equal(node(d, "f")["stats"]["rd_bytes"] >= 30 * 512, True)


@test
def reads_that_are_sent(tmp):
    "reads that go from the page cache to the socket are timed as well"
    with Daemon(tmp, *disk(tmp, "disk0", path=image(os.path.join(tmp, "f"), 0, [(0, b"x" * MIB)]))) as d:
        h = d.nbd()
        for _ in range(64):  # one in 16 of each processor is timed
            h.pread(MIB, 0)
        settled(d, {"rd": (64, 64 * MIB), "wr": (0, 0), "flush": (0, 0), "unmap": (0, 0)})
        equal(node(d, "disk0")["stats"]["rd_total_time_ns"] > 0, True)


@test
def failed_requests(tmp):
    "failures are counted by kind, and their bytes are not; what is refused is not counted"
    path = image(os.path.join(tmp, "f.img"), MIB)
    with Daemon(tmp) as d:
        d.qmp("blockdev-add", {
            "driver": "blkdebug", "node-name": "b", "discard": "unmap",
            "image": {"driver": "file", "node-name": "f", "filename": path},
            "inject-error": [{"event": "none", "iotype": "read", "sector": 0},
                             {"event": "none", "iotype": "write", "sector": 0},
                             {"event": "none", "iotype": "discard"},
                             {"event": "none", "iotype": "flush", "once": True}]})
        d.qmp("block-export-add", {"type": "nbd", "id": "exp-disk0", "node-name": "b",
                                   "name": "disk0", "writable": True})
        import nbd
        h = d.nbd(strict_mode=0)
        for call in ((h.pread, 512, 0), (h.pread, 512, 0), (h.pwrite, bytes(512), 0), (h.trim, 512, 0),
                     (h.flush,), (h.pread, 512, 2 * MIB)):
            raises(nbd.Error, *call)
        h.pread(1024, 512)
        h.pwrite(bytes(2048), 512)
        h.flush()
        expected = {"rd": (1, 1024), "wr": (1, 2048), "flush": (1, 0), "unmap": (0, 0)}
        settled(d, expected)
        for stats in export(d)["stats"], node(d, "b")["stats"]:
            equal(counts(stats), expected)
            equal(failures(stats), {"rd": 2, "wr": 1, "flush": 1, "unmap": 1})
        equal(failures(node(d, "f")["stats"]), {k: 0 for k in KINDS}, "they failed above it")
        h.shutdown()


@test
def many_threads(tmp):
    "nothing is lost where many connections count at once"
    with Daemon(tmp, *disk(tmp, "disk0", MIB)) as d:
        def client(i):
            h = d.nbd()
            for k in range(500):
                h.pwrite(b"x" * 512, (k * 7 + i) % 2048 * 512)
                h.pread(512, k % 2048 * 512)
            h.shutdown()

        in_threads(*[lambda i=i: client(i) for i in range(6)])
        expected = {"rd": (3000, 3000 * 512), "wr": (3000, 3000 * 512), "flush": (0, 0), "unmap": (0, 0)}
        settled(d, expected)
        equal(counts(node(d, "disk0")["stats"]), expected)


@test
def machine(tmp):
    "query-block shows no device; query-status, query-name and query-uuid have an answer"
    with Daemon(tmp, *disk(tmp, "disk0", MIB)) as d:
        equal(d.qmp("query-block"), [])
        equal(d.qmp("query-status"), {"status": "running", "running": True})
        equal(d.qmp("query-name"), {})
        equal(d.qmp("query-uuid"), {"UUID": "00000000-0000-0000-0000-000000000000"})


main()
