#!/usr/bin/python3
# SPDX-FileCopyrightText: 2026 The Tidemark authors
# SPDX-License-Identifier: GPL-2.0-or-later
"""Errors of the disk on their way to the client. Sections named are those of the NBD specification
(doc/proto.md, with the EXTENDED_HEADERS extension)."""
import errno

from wire import *

MIB = 1 << 20
MODULE = os.path.join(BUILDDIR, "tests", "plugin", "faulty.so")
FORMS = {"simple": dict(structured=False), "structured": {}, "extended": dict(extended=True)}


def faulty(tmp, size=8 * MIB, **options):
    """A daemon with a disk that fails: tests/plugin/faulty.c."""
    if not os.path.exists(MODULE):
        skip("the tests' plug-ins are not built")
    more = "".join(",%s=%s" % (k.replace("_", "-"), v) for k, v in options.items())
    return Daemon(tmp, "--module", MODULE,
                  "--blockdev", "driver=faulty,node-name=disk0,discard=unmap,size=%d%s" % (size, more),
                  "--export", "type=nbd,id=e,node-name=disk0,name=disk0,writable=on")


@test
def numbers(tmp):
    "errors have the numbers of the protocol, and the session lives (Error values)"
    expected = {errno.EPERM: EPERM, errno.EROFS: EPERM, errno.EIO: EIO, errno.ENOMEM: ENOMEM,
                errno.EINVAL: EINVAL, errno.ENOSPC: ENOSPC, errno.EDQUOT: ENOSPC,
                errno.EFBIG: ENOSPC, errno.ETIMEDOUT: EIO, errno.EACCES: EIO, errno.EOVERFLOW: EIO,
                errno.ESTALE: EIO, errno.ENODEV: EIO}
    for i, (number, error) in enumerate(expected.items()):
        with faulty(tmp, bad_offset=4 * MIB, bad_length=512, errno=number) as d:
            for name, form in list(FORMS.items()) if number == errno.EIO else [list(FORMS.items())[i % 3]]:
                w = Wire(d.nbd_path).go(**form)
                for command in (READ, WRITE, TRIM, CACHE, ZEROES):
                    data = bytes(1024) if command == WRITE else b""
                    what = "%s, command %d, %s" % (name, command, errno.errorcode[number])
                    equal(w.do(command, 4 * MIB + 511, 1024, data=data), error, what)
                    equal(w.do(command, 4 * MIB + 511, 1024, FUA, data=data), error, what)
                equal(w.do(FLUSH), 0)
                equal(w.pread(4 * MIB + 512, 512), bytes(512))


@test
def flush(tmp):
    "a failing flush or FUA write fails its request (NBD_CMD_FLUSH, NBD_CMD_FLAG_FUA)"
    with faulty(tmp, flush="on", errno=errno.ENOSPC) as d:
        for form in FORMS.values():
            w = Wire(d.nbd_path).go(**form)
            equal(w.do(FLUSH), ENOSPC)
            if form is FORMS["simple"]:  # as QEMU: events know reads and writes only
                event = d.monitor.wait_event("BLOCK_IO_ERROR")["data"]
                equal((event["node-name"], event["operation"], event["nospace"]), ("disk0", "write", True))
            equal(w.do(TRIM, 0, 4096, FUA), ENOSPC)
            equal(w.do(TRIM, 0, 4096), 0)
        d.qmp("block-dirty-bitmap-add", node="disk0", name="b0")
        equal(d.bitmap("disk0", "b0")["count"], 8 * MIB)  # what was read need not be there
        d.process.terminate()
        d.wait(1)  # the last flush fails as well, and it says so


@test
def not_supported(tmp):
    "ENOTSUP is sent for fast zeroing alone (Error values, NBD_CMD_FLAG_FAST_ZERO)"
    with faulty(tmp, bad_offset=0, bad_length="8M", errno=errno.ENOTSUP) as d:
        for form in FORMS.values():
            w = Wire(d.nbd_path).go(**form)
            equal(w.do(ZEROES, 0, 4096, FAST_ZERO), ENOTSUP)
            equal(w.do(ZEROES, 0, 4096) in (0, EINVAL), True)
            equal(w.do(READ, 0, 4096), EINVAL)


@test
def error_offset(tmp):
    "a sparse read sends what it has, then where it failed (NBD_REPLY_TYPE_ERROR_OFFSET)"
    def payload(at, n):
        return struct.pack(">Q", at) + b"\xdd" * n

    with faulty(tmp, bad_offset=3 * MIB + 4096, bad_length=512) as d:
        for form in (FORMS["structured"], FORMS["extended"]):
            w = Wire(d.nbd_path).go(**form)
            w.request(READ, 5, MIB // 2, 5 * MIB)
            found = w.chunks(5)
            equal(found[:-1], [(T_HOLE, struct.pack(">QI", MIB // 2, MIB // 2)),
                               (T_DATA, payload(MIB, MIB)),
                               (T_HOLE, struct.pack(">QI", 2 * MIB, MIB)),
                               (T_HOLE, struct.pack(">QI", 4 * MIB, MIB)),
                               (T_DATA, payload(5 * MIB, MIB // 2))])
            kind, error = found[-1]
            number, n = struct.unpack(">IH", error[:6])
            equal((kind, number, len(error)), (T_ERROR_OFFSET, EIO, 14 + n))
            equal(error[6:6 + n].decode(), os.strerror(errno.EIO))
            equal(struct.unpack(">Q", error[6 + n:])[0], 3 * MIB)
            w.request(READ, 6, MIB // 2, 5 * MIB, DF)
            (kind, error), = w.chunks(6)
            equal((kind, struct.unpack(">I", error[:4])[0]), (T_ERROR, EIO), "whole, with DF")
        d.monitor.wait_event("BLOCK_IO_ERROR")


@test
def several_offsets(tmp):
    "a sparse read that fails in several places reports each once"
    with faulty(tmp, bad_offset=2 * MIB, bad_length=4 * MIB) as d:
        w = Wire(d.nbd_path).go(extended=True)
        w.request(READ, 5, 0, 8 * MIB)
        found = w.chunks(5)
        equal([kind for kind, _ in found], [T_HOLE, T_DATA, T_HOLE, T_HOLE, T_HOLE, T_DATA,
                                            T_ERROR_OFFSET, T_ERROR_OFFSET])
        equal([struct.unpack(">Q", p[-8:])[0] for _, p in found[-2:]], [3 * MIB, 5 * MIB])
        equal(w.pread(0, 2 * MIB), bytes(MIB) + b"\xdd" * MIB)


@test
def status_up_to_an_error(tmp):
    "block status reports what it knows, then fails (NBD_CMD_BLOCK_STATUS)"
    with faulty(tmp, bad_offset=3 * MIB, bad_length=1, status="on") as d:
        for form in (FORMS["structured"], FORMS["extended"]):
            w = Wire(d.nbd_path).go(contexts=["base:allocation"], **form)
            (_, found), = w.status(0, 8 * MIB).items()
            equal(found, [(MIB, 3), (MIB, 0), (MIB, 3)])
            equal(w.do(STATUS, 3 * MIB, MIB), EIO)
            (_, found), = w.status(4 * MIB, MIB).items()
            equal(found, [(MIB, 3)])


@test
def under_a_reply(tmp):
    "a disk that fails after a reply has begun ends that session (NBD_CMD_READ), and no other"
    expected = (bytes(MIB) + b"\xdd" * MIB) * 8
    for form, flags in ((FORMS["simple"], 0), (FORMS["structured"], DF), (FORMS["extended"], DF)):
        with faulty(tmp, size=16 * MIB, bad_offset=13 * MIB, bad_length=512, descriptor="on") as d:
            w, other = Wire(d.nbd_path).go(**form), Wire(d.nbd_path).go(**form)
            w.request(READ, 1, 0, 16 * MIB, flags)
            head = 16 if not w.structured else 40 if form.get("extended") else 28
            w.read(head)
            equal(other.do(FLUSH), 0)
            got = b""
            while True:
                try:
                    more = w.s.recv(MIB)
                except ConnectionResetError:
                    break
                if not more:
                    break
                got += more
            equal(MIB < len(got) <= 13 * MIB, True, "%d bytes" % len(got))
            equal(got == expected[:len(got)], True)
            d.monitor.wait_event("BLOCK_IO_ERROR")
            equal(other.do(READ, 13 * MIB, MIB), EIO)
            equal(other.pread(MIB, MIB) == b"\xdd" * MIB, True)


main()
