#!/usr/bin/python3
# SPDX-FileCopyrightText: 2026 The Tidemark authors
# SPDX-License-Identifier: GPL-2.0-or-later
"""tidemark list, info, verify and forget: whatever is damaged in a repository, what is lost is named exactly, and
everything else is still called whole."""
import fcntl
import hashlib
import random
import shutil
import struct
import tempfile

from harness import *

KIB, MIB, BLOCK = 1 << 10, 1 << 20, 65536
SIZE = 2 * MIB


MADE = tempfile.TemporaryDirectory(prefix="tidemark-repository-")


def make(tmp, *more):
    """Points p0 to p2 of disk0: p1 has block 1, p2 block 2 anew; p0 has blocks 0 to 7, of 32."""
    made, repo = os.path.join(MADE.name, "-".join(("repo",) + more)), os.path.join(tmp, "repo")
    if not os.path.exists(made):
        write(tmp, made, *more)
    shutil.copytree(made, repo)
    return repo


def write(tmp, repo, *more):
    with Daemon(tmp, *disk(tmp, "disk0", SIZE)) as d:
        for i in range(3):
            h = d.nbd("disk0")
            if i:
                h.pwrite(random.Random(i).randbytes(BLOCK // 2) + bytes(BLOCK // 2), i * BLOCK)
            else:
                h.pwrite(random.Random(0).randbytes(8 * BLOCK), 0)
            h.flush()
            h.shutdown()
            tidemark("backup", "--socket", d.qmp_path, "--name", "p%d" % i, *more, "disk0", repo)


def verify(repo, *points, status=None):
    """Events by kind; point -> (whole, lines)."""
    done = tidemark("verify", "--json", repo, *points, check=False)
    if status is not None:
        equal(done.returncode, status, done.stdout + done.stderr)
    events = [json.loads(line) for line in done.stdout.splitlines()]
    return {e["point"]: (e["whole"], e["found"]) for e in events if e["event"] == "point"}


def whole(found):
    return [name for name, (good, _) in sorted(found.items()) if good]


def flip(path, offset, bit=1):
    with open(path, "r+b") as f:
        f.seek(offset)
        byte = f.read(1)[0]
        f.seek(offset)
        f.write(bytes([byte ^ bit]))


def place_of(path, offset):
    """Where the image has the disk's block."""
    mapped = json.loads(run("qemu-img", "map", "--output=json", path).stdout)
    at = next(m for m in mapped if m["start"] <= offset < m["start"] + m["length"])
    return at["offset"] + offset - at["start"]


@test(needs=["qemu-img"])
def a_damaged_block_touches_the_points_that_show_it(tmp):
    "points that have the block anew are whole, and list and info know afterwards"
    repo = make(tmp)
    equal(whole(verify(repo, status=0)), ["p0", "p1", "p2"])
    image = os.path.join(repo, "p0", "disk0.qcow2")
    flip(image, place_of(image, BLOCK) + 1000)  # in p1 anew
    found = verify(repo, status=5)
    equal(whole(found), ["p1", "p2"])
    equal(found["p0"][1], ["disk disk0: 65536 bytes at 65536 are lost, in the image of point p0"])
    flip(image, place_of(image, 5 * BLOCK) + 1000)  # nobody has it anew
    equal(whole(verify(repo, status=5)), [])
    shown_list = tidemark("list", "--json", repo, check=False)
    equal(shown_list.returncode, 5)
    equal([p["verified"]["whole"] for p in json.loads(shown_list.stdout)["points"]], [False] * 3)
    matches(tidemark("info", repo, "p1", check=False).stdout, "65536 bytes at 327680 are lost, in the image of point p0")
    flip(image, place_of(image, 5 * BLOCK) + 1000)
    equal(whole(verify(repo, "p1", status=0)), ["p1"])


@test(needs=["qemu-img"])
def compressed_blocks_are_verified(tmp):
    "damage in a compressed cluster is found, and only there"
    repo = make(tmp, "--compress=zstd")
    equal(whole(verify(repo, status=0)), ["p0", "p1", "p2"])
    image = os.path.join(repo, "p1", "disk0.qcow2")
    with open(image, "rb") as f:
        data = f.read()
    flip(image, 999 + next(i for i in range(0, len(data), 4096) if data[i:i + 4096].count(0) < 100))
    equal(verify(repo, status=5)["p1"], (False, [
        "disk disk0: 65536 bytes at 65536 are lost, in the image of point p1"]))


@test
def whatever_is_damaged_in_a_manifest_the_others_are_whole(tmp):
    "each member of a manifest: its point and those that stand on it are damaged, and no other"
    repo = make(tmp)
    path = os.path.join(repo, "p1", "manifest.json")
    with open(path) as f:
        text = f.read()
    members = [line.strip().split('"')[1] for line in text.splitlines() if '": ' in line]
    equal({"format", "version", "instant", "size", "tree", "parent", "sha256"} - set(members), set())
    for line in text.splitlines():
        if '": ' not in line or line.rstrip().endswith(("{", "[")):
            continue
        bad = line[:-3] + chr(ord(line[-3]) ^ 1) + line[-2:]
        with open(path, "w") as f:
            f.write(text.replace(line, bad))
        done = tidemark("list", repo, check=False)
        equal(done.returncode, 5, line)
        matches(done.stdout, "Point p1 is damaged: .*manifest.json' is damaged")
        matches(done.stdout, "Point p2 is damaged: .*stands on point 'p1', which is damaged")
    equal(whole(verify(repo, status=5)), ["p0"])
    matches(tidemark("info", repo, "p1", check=False).stderr, "point 'p1' is damaged")
    os.remove(path)
    matches(tidemark("list", repo, check=False).stdout, "Point p1 is damaged: it has no manifest.json")
    with open(path, "w") as f:
        f.write(text)
    equal(whole(verify(repo, status=0)), ["p0", "p1", "p2"])


@test(needs=["qemu-img"])
def wherever_an_image_is_damaged_verify_is_exact(tmp):
    "a byte anywhere in the middle image: what is called whole reads as it was, by qemu-img as well"
    repo = make(tmp)
    image = os.path.join(repo, "p1", "disk0.qcow2")
    out = os.path.join(tmp, "out")

    def read(point):
        done = run("qemu-img", "convert", "-O", "raw", os.path.join(repo, point, "disk0.qcow2"), out, check=False)
        if done.returncode:
            return None
        with open(out, "rb") as f:
            return hashlib.sha256(f.read()).digest()

    good = {p: read(p) for p in ("p0", "p1", "p2")}
    with open(image, "rb") as f:
        data = f.read()
    chosen = random.Random(4)
    used = [i for i in range(0, len(data), 8) if any(data[i:i + 8])]
    first = place_of(image, BLOCK)
    meta = [i for i in used if i < first]
    places = chosen.sample(meta[:16], 6) + chosen.sample(meta[16:], min(8, len(meta[16:]))) + chosen.sample(used, 2)
    for at in places:
        flip(image, at + chosen.randrange(8), 1 << chosen.randrange(8))
        found = verify(repo)
        for point in set(whole(found)) - {"p0"}:
            equal(read(point), good[point], "flipped near %d: %s" % (at, found))
        equal(found["p0"][0], True, "p0 does not stand on it")
        with open(image, "wb") as f:
            f.write(data)
    equal(whole(verify(repo, status=0)), ["p0", "p1", "p2"])


@test(needs=["qemu-img", "qemu-io"])
def data_in_no_run_hide_the_parent_and_are_found(tmp):
    "a cluster that the hashes don't know, and one that is gone"
    repo = make(tmp)
    image = os.path.join(repo, "p2", "disk0.qcow2")
    run("qemu-io", "-c", "write -P 7 0x60000 64k", image)
    equal(verify(repo, status=5)["p2"], (False, [
        "disk disk0: 65536 bytes at 393216 are lost, in the image of point p2"]))
    run("qemu-io", "-c", "write -P 7 0x20000 64k", image)
    equal(whole(verify(repo, status=5)), ["p0", "p1"])


@test
def files_that_are_missing_or_foreign_are_named(tmp):
    "each file of a point"
    repo = make(tmp)
    for name in ("disk0.qcow2", "disk0.hashes"):
        path = os.path.join(repo, "p1", name)
        os.rename(path, path + "~")
        matches(tidemark("list", repo, check=False).stdout, "Point p1 is damaged: %s is missing" % name)
        found = verify(repo, status=5)
        equal(whole(found), ["p0"])
        matches(found["p2"][1][0], "image of point p1 is lost: .*%s" % name)
        os.rename(path + "~", path)
    for name in ("p1/other.qcow2", "p1/x.txt", "y.txt"):
        with open(os.path.join(repo, name), "w"):
            pass
    done = tidemark("verify", repo, check=False)
    equal(done.returncode, 3)
    for name in ("other.qcow2", "x.txt", "y.txt"):
        matches(done.stdout, "'%s' is no file of the" % name)


@test
def no_link_in_a_repository_is_followed(tmp):
    "an image that is a link is damaged, and is not served"
    repo = make(tmp)
    image = os.path.join(repo, "p0", "disk0.qcow2")
    shutil.move(image, os.path.join(tmp, "outside.qcow2"))
    os.symlink("../../outside.qcow2", image)
    equal(whole(verify(repo, status=5)), [])
    done = tidemark("serve", "--at", "p2", repo, check=False)
    equal(done.returncode, 5, done.stderr)
    matches(done.stderr, "disk0.qcow2' is damaged: it is not a regular file")


@test
def what_can_not_be_opened_is_not_damaged(tmp):
    "too few descriptors: status 1, and nothing is recorded"
    repo = make(tmp)
    for n in range(6, 24):
        done = run("sh", "-c", "ulimit -n %d; exec %s verify %s" % (n, TIDEMARK, repo), check=False)
        equal(done.returncode in (0, 1), True, "%d: %s %s" % (n, done.stdout, done.stderr))
        equal("DAMAGED" in done.stdout, False, done.stdout)
        if done.returncode:
            equal(os.path.exists(os.path.join(repo, "p0", "verified.json")), False)
    equal(done.returncode, 0, done.stderr)


@test
def a_file_of_hashes_that_is_damaged_is_no_proof(tmp):
    "any byte of it"
    repo = make(tmp)
    path = os.path.join(repo, "p1", "disk0.hashes")
    for at in random.Random(1).sample(range(os.path.getsize(path)), 8):
        flip(path, at)
        found = verify(repo, status=5)
        equal(whole(found), ["p0"])
        matches(found["p1"][1][0], "SHA-256 is not that of the manifest")
        flip(path, at)


@test(needs=["qemu-img"])
def a_point_is_compared_with_a_disk_of_now(tmp):
    "with a daemon's disk while it is written to, an NBD URI and files; by range"
    repo = os.path.join(tmp, "repo")
    with Daemon(tmp, *disk(tmp, "disk0", SIZE)) as d:
        h = d.nbd("disk0")
        h.pwrite(random.Random(0).randbytes(8 * BLOCK), 4096)
        h.flush()
        tidemark("backup", "--socket", d.qmp_path, "--name", "p0", "disk0", repo)
        against = ["verify", "--socket", d.qmp_path, "--against"]
        matches(tidemark(*against, "disk0", repo).stdout, "Disk disk0 of point p0 equals disk0")
        h.pwrite(b"x", 4096 * 3 + 5)
        h.zero(8192, 4096 * 5)
        h.pwrite(b"y", SIZE - 1)
        h.flush()
        for what in ("disk0", "disk0=disk0", d.uri("disk0")):
            done = tidemark(*against, what, repo, "p0", check=False)
            equal((done.returncode, done.stdout.splitlines()[:3]), (3, [
                "4096 bytes at 12288 differ", "8192 bytes at 20480 differ", "4096 bytes at 2093056 differ"]))
        equal(d.qmp("query-backups"), [])
        equal(len(d.qmp("query-nbd-servers")), 1)
        h.shutdown()
    out = os.path.join(tmp, "disk0.img")
    equal(tidemark("verify", "--against", out, repo, check=False).returncode, 3)
    for fmt in ("raw", "qcow2"):
        run("qemu-img", "convert", "-O", fmt, os.path.join(repo, "p0", "disk0.qcow2"), os.path.join(tmp, "o." + fmt))
        tidemark("verify", "--against", os.path.join(tmp, "o." + fmt), repo)
    image = os.path.join(repo, "p0", "disk0.qcow2")
    flip(image, place_of(image, BLOCK) + 7)
    done = tidemark("verify", "--json", "--against", os.path.join(tmp, "o.raw"), repo, check=False)
    equal(done.returncode, 5)
    matches(done.stdout, '"offset":65536,"length":65536,"readable":false')


@test
def points_are_forgotten_when_nothing_stands_on_them(tmp):
    "the newest first; what was never completed goes, too"
    repo = make(tmp)
    os.mkdir(os.path.join(repo, "p9"))
    with open(os.path.join(repo, "p9", "manifest.json.partial"), "w"):
        pass
    shutil.copy(os.path.join(repo, "p0", "disk0.qcow2"), os.path.join(repo, "p9"))
    matches(tidemark("list", repo).stdout, "p9 was never completed")
    matches(tidemark("forget", repo, "p2").stdout, "Removed 1 point")
    equal(sorted(n for n in os.listdir(repo) if n.startswith("p")), ["p0", "p1"])
    equal(tidemark("forget", repo, "p2", check=False).returncode, 1)
    equal(whole(verify(repo, status=0)), ["p0", "p1"])


@test
def a_locked_repository_is_waited_for_or_refused(tmp):
    "status 4, and who has it"
    repo = make(tmp)
    with open(os.path.join(repo, "lock"), "r+b") as f:
        fcntl.fcntl(f, 37, struct.pack("hhqqi4x", fcntl.F_WRLCK, 0, 0, 1, 0))  # F_OFD_SETLK of byte 0
        done = tidemark("forget", repo, "p2", check=False)
        equal(done.returncode, 4)
        matches(done.stderr, "is locked by tidemark backup.*process")
        equal(whole(verify(repo, status=0)), ["p0", "p1", "p2"])
        fcntl.fcntl(f, 37, struct.pack("hhqqi4x", fcntl.F_WRLCK, 0, 1, 1, 0))
        equal(tidemark("verify", repo, check=False).returncode, 4)
        equal(json.loads(tidemark("list", "--json", repo).stdout)["written"], True)
        start = time.monotonic()
        equal(tidemark("verify", "--wait", "1", repo, check=False).returncode, 4)
        equal(time.monotonic() - start >= 1, True)
    tidemark("forget", "--wait", "5", repo, "p2")


@test
def a_writer_that_waits_for_readers_has_its_name_in_the_lock(tmp):
    "whoever finds the repository locked reads who has it now, not who had it before"
    repo = make(tmp)
    with open(os.path.join(repo, "lock"), "r+b") as f:
        fcntl.fcntl(f, 37, struct.pack("hhqqi4x", fcntl.F_RDLCK, 0, 1, 1, 0))  # a reader's
        first = subprocess.Popen([TIDEMARK, "forget", "--wait=-1", repo, "p2"], stdout=subprocess.DEVNULL,
                                 stderr=subprocess.PIPE, text=True)
        matches(first.stderr.readline(), "another process reads points or adds one: waiting")
        done = tidemark("forget", repo, "p2", check=False)
        equal(done.returncode, 4)
        matches(done.stderr, r"is locked by tidemark forget \(process %d " % first.pid)
    equal((first.communicate(timeout=PATIENCE)[1], first.returncode), ("", 0))


@test
def a_repository_that_can_not_be_written_is_verified(tmp):
    "on a read-only file system"
    repo = make(tmp)
    if os.geteuid() or run("unshare", "-m", "true", check=False).returncode:
        skip("needs root and mount namespaces")
    script = "mount --bind %s %s && mount -o remount,ro,bind %s && %s verify %s" % (repo, repo, repo, TIDEMARK, repo)
    done = run("unshare", "-m", "sh", "-c", script, check=False)
    equal(done.returncode, 0, done.stderr)
    matches(done.stdout, "3 points are whole")
    matches(done.stderr, "not recorded")


@test
def misuse_is_refused(tmp):
    "what is no repository, points that are not there, options that exclude each other"
    repo = make(tmp)
    for args, status, message in [
            (("list", tmp), 1, "is not a repository"),
            (("verify", repo, "p7"), 1, "it has p0, p1 and p2"),
            (("forget", repo, "p7"), 1, "has no point 'p7': it has p0, p1 and p2\n"),
            (("info", repo, "2001-01-01"), 1, "no point at or before"),
            (("info", repo, "--list"), 2, "exclude each other"),
            (("list", "--tree", "--json", repo), 2, "exclude each other"),
            (("forget", repo, "latest"), 1, "has no point .latest.: it has ")]:
        done = tidemark(*args, check=False)
        equal(done.returncode, status, str(args))
        matches(done.stderr, message)


if __name__ == "__main__":
    main()
