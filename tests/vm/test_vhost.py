#!/usr/bin/python3
# SPDX-FileCopyrightText: 2026 The Tidemark authors
# SPDX-License-Identifier: GPL-2.0-or-later
# timeout: 1800
"""A guest whose root disk is an export of the type vhost-user-blk: fio writes and verifies in it while the daemon is
killed and started again, and backups are taken.

It takes two to four minutes on two idle processors without KVM. Lines that begin with # say how far it is."""
from harness import *
from guest import BOOT, Guest, System, disk_of, increment, install, kept, say, tree, vhost_disk

MIB = 1 << 20
KILLS = 5
SIZE = 320  # MiB: fio has many libraries


class Rounds:
    """The guest's rounds of fio, each of which has verified what it wrote."""

    def __init__(self, guest):
        self.guest = guest

    def done(self):
        self.guest.well()
        for line in self.guest.reports():
            if not line.startswith("verified "):
                fail("the guest reported: %s" % line)
        return len(self.guest.reports())

    def more(self, count):
        target = self.done() + count
        wait_until(lambda: self.done() >= target, "%d more rounds of fio" % count, timeout=BOOT)


class Chain:
    """Backups of the disk: each is the one before, with what is dirty since; and it must be what the point shows."""

    def __init__(self, tmp):
        self.tmp, self.number = tmp, 0
        self.path = os.path.join(tmp, "restored.img")

    def take(self, daemon):
        disk = {"node": "disk0", **({"from": "c%d" % (self.number - 1)} if self.number else {})}
        said, = daemon.qmp("backup-begin", id="b", disks=[disk], checkpoint="c%d" % self.number,
                           scratch={"directory": self.tmp})["disks"]
        whole = os.path.join(self.tmp, "whole.img")
        run("nbdcopy", daemon.uri(said["export"]), whole)
        if self.number:
            increment(daemon, said, said["contexts"][1], self.path)
            equal(said["dirty"] < SIZE * MIB, True, "an increment of %d bytes is none" % said["dirty"])
            run("cmp", self.path, whole)
        else:
            os.rename(whole, self.path)
        daemon.qmp("backup-end", id="b", success=True)
        say("backup %d: %.1f MiB dirty; it restores equal", self.number, said["dirty"] / MIB)
        self.number += 1


def root_disk(tmp):
    top = tree(os.path.join(tmp, "fio.d"), "fio", "proc", "tmp", "data")
    install(top, shutil.which("fio"))
    return disk_of(tmp, top, "disk", "%dM" % SIZE)


@test(needs=["fio"])
def kills(tmp):
    "a guest boots and verifies what it writes over five kills of the daemon, and increments restore equal"
    with kept(tmp, "vhost"):
        system = System(tmp)
        path, socket = root_disk(tmp), os.path.join(tmp, "v")
        args = ["--blockdev", "driver=file,node-name=disk0,discard=unmap,filename=" + path,
                "--export", "type=vhost-user-blk,id=v,node-name=disk0,writable=on,num-queues=2,addr.type=unix,"
                "addr.path=" + socket]
        daemon, chain = Daemon(tmp, *args), Chain(tmp)
        say("booting with %s", " ".join(system.accelerator))
        with Guest(system, "fio", "fio", vhost_disk(socket, 2), memory=512) as guest:
            rounds = Rounds(guest)
            rounds.more(1)
            chain.take(daemon)
            for number in range(KILLS):
                rounds.more(1)
                daemon.kill()
                daemon = Daemon(tmp, *args, name="d%d" % (number + 1))
                bitmap = daemon.bitmap("disk0", "c%d" % (chain.number - 1))
                equal(bitmap.get("inconsistent", False), False)
                rounds.more(1)
                say("the daemon was killed; the guest goes on: %d rounds", rounds.done())
                if number % 2:
                    chain.take(daemon)
            rounds.more(2)
        wait_until(lambda: not daemon.qmp("query-block-exports")[0].get("clients"), "the end of the client")
        chain.take(daemon)
        daemon.stop()
        run("cmp", chain.path, path)
        run("e2fsck", "-fy", chain.path, check=False)  # the journal of a file system in use
        run("e2fsck", "-fn", chain.path)


main()
