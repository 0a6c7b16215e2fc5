#!/usr/bin/python3
# SPDX-FileCopyrightText: 2026 The Tidemark authors
# SPDX-License-Identifier: GPL-2.0-or-later
# timeout: 300
"""The units, under systemd as it boots: start, sockets, kills, failures, hangs, and what they may write."""
from harness import *
from machine import PREFIX, machine

import nbd
import vhost

M = 1 << 20


class Instance:
    """tidemarkd@NAME, with a disk of 8 MiB in its own directory, unless the options say otherwise."""

    def __init__(self, name, server=None, disk=None, start=True, **more):
        self.m, self.name = machine(), name
        self.unit = "tidemarkd@%s.service" % name
        self.dir = "/var/lib/tidemark/" + name
        self.disk = disk or self.dir + "/disk0.img"
        self.m.write("%s/etc/tidemark/%s.conf" % (PREFIX, name), json.dumps({
            "blockdevs": [{"driver": "file", "node-name": "disk0", "filename": self.disk}],
            "nbd-servers": [{"addr": server or self.socket("nbd")}],
            "exports": [{"type": "nbd", "id": "disk0", "node-name": "disk0", "name": "disk0", "writable": True}],
            "chardevs": [{"id": "qmp", "backend": {"type": "socket", "data": {
                "addr": self.socket("qmp"), "server": True}}}],
            "monitors": [{"chardev": "qmp"}], **more}, indent=1) + "\n")
        self.m.run("install", "-d", "-o", "tidemark", "-g", "tidemark", self.dir)
        if disk is None:
            self.m.run("truncate", "-s", "8M", self.disk)
            self.m.run("chown", "tidemark:tidemark", self.disk)
        if start:
            self.m.systemctl("start", self.unit)

    def socket(self, kind):
        return {"type": "unix", "data": {"path": "/run/tidemark/%s/%s.sock" % (self.name, kind)}}

    def show(self, prop):
        return self.m.show(self.unit, prop)

    def pid(self):
        return int(self.show("MainPID"))

    def qmp(self):
        return QMP(self.m.path("/run/tidemark/%s/qmp.sock" % self.name))

    def nbd(self, socket_name="nbd.sock", contexts=()):
        h = nbd.NBD()
        for context in contexts:
            h.add_meta_context(context)
        h.set_export_name("disk0")
        h.connect_unix(self.m.path("/run/tidemark/%s/%s" % (self.name, socket_name)))
        return h

    def dirty(self, bitmap):
        """The extents of a bitmap, as an NBD client sees them."""
        context = "qemu:dirty-bitmap:" + bitmap
        h = self.nbd(contexts=[context])
        extents = []
        h.block_status(8 * M, 0, lambda name, offset, entries, error: extents.extend(entries))
        h.shutdown()
        return extents


@test
def start():
    "a started unit takes clients, shows what it serves, and stops with status 0"
    i = Instance("start")
    equal(i.show("ActiveState"), "active")
    matches(i.show("StatusText"), "^serving 1 export to 0 clients$")
    h = i.nbd()
    h.pwrite(b"x" * 4096, 0)
    h.shutdown()
    equal(i.m.run("stat", "-c", "%U:%G %a", "/run/tidemark/start", i.dir).stdout,
          "tidemark:tidemark 750\n" * 2)
    i.m.systemctl("stop", i.unit)
    equal((i.show("Result"), i.show("ExecMainStatus")), ("success", "0"))


@test
def fences():
    "the daemon keeps its own sandbox and io_uring inside of the unit's"
    i = Instance("fences", sandbox={"mode": "on", "files": "given"}, **{"io-engine": "io_uring"})
    status = i.m.run("cat", "/proc/%d/status" % i.pid()).stdout
    matches(status, r"Seccomp:\t2\n")
    matches(status, r"CapBnd:\t0{16}\n")
    matches(status, r"NoNewPrivs:\t1\n")
    i.m.systemctl("stop", i.unit)


@test
def activated():
    "a client of the socket unit starts the daemon; group and mode are those of the unit"
    i = Instance("activated", server={"type": "fd", "data": {"str": "nbd"}}, start=False)
    i.m.systemctl("start", "tidemarkd@activated.socket")
    equal(i.m.run("stat", "-c", "%U:%G %a", "/run/tidemark/activated/nbd.socket").stdout, "tidemark:tidemark 660\n")
    equal(i.show("ActiveState"), "inactive")
    h = i.nbd("nbd.socket")
    h.pwrite(b"y" * 512, 1024)
    h.shutdown()
    equal(i.show("ActiveState"), "active")
    i.m.systemctl("stop", i.unit)
    equal(i.show("Result"), "success")
    # The socket is still there, and starts it again.
    h = i.nbd("nbd.socket")
    equal(bytes(h.pread(512, 1024)), b"y" * 512)
    h.shutdown()
    i.m.systemctl("stop", "tidemarkd@activated.socket", i.unit)


@test
def killed():
    "after kill -9 systemd starts the daemon again, and its bitmaps are exact"
    i = Instance("killed")
    i.qmp()("block-dirty-bitmap-add", node="disk0", name="b", persistent=True, granularity=65536)
    h = i.nbd()
    for offset in (0, 3 * M, 8 * M - 512):
        h.pwrite(b"z" * 512, offset)
    pid = i.pid()
    i.m.systemctl("kill", "--signal=KILL", i.unit)
    wait_until(lambda: i.pid() not in (0, pid) and i.show("ActiveState") == "active", "systemd to start it again")
    equal(i.show("NRestarts"), "1")
    q = i.qmp()
    bitmap = q("query-named-block-nodes")[0]["dirty-bitmaps"][0]
    equal((bitmap["name"], bitmap.get("inconsistent", False)), ("b", False))
    q("block-export-del", id="disk0", mode="hard")
    q.wait_event("BLOCK_EXPORT_DELETED")
    q("block-export-add", type="nbd", id="disk0", node_name="disk0", name="disk0", writable=True,
      bitmaps=["b"])
    equal(i.dirty("b"), [65536, 1, 3 * M - 65536, 0, 65536, 1, 5 * M - 2 * 65536, 0, 65536, 1])
    i.m.systemctl("stop", i.unit)


@test
def guest():
    "a virtual machine's disk works within the sandboxes, and lives through kill -9"
    i = Instance("guest", sandbox={"mode": "on", "files": "given"}, exports=[{
        "type": "vhost-user-blk", "id": "v", "node-name": "disk0", "writable": True,
        "addr": {"type": "unix", "path": "/run/tidemark/guest/v.sock"}}])
    path, pid = i.m.path("/run/tidemark/guest/v.sock"), i.pid()
    g = vhost.Guest()
    with vhost.Client(path, g):
        g.write(0, b"x" * 4096)
        i.m.systemctl("kill", "--signal=KILL", i.unit)
        sequence, _, status = g.request(vhost.OUT, 8, b"y" * 4096)
    wait_until(lambda: i.pid() not in (0, pid) and i.show("ActiveState") == "active", "systemd to start it again")
    with vhost.Client(path, g):
        g.wait(sequence)
        equal(g.memory[status], vhost.OK)
        equal(g.read(0, 8192), b"x" * 4096 + b"y" * 4096)
    g.close()
    i.m.systemctl("stop", i.unit)


@test
def reloaded():
    "a reload adds an export while the daemon runs; a file with a mistake changes nothing, and the journal has its line"
    i = Instance("reloaded")
    pid, path = i.pid(), "%s/etc/tidemark/reloaded.conf" % PREFIX
    with open(i.m.path(path)) as f:
        config = json.load(f)
    config["exports"].append(dict(config["exports"][0], id="second", name="second"))
    i.m.write(path, json.dumps(config, indent=1))
    i.m.systemctl("reload", i.unit)
    wait_until(lambda: i.show("StatusText") == "serving 2 exports to 0 clients", "the second export")
    i.m.write(path, "{\n]")
    i.m.systemctl("reload", i.unit)
    wait_until(lambda: re.search(r"reloaded\.conf:2: ", i.m.journal(i.unit)), "the mistake in the journal")
    wait_until(lambda: i.show("ActiveState") == "active", "the end of the reload")
    equal((i.pid(), i.show("NRestarts")), (pid, "0"))
    i.m.systemctl("stop", i.unit)


@test
def failure():
    "a start that fails does so once, and systemctl status shows the reason"
    i = Instance("failure", start=False)
    i.m.run("rm", i.disk)
    done = i.m.run("systemctl", "start", i.unit, check=False)
    equal(done.returncode, 1)
    equal((i.show("ActiveState"), i.show("NRestarts")), ("failed", "0"))
    status = i.m.systemctl("status", i.unit, check=False)
    matches(status, r"Status: \".*failure\.conf:\d+: blockdevs.*disk0\.img.*No such file or directory\"")
    equal(len(re.findall(r"disk0\.img.*No such file", i.m.journal(i.unit))), 1)


@test
def no_configuration():
    "an instance without a configuration fails, and its status says so"
    m = machine()
    equal(m.run("systemctl", "start", "tidemarkd@nosuch.service", check=False).returncode, 1)
    matches(m.systemctl("status", "tidemarkd@nosuch.service", check=False), r"nosuch\.conf.*No such file")


def refused(i):
    """Why a start failed: the one line of the daemon in the journal."""
    equal(i.m.run("systemctl", "start", i.unit, check=False).returncode, 1)
    lines = [line for line in i.m.journal(i.unit).splitlines() if "blockdevs[0]" in line]
    equal(len(lines), 1, lines)
    return lines[0]


@test
def elsewhere():
    "a disk elsewhere: one line of the journal has the drop-in, and with it the disk is served"
    m = machine()
    m.run("mkdir", "-p", "/srv/disks")
    m.run("truncate", "-s", "8M", "/srv/disks/disk0.img")
    i = Instance("elsewhere", disk="/srv/disks/disk0.img", start=False)
    matches(refused(i), r"disk0\.img.*\(tidemarkd@elsewhere\.service may not write there: "
                        r"'systemctl edit tidemarkd@elsewhere\.service', ReadWritePaths=/srv/disks; "
                        r"tidemarkd@elsewhere.service runs as user 'tidemark', who may not write to it")
    m.write("/etc/systemd/system/%s.d/override.conf" % i.unit, "[Service]\nReadWritePaths=/srv/disks\n")
    m.systemctl("daemon-reload")
    m.run("systemctl", "start", i.unit, check=False)
    matches(i.show("StatusText"), r"Permission denied \(tidemarkd@elsewhere.service runs as user 'tidemark', who")
    m.run("chown", "-R", "tidemark:", "/srv/disks")
    m.systemctl("start", i.unit)
    h = i.nbd()
    h.pwrite(b"x" * 512, 0)
    h.shutdown()
    m.systemctl("stop", i.unit)


@test
def hidden():
    "a disk that the unit hides: the reason is the setting"
    m = machine()
    m.run("sh", "-c", "mkdir -p /home/disks && truncate -s 8M /home/disks/disk0.img")
    i = Instance("hidden", disk="/home/disks/disk0.img", start=False)
    matches(refused(i), r"\(ProtectHome= of tidemarkd@hidden\.service hides it: .* BindPaths=/home/disks\)$")


@test
def files():
    "with the drop-in of docs/fuse.md a disk is a file that everybody sees, after a kill too"
    need_fuse()
    with open(os.path.join(SRCDIR, "docs", "fuse.md")) as f:
        drop_in = "\n".join(re.search(r"((?:^    .*\n)*    ProtectSystem=no)", f.read(), re.M).group(1).split("\n    "))
    path = "/var/lib/tidemark/files/disk0.raw"
    i = Instance("files", start=False)
    i.m.run("touch", path)
    i.m.run("chown", "tidemark:", path)
    export = {"type": "fuse", "id": "f", "node-name": "disk0", "mountpoint": path, "writable": True}
    i.m.write("/etc/systemd/system/%s.d/override.conf" % i.unit, drop_in.strip() + "\n")
    i.m.systemctl("daemon-reload")
    i.m.systemctl("start", i.unit)
    for _ in range(2):
        i.qmp()("block-export-add", export)
        equal(i.m.run("stat", "--format=%s %U", path).stdout, "%d tidemark\n" % (8 * M))
        i.m.run("dd", "if=/etc/passwd", "of=" + path, "conv=notrunc,fsync", "status=none")
        pid = i.pid()
        i.m.run("sh", "-c", "kill -KILL %d" % pid)
        wait_until(lambda: i.pid() not in (0, pid) and i.show("ActiveState") == "active", "systemd to start it again")
        equal(i.m.run("stat", "--format=%s", path).stdout, "0\n")
    equal(i.m.run("head", "-c", "4", i.disk).stdout, "root")
    i.m.systemctl("stop", i.unit)


@test
def watchdog():
    "a daemon that hangs is killed and started again"
    i = Instance("watchdog", start=False)
    i.m.write("/run/systemd/system/%s.d/watchdog.conf" % i.unit, "[Service]\nWatchdogSec=1\nTimeoutAbortSec=1\n")
    i.m.systemctl("daemon-reload")
    i.m.systemctl("start", i.unit)
    pid = i.pid()
    i.m.run("sh", "-c", "kill -STOP %d" % pid)
    wait_until(lambda: i.show("NRestarts") != "0" and i.show("ActiveState") == "active", "systemd to start it again")
    matches(i.m.journal(i.unit), "Watchdog timeout")
    i.m.systemctl("stop", i.unit)


@test
def security():
    "systemd-analyze security rates the unit 2.5 at most"
    m = machine()
    text = m.run("systemd-analyze", "security", "--no-pager", "tidemarkd@rated.service").stdout
    exposure = float(re.search(r"Overall exposure level for \S+: ([\d.]+)", text).group(1))
    if exposure > 2.5:
        fail(text)


@test
def units():
    "systemd takes every unit as it is"
    m = machine()
    complaints = m.run("sh", "-c", "cd %s/lib/systemd/system && systemd-analyze verify --man=no tidemarkd*.service "
                       "tidemarkd*.socket 2>&1" % PREFIX, check=False).stdout
    equal([line for line in complaints.splitlines() if "tidemark" in line], [])


main()
