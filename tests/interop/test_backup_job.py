#!/usr/bin/python3
# SPDX-FileCopyrightText: 2026 The Tidemark authors
# SPDX-License-Identifier: GPL-2.0-or-later
"""blockdev-backup: the same scripts are played to qemu-storage-daemon and to tidemarkd, which give the same answers,
events, bitmaps and images."""
import random

from harness import *
from stage import *


@test(needs=NEEDS)
def refusals(tmp):
    "what blockdev-backup refuses, and in which words"
    perf = [{"max-workers": n} for n in (0, -1, 1 << 40)] + [{"max-chunk": n} for n in (-1, 512, 4096)]
    cases = [{"job-id": "1 x"}, {"job-id": ""}, {"target": "c"}, {"speed": -1}, {"speed": "x"}, {"sync": "x"},
             {"sync": "incremental"}, {"sync": "bitmap"}, {"sync": "incremental", "bitmap": "no"},
             {"sync": "bitmap", "bitmap": "no", "bitmap-mode": "never"}, {"sync": "bitmap", "bitmap": "b0"},
             {"sync": "incremental", "bitmap": "b0", "bitmap-mode": "always"}, {"bitmap": "b0"},
             {"sync": "incremental", "bitmap": "b0", "bitmap-mode": "never"},
             {"bitmap": "b0", "bitmap-mode": "never"}, {"sync": "top", "bitmap": "b0", "bitmap-mode": "never"},
             {"sync": "none", "bitmap": "b0", "bitmap-mode": "always"}, {"bitmap-mode": "never"},
             {"compress": True}, {"filter-node-name": "1 x"}, {"filter-node-name": "b"}, {"on-source-error": "x"},
             {"sync": "full", "bitmap": ""}, {"target": "a"}, {"target": "fa"}, {"target": "zz"}, {"device": "zz"},
             {"device": "b", "target": "fb"}, *({"x-perf": p} for p in perf)]

    def play(s):
        s("block-dirty-bitmap-add", node="a", name="b0")
        for case in cases:
            s.backup(**case)
            s.bitmap()
        s("blockdev-backup", device="a", target="b", sync="full")
        s.backup(speed=1)
        s.backup(target="c")
        s("blockdev-backup", {"device": "a", "target": "b", "sync": "full", "job-id": "k"})
        s("blockdev-backup", {"device": "b", "target": "c", "sync": "full", "job-id": "k"})
        s("blockdev-del", node_name="b")
        s("job-cancel", id="j")
        s.until("null")

    both(tmp, play)


@test(needs=NEEDS)
def lives(tmp):
    "the job's life: pause, speed, complete, finalize, dismiss, cancel, with the answers of query-block-jobs"
    def play(s):
        before = s.content()
        s.backup(speed=1 * K)
        for verb in ("complete", "finalize", "dismiss", "resume"):
            s("job-" + verb, id="j")
        s("block-job-pause", device="j")
        wait_until(lambda: s.d.qmp("query-jobs")[0]["status"] == "paused", "the pause")
        s.jobs(progress=False)
        s("block-job-cancel", device="j")
        s("block-job-set-speed", device="j", speed=-2)
        s("block-job-set-speed", device="j", speed=0)
        s("block-job-resume", device="j")
        events(s)
        s.same(before)
        for more in ({"auto-dismiss": False}, {"auto-finalize": False}, {"auto-finalize": False, "auto-dismiss": False}):
            s.backup(**more)
            s.until("pending")
            if "auto-finalize" in more:
                s.jobs()
                s("job-pause", id="j")
                s("block-job-finalize", id="j")
            events(s, "concluded")
            s.jobs()
            s("query-jobs")
            s("block-job-dismiss", id="j")
        for more in ({}, {"auto-dismiss": False}):
            for force in (False, True):
                s.backup(sync="none", **more)
                s.until("running")
                s("block-job-cancel", device="j", force=force)
                events(s, "concluded")
                s.jobs(progress=False)
                s("job-dismiss", id="j")
                s.d.monitor.events.clear()
        for command in ("cancel", "pause", "resume", "complete"):
            s("block-job-" + command, device="j")

    both(tmp, play)


def written_before_and_during(s):
    """Granules that a job copies one by one."""
    for i in range(2, 32, 3):
        s.h.pwrite(b"1" * CLUSTER, i * CLUSTER)
    s.bitmap()


def write_more(s):
    s.h.pwrite(b"2" * CLUSTER, 29 * CLUSTER)
    s.h.pwrite(b"2" * CLUSTER, 40 * CLUSTER)


@test(needs=NEEDS)
def bitmap_modes(tmp):
    "what becomes of the bitmap: each mode, with success, cancel and failure, and writes in between"
    combinations = [("incremental", None)] + [("bitmap", m) for m in ("on-success", "never", "always")] + [
        (sync, m) for sync in ("full", "top") for m in ("on-success", "always")]

    def one(s, sync, mode, end, disabled):
        more = {"bitmap-mode": mode} if mode else {}
        s("block-dirty-bitmap-add", node="a", name="b0")
        written_before_and_during(s)
        if disabled:
            s("block-dirty-bitmap-disable", node="a", name="b0")
        s.d.monitor.events.clear()
        s.backup(sync=sync, bitmap="b0", speed=1, **more)
        s.until("running")
        s("block-job-pause", device="j")
        wait_until(lambda: s.d.qmp("query-jobs")[0]["status"] == "paused", "the pause")
        s.bitmap()
        s("block-dirty-bitmap-clear", node="a", name="b0")
        s("block-dirty-bitmap-remove", node="a", name="b0")
        write_more(s)
        s.bitmap()
        if end == "cancel":
            s("block-job-cancel", device="j", force=True)
        else:
            s("block-job-set-speed", device="j", speed=0)
            s("block-job-resume", device="j")
        events(s)
        return s.d.bitmap("a", "b0")["count"]

    def play(s):
        for sync, mode in combinations:
            for end in ("success", "cancel"):
                for disabled in (False, True):
                    count = one(s, sync, mode, end, disabled)
                    # How much a canceled one has copied, and so still says with "always", is nobody's promise.
                    s.note(sync, mode, end, disabled, mode == "always" and end == "cancel" or count)
                    s("block-dirty-bitmap-remove", node="a", name="b0")

    both(tmp, play)


@test(needs=NEEDS)
def chain(tmp):
    "a full backup and two increments into one target, with writes between and during: the target is the source"
    def play(s):
        s("transaction", actions=[
            {"type": "block-dirty-bitmap-add", "data": {"node": "a", "name": "b0"}},
            {"type": "blockdev-backup", "data": {"device": "a", "target": "b", "sync": "full", "job-id": "j"}}])
        events(s)
        s.same()
        rnd = random.Random(3)
        for _ in range(2):
            for _ in range(20):
                s.h.pwrite(rnd.randbytes(5000), rnd.randrange(s.size - 5000))
            before = s.content()
            s.backup(sync="incremental", bitmap="b0", speed=1)
            s.h.pwrite(b"x" * 3 * CLUSTER, 10 * CLUSTER)
            s("block-job-set-speed", device="j", speed=0)
            events(s)
            s.bitmap()
            s.same(before)

    both(tmp, play)


@test(needs=NEEDS)
def grouped(tmp):
    "transactions: nothing is left of one that fails; grouped jobs wait for each other, and fail together"
    def backup(job, **more):
        return {"type": "blockdev-backup", "data": dict(
            {"device": "a", "target": "b", "sync": "full", "job-id": job}, **more)}

    def bitmap(action, **more):
        return {"type": "block-dirty-bitmap-" + action, "data": dict({"node": "a", "name": "b0"}, **more)}

    def play(s):
        together = {"completion-mode": "grouped"}
        s("block-dirty-bitmap-add", node="a", name="b0")
        s("blockdev-add", {"driver": "null-co", "node-name": "n", "size": s.size, "read-zeroes": True})
        written_before_and_during(s)
        inc = {"sync": "incremental", "bitmap": "b0"}
        for actions, properties in (
                ([backup("j"), {"type": "abort", "data": {}}], {}),
                ([backup("j", **inc), bitmap("clear")], {}),
                ([bitmap("add", name="b1"), backup("j", target="c")], {}),
                ([backup("j", **inc), backup("k", target="n"), backup("j", target="n")], {}),
                ([backup("j", **inc), backup("k", target="n", **inc)], {}),
                ([backup("j"), bitmap("clear")], together)):
            s("transaction", actions=actions, properties=properties)
            s.bitmap()
            s("query-jobs")
        s.note(s.d.bitmap("a", "b1"))
        s.d.monitor.events.clear()
        # The second one ends first, and waits.
        s("transaction", actions=[backup("j", speed=1, **inc), backup("k", target="n")], properties=together)
        s.until("waiting", "k")
        s("job-cancel", id="j")
        events(s, count=2)
        s.bitmap()
        s("transaction", actions=[backup("j", speed=1, **inc), backup("k", target="n")], properties=together)
        s.until("waiting", "k")
        s("block-job-set-speed", device="j", speed=0)
        events(s, count=2)
        s.bitmap()
        s("transaction", actions=[backup("j", **{"auto-finalize": False}), backup("k", target="n")],
          properties=together)
        s.d.monitor.wait_event("BLOCK_JOB_PENDING", id="j")
        s("job-finalize", id="k")
        s("query-jobs")
        # Not grouped: each for itself, and the bitmap is cleared at the same instant.
        s.d.monitor.events.clear()
        s.h.pwrite(b"3", 0)
        s("transaction", actions=[bitmap("clear"), backup("j", **inc)])
        events(s)
        s.bitmap()

    both(tmp, play)


@test(needs=NEEDS)
def errors(tmp):
    "errors of the target and of the source: reported, ignored, stopped for, with events and io-status"
    def rules(s, name, child, *inject):
        s("blockdev-add", {"driver": "blkdebug", "node-name": name, "image": child, "inject-error": [
            dict({"event": "none", "once": True}, **i) for i in inject]})

    def one(s, **more):
        s("block-dirty-bitmap-add", node="a", name="b0")
        s.h.pwrite(b"1" * CLUSTER, 8 * CLUSTER)
        s.backup(sync="bitmap", bitmap="b0", **{"bitmap-mode": "on-success"}, **more)
        action = s.d.monitor.wait_event("BLOCK_JOB_ERROR")["data"]
        s.note(action)
        if action["action"] == "stop":
            wait_until(lambda: s.d.qmp("query-jobs")[0]["status"] == "paused", "the pause")
            s.jobs(progress=False)
            s("job-resume", id="j")
        events(s)
        s.bitmap()
        s("block-dirty-bitmap-remove", node="a", name="b0")

    def play(s):
        for errno in (5, 28):
            for policy in ("report", "ignore", "stop", "enospc", "auto"):
                rules(s, "bad", "b", {"iotype": "write", "errno": errno})
                one(s, target="bad", **{"on-target-error": policy})
                s("blockdev-del", node_name="bad")
        s.note(s.d.qmp("query-block-jobs"))

    both(tmp, play)


@test(needs=NEEDS)
def sync_top(tmp):
    "sync=top copies what the overlay has, and compressed targets read the same"
    def play(s):
        base, top = image(s.path("base"), s.size, [(0, b"b" * s.size)]), s.path("top")
        run("qemu-img", "create", "-q", "-f", "qcow2", "-b", base, "-F", "raw", top)
        run("qemu-io", "-c", "write -q -P 1 64k 200k", "-c", "write -q -P 2 3M 1k", "-c", "write -q -z 1M 128k", top)
        s("blockdev-add", {"driver": "qcow2", "node-name": "top", "file": {"driver": "file", "filename": top},
                           "backing": {"driver": "raw", "file": {"driver": "file", "filename": base}}})
        for sync in ("top", "full"):
            s.backup(device="top", target="b", sync=sync)
            events(s)
            with open(s.target, "rb") as f:
                data = f.read()
            s.note([data[i * CLUSTER:(i + 1) * CLUSTER].count(data[i * CLUSTER:][:1]) for i in range(s.size // CLUSTER)])
            s.note([data[i * CLUSTER] for i in range(s.size // CLUSTER)] if sync == "full" else None)
        target = s.path("z.qcow2")
        run("qemu-img", "create", "-q", "-f", "qcow2", target, s.size)
        s("blockdev-add", {"driver": "qcow2", "node-name": "z", "file": {"driver": "file", "filename": target}})
        s.backup(device="top", target="z", compress=True)
        events(s)
        s("blockdev-del", node_name="z")
        s.note(run("qemu-img", "compare", "-f", "raw", s.target, "-F", "qcow2", target).stdout)
        info = json.loads(run("qemu-img", "check", "--output=json", target).stdout)
        s.note(info["compressed-clusters"], info.get("corruptions"), info.get("leaks"))

    both(tmp, play)


main()
