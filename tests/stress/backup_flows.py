# SPDX-FileCopyrightText: 2026 The Tidemark authors
# SPDX-License-Identifier: GPL-2.0-or-later
"""What backup_model.py does to disks that are written: backups of every kind, one after the other, with all that can go
wrong, and what bitmaps and copies are after each."""
import contextlib
import random

from harness import *
from written import *
import nbd

MIB, CLUSTER = 1 << 20, 1 << 16


class Span:
    """Two numbers of requests of each writer: by the first one the instant may have been, by the second one it was."""

    def __init__(self, bounds, granularity=65536, persistent=True):
        self.lo, self.hi = [lo for lo, _ in bounds], [hi for _, hi in bounds]
        self.granularity, self.persistent = granularity, persistent
        self.coarse = False  # a job that was canceled left what it had not copied, in clusters
        self.any = False  # of all of the disk

    def until(self, other):
        """A bitmap that began at one of two instants."""
        span = Span(list(zip(self.lo, other.hi)), self.granularity, self.persistent)
        span.coarse, span.any = self.coarse, self.any
        return span


class Flow:
    """Takes backups, one after the other."""

    def __init__(self, world, number):
        self.world, self.prefix = world, "f%d-" % number
        self.random = random.Random(world.seed * 17 + number)
        self.serial, self.sent = 0, []
        self.bitmaps = {disk: {} for disk in world.disks}  # {name: Span}
        self.outcomes = None  # what else they may be after a kill
        self.head = {disk: None for disk in world.disks}  # the bitmap since the copy
        self.copy = {}
        self.copied_to = []  # disks whose targets jobs write
        self.done = {}
        self.error = None
        self.thread = threading.Thread(target=self.run)

    def run(self):
        try:
            while not self.world.over.is_set():
                with self.world.running() as d:
                    if not d:
                        continue
                    self.d, self.monitor = d, d.new_monitor()
                    self.sent.append("started")
                    while not self.world.over.is_set():
                        self.cycle()
                        self.outcomes = None
                    self.monitor.close()
        except Exception as e:  # shown by the world
            self.error, self.failed = e, time.monotonic()

    def qmp(self, command, arguments=None, **more):
        """QMP, noted for who looks into a failure."""
        self.sent = self.sent[-40:] + [("%.3f" % time.monotonic(), command, arguments, more)]
        return self.monitor(command, arguments, **more)

    def cycle(self):
        self.monitor.events.clear()
        self.serial += 1
        self.id = self.prefix + str(self.serial)
        disks = self.random.sample(self.world.disks, self.random.randint(1, len(self.world.disks)))
        kind = self.random.choice([self.by_session, self.by_session, self.by_job, self.by_job, self.by_hand])
        kind(disks)
        self.done[kind.__name__] = self.done.get(kind.__name__, 0) + 1
        for disk, named in self.bitmaps.items():
            equal(sorted(n for n in self.world.bitmaps(disk, self.monitor) if n.startswith(self.prefix)), sorted(named),
                  "bitmaps of %s" % disk.name)
        time.sleep(self.random.choice([0, 0, 0.05]))

    # ---- bitmaps, and what a kill may make of them

    def new_state(self):
        return {disk: dict(named) for disk, named in self.bitmaps.items()}

    def settle(self, found, killed):
        """Which of the possible outcomes is there."""
        possible = [self.bitmaps] + (self.outcomes or [])
        if killed:
            possible = [{disk: {n: b for n, b in named.items() if b.persistent} for disk, named in state.items()}
                        for state in possible]
        fits = [state for state in possible if {disk: set(named) for disk, named in state.items()} == found]
        if not fits:
            fail("bitmaps: %s, expected one of %s" % (
                {disk.name: sorted(n) for disk, n in found.items()},
                [{disk.name: sorted(n) for disk, n in state.items()} for state in possible]))
        self.bitmaps = fits[-1]
        self.outcomes = None
        for disk in self.copied_to:  # the job may have ended well
            self.take_target(disk)
        self.copied_to = []
        for disk, name in self.head.items():
            if name not in self.bitmaps[disk]:  # a full one comes next
                self.head[disk] = None

    def prune(self):
        """Bitmaps that only keep-from has kept are removed some time."""
        for disk, named in self.bitmaps.items():
            for name in [n for n in named if n != self.head[disk] and len(named) > 2]:
                state = self.new_state()
                del state[disk][name]
                self.outcomes = [state]
                self.qmp("block-dirty-bitmap-remove", node=disk.name, name=name)
                self.bitmaps = state

    def proceed(self, disk, image, bounds, from_, ranges):
        """An image of the disk at an instant, which @ranges of it make of the copy, too."""
        if from_:
            copy = self.copy[disk]
            for at, n in ranges:
                copy[at:at + n] = image[at:at + n]
            if copy != image:
                wrong = [s for s in range(disk.sectors) if copy[s * 512:s * 512 + 512] != image[s * 512:s * 512 + 512]]
                fail("%s: the increment since %s leaves %d sectors as they were: %s" % (
                    disk.name, from_, len(wrong), wrong[:8]))
        self.copy[disk] = image

    # ---- by backup-begin

    def by_session(self, disks):
        r = self.random
        froms = {disk: self.head[disk] if r.random() < 0.85 else None for disk in disks}
        checkpoint = self.id if r.random() < 0.9 else None
        where, small = (self.world.full, False) if self.world.mounted and r.random() < 0.25 else (
            self.world.scratch, r.random() < 0.35)
        stop = r.random() < 0.4
        arguments = {"id": self.id, "timeout": r.choice([0, 1, 60]), "on-scratch-full": "stop" if stop else "abort",
                     "disks": [dict({"node": disk.name}, **({"from": froms[disk]} if froms[disk] else {})) for disk in disks],
                     "scratch": dict({"directory": where}, **({"max-size": r.choice([1, 65536, 5 * 65536])} if small else {}))}
        persistent = r.random() < 0.85
        if checkpoint:
            arguments.update({"checkpoint": checkpoint, "persistent": persistent})
        fragile = (small or where == self.world.full) and not stop or arguments["timeout"] == 1
        with self.world.failing_writes(stop and (small or where == self.world.full)):
            begun, bounds = self.world.during(lambda: self.qmp("backup-begin", arguments))
            images = self.pull_all(begun, disks, froms, bounds, fragile)
            if images:
                bounds, images = images
            self.end_session(disks, froms, checkpoint, images, bounds, persistent, fragile)
        self.prune()

    def pull_all(self, begun, disks, froms, bounds, fragile):
        """What clients read, checked: closer bounds, {disk: image}; None: it has been aborted, or they did not."""
        r = self.random
        images = {}
        try:
            for disk, said in zip(disks, begun["disks"]):
                for _ in range(r.choice([0, 0, 1, 2])):
                    self.cut_off(said["export"])
            if r.random() < 0.15:
                return None
            ranges = {}
            for disk, said in zip(disks, begun["disks"]):
                if froms[disk]:
                    h = self.d.nbd(said["export"], ["qemu:dirty-bitmap:" + froms[disk]])
                    ranges[disk] = dirty(h, froms[disk])
                    g = Granules(self.bitmaps[disk][froms[disk]].granularity)
                    if not (fragile and self.aborted()):  # it goes on recording then
                        equal(len(g.of_extents(ranges[disk])) * g.granularity, said["dirty"])
                    h.shutdown()
                images[disk] = read(self.d, said["export"], rnd=r)
                if r.random() < 0.3:
                    self.released(said["export"], disk)
        except nbd.Error:
            if fragile and not self.world.lost():
                wait_until(self.aborted, "the backup to be aborted")
                return None
            raise
        bounds = self.world.instant(images, bounds)
        for disk in disks:
            if froms[disk]:
                self.world.check_bitmap(disk, froms[disk], self.bitmaps[disk][froms[disk]], ranges[disk], bounds)
            self.proceed(disk, images[disk], bounds, froms[disk] if disk in self.copy else None, ranges.get(disk))
        return bounds, images

    def cut_off(self, export):
        """A client that vanishes in the midst."""
        h = self.d.nbd(export, ["base:allocation"])
        size = h.get_size()
        buffers = [nbd.Buffer(min(MIB, size)) for _ in range(4)]
        for buffer in buffers:
            h.aio_pread(buffer, self.random.randrange(0, size - len(buffer.to_bytearray()) + 1))
        if self.random.random() < 0.5:
            h.poll(0)
        h.kill_subprocess  # no shutdown: the socket is closed
        del h

    def released(self, export, disk):
        h = self.d.nbd(export, strict_mode=0)  # the export is read-only
        for _ in range(3):
            at = self.random.randrange(disk.sectors) * SECTOR
            h.trim(min(1 << self.random.randrange(12, 21), disk.sectors * SECTOR - at), at)
        h.shutdown()

    def aborted(self):
        return not [b for b in self.monitor("query-backups") if b["id"] == self.id and not b.get("aborted")]

    def end_session(self, disks, froms, checkpoint, images, bounds, persistent, fragile):
        r = self.random
        success = images is not None and r.random() < 0.7
        keep = success and r.random() < 0.2
        after = self.new_state()
        if success:
            for disk in disks:
                if checkpoint:
                    granularity = (after[disk][froms[disk]].granularity if froms[disk] else
                                   disk.cluster if disk.format and disk.cluster < CLUSTER else CLUSTER)
                    after[disk][checkpoint] = Span(bounds, granularity, persistent)
                if froms[disk] and not keep:
                    del after[disk][froms[disk]]
        self.outcomes = [after]
        won = self.send_end(success, keep, fragile)
        if won and success:
            self.bitmaps = after
            for disk in disks:
                self.head[disk] = checkpoint or (froms[disk] if keep else None)
        elif images:  # the copies are further than what their bitmaps say
            for disk in disks:
                self.head[disk] = self.head[disk] if froms[disk] else None
        self.outcomes = None

    def send_end(self, success, keep, fragile):
        """Whether it has ended so."""
        if self.random.random() < 0.1:
            other = self.d.new_monitor()
            other("query-backups")
            other.close()
        try:
            self.qmp("backup-end", {"id": self.id, "success": success, "keep-from": keep})
        except QMPError as e:
            if not fragile:
                raise
            matches(e.desc, "without success")
            wait_until(lambda: self.id not in [b["id"] for b in self.monitor("query-backups")], "the end")
            return False
        e = raises(QMPError, self.qmp, "backup-end", id=self.id, success=not success, match="has ended already")
        equal("with success" in e.desc, success)
        return True

    # ---- by blockdev-backup

    def target(self, disk):
        return os.path.join(self.world.tmp, self.prefix + disk.name)

    def add_targets(self, disks):
        """Those that fail, and how: {disk: policy}."""
        failing = {}
        for disk in disks:
            content = self.copy.get(disk)
            with open(self.target(disk), "wb") as f:
                f.truncate(disk.sectors * SECTOR)
                f.write(content or b"")
            node = {"driver": "file", "filename": self.target(disk)}
            if self.random.random() < 0.4:
                once = self.random.random() < 0.5
                failing[disk] = self.random.choice(["report", "ignore", "stop", "enospc"] if once else ["report", "enospc"])
                node = {"driver": "blkdebug", "image": node, "inject-error": [
                    {"event": "none", "iotype": self.random.choice(["write", "write", "write-zeroes", "flush"]),
                     "errno": self.random.choice([5, 28]), "once": once,
                     **({"sector": self.random.randrange(disk.sectors)} if self.random.random() < 0.5 else {})}
                    for _ in range(self.random.randint(1, 2))]}
                if not once:  # so that it can't stop for ever
                    for rule in node["inject-error"]:
                        rule["errno"] = 5
            self.qmp("blockdev-add", dict(node, **{"node-name": self.id + disk.name}))
        return failing

    def by_job(self, disks):
        r = self.random
        failing, self.adds = self.add_targets(disks), {}
        grouped = r.random() < 0.5
        self.names, self.modes = {}, {}  # of bitmaps; when one that was there drops what was copied
        actions = []
        for disk in disks:
            self.names[disk] = self.head[disk] if disk in self.copy and self.head[disk] else self.id
            actions += self.actions(disk, grouped, failing.get(disk, "report"))
        r.shuffle(actions)
        with self.world.failing_writes(bool(failing)):
            self.run_jobs(disks, actions, grouped, failing)

    def actions(self, disk, grouped, policy):
        r = self.random
        job = {"job-id": self.id + disk.name, "device": disk.name, "target": self.id + disk.name, "sync": "full",
               "speed": r.choice([0, 0, 0, MIB]), "x-perf": {"use-copy-range": r.random() < 0.7}, "on-target-error": policy}
        jobs = [{"type": "blockdev-backup", "data": job}]
        if r.random() < 0.2:
            job["filter-node-name"] = self.id + disk.name + "-filter"
        if self.names[disk] == self.id:
            self.fresh = (r.choice([4096, 65536, 131072]), r.random() < 0.85)
            add = {"node": disk.name, "name": self.id, "granularity": self.fresh[0], "persistent": self.fresh[1]}
            self.outcomes = [self.new_state()]
            self.outcomes[0][disk][self.id] = span = Span([(w.done, 1 << 60) for w in self.world.writers], *self.fresh)
            if not grouped and r.random() < 0.7:
                self.adds[disk] = span
                return jobs + [{"type": "block-dirty-bitmap-add", "data": add}]
            _, bounds = self.world.during(lambda: self.qmp("block-dirty-bitmap-add", add))
            self.bitmaps[disk][self.id] = Span(bounds, *self.fresh)
        self.modes[disk] = mode = r.choice(["on-success", "on-success", "always"])
        job.update({"bitmap": self.names[disk], "bitmap-mode": mode})
        if self.names[disk] != self.id:
            job["sync"] = "bitmap"
        if job["sync"] == "bitmap" and mode == "on-success" and r.random() < 0.5:
            del job["bitmap-mode"]
            job["sync"] = "incremental"
        return jobs

    def run_jobs(self, disks, actions, grouped, failing):
        r = self.random
        if r.random() < 0.15:
            raises(QMPError, self.qmp, "transaction", actions=actions + [{"type": "abort", "data": {}}])
        least = [(w.done, 1 << 60) for w in self.world.writers]
        self.copied_to = disks
        begun = self.new_state()
        for disk in self.modes:  # a job that has ended may have dropped what it copied
            begun[disk][self.names[disk]] = span = begun[disk][self.names[disk]].until(Span(least))
            span.coarse |= self.modes[disk] == "always"
            span.any |= span.coarse and self.names[disk] == self.id
        both = {disk: dict(named, **({self.id: self.adds[disk]} if disk in self.adds else {})) for disk, named in begun.items()}
        self.outcomes = [begun, both]
        _, bounds = self.world.during(lambda: self.qmp("transaction", actions=actions, properties={
            "completion-mode": "grouped" if grouped else "individual"}))
        for disk, span in self.adds.items():
            self.bitmaps[disk][self.id] = Span(bounds, span.granularity, span.persistent)
        self.outcomes = [both]
        canceled = r.random() < 0.25
        if canceled:
            time.sleep(r.choice([0, 0.02, 0.1]))
            with contextlib.suppress(QMPError):
                self.qmp("job-cancel", id=self.id + r.choice(disks).name)
        ended = {disk: self.conclude(self.id + disk.name) for disk in disks}
        for disk in disks:
            self.qmp("blockdev-del", node_name=self.id + disk.name)
            self.take_target(disk)
        self.copied_to = []
        if not canceled and not failing:
            equal([disk.name for disk in disks if not ended[disk]], [], "jobs that failed")
        if grouped:
            equal(len(set(ended.values())), 1, "ends of grouped jobs")
        self.take_over(disks, ended, bounds)

    def conclude(self, job):
        """Whether it has succeeded. It goes on when it has stopped, and may go faster."""
        limit = time.monotonic() + PATIENCE
        while time.monotonic() < limit:
            for event in self.monitor.events:
                data = event.get("data", {})
                if event["event"] in ("BLOCK_JOB_COMPLETED", "BLOCK_JOB_CANCELLED") and data["device"] == job:
                    wait_until(lambda: job not in [j["id"] for j in self.monitor("query-jobs")], "the job to go")
                    return event["event"] == "BLOCK_JOB_COMPLETED" and "error" not in data
            for info in self.monitor("query-jobs"):
                if info["id"].startswith(self.id) and info["status"] == "paused":
                    with contextlib.suppress(QMPError):
                        self.qmp("job-resume", id=info["id"])
            with contextlib.suppress(QMPError):
                if self.random.random() < 0.1:
                    self.qmp("block-job-set-speed", device=job, speed=0)
            time.sleep(0.01)
        return fail("job %s did not end: %s" % (job, self.monitor("query-jobs")))

    def take_target(self, disk):
        with open(self.target(disk), "rb") as f:
            self.copy[disk] = bytearray(f.read())

    def take_over(self, disks, ended, bounds):
        good = {disk: self.copy[disk] for disk in disks if ended[disk]}
        together = self.world.instant(good, bounds) if good else bounds
        for disk in disks:
            name = self.names[disk]
            old = self.bitmaps[disk][name]
            if ended[disk]:
                now = Span(together, old.granularity, old.persistent)
            elif self.modes.get(disk) == "always":  # it has dropped what was copied
                now = old.until(Span(bounds))
                now.coarse = True
            else:
                now = old
            self.bitmaps[disk][name] = now
            self.head[disk] = name if name != self.id or ended[disk] else None
        for disk in disks:  # a kill meanwhile finds what all of them are now
            if not self.head[disk]:
                self.drop(disk)
        self.prune()

    def drop(self, disk):
        """A full one has failed; its bitmap is of no use."""
        state = self.new_state()
        del state[disk][self.id]
        self.outcomes = [state]
        self.qmp("block-dirty-bitmap-remove", node=disk.name, name=self.id)
        self.bitmaps = state

    # ---- by hand

    def by_hand(self, disks):
        disk = disks[0]
        with self.world.hands[disk]:
            self.fleece(disk)

    def fleece(self, disk):
        r, m, name = self.random, self.qmp, self.id
        breaks = r.random() < 0.4
        guest = r.random() < 0.5
        scratch = {"driver": "scratch", "directory": self.world.scratch, "size": disk.sectors * SECTOR, "discard": "unmap"}
        over = self.target(disk) + ".over"
        if have("qemu-img") and r.random() < 0.4:  # what the target has not is the disk's
            run("qemu-img", "create", "-q", "-f", "qcow2", over, disk.sectors * SECTOR)
            scratch = {"driver": "qcow2", "file": {"driver": "file", "filename": over}, "backing": disk.name,
                       "discard": "unmap"}
        if breaks:
            scratch = {"driver": "blkdebug", "image": scratch, "discard": "unmap", "inject-error": [
                {"event": "none", "iotype": "write", "errno": 28, "once": guest, "sector": r.randrange(disk.sectors)}]}
        with self.world.failing_writes(breaks and guest):
            m("blockdev-add", dict(scratch, **{"node-name": name + "t"}))
            m("blockdev-add", {"driver": "copy-before-write", "node-name": name + "c", "file": disk.name, "target": name + "t",
                               "discard": "unmap", "on-cbw-error": "break-guest-write" if guest else "break-snapshot",
                               "cbw-timeout": r.choice([0, 0, 20])})
            drive = {"path": "/exports/exp-" + disk.name, "property": "drive"}
            try:
                _, bounds = self.world.during(lambda: m("qom-set", drive, value=name + "c"))
            except QMPError as e:  # somebody's filter would be left out
                matches(e.desc, "Permission conflict on node")
                m("blockdev-del", node_name=name + "c")
                m("blockdev-del", node_name=name + "t")
                return
            m("blockdev-add", {"driver": "snapshot-access", "node-name": name + "s", "file": name + "c", "discard": "unmap"})
            m("block-export-add", {"type": "nbd", "id": name, "node-name": name + "s", "name": name, "writable": True})
            try:
                for _ in range(r.choice([0, 1])):
                    self.cut_off(name)
                self.world.instant({disk: read(self.d, name, rnd=r)}, bounds)
                if r.random() < 0.4:
                    self.released(name, disk)
            except nbd.Error:
                if not breaks or guest or self.world.lost():
                    raise
            m("block-export-del", id=name, mode="hard")
            self.monitor.wait_event("BLOCK_EXPORT_DELETED", id=name)
            m("blockdev-del", node_name=name + "s")
            self.put_back(drive, disk)
            m("blockdev-del", node_name=name + "c")
            m("blockdev-del", node_name=name + "t")

    def put_back(self, drive, disk):
        """Others may have put filters between, which keep what is below from being written otherwise."""
        def try_it():
            try:
                self.qmp("qom-set", drive, value=disk.name)
            except QMPError as e:
                self.refused = str(e)
                return False
            return True
        wait_until(try_it, "the export to go back")
