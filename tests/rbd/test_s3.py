#!/usr/bin/python3
# SPDX-FileCopyrightText: 2026 The Tidemark authors
# SPDX-License-Identifier: GPL-2.0-or-later
# timeout: 240
"""Repositories in buckets of a real server, Ceph's radosgw: their whole life, writers that are killed, and several at
once."""
import os
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
sys.path.insert(0, os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "func"))
from gateway import BUCKET, Gateway  # noqa: E402
from bucket_kit import *  # noqa: E402,F403
from harness import *  # noqa: E402,F403

_gateway = []


def gateway():
    """The one of all cases."""
    if not _gateway:
        if "without libcurl" in tidemark("list", "s3://%s/x" % BUCKET, check=False).stderr:
            skip("built without libcurl")
        _gateway.append(Gateway())
    return _gateway[0]


@test
def life(tmp):
    "a full and increments are listed, verified, served, restored, copied and removed"
    g = gateway()
    kit = BucketKit(tmp, "s3://%s/life" % BUCKET)
    life_of_a_repository(kit, lambda: g.keys("life/"))
    kit.d.stop()


@test
def killed_writers(tmp):
    "killed at any moment: points are whole or not there, and nothing is left after the next command"
    g = gateway()
    kit = BucketKit(tmp, "s3://%s/killed" % BUCKET, size=24 * MIB)
    kit.write("disk0", (0, pattern(1, 20 * MIB)))
    kit.point("first")
    for i in range(6):
        kit.write("disk0", (i * MIB, pattern(i, MIB)))
        content = kit.content("disk0")
        p = subprocess.Popen(kit.command("--full", "--name=p%d" % i), stdout=subprocess.DEVNULL,
                             stderr=subprocess.DEVNULL)
        time.sleep(0.15 + i * 0.1)
        p.kill()
        p.wait(PATIENCE)
        if "p%d" % i in kit.points():
            kit.models["p%d" % i] = content
    kit.point("last")
    kit.check_all()
    files = ["disk0.hashes", "disk0.qcow2", "manifest.json"]
    expected = ["%s/%s" % (p, f) for p in kit.models for f in files]
    found = [k for k in g.keys("killed/") if not k.endswith(".partial") or k.rsplit("/", 1)[0] not in kit.models]
    equal(sorted(found), sorted(expected + ["last.json", "lock", "tidemark-repository.json"]))
    kit.d.stop()


@test
def many_writers(tmp):
    "several that make and fill one repository at the same time come one after the other"
    gateway()
    kit = BucketKit(tmp, os.path.join(tmp, "directory"))
    kit.write("disk0", (0, pattern(1, MIB)))
    for i in range(4):
        run(*kit.command("--name=p%d" % i))
    target = "s3://%s/many" % BUCKET
    writers = [subprocess.Popen([TIDEMARK, "copy-points", "--wait=100", kit.repo, target, "p%d" % i],
                                stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) for i in range(4)]
    for p in writers:
        err = p.communicate(timeout=PATIENCE * 4)[1]
        equal(p.returncode, 0, err)
    kit.repo = target
    equal(kit.points(), ["p0", "p1", "p2", "p3"])
    tidemark("verify", target)
    kit.d.stop()


main()
