#!/usr/bin/python3
# SPDX-FileCopyrightText: 2026 The Tidemark authors
# SPDX-License-Identifier: GPL-2.0-or-later
# timeout: 240
"""Disks and their dirty bitmaps against a naive model, from several connections.

A round has a seed. It picks disks, granularities and an engine, and then alternates batches of
requests on several connections, one of them the queues of a guest (vhost-user-blk), with operations on bitmaps. After each batch the disks are at rest, and
everything visible must equal the model, which is one byte a byte of the disk and one byte a granule:
extents of qemu:dirty-bitmap:*, counts in query-named-block-nodes, contents, and base:allocation, whose
zeroes must read as zeroes.

Some disks are qcow2 images: after their round qemu-img finds them without fault, and reads the same.

A race keeps writing while bitmaps are swapped, cleared and merged, copies what each checkpoint says is
dirty, and must end with a copy that equals the disk.

Options: --seconds N in all (or STRESS_SECONDS), --seed N for one round and one race (or STRESS_SEED).
A failure names the seed of its round.
"""
import argparse
import contextlib
import copy
import random
import select as io_select
import struct

from harness import *
import nbd
import vhost

GRANULARITIES = [1 << n for n in range(9, 22)]
RACE_SIZES = [(4 << 20) + 511, 16 << 20, (48 << 20) - 512]
SIZES = [513, 4096, 65536 + 1, (1 << 20) - 512, (1 << 20) + 511, 3 * (1 << 20) + 12345, 8 << 20]
CONNECTIONS = 3
NAMES = ["a", "b", "c", "d", "e"]


class Bits:
    """A bitmap as the model sees it."""

    def __init__(self, size, granularity, enabled):
        self.size, self.granularity, self.enabled = size, granularity, enabled
        self.bits = bytearray((size + granularity - 1) // granularity)

    def mark(self, offset, length):
        first, last = offset // self.granularity, (offset + length - 1) // self.granularity
        self.bits[first:last + 1] = b"\1" * (last + 1 - first)

    def resize(self, size):
        old, self.size = self.size, size
        granules = (size + self.granularity - 1) // self.granularity
        self.bits = self.bits[:granules] + bytes(max(0, granules - len(self.bits)))
        if size > old:
            self.mark(old, size - old)

    def count(self):
        return sum(self.bits) * self.granularity

    def runs(self):
        """The dirty extents as (offset, length)."""
        found, at = [], 0
        while (first := self.bits.find(1, at)) >= 0:
            at = self.bits.find(0, first)
            at = len(self.bits) if at < 0 else at
            start, end = first * self.granularity, min(at * self.granularity, self.size)
            found.append((start, end - start))
        return found


def simulate(state, kind, data):
    """Does what a QMP command does to {node: {name: Bits}}; False if it has to fail."""
    if kind == "abort":
        return False
    bitmaps = state[data["node"]]
    name = data.get("target") or data["name"]
    if kind == "block-dirty-bitmap-add":
        if name in bitmaps:
            return False
        bitmaps[name] = Bits(state["size"], data["granularity"], not data.get("disabled"))
        return True
    if name not in bitmaps:
        return False
    bitmap = bitmaps[name]
    if kind == "block-dirty-bitmap-remove":
        del bitmaps[name]
    elif kind == "block-dirty-bitmap-clear":
        bitmap.bits = bytearray(len(bitmap.bits))
    elif kind == "block-dirty-bitmap-enable":
        bitmap.enabled = True
    elif kind == "block-dirty-bitmap-disable":
        bitmap.enabled = False
    else:
        sources = []
        for source in data["bitmaps"]:
            node, other = (data["node"], source) if isinstance(source, str) else (
                source["node"], source["name"])
            if other not in state[node]:
                return False
            sources += state[node][other].runs()
        for run_ in sources:
            bitmap.mark(*run_)
    return True


def pick_operation(rnd, nodes):
    """A random bitmap command and its arguments, which may well have to fail."""
    node = rnd.choice(nodes)
    name = rnd.choice(NAMES)
    kind = rnd.choice(["add", "add", "add", "remove", "clear", "enable", "disable", "merge", "merge"])
    data = {"node": node, "name": name}
    if kind == "add":
        data["granularity"] = rnd.choice(GRANULARITIES)
        if rnd.random() < 0.2:
            data["disabled"] = True
    elif kind == "merge":
        del data["name"]
        data["target"] = name
        data["bitmaps"] = [rnd.choice([other, {"node": rnd.choice(nodes), "name": other}])
                           for other in rnd.sample(NAMES, rnd.randint(1, 3))]
    return "block-dirty-bitmap-" + kind, data


def driver_path(daemon, node):
    return os.path.join(os.path.dirname(daemon.nbd_path), node + ".vhost")


def within_sectors(offset, length):
    return not (offset | length) % 512 and length <= Driver.MOST


class Driver:
    """The driver of a guest, with the functions of libnbd's handle that are used here. It has whole sectors only."""
    MOST = 1 << 20  # bytes of a request

    def __init__(self, daemon, node):
        self.guest = vhost.Guest(size=64 << 20, queues=2)
        self.client = vhost.Client(driver_path(daemon, node), self.guest)
        self.pending = {}
        self.turn = 0

    def start(self, kind, sector, data=b"", length=0, buffer=None):
        g = self.guest
        n = max(len(data), length)
        while self.pending and (not g.has_room(n + 4096) or len(self.pending) == 16):
            self.poll(-1)
        if not self.pending:
            g.reuse()
        self.turn += 1
        queue = self.turn % 2
        parts = next(p for p in (3, 2, 1) if not n % (512 * p)) if kind in (vhost.IN, vhost.OUT) else 1
        cookie, begin, status = g.request(kind, sector, data, length, queue, self.turn % 3 == 0, parts)
        self.pending[cookie] = kind, begin, status, buffer
        g.kick(queue)
        return cookie

    def aio_pwrite(self, buffer, offset, flags=0):
        return self.start(vhost.OUT, offset // 512, bytes(buffer.to_bytearray()))

    def aio_pread(self, buffer, offset):
        return self.start(vhost.IN, offset // 512, length=buffer.size(), buffer=buffer)

    def ranged(self, kind, length, offset, flags=0):
        return self.start(kind, 0, struct.pack("<QII", offset // 512, length // 512, flags))

    def aio_zero(self, length, offset, flags=0):
        return self.ranged(vhost.WRITE_ZEROES, length, offset, 0 if flags & nbd.CMD_FLAG_NO_HOLE else 1)

    def aio_trim(self, length, offset, flags=0):
        return self.ranged(vhost.DISCARD, length, offset)

    def aio_flush(self):
        return self.start(vhost.FLUSH, 0)

    def pread(self, length, offset):
        got = nbd.Buffer(length)
        cookie = self.aio_pread(got, offset)
        while not self.aio_command_completed(cookie):
            self.poll(-1)
        return got.to_bytearray()

    def poll(self, timeout):
        g = self.guest
        for queue in range(g.queues):
            g.reap(queue)
            g.reap(queue)  # what was used before the event was asked for
        if timeout and not g.results and self.client.socket in io_select.select(
                g.calls + [self.client.socket], [], [], 0.1)[0]:
            fail("the daemon has disconnected a guest")
        for fd in g.calls:
            with contextlib.suppress(BlockingIOError):
                os.eventfd_read(fd)
        for cookie in list(g.results):
            del g.results[cookie]
            kind, begin, status, buffer = self.pending.pop(cookie)
            equal(g.memory[status], vhost.OK, "the status of a guest's request of type %d" % kind)
            if buffer:
                buffer.to_buffer()[:] = g.memory[begin:begin + buffer.size()]

    def aio_command_completed(self, cookie):
        if cookie in self.pending:
            self.poll(0)
        return cookie not in self.pending

    def shutdown(self):
        self.client.close()
        self.guest.close()


class Disk:
    """One exported file and what it should contain."""

    def __init__(self, daemon, node, size):
        self.daemon, self.node, self.size = daemon, node, size
        self.content = bytearray(size)
        self.driver = Driver(daemon, node) if TIDEMARKD != QSD else None
        self.connect()

    def connect(self):
        self.handles = [self.daemon.nbd(self.node) for _ in range(CONNECTIONS)]
        equal(self.handles[0].get_size(), self.size)

    def resize(self, size, bitmaps):
        """Takes the export away, because what is exported over NBD keeps its size, and gives it back."""
        self.disconnect()
        self.daemon.unexport("exp-" + self.node)
        guest_stays = not self.driver or size >= self.size
        if not guest_stays:  # what is exported does not shrink
            self.driver.shutdown()
            self.daemon.unexport("guest-" + self.node)
        self.daemon.qmp("block_resize", {"node-name": self.node, "size": size})
        if not guest_stays:
            self.daemon.qmp("block-export-add", {
                "type": "vhost-user-blk", "id": "guest-" + self.node, "node-name": self.node, "writable": True,
                "num-queues": 2, "addr": {"type": "unix", "path": driver_path(self.daemon, self.node)}})
            self.driver = Driver(self.daemon, self.node)
        self.daemon.qmp("block-export-add", {"type": "nbd", "id": "exp-" + self.node, "node-name": self.node,
                                             "name": self.node, "writable": True})
        self.content = self.content[:size] + bytes(max(0, size - self.size))
        self.size = size
        for bitmap in bitmaps.values():
            bitmap.resize(size)
        self.connect()

    def pick(self, rnd, offset, length):
        """A connection for a request."""
        return rnd.choice(self.handles + ([self.driver] * 2 if self.driver and within_sectors(offset, length) else []))

    def batch(self, rnd, bitmaps, trims):
        """Random changes of disjoint ranges, in flight together; then the model follows."""
        cuts = sorted(rnd.sample(range(self.size + 1), min(self.size + 1, 2 * rnd.randint(1, 8))))
        ranges = [(a, b - a) for a, b in zip(cuts[::2], cuts[1::2])]
        if rnd.random() < 0.7:  # mostly small ones, so that bitmaps don't fill up at once
            ranges = [(a, min(n, rnd.choice([1, 512, 700, 4096, 65536, 200000]))) for a, n in ranges]
        if rnd.random() < 0.3:
            ranges = [(a & ~511, max(512, n & ~511)) for a, n in ranges]
            ranges = [(a, n) for i, (a, n) in enumerate(ranges) if a + n <= self.size
                      and (i + 1 == len(ranges) or a + n <= ranges[i + 1][0])]
        pending, touched, watched = [], [], []
        before = bytes(self.content)
        for offset, length in ranges:
            if rnd.random() < 0.3:
                watched.append(self.watch(rnd))
            if rnd.random() < 0.1:
                h = self.pick(rnd, 0, 0)
                pending.append((h, h.aio_flush()))
            h = self.pick(rnd, offset, length)
            kind = rnd.choice(["write", "write", "zero"] + trims)
            fua = nbd.CMD_FLAG_FUA if rnd.random() < 0.1 else 0
            if kind == "write":
                data = b"\0" * length if rnd.random() < 0.1 else rnd.randbytes(length)
                pending.append((h, h.aio_pwrite(nbd.Buffer.from_bytearray(bytearray(data)), offset,
                                                flags=fua)))
                self.content[offset:offset + length] = data
            elif kind == "zero":
                flags = fua | rnd.choice([0, nbd.CMD_FLAG_NO_HOLE])
                pending.append((h, h.aio_zero(length, offset, flags=flags)))
                self.content[offset:offset + length] = bytes(length)
            else:
                pending.append((h, h.aio_trim(length, offset, flags=fua)))
                touched.append((offset, length))
            for bitmap in bitmaps.values():
                if bitmap.enabled:
                    bitmap.mark(offset, length)
        for h, cookie in pending:
            while not h.aio_command_completed(cookie):
                h.poll(-1)
        for offset, length in touched:  # a trimmed byte is zero or what it was
            now = self.handles[0].pread(length, offset)
            was = self.content[offset:offset + length]
            if now != was and any(n and n != w for n, w in zip(now, was)):
                fail("trim of %d at %d made up data" % (length, offset))
            self.content[offset:offset + length] = now
        for h, cookie, offset, buffer in watched:
            while not h.aio_command_completed(cookie):
                h.poll(-1)
            self.check_watched(before, offset, buffer.to_bytearray(), touched)

    def watch(self, rnd):
        """A read that overlaps whatever is changed meanwhile."""
        offset = rnd.randrange(self.size)
        length = rnd.randint(1, self.size - offset)
        if rnd.random() < 0.3 and length >= 512 + offset % 512:
            length = (length - offset % 512) & ~511
            offset &= ~511
        h, buffer = self.pick(rnd, offset, length), nbd.Buffer(length)
        return h, h.aio_pread(buffer, offset), offset, buffer

    def check_watched(self, before, offset, got, trimmed):
        """Each byte of a read is the one before the batch or the one after it."""
        for at in range(0, len(got), 512):
            here = offset + at
            now, old, new = (data[start:start + 512] for data, start in
                             ((got, at), (before, here), (self.content, here)))
            if now == old[:len(now)] or now == new[:len(now)]:
                continue
            for i, byte in enumerate(now):
                if byte not in (old[i], new[i]) and (byte or not any(a <= here + i < a + n for a, n in trimmed)):
                    fail("%s: a read during changes has %02x at %d, which was %02x and is %02x" % (
                        self.node, byte, here + i, old[i], new[i]))

    def check_content(self, rnd):
        now = rnd.choice(self.handles).pread(self.size, 0)
        if self.driver and rnd.random() < 0.3:
            sectors = self.size & ~511
            now = b"".join(self.driver.pread(min(Driver.MOST, sectors - at), at)
                           for at in range(0, sectors, Driver.MOST)) + now[sectors:]
        if now != self.content:
            at = next(i for i in range(self.size) if now[i] != self.content[i])
            fail("%s: content differs at %d, for %d bytes: %02x instead of %02x" % (
                self.node, at, sum(a != b for a, b in zip(now, self.content)), now[at], self.content[at]))

    def check_bitmaps(self, bitmaps):
        """The contexts of a fresh client."""
        contexts = ["qemu:dirty-bitmap:" + name for name in bitmaps] + ["base:allocation"]
        h = self.daemon.nbd(self.node, contexts=contexts)
        for name, bitmap in bitmaps.items():
            equal(dirty(h, name), bitmap.runs(), "%s/%s (%d)" % (self.node, name, bitmap.granularity))
        for offset, length, flags in extents(h, "base:allocation"):
            if flags & nbd.STATE_ZERO and any(self.content[offset:offset + length]):
                fail("%s: %d+%d is said to be zero" % (self.node, offset, length))
        h.shutdown()

    def disconnect(self):
        for h in self.handles:
            h.shutdown()

    def close(self):
        self.disconnect()
        if self.driver:
            self.driver.shutdown()


def listed(daemon, nodes):
    """{(node, name): (count, granularity, recording)} as QMP lists it."""
    return {(n["node-name"], b["name"]): (b["count"], b["granularity"], b["recording"])
            for n in daemon.qmp("query-named-block-nodes", flat=True) if n["node-name"] in nodes
            for b in n.get("dirty-bitmaps", [])}


def select(daemon, node, names):
    daemon.qmp("block-export-dirty-bitmap", id="exp-" + node, bitmaps=list(names))


def release(daemon, node, bitmaps):
    """No export offers the bitmaps any more, and no client that had them is left."""
    select(daemon, node, [])
    wait_until(lambda: not any(daemon.bitmap(node, name)["busy"] for name in bitmaps),
               "bitmaps to be free")


def operate(rnd, daemon, state, nodes):
    """One command, or a transaction, on the daemon and on the model. Returns the new state."""
    new = copy.deepcopy(state)
    if rnd.random() < 0.5:
        kind, data = pick_operation(rnd, nodes)
        works = simulate(new, kind, data)
        command, arguments = kind, data
    else:
        actions = [pick_operation(rnd, nodes) for _ in range(rnd.randint(1, 5))]
        # A bitmap that is removed in a transaction is in nobody's reach from then on, also not its name.
        removals = [i for i, (kind, _) in enumerate(actions) if kind.endswith("remove")]
        actions = actions[:removals[0] + 1] if removals else actions
        if rnd.random() < 0.15:
            actions.insert(rnd.randint(0, len(actions)), ("abort", {}))
        works = all(simulate(new, kind, data) for kind, data in actions)
        command = "transaction"
        arguments = {"actions": [{"type": kind, "data": data} for kind, data in actions]}
    try:
        daemon.qmp(command, arguments)
    except QMPError as error:
        if works:
            fail("%s %s: %s" % (command, arguments, error))
        return state
    if not works:
        fail("%s %s: an error was expected" % (command, arguments))
    return new


QCOW2 = ["", "cluster_size=512", "cluster_size=4k,refcount_bits=1", "cluster_size=2M", "extended_l2=on",
         "extended_l2=on,cluster_size=16k", "compat=0.10", "compression_type=zstd,cluster_size=1k"]


def qcow2_disk(tmp, rnd, node, size, **options):
    """The arguments of a disk that is a qcow2 image."""
    path = os.path.join(tmp, node + ".qcow2")
    kind = rnd.choice(QCOW2)
    run("qemu-img", "create", "-q", "-f", "qcow2", *(["-o", kind] if kind else []), path, size)
    blockdev = {"driver": "qcow2", "node-name": node, "file": {"driver": "file", "filename": path}, **options}
    if rnd.random() < 0.5:
        blockdev.update({"l2-cache-size": 1, "refcount-cache-size": 1})
    return ["--blockdev", json.dumps(blockdev), "--export", "type=nbd,id=exp-%s,node-name=%s,name=%s,writable=on" % (
        node, node, node)]


def sound(tmp, node, content):
    """A qcow2 image that was closed."""
    path = os.path.join(tmp, node + ".qcow2")
    checked = run("qemu-img", "check", path, check=False)
    matches(checked.stdout, "No errors were found")
    run("qemu-img", "convert", "-O", "raw", path, path + ".raw")
    with open(path + ".raw", "rb") as f:
        equal(f.read() == content, True, "what qemu-img reads of %s" % node)


def start(tmp, rnd, nodes, size, qcow2=False):
    args = []
    options = {"discard": rnd.choice(["ignore", "unmap"])}
    for node in nodes:
        args += qcow2_disk(tmp, rnd, node, size, **options) if qcow2 else disk(tmp, node, size, **options)
        if TIDEMARKD != QSD:
            args += ["--export", "type=vhost-user-blk,id=guest-%s,node-name=%s,writable=on,num-queues=2,addr.type=unix,"
                     "addr.path=%s" % (node, node, os.path.join(tmp, node + ".vhost"))]
    if TIDEMARKD != QSD:
        args = ["--io-engine", rnd.choice(["threads", "auto"])] + args
    return Daemon(tmp, *args), ["trim", "trim"] if options["discard"] == "unmap" else []


def resized(rnd, size):
    """Another size, mostly one that is near a multiple of some granularity."""
    if rnd.random() < 0.3:
        return rnd.choice(SIZES)
    step = rnd.choice(GRANULARITIES)
    return min(max(1, (size // step + rnd.choice([-1, 0, 1, 2])) * step + rnd.choice([-1, 0, 1, 511])), 8 << 20)


def model_round(tmp, seed, deadline):
    rnd = random.Random(seed)
    nodes = ["disk0", "disk1"][:rnd.randint(1, 2)]
    size = rnd.choice(SIZES) if rnd.random() < 0.7 else rnd.randint(1, 1 << 20)
    qcow2 = TIDEMARKD != QSD and shutil.which("qemu-img") and rnd.random() < 0.5
    unit = 512 if qcow2 else 1
    size = -(-size // unit) * unit
    daemon, trims = start(tmp, rnd, nodes, size, qcow2)
    with daemon:
        disks = [Disk(daemon, node, size) for node in nodes]
        state = dict({node: {} for node in nodes}, size=size)
        for step in range(rnd.randint(10, 40)):
            for _ in range(rnd.randint(0, 4)):
                state = operate(rnd, daemon, state, nodes)
            if TIDEMARKD != QSD and rnd.random() < 0.08:  # QSD 7.2 leaves what has grown clean
                size = state["size"] = -(-resized(rnd, size) // unit) * unit
                for d in disks:
                    d.resize(size, state[d.node])
            for d in disks:
                d.batch(rnd, state[d.node], trims)
                d.check_content(rnd)
            equal(listed(daemon, nodes), {
                (node, name): (b.count(), b.granularity, b.enabled)
                for node in nodes for name, b in state[node].items()}, "query-named-block-nodes")
            for d in disks:
                select(daemon, d.node, state[d.node])
                if rnd.random() < 0.3:  # exported bitmaps record as well
                    d.batch(rnd, state[d.node], trims)
                d.check_bitmaps(state[d.node])
                release(daemon, d.node, state[d.node])
            if time.monotonic() > deadline:
                break
        for d in disks:
            d.close()
    for d in disks if qcow2 else []:
        sound(tmp, d.node, d.content)


def has_input(sock):
    return io_select.select([sock], [], [], 0)[0]


class Writers:
    """Keeps requests in flight on several connections, also while a monitor is waited for."""

    def __init__(self, daemon, node, rnd, size):
        self.daemon, self.rnd, self.size = daemon, rnd, size
        self.handles = [daemon.nbd(node) for _ in range(CONNECTIONS)]
        if TIDEMARKD != QSD:
            self.handles.append(Driver(daemon, node))
        self.cookies = [[] for _ in self.handles]
        self.writes = 0

    def pump(self):
        """Fills the connections up and moves them along without waiting."""
        for h, cookies in zip(self.handles, self.cookies):
            while len(cookies) < 8:
                offset = self.rnd.randrange(self.size)
                length = min(self.rnd.choice([100, 512, 4096, 4096]), self.size - offset)
                if isinstance(h, Driver):
                    offset = min(offset, self.size - 512) & ~511
                    length = max(512, length & ~511)
                if self.rnd.random() < 0.1:
                    cookies.append(h.aio_zero(length, offset))
                else:
                    data = nbd.Buffer.from_bytearray(bytearray(self.rnd.randbytes(length)))
                    cookies.append(h.aio_pwrite(data, offset))
                self.writes += 1
            self.move(h, cookies, 0)

    @staticmethod
    def move(h, cookies, timeout):
        h.poll(timeout)
        cookies[:] = [cookie for cookie in cookies if not h.aio_command_completed(cookie)]

    def qmp(self, command, arguments):
        """A command while writes go on. Its reply, or an exception."""
        monitor = self.daemon.monitor
        monitor.send({"execute": command, "arguments": arguments})
        while b"\n" not in monitor.buffer and not has_input(monitor.sock):
            self.pump()
        reply = monitor.reply()
        if "error" in reply:
            raise QMPError(reply["error"])
        return reply["return"]

    def settle(self):
        for h, cookies in zip(self.handles, self.cookies):
            while cookies:
                self.move(h, cookies, -1)

    def close(self):
        self.settle()
        for h in self.handles:
            h.shutdown()


def pull(daemon, node, name, target):
    """Copies what a bitmap says is dirty."""
    select(daemon, node, [name])
    h = daemon.nbd(node, contexts=["qemu:dirty-bitmap:" + name])
    for offset, length in dirty(h, name):
        target[offset:offset + length] = h.pread(length, offset)
    h.shutdown()
    release(daemon, node, [name])


def act(kind, **data):
    return {"type": "block-dirty-bitmap-" + kind, "data": dict(data, node="disk0")}


def race(tmp, seed, deadline):
    rnd = random.Random(seed)
    size = rnd.choice(RACE_SIZES)  # so large that most of what is written isn't written again
    granularity = rnd.choice(GRANULARITIES[:6])
    daemon, _ = start(tmp, rnd, ["disk0"], size)
    with daemon:
        target = bytearray(size)
        w = Writers(daemon, "disk0", rnd, size)
        daemon.qmp("block-dirty-bitmap-add", node="disk0", name="n0", granularity=granularity)
        for step in range(rnd.randint(5, 25)):
            for _ in range(rnd.randint(1, 10)):
                w.pump()
            old, new = "n%d" % step, "n%d" % (step + 1)
            fresh = act("add", name=new, granularity=granularity)
            if rnd.random() < 0.5:
                # The old bitmap stops where the new one begins.
                w.qmp("transaction", {"actions": [fresh, act("disable", name=old)]})
                frozen, left = old, new
            else:
                # The one bitmap's content moves over into a disabled one, and it starts afresh.
                fresh["data"]["disabled"] = True
                fresh["data"]["granularity"] = rnd.choice(GRANULARITIES[:6])
                w.qmp("transaction", {"actions": [
                    fresh, act("merge", target=new, bitmaps=[old]), act("clear", name=old)]})
                frozen, left = new, old
            w.pump()
            pull(daemon, "disk0", frozen, target)
            w.qmp("block-dirty-bitmap-remove", {"node": "disk0", "name": frozen})
            if left == old:  # its name is the next step's old
                w.qmp("transaction", {"actions": [
                    act("add", name=new, granularity=granularity),
                    act("disable", name=old), act("merge", target=new, bitmaps=[old]),
                    act("remove", name=old)]})
            if time.monotonic() > deadline:
                break
        w.settle()
        pull(daemon, "disk0", "n%d" % (step + 1), target)
        if any(w.handles[0].pread(min(1 << 24, size - at), at) != target[at:at + (1 << 24)]
               for at in range(0, size, 1 << 24)):
            fail("the copy differs from the disk after %d writes and %d checkpoints" % (w.writes, step + 1))
        w.close()


def repeat(function, tmp, seconds):
    """Rounds with fresh seeds until the time is over, at least one."""
    deadline = time.monotonic() + seconds
    rounds = 0
    while not rounds or (OPTIONS.seed is None and time.monotonic() < deadline):
        seed = OPTIONS.seed if OPTIONS.seed is not None else random.SystemRandom().getrandbits(32)
        place = os.path.join(tmp, str(rounds))
        os.mkdir(place)
        try:
            function(place, seed, deadline if OPTIONS.seed is None else float("inf"))
        except Exception:
            print("# --seed %d" % seed, flush=True)
            raise
        shutil.rmtree(place)
        rounds += 1
    print("# %d rounds" % rounds, flush=True)


@test
def model(tmp):
    "at rest, extents, counts and contents are the model's"
    repeat(model_round, tmp, OPTIONS.seconds * 0.6)


@test
def races(tmp):
    "increments taken while writers race with checkpoints add up to the disk"
    repeat(race, tmp, OPTIONS.seconds * 0.4)


parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("--seconds", type=float, default=float(os.environ.get("STRESS_SECONDS") or 20))
parser.add_argument("--seed", type=int, default=os.environ.get("STRESS_SEED"))
OPTIONS, sys.argv[1:] = parser.parse_known_args()
main()
