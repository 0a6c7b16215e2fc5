#!/usr/bin/python3
# SPDX-FileCopyrightText: 2026 The Tidemark authors
# SPDX-License-Identifier: GPL-2.0-or-later
"""tidemark restore: every kind of target, new, forced and in place; refusals, damage, and what a failure leaves.

The repository is made by tests/func/repositories.py, without Tidemark."""
from deaf import BLOCK_STATUS, WRITE, Deaf
from harness import *
from loop import Loop
from repositories import BLOCK, Repository
import copy
import fcntl
import random

NEEDS = ["qemu-img", "qemu-io"]


_made = []


def make(tmp):
    """A repository of two disks, of which one ends within a block; points p0, p1, p2. Made once, and copied."""
    if not _made:
        _made.append((tempfile.TemporaryDirectory(prefix="t"),))
        _made.append(make_first(os.path.join(_made[0][0].name, "repo")))
    repo = copy.copy(_made[1])
    repo.path = shutil.copytree(repo.path, os.path.join(tmp, "repo"))
    return repo


def make_first(path, points=3):
    rng = random.Random(14)
    repo = Repository(path)
    disks = {"a": bytearray(24 * BLOCK + 700), "b": bytearray(16 * BLOCK)}
    for i in range(points):
        for content in disks.values():
            for at in rng.sample(range(len(content) // BLOCK), 8):
                block = bytes(BLOCK) if rng.random() < .3 else rng.randbytes(1000).ljust(BLOCK, b"\1")
                content[at * BLOCK:(at + 1) * BLOCK] = block
        disks["a"][-100:] = rng.randbytes(100)
        repo.add("p%d" % i, "p%d" % (i - 1) if i else None, **{n: bytes(c) for n, c in disks.items()})
    return repo


def restore(repo, *args, **kwargs):
    """The 'restored' events."""
    p = tidemark("restore", "--json", repo.path, *args, **kwargs)
    events = [json.loads(line) for line in p.stdout.splitlines()]
    return [e for e in events if e["event"] == "restored"]


def refused(repo, pattern, *args, status=1):
    p = tidemark("restore", repo.path, *args, check=False)
    equal(p.returncode, status, p.stdout + p.stderr)
    equal(p.stderr.count("\n"), 1, p.stderr)
    matches(p.stderr, pattern)


def content(path, size):
    with open(path, "rb") as f:
        data = f.read()
    if path.endswith(".qcow2"):
        run("qemu-img", "convert", "-O", "raw", path, path + ".raw")
        with open(path + ".raw", "rb") as f:
            data = f.read()
        os.unlink(path + ".raw")
        run("qemu-img", "check", "-q", path)
    return data[:size]


def is_point(path, repo, point, disk):
    expected = repo.contents[point, disk]
    if content(path, len(expected)) != expected:
        fail("%s is not %s of %s" % (path, disk, point))


@test(needs=NEEDS)
def new_files(tmp):
    "to new files, raw and qcow2, by order, by name and in a directory"
    repo = make(tmp)
    at = lambda name: os.path.join(tmp, name)
    restore(repo, at("x.img"), at("y.qcow2"))
    is_point(at("x.img"), repo, "p2", "a")
    is_point(at("y.qcow2"), repo, "p2", "b")
    equal(os.path.getsize(at("x.img")), 24 * BLOCK + 700)
    restore(repo, "--at", "p0", "b=" + at("b0.img"), "a=" + at("a0"))
    is_point(at("b0.img"), repo, "p0", "b")
    is_point(at("a0"), repo, "p0", "a")
    os.makedirs(at("dir"))
    events = restore(repo, "--at", "2023-11-14T22:15:30Z", "--format", "qcow2", at("dir"))
    equal([(e["disk"], e["point"], e["format"]) for e in events], [("a", "p1", "qcow2"), ("b", "p1", "qcow2")])
    is_point(at("dir/a.qcow2"), repo, "p1", "a")
    is_point(at("dir/b.qcow2"), repo, "p1", "b")
    # thin: zeroes take no space
    equal(os.stat(at("b0.img")).st_blocks * 512 < len(repo.contents["p0", "b"]), True)


@test(needs=NEEDS)
def overwriting(tmp):
    "what exists is refused without --force or --in-place, and not changed"
    repo = make(tmp)
    path = os.path.join(tmp, "b.img")
    image(path, 20 * BLOCK, [(i * BLOCK, b"\xff" * BLOCK) for i in range(20)])
    refused(repo, "exists: --force overwrites it, --in-place", "--disk", "b", path)
    equal(content(path, BLOCK), b"\xff" * BLOCK)
    refused(repo, "exclude each other", "--force", "--in-place", "--disk", "b", path, status=2)
    restore(repo, "--force", "--disk", "b", path)
    equal(os.path.getsize(path), 16 * BLOCK)
    is_point(path, repo, "p2", "b")
    restore(repo, "--force", "--format", "qcow2", "--disk", "b", path)
    os.rename(path, path + ".qcow2")
    is_point(path + ".qcow2", repo, "p2", "b")
    refused(repo, "is in the repository", "--disk", "b", os.path.join(repo.path, "p2", "new.img"))
    refused(repo, "is in the repository", "--force", "--disk", "b", repo.file("p2", "b"))
    refused(repo, "does not exist", "--in-place", "--disk", "b", os.path.join(tmp, "nosuch"))


@test(needs=NEEDS)
def in_place(tmp):
    "--in-place writes only what differs, backward and forward, whatever else is there"
    repo = make(tmp)
    for name in "x.img", "x.qcow2":
        path = os.path.join(tmp, name)
        restore(repo, "--at", "p0", "--disk", "a", path)
        for point in "p2", "p1", "p1", "p0":
            before = content(path, 24 * BLOCK + 700)
            event, = restore(repo, "--in-place", "--at", point, "--disk", "a", path)
            is_point(path, repo, point, "a")
            after = repo.contents[point, "a"]
            differ = sum(len(after[i:i + 4 * BLOCK]) for i in range(0, len(after), 4 * BLOCK)
                         if before[i:i + 4 * BLOCK] != after[i:i + 4 * BLOCK])
            equal(event["written"] + event["zeroed"] <= differ, True, (name, point, event, differ))
            equal(event["same"] > 0 or differ == len(after), True)
    # a file of another size gets that of the disk
    path = os.path.join(tmp, "x.img")
    os.truncate(path, 3 * BLOCK)
    restore(repo, "--in-place", "--disk", "a", path)
    is_point(path, repo, "p2", "a")
    equal(os.path.getsize(path), 24 * BLOCK + 700)
    refused(repo, "expected the same size", "--in-place", "--disk", "b", os.path.join(tmp, "x.qcow2"))
    os.rename(os.path.join(tmp, "x.qcow2"), path)
    refused(repo, "begins as a qcow2 image, but its name", "--in-place", "--disk", "a", path)


@test(needs=NEEDS)
def nbd_target(tmp):
    "to an export: forced, in place, and by its bitmap"
    repo = make(tmp)
    size = len(repo.contents["p0", "b"])
    path = os.path.join(tmp, "disk0.img")
    image(path, size + BLOCK, [(i * BLOCK, b"\xee" * BLOCK) for i in range(17)])
    with Daemon(tmp, *disk(tmp, "disk0")) as d:
        refused(repo, "exists: --force", "--disk", "b", d.uri())
        for connections, requests in (1, 1), (4, 16):
            restore(repo, "--force", "--at", "p0", "--connections", connections, "--requests", requests,
                    "--disk", "b", d.uri())
            is_point(path, repo, "p0", "b")
        with open(path, "rb") as f:
            f.seek(size)
            equal(f.read(), b"\xee" * BLOCK)
        event, = restore(repo, "--in-place", "--at", "p1", "--disk", "b", d.uri())
        is_point(path, repo, "p1", "b")
        equal(event["same"] > 0, True, event)
        checkpoint = repo.checkpoint("p1")
        d.qmp("block-dirty-bitmap-add", node="disk0", name=checkpoint)
        d.qmp("block-export-dirty-bitmap", id="exp-disk0", bitmaps=[checkpoint])
        d.nbd().pwrite(b"guest" * 1000, 5 * BLOCK + 5)
        for point in "p2", "p1", "p0":  # the bitmap goes on recording, with what was restored
            event, = restore(repo, "--in-place", "--trust-bitmap", checkpoint, "--at", point, "--disk", "b", d.uri())
            is_point(path, repo, point, "b")
            if point == "p2":
                equal(sum(event[k] for k in ("same", "written", "zeroed")) < size, True, event)
        d.qmp("block-dirty-bitmap-add", node="disk0", name="fine", granularity=512)  # finer than blocks
        d.qmp("block-export-dirty-bitmap", id="exp-disk0", bitmaps=["fine"])
        h = d.nbd()
        for at, length in (0, 1), (3 * BLOCK - 600, 1200), (7 * BLOCK + 5000, 3 * BLOCK), (size - 1, 1):
            h.pwrite(b"\xee" * length, at)
        h.zero(512, 6 * BLOCK + 512)
        event, = restore(repo, "--in-place", "--trust-bitmap", "fine", "--at", "p0", "--disk", "b", d.uri())
        is_point(path, repo, "p0", "b")
        equal(sum(event[k] for k in ("same", "written", "zeroed")), 9 * BLOCK, event)
        d.qmp("block-dirty-bitmap-add", node="disk0", name="p1@00000000")
        d.qmp("block-export-dirty-bitmap", id="exp-disk0", bitmaps=["p1@00000000"])
        refused(repo, "checkpoint of disk 'b' of no point", "--in-place", "--trust-bitmap", "p1@00000000", "--disk", "b", d.uri())
        refused(repo, "no bitmap 'none'", "--in-place", "--trust-bitmap", "none", "--disk", "b", d.uri())
        refused(repo, "at least as many", "--force", "--disk", "a", d.uri())


@test(needs=NEEDS + ["losetup"])
def device_target(tmp):
    "to a block device: as large as the disk, larger, too small; in place; never without an option"
    repo = make(tmp)
    size = len(repo.contents["p0", "b"])
    path = os.path.join(tmp, "back")
    for more in 0, 8 * BLOCK + 512:
        image(path, size + more, [(0, b"\xee" * (size + more))])
        with Loop(path) as device:
            refused(repo, "exists: --force overwrites it", "--disk", "b", device)
            refused(repo, "at least as many", "--force", "--disk", "a", device)
            equal(content(path, size), b"\xee" * size)
            event, = restore(repo, "--force", "--at", "p0", "--disk", "b", device)
            equal(event["format"], "device")
            is_point(path, repo, "p0", "b")
            event, = restore(repo, "--in-place", "--at", "p1", "--disk", "b", device)
            equal(event["same"] > 0, True)
            is_point(path, repo, "p1", "b")
            with open(device, "rb") as f:
                f.seek(size)
                equal(f.read(), b"\xee" * more)
            refused(repo, "at least as many", "--in-place", "--disk", "a", device)
            with Daemon(tmp, "--blockdev", "driver=host_device,node-name=d,filename=" + device,
                        "--export", "type=nbd,id=e,node-name=d,writable=on"):
                refused(repo, "busy|in use|lock", "--force", "--disk", "b", device)
            if more:
                restore(repo, "--force", "--format", "qcow2", "--disk", "b", device)
                os.link(path, path + ".qcow2")
                is_point(path + ".qcow2", repo, "p2", "b")


@test(needs=NEEDS)
def damage(tmp):
    "a block that does not have its hash: status 5, its place is named, and the new file is gone"
    repo = make(tmp)
    path, target = repo.file("p1", "b"), os.path.join(tmp, "b.img")
    info = json.loads(run("qemu-img", "map", "--output=json", path).stdout)
    entry = next(e for e in info if e["data"] and e["depth"] == 0)
    with open(path, "r+b") as f:
        f.seek(entry["offset"] + 99)
        f.write(b"damage")
    p = tidemark("restore", repo.path, "--at", "p1", "--disk", "b", target, check=False)
    equal(p.returncode, 5, p.stderr)
    matches(p.stderr, r"disk 'b' of point 'p1': the block at offset %d, which is stored in point 'p1', is damaged"
                      r".*b\.img' was removed again" % entry["start"])
    equal(os.path.exists(target), False)
    restore(repo, "--at", "p0", "--disk", "b", target)  # the points that don't have it are whole
    is_point(target, repo, "p0", "b")
    p = tidemark("restore", repo.path, "--in-place", "--at", "p1", "--disk", "b", target, check=False)
    matches(p.stderr, "b.img' (is incomplete: restore another point|was not changed)")
    p = tidemark("restore", repo.path, "--at", "p1", os.path.join(tmp, "new-a.img"), os.path.join(tmp, "new-b.img"),
                 check=False)
    matches(p.stderr, r"new-b.img' was removed again; restored: '.*new-a.img'")
    is_point(os.path.join(tmp, "new-a.img"), repo, "p1", "a")


@test(needs=NEEDS)
def refusals(tmp):
    "disks, targets and points that are not there; two disks in one place"
    repo = make(tmp)
    at = lambda name: os.path.join(tmp, name)
    refused(repo, r"1 target for 2 disks \(a, b\): name one for each", at("x"))
    refused(repo, "point 'p2' has no disk 'c': it has a, b", "c=" + at("x"))
    refused(repo, "has no disk 'c'", "--disk", "c", at("x"))
    refused(repo, "expected NAME=TARGET", "a=" + at("x"), at("y"))
    refused(repo, "expected other targets", at("x"), at("x"))
    refused(repo, "'vmdk' is neither raw nor qcow2", "--format", "vmdk", at("x"), status=2)
    refused(repo, "needs --in-place", "--trust-bitmap", "b0", at("x"), status=2)
    refused(repo, "--trust-bitmap needs", "--in-place", "--trust-bitmap", "b0", "a=" + image(at("f"), 512))
    refused(repo, "nosuch", "--at", "nosuch", at("x"), at("y"))
    refused(repo, "nowhere", at("nowhere/x"), at("y"))
    equal(os.path.exists(at("y")), False)


@test(needs=NEEDS)
def a_full_target(tmp):
    "a target that can't grow, or is in use: one line, and a new file is gone"
    repo = make(tmp)
    for name in "a.img", "a.qcow2":
        target = os.path.join(tmp, name)
        p = run("sh", "-c", "ulimit -f 1000 && exec \"$@\"", "-", TIDEMARK, "restore", repo.path, "--disk", "a", target,
                check=False)
        equal(p.returncode, 1)
        matches(p.stderr, r"^tidemark: [^\n]*: '.*%s' was (removed again|not created)\n$" % re.escape(name))
        equal(os.path.exists(target), False)
    path = image(os.path.join(tmp, "disk0.img"), 25 * BLOCK, [(0, b"live")])
    with Daemon(tmp, *disk(tmp, "disk0")) as d:
        for how in ["--force"], ["--in-place"], ["--force", "--format", "qcow2"]:
            refused(repo, "lock|in use", "--disk", "a", path, *how)
    equal(content(path, 25 * BLOCK), b"live" + bytes(25 * BLOCK - 4))


@test(needs=NEEDS)
def a_lost_server(tmp):
    "the server goes away during the restore: the error says so, and that the target is incomplete"
    repo = make(tmp)
    with Daemon(tmp, *disk(tmp, "disk0", 25 * BLOCK)) as d:
        p = subprocess.Popen([TIDEMARK, "restore", repo.path, "--force", "--rate", "200k", "--disk", "a", d.uri()],
                             stderr=subprocess.PIPE, text=True)
        wait_until(lambda: any(s["bytes-written"] for s in d.qmp("query-nbd-sessions")), "the first write")
        d.kill()
        err = p.communicate(timeout=PATIENCE)[1]
        equal(p.returncode, 1, err)
        matches(err, r"^tidemark: .*target 'nbd.*' is incomplete: run the same command again[^\n]*\n$")


@test(needs=NEEDS)
def interrupted(tmp):
    "Ctrl-C: the new file is gone, status 130; --rate limits"
    repo = make(tmp)
    target = os.path.join(tmp, "a.img")
    p = subprocess.Popen([TIDEMARK, "restore", repo.path, "--rate", "200k", "--disk", "a", target],
                         stderr=subprocess.PIPE, text=True)
    wait_until(lambda: os.path.exists(target + ".partial"), "the target")
    p.send_signal(signal.SIGINT)
    err = p.communicate(timeout=PATIENCE)[1]
    equal(p.returncode, 130, err)
    matches(err, r"interrupted: '.*a\.img' was removed again\n$")
    equal(os.listdir(tmp), ["repo"])


@test(needs=NEEDS)
def a_server_that_hangs(tmp):
    "Ctrl-C while the server, or who has the lock, does not answer: the first one ends it, with the state in one line"
    repo = make(tmp)
    how = lambda *args: subprocess.Popen([TIDEMARK, "restore", *args], stderr=subprocess.PIPE, text=True)
    with Daemon(tmp, *disk(tmp, "disk0", 25 * BLOCK)) as d:
        for swallow, args, state in (
                (b"", ["--in-place"], "interrupted: no target was changed"),
                (BLOCK_STATUS, ["--in-place"], "interrupted: target '.*' was not changed"),
                (WRITE, ["--force"], "interrupted: target '.*' is incomplete: run the same command again")):
            deaf = Deaf(os.path.join(tmp, "deaf"), d.nbd_path, swallow)
            p = how("--disk", "a", *args, repo.path, deaf.uri())
            deaf.end(p, signal.SIGINT, state)
    lock = os.open(os.path.join(repo.path, "lock"), os.O_RDWR)
    fcntl.lockf(lock, fcntl.LOCK_EX, 2)
    p = how("--wait", "3600", "--disk", "a", repo.path, os.path.join(tmp, "new"))
    wait_until(lambda: "SigBlk:\t0000000000004003" in open("/proc/%d/status" % p.pid).read(), "its signals to be kept")
    p.send_signal(signal.SIGINT)
    matches(p.communicate(timeout=PATIENCE)[1], "interrupted: no target was changed")
    equal(p.returncode, 130)
    os.close(lock)


@test(needs=NEEDS)
def killed(tmp):
    "kill -9: nothing has the target's name; the next run replaces what is left, but not a running restore's"
    repo = make(tmp)
    for name in "a.img", "a.qcow2":
        target = os.path.join(tmp, name)
        p = subprocess.Popen([TIDEMARK, "restore", repo.path, "--rate", "200k", "--disk", "a", target])
        wait_until(lambda: os.path.exists(target + ".partial") and os.path.getsize(target + ".partial"), "the target")
        refused(repo, "in use by another restore: '.*' was not created", "--disk", "a", target)
        p.kill()
        p.wait()
        equal((os.path.exists(target), os.path.exists(target + ".partial")), (False, True))
        restore(repo, "--disk", "a", target)
        is_point(target, repo, "p2", "a")
        equal(os.path.exists(target + ".partial"), False)
    os.mkdir(os.path.join(tmp, "b.partial"))
    refused(repo, "b.partial", "--disk", "b", os.path.join(tmp, "b"))


main()
