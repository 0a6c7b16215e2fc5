# SPDX-FileCopyrightText: 2026 The Tidemark authors
# SPDX-License-Identifier: GPL-2.0-or-later
"""The NBD servers that are compared: how each is started on an image, steered, measured and ended.

A server serves the export "disk" on a unix socket in a directory of its own. Every process started
here is recorded and killed by stop_all(), whatever happens to the run."""
import atexit
import json
import os
import shutil
import signal
import socket
import struct
import subprocess
import time

TICK = os.sysconf("SC_CLK_TCK")
PATIENCE = 20  # seconds that a server may take to greet
running = []


class Unavailable(Exception):
    """This server can't be had here, and why."""


class Qmp:
    """A QMP monitor's client, as small as it can be."""

    def __init__(self, path):
        self.sock = socket.socket(socket.AF_UNIX)
        wait_until(lambda: try_connect(self.sock, path), "no monitor at " + path)
        self.file = self.sock.makefile("rw")
        self.file.readline()
        self.run("qmp_capabilities")

    def run(self, command, **arguments):
        print(json.dumps({"execute": command, "arguments": arguments}), file=self.file, flush=True)
        while True:
            answer = json.loads(self.file.readline() or "{}")
            if "return" in answer:
                return answer["return"]
            if "event" not in answer:
                raise RuntimeError("%s: %s" % (command, answer.get("error", "monitor is gone")))


def try_connect(sock, path):
    try:
        sock.connect(path)
    except OSError:
        return False
    return True


def wait_until(condition, message):
    end = time.monotonic() + PATIENCE
    while not condition():
        if time.monotonic() > end:
            raise RuntimeError(message)
        time.sleep(0.001)


def connect(path):
    """A socket on which the server has greeted."""
    sock = socket.socket(socket.AF_UNIX)
    sock.settimeout(PATIENCE)
    wait_until(lambda: try_connect(sock, path), "no server at " + path)
    receive(sock, 18)
    return sock


def receive(sock, length):
    data = b""
    while len(data) < length:
        got = sock.recv(length - len(data))
        if not got:
            raise RuntimeError("the server hung up")
        data += got
    return data


def negotiate(path, export=b"disk"):
    """A connection in the transmission phase (fixed newstyle, NBD_OPT_GO)."""
    sock = connect(path)
    body = struct.pack(">I", len(export)) + export + struct.pack(">H", 0)
    sock.sendall(struct.pack(">IQII", 3, 0x49484156454F5054, 7, len(body)) + body)
    while True:
        _, _, kind, length = struct.unpack(">QIII", receive(sock, 20))
        receive(sock, length)
        if kind == 1:  # NBD_REP_ACK
            return sock
        if kind & 0x80000000:
            raise RuntimeError("%s: export refused (%#x)" % (path, kind))


class Server:
    """One running server. Subclasses say the command line; `steered` ones have a monitor."""

    name = program = None
    steered = False

    def __init__(self, programs, directory):
        self.binary = programs.get(self.name) or shutil.which(self.program or self.name)
        if not self.binary or not os.access(self.binary, os.X_OK):
            raise Unavailable("%s is not here" % (self.binary or self.program or self.name))
        self.dir = directory
        self.sock = os.path.join(directory, "nbd.sock")
        self.vhost = os.path.join(directory, "vhost.sock")
        self.process = self.qmp = None
        self.tls = None  # the directory of keys.psk, or of certificates, and which
        self.file = None  # a path under which clients use the disk instead of NBD

    def start(self, node, bitmaps=0, tls=None, **settings):
        """Serves @node, as blockdev-add would be given it; with @tls, ("psk" or "x509", directory), to
        clients that speak it."""
        self.tls = tls
        shutil.rmtree(self.dir, ignore_errors=True)
        os.makedirs(self.dir)
        command = self.command(node, **settings)
        began = time.perf_counter()
        with open(os.path.join(self.dir, "log"), "w") as log:
            self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log,
                                            stderr=log, start_new_session=True)
        running.append(self)
        self.await_greeting()
        self.startup = time.perf_counter() - began
        if bitmaps:
            self.add_bitmaps(bitmaps)
        return self

    @property
    def pid(self):
        return self.process.pid

    def await_greeting(self):
        end = time.monotonic() + PATIENCE
        while True:
            try:
                with socket.socket(socket.AF_UNIX) as sock:
                    sock.connect(self.sock)
                    sock.settimeout(PATIENCE)
                    if sock.recv(1):
                        return
            except OSError:
                pass
            if self.process.poll() or time.monotonic() > end:
                with open(os.path.join(self.dir, "log")) as log:
                    why = log.read().strip().splitlines()
                self.stop()
                raise Unavailable("%s does not start: %s" % (self.name, why[-1] if why else "?"))
            time.sleep(0.0002)

    def stop(self):
        if self in running:
            running.remove(self)
        if self.process:
            for number in (signal.SIGTERM, signal.SIGKILL):
                try:
                    os.killpg(self.process.pid, number)
                except OSError:
                    pass
                try:
                    self.process.wait(3)
                    break
                except subprocess.TimeoutExpired:
                    pass
            self.process = None
        shutil.rmtree(self.dir, ignore_errors=True)

    @property
    def uri(self):
        if not self.tls:
            return "nbd+unix:///disk?socket=" + self.sock
        kind, directory = self.tls
        if kind == "psk":
            return "nbds+unix://bench@/disk?socket=%s&tls-psk-file=%s" % (
                self.sock, os.path.join(directory, "keys.psk"))
        return "nbds+unix:///disk?socket=%s&tls-certificates=%s&tls-hostname=localhost" % (
            self.sock, directory)

    def processes(self):
        """The server's process and all below it: nbd-server forks for each connection."""
        found = [self.pid]
        for pid in found:
            try:
                with open("/proc/%d/task/%d/children" % (pid, pid)) as children:
                    found += map(int, children.read().split())
            except OSError:
                pass
        return found

    def cpu(self):
        """Seconds of CPU used so far, ended children's included."""
        total = 0
        for pid in self.processes():
            try:
                with open("/proc/%d/stat" % pid) as stat:
                    total += sum(map(int, stat.read().rpartition(")")[2].split()[11:15]))
            except OSError:
                pass
        return total / TICK

    def read_bytes(self):
        """That its process has read from files so far."""
        with open("/proc/%d/io" % self.pid) as counts:
            return int(counts.readline().split()[1])

    def memory(self):
        """Bytes of memory: proportional set size, all processes."""
        total = 0
        for pid in self.processes():
            try:
                with open("/proc/%d/smaps_rollup" % pid) as rollup:
                    total += sum(int(line.split()[1]) for line in rollup
                                 if line.startswith("Pss:"))
            except OSError:  # a child that has just ended
                pass
        return total * 1024


def keyval(node, **more):
    return ",".join("%s=%s" % pair for pair in dict(node, **more).items())


class Qsd(Server):
    """qemu-storage-daemon as it comes."""

    name, program, steered = "qsd", "qemu-storage-daemon", True
    file_options = {}

    def command(self, node, connections=None, queues=0):
        """@queues: also as those of a virtual machine."""
        # As it comes it takes 100 connections.
        limit = {"max-connections": connections} if connections else {}
        secrets = []
        if self.tls:
            limit["tls-creds"] = "t0"
            secrets = ["--object", "tls-creds-%s,id=t0,endpoint=server,dir=%s" % self.tls]
        if node["driver"] == "file":  # all servers have the same image open
            node = dict(node, locking="off", **self.file_options)
        vhost = ["--export", "type=vhost-user-blk,id=exp1,node-name=disk,writable=on,num-queues=%d,"
                 "addr.type=unix,addr.path=%s" % (queues, self.vhost)]
        return [self.binary, *secrets,
                "--chardev", "socket,id=c0,path=%s/qmp.sock,server=on,wait=off" % self.dir,
                "--monitor", "chardev=c0",
                "--blockdev", keyval(node, **{"node-name": "disk"}), *(vhost if queues else []),
                "--nbd-server", keyval({"addr.type": "unix", "addr.path": self.sock}, **limit),
                "--export", "type=nbd,id=exp0,node-name=disk,name=disk,writable=on"]

    def monitor(self):
        if not self.qmp:
            self.qmp = Qmp(os.path.join(self.dir, "qmp.sock"))
        return self.qmp

    def transaction(self, action, count, **arguments):
        """One action on each of the bitmaps b0, b1..."""
        self.monitor().run("transaction", actions=[
            {"type": action, "data": dict(arguments, node="disk", name="b%d" % i)}
            for i in range(count)])

    def add_bitmaps(self, count, **arguments):
        self.transaction("block-dirty-bitmap-add", count, **arguments)

    def remove_export(self):
        self.monitor().run("block-export-del", id="exp0", mode="hard")
        deadline = time.monotonic() + PATIENCE
        while self.monitor().run("query-block-exports") and time.monotonic() < deadline:
            time.sleep(0.001)

    def export_bitmap(self, name):
        """Deletes the export and adds it again, with the bitmap readable."""
        self.remove_export()
        self.monitor().run("block-export-add", type="nbd", id="exp0", name="disk", writable=True,
                           bitmaps=[name], **{"node-name": "disk"})


    def mount(self):
        """Exports the disk as a file instead. (QSD's can't be written to beside an NBD export.)"""
        self.remove_export()
        path = os.path.join(self.dir, "file")
        with open(path, "w"):
            pass
        try:
            self.monitor().run("block-export-add", type="fuse", id="fuse0", mountpoint=path, writable=True,
                               **{"node-name": "disk"})
        except RuntimeError as why:
            raise Unavailable("%s: %s" % (self.name, why))
        self.file = path


class Tidemark(Qsd):
    """tidemarkd: the same command line, the same QMP."""

    name = program = "tidemarkd"


class QsdUring(Qsd):
    """QSD at its best: io_uring in place of its thread pool."""

    name = "qsd-uring"
    file_options = {"aio": "io_uring"}


class Qsd10(Qsd):
    """A newer one, from `make trixie`."""

    name = "qsd-10"


class QemuNbd(Server):
    name = "qemu-nbd"

    def command(self, node):
        return [self.binary, "-k", self.sock, "-x", "disk", "--persistent", "--shared=0",
                "--image-opts", "driver=raw,file." + keyval(
                    {"driver": "file", "file.filename": node["filename"], "file.locking": "off"})]


class Nbdkit(Server):
    name = "nbdkit"

    def command(self, node):
        secrets = []
        if self.tls:
            kind, directory = self.tls
            secrets = (["--tls=require", "--tls-psk=" + os.path.join(directory, "keys.psk")]
                       if kind == "psk" else
                       ["--tls=require", "--tls-certificates=" + directory, "--tls-verify-peer"])
        return [self.binary, "-f", *secrets, "-U", self.sock, "file", node["filename"]]


class NbdServer(Server):
    name = "nbd-server"

    def command(self, node):
        with socket.socket() as probe:  # it insists on a TCP port too
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        path = os.path.join(self.dir, "config")
        with open(path, "w") as config:
            config.write("[generic]\nunixsock = %s\nlistenaddr = 127.0.0.1\nport = %d\n"
                         "[disk]\nexportname = %s\n" % (self.sock, port, node["filename"]))
        return [self.binary, "-C", path, "-p", os.path.join(self.dir, "pid")]

    @property
    def pid(self):
        """Debian's goes to the background, come what may."""
        path = os.path.join(self.dir, "pid")
        wait_until(lambda: os.path.exists(path) and os.path.getsize(path), "no " + path)
        with open(path) as file:
            return int(file.read())

    def stop(self):
        if self.process:
            try:
                os.kill(self.pid, signal.SIGTERM)
            except (OSError, RuntimeError):
                pass
        super().stop()


class Floor(Server):
    """The least that a server can do, from --floor: it takes SOCKET FILE MODE."""

    name = "floor"

    def command(self, node):
        return [self.binary, self.sock, node["filename"], "batch"]


ALL = (Tidemark, Qsd, QsdUring, Qsd10, QemuNbd, Nbdkit, NbdServer, Floor)


def stop_all():
    for server in list(running):
        server.stop()


atexit.register(stop_all)
