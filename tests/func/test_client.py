#!/usr/bin/python3
# SPDX-FileCopyrightText: 2026 The Tidemark authors
# SPDX-License-Identifier: GPL-2.0-or-later
"""The tidemark command against a daemon: TIDEMARKD, which can be qemu-storage-daemon too; and its
copies from another server, nbdkit."""
import fcntl
import json
import os
import pty
import random
import select
import signal
import socket
import struct
import subprocess
import sys
import termios
import threading

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from harness import *
from deaf import Deaf, REQUEST

MIB = 1 << 20


def content(length, seed=1):
    return random.Random(seed).randbytes(length)


class Disk:
    """A daemon with one disk, and its bitmaps in the export from the start."""

    def __init__(self, tmp, size=8 * MIB, data=((0, MIB), (3 * MIB, MIB)), bitmaps=("b0",)):
        self.path = image(os.path.join(tmp, "disk0.img"), size,
                          [(offset, content(length, offset + 1)) for offset, length in data])
        self.daemon = Daemon(tmp, *disk(tmp, "disk0", path=self.path, export=False,
                                        discard="unmap"))
        self.socket = {"TIDEMARK_SOCKET": self.daemon.qmp_path}
        for name in bitmaps:
            self.client("bitmap", "add", "disk0", name, "--granularity", "64k")
        self.client("qmp", "block-export-add", "id=e0", "type=nbd", "node-name=disk0",
                    "name=disk0", "writable=on", *["bitmaps=" + name for name in bitmaps])
        self.uri = self.daemon.uri()

    def client(self, *args, **kwargs):
        return tidemark(*args, env=self.socket, **kwargs)

    def change(self):
        """Data over data, data into a hole, zeroes over data: what is dirty then, in 64 KiB steps."""
        h = self.daemon.nbd()
        h.pwrite(content(70000, 7), 100)
        h.pwrite(content(65536, 8), 6 * MIB)
        h.zero(131072, 3 * MIB, 0)
        h.shutdown()
        return [(0, 131072), (3 * MIB, 131072), (6 * MIB, 65536)]

    def same(self, path):
        with open(self.path, "rb") as a, open(path, "rb") as b:
            equal(a.read() == b.read(), True, "the copy differs from the disk")


def refused(status, pattern, *args, **kwargs):
    """Runs the client; it has to end with that status and one line on standard error."""
    p = tidemark(*args, check=False, **kwargs)
    equal(p.returncode, status, "status of %s: %s%s" % (args, p.stdout, p.stderr))
    equal(p.stdout, "")
    equal(p.stderr.count("\n"), 1, p.stderr)
    matches(p.stderr, "^tidemark: ")
    matches(p.stderr, pattern)


@test
def usage():
    "help and version go to standard output, misuse is one line and status 2"
    matches(tidemark("--version").stdout, r"^tidemark \d+\.\d+")
    help = tidemark("--help").stdout
    for command in ("info", "bitmap", "map", "copy", "qmp"):
        matches(help, r"\n  %s +\S" % command)
        matches(tidemark(command, "--help").stdout, "^Usage: tidemark " + command)
        equal(tidemark("help", command).stdout, tidemark(command, "--help").stdout)
    equal(tidemark("help").stdout, help)
    matches(tidemark("bitmap", "add", "--help").stdout, "--granularity SIZE")
    equal(tidemark("-V").stdout, tidemark("--version").stdout)
    matches(tidemark("--help").stdout, r"\n  -V, --version +show the version\n")
    refused(2, "unknown option '-V'", "info", "-V")
    refused(2, "unknown option '--jsno': did you mean '--json'", "--jsno", "info")
    refused(2, "option --socket needs a value|missing command", "--socket")
    refused(2, "missing command")
    refused(2, "unknown command 'cpoy': did you mean 'copy'", "cpoy")
    refused(2, "unknown command 'lst': did you mean 'list'", "bitmap", "lst")
    refused(2, "unknown option '--jsno': did you mean '--json'", "map", "--jsno", "nbd://h")
    refused(2, "unexpected argument 'c'", "copy", "a", "b", "c")
    refused(2, "missing argument", "copy", "a")
    refused(2, "--bitmap needs a value", "copy", "a", "b", "--bitmap")
    refused(2, "--json takes no value", "map", "a", "--json=yes")
    refused(2, "not a number from 1 to 64", "copy", "a", "b", "--connections", "65")
    refused(2, "'1000' is not a power of two from 512 to 2G", "bitmap", "add", "n", "b", "--granularity", "1000")
    refused(2, "exclude each other", "map", "a", "--json", "--picture")
    refused(2, "exclude each other", "map", "a", "--bitmap=b", "--context=c")


@test
def no_daemon(tmp):
    "without a daemon the error names the socket and how to name another"
    path = os.path.join(tmp, "none")
    refused(1, path + ".*TIDEMARK_SOCKET", "bitmap", "list", "--socket", path)
    refused(1, path, "qmp", "query-version", env={"TIDEMARK_SOCKET": path})
    refused(1, "longer than", "info", "--socket", "/" + "x" * 200)
    refused(1, "No such file", "map", "nbd+unix:///x?socket=" + path)


@test
def options_first(tmp):
    "options may come before the command's name, with their values"
    d = Disk(tmp)
    expected = tidemark("map", d.uri, "--bitmap", "b0", "--json").stdout
    for args in (["--bitmap", "b0", "--json", "map", d.uri], ["--json", "--bitmap=b0", "map", d.uri],
                 ["--json", "map", "--bitmap", "b0", d.uri]):
        equal(tidemark(*args).stdout, expected)
    equal(tidemark("--socket", d.daemon.qmp_path, "bitmap", "--json", "list").stdout,
          d.client("bitmap", "list", "--json").stdout)
    q = os.path.join(tmp, "q")
    tidemark("-f", "qcow2", "image", "create", q, "1M")
    equal(json.loads(tidemark("--json", "image", "info", q).stdout)["format"], "qcow2")
    refused(2, "unknown option '--bitmap'", "--bitmap", "b0", "sessions")


@test
def events(tmp):
    "events shows what happens, a line each, until the daemon ends"
    d = Disk(tmp)
    names = ["NBD_CLIENT_CONNECTED", "NBD_CLIENT_DISCONNECTED"]
    runs = [subprocess.Popen([TIDEMARK, "events", "--socket", d.daemon.qmp_path, *args], stdout=subprocess.PIPE,
                             stderr=subprocess.PIPE, text=True) for args in ([], ["--json", names[1]])]
    said = [[], []]

    def seen(p, lines, end):
        while not lines or end not in lines[-1]:
            d.daemon.nbd().shutdown()  # again and again: it may not have connected yet
            while select.select([p.stdout], [], [], 0.1)[0]:
                lines.append(p.stdout.readline())
                if end in lines[-1]:
                    break

    for p, lines in zip(runs, said):
        seen(p, lines, names[1])
    equal({re.sub(r"^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{3}  (\w+)  .*\n$", r"\1", line) for line in said[0]},
          set(names))
    matches(said[0][-1], "  export=e0(?s:.*)  reason=closed")
    equal({json.loads(line)["event"] for line in said[1]}, {names[1]})
    refused(1, "no event 'NBD_CLIENT_CONECTED': did you mean 'NBD_CLIENT_CONNECTED'", "events", "BACKUP_ENDED",
            "NBD_CLIENT_CONECTED", env=d.socket)
    d.daemon.stop()
    for p in runs:
        matches(p.communicate(timeout=PATIENCE)[1], "^tidemark: socket '.*': the server closed the connection\n$")
        equal(p.returncode, 1)


@test(needs=["qemu-storage-daemon"])
def qmp_help_of_others(tmp):
    "qmp COMMAND --help shows what the schema of another program says of a command that is not ours"
    with Daemon(tmp, binary="qemu-storage-daemon", nbd=False) as d:
        text = tidemark("--socket", d.qmp_path, "qmp", "blockdev-mirror", "--help").stdout
        matches(text, r"  sync \(one of top, full, none, incremental, bitmap\)\n")
        matches(text, r"  speed \(integer, optional\)\n")
        refused(2, "unknown QMP command 'blockdev-miror'", "--socket", d.qmp_path, "qmp", "blockdev-miror", "--help")
    refused(2, "unknown QMP command 'blockdev-mirror'", "qmp", "blockdev-mirror", "--help",
            env={"TIDEMARK_SOCKET": os.path.join(tmp, "none")})


@test
def qmp_types(tmp):
    "qmp types its arguments by the server's schema"
    d = Disk(tmp, bitmaps=())
    d.client("qmp", "block-dirty-bitmap-add", "node=disk0", "name=123", "granularity=4k",
             "disabled=on")
    bitmap = d.daemon.bitmap("disk0", "123")
    equal((bitmap["granularity"], bitmap["recording"]), (4096, False))
    for name in ("true", "b1"):
        d.client("qmp", "block-dirty-bitmap-add", "node=disk0", "name=" + name)
    d.client("qmp", "block-dirty-bitmap-merge", "node=disk0", "target=123", "bitmaps=true",
             "bitmaps.1.node=disk0", "bitmaps.1.name=b1")
    d.client("qmp", "block-dirty-bitmap-remove", 'node:="disk0"', 'name:="true"')
    equal(d.daemon.bitmap("disk0", "true"), None)
    nodes = json.loads(d.client("qmp", "query-named-block-nodes", "flat=true").stdout)
    equal([n["node-name"] for n in nodes], ["disk0"])
    equal(d.client("qmp", "block-dirty-bitmap-clear", "node=disk0", "name=b1").stdout, "{}\n")
    d.client("qmp", "blockdev-add", "driver=raw", "node-name=sub", "size=1M", "offset=0",
             "file.driver=null-co", "file.size=2M", "file.read-zeroes=on")
    sub = [n for n in json.loads(d.client("qmp", "query-named-block-nodes").stdout)
           if n["node-name"] == "sub"]
    equal(sub[0]["image"]["virtual-size"], MIB)


@test
def qmp_errors(tmp):
    "qmp prints an error in one line with its class, and a guess at a misspelt command"
    d = Disk(tmp, bitmaps=())
    refused(1, "block-dirty-bitmap-add: GenericError: .*'nope'", "qmp", "block-dirty-bitmap-add",
            "node=nope", "name=b", env=d.socket)
    refused(1, "CommandNotFound: .*did you mean 'query-version'", "qmp", "query-versoin",
            env=d.socket)
    refused(2, "'x' is not of the form", "qmp", "block-dirty-bitmap-add", "x", env=d.socket)
    refused(2, "'name' is given twice", "qmp", "block-dirty-bitmap-add", "name=a", "name=b",
            env=d.socket)
    refused(2, "argument 'granularity': 'big' is not a number", "qmp", "block-dirty-bitmap-add",
            "node=disk0", "name=b", "granularity=big", env=d.socket)
    refused(2, "argument 'disabled': 'maybe' is not on or off", "qmp", "block-dirty-bitmap-add",
            "node=disk0", "name=b", "disabled=maybe", env=d.socket)
    refused(2, r"argument 'node': '\{' is not JSON", "qmp", "block-dirty-bitmap-add", "node:={",
            env=d.socket)


@test
def bitmaps(tmp):
    "bitmap adds, lists, disables, enables, merges, clears and removes"
    d = Disk(tmp, bitmaps=())
    d.client("bitmap", "add", "disk0", "b0", "--granularity=32k")
    d.client("bitmap", "add", "disk0", "b1", "--disabled", "--granularity", "64K")
    d.client("qmp", "block-export-add", "id=e0-2", "type=nbd", "node-name=disk0", "name=rw",
             "writable=on")
    h = d.daemon.nbd("rw")
    h.pwrite(b"x" * 65536, 0)
    listed = {b["name"]: b for b in json.loads(d.client("bitmap", "list", "--json").stdout)}
    equal((listed["b0"]["count"], listed["b0"]["granularity"], listed["b0"]["size"],
           listed["b0"]["node"]), (65536, 32768, 8 * MIB, "disk0"))
    equal((listed["b1"]["count"], listed["b1"]["recording"]), (0, False))
    table = d.client("bitmap", "list", "disk0").stdout
    matches(table, r"NODE +BITMAP +GRANULARITY +DIRTY +OF DISK +STATE\n")
    matches(table, r"disk0 +b0 +32 KiB +64 KiB +0\.8 % +recording\n")
    matches(table, r"disk0 +b1 +64 KiB +0 B +0 % +disabled\n")
    equal(d.client("bitmap", "list", "disk0", "b1").stdout.count("\n"), 2)
    d.client("bitmap", "merge", "disk0", "b1", "b0")
    equal(d.daemon.bitmap("disk0", "b1")["count"], 65536)
    d.client("bitmap", "disable", "disk0", "b0")
    h.pwrite(b"x", 4 * MIB)
    equal(d.daemon.bitmap("disk0", "b0")["count"], 65536)
    d.client("bitmap", "enable", "disk0", "b0")
    equal(d.daemon.bitmap("disk0", "b0")["recording"], True)
    d.client("bitmap", "clear", "disk0", "b0")
    equal(d.daemon.bitmap("disk0", "b0")["count"], 0)
    d.client("bitmap", "remove", "disk0", "b0")
    equal(d.daemon.bitmap("disk0", "b0"), None)
    refused(1, "no node 'dsk0': did you mean 'disk0'", "bitmap", "list", "dsk0", env=d.socket)
    refused(1, "no bitmap 'b2': did you mean 'b1'", "bitmap", "list", "disk0", "b2", env=d.socket)
    refused(1, "disk0|b9", "bitmap", "remove", "disk0", "b9", env=d.socket)
    h.shutdown()


@test
def info(tmp):
    "info shows a daemon's nodes, bitmaps and exports, and an NBD export"
    d = Disk(tmp)
    text = d.client("info").stdout
    matches(text, r"disk0 +file +8 MiB +rw +1 ")
    matches(text, r"disk0 +b0 +64 KiB +0 B +0 % +recording")
    matches(text, r"e0 +nbd +disk0 +running")
    all = json.loads(d.client("info", "--json").stdout)
    equal([n["node-name"] for n in all["nodes"]], ["disk0"])
    equal([e["id"] for e in all["exports"]], ["e0"])
    equal([b["name"] for b in all["bitmaps"]], ["b0"])
    matches(tidemark("info", d.uri).stdout, r"size +8 MiB \(8388608 bytes\)\n")
    export = json.loads(tidemark("info", d.uri, "--json").stdout)
    equal(export["size"], 8 * MIB)
    equal((export["flags"]["multi-conn"], export["flags"]["read-only"]), (True, False))
    equal(sorted(export["contexts"]), ["base:allocation", "qemu:dirty-bitmap:b0",
                                         "x-tidemark:backup:b0"])
    equal(json.loads(tidemark("info", "--list", "--json", d.uri).stdout)[0]["export"], "disk0")
    refused(1, "the server has the export 'disk0'", "info", d.daemon.uri("other"))


@test
def exports_by_name(tmp):
    "info shows where exports are, what they offer and who is connected; map and info find them by a name"
    d = Disk(tmp)
    d.daemon.qmp("block-export-add", type="nbd", id="e1", **{"node-name": "disk0"}, name="a disk/1")
    d.daemon.qmp("nbd-server-start", id="tcp", addr={"type": "inet", "data": {"host": "0.0.0.0", "port": "0"}})
    h = d.daemon.nbd()
    exports = {e["id"]: e for e in json.loads(d.client("info", "--json").stdout)["exports"]}
    equal([(e["name"], e["writable"], [b["name"] for b in e["bitmaps"]], len(e["clients"]))
           for e in (exports["e0"], exports["e1"])], [("disk0", True, ["b0"], 1), ("a disk/1", False, [], 0)])
    equal(exports["e0"]["clients"][0]["writable"], True)
    equal(exports["e1"]["uris"][0], "nbd+unix:///a%%20disk/1?socket=%s" % d.daemon.nbd_path)
    matches(exports["e1"]["uris"][1], r"^nbd://localhost:\d+/a%20disk/1$")
    for uri in exports["e1"]["uris"]:
        equal(json.loads(tidemark("info", uri, "--json").stdout)["export"], "a disk/1")
    servers = d.daemon.qmp("query-nbd-servers")
    equal([s["exports"] for s in servers], [["e0", "e1"]] * 2)
    equal(servers[0]["uris"], ["nbd+unix:///?socket=" + d.daemon.nbd_path])
    text = d.client("info").stdout
    matches(text, r"e0 +nbd +disk0 +running +rw +1 +b0\n")
    matches(text, r"e1 +nbd +disk0 +running +ro +0 +-\n")
    matches(text, "\n  e0 +" + re.escape(d.uri) + "\n")
    matches(text, r"Clients\n.*\n  e0 +\d+ +unix:pid=\d+,uid=\d+ +uid=\d+ +rw\n")
    h.shutdown()
    for word in ("e1", "a disk/1"):
        equal(json.loads(d.client("info", word, "--json").stdout)["export"], "a disk/1")
    equal(d.client("map", "disk0", "--bitmap", "b0", "--json").stdout,
          tidemark("map", d.uri, "--bitmap", "b0", "--json").stdout)
    d.client("copy", "disk0", os.path.join(tmp, "copy"))
    d.same(os.path.join(tmp, "copy"))
    refused(1, "no export 'dsik0': did you mean 'disk0'", "map", "dsik0", env=d.socket)
    refused(1, "file, not an NBD URI.*: 'tidemark image map %s'" % re.escape(d.path), "map", d.path)
    refused(1, "'./nosuch' is no file, and neither an NBD URI nor an export", "map", "./nosuch", env=d.socket)
    refused(1, "file, not an NBD URI.*: 'tidemark image info disk0.img'", "info", "disk0.img",
            env=d.socket, cwd=tmp)
    d.daemon.qmp("blockdev-add", driver="null-co", size=MIB, **{"node-name": "bare", "read-zeroes": True})
    refused(1, "node 'bare' has no export: 'tidemark qmp block-export-add", "map", "bare", env=d.socket)


@test
def long_names(tmp):
    "a table with long names fits a terminal of 80 columns, and is a line for each row elsewhere"
    long, wide = "a" * 31, "\u7532" * 20 + "b" * 30
    with Daemon(tmp, *disk(tmp, "disk0", size=MIB)) as d:
        d.qmp("blockdev-add", driver="null-co", size=MIB, **{"node-name": long, "read-zeroes": True})
        for node, name in ((long, "x"), (long, wide), ("disk0", "monday")):
            d.qmp("block-dirty-bitmap-add", node=node, name=name)
        env = {"TIDEMARK_SOCKET": d.qmp_path, "LC_ALL": "C.UTF-8"}
        lines = tidemark("bitmap", "list", env=env).stdout.splitlines()
        equal([line.split()[1] for line in lines], ["BITMAP", "x", wide, "monday"])
        lines = on_terminal("bitmap", "list", env={**env, "NO_COLOR": "1"}, columns=80).splitlines()
    columns = [sum(2 if ord(c) > 0x1000 else 1 for c in line) for line in lines]
    equal(max(columns) <= 80, True, lines)
    equal([line.split()[0] for line in lines if line and line[0] != " "], ["NODE", long, long, "disk0"])
    at = lines[0].index("BITMAP")
    equal([line[at:].split()[0] for line in lines if not line.startswith(long)][:2], ["BITMAP", "x"])
    equal([line.strip() for line in lines if wide in line], [wide])


@test
def offer_and_withdraw(tmp):
    "bitmap offer and withdraw change what new clients see; a bitmap that is not offered names the command"
    d = Disk(tmp)
    d.client("bitmap", "add", "disk0", "b1")
    for word, uri in (("disk0", d.uri), ("e0", "e0")):
        refused(1, "export 'disk0' does not offer bitmap 'b1': 'tidemark bitmap offer e0 b1'", "map", uri,
                "--bitmap", "b1", env=d.socket)
    d.client("bitmap", "offer", "e0", "b1")
    d.client("bitmap", "offer", "disk0", "b1")
    d.client("map", "disk0", "--bitmap", "b1")
    d.client("map", "disk0", "--bitmap", "b0")
    d.client("qmp", "blockdev-add", "driver=null-co", "node-name=other", "size=8M", "read-zeroes=on")
    d.client("bitmap", "add", "other", "b2")
    refused(1, "'b2' is not found.*: use --node other, whose bitmap it is", "bitmap", "offer", "e0", "b2", env=d.socket)
    d.client("bitmap", "offer", "e0", "b2", "--node", "other")
    d.client("bitmap", "withdraw", "e0", "b0")
    equal([(b["node"], b["name"]) for b in d.daemon.qmp("query-block-exports")[0]["bitmaps"]],
          [("disk0", "b1"), ("other", "b2")])
    refused(1, "'e0' does not offer bitmap 'b0': it offers b1, b2", "bitmap", "withdraw", "e0", "b0", env=d.socket)
    refused(1, "no bitmap 'b3': did you mean 'b", "bitmap", "offer", "e0", "b3", env=d.socket)
    refused(1, "no node 'othr': did you mean 'other'", "bitmap", "offer", "e0", "b2", "--node", "othr", env=d.socket)
    refused(1, "no export 'nope'", "bitmap", "offer", "nope", "b0", env=d.socket)


class Proxy:
    """A monitor through which a command of the client is run: .up_to() stops when it has sent a text."""

    def __init__(self, d, *args):
        self.path = os.path.join(os.path.dirname(d.path), "proxy")
        self.listener, self.daemon = (socket.socket(socket.AF_UNIX) for _ in range(2))
        self.listener.bind(self.path)
        self.listener.listen()
        self.daemon.connect(d.daemon.qmp_path)
        self.process = subprocess.Popen([TIDEMARK, *args, "--socket", self.path])
        self.client = self.listener.accept()[0]

    def __enter__(self):
        return self

    def __exit__(self, *error):
        for s in self.listener, self.daemon, self.client:
            s.close()
        self.process.kill()
        self.process.wait()

    def up_to(self, text):
        """What was sent then, and not passed on."""
        while True:
            readable = select.select([self.client, self.daemon], [], [], PATIENCE)[0]
            equal(readable != [], True, "nothing is sent")
            if self.daemon in readable:
                self.client.sendall(self.daemon.recv(65536))
                continue
            said = self.client.recv(65536)
            if not said or text in said:
                return said
            self.daemon.sendall(said)


@test
def rotate_killed(tmp):
    "a bitmap rotate that is killed when its commands are sent does all of it, and the bitmap stays offered"
    d = Disk(tmp, bitmaps=("monday",))
    with Proxy(d, "bitmap", "rotate", "disk0", "monday", "tuesday") as p:
        said = p.up_to(b"block-export-dirty-bitmap")
        p.process.kill()
        p.process.wait()
        while more := p.client.recv(65536):  # what it had sent
            said += more
        p.daemon.sendall(said)
        wait_until(lambda: d.daemon.bitmap("disk0", "tuesday"), "the rotation")
        equal([d.daemon.bitmap("disk0", name)["recording"] for name in ("monday", "tuesday")], [False, True])
        wait_until(lambda: d.daemon.qmp("query-block-exports")[0]["bitmaps"], "the offer")


@test
def rotate_beside_others(tmp):
    "what another client changes in the offers while a bitmap rotates stays so"
    def offered():
        return [[b["name"] for b in x["bitmaps"]] for x in reversed(d.daemon.qmp("query-block-exports"))]

    d = Disk(tmp, bitmaps=("monday", "other"))
    d.client("bitmap", "add", "disk0", "more")
    d.daemon.qmp("block-export-add", type="nbd", id="e1", name="second", writable=True, **{"node-name": "disk0"})
    d.client("bitmap", "offer", "e1", "monday")
    with Proxy(d, "bitmap", "rotate", "disk0", "monday", "tuesday") as p:
        said = p.up_to(b"block-export-dirty-bitmap")
        d.client("bitmap", "offer", "e0", "more")
        d.client("bitmap", "withdraw", "e0", "other")
        d.client("bitmap", "withdraw", "e1", "monday")
        equal(offered(), [["monday", "more"], []])
        p.daemon.sendall(said)
        equal(p.up_to(b"no such text"), b"")
        equal(p.process.wait(), 0)
    equal([d.daemon.bitmap("disk0", name)["recording"] for name in ("monday", "tuesday")], [False, True])
    equal(offered(), [["more", "monday"], []])


@test
def rotate(tmp):
    "bitmap rotate ends one bitmap and begins another like it in one transaction; offers stay"
    d = Disk(tmp, bitmaps=("monday", "other"))
    d.client("bitmap", "add", "disk0", "kept", "--persistent", "--granularity", "128k")
    d.change()
    d.client("bitmap", "rotate", "disk0", "monday", "tuesday")
    h = d.daemon.nbd()
    h.pwrite(bytes(65536), 7 * MIB)
    h.shutdown()
    got = {n: d.daemon.bitmap("disk0", n) for n in ("monday", "tuesday")}
    equal([(b["recording"], b["granularity"], b["count"], b["persistent"]) for b in got.values()],
          [(False, 65536, 327680, False), (True, 65536, 65536, False)])
    equal(sorted(b["name"] for b in d.daemon.qmp("query-block-exports")[0]["bitmaps"]), ["monday", "other"])
    d.client("bitmap", "rotate", "disk0", "kept", "next")
    got = d.daemon.bitmap("disk0", "next")
    equal((got["persistent"], got["granularity"]), (True, 131072))
    refused(1, "'kept' of node 'disk0' does not record writes", "bitmap", "rotate", "disk0", "kept", "x",
            env=d.socket)
    refused(1, "Bitmap already exists: next", "bitmap", "rotate", "disk0", "other", "next", env=d.socket)
    equal(d.daemon.bitmap("disk0", "other")["recording"], True)
    refused(1, "no bitmap 'nope'", "bitmap", "rotate", "disk0", "nope", "x", env=d.socket)
    refused(2, "OLD and NEW are both 'other'", "bitmap", "rotate", "disk0", "other", "other", env=d.socket)
    # a client that reads it keeps it busy: nothing is changed, and it is offered as before
    h = d.daemon.nbd(contexts=["qemu:dirty-bitmap:other"])
    refused(1, "'other' is currently in use", "bitmap", "rotate", "disk0", "other", "x", env=d.socket)
    equal(d.daemon.bitmap("disk0", "x"), None)
    equal(d.daemon.bitmap("disk0", "other")["recording"], True)
    equal(sorted(b["name"] for b in d.daemon.qmp("query-block-exports")[0]["bitmaps"]), ["monday", "other"])
    h.shutdown()


@test(needs=["nbdinfo"])
def map_as_nbdinfo(tmp):
    "map --json is what nbdinfo --map --json says, for allocation and bitmap"
    d = Disk(tmp)
    d.change()
    for context in ("base:allocation", "qemu:dirty-bitmap:b0"):
        expected = json.loads(run("nbdinfo", "--map=" + context, "--json", d.uri).stdout)
        equal(json.loads(tidemark("map", "--context", context, "--json", d.uri).stdout), expected)
    equal(json.loads(tidemark("map", "--bitmap", "b0", "--json", d.uri).stdout), expected)


@test
def map_of_own_contexts(tmp):
    "map shows the joint context for backups by words, and what the management attached by numbers"
    d = Disk(tmp)
    d.change()
    mine = [{"offset": 0, "length": 512, "value": 7}, {"offset": 4 * MIB, "length": MIB, "value": 1 << 31}]
    d.client("qmp", "block-export-context-set", "id=e0", "name=tier", "ranges:=" + json.dumps(mine))
    rows = json.loads(tidemark("map", "--context", "x-tidemark:user:tier", "--json", d.uri).stdout)
    equal([(r["offset"], r["length"], r["type"]) for r in rows], [
        (0, 512, 7), (512, 4 * MIB - 512, 0), (4 * MIB, MIB, 1 << 31), (5 * MIB, 3 * MIB, 0)])
    rows = json.loads(tidemark("map", "--context", "x-tidemark:backup:b0", "--json", d.uri).stdout)
    totals = {}
    for r in rows:
        totals[r["description"]] = totals.get(r["description"], 0) + r["length"]
    equal(totals, {"clean": 8 * MIB - 320 * 1024, "dirty": 192 * 1024, "dirty,zero": 128 * 1024})


@test
def map_table(tmp):
    "map lists extents with totals; a missing context is an error that names those there are"
    d = Disk(tmp)
    dirty_ranges = d.change()
    table = tidemark("map", d.uri, "--bitmap", "b0").stdout
    rows = re.findall(r"^ *(\d+) +(\d+) .* dirty$", table, re.M)
    equal([(int(a), int(b)) for a, b in rows], dirty_ranges)
    matches(table, r"total +327680 +320 KiB +dirty \(3\.9 %\)")
    refused(1, "export 'disk0' .nbd.*: no bitmap 'b1': the export offers 'b0'; did you mean 'b0'", "map", d.uri,
            "--bitmap", "b1")
    refused(1, "no metadata context 'x:y': the export offers 'base:allocation'", "map", d.uri,
            "--context", "x:y")


@test
def map_picture(tmp):
    "the picture shows the most important state of each cell, and exact totals"
    d = Disk(tmp)
    d.change()
    lines = tidemark("map", d.uri, "--bitmap=b0", "--picture", "--width=42",
                     env={"LC_ALL": "C", "LINES": "12"}).stdout.splitlines()
    cells = "".join(line[10:] for line in lines[:lines.index("")])
    matches("\n".join(lines), r"each character stands for 64 KiB")
    at = lambda offset: cells[offset // 65536]
    equal(len(cells), 128)
    equal("".join(sorted(set(cells))), "#.=")
    equal([i * 65536 for i, c in enumerate(cells) if c == "#"],
          [0, 65536, 3 * MIB, 3 * MIB + 65536, 6 * MIB])
    equal((at(2 * 65536), at(MIB), at(4 * MIB - 1), at(4 * MIB)), ("=", ".", "=", "."))
    matches("\n".join(lines), r"# dirty +320 KiB +3\.9 % +\(192 KiB to read, 128 KiB of zeroes\)")
    matches("\n".join(lines), r"= data +1\.8 MiB")


def on_terminal(*args, env=None, columns=100):
    """Runs the client with standard output and error on a terminal."""
    try:
        master, slave = pty.openpty()
    except OSError as e:
        skip("no pseudo-terminal: %s" % e)
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 30, columns, 0, 0))
    p = subprocess.Popen([TIDEMARK, *args], stdout=slave, stderr=slave, stdin=slave,
                         env={**{k: v for k, v in os.environ.items() if k != "NO_COLOR"},
                              "TERM": "xterm", "LC_ALL": "C", **(env or {})})
    os.close(slave)
    out = b""
    while True:
        try:
            data = os.read(master, 65536)
        except OSError:
            break
        if not data:
            break
        out += data
    os.close(master)
    equal(p.wait(), 0, out)
    return out.decode().replace("\r\n", "\n")


@test
def colors(tmp):
    "colours are for terminals, and not with NO_COLOR or --no-color"
    d = Disk(tmp)
    d.change()
    command = ("map", d.uri, "--bitmap=b0", "--picture")
    drawn = on_terminal(*command)
    matches(drawn, r"\033\[1;31m#")
    equal(max(len(line) for line in re.sub(r"\033\[[0-9;]*m", "", drawn).splitlines()) <= 100, True)
    equal("\033[" in on_terminal(*command, env={"NO_COLOR": "1"}), False)
    equal("\033[" in on_terminal(*command, "--no-color"), False)
    equal("\033[" in tidemark(*command).stdout, False)


def done(text):
    """The last of the events that a copy with --json prints."""
    event = json.loads(text.splitlines()[-1])
    equal(event["event"], "done")
    return event


def copied(target):
    """Whether a copy has written something: what it remembers of its source takes a block at most."""
    return os.path.exists(target) and os.stat(target).st_blocks * 512 >= 65536


@test
def copy_full(tmp):
    "a full copy is equal, sparse, and says what it read"
    d = Disk(tmp)
    target = os.path.join(tmp, "copy.img")
    said = done(tidemark("copy", d.uri, target, "--json").stdout)
    d.same(target)
    equal((said["size"], said["read"], said["extents"], said["bitmap"]),
          (8 * MIB, 2 * MIB, 2, None))
    equal(os.stat(target).st_blocks * 512 <= 3 * MIB, True, "the copy is not sparse")
    matches(tidemark("copy", d.uri, target).stdout, r"read +2 MiB +25\.0 % of the disk\n")
    d.same(target)


@test
def copy_over(tmp):
    "a copy over an old file leaves nothing of it, and gives it the size"
    d = Disk(tmp)
    for size in (3 * MIB + 5, 20 * MIB):
        target = image(os.path.join(tmp, "copy%d.img" % size), size, [(0, b"\xee" * size)])
        tidemark("copy", d.uri, target, "--connections=1", "--requests=1", "--force")
        d.same(target)


@test
def copy_dirty(tmp):
    "copy --bitmap reads what is dirty and not zero, and makes the copy equal again"
    d = Disk(tmp)
    target = os.path.join(tmp, "copy.img")
    tidemark("copy", d.uri, target)
    d.change()
    with open(target, "r+b") as f:  # clean in the bitmap, so it has to survive
        f.seek(5 * MIB)
        f.write(b"mark")
    said = done(tidemark("copy", d.uri, target, "--bitmap", "b0", "--json").stdout)
    equal((said["read"], said["zeroed"], said["bitmap"]), (196608, 131072, "b0"))
    with open(target, "r+b") as f:
        f.seek(5 * MIB)
        equal(f.read(4), b"mark")
        f.seek(5 * MIB)
        f.write(bytes(4))
    d.same(target)
    d.client("qmp", "block-export-del", "id=e0", "mode=hard")
    d.client("bitmap", "clear", "disk0", "b0")
    d.client("qmp", "block-export-add", "id=e1", "type=nbd", "node-name=disk0", "name=disk0",
             "writable=on", "bitmaps=b0")
    matches(tidemark("copy", d.uri, target, "--bitmap", "b0").stdout, r"read +0 B +0 % of the disk")


@test
def copy_dirty_refused(tmp):
    "copy --bitmap changes nothing if the bitmap is missing or the target has another size"
    d = Disk(tmp)
    target = os.path.join(tmp, "copy.img")
    refused(1, "'%s' does not exist" % target, "copy", d.uri, target, "--bitmap=b0")
    equal(os.path.exists(target), False)
    image(target, MIB, [(0, b"old")])
    refused(1, "1048576 bytes and the source 8388608", "copy", d.uri, target, "--bitmap=b0")
    refused(1, "no bitmap 'c0': the export offers 'b0'", "copy", d.uri, target, "--bitmap=c0")
    refused(1, "is a directory", "copy", d.uri, tmp)
    refused(1, "is a special file", "copy", d.uri, "/dev/null")
    with open(target, "rb") as f:
        equal((f.read(3), os.path.getsize(target)), (b"old", MIB))


@test
def copy_overwrites_copies_only(tmp):
    "a full copy overwrites an earlier copy of the disk and what is empty; anything else only with --force"
    d = Disk(tmp)
    d.daemon.qmp("block-export-add", type="nbd", id="e1", **{"node-name": "disk0"}, name="other")
    target = image(os.path.join(tmp, "copy.img"), 3 * MIB, [(MIB, b"mine")])
    refused(1, "'%s' exists, and is not known to be a copy of nbd.*/disk0.*: --force" % target, "copy", d.uri, target)
    with open(target, "rb") as f:
        f.seek(MIB)
        equal(f.read(4), b"mine")
    d.client("copy", "disk0", target, "--force")
    d.same(target)
    # the same disk, whatever the URI's spelling
    tidemark("copy", "nbd+unix:///disk%%30?socket=%s" % os.path.relpath(d.daemon.nbd_path, tmp), target, cwd=tmp)
    refused(1, "is a copy of nbd.*/disk0.*, not of nbd.*/other.*: --force", "copy", d.daemon.uri("other"), target)
    for name, size in (("empty", 0), ("hole", 64 * MIB)):
        tidemark("copy", d.uri, image(os.path.join(tmp, name), size))
        d.same(os.path.join(tmp, name))


@test
def copy_updates_copies_only(tmp):
    "copy --bitmap updates a complete copy of that disk; any other file is refused and not changed"
    d = Disk(tmp, bitmaps=("b0", "b1"))
    other = os.path.join(tmp, "other.img")
    d.daemon.qmp("block-export-add", type="nbd", id="e1", **{"node-name": "disk0"}, name="other")
    tidemark("copy", d.daemon.uri("other"), other)
    stranger = image(os.path.join(tmp, "stranger.img"), 8 * MIB, [(0, b"mine")])
    d.change()
    for path, message in ((other, "is a copy of nbd.*/other.*, not of nbd.*/disk0.*: --force"),
                          (stranger, "is not known to be a copy of nbd.*: --force updates it")):
        with open(path, "rb") as f:
            before = f.read()
        refused(1, message, "copy", d.uri, path, "--bitmap=b0")
        with open(path, "rb") as f:
            equal(f.read() == before, True, "a refused copy changed its target")
    tidemark("copy", d.uri, other, "--bitmap=b0", "--force")
    d.same(other)
    tidemark("copy", d.uri, other, "--bitmap=b1")


@test
def copy_duplicates(tmp):
    "copy --bitmap refuses a duplicate of a copy, which lacks later updates; a new name is no duplicate"
    d = Disk(tmp, bitmaps=("b0",))
    target, duplicate, renamed = (os.path.join(tmp, name) for name in ("copy.img", "duplicate.img", "renamed.img"))
    tidemark("copy", d.uri, target)
    recorded = "user.tidemark.copy" in os.listxattr(target)
    run("cp", "-a", target, duplicate)
    d.change()
    if recorded:  # what is beside it would not go with it
        os.rename(target, renamed)
        target = renamed
    tidemark("copy", d.uri, target, "--bitmap=b0")
    d.same(target)
    refused(1, "'%s' is a duplicate of a copy of nbd.*/disk0.*: copy without --bitmap, or use --force" % duplicate
            if recorded else "is not known to be a copy", "copy", d.uri, duplicate, "--bitmap=b0")
    tidemark("copy", d.uri, duplicate, *([] if recorded else ["--force"]))
    tidemark("copy", d.uri, duplicate, "--bitmap=b0")
    d.same(duplicate)


@test
def copy_update_interrupted(tmp):
    "after an update that was interrupted, only the same one or a full copy goes on"
    path = image(os.path.join(tmp, "disk.img"), 4 * MIB, [(0, content(4 * MIB))])
    target = os.path.join(tmp, "copy.img")
    with Daemon(tmp, *disk(tmp, "disk0", path=path)) as d:
        for name in ("b0", "b1"):
            d.qmp("block-dirty-bitmap-add", node="disk0", name=name)
        d.qmp("block-export-dirty-bitmap", id="exp-disk0", bitmaps=["b0", "b1"])
        tidemark("copy", d.uri(), target)
        h = d.nbd()
        h.pwrite(content(4 * MIB, 5), 0)
        h.shutdown()
        p = subprocess.Popen([TIDEMARK, "copy", d.uri(), target, "--bitmap=b0", "--rate=256K", "--requests=1"],
                             stderr=subprocess.PIPE, text=True)
        with open(target, "rb") as f:
            wait_until(lambda: (f.seek(0), f.read(4096) == content(4 * MIB, 5)[:4096])[1], "some bytes")
        p.send_signal(signal.SIGTERM)
        matches(p.communicate(timeout=PATIENCE)[1], "is incomplete: .* bytes were copied")
        refused(1, "its update with bitmap 'b0' did not come to its end", "copy", d.uri(), target, "--bitmap=b1")
        matches(tidemark("copy", d.uri(), target, "--bitmap=b0").stderr, "the copy begins again")
        tidemark("copy", d.uri(), target, "--bitmap=b1")
        run("cmp", path, target)
        p = subprocess.Popen([TIDEMARK, "copy", d.uri(), target + "2", "--rate=256K", "--requests=1"],
                             stderr=subprocess.PIPE, text=True)
        wait_until(lambda: copied(target + "2"), "some bytes")
        p.kill()
        p.communicate()
        refused(1, "its full copy did not come to its end: copy without --bitmap first", "copy", d.uri(),
                target + "2", "--bitmap=b0")


@test
def copy_to_standard_output(tmp):
    "copy to '-' writes the whole disk to standard output, in order"
    d = Disk(tmp)
    p = tidemark("copy", d.uri, "-", text=False)
    with open(d.path, "rb") as f:
        equal(p.stdout == f.read(), True, "what was written differs from the disk")
    matches(p.stderr.decode(), "Copied the disk to '-'")
    with open(d.path, "rb") as f:
        equal(tidemark("copy", d.uri, "-", "--requests=1", text=False).stdout == f.read(), True)
    refused(2, "--json and standard output", "copy", d.uri, "-", "--json")
    refused(2, "--bitmap needs a file or device", "copy", d.uri, "-", "--bitmap=b0")
    with open("/dev/full", "wb") as full:
        p = subprocess.run([TIDEMARK, "copy", d.uri, "-"], stdout=full, stderr=subprocess.PIPE, text=True)
    equal(p.returncode, 1)
    matches(p.stderr, "standard output: No space left on device: standard output got 0 of 8388608 bytes")


@test
def copy_back(tmp):
    "copy from a file to an NBD URI or an export restores a disk; what is on another is not overwritten by mistake"
    d = Disk(tmp)
    backup, plain = os.path.join(tmp, "backup.img"), image(os.path.join(tmp, "plain.img"), 2 * MIB + 512,
                                                           [(MIB, content(MIB // 2, 9))])
    tidemark("copy", d.uri, backup)
    d.change()
    matches(d.client("copy", backup, "disk0").stdout, "Copied '%s' to the disk 'disk0'" % backup)
    d.same(backup)
    refused(1, "target nbd.*/disk0.* is not empty, and '%s' is not known to be a copy of it: --force" % plain,
            "copy", plain, d.uri)
    d.same(backup)
    event = done(tidemark("copy", plain, d.uri, "--force", "--json").stdout)
    equal((event["size"], event["read"], event["source"], event["target"]), (2 * MIB + 512, MIB // 2, plain, d.uri))
    with open(d.path, "rb") as a, open(plain, "rb") as b:
        equal(a.read(2 * MIB + 512) == b.read(), True)
    d.daemon.qmp("blockdev-add", driver="file", filename=image(os.path.join(tmp, "new.img"), 8 * MIB),
                 **{"node-name": "new"})
    d.daemon.qmp("block-export-add", type="nbd", id="new", **{"node-name": "new"}, writable=True)
    d.client("copy", backup, "new")
    run("cmp", backup, os.path.join(tmp, "new.img"))
    equal(os.stat(os.path.join(tmp, "new.img")).st_blocks * 512 <= 3 * MIB, True, "the restored disk is not sparse")
    refused(1, "'%s' is in use by another program" % os.path.join(tmp, "new.img"), "copy",
            os.path.join(tmp, "new.img"), d.uri, "--force")
    large = image(os.path.join(tmp, "large.img"), 9 * MIB)
    refused(1, "has 8388608 bytes, and the disk 9437184", "copy", large, d.uri, "--force")
    q = os.path.join(tmp, "q.qcow2")
    tidemark("image", "create", "-f", "qcow2", q, "1M")
    refused(1, "begins as a qcow2 image", "copy", q, d.uri)
    tidemark("copy", q, d.uri, "--force")
    with open(d.path, "rb") as a, open(q, "rb") as b:
        equal(a.read(os.path.getsize(q)) == b.read(), True)
    luks = image(os.path.join(tmp, "luks.img"), MIB, [(0, b"LUKS\xba\xbe\0\1")])
    d.daemon.qmp("blockdev-add", driver="null-co", size=MIB, **{"node-name": "null", "read-zeroes": True})
    d.daemon.qmp("block-export-add", type="nbd", id="null", **{"node-name": "null"}, writable=True)
    d.client("copy", luks, "null")
    refused(1, "source '%s' is a file, so the target is a disk: '%s' is no file, and neither" % (
        plain, os.path.join(tmp, "x")), "copy", plain, os.path.join(tmp, "x"), env=d.socket)
    refused(1, "so the target is a disk: no export 'x'", "copy", plain, "x", env=d.socket)
    refused(1, "'%s' is a file, .*: 'cp' copies files to files" % backup, "copy", plain, backup, env=d.socket)
    refused(2, "not a file, and only files are copied to an NBD URI", "copy", d.uri, d.uri)
    refused(2, "source '-': standard input can't be copied", "copy", "-", d.uri)


@test
def copy_stalls(tmp):
    "progress says when nothing arrives any more"
    path = image(os.path.join(tmp, "disk0.img"), 4 * MIB, [(0, content(4 * MIB))])
    with Daemon(tmp, *disk(tmp, "disk0", path=path)) as d:
        deaf = Deaf(os.path.join(tmp, "deaf"), d.nbd_path, REQUEST + b"\0")
        p = subprocess.Popen([TIDEMARK, "copy", deaf.uri(), os.path.join(tmp, "c"), "--json", "--connections=1"],
                             stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        for line in p.stdout:
            event = json.loads(line)
            equal(event["event"], "progress")
            if "stalled" in event:
                break
        equal((event["doing"], event["done"], event["total"], event["stalled"] >= 5), ("copying", 0, 4 * MIB, True))
        p.kill()
        p.communicate()


@test
def copy_target_in_use(tmp):
    "a target that a daemon has open is refused: also the disk itself"
    d = Disk(tmp)
    refused(1, "in use by another program", "copy", d.uri, d.path, "--force")
    tidemark("copy", d.uri, os.path.join(tmp, "copy.img"))
    d.same(os.path.join(tmp, "copy.img"))


@test
def copy_target_read(tmp):
    "a target that a daemon only reads is refused too; an export made after a copy has the new size"
    data = content(2 * MIB)
    path = image(os.path.join(tmp, "disk0.img"), 2 * MIB, [(0, data)])
    small = image(os.path.join(tmp, "small.img"), MIB, [(0, b"small")])
    export = dict(type="nbd", id="e", node_name="disk0", name="disk0")
    with Daemon(tmp, *disk(tmp, "small", path=small)) as source, \
            Daemon(tmp, "--blockdev", "driver=file,node-name=disk0,filename=" + path, name="e") as d:
        d.qmp("block-export-add", **export)
        for uri in (d.uri(), source.uri("small")):
            refused(1, "in use by another program", "copy", uri, path, "--force")
        with open(path, "rb") as f:
            equal(f.read() == data, True, "a refused copy changed its target")
        d.unexport("e")
        tidemark("copy", source.uri("small"), path, "--force")
        raises(QMPError, d.qmp, "block-export-add", **export, match="has changed since it was opened")


@test
def copy_few_connections(tmp):
    "a copy goes on with fewer connections if the server takes no more"
    path = image(os.path.join(tmp, "disk0.img"), 4 * MIB, [(0, content(4 * MIB))])
    d = Daemon(tmp, *disk(tmp, "disk0", path=path), max_connections=2)
    target = os.path.join(tmp, "copy.img")
    said = done(tidemark("copy", d.uri(), target, "--connections=4", "--json").stdout)
    equal(1 <= said["connections"] <= 2, True, said)
    run("cmp", path, target)


class Nbdkit:
    """nbdkit, killed in the end."""

    def __init__(self, tmp, *args):
        self.socket = os.path.join(tmp, "k.sock")
        if os.path.exists(self.socket):
            os.unlink(self.socket)
        self.uri = "nbd+unix:///?socket=" + self.socket
        self.process = subprocess.Popen(["nbdkit", "-f", "-U", self.socket, *args],
                                        stderr=subprocess.DEVNULL)
        wait_until(lambda: listens(self.socket), "nbdkit's socket")

    def __enter__(self):
        return self

    def __exit__(self, *unused):
        self.process.kill()
        self.process.wait()


@test(needs=["nbdkit"])
def copy_from_nbdkit(tmp):
    "copies come from any server: with multi-conn and without, odd sizes, no structured replies"
    path = image(os.path.join(tmp, "odd.img"), 3 * MIB + 12345, [(MIB - 7, content(300000))])
    for number, args in enumerate((["file", path], ["--filter=noparallel", "file", path],
                                   ["--no-sr", "file", path], ["--filter=noextents", "file", path],
                                   ["-o", "file", path])):
        target = os.path.join(tmp, "copy%d.img" % number)
        with Nbdkit(tmp, *args) as kit:
            tidemark("copy", kit.uri, target)
        run("cmp", path, target)
        equal(os.stat(target).st_blocks * 512 < 2 * MIB, True, "zeroes were written")


@test(needs=["nbdkit"])
def copy_failing(tmp):
    "a failing read ends the copy, and the error says what state the target is in"
    target = os.path.join(tmp, "copy.img")
    path = image(os.path.join(tmp, "disk.img"), 4 * MIB, [(0, content(4 * MIB))])
    with Nbdkit(tmp, "--filter=error", "file", path, "error-pread=EIO", "error-pread-rate=1") as kit:
        refused(1, r"reading nbd.* at offset \d+: Input/output error: target '%s' is incomplete: "
                   r"0 of 4194304 bytes were copied; run the same command again" % target,
                "copy", kit.uri, target)


@test(needs=["nbdkit"])
def copy_interrupted(tmp):
    "SIGINT and SIGTERM end a copy with status 130 and 143 and the state of the target; a second copy completes it"
    path = image(os.path.join(tmp, "disk.img"), 4 * MIB, [(0, content(4 * MIB))])
    for signum, status in ((signal.SIGINT, 130), (signal.SIGTERM, 143)):
        target = os.path.join(tmp, "copy%d.img" % status)
        with Nbdkit(tmp, "--filter=rate", "file", path, "rate=8M") as kit:
            p = subprocess.Popen([TIDEMARK, "copy", kit.uri, target, "--requests=1"],
                                 stderr=subprocess.PIPE, text=True)
            wait_until(lambda: copied(target), "some bytes")
            p.send_signal(signum)
            said = p.communicate(timeout=PATIENCE)[1]
        equal(p.returncode, status, said)
        m = re.search(r"^tidemark: interrupted: target '%s' is incomplete: (\d+) of 4194304 bytes "
                      r"were copied; run the same command again: it begins from the start\n$" % target, said)
        equal(bool(m), True, said)
        equal(0 < int(m.group(1)) < 4 * MIB, True, said)
        with Nbdkit(tmp, "file", path) as kit:
            matches(tidemark("copy", kit.uri, target).stderr,
                    "target '%s' is incomplete: the copy begins again\n" % target)
            equal(tidemark("copy", kit.uri, target).stderr, "")
        run("cmp", path, target)


@test(needs=["nbdkit"])
def copy_server_dies(tmp):
    "a server that dies in the middle ends the copy, with the state of the target"
    target = os.path.join(tmp, "copy.img")
    path = image(os.path.join(tmp, "disk.img"), 4 * MIB, [(0, content(4 * MIB))])
    with Nbdkit(tmp, "--filter=rate", "file", path, "rate=8M") as kit:
        p = subprocess.Popen([TIDEMARK, "copy", kit.uri, target, "--requests=1"],
                             stderr=subprocess.PIPE, text=True)
        wait_until(lambda: copied(target), "some bytes")
        kit.process.kill()
        said = p.communicate(timeout=PATIENCE)[1]
    equal(p.returncode, 1, said)
    matches(said, r"^tidemark: .*target '%s' is incomplete: \d+ of 4194304 bytes" % target)
    equal(said.count("\n"), 1, said)


def short_lived_server(path):
    """Listens, agrees on an export of 1 MiB, and is gone: a thread to join."""
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(path)
    listener.listen(1)
    listener.settimeout(PATIENCE)

    def serve():
        peer = listener.accept()[0]
        peer.sendall(b"NBDMAGICIHAVEOPT" + struct.pack(">H", 3))
        stream = peer.makefile("rb")
        stream.read(4)
        option = None
        while option != 7:  # NBD_OPT_GO
            option, length = struct.unpack(">8xII", stream.read(16))
            stream.read(length)
            reply = struct.pack(">QI", 0x3e889045565a9, option)
            if option == 7:
                peer.sendall(reply + struct.pack(">II", 3, 12) + struct.pack(">HQH", 0, MIB, 1) +
                             reply + struct.pack(">II", 1, 0))
            else:
                peer.sendall(reply + struct.pack(">II", 0x80000001, 0))
        peer.shutdown(socket.SHUT_RDWR)
        listener.close()

    thread = threading.Thread(target=serve)
    thread.start()
    return thread


@test
def copy_server_gone(tmp):
    "a server that is gone before the first read ends the copy too"
    path, target = os.path.join(tmp, "n"), os.path.join(tmp, "copy.img")
    thread = short_lived_server(path)
    p = tidemark("copy", "nbd+unix:///?socket=" + path, target, "--requests=1", check=False)
    thread.join()
    equal(p.returncode, 1, p.stderr)
    matches(p.stderr, "^tidemark: .*target '%s' is incomplete: 0 of %d bytes" % (target, MIB))


@test(needs=["nbdkit"])
def copy_progress(tmp):
    "progress is one line that is rewritten on a terminal, and nothing elsewhere"
    path = image(os.path.join(tmp, "disk.img"), 4 * MIB, [(0, content(4 * MIB))])
    with Nbdkit(tmp, "--filter=rate", "file", path, "rate=10M") as kit:
        shown = on_terminal("copy", kit.uri, os.path.join(tmp, "a.img"))
        matches(shown, r"\rcopying +\d+ % \[[#.]+\] .* of 4 MiB .*/s +0:\d\d left\033\[K")
        equal(shown.split("\r")[-1].startswith("\033[KCopied the disk"), True, shown)
        quiet = on_terminal("copy", kit.uri, os.path.join(tmp, "b.img"), "--no-progress")
        equal("\r" in quiet, False)
    with Nbdkit(tmp, "--filter=rate", "file", path, "rate=10M") as kit:
        equal(tidemark("copy", kit.uri, os.path.join(tmp, "c.img")).stderr, "")


@test
def in_one_piece(tmp):
    "a command is sent in one piece, so that a daemon which answers and exits at once does no harm"
    path = os.path.join(tmp, "q")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen(1)
        listener.settimeout(PATIENCE)
        got = []

        def serve():
            c, _ = listener.accept()
            with c:
                c.sendall(b'{"QMP": {"version": {}, "capabilities": []}}\r\n')
                for _ in range(2):
                    got.append(c.recv(65536))
                    c.sendall(b'{"return": {}}\r\n')

        in_threads(serve, lambda: tidemark("qmp", "--socket", path, "quit"))
    equal([text[-2:] for text in got], [b"}\n"] * 2)


@test
def qmp_help():
    "qmp COMMAND --help describes a command without a daemon; --help alone lists them"
    said = tidemark("qmp", "block-export-del", "--help").stdout
    for text in ("block-export-del: remove an export\n", "  seconds (integer, optional)\n",
                 "  export 'ID' still in use\n", "  tidemark qmp block-export-del id=exp0 mode=wait"):
        equal(text in said, True, text)
    equal(tidemark("help", "qmp", "block-export-del").stdout, said)
    matches(tidemark("qmp", "--help").stdout, "(?s)Options:.*Dirty bitmaps:\n  block-dirty-bitmap-add +add a bitmap")
    p = tidemark("qmp", "block-export-dle", "--help", check=False)
    equal(p.returncode, 2)
    matches(p.stderr, "unknown QMP command 'block-export-dle': did you mean 'block-export-del'?")


main()
