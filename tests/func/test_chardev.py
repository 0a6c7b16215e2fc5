#!/usr/bin/python3
# SPDX-FileCopyrightText: 2026 The Tidemark authors
# SPDX-License-Identifier: GPL-2.0-or-later
"""The channels of monitors: --chardev, chardev-add and what they are made of. What isn't marked as ours alone holds for
qemu-storage-daemon too: TIDEMARKD=qemu-storage-daemon runs the file against it."""
import grp
import pwd
import stat

from harness import *

PEER = os.path.basename(TIDEMARKD) == QSD
HELLO = '{"execute":"qmp_capabilities"}\n'
REMOTE_MAX = 16  # QMP_CHARDEV_REMOTE_MAX


def ours():
    if PEER:
        skip("tidemarkd's own")


def start(tmp, *args, **more):
    """A daemon whose monitors are the test's business; it has no NBD server."""
    return Daemon(tmp, *args, nbd=False, qmp=False, **more)


def monitor(*chardev):
    """The options of a monitor on a channel c of that kind."""
    return ["--chardev", ",".join(chardev) + ",id=c", "--monitor", "chardev=c"]


def listener(family=socket.AF_UNIX, at=None):
    s = socket.socket(family)
    s.settimeout(PATIENCE)
    if family != socket.AF_UNIX:
        s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    s.bind(at)
    s.listen(5)
    return s


def accepted(s):
    """The monitor that connects to us."""
    return QMP(s.accept()[0])


def refused(match, *args):
    done = run(TIDEMARKD, *args, check=False)
    equal(done.returncode, 1, "status of %s" % (args,))
    matches(done.stderr, match)


def by_label(q):
    return {c["label"]: c for c in q("query-chardev")}


def quit_(d, q):
    equal(q("quit"), {})
    q.close()
    d.wait()


def connected(path):
    """A client of a socket that is about to listen."""
    def attempt():
        try:
            return QMP(path, peer=PEER)
        except OSError:
            return None
    return wait_until(attempt, "the monitor at %s" % (path,))


@test
def inherited_connection(tmp):
    "fd=N is one end of a socket pair that the daemon was started with"
    here, there = socket.socketpair()
    with there:
        d = start(tmp, *monitor("socket", "fd=%d" % there.fileno()), pass_fds=[there.fileno()])
    q = QMP(here)
    equal(by_label(q)["c"]["frontend-open"], True)
    quit_(d, q)


@test
def inherited_listener(tmp):
    "fd=N with server=on is a listening socket that the daemon was started with"
    with listener(at=tmp + "/s") as s:
        d = start(tmp, *monitor("socket", "fd=%d" % s.fileno(), "server=on", "wait=off"), pass_fds=[s.fileno()])
    quit_(d, connected(tmp + "/s"))
    if not PEER:
        equal(os.path.exists(tmp + "/s"), True, "the file of another's socket is removed")


@test
def inherited_of_the_wrong_kind(tmp):
    "a listening socket is no connection, a connection no listening socket, and neither is what is not there"
    ours()
    here, there = socket.socketpair()
    with here, there, listener(at=tmp + "/s") as s:
        for option, match in (("fd=%d" % s.fileno(), "not started with a connected socket"),
                              ("fd=%d,server=on" % there.fileno(), "not started with a listening socket"),
                              ("fd=250", "not started with a connected socket '250'"),
                              ("fd=nothing", "not started with a connected socket 'nothing'")):
            p = subprocess.run([TIDEMARKD, "--chardev", "socket,id=c," + option], stderr=subprocess.PIPE, text=True,
                               pass_fds=[s.fileno(), there.fileno()], timeout=PATIENCE)
            equal(p.returncode, 1)
            matches(p.stderr, match)


@test
def client(tmp):
    "by default a socket connects to a server, which gets a monitor; without one the start fails"
    path = tmp + "/s"
    refused("Failed to connect to '%s': No such file" % path, "--chardev", "socket,id=c,path=" + path)
    with listener(at=path) as s:
        d = start(tmp, *monitor("socket", "path=" + path))
        q = accepted(s)
        quit_(d, q)
    equal(os.path.exists(path), True)


@test
def reconnecting(tmp):
    "reconnect: a client connects when its server is there, and again when it has gone"
    path = tmp + "/s"
    d = start(tmp, *monitor("socket", "path=" + path, "reconnect=1" if PEER else "reconnect-ms=20"))
    with listener(at=path) as s:
        for _ in range(2):
            q = accepted(s)
            matches(by_label(q)["c"]["filename"], "^unix:")
            q.close()
        os.unlink(path)
    with listener(at=path) as s:
        quit_(d, accepted(s))


@test
def reconnecting_in_the_background(tmp):
    "a relative path means the same after --daemonize"
    ours()
    with listener(at=tmp + "/s") as s:
        run(TIDEMARKD, "--daemonize", *monitor("socket", "path=s", "reconnect-ms=20"), cwd=tmp)
        accepted(s).close()
        q = accepted(s)
        equal(by_label(q)["c"]["filename"], "unix:%s/s" % os.path.realpath(tmp))
        equal(q("quit"), {})
        equal(q.reply(), None)
        q.close()


@test
def reconnecting_over_tcp(tmp):
    "the same over TCP, to a host by its name"
    with listener(socket.AF_INET, ("127.0.0.1", 0)) as s:
        port = s.getsockname()[1]
        d = start(tmp, *monitor("socket", "host=localhost", "port=%d" % port, "ipv4=on",
                                "reconnect=1" if PEER else "reconnect-ms=20"))
        accepted(s).close()
        q = accepted(s)
    q.close()
    if not PEER:
        failed = "chardev 'c': Failed to connect to 'localhost:%d': Connection refused; trying again every 20 ms" % port
        wait_until(lambda: failed in d.log(), "the log to say so")
    with listener(socket.AF_INET, ("127.0.0.1", port)) as s:
        quit_(d, accepted(s))


@test
def tcp(tmp):
    "server=on with a host listens on TCP, of one family, at the first free port up to 'to'"
    with listener(socket.AF_INET, ("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with start(tmp, "--chardev", "socket,id=t,host=localhost,ipv4=on,port=%d,to=%d,server=on,wait=off" %
                   (port, min(port + 50, 65535)), "--monitor", "t",
                   *monitor("socket", "path=" + tmp + "/q", "server=on", "wait=off")) as d:
            q = connected(tmp + "/q")
            matches(by_label(q)["t"]["filename"], r"^disconnected:tcp:127\.0\.0\.1:\d+,server=on")
            bound = int(re.search(r":(\d+),", by_label(q)["t"]["filename"]).group(1))
            equal(bound > port, True)
            over = QMP(("127.0.0.1", bound), peer=PEER)
            matches(by_label(over)["t"]["filename"],
                    r"^tcp:127\.0\.0\.1:%d,server=on <-> 127\.0\.0\.1:%d$" % (bound, over.sock.getsockname()[1]))
            over.close()
            q.close()


@test
def tcp_clients_are_bounded(tmp):
    "over TCP so many clients at a time; the next one waits until another leaves"
    ours()
    with start(tmp, *monitor("socket", "host=127.0.0.1", "port=0", "server=on", "wait=off"),
               "--chardev", "socket,id=u,path=%s/q,server=on,wait=off" % tmp, "--monitor", "u") as d:
        q = connected(tmp + "/q")
        address = ("127.0.0.1", int(re.search(r":(\d+),", by_label(q)["c"]["filename"]).group(1)))
        clients = [QMP(address) for _ in range(REMOTE_MAX)]
        wait_until(lambda: "others have to wait" in d.log(), "the log to say so")
        with socket.create_connection(address) as waiting:
            waiting.settimeout(PATIENCE)
            q("query-version")  # the main loop has had its turn
            equal(select.select([waiting], [], [], 0)[0], [], "one too many is greeted")
            clients.pop().close()
            matches(waiting.recv(6).decode(), '{"QMP"')
        for c in clients:
            equal("package" in c("query-version"), True)
            c.close()


@test
def abstract(tmp):
    "an abstract socket has no file; with tight=off its name is filled up"
    for i, (option, name) in enumerate((("tight=on", b"\0tm%d-0" % os.getpid()),
                                        ("tight=off", (b"\0tm%d-1" % os.getpid()).ljust(108, b"\0")))):
        d = start(tmp, *monitor("socket", "path=tm%d-%d" % (os.getpid(), i), "abstract=on", option, "server=on",
                                "wait=off"), name="d%d" % i)

        def attempt():
            s = socket.socket(socket.AF_UNIX)
            try:
                s.connect(name)
            except OSError:
                return s.close()
            return s
        q = QMP(wait_until(attempt, "the abstract socket"), peer=PEER)
        matches(by_label(q)["c"]["filename"], "^unix:" if PEER else "^unix:tm.*,abstract=on,%s,server=on" % option)
        quit_(d, q)


@test
def waiting(tmp):
    "wait=on, the default, stops the start until the first client has come, who gets the monitor"
    pidfile, path = tmp + "/pid", tmp + "/q"
    d = start(tmp, "--pidfile", pidfile, *monitor("socket", "path=" + path, "server=on"))
    wait_until(lambda: "waiting for" in d.log() and os.path.exists(path), "the daemon to wait")
    equal(os.path.exists(pidfile), False)
    q = connected(path)
    wait_until(lambda: os.path.exists(pidfile), "the start to go on")
    equal("package" in q("query-version"), True)
    quit_(d, q)


@test
def waiting_ends(tmp):
    "SIGTERM ends a start that waits for a client"
    ours()
    d = start(tmp, *monitor("socket", "path=%s/q" % tmp, "server=on"))
    wait_until(lambda: "waiting for" in d.log(), "the daemon to wait")
    d.process.send_signal(signal.SIGTERM)
    d.wait(status=1)
    matches(d.log(), "a signal came before the first client of chardev 'c'")
    equal(os.path.exists(tmp + "/q"), False)


@test
def short_forms(tmp):
    "'server,nowait' are short for server=on,wait=off"
    d = start(tmp, *monitor("socket", "path=" + tmp + "/q", "server", "nowait", "nodelay"))
    quit_(d, connected(tmp + "/q"))


@test
def json_option(tmp):
    "--chardev takes the arguments of chardev-add as JSON"
    ours()
    d = start(tmp, "--chardev", json.dumps({"id": "c", "backend": {"type": "socket", "data": {
        "addr": {"type": "unix", "data": {"path": tmp + "/q"}}}}}), "--monitor", "c")
    quit_(d, connected(tmp + "/q"))


@test
def files(tmp):
    "file reads commands from one file and writes the replies to another"
    if PEER:
        skip("of newer versions")
    with open(tmp + "/in", "w") as f:
        f.write(HELLO + '{"execute":"query-version","id":"v"}\n{"execute":"quit"}\n')
    run(TIDEMARKD, *monitor("file", "path=" + tmp + "/out", "input-path=" + tmp + "/in"))
    with open(tmp + "/out") as f:
        messages = [json.loads(line) for line in f]
    equal([m.get("id") for m in messages if "return" in m], [None, "v", None])


@test
def log_file(tmp):
    "logfile has what was sent; logappend keeps what was in it"
    for append, expected in (("off", 1), ("on", 2), ("off", 1)):
        run(TIDEMARKD, *monitor("stdio", "logfile=" + tmp + "/log", "logappend=" + append),
            input=HELLO + '{"execute":"quit"}\n')
        with open(tmp + "/log") as f:
            text = f.read()
        equal(text.count('"QMP"'), expected, "greetings with logappend=" + append)
        equal(text.count('{"return": {}}'), 2 * expected)


@test
def null(tmp):
    "null swallows what is sent"
    with start(tmp, *monitor("null", "logfile=" + tmp + "/log"),
               "--chardev", "socket,id=u,path=%s/q,server=on,wait=off" % tmp, "--monitor", "u") as d:
        q = connected(tmp + "/q")
        equal(by_label(q)["c"], {"label": "c", "filename": "null", "frontend-open": True})
        with open(tmp + "/log") as f:
            matches(f.read(), '' if PEER else '"QMP"')
        q.close()


@test
def pty(tmp):
    "pty: whoever opens the terminal gets a monitor, and so does the next one"
    with start(tmp, *monitor("pty"), "--chardev", "socket,id=u,path=%s/q,server=on,wait=off" % tmp,
               "--monitor", "u") as d:
        q = connected(tmp + "/q")
        name = by_label(q)["c"]["filename"]
        matches(name, "^pty:/dev/pts/")
        def greeted():
            """A client that is greeted. One that comes before the last one's end is noticed takes that one's place."""
            f = os.fdopen(os.open(name[4:], os.O_RDWR | os.O_NOCTTY), "r+b", buffering=0)
            if select.select([f], [], [], 0.5)[0]:
                return f
            return f.close()
        for _ in range(2):
            with wait_until(greeted, "a greeting") as f:
                text = b""
                while b'"QMP"' not in text:
                    text += f.read(4096)
                f.write(HELLO.encode())
                while b'{"return": {}}' not in text:
                    text += f.read(4096)
        q.close()


@test
def commands(tmp):
    "chardev-add and chardev-remove make and remove channels, query-chardev shows them"
    with Daemon(tmp, nbd=False, **({"binary": QSD} if PEER else {})) as d:
        names = {b["name"] for b in d.qmp("query-chardev-backends")}
        equal({"file", "null", "pty", "socket", "stdio"} <= names, True, names)

        def add(name, kind, **data):
            return d.qmp("chardev-add", id=name, backend={"type": kind, "data": data})
        unix = {"type": "unix", "data": {"path": tmp + "/u"}}
        equal(add("n", "null"), {})
        raises(QMPError, add, "n", "null", match="Chardev with id 'n' already exists")
        equal(os.path.exists(add("p", "pty")["pty"]), True)
        equal(add("f", "file", out=tmp + "/out"), {})
        equal(add("u", "socket", addr=unix), {})
        equal(os.path.exists(tmp + "/u"), True)
        equal(add("i", "socket", addr={"type": "inet", "data": {"host": "127.0.0.1", "port": "0"}}), {})
        raises(QMPError, add, "x", "socket", addr={"type": "unix", "data": {"path": tmp + "/x"}}, server=False,
               match="Failed to add chardev 'x': Failed to connect to '%s/x': No such file" % tmp)
        raises(QMPError, add, "x", "file", out=tmp + "/no/such", match="Failed to add chardev 'x'.*No such file")
        raises(QMPError, add, "x", "socket", addr=unix, reconnect=1, match="incompatible with socket in server listen")
        raises(QMPError, add, "x", "nope", match="does not accept value 'nope'")
        raises(QMPError, add, "x", "null", logfile=tmp + "/no/such", match="nable to open logfile|ould not create")
        shown = by_label(d.qmp)
        equal([shown[x]["frontend-open"] for x in ("n", "p", "f", "u", "i", "c0")], [False] * 5 + [True])
        equal([shown[x]["filename"] for x in ("n", "f", "u")],
              ["null", "file", "disconnected:unix:%s/u,server=on" % tmp])
        for name in ("n", "p", "f", "u", "i"):
            equal(d.qmp("chardev-remove", id=name), {})
        equal(os.path.exists(tmp + "/u"), False)
        raises(QMPError, d.qmp, "chardev-remove", id="n", match="Chardev 'n' not found")
        raises(QMPError, d.qmp, "chardev-remove", id="c0", match="Chardev 'c0' is busy")


@test
def waiting_command(tmp):
    "chardev-add with wait=on is answered when a client has come, or with an error at SIGTERM"
    def ask(name):
        q.send({"execute": "chardev-add", "arguments": {"id": name, "backend": {"type": "socket", "data": {
            "addr": {"type": "unix", "data": {"path": tmp + "/" + name}}, "server": True, "wait": True}}}})
        wait_until(lambda: "%s,server=on" % name in d.log(), "the daemon to wait")
        equal(select.select([q.sock], [], [], 0)[0], [], "answered before a client has come")

    d = start(tmp, *monitor("socket", "path=" + tmp + "/q", "server=on", "wait=off"))
    q = connected(tmp + "/q")
    ask("a")
    with socket.socket(socket.AF_UNIX) as s:
        s.connect(tmp + "/a")
        equal(q.reply(), {"return": {}})
    equal("a" in by_label(q), True)
    if not PEER:  # QSD does not hear the signal
        ask("b")
        d.process.send_signal(signal.SIGTERM)
        matches(q.reply()["error"]["desc"], "a signal came before the first client of chardev 'b'")
        d.wait()
    else:
        quit_(d, q)


@test
def waiting_command_and_reload(tmp):
    "chardev-add with wait=on that SIGHUP ends leaves nothing; the daemon goes on, and the command can be repeated"
    ours()
    def ask(n):
        q.send({"execute": "chardev-add", "arguments": {"id": "b", "backend": {"type": "socket", "data": {
            "addr": {"type": "unix", "data": {"path": tmp + "/b"}}, "server": True, "wait": True}}}})
        wait_until(lambda: d.log().count("waiting for a connection") == n, "the daemon to wait")

    with open(tmp + "/config", "w") as f:
        f.write("{}")
    with start(tmp, "--config", tmp + "/config", *monitor("socket", "path=" + tmp + "/q", "server=on", "wait=off")) as d:
        q = connected(tmp + "/q")
        for n in (1, 2):
            ask(n)
            d.process.send_signal(signal.SIGHUP)
            matches(q.reply()["error"]["desc"], "a signal came before the first client of chardev 'b'")
            wait_until(lambda: d.log().count("reload: done") == n, "the reload")
            equal(("b" in by_label(q), os.path.exists(tmp + "/b")), (False, False))
        ask(3)
        with socket.socket(socket.AF_UNIX) as s:
            s.connect(tmp + "/b")
            equal(q.reply(), {"return": {}})
        equal("b" in by_label(q), True)
        q.close()


@test
def refusals(tmp):
    "a channel that can't be made ends the start, also if no monitor uses it"
    image(tmp + "/taken", 1)
    for option, match in (
            ("socket,id=c", "path.*fd.*host|FD number"),
            ("socket,id=c,path=%s/a,fd=3,server=on,wait=off" % tmp, "path.*fd.*host"),
            ("socket,id=c,path=%s/no/such/s,server=on,wait=off" % tmp, "No such file"),
            ("socket,id=c,path=%s/a,server=on,wait=perhaps" % tmp, "'wait' expects 'on' or 'off'"),
            ("socket,id=c,path=%s/a,server=on,wait=off,bogus=1" % tmp, "bogus"),
            ("socket,id=c,path=%s/a,server=on,wait=off,reconnect=1" % tmp, "incompatible with socket in server"),
            ("socket,id=c,path=%s/a,wait=on,reconnect=1" % tmp, "'wait' option is incompatible"),
            ("socket,id=c,path=%s/a,wait=off,reconnect=1" % tmp, "'wait' option is incompatible"),
            ("socket,id=c,host=127.0.0.1,server=on,wait=off", "no port given"),
            ("socket,id=c,host=127.0.0.1,port=1", "Connection refused"),
            ("socket,id=1,path=%s/a,server=on,wait=off" % tmp, "'id' expects an identifier"),
            ("file,id=c", "path|filename"),
            ("file,id=c,path=%s/no/such/f" % tmp, "No such file"),
            ("null,id=c,logfile=%s/no/such/f" % tmp, "No such file"),
            ("braille,id=c", "braille"),
            ("socket,path=%s/a,server=on,wait=off" % tmp, "id")):
        refused(match, "--chardev", option)
    refused("stdio", "--chardev", "stdio,id=a", "--chardev", "stdio,id=b")
    if not PEER:
        refused("expected 0001 to 0777", "--chardev", "socket,id=c,path=%s/a,server=on,mode=888" % tmp)
        refused("user 'nobody-there' does not exist", "--chardev",
                "socket,id=c,path=%s/a,server=on,owner=nobody-there" % tmp)


def rights(path):
    s = os.stat(path)
    return stat.S_IMODE(s.st_mode), s.st_uid, s.st_gid


@test
def socket_rights(tmp):
    "mode, owner and group of the sockets of monitors and NBD servers, from the command line and over QMP"
    ours()
    if os.geteuid():
        skip("needs root")
    daemon, games = pwd.getpwnam("daemon"), grp.getgrnam("games")
    q, n = tmp + "/q", tmp + "/n"
    with start(tmp, *monitor("socket", "path=" + q, "server=on", "wait=off", "mode=0660", "group=games"),
               "--nbd-server", "addr.type=unix,addr.path=%s,addr.mode=0666,addr.owner=daemon" % n) as d:
        client = connected(q)
        equal(rights(q), (0o660, 0, games.gr_gid))
        equal(rights(n), (0o666, daemon.pw_uid, 0))
        at = lambda name, **more: {"type": "unix", "data": dict(path=tmp + name, **more)}
        client("nbd-server-start", id="two", addr=at("/n2", mode="0600", owner=str(daemon.pw_uid), group="games"))
        client("chardev-add", id="x", backend={"type": "socket", "data": {"addr": at("/q2", mode="620")}})
        client("nbd-server-start", id="three", addr=at("/n3"))
        equal([rights(tmp + name) for name in ("/n2", "/q2", "/n3")],
              [(0o600, daemon.pw_uid, games.gr_gid), (0o620, 0, 0), (0o600, 0, 0)])
        raises(QMPError, client, "nbd-server-start", id="four", addr=at("/n4", group="nobody-there"),
               match="group 'nobody-there' does not exist")
        raises(QMPError, client, "nbd-server-start", id="four", addr=at("/n4", mode="rw"), match="'mode' is 'rw'")
        equal(os.path.exists(tmp + "/n4"), False)
        raises(QMPError, client, "nbd-server-start", id="four", addr=at("", abstract=True, mode="0666"),
               match="abstract address has no 'mode'")
        client.close()


@test
def socket_rights_of_user(tmp):
    "with --user the sockets belong to that user, those of the command line too; who is not root can give none away"
    ours()
    if os.geteuid():
        skip("needs root")
    daemon, games = pwd.getpwnam("daemon"), grp.getgrnam("games")
    os.chown(tmp, daemon.pw_uid, -1)
    above = os.path.dirname(tmp)
    os.chmod(above, os.stat(above).st_mode | 0o011)
    q, n = tmp + "/q", tmp + "/n"
    with start(tmp, *monitor("socket", "path=" + q, "server=on", "wait=off"),
               "--nbd-server", "addr.type=unix,addr.path=%s,addr.mode=0660,addr.group=games" % n,
               "--user", "daemon") as d:
        client = connected(q)
        wait_until(lambda: os.stat("/proc/%d" % d.pid).st_uid == daemon.pw_uid, "the daemon to be that user")
        equal(rights(q), (0o600, daemon.pw_uid, daemon.pw_gid))
        equal(rights(n), (0o660, daemon.pw_uid, games.gr_gid))
        at = lambda name, **more: {"type": "unix", "data": dict(path=tmp + name, **more)}
        client("nbd-server-start", id="two", addr=at("/n2", mode="0666"))
        equal(rights(tmp + "/n2"), (0o666, daemon.pw_uid, daemon.pw_gid))
        raises(QMPError, client, "nbd-server-start", id="three", addr=at("/n3", owner="games"),
               match="Failed to change the owner of socket %s/n3: Operation not permitted" % tmp)
        equal(os.path.exists(tmp + "/n3"), False)
        client.close()
    equal([os.path.exists(tmp + name) for name in ("/q", "/n", "/n2")], [False] * 3)


main()
