# SPDX-FileCopyrightText: 2026 The Tidemark authors
# SPDX-License-Identifier: GPL-2.0-or-later
"""tidemark backup from end to end, beside the ways in which people back up the disks of qemu-storage-daemon: an
increment of 5 % of the disk in random blocks of 64 KiB, and a full. All ways end with a durable copy.

Each measurement has the one image and a server of its own, which is started before, so that an image of 8 GiB
(--size 8192) needs room for two. The time does not include what a first backup or a bitmap before it cost. Meanwhile a guest
writes 4 KiB at random places, a thousand times a second at most."""
import os
import random
import resource
import shutil
import subprocess
import statistics
import sys
import threading
import time

BLOCK, MIB = 64 << 10, 1 << 20
PART = 0.05
DEPTH, PIECE = 64, 1 << 20  # of the script
NAMES = ["backup-incremental", "backup-full"]


def script(uri, context, target):
    """What a backup tool does with libnbd: reads what is dirty, many pieces at a time, into a sparse raw file."""
    import nbd
    h = nbd.NBD()
    if context:
        h.add_meta_context(context)
    h.connect_uri(uri)
    size, at, todo = h.get_size(), 0, []

    def extents(metacontext, offset, entries, error):
        nonlocal at
        for length, value in zip(entries[0::2], entries[1::2]):
            if value & 1:
                todo.extend((o, min(PIECE, offset + length - o)) for o in range(offset, offset + length, PIECE))
            offset += length
        at = offset

    while context and at < size:
        h.block_status(min(size - at, 4 << 30 - 1), at, extents)
    if not context:
        todo = [(o, min(PIECE, size - o)) for o in range(0, size, PIECE)]
    fd = os.open(target, os.O_WRONLY | os.O_CREAT, 0o600)
    os.ftruncate(fd, size)
    for offset, length in todo:
        buf = nbd.Buffer(length)

        def done(error, buf=buf, offset=offset):
            os.pwrite(fd, buf.to_bytearray(), offset)
            return 1

        while h.aio_in_flight() >= DEPTH:
            h.poll(-1)
        h.aio_pread(buf, offset, done)
    while h.aio_in_flight():
        h.poll(-1)
    os.fsync(fd)
    h.shutdown()


def write(path, size):
    """Nothing but as many bytes, and a sync: what the medium gives."""
    piece = os.urandom(PIECE)
    fd = os.open(path, os.O_WRONLY | os.O_CREAT, 0o600)
    for offset in range(0, int(size), PIECE):
        os.pwrite(fd, piece, offset)
    os.fdatasync(fd)


if __name__ == "__main__":
    {"script": script, "write": write}[sys.argv[1]](*sys.argv[2:])
    sys.exit()

import domain
import load
import servers


def chosen(size):
    """The blocks that an increment has."""
    return random.Random(1).sample(range(size // BLOCK), int(size // BLOCK * PART))


class Guest(threading.Thread):
    """What writes meanwhile, into blocks that the increment has anyway, and how long each write takes."""

    ALONE, PAUSE = 0.3, 0.001

    def __init__(self, way):
        super().__init__(daemon=True)
        self.way, self.ended, self.took = way, threading.Event(), []

    def __enter__(self):
        self.start()
        time.sleep(self.ALONE)
        self.alone, self.took = self.took, []
        return self

    def __exit__(self, *_):
        self.ended.set()
        self.join()

    def run(self):
        import nbd
        places, handle = random.Random(2), None
        while not self.ended.wait(self.PAUSE):
            try:
                if not handle:
                    handle, blocks = self.way.disk(), chosen(self.way.size)
                place = places.choice(blocks) * BLOCK + places.randrange(BLOCK // 4096) * 4096
                began = time.monotonic()
                handle.pwrite(b"g" * 4096, place)
                self.took.append(time.monotonic() - began)
            except nbd.Error:  # the way takes its export away for a moment
                handle = None

    def slower(self):
        """How many times longer the median write took than it does alone."""
        return statistics.median(self.took) / statistics.median(self.alone) if self.took and self.alone else 0


class Way:
    """One way to back up. Subclasses have before_writes(), before the clock starts, and backup()."""

    kind = servers.Qsd

    def __init__(self, bench, incremental):
        self.bench, self.incremental = bench, incremental
        self.target = os.path.join(bench.dir, "backup")
        self.node = {"driver": "file", "filename": bench.image}

    @property
    def size(self):
        return os.path.getsize(self.bench.image)

    def before_writes(self):
        pass

    def disk(self):
        """What has a pwrite() as the guest would."""
        import nbd
        handle = nbd.NBD()
        handle.connect_uri(self.server.uri)
        return handle

    def write_blocks(self):
        """5 % of the disk, the same blocks for all."""
        disk = self.disk()
        for block in chosen(self.size):
            disk.pwrite(os.urandom(BLOCK), block * BLOCK)

    def run(self, *command):
        done = subprocess.run([str(c) for c in command], stdin=subprocess.DEVNULL, capture_output=True, text=True,
                              timeout=20 * load.TIMEOUT)
        if done.returncode:
            raise RuntimeError("%s: %s" % (command[0], done.stderr.strip()))

    def qmp(self, command, **arguments):
        return self.server.qmp.run(command, **arguments)

    def used(self):
        children = resource.getrusage(resource.RUSAGE_CHILDREN)
        return self.server.cpu() + children.ru_utime + children.ru_stime

    def stored(self):
        """Bytes that the copies have on their file system; those of the newest point, with a repository."""
        points = sorted(os.scandir(self.target), key=lambda entry: entry.name) if os.path.isdir(self.target) else []
        newest = [point.path for point in points if point.is_dir()][-1:]
        files = [entry for path in newest or [self.bench.dir] for entry in os.scandir(path)
                 if newest or (entry.name.startswith("target") and "scratch" not in entry.name)]
        return sum(entry.stat().st_blocks * 512 for entry in files)

    def measure(self):
        self.server = self.kind(self.bench.programs, os.path.join(self.bench.dir, "s"))
        self.server.start(self.node)
        self.server.monitor()
        try:
            if self.incremental:
                self.before_writes()
                self.write_blocks()
            os.sync()
            with Guest(self) as guest:
                used, read, began = self.used(), self.server.read_bytes(), time.monotonic()
                self.backup()
                took = time.monotonic() - began
            return {"took_ms": took * 1e3, "cpu": self.used() - used, "read_mib": (self.server.read_bytes() - read) / MIB,
                    "stored_mib": self.stored() / MIB, "guest_x": guest.slower()}
        finally:
            self.server.stop()
            shutil.rmtree(self.target, ignore_errors=True)
            for name in os.listdir(self.bench.dir):
                if name.startswith(("target", "disk.img.")):
                    os.unlink(os.path.join(self.bench.dir, name))


class Tidemark(Way):
    kind = servers.Tidemark
    options = ()

    def command(self):
        self.run(os.path.join(os.path.dirname(self.bench.walker), "..", "client", "tidemark"), "backup",
                 "--socket", os.path.join(self.server.dir, "qmp.sock"), *self.options, "disk", self.target)

    def before_writes(self):
        self.command()

    backup = command


class Compressed(Tidemark):
    options = ("--compress", "zstd")


class OnQsd(Way):
    """The server is QSD; its disk has the bitmap "b" if there is to be an increment."""

    def before_writes(self):
        self.qmp("block-dirty-bitmap-add", node="disk", name="b")

    def path(self, name):
        return os.path.join(self.bench.dir, name)


class Job(OnQsd):
    """blockdev-backup to a qcow2 image."""

    def backup(self):
        path = self.path("target.qcow2")
        self.run("qemu-img", "create", "-q", "-f", "qcow2", path, self.size)
        self.qmp("blockdev-add", driver="qcow2", **{"node-name": "t"}, file={"driver": "file", "filename": path})
        how = {"sync": "incremental", "bitmap": "b"} if self.incremental else {"sync": "full"}
        self.qmp("blockdev-backup", device="disk", target="t", **{"job-id": "j"}, **how)
        while self.qmp("query-jobs"):
            time.sleep(0.002)
        self.qmp("blockdev-del", **{"node-name": "t"})
        self.run("sync", path)


class Fleecing(OnQsd):
    """Exports the disk as it is at the instant, and then copies it."""

    def fleece(self, bitmap):
        self.qmp("block-export-del", id="exp0", mode="hard")
        servers.wait_until(lambda: not self.qmp("query-block-exports"), "the export does not end")
        more = {"bitmap": {"node": "disk", "name": "b"}} if bitmap else {}
        with open(self.path("target.scratch"), "wb") as file:
            file.truncate(self.size)
        self.qmp("blockdev-add", driver="file", **{"node-name": "scratch"}, filename=self.path("target.scratch"))
        self.qmp("blockdev-add", driver="copy-before-write", **{"node-name": "cbw"}, file="disk",
                 target="scratch", **more)
        self.qmp("blockdev-add", driver="snapshot-access", **{"node-name": "snap"}, file="cbw")
        bitmaps = {"bitmaps": [{"node": "disk", "name": "b"}]} if bitmap else {}
        self.qmp("block-export-add", type="nbd", id="f", name="f", **{"node-name": "snap"}, **bitmaps)
        self.qmp("block-export-add", type="nbd", id="g", name="disk", writable=True, **{"node-name": "cbw"})
        return "nbd+unix:///f?socket=" + self.server.sock


class Script(Fleecing):
    def backup(self):
        self.run(sys.executable, os.path.abspath(__file__), "script", self.fleece(self.incremental),
                 "qemu:dirty-bitmap:b" if self.incremental else "", self.path("target.raw"))


class Convert(Fleecing):
    """It knows no bitmap: it copies all of the disk each time."""

    def backup(self):
        path = self.path("target.qcow2")
        self.run("qemu-img", "convert", "-W", "-m", "16", "-f", "raw", "-O", "qcow2", self.fleece(False), path)
        self.run("sync", path)


class Virtnbdbackup(Way):
    """A domain of libvirt and its checkpoints; the first backup before an increment is a full."""

    kind = domain.Domain

    def disk(self):
        return self.server

    def command(self, level):
        self.server.run("virtnbdbackup", "-U", "qemu:///session", "-d", "bench", "-n", "-S", self.server.dir, "-f",
                        self.path("vb.sock"), "-l", level, "-o", self.path("copy"))
        self.run("sync", "-f", self.path("copy"))

    def path(self, name):
        return os.path.join(self.server.dir, name)

    def before_writes(self):
        self.command("full")

    def backup(self):
        self.command("inc" if self.incremental else "full")

    def stored(self):
        kind = ".inc." if self.incremental else ".full."
        return sum(entry.stat().st_blocks * 512 for entry in os.scandir(self.path("copy")) if kind in entry.name)


class Nbdcopy(Way):
    def backup(self):
        self.run("nbdcopy", "--flush", self.server.uri, self.bench.dir + "/target.raw")


class Cp(Way):
    def backup(self):
        path = self.bench.dir + "/target.raw"
        self.run("cp", "--sparse=always", "--reflink=never", self.bench.image, path)
        self.run("sync", path)


class Medium(OnQsd):
    """As many bytes as the copy has, written and synced and nothing else: no way is faster on this medium."""

    def backup(self):
        self.run(sys.executable, os.path.abspath(__file__), "write", self.path("target.raw"),
                 int(self.size * PART) if self.incremental else os.stat(self.bench.image).st_blocks * 512)


WAYS = {
    "backup-incremental": [("tidemark backup", Tidemark), ("tidemark, zstd", Compressed),
                           ("qsd, blockdev-backup", Job), ("qsd, libnbd script", Script),
                           ("qsd, qemu-img convert", Convert),
                           ("virtnbdbackup", Virtnbdbackup), ("a plain write", Medium)],
    "backup-full": [("tidemark backup", Tidemark), ("tidemark, zstd", Compressed), ("qsd, blockdev-backup", Job),
                    ("qsd, libnbd script", Script), ("qsd, nbdcopy", Nbdcopy), ("virtnbdbackup", Virtnbdbackup),
                    ("cp --sparse", Cp), ("a plain write", Medium)],
}


def family(bench):
    for name in NAMES:
        if not bench.wanted(name):
            continue
        bench.make_image()
        columns = [(column, way(bench, name == "backup-incremental")) for column, way in WAYS[name] if bench.shown(column)]
        bench.interleave({name: lambda way: way.measure()}, columns, "backup")
