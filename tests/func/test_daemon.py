#!/usr/bin/python3
# SPDX-FileCopyrightText: 2026 The Tidemark authors
# SPDX-License-Identifier: GPL-2.0-or-later
"""tidemarkd's command line, and how it begins and ends. What isn't marked as ours alone holds for
qemu-storage-daemon too: TIDEMARKD=qemu-storage-daemon runs the file against it."""
import os
import stat

from harness import *

M = 1 << 20
PEER = os.path.basename(TIDEMARKD) == QSD


def ours():
    if PEER:
        skip("tidemarkd's own")


def refused(*args, match, check_line=True):
    """The daemon ends at once with status 1 and one line that says why."""
    done = run(TIDEMARKD, *args, check=False)
    equal(done.returncode, 1, "status of %s" % (args,))
    equal(done.stdout, "")
    if not PEER:
        equal(done.stderr.count("\n"), 1, "lines of %r" % done.stderr)
        equal(done.stderr.startswith("tidemarkd: "), True, done.stderr)
        matches(done.stderr, match)
    return done.stderr


def gone(path):
    return not os.path.exists(path)


@test
def version():
    "--version and -V print the version"
    for option in ("--version", "-V"):
        done = run(TIDEMARKD, option)
        matches(done.stdout, r"^(tidemarkd|qemu-storage-daemon) version \d+\.\d+")
        equal(done.stderr, "")


@test
def help_():
    "--help names every option, and wins over others"
    for args in (["--help"], ["-h"], ["--blockdev", "driver=null-co,node-name=n", "--help"]):
        text = run(TIDEMARKD, *args).stdout
        for option in ("blockdev", "nbd-server", "export", "chardev", "monitor", "pidfile", "daemonize",
                       "version", "help"):
            matches(text, r"--%s\b" % option)


@test
def refusals(tmp):
    "a mistake on the command line is one line on standard error, with status 1"
    node = ["--blockdev", "driver=null-co,node-name=n,size=1M"]
    server = ["--nbd-server", "addr.type=unix,addr.path=%s/s" % tmp]
    for args, match in (
            (["--nonsense"], "unrecognized option '--nonsense'"),
            (["stray"], "stray: Unexpected argument"),
            (["--blockdev"], "'--blockdev' requires an argument"),
            (["--version=1"], "doesn't allow an argument"),
            (["--blockdev", "node-name=n"], "driver"),
            (["--blockdev", "driver=nope,node-name=n"], "nope"),
            (["--blockdev", "driver=null-co"], "node-name"),
            (["--blockdev", "driver=null-co,node-name=n,sise=1"], "sise"),
            (["--blockdev", "driver=null-co,node-name=n,size=x"], "size"),
            (["--blockdev", "driver=null-co,node-name=n,read-only=perhaps"], "read-only"),
            (["--blockdev", '{"driver": "null-co", "node-name": '], "JSON"),
            (["--blockdev", '{"driver": "null-co", "node-name": "n", "size": "1M"}'], "size"),
            (["--blockdev", "driver=file,node-name=n,filename=%s/absent" % tmp],
             "absent.*No such file or directory"),
            (["--blockdev", "driver=file,node-name=n"], "filename"),
            (["--blockdev", "driver=raw,node-name=r,file=absent"], "absent"),
            (node + node, "'?n'?"),
            (["--export", "type=nbd,id=e,node-name=n"], "n|running"),
            (node + ["--export", "type=nbd,id=e,node-name=n"], "NBD server not running"),
            (node + server + ["--export", "type=nope,id=e,node-name=n"], "nope"),
            (node + server + ["--export", "type=nbd,id=e,node-name=m"], "m"),
            (node + server + ["--export", "type=nbd,id=e,node-name=n,bitmaps.0=b"], "b"),
            (node + server + ["--export", "type=nbd,id=e,node-name=n", "--export",
                              "type=nbd,id=e,node-name=n,name=o"], "e"),
            (server + server, "NBD server already running"),
            (["--nbd-server", "addr.type=unix"], "path"),
            (["--nbd-server", "addr.type=unix,addr.path=" + tmp + "/x" * 120], "path"),
            (["--nbd-server", "addr.type=unix,addr.path=%s/no/such/dir" % tmp], "No such file"),
            (["--nbd-server", "addr.type=inet,addr.host=127.0.0.1,addr.port=nonsense"], "nonsense"),
            (["--monitor", "chardev=absent"], "absent"),
            (["--monitor", "absent"], "absent"),
            (["--chardev", "nope,id=c"], "nope"),
            (["--chardev", "socket,id=c,path=%s/a,server=on,wait=off" % tmp] * 2, "c"),
            (["--pidfile", tmp + "/no/such/dir/pid"], "pid")):
        refused(*args, match=match)
    equal(os.path.exists(tmp + "/s"), False, "a socket of a failed start is left")


@test
def own_refusals(tmp):
    "a mistake in an option that QEMU does not have is reported in the same way"
    ours()
    refused("--io-engine", "steam", match="steam")
    refused("--nbd-server", "addr.type=inet,addr.host=127.0.0.1,addr.port=70000", match="70000")
    refused("--module", tmp + "/absent.so", match="absent.so")
    refused("--module-dir", tmp + "/absent", match="absent")
    image(tmp + "/text.so", 100)
    refused("--module", tmp + "/text.so", match="text.so")


@test
def help_of_values(tmp):
    "'help' as a value lists what there is, 'TYPE,help' the options of a type, and nothing is opened"
    for args, match in ((["--object", "help"], r"(?m)^  authz-list$"),
                        (["--object", "secret,help"], r"(?m)^  format=<"),
                        (["--chardev", "help"], r"(?m)^  socket$"),
                        (["--trace", "help"], "")):
        matches(run(TIDEMARKD, *args).stdout, match)
    ours()
    for args, match in ((["--blockdev", "help"], r"(?m)^  qcow2$"),
                        (["--blockdev", "driver=raw,help"], r"(?m)^  offset=<size> - "),
                        (["--export", "help"], r"(?m)^  nbd$"),
                        (["--export", "nbd,help"], r"(?m)^  node-name=<str> - .* \(required\)$"),
                        (["--chardev", "socket,help"], r"(?m)^  reconnect-ms=<int> - "),
                        (["--nbd-server", "help"], r"(?m)^  tls-creds=<str> - "),
                        (["--monitor", "?"], r"(?m)^  pretty=<bool> - ")):
        done = run(TIDEMARKD, "--nbd-server", "addr.type=unix,addr.path=%s/s" % tmp, "--pidfile", tmp + "/pid", *args)
        matches(done.stdout, match)
        equal((done.stderr, os.listdir(tmp)), ("", []))


@test
def did_you_mean(tmp):
    "an unknown value names the known ones and the nearest; an unknown parameter names its neighbour"
    ours()
    for args, match in (
            (["--blockdv", "null-co"], "unrecognized option '--blockdv': did you mean '--blockdev'\\?$"),
            (["--blockdev", "fiel,help"], "fiel"),
            (["--blockdev", "fiel,node-name=n"], "value 'fiel': did you mean 'file'\\? Expected one of .*raw, "),
            (["--blockdev", "null-co,node-name=n,discard=free"], "value 'free': expected one of ignore, unmap$"),
            (["--blockdev", "null-co,node-nmae=n"], "'node-nmae' is unexpected: did you mean 'node-name'\\?$"),
            (["--blockdev", "null-co,node-name=n,cache.dirct=on"], "'cache.dirct' .*did you mean 'direct'\\?$"),
            (["--blockdev", "null-co,node-name=n,zork=on"], "'zork' is unexpected$"),
            (["--object", "secrte,id=x"], "did you mean 'secret'\\?"),
            (["--chardev", "sokcet,id=c"], "did you mean 'socket'\\?"),
            (["--chardev", "null,id=c,logfiel=x"], "did you mean 'logfile'\\?"),
            (["--export", "nbd,id=e,node-name=n,writeable=on"], "did you mean 'writable'\\?")):
        refused(*args, match=match)
    with Daemon(tmp, nbd=False) as d:
        raises(QMPError, d.qmp, "query-block-export", match="not been found: did you mean 'query-block-exports'\\?$")
        raises(QMPError, d.qmp, "x" * 100000, match="has not been found$")
        raises(QMPError, d.qmp, "blockdev-add", driver="nulll-co", match="did you mean 'null-co'")


@test
def log_levels(tmp):
    "a ready line says that everything is up; --log-level hides it, and rejects what is no level"
    ours()
    args = ["--chardev", "stdio,id=c", "--monitor", "c"]
    for level, lines in ((None, 1), ("info", 1), ("warning", 0), ("error", 0), ("debug", None)):
        done = run(TIDEMARKD, *args, *(["--log-level", level] if level else []),
                   input='{"execute":"qmp_capabilities"}{"execute":"quit"}')
        if lines is not None:
            equal(done.stderr.count("\n"), lines, "lines with --log-level %s: %r" % (level, done.stderr))
        if lines != 0:
            matches(done.stderr, r"(?m)^tidemarkd: ready: process \d+, version ")
    refused("--log-level", "loud", match="--log-level loud: expected error, warning, info or debug")
    refused("--log-level", "nbd=loud", match="--log-level nbd=loud: loud: expected error, warning, info or debug")
    refused("--log-level", "info,nbs=debug", match="nbs=debug: no area 'nbs', expected one of daemon, qmp, nbd, ")
    refused("--blockdev", "driver=nope,node-name=n", match="nope")  # and no ready line


def levels(d):
    return {area["area"]: area["level"] for area in d.qmp("query-log-levels")}


@test
def log_areas(tmp):
    "each area of the log has a level, set by the command line and over QMP; query-log has the last messages"
    ours()
    with Daemon(tmp, *disk(tmp, "disk0", M), "--log-level", "warning,nbd=debug") as d:
        known = levels(d)
        equal((known.pop("nbd"), set(known.values())), ("debug", {"warning"}))
        d.nbd().shutdown()
        wait_until(lambda: " has ended: " in d.log(), "the log to have the end of a session")
        begin, end = d.qmp("query-log")
        matches(begin["message"], r"^session 1: client unix:pid=%d,.* opened export 'exp-disk0'$" % os.getpid())
        equal(end["message"], "session 1 of export 'exp-disk0' has ended: closed")
        equal([(m["area"], m["level"], m["export"], m["session"]) for m in (begin, end)],
              [("nbd", "debug", "exp-disk0", 1)] * 2)
        equal(begin["timestamp"]["seconds"] > 1e9, True)
        d.qmp("log-set-level", level="error")
        equal(set(levels(d).values()), {"error"})
        d.nbd().shutdown()
        d.qmp("log-set-level", level="debug", area="qmp")
        raises(QMPError, d.qmp, "blockdev-del", node_name="nosuch")
        d.qmp("object-add", qom_type="secret", id="s0", data="planted")
        equal([m["message"] for m in d.qmp("query-log", last=3)],
              ["command 'log-set-level'", "command 'blockdev-del': Failed to find node with node-name='nosuch'",
               "command 'object-add'"])
        raises(QMPError, d.qmp, "log-set-level", level="debug", area="nbs", match="did you mean 'nbd'|expected one of")
        equal("planted" in d.log(), False)


JOURNALD = "/lib/systemd/systemd-journald"
# A journal of our own, in a mount namespace; then the daemon with its standard error connected to it.
WITH_JOURNAL = """
mount --make-rprivate / && mkdir -p /run/systemd /run/log
mount -t tmpfs t /run/systemd && mount -t tmpfs t /run/log && mkdir -p /run/systemd/journal /run/log/journal
%s 2>/dev/null & journald=$!
for i in $(seq 1000); do [ -S /run/systemd/journal/stdout ] && break; sleep 0.01; done
echo '{"execute":"qmp_capabilities"}{"execute":"quit"}' |
    systemd-cat sh -c 'JOURNAL_STREAM=$(stat -L -c %%d:%%i /proc/self/fd/2) exec "$@"' sh "$@" >/dev/null
for i in $(seq 1000); do journalctl -t tidemarkd -o json | grep -q "'quit'" && break; sleep 0.01; done
journalctl -t tidemarkd -o json --no-pager
kill $journald
""" % JOURNALD


@test(needs=("unshare", "journalctl", "systemd-cat"))
def journal(tmp):
    "if standard error is the journal, messages are entries with fields"
    ours()
    if not os.path.exists(JOURNALD):
        skip("%s is not installed" % JOURNALD)
    if run("unshare", "-m", "true", check=False).returncode:
        skip("mount namespaces are not allowed here")
    done = run("unshare", "-m", "sh", "-c", WITH_JOURNAL, "sh", TIDEMARKD, "--log-level", "qmp=debug",
               "--chardev", "stdio,id=c", "--monitor", "c")
    entries = [json.loads(line) for line in done.stdout.splitlines()]
    equal([(e["MESSAGE"].split(":")[0], e["PRIORITY"], e["TIDEMARK_AREA"], e["_TRANSPORT"]) for e in entries],
          [("command 'chardev-add'", "7", "qmp", "journal"), ("ready", "6", "daemon", "journal"),
           ("command 'quit'", "7", "qmp", "journal")])


@test
def log_of_jobs_and_backups(tmp):
    "backups and jobs are logged: those that fail as warnings, the others for who asks for them"
    ours()
    with Daemon(tmp, *disk(tmp, "disk0", M), "--log-level", "warning,backup=debug", nbd=True) as d:
        d.qmp("block-dirty-bitmap-add", node="disk0", name="b")
        d.qmp("backup-begin", id="good", disks=[{"node": "disk0"}], scratch={"directory": tmp})
        d.qmp("backup-end", id="good", success=True)
        d.qmp("backup-begin", id="bad", disks=[{"node": "disk0"}], scratch={"directory": tmp})
        d.qmp("backup-end", id="bad", success=False)
        d.qmp("blockdev-create", job_id="j0", options={"driver": "qcow2", "file": "nosuch", "size": M})
        wait_until(lambda: any(m["area"] == "job" for m in d.qmp("query-log")), "the log of the job")
        equal([(m["area"], m["level"], m["message"].split(":")[0]) for m in d.qmp("query-log")],
              [("backup", "debug", "backup 'good' of 1 disks has begun"),
               ("backup", "debug", "backup 'good' has ended with success"),
               ("backup", "debug", "backup 'bad' of 1 disks has begun"),
               ("backup", "warning", "backup 'bad' has ended without success"),
               ("job", "warning", "job 'j0' has ended")])


@test
def trace(tmp):
    "--trace and -T are accepted, and the log says that there are no such events"
    for option in ("--trace", "-T"):
        done = run(TIDEMARKD, option, "no_such_event", "--chardev", "stdio,id=c", "--monitor", "c",
                   input='{"execute":"qmp_capabilities"}{"execute":"quit"}')
        matches(done.stderr, "warning: .*(no trace events|'no_such_event' does not exist)")


@test
def no_options():
    "without options the daemon says how to begin, and ends"
    ours()
    done = run(TIDEMARKD, check=False)
    equal((done.returncode, done.stdout), (1, ""))
    matches(done.stderr, "(?s)^Usage: .*--blockdev .*--nbd-server .*--export .*tidemark serve")


@test
def blockdev_forms(tmp):
    "--blockdev takes dotted keys, JSON, an implied driver, nested and stacked nodes"
    for name in "abcd":
        image(os.path.join(tmp, name), M)
    with Daemon(tmp, "--blockdev", "driver=file,node-name=a,filename=%s/a,cache.direct=off" % tmp,
                "--blockdev", json.dumps({"driver": "file", "node-name": "b", "filename": tmp + "/b",
                                          "read-only": True, "cache": {"direct": False}}),
                "--blockdev", "file,node-name=c,filename=%s/c" % tmp,
                "--blockdev", "driver=raw,node-name=ra,file=a",
                "--blockdev", "driver=raw,node-name=rd,file.driver=file,file.filename=%s/d,offset=512,"
                "size=4096" % tmp,
                "--blockdev=driver=null-co,node-name=n,size=2097152,read-zeroes=on") as d:
        nodes = {n["node-name"]: n for n in d.qmp("query-named-block-nodes", flat=True)}
        equal({"a", "b", "c", "ra", "rd", "n"} <= set(nodes), True, sorted(nodes))
        equal(nodes["b"]["ro"], True)
        equal(nodes["a"]["ro"], False)


@test
def exports(tmp):
    "--export takes names, descriptions, writable and several exports of a node, with QEMU's defaults"
    with Daemon(tmp, *disk(tmp, "disk0", M, export=False),
                "--export", "nbd,id=e0,node-name=disk0",
                "--export", "type=nbd,id=e1,node-name=disk0,name=other,description=the other one",
                "--export", json.dumps({"type": "nbd", "id": "e2", "node-name": "disk0", "name": "w",
                                        "writable": True})) as d:
        equal({e["id"] for e in d.qmp("query-block-exports")}, {"e0", "e1", "e2"})
        for name, read_only in (("disk0", True), ("other", True), ("w", False)):
            h = d.nbd(name)
            equal((name, h.is_read_only()), (name, read_only))
            h.shutdown()
        h = d.nbd("other", full_info=True)
        equal(h.get_export_description(), "the other one")
        h.shutdown()


@test
def export_bitmaps(tmp):
    "an export's bitmaps are a list in dotted keys, and shown only to clients that ask"
    with Daemon(tmp, *disk(tmp, "disk0", M, export=False)) as d:
        for name in ("b0", "b1", "b2"):
            d.qmp("block-dirty-bitmap-add", node="disk0", name=name)
        d.qmp("block-export-add", type="nbd", id="e", node_name="disk0", writable=True,
              bitmaps=["b0", "b1"])
        contexts = ["qemu:dirty-bitmap:b%d" % i for i in range(3)]
        h = d.nbd(contexts=contexts)
        equal([h.can_meta_context(c) for c in contexts], [True, True, False])
        h.pwrite(b"x", 65536)
        equal(dirty(h, "b0"), [(65536, 65536)])
        h.shutdown()
        equal([d.bitmap("disk0", "b%d" % i)["busy"] for i in range(3)], [True, True, False])


@test
def tcp_server(tmp):
    "--nbd-server serves on TCP and keeps to max-connections"
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    with Daemon(tmp, "--nbd-server", "addr.type=inet,addr.host=127.0.0.1,addr.port=%d,max-connections=2" % port,
                *disk(tmp, "disk0", M), nbd=False):
        import nbd
        h = nbd.NBD()
        h.connect_uri("nbd://127.0.0.1:%d/disk0" % port)
        equal(h.get_size(), M)
        h.shutdown()


@test
def monitors(tmp):
    "several monitors negotiate by themselves, plain or pretty"
    paths = [os.path.join(tmp, "m%d" % i) for i in range(3)]
    args = []
    for i, path in enumerate(paths):
        args += ["--chardev", "socket,id=x%d,server=on,wait=off,path=%s" % (i, path),
                 "--monitor", "chardev=x%d%s" % (i, ",mode=control" if i == 1 else "")]
    with Daemon(tmp, *args) as d:
        clients = [QMP(path, negotiate=False) for path in paths]
        clients[0]("qmp_capabilities")
        equal("version" not in clients[0]("query-version"), True)
        e = raises(QMPError, clients[1], "query-version")
        equal(e.cls, "CommandNotFound")
        clients[1]("qmp_capabilities")
        clients[2]("qmp_capabilities")
        clients[1]("blockdev-add", driver="null-co", node_name="n")
        equal([n["node-name"] for n in clients[2]("query-named-block-nodes")], ["n"])
        equal([n["node-name"] for n in d.qmp("query-named-block-nodes")], ["n"])
        for client in clients:
            client.close()


@test
def stdio(tmp):
    "a monitor works on standard input and output, and quit ends the daemon"
    done = run(TIDEMARKD, "--chardev", "stdio,id=c", "--monitor", "c",
               input='{"execute":"qmp_capabilities"}\n{"execute":"query-version","id":7}\n{"execute":"quit"}\n')
    messages = [json.loads(line) for line in done.stdout.splitlines()]
    equal("QMP" in messages[0], True)
    equal([m["return"] for m in messages if m.get("id") is None and "return" in m], [{}, {}])
    equal(len([m for m in messages if m.get("id") == 7]), 1)


@test
def quit_(tmp):
    "quit is answered, and then the daemon ends in order"
    with Daemon(tmp, *disk(tmp, "disk0", M)) as d:
        h = d.nbd()
        h.pwrite(b"abc", 0)
        equal(d.qmp("quit"), {})
        d.wait()
        equal([PEER or gone(d.nbd_path), gone(d.qmp_path)], [True, True])
    with open(tmp + "/disk0.img", "rb") as f:
        equal(f.read(3), b"abc")


@test
def exports_at_the_end(tmp):
    "quit sends BLOCK_EXPORT_DELETED of each export before the connection ends"
    with Daemon(tmp, *disk(tmp, "disk0", M), *disk(tmp, "disk1", M)) as d:
        q = d.monitor
        equal(q("quit"), {}) if not PEER else q.send({"execute": "quit"})
        for name in ("disk0", "disk1"):
            q.wait_event("BLOCK_EXPORT_DELETED", id="exp-" + name)
        d.wait()


@test
def signals(tmp):
    "SIGTERM and SIGINT finish what is in flight, remove sockets and PID file, and end with status 0"
    for signum in (signal.SIGTERM, signal.SIGINT):
        pidfile = os.path.join(tmp, "pid")
        with Daemon(tmp, "--pidfile", pidfile, *disk(tmp, "disk0", 64 * M)) as d:
            wait_until(lambda: os.path.exists(pidfile), "the pidfile")
            with open(pidfile) as f:
                equal(int(f.read()), d.pid)
            import nbd
            h = d.nbd()
            buffers = [nbd.Buffer.from_bytearray(bytearray(os.urandom(4 * M))) for _ in range(8)]
            acknowledged = []
            for i, buffer in enumerate(buffers):
                h.aio_pwrite(buffer, i * 4 * M,
                             completion=lambda error, i=i: acknowledged.append((i, error.value)) or 1)
            while not acknowledged:
                h.poll(-1)
            d.process.send_signal(signum)
            try:
                while h.aio_in_flight():
                    h.poll(-1)
            except nbd.Error:
                pass  # the connection ended
            d.wait()
            equal([PEER or gone(d.nbd_path), gone(d.qmp_path), gone(pidfile)], [True] * 3)
        with open(tmp + "/disk0.img", "rb") as f:
            for i, error in acknowledged:
                f.seek(i * 4 * M)
                if not error and f.read(4 * M) != bytes(buffers[i].to_bytearray()):
                    fail("write %d was acknowledged and isn't there" % i)


@test
def ending_with_idle_and_rude_clients(tmp):
    "clients that are idle or half-way through a handshake or request don't keep the daemon from ending"
    with Daemon(tmp, *disk(tmp, "disk0", M)) as d:
        h = d.nbd()
        rude = []
        for data in (b"", b"\0\0\0\3", b"\0\0\0\3IHAVEOPT\0\0\0\7\0\0\1\0abc"):
            s = socket.socket(socket.AF_UNIX)
            s.connect(d.nbd_path)
            s.sendall(data)
            rude.append(s)
        m = socket.socket(socket.AF_UNIX)
        m.connect(d.own_path if PEER else d.qmp_path)
        m.sendall(b'{"execute":')
        d.stop()
        for s in rude + [m]:
            s.close()
        raises(Exception, h.pread, 512, 0)


@test
def killed(tmp):
    "kill -9 leaves nothing that prevents a restart with the same command line"
    pidfile = os.path.join(tmp, "pid")
    args = ["--pidfile", pidfile] + disk(tmp, "disk0", M)
    for _ in range(2):
        d = Daemon(tmp, *args)
        wait_until(lambda: os.path.exists(pidfile), "the pidfile")
        h = d.nbd()
        h.pwrite(b"abc", 0)
        d.kill()
        equal(os.path.exists(d.nbd_path), True)
    with Daemon(tmp, *args) as d:
        equal(bytes(d.nbd().pread(3, 0)), b"abc")
        wait_until(lambda: open(pidfile).read().strip() == str(d.pid), "the pidfile to be rewritten")


@test
def daemonize(tmp):
    "--daemonize returns when everything is up and the PID file is written, detached from the caller"
    pidfile = os.path.join(tmp, "pid")
    nbd_path, qmp_path = os.path.join(tmp, "nbd"), os.path.join(tmp, "qmp")
    run(TIDEMARKD, "--daemonize", "--pidfile", pidfile,
        "--chardev", "socket,id=c,server=on,wait=off,path=" + qmp_path, "--monitor", "c",
        "--nbd-server", "addr.type=unix,addr.path=" + nbd_path, *disk(tmp, "disk0", M), timeout=20)
    with open(pidfile) as f:
        pid = int(f.read())
    try:
        q = QMP(qmp_path)
        equal(len(q("query-block-exports")), 1)
        if not PEER:
            equal(os.getsid(pid) != os.getsid(0), True)
            equal(os.readlink("/proc/%d/cwd" % pid), "/")
            equal([os.readlink("/proc/%d/fd/%d" % (pid, i)) for i in range(3)], ["/dev/null"] * 3)
        q("quit")
        wait_until(lambda: gone(pidfile), "the pidfile to go away")
        wait_until(lambda: gone("/proc/%d" % pid) or open("/proc/%d/stat" % pid).read().split()[2] == "Z",
                   "the daemon to end")
    finally:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            pass


@test
def daemonize_fails(tmp):
    "--daemonize passes errors on to the caller"
    ours()
    refused("--daemonize", "--blockdev", "driver=file,node-name=n,filename=%s/absent" % tmp, match="absent")
    refused("--daemonize", "--pidfile", tmp + "/no/such/pid", match="pid")


@test
def pidfile_in_use(tmp):
    "the PID file of a running daemon is refused, and kept"
    pidfile = os.path.join(tmp, "pid")
    with Daemon(tmp, "--pidfile", pidfile) as d:
        wait_until(lambda: os.path.exists(pidfile), "the pidfile")
        refused("--pidfile", pidfile, match="pid")
        with open(pidfile) as f:
            equal(int(f.read()), d.pid)
        equal(stat.S_IMODE(os.stat(pidfile).st_mode) & 0o022, 0)


@test
def engines(tmp):
    "each --io-engine reads and writes the same data"
    ours()
    for engine in ("threads", "io_uring", "auto"):
        started = run(TIDEMARKD, "--io-engine", engine, "--chardev", "stdio,id=c", "--monitor", "c",
                      input='{"execute":"qmp_capabilities"}{"execute":"quit"}', check=False)
        if started.returncode and engine == "io_uring":
            matches(started.stderr, "io_uring")
            continue
        with Daemon(tmp, "--io-engine", engine, *disk(tmp, "disk0", M)) as d:
            h = d.nbd()
            h.pwrite(engine.encode() * 1000, 12345)
            h.flush()
            equal(bytes(h.pread(len(engine) * 1000, 12345)), engine.encode() * 1000)
            h.shutdown()


@test
def descriptors(tmp):
    "clients that come and go leave no descriptors"
    with Daemon(tmp, *disk(tmp, "disk0", M)) as d:
        count = lambda: len(os.listdir("/proc/%d/fd" % d.pid))
        d.nbd().shutdown()
        wait_until(lambda: not PEER and count() or 1, "a count")
        before = count()
        for _ in range(50):
            d.nbd().shutdown()
            if not PEER:
                d.new_monitor().close()
        wait_until(lambda: count() <= before, "descriptors to be closed (%d before)" % before)


main()
