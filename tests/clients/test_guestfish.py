#!/usr/bin/python3
# SPDX-FileCopyrightText: 2026 The Tidemark authors
# SPDX-License-Identifier: GPL-2.0-or-later
# timeout: 600
"""libguestfs, run as it is: guestfish makes a file system on an export, writes a file, and finds it again."""
import os
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "func"))
from harness import *  # noqa: E402,F403

MIB = 1 << 20


def guestfish(tmp, *args, commands):
    """Runs guestfish's commands and returns what they print."""
    env = dict(os.environ, LIBGUESTFS_BACKEND="direct", LIBGUESTFS_BACKEND_SETTINGS="force_tcg", HOME=tmp,
               LIBGUESTFS_CACHEDIR="/var/tmp")
    p = run("guestfish", *args, input=commands, env=env, check=False, timeout=8 * PATIENCE)
    if p.returncode and re.search(r"supermin|kernel|appliance", p.stderr):
        skip("libguestfs has no appliance here: " + p.stderr.strip().splitlines()[-1])
    equal(p.returncode, 0, p.stderr)
    return p.stdout


@test(needs=["guestfish", "qemu-system-x86_64"])
def file_system(tmp):
    "guestfish makes a file system on an export, and reads it again from a read-only one; the bitmap has what changed"
    with Daemon(tmp, *disk(tmp, "disk0", 64 * MIB, export=False)) as d:
        d.qmp("block-dirty-bitmap-add", node="disk0", name="b")
        for name, more in ("rw", {"writable": True, "bitmaps": ["b"]}), ("ro", {}):
            d.qmp("block-export-add", {"type": "nbd", "id": name, "node-name": "disk0", "name": name, **more})
        where = "?socket=" + d.nbd_path
        guestfish(tmp, "--format=raw", "-a", "nbd:///rw" + where,
                  commands="run\nmkfs ext4 /dev/sda\nmount /dev/sda /\nwrite /hello 'high water'\n")
        equal(sum(n for _, n in dirty(d.nbd("rw", ["qemu:dirty-bitmap:b"]), "b")) > 0, True, "dirty bytes")
        said = guestfish(tmp, "--ro", "--format=raw", "-a", "nbd:///ro" + where,
                         commands="run\nmount-ro /dev/sda /\ncat /hello\nfsck ext4 /dev/sda\n")
        matches(said, "high water")


main()
