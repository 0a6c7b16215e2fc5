#!/usr/bin/python3
# SPDX-FileCopyrightText: 2026 The Tidemark authors
# SPDX-License-Identifier: GPL-2.0-or-later
"""Which exports a client is told of, and finds. Sections named are those of the NBD specification,
doc/proto.md."""
from wire import *


def options(name, **more):
    return ["--export", "type=nbd,id=%s,node-name=disk0,name=%s%s" % (
        name or "unnamed", name, "".join(",%s=%s" % (k.replace("_", "-"), v) for k, v in more.items()))]


def listed(w):
    return [data[4:].decode() for kind, data in w.opt(OPT_LIST) if kind == REP_SERVER]


def name_of(w, name):
    """The export's canonical name."""
    for kind, data in w.opt(OPT_INFO, info_data(name, INFO_NAME)):
        if kind == REP_INFO and data[:2] == struct.pack(">H", INFO_NAME):
            return data[2:].decode()


@test
def hidden(tmp):
    "a hidden export is not listed, and found by its name (NBD_OPT_LIST)"
    with serve(tmp, *options("h", hidden="on"), *options("o")) as d:
        w = Wire(d.nbd_path)
        equal(listed(w), ["disk0", "o"])
        equal(name_of(w, "h"), "h")
        equal(w.go("h").size, 1 << 20)
        w = Wire(d.nbd_path)
        w.send(option(OPT_EXPORT_NAME, b"h"))
        equal(w.unpack(">Q"), (1 << 20,))


@test
def default(tmp):
    "the empty name is the default export (NBD_OPT_EXPORT_NAME, NBD_OPT_GO, NBD_INFO_NAME)"
    with serve(tmp, *options("x", default="on", writable="off")) as d:
        w = Wire(d.nbd_path)
        equal(name_of(w, ""), "x")
        equal(listed(w), ["disk0", "x"])
        if not w.go("", contexts=["base:allocation"]).flags & READ_ONLY:
            fail("not the default export")
        equal(w.contexts, {0: "base:allocation"})
        w = Wire(d.nbd_path)
        w.send(option(OPT_EXPORT_NAME))
        equal(w.unpack(">QH")[1] & READ_ONLY, READ_ONLY)
        error = raises(QMPError, d.qmp, "block-export-add", {
            "type": "nbd", "id": "y", "node-name": "disk0", "name": "y", "default": True})
        matches(error.desc, "already has a default export: 'x'")
        # one that really has that name comes first
        d.qmp("block-export-add", {"type": "nbd", "id": "e", "node-name": "disk0", "name": ""})
        equal(name_of(Wire(d.nbd_path), ""), "")
        d.qmp("block-export-del", id="e")
        equal(name_of(Wire(d.nbd_path), ""), "x")
        d.unexport("x")
        equal(Wire(d.nbd_path).verdict(OPT_INFO, info_data("")), ERR_UNKNOWN)


@test
def full(tmp):
    "an export that has its clients is NBD_REP_ERR_POLICY, alone; the session lives (NBD_OPT_GO)"
    with serve(tmp, *options("x", max_connections=2)) as d:
        held = [Wire(d.nbd_path).go("x") for _ in range(2)]
        w = Wire(d.nbd_path)
        equal(w.opt(OPT_GO, info_data("x")), [(ERR_POLICY, b"export 'x' already has its maximum of 2 clients")])
        equal(w.verdict(OPT_INFO, info_data("x")), REP_ACK)
        cut = Wire(d.nbd_path)
        cut.send(option(OPT_EXPORT_NAME, b"x"))
        cut.ended()
        held.pop().close()
        wait_until(lambda: w.verdict(OPT_GO, info_data("x")) == REP_ACK, "a place")
        equal(w.do(FLUSH), 0)
        equal(Wire(d.nbd_path).go("disk0").size, 1 << 20)


main()
