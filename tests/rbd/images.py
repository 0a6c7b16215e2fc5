# SPDX-FileCopyrightText: 2026 The Tidemark authors
# SPDX-License-Identifier: GPL-2.0-or-later
"""What the tests of the plug-in for Ceph share: a cluster for all cases of a script, images in it, daemons that have
them open, and a model of what a disk and its bitmap must be."""
import json
import os
import random
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import cluster as cluster_module  # noqa: E402
import harness  # noqa: E402
from harness import *  # noqa: E402,F403

MIB = 1 << 20
SIZE = 64 * MIB
OBJECT = 4 * MIB
GRANULE = 65536
_cluster = []


def cluster():
    """The one of all cases, or that of the case."""
    if not _cluster:
        _cluster.append(cluster_module.Cluster())
    return _cluster[-1]


class own_cluster:
    """A cluster for what follows only."""

    def __init__(self, **options):
        self.options = options

    def __enter__(self):
        _cluster.append(cluster_module.Cluster(**self.options))
        return _cluster[-1]

    def __exit__(self, *_):
        _cluster.pop().stop()


def Daemon(tmp, *args, **kwargs):
    return harness.Daemon(tmp, "--module", cluster_module.MODULE, *args, **kwargs)


def new_image(name, size=SIZE, *more):
    cluster().rbd("create", "--size", "%dB" % size, *more, "rbd/" + name)
    return name


def node(image, name="disk0", writable=True, export=True, **options):
    """Daemon arguments for an image, exported under its node's name."""
    options = dict({"pool": "rbd", "image": image, "conf": cluster().conf}, **options)
    more = ",".join("%s=%s" % (k.replace("__", ".").replace("_", "-"), v) for k, v in options.items())
    args = ["--blockdev", "driver=rbd,node-name=%s,%s" % (name, more)]
    if export:
        args += ["--export", "type=nbd,id=e-%s,node-name=%s,name=%s,writable=%s" % (
            name, name, name, "on" if writable else "off")]
    return args


def refused(tmp, message, *args):
    """The daemon does not start with these arguments and says why in one line."""
    p = run(TIDEMARKD, "--module", cluster_module.MODULE, *args, check=False)
    equal(p.returncode, 1)
    matches(p.stderr, message)
    return p.stderr


def allocated(image):
    """What rbd shows as existing, as (offset, length), neighbours merged."""
    found = []
    for x in json.loads(cluster().rbd("diff", "--whole-object", "--format", "json", "rbd/" + image)):
        if x["exists"] == "true":
            if found and sum(found[-1]) == x["offset"]:
                found[-1] = (found[-1][0], found[-1][1] + x["length"])
            else:
                found.append((x["offset"], x["length"]))
    return found


def data(handle):
    """What base:allocation shows as data, as (offset, length)."""
    return [(o, n) for o, n, flags in extents(handle, "base:allocation") if not flags & 3]


def status_client(d, export="disk0"):
    return d.nbd(export, contexts=["base:allocation"])


class Model:
    """Writes at random, and knows what the disk and a bitmap must be afterwards."""

    def __init__(self, seed, size=SIZE):
        self.random = random.Random(seed)
        self.content = bytearray(size)
        self.granules = set()

    def step(self, handle):
        offset = self.random.randrange(len(self.content))
        length = min(self.random.choice([1, 512, 4096, 70000, 5 * MIB]), len(self.content) - offset)
        if self.random.random() < 0.3:
            new = bytes(length)
            handle.zero(length, offset)
        else:
            new = self.random.randbytes(min(length, 4096)) * (length // 4096 + 1)
            new = new[:length]
            handle.pwrite(new, offset)
        self.content[offset:offset + length] = new
        self.granules.update(range(offset // GRANULE, (offset + length - 1) // GRANULE + 1))

    def dirty_is(self, handle, bitmap="b0"):
        got = {g for o, n in dirty(handle, bitmap) for g in range(o // GRANULE, (o + n - 1) // GRANULE + 1)}
        equal(sorted(got), sorted(self.granules), "the dirty granules")

    def content_is(self, image):
        equal(cluster().export("rbd/" + image) == self.content, True, "the content of the image")


def with_export(d):
    d.qmp("block-export-add", {"type": "nbd", "id": "eb", "node-name": "disk0", "name": "bitmaps", "writable": True,
                               "bitmaps": ["b0"]})


def locker(image_name):
    """The client and cookie that have the lock."""
    one = json.loads(cluster().rbd("lock", "ls", "--format", "json", "rbd/" + image_name))[0]
    return one["id"], one["locker"]
