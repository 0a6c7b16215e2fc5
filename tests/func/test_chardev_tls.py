#!/usr/bin/python3
# SPDX-FileCopyrightText: 2026 The Tidemark authors
# SPDX-License-Identifier: GPL-2.0-or-later
"""Monitors over TLS, as servers and as clients."""
import select
import ssl
import threading

from harness import *
from tls import Authority, psk

CERTTOOL = ["certtool"]


class Monitored:
    """A daemon with a monitor for the test, and one over TLS on .address; with certificates of .authority."""

    def __init__(self, tmp, *options, objects=(), endpoint="server", creds=None):
        self.tmp = tmp
        self.authority = Authority(os.path.join(tmp, "ca"))
        self.certs = creds or self.authority.issue(os.path.join(tmp, endpoint), endpoint)
        kind = "psk" if creds else "x509"
        args = ["--object", "tls-creds-%s,id=t0,endpoint=%s,dir=%s" % (kind, endpoint, self.certs)]
        for o in objects:
            args += ["--object", o]
        self.d = Daemon(tmp, *args, "--chardev", ",".join(("socket", "id=t", "tls-creds=t0") + options), "--monitor", "t",
                        nbd=False)

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.d.__exit__(*error)

    def filename(self):
        return next(c["filename"] for c in self.d.qmp("query-chardev") if c["label"] == "t")

    def address(self):
        return "127.0.0.1", int(re.search(r":(\d+),", self.filename()).group(1))

    def context(self, name=None, authority=None):
        """A client's, with a certificate for that name."""
        context = ssl.create_default_context(cafile=self.authority.cert)
        if name:
            directory = (authority or self.authority).issue(os.path.join(self.tmp, name), "client", name)
            context.load_cert_chain(directory + "/client-cert.pem", directory + "/client-key.pem")
        return context

    def connect(self, context):
        plain = socket.create_connection(self.address(), PATIENCE)
        return QMP(context.wrap_socket(plain, server_hostname="localhost"))

    def refuses(self, context):
        """With TLS 1.3 a client hears of it when it reads."""
        try:
            self.connect(context).close()
        except (ssl.SSLError, ConnectionError, Failure):
            return
        fail("a client was accepted")


LISTEN = "host=127.0.0.1", "port=0", "server=on", "wait=off"


@test(needs=CERTTOOL)
def server(tmp):
    "a monitor speaks QMP with clients whose certificate is signed, however large messages are; not with others"
    with Monitored(tmp, *LISTEN) as m:
        other = Authority(os.path.join(tmp, "other"))
        for bad in (m.context(), m.context("stranger", other)):
            m.refuses(bad)
        with socket.create_connection(m.address(), PATIENCE) as plain:
            plain.sendall(b'{"execute": "quit"}\n')
            try:
                while plain.recv(100):
                    pass
            except ConnectionError:
                pass
        q = m.connect(m.context("alice"))
        for _ in range(3):
            equal(len(q("query-qmp-schema")) > 100, True)
        raises(QMPError, q, "chardev-remove", id="x" * 300000, match="not found")
        q.send(b'{"execute": "query-version"}\n' * 500)  # more than is read before it is answered
        equal(all("return" in q.reply() for _ in range(500)), True)
        q("object-add", {"qom-type": "iothread", "id": "i"})
        raises(QMPError, m.d.qmp, "object-del", id="t0", match="in use")
        q("quit")
        q.close()
        m.d.wait()
    matches(m.d.log(), "chardev 't': TLS with 127.0.0.1:\\d+ failed: .*certificate")


@test(needs=CERTTOOL)
def access_list(tmp):
    "tls-authz names the access list of clients that may connect"
    with Monitored(tmp, *LISTEN, "tls-authz=a0", objects=["authz-simple,id=a0,identity=O=Tests,,CN=alice"]) as m:
        m.refuses(m.context("bob"))
        q = m.connect(m.context("alice"))
        equal("package" in q("query-version"), True)
        q.close()
    matches(m.d.log(), "chardev 't': TLS with .* failed: the access list does not allow it")


@test(needs=CERTTOOL + ["gnutls-cli"])
def shared_key(tmp):
    "with tls-creds-psk both know a key"
    directory, path = psk(os.path.join(tmp, "psk"), "qemu")
    with open(path) as f:
        key = f.read().split(":")[1].strip()
    with Monitored(tmp, *LISTEN, creds=directory) as m:
        command = ["gnutls-cli", "--pskusername=qemu", "--pskkey=" + key, "--logfile=/dev/null", "-p",
                   str(m.address()[1]), "--priority=NORMAL:+ECDHE-PSK:+DHE-PSK:+PSK", "127.0.0.1"]
        p = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        watchdog = threading.Timer(PATIENCE, p.kill)
        watchdog.start()
        try:
            for line, match in ((None, '"QMP"'), ("qmp_capabilities", '"return": {}'), ("query-version", '"package"')):
                if line:
                    p.stdin.write('{"execute": "%s"}\n' % line)
                    p.stdin.flush()
                matches(next(l for l in p.stdout if l.startswith("{")), match)
        finally:
            watchdog.cancel()
            p.kill()
            p.communicate()


class Listener:
    """A TLS server that a monitor connects to."""

    def __init__(self, directory, name=None):
        self.context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=directory + "/ca-cert.pem")
        self.context.verify_mode = ssl.CERT_REQUIRED
        self.context.load_cert_chain(directory + "/server-cert.pem", directory + "/server-key.pem")
        self.sock = socket.create_server(("127.0.0.1", 0))
        self.sock.settimeout(PATIENCE)
        self.options = "host=127.0.0.1", "port=%d" % self.sock.getsockname()[1]

    def accepted(self):
        return QMP(self.context.wrap_socket(self.sock.accept()[0], server_side=True))


@test(needs=CERTTOOL)
def client(tmp):
    "a monitor that connects has a certificate, and verifies the server's; with reconnect-ms it tries again"
    certs = Authority(os.path.join(tmp, "ca"))
    s = Listener(certs.issue(os.path.join(tmp, "peer"), "server"))
    directory = certs.issue(os.path.join(tmp, "client"), "client")
    d = Daemon(tmp, "--object", "tls-creds-x509,id=t0,endpoint=client,dir=" + directory, "--chardev",
               ",".join(("socket", "id=t", "tls-creds=t0", "reconnect-ms=20") + s.options), "--monitor", "t", nbd=False)
    for _ in range(2):
        q = s.accepted()
        equal("package" in q("query-version"), True)
        q.close()
    d.qmp("quit")
    d.wait()


@test(needs=CERTTOOL)
def server_that_is_somebody_else(tmp):
    "a client does not speak with a server whose certificate is for another host, and says so once"
    certs = Authority(os.path.join(tmp, "ca"))
    directory = certs.issue(os.path.join(tmp, "client"), "client")
    s = Listener(certs.issue(os.path.join(tmp, "peer"), "server"))
    port = s.options[1]
    with Daemon(tmp, "--object", "tls-creds-x509,id=t0,endpoint=client,dir=" + directory, "--chardev",
                "socket,id=t,tls-creds=t0,reconnect-ms=20,host=127.0.0.2," + port, "--monitor", "t", nbd=False) as d:
        s.sock.close()
        at = socket.create_server(("127.0.0.2", int(port[5:])))
        at.settimeout(PATIENCE)
        for _ in range(3):
            raises((ssl.SSLError, ConnectionError), s.context.wrap_socket, at.accept()[0], server_side=True)
        wait_until(lambda: "TLS with 127.0.0.2:%s failed: " % port[5:] in d.log(), "the log to say so")
        equal(d.log().count("TLS with"), 1)
        d.qmp("query-version")


@test(needs=CERTTOOL)
def slow_handshakes(tmp):
    "who does not shake hands delays nobody, and the daemon can end"
    with Monitored(tmp, *LISTEN) as m:
        idle = [socket.create_connection(m.address()) for _ in range(3)]
        q = m.connect(m.context("alice"))
        equal("package" in q("query-version"), True)
        q.close()
        equal("package" in m.d.qmp("query-version"), True)
        m.d.qmp("quit")
        m.d.wait()
        for s in idle:
            s.close()


class Crowd(threading.Thread):
    """So many connections that say nothing. Each that the daemon ends is replaced at once."""

    def __init__(self, address, size):
        super().__init__()
        self.address, self.over, self.ended = address, False, 0
        self.poll, self.sockets = select.epoll(), {}
        for _ in range(size):
            self.add()

    def add(self):
        s = socket.create_connection(self.address, PATIENCE)
        self.sockets[s.fileno()] = s
        self.poll.register(s, select.EPOLLIN)

    def run(self):
        while not self.over:
            for fd, _ in self.poll.poll(0.1):
                self.sockets.pop(fd).close()
                self.ended += 1
                self.add()

    def __enter__(self):
        self.start()
        return self

    def __exit__(self, *error):
        self.over = True
        self.join()
        for s in self.sockets.values():
            s.close()


@test(needs=CERTTOOL)
def silent_crowd(tmp):
    "a crowd that connects again and again and says nothing keeps no client out; clients over the limit wait"
    with Monitored(tmp, *LISTEN) as m, Crowd(m.address(), 200) as crowd:
        context, clients = m.context("alice"), []
        for n in range(16):
            clients.append(m.connect(context))
            equal("package" in clients[-1]("query-version"), True)
        wait_until(lambda: "has 16 clients: others have to wait" in m.d.log(), "the channel to be full")
        equal(crowd.ended > 0, True)
        matches(m.d.log(), "64 connections have not finished their TLS handshakes: each new one ends the oldest")
        equal(m.filename().startswith("tcp:"), True)
        clients.pop().close()
        clients.append(m.connect(context))
        for q in clients:
            q.close()


@test(needs=CERTTOOL)
def many_at_once(tmp):
    "clients that have shaken hands while the channel became full are served when others leave"
    with Monitored(tmp, *LISTEN) as m:
        context, descriptors = m.context("alice"), "/proc/%d/fd" % m.d.process.pid
        before = len(os.listdir(descriptors))
        plain = [socket.create_connection(m.address(), PATIENCE) for _ in range(24)]
        wait_until(lambda: len(os.listdir(descriptors)) >= before + 24, "the daemon to accept them")
        pairs = [context.wrap_socket(s, server_hostname="localhost") for s in plain]
        for s in pairs[:16]:
            matches(s.recv(4096).decode(), "QMP")
        matches(m.d.log(), "has 16 clients: others have to wait")
        for s, waiting in zip(pairs, pairs[16:]):
            s.close()
            matches(waiting.recv(4096).decode(), "QMP")
        for s in pairs[8:]:
            s.close()


@test(needs=CERTTOOL)
def refusals(tmp):
    "TLS needs TCP and credentials of the right side; other protocols are refused by name"
    certs = Authority(os.path.join(tmp, "ca"))
    objects = []
    for side in ("server", "client"):
        objects += ["--object", "tls-creds-x509,id=%s,endpoint=%s,dir=%s" % (
            side, side, certs.issue(os.path.join(tmp, side), side))]
    tcp = "socket,id=c,host=127.0.0.1,port=0,server=on,wait=off,"
    cases = [(tcp + "tls-creds=nosuch", "No TLS credentials with id 'nosuch'"),
             (tcp + "tls-creds=client", "Expect.* TLS credentials .* server endpoint"),
             ("socket,id=c,host=127.0.0.1,port=1,tls-creds=server", "Expect.* TLS credentials .* client endpoint"),
             ("socket,id=c,path=%s/s,server=on,wait=off,tls-creds=server" % tmp, "incompatible with 'unix' address type"),
             (tcp + "tls-authz=server", "'tls.authz' option requires 'tls.creds' option")]
    cases += [(tcp + "tls-creds=server,tls-authz=nosuch", "nosuch"), (tcp + "telnet=on", "'telnet' option is not supported"),
              (tcp + "websocket", "'websocket' option is not supported"), (tcp + "tn3270=on", "'tn3270' option")]
    for option, match in cases:
        done = run(TIDEMARKD, *objects, "--chardev", option, check=False)
        equal(done.returncode, 1, option)
        matches(done.stderr, match)


main()
