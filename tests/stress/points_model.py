#!/usr/bin/python3
# SPDX-FileCopyrightText: 2026 The Tidemark authors
# SPDX-License-Identifier: GPL-2.0-or-later
# timeout: 240
"""Points of a repository against a model of what was written (written.py), end to end, by the commands that people use.

'tidemark serve' has a raw and a qcow2 disk, writers never stop, and 'tidemark backup' takes a full and increments of both.
Each point is what both disks had at one instant. In the rounds with kills, the daemon and the client are killed at
random moments, and the next backup goes on. At the end every point is the same by 'tidemark restore', by 'qemu-img
convert' alone, and through 'tidemark serve --at', and 'tidemark verify' finds nothing.

STRESS_SECONDS: for so long, from seeds at random. STRESS_SEED: the round of that seed. Threads race, so that a seed
repeats what is tried, but not when. A failure names the seed of its round."""
import contextlib
import hashlib
import random

from harness import *
from serving import *
from written import *
import nbd

LONG = float(os.environ.get("STRESS_SECONDS") or 0)
SEED = os.environ.get("STRESS_SEED")
WRITERS, INCREMENTS = 2, 10
PACE = 0.002  # seconds between the requests of a writer: the model replays them for each point


class Paced(Writer):
    def one(self, handles):
        super().one(handles)
        time.sleep(PACE)


class Served:
    """A daemon that 'tidemark serve' runs, as writers use one."""

    def __init__(self, world):
        self.serve = Serve(world.tmp, *[disk.path for disk in world.disks])
        self.daemon = self.serve.daemon()

    def nbd(self, name):
        h = nbd.NBD()
        h.connect_uri(self.serve.uri(name))
        return h

    def kill(self):
        os.kill(self.daemon, signal.SIGKILL)
        matches(self.serve.end(0, 1), "killed by signal 9")


class World:
    may_fail = False

    def __init__(self, tmp, seed, kills):
        self.tmp, self.seed, self.kills = tmp, seed, kills
        self.random = random.Random(seed)
        self.repo = os.path.join(tmp, "repo")
        self.disks = [Disk(tmp, "disk%d" % i, self.random.randrange(3000, 9000) // 8 * 8, kind, self.random)
                      for i, kind in enumerate(("raw", "qcow2"))]
        self.rest, self.lock = threading.Event(), threading.Lock()
        self.inside, self.up = 0, False
        self.pending, self.known = {}, {}  # {point: bounds}, of which the disks are to be checked; {point: {disk: hash}}
        self.writers = [Paced(self, i, WRITERS) for i in range(WRITERS)]
        self.kinds = []

    # ---- the daemon, for those who can live with its death

    @contextlib.contextmanager
    def running(self):
        with self.lock:
            self.inside += self.up
            served = self.served if self.up else None
        if not served:
            time.sleep(0.01)
            yield None
            return
        try:
            yield served
        except Exception:
            if not self.lost():
                raise
        finally:
            with self.lock:
                self.inside -= 1

    def lost(self):
        return not self.up

    def start(self):
        self.served = Served(self)
        with self.lock:
            self.up = True

    def kill_daemon(self):
        with self.lock:
            self.up = False
        self.served.kill()

    def restart(self):
        """After a kill: the model goes on from what the disks have."""
        wait_until(lambda: not self.inside, "the writers to see that the daemon is gone")
        self.check_pending()
        self.served = Served(self)
        for disk in self.disks:
            now = values(read(self.served, disk.name), self.writers)
            for w in self.writers:
                state = w.lose(disk)
                wrong = [(s, now[s]) for s in w.own(disk) if now[s] not in (state.get(s) or {disk.base[s]})]
                equal(wrong[:5], [], "%s after a kill, writer %d" % (disk.name, w.number))
            disk.base = now
        for w in self.writers:
            w.start = len(w.log)
        with self.lock:
            self.up = True

    # ---- backups

    def points(self):
        if not os.path.isdir(self.repo):
            return set()
        return {name for name in os.listdir(self.repo)
                if os.path.exists(os.path.join(self.repo, name, "manifest.json"))}

    def backup(self, victim=None):
        """One backup, during which the victim, "client" or "daemon", may be killed."""
        before, least = self.points(), [w.done for w in self.writers]
        p = subprocess.Popen([TIDEMARK, "backup", "--json", "--wait", "20", *[d.name for d in self.disks], self.repo],
                             stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                             env=dict(os.environ, **self.served.serve.env))
        if victim:
            time.sleep(self.random.uniform(0, 0.25))
            p.kill() if victim == "client" else self.kill_daemon()
        out, err = p.communicate(timeout=PATIENCE * 2)
        if not victim:
            equal(p.returncode, 0, err)
        for point in self.points() - before:
            self.pending[point] = [(n, len(w.log)) for n, w in zip(least, self.writers)]
        if victim == "daemon":
            self.restart()
        events = [json.loads(line) for line in out.splitlines() if line.endswith("}")]
        done = [e for e in events if e["event"] == "done"]
        equal(len(self.points() - before) <= 1, True)
        if done:
            equal({e["point"] for e in done}, self.points() - before)
            self.kinds.append([d["kind"] for d in done[0]["disks"]])

    # ---- what the points have

    def restored(self, point):
        """{disk: bytes}, by 'tidemark restore'."""
        into = os.path.join(self.tmp, "restored")
        os.mkdir(into)
        tidemark("restore", "--at", point, self.repo, into)
        images = {}
        for disk in self.disks:
            with open(os.path.join(into, disk.name + ".img"), "rb") as f:
                images[disk] = f.read()
        shutil.rmtree(into)
        return images

    def check_pending(self):
        """Points that were taken since the last time are what both disks had at one instant."""
        for point, bounds in self.pending.items():
            images = self.restored(point)
            shown = {disk: values(data, self.writers) for disk, data in images.items()}
            try:
                for w, b in zip(self.writers, bounds):
                    w.prefixes(shown, *b)
            except Failure as e:
                fail("point %s: %s" % (point, e))
            self.known[point] = {disk.name: hashlib.sha256(data).hexdigest() for disk, data in images.items()}
        self.pending = {}

    def is_known(self, point, disk, path, way):
        with open(path, "rb") as f:
            found = hashlib.sha256(f.read()).hexdigest()
        os.unlink(path)
        equal(found, self.known[point][disk.name], "%s of %s by %s" % (disk.name, point, way))

    def check_all(self):
        """Each point is as when it was taken, in each way."""
        self.check_pending()
        path = os.path.join(self.tmp, "out.raw")
        for point in sorted(self.points()):
            for disk, data in self.restored(point).items():
                equal(hashlib.sha256(data).hexdigest(), self.known[point][disk.name], point)
                run("qemu-img", "convert", "-O", "raw", os.path.join(self.repo, point, disk.name + ".qcow2"), path)
                self.is_known(point, disk, path, "qemu-img")
            with Serve(self.tmp, self.repo, "--at", point) as s:
                for disk in self.disks:
                    run("nbdcopy", s.uri(disk.name), path)
                    self.is_known(point, disk, path, "serve --at")
        tidemark("verify", self.repo)

    # ---- a round

    def play(self):
        self.start()
        for w in self.writers:
            w.thread.start()
        try:
            for i in range(INCREMENTS + 1):
                kill = self.kills and i and self.random.random() < 0.5
                self.backup(self.random.choice(["client", "daemon"]) if kill else None)
                for w in self.writers:
                    if w.error:
                        raise w.error
        finally:
            self.rest.set()
            for w in self.writers:
                w.thread.join()
        self.check_pending()
        end = [(len(w.log), len(w.log)) for w in self.writers]
        now = {disk: values(read(self.served, disk.name), self.writers) for disk in self.disks}
        for w, b in zip(self.writers, end):
            w.prefixes(now, *b)
        self.served.serve.end()
        self.check_all()


def seeds():
    if SEED is not None:
        yield int(SEED)
        return
    end, n = time.monotonic() + LONG, 0
    while n < 1 if not LONG else time.monotonic() < end:
        yield n + 1 if not LONG else random.SystemRandom().getrandbits(31)
        n += 1


def rounds(tmp, kills):
    for seed in seeds():
        place = os.path.join(tmp, "w")
        os.mkdir(place)
        world = World(place, seed, kills)
        try:
            world.play()
        except Exception:
            print("# STRESS_SEED=%d, requests %s" % (seed, [len(w.log) for w in world.writers]), flush=True)
            world.served.serve.process.kill()
            raise
        yield world
        shutil.rmtree(place)


NEEDS = ["qemu-img", "nbdcopy"]


@test(needs=NEEDS)
def points(tmp):
    "a full and ten increments of two disks that are written: each is one instant, in each way of restoring it"
    for world in rounds(tmp, kills=False):
        equal(world.kinds, [["full", "full"]] + [["incremental", "incremental"]] * INCREMENTS)


@test(needs=NEEDS)
def points_with_kills(tmp):
    "the same, while the daemon and the client are killed: the next backup is an increment, and right"
    for world in rounds(tmp, kills=True):
        print("# %d points of %d backups, requests %s" % (len(world.known), INCREMENTS + 1,
                                                        [len(w.log) for w in world.writers]))
        equal(world.kinds[1:], [["incremental", "incremental"]] * (len(world.kinds) - 1))


main()
