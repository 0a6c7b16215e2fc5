#!/usr/bin/python3
# SPDX-FileCopyrightText: 2026 The Tidemark authors
# SPDX-License-Identifier: GPL-2.0-or-later
"""tidemark backup: points equal the disks at their instant, read without Tidemark; full or incremental, and why; and
whatever ends a run, by itself or by force, leaves no point and the next run right."""
import contextlib
import hashlib
import pty
import random

from backup_kit import *
from deaf import BLOCK_STATUS, Deaf
from harness import *

@test(needs=["qemu-img"])
def points_equal_the_disks(tmp):
    "two disks, a full and increments, compressed or not: each point equals the disks"
    kit = Kit(tmp, "disk0", "disk1")
    kit.write("disk0", (MIB, pattern(1, 3 * MIB)), (7 * MIB + 123, b"x"))
    kit.write("disk1", (0, pattern(2, 65536)))
    models = {}
    for i, args in enumerate(([], [], ["--compress=zstd"], ["--compress=zlib"], ["--full"])):
        kit.backup("--name", "p%d" % i, *args)
        models["p%d" % i] = [kit.content(name) for name in kit.disks]
        kit.write("disk0", (MIB + i * 131072, None), (6 * MIB + i * 4096, pattern(i, 5000)), (i * 65536, bytes(65536)))
        kit.write("disk1", (i * 65536 + 65535, b"ab"))
    for point, contents in models.items():
        for name, content in zip(kit.disks, contents):
            kit.check(point, name, content)
    equal([kit.kinds(p) for p in models], [["full"] * 2] + [["incremental"] * 2] * 3 + [["full"] * 2])
    matches(kit.checkpoints("disk0")[0], "^p4" + TAG_RE)
    equal(len(kit.checkpoints("disk0")), 1)
    equal(kit.d.qmp("query-backups"), [])
    kit.d.stop()


@test(needs=["qemu-img"])
def only_what_changed_is_stored(tmp):
    "an increment has the dirty blocks, and records those that read as zeroes without reading them"
    kit = Kit(tmp, "disk0", discard="unmap")
    kit.write("disk0", (0, pattern(1, 4 * MIB)))
    first = kit.events()[-1]["disks"][0]
    equal([first[k] for k in ("kind", "read", "stored")], ["full", 4 * MIB, 4 * MIB])
    kit.write("disk0", (MIB, b"y"), (2 * MIB, None), (3 * MIB, bytes(65536)), (6 * MIB, pattern(2, 131072)))
    content = kit.content("disk0")
    begin, *_, done = kit.events()
    entry = done["disks"][0]
    equal([entry[k] for k in ("kind", "stored", "zero")], ["incremental", 3 * 65536, 2 * 65536])
    equal(begin["disks"][0]["to-read"] <= 4 * 65536, True)
    kit.check(done["point"], "disk0", content)
    entry = kit.events()[-1]["disks"][0]
    equal([entry[k] for k in ("kind", "read", "stored", "zero")], ["incremental", 0, 0, 0])
    kit.d.stop()


@test(needs=["qemu-img"])
def the_instant_is_one(tmp):
    "what is written while a backup reads is in the next point and not in this one"
    kit = Kit(tmp, "disk0", "disk1")
    for name in kit.disks:
        kit.write(name, (0, pattern(name, 4 * MIB)))
    before = [kit.content(name) for name in kit.disks]
    p = subprocess.Popen(kit.command("--json", "--rate=16M", "--name=one"), stdout=subprocess.PIPE, text=True)
    while json.loads(p.stdout.readline())["event"] != "begin":
        pass  # on a slow machine, progress comes before
    for name in kit.disks:
        kit.write(name, (3 * MIB, pattern(3, MIB)), (7 * MIB, pattern(4, 1000)))
    p.communicate(timeout=PATIENCE)
    equal(p.returncode, 0)
    for name, content in zip(kit.disks, before):
        kit.check("one", name, content)
    kit.backup("--name=two")
    equal(kit.kinds("two"), ["incremental"] * 2)
    for name in kit.disks:
        kit.check("two", name, kit.content(name))
    kit.d.stop()


@test(needs=["qemu-img"])
def kills_leave_the_next_run_right(tmp):
    "client or daemon killed at any moment: points are whole or not there, and the next increment is right"
    kit = Kit(tmp, "disk0")
    rnd = random.Random(7)
    kit.write("disk0", (0, pattern(0, 4 * MIB)))
    kit.backup()
    known = {kit.points()[0]: kit.content("disk0")}
    for i in range(14):
        kit.write("disk0", *[(rnd.randrange(SIZE // 4096) * 4096, pattern((i, n), 4096)) for n in range(20)])
        content = kit.content("disk0")
        daemon = i % 3 == 2
        p = subprocess.Popen(kit.command(*rnd.choice(([], ["--rate=1M"]))), stdout=subprocess.PIPE,
                             stderr=subprocess.STDOUT)
        time.sleep(rnd.random() * 0.3)
        if daemon:
            kit.d.kill()
        else:
            p.send_signal(rnd.choice((signal.SIGKILL, signal.SIGINT, signal.SIGTERM)))
        out = p.communicate(timeout=PATIENCE)[0].decode()
        if daemon:
            kit.start()
        new = [name for name in kit.points() if name not in known]
        equal(len(new) <= 1, True, out)
        if p.returncode == 0:
            equal(len(new), 1, out)
        for name in new:
            known[name] = content
    kit.write("disk0", (SIZE - 100, b"the end"))
    kit.backup()
    equal(kit.kinds(), ["incremental"])
    known[kit.points()[-1]] = kit.content("disk0")
    for name, content in known.items():
        kit.check(name, "disk0", content)
    run(TIDEMARK, "prune", kit.repo, "--keep=last=3")
    known = {name: known[name] for name in sorted(known)[-3:]}
    for name, content in known.items():
        kit.check(name, "disk0", content)
    equal(sorted(n for n in os.listdir(kit.repo) if os.path.isdir(os.path.join(kit.repo, n))), sorted(known))
    equal(len(kit.checkpoints("disk0")), 1)
    equal(kit.d.qmp("query-backups"), [])
    equal([s["id"] for s in kit.d.qmp("query-nbd-servers")], ["default"])
    kit.d.stop()


@test(needs=["qemu-img"])
def disks_that_are_set_back_with_their_bitmaps(tmp):
    "an increment stands on the newest point, whose blocks it reads again, dirty or not"
    path = os.path.join(tmp, "disk0.qcow2")
    run("qemu-img", "create", "-q", "-f", "qcow2", path, str(SIZE))
    args = ["--blockdev", "driver=qcow2,node-name=disk0,file.driver=file,file.filename=" + path,
            "--export", "type=nbd,id=e,node-name=disk0,name=disk0,writable=on"]
    kit = Kit(tmp)
    kit.disks = ("disk0",)
    kit.d.stop()
    kit.args = args
    kit.start()
    kit.write("disk0", (0, pattern(1, MIB)))
    kit.backup("--name=a")
    kit.d.stop()
    for f in os.listdir(tmp):
        if f.startswith("disk0.qcow2"):
            shutil.copyfile(os.path.join(tmp, f), os.path.join(tmp, "saved." + f))
    kit.start()
    kit.write("disk0", (4 * MIB, pattern(2, MIB)))
    kit.backup("--name=b")
    kit.d.stop()
    for f in os.listdir(tmp):
        if f.startswith("disk0.qcow2"):
            os.unlink(os.path.join(tmp, f))
    for f in os.listdir(tmp):
        if f.startswith("saved."):
            os.rename(os.path.join(tmp, f), os.path.join(tmp, f[len("saved."):]))
    kit.start()
    kit.write("disk0", (2 * MIB, b"after"))
    kit.backup("--name=c")
    h = kit.d.nbd()
    content = h.pread(SIZE, 0)
    h.shutdown()
    kit.check("c", "disk0", content)
    if kit.kinds("c") == ["incremental"]:
        equal(kit.manifest("c")["disks"][0]["parent"], "b")
    run(TIDEMARK, "prune", kit.repo, "--keep=last=1")
    kit.check("c", "disk0", content)
    kit.d.stop()


@test
def reasons_for_a_full(tmp):
    "no point, no checkpoint, resized, a file of the chain missing: a full, with the reason, and status 0"
    kit = Kit(tmp, "disk0")

    def full(reason, *args):
        p = kit.backup(*args)
        matches(p.stdout + p.stderr, reason)
        equal(kit.kinds(), ["full"])
        return p

    p = kit.backup("--incremental", check=False)
    equal((p.returncode, os.path.exists(kit.repo)), (1, False))
    matches(p.stderr, "Could not open repository '%s': No such file" % kit.repo)
    equal(full("disk0: full, the repository has no point of it yet").stderr, "")
    equal(full("as --full says", "--full").stderr, "")
    kit.d.qmp("block-dirty-bitmap-remove", node="disk0", name=kit.checkpoints("disk0")[0])
    full("warning: disk0: full, because the daemon has no checkpoint of point '.*'")
    kit.d.qmp("block-dirty-bitmap-disable", node="disk0", name=kit.checkpoints("disk0")[0])
    p = kit.backup("--incremental", check=False)
    equal(p.returncode, 1)
    matches(p.stderr, "can't have an increment: checkpoint '.*' was disabled; nothing was changed")
    full("warning: disk0: full, because checkpoint '.*' was disabled")
    equal(len(kit.checkpoints("disk0")), 1)
    kit.d.qmp("block_resize", node_name="disk0", size=SIZE + MIB)
    full("warning: disk0: full, because its size has changed from %d to %d bytes since" % (SIZE, SIZE + MIB))
    kit.backup()
    equal(kit.kinds(), ["incremental"])
    os.unlink(os.path.join(kit.repo, kit.points()[-1], "disk0.hashes"))
    full("warning: disk0: full, because point '.*' of its chain lacks a file of it")
    kit.d.stop()


@test
def chains_end_with_a_full(tmp):
    "after 200 images of one chain, a full"
    kit = Kit(tmp, "disk0")
    for name in ("p1", "p2"):
        kit.backup("--name=" + name)
    last = kit.manifest("p2")
    checkpoint = last["disks"][0]["source"].pop("checkpoint")
    for i in range(3, 201):
        here = os.path.join(kit.repo, "p%d" % i)
        os.mkdir(here)
        for name in ("disk0.qcow2", "disk0.hashes"):
            os.link(os.path.join(kit.repo, "p2", name), os.path.join(here, name))
        last.update(point="p%d" % i, instant=last["instant"] + 1)
        last["time"] = last["time"][:20] + "%09dZ" % (last["instant"] % 10**9)
        last["disks"][0]["parent"] = "p%d" % (i - 1)
        last["disks"][0].pop("parent-id", None)
        if i == 200:
            last["disks"][0]["source"]["checkpoint"] = checkpoint
        last.pop("sha256", None)
        last["sha256"] = hashlib.sha256((json.dumps(last, indent=2) + "\n").encode()).hexdigest()
        with open(os.path.join(here, "manifest.json"), "w") as f:
            f.write(json.dumps(last, indent=2) + "\n")
    p = kit.backup("--name=next")
    matches(p.stderr, "warning: disk0: full, because the chain of point 'p200' has 200 images")
    equal(kit.kinds("next"), ["full"])
    kit.backup()
    equal(kit.manifest(kit.points()[-1])["disks"][0]["parent"], "next")
    kit.d.stop()


@test
def replaced_disks_are_noticed(tmp):
    "a raw disk that was replaced, or written by somebody else, has a full, with the reason"
    kit = Kit(tmp, "disk0")
    kit.backup()
    kit.d.stop()
    image(os.path.join(tmp, "new.img"), SIZE, [(MIB, b"new")])
    os.rename(os.path.join(tmp, "new.img"), os.path.join(tmp, "disk0.img"))
    kit.start()
    p = kit.backup()
    matches(p.stderr, "warning: disk0: full, because checkpoint '.*' is inconsistent: the disk was ")
    equal(kit.kinds(), ["full"])
    equal(len(kit.checkpoints("disk0")), 1)
    kit.backup()
    equal(kit.kinds(), ["incremental"])
    kit.d.stop()


@test
def names_and_usage(tmp):
    "disks are found by node or export, named by NAME=DISK; what can't be is refused before anything is done"
    kit = Kit(tmp, "disk0", "disk1")
    kit.backup("--name=one", disks=["exp-disk0", "second=disk1"])
    equal([d["name"] for d in kit.manifest("one")["disks"]], ["exp-disk0", "second"])

    def refused(status, message, *args, disks=("disk0",)):
        p = kit.backup(*args, check=False, disks=disks)
        equal(p.returncode, status, p.stderr)
        matches(p.stderr, message)

    refused(1, "the daemon has no disk 'disk2': did you mean 'disk", disks=["disk2"])
    refused(2, "would both be disk 'a' of the point", disks=["a=disk0", "a=disk1"])
    refused(1, "'exp-disk0' and 'disk0' are the same disk|'disk0' and 'exp-disk0' are the same disk",
            disks=["disk0", "exp-disk0"])
    refused(2, "use NAME=DISK to name it", disks=["#block7"])
    refused(2, "is a file, not a disk .*: .tidemark serve %s. makes it one" % __file__, disks=[__file__])
    refused(2, "can't have one instant", disks=["disk0", "nbd://localhost"])
    refused(2, "only one of", "--full", "--auto")
    refused(2, "neither zstd nor zlib", "--compress=lz4")
    refused(2, "--bitmap is for NBD URIs only", "--bitmap=x")
    refused(2, "point", "--name=../up")
    refused(2, "'latest' is not the name of a point", "--name=latest")
    refused(1, "already", "--name=one")
    refused(1, "no daemon at socket", "--socket=" + os.path.join(tmp, "none"))
    equal(kit.points(), ["one"])
    equal(kit.d.qmp("query-backups"), [])
    kit.d.stop()


@test
def copies_of_a_repository(tmp):
    "cp -a of a repository: a backup into the copy leaves the other one's running backup and checkpoints alone"
    kit = Kit(tmp, "disk0")
    original, copy = kit.repo, os.path.join(tmp, "copy")
    kit.write("disk0", (0, pattern(1, 4 * MIB)))
    kit.backup("--name=a")
    run("cp", "-a", original, copy)
    kit.write("disk0", (0, pattern(2, 2 * MIB)))
    p = subprocess.Popen(kit.command("--json", "--rate=1M", "--name=b"), stdout=subprocess.PIPE, text=True)
    while json.loads(p.stdout.readline())["event"] != "begin":
        pass
    p.send_signal(signal.SIGSTOP)
    running = [b["id"] for b in kit.d.qmp("query-backups")]
    kit.repo = copy
    q = kit.backup("--name=c")
    matches(q.stderr, "^tidemark: warning: disk0: full, because checkpoint 'a@.*' is in use by another operation$")
    equal([b["id"] for b in kit.d.qmp("query-backups")], running)
    p.send_signal(signal.SIGCONT)
    out = p.communicate(timeout=PATIENCE)[0]
    equal(p.returncode, 0)
    shown = [e for e in map(json.loads, out.splitlines()) if e["event"] == "progress" and "rate" in e]
    equal(all(abs(e["left"] - (e["total"] - e["done"]) / e["rate"]) < 1.1 for e in shown), True, out)
    equal(len(shown) > 0, True, out)
    equal(sorted(n[0] for n in kit.checkpoints("disk0")), ["b", "c"])
    for i, kit.repo in enumerate((original, copy, original, copy)):
        kit.write("disk0", (5 * MIB + i * 65536, b"x"))
        equal(kit.backup("--incremental").stderr, "")
    equal(len(kit.checkpoints("disk0")), 2)
    kit.d.stop()


@test
def one_at_a_time(tmp):
    "a second run on the repository says who has it, status 4, or waits"
    kit = Kit(tmp, "disk0")
    kit.write("disk0", (0, pattern(1, 4 * MIB)))
    p = subprocess.Popen(kit.command("--json", "--rate=4M"), stdout=subprocess.PIPE, text=True)
    p.stdout.readline()
    p.send_signal(signal.SIGSTOP)
    second = kit.backup(check=False)
    equal(second.returncode, 4, second.stderr)
    matches(second.stderr, "tidemark backup")
    p.send_signal(signal.SIGCONT)
    third = kit.backup("--wait=60")
    p.communicate(timeout=PATIENCE)
    equal((p.returncode, third.returncode), (0, 0))
    equal([kit.kinds(n) for n in kit.points()], [["full"], ["incremental"]])
    kit.d.stop()


@test
def errors_leave_everything_as_it_was(tmp):
    "a target that takes no more, a source that can't be read, a scratch that is full: no point, and the next is right"
    kit = Kit(tmp, "disk0")
    kit.backup()
    kit.write("disk0", (0, pattern(1, 4 * MIB)))
    before = kit.checkpoints("disk0")
    p = run("prlimit", "--fsize=1000000", *kit.command(), check=False)
    equal(p.returncode, 1)
    matches(p.stderr, "disk 'disk0': .*File too large; no point was added to '.*', and checkpoints are as before")
    equal(kit.checkpoints("disk0"), before)
    equal(len(kit.points()), 1)
    equal(len([n for n in os.listdir(kit.repo) if os.path.isdir(os.path.join(kit.repo, n))]), 1)

    p = kit.backup("--scratch", os.path.join(tmp, "none"), check=False)
    equal(p.returncode, 1)
    matches(p.stderr, "see --scratch.*No such file")

    p = subprocess.Popen(kit.command("--json", "--rate=200k", "--scratch-max=64k"), stdout=subprocess.PIPE,
                         stderr=subprocess.PIPE, text=True)
    p.stdout.readline()
    kit.write("disk0", *[(n * MIB, b"over" * 32768) for n in range(4)])
    out, err = p.communicate(timeout=PATIENCE)
    equal(p.returncode, 1)
    matches(err, r"scratch")
    equal(json.loads(out.splitlines()[-1])["event"], "failed")
    equal(kit.checkpoints("disk0"), before)

    kit.backup()
    equal(kit.kinds(), ["incremental"])
    if have("qemu-img"):
        kit.check(kit.points()[-1], "disk0", kit.content("disk0"))
    kit.d.stop()


@test
def the_target_is_full(tmp):
    "a full file system: no point, nothing left, and room again"
    kit = Kit(tmp, "disk0")
    kit.write("disk0", (0, pattern(1, 6 * MIB)))
    os.mkdir(kit.repo)
    if os.geteuid() or run("mount", "-t", "tmpfs", "-o", "size=4M", "tmpfs", kit.repo, check=False).returncode:
        kit.d.stop()
        skip("can't mount a small file system")
    try:
        p = kit.backup(check=False)
        equal(p.returncode, 1)
        matches(p.stderr, "No space left on device; no point was added")
        equal(kit.points(), [])
        equal(kit.checkpoints("disk0"), [])
        h = kit.d.nbd()
        h.zero(5 * MIB, 0)
        h.shutdown()
        kit.backup()
        equal(kit.kinds(), ["full"])
    finally:
        run("umount", kit.repo)
    kit.d.stop()


@test
def a_read_error_names_the_disk(tmp):
    "EIO of the source: status 1, the disk and the offset are named"
    config = os.path.join(tmp, "rules")
    with open(config, "w") as f:
        f.write('[inject-error]\nevent = "none"\niotype = "read"\nerrno = "5"\nsector = "4096"\n')
    path = image(os.path.join(tmp, "disk0.img"), SIZE, [(0, pattern(1, 4 * MIB))])
    kit = Kit(tmp)
    kit.d.stop()
    kit.disks = ("disk0",)
    kit.args = ["--blockdev", "driver=blkdebug,node-name=disk0,config=%s,image.driver=file,image.filename=%s"
                % (config, path)]
    kit.start()
    p = kit.backup(check=False)
    equal(p.returncode, 1)
    matches(p.stderr, "disk 'disk0': reading nbd.*at offset 2097152: Input/output error; no point was added")
    equal(kit.points(), [])
    kit.d.stop()


@test
def daemons_without_a_server_that_can_be_used(tmp):
    "without a unix-socket NBD server a private one is started, and taken down again, also after a kill"
    kit = Kit(tmp, "disk0", export=False)
    kit.d.stop()
    args = kit.args

    class Bare(Daemon):
        def __init__(self, tmp, *args):
            super().__init__(tmp, *args, nbd=False)

    kit.d = Bare(tmp, *args)
    kit.backup()
    equal(kit.d.qmp("query-nbd-servers"), [])
    p = subprocess.Popen(kit.command("--json", "--rate=1", "--full"), stdout=subprocess.PIPE, text=True)
    wait_until(lambda: kit.d.qmp("query-backups"), "the backup")
    equal(len(kit.d.qmp("query-nbd-servers")), 1)
    p.kill()
    p.communicate()
    equal(len(kit.d.qmp("query-nbd-servers")), 1)
    kit.backup()
    equal(kit.kinds(), ["incremental"])
    equal(kit.d.qmp("query-nbd-servers"), [])
    equal([f for f in os.listdir(tmp) if f.startswith("tidemark-")], [])
    kit.d.stop()


@test
def hooks_run_around_the_backup(tmp):
    "--before and --after: their environment, and what their failing means"
    kit = Kit(tmp, "disk0")
    log = os.path.join(tmp, "log")
    say = 'echo "%s $TIDEMARK_POINT $TIDEMARK_RESULT" >>' + log
    p = kit.backup("--name=a", "--before", say % "before" + "; echo noise", "--after", say % "after")
    equal("noise" in p.stdout, False)
    p = kit.backup("--name=b", "--before", "exit 3", "--after", say % "after", check=False)
    equal(p.returncode, 1)
    matches(p.stderr, "the command of --before ended with status 3; no point was added")
    p = kit.backup("--name=c", "--after", "kill -9 $$", check=False)
    equal(p.returncode, 3)
    matches(p.stderr, "point 'c' is complete, but the command of --after was ended by signal 9")
    with open(log) as f:
        equal(f.read().split("\n"), ["before a ", "after a done", "after b failed", ""])
    equal(kit.points(), ["a", "c"])
    equal(kit.kinds("c"), ["incremental"])
    kit.d.stop()


@test
def guests_are_frozen_for_the_instant(tmp):
    "--qga freezes around the instant and thaws on every way out"
    kit = Kit(tmp, "disk0")
    agent = Agent(os.path.join(tmp, "qga"))
    kit.backup("--qga", os.path.join(tmp, "qga"))
    equal([w for w in agent.log if "sync" not in w], ["guest-fsfreeze-" + w for w in ("status", "freeze", "thaw")])
    equal(agent.frozen, False)
    p = kit.backup("--qga", os.path.join(tmp, "qga"), disks=["disk0", "no=disk0"], check=False)
    equal((p.returncode, agent.frozen), (1, False))
    p = kit.backup("--qga", os.path.join(tmp, "none"), check=False)
    equal(p.returncode, 1)
    matches(p.stderr, "Could not freeze the guest: .*none.*; no point was added")

    deaf = Agent(os.path.join(tmp, "deaf"), silent=["guest-sync-delimited"])
    refusing = Agent(os.path.join(tmp, "refusing"), failing=["guest-fsfreeze-freeze"])
    for name, reason in (("deaf", "does not answer"), ("refusing", "guest-fsfreeze-freeze: can not")):
        p = kit.backup("--freeze-max=1", "--qga", os.path.join(tmp, name), check=False)
        equal(p.returncode, 1)
        matches(p.stderr, "Could not freeze the guest: .*" + reason)
    equal(refusing.log[-1], "guest-fsfreeze-thaw")
    equal((deaf.frozen, len(kit.points())), (False, 1))
    agent.frozen = True  # by somebody else: theirs to thaw
    p = kit.backup("--qga", os.path.join(tmp, "qga"), check=False)
    equal((p.returncode, agent.frozen, len(kit.points())), (1, True, 1))
    matches(p.stderr, "Could not freeze the guest: .*somebody else has frozen it, and it was left so")
    kit.d.stop()


class Monitor(threading.Thread):
    """A QMP socket before that of a daemon. One command is not answered, or when go_on is set, or by the end."""

    def __init__(self, path, daemon_, silent=None, closing=None):
        super().__init__(daemon=True)
        self.d, self.silent, self.closing, self.go_on = daemon_, silent, closing, None
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(path)
        self.listener.listen(1)
        self.start()

    def run(self):
        while True:
            c, _ = self.listener.accept()
            real = self.d.new_monitor()
            with c, contextlib.suppress(ConnectionError):  # killed before it has read the answer
                self.answer(c, real)
            real.close()

    def answer(self, c, real):
        c.sendall(json.dumps(real.greeting).encode() + b"\n")
        for line in c.makefile("rb"):
            request = json.loads(line)
            if request["execute"] == self.closing:
                c.shutdown(socket.SHUT_RDWR)
                break
            if request["execute"] != self.silent or self.go_on and self.go_on.wait():
                first = request["execute"] == "qmp_capabilities"
                answer = {} if first else real(request["execute"], request.get("arguments"))
                c.sendall(json.dumps({"return": answer}).encode() + b"\n")


@test(needs=["qemu-img"])
def points_stay_if_the_daemon_is_not_notified(tmp):
    "the daemon is lost after the point is there: status 3, and the next increment is right all the same"
    kit = Kit(tmp, "disk0")
    kit.write("disk0", (0, pattern(1, MIB)))
    kit.backup("--name=a")
    kit.write("disk0", (4 * MIB, b"b"))
    path = os.path.join(tmp, "closing")
    Monitor(path, kit.d, closing="backup-end")
    p = kit.backup("--name=b", "--socket", path, check=False)
    equal(p.returncode, 3)
    matches(p.stderr, "point 'b' is complete, but the daemon did not learn of it, so that the next one may be larger: ")
    kit.check("b", "disk0", kit.content("disk0"))
    kit.write("disk0", (6 * MIB, b"c"))
    equal([e["disks"][0]["read"] for e in kit.events("--name=c") if e["event"] == "done"], [2 * 65536])
    equal(kit.manifest("c")["disks"][0].get("parent"), "b")
    kit.check("c", "disk0", kit.content("disk0"))
    run(TIDEMARK, "prune", kit.repo, "--keep=last=1")
    equal(kit.points(), ["c"])
    kit.check("c", "disk0", kit.content("disk0"))
    kit.d.stop()


@test
def signals_while_it_waits(tmp):
    "Ctrl-C while another run has the repository: 130, and nothing was changed"
    kit = Kit(tmp, "disk0")
    kit.write("disk0", (0, pattern(1, MIB)))
    first = subprocess.Popen(kit.command("--json", "--rate=256k"), stdout=subprocess.PIPE, text=True)
    first.stdout.readline()
    first.send_signal(signal.SIGSTOP)
    p = subprocess.Popen(kit.command("--wait=-1"), stderr=subprocess.PIPE, text=True)
    matches(p.stderr.readline(), r"is locked by tidemark backup \(process %d on .*\): waiting" % first.pid)
    p.send_signal(signal.SIGINT)
    matches(p.communicate(timeout=PATIENCE)[1], "interrupted: nothing was changed")
    equal(p.returncode, 130)
    first.send_signal(signal.SIGTERM)
    first.send_signal(signal.SIGCONT)
    first.communicate(timeout=PATIENCE)
    equal(first.returncode, 143)
    equal((kit.points(), kit.checkpoints("disk0")), ([], []))
    kit.d.stop()


@test
def signals_while_a_server_hangs(tmp):
    "Ctrl-C while an NBD server does not answer, at all or for its block status: the first one ends the run"
    kit = Kit(tmp, "disk0")
    for swallow, after in (b"", 0), (b"", 1), (BLOCK_STATUS, 0):
        deaf = Deaf(os.path.join(tmp, "deaf"), kit.d.nbd_path, swallow, after)
        p = subprocess.Popen([TIDEMARK, "backup", "x=" + deaf.uri(), kit.repo], stderr=subprocess.PIPE, text=True)
        deaf.end(p, signal.SIGTERM, "interrupted(: nothing was changed|; no point was added)")
        equal(kit.points(), [])
    kit.d.stop()


@test
def guests_thaw_whatever_happens(tmp):
    "a daemon that hangs in the instant; the client, the process that keeps it frozen, or both are killed: it thaws"
    kit = Kit(tmp, "disk0")
    path = os.path.join(tmp, "qga")
    agent = Agent(path)
    hanging = os.path.join(tmp, "hanging")
    monitor = Monitor(hanging, kit.d, silent="backup-begin")
    for signum, limit in ((signal.SIGKILL, 30), (None, 1)):
        p = subprocess.Popen(kit.command("--socket", hanging, "--qga", path, "--freeze-max", str(limit)),
                             stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        wait_until(lambda: agent.frozen, "the guest to freeze")
        if signum:
            p.send_signal(signum)
        wait_until(lambda: not agent.frozen, "the guest to thaw")
        p.kill()
        p.wait()
    kit.backup("--qga", path)
    monitor.go_on = threading.Event()
    p = subprocess.Popen(kit.command("--socket", hanging, "--qga", path), stderr=subprocess.PIPE, text=True)
    wait_until(lambda: agent.frozen, "the guest to freeze")
    with open("/proc/%d/task/%d/children" % (p.pid, p.pid)) as f:
        os.kill(int(f.read()), signal.SIGKILL)
    wait_until(lambda: not agent.frozen, "the guest to thaw")
    monitor.go_on.set()
    matches(p.communicate(timeout=PATIENCE)[1], "process that keeps the guest frozen is gone; the guest was thawed")
    equal(p.returncode, 1)
    equal([f for f in os.listdir(tmp) if "frozen" in f], [])
    monitor.go_on = None
    p = subprocess.Popen(kit.command("--socket", hanging, "--qga", path), stderr=subprocess.DEVNULL)
    wait_until(lambda: agent.frozen, "the guest to freeze")
    q = kit.backup("--qga", path, "--name=x", disks=["disk0"], check=False)
    equal((q.returncode, agent.frozen), (4, True))  # of the repository
    with open("/proc/%d/task/%d/children" % (p.pid, p.pid)) as f:
        both = [p.pid, int(f.read())]
    for signum in (signal.SIGSTOP, signal.SIGKILL):
        for pid in both:
            os.kill(pid, signum)
    p.wait()
    equal(agent.frozen, True)
    q = kit.backup("--qga", path)
    matches(q.stderr, "an earlier backup was killed and left the guest of agent '.*' frozen: it was thawed")
    equal((agent.frozen, [f for f in os.listdir(tmp) if "frozen" in f]), (False, []))
    agent.frozen = True  # by somebody else
    equal(kit.backup("--qga", path, check=False).returncode, 1)
    equal((agent.frozen, [f for f in os.listdir(tmp) if "frozen" in f]), (True, []))
    kit.d.stop()


@test
def servers_with_a_bitmap(tmp):
    "an NBD URI with --bitmap: increments of what the bitmap has, fulls without it"
    kit = Kit(tmp, "disk0")
    kit.write("disk0", (0, pattern(1, MIB)))
    repo = kit.repo
    kit.d.qmp("block-dirty-bitmap-add", node="disk0", name="b0")

    def backup(*args, name):
        return run(TIDEMARK, "backup", "--name", name, *args, "x=" + kit.d.uri(), repo)

    backup("--bitmap=b0", name="a")
    kit.write("disk0", (2 * MIB, pattern(2, 65536)), (0, None))
    kit.d.qmp("block-dirty-bitmap-disable", node="disk0", name="b0")
    kit.d.qmp("block-export-dirty-bitmap", id="exp-disk0", bitmaps=["b0"])
    p = backup("--bitmap=b0", name="b")
    matches(p.stdout, "x: incremental since point 'a', ")
    entry = kit.manifest("b")["disks"][0]
    equal([entry["kind"], entry["stored"], entry["zero"]], ["incremental", 65536, 65536])
    p = backup("--bitmap=b1", name="c")
    matches(p.stderr, "warning: x: full, because .*no bitmap 'b1'")
    equal(backup(name="d").stderr, "")
    equal(kit.kinds("d"), ["full"])
    if have("qemu-img"):
        for point in "bcd":
            kit.check(point, "x", kit.content("disk0"))
    kit.d.stop()


@test(needs=[QSD, "qemu-img"])
def another_server_with_a_bitmap(tmp):
    "an export of qemu-storage-daemon with its bitmap: three increments, with kills of the client"
    path = image(os.path.join(tmp, "disk0.img"), SIZE, [(MIB, pattern(1, 2 * MIB))])
    repo = os.path.join(tmp, "repo")
    with Daemon(tmp, "--blockdev", "driver=file,node-name=disk0,filename=" + path, binary=QSD) as d:
        kit = Kit.__new__(Kit)
        kit.tmp, kit.repo, kit.d = tmp, repo, d

        def export(*bitmaps):
            d.qmp("block-export-add", type="nbd", id="e", node_name="disk0", name="disk0",
                  writable=True, bitmaps=list(bitmaps))

        def new_bitmap(name):
            d.qmp("block-dirty-bitmap-add", node="disk0", name=name)

        new_bitmap("b0")
        export()
        run(TIDEMARK, "backup", d.uri(), repo, "--name=p0", "--incremental", check=False)
        run(TIDEMARK, "backup", d.uri(), repo, "--name=p0")
        for i in range(3):
            h = d.nbd()
            h.pwrite(pattern(i, 70000), i * 2 * MIB + 5)
            h.zero(131072, MIB + i * 131072)
            h.shutdown()
            new_bitmap("b%d" % (i + 1))
            d.qmp("block-dirty-bitmap-disable", node="disk0", name="b%d" % i)
            d.unexport("e")
            wait_until(lambda: not d.qmp("query-block-exports"), "the export to end")
            export("b%d" % i)
            command = [TIDEMARK, "backup", d.uri(), repo, "--name=p%d" % (i + 1), "--bitmap=b%d" % i, "--incremental"]
            p = subprocess.Popen(command + ["--rate=1"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            time.sleep(0.1)
            p.kill()
            p.wait()
            if "p%d" % (i + 1) not in kit.points():
                run(*command)
            h = d.nbd()
            kit.check("p%d" % (i + 1), "disk0", h.pread(SIZE, 0))
            h.shutdown()
        equal([kit.kinds(p) for p in kit.points()], [["full"]] + [["incremental"]] * 3)


@test(needs=[QSD, "qemu-img"])
def fleecing_exports_with_a_bitmap(tmp):
    "an export of copy-before-write with a bitmap refuses all questions about what is clean, whatever its granularity"
    for binary in QSD, TIDEMARKD:
        for granularity in 4096, 65536:
            fleecing_export(os.path.join(tmp, "%s%d" % (binary[-1], granularity)), binary, granularity)


def fleecing_export(tmp, binary, granularity):
    os.mkdir(tmp)
    path = image(os.path.join(tmp, "disk0.img"), SIZE, [(MIB, pattern(1, 2 * MIB))])
    repo, scratch = os.path.join(tmp, "repo"), image(os.path.join(tmp, "scratch"), SIZE)
    with Daemon(tmp, "--blockdev", "driver=file,node-name=disk0,filename=" + path, binary=binary) as d:
        d.qmp("block-export-add", type="nbd", id="e", node_name="disk0", name="f", writable=True)
        run(TIDEMARK, "backup", "disk0=" + d.uri("f"), repo, "--name=p0")
        d.qmp("block-dirty-bitmap-add", node="disk0", name="b", granularity=granularity)
        h = d.nbd("f")
        h.pwrite(pattern(2, 200000), 5 * MIB)
        h.pwrite(pattern(3, 512), 2 * MIB + 20480)
        h.zero(131072, MIB)
        content = h.pread(SIZE, 0)
        h.shutdown()
        d.unexport("e")
        wait_until(lambda: not d.qmp("query-block-exports"), "the export to end")
        d.qmp("blockdev-add", driver="file", node_name="scratch", filename=scratch)
        d.qmp("blockdev-add", driver="copy-before-write", node_name="cbw", file="disk0", target="scratch",
              bitmap={"node": "disk0", "name": "b"})
        d.qmp("blockdev-add", driver="snapshot-access", node_name="snap", file="cbw")
        d.qmp("block-export-add", type="nbd", id="f", node_name="snap", name="f",
              bitmaps=[{"node": "disk0", "name": "b"}])
        run(TIDEMARK, "backup", "disk0=" + d.uri("f"), repo, "--name=p1", "--bitmap=b", "--incremental")
    kit = Kit.__new__(Kit)
    kit.tmp, kit.repo = tmp, repo
    kit.check("p1", "disk0", content)


@test
def damaged_chains_are_not_gone_on_with(tmp):
    "verify has found damage: the next one is a full, with the reason"
    kit = Kit(tmp, "disk0")
    kit.write("disk0", (0, pattern(1, MIB)))
    kit.backup("--name=a")
    kit.backup("--name=b")
    with open(os.path.join(kit.repo, "a", "disk0.qcow2"), "r+b") as f:
        f.seek(-70000, 2)
        f.write(b"damage")
    equal(tidemark("verify", kit.repo, check=False).returncode, 5)
    p = kit.backup("--name=c")
    matches(p.stderr, "warning: disk0: full, because 'tidemark verify' has found damage in point '.' of its chain")
    kit.backup()
    equal(kit.kinds(), ["incremental"])
    kit.d.stop()


@test
def progress_has_a_line_for_each_disk(tmp):
    "on a terminal a line a disk, with rate and time left; without one no escape sequences"
    kit = Kit(tmp, "disk0", "second")
    for name in kit.disks:
        kit.write(name, (0, pattern(name, 4 * MIB)))
    parent, child = pty.openpty()
    p = subprocess.Popen(kit.command("--rate=6M"), stdout=subprocess.DEVNULL, stderr=child,
                         env=dict(os.environ, TERM="xterm", COLUMNS="100", LINES="20"))
    os.close(child)
    shown = b""
    while True:
        try:
            data = os.read(parent, 4096)
        except OSError:
            break
        shown += data
    text = shown.decode()
    equal(p.wait(PATIENCE), 0, text)
    for name in (r"disk0   ", "second  "):
        matches(text, name + r"full +\d+ % .* of 4 MiB  .*/s  0:0\d left")
    matches(text, r"\x1b\[1A")
    equal("\x1b" in kit.backup("--full", "--rate=16M").stderr, False)
    kit.d.stop()


@test
def lists_fit_in_80_columns(tmp):
    "with the names that points get by themselves, and verified; info says in words where a disk is from"
    kit = Kit(tmp, "system", size=512 * MIB)
    for _ in range(2):
        kit.backup()
    tidemark("verify", kit.repo)
    lines = tidemark("list", kit.repo).stdout.splitlines()
    equal([line for line in lines if len(line) > 80], [])
    matches(lines[0], "^Point +Disk +Size +Kind +Stored +Verified$")
    matches(lines[1], r"^20\d\d-\d\d-\d\dT\d\d-\d\d-\d\dZ(-2)? +system  512 MiB  full .* \d{4}-\d\d-\d\d$")
    kit.backup("--name", "mine")
    lines = tidemark("list", kit.repo).stdout.splitlines()
    matches(lines[0], "^Point +Time +Disk ")
    matches(lines[-1], r"^mine +\d{4}-\d\d-\d\d \d\d:\d\d  system .* never$")
    matches(tidemark("info", kit.repo, "mine").stdout,
            r"\n  source +a disk of a daemon, node system, file \S+/system\.img, checkpoint \S+\n")


main()
