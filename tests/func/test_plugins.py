#!/usr/bin/python3
# SPDX-FileCopyrightText: 2026 The Tidemark authors
# SPDX-License-Identifier: GPL-2.0-or-later
"""Driver plug-ins: compiled against what is installed and nothing else, loaded and used over NBD."""
import os
import shlex
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from harness import *  # noqa: E402,F403

EXAMPLES = os.path.join(SRCDIR, "examples")


def installed_header(tmp):
    """Compiler flags for the installed header, from its pkg-config file, in a tree of its own."""
    root = os.path.join(tmp, "root")
    run("meson", "install", "-C", BUILDDIR, "--no-rebuild", "--destdir", root)
    where = run("sh", "-c", 'find "$0" -name tidemark.pc', root).stdout.split()
    equal(len(where), 1, "tidemark.pc is installed once")
    flags = run("pkg-config", "--define-variable=prefix=" + root + prefix_of(where[0]), "--cflags",
                "tidemark", env={"PKG_CONFIG_PATH": os.path.dirname(where[0])}).stdout
    return shlex.split(flags)


def prefix_of(pc):
    """The prefix that the pkg-config file was made for."""
    with open(pc) as f:
        for line in f:
            if line.startswith("prefix="):
                return line.strip()[len("prefix="):]
    return fail("no prefix in " + pc)


def build(tmp, flags, source, *defines):
    out = os.path.join(tmp, os.path.basename(source)[:-2].replace("driver-", "") + ".so")
    run(os.environ.get("CC", "cc"), "-std=c11", "-Wall", "-Wextra", "-Werror", "-Wno-unused-parameter",
        "-Wno-missing-field-initializers", "-shared", "-fPIC", *flags, *defines, "-o", out, source, cwd=tmp)
    return out


@test(needs=["meson", "cc", "pkg-config"])
def ramdisk(tmp):
    "the ramdisk example, built against the installed header, serves NBD"
    module = build(tmp, installed_header(tmp), os.path.join(EXAMPLES, "driver-ramdisk.c"))
    with Daemon(tmp, "--module", module,
                "--blockdev", "driver=ramdisk,node-name=disk0,size=1M",
                "--export", "type=nbd,id=e0,node-name=disk0,name=disk0,writable=on") as d:
        h = d.nbd()
        equal(h.get_size(), 1 << 20)
        h.pwrite(b"tidemark" * 100, 12345)
        equal(bytes(h.pread(800, 12345)), b"tidemark" * 100)
        h.zero(400, 12345)
        equal(bytes(h.pread(800, 12345)), bytes(400) + b"tidemark" * 50)
        h.flush()
        h.trim(4096, 0)
        h.shutdown()
        d.qmp("block-dirty-bitmap-add", node="disk0", name="b0")
        h = d.nbd()
        h.pwrite(b"x", 70000)
        h.shutdown()
        equal(d.bitmap("disk0", "b0")["count"], 65536)
        equal([n["drv"] for n in d.qmp("query-named-block-nodes")], ["ramdisk"])
        raises(QMPError, d.qmp, "blockdev-add", {"driver": "ramdisk", "node-name": "x"},
               match="Parameter 'size' is missing")


@test(needs=["meson", "cc", "pkg-config", "qemu-img"])
def module_directory(tmp):
    "a module directory is loaded whole, but for what can't be, a warning; the reversing example maps onto a file"
    flags = installed_header(tmp)
    modules = os.path.join(tmp, "modules")
    os.mkdir(modules)
    for name in "ramdisk", "reverse", "invert":
        built = build(tmp, flags, os.path.join(EXAMPLES, "driver-%s.c" % name))
        os.rename(built, os.path.join(modules, name + ".so"))
    with open(os.path.join(modules, "broken.so"), "w") as f:
        f.write("built for another machine")
    content = b"".join(bytes([i]) * 65536 for i in range(16))
    path = image(os.path.join(tmp, "f.img"), 1 << 20, [(0, content)])
    with Daemon(tmp, "--module-dir", modules,
                "--blockdev", "driver=file,node-name=f,filename=" + path,
                "--blockdev", "driver=reverse,node-name=disk0,file=f",
                "--export", "type=nbd,id=e0,node-name=disk0,name=disk0,writable=on") as d:
        out = os.path.join(tmp, "out")
        run("qemu-img", "convert", "-O", "raw", d.uri(), out)
        with open(out, "rb") as f:
            equal(f.read() == b"".join(bytes([15 - i]) * 65536 for i in range(16)), True)
        h = d.nbd()
        h.pwrite(b"first", 0)
        h.shutdown()
        matches(d.log(), "warning: Could not load module '%s/broken.so'" % modules)
    with open(path, "rb") as f:
        f.seek(15 * 65536)
        equal(f.read(5), b"first")


@test(needs=["cc"])
def refusals(tmp):
    "what is no plug-in, or one for another version, is refused in one line"
    def refused(module, message):
        p = run(TIDEMARKD, "--module", module, check=False)
        equal(p.returncode, 1)
        matches(p.stderr, message)
        equal(p.stderr.count("\n"), 1)

    refused("/nonexistent.so", "Could not load module '/nonexistent.so'")
    refused("/dev/null", "Could not load module '/dev/null'")
    os.mkfifo(os.path.join(tmp, "fifo.so"))
    refused(os.path.join(tmp, "fifo.so"), "it is not a regular file")
    plugins = os.path.join(BUILDDIR, "tests", "plugin")
    if not os.path.isdir(plugins):
        skip("the tests' plug-ins are not built")
    refused(os.path.join(plugins, "refused-abi.so"), "built for driver ABI 99, expected 6")
    refused(os.path.join(plugins, "refused-size.so"), "another tidemark/driver.h")
    refused(os.path.join(plugins, "refused-symbol.so"), "no function 'tidemark_driver_init'")


main()
