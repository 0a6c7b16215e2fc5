#!/usr/bin/python3
# SPDX-FileCopyrightText: 2026 The Tidemark authors
# SPDX-License-Identifier: GPL-2.0-or-later
"""The main job with other people's programs: a full copy, then increments of what a bitmap says is
dirty, while somebody goes on writing. What a checkpoint froze is copied; at the end nothing is missing."""
import random
import threading

from harness import *

M = 1 << 20
GRANULARITY = 65536


def contents(path):
    with open(path, "rb") as f:
        return f.read()


def add(name, **more):
    return {"type": "block-dirty-bitmap-add",
            "data": dict(more, node="disk0", name=name, granularity=GRANULARITY)}


def disable(name):
    return {"type": "block-dirty-bitmap-disable", "data": {"node": "disk0", "name": name}}


def offer(d, *names):
    d.qmp("block-export-dirty-bitmap", id="exp-disk0", bitmaps=list(names))


def increment(d, name, target):
    """Copies what is dirty in the bitmap into the file; returns the bytes copied."""
    h = d.nbd(contexts=["qemu:dirty-bitmap:" + name])
    copied = 0
    with open(target, "r+b") as f:
        for offset, length in dirty(h, name):
            for at in range(offset, offset + length, M):
                piece = min(M, offset + length - at)
                f.seek(at)
                f.write(h.pread(piece, at))
                copied += piece
    h.shutdown()
    return copied


def load(d, stop, seed, done):
    """Writes, zeroes and trims until told to stop. Its own process would race just the same; a thread
    with several requests in flight keeps the daemon as busy."""
    import nbd
    rnd = random.Random(seed)
    h = d.nbd()
    size = h.get_size()
    while not stop.is_set():
        cookies = []
        for _ in range(8):
            length = rnd.choice([512, 4096, 30000])
            offset = rnd.randrange(size - length)
            kind = rnd.random()
            if kind < 0.1:
                cookies.append(h.aio_zero(length, offset))
            elif kind < 0.2:
                cookies.append(h.aio_trim(length, offset))
            else:
                cookies.append(h.aio_pwrite(nbd.Buffer.from_bytearray(bytearray(rnd.randbytes(length))),
                                            offset))
        for cookie in cookies:
            while not h.aio_command_completed(cookie):
                h.poll(-1)
        done.append(8)
    h.shutdown()


def full_copies(tool):
    def copy(d, target):
        if tool == "nbdcopy":
            run("nbdcopy", d.uri(), target)
        else:
            run("qemu-img", "convert", "-f", "raw", "-O", "raw", d.uri(), target)
    return copy


def job(tmp, full):
    source = image(os.path.join(tmp, "disk0.img"), 64 * M, [(M, os.urandom(3 * M)), (40 * M, os.urandom(M))])
    target = os.path.join(tmp, "copy.img")
    with Daemon(tmp, *disk(tmp, "disk0", path=source, discard="unmap")) as d:
        d.qmp("transaction", actions=[add("b0")])
        stop, done = threading.Event(), []
        threads = [threading.Thread(target=load, args=(d, stop, seed, done)) for seed in (1, 2)]
        for t in threads:
            t.start()
        try:
            full(d, target)  # torn by the writers; the first increment mends it
            for i in range(5):
                seen = len(done)
                wait_until(lambda: len(done) > seen + 2, "some writes")
                d.qmp("transaction", actions=[add("b%d" % (i + 1)), disable("b%d" % i)])
                offer(d, "b%d" % i)
                if i:  # a client of the bitmap before keeps it, though the export offers another one now
                    equal(kept.can_meta_context("qemu:dirty-bitmap:b%d" % (i - 1)), True)
                    equal(dirty(kept, "b%d" % (i - 1)), frozen)
                    kept.shutdown()
                    wait_until(lambda: not d.bitmap("disk0", "b%d" % (i - 1))["busy"], "the bitmap to be free")
                    d.qmp("block-dirty-bitmap-remove", node="disk0", name="b%d" % (i - 1))
                kept = d.nbd(contexts=["qemu:dirty-bitmap:b%d" % i])
                frozen = dirty(kept, "b%d" % i)
                increment(d, "b%d" % i, target)
                equal(dirty(kept, "b%d" % i), frozen, "a disabled bitmap under load")
        finally:
            stop.set()
            for t in threads:
                t.join()
        kept.shutdown()
        d.qmp("transaction", actions=[disable("b5")])
        offer(d, "b5")
        increment(d, "b5", target)
        run("qemu-img", "compare", "-f", "raw", "-F", "raw", d.uri(), target)
    equal(contents(source) == contents(target), True)


@test(needs=["nbdcopy", "qemu-img"])
def after_nbdcopy(tmp):
    "after nbdcopy under load six increments make the copy equal"
    job(tmp, full_copies("nbdcopy"))


@test(needs=["qemu-img"])
def after_qemu_img(tmp):
    "after qemu-img convert under load six increments make the copy equal"
    job(tmp, full_copies("qemu-img"))


@test(needs=["qemu-img", "qemu-io"])
def moves_only_what_changed(tmp):
    "at rest an increment reads the dirty granules and nothing else"
    source = image(os.path.join(tmp, "disk0.img"), 64 * M, [(0, os.urandom(8 * M))])
    target = os.path.join(tmp, "copy.img")
    with Daemon(tmp, *disk(tmp, "disk0", path=source)) as d:
        d.qmp("transaction", actions=[add("b0")])
        run("qemu-img", "convert", "-f", "raw", "-O", "raw", d.uri(), target)
        run("qemu-io", "-f", "raw", "-c", "write -P 1 10 100", "-c", "write -P 2 %d 2" % (GRANULARITY - 1),
            "-c", "write -z 50M 128k", d.uri())
        offer(d, "b0")
        equal(increment(d, "b0", target), 2 * GRANULARITY + 131072)
        run("qemu-img", "compare", "-f", "raw", "-F", "raw", d.uri(), target)


main()
