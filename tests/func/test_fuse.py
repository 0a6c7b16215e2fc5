#!/usr/bin/python3
# SPDX-FileCopyrightText: 2026 The Tidemark authors
# SPDX-License-Identifier: GPL-2.0-or-later
"""Exports of the type fuse: a disk as a file. Skipped where nobody may mount."""
import random
import shutil
import struct

from fuse_kit import *

MIB = 1 << 20
SIZE = 8 * MIB
G = 65536


def serve_disk(tmp, *args, **options):
    need_fuse()
    return Daemon(tmp, *disk(tmp, "disk0", SIZE, discard="unmap", **options), *args)


def content(path):
    with open(path, "rb") as f:
        return f.read()


def data_of(path):
    """What is no hole, as (offset, length)."""
    found, at = [], 0
    with opened(path, os.O_RDONLY) as fd:
        while True:
            try:
                start = os.lseek(fd, at, os.SEEK_DATA)
            except OSError as e:
                equal(e.errno, errno.ENXIO)
                return found
            at = os.lseek(fd, start, os.SEEK_HOLE)
            found.append((start, at - start))


def is_mounted(path):
    with open("/proc/self/mountinfo") as f:
        return any(line.split()[4] == path for line in f)


# ---- the file

@test
def the_file_is_the_disk(tmp):
    "what is read and written is the disk, beside an NBD client; holes and zeroes are where they were made"
    with serve_disk(tmp) as d:
        path = add(d, tmp, writable=True)
        h = d.nbd()
        rng = random.Random(1)
        model = bytearray(SIZE)
        with opened(path) as fd:
            for i in range(60):
                at = rng.randrange(SIZE)
                part = rng.randbytes(rng.choice([1, 512, 4096, 100000, MIB + 77]))[:SIZE - at]
                if i % 3 == 2:
                    h.pwrite(part, at)
                else:
                    equal(os.pwrite(fd, part, at), len(part))
                model[at:at + len(part)] = part
                at = rng.randrange(SIZE)
                length = min(rng.choice([1, 4096, 3 * MIB]), SIZE - at)
                equal(os.pread(fd, length, at) == model[at:at + length], True)
            os.fsync(fd)
            equal(os.pread(fd, 10, SIZE), b"")
            equal(len(os.pread(fd, 10, SIZE - 3)), 3)
            fallocate(fd, PUNCH_HOLE | KEEP_SIZE, 0, 6 * MIB)
            fallocate(fd, ZERO_RANGE, 6 * MIB, MIB)
            fallocate(fd, PUNCH_HOLE | KEEP_SIZE, 7 * MIB, SIZE)  # up to the end
        equal(content(path) == bytes(SIZE), True)
        equal([o for o, n in data_of(path) if o < 6 * MIB], [])
        equal(os.stat(os.path.join(tmp, "disk0.img")).st_blocks * 512 < 3 * MIB, True)
        with opened(path) as fd:
            os.pwrite(fd, b"x" * G, 2 * MIB)
            fallocate(fd, PUNCH_HOLE | KEEP_SIZE, 6 * MIB, MIB)
        equal(data_of(path), [(2 * MIB, G)])
        st = os.stat(path)
        equal((st.st_size, st.st_mode & 0o7777, st.st_blocks * 512 < SIZE), (SIZE, 0o600, True))
        [stats] = [s["stats"] for s in d.qmp("query-blockstats") if s["device"] == "f"]
        equal(stats["rd_bytes"] > 0 and stats["wr_operations"] > 40 and stats["flush_operations"] > 0, True, stats)
        h.shutdown()


@test(needs=["qemu-img", "sha256sum", "fallocate"])
def any_tool_reads_it(tmp):
    "a qcow2 disk as a file: cp, sha256sum, qemu-img, fallocate"
    need_fuse()
    rng = random.Random(2)
    raw = image(os.path.join(tmp, "raw"), SIZE, [(MIB, rng.randbytes(2 * MIB)), (5 * MIB, rng.randbytes(1000))])
    q = os.path.join(tmp, "q.qcow2")
    run("qemu-img", "convert", "-O", "qcow2", raw, q)
    with Daemon(tmp, "--blockdev", "driver=qcow2,node-name=q,file.driver=file,file.filename=%s,discard=unmap" % q) as d:
        path = add(d, tmp, "q", writable=True)
        run("cp", "--sparse=auto", path, os.path.join(tmp, "copy"))
        equal(content(os.path.join(tmp, "copy")) == content(raw), True)
        equal(os.stat(os.path.join(tmp, "copy")).st_blocks * 512 < 4 * MIB, True)
        sums = run("sha256sum", path, raw).stdout.split()
        equal(sums[0], sums[2])
        run("qemu-img", "compare", "-f", "raw", "-F", "raw", path, raw)
        run("fallocate", "-p", "-o", str(MIB), "-l", str(MIB), path)
        mapped = json.loads(run("qemu-img", "map", "-f", "raw", "--output=json", path).stdout)
        equal([(m["start"], m["data"]) for m in mapped][:2], [(0, False), (2 * MIB, True)])
        run("qemu-img", "convert", "-n", "-O", "raw", raw, path)
        equal(content(path) == content(raw), True)


@test
def a_read_only_file(tmp):
    "an export that is not writable refuses to be opened for writing, +w, another size, and times"
    with serve_disk(tmp) as d:
        path = add(d, tmp)
        equal(os.stat(path).st_mode & 0o7777, 0o400)
        equal(error_of(os.open, path, os.O_RDWR), "EACCES")
        equal(error_of(os.truncate, path, 100), "EACCES")
        equal(error_of(os.chmod, path, 0o600), "EROFS")
        equal(error_of(os.utime, path), "ENOTSUP")
        os.chmod(path, 0o404)
        equal(os.stat(path).st_mode & 0o7777, 0o404)
        before = os.stat(path).st_mtime_ns
        equal(os.stat(path).st_mtime_ns, before)
        d.nbd().pwrite(b"x", 0)
        equal(os.stat(path).st_mtime_ns > before, True)
        equal(content(path)[:2], b"x\0")


@test
def other_users(tmp):
    "allow-other decides who gets there, and whose the file may become"
    with serve_disk(tmp) as d:
        path = add(d, tmp, allow_other="off")
        equal(error_of(os.chmod, path, 0o444), "EPERM")
        equal(error_of(os.chown, path, 1, 1), "ENOTSUP")
        delete(d)
        if os.geteuid():
            return
        path = add(d, tmp, allow_other="on")
        os.chown(path, 1, 2)
        os.chmod(path, 0o440)
        st = os.stat(path)
        equal((st.st_uid, st.st_gid, st.st_mode & 0o777), (1, 2, 0o440))
        os.chmod(tmp, 0o755)
        for user, status in (1, 0), (3, 1):  # others can't get through the directories above
            equal(run("setpriv", "--reuid=%d" % user, "--regid=%d" % user, "--clear-groups", "head",
                      os.path.basename(path), cwd=tmp, check=False).returncode, status)


# ---- its size

@test
def the_size_follows_the_node(tmp):
    "block_resize shows at once, and so does a truncation"
    with serve_disk(tmp, export=False) as d:
        path = add(d, tmp, writable=True)
        with opened(path) as fd:
            for size in SIZE + 4096, 4096, SIZE:
                d.qmp("block_resize", node_name="disk0", size=size)
                equal(os.fstat(fd).st_size, size)
                equal(os.lseek(fd, 0, os.SEEK_END), size)
                equal(len(os.pread(fd, 2 * SIZE, 0)), size)
            os.pwrite(fd, b"x" * 4096, 0)
            os.ftruncate(fd, 1000)
            os.truncate(path, 3000)
            equal(os.pread(fd, SIZE, 0), b"x" * 1000 + bytes(2000))
        equal(d.qmp("query-named-block-nodes")[0]["image"]["virtual-size"], 3000)


@test
def beyond_the_end(tmp):
    "a write beyond the end is cut or refused, unless the export is growable"
    with serve_disk(tmp, export=False) as d:
        path = add(d, tmp, writable=True)
        with opened(path) as fd:
            equal(os.pwrite(fd, b"x" * 1000, SIZE - 10), 10)
            equal(error_of(os.pwrite, fd, b"x", SIZE), "ENOSPC")
            equal(os.fstat(fd).st_size, SIZE)
        grow = add(d, tmp, id="g", writable=True, growable=True)
        with opened(grow) as fd:
            equal(os.pwrite(fd, b"y" * 1000, SIZE - 10), 1000)
            equal(os.pwrite(fd, b"z" * 1000, SIZE + MIB), 1000)
            equal(os.pread(fd, 2000, SIZE + MIB - 1000), bytes(1000) + b"z" * 1000)
            in_threads(*(lambda i=i: [os.pwrite(fd, bytes([i]) * 100, SIZE + MIB + 1000 + (10 * n + i) * 100)
                                      for n in range(10)] for i in range(10)))
            equal(os.pread(fd, 20000, SIZE + MIB + 1000), b"".join(bytes([i]) * 100 for i in range(10)) * 10)
        with open(os.path.join(tmp, "source"), "wb") as f:
            f.write(b"s" * 3 * MIB)
        size = os.stat(path).st_size  # as of a block device, O_TRUNC has no effect
        for to in path, grow:
            run("cp", f.name, to)
            equal((content(to)[:3 * MIB] == b"s" * 3 * MIB, os.stat(to).st_size), (True, size))


@test
def growing_past_the_page_cache(tmp):
    "a write beyond the end of a disk that bypasses the page cache"
    with serve_disk(tmp, export=False, cache__direct="on") as d:
        with opened(add(d, tmp, writable=True, growable=True)) as fd:
            for i in range(8):
                equal(os.pwrite(fd, b"x" * 4096, SIZE + i * 4096), 4096)
            fallocate(fd, ZERO_RANGE, SIZE + 4096, MIB)
            equal(os.pread(fd, MIB, SIZE) == b"x" * 4096 + bytes(MIB - 4096), True)


@test
def space(tmp):
    "fallocate reserves space of a file, makes the disk longer, and refuses what it can't do"
    with serve_disk(tmp, export=False) as d:
        path, img = add(d, tmp, writable=True), os.path.join(tmp, "disk0.img")
        with opened(path) as fd:
            fallocate(fd, 0, MIB, MIB)
            equal(MIB <= os.stat(img).st_blocks * 512 < 2 * MIB, True)
            fallocate(fd, KEEP_SIZE, SIZE - MIB, 2 * MIB)
            equal(os.fstat(fd).st_size, SIZE)
            fallocate(fd, 0, SIZE, MIB)
            equal(os.fstat(fd).st_size, SIZE + MIB)
            fallocate(fd, ZERO_RANGE, SIZE, 2 * MIB)
            equal(os.fstat(fd).st_size, SIZE + 2 * MIB)
            equal(error_of(fallocate, fd, PUNCH_HOLE, 0, MIB), "ENOTSUP")
            equal(error_of(fallocate, fd, COLLAPSE_RANGE, 0, MIB), "ENOTSUP")
            equal(error_of(os.lseek, fd, SIZE + 2 * MIB, os.SEEK_HOLE), "ENXIO")
            fallocate(fd, PUNCH_HOLE | KEEP_SIZE, 1 << 40, 1 << 40)
        equal(content(path) == bytes(SIZE + 2 * MIB), True)


@test
def who_else_uses_the_node(tmp):
    "a size that another export relies on stays, growing beside it works"
    with serve_disk(tmp) as d:
        path = add(d, tmp, writable=True, growable=True)
        with opened(path) as fd:
            equal(error_of(os.ftruncate, fd, 1000), "EPERM")
            equal(os.fstat(fd).st_size, SIZE)
            equal(os.pwrite(fd, b"x" * 4096, SIZE), 4096)
            equal(os.fstat(fd).st_size, SIZE + 4096)
        matches(d.log(), "its file can't be made 1000 bytes long: Permission conflict on node 'disk0'")


@test
def over_its_own_image(tmp):
    "the image file can be the mountpoint, also of a disk with persistent bitmaps and of a qcow2 image"
    need_fuse()
    raw, q = os.path.join(tmp, "disk0.img"), os.path.join(tmp, "q")
    run(TIDEMARK, "image", "create", "-f", "qcow2", q, str(SIZE))
    for turn in range(2):
        with Daemon(tmp, *disk(tmp, "disk0", None if turn else SIZE, export=False),
                    "--blockdev", "driver=qcow2,node-name=q,file.driver=file,file.filename=" + q) as d:
            for node, path in ("disk0", raw), ("q", q):
                if not turn:
                    d.qmp("block-dirty-bitmap-add", node=node, name="b", persistent=True, granularity=G)
                add(d, tmp, node, id=node, at=path, writable=True)
                with opened(path) as fd:
                    equal(os.pread(fd, 4, G), b"own\0" if turn else bytes(4))
                    os.pwrite(fd, b"own", G + turn * 4 * G)
                equal(d.bitmap(node, "b")["count"], (turn + 1) * G)
                equal("reason" in d.bitmap(node, "b"), False)
    with open(q, "rb") as f:
        equal(f.read(3), b"QFI")


# ---- its end

@test
def deleting(tmp):
    "an export with an open file stays in use, waits for it, or cuts it off; new ones can't open it"
    with serve_disk(tmp) as d:
        path = add(d, tmp, writable=True)
        equal(is_mounted(path), True)
        with opened(path) as fd:
            raises(QMPError, d.qmp, "block-export-del", id="f", match="export 'f' still in use")
            [info] = [x for x in d.qmp("query-block-exports") if x["id"] == "f"]
            equal((info["type"], info["mountpoint"], info["open-files"], info["writable"]), ("fuse", path, 1, True))
            d.qmp("block-export-del", id="f", mode="wait")
            equal(is_mounted(path), False)
            equal(os.stat(path).st_size, 0)
            os.pwrite(fd, b"late", 100)
            equal(os.fstat(fd).st_size, SIZE)
            equal([x["shutting-down"] for x in d.qmp("query-block-exports") if x["id"] == "f"], [True])
        d.monitor.wait_event("BLOCK_EXPORT_DELETED", id="f")
        equal(bytes(d.nbd().pread(4, 100)), b"late")
        add(d, tmp, at=path)
        with opened(path, os.O_RDONLY) as fd:
            delete(d, mode="hard")
            equal(error_of(os.pread, fd, 10, 0) in ("ENOTCONN", "ECONNABORTED"), True)
        for _ in range(20):  # what was closed does not count, be it not known yet
            add(d, tmp, at=path)
            with open(path, "rb") as f:
                f.read(10)
            delete(d)
        equal(is_mounted(path), False)


@test
def the_end_of_the_daemon(tmp):
    "a daemon that ends unmounts, with files open; so does one that is killed"
    for how in "stop", "kill":
        d = serve_disk(tmp)
        path = add(d, tmp, writable=True)
        with opened(path) as fd:
            os.pwrite(fd, how.encode(), 0)
            getattr(d, how)()
            wait_until(lambda: not is_mounted(path), "the end of the mount")
            equal(error_of(os.pread, fd, 10, 0) in ("ENOTCONN", "ECONNABORTED"), True)
        equal(os.stat(path).st_size, 0)
        with open(os.path.join(tmp, "disk0.img"), "rb") as f:
            equal(f.read(4), how.encode())


@test
def a_directory_is_renamed(tmp):
    "a mount is removed from where it is by then"
    for how in delete, Daemon.kill:
        with serve_disk(tmp) as d:
            os.mkdir(tmp + "/before")
            add(d, tmp, at=place(tmp + "/before", "f"))
            os.rename(tmp + "/before", tmp + "/after")
            equal(os.stat(tmp + "/after/f.file").st_size, SIZE)
            how(d)
            wait_until(lambda: not is_mounted(tmp + "/after/f.file"), "the end of the mount")
            equal(os.stat(tmp + "/after/f.file").st_size, 0)
            shutil.rmtree(tmp + "/after")


def mounter(d):
    """The process that mounts for the daemon."""
    for pid in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError), open("/proc/%s/stat" % pid) as f:
            name, rest = f.read().rsplit(") ", 1)
            if name.endswith("(tidemarkd-mount") and int(rest.split()[1]) == d.pid:
                return int(pid)
    return fail("no process mounts for %d" % d.pid)


@test
def a_mount_that_was_left(tmp):
    "a daemon that is killed along with its process leaves a dead mount, which the next one replaces"
    d = serve_disk(tmp)
    path = add(d, tmp, writable=True)
    os.kill(mounter(d), signal.SIGKILL)
    d.kill()
    equal(error_of(os.stat, path) in ("ENOTCONN", "ECONNABORTED"), True)
    with Daemon(tmp, *disk(tmp, "disk0")) as d:
        add(d, tmp, at=path)
        equal(os.stat(path).st_size, SIZE)
        matches(d.log(), "removed the mount that a killed daemon had left at '%s'" % path)
        with Daemon(tmp, *disk(tmp, "other", SIZE), name="e") as e:
            raises(QMPError, add, e, tmp, "other", at=path, match="another daemon has mounted an export there")
            equal(content(path) == bytes(SIZE), True)
    equal(is_mounted(path), False)


@test
def the_process_that_mounts_is_gone(tmp):
    "without the process nothing more is mounted, what there is goes on, and the log says what stays"
    with serve_disk(tmp) as d:
        path = add(d, tmp)
        os.kill(mounter(d), signal.SIGKILL)
        raises(QMPError, add, d, tmp, id="g", match="the process that mounts does not answer any more")
        equal(content(path) == bytes(SIZE), True)
        delete(d)
        matches(d.log(), "its mount at '%s' stays, 'umount -l' removes it" % path)
    run("umount", "-l", path)


@test
def somebody_unmounts_it(tmp):
    "an export that was unmounted stays until it is deleted"
    with serve_disk(tmp) as d:
        path = add(d, tmp)
        run("umount" if not os.geteuid() else "fusermount3", *(["-u"] if os.geteuid() else []), path)
        equal(os.stat(path).st_size, 0)
        equal("f" in [x["id"] for x in d.qmp("query-block-exports")], True)
        delete(d)
        add(d, tmp, at=path)
        equal(os.stat(path).st_size, SIZE)


# ---- what is refused

@test
def mountpoints(tmp):
    "a mountpoint is a regular file with no other export; links lead to it"
    with serve_disk(tmp) as d:
        path = add(d, tmp)
        link = os.path.join(tmp, "link")
        os.symlink(path, link)
        for at, message in ((path, "There already is a FUSE export on '%s'"), (link, "There already is a FUSE export"),
                            (tmp, "'%s' is not a regular file"), (tmp + "/no", "Failed to stat '%s': No such file"),
                            ("/dev/null", "'%s' is not a regular file"), (tmp + "/" + "x" * 5000, "Failed to stat")):
            raises(QMPError, add, d, tmp, id="g", at=at, match=message % at if "%" in message else message)
        equal(len(d.qmp("query-block-exports")), 2)
        delete(d)
        add(d, tmp, at=link)
        equal((is_mounted(path), os.stat(link).st_size), (True, SIZE))
        raises(QMPError, d.qmp, "block-export-add", type="fuse", id="g", node_name="disk0", match="mountpoint")


@test
def a_disk_on_an_export_of_the_same_daemon(tmp):
    "a daemon does not open its own exports, which could wait for themselves"
    with serve_disk(tmp) as d:
        path = add(d, tmp, writable=True)
        raises(QMPError, d.qmp, "blockdev-add", driver="file", node_name="x", filename=path, match="deadlock")
        equal(content(path) == bytes(SIZE), True)
        with Daemon(tmp, "--blockdev", "file,node-name=x,filename=" + path, name="e") as e:  # another one may
            equal(content(add(e, tmp, "x", id="x")) == bytes(SIZE), True)


@test
def errors_of_the_disk(tmp):
    "an error of the disk is that of the call, and an event"
    need_fuse()
    img = image(os.path.join(tmp, "img"), SIZE)
    with Daemon(tmp, "--blockdev", json.dumps({
            "driver": "blkdebug", "node-name": "b", "image": {"driver": "file", "filename": img},
            "inject-error": [{"event": "none", "sector": 8, "errno": 5, "iotype": t} for t in ("read", "write")]})) as d:
        path = add(d, tmp, "b", writable=True)
        with opened(path) as fd:
            equal(error_of(os.pread, fd, 4096, 4096), "EIO")
            event = d.monitor.wait_event("BLOCK_IO_ERROR")
            equal((event["data"]["device"], event["data"]["operation"]), ("f", "read"))
            equal(error_of(os.pwrite, fd, b"x" * 4096, 4096), "EIO")
            equal(os.pread(fd, 4096, 0), bytes(4096))
        [stats] = [s["stats"] for s in d.qmp("query-blockstats")]
        equal((stats["failed_rd_operations"], stats["failed_wr_operations"]), (1, 1))


# ---- bitmaps and backups

@test
def bitmaps_record_its_writes(tmp):
    "a persistent bitmap has each write, hole and zero of the file, no more and no less, also after a kill"
    d = serve_disk(tmp)
    d.qmp("block-dirty-bitmap-add", node="disk0", name="b", persistent=True, granularity=G)
    path = add(d, tmp, writable=True, growable=True)
    rng, expected = random.Random(4), set()
    with opened(path) as fd:
        for i in range(30):
            at, length = rng.randrange(SIZE // G) * G + rng.randrange(G // 2), rng.choice([1, 4096, G])
            length = min(length, SIZE - at)
            if i % 3 == 0:
                os.pwrite(fd, b"w" * length, at)
            else:
                fallocate(fd, KEEP_SIZE | (PUNCH_HOLE if i % 3 == 1 else ZERO_RANGE), at, length)
            expected.update(range(at // G, (at + length - 1) // G + 1))
        equal(d.bitmap("disk0", "b")["count"], len(expected) * G)
        fallocate(fd, 0, MIB, MIB)  # what is read stays as it was
        equal(d.bitmap("disk0", "b")["count"], len(expected) * G)
        os.pwrite(fd, b"x" * G, SIZE + G)
    equal(d.bitmap("disk0", "b")["count"], (len(expected) + 2) * G)
    d.kill()
    with Daemon(tmp, *disk(tmp, "disk0")) as d:
        equal(d.bitmap("disk0", "b")["count"], (len(expected) + 2) * G)


@test
def a_backup_is_a_file(tmp):
    "a backup begins under writes of the file, and its instant is a file, too; then an increment"
    with serve_disk(tmp) as d:
        path = add(d, tmp, writable=True)
        os.mkdir(os.path.join(tmp, "s"))
        stop, before = threading.Event(), bytearray(SIZE)

        def write():
            rng = random.Random(5)
            with opened(path) as fd:
                while not stop.is_set():
                    os.pwrite(fd, rng.randbytes(4096), rng.randrange(SIZE // 4096) * 4096)

        def backup():
            try:
                copies = []
                for i in range(3):
                    disks = [dict({"node": "disk0"}, **({"from": "c%d" % (i - 1)} if i else {}))]
                    begun = d.qmp("backup-begin", id="b", scratch={"directory": os.path.join(tmp, "s")}, disks=disks,
                                  checkpoint="c%d" % i)
                    [snapshot] = [n for n in d.qmp("query-named-block-nodes", flat=True)
                                  if n["drv"] == "snapshot-access"]
                    point = add(d, tmp, snapshot["node-name"], id="point")
                    first, second = content(point), content(point)
                    equal(first == second, True, "the instant changed")
                    context = "qemu:dirty-bitmap:c%d" % (i - 1)
                    h = d.nbd(begun["disks"][0]["export"], [context] if i else [])
                    if i:
                        for at, length in dirty(h, "c%d" % (i - 1)):
                            before[at:at + length] = first[at:at + length]
                        equal(before == first, True, "the chain differs")
                    before[:] = first
                    h.shutdown()
                    delete(d, "point")
                    d.qmp("backup-end", id="b", success=True)
                    copies.append(first)
                equal(len(set(copies)), 3)
            finally:
                stop.set()

        in_threads(write, backup)
        equal(content(path) == content(os.path.join(tmp, "disk0.img")), True)


@test
def fleecing_by_hand(tmp):
    "a filter put under the export between two requests, and its snapshot as a file"
    with serve_disk(tmp, export=False) as d:
        path = add(d, tmp, writable=True)
        d.qmp("blockdev-add", driver="file", node_name="t", filename=image(os.path.join(tmp, "t"), SIZE))
        with opened(path) as fd:
            os.pwrite(fd, b"a" * 4096, 0)
            d.qmp("blockdev-add", driver="copy-before-write", node_name="cbw", file="disk0", target="t")
            d.qmp("qom-set", path="/exports/f", property="drive", value="cbw")
            d.qmp("blockdev-add", driver="snapshot-access", node_name="s", file="cbw")
            point = add(d, tmp, "s", id="s")
            os.pwrite(fd, b"b" * 4096, 0)
            equal((os.pread(fd, 1, 0), content(point)[:4097]), (b"b", b"a" * 4096 + b"\0"))
            delete(d, "s")
            d.qmp("blockdev-del", node_name="s")
            d.qmp("qom-set", path="/exports/f", property="drive", value="disk0")
            d.qmp("blockdev-del", node_name="cbw")
            equal(os.pread(fd, 1, 0), b"b")


# ---- many at once

@test
def many_at_once(tmp):
    "writers and readers of one file, of a disk in the page cache and of one that bypasses it"
    for n, options in enumerate(({}, {"cache__direct": "on"})):
        with serve_disk(tmp, **options) as d:
            path = add(d, tmp, writable=True)

            def work(i):
                rng = random.Random(10 * n + i)
                mine = [b for b in range(SIZE // 4096) if b % 8 == i]
                model = {}
                with opened(path) as fd:
                    for _ in range(60):
                        block = rng.choice(mine)
                        if rng.random() < 0.6:
                            model[block] = rng.randbytes(4096)
                            os.pwrite(fd, model[block], block * 4096)
                        elif rng.random() < 0.1:
                            os.fsync(fd)
                        equal(os.pread(fd, 4096, block * 4096) == model.get(block, bytes(4096)), True)

            in_threads(*(lambda i=i: work(i) for i in range(8)))
            delete(d)


@test
def more_than_it_takes_at_a_time(tmp):
    "what is more than the daemon takes at a time waits, and is done"
    need_fuse()
    img, n = image(os.path.join(tmp, "img"), SIZE), 300
    with Daemon(tmp, "--blockdev", json.dumps({
            "driver": "blkdebug", "node-name": "b", "image": {"driver": "file", "filename": img},
            "inject-delay": [{"event": "none", "iotype": "write", "delay-ns": 50000000}]})) as d:
        with opened(add(d, tmp, "b", writable=True)) as fd:
            done = []

            def watch():
                while len(done) < n:
                    [stats] = d.qmp("query-blockstats", details=True)
                    equal(stats["queue"]["in-flight"] <= 128, True)

            def write(i):
                try:
                    os.pwrite(fd, struct.pack("<I", i) * 1024, i * 4096)
                finally:
                    done.append(i)

            in_threads(watch, *(lambda i=i: write(i) for i in range(n)))
            equal(os.pread(fd, n * 4096, 0) == b"".join(struct.pack("<I", i) * 1024 for i in range(n)), True)
            # Odd places and lengths
            equal(error_of(os.ftruncate, fd, (1 << 63) - 1), "EFBIG")
            equal(error_of(fallocate, fd, 0, 1 << 62, 1 << 61), "EFBIG")
            equal(error_of(os.pwrite, fd, b"x", 1 << 62), "ENOSPC")
            equal((os.pread(fd, 1, 1 << 62), os.fstat(fd).st_size), (b"", SIZE))
            equal(len(os.pread(fd, 1 << 30, 0)), SIZE)


@test
def cut_off_under_load(tmp):
    "deleting an export, and ending the daemon, while its file is written, read and resized"
    d = serve_disk(tmp, export=False)
    for turn in range(4):
        path = add(d, tmp, writable=True, growable=True)
        begun = threading.Barrier(4)

        def work(i):
            with opened(path) as fd, contextlib.suppress(OSError):
                begun.wait()
                for n in range(1 << 30):
                    if i == 0:
                        os.ftruncate(fd, SIZE + n % 7)
                    os.pwrite(fd, b"x" * 100000, n % 90 * 100000)
                    os.pread(fd, MIB, n % 8 * MIB)

        def end():
            begun.wait()
            if turn < 3:
                delete(d, mode="hard")
            else:
                d.stop()

        in_threads(end, *(lambda i=i: work(i) for i in range(3)))
        wait_until(lambda: not is_mounted(path), "the end of the mount")


# ---- the start

@test
def on_the_command_line(tmp):
    "an export of the command line, within the sandbox, and what the sandbox then refuses"
    with serve_disk(tmp) as d:
        add(d, tmp, id="possible")
    path, more = place(tmp, "f"), place(tmp, "g")
    args = [*disk(tmp, "disk0", SIZE, export=False),
            "--export", "fuse,id=f,node-name=disk0,mountpoint=%s,writable=on" % path]
    checked = run(TIDEMARKD, "--check", *args, check=False)
    equal((checked.returncode, checked.stderr), (0, ""))
    with Daemon(tmp, *args, nbd=False, qmp=False) as d:
        wait_until(lambda: "ready" in d.log() and is_mounted(path), "the mount")
        with opened(path) as fd:
            os.pwrite(fd, b"x" * 4096, 0)
            os.fsync(fd)
    equal(is_mounted(path), False)
    equal(content(os.path.join(tmp, "disk0.img"))[:4097], b"x" * 4096 + b"\0")
    with Daemon(tmp, *args, "--sandbox", "auto,files=given,paths.0=" + tmp) as d:
        equal(content(path)[:1], b"x")
        raises(QMPError, add, d, tmp, id="g", at=more, match="files=given allows only what the command line names")
    wrong = run(TIDEMARKD, *args[:-1], "fuse,id=f,node-name=disk0,mountpoint=" + tmp, check=False)
    equal(wrong.returncode, 1)
    matches(wrong.stderr, "'%s' is not a regular file" % tmp)


@test
def of_a_configuration_file(tmp):
    "a file of the configuration: a reload adds it and takes it away, and it is dumped"
    need_fuse()
    path, img = place(tmp, "f"), image(os.path.join(tmp, "img"), SIZE)
    export = {"type": "fuse", "id": "f", "node-name": "n", "mountpoint": path, "writable": True, "growable": True}
    config = {"blockdevs": [{"driver": "file", "node-name": "n", "filename": img}], "exports": []}
    with open(os.path.join(tmp, "conf"), "w") as f:
        json.dump(config, f)
    with Daemon(tmp, "--config", f.name) as d:
        for exports in [export], [], [dict(export, writable=False)]:
            with open(f.name, "w") as again:
                json.dump(dict(config, exports=exports), again)
            seen = d.log().count("reload: done")
            d.process.send_signal(signal.SIGHUP)
            wait_until(lambda: d.log().count("reload: done") > seen, "the reload")
            equal(is_mounted(path), bool(exports))
        equal(os.stat(path).st_mode & 0o777, 0o400)
        equal(d.qmp("query-configuration")["exports"], [dict(export, writable=False)])


main()
