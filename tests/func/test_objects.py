#!/usr/bin/python3
# SPDX-FileCopyrightText: 2026 The Tidemark authors
# SPDX-License-Identifier: GPL-2.0-or-later
"""Objects that users create: object-add, object-del, object-reload, query-objects, --object."""
import base64
import os
import resource
import shutil
import signal

from harness import *
import nbd
from tls import *


def refused(d, match, **kwargs):
    raises(QMPError, d.qmp, "object-add", match=match, **kwargs)


@test
def secrets(tmp):
    "secrets come from text or a file, raw or in base64, and errors name what is wrong"
    path = os.path.join(tmp, "password")
    with open(path, "w") as f:
        f.write("letmein")
    with Daemon(tmp, "--object", "secret,id=s0,file=%s" % path) as d:
        d.qmp("object-add", **{"qom-type": "secret"}, id="s1", data="letmein")
        d.qmp("object-add", **{"qom-type": "secret"}, id="s2", format="base64",
              data=base64.b64encode(b"\0\xff").decode())
        equal(d.qmp("query-objects"), [
            {"qom-type": "secret", "id": "s%d" % i, "in-use": False} for i in range(3)])
        refused(d, "Either 'file' or 'data' must be provided", **{"qom-type": "secret"}, id="x")
        refused(d, "mutually exclusive", **{"qom-type": "secret"}, id="x", data="a", file=path)
        refused(d, "Unable to read .*/none", **{"qom-type": "secret"}, id="x",
                file=os.path.join(tmp, "none"))
        refused(d, "'x' is not valid base64", **{"qom-type": "secret"}, id="x", format="base64",
                data="no base64!")
        refused(d, "duplicate property 's0'", **{"qom-type": "secret"}, id="s0", data="a")
        refused(d, "'id' expects an identifier", **{"qom-type": "secret"}, id="0s", data="a")
        refused(d, "'qom-type' does not accept value 'nonsense'", **{"qom-type": "nonsense"}, id="x")
        d.qmp("object-del", id="s1")
        raises(QMPError, d.qmp, "object-del", match="object 's1' not found", id="s1")
        equal([o["id"] for o in d.qmp("query-objects")], ["s0", "s2"])


@test
def untold(tmp):
    "an error about a secret on the command line does not show it"
    for text in ("secret,id=0,data=hunter2", '{"qom-type": "secret", "id": "0", "data": "hunter2"}'):
        done = run(TIDEMARKD, "--object", text, check=False)
        equal(done.returncode, 1)
        matches(done.stderr, "'id' expects an identifier")
        equal("hunter2" in done.stderr, False, done.stderr)


@test(needs=["openssl"])
def encrypted(tmp):
    "a secret is decrypted with another one, as QEMU's manual shows it"
    key, iv = os.urandom(32), os.urandom(16)
    text = run("openssl", "enc", "-aes-256-cbc", "-K", key.hex(), "-iv", iv.hex(), "-a", "-A",
               input="letmein").stdout.strip()
    more = {"qom-type": "secret", "format": "base64", "iv": base64.b64encode(iv).decode()}
    with Daemon(tmp) as d:
        d.qmp("object-add", **{"qom-type": "secret"}, id="master", format="base64",
              data=base64.b64encode(key).decode())
        d.qmp("object-add", **{"qom-type": "secret"}, id="wrong", format="base64",
              data=base64.b64encode(bytes(32)).decode())
        d.qmp("object-add", **{"qom-type": "secret"}, id="short", data="x")
        d.qmp("object-add", **more, id="good", keyid="master", data=text)
        refused(d, "'x' can't be decrypted with key 'wrong'", **more, id="x", keyid="wrong", data=text)
        refused(d, "Key 'short' has 1 bytes, expected 32", **more, id="x", keyid="short", data=text)
        refused(d, "No secret with id 'none'", **more, id="x", keyid="none", data=text)
        refused(d, "is not encrypted data", **more, id="x", keyid="master", data="AAAA")


def dumps_core(tmp, *args, user=None):
    """Whether a daemon with that leaves a core dump when it dies of a signal."""
    with Daemon(tmp, *args, *(["--user", user] if user else [])) as d:
        os.kill(d.pid, signal.SIGABRT)
        dumped = os.waitid(os.P_PID, d.pid, os.WEXITED | os.WNOWAIT).si_code == os.CLD_DUMPED
        d.kill()
    for name in os.listdir(tmp):
        if name.startswith("core"):
            os.unlink(os.path.join(tmp, name))
    return dumped


@test
def dumps(tmp):
    "a daemon that knows a secret or a key leaves no core dump, whoever it runs as; another one does"
    if os.getuid() or not open("/proc/sys/kernel/core_pattern").read().strip() or \
            b"__asan_init" in open(TIDEMARKD, "rb").read():
        skip("needs root, core dumps, and no sanitizer")
    os.chmod(tmp, 0o777)
    cwd = os.getcwd()
    limits = resource.getrlimit(resource.RLIMIT_CORE)
    os.chdir(tmp)
    resource.setrlimit(resource.RLIMIT_CORE, (limits[1], limits[1]))
    try:
        if not dumps_core(tmp):
            skip("no core dumps here")
        directory, _ = psk(os.path.join(tmp, "psk"), "alice")
        for text in "secret,id=s0,data=letmein", "tls-creds-psk,id=t0,endpoint=server,dir=" + directory:
            for user in None, "12345":
                equal(dumps_core(tmp, "--object", text, user=user), False, text)
    finally:
        os.chdir(cwd)
        resource.setrlimit(resource.RLIMIT_CORE, limits)


@test
def user(tmp):
    "a daemon that knows a secret and has given up root's rights works as before, and its user can't look into it"
    if os.getuid():
        skip("only root can give up its rights")
    os.chmod(tmp, 0o777)
    os.chmod(os.path.dirname(tmp), 0o755)
    path = image(os.path.join(tmp, "disk.img"), 1 << 20)
    os.chmod(path, 0o666)
    with Daemon(tmp, "--object", "secret,id=s0,data=letmein", "--user", "12345", "--sandbox",
                "auto,paths.0=" + tmp) as d:
        d.qmp("blockdev-add", driver="file", node_name="n", filename=path)
        d.qmp("block-dirty-bitmap-add", node="n", name="b", persistent=True)
        equal(os.path.exists(path + ".bitmaps"), True)
        # and its own user can't look into it
        look = run("setpriv", "--reuid=12345", "--clear-groups", "cat", "/proc/%d/environ" % d.pid, check=False)
        matches(look.stderr, "Permission denied")


@test
def lists(tmp):
    "access lists are checked when they are made"
    path = os.path.join(tmp, "list")
    with open(path, "w") as f:
        f.write('{"rules": [{"match": "*", "policy": "allow", "format": "glob"}]}')
    with Daemon(tmp, "--object", "authz-simple,id=a0,identity=CN=one",
                "--object", "authz-list,id=a1,policy=deny,rules.0.match=CN=*,rules.0.policy=allow,"
                "rules.0.format=glob", "--object", "authz-list-file,id=a2,filename=%s" % path) as d:
        equal([o["qom-type"] for o in d.qmp("query-objects")],
              ["authz-simple", "authz-list", "authz-list-file"])
        d.qmp("object-reload", id="a2")
        with open(path, "w") as f:
            f.write('{"rules": [{"match": "x"}]}')
        raises(QMPError, d.qmp, "object-reload", match="list: Parameter 'policy' of a rule is missing",
               id="a2")
        with open(path, "w") as f:
            f.write("[")
        raises(QMPError, d.qmp, "object-reload", match="is not a JSON object", id="a2")
        raises(QMPError, d.qmp, "object-reload", match="'a0' of type 'authz-simple' has no files",
               id="a0")
        refused(d, "Parameter 'identity' is missing", **{"qom-type": "authz-simple"}, id="x")
        refused(d, "does not accept value 'perhaps'", **{"qom-type": "authz-list"}, id="x", policy="perhaps")


@test(needs=["certtool"])
def credentials(tmp):
    "TLS credentials are read when they are made, and errors name the file and the problem"
    ca = Authority(os.path.join(tmp, "ca"))
    good = ca.issue(os.path.join(tmp, "good"), "server")
    keys, _ = psk(os.path.join(tmp, "psk"), "alice")
    x509 = {"qom-type": "tls-creds-x509", "endpoint": "server"}

    def broken(name, **kwargs):
        directory = os.path.join(tmp, name)
        shutil.copytree(good, directory)
        return directory

    with Daemon(tmp) as d:
        d.qmp("object-add", **x509, id="t0", dir=good)
        d.qmp("object-add", **{"qom-type": "tls-creds-psk"}, endpoint="server", id="t1", dir=keys)
        d.qmp("object-reload", id="t0")
        refused(d, "Missing 'dir' property", **x509, id="x")
        refused(d, "Unable to access credentials .*/none/ca-cert.pem: No such file", **x509, id="x",
                dir=os.path.join(tmp, "none"))
        refused(d, "keys.psk: No such file", **{"qom-type": "tls-creds-psk"}, endpoint="server", id="x", dir=good)
        refused(d, "Unable to set TLS session priority 'nonsense'", **x509, id="x", dir=good,
                priority="nonsense")
        lacks = broken("lacks")
        os.unlink(os.path.join(lacks, "server-key.pem"))
        refused(d, "server-key.pem: No such file", **x509, id="x", dir=lacks)
        other = Authority(os.path.join(tmp, "other"))
        strange = broken("strange")
        shutil.copy(other.cert, os.path.join(strange, "ca-cert.pem"))
        refused(d, "Our own certificate .*server-cert.pem failed validation", **x509, id="x", dir=strange)
        d.qmp("object-add", **x509, id="t2", dir=strange, **{"sanity-check": False})
        client = ca.issue(os.path.join(tmp, "client"), "client")
        for kind in ("key", "cert"):
            shutil.copy(os.path.join(client, "client-%s.pem" % kind),
                        os.path.join(client, "server-%s.pem" % kind))
        refused(d, "failed validation", **x509, id="x", dir=client)
        no_ca = broken("no-ca")
        shutil.copy(os.path.join(good, "server-cert.pem"), os.path.join(no_ca, "ca-cert.pem"))
        refused(d, "basic constraints do not show a CA", **x509, id="x", dir=no_ca)
        with open(os.path.join(good, "server-cert.pem"), "w") as f:
            f.write("no certificate")
        raises(QMPError, d.qmp, "object-reload", match="server-cert.pem", id="t0")
        equal([o["id"] for o in d.qmp("query-objects")], ["t0", "t1", "t2"])


@test(needs=["certtool"])
def two_authorities(tmp):
    "a file of two authorities is accepted in either order, and with an intermediate one, when made and when reloaded"
    old, new = Authority(os.path.join(tmp, "old")), Authority(os.path.join(tmp, "new"))
    middle = Authority(os.path.join(tmp, "middle"), signed_by=new)
    x509 = {"qom-type": "tls-creds-x509", "endpoint": "server"}

    def fill(directory, owner, *authorities):
        owner.issue(directory, "server")
        with open(os.path.join(directory, "ca-cert.pem"), "w") as f:
            for a in authorities:
                f.write(open(a.cert).read())

    with Daemon(tmp) as d:
        kept = os.path.join(tmp, "kept")
        fill(kept, old, old)
        d.qmp("object-add", **x509, id="kept", dir=kept)
        for i, (owner, *authorities) in enumerate((
                (old, old, new), (new, old, new), (old, new, old), (new, new, old),
                (middle, new, middle), (middle, middle, new), (middle, old, new, middle))):
            directory = os.path.join(tmp, "c%d" % i)
            fill(directory, owner, *authorities)
            d.qmp("object-add", **x509, id="t%d" % i, dir=directory)
            fill(kept, owner, *authorities)
            d.qmp("object-reload", id="kept")
        fill(kept, middle, old, new)
        raises(QMPError, d.qmp, "object-reload", match="failed validation", id="kept")


@test
def properties(tmp):
    "properties show what was given, but never a secret; what an access list has set decides at once"
    me = "uid=%d" % os.getuid()
    with Daemon(tmp, *disk(tmp, "disk0", 1 << 20, export=False)) as d:
        def get(name, key):
            return d.qmp("qom-get", path="/objects/" + name, property=key)

        def set_(name, key, value):
            return d.qmp("qom-set", path="/objects/" + name, property=key, value=value)

        def may():
            try:
                d.nbd("e").shutdown()
            except nbd.Error:
                return False
            return True

        d.qmp("object-add", **{"qom-type": "secret"}, id="s", data="letmein")
        equal({p["name"] for p in d.qmp("qom-list", path="/objects/s")},
              {"type", "data", "file", "format", "keyid", "iv"})
        raises(QMPError, get, "s", "data", match="Property 'secret.data' is not readable")
        raises(QMPError, set_, "s", "data", "x", match="Property 'secret.data' is not writable")
        equal([get("s", key) for key in ("format", "file")], ["raw", ""])
        d.qmp("object-add", **{"qom-type": "authz-list"}, id="list")
        d.qmp("object-add", **{"qom-type": "authz-simple"}, id="one", identity="nobody")
        d.qmp("block-export-add", {"type": "nbd", "id": "e", "node-name": "disk0", "name": "e", "allow-open": "list"})
        equal([get("list", "policy"), get("list", "rules"), may()], ["deny", [], False])
        rule = {"match": me, "policy": "allow"}
        set_("list", "rules", [rule])
        equal([get("list", "rules"), may()], [[rule], True])
        set_("list", "rules", [])
        equal(may(), False)
        set_("list", "policy", "allow")
        equal([get("list", "policy"), may()], ["allow", True])
        for key, value, match in (("policy", "x", "'policy' does not accept value 'x'"),
                                  ("policy", 1, "'policy' does not accept value '1'"), ("rules", {}, "expects an array"),
                                  ("rules", [1], "expects objects"), ("rules", [{"match": "x"}], "'policy' of a rule")):
            raises(QMPError, set_, "list", key, value, match=match)
        equal([get("list", "policy"), get("list", "rules"), may()], ["allow", [], True])
        d.unexport("e")
        d.qmp("block-export-add", {"type": "nbd", "id": "e", "node-name": "disk0", "name": "e", "allow-open": "one"})
        equal(may(), False)
        raises(QMPError, set_, "one", "identity", 5, match="'identity', expected: string")
        set_("one", "identity", me)
        equal([get("one", "identity"), may()], [me, True])


main()
