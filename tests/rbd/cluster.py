# SPDX-FileCopyrightText: 2026 The Tidemark authors
# SPDX-License-Identifier: GPL-2.0-or-later
"""A Ceph cluster of one monitor and one OSD that keeps its objects in memory, in a scratch directory.

    with Cluster(tmp) as c:
        c.rbd("create", "--size", "64M", "rbd/disk0")

It takes two or three seconds to start, needs no root, and ends with the test. `scripts/setup rbd` installs Ceph.
"""
import atexit
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import uuid

sys.path.insert(0, os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "func"))
from harness import BUILDDIR, PATIENCE, fail, have, run, skip, wait_until  # noqa: E402

MODULE = os.environ.get("TIDEMARK_RBD") or os.path.join(BUILDDIR, "block", "drivers", "rbd", "rbd.so")
COMMANDS = ["ceph", "ceph-mon", "ceph-osd", "ceph-authtool", "monmaptool", "rbd"]

CONF = """[global]
fsid = {fsid}
mon host = v2:{address}:{port}
public addr = {address}
keyring = {dir}/keyring
auth cluster required = cephx
auth service required = cephx
auth client required = cephx
run dir = {dir}
admin socket =
log file = {dir}/$name.log
pid file =
mon data = {dir}/mon
osd data = {dir}/osd
osd objectstore = memstore
memstore device bytes = 1073741824
osd pool default size = 1
osd pool default min size = 1
osd crush chooseleaf type = 0
osd client watch timeout = {watch}
mon allow pool size one = true
mon warn on pool no redundancy = false

ms initial backoff = 0.02
paxos propose interval = 0.05
paxos min wait = 0.01
ms max backoff = 0.5
objecter tick interval = 0.2
osd mon report interval = 1
osd heartbeat interval = 1
auth allow insecure global id reclaim = false
"""

def free_port(address):
    with socket.socket() as s:
        s.bind((address, 0))
        return s.getsockname()[1]

class Cluster:
    """The cluster, at an address of this network namespace; a client that dies is one for `watch` seconds before
    others get its lock."""

    def __init__(self, watch=2, address="127.0.0.1", module=True):
        missing = [c for c in COMMANDS if not have(c)]
        if missing:
            skip("%s is not installed: see scripts/setup rbd" % missing[0])
        if module and not os.path.exists(MODULE):
            skip("the plug-in for rbd is not built: librbd-dev was missing")
        self.dir = tempfile.mkdtemp(prefix="ceph")
        self.processes = []
        atexit.register(self.stop)
        self.conf = os.path.join(self.dir, "ceph.conf")
        self.keyring = os.path.join(self.dir, "keyring")
        self.address = address
        self.port = free_port(address)
        with open(self.conf, "w") as f:
            f.write(CONF.format(dir=self.dir, address=address, port=self.port, fsid=uuid.uuid4(), watch=watch))
        self.start()

    def path(self, name):
        return os.path.join(self.dir, name)

    def start(self):
        def key(name, *caps):
            pairs = [x for c in caps for x in ("--cap",) + c]
            run("ceph-authtool", self.keyring, "--gen-key", "-n", name, *pairs)

        os.mkdir(self.path("mon"))
        os.mkdir(self.path("osd"))
        run("ceph-authtool", self.keyring, "--create-keyring")
        key("mon.", ("mon", "allow *"))
        key("client.admin", ("mon", "allow *"), ("osd", "allow *"))
        key("osd.0", ("mon", "allow profile osd"), ("osd", "allow *"))
        run("monmaptool", "--create", "--clobber", "--addv", "a", "[v2:%s:%d]" % (self.address, self.port),
            "--fsid", self.fsid(), self.path("monmap"))
        run("ceph-mon", "-c", self.conf, "--mkfs", "-i", "a", "--monmap", self.path("monmap"), "--keyring",
            self.keyring)
        self.daemon("ceph-mon", "-f", "-i", "a")
        self.ceph("osd", "new", self.fsid())
        run("ceph-osd", "-c", self.conf, "-i", "0", "--mkfs", "--osd-uuid", self.fsid())
        self.daemon("ceph-osd", "-f", "-i", "0", "--admin-socket", self.path("osd.asok"))
        self.ceph("osd", "pool", "create", "rbd", "8")
        wait_until(lambda: run("rados", "-c", self.conf, "-p", "rbd", "put", "up", self.conf, check=False,
                               timeout=PATIENCE).returncode == 0, "the pool to be there")

    def fsid(self):
        with open(self.conf) as f:
            return [line.split()[2] for line in f if line.startswith("fsid")][0]

    def daemon(self, *command):
        log = open(self.path(command[0] + ".out"), "w")
        self.processes.append(subprocess.Popen([command[0], "-c", self.conf, *command[1:]], stdout=log, stderr=log,
                                               stdin=subprocess.DEVNULL))
        log.close()

    def stop(self):
        for p in self.processes:
            p.kill()
            p.wait()
        self.processes = []
        shutil.rmtree(self.dir, ignore_errors=True)

    def ceph(self, *args, **kwargs):
        return run("ceph", "-c", self.conf, "--connect-timeout", "30", *args, **kwargs).stdout

    def osd(self, *command):
        """A command to the OSD itself."""
        return run("ceph", "-c", self.conf, "--admin-daemon", self.path("osd.asok"), *command).stdout

    def rbd(self, *args, check=True):
        """The output; with check=False the completed process."""
        p = run("rbd", "-c", self.conf, *args, check=check)
        return p.stdout if check else p

    def export(self, image):
        """The content of an image or snapshot."""
        return run("rbd", "-c", self.conf, "export", image, "-", text=False).stdout
