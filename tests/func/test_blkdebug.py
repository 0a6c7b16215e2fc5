#!/usr/bin/python3
# SPDX-FileCopyrightText: 2026 The Tidemark authors
# SPDX-License-Identifier: GPL-2.0-or-later
"""The blkdebug filter: which requests fail, when and where, what is slower, and what bitmaps above say."""
import errno
import os
import sys
import time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from harness import *  # noqa: E402,F403

KIB, MIB = 1 << 10, 1 << 20


def faulty(d, tmp, name="d", size=MIB, writable=True, bitmap=None, **options):
    """Adds a file, a blkdebug on it with these options and an export of that, all called @name."""
    path = os.path.join(tmp, name + ".img")
    if not os.path.exists(path):
        image(path, size)
    options = {k.replace("_", "-"): v for k, v in options.items()}
    d.qmp("blockdev-add", {"driver": "blkdebug", "node-name": name, "discard": "unmap",
                           "image": {"driver": "file", "filename": path}, **options})
    if bitmap:
        d.qmp("block-dirty-bitmap-add", node=name, name=bitmap, granularity=64 * KIB)
    d.qmp("block-export-add", {"type": "nbd", "id": "e-" + name, "node-name": name, "name": name,
                               "writable": writable, **({"bitmaps": [bitmap]} if bitmap else {})})
    return d.nbd(name, contexts=["qemu:dirty-bitmap:" + bitmap] if bitmap else ["base:allocation"])


def error_of(function, *args):
    """The errno that a call of libnbd fails with; None if it doesn't."""
    import nbd
    try:
        function(*args)
    except nbd.Error as e:
        return errno.errorcode[e.errnum]
    return None


def ends_badly(d):
    """Ends a daemon whose last flush fails."""
    d.process.terminate()
    d.wait(1)
    matches(d.log(), "the last flush failed")


def rule(event="none", **more):
    return dict({"event": event}, **more)


@test
def types_and_sectors(tmp):
    "inject-error: by type of request and by sector, with the error that is asked for"
    with Daemon(tmp) as d:
        h = faulty(d, tmp, inject_error=[
            rule(iotype="read", sector=8), rule(iotype="write", sector=16, sectors=8, errno=28),
            rule(iotype="discard", errno=1), rule(iotype="write-zeroes", sector=0, errno=12)])
        equal(error_of(h.pread, 512, 4096), "EIO")
        equal(error_of(h.pread, 4096, 4096 - 4095), "EIO", "it touches the sector's first byte")
        equal(error_of(h.pread, 4096, 0), None)
        equal(error_of(h.pread, 512, 4608), None)
        equal(error_of(h.pwrite, bytes(512), 4096), None)
        equal(error_of(h.pwrite, bytes(1), 24 * 512 - 1), "ENOSPC")
        equal(error_of(h.pwrite, bytes(1), 24 * 512), None)
        equal(error_of(h.trim, 4096, 65536), "EPERM")
        equal(error_of(h.zero, 4096, 0), "ENOMEM")
        equal(error_of(h.zero, 4096, 4096), None)
        equal(error_of(h.flush), None)
        matches(d.log(), "export '.*': a (read|write) of a client failed: ")
        h.shutdown()


@test
def default_types(tmp):
    "inject-error without a type: everything but block status; with it, block status"
    with Daemon(tmp) as d:
        h = faulty(d, tmp, inject_error=[rule()])
        for call in ((h.pread, 512, 0), (h.pwrite, bytes(512), 0), (h.zero, 512, 0), (h.trim, 512, 0),
                     (h.flush,)):
            equal(error_of(*call), "EIO", call[0].__name__)
        equal(extents(h, "base:allocation"), [(0, MIB, 3)])
        h.shutdown()
        h = faulty(d, tmp, "status", inject_error=[rule(iotype="block-status")])
        equal(error_of(h.block_status, MIB, 0, lambda *_: 0), "EIO")
        equal(error_of(h.pread, 512, 0), None)
        h.shutdown()
        ends_badly(d)


@test
def once_and_states(tmp):
    "once: one request; set-state: only in a state; what is in force stays so until an event replaces it"
    with Daemon(tmp) as d:
        h = faulty(d, tmp, inject_error=[rule("read_aio", once=True, iotype="read")])
        equal([error_of(h.pread, 512, 0) for _ in range(3)], ["EIO", None, None])
        h.shutdown()
        h = faulty(d, tmp, "s", inject_error=[rule("write_aio", state=3)],
                   set_state=[rule("flush_to_disk", state=1, new_state=2),
                              rule("flush_to_disk", state=2, new_state=3)])
        equal(error_of(h.pwrite, bytes(512), 0), None)
        equal([error_of(h.flush), error_of(h.pwrite, bytes(512), 0)], [None, None])
        equal([error_of(h.flush), error_of(h.pwrite, bytes(512), 0)], [None, "EIO"])
        equal(error_of(h.pread, 512, 0), "EIO", "in force, and of any type")
        h.shutdown()
        h = faulty(d, tmp, "off", inject_error=[rule(iotype="read"), rule("pwritev_done", errno=0)])
        equal(error_of(h.pread, 512, 0), "EIO")
        h.pwrite(bytes(512), 0)
        equal(error_of(h.pread, 512, 0), None, "errno 0 in the place of the rule before")
        h.shutdown()
        ends_badly(d)


@test
def delays(tmp):
    "inject-delay: the request takes so much longer, others do not wait for it"
    with Daemon(tmp) as d:
        h = faulty(d, tmp, inject_delay=[rule(iotype="write", sector=0, **{"delay-ns": 300000000})])
        began = time.monotonic()
        slow = h.aio_pwrite(b"x" * 512, 0)
        h.pread(512, 65536)
        equal(h.aio_command_completed(slow), False, "the slow one is on its way")
        while not h.aio_command_completed(slow):
            h.poll(-1)
        equal(time.monotonic() - began >= 0.3, True)
        h.shutdown()


@test
def limits(tmp):
    "max-transfer and its like cut requests, so that rules meet each piece"
    with Daemon(tmp) as d:
        h = faulty(d, tmp, max_transfer=64 * KIB, opt_write_zero=64 * KIB,
                   opt_discard=64 * KIB, inject_error=[rule(iotype="write", sector=256)])
        equal(error_of(h.pwrite, b"x" * (256 * KIB), 0), "EIO")
        equal(bytes(h.pread(192 * KIB, 0)), b"x" * (128 * KIB) + bytes(64 * KIB))
        equal(error_of(h.zero, 4096, 128 * KIB), "EIO", "too small: zeroes are written as data")
        equal(error_of(h.zero, 64 * KIB, 128 * KIB), None)
        h.trim(128 * KIB - 4096, 4096)
        equal(bytes(h.pread(128 * KIB, 0)), b"x" * (64 * KIB) + bytes(64 * KIB))
        h.shutdown()
        file = {"driver": "null-co"}
        for name, value in (("align", 3), ("align", 1 << 31), ("max-transfer", 5000),
                            ("max-write-zero", 1), ("opt-discard", 1 << 31)):
            raises(QMPError, d.qmp, "blockdev-add", dict(
                {"driver": "blkdebug", "node-name": "x", "image": file, "align": 512}, **{name: value}),
                match="Cannot meet constraints with %s %d" % (name, value))


@test
def refusals(tmp):
    "what makes no sense is refused by name, an event that never comes too"
    with Daemon(tmp) as d:
        add = lambda **o: d.qmp("blockdev-add", {
            "driver": "blkdebug", "node-name": "x", "image": {"driver": "null-co"},
            **{k.replace("_", "-"): v for k, v in o.items()}})
        for options, message in (
                ({"inject_error": [rule("l2_load")]},
                 "'inject-error.0.event' does not accept value 'l2_load': this event never occurs here"),
                ({"set_state": [rule(new_state=2), rule("cluster_alloc", new_state=2)]},
                 "'set-state.1.event' does not accept value 'cluster_alloc'"),
                ({"inject_error": [rule("nonsense")]}, "does not accept value 'nonsense'"),
                ({"inject_error": [{}]}, r"Parameter '.*inject-error\[0\].event' is missing"),
                ({"inject_error": {}}, "'inject-error', expected: array"),
                ({"inject_error": [rule(sectors=1)]}, "'inject-error.0.sectors' needs 'sector'"),
                ({"inject_error": [rule(nope=1)]}, r"'inject-error\[0\].nope' is unexpected"),
                ({"inject_error": [rule(errno=4096)]}, "'inject-error.0.errno' expects a value from 0 to"),
                ({"inject_delay": [rule(iotype="block-status", **{"delay-ns": 1})]}, "can't be delayed"),
                ({"take_child_perms": ["graph-mod"]}, "does not accept value 'graph-mod'")):
            raises(QMPError, add, match=message, **options)
        raises(QMPError, d.qmp, "blockdev-add", {"driver": "blkdebug", "node-name": "x"},
               match="Parameter 'image' is missing")


@test
def other_rules_by_reopening(tmp):
    "blockdev-reopen brings other rules under a live export"
    with Daemon(tmp) as d:
        h = faulty(d, tmp)
        node = next(n for n in d.qmp("query-named-block-nodes") if n["drv"] == "file")["node-name"]
        equal(error_of(h.pread, 512, 0), None)
        for rules, expected in (([rule(iotype="read")], "EIO"), ([], None)):
            d.qmp("blockdev-reopen", options=[{"driver": "blkdebug", "node-name": "d", "image": node,
                                               "discard": "unmap", "inject-error": rules}])
            equal(error_of(h.pread, 512, 0), expected)
        h.shutdown()


@test
def permissions(tmp):
    "take-child-perms and unshare-child-perms: as if a parent needed them, or did not share them"
    with Daemon(tmp, *disk(tmp, "f", MIB, export=False)) as d:
        add = lambda name, **o: d.qmp("blockdev-add", {
            "driver": "blkdebug", "node-name": name, "image": "f",
            **{k.replace("_", "-"): v for k, v in o.items()}})
        export = lambda node, writable: d.qmp("block-export-add", {
            "type": "nbd", "id": "e", "node-name": node, "name": "e", "writable": writable})
        add("x", unshare_child_perms=["write"])
        raises(QMPError, export, "f", True, match="'write' are both required .* unshared by node 'x'")
        d.qmp("blockdev-del", node_name="x")
        add("y", unshare_child_perms=["resize"], take_child_perms=["write"])
        add("z")
        raises(QMPError, add, "x", unshare_child_perms=["write"], match="both required by node 'y'")
        export("f", False)


@test
def bitmaps_on_failing_media(tmp):
    "a bitmap on it says dirty of what failed to be written; after a failed flush nothing is clean"
    with Daemon(tmp) as d:
        h = faulty(d, tmp, bitmap="b", inject_error=[rule(iotype="write", sector=0)])
        equal(error_of(h.pwrite, bytes(512), 0), "EIO")
        equal(dirty(h, "b"), [(0, 64 * KIB)])
        h.shutdown()
        h = faulty(d, tmp, "fl", inject_error=[rule("flush_to_disk", iotype="flush", once=True)])
        h.pwrite(bytes(512), 0)
        equal(error_of(h.flush), "EIO")
        equal(error_of(h.flush), None)
        d.qmp("block-dirty-bitmap-add", node="fl", name="late", granularity=64 * KIB)
        equal(d.bitmap("fl", "late")["count"], MIB, "what was read need not be on the medium")
        h.shutdown()
        h = faulty(d, tmp, "fua", inject_error=[rule(iotype="flush")])
        import nbd
        equal(error_of(lambda: h.pwrite(bytes(512), 0, nbd.CMD_FLAG_FUA)), "EIO")
        h.shutdown()
        ends_badly(d)


@test
def on_the_command_line(tmp):
    "--blockdev takes rules by number; a qcow2 image on a failing disk fails as it should"
    path = os.path.join(tmp, "d.img")
    tidemark("image", "create", "-f", "qcow2", path, "1M")
    with Daemon(tmp, "--blockdev", "driver=file,node-name=f,filename=" + path, "--blockdev",
                "driver=blkdebug,node-name=b,image=f,inject-error.0.event=flush_to_disk,"
                "inject-error.0.iotype=write,inject-error.0.errno=5,inject-error.1.event=pwritev_done,"
                "inject-error.1.state=9", "--blockdev", "driver=qcow2,node-name=disk0,file=b",
                "--export", "type=nbd,id=e,node-name=disk0,name=disk0,writable=on") as d:
        h = d.nbd()
        h.pwrite(b"x" * 512, 0)
        equal(error_of(h.flush), "EIO", "the tables are written after the data is flushed")
        equal(bytes(h.pread(512, 0)), b"x" * 512)
        h.shutdown()
        ends_badly(d)


@test
def bad_files(tmp):
    "a config file that makes no sense is refused, naming the line or the parameter; delays can be in it, too"
    path = os.path.join(tmp, "rules")
    with Daemon(tmp) as d:
        def refused(text, match):
            with open(path, "w") as f:
                f.write(text)
            raises(QMPError, d.qmp, "blockdev-add", driver="blkdebug", node_name="n", config=path,
                   image={"driver": "null-co", "size": MIB}, match=match)
        refused("event = \"none\"\n", "line 1: expected")
        refused("\n[inject-errors]\n", "line 2: expected")
        refused("[inject-error]\nevent = none\n", "line 2: expected")
        refused("[inject-error]\n", "'inject-error.0.event' is missing")
        refused("[inject-error]\nevent = \"zzz\"\n", "'inject-error.0.event' has a value")
        refused("[inject-error]\nevent = \"none\"\nerrno = \"x\"\n", "errno' has a value")
        refused("[inject-error]\nevent = \"none\"\n[set-state]\nevent = \"none\"\n", "'set-state.1.new_state' is missing")
        refused("[inject-error]\nevent = \"none\"\nwhat = \"1\"\n", "unknown parameter")
        refused("\0", "it is not text")
        os.unlink(path)
        raises(QMPError, d.qmp, "blockdev-add", driver="blkdebug", node_name="n", config=path,
               image={"driver": "null-co"}, match="Could not read blkdebug config file: .*No such file")
        with open(path, "w") as f:
            f.write('[inject-delay]\nevent = "none"\niotype = "flush"\ndelay-ns = "300000000"\n')
        h = faulty(d, tmp, config=path)
        begun = time.monotonic()
        h.flush()
        equal(time.monotonic() - begun >= 0.3, True)
        h.shutdown()


@test
def slow_errors(tmp):
    "an error comes after delay-ns; with errno 0 the request succeeds then"
    with Daemon(tmp) as d:
        h = faulty(d, tmp, inject_error=[rule(iotype="read", **{"delay-ns": 200000000}), rule(iotype="write", errno=0, **{"delay-ns": 200000000})])
        for function, args, error in ((h.pread, (512, 0), "EIO"), (h.pwrite, (bytes(512), 0), None)):
            begun = time.monotonic()
            equal(error_of(function, *args), error)
            equal(time.monotonic() - begun >= 0.2, True)
        raises(QMPError, d.qmp, "blockdev-add", driver="blkdebug", node_name="n", image={"driver": "null-co", "size": MIB},
               inject_error=[rule(iotype="block-status", **{"delay-ns": 1})], match="can't be delayed")
        h.shutdown()


@test(needs=["qemu-img"])
def flushes_below_a_read_only_image(tmp):
    "a persistent bitmap does not begin before what others wrote below a read-only backing is on the medium"
    paths = {name: os.path.join(tmp, name) for name in ("base", "middle", "top")}
    for name in ("middle", "top"):
        run("qemu-img", "create", "-q", "-f", "qcow2", paths[name], MIB)
    with Daemon(tmp) as d:
        h = faulty(d, tmp, name="base", inject_error=[rule(iotype="flush")])
        for name, backing, more in (("middle", "base", {"read-only": True}), ("top", "middle", {})):
            d.qmp("blockdev-add", dict({"driver": "qcow2", "node-name": name, "backing": backing,
                                        "file": {"driver": "file", "filename": paths[name]}}, **more))
        h.pwrite(b"1" * KIB, MIB // 2)
        raises(QMPError, d.qmp, "block-dirty-bitmap-add", node="top", name="p", persistent=True,
               match="Could not flush node 'top' before its bitmaps change: Input/output error")
        h.shutdown()
        ends_badly(d)


main()
