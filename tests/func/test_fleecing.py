#!/usr/bin/python3
# SPDX-FileCopyrightText: 2026 The Tidemark authors
# SPDX-License-Identifier: GPL-2.0-or-later
"""Fleecing by hand: copy-before-write put under a live export, and its snapshot read."""
from harness import *

import nbd


SIZE = 1 << 20
PART = 1 << 16


def export(d, node, **more):
    """An export of the node by its name, and a client of it."""
    d.qmp("block-export-add", type="nbd", id=node, writable=True, **{"node-name": node}, **more)
    return d.nbd(node)


@test
def fleece(tmp):
    "a snapshot stays as it was while its export is written, and a trim releases"
    with open(tmp + "/disk", "wb") as f:
        f.write(b"a" * SIZE)
    with open(tmp + "/target", "wb") as f:
        f.truncate(SIZE)
    with Daemon(tmp, "--blockdev", "file,node-name=disk,filename=%s/disk,discard=unmap" % tmp,
                "--blockdev", "file,node-name=target,filename=%s/target" % tmp) as d:
        guest = export(d, "disk")
        guest.pwrite(b"b" * 4096, 0)

        d.qmp("blockdev-add", driver="copy-before-write", node_name="cbw", file="disk",
              target="target")
        d.qmp("qom-set", path="/exports/disk", property="drive", value="cbw")
        equal(d.qmp("qom-get", path="/exports/disk", property="drive"), "cbw")
        equal([(p["name"], p["type"]) for p in d.qmp("qom-list", path="/exports")][1:], [("disk", "child<export>")])
        equal([p["name"] for p in d.qmp("qom-list", path="/exports/disk")], ["type", "drive"])
        equal(d.qmp("qom-get", path="/exports", property="disk"), "/exports/disk")
        equal(d.qmp("qom-get", path="/exports/disk", property="type"), "export")
        d.qmp("blockdev-add", driver="snapshot-access", node_name="snapshot", file="cbw",
              discard="unmap")
        snapshot = export(d, "snapshot")

        guest.pwrite(b"c" * 100, 2000)
        equal(snapshot.pread(4096, 0), b"b" * 4096)
        equal(guest.pread(2, 2000), b"cc")
        equal(snapshot.pread(4096, 500000), b"a" * 4096)
        snapshot.trim(PART, PART)
        raises(nbd.Error, snapshot.pread, 512, PART)

        snapshot.shutdown()
        d.unexport("snapshot")
        d.qmp("blockdev-del", node_name="snapshot")
        d.qmp("qom-set", path="/exports/disk", property="drive", value="disk")
        d.qmp("blockdev-del", node_name="cbw")
        guest.pwrite(b"d" * 100, 2000)
        equal(guest.pread(1, 2000), b"d")


main()
