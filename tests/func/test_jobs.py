#!/usr/bin/python3
# SPDX-FileCopyrightText: 2026 The Tidemark authors
# SPDX-License-Identifier: GPL-2.0-or-later
"""Jobs and blockdev-create: lives and answers as qemu-storage-daemon's, and what only jobs that take long show."""
import fcntl
import os
import struct
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from harness import *

MIB = 1 << 20


def answer(d, command, **arguments):
    try:
        return d.qmp(command, **arguments)
    except QMPError as e:
        return e.cls, e.bare


def create(d, job="j", **options):
    return answer(d, "blockdev-create", job_id=job, options={k.replace("_", "-"): v for k, v in options.items()})


def life(d, job="j"):
    "The statuses that were reported, up to the one that stays."
    seen = []
    while not seen or seen[-1] not in ("concluded", "null"):
        seen.append(d.monitor.wait_event("JOB_STATUS_CHANGE", id=job)["data"]["status"])
    return seen


def outcome(d, **options):
    "All there is to see of a job that makes an image."
    started = create(d, **options)
    if started:
        return started
    statuses = life(d)
    (info,) = d.qmp("query-jobs")
    if "error" not in info:
        equal(info["current-progress"], info["total-progress"])
    gone = answer(d, "job-dismiss", id="j"), life(d), d.qmp("query-jobs")
    return statuses, info["status"], info["type"], info.get("error"), gone


@test(needs=["qemu-storage-daemon"])
def as_qemu(tmp):
    "blockdev-create's job lives, fails and ends as QEMU's, for all values of its options"
    q = {"driver": "qcow2", "file": "f", "size": MIB}
    v2 = dict(q, version="v2")
    cases = [
        q, {}, {"driver": "file", "size": MIB}, {"driver": "qcow2", "file": "f"}, {"driver": "qcow2", "size": MIB},
        dict(q, size=1000), dict(q, size="x"), dict(q, size=0), dict(q, foo=1),
        dict(q, size=1 << 55), dict(q, size=1 << 40, cluster_size=512),
        *(dict(q, cluster_size=n) for n in (1000, 256, 4 * MIB, 512, 2 * MIB)), dict(q, version="v4"), v2,
        dict(v2, lazy_refcounts=True), dict(v2, refcount_bits=8), *(dict(q, refcount_bits=n) for n in (3, 128, 0, 1, 64)),
        dict(v2, extended_l2=True), dict(q, cluster_size=8192, extended_l2=True), dict(q, extended_l2=True),
        dict(v2, data_file="d"), dict(q, data_file_raw=True), dict(q, data_file="d", data_file_raw=True),
        dict(q, data_file="d", data_file_raw=True, backing_file="x", backing_fmt="raw"), dict(q, data_file="no"),
        dict(q, backing_fmt="raw"), dict(q, backing_file="x", preallocation="metadata"), dict(q, backing_file="x"),
        dict(q, backing_file="x", backing_fmt="nonsense"), dict(q, backing_file="/no/x", backing_fmt="raw"),
        dict(q, backing_file="", backing_fmt="raw"), dict(v2, compression_type="zstd"),
        dict(q, compression_type="zstd"), dict(q, preallocation="x"), dict(q, file="no"),
        dict(q, file={"driver": "file", "filename": "/no/x"}), *(dict(q, preallocation=p, file=n) for n, p in (
            ("f", "metadata"), ("g", "falloc"), ("h", "full"))), dict(q, lazy_refcounts=1),
        {"driver": "file", "filename": "/no/x", "size": MIB}, {"driver": "file", "filename": "NEW", "size": 1000},
        {"driver": "file", "filename": "NEW", "size": MIB, "preallocation": "metadata"},
        {"driver": "file", "filename": "NEW", "size": MIB, "preallocation": "falloc", "nocow": True},
        *({"driver": "file", "filename": "NEW", "size": MIB, "extent_size_hint": n} for n in (0, 4096, 1 << 32, "1M")),
        {"driver": "file", "filename": "/tmp", "size": MIB},
    ]
    results = []
    for binary, name in ((None, "t"), (QSD, "q")):
        options = []
        for node in "fdgh":
            options += ["--blockdev", "file,node-name=%s,filename=%s" % (node, image(os.path.join(tmp, name + node), 0))]
        with Daemon(tmp, *options, binary=binary, name=name) as d:
            def case(c):
                return {k: os.path.join(tmp, name + "new") if v == "NEW" else v for k, v in c.items()}
            results.append([outcome(d, **case(c)) for c in cases])
    for c, mine, other in zip(cases, *results):
        equal(mine, other, c)


@test(needs=["qemu-storage-daemon"])
def verbs(tmp):
    "a job accepts each command only in the states in which QEMU's does"
    results = []
    for binary, name in ((None, "t"), (QSD, "q")):
        with Daemon(tmp, binary=binary, name=name) as d:
            all_verbs = ["job-" + v for v in ("cancel", "complete", "pause", "resume", "finalize", "dismiss")]
            seen = [answer(d, v, id="none") for v in all_verbs]
            file = {"driver": "file", "filename": os.path.join(tmp, name + ".img"), "size": MIB}
            seen += [create(d, job, **file) for job in ("1 x", "", "j")]
            seen.append(life(d))
            seen.append(create(d, **file))
            seen += [answer(d, v, id="j") for v in all_verbs]
            seen += [life(d), d.qmp("query-jobs")]
            create(d, **dict(file, size=1 << 30, preallocation="full"))
            seen += [answer(d, "job-" + v, id="j") for v in ("dismiss", "complete", "finalize", "resume", "pause",
                                                             "pause", "resume", "resume", "cancel")]
            seen.append([s for s in life(d) if s not in ("paused", "running", "null")])
            seen.append(d.qmp("query-jobs")[0]["error"])
            results.append(seen)
    equal(*results)


@test(needs=["mkfs.xfs", "mount", "qemu-img"])
def extents_of_a_size(tmp):
    "a new file asks XFS for extents of 1 MiB, or of the size given, as qemu-img's does"
    disk, at = image(os.path.join(tmp, "xfs.img"), 320 * MIB), os.path.join(tmp, "at")
    run("mkfs.xfs", "-q", disk)
    os.mkdir(at)
    if os.geteuid() or run("mount", "-o", "loop", disk, at, check=False).returncode:
        skip("can't mount a file system")
    try:
        def hint(path):
            attributes = bytearray(28)  # struct fsxattr
            with open(path) as f:
                fcntl.ioctl(f, 0x801c581f, attributes)  # FS_IOC_FSGETXATTR
            return struct.unpack_from("II", attributes)
        with Daemon(tmp) as d:
            for name, more in (("a", {}), ("b", {"extent_size_hint": 2 * MIB}), ("c", {"extent_size_hint": 0})):
                ours, theirs = os.path.join(at, name), os.path.join(at, "q" + name)
                image(ours, MIB, [(0, b"x" * MIB)])  # what it had goes first
                equal(outcome(d, driver="file", filename=ours, size=MIB, **more)[3], None)
                words = ["-o", "extent_size_hint=%d" % more["extent_size_hint"]] if more else []
                run("qemu-img", "create", "-q", "-f", "raw", *words, theirs, MIB)
                equal(hint(ours), hint(theirs), name)
        for format in ("raw", "qcow2"):
            words = ["create", "-q", "-f", format, "-o", "extent_size_hint=4M"]
            tidemark("image", *words, os.path.join(at, format), "1M")
            run("qemu-img", *words, os.path.join(at, "q" + format), "1M")
            equal(hint(os.path.join(at, format)), hint(os.path.join(at, "q" + format)), format)
            equal(hint(os.path.join(at, format))[1], 4 * MIB)
    finally:
        run("umount", "-l", at)


@test
def slow(tmp):
    "a long job reports its progress, waits while it is paused, and leaves nothing when it is cancelled"
    path = os.path.join(tmp, "big")
    with Daemon(tmp) as d:
        create(d, driver="file", filename=path, size=64 << 30, preallocation="full")
        wait_until(lambda: d.qmp("query-jobs")[0]["current-progress"] > 0, "progress")
        d.qmp("job-pause", id="j")
        d.monitor.wait_event("JOB_STATUS_CHANGE", status="paused")
        before = d.qmp("query-jobs")[0]
        equal((before["status"], before["total-progress"]), ("paused", 64 << 30))
        equal(d.qmp("query-version")["package"][:8], "tidemark")
        equal(d.qmp("query-jobs")[0], before)
        d.qmp("job-resume", id="j")
        wait_until(lambda: d.qmp("query-jobs")[0]["current-progress"] > before["current-progress"], "more progress")
        d.qmp("job-pause", id="j")
        d.qmp("job-cancel", id="j")
        wait_until(lambda: d.qmp("query-jobs")[0]["status"] == "concluded", "the end")
        equal(d.qmp("query-jobs")[0]["error"], "Operation canceled")
        equal(os.path.exists(path), False)
        create(d, "k", driver="file", filename=path, size=64 << 30, preallocation="full")
        wait_until(lambda: os.path.exists(path), "the file")
    equal(os.path.exists(path), False)


@test
def held(tmp):
    "the node of a new image can't be removed or resized meanwhile, and creation fails if another user forbids that"
    path = image(os.path.join(tmp, "f"), MIB)
    with Daemon(tmp, "--blockdev", "file,node-name=f,filename=" + path,
                "--blockdev", "file,node-name=g,filename=" + image(os.path.join(tmp, "g"), MIB),
                "--blockdev", "raw,node-name=r,file=g") as d:
        create(d, driver="qcow2", file="f", size=64 << 30, preallocation="full")
        wait_until(lambda: d.qmp("query-jobs")[0]["current-progress"] > 1 << 20, "progress")
        raises(QMPError, d.qmp, "blockdev-del", node_name="f", match="in use")
        raises(QMPError, d.qmp, "block_resize", node_name="f", size=MIB, match="resize")
        with open(path, "rb") as f:
            equal(f.read(4), bytes(4), "no header before all the rest")
        d.qmp("job-cancel", id="j")
        wait_until(lambda: d.qmp("query-jobs")[0]["status"] == "concluded", "the end")
        d.qmp("blockdev-del", node_name="f")
        create(d, "r", driver="qcow2", file="g", size=MIB)
        matches(life(d, "r")[-1] + d.qmp("query-jobs")[0]["error"], "concludedPermission conflict on node 'g'")


main()
