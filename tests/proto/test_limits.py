#!/usr/bin/python3
# SPDX-FileCopyrightText: 2026 The Tidemark authors
# SPDX-License-Identifier: GPL-2.0-or-later
"""What a server's clients may take: time, memory, descriptors (docs/nbd.md, "Limits"), and that whoever
takes more hurts nobody else. Sections named are those of the NBD specification, doc/proto.md."""
import resource

from wire import *

KIB, MIB = 1 << 10, 1 << 20


def rss(d):
    """Anonymous memory, KiB."""
    with open("/proc/%d/status" % d.pid) as f:
        return int(re.search(r"RssAnon:\s+(\d+)", f.read()).group(1))


def faults(d):
    """Pages that had to be found."""
    with open("/proc/%d/stat" % d.pid) as f:
        return int(f.read().rsplit(")", 1)[1].split()[7])


def cpu(d):
    """Ticks."""
    with open("/proc/%d/stat" % d.pid) as f:
        return sum(map(int, f.read().rsplit(")", 1)[1].split()[11:13]))


def connections(d):
    return d.qmp("query-nbd-servers")[0]["connections"]


def works(w):
    equal(w.do(WRITE, 4096, data=b"y" * 512), 0)
    equal(w.pread(4096, 512), b"y" * 512)


@test
def handshake_seconds(tmp):
    "handshake-max-seconds: whoever has not opened an export is cut off, busy or not; others stay"
    with serve(tmp, server="handshake-max-seconds=1") as d:
        done = Wire(d.nbd_path).go()
        silent = Wire(d.nbd_path, flags=None, greet=False)
        greeted = Wire(d.nbd_path)
        half = Wire(d.nbd_path)
        half.send(option(OPT_GO, b"", 100)[:-3])
        began = time.monotonic()

        def talk():
            w = Wire(d.nbd_path)
            while True:
                equal(w.verdict(OPT_LIST), REP_ACK)
                time.sleep(0.02)
        raises(Closed, talk)
        if not 0.9 < time.monotonic() - began < 10:
            fail("cut off after %f s" % (time.monotonic() - began))
        equal(silent.read(18)[:8], b"NBDMAGIC")
        for w in (silent, greeted, half):
            w.ended()
        works(done)
        wait_until(lambda: connections(d) == 1, "the places")


@test
def late_opening(tmp):
    "a session whose time is over while its GO waits does not open, and hurts nobody"
    with serve(tmp, server="handshake-max-seconds=1") as d:
        for _ in range(2):  # which thread comes first is chance
            waiting = [Wire(d.nbd_path) for _ in range(200)]
            os.kill(d.pid, signal.SIGSTOP)
            for w in waiting:
                w.send(option(OPT_GO, info_data("disk0")))
            time.sleep(1.2)
            os.kill(d.pid, signal.SIGCONT)
            time.sleep(0.3)
            for w in waiting:
                w.close()
            wait_until(lambda: connections(d) == 0, "their end")
        works(Wire(d.nbd_path).go())


@test
def multi_conn(tmp):
    "several connections are promised where another one can come, and to those of one client alike"
    with serve(tmp, max_connections=1) as d:
        equal(Wire(d.nbd_path).go().flags & MULTI_CONN, 0)
    alone = [a.replace("type=nbd", "type=nbd,max-connections=1") for a in disk(tmp, "disk1", MIB)]
    with serve(tmp, *alone, max_connections=3) as d:
        equal(Wire(d.nbd_path).go("disk1").flags & MULTI_CONN, 0, "the export has one")
        wait_until(lambda: connections(d) == 0, "its end")
        held = [Wire(d.nbd_path).go() for _ in range(3)]
        equal([w.flags & MULTI_CONN for w in held], [MULTI_CONN] * 3, "one client")


@test
def haste(tmp):
    "whoever fills the server without opening anything is cut off the sooner"
    with serve(tmp, max_connections=5) as d:
        good = Wire(d.nbd_path).go()
        silent = [Wire(d.nbd_path) for _ in range(4)]
        began = time.monotonic()
        w = Wire(d.nbd_path, flags=3, greet=False)
        equal(w.read(18)[:8], b"NBDMAGIC")
        if time.monotonic() - began > 8:
            fail("it took %f s" % (time.monotonic() - began))
        silent[0].ended()
        works(w.go())
        works(good)


@test
def idle_seconds(tmp):
    "idle-max-seconds: quiet clients are cut off, also those with replies unread; busy ones are not"
    with serve(tmp, server="idle-max-seconds=1", size=64 * MIB) as d:
        quiet, busy, stuck, part = (Wire(d.nbd_path).go() for _ in range(4))
        for i in range(4):
            stuck.request(READ, i, 0, 16 * MIB, DF)
        part.send(request(WRITE, 1, 0, 1 * MIB) + bytes(1000))
        until = time.monotonic() + 2.5
        while time.monotonic() < until:
            works(busy)
            time.sleep(0.05)
        quiet.ended()
        part.ended()
        wait_until(lambda: connections(d) == 1, "the places")
        works(busy)


@test
def request_size(tmp):
    "max-request-size is sent as NBD_INFO_BLOCK_SIZE; more is refused, payload and all (Size constraints)"
    with serve(tmp, server="max-request-size=64k") as d:
        w = Wire(d.nbd_path)
        sizes = [data for kind, data in w.opt(OPT_INFO, info_data("disk0")) if data[:2] == b"\0\3"]
        equal(sizes, [struct.pack(">HIII", 3, 1, 4096, 64 * KIB)])
        w.go()
        equal(w.pread(0, 64 * KIB), bytes(64 * KIB))
        equal(w.do(WRITE, 0, data=bytes(64 * KIB)), 0)
        equal(w.do(READ, 0, 64 * KIB + 1), EOVERFLOW)
        equal(w.do(WRITE, 0, data=bytes(64 * KIB + 1)), EINVAL)
        works(w)
        w = Wire(d.nbd_path).go(extended=True)
        equal(w.do(READ, 0, 64 * KIB + 1), EOVERFLOW)
        equal(w.do(ZEROES, 0, 1 * MIB), 0, "no payload, no limit")
        w.send(extended(WRITE, 1, 0, 64 * KIB + 1, PAYLOAD_LEN))
        w.ended()


@test
def options(tmp):
    "max-option-size: NBD_REP_ERR_TOO_BIG; max-options: the session ends (NBD_REP_ERR_TOO_BIG)"
    with serve(tmp, server="max-option-size=16k,max-options=16") as d:
        w = Wire(d.nbd_path)
        equal(w.opt(OPT_LIST_META, bytes(16385))[-1],
              (ERR_TOO_BIG, b"option 9: more than 16384 bytes of data"))
        for _ in range(15):
            equal(w.verdict(OPT_LIST), REP_ACK)
        w.send(option(OPT_LIST))
        w.ended()


@test
def refused(tmp):
    "limits that make no sense are refused, and name the range"
    with serve(tmp) as d:
        for key, value, message in (
                ("max-request-size", 1, "65536 to 67108864"), ("max-option-size", 1 << 40, "16384 to"),
                ("max-options", 3, "16 to 1048576"), ("max-bytes-in-flight", 1 << 63, "0 to")):
            error = raises(QMPError, d.qmp, "nbd-server-start", {
                "id": "x", "addr": {"type": "unix", "data": {"path": tmp + "/x"}}, key: value})
            matches(error.desc, "'%s'.*%s" % (key, message))
        equal([s["id"] for s in d.qmp("query-nbd-servers")], ["default"])


@test
def in_flight(tmp):
    "max-bytes-in-flight, -total: however small, all requests are answered"
    for server in ("max-bytes-in-flight=1", "max-bytes-in-flight-total=1"):
        with Daemon(tmp, *disk(tmp, "disk0", 64 * MIB, cache__direct="on"), server=server) as d:
            def client(base):
                w = Wire(d.nbd_path).go()
                for i in range(24):
                    w.request(WRITE, i, base + i * 256 * KIB, 256 * KIB, data=bytes([i]) * 256 * KIB)
                equal(sorted(w.answer()[:2] for _ in range(24)), [(i, 0) for i in range(24)])
                for i in range(24):
                    w.request(READ, i, base + i * 256 * KIB, 256 * KIB, DF)
                seen = set()
                for i in range(24):
                    flags, kind, cookie, payload = w.chunk()
                    equal(payload[8:], bytes([cookie]) * 256 * KIB)
                    seen.add(cookie)
                equal(seen, set(range(24)))
            in_threads(*(lambda base=base: client(base) for base in range(0, 32 * MIB, 8 * MIB)))


@test
def never_reads(tmp):
    "a client that never reads holds no more than its bytes in flight, and nobody else up"
    with serve(tmp, size=64 * MIB, server="max-bytes-in-flight=8M") as d:
        good = Wire(d.nbd_path).go()
        works(good)
        before = rss(d)
        bad = [Wire(d.nbd_path).go() for _ in range(4)]
        for w in bad:
            w.s.setblocking(False)
            try:
                for i in range(10000):
                    w.s.send(request(READ, i, 0, 1 * MIB, DF))
            except BlockingIOError:
                pass
        for _ in range(50):
            works(good)
        if rss(d) - before > 4 * 16 * 1024:
            fail("%d KiB more" % (rss(d) - before))


@test
def stalled(tmp):
    "max-bytes-in-flight-total: with the memory used up, who stands still is cut off, who moves is not"
    with serve(tmp, size=64 * MIB,
               server="max-bytes-in-flight-total=40M,handshake-max-seconds=1") as d:
        good = Wire(d.nbd_path).go()
        bad = [Wire(d.nbd_path).go() for _ in range(4)]
        for w in bad[:2]:
            w.send(request(WRITE, 1, 0, 16 * MIB) + bytes(MIB))
        for w in bad[:2]:
            raises(socket.timeout, (w.s.settimeout(1.5), w.s.recv)[1], 1)  # there is room yet
            w.s.settimeout(PATIENCE)
        for w in bad[2:]:
            w.send(request(WRITE, 1, 0, 16 * MIB) + bytes(MIB))
        until = time.monotonic() + 30
        while connections(d) > 3 and time.monotonic() < until:
            works(good)
            time.sleep(0.02)
        for w in bad[:2]:  # then there is room again
            w.ended()
        bad[2].send(bytes(15 * MIB))
        equal(bad[2].answer()[:2], (1, 0))
        works(good)


@test
def strangers(tmp):
    "who has opened nothing and fills the memory with half an option is cut off, at once"
    with serve(tmp, server="max-bytes-in-flight-total=4M,handshake-max-seconds=1000") as d:
        good = Wire(d.nbd_path).go()
        bad = [Wire(d.nbd_path) for _ in range(12)]
        for w in bad:
            w.send(option(OPT_LIST_META, bytes(200 * KIB), 250 * KIB))
        wait_until(lambda: connections(d) < 12, "the end of some")
        works(good)
        works(Wire(d.nbd_path).go())


@test
def half_closed(tmp):
    "a client that sends no more gets its replies and the end; one that leaves them unread is let go"
    with serve(tmp, size=64 * MIB, server="handshake-max-seconds=1") as d:
        w = Wire(d.nbd_path).go()
        for i in range(20):
            w.request(READ, i, 0, 1 * MIB, DF)
        w.s.shutdown(socket.SHUT_WR)
        for i in range(20):
            equal(len(w.chunk()[3]), 8 + 1 * MIB)
        w.ended()
        w = Wire(d.nbd_path).go()
        for i in range(20):
            w.request(READ, i, 0, 1 * MIB, DF)
        w.s.shutdown(socket.SHUT_WR)
        wait_until(lambda: connections(d) == 0, "the end of who does not read")
        w = Wire(d.nbd_path).go()
        w.s.shutdown(socket.SHUT_RD)
        w.request(READ, 1, 0, 1 * MIB)
        wait_until(lambda: connections(d) == 0, "the end of a session that can't be notified")


@test
def hung(tmp):
    "a disk that hangs keeps no other disk's clients waiting; its own can be cut off, and don't idle"
    with serve(tmp, "--blockdev", "driver=null-co,node-name=slow,latency-ns=2000000000,read-zeroes=on",
               "--export", "nbd,id=slow,node-name=slow,writable=on", server="idle-max-seconds=1") as d:
        slow = [Wire(d.nbd_path).go("slow") for _ in range(3)]
        good = Wire(d.nbd_path).go()
        began = time.monotonic()
        for w in slow:
            w.send(b"".join(request(READ, i, 0, 512) for i in range(60)))
        for i in range(10):  # what a worker does
            equal(good.do(ZEROES, 0, 4096), 0)
            equal(good.do(FLUSH), 0)
        works(good)
        took = time.monotonic() - began
        if took > 1.5:
            fail("%f s for the other disk" % took)
        equal(slow[0].chunk()[1::2], (T_HOLE, struct.pack(">QI", 0, 512)))
        if time.monotonic() - began < 1.9:
            fail("it did not hang")
        for s in d.qmp("query-nbd-sessions"):
            if s["export"] == "slow":
                equal(s["requests"]["read"], 60)
                d.qmp("nbd-session-disconnect", id=s["id"])
        for w in slow[1:]:
            try:
                w.read(1 << 20)
            except Closed:
                pass
        d.unexport("slow")
        d.qmp("nbd-server-stop")
        if time.monotonic() - began > 20:
            fail("what waits for a disk was not given up")


@test
def warm(tmp):
    "many large requests in flight use memory that those before them had; a moment later it is given back"
    count, size, pages = 64, 256 * KIB, 64 * 64

    def burst(w):
        before = faults(d)
        w.send(b"".join(request(READ, i, 0, size, DF) for i in range(count)))
        for _ in range(count):
            equal(len(w.chunk()[3]), 8 + size)
        return faults(d) - before
    with serve(tmp, "--blockdev", "driver=null-co,node-name=slow,latency-ns=50000000,read-zeroes=on",
               "--export", "nbd,id=slow,node-name=slow") as d:
        w = Wire(d.nbd_path).go("slow")
        before = rss(d)
        burst(w)
        wait_until(lambda: burst(w) < pages / 4, "a burst without new memory")
        wait_until(lambda: sanitized() or rss(d) < before + 8 * KIB, "the end of what the burst had")


@test
def flood(tmp):
    "a flood of connections that say nothing: the healthy one goes on, the others go"
    with serve(tmp, server="handshake-max-seconds=1") as d:
        good = Wire(d.nbd_path).go()
        flood = []
        for i in range(600):
            flood.append(Wire(d.nbd_path, flags=None, greet=False))
            if i % 50 == 0:
                works(good)
        w = Wire(d.nbd_path).go()
        wait_until(lambda: connections(d) == 2, "the end of the flood")
        works(good)
        works(w)


def either_order(w, lengths):
    """Takes the simple replies to reads of {cookie: length}."""
    while lengths:
        magic, error, cookie = w.unpack(">IIQ")
        equal((magic, error), (SIMPLE, 0))
        w.read(lengths.pop(cookie))


@test
def out_of_descriptors(tmp):
    "connections leave descriptors to others: sessions don't die for want of one, and nobody spins"
    with serve(tmp, size=64 * MIB) as d:
        good = Wire(d.nbd_path).go()
        used = len(os.listdir("/proc/%d/fd" % d.pid))
        resource.prlimit(d.pid, resource.RLIMIT_NOFILE, (used + 40, used + 40))
        held, late = [], None
        while not late:
            w = Wire(d.nbd_path, flags=3, greet=False)
            w.s.settimeout(0.5)
            try:
                w.read(18)
                w.s.settimeout(PATIENCE)
                held.append(w)
            except Failure:
                late = w
        if not 10 < len(held) < used + 20:
            fail("%d connections with %d descriptors" % (len(held), used + 40))
        before = cpu(d)
        for i in range(3):
            good.request(READ, i, 0, 400 * KIB, DF)
        for w in held:
            w.go(structured=False)
        for w in held:
            w.send(request(READ, 1, 0, 400 * KIB) + request(READ, 2, 0, 512))
        d.new_monitor().close()
        time.sleep(1)
        if cpu(d) - before > 60:
            fail("the daemon spins: %d ticks" % (cpu(d) - before))
        for i in range(3):
            equal(len(good.chunk()[3]), 8 + 400 * KIB)
        in_threads(*(lambda w=w: either_order(w, {1: 400 * KIB, 2: 512}) for w in held[1:]))
        held[0].close()
        held[1].close()
        late.s.settimeout(PATIENCE)
        equal(late.read(18)[:8], b"NBDMAGIC")
        works(late.go())


main()
