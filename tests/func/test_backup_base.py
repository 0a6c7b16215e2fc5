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


class Foreign:
    """The disks of a daemon, backed up over NBD with a bitmap that this test takes care of."""

    def __init__(self, tmp, *disks):
        self.kit = Kit(tmp, *disks)
        for node in disks:
            self.kit.write(node, (0, pattern(node, 3 * MIB)))
            self.kit.d.qmp("block-dirty-bitmap-add", node=node, name="b")

    def backup(self, point, *args, node="a", status=0):
        "It is backed up as disk x, and the bitmap is cleared if that worked."
        d = self.kit.d
        d.qmp("block-dirty-bitmap-disable", node=node, name="b")
        d.qmp("block-export-dirty-bitmap", id="exp-" + node, bitmaps=["b"])
        p = run(TIDEMARK, "backup", "--bitmap=b", "--name", point, *args, "x=" + d.uri(node), self.kit.repo,
                check=False)
        equal(p.returncode, status, p.stdout + p.stderr)
        d.qmp("block-export-dirty-bitmap", id="exp-" + node, bitmaps=[])
        d.qmp("block-dirty-bitmap-enable", node=node, name="b")
        if p.returncode == 0:
            d.qmp("block-dirty-bitmap-clear", node=node, name="b")
            self.kit.check(point, "x", self.kit.content(node))
        return p

    def full(self, point, reason, node="a"):
        p = self.backup("none", "--incremental", node=node, status=1)
        matches(p.stderr, "can't have an increment: " + reason)
        p = self.backup(point, node=node)
        matches(p.stderr, "warning: x: full, because " + reason)

    def increment(self, point):
        self.kit.write("a", (self.rng(point), point.encode()))
        self.backup(point, "--incremental")

    def rng(self, point):
        return random.Random(point).randrange(SIZE - 100)


@test(needs=["qemu-img"])
def bitmaps_of_others_need_the_last_point(tmp):
    "the newest point was forgotten or damaged, is of another URI or of a daemon: a full, and --incremental fails"
    f = Foreign(tmp, "a", "b")
    f.backup("p1")
    f.increment("p2")
    f.kit.write("a", (4 * MIB, b"three"))
    f.backup("p3", "--incremental")
    tidemark("forget", f.kit.repo, "p3")
    f.full("p4", "point 'p2' is not known to be that of its last backup")
    f.increment("p5")
    tidemark("forget", f.kit.repo, "p4")
    with open(os.path.join(f.kit.repo, "last.json"), "r+") as last:  # as a kill leaves it, before the point is there
        said = json.load(last)
        said["disks"]["x"] = {"id": "3b241101-e2bb-4255-8caf-4136c566a962", "before": said["disks"]["x"]["id"]}
        last.seek(0)
        json.dump(said, last)
    f.increment("p6")
    f.full("p7", "point 'p6' is not of 'nbd.*'", node="b")
    f.full("p8", "point 'p7' is not of 'nbd.*'")
    f.kit.backup("--name=p9", disks=["x=a"])
    f.full("q1", "point 'p9' is not of 'nbd.*'")
    manifest = os.path.join(f.kit.repo, "q1", "manifest.json")
    with open(manifest, "ab") as m:
        m.write(b"damage")
    f.full("q2", "point 'q1' is damaged, and may be the last one")
    os.unlink(os.path.join(f.kit.repo, "last.json"))
    shutil.rmtree(os.path.dirname(manifest))
    f.full("q3", "point 'q2' is not known to be that of its last backup")
    f.increment("q4")
    f.kit.d.stop()


@test(needs=["qemu-img"])
def clocks_that_are_set_back(tmp):
    "points are in the order in which they were made: the newest, the latest and what increments stand on"
    f = Foreign(tmp, "a")
    f.backup("p1")

    def ahead(manifest):
        manifest["instant"] += 10 ** 9 * 10 ** 6
        manifest["time"] = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(manifest["instant"] // 10 ** 9)) \
            + ".%09dZ" % (manifest["instant"] % 10 ** 9)

    change_manifest(f.kit, "p1", ahead)
    f.increment("p2")
    f.increment("p3")
    equal([f.kit.manifest(p)["disks"][0].get("parent") for p in ("p1", "p2", "p3")], [None, "p1", "p2"])
    listed = json.loads(tidemark("list", "--json", f.kit.repo).stdout)
    equal([p["point"] for p in listed["points"]], ["p1", "p2", "p3"])
    out = os.path.join(tmp, "latest.img")
    tidemark("restore", f.kit.repo, "--at", "latest", "x=" + out)
    with open(out, "rb") as got:
        equal(got.read() == f.kit.content("a"), True)
    f.kit.d.stop()


main()
