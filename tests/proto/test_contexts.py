#!/usr/bin/python3
# SPDX-FileCopyrightText: 2026 The Tidemark authors
# SPDX-License-Identifier: GPL-2.0-or-later
"""The contexts of the namespace x-tidemark: maps that the management attaches to exports, and what a
backup asks ("Metadata querying" and NBD_CMD_BLOCK_STATUS of the NBD specification; docs/nbd.md)."""
import threading

from wire import *

USER, BACKUP, BITMAP = "x-tidemark:user:", "x-tidemark:backup:", "qemu:dirty-bitmap:"
BASE = "base:allocation"
SIZE = 1 << 20
BIG = 0xfedcba9876543210


def names(found):
    equal(found[-1], (REP_ACK, b""))
    return [data[4:].decode() for _, data in found[:-1]]


def attach(d, name, *ranges, **more):
    """Ranges: (offset, length, value)."""
    d.qmp("block-export-context-set", dict({"id": "exp-disk0", "name": name, "ranges": [
        dict(zip(("offset", "length", "value"), r)) for r in ranges]}, **more))


def told(w, offset=0, length=SIZE, **kw):
    """What the only context selected says."""
    equal(len(w.contexts), 1)
    return w.status(offset, length, **kw)[list(w.contexts)[0]]


def ready(d, extended=False):
    w = Wire(d.nbd_path)
    equal(w.verdict(OPT_EXTENDED if extended else OPT_STRUCTURED), REP_ACK)
    w.structured, w.extended = True, extended
    return w


@test
def listing(tmp):
    "user contexts are listed by name and by prefix, wide ones with extended headers (NBD_OPT_LIST_META_CONTEXT)"
    with serve(tmp) as d:
        attach(d, "a", (0, 512, 1))
        attach(d, "wide", (0, 512, BIG), width=64)
        attach(d, "ü:/ b", (0, 512, 1))
        narrow, every = [USER + "a", USER + "ü:/ b"], [USER + n for n in ("a", "wide", "ü:/ b")]
        for extended, mine in ((False, narrow), (True, every)):
            w = ready(d, extended)
            for queries, expected in (
                    ((), [BASE] + mine), (("x-tidemark:",), mine), ((USER,), mine),
                    ((USER + "a",), narrow[:1]), ((USER + "ü:/ b", USER + "no"), narrow[1:]),
                    ((USER + "wide",), mine[1:-1]), ((BACKUP,), []), (("x-tidemark",), []),
                    (("qemu:",), []), ((USER + "wide", USER), mine)):
                found = w.opt(OPT_LIST_META, meta_data("disk0", *queries))
                equal(names(found), expected, repr(queries))
                equal({data[:4] for kind, data in found if kind == REP_META} - {bytes(4)}, set())


@test
def selecting(tmp):
    "SET selects by whole names; one of 64 bits is left out without extended headers (NBD_OPT_SET_META_CONTEXT)"
    with serve(tmp) as d:
        attach(d, "a", (0, 512, 1))
        attach(d, "wide", (0, 512, BIG), width=64)
        for extended in (False, True):
            w = ready(d, extended)
            for query in ("x-tidemark:", USER, USER + "b", "x-tidemark:a", "a"):
                equal(names(w.opt(OPT_SET_META, meta_data("disk0", query))), [], query)
            found = w.opt(OPT_SET_META, meta_data("disk0", USER + "wide", BASE, USER + "a"))
            equal(names(found), [BASE, USER + "a"] + [USER + "wide"] * extended)
            ids = [data[:4] for kind, data in found if kind == REP_META]
            equal(ids, sorted(set(ids)), "ids")
        w.opt(OPT_GO, info_data("disk0"))
        equal(list(w.status(0, 1024).values()), [[(1024, 3)], [(512, 1), (512, 0)],
                                                 [(512, BIG), (512, 0)]])


@test
def values(tmp):
    "extents and values as given, equal neighbours merged, gaps 0 (NBD_REPLY_TYPE_BLOCK_STATUS)"
    ranges = [(SIZE - 1, 1, 5), (1, 1, 0xffffffff), (4096, 4096, 2), (8192, 100, 2), (8292, 8, 0),
              (8300, 50, 3)]
    expected = [(1, 0), (1, 0xffffffff), (4094, 0), (4196, 2), (8, 0), (50, 3),
                (SIZE - 8351, 0), (1, 5)]
    with serve(tmp) as d:
        attach(d, "m", *ranges)
        attach(d, "none")
        for extended in (False, True):
            w = Wire(d.nbd_path).go(contexts=(USER + "m",), extended=extended)
            equal(told(w), expected)
            equal(told(w, 1, 1), [(1, 0xffffffff)])
            equal(told(w, 4097, 4200), [(4195, 2), (5, 0)])
            equal(told(w, SIZE - 1, 1), [(1, 5)])
            equal(told(w, flags=REQ_ONE), [(1, 0)], "REQ_ONE")
            equal(told(w, 0, 1, flags=REQ_ONE), [(1, 0)])
            equal(told(Wire(d.nbd_path).go(contexts=(USER + "none",), extended=extended)), [(SIZE, 0)])


@test
def wide(tmp):
    "values of 64 bits, in the extended form only (NBD_REPLY_TYPE_BLOCK_STATUS_EXT)"
    with serve(tmp) as d:
        attach(d, "w", (0, 10, BIG), (10, 10, 2**64 - 1), (20, 10, 1), width=64)
        w = Wire(d.nbd_path).go(contexts=(USER + "w",), extended=True)
        equal(told(w), [(10, BIG), (10, 2**64 - 1), (10, 1), (SIZE - 30, 0)])
        key, = w.contexts
        equal(w.status(5, 10, ids=[key]), {key: [(5, BIG), (5, 2**64 - 1)]})


@test
def replaced(tmp):
    "sessions see the newest map, whole; append changes it in the ranges given"
    with serve(tmp) as d:
        attach(d, "m", (0, 4096, 1), (8192, 4096, 2))
        w = Wire(d.nbd_path).go(contexts=(USER + "m",))
        equal(told(w), [(4096, 1), (4096, 0), (4096, 2), (SIZE - 12288, 0)])
        attach(d, "m", (2048, 8192, 3), append=True)
        equal(told(w), [(2048, 1), (8192, 3), (2048, 2), (SIZE - 12288, 0)])
        attach(d, "m", (0, 1024, 0), (3000, 10, 4), append=True)
        equal(told(w), [(1024, 0), (1024, 1), (952, 3), (10, 4), (7230, 3), (2048, 2),
                        (SIZE - 12288, 0)])
        attach(d, "m", (0, SIZE, 9))
        equal(told(w), [(SIZE, 9)])
        attach(d, "m")
        equal(told(w), [(SIZE, 0)])


@test
def removed(tmp):
    "a client keeps the last map of a context that is removed or made wider"
    with serve(tmp) as d:
        attach(d, "m", (0, 10, 1))
        w = Wire(d.nbd_path).go(contexts=(USER + "m",))
        attach(d, "m", (0, 10, BIG), width=64)
        x = Wire(d.nbd_path).go(contexts=(USER + "m",), extended=True)
        d.qmp("block-export-context-remove", id="exp-disk0", name="m")
        attach(d, "m", (0, 10, 2))
        y = Wire(d.nbd_path).go(contexts=(USER + "m",))
        d.qmp("block-export-context-remove", id="exp-disk0", name="m")
        for session, value in ((w, 1), (x, BIG), (y, 2)):
            equal(told(session), [(10, value), (SIZE - 10, 0)])
        equal([c["contexts"] for c in d.qmp("query-nbd-sessions")], [[USER + "m"]] * 3)
        z = ready(d)
        equal(names(z.opt(OPT_SET_META, meta_data("disk0", USER + "m"))), [])
        d.unexport("exp-disk0")
        for session in (w, x, y):
            session.ended()
        wait_until(lambda: not d.qmp("query-block-exports"), "the export to go")


@test
def idle(tmp):
    "a client that selected a user context and stays in the handshake does not keep a removed export"
    with serve(tmp) as d:
        attach(d, "m", (0, 10, 1))
        w = ready(d)
        equal(names(w.opt(OPT_SET_META, meta_data("disk0", USER + "m"))), [USER + "m"])
        d.qmp("block-export-del", id="exp-disk0")
        w.ended()
        wait_until(lambda: not d.qmp("query-block-exports"), "the export to go")


@test
def long_map(tmp):
    "a map of more ranges than one answer holds is walked in several, and REQ_ONE by one"
    n = 150000
    with serve(tmp, size=n * 4) as d:
        for first in range(0, n, 75000):
            attach(d, "m", *((i * 4, 2, i + 1) for i in range(first, first + 75000)),
                   append=first > 0)
        equal(d.qmp("query-block-export-contexts"), [
            {"id": "exp-disk0", "name": "m", "context": USER + "m", "width": 32, "ranges": n,
             "bytes": 2 * n}])
        for extended in (False, True):
            w = Wire(d.nbd_path).go(contexts=(USER + "m",), extended=extended)
            at, requests = 0, 0
            while at < n * 4:
                for length, value in told(w, at, n * 4 - at):
                    if (length, value) != (2, 0 if at % 4 else at // 4 + 1):
                        fail("at %d: %d bytes of value %d" % (at, length, value))
                    at += length
                requests += 1
            if not 2 < requests < 40:
                fail("%d requests" % requests)


@test
def backup(tmp):
    "the joint context shows dirty extents and which of them read as zeroes; clean extents are whole"
    with Daemon(tmp, *disk(tmp, "disk0", SIZE, export=False, discard="unmap")) as d:
        K = 65536
        d.qmp("block-export-add", {"type": "nbd", "id": "rw", "node-name": "disk0", "name": "rw",
                                   "writable": True})
        before = Wire(d.nbd_path).go("rw")
        for i in (0, 2, 9):
            equal(before.do(WRITE, i * K, K, data=b"x" * K), 0)
        for b in ("b0", "b1"):
            d.qmp("block-dirty-bitmap-add", node="disk0", name=b, granularity=4096)
        d.qmp("block-export-add", {"type": "nbd", "id": "disk0", "node-name": "disk0",
                                   "writable": True, "bitmaps": ["b0", "b1"]})
        for extended in (False, True):
            w = Wire(d.nbd_path).go(contexts=(BACKUP + "b0",), extended=extended)
            if not extended:
                equal(told(w), [(SIZE, 0)], "a clean disk is one extent")
                equal(w.do(WRITE, 4 * K, K, data=b"y" * K), 0)   # data
                equal(w.do(TRIM, 2 * K, K), 0)                   # zero by a hole
                equal(w.do(ZEROES, 6 * K, 2 * K, flags=NO_HOLE), 0)
                equal(w.do(WRITE, 8 * K, 4096, data=b"z" * 4096), 0)
            expected = [(2 * K, 0), (K, 3), (K, 0), (K, 1), (K, 0), (2 * K, 3), (4096, 1),
                        (8 * K - 4096, 0)]
            equal(told(w), expected)
            equal(told(w, 2 * K + 512, 1024), [(1024, 3)])
            equal(told(w, flags=REQ_ONE), [(2 * K, 0)])
            both = Wire(d.nbd_path).go(contexts=(BITMAP + "b0", BACKUP + "b0", BACKUP + "b1"),
                                       extended=extended)
            ids = {name: key for key, name in both.contexts.items()}
            got = both.status(0, SIZE)
            equal(got[ids[BACKUP + "b0"]], expected)
            equal(got[ids[BACKUP + "b1"]], expected)
            equal(got[ids[BITMAP + "b0"]], [(2 * K, 0), (K, 1), (K, 0), (K, 1), (K, 0),
                                            (2 * K + 4096, 1), (8 * K - 4096, 0)])


@test
def backup_of_an_error(tmp):
    "if allocation is unknown, dirty extents are data, and reading them meets the error"
    module = os.path.join(BUILDDIR, "tests", "plugin", "faulty.so")
    if not os.path.exists(module):
        skip("the tests' plug-ins are not built")
    M, K = 1 << 20, 65536
    for extended in (False, True):
        with Daemon(tmp, "--module", module, "--blockdev", "driver=faulty,node-name=disk0,"
                    "discard=unmap,size=8M,bad-offset=2M,bad-length=512,status=on") as d:
            d.qmp("block-dirty-bitmap-add", node="disk0", name="b", granularity=K)
            d.qmp("block-export-add", {"type": "nbd", "id": "exp-disk0", "node-name": "disk0",
                                       "writable": True, "bitmaps": ["b"]})
            w = Wire(d.nbd_path).go(contexts=(BACKUP + "b",), extended=extended)
            for at in (0, 1, 4, 5):  # even ones are holes
                equal(w.do(WRITE, at * M, M, data=bytes(M)), 0)
            equal(told(w, length=8 * M), [(M, 3), (M, 1), (2 * M, 0), (M, 3), (M, 1), (2 * M, 0)])
            equal(w.do(WRITE, 3 * M - K, 2 * K, data=bytes(2 * K)), 0)
            equal(told(w, M, 3 * M), [(M, 1), (M - K, 0), (K, 3), (K, 1), (M - K, 0)])
            equal(w.do(ZEROES, 2 * M + 512, 512), 0)
            equal(told(w, M, 3 * M), [(M + K, 1), (M - 2 * K, 0), (K, 3), (K, 1), (M - K, 0)])
            equal(w.do(STATUS, 9 * M, 512), EINVAL)


@test
def backup_walk(tmp):
    "the joint context of many dirty runs is complete, in bounded answers, and equals the two contexts"
    size = 64 << 20
    with Daemon(tmp, *disk(tmp, "disk0", size, export=False, discard="unmap")) as d:
        d.qmp("block-dirty-bitmap-add", node="disk0", name="b", granularity=4096)
        d.qmp("block-export-add", {"type": "nbd", "id": "disk0", "node-name": "disk0",
                                   "writable": True, "bitmaps": ["b"]})
        w = Wire(d.nbd_path).go(contexts=(BASE, BITMAP + "b", BACKUP + "b"))
        ids = {name: key for key, name in w.contexts.items()}
        for i in range(0, size // 4096, 3):  # data and holes in turn, then a long run of data
            if i < 8192:
                w.request(WRITE, i, i * 4096, 4096, data=b"d" * 4096)
            elif i < 8192 + 2048:
                w.request(TRIM, i, i * 4096, 4096)
            else:
                break
            equal(w.answer()[:2], (i, 0))
        equal(w.do(WRITE, 48 << 20, 1 << 20, data=b"e" * (1 << 20)), 0)
        flat = {key: [] for key in ids.values()}
        for key, values in flat.items():
            at = 0
            while at < size:
                for length, value in w.status(at, size - at)[key]:
                    values += [value] * (length // 4096)
                    at += length
        expected = [dirty and 1 | (zero & 2) for dirty, zero in zip(flat[ids[BITMAP + "b"]],
                                                                   flat[ids[BASE]])]
        equal(flat[ids[BACKUP + "b"]] == expected, True, "the joint context")
        equal(set(expected), {0, 1, 3})


@test
def backup_of_a_selection(tmp):
    "a session keeps the backup contexts that it selected, others see what the export offers now"
    with Daemon(tmp, *disk(tmp, "disk0", SIZE, export=False)) as d:
        for b in ("b0", "b1"):
            d.qmp("block-dirty-bitmap-add", node="disk0", name=b)
        d.qmp("block-export-add", {"type": "nbd", "id": "e", "node-name": "disk0", "writable": True,
                                   "bitmaps": ["b0"]})
        w = Wire(d.nbd_path).go(contexts=(BACKUP + "b0",))
        d.qmp("block-export-dirty-bitmap", id="e", bitmaps=["b1"])
        equal(names(ready(d).opt(OPT_LIST_META, meta_data("disk0", BACKUP))), [BACKUP + "b1"])
        equal(w.do(WRITE, 0, 512, data=b"x" * 512), 0)
        equal(told(w), [(4096, 1), (61440, 3), (SIZE - 65536, 0)])
        raises(QMPError, d.qmp, "block-dirty-bitmap-remove", node="disk0", name="b0")


@test
def while_they_change(tmp):
    "each answer is out of one map, whatever is set and removed while clients walk"
    with serve(tmp) as d:
        attach(d, "m", *((i * 4096, 2048, 1) for i in range(256)))
        stop, failures = threading.Event(), []

        def walk(extended):
            try:
                while not stop.is_set():
                    w = Wire(d.nbd_path).go(contexts=(USER + "m",), extended=extended)
                    for _ in range(20 if w.contexts else 0):
                        values = [value for _, value in told(w)]
                        if values != [values[0], 0] * 256:
                            fail("two maps in one answer: %r" % values)
                    w.close()
            except BaseException as e:
                failures.append(e)

        threads = [threading.Thread(target=walk, args=(e,)) for e in (False, True)]
        for t in threads:
            t.start()
        for n in range(2, 80):
            attach(d, "m", *((i * 4096, 2048, n << 32 * (n % 3 == 0)) for i in range(256)),
                   width=64 if n % 3 == 0 else 32)
            for session in d.qmp("query-nbd-sessions"):
                equal(session["contexts"] in ([], [USER + "m"]), True, session)
            if n % 7 == 0:
                d.qmp("block-export-context-remove", id="exp-disk0", name="m")
        stop.set()
        for t in threads:
            t.join()
        if failures:
            raise failures[0]


main()
