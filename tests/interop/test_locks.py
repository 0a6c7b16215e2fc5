#!/usr/bin/python3
# SPDX-FileCopyrightText: 2026 The Tidemark authors
# SPDX-License-Identifier: GPL-2.0-or-later
"""Image locks between tidemarkd and QEMU's programs, both ways."""
import os
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "func"))
from harness import *  # noqa: E402,F403


def file_node(path, more=""):
    return ["--blockdev", "driver=file,node-name=disk0,filename=%s%s" % (path, more)]


def export(writable="on"):
    return ["--export", "type=nbd,id=e0,node-name=disk0,name=disk0,writable=" + writable]


def refused(args, message):
    """tidemarkd must not start, for that reason, said in one line."""
    p = run(TIDEMARKD, *args, check=False)
    equal(p.returncode, 1)
    matches(p.stderr, message)
    equal(p.stderr.count("\n"), 1)


def as_qemu(lock):
    return r'Failed to get %s lock. Is another process using the image \[.*\]\?' % lock


@test(needs=["qemu-io", "qemu-img"])
def qemu_is_kept_from_our_disk(tmp):
    "QEMU's writers are refused while a client may write, its reader that shares is not"
    path = image(os.path.join(tmp, "a.img"), 1 << 20)
    with Daemon(tmp, *file_node(path), *export()):
        p = run("qemu-io", "-f", "raw", "-c", "write 0 512", path, check=False)
        matches(p.stdout + p.stderr, 'Failed to get "write" lock')
        copy = os.path.join(tmp, "copy")
        p = run("qemu-img", "convert", "-f", "raw", path, copy, check=False)
        matches(p.stderr, 'Failed to get shared "write" lock')
        run("qemu-img", "convert", "--force-share", "-f", "raw", path, copy)
        p = run("qemu-io", "-r", "-f", "raw", "-c", "read 0 512", path)
        matches(p.stdout, "read 512/512")
    p = run("qemu-io", "-f", "raw", "-c", "write 0 512", path)
    matches(p.stdout, "wrote 512/512")


@test(needs=["qemu-io", "qemu-img"])
def unused_disks_are_free(tmp):
    "a disk that nobody uses and that has no bitmaps may be written, and then be used; not if its size has changed"
    path = image(os.path.join(tmp, "a.img"), 1 << 20)
    with Daemon(tmp, *file_node(path)) as d:
        run("qemu-io", "-f", "raw", "-c", "write -P 7 0 64k", path)
        d.qmp("block-export-add", type="nbd", id="e", node_name="disk0", name="e", writable=True)
        h = d.nbd("e", ["base:allocation"])
        equal(bytes(h.pread(512, 0)), bytes([7]) * 512)
        equal(extents(h, "base:allocation")[0], (0, 65536, 0))
        h.shutdown()
        d.unexport("e")
        run("qemu-img", "resize", "-f", "raw", path, "2M")
        raises(QMPError, d.qmp, "block-export-add", type="nbd", id="e", node_name="disk0", name="e",
               match="has changed since it was opened: 2097152 bytes, expected 1048576")


@test(needs=["qemu-io", "qemu-img"])
def disks_with_bitmaps_are_not(tmp):
    "QEMU can't write to a disk whose bitmaps are open for writing, used or not, only read it"
    path = image(os.path.join(tmp, "a.img"), 1 << 20)

    def kept_away():
        p = run("qemu-io", "-f", "raw", "-c", "write 0 512", path, check=False)
        matches(p.stdout + p.stderr, 'Failed to get "write" lock')
        run("qemu-io", "-r", "-f", "raw", "-c", "read 0 512", path)

    with Daemon(tmp, *file_node(path)) as d:
        d.qmp("block-dirty-bitmap-add", node="disk0", name="b", persistent=True)
        kept_away()
    with Daemon(tmp, *file_node(path)) as d:
        kept_away()
        d.qmp("block-dirty-bitmap-remove", node="disk0", name="b")
        run("qemu-io", "-f", "raw", "-c", "write 0 512", path)


@test(needs=[QSD])
def bitmaps_of_a_disk_that_is_written(tmp):
    "no bitmap begins on a disk that another program writes to, and none is brought back"
    path = image(os.path.join(tmp, "a.img"), 1 << 20)
    with Daemon(tmp, *file_node(path)) as d:
        d.qmp("block-dirty-bitmap-add", node="disk0", name="b", persistent=True)
    store = open(path + ".bitmaps", "rb").read()
    with Daemon(tmp, *file_node(path), *export(), binary=QSD, name="q"):
        refused(file_node(path), as_qemu('shared "write"'))
    equal(open(path + ".bitmaps", "rb").read(), store)
    os.unlink(path + ".bitmaps")
    with Daemon(tmp, *file_node(path), *export(), binary=QSD, name="q"), Daemon(tmp, *file_node(path)) as d:
        raises(QMPError, d.qmp, "block-dirty-bitmap-add", node="disk0", name="b", match=as_qemu('shared "write"'))


@test(needs=["qemu-io", "qemu-img"])
def readers_share(tmp):
    "a read-only disk of ours may be read and written by QEMU"
    path = image(os.path.join(tmp, "a.img"), 1 << 20)
    with Daemon(tmp, *file_node(path, ",read-only=on"), *export("off")):
        run("qemu-img", "info", path)
        p = run("qemu-io", "-f", "raw", "-c", "write 0 512", path)
        matches(p.stdout, "wrote 512/512")


@test(needs=["qemu-img"])
def resizing_is_kept_away(tmp):
    "QEMU can't resize under a disk that a client only reads"
    path = image(os.path.join(tmp, "a.img"), 1 << 20)
    with Daemon(tmp, *file_node(path, ",read-only=on"), *export("off")):
        p = run("qemu-img", "resize", "-f", "raw", path, "2M", check=False)
        matches(p.stderr, 'Failed to get "resize" lock')
    run("qemu-img", "resize", "-f", "raw", path, "2M")


@test(needs=[QSD])
def a_writer_there_keeps_ours_away(tmp):
    "a disk that qemu-storage-daemon exports writable can be used by us for reading only"
    path = image(os.path.join(tmp, "a.img"), 1 << 20)
    with Daemon(tmp, *file_node(path), *export(), binary=QSD, name="q"):
        with Daemon(tmp, *file_node(path)) as d:
            raises(QMPError, d.qmp, "block-export-add",
                   {"type": "nbd", "id": "e", "node-name": "disk0", "writable": True},
                   match=as_qemu('shared "write"'))
        with Daemon(tmp, *file_node(path, ",read-only=on"), *export("off")):
            pass
        with Daemon(tmp, *file_node(path, ",read-only=on,force-share=on"), *export("off")):
            pass
        with Daemon(tmp, *file_node(path, ",locking=off"), *export()):
            pass
    with Daemon(tmp, *file_node(path), *export()):
        pass


@test(needs=[QSD])
def a_reader_there_is_fine(tmp):
    "a disk that qemu-storage-daemon exports read-only can be written by us, not resized"
    path = image(os.path.join(tmp, "a.img"), 1 << 20)
    with Daemon(tmp, *file_node(path), *export("off"), binary=QSD, name="q"):
        with Daemon(tmp, *file_node(path), *export()):
            pass
        with Daemon(tmp, *file_node(path)) as d:
            raises(QMPError, d.qmp, "block_resize", node_name="disk0", size=2 << 20,
                   match='Failed to get "resize" lock')


@test(needs=[QSD])
def a_writer_here_keeps_qsd_away(tmp):
    "qemu-storage-daemon can't export for writing what a client of ours may write"
    path = image(os.path.join(tmp, "a.img"), 1 << 20)
    with Daemon(tmp, *file_node(path), *export()):
        with Daemon(tmp, *file_node(path), binary=QSD, name="q") as q:
            raises(QMPError, q.qmp, "block-export-add",
                   {"type": "nbd", "id": "e", "node-name": "disk0", "writable": True},
                   match='Failed to get "write" lock')
            q.qmp("block-export-add", {"type": "nbd", "id": "e", "node-name": "disk0"})
            q.qmp("block-export-del", id="e")


@test
def two_of_ours(tmp):
    "two daemons can't both have clients that write to a disk; one may read"
    path = image(os.path.join(tmp, "a.img"), 1 << 20)
    with Daemon(tmp, *file_node(path), *export()), Daemon(tmp, *file_node(path), name="b") as b:
        raises(QMPError, b.qmp, "block-export-add",
               {"type": "nbd", "id": "e", "node-name": "disk0", "writable": True}, match=as_qemu('"write"'))
        with Daemon(tmp, *file_node(path, ",read-only=on"), *export("off"), name="r"):
            pass


def qcow2_nodes(path, more=""):
    return file_node(path, more) + ["--blockdev", "driver=qcow2,node-name=q,file=disk0" + more]


@test(needs=["qemu-img", "qemu-io", QSD])
def qcow2_is_not_read_while_it_is_written(tmp):
    "a format's reader refuses a writer, QEMU's or ours, unless it shares"
    path = os.path.join(tmp, "a.qcow2")
    run("qemu-img", "create", "-q", "-f", "qcow2", path, "4M")
    shared = as_qemu('shared "write"')
    for binary in (TIDEMARKD, QSD):
        with Daemon(tmp, *qcow2_nodes(path), binary=binary, name="w"):  # that it is open is enough
            refused(qcow2_nodes(path, ",read-only=on"), shared)
            refused(qcow2_nodes(path), as_qemu('"write"'))
            with Daemon(tmp, *qcow2_nodes(path, ",read-only=on,force-share=on"), name="r"):
                pass
            p = run("qemu-io", "-r", "-f", "qcow2", "-c", "read 0 512", path, check=False)
            matches(p.stdout + p.stderr, 'Failed to get shared "write" lock')
            run("qemu-io", "-r", "-U", "-f", "qcow2", "-c", "read 0 512", path)
        with Daemon(tmp, *qcow2_nodes(path, ",read-only=on"), binary=binary, name="r"):
            refused(qcow2_nodes(path), as_qemu('"write"'))
            with Daemon(tmp, *qcow2_nodes(path, ",read-only=on")):
                run("qemu-io", "-r", "-f", "qcow2", "-c", "read 0 512", path)


@test(needs=["qemu-img"])
def qcow2_in_one_process(tmp):
    "nodes of one process that open a file twice are kept apart as two processes are"
    path, link = os.path.join(tmp, "a.qcow2"), os.path.join(tmp, "link")
    run("qemu-img", "create", "-q", "-f", "qcow2", path, "4M")
    os.link(path, link)
    with Daemon(tmp, *qcow2_nodes(path)) as d:
        for more in {}, {"read-only": True}:
            raises(QMPError, d.qmp, "blockdev-add",
                   dict({"driver": "qcow2", "node-name": "r", "file": {"driver": "file", "filename": link}}, **more),
                   match=as_qemu('.*"write"'))


main()
