#!/usr/bin/python3
# SPDX-FileCopyrightText: 2026 The Tidemark authors
# SPDX-License-Identifier: GPL-2.0-or-later
"""blkdebug fails the same requests in both daemons, with the same errors, and refuses the same options."""
import errno
import os
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "func"))
from harness import *  # noqa: E402,F403

MIB = 1 << 20

RULES = (
    {"inject-error": [{"event": "none", "iotype": "read", "sector": 1}]},
    {"inject-error": [{"event": "none", "iotype": "write", "errno": 28},
                      {"event": "none", "iotype": "read", "errno": 1, "once": True}]},
    {"inject-error": [{"event": "none", "iotype": "flush", "once": True, "immediately": True}]},
    {"inject-error": [{"event": "none", "iotype": "write-zeroes", "errno": 12},
                      {"event": "none", "iotype": "discard", "errno": 22}]},
    {"inject-error": [{"event": "write_aio", "once": True}]},
    {"inject-error": [{"event": "write_aio", "iotype": "read"}]},
    {"inject-error": [{"event": "read_aio", "iotype": "write"}, {"event": "flush_to_disk", "errno": 0}]},
    {"inject-error": [{"event": "read_aio", "state": 2, "errno": 1}],
     "set-state": [{"event": "flush_to_disk", "state": 1, "new_state": 2},
                   {"event": "pwritev_done", "state": 2, "new_state": 1}]},
    {"inject-error": [{"event": "pwritev_zero", "iotype": "read", "sector": 0, "once": True}]},
    {"inject-error": [{"event": "none"}, {"event": "read_aio", "errno": 28}]},
)

REFUSED = (
    {"align": 3}, {"align": 1 << 31}, {"max-transfer": 513, "align": 512}, {"opt-write-zero": (1 << 31) - 1},
    {"max-write-zero": 100, "align": 4096}, {"opt-discard": 1, "align": 512}, {"max-discard": 7, "align": 8},
    {"take-child-perms": ["nope"]}, {"unshare-child-perms": "write"}, {"inject-error": [{"event": "no"}]},
    {"inject-error": [{"errno": 5}]}, {"set-state": [{"event": "none"}]}, {"nope": 1}, {"image": "nope"},
    {"inject-error": [{"event": "none", "iotype": "writes"}]},
)


def in_file(path, rules):
    """The same rules as a config file."""
    with open(path, "w") as f:
        f.write("# rules\n")
        for kind, elements in rules.items():
            for i, element in enumerate(elements):
                f.write("\n[%s%s]\n" % (kind, ' "r%d"' % i if i else ""))
                for key, value in element.items():
                    f.write('  %s = "%s"\n' % (key, {True: "on", False: "off"}.get(value, value)
                                               if isinstance(value, bool) else value))
    return {"config": path}


def outcome(function, *args):
    import nbd
    try:
        function(*args)
        return "ok"
    except nbd.Error as e:
        return errno.errorcode[e.errnum]


def script(h):
    """The outcomes of a run of requests."""
    step = ((h.pread, 512, 0), (h.pread, 512, 512), (h.pwrite, b"x" * 512, 0), (h.pread, 1024, 0),
            (h.flush,), (h.pwrite, b"y" * 4096, 4096), (h.zero, 65536, 65536), (h.pread, 512, 0),
            (h.trim, 65536, 65536), (h.flush,), (h.pread, 512, 4096))
    return [outcome(*call) for call in step]


@test(needs=[QSD])
def same_failures(tmp):
    "the same requests fail, under raw, with every kind of rule"
    found = {}
    for binary in (None, QSD):
        with Daemon(tmp, binary=binary, name="q" if binary else "t") as d:
            for i, rules in enumerate(RULES + tuple(in_file(tmp + "/rules%d" % i, r) for i, r in enumerate(RULES))):
                path = image(os.path.join(tmp, "%d.img" % i), MIB)
                d.qmp("blockdev-add", {
                    "driver": "raw", "node-name": "n", "discard": "unmap", "file": dict(
                        {"driver": "blkdebug", "image": {"driver": "file", "filename": path}}, **rules)})
                d.qmp("block-export-add", {"type": "nbd", "id": "e", "node-name": "n", "name": "disk0",
                                           "writable": True})
                h = d.nbd(request_structured_replies=False)  # else QSD drops a client whose read fails
                found.setdefault(i, []).append(script(h))
                h.shutdown()
                d.unexport("e")
                d.qmp("blockdev-del", node_name="n")
    for i, (ours, theirs) in found.items():
        equal(ours, theirs, "with %s" % (RULES * 2)[i])
        equal(ours, found[i % len(RULES)][0], "from a file as by options")


@test(needs=[QSD])
def same_refusals(tmp):
    "options that make no sense are refused in the same words"
    said = []
    for binary in (None, QSD):
        with Daemon(tmp, binary=binary, name="q" if binary else "t") as d:
            said.append([raises(QMPError, d.qmp, "blockdev-add", dict(
                {"driver": "blkdebug", "node-name": "x", "image": {"driver": "null-co"}}, **o)).bare
                for o in REFUSED])
    for options, ours, theirs in zip(REFUSED, *said):
        equal(ours, theirs, options)


main()
