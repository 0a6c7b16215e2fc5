#!/usr/bin/python3
# SPDX-FileCopyrightText: 2026 The Tidemark authors
# SPDX-License-Identifier: GPL-2.0-or-later
"""Increments as a backup tool takes them: with the client and with libnbd, from bitmaps whose
checkpoints differ, into files and into another daemon, while the disk is being written."""
import random


from harness import *
import nbd

MIB = 1 << 20
SIZE = 24 * MIB + 12345
GRANULARITY = 65536


class Source:
    """A daemon with a disk, and writers that keep it busy until rest()."""

    def __init__(self, tmp):
        rnd = random.Random(1)
        self.path = image(os.path.join(tmp, "disk0.img"), SIZE,
                          [(0, rnd.randbytes(3 * MIB)), (20 * MIB, rnd.randbytes(MIB + 7))])
        self.daemon = Daemon(tmp, *disk(tmp, "disk0", path=self.path, discard="unmap"))
        self.resting = threading.Event()
        self.batches = 0
        self.errors = []
        self.writer = None

    def checkpoint(self, *actions):
        self.daemon.qmp("transaction", actions=[
            {"type": "block-dirty-bitmap-" + kind, "data": dict(data, node="disk0")}
            for kind, data in actions])

    def offer(self, *names):
        """What new clients of the export see."""
        self.daemon.qmp("block-export-dirty-bitmap", id="exp-disk0", bitmaps=list(names))

    def remove(self, name):
        self.offer()
        wait_until(lambda: not self.daemon.bitmap("disk0", name)["busy"], "%s to be free" % name)
        self.daemon.qmp("block-dirty-bitmap-remove", node="disk0", name=name)

    def write(self, rnd, handles):
        """A batch of changes, most of them in one region so that increments stay small."""
        pending = []
        region = rnd.randrange(SIZE - MIB)
        for _ in range(8):
            h = rnd.choice(handles)
            length = rnd.choice([1, 512, 4096, 70000])
            offset = (region if rnd.random() < 0.9 else 0) + rnd.randrange(MIB - length)
            kind = rnd.choice(["write"] * 4 + ["zero", "trim"])
            if kind == "write":
                data = nbd.Buffer.from_bytearray(bytearray(rnd.randbytes(length)))
                pending.append((h, h.aio_pwrite(data, offset)))
            elif kind == "zero":
                pending.append((h, h.aio_zero(length, offset)))
            else:
                pending.append((h, h.aio_trim(length, offset)))
        for h, cookie in pending:
            while not h.aio_command_completed(cookie):
                h.poll(-1)
        self.batches += 1

    def load(self):
        """Starts the writers: one thread, two connections, all requests in flight together."""

        def work():
            try:
                rnd = random.Random(2)
                handles = [self.daemon.nbd() for _ in range(2)]
                while not self.resting.is_set():
                    self.write(rnd, handles)
                for h in handles:
                    h.shutdown()
            except Exception as e:  # carried over to rest()
                self.errors.append(e)

        self.writer = threading.Thread(target=work)
        self.writer.start()

    def some_writes(self):
        seen = self.batches
        wait_until(lambda: self.errors or self.batches > seen + 1, "some writes")

    def rest(self):
        self.resting.set()
        self.writer.join()
        if self.errors:
            raise self.errors[0]

    def __enter__(self):
        return self

    def __exit__(self, *unused):
        if self.writer:
            self.resting.set()
            self.writer.join()

    def same(self, path):
        with open(self.path, "rb") as a, open(path, "rb") as b:
            equal(a.read() == b.read(), True, "%s differs from the disk" % path)


def add(name, **more):
    return "add", dict(more, name=name, granularity=GRANULARITY)


def act(kind, name):
    return kind, {"name": name}


def increment(source, name, target):
    """The client's; what it says of it."""
    source.offer(name)
    return json.loads(tidemark("copy", source.daemon.uri(), target, "--bitmap", name,
                               "--json").stdout.splitlines()[-1])


@test
def with_the_client(tmp):
    "a full copy and increments by tidemark copy under load end equal to the disk"
    target = os.path.join(tmp, "copy.img")
    with Source(tmp) as s:
        s.checkpoint(add("b0"))
        s.load()
        s.some_writes()
        tidemark("copy", s.daemon.uri(), target)
        for i in range(4):
            s.some_writes()
            s.checkpoint(add("b%d" % (i + 1)), act("disable", "b%d" % i))
            frozen = s.daemon.bitmap("disk0", "b%d" % i)["count"]
            said = increment(s, "b%d" % i, target)
            equal(said["bitmap"], "b%d" % i)
            # Zeroes that had to be read are counted as both.
            equal(max(said["read"], said["zeroed"]) <= frozen <= said["read"] + said["zeroed"]
                  + GRANULARITY, True, "of %d: %s" % (frozen, said))
            s.remove("b%d" % i)
        s.rest()
        s.checkpoint(act("disable", "b4"))
        increment(s, "b4", target)
        s.same(target)


@test
def two_tools(tmp):
    "two tools with bitmaps and checkpoints of their own don't disturb each other"
    often, once = os.path.join(tmp, "often.img"), os.path.join(tmp, "once.img")
    with Source(tmp) as s:
        s.checkpoint(add("often"), add("once"))
        s.load()
        for target in (often, once):
            tidemark("copy", s.daemon.uri(), target)
        for i in range(3):
            s.some_writes()
            # What was dirty moves into a disabled bitmap, and the one that records starts afresh.
            s.checkpoint(add("now", disabled=True),
                         ("merge", {"target": "now", "bitmaps": ["often"]}), act("clear", "often"))
            increment(s, "now", often)
            s.remove("now")
        s.rest()
        s.checkpoint(act("disable", "often"), act("disable", "once"))
        s.offer("often", "once")
        h = s.daemon.nbd(contexts=["qemu:dirty-bitmap:often", "qemu:dirty-bitmap:once"])
        granules = [{g for o, n in dirty(h, name) for g in range(o // GRANULARITY, -(-(o + n) // GRANULARITY))}
                    for name in ("often", "once")]
        h.shutdown()
        equal(granules[0] <= granules[1], True, "what changed lately has changed since the beginning")
        for name, target in (("often", often), ("once", once)):
            increment(s, name, target)
            s.same(target)


def pull(source, target, name):
    """An increment with libnbd, from one daemon into another; returns what was dirty."""
    a = source.nbd(contexts=["qemu:dirty-bitmap:" + name, "base:allocation"])
    b = target.nbd("copy")
    ranges = dirty(a, name)
    holes = [(o, o + n) for o, n, flags in extents(a, "base:allocation") if flags & nbd.STATE_ZERO]
    for offset, length in ranges:
        if any(start <= offset and offset + length <= end for start, end in holes):
            b.zero(length, offset)
        else:
            b.pwrite(a.pread(length, offset), offset)
    b.flush()
    a.shutdown()
    b.shutdown()
    return ranges


@test
def into_another_daemon(tmp):
    "an increment pulled into another daemon is, in its bitmap, what was dirty in the first"
    with Source(tmp) as s:
        s.checkpoint(add("b0"))
        target = Daemon(tmp, *disk(tmp, "copy", SIZE), name="t")
        third = os.path.join(tmp, "third.img")
        a, b = s.daemon.nbd(), target.nbd("copy")
        for offset in range(0, SIZE, MIB):
            length = min(MIB, SIZE - offset)
            b.pwrite(a.pread(length, offset), offset)
        a.shutdown()
        b.shutdown()
        tidemark("copy", target.uri("copy"), third)
        rnd, handles = random.Random(3), [s.daemon.nbd() for _ in range(3)]
        for i in range(3):
            target.qmp("block-dirty-bitmap-add", node="copy", name="b", granularity=GRANULARITY)
            for _ in range(5):
                s.write(rnd, handles)
            s.checkpoint(add("b%d" % (i + 1)), act("disable", "b%d" % i))
            s.offer("b%d" % i)
            ranges = pull(s.daemon, target, "b%d" % i)
            equal(0 < sum(n for _, n in ranges) < SIZE, True, ranges)
            s.remove("b%d" % i)
            s.same(os.path.join(tmp, "copy.img"))

            # The copy's own increment, into a copy of the copy.
            target.qmp("block-export-dirty-bitmap", id="exp-copy", bitmaps=["b"])
            h = target.nbd("copy", contexts=["qemu:dirty-bitmap:b"])
            equal(dirty(h, "b"), ranges)
            h.shutdown()
            tidemark("copy", target.uri("copy"), third, "--bitmap", "b")
            s.same(third)
            target.qmp("block-export-dirty-bitmap", id="exp-copy", bitmaps=[])
            wait_until(lambda: not target.bitmap("copy", "b")["busy"], "b to be free")
            target.qmp("block-dirty-bitmap-remove", node="copy", name="b")
        for h in handles:
            h.shutdown()


main()
