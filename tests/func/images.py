# SPDX-FileCopyrightText: 2026 The Tidemark authors
# SPDX-License-Identifier: GPL-2.0-or-later
"""qcow2 images as qemu-img and qemu-io make them."""
import os
import random

from harness import run


def create(path, options="", size=None, backing=None, *more):
    """qemu-img create; @backing: (path, format). Returns the path."""
    run("qemu-img", "create", "-q", "-f", "qcow2", *(["-b", backing[0], "-F", backing[1]] if backing else []),
        *(["-o", options] if options else []), *more, path, *([] if size is None else [size]))
    return path


def scribble(path, seed, size, cluster, compressed=True, times=60):
    """What qemu-io leaves in an image: data, zeroes, holes, compressed clusters, at random places."""
    rng = random.Random(seed)
    commands = []
    for _ in range(times):
        at = rng.randrange(0, size - 512, 512)
        n = min(rng.choice((512, 4096, cluster, 3 * cluster, 5000 // 512 * 512)), size - at)
        what = rng.randrange(10)
        if what < 6:
            commands += ["-c", "write -q -P %d %d %d" % (rng.randrange(1, 256), at, n)]
        elif what < 8:
            commands += ["-c", "write -q -z %s %d %d" % (rng.choice(("", "-u")), at, n)]
        elif what == 8:
            commands += ["-c", "discard -q %d %d" % (at, n)]
        elif compressed:
            at = at // cluster * cluster
            commands += ["-c", "write -q -c -P %d %d %d" % (rng.randrange(256), at, min(cluster, size - at))]
    run("qemu-io", "-d", "unmap", *commands, path, timeout=60, check=False)  # compressed over data: refused


def raw(path, opts=None):
    """What qemu-img reads of an image, as a bytearray. @opts: --image-opts instead."""
    to = path + ".raw"
    run("qemu-img", "convert", "-O", "raw", *(["--image-opts", opts] if opts else [path]), to)
    with open(to, "rb") as f:
        data = f.read()
    os.unlink(to)
    return bytearray(data)
