#!/usr/bin/python3
# SPDX-FileCopyrightText: 2026 The Tidemark authors
# SPDX-License-Identifier: GPL-2.0-or-later
"""QEMU's migrations with our exports: a guest moves between two QEMU processes that use one export, a disk is mirrored to
an export, and a disk moves between two daemons under QEMU. The machines are stopped; QEMU's monitor writes the disk."""
import os
import subprocess
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "func"))
from harness import *  # noqa: E402,F403

MIB, G = 1 << 20, 65536
SIZE = 8 * MIB
QEMU = "qemu-system-x86_64"


class Machine:
    """A stopped machine with the disk 'vd' on the blockdev 'n'."""

    def __init__(self, tmp, name, blockdev, *args):
        path = os.path.join(tmp, name + ".vm")
        self.process = subprocess.Popen(
            [QEMU, "-S", "-nodefaults", "-display", "none", "-machine", "pc,accel=tcg", "-m", "16", "-qmp",
             "unix:%s,server=on,wait=off" % path, "-device", "virtio-blk-pci,drive=n,id=vd", "-blockdev", blockdev, *args],
            stdin=subprocess.DEVNULL)
        wait_until(lambda: listens(path) or self.process.poll() is not None, "QEMU")
        self.qmp = QMP(path, peer=True)

    def io(self, command):
        return self.qmp("human-monitor-command", {
            "command-line": 'qemu-io -d /machine/peripheral/vd/virtio-backend "%s"' % command})

    def write(self, value, at):
        said = self.io("write -P %d %d 64k" % (value, at))
        equal("rror" in said or "failed" in said, False, said)

    def end(self):
        self.qmp.close()
        self.process.terminate()
        self.process.wait(PATIENCE)

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.end()


def on_export(path, export="disk0", more=""):
    return "driver=nbd,node-name=n,export=%s,server.type=unix,server.path=%s%s" % (export, path, more)


def migrated(source, target, where):
    source.qmp("migrate", uri="unix:" + where)
    wait_until(lambda: source.qmp("query-migrate")["status"] in ("completed", "failed"), "the migration")
    equal(source.qmp("query-migrate")["status"], "completed")
    wait_until(lambda: target.qmp("query-migrate").get("status") == "completed", "the migration at the target")


@test(needs=[QEMU])
def a_guest_moves_and_its_export_stays(tmp):
    "two QEMU processes have the export open, one after the other writes, and our bitmap has the writes of both"
    with Daemon(tmp, *disk(tmp, "disk0", SIZE)) as d:
        d.qmp("block-dirty-bitmap-add", node="disk0", name="b", persistent=True)
        incoming = os.path.join(tmp, "incoming")
        with Machine(tmp, "a", on_export(d.nbd_path)) as a, \
                Machine(tmp, "b", on_export(d.nbd_path), "-incoming", "unix:" + incoming) as b:
            a.write(1, 0)
            migrated(a, b, incoming)
            equal(len(d.qmp("query-block-exports")[0]["clients"]), 2)
            b.qmp("cont")
            b.qmp("stop")
            b.write(2, MIB)
            b.io("flush")
            h = d.nbd("disk0")
            equal([h.pread(1, at) for at in (0, MIB)], [b"\1", b"\2"])
            h.shutdown()
            equal(d.bitmap("disk0", "b")["count"], 2 * G)


@test(needs=[QEMU, "qemu-img"])
def a_disk_is_mirrored_to_an_export(tmp):
    "blockdev-mirror fills an export, the bitmap that begins before the switch has what the guest writes after it"
    image_ = image(os.path.join(tmp, "local.img"), SIZE)
    with Daemon(tmp, *disk(tmp, "disk0", SIZE)) as d, \
            Machine(tmp, "a", "driver=file,node-name=n,filename=" + image_) as a:
        d.qmp("block-dirty-bitmap-add", node="disk0", name="mirror", persistent=True)
        a.write(1, 0)
        a.write(2, 3 * MIB)
        a.qmp("blockdev-add", {"driver": "nbd", "node-name": "target", "export": "disk0", "reconnect-delay": 30,
                               "server": {"type": "unix", "path": d.nbd_path}})
        a.qmp("blockdev-mirror", {"job-id": "m", "device": "n", "target": "target", "sync": "full",
                                  "copy-mode": "write-blocking"})
        wait_until(lambda: a.qmp("query-block-jobs") and a.qmp("query-block-jobs")[0]["ready"], "the mirror to be ready")
        a.write(3, 5 * MIB)
        equal(d.bitmap("disk0", "mirror")["count"] >= 3 * G, True, "what the mirror wrote is dirty")
        # The increments begin here: what the mirror writes later is in the bitmap, too.
        d.qmp("block-dirty-bitmap-add", node="disk0", name="b", persistent=True)
        a.write(4, 6 * MIB)
        a.qmp("block-job-complete", device="m")
        wait_until(lambda: not a.qmp("query-block-jobs"), "the switch")
        a.write(5, 7 * MIB)
        a.io("flush")
        equal(d.bitmap("disk0", "b")["count"], 2 * G)
        h = d.nbd("disk0")
        equal([h.pread(1, at * MIB) for at in (0, 3, 5, 6, 7)], [b"\1", b"\2", b"\3", b"\4", b"\5"])
        h.shutdown()
        with open(image_, "rb") as f:
            f.seek(7 * MIB)
            equal(f.read(1), b"\0", "the guest does not write to its old disk any more")


@test(needs=[QEMU])
def a_disk_moves_under_qemu(tmp):
    "tidemark migrate moves the disk while QEMU has it open with reconnect-delay: no write fails, the bitmap is exact"
    link = os.path.join(tmp, "link")
    with Daemon(tmp, *disk(tmp, "disk0", SIZE), name="a") as a, Daemon(tmp, name="b") as b:
        a.qmp("block-dirty-bitmap-add", node="disk0", name="kept", persistent=True)
        a.qmp("block-dirty-bitmap-add", node="disk0", name="here")
        os.symlink(a.nbd_path, link)
        with Machine(tmp, "vm", on_export(link, more=",reconnect-delay=60")) as vm:
            vm.write(1, 0)
            switch = "ln -s %s %s.new && mv -T %s.new %s" % (b.nbd_path, link, link, link)
            run(TIDEMARK, "migrate", "disk0", "--socket", a.qmp_path, "--to", b.qmp_path, "--state",
                os.path.join(tmp, "state"), "--switch", switch, "--max-pause", "60")
            vm.write(2, MIB)
            vm.io("flush")
            equal([b.bitmap("disk0", n)["count"] for n in ("kept", "here")], [2 * G, 2 * G])
        h = b.nbd("disk0")
        equal([h.pread(1, at) for at in (0, MIB)], [b"\1", b"\2"])
        h.shutdown()


@test(needs=["nbdkit"])
def clients_of_nbdkit_and_of_our_driver(tmp):
    "a disk moves under nbdkit's retry filter and under a daemon of ours: their clients notice nothing"
    link = os.path.join(tmp, "link")
    with Daemon(tmp, *disk(tmp, "disk0", SIZE), name="a") as a, Daemon(tmp, name="b") as b:
        a.qmp("block-dirty-bitmap-add", node="disk0", name="here")
        os.symlink(a.nbd_path, link)
        ours = ["--blockdev", "driver=nbd,node-name=disk0,export=disk0,reconnect-delay=60,server.type=unix,server.path=" +
                link, "--export", "type=nbd,id=e,node-name=disk0,name=disk0,writable=on"]
        theirs = os.path.join(tmp, "nbdkit.sock")
        nbdkit = subprocess.Popen(["nbdkit", "-f", "-U", theirs, "--filter=retry", "nbd",
                                   "uri=nbd+unix:///disk0?socket=" + link, "retries=100", "retry-delay=1",
                                   "retry-exponential=no"], stdin=subprocess.DEVNULL)
        try:
            wait_until(lambda: listens(theirs), "nbdkit")
            with Daemon(tmp, *ours, name="c") as c:
                import nbd
                through = [c.nbd("disk0"), nbd.NBD()]
                through[1].connect_unix(theirs)
                for i, h in enumerate(through):
                    h.pwrite(b"1" * G, i * MIB)
                    h.flush()  # our driver does not believe a server that lost a connection before that
                switch = "ln -s %s %s.new && mv -T %s.new %s" % (b.nbd_path, link, link, link)
                run(TIDEMARK, "migrate", "disk0", "--socket", a.qmp_path, "--to", b.qmp_path, "--state",
                    os.path.join(tmp, "state"), "--switch", switch, "--max-pause", "60")
                for i, h in enumerate(through):
                    h.pwrite(b"2" * G, (i + 2) * MIB)
                    h.flush()
                    equal(h.pread(1, i * MIB), b"1")
                    h.shutdown()
        finally:
            nbdkit.terminate()
            nbdkit.wait(PATIENCE)
        equal(b.bitmap("disk0", "here")["count"], 4 * G)


main()
