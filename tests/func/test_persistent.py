#!/usr/bin/python3
# SPDX-FileCopyrightText: 2026 The Tidemark authors
# SPDX-License-Identifier: GPL-2.0-or-later
"""Persistent bitmaps through the daemon: what is left of them after a kill, a move, a copy, a foreign
writer, a lost or a strange store, and what changes to them survive. Whatever happens to the store, what
was written must be dirty (or the bitmap inconsistent), and what was not, clean, where that is promised."""
import json
import os
import random
import shutil
import tempfile

from harness import *

MIB = 1 << 20
G = 65536  # the bitmaps' granularity
SIZE = 64 * MIB
GRANULES = SIZE // G


class Disk:
    """A raw image with one persistent bitmap b, and the granules that have to be dirty in it."""

    def __init__(self, tmp, name="disk0", size=SIZE, **options):
        self.tmp, self.name, self.options = tmp, name, options
        self.path = image(os.path.join(tmp, name + ".img"), size)
        self.store = self.path + ".bitmaps"
        self.dirty = set()
        self.open()
        self.d.qmp("block-dirty-bitmap-add", node=name, name="b", persistent=True, granularity=G)

    def open(self, path=None, **options):
        """A daemon with the disk as it is."""
        self.path = path or self.path
        self.store = self.path + ".bitmaps"
        self.d = Daemon(self.tmp, *disk(self.tmp, self.name, path=self.path,
                                        **dict(self.options, **options)), name="d" + self.name)
        return self

    def write(self, *granules):
        h = self.d.nbd(self.name)
        for n in granules:
            h.pwrite(b"%03d" % (n % 1000), n * G + 17)
        h.shutdown()
        self.dirty |= set(granules)

    def again(self, how="kill", **options):
        """Ends the daemon and starts the next one."""
        getattr(self.d, how)()
        return self.open(**options)

    def of(self, name="b"):
        return self.d.bitmap(self.name, name)

    def granules(self, name="b"):
        """The dirty ones, as a client of a fresh export reads them."""
        self.d.qmp("block-export-add", {"type": "nbd", "id": "x", "node-name": self.name, "name": "x",
                                        "bitmaps": [{"node": self.name, "name": name}],
                                        "writable": True})
        h = self.d.nbd("x", ["qemu:dirty-bitmap:" + name])
        found = {n for o, length in dirty(h, name) for n in range(o // G, -(-(o + length) // G))}
        h.shutdown()
        self.d.unexport("x")
        return found

    def exact(self, name="b", what=""):
        """Its bitmap is usable and has exactly what is expected."""
        info = self.of(name)
        equal(info and info.get("inconsistent", False), False, "%s %s" % (what, info))
        equal(sorted(self.granules(name)), sorted(self.dirty), what)
        equal(info["count"], len(self.dirty) * G, what)
        equal(info.get("recovered", 0), 0, what)


# ---- ends


@test
def kill_is_exact(tmp):
    "after kill -9 a bitmap has exactly what was written, again and again, and is usable at once"
    x = Disk(tmp)
    rng = random.Random(1)
    for round_ in range(4):
        x.write(*rng.sample(range(GRANULES), 20))
        x.again()
        x.exact(what="round %d" % round_)
    equal(x.of()["persistent"], True)
    equal(x.of()["recording"], True)


@test
def clean_ends(tmp):
    "SIGTERM, quit and blockdev-del keep a persistent bitmap"
    x = Disk(tmp)
    x.write(1, 2, 30)
    x.again("stop").exact()
    x.d.qmp("quit")
    x.d.wait()
    x.open().exact()
    x.d.unexport("exp-disk0")
    x.d.qmp("blockdev-del", node_name="disk0")
    x.d.qmp("blockdev-add", driver="file", node_name="disk0", filename=x.path)
    x.exact()


@test
def states(tmp):
    "enabled or disabled, the granularity and the order of several bitmaps are kept; transient ones go"
    x = Disk(tmp)
    for name, more in (("fine", {"granularity": 512}), ("coarse", {"granularity": MIB}),
                       ("off", {"disabled": True})):
        x.d.qmp("block-dirty-bitmap-add", dict({"node": "disk0", "name": name, "persistent": True},
                                               **more))
    x.d.qmp("block-dirty-bitmap-add", node="disk0", name="gone")
    x.write(5)
    x.d.qmp("block-dirty-bitmap-disable", node="disk0", name="fine")
    x.write(6)
    x.again()
    equal([(n, x.of(n)["granularity"], x.of(n)["count"], x.of(n)["recording"])
           for n in ("b", "fine", "coarse", "off")],
          [("b", G, 2 * G, True), ("fine", 512, 512, False), ("coarse", MIB, MIB, True),
           ("off", G, 0, False)])
    equal(x.of("gone"), None)
    x.d.qmp("block-dirty-bitmap-enable", node="disk0", name="off")
    x.write(9)
    x.again()
    equal((x.of("off")["count"], x.of("off")["recording"]), (G, True))


@test
def removal(tmp):
    "the last bitmap takes the store with it; a disk without one stays without"
    x = Disk(tmp)
    x.d.qmp("block-dirty-bitmap-add", node="disk0", name="c", persistent=True)
    x.d.qmp("block-dirty-bitmap-remove", node="disk0", name="b")
    x.again()
    equal(x.of("b"), None)
    equal(os.path.exists(x.store), True)
    x.d.qmp("block-dirty-bitmap-remove", node="disk0", name="c")
    equal(os.path.exists(x.store), False)
    x.again()
    equal(x.of("c"), None)
    equal([e for e in x.d.monitor.events if e["event"] == "BITMAP_DEGRADED"], [])


# ---- what happens to files


@test
def moved_and_copied(tmp):
    "moved, or copied with its times, the image keeps its bitmap"
    x = Disk(tmp)
    x.write(3, 4)
    x.d.stop()
    os.mkdir(os.path.join(tmp, "new"))
    for source in (x.path, x.store):
        run("mv", source, os.path.join(tmp, "new"))
    x.open(os.path.join(tmp, "new", "disk0.img")).exact()
    x.d.stop()
    os.mkdir(os.path.join(tmp, "copy"))
    run("cp", "-a", x.path, x.store, os.path.join(tmp, "copy"))
    x.open(os.path.join(tmp, "copy", "disk0.img")).exact()


@test
def changed_behind_our_back(tmp):
    "a disk written by another program makes bitmaps inconsistent with the reason, unless the change is accepted"
    x = Disk(tmp)
    x.write(3)
    x.d.stop()
    with open(x.path, "r+b") as f:
        f.seek(40 * G)
        f.write(b"foreign")
    x.open()
    info = x.of()
    equal(info["inconsistent"], True)
    matches(info["reason"], "changed|modif")
    matches(x.d.log(), "bitmap 'b'.*inconsistent")
    raises(QMPError, x.d.qmp, "block-export-add", {"type": "nbd", "id": "y", "node-name": "disk0",
                                                   "name": "y", "bitmaps": ["b"]},
           match="Bitmap 'b' is inconsistent")
    raises(QMPError, x.d.qmp, "block-dirty-bitmap-clear", node="disk0", name="b",
           match="is inconsistent")
    x.d.qmp("block-dirty-bitmap-remove", node="disk0", name="b")
    equal(x.of(), None)


@test
def last_writes_of_a_driver(tmp):
    "what a format's driver writes to its file when it closes is no change by others, and is dirty there"
    if not shutil.which("qemu-img"):
        skip("qemu-img is not installed")
    path = os.path.join(tmp, "a.qcow2")
    run("qemu-img", "create", "-q", "-f", "qcow2", path, str(SIZE))
    args = ["--blockdev", "driver=file,node-name=file0,filename=%s,bitmap-store=%s/f.bitmaps" % (path, tmp),
            "--blockdev", "driver=qcow2,node-name=disk0,file=file0",
            "--export", "type=nbd,id=e,node-name=disk0,name=disk0,writable=on"]
    with Daemon(tmp, *args) as d:
        d.qmp("block-dirty-bitmap-add", node="file0", name="b", persistent=True, granularity=G)
        h = d.nbd("disk0")
        for n in range(0, 64, 2):
            h.pwrite(b"x" * G, n * G)
        h.flush()
        h.shutdown()
        os.truncate(path, os.path.getsize(path) + MIB)  # the driver cuts it off when it closes
        size = os.path.getsize(path)
        d.stop()
        equal(os.path.getsize(path) < size, True, "the driver left its file alone")
    with Daemon(tmp, *args) as d:
        info = d.bitmap("file0", "b")
        equal((info.get("inconsistent"), info.get("reason")), (None, None), str(info))
        equal(info["count"] >= 16 * G, True, "what the driver wrote")


@test
def change_accepted(tmp):
    "bitmap-accept-changed trusts what the store has"
    x = Disk(tmp)
    x.write(3)
    x.d.stop()
    with open(x.path, "r+b") as f:
        f.write(b"foreign")
    x.open(bitmap_accept_changed="on").exact()


@test
def store_of_another(tmp):
    "another image's store is not believed"
    x = Disk(tmp)
    x.write(3)
    x.d.stop()
    y = Disk(tmp, "disk1")
    y.d.stop()
    os.rename(y.store, x.store)
    x.open()
    equal(x.of()["inconsistent"], True, x.of())
    matches(x.of()["reason"], "modification time has changed")


@test
def store_lost(tmp):
    "a missing store is reported, and a new bitmap begins afresh"
    x = Disk(tmp)
    x.write(3)
    x.d.stop()
    os.unlink(x.store)
    x.open()
    equal(x.of(), None)
    matches(x.d.log(), "had a bitmap store .* its bitmaps are missing")
    x.d.qmp("block-dirty-bitmap-add", node="disk0", name="b", persistent=True, granularity=G)
    x.dirty = set()
    x.write(8)
    x.again().exact()


@test
def one_owner(tmp):
    "a second daemon can't have the disk, nor another disk its store"
    x = Disk(tmp)
    x.write(1)
    done = run(TIDEMARKD, "--blockdev", "driver=file,node-name=n,filename=" + x.path, check=False)
    equal(done.returncode, 1)
    matches(done.stderr, "lock")
    other = image(os.path.join(tmp, "other.img"), SIZE)
    done = run(TIDEMARKD, "--blockdev", "driver=file,node-name=n,filename=%s,bitmap-store=%s" % (
        other, x.store), check=False)
    equal(done.returncode, 1)
    matches(done.stderr, "%s.*(in use|lock)" % os.path.basename(x.store))
    x.again().exact()


@test
def read_only(tmp):
    "a read-only node shows its bitmaps and leaves the store as it is"
    x = Disk(tmp)
    x.write(1, 2)
    x.d.stop()
    before = open(x.store, "rb").read()
    x.d = Daemon(tmp, *disk(tmp, "disk0", path=x.path, writable=False, read_only="on"), name="ro")
    equal(x.of()["count"], 2 * G)
    raises(QMPError, x.d.qmp, "block-dirty-bitmap-add", node="disk0", name="c", persistent=True)
    raises(QMPError, x.d.qmp, "block-dirty-bitmap-clear", node="disk0", name="b")
    x.d.stop()
    equal(open(x.store, "rb").read() == before, True, "the store has changed")
    x.open().exact()


# ---- other nodes


@test
def over_another_node(tmp):
    "a raw node with an offset and the file below it have a store each"
    path = image(os.path.join(tmp, "disk0.img"), SIZE)
    store = os.path.join(tmp, "raw.bitmaps")
    args = ["--blockdev", "driver=file,node-name=f,filename=" + path, "--blockdev",
            "driver=raw,node-name=r,file=f,offset=%d,size=%d,bitmap-store=%s" % (8 * MIB, 16 * MIB,
                                                                              store),
            "--export", "nbd,id=e,node-name=r,writable=on"]
    with Daemon(tmp, *args) as d:
        d.qmp("block-dirty-bitmap-add", node="r", name="b", persistent=True, granularity=G)
        d.qmp("block-dirty-bitmap-add", node="f", name="b", persistent=True, granularity=G)
        h = d.nbd("r")
        h.pwrite(b"x", 3 * G)
        h.shutdown()
        d.kill()
    with Daemon(tmp, *args) as d:
        equal([d.bitmap(n, "b")["count"] for n in "rf"], [G, G])
        d.qmp("block-export-add", {"type": "nbd", "id": "y", "node-name": "f", "name": "f",
                                   "writable": True, "bitmaps": ["b"]})
        equal(dirty(d.nbd("f", ["qemu:dirty-bitmap:b"]), "b"), [(8 * MIB + 3 * G, G)])


@test
def a_device(tmp):
    "on a block device the store is where bitmap-store says; without the option the error says so"
    if os.getuid():
        skip("loop devices need root")
    path = image(os.path.join(tmp, "disk"), SIZE)
    store = os.path.join(tmp, "device.bitmaps")
    done = run("losetup", "--show", "-f", path, check=False)
    if done.returncode:
        skip("no loop device: " + done.stderr.strip())
    device = done.stdout.strip()
    try:
        node = "driver=host_device,node-name=disk0,filename=" + device
        with Daemon(tmp, "--blockdev", node) as d:
            raises(QMPError, d.qmp, "block-dirty-bitmap-add", node="disk0", name="b", persistent=True,
                   match="bitmap-store")
        args = ["--blockdev", node + ",bitmap-store=" + store, "--export",
                "nbd,id=e,node-name=disk0,writable=on"]
        with Daemon(tmp, *args) as d:
            d.qmp("block-dirty-bitmap-add", node="disk0", name="b", persistent=True, granularity=G)
            h = d.nbd("disk0")
            h.pwrite(b"x", 7 * G)
            h.shutdown()
            d.kill()
        again = wait_until(lambda: reopened(tmp, args), "the device to be free")
        equal(again.bitmap("disk0", "b")["count"], G)
        again.stop()
    finally:
        run("losetup", "-d", device)


def reopened(tmp, args):
    """The kernel lets go of a killed process's locks a moment after it is gone."""
    try:
        return Daemon(tmp, *args)
    except Failure:
        return None


# ---- changes


@test
def resized(tmp):
    "a grown part is dirty and a cut-off one gone, also after a kill"
    x = Disk(tmp)
    x.write(1, GRANULES - 1)
    x.d.unexport("exp-disk0")
    x.d.qmp("block_resize", node_name="disk0", size=SIZE + 4 * G)
    x.dirty |= set(range(GRANULES, GRANULES + 4))
    x.again().exact()
    x.d.unexport("exp-disk0")
    x.d.qmp("block_resize", node_name="disk0", size=SIZE // 2)
    x.dirty = {1}
    x.again().exact()


@test
def a_checkpoint_over_two_disks(tmp):
    "a transaction over two disks is in both stores"
    args = disk(tmp, "disk0", SIZE) + disk(tmp, "disk1", SIZE)

    def add(name):
        return [{"type": "block-dirty-bitmap-add", "data": {"node": n, "name": name,
                                                            "persistent": True, "granularity": G}}
                for n in ("disk0", "disk1")]

    def counts(d):
        return [(d.bitmap(n, name) or {}).get("count") for n in ("disk0", "disk1")
                for name in ("b0", "b1", "sum")]

    with Daemon(tmp, *args) as d:
        d.qmp("transaction", actions=add("b0"))
        for n, at in (("disk0", 1), ("disk1", 2)):
            h = d.nbd(n)
            h.pwrite(b"x", at * G)
            h.shutdown()
        d.qmp("transaction", actions=add("b1") + [
            {"type": "block-dirty-bitmap-disable", "data": {"node": n, "name": "b0"}}
            for n in ("disk0", "disk1")])
        h = d.nbd("disk1")
        h.pwrite(b"x" * (2 * G), 8 * G)
        h.shutdown()
        raises(QMPError, d.qmp, "transaction", actions=add("b2") + [
            {"type": "block-dirty-bitmap-remove", "data": {"node": "disk0", "name": "none"}}])
        d.kill()
    with Daemon(tmp, *args) as d:
        equal(counts(d), [G, 0, None, G, 2 * G, None])
        equal([d.bitmap(n, "b2") for n in ("disk0", "disk1")], [None, None])
        d.qmp("block-dirty-bitmap-add", node="disk1", name="sum", persistent=True, granularity=G,
              disabled=True)
        d.qmp("block-dirty-bitmap-merge", node="disk1", target="sum", bitmaps=["b0", "b1"])
        d.kill()
    with Daemon(tmp, *args) as d:
        equal(counts(d), [G, 0, None, G, 2 * G, 3 * G])
        d.qmp("block-dirty-bitmap-clear", node="disk1", name="sum")
        d.kill()
    with Daemon(tmp, *args) as d:
        equal(counts(d)[5], 0)


@test
def changes_under_load(tmp):
    "bitmaps added, cleared, merged and removed while clients write; a kill in the midst"
    x = Disk(tmp)
    stop = []

    def load(seed):
        rng = random.Random(seed)
        h = x.d.nbd("disk0")
        while not stop:
            n = rng.randrange(GRANULES)
            h.pwrite(b"x" * 100, n * G + 5)
            x.dirty.add(n)
        h.shutdown()

    def change():
        try:
            for n in range(30):
                x.d.qmp("transaction", actions=[
                    {"type": "block-dirty-bitmap-add",
                     "data": {"node": "disk0", "name": "t%d" % n, "persistent": True}},
                    {"type": "block-dirty-bitmap-clear", "data": {"node": "disk0", "name": "off"}},
                    {"type": "block-dirty-bitmap-merge",
                     "data": {"node": "disk0", "target": "off", "bitmaps": ["b"]}}])
                if n % 2:
                    x.d.qmp("block-dirty-bitmap-remove", node="disk0", name="t%d" % n)
        finally:
            stop.append(True)

    x.d.qmp("block-dirty-bitmap-add", node="disk0", name="off", persistent=True, disabled=True,
            granularity=G)
    in_threads(lambda: load(1), lambda: load(2), change)
    x.again().exact()
    equal(x.of("t28")["persistent"], True)
    equal(x.of("t29"), None)
    equal(x.granules("off") <= x.dirty, True)


@test
def process_death_only(tmp):
    "bitmap-durability=process-death: a kill is survived as exactly"
    x = Disk(tmp, bitmap_durability="process-death")
    x.write(*range(0, GRANULES, 9))
    x.again().exact()


@test
def damage(tmp):
    "whatever happens to the store's bytes, the disk opens and what was written is not called clean"
    x = Disk(tmp)
    x.d.qmp("block-dirty-bitmap-add", node="disk0", name="c", persistent=True, granularity=4096)
    x.write(*random.Random(3).sample(range(GRANULES), 60))
    x.d.stop()
    shutil.copy2(x.store, x.store + ".sound")
    for seed in range(12):
        rng = random.Random(seed)
        with open(x.store + ".sound", "rb") as f:
            data = bytearray(f.read())
        kind = rng.choice(["flip", "zero", "cut", "noise"])
        at = rng.randrange(len(data)) if seed % 2 else rng.randrange(min(len(data), 8192))
        if kind == "flip":
            data[at] ^= 1 << rng.randrange(8)
        elif kind == "cut":
            del data[at:]
        else:
            n = min(rng.choice([1, 512, 4096, 1 << 16]), len(data) - at)
            data[at:at + n] = bytes(n) if kind == "zero" else rng.randbytes(n)
        with open(x.store, "wb") as f:
            f.write(data)
        x.open()
        for name in ("b", "c"):
            info = x.of(name)
            if info and not info.get("inconsistent"):
                missing = x.dirty - x.granules(name)
                equal(missing, set(), "seed %d: %s at %d: %s calls clean" % (seed, kind, at, name))
        x.d.stop()


@test
def parts_of_a_file():
    "of the nodes over one file one has the store, the others open without it; another part does not take it"
    with tempfile.TemporaryDirectory() as tmp:
        path = image(os.path.join(tmp, "disk0.img"), SIZE)
        file = "driver=file,node-name=f,filename=" + path
        low = "driver=raw,file=f,node-name=low,offset=0,size=%d" % (SIZE // 2)
        high = "driver=raw,file=f,node-name=high,offset=%d,size=%d" % (SIZE // 2, SIZE // 2)

        def bitmaps(*blockdevs):
            with Daemon(tmp, *(a for b in blockdevs for a in ("--blockdev", b))) as d:
                return {n: d.bitmap(n, "b") is not None for n in ("f", "low", "high")
                        if "node-name=" + n in ",".join(blockdevs)}

        with Daemon(tmp, "--blockdev", file, "--blockdev", low, "--blockdev", high) as d:
            d.qmp("block-dirty-bitmap-add", node="low", name="b", persistent=True)
        equal(bitmaps(file, high), {"f": False, "high": False})
        equal(bitmaps(file, low, high), {"f": False, "low": True, "high": False})
        for _ in range(2):
            run(TIDEMARK, "bitmap", "check", path)
            run(TIDEMARK, "bitmap", "check", "--repair", path)
        with Daemon(tmp, "--blockdev", file, "--blockdev", low) as d:
            equal(d.bitmap("low", "b").get("inconsistent", False), False)
            equal(d.bitmap("low", "b")["count"], 0)
        os.unlink(path + ".bitmaps")
        with Daemon(tmp, "--blockdev", file) as d:
            d.qmp("block-dirty-bitmap-add", node="f", name="b", persistent=True)
        equal(bitmaps(file, low, high), {"f": True, "low": False, "high": False})


@test
def schema():
    "the options, fields and events are in query-qmp-schema"
    with tempfile.TemporaryDirectory() as tmp, Daemon(tmp) as d:
        text = json.dumps(d.qmp("query-qmp-schema"))
    for word in ("bitmap-store", "bitmap-place", "bitmap-durability", "process-death", "bitmap-accept-changed",
                 "recovered", "reason", "BITMAP_DEGRADED", "BITMAP_HEALED"):
        matches(text, '"%s"' % word)


main()
