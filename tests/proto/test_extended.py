#!/usr/bin/python3
# SPDX-FileCopyrightText: 2026 The Tidemark authors
# SPDX-License-Identifier: GPL-2.0-or-later
"""Extended headers, byte by byte. Sections named are those of the NBD specification with the
EXTENDED_HEADERS extension (doc/proto.md, branch extension-ext-header)."""
import random

from wire import *

PIB = 1 << 50
NULL = ["--blockdev", "driver=null-co,node-name=huge,size=%d,read-zeroes=on" % PIB]


def content(n, seed=1):
    return random.Random(seed).randbytes(n)


def huge(tmp, *bitmaps):
    """A daemon with a disk of 1 PiB and bitmaps on it."""
    d = Daemon(tmp, *NULL)
    for name in bitmaps:
        d.qmp("block-dirty-bitmap-add", node="huge", name=name)
    d.qmp("block-export-add", {"type": "nbd", "id": "e", "node-name": "huge", "writable": True,
                               "name": "disk0", "bitmaps": list(bitmaps)})
    return d


@test
def negotiation(tmp):
    "NBD_OPT_EXTENDED_HEADERS: once, without data; it takes precedence over structured replies"
    with serve(tmp) as d:
        w = Wire(d.nbd_path)
        equal(w.verdict(OPT_EXTENDED, b"x"), ERR_INVALID, "with data")
        equal(w.opt(OPT_EXTENDED), [(REP_ACK, b"")])
        equal(w.verdict(OPT_EXTENDED), ERR_INVALID, "again")
        equal(w.verdict(OPT_STRUCTURED), ERR_EXT_HEADER, "NBD_REP_ERR_EXT_HEADER_REQD")
        equal(w.verdict(OPT_STRUCTURED, b"x"), ERR_INVALID, "structured replies with data")
        w = Wire(d.nbd_path)
        equal([w.verdict(n) for n in (OPT_STRUCTURED, OPT_STRUCTURED, OPT_EXTENDED, OPT_STRUCTURED)],
              [REP_ACK, ERR_INVALID, REP_ACK, ERR_EXT_HEADER], "structured replies first")
        w.structured = w.extended = True
        equal(w.verdict(OPT_GO, info_data("disk0")), REP_ACK)
        equal(w.pread(5, 10), bytes(10))


@test
def no_export_name(tmp):
    "once they are agreed on EXPORT_NAME ends the session (NBD_OPT_EXPORT_NAME)"
    with serve(tmp) as d:
        w = Wire(d.nbd_path)
        equal(w.verdict(OPT_EXTENDED), REP_ACK)
        w.send(option(OPT_EXPORT_NAME, b"disk0"))
        w.ended()


@test
def transmission_flags(tmp):
    "DF with extended headers, BLOCK_STATUS_PAYLOAD with contexts as well, and in INFO (Transmission flags)"
    with serve(tmp) as d:
        expected = HAS_FLAGS | SEND_FLUSH | SEND_FUA | SEND_TRIM | SEND_ZEROES | SEND_DF | \
            MULTI_CONN | SEND_CACHE | SEND_FAST_ZERO
        equal(Wire(d.nbd_path).go(extended=True).flags, expected)
        for contexts, extended, more in (((), True, 0), (["base:allocation"], True, STATUS_PAYLOAD),
                                         (["base:allocation"], False, 0), (["x-no:thing"], True, 0)):
            w = Wire(d.nbd_path).go(extended=extended, contexts=contexts)
            equal(w.flags, expected | more, "%s %s" % (contexts, extended))
        w = Wire(d.nbd_path)
        equal(w.verdict(OPT_EXTENDED), REP_ACK)
        equal(w.opt(OPT_SET_META, meta_data("disk0", "base:allocation"))[-1][0], REP_ACK)
        equal(w.opt(OPT_INFO, info_data("disk0")), w.opt(OPT_GO, info_data("disk0")),
              "the same information (NBD_OPT_INFO)")
        for headers, flag in ((OPT_EXTENDED, STATUS_PAYLOAD), (OPT_STRUCTURED, 0)):
            w = Wire(d.nbd_path)
            equal(w.verdict(headers), REP_ACK)
            shown = [struct.unpack(">HQH", next(data for kind, data in w.opt(number, info_data("disk0"))
                                                if kind == REP_INFO and data[:2] == bytes(2)))[2]
                     for number in (OPT_INFO, OPT_GO)]
            equal([f & STATUS_PAYLOAD for f in shown], [flag, 0], "no contexts yet")


@test
def headers(tmp):
    "32 bytes both ways, the request's offset in each reply (Extended reply chunk message)"
    with serve(tmp) as d:
        w = Wire(d.nbd_path).go(extended=True)
        data = content(5000)
        w.send(extended(WRITE, 0x1122334455667788, 1000, data=data))
        equal(w.read(32), struct.pack(">IHHQQQ", EXT_REPLY, 1, T_NONE, 0x1122334455667788, 1000, 0))
        w.send(extended(READ, 3, 1000, 5000))
        equal(w.read(40), struct.pack(">IHHQQQQ", EXT_REPLY, 1, T_DATA, 3, 1000, 5008, 1000))
        equal(w.read(5000), data)
        w.send(extended(READ, 4, 0, 1 << 20, DF))
        equal(w.read(40), struct.pack(">IHHQQQQ", EXT_REPLY, 1, T_DATA, 4, 0, (1 << 20) + 8, 0))
        equal(w.read(1 << 20)[1000:6000], data)
        w.send(extended(READ, 5, 65536, 65536))
        equal(w.read(44), struct.pack(">IHHQQQQI", EXT_REPLY, 1, T_HOLE, 5, 65536, 12, 65536, 65536))
        w.send(extended(READ, 6, 0, 131072))
        first, second = w.chunk(), w.chunk()
        equal((first[:3], first[3][8:][1000:6000]), ((0, T_DATA, 6), data))
        equal((second[:3], sum(struct.unpack(">QI", second[3]))), ((1, T_HOLE, 6), 131072))
        w.send(extended(READ, 7, 999, 2 << 20))
        magic, flags, kind, cookie, offset, length = w.unpack(">IHHQQQ")
        equal((magic, flags, kind, cookie, offset), (EXT_REPLY, 1, T_ERROR, 7, 999))
        equal(struct.unpack(">I", w.read(length)[:4])[0], EINVAL)
        for i, command in enumerate((FLUSH, TRIM, CACHE, ZEROES)):
            w.send(extended(command, i, 0, 0 if command == FLUSH else 512))
            equal(w.read(32), struct.pack(">IHHQQQ", EXT_REPLY, 1, T_NONE, i, 0, 0))


@test
def only_one_form(tmp):
    "a compact request in an extended session, and the reverse, end it (Request message)"
    with serve(tmp) as d:
        w = Wire(d.nbd_path).go(extended=True)
        w.send(request(READ, 1, 0, 512) + bytes(4))
        w.ended()
        w = Wire(d.nbd_path).go()
        w.send(extended(READ, 1, 0, 512))
        w.ended()


@test
def payload_of_writes(tmp):
    "a WRITE has a payload, also where QEMU's client leaves PAYLOAD_LEN out (NBD_CMD_FLAG_PAYLOAD_LEN)"
    with serve(tmp) as d:
        w = Wire(d.nbd_path).go(extended=True)
        w.send(extended(WRITE, 1, 0, 512) + bytes(512))
        equal(w.answer()[:2], (1, 0))
        w.send(extended(WRITE, 3, 0, 0, PAYLOAD_LEN))
        equal(w.answer()[:2], (3, 0), "a length of 0")
        equal(w.do(WRITE, 0, data=b"abc"), 0)
        equal(w.pread(0, 5), b"abc\0\0")


@test
def payload_of_others(tmp):
    "a payload of a command that takes none is consumed, and EINVAL (Request message)"
    with serve(tmp) as d:
        w = Wire(d.nbd_path).go(extended=True, contexts=["base:allocation"])
        for command in (READ, FLUSH, TRIM, CACHE, ZEROES, 8, 77):
            for n in (1, 512, 100000):
                w.send(extended(command, 5, 0, data=extended(READ, 666, 0, 512)[:1] * n))
                equal(w.answer()[:2], (5, EINVAL), "command %d, %d bytes" % (command, n))
        for command, n in ((READ, MAX), (77, MAX)):
            w.send(extended(command, 6, 0, data=bytes(n)))
            equal(w.answer()[:2], (6, EINVAL))
        equal(w.pread(0, 512), bytes(512))
        w = Wire(d.nbd_path).go(contexts=["base:allocation"])
        for command in (READ, TRIM, CACHE, ZEROES, STATUS):
            equal(w.do(command, 0, 512, PAYLOAD_LEN), EINVAL, "without extended headers")
        equal(w.do(WRITE, 0, 512, PAYLOAD_LEN, data=bytes(512)), EINVAL)
        equal(w.pread(0, 512), bytes(512))


@test
def payload_too_large(tmp):
    "a payload larger than the maximum ends the session (Request message)"
    with serve(tmp) as d:
        other = Wire(d.nbd_path).go(extended=True)
        for command, length in ((WRITE, MAX + 1), (READ, MAX + 1), (STATUS, 1 << 40), (99, 1 << 32),
                                (WRITE, 2**64 - 1), (FLUSH, 2**64 - 32)):
            w = Wire(d.nbd_path).go(extended=True)
            w.send(extended(command, 1, 0, length, PAYLOAD_LEN))
            w.ended("command %d with a payload of %d bytes" % (command, length))
        equal(other.do(WRITE, 0, data=bytes(1 << 20)), 0)


@test
def long_ranges(tmp):
    "64 bits of length for all that has no payload; READ: EOVERFLOW (Size constraints)"
    with huge(tmp, "b0") as d:
        w = Wire(d.nbd_path).go(extended=True)
        equal(w.size, PIB)
        for flags in (0, FUA, FAST_ZERO, FUA | NO_HOLE):
            equal(w.do(ZEROES, 0, PIB, flags), 0)
        for command in (TRIM, CACHE):
            for offset, length in ((0, PIB), (1, PIB - 2), (PIB - (1 << 40), 1 << 40)):
                equal(w.do(command, offset, length), 0)
        for command, error in ((TRIM, EINVAL), (CACHE, EINVAL), (ZEROES, ENOSPC), (READ, EINVAL)):
            for offset, length in ((0, PIB + 1), (1, PIB), (PIB, 1), (0, 2**64 - 1),
                                   (2**64 - 1, 2**64 - 1), (1 << 63, 1 << 63)):
                equal(w.do(command, offset, length), error, "%d %x+%x" % (command, offset, length))
        for length in (MAX + 1, 1 << 32, PIB):
            equal(w.do(READ, 0, length), EOVERFLOW)
            equal(w.do(READ, 0, length, DF), EOVERFLOW)
        equal(w.pread(PIB - MAX, MAX) == bytes(MAX), True)


@test
def huge_and_slow(tmp):
    "zeroing a disk that takes forever delays no other request, and ends with its session"
    slow = ["--blockdev", "driver=null-co,node-name=n,size=%d,latency-ns=30000000" % PIB,
            "--export", "type=nbd,id=e,node-name=n,name=disk0,writable=on"]
    with Daemon(tmp, *slow) as d:
        w = Wire(d.nbd_path).go(extended=True)
        others = [Wire(d.nbd_path).go(extended=True) for _ in range(4)]
        w.send(extended(ZEROES, 1, 0, PIB) + extended(READ, 2, 5, 512))
        equal(w.read_reply(5, 512, 2), bytes(512))
        for other in others:
            equal(other.do(WRITE, PIB // 2, data=b"x"), 0)
            equal(other.pread(PIB - 512, 512), bytes(512))
        others[0].send(b"".join(extended(ZEROES, i, 0, PIB) for i in range(100)))
        equal(others[1].pread(0, 512), bytes(512), "with a hundred of them as well")
        d.qmp("block-export-del", id="e", mode="hard")
        w.ended()
        d.monitor.wait_event("BLOCK_EXPORT_DELETED", id="e")


@test
def huge_status(tmp):
    "a clean bitmap of 1 PiB: one extent in one round trip (NBD_REPLY_TYPE_BLOCK_STATUS_EXT)"
    with huge(tmp, "b0", "b1") as d:
        names = ["base:allocation", "qemu:dirty-bitmap:b0", "qemu:dirty-bitmap:b1"]
        w = Wire(d.nbd_path).go(extended=True, contexts=names)
        ids = {name: i for i, name in w.contexts.items()}
        equal(w.status(0, PIB), {ids[names[0]]: [(PIB, 3)], ids[names[1]]: [(PIB, 0)],
                                 ids[names[2]]: [(PIB, 0)]})
        equal(w.do(WRITE, PIB // 2, data=b"x"), 0)
        at = PIB // 2
        expected = [(at, 0), (65536, 1), (PIB - at - 65536, 0)]
        equal(w.status(0, PIB)[ids[names[1]]], expected)
        equal(w.status(0, PIB, REQ_ONE)[ids[names[1]]], expected[:1])
        equal(w.status(5, PIB - 7)[ids[names[1]]],
              [(at - 5, 0), (65536, 1), (PIB - at - 65536 - 2, 0)], "not beyond the range")
        equal(w.do(ZEROES, 0, PIB), 0)
        equal(w.status(0, PIB)[ids[names[2]]], [(PIB, 1)], "all dirty")
        w = Wire(d.nbd_path).go(contexts=names[1:2])
        equal(list(w.status(0, 2**32 - 1).values()), [[(2**32 - 1, 1)]], "compact headers")


@test
def status_form(tmp):
    "descriptors of 16 bytes follow a count, for short ranges too (NBD_REPLY_TYPE_BLOCK_STATUS_EXT)"
    with serve(tmp) as d:
        w = Wire(d.nbd_path).go(extended=True, contexts=["base:allocation"])
        equal(w.do(WRITE, 65536, data=content(65536)), 0)
        (context, _), = w.contexts.items()
        w.send(extended(STATUS, 9, 0, 131072))
        equal(w.read(32), struct.pack(">IHHQQQ", EXT_REPLY, 1, T_STATUS_EXT, 9, 0, 8 + 32))
        equal(w.read(40), struct.pack(">IIQQQQ", context, 2, 65536, 3, 65536, 0))
        for offset, length in ((0, 0), (0, (1 << 20) + 1), (1 << 20, 1), (0, 2**64 - 1),
                               (2**64 - 1, 5)):
            equal(w.do(STATUS, offset, length), EINVAL, "%x+%x" % (offset, length))
        w = Wire(d.nbd_path).go(extended=True)
        equal(w.do(STATUS, 0, 512), EINVAL, "no context was selected")


@test
def chosen_contexts(tmp):
    "a payload chooses among the contexts selected (NBD_CMD_BLOCK_STATUS)"
    bitmaps = ["b%d" % i for i in range(5)]
    with huge(tmp, *bitmaps) as d:
        names = ["base:allocation"] + ["qemu:dirty-bitmap:" + b for b in bitmaps]
        w = Wire(d.nbd_path).go(extended=True, contexts=names)
        ids = sorted(w.contexts)
        everything = w.status(0, PIB)
        equal(sorted(everything), ids)
        for n in range(1, len(ids) + 1):
            chosen = random.Random(n).sample(ids, n)
            equal(w.status(0, PIB, ids=chosen), {i: everything[i] for i in chosen})
        equal(w.status(4096, 8192, REQ_ONE, ids=ids[1:3]), {i: [(8192, 0)] for i in ids[1:3]})


@test
def bad_choices(tmp):
    "unknown, repeated or no ids, odd lengths: consumed, then EINVAL (NBD_CMD_BLOCK_STATUS)"
    with huge(tmp, "b0", "b1") as d:
        names = ["qemu:dirty-bitmap:b0", "qemu:dirty-bitmap:b1"]
        w = Wire(d.nbd_path).go(extended=True, contexts=names)
        a, b = sorted(w.contexts)

        def bad(payload, what, offset=0):
            w.send(extended(STATUS, 5, offset, data=payload))
            equal(w.answer()[:2], (5, EINVAL), what)

        bad(struct.pack(">QII", PIB, a, a), "a context twice")
        bad(struct.pack(">QIII", PIB, a, b, a), "a context twice, too many")
        bad(struct.pack(">QI", PIB, 0xffffffff), "an unknown context")
        bad(struct.pack(">QII", PIB, a, 77), "an unknown context")
        bad(struct.pack(">Q", PIB), "no context")
        bad(struct.pack(">QI", PIB, a) + b"x", "an odd length")
        bad(b"x", "too short")
        bad(struct.pack(">I", 512), "too short")
        bad(struct.pack(">Q", PIB) + b"".join(struct.pack(">I", i) for i in range(1 << 20)), "4 MiB")
        bad(struct.pack(">QI", 0, a), "an empty range")
        bad(struct.pack(">QI", PIB + 1, a), "a range beyond the end")
        bad(struct.pack(">QI", PIB, a), "a range beyond the end", 1)
        bad(struct.pack(">QI", 2**64 - 1, a), "a range that wraps", 2)
        equal(w.do(STATUS, 0, 0, PAYLOAD_LEN), EINVAL, "an empty payload")
        equal(w.status(0, PIB, ids=[b]), {b: [(PIB, 0)]})
        w = Wire(d.nbd_path).go(extended=True)
        bad(struct.pack(">QI", PIB, a), "no context was selected: the flag was not offered")


@test
def flags_of_commands(tmp):
    "unknown flags and those of other commands: EINVAL (Command flags)"
    allowed = {READ: FUA | DF, WRITE: FUA | PAYLOAD_LEN, FLUSH: FUA, TRIM: FUA, CACHE: FUA,
               ZEROES: FUA | NO_HOLE | FAST_ZERO, STATUS: FUA | REQ_ONE}
    with serve(tmp) as d:
        w = Wire(d.nbd_path).go(extended=True, contexts=["base:allocation"])
        for command, good in allowed.items():
            for flag in (1 << bit for bit in range(16)):
                length = 0 if command == FLUSH else 512
                data = b"" if not flag & PAYLOAD_LEN and command != WRITE else bytes(512)
                w.request(command, 7, 0, length or len(data), flag, data)
                if command == STATUS and flag & good:
                    w.status_reply(7)
                elif command == READ and flag & good:
                    w.read_reply(0, 512, 7)
                elif flag == FAST_ZERO and flag & good:
                    equal(w.answer()[1] in (0, ENOTSUP), True)
                else:
                    equal(w.answer()[:2], (7, 0 if flag & good else EINVAL),
                          "command %d flag %x" % (command, flag))


@test
def read_only(tmp):
    "writes to a read-only export: EPERM, payloads are consumed (Error values)"
    with Daemon(tmp, *disk(tmp, "disk0", 1 << 20, writable=False)) as d:
        w = Wire(d.nbd_path).go(extended=True)
        equal(w.flags & (READ_ONLY | SEND_TRIM | SEND_ZEROES | SEND_FAST_ZERO), READ_ONLY)
        equal(w.do(WRITE, 0, data=extended(READ, 666, 0, 512) * 200), EPERM)
        equal([w.do(command, 0, 1 << 40) for command in (TRIM, ZEROES)], [EPERM] * 2)
        equal(w.pread(0, 512), bytes(512))


@test
def fragmented(tmp):
    "requests may arrive byte by byte, in odd pieces, and all at once"
    with serve(tmp) as d:
        w = Wire(d.nbd_path).go(extended=True, contexts=["base:allocation"])
        (context, _), = w.contexts.items()
        data = content(100)
        equal(w.do(WRITE, 10, data=data), 0)  # what is read is there before, so that the order doesn't matter
        stream = extended(WRITE, 1, 10, data=data) + extended(READ, 2, 5, 110) + \
            extended(STATUS, 3, 0, data=struct.pack(">QI", 65536, context)) + extended(FLUSH, 4)
        for step in (1, 31, 33, len(stream)):
            for at in range(0, len(stream), step):
                w.send(stream[at:at + step])
            w.sort_replies(4)
            equal(w.answer(), (1, 0, ""))
            equal(w.read_reply(5, 110, 2), bytes(5) + data + bytes(5))
            equal(sum(n for n, _ in w.status_reply(3)[context]), 65536)
            equal(w.answer(), (4, 0, ""))


@test
def model(tmp):
    "random requests in flight together: data, holes and dirtiness are a model's"
    size, step, r = 1 << 22, 1 << 16, random.Random(11)
    with Daemon(tmp, *disk(tmp, "disk0", size, export=False)) as d:
        d.qmp("block-dirty-bitmap-add", node="disk0", name="b", granularity=step)
        d.qmp("block-export-add", {"type": "nbd", "id": "e", "node-name": "disk0", "writable": True,
                                   "name": "disk0", "bitmaps": ["b"]})
        w = Wire(d.nbd_path).go(extended=True, contexts=["base:allocation", "qemu:dirty-bitmap:b"])
        allocation, bitmap = sorted(w.contexts)
        data, dirty = bytearray(size), bytearray(size // step)
        for round_ in range(60):
            cells, expected = r.sample(range(size // step), 12), {}
            for cookie, cell in enumerate(cells):  # in flight together: none touches another's cell
                at = cell * step + r.randrange(0, step // 2)
                n = r.randrange(1, step // 2)
                kind = r.choice((WRITE, WRITE, ZEROES, READ, READ))
                expected[cookie] = kind, at, n
                if kind == READ:
                    w.request(READ, cookie, at, n, r.choice((0, DF)))
                    continue
                piece = r.randbytes(n) if kind == WRITE else b""
                w.request(kind, cookie, at, n, r.choice((0, FUA)), piece)
                data[at:at + n] = piece or bytes(n)
                dirty[cell] = 1
            while expected:
                flags, kind, cookie, payload = w.chunk()
                command, at, n = expected.pop(cookie)
                if command != READ:
                    equal((flags, kind, payload), (1, T_NONE, b""))
                    continue
                equal((kind in (T_DATA, T_HOLE), payload[:8]), (True, struct.pack(">Q", at)))
                piece = payload[8:] if kind == T_DATA else bytes(struct.unpack(">I", payload[8:])[0])
                equal(piece == data[at:at + len(piece)], True, "what was read")
                equal(flags, len(piece) == n, "the last piece")
                if len(piece) < n:
                    expected[cookie] = READ, at + len(piece), n - len(piece)
            at = r.randrange(size)
            n = r.randrange(1, size - at + 1)
            found = w.status(at, n, ids=r.choice(([bitmap], [bitmap, allocation])))
            position = at
            for length, flag in found[bitmap]:
                equal({dirty[i // step] for i in range(position, position + length, 512)} |
                      {dirty[(position + length - 1) // step]}, {flag}, "dirtiness")
                position += length
            equal(position, at + n, "the whole range")
            position = at
            for length, flag in found.get(allocation, []):
                if flag & 2 and data.count(0, position, position + length) != length:
                    fail("not zero: %d+%d" % (position, length))
                position += length
        equal(w.pread(0, size) == bytes(data), True, "the disk's content")


@test
def disc(tmp):
    "DISC ends the session after what is in flight, without a reply (NBD_CMD_DISC)"
    with serve(tmp) as d:
        w = Wire(d.nbd_path).go(extended=True)
        w.send(b"".join(extended(WRITE, i, i * 512, 0, FUA, content(512, i)) for i in range(50)) +
               extended(FLUSH, 50) + extended(DISC, 51))
        equal(sorted(w.answer()[:2] for _ in range(51)), [(i, 0) for i in range(51)])
        w.ended()
        for flags in (0, FUA, REQ_ONE, 1 << 15):
            w = Wire(d.nbd_path).go(extended=True)
            w.send(extended(DISC, 1, 0, 0, flags))
            w.ended("DISC with flags %x" % flags)


main()
