#!/usr/bin/python3
# SPDX-FileCopyrightText: 2026 The Tidemark authors
# SPDX-License-Identifier: GPL-2.0-or-later
# timeout: 600
"""States that a power loss may leave of qcow2 images of every kind, opened, read and checked: a few thousand of
each. CRASH_SECONDS: for so long instead, from a seed at random (CRASH_SEED: from that one). A failure names its
seed: "$BUILDDIR/tests/crash/crash-qcow2" takes it as an argument, and the state is kept."""
import os
import random

from harness import *

PROGRAM = os.path.join(BUILDDIR, "tests", "crash", "crash-qcow2")
LONG = float(os.environ.get("CRASH_SECONDS") or 0)
SLOW = float(os.environ.get("TEST_TIMEOUT_MULTIPLIER") or 1) > 1

KINDS = [("cluster_size=512", "150k", 0), ("cluster_size=512,refcount_bits=1", "150k", 0),
         ("cluster_size=512,refcount_bits=64", "150k", 0), ("cluster_size=4096", "300k", 0),
         ("compat=0.10,cluster_size=1024", "150k", 0), ("extended_l2=on,cluster_size=16k", "500k", 0),
         ("compression_type=zstd,cluster_size=2048", "200k", 0), ("cluster_size=512", "150k", 2),
         ("extended_l2=on,cluster_size=16k", "300k", 1), ("cluster_size=1024", "150k", -1),
         ("extended_l2=on,cluster_size=16k", "400k", -1)]
# The file has lost so much of its end.
CUT = [("cluster_size=512", "150k", 0, 700), ("cluster_size=4096", "300k", 1, 100),
       ("extended_l2=on,cluster_size=16k", "500k", 0, 20000)]


def make(tmp, options, size, snapshots, cut):
    path = os.path.join(tmp, "image")
    backing = snapshots < 0
    if backing:
        with open(os.path.join(tmp, "base"), "wb") as f:
            f.write(random.Random(1).randbytes(100000))
    run("qemu-img", "create", "-q", "-f", "qcow2", *(["-b", "base", "-F", "raw"] if backing else []), "-o", options,
        path, size, cwd=tmp)
    if not snapshots:  # what is cut off has been something
        run("qemu-io", "-c", "write -P 9 60k 90k", path)
    for n in range(snapshots):
        compressed = "write -c -P 3 %dk %s" % (112 + 16 * n, "16k" if "16k" in options else "4k")
        run("qemu-io", "-c", "write -P %d 3k 40k" % (n + 5), "-c", "write -P 8 100k 5k", "-c", compressed, path)
        run("qemu-img", "snapshot", "-c", "snap%d" % n, path)
    if cut:
        run("qemu-io", "-c", "write -P 4 0 60k", path)
        os.truncate(path, os.stat(path).st_size - cut)
    return [path] + ([os.path.join(tmp, "base")] if backing else [])


def case(number, options, size, snapshots, cut=0):
    def states(tmp):
        files = make(tmp, options, size, snapshots, cut)
        seed = int(os.environ.get("CRASH_SEED") or random.randrange(1 << 31)) if LONG else 1
        command = [PROGRAM, "--seed", seed, "--keep", os.path.join(BUILDDIR, "test-logs", "crash", "kept-qcow2")]
        command += ["--seconds", max(1, int(LONG / len(KINDS + CUT) / 3))] if LONG else ["--seeds", 1]
        if SLOW:  # the sanitizers look at every event, too, but at fewer states after it
            command += ["--seeds", 1, "--states", 1, "--qemu-img", 500]
        bitmap = [] if "0.10" in options else ["--bitmap"]
        # What a failure leaves behind shows later: more workloads, fewer states of each.
        workloads = 1 if SLOW and (options, size, snapshots) != KINDS[0] else 4
        faults = ["--faults"] + ([] if LONG else ["--seeds", workloads, "--states", 1, "--qemu-img", 500])
        full = ["--full"] + ([] if LONG else ["--seeds", min(workloads, 2), "--states", 1, "--qemu-img", 500])
        ways = [bitmap, bitmap + faults, full]
        if SLOW and not LONG:  # each kind in one way
            ways = [ways[number % len(ways)]]
        for more in ways:
            done = run(*command, *more, *files, check=False, timeout=LONG + 60 * (4 if SLOW else 1))
            if done.returncode:
                fail("%s %s %s\n%s%s" % (PROGRAM, " ".join(map(str, more)), " ".join(files), done.stdout,
                                         done.stderr[-2000:]))
            print("# " + done.stdout.strip())

    states.__doc__ = options + {0: "", -1: ", over a backing file"}.get(snapshots, ", with %d snapshots" % snapshots)
    states.__doc__ += ", %d bytes short" % cut if cut else ""
    states.__name__ = "states"
    return states


for number, kind in list(enumerate(KINDS + CUT))[::4 if SLOW and not LONG else 1]:
    test(needs=["qemu-img", "qemu-io"])(case(number, *kind))

main()
