#!/usr/bin/python3
# SPDX-FileCopyrightText: 2026 The Tidemark authors
# SPDX-License-Identifier: GPL-2.0-or-later
"""The limit of the size of files (RLIMIT_FSIZE, LimitFSIZE= of systemd): what would exceed it fails, and nothing
else; the daemon and the command live."""
import os
import resource
import sys


sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from harness import *
import nbd

MIB = 1 << 20


def limit(daemon, size):
    resource.prlimit(daemon.pid, resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))


def limited(size, *args):
    """tidemark under that limit must fail for that reason, in one line."""
    p = run("prlimit", "--fsize=%d" % size, TIDEMARK, *args, check=False)
    equal(p.returncode, 1, p.stderr)
    equal(p.stderr.count("\n"), 1, p.stderr)
    matches(p.stderr, "^tidemark: .*File too large")


@test
def writes(tmp):
    "a write beyond the limit fails with ENOSPC on each engine and lane; writes below it go on"
    for engine in "threads", "auto":
        with Daemon(tmp, "--io-engine", engine, *disk(tmp, "disk0", 4 * MIB),
                    *disk(tmp, "disk1", MIB, export=False)) as d:
            limit(d, 2 * MIB)
            h = d.nbd()
            for write in (lambda at: h.pwrite(b"x" * 4096, at), lambda at: h.pwrite(b"x" * 4096, at, 1)):
                raises(nbd.Error, write, 3 * MIB, match="No space left")
                raises(nbd.Error, write, 2 * MIB - 512, match="No space left")
                write(MIB)
            h.zero(4096, MIB)
            equal(bytes(h.pread(512, MIB)), bytes(512))
            h.shutdown()
            d.qmp("block_resize", {"node-name": "disk1", "size": 2 * MIB})
            raises(QMPError, d.qmp, "block_resize", {"node-name": "disk1", "size": 3 * MIB},
                   match="File too large")


@test
def stores(tmp):
    "a bitmap whose store would exceed the limit is refused; a store that can't grow degrades, and heals"
    with Daemon(tmp, *disk(tmp, "disk0", 1 << 30)) as d:
        limit(d, 8192)
        raises(QMPError, d.qmp, "block-dirty-bitmap-add", node="disk0", name="b", persistent=True,
               match="File too large")
        equal(d.bitmap("disk0", "b"), None)
        limit(d, resource.RLIM_INFINITY)
        d.qmp("block-dirty-bitmap-add", node="disk0", name="b", persistent=True)
        limit(d, 8192)
        h = d.nbd()
        h.pwrite(b"x" * 512, 0)
        h.shutdown()
        raises(QMPError, d.qmp, "block-dirty-bitmap-add", node="disk0", name="c", persistent=True,
               match="File too large")
        equal(d.bitmap("disk0", "b")["count"] >= 65536, True)
        limit(d, resource.RLIM_INFINITY)
        wait_until(lambda: d.bitmap("disk0", "b")["count"] == 65536, "healing")
        d.qmp("block-dirty-bitmap-add", node="disk0", name="c", persistent=True)
        d.kill()
    with Daemon(tmp, *disk(tmp, "disk0")) as d:
        equal(d.bitmap("disk0", "b")["count"], 65536)
        equal(d.bitmap("disk0", "c")["count"], 0)


@test(needs=["prlimit"])
def commands(tmp):
    "tidemark reports the limit, and leaves no new file"
    path = os.path.join(tmp, "new.img")
    limited(MIB, "image", "create", path, "4M")
    equal(os.path.exists(path), False)
    with Daemon(tmp, *disk(tmp, "disk0", path=image(os.path.join(tmp, "disk0.img"), 4 * MIB,
                                                    [(3 * MIB, b"x" * 4096)]))) as d:
        limited(MIB, "copy", d.uri(), path)
    with open(path, "wb") as f:
        f.truncate(MIB)
    limited(2 * MIB, "image", "resize", "--format", "raw", path, "4M")
    equal(os.path.getsize(path), MIB)


main()
