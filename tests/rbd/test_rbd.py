#!/usr/bin/python3
# SPDX-FileCopyrightText: 2026 The Tidemark authors
# SPDX-License-Identifier: GPL-2.0-or-later
# timeout: 180
"""The plug-in for images in Ceph clusters, on a real cluster of one node: what clients and bitmaps see, compared with
`rbd export` and `rbd diff`. test_rbd_faults.py has what fails."""
import json
import os
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from images import *  # noqa: E402,F403


@test
def what_clients_and_bitmaps_see(tmp):
    "random writes over NBD are what rbd exports, a bitmap has them exactly, and block status is that of rbd diff"
    image_name = new_image("model")
    model = Model(1)
    with Daemon(tmp, *node(image_name, discard="unmap")) as d:
        d.qmp("block-dirty-bitmap-add", node="disk0", name="b0")
        with_export(d)
        h = d.nbd("bitmaps", contexts=["base:allocation", "qemu:dirty-bitmap:b0"])
        equal(data(h), [], "an empty image is one hole")
        for _ in range(60):
            model.step(h)
        model.dirty_is(h)
        h.flush()
        equal(data(h), allocated(image_name))
        got = b"".join(bytes(h.pread(OBJECT, at)) for at in range(0, SIZE, OBJECT))
        equal(got == model.content, True, "what the client reads")
        h.trim(2 * OBJECT, 2 * OBJECT)
        model.content[2 * OBJECT:4 * OBJECT] = bytes(2 * OBJECT)
        equal([x for x in data(h) if x[0] < 4 * OBJECT and sum(x) > 2 * OBJECT], [], "a discarded object is a hole")
        h.pwrite(b"x", 3 * OBJECT)
        model.content[3 * OBJECT] = ord("x")
        equal([x for x in extents(h, "base:allocation", start=2 * OBJECT) if x[0] < 4 * OBJECT][0],
              (2 * OBJECT, OBJECT, 3))
        equal(data(h), allocated(image_name), "a write after the map was read is seen")
        h.shutdown()
    model.content_is(image_name)


@test
def many_requests_at_once(tmp):
    "64 requests in flight, each with the right data, and durable writes"
    import nbd
    image_name = new_image("many")
    with Daemon(tmp, *node(image_name)) as d:
        h = d.nbd()
        buffers = [nbd.Buffer.from_bytearray(bytearray(bytes([i + 1]) * 4096)) for i in range(64)]
        for turn in range(4):
            cookies = [h.aio_pwrite(b, (turn * 64 + i) * 12288, flags=nbd.CMD_FLAG_FUA if i % 8 == 0 else 0)
                       for i, b in enumerate(buffers)]
            for cookie in cookies:
                while not h.aio_command_completed(cookie):
                    h.poll(-1)
        for i in range(256):
            equal(bytes(h.pread(12288, i * 12288)), bytes([i % 64 + 1]) * 4096 + bytes(8192))
        h.shutdown()


@test
def sizes(tmp):
    "a node is resized, and what is added reads as zeroes and is dirty"
    image_name = new_image("sizes")
    with Daemon(tmp, *node(image_name)) as d:
        d.qmp("block-dirty-bitmap-add", node="disk0", name="b0")
        d.qmp("block_resize", node_name="disk0", size=SIZE + 3 * OBJECT + 512)
        h = d.nbd()
        equal(h.get_size(), SIZE + 3 * OBJECT + 512)
        h.pwrite(b"end", SIZE + 3 * OBJECT + 509)
        h.shutdown()
        equal(d.bitmap("disk0", "b0")["count"], 3 * OBJECT + GRANULE)
    equal(json.loads(cluster().rbd("info", "--format", "json", "rbd/sizes"))["size"], SIZE + 3 * OBJECT + 512)
    equal(cluster().export("rbd/sizes")[-4:], b"\0end")


@test
def snapshots_and_clones(tmp):
    "a snapshot is read-only and stays; a clone shows its parent, and what it can't see is data"
    image_name = new_image("base")
    c = cluster()
    with Daemon(tmp, *node(image_name)) as d:
        h = status_client(d)
        h.pwrite(b"old", OBJECT)
        h.flush()
        c.rbd("snap", "create", "rbd/base@s")  # while we have the lock
        h.pwrite(b"new", OBJECT)
        h.pwrite(b"more", 5 * OBJECT)
        equal(data(h), [(OBJECT, OBJECT), (5 * OBJECT, OBJECT)])
        h.shutdown()
    c.rbd("snap", "protect", "rbd/base@s")
    c.rbd("clone", "rbd/base@s", "rbd/clone")
    refused(tmp, "RBD snapshot 'rbd/base@s' is read-only", *node(image_name, snapshot="s"))
    with Daemon(tmp, *node(image_name, "snap", False, snapshot="s", read_only="on"), *node("clone", "clone")) as d:
        h = status_client(d, "snap")
        equal(bytes(h.pread(4, OBJECT)), b"old\0")
        equal(data(h), [(OBJECT, OBJECT)])
        h.shutdown()
        h = status_client(d, "clone")
        equal(bytes(h.pread(4, OBJECT)), b"old\0")
        equal(data(h), [(0, SIZE)])
        h.shutdown()
        d.qmp("block_resize", node_name="clone", size=2 * SIZE)
        h = status_client(d, "clone")
        equal(data(h), [(0, SIZE)])
        h.shutdown()


@test
def options(tmp):
    "user, key, monitors and namespace can come from options; what is wrong is named"
    c = cluster()
    c.rbd("namespace", "create", "rbd/n1")
    c.rbd("create", "--size", "4M", "rbd/n1/inside")
    c.ceph("auth", "add", "client.tide", "mon", "profile rbd", "osd", "profile rbd", "-o", "/dev/null")
    key = c.ceph("auth", "get-key", "client.tide").strip()
    bare = os.path.join(tmp, "bare.conf")
    with open(bare, "w") as f:
        f.write("[global]\n")
    own = dict(conf=bare, namespace="n1", user="tide", key_secret="k", server__0__host="127.0.0.1",
               server__0__port=c.port, auth_client_required__0="cephx")
    with Daemon(tmp, "--object", "secret,id=k,data=" + key, *node("inside", **own)) as d:
        h = d.nbd()
        equal(h.get_size(), 4 * MIB)
        h.pwrite(b"x", 0)
        h.shutdown()
        info = d.qmp("query-named-block-nodes")[0]
        equal(info["drv"], "rbd")
        raises(QMPError, d.qmp, "object-del", id="nosuch")
        raises(QMPError, d.qmp, "blockdev-reopen", options=[{"driver": "rbd", "node-name": "disk0", "pool": "rbd",
                                                             "image": "inside"}],
               match="does not support reopening")
    refused(tmp, "No secret with id 'none'", *node("inside", **dict(own, key_secret="none")))
    refused(tmp, "error opening image rbd/nosuch: No such file", *node("nosuch"))
    refused(tmp, "error opening pool nosuch: No such file", *node("inside", pool="nosuch"))
    refused(tmp, "error reading conf file /nonexistent: No such file", *node("inside", conf="/nonexistent"))
    refused(tmp, "error opening image rbd/n1/inside@s: No such file",
            *node("inside", namespace="n1", snapshot="s", read_only="on"))
    refused(tmp, "encrypt", *node("inside", encrypt__format="luks"))
    c.rbd("create", "--size", "4M", "--image-feature", "layering", "rbd/plain")
    refused(tmp, "RBD image 'rbd/plain' can't be written to without the feature exclusive-lock", *node("plain"))
    with Daemon(tmp, *node("plain", writable=False, read_only="on")) as d:
        h = status_client(d)
        equal(data(h), [(0, 4 * MIB)])
        h.shutdown()


@test
def one_writer(tmp):
    "while a daemon has an image open for writing, another one and rbd are refused"
    image_name = new_image("one")
    with Daemon(tmp, *node(image_name)) as d:
        refused(tmp, "RBD image 'rbd/one' is locked by client", *node(image_name))
        p = cluster().rbd("bench", "--io-type", "write", "--io-size", "4K", "--io-total", "4K", "rbd/one", check=False)
        equal(p.returncode != 0, True, "rbd bench writes to an image that is locked")
        h = d.nbd()
        h.pwrite(b"x", 0)
        h.shutdown()
        with Daemon(tmp, *node(image_name, writable=False, read_only="on"), name="r") as r:
            h = r.nbd()
            equal(bytes(h.pread(1, 0)), b"x")
            h.shutdown()
    with Daemon(tmp, *node(image_name)):
        pass


@test
def a_lock_that_is_broken(tmp):
    "another client breaks the lock and writes: every request fails, but not those to other images of the daemon"
    import nbd
    image_name = new_image("broken")
    d = Daemon(tmp, *node(image_name), *node(new_image("whole"), "disk1"))
    d.qmp("block-dirty-bitmap-add", node="disk0", name="b0")
    h = d.nbd()
    h.pwrite(b"a" * 4096, 0)
    h.flush()
    h.pwrite(b"b" * 4096, 4096)
    cluster().rbd("lock", "rm", "rbd/broken", *locker(image_name))
    with Daemon(tmp, *node(image_name), name="other") as other:
        mine = other.nbd()
        mine.pwrite(b"c" * 4096, 0)
        mine.flush()
        raises(nbd.Error, h.pwrite, b"d" * 4096, 0, match="Input/output error")
        raises(nbd.Error, h.pread, 4096, 0, match="Input/output error")
        raises(nbd.Error, h.flush, match="Input/output error")
        equal(bytes(mine.pread(4096, 0)), b"c" * 4096)
        mine.shutdown()
        matches(d.log(), "RBD image 'rbd/broken': .*every request fails from now on")
        beside = d.nbd("disk1")
        beside.pwrite(b"e" * 4096, 0)
        beside.flush()
        beside.shutdown()
        wait_until(lambda: d.bitmap("disk0", "b0")["count"] == SIZE, "all to be dirty, as a flush has failed")
        h.shutdown()
        d.process.send_signal(signal.SIGTERM)
        d.wait(1)
        matches(d.log(), "the last flush failed, data may be lost")
    equal(cluster().export("rbd/broken")[:4096], b"c" * 4096)


@test
def killed(tmp):
    "after kill -9 the next daemon gets the lock; a store beside is believed only if the user says so, and is exact then"
    image_name = new_image("killed")
    store = os.path.join(tmp, "killed.bitmaps")
    model = Model(2)
    d = Daemon(tmp, *node(image_name, bitmap_store=store))
    d.qmp("block-dirty-bitmap-add", node="disk0", name="b0", persistent=True)
    h = d.nbd()
    for _ in range(20):
        model.step(h)
    h.flush()
    d.kill()
    with Daemon(tmp, *node(image_name, bitmap_store=store, bitmap_accept_changed="on")) as d:
        with_export(d)
        h = d.nbd("bitmaps", contexts=["qemu:dirty-bitmap:b0"])
        model.dirty_is(h)
        model.content_is(image_name)
        for _ in range(10):
            model.step(h)
        h.shutdown()
    model.content_is(image_name)
    cluster().rbd("bench", "--io-type", "write", "--io-size", "4K", "--io-total", "4K", "rbd/killed")
    with Daemon(tmp, *node(image_name, bitmap_store=store)) as d:
        bitmap = d.bitmap("disk0", "b0")
        equal(bitmap["count"] == SIZE or bool(bitmap.get("inconsistent")), True, bitmap)
        matches(d.log(), "others may have written to the disk while it was not open here")


@test
def backup(tmp):
    "backup-begin shows one instant of a disk that is written to, and the increment has what changed"
    image_name = new_image("backup")
    model = Model(3)
    where = {"directory": tmp}
    with Daemon(tmp, *node(image_name, bitmap_store=os.path.join(tmp, "store"))) as d:
        h = d.nbd()
        for _ in range(20):
            model.step(h)
        d.qmp("backup-begin", id="full", disks=[{"node": "disk0"}], checkpoint="c1", scratch=where)
        d.qmp("backup-end", id="full", success=True)
        model.granules = set()
        for _ in range(8):
            model.step(h)
        before = bytes(model.content)
        changed = set(model.granules)
        d.qmp("backup-begin", id="inc", disks=[{"node": "disk0", "from": "c1"}], checkpoint="c2", scratch=where)
        for _ in range(8):
            model.step(h)
        b = d.nbd("disk0@inc", contexts=["base:allocation", "qemu:dirty-bitmap:c1"])
        got = b"".join(bytes(b.pread(OBJECT, at)) for at in range(0, SIZE, OBJECT))
        equal(got == before, True, "the backup shows the instant at which it began")
        model.granules = changed
        model.dirty_is(b, "c1")
        b.shutdown()
        d.qmp("backup-end", id="inc", success=True)
        h.shutdown()
    model.content_is(image_name)


@test
def names(tmp):
    "rbd:POOL/IMAGE is the name of a backing file, and of a disk that tidemark serve exports"
    image_name = new_image("named")
    c = cluster()
    c.rbd("namespace", "create", "rbd/named")
    c.rbd("create", "--size", "4M", "rbd/named/inside")
    with Daemon(tmp, *node(image_name)) as d:
        h = d.nbd()
        h.pwrite(b"below", OBJECT)
        h.shutdown()
    c.rbd("snap", "create", "rbd/named@s")
    for i, name in enumerate((
            "rbd:rbd/named@s",
            'json:{"driver":"raw","file":{"driver":"rbd","pool":"rbd","image":"named","snapshot":"s"}}')):
        overlay = os.path.join(tmp, "overlay%d.qcow2" % i)
        tidemark("image", "create", "-q", "-f", "qcow2", "-u", "-b", name, "-F", "raw", overlay, SIZE)
        with Daemon(tmp, "--blockdev", "driver=qcow2,node-name=disk0,backing-names=any,file.driver=file,file.filename="
                    + overlay, "--export", "type=nbd,id=e,node-name=disk0,writable=on", env={"CEPH_CONF": c.conf}) as d:
            h = d.nbd()
            equal(bytes(h.pread(6, OBJECT)), b"below\0")
            h.pwrite(b"above", OBJECT)
            h.shutdown()
    equal(c.export("rbd/named")[OBJECT:OBJECT + 6], b"below\0")

    run_dir = os.path.join(tmp, "run", "tidemark")
    os.makedirs(run_dir, mode=0o700)
    qmp, sockets = os.path.join(run_dir, "qmp.sock"), os.path.join(run_dir, "nbd.sock")
    with Daemon(tmp, "--chardev", "socket,id=q,server=on,wait=off,path=" + qmp, "--monitor", "q", "--nbd-server",
                "addr.type=unix,addr.path=" + sockets, nbd=False) as d:  # that serve adds to, with the build's plug-in
        def serve(*words, status=0):
            p = tidemark("serve", "--json", *words, check=False, cwd=c.dir,
                         env={"XDG_RUNTIME_DIR": os.path.join(tmp, "run"), "XDG_STATE_HOME": tmp, "TIDEMARK_SOCKET": ""})
            equal(p.returncode, status, p.stderr)
            return json.loads(p.stdout)["disks"] if status == 0 else p.stderr

        served = serve("rbd:rbd/named:conf=ceph.conf:id=admin", "in=rbd:rbd/named/inside:conf=ceph.conf",
                       "old=rbd:rbd/named@s:conf=ceph.conf")
        equal([(x["name"], x["format"], x["size"], x["read-only"]) for x in served],
              [("named", "raw", SIZE, False), ("in", "raw", 4 * MIB, False), ("old", "raw", SIZE, True)])
        import nbd
        for x in served:
            h = nbd.NBD()
            h.connect_uri(x["uri"])
            equal(bytes(h.pread(6, 0)), bytes(6))
            equal(h.is_read_only(), x["read-only"])
            h.shutdown()
        d.qmp("block-dirty-bitmap-add", node="named", name="b0", persistent=True)
        matches(serve("rbd:rbd", status=1), "'rbd:rbd' is not rbd:POOL/")
        matches(serve("rbd:rbd/x:key=AQ", status=1), "its option 'key' is none of conf, id")
        matches(serve("rbd:rbd/nosuch:conf=ceph.conf", status=1), "error opening image rbd/nosuch: No such file")


main()
