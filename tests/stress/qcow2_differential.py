#!/usr/bin/python3
# SPDX-FileCopyrightText: 2026 The Tidemark authors
# SPDX-License-Identifier: GPL-2.0-or-later
# timeout: 240
"""qcow2 images of every kind, by turns in our hands and in QEMU's, against a model of the disk.

A round has a seed, and picks an image: its options, what is below it, where its file ends. Then come turns: random
writes, zeroes, discards and flushes by tidemarkd or by qemu-io, ends and kills of either, other sizes, snapshots made,
deleted and gone back to. After each turn the disk is what the model says, by qemu-img or by our next turn, and `qemu-img
check` finds nothing: leaks after a kill only, which are repaired then, and of a file that had been cut off no more than
at the beginning (what a table that was lost referred to is a leak, which shows once the file is as long again). After a
kill each sector is what it was at the last flush, or since.

STRESS_SECONDS: for so long, from a seed at random (STRESS_SEED: from that one). A failure names the seed of its round.
"""
import json
import os
import random
import struct


from harness import *
import nbd
from images import create, raw

LONG = float(os.environ.get("STRESS_SECONDS") or 0)
SEED = os.environ.get("STRESS_SEED")
ROUNDS = 4  # where nobody says for how long
SECTOR = 512
K, M = 1 << 10, 1 << 20
ZERO = bytes(SECTOR)

# Options, the cluster size, and what more: a data file, preallocation that keeps what is below away.
KINDS = [("", 64 * K), ("cluster_size=512", 512), ("cluster_size=512,refcount_bits=1", 512), ("cluster_size=4k", 4 * K),
         ("cluster_size=1k,refcount_bits=64", K), ("cluster_size=2M", 2 * M), ("refcount_bits=2,cluster_size=2k", 2 * K),
         ("extended_l2=on", 64 * K), ("extended_l2=on,cluster_size=16k", 16 * K), ("extended_l2=on,cluster_size=128k", 128 * K),
         ("compat=0.10", 64 * K), ("compat=0.10,cluster_size=1k", K), ("lazy_refcounts=on", 64 * K),
         ("lazy_refcounts=on,cluster_size=512,refcount_bits=8", 512), ("compression_type=zstd,cluster_size=4k", 4 * K),
         ("data_file={d}", 64 * K), ("data_file={d},cluster_size=4k", 4 * K), ("data_file={d},data_file_raw=on", 64 * K),
         ("preallocation=metadata,cluster_size=8k", 8 * K), ("preallocation=falloc", 64 * K),
         ("preallocation=full,cluster_size=512", 512), ("extended_l2=on,data_file={d}", 64 * K)]


class Model:
    """A disk, and per sector what else may be there: by discards, or if what was not flushed is lost."""

    def __init__(self, data):
        self.data, self.maybe, self.past = data, {}, {}

    def possible(self, s):
        return self.maybe.get(s) or {bytes(self.data[s * SECTOR:s * SECTOR + SECTOR])}

    def change(self, s, contents):
        self.past.setdefault(s, set()).update(self.possible(s))
        self.data[s * SECTOR:s * SECTOR + SECTOR] = next(iter(contents))
        self.maybe.pop(s, None)
        if len(contents) > 1:
            self.maybe[s] = contents

    def write(self, at, new, sure=True):
        for s in range(at // SECTOR, (at + len(new) - 1) // SECTOR + 1):
            a, b = max(at, s * SECTOR), min(at + len(new), (s + 1) * SECTOR)
            old = self.possible(s)
            now = {o[:a - s * SECTOR] + new[a - at:b - at] + o[b - s * SECTOR:] for o in old}
            self.change(s, now if sure else now | old)

    def discard(self, at, n):
        for s in range(-(-at // SECTOR), (at + n) // SECTOR):
            self.change(s, self.possible(s) | {ZERO})

    def flush(self):
        self.past.clear()

    def settle(self, got, what, lost=False):
        """It is that now. @lost: what was not flushed may be."""
        equal(len(got), len(self.data), what + ": the size")
        if got != self.data:
            for s in range(len(got) // SECTOR):
                now = bytes(got[s * SECTOR:s * SECTOR + SECTOR])
                if now not in self.possible(s) and not (lost and now in self.past.get(s, ())):
                    fail("%s: sector %d is %s..., expected %s..." % (
                        what, s, now[:8].hex(), " or ".join(p[:8].hex() for p in list(self.possible(s))[:4])))
        self.data = bytearray(got)
        self.maybe.clear()
        if lost:
            self.flush()


class Round:
    def __init__(self, tmp, seed):
        self.tmp, self.rng, self.seed, self.number = tmp, random.Random(seed), seed, 0
        self.did, self.snapshots, self.leaks, self.lost, self.end_before, self.dirty = [], {}, 0, 0, 0, False
        self.make()

    # ---- the image

    def make(self):
        rng = self.rng
        self.options, self.cluster = rng.choice(KINDS)
        self.v2, self.data_file = "0.10" in self.options, os.path.join(self.tmp, "data") if "{d}" in self.options else None
        self.raw = "raw" in self.options
        self.path = os.path.join(self.tmp, "image")
        self.size = rng.choice((rng.randrange(1, 2048), 2048, 4096 + rng.randrange(-9, 10), 16 * K if self.cluster > M else 7000)) * SECTOR
        below = rng.choice((None, None, "raw", "qcow2")) if "prealloc" not in self.options and not self.data_file else None
        self.below = (os.path.join(self.tmp, "base"), below) if below else None
        if below:
            self.make_base(rng.choice((self.size, rng.randrange(1, 4096) * SECTOR)))
        create(self.path, self.options.replace("{d}", self.data_file or ""), self.size, self.below)
        self.say("%s, %d bytes, over %s" % (self.options, self.size, below))
        self.model = Model(raw(self.path))
        self.whole = rng.random() < 0.6
        self.qemu()
        if not self.whole:
            self.cut()
            self.whole = True

    def make_base(self, size):
        path, form = self.below
        content = b"".join(self.rng.choice((bytes(K), self.rng.randbytes(K))) for _ in range(-(-size // K)))[:size]
        with open(path + (".r" if form == "qcow2" else ""), "wb") as f:
            f.write(content)
        if form == "qcow2":
            run("qemu-img", "convert", "-O", "qcow2", path + ".r", path)

    def cut(self):
        """The file, or that of its data, loses some of its end. QEMU says what is left."""
        path = self.data_file if self.data_file and self.rng.random() < 0.7 else self.path
        size = os.stat(path).st_size
        lost = self.rng.choice((1, SECTOR, self.rng.randrange(1, self.cluster + 1), self.cluster, 3 * self.cluster + 77))
        end = max(size - lost, 4 * self.cluster if path == self.path else 0)
        os.truncate(path, min(end, size))
        self.end_before = size if path == self.path else 0
        self.say("cut %d bytes off %s" % (lost, path))
        self.model = Model(raw(self.path))
        self.leaks, self.lost = self.check()[:2]
        if not self.opens():
            self.tidemark("image", "check", "-q", "--repair", "all", self.path)
            self.leaks = self.lost = 0

    def opens(self):
        """What lost refcounts can't be written."""
        try:
            with self.serve():
                return True
        except Failure as e:
            if "behind the end of the file" not in str(e):
                raise
        return False

    # ---- what is done

    def say(self, what):
        self.did.append(what)

    def tidemark(self, *args):
        self.say("tidemark " + " ".join(map(str, args)))
        return tidemark(*args)

    def place(self, unit=1):
        rng = self.rng
        n = rng.choice((1, SECTOR, 4096, 5000, self.cluster, 2 * self.cluster, 3 * self.cluster + 700, rng.randrange(1, 200000)))
        n = min(n, self.size)
        at = rng.choice((rng.randrange(self.size - n + 1), rng.randrange(self.size - n + 1) // self.cluster * self.cluster, self.size - n))
        return at // unit * unit, min(-(-n // unit) * unit, self.size - at // unit * unit)

    def serve(self, *more):
        rng = self.rng
        d = {"driver": "qcow2", "node-name": "disk0", "discard": "unmap", "backing": None,
             "l2-cache-size": rng.choice((1, 32 * M)), "refcount-cache-size": rng.choice((1, 4 * M)),
             "file": {"driver": "file", "filename": self.path, "discard": rng.choice(("unmap", "ignore"))}}
        if self.below:
            d["backing"] = {"driver": self.below[1], "read-only": True, "file": {"driver": "file", "filename": self.below[0]}}
        if self.data_file:
            d["data-file"] = {"driver": "file", "filename": self.data_file, "discard": "unmap"}
        if not self.v2 and rng.random() < 0.2:
            d["discard-no-unref"] = True
        return Daemon(self.tmp, "--blockdev", json.dumps(d), *more)

    def ours(self):
        """A turn of tidemarkd; it may change the size before, and be killed in the end."""
        rng = self.rng
        with self.serve() as d:
            if rng.random() < 0.25:
                self.resized(lambda size: d.qmp("block_resize", node_name="disk0", size=size), QMPError)
            d.qmp("block-export-add", type="nbd", id="e", node_name="disk0", name="disk0", writable=True)
            h = d.nbd()
            self.dirty = False
            self.model.settle(h.pread(self.size, 0) if self.size <= 32 * M else b"", "our reading")
            for _ in range(rng.randrange(1, 50)):
                self.step(h)
            kill = rng.random() < 0.3
            self.say("kill" if kill else "end")
            if kill and rng.random() < 0.5:
                at, n = self.place()
                data = rng.randbytes(n)
                h.aio_pwrite(nbd.Buffer.from_bytearray(bytearray(data)), at)
                self.model.write(at, data, sure=False)
            if kill:
                d.kill()
        self.over(kill)

    def step(self, h):
        rng, m, (at, n) = self.rng, self.model, self.place()
        what = rng.randrange(16)
        if what < 7:
            data = rng.randbytes(n)
            self.say("write %d %d" % (at, n))
            h.pwrite(data, at, nbd.CMD_FLAG_FUA if rng.randrange(10) == 0 else 0)
            m.write(at, data)
        elif what < 10:
            self.say("zero %d %d" % (at, n))
            h.zero(n, at, rng.choice((0, nbd.CMD_FLAG_NO_HOLE)))
            m.write(at, bytes(n))
        elif what < 13:
            self.say("discard %d %d" % (at, n))
            h.trim(n, at)
            m.discard(at, n)
        elif what < 14:
            self.say("flush")
            h.flush()
            m.flush()
        else:
            got = h.pread(n, at)
            for s in range(-(-at // SECTOR), (at + n) // SECTOR):
                now = bytes(got[s * SECTOR - at:(s + 1) * SECTOR - at])
                if now not in m.possible(s):
                    fail("sector %d is %s..." % (s, now[:8].hex()))

    def qemu(self):
        """A turn of qemu-io; it may kill itself in the end."""
        rng, m, commands = self.rng, self.model, []
        for _ in range(rng.randrange(1, 16)):
            at, n = self.place(SECTOR)
            what = rng.randrange(12)
            if what < 5:
                byte = rng.randrange(1, 256)
                commands.append("write -q -P %d %d %d" % (byte, at, n))
                m.write(at, bytes([byte]) * n)
            elif what < 8:
                commands.append("write -q -z %s %d %d" % (rng.choice(("", "-u")), at, n))
                m.write(at, bytes(n))
            elif what < 10 and not (self.v2 and self.below):  # there what is below comes through
                commands.append("discard -q %d %d" % (at, n))
                m.discard(at, n)
            else:
                commands.append("flush")
                m.flush()
        for _ in range(rng.randrange(3)):  # in the end: QEMU 7.2 packs some more where others are gone meanwhile
            at = self.place()[0] // self.cluster * self.cluster
            n = min(self.cluster, self.size - at)
            # Clusters that packed ones share as often as two bits can say can't be in a snapshot, too.
            if self.whole and not self.data_file and "prealloc" not in self.options and "_bits=2," not in self.options:
                commands.append("write -q -c -P 9 %d %d" % (at, n))
                m.write(at, b"\x09" * n, sure=False)  # over data it is refused
        kill = rng.random() < 0.2
        if kill:
            commands.append("sigraise 9")
        self.say("qemu-io " + "; ".join(commands))
        run("qemu-io", "-f", "qcow2", "-d", "unmap", *(x for c in commands for x in ("-c", c)), self.path, check=False)
        self.dirty = kill and "lazy" in self.options
        self.over(kill)

    def resized(self, resize, error):
        size = max(1, self.size // SECTOR + self.rng.choice((1, -1, 7, 300, -300, 3000, -self.size // SECTOR // 2))) * SECTOR
        if size > 9 * M:
            return
        self.say("resize %d" % size)
        try:
            resize(size)
        except error as e:
            if not self.v2:
                raise
            return self.say(str(e))
        m = self.model
        for s in range(size // SECTOR, self.size // SECTOR):
            m.maybe.pop(s, None)
        m.past.clear()
        m.data = m.data[:size] + bytes(max(0, size - self.size))
        self.size = size

    def resize(self):
        def by(*command):
            return lambda size: run(*command, "resize", "-q", "--shrink", self.path, size)

        if self.data_file:
            return
        self.resized(by(TIDEMARK, "image"), Failure)

    def snapshot(self):
        rng, what = self.rng, self.rng.randrange(4)
        if self.data_file or "refcount_bits=1" in self.options or self.dirty:
            return
        if what == 0 and self.snapshots:
            name = rng.choice(list(self.snapshots))
            self.say("delete " + name)
            run("qemu-img", "snapshot", "-d", name, self.path)
            del self.snapshots[name]
        elif what == 1 and self.snapshots:
            name = rng.choice(list(self.snapshots))
            if len(self.snapshots[name]) != self.size:
                return
            self.say("go back to " + name)
            run("qemu-img", "snapshot", "-a", name, self.path)
            self.model = Model(bytearray(self.snapshots[name]))
        elif len(self.snapshots) < 2:
            self.settle("before a snapshot")
            name = "s%d" % self.number
            self.say("snapshot " + name)
            run("qemu-img", "snapshot", "-c", name, self.path)
            self.snapshots[name] = bytes(self.model.data)

    # ---- what must be

    def check_as_it_is(self):
        done = run("qemu-img", "check", "--output=json", self.path, check=False)
        found = json.loads(done.stdout)
        behind = [line for line in done.stderr.splitlines() if "exceeding the end of the file" in line]
        again = len(behind) - len(set(behind))  # each snapshot refers to the same lost cluster
        return found.get("leaks", 0), found.get("corruptions", 0) - again, found.get("check-errors", 0), done.stderr

    def check(self):
        """QEMU looks for leaks up to the end of the file: those behind it are counted as well."""
        found, size = self.check_as_it_is(), os.stat(self.path).st_size
        if size < self.end_before:
            os.truncate(self.path, self.end_before)
            found = (self.check_as_it_is()[0], *found[1:])
            os.truncate(self.path, size)
        return found

    def over(self, killed):
        """After a turn."""
        if killed:
            self.lose()
        if self.dirty:
            return
        leaks, corruptions, errors, text = self.check()
        if errors or corruptions > self.lost or (leaks > self.leaks and not killed):
            fail("qemu-img check: %d leaks, %d corruptions, %d errors, %d and %d allowed\n%s" % (
                leaks, corruptions, errors, self.leaks, self.lost, text))
        self.lost = corruptions
        if leaks > self.leaks:
            self.mend()
            leaks = self.check()[0]
        self.leaks = min(leaks, self.leaks)

    def mend(self):
        by = [TIDEMARK, "image", "check", "-q", "--repair"] if self.rng.random() < 0.5 else ["qemu-img", "check", "-q", "-r"]
        run(*by, "leaks", self.path, check=False)
        equal(self.check_as_it_is()[:2], (0, self.lost), "after leaks were repaired")

    def lose(self):
        if self.rng.random() < 0.5 or self.dirty:
            with self.serve("--export", "type=nbd,id=e,node-name=disk0,name=disk0") as d:
                got = d.nbd().pread(self.size, 0)
            self.dirty = False
        else:
            got = raw(self.path)
        self.model.settle(got, "after a kill", lost=True)

    def settle(self, what):
        self.model.settle(raw(self.path), what)

    def turn(self):
        self.number += 1
        what = self.rng.randrange(12)
        if what < 6 or self.dirty:
            self.ours()
        elif what < 9:
            self.qemu()
        elif what < 10:
            self.resize()
        else:
            self.snapshot()
        if not self.dirty and self.rng.random() < 0.5:
            self.settle("qemu-img's reading")

    def end(self):
        if self.dirty:
            self.ours()
        self.settle("at the end")
        for name, content in self.snapshots.items():
            run("qemu-img", "convert", "-O", "raw", "-l", name, self.path, self.path + ".s")
            with open(self.path + ".s", "rb") as f:  # as long as the disk is now
                n = min(len(content), self.size)
                equal(f.read(n) == content[:n], True, "the snapshot " + name)


def play(tmp, seed):
    place = os.path.join(tmp, str(seed))
    os.mkdir(place)
    r = None
    try:
        r = Round.__new__(Round)
        r.__init__(place, seed)
        for _ in range(r.rng.randrange(3, 9)):
            r.turn()
        r.end()
    except Exception:
        print("# STRESS_SEED=%d (kept: %s)" % (seed, place))
        print("\n".join("#   " + line for line in getattr(r, "did", [])))
        if os.environ.get("STRESS_KEEP"):
            shutil.copytree(place, os.environ["STRESS_KEEP"])
        raise
    shutil.rmtree(place)


@test(needs=["qemu-img", "qemu-io"])
def turns(tmp):
    "by turns in our hands and in QEMU's, images hold what was written, and have no fault"
    seed = int(SEED) if SEED else random.randrange(1 << 31) if LONG else 1
    end, n = time.monotonic() + LONG, 0
    while n < ROUNDS if not LONG and not SEED else n == 0 or time.monotonic() < end:
        play(tmp, seed + n)
        n += 1
    print("# %d rounds from seed %d" % (n, seed))


main()
