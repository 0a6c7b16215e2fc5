#!/usr/bin/python3
# SPDX-FileCopyrightText: 2026 The Tidemark authors
# SPDX-License-Identifier: GPL-2.0-or-later
"""tidemark report: what is in it, and that no secret is, wherever one is planted."""
import glob
import json
import os
import pwd
import signal
import socket
import stat
import tempfile
import time

from harness import *
import nbd

M = 1 << 20
PLANTED = "planted%02d"


def secret(number):
    return PLANTED % number + "x" * 8


def report(tmp, *args, name="report.json", status=0, env=None, prefix=()):
    """Makes one; what it has, and what is printed."""
    path = os.path.join(tmp, name)
    done = run(*prefix, TIDEMARK, "report", "--output", path, *args, check=False, env=env)
    equal(done.returncode, status, done.stdout + done.stderr)
    if status:
        return None, done.stderr
    equal(stat.S_IMODE(os.stat(path).st_mode), 0o600)
    with open(path) as f:
        text = f.read()
    for planted in range(20):
        for shown, where in ((text, "the report"), (done.stdout + done.stderr, "what is printed")):
            at = shown.find(PLANTED % planted)
            equal(at, -1, "%s has %r" % (where, shown[max(0, at - 100):at + 30]))
    return json.loads(text), done.stdout


def refused_export(d, name):
    h = nbd.NBD()
    h.set_export_name(name)
    raises(nbd.Error, h.connect_unix, d.nbd_path)


def plant(tmp):
    """Files with secrets in them, and the options of a daemon that has secrets everywhere."""
    with open(tmp + "/secret", "w") as f:
        f.write(secret(1))
    os.mkdir(tmp + "/keys", 0o700)
    with open(tmp + "/keys/keys.psk", "w") as f:
        f.write("alice:" + (secret(2).encode() * 2).hex() + "\n")
    image(tmp + "/overlay", 0)
    run("qemu-img", "create", "-q", "-u", "-f", "qcow2", "-b", "nbd://bob:%s@host/base" % secret(3), "-F", "raw",
        tmp + "/overlay", "1M")
    return ["--object", "secret,id=s0,data=%s,,with-a-comma" % secret(4),
            "--object=" + json.dumps({"qom-type": "secret", "id": "s1", "data": secret(5)}),
            "--obj", "secret,id=s2,file=" + tmp + "/secret",
            "--object", "tls-creds-psk,id=t0,dir=" + tmp + "/keys,endpoint=server",
            *disk(tmp, "disk0", M),
            "--blockdev", json.dumps({"driver": "qcow2", "node-name": "over", "backing": None,
                                      "file": {"driver": "file", "filename": tmp + "/overlay"}})]


@test(needs=("qemu-img",))
def whole(tmp):
    "it has versions, configuration, log, figures, limits and store checks, and none of the secrets planted everywhere"
    with Daemon(tmp, *plant(tmp), env={"NBD_PASSWORD": secret(6)}) as d:
        d.qmp("object-add", qom_type="secret", id="s3", data=secret(7))
        d.qmp("block-dirty-bitmap-add", node="disk0", name="b0", persistent=True)
        h = d.nbd()
        h.pwrite((secret(8) * 100).encode(), 0)
        refused_export(d, "nbds://carol:%s@host/disk" % secret(9))
        refused_export(d, "a password=%s" % secret(10))
        refused_export(d, secret(5))  # a secret of the command line, somewhere else
        found, printed = report(tmp, "--socket", d.qmp_path, env={"TOKEN": secret(11)})
        h.shutdown()
    found.pop("installed", None)
    equal(sorted(found), ["daemon", "disks", "missing", "report", "system"])
    process, answers = found["daemon"]["process"], found["daemon"]["answers"]
    arguments = process["arguments"]
    for kept in ("secret,id=s0,data=(removed)", '--object={"qom-type":"secret","id":"s1","data":"(removed)"}',
                 "secret,id=s2,file=%s/secret" % tmp, "tls-creds-psk,id=t0,dir=%s/keys,endpoint=server" % tmp):
        equal(kept in arguments, True, "%s in %s" % (kept, arguments))
    equal(any("libgnutls.so" in name for name in process["libraries"]), True)
    equal(any(line.startswith("Max open files") for line in process["limits"]), True)
    equal(any("VmRSS" in line for line in process["status"]), True)
    equal(len(process["threads"]) > 1, True)
    equal("release" in found["system"]["kernel"], True)
    equal([x["id"] for x in answers["query-block-exports"]], ["exp-disk0"])
    equal(answers["query-nbd-sessions"][0]["export"], "exp-disk0")
    equal({o["id"] for o in answers["query-objects"]} >= {"s0", "s1", "s2", "s3", "t0"}, True)
    log = [m["message"] for m in answers["query-log"]]
    for text in ("export 'nbds://(removed)@host/disk' not present", "'a password=(removed)",
                 "export '(removed)' not present"):
        equal(any(text in message for message in log), True, "%s in %s" % (text, log))
    disks = {os.path.basename(x["path"]): x for x in found["disks"]}
    equal((disks["disk0.img"]["size"], disks["disk0.img"]["bitmap-store"]["state"]), (M, "in-use"))
    equal(disks["disk0.img"]["bitmap-store"]["bitmaps"][0]["name"], "b0")
    with open("/proc/self/mountinfo") as f:  # below another root directory there may be no mount that has it
        mounted = any(os.path.realpath(tmp).startswith(line.split()[4].rstrip("/") + "/") for line in f)
    equal("mount" in disks["overlay"], mounted)
    over = [n for n in answers["query-named-block-nodes"] if n["node-name"] == "over"][0]
    equal("nbd://(removed)@host/base" in json.dumps(over), True, over)
    matches(printed, "(?s)report.json: .*It has: .*It lacks: +contents of disks, passwords, keys")


@test
def no_daemon(tmp):
    "without a daemon it says what is missing, and still has the machine and the disks that are named"
    with Daemon(tmp, *disk(tmp, "disk0", M)) as d:
        d.qmp("block-dirty-bitmap-add", node="disk0", name="b0", persistent=True)
    found, printed = report(tmp, "--socket", tmp + "/none", tmp + "/disk0.img", tmp + "/nosuch")
    equal(("answers" in found["daemon"], "process" in found["daemon"]), (False, False))
    matches(found["daemon"]["error"], "no daemon at socket '%s/none'" % tmp)
    matches(" ".join(printed.split()), "Missing: the daemon's configuration, log and figures: no daemon at socket")
    good, absent = found["disks"]
    equal((good["bitmap-store"]["state"], good["bitmap-store"]["bitmaps"][0]["name"]), ("closed", "b0"))
    equal((absent["path"], absent["error"]), (tmp + "/nosuch", "No such file or directory"))
    equal(any("nosuch" in line for line in found["missing"]), True)


@test
def hangs(tmp):
    "a daemon that does not answer costs as long as --timeout says, and its threads are there"
    with Daemon(tmp, *disk(tmp, "disk0", M)) as d:
        os.kill(d.pid, signal.SIGSTOP)
        try:
            began = time.monotonic()
            found, printed = report(tmp, "--socket", d.qmp_path, "--timeout", "1")
            equal(time.monotonic() - began < 60, True, "it took %d s" % (time.monotonic() - began))
        finally:
            os.kill(d.pid, signal.SIGCONT)
        matches(found["daemon"]["error"], "no answer within 1 second")
        process = found["daemon"]["process"]
        equal((process["pid"], {line.split()[-2] for line in process["threads"]}), (d.pid, {"T"}))
        matches(" ".join(printed.split()), "Missing: .*no answer within 1 second")


@test
def babbles(tmp):
    "who sends a little now and then, or something else than QMP, costs no more than that"
    path = tmp + "/s"
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(path)
        listening.listen(2)

        def babble():
            listening.accept()[0].close()  # who listens there
            with listening.accept()[0] as peer:
                try:
                    peer.sendall(b'{"QMP": {"version": "')
                    while True:
                        peer.sendall(b"x")
                        time.sleep(0.05)
                except OSError:
                    pass

        def ask():
            found, _ = report(tmp, "--socket", path, "--timeout", "1")
            matches(found["daemon"]["error"], "no answer within 1 second")

        in_threads(babble, ask)


@test(needs=("setpriv",))
def another_user(tmp):
    "another user gets what that user may see, and a file that only that user can read"
    if os.geteuid():
        skip("only root can become somebody else")
    uid = pwd.getpwnam("nobody").pw_uid
    be_nobody = ("setpriv", "--reuid", str(uid), "--clear-groups")
    if run(*be_nobody, TIDEMARK, "--version", check=False).returncode:
        skip("another user can't run the programs here")
    with tempfile.TemporaryDirectory(dir="/tmp") as place:  # whoever may get there
        os.chmod(place, 0o711)
        os.mkdir(place + "/out")
        os.chown(place + "/out", uid, -1)
        as_nobody(tmp, place, uid, be_nobody)


def as_nobody(tmp, place, uid, be_nobody):
    open_to_all = place + "/all"
    with Daemon(tmp, *disk(tmp, "disk0", M), "--chardev", "socket,id=all,path=%s,server=on,wait=off,mode=0666" % open_to_all,
                "--monitor", "all") as d:
        os.chmod(tmp + "/disk0.img", 0o600)
        found, _ = report(place + "/out", "--socket", d.qmp_path, prefix=be_nobody)
        matches(found["daemon"]["error"], "Permission denied")
        equal("answers" in found["daemon"], False)
        found, printed = report(place + "/out", "--socket", open_to_all, prefix=be_nobody, name="second")
        equal(found["daemon"]["answers"]["query-block-exports"][0]["id"], "exp-disk0")
        matches(found["daemon"]["process"]["libraries"]["error"], "Permission denied")
        matches(" ".join(printed.split()), "Missing: .*libraries: .*Permission denied")
        equal(os.stat(place + "/out/second").st_uid, uid)


@test
def output(tmp):
    "it replaces no file, follows no link, and has a name with the time by default"
    for name, make in (("file", lambda path: open(path, "w").close()), ("link", lambda path: os.symlink(tmp + "/x", path))):
        make(os.path.join(tmp, name))
        _, said = report(tmp, "--socket", tmp + "/none", name=name, status=1)
        matches(said, "Could not create '%s/%s': File exists" % (tmp, name))
    equal(os.path.exists(tmp + "/x"), False)
    _, said = report(tmp, "--socket", tmp + "/none", name="nosuch/file", status=1)
    matches(said, "Could not create '%s/nosuch/file': No such file" % tmp)
    _, said = report(tmp, "--timeout", "0", name="y", status=2)
    matches(said, "timeout")
    done = run(TIDEMARK, "report", "--socket", tmp + "/none", cwd=tmp)
    names = glob.glob(tmp + "/tidemark-report-*.json")
    equal(len(names), 1)
    matches(done.stdout, "^" + os.path.basename(names[0]) + ": ")


main()
