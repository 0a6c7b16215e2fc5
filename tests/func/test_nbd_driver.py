#!/usr/bin/python3
# SPDX-FileCopyrightText: 2026 The Tidemark authors
# SPDX-License-Identifier: GPL-2.0-or-later
"""The driver nbd: other servers' exports as disks, below trackers; what becomes of requests when a server goes."""
import random
import struct

from harness import *

KIB, MIB = 1 << 10, 1 << 20
QSD = shutil.which("qemu-storage-daemon")


class Kit:
    """An nbdkit on a socket in @tmp; can be killed and started again."""

    def __init__(self, tmp, *args, name="kit", options=()):
        self.path = os.path.join(tmp, name + ".sock")
        self.pid = os.path.join(tmp, name + ".pid")
        self.log = os.path.join(tmp, name + ".log")
        self.command = ["nbdkit", "-f", "-U", self.path, "-P", self.pid, *options, *args]
        self.process = None
        self.start()

    def start(self):
        for path in (self.path, self.pid):
            if os.path.exists(path):
                os.unlink(path)
        with open(self.log, "ab") as log:
            self.process = subprocess.Popen(self.command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        wait_until(lambda: os.path.exists(self.pid) or self.process.poll() is not None, "nbdkit to start")
        if self.process.poll() is not None:
            with open(self.log) as log:
                skip("nbdkit: " + log.read().strip().replace("\n", "; "))

    def kill(self):
        self.process.kill()
        self.process.wait()

    def signal(self, number):
        self.process.send_signal(number)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.kill()


def unix(path):
    return {"type": "unix", "path": path}


def node(path, name="n", **options):
    return {"driver": "nbd", "node-name": name, "server": unix(path),
            **{k.replace("_", "-"): v for k, v in options.items()}}


def args(*nodes, export=None, writable="on", bitmaps=()):
    """Of a daemon with @nodes, the last one exported."""
    found = [a for n in nodes for a in ("--blockdev", json.dumps(n))]
    export = export or nodes[-1]["node-name"]
    return found + ["--export", "type=nbd,id=e,node-name=%s,name=%s,writable=%s%s" % (
        export, export, writable, "".join(",bitmaps.%d=%s" % b for b in enumerate(bitmaps)))]


def check_model(h, size, seed, rounds=150, align=1, flags=True):
    """Random requests against a model in memory; the disk reads as zeroes before."""
    import nbd
    rng = random.Random(seed)
    model = bytearray(size)
    for _ in range(rounds):
        offset = rng.randrange(size // align) * align
        length = min(size - offset, rng.randrange(1, 70000 // align + 1) * align)
        op = rng.randrange(5)
        if op <= 1:
            data = rng.randbytes(length)
            h.pwrite(data, offset, nbd.CMD_FLAG_FUA if flags and op else 0)
            model[offset:offset + length] = data
        elif op == 2:
            h.zero(length, offset, nbd.CMD_FLAG_NO_HOLE if rng.randrange(2) else 0)
            model[offset:offset + length] = bytes(length)
        elif op == 3:
            h.trim(length, offset)
            model[offset:offset + length] = h.pread(length, offset)
        else:
            equal(h.pread(length, offset) == model[offset:offset + length], True, "%d+%d" % (offset, length))
    h.flush()
    equal(h.pread(size, 0) == model, True, "the whole disk")
    return bytes(model)


def walked(h):
    """base:allocation, what reads as zeroes as (offset, length)."""
    return [(o, n) for o, n, flags in extents(h, "base:allocation") if flags & 2]


@test(needs=["nbdkit"])
def all_requests(tmp):
    "reads, writes, zeroes, discards and flushes arrive at nbdkit, and are read back"
    for name, filters in (("plain", []), ("few", ["--filter=nozero", "--filter=fua", "fuamode=discard"])):
        with Kit(tmp, *[f for f in filters if f.startswith("--")], "memory", "2M",
                 *[f for f in filters if not f.startswith("--")], name=name) as kit:
            with Daemon(tmp, *args(node(kit.path, discard="unmap")), name="d" + name) as d:
                h = d.nbd("n")
                data = check_model(h, 2 * MIB, name)
                h.shutdown()
            with Daemon(tmp, *args(node(kit.path)), name="e" + name) as d:
                equal(d.nbd("n").pread(2 * MIB, 0) == data, True, "after opening it anew")


@test(needs=["nbdkit"])
def blocks(tmp):
    "a server with a minimum and a maximum block size gets whole blocks, and no more at a time"
    with Kit(tmp, "--filter=blocksize-policy", "memory", "1M", "blocksize-error-policy=error",
             "blocksize-minimum=4096", "blocksize-preferred=8192", "blocksize-maximum=16384") as kit:
        with Daemon(tmp, *args(node(kit.path, discard="unmap"),
                               {"driver": "raw", "node-name": "r", "file": "n", "discard": "unmap"})) as d:
            h = d.nbd("r")
            check_model(h, MIB, "blocks", rounds=100)
            h.shutdown()
    with Kit(tmp, "--filter=blocksize-policy", "memory", "10000", "blocksize-minimum=4096",
             "blocksize-preferred=8192", "blocksize-maximum=16384", name="odd") as kit:
        with Daemon(tmp) as d:
            raises(QMPError, d.qmp, "blockdev-add", node(kit.path), match="not multiple of minimum block size")


@test(needs=["nbdkit"])
def status(tmp):
    "block status is the server's, however it is asked, and is as of now"
    with Kit(tmp, "memory", "1G") as kit:
        with Daemon(tmp, *args(node(kit.path, discard="unmap"),
                               {"driver": "raw", "node-name": "r", "file": "n", "offset": 65536,
                                "discard": "unmap"})) as d:
            h = d.nbd("r", contexts=["base:allocation"])
            for i in range(200):
                h.pwrite(b"x" * 32768, i * MIB)
            direct = run("nbdinfo", "--json", "--map", "nbd+unix://?socket=" + kit.path).stdout
            there = [(e["offset"], e["length"]) for e in json.loads(direct) if e["type"] & 2]
            end = MIB * 1024
            expected = [(max(o, 65536) - 65536, min(o + n, end) - max(o, 65536)) for o, n in there if o + n > 65536]
            equal(len(expected) >= 200, True)
            equal(walked(h), expected)
            text = tidemark("map", "--json", d.uri("r")).stdout
            matches(text, "hole,zero|zero")
            h.pwrite(b"y" * MIB, 10 * MIB)
            equal([w for w in walked(h) if 10 * MIB <= w[0] < 11 * MIB], [])
            h.trim(MIB, 10 * MIB)
            equal([w for w in walked(h) if w[0] < 11 * MIB and sum(w) > 10 * MIB] != [], True)


@test(needs=["nbdkit", "qemu-nbd"])
def read_only(tmp):
    "a read-only export is refused for writing, unless auto-read-only=on"
    with Kit(tmp, "-r", "memory", "1M") as kit, Daemon(tmp) as d:
        raises(QMPError, d.qmp, "blockdev-add", node(kit.path), match="NBD export is read-only")
        d.qmp("blockdev-add", node(kit.path, auto_read_only=True))
        d.qmp("blockdev-add", node(kit.path, "m", read_only=True))
        equal([n["ro"] for n in d.qmp("query-named-block-nodes")], [True, True])
        raises(QMPError, d.qmp, "block-export-add", type="nbd", id="e", node_name="n", writable=True,
               match="read-only")


@test(needs=["nbdkit"])
def options(tmp):
    "wrong options and servers are refused, naming what is wrong"
    with Kit(tmp, "memory", "1M") as kit, Daemon(tmp) as d:
        def refused(match, **options):
            raises(QMPError, d.qmp, "blockdev-add", {"driver": "nbd", "node-name": "n", **options}, match=match)

        refused("Parameter 'server' is missing")
        refused("Parameter 'server.path' is missing|Parameter 'path' is missing", server={"type": "unix"})
        refused("does not accept value 'fd'", server={"type": "fd", "str": "3"})
        refused("unexpected", server={"type": "unix", "path": "x", "port": "1"})
        refused("too long", server=unix("x" * 200))
        refused("'server.port' is '70000'", server={"type": "inet", "host": "localhost", "port": "70000"})
        refused("IPv4 and IPv6", server={"type": "inet", "host": "localhost", "port": "1", "ipv4": False,
                                         "ipv6": False})
        refused("Failed to connect to '/nonexistent': No such file", server=unix("/nonexistent"))
        refused("Failed to connect to '127.0.0.1:1': Connection refused",
                server={"type": "inet", "host": "127.0.0.1", "port": "1"})
        refused("requested x-dirty-bitmap qemu:dirty-bitmap:b not found", server=unix(kit.path),
                **{"x-dirty-bitmap": "qemu:dirty-bitmap:b"})
        refused("export name too long", server=unix(kit.path), export="x" * 5000)
        with Daemon(tmp, *disk(tmp, "disk0", MIB), name="other") as other:
            refused("Requested export not available", server=unix(other.nbd_path), export="nosuch")
            d.qmp("blockdev-add", node(other.nbd_path, export="disk0"))
        equal([n["file"] for n in d.qmp("query-named-block-nodes")],
              ["nbd+unix:///disk0?socket=" + other.nbd_path])


@test(needs=["nbdkit"])
def tcp(tmp):
    "a server on TCP, by name and by family, and how such a node is called"
    with Daemon(tmp, *disk(tmp, "disk0", MIB)[:2], name="s") as server:
        server.qmp("nbd-server-stop")
        server.qmp("nbd-server-start", addr={"type": "inet", "data": {"host": "127.0.0.1", "port": "0"}})
        server.qmp("block-export-add", type="nbd", id="e", node_name="disk0", name="disk0")
        port = server.qmp("query-nbd-servers")[0]["addresses"][0]["port"]
        address = {"type": "inet", "host": "127.0.0.1", "port": port}
        with Daemon(tmp) as d:
            for name, more in (("a", {}), ("b", {"ipv4": True})):
                d.qmp("blockdev-add", {"driver": "nbd", "node-name": name, "server": dict(address, **more),
                                       "export": "disk0", "read-only": True})
            files = {n["node-name"]: n["file"] for n in d.qmp("query-named-block-nodes")}
            equal(files["a"], "nbd://127.0.0.1:%s/disk0" % port)
            raises(QMPError, d.qmp, "blockdev-add", {
                "driver": "nbd", "node-name": "c", "server": dict(address, ipv6=True, ipv4=False),
                "export": "disk0"}, match="resol")


@test(needs=["nbdkit"])
def below_a_tracker(tmp):
    "an NBD server's disk has persistent bitmaps, and is exported again with them"
    with Kit(tmp, "memory", "4M") as kit:
        stack = [node(kit.path), {"driver": "raw", "node-name": "r", "file": "n",
                                  "bitmap-store": os.path.join(tmp, "store")}]
        with Daemon(tmp, *args(*stack)) as d:
            d.qmp("block-dirty-bitmap-add", node="r", name="b", persistent=True)
            h = d.nbd("r")
            h.pwrite(b"x" * MIB, MIB)
            h.flush()
            h.shutdown()
        with Daemon(tmp, *args(*stack, bitmaps=["b"])) as d:
            h = d.nbd("r", contexts=["base:allocation", "qemu:dirty-bitmap:b", "x-tidemark:backup:b"])
            got = dirty(h, "b")
            equal(got[0][0] <= MIB and sum(got[0]) >= 2 * MIB, True, got)
            d.monitor  # the daemon lives
            equal(d.bitmap("r", "b")["persistent"], True)


if __name__ == "__main__":
    main()
