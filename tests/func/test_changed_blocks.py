#!/usr/bin/python3
# SPDX-FileCopyrightText: 2026 The Tidemark authors
# SPDX-License-Identifier: GPL-2.0-or-later
"""`tidemark map --runs`: what is allocated, dirty or changed between two points, in pages; and the example that makes
the answers of Kubernetes' SnapshotMetadata service of it."""
import json
import os
import random
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from harness import *
import repositories

BLOCK, MIB = 65536, 1 << 20
EXAMPLE = os.path.join(SRCDIR, "examples", "changed_blocks.py")


def runs(*args):
    """The page: (runs, next or None)."""
    page = json.loads(tidemark("map", "--runs", *args).stdout)
    equal(set(page) - {"next"}, {"size", "runs"})
    return page["runs"], page.get("next")


def walk(limit, *args):
    """All runs, in pages of @limit."""
    found, offset = [], 0
    while offset is not None:
        page, offset = runs("--limit", limit, "--offset", offset, *args)
        equal(len(page) <= limit, True, "a page has more than was asked for")
        found += page
    return found


def joined(blocks):
    """Runs of blocks, whose numbers are in order."""
    found = []
    for block in blocks:
        if found and sum(found[-1]) == block * BLOCK:
            found[-1][1] += BLOCK
        else:
            found.append([block * BLOCK, BLOCK])
    return found


@test
def of_exports(tmp):
    "runs of data, of a bitmap and of a backup; a page begins anywhere, and pages together are the whole"
    with Daemon(tmp, *disk(tmp, "disk0", 16 * MIB)) as d:
        uri = d.uri("disk0")
        h = d.nbd("disk0")
        data, dirty = [0, 1, 2, 7, 100, 255], [1, 2, 3, 200]
        for block in data:
            h.pwrite(b"x" * BLOCK, block * BLOCK)
        d.qmp("block-dirty-bitmap-add", node="disk0", name="b0")
        d.qmp("block-export-dirty-bitmap", id="exp-disk0", bitmaps=["b0"])
        for block in dirty[:-1]:
            h.pwrite(b"y" * BLOCK, block * BLOCK)
        h.zero(BLOCK, dirty[-1] * BLOCK)
        h.shutdown()
        equal(runs(uri), (joined(sorted({*data, 3})), None))
        for limit in 1, 2, 3, 100:
            equal(walk(limit, uri), joined(sorted({*data, 3})))
            equal(walk(limit, uri, "--bitmap", "b0"), joined(dirty))
        equal(runs(uri, "--offset", BLOCK + 512, "--limit", 1), ([[BLOCK + 512, 3 * BLOCK - 512]], 7 * BLOCK))
        equal(runs(uri, "--offset", 16 * MIB), ([], None))
        d.qmp("block-export-dirty-bitmap", id="exp-disk0", bitmaps=[])
        wait_until(lambda: not d.bitmap("disk0", "b0")["busy"], "the end of the sessions")
        d.qmp("backup-begin", id="s", scratch={"directory": tmp}, disks=[{"node": "disk0", "from": "b0"}])
        equal(walk(1, d.uri("disk0@s"), "--bitmap", "b0"), joined(dirty))
        equal(walk(2, d.uri("disk0@s")), joined(sorted({*data, 3})))
        d.qmp("backup-end", id="s", success=False)
        for args, status, why in (
                ((uri, "--offset", 16 * MIB + 1), 1, "--offset"), ((uri, "--limit", 0), 1, "--limit"),
                ((uri, "--picture"), 2, "exclude each other"), ((uri, "--since", "p"), 2, "--since is for --points"),
                ((uri, "--context", "qemu:allocation-depth"), 2, "--runs can show")):
            p = tidemark("map", "--runs", *args, check=False)
            equal((p.returncode, p.stderr.count("\n")), (status, 1), p.stderr)
            matches(p.stderr, why)
        p = tidemark("map", uri, "--offset", 1, check=False)
        equal(p.returncode, 2)
        matches(p.stderr, "--offset is for --runs")


@test(needs=["qemu-img", "qemu-io"])
def of_points(tmp):
    "what has data at a point and what changed since another one, as the disks themselves say"
    r = repositories.Repository(os.path.join(tmp, "r"))
    dice, n = random.Random(1), 24
    content = [b"\0" * BLOCK if dice.random() < 0.4 else dice.randbytes(BLOCK) for _ in range(n)]
    states = []
    for i in range(4):
        for block in dice.sample(range(n), 6) if i else ():
            content[block] = b"\0" * BLOCK if dice.random() < 0.4 else dice.randbytes(BLOCK)
        states.append(list(content))
        r.add("p%d" % i, "p%d" % (i - 1) if i else None, disk0=b"".join(content))
    r.add("other", None, disk0=b"".join(content))
    for at, state in enumerate(states):
        here = ["--points", r.path, "--at", "p%d" % at]
        equal(walk(2, *here), joined([i for i in range(n) if state[i].strip(b"\0")]), "p%d" % at)
        for since in range(at + 1):
            changed = {i for k in range(since, at) for i in range(n) if states[k][i] != states[k + 1][i]}
            equal(walk(3, *here, "--since", "p%d" % since), joined(sorted(changed)), "p%d to p%d" % (since, at))
    p = tidemark("map", "--runs", "--points", r.path, "--at", "other", "--since", "p1", check=False)
    equal(p.returncode, 1)
    matches(p.stderr, "disk 'disk0' of point 'other' does not stand on point 'p1'")
    equal(tidemark("map", "--runs", "--points", r.path, check=False).returncode, 2)
    with open(r.file("p2", "disk0", "hashes"), "r+b") as f:
        f.seek(100)
        f.write(b"damage")
    equal(tidemark("map", "--runs", "--points", r.path, "--at", "p3", check=False).returncode, 5)
    equal(walk(9, "--points", r.path, "--at", "p3", "--since", "p2"),
          joined([i for i in range(n) if states[2][i] != states[3][i]]))


@test
def a_million(tmp):
    "a million runs on a disk of 1 TiB, whole and in pages, and as the messages of the example"
    n, size = 1000000, 1 << 40
    with Daemon(tmp, "--blockdev", "driver=null-co,node-name=disk0,size=%d" % size,
                "--export", "type=nbd,id=exp0,node-name=disk0,writable=on") as d:
        d.qmp("block-dirty-bitmap-add", node="disk0", name="b0", granularity=BLOCK)
        cursor = {}
        for first in range(0, n, n // 4):
            more = first + n // 4 < n
            cursor = d.qmp("block-dirty-bitmap-import", {
                "node": "disk0", "name": "b0", "size": size, "granularity": BLOCK, "merge": True,
                "runs": " ".join(["1 1"] * (n // 4)), **({"more": True} if more else {}), **cursor})
            cursor = {"cursor": cursor["cursor"]} if more else {}
        d.qmp("block-export-dirty-bitmap", id="exp0", bitmaps=["b0"])
        source = [d.uri("disk0"), "--bitmap", "b0"]
        whole, more = runs(*source)
        equal((len(whole), more, whole[0], whole[-1]), (n, None, [BLOCK, BLOCK], [(2 * n - 1) * BLOCK, BLOCK]))
        equal(walk(300000, *source), whole)
        start = whole[n - 2500][0]
        p = run("/usr/bin/python3", EXAMPLE, "--starting-offset", start, "--max-results", 1000, "--", *source,
                env={"TIDEMARK": TIDEMARK})
        messages = [json.loads(line) for line in p.stdout.splitlines()]
        equal([len(m["block_metadata"]) for m in messages], [1000, 1000, 500])
        equal({(m["block_metadata_type"], m["volume_capacity_bytes"]) for m in messages}, {("VARIABLE_LENGTH", size)})
        equal([[b["byte_offset"], b["size_bytes"]] for m in messages for b in m["block_metadata"]], whole[-2500:])


main()
