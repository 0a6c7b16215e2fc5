#!/usr/bin/python3
# SPDX-FileCopyrightText: 2026 The Tidemark authors
# SPDX-License-Identifier: GPL-2.0-or-later
# timeout: 120
"""tidemark bitmap check --against-snapshot: a bitmap of an RBD image beside what the cluster shows; and a bitmap that goes
to another daemon with such an image."""
import json
import os
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import cluster as cluster_module  # noqa: E402
import harness  # noqa: E402
from harness import *  # noqa: E402,F403

MIB = 1 << 20
SIZE, G = 64 * MIB, 65536
_cluster = []


def cluster():
    """The one of all cases."""
    if not _cluster:
        _cluster.append(cluster_module.Cluster())
    return _cluster[0]


def Daemon(tmp, *args, **kwargs):
    return harness.Daemon(tmp, "--module", cluster_module.MODULE, *args, **kwargs)


def node(image_name, **options):
    more = "".join(",%s=%s" % (k.replace("_", "-"), v) for k, v in options.items())
    return ["--blockdev", "driver=rbd,node-name=disk0,pool=rbd,image=%s,conf=%s%s" % (image_name, cluster().conf, more),
            "--export", "type=nbd,id=e,node-name=disk0,name=disk0,writable=on"]


def check(d, *args, status=0):
    p = run(TIDEMARK, "bitmap", "check", "--socket", d.qmp_path, "--json", *args, check=False)
    equal(p.returncode, status, p.stderr)
    return json.loads(p.stdout) if status in (0, 3) else p.stderr


def some(result, *names):
    return [result[n] for n in names]


@test
def a_bitmap_and_the_cluster(tmp):
    "what both show, what only one shows, and a change that the bitmap lacks, which is an error"
    c = cluster()
    c.rbd("create", "--size", "%dB" % SIZE, "rbd/check")
    with Daemon(tmp, *node("check")) as d:
        h = d.nbd()
        h.pwrite(b"a" * G, 0)
        h.pwrite(b"s" * G, 40 * MIB)
        h.flush()
        d.qmp("block-dirty-bitmap-add", node="disk0", name="b")
        h.pwrite(b"b" * G, 20 * MIB)  # in the bitmap, before the snapshot
        h.flush()
        c.rbd("snap", "create", "rbd/check@s")
        h.pwrite(b"c" * G, 0)
        h.pwrite(b"d" * 512, 28 * MIB + 512)
        h.flush()
        got = check(d, "--against-snapshot", "s", "disk0", "b")
        equal(some(got, "dirty", "rbd-diff", "bitmap-only", "rbd-diff-only", "missing", "fast-diff-misses"),
              [3 * G, 2 * G, G, 0, 0, 0])
        equal(got["fast-diff"] >= 2 * G, True)
        d.qmp("block-dirty-bitmap-clear", node="disk0", name="b")
        h.pwrite(b"s" * G, 40 * MIB)  # the same data
        h.flush()
        d.qmp("block-dirty-bitmap-clear", node="disk0", name="b")
        got = check(d, "--against-snapshot", "s", "disk0", "b", status=3)
        equal(some(got, "dirty", "rbd-diff", "rbd-diff-only", "missing"), [0, 3 * G, 3 * G, 2 * G])
        text = run(TIDEMARK, "bitmap", "check", "--socket", d.qmp_path, "--against-snapshot", "s", "disk0", "b",
                   check=False)
        matches(text.stdout, r"%d  of that, data that differ: the bitmap lacks them" % (2 * G))
        h.pwrite(b"e", 0)
        h.pwrite(b"e", 28 * MIB)
        h.flush()
        equal(some(check(d, "--against-snapshot", "s", "disk0", "b"), "rbd-diff-only", "missing"), [G, 0])
        equal([e["id"] for e in d.qmp("query-block-exports")], ["e"])
        equal([n["node-name"] for n in d.qmp("query-named-block-nodes")], ["disk0"])
        matches(check(d, "--against-snapshot", "none", "disk0", "b", status=1), "since snapshot 'none' failed")
        matches(check(d, "--against-snapshot", "s", "disk0", "none", status=1), "Dirty bitmap 'none' not found")
        d.qmp("blockdev-add", driver="null-co", node_name="null", size=SIZE)
        matches(check(d, "--against-snapshot", "s", "null", "b", status=1), "node 'null' is no image in a Ceph cluster")
        check(d, "--against-snapshot", "s", "disk0", status=2)
        check(d, "disk0", "b", status=2)
        h.shutdown()


@test
def a_disk_of_the_cluster_moves(tmp):
    "tidemark migrate moves an image with a store of its own to another daemon: exact, and only if the user vouches"
    c = cluster()
    c.rbd("create", "--size", "%dB" % SIZE, "rbd/move")
    state, store = os.path.join(tmp, "state"), os.path.join(tmp, "store")

    def migrate(**kwargs):
        return run(TIDEMARK, "migrate", "disk0", "--socket", a.qmp_path, "--to", b.qmp_path, "--state", state,
                   "--max-pause", "60", **kwargs)

    for vouched in (False, True):
        more = {"bitmap_accept_changed": "on"} if vouched else {}
        with Daemon(tmp, *node("move", bitmap_store=store, **more), name="a") as a, Daemon(tmp, name="b") as b:
            a.qmp("block-dirty-bitmap-add", node="disk0", name="kept", persistent=True)
            h = a.nbd()
            h.pwrite(b"a" * G, 8 * MIB)
            h.shutdown()
            a.qmp("block-dirty-bitmap-add", node="disk0", name="here")
            matches(migrate(check=False).stderr, "bitmap '(here|kept)' can't be moved: nothing shows who writes")
            a.qmp("block-dirty-bitmap-remove", node="disk0", name="here")
            p = migrate(check=vouched)
            if not vouched:
                equal(p.returncode, 1)
                matches(p.stderr, "node 'disk0' stays at .*bitmap 'kept' can't be moved: nothing shows who writes")
                equal([e["id"] for e in a.qmp("query-block-exports")], ["e"])
                equal(a.bitmap("disk0", "kept")["count"], G)
            else:
                equal(b.bitmap("disk0", "kept")["count"], G)
                h = b.nbd()
                h.pwrite(b"b" * G, 16 * MIB)
                equal([h.pread(1, at * MIB) for at in (8, 16)], [b"a", b"b"])
                h.shutdown()
                equal(b.bitmap("disk0", "kept")["count"], 2 * G)
        if os.path.exists(store):
            os.unlink(store)


main()
