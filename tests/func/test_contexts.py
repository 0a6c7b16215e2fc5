#!/usr/bin/python3
# SPDX-FileCopyrightText: 2026 The Tidemark authors
# SPDX-License-Identifier: GPL-2.0-or-later
"""Metadata contexts that the management attaches to exports: the commands and their errors. What
clients see of them: tests/proto/test_contexts.py."""
from harness import *

SIZE = 1 << 20


def change(d, name="m", ranges=((0, 512, 1),), **more):
    return d.qmp("block-export-context-set", dict({"id": "exp-disk0", "name": name, "ranges": [
        dict(zip(("offset", "length", "value"), r)) for r in ranges]}, **more))


def info(name="m", width=32, ranges=1, size=512, export="exp-disk0"):
    return {"id": export, "name": name, "context": "x-tidemark:user:" + name, "width": width,
            "ranges": ranges, "bytes": size}


@test
def lifecycle(tmp):
    "a context can be set, appended to, replaced, queried and removed"
    with Daemon(tmp, *disk(tmp, "disk0", SIZE), *disk(tmp, "disk1", SIZE)) as d:
        query = lambda **args: d.qmp("query-block-export-contexts", **args)
        equal(query(), [])
        equal(change(d), {})
        change(d, "wide", ((0, 512, 2**64 - 1), (512, 512, 2**64 - 1), (SIZE - 1, 1, 1)), width=64)
        change(d, "empty", ())
        change(d, "m", id="exp-disk1", ranges=((5, 7, 0xffffffff),))
        mine = [info(), info("wide", 64, 2, 1025), info("empty", 32, 0, 0)]
        equal(query(id="exp-disk0"), mine)
        equal(query(id="exp-disk1"), [info(size=7, export="exp-disk1")])
        equal(query(), mine + [info(size=7, export="exp-disk1")])
        change(d, "m", ((256, 512, 2),), append=True)
        change(d, "wide", ((0, 1, 3),), append=True, width=64)
        equal(query(id="exp-disk0")[:2], [info(ranges=2, size=768), info("wide", 64, 3, 1025)])
        change(d, "m", ((0, 1, 2**63),), width=64)
        equal(query(id="exp-disk0")[0], info("m", 64, 1, 1), "it keeps its place")
        change(d, "m", ((0, 2, 1),))
        equal(query(id="exp-disk0")[0], info("m", 32, 1, 2), "the width is 32 unless it is given")
        d.qmp("block-export-context-remove", id="exp-disk0", name="m")
        equal([c["name"] for c in query(id="exp-disk0")], ["wide", "empty"])
        d.qmp("block-export-del", id="exp-disk0")
        wait_until(lambda: len(d.qmp("query-block-exports")) == 1, "the export to go")
        equal(query(), [info(size=7, export="exp-disk1")])


@test
def errors(tmp):
    "an error names the context and the range, and nothing is changed"
    with Daemon(tmp, *disk(tmp, "disk0", SIZE)) as d:
        change(d)
        before = d.qmp("query-block-export-contexts")
        for match, args in (
                ("Export 'nope' is not found", {"id": "nope"}),
                ("'m': the range at offset 7 is empty", {"ranges": [(7, 0, 1)]}),
                ("2 bytes at offset 1048575 is not within the disk of 1048576", {"ranges": [(SIZE - 1, 2, 1)]}),
                ("not within the disk", {"ranges": [(2**64 - 1, 2, 1)]}),
                ("not within the disk", {"ranges": [(0, 2**64 - 1, 1)]}),
                ("value 4294967296 at offset 0 does not fit the width of 32 bits", {"ranges": [(0, 1, 2**32)]}),
                ("ranges at offsets 0 and 5 overlap", {"ranges": [(5, 5, 1), (0, 6, 1)]}),
                ("overlap", {"ranges": [(5, 5, 1), (5, 5, 1)]}),
                ("32 or 64, not 48", {"width": 48}), ("width", {"width": 16}), ("width", {"width": "64"}),
                ("values of 32 bits, not of 64", {"append": True, "width": 64}),
                ("'n' not found", {"append": True, "name": "n"}), ("empty", {"name": ""}),
                ("1024 bytes, expected at most 1023", {"name": "n" * 1024}), ("NUL", {"name": "a\0b"}),
                ("value", {"ranges": [(0, 1)]}), ("value", {"ranges": [(0, 1, 2**64)]}),
                ("value", {"ranges": [(0, 1, -1)]}), ("offset", {"ranges": [(-1, 1, 1)]})):
            raises(QMPError, change, d, match=match, **args)
        for args in ({}, {"id": "exp-disk0"}, {"id": "exp-disk0", "name": "m"},
                     {"id": "exp-disk0", "name": "m", "ranges": {}},
                     {"id": "exp-disk0", "name": "m", "ranges": [5]},
                     {"id": "exp-disk0", "name": "m", "ranges": [], "more": 1}):
            raises(QMPError, d.qmp, "block-export-context-set", args)
        raises(QMPError, d.qmp, "block-export-context-remove", id="exp-disk0", name="n",
               match="Metadata context 'n' not found")
        raises(QMPError, d.qmp, "block-export-context-remove", id="nope", name="m",
               match="Export 'nope' is not found")
        raises(QMPError, d.qmp, "query-block-export-contexts", id="nope", match="'nope' is not found")
        equal(d.qmp("query-block-export-contexts"), before)


@test
def limits(tmp):
    "an export takes 64 contexts, long maps in several commands, and names as they are given"
    step, n = 50000, 100000
    with Daemon(tmp, *disk(tmp, "disk0", 4 * n)) as d:
        for i in range(64):
            change(d, "c%d" % i)
        raises(QMPError, change, d, "c64", match="'c64': the export already has the maximum of 64")
        for first in range(0, n, step):
            change(d, "c0", [(2 * i, 1, 1) for i in range(first, first + step)], append=first > 0)
        equal(d.qmp("query-block-export-contexts")[0], info("c0", ranges=n, size=n))
        change(d, "c0", ((0, 4 * n, 9),), append=True)
        equal(d.qmp("query-block-export-contexts")[0], info("c0", ranges=1, size=4 * n))
        d.qmp("block-export-context-remove", id="exp-disk0", name="c1")
        change(d, "\u00fc \U0001f30a\"\\:")
        equal(d.qmp("query-block-export-contexts")[-1]["context"],
              "x-tidemark:user:\u00fc \U0001f30a\"\\:")


main()
