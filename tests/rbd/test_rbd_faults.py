#!/usr/bin/python3
# SPDX-FileCopyrightText: 2026 The Tidemark authors
# SPDX-License-Identifier: GPL-2.0-or-later
# timeout: 240
"""The plug-in for images in Ceph clusters when something fails: a full pool, a cluster that doesn't answer, a host that
is cut off, a lock that is lost, daemons that are killed. Each time what `rbd export` and `rbd diff` show is compared."""
import ctypes
import json
import os
import signal
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from images import *  # noqa: E402,F403

LOST = "every request fails from now on"
BLOCK = 4096


def conf(tmp, *lines):
    """The cluster's configuration with more lines."""
    path = os.path.join(tmp, "more.conf")
    with open(cluster().conf) as old, open(path, "w") as new:
        new.write(old.read() + "".join(line + "\n" for line in lines))
    return path


def ends_badly(d):
    """The daemon could not flush at its end, and says so."""
    d.process.send_signal(signal.SIGTERM)
    d.wait(1)
    matches(d.log(), "the last flush failed, data may be lost")


def pool_is_full():
    return "full" in json.loads(cluster().ceph("osd", "dump", "--format", "json"))["pools"][0]["flags_names"]


def changed_since(image, snapshot):
    """The granules that rbd diff shows."""
    found = json.loads(cluster().rbd("diff", "--from-snap", snapshot, "--format", "json", "rbd/" + image))
    return {g for x in found for g in range(x["offset"] // GRANULE, (x["offset"] + x["length"] - 1) // GRANULE + 1)}


def granules(handle, bitmap="b0"):
    return {g for o, n in dirty(handle, bitmap) for g in range(o // GRANULE, (o + n - 1) // GRANULE + 1)}


@test
def full(tmp):
    "in a full pool writes fail at once, what was written stays, discards free space, and then writes succeed"
    import nbd
    with own_cluster() as c:
        for kind in ("nearfull", "backfillfull", "full"):
            c.ceph("osd", "set-%s-ratio" % kind, "0.1")
        image_name = new_image("full", 256 * MIB)
        with Daemon(tmp, *node(image_name, discard="unmap", bitmap_store=os.path.join(tmp, "store"))) as d:
            d.qmp("block-dirty-bitmap-add", node="disk0", name="b0", persistent=True)
            with_export(d)
            h = d.nbd("bitmaps", contexts=["qemu:dirty-bitmap:b0"])
            for at in range(0, 128 * MIB, OBJECT):
                h.pwrite(b"a" * OBJECT, at)
            h.flush()
            wait_until(pool_is_full, "the pool to be full")
            before = granules(h)
            buffers = [nbd.Buffer.from_bytearray(bytearray(b"b" * BLOCK)) for _ in range(16)]

            def write_beyond():
                cookies = [h.aio_pwrite(b, 128 * MIB + i * OBJECT) for i, b in enumerate(buffers)]
                errors = 0
                for cookie in cookies:
                    try:
                        while not h.aio_command_completed(cookie):
                            h.poll(-1)
                    except nbd.Error as e:
                        equal(e.errno, "ENOSPC")
                        errors += 1
                return errors

            wait_until(lambda: write_beyond() == 16, "the OSD to know that it is full")
            h.flush()
            equal(before <= granules(h), True, "what was dirty is")
            h.pwrite(b"c" * BLOCK, OBJECT)  # needs no more space
            equal(bytes(h.pread(BLOCK, 0)), b"a" * BLOCK)
            h.trim(64 * MIB, 64 * MIB)
            wait_until(lambda: not pool_is_full(), "the pool to have space")
            wait_until(lambda: write_beyond() == 0, "writes to succeed")
            h.flush()
            written = {g for i in range(16) for g in [(128 * MIB + i * OBJECT) // GRANULE]}
            equal(granules(h), before | written)
            h.shutdown()
        content = c.export("rbd/full")
        equal(content[:2 * OBJECT] == b"a" * OBJECT + b"c" * BLOCK + b"a" * (OBJECT - BLOCK), True)
        equal(content[64 * MIB:128 * MIB] == bytes(64 * MIB), True)
        equal([content[128 * MIB + i * OBJECT:][:BLOCK] == b"b" * BLOCK for i in range(16)], [True] * 16)


@test
def an_osd_that_hangs(tmp):
    "a write that has timed out may still happen: nothing is written after it, also when the cluster is back"
    import nbd
    with own_cluster() as c:
        image_name = new_image("hangs")
        osd = [p for p in c.processes if p.args[0] == "ceph-osd"][0]
        with Daemon(tmp, *node(image_name, conf=conf(tmp, "rados osd op timeout = 1"))) as d:
            d.qmp("block-dirty-bitmap-add", node="disk0", name="b0")
            h = d.nbd()
            h.pwrite(b"a" * BLOCK, 0)
            h.flush()
            osd.send_signal(signal.SIGSTOP)
            try:
                raises(nbd.Error, h.pread, BLOCK, 0)
                raises(nbd.Error, h.pwrite, b"b" * BLOCK, OBJECT, match="Input/output error")
            finally:
                osd.send_signal(signal.SIGCONT)
            matches(d.log(), "RBD image 'rbd/hangs': a write has timed out and may still happen, and " + LOST)
            raises(nbd.Error, h.pwrite, b"c" * BLOCK, 0, match="Input/output error")
            raises(nbd.Error, h.pread, BLOCK, 0, match="Input/output error")
            equal(d.bitmap("disk0", "b0")["count"], 2 * GRANULE)
            h.shutdown()
            ends_badly(d)
        equal(c.export("rbd/hangs")[:BLOCK], b"a" * BLOCK)


class Networks:
    """Two network namespaces of this thread's own: that of the cluster, in which it is, and that of another host."""

    CLUSTER, HOST = "10.18.0.1", "10.18.0.2"
    NEW_NETWORK = 0x40000000

    def __init__(self):
        if not have("ip"):
            skip("ip is not installed")
        self.libc = ctypes.CDLL(None, use_errno=True)
        self.first = self.current()
        self.other = self.make()
        self.cluster = self.make()
        self.ip("link", "add", "c0", "type", "veth", "peer", "name", "h0")
        self.ip("link", "set", "h0", "netns", "/proc/%d/fd/%d" % (os.getpid(), self.other))
        self.up("c0", self.CLUSTER)
        with self:
            self.up("h0", self.HOST)

    def current(self):
        return os.open("/proc/thread-self/ns/net", os.O_RDONLY)

    def make(self):
        if self.libc.unshare(self.NEW_NETWORK):
            skip("network namespaces are not allowed here")
        self.ip("link", "set", "lo", "up")
        return self.current()

    def enter(self, network):
        equal(self.libc.setns(network, self.NEW_NETWORK), 0)

    def ip(self, *args):
        run("ip", *args)

    def up(self, device, address):
        self.ip("address", "add", address + "/24", "dev", device)
        self.ip("link", "set", device, "up")

    def __enter__(self):
        """What is started now is on the other host."""
        self.enter(self.other)

    def __exit__(self, *_):
        self.enter(self.cluster)

    def cut(self):
        self.ip("link", "set", "c0", "down")

    def heal(self):
        self.ip("link", "set", "c0", "up")

    def leave(self):
        self.enter(self.first)
        for fd in (self.first, self.other, self.cluster):
            os.close(fd)


@test
def a_host_that_is_cut_off(tmp):
    "another host takes over the image, whatever its configuration says; when the first is back, it writes nothing"
    import nbd
    networks = Networks()
    try:
        with own_cluster(address=networks.CLUSTER) as c:
            image_name = new_image("cut")
            options = dict(conf=conf(tmp, "rbd blocklist on break lock = false"), bitmap_store=os.path.join(tmp, "store"))
            with networks:
                d = Daemon(tmp, *node(image_name, **options))
            d.qmp("block-dirty-bitmap-add", node="disk0", name="b0", persistent=True)
            h = d.nbd()
            h.pwrite(b"a" * BLOCK, 0)
            h.flush()
            networks.cut()
            late = nbd.Buffer.from_bytearray(bytearray(b"late" * 1024))
            cookies = [h.aio_pwrite(late, 0), h.aio_pwrite(late, 2 * OBJECT)]
            with Daemon(tmp, *node(image_name, conf=options["conf"]), name="other") as other:
                mine = other.nbd()
                mine.pwrite(b"c" * BLOCK, 0)
                mine.flush()
                networks.heal()
                for cookie in cookies:
                    raises(nbd.Error, lambda: [h.poll(-1) for _ in iter(lambda: h.aio_command_completed(cookie), True)])
                raises(nbd.Error, h.pwrite, b"d" * BLOCK, OBJECT, match="Input/output error")
                raises(nbd.Error, h.pread, BLOCK, 0, match="Input/output error")
                raises(nbd.Error, h.flush, match="Input/output error")
                matches(d.log(), "RBD image 'rbd/cut': .*" + LOST)
                equal(d.bitmap("disk0", "b0")["count"], 3 * GRANULE, "all that was tried is dirty")
                mine.pwrite(b"e" * BLOCK, BLOCK)
                mine.flush()
                mine.shutdown()
                h.shutdown()
                ends_badly(d)
            content = c.export("rbd/cut")
            equal(content[:2 * BLOCK] == b"c" * BLOCK + b"e" * BLOCK, True)
            equal(content[2 * BLOCK:] == bytes(SIZE - 2 * BLOCK), True, "nothing else was written")
    finally:
        networks.leave()


@test
def a_lock_that_goes_without_a_blocklist(tmp):
    "if who breaks the lock leaves the daemon in the cluster, the new owner's word is enough: nothing is written any more"
    import nbd
    image_name = new_image("quiet")
    with Daemon(tmp, *node(image_name)) as d:
        h = d.nbd()
        h.pwrite(b"a" * BLOCK, 0)
        run("rbd", "-c", conf(tmp, "rbd blocklist on break lock = false"), "lock", "rm", "rbd/quiet", *locker(image_name))
        equal(json.loads(cluster().ceph("osd", "dump", "--format", "json"))["blocklist"], {})
        with Daemon(tmp, *node(image_name), name="other") as other:
            mine = other.nbd()
            wait_until(lambda: LOST in d.log(), "the loss to be noticed")
            mine.pwrite(b"c" * BLOCK, 0)
            mine.flush()
            raises(nbd.Error, h.pwrite, b"d" * BLOCK, 0, match="Input/output error")
            raises(nbd.Error, h.pread, BLOCK, 0, match="Input/output error")
            h.shutdown()
            mine.shutdown()
            ends_badly(d)
    equal(cluster().export("rbd/quiet")[:BLOCK], b"c" * BLOCK)


@test
def killed_again_and_again(tmp):
    "two hosts take turns at an image and are killed while they write: what was acknowledged is there, what rbd diff shows is dirty"
    import nbd
    image_name = new_image("turns")
    store = os.path.join(tmp, "store")
    options = node(image_name, bitmap_store=store, bitmap_accept_changed="on")
    model = Model(7)
    model.content[:] = model.random.randbytes(OBJECT) * (SIZE // OBJECT)
    with Daemon(tmp, *options) as d:
        h = d.nbd()
        for at in range(0, SIZE, OBJECT):
            h.pwrite(model.content[at:at + OBJECT], at)
        h.shutdown()
        d.qmp("block-dirty-bitmap-add", node="disk0", name="b0", persistent=True)
    cluster().rbd("snap", "create", "rbd/turns@s")
    for turn in range(4):
        d = Daemon(tmp, *options, name="host%d" % (turn % 2))
        with_export(d)
        h = d.nbd("bitmaps", contexts=["qemu:dirty-bitmap:b0"])
        equal(changed_since(image_name, "s") - granules(h), set(), "what rbd diff shows is dirty")
        equal(model.granules <= granules(h), True, "what was written is dirty")
        for at in range(0, SIZE, OBJECT):
            equal(bytes(h.pread(OBJECT, at)) == model.content[at:at + OBJECT], True, "what was acknowledged is there")
        for _ in range(10):
            model.step(h)
        late = nbd.Buffer.from_bytearray(bytearray(model.random.randbytes(BLOCK)))
        places = [model.random.randrange(SIZE // BLOCK) * BLOCK for _ in range(32)]
        for at in places:
            h.aio_pwrite(late, at)
        d.kill()
        content = cluster().export("rbd/turns")
        for at in places:  # done or not
            now = content[at:at + BLOCK]
            equal(now == late.to_bytearray() or now == model.content[at:at + BLOCK], True, "a write of a killed daemon")
            model.content[at:at + BLOCK] = now
    model.content_is(image_name)


main()
