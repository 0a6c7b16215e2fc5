#!/usr/bin/python3
# SPDX-FileCopyrightText: 2026 The Tidemark authors
# SPDX-License-Identifier: GPL-2.0-or-later
"""The list of differences from qemu-storage-daemon in tidemarkd(8) names all that the schemas of the two don't have in
common: commands, events, arguments, members of results, values. QEMU 10 is compared where `make trixie` has put it."""
import os
import re
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "func"))
from harness import *  # noqa: E402,F403

NEWER = os.path.join(os.environ.get("TRIXIE") or os.path.join(SRCDIR, "build-trixie"), "bin", QSD)
# What the list has as a category: where it is, and the words of the list.
CATEGORIES = [
    (r"^blockdev-(add|create)\(\).*(driver|backing-fmt)$|format-specific\.type$", "drivers and objects other than those"),
    (r"^block-export-add\(\)\.type|^query-block-exports->\[\]\.type", "Export types other than"),
    (r"^object-add\(\)\.qom-type", "drivers and objects other than those"),
    (r"^chardev-add\(\)\.backend\.type", "channels that a monitor can't use"),
    (r"\.(encrypt|encrypted|compressed)$", "and encryption"),
    (r"^query-block.*(_max|_max_length|iops_size|idle_time_ns)$", "devices of a guest"),
    (r"^query-blockstats.*(latency|zone|queue_depth)", "latencies and zones in statistics"),
    (r"^(query-jobs|BLOCK_JOB_\w+|query-block-jobs).*type$", "Changes inside an image"),
    (r"^qom-list->", "descriptions and defaults of properties"),
]


def listed():
    with open(os.path.join(SRCDIR, "docs", "man", "tidemarkd.8")) as f:
        page = f.read()
    text = page[page.index(".Ss Differences from qemu-storage-daemon"):page.index(".Ss TLS and access control")]
    return re.sub(r"\s+", " ", re.sub(r"^\.[A-Z][a-z]|\b(Cm|Pq|No|Fl|Pa|Li|Ns)\b|[.,;] *$", " ", text, flags=re.M))


class Comparison:
    """The names that only one of two schemas has, with where they are."""

    def __init__(self, theirs, ours):
        self.schemas = [{e["name"]: e for e in schema} for schema in (theirs, ours)]
        self.found, self.seen = [], set()
        a, b = ({n: e for n, e in s.items() if e["meta-type"] in ("command", "event")} for s in self.schemas)
        self.names("", set(a), set(b))
        for name in sorted(set(a) & set(b)):
            self.types(name + "()", a[name]["arg-type"], b[name]["arg-type"])
            if "ret-type" in a[name] and "ret-type" in b[name]:
                self.types(name + "->", a[name]["ret-type"], b[name]["ret-type"])

    def names(self, where, a, b):
        self.found += [(where, name) for name in sorted(a ^ b)]

    def types(self, where, a, b):
        if (a, b) in self.seen:
            return
        self.seen.add((a, b))
        x, y = self.schemas[0][a], self.schemas[1][b]
        if x["meta-type"] != y["meta-type"]:
            return  # an enumeration that is a string, for example
        if x["meta-type"] == "enum":
            self.names(where, set(x["values"]), set(y["values"]))
        elif x["meta-type"] == "array":
            self.types(where + "[]", x["element-type"], y["element-type"])
        elif x["meta-type"] == "object":
            self.members(where, x, y)

    def members(self, where, x, y):
        a, b = ({m["name"]: m["type"] for m in e["members"]} for e in (x, y))
        self.names(where, set(a), set(b))
        for name in sorted(set(a) & set(b)):
            self.types("%s.%s" % (where, name), a[name], b[name])
        a, b = ({v["case"]: v["type"] for v in e.get("variants", [])} for e in (x, y))
        for case in sorted(set(a) & set(b)):
            self.types("%s<%s>" % (where, case), a[case], b[case])


def compare(tmp, binary):
    with Daemon(tmp) as ours, Daemon(tmp, name="q", binary=binary) as theirs:
        found = Comparison(theirs.qmp("query-qmp-schema"), ours.qmp("query-qmp-schema")).found
    text = listed()
    words = set(re.findall(r"[A-Za-z_][\w-]*", text))
    equal(len(found) > 50, True, "so few differences")
    for where, name in found:
        phrases = [phrase for at, phrase in CATEGORIES if re.search(at, where) or re.search(at, "%s.%s" % (where, name))]
        equal(name in words or any(phrase in text for phrase in phrases), True,
              "tidemarkd(8) does not list the difference %s %s" % (where, name))


@test(needs=[QSD])
def complete(tmp):
    "the list has all that the system's QEMU and we don't have in common"
    compare(tmp, QSD)


@test
def complete_for_qemu_10(tmp):
    "the list has all that QEMU 10 and we don't have in common"
    if not have(NEWER):
        skip("there is no QEMU 10 here (make trixie)")
    compare(tmp, NEWER)


main()
