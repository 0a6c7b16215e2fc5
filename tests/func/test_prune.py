#!/usr/bin/python3
# SPDX-FileCopyrightText: 2026 The Tidemark authors
# SPDX-License-Identifier: GPL-2.0-or-later
"""tidemark prune, forget and copy-points: points that stay read as before, whatever is killed; rules, refusals, damage.

The repository is made by tests/func/repositories.py, without Tidemark."""
from harness import *
from repositories import BLOCK, Repository
import copy
import random

NEEDS = ["qemu-img", "qemu-io"]
POINTS = 6
_made = []


def make(tmp, name="repo"):
    """Two disks, points p0 to p5, twelve hours apart. Made once, and copied."""
    if not _made:
        _made.append(tempfile.TemporaryDirectory(prefix="t"))
        _made.append(make_first(os.path.join(_made[0].name, "repo")))
    repo = copy.copy(_made[1])
    repo.path = shutil.copytree(repo.path, os.path.join(tmp, name))
    return repo


def make_first(path):
    rng = random.Random(15)
    repo = Repository(path)
    disks = {"a": bytearray(40 * BLOCK + 700), "b": bytearray(24 * BLOCK)}
    for i in range(POINTS):
        for content in disks.values():
            for at in rng.sample(range(len(content) // BLOCK), 6):
                block = bytes(BLOCK) if rng.random() < .3 else rng.randbytes(BLOCK)
                content[at * BLOCK:(at + 1) * BLOCK] = block
        repo.instant = (1764000000 + i * 43200) * 10 ** 9
        repo.add("p%d" % i, "p%d" % (i - 1) if i else None, **{n: bytes(c) for n, c in disks.items()})
    return repo


def points(path):
    return [p["point"] for p in json.loads(tidemark("list", "--json", path).stdout)["points"]]


def intact(repo, path=None, images=1):
    """All points are what they were: by tidemark, and the newest @images of them by qemu-img alone."""
    path = path or repo.path
    there, target = points(path), os.path.join(os.path.dirname(path), "restored")
    for point in there:
        os.makedirs(target, exist_ok=True)
        tidemark("restore", "--force", path, "--at", point, target)
        for disk in "ab":
            with open(os.path.join(target, disk + ".img"), "rb") as f:
                equal(f.read() == repo.contents[point, disk], True, "disk %s of %s, restored" % (disk, point))
    for point, disk in ((p, d) for p in there[-images:] for d in "ab"):
        image, raw = os.path.join(path, point, disk + ".qcow2"), os.path.join(target, disk + ".img")
        run("qemu-img", "convert", "-f", "qcow2", "-O", "raw", image, raw)
        with open(raw, "rb") as f:
            data = f.read()
        equal(data[:len(repo.contents[point, disk])] == repo.contents[point, disk], True, "%s, converted" % image)


def refused(pattern, *args, status=1):
    p = tidemark(*args, check=False)
    equal(p.returncode, status, p.stdout + p.stderr)
    equal(p.stderr.count("\n"), 1, p.stderr)
    matches(p.stderr, pattern)


def events(*args, **kwargs):
    return [json.loads(line) for line in tidemark(*args, "--json", **kwargs).stdout.splitlines()]


@test(needs=NEEDS)
def a_rule_says_which_points_go_and_they_do(tmp):
    "what goes is said first; a dry run changes nothing; the points that stay are equal"
    repo = make(tmp)
    rule = ("prune", repo.path, "--keep", "last=2,daily=3")
    p = tidemark(*rule, "--dry-run", env=dict(os.environ, TZ="UTC"))
    matches(p.stdout, r"p0 .* remove ")
    matches(p.stdout, r"p5 .* keep \(last, daily\)")
    matches(p.stdout, r"of 6 points to remove: writes \S+ [KM]iB and frees \S+ [KM]iB")
    equal(points(repo.path), ["p%d" % i for i in range(POINTS)])
    plan, *_, end = events(*rule, env=dict(os.environ, TZ="UTC"))
    going = [p["point"] for p in plan["points"] if not p["stays"]]
    equal(end["removed"], len(going))
    equal(end["written"], plan["written"])
    equal(set(points(repo.path)) | set(going), {"p%d" % i for i in range(POINTS)})
    equal(points(repo.path)[-2:], ["p4", "p5"])
    intact(repo, images=9)
    equal(events(*rule, env=dict(os.environ, TZ="UTC"))[0]["written"], 0)


@test(needs=NEEDS)
def what_is_freed_is_free(tmp):
    "a pruned repository occupies about what the plan says"
    repo = make(tmp)

    def occupied():
        return sum(os.stat(os.path.join(d, f)).st_blocks * 512 for d, _, files in os.walk(repo.path) for f in files
                   if f.endswith(".qcow2"))
    before = occupied()
    plan = events("prune", repo.path, "--keep", "last=1")[0]
    freed = before - occupied()
    metadata = (POINTS - 1) * 2 * 5 * BLOCK  # each image has some
    equal(plan["freed"] - BLOCK <= freed <= plan["freed"] + metadata, True, "%d for %d" % (freed, plan["freed"]))


@test(needs=NEEDS)
def points_go_by_their_names(tmp):
    "forget: the newest, one in the middle, several; what is not there is refused"
    repo = make(tmp)
    tidemark("forget", repo.path, "p5")
    tidemark("forget", repo.path, "p2", "p0")
    equal(points(repo.path), ["p1", "p3", "p4"])
    intact(repo, images=9)
    refused("has no point 'p2'", "forget", repo.path, "p2")
    refused("no point 'latest': it has p1, p3 and p4", "forget", repo.path, "latest")
    equal(points(repo.path), ["p1", "p3", "p4"])


@test(needs=NEEDS)
def a_point_with_two_children_stays(tmp):
    "prune says so and goes on; forget refuses"
    repo = make(tmp)
    content = {d: repo.contents["p2", d][:BLOCK] + bytes(BLOCK) + repo.contents["p2", d][2 * BLOCK:] for d in "ab"}
    repo.instant += 10 ** 9
    repo.add("branch", "p2", **content)
    p = tidemark("prune", repo.path, "--keep", "last=2")
    matches(p.stdout, r"p2 .* can't be removed \(points 'p3' and 'branch' both stand on its disk 'a'\)")
    equal(points(repo.path), ["p2", "p5", "branch"])
    intact(repo)
    refused("'p2' can't be removed: points 'p5' and 'branch' both stand", "forget", repo.path, "p2")


@test(needs=NEEDS)
def a_copy_of_hard_links_is_not_changed(tmp):
    "an image that has two names is not merged into; with a file of its own it is"
    repo = make(tmp)
    copy = os.path.join(tmp, "copy")
    run("cp", "-al", repo.path, copy)
    refused("'.*/p0/a.qcow2' can't be changed: it has 2 names, and would change under all of them",
            "forget", repo.path, "p0")
    intact(repo)
    for disk in "ab":
        run("cp", "-a", repo.file("p0", disk), repo.file("p0", disk) + ".own")
        os.rename(repo.file("p0", disk) + ".own", repo.file("p0", disk))
    tidemark("forget", repo.path, "p0")
    equal(len(points(repo.path)), POINTS - 1)
    intact(repo)
    equal(len(points(copy)), POINTS)
    intact(repo, copy)


@test(needs=NEEDS)
def killed_prunes_lose_nothing(tmp):
    "killed or interrupted at any moment, in any order: points that stay are equal, and the next one completes it"
    rng = random.Random(3)
    repo = make(tmp)
    before = points(repo.path)
    for _ in range(6):
        if len(before) < 3:
            break
        going = rng.sample(before, 2)
        p = subprocess.Popen([TIDEMARK, "forget", repo.path, *going], stdout=subprocess.DEVNULL,
                             stderr=subprocess.DEVNULL)
        time.sleep(rng.random() * .2)
        p.send_signal(rng.choice([signal.SIGKILL, signal.SIGKILL, signal.SIGINT]))
        p.wait()
        left = points(repo.path)
        equal(set(before) - set(going) <= set(left) <= set(before), True, "%s of %s" % (left, before))
        intact(repo)
        before = left
    tidemark("prune", repo.path, "--keep", "last=1")
    equal(len(points(repo.path)), 1)
    intact(repo)
    equal([f for f in os.listdir(repo.path) if "merge" in f], [])


@test(needs=NEEDS)
def misuse_and_damage_are_refused(tmp):
    "no rule, wrong rules, a damaged manifest: exit status 2 and 5, and nothing is changed"
    repo = make(tmp)
    refused("option --keep is missing", "prune", repo.path, status=2)
    refused("did you mean 'weekly'", "prune", repo.path, "--keep", "weakly=2", status=2)
    with open(os.path.join(repo.path, "p4", "manifest.json"), "r+") as f:
        f.write("[")
    refused("nothing was removed, because point 'p4' is damaged", "prune", repo.path, "--keep", "last=1", status=5)
    equal(os.path.exists(repo.file("p0", "a")), True)


@test(needs=NEEDS)
def a_locked_repository_is_waited_for(tmp):
    "exit status 4, or --wait"
    import fcntl
    repo = make(tmp)
    with open(os.path.join(repo.path, "lock"), "r+") as f:
        fcntl.lockf(f, fcntl.LOCK_EX, 1, 0)
        refused("is locked", "prune", repo.path, "--keep", "last=5", status=4)
        waiting = subprocess.Popen([TIDEMARK, "prune", repo.path, "--keep", "last=5", "--wait", "60"],
                                   stdout=subprocess.DEVNULL)
        time.sleep(.3)
        equal(waiting.poll(), None)
    equal(waiting.wait(PATIENCE), 0)
    equal(points(repo.path)[0], "p1")


# ---- copy-points

@test(needs=NEEDS)
def another_repository_gets_what_it_lacks(tmp):
    "all points, then those that are new; a dry run copies none; the same point is there only once"
    repo = make(tmp)
    there = os.path.join(tmp, "there")
    p = tidemark("copy-points", repo.path, there, "--dry-run")
    matches(p.stdout, "6 points to copy")
    equal(os.path.exists(there), False)
    tidemark("copy-points", repo.path, there)
    equal(points(there), points(repo.path))
    intact(repo, there)
    matches(tidemark("copy-points", repo.path, there).stdout, "Nothing to copy: '.*' has these points already")
    tidemark("forget", there, "p4")
    tidemark("prune", repo.path, "--keep", "last=3")
    events("copy-points", repo.path, there)
    equal(points(there), ["p0", "p1", "p2", "p3", "p4", "p5"])
    content = {d: bytes(BLOCK) + repo.contents["p5", d][BLOCK:] for d in "ab"}
    repo.add("p6", "p5", **content)
    plan, *_ = events("copy-points", repo.path, there)
    equal([p["point"] for p in plan["points"]], ["p6"])
    intact(repo, there)
    with open(os.path.join(there, "p6", "manifest.json")) as a, \
            open(os.path.join(repo.path, "p6", "manifest.json")) as b:
        a, b = json.load(a), json.load(b)
        equal((a["id"], a["instant"], a["disks"][0]["tree"]), (b["id"], b["instant"], b["disks"][0]["tree"]))


@test(needs=NEEDS)
def points_that_are_named_come_with_their_parents(tmp):
    "one point, and those that it stands on; nothing else"
    repo = make(tmp)
    there = os.path.join(tmp, "there")
    tidemark("prune", repo.path, "--keep", "last=4")
    p = tidemark("copy-points", repo.path, there, "p4")
    matches(p.stdout, r"p3 +another one stands on it")
    equal(points(there), ["p2", "p3", "p4"])
    intact(repo, there)


@test(needs=NEEDS)
def another_point_of_that_name_is_not_overwritten(tmp):
    "the command is refused, and says what to do"
    repo, other = make(tmp), Repository(os.path.join(tmp, "other"))
    other.add("p2", a=bytes(BLOCK))
    refused("has another point 'p2': nothing was copied", "copy-points", repo.path, other.path)
    equal(points(other.path), ["p2"])


@test(needs=NEEDS)
def damage_is_not_copied(tmp):
    "a damaged point and those that stand on it stay away, all others come: exit status 5"
    repo = make(tmp)
    there = os.path.join(tmp, "there")
    with open(repo.file("p3", "b"), "r+b") as f:
        data = f.read()
        content = repo.contents["p3", "b"]
        before = repo.contents["p2", "b"]
        changed = next(content[at:at + BLOCK] for at in range(0, len(content), BLOCK)
                       if content[at:at + BLOCK] != before[at:at + BLOCK] and any(content[at:at + BLOCK]))
        f.seek(data.index(changed) + 10)
        f.write(b"damaged")
    p = tidemark("copy-points", repo.path, there, check=False)
    equal(p.returncode, 5, p.stderr)
    matches(p.stderr, r"point 'p3' was not copied: the block at \d+ of disk 'b' is damaged")
    matches(p.stderr, "point 'p4' was not copied: it stands on point 'p3', which was not copied")
    equal(points(there), ["p0", "p1", "p2"])
    intact(repo, there)


@test(needs=NEEDS)
def an_interrupted_copy_leaves_whole_points(tmp):
    "with a limit of the rate; then the same command goes on"
    repo = make(tmp)
    there = os.path.join(tmp, "there")
    start = time.monotonic()
    p = subprocess.Popen([TIDEMARK, "copy-points", "--rate", "2M", repo.path, there], stdout=subprocess.DEVNULL,
                         stderr=subprocess.PIPE, text=True)
    wait_until(lambda: os.path.exists(os.path.join(there, "p1", "manifest.json")), "a second point")
    p.send_signal(signal.SIGINT)
    error = p.communicate(timeout=PATIENCE)[1]
    equal(p.returncode, 130, error)
    matches(error, r"interrupted: [1-5] of 6 points were copied")
    equal(time.monotonic() - start > .3, True)
    intact(repo, there)
    tidemark("copy-points", repo.path, there)
    equal(points(there), points(repo.path))
    intact(repo, there)


main()
