#!/usr/bin/python3
# SPDX-FileCopyrightText: 2026 The Tidemark authors
# SPDX-License-Identifier: GPL-2.0-or-later
# timeout: 240
"""Backups of disks that are written all the time, against a model of what was written (written.py).

A round has a seed, and picks disks: raw files, qcow2 images, with and without something below. Several flows, each with
bitmaps and copies of its own, take fulls and increments of some of them, one after the other: by backup-begin, with
scratches that are small, or full, and clients that are cut off, or never come; by blockdev-backup, alone and in grouped
transactions, into targets that fail, with cancels; and by a copy-before-write filter put in by hand. They end in every
way. Meanwhile the daemon is killed, and started again.

What an export or a target shows is what the disks had at one instant. An increment, applied to the copy before it, is
that, too. A bitmap has what was written since it began, and nothing else. In the end, and after a kill, no node, export,
job, backup, bitmap or file is left but what is to be there.

STRESS_SECONDS: for so long, from seeds at random. STRESS_SEED: the round of that seed. Threads race, so that a seed repeats
what is tried, but not when. A failure names the seed of its round."""
import contextlib
import random

from backup_flows import *
from harness import *
from written import *

LONG = float(os.environ.get("STRESS_SECONDS") or 0)
SEED = os.environ.get("STRESS_SEED")
ROUNDS, ROUND_SECONDS = 3, 4  # where nobody says for how long
WRITERS, FLOWS = 3, 2
KINDS = ["raw", "raw", "qcow2", "qcow2 over raw", "qcow2 over qcow2"]
GRACE = 3  # seconds in which a writer may still come to know that a write has failed


class World:
    """Disks, the daemon, and who uses them."""

    def __init__(self, tmp, seed):
        self.tmp, self.seed = tmp, seed
        self.random = random.Random(seed)
        self.lock = threading.Lock()
        self.inside, self.up = 0, False
        self.killed_at = []
        self.over, self.rest = threading.Event(), threading.Event()  # for flows; for writers
        self.stops, self.stopped, self.kills = 0, 0, 0
        kinds = KINDS if have("qemu-img") else ["raw"]
        self.disks = [Disk(tmp, "disk%d" % i, self.random.randrange(3000, 9000) // (1, 8)[i] * (1, 8)[i],
                           self.random.choice(kinds), self.random) for i in range(self.random.choice([1, 2, 2]))]
        self.scratch = os.path.join(tmp, "scratch")
        self.full = os.path.join(tmp, "full")
        self.mounted = False
        for path in (self.scratch, self.full):
            os.mkdir(path)
        self.writers = [Writer(self, i, WRITERS) for i in range(WRITERS)]
        self.flows = [Flow(self, i) for i in range(FLOWS)]
        self.hands = {disk: threading.Lock() for disk in self.disks}

    def start(self):
        args = ["--io-engine", self.random.choice(["threads", "auto"])]
        self.daemon = Daemon(self.tmp, *args, *[a for disk in self.disks for a in disk.arguments()])
        self.nodes = self.nodes if hasattr(self, "nodes") else self.shown()

    # ---- the daemon, for those who can live with its death

    @contextlib.contextmanager
    def running(self):
        """Gives the daemon, or None. It ends without an error when that is killed."""
        with self.lock:
            self.inside += self.up
            daemon = self.daemon if self.up else None
        if not daemon:
            time.sleep(0.01)
            yield None
            return
        try:
            yield daemon
        except Exception:
            if not self.lost():
                raise
        finally:
            with self.lock:
                self.inside -= 1

    def lost(self):
        return not self.up

    def kill(self):
        with self.lock:
            self.up = False
        self.kills += 1
        self.killed_at.append([len(w.log) for w in self.writers])
        self.daemon.kill()
        wait_until(lambda: not self.inside, "everybody to see that the daemon is gone")
        self.start()
        for disk in self.disks:
            self.take_stock(disk)
        self.nothing_left(killed=True)
        with self.lock:
            self.up = True

    def take_stock(self, disk):
        """After a kill: what the writers go on from."""
        now = values(read(self.daemon, disk.name), self.writers)
        for w in self.writers:
            state = w.lose(disk)
            wrong = [(s, now[s], state.get(s) or {disk.base[s]}) for s in w.own(disk)
                     if now[s] not in (state.get(s) or {disk.base[s]})]
            if wrong:
                fail("%s after a kill, writer %d: %d sectors: %s" % (disk.name, w.number, len(wrong), wrong[:5]))
        disk.base = now
        if disk is self.disks[-1]:
            for w in self.writers:
                w.start = len(w.log)

    # ---- instants

    def during(self, function):
        """What it returns, and between which requests of each writer it was."""
        least = [w.done for w in self.writers]
        result = function()
        return result, [(n, len(w.log)) for n, w in zip(least, self.writers)]

    def instant(self, images, bounds):
        """The bounds, closer, for images {disk: bytes} of one instant."""
        shown = {disk: values(data, self.writers) for disk, data in images.items()}
        return [w.prefixes(shown, *b) for w, b in zip(self.writers, bounds)]

    def check_bitmap(self, disk, name, began, ranges, bounds):
        """It has what was written from its beginning to the instant, and nothing else."""
        g, had = Granules(began.granularity), None
        had = g.of_extents(ranges)
        must, may = set(), set()
        for w, lo, hi, (least, most) in zip(self.writers, began.lo, began.hi, bounds):
            must |= g.of_sectors(w.touched(disk, hi, least, True))
            may |= g.of_sectors(w.touched(disk, lo, most, False))
        if began.coarse:
            may = {i for m in may for i in range(m * g.granularity // CLUSTER * CLUSTER // g.granularity,
                   ((m * g.granularity // CLUSTER + 1) * CLUSTER - 1) // g.granularity + 1)}
        if must - had or had - may and not began.any:
            lost = [(w.number, hi + n + 1, op.kind, op.first, op.count) for w, hi, (least, _) in zip(
                self.writers, began.hi, bounds) for n, op in enumerate(w.log[hi:least]) if op.disk is disk and op.sure
                and g.of_sectors(op.sectors()) & (must - had)]
            fail("%s/%s: granules %s are missing, %s are too many; began %s %s, now %s, kills at %s; requests %s" % (
                disk.name, name, sorted(must - had)[:8], sorted(had - may)[:8], began.lo, began.hi, bounds, self.killed_at,
                lost[:8]))

    # ---- writes that may fail

    @property
    def may_fail(self):
        return self.stops or time.monotonic() < self.stopped + GRACE

    @contextlib.contextmanager
    def failing_writes(self, yes):
        with self.lock:
            self.stops += yes
        try:
            yield
        finally:
            with self.lock:
                self.stops -= yes
                self.stopped = time.monotonic() if yes else self.stopped

    # ---- what is there

    def shown(self):
        return sorted(n["node-name"] for n in self.daemon.qmp("query-named-block-nodes", flat=True))

    def bitmaps(self, disk, monitor=None):
        for info in (monitor or self.daemon.monitor)("query-named-block-nodes", flat=True):
            if info["node-name"] == disk.name:
                return {b["name"]: b for b in info.get("dirty-bitmaps", [])}
        return None

    def nothing_left(self, killed=False):
        d, exports = self.daemon, ["exp-" + disk.name for disk in self.disks]
        for command in ("query-backups", "query-jobs", "query-block-jobs"):
            equal(d.qmp(command), [], command)
        wait_until(lambda: sorted(x["id"] for x in d.qmp("query-block-exports")) == exports, "exports to go")
        wait_until(lambda: [n for n in self.shown() if n not in self.nodes] == [], "nodes to go")
        equal(len(self.shown()), len(self.nodes), "nodes")
        equal(os.listdir(self.scratch), [], "scratch files")
        found = {disk: self.bitmaps(disk) for disk in self.disks}
        for flow in self.flows:
            flow.settle({disk: {n for n in found[disk] if n.startswith(flow.prefix)} for disk in self.disks}, killed)
        for disk in self.disks:
            equal(sorted(found[disk]), sorted(n for flow in self.flows for n in flow.bitmaps[disk]), "bitmaps")
            equal([n for n, b in found[disk].items() if b["busy"] or b.get("inconsistent") or not b["recording"]], [])

    def at_rest(self):
        """Nothing is written any more: bitmaps and disks have what the model has."""
        end = [(len(w.log), len(w.log)) for w in self.writers]
        self.instant({disk: read(self.daemon, disk.name) for disk in self.disks}, end)
        for disk in self.disks:
            began = {n: b for flow in self.flows for n, b in flow.bitmaps[disk].items()}
            self.daemon.qmp("block-export-dirty-bitmap", id="exp-" + disk.name, bitmaps=sorted(began))
            for name, b in began.items():
                h = self.daemon.nbd(disk.name, ["qemu:dirty-bitmap:" + name])
                self.check_bitmap(disk, name, b, dirty(h, name), end)
                h.shutdown()

    def files(self):
        """Only what was asked for is beside the images."""
        known = {name for disk in self.disks for p in (disk.path, disk.below) for name in
                 (os.path.basename(p), os.path.basename(p) + ".bitmaps")}
        if self.kills:  # the next store of that disk is made in it
            known |= {os.path.basename(disk.path) + ".bitmaps.tmp" for disk in self.disks}
        known |= {"scratch", "full", "d.log"} | {os.path.basename(f.target(disk)) + more for f in self.flows
                                                    for disk in self.disks for more in ("", ".over")}
        equal(sorted(set(os.listdir(self.tmp)) - known), [], "files")
        for disk in self.disks:
            if disk.format:
                found = run("qemu-img", "check", disk.path, check=False).stdout
                matches(found, "No errors were found" + ("|leaked clusters were found on the image.\\nThis" if self.kills else ""))

    # ---- a round

    def play(self, seconds):
        self.start()
        self.up = True
        everybody = self.writers + self.flows
        for one in everybody:
            one.thread.start()
        try:
            end, kills = time.monotonic() + seconds, self.random.choice([0, 1, 1, 2, 3])
            for i in range(kills + 1):
                pause = time.monotonic() + (end - time.monotonic()) * self.random.uniform(0.2, 0.8) if i < kills else end
                while time.monotonic() < pause and not any(one.error for one in everybody):
                    time.sleep(0.02)
                if i < kills and not any(one.error for one in everybody):
                    self.kill()
        finally:
            self.end()
        for one in everybody:
            if one.error:
                print("# failed at %.3f, stops %s, stopped %.3f" % (one.failed, self.stops, self.stopped))
                raise one.error
        self.nothing_left()
        self.at_rest()
        self.daemon.stop()
        self.files()

    def end(self):
        self.over.set()
        for flow in self.flows:
            flow.thread.join()
        self.rest.set()
        for w in self.writers:
            w.thread.join()


@contextlib.contextmanager
def full_tmpfs(world):
    """A file system that has no space, where one may be mounted."""
    done = os.geteuid() == 0 and have("mount") and run(
        "mount", "-t", "tmpfs", "-o", "size=%dk" % world.random.choice([4, 64, 512]), "none", world.full, check=False)
    world.mounted = bool(done) and done.returncode == 0
    try:
        yield
    finally:
        if world.mounted:
            run("umount", "-l", world.full)


def seeds():
    if SEED is not None:
        yield int(SEED)
        return
    end, n = time.monotonic() + LONG, 0
    while n < ROUNDS if not LONG else time.monotonic() < end:
        yield n + 1 if not LONG else random.SystemRandom().getrandbits(31)
        n += 1


@test
def backups(tmp):
    "what backups show of disks that are written is what they had at one instant, and nothing is left of them"
    done = {}
    for seed in seeds():
        place = os.path.join(tmp, "w")
        os.mkdir(place)
        world = World(place, seed)
        try:
            with full_tmpfs(world):
                world.play(ROUND_SECONDS)
        except Exception:
            print("# STRESS_SEED=%d: %s" % (seed, [disk.kind for disk in world.disks]), flush=True)
            for flow in world.flows:
                print("# %s: %s" % (flow.prefix, flow.sent[-12:]), flush=True)
            raise
        for flow in world.flows:
            done = {kind: done.get(kind, 0) + flow.done.get(kind, 0) for kind in {*done, *flow.done}}
        shutil.rmtree(place)
    print("# %s" % done)


main()
