#!/usr/bin/python3
# SPDX-FileCopyrightText: 2026 The Tidemark authors
# SPDX-License-Identifier: GPL-2.0-or-later
"""tidemark serve: a daemon of one's own on some images, found by the other commands."""
from harness import *
from loop import Loop
from repositories import BLOCK, Repository
from serving import *
import fcntl
import struct

MIB = 1 << 20


def images(tmp, *names, size=4 * MIB):
    """Makes disks; returns their paths."""
    for name in names:
        tidemark("image", "create", "-q", "-f", "qcow2" if name.endswith(".qcow2") else "raw",
                 os.path.join(tmp, name), size)
    return [os.path.join(tmp, name) for name in names]


def refused(tmp, pattern, *args, status=1):
    p = tidemark("serve", *args, env=runtime(tmp), cwd=tmp, check=False)
    equal(p.returncode, status, p.stdout + p.stderr)
    equal(p.stderr.count("\n"), 1, p.stderr)
    matches(p.stderr, pattern)


@test
def serves_and_is_found(tmp):
    "disks are served under their names, and the commands find the daemon"
    import nbd
    images(tmp, "a.img", "b.qcow2")
    with Serve(tmp, "a.img", "b.qcow2") as s:
        equal([(d["name"], d["format"], d["size"], d["read-only"]) for d in s.answer["disks"]],
              [("a", "raw", 4 * MIB, False), ("b", "qcow2", 4 * MIB, False)])
        for name in "ab":
            h = nbd.NBD()
            h.connect_uri(s.uri(name))
            h.pwrite(b"x" * 65536, MIB)
            h.shutdown()
        shown = json.loads(s.tidemark("info", "--json").stdout)
        equal({e["id"] for e in shown["exports"]}, {"a", "b"})
        for path in s.answer["socket"], s.answer["nbd-socket"]:
            equal(os.stat(path).st_mode & 0o7777, 0o600)
        equal(os.stat(os.path.dirname(path)).st_mode & 0o7777, 0o700)
        daemon = s.daemon()
    equal(gone(daemon), True)
    equal(os.path.exists(path), False)
    with open(os.path.join(tmp, "a.img"), "rb") as f:
        f.seek(MIB)
        equal(f.read(65537), b"x" * 65536 + b"\0")


@test
def text_is_for_people(tmp):
    "prints a URI, QEMU's option and the next command for each disk; --detach returns"
    images(tmp, "disk0.img")
    env = runtime(tmp)
    p = tidemark("serve", "--detach", "disk0.img", env=env, cwd=tmp)
    matches(p.stdout, r"disk0: .*/disk0.img \(raw, 4 MiB\)")
    matches(p.stdout, r"NBD +'nbd\+unix:///disk0\?socket=.*/run/tidemark/nbd.sock'")
    matches(p.stdout, r"QEMU +-blockdev driver=nbd,node-name=disk0,server.type=unix,server.path=.*,export=disk0")
    matches(p.stdout, r"next +tidemark backup disk0 REPOSITORY\n")
    matches(p.stdout, "End it with: tidemark qmp quit")
    tidemark("qmp", "quit", env=env)


@test
def adds_to_the_running_one(tmp):
    "a second serve adds its disks to the daemon that runs; a name that is taken is refused"
    images(tmp, "a.img", "b.img", "c/a.img" if os.makedirs(os.path.join(tmp, "c")) is None else "")
    with Serve(tmp, "a.img") as s:
        p = s.tidemark("serve", "b.img", cwd=tmp)
        matches(p.stdout, "Added to the daemon")
        refused(tmp, "serves a disk 'a' already .*NAME=", "c/a.img")
        p = s.tidemark("serve", "other=c/a.img", cwd=tmp)
        shown = json.loads(s.tidemark("info", "--json").stdout)
        equal({e["id"] for e in shown["exports"]}, {"a", "b", "other"})


@test
def killed_and_served_again(tmp):
    "kill -9 of the daemon: serve says so; the next one has the exact bitmaps"
    import nbd
    images(tmp, "a.img", "b.qcow2")
    with Serve(tmp, "a.img", "b.qcow2") as s:
        for name in "ab":
            s.tidemark("bitmap", "add", name, "b0", "--persistent")
            h = nbd.NBD()
            h.connect_uri(s.uri(name))
            h.pwrite(b"x" * 65536, 2 * MIB)
        os.kill(s.daemon(), signal.SIGKILL)
        matches(s.end(0, 1), "killed by signal 9.*run the same command again")
    with Serve(tmp, "a.img", "b.qcow2") as s:
        for bitmap in json.loads(s.tidemark("bitmap", "list", "--json").stdout):
            equal((bitmap["count"], bitmap.get("recovered", 0)), (65536, 0), bitmap)


@test
def does_not_outlive_the_command(tmp):
    "kill -9 of the command ends its daemon cleanly"
    images(tmp, "a.img")
    with Serve(tmp, "a.img") as s:
        s.tidemark("bitmap", "add", "a", "b0", "--persistent")
        daemon = s.daemon()
        s.process.kill()
        s.process.communicate()
        wait_until(lambda: gone(daemon), "the daemon's end")
    matches(tidemark("bitmap", "check", os.path.join(tmp, "a.img")).stdout, "closed")


@test
def formats(tmp):
    "qcow2 by the image, raw by the name or --format; contradictions are refused"
    images(tmp, "a.qcow2", "a.img")
    shutil.copy(os.path.join(tmp, "a.qcow2"), os.path.join(tmp, "cloud.img"))
    shutil.copy(os.path.join(tmp, "a.qcow2"), os.path.join(tmp, "evil.raw"))
    shutil.copy(os.path.join(tmp, "a.img"), os.path.join(tmp, "plain"))
    tidemark("image", "create", "-q", "-f", "qcow2", "-b", "a.qcow2", "-F", "qcow2", "over.qcow2", cwd=tmp)
    shutil.copy(os.path.join(tmp, "over.qcow2"), os.path.join(tmp, "over.img"))
    refused(tmp, "plain' is no qcow2 image.*--format raw", "plain")
    refused(tmp, "evil.raw' begins as a qcow2 image.*--format", "evil.raw")
    refused(tmp, "over.img' begins as a qcow2 image that names other files.*--format", "over.img")
    refused(tmp, "'vmdk' is neither raw nor qcow2", "--format", "vmdk", "plain", status=2)
    with Serve(tmp, "--format", "raw", "plain", "evil.raw") as s:
        equal([d["format"] for d in s.answer["disks"]], ["raw", "raw"])
    with Serve(tmp, "cloud.img", "over.qcow2") as s:
        equal([d["format"] for d in s.answer["disks"]], ["qcow2", "qcow2"])


@test
def files_that_images_name(tmp):
    "a backing file in another directory is opened only with --backing-names any"
    import nbd
    for folder in "lower", "upper":
        os.mkdir(os.path.join(tmp, folder))
    base, = images(tmp, "lower/base.raw")
    with open(base, "r+b") as f:
        f.write(b"b" * 4096)
    top = os.path.join(tmp, "upper", "top.qcow2")
    tidemark("image", "create", "-q", "-f", "qcow2", "-b", "../lower/base.raw", "-F", "raw", top)
    refused(tmp, r"^tidemark: disk '\S*/top.qcow2': .*\.\./lower/base.raw.*backing-names=any", top)
    refused(tmp, r"top.qcow2': .*'backing-names' does not accept value 'all'.*any", "--backing-names", "all", top)
    with Serve(tmp, "--backing-names", "any", top) as s:
        h = nbd.NBD()
        h.connect_uri(s.uri("top"))
        equal(bytes(h.pread(4096, 0)), b"b" * 4096)
        h.shutdown()


@test
def names(tmp):
    "names that clash or can't be are refused with the way out; a directory stands for its images"
    os.makedirs(os.path.join(tmp, "d"))
    images(tmp, "d/a.img", "d/b.qcow2", "a.qcow2", "2x.img", "d/.hidden.img")
    image(os.path.join(tmp, "d", "notes.txt"), 512)
    refused(tmp, "would both have the name 'a': give one of them another with NAME=", "d/a.img", "a.qcow2")
    refused(tmp, "are the same disk", "d/a.img", "x=./d/a.img")
    refused(tmp, "'2x' can't be the name of a disk.*NAME=", "2x.img")
    refused(tmp, "nosuch.img' does not exist .*tidemark image create", "nosuch.img")
    refused(tmp, "has no images", "run")
    with Serve(tmp, "d", "two=a.qcow2") as s:
        equal([d["name"] for d in s.answer["disks"]], ["a", "b", "two"])


@test
def read_only(tmp):
    "--read-only: clients can't write"
    import nbd
    images(tmp, "a.img")
    refused(tmp, "exclude each other", "--read-only", "--writable", "a.img", status=2)
    with Serve(tmp, "--read-only", "a.img") as s:
        matches(s.disks["a"]["blockdev"], "read-only=on")
        h = nbd.NBD()
        h.connect_uri(s.uri("a"))
        equal(h.is_read_only(), True)


@test
def a_failure_leaves_nothing(tmp):
    "a disk that can't be opened: what was added before is gone again"
    images(tmp, "a.img", "b.img", "c.qcow2")
    with open(os.path.join(tmp, "c.qcow2"), "r+b") as f:
        f.seek(4)
        f.write(b"\0\0\0\x63")
    refused(tmp, "c.qcow2", "b.img", "c.qcow2")
    with Serve(tmp, "a.img") as s:
        refused(tmp, "c.qcow2", "b.img", "c.qcow2")
        shown = json.loads(s.tidemark("info", "--json").stdout)
        equal({e["id"] for e in shown["exports"]}, {"a"})


@test
def socket_dir(tmp):
    "--socket-dir: sockets there, which others must not be able to write to; a stale lock is no obstacle"
    images(tmp, "a.img")
    os.makedirs(os.path.join(tmp, "open"))
    os.chmod(os.path.join(tmp, "open"), 0o777)
    refused(tmp, "no directory that only you can write to", "--socket-dir", "open", "a.img")
    image(os.path.join(tmp, "lock"), 0)
    with Serve(tmp, "--socket-dir", "own,x/y", "a.img") as s:
        equal(s.answer["socket"], os.path.join(tmp, "own,x/y", "qmp.sock"))
        matches(s.disks["a"]["blockdev"], "own,,x")
        tidemark("info", s.uri("a"))
        tidemark("info", "--socket", s.answer["socket"])


@test
def order_of_sockets(tmp):
    "--socket, TIDEMARK_SOCKET, tidemark.sock, then serve's; what nobody listens on is passed over"
    images(tmp, "a.img", "b.img")
    with Serve(tmp, "a.img") as s, Daemon(tmp, *disk(tmp, "b", path=os.path.join(tmp, "b.img"))) as d:
        nodes = lambda *args, **env: re.search("^  ([ab]) ", tidemark(
            "info", *args, env=dict(s.env, **env)).stdout, re.M).group(1)
        own = os.path.join(tmp, "run", "tidemark.sock")
        with socket.socket(socket.AF_UNIX) as stale:
            stale.bind(own)
        equal(nodes(), "a")
        os.unlink(own)
        os.symlink(d.qmp_path, own)
        equal(nodes(), "b")
        equal(nodes(TIDEMARK_SOCKET=s.answer["socket"]), "a")
        equal(nodes("--socket", d.qmp_path, TIDEMARK_SOCKET=s.answer["socket"]), "b")


def make_points(tmp):
    repo = Repository(os.path.join(tmp, "repo"))
    first = b"".join(bytes([i]) * BLOCK for i in (1, 0, 2, 0, 3, 4))
    repo.add("p0", None, **{"2nd": first, "disk": first[:BLOCK * 3]})
    repo.add("p1", "p0", **{"2nd": first[:BLOCK] + b"new" * (BLOCK // 3) + b"!" + bytes(BLOCK) + first[3 * BLOCK:],
                            "disk": bytes(BLOCK) + first[BLOCK:BLOCK * 3]})
    repo.add("p2", None, disk=first)
    return repo


def changing(repo):
    """Whether somebody could remove points: nobody holds the lock of those who read them."""
    with open(os.path.join(repo.path, "lock"), "r+b") as f:
        lock = fcntl.fcntl(f, fcntl.F_OFD_GETLK, struct.pack("hhqqi4x", fcntl.F_WRLCK, os.SEEK_SET, 1, 1, 0))
    return struct.unpack("hhqqi4x", lock)[0] == fcntl.F_UNLCK


@test(needs=["qemu-img", "qemu-io"])
def points_of_a_repository(tmp):
    "a point is served read-only beside live disks, with its chain; points stay as long as it is"
    import nbd
    repo = make_points(tmp)
    images(tmp, "a.img")
    with Serve(tmp, "a.img") as live, Serve(tmp, repo.path, "--at", "p1") as s:
        for name in "2nd", "disk":
            h = nbd.NBD()
            h.connect_uri(s.uri(name))
            equal(h.is_read_only(), True)
            equal(h.pread(h.get_size(), 0) == repo.contents["p1", name], True, name)
        equal(changing(repo), False)
        s.process.kill()
        s.process.wait()
        wait_until(lambda: changing(repo), "the end of the daemon")
        equal(json.loads(live.tidemark("info", "--json").stdout)["exports"][0]["id"], "a")
    refused(tmp, "is no repository of backups", "--at", "p1", "a.img", status=2)
    refused(tmp, "served alone", repo.path, "a.img", status=2)
    refused(tmp, "nosuch", repo.path, "--at", "nosuch")


@test(needs=["qemu-img", "qemu-io"])
def points_over_a_scratch(tmp):
    "--writable: clients write to a scratch, which is gone at once, and the repository is as it was"
    import nbd
    repo = make_points(tmp)
    scratch = os.path.join(tmp, "scratch")
    os.makedirs(scratch)
    files = lambda: {os.path.join(d, n): open(os.path.join(d, n), "rb").read()
                     for d, _, names in os.walk(repo.path) for n in names}
    before = files()
    os.environ["TMPDIR"] = scratch
    try:
        with Serve(tmp, repo.path, "--at", "p1", "--writable") as s:
            equal(os.listdir(scratch), [])
            h = nbd.NBD()
            h.connect_uri(s.uri("2nd"))
            h.pwrite(b"y" * 1000, BLOCK + 77)
            h.trim(BLOCK, 4 * BLOCK)
            h.flush()
            content = bytearray(repo.contents["p1", "2nd"])
            content[BLOCK + 77:BLOCK + 1077] = b"y" * 1000
            equal(h.pread(4 * BLOCK, 0) == content[:4 * BLOCK], True)
            directory = os.path.dirname(s.answer["socket"])
        equal(os.path.exists(directory), False)
    finally:
        del os.environ["TMPDIR"]
    equal(files() == before, True)


def writes(uri, data, offset):
    import nbd
    h = nbd.NBD()
    h.connect_uri(uri)
    h.pwrite(data, offset)
    h.flush()
    h.shutdown()


@test(needs=["losetup", "qemu-img"])
def block_devices(tmp):
    "a device is served, raw or with an image, and backed up; its bitmaps outlive the daemon"
    path, repo = image(os.path.join(tmp, "back"), 4 * MIB, [(MIB, b"a" * BLOCK)]), os.path.join(tmp, "repo")
    state = os.path.join(tmp, "state", "tidemark")
    with Loop(path) as device:
        name = os.path.basename(device)
        for i, kind in enumerate(("full", "incremental", "incremental")):
            with Serve(tmp, device) as s:
                equal([(d["file"], d["format"], d["size"]) for d in s.answer["disks"]], [(device, "raw", 4 * MIB)])
                writes(s.uri(name), b"%d" % i * 5000, 2 * MIB)
                matches(s.tidemark("backup", "--name", "p%d" % i, name, repo).stdout, kind)
                point = os.path.join(repo, "p%d" % i, name + ".qcow2")
            run("qemu-img", "convert", "-O", "raw", point, os.path.join(tmp, "out"))
            with open(path, "rb") as is_there, open(os.path.join(tmp, "out"), "rb") as out:
                equal(out.read() == is_there.read(), True)
        equal(os.listdir(state), [device[1:].replace("/", "-") + ".bitmaps"])
        run("qemu-img", "create", "-q", "-f", "qcow2", device, 2 * MIB)
        with Serve(tmp, "x=" + device) as s:
            equal((s.answer["disks"][0]["format"], s.answer["disks"][0]["size"]), ("qcow2", 2 * MIB))
            writes(s.uri("x"), b"x", 0)


main()
