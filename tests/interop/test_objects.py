#!/usr/bin/python3
# SPDX-FileCopyrightText: 2026 The Tidemark authors
# SPDX-License-Identifier: GPL-2.0-or-later
"""Throttle groups, iothreads and their properties: both daemons answer the same commands in the same way."""
import os
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "func"))
from harness import *  # noqa: E402,F403

LIMITS = (
    {"iops-total": 10, "iops-read": 5}, {"iops-total-max": 10}, {"iops-total": 10, "iops-total-max": 5},
    {"iops-total": 10, "iops-total-max": 20, "iops-total-max-length": 0},
    {"iops-total": 10, "iops-total-max-length": 2},
    {"iops-total": 10, "iops-total-max": 10 ** 12, "iops-total-max-length": (1 << 32) - 1},
    {"iops-total": 10, "iops-total-max": 20, "iops-total-max-length": 1 << 32},
    {"iops-total": -1}, {"iops-total": 10 ** 15}, {"iops-total": 10 ** 15 + 1}, {"iops-size": 512},
    {"iops-size": 512, "bps-total": 1}, {"bps-read": 1, "bps-total-max": 9, "bps-read-max": 8},
    {"iops-size": 512, "iops-write": 1}, {"bps-total": 1, "iops-read": 2}, {"nope": 1}, {"iops-total": "1"},
)


def get(path, property):
    return "qom-get", {"path": path, "property": property}


def set_(path, property, value):
    return "qom-set", {"path": path, "property": property, "value": value}


G, I = "/objects/g", "/objects/i"

SCRIPT = (
    [("object-add", {"qom-type": "throttle-group", "id": "g", "limits": limits}) for limits in LIMITS[:7]] +
    [("object-add", {"qom-type": "throttle-group", "id": "g", **props}) for props in (
        {"x-iops-total": -1}, {"x-iops-total": 10, "x-iops-read": 1}, {"x-bps-read-max-length": -4},
        {"x-iops-size": 1 << 62}, {"nope": 1}, {"x-iops-total": "a"},
        {"x-iops-total": 10, "limits": {"iops-total-max": 20}})] +
    [get(G, "limits"), get("g", "limits"), get(G, "x-iops-total"), set_(G, "x-iops-total", 7),
     set_(G, "limits", {"iops-total": 30}), set_(G, "limits", {"iops-total": 5}), get(G, "limits")] +
    [set_(G, "limits", limits) for limits in LIMITS] +
    [get(G, "limits"), set_(G, "limits", 4), set_(G, "nope", {}), set_(G, "type", "x"), get(G, "type"),
     get(G, "nope"), get("/objects/z", "type"), set_("/objects/z", "limits", {}), get("/objects", "type"),
     get("/objects", "nope"), ("qom-list", {"path": "/objects/z"}), ("qom-list", {"path": "/objects"}),
     ("qom-list", {"path": ""}), ("qom-list", {"path": G}),
     ("qom-list-properties", {"typename": "throttle-group"}),
     ("qom-list-properties", {"typename": "iothread"}), ("qom-list-properties", {"typename": "zzz"})] +
    [("object-add", {"qom-type": "iothread", "id": "i", **props}) for props in (
        {"poll-max-ns": -1}, {"poll-grow": -1}, {"aio-max-batch": -1}, {"thread-pool-min": -1},
        {"thread-pool-max": 0}, {"thread-pool-min": 4, "thread-pool-max": 3}, {"thread-pool-max": 1 << 31},
        {"poll-max-ns": 5, "thread-pool-max": 8}, {})] +
    [get(I, name) for name in ("poll-max-ns", "poll-grow", "poll-shrink", "aio-max-batch",
                               "thread-pool-min", "thread-pool-max")] +
    [set_(I, "poll-max-ns", -7), set_(I, "poll-max-ns", "x"), set_(I, "poll-max-ns", 7),
     get(I, "poll-max-ns"), set_(I, "thread-pool-min", 99), ("qom-list", {"path": I})] +
    [("blockdev-add", {"driver": "null-co", "node-name": "n"}),
     ("blockdev-add", {"driver": "throttle", "node-name": "t", "file": "n", "throttle-group": "zz"}),
     ("blockdev-add", {"driver": "throttle", "node-name": "t", "file": "n"}),
     ("blockdev-add", {"driver": "throttle", "node-name": "t", "file": "n", "throttle-group": "g"}),
     ("object-del", {"id": "g"}),
     ("blockdev-reopen", {"options": [{"driver": "throttle", "node-name": "t", "file": "n",
                                       "throttle-group": "yy"}]}),
     ("block-export-add", {"type": "nbd", "id": "e", "node-name": "n", "iothread": "zz"}),
     ("block-export-add", {"type": "nbd", "id": "e", "node-name": "n", "iothread": "i"}),
     ("block-export-add", {"type": "nbd", "id": "f", "name": "f", "node-name": "t",
                           "fixed-iothread": True}),
     ("object-del", {"id": "nope"})])


def answers(tmp, binary, script):
    with Daemon(tmp, binary=binary, name="q" if binary else "t") as d:
        found = []
        for command, arguments in script:
            try:
                result = d.qmp(command, arguments)
                if command.startswith("qom-list"):
                    result.sort(key=lambda e: e["name"])
                found.append(result)
            except QMPError as e:
                found.append(str(e))
        return found


@test(needs=[QSD])
def same_answers(tmp):
    "a script about objects and who uses them"
    for step, ours, theirs in zip(SCRIPT, answers(tmp, None, SCRIPT), answers(tmp, QSD, SCRIPT)):
        equal(ours, theirs, step)


@test(needs=[QSD])
def given(tmp):
    "the properties of secrets, credentials and access lists, and paths of all spellings"
    with open(os.path.join(tmp, "keys.psk"), "w") as f:
        f.write("qemu:%s\n" % ("ab" * 32))
    rule = {"match": "a*", "policy": "allow", "format": "glob"}
    steps = [("object-add", {"qom-type": type, "id": id, **props}) for type, id, props in (
        ("secret", "s", {"data": "x", "format": "raw"}), ("authz-list", "l", {"policy": "allow", "rules": [rule]}),
        ("authz-simple", "o", {"identity": "alice"}),
        ("tls-creds-psk", "p", {"dir": tmp, "endpoint": "server", "verify-peer": False}))]
    steps += [("qom-list", {"path": path}) for path in (
        "/objects/s", "/objects//l/", "//objects", "/objects/", "objects/o", "p", "/objects/p", "/objects/s/x")]
    steps += [get("/objects/" + name, key) for name, keys in (
        ("s", ("format", "file", "keyid", "iv", "nope")), ("l", ("policy", "rules")), ("o", ("identity",)),
        ("p", ("dir", "endpoint", "verify-peer", "priority", "username")))
        for key in keys]
    steps += [set_("/objects/l/", "policy", "deny"), get("/objects/l", "policy"), set_("/objects/l", "rules", []),
              get("/objects/l", "rules"), set_("o", "identity", "bob"), get("o", "identity"),
              *(("qom-list-properties", {"typename": name}) for name in (
                  "secret", "authz-list", "authz-simple", "authz-list-file", "tls-creds-psk", "tls-creds-x509"))]
    said = []
    for binary, name in ((None, "t"), (QSD, "q")):
        with Daemon(tmp, binary=binary, name=name) as d:
            one = []
            for command, arguments in steps:
                try:
                    answer = d.qmp(command, arguments)
                except QMPError as e:
                    answer = e.cls, e.bare
                if command.startswith("qom-list") and isinstance(answer, list):  # what is deprecated
                    answer = sorted((p["name"], p["type"]) for p in answer if p["name"] != "loaded")
                one.append(answer)
            said.append(one)
    for step, ours, theirs in zip(steps, *said):
        equal(ours, theirs, step)


@test(needs=[QSD])
def chardevs(tmp):
    "/chardevs has the channels, with the address of sockets and whether they are connected"
    steps = [("chardev-add", {"id": id, "backend": {"type": kind, "data": data}}) for id, kind, data in (
        ("nn", "null", {}), ("f", "file", {"out": "/dev/null"}), ("p", "pty", {}),
        ("u", "socket", {"addr": {"type": "unix", "data": {"path": tmp + "/u"}}}),
        ("a", "socket", {"addr": {"type": "unix", "data": {"path": "tm%d" % os.getpid(), "abstract": True}}}),
        ("i", "socket", {"addr": {"type": "inet", "data": {"host": "127.0.0.1", "port": "0"}}}))]
    names = "nn", "f", "p", "u", "a", "i", "c1"
    steps += [("qom-list", {"path": path}) for path in ("/chardevs", "chardevs/", "nn", "/chardevs/no", "/c1")]
    for name in names:
        steps += [("qom-list", {"path": "/chardevs/" + name}), get("/chardevs", name)]
        steps += [get("/chardevs/" + name, key) for key in ("type", "connected", "addr", "nope")]
        steps += [set_("/chardevs/" + name, key, True) for key in ("type", "connected", "nope")]
    steps += [get("/", "chardevs"), get("/chardevs", "type"), get("/chardevs", "nope"), set_("/chardevs", "nn", True)]
    steps += [("qom-list-properties", {"typename": name}) for name in (
        "chardev-null", "chardev-socket", "chardev-pty", "chardev", "container", "object")]
    said = []
    for binary in (None, QSD):
        with Daemon(tmp, binary=binary) as d:
            one = []
            for command, arguments in steps:
                try:
                    answer = d.qmp(command, arguments)
                except QMPError as e:
                    answer = e.cls, e.bare
                if command.startswith("qom-list") and isinstance(answer, list):
                    answer = sorted((p["name"], p["type"]) for p in answer)
                if isinstance(answer, dict):  # a port and the name of a pseudoterminal are by chance
                    answer = {key: value for key, value in answer.items() if key not in ("port", "pty")}
                one.append(answer)
            said.append(one)
    for step, ours, theirs in zip(steps, *said):
        equal(ours, theirs, step)


main()
