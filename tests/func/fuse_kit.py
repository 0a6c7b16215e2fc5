# SPDX-FileCopyrightText: 2026 The Tidemark authors
# SPDX-License-Identifier: GPL-2.0-or-later
"""What the tests of FUSE exports share: exports, and calls of a file that Python has no function for."""
import contextlib
import ctypes
import errno

from harness import *

KEEP_SIZE, PUNCH_HOLE, COLLAPSE_RANGE, ZERO_RANGE = 1, 2, 8, 0x10
LIBC = ctypes.CDLL(None, use_errno=True)


def place(tmp, name):
    """An empty file to mount over."""
    path = os.path.join(tmp, name + ".file")
    open(path, "w").close()
    return path


def add(d, tmp, node="disk0", id="f", at=None, **options):
    """Exports the node; the path of the file."""
    path = at or place(tmp, id)
    try:
        d.qmp("block-export-add", type="fuse", id=id, node_name=node, mountpoint=path, **options)
    except QMPError as e:
        if re.search("without libfuse3|FUSE session .*(not permitted|exec fusermount3)", e.desc):
            skip(e.desc)
        raise
    return path


def delete(d, id="f", **more):
    d.qmp("block-export-del", id=id, **more)
    d.monitor.wait_event("BLOCK_EXPORT_DELETED", id=id)


@contextlib.contextmanager
def opened(path, flags=os.O_RDWR):
    fd = os.open(path, flags)
    try:
        yield fd
    finally:
        with contextlib.suppress(OSError):  # it flushes, and the connection may be gone
            os.close(fd)


def fallocate(fd, mode, offset, length):
    if LIBC.fallocate(fd, mode, ctypes.c_int64(offset), ctypes.c_int64(length)):
        raise OSError(ctypes.get_errno(), "fallocate")


def error_of(function, *args):
    """The name of its error, or None."""
    try:
        function(*args)
    except OSError as e:
        return errno.errorcode[e.errno]
    return None
