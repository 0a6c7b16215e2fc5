#!/usr/bin/python3
# SPDX-FileCopyrightText: 2026 The Tidemark authors
# SPDX-License-Identifier: GPL-2.0-or-later
"""QMP: what qemu-storage-daemon answers and what tidemarkd answers, and what is ours alone.

The scripts below are sent to both; every reply and event must be equal but for versions, time stamps
and the directory."""
import os
import socket
import stat
import threading

from harness import *

NEEDS = ["qemu-storage-daemon"]

# Requests are bytes sent as they are, (command, arguments), or ("WRITE", [(offset, length)...]) to the
# NBD export "w". "@" in a string is the directory.
PROTOCOL = [
    b'{"execute":"qmp_capabilities"}',
    b'{"execute":"foo"}',
    b'{"execute":"foo","id":{"a":[1,2.5,null,"\\u00e9\xc3\xa9/\\u0000"]}}',
    b'{"execute":1}',
    b'{"exec":1}',
    b'{}',
    b'{"execute":"quit","arguments":[]}',
    b'{"execute":"query-version","arguments":{"x":1}}',
    b'{"execute":"query-version","arguments":{}}',
    b'{"execute":"query-version","extra":1}',
    b'{"execute":"query-version","exec-oob":"a"}',
    b'[1]',
    b'1 ',
    b'null ',
    b'"str"',
    b'}',
    b'{"execute" "query-version"}',
    b'{"execute":"query-version",}',
    b'{"a":1 "b":2}',
    b'{"a":}',
    b"{'execute':'query-\\u0076ersion'}",
    b"{'a':'\\x'}",
    b'{"a":"\\ud800"}',
    b'{"a":"\\u12g4"}',
    b'{"a":"\xc3"}',
    b'nul ',
    b'{"a":1,"a":2}',
    b'{"a\xff',
    b'\n\xff\xff',
    b'{"execute":"query-version"}',
    b'[1,2,}',
    b'tRue\n',
    b'{"a":0x10}',
    b'{"a":01}',
    b'{"a":1.}',
    b'\n{"a":-}',
    b'\n{"a":"line\nbreak"}',
    b'%d\n',
    b'{1:2}',
    b'[1 2]',
    b'[,]',
    b'{"a":99999999999999999999}',
    b'{"execute":"query-version","id":18446744073709551615}',
    b'{"execute":"query-version","id":1e3}',
    b'[' * 1025,
    b'\n\xff\n',
    b'[' * 1024 + b']' * 1024,
]

NODES = [
    ("blockdev-add", {}),
    ("blockdev-add", {"driver": "foo"}),
    ("blockdev-add", {"driver": 1}),
    ("blockdev-add", {"driver": "null-co"}),
    ("blockdev-add", {"driver": "null-co", "node-name": "n0", "size": "1M"}),
    ("blockdev-add", {"driver": "null-co", "node-name": "n0", "size": 1048576}),
    ("blockdev-add", {"driver": "null-co", "node-name": "n0", "size": 1048576}),
    ("blockdev-add", {"driver": "null-co", "node-name": "0"}),
    ("blockdev-add", {"driver": "null-co", "node-name": ""}),
    ("blockdev-add", {"driver": "null-co", "node-name": "x" * 32}),
    ("blockdev-add", {"driver": "null-co", "node-name": "n1", "zork": 1}),
    ("blockdev-add", {"driver": "null-co", "node-name": "n1", "read-zeroes": "on"}),
    ("blockdev-add", {"driver": "null-co", "node-name": "n1", "cache": {"direct": 1}}),
    ("blockdev-add", {"driver": "null-co", "node-name": "n1", "cache": True}),
    ("blockdev-add", {"driver": "null-co", "node-name": "n1", "discard": "foo"}),
    ("blockdev-add", {"driver": "null-co", "node-name": "n1", "detect-zeroes": 0}),
    *(("blockdev-add", {"driver": "null-aio", "node-name": "n1", **more}) for more in (
        {"discard": "on"}, {"discard": "off"}, {"discard": True}, {"detect-zeroes": "unmap"}, {"cache": "none"},
        {"cache": {"writeback": True}}, {"read-only": "on"}, {"force-share": True}, {"auto-read-only": 1})),
    ("blockdev-add", {"driver": "file", "node-name": "f0"}),
    ("blockdev-add", {"driver": "file", "node-name": "f0", "filename": "/nonexistent"}),
    ("blockdev-add", {"driver": "raw", "node-name": "r0"}),
    ("blockdev-add", {"driver": "raw", "node-name": "r0", "file": "nope"}),
    ("blockdev-add", {"driver": "raw", "node-name": "r0", "file": {"driver": "file"}}),
    ("blockdev-add", {"driver": "raw", "node-name": "r0", "file": {"driver": "fill"}}),
    ("blockdev-add", {"driver": "raw", "node-name": "r0", "file": 1}),
    ("blockdev-add", {"driver": "raw", "node-name": "r0", "file": None}),
    ("blockdev-add", {"driver": "raw", "node-name": "r0", "file": {
        "driver": "file", "node-name": "f0", "filename": "@/disk.img"}}),
    ("blockdev-add", {"driver": "file", "node-name": "ro", "filename": "@/other.img",
                      "read-only": True, "discard": "unmap", "cache": {"no-flush": True}}),
    ("query-named-block-nodes", {}),
    ("query-named-block-nodes", {"flat": True}),
    ("query-named-block-nodes", {"flat": 1}),
    ("blockdev-del", {}),
    ("blockdev-del", {"node-name": "nope"}),
    ("blockdev-del", {"node-name": "f0"}),
    ("block_resize", {"size": 1}),
    ("block_resize", {"node-name": "nope", "size": 1}),
    ("block_resize", {"device": "nope", "size": 1}),
    ("block_resize", {"node-name": "n0"}),
    ("block_resize", {"node-name": "n0", "size": -1}),
    ("block_resize", {"node-name": "n0", "size": 1 << 63}),
    ("block_resize", {"node-name": "r0", "size": 2 << 20}),
    ("query-named-block-nodes", {}),
    ("blockdev-del", {"node-name": "r0"}),
    ("blockdev-del", {"node-name": "n0"}),
    ("query-named-block-nodes", {}),
]


def bitmap(name, node="d0", **more):
    return dict({"node": node, "name": name}, **{k.replace("_", "-"): v for k, v in more.items()})


def merge(target, bitmaps, node="d0"):
    return ("block-dirty-bitmap-merge", {"node": node, "target": target, "bitmaps": bitmaps})


def action(kind, **data):
    return {"type": kind, "data": data}


def transaction(*actions, **properties):
    return ("transaction", dict({"actions": list(actions)},
                                **({"properties": properties} if properties else {})))


def start(path):
    return ("nbd-server-start", {"addr": {"type": "unix", "data": {"path": path}}})


def export(id, node="d0", **more):
    return ("block-export-add", dict({"type": "nbd", "id": id, "node-name": node},
                                     **{k.replace("_", "-"): v for k, v in more.items()}))


LIST = ("query-named-block-nodes", {"flat": True})

BITMAPS = [
    ("blockdev-add", {"driver": "file", "node-name": "d0", "filename": "@/disk.img"}),
    ("blockdev-add", {"driver": "file", "node-name": "d1", "filename": "@/other.img"}),
    ("blockdev-add", {"driver": "null-co", "node-name": "small", "size": 512}),
    ("block-dirty-bitmap-add", {}),
    ("block-dirty-bitmap-add", {"node": "d0"}),
    ("block-dirty-bitmap-add", bitmap(1)),
    ("block-dirty-bitmap-add", bitmap("b", node="nope")),
    ("block-dirty-bitmap-add", bitmap("b", granularity="x")),
    ("block-dirty-bitmap-add", bitmap("b", granularity=-1)),
    ("block-dirty-bitmap-add", bitmap("b", granularity=1.5)),
    ("block-dirty-bitmap-add", bitmap("b", granularity=1 << 32)),
    ("block-dirty-bitmap-add", bitmap("b", granularity=0)),
    ("block-dirty-bitmap-add", bitmap("b", granularity=256)),
    ("block-dirty-bitmap-add", bitmap("b", granularity=1000)),
    ("block-dirty-bitmap-add", bitmap("b", persistent=1)),
    ("block-dirty-bitmap-add", bitmap("b", foo=1)),
    ("block-dirty-bitmap-add", bitmap("")),
    ("block-dirty-bitmap-add", bitmap("b" * 1024)),
    ("block-dirty-bitmap-add", bitmap("b")),
    ("block-dirty-bitmap-add", bitmap("b")),
    ("block-dirty-bitmap-add", bitmap("b", node="d1")),
    ("block-dirty-bitmap-add", bitmap("fine", granularity=512, disabled=True)),
    ("block-dirty-bitmap-add", bitmap("coarse", granularity=1 << 31)),
    ("block-dirty-bitmap-add", bitmap("s", node="small")),
    LIST,
    ("x-debug-block-dirty-bitmap-sha256", bitmap("b")),
    ("x-debug-block-dirty-bitmap-sha256", bitmap("fine")),
    ("x-debug-block-dirty-bitmap-sha256", bitmap("nope")),
    ("x-debug-block-dirty-bitmap-sha256", bitmap("b", node="nope")),
    start("@/nbd"),
    export("w", name="w", writable=True),
    ("WRITE", [(0, 1), (200000, 70000), (1048575, 1)]),
    LIST,
    ("x-debug-block-dirty-bitmap-sha256", bitmap("b")),
    ("x-debug-block-dirty-bitmap-sha256", bitmap("coarse")),
    merge("b", 1),
    merge("b", [1]),
    merge("b", [{"node": "x"}]),
    merge("b", [bitmap("b", y=1)]),
    merge("b", ["b"], node="nope"),
    merge("b", ["nope"]),
    merge("nope", ["b"]),
    merge("b", [bitmap("b", node="nope")]),
    merge("b", [bitmap("s", node="small")]),
    merge("fine", ["b", bitmap("b", node="d1")]),
    LIST,
    ("x-debug-block-dirty-bitmap-sha256", bitmap("fine")),
    ("block-dirty-bitmap-clear", bitmap("b")),
    ("block-dirty-bitmap-clear", bitmap("nope")),
    ("block-dirty-bitmap-enable", bitmap("fine")),
    ("WRITE", [(1000, 2000), (700001, 511)]),
    LIST,
    ("x-debug-block-dirty-bitmap-sha256", bitmap("fine")),
    ("x-debug-block-dirty-bitmap-sha256", bitmap("b")),
    ("block-dirty-bitmap-enable", bitmap("nope")),
    ("block-dirty-bitmap-disable", bitmap("b")),
    ("block-dirty-bitmap-disable", bitmap("nope")),
    ("block-dirty-bitmap-remove", bitmap("coarse")),
    ("block-dirty-bitmap-remove", bitmap("coarse")),
    LIST,
    # transactions
    transaction(),
    ("transaction", {}),
    ("transaction", {"actions": 1}),
    transaction({"type": "abort"}),
    transaction({"data": {}}),
    transaction(action("foo")),
    transaction(action("abort")),
    transaction(action("abort", x=1)),
    transaction(action("block-dirty-bitmap-add", node="d0"), **{"completion-mode": "foo"}),
    transaction(action("block-dirty-bitmap-add", **bitmap("t")), **{"completion-mode": "foo"}),
    transaction(action("block-dirty-bitmap-add", **bitmap("t")), action("abort")),
    LIST,
    transaction(action("block-dirty-bitmap-add", **bitmap("t")),
                action("block-dirty-bitmap-clear", **bitmap("fine")),
                action("block-dirty-bitmap-disable", **bitmap("fine")),
                action("block-dirty-bitmap-enable", **bitmap("b")),
                action("block-dirty-bitmap-merge", node="d0", target="b", bitmaps=["t"]),
                action("block-dirty-bitmap-remove", **bitmap("b", node="d1")),
                action("block-dirty-bitmap-clear", **bitmap("nope"))),
    LIST,
    transaction(action("block-dirty-bitmap-add", **bitmap("t")),
                action("block-dirty-bitmap-add", **bitmap("b")),
                action("block-dirty-bitmap-add", **bitmap("x", node="nope"))),
    transaction(action("block-dirty-bitmap-add", **bitmap("t")),
                action("block-dirty-bitmap-merge", node="d0", target="t", bitmaps=["fine"]),
                action("block-dirty-bitmap-clear", **bitmap("fine")),
                action("block-dirty-bitmap-remove", **bitmap("b", node="d1"))),
    LIST,
    transaction(action("block-dirty-bitmap-clear", **bitmap("t")),
                **{"completion-mode": "individual"}),
    transaction(action("block-dirty-bitmap-clear", **bitmap("t")),
                **{"completion-mode": "grouped"}),
    transaction(action("abort"), **{"completion-mode": "grouped"}),
]


EXPORTS = [
    ("blockdev-add", {"driver": "file", "node-name": "d0", "filename": "@/disk.img"}),
    ("blockdev-add", {"driver": "file", "node-name": "ro", "filename": "@/other.img",
                      "read-only": True}),
    ("block-dirty-bitmap-add", bitmap("b")),
    ("block-dirty-bitmap-add", bitmap("off", disabled=True)),
    ("nbd-server-stop", {}),
    ("nbd-server-add", {"device": "d0"}),
    ("nbd-server-add", {"device": "nope"}),
    export("e"),
    ("query-block-exports", {}),
    ("nbd-server-start", {}),
    ("nbd-server-start", {"addr": {"type": "unix", "path": "x"}}),
    ("nbd-server-start", {"addr": {"type": "unix", "data": {}}}),
    ("nbd-server-start", {"addr": {"type": "foo", "data": {}}}),
    ("nbd-server-start", {"addr": {"type": "inet", "data": {"host": "localhost"}}}),
    ("nbd-server-start", {"addr": {"type": "unix", "data": {"path": "@/x"}}, "max-connections": -1}),
    start("/nonexistent/x"),
    start("@/nbd"),
    start("@/nbd"),
    ("nbd-server-add", {}),
    ("nbd-server-add", {"device": "nope"}),
    ("nbd-server-add", {"device": "d0", "bitmap": "nope"}),
    ("nbd-server-add", {"device": "d0", "bitmap": "b"}),
    export("e", bitmaps=["nope"]),
    export("e", bitmaps=["b"]),
    export("e", bitmaps=[bitmap("b", node="nope")]),
    export("e", bitmaps=[1]),
    export("0 3"),
    export(""),
    export("e", "nope"),
    export("e", "ro", writable=True),
    ("block-export-add", {"type": "foo", "id": "e", "node-name": "d0"}),
    ("block-export-add", {"id": "e", "node-name": "d0"}),
    ("block-export-add", {"type": "nbd", "id": "e"}),
    export("e", name="x" * 4097),
    export("e", description="x" * 4097),
    export("e", zork=1),
    export("e", bitmaps=["b"], writable=True),
    export("e"),
    export("e2", name="d0"),
    export("e2", bitmaps=["b"], name="other"),
    export("e3", bitmaps=["off"], name="third", allocation_depth=True, description="words"),
    ("query-block-exports", {}),
    LIST,
    ("block-dirty-bitmap-remove", bitmap("b")),
    ("block-dirty-bitmap-clear", bitmap("b")),
    ("block-dirty-bitmap-enable", bitmap("off")),
    ("block-dirty-bitmap-disable", bitmap("b")),
    merge("b", ["off"]),
    ("block-dirty-bitmap-add", bitmap("free")),
    merge("free", ["off"]),
    ("blockdev-del", {"node-name": "d0"}),
    ("block_resize", {"node-name": "d0", "size": 512 << 10}),
    ("nbd-server-add", {"device": "ro", "writable": True}),
    ("nbd-server-add", {"device": "ro"}),
    ("nbd-server-remove", {"name": "ro"}),
    ("nbd-server-remove", {"name": "ro"}),
    ("nbd-server-remove", {}),
    ("block-export-del", {"id": "nope"}),
    ("block-export-del", {"id": "e", "mode": "nope"}),
    ("block-export-del", {"id": "e"}),
    ("block-export-del", {"id": "e3", "mode": "hard"}),
    ("block-dirty-bitmap-remove", bitmap("b")),
    export("e4", name="fourth", bitmaps=["free"], writable=True),
    export("e5", "ro", name="fifth"),
    ("nbd-server-stop", {}),
    ("nbd-server-stop", {}),
    ("query-block-exports", {}),
    ("block-dirty-bitmap-remove", bitmap("free")),
    ("blockdev-del", {"node-name": "d0"}),
    start("@/nbd"),
    export("e6", "ro"),
    ("quit", {}),
]

def fill(value, directory):
    """The value with "@" in its strings replaced by the directory."""
    if isinstance(value, dict):
        return {k: fill(v, directory) for k, v in value.items()}
    if isinstance(value, list):
        return [fill(v, directory) for v in value]
    return value.replace("@", directory) if isinstance(value, str) else value


def normal(value, directory):
    """What may differ, taken out."""
    if isinstance(value, dict):
        value = {k: normal(v, directory) for k, v in value.items()}
        if "timestamp" in value:
            value["timestamp"] = sorted(value["timestamp"])
        if "shutting-down" in value:  # what more we say of exports: see BEYOND_QEMU
            value = {k: v for k, v in value.items() if "query-block-exports." + k not in BEYOND_QEMU}
        if "granularity" in value:  # what more we say of bitmaps
            value.pop("age", None)
        if "drv" in value:  # of newer versions of QEMU
            value.pop("active", None)
        if "package" in value:
            value["package"], value["qemu"]["micro"] = "", 0
        return value
    if isinstance(value, list):
        return [normal(v, directory) for v in value]
    if isinstance(value, str):
        return value.replace(directory, "@")
    return value


def write(directory, ranges):
    import nbd
    h = nbd.NBD()
    h.connect_uri("nbd+unix:///w?socket=%s/nbd" % directory)
    for offset, length in ranges:
        h.pwrite(b"w" * length, offset)
    h.flush()
    h.shutdown()


def ask(daemon, client, request, directory, mark):
    """Sends a request; the messages up to its reply, or several, if it is malformed in several ways."""
    if isinstance(request, bytes):
        client.send(request)
    else:
        client.send({"execute": request[0], "arguments": fill(request[1], directory)})
    if request[0] != "quit":  # the reply to a second request is behind all that the first one causes
        client.send({"execute": "query-block-exports", "id": mark})
    messages = []
    while True:
        message = client.read()
        if message is None and request[0] != "quit":
            fail("%s ended at %s\n%s" % (daemon.command[0], request, daemon.log()))
        if message is None:  # whether the reply to quit is before or behind its events is open
            return sorted(messages, key=lambda m: "return" in m)
        if message.get("id") == mark:
            return messages
        if message.get("event", "").startswith("NBD_CLIENT_"):  # they have no such events
            continue
        messages.append(normal(message, directory))


def play(tmp, binary, script):
    """Runs a script: for each request what ask() gives."""
    directory = os.path.join(tmp, "q" if binary else "t")
    os.mkdir(directory)
    for name in ("disk.img", "other.img"):
        image(os.path.join(directory, name), 1 << 20, [(0, b"x" * 4096)])
    answers = []
    with Daemon(directory, binary=binary, nbd=False) as d:
        client = d.new_monitor(negotiate=False)
        if script is not PROTOCOL:
            client("qmp_capabilities")
        for number, request in enumerate(script):
            if request[0] == "WRITE":
                write(directory, request[1])
                answers.append([])
            else:
                answers.append(ask(d, client, request, directory, "mark%d" % number))
            if request[0] == "quit":
                d.wait()
    return answers


def differences(a, b, path=""):
    """The places at which two values differ, a line each."""
    if isinstance(a, dict) and isinstance(b, dict):
        pairs = [("." + k, a.get(k, "absent"), b.get(k, "absent")) for k in sorted({**a, **b})]
    elif isinstance(a, list) and isinstance(b, list) and len(a) == len(b):
        pairs = [("[%d]" % i, x, y) for i, (x, y) in enumerate(zip(a, b))]
    else:
        return [] if a == b else ["%s: theirs %r, ours %r" % (path, a, b)]
    return [line for key, x, y in pairs for line in differences(x, y, path + key)]


def without_guesses(value):
    """Without what our messages have at their end: the known values, and what may be meant."""
    if isinstance(value, str):
        return re.sub(r"(does not accept value '[^']*'|is unexpected|has not been found): .*", r"\1", value)
    if isinstance(value, dict):
        return {k: without_guesses(v) for k, v in value.items()}
    return [without_guesses(v) for v in value] if isinstance(value, list) else value


def same(tmp, script):
    theirs, ours = play(tmp, QSD, script), play(tmp, None, script)
    wrong = []
    for request, a, b in zip(script, theirs, without_guesses(ours)):
        wrong += ["%s\n    %s" % (str(request)[:200], line) for line in differences(a, b)]
    if wrong:
        fail("%d differences\n  " % len(wrong) + "\n  ".join(wrong))


@test(needs=NEEDS)
def same_protocol(tmp):
    "protocol: negotiation, malformed and misshapen requests are answered as by QSD"
    same(tmp, PROTOCOL)


@test(needs=NEEDS)
def same_nodes(tmp):
    "nodes: blockdev-add, -del, block_resize and their mistakes are answered as by QSD"
    same(tmp, NODES)


@test(needs=NEEDS)
def same_bitmaps(tmp):
    "bitmaps and transactions are answered as by QSD"
    same(tmp, BITMAPS)


@test(needs=NEEDS)
def same_exports(tmp):
    "exports and the NBD server are answered as by QSD"
    same(tmp, EXPORTS)


OPTIONS = [
    ("--blockdev", ""),
    ("--blockdev", "null-co,size=1024"),
    ("--blockdev", "driver=null-co,node-name=x,foo=1"),
    ("--blockdev", '{"driver":"null-co","node-name":1}'),
    ("--blockdev", '{"driver":"null-co",'),
    ("--blockdev", "driver=null-co,driver"),
    ("--blockdev", "foo,bar"),
    ("--blockdev", "a..b=1"),
    ("--blockdev", "driver.x=1,driver=2"),
    ("--blockdev", "driver=raw,node-name=a,file.0=x"),
    ("--blockdev", "driver=raw,node-name=a,file.driver=file,file.filename=/usr/nope,,x"),
    ("--blockdev", "driver=raw,node-name=a,file=nope"),
    ("--blockdev", "driver=null-co,node-name=a,cache.direct=foo"),
    ("--blockdev", "driver=null-co,node-name=a,cache=foo"),
    ("--blockdev", "driver=null-co,node-name.x=a"),
    ("--export", "nbd,id=e"),
    ("--export", "nbd,id=e,node-name=x,bitmaps.1=a"),
    ("--export", "nbd,id=e,node-name=x,bitmaps=a"),
    ("--export", "nbd,id=e,node-name=x,bitmaps.0=a"),
    ("--export", "nbd,id=e,node-name=x,bitmaps.0.node=x"),
    ("--nbd-server", "addr.type=unix"),
    ("--nbd-server", "addr.type=foo"),
    ("--nbd-server", "type=foo"),
    ("--nbd-server", "addr.type=inet,addr.host=localhost,addr.port=x,max-connections=x"),
    ("--nbd-server", "addr.type=inet,addr.host=localhost,addr.port=x,max-connections=-1"),
    ("--monitor", "c"),
    ("--monitor", "chardev=c,pretty=x"),
]


@test(needs=NEEDS)
def same_options(tmp):
    "mistakes on the command line are reported as by QSD"
    for option in OPTIONS:
        said = [run(binary, *option, check=False) for binary in (QSD, TIDEMARKD)]
        equal([done.returncode for done in said], [1, 1], str(option))
        texts = [done.stderr.split(": ", 1)[1] for done in said]
        equal(without_guesses(texts[1]), texts[0], str(option))


# ---- ours


@test
def several_clients(tmp):
    "several clients at once on a socket for the owner alone; each must negotiate; events go to all"
    with Daemon(tmp, *disk(tmp, "disk0", 1 << 20)) as d:
        equal(stat.S_IMODE(os.stat(d.qmp_path).st_mode), 0o600)
        a, b, c = d.new_monitor(), d.new_monitor(), d.new_monitor(negotiate=False)
        equal(a.greeting["QMP"]["capabilities"], [])
        raises(QMPError, c, "query-version", match="Expecting capabilities negotiation")
        raises(QMPError, c, "qmp_capabilities", enable=["oob"], match="oob not available")
        a("block-export-del", id="exp-disk0")
        a.wait_event("BLOCK_EXPORT_DELETED", id="exp-disk0")
        b.wait_event("BLOCK_EXPORT_DELETED", id="exp-disk0")
        c("qmp_capabilities")
        equal(c("query-block-exports"), [])
        equal(c.events, [])
        a.send(b'{"execute": "query-ver')
        b.close()
        equal(c("query-block-exports"), [])
        a.send(b'sion", "id": "split"}')
        equal(a.reply()["id"], "split")
    equal(os.path.exists(d.qmp_path), False)


@test
def order_and_backpressure(tmp):
    "a client that asks much before it reads gets every reply, in order"
    with Daemon(tmp, *disk(tmp, "disk0", 1 << 20)) as d:
        c = d.new_monitor()
        count = 300
        sender = threading.Thread(target=lambda: c.send(b"".join(
            b'{"execute":"query-qmp-schema","id":%d}' % i for i in range(count))))
        sender.start()
        wait_until(lambda: d.qmp("query-version"), "others being served meanwhile")
        for i in range(count):
            equal(c.reply()["id"], i)
        sender.join()


@test
def half_closed(tmp):
    "a client that ends its side of the connection still gets its replies"
    with Daemon(tmp) as d:
        c = d.new_monitor()
        c.send(b'{"execute":"query-qmp-schema"}' * 50)
        c.sock.shutdown(socket.SHUT_WR)
        for _ in range(50):
            equal("return" in c.reply(), True)
        equal(c.reply(), None)


@test
def stdio(tmp):
    "a session on standard input and output, pretty"
    done = run(TIDEMARKD, "--chardev", "stdio,id=c", "--monitor", "c,pretty=on",
               input='{"execute":"qmp_capabilities"}{"execute":"query-version","id":1}{"execute":"quit"}')
    matches(done.stdout, r'^\{\n    "QMP": \{\n')
    matches(done.stdout, r'"id": 1\n\}\n\{\n    "return": \{\n    \}\n\}\n$')


@test
def schema_holds_together(tmp):
    "query-qmp-schema: unique names, no type missing or left over, every command there"
    with Daemon(tmp) as d:
        schema = d.qmp("query-qmp-schema")
        entries = {e["name"]: e for e in schema}
        equal(len(entries), len(schema))
        used = set()
        for e in schema:
            used |= {e[k] for k in ("arg-type", "ret-type", "element-type") if k in e}
            used |= {m["type"] for k in ("members", "variants") if e["meta-type"] != "enum"
                     for m in e.get(k, [])}
            if "tag" in e:
                tag = [m for m in e["members"] if m["name"] == e["tag"]][0]
                cases = {v["case"] for v in e["variants"]}
                equal(cases <= set(entries[tag["type"]]["values"]), True)
        types = {n for n, e in entries.items() if e["meta-type"] not in ("command", "event")}
        equal(used, types)
        equal({e["name"] for e in d.qmp("query-commands")},
              {n for n, e in entries.items() if e["meta-type"] == "command"})


def shape(entries, name, depth=0):
    """A type written out, types by structure and not by name."""
    e = entries[name]
    if depth > 6 or e["meta-type"] == "builtin":
        return name if e["meta-type"] == "builtin" else "..."
    if e["meta-type"] == "enum":
        return set(e["values"])
    if e["meta-type"] == "array":
        return [shape(entries, e["element-type"], depth + 1)]
    if e["meta-type"] == "alternate":
        return [shape(entries, m["type"], depth + 1) for m in e["members"]]
    members = {m["name"]: ("default" in m, shape(entries, m["type"], depth + 1))
               for m in e["members"]}
    for v in e.get("variants", []):
        members["=" + v["case"]] = shape(entries, v["type"], depth + 1)
    return members


def missing(ours, theirs, path=""):
    """What our shape promises and theirs does not have."""
    if isinstance(ours, dict) and isinstance(theirs, dict):
        return [line for k in ours for line in (missing(ours[k], theirs[k], path + "." + k)
                                                if k in theirs else [path + "." + k])]
    if isinstance(ours, tuple):
        return ([path + " optional"] if ours[0] != theirs[0] else []) + missing(ours[1], theirs[1], path)
    if isinstance(ours, set) and isinstance(theirs, list):  # one alternative of theirs
        theirs = set().union(*(t for t in theirs if isinstance(t, set)))
    if isinstance(ours, set):
        return ["%s %s" % (path, v) for v in sorted(ours - theirs)]
    if isinstance(ours, list) and isinstance(theirs, list) and len(ours) == len(theirs) == 1:
        return missing(ours[0], theirs[0], path)
    return []


# What our commands and events have and QEMU's have not; what is new is added here, and listed in
# tidemarkd(8) among the differences.
BEYOND_QEMU = {
    "backup-begin", "backup-end", "query-backups", "BACKUP_ABORTED", "BACKUP_ENDED",
    *(c + o for c in ("blockdev-add.", "blockdev-reopen.options.") for o in ("=scratch", "driver scratch")),
    "BITMAP_DEGRADED", "BITMAP_HEALED",
    *("block-export-add.=vhost-user-blk.addr.=unix." + k for k in ("group", "mode", "owner")),
    *("block-export-add.=nbd." + k for k in ("allow-list", "allow-open", "allow-write",
                                             "block-status-2016", "default", "hidden",
                                             "max-connections", "servers")),
    "block-export-context-remove", "block-export-context-set", "query-block-export-contexts",
    "block-export-del.mode wait", "block-export-del.seconds",
    "block-dirty-bitmap-export", "block-dirty-bitmap-import",
    "block-export-dirty-bitmap",
    *(c + page for c in ("query-named-block-nodes", "query-block-exports", "query-blockstats")
      for page in (".limit", ".after")),
    *(c + ".addr.=unix.data." + k for c in ("chardev-add.backend.=socket.data", "nbd-server-start")
      for k in ("group", "mode", "owner")),
    "log-set-level", "query-log", "query-log-levels", "query-configuration",
    "metrics-server-start", "metrics-server-stop", "query-metrics-server", "x-query-node-map",
    "query-blockstats.details",
    *("query-blockstats.%sstats.%s" % ("parent." * i, k) for i in range(5)
      for k in ("rd_errors", "wr_errors", "flush_errors", "unmap_errors", "unmap_latency_histogram")),
    *("query-blockstats." + "parent." * i + k for i in range(6) for k in ("queue", "bitmap-store")), "query-workers",
    # of newer versions of QEMU
    "block-job-change", "chardev-add.backend.=socket.data.reconnect-ms",
    "blockdev-set-active", "block-export-add.allow-inactive",
    *(c + o for c in ("blockdev-backup.", "transaction.actions.=blockdev-backup.data.")
      for o in ("discard-source", "x-perf.min-cluster-size")),
    *(c + o for c in ("blockdev-add.", "blockdev-reopen.options.") for o in (
        "active", "bitmap-accept-changed", "bitmap-durability", "bitmap-place", "bitmap-store", "=qcow2.backing-names",
        "=qcow2.discard-no-unref", "=qcow2.snapshot", "=blkdebug.inject-delay",
        "=blkdebug.inject-error.sectors", "=blkdebug.inject-error.delay-ns",
        "=copy-before-write.min-cluster-size")),  # of newer versions of QEMU
    "nbd-server-remove.mode wait",
    *("nbd-server-start." + k for k in (
        "handshake-max-seconds", "id", "idle-max-seconds", "max-bytes-in-flight",
        "max-bytes-in-flight-total", "max-option-size", "max-options", "max-request-size",
        "tls-required")), "nbd-server-stop.id", "nbd-server-set-limits", "query-nbd-servers",
    *("query-block-exports." + k for k in (
        "bitmaps", "clients", "mountpoint", "name", "open-files", "uris", "writable")),
    "query-status", "query-name", "query-uuid",
    "query-nbd-sessions", "nbd-session-disconnect", "NBD_CLIENT_CONNECTED", "NBD_CLIENT_DISCONNECTED",
    "VHOST_USER_BLK_CLIENT_CONNECTED", "VHOST_USER_BLK_CLIENT_DISCONNECTED",
    "object-add.=authz-list-file", "object-add.qom-type authz-list-file", "object-reload",
    *(q + m for q in ("query-named-block-nodes.", "query-block.inserted.")
      for m in ("active", "dirty-bitmaps.reason", "dirty-bitmaps.recovered", "dirty-bitmaps.age", "last-backup", "lost")), "query-objects"}


# Both are needed where there is a "bitmap", as the driver says.
SAME_IN_EFFECT = {c + "=copy-before-write.bitmap.%s optional" % m for m in ("node", "name")
                  for c in ("blockdev-add.", "blockdev-reopen.options.")}


@test(needs=NEEDS)
def schema_like_theirs(tmp):
    "query-qmp-schema: what our commands and events take and give, QSD's do too"
    schemas = []
    for binary, name in ((None, "t"), (QSD, "q")):
        with Daemon(tmp, binary=binary, name=name) as d:
            schemas.append({e["name"]: e for e in d.qmp("query-qmp-schema")})
    ours, theirs = schemas
    more = []
    for name, e in ours.items():
        if e["meta-type"] in ("command", "event"):
            if name not in theirs:
                more.append(name)
                continue
            equal(e.get("features"), theirs[name].get("features"), name)
            for kind in ("arg-type", "ret-type"):
                if kind in e:
                    more += missing(shape(ours, e[kind]), shape(theirs, theirs[name][kind]), name)
    told = {True: "not in BEYOND_QEMU, to be added there", False: "only in BEYOND_QEMU"}
    differ = ["%s: %s" % (name, told[name in more]) for name in sorted(set(more) - SAME_IN_EFFECT ^ BEYOND_QEMU)]
    if differ:
        fail("what our schema has and QEMU's has not\n  " + "\n  ".join(differ))


@test
def ids(tmp):
    "the id of a command, any JSON value, is in the reply as it was sent"
    texts = ["0", "-1", "1.0", "1.50", "1e3", "1E400", "0.1", "12345678901234567890", "123456789012345678901234567890",
             "null", "true", '""', '"\\u00E9\\u0001"', '[1, {"a": null, "b": [0.10]}]', "{}", '{"x": {"y": -2.5e-7}}']
    with Daemon(tmp, nbd=False) as d:
        q = d.new_monitor()
        for text in texts:
            q.send(b'{"execute": "query-name", "id": %s}\n' % text.encode())
            while b"\n" not in q.buffer:
                q.buffer += q.sock.recv(65536)
            line, _, q.buffer = q.buffer.partition(b"\n")
            equal(line.decode().strip(), '{"return": {}, "id": %s}' % text)
        q.close()


@test
def select_bitmaps(tmp):
    "block-export-dirty-bitmap: new clients see the new selection, all or nothing"
    with Daemon(tmp, *disk(tmp, "disk0", 1 << 20)) as d:
        for name in "ab":
            d.qmp("block-dirty-bitmap-add", node="disk0", name=name)
        select = lambda *names: d.qmp("block-export-dirty-bitmap", id="exp-disk0", bitmaps=list(names))
        for names, message in ((["a", "nope"], "'nope' is not found"),
                               ([{"node": "nope", "name": "a"}], "'nope' not found"),
                               ([1], "BlockDirtyBitmapOrStr")):
            raises(QMPError, select, *names, match=message)
        raises(QMPError, d.qmp, "block-export-dirty-bitmap", id="nope", bitmaps=[], match="not found")
        equal(d.bitmap("disk0", "a")["busy"], False)
        select("a", {"node": "disk0", "name": "b"})
        equal([d.bitmap("disk0", n)["busy"] for n in "ab"], [True, True])
        h = d.nbd(contexts=["qemu:dirty-bitmap:a"])
        equal(h.can_meta_context("qemu:dirty-bitmap:a"), True)
        select("b")
        equal(h.can_meta_context("qemu:dirty-bitmap:a"), True)
        equal(dirty(h, "a"), [])
        h.shutdown()
        wait_until(lambda: not d.bitmap("disk0", "a")["busy"], "the old session's bitmap to be free")
        select()
        wait_until(lambda: not d.bitmap("disk0", "b")["busy"], "the selection to be dropped")


@test
def change_of_selection(tmp):
    "block-export-dirty-bitmap with add and remove leaves the other bitmaps that are offered; all or nothing"
    with Daemon(tmp, *disk(tmp, "disk0", 1 << 20)) as d:
        for name in "abc":
            d.qmp("block-dirty-bitmap-add", node="disk0", name=name)
        change = lambda **lists: d.qmp("block-export-dirty-bitmap", id="exp-disk0", **lists)
        offered = lambda: [b["name"] for b in d.qmp("query-block-exports")[0]["bitmaps"]]
        change(bitmaps=["a"])
        change(add=["b", {"node": "disk0", "name": "a"}])
        equal(offered(), ["a", "b"])
        for lists, message in ((dict(add=["c"], remove=["a", "d"]), "'d' is not offered by export 'exp-disk0'"),
                               (dict(add=["c", "d"], remove=["a"]), "'d' is not found"),
                               (dict(add=["c", {"node": "disk0", "name": "c"}]), "'c' is named twice"),
                               (dict(bitmaps=[], add=["c"]), "'bitmaps' excludes 'add' and 'remove'"),
                               (dict(), "Parameter 'bitmaps' is missing")):
            raises(QMPError, change, match=message, **lists)
            equal(offered(), ["a", "b"])
        change(add=["c"], remove=["a"])
        equal(offered(), ["b", "c"])
        change(remove=["c", "b"])
        equal(offered(), [])


@test
def merge_nothing(tmp):
    "block-dirty-bitmap-merge takes an empty list, which ends QSD 7.2"
    with Daemon(tmp, *disk(tmp, "disk0", 1 << 20)) as d:
        d.qmp("block-dirty-bitmap-add", node="disk0", name="b")
        equal(d.qmp("block-dirty-bitmap-merge", node="disk0", target="b", bitmaps=[]), {})


@test
def growth_is_dirty(tmp):
    "the part by which a disk grows is dirty in its bitmaps; QSD 7.2 leaves it clean"
    with Daemon(tmp, *disk(tmp, "disk0", 1 << 20, export=False)) as d:
        d.qmp("block-dirty-bitmap-add", node="disk0", name="b")
        d.qmp("block_resize", {"node-name": "disk0", "size": 3 << 20})
        equal(d.bitmap("disk0", "b")["count"], 2 << 20)


@test
def not_ours_to_remove(tmp):
    "a monitor's path that is no socket is left alone"
    path = image(os.path.join(tmp, "file"), 1)
    done = run(TIDEMARKD, "--chardev", "socket,id=c,server=on,wait=off,path=" + path, "--monitor", "c",
               check=False)
    equal(done.returncode, 1)
    matches(done.stderr, "Failed to bind socket to .*/file: Address already in use")
    equal(os.path.getsize(path), 1)


main()
