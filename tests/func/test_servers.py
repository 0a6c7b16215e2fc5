#!/usr/bin/python3
# SPDX-FileCopyrightText: 2026 The Tidemark authors
# SPDX-License-Identifier: GPL-2.0-or-later
"""Several NBD servers at once: ids, addresses, which exports they show, starting and stopping."""
import array
import os
import re
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "proto"))
from wire import *

MIB = 1 << 20


def unix(path):
    return {"type": "unix", "data": {"path": path}}


def inet(**more):
    return {"type": "inet", "data": dict({"host": "127.0.0.1", "port": "0"}, **more)}


def start(d, id, addr, **more):
    d.qmp("nbd-server-start", dict({"id": id, "addr": addr}, **more))


def export(d, id, node="disk0", **more):
    d.qmp("block-export-add", dict({"type": "nbd", "id": id, "node-name": node},
                                   **{k.replace("_", "-"): v for k, v in more.items()}))


def servers(d):
    return {s["id"]: s for s in d.qmp("query-nbd-servers")}


def names(where):
    w = Wire(where)
    found = sorted(data[4:].decode() for kind, data in w.opt(OPT_LIST) if kind == REP_SERVER)
    w.close()
    return found


def ids(d):
    return sorted(e["id"] for e in d.qmp("query-block-exports"))


@test
def several(tmp):
    "each server shows its exports, names are unique on each, and queries show where they listen"
    a, b = tmp + "/a", tmp + "/b"
    with Daemon(tmp, *disk(tmp, "disk0", MIB), *disk(tmp, "disk1", 2 * MIB, export=False)) as d:
        start(d, "a", unix(a), **{"max-connections": 7})
        start(d, "b", unix(b))
        start(d, "t", inet())
        equal(list(servers(d)), ["default", "a", "b", "t"])
        equal(servers(d)["a"]["addresses"], [{"type": "unix", "path": a}])
        equal(servers(d)["a"]["max-connections"], 7)
        port = servers(d)["t"]["addresses"][0]["port"]
        equal(servers(d)["t"]["addresses"], [{"type": "inet", "host": "127.0.0.1", "port": port}])
        export(d, "xa", name="x", servers=["a"])
        export(d, "xb", "disk1", name="x", servers=["b", "t"])
        raises(QMPError, export, d, "xc", name="x", servers=["b"], match="already has export named 'x'")
        raises(QMPError, export, d, "xc", name="x", match="already has export named 'x'")
        raises(QMPError, export, d, "xc", name="disk0", servers=["a"], match="already has export named")
        equal([names(w) for w in (d.nbd_path, a, b, ("127.0.0.1", int(port)))],
              [["disk0"], ["disk0", "x"], ["disk0", "x"], ["disk0", "x"]])
        equal(Wire(a).go("x").size, MIB)
        equal(Wire(b).go("x", contexts=["base:allocation"]).size, 2 * MIB)
        equal(Wire(("127.0.0.1", int(port))).go("x").size, 2 * MIB)
        w = Wire(d.nbd_path)
        equal([w.verdict(o, info_data("x")) for o in (OPT_INFO, OPT_GO)], [ERR_UNKNOWN] * 2)
        w.verdict(OPT_STRUCTURED)
        equal(w.verdict(OPT_SET_META, meta_data("x", "base:allocation")), ERR_UNKNOWN)
        w.send(option(OPT_EXPORT_NAME, b"x"))
        w.ended()


@test
def mistakes(tmp):
    "errors name the server and the cause"
    with Daemon(tmp, *disk(tmp, "disk0", MIB)) as d:
        start(d, "a", unix(tmp + "/a"))
        for call, match in (
                (lambda: start(d, "a", unix(tmp + "/b")), "NBD server 'a' already running"),
                (lambda: start(d, "default", unix(tmp + "/b")), "NBD server already running"),
                (lambda: start(d, "9", unix(tmp + "/b")), "Invalid NBD server id '9'"),
                (lambda: start(d, "b", unix(tmp + "/a")), "/a.*in use"),
                (lambda: start(d, "b", unix("")), "''.*short"),
                (lambda: start(d, "b", unix(tmp + "/b"), **{"tls-creds": "t"}), "tls-creds.*'t'|'t'"),
                (lambda: start(d, "b", inet(port="70000")), "70000"),
                (lambda: d.qmp("nbd-server-stop", id="b"), "NBD server 'b' not running"),
                (lambda: export(d, "e", name="e", servers=["a", "b"]), "NBD server 'b' not running"),
                (lambda: export(d, "e", name="e", servers=[]), "at least one"),
                (lambda: export(d, "e", name="e", servers=["a", "a"]), "'a' twice")):
            matches(raises(QMPError, call).desc, match)
        equal(list(servers(d)), ["default", "a"])
        equal(ids(d), ["exp-disk0"])


def two(tmp):
    """A daemon with the servers a and b."""
    server = [s for n in "ab" for s in ("--nbd-server", "id=%s,addr.type=unix,addr.path=%s/%s" % (n, tmp, n))]
    return Daemon(tmp, *server, *disk(tmp, "disk0", MIB), nbd=False)


@test
def stopping(tmp):
    "stopping one cuts its clients, also on exports that others show; exports go with their last server"
    a, b = tmp + "/a", tmp + "/b"
    with two(tmp) as d:
        export(d, "only-a", name="only-a", servers=["a"])
        on_a, shared_a, shared_b = Wire(a).go("only-a"), Wire(a).go(), Wire(b).go()
        waiting = Wire(a)
        d.qmp("nbd-server-stop", id="a")
        for w in (on_a, shared_a, waiting):
            w.ended()
        equal(shared_b.pread(0, 512), bytes(512))
        d.monitor.wait_event("BLOCK_EXPORT_DELETED", id="only-a")
        equal(ids(d), ["exp-disk0"])
        equal(os.path.exists(a), False)
        start(d, "a", unix(a))
        equal(Wire(a).go().size, MIB)
        d.qmp("nbd-server-stop", id="b")
        shared_b.ended()
        equal(ids(d), ["exp-disk0"])
        d.qmp("nbd-server-stop", id="a")
        equal(ids(d), [])
        equal(servers(d), {})
        raises(QMPError, export, d, "e", match="NBD server not running")


@test
def stop_while_busy(tmp):
    "servers that start and stop under clients that come and write: nothing is lost, nothing left"
    with two(tmp) as d:
        done, written = [], []

        def client():
            while not done:
                try:
                    w = Wire(tmp + "/b").go()
                    for i in range(20):
                        equal(w.do(WRITE, 0, data=b"x" * 512), 0)
                        written.append(i)
                    w.close()
                except (Closed, OSError):
                    pass
                except Failure:
                    if not done:
                        raise

        def stop_and_start():
            try:
                until = time.monotonic() + PATIENCE
                for i in range(1000):
                    d.qmp("nbd-server-stop", id="b")
                    start(d, "b", unix(tmp + "/b"))
                    if i >= 30 and len(written) > 20 or time.monotonic() > until:
                        break
            finally:
                done.append(1)
        in_threads(stop_and_start, client, client, client)
        equal(Wire(tmp + "/b").go().pread(0, 512), b"x" * 512)
        wait_until(lambda: servers(d)["b"]["connections"] == 0, "the end of all sessions")


@test
def limits_apart(tmp):
    "connections count for their server"
    with two(tmp) as d:
        start(d, "c", unix(tmp + "/c"), **{"max-connections": 1})
        held = Wire(tmp + "/c").go()
        late = Wire(tmp + "/c", greet=False)
        others = [Wire(tmp + "/a").go() for _ in range(3)]
        equal([servers(d)[s]["connections"] for s in "abc"], [3, 0, 1])
        held.close()
        equal(late.read(18)[:8], b"NBDMAGIC")
        others[0].close()


def listening(path):
    s = socket.socket(socket.AF_UNIX)
    s.bind(path)
    s.listen()
    return s


@test
def inherited(tmp):
    "addr.type=fd takes an inherited listening socket, which outlives the server"
    with listening(tmp + "/l") as s, socket.socket() as other, Daemon(
            tmp, "--nbd-server", "addr.type=fd,addr.str=%d" % s.fileno(), *disk(tmp, "disk0", MIB),
            nbd=False, pass_fds=(s.fileno(), other.fileno())) as d:
        equal(servers(d)["default"]["addresses"], [{"type": "unix", "path": tmp + "/l"}])
        w = Wire(tmp + "/l").go()
        d.qmp("nbd-server-stop")
        w.ended()
        w = Wire(tmp + "/l", greet=False)  # waits for the next server
        d.qmp("nbd-server-start", {"addr": {"type": "fd", "data": {"str": str(s.fileno())}}})
        export(d, "e")
        equal(w.read(18)[:8], b"NBDMAGIC")
        equal(w.go().size, MIB)
        for which in ("0", str(other.fileno()), "200", "nobody", "-1", ""):
            raises(QMPError, start, d, "x", {"type": "fd", "data": {"str": which}},
                   match="not started with a listening socket '%s'" % which)
        mine = [fd for fd in os.listdir("/proc/%d/fd" % d.pid) if int(fd) != s.fileno()]
        for fd in mine:  # the daemon's own sockets, the monitor's among them, are not to be had
            raises(QMPError, start, d, "x", {"type": "fd", "data": {"str": fd}}, match="not started with")


@test
def addresses(tmp):
    "abstract, numeric, keep-alive, to and the families of an address do what they say"
    name = "tm-%d" % os.getpid()
    with Daemon(tmp, "--nbd-server", "addr.type=unix,addr.path=%s,addr.abstract=on" % name,
                *disk(tmp, "disk0", MIB), nbd=False) as d:
        equal(servers(d)["default"]["addresses"], [{"type": "unix", "path": name, "abstract": True, "tight": True}])
        equal(Wire("\0" + name).go().size, MIB)
        raises(QMPError, start, d, "a", {"type": "unix", "data": {"path": name, "abstract": True}},
               match="Failed to bind socket to abstract address %s: Address already in use" % name)
        start(d, "a", {"type": "unix", "data": {"path": name, "abstract": True, "tight": False}})
        equal(Wire(("\0" + name).ljust(108, "\0")).go().size, MIB)
        equal(servers(d)["a"]["addresses"], [{"type": "unix", "path": name, "abstract": True, "tight": False}])
        raises(QMPError, start, d, "n", inet(host="localhost", numeric=True), match="resolution failed for localhost")
        raises(QMPError, start, d, "n", inet(port="http", numeric=True), match="resolution failed")
        start(d, "n", inet(numeric=True))
        start(d, "k", inet(**{"keep-alive": False}))
        start(d, "h", inet(host="localhost", ipv4=True))
        first = int(servers(d)["h"]["addresses"][0]["port"])
        start(d, "to", inet(port=str(first), to=min(first + 100, 65535)))
        ports = {i: int(servers(d)[i]["addresses"][0]["port"]) for i in ("n", "k", "h", "to")}
        equal(ports["to"] > first, True)
        for i, port in ports.items():
            w = Wire(("127.0.0.1", port)).go()
            equal(w.size, MIB)
            equal(probes(port), i != "k", "keep-alive of " + i)
            w.close()


def probes(port):
    """Whether the server's side of the connection to that port has the timer of probes (/proc/net/tcp)."""
    def timer():
        with open("/proc/net/tcp") as f:
            lines = [line.split() for line in f][1:]
        states = [line[5][:2] for line in lines if line[1].endswith(":%04X" % port) and line[3] == "01"]
        return states[0] if states in (["00"], ["02"]) else None  # no other timer
    return wait_until(timer, "nothing to be on its way") == "02"


@test
def refused_clients_are_logged(tmp):
    "the log says which client was refused and why, and not too often"
    with Daemon(tmp, *disk(tmp, "disk0", MIB, export=False), "--object", "authz-simple,id=nobody,identity=uid=4294967",
                "--export", "nbd,id=e,node-name=disk0,allow-open=nobody", server="handshake-max-seconds=1") as d:
        w = Wire(d.nbd_path)
        equal(w.verdict(OPT_GO, info_data("absent")), ERR_UNKNOWN)
        equal(w.verdict(OPT_GO, info_data("disk0")), ERR_POLICY)
        equal(w.verdict(0x7fffff77), ERR_UNSUP)
        w.send(option(OPT_EXPORT_NAME, b"absent\nalso"))
        w.ended()
        who = "NBD server 'default' refused client unix:pid=%d,uid=%d, uid=%d: " % (os.getpid(), os.geteuid(), os.geteuid())
        matches(d.log(), who + "export 'absent' not present")
        matches(d.log(), who + "you are not allowed to open export 'disk0'")
        matches(d.log(), who + r"export 'absent\\x0aalso' is not present, or not allowed")
        equal(str(0x7fffff77) in d.log(), False, "what clients try is no refusal")
        silent = Wire(d.nbd_path)
        silent.ended()
        wait_until(lambda: "did not open an export within 1 seconds" in d.log(), "the log")
        rude = Wire(d.nbd_path)
        for _ in range(500):
            rude.verdict(OPT_GO, info_data("flood"))
        rude.close()
        equal(d.log().count("'flood'") < 250, True, "the log was flooded")
        nbd = [area for area in d.qmp("query-log-levels") if area["area"] == "nbd"]
        equal(nbd[0]["logged"] + nbd[0]["dropped"] >= 504, True, "refusals that were counted: %r" % nbd)
        noted = [m for m in d.qmp("query-log") if "'flood'" in m["message"]]
        equal({(m["area"], m["level"], "session" in m, m["client"]) for m in noted},
              {("nbd", "warning", True, "unix:pid=%d,uid=%d" % (os.getpid(), os.geteuid()))})
        d.stop()
        matches(d.log(), r"warning: \.\.\. \d+ more of these in the last 10 s: NBD server .*'flood'")


@test
def activated(tmp):
    "systemd's socket activation passes sockets by name and by number (sd_listen_fds)"
    with listening(tmp + "/a") as a, listening(tmp + "/b") as b:
        wrapper = tmp + "/wrapper"
        with open(wrapper, "w") as f:
            f.write("#!/bin/bash\nexec 13<&%d 14<&%d\nexec 3<&13 4<&14 13<&- 14<&-\n"
                    "export LISTEN_PID=$$ LISTEN_FDS=2 LISTEN_FDNAMES=first:second\n"
                    "exec %s \"$@\"\n" % (a.fileno(), b.fileno(), TIDEMARKD))
        os.chmod(wrapper, 0o755)
        with Daemon(tmp, "--nbd-server", "addr.type=fd,addr.str=second",
                    "--nbd-server", "id=x,addr.type=fd,addr.str=3", *disk(tmp, "disk0", MIB),
                    nbd=False, binary=wrapper, pass_fds=(a.fileno(), b.fileno())) as d:
            equal([servers(d)[i]["addresses"][0]["path"] for i in ("default", "x")],
                  [tmp + "/b", tmp + "/a"])
            equal(Wire(tmp + "/a").go().size, MIB)
        a.settimeout(PATIENCE)
        late = socket.socket(socket.AF_UNIX)
        late.connect(tmp + "/a")  # the socket is as it was
        a.accept()[0].close()


@test
def descriptors_are_refused(tmp):
    "what a client sends to an NBD server or for metrics has no descriptors: closing those could wait"
    SO_PASSRIGHTS = 83
    with socket.socket(socket.AF_UNIX) as s:
        try:
            s.getsockopt(socket.SOL_SOCKET, SO_PASSRIGHTS)
        except OSError as e:
            skip("Linux before 6.16 takes them: %s" % e)
    with Daemon(tmp, *disk(tmp, "disk0", MIB), "--metrics", "addr.type=unix,addr.path=%s/m" % tmp) as d:
        for path in d.nbd_path, tmp + "/m":
            with socket.socket(socket.AF_UNIX) as s:
                s.connect(path)
                rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [0]))]
                raises(PermissionError, s.sendmsg, [b"x"], rights)


@test
def vsock(tmp):
    "vsock serves where the system has it; elsewhere the error says so"
    with Daemon(tmp, *disk(tmp, "disk0", MIB)) as d:
        for data, match in (({"cid": "x", "port": "1"}, "'cid' is 'x'"),
                            ({"cid": "1", "port": "-1"}, "'port' is '-1'")):
            raises(QMPError, start, d, "v", {"type": "vsock", "data": data}, match=match)
        try:
            start(d, "v", {"type": "vsock", "data": {"cid": "4294967295", "port": "4294967295"}})
        except QMPError as e:
            matches(e.desc, "has no vsock|vsock:")
            skip(e.desc)
        address = servers(d)["v"]["addresses"][0]
        equal(address["type"], "vsock")
        s = socket.socket(socket.AF_VSOCK)
        try:
            s.connect((1, int(address["port"])))
        except OSError as e:
            skip("no loopback: %s" % e)
        equal(s.recv(8), b"NBDMAGIC")


main()
