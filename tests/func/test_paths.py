#!/usr/bin/python3
# SPDX-FileCopyrightText: 2026 The Tidemark authors
# SPDX-License-Identifier: GPL-2.0-or-later
"""What paths may lead to: FIFOs are never waited for, and names in images lead out of a directory only where that is
said."""
import os
import shutil
import sys
import threading
import time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from harness import *
from tls import *

MIB = 1 << 20


def fifo(tmp, name="fifo"):
    path = os.path.join(tmp, name)
    os.mkfifo(path)
    return path


def refused(d, command, match, **arguments):
    """Answered with that error, soon."""
    begun = time.monotonic()
    raises(QMPError, d.qmp, command, match=match, **arguments)
    equal(time.monotonic() - begun < 5, True, command)


@test
def images(tmp):
    "a FIFO as an image, a store, a new image, a backing file is an error, and the daemon ends when asked to"
    path = fifo(tmp)
    base = os.path.join(tmp, "base")
    top = os.path.join(tmp, "top")
    image(base, MIB)
    tidemark("image", "create", "-q", "-f", "qcow2", "-b", "base", "-F", "raw", top)
    os.unlink(base)
    os.mkfifo(base)
    with Daemon(tmp) as d:
        for driver, match in (("file", "to be a regular file or a block device"),
                              ("host_device", "to be a block device")):
            for read_only in (True, False):
                refused(d, "blockdev-add", match, driver=driver, node_name="n", filename=path,
                        read_only=read_only)
        refused(d, "blockdev-add", "regular file or a block device", driver="qcow2", node_name="n",
                read_only=True, backing_names="any", file={"driver": "file", "filename": top})
        refused(d, "blockdev-add", "fifo' is not a regular file", driver="file", node_name="disk0",
                filename=image(os.path.join(tmp, "disk.img"), MIB), bitmap_store=path)
        d.qmp("blockdev-create", job_id="j", options={"driver": "file", "filename": path, "size": MIB})
        wait_until(lambda: d.qmp("query-jobs")[0]["status"] == "concluded", "the job")
        matches(d.qmp("query-jobs")[0]["error"], "regular file or a block device")


@test
def commands(tmp):
    "tidemark does not wait for a FIFO either"
    path = fifo(tmp)
    disk_path = image(os.path.join(tmp, "disk.img"), MIB)
    os.mkfifo(disk_path + ".bitmaps")
    for args in (["image", "info", path], ["image", "check", path], ["image", "create", "-q", path, "1M"],
                 ["image", "resize", path, "2M"], ["bitmap", "list", path], ["bitmap", "check", disk_path],
                 ["image", "create", "-q", "-f", "qcow2", "-b", path, "-F", "raw", os.path.join(tmp, "q")]):
        p = tidemark(*args, check=False, timeout=20)
        equal(p.returncode != 0, True, str(args))
        equal(p.stderr.count("\n"), 1, p.stderr)


@test
def objects(tmp):
    "a secret may come through a pipe within a bounded time; lists and keys have to be files"
    path = fifo(tmp)
    with Daemon(tmp) as d:
        refused(d, "object-add", "nothing came through", qom_type="secret", id="s", file=path)
        writer = os.open(path, os.O_RDWR)
        refused(d, "object-add", "Connection timed out", qom_type="secret", id="s", file=path)
        os.write(writer, b"letmein")
        threading.Timer(0.3, os.close, (writer,)).start()
        d.qmp("object-add", **{"qom-type": "secret"}, id="s", file=path)
        refused(d, "object-add", "not a regular file", qom_type="authz-list-file", id="a", filename=path)
        os.rename(path, os.path.join(tmp, "keys.psk"))
        refused(d, "object-add", "not a regular file", qom_type="tls-creds-psk", id="t", dir=tmp,
                endpoint="server")


@test(needs=["certtool"])
def certificates(tmp):
    "a FIFO as a file of TLS credentials is an error"
    with Daemon(tmp) as d:
        directory = os.path.join(tmp, "pki")
        Authority(os.path.join(tmp, "ca")).issue(directory, "server")
        for name in "ca-cert.pem", "ca-crl.pem", "server-cert.pem", "server-key.pem":
            for check in True, False:
                copy = os.path.join(tmp, "copy")
                shutil.copytree(directory, copy)
                if os.path.exists(os.path.join(copy, name)):
                    os.unlink(os.path.join(copy, name))
                os.mkfifo(os.path.join(copy, name))
                refused(d, "object-add", "not a regular file|through the pipe", qom_type="tls-creds-x509",
                        id="t", dir=copy, endpoint="server", sanity_check=check)
                shutil.rmtree(copy)
        d.qmp("object-add", **{"qom-type": "tls-creds-x509"}, id="t", dir=directory, endpoint="server")


@test
def content(tmp):
    "the content of a raw disk is never interpreted: an image in it is bytes"
    path, base = os.path.join(tmp, "disk0.img"), image(os.path.join(tmp, "base"), MIB, [(0, b"secret")])
    tidemark("image", "create", "-q", "-f", "qcow2", "-b", base, "-F", "raw", path)
    with open(path, "rb") as f:
        expected = f.read()
    with Daemon(tmp, *disk(tmp, "disk0")) as d:
        h = d.nbd()
        equal(h.get_size(), len(expected))
        equal(bytes(h.pread(512, 0)), expected[:512])
        h.shutdown()


def naming(directory, kind, name, form="raw"):
    """An image whose backing file or data file is called so; its path."""
    path = os.path.join(directory, "top")
    if kind == "backing":
        tidemark("image", "create", "-q", "-f", "qcow2", "-u", "-b", name, "-F", form, path, "1M")
        return path
    # Made with a name of that length, which is then written over.
    aside = os.path.join(os.path.dirname(directory), "aside")
    os.makedirs(aside, exist_ok=True)
    short = os.path.relpath(aside)
    dummy = short + "/" + "x" * max(1, len(name) - len(short) - 1)
    tidemark("image", "create", "-q", "-f", "qcow2", "-o", "data_file=" + dummy, path, "1M")
    head = bytearray(open(path, "rb").read(65536))
    at = head.index(bytes.fromhex("44415441")) + 4
    size = (len(name) + 7) // 8 * 8
    old = (int.from_bytes(head[at:at + 4], "big") + 7) // 8 * 8
    rest = bytes(head[at + 4 + old:])
    head[at:] = len(name).to_bytes(4, "big") + name.encode().ljust(size, b"\0") + rest
    with open(path, "r+b") as f:
        f.write(head[:65536])
    return path


@test
def names(tmp):
    "the files that images name are opened in the image's directory and below it, and elsewhere where that is said"
    directory, sub = os.path.join(tmp, "images"), os.path.join(tmp, "images", "sub")
    os.makedirs(sub)
    for where in directory, sub, tmp:
        image(os.path.join(where, "base"), MIB, [(0, where[-4:].encode())])
    inside = [("base", "ages"), (os.path.join(directory, "base"), "ages"), ("sub/base", "/sub"),
              ("./sub/../base", "ages")]
    elsewhere = ["../base", os.path.join(tmp, "base"), "sub/../../base", "sub", directory]
    with Daemon(tmp) as d:
        def add(path, names):
            d.qmp("blockdev-add", dict(names, **{"node-name": "n", "driver": "qcow2"}),
                  file={"driver": "file", "filename": path})

        for kind in "backing", "data-file":
            for name, says in inside:
                path = naming(directory, kind, name)
                for names in {}, {"backing-names": "directory"}, {"backing-names": "any"}:
                    add(path, names)
                    nodes = {n["node-name"]: n for n in d.qmp("query-named-block-nodes")}
                    # A backing file has a node for its format, too.
                    equal((len(nodes), nodes["n"]["backing_file_depth"]), (4, 1) if kind == "backing" else (3, 0))
                    if kind == "backing":
                        d.qmp("block-export-add", type="nbd", id="x", node_name="n", name="x")
                        h = d.nbd("x")
                        equal(bytes(h.pread(4, 0)).decode(), says)
                        h.shutdown()
                        d.unexport("x")
                    d.qmp("blockdev-del", node_name="n")
                    equal(d.qmp("query-named-block-nodes"), [])
                raises(QMPError, add, path, {"backing-names": "none"}, match="'%s'.*'%s'.*backing-names$" % (name, kind))
                if kind == "data-file":
                    raises(QMPError, add, path, {kind: None}, match="is required")
            for name in elsewhere:
                path = naming(directory, kind, name)
                for names in {}, {"backing-names": "directory"}:
                    raises(QMPError, add, path, names, match="'%s'.*own directory.*'%s'.*backing-names=any$" % (name, kind))
            for name in elsewhere[:3]:
                add(naming(directory, kind, name), {"backing-names": "any"})
                d.qmp("blockdev-del", node_name="n")
            for name, why in (("json:{\"driver\":\"null-co\"}", "its member 'file' is not an object.*'backing'$"),
                              ("nbd+unix:///x?socket=/nosuch", "nosuch")):
                path = naming(directory, kind, name)
                raises(QMPError, add, path, {}, match="not a path.*'%s', or allow it with backing-names=any$" % kind
                       if kind == "backing" else "can't be followed: specify it with 'data-file'$")
                raises(QMPError, add, path, {"backing-names": "any"},
                       match=why if kind == "backing" else "can't be followed: specify it with 'data-file'$")
            raises(QMPError, add, naming(directory, kind, "gone"), {}, match="Could not open.*gone': No such file")
        loop = naming(directory, "backing", "pot", "qcow2")
        with open(loop, "r+b") as f:
            head = f.read(4096)
            f.seek(head.index(b"pot"))
            f.write(b"top")
        raises(QMPError, add, loop, {"read-only": True}, match="longer than 256 images, or a loop")
        equal(d.qmp("query-named-block-nodes"), [])


@test
def described(tmp):
    "with backing-names=any, the name of a backing file may describe a file or an export"
    directory = os.path.join(tmp, "images")
    os.mkdir(directory)
    base = image(os.path.join(directory, "base"), MIB, [(0, b"base")])
    in_file = {"driver": "raw", "file": {"driver": "file", "filename": base}}
    with Daemon(tmp, *disk(tmp, "disk0", size=MIB), name="source") as source, Daemon(tmp) as d:
        h = source.nbd("disk0")
        h.pwrite(b"disk", 0)
        h.shutdown()
        for name, says in (("json:" + json.dumps(in_file), b"base"),
                           ("nbd+unix:///disk0?socket=" + source.nbd_path, b"disk")):
            path = naming(directory, "backing", name)
            d.qmp("blockdev-add", {"driver": "qcow2", "node-name": "n", "backing-names": "any",
                                   "file": {"driver": "file", "filename": path}})
            below = [n for n in d.qmp("query-named-block-nodes") if n["ro"]]
            equal(len(below), 2, "the raw image and what it is in are only read")
            d.qmp("block-export-add", type="nbd", id="x", node_name="n", name="x", writable=True)
            h = d.nbd("x")
            equal(bytes(h.pread(4, 0)), says)
            h.pwrite(b"over", 0)
            equal(bytes(h.pread(4, 0)), b"over")
            h.shutdown()
            d.unexport("x")
            d.qmp("blockdev-del", node_name="n")
        equal(bytes(source.nbd("disk0").pread(4, 0)), b"disk")
        for name, why in (('json:{"file":{"driver":"nbd","path":null}}', "member 'path' is not a string"),
                          ('json:{"file":{"driver":"nbd","server":{"type":"inet","host":null,"port":"1"}}}', "host"),
                          ('json:{"file":{"driver":"file","filename":"b"},"offset":null}', "offset")):
            path = naming(directory, "backing", name)
            raises(QMPError, d.qmp, "blockdev-add", {"driver": "qcow2", "node-name": "n", "backing-names": "any",
                                                     "file": {"driver": "file", "filename": path}}, match=why)


@test
def named_data(tmp):
    "what a guest writes reaches the data file that the image names, whose node becomes read-only with the image's"
    directory = os.path.join(tmp, "images")
    os.mkdir(directory)
    data = image(os.path.join(directory, "data"), MIB)
    q = {"driver": "qcow2", "node-name": "n",
         "file": {"driver": "file", "filename": naming(directory, "data-file", "data")}}
    with Daemon(tmp) as d:
        d.qmp("blockdev-add", q)
        d.qmp("block-dirty-bitmap-add", node="n", name="b", persistent=True)
        d.qmp("block-export-add", type="nbd", id="x", node_name="n", name="x", writable=True)
        h = d.nbd("x")
        h.pwrite(b"x" * 512, 65536)
        h.shutdown()
        with open(data, "rb") as f:
            f.seek(65536)
            equal(f.read(512), b"x" * 512)
        d.unexport("x")

        def read_only():
            return {n["file"] == data: n["ro"] for n in d.qmp("query-named-block-nodes")}[True]

        for ro in True, False:
            raises(QMPError, d.qmp, "blockdev-reopen", options=[q], match="'data-file' cannot be reset")
            d.qmp("blockdev-reopen", options=[dict(q, **{"read-only": ro, "data-file": {"driver": "file", "filename": data}})])
            equal(read_only(), ro)
        equal([b["count"] for n in d.qmp("query-named-block-nodes") for b in n.get("dirty-bitmaps", [])], [65536])
        d.qmp("blockdev-del", node_name="n")
        d.qmp("blockdev-add", q, active=False)
        for active in True, False, True:
            d.qmp("blockdev-set-active", active=active)
            equal({(n["active"], n["ro"]) for n in d.qmp("query-named-block-nodes")}, {(active, False)})
        equal([b["count"] for n in d.qmp("query-named-block-nodes") for b in n.get("dirty-bitmaps", [])], [65536])


def add_top(d, top):
    d.qmp("blockdev-add", driver="qcow2", node_name="top", read_only=True,
          file={"driver": "file", "filename": top})


@test
def links(tmp):
    "links are followed within the image's directory, and none out of it, also if they change meanwhile"
    directory = os.path.join(tmp, "images")
    os.makedirs(os.path.join(directory, "far"))
    secret = image(os.path.join(tmp, "secret"), MIB, [(0, b"secret")])
    good = image(os.path.join(directory, "good"), MIB, [(0, b"good")])
    base, top = os.path.join(directory, "base"), os.path.join(directory, "top")
    shutil.copy(good, os.path.join(directory, "far"))
    os.symlink(tmp, os.path.join(directory, "out"))
    shutil.copy(good, base)
    tidemark("image", "create", "-q", "-f", "qcow2", "-b", "base", "-F", "raw", top)
    with Daemon(tmp) as d:
        def seen():
            d.qmp("block-export-add", type="nbd", id="x", node_name="top", name="x")
            h = d.nbd("x")
            data = bytes(h.pread(6, 0))
            h.shutdown()
            d.unexport("x")
            return data

        near = os.path.join(directory, "near")
        for target in "good", "far/good":
            os.unlink(base)
            os.symlink("near", base)
            os.symlink(target, near)
            add_top(d, top)
            equal(seen()[:4], b"good")
            d.qmp("blockdev-del", node_name="top")
            os.unlink(near)
        for target in "../secret", secret, good, "out/secret":
            os.unlink(base)
            os.symlink(target, base)
            raises(QMPError, add_top, d, top, match="own directory")
        os.unlink(base)
        os.symlink("base", base)
        raises(QMPError, add_top, d, top, match="Too many levels")
        os.unlink(base)
        # one that turns into a link and back all the time
        stop = threading.Event()

        def turn():
            spare = os.path.join(directory, "spare")
            while not stop.is_set():
                os.symlink(secret, spare)
                os.rename(spare, base)
                os.link(good, spare)
                os.rename(spare, base)

        turner = threading.Thread(target=turn)
        turner.start()
        try:
            opened = 0
            for _ in range(300):
                try:
                    add_top(d, top)
                except QMPError as e:
                    matches(e.desc, "own directory|No such file")
                    continue
                opened += 1
                equal(seen()[:4], b"good", "a link was followed")
                d.qmp("blockdev-del", node_name="top")
        finally:
            stop.set()
            turner.join()
        equal(opened > 0, True, "never opened")


main()
