#!/usr/bin/python3
# SPDX-FileCopyrightText: 2026 The Tidemark authors
# SPDX-License-Identifier: GPL-2.0-or-later
# timeout: 300
"""Backups of disks that a QEMU process has open, by `tidemark backup --qmp` and of its NBD exports. There is no guest:
the monitor writes to the devices. Each case runs with the system's QEMU and with QEMU 10, if `make trixie` has put it
into build-trixie (or TRIXIE says where it is)."""
import array
import os
import random
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "func"))
from backup_kit import Agent  # noqa: E402
from harness import *  # noqa: E402,F403

TRIXIE_DIR = os.environ.get("TRIXIE") or os.path.join(SRCDIR, "build-trixie")
NEWER = os.path.join(TRIXIE_DIR, "bin", "qemu-system-x86_64")
KIB, MIB = 1 << 10, 1 << 20
VDA, SDB = 8 * MIB, 4 * MIB + 512  # the end of sdb is within a block


def each(function):
    "Registers a case once for each QEMU."
    for name, binary in (("the system's QEMU", "qemu-system-x86_64"), ("QEMU 10", NEWER)):
        def case(tmp, binary=binary):
            if not have(binary):
                skip("%s is not here" % binary)
            function(tmp, binary)
        case.__doc__, case.__name__ = "%s, %s" % (function.__doc__, name), function.__name__
        test(case)
    return function


class Vm:
    """A QEMU with disk vda (qcow2, virtio), sdb (raw, SCSI), an empty CD drive, and a model of what they have."""

    def __init__(self, tmp, binary, *args, raw="b"):
        self.tmp, self.binary, self.args, self.raw = tmp, binary, args, raw
        self.paths = {"vda": os.path.join(tmp, "a.qcow2"), "sdb": os.path.join(tmp, "b.img")}
        self.model = {"vda": bytearray(VDA), "sdb": bytearray(SDB)}
        self.repo = os.path.join(tmp, "repo")
        self.socket = os.path.join(tmp, "vm.qmp")
        self.running = False
        self.rng = random.Random(14)
        run("qemu-img", "create", "-q", "-f", "qcow2", self.paths["vda"], VDA)
        image(self.paths["sdb"], SDB)
        self.start()

    def start(self):
        own = os.path.join(self.tmp, "own.qmp")
        for path in (own, self.socket):
            if os.path.exists(path):
                os.unlink(path)
        self.log_path = os.path.join(self.tmp, "qemu.log")
        command = [self.binary, "-accel", "tcg", "-machine", "q35", "-m", "16", "-nodefaults", "-display", "none", "-S",
                   "-qmp", "unix:%s,server=on,wait=off" % own, "-qmp", "unix:%s,server=on,wait=off" % self.socket,
                   "-blockdev", "driver=qcow2,node-name=a,discard=unmap,file.driver=file,file.discard=unmap,"
                   "file.node-name=afile,file.filename=" + self.paths["vda"],
                   "-blockdev", "driver=raw,node-name=b,discard=unmap,file.driver=file,file.discard=unmap,"
                   "file.filename=" + self.paths["sdb"], *self.args,
                   "-device", "virtio-scsi-pci,id=scsi0", "-device", "scsi-cd,id=cd0",
                   "-device", "scsi-hd,drive=%s,id=sdb,share-rw=on" % self.raw]
        if not any("id=vda" in str(a) for a in self.args):
            command += ["-device", "virtio-blk-pci,drive=a,id=vda"]
        with open(self.log_path, "wb") as out:
            self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=out, stderr=out)
        try:
            wait_until(lambda: self.connects(own), "QEMU's monitor")
        except BaseException:
            self.kill()
            raise

    def connects(self, path):
        if self.process.poll() is not None:
            fail("QEMU ended: %s" % open(self.log_path, errors="replace").read())
        try:
            self.qmp = QMP(path)
        except OSError:
            return False
        return True

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.kill()

    def cont(self):
        self.qmp("cont")
        self.running = True

    def kill(self):
        self.process.kill()
        self.process.wait()

    def quit(self):
        self.qmp("quit")
        equal(self.process.wait(PATIENCE), 0)

    def io(self, disk, command):
        qdev = {"vda": "/machine/peripheral/vda/virtio-backend", "sdb": "sdb"}[disk]
        self.qmp("human-monitor-command", command_line='qemu-io -d %s "%s"' % (qdev, command))

    def write(self, disk, offset=None, length=None, byte=None):
        "A write of the device, at random if it is not said, and in the model."
        size = len(self.model[disk]) // 512
        if offset is None:
            length = self.rng.choice([1, 1, 8, 128, 200]) * 512
            offset = self.rng.randrange(size - length // 512) * 512
        byte = self.rng.randrange(1, 256) if byte is None else byte
        self.io(disk, "write -P %d %d %d" % (byte, offset, length))
        self.model[disk][offset:offset + length] = bytes([byte]) * length

    def discard(self, disk, offset, length):
        self.io(disk, "discard %d %d" % (offset, length))
        self.model[disk][offset:offset + length] = bytes(length)

    def writes(self, count=8):
        for disk in "vda", "sdb":
            for _ in range(count):
                self.write(disk)

    def snapshot(self):
        return {disk: bytes(data) for disk, data in self.model.items()}

    def state(self, bitmaps=True):
        "All that a backup sets up, as QEMU lists it."
        nodes = self.qmp("query-named-block-nodes")
        found = {
            "nodes": sorted(n["node-name"] for n in nodes),
            "block": sorted((b.get("qdev", ""), b.get("inserted", {}).get("node-name", "")) for b in self.qmp("query-block")),
            "exports": sorted(e["id"] for e in self.qmp("query-block-exports")),
            "jobs": self.qmp("query-jobs"),
            # older QEMUs give descriptors back only while the VM runs
            "fds": self.running and self.qmp("query-fdsets"),
            "status": self.qmp("query-status")["status"],
        }
        if bitmaps:
            found["bitmaps"] = sorted((n["node-name"], b["name"]) for n in nodes for b in n.get("dirty-bitmaps", [])
                                      if b.get("name"))
        return found

    def command(self, *args, disks=("vda", "sdb"), socket=None):
        return [TIDEMARK, "backup", "--qmp", socket or self.socket, *args, *disks, self.repo]

    def backup(self, *args, status=0, **kwargs):
        "What it printed."
        p = run(*self.command(*args, **kwargs), check=False)
        equal(p.returncode, status, p.stdout + p.stderr)
        return p.stdout + p.stderr

    def slow_backup(self, *args, socket=None):
        "One that has begun, and that takes a while. What it prints is in .log_path."
        path = os.path.join(self.tmp, "backup.log")
        with open(path, "w") as out:
            p = subprocess.Popen(self.command("--rate", "4M", "--requests", "1", "--connections", "1", *args,
                                              socket=socket), stdout=out, stderr=out)
        p.log_path = path
        wait_until(lambda: p.poll() is not None or " to read" in open(path).read(), "the instant of the backup")
        return p

    def finish(self, p, status=0):
        "What it printed."
        p.wait(PATIENCE)
        with open(p.log_path) as f:
            out = f.read()
        equal(p.returncode, status, out)
        return out

    def check(self, point, contents):
        "Restores with qemu-img alone."
        for disk, expected in contents.items():
            path = os.path.join(self.repo, point, disk + ".qcow2")
            out = os.path.join(self.tmp, "restored")
            run("qemu-img", "convert", "-f", "qcow2", "-O", "raw", path, out)
            with open(out, "rb") as f:
                got = f.read()
            if got[:len(expected)] != expected:
                at = next(i for i in range(len(expected)) if got[i] != expected[i])
                fail("point %s, disk %s: byte %d differs" % (point, disk, at))

    def kinds(self, point):
        with open(os.path.join(self.repo, point, "manifest.json")) as f:
            return {d["name"]: d["kind"] for d in json.load(f)["disks"]}

    def major(self):
        return self.qmp("query-version")["qemu"]["major"]


def unexport(vm, name):
    vm.qmp("block-export-del", id=name, mode="hard")
    wait_until(lambda: not vm.qmp("query-block-exports"), "the end of the export")


class Cut:
    """Passes a monitor's connection on, and cuts it before the command number `last`."""

    def __init__(self, tmp, target, last):
        self.path, self.last, self.seen = os.path.join(tmp, "cut.qmp"), last, []
        if os.path.exists(self.path):
            os.unlink(self.path)
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(self.path)
        self.listener.listen(1)
        self.target = socket.socket(socket.AF_UNIX)
        self.target.connect(target)
        self.thread = threading.Thread(target=self.serve)
        self.thread.start()

    def serve(self):
        client = self.listener.accept()[0]
        try:
            while True:
                ready = select.select([client, self.target], [], [])[0]
                if self.target in ready:
                    data = self.target.recv(1 << 20)
                    if not data:
                        return
                    client.sendall(data)
                if client in ready:
                    data, more, _, _ = client.recvmsg(1 << 20, 1024)
                    if not data:
                        return
                    self.seen.append(json.loads(data)["execute"])
                    if len(self.seen) >= self.last:
                        return
                    self.target.sendmsg([data], more)
                    for _, _, fds in more:
                        for fd in array.array("i", fds):
                            os.close(fd)
        finally:
            for s in (client, self.target, self.listener):
                s.close()


@each
def increments(tmp, binary):
    "a full and three increments under writes equal the model, and QEMU is as before"
    with Vm(tmp, binary) as vm:
        before = vm.state(bitmaps=False)
        vm.writes(20)
        checkpoints = set()
        for i in range(4):
            point, expected = "p%d" % i, vm.snapshot()
            p = vm.slow_backup("--name", point)
            if p.poll() is None:
                vm.writes()  # they are after the instant
            vm.finish(p)
            vm.check(point, expected)
            equal(set(vm.kinds(point).values()), {"incremental" if i else "full"})
            equal(vm.state(bitmaps=False), before)
            bitmaps = vm.state()["bitmaps"]
            equal([node for node, _ in bitmaps], ["a", "b"], "only the checkpoints are left")
            checkpoints.add(bitmaps[0][1])
            vm.discard("vda", 2 * MIB, (16 + i) * 64 * KIB)
            vm.writes()
        equal(len(checkpoints), 4)
        equal(vm.backup("--incremental", "--name", "p4").count("incremental since"), 2)
        vm.check("p4", vm.snapshot())
        vm.quit()


@each
def cut_at_each_step(tmp, binary):
    "a client that is killed at any step leaves nothing that the next run does not take down"
    with Vm(tmp, binary) as vm:
        vm.cont()
        vm.writes()
        vm.backup("--name", "p0")
        before = vm.state()
        vm.writes()
        rng, last = random.Random(os.environ.get("QEMU_SEED") or 7), 0
        while True:
            last += rng.randrange(8, 20)
            cut = Cut(tmp, vm.socket, last)
            p = run(*vm.command("--name", "lost%d" % last, "--full", socket=cut.path), check=False)
            cut.thread.join()
            complete = os.path.exists(os.path.join(vm.repo, "lost%d" % last, "manifest.json"))
            if p.returncode == 0:
                break
            equal((p.returncode, complete) in ((1, False), (3, True)), True, p.stderr)
            vm.backup(disks=("nosuch",), status=1)  # it takes down what is left
            left = [b for b in vm.state()["bitmaps"] if b not in before["bitmaps"]]
            equal([b for b in left if not b[1].startswith("lost")], [], cut.seen[-1])
            equal(vm.state(bitmaps=False), {k: v for k, v in before.items() if k != "bitmaps"}, cut.seen[-1])
        vm.writes()
        vm.backup("--name", "p1")
        equal([node for node, _ in vm.state()["bitmaps"]], ["a", "b"])
        vm.check("p1", vm.snapshot())


@each
def client_killed(tmp, binary):
    "a killed or interrupted backup keeps the checkpoint: the next one is an increment"
    with Vm(tmp, binary) as vm:
        vm.writes(20)
        vm.backup("--name", "p0")
        vm.writes(20)
        before = vm.state()
        p = vm.slow_backup()
        p.kill()
        p.wait()
        vm.writes()
        p = vm.slow_backup()
        matches("\n".join(vm.state()["nodes"]), "tidemark-backup-filter-0")
        p.send_signal(signal.SIGINT)
        matches(vm.finish(p, 130), "checkpoints are as before")
        equal(vm.state(bitmaps=False), {k: v for k, v in before.items() if k != "bitmaps"})
        matches(vm.backup("--incremental", "--name", "p1"), "incremental since point 'p0'")
        vm.check("p1", vm.snapshot())
        equal([node for node, _ in vm.state()["bitmaps"]], ["a", "b"], "those of the killed run are gone")


@each
def qemu_restarted(tmp, binary):
    "checkpoints outlive QEMU in qcow2 images; what is lost or inconsistent makes a full, with the reason"
    with Vm(tmp, binary) as vm:
        vm.writes()
        vm.backup("--name", "p0")
        vm.writes()
        vm.quit()
        vm.start()
        vm.write("vda")
        out = vm.backup("--name", "p1")
        matches(out, "vda: incremental since point 'p0'")
        matches(out, "sdb: full, because QEMU has no checkpoint of point 'p0'")
        vm.check("p1", vm.snapshot())
        vm.quit()
        vm.start()
        vm.write("vda")
        vm.qmp("human-monitor-command", command_line="commit all")
        vm.kill()
        vm.start()
        with open(vm.paths["sdb"], "rb") as f:
            vm.model["sdb"][:] = f.read()
        out = vm.backup("--name", "p2")
        matches(out, "vda: full, because checkpoint 'p1@.*' is inconsistent: QEMU did not close the image")
        equal(len(vm.state()["bitmaps"]), 2, "it was replaced")
        run("qemu-img", "convert", "-U", "-f", "qcow2", "-O", "raw", vm.paths["vda"], os.path.join(tmp, "now"))
        with open(os.path.join(tmp, "now"), "rb") as f:
            vm.check("p2", {"vda": f.read(), "sdb": bytes(vm.model["sdb"])})
        vm.writes(20)
        p = vm.slow_backup("--full")
        vm.kill()
        vm.finish(p, 1)
        vm.start()
        vm.backup("--name", "p3")
        equal(vm.kinds("p3"), {"vda": "full", "sdb": "full"})


@each
def refused(tmp, binary):
    "disks that can't be backed up are refused with the reason, and nothing is changed"
    with Vm(tmp, binary, "-blockdev", "driver=null-co,node-name=target,size=%d" % (SDB + 0)) as vm:
        before = vm.state()
        for disks, reason in ((["nosuch"], "QEMU has no disk 'nosuch'; it has .*'vda' \\(node 'a'\\)"),
                              (["cd0"], "device 'cd0' has no medium"),
                              (["afile"], "node 'afile' is a part of the image of node 'a'"),
                              (["vda", "a"], "are the same disk")):
            matches(vm.backup(disks=disks, status=1), reason)
        matches(vm.backup("--scratch-max", "1M", status=1), "leave --scratch-max out")
        vm.qmp("blockdev-mirror", job_id="m", device="b", target="target", sync="full")
        matches(vm.backup(status=1), "a job works on node 'b'")
        vm.qmp("block-job-cancel", device="m", force=True)
        wait_until(lambda: not vm.qmp("query-jobs"), "the job's end")
        equal(vm.state(), before)
        vm.writes()
        p = vm.slow_backup()
        monitor = vm.qmp.sock
        monitor.close()  # its socket serves one client at a time
        try:
            matches(vm.backup("--wait", "0", socket=os.path.join(tmp, "own.qmp"), status=4), ".")
            other = vm.repo
            vm.repo = os.path.join(tmp, "other")
            matches(vm.backup(socket=os.path.join(tmp, "own.qmp"), status=1), "another backup of this QEMU")
            vm.repo = other
        finally:
            p.wait(PATIENCE)
        vm.finish(p)
        vm.connects(os.path.join(tmp, "own.qmp"))


@each
def held_names(tmp, binary):
    "what any user can make in its way, in the abstract namespace and in /tmp, stops no backup"
    with Vm(tmp, binary) as vm:
        name = "tidemark-backup-%d" % vm.process.pid
        holders = [socket.socket(socket.AF_UNIX, kind) for kind in (socket.SOCK_DGRAM, socket.SOCK_STREAM)]
        for holder in holders:
            holder.bind("\0" + name)
        os.mkdir(os.path.join(tmp, name), 0o755)
        p = run(*vm.command(), check=False, env={"TMPDIR": tmp, "XDG_RUNTIME_DIR": ""})
        equal(p.returncode, 0, p.stderr)
        equal([n for n in os.listdir(tmp) if n.startswith("tidemark-backup-")], [name])
        for holder in holders:
            holder.close()


@each
def guest_agent(tmp, binary):
    "--qga: the guest is frozen at the instant only, and thaws after a failure in QEMU, too; the backup itself is as ever"
    with Vm(tmp, binary) as vm:
        path, frozen = os.path.join(tmp, "qga"), []
        agent = Agent(path)
        answer = agent.answer

        def writes_before(c, command, arguments):  # what the guest flushes then is in the point
            if command == "guest-fsfreeze-freeze":
                vm.writes()
                frozen.append(vm.snapshot())
            answer(c, command, arguments)

        agent.answer = writes_before
        vm.writes(20)
        before = vm.state(bitmaps=False)
        for i in range(2):
            vm.finish(vm.slow_backup("--name", "p%d" % i, "--qga", path))
            equal([w for w in agent.log if "sync" not in w], ["guest-fsfreeze-" + w for w in ("status", "freeze", "thaw")])
            agent.log.clear()
            vm.check("p%d" % i, frozen[i])
            equal(vm.kinds("p%d" % i), dict.fromkeys(("vda", "sdb"), "incremental" if i else "full"))
        vm.backup("--qga", path, "--scratch", os.path.join(tmp, "nosuch"), status=1)
        equal((agent.frozen, vm.state(bitmaps=False)), (False, before))
        p = vm.slow_backup("--qga", path)
        equal(agent.frozen, False)
        p.kill()
        p.wait()
        vm.backup("--incremental", "--name", "p2", "--qga", path)
        vm.check("p2", frozen[-1])
        equal((agent.frozen, vm.state(bitmaps=False)), (False, before))


@each
def iothreads(tmp, binary):
    "a disk in an iothread is backed up, or refused where that could crash QEMU"
    with Vm(tmp, binary, "-object", "iothread,id=io0", "-device", "virtio-blk-pci,drive=a,id=vda,iothread=io0") as vm:
        vm.writes()
        if vm.major() < 9:
            matches(vm.backup(status=1), "disk 'vda' is in an iothread")
            vm.backup("--name", "p0", disks=["sdb"])
            return
        vm.backup("--name", "p0")
        vm.writes()
        p = vm.slow_backup()
        p.kill()
        p.wait()
        expected = vm.snapshot()
        vm.backup("--incremental", "--name", "p1")
        vm.check("p1", expected)
        vm.quit()


@each
def iothread_below_a_filter(tmp, binary):
    "the iothread of a disk is found by its node's name, too, below a user's filter"
    with Vm(tmp, binary, "-object", "iothread,id=io0", "-object", "throttle-group,id=group", "-blockdev",
            "driver=throttle,throttle-group=group,node-name=limited,file=a", "-device",
            "virtio-blk-pci,drive=limited,id=vda,iothread=io0") as vm:
        if vm.major() < 9:
            matches(vm.backup(disks=["a"], status=1), "disk 'a' is in an iothread")
        else:
            vm.backup("--name", "p0", disks=["vda=a", "sdb"])
            vm.check("p0", vm.snapshot())


@each
def read_only_disk(tmp, binary):
    "a read-only disk has increments, too, and the bitmaps in its image are left there"
    path = os.path.join(tmp, "ro.qcow2")
    run("qemu-img", "create", "-q", "-f", "qcow2", path, MIB)
    run("qemu-img", "bitmap", "--add", path, "old")
    run("qemu-io", "-f", "qcow2", "-c", "write -P 5 0 64k", path)
    with Vm(tmp, binary, "-blockdev", "driver=qcow2,node-name=r,read-only=on,file.driver=file,file.filename=" + path,
            "-device", "virtio-blk-pci,drive=r,id=ro") as vm:
        before = vm.state()
        for i in range(3):
            vm.backup("--name", "p%d" % i, disks=["ro"])
            vm.check("p%d" % i, {"ro": b"\5" * 65536 + bytes(MIB - 65536)})
        equal([vm.kinds("p%d" % i)["ro"] for i in range(3)], ["full", "incremental", "incremental"])
        equal(len(vm.state()["bitmaps"]), len(before["bitmaps"]) + 1)
        equal(vm.state(bitmaps=False), {k: v for k, v in before.items() if k != "bitmaps"})


@each
def other_users(tmp, binary):
    "a disk below a user's filter, a running VM, an NBD server that runs already: all are left as they were"
    with Vm(tmp, binary, "-object", "throttle-group,id=group", "-blockdev",
            "driver=throttle,throttle-group=group,node-name=limited,file=b", raw="limited") as vm:
        own = os.path.join(tmp, "user.sock")
        vm.qmp("nbd-server-start", addr={"type": "unix", "data": {"path": own}})
        vm.qmp("block-export-add", {"type": "nbd", "id": "user", "node-name": "a", "name": "user"})
        vm.cont()
        before = vm.state(bitmaps=False)
        vm.writes()
        vm.backup("--name", "p0")
        vm.check("p0", vm.snapshot())
        vm.writes()
        expected = vm.snapshot()
        p = vm.slow_backup("--name", "p1")
        vm.writes()
        vm.finish(p)
        equal(vm.kinds("p1"), {"vda": "incremental", "sdb": "incremental"})
        vm.check("p1", expected)
        equal(vm.state(bitmaps=False), before)
        run("qemu-img", "info", "nbd+unix:///user?socket=" + own)
        vm.qmp("nbd-server-stop")
        vm.qmp("nbd-server-start", addr={"type": "inet", "data": {"host": "127.0.0.1", "port": "0"}})
        before = vm.state()
        matches(vm.backup(status=1), "an NBD server already, which can't be reached")
        equal(vm.state(), before)


@each
def scratch_full(tmp, binary):
    "a scratch that is full breaks the backup, not the guest"
    small = os.path.join(tmp, "small")
    os.mkdir(small)
    if os.geteuid() or run("mount", "-t", "tmpfs", "-o", "size=512k", "none", small, check=False).returncode:
        skip("it needs a small file system")
    try:
        with Vm(tmp, binary) as vm:
            vm.write("vda", 0, 6 * MIB)
            vm.backup("--name", "p0")
            vm.write("vda", 0, 6 * MIB)
            before = vm.state()
            p = vm.slow_backup("--scratch", small)
            vm.write("vda", 0, 6 * MIB, 77)
            matches(vm.finish(p, 1), "scratch .* is full")
            equal(vm.state(), before)
            equal(vm.qmp("query-status")["status"], "prelaunch")
            vm.backup("--incremental", "--name", "p1")
            vm.check("p1", vm.snapshot())
    finally:
        run("umount", small)


@each
def exported_bitmap(tmp, binary):
    "an NBD export of QEMU with a bitmap: three increments, with kills of either side"
    with Vm(tmp, binary) as vm:
        path = os.path.join(tmp, "nbd.sock")
        uri = "vda=nbd+unix:///vda?socket=" + path

        def export(*bitmaps):
            vm.qmp("block-export-add", {"type": "nbd", "id": "vda", "node-name": "a", "name": "vda",
                                        "bitmaps": list(bitmaps)})

        def backup(*args, status=0):
            p = run(TIDEMARK, "backup", *args, uri, vm.repo, check=False)
            equal(p.returncode, status, p.stdout + p.stderr)
            return p.stdout + p.stderr

        vm.writes(20)
        vm.qmp("nbd-server-start", addr={"type": "unix", "data": {"path": path}})
        vm.qmp("block-dirty-bitmap-add", node="a", name="inc0", persistent=True)
        export()
        backup("--name", "p0")
        vm.check("p0", {"vda": bytes(vm.model["vda"])})
        for i in range(1, 4):
            vm.writes(20)
            unexport(vm, "vda")
            vm.qmp("transaction", actions=[
                {"type": "block-dirty-bitmap-add", "data": {"node": "a", "name": "inc%d" % i, "persistent": True}},
                {"type": "block-dirty-bitmap-disable", "data": {"node": "a", "name": "inc%d" % (i - 1)}}])
            export("inc%d" % (i - 1))
            if i == 2:
                p = subprocess.Popen([TIDEMARK, "backup", "--rate", "1M", "--requests", "1", "--bitmap", "inc1", uri,
                                      vm.repo], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
                time.sleep(0.3)
                p.kill()
                p.wait()
            backup("--name", "p%d" % i, "--bitmap", "inc%d" % (i - 1))
            equal(vm.kinds("p%d" % i), {"vda": "incremental"})
            vm.check("p%d" % i, {"vda": bytes(vm.model["vda"])})
            
        p = subprocess.Popen([TIDEMARK, "backup", "--rate", "1M", "--requests", "1", "--full", uri, vm.repo],
                             stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        time.sleep(0.3)
        vm.kill()
        out = p.communicate(timeout=PATIENCE)[0]
        equal(p.returncode, 1, out)
        equal(sorted(n for n in os.listdir(vm.repo) if os.path.isdir(os.path.join(vm.repo, n)) and
                     os.path.exists(os.path.join(vm.repo, n, "manifest.json"))), ["p0", "p1", "p2", "p3"])


main()
