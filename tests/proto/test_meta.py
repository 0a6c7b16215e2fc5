#!/usr/bin/python3
# SPDX-FileCopyrightText: 2026 The Tidemark authors
# SPDX-License-Identifier: GPL-2.0-or-later
"""Metadata contexts: negotiation and block status ("Metadata querying" of the NBD specification, and
QEMU's docs/interop/nbd.txt for its namespace)."""
from wire import *

BASE, DEPTH, BITMAP = "base:allocation", "qemu:allocation-depth", "qemu:dirty-bitmap:"
BACKUP = "x-tidemark:backup:"


def names(found):
    """The context names of replies that end with ACK."""
    equal(found[-1], (REP_ACK, b""))
    equal({kind for kind, _ in found[:-1]} - {REP_META}, set())
    return [data[4:].decode() for _, data in found[:-1]]


def ready(d):
    w = Wire(d.nbd_path)
    equal(w.verdict(OPT_STRUCTURED), REP_ACK)
    return w


def with_bitmaps(tmp, *bitmaps, size=1 << 20, granularity=4096, disabled=False, **options):
    """A daemon whose export disk0 offers these bitmaps."""
    d = Daemon(tmp, *disk(tmp, "disk0", size, export=False, **options))
    for b in bitmaps:
        d.qmp("block-dirty-bitmap-add", node="disk0", name=b, granularity=granularity,
              disabled=disabled)
    d.qmp("block-export-add", {"type": "nbd", "id": "e", "node-name": "disk0", "name": "disk0",
                               "writable": True, "bitmaps": list(bitmaps),
                               "allocation-depth": True})
    return d


@test
def needs_structured(tmp):
    "both options need structured replies (NBD_OPT_SET_META_CONTEXT)"
    with serve(tmp) as d:
        w = Wire(d.nbd_path)
        for number in (OPT_LIST_META, OPT_SET_META):
            equal(w.verdict(number, meta_data("disk0", BASE)), ERR_INVALID)
        w.go()


@test
def idle_negotiation(tmp):
    "who negotiates contexts and stays there does not keep an export that is removed"
    for mode in ("safe", "hard"):
        with with_bitmaps(tmp, "b0") as d:
            w = ready(d)
            equal(names(w.opt(OPT_SET_META, meta_data("disk0", BITMAP + "b0"))), [BITMAP + "b0"])
            d.qmp("block-export-del", id="e", mode=mode)
            w.ended()
            wait_until(lambda: not d.qmp("query-block-exports"), "the export to go")
            d.qmp("block-dirty-bitmap-remove", node="disk0", name="b0")
            d.qmp("blockdev-del", {"node-name": "disk0"})


@test
def bitmap_of_another_node(tmp):
    "a node whose bitmap an export of another one offers stays, and so does what is dirty"
    with with_bitmaps(tmp, "b0") as d:
        w = Wire(d.nbd_path)
        w.go()
        equal(w.do(WRITE, 0, 4096, data=bytes(4096)), 0)
        w.close()
        d.unexport("e")
        wait_until(lambda: not d.qmp("query-block-exports"), "the export to go")
        d.qmp("blockdev-add", {"driver": "null-co", "node-name": "n", "size": 1 << 20})
        d.qmp("block-export-add", {"type": "nbd", "id": "e", "node-name": "n", "name": "n",
                                   "writable": True, "bitmaps": [{"node": "disk0", "name": "b0"}]})
        w = Wire(d.nbd_path).go("n", contexts=(BITMAP + "b0",))
        raises(QMPError, d.qmp, "blockdev-del", {"node-name": "disk0"}, match="in use")
        equal(list(w.status(0, 8192).values()), [[(4096, 1), (4096, 0)]])


@test
def listing(tmp):
    "LIST_META_CONTEXT lists everything, wildcards and names (The base: metadata namespace)"
    with with_bitmaps(tmp, "b0", "b1") as d:
        w = ready(d)
        dirty_all = [BITMAP + "b0", BITMAP + "b1"]
        backup_all = [BACKUP + "b0", BACKUP + "b1"]
        for queries, expected in (
                ((), [BASE, DEPTH] + dirty_all + backup_all), (("base:",), [BASE]), ((BASE,), [BASE]),
                (("qemu:",), [DEPTH] + dirty_all), ((BITMAP,), dirty_all),
                (("x-tidemark:",), backup_all), ((BACKUP,), backup_all),
                (("x-tidemark:backup",), []), (("x-tidemark:user:",), []),
                ((BITMAP + "b1",), dirty_all[1:]), ((DEPTH,), [DEPTH]),
                ((BASE, BASE, "base:"), [BASE]), (("qemu:", "base:"), [BASE, DEPTH] + dirty_all),
                ((BITMAP + "b",), []), (("x-foo:", "x-foo:bar"), []), (("base:nope",), []),
                (("base",), []), (("",), []), ((BITMAP + "b0", BITMAP + "b2"), dirty_all[:1])):
            found = w.opt(OPT_LIST_META, meta_data("disk0", *queries))
            equal(names(found), expected, repr(queries))
            equal({data[:4] for kind, data in found if kind == REP_META} - {bytes(4)}, set(),
                  "ids are zero")
        equal(names(w.opt(OPT_SET_META, meta_data("disk0"))), [], "SET without queries")


@test
def setting(tmp):
    "SET_META_CONTEXT: names select, wildcards don't, ids are unique"
    with with_bitmaps(tmp, "b0", "b1") as d:
        w = ready(d)
        for queries, expected in (
                ((BASE,), [BASE]), (("base:", "qemu:", BITMAP), []), ((), []),
                ((BITMAP + "b1", BASE, BITMAP + "nope", "x-y:z", DEPTH), [BASE, DEPTH, BITMAP + "b1"]),
                ((BITMAP + "b0", BITMAP + "b0"), [BITMAP + "b0"])):
            found = w.opt(OPT_SET_META, meta_data("disk0", *queries))
            equal(names(found), expected, repr(queries))
            ids = [data[:4] for kind, data in found if kind == REP_META]
            equal(len(set(ids)), len(ids), "ids")


@test
def malformed(tmp):
    "malformed data: ERR_INVALID; too many queries: ERR_TOO_BIG; the session lives"
    bad = [b"", b"\0\0", text("disk0"), text("disk0") + b"\0\0\0", struct.pack(">I", 9) + b"disk0",
           text("disk0") + struct.pack(">I", 1), text("disk0") + struct.pack(">I", 2) + text(BASE),
           text("disk0") + struct.pack(">I", 1) + text(BASE) + b"x",
           text("disk0") + struct.pack(">II", 1, 0xffffffff) + b"base:",
           text("disk0") + struct.pack(">I", 0) + text(BASE),
           meta_data("n" * 4097, BASE), meta_data("disk0", "q" * 4097), meta_data("disk0", "base:\0x")]
    with serve(tmp) as d:
        w = ready(d)
        for number in (OPT_LIST_META, OPT_SET_META):
            for data in bad:
                equal(w.verdict(number, data), ERR_INVALID, "%d %r" % (number, data[:30]))
            equal(w.verdict(number, text("disk0") + struct.pack(">I", 0xffffffff)), ERR_TOO_BIG)
            equal(w.verdict(number, meta_data("disk0", *["x-a:b"] * 5000)), ERR_TOO_BIG)
            equal(w.verdict(number, meta_data("nope", BASE)), ERR_UNKNOWN)
            equal(names(w.opt(number, meta_data("disk0", "q" * 4096))), [], "the longest query")
        w.go(structured=False)


@test
def last_one_wins(tmp):
    "the last SET counts, also when it fails"
    with with_bitmaps(tmp, "b0") as d:
        for data, expected in ((meta_data("disk0", BITMAP + "b0"), 1), (meta_data("disk0"), 0),
                               (meta_data("nope", BASE), 0), (b"", 0)):
            w = ready(d)
            equal(names(w.opt(OPT_SET_META, meta_data("disk0", BASE, DEPTH))), [BASE, DEPTH])
            w.verdict(OPT_SET_META, data)
            w.go(structured=False)
            w.structured = True
            if expected:
                equal(len(w.status(0, 4096)), 1)
            else:
                equal(w.do(STATUS, 0, 4096), EINVAL)


@test
def other_export(tmp):
    "contexts selected for one export don't count for another"
    with serve(tmp, *disk(tmp, "disk1", 4096)) as d:
        w = ready(d)
        w.verdict(OPT_SET_META, meta_data("disk0", BASE))
        w.go("disk1", structured=False)
        w.structured = True
        equal(w.do(STATUS, 0, 4096), EINVAL)
        w = ready(d)
        w.verdict(OPT_SET_META, meta_data("disk0", BASE))
        w.verdict(OPT_INFO, info_data("disk1"))
        w.go("disk0", structured=False)
        w.structured = True
        equal(sum(n for n, _ in w.status(0, 4096)[0]), 4096)


@test
def no_contexts(tmp):
    "BLOCK_STATUS without contexts: EINVAL (Metadata querying)"
    with serve(tmp) as d:
        equal(Wire(d.nbd_path).go(structured=False).do(STATUS, 0, 4096), EINVAL)
        equal(Wire(d.nbd_path).go().do(STATUS, 0, 4096), EINVAL)


@test
def extents_of_all(tmp):
    "a chunk per context, merged extents, cut at the range (NBD_CMD_BLOCK_STATUS)"
    with with_bitmaps(tmp, "b0") as d:
        w = Wire(d.nbd_path).go(contexts=[BASE, DEPTH, BITMAP + "b0"])
        ids = {name: i for i, name in w.contexts.items()}
        for at in (65536, 69632, 262144):
            equal(w.do(WRITE, at, data=b"d" * 4096), 0)
        got = w.status(0, 1 << 20)
        equal(got[ids[BASE]], [(65536, 3), (8192, 0), (188416, 3), (4096, 0), (782336, 3)])
        equal(got[ids[BITMAP + "b0"]], [(65536, 0), (8192, 1), (188416, 0), (4096, 1), (782336, 0)])
        equal(sum(n for n, _ in got[ids[DEPTH]]), 1 << 20)
        got = w.status(66000, 10)
        equal((got[ids[BASE]], got[ids[BITMAP + "b0"]]), ([(10, 0)], [(10, 1)]))
        got = w.status(65535, 4098)
        equal(got[ids[BITMAP + "b0"]], [(1, 0), (4097, 1)])


@test
def req_one(tmp):
    "REQ_ONE: exactly one extent, not beyond the request (NBD_CMD_FLAG_REQ_ONE)"
    with with_bitmaps(tmp, "b0") as d:
        w = Wire(d.nbd_path).go(contexts=[BASE, BITMAP + "b0"])
        w.do(WRITE, 8192, data=b"d" * 4096)
        equal(w.status(0, 1 << 20, REQ_ONE), {0: [(8192, 3)], 2: [(8192, 0)]})
        equal(w.status(8192, 100, REQ_ONE), {0: [(100, 0)], 2: [(100, 1)]})
        equal(w.status(8192, 100, REQ_ONE | FUA), {0: [(100, 0)], 2: [(100, 1)]})


@test
def ranges_and_flags(tmp):
    "bad ranges and flags of BLOCK_STATUS: EINVAL"
    with serve(tmp) as d:
        w = Wire(d.nbd_path).go(contexts=[BASE])
        for offset, length, flags in ((0, (1 << 20) + 1, 0), (1 << 20, 1, 0), (1 << 63, 1, 0),
                                      (2**64 - 1, 2, 0), (0, 0, 0), (0, 512, DF), (0, 512, 1 << 15)):
            equal(w.do(STATUS, offset, length, flags), EINVAL, "%x+%d" % (offset, length))
        equal(w.status((1 << 20) - 1, 1), {0: [(1, 3)]})


def one_end(found, what=""):
    """The bytes that all contexts of a reply describe."""
    ends = {context: sum(n for n, _ in runs) for context, runs in found.items()}
    equal(len(set(ends.values())), 1, "the contexts end at different places: %s %s" % (ends, what))
    return ends.popitem()[1]


def write_each(w, size, step):
    batch = 1024
    for first in range(0, size, batch * step):
        offsets = range(first, min(first + batch * step, size), step)
        w.send(b"".join(request(WRITE, at, at, 1, 0, b"x") for at in offsets))
        for _ in offsets:
            equal(w.answer()[1], 0)


@test
def long_lists(tmp):
    "a bitmap with many runs comes in bounded answers of 131072 extents, other contexts to the same end"
    size, step = 66 << 20, 1024
    with with_bitmaps(tmp, "b0", size=size, granularity=512) as d:
        w = Wire(d.nbd_path).go(contexts=[BITMAP + "b0"])
        write_each(w, size, step)
        for contexts, form in (([BITMAP + "b0"], {}), ([BASE, BITMAP + "b0", DEPTH], {}),
                               ([BITMAP + "b0", BASE], {"extended": True})):
            w = Wire(d.nbd_path).go(contexts=contexts, **form)
            which = next(i for i, name in w.contexts.items() if name == BITMAP + "b0")
            at, runs, counts = 0, [], []
            while at < size:
                found = w.status(at, size - at)
                counts.append(len(found[which]))
                runs += found[which]
                at += one_end(found)
            equal(runs, [(512, 1), (512, 0)] * (size // step))
            equal(counts, [131072, 2 * size // step - 131072])


@test
def same_end(tmp):
    "all contexts of a reply end at the same place, however many extents each has"
    size, step = 72 << 20, 8192
    with with_bitmaps(tmp, "b0", "b1", size=size, granularity=512) as d:
        d.qmp("block-export-context-set", {"id": "e", "name": "u", "ranges": [
            {"offset": i << 20, "length": 1000, "value": i + 1} for i in range(40)]})
        write_each(Wire(d.nbd_path).go(), size, step)
        names = [BASE, DEPTH, BITMAP + "b0", BITMAP + "b1", BACKUP + "b0", "x-tidemark:user:u"]
        for form in ({}, {"extended": True}):
            w = Wire(d.nbd_path).go(contexts=names, **form)
            equal(len(w.contexts), 6)
            found = w.status(0, size)
            equal(one_end(found), size, "a reply of 18000 extents")
            equal(len(found[next(i for i, n in w.contexts.items() if n == BASE)]), size // step * 2)
            equal(one_end(w.status(100, size - 200)), size - 200)
            first = w.status(0, size, REQ_ONE)
            equal([len(runs) for runs in first.values()], [1] * 6)
            equal(one_end(first), 512, "REQ_ONE")
            if form:
                equal(one_end(w.status(4096, size - 4096, ids=sorted(w.contexts)[1:4])), size - 4096)


@test
def same_end_in_motion(tmp):
    "all contexts of a reply end at the same place while their extents change"
    size, bitmaps = 4 << 20, ["b%d" % i for i in range(300)]
    # Bitmaps that take their time and stay one extent.
    with with_bitmaps(tmp, *bitmaps, size=size, disabled=True, discard="unmap") as d:
        until = time.monotonic() + 1.5

        def change():
            w = Wire(d.nbd_path).go()
            turn = b"".join(request(WRITE, i, 4096, 4096, 0, b"x" * 4096) + request(TRIM, i, 4096, 4096)
                            for i in range(32))
            while time.monotonic() < until:
                w.send(turn)
                w.read(64 * 16)  # simple replies

        def ask():
            w = Wire(d.nbd_path).go(contexts=[BASE] + [BITMAP + b for b in bitmaps])
            equal(len(w.contexts), 301)
            while time.monotonic() < until:
                w.request(STATUS, 9, 0, size, REQ_ONE)
                found = w.read(301 * 32)  # chunks of one extent
                equal(len({found[at + 24:at + 28] for at in range(0, len(found), 32)}), 1, "ends")

        in_threads(change, ask)


@test
def many_contexts(tmp):
    "three hundred contexts can be selected at once"
    bitmaps = ["bitmap%03d" % i for i in range(300)]
    with with_bitmaps(tmp, *bitmaps) as d:
        w = Wire(d.nbd_path).go(contexts=[BASE] + [BITMAP + b for b in bitmaps])
        equal(len(w.contexts), 301)
        w.do(WRITE, 4096, data=b"x")
        for _ in range(3):
            got = w.status(0, 1 << 20)
            equal(len(got), 301)
            equal([e for i, e in got.items() if i >= 2],
                  [[(4096, 0), (4096, 1), ((1 << 20) - 8192, 0)]] * 300)


@test
def selection_is_kept(tmp):
    "a client keeps the bitmaps that it negotiated; a new one sees the new set"
    with with_bitmaps(tmp, "b0", "b1") as d:
        d.qmp("block-export-dirty-bitmap", id="e", bitmaps=["b0"])
        w = Wire(d.nbd_path).go(contexts=[BITMAP + "b0", BITMAP + "b1"])
        equal(list(w.contexts.values()), [BITMAP + "b0"])
        d.qmp("block-export-dirty-bitmap", id="e", bitmaps=["b1"])
        equal(list(w.status(0, 4096).values()), [[(4096, 0)]])
        equal(list(Wire(d.nbd_path).go(contexts=[BITMAP + "b0", BITMAP + "b1"]).contexts.values()),
              [BITMAP + "b1"])
        w.do(WRITE, 0, data=b"x")
        equal(list(w.status(0, 4096).values()), [[(4096, 1)]])
        raises(QMPError, d.qmp, "block-dirty-bitmap-remove", node="disk0", name="b0")
        w.close()

        def removed():
            try:
                d.qmp("block-dirty-bitmap-remove", node="disk0", name="b0")
            except QMPError:
                return False
            return True
        wait_until(removed, "the bitmap to be free once its last client is gone")


main()
