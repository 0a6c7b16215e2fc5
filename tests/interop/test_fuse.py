#!/usr/bin/python3
# SPDX-FileCopyrightText: 2026 The Tidemark authors
# SPDX-License-Identifier: GPL-2.0-or-later
"""The same calls of a FUSE export of tidemarkd and of qemu-storage-daemon: results, errors, sizes, data."""
import os
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "func"))
from fuse_kit import *  # noqa: E402,F403

SIZE = 4 << 20
MODES = [("punch", PUNCH_HOLE | KEEP_SIZE), ("zero", ZERO_RANGE), ("zero-keep", ZERO_RANGE | KEEP_SIZE),
         ("punch-alone", PUNCH_HOLE), ("collapse", COLLAPSE_RANGE)]
# Ours reserves space within the disk, and has no data or hole at the end: tidemarkd(8), Differences.
DIFFERENT = {"hole at the end", "reserve", "reserve-keep"}


def result_of(function, *args):
    try:
        value = function(*args)
    except OSError as e:
        return errno.errorcode[e.errno]
    return "ok" if value is None else value


def calls(fd, path):
    """What each call gives, and the size after it, by name."""
    steps = [("write", os.pwrite, fd, b"w" * 5000, 3000),
             ("read", os.pread, fd, 9000, 0),
             ("read across the end", lambda: len(os.pread(fd, 9000, SIZE - 1000))),
             ("read at the end", os.pread, fd, 10, SIZE),
             ("write across the end", os.pwrite, fd, b"e" * 8192, SIZE - 4096)]
    steps += [(name, fallocate, fd, mode, 65536, 65536) for name, mode in MODES]
    steps += [("reserve", fallocate, fd, 0, 65536, 65536), ("reserve-keep", fallocate, fd, KEEP_SIZE, 65536, 65536)]
    steps += [(name + " at the end", lambda mode=mode: fallocate(fd, mode, os.fstat(fd).st_size - 65536, 131072))
              for name, mode in MODES]
    steps += [("data", os.lseek, fd, 2 << 20, os.SEEK_DATA),
              ("hole", os.lseek, fd, 0, os.SEEK_HOLE),
              ("data at the end", lambda: os.lseek(fd, os.fstat(fd).st_size, os.SEEK_DATA)),
              ("hole at the end", lambda: os.lseek(fd, os.fstat(fd).st_size, os.SEEK_HOLE)),
              ("fsync", os.fsync, fd),
              ("shorter", os.ftruncate, fd, 1 << 20),
              ("longer", os.truncate, path, 3 << 20),
              ("times", os.utime, path),
              ("chmod", os.chmod, path, 0o640),
              ("chown", os.chown, path, 1, 2),
              ("truncating open", lambda: os.close(os.open(path, os.O_WRONLY | os.O_TRUNC))),
              ("mode", lambda: oct(os.stat(path).st_mode)),
              ("data of all", lambda: hash(os.pread(fd, SIZE, 0)))]
    return {name: (result_of(*step), os.fstat(fd).st_size) for name, *step in steps}


def outcome(tmp, binary, growable):
    name = "theirs" if binary else "ours"
    img = image(os.path.join(tmp, name + ".img"), SIZE, [(3 << 20, b"d" * 65536)])
    with Daemon(tmp, "--blockdev", "driver=file,node-name=disk0,discard=unmap,filename=" + img, binary=binary,
                name=name) as d:
        path = add(d, tmp, id=name, writable=True, growable=growable)
        with opened(path) as fd:
            results = calls(fd, path)
        delete(d, name)
        return results


@test(needs=[QSD])
def the_same_results(tmp):
    "reads, writes, fallocate, lseek, truncate and attributes give what they give there"
    need_fuse()
    for growable in False, True:
        ours, theirs = outcome(tmp, None, growable), outcome(tmp, QSD, growable)
        differ = {name for name in ours if ours[name] != theirs[name]}
        equal({name: (ours[name], theirs[name]) for name in differ - DIFFERENT}, {}, "growable: %s" % growable)
        equal(DIFFERENT - differ, set())


@test(needs=[QSD])
def the_same_errors(tmp):
    "mountpoints that are refused are refused with the same words"
    need_fuse()
    img = image(os.path.join(tmp, "img"), SIZE)
    used = place(tmp, "used")
    said = {}
    for name, binary in ("ours", None), ("theirs", QSD):
        with Daemon(tmp, "--blockdev", "driver=file,node-name=disk0,filename=" + img, binary=binary, name=name) as d:
            add(d, tmp, id="used", at=used)
            said[name] = [str(raises(QMPError, add, d, tmp, id="x", at=at))
                          for at in (used, tmp, os.path.join(tmp, "missing"), "/dev/null")]
            delete(d, "used")
    equal(said["ours"], said["theirs"])


main()
