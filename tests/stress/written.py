# SPDX-FileCopyrightText: 2026 The Tidemark authors
# SPDX-License-Identifier: GPL-2.0-or-later
"""Writers that never stop, and what disks have at an instant.

Each writer sends one request after the other, to all disks in turn, and logs them. So what an instant leaves is, of
each writer, all requests up to some number and none after it. A sector that was written says by whom, and in which
request. What a request left that failed, or a discard, is open; so is, of an image of a format, what a kill left since
the last flush."""
import array
import random
import struct

from harness import *
import nbd

SECTOR = 512
STRIPE = 64  # sectors in a row of one writer
ZERO, BASE = 0, -1  # of a sector: zeroes; what the image was made with. Else the number of the request
WRITE, TRIM, FLUSH = "write", "trim", "flush"


def sector_data(writer, value, sector):
    return struct.pack("<IIQ", writer + 1, value, sector) * (SECTOR // 16)


def base_data(sector):
    return sector_data(1 << 20, 1, sector)


class Op:
    """One request. @sure: it was answered."""

    def __init__(self, kind, disk, first, count, value):
        self.kind, self.disk, self.first, self.count, self.value = kind, disk, first, count, value
        self.sure = False

    def sectors(self):
        return range(self.first, self.first + self.count)

    def leaves(self, old):
        if self.kind == FLUSH:
            return old
        new = old | {ZERO} if self.kind == TRIM else {self.value}
        return new if self.sure else new | old


class Writer:
    """One connection to each disk; stripes are its own, every n-th."""

    def __init__(self, world, number, n):
        self.world, self.number, self.n = world, number, n
        self.random = random.Random(world.seed * 31 + number)
        self.log, self.start = [], 0  # request n is log[n - 1]; what came before @start is the disks' base
        self.done = 0  # requests that were answered, in whatever way
        self.error = None
        self.again = None  # a request whose sectors are open
        self.thread = threading.Thread(target=self.run)

    # ---- sending

    def pick(self):
        r, disk = self.random, self.world.disks[len(self.log) % len(self.world.disks)]
        if self.again:
            op = self.again
            return Op(WRITE, op.disk, op.first, op.count, len(self.log) + 1)
        if r.random() < 0.04:
            return Op(FLUSH, disk, 0, 0, 0)
        stripes = -(-disk.sectors // STRIPE)
        near = r.random() < 0.7
        stripe = r.randrange(max(1, stripes // self.n // (6 if near else 1))) * self.n + self.number
        if stripe >= stripes:
            return Op(FLUSH, disk, 0, 0, 0)
        first, end = stripe * STRIPE, min(disk.sectors, (stripe + 1) * STRIPE)
        if r.random() < 0.7:
            first = r.randrange(first, end)
            end = min(end, first + r.choice([1, 1, 3, 8, 8, 20]))
        kind = r.choice([WRITE, WRITE, WRITE, WRITE, ZERO, TRIM])
        return Op(TRIM if kind is TRIM else WRITE, disk, first, end - first, ZERO if kind == ZERO else len(self.log) + 1)

    def send(self, op, h):
        at, length = op.first * SECTOR, op.count * SECTOR
        if op.kind == FLUSH:
            h.flush()
        elif op.kind == TRIM:
            h.trim(length, at)
        elif op.value == ZERO:
            h.zero(length, at, flags=self.random.choice([0, nbd.CMD_FLAG_NO_HOLE]))
        else:
            h.pwrite(b"".join(sector_data(self.number, op.value, s) for s in op.sectors()), at,
                     flags=nbd.CMD_FLAG_FUA if self.random.random() < 0.02 else 0)

    def one(self, handles):
        op = self.pick()
        self.log.append(op)
        try:
            self.send(op, handles[op.disk.name])
        except nbd.Error as e:
            self.again = op if op.count else self.again
            if self.world.lost():
                raise
            if not self.world.may_fail or e.errno not in ("ENOSPC", "EIO", "ETIMEDOUT"):
                fail("writer %d: %s of %d+%d on %s: %s" % (self.number, op.kind, op.first, op.count, op.disk.name, e))
            self.done = len(self.log)
            time.sleep(0.02)
            return
        op.sure = True
        self.done = len(self.log)
        self.again = None if op.count else self.again
        if self.random.random() < 0.01:
            time.sleep(0.01)

    def run(self):
        try:
            while not self.world.rest.is_set():
                with self.world.running() as d:
                    if not d:
                        continue
                    handles = {disk.name: d.nbd(disk.name) for disk in self.world.disks}
                    while not self.world.rest.is_set():
                        self.one(handles)
                    while self.again:
                        self.one(handles)
        except Exception as e:  # shown by the world
            self.error, self.failed = e, time.monotonic()

    # ---- what it has written

    def owns(self, sector):
        return sector // STRIPE % self.n == self.number

    def own(self, disk):
        return (s for first in range(self.number * STRIPE, disk.sectors, self.n * STRIPE)
                for s in range(first, min(first + STRIPE, disk.sectors)))

    def play(self, disk, state, begin, end):
        """What these requests make of the state, which has what is not as in the base."""
        for op in self.log[begin:end]:
            if op.disk is disk:
                for s in op.sectors():
                    state[s] = op.leaves(state.get(s) or {disk.base[s]})

    def prefixes(self, images, least, most):
        """The least and the most number of requests that leave the images, {disk: values}."""
        states = {disk: {} for disk in images}
        for disk, state in states.items():
            self.play(disk, state, self.start, least)

        def is_wrong(disk, s):
            return images[disk][s] not in (states[disk].get(s) or {disk.base[s]})

        wrong = {(disk, s) for disk in images for s in self.own(disk) if is_wrong(disk, s)}
        fits, worst = [], None
        for n in range(least, most + 1):
            if not wrong:
                fits.append(n)
            worst = min(worst or (len(wrong), n, wrong.copy()), (len(wrong), n, wrong.copy()), key=lambda x: x[0])
            op = self.log[n] if n < most else None
            if op and op.disk in states:
                self.play(op.disk, states[op.disk], n, n + 1)
                for s in op.sectors():
                    (wrong.add if is_wrong(op.disk, s) else wrong.discard)((op.disk, s))
        if not fits:
            fail("writer %d: no number of requests from %d to %d leaves this; next is %d, but for %d sectors: %s" % (
                self.number, least, most, worst[1], worst[0], ["%s/%d: %d, not %s" % (
                    d.name, s, images[d][s], states[d].get(s) or {d.base[s]}) for d, s in sorted(
                        worst[2], key=lambda x: x[1])[:6]]))
        return fits[0], fits[-1]

    def lose(self, disk):
        """What a kill may have left of its sectors, {sector: values}."""
        state, past = {}, {}
        for op in self.log[self.start:]:
            if op.disk is not disk:
                continue
            if op.kind == FLUSH and op.sure:
                past.clear()
            for s in op.sectors():
                old = state.get(s) or {disk.base[s]}
                past.setdefault(s, set()).update(old)
                state[s] = op.leaves(old)
        return {s: values | (past.get(s, set()) if disk.format else set()) for s, values in state.items()}

    def touched(self, disk, after, upto, sure):
        """Sectors that the requests @after < n <= @upto changed, or with not @sure may have."""
        return {s for op in self.log[after:upto] if op.disk is disk and (op.sure or not sure) for s in op.sectors()}


class Disk:
    """@format: NULL for a raw file. @base: a value for each sector."""

    def __init__(self, tmp, name, sectors, kind, rnd):
        self.name, self.sectors, self.kind = name, sectors, kind
        self.format = None if kind == "raw" else "qcow2"
        self.path = os.path.join(tmp, name + ".img")
        self.below = os.path.join(tmp, name + ".base")
        runs = [] if kind == "qcow2" else [(rnd.randrange(sectors), rnd.randint(1, 200)) for _ in range(6)]
        self.base = array.array("q", bytes(8 * sectors))
        for first, n in runs:
            for s in range(first, min(sectors, first + n)):
                self.base[s] = BASE
        self.make(rnd)

    def make(self, rnd):
        data = [(s * SECTOR, base_data(s)) for s, value in enumerate(self.base) if value == BASE]
        over = kind = self.kind
        if kind != "qcow2":
            image(self.path if kind == "raw" else self.below, self.sectors * SECTOR, data)
        if kind == "qcow2 over qcow2":
            run("qemu-img", "convert", "-O", "qcow2", self.below, self.below + ".q")
            os.rename(self.below + ".q", self.below)
        if kind != "raw":
            options = rnd.choice(["", "cluster_size=4k", "cluster_size=128k", "extended_l2=on", "lazy_refcounts=on"])
            self.cluster = {"cluster_size=4k": 4096, "cluster_size=128k": 131072}.get(options, 65536)
            over = ["-b", self.below, "-F", "qcow2" if kind.endswith("over qcow2") else "raw"] if "over" in kind else []
            run("qemu-img", "create", "-q", "-f", "qcow2", *(["-o", options] if options else []), *over, self.path,
                self.sectors * SECTOR)

    def arguments(self):
        node = {"driver": "file", "filename": self.path}
        if self.format:
            node = {"driver": "qcow2", "file": node}
        if "over" in self.kind:
            node["backing"] = {"driver": "file", "filename": self.below, "read-only": True}
            if self.kind.endswith("over qcow2"):
                node["backing"] = {"driver": "qcow2", "file": node["backing"], "read-only": True}
        node.update({"node-name": self.name, "discard": "unmap"})
        return ["--blockdev", json.dumps(node),
                "--export", "type=nbd,id=exp-%s,node-name=%s,name=%s,writable=on" % ((self.name,) * 3)]


def values(data, writers):
    """A value for each sector of an image."""
    found = array.array("q", bytes(8 * (len(data) // SECTOR)))
    data, zero = bytes(data), bytes(SECTOR)
    for s in range(len(found)):
        now = data[s * SECTOR:(s + 1) * SECTOR]
        if now == zero:
            continue
        writer, value, sector = struct.unpack_from("<IIQ", now)
        if now == base_data(s):
            found[s] = BASE
        elif 1 <= writer <= len(writers) and writers[writer - 1].owns(s) and sector == s and (
                now == sector_data(writer - 1, value, s)):
            found[s] = value
        else:
            fail("sector %d has what nobody wrote there: %s" % (s, now[:32].hex()))
    return found


def read(d, export, ranges=None, image=None, rnd=None):
    """The export's content; with ranges, only these, into the image. In an order at random with @rnd."""
    h = d.nbd(export)
    image = bytearray(h.get_size()) if image is None else image
    step = rnd.choice([20000, 65536, 300000, 1 << 20]) if rnd else 1 << 20
    pieces = [(at, min(step, offset + length - at)) for offset, length in (ranges if ranges is not None else [(0, len(image))])
              for at in range(offset, offset + length, step)]
    if rnd and rnd.random() < 0.5:
        rnd.shuffle(pieces)
    for at, n in pieces:
        image[at:at + n] = h.pread(n, at)
    h.shutdown()
    return image


class Granules:
    """The granules of a bitmap that a set of extents or sectors has."""

    def __init__(self, granularity):
        self.granularity = granularity

    def of_sectors(self, sectors):
        return {s * SECTOR // self.granularity for s in sectors}

    def of_extents(self, ranges):
        return {g for at, n in ranges for g in range(at // self.granularity, (at + n - 1) // self.granularity + 1)}
