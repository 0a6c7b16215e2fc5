#!/usr/bin/python3
# SPDX-FileCopyrightText: 2026 The Tidemark authors
# SPDX-License-Identifier: GPL-2.0-or-later
# timeout: 300
"""States that a power loss may leave of two disks and the chains of bitmaps that both have, their data included: some
ten thousand. CRASH_SECONDS: for so long instead, from a seed at random (CRASH_SEED: from that one). A failure names its
seed: "$BUILDDIR/tests/crash/crash-disk" takes it as an argument, and the state is kept."""
import os
import random

from harness import *

PROGRAM = os.path.join(BUILDDIR, "tests", "crash", "crash-disk")
LONG = float(os.environ.get("CRASH_SECONDS") or 0)
SLOW = float(os.environ.get("TEST_TIMEOUT_MULTIPLIER") or 1) > 1
CASES = 4


def states(tmp, images=(), more=()):
    paths = []
    for number, (options, size) in enumerate(images):
        paths.append(os.path.join(tmp, "image%d" % number))
        run("qemu-img", "create", "-q", "-f", "qcow2", "-o", options, paths[-1], size)
    seed = int(os.environ.get("CRASH_SEED") or random.randrange(1 << 31)) if LONG else 1
    length = ["--seconds", max(1, int(LONG / CASES))] if LONG else ["--seeds", 1 if SLOW else 3]
    keep = os.path.join(BUILDDIR, "test-logs", "crash", "kept-disk")
    command = [PROGRAM, "--seed", seed, "--keep", keep, *length, *more, *(["--states", 1] if SLOW else []), *paths]
    done = run(*command, check=False, timeout=LONG + 240)
    if done.returncode:
        fail("%s\n%s%s" % (" ".join(map(str, command)), done.stdout, done.stderr[-2000:]))
    print("# " + done.stdout.strip())


@test
def raw(tmp):
    "raw disks lose nothing that was flushed, and what has gone back is dirty"
    states(tmp)


@test
def raw_faults(tmp):
    "with failing calls and a full file system at the end, raw disks lose nothing that was flushed"
    states(tmp, more=["--faults"])


@test(needs=["qemu-img"])
def qcow2(tmp):
    "a qcow2 image and a raw disk lose nothing that was flushed, and what has gone back is dirty"
    states(tmp, [("cluster_size=4096", "100k")])


@test(needs=["qemu-img"])
def qcow2_faults(tmp):
    "with failing calls, two qcow2 images lose nothing that was flushed"
    states(tmp, [("cluster_size=512", "64k"), ("cluster_size=4096", "100k")], ["--faults"])


main()
