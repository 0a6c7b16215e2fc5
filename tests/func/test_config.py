#!/usr/bin/python3
# SPDX-FileCopyrightText: 2026 The Tidemark authors
# SPDX-License-Identifier: GPL-2.0-or-later
"""Configuration files: what they make, what --check finds in them, what --dump-config prints."""
import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from harness import *
import images
import tls

MIB = 1 << 20


def save(tmp, text, name="tidemarkd.conf"):
    """Writes a file, an object as JSON. Returns the path."""
    path = os.path.join(tmp, name)
    with open(path, "w") as f:
        f.write(text if isinstance(text, str) else json.dumps(text, indent=2))
    return path


def unix(path):
    return {"type": "unix", "data": {"path": path}}


def monitors(tmp, name="d"):
    """The members for the monitors that harness.Daemon expects."""
    channels = [{"id": "c%d" % i, "backend": {"type": "socket", "data": {
        "addr": unix(os.path.join(tmp, name + end)), "server": True}}} for i, end in enumerate((".qmp", ".own"))]
    return {"chardevs": channels, "monitors": [{"chardev": c["id"]} for c in channels]}


class Configured(Daemon):
    """A daemon whose sockets the configuration file makes."""

    def __init__(self, tmp, path, *args, name="d"):
        self.own = os.path.join(tmp, name)
        super().__init__(tmp, "--config", path, *args, nbd=False, qmp=False, name=name)
        self.nbd_path, self.qmp_path = self.own + ".nbd", self.own + ".qmp"
        wait_until(self._answers, "the monitor")


def disk_config(tmp, name="d", **more):
    """A disk, exported, with monitors."""
    return {
        "blockdevs": [{"driver": "file", "node-name": "disk0", "filename": image(os.path.join(tmp, "disk0.img"), MIB)}],
        "nbd-servers": [{"addr": unix(os.path.join(tmp, name + ".nbd"))}],
        "exports": [{"type": "nbd", "id": "exp0", "node-name": "disk0", "writable": True}],
        **monitors(tmp, name), **more}


def check(*args):
    """tidemarkd --check: the status and the lines."""
    result = subprocess.run([TIDEMARKD, "--check", *args], capture_output=True, text=True, timeout=PATIENCE)
    equal(result.stdout, "")
    return result.returncode, result.stderr.splitlines()


@test
def starts(tmp):
    "a file with comments makes all that the command line does; options may follow it"
    config = disk_config(tmp, objects=[{"qom-type": "throttle-group", "id": "lim0", "limits": {"iops-total": 500}}])
    config["blockdevs"].append({"driver": "throttle", "node-name": "slow0", "file": "disk0", "throttle-group": "lim0"})
    config["exports"][0]["node-name"] = "slow0"
    path = save(tmp, "# the disk\n" + json.dumps(config, indent=1) + "\n// the end\n/* of it */")
    equal(check("--config", path), (0, []))
    with Configured(tmp, path, "--export", "nbd,id=exp1,node-name=disk0") as d:
        equal([x["id"] for x in d.qmp("query-block-exports")], ["exp1", "exp0"])
        equal([x["id"] for x in d.qmp("query-objects")], ["lim0"])
        equal(d.qmp("qom-get", path="/objects/lim0", property="limits")["iops-total"], 500)
        h = d.nbd("slow0")
        h.pwrite(b"x" * 512, 0)
        equal(h.pread(512, 0), b"x" * 512)


@test
def bitmaps(tmp):
    "a bitmap that is there stays as it is; one that is made is dirty everywhere: a client may know its name"
    config = disk_config(tmp, bitmaps=[{"node": "disk0", "name": "kept", "persistent": True},
                                       {"node": "disk0", "name": "fleeting", "granularity": 4096}])
    config["exports"][0]["bitmaps"] = ["kept", "fleeting"]
    path = save(tmp, config)
    with Configured(tmp, path) as d:
        matches(d.log(), "node 'disk0': bitmap 'kept' was not there: it is made, dirty everywhere")
        d.kill()
    with Configured(tmp, path) as d:
        equal(d.log().count("bitmap 'kept' was not there"), 1)
        equal([d.bitmap("disk0", n)["count"] for n in ("kept", "fleeting")], [MIB, MIB])
        equal(d.bitmap("disk0", "fleeting")["granularity"], 4096)
        d.qmp("block-export-dirty-bitmap", id="exp0", bitmaps=[])
        d.qmp("block-dirty-bitmap-clear", node="disk0", name="kept")
        d.qmp("block-dirty-bitmap-clear", node="disk0", name="fleeting")
        d.nbd("disk0").pwrite(b"x" * 512, 65536)
    with Configured(tmp, path) as d:
        equal([d.bitmap("disk0", n)["count"] for n in ("kept", "fleeting")], [65536, MIB])
        d.qmp("block-export-dirty-bitmap", id="exp0", bitmaps=[])
        d.qmp("block-dirty-bitmap-clear", node="disk0", name="kept")
        d.kill()
    os.unlink(os.path.join(tmp, "disk0.img.bitmaps"))
    with Configured(tmp, path) as d:
        equal(d.bitmap("disk0", "kept")["count"], MIB)


@test
def other_bitmaps(tmp):
    "a bitmap that is there and differs from the file stays, with a warning: it may record nothing"
    def item(name, **more):
        return {"node": "disk0", "name": name, **more}

    config = disk_config(tmp)
    with Configured(tmp, save(tmp, config)) as d:
        for name, more in (("off", {"persistent": True, "disabled": True, "granularity": 4096}),
                           ("on", {"persistent": True}), ("same", {"persistent": True, "disabled": True})):
            d.qmp("block-dirty-bitmap-add", item(name, **more))
    config["bitmaps"] = [item("off", granularity=65536), item("on", disabled=True, persistent=True),
                         item("same", disabled=True, persistent=True)]
    path = save(tmp, config)
    with Configured(tmp, path) as d:
        matches(d.log(), r"%s:\d+: bitmaps\[0\]: node 'disk0': bitmap 'off' stays as it is: it does not record "
                r"\(block-dirty-bitmap-enable\), its granularity is 4096, it is persistent" % path)
        matches(d.log(), r"bitmaps\[1\]: node 'disk0': bitmap 'on' stays as it is: it records\n")
        equal(d.log().count("stays as it is"), 2)
        equal(reload(d, path, config), ["done: 0 changes, 0 refused"])
        d.qmp("block-dirty-bitmap-add", item("new", disabled=True))
        config["bitmaps"].append(item("new"))
        for _ in range(2):
            has(reload(d, path, config), "bitmap 'disk0/new' is not added: it stays as it is: it does not record")
        d.qmp("block-dirty-bitmap-enable", item("new"))
        equal(reload(d, path, config), ["done: 0 changes, 0 refused"])
        d.qmp("block-dirty-bitmap-enable", item("off"))
    with open(os.path.join(tmp, "disk0.img"), "r+b") as f:
        f.write(b"x")
    with Configured(tmp, path) as d:
        matches(d.log(), "bitmap 'off' stays as it is: it is inconsistent, and can only be removed")


@test
def places(tmp):
    "errors name the file, the line and the key, at the start as well"
    for text, line, match in (('{ "objects": [\n  {"a": 1,}\n]}', 2, "expecting value"),
                              ('{ "objects": [\n\n  {"a": 1}\n', 3, "premature EOI"),
                              ('{ "a": 1,\n"a": 2}', 2, "duplicate key"),
                              ('{\n "a": @ }', 2, "stray '@'"),
                              ('{\n\n/* no end }', 3, "a comment has no end"),
                              ('{}\n{}', 2, "expected the end of the file"),
                              ('{} {}\n', 1, "expected the end of the file"),
                              ('{}\n\n[\n]\n', 3, "expected the end of the file"),
                              ('{}\nx', 2, "expected the end of the file"),
                              ('\ufeff{\n"a": 1}', 2, "a: there is no such member"),
                              ('\n[]', 1, "expected a JSON object"),
                              ('', 1, "expected a JSON value: the file is empty"),
                              ('# all\n', 2, "the file is empty"),
                              ('{\n"exports": [\n{"type": "nbd", "id": "e",\n "node-name": 3}]}', 4,
                               r"exports\[0\].node-name: Invalid parameter type for 'node-name', expected: string"),
                              ('{\n"blockdevs": [{"driver": "raw", "node-name": "r", "file":\n {"driver": "file",\n'
                               '"filenme": "x"}}]}', 2, r"blockdevs\[0\].file.filename: .* is missing"),
                              ('{\n "log-level":\n"inof"}', 2, "log-level")):
        path = save(tmp, text)
        for flags in (["--check"], []):
            result = subprocess.run([TIDEMARKD, *flags, "--config", path], capture_output=True, text=True,
                                    timeout=PATIENCE)
            equal(result.returncode, 1)
            matches(result.stderr, "(?s)%s:%d: .*%s" % (path, line, match))
    # What fails when it is carried out.
    config = disk_config(tmp)
    config["exports"].append(dict(config["exports"][0], id="exp1"))
    path = save(tmp, config)
    result = subprocess.run([TIDEMARKD, "--config", path], capture_output=True, text=True, timeout=PATIENCE)
    matches(result.stderr, r"%s:\d+: exports\[1\]: NBD server already has export named 'disk0'" % path)
    big = save(tmp, "{}")
    os.truncate(big, (64 << 20) + 1)
    matches(check("--config", big)[1][0], "larger than|too large|67108864")
    with open(path, "wb") as f:
        f.write(b"{\0}")
    matches(check("--config", path)[1][0], "not a text")
    matches(check("--config", path + "x")[1][0], "No such file")
    # Names of members that look like paths.
    for name in ("rules[", "rules]", "rules[0", "rules[0]x", "rules.", ".", "[", "", "policy[1].a", "a\u0001\n"):
        odd = {"objects": [{"qom-type": "authz-list", "id": "l", "policy": "deny", "rules": [], name: 1}]}
        equal(check("--config", save(tmp, odd))[0], 1)


@test
def all_problems(tmp):
    "--check lists all problems, one a line, and opens and starts nothing"
    config = {
        "log-level": "inof", "object": [],
        "objects": [{"qom-type": "authz-list-file", "id": "l", "filename": "/nosuch.json"},
                    {"qom-type": "secret", "id": "l", "dat": "x", "file": 3, "format": "hex"},
                    {"qom-type": "tls-creds-x509", "id": "tls0", "dir": tmp, "endpoint": "server"}],
        "blockdevs": [{"driver": "qcow2", "node-name": "q", "backing": "zz",
                       "file": {"driver": "file", "filename": os.path.join(tmp, "nosuch")}},
                      {"driver": "throttle", "node-name": "t0", "file": "t1", "throttle-group": "nogroup"},
                      {"driver": "file", "node-name": "t1", "filename": image(os.path.join(tmp, "disk0.img"), MIB)},
                      {"driver": "qcow", "node-name": "u"}],
        "bitmaps": [{"node": "none", "name": "b"}],
        "exports": [{"type": "nbd", "id": "e0", "node-name": "dsk0", "allow-open": "nolist", "servers": ["s"]}, 7],
        "chardevs": [{"id": "c", "backend": {"type": "socket", "data": {"addr": unix("/nosuch/dir/qmp"),
                                                                        "server": True}}}],
        "monitors": [{"chardev": "d"}],
    }
    path = save(tmp, config)
    status, lines = check("--config", path, "--export", "nbd,id=e0,node-name=q", "--nbd-server", "addr.type=bad")
    equal(status, 1)
    expected = [
        "log-level: expected error, warning", "object: there is no such member: did you mean 'objects'",
        r"objects\[1\].dat: .*unexpected", r"objects\[1\].file: .*string", r"objects\[1\].format: .*'hex'",
        r"blockdevs\[3\].driver: .*'qcow'", r"exports\[1\]: .*object",
        r"objects\[1\].id: there is another object called 'l': %s:\d+: objects\[0\].id" % path,
        r"--export nbd.*there is another export called 'e0'",
        r"blockdevs\[0\].backing: there is no node 'zz'", r"blockdevs\[1\].file: node 't1' comes later",
        r"blockdevs\[1\].throttle-group: there is no object 'nogroup'", r"bitmaps\[0\].node: there is no node 'none'",
        r"exports\[0\].node-name: there is no node 'dsk0'", r"exports\[0\].allow-open: there is no object 'nolist'",
        r"exports\[0\].servers\[0\]: there is no NBD server 's'", r"exports\[0\]: there is no NBD server before it",
        r"monitors\[0\].chardev: there is no chardev 'd'", r"objects\[0\]: .*nosuch.json",
        r"objects\[2\]: .*(ca-cert|server-cert|server-key).pem", r"blockdevs\[0\].file.filename: '.*nosuch': No such",
        r"chardevs\[0\].backend.data.addr.data.path: '/nosuch/dir/qmp': No such file", "--nbd-server addr.type=bad",
    ]
    for e in expected:
        matches("\n".join(lines), e)
    equal(len(lines), len(expected) + 1, lines)  # two options have no server before them
    equal(sorted(os.listdir(tmp)), ["disk0.img", "tidemarkd.conf"])


@test
def problems_of_the_process(tmp):
    "--check lists what is wrong with the process's own options, and then checks all the rest"
    path = save(tmp, {"user": "no-such-user", "log-level": "inof", "io-engine": "fast",
                      "modules": ["/nosuch1.so", "/nosuch2.so"], "module-dirs": ["/nosuch3"],
                      "blockdevs": [{"driver": "null-co", "node-name": 3},
                                    {"driver": "file", "node-name": "f", "filename": "/nosuch4"}],
                      "bitmaps": [{"node": "none", "name": "b"}]})
    status, lines = check("--config", path, "--io-engine", "slow", "--log-level", "x")
    expected = [r":\d+: user: .*no-such-user", r":\d+: log-level: ", "^--log-level x: ", r"^--io-engine slow: expected",
                r":\d+: io-engine: .*'fast'", r"modules\[0\]: .*/nosuch1.so", r"modules\[1\]: .*/nosuch2.so",
                r"module-dirs\[0\]: not a directory", r"blockdevs\[0\].node-name: .*string",
                r"bitmaps\[0\].node: there is no node 'none'", r"blockdevs\[1\].filename: '/nosuch4': No such file"]
    for e in expected:
        equal(len([line for line in lines if re.search(e, line)]), 1, "%s: %s" % (e, lines))
    equal((status, len(lines)), (1, len(expected)))
    done = subprocess.run([TIDEMARKD, "--config", path], capture_output=True, text=True, timeout=PATIENCE)
    equal((done.returncode, done.stderr.count("\n")), (1, 1), done.stderr)


@test
def strange_names(tmp):
    "--check finds what is wrong beside members whose names look like paths"
    for name in ("bitmaps[", "bitmaps[0]", "a]", "[", "node.name", "id.", "."):
        path = save(tmp, {"blockdevs": [{"driver": "null-co", "node-name": "n"}], "exports": [
            {"type": "nbd", "id": "a", "node-name": "n", "bitmaps": ["x"], name: 1, "zz": 1, "writable": 1}]})
        for flags in (["--check"], []):
            done = subprocess.run([TIDEMARKD, *flags, "--config", path], capture_output=True, text=True,
                                  timeout=PATIENCE)
            equal(done.returncode, 1, done.stderr)
            for match in ("writable: .*boolean", "%s: .* is unexpected" % re.escape(name), "zz: .* is unexpected"):
                matches(done.stderr, r"%s:\d+: exports\[0\]\.%s" % (path, match))


@test
def one_line_each(tmp):
    "--check prints a problem as one line of text, whatever is in the names of the file"
    path = save(tmp, {"a\x1b[31mred\nx": 1, "b" * 5000: 2})
    status, lines = check("--config", path)
    equal((status, len(lines)), (1, 2))
    matches(lines[0], r"a\\x1b\[31mred\\x0ax: there is no such member")
    equal(len(lines[1]) <= 1024, True)


@test
def secrets_are_not_shown(tmp):
    "an error of --object shows its type and name at most, whatever is mistyped"
    for option, shown in (("secret,id=s,dat=hunter2", "--object secret,id=s: .*'dat' is unexpected"),
                          ("secret,Data=hunter2,id=s", "--object secret,id=s: "),
                          ("secret,id=s,password=hunter2,,id=hunter2", "--object secret,id=s: "),
                          ("id=s,dat=hunter2,qom-type=secret", "--object secret,id=s: "),
                          ("secret,id=s,data=hun,hunter2", "--object [.]{3}: .*a comma in a value is doubled"),
                          ("secret,dat=hunter2", "--object secret: "),
                          ("secret,id.x=hunter2", "--object secret: "),
                          ("dat=hunter2", "--object [.]{3}: "),
                          ('{"qom-type":"secret","id":"s","d\\u0061ta":"hunter2","dat":1}', "--object {[.]{3}}: .*'dat'"),
                          ('{"qom-type":"secret","id":"s","data":hunter2}', "--object {[.]{3}}: expected a JSON object")):
        for flags in (["--check"], []):
            done = subprocess.run([TIDEMARKD, *flags, "--object", option], capture_output=True, text=True,
                                  timeout=PATIENCE)
            equal(done.returncode, 1)
            matches(done.stderr, shown)
            equal("hunter2" in done.stderr, False, done.stderr)
    done = subprocess.run([TIDEMARKD, "--objct=secret,id=s,data=hunter2"], capture_output=True, text=True,
                          timeout=PATIENCE)
    matches(done.stderr, "unrecognized option '--objct': did you mean '--object'")
    equal("hunter2" in done.stderr, False, done.stderr)


@test
def check_beside_a_daemon(tmp):
    "--check of a configuration in use finds nothing wrong, and leaves sockets, locks and bitmaps alone"
    path = save(tmp, disk_config(tmp, bitmaps=[{"node": "disk0", "name": "b", "persistent": True}]))
    with Configured(tmp, path) as d:
        equal(check("--config", path), (0, []))
        d.nbd("disk0").pwrite(b"x", 0)
        equal(d.qmp("query-nbd-servers")[0]["exports"], ["exp0"])
        os.chmod(os.path.join(tmp, "disk0.img"), 0o400)
        if os.geteuid():
            matches(check("--config", path)[1][0], "disk0.img': Permission denied")



@test(needs=("setpriv",))
def check_of_a_backing(tmp):
    "--check wants of a backing that is defined within its overlay to be readable, as the start does"
    base, top = os.path.join(tmp, "base.qcow2"), os.path.join(tmp, "top.qcow2")
    images.create(base, "", "1M")
    images.create(top, "", None, (base, "qcow2"))
    os.chmod(base, 0o444)
    prefix = ["setpriv", "--bounding-set=-dac_override,-dac_read_search"] if not os.geteuid() else []
    file, read_write = {"driver": "file", "filename": base}, {"read-only": False}
    for backing, ok in (({"file": file}, True), ({"file": {**file, **read_write}}, False),
                        ({"file": file, **read_write}, False), ({"file": file, "auto-read-only": True}, True)):
        path = save(tmp, {"blockdevs": [{"driver": "qcow2", "node-name": "q", "backing": {"driver": "qcow2", **backing},
                                         "file": {"driver": "file", "filename": top}}]})
        done = subprocess.run([*prefix, TIDEMARKD, "--check", "--config", path], capture_output=True, text=True,
                              timeout=PATIENCE)
        equal(done.returncode, 0 if ok else 1, done.stderr)
        if not ok:
            matches(done.stderr, r"backing.file.filename: '%s': Permission denied" % base)


def dump(d):
    """--dump-config of a daemon: the object, and the text."""
    result = subprocess.run([TIDEMARKD, "--dump-config", d.qmp_path], capture_output=True, text=True, timeout=PATIENCE)
    equal((result.returncode, result.stderr), (0, ""))
    return json.loads(result.stdout), result.stdout


def answers(d):
    """What queries say of all that a configuration makes."""
    nodes = sorted(d.qmp("query-named-block-nodes", flat=True), key=lambda n: n["node-name"])
    for node in nodes:  # what the bitmaps of a qcow2 image occupy depends on whether it is open
        for image in (i for i in (node["image"], node["image"].get("backing-image")) if i):
            image.pop("actual-size", None)
            if node["drv"] in ("file", "throttle"):
                del image["virtual-size"]
        for bitmap in node.get("dirty-bitmaps", []):  # seconds, and unknown after a restart
            bitmap.pop("age", None)
    return (nodes, d.qmp("query-block-exports"), d.qmp("query-nbd-servers"), d.qmp("query-objects"))


def build(tmp, d, peer):
    """Over QMP: a bit of everything."""
    def add(**options):
        d.qmp("blockdev-add", options)

    d.qmp("object-add", {"qom-type": "throttle-group", "id": "lim0", "limits": {"iops-total": 5000}})
    d.qmp("qom-set", path="/objects/lim0", property="limits", value={"bps-write": 1 << 30})
    d.qmp("object-add", {"qom-type": "authz-list", "id": "list0", "policy": "allow"})
    d.qmp("qom-set", path="/objects/list0", property="rules", value=[{"match": "a*", "format": "glob",
                                                                      "policy": "deny"}])
    d.qmp("object-add", {"qom-type": "iothread", "id": "io0"})
    d.qmp("object-add", {"qom-type": "secret", "id": "pass0", "file": save(tmp, "123456", "pass0")})
    d.qmp("object-add", {"qom-type": "tls-creds-psk", "id": "tls0", "endpoint": "server",
                         "dir": tls.psk(os.path.join(tmp, "psk"), "alice")[0]})
    add(**{"driver": "file", "node-name": "f0", "filename": images.create(os.path.join(tmp, "base.qcow2"), "", "1M")})
    add(**{"driver": "throttle", "node-name": "t0", "file": "f0", "throttle-group": "lim0"})
    add(**{"driver": "qcow2", "node-name": "q0", "file": "t0", "discard": "unmap", "cache": {"no-flush": True}})
    add(**{"driver": "qcow2", "node-name": "top", "backing": "q0", "file": {
        "driver": "file", "node-name": "topf", "filename": images.create(os.path.join(tmp, "top.qcow2"), "", "1M")}})
    add(**{"driver": "nbd", "node-name": "n0", "export": "disk0", "reconnect-delay": 3,
           "server": {"type": "unix", "path": peer.nbd_path}})
    add(**{"driver": "blkdebug", "node-name": "bd", "image": {"driver": "null-co", "node-name": "nn", "size": 1 << 20},
           "inject-error": [{"event": "none", "errno": 5, "iotype": "discard"}], "take-child-perms": ["write"]})
    d.qmp("block-dirty-bitmap-add", node="top", name="kept", persistent=True, granularity=4096)
    d.qmp("block-dirty-bitmap-add", node="q0", name="off", persistent=True, disabled=True)
    d.qmp("nbd-server-start", id="tls0", tls_creds="tls0", addr=unix(os.path.join(tmp, "tls.sock")), max_connections=9)
    d.qmp("block-export-add", type="nbd", id="e0", node_name="top", writable=True, name="disk0", iothread="io0")
    d.qmp("block-export-dirty-bitmap", id="e0", bitmaps=["kept", {"node": "q0", "name": "off"}])
    d.qmp("block-export-add", type="nbd", id="e1", node_name="n0", servers=["tls0"], allow_open="list0")
    d.qmp("log-set-level", level="debug", area="nbd")
    d.nbd("disk0").pwrite(b"x" * 512, 65536)


@test
def round_trip(tmp):
    "what was built over QMP is dumped; a daemon started from that has the same, and the same dump"
    with Daemon(tmp, *disk(tmp, "disk0", MIB), name="peer") as peer:
        with Daemon(tmp) as d:
            build(tmp, d, peer)
            first, text = dump(d)
            before = answers(d)
        path = save(tmp, text, "dump.conf")
        equal(check("--config", path), (0, []))
        with Configured(tmp, path) as d:
            equal(dump(d)[0], first)
            for a, b in zip(answers(d), before):
                equal(len(a), len(b))
                for x, y in zip(a, b):
                    equal(x, y)
            equal(d.bitmap("top", "kept")["count"], 4096)
            equal(d.bitmap("q0", "off")["recording"], False)
            equal(first["blockdevs"][3]["file"]["node-name"], "topf")
            equal(first["log-level"], "info,nbd=debug")


@test
def dumped_changes(tmp):
    "changes of the graph are in a dump, what a backup adds is not; neither are a secret's data"
    with Daemon(tmp, *disk(tmp, "disk0", MIB), "--object", "secret,id=s0,data=letmein") as d:
        images.create(os.path.join(tmp, "top.qcow2"), "", None, (os.path.join(tmp, "disk0.img"), "raw"))
        d.qmp("nbd-server-add", device="disk0", name="old0")
        before, _ = dump(d)
        d.qmp("blockdev-add", {"driver": "null-co", "node-name": "scratch", "size": MIB})
        d.qmp("backup-begin", id="b0", disks=[{"node": "disk0"}], scratch={"directory": tmp})
        during, text = dump(d)
        equal(during["exports"], before["exports"])
        equal([n["node-name"] for n in during["blockdevs"]], ["disk0", "scratch"])
        equal("letmein" in text, False)
        d.qmp("backup-end", id="b0", success=False)
        d.qmp("blockdev-snapshot-sync", node_name="disk0", snapshot_file=os.path.join(tmp, "new.qcow2"),
              snapshot_node_name="over")
        after, text = dump(d)
        equal([x["node-name"] for x in after["exports"]], ["over", "over"])
        equal([x["name"] for x in after["exports"]], ["disk0", "old0"])
        equal([n for n in after["blockdevs"] if n["node-name"] == "over"][0]["backing"], "disk0")
        path = save(tmp, text, "dump.conf")
        status, lines = check("--config", path)
        equal((status, len(lines)), (1, 1))
        matches(lines[0], r"%s:\d+: objects\[0\]: the data of secret 's0' are not in this configuration" % path)
    config = json.loads(text)
    config["objects"][0]["data"] = "letmein"
    with Configured(tmp, save(tmp, config, "dump.conf")) as d:
        equal(d.nbd("disk0").get_size(), MIB)
    for path, match in ((os.path.join(tmp, "nosuch"), "No such file"), (tmp, "Failed to connect|refused|not a socket|")):
        result = subprocess.run([TIDEMARKD, "--dump-config", path], capture_output=True, text=True, timeout=PATIENCE)
        equal((result.returncode, result.stdout), (1, ""))
        matches(result.stderr, match)



def dump_from(tmp, answer):
    """--dump-config of a server that runs answer(connection): the process that ended."""
    path = os.path.join(tmp, "fake.sock")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen()
        process = subprocess.Popen([TIDEMARKD, "--dump-config", path], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                                   text=True)
        connection = listener.accept()[0]
        with connection, contextlib.suppress(BrokenPipeError, ConnectionResetError):
            connection.recv(4096)
            answer(connection, process)
        out, err = process.communicate(timeout=PATIENCE)
    os.unlink(path)
    return process.returncode, out, err


@test
def strange_servers(tmp):
    "--dump-config reports what a strange server says as one error, and waits for its answer for a time in all"
    for sent, match in ((b'{"error":{"desc":"a"}}{"error":{"desc":"b"}}', r"fake.sock': a\n"),
                        (b'{"error":{"desc":"a"}}{"id":"c","return":{}}', r"fake.sock': a\n"),
                        (b'{"error":{"desc":null}}', "an error without a description"),
                        (b'{"error":7}', "an error without a description"),
                        (b'{"id":"c","return":[]}', "expected a configuration, an object"),
                        (b'{"id":"c","return":null}', "expected a configuration, an object"),
                        (b'[]7 ', "the connection ended without an answer")):
        status, out, err = dump_from(tmp, lambda c, _: c.sendall(sent))
        equal((status, out, err.count("\n")), (1, "", 1), err)
        matches(err, match)

    def chatter(connection, process):
        end = time.monotonic() + PATIENCE
        while process.poll() is None and time.monotonic() < end:
            connection.sendall(b'{"event":"X"}')
            time.sleep(0.1)

    status, out, err = dump_from(tmp, chatter)
    equal((status, out), (1, ""))
    matches(err, "fake.sock': Connection timed out")


def reload(d, path, config, done=True):
    """Saves the file and has it read again: the lines of the log about that."""
    save(os.path.dirname(path), config, os.path.basename(path))
    before = len(d.log())
    d.process.send_signal(signal.SIGHUP)
    end = "reload: done" if done else "reload: nothing is changed"
    wait_until(lambda: end in d.log()[before:], "the reload")
    return [line.split("reload: ", 1)[1] for line in d.log()[before:].splitlines() if "reload: " in line]


def has(lines, *expected):
    """Each expression is that of a line, and there is no other one but the last."""
    for e in expected:
        matches("\n".join(lines), e)
    equal(len(lines), len(expected) + 1, lines)


@test
def reloads(tmp):
    "SIGHUP: what is new is added, what is changed is changed, what is gone is removed, while a client goes on"
    config = disk_config(tmp, objects=[
        {"qom-type": "throttle-group", "id": "lim0", "limits": {"iops-total": 500, "bps-total": 1 << 30}},
        {"qom-type": "authz-list", "id": "list0", "policy": "allow"}])
    config["exports"][0]["allow-open"] = "list0"
    path = save(tmp, config)
    with Configured(tmp, path) as d:
        h = d.nbd("disk0")
        equal(reload(d, path, config), ["done: 0 changes, 0 refused"])
        more = json.loads(json.dumps(config))
        more["objects"][0]["limits"] = {"iops-total": 700}
        more["objects"][1]["rules"] = [{"match": "uid=*", "format": "glob", "policy": "deny"}]
        more["objects"].append({"qom-type": "iothread", "id": "io0"})
        more["blockdevs"] += [{"driver": "null-co", "node-name": "n0", "size": MIB},
                              {"driver": "throttle", "node-name": "t0", "file": "n0", "throttle-group": "lim0"}]
        more["bitmaps"] = [{"node": "disk0", "name": "b0"}]
        more["nbd-servers"].append({"id": "second", "addr": unix(os.path.join(tmp, "second.sock"))})
        more["exports"].append({"type": "nbd", "id": "exp1", "node-name": "t0", "servers": ["second"]})
        more["exports"][0]["bitmaps"] = ["b0"]
        more["log-level"] = "info,nbd=debug"
        has(reload(d, path, more), "object 'lim0' is changed", "object 'list0' is changed", "object 'io0' is added",
            "blockdev 'n0' is added", "blockdev 't0' is added", "bitmap 'disk0/b0' is added",
            "nbd-server 'second' is added", "export 'exp1' is added", "export 'exp0' is changed",
            "log-level is changed")
        limits = d.qmp("qom-get", path="/objects/lim0", property="limits")
        equal((limits["iops-total"], limits["bps-total"]), (700, 0))
        equal([x["level"] for x in d.qmp("query-log-levels") if x["area"] == "nbd"], ["debug"])
        equal(d.qmp("query-block-exports")[1]["bitmaps"], [{"node": "disk0", "name": "b0"}])
        h.pwrite(b"x" * 512, 0)
        raises(Exception, d.nbd, "disk0")  # the list lets no new one in
        # The client holds its export; the rest goes.
        gone = dict(config, exports=[], objects=[], log_level=None)
        del gone["log_level"]
        has(reload(d, path, gone), "export 'exp1' is removed", "export 'exp0' takes no new clients",
            "blockdev 't0' is removed", "blockdev 'n0' is removed", "bitmap 'disk0/b0' is not removed: it stays",
            "nbd-server 'second' is removed", "object 'io0' is removed", "object 'list0' is not removed: .*in use",
            "object 'lim0' is removed", "log-level is changed")
        h.pwrite(b"x" * 512, 0)
        h.shutdown()
        wait_until(lambda: not d.qmp("query-block-exports"), "the end of the export")
        has(reload(d, path, gone), "object 'list0' is removed")
        has(reload(d, path, config), "object 'lim0' is added", "object 'list0' is added", "export 'exp0' is added")
        equal(d.nbd("disk0").pread(512, 0), b"x" * 512)
        equal(json.loads(json.dumps(dump(d)[0]["exports"])), config["exports"])


@test
def limits_of_servers(tmp):
    "SIGHUP: limits of an NBD server change while a client goes on, and go back to their defaults when they are gone"
    config = disk_config(tmp)
    path = save(tmp, config)
    with Configured(tmp, path) as d:
        h = d.nbd("disk0")
        server = config["nbd-servers"][0]
        server.update({"max-connections": 1, "idle-max-seconds": 3600})
        has(reload(d, path, config), "nbd-server 'default' is changed")
        shown = d.qmp("query-nbd-servers")[0]
        equal((shown["max-connections"], shown["idle-max-seconds"], shown["connections"]), (1, 3600, 1))
        equal([s[k] for s in dump(d)[0]["nbd-servers"] for k in ("max-connections", "idle-max-seconds")], [1, 3600])
        h.pwrite(b"y" * 512, 0)
        del server["max-connections"]
        has(reload(d, path, config), "nbd-server 'default' is changed")
        equal(d.qmp("query-nbd-servers")[0]["max-connections"], 0)
        equal("max-connections" in dump(d)[0]["nbd-servers"][0], False)
        d.nbd("disk0").shutdown()
        h.pread(512, 0)
        server["max-options"] = 1
        has(reload(d, path, config), "nbd-server 'default' is not changed: .*max-options.* is 1, expected 16 to")
        h.shutdown()


@test
def refused(tmp):
    "SIGHUP: a broken file changes nothing; what can't be changed is named, again at each reload, and the rest is done"
    config = disk_config(tmp, objects=[{"qom-type": "authz-simple", "id": "a0", "identity": "x"}])
    config["blockdevs"][0]["cache"] = {"direct": False}
    path = save(tmp, config)
    with Configured(tmp, path) as d:
        before = dump(d)[0]
        for text, match in (('{\n "blockdevs": [,]}', "%s:2: JSON parse error" % path),
                            (dict(config, exports=[]) | {"objcts": []}, "objcts: there is no such member"),
                            (dict(config, blockdevs=[]), r"exports\[0\].node-name: there is no node 'disk0'")):
            has(reload(d, path, text, done=False), match)
            equal(dump(d)[0], before)
        os.rename(path, path + ".away")
        d.process.send_signal(signal.SIGHUP)
        wait_until(lambda: "tidemarkd.conf': No such file" in d.log(), "the error")
        other = json.loads(json.dumps(config))
        other["blockdevs"][0].update({"cache": {"direct": True}, "discard": "unmap"})
        other["nbd-servers"][0]["max-connections"] = 3
        other["nbd-servers"][0]["addr"]["data"]["path"] = os.path.join(tmp, "other")
        other["chardevs"][0]["backend"]["data"]["logfile"] = os.path.join(tmp, "log")
        other["user"] = "nobody"
        other["exports"].append({"type": "nbd", "id": "exp1", "node-name": "disk0", "name": "again"})
        other["exports"].append({"type": "nbd", "id": "exp2", "node-name": "disk0", "name": "disk0"})
        expected = ["blockdev 'disk0' is not changed: restart needed: blockdev 'disk0' option 'cache.direct', 'discard'",
                    "nbd-server 'default' is not changed: restart needed: nbd-server 'default' option '.*addr.data.path.*'",
                    "chardev 'c0' is not changed: restart needed: .* option 'backend.data.logfile'",
                    "restart needed: 'user'", "export 'exp2' is not added: NBD server already has export named 'disk0'"]
        has(reload(d, path, other), "export 'exp1' is added", *expected)
        has(reload(d, path, other), *expected)
        # A changed export is made anew once nobody is connected.
        h = d.nbd("disk0")
        changed = json.loads(json.dumps(config))
        changed["exports"][0]["writable"] = False
        has(reload(d, path, changed), "export 'exp1' is removed",
            "export 'exp0' is not changed: 1 client is connected, .*export 'exp0' option 'writable'")
        h.pwrite(b"y" * 512, 0)
        h.shutdown()
        wait_until(lambda: not d.qmp("query-nbd-sessions"), "the end of the session")
        has(reload(d, path, changed), "export 'exp0' is changed")
        equal(d.nbd("disk0").is_read_only(), True)
        # What can't be made leaves the old one.
        worse = json.loads(json.dumps(changed))
        worse["exports"][0]["bitmaps"] = ["none"]
        worse["exports"][0]["writable"] = True
        has(reload(d, path, worse), "export 'exp0' is not changed: .*'none'")
        equal(d.nbd("disk0").is_read_only(), True)


@test
def beside_qmp(tmp):
    "SIGHUP: what QMP or the command line made stays; what QMP took away comes back; a dump that is saved is no change"
    config = disk_config(tmp)
    path = save(tmp, config)
    with Configured(tmp, path, "--object", "authz-simple,id=a0,identity=x") as d:
        d.qmp("blockdev-add", {"driver": "null-co", "node-name": "n0", "size": MIB})
        d.qmp("block-export-add", {"type": "nbd", "id": "exp1", "node-name": "n0"})
        d.qmp("block-export-del", id="exp0")
        has(reload(d, path, config), "export 'exp0' is added")
        equal(sorted(x["id"] for x in d.qmp("query-block-exports")), ["exp0", "exp1"])
        all_of_it = dump(d)[0]
        del all_of_it["objects"]  # of the command line
        equal(reload(d, path, all_of_it), ["done: 0 changes, 0 refused"])
        other = json.loads(json.dumps(config))
        has(reload(d, path, other), "export 'exp1' is removed", "blockdev 'n0' is removed")
        d.qmp("blockdev-add", {"driver": "null-co", "node-name": "n0", "size": MIB})
        other["blockdevs"].append({"driver": "null-co", "node-name": "n0", "size": 2 * MIB})
        has(reload(d, path, other), "blockdev 'n0' is not added: there is another one")


@test
def fenced(tmp):
    "SIGHUP: files that were not named at the start are beyond the sandbox, and the log says so"
    config = disk_config(tmp, sandbox={"mode": "auto", "files": "given"})
    inside = image(os.path.join(tmp, "inside.img"), MIB)
    with tempfile.TemporaryDirectory() as etc, tempfile.TemporaryDirectory() as elsewhere:
        path = save(etc, config)
        outside = image(os.path.join(elsewhere, "outside.img"), MIB)
        with Configured(tmp, path) as d:
            config["blockdevs"].append({"driver": "file", "node-name": "in", "filename": inside})
            config["blockdevs"].append({"driver": "file", "node-name": "out", "filename": outside})
            os.unlink(path)  # as editors do: it is another file then
            lines = reload(d, path, config)
            if "no Landlock" in d.log() or "blockdev 'out' is added" in lines:
                skip("the kernel has no Landlock")
            has(lines, "blockdev 'in' is added",
                "blockdev 'out' is not added: .*the sandbox allows only what was named at the start")


@test
def credentials(tmp):
    "SIGHUP: credentials and lists are read again, by the files' new content or not at all"
    directory, keys = tls.psk(os.path.join(tmp, "psk"), "alice")
    rules = save(tmp, {"policy": "allow"}, "rules.json")
    config = disk_config(tmp, objects=[
        {"qom-type": "authz-list-file", "id": "list0", "filename": rules, "refresh": False}])
    config["exports"][0]["allow-open"] = "list0"
    path = save(tmp, config)
    with Configured(tmp, path, "--object", "tls-creds-psk,id=t0,endpoint=server,dir=" + directory) as d:
        d.nbd("disk0").shutdown()
        save(tmp, {"policy": "deny"}, "rules.json")
        d.nbd("disk0").shutdown()
        reload(d, path, config)
        raises(Exception, d.nbd, "disk0")
        save(tmp, "{", "rules.json")
        os.rename(keys, keys + "x")
        lines = reload(d, path, config)
        has(lines, "object 'list0' keeps what its files had: .*rules.json", "object 't0' keeps what its files had")


@test
def no_file(tmp):
    "SIGHUP without a configuration file ends the daemon, as in QEMU"
    with Daemon(tmp) as d:
        d.stop(signal.SIGHUP)


main()
