#!/usr/bin/python3
# SPDX-FileCopyrightText: 2026 The Tidemark authors
# SPDX-License-Identifier: GPL-2.0-or-later
"""Throttle groups: real requests keep to the limits, share them, are let go by drains and ends.

Machines are slow at times, so what is checked is that no more was done than the limits allow in the time
that passed, and that it was not far less where the time is long enough to tell.
"""
import os
import sys
import threading
import time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from harness import *  # noqa: E402,F403

KIB, MIB = 1 << 10, 1 << 20


def group(d, name="g", **limits):
    d.qmp("object-add", {"qom-type": "throttle-group", "id": name,
                         "limits": {k.replace("_", "-"): v for k, v in limits.items()}})


def limit(d, name="g", **limits):
    d.qmp("qom-set", path="/objects/" + name, property="limits",
          value={k.replace("_", "-"): v for k, v in limits.items()})


def throttled(d, tmp, name="t", of="g", above=None, **more):
    """An export NAME of a throttle node on a file, or of a node on that."""
    path = image(os.path.join(tmp, name + ".img"), 4 * MIB)
    below = {"driver": "throttle", "throttle-group": of, "node-name": name, "discard": "unmap",
             "file": {"driver": "file", "filename": path, "discard": "unmap"}, **more}
    d.qmp("blockdev-add", dict(above, file=below) if above else below)
    d.qmp("block-export-add", {"type": "nbd", "id": "e-" + name, "name": name, "writable": True,
                               "node-name": above["node-name"] if above else name})
    return d.nbd(name)


def several(h, n, call):
    """Issues call(i) of libnbd's asynchronous calls for i < n and waits for all."""
    cookies = [call(i) for i in range(n)]
    for c in cookies:
        while not h.aio_command_completed(c):
            h.poll(-1)


class Load:
    """Asks for so many requests at once, in a thread; .done counts those that were answered. Each is
    @step bytes further than the one before."""

    def __init__(self, h, write=False, depth=8, size=4096, step=0):
        import nbd
        self.h, self.done, self.ending, self.issued = h, 0, False, 0
        buffer = nbd.Buffer(size)

        def issue():
            offset = self.issued * step
            self.issued += 1
            return h.aio_pwrite(bytes(size), offset) if write else h.aio_pread(buffer, offset)

        self.issue, self.depth = issue, depth
        self.thread = threading.Thread(target=self.run, daemon=True)
        self.thread.start()

    def run(self):
        waiting = []
        while not self.ending or waiting:
            while not self.ending and len(waiting) < self.depth:
                waiting.append(self.issue())
            self.h.poll(50)
            gone = [c for c in waiting if self.h.aio_command_completed(c)]
            waiting = [c for c in waiting if c not in gone]
            self.done += len(gone)

    def end(self):
        self.ending = True
        self.thread.join(PATIENCE)
        equal(self.thread.is_alive(), False, "the load ends")


@test
def rates(tmp):
    "iops and bps limits hold for reads, writes, zeroing and discards; flushes are free"
    with Daemon(tmp) as d:
        group(d, iops_total=40)
        h = throttled(d, tmp)
        import nbd
        buffers = [nbd.Buffer(4096) for _ in range(60)]
        for call in (lambda i: h.aio_pread(buffers[i], 0), lambda i: h.aio_pwrite(bytes(4096), 0),
                     lambda i: h.aio_zero(4096, 0), lambda i: h.aio_trim(4096, 0)):
            limit(d, iops_total=40)  # empties the buckets
            began = time.monotonic()
            several(h, 24, call)
            took = time.monotonic() - began
            equal(took >= 0.45, True, "19 more than the burst of 4 and one, at 40 a second: %s" % took)
        several(h, 200, lambda i: h.aio_flush())
        limit(d, iops_total=0, bps_read=100 * KIB)
        began = time.monotonic()
        several(h, 4, lambda i: h.aio_pwrite(bytes(64 * KIB), 0))
        big = [nbd.Buffer(32 * KIB) for _ in range(4)]
        several(h, 4, lambda i: h.aio_pread(big[i], 0))
        took = time.monotonic() - began
        equal(took >= 0.5, True, "three times 32 KiB, less the burst of 10 KiB, at 100 KiB/s: %s" % took)
        h.shutdown()


@test
def bursts(tmp):
    "with a burst so many requests pass at once, no more; iops-size counts large ones as several"
    with Daemon(tmp) as d:
        group(d, iops_total=1, iops_total_max=50, iops_total_max_length=1)
        h = throttled(d, tmp)
        load = Load(h, depth=16)
        wait_until(lambda: load.done >= 50, "the burst")
        time.sleep(0.3)
        equal(load.done <= 60, True, "the burst is over: %d" % load.done)
        limit(d, iops_total=1000, iops_total_max=0, iops_size=4096)
        load.end()
        limit(d, iops_total=100, iops_size=4096)
        began = time.monotonic()
        several(h, 2, lambda i: h.aio_pwrite(bytes(256 * KIB), 0))
        took = time.monotonic() - began
        equal(took >= 0.4, True, "64 of them, less the burst of 10: %s" % took)
        h.shutdown()


@test
def fairness(tmp):
    "the members of a group take turns, however much one of them asks for"
    with Daemon(tmp) as d:
        group(d, iops_total=60)
        loads = [Load(throttled(d, tmp, "t%d" % i), write=i == 1, depth=depth)
                 for i, depth in enumerate((1, 32, 32))]
        time.sleep(2)
        done = [load.done for load in loads]
        limit(d, iops_total=0)
        for load in loads:
            load.end()
            load.h.shutdown()
        equal(sum(done) <= 60 * 3 + 20, True, done)
        # Reads and writes wait apart; of the two that read, neither gets much more.
        equal(done[0] * 3 >= done[2], True, done)


@test
def bitmaps_and_status(tmp):
    "a throttle is a filter: it shows block status, and is marked, as what is below"
    with Daemon(tmp) as d:
        group(d, iops_write=100)
        h = throttled(d, tmp)
        d.qmp("block-dirty-bitmap-add", node="t", name="b", granularity=64 * KIB)
        h.pwrite(b"x" * 4096, 128 * KIB)
        equal(d.bitmap("t", "b")["count"], 64 * KIB)
        h.shutdown()
        h = d.nbd("t", contexts=["base:allocation"])
        equal([e[:2] for e in extents(h, "base:allocation") if not e[2]], [(128 * KIB, 4096)])
        h.shutdown()
        d.unexport("e-t")
        d.qmp("block_resize", node_name="t", size=8 * MIB)
        equal(d.bitmap("t", "b")["count"], 64 * KIB + 4 * MIB)


@test
def drains(tmp):
    "bitmaps, resizing and reopening do not wait for the limits, on a throttle and below a format"
    for above in (None, {"driver": "qcow2", "node-name": "q"}):
        with Daemon(tmp, name="r" if above else "q") as d:
            group(d, iops_total=1000)
            group(d, "other", iops_total=0)
            name = "u" if above else "t"
            if above:
                path = os.path.join(tmp, "x.qcow2")
                tidemark("image", "create", "-f", "qcow2", path, "1T")
                d.qmp("blockdev-add", {"driver": "file", "node-name": "f", "filename": path})
                d.qmp("blockdev-add", {"driver": "throttle", "node-name": name, "file": "f",
                                       "throttle-group": "g"})
                d.qmp("blockdev-add", dict(above, file=name))
                d.qmp("block-export-add", {"type": "nbd", "id": "e", "name": name, "writable": True,
                                           "node-name": "q"})
                h = d.nbd(name)
            else:
                h = throttled(d, tmp, name)
            top = "q" if above else name
            # In an image each one takes new clusters, and waits for the limits on a worker.
            load = Load(h, write=True, size=4 * KIB, step=64 * KIB if above else 0)
            wait_until(lambda: load.done > 8, "requests")
            limit(d, iops_total=1)
            time.sleep(0.2)
            began = time.monotonic()
            for i in range(4):
                d.qmp("block-dirty-bitmap-add", node=top, name="b%d" % i)
            took = time.monotonic() - began
            equal(took < 5, True, "bitmaps began: %s" % took)
            below = next(n["node-name"] for n in d.qmp("query-named-block-nodes")
                         if n["drv"] == "file")
            d.qmp("blockdev-reopen", options=[{"driver": "throttle", "node-name": name,
                                               "file": below, "throttle-group": "other",
                                               "discard": "unmap"}])
            before = load.done
            wait_until(lambda: load.done > before + 50, "the other group's rate")
            load.end()
            raises(QMPError, d.qmp, "object-del", id="other", match="is in use")
            d.qmp("object-del", id="g")
            h.shutdown()


@test
def filters_go_in(tmp):
    "a backup begins, and puts its filter in, without waiting for the limits"
    with Daemon(tmp) as d:
        group(d, iops_total=1000)
        h = throttled(d, tmp)
        d.qmp("blockdev-add", {"driver": "null-co", "node-name": "target", "size": 4 * MIB})
        load = Load(h, write=True, depth=16)
        wait_until(lambda: load.done > 8, "requests")
        limit(d, iops_total=1)
        time.sleep(0.2)
        began = time.monotonic()
        d.qmp("blockdev-backup", {"job-id": "j", "device": "t", "target": "target", "sync": "full"})
        equal(time.monotonic() - began < 5, True, "the backup began")
        limit(d, iops_total=0)
        d.monitor.wait_event("BLOCK_JOB_COMPLETED", device="j")
        load.end()
        h.shutdown()


@test
def ends(tmp):
    "neither a session that is cut off nor the end of the daemon waits for the limits"
    d = Daemon(tmp)
    group(d, iops_total=1)
    h = throttled(d, tmp)
    for i in range(40):
        h.aio_pwrite(bytes(4096), 0)
    h2 = d.nbd("t")
    wait_until(lambda: len(d.qmp("query-nbd-sessions")) == 2, "both")
    session = min(s["id"] for s in d.qmp("query-nbd-sessions"))
    d.qmp("nbd-session-disconnect", id=session)
    wait_until(lambda: len(d.qmp("query-nbd-sessions")) == 1, "the session to be gone")
    for i in range(40):
        h2.aio_pwrite(bytes(4096), 0)
    began = time.monotonic()
    d.stop()
    equal(time.monotonic() - began < 15, True, "the daemon ends")


@test
def refusals(tmp):
    "groups that do not exist are refused, on reopening too; what uses a group keeps it"
    with Daemon(tmp) as d:
        add = lambda **o: d.qmp("blockdev-add", dict(
            {"driver": "throttle", "node-name": "t", "file": {"driver": "null-co", "node-name": "n"}}, **o))
        raises(QMPError, add, match="'throttle-group' is missing")
        raises(QMPError, add, **{"throttle-group": "g"}, match="Throttle group 'g' does not exist")
        d.qmp("object-add", {"qom-type": "iothread", "id": "io"})
        raises(QMPError, add, **{"throttle-group": "io"}, match="is not a throttle group")
        group(d)
        add(**{"throttle-group": "g"})
        raises(QMPError, d.qmp, "blockdev-reopen", options=[
            {"driver": "throttle", "node-name": "t", "file": "n", "throttle-group": "nope"}],
            match="Throttle group 'nope' does not exist")
        raises(QMPError, d.qmp, "object-del", id="g", match="'g' is in use")
        d.qmp("blockdev-del", node_name="t")
        d.qmp("object-del", id="g")


@test
def on_the_command_line(tmp):
    "--object throttle-group and --blockdev driver=throttle"
    path = image(os.path.join(tmp, "f.img"), MIB)
    with Daemon(tmp, "--object", "throttle-group,id=g,limits.iops-total=100,limits.iops-total-max=2000",
                "--blockdev", "driver=file,node-name=f,filename=" + path,
                "--blockdev", "driver=throttle,node-name=disk0,file=f,throttle-group=g",
                "--export", "type=nbd,id=e,node-name=disk0,name=disk0") as d:
        equal(bytes(d.nbd().pread(512, 0)), bytes(512))
        equal(d.qmp("qom-get", path="g", property="limits")["iops-total-max"], 2000)


@test
def times_are_those_that_passed(tmp):
    "a request that waited at a throttle node is counted with the time that it took, once"
    with Daemon(tmp, "--object", "throttle-group,id=g,limits.iops-total=100", *disk(tmp, "disk0", MIB),
                "--blockdev", "throttle,node-name=t,file=disk0,throttle-group=g",
                "--export", "nbd,id=t,node-name=t,name=t") as d:
        h, begun = d.nbd("t"), time.monotonic()
        for i in range(50):
            h.pread(4096, i * 4096)
        passed = (time.monotonic() - begun) * 1e9
        h.shutdown()
        info = [i for i in d.qmp("query-blockstats") if i["device"] == "t"][0]
        equal([0 < i["stats"]["rd_total_time_ns"] <= passed for i in (info, info["parent"])], [True, True])


main()
