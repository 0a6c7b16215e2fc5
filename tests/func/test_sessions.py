#!/usr/bin/python3
# SPDX-FileCopyrightText: 2026 The Tidemark authors
# SPDX-License-Identifier: GPL-2.0-or-later
"""What an operator sees of clients and does with them: query-nbd-sessions, events, disconnecting."""
import os
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "proto"))
from wire import *

MIB = 1 << 20


def sessions(d):
    return d.qmp("query-nbd-sessions")


def gone(d, id):
    return d.monitor.wait_event("NBD_CLIENT_DISCONNECTED", id=id)["data"]


def pairs(d):
    """The ids of the clients that events told of; waits until each that came has gone."""
    def told(what):
        return sorted(e["data"]["id"] for e in d.monitor.events if e["event"] == "NBD_CLIENT_" + what)
    wait_until(lambda: d.qmp("query-version") and told("CONNECTED") == told("DISCONNECTED"),
               "the end of each that came")
    return told("CONNECTED")


@test
def query(tmp):
    "query-nbd-sessions shows a client's identity, its export and its requests"
    with serve(tmp) as d:
        d.qmp("block-dirty-bitmap-add", node="disk0", name="b")
        d.qmp("block-export-dirty-bitmap", id="exp-disk0", bitmaps=["b"])
        equal(sessions(d), [])
        w = Wire(d.nbd_path)
        w.verdict(OPT_LIST)
        s, = sessions(d)
        peer = "unix:pid=%d,uid=%d" % (os.getpid(), os.getuid())
        none = dict.fromkeys(("read", "write", "flush", "trim", "cache", "write-zeroes",
                              "block-status"), 0)
        for key in ("age", "idle"):
            equal(0 <= s.pop(key) < 3, True, key)
        first = {"id": 1, "server": "default", "peer": peer, "identity": "uid=%d" % os.getuid(),
                 "tls": False, "writable": False, "contexts": [], "requests": none,
                 "bytes-read": 0, "bytes-written": 0, "errors": 0}
        equal(s, first)
        w.go(contexts=["base:allocation", "qemu:dirty-bitmap:b"])
        w.pread(0, 512)
        w.pread(0, 100000)
        for i in range(3):
            w.do(WRITE, 0, data=b"x" * 1000)
        w.do(FLUSH)
        w.do(TRIM, 0, 4096)
        w.do(ZEROES, 0, 4096)
        w.do(CACHE, 0, 4096)
        w.request(STATUS, 9, 0, 4096)
        w.chunks(9)
        equal(w.do(READ, 2 * MIB, 1), EINVAL)
        equal(w.do(77), EINVAL)
        other = Wire(d.nbd_path).go(extended=True)
        s, o = sessions(d)
        for key in ("age", "idle"):
            equal(0 <= s.pop(key) < 3, True, key)
        equal(s, dict(first, export="exp-disk0", replies="structured", writable=True,
                      contexts=["base:allocation", "qemu:dirty-bitmap:b"],
                      requests={"read": 2, "write": 3, "flush": 1, "trim": 1, "write-zeroes": 1,
                                "cache": 1, "block-status": 1},
                      errors=2, **{"bytes-read": 100512, "bytes-written": 3000}))
        equal((o["id"], o["replies"], o["contexts"]), (2, "extended", []))
        other.close()
        equal(gone(d, 2)["reason"], "closed")
        equal([s["id"] for s in sessions(d)], [1])


@test
def tcp_peers(tmp):
    "a TCP client shows its address, and has no identity"
    with Daemon(tmp, "--nbd-server", "id=t,addr.type=inet,addr.host=127.0.0.1,addr.port=0",
                *disk(tmp, "disk0", MIB), nbd=False) as d:
        port = int(d.qmp("query-nbd-servers")[0]["addresses"][0]["port"])
        w = Wire(("127.0.0.1", port)).go(structured=False)
        s, = sessions(d)
        equal((s["peer"], s["server"], s["replies"], "identity" in s),
              ("127.0.0.1:%d" % w.s.getsockname()[1], "t", "simple", False))


@test
def events(tmp):
    "events report a client with its export and the reason of its end; a client that opens nothing makes none"
    with serve(tmp, *disk(tmp, "disk1", MIB, writable=False), server="idle-max-seconds=1") as d:
        peer = "unix:pid=%d,uid=%d" % (os.getpid(), os.getuid())
        Wire(d.nbd_path).verdict(OPT_LIST)

        def come(name="disk0", **more):
            w = Wire(d.nbd_path).go(name)
            w.event = d.monitor.wait_event("NBD_CLIENT_CONNECTED")["data"]
            return w

        def went(w, reason):
            equal(gone(d, w.event["id"]), {"id": w.event["id"], "server": "default", "peer": peer,
                                           "export": w.event["export"], "reason": reason})
        w = come("disk1")
        equal(w.event, {"id": 2, "server": "default", "peer": peer, "export": "exp-disk1", "tls": False,
                        "identity": "uid=%d" % os.getuid(), "writable": False})
        w.request(DISC, 1)
        went(w, "closed")
        w = come()
        w.close()
        went(w, "closed")
        w = come()
        w.send(b"nonsense" * 8)
        went(w, "error")
        w.ended()
        went(come(), "idle")
        w = come()
        w.s.shutdown(socket.SHUT_RD)
        w.request(READ, 1, 0, 512)
        went(w, "lost")
        w = come()
        d.unexport("exp-disk0")
        went(w, "export-removed")
        w = come("disk1")
        d.qmp("nbd-server-stop")
        went(w, "server-stopped")
        equal([e["event"] for e in d.monitor.events if e["event"].startswith("NBD_")], [])


@test
def disconnect(tmp):
    "nbd-session-disconnect cuts the session off, whatever it is doing"
    with serve(tmp, size=64 * MIB) as d:
        idle, early, part, unread, stays = [Wire(d.nbd_path) for _ in range(5)]
        for w in (idle, part, unread, stays):
            w.go()
        part.send(request(WRITE, 1, 0, MIB) + bytes(100))
        for i in range(20):
            unread.request(READ, i, 0, MIB, DF)
        for id in range(1, 5):
            d.qmp("nbd-session-disconnect", id=id)
        for w in (idle, early, part):
            w.ended()
        for id in (1, 3, 4):
            equal(gone(d, id)["reason"], "requested")
        wait_until(lambda: [s["id"] for s in sessions(d)] == [5], "the others' end")
        equal(stays.pread(0, 512), bytes(512))
        for id in (1, 77):
            matches(raises(QMPError, d.qmp, "nbd-session-disconnect", id=id).desc,
                    "NBD session %d is not found" % id)


@test
def in_a_storm(tmp):
    "queries and disconnections under load lose no session from the count"
    with serve(tmp) as d:
        done = []

        def client():
            while not done:
                try:
                    w = Wire(d.nbd_path).go(contexts=["base:allocation"])
                    for i in range(5):
                        w.do(WRITE, 0, data=b"x" * 512)
                    w.close()
                except (Closed, BrokenPipeError):
                    pass

        def operator():
            try:
                for _ in range(300):
                    for s in sessions(d):
                        try:
                            if s["id"] % 3 == 0:
                                d.qmp("nbd-session-disconnect", id=s["id"])
                        except QMPError:
                            pass
            finally:
                done.append(1)
        in_threads(operator, client, client, client)
        wait_until(lambda: not sessions(d), "the end of all sessions")
        equal(len(pairs(d)) > 0, True, "clients came")


@test
def too_many(tmp):
    "clients that come and go all the time don't flood the monitors; an announced session's end is announced too"
    with serve(tmp) as d:
        until, n = time.monotonic() + 2.5, 0
        hello = struct.pack(">I", 3) + option(OPT_GO, info_data("disk0")) + request(DISC, 1)
        while time.monotonic() < until:
            w = Wire(d.nbd_path, flags=None, greet=False)
            w.send(hello)
            w.close()
            n += 1
        wait_until(lambda: not sessions(d), "the end of all sessions")
        comes = pairs(d)
        if len(comes) > 500 * 5 or n < len(comes):
            fail("%d events of %d clients" % (len(comes), n))


@test
def tidemark_sessions(tmp):
    "tidemark sessions prints a table, or JSON with --json"
    with serve(tmp) as d:
        w = Wire(d.nbd_path).go(contexts=["base:allocation"])
        w.do(WRITE, 0, data=b"x" * 512)
        text = tidemark("sessions", "--socket", d.qmp_path).stdout
        matches(text, r"ID +SERVER +PEER +IDENTITY +EXPORT +MODE")
        matches(text, r"1 +default +unix:pid=\d+,uid=\d+ +uid=\d+ +exp-disk0 +rw")
        found, = json.loads(tidemark("sessions", "--json", "--socket", d.qmp_path).stdout)
        equal((found["export"], found["bytes-written"]), ("exp-disk0", 512))


main()
