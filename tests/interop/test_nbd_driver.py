#!/usr/bin/python3
# SPDX-FileCopyrightText: 2026 The Tidemark authors
# SPDX-License-Identifier: GPL-2.0-or-later
"""The driver nbd beside QEMU's: the same commands and servers, the same answers and images; and QEMU's servers."""
import os
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "func"))
from harness import *

MIB = 1 << 20
QSD = shutil.which("qemu-storage-daemon")
NEEDS = ["qemu-storage-daemon", "qemu-img"]


def both(tmp, *args):
    """Ours and QSD, one after the other."""
    for name, binary in (("ours", None), ("theirs", QSD)):
        with Daemon(tmp, *args, binary=binary, name=name) as d:
            yield d


def unix(path):
    return {"type": "unix", "path": path}


def told(d, command, arguments):
    """What it answers, as far as that is comparable."""
    try:
        return d.qmp(command, arguments)
    except QMPError as e:
        return e.cls, re.sub(r"/\S*/", "", e.bare)


@test(needs=NEEDS)
def same_answers(tmp):
    "blockdev-add, its errors and what the nodes are called are QSD's"
    with Daemon(tmp, *disk(tmp, "disk0", MIB), *disk(tmp, "ro", MIB, writable=False), name="s") as s:
        s.qmp("block-dirty-bitmap-add", node="disk0", name="b")
        script = [
            {"driver": "nbd", "node-name": "a"},
            {"driver": "nbd", "node-name": "a", "server": {"type": "unix"}},
            {"driver": "nbd", "node-name": "a", "server": {"path": "x"}},
            {"driver": "nbd", "node-name": "a", "server": {"type": "unix", "path": "x", "host": "y"}},
            {"driver": "nbd", "node-name": "a", "server": {"type": "inet", "host": "127.0.0.1"}},
            {"driver": "nbd", "node-name": "a", "server": unix("/nosuch")},
            {"driver": "nbd", "node-name": "a", "server": unix(s.nbd_path), "export": "disk0"},
            {"driver": "nbd", "node-name": "b", "server": unix(s.nbd_path), "export": "ro", "read-only": True},
            {"driver": "nbd", "node-name": "c", "server": unix(s.nbd_path), "export": "ro", "auto-read-only": True},
            {"driver": "raw", "node-name": "d", "file": {
                "driver": "nbd", "node-name": "e", "server": unix(s.nbd_path), "export": "disk0"}},
        ]
        answers = []
        for d in both(tmp):
            mine = [told(d, "blockdev-add", node) for node in script]
            mine += [told(d, "block_resize", {"node-name": "a", "size": 2 * MIB})[0]]
            nodes = {n["node-name"]: n for n in d.qmp("query-named-block-nodes", flat=True)}
            mine += [[(n, nodes[n][k]) for n in "abde" for k in ("file", "ro", "drv")]]
            mine += [[nodes[n]["image"]["virtual-size"] for n in "abde"]]
            answers.append(mine)
        for ours, theirs in zip(*answers):
            equal(ours, theirs)


@test(needs=NEEDS)
def same_data(tmp):
    "what is written, zeroed and discarded through either arrives at the server, as does its status"
    found = []
    for d in both(tmp):
        path = image(os.path.join(tmp, "disk"), 4 * MIB, [(MIB, b"a" * MIB)])
        with Daemon(tmp, "--blockdev", "driver=file,node-name=n,discard=unmap,filename=" + path, "--export",
                    "nbd,id=e,node-name=n,writable=on", binary=QSD, name="server") as s:
            d.qmp("blockdev-add", driver="nbd", node_name="x", server=unix(s.nbd_path), export="n", discard="unmap")
            d.qmp("block-export-add", type="nbd", id="e", node_name="x", writable=True)
            h = d.nbd("x", contexts=["base:allocation"])
            h.pwrite(b"b" * 65536, 2 * MIB)
            h.zero(65536, MIB)
            h.trim(65536, MIB + 131072)
            h.flush()
            status = extents(h, "base:allocation")
            direct = s.nbd("n", contexts=["base:allocation"])
            equal(status, extents(direct, "base:allocation"))
            for handle in (h, direct):
                handle.shutdown()
            d.unexport("e")
            wait_until(lambda: not d.qmp("query-block-exports"), "the export to go")
            d.qmp("blockdev-del", node_name="x")
        with open(path, "rb") as f:
            found.append((status, f.read()))
    equal(found[0] == found[1], True)


@test(needs=NEEDS)
def same_bitmaps(tmp):
    "x-dirty-bitmap shows a bitmap as QEMU shows it, whoever serves it"
    for server in (None, QSD):
        with Daemon(tmp, *disk(tmp, "disk0", 4 * MIB), binary=server,
                    name="s" + ("q" if server else "t")) as s:
            s.qmp("block-dirty-bitmap-add", node="disk0", name="b")
            h = s.nbd("disk0")
            h.pwrite(b"x" * 65536, MIB)
            h.pwrite(b"x" * 65536, 3 * MIB)
            h.shutdown()
            s.qmp("block-dirty-bitmap-disable", node="disk0", name="b")
            s.qmp("block-export-add", type="nbd", id="m", node_name="disk0", name="m", bitmaps=["b"])
            found = []
            for d in both(tmp):
                d.qmp("blockdev-add", {
                    "driver": "nbd", "node-name": "x", "server": unix(s.nbd_path), "export": "m", "read-only": True,
                    "x-dirty-bitmap": "qemu:dirty-bitmap:b"})
                d.qmp("block-export-add", type="nbd", id="e", node_name="x")
                found.append(extents(d.nbd("x", contexts=["base:allocation"]), "base:allocation"))
            equal(found[0], found[1])
            equal([(o, n) for o, n, flags in found[0] if flags & 1], [(MIB, 65536), (3 * MIB, 65536)])


@test(needs=NEEDS + ["qemu-nbd"])
def their_servers(tmp):
    "qcow2 images that qemu-nbd serves, and chains above them, are what qemu-img says they are"
    base = os.path.join(tmp, "base.qcow2")
    run("qemu-img", "create", "-q", "-f", "qcow2", base, "8M")
    run("qemu-io", "-f", "qcow2", "-c", "write -P 7 1M 1M", "-c", "write -z 3M 1M", base)
    sock = os.path.join(tmp, "q.sock")
    server = subprocess.Popen(["qemu-nbd", "-k", sock, "-f", "qcow2", "-t", "-e", "8", base],
                              stdin=subprocess.DEVNULL)
    try:
        wait_until(lambda: listens(sock), "qemu-nbd")
        top = os.path.join(tmp, "top.qcow2")
        run("qemu-img", "create", "-q", "-f", "qcow2", top, "8M")
        with Daemon(tmp, "--blockdev", json.dumps({
                "driver": "qcow2", "node-name": "n", "file": {"driver": "file", "filename": top},
                "backing": {"driver": "nbd", "server": unix(sock)}}),
                "--export", "nbd,id=e,node-name=n,writable=on") as d:
            h = d.nbd("n", contexts=["base:allocation"])
            equal(h.pread(MIB, MIB), b"\x07" * MIB)
            h.pwrite(b"y" * 65536, 2 * MIB)
            data = [(o, n) for o, n, flags in extents(h, "base:allocation") if not flags & 2]
            equal(data, [(MIB, MIB + 65536)])
    finally:
        server.kill()
        server.wait()


if __name__ == "__main__":
    main()
