#!/usr/bin/python3
# SPDX-FileCopyrightText: 2026 The Tidemark authors
# SPDX-License-Identifier: GPL-2.0-or-later
# timeout: 240
"""Several threads at one qcow2 image of every kind, with system calls that take their time: each finds what it wrote,
nobody what was written elsewhere, and in the end the image has no fault. STRESS_SECONDS: for so long in all, from a
seed at random (STRESS_SEED: from that one)."""
import random
import struct

from harness import *

PROGRAM = os.path.join(BUILDDIR, "tests", "stress", "stress-qcow2")
LONG = float(os.environ.get("STRESS_SECONDS") or 0)
SEED = int(os.environ.get("STRESS_SEED") or (random.randrange(1 << 31) if LONG else 1))
KINDS = [("cluster_size=512", "1100k"), ("cluster_size=512,refcount_bits=1", "1100k"), ("cluster_size=4k", "1100k"),
         ("extended_l2=on,cluster_size=16k", "1100k"), ("", "4M"), ("cluster_size=2M", "8M"),
         ("compat=0.10,cluster_size=1k", "1100k"), ("cluster_size=512,refcount_bits=64,compression_type=zstd", "4M")]


def base(path):
    """Sectors that say where they belong, and holes."""
    with open(path, "wb") as f:
        for s in range(1500):
            f.write(bytes(512) if s % 7 == 3 else
                    b"".join(struct.pack("<QQ", s + 1, 1 << 32 | i) for i in range(0, 512, 16)))
    return path


def case(number, options, size, backing):
    def threads(tmp):
        path = os.path.join(tmp, "image")
        below = [base(os.path.join(tmp, "base"))] if backing else []
        run("qemu-img", "create", "-q", "-f", "qcow2", *(["-b", below[0], "-F", "raw"] if backing else []),
            *(["-o", options] if options else []), path, size)
        for turn in range(2):
            command = [PROGRAM, "--seconds", max(0.4, LONG / len(KINDS) / 4), "--seed", SEED + 10 * number + turn]
            command += ["--no-unref"] if (number + turn) % 4 == 0 and "0.10" not in options else []
            done = run(*command, path, *below, check=False, timeout=LONG + 60)
            if done.returncode:
                fail("%s\n%s%s" % (" ".join(map(str, command)), done.stdout, done.stderr[-6000:]))
            print("# " + done.stdout.strip())
            if "refcount_bits=1" not in options:
                run("qemu-img", "snapshot", "-c", "s%d" % turn, path)

    threads.__doc__ = (options or "as it is made") + (", over a backing file" if backing else "")
    threads.__name__ = "threads"
    return threads


for i, kind in enumerate(KINDS):
    for b in (False, True):
        test(needs=["qemu-img"])(case(2 * i + b, *kind, b))

main()
