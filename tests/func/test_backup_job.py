#!/usr/bin/python3
# SPDX-FileCopyrightText: 2026 The Tidemark authors
# SPDX-License-Identifier: GPL-2.0-or-later
"""blockdev-backup under writers that never stop: the target is the source as it was at the instant, increments applied
to it follow, and nothing is left behind; kills and ends of the daemon in between; what QEMU 7.2 does not have."""
import os
import random
import sys
import threading

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from harness import *

MIB = 1 << 20
KIB = 1 << 10


def daemon(tmp, *more, size=16 * MIB, fresh=True, **options):
    for node in "ab":
        if fresh:
            image(os.path.join(tmp, node), size, [(at, b"%c" % (at // MIB + 1) * 300 * KIB) for at in
                                                  range(0, size, MIB)] if node == "a" else ())
    return Daemon(tmp, "--blockdev", "file,node-name=a,discard=unmap,filename=" + os.path.join(tmp, "a"),
                  "--blockdev", "file,node-name=b,filename=" + os.path.join(tmp, "b"),
                  "--export", "nbd,id=e,node-name=a,name=disk0,writable=on", *more, **options)


def content(tmp, name):
    with open(os.path.join(tmp, name), "rb") as f:
        return f.read()


def backup(d, sync="full", job="j", **more):
    d.qmp("blockdev-backup", dict({"device": "a", "target": "b", "sync": sync, "job-id": job},
                                  **{k.replace("_", "-"): v for k, v in more.items()}))


def concluded(d, job="j", event="BLOCK_JOB_COMPLETED"):
    data = d.monitor.wait_event(event, device=job)["data"]
    d.monitor.wait_event("JOB_STATUS_CHANGE", id=job, status="null")
    return data


def nodes(d):
    return sorted(n["node-name"] for n in d.qmp("query-named-block-nodes", flat=True))


class Writer:
    """Writes, zeroes and discards at random, and keeps what the disk has: a list of all that was done to it. One request
    at a time, so that the state at an instant is one of two."""

    def __init__(self, d, disk, seed):
        self.h, self.disk, self.random = d.nbd(), bytearray(disk), random.Random(seed)
        self.lock, self.stopped = threading.Lock(), threading.Event()
        self.thread = threading.Thread(target=self.run)
        self.thread.start()

    def run(self):
        r = self.random
        while not self.stopped.is_set():
            length = r.choice([512, 4 * KIB, 30000, 200 * KIB])
            offset = r.randrange(len(self.disk) - length)
            with self.lock:
                if r.randrange(4):
                    data = r.randbytes(length)
                    self.h.pwrite(data, offset)
                else:
                    data = bytes(length)
                    self.h.zero(length, offset)
                self.disk[offset:offset + length] = data
            time.sleep(0.0005)

    def at_rest(self, function):
        """What the disk has while function() is called; requests are sent again when it has returned."""
        with self.lock:
            function()
            return bytes(self.disk)

    def stop(self):
        self.stopped.set()
        self.thread.join()
        self.h.shutdown()


@test
def instants(tmp):
    "while others write: a full backup and increments into one target are the disk at each instant"
    with daemon(tmp) as d:
        before = nodes(d)
        writer = Writer(d, content(tmp, "a"), 1)
        for round_number in range(6):
            def begin():
                if round_number == 0:
                    d.qmp("transaction", actions=[
                        {"type": "block-dirty-bitmap-add", "data": {"node": "a", "name": "b0", "persistent": True}},
                        {"type": "blockdev-backup",
                         "data": {"device": "a", "target": "b", "sync": "full", "job-id": "j"}}])
                else:
                    backup(d, "incremental", bitmap="b0", x_perf={"max-workers": round_number})
            instant = writer.at_rest(begin)
            concluded(d)
            equal(content(tmp, "b") == instant, True, "round %d" % round_number)
            if round_number == 3:  # one that fails says all again
                backup(d, "incremental", bitmap="b0", speed=1)
                d.qmp("job-cancel", id="j")
                concluded(d, event="BLOCK_JOB_CANCELLED")
        writer.stop()
        equal(nodes(d), before)
        equal(d.qmp("query-block-jobs"), [])


@test
def always_says_what_was_not_copied(tmp):
    "bitmap-mode always, canceled in between: what the bitmap says next completes the target"
    with daemon(tmp) as d:
        d.qmp("block-dirty-bitmap-add", node="a", name="b0")
        writer = Writer(d, content(tmp, "a"), 2)
        backup(d, "full", bitmap="b0", bitmap_mode="always", speed=8 * MIB)
        wait_until(lambda: d.qmp("query-jobs")[0]["current-progress"] > 2 * MIB, "progress")
        d.qmp("job-cancel", id="j")
        concluded(d, event="BLOCK_JOB_CANCELLED")
        equal(16 * MIB > d.bitmap("a", "b0")["count"] > 0, True)
        instant = writer.at_rest(lambda: backup(d, "bitmap", bitmap="b0", bitmap_mode="on-success"))
        concluded(d)
        writer.stop()
        equal(content(tmp, "b") == instant, True)


@test
def kill(tmp):
    "kill -9 while a job runs, and while it waits to be finalized: the bitmap says all that it said, and what was written"
    for when in ("running", "pending", "concluded"):
        dirty_before = (3, 5, 9)
        d = daemon(tmp)
        d.qmp("block-dirty-bitmap-add", node="a", name="b0", persistent=True)
        h = d.nbd()
        for i in dirty_before:
            h.pwrite(b"x", i * 64 * KIB)
        backup(d, "incremental", bitmap="b0", speed=1 if when == "running" else 0, auto_finalize=False,
               auto_dismiss=False)
        if when != "running":
            d.monitor.wait_event("BLOCK_JOB_PENDING")
        h.pwrite(b"y", 20 * 64 * KIB)
        if when == "concluded":
            d.qmp("job-finalize", id="j")
        d.kill()
        with daemon(tmp, fresh=False) as d:
            h = d.nbd(contexts=[])
            d.qmp("block-export-dirty-bitmap", id="e", bitmaps=["b0"])
            g = d.nbd(contexts=["qemu:dirty-bitmap:b0"])
            expected = ([] if when == "concluded" else list(dirty_before)) + [20]
            equal([o // (64 * KIB) for o, n in dirty(g, "b0")], expected, when)
            equal(d.bitmap("a", "b0")["busy"], True)  # by the export
            g.shutdown()
            h.shutdown()
        for name in os.listdir(tmp):
            if name.startswith("a."):
                os.unlink(os.path.join(tmp, name))


@test
def end_of_the_daemon(tmp):
    "the daemon ends soon whatever its jobs do, and the bitmap stays whole"
    d = daemon(tmp)
    d.qmp("block-dirty-bitmap-add", node="a", name="b0", persistent=True)
    h = d.nbd()
    h.pwrite(b"x" * MIB, 3 * MIB)
    backup(d, "incremental", bitmap="b0", speed=1)
    d.qmp("blockdev-add", driver="null-co", node_name="n", size=16 * MIB)
    backup(d, "none", job="k", target="n")
    d.qmp("job-pause", id="k")
    h.shutdown()
    begun = time.monotonic()
    d.stop()
    equal(time.monotonic() - begun < 5 * PATIENCE / 30, True, "it took long")
    with daemon(tmp, fresh=False) as d:
        equal(d.bitmap("a", "b0")["count"], MIB)
        equal(d.bitmap("a", "b0")["busy"], False)


@test
def speed(tmp):
    "a job keeps its speed, and takes another one at once"
    with daemon(tmp, size=64 * MIB) as d:
        d.qmp("blockdev-add", driver="null-co", node_name="n", size=64 * MIB)
        begun = time.monotonic()
        backup(d, target="n", speed=20 * MIB)
        time.sleep(1)
        done = d.qmp("query-jobs")[0]["current-progress"]
        allowed = 20 * MIB * (time.monotonic() - begun + .2) + 8 * MIB
        equal(4 * MIB <= done <= allowed, True, "%d of %d bytes" % (done, allowed))
        d.qmp("block-job-set-speed", device="j", speed=0)
        concluded(d)
        equal(time.monotonic() - begun < 2 * PATIENCE / 30, True)


@test(needs=["qemu-img"])
def holes_in_an_overlay(tmp):
    "sync=none into an overlay of the source, which keeps what was a hole, too; also through a filter above the overlay"
    for through in ("over", "top"):
        with daemon(tmp, size=4 * MIB) as d:
            before, over = content(tmp, "a"), os.path.join(tmp, "over")
            run("qemu-img", "create", "-q", "-f", "qcow2", over, 4 * MIB)
            d.qmp("blockdev-add", {"driver": "qcow2", "node-name": "over", "backing": "a",
                                   "file": {"driver": "file", "filename": over}})
            if through == "top":
                d.qmp("blockdev-add", driver="raw", node_name="top", file="over")
            backup(d, "none", target=through)
            d.qmp("block-export-add", {"type": "nbd", "id": "x", "node-name": through, "name": "x"})
            h, x = d.nbd(), d.nbd("x")
            for at in (0, 400 * KIB, 3 * MIB - 5):
                h.pwrite(b"w" * 10, at)
            equal(x.pread(4 * MIB, 0) == before, True, through)
            x.shutdown()
            h.shutdown()
            d.unexport("x")
            d.qmp("job-cancel", id="j")
            concluded(d, event="BLOCK_JOB_CANCELLED")


@test
def nodes_in_use(tmp):
    "what a job has is not deleted, resized or given to another job"
    with daemon(tmp) as d:
        backup(d, speed=1, filter_node_name="f")
        equal("f" in nodes(d), True)
        raises(QMPError, d.qmp, "blockdev-del", node_name="b", match="Node 'b' is busy: block device is in use by block")
        raises(QMPError, d.qmp, "blockdev-del", node_name="f", match="Node 'f' is busy: block device is in use by block")
        raises(QMPError, d.qmp, "blockdev-del", node_name="a", match="in use")
        for node in "ab":
            raises(QMPError, d.qmp, "block_resize", node_name=node, size=MIB, match="resize|in use")
        d.qmp("block-job-cancel", device="j")
        concluded(d, event="BLOCK_JOB_CANCELLED")
        equal(nodes(d), ["a", "b"])
        d.qmp("blockdev-del", node_name="b")


@test
def ignored_errors_are_tried_again(tmp):
    "on-target-error=ignore: what fails for a while is copied in the end; a flush that fails fails the job"
    with daemon(tmp) as d:
        rules = [{"event": "none", "iotype": "write", "errno": 28, "once": True} for _ in range(3)]
        d.qmp("blockdev-add", {"driver": "blkdebug", "node-name": "bad", "image": "b", "inject-error": rules})
        backup(d, target="bad", on_target_error="ignore")
        concluded(d)
        equal(content(tmp, "a") == content(tmp, "b"), True)
        d.qmp("blockdev-del", node_name="bad")
        d.qmp("block-dirty-bitmap-add", node="a", name="b0")
        d.qmp("blockdev-add", {"driver": "blkdebug", "node-name": "bad", "image": "b",
                               "inject-error": [{"event": "none", "iotype": "flush", "errno": 5, "once": True}]})
        h = d.nbd()
        h.pwrite(b"z", 0)
        h.shutdown()
        backup(d, "incremental", job="k", target="bad", bitmap="b0")
        equal(concluded(d, "k")["error"], "Input/output error")
        equal(d.bitmap("a", "b0")["count"], 64 * KIB)


@test
def source_errors(tmp):
    "on-source-error: a read that fails stops the job, which then goes on"
    with daemon(tmp) as d:
        d.qmp("blockdev-add", {"driver": "blkdebug", "node-name": "bad", "image": "b", "inject-error": [
            {"event": "none", "iotype": "read", "errno": 5, "once": True}]})
        d.qmp("blockdev-add", driver="null-co", node_name="n", size=16 * MIB)
        image(os.path.join(tmp, "b"), 16 * MIB, [(0, b"b" * MIB)])
        backup(d, device="bad", target="n", on_source_error="stop")
        equal(d.monitor.wait_event("BLOCK_JOB_ERROR")["data"],
              {"device": "j", "operation": "read", "action": "stop"})
        wait_until(lambda: d.qmp("query-jobs")[0]["status"] == "paused", "the pause")
        equal(d.qmp("query-block-jobs")[0]["io-status"], "failed")
        d.qmp("job-resume", id="j")
        equal("error" in concluded(d), False)


@test
def grouped_bitmaps_of_two_disks(tmp):
    "grouped jobs on two disks: both bitmaps drop what was copied, or, when one job fails, neither does"
    size = 4 * MIB
    names = ("s0", "s1", "t0", "t1")
    args = []
    for name in names:
        args += ["--blockdev", "file,node-name=%s,filename=%s" % (name, image(os.path.join(tmp, name), size))]
    with Daemon(tmp, *args, "--export", "nbd,id=e0,node-name=s0,name=s0,writable=on",
                "--export", "nbd,id=e1,node-name=s1,name=s1,writable=on") as d:
        for i in "01":
            d.qmp("block-dirty-bitmap-add", node="s" + i, name="b", persistent=True)
            h = d.nbd("s" + i)
            h.pwrite(b"x" * MIB, MIB)
            h.shutdown()

        def run_both(target1):
            d.qmp("transaction", properties={"completion-mode": "grouped"}, actions=[
                {"type": "blockdev-backup", "data": {"job-id": "j" + i, "device": "s" + i, "target": t,
                                                     "sync": "incremental", "bitmap": "b"}}
                for i, t in (("0", "t0"), ("1", target1))])
            for i in "01":
                d.monitor.wait_event("JOB_STATUS_CHANGE", id="j" + i, status="null")
            return [d.bitmap("s" + i, "b")["count"] for i in "01"]
        d.qmp("blockdev-add", {"driver": "blkdebug", "node-name": "bad", "image": "t1", "inject-error": [
            {"event": "none", "iotype": "write", "errno": 28}]})
        equal(run_both("bad"), [MIB, MIB])
        d.qmp("blockdev-del", node_name="bad")
        equal(run_both("t1"), [0, 0])
        for i in "01":
            equal(content(tmp, "t" + i), content(tmp, "s" + i))


main()
