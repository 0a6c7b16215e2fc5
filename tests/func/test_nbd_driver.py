#!/usr/bin/python3
# SPDX-FileCopyrightText: 2026 The Tidemark authors
# SPDX-License-Identifier: GPL-2.0-or-later
"""The driver nbd: other servers' exports as disks, below trackers; what becomes of requests when a server goes."""
import random
import struct

import tls
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


@test
def addresses(tmp):
    "abstract sockets, padded or not, TCP by numbers and names, with and without probes"
    name = "tm-%d-peer" % os.getpid()
    at = lambda **more: {"type": "unix", "data": dict(path=name, abstract=True, **more)}
    with Daemon(tmp, *disk(tmp, "disk0", MIB), name="peer") as peer, Daemon(tmp) as d:
        peer.qmp("nbd-server-start", id="a", addr=at())
        peer.qmp("nbd-server-start", id="b", addr=at(tight=False))
        peer.qmp("nbd-server-start", id="t", addr={"type": "inet", "data": {"host": "127.0.0.1", "port": "0"}})
        port = [s for s in peer.qmp("query-nbd-servers") if s["id"] == "t"][0]["addresses"][0]["port"]
        for i, server in enumerate((
                {"type": "unix", "path": name, "abstract": True},
                {"type": "unix", "path": name, "abstract": True, "tight": False},
                {"type": "inet", "host": "127.0.0.1", "port": port, "numeric": True},
                {"type": "inet", "host": "localhost", "port": port, "ipv4": True, "keep-alive": False})):
            d.qmp("blockdev-add", {"driver": "nbd", "node-name": "n%d" % i, "server": server, "export": "disk0"})
            d.qmp("block-export-add", type="nbd", id="e%d" % i, node_name="n%d" % i, writable=True)
            h = d.nbd("n%d" % i)
            h.pwrite(b"%d" % i * 512, 512 * i)
            equal(bytes(h.pread(512, 512 * i)), b"%d" % i * 512)
            h.shutdown()


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
        refused("'server.numeric' is unexpected|'numeric' is unexpected", server=dict(unix("x"), numeric=True))
        refused("resolution failed for localhost:1:", server={"type": "inet", "host": "localhost", "port": "1",
                                                              "numeric": True})
        refused("Failed to connect to 'tm-absent': Connection refused",
                server={"type": "unix", "path": "tm-absent", "abstract": True})
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


@test(needs=["nbdkit"])
def reopened(tmp):
    "blockdev-reopen of a node keeps it usable under its export, and its bitmaps' marks"
    with Kit(tmp, "memory", "1M") as kit:
        with Daemon(tmp, *args(node(kit.path), {"driver": "raw", "node-name": "r", "file": "n"})) as d:
            d.qmp("block-dirty-bitmap-add", node="r", name="b")
            h = d.nbd("r", contexts=["base:allocation"])
            h.pwrite(b"x" * 4096, 0)
            d.qmp("blockdev-reopen", options=[node(kit.path, reconnect_delay=5, discard="unmap")])
            equal(h.pread(4096, 0), b"x" * 4096)
            h.pwrite(b"y" * 4096, 65536)
            h.trim(4096, 0)
            h.flush()
            equal(d.bitmap("r", "b")["count"], 131072)
            extents(h, "base:allocation")


# ---- TLS


def client_creds(d, kind, directory, name="c", **more):
    d.qmp("object-add", {"qom-type": "tls-creds-" + kind, "id": name, "endpoint": "client", "dir": directory,
                         **{k.replace("_", "-"): v for k, v in more.items()}})


@test(needs=["certtool"])
def tls_x509(tmp):
    "certificates: the server's is verified by the host's name; what can't be verified is refused"
    ca, other = (tls.Authority(os.path.join(tmp, n)) for n in ("ca", "other"))
    server = ca.issue(os.path.join(tmp, "server"), "server")
    client = ca.issue(os.path.join(tmp, "client"), "client")
    stranger = other.issue(os.path.join(tmp, "stranger"), "client")
    with tls.tls_server(tmp, tls.x509(server), more="tls-creds=t0,tls-required=on") as s, \
            Daemon(tmp, name="e") as d:
        run_on_tcp(s)
        port = s.port
        inet = lambda host, name="n", **more: {"driver": "nbd", "node-name": name, "export": "disk0", "server": {
            "type": "inet", "host": host, "port": port}, **{k.replace("_", "-"): v for k, v in more.items()}}
        refused = lambda match, n: raises(QMPError, d.qmp, "blockdev-add", n, match=match)
        client_creds(d, "x509", client)
        client_creds(d, "x509", stranger, "stranger")
        client_creds(d, "x509", client, "blind", verify_peer=False)
        d.qmp("object-add", {"qom-type": "tls-creds-x509", "id": "s", "endpoint": "server", "dir": server})
        refused("Failed to negotiate", inet("127.0.0.1"))
        refused("nosuch", inet("127.0.0.1", tls_creds="nosuch"))
        refused("client endpoint", inet("127.0.0.1", tls_creds="s"))
        refused("Failed to negotiate", inet("127.0.0.1", tls_creds="stranger"))
        refused("Failed to negotiate|tls-hostname", inet("127.0.0.1", tls_creds="c", tls_hostname="example.org"))
        d.qmp("blockdev-add", inet("localhost", tls_creds="c", read_only=True))
        d.qmp("blockdev-add", inet("localhost", "m", tls_creds="blind", read_only=True))
        raises(QMPError, d.qmp, "object-del", id="c", match="in use")
        d.qmp("block-export-add", type="nbd", id="e", node_name="n")
        equal(d.nbd("n").pread(512, 0), bytes(512))


def run_on_tcp(s):
    s.qmp("nbd-server-stop")
    s.qmp("nbd-server-start", {"addr": {"type": "inet", "data": {"host": "localhost", "port": "0"}},
                               "tls-creds": "t0", "tls-required": True})
    s.qmp("block-export-add", type="nbd", id="again", node_name="disk0", name="disk0", writable=True)
    s.port = s.qmp("query-nbd-servers")[0]["addresses"][0]["port"]


@test
def tls_psk(tmp):
    "pre-shared keys: the right one connects, by unix sockets too, and again after the server's end; a wrong one not"
    import nbd
    directory, _ = tls.psk(os.path.join(tmp, "keys"), "qemu", "alice")
    wrong, _ = tls.psk(os.path.join(tmp, "wrong"), "alice")
    creds = "tls-creds-psk,id=t0,endpoint=server,dir=" + directory
    with tls.tls_server(tmp, creds) as s, Daemon(tmp, name="e") as d:
        client_creds(d, "psk", directory)
        client_creds(d, "psk", directory, "alice", username="alice")
        client_creds(d, "psk", wrong, "wrong", username="alice")
        options = {"export": "disk0", "read_only": True}
        raises(QMPError, d.qmp, "blockdev-add", node(s.nbd_path, tls_creds="wrong", **options),
               match="Failed to negotiate")
        d.qmp("blockdev-add", node(s.nbd_path, "a", tls_creds="alice", **options))
        d.qmp("blockdev-add", node(s.nbd_path, tls_creds="c", reconnect_delay=20, **options))
        d.qmp("block-export-add", type="nbd", id="e", node_name="n")
        h = d.nbd("n")
        equal(h.pread(512, 0), bytes(512))
        s.stop()
        with tls.tls_server(tmp, creds):
            equal(h.pread(512, 0), bytes(512))


# ---- servers that go, hang and lie


def reads_again(h, length=512, offset=0):
    """Waits for the server to be found again."""
    import nbd

    def reads():
        try:
            return h.pread(length, offset) == bytes(length)
        except nbd.Error:
            return False

    wait_until(reads, "the server to be found again")


def restart_while(kit, work, down=0.3):
    """Runs @work in a thread, kills the server in its midst and starts it again (here: it ends with the thread
    that starts it)."""
    failed = []

    def guard():
        try:
            in_threads(work)
        except Exception as e:  # carried over
            failed.append(e)

    thread = threading.Thread(target=guard)
    thread.start()
    time.sleep(down)
    kit.kill()
    time.sleep(down)
    kit.start()
    thread.join()
    if failed:
        raise failed[0]


@test(needs=["nbdkit"])
def comes_back(tmp):
    "a server that is killed under load and comes back within reconnect-delay: no error, and no data lost"
    path = image(os.path.join(tmp, "image"), 4 * MIB)
    with Kit(tmp, "file", path) as kit:
        with Daemon(tmp, *args(node(kit.path, reconnect_delay=20))) as d:
            import nbd
            model, ends = bytearray(4 * MIB), [False]
            handles = [d.nbd("n") for _ in range(4)]

            def client(i):
                rng, h, at = random.Random(i), handles[i], i * MIB
                deadline = time.monotonic() + 1.2
                while time.monotonic() < deadline:
                    offset = at + rng.randrange(MIB - 8192)
                    data = rng.randbytes(rng.randrange(1, 8192))
                    h.pwrite(data, offset, nbd.CMD_FLAG_FUA)
                    model[offset:offset + len(data)] = data
                    offset = at + rng.randrange(MIB - 8192)
                    equal(h.pread(8192, offset) == model[offset:offset + 8192], True)

            restart_while(kit, lambda: in_threads(*[lambda i=i: client(i) for i in range(4)]))
            handles[0].flush()  # all of it was written with FUA
            equal(handles[0].pread(4 * MIB, 0) == model, True)
            matches(d.log(), "lost the connection.*\n(.*\n)*.*connected to .* again")
            del ends, handles
    with open(path, "rb") as f:
        equal(f.read() == model, True, "the file")


@test(needs=["nbdkit"])
def does_not_come_back(tmp):
    "without a server requests fail at once, or after reconnect-delay; later ones find it when it is back"
    import nbd
    for delay in (0, 1):
        with Kit(tmp, "memory", "1M", name="kit%d" % delay) as kit:
            with Daemon(tmp, *args(node(kit.path, reconnect_delay=delay)), name="d%d" % delay) as d:
                h = d.nbd("n")
                equal(h.pread(512, 0), bytes(512))
                kit.kill()
                wait_until(lambda: "lost the connection" in d.log(), "the loss")
                for wait in (delay, 0):  # the time that they wait is over then
                    begun = time.monotonic()
                    equal(raises(nbd.Error, h.pread, 512, 0).errno, "EIO")
                    took = time.monotonic() - begun
                    equal(wait <= took < wait + 0.7, True, "%d: %g s" % (delay, took))
                equal(raises(nbd.Error, h.pwrite, bytes(512), 0).errno, "EIO")
                raises(nbd.Error, h.block_status, MIB, 0, lambda *_: 0) if h.can_meta_context("base:allocation") else None
                kit.start()

                reads_again(h)
                h.flush()  # nothing was written


@test(needs=["nbdkit"])
def flush_is_honest(tmp):
    "a flush fails, and goes on failing, once the server may have lost writes; until the node is added anew"
    import nbd
    with Kit(tmp, "memory", "1M") as kit:
        d = Daemon(tmp, "--blockdev", json.dumps(node(kit.path, reconnect_delay=10)))
        export = lambda: d.qmp("block-export-add", type="nbd", id="e", node_name="n", writable=True)
        restart = lambda: (kit.kill(), kit.start())
        export()
        h = d.nbd("n")
        h.pwrite(b"a" * 512, 0)
        h.flush()
        restart()
        h.flush()  # what was lost had been flushed; its server knows nothing of it, but said so
        h.pwrite(b"a" * 512, 0, nbd.CMD_FLAG_FUA)
        restart()
        h.flush()
        h.pwrite(b"b" * 512, 0)
        restart()
        for _ in range(2):
            equal(raises(nbd.Error, h.flush).errno, "EIO")
        equal(h.pread(512, 0), bytes(512))
        h.pwrite(b"b" * 512, 0)
        equal(raises(nbd.Error, h.flush).errno, "EIO")
        h.shutdown()
        d.unexport("e")
        wait_until(lambda: not d.qmp("query-block-exports"), "the export to go")
        d.qmp("blockdev-del", node_name="n")
        d.qmp("blockdev-add", node(kit.path))
        export()
        h = d.nbd("n")
        h.pwrite(b"c" * 512, 0)
        h.flush()
        h.shutdown()
        d.process.terminate()
        d.wait(status=1)  # what was lost is not forgotten
        matches(d.log(), "data that was not flushed could not be written when it was closed")


@test
def flush_and_witnesses(tmp):
    "a flush is believed on a connection that was there at the write; without one it fails"
    import nbd
    writer = []

    def answer(sock, kind, cookie, offset, length):
        if kind == 1:
            writer[:] = [sock]
        if kind == 0:
            return Liar.chunk(sock, cookie, 1, struct.pack(">Q", offset) + bytes(length))
        return Liar.chunk(sock, cookie, 0, b"")

    with Liar(tmp, answer, flags=0x105) as liar:
        d = Daemon(tmp, *args(node(liar.path, reconnect_delay=20)))
        wait_until(lambda: liar.negotiated == 4, "four connections")
        h = d.nbd("n")
        for _ in range(3):
            before = liar.negotiated
            h.pwrite(b"x" * 512, 0)
            writer[0].shutdown(socket.SHUT_RDWR)
            wait_until(lambda: liar.negotiated > before, "it to be back")
            h.flush()
        h.pwrite(b"x" * 512, 0)
        for sock in list(liar.socks):
            before = liar.negotiated
            try:
                sock.shutdown(socket.SHUT_RDWR)
            except OSError:  # it is gone
                continue
            wait_until(lambda: liar.negotiated > before, "it to be back")
        equal(raises(nbd.Error, h.flush).errno, "EIO")
        h.shutdown()
        d.process.terminate()
        d.wait(status=1)


@test(needs=["nbdkit"])
def sandboxed(tmp):
    "a daemon without a monitor connects to the servers of its nodes, again too"
    with Kit(tmp, "memory", "1M") as kit:
        with Daemon(tmp, *args(node(kit.path)), "--sandbox", "auto", qmp=False) as d:
            h = d.nbd("n")
            reads_again(h)
            kit.kill()
            kit.start()
            reads_again(h)


@test(needs=["nbdkit"])
def another_size(tmp):
    "a server that comes back with another size is not used, and the log says why"
    import nbd
    with Kit(tmp, "memory", "1M") as kit:
        with Daemon(tmp, *args(node(kit.path))) as d:
            h = d.nbd("n")
            kit.kill()
            kit.command[-1] = "2M"
            kit.start()
            wait_until(lambda: "size of the export is now 2097152, expected 1048576" in d.log(), "the log")
            equal(raises(nbd.Error, h.pread, 512, 0).errno, "EIO")
            kit.kill()
            kit.command[-1] = "1M"
            kit.start()

            reads_again(h)


@test(needs=["nbdkit"])
def open_timeout(tmp):
    "open-timeout waits for a server that is still to come, and gives up in time"
    with Daemon(tmp) as d:
        begun = time.monotonic()
        raises(QMPError, d.qmp, "blockdev-add", node(os.path.join(tmp, "nosuch"), open_timeout=1),
               match="Failed to connect")
        equal(0.9 < time.monotonic() - begun < 3, True)
        kit = Kit(tmp, "memory", "1M")
        kit.kill()
        os.unlink(kit.path)
        restart_while(kit, lambda: d.qmp("blockdev-add", node(kit.path, open_timeout=20)))
        kit.kill()


@test(needs=["nbdkit"])
def hangs(tmp):
    "the daemon ends in bounded time while a server owes an answer, which no other disk waits for"
    import nbd
    with Kit(tmp, "memory", "1M") as kit:
        d = Daemon(tmp, *args(node(kit.path)), *disk(tmp, "disk0", MIB))
        h = d.nbd("n")
        h.pread(512, 0)
        kit.signal(signal.SIGSTOP)
        buffers = [nbd.Buffer(512) for _ in range(40)]
        cookies = [h.aio_pread(b, 0) for b in buffers]
        cookies += [h.aio_flush() for _ in range(20)]
        h.poll(50)
        equal(d.nbd("disk0").pread(512, 0), bytes(512))
        begun = time.monotonic()
        d.qmp("backup-begin", id="b", disks=[{"node": "disk0"}], scratch={"directory": tmp})
        d.qmp("block-export-del", id="e", mode="hard")
        d.qmp("backup-end", id="b", success=True)
        equal(time.monotonic() - begun < 10, True, "it waits for another disk")
        begun = time.monotonic()
        d.process.terminate()
        d.process.wait(30)
        equal(time.monotonic() - begun < 15, True)
        d.kill()
        kit.signal(signal.SIGCONT)
        del cookies


@test(needs=["nbdkit"])
def silence(tmp):
    "a server that hangs does not keep a canceled job or the monitor for ever; the requests concerned fail"
    import nbd
    with Kit(tmp, "memory", "1M") as kit, Daemon(tmp, *disk(tmp, "disk0", MIB), *args(node(kit.path))) as d:
        d.qmp("block-export-add", type="nbd", id="n", node_name="n", name="m")
        h, guest = d.nbd("m"), d.nbd("disk0")
        h.pread(512, 0)
        d.qmp("block-export-del", id="e")
        kit.signal(signal.SIGSTOP)
        d.qmp("blockdev-backup", job_id="j", device="disk0", target="n", sync="full")
        write = guest.aio_pwrite(nbd.Buffer.from_bytearray(bytearray(512)), 0)
        read = h.aio_pread(nbd.Buffer(512), 0)
        guest.poll(100)
        d.qmp("block-job-cancel", device="j")
        begun = time.monotonic()
        d.qmp("block-dirty-bitmap-add", node="n", name="b")  # waits for what is in flight
        raises(nbd.Error, wait_for, h, read, match="Input/output error")
        d.monitor.wait_event("BLOCK_JOB_CANCELLED", timeout=30)
        equal(time.monotonic() - begun < 30, True)
        try:
            wait_for(guest, write)
        except nbd.Error:  # what it would have overwritten could not be copied
            pass
        guest.pwrite(bytes(512), 0)
        kit.signal(signal.SIGCONT)
        reads_again(h)
        h.shutdown(), guest.shutdown()


def wait_for(h, cookie):
    while not h.aio_command_completed(cookie):
        h.poll(-1)


@test(needs=["nbdkit"])
def several_connections(tmp):
    "a server that allows it gets several connections, and many requests at a time on them"
    with Kit(tmp, "--filter=delay", "memory", "64M", "rdelay=50ms", "wdelay=50ms") as kit:
        with Daemon(tmp, *args(node(kit.path))) as d:
            h = d.nbd("n")
            equal(h.can_multi_conn(), True)
            import nbd
            begun, left = time.monotonic(), [0]
            cookies = [h.aio_pread(nbd.Buffer(4096), i * 4096) for i in range(200)]
            while cookies:
                h.poll(-1)
                cookies = [c for c in cookies if not h.aio_command_completed(c)]
            equal(time.monotonic() - begun < 4, True, "200 requests of 50 ms each: %g s" % (
                time.monotonic() - begun))
            del left


class Liar:
    """A server that negotiates as it should, and then answers as told. @answer(sock, type, cookie, offset,
    length): what to do with a request; anything false ends the connection."""

    MAGIC, REPLY, STRUCTURED = 0x25609513, 0x67446698, 0x668e33ef

    def __init__(self, tmp, answer, size=MIB, blocks=None, flags=0x0b, name="liar"):
        self.answer, self.size, self.blocks, self.flags = answer, size, blocks, flags
        self.path = os.path.join(tmp, name + ".sock")
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(self.path)
        self.listener.listen(20)
        self.connections = self.negotiated = 0
        self.socks = []
        self.thread = threading.Thread(target=self._accept, daemon=True)
        self.thread.start()

    def close(self):
        self.listener.shutdown(socket.SHUT_RDWR)
        self.thread.join()
        self.listener.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def _accept(self):
        while True:
            try:
                sock, _ = self.listener.accept()
            except OSError:
                return
            self.connections += 1
            self.socks.append(sock)
            threading.Thread(target=self._serve, args=(sock,), daemon=True).start()

    @staticmethod
    def take(sock, n):
        data = b""
        while len(data) < n:
            more = sock.recv(n - len(data))
            if not more:
                raise ConnectionError
            data += more
        return data

    def _serve(self, sock):
        with sock:
            try:
                self._negotiate(sock)
                self.negotiated += 1
                while True:
                    magic, _, kind, cookie, offset, length = struct.unpack(">IHHQQI", self.take(sock, 28))
                    equal(magic, self.MAGIC)
                    if kind == 1:
                        self.take(sock, length)
                    if kind == 2 or not self.answer(sock, kind, cookie, offset, length):
                        return
            except (ConnectionError, OSError, Failure):
                return

    def _negotiate(self, sock):
        sock.sendall(struct.pack(">8s8sH", b"NBDMAGIC", b"IHAVEOPT", 3))
        self.take(sock, 4)
        while True:
            _, option, length = struct.unpack(">8sII", self.take(sock, 16))
            data = self.take(sock, length)
            reply = lambda kind, body=b"": sock.sendall(struct.pack(
                ">QIII", 0x3e889045565a9, option, kind, len(body)) + body)
            if option == 8:  # structured replies
                reply(1)
            elif option == 10:  # set meta context
                reply(4, struct.pack(">I", 1) + b"base:allocation")
                reply(1)
            elif option == 7:  # go
                reply(3, struct.pack(">HQH", 0, self.size, self.flags))
                if self.blocks:
                    reply(3, struct.pack(">HIII", 3, *self.blocks))
                reply(1)
                return
            else:
                reply(0x80000001)
            del data

    @classmethod
    def chunk(cls, sock, cookie, kind, body, flags=1):
        sock.sendall(struct.pack(">IHHQI", cls.STRUCTURED, flags, kind, cookie, len(body)) + body)
        return True


@test
def shutting_down(tmp):
    "a server that answers that it is shutting down is given up, and requests wait for the next one"
    first = []

    def answer(sock, kind, cookie, offset, length):
        if not first or first[0] is sock:
            first[:] = [sock]
            return Liar.chunk(sock, cookie, 0x8001, struct.pack(">IH", 108, 0))
        return Liar.chunk(sock, cookie, 1, struct.pack(">Q", offset) + bytes(length))

    with Liar(tmp, answer) as liar:
        with Daemon(tmp, *args(node(liar.path, read_only=True, reconnect_delay=20), writable="off")) as d:
            equal(d.nbd("n").pread(512, 0), bytes(512))
            matches(d.log(), "the server is shutting down")


@test
def lies_at_open(tmp):
    "sizes and block sizes of a server that make no sense are refused"
    cases = [({"size": (1 << 64) - 512}, "size|Failed to negotiate"), ({"size": 1 << 63}, "size|Failed to negotiate"),
             ({"blocks": (3, 4096, 1 << 20)}, "minimum block size|Failed to negotiate|expected"),
             ({"blocks": (1 << 20, 1 << 20, 1 << 20)}, "minimum block size|expected"),
             ({"blocks": (4096, 4096, 512)}, "maximum|expected"),
             ({"blocks": (4096, 4096, 1 << 20), "size": MIB + 512}, "not multiple of minimum block size")]
    with Daemon(tmp) as d:
        for i, (what, match) in enumerate(cases):
            with Liar(tmp, lambda *_: False, name="l%d" % i, **what) as liar:
                done = []
                try:
                    d.qmp("blockdev-add", node(liar.path, read_only=True))
                except QMPError as e:
                    done.append(str(e))
                if done:
                    matches(done[0], match)
                else:  # libnbd put it right
                    info = d.qmp("query-named-block-nodes")[0]
                    equal(0 <= info["image"]["virtual-size"] <= MIB + 512, True, what)
                    d.qmp("blockdev-del", node_name="n")


@test
def lies_of_status(tmp):
    "extents that are empty, too long, odd or none are not believed, nor do they harm"
    import nbd
    answers = {"none": [], "empty": [(0, 3)], "empty behind": [(4096, 3), (0, 0)],
               "long": [(0xffffffff, 3)], "many": [(512, i % 2) for i in range(20000)],
               "odd": [(700, 3), (5, 0)]}
    newer = hasattr(nbd.NBD, "block_status_64")
    current = [None]

    def answer(sock, kind, cookie, offset, length):
        if kind == 7:
            body = struct.pack(">I", 1) + b"".join(struct.pack(">II", *e) for e in answers[current[0]])
            return Liar.chunk(sock, cookie, 5, body)
        if kind == 0:
            return Liar.chunk(sock, cookie, 1, struct.pack(">Q", offset) + bytes(length))
        return Liar.chunk(sock, cookie, 0, b"")

    with Liar(tmp, answer, blocks=(512, 4096, MIB)) as liar:
        with Daemon(tmp, *args(node(liar.path, read_only=True), writable="off")) as d:
            h = d.nbd("n", contexts=["base:allocation"])
            for name in answers:
                current[0] = name
                try:
                    got = extents(h, "base:allocation")
                except nbd.Error as error:
                    # newer libraries refuse more of these themselves, and repair some
                    equal(error.errno, "EIO", name)
                    equal(newer or name in ("none", "empty", "empty behind"), True, name)
                else:
                    equal(name in ("none", "empty"), False, name)
                    equal(newer or name != "empty behind", True, name)
                    equal(sum(n for _, n, _ in got), MIB, name)
                    equal(all(n % 512 == 0 for _, n, _ in got), True, name)
                reads_again(h)


@test
def lies_of_data(tmp):
    "a server that disconnects in the midst, answers beyond the range or with nonsense: errors, and no harm"
    import nbd
    current = [None]

    def answer(sock, kind, cookie, offset, length):
        if current[0] == "half":
            sock.sendall(struct.pack(">IHHQIQ", Liar.STRUCTURED, 1, 1, cookie, length + 8, offset) + bytes(length // 2))
            return False
        if current[0] == "beyond":
            return Liar.chunk(sock, cookie, 1, struct.pack(">Q", 1 << 62) + bytes(length))
        if current[0] == "more":
            return Liar.chunk(sock, cookie, 1, struct.pack(">Q", offset) + bytes(length + 4096))
        if current[0] == "hole":
            return Liar.chunk(sock, cookie, 2, struct.pack(">QI", offset, 0xffffffff))
        if current[0] == "cookie":
            return Liar.chunk(sock, cookie + 7, 1, struct.pack(">Q", offset) + bytes(length))
        if current[0] == "noise":
            sock.sendall(os.urandom(4096))
            return True
        if current[0] == "error":
            return Liar.chunk(sock, cookie, 0x8001, struct.pack(">IH", 28, 0))
        return Liar.chunk(sock, cookie, 1, struct.pack(">Q", offset) + bytes(length))

    with Liar(tmp, answer, flags=0x03) as liar:
        with Daemon(tmp, *args(node(liar.path, read_only=True), writable="off")) as d:
            h = d.nbd("n")
            for name in ("half", "beyond", "more", "hole", "cookie", "noise", "error", None):
                current[0] = name
                if name:
                    raises(nbd.Error, h.pread, 65536, 4096)
                else:
                    reads_again(h, 65536, 4096)
            equal(liar.connections < 100, True, liar.connections)


if __name__ == "__main__":
    main()
