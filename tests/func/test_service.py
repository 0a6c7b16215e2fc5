#!/usr/bin/python3
# SPDX-FileCopyrightText: 2026 The Tidemark authors
# SPDX-License-Identifier: GPL-2.0-or-later
"""What a service manager learns from tidemarkd, by the protocol of sd_notify(3)."""
import os
import socket

from harness import *

import nbd

MODULE = os.path.join(BUILDDIR, "tests", "plugin", "blocking.so")
OPENAT, FUTEX = "257", "202"
WATCHDOG = 0.2  # seconds within which the daemon must say that it is alive


class Manager:
    """The other end of the protocol: what arrives on a NOTIFY_SOCKET."""

    def __init__(self, tmp, watchdog=None):
        with open(TIDEMARKD, "rb") as f:
            if b"sd_notify" not in f.read():
                skip("tidemarkd was built without libsystemd")
        path = os.path.join(tmp, "notify")
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.sock.bind(path)
        self.env = {"NOTIFY_SOCKET": path}
        if watchdog:
            self.env["WATCHDOG_USEC"] = str(int(watchdog * 1e6))

    def next(self, timeout=PATIENCE):
        """The next message; None if none comes in time."""
        self.sock.settimeout(timeout)
        try:
            return self.sock.recv(4096).decode()
        except (socket.timeout, BlockingIOError):
            return None

    def until(self, wanted):
        """The messages up to one that has the line @wanted."""
        got = []
        while not got or wanted not in got[-1].split("\n"):
            message = self.next()
            if message is None:
                fail("no message %r; there were %s" % (wanted, got))
            got.append(message)
        return got

    def drop(self):
        """Forgets what has arrived."""
        while self.next(0) is not None:
            pass


@test
def ready(tmp):
    "the daemon is ready when it takes clients, shows its exports and clients, and says that it stops"
    manager = Manager(tmp)
    with Daemon(tmp, *disk(tmp, "disk0", 1 << 20), env=manager.env) as d:
        equal(manager.until("READY=1"), ["STATUS=serving 1 export to 0 clients", "READY=1"])
        h = d.nbd()
        manager.until("STATUS=serving 1 export to 1 client")
        h.shutdown()
        manager.until("STATUS=serving 1 export to 0 clients")
    manager.until("STOPPING=1")
    equal(manager.next(0), None)


@test
def failed(tmp):
    "the reason of a failed start is the status, in one line, and the daemon was never ready"
    manager = Manager(tmp)
    done = run(TIDEMARKD, "--blockdev", "driver=file,node-name=n,filename=%s/no\nsuch" % tmp, env=manager.env,
               check=False)
    equal(done.returncode, 1)
    message = manager.next()
    matches(message, r"^STATUS=--blockdev .*/no such.*No such file or directory$")
    equal(manager.next(0), None)


@test
def alive(tmp):
    "the daemon gives the signs of life that the watchdog asks for"
    manager = Manager(tmp, WATCHDOG)
    with Daemon(tmp, env=manager.env):
        for _ in range(3):
            manager.until("WATCHDOG=1")


def calls(pid):
    """The system calls in which the threads of a process are, the main one's first; by number."""
    if os.uname().machine != "x86_64":
        skip("knows the system calls of x86_64 only")
    found = []
    for tid in sorted(os.listdir("/proc/%d/task" % pid), key=int):
        try:
            with open("/proc/%d/task/%s/syscall" % (pid, tid)) as f:
                found.append(f.read().split()[0])
        except OSError:  # it has ended
            pass
    return found


@test
def hung(tmp):
    "a main loop that hangs gives none"
    fifo = os.path.join(tmp, "fifo")
    os.mkfifo(fifo)
    manager = Manager(tmp, WATCHDOG)
    with Daemon(tmp, "--module", MODULE, env=manager.env) as d:
        manager.until("WATCHDOG=1")
        d.monitor.send({"execute": "blockdev-add",
                        "arguments": {"driver": "blocking", "node-name": "n", "open": fifo}})
        wait_until(lambda: calls(d.pid)[0] == OPENAT, "the main thread to wait for the FIFO")
        manager.drop()
        equal(manager.next(5 * WATCHDOG), None)
        os.close(os.open(fifo, os.O_WRONLY))
        equal(d.monitor.reply(), {"return": {}})
        manager.until("WATCHDOG=1")


@test
def drains(tmp):
    "a main loop that waits for a slow disk's requests to end is no hung one"
    fifo = os.path.join(tmp, "fifo")
    os.mkfifo(fifo)
    manager = Manager(tmp, WATCHDOG)
    with Daemon(tmp, "--module", MODULE, "--blockdev", "driver=blocking,node-name=f,read=" + fifo,
                "--blockdev", "driver=raw,node-name=n,file=f,read-only=on",
                "--export", "type=nbd,id=e,node-name=n,name=e", env=manager.env) as d:
        h = d.nbd("e")
        d.monitor.wait_event("NBD_CLIENT_CONNECTED")
        cookie = h.aio_pread(nbd.Buffer(4096), 0)
        wait_until(lambda: OPENAT in calls(d.pid), "the request to wait for the FIFO")
        d.monitor.send({"execute": "blockdev-reopen", "arguments": {"options": [
            {"driver": "raw", "node-name": "n", "file": "f", "read-only": True}]}})
        wait_until(lambda: calls(d.pid)[0] == FUTEX, "the main thread to wait for the request")
        manager.drop()
        for _ in range(3):
            manager.until("WATCHDOG=1")
        equal(d.monitor.sock in select.select([d.monitor.sock], [], [], 0)[0], False)
        os.close(os.open(fifo, os.O_WRONLY))
        equal(d.monitor.reply(), {"return": {}})
        while not h.aio_command_completed(cookie):
            h.poll(-1)


main()
