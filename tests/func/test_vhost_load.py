#!/usr/bin/python3
# SPDX-FileCopyrightText: 2026 The Tidemark authors
# SPDX-License-Identifier: GPL-2.0-or-later
"""Exports of the type vhost-user-blk under load: requests of all types on all queues at once, checked
by tests/vhost/load.c."""
import json
import os
import subprocess
from contextlib import contextmanager

from harness import *

MIB = 1 << 20
LOAD = os.path.join(BUILDDIR, "tests", "vhost", "vhost-load")


def export(tmp, queues):
    return ("--export", "type=vhost-user-blk,id=v,node-name=disk0,addr.type=unix,addr.path=%s/v,writable=on,"
            "num-queues=%d" % (tmp, queues))


def full_disk(tmp, size):
    """Without holes: to zero one changes nothing, so bitmaps need not have it."""
    return disk(tmp, "disk0", path=image(tmp + "/disk0", size, [(0, b"x" * size)]), discard="unmap")


def load(tmp, *options):
    return json.loads(run(LOAD, "--verify", *options, tmp + "/v", timeout=90).stdout)


def add_bitmap(d, **more):
    d.qmp("block-dirty-bitmap-add", node="disk0", name="b", granularity=4096, **more)


@test
def all_requests_on_four_queues(tmp):
    "each block has what the last request gave it, and the bitmap has what was changed"
    for options in ((), ("--chained", "--no-event-idx"), ("--poll", "--segment", "512")):
        with Daemon(tmp, *full_disk(tmp, 4 * MIB), *export(tmp, 4)) as d:
            add_bitmap(d)
            said = load(tmp, "--queues", "4", "--depth", "16", "--seconds", "0.3", *options)
            equal(d.bitmap("disk0", "b")["count"], 4096 * said["changed"])


@test
def large_requests(tmp):
    "requests of a MiB, in one descriptor or in many"
    for options in (("--segment", "1048576"), ("--segment", "4096")):
        with Daemon(tmp, *full_disk(tmp, 32 * MIB), *export(tmp, 1)) as d:
            add_bitmap(d)
            said = load(tmp, "--depth", "4", "--block", "1048576", "--seconds", "0.3", *options)
            equal(d.bitmap("disk0", "b")["count"], MIB * said["changed"])


@test
def another_disk_of_another_kind(tmp):
    "what can't be done at once: qcow2, and with io_uring past the page cache"
    if have("qemu-img"):
        run("qemu-img", "create", "-q", "-f", "qcow2", tmp + "/q", "4M")
        with Daemon(tmp, "--blockdev", "driver=file,filename=%s/q,node-name=f" % tmp, "--blockdev",
                    "driver=qcow2,file=f,node-name=disk0", *export(tmp, 2)) as d:
            load(tmp, "--queues", "2", "--depth", "8", "--seconds", "0.3")
    with Daemon(tmp, *disk(tmp, "disk0", size=4 * MIB, cache__direct="on"), *export(tmp, 2)) as d:
        load(tmp, "--queues", "2", "--depth", "8", "--seconds", "0.3")


@contextmanager
def guest_under_load(tmp, *options):
    guest = subprocess.Popen([LOAD, "--verify", "--seconds", "600", *options, tmp + "/v"], stdout=subprocess.PIPE, text=True)
    try:
        yield guest
    finally:
        guest.kill()
        guest.wait()


def writes(d):
    return d.qmp("query-blockstats", {"query-nodes": True})[0]["stats"]["wr_operations"]


@test
def killed_daemons(tmp):
    "a guest under load lives through kill -9 and restart: no error, all it wrote, and an exact bitmap"
    args = full_disk(tmp, 4 * MIB) + list(export(tmp, 2))
    d = Daemon(tmp, *args)
    add_bitmap(d, persistent=True)
    with guest_under_load(tmp, "--reconnect", "--queues", "2", "--depth", "16") as guest:
        for turn in range(5):
            before = writes(d)
            wait_until(lambda: writes(d) > before + 100 or guest.poll() is not None, "writes of the guest")
            equal(guest.poll(), None)
            d.kill()
            d = Daemon(tmp, *args, name="d%d" % turn)
        guest.terminate()
        said = json.loads(guest.communicate(timeout=90)[0])
        equal(guest.returncode, 0)
        equal(d.bitmap("disk0", "b")["count"], 4096 * said["changed"])
    d.stop()


main()
