# SPDX-FileCopyrightText: 2026 The Tidemark authors
# SPDX-License-Identifier: GPL-2.0-or-later
"""tidemark backup from end to end, beside the ways in which people back up the disks of qemu-storage-daemon: an
increment of 5 % of the disk in random blocks of 64 KiB, and a full. All ways end with a durable copy.

Each measurement has the one image and a server of its own, which is started before, so that an image of 8 GiB
(--size 8192) needs room for two. The time does not include what a first backup or a bitmap before it cost."""
import os
import random
import resource
import shutil
import subprocess
import sys
import time

BLOCK = 64 << 10
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


if __name__ == "__main__":
    script(*sys.argv[1:])
    sys.exit()

import load
import servers


class Way:
    """One way to back up. Subclasses have before_writes(), before the clock starts, and backup()."""

    kind = servers.Qsd

    def __init__(self, bench, incremental):
        self.bench, self.incremental = bench, incremental
        self.target = os.path.join(bench.dir, "backup")
        self.node = {"driver": "file", "filename": bench.image}

    def before_writes(self):
        pass

    def write_blocks(self):
        """5 % of the disk, the same blocks for all."""
        import nbd
        h = nbd.NBD()
        h.connect_uri(self.server.uri)
        blocks = h.get_size() // BLOCK
        for block in random.Random(1).sample(range(blocks), int(blocks * PART)):
            h.pwrite(os.urandom(BLOCK), block * BLOCK)
        h.flush()
        h.shutdown()

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

    def measure(self):
        self.server = self.kind(self.bench.programs, os.path.join(self.bench.dir, "s"))
        self.server.start(self.node)
        self.server.monitor()
        try:
            if self.incremental:
                self.before_writes()
                self.write_blocks()
            os.sync()
            used, began = self.used(), time.monotonic()
            self.backup()
            return {"took_ms": (time.monotonic() - began) * 1e3, "cpu": self.used() - used}
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
        self.run("qemu-img", "create", "-q", "-f", "qcow2", path, os.path.getsize(self.bench.image))
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
            file.truncate(os.path.getsize(self.bench.image))
        self.qmp("blockdev-add", driver="file", **{"node-name": "scratch"}, filename=self.path("target.scratch"))
        self.qmp("blockdev-add", driver="copy-before-write", **{"node-name": "cbw"}, file="disk",
                 target="scratch", **more)
        self.qmp("blockdev-add", driver="snapshot-access", **{"node-name": "snap"}, file="cbw")
        bitmaps = {"bitmaps": [{"node": "disk", "name": "b"}]} if bitmap else {}
        self.qmp("block-export-add", type="nbd", id="f", name="f", **{"node-name": "snap"}, **bitmaps)
        return "nbd+unix:///f?socket=" + self.server.sock


class Script(Fleecing):
    def backup(self):
        self.run(sys.executable, os.path.abspath(__file__), self.fleece(self.incremental),
                 "qemu:dirty-bitmap:b" if self.incremental else "", self.path("target.raw"))


class Convert(Fleecing):
    """It knows no bitmap: it copies all of the disk each time."""

    def backup(self):
        path = self.path("target.qcow2")
        self.run("qemu-img", "convert", "-W", "-m", "16", "-f", "raw", "-O", "qcow2", self.fleece(False), path)
        self.run("sync", path)


class Nbdcopy(Way):
    def backup(self):
        self.run("nbdcopy", "--flush", self.server.uri, self.bench.dir + "/target.raw")


class Cp(Way):
    def backup(self):
        path = self.bench.dir + "/target.raw"
        self.run("cp", "--sparse=always", "--reflink=never", self.bench.image, path)
        self.run("sync", path)


WAYS = {
    "backup-incremental": [("tidemark backup", Tidemark), ("tidemark, zstd", Compressed),
                           ("qsd, blockdev-backup", Job), ("qsd, libnbd script", Script),
                           ("qsd, qemu-img convert", Convert)],
    "backup-full": [("tidemark backup", Tidemark), ("tidemark, zstd", Compressed), ("qsd, blockdev-backup", Job),
                    ("qsd, libnbd script", Script), ("qsd, nbdcopy", Nbdcopy), ("cp --sparse", Cp)],
}


def family(bench):
    for name in NAMES:
        if not bench.wanted(name):
            continue
        bench.make_image()
        columns = [(column, way(bench, name == "backup-incremental")) for column, way in WAYS[name]]
        bench.interleave({name: lambda way: way.measure()}, columns, "backup")
