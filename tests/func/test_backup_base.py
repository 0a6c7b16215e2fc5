#!/usr/bin/python3
# SPDX-FileCopyrightText: 2026 The Tidemark authors
# SPDX-License-Identifier: GPL-2.0-or-later
"""tidemark backup: an increment stands only on a point that is known to be what the disk was."""
import hashlib

from backup_kit import *
from harness import *


def equal_disks(kit, point, **disks):
    "Each disk of the point has what the disk of the daemon has."
    for name, node in disks.items():
        kit.check(point, name, kit.content(node))


def change_manifest(kit, point, change):
    manifest = kit.manifest(point)
    del manifest["sha256"]
    change(manifest)
    manifest["sha256"] = hashlib.sha256((json.dumps(manifest, indent=2) + "\n").encode()).hexdigest()
    with open(os.path.join(kit.repo, point, "manifest.json"), "w") as f:
        f.write(json.dumps(manifest, indent=2) + "\n")


def two_disks(tmp, **options):
    kit = Kit(tmp, "a", "b", **options)
    for name in kit.disks:
        kit.write(name, (0, pattern(name, 3 * MIB)))
    kit.backup("--name=p1", disks=["x=a", "y=b"])
    return kit


@test(needs=["qemu-img"])
def disks_that_change_places(tmp):
    "the names of two disks are swapped: fulls, since neither is what its last point has"
    kit = two_disks(tmp)
    checkpoints = [d["source"]["checkpoint"] for d in kit.manifest("p1")["disks"]]
    equal(len(set(checkpoints)), 2)
    p = kit.backup("--name=p0", "--incremental", disks=["x=b", "y=a"], check=False)
    equal(p.returncode, 1, p.stderr)
    kit.write("a", (MIB, b"more"))
    p = kit.backup("--name=p2", disks=["x=b", "y=a"])
    matches(p.stderr, "warning: x: full, because the daemon has no checkpoint of point 'p1'")
    equal_disks(kit, "p2", x="b", y="a")
    kit.write("b", (2 * MIB, b"more"))
    kit.backup("--name=p3", disks=["y=a", "x=b"])
    equal(kit.kinds("p3"), ["incremental"] * 2)
    equal_disks(kit, "p3", x="b", y="a")
    equal([len(kit.checkpoints(name)) for name in kit.disks], [1, 1])
    kit.d.stop()


@test(needs=["qemu-img"])
def files_that_change_places(tmp):
    "the files of two disks are swapped, with their bitmaps"
    kit = two_disks(tmp)
    kit.d.stop()
    for name in os.listdir(tmp):
        if name.startswith("a.img"):
            os.rename(os.path.join(tmp, name), os.path.join(tmp, "t" + name[1:]))
    for here, there in ("b", "a"), ("t", "b"):
        for name in os.listdir(tmp):
            if name.startswith(here + ".img"):
                os.rename(os.path.join(tmp, name), os.path.join(tmp, there + name[1:]))
    kit.start()
    kit.write("a", (MIB, b"more"))
    kit.backup("--name=p2", disks=["x=a", "y=b"])
    equal_disks(kit, "p2", x="a", y="b")
    kit.d.stop()


@test(needs=["qemu-img"])
def names_of_checkpoints_that_two_disks_have(tmp):
    "a manifest that names one checkpoint for two disks says nothing about either"
    kit = two_disks(tmp)
    change_manifest(kit, "p1", lambda m: [d["source"].update(checkpoint=m["disks"][0]["source"]["checkpoint"])
                                          for d in m["disks"]])
    kit.backup("--name=p2", disks=["x=b", "y=a"])
    equal(kit.kinds("p2"), ["full"] * 2)
    equal_disks(kit, "p2", x="b", y="a")
    kit.d.stop()


main()
