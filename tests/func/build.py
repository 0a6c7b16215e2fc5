#!/usr/bin/python3
# SPDX-FileCopyrightText: 2026 The Tidemark authors
# SPDX-License-Identifier: GPL-2.0-or-later
"""The front doors: configure in another directory, what it refuses, and what gets installed."""
import fnmatch
import re
import json
import os

from harness import *

CONFIGURE = os.path.join(SRCDIR, "configure")


@test
def out_of_tree(tmp):
    "configure in another directory leaves a Makefile there, and takes prefix and sanitizers"
    run(CONFIGURE, "--prefix=/opt/tide mark", "--mandir=/opt/man", "--libdir=lib", "--enable-sanitizers=address,undefined",
        cwd=tmp)
    options = {o["name"]: o["value"] for o in json.loads(
        run("meson", "introspect", "--buildoptions", "build", cwd=tmp).stdout)}
    equal(options["prefix"], "/opt/tide mark")
    equal(options["mandir"], "/opt/man")
    equal(options["libdir"], "lib")
    equal(options["b_sanitize"], "address,undefined")
    matches(run("make", "-n", cwd=tmp).stdout, "ninja -C build")
    equal(os.path.exists(os.path.join(tmp, "build", "build.ninja")), True)
    # make demo and make install build the programs, without tests and fuzzers.
    inputs = run("ninja", "-C", "build", "-t", "inputs", "programs", cwd=tmp).stdout
    matches(inputs, "daemon/tidemarkd")
    equal([line for line in inputs.splitlines() if re.search(r"(^|/)(tests|bench)/", line)], [])
    for target in ("demo", "install"):
        matches(run("make", "-n", target, cwd=tmp).stdout, r"ninja -C build +programs")


@test
def debian_libdir(tmp):
    "libraries go where Debian looks for them, even if dpkg-architecture is not there"
    multiarch = run("cc", "-print-multiarch").stdout.strip()
    if not multiarch:
        skip("this compiler names no directory for its architecture")
    stub = os.path.join(tmp, "dpkg-architecture")
    with open(stub, "w") as f:
        f.write("#!/bin/sh\nexit 1\n")
    os.chmod(stub, 0o755)
    run(CONFIGURE, "--prefix=/usr", cwd=tmp, env={"PATH": tmp + ":" + os.environ["PATH"]})
    options = {o["name"]: o["value"] for o in json.loads(
        run("meson", "introspect", "--buildoptions", "build", cwd=tmp).stdout)}
    equal(options["libdir"], "lib/" + multiarch)


@test
def configure_again(tmp):
    "configuring again forgets the options of the last time"
    equal(run(CONFIGURE, "--enable-werror", cwd=tmp).stdout, "configured in %s/build; now run make\n" % tmp)
    equal(run(CONFIGURE, "--quiet", cwd=tmp).stdout, "")
    options = {o["name"]: o["value"] for o in json.loads(
        run("meson", "introspect", "--buildoptions", "build", cwd=tmp).stdout)}
    equal(options["werror"], False)


@test
def configure_refuses(tmp):
    "configure says in one line what is wrong"
    os.mkdir(os.path.join(tmp, "build"))
    for args, message in ((["--enable-sanitisers=x"], "unknown option '--enable-sanitisers=x'"),
                          (["--enable-sanitizers=memory"], "unknown sanitizer 'memory'"),
                          (["--enable-sanitizers=address,thread"], "can't be combined"),
                          (["CC=no-such-compiler"], "no-such-compiler is missing"),
                          ([], "is not a build directory")):
        done = run(CONFIGURE, *args, check=False, cwd=tmp)
        equal(done.returncode, 1)
        equal(len(done.stderr.splitlines()), 1, done.stderr)
        matches(done.stderr, re.escape(message))
    os.rmdir(os.path.join(tmp, "build"))
    done = run(CONFIGURE, "CFLAGS=--no-such-flag", check=False, cwd=tmp)
    equal(done.returncode, 1)
    matches(done.stderr, "ERROR")  # meson's own words


@test
def configure_help(tmp):
    "configure --help lists the options and touches nothing"
    matches(run(CONFIGURE, "--help", cwd=tmp).stdout, "--enable-sanitizers")
    equal(os.listdir(tmp), [])


def check_units(installed, bindir, tmp):
    """The units of backups, with programs that are there, are ones that systemd takes."""
    units = os.path.join(tmp, "units")
    os.makedirs(units)
    for kind in ("backup", "verify"):
        for suffix in ("service", "timer"):
            with open(os.path.join(installed, "tidemark-%s@.%s" % (kind, suffix))) as f:
                text = f.read()
            with open(os.path.join(units, "tidemark-%s@web.%s" % (kind, suffix)), "w") as f:
                f.write(text.replace(bindir, os.path.dirname(TIDEMARK)))
    p = run("systemd-analyze", "verify", "--man=no", *[os.path.join(units, u) for u in sorted(os.listdir(units))],
            check=False)
    complaints = [line for line in p.stderr.splitlines() if "tidemark-" in line]
    equal(complaints, [])


def check_packages(top, libdir):
    """Every file that is installed below the prefix belongs to a Debian package: else `make deb` fails."""
    folder = os.path.join(SRCDIR, "packaging", "debian")
    patterns = ["share/doc/tidemark/COPYING", "share/doc/tidemark/*.example"]  # the rules remove and move them
    for name in os.listdir(folder):
        if name.endswith(".install"):
            with open(os.path.join(folder, name)) as f:
                patterns += [word[len("usr/"):] if word.startswith("usr/") else word for word in f.read().split()]
    for at, _, names in os.walk(top):
        for name in names:
            path = os.path.relpath(os.path.join(at, name), top).replace(libdir + "/", "lib/any/")
            if not any(fnmatch.fnmatch(path, pattern) or fnmatch.fnmatch(path, pattern + "/*") for pattern in patterns):
                fail("%s belongs to no package: no packaging/debian/*.install names it" % path)


@test
def install(tmp):
    "make install puts programs, manuals, libraries and documents where they belong, under DESTDIR"
    run("make", "-o", "programs", "-f", os.path.join(SRCDIR, "Makefile"), "install", "BUILD=" + BUILDDIR, "DESTDIR=" + tmp,
        cwd=os.path.dirname(BUILDDIR))
    options = {o["name"]: o["value"] for o in json.loads(
        run("meson", "introspect", "--buildoptions", BUILDDIR).stdout)}
    top = tmp + options["prefix"]
    for path in ("%(bindir)s/tidemarkd", "%(bindir)s/tidemark", "%(includedir)s/tidemark/driver.h",
                 "%(libdir)s/pkgconfig/tidemark.pc", "%(mandir)s/man1/tidemark.1", "%(mandir)s/man1/tidemark-copy.1",
                 "%(mandir)s/man8/tidemarkd.8", "lib/systemd/system/tidemarkd.service",
                 "lib/systemd/system/tidemarkd.socket", "lib/systemd/system/tidemarkd@.service",
                 "lib/systemd/system/tidemarkd-qmp@.socket", "lib/sysusers.d/tidemark.conf",
                 "lib/tmpfiles.d/tidemark.conf", "lib/systemd/system/tidemark-backup@.timer",
                 "lib/systemd/system/tidemark-verify@.timer", "%(datadir)s/doc/tidemark/tidemark-backup.conf.example", "%(datadir)s/doc/tidemark/README.md",
                 "%(datadir)s/bash-completion/completions/tidemark", "%(datadir)s/zsh/site-functions/_tidemark",
                 "%(datadir)s/fish/vendor_completions.d/tidemark.fish"):
        if not os.path.exists(os.path.join(top, path % options)):
            fail("%s was not installed" % (path % options))
    matches(run(os.path.join(top, options["bindir"], "tidemarkd"), "--version").stdout, r"\d+\.\d+")
    matches(run(os.path.join(top, options["bindir"], "tidemark"), "--version").stdout, r"\d+\.\d+")
    with open(os.path.join(top, "lib/systemd/system/tidemarkd.service")) as f:
        matches(f.read(), "ExecStart=%s/%s/tidemarkd" % (options["prefix"], options["bindir"]))
    check_packages(top, options["libdir"])
    if have("systemd-analyze"):
        check_units(os.path.join(top, "lib/systemd/system"), os.path.join(options["prefix"], options["bindir"]), tmp)
    env = {"PKG_CONFIG_PATH": os.path.join(top, options["libdir"], "pkgconfig")}
    equal(run("pkg-config", "--variable=moduledir", "tidemark", env=env).stdout.strip(),
          os.path.join(options["prefix"], options["libdir"], "tidemark/modules"))
    # A plug-in has the header and nothing else.
    for compiler, language, standard in (("cc", "c", "c99"), ("c++", "c++", "c++11")):
        if have(compiler):
            run(compiler, "-x", language, "-std=" + standard, "-pedantic-errors", "-Wall", "-Wextra", "-Werror",
                "-fsyntax-only", "-I" + os.path.join(top, options["includedir"]), "-",
                input="#include <tidemark/driver.h>\n")


@test(needs=["nbdsh"])
def readme(tmp):
    "the README's first backups work as they are written there"
    with open(os.path.join(SRCDIR, "README.md")) as f:
        commands = re.search(r"(?s)## The first backups\n\n```sh\n(.*?)```", f.read()).group(1)
    # /usr/bin: nbdsh runs the first python3, which has to be the one with libnbd.
    path = ":".join([os.path.dirname(TIDEMARKD), os.path.dirname(TIDEMARK), "/usr/bin", os.environ["PATH"]])
    env = {"PATH": path, "XDG_RUNTIME_DIR": tmp}
    try:
        said = run("sh", "-ec", commands, cwd=tmp, env=env).stdout
    finally:
        run(TIDEMARK, "qmp", "quit", env=env)
    matches(said, r"disk0 +full .*\n(?s:.*)disk0 +incremental +64 KiB read")
    run("cmp", "disk0.img", "restored.img", cwd=tmp)


@test(needs=["psktool", "qemu-img"])
def readme_tls(tmp):
    "the README's TLS works as it is written there, with each client; without TLS the error says so"
    with open(os.path.join(SRCDIR, "README.md")) as f:
        commands = re.search(r"(?s)## With TLS\n\n```sh\n(.*?)```", f.read()).group(1)
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    commands = commands.replace("10809", str(port)).replace("@localhost/", "@localhost:%d/" % port).replace(
        "0.0.0.0", "127.0.0.1")
    path = ":".join([os.path.dirname(TIDEMARKD), os.path.dirname(TIDEMARK), os.environ["PATH"]])
    try:
        said = run("sh", "-ec", commands, cwd=tmp, env={"PATH": path}).stdout
        for args in ("--list", "nbd://localhost:%d" % port), ("nbd://localhost:%d/disk1" % port,):
            p = tidemark("info", *args, check=False)
            equal((p.returncode, p.stdout), (1, ""))
            matches(p.stderr, "the server requires TLS: use a URI that begins with nbds")
    finally:
        with open(os.path.join(tmp, "tidemarkd.pid")) as f:
            os.kill(int(f.read()), signal.SIGTERM)
    matches(said, r"size +1 GiB (?s:.*)with TLS(?s:.*)virtual size: 1 GiB")


def told(page):
    """Headings, prose and the first lines of commands in a tour. Figures differ each time."""
    with open(page) as f:
        text = f.read()
    said = []
    for paragraph in re.split(r"\n\n|\n(?=    )", text):
        if paragraph.startswith("    $ ") or not paragraph.startswith("    "):
            said.append(re.sub(r"[\d.]+( ?[KMG]iB|M\b)?", "#", " ".join(paragraph.split())))
    return said


@test(needs=["mkfs.ext4", "debugfs", "e2fsck"])
def demo(tmp):
    "the demo runs to its end, and docs/tour.md is what it prints"
    tour = os.path.join(tmp, "tour.md")
    said = run(os.path.join(SRCDIR, "scripts", "demo"), "--build", BUILDDIR, "--size", "64", "--tour", tour,
               timeout=100).stdout
    matches(said, r"(?s)5\. Bring it back.*\n   same\n")
    equal([len(line) for line in said.splitlines() if len(line) > 100], [])
    kept = told(os.path.join(SRCDIR, "docs", "tour.md"))
    equal(len(told(tour)), len(kept), "docs/tour.md is stale")
    for now, then in zip(told(tour), kept):
        equal(now, then, "docs/tour.md is stale; 'make demo TOUR=docs/tour.md' writes it anew")


main()
