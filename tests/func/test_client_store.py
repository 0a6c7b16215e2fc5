#!/usr/bin/python3
# SPDX-FileCopyrightText: 2026 The Tidemark authors
# SPDX-License-Identifier: GPL-2.0-or-later
"""Persistent bitmaps seen by the client: `tidemark bitmap list FILE` and `check FILE` on stores that
daemons made and that were then killed, damaged, mixed up or left in use, and what the same looks like
through a daemon."""
import json
import os
import random
import struct
import sys
import threading

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from harness import *

MIB = 1 << 20
KIB64 = 65536
SIZE = 64 * MIB


def refused(status, pattern, *args, **kwargs):
    """Runs `tidemark bitmap ...`, which has to end so, with one line on standard error."""
    p = tidemark("bitmap", *args, check=False, **kwargs)
    equal(p.returncode, status, "status of %s: %s%s" % (args, p.stdout, p.stderr))
    equal(p.stdout, "")
    equal(p.stderr.count("\n"), 1, p.stderr)
    matches(p.stderr, "^tidemark: ")
    matches(p.stderr, pattern)


def status_of(*args, **kwargs):
    """Runs `tidemark bitmap ...`; its status and output; nothing may be on standard error."""
    p = tidemark("bitmap", *args, check=False, **kwargs)
    equal(p.stderr, "")
    return p.returncode, p.stdout


def look(*args):
    """The object that `list --json` prints."""
    status, out = status_of("list", *args, "--json")
    equal(status, 0)
    return json.loads(out)


def counts(store):
    return {b["name"]: b["count"] for b in store["bitmaps"]}


def by_name(store, name):
    return [b for b in store["bitmaps"] if b["name"] == name][0]


class Story:
    """A disk with two persistent bitmaps: monday, enabled, and early, disabled half-way."""

    def __init__(self, tmp, name="disk0", **options):
        self.tmp, self.name, self.options = tmp, name, options
        self.disk = image(os.path.join(tmp, name + ".img"), SIZE)
        self.store = self.disk + ".bitmaps"
        self.start()
        for bitmap, granularity in (("monday", KIB64), ("early", 4096)):
            self.daemon.qmp("block-dirty-bitmap-add", node=name, name=bitmap, persistent=True,
                            granularity=granularity)
        self.write(range(0, 8))
        self.daemon.qmp("block-dirty-bitmap-disable", node=name, name="early")
        self.write(range(4, 40, 3))
        self.dirty = len(set(range(0, 8)) | set(range(4, 40, 3)))

    def start(self):
        self.daemon = Daemon(self.tmp, *disk(self.tmp, self.name, path=self.disk, **self.options),
                             name="d" + self.name)

    def write(self, megabytes):
        h = self.daemon.nbd(self.name)
        for n in megabytes:
            h.pwrite(b"x" * 512, n * MIB)
        h.shutdown()

    def counts(self):
        return {"monday": self.dirty * KIB64, "early": 8 * 4096}

    def right(self, *args):
        """Asserts that the store says what was written, and nothing is wrong; returns what it says."""
        store = look(*(args or (self.disk,)))
        equal(counts(store), self.counts())
        equal(store["problems"], [])
        equal((by_name(store, "monday")["recording"], by_name(store, "early")["recording"]),
              (True, False))
        return store


def flip(path, places, seed=1):
    """Changes the bytes at these places."""
    dice = random.Random(seed)
    with open(path, "r+b") as f:
        for place in places:
            f.seek(place)
            byte = f.read(1)[0]
            f.seek(place)
            f.write(bytes([byte ^ dice.randrange(1, 256)]))


def xxh64(data):
    """XXH64 with seed 0 of 32 bytes or more, a multiple of 8."""
    p1, p2, p3, p4 = (0x9E3779B185EBCA87, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9,
                      0x85EBCA77C2B2AE63)
    cut = (1 << 64) - 1

    def turn(x, n):
        return (x << n | (x & cut) >> (64 - n)) & cut

    def step(lane, word):
        return turn(lane + word * p2 & cut, 31) * p1 & cut

    words = struct.unpack("<%dQ" % (len(data) // 8), data)
    whole = len(words) // 4 * 4
    lanes = [p1 + p2 & cut, p2, 0, -p1 & cut]
    for i, word in enumerate(words[:whole]):
        lanes[i % 4] = step(lanes[i % 4], word)
    h = sum(turn(lane, n) for lane, n in zip(lanes, (1, 7, 12, 18))) & cut
    for lane in lanes:
        h = (h ^ step(0, lane)) * p1 + p4 & cut
    h = h + len(data) & cut
    for word in words[whole:]:
        h = turn(h ^ step(0, word), 27) * p1 + p4 & cut
    h = (h ^ h >> 33) * p2 & cut
    h = (h ^ h >> 29) * p3 & cut
    return h ^ h >> 32


def forge(path, at, content):
    """Changes both superblocks (docs/bitmap-store.md) so that they are still valid."""
    with open(path, "r+b") as f:
        for copy in range(2):
            f.seek(copy * 4096)
            block = bytearray(f.read(512))
            equal(block[504:], struct.pack("<Q", xxh64(bytes(block[:504]))), "the checksum")
            block[at:at + len(content)] = content
            f.seek(copy * 4096)
            f.write(block[:504] + struct.pack("<Q", xxh64(bytes(block[:504]))))


BOOT_ID, STATE, VERSION = 128, 48, 8  # offsets in a superblock


@test
def closed(tmp):
    "a closed store is listed as the daemon had it, by the name of the disk or of the store"
    s = Story(tmp)
    s.daemon.stop()
    store = s.right()
    equal(store["state"], "closed")
    equal((store["store"], store["disk"]), (s.store, s.disk))
    equal((store["size"], store["store-size"]), (SIZE, os.stat(s.store).st_size))
    equal(store["durability"], "power-loss")
    equal(by_name(store, "monday"), {
        "name": "monday", "granularity": KIB64, "count": s.dirty * KIB64, "recording": True,
        "persistent": True, "size": SIZE})
    equal(s.right(s.store)["disk"], s.disk)
    equal(counts(look(s.disk, "early")), {"early": 8 * 4096})
    os.symlink(s.disk, os.path.join(tmp, "link"))
    equal(s.right(os.path.join(tmp, "link"))["store"], s.store)
    refused(1, "no bitmap 'mondya' in .*did you mean 'monday'", "list", s.disk, "mondya")
    out = status_of("list", s.disk)[1]
    matches(out, r"state +closed cleanly\n")
    matches(out, r"\nBITMAP +GRANULARITY +DIRTY +OF DISK +RECORDING +STATE\n")
    matches(out, r"\nmonday +64 KiB +1.1 MiB +1.8 % +enabled +ok\n")
    matches(out, r"\nearly +4 KiB +32 KiB +<0.1 % +disabled +ok\n")
    before = os.stat(s.store).st_mtime_ns
    for more in ((), ("--repair",)):
        status, out = status_of("check", s.disk, *more)
        equal(status, 0, out)
        matches(out, r"\nNo problems\n$")
    equal(os.stat(s.store).st_mtime_ns, before, "a sound store was written")


@test
def killed(tmp):
    "after kill -9 the bitmaps are exact, also without a daemon; repair closes the store"
    s = Story(tmp)
    s.daemon.kill()
    equal(s.right()["state"], "killed")
    status, out = status_of("check", s.disk)
    equal(status, 0, out)
    matches(out, "left by a daemon that was killed")
    status, out = status_of("check", s.disk, "--repair")
    equal(status, 0, out)
    matches(out, r"\nRepaired\n")
    equal(s.right()["state"], "closed")
    s.start()
    for name, count in s.counts().items():
        equal(s.daemon.bitmap("disk0", name)["count"], count)


@test
def in_use(tmp):
    "a store in use is read and reported as in use, and not repaired"
    s = Story(tmp)
    equal(s.right()["state"], "in-use")
    s.write([50])
    s.dirty += 1
    s.right()
    status, out = status_of("check", s.disk)
    equal(status, 0, out)
    matches(out, r"state +in use by a daemon\n")
    refused(1, "in use by a daemon", "check", s.disk, "--repair")
    s.daemon.stop()
    s.right()


@test
def changing(tmp):
    "a store that a daemon commits to all the time is never said to be damaged"
    s = Story(tmp)
    done = threading.Event()

    def commit():
        while not done.is_set():
            s.daemon.qmp("block-dirty-bitmap-add", node="disk0", name="more", persistent=True)
            s.daemon.qmp("block-dirty-bitmap-remove", node="disk0", name="more")

    def check():
        try:
            for _ in range(30):
                store = look(s.disk)
                equal((store["state"], store["problems"]), ("in-use", []))
                equal({k: v for k, v in counts(store).items() if k != "more"}, s.counts())
        finally:
            done.set()

    in_threads(commit, check)


@test
def no_store(tmp):
    "a disk without persistent bitmaps passes, a missing file or store does not"
    plain = image(os.path.join(tmp, "plain.img"), MIB)
    store = look(plain)
    equal((store["state"], store["bitmaps"], store["problems"]), ("none", [], []))
    equal(status_of("check", plain)[0], 0)
    matches(status_of("list", plain)[1], r"\nnone\n$")
    refused(1, "no such file|No such file", "list", plain + "x")
    refused(1, "No such file", "check", os.path.join(tmp, "no/such.img"))
    refused(1, "No such file", "check", plain, "--disk", plain + "x")
    refused(1, "neither a file nor a block device", "check", "/dev/null")
    s = Story(tmp)
    s.daemon.stop()
    os.rename(s.store, s.store + ".away")
    if "user.tidemark.bitmaps" not in os.listxattr(s.disk):
        skip("no extended attributes here")
    equal(look(s.disk)["state"], "missing")
    status, out = status_of("check", s.disk)
    equal(status, 3, out)
    matches(out, "marked as having a store")
    refused(1, "no .* to repair", "check", s.disk, "--repair")


@test
def one_superblock(tmp):
    "one damaged superblock is reported, and costs nothing"
    for copy in range(2):
        s = Story(tmp, "disk%d" % copy)
        s.daemon.kill()
        flip(s.store, [copy * 4096 + 100])
        status, out = status_of("check", s.disk)
        equal(status, 3, out)
        matches(out, r"\n1 problem\n  .*superblock")
        equal(counts(look(s.disk)), s.counts())
        matches(status_of("list", s.disk)[1], "\n1 problem: 'tidemark bitmap check' explains")
        status, out = status_of("check", s.disk, "--repair", "--json")
        equal(status, 0, out)
        repaired = json.loads(out)
        equal((repaired["state"], repaired["problems"]), ("closed", []))
        equal(len(repaired["before"]["problems"]), 1)
        s.right()
        equal(status_of("check", s.disk)[0], 0)


def at_least(s, store):
    """What was dirty is dirty, or the bitmap can't be used."""
    for name, count in s.counts().items():
        for bitmap in store["bitmaps"]:
            if bitmap["name"] == name and not bitmap.get("inconsistent"):
                equal(bitmap["count"] >= count, True, "too little is dirty in %s" % bitmap)


@test
def damaged(tmp):
    "flipped bytes anywhere never crash the check or lose dirtiness, and a repair leaves a sound store"
    s = Story(tmp)
    s.daemon.kill()
    with open(s.store, "rb") as f:
        pristine = f.read()
    for seed in range(25):
        dice = random.Random(seed)
        with open(s.store, "wb") as f:
            f.write(pristine)
        flip(s.store, [dice.randrange(8192 * (seed & 1), len(pristine))
                       for _ in range(1 << dice.randrange(9))], seed)
        p = tidemark("bitmap", "check", s.disk, "--json", check=False)
        if p.returncode == 1:  # nothing of it can be told
            matches(p.stderr, s.store)
            continue
        equal(p.returncode in (0, 3), True, p.stderr)
        store = json.loads(p.stdout)
        equal(p.returncode == 0, not store["problems"], p.stdout)
        at_least(s, store)
        p = tidemark("bitmap", "check", s.disk, "--repair", "--json", check=False)
        if p.returncode == 1:
            matches(p.stderr, s.store)
            continue
        repaired = json.loads(p.stdout)
        if not store["bitmaps"]:  # then there is no store any more
            equal(os.path.exists(s.store), False)
            continue
        equal((repaired["state"], repaired["problems"]), ("closed", []), "seed %d" % seed)
        at_least(s, repaired)
        for bitmap in store["bitmaps"]:
            equal(by_name(repaired, bitmap["name"])["count"] >= bitmap["count"], True, p.stdout)


@test
def power_lost(tmp):
    "after a crash of the machine what was being written is dirty, and the list says how much of it"
    for durability, state in (("power-loss", "crashed"), ("process-death", "crashed"),
                              ("power-loss", "distrusted")):
        s = Story(tmp, durability + state, bitmap_durability=durability)
        s.daemon.kill()
        if state == "crashed":
            forge(s.store, BOOT_ID, bytes(range(16)))
        else:
            forge(s.store, STATE, b"\x03")
        store = look(s.disk)
        equal((store["state"], store["durability"]), (state, durability))
        monday, early = by_name(store, "monday"), by_name(store, "early")
        equal(early["count"], s.counts()["early"], "a disabled bitmap is a record of the past")
        if state == "distrusted" or durability == "process-death":
            equal(monday["count"], SIZE)
        else:
            equal(s.counts()["monday"] <= monday["count"], True, monday)
            equal(monday.get("recovered", 0) <= SIZE // 200, True, "the bound: %s" % monday)
        equal(monday["count"] - monday.get("recovered", 0) <= s.counts()["monday"], True, monday)
        if monday.get("recovered"):
            matches(status_of("list", s.disk)[1], r"\nmonday .* recovered [0-9.]+ [KM]iB\n")
        status, out = status_of("check", s.disk, "--repair")
        equal(status, 0, out)
        again = look(s.disk)
        equal((again["state"], counts(again)), ("closed", counts(store)))
        equal(status_of("check", s.disk)[0], 0)


@test
def another_version(tmp):
    "a store of another version is reported as such, and left alone"
    s = Story(tmp)
    s.daemon.stop()
    forge(s.store, VERSION, struct.pack("<I", 77))
    with open(s.store, "rb") as f:
        content = f.read()
    for command in (["check"], ["list"], ["check", "--repair"]):
        p = tidemark("bitmap", command[0], s.disk, *command[1:], check=False)
        equal(p.returncode == 0 and command[0] == "check", False, p.stdout)
        matches(p.stdout + p.stderr, "version 77")
    with open(s.store, "rb") as f:
        equal(f.read(), content)


@test
def no_stores(tmp):
    "a file that is no store is reported as such, and left alone"
    disk0 = image(os.path.join(tmp, "disk0.img"), MIB)
    for content in (b"", b"x", b"A text that somebody put there.\n" * 1000, bytes(100000),
                    b"TIDEMARK", b"TIDEMARK" + bytes(8000)):
        with open(disk0 + ".bitmaps", "wb") as f:
            f.write(content)
        for command in (["list"], ["check"], ["check", "--repair"]):
            p = tidemark("bitmap", command[0], disk0, *command[1:], check=False)
            told = p.stdout + p.stderr
            equal(p.returncode == 0 and command[0] == "check", False, told)
            matches(told, "disk0.img.bitmaps")
        with open(disk0 + ".bitmaps", "rb") as f:
            equal(f.read(), content, "it was written to")


@test
def changed_behind(tmp):
    "a disk written by another program makes its enabled bitmaps inconsistent, and leaves disabled ones as they are"
    s = Story(tmp)
    s.daemon.stop()
    s.right()
    with open(s.disk, "r+b") as f:
        f.write(b"somebody was here")
    store = look(s.disk)
    equal(by_name(store, "monday").get("inconsistent"), True)
    equal(by_name(store, "early").get("inconsistent"), None)
    matches(by_name(store, "monday")["reason"], "disk|changed|modified")
    out = status_of("list", s.disk)[1]
    matches(out, r"\nmonday .* enabled +INCONSISTENT\n")
    status, out = status_of("check", s.disk)
    equal(status, 3, out)
    matches(out, r"\n  monday: can't be used: remove it and start again with a full copy")
    status, out = status_of("check", s.disk, "--repair")
    equal(status, 0, out)
    equal(counts(look(s.disk)), {"monday": SIZE, "early": 8 * 4096})


@test
def elsewhere(tmp):
    "a store elsewhere is checked with --disk; a file that only begins like a store isn't repaired"
    store = os.path.join(tmp, "kept")
    s = Story(tmp, bitmap_store=store)
    s.daemon.kill()
    equal(look(s.disk)["bitmaps"], [])
    s.right(store, "--disk", s.disk)
    guessed = s.right(store)
    equal(guessed["disk"], None)
    refused(1, "may be a disk with such content", "check", store, "--repair")
    equal(status_of("check", store, "--repair", "--disk", s.disk)[0], 0)
    equal(s.right(store, "--disk", s.disk)["state"], "closed")
    other = image(os.path.join(tmp, "other.img"), SIZE)
    status, out = status_of("check", store, "--disk", other)
    equal(status, 3, out)


@test
def moved(tmp):
    "a disk moved together with its store is as it was"
    s = Story(tmp)
    s.daemon.stop()
    os.mkdir(os.path.join(tmp, "new"))
    for path in (s.disk, s.store):
        os.rename(path, os.path.join(tmp, "new", os.path.basename(path)))
    store = s.right(os.path.join(tmp, "new", "disk0.img"))
    equal(store["state"], "closed")


@test
def words(tmp):
    "whether an argument is a file or a node does not depend on which files exist"
    s = Story(tmp)
    socket = {"TIDEMARK_SOCKET": s.daemon.qmp_path}
    image(os.path.join(tmp, "nodeless"), MIB)
    out = tidemark("bitmap", "list", "disk0", env=socket, cwd=tmp).stdout
    matches(out, r"^NODE +BITMAP")
    matches(out, r"\ndisk0 +monday .* recording, persistent\n")
    matches(tidemark("bitmap", "list", "disk0.img", env=socket, cwd=tmp).stdout, "^store +disk0.img")
    matches(tidemark("bitmap", "list", "./nodeless", env=socket, cwd=tmp).stdout, "\nnone\n")
    refused(1, r"taken as a node \(the file is './nodeless'\): no node 'nodeless'", "list",
            "nodeless", env=socket, cwd=tmp)
    refused(1, r"no node 'disk0.img'", "list", "disk0.img", "--socket", s.daemon.qmp_path, cwd=tmp)
    refused(1, r"taken as a file \(for a node, use --socket\): 'no.de'", "list", "no.de", cwd=tmp)
    refused(2, "exclude each other", "list", "a.b", "--disk", "c", "--socket", "d")
    refused(2, "--disk needs FILE", "list", "--disk", "c")
    refused(2, "missing argument", "check")
    refused(2, "--socket and NAME need --against-snapshot", "check", "a", "b")
    refused(2, "unexpected argument", "check", "a", "b", "c")
    refused(2, "--against-snapshot excludes --repair and --disk", "check", "a", "b", "--against-snapshot", "s", "--repair")
    refused(2, "--against-snapshot needs NODE and NAME", "check", "a", "--against-snapshot", "s")
    refused(2, "unknown option '--repiar': did you mean '--repair'", "check", "a", "--repiar")


@test
def through_a_daemon(tmp):
    "a daemon that recovered a damaged store says so in list and in info"
    s = Story(tmp)
    s.daemon.kill()
    with open(s.disk, "rb") as f:
        before = os.fstat(f.fileno()).st_mtime_ns
    size = os.stat(s.store).st_size
    flip(s.store, range(8192 + 64, size, 97))
    offline = look(s.disk)
    s.start()
    equal(os.stat(s.disk).st_mtime_ns, before)
    told = json.loads(tidemark("bitmap", "list", "--json", "--socket", s.daemon.qmp_path).stdout)
    keys = ("name", "count", "recording", "inconsistent", "recovered", "reason")
    ours = [{k: b.get(k) for k in keys} for b in told]
    theirs = [{k: b.get(k) for k in keys} for b in offline["bitmaps"]]
    order = lambda b: b["name"]
    equal([(b["name"], b["count"], bool(b["inconsistent"])) for b in sorted(ours, key=order)],
          [(b["name"], b["count"], bool(b["inconsistent"])) for b in sorted(theirs, key=order)],
          "the daemon and the check tell different things")
    for command in (("bitmap", "list"), ("info",)):
        out = tidemark(*command, "--socket", s.daemon.qmp_path).stdout
        for bitmap in told:
            if bitmap.get("reason"):
                matches(out, r"\n%s on disk0: \S" % bitmap["name"])
            if bitmap.get("inconsistent"):
                matches(out, r"%s .*, INCONSISTENT" % bitmap["name"])
            elif bitmap.get("recovered"):
                matches(out, r"%s .*, recovered [0-9.]+ [KMG]iB" % bitmap["name"])


main()
