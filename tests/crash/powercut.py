#!/usr/bin/python3
# SPDX-FileCopyrightText: 2026 The Tidemark authors
# SPDX-License-Identifier: GPL-2.0-or-later
# timeout: 120
"""Power cuts of real file systems: what the medium holds at a random moment under load is mounted, recovered and compared.

A machine is a file system on a loop device, with one disk and its bitmaps. Its medium is a file on a file system of its own
("the shelf"), which is frozen for as long as it takes to copy the file: so the copy is the medium of one instant, with whatever
the file system above had sent to it and nothing that was in memory. The next machine starts from the copy: its file
system replays its log, its kernel says that this is another boot, and the daemon recovers. Load goes on there, up to
the next cut.

The bitmaps are a chain, as incremental backups make one: a checkpoint adds the next and disables the last, at one
instant, with requests in flight; and one that is cleared now and then. What must be true of every block after a cut:
  - it holds a value that was written to it, not older than the last that was flushed;
  - if it is not what it was at a checkpoint, some bitmap from that checkpoint on says so. That is also true of a block
    that has gone back: who backed up what was there then has what is lost now;
  - the bitmaps are those before the change that was cut off, or after it, enabled and consistent as they were;
  - what no request touched is dirty only as far as "recovered" says, and only in what was enabled.

CRASH_CUTS is the number of cuts of each file system (1), CRASH_SEED the seed; a failure names it."""
import argparse
import copy
import fcntl
import random
import struct
import uuid


import harness
from harness import *
import nbd

MIB = 1 << 20
BLOCK = 4096
MEDIUM = 320 * MIB  # xfs takes no less
FIFREEZE, FITHAW = 0xC0045877, 0xC0045878
CONNECTIONS, DEPTH = 2, 12
# ext4 is not mounted with data=journal: there Linux 6.18 itself loses what was zeroed by fallocate() and synced.
FILE_SYSTEMS = {
    "ext4": (["mkfs.ext4", "-q", "-E", "lazy_itable_init=1,nodiscard"], ["commit=1", "noatime"]),
    "xfs": (["mkfs.xfs", "-q", "-K"], ["noatime", "logbsize=256k"]),
    "btrfs": (["mkfs.btrfs", "-q", "-K"], ["commit=1", "noatime"]),
}


def stamps(values):
    return b"".join(struct.pack("<Q", v) * (BLOCK // 8) for v in values)


def value_of(block):
    """The value that a block holds, or those of its sectors if it is torn."""
    sectors = struct.unpack("<" + "Q504x" * 8, block)
    for i, value in enumerate(sectors):
        if block[i * 512:(i + 1) * 512] != struct.pack("<Q", value) * 64:
            fail("a sector holds what nobody wrote: %s" % block[i * 512:i * 512 + 64].hex())
    return sectors[0] if len(set(sectors)) == 1 else sectors


# ---- machines


class Machine:
    """A mounted file system, whose medium can be copied as it is at one instant."""

    def __init__(self, place, kind, options):
        self.place, self.kind, self.options, self.mounted = place, kind, options, []
        self.shelf, self.root = os.path.join(place, "shelf"), os.path.join(place, "root")
        self.medium = os.path.join(self.shelf, "medium")

    def set_up(self, copied_from):
        for path in (self.place, self.shelf, self.root):
            os.mkdir(path)
        shelf = image(os.path.join(self.place, "shelf.img"), 2 * MEDIUM)
        run("mkfs.ext4", "-q", "-O", "^has_journal", "-E", "lazy_itable_init=1,nodiscard", shelf)
        self.mount(shelf, self.shelf, "noatime")
        if copied_from:
            copied_from.copy_to(self.medium)
        else:
            run(*FILE_SYSTEMS[self.kind][0], image(self.medium, MEDIUM))

    def boot(self):
        self.mount(self.medium, self.root, self.options)

    def mount(self, source, target, options):
        done = run("mount", "-o", "loop," + options, source, target, check=False)
        if done.returncode:
            skip("can't mount a loop device here: " + done.stderr.strip())
        self.mounted.append(target)

    def copy_to(self, path):
        shelf = os.open(self.shelf, os.O_RDONLY)
        try:
            fcntl.ioctl(shelf, FIFREEZE, 0)
            try:
                run("cp", "--sparse=always", self.medium, path)
            finally:
                fcntl.ioctl(shelf, FITHAW, 0)
        finally:
            os.close(shelf)

    def destroy(self):
        while self.mounted:
            run("umount", self.mounted[-1], check=False)
            run("umount", "-l", self.mounted.pop(), check=False)
        shutil.rmtree(self.place, ignore_errors=True)


# ---- the disk and its bitmaps, as they must be


class Bitmap:
    """What it may be compared with: of each block the values from lo to hi, those it may have had when the bitmap began."""

    def __init__(self, granularity, lo):
        self.granularity, self.enabled = granularity, True
        self.lo, self.hi = lo, None  # hi: once the reply is there
        self.end = None  # the last requests that may be in it, once it is disabled
        self.extra = set()  # granules that an earlier recovery has made dirty


class Model:
    def __init__(self, blocks):
        self.history = [[0] for _ in range(blocks)]  # values by number
        self.done, self.floor = [0] * blocks, [0] * blocks  # numbers: acknowledged; known to be on the medium
        self.bitmaps = {}
        self.after = None  # the bitmaps after a change that is under way

    def issued(self):
        return [len(h) - 1 for h in self.history]


class Load:
    """Requests in flight, never two of one block."""

    def __init__(self, life, daemon):
        self.life, self.daemon, self.rnd, self.model = life, daemon, life.rnd, life.model
        self.handles = [daemon.nbd() for _ in range(CONNECTIONS)]
        self.pending = [{} for _ in self.handles]  # cookie -> (first, numbers, durable) or a list of such: a flush
        self.busy, self.unflushed = set(), []
        self.move()

    def move(self):
        """Goes on elsewhere, so that where it was becomes cold."""
        blocks = len(self.model.history)
        self.window = min(self.life.window, blocks)
        self.start = self.rnd.randrange(blocks - self.window + 1)

    def issue(self, h, pending):
        rnd, model = self.rnd, self.model
        if rnd.random() < self.life.flushes:
            pending[h.aio_flush()] = self.unflushed
            self.unflushed = []
            return
        first = self.start + rnd.randrange(self.window)
        blocks = range(first, min(first + rnd.choice([1, 1, 1, 2, 4, 16]), len(model.history)))
        if self.busy.intersection(blocks):
            return
        self.busy.update(blocks)
        zero, fua = rnd.random() < 0.1, rnd.random() < 0.02
        values = [0 if zero else self.life.stamp() for _ in blocks]
        for block, value in zip(blocks, values):
            model.history[block].append(value)
        flags = nbd.CMD_FLAG_FUA if fua else 0
        if zero:
            cookie = h.aio_zero(len(blocks) * BLOCK, first * BLOCK, flags=flags)
        else:
            cookie = h.aio_pwrite(nbd.Buffer.from_bytearray(bytearray(stamps(values))), first * BLOCK, flags=flags)
        self.life.counts["writes"] += 1
        pending[cookie] = (first, [len(model.history[b]) - 1 for b in blocks], fua)

    def completed(self, what):
        model = self.model
        if isinstance(what, list):
            for first, numbers, _ in what:
                for i, number in enumerate(numbers):
                    model.floor[first + i] = max(model.floor[first + i], number)
            return
        first, numbers, fua = what
        for i, number in enumerate(numbers):
            model.done[first + i] = number
        self.busy.difference_update(range(first, first + len(numbers)))
        if fua:
            self.completed([what])
        else:
            self.unflushed.append(what)

    def pump(self, fill=True):
        for h, pending in zip(self.handles, self.pending):
            if fill and len(pending) < DEPTH:
                self.issue(h, pending)
            h.poll(0)
            for cookie in list(pending):
                if h.aio_command_completed(cookie):
                    self.completed(pending.pop(cookie))

    def operate(self, actions, after):
        """A transaction, with requests going on meanwhile. @after: the bitmaps then."""
        model, monitor = self.model, self.daemon.monitor
        model.after = after
        monitor.send({"execute": "transaction", "arguments": {"actions": actions}})
        while b"\n" not in monitor.buffer and not select.select([monitor.sock], [], [], 0)[0]:
            self.pump()
        reply = monitor.reply()
        if reply is None or "error" in reply:
            fail("%s: %s" % (actions, reply))
        self.life.settle(after)
        self.life.counts["changes"] += 1

    def close(self):
        while any(self.pending):
            self.pump(fill=False)
        for h in self.handles:
            h.shutdown()


def act(kind, **data):
    return {"type": "block-dirty-bitmap-" + kind, "data": dict(data, node="disk0")}


class Life:
    """Machines, one after the other."""

    def __init__(self, tmp, kind, driver, seed):
        self.tmp, self.kind, self.driver, self.rnd = tmp, kind, driver, random.Random(seed)
        rnd = self.rnd
        self.size = rnd.choice([24, 64]) * MIB
        self.flushes, self.window = rnd.choice([0, 0.002, 0.02, 0.1]), rnd.choice([256, 256, 1 << 20])
        self.changes, self.moves, self.write_backs = rnd.choice([0.001, 0.01]), rnd.choice([0.0005, 0.003]), rnd.choice([0, 0.01])
        self.value, self.names, self.boots = 0, 0, 0
        self.model = Model(self.size // BLOCK)
        self.machine, self.machines, self.daemon = None, [], None
        self.counts = dict.fromkeys(["writes", "changes", "blocks gone back", "blocks torn"], 0)

    def stamp(self):
        self.value += 1
        return self.value

    # machines and daemons

    def power_on(self):
        self.boots += 1
        options = self.rnd.choice(FILE_SYSTEMS[self.kind][1])
        machine = Machine(os.path.join(self.tmp, "machine%d" % self.boots), self.kind, options)
        self.machines.append(machine)
        machine.set_up(self.machine)
        return machine

    def path(self):
        return os.path.join(self.machine.root, "disk")

    def make_disk(self):
        if self.driver == "raw":
            image(self.path(), self.size)
        else:
            run("qemu-img", "create", "-q", "-f", "qcow2", "-o", self.rnd.choice(
                ["cluster_size=64k", "cluster_size=4k", "extended_l2=on"]), self.path(), self.size)

    def start(self):
        """A daemon to which this is another boot of the kernel."""
        boot, program = os.path.join(self.machine.place, "boot"), os.path.join(self.machine.place, "tidemarkd")
        with open(boot, "w") as f:
            f.write(str(uuid.UUID(int=self.rnd.getrandbits(128))) + "\n")
        with open(program, "w") as f:
            f.write("#!/bin/sh\nexec unshare --mount --propagation slave sh -c 'mount --bind \"$0\" "
                    "/proc/sys/kernel/random/boot_id && exec \"$@\"' %s %s \"$@\"\n" % (boot, TIDEMARKD))
        os.chmod(program, 0o755)
        aio = "aio=" + self.rnd.choice(["threads", "io_uring"])
        file = "driver=file,filename=%s,%s" % (self.path(), aio)
        blockdev = file + ",node-name=disk0"
        if self.driver != "raw":
            blockdev = "driver=qcow2,node-name=disk0,file.driver=file,file.filename=%s,file.%s" % (self.path(), aio)
        harness.TIDEMARKD = program
        self.daemon = Daemon(self.machine.place, "--blockdev", blockdev, "--export",
                             "type=nbd,id=exp-disk0,node-name=disk0,name=disk0,writable=on")
        return self.daemon

    # changes of the bitmaps

    def settle(self, bitmaps):
        """The reply of a change is there."""
        issued = self.model.issued()
        for bitmap in bitmaps.values():
            if bitmap.hi is None:
                bitmap.hi = issued
            if not bitmap.enabled and bitmap.end is None:
                bitmap.end = issued
        self.model.bitmaps, self.model.after = bitmaps, None

    def change(self):
        """Actions, and the bitmaps after them."""
        rnd, after = self.rnd, {n: copy.copy(b) for n, b in self.model.bitmaps.items()}
        chain = [name for name in after if name != "x"]
        begun = list(self.model.done)
        if len(chain) > 4:
            del after[chain[0]]
            return [act("remove", name=chain[0])], after
        if "x" in after and rnd.random() < 0.3:
            after["x"] = Bitmap(after["x"].granularity, begun)
            return [act("clear", name="x")], after
        actions = []
        for name in ["c%d" % self.names] + (["x"] if "x" not in after else []):
            after[name] = Bitmap(rnd.choice([BLOCK, BLOCK, 16 * BLOCK]), begun)
            actions.append(act("add", name=name, granularity=after[name].granularity, persistent=True))
        self.names += 1
        for name in chain[-1:]:
            after[name].enabled = False
            actions.append(act("disable", name=name))
        return actions, after

    # the cut

    def write_back(self):
        """Some of the page cache goes to the medium, as it does when memory is short."""
        for name in os.listdir(self.machine.root):
            path = os.path.join(self.machine.root, name)
            if os.path.isfile(path) and self.rnd.random() < 0.5:
                fd = os.open(path, os.O_RDONLY)
                start = self.rnd.randrange(self.size)
                os.posix_fadvise(fd, start, self.rnd.randrange(self.size), os.POSIX_FADV_DONTNEED)
                os.close(fd)

    def run_to_cut(self, daemon):
        """Load up to a random moment. Returns the next machine, and what was sure when the cut began."""
        rnd, model, load, sure, made = self.rnd, self.model, Load(self, daemon), [], []
        delay, soon, changed = rnd.choice([0.1, 0.5, 5]) * rnd.random(), rnd.random() < 0.5, threading.Event()

        def cut():
            time.sleep(delay)
            if soon:  # after a change: what it calls clean is not written again before
                changed.clear()
                changed.wait(3)
                time.sleep(rnd.random() * 0.05)
            sure.append((list(model.floor), model.bitmaps))
            made.append(self.power_on())

        def work():
            while not sure:
                if rnd.random() < self.changes:
                    load.operate(*self.change())
                    load.move()
                    changed.set()
                if rnd.random() < self.write_backs:
                    self.write_back()
                if rnd.random() < self.moves:
                    load.move()
                load.pump()
            while cutter.is_alive():
                load.pump()

        cutter = threading.Thread(target=cut)
        cutter.start()
        try:
            work()
        finally:
            cutter.join()
        daemon.kill()
        return made[0], *sure[0]

    def reboot(self, machine):
        self.machine.destroy()
        self.machine = machine
        machine.boot()
        if self.driver == "qcow2":
            checked = run("qemu-img", "check", self.path(), check=False)
            if checked.returncode not in (0, 3):
                fail("after the cut: " + checked.stdout + checked.stderr)

    # what is found

    def check_content(self, handle, floor):
        model, found = self.model, []
        data = b"".join(handle.pread(MIB, at) for at in range(0, self.size, MIB))
        for block, history in enumerate(model.history):
            value = value_of(data[block * BLOCK:(block + 1) * BLOCK])
            allowed = history[floor[block]:]
            sectors = [v[i] if isinstance(v, tuple) else v for v in allowed for i in range(8)]
            if value not in allowed and not (isinstance(value, tuple) and set(value) <= set(sectors)):
                fail("block %d holds %s; it was given %s, and %s was flushed" % (
                    block, value, history[-8:], history[floor[block]]))
            self.counts["blocks torn"] += isinstance(value, tuple)
            self.counts["blocks gone back"] += value not in history[model.done[block]:]
            found.append(value)
        return found

    def check_listed(self, listed, before):
        """Which of the sets of bitmaps is there, before the change that was cut off or after it."""
        possible = [self.model.after] if self.model.after is not None else []
        possible += [self.model.bitmaps] + ([before] if before is not self.model.bitmaps else [])
        got = {name: b["recording"] for name, b in listed.items()}
        if any(b.get("inconsistent") for b in listed.values()):
            fail("inconsistent: %s" % listed)
        fits = [p for p in possible if got == {name: b.enabled for name, b in p.items()}]
        if not fits:
            fail("bitmaps: %s, and not one of %s" % (got, [{n: b.enabled for n, b in p.items()} for p in possible]))
        return fits

    def misfit(self, bitmaps, granules, values, listed):
        """What is wrong with the bits, or None."""
        model, issued = self.model, self.model.issued()
        names = list(bitmaps)
        for at, name in enumerate(names):
            b = bitmaps[name]
            later = [n for n in names[at:] if n != "x"] if name != "x" else ["x"]
            hi = b.hi or issued
            for block, value in enumerate(values):
                if any(block * BLOCK // bitmaps[n].granularity in granules[n] for n in later):
                    continue
                if value not in model.history[block][b.lo[block]:hi[block] + 1]:
                    return "block %d holds %s and was %s when '%s' began, but is clean in %s" % (
                        block, value, model.history[block][b.lo[block]:hi[block] + 1], name, later)
            end, each = b.end or issued, b.granularity // BLOCK
            over = [g for g in granules[name] if g not in b.extra and all(
                b.lo[i] == end[i] for i in range(g * each, min((g + 1) * each, len(values))))]
            if len(over) * b.granularity > (listed[name].get("recovered", 0) if b.enabled else 0):
                return "%d granules of %s are dirty (%s ...) that nothing has touched; %s" % (
                    len(over), name, over[:4], listed[name])
        return None

    def check(self, daemon, floor, before):
        model = self.model
        info, = [n for n in daemon.qmp("query-named-block-nodes", flat=True) if n["node-name"] == "disk0"]
        listed = {b["name"]: b for b in info.get("dirty-bitmaps", [])}
        fits = self.check_listed(listed, before)
        daemon.qmp("block-export-dirty-bitmap", id="exp-disk0", bitmaps=list(listed))
        h = daemon.nbd(contexts=["qemu:dirty-bitmap:" + name for name in listed])
        granules = {}
        for name, b in listed.items():
            granules[name] = {g for o, n in dirty(h, name) for g in range(
                o // b["granularity"], -(-(o + n) // b["granularity"]))}
        values = self.check_content(h, floor)
        h.shutdown()
        verdicts = [self.misfit(p, granules, values, listed) for p in fits]
        if None not in verdicts:
            fail("\n  or ".join(verdicts))
        bitmaps = fits[verdicts.index(None)]
        self.settle(bitmaps)
        for name, b in bitmaps.items():
            b.extra = granules[name]
        for block, value in enumerate(values):
            model.history[block].append(value)
            model.done[block] = model.floor[block] = len(model.history[block]) - 1
        daemon.qmp("block-export-dirty-bitmap", id="exp-disk0", bitmaps=[])

    def live(self, cuts):
        try:
            self.machine = self.power_on()
            self.machine.boot()
            self.make_disk()
            run("sync", "-f", self.path())
            self.start()
            for _ in range(cuts):
                machine, floor, before = self.run_to_cut(self.daemon)
                self.reboot(machine)
                self.start()
                self.check(self.daemon, floor, before)
            self.daemon.stop()
        finally:
            if self.daemon and self.daemon.process.poll() is None:
                self.daemon.kill()
            for machine in self.machines:
                machine.destroy()


CUTS_IN_A_LIFE = 5


def lives(kind, drivers):
    done, counts = 0, {}
    while done < OPTIONS.cuts:
        seed = int(OPTIONS.seed) if OPTIONS.seed else random.SystemRandom().getrandbits(32)
        driver = OPTIONS.driver or drivers[done // CUTS_IN_A_LIFE % len(drivers)]
        number = min(CUTS_IN_A_LIFE, OPTIONS.cuts - done)
        with tempfile.TemporaryDirectory(dir="/dev/shm" if os.access("/dev/shm", os.W_OK) else None) as place:
            life = Life(place, kind, driver, seed)
            try:
                life.live(number)
            except Failure:
                print("# CRASH_SEED=%d, %s on %s (%s)" % (seed, driver, kind, life.machine.options), flush=True)
                raise
        done += number
        counts = {what: counts.get(what, 0) + n for what, n in life.counts.items()}
    print("# %d cuts: %s" % (done, ", ".join("%d %s" % (n, what) for what, n in counts.items())), flush=True)


@test(needs=["mkfs.ext4", "qemu-img"])
def on_ext4():
    "after a power cut on ext4 nothing that was flushed is lost, and nothing that has changed is called clean"
    lives("ext4", ["raw", "qcow2"])


@test(needs=["mkfs.ext4", "mkfs.xfs", "qemu-img"])
def on_xfs():
    "after a power cut on xfs nothing that was flushed is lost, and nothing that has changed is called clean"
    lives("xfs", ["qcow2", "raw"])


@test(needs=["mkfs.ext4", "mkfs.btrfs", "qemu-img"])
def on_btrfs():
    "after a power cut on btrfs nothing that was flushed is lost, and nothing that has changed is called clean"
    lives("btrfs", ["raw", "qcow2"])


parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("--cuts", type=int, default=int(os.environ.get("CRASH_CUTS") or 1))
parser.add_argument("--seed", default=os.environ.get("CRASH_SEED"))
parser.add_argument("--driver", choices=["raw", "qcow2"])
ARGUMENTS = list(sys.argv)
OPTIONS, sys.argv[1:] = parser.parse_known_args()
if not os.environ.get("POWERCUT_NAMESPACE") and subprocess.run(["unshare", "--mount", "true"], check=False,
                                                               stderr=subprocess.DEVNULL).returncode:
    print("1..0 # SKIP no mount namespace of one's own can be had here")
    sys.exit(0)
if os.geteuid() == 0 and not os.environ.get("POWERCUT_NAMESPACE"):
    # Whatever is mounted goes when the last process does, however it ends.
    os.environ["POWERCUT_NAMESPACE"] = "1"
    os.execvp("unshare", ["unshare", "--mount", sys.executable, *ARGUMENTS])
main()
