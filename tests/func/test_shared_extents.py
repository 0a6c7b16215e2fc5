#!/usr/bin/python3
# SPDX-FileCopyrightText: 2026 The Tidemark authors
# SPDX-License-Identifier: GPL-2.0-or-later
"""Backups where the file system shares extents: what is overwritten is kept by reference. On a loop device with XFS,
which needs the right to mount one."""
import ctypes
import fcntl
import struct

from harness import *

KIB, MIB = 1 << 10, 1 << 20
CLUSTER = 64 * KIB
SIZE = 8 * MIB + 1000  # the last block is not whole
FIEMAP, SHARED, LAST = 0xC020660B, 0x2000, 1
SYS_cachestat = 451


class Xfs:
    """A new file system, mounted for as long as the block runs."""

    def __init__(self, tmp):
        if os.getuid():
            skip("mounting needs root")
        self.path, self.image = os.path.join(tmp, "xfs"), os.path.join(tmp, "xfs.img")
        with open(self.image, "wb") as f:
            f.truncate(320 * MIB)
        os.makedirs(self.path)

    def __enter__(self):
        for command in (["mkfs.xfs", "-q", "-K", "-m", "reflink=1", self.image],
                        ["mount", "-o", "loop", self.image, self.path]):
            p = run(*command, check=False)
            if p.returncode:
                skip("no XFS with shared extents: " + p.stderr.strip())
        return self.path

    def __exit__(self, kind, *_):
        """After a failure the daemon still has it open."""
        run("umount", *["--lazy"] * (kind is not None), self.path)


def shared(path):
    """Bytes of the file that are shared with others, by cluster."""
    found, at = {}, 0
    with open(path, "rb") as f:
        while True:
            head = struct.pack("=QQIIII", at, 1 << 60, 1, 0, 16, 0)
            answer = fcntl.ioctl(f, FIEMAP, head + bytes(16 * 56))
            for i in range(struct.unpack("=QQIIII", answer[:32])[3]):
                start, _, length, _, _, flags = struct.unpack("=QQQQQI", answer[32 + 56 * i:][:44])
                at = start + length
                for block in range(start, at if flags & SHARED else start, 4 * KIB):
                    found[block // CLUSTER] = found.get(block // CLUSTER, 0) + 4 * KIB
                if flags & LAST:
                    return found
            if not struct.unpack("=QQIIII", answer[:32])[3]:
                return found


def knows_dirty_pages(path):
    """Whether this kernel tells which pages are not on the medium yet (Linux 6.5)."""
    with open(path, "rb") as f:
        length, stat = (ctypes.c_uint64 * 2)(0, 4096), (ctypes.c_uint64 * 5)()
        return ctypes.CDLL(None).syscall(SYS_cachestat, f.fileno(), length, stat, 0) == 0


def begin(d, directory):
    os.makedirs(directory, exist_ok=True)
    d.qmp("backup-begin", id="b", disks=[{"node": "disk0", "export": "instant"}], scratch={"directory": directory})


def image_of(d, export):
    h = d.nbd(export)
    data = h.pread(h.get_size(), 0)
    h.shutdown()
    return data


def made(path):
    """A file of data, all of it on the medium."""
    data = os.urandom(SIZE)
    with open(path, "wb") as f:
        f.write(data)
        f.flush()
        os.fsync(f.fileno())
    return data


def forget(path):
    """Its pages leave the page cache."""
    with open(path, "rb") as f:
        os.posix_fadvise(f.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


@test(needs=["mkfs.xfs"])
def by_reference(tmp):
    "what is on the medium alone is kept by reference, and read as it was; what was written again after it is not shared"
    with Xfs(tmp) as xfs:
        path = os.path.join(xfs, "disk0.img")
        before = made(path)
        with Daemon(tmp, *disk(tmp, "disk0", path=path)) as d:
            h = d.nbd()
            begin(d, xfs)
            equal(shared(path), {})
            last = SIZE // CLUSTER
            forget(path)
            for cluster in (0, 40, 100):  # far apart: a page of the page cache can be large
                h.pwrite(b"new" * 1000, cluster * CLUSTER + 5000)
            h.pwrite(b"end", SIZE - 3)
            h.flush()
            equal(image_of(d, "instant") == before, True, "the instant has changed")
            now = shared(path)
            equal(sorted(c for c in now if c != last), [0, 40, 100])
            equal(now[100] in range(CLUSTER - 12 * KIB, CLUSTER), True, "shared of cluster 100: %d" % now[100])
            backup = d.qmp("query-backups")[0]
            equal(backup["disks"][0]["copied-before-writes"], 3 * CLUSTER + SIZE % CLUSTER)
            h.shutdown()
            d.qmp("backup-end", id="b", success=True)
            wait_until(lambda: shared(path) == {}, "the scratch to be gone")
            equal(image_of(d, "disk0")[40 * CLUSTER + 5000:][:3000], b"new" * 1000)


@test(needs=["mkfs.xfs"])
def dirty_pages(tmp):
    "what is not on the medium yet is copied in memory: a write doesn't wait until it is"
    with Xfs(tmp) as xfs:
        path = os.path.join(xfs, "disk0.img")
        made(path)
        if not knows_dirty_pages(path):
            skip("this kernel does not tell which pages are dirty")
        with Daemon(tmp, *disk(tmp, "disk0", path=path)) as d:
            h = d.nbd()
            for cluster in range(128):
                h.pwrite(b"dirty", cluster * CLUSTER)
            before = image_of(d, "disk0")
            begin(d, xfs)
            for cluster in range(128):
                h.pwrite(b"again", cluster * CLUSTER)
            equal(shared(path), {})
            equal(image_of(d, "instant") == before, True, "the instant has changed")
            h.shutdown()
            d.qmp("backup-end", id="b", success=False)


@test(needs=["mkfs.xfs"])
def cached_pages(tmp):
    "what is in the page cache is copied from there, no more than is overwritten"
    with Xfs(tmp) as xfs:
        path = os.path.join(xfs, "disk0.img")
        before = made(path)
        with Daemon(tmp, *disk(tmp, "disk0", path=path)) as d:
            h = d.nbd()
            begin(d, xfs)
            for cluster in range(0, 128, 4):
                h.pwrite(b"new", cluster * CLUSTER)
            equal(shared(path), {})
            backup = d.qmp("query-backups")[0]
            equal(backup["disks"][0]["copied-before-writes"], 32 * 4 * KIB)
            equal(backup["scratch"]["used"], 32 * 4 * KIB)
            equal(image_of(d, "instant") == before, True, "the instant has changed")
            h.shutdown()
            d.qmp("backup-end", id="b", success=False)


@test(needs=["mkfs.xfs"])
def another_file_system(tmp):
    "a scratch on another file system has a copy"
    with Xfs(tmp) as xfs:
        path = os.path.join(xfs, "disk0.img")
        before = made(path)
        with Daemon(tmp, *disk(tmp, "disk0", path=path)) as d:
            h = d.nbd()
            begin(d, os.path.join(tmp, "scratch"))
            h.pwrite(b"new" * 30000, 5000)
            h.pwrite(b"end", SIZE - 3)
            equal(shared(path), {})
            equal(image_of(d, "instant") == before, True, "the instant has changed")
            h.shutdown()
            d.qmp("backup-end", id="b", success=False)


main()
