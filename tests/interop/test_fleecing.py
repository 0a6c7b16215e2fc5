#!/usr/bin/python3
# SPDX-FileCopyrightText: 2026 The Tidemark authors
# SPDX-License-Identifier: GPL-2.0-or-later
"""Disks at an instant, by hand, and backups that fail in parts: the same scripts are played to qemu-storage-daemon and to
tidemarkd, which give the same answers, events, bitmaps and images."""
import random

from harness import *
from stage import *
import nbd


def attempt(s, what, function, *args):
    """Notes whether a client's request works, or how it fails, but for the name of an error that NBD does not have, or not for
    this request."""
    try:
        result = function(*args)
    except nbd.Error as e:
        result = "EIO" if e.errno in ("EINVAL", "ENOTSUP") else e.errno
    s.note(what, result if isinstance(result, str) else bytes(result or b"")[:16])
    return result


def node(s, driver, name, **options):
    s("blockdev-add", dict({"driver": driver, "node-name": name}, **{k.replace("_", "-"): v for k, v in options.items()}))


REOPEN, DRIVE = WAYS = ["blockdev-reopen", "qom-set"]


def below(s):
    """What a filter is put over."""
    return "fa" if s.way == REOPEN else "a"


def use(s, child):
    """What is exported stands on @child now, or is it, which is how a filter is put in and taken out."""
    if s.way == REOPEN:
        s("blockdev-reopen", options=[{"driver": "raw", "node-name": "a", "file": child}])
    else:
        s("qom-set", path="/exports/e", property="drive", value=child)
        s.said[-1] = ("blockdev-reopen",) + s.said[-1][1:]


def scratch(s, rules=()):
    """A target t for what is overwritten."""
    node(s, "file", "ft", filename=image(s.path("t"), s.size))
    node(s, "blkdebug" if rules else "raw", "t", discard="unmap",
         **({"image": "ft", "inject-error": list(rules)} if rules else {"file": "ft"}))


def put_in(s, **options):
    node(s, "copy-before-write", "cbw", file=below(s), target="t", **options)
    use(s, "cbw")
    node(s, "snapshot-access", "snap", file="cbw", discard="unmap")
    s("block-export-add", {"type": "nbd", "id": "x", "node-name": "snap", "name": "snap", "writable": True})
    return s.d.nbd("snap", contexts=["base:allocation"])


def take_out(s, x):
    x.shutdown()
    s("block-export-del", id="x", mode="hard")
    s.d.monitor.wait_event("BLOCK_EXPORT_DELETED", id="x")
    s("blockdev-del", node_name="snap")
    use(s, below(s))
    for name in ("cbw", "t", "ft"):
        s("blockdev-del", node_name=name)
    s.note(sorted(n["node-name"] for n in s.d.qmp("query-named-block-nodes", flat=True)))
    with open(s.source, "rb") as f:
        s.note(hash(f.read()))


def everything(h, size):
    return b"".join(h.pread(min(M, size - at), at) for at in range(0, size, M))


@test(needs=NEEDS)
def by_hand(tmp):
    "copy-before-write put under an export in use: what snapshot-access shows stays, and is gone where it was discarded"
    def play(s):
        before = s.content()
        scratch(s)
        x = put_in(s)
        raises(QMPError, s.d.qmp, "blockdev-del", node_name="cbw", match="cbw is in use")  # by a node or an export
        s("blockdev-del", node_name="t")
        rnd = random.Random(4)
        for _ in range(40):
            s.h.pwrite(rnd.randbytes(3000), rnd.randrange(s.size - 3000))
        s.h.zero(200 * K, 900 * K)
        s.h.trim(CLUSTER, 3 * CLUSTER)
        s.note(everything(x, s.size) == before)
        s.note(extents(x, "base:allocation") != [])
        x.trim(3 * CLUSTER, CLUSTER)
        for at in (0, CLUSTER, 2 * CLUSTER + 100, 4 * CLUSTER - 1, 4 * CLUSTER):
            attempt(s, at, x.pread, 1, at)
        attempt(s, "over both", x.pread, CLUSTER, CLUSTER // 2)
        attempt(s, "written", x.pwrite, b"x" * 512, 0)
        attempt(s, "zeroed", x.zero, CLUSTER, 0)
        take_out(s, x)

    both(tmp, play, WAYS)


@test(needs=NEEDS)
def only_a_bitmap(tmp):
    "the option bitmap: what is clean in it is not of the snapshot, and is not copied"
    def play(s):
        s("block-dirty-bitmap-add", node=below(s), name="b0", granularity=32 * K)
        for at in (2 * CLUSTER, 5 * CLUSTER + 40 * K, 20 * CLUSTER - 1):
            s.h.pwrite(b"b" * 2, at)
        scratch(s)
        for bitmap in ({"node": below(s)}, {"node": below(s), "name": "no"}, {"node": "no", "name": "b0"}, "b0"):
            node(s, "copy-before-write", "cbw", file=below(s), target="t", bitmap=bitmap)
        x = put_in(s, bitmap={"node": below(s), "name": "b0"})
        s("block-dirty-bitmap-clear", node=below(s), name="b0")
        s("block-dirty-bitmap-remove", node=below(s), name="b0")
        s.h.pwrite(b"c" * s.size, 0)
        for cluster in range(0, s.size // CLUSTER, 1):
            attempt(s, cluster, x.pread, 8, cluster * CLUSTER + 32 * K - 4)
        with open(s.path("t"), "rb") as f:
            data = f.read()
        s.note([bool(any(data[i * CLUSTER:(i + 1) * CLUSTER])) for i in range(s.size // CLUSTER)])
        take_out(s, x)

    both(tmp, play, WAYS)


@test(needs=NEEDS)
def cbw_errors(tmp):
    "on-cbw-error: a copy that fails fails the write, or all later reads of the snapshot"
    def play(s):
        for errno in (5, 28):
            for action in ("break-guest-write", "break-snapshot"):
                scratch(s, [{"event": "none", "iotype": "write", "errno": errno, "once": True}])
                x = put_in(s, on_cbw_error=action)
                attempt(s, "before", x.pread, 1, 0)
                for _ in range(2):
                    attempt(s, action, s.h.pwrite, b"w" * 512, 512)
                    attempt(s, "what is copied, or was to be", x.pread, 16, 512)
                    attempt(s, "elsewhere", x.pread, 16, M)
                attempt(s, "the disk", s.h.pread, 8, 512)
                attempt(s, "zeroes", s.h.zero, CLUSTER, 2 * M)
                attempt(s, "discard", s.h.trim, CLUSTER, 3 * M)
                take_out(s, x)
                s.h.pwrite(b"r" * 512, 512)

    both(tmp, play, WAYS)


@test(needs=NEEDS)
def cbw_timeouts(tmp):
    "cbw-timeout: a copy that takes too long counts as failed"
    def play(s):
        for action in ("break-guest-write", "break-snapshot"):
            s("object-add", {"qom-type": "throttle-group", "id": "slow", "limits": {"bps-total": 40 * K}})
            node(s, "file", "ft", filename=image(s.path("t"), s.size))
            node(s, "throttle", "t", file="ft", throttle_group="slow")
            x = put_in(s, on_cbw_error=action, cbw_timeout=1)
            s.h.pwrite(b"1" * 512, 512)  # what the limit lets through at once
            begun = time.monotonic()
            attempt(s, action, s.h.pwrite, b"2" * 512, 2 * CLUSTER)
            attempt(s, "next", s.h.pwrite, b"2" * 512, 2 * M)
            s.note(0.9 < time.monotonic() - begun < 4)
            attempt(s, "elsewhere", x.pread, 16, 3 * M)
            s("qom-set", path="/objects/slow", property="limits", value={"bps-total": 0})
            time.sleep(0.3)
            attempt(s, "then", s.h.pwrite, b"3" * 512, 2 * CLUSTER)
            attempt(s, "the snapshot", x.pread, 16, 2 * CLUSTER)
            take_out(s, x)
            s("object-del", id="slow")

    both(tmp, play, WAYS)


@test(needs=NEEDS)
def pull_increments(tmp):
    "increments that a client pulls: sync=none into an overlay of the source, which is exported with the old bitmap"
    def play(s):
        copy = bytearray(s.content())
        rnd = random.Random(7)
        s("block-dirty-bitmap-add", node="a", name="c0")
        for i in range(3):
            for _ in range(10):
                s.h.pwrite(rnd.randbytes(5000), rnd.randrange(s.size - 5000))
            before, over = s.content(), s.path("over")
            run("qemu-img", "create", "-q", "-f", "qcow2", over, s.size)
            node(s, "qcow2", "over", file={"driver": "file", "filename": over}, backing="a")
            s("transaction", actions=[
                {"type": "block-dirty-bitmap-disable", "data": {"node": "a", "name": "c%d" % i}},
                {"type": "block-dirty-bitmap-add", "data": {"node": "a", "name": "c%d" % (i + 1)}},
                {"type": "blockdev-backup", "data": {"device": "a", "target": "over", "sync": "none", "job-id": "j"}}])
            s.until("running")
            s("block-export-add", {"type": "nbd", "id": "x", "node-name": "over", "name": "x", "bitmaps": ["c%d" % i]})
            for _ in range(10):
                s.h.pwrite(rnd.randbytes(5000), rnd.randrange(s.size - 5000))
            x = s.d.nbd("x", ["qemu:dirty-bitmap:c%d" % i])
            ranges = dirty(x, "c%d" % i)
            s.note(ranges, everything(x, s.size) == before)
            for at, n in ranges:
                copy[at:at + n] = x.pread(n, at)
            s.note(copy == before)
            x.shutdown()
            s("block-export-del", id="x", mode="hard")
            s.d.monitor.wait_event("BLOCK_EXPORT_DELETED", id="x")
            s("job-cancel", id="j")
            events(s)
            s("blockdev-del", node_name="over")
            s("block-dirty-bitmap-remove", node="a", name="c%d" % i)
            s.bitmap("c%d" % (i + 1))

    both(tmp, play)


@test(needs=NEEDS)
def two_at_once(tmp):
    "two backups of one source, begun one after the other and together, each with its bitmap"
    def play(s):
        node(s, "file", "d", filename=image(s.path("d"), s.size))
        for together in (False, True):
            s.note(together)
            for name in ("b0", "b1"):
                s("block-dirty-bitmap-add", node="a", name=name)
                s.h.pwrite(name.encode() * CLUSTER, 8 * CLUSTER)
            before = s.content()
            jobs = [{"device": "a", "target": target, "sync": "full", "bitmap": bitmap, "bitmap-mode": "on-success",
                     "job-id": job, "speed": 1} for target, bitmap, job in (("b", "b0", "j"), ("d", "b1", "k"))]
            if together:
                s("transaction", actions=[{"type": "blockdev-backup", "data": job} for job in jobs])
            else:
                for job in jobs:
                    s("blockdev-backup", job)
            s.h.pwrite(b"later" * 1000, M)
            for job in "jk":  # QSD 7.2 crashes if both end together
                s("block-job-set-speed", device=job, speed=0)
                s.until("null", job)
            s.d.monitor.events.clear()
            for path in (s.target, s.path("d")):
                with open(path, "rb") as f:
                    s.note(f.read() == before)
            for name in ("b0", "b1"):
                s.bitmap(name)
                s("block-dirty-bitmap-remove", node="a", name=name)

    both(tmp, play)


@test(needs=NEEDS)
def one_of_a_group_fails(tmp):
    "grouped jobs, one of whose targets fails: both fail, and both bitmaps say what they said"
    def play(s):
        node(s, "file", "d", filename=image(s.path("d"), s.size))
        for errno, policy in ((5, "report"), (28, "report"), (5, "enospc")):
            node(s, "blkdebug", "bad", image="d", inject_error=[{"event": "none", "iotype": "write", "errno": errno}])
            for name in ("b0", "b1"):
                s("block-dirty-bitmap-add", node="a", name=name)
            s.h.pwrite(b"b" * 3 * CLUSTER, 5 * CLUSTER)
            s("transaction", properties={"completion-mode": "grouped"}, actions=[
                {"type": "blockdev-backup", "data": {
                    "device": "a", "target": target, "sync": "incremental", "bitmap": bitmap, "job-id": job,
                    "on-target-error": policy}} for target, bitmap, job in (("b", "b0", "j"), ("bad", "b1", "k"))])
            seen = []
            while sum(e[0] == "null" for e in seen) < 2:
                event = s.d.monitor.events.pop(0) if s.d.monitor.events else s.d.monitor.read()
                data = event["data"]
                if data.get("status") == "null" or event["event"].startswith("BLOCK_JOB"):
                    data.pop("offset", None)
                    seen.append((data.pop("status", event["event"]), sorted(data.items())))
            s.note(sorted(seen))
            for name in ("b0", "b1"):
                s.bitmap(name)
                s("block-dirty-bitmap-remove", node="a", name=name)
            s("blockdev-del", node_name="bad")

    both(tmp, play)


@test(needs=NEEDS)
def source_errors(tmp):
    "on-source-error: reported, ignored, stopped for; once, and for ever until the job is canceled"
    def play(s):
        node(s, "file", "d", filename=fill(s.path("d"), s.size // 2, 2))
        for errno in (5, 28):
            for policy in ("report", "ignore", "stop", "enospc", "auto"):
                for once in (True, False):
                    if not once and policy == "ignore":
                        continue
                    node(s, "blkdebug", "bad", image="d", inject_error=[
                        {"event": "none", "iotype": "read", "errno": errno, "once": once}])
                    node(s, "null-co", "n", size=s.size // 2)
                    s("block-dirty-bitmap-add", node="bad", name="b0", granularity=CLUSTER)
                    s("blockdev-backup", {"device": "bad", "target": "n", "sync": "full", "job-id": "j", "bitmap": "b0",
                                          "bitmap-mode": "on-success", "on-source-error": policy})
                    action = s.d.monitor.wait_event("BLOCK_JOB_ERROR")["data"]
                    s.note(action)
                    if action["action"] == "stop":
                        wait_until(lambda: s.d.qmp("query-jobs")[0]["status"] == "paused", "the pause")
                        s.jobs(progress=False)
                        s("block-job-resume" if once else "job-cancel", **({"device": "j"} if once else {"id": "j"}))
                    s.until("null")
                    for event in s.d.monitor.events:
                        if event["event"] in ("BLOCK_JOB_COMPLETED", "BLOCK_JOB_CANCELLED"):
                            event["data"].pop("offset", None) if not once else None
                            s.note(event["event"], event["data"] if "error" not in event["data"] else event["data"]["error"])
                    s.d.monitor.events.clear()
                    s.note(s.d.bitmap("bad", "b0")["count"])
                    for name in ("bad", "n"):
                        s("blockdev-del", node_name=name)

    both(tmp, play)


main()
