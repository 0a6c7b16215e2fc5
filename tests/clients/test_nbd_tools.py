#!/usr/bin/python3
# SPDX-FileCopyrightText: 2026 The Tidemark authors
# SPDX-License-Identifier: GPL-2.0-or-later
# timeout: 300
"""NBD clients that others wrote, run as they are: what lists exports, mounts them, passes them on, and tests servers."""
import os
import random
import subprocess
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "func"))
from harness import *  # noqa: E402,F403

KIB, MIB = 1 << 10, 1 << 20
SIZE = 16 * MIB


def noise(length, seed=1):
    return random.Random(seed).randbytes(length)


def serve(tmp, size=SIZE, data=(), **options):
    image(os.path.join(tmp, "disk0.img"), size, data)
    return Daemon(tmp, *disk(tmp, "disk0", None, **options))


def content(tmp):
    with open(os.path.join(tmp, "disk0.img"), "rb") as f:
        return f.read()


def quiet(*command, timeout=None):
    """Runs a program that draws its progress thousands of times: (status, the last words)."""
    p = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
                       timeout=timeout or 4 * PATIENCE)
    return p.returncode, p.stderr[-500:].decode(errors="replace")


@test(needs=["qemu-nbd"])
def qemu_nbd_lists(tmp):
    "qemu-nbd --list shows exports, sizes, flags, block sizes and contexts"
    with serve(tmp, export=False) as d:
        d.qmp("block-dirty-bitmap-add", node="disk0", name="monday")
        d.qmp("block-export-add", {"type": "nbd", "id": "disk0", "node-name": "disk0", "name": "disk0", "writable": True,
                                   "bitmaps": ["monday"]})
        shown_ = run("qemu-nbd", "--list", "-k", d.nbd_path).stdout
        matches(shown_, r"exports available: 1\n export: 'disk0'\n")
        matches(shown_, r"size:  %d\n" % SIZE)
        matches(shown_, r"flags: .*flush fua trim zeroes .*multi")
        matches(shown_, r"min block: 1\n")
        matches(shown_, r"base:allocation")
        matches(shown_, r"qemu:dirty-bitmap:monday")
        d.qmp("block-export-del", id="disk0")
        d.monitor.wait_event("BLOCK_EXPORT_DELETED", id="disk0")
        matches(run("qemu-nbd", "--list", "-k", d.nbd_path).stdout, r"exports available: 0\n")


@test(needs=["nbd-client"])
def nbd_client_lists(tmp):
    "nbd-client -l names the exports"
    with serve(tmp) as d:
        shown_ = run("nbd-client", "-l", "-unix", d.nbd_path, check=False)
        matches(shown_.stdout + shown_.stderr, r"(?m)^disk0$")


@test(needs=["nbdfuse", "fusermount3"])
def nbdfuse(tmp):
    "nbdfuse makes a file of an export, which is read, written and synced"
    if not os.access("/dev/fuse", os.R_OK | os.W_OK):
        skip("/dev/fuse can't be opened")
    with serve(tmp, data=[(MIB, noise(MIB))]) as d:
        mount = os.path.join(tmp, "mnt")
        os.mkdir(mount)
        p = subprocess.Popen(["nbdfuse", mount, d.uri()], stdin=subprocess.DEVNULL)
        path = os.path.join(mount, "nbd")
        try:
            wait_until(lambda: p.poll() is not None or os.path.exists(path), "nbdfuse's file")
            if p.poll() is not None:
                skip("nbdfuse can't mount here")
            equal(os.stat(path).st_size, SIZE)
            with open(path, "r+b", buffering=0) as f:
                f.seek(MIB)
                got = b""
                while len(got) < MIB:
                    got += f.read(MIB - len(got))
                equal(got == noise(MIB), True, "what nbdfuse reads")
                f.seek(4 * MIB)
                f.write(noise(64 * KIB, 2))
                os.fsync(f.fileno())
        finally:
            subprocess.run(["fusermount3", "-u", mount], capture_output=True)
            p.wait(PATIENCE)
        equal(content(tmp)[4 * MIB:4 * MIB + 64 * KIB] == noise(64 * KIB, 2), True, "what nbdfuse wrote")


def nbdkit(tmp, d, *filters):
    """nbdkit's nbd plugin in front of the daemon: the process and the URI."""
    path = os.path.join(tmp, "k.sock")
    command = ["nbdkit", "-f", "-U", path] + ["--filter=" + f for f in filters]
    p = subprocess.Popen(command + ["nbd", "socket=" + d.nbd_path, "export=disk0"], stdin=subprocess.DEVNULL)
    wait_until(lambda: listens(path) or p.poll() is not None, "nbdkit")
    if p.poll() is not None:
        skip("nbdkit has no nbd plugin here")
    return p, "nbd+unix:///?socket=" + path


@test(needs=["nbdkit", "nbdinfo", "nbdcopy"])
def behind_nbdkit(tmp):
    "nbdkit's nbd plugin in front passes flags, extents and data on, both ways"
    with serve(tmp, data=[(2 * MIB, noise(MIB))]) as d:
        p, uri = nbdkit(tmp, d)
        try:
            info = json.loads(run("nbdinfo", "--json", uri).stdout)["exports"][0]
            equal([info[k] for k in ("export-size", "can_flush", "can_fua", "can_trim", "can_zero", "can_multi_conn")],
                  [SIZE, True, True, True, True, True])
            equal([(e["offset"], e["length"], e["type"]) for e in json.loads(run("nbdinfo", "--json", "--map", uri).stdout)],
                  [(0, 2 * MIB, 3), (2 * MIB, MIB, 0), (3 * MIB, SIZE - 3 * MIB, 3)])
            copy = os.path.join(tmp, "copy")
            run("nbdcopy", uri, copy)
            with open(copy, "rb") as f:
                equal(f.read() == content(tmp), True, "what nbdcopy got")
            image(copy, SIZE, [(0, noise(3 * MIB, 3)), (9 * MIB, noise(100 * KIB, 4))])
            run("nbdcopy", "--flush", copy, uri)
            with open(copy, "rb") as f:
                equal(f.read() == content(tmp), True, "what nbdcopy wrote")
        finally:
            p.terminate()
            p.wait(PATIENCE)


@test(needs=["nbdkit", "qemu-img"])
def copied_on_write_by_nbdkit(tmp):
    "nbdkit's cow filter above an export leaves the disk alone"
    with serve(tmp, data=[(0, noise(MIB))], writable=False) as d:
        before = content(tmp)
        p, uri = nbdkit(tmp, d, "cow")
        try:
            run("qemu-io", "-f", "raw", "-c", "write -P 7 512k 1M", "-c", "read -P 7 512k 1M", uri)
        finally:
            p.terminate()
            p.wait(PATIENCE)
        equal(content(tmp) == before, True, "the disk")


VIRTNBDBACKUP = """
import sys
from libvirtnbdbackup import nbdcli
from libvirtnbdbackup.extenthandler import ExtentHandler

where = nbdcli.Unix("disk0", sys.argv[2], sys.argv[1])
client = nbdcli.client(where)
client.connect()
for extent in ExtentHandler(client, where).queryBlockStatus():
    print(extent.offset, extent.length, client.nbd.pread(extent.length, extent.offset).count(0) if extent.data else -1)
client.disconnect()
"""


@test(needs=["virtnbdbackup"])
def virtnbdbackup_reads(tmp):
    "virtnbdbackup's reader finds the data of a full backup, also through a filter, and what is dirty for an increment"
    image(os.path.join(tmp, "disk0.img"), SIZE, [(2 * MIB, b"x" * MIB)])
    run("qemu-img", "convert", "-O", "qcow2", os.path.join(tmp, "disk0.img"), os.path.join(tmp, "disk0.qcow2"))
    nodes = ["--blockdev", "driver=qcow2,node-name=image,file.driver=file,file.filename=%s/disk0.qcow2" % tmp,
             "--object", "throttle-group,id=g", "--blockdev", "driver=throttle,node-name=disk0,throttle-group=g,file=image"]
    with Daemon(tmp, *nodes) as d:
        d.qmp("block-dirty-bitmap-add", node="disk0", name="b")
        d.qmp("block-export-add", {"type": "nbd", "id": "e", "node-name": "disk0", "name": "disk0", "writable": True,
                                   "bitmaps": ["b"]})
        h = d.nbd()
        h.pwrite(b"y" * 65536, 9 * MIB)
        h.shutdown()

        def reads(context):
            said = run(sys.executable, "-c", VIRTNBDBACKUP, d.nbd_path, context).stdout
            return [tuple(map(int, line.split())) for line in said.splitlines()]

        equal(reads("qemu:dirty-bitmap:b"), [(0, 9 * MIB, -1), (9 * MIB, 65536, 0),
                                             (9 * MIB + 65536, 7 * MIB - 65536, -1)])
        equal([(start, length) for start, length, zeroes in reads("") if zeroes >= 0],
              [(2 * MIB, MIB), (9 * MIB, 65536)])


TESTER = "nbd-tester-client"  # of nbd's sources, where `make check` builds it


@test(needs=[TESTER])
def tester_handshake(tmp):
    "nbd-tester-client: the handshake, the old and the new way, and the list"
    with serve(tmp) as d:
        for mode in (["-h"], ["-l"]):
            status, words = quiet(TESTER, "-u", d.nbd_path, "-N", "disk0", *mode)
            equal(status, 0, words)


@test(needs=[TESTER])
def tester_throughput(tmp):
    "nbd-tester-client: reads, writes, writes with flushes, and errors where nothing may be written"
    for writable, modes in (True, ([], ["-w"], ["-w", "-f"])), (False, ([], ["-w", "-F"])):
        with serve(tmp, writable=writable) as d:
            for mode in modes:
                status, words = quiet(TESTER, "-u", d.nbd_path, "-N", "disk0", *mode)
                equal(status, 0, words)


@test(needs=[TESTER])
def tester_integrity(tmp):
    "nbd-tester-client: its transactions are read back as they were written"
    trace = os.environ.get("NBD_INTEGRITY_TRACE", "")
    if not os.path.exists(trace):
        skip("NBD_INTEGRITY_TRACE names no integrity-test.tr of nbd's sources")
    with serve(tmp, size=64 * MIB) as d:
        status, words = quiet(TESTER, "-u", d.nbd_path, "-N", "disk0", "-i", "-t", trace)
        equal(status, 0, words)


main()
