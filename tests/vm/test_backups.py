#!/usr/bin/python3
# SPDX-FileCopyrightText: 2026 The Tidemark authors
# SPDX-License-Identifier: GPL-2.0-or-later
# timeout: 1800
"""Backups of the root disk of a running guest: each is restored and booted, and has every file that was fsynced.

The guest writes and never stops, while a full backup and increments are taken and the daemon is killed in between. The
last restored image leaves out one increment, and its boot must find that: so this test can fail.

It takes two to six minutes on two idle processors without KVM. Lines that begin with # say how far it is."""
import concurrent.futures
import contextlib

from harness import *
from guest import SLOTS, System, Guest, check_sums, file_disk, increment, kept, nbd_disk, say

MIB = 1 << 20
EACH = 40  # files that each writer fsyncs between two backups, at least
MEANWHILE = 8  # and between the beginning of a backup and its reading


class Backup:
    """A restored image, and between which numbers of each writer its instant was."""

    def __init__(self, name, path, least, most):
        self.name, self.path, self.least, self.most = name, path, least, most


def copied(path, name):
    """A copy beside it."""
    other = os.path.join(os.path.dirname(path), name)
    run("cp", "--sparse=always", path, other)
    return other


# ---- backups


class Chain:
    """A daemon with the disk, and the backups that are taken of it while the guest writes."""

    def __init__(self, tmp, args, guest_of):
        self.tmp, self.args = tmp, args
        self.daemon = Daemon(tmp, *args)
        self.guest = guest_of(self.daemon)
        self.backups = []

    def begin(self):
        """Returns what backup-begin says, and the numbers around the instant."""
        number = len(self.backups)
        disk = {"node": "disk0", **({"from": "c%d" % (number - 1)} if number else {})}
        least = self.guest.fsynced()
        said = self.daemon.qmp("backup-begin", id="b", disks=[disk], checkpoint="c%d" % number,
                               scratch={"directory": self.tmp})
        return said["disks"][0], least, self.guest.more(MEANWHILE)

    def full(self, export, path):
        run("nbdcopy", self.daemon.uri(export), path)

    def increment(self, said, path):
        """Either context serves."""
        increment(self.daemon, said, said["contexts"][1 + len(self.backups) % 2], path)

    def take(self, leave_out=False):
        """One more backup. If leave_out, also an image of it that lacks the increment before; returns its path."""
        self.guest.more(EACH)
        said, least, most = self.begin()
        number = len(self.backups)
        lacking = None
        if number:
            path = copied(self.backups[-1].path, "backup%d.img" % number)
            self.increment(said, path)
            if leave_out:
                lacking = copied(self.backups[-2].path, "lacking.img")
                self.increment(said, lacking)
        else:
            path = os.path.join(self.tmp, "backup0.img")
            self.full(said["export"], path)
        self.daemon.qmp("backup-end", id="b", success=True)
        self.backups.append(Backup("backup%d" % number, path, least, most))
        say("backup %d: %.1f MiB dirty, files up to %d and %d fsynced", number, said["dirty"] / MIB, *least)
        return lacking

    def kill(self):
        """Kills the daemon while a backup is read, and goes on with another. What was written since it began is in no
        bitmap that was saved: only the journal of marks has it."""
        said, _, _ = self.begin()
        reader = self.daemon.nbd(said["export"])
        reader.pread(MIB, 0)
        self.guest.more(EACH)
        self.daemon.kill()
        self.daemon = Daemon(self.tmp, *self.args)
        [node] = [n for n in self.daemon.qmp("query-named-block-nodes", flat=True) if n["node-name"] == "disk0"]
        equal([(b["name"], b.get("inconsistent", False)) for b in node["dirty-bitmaps"]],
              [("c%d" % (len(self.backups) - 1), False)])
        self.guest.more(1)
        say("the daemon was killed in the midst of a backup; the guest has reconnected")


# ---- restoring


def boots(system, backup):
    """Boots a copy of the image, which must have the files and be a good file system after it."""
    path = copied(backup.path, backup.name + ".booted")
    with Guest(system, backup.name, "check", file_disk(path)) as guest:
        check_sums(backup.name, guest.sums(), backup.least, backup.most)
    run("e2fsck", "-fn", path)
    os.unlink(path)
    say("%s boots, and has every file", backup.name)


def boot_lacking(system, backup, path):
    lacking = Backup("lacking", path, backup.least, backup.most)
    failure = raises(Failure, boots, system, lacking, match="^(?!waited in vain)")
    say("an image without one increment is noticed: %s", str(failure).splitlines()[0])


def all_boot(system, backups, *more):
    """Two at a time."""
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        for done in [pool.submit(boots, system, b) for b in backups] + [pool.submit(*m) for m in more]:
            done.result()


def backups_of_a_guest(tmp, name, node, before_kill, after_kill, export=""):
    with kept(tmp, name):
        system = System(tmp)
        disk_path = os.path.join(tmp, "disk")
        run("qemu-img", "convert", "-f", "raw", "-O", name, system.new_disk, disk_path)
        say("%s: booting with %s", name, " ".join(system.accelerator))
        args = ["--blockdev", node % disk_path,
                "--export", "type=nbd,id=exp-disk0,node-name=disk0,name=disk0,writable=on" + export]
        with contextlib.ExitStack() as stack:
            chain = Chain(tmp, args, lambda d: stack.enter_context(Guest(system, "writing", "write", nbd_disk(d))))
            for _ in range(before_kill):
                chain.take()
            chain.kill()
            for number in range(after_kill):
                lacking = chain.take(leave_out=number == after_kill - 1)
            last = chain.guest.more(EACH)
        say("the guest was killed; booting the disk itself and what was restored")
        with Guest(system, "again", "check", nbd_disk(chain.daemon)) as guest:
            check_sums("the disk itself", guest.sums(), last, [n + SLOTS for n in last])
        say("the disk itself boots, and has every file")
        all_boot(system, chain.backups, (boot_lacking, system, chain.backups[-1], lacking))
        chain.daemon.stop()


@test
def raw(tmp):
    "a full backup and five increments of a guest's raw root disk have every file that was fsynced"
    backups_of_a_guest(tmp, "raw", "driver=file,node-name=disk0,discard=unmap,filename=%s", 3, 3)


@test
def qcow2(tmp):
    "a full backup and three increments of a guest's qcow2 root disk have every file that was fsynced"
    # QEMU sends a flush to the daemon that it finds again, which can't have what the old one had in memory.
    backups_of_a_guest(tmp, "qcow2", "driver=qcow2,node-name=disk0,discard=unmap,file.driver=file,"
                       "file.discard=unmap,file.filename=%s", 2, 2, export=",writethrough=on")


main()
