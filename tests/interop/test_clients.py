#!/usr/bin/python3
# timeout: 300
"""Other people's NBD clients: QEMU's tools, libnbd's tools and fio, over unix sockets and TCP."""
import random

from harness import *

M = 1 << 20


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def pattern(seed, size):
    return random.Random(seed).randbytes(size)


def filled(tmp, size=6 * M, name="disk0.img"):
    """A disk with data at both ends and in the middle, holes between them."""
    return image(os.path.join(tmp, name), size,
                 [(0, pattern(1, 100000)), (3 * M + 512, pattern(2, 65536)),
                  (size - 5000, pattern(3, 5000))])


def serve(tmp, path, **more):
    more.setdefault("discard", "unmap")
    return Daemon(tmp, *disk(tmp, "disk0", path=path, **more))


def contents(path):
    with open(path, "rb") as f:
        return f.read()


def tool_json(*command):
    return json.loads(run(*command).stdout)


def opts(d, export="disk0", **more):
    """--image-opts of QEMU's tools for an export."""
    return "driver=nbd,server.type=unix,server.path=%s,export=%s%s" % (
        d.nbd_path, export, "".join(",%s=%s" % (k.replace("_", "-"), v) for k, v in more.items()))


def add(d, name="b0", node="disk0", export="exp-disk0", **more):
    """A bitmap, offered by the export; nothing else is."""
    d.qmp("block-dirty-bitmap-add", node=node, name=name, **more)
    d.qmp("block-export-dirty-bitmap", id=export, bitmaps=[name])


# ---- QEMU's tools


@test(needs=["qemu-img"])
def img_info(tmp):
    "qemu-img info and measure see the size"
    with serve(tmp, filled(tmp)) as d:
        info = tool_json("qemu-img", "info", "--output=json", d.uri())
        equal((info["format"], info["virtual-size"]), ("raw", 6 * M))
        matches(run("qemu-img", "info", "--image-opts", opts(d)).stdout, "virtual size: 6 MiB")


@test(needs=["qemu-img"])
def img_map(tmp):
    "qemu-img map of the export says what a map of the file says"
    path = filled(tmp)
    local = tool_json("qemu-img", "map", "--output=json", "-f", "raw", path)
    with serve(tmp, path) as d:
        remote = tool_json("qemu-img", "map", "--output=json", "--image-opts", opts(d))
    equal([(e["start"], e["length"], e["zero"], e["data"]) for e in remote],
          [(e["start"], e["length"], e["zero"], e["data"]) for e in local])


@test(needs=["qemu-img", "qemu-io"])
def img_map_dirty(tmp):
    "qemu-img map with x-dirty-bitmap shows exactly what qemu-io wrote"
    with serve(tmp, filled(tmp)) as d:
        add(d, granularity=65536)
        run("qemu-io", "-f", "raw", "-c", "write -P 7 65536 65536", "-c", "write -P 8 2M 1", "-c",
            "write -z 4M 128k", "-c", "discard 5M 64k", d.uri())
        shown = tool_json("qemu-img", "map", "--output=json", "--image-opts",
                          opts(d, x_dirty_bitmap="qemu:dirty-bitmap:b0"))
        equal([(e["start"], e["length"]) for e in shown if not e["data"]],
              [(65536, 65536), (2 * M, 65536), (4 * M, 131072), (5 * M, 65536)])
        equal(d.bitmap("disk0", "b0")["count"], 5 * 65536)


@test(needs=["qemu-img"])
def img_map_no_such_bitmap(tmp):
    "a bitmap that the export doesn't offer is refused by the client"
    with serve(tmp, filled(tmp)) as d:
        done = run("qemu-img", "map", "--image-opts", opts(d, x_dirty_bitmap="qemu:dirty-bitmap:no"),
                   check=False)
        equal(done.returncode, 1)
        matches(done.stderr, "x-dirty-bitmap")


@test(needs=["qemu-img"])
def img_convert(tmp):
    "qemu-img convert reads an export and fills one, sparse, and compare agrees"
    source = filled(tmp)
    with serve(tmp, source) as d:
        copy = os.path.join(tmp, "copy.img")
        run("qemu-img", "convert", "-f", "raw", "-O", "raw", d.uri(), copy)
        equal(contents(copy) == contents(source), True)
        equal(os.stat(copy).st_blocks * 512 < 2 * M, True, "the copy is sparse")
        run("qemu-img", "compare", "-f", "raw", "-F", "raw", d.uri(), copy)
        qcow = os.path.join(tmp, "copy.qcow2")
        run("qemu-img", "convert", "-f", "raw", "-O", "qcow2", "-W", d.uri(), qcow)
        run("qemu-img", "compare", "-f", "raw", "-F", "qcow2", d.uri(), qcow)
        with open(copy, "r+b") as f:
            f.seek(4 * M)
            f.write(b"x")
        equal(run("qemu-img", "compare", "-f", "raw", "-F", "raw", d.uri(), copy, check=False).returncode, 1)
    target = image(os.path.join(tmp, "target.img"), 6 * M, [(0, b"\xff" * 6 * M)])
    with serve(tmp, target) as d:
        run("qemu-img", "convert", "-n", "-f", "raw", "-O", "raw", source, d.uri())
        run("qemu-img", "compare", "-f", "raw", "-F", "raw", source, d.uri())
    equal(contents(target) == contents(source), True)


@test(needs=["qemu-io"])
def io_patterns(tmp):
    "qemu-io: patterns, zeroes, discards, flushes, misaligned and asynchronous"
    with serve(tmp, image(os.path.join(tmp, "disk0.img"), 6 * M)) as d:
        done = run("qemu-io", "-f", "raw", "-c", "write -P 0x11 0 1M", "-c", "write -P 0x22 1000001 4097",
                   "-c", "read -P 0x11 0 1000001", "-c", "read -P 0x22 1000001 4097",
                   "-c", "read -P 0x11 1004098 44478", "-c", "write -z 300 5000", "-c",
                   "read -P 0 300 5000", "-c", "write -zu 512k 64k", "-c", "read -P 0 512k 64k",
                   "-c", "discard 640k 64k", "-c", "read -P 0 640k 64k", "-c", "flush",
                   "-c", "write -f -P 0x33 5M 4k", "-c", "aio_write -P 0x44 2M 1M", "-c",
                   "aio_write -P 0x55 3M 1M", "-c", "aio_flush", "-c", "read -P 0x44 2M 1M", "-c",
                   "read -P 0x55 3M 1M", d.uri())
        equal("Pattern verification failed" in done.stdout, False, done.stdout)
        equal("error" in done.stdout + done.stderr, False, done.stdout + done.stderr)
        matches(run("qemu-io", "-f", "raw", "-c", "read -P 9 0 1M", d.uri(), check=False).stdout,
                "Pattern verification failed")


@test(needs=["qemu-img", "qemu-io"])
def read_only(tmp):
    "a read-only export is read and not written by anybody"
    path = filled(tmp)
    before = contents(path)
    with serve(tmp, path, writable=False) as d:
        run("qemu-img", "compare", "-U", "-f", "raw", "-F", "raw", d.uri(), path)
        done = run("qemu-io", "-f", "raw", "-c", "write 0 4k", d.uri(), check=False)
        equal(done.returncode, 1)
        run("qemu-io", "-r", "-f", "raw", "-c", "read 0 4k", d.uri())
    equal(contents(path) == before, True)


# ---- libnbd's tools


@test(needs=["nbdinfo"])
def info(tmp):
    "nbdinfo: --json, --list, --can, --size"
    with serve(tmp, filled(tmp)) as d:
        add(d)
        one = tool_json("nbdinfo", "--json", d.uri())
        equal((one["protocol"], one["structured"]), ("newstyle-fixed", True))
        export = one["exports"][0]
        equal(export["export-size"], 6 * M)
        equal(sorted(export["contexts"]), ["base:allocation", "qemu:dirty-bitmap:b0"])
        for name, yes in {"is_read_only": False, "can_cache": True, "can_df": True, "can_fast_zero": True,
                          "can_flush": True, "can_fua": True, "can_multi_conn": True, "can_trim": True,
                          "can_zero": True, "is_rotational": False}.items():
            equal((name, export[name]), (name, yes))
        equal((export["block_size_minimum"], export["block_size_maximum"]), (1, 32 * M))
        every = tool_json("nbdinfo", "--list", "--json", "nbd+unix:///?socket=" + d.nbd_path)
        equal([e["export-name"] for e in every["exports"]], ["disk0"])
        equal(run("nbdinfo", "--size", d.uri()).stdout.strip(), str(6 * M))
        for what in ("write", "trim", "zero", "flush", "fua", "multi-conn", "cache", "df", "fast-zero",
                     "structured-reply", "connect", "read"):
            equal((what, run("nbdinfo", "--can", what, d.uri(), check=False).returncode), (what, 0))
        equal(run("nbdinfo", "--is", "read-only", d.uri(), check=False).returncode, 2)
        equal(run("nbdinfo", d.uri("nothing"), check=False).returncode, 1)


@test(needs=["nbdinfo", "qemu-io"])
def info_map(tmp):
    "nbdinfo --map of allocation and of dirt"
    with serve(tmp, filled(tmp)) as d:
        add(d, granularity=512)
        equal([(e["offset"], e["length"], e["type"]) for e in
               tool_json("nbdinfo", "--json", "--map=qemu:dirty-bitmap:b0", d.uri())], [(0, 6 * M, 0)])
        run("qemu-io", "-f", "raw", "-c", "write 1000 100", "-c", "write 1M 4k", d.uri())
        equal([(e["offset"], e["length"]) for e in
               tool_json("nbdinfo", "--json", "--map=qemu:dirty-bitmap:b0", d.uri()) if e["type"]],
              [(512, 1024), (M, 4096)])
        found = tool_json("nbdinfo", "--json", "--map", d.uri())
        equal(sum(e["length"] for e in found), 6 * M)
        disk_ = contents(os.path.join(tmp, "disk0.img"))
        for e in found:
            if e["type"] & 2:
                equal(any(disk_[e["offset"]:e["offset"] + e["length"]]), False, "zeroes at %s" % e)
        equal({e["type"] for e in found}, {0, 3})
        matches(run("nbdinfo", "--map=qemu:dirty-bitmap:b0", "--totals", d.uri()).stdout, r"5120 +0\.1% +1")


@test(needs=["nbdcopy"])
def copy_both_ways(tmp):
    "nbdcopy from and to an export, with one and with four connections"
    source = filled(tmp)
    for connections in (1, 4):
        with serve(tmp, source) as d:
            copy = os.path.join(tmp, "copy.img")
            run("nbdcopy", "-C", connections, d.uri(), copy)
            equal(contents(copy) == contents(source), True)
        target = image(os.path.join(tmp, "target.img"), 6 * M, [(0, b"\xff" * 6 * M)])
        with serve(tmp, target) as d:
            run("nbdcopy", "-C", connections, "--flush", copy, d.uri())
        equal(contents(target) == contents(source), True)
        with serve(tmp, target) as d, Daemon(tmp, *disk(tmp, "disk1", path=source, writable=False),
                                             name="e") as e:
            run("nbdcopy", "-C", connections, e.uri("disk1"), d.uri())
        equal(contents(target) == contents(source), True)


@test(needs=["nbdsh"])
def shell(tmp):
    "nbdsh: a script with contexts, trims and errors"
    with serve(tmp, filled(tmp)) as d:
        add(d, granularity=4096)
        script = """
import errno
h.pwrite(b"x" * 4096, 8192)
h.zero(4096, 16384)
h.trim(4096, 24576)
h.cache(65536, 0)
h.flush()
assert h.pread(4096, 8192) == b"x" * 4096
found = []
h.block_status(40960, 0, lambda name, offset, entries, error: found.append((name, entries)) or 0)
print(sorted((n, e) for n, e in found if "dirty" in n))
h.set_strict_mode(0)
try:
    h.pwrite(b"x", h.get_size())
    print("no error")
except nbd.Error as e:
    print(errno.errorcode[e.errnum])
"""
        out = run("nbdsh", "-c", "h.add_meta_context('qemu:dirty-bitmap:b0')", "-c",
                  "h.add_meta_context('base:allocation')", "-c", "h.connect_uri('%s')" % d.uri(), "-c",
                  script, env={"PATH": "/usr/bin:/bin"}).stdout.splitlines()
        equal(out, ["[('qemu:dirty-bitmap:b0', [8192, 0, 4096, 1, 4096, 0, 4096, 1, 4096, 0, 4096, 1, "
                    "12288, 0])]", "ENOSPC"])


@test(needs=["fio"])
def fio_verify(tmp):
    "fio writes at random and verifies checksums, on two connections at once"
    with serve(tmp, image(os.path.join(tmp, "disk0.img"), 32 * M)) as d:
        common = ["--ioengine=nbd", "--uri=" + d.uri(), "--rw=randrw", "--bsrange=512-64k", "--bs_unaligned=0",
                  "--iodepth=16", "--verify=crc32c", "--verify_fatal=1", "--size=16M", "--randrepeat=1",
                  "--verify_state_save=0", "--output-format=json"]
        done = run("fio", "--name=a", "--offset=0", *common, "--name=b", "--offset=16M", *common, cwd=tmp,
                   check=False)
        if "engine nbd not loadable" in done.stderr + done.stdout:
            skip("fio has no nbd engine")
        equal(done.returncode, 0, done.stderr + done.stdout[-2000:])
        jobs = json.loads(done.stdout[done.stdout.index("{"):])["jobs"]
        equal([j["error"] for j in jobs], [0, 0])
        equal(all(j["read"]["total_ios"] and j["write"]["total_ios"] for j in jobs), True)


# ---- transports and disks


@test(needs=["qemu-img", "nbdinfo", "nbdcopy"])
def tcp(tmp):
    "the same over TCP, from the command line's --nbd-server"
    path, port = filled(tmp), free_port()
    with Daemon(tmp, "--nbd-server", "addr.type=inet,addr.host=127.0.0.1,addr.port=%d" % port,
                *disk(tmp, "disk0", path=path), nbd=False) as d:
        uri = "nbd://127.0.0.1:%d/disk0" % port
        run("qemu-img", "compare", "-U", "-f", "raw", "-F", "raw", uri, path)
        equal(tool_json("nbdinfo", "--json", uri)["exports"][0]["export-size"], 6 * M)
        copy = os.path.join(tmp, "copy.img")
        run("nbdcopy", "-C", 4, uri, copy)
        equal(contents(copy) == contents(path), True)


@test(needs=["qemu-img", "nbdcopy"])
def odd_size(tmp):
    "a disk that ends within a sector is served to its last byte"
    path = filled(tmp, 5 * M + 777)
    with serve(tmp, path) as d:
        add(d, granularity=65536)
        h = d.nbd(contexts=["qemu:dirty-bitmap:b0"])
        equal(h.get_size(), 5 * M + 777)
        copy = os.path.join(tmp, "copy.img")
        run("nbdcopy", d.uri(), copy)
        equal(contents(copy) == contents(path), True)
        h.pwrite(b"z" * 7, 5 * M + 770)
        equal(dirty(h, "b0"), [(5 * M, 777)])
        run("qemu-img", "map", "--image-opts", opts(d, x_dirty_bitmap="qemu:dirty-bitmap:b0"))
        h.shutdown()
    equal(os.path.getsize(path), 5 * M + 777)
    equal(contents(path)[-7:], b"z" * 7)


@test(needs=["nbdinfo", "qemu-io"])
def preallocated(tmp):
    "a preallocated disk reads as zeroes, and takes data"
    path = os.path.join(tmp, "disk0.img")
    with open(path, "wb") as f:
        os.posix_fallocate(f.fileno(), 0, 4 * M)
    with serve(tmp, path) as d:
        run("qemu-io", "-f", "raw", "-c", "read -P 0 0 4M", "-c", "write -P 5 1M 64k", "-c",
            "read -P 5 1M 64k", d.uri())
        found = tool_json("nbdinfo", "--json", "--map", d.uri())
        equal([e["type"] & 2 for e in found if e["offset"] <= M < e["offset"] + e["length"]], [0])


@test(needs=["qemu-io", "nbdinfo", "qemu-img"])
def large(tmp):
    "sparse disks of 5 GiB and 8 TiB: data, dirt and maps beyond 4 GiB"
    for size in (5 << 30, 8 << 40):
        path = os.path.join(tmp, "disk0.img")
        try:
            image(path, size)
        except OSError as e:
            skip("no file of %d bytes here: %s" % (size, e.strerror))
        at = size - 3 * M
        with serve(tmp, path) as d:
            add(d, granularity=65536)
            run("qemu-io", "-f", "raw", "-c", "write -P 1 4G 64k", "-c", "write -P 2 %d 1M" % at, "-c",
                "read -P 1 4G 64k", "-c", "read -P 2 %d 1M" % at, "-c", "read -P 0 2G 64k",
                "-c", "write -nz 1G 3G" if size < 1 << 40 else "flush", d.uri())
            dirt = [(4 << 30, 65536), (at, M)]
            if size < 1 << 40:
                dirt = [(1 << 30, (3 << 30) + 65536), (at, M)]
            equal([(e["offset"], e["length"]) for e in
                   tool_json("nbdinfo", "--json", "--map=qemu:dirty-bitmap:b0", d.uri()) if e["type"]], dirt)
            equal(sum(e["length"] for e in tool_json("qemu-img", "map", "--output=json", "--image-opts",
                                                     opts(d))), size)
        os.unlink(path)


@test(needs=["losetup", "qemu-io", "nbdinfo"])
def loop_device(tmp):
    "a loop device is served, mapped, discarded and never grown"
    if os.geteuid():
        skip("only root can set up a loop device")
    path = image(os.path.join(tmp, "backing"), 4 * M)
    done = run("losetup", "-f", "--show", path, check=False)
    if done.returncode:
        skip("no loop device to be had: %s" % done.stderr.strip())
    device = done.stdout.strip()
    try:
        with Daemon(tmp, "--blockdev", "driver=host_device,node-name=disk0,discard=unmap,filename=" + device,
                    "--export", "type=nbd,id=exp-disk0,node-name=disk0,name=disk0,writable=on") as d:
            add(d, granularity=65536)
            run("qemu-io", "-f", "raw", "-c", "write -P 3 1M 64k", "-c", "read -P 3 1M 64k", "-c",
                "discard 1M 64k", "-c", "read -P 0 1M 64k", "-c", "write -P 4 3M 64k", d.uri())
            h = d.nbd(contexts=["qemu:dirty-bitmap:b0"])
            equal(dirty(h, "b0"), [(M, 65536), (3 * M, 65536)])
            h.shutdown()
            d.stop()
        equal(contents(path)[3 * M:3 * M + 65536], b"\4" * 65536)
    finally:
        run("losetup", "-d", device)


main()
