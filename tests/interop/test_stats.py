#!/usr/bin/python3
# SPDX-FileCopyrightText: 2026 The Tidemark authors
# SPDX-License-Identifier: GPL-2.0-or-later
"""query-blockstats and query-block have the shape that QEMU's have."""
import os
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "func"))
from harness import *  # noqa: E402,F403


def shape(value):
    """Names and types of members, without what QEMU alone says of a driver."""
    if isinstance(value, dict):
        return {k: shape(v) for k, v in value.items() if k != "driver-specific"}
    return [shape(v) for v in value] if isinstance(value, list) else type(value).__name__


@test(needs=[QSD])
def same_shape(tmp):
    "of nodes, and of no exports"
    path = image(os.path.join(tmp, "f.img"), 1 << 20)
    found = []
    for binary in (None, QSD):
        with Daemon(tmp, binary=binary, name="q" if binary else "t") as d:
            d.qmp("blockdev-add", {"driver": "file", "node-name": "f", "filename": path})
            d.qmp("blockdev-add", {"driver": "raw", "node-name": "r", "file": "f"})
            nodes = d.qmp("query-blockstats", query_nodes=True)
            found.append((sorted((n["node-name"], shape(n)) for n in nodes), d.qmp("query-blockstats"),
                          d.qmp("query-block")))
    equal(*found)


main()
