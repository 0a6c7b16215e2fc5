#!/usr/bin/python3
# SPDX-FileCopyrightText: 2026 The Tidemark authors
# SPDX-License-Identifier: GPL-2.0-or-later
"""Every kept input of every fuzzer, through the same entry point."""
from harness import *

FUZZ = os.path.join(SRCDIR, "tests", "fuzz")


def replay(name):
    program = os.path.join(BUILDDIR, "tests", "fuzz", "fuzz_" + name)
    corpus = os.path.join(FUZZ, "corpus", name)
    files = sorted(os.path.join(corpus, f) for f in os.listdir(corpus))
    equal(len(files) > 5, True, "inputs in %s" % corpus)
    done = run(program, *files)
    equal(done.stdout.splitlines(), files)


@test
def json_():
    "JSON streams"
    replay("json")


@test
def options():
    "options"
    replay("options")


@test
def described():
    "names of backing files that describe nodes"
    replay("described")


@test
def nbd_():
    "NBD sessions"
    replay("nbd")


@test
def vhost():
    "clients and drivers of vhost-user-blk"
    replay("vhost")


@test
def qcow2():
    "qcow2 images"
    replay("qcow2")


@test
def qcow2_check():
    "qcow2 images, checked and repaired"
    replay("qcow2_check")


@test
def bitmap():
    "bitmaps as files"
    replay("bitmap")


@test
def store():
    "stores of bitmaps"
    replay("store")


main()
