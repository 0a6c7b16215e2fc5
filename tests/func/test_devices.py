#!/usr/bin/python3
# SPDX-FileCopyrightText: 2026 The Tidemark authors
# SPDX-License-Identifier: GPL-2.0-or-later
"""Block devices: a loop device served over NBD. Needs the right to make one."""
import os
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from harness import *  # noqa: E402,F403
from loop import Loop


def serve(tmp, driver, device, more=""):
    return Daemon(tmp, "--blockdev", "driver=%s,node-name=disk0,filename=%s,discard=unmap%s"
                  % (driver, device, more),
                  "--export", "type=nbd,id=e0,node-name=disk0,name=disk0,writable=on")


def exercise(d, path):
    data = os.urandom(3 << 20)
    h = d.nbd()
    equal(h.get_size(), 4 << 20)
    h.pwrite(data, 1000)
    h.zero(5000, 70000)
    h.trim(1 << 20, 2 << 20)
    h.flush()
    equal(bytes(h.pread(69000, 1000)), data[:69000])
    equal(bytes(h.pread(5000, 70000)), bytes(5000))
    equal(bytes(h.pread(100000, 75000)), data[74000:174000])
    h.shutdown()
    with open(path, "rb") as f:
        f.seek(1000)
        equal(f.read(69000) == data[:69000], True, "what was flushed is in the file below")


@test(needs=["losetup"])
def page_cache(tmp):
    "a loop device is served through the page cache"
    path = image(os.path.join(tmp, "back"), 4 << 20)
    with Loop(path) as device, serve(tmp, "file", device) as d:
        exercise(d, path)


@test(needs=["losetup"])
def direct(tmp):
    "a loop device is served with cache.direct=on, by QEMU's name of the driver"
    path = image(os.path.join(tmp, "back"), 4 << 20)
    with Loop(path) as device, serve(tmp, "host_device", device, ",cache.direct=on") as d:
        exercise(d, path)


def written_below(tmp, change):
    """A disk over a device has a bitmap; @change(d) while the device is exported, too. The bitmap afterwards."""
    path = image(os.path.join(tmp, "back"), 4 << 20)
    with Loop(path) as device, Daemon(tmp) as d:
        def add(driver, **more):
            d.qmp("blockdev-add", **{"driver": driver, "node-name": driver, **more})

        over = {"file": "host_device", "bitmap-store": os.path.join(tmp, "store")}
        add("host_device", filename=device)
        add("raw", **over)
        d.qmp("block-dirty-bitmap-add", node="raw", name="b", persistent=True)
        change(d)
        add("raw", **over)
        return d.bitmap("raw", "b"), d.log()


def export(d):
    d.qmp("block-export-add", type="nbd", id="e", node_name="host_device", name="e", writable=True)
    return d.nbd("e")


@test(needs=["losetup"])
def written_on_below(tmp):
    "a bitmap is all dirty when its node comes back, if the device was written below it meanwhile"
    def change(d):
        h = export(d)
        d.qmp("blockdev-del", node_name="raw")
        h.pwrite(b"x" * 512, 1 << 20)
        h.shutdown()

    b, log = written_below(tmp, change)
    equal([b.get("inconsistent", False), b["count"]], [False, 4 << 20])
    matches(log, "node 'raw': another node writes to its disk")


@test(needs=["losetup"])
def written_below_later(tmp):
    "a write to a device after its bitmaps were closed is noticed, even if it has not reached the device"
    def change(d):
        d.qmp("blockdev-del", node_name="raw")
        h = export(d)
        h.pwrite(b"x" * 512, 1 << 20)
        h.shutdown()
        d.unexport("e")

    equal(written_below(tmp, change)[0].get("inconsistent"), True)


@test(needs=["losetup"])
def copies(tmp):
    "a full copy onto a device takes --force, an update does not; the rest of the device stays; a device is copied back"
    data = os.urandom(1 << 20)
    path = image(os.path.join(tmp, "disk0.img"), 3 << 20, [(1 << 20, data)])
    back = image(os.path.join(tmp, "back"), 4 << 20, [(0, b"old" * (1 << 20))])
    with Loop(back) as device, Daemon(tmp, *disk(tmp, "disk0", path=path)) as d:
        p = tidemark("copy", d.uri(), device, check=False)
        equal(p.returncode, 1)
        matches(p.stderr, "target '%s' is a device: --force overwrites what is on it" % device)
        matches(tidemark("copy", d.uri(), device, "--force").stdout,
                "the target is larger: its last 1048576 bytes were left as they are")
        equal(tidemark("copy", d.uri(), "-", text=False).stdout, run("head", "-c", str(3 << 20), device, text=False).stdout)
        with open(device, "rb") as f:
            f.seek(3 << 20)
            equal(f.read(), (b"old" * (1 << 20) + bytes(1 << 20))[3 << 20:])
        with open(path, "wb") as f:
            f.truncate(4 << 20)
    with Loop(back) as device, Daemon(tmp, *disk(tmp, "disk0", path=path), name="e") as d:
        tidemark("copy", device, d.uri())
        run("cmp", device, path)


main()
