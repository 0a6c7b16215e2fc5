#!/usr/bin/python3
# SPDX-FileCopyrightText: 2026 The Tidemark authors
# SPDX-License-Identifier: GPL-2.0-or-later
# timeout: 300
"""libvirt, run as it is: a domain whose disk is an export is started, written, backed up and copied, to and from us.

The domain has no operating system: QEMU's monitor writes its disk. As root, libvirt runs as the user nobody, in a
session of its own, and touches nothing of the machine's."""
import os
import signal
import shutil
import sys
import tempfile

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "func"))
from harness import *  # noqa: E402,F403
from serving import gone  # noqa: E402

KIB, MIB = 1 << 10, 1 << 20
SIZE = 16 * MIB
NEEDS = ["virsh", "libvirtd", "qemu-system-x86_64", "setpriv"]
NOBODY = 65534

DOMAIN = """<domain type='qemu'>
  <name>t</name><memory unit='MiB'>64</memory><vcpu>1</vcpu>
  <os><type arch='x86_64' machine='pc'>hvm</type></os>
  <devices><emulator>%s</emulator><disk type='network' device='disk'>%s<target dev='vda' bus='virtio'/></disk></devices>
</domain>"""


def source(d, export, element="source"):
    """The elements of a disk that is an export."""
    return ("<driver name='qemu' type='raw'/><%s protocol='nbd' name='%s'><host transport='unix' socket='%s'/></%s>" %
            (element, export, d.nbd_path, element))


def content(path):
    with open(path, "rb") as f:
        return f.read()


class Session:
    """libvirt's session of a user, and the domain 't' on the export disk0, in a directory that the user gets to."""

    def __init__(self):
        self.tmp = tmp = tempfile.mkdtemp(prefix="tm-", dir="/tmp")
        self.dir = os.path.join(tmp, "v")
        os.chmod(tmp, 0o755)
        os.mkdir(self.dir)
        image(os.path.join(tmp, "second.img"), SIZE)
        self.d = Daemon(tmp, *disk(tmp, "disk0", SIZE), *disk(tmp, "second", None))
        self.disk0 = os.path.join(tmp, "disk0.img")
        self.user = []
        if os.geteuid() == 0:
            os.chown(self.dir, NOBODY, NOBODY)
            os.chmod(self.d.nbd_path, 0o666)
            self.user = ["setpriv", "--reuid=%d" % NOBODY, "--regid=%d" % NOBODY, "--clear-groups"]

    def run(self, *command, check=True, timeout=None):
        env = {"PATH": os.environ["PATH"], "HOME": self.dir, "XDG_RUNTIME_DIR": self.dir, "LC_ALL": "C.UTF-8",
               "XDG_CONFIG_HOME": self.dir + "/c", "XDG_CACHE_HOME": self.dir + "/k"}
        return run(*self.user, *command, env=env, check=check, cwd=self.dir, timeout=timeout)

    def virsh(self, *args, **more):
        return self.run("virsh", "-c", "qemu:///session", *args, **more).stdout

    def file(self, name, text=None):
        """A path that libvirt may write, with this text in it."""
        path = os.path.join(self.dir, name)
        if text is not None:
            with open(path, "w") as f:
                f.write(text)
            os.chmod(path, 0o644)
        return path

    def start(self):
        p = self.run("virsh", "-c", "qemu:///session", "version", check=False)
        if p.returncode:
            skip("libvirt doesn't run here: " + p.stderr.strip().replace("\n", "; "))
        emulator = shutil.which("qemu-system-x86_64")
        self.virsh("define", self.file("t.xml", DOMAIN % (emulator, source(self.d, "disk0"))))
        self.virsh("start", "t")

    def io(self, command):
        """Has the domain's disk do what qemu-io would."""
        said = self.virsh("qemu-monitor-command", "t", "--hmp",
                          'qemu-io -d /machine/peripheral/virtio-disk0/virtio-backend "%s"' % command)
        if "rror" in said or "failed" in said:
            fail("%s: %s" % (command, said))

    def wait_job(self):
        wait_until(lambda: "None" in self.virsh("domjobinfo", "t"), "the domain's job")

    def __enter__(self):
        self.start()
        return self

    def __exit__(self, kind, value, tb):
        self.virsh("destroy", "t", check=False)
        for name in os.listdir(os.path.join(self.dir, "libvirt")):
            if name.endswith(".pid"):
                with open(os.path.join(self.dir, "libvirt", name)) as f:
                    pid = int(f.read())
                os.kill(pid, signal.SIGTERM)
                wait_until(lambda pid=pid: gone(pid), "the end of libvirtd")
        if kind is None:
            self.d.stop()
        else:
            self.d.kill()
            sys.stderr.write(self.d.log())
        shutil.rmtree(self.tmp)


@test(needs=NEEDS)
def domain():
    "a domain runs on an export: what it writes is there, and it ends without a trace"
    with Session() as s:
        matches(s.virsh("domblkinfo", "t", "vda"), r"Capacity: +%d\n" % SIZE)
        s.io("write -P 90 1M 64k")
        s.io("flush")
        equal(content(s.disk0)[MIB:MIB + 64 * KIB] == b"Z" * 64 * KIB, True, "what was written")
        s.virsh("suspend", "t")
        s.virsh("resume", "t")
        s.virsh("destroy", "t")
        s.virsh("undefine", "t")


BACKUP = """<domainbackup mode='%s'>%s<disks><disk name='vda' backup='yes' type='file'>%s</disk></disks></domainbackup>"""


@test(needs=NEEDS)
def push():
    "backup-begin in push mode writes the disk as it was"
    with Session() as s:
        s.io("write -P 1 0 2M")
        s.io("write -P 2 5M 300k")
        before = content(s.disk0)
        target = s.file("push.raw")
        s.virsh("backup-begin", "t", "--backupxml",
                s.file("b.xml", BACKUP % ("push", "", "<driver type='raw'/><target file='%s'/>" % target)))
        s.wait_job()
        equal(content(target) == before, True, "the copy")


@test(needs=NEEDS + ["nbdcopy"])
def pull():
    "backup-begin in pull mode: a client copies the disk as it was while the domain writes on"
    with Session() as s:
        s.io("write -P 1 0 2M")
        before = content(s.disk0)
        sock = s.file("pull.sock")
        s.virsh("backup-begin", "t", "--backupxml",
                s.file("b.xml", BACKUP % ("pull", "<server transport='unix' socket='%s'/>" % sock,
                                          "<driver type='qcow2'/><scratch file='%s'/>" % s.file("scratch"))))
        s.io("write -P 3 1M 4M")
        copy = os.path.join(s.tmp, "copy")
        run("nbdcopy", "nbd+unix:///vda?socket=" + sock, copy)
        equal(content(copy) == before, True, "the copy")
        s.virsh("domjobabort", "t")
        s.wait_job()
        equal(content(s.disk0)[MIB:5 * MIB] == b"\3" * 4 * MIB, True, "the disk went on")


@test(needs=NEEDS)
def blockcopy():
    "blockcopy moves a running domain's disk to another export, to a file, and back to us"
    with Session() as s:
        s.io("write -P 1 0 3M")
        xml = s.file("c.xml", "<disk type='network'>%s</disk>" % source(s.d, "second"))
        s.virsh("blockcopy", "t", "vda", "--xml", xml, "--wait", "--pivot", "--transient-job", timeout=4 * PATIENCE)
        s.io("write -P 4 8M 1M")
        second = content(os.path.join(s.tmp, "second.img"))
        equal((second[:3 * MIB] == b"\1" * 3 * MIB, second[8 * MIB:9 * MIB] == b"\4" * MIB), (True, True), "second")
        path = s.file("file.raw")
        s.virsh("blockcopy", "t", "vda", path, "--format", "raw", "--wait", "--pivot", "--transient-job",
                timeout=4 * PATIENCE)
        s.io("write -P 5 12M 1M")
        equal(content(path)[12 * MIB:13 * MIB] == b"\5" * MIB, True, "the file")
        xml = s.file("c.xml", "<disk type='network'>%s</disk>" % source(s.d, "disk0"))
        s.virsh("blockcopy", "t", "vda", "--xml", xml, "--wait", "--pivot", "--transient-job", timeout=4 * PATIENCE)
        s.io("flush")
        equal(content(s.disk0) == content(path), True, "what came back")


main()
