#!/usr/bin/python3
# SPDX-FileCopyrightText: 2026 The Tidemark authors
# SPDX-License-Identifier: GPL-2.0-or-later
"""tidemark mount: the disks of a point as files, through FUSE. Skipped where nobody may mount."""
from harness import *
from repositories import BLOCK, Repository
import contextlib
import random

NEEDS = ["qemu-img", "qemu-io"]


def make(tmp):
    rng = random.Random(3)
    repo = Repository(os.path.join(tmp, "repo"))
    first = rng.randbytes(3 * BLOCK) + bytes(2 * BLOCK) + rng.randbytes(BLOCK + 1000)
    repo.add("p0", None, a=first, b=first[:BLOCK])
    repo.add("p1", "p0", a=first[:BLOCK] + bytes(BLOCK) + first[2 * BLOCK:4 * BLOCK] + rng.randbytes(BLOCK)
             + first[5 * BLOCK:])
    return repo


@contextlib.contextmanager
def mounted(tmp, repo, *args):
    """The directory, and the process."""
    at = os.path.join(tmp, "mnt")
    os.makedirs(at, exist_ok=True)
    need_fuse()
    p = subprocess.Popen([TIDEMARK, "mount", repo.path, at, *args], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                         text=True)
    try:
        if "Point" not in p.stdout.readline():
            err = p.communicate()[1]
            if "Could not mount" in err or "without libfuse3" in err:
                skip(err.strip())
            fail(err)
        yield at, p
    finally:
        if p.poll() is None:
            p.terminate()
            p.wait()
        if os.path.ismount(at):
            run("umount", "-l", at)


@test(needs=NEEDS)
def files_are_the_disks(tmp):
    "each file is its disk as at the point, read in any way, and nobody can write"
    repo = make(tmp)
    for point, disks in ("p1", "a"), ("p0", "ab"):
        with mounted(tmp, repo, "--at", point) as (at, p):
            equal(sorted(os.listdir(at)), [d + ".img" for d in disks])
            for disk in disks:
                expected = repo.contents[point, disk]
                path = os.path.join(at, disk + ".img")
                equal(os.stat(path).st_size, len(expected))
                with open(path, "rb", buffering=0) as f:
                    equal(f.read() == expected, True)
                rng = random.Random(1)
                fd = os.open(path, os.O_RDONLY)
                for _ in range(50):
                    offset, length = rng.randrange(len(expected) + 10), rng.choice([1, 100, 4096, BLOCK, 3 * BLOCK])
                    equal(os.pread(fd, length, offset) == expected[offset:offset + length], True, (offset, length))
                os.close(fd)
                raises(OSError, open, path, "r+b")
            raises(OSError, open, os.path.join(at, "new"), "wb")
            p.send_signal(signal.SIGINT)
            equal(p.wait(PATIENCE), 0)
            equal(os.path.ismount(at), False)


@test(needs=NEEDS)
def a_damaged_block_is_an_error(tmp):
    "a block that does not have its hash can't be read, and is named; the others can"
    repo = make(tmp)
    entry = next(e for e in json.loads(run("qemu-img", "map", "--output=json", repo.file("p0", "a")).stdout) if e["data"])
    with open(repo.file("p0", "a"), "r+b") as f:
        f.seek(entry["offset"] + BLOCK + 5)
        f.write(b"damage")
    with mounted(tmp, repo, "--at", "p0") as (at, p):
        fd = os.open(os.path.join(at, "a.img"), os.O_RDONLY)
        equal(os.pread(fd, BLOCK, 2 * BLOCK) == repo.contents["p0", "a"][2 * BLOCK:3 * BLOCK], True)
        raises(OSError, os.pread, fd, BLOCK, BLOCK)
        os.close(fd)
        p.send_signal(signal.SIGTERM)
        out, err = p.communicate(timeout=PATIENCE)
        equal(p.returncode, 0)
        matches(err, "'a.img': the block at offset %d, which is stored in point 'p0', is damaged" % BLOCK)


@test(needs=NEEDS)
def detached(tmp):
    "--detach returns when the files are there; unmounting ends it; errors are reported"
    repo = make(tmp)
    with mounted(tmp, repo) as (at, p):  # skips if that can't be
        pass
    p = tidemark("mount", repo.path, at, "--detach")
    try:
        matches(p.stdout, "umount")
        with open(os.path.join(at, "a.img"), "rb") as f:
            equal(f.read() == repo.contents["p1", "a"], True)
    finally:
        run("umount", at)
    for args, status in ((repo.path, at, "--at", "nosuch"), 1), ((repo.path, at + "/nosuch"), 1), ((repo.path,), 2):
        p = tidemark("mount", "--detach", *args, check=False)
        equal((p.returncode, p.stderr.count("\n")), (status, 1), p.stderr)


main()
