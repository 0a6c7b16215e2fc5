#!/usr/bin/python3
# SPDX-FileCopyrightText: 2026 The Tidemark authors
# SPDX-License-Identifier: GPL-2.0-or-later
"""Block status in the form of the draft of 2016: the "BLOCK_STATUS extension" in doc/proto.md of the
NBD repository's commit cfa8ebf. Sections named are that text's."""
from wire import *

SEND_STATUS, CLEAN, HOLE, ZERO = 1 << 9, 4, 1, 2
DIRTY_FLAG = 1 << 6
BASE = "base:allocation"


def draft(tmp, bitmaps=("b0",), size=1 << 20, **more):
    """A daemon whose export disk0 offers the draft."""
    d = Daemon(tmp, *disk(tmp, "disk0", size, export=False))
    for name in bitmaps:
        d.qmp("block-dirty-bitmap-add", node="disk0", name=name, granularity=4096)
    add(d, list(bitmaps), **more)
    return d


def add(d, bitmaps, **more):
    d.qmp("block-export-add", {"type": "nbd", "id": "e", "node-name": "disk0", "name": "disk0",
                               "writable": True, "bitmaps": bitmaps,
                               "block-status-2016": {k.replace("_", "-"): v for k, v in more.items()}})


def ask(w, offset, length, flags=0, cookie=9):
    """[(length, status)]"""
    w.send(request(STATUS, cookie, offset, length, flags))
    (kind, payload), = w.chunks(cookie)
    equal(kind, T_STATUS, "exactly one chunk")
    words = struct.unpack(">%dI" % (len(payload) // 4), payload)
    found = list(zip(words[::2], words[1::2]))
    equal(len(payload) % 8, 0, "no context id")
    equal(0 < sum(n for n, _ in found) <= length, True, "not more than was asked for")
    equal(0 in [n for n, _ in found], False, "no empty descriptor")
    return found


@test
def bit_nine(tmp):
    "bit 9 is set with structured replies and no contexts, only where it is offered (NBD_FLAG_SEND_BLOCK_STATUS)"
    with draft(tmp) as d:
        d.qmp("block-export-add", {"type": "nbd", "id": "e2", "node-name": "disk0", "name": "plain"})
        expected = {(False, False, ()): 0, (True, False, ()): SEND_STATUS,
                    (True, False, (BASE,)): 0, (True, True, ()): 0, (True, True, (BASE,)): 0,
                    (True, False, ("x-unknown:thing",)): SEND_STATUS}
        for (structured, extended, contexts), bit in expected.items():
            w = Wire(d.nbd_path).go(structured=structured, extended=extended, contexts=contexts)
            equal(w.flags & SEND_STATUS, bit, "%s %s %s" % (structured, extended, contexts))
        equal(Wire(d.nbd_path).go("plain").flags & SEND_STATUS, 0)
        w = Wire(d.nbd_path)
        equal(w.verdict(OPT_STRUCTURED), REP_ACK)
        equal(w.opt(OPT_SET_META, meta_data("plain", BASE))[-1][0], REP_ACK)
        equal(w.opt(OPT_INFO, info_data("disk0")), w.opt(OPT_GO, info_data("disk0")),
              "contexts of another export don't count")
        w.structured = True
        equal(ask(w, 0, 4096), [(4096, HOLE | ZERO)])
        w = Wire(d.nbd_path)
        equal(w.verdict(OPT_STRUCTURED), REP_ACK)
        w.send(option(OPT_EXPORT_NAME, b"disk0"))
        equal(w.unpack(">QH")[1] & SEND_STATUS, SEND_STATUS, "EXPORT_NAME")


@test
def provisioning(tmp):
    "HOLE and ZERO come in descriptors without a context (NBD_CMD_BLOCK_STATUS, 1.)"
    with draft(tmp, bitmaps=()) as d:
        w = Wire(d.nbd_path).go()
        equal(w.do(WRITE, 65536, data=b"x" * 65536), 0)
        equal(ask(w, 0, 1 << 20), [(65536, 3), (65536, 0), ((1 << 20) - 131072, 3)])
        equal(ask(w, 65537, 100), [(100, 0)])
        equal(ask(w, 65537, 100, FUA), [(100, 0)], "FUA is valid for all commands")


@test
def dirtiness(tmp):
    "CLEAN, bit 2, is set where nothing was written (NBD_CMD_BLOCK_STATUS, 2.)"
    with draft(tmp, dirty_flag=6) as d:
        w = Wire(d.nbd_path).go()
        equal(ask(w, 0, 1 << 20, DIRTY_FLAG), [(1 << 20, CLEAN)])
        equal(w.do(WRITE, 8192, data=b"x"), 0)
        equal(ask(w, 0, 1 << 20, DIRTY_FLAG), [(8192, CLEAN), (4096, 0), ((1 << 20) - 12288, CLEAN)])
        equal(ask(w, 0, 1 << 20, DIRTY_FLAG | FUA)[1], (4096, 0))
        equal(ask(w, 0, 8192)[0][1], HOLE | ZERO, "without the flag: provisioning")
        # Today's form tells the same with the opposite polarity.
        w = Wire(d.nbd_path).go(contexts=["qemu:dirty-bitmap:b0"])
        equal(list(w.status(0, 1 << 20).values()), [[(8192, 0), (4096, 1), ((1 << 20) - 12288, 0)]])


@test
def chosen_bitmap(tmp):
    "the option names the bitmap, else the first one is reported (NBD_CMD_FLAG_STATUS_DIRTY)"
    with draft(tmp, bitmaps=("b0", "b1"), dirty_flag=6, bitmap="b1") as d:
        w = Wire(d.nbd_path).go()
        equal(w.do(WRITE, 0, data=b"x"), 0)
        equal(ask(w, 0, 8192, DIRTY_FLAG), [(4096, 0), (4096, CLEAN)])
        w.close()
        d.unexport("e")
        d.qmp("block-dirty-bitmap-clear", node="disk0", name="b0")
        add(d, ["b0", "b1"], dirty_flag=15)
        w = Wire(d.nbd_path).go()
        equal(ask(w, 0, 8192, 1 << 15), [(8192, CLEAN)], "the first one")
        # A client keeps what it found; the next one sees the new set.
        d.qmp("block-export-dirty-bitmap", id="e", bitmaps=["b1"])
        equal(ask(w, 0, 8192, 1 << 15), [(8192, CLEAN)])
        w = Wire(d.nbd_path).go()
        equal(ask(w, 0, 8192, 1 << 15), [(4096, 0), (4096, CLEAN)])
        d.qmp("block-export-dirty-bitmap", id="e", bitmaps=[])
        equal(Wire(d.nbd_path).go().do(STATUS, 0, 512, 1 << 15), EINVAL, "nothing tracks dirtiness")


@test
def errors(tmp):
    "wrong ranges and flags are EINVAL, and the session lives (NBD_CMD_BLOCK_STATUS)"
    with draft(tmp, dirty_flag=6) as d:
        w = Wire(d.nbd_path).go()
        for offset, length in ((0, 0), (0, (1 << 20) + 1), (1 << 20, 1), (2**64 - 1, 5)):
            for flags in (0, DIRTY_FLAG):
                equal(w.do(STATUS, offset, length, flags), EINVAL, "%x+%x" % (offset, length))
        for flag in (1 << bit for bit in range(16)):
            if flag not in (FUA, DIRTY_FLAG):
                equal(w.do(STATUS, 0, 512, flag), EINVAL, "flag %x" % flag)
        equal(ask(w, 0, 512, DIRTY_FLAG), [(512, CLEAN)])
    with draft(tmp) as d:
        w = Wire(d.nbd_path).go()
        for flag in (1 << bit for bit in range(1, 16)):
            equal(w.do(STATUS, 0, 512, flag), EINVAL, "no flag means dirtiness: %x" % flag)
        equal(ask(w, 0, 512), [(512, HOLE | ZERO)])


@test
def one_or_the_other(tmp):
    "a session with contexts uses only the form of today"
    with draft(tmp, dirty_flag=6) as d:
        w = Wire(d.nbd_path).go(contexts=[BASE])
        equal(w.do(STATUS, 0, 512, DIRTY_FLAG), EINVAL)
        equal(list(w.status(0, 512, REQ_ONE)), list(w.contexts), "with a context id")
        w = Wire(d.nbd_path).go(extended=True)
        equal(w.do(STATUS, 0, 512), EINVAL, "extended headers and no context")
        w = Wire(d.nbd_path).go(structured=False)
        equal(w.do(STATUS, 0, 512), EINVAL, "no structured replies")


@test
def fragmented_bitmap(tmp):
    "a bitmap with many runs is reported in bounded answers"
    n = 20000
    with draft(tmp, dirty_flag=6, size=n * 8192) as d:
        w = Wire(d.nbd_path).go()
        w.s.settimeout(PATIENCE)
        for first in range(0, n, 500):
            w.send(b"".join(request(WRITE, i, i * 8192, 1, 0, b"x") for i in range(first, first + 500)))
            for _ in range(500):
                equal(w.answer()[1], 0)
        at, found = 0, []
        while at < n * 8192:
            part = ask(w, at, n * 8192 - at, DIRTY_FLAG)
            found += part
            at += sum(length for length, _ in part)
        equal(found == [(4096, 0), (4096, CLEAN)] * n, True, "every run")


@test
def options(tmp):
    "the option block-status-2016 is checked, and wrong values are refused"
    with Daemon(tmp, *disk(tmp, "disk0", 1 << 20, export=False)) as d:
        d.qmp("block-dirty-bitmap-add", node="disk0", name="b0")
        d.qmp("block-dirty-bitmap-add", node="disk0", name="b1")
        for bit in (0, 16, -1):
            e = raises(QMPError, add, d, ["b0"], dirty_flag=bit)
            matches(e.desc, "dirty-flag")
        matches(raises(QMPError, add, d, ["b0"], bitmap="b0").desc, "needs the member 'dirty-flag'")
        matches(raises(QMPError, add, d, ["b0"], dirty_flag=6, bitmap="b1").desc,
                "'b1' of block-status-2016 is not among those of export 'e'")
        add(d, ["b0"], dirty_flag=6, bitmap="b0")
    more = ["--export", "type=nbd,id=x,node-name=disk0,name=y,block-status-2016.dirty-flag=6"]
    with serve(tmp, *more) as d:
        equal(Wire(d.nbd_path).go("y").flags & SEND_STATUS, SEND_STATUS)
    more = ["--export", '{"type": "nbd", "id": "x", "node-name": "disk0", "name": "y", '
            '"block-status-2016": {}}']
    with serve(tmp, *more, name="e") as d:
        equal(Wire(d.nbd_path).go("y").flags & SEND_STATUS, SEND_STATUS, "provisioning alone")


main()
