#!/usr/bin/python3
# SPDX-FileCopyrightText: 2026 The Tidemark authors
# SPDX-License-Identifier: GPL-2.0-or-later
"""Large reads, which go from the page cache to the socket: the same bytes as any other, whatever happens
meanwhile (NBD_CMD_READ)."""
import os
import random
import socket
import struct
import tempfile
import time

from wire import *

M = 1 << 20


def fill(tmp, size, name="disk0"):
    data = os.urandom(size)
    path = os.path.join(tmp, name + ".img")
    with open(path, "wb") as f:
        f.write(data)
        os.fsync(f.fileno())
    return path, data


def evict(path):
    """Takes a file out of the page cache, where there is another place for it."""
    with open(path, "rb") as f:
        os.fsync(f.fileno())
        os.posix_fadvise(f.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def contents(w, reads, first=b""):
    """The data of reads that are under way, {cookie: (offset, length)}, in whatever order the replies
    come. @first: bytes of them that were read already."""
    if first:
        plain = w.read
        stock = [first]

        def read(n):
            got, stock[0] = stock[0][:n], stock[0][n:]
            return got + plain(n - len(got))

        w.read = read
    found, left = {}, set(reads)
    while left:
        if w.structured:
            flags, kind, cookie, payload = w.chunk()
            base, length = reads[cookie]
            data = found.setdefault(cookie, bytearray(b"\xee" * length))
            offset, = struct.unpack(">Q", payload[:8])
            if kind == T_DATA:
                data[offset - base:offset - base + len(payload) - 8] = payload[8:]
            else:
                equal(kind, T_HOLE)
                n, = struct.unpack(">I", payload[8:])
                data[offset - base:offset - base + n] = bytes(n)
            if not flags & 1:
                continue
        else:
            magic, error, cookie = w.unpack(">IIQ")
            equal((hex(magic), error), (hex(SIMPLE), 0))
            found[cookie] = w.read(reads[cookie][1])
        left.remove(cookie)
    return found


def content(w, cookie, base, length):
    return bytes(contents(w, {cookie: (base, length)})[cookie])


def check_all(w, reads, data, first=b""):
    for cookie, got in contents(w, reads, first).items():
        offset, length = reads[cookie]
        equal(got == data[offset:offset + length], True, "read %d: %d+%d" % (cookie, offset, length))


@test
def every_form(tmp):
    "large reads of any size and place are right, simple, structured and extended, with DF and without"
    path, data = fill(tmp, 8 * M + 777)
    with Daemon(tmp, *disk(tmp, "disk0")) as d:
        for form in (dict(structured=False), dict(), dict(extended=True)):
            w = Wire(d.nbd_path).go(**form)
            cookie = 0
            for offset, length in ((0, 65535), (0, 65536), (1, 65537), (4095, 300000), (M - 1, M + 2),
                                   (0, 8 * M + 777), (8 * M + 776, 1), (7 * M + 1, M + 776)):
                for flags in ((0, DF) if w.structured else (0,)):
                    cookie += 1
                    w.request(READ, cookie, offset, length, flags)
                    equal(content(w, cookie, offset, length) == data[offset:offset + length], True,
                          "%s %d+%d" % (form, offset, length))
            # Many under way, with small ones between them.
            reads = {i: (i * 300000, 100 if i % 3 else 290000) for i in range(24)}
            for cookie, (offset, length) in reads.items():
                w.request(READ, cookie, offset, length)
            check_all(w, reads, data)
            w.close()


@test
def holes(tmp):
    "large reads over data and holes are right"
    path = os.path.join(tmp, "disk0.img")
    parts = [(0, os.urandom(200000)), (M, os.urandom(M)), (5 * M, os.urandom(12345))]
    image(path, 8 * M, parts)
    expected = open(path, "rb").read()
    with Daemon(tmp, *disk(tmp, "disk0")) as d:
        for form in (dict(structured=False), dict(), dict(extended=True)):
            w = Wire(d.nbd_path).go(**form)
            for cookie, (offset, length) in enumerate(((0, 8 * M), (100, 3 * M), (M, M), (M + 5, M), (6 * M, M))):
                w.request(READ, cookie, offset, length)
                equal(content(w, cookie, offset, length) == expected[offset:offset + length], True)
            w.close()


@test
def slow_readers(tmp):
    "clients that do not read delay neither others nor discards of what they asked for"
    path, data = fill(tmp, 16 * M)
    with Daemon(tmp, *disk(tmp, "disk0", discard="unmap")) as d:
        slow = [Wire(d.nbd_path).go(structured=bool(i % 2)) for i in range(8)]
        for w in slow:
            for i in range(4):
                w.request(READ, i, i * 4 * M, 4 * M)
        w = Wire(d.nbd_path).go()
        w.request(READ, 9, 0, 4 * M)
        equal(content(w, 9, 0, 4 * M) == data[:4 * M], True)
        equal(w.do(TRIM, 15 * M, M), 0)
        equal(w.do(WRITE, 15 * M, data=data[15 * M:]), 0)
        for s in slow[:4]:  # one after the other they take it after all
            check_all(s, {i: (i * 4 * M, 4 * M) for i in range(4)}, data)
        slow[5].s.shutdown(socket.SHUT_RDWR)
        for s in slow[4:]:
            s.close()


@test
def evicted(tmp):
    "what has left the page cache meanwhile is read again, and the reply goes on"
    path, data = fill(tmp, 16 * M)
    with Daemon(tmp, *disk(tmp, "disk0")) as d:
        w = Wire(d.nbd_path).go()
        for turn in range(3):
            for i in range(4):
                w.request(READ, i, i * 4 * M, 4 * M)
            first = w.read(100)
            evict(path)
            check_all(w, {i: (i * 4 * M, 4 * M) for i in range(4)}, data, first)
            with open(path, "rb") as f:  # back into the cache
                f.read()


@test
def cut_off(tmp):
    "a file that is cut off under a reply: zeroes where there is nothing, and the stream stays whole"
    path, data = fill(tmp, 8 * M)
    with Daemon(tmp, *disk(tmp, "disk0")) as d:
        w = Wire(d.nbd_path).go(structured=False)
        w.request(READ, 1, 0, 8 * M)
        head = w.read(16 + 1000)
        equal(head[16:] == data[:1000], True)
        os.truncate(path, 2 * M)
        got = head[16:] + w.read(8 * M - 1000)
        equal(got[:2 * M] == data[:2 * M], True)
        for at in range(2 * M, 8 * M, 512):  # what was read before it was cut off is there still
            part = got[at:at + 512]
            equal(part == bytes(512) or part == data[at:at + 512], True, "at %d" % at)
        for cookie, (at, expected) in enumerate(((0, data[:M]), (7 * M, bytes(M)))):
            w.request(READ, cookie, at, M)
            equal(w.simple(cookie, M), (0, expected))
        os.truncate(path, 8 * M)


def qcow2(tmp, file="unmap", **options):
    """Daemon arguments for an empty qcow2 disk0 of 16 MiB in @tmp, and its path. @file: what its file does
    with discards."""
    path = os.path.join(tmp, "disk0.qcow2")
    tidemark("image", "create", "-f", "qcow2", path, "16M")
    more = "".join(",%s=%s" % (k.replace("_", "-"), v) for k, v in options.items())
    return path, ["--blockdev", "file,node-name=file0,filename=%s,discard=%s" % (path, file),
                  "--blockdev", "qcow2,node-name=disk0,file=file0,discard=unmap" + more,
                  "--export", "nbd,id=exp-disk0,node-name=disk0,name=disk0,writable=on"]


@test
def clusters_given_away(tmp):
    "while a client does not read, what it asked for is discarded and its clusters hold other data: it sees none"
    data, other = (os.urandom(M) for _ in range(2))
    memory = tempfile.TemporaryDirectory(dir="/dev/shm")  # tmpfs keeps files in the page cache alone
    for where, more in ((tmp, {}), (tmp, dict(file="ignore")), (tmp, dict(pass_discard_request="off")),
                        (memory.name, dict(file="ignore"))):
        path, args = qcow2(where, **more)
        with Daemon(tmp, *args) as d:
            w = Wire(d.nbd_path).go(structured=False)
            equal(w.do(WRITE, 0, data=data), 0)
            slow = Wire(d.nbd_path).go(structured=False)
            for turn in range(2):  # what was read before it was lent the first time
                slow.request(READ, turn, 0, M // 2)
                head = slow.read(16)
                time.sleep(0.2)  # the rest has reached the socket
                equal(w.do(TRIM, 0, M // 2), 0)
                equal(w.do(FLUSH), 0)
                size = os.stat(path).st_size
                equal(w.do(WRITE, (turn + 4) * M, data=other[:M // 2]), 0)
                equal(w.do(FLUSH), 0)
                equal(os.stat(path).st_size, size, "the clusters were used again")
                got = slow.read(M // 2)
                for at in range(0, M // 2, 512):
                    part = got[at:at + 512]
                    equal(part == data[at:at + 512] or part == bytes(512), True, "turn %d at %d" % (turn, at))
                equal(w.do(WRITE, 0, data=data), 0)
            w.request(READ, 9, 4 * M, M // 2)
            equal(w.simple(9, M // 2) == (0, other[:M // 2]), True)


@test
def in_pieces(tmp):
    "a qcow2 image whose clusters lie in all orders: every large read is right, in every form"
    path, args = qcow2(tmp)
    cluster, order = 65536, list(range(16 * M // 65536))
    random.Random(7).shuffle(order)
    data = os.urandom(16 * M)
    with Daemon(tmp, *args) as d:
        w = Wire(d.nbd_path).go()
        for i in order[:-4]:  # a few are left out
            equal(w.do(WRITE, i * cluster, data=data[i * cluster:(i + 1) * cluster]), 0)
        expected = bytearray(data)
        for i in order[-4:]:
            expected[i * cluster:(i + 1) * cluster] = bytes(cluster)
        for form in (dict(structured=False), dict(), dict(extended=True)):
            w = Wire(d.nbd_path).go(**form)
            for cookie, (offset, length) in enumerate(((0, 16 * M), (M + 1, 5 * M), (3 * M - 7, 65536), (65535, M))):
                for flags in ((0, DF) if w.structured else (0,)):
                    w.request(READ, cookie, offset, length, flags)
                    equal(content(w, cookie, offset, length) == expected[offset:offset + length], True,
                          "%s %d+%d" % (form, offset, length))


@test
def written_meanwhile(tmp):
    "writers, discards and large readers at once: every block is one that was written there"
    path = image(os.path.join(tmp, "disk0.img"), 4 * M)
    with Daemon(tmp, *disk(tmp, "disk0", discard="unmap")) as d:
        def write(number):
            w = Wire(d.nbd_path).go()
            for turn in range(40):
                for at in range(number * M, (number + 1) * M, M // 4):
                    equal(w.do(WRITE, at, data=bytes([turn + 1]) * (M // 4)), 0)
                if turn % 8 == 7:
                    equal(w.do(TRIM, number * M, M), 0)
            w.close()

        def read(form):
            w = Wire(d.nbd_path).go(**form)
            for turn in range(30):
                w.request(READ, turn, 0, 4 * M)
                got = content(w, turn, 0, 4 * M)
                equal(max(got) <= 40, True)
            w.close()

        in_threads(*(lambda n=n: write(n) for n in range(2)),
                   *(lambda f=f: read(f) for f in (dict(), dict(structured=False))))


def with_tcp(d):
    """Where else @d serves its exports."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    d.qmp("nbd-server-start", {"id": "tcp", "addr": {"type": "inet", "data": {
        "host": "127.0.0.1", "port": str(port)}}})
    return "127.0.0.1", port


@test
def over_tcp(tmp):
    "large reads over TCP are right"
    path, data = fill(tmp, 8 * M + 777)
    with Daemon(tmp, *disk(tmp, "disk0")) as d:
        where = with_tcp(d)
        for form in (dict(structured=False), dict(), dict(extended=True)):
            w = Wire(where).go(**form)
            for cookie, (offset, length) in enumerate(((1, 65536), (4095, 300000), (0, 8 * M + 777))):
                w.request(READ, cookie, offset, length)
                equal(content(w, cookie, offset, length) == data[offset:offset + length], True)
            reads = {i: (i * 300000, 100 if i % 3 else 290000) for i in range(24)}
            for cookie, (offset, length) in reads.items():
                w.request(READ, cookie, offset, length)
            check_all(w, reads, data)
            w.close()


@test
def killed_clients(tmp):
    "clients that vanish in the midst of their replies leave nothing behind, and cost no other one"
    path, data = fill(tmp, 8 * M)
    with Daemon(tmp, *disk(tmp, "disk0")) as d:
        healthy = Wire(d.nbd_path).go()
        tcp = with_tcp(d)
        for turn in range(24):
            w = Wire((d.nbd_path, tcp)[turn % 2]).go(structured=bool(turn % 3))
            for i in range(4):
                w.request(READ, i, 0, 8 * M)
            w.read(1 + turn * 50000)
            if turn % 4 > 1:  # a reset, where there is one
                w.s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            w.close()
            healthy.request(READ, turn, turn, M)
            equal(content(healthy, turn, turn, M) == data[turn:turn + M], True)
        wait_until(lambda: len(d.qmp("query-nbd-sessions")) == 1, "the sessions to end")


main()
