#!/usr/bin/python3
# SPDX-FileCopyrightText: 2026 The Tidemark authors
# SPDX-License-Identifier: GPL-2.0-or-later
"""What happens while clients are there: exports that change or go, errors, engines, signals, the background."""
import os
import signal
import subprocess
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from harness import *

MIB = 1 << 20


def refused(message, *args):
    """tidemarkd must not start, for that reason, said in one line."""
    p = run(TIDEMARKD, *args, check=False)
    equal((p.returncode, p.stdout), (1, ""), str(args))
    equal(p.stderr.count("\n"), 1, p.stderr)
    matches(p.stderr, "^tidemarkd: .*" + message)


def contents(path, offset, length):
    with open(path, "rb") as f:
        f.seek(offset)
        return f.read(length)


@test
def monitors(tmp):
    "several monitors and several clients of one work side by side; quit ends all"
    with Daemon(tmp, *disk(tmp, "disk0", MIB)) as d:
        clients = [d.new_monitor() for _ in range(5)]
        for i, c in enumerate(clients):
            c("block-dirty-bitmap-add", node="disk0", name="b%d" % i)
        equal(len(d.qmp("query-named-block-nodes")[0]["dirty-bitmaps"]), 5)
        d.qmp("block-export-del", id="exp-disk0")
        for c in clients:
            equal(c.wait_event("BLOCK_EXPORT_DELETED")["data"], {"id": "exp-disk0"})
        clients[0]("quit")
        for c in clients[1:]:
            while c.read() is not None:
                pass
        d.wait(0)
        equal([n for n in os.listdir(tmp) if not n.endswith((".img", ".log"))], [])


@test
def pidfile(tmp):
    "--pidfile holds the process id, is locked, is removed at the end; a stale one is taken over"
    path = os.path.join(tmp, "pid")
    with open(path, "w") as f:
        f.write("999999999999999\n")
    with Daemon(tmp, "--pidfile", path) as d:
        with open(path) as f:
            equal(f.read(), "%d\n" % d.pid)
        refused("is locked by another process", "--pidfile", path)
    equal(os.path.exists(path), False)
    with Daemon(tmp, "--pidfile", path) as d:
        d.kill()
    equal(os.path.exists(path), True)
    with Daemon(tmp, "--pidfile", path):
        pass


@test
def pidfile_of_another(tmp):
    "a PID file that isn't this daemon's is neither written nor removed, nor is what a link leads to"
    path, other = os.path.join(tmp, "pid"), os.path.join(tmp, "other")
    with Daemon(tmp, "--pidfile", path) as a:
        os.rename(path, other)
        with Daemon(tmp, "--pidfile", path, name="b") as b:
            a.stop()
            equal(contents(path, 0, 99), b"%d\n" % b.pid)
        equal(os.path.exists(path), False)
    os.unlink(other)
    for make in (lambda: os.symlink(other, path), lambda: os.link(other, path),
                 lambda: os.mkfifo(path), lambda: image(path, MIB, [(0, b"disk")])):
        with open(other, "w") as f:
            f.write("123\n")
        make()
        refused("cannot create PID file: '%s' (is a symbolic link|exists and is not a PID file)" % path,
                "--pidfile", path)
        equal(contents(other, 0, 99), b"123\n")
        os.unlink(path)


@test
def monitor_of_another(tmp):
    "a monitor's socket is not taken from who listens on it; what a killed daemon left is replaced"
    with Daemon(tmp) as a:
        refused("Address already in use: another process listens there", "--chardev",
                "socket,id=c,server=on,wait=off,path=" + a.qmp_path, "--monitor", "c")
        a.new_monitor()("query-version")
        a.kill()
    equal(os.path.exists(a.qmp_path), True)
    with Daemon(tmp) as b:
        equal(b.qmp_path, a.qmp_path)
        b.new_monitor()("query-version")
        # and what another has put there stays
        os.unlink(b.qmp_path)
        image(b.qmp_path, 1)
        b.stop()
    equal(os.path.getsize(a.qmp_path), 1)


@test
def daemonize(tmp):
    "--daemonize returns when the sockets are up; relative paths are removed at the end"
    image(os.path.join(tmp, "a.img"), MIB)
    p = run(TIDEMARKD, "--blockdev", "driver=file,node-name=disk0,filename=a.img",
            "--nbd-server", "addr.type=unix,addr.path=n", "--export", "nbd,id=e,node-name=disk0",
            "--chardev", "socket,id=c,path=q,server=on,wait=off", "--monitor", "c",
            "--daemonize", "--pidfile", "pid", cwd=tmp)
    equal(p.stdout + p.stderr, "")
    q = QMP(os.path.join(tmp, "q"))
    with open(os.path.join(tmp, "pid")) as f:
        pid = int(f.read())
    equal(os.readlink("/proc/%d/cwd" % pid), "/")
    equal(os.getsid(pid), pid)
    q.close()
    os.kill(pid, signal.SIGTERM)
    wait_until(lambda: os.listdir(tmp) == ["a.img"], "the sockets' and the pidfile's removal")
    wait_until(lambda: not os.path.exists("/proc/%d/maps" % pid) or not contents(
        "/proc/%d/cmdline" % pid, 0, 9), "the end")
    refused("No such file", "--daemonize", "--blockdev",
            "driver=file,node-name=a,filename=%s/none" % tmp)


@test
def engines(tmp):
    "io_uring and threads, buffered and O_DIRECT, leave the same bytes"
    results = []
    for n, (engine, direct) in enumerate((e, c) for e in ("auto", "io_uring", "threads")
                                         for c in ("off", "on")):
        path = os.path.join(tmp, "d%d.img" % n)
        with Daemon(tmp, "--io-engine", engine, *disk(
                tmp, "disk0", path=image(path, 4 * MIB), cache__direct=direct, discard="unmap")) as d:
            h = d.nbd()
            h.pwrite(b"a" * 2 * MIB, 0)
            h.pwrite(b"b" * 1001, 777)
            h.zero(100000, 12345)
            h.zero(65536, 262144, 1 << 1)
            h.trim(65536, MIB)
            h.pwrite(b"c" * 4097, 3 * MIB - 5, 1)
            h.flush()
            seen = bytes(h.pread(4 * MIB, 0))
            h.shutdown()
        equal(contents(path, 0, 4 * MIB) == seen, True, "%s %s: file and export" % (engine, direct))
        results.append(seen)
    equal([r == results[0] for r in results], [True] * len(results))


@test
def signals(tmp):
    "SIGTERM, SIGINT and SIGHUP end it with open sessions; acknowledged writes are there, sockets not"
    for n, signum in enumerate((signal.SIGTERM, signal.SIGINT, signal.SIGHUP)):
        path = image(os.path.join(tmp, "%d.img" % n), 8 * MIB)
        with Daemon(tmp, *disk(tmp, "disk0", path=path)) as d:
            import nbd
            idle, h = d.nbd(), d.nbd()
            h.pwrite(b"x" * 4096, 0)
            acknowledged = set()

            def done(at):
                return lambda error: acknowledged.add(at) if not error else 0

            for at in range(MIB, 7 * MIB, 65536):
                h.aio_pwrite(nbd.Buffer.from_bytearray(bytearray(b"y" * 65536)), at, completion=done(at))
            os.kill(d.pid, signum)
            try:
                while h.aio_in_flight():
                    h.poll(-1)
            except nbd.Error:
                pass
            d.wait(0)
            equal([n for n in os.listdir(tmp) if not n.endswith((".img", ".log"))], [])
        equal(contents(path, 0, 4096), b"x" * 4096)
        for at in acknowledged:
            equal(contents(path, at, 65536) == b"y" * 65536, True, "acknowledged and lost: %d" % at)
        del idle


@test
def live_bitmaps(tmp):
    "block-export-dirty-bitmap: clients keep what they negotiated, new ones see the new choice"
    with Daemon(tmp, *disk(tmp, "disk0", MIB)) as d:
        for name in ("a", "b"):
            d.qmp("block-dirty-bitmap-add", node="disk0", name=name)
        d.qmp("block-export-dirty-bitmap", id="exp-disk0", bitmaps=["a"])
        contexts = ["qemu:dirty-bitmap:a", "qemu:dirty-bitmap:b"]
        old = d.nbd(contexts=contexts)
        equal([old.can_meta_context(c) for c in contexts], [True, False])
        d.qmp("block-export-dirty-bitmap", id="exp-disk0", bitmaps=["b"])
        new = d.nbd(contexts=contexts)
        equal([new.can_meta_context(c) for c in contexts], [False, True])
        new.pwrite(b"x", 70000)
        equal(dirty(old, "a"), [(65536, 65536)])
        equal(dirty(new, "b"), [(65536, 65536)])
        raises(QMPError, d.qmp, "block-export-dirty-bitmap", id="exp-disk0", bitmaps=["none"],
               match="none")
        raises(QMPError, d.qmp, "block-dirty-bitmap-remove", node="disk0", name="b", match="busy|use")


@test
def deleting(tmp):
    "block-export-del in mode safe refuses while a client is there; in mode hard it cuts it off and sends the event"
    with Daemon(tmp, *disk(tmp, "disk0", MIB)) as d:
        import nbd
        h = d.nbd()
        raises(QMPError, d.qmp, "block-export-del", id="exp-disk0", match="still in use")
        h.pwrite(b"x", 0)
        d.unexport("exp-disk0")
        raises(nbd.Error, h.pread, 512, 0)
        raises(nbd.Error, d.nbd)
        equal(d.qmp("query-block-exports"), [])
        d.qmp("blockdev-del", node_name="disk0")


@test
def deleting_waits(tmp):
    "block-export-del in mode wait takes no new clients, and the export ends with the last one"
    with Daemon(tmp, *disk(tmp, "disk0", MIB)) as d:
        import nbd

        def shutting_down():
            return [e["shutting-down"] for e in d.qmp("query-block-exports")]

        raises(QMPError, d.qmp, "block-export-del", id="exp-disk0", seconds=1, match="seconds.*wait")
        a, b = d.nbd(), d.nbd()
        d.qmp("block-export-del", id="exp-disk0", mode="wait")
        equal(shutting_down(), [True])
        raises(nbd.Error, d.nbd)
        raises(QMPError, d.qmp, "block-export-del", id="exp-disk0", match="already shutting down")
        a.pwrite(b"x" * 512, 0)
        a.shutdown()
        equal(bytes(b.pread(512, 0)), b"x" * 512)
        d.qmp("blockdev-add", {"driver": "null-co", "node-name": "n"})
        d.qmp("block-export-add", {"type": "nbd", "id": "n", "node-name": "n", "name": "disk0"})
        equal(d.nbd().get_size(), 1 << 30)
        b.shutdown()
        d.monitor.wait_event("BLOCK_EXPORT_DELETED", id="exp-disk0")
        equal(shutting_down(), [False])
        d.qmp("block-export-del", id="n", mode="wait")
        d.monitor.wait_event("BLOCK_EXPORT_DELETED", id="n")


@test
def deleting_waits_so_long(tmp):
    "block-export-del in mode wait cuts clients off after its seconds, and a wait can be cut short"
    with Daemon(tmp, *disk(tmp, "disk0", MIB), *disk(tmp, "disk1", MIB)) as d:
        import nbd
        a, b = d.nbd("disk0"), d.nbd("disk1")
        d.qmp("block-export-del", id="exp-disk0", mode="wait", seconds=1)
        a.pwrite(b"x", 0)
        d.qmp("block-export-del", id="exp-disk1", mode="wait", seconds=1000)
        b.pwrite(b"x", 0)
        d.unexport("exp-disk1")
        raises(nbd.Error, b.pread, 512, 0)
        d.monitor.wait_event("BLOCK_EXPORT_DELETED", id="exp-disk0")
        raises(nbd.Error, a.pread, 512, 0)


@test
def waiting_ends_with_the_server(tmp):
    "nbd-server-stop and the daemon's end cut off what block-export-del waits for"
    with Daemon(tmp, *disk(tmp, "disk0", MIB)) as d:
        import nbd
        h = d.nbd()
        d.qmp("block-export-del", id="exp-disk0", mode="wait")
        d.qmp("nbd-server-stop")
        raises(nbd.Error, h.pread, 512, 0)
        d.monitor.wait_event("BLOCK_EXPORT_DELETED", id="exp-disk0")
        d.qmp("nbd-server-start", {"addr": {"type": "unix", "data": {"path": d.nbd_path}}})
        d.qmp("block-export-add", {"type": "nbd", "id": "n", "node-name": "disk0"})
        h = d.nbd()
        d.qmp("block-export-del", id="n", mode="wait")


@test
def server_stop(tmp):
    "nbd-server-stop ends sessions and exports, and the server can start anew"
    with Daemon(tmp, *disk(tmp, "disk0", MIB)) as d:
        import nbd
        h = d.nbd()
        h.pwrite(b"x" * 512, 0)
        d.qmp("nbd-server-stop")
        raises(nbd.Error, h.pread, 512, 0)
        d.monitor.wait_event("BLOCK_EXPORT_DELETED", id="exp-disk0")
        equal(os.path.exists(d.nbd_path), False)
        raises(QMPError, d.qmp, "nbd-server-stop", match="not running")
        d.qmp("nbd-server-start", {"addr": {"type": "unix", "data": {"path": d.nbd_path}}})
        d.qmp("block-export-add", {"type": "nbd", "id": "n", "node-name": "disk0"})
        equal(bytes(d.nbd().pread(512, 0)), b"x" * 512)


@test
def no_space(tmp):
    "a full file system is ENOSPC to the client and an event to the monitor; the export lives on"
    full = os.path.join(tmp, "full")
    os.mkdir(full)
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "none", full],
                      stderr=subprocess.DEVNULL).returncode:
        skip("tmpfs can't be mounted here")
    try:
        with Daemon(tmp, *disk(tmp, "disk0", path=image(os.path.join(full, "a"), 8 * MIB))) as d:
            import nbd
            h = d.nbd()
            h.pwrite(b"x" * 4096, 0)
            error = raises(nbd.Error, h.pwrite, b"y" * 4 * MIB, 2 * MIB)
            equal(error.errno, "ENOSPC")
            event = d.monitor.wait_event("BLOCK_IO_ERROR")["data"]
            equal((event["node-name"], event["operation"], event["nospace"], event["action"]),
                  ("disk0", "write", True, "report"))
            equal(bytes(h.pread(4096, 0)), b"x" * 4096)
            h.shutdown()
    finally:
        subprocess.run(["umount", "-l", full], stderr=subprocess.DEVNULL)


@test(needs=["qemu-img"])
def kill_keeps_answered_writes(tmp):
    "kill -9 takes no answered write from a raw disk, nor from a qcow2 image if the export has writethrough"
    for kind, more in (("file", ""), ("qcow2", ",writethrough=on")):
        path = os.path.join(tmp, kind)
        run("qemu-img", "create", "-q", "-f", "raw" if kind == "file" else kind, path, str(16 * MIB))
        where = "filename=" + path if kind == "file" else "file.driver=file,file.filename=" + path
        args = ["--blockdev", "driver=%s,node-name=disk0,%s" % (kind, where),
                "--export", "type=nbd,id=e,node-name=disk0,name=disk0,writable=on" + more]
        d = Daemon(tmp, *args)
        h = d.nbd()
        for at in range(0, 16 * MIB, MIB):
            h.pwrite(b"w" * 4096, at)
        h.zero(4096, MIB)
        d.kill()
        with Daemon(tmp, *args) as d:
            h = d.nbd()
            equal([at // MIB for at in range(0, 16 * MIB, MIB)
                   if h.pread(4096, at) != (bytes(4096) if at == MIB else b"w" * 4096)], [], "lost from " + kind)
            h.shutdown()


@test(needs=["qemu-img"])
def stacks_above_a_busy_disk(tmp):
    "nodes that show a disk, one through the other, come and go while it is written"
    over = os.path.join(tmp, "over")
    run("qemu-img", "create", "-q", "-f", "qcow2", over, 8 << 20)
    path = image(os.path.join(tmp, "disk"), 8 << 20)
    with Daemon(tmp, env={"MALLOC_PERTURB_": "165"}) as d:
        d.qmp("blockdev-add", {"driver": "blkdebug", "node-name": "disk0", "image": {"driver": "file", "filename": path},
                               "inject-delay": [{"event": "none", "iotype": "write", "delay-ns": 20000000}]})
        d.qmp("block-export-add", {"type": "nbd", "id": "e", "node-name": "disk0", "name": "disk0", "writable": True})
        stopped = threading.Event()

        def write():
            h, data = d.nbd(), b"w" * (1 << 20)
            while not stopped.is_set():
                for cookie in [h.aio_pwrite(data, i << 20) for i in range(8)]:
                    while not h.aio_command_completed(cookie):
                        h.poll(-1)
            h.shutdown()

        def come_and_go():
            try:
                for _ in range(20):
                    d.qmp("blockdev-add", {"driver": "blkdebug", "node-name": "top", "image": {
                        "driver": "blkdebug", "image": {
                            "driver": "qcow2", "backing": "disk0", "file": {"driver": "file", "filename": over}}}})
                    d.qmp("blockdev-del", node_name="top")
            finally:
                stopped.set()

        in_threads(write, write, come_and_go)
        equal(len(d.qmp("query-named-block-nodes")), 2)


main()
