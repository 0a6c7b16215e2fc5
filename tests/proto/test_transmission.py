#!/usr/bin/python3
# SPDX-FileCopyrightText: 2026 The Tidemark authors
# SPDX-License-Identifier: GPL-2.0-or-later
"""The transmission phase, byte by byte. Sections named are those of the NBD specification."""
import random

from wire import *


def content(n, seed=1):
    return random.Random(seed).randbytes(n)


@test
def simple_replies(tmp):
    "without structured replies every reply is a simple one (Simple reply message)"
    with serve(tmp) as d:
        w = Wire(d.nbd_path).go(structured=False)
        data = content(5000)
        w.send(request(WRITE, 1, 1000, 5000, 0, data))
        equal(w.simple(1), (0, b""))
        w.send(request(READ, 2, 1000, 5000))
        equal(w.simple(2, 5000), (0, data))
        w.send(request(READ, 3, 1 << 20, 1))
        equal(w.simple(3, 1), (EINVAL, b""))
        w.send(request(READ, 4, 0, 512, DF))
        equal(w.simple(4, 512), (EINVAL, b""), "DF was not negotiated")
        w.send(request(READ, 5, 0, 300000))
        equal(w.simple(5, 300000), (0, bytes(1000) + data + bytes(294000)))


@test
def structured_reads(tmp):
    "with them reads are always structured, errors too (Structured reply chunk message)"
    with serve(tmp) as d:
        w = Wire(d.nbd_path).go()
        data = content(5000)
        equal(w.do(WRITE, 1000, data=data), 0)
        w.send(request(READ, 2, 1000, 5000))
        equal(w.chunks(2), [(T_DATA, struct.pack(">Q", 1000) + data)])
        w.send(request(READ, 3, 1 << 20, 1))
        (kind, payload), = w.chunks(3)
        equal((kind, struct.unpack(">I", payload[:4])[0]), (T_ERROR, EINVAL))
        equal(payload[6:6 + struct.unpack(">H", payload[4:6])[0]] != b"", True, "a message")


@test
def sparse_reads(tmp):
    "holes are sent as such, not as zeroes; DF forbids it (NBD_CMD_READ, NBD_CMD_FLAG_DF)"
    with serve(tmp, size=8 << 20) as d:
        w = Wire(d.nbd_path).go()
        w.send(request(READ, 1, 0, 8 << 20))
        equal(w.chunks(1), [(T_HOLE, struct.pack(">QI", 0, 8 << 20))])
        data = content(65536)
        equal(w.do(WRITE, 1 << 20, data=data), 0)
        equal(w.do(WRITE, 4 << 20, data=data), 0)
        w.send(request(READ, 2, 0, 8 << 20))
        found = w.chunks(2)
        equal([kind for kind, _ in found], [T_HOLE, T_DATA, T_HOLE, T_DATA, T_HOLE])
        equal(found[3][1], struct.pack(">Q", 4 << 20) + data)
        for flags in (0, FUA):
            equal(w.pread(1000, 5 << 20, flags)[(1 << 20) - 1000:][:65536], data)
        w.send(request(READ, 3, 0, 8 << 20, DF))
        (kind, payload), = w.chunks(3)
        equal((kind, len(payload)), (T_DATA, 8 + (8 << 20)))
        equal(payload[8 + (1 << 20):][:65536], data)


@test
def lengths_of_zero(tmp):
    "requests of length 0 don't end the session (Request types)"
    with serve(tmp) as d:
        for structured in (False, True):
            w = Wire(d.nbd_path).go(structured=structured)
            for command in (READ, WRITE, TRIM, ZEROES, CACHE):
                equal(w.do(command, 512, 0), 0, "command %d" % command)
                equal(w.do(command, 1 << 20, 0), 0, "command %d at the end" % command)


@test
def ranges(tmp):
    "requests beyond the end are ENOSPC for writes, else EINVAL (Error values)"
    with serve(tmp, size=(1 << 20) + 333) as d:
        for structured in (False, True):
            w = Wire(d.nbd_path).go(structured=structured)
            size = w.size
            for offset, length in ((size, 1), (size - 1, 2), (0, size + 1), (1 << 63, 512),
                                   (2**64 - 512, 512), (2**64 - 1, 1024)):
                for command, error in ((READ, EINVAL), (WRITE, ENOSPC), (ZEROES, ENOSPC),
                                       (TRIM, EINVAL), (CACHE, EINVAL)):
                    data = bytes(length) if command == WRITE else b""
                    equal(w.do(command, offset, length, data=data), error,
                          "%d %x+%d" % (command, offset, length))
            equal(w.do(WRITE, size - 5, data=b"abcde"), 0)
            equal(w.pread(size - 7, 7), b"\0\0abcde")


@test
def large_requests(tmp):
    "32 MiB pass, more is refused and the session lives (Size constraints)"
    with serve(tmp, size=80 << 20) as d:
        w = Wire(d.nbd_path).go()
        data = content(MAX)
        equal(w.do(WRITE, 4096, data=data), 0)
        equal(w.pread(4096, MAX) == data, True, "the same data")
        equal(w.pread(4096, MAX, DF) == data, True, "the same data")
        equal(w.do(READ, 0, MAX + 1), EOVERFLOW)
        equal(w.do(WRITE, 0, data=bytes(MAX + 1)), EINVAL)
        equal(w.do(ZEROES, 0, 80 << 20), 0)
        equal(w.do(TRIM, 0, 80 << 20), 0)
        equal(w.do(CACHE, 0, 80 << 20), 0)
        equal(w.pread(4096, 4096), bytes(4096))
        w = Wire(d.nbd_path).go(structured=False)
        equal(w.do(READ, 0, MAX + 1), EINVAL)
        equal(w.pread(0, MAX) == bytes(MAX), True)


@test
def flags(tmp):
    "unknown flags and those of other commands: EINVAL (Command flags)"
    allowed = {READ: FUA | DF, WRITE: FUA, FLUSH: FUA, TRIM: FUA, CACHE: FUA,
               ZEROES: FUA | NO_HOLE | FAST_ZERO}
    with serve(tmp) as d:
        w = Wire(d.nbd_path).go()
        for command, good in allowed.items():
            for bit in range(16):
                flag = 1 << bit
                data = bytes(512) if command == WRITE else b""
                length = 0 if command == FLUSH else 512
                if command == READ and flag & good:
                    equal(w.pread(0, 512, flag), bytes(512))
                elif command == ZEROES and flag == FAST_ZERO:
                    equal(w.do(command, 0, length, flag) in (0, ENOTSUP), True)
                else:
                    equal(w.do(command, 0, length, flag, data), 0 if flag & good else EINVAL,
                          "command %d flag %x" % (command, flag))
        equal(w.do(ZEROES, 0, 4096, FUA | NO_HOLE), 0)


@test
def unknown_commands(tmp):
    "unknown commands: EINVAL, and the session lives (Error values)"
    with serve(tmp) as d:
        for structured in (False, True):
            w = Wire(d.nbd_path).go(structured=structured)
            for command in (8, 9, 100, 0xffff):
                equal(w.do(command, 0, 512), EINVAL)
            equal(w.pread(0, 512), bytes(512))


@test
def read_only(tmp):
    "writes to a read-only export: EPERM, payloads are thrown away (Error values)"
    with Daemon(tmp, *disk(tmp, "disk0", 1 << 20, writable=False)) as d:
        w = Wire(d.nbd_path).go()
        for command in (WRITE, TRIM, ZEROES):
            data = request(READ, 666, 0, 512) * 200 if command == WRITE else b""
            equal(w.do(command, 0, 512, data=data) if not data else w.do(command, data=data), EPERM)
        equal(w.do(FLUSH), 0)
        equal(w.do(CACHE, 0, 4096), 0)
        equal(w.pread(0, 512), bytes(512))


@test
def zeroes_and_trim(tmp):
    "WRITE_ZEROES zeroes, with NO_HOLE and FUA too; TRIM succeeds"
    with serve(tmp) as d:
        w = Wire(d.nbd_path).go(contexts=["base:allocation"])
        for flag in (0, NO_HOLE, FUA, FUA | NO_HOLE):
            equal(w.do(WRITE, 0, data=content(65536)), 0)
            equal(w.do(ZEROES, 100, 60000, flag), 0)
            equal(w.pread(0, 65536), content(65536)[:100] + bytes(60000) + content(65536)[60100:])
        equal(w.do(ZEROES, 0, 65536, NO_HOLE), 0)
        # Whether it counts as a hole is the file system's word; that it is zero is known.
        equal([state & 2 for _, state in w.status(0, 65536)[0]], [2], "zero")
        equal(w.do(TRIM, 0, 65536, FUA), 0)


@test
def wrong_magic(tmp):
    "a wrong request magic ends the session; others live on"
    with serve(tmp) as d:
        other = Wire(d.nbd_path).go()
        for magic in (0, REQUEST + 1, 0x12560953):
            w = Wire(d.nbd_path).go()
            w.send(request(READ, 1, 0, 512, magic=magic))
            w.ended()
        equal(other.pread(0, 512), bytes(512))


@test
def disc(tmp):
    "DISC ends the session after what is in flight, without a reply (NBD_CMD_DISC)"
    with serve(tmp) as d:
        w = Wire(d.nbd_path).go()
        w.send(b"".join(request(WRITE, i, i * 512, 512, FUA, content(512, i)) for i in range(50)) +
               request(FLUSH, 50) + request(DISC, 51))
        equal(sorted(w.answer()[:2] for _ in range(51)), [(i, 0) for i in range(51)])
        w.ended()
        w = Wire(d.nbd_path).go()
        equal(w.pread(49 * 512, 512), content(512, 49))


@test
def half_close(tmp):
    "a client that shuts its sending side down still gets its replies"
    with serve(tmp) as d:
        w = Wire(d.nbd_path).go()
        n = 300
        w.send(b"".join(request(READ, i, 0, 4096) for i in range(n)) + request(FLUSH, n))
        w.s.shutdown(socket.SHUT_WR)
        got = set()
        for _ in range(n + 1):
            magic, = w.unpack(">I")
            if magic == SIMPLE:
                got.add(w.unpack(">IQ")[1])
            else:
                _, _, cookie, length = w.unpack(">HHQI")
                w.read(length)
                got.add(cookie)
        equal(got, set(range(n + 1)))
        w.ended()


@test
def fragmented(tmp):
    "requests may arrive byte by byte, and in odd pieces"
    with serve(tmp) as d:
        w = Wire(d.nbd_path).go()
        data = content(100)
        for b in request(WRITE, 1, 10, 100, 0, data):
            w.send(bytes([b]))
        equal(w.answer(), (1, 0, ""))
        for b in request(READ, 2, 5, 110):
            w.send(bytes([b]))
        equal(w.read_reply(5, 110, 2), bytes(5) + data + bytes(5))
        r = random.Random(5)
        model, stream, n = bytearray(1 << 20), b"", 200
        model[10:110] = data
        for i in range(n):
            length = r.choice((1, 511, 4096, 10000, 70000))
            at = r.randrange((1 << 20) - length)
            piece = r.randbytes(length)
            model[at:at + length] = piece
            w.send(request(WRITE, i, at, length, 0, piece)[:17])
            w.send(request(WRITE, i, at, length, 0, piece)[17:])
            equal(w.answer(), (i, 0, ""))
        equal(w.pread(0, 1 << 20) == bytes(model), True, "the disk's content")
        w.close()
        w = Wire(d.nbd_path).go()
        model[:] = bytes(1 << 20)
        equal(w.do(ZEROES, 0, 1 << 20), 0)
        for i in range(n):  # ranges that don't overlap: their order is the server's
            at, length = i * 5000, r.randrange(1, 5000)
            piece = r.randbytes(length)
            model[at:at + length] = piece
            stream += request(WRITE, i, at, length, 0, piece)
        at = 0
        while at < len(stream):
            n_bytes = r.choice((1, 27, 28, 29, 1000, 65536))
            w.send(stream[at:at + n_bytes])
            at += n_bytes
        equal(sorted(w.answer()[:2] for _ in range(n)), [(i, 0) for i in range(n)])
        equal(w.pread(0, 1 << 20) == bytes(model), True, "the disk's content")


@test
def cut_in_payload(tmp):
    "a client that vanishes within a write's payload writes nothing"
    with serve(tmp) as d:
        for sent in (1, 100, 4096, 70000, 299999):
            w = Wire(d.nbd_path).go()
            w.send(request(WRITE, 1, 0, 300000) + b"x" * sent)
            w.close()
        w = Wire(d.nbd_path).go()
        equal(w.pread(0, 300000), bytes(300000))


@test
def not_reading(tmp):
    "a client that does not read is not read from either, and delays nobody"
    with serve(tmp, size=4 << 20) as d:
        w = Wire(d.nbd_path).go()
        equal(w.do(WRITE, 0, data=content(1 << 20)), 0)
        w.s.settimeout(0.5)
        sent = 0
        stream = b"".join(request(READ, i, 0, 65536) for i in range(1000))
        try:
            while sent < 256 << 20:
                sent += w.s.send(stream)
        except socket.timeout:
            pass
        if sent >= 256 << 20:
            fail("the server took %d bytes of requests" % sent)
        with open("/proc/%d/status" % d.pid) as f:
            rss = int(re.search(r"VmRSS:\s+(\d+)", f.read()).group(1))
        # A sanitizer's own memory aside, what one connection may hold is far below this.
        if rss > 400 << 10:
            fail("the daemon has %d KiB" % rss)
        other = Wire(d.nbd_path).go()
        equal(other.pread(0, 4096), content(1 << 20)[:4096])
        w.s.settimeout(PATIENCE)
        for i in range(sent // len(request(READ, 0))):
            equal(w.read_reply(0, 65536, i % 1000) == content(1 << 20)[:65536], True)
            if i == 2000:
                break


@test
def not_reading_then_gone(tmp):
    "clients that vanish with replies waiting do no harm"
    with serve(tmp) as d:
        for _ in range(20):
            w = Wire(d.nbd_path).go()
            w.send(request(WRITE, 0, 0, 4096, FUA, bytes(4096)) + request(FLUSH, 1) +
                   b"".join(request(READ, i, 0, 1 << 20, DF) for i in range(20)))
            w.close()
        equal(Wire(d.nbd_path).go().pread(0, 4096), bytes(4096))


@test
def deep_pipeline(tmp):
    "thousands of requests of all kinds in flight at once are all answered"
    with serve(tmp, size=8 << 20) as d:
        w = Wire(d.nbd_path).go()
        n = 4000
        kinds = [lambda i: request(WRITE, i, i * 1024, 1024, FUA if i % 7 == 0 else 0, bytes([i % 256]) * 1024),
                 lambda i: request(FLUSH, i), lambda i: request(CACHE, i, i * 1024, 1024),
                 lambda i: request(99, i)]
        expected = {i: EINVAL if i % 4 == 3 else 0 for i in range(n)}
        stream = b"".join(kinds[i % 4](i) for i in range(n))
        got = {}

        def receive():
            for _ in range(n):
                cookie, error, _ = w.answer()
                got[cookie] = error

        in_threads(lambda: w.send(stream), receive)
        equal(got == expected, True, "a reply for each")
        for i in (0, 4, 3996):
            equal(w.pread(i * 1024, 1024), bytes([i % 256]) * 1024)


@test
def waiting_for_the_medium(tmp):
    "pipelined reads that all wait for the medium keep their data apart"
    data = content(8 << 20)
    path = image(os.path.join(tmp, "d"), 8 << 20, [(0, data)])
    try:
        os.close(os.open(path, os.O_RDONLY | os.O_DIRECT))
    except OSError:
        skip("no direct I/O in %s" % tmp)
    with Daemon(tmp, *disk(tmp, "disk0", path=path, cache__direct="on")) as d:
        w = Wire(d.nbd_path).go()
        n, step = 128, 65536
        w.send(b"".join(request(READ, i, i * step, step, DF) for i in range(n)))
        got = {}
        for _ in range(n):
            flags, kind, cookie, payload = w.chunk()
            equal((flags, kind), (1, T_DATA))
            got[cookie] = payload[8:]
        for i in range(n):
            equal(got[i] == data[i * step:(i + 1) * step], True, "read %d" % i)


@test
def out_of_sight(tmp):
    "block-export-del: refused with a client, hard cuts it off (block-export-del)"
    with serve(tmp) as d:
        w = Wire(d.nbd_path).go()
        idle = Wire(d.nbd_path)
        e = raises(QMPError, d.qmp, "block-export-del", id="exp-disk0")
        matches(e.desc, "in use")
        equal(w.pread(0, 512), bytes(512))
        d.unexport("exp-disk0")
        w.ended()
        equal(idle.verdict(OPT_GO, info_data("disk0")), ERR_UNKNOWN)
        equal(idle.opt(OPT_LIST), [(REP_ACK, b"")])


@test
def hard_with_load(tmp):
    "a hard deletion and a stop under load do no harm, again and again"
    with serve(tmp) as d:
        for round_ in range(10):
            wires = [Wire(d.nbd_path).go() for _ in range(4)]
            for w in wires:
                w.send(b"".join(request(WRITE, i, 0, 4096, FUA, bytes(4096)) +
                                request(READ, i, 0, 65536, DF) for i in range(50)))
            d.unexport("exp-disk0")
            for w in wires:
                w.close()
            d.qmp("block-export-add", {"type": "nbd", "id": "exp-disk0", "node-name": "disk0",
                                       "name": "disk0", "writable": True})
        w = Wire(d.nbd_path).go()
        early = Wire(d.nbd_path)
        d.qmp("nbd-server-stop")
        w.ended()
        early.ended("a session in its handshake")
        equal(os.path.exists(d.nbd_path), False, "the socket file")


main()
