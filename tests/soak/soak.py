#!/usr/bin/python3
# SPDX-FileCopyrightText: 2026 The Tidemark authors
# SPDX-License-Identifier: GPL-2.0-or-later
# timeout: 240
"""Many connections for a long time, with mixed load, clients that are killed and replaced, and others
that misbehave; nothing may leak, grow, or go wrong for the healthy ones.

Every connection has a part of the disk to itself and knows what is in it: it writes, zeroes, trims,
reads and compares, asks for block status, one request at a time or many. Clients are processes with
some connections each. At random one is killed; a new one takes its parts over, writes them anew, and
goes on. Strangers connect, say something wrong or nothing, and go. In the end every part is compared
with what its owner wrote last, all connections are closed, and the daemon's memory, descriptors and
sessions are those of the beginning.

SOAK_SECONDS (8), SOAK_CONNECTIONS (100), SOAK_SEED. make soak: 120 seconds, 1,000 connections."""
import json
import os
import random
import select as io_select
import shutil
import socket
import subprocess
import sys
import tempfile
import time


from harness import *
import nbd
from tls import *

SECONDS = float(os.environ.get("SOAK_SECONDS") or 8)
CONNECTIONS = int(os.environ.get("SOAK_CONNECTIONS") or 100)
SEED = int(os.environ.get("SOAK_SEED") or random.randrange(1 << 31))
PART = 128 << 10  # of the disk, for each connection
BLOCK = 4096
CLIENTS = 10


class Part:
    """A connection and what it knows of its part."""

    def __init__(self, settings, number, rng):
        self.number, self.rng, self.base = number, rng, number * PART
        self.h = nbd.NBD()
        self.h.set_export_name("disk0")
        for c in ("base:allocation", "qemu:dirty-bitmap:b0"):
            self.h.add_meta_context(c)
        if settings["keys"] and number % 4 == 0:
            self.h.set_tls(nbd.TLS_REQUIRE)
            self.h.set_tls_psk_file(settings["keys"])
            self.h.set_tls_username("soak")
        self.h.connect_unix(settings["path"])
        self.model = bytearray(rng.randbytes(PART))
        self.h.pwrite(bytes(self.model), self.base)

    def range(self):
        at = self.rng.randrange(0, PART, 512)
        return at, min(self.rng.choice((512, BLOCK, BLOCK, BLOCK, 65536, PART)), PART - at)

    def check(self, at, got):
        if got != bytes(self.model[at:at + len(got)]):
            raise AssertionError("part %d at %d: not what was written" % (self.number, at))

    def step(self):
        at, n = self.range()
        what = self.rng.randrange(20)
        if what < 6:
            data = self.rng.randbytes(n)
            self.h.pwrite(data, self.base + at, nbd.CMD_FLAG_FUA if what == 0 else 0)
            self.model[at:at + n] = data
        elif what < 12:
            self.check(at, bytes(self.h.pread(n, self.base + at)))
        elif what < 14:
            self.h.zero(n, self.base + at, nbd.CMD_FLAG_NO_HOLE if what == 12 else 0)
            self.model[at:at + n] = bytes(n)
        elif what == 14:
            self.h.trim(n, self.base + at)
            self.model[at:at + n] = bytes(n)
        elif what == 15:
            self.h.flush()
        elif what == 16:
            told = [0]

            def one(context, offset, entries, error):
                told[0] += 1
                return 0

            self.h.block_status(n, self.base + at, one)
            if told[0] != 2:
                raise AssertionError("block status told %d contexts" % told[0])
        else:
            self.many()

    def many(self):
        """Writes of all blocks, then reads of all of them, each without waiting."""
        data = self.rng.randbytes(PART)
        self.settle([self.h.aio_pwrite(nbd.Buffer.from_bytearray(bytearray(data[i:i + BLOCK])),
                                       self.base + i) for i in range(0, PART, BLOCK)])
        self.model[:] = data
        buffers = [nbd.Buffer(BLOCK) for _ in range(0, PART, BLOCK)]
        self.settle([self.h.aio_pread(buffer, self.base + i * BLOCK)
                     for i, buffer in enumerate(buffers)])
        self.check(0, b"".join(bytes(b.to_bytearray()) for b in buffers))

    def settle(self, cookies):
        """Waits for all of them; raises the error of one that failed."""
        for cookie in cookies:
            while not self.h.aio_command_completed(cookie):
                self.h.poll(-1)


def client(settings):
    """A process with the connections settings["parts"], until its standard input ends."""
    rng = random.Random(settings["seed"])
    parts = [Part(settings, n, rng) for n in settings["parts"]]
    print("ready", flush=True)
    while not io_select.select([sys.stdin], [], [], 0)[0]:
        for _ in range(20):
            rng.choice(parts).step()
    for part in parts:
        part.check(0, bytes(part.h.pread(PART, part.base)))
        part.h.shutdown()
    print("done", flush=True)


class Client:
    def __init__(self, settings, parts, seed):
        self.parts = parts
        text = json.dumps(dict(settings, parts=parts, seed=seed))
        self.process = subprocess.Popen([sys.executable, os.path.abspath(__file__), "--client", text],
                                        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                        stderr=subprocess.PIPE, text=True)

    def expect(self, word):
        line = self.process.stdout.readline().strip()
        if line != word:
            fail("a client: %r\n%s" % (line, self.process.stderr.read()))

    def kill(self):
        self.process.kill()
        self.process.communicate()

    def end(self):
        self.process.stdin.close()
        self.expect("done")
        equal(self.process.wait(PATIENCE), 0)
        for stream in (self.process.stdout, self.process.stderr):
            stream.close()


def stranger(path, rng):
    """Somebody who has no business here."""
    with socket.socket(socket.AF_UNIX) as s:
        s.settimeout(5)
        s.connect(path)
        what = rng.randrange(6)
        if what == 0:
            s.sendall(rng.randbytes(rng.randrange(5000)))
        elif what == 1:
            s.recv(18)
            s.sendall(b"\0\0\0\3" + b"IHAVEOPT" + rng.randbytes(rng.randrange(200)))
        elif what == 2:
            s.recv(18)
            s.sendall(b"\0\0\0\3IHAVEOPT\0\0\0\5\0\0\0\0" + rng.randbytes(300))
        elif what == 3:
            s.shutdown(socket.SHUT_WR)
        elif what == 4:
            s.recv(18)
            s.sendall(b"\0\0\0\1IHAVEOPT\0\0\0\1\0\0\0\5disk0")  # EXPORT_NAME, then reads that are not taken
            s.sendall(b"".join(b"\x25\x60\x95\x13\0\0\0\0" + bytes(8) + bytes(8) + b"\0\1\0\0"
                               for _ in range(rng.randrange(40))))


def memory(d):
    """Anonymous memory in KiB: what the daemon itself takes."""
    with open("/proc/%d/smaps_rollup" % d.pid) as f:
        return next(int(line.split()[1]) for line in f if line.startswith("Anonymous:"))


def descriptors(d):
    return len(os.listdir("/proc/%d/fd" % d.pid))


def settled(d):
    return wait_until(lambda: d.qmp("query-nbd-servers")[0]["connections"] == 0, "the end of all sessions")


def soak(d, settings, rng, seconds):
    """All clients for so many seconds; how many were replaced."""
    size = CONNECTIONS // CLIENTS
    clients = [Client(settings, list(range(i * size, (i + 1) * size)), rng.randrange(1 << 31))
               for i in range(CLIENTS)]
    try:
        return load(d, settings, rng, seconds, clients)
    finally:
        for c in clients:
            c.process.kill()
            c.process.wait()


def check_alive(clients):
    for c in clients:
        if c.process.poll() is not None:
            fail("a client failed:\n%s" % c.process.stderr.read())


def load(d, settings, rng, seconds, clients):
    for c in clients:
        c.expect("ready")
    check_alive(clients)
    equal(d.qmp("query-nbd-servers")[0]["connections"], sum(len(c.parts) for c in clients))
    end, replaced = time.monotonic() + seconds, 0
    while time.monotonic() < end:
        for _ in range(10):
            try:
                stranger(settings["path"], rng)
            except OSError:
                pass
        i = rng.randrange(CLIENTS)
        check_alive(clients)
        clients[i].kill()
        clients[i] = Client(settings, clients[i].parts, rng.randrange(1 << 31))
        clients[i].expect("ready")
        replaced += 1
        time.sleep(0.3)
    for c in clients:
        c.end()
    settled(d)
    return replaced


@test
def run_soak(tmp):
    "many connections, some killed and replaced, strangers between them: nothing leaks, grows or goes wrong"
    rng = random.Random(SEED)
    keys, path = None, None
    directory, keys = psk(os.path.join(tmp, "psk"), "soak")
    disk_dir = tempfile.mkdtemp(prefix="soak", dir="/dev/shm" if os.path.isdir("/dev/shm") else tmp)
    try:
        with tls_server(tmp, "tls-creds-psk,id=t0,endpoint=server,dir=%s" % directory,
                        more="tls-creds=t0,tls-required=off", size=PART * CONNECTIONS,
                        path=os.path.join(disk_dir, "disk"), discard="unmap") as d:
            d.qmp("block-dirty-bitmap-add", node="disk0", name="b0")
            d.qmp("block-export-dirty-bitmap", id="exp-disk0", bitmaps=["b0"])
            settings = {"path": d.nbd_path, "keys": keys}
            warm = min(SECONDS / 4, 20)
            soak(d, settings, rng, warm)
            before = memory(d), descriptors(d)
            replaced = soak(d, settings, rng, SECONDS - warm)
            after = memory(d), descriptors(d)
            print("# seed %d: %d connections, %d clients replaced; memory %d KiB, then %d KiB" % (
                SEED, CONNECTIONS, replaced, before[0], after[0]), flush=True)
            equal(after[1], before[1], "descriptors (seed %d)" % SEED)
            if after[0] > before[0] + 4096 + before[0] // 4:
                fail("memory grew from %d to %d KiB (seed %d)" % (before[0], after[0], SEED))
            equal(d.qmp("query-nbd-sessions"), [])
    finally:
        shutil.rmtree(disk_dir, ignore_errors=True)


if len(sys.argv) > 1 and sys.argv[1] == "--client":
    client(json.loads(sys.argv[2]))
else:
    main()
