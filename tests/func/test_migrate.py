#!/usr/bin/python3
# SPDX-FileCopyrightText: 2026 The Tidemark authors
# SPDX-License-Identifier: GPL-2.0-or-later
"""tidemark migrate: a disk goes to another daemon while clients write, and whatever dies meanwhile, no write is missing
in a bitmap."""
import functools
import json
import os
import random
import socket
import sys
import threading

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from harness import *  # noqa: E402,F403

MIB, G = 1 << 20, 65536
SIZE = 16 * MIB


def definition(path, **more):
    if path.endswith("qcow2"):
        return dict({"driver": "qcow2", "node-name": "disk0", "file": {"driver": "file", "filename": path}}, **more)
    return dict({"driver": "file", "node-name": "disk0", "filename": path}, **more)


def make(tmp, kind):
    path = image(os.path.join(tmp, "disk." + kind), SIZE)
    if kind == "qcow2":
        run("qemu-img", "create", "-q", "-f", "qcow2", path, str(SIZE))
    return path


def set_up(a, path, **more):
    a.qmp("blockdev-add", definition(path, **more))
    a.qmp("block-dirty-bitmap-add", node="disk0", name="kept", persistent=True)
    a.qmp("block-dirty-bitmap-add", node="disk0", name="here")
    a.qmp("block-export-add", {"type": "nbd", "id": "e", "node-name": "disk0", "name": "disk0", "writable": True,
                               "bitmaps": ["kept", "here"]})


class Client:
    """Writes at random; connects again to where the link leads when it is disconnected, and repeats what had no
    answer."""

    def __init__(self, link, seed):
        self.link, self.random, self.done, self.tried = link, random.Random(seed), {}, set()
        self.over = threading.Event()
        self.handle, self.n = None, 0

    def connect(self):
        import nbd
        h = nbd.NBD()
        try:
            h.connect_uri("nbd+unix:///disk0?socket=" + self.link)
        except nbd.Error:
            return None
        return h

    def write(self):
        """One write; however often it takes."""
        import nbd
        self.n += 1
        at = self.random.randrange(SIZE // G)
        self.tried.add(at)
        while not self.over.is_set():
            try:
                self.handle = self.handle or self.connect()
                if self.handle:
                    self.handle.pwrite(self.n.to_bytes(8, "little") * 512, at * G)
                    self.done[at] = self.n
                    return
            except nbd.Error as e:
                equal("not permitted" in str(e), False, "a client never sees a node that can't be written")
                self.handle = None
            time.sleep(0.002)

    def __call__(self):
        while not self.over.is_set():
            self.write()

    def stop(self):
        self.over.set()


def check(d, done, tried, exact=("kept", "here")):
    """Every write that was answered is there, and dirty; exact bitmaps have nothing that was not tried."""
    h = d.nbd("disk0", contexts=["qemu:dirty-bitmap:" + b for b in exact])
    for at, n in done.items():
        equal(int.from_bytes(h.pread(8, at * G), "little"), n, "granule %d" % at)
    for name in exact:
        got = {g for o, n in dirty(h, name) for g in range(o // G, (o + n - 1) // G + 1)}
        equal((sorted(set(done) - got), sorted(got - tried)), ([], []), "granules of bitmap '%s'" % name)
    h.shutdown()


def link_to(link, d):
    os.symlink(d.nbd_path, link + ".new")
    os.rename(link + ".new", link)


def migrate(a, b, *more, **kwargs):
    return run(TIDEMARK, "migrate", "disk0", "--socket", a.qmp_path, "--to", b.qmp_path, *more, **kwargs)


@test(needs=["qemu-img"])
def while_clients_write(tmp):
    "clients wait less than two seconds, no write is lost, and all bitmaps are exact at the other daemon"
    for kind in "raw", "qcow2":
        folder = os.path.join(tmp, kind)
        os.mkdir(folder)
        path, link, state = make(folder, kind), os.path.join(folder, "link"), os.path.join(folder, "state")
        with Daemon(folder, name="a") as a, Daemon(folder, name="b") as b:
            set_up(a, path)
            link_to(link, a)
            clients = [Client(link, 1), Client(link, 2)]
            clients[1].random = random.Random(2)

            def move():
                try:
                    wait_until(lambda: all(len(c.done) > 10 for c in clients), "writes")
                    switch = "ln -s %s %s.new && mv -T %s.new %s" % (b.nbd_path, link, link, link)
                    out = json.loads(migrate(a, b, "--json", "--state", state, "--switch", switch,
                                             "--max-pause", "60").stdout)
                    equal((out["node"], out["at"], out["back"], out["exports"]), ("disk0", b.qmp_path, False, 1))
                    print("# %s: clients had to wait %.3f s" % (kind, out["pause"]))
                    before = [c.n for c in clients]
                    wait_until(lambda: all(c.n > n + 10 for c, n in zip(clients, before)), "writes at the other daemon")
                finally:
                    for c in clients:
                        c.stop()
            in_threads(move, *clients)
            equal(a.qmp("query-block-exports"), [])
            equal([n["node-name"] for n in a.qmp("query-named-block-nodes") if n["node-name"] == "disk0"], [])
            equal(os.path.exists(state), False)
            last = {}
            for c in clients:  # two clients may have written the same granule: the later one is not known
                for at, n in c.done.items():
                    last.setdefault(at, []).append(n)
            check(b, {at: n[0] for at, n in last.items() if len(n) == 1 and all(
                at in c.done or at not in c.tried for c in clients)}, clients[0].tried | clients[1].tried)
            equal(b.bitmap("disk0", "here")["count"] >= len(last) * G, True)


@test
def what_can_not_be_moved(tmp):
    "a disk that the other daemon can't have stays where it is, with its exports and exact bitmaps"
    path, state = make(tmp, "raw"), os.path.join(tmp, "state")

    def stays(message, *more, status=1):
        p = migrate(a, b, "--state", state, *more, check=False)
        equal((p.returncode, p.stdout), (status, ""))
        matches(p.stderr, message)
        h = a.nbd("disk0")
        h.pwrite(b"x", 0)
        h.shutdown()
        equal([a.bitmap("disk0", n)["count"] for n in ("kept", "here")], [2 * G, 2 * G])
        equal(os.path.exists(state), False)

    with Daemon(tmp, name="a") as a, Daemon(tmp, name="b", nbd=False) as b:
        set_up(a, path)
        h = a.nbd("disk0")
        h.pwrite(b"x", 0)
        h.pwrite(b"x", SIZE - 1)
        h.shutdown()
        stays("the target has no NBD server")
        b.qmp("nbd-server-start", addr={"type": "unix", "data": {"path": os.path.join(tmp, "b.sock")}})
        b.qmp("blockdev-add", driver="null-co", node_name="disk0", size=SIZE)
        stays("node 'disk0' of the target is active")
        b.qmp("blockdev-del", node_name="disk0")
        b.qmp("blockdev-add", driver="null-co", node_name="disk0", size=2 * SIZE, active=False)
        stays("node 'disk0' has 16777216 bytes, that of the target 33554432")
        b.qmp("blockdev-del", node_name="disk0")
        b.qmp("blockdev-add", driver="null-co", node_name="disk0", size=SIZE, active=False)
        b.qmp("block-dirty-bitmap-add", node="disk0", name="here")
        stays("node 'disk0' of the target has a bitmap 'here'")
        b.qmp("block-dirty-bitmap-remove", node="disk0", name="here")
        stays("stays at .*Bitmap 'here' can't be imported into node 'disk0'")
        b.qmp("blockdev-del", node_name="disk0")
        stays("stays at .*the command of --switch ended with status 3", "--switch", "exit 3")
        stays("longer than --max-pause", "--max-pause", "0.000001")
        b.qmp("blockdev-add", driver="null-co", node_name="other", size=SIZE)
        b.qmp("block-export-add", {"type": "nbd", "id": "e", "node-name": "other", "name": "disk0"})
        stays("stays at .*'e' is already in use")
        equal([e["node-name"] for e in b.qmp("query-block-exports")], ["other"], "the export of another node stays")
        p = migrate(a, b, "--state", state, "--back", check=False)
        matches(p.stderr, "no move of node 'disk0' was interrupted")
        p = run(TIDEMARK, "migrate", "disk0", "--socket", a.qmp_path, "--to", a.qmp_path, check=False)
        equal(p.returncode, 2)


class Trap:
    """Does something when the Nth command of all proxies comes, before it is sent on or after it was answered."""

    def __init__(self, at, after):
        self.count, self.at, self.after, self.action = 0, at, after, None


class Proxy:
    """Between the command and a daemon."""

    def __init__(self, path, to, trap):
        self.path, self.to, self.trap = path, to, trap
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(path)
        self.listener.listen()
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self):
        while True:
            try:
                client, _ = self.listener.accept()
            except OSError:
                return
            threading.Thread(target=self.serve, args=(client,), daemon=True).start()

    def serve(self, client):
        server = socket.socket(socket.AF_UNIX)
        try:
            server.connect(self.to)
            answers = server.makefile("rb")
            client.sendall(answers.readline())
            for line in client.makefile("rb"):
                counts = b"qmp_capabilities" not in line
                self.trap.count += counts
                due = counts and self.trap.count == self.trap.at
                if due and not self.trap.after:
                    self.trap.action()
                server.sendall(line)
                reply = answers.readline()
                while reply and b'"event"' in reply:
                    reply = answers.readline()
                if due and self.trap.after:
                    self.trap.action()
                client.sendall(reply)
        except OSError:
            pass
        finally:
            client.close()
            server.close()

    def close(self):
        self.listener.close()


def one_death(tmp, who, at, after, back, stored):
    """Kills one of the three at that command; the same command then completes the move, or takes it back. Returns
    whether there was such a command."""
    path, state = make(tmp, "raw"), os.path.join(tmp, "state")
    daemons = {n: Daemon(tmp, name=n) for n in "ab"}
    set_up(daemons["a"], path, **({"bitmap-store": os.path.join(tmp, "store")} if stored else {}))
    done = {granule: granule + 1 for granule in range(0, 200, 7)}
    h = daemons["a"].nbd("disk0")
    for granule, n in done.items():
        h.pwrite(n.to_bytes(8, "little"), granule * G)
    h.flush()
    h.shutdown()
    trap = Trap(at, after)
    proxies = [Proxy(os.path.join(tmp, n + ".proxy"), daemons[n].qmp_path, trap) for n in "ab"]
    command = [TIDEMARK, "migrate", "disk0", "--socket", proxies[0].path, "--to", proxies[1].path, "--state", state,
               "--max-pause", "60"]
    started = threading.Event()
    trap.action = (lambda: (started.wait(), process.kill())) if who == "client" else lambda: daemons[who].kill()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    started.set()
    said = process.communicate(timeout=PATIENCE)[1]
    reached = trap.count >= at
    trap.at = 0
    if who in "ab" and reached:  # the machine is up again, with an empty daemon
        daemons[who] = Daemon(tmp, name=who)
    for _ in range(2):
        if os.path.exists(state):
            again = run(*command, *(["--back"] if back else []), check=False)
            said += again.stderr
    equal(os.path.exists(state), False, "the move is complete, or taken back (%s at %d): %s" % (who, at, said))
    where = [n for n in "ab" if has_disk(daemons[n])]
    # A source that died before it was asked to do anything comes back as its own configuration says.
    if not where:
        daemons["a"].qmp("blockdev-add", definition(path, **({"bitmap-store": os.path.join(tmp, "store")} if stored
                                                             else {})))
        daemons["a"].qmp("block-export-add", {"type": "nbd", "id": "e", "node-name": "disk0", "name": "disk0",
                                              "writable": True})
        where = ["a"]
    equal(len(where), 1, "daemons that can write")
    d = daemons[where[0]]
    h = d.nbd("disk0")
    h.pwrite(b"y", SIZE - 1)
    h.shutdown()
    for granule, n in done.items():
        h = d.nbd("disk0")
        equal(int.from_bytes(h.pread(8, granule * G), "little"), n)
        h.shutdown()
        break
    info, = [n for n in d.qmp("query-named-block-nodes") if n["node-name"] == "disk0"]
    for bitmap in info.get("dirty-bitmaps", []):
        if not bitmap.get("inconsistent"):
            equal(bitmap["count"] >= (len(done) + 1) * G, True, "%s after %s at %d" % (bitmap, who, at))
            if who == "client":
                equal(bitmap["count"], (len(done) + 1) * G, "%s is exact" % bitmap["name"])
    if who == "client" and not stored:
        equal({b["name"] for b in info["dirty-bitmaps"]}, {"kept", "here"}, "client at %d" % at)
    for p in proxies:
        p.close()
    for x in daemons.values():
        x.stop()
    return reached


def has_disk(d):
    return any(n["node-name"] == "disk0" and n["active"] for n in d.qmp("query-named-block-nodes"))


AT_ONCE = 6


def deaths(tmp, who, back=False, stored=False, after=False):
    first, reached = 1, [True]

    def case(at):
        folder = os.path.join(tmp, str(at))
        os.mkdir(folder)
        reached.append(one_death(folder, who, at, after, back, stored))

    while all(reached):
        reached = []
        in_threads(*(functools.partial(case, first + i) for i in range(AT_ONCE)))
        first += AT_ONCE
    equal(first > 15, True, "commands of a move")


@test
def the_command_is_killed(tmp):
    "wherever the command is killed, the same command completes the move, and all bitmaps are exact"
    deaths(tmp, "client")


@test
def the_command_is_killed_and_the_move_taken_back(tmp):
    "wherever the command is killed, --back brings the disk back, and all bitmaps are exact"
    deaths(tmp, "client", back=True, after=True)


@test
def the_command_is_killed_and_the_store_is_elsewhere(tmp):
    "the same where the store is not beside the disk: bitmaps are moved, or lost"
    deaths(tmp, "client", stored=True, after=True)


@test
def a_daemon_is_killed(tmp):
    "wherever a daemon is killed, the disk is at one of the two, and no bitmap lacks a write"
    for who in "ab":
        folder = os.path.join(tmp, who)
        os.mkdir(folder)
        deaths(folder, who, stored=who == "b")


main()
