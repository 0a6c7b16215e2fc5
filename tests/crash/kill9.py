#!/usr/bin/python3
# SPDX-FileCopyrightText: 2026 The Tidemark authors
# SPDX-License-Identifier: GPL-2.0-or-later
# timeout: 180
"""kill -9 of a daemon under load, and what its persistent bitmaps say afterwards.

A life is one disk, raw or a qcow2 image, with its bitmaps through several kills. Between two kills several connections keep
writes, zeroes and trims in flight while bitmaps are added, cleared, merged, enabled, disabled and
removed, alone and in transactions. Then comes SIGKILL: at any moment, while an operation on bitmaps
is under way, during a clean end, or while the daemon is still reading what the kill before has left.

What must be true after the restart:
  - the set of bitmaps is the one before the operation that was cut short, or the one after it;
  - each is enabled or disabled as it was, consistent, and nothing in it is there because of recovery;
  - a granule is dirty if a request that touched it was acknowledged while the bitmap recorded;
  - a granule is clean if no such request was ever issued;
  - a backup's bitmaps, which began with a copy of the disk at rest, say all that must be copied to make
    the copy equal the disk: byte by byte.

CRASH_KILLS is the number of kills (10), CRASH_SEED the seed of one life; a failure names its seed.
--calm runs the same without kills and with transient bitmaps: then what is tested is this file.
"""
import argparse
import copy
import json
import random


from expected import Bits, runs, settled, simulate
from harness import *
import nbd

MIB = 1 << 20
SIZES = [MIB + 511, 3 * MIB + 12345, 8 * MIB, 24 * MIB - 512]
GRANULARITIES = [1 << n for n in range(9, 21)]
LENGTHS = [1, 512, 700, 4096, 4096, 4096, 30000, 65536, 200000]
CONNECTIONS, DEPTH = 3, 8
KILLS_IN_A_LIFE = 5


# ---- load and operations


class Killed(Exception):
    """The daemon is gone, as intended."""


class Load:
    """Requests in flight on several connections, and the model that follows them."""

    def __init__(self, life, daemon):
        self.life, self.daemon, self.rnd = life, daemon, life.rnd
        self.handles = [daemon.nbd() for _ in range(CONNECTIONS)]
        self.pending = [{} for _ in self.handles]  # cookie -> (number, offset, length)

    def in_flight(self):
        return [(offset, length) for p in self.pending for _, offset, length in p.values()]

    def issue(self, h, pending):
        life, rnd = self.life, self.rnd
        length = min(rnd.choice(LENGTHS), life.size)
        offset = rnd.randrange(life.size - length + 1)
        if rnd.random() < 0.4:
            offset, length = offset & ~511, max(512, length & ~511)
        if rnd.random() < life.locality:  # else most granules are dirty before long
            offset = offset % (life.size // 16)
        kind = rnd.choice(["write"] * 6 + ["zero", "trim"])
        flags = nbd.CMD_FLAG_FUA if rnd.random() < 0.02 else 0
        life.issued(offset, length)
        if kind == "write":
            data = nbd.Buffer.from_bytearray(bytearray(rnd.randbytes(length)))
            cookie = h.aio_pwrite(data, offset, flags=flags)
        elif kind == "zero":
            cookie = h.aio_zero(length, offset, flags=flags)
        else:
            cookie = h.aio_trim(length, offset, flags=flags)
        # A trim that is ignored changes nothing, so it need not be recorded.
        pending[cookie] = (life.now if kind != "trim" or life.unmap else -1, offset, length)

    def reap(self, h, pending):
        for cookie in list(pending):
            try:
                if not h.aio_command_completed(cookie):
                    continue
            except nbd.Error:
                if h.aio_is_dead() or h.aio_is_closed():
                    continue  # it has no answer and will get none
                raise
            self.life.acknowledged(*pending.pop(cookie))

    def pump(self, fill=True):
        """Fills the connections up and moves them along without waiting."""
        for h, pending in zip(self.handles, self.pending):
            try:
                while fill and len(pending) < DEPTH:
                    self.issue(h, pending)
                h.poll(0)
            except nbd.Error:
                self.bury()
            self.reap(h, pending)

    def bury(self):
        """What was answered before the end counts, and nothing else should have ended it."""
        for h, pending in zip(self.handles, self.pending):
            try:
                while not (h.aio_is_dead() or h.aio_is_closed()):
                    h.poll(-1)
            except nbd.Error:
                pass
            self.reap(h, pending)
        raise Killed

    def settle(self):
        while any(self.pending):
            self.pump(fill=False)

    def close(self):
        self.settle()
        for h in self.handles:
            h.shutdown()

    def operate(self, actions, works=True):
        """A transaction, or one command; other requests go on meanwhile."""
        life = self.life
        before = life.states[0]
        if works:
            life.states.append(simulate(before, actions, life.size, self.in_flight()))
        monitor = self.daemon.monitor
        try:
            if len(actions) == 1 and self.rnd.random() < 0.5:
                monitor.send({"execute": actions[0]["type"], "arguments": actions[0]["data"]})
            else:
                monitor.send({"execute": "transaction", "arguments": {"actions": actions}})
            while b"\n" not in monitor.buffer and not select.select([monitor.sock], [], [], 0)[0]:
                self.pump()
            reply = monitor.reply()
        except OSError:
            reply = None
        if reply is None:
            self.bury()
        if ("error" in reply) == works:
            fail("%s: %s" % (actions, reply))
        if works:
            life.states = [settled(life.states[1], life.now)]


def act(kind, **data):
    return {"type": "block-dirty-bitmap-" + kind, "data": dict(data, node="disk0")}


class Life:
    """One disk, its bitmaps as they must be, and the daemons that come and go."""

    def __init__(self, tmp, seed):
        self.rnd = rnd = random.Random(seed)
        self.tmp, self.now, self.names, self.events = tmp, 0, 0, []
        self.size = rnd.choice(SIZES)
        self.locality = rnd.choice([0, 0.8, 0.97])
        self.path = self.make(os.path.join(tmp, "disk0.img"))
        self.store = {} if rnd.random() < 0.7 else {"bitmap-store": os.path.join(tmp, "elsewhere")}
        self.states = [{}]  # of the bitmaps; two while an operation is under way: before, after
        self.torn = False  # a change of the disk's size was cut short: something may be recovered
        self.chain, self.base = [], None  # bitmaps that say what has changed since the base copy

    # what the disk is in

    def make(self, path):
        self.driver = self.rnd.choice(["file", "raw"])
        return image(path, self.size, [(self.size // 3, self.rnd.randbytes(self.size // 4))])

    def content(self, daemon):
        with open(self.path, "rb") as f:
            return f.read()

    def size_now(self):
        return os.path.getsize(self.path)

    def next_size(self):
        return self.rnd.choice(SIZES) + self.rnd.choice([0, 1, 4096])

    def last_check(self):
        pass

    # the model

    def issued(self, offset, length):
        self.now += 1
        for bitmaps in self.states:
            for bitmap in bitmaps.values():
                if bitmap.open:
                    bitmap.may_be(offset, length)

    def acknowledged(self, number, offset, length):
        for bitmaps in self.states:
            for bitmap in bitmaps.values():
                if bitmap.enabled and number > bitmap.since:
                    bitmap.mark(bitmap.must, offset, length)

    # daemons

    def arguments(self):
        rnd = self.rnd
        self.unmap = rnd.random() < 0.5
        discard = {"discard": "unmap" if self.unmap else "ignore"}
        file = dict(discard, driver="file", filename=self.path)
        if rnd.random() < 0.3:
            file["cache.direct"] = "on"
        file["aio"] = rnd.choice(["threads", "io_uring"])
        options = dict(self.store, **{"bitmap-durability": rnd.choice(["power-loss", "process-death"])})
        if OPTIONS.calm:
            options = {}
        if self.driver != "file":
            file["node-name"] = "file0"
            nodes = [file, dict(options, **discard, driver=self.driver, file="file0")]
        else:
            nodes = [dict(file, **options)]
        nodes[-1]["node-name"] = "disk0"
        self.said = " ".join(["--io-engine", rnd.choice(["auto", "threads"])] + [
            "--blockdev " + ",".join("%s=%s" % pair for pair in node.items()) for node in nodes])
        return self.said.split() + ["--export", "type=nbd,id=exp-disk0,node-name=disk0,name=disk0,writable=on"]

    def start(self):
        """The kernel ends a dead process's io_uring in its own time, and its locks last until then."""
        arguments, deadline = self.arguments(), time.monotonic() + PATIENCE
        while True:
            try:
                return Daemon(self.tmp, *arguments)
            except Failure as failure:
                if "lock" not in str(failure).strip().splitlines()[-1] or time.monotonic() > deadline:
                    raise
            time.sleep(0.02)

    def stillborn(self):
        """A daemon that is killed while it starts."""
        process = subprocess.Popen([TIDEMARKD] + self.arguments(), stdin=subprocess.DEVNULL,
                                   stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        time.sleep(self.rnd.random() * 0.03)
        process.kill()
        process.wait()

    # operations

    def fresh(self, prefix):
        self.names += 1
        return "%s%d" % (prefix, self.names)

    def add(self, name, **more):
        more.setdefault("persistent", True)
        if OPTIONS.calm:
            more["persistent"] = False
        return act("add", name=name, granularity=self.rnd.choice(GRANULARITIES), **more)

    def random_action(self):
        """On bitmaps that are not the backup's."""
        rnd, bitmaps = self.rnd, self.states[0]
        others = [name for name in bitmaps if name not in self.chain]
        if not others or (len(others) < 6 and rnd.random() < 0.3):
            return self.add(self.fresh("b"), disabled=rnd.random() < 0.2, persistent=rnd.random() < 0.9)
        name = rnd.choice(others)
        kind = rnd.choice(["remove", "clear", "clear", "enable", "disable", "merge", "merge"])
        if kind == "merge":
            return act("merge", target=name, bitmaps=rnd.sample(list(bitmaps), min(len(bitmaps), 2)))
        return act(kind, name=name)

    def checkpoint(self):
        """The backup's bitmap gives way to its successor, or moves its content over, at one instant.
        Returns the actions and what the chain is then."""
        last, new = self.chain[-1], self.fresh("c")
        if self.rnd.random() < 0.5:
            return [self.add(new), act("disable", name=last)], self.chain + [new]
        return [self.add(new, disabled=True), act("merge", target=new, bitmaps=[last]),
                act("clear", name=last)], self.chain[:-1] + [new, last]

    def operate(self, load):
        rnd = self.rnd
        if rnd.random() < 0.4 and len(self.chain) < 8:
            actions, chain = self.checkpoint()
            self.cut_short = chain
            load.operate(actions)
            self.chain = chain
        else:
            actions, names = [], set()
            for _ in range(rnd.randint(1, 3)):
                action = self.random_action()
                touched = {action["data"].get("name"), *action["data"].get("bitmaps", []),
                           action["data"].get("target")} - {None}
                if not touched & names:
                    actions.append(action)
                    names |= touched
            works = rnd.random() < 0.9
            load.operate(actions if works else actions + [{"type": "abort", "data": {}}], works)

    def begin_backup(self, daemon, load):
        """With the disk at rest: a copy of it, and a bitmap that is clean then."""
        old, new = list(self.chain), self.fresh("c")
        self.chain = []
        load.operate([self.add(new)] + [act("remove", name=name) for name in old])
        self.base = bytearray(self.content(daemon))
        self.chain = [new]

    def resize(self, daemon):
        """The disk's size changes, or would have."""
        torn, old, new = self.torn, self.size, self.next_size()
        try:
            daemon.unexport("exp-disk0")
            before = self.states[0]
            after = {name: b.resized(new) for name, b in copy.deepcopy(before).items()}
            exact = copy.deepcopy(after)
            for bitmap in before.values():  # cut already, and then grown again by the restart
                if new < old:
                    bitmap.mark(bitmap.may, new, old - new)
            for bitmap in after.values():
                if new < old and new % bitmap.granularity:  # what was dirty while it was being cut
                    bitmap.mark(bitmap.may, new - 1, 1)
            self.states, self.size, self.torn = [before, after], None, True
            self.base = self.base[:old] + bytes(max(0, new - old))
            daemon.qmp("block_resize", {"node-name": "disk0", "size": new})
            self.states, self.size, self.torn = [exact], new, torn
            daemon.qmp("block-export-add", {"type": "nbd", "id": "exp-disk0", "node-name": "disk0",
                                            "name": "disk0", "writable": True})
        except (Failure, OSError):  # the monitor is gone
            raise Killed

    # what is found

    def listed(self, daemon):
        found = {}
        for node in daemon.qmp("query-named-block-nodes", flat=True):
            if node["node-name"] == "disk0":
                for b in node.get("dirty-bitmaps", []):
                    if b.get("inconsistent") or (not self.torn and (b.get("recovered") or b.get("reason"))):
                        fail("after a kill: %s" % b)
                    found[b["name"]] = (b["granularity"], b["recording"], b["persistent"])
        return found

    def offer(self, daemon, names):
        daemon.qmp("block-export-dirty-bitmap", id="exp-disk0", bitmaps=list(names))

    def release(self, daemon):
        self.offer(daemon, [])
        wait_until(lambda: not any(b["busy"] for node in daemon.qmp("query-named-block-nodes", flat=True)
                                   for b in node.get("dirty-bitmaps", [])), "the bitmaps to be free")

    @staticmethod
    def misfit(bitmaps, found):
        """Why the extents found are not what the model says, or None."""
        for name, extents in found.items():
            model = bitmaps[name]
            got = Bits(model.size, model.granularity, False, False)
            got.settle(extents)
            for what, a, b in (("are clean that must be dirty", model.must, got.must),
                               ("are dirty that can't be", got.must, model.may)):
                wrong = bytearray(x & ~y & 1 for x, y in zip(a, b))
                if any(wrong):
                    return "%s (granularity %d): %d granules %s: %s" % (
                        name, model.granularity, sum(wrong), what,
                        runs(wrong, model.granularity, model.size)[:4])
        return None

    def check(self, daemon):
        """The daemon shows one of the states; it becomes the only one."""
        listed = self.listed(daemon)
        if self.size is None:
            self.size = self.size_now()
            self.states = [s for s in self.states if all(b.size == self.size for b in s.values())]
        states = [{name: b for name, b in bitmaps.items() if b.persistent or OPTIONS.calm}
                  for bitmaps in self.states]
        said = [{name: (b.granularity, b.enabled, b.persistent) for name, b in s.items()} for s in states]
        if listed not in said:
            fail("bitmaps (granularity, enabled, persistent)\n  found    %s\n  possible %s" % (
                listed, "\n        or ".join(map(str, said))))
        self.offer(daemon, listed)
        h = daemon.nbd(contexts=["qemu:dirty-bitmap:" + name for name in listed])
        found = {name: dirty(h, name) for name in listed}
        verdicts = [self.misfit(s, found) for s, names in zip(states, said) if names == listed]
        if all(verdicts):
            fail("\n  or ".join(verdicts))
        which = [i for i, names in enumerate(said) if names == listed][verdicts.index(None)]
        if which == 1 and any(name in self.cut_short for name in set(self.states[1]) - set(self.states[0])):
            self.chain = self.cut_short
        self.states = [settled(states[which], self.now)]
        for name, bitmap in states[which].items():
            bitmap.settle(found[name])
        if self.base is not None:
            self.increment(daemon, h, found)
        h.shutdown()
        self.release(daemon)

    def increment(self, daemon, h, found):
        target = self.base[:self.size]
        if self.rnd.random() < 0.5:
            for name in self.chain:
                for offset, length in found[name]:
                    target[offset:offset + length] = h.pread(length, offset)
        else:
            path = os.path.join(self.tmp, "copy.img")
            with open(path, "wb") as f:
                f.write(target)
            for name in self.chain:
                tidemark("copy", daemon.uri(), path, "--bitmap", name, "--force")
            with open(path, "rb") as f:
                target = f.read()
        disk_now = self.content(daemon)
        if target != disk_now:
            wrong = [at for at in range(0, self.size, 512) if target[at:at + 512] != disk_now[at:at + 512]]
            fail("the base copy and what %s say differ from the disk in %d sectors: %s" % (
                self.chain, len(wrong), wrong[:8]))

    # one kill

    def end(self, daemon, load):
        """Lets the load run to a random moment, and kills."""
        rnd = self.rnd
        how = rnd.choice(["nothing", "resize"]) if OPTIONS.calm else rnd.choice(["any moment"] * 4 + ["operation"] * 4
                                                         + ["clean end", "cut clean end", "resize"])
        until = time.monotonic() + rnd.choice([0.01, 0.1, 0.3]) * rnd.random()
        killer = None
        self.events.append(how)

        def kill_in(seconds):
            timer = threading.Timer(seconds, daemon.process.kill)
            timer.daemon = True
            timer.start()
            return timer

        try:
            if how == "any moment":
                killer = kill_in(until - time.monotonic() + rnd.random() * 0.05)
                while True:
                    self.operate(load) if rnd.random() < 0.05 else load.pump()
            while time.monotonic() < until:
                self.operate(load) if rnd.random() < 0.05 else load.pump()
            if how == "operation":
                killer = kill_in(rnd.random() ** 2 * 0.02)
                while True:
                    self.operate(load)
            load.close()
            if how == "resize":
                if OPTIONS.calm:
                    self.resize(daemon)
                    return
                killer = kill_in(rnd.random() ** 2 * 0.02)
                while True:
                    self.resize(daemon)
            if how == "clean end":
                daemon.stop()
            elif how == "cut clean end":
                daemon.process.terminate()
                time.sleep(rnd.random() ** 2 * 0.02)
        except Killed:
            pass
        if killer:
            killer.join()
        if how not in ("clean end", "nothing"):
            daemon.kill()

    def live(self, kills):
        daemon = self.start()
        for kill in range(kills):
            self.cut_short = []
            load = Load(self, daemon)
            if not self.chain or self.rnd.random() < 0.5:
                self.begin_backup(daemon, load)
            self.end(daemon, load)
            if not OPTIONS.calm:
                while self.rnd.random() < 0.2:
                    self.events.append("stillborn")
                    self.stillborn()
                daemon = self.start()
            self.check(daemon)
        daemon.stop()
        self.last_check()


class Qcow2Life(Life):
    """The disk is in an image that keeps its bitmaps itself while nobody has it open."""

    def make(self, path):
        self.driver, rnd = "qcow2", self.rnd
        self.size = -(-self.size // 512) * 512
        run("qemu-img", "create", "-q", "-f", "qcow2", "-o", rnd.choice(
            ["cluster_size=512", "cluster_size=4k", "cluster_size=64k", "extended_l2=on,cluster_size=16k"]), path, self.size)
        run("qemu-io", "-c", "write -q -P 7 %d %d" % (self.size // 3 & ~511, self.size // 4 & ~511), path)
        return path

    def content(self, daemon):
        h = daemon.nbd()
        data = b"".join(h.pread(min(MIB, self.size - at), at) for at in range(0, self.size, MIB))
        h.shutdown()
        return data

    def size_now(self):
        return json.loads(run("qemu-img", "info", "-U", "--output=json", self.path).stdout)["virtual-size"]

    def next_size(self):
        return -(-self.rnd.choice(SIZES) // 512) * 512 + self.rnd.choice([0, 512, 4096])

    def last_check(self):
        """Closed: everything is in the image, for QEMU, which finds no fault but leaks."""
        checked = run("qemu-img", "check", self.path, check=False)
        if checked.returncode not in (0, 3):
            fail(checked.stdout + checked.stderr)
        info = json.loads(run("qemu-img", "info", "--output=json", self.path).stdout)
        equal({b["name"]: (b["granularity"], b["flags"]) for b in info["format-specific"]["data"].get("bitmaps", [])},
              {name: (b.granularity, ["auto"] if b.enabled else []) for name, b in self.states[0].items() if b.persistent})
        equal([name for name in os.listdir(self.tmp) if "bitmaps" in name or name == "elsewhere"], [])


def lives(tmp, kind):
    done = 0
    while done < OPTIONS.kills:
        seed = OPTIONS.seed if OPTIONS.seed is not None else random.SystemRandom().getrandbits(32)
        place = os.path.join(tmp, str(done))
        os.mkdir(place)
        life = kind(place, seed)
        number = min(KILLS_IN_A_LIFE, OPTIONS.kills - done)
        try:
            life.live(number)
        except Exception:
            print("# CRASH_SEED=%d, after %s, with %s" % (seed, ", ".join(life.events), life.said), flush=True)
            raise
        shutil.rmtree(place)
        done += number
    print("# %d kills" % done, flush=True)


@test
def kills(tmp):
    "after kill -9 under load every bitmap is there, exact, and good for an increment"
    lives(tmp, Life)


@test(needs=["qemu-img", "qemu-io"])
def kills_qcow2(tmp):
    "after kill -9 under load bitmaps of qcow2 images are exact, and at the end QEMU finds them all"
    lives(tmp, Qcow2Life)


parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("--kills", type=int, default=int(os.environ.get("CRASH_KILLS") or 10))
parser.add_argument("--seed", type=int, default=os.environ.get("CRASH_SEED"))
parser.add_argument("--calm", action="store_true")
OPTIONS, sys.argv[1:] = parser.parse_known_args()
main()
