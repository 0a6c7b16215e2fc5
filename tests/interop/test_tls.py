#!/usr/bin/python3
# SPDX-FileCopyrightText: 2026 The Tidemark authors
# SPDX-License-Identifier: GPL-2.0-or-later
"""TLS with real clients, and who may do what: certificates, pre-shared keys, users of a unix socket."""
import os
import shutil
import socket
import subprocess
import sys


from harness import *
import nbd
from tls import *

NEEDS = ["certtool"]
DN = "O=Tests,CN=%s"  # as QEMU writes it


class Pki:
    def __init__(self, tmp):
        self.tmp = tmp
        self.ca = Authority(os.path.join(tmp, "ca"))
        self.server = self.ca.issue(os.path.join(tmp, "server"), "server")

    def client(self, name="alice"):
        return self.ca.issue(os.path.join(self.tmp, name), "client", name)


def port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def connect(d, export="disk0", certificates=None, keys=None, user=None, contexts=()):
    """libnbd on the daemon's unix socket."""
    h = nbd.NBD()
    h.set_export_name(export)
    for c in contexts:
        h.add_meta_context(c)
    if certificates or keys:
        h.set_tls(nbd.TLS_REQUIRE)
    if certificates:
        h.set_tls_certificates(certificates)
        h.set_tls_verify_peer(False)  # a unix socket has no host name
    if keys:
        h.set_tls_psk_file(keys)
        h.set_tls_username(user)
    h.connect_unix(d.nbd_path)
    return h


def denied(d, *args, match="", **kwargs):
    raises(nbd.Error, connect, d, *args, match=match, **kwargs)


@test(needs=NEEDS + ["nbdinfo", "nbdcopy", "qemu-img", "qemu-io"])
def x509_clients(tmp):
    "with certificates over TCP nbdinfo, nbdcopy, qemu-img and qemu-io transfer data unharmed"
    pki, number = Pki(tmp), port()
    alice = pki.client()
    source = os.path.join(tmp, "random")
    with open(source, "wb") as f:
        f.write(os.urandom(20 << 20))
    path = os.path.join(tmp, "disk0.img")
    d = Daemon(tmp, "--object", x509(pki.server), "--nbd-server",
               "addr.type=inet,addr.host=127.0.0.1,addr.port=%d,tls-creds=t0" % number,
               *disk(tmp, "disk0", 20 << 20), nbd=False)
    uri = "nbds://127.0.0.1:%d/disk0?tls-certificates=%s" % (number, alice)
    with d:
        matches(run("nbdinfo", uri).stdout, "protocol: .*(using|TLS)")
        run("nbdcopy", source, uri)
        run("cmp", source, path)
        run("nbdcopy", uri, os.path.join(tmp, "back"))
        run("cmp", source, os.path.join(tmp, "back"))
        creds = "tls-creds-x509,id=c0,endpoint=client,dir=%s" % alice
        url = "driver=nbd,host=127.0.0.1,port=%d,export=disk0,tls-creds=c0" % number
        equal(run("qemu-img", "compare", "--object", creds, "--image-opts", url, "driver=raw,file.driver=file,"
                  "file.filename=%s" % source).stdout, "Images are identical.\n")
        run("qemu-io", "--object", creds, "--image-opts", "-c", "write -P 7 1000 3000000", "-c",
            "read -P 7 1000 3000000", url)
        equal(open(path, "rb").read()[1000:3001000], b"\7" * 3000000)
        plain = run("nbdinfo", "nbd://127.0.0.1:%d/disk0" % number, check=False)
        matches(plain.stderr, "Operation not supported")  # libnbd's words for it


@test(needs=["nbdinfo", "qemu-io"])
def psk_clients(tmp):
    "with pre-shared keys nbdinfo and qemu-io connect, and a wrong key or name does not"
    number = port()
    directory, keys = psk(os.path.join(tmp, "psk"), "alice", "bob")
    _, others = psk(os.path.join(tmp, "others"), "alice", "eve")
    with Daemon(tmp, "--object", "tls-creds-psk,id=t0,endpoint=server,dir=%s" % directory, "--nbd-server",
                "addr.type=inet,addr.host=127.0.0.1,addr.port=%d,tls-creds=t0" % number,
                *disk(tmp, "disk0", 1 << 20), nbd=False):
        uri = "nbds://%s@127.0.0.1:%d/disk0?tls-psk-file=%s"
        matches(run("nbdinfo", uri % ("bob", number, keys)).stdout, "export-size: 1048576")
        run("qemu-io", "--object", "tls-creds-psk,id=c0,endpoint=client,username=alice,dir=%s" % directory,
            "--image-opts", "-c", "write -P 7 0 64k", "-c", "read -P 7 0 64k",
            "driver=nbd,host=127.0.0.1,port=%d,export=disk0,tls-creds=c0" % number)
        for name in ("alice", "eve"):
            equal(run("nbdinfo", uri % (name, number, others), check=False).returncode, 1)


@test(needs=NEEDS + ["qemu-nbd"])
def other_clients(tmp):
    "nbdsh (python3 -m nbd), qemu-nbd --list and tidemark copy connect with certificates and with keys"
    pki, numbers = Pki(tmp), (port(), port())
    alice = pki.client()
    directory, keys = psk(os.path.join(tmp, "psk"), "bob")
    with Daemon(tmp, "--object", x509(pki.server), "--object",
                "tls-creds-psk,id=t1,endpoint=server,dir=%s" % directory,
                *(a for i, n in enumerate(numbers) for a in (
                    "--nbd-server", "id=s%d,addr.type=inet,addr.host=127.0.0.1,addr.port=%d,tls-creds=t%d" % (i, n, i))),
                *disk(tmp, "disk0", 8 << 20), nbd=False):
        uris = ("nbds://127.0.0.1:%d/disk0?tls-certificates=%s" % (numbers[0], alice),
                "nbds://bob@127.0.0.1:%d/disk0?tls-psk-file=%s" % (numbers[1], keys))
        creds = ("tls-creds-x509,id=c0,endpoint=client,dir=%s" % alice,
                 "tls-creds-psk,id=c0,endpoint=client,username=bob,dir=%s" % directory)
        for uri, number, cred in zip(uris, numbers, creds):
            equal(run(sys.executable, "-m", "nbd", "-c", "h.set_uri_allow_local_file(True)",
                      "-c", "h.connect_uri(%r)" % uri,
                      "-c", "print(h.get_size(), h.get_tls_negotiated())").stdout,
                  "8388608 True\n")
            matches(run("qemu-nbd", "--list", "-b", "127.0.0.1", "-p", number, "--object", cred,
                        "--tls-creds=c0").stdout, "export: 'disk0'")
            copy = os.path.join(tmp, "copy")
            tidemark("copy", uri, copy)
            run("cmp", copy, os.path.join(tmp, "disk0.img"))
            os.unlink(copy)


@test(needs=NEEDS + ["nbdkit"])
def other_servers(tmp):
    "tidemark copies from qemu-storage-daemon and nbdkit within TLS"
    pki = Pki(tmp)
    alice = pki.client()
    path = os.path.join(tmp, "disk0.img")
    with open(path, "wb") as f:
        f.write(os.urandom(3 << 20))
    sockets = [os.path.join(tmp, name) for name in ("q", "k")]
    servers = [subprocess.Popen(command, stderr=subprocess.DEVNULL) for command in (
        [QSD, "--object", x509(pki.server), "--nbd-server", "addr.type=unix,tls-creds=t0,addr.path=" + sockets[0],
         "--blockdev", "driver=file,node-name=d,read-only=on,filename=" + path, "--export", "nbd,id=e,node-name=d,name=d"],
        ["nbdkit", "-f", "-r", "--tls=require", "--tls-certificates=" + pki.server, "--tls-verify-peer",
         "-U", sockets[1], "file", path])]
    try:
        for s in sockets:
            wait_until(lambda: listens(s), "the server's socket")
            copy = os.path.join(tmp, "copy")
            tidemark("copy", "nbds+unix:///d?socket=%s&tls-certificates=%s&tls-hostname=localhost" % (s, alice), copy)
            run("cmp", copy, path)
            os.unlink(copy)
    finally:
        for server in servers:
            server.kill()
            server.wait()


@test
def users(tmp):
    "on a unix socket without TLS a client's identity is its user"
    uid = os.getuid()
    with Daemon(tmp, "--object", "authz-simple,id=me,identity=uid=%d" % uid, "--object",
                "authz-simple,id=you,identity=uid=%d" % (uid + 1), *disk(tmp, "disk0", 1 << 20)) as d:
        for name, who in (("mine", "me"), ("yours", "you")):
            d.qmp("block-export-add", type="nbd", id=name, node_name="disk0", name=name, allow_open=who,
                  allow_list=who)
        equal(connect(d, "mine").get_size(), 1 << 20)
        denied(d, "yours", match="no export named")


@test(needs=NEEDS)
def authorized(tmp):
    "tls-authz lets in the names on the access list, and nobody else"
    pki = Pki(tmp)
    with tls_server(tmp, x509(pki.server), "authz-list,id=a0,policy=deny,rules.0.match=" +
                    (DN % "alice").replace(",", ",,") + ",rules.0.policy=allow",
                    more="tls-creds=t0,tls-authz=a0") as d:
        equal(connect(d, certificates=pki.client("alice")).get_size(), 1 << 20)
        denied(d, certificates=pki.client("bob"))
        raises(QMPError, d.qmp, "object-del", match="'a0' is in use", id="a0")
        raises(QMPError, d.qmp, "object-del", match="'t0' is in use", id="t0")
        d.qmp("nbd-server-stop")
        d.qmp("object-del", id="a0")
        d.qmp("object-del", id="t0")


@test
def wrong_objects(tmp):
    "a server does not start with an object of the wrong type as credentials or access list"
    directory, _ = psk(os.path.join(tmp, "psk"), "qemu")
    address = {"type": "unix", "data": {"path": os.path.join(tmp, "s")}}
    with Daemon(tmp, "--object", "secret,id=s0,data=x", "--object",
                "tls-creds-psk,id=c0,endpoint=client,dir=%s" % directory, "--object",
                "tls-creds-psk,id=t0,endpoint=server,dir=%s" % directory, nbd=False) as d:
        for text, more in (("No TLS credentials with id 'none'", dict(tls_creds="none")),
                           ("Object with id 's0' is not TLS credentials", dict(tls_creds="s0")),
                           ("Expecting TLS credentials with a server endpoint", dict(tls_creds="c0")),
                           ("is not an access list", dict(tls_creds="t0", tls_authz="s0")),
                           ("No authorization object with id 'none'", dict(tls_creds="t0", tls_authz="none")),
                           ("needs tls-creds", dict(tls_authz="none")),
                           ("tls-required=on", dict(tls_creds="t0", tls_authz="a", tls_required=False))):
            raises(QMPError, d.qmp, "nbd-server-start", match=text, addr=address, **more)
        d.qmp("nbd-server-start", addr=address, tls_creds="t0")


@test
def exports(tmp):
    "each export says who may see, open and write it"
    directory, keys = psk(os.path.join(tmp, "psk"), "alice", "bob", "eve")
    objects = ["tls-creds-psk,id=t0,endpoint=server,dir=%s" % directory,
               "authz-list,id=both,rules.0.match=alice,rules.0.policy=allow,rules.1.match=bob,"
               "rules.1.policy=allow", "authz-simple,id=alice,identity=alice"]
    with tls_server(tmp, *objects, export=",allow-list=both,allow-open=both,allow-write=alice") as d:
        d.qmp("blockdev-add", driver="null-co", node_name="open", size=4096)
        d.qmp("block-export-add", type="nbd", id="open", node_name="open")

        def listed(user):
            h = nbd.NBD()
            h.set_tls(nbd.TLS_REQUIRE)
            h.set_tls_psk_file(keys)
            h.set_tls_username(user)
            h.set_opt_mode(True)
            h.connect_unix(d.nbd_path)
            names = []
            h.opt_list(lambda name, description: names.append(name))
            h.opt_abort()
            return sorted(names)

        equal(listed("alice"), ["disk0", "open"])
        equal(listed("eve"), ["open"])
        h = connect(d, keys=keys, user="alice")
        equal(h.is_read_only(), False)
        h.pwrite(b"x" * 512, 0)
        h = connect(d, keys=keys, user="bob", contexts=["base:allocation"])
        equal(h.is_read_only(), True)
        equal(h.pread(512, 0), b"x" * 512)
        h.set_strict_mode(0)
        raises(nbd.Error, h.pwrite, b"y" * 512, 0, match="Operation not permitted")
        denied(d, keys=keys, user="eve", match="no export named")
        equal(connect(d, "open", keys=keys, user="eve").get_size(), 4096)
        d.qmp("block-export-add", type="nbd", id="seen", node_name="open", name="seen", allow_open="alice")
        denied(d, "seen", keys=keys, user="bob", match="policy")
        raises(QMPError, d.qmp, "block-export-add", match="No authorization object with id 'none'",
               type="nbd", id="x", node_name="open", name="x", allow_open="none")
        raises(QMPError, d.qmp, "object-del", match="in use", id="alice")
        d.unexport("seen")


@test
def in_the_clear(tmp):
    "where TLS is optional, an export that needs an identity says so"
    directory, keys = psk(os.path.join(tmp, "psk"), "alice")
    with tls_server(tmp, "tls-creds-psk,id=t0,endpoint=server,dir=%s" % directory,
                    "authz-simple,id=alice,identity=alice", export=",allow-open=alice",
                    more="tls-creds=t0,tls-required=off") as d:
        denied(d, match="TLS")
        equal(connect(d, keys=keys, user="alice").get_size(), 1 << 20)


@test(needs=NEEDS)
def reload(tmp):
    "object-reload keeps sessions, and new ones get the new certificates"
    pki = Pki(tmp)
    alice = pki.client("alice")
    other = Authority(os.path.join(tmp, "other"))
    fresh = other.issue(os.path.join(tmp, "fresh"), "server")
    bob = other.issue(os.path.join(tmp, "bob"), "client", "bob")
    with tls_server(tmp, x509(pki.server)) as d:
        before = connect(d, certificates=alice)
        denied(d, certificates=bob)
        for name in ("ca-cert.pem", "server-cert.pem", "server-key.pem"):
            shutil.copy(os.path.join(fresh, name), os.path.join(pki.server, name))
        before.pwrite(b"x" * 512, 0)
        d.qmp("object-reload", id="t0")
        before.pwrite(b"y" * 512, 512)
        equal(before.pread(1024, 0), b"x" * 512 + b"y" * 512)
        equal(connect(d, certificates=bob).pread(512, 0), b"x" * 512)
        denied(d, certificates=alice)
        os.unlink(os.path.join(pki.server, "server-key.pem"))
        raises(QMPError, d.qmp, "object-reload", match="server-key.pem", id="t0")
        equal(connect(d, certificates=bob).get_size(), 1 << 20)


@test
def list_file(tmp):
    "authz-list-file: a change counts for the next client; a broken file lets nobody in"
    directory, keys = psk(os.path.join(tmp, "psk"), "alice", "bob")
    path = os.path.join(tmp, "who")

    def allow(name):
        with open(path + ".new", "w") as f:
            f.write('{"rules": [{"match": "%s", "policy": "allow"}]}' % name)
        os.rename(path + ".new", path)

    allow("alice")
    with tls_server(tmp, "tls-creds-psk,id=t0,endpoint=server,dir=%s" % directory,
                    "authz-list-file,id=a0,filename=%s" % path, more="tls-creds=t0,tls-authz=a0") as d:
        h = connect(d, keys=keys, user="alice")
        denied(d, keys=keys, user="bob")
        allow("bob")
        connect(d, keys=keys, user="bob")
        denied(d, keys=keys, user="alice")
        h.pread(512, 0)
        with open(path, "w") as f:
            f.write("{")
        denied(d, keys=keys, user="bob")
        allow("bob")
        connect(d, keys=keys, user="bob")


@test(needs=NEEDS)
def many(tmp):
    "many TLS sessions with deep queues and vanishing clients transfer all data unharmed"
    pki, size = Pki(tmp), 8 << 20
    alice = pki.client()
    with tls_server(tmp, x509(pki.server), size=size) as d:
        def client(number):
            h = connect(d, certificates=alice)
            base = number << 20
            for turn in range(3):
                data = os.urandom(1 << 20)
                cookies = [h.aio_pwrite(nbd.Buffer.from_bytearray(bytearray(data[i:i + 8192])), base + i)
                           for i in range(0, 1 << 20, 8192)]
                while any(not h.aio_command_completed(c) for c in cookies[-1:]):
                    h.poll(-1)
                while h.aio_in_flight():
                    h.poll(-1)
                buffers = []
                for i in range(0, 1 << 20, 8192):
                    buffers.append(nbd.Buffer(8192))
                    h.aio_pread(buffers[-1], base + i)
                while h.aio_in_flight():
                    h.poll(-1)
                equal(b"".join(bytes(b.to_bytearray()) for b in buffers) == data, True, "client %d" % number)
            if number % 2:
                h.shutdown()

        in_threads(*(lambda n=n: client(n) for n in range(8)))
        equal(connect(d, certificates=alice).get_size(), size)


main()
