#!/usr/bin/python3
# SPDX-FileCopyrightText: 2026 The Tidemark authors
# SPDX-License-Identifier: GPL-2.0-or-later
"""What tidemarkd can't do, whoever steers it: --sandbox and --user."""
import ctypes
import os
import tempfile


from harness import *
import nbd

M = 1 << 20


def landlock():
    """Its version, 0 without it."""
    return max(0, ctypes.CDLL(None).syscall(444, None, ctypes.c_size_t(0), 1))


def status(daemon, field):
    """What the kernel says of each of its threads, as a set."""
    found = set()
    for task in os.listdir("/proc/%d/task" % daemon.pid):
        with open("/proc/%d/task/%s/status" % (daemon.pid, task)) as f:
            found |= {line.split(":", 1)[1].strip() for line in f if line.startswith(field + ":")}
    return found


def image(directory, name="disk.img"):
    path = os.path.join(directory, name)
    with open(path, "wb") as f:
        f.truncate(M)
    return path


def other_dir(tmp):
    path = os.path.join(tmp, "other")
    os.mkdir(path)
    return path


def write_a_byte(daemon, export):
    h = nbd.NBD()
    h.connect_uri("nbd+unix:///%s?socket=%s" % (export, daemon.nbd_path))
    h.pwrite(b"x", 0)
    h.shutdown()


@test
def calls(tmp):
    "system calls are restricted in every thread, unless the sandbox is off"
    with Daemon(tmp) as d:
        restricted = status(d, "Seccomp")
    with Daemon(tmp, "--sandbox", "off") as d:
        equal(status(d, "Seccomp"), {"0"})
        equal(status(d, "NoNewPrivs"), {"0"})
    if restricted != {"2"} and b"__asan_init" in open(TIDEMARKD, "rb").read():
        skip("built with a sanitizer that traces")
    equal(restricted, {"2"})


@test
def silent(tmp):
    "nothing listens unless the command line says so"
    pid = os.path.join(tmp, "pid")
    with Daemon(tmp, "--blockdev", "driver=file,node-name=n,filename=" + image(tmp), "--pidfile", pid,
                nbd=False, qmp=False) as d:
        wait_until(lambda: os.path.exists(pid), "the PID file")
        links = [os.readlink("/proc/%d/fd/%s" % (d.pid, fd)) for fd in os.listdir("/proc/%d/fd" % d.pid)]
        equal([x for x in links if x.startswith("socket:")], [])


@test
def any_file(tmp):
    "with a monitor every file can be opened, and made, unless files=given"
    if not landlock():
        skip("this kernel has no Landlock")
    for args in (), ("--sandbox", "on,files=given"):
        with tempfile.TemporaryDirectory() as elsewhere, Daemon(tmp, *args) as d:
            old, new = image(elsewhere), os.path.join(elsewhere, "new")
            node = {"driver": "file", "node-name": "n", "filename": old}
            if args:
                raises(QMPError, d.qmp, "blockdev-add", node, match="the sandbox allows")
            else:
                d.qmp("blockdev-add", node)
            d.qmp("blockdev-create", job_id="j",
                  options={"driver": "file", "filename": new, "size": M})
            wait_until(lambda: d.qmp("query-jobs")[0]["status"] == "concluded", "the job")
            equal(os.path.exists(new), not args)


@test
def given_files(tmp):
    "what the command line names can be used, with all that belongs to it, and nothing else"
    if not landlock():
        skip("this kernel has no Landlock")
    mine = image(tmp)
    with tempfile.TemporaryDirectory() as elsewhere, Daemon(
            tmp, "--sandbox", "on,files=given", "--blockdev",
            "driver=file,node-name=n,filename=" + mine, "--export",
            "nbd,id=e,node-name=n,writable=on") as d:
        other = image(elsewhere)
        e = raises(QMPError, d.qmp, "blockdev-add", driver="file", node_name="o", filename=other)
        equal(e.desc, "Could not open '%s': Permission denied (the sandbox allows only what was "
              "named at the start; --sandbox paths.0=DIR adds to it, --sandbox off ends it)" % other)
        again = os.path.relpath(other)  # as an image may name it
        e = raises(QMPError, d.qmp, "blockdev-add", driver="file", node_name="o", filename=again)
        matches(e.desc, "the sandbox allows only")
        raises(QMPError, d.qmp, "blockdev-add", driver="file", node_name="o", read_only=True,
               filename="/etc/shadow", match="Permission denied|No such file")
        # its store is made, written, removed; and its sockets are removed at the end
        d.qmp("block-dirty-bitmap-add", node="n", name="b", persistent=True)
        write_a_byte(d, "n")
        equal(os.path.exists(mine + ".bitmaps"), True)
        d.qmp("block-dirty-bitmap-remove", node="n", name="b")
        equal(os.path.exists(mine + ".bitmaps"), False)
        socket_path = d.nbd_path
    equal(os.path.exists(socket_path), False)


@test
def more_paths(tmp):
    "--sandbox paths= adds to what the command line names"
    if not landlock():
        skip("this kernel has no Landlock")
    other = other_dir(tmp)
    with Daemon(tmp, "--sandbox", "on,paths.0=" + other) as d:
        d.qmp("blockdev-add", driver="file", node_name="n", filename=image(other))
        raises(QMPError, d.qmp, "blockdev-add", driver="file", node_name="o", read_only=True,
               filename="/etc/hostname", match="the sandbox allows")


@test
def ordinary(tmp):
    "an ordinary lack of rights is not blamed on the sandbox, and what the sandbox denies is"
    if not landlock() or os.getuid():
        skip("needs root and Landlock")
    os.chmod(tmp, 0o777)
    os.chmod(os.path.dirname(tmp), 0o755)
    mine, other = image(tmp, "mine"), image(other_dir(tmp))
    os.chmod(mine, 0o600)
    os.chmod(other, 0o666)
    link = os.path.join(tmp, "link")
    os.symlink(other, link)
    with tempfile.TemporaryDirectory() as elsewhere, Daemon(
            tmp, "--sandbox", "on,paths.0=" + tmp, "--user", "12345") as d:
        os.chmod(elsewhere, 0o755)
        beyond = image(elsewhere)
        os.chmod(beyond, 0o666)
        os.symlink(beyond, os.path.join(tmp, "far"))
        d.qmp("blockdev-add", driver="file", node_name="l", filename=link)

        def desc(path):
            return raises(QMPError, d.qmp, "blockdev-add", driver="file", node_name="n", filename=path).desc

        equal(desc(mine), "Could not open '%s': Permission denied" % mine)
        for path in beyond, os.path.join(tmp, "far"), os.path.join(elsewhere, "..", os.path.basename(elsewhere), "disk.img"):
            matches(desc(path), "Permission denied .the sandbox allows")
        equal("sandbox" in desc("/usr/bin/env"), False, "nobody but root may write there")
        e = raises(QMPError, d.qmp, "object-add", qom_type="secret", id="s", file=beyond).desc
        matches(e, "Permission denied .the sandbox allows")
        e = raises(QMPError, d.qmp, "nbd-server-start", id="x", addr={
            "type": "unix", "data": {"path": os.path.join(elsewhere, "s")}}).desc
        matches(e, "Permission denied .the sandbox allows")
    # nor without a monitor, at the start
    done = run("setpriv", "--reuid=12345", "--clear-groups", TIDEMARKD, "--blockdev",
               "driver=file,node-name=n,filename=" + mine, check=False)
    matches(done.stderr, "Permission denied$")


@test
def backing(tmp):
    "a file outside the sandbox that an image names is reported"
    if not landlock():
        skip("this kernel has no Landlock")
    with tempfile.TemporaryDirectory() as elsewhere:
        top = os.path.join(tmp, "top")
        tidemark("image", "create", "-q", "-f", "qcow2", "-b", image(elsewhere), "-F", "raw", top)
        done = run(TIDEMARKD, "--blockdev", "driver=qcow2,node-name=n,read-only=on,backing-names=any,"
                   "file.driver=file,file.filename=" + top, check=False)
        matches(done.stderr, "Permission denied .the sandbox allows")


@test
def root_directory(tmp):
    "a file in the root directory doesn't open that, and all that is in it, to the daemon"
    if not landlock() or os.getuid():
        skip("needs root and Landlock")
    path = "/tidemark-test-%d.img" % os.getpid()
    with tempfile.TemporaryDirectory() as elsewhere:
        other = image(elsewhere)
        image("/", os.path.basename(path))
        try:
            with Daemon(tmp, "--sandbox", "on,files=given", "--blockdev",
                        "driver=file,node-name=n,filename=" + path) as d:
                matches(d.log(), "warning: sandbox: files can't be created beside '%s'" % path)
                raises(QMPError, d.qmp, "blockdev-add", driver="file", node_name="o", filename=other,
                       match="Permission denied .the sandbox allows")
                raises(QMPError, d.qmp, "block-dirty-bitmap-add", node="n", name="b", persistent=True,
                       match="Permission denied .the sandbox allows")
        finally:
            os.unlink(path)


@test
def without_monitor(tmp):
    "without a monitor a disk is served inside the fence, also one that a link leads to"
    other = image(other_dir(tmp))
    link = os.path.join(tmp, "link.img")
    os.symlink(other, link)
    with Daemon(tmp, "--blockdev", "driver=file,node-name=n,filename=" + link, "--export",
                "nbd,id=e,node-name=n,writable=on", "--pidfile", os.path.join(tmp, "pid"),
                qmp=False) as d:
        wait_until(lambda: os.path.exists(os.path.join(tmp, "pid")), "the PID file")
        write_a_byte(d, "n")
    equal(open(other, "rb").read(1), b"x")
    equal(os.path.exists(os.path.join(tmp, "pid")), False)


@test
def mistakes(tmp):
    "mistakes in --sandbox and --user are reported in one line"
    for args, match in (
            (["--sandbox", "yes"], "--sandbox yes: Parameter 'mode' does not accept value 'yes'"),
            (["--sandbox", "on,files=some"], "Parameter 'files' does not accept value 'some'"),
            (["--sandbox", "on,paths.0=/no/such"], "'/no/such' does not exist"),
            (["--user", "no such user"], "--user no such user: user 'no such user' does not exist"),
            (["--user", "0:no such group"], "group 'no such group' does not exist"),
            (["--user", ""], "expected USER or USER:GROUP")):
        done = run(TIDEMARKD, *args, check=False)
        equal(done.returncode, 1)
        equal(done.stderr.count("\n"), 1, done.stderr)
        matches(done.stderr, match)


@test
def another_user(tmp):
    "--user gives up root's rights in every thread, and files opened before stay open"
    if os.getuid():
        skip("only root can give up its rights")
    os.chmod(tmp, 0o755)
    mine = image(tmp)
    os.chmod(mine, 0o600)
    secret = image(other_dir(tmp))
    os.chmod(secret, 0o600)
    with Daemon(tmp, "--user", "12345:54321", "--blockdev", "driver=file,node-name=n,filename=" + mine,
                "--export", "nbd,id=e,node-name=n,writable=on") as d:
        wait_until(lambda: status(d, "Uid") == {"\t".join(["12345"] * 4)}, "the other user")
        equal(status(d, "Gid"), {"\t".join(["54321"] * 4)})
        equal(status(d, "CapEff"), {"0" * 16})
        write_a_byte(d, "n")
        raises(QMPError, d.qmp, "blockdev-add", driver="file", node_name="o", filename=secret,
               match="Permission denied")


main()
