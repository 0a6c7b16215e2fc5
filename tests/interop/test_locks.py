#!/usr/bin/python3
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


@test(needs=["qemu-io", "qemu-img"])
def qemu_is_kept_from_our_disk(tmp):
    "QEMU's writers are refused while we may write, its reader that shares is not"
    path = image(os.path.join(tmp, "a.img"), 1 << 20)
    with Daemon(tmp, *file_node(path), nbd=False):
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
def readers_share(tmp):
    "a read-only disk of ours may be read and written by QEMU"
    path = image(os.path.join(tmp, "a.img"), 1 << 20)
    with Daemon(tmp, *file_node(path, ",read-only=on"), nbd=False):
        run("qemu-img", "info", path)
        p = run("qemu-io", "-f", "raw", "-c", "write 0 512", path)
        matches(p.stdout, "wrote 512/512")


@test(needs=["qemu-img"])
def resizing_is_kept_away(tmp):
    "QEMU can't resize under a disk that we only read"
    path = image(os.path.join(tmp, "a.img"), 1 << 20)
    with Daemon(tmp, *file_node(path, ",read-only=on"), nbd=False):
        p = run("qemu-img", "resize", "-f", "raw", path, "2M", check=False)
        matches(p.stderr, 'Failed to get "resize" lock')
    run("qemu-img", "resize", "-f", "raw", path, "2M")


@test(needs=[QSD])
def a_writer_there_keeps_ours_away(tmp):
    "a disk that qemu-storage-daemon exports writable can be opened by us for reading only"
    path = image(os.path.join(tmp, "a.img"), 1 << 20)
    with Daemon(tmp, *file_node(path), *export(), binary=QSD, name="q"):
        refused(file_node(path), r'Failed to get shared "write" lock. Is another process using the '
                                 r'image \[.*a\.img\]\?')
        with Daemon(tmp, *file_node(path, ",read-only=on"), nbd=False):
            pass
        with Daemon(tmp, *file_node(path, ",read-only=on,force-share=on"), nbd=False):
            pass
        with Daemon(tmp, *file_node(path, ",locking=off"), nbd=False):
            pass
    with Daemon(tmp, *file_node(path), nbd=False):
        pass


@test(needs=[QSD])
def a_reader_there_is_fine(tmp):
    "a disk that qemu-storage-daemon exports read-only can be opened by us for writing"
    path = image(os.path.join(tmp, "a.img"), 1 << 20)
    with Daemon(tmp, *file_node(path), *export("off"), binary=QSD, name="q"):
        with Daemon(tmp, *file_node(path), nbd=False) as d:
            raises(QMPError, d.qmp, "block_resize", node_name="disk0", size=2 << 20,
                   match='Failed to get "resize" lock')
        with Daemon(tmp, *file_node(path), nbd=False):
            pass


@test(needs=[QSD])
def a_writer_here_keeps_qsd_away(tmp):
    "qemu-storage-daemon can't export for writing what we have open for writing"
    path = image(os.path.join(tmp, "a.img"), 1 << 20)
    with Daemon(tmp, *file_node(path), nbd=False):
        with Daemon(tmp, *file_node(path), binary=QSD, name="q") as q:
            raises(QMPError, q.qmp, "block-export-add",
                   {"type": "nbd", "id": "e", "node-name": "disk0", "writable": True},
                   match='Failed to get "write" lock')
            q.qmp("block-export-add", {"type": "nbd", "id": "e", "node-name": "disk0"})
            q.qmp("block-export-del", id="e")


@test
def two_of_ours(tmp):
    "two daemons can't both have a disk for writing; one may read"
    path = image(os.path.join(tmp, "a.img"), 1 << 20)
    with Daemon(tmp, *file_node(path), nbd=False):
        refused(file_node(path), 'Failed to get "write" lock. Is another process using the image')
        with Daemon(tmp, *file_node(path, ",read-only=on"), nbd=False, name="r"):
            pass


main()
