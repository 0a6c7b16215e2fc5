# SPDX-FileCopyrightText: 2026 The Tidemark authors
# SPDX-License-Identifier: GPL-2.0-or-later
"""What a guest's writes pay for a backup of its disk at one instant: while the first write to each cluster
has to wait for a copy, while the backup idles with everything copied, and while it is read at full speed.

Ours by backup-begin; qemu-storage-daemon's by fleecing (copy-before-write, snapshot-access) and by
blockdev-backup. Each on ext4 and on XFS with shared extents, both on loop devices of their own, and each beside
itself without a backup, in the same round: the figures are ratios to that."""
import atexit
import contextlib
import json
import os
import shutil
import subprocess
import threading
import time

import load
import servers

MIB = 1 << 20
TESTS = {"guest-4k-qd1": ("4k", 1), "guest-4k-qd32": ("4k", 32), "guest-64k-seq": ("64k", 4)}
NAMES = list(TESTS)
FIGURES = ("first_x", "first_cpu_x", "idle_kept", "idle_cpu_x", "idle_p50_x", "idle_p99_x",
           "read_kept", "read_added_us", "read_p50_x", "read_p99_x")
FILE_SYSTEMS = {"ext4": ["mkfs.ext4", "-q", "-F", "-E", "lazy_itable_init=1,nodiscard"],
                "xfs": ["mkfs.xfs", "-q", "-K", "-m", "reflink=1"]}


def mount(bench, kind):
    """A directory on a new file system; Unavailable: why there is none."""
    image, path = (os.path.join(bench.dir, kind + end) for end in (".fs", ".mnt"))
    if os.geteuid() != 0:
        raise servers.Unavailable("only root can mount")
    if not shutil.which(FILE_SYSTEMS[kind][0]):
        raise servers.Unavailable("%s is not here" % FILE_SYSTEMS[kind][0])
    with open(image, "wb") as file:
        file.truncate(3 << 30)
    os.makedirs(path)
    for command in (FILE_SYSTEMS[kind] + [image], ["mount", "-o", "loop,noatime", image, path]):
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode != 0:
            raise servers.Unavailable(done.stderr.strip().replace("\n", " "))
    atexit.register(unmount, path)
    return path


def unmount(path):
    if os.path.ismount(path):
        subprocess.run(["umount", path], check=False)


class Way:
    """One column: a server, the file system that its disk is on, and how it is backed up."""

    def __init__(self, kind, name, directory, file_system):
        self.kind, self.dir = kind, directory
        self.column = "%s, %s" % (name, file_system)
        self.server = None

    def start(self, bench):
        self.bench = bench
        self.size = min(bench.options.size, 256) * MIB
        self.path = os.path.join(self.dir, "disk%d" % bench.count)
        load.fill(self.path, self.size)
        self.server = bench.start(self.kind, {"driver": "file", "filename": self.path, "discard": "unmap"}, self.column)
        if self.server:
            self.run = self.server.monitor().run
        return self.server

    def end(self):
        if self.server:
            self.server.stop()
        for name in (self.path, self.path + ".scratch"):
            if os.path.exists(name):
                os.unlink(name)

    def target(self):
        """An empty file for what is copied; a new one, as what it has is not to be overwritten."""
        path = self.path + ".scratch"
        if os.path.exists(path):
            os.unlink(path)
        with open(path, "wb") as file:
            file.truncate(self.size)
        self.run("blockdev-add", driver="file", filename=path, discard="unmap", locking="off",
                 **{"node-name": "target"})

    # ---- what each does in its own manner

    def begin(self):
        self.run("backup-begin", id="b", disks=[{"node": "disk", "export": "instant"}],
                 scratch={"directory": self.dir}, timeout=0)

    def finish(self):
        self.run("backup-end", id="b", success=False)

    def read_once(self, seconds):
        """All of the instant, or as much of it as can be read in that time."""
        uri = "nbd+unix:///instant?socket=" + self.server.sock
        reader = subprocess.Popen(["nbdcopy", uri, "null:"], stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            reader.wait(max(seconds, 0.05))
        except subprocess.TimeoutExpired:
            reader.kill()
            reader.wait()

    # ---- measuring

    @contextlib.contextmanager
    def backup(self):
        self.begin()
        try:
            yield
        finally:
            self.finish()

    def guest(self, depth, order, seed, seconds=None):
        before = self.cpu()
        done = subprocess.run([self.bench.walker, "guest", self.server.uri, str(seconds or self.bench.options.seconds),
                               str(depth), str(seed), order], capture_output=True, text=True, timeout=load.TIMEOUT)
        if done.returncode != 0:
            raise RuntimeError("%s: %s" % (self.column, done.stderr.strip()))
        found = json.loads(done.stdout)
        return dict(found, us=found["seconds"] / found["writes"] * 1e6,
                    cpu=(self.cpu() - before) / found["writes"])

    def cpu(self):
        """Nanoseconds of the server: ticks would be too coarse for a write's."""
        total = 0
        for task in os.listdir("/proc/%d/task" % self.server.pid):
            try:
                with open("/proc/%d/task/%s/schedstat" % (self.server.pid, task)) as stat:
                    total += int(stat.read().split()[0])
            except OSError:  # a thread that has just ended
                pass
        return total

    def while_read(self, measure):
        until = time.monotonic() + self.bench.options.seconds + 1
        over = threading.Event()

        def read():
            while not over.is_set() and time.monotonic() < until:
                self.read_once(until - time.monotonic())

        reader = threading.Thread(target=read)
        reader.start()
        try:
            return measure()
        finally:
            over.set()
            until = 0
            reader.join()

    def measure(self, order, depth):
        seeds = iter(range(self.bench.count * 100, 1 << 30))
        once = "64k-once" if order == "64k" else "once"
        subprocess.run(["sync", "-f", self.dir], check=True)
        plain, plain_once = (self.guest(depth, o, next(seeds)) for o in (order, once))
        with self.backup():
            first = self.guest(depth, once, next(seeds))
            self.guest(32, "64k-once", 0, load.TIMEOUT)
            idle = self.guest(depth, order, next(seeds))
        with self.backup():
            read = self.while_read(lambda: self.guest(depth, order, next(seeds)))
        figures = {"iops": 1e6 / plain["us"], "p50_us": plain["p50_us"], "p99_us": plain["p99_us"],
                   "first_x": first["us"] / plain_once["us"], "first_cpu_x": first["cpu"] / plain_once["cpu"],
                   "idle_cpu_x": idle["cpu"] / plain["cpu"]}
        for name, found in (("idle", idle), ("read", read)):
            figures[name + "_kept"] = plain["us"] / found["us"]
            figures[name + "_added_us"] = found["us"] - plain["us"]
            for part in ("p50", "p99"):
                figures["%s_%s_x" % (name, part)] = found[part + "_us"] / plain[part + "_us"]
        return figures


class Fleecing(Way):
    """The export has to be made anew for the filter."""

    def export(self, node, name="disk", id="exp0", writable=True):
        self.run("block-export-add", type="nbd", id=id, name=name, writable=writable, **{"node-name": node})

    def drop(self, *ids):
        for id in ids:
            self.run("block-export-del", id=id, mode="hard")
        servers.wait_until(lambda: not [x for x in self.run("query-block-exports") if x["id"] in ids], "an export stays")

    def begin(self):
        self.target()
        self.drop("exp0")
        self.run("blockdev-add", driver="copy-before-write", file="disk", target="target", **{"node-name": "cbw"})
        self.run("blockdev-add", driver="snapshot-access", file="cbw", **{"node-name": "instant"})
        self.export("cbw")
        self.export("instant", "instant", "exp1", False)

    def finish(self):
        self.drop("exp0", "exp1")
        for node in ("instant", "cbw", "target"):
            self.run("blockdev-del", **{"node-name": node})
        self.export("disk")


class Job(Way):
    """A slow one idles: what is written is copied all the same."""

    def begin(self):
        self.target()
        self.job(1)

    def job(self, speed=0):
        self.run("blockdev-backup", device="disk", target="target", sync="full", speed=speed, **{
            "job-id": "j", "auto-dismiss": False, "filter-node-name": "cbw"})

    def jobs(self):
        return {job["id"]: job["status"] for job in self.run("query-jobs")}

    def end_job(self):
        if self.jobs().get("j") not in (None, "concluded"):
            self.run("job-cancel", id="j")
        servers.wait_until(lambda: self.jobs().get("j") in (None, "concluded"), "a job stays")
        if "j" in self.jobs():
            self.run("job-dismiss", id="j")

    def finish(self):
        self.end_job()
        self.run("blockdev-del", **{"node-name": "target"})

    def read_once(self, seconds):
        """The job reads by itself; another one when it is done."""
        until = time.monotonic() + seconds
        if "j" in self.jobs():
            self.run("block-job-set-speed", device="j", speed=0)
        else:
            self.job()
        while time.monotonic() < until and self.jobs()["j"] != "concluded":
            time.sleep(0.01)
        if self.jobs()["j"] == "concluded":
            self.end_job()


def ways(bench):
    for file_system in FILE_SYSTEMS:
        kinds = [(Way, servers.Tidemark, "tidemarkd"), (Fleecing, servers.Qsd, "qsd fleecing"),
                 (Job, servers.Qsd, "qsd backup job")]
        wanted = [(way, kind, name) for way, kind, name in kinds if bench.shown("%s, %s" % (name, file_system))]
        try:
            directory = mount(bench, file_system) if wanted else None
        except servers.Unavailable as why:
            bench.skip("guest on " + file_system, why)
            continue
        for way, kind, name in wanted:
            yield way(kind, name, directory, file_system)


def family(bench):
    if not any(map(bench.wanted, TESTS)):
        return
    columns = []
    try:
        for way in ways(bench):
            bench.progress("guest: %s" % way.column)
            if way.start(bench):
                columns.append((way.column, way))
        bench.interleave({name: lambda way, what=what: way.measure(*what) for name, what in TESTS.items()}, columns,
                         "")
    finally:
        for _, way in columns:
            way.end()
        for kind in FILE_SYSTEMS:
            unmount(os.path.join(bench.dir, kind + ".mnt"))
