#!/usr/bin/python3
# SPDX-FileCopyrightText: 2026 The Tidemark authors
# SPDX-License-Identifier: GPL-2.0-or-later
"""QEMU's own clients of QMP, run as they are: the package qemu.qmp, old and new interface, and qmp-shell."""
import importlib.util
import os
import subprocess
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "func"))
from harness import *  # noqa: E402,F403

MIB = 1 << 20


def package():
    """Is there qemu.qmp?"""
    try:
        there = importlib.util.find_spec("qemu.qmp")
    except ModuleNotFoundError:
        there = None
    if not there:
        skip("the Python package qemu.qmp is not installed")


def python(program, *args):
    """What a program of the package's user prints."""
    p = run(sys.executable, "-c", program, *args, check=False)
    equal(p.returncode, 0, p.stdout + p.stderr)
    return p.stdout


ASYNC = """
import asyncio, sys
from qemu.qmp import QMPClient, ExecuteError

async def main():
    qmp = QMPClient("test")
    await qmp.connect(sys.argv[1])
    print("version", (await qmp.execute("query-version"))["qemu"]["major"])
    with qmp.listener("JOB_STATUS_CHANGE") as jobs, qmp.listener("BLOCK_EXPORT_DELETED") as exports:
        await qmp.execute("blockdev-add", {"driver": "null-co", "node-name": "t", "size": 1 << 20, "read-zeroes": True})
        await qmp.execute("blockdev-backup", {"device": "disk0", "target": "t", "sync": "full", "job-id": "j"})
        async for event in jobs:
            if event["data"]["status"] == "null":
                break
        await qmp.execute("block-export-del", {"id": "exp-disk0"})
        print("event", (await exports.get())["data"]["id"])
    try:
        await qmp.execute("block-dirty-bitmap-remove", {"node": "disk0", "name": "none"})
    except ExecuteError as error:
        print("class", error.error_class)
    print(len(await asyncio.gather(*(qmp.execute("query-named-block-nodes") for _ in range(20)))))
    await qmp.disconnect()

asyncio.run(main())
"""


@test
def client(tmp):
    "qemu.qmp: commands, events, errors by class, many commands at once"
    package()
    with Daemon(tmp, *disk(tmp, "disk0", MIB)) as d:
        lines = python(ASYNC, d.qmp_path).splitlines()
        matches(lines[0], r"version \d+")
        equal(lines[1:], ["event exp-disk0", "class GenericError", "20"])


LEGACY = """
import sys
from qemu.qmp.legacy import QEMUMonitorProtocol

with QEMUMonitorProtocol(sys.argv[1]) as qmp:
    print(sorted(qmp.connect())[0])
    print(qmp.cmd("query-block-exports")["return"][0]["id"])
    print(qmp.cmd("nosuchcommand")["error"]["class"])
    print(qmp.cmd("query-block-exports", cmd_id="mine")["id"])
    qmp.cmd("block-export-del", {"id": "exp-disk0"})
    print(qmp.pull_event(wait=30.0)["event"])
"""


@test
def legacy(tmp):
    "qemu.qmp.legacy, which QEMU's own tests use"
    package()
    with Daemon(tmp, *disk(tmp, "disk0", MIB)) as d:
        equal(python(LEGACY, d.qmp_path).splitlines(),
              ["QMP", "exp-disk0", "CommandNotFound", "mine", "BLOCK_EXPORT_DELETED"])


@test(needs=["qmp-shell"])
def shell(tmp):
    "qmp-shell: its syntax of arguments, transactions, and completion from query-commands"
    with Daemon(tmp, *disk(tmp, "disk0", MIB)) as d:
        typed = ["query-version",
                 "blockdev-add driver=null-co node-name=n size=1048576",
                 "block-dirty-bitmap-add node=disk0 name=b0 granularity=65536",
                 "transaction(",
                 "block-dirty-bitmap-add node=disk0 name=b1",
                 "block-dirty-bitmap-disable node=disk0 name=b0",
                 ")",
                 "query-named-block-nodes"]
        p = run("qmp-shell", d.qmp_path, input="".join(line + "\n" for line in typed), check=False,
                env=dict(os.environ, HOME=tmp))
        equal("Traceback" in p.stdout + p.stderr or '"error"' in p.stdout, False, p.stdout + p.stderr)
        bitmaps = {b["name"]: b["recording"] for b in d.qmp("query-named-block-nodes")[-1].get("dirty-bitmaps", []) +
                   d.qmp("query-named-block-nodes")[0].get("dirty-bitmaps", [])}
        equal(bitmaps, {"b0": False, "b1": True})
        equal(sorted(n["node-name"] for n in d.qmp("query-named-block-nodes")), ["disk0", "n"])


main()
