#!/usr/bin/python3
# SPDX-FileCopyrightText: 2026 The Tidemark authors
# SPDX-License-Identifier: GPL-2.0-or-later
"""Exports of the type vhost-user-blk, as the driver of a guest and its virtual machine use them."""
import errno
import mmap
import os
import re
import resource
import select
import signal
import socket
import struct
import threading
from contextlib import contextmanager, suppress

from harness import *
from vhost import *

MIB = 1 << 20


def export(tmp, **more):
    options = {"addr.path": tmp + "/v", "writable": "on", **more}
    return "--export", "type=vhost-user-blk,id=v,node-name=disk0,addr.type=unix," + ",".join(
        "%s=%s" % option for option in options.items())


@contextmanager
def serve(tmp, *args, size=4 * MIB, **more):
    with Daemon(tmp, *disk(tmp, "disk0", size=size), *export(tmp, **more), *args) as d:
        d.qmp("block-dirty-bitmap-add", node="disk0", name="b", granularity=4096)
        yield d


@contextmanager
def guest(tmp, **more):
    g = Guest(**more)
    try:
        with Client(tmp + "/v", g) as c:
            yield g, c
    finally:
        g.close()


def dirty_bytes(d):
    return d.bitmap("disk0", "b")["count"]


@test
def requests(tmp):
    "a guest reads, writes, flushes, discards and zeroes; NBD clients and bitmaps see it"
    with serve(tmp) as d, guest(tmp) as (g, c):
        g.write(2048, b"a" * 65536)
        equal(dirty_bytes(d), 65536)
        equal(g.read(2048, 65536), b"a" * 65536)
        h = d.nbd()
        equal(bytes(h.pread(65536, MIB)), b"a" * 65536)
        h.pwrite(b"b" * 4096, 2 * MIB)
        h.shutdown()
        equal(g.read(4096, 4096), b"b" * 4096)
        g.write(0, b"c" * 8192, parts=4)
        equal(g.read(0, 8192, parts=2), b"c" * 8192)
        g.write(16, b"d" * 8192, parts=8, indirect=True)
        equal(g.read(16, 8192, indirect=True), b"d" * 8192)
        equal(g.do(FLUSH)[0], OK)
        equal(g.range(WRITE_ZEROES, 0, 8), OK)
        equal(g.range(WRITE_ZEROES, 8, 8, 1), OK)
        equal(g.range(DISCARD, 2048, 128), OK)
        equal(g.read(0, 8192), bytes(8192))
        equal(g.range(DISCARD, 0, 8, 1), UNSUPP)
        equal(g.do(GET_ID, length=20), (OK, b"v".ljust(20, b"\0")))
        equal(g.do(99)[0], UNSUPP)
        equal(g.do(IN, 8192 - 1, length=1024)[0], IOERR)
        equal(g.do(OUT, 1 << 60, b"x" * 512)[0], IOERR)
        equal(g.range(DISCARD, 0, 0xffffffff), IOERR)
        info, = (e for e in d.qmp("query-block-exports") if e["id"] == "v")
        equal((info["type"], info["name"], info["writable"], len(info["clients"])),
              ("vhost-user-blk", "v", True, 1))


@test
def many_at_once(tmp):
    "two queues, full of requests, without event index too"
    with serve(tmp, **{"num-queues": 2}) as d:
        for features in ((F_VERSION_1, F_PROTOCOL, F_FLUSH), (F_VERSION_1, F_PROTOCOL, F_FLUSH, F_EVENT_IDX)):
            g = Guest(queues=2)
            with Client(tmp + "/v", g, features) as c:
                equal(struct.unpack("<H", c.config(34, 2))[0], 2)
                asked = [(q, g.request(OUT, 8 * (20 * q + i), bytes([q + 1, i]) * 2048, queue=q))
                         for i in range(20) for q in (0, 1)]
                for q in (0, 1):
                    g.kick(q)
                for q, (sequence, _, status) in asked:
                    g.wait(sequence, q)
                    equal(g.memory[status], OK)
                for q, i in ((0, 0), (1, 19)):
                    equal(g.read(8 * (20 * q + i), 4096), bytes([q + 1, i]) * 2048)
            g.close()
            wait_until(lambda: not d.qmp("query-block-exports")[0].get("clients"), "the end of the client")


@test
def qcow2_and_throttle(tmp):
    "what does not complete at once goes the same way"
    run("qemu-img", "create", "-q", "-f", "qcow2", tmp + "/q", "4M") if have("qemu-img") else skip("no qemu-img")
    with Daemon(tmp, "--blockdev", "driver=file,filename=%s/q,node-name=f" % tmp, "--object",
                "throttle-group,id=t,x-iops-total=200", "--blockdev", "driver=qcow2,file=f,node-name=q",
                "--blockdev", "driver=throttle,throttle-group=t,file=q,node-name=disk0", *export(tmp)):
        with guest(tmp) as (g, c):
            asked = [g.request(OUT, 128 * i, bytes([i + 1]) * 16384, parts=4, indirect=True) for i in range(16)]
            g.kick()
            for sequence, _, status in asked:
                g.wait(sequence)
                equal(g.memory[status], OK)
            for i in range(16):
                equal(g.read(128 * i, 16384, parts=2), bytes([i + 1]) * 16384)


@test
def killed_daemon(tmp):
    "a guest lives through kill -9 under load: each request is done, and the bitmap has them all"
    path = image(tmp + "/disk0", 4 * MIB)
    args = ("--blockdev", "driver=file,filename=%s,node-name=disk0" % path)
    g = Guest(size=32 * MIB, queue_size=256)
    asked = []
    for turn in range(4):
        with Daemon(tmp, *args, *export(tmp), name="d%d" % turn) as d:
            if not turn:
                d.qmp("block-dirty-bitmap-add", node="disk0", name="b", persistent=True, granularity=4096)
            with Client(tmp + "/v", g):
                for i in range(20):
                    at = turn * 20 + i
                    asked.append((at, g.request(OUT, 8 * at, bytes([at + 1]) * 4096)))
                g.kick()
                g.wait(asked[-18][1][0])
                d.kill()
        g.reap()
    with Daemon(tmp, *args, *export(tmp), name="last") as d, Client(tmp + "/v", g):
        for at, (sequence, _, status) in asked:
            if g.memory[status] == 0xff:
                g.wait(sequence)
            equal(g.memory[status], OK)
        for at, _ in asked:
            equal(g.read(8 * at, 4096), bytes([at + 1]) * 4096)
        equal(d.bitmap("disk0", "b")["count"], len(asked) * 4096)
    g.close()


@test
def resumed_requests(tmp):
    "what was in flight is done again, in order, and once; what was used is not"
    with serve(tmp) as d:
        g = Guest()
        with Client(tmp + "/v", g, start=False):
            pass
        # As a daemon leaves it that was killed: three were taken, one of them used without a note.
        asked = [g.request(OUT, 0, bytes([i]) * 4096) for i in (1, 2, 3)]
        heads = [next(h for h, (s, _) in g.waiting[0].items() if s == a[0]) for a in asked]
        size = (16 + 16 * g.queue_size + 63) // 64 * 64
        fd = os.memfd_create("inflight")
        os.ftruncate(fd, size)
        with mmap.mmap(fd, size) as m:
            struct.pack_into("<QHHHH", m, 0, 0, 1, g.queue_size, heads[2], 0)
            for head, counter in zip(heads, (7, 5, 6)):
                struct.pack_into("<B5xHQ", m, 16 + 16 * head, 1, 0, counter)
        g.inflight = (fd, struct.pack("<QQHH", size, 0, 1, g.queue_size))
        used = g.used_ring(0)
        g.put("II", used + 4, heads[2], 1)
        g.put("H", used + 2, 1)
        with Client(tmp + "/v", g):
            for sequence, _, _ in asked:
                g.wait(sequence)
            equal([g.memory[status] for _, _, status in asked], [OK, OK, 0xff])
            equal(g.read(0, 4096), b"\1" * 4096)  # by counter: the second one, then the first
        g.close()


@test
def any_order(tmp):
    "requests in flight are noted and done again in whatever order the messages come"
    steps = ("set_area", "set_memory", "set_size", "set_rings", "set_kick", "set_base", "set_call", "enable")
    orders = (("set_area", "set_memory", "set_size", "set_kick", "set_base", "set_rings", "set_call", "enable"),
              ("set_memory", "set_size", "set_rings", "set_kick", "set_base", "set_call", "enable", "set_area"),
              ("enable", "set_call", "set_base", "set_kick", "set_memory", "set_size", "set_rings", "set_area"))
    with serve(tmp):
        for order in orders:
            equal(sorted(order), sorted(steps))
            g = Guest()
            with Client(tmp + "/v", g, start=False) as c:
                g.inflight = c.area(g.queue_size)
                for step in order:
                    getattr(c, step)()
                g.write(0, b"x" * 512)
                with mmap.mmap(g.inflight[0], 0) as m:
                    equal(struct.unpack_from("<H", m, 8)[0], 1)  # its version
                    c.stop()
                    sequence, _, status = g.request(OUT, 0, b"y" * 512)
                    head, = g.waiting[0]
                    m[16 + 16 * head] = 1
                for step in order:
                    getattr(c, step)()
                g.wait(sequence)
                equal(g.memory[status], OK)
            g.close()


@test
def another_area(tmp):
    "requests are noted in the area that the client gave last"
    with serve(tmp), guest(tmp) as (g, c):
        g.write(0, b"x" * 512)
        old, g.inflight = g.inflight, c.area(1024)
        c.set_area()
        for i in range(3):
            g.write(8 * i, b"y" * 512)
        with mmap.mmap(g.inflight[0], 0) as m:
            equal(struct.unpack_from("<HH", m, 8), (1, g.queue_size))
            equal(struct.unpack_from("<H", m, 14)[0], g.used[0])
        os.close(old[0])


@test
def larger_queue_than_its_area(tmp):
    "a queue that has no place in the area does not write beyond it"
    g = Guest(queue_size=4)
    g.inflight = os.memfd_create("inflight"), struct.pack("<QQHH4x", 128, 0, 1, 4)
    os.ftruncate(g.inflight[0], 4096)
    with serve(tmp), Client(tmp + "/v", g) as c:
        g.write(0, b"x" * 512)
        c.enable(on=0)
        g.queue_size, g.free[0] = 64, list(range(40, 60))
        g.put("HH", g.avail(0), 0, 0)
        g.put("HH", g.used_ring(0), 0, 0)
        g.used[0] = 0
        for step in (c.set_size, c.set_base, c.set_rings, c.enable):
            step()
        for _ in range(5):
            g.write(0, b"y" * 512)
        with mmap.mmap(g.inflight[0], 0) as m:
            equal(m[8] + m[14], 2)  # what the smaller one noted
            equal(m[128:], bytes(4096 - 128))
    g.close()


@test
def full_event(tmp):
    "a client whose eventfd is full, and waits, stops neither the daemon nor its own requests"
    for engine in ("auto", "threads"):
        with serve(tmp, "--io-engine", engine), guest(tmp) as (g, c):
            g.write(0, b"x" * 512)
            with suppress(BlockingIOError):
                os.eventfd_read(g.calls[0])
            os.eventfd_write(g.calls[0], 2 ** 64 - 2)
            os.set_blocking(g.calls[0], True)
            for i in range(200):
                _, _, status = g.request(OUT, 0, b"y" * 512)
                g.kick()
                wait_until(lambda: g.reap() or g.memory[status] != 0xff, "the request")


@test
def error_of_a_driver(tmp):
    "an ESHUTDOWN from a driver is an error like any other"
    with Daemon(tmp, *disk(tmp, "file0", size=MIB, export=False), "--blockdev",
                "driver=blkdebug,node-name=disk0,image=file0,inject-error.0.event=none,inject-error.0.iotype=read,inject-error.0.errno=%d"
                % errno.ESHUTDOWN, *export(tmp)):
        with guest(tmp) as (g, c):
            equal(g.do(IN, 0, length=512)[0], IOERR)
            g.write(0, b"x" * 512)


@test
def lost_call(tmp):
    "a guest is called when a daemon begins: the last one may have ended before it called"
    with serve(tmp):
        g = Guest()
        with Client(tmp + "/v", g, start=False) as c:
            equal(select.select(g.calls, [], [], 0)[0], [])
            c.start()
            equal(select.select(g.calls, [], [], 60)[0], g.calls)
        g.close()


@test
def resize(tmp):
    "a guest hears of another size"
    with serve(tmp) as d, guest(tmp) as (g, c):
        equal(struct.unpack("<Q", c.config(0, 8))[0], 8192)
        d.qmp("block_resize", {"node-name": "disk0", "size": 8 * MIB})
        c.mine.settimeout(60)
        equal(struct.unpack("<III", c.mine.recv(12)), (2, 1, 0))
        equal(struct.unpack("<Q", c.config(0, 8))[0], 16384)
        equal(g.do(OUT, 16383, b"x" * 512)[0], OK)


@test
def memory_slots(tmp):
    "memory comes and goes region by region, and a request may lie in several"
    step = 65536
    with serve(tmp) as d, guest(tmp, size=64 * step) as (g, c):
        equal(c.u64(36), 256)
        c.slot(38, 0, 64 * step)  # the table's
        for i in reversed(range(64)):
            c.slot(37, i * step, step)
        c.set_rings()
        c.set_kick()
        g.next = 40 * step - 4096
        g.write(0, b"x" * 3 * step)
        equal(g.read(0, 3 * step, indirect=True), b"x" * 3 * step)
        equal(dirty_bytes(d), 3 * step)
        c.slot(38, 50 * step, step)
        g.submit([(GUEST + 50 * step, 16, 0), (GUEST + 51 * step, 1, WRITE)])
        g.kick()
        cut(c)
        for offset, size in ((0, 2 * step), (50 * step, step), (64 * step, step)):
            with Client(tmp + "/v", g, start=False) as other:
                other.set_memory()
                other.slot(37 if size > step else 38, offset, size, ok=False)


@test
def reset(tmp):
    "a device that is reset begins as a new one"
    with serve(tmp), guest(tmp) as (g, c):
        g.write(0, b"x" * 512)
        c.ask(34)
        sequence, _, status = g.request(OUT, 0, b"y" * 512)
        g.kick()
        c.config()
        equal(g.memory[status], 0xff)
        for step in (c.set_size, c.set_base, c.set_rings, c.set_call, c.set_kick, c.enable):
            step()
        g.wait(sequence)
        equal(g.memory[status], OK)


@test
def sandbox(tmp):
    "it works within the daemon's sandbox, exports that are added later, too"
    with serve(tmp, "--sandbox", "on,files=given") as d:
        with guest(tmp) as (g, c):
            g.write(0, b"x" * 512)
        d.qmp("block-export-del", id="v", mode="hard")
        d.monitor.wait_event("BLOCK_EXPORT_DELETED", id="v")
        d.qmp("block-export-add", {"type": "vhost-user-blk", "id": "v", "node-name": "disk0",
                                   "addr": {"type": "unix", "path": tmp + "/v"}})
        with guest(tmp) as (g, c):
            equal(g.read(0, 512), b"x" * 512)


@test
def events(tmp):
    "monitors hear of clients that come and go"
    with serve(tmp) as d:
        with guest(tmp):
            event = d.monitor.wait_event("VHOST_USER_BLK_CLIENT_CONNECTED")["data"]
            info, = (e for e in d.qmp("query-block-exports") if e["id"] == "v")
            equal(event, {"id": 1, "export": "v", "writable": True, "peer": info["clients"][0]["peer"]})
        equal(d.monitor.wait_event("VHOST_USER_BLK_CLIENT_DISCONNECTED")["data"],
              {"id": 1, "export": "v", "peer": event["peer"], "reason": "closed"})
        with guest(tmp) as (g, c):
            g.make_available(0, [5000])
            g.kick()
            d.monitor.wait_event("VHOST_USER_BLK_CLIENT_DISCONNECTED", reason="error")
        with guest(tmp):
            d.qmp("block-export-del", id="v", mode="hard")
            d.monitor.wait_event("VHOST_USER_BLK_CLIENT_DISCONNECTED", reason="export-removed")


@test
def deletion(tmp):
    "block-export-del: safe fails under a client, hard disconnects it"
    with serve(tmp) as d:
        with guest(tmp) as (g, c):
            g.write(0, b"x" * 512)
            raises(QMPError, d.qmp, "block-export-del", id="v", match="export 'v' still in use")
            d.qmp("block-export-del", id="v", mode="hard")
            d.monitor.wait_event("BLOCK_EXPORT_DELETED", id="v")
            raises(OSError, c.config)
        equal(os.path.exists(tmp + "/v"), False)
        equal(len(d.qmp("query-block-exports")), 1)


@test
def read_only(tmp):
    "a read-only export says so and refuses writes"
    with serve(tmp, writable="off"), guest(tmp) as (g, c):
        equal(c.offered >> F_RO & 1, 1)
        equal(g.do(OUT, 0, b"x" * 512)[0], IOERR)
        equal(g.range(DISCARD, 0, 8), IOERR)
        equal(g.read(0, 512), bytes(512))


@test
def backup_under_a_guest(tmp):
    "a backup that begins under a guest has the disk at that instant"
    with serve(tmp) as d, guest(tmp) as (g, c):
        g.write(0, b"a" * MIB)
        for i in range(8):
            g.request(OUT, 4096, b"c" * 4096)
        g.kick()
        d.qmp("blockdev-add", {"driver": "file", "filename": image(tmp + "/t", 4 * MIB), "node-name": "t"})
        d.qmp("blockdev-backup", {"job-id": "j", "device": "disk0", "target": "t", "sync": "full"})
        g.write(0, b"b" * MIB)
        d.monitor.wait_event("BLOCK_JOB_COMPLETED", device="j")
        with open(tmp + "/t", "rb") as f:
            equal(f.read(MIB), b"a" * MIB)


def cut(c):
    raises(OSError, lambda: [c.config() for _ in range(1000)])


@test
def hostile_guests(tmp):
    "damaged rings end the session, and nothing else"
    def loop(g):
        g.put("QIHH", g.desc(0, 0), GUEST, 0, NEXT, 0)
        g.make_available(0, [0])

    def outside(g):
        g.submit([(GUEST + g.size - 8, 16, 0), (GUEST, 1, WRITE)])

    def wraps(g):
        g.submit([(2 ** 64 - 8, 0xffffffff, 0), (GUEST, 1, WRITE)])

    def head(g):
        g.make_available(0, [5000])

    def index(g):
        g.put("H", g.avail(0) + 2, 1000)

    def next_(g):
        g.put("QIHH", g.desc(0, 0), GUEST, 16, NEXT, 5000)
        g.make_available(0, [0])

    def order(g):
        g.submit([(GUEST, 16, WRITE), (GUEST, 16, 0)])

    def nested(g):
        g.put("QIHH", 0x40000, GUEST + 0x40000, 16, INDIRECT, 0)
        g.submit([(GUEST + 0x40000, 16, INDIRECT)])

    def shrinks(g):
        os.ftruncate(g.fd, 4096)

    with serve(tmp) as d:
        for harm in (loop, outside, wraps, head, index, next_, order, nested, shrinks):
            g = Guest()
            with Client(tmp + "/v", g) as c:
                harm(g)
                g.kick()
                cut(c)
            os.close(g.fd), [os.close(fd) for fd in g.kicks + g.calls + [g.inflight[0]]]
        with guest(tmp) as (g, c):  # harmless
            for chain in ([(GUEST + 0x40000, 1, WRITE)], [(GUEST + 0x40000, 8, 0), (GUEST + 0x40100, 1, WRITE)],
                          [(GUEST + 0x40000, 16, 0)]):
                sequence = g.submit(chain)
                g.kick()
                g.wait(sequence)
            g.write(0, b"x" * 512)


@test
def kicks_taken_away(tmp):
    "a client that reads its own kicks while it ends does not keep the daemon from ending the session"
    with serve(tmp):
        for turn in range(20):
            g = Guest()
            over = []

            def take():
                while not over:
                    try:
                        os.eventfd_read(g.kicks[0])
                    except BlockingIOError:
                        pass

            with Client(tmp + "/v", g):
                g.write(0, bytes([turn + 1]) * 512)
                thread = threading.Thread(target=take)
                thread.start()
            with Client(tmp + "/v", g, start=False) as c:
                c.config()
            over.append(True)
            thread.join()
            g.close()


@test
def hostile_clients(tmp):
    "messages that are wrong are refused"
    with serve(tmp):
        g = Guest()
        with Client(tmp + "/v", g, start=False) as c:
            for harm in (lambda: c.set_memory(ok=False, twice=True), lambda: c.set_memory(ok=False, size=1 << 40),
                         lambda: c.set_memory(ok=False, size=2 ** 64 - 1), lambda: c.set_memory(ok=False, offset=4096),
                         lambda: c.ask(8, struct.pack("<II", 0, 3), ok=False),
                         lambda: c.ask(8, struct.pack("<II", 7, 64), ok=False),
                         lambda: c.ask(9, struct.pack("<IIQQQQ", 0, 0, 0, 0, 0, 0), ok=False),
                         lambda: c.ask(12, struct.pack("<Q", 0), [g.fd], ok=False),
                         lambda: c.ask(13, struct.pack("<Q", 0), [g.fd], ok=False),
                         lambda: c.ask(14, struct.pack("<Q", 0), [g.fd], ok=False),
                         lambda: c.ask(200, b"", ok=False)):
                harm()
                c.close()
                c.__init__(tmp + "/v", g, start=False)
            c.send(1, b"", (), 7)
            cut(c)
        with Client(tmp + "/v", g):
            g.write(0, b"x" * 512)
        g.close()


@test
def options(tmp):
    "options are checked, with QEMU's messages"
    with serve(tmp) as d:
        def refuse(match, **more):
            raises(QMPError, d.qmp, "block-export-add", {
                "type": "vhost-user-blk", "id": "w", "node-name": "disk0",
                "addr": {"type": "unix", "path": tmp + "/w"}, **more}, match=match)
        refuse("Only socket address types 'unix' and 'fd' are supported",
               addr={"type": "inet", "host": "localhost", "port": "1"})
        refuse("num-queues must be greater than 0", **{"num-queues": 0})
        refuse("minimum: 512, maximum: 2097152", **{"logical-block-size": 256})
        refuse("power of 2", **{"logical-block-size": 1000})
        refuse("'name' is unexpected", name="x")
        equal(os.path.exists(tmp + "/w"), False)


@test
def descriptors_that_linger(tmp):
    "a connection that a client sends, and whose end would wait for its peer, stops nobody"
    g = Guest()
    with serve(tmp) as d, socket.create_server(("127.0.0.1", 0)) as listening:
        for n, ends in ((1, False), (253, False), (1, True)):
            with (Client(tmp + "/v", g, start=False) as c,
                  socket.create_connection(listening.getsockname()) as mine, listening.accept()[0]):
                mine.setblocking(False)
                with suppress(BlockingIOError):
                    while True:  # until nothing more goes away
                        mine.send(bytes(MIB))
                mine.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 1000))
                os.kill(d.pid, signal.SIGSTOP)  # so it is the last one that closes it
                if ends:
                    c.send(99)
                    c.send(1)  # and then nothing more is read
                c.send(1, b"", [mine.fileno()] * n)
                mine.close()
                os.kill(d.pid, signal.SIGCONT)
                if ends:
                    with suppress(ConnectionError):
                        equal(c.socket.recv(1), b"")
                else:
                    equal(struct.unpack("<Q", c.receive()[0])[0], c.offered)
                equal(len(d.qmp("query-block-exports")), 2)
    g.close()


@test
def no_descriptors(tmp):
    "a client for whom the daemon has no descriptor waits, and costs nothing meanwhile"
    with serve(tmp) as d:
        def sleeps():
            with open("/proc/%d/status" % d.pid) as f:
                return int(re.search(r"^voluntary_ctxt_switches:\s+(\d+)", f.read(), re.M)[1])

        before = resource.prlimit(d.pid, resource.RLIMIT_NOFILE)
        resource.prlimit(d.pid, resource.RLIMIT_NOFILE, (len(os.listdir("/proc/%d/fd" % d.pid)), before[1]))
        with socket.socket(socket.AF_UNIX) as waits:
            waits.connect(tmp + "/v")
            wait_until(lambda: "a client waits: Too many open files" in d.log(), "the line in the log")
            then = sleeps()
            wait_until(lambda: sleeps() > then + 5, "the main thread to sleep")
            equal(d.log().count("a client waits"), 1)
        resource.prlimit(d.pid, resource.RLIMIT_NOFILE, before)
        with guest(tmp) as (g, _):
            g.write(0, b"w" * 512)


HUGE = 2 * MIB


@contextmanager
def huge_pages(n):
    """A file in memory of so many of them."""
    path = "/proc/sys/vm/nr_hugepages"
    with open(path) as f:
        before = f.read()
    fd = -1
    try:
        with suppress(OSError), open(path, "w") as f:
            f.write("%d" % (int(before) + n))
        try:
            fd = os.memfd_create("huge", os.MFD_HUGETLB | os.MFD_HUGE_2MB)
            os.ftruncate(fd, n * HUGE)
            mmap.mmap(fd, n * HUGE).close()
        except OSError as e:
            raise Skip("no huge pages: %s" % e) from e
        yield fd
    finally:
        if fd >= 0:
            os.close(fd)
        with suppress(OSError), open(path, "w") as f:
            f.write(before)


@test
def huge_memory_lost(tmp):
    "a client that takes its huge pages away is disconnected, and the daemon goes on"
    with huge_pages(4) as fd, serve(tmp) as d:
        g = Guest(size=4 * HUGE)
        os.dup2(fd, g.fd)
        g.memory = mmap.mmap(g.fd, g.size)
        with Client(tmp + "/v", g) as c:
            g.write(0, b"a" * 4096)
            g.next = 3 * HUGE
            g.request(OUT, 8, b"b" * 512)
            os.ftruncate(fd, HUGE)
            g.kick()
            equal(c.socket.recv(1), b"")
        g.close()
        equal("memory that it shared is no longer there" in d.log(), True)
        with guest(tmp) as (again, _):
            equal(again.read(0, 4096), b"a" * 4096)


main()
