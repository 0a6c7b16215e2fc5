#!/usr/bin/python3
# SPDX-FileCopyrightText: 2026 The Tidemark authors
# SPDX-License-Identifier: GPL-2.0-or-later
"""Listening: unix and TCP sockets, limits (nbd-server-start; design of the daemon's --nbd-server)."""
import resource
import stat

from wire import *


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def bare(tmp):
    return Daemon(tmp, *disk(tmp, "disk0", 1 << 20, export=False), nbd=False)


def start(d, addr, **more):
    d.qmp("nbd-server-start", {"addr": addr, **more})
    d.qmp("block-export-add", {"type": "nbd", "id": "e", "node-name": "disk0"})


def unix_at(path):
    return {"type": "unix", "data": {"path": path}}


@test
def mode(tmp):
    "a unix socket is its owner's alone"
    with serve(tmp) as d:
        equal(stat.S_IMODE(os.stat(d.nbd_path).st_mode), 0o600)


@test
def stale(tmp):
    "a stale socket is replaced, a live one and other files are not"
    path = os.path.join(tmp, "n")
    with bare(tmp) as d:
        with socket.socket(socket.AF_UNIX) as s:
            s.bind(path)
        start(d, unix_at(path))
        equal(Wire(path).go().size, 1 << 20)
        d.qmp("nbd-server-stop")
        equal(os.path.exists(path), False)
        with socket.socket(socket.AF_UNIX) as s:
            s.bind(path)
            s.listen()
            matches(raises(QMPError, start, d, unix_at(path)).desc, "in use")
            equal(os.path.exists(path), True)
        os.unlink(path)
        with open(path, "w") as f:
            f.write("precious")
        raises(QMPError, start, d, unix_at(path))
        equal(open(path).read(), "precious")
        raises(QMPError, start, d, unix_at("/" + "x" * 200))
        raises(QMPError, start, d, unix_at(os.path.join(tmp, "no", "such", "dir")))


@test
def replaced(tmp):
    "a socket file that somebody else has put in place is not removed"
    with serve(tmp) as d:
        os.unlink(d.nbd_path)
        open(d.nbd_path, "w").close()
        d.qmp("nbd-server-stop")
        equal(os.path.exists(d.nbd_path), True)


@test
def tcp(tmp):
    "TCP serves, restarts at once on the same port, and an error names a port in use"
    port = free_port()
    addr = {"type": "inet", "data": {"host": "127.0.0.1", "port": str(port)}}
    with bare(tmp) as d:
        for _ in range(3):
            start(d, addr)
            w = Wire(("127.0.0.1", port)).go()
            equal(w.pread(0, 512), bytes(512))
            d.qmp("nbd-server-stop")
            w.ended()
            raises(OSError, Wire, ("127.0.0.1", port))
        with socket.socket() as s:
            s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            s.bind(("127.0.0.1", port))
            s.listen()
            matches(raises(QMPError, start, d, addr).desc, "127.0.0.1:%d.*in use" % port)
        raises(QMPError, start, d, {"type": "inet", "data": {"host": "no.such.host.invalid",
                                                           "port": "10809"}})


@test
def tcp_families(tmp):
    "ipv4 and ipv6 choose the address families"
    port = free_port()
    with bare(tmp) as d:
        start(d, {"type": "inet", "data": {"host": "", "port": str(port), "ipv6": False}})
        equal(Wire(("127.0.0.1", port)).go().size, 1 << 20)
        d.qmp("nbd-server-stop")
        raises(QMPError, start, d, {"type": "inet", "data": {
            "host": "", "port": str(port), "ipv4": False, "ipv6": False}})


@test
def tcp_any(tmp):
    "'::' means IPv4 too, unless one family is asked for"
    if not socket.has_ipv6:
        skip("no IPv6")
    with bare(tmp) as d:
        for more, four in (({}, True), ({"ipv4": True, "ipv6": True}, True), ({"ipv4": False}, False),
                           ({"ipv6": True}, False)):
            port = free_port()
            try:
                start(d, {"type": "inet", "data": {"host": "::", "port": str(port), **more}})
            except QMPError as e:
                skip(e.desc)
            equal(Wire(("::1", port)).go().size, 1 << 20)
            if four:
                equal(Wire(("127.0.0.1", port)).go().size, 1 << 20, str(more))
            else:
                raises(OSError, Wire, ("127.0.0.1", port))
            d.qmp("nbd-server-stop")
        with socket.socket() as s:  # IPv4's is taken: what is left is IPv6's
            s.bind(("0.0.0.0", 0))
            s.listen()
            port = s.getsockname()[1]
            start(d, {"type": "inet", "data": {"host": "::", "port": str(port)}})
            equal(Wire(("::1", port)).go().size, 1 << 20)


@test
def port_range(tmp):
    "with 'to' the first free port of a range is taken"
    port = free_port()
    data = {"host": "127.0.0.1", "port": str(port), "to": min(port + 20, 65535)}
    with bare(tmp) as d, socket.socket() as s:
        s.bind(("127.0.0.1", port))
        s.listen()
        start(d, {"type": "inet", "data": data})
        address = d.qmp("query-nbd-servers")[0]["addresses"][0]
        equal(port < int(address["port"]) <= data["to"], True, address["port"])
        equal(Wire(("127.0.0.1", int(address["port"]))).go().size, 1 << 20)
        d.qmp("nbd-server-stop")
        matches(raises(QMPError, start, d, {"type": "inet", "data": {**data, "to": port}}).desc,
                "available port")
        matches(raises(QMPError, start, d, {"type": "inet", "data": {**data, "to": port - 1}}).desc,
                "'to' is %d, expected at least the port, %d" % (port - 1, port))


@test
def early_client(tmp):
    "a client that is there before the start waits until all is up and the sandbox stands"
    others = [a for i in range(150) for a in (
        "--blockdev", "null-co,node-name=z%d,size=1M" % i, "--export", "nbd,id=z%d,node-name=z%d" % (i, i))]
    user = [] if os.getuid() else ["--user", "12345:54321"]
    for i in range(3):
        path = os.path.join(tmp, "s%d" % i)
        with socket.socket(socket.AF_UNIX) as s:
            s.bind(path)
            s.listen()
            w = Wire(path, greet=False)
            w.send(option(OPT_GO, info_data("disk0")))
            d = Daemon(tmp, "--nbd-server", "addr.type=fd,addr.str=%d" % s.fileno(), *user, *others,
                       *disk(tmp, "disk0", 1 << 20), nbd=False, qmp=False, pass_fds=[s.fileno()],
                       name="d%d" % i)
            equal(w.read(8), b"NBDMAGIC")
            with open("/proc/%d/status" % d.pid) as f:
                status = dict(re.findall(r"^(\w+):\t(.*)$", f.read(), re.M))
            w.read(10)
            equal(w.replies(OPT_GO)[-1], (REP_ACK, b""))
            if user:
                equal(status["Uid"], "\t".join(["12345"] * 4))
            if b"__asan_init" not in open(TIDEMARKD, "rb").read():
                equal(status["Seccomp"], "2")
            w.close()
            d.stop()


@test
def twice(tmp):
    "a server can't be started or stopped twice"
    with serve(tmp) as d:
        matches(raises(QMPError, d.qmp, "nbd-server-start",
                       {"addr": unix_at(os.path.join(tmp, "o"))}).desc, "already running")
        d.qmp("nbd-server-stop")
        matches(raises(QMPError, d.qmp, "nbd-server-stop").desc, "not running")


@test
def max_connections(tmp):
    "with max-connections the next client waits until one leaves"
    with serve(tmp, max_connections=2) as d:
        a, b = Wire(d.nbd_path).go(), Wire(d.nbd_path)
        c = Wire(d.nbd_path, flags=3, greet=False)
        c.s.settimeout(0.2)
        raises(socket.timeout, c.s.recv, 1)
        c.s.settimeout(PATIENCE)
        b.close()
        equal(c.read(18)[:8], b"NBDMAGIC")
        equal(a.pread(0, 512), bytes(512))
        a.close()
        equal(c.verdict(OPT_LIST), REP_ACK)


@test
def out_of_descriptors(tmp):
    "without descriptors nobody spins and nobody is lost"
    with serve(tmp) as d:
        held = [Wire(d.nbd_path).go()]
        used = len(os.listdir("/proc/%d/fd" % d.pid))
        limit = next(n for n in range(used, 3 * used) if n - n // 8 > used)  # an eighth is for others
        resource.prlimit(d.pid, resource.RLIMIT_NOFILE, (limit, limit))
        held.append(Wire(d.nbd_path).go())
        late = Wire(d.nbd_path, flags=3, greet=False)
        wait_until(lambda: "clients wait, as there are descriptors for no more" in d.log(), "a line in the log")
        late.s.settimeout(0.3)

        def cpu():
            with open("/proc/%d/stat" % d.pid) as f:
                return sum(map(int, f.read().rsplit(")", 1)[1].split()[11:13]))
        before = cpu()
        raises(socket.timeout, late.s.recv, 1)
        if cpu() - before > 10:
            fail("the daemon spins")
        equal(held[1].pread(0, 512), bytes(512))
        held[1].close()
        late.s.settimeout(PATIENCE)
        equal(late.read(18)[:8], b"NBDMAGIC")


@test
def idle_memory(tmp):
    "an idle connection costs little memory"
    n = 200
    with serve(tmp) as d:
        def rss():
            with open("/proc/%d/status" % d.pid) as f:
                return int(re.search(r"RssAnon:\s+(\d+)", f.read()).group(1))

        def connect():
            w = Wire(d.nbd_path).go(contexts=["base:allocation"])
            w.pread(0, 1 << 20, DF)
            w.do(WRITE, 0, data=bytes(300000))
            return w
        held = [connect() for _ in range(20)]
        before = rss()
        held += [connect() for _ in range(n)]
        each = (rss() - before) / n
        if each > 16 and not sanitized():
            fail("%.1f KiB a connection" % each)
        equal(held[0].pread(0, 512), bytes(512))


main()
