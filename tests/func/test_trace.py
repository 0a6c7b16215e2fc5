#!/usr/bin/python3
# SPDX-FileCopyrightText: 2026 The Tidemark authors
# SPDX-License-Identifier: GPL-2.0-or-later
"""The trace points: those of the program are those of docs/tracing.md, the scripts beside it fit them, and they report
what requests do."""
import os
import re

from harness import *

M = 1 << 20
DOCS = os.path.join(os.environ.get("SRCDIR", "."), "docs")
SCRIPTS = sorted(os.listdir(DOCS + "/bpftrace"))


def trace_points():
    """Those of the program, from its notes: the number of arguments by the name."""
    notes = run("readelf", "-n", "-W", TIDEMARKD).stdout
    found = {}
    for name, semaphore, arguments in re.findall(
            r"Provider: tidemark\n\s*Name: (\w+)\n.*Semaphore: (\w+)\n\s*Arguments: (.*)", notes):
        # "8@%rbx -4@8(%rax,%rdx,8)": of each the size, an @, and where it is
        found.setdefault(name, set()).add((len(re.findall(r"(?:^| )-?[1248]@", arguments)), int(semaphore, 16) != 0))
    if not found:
        skip("the program was built without trace points")
    return found


def documented():
    with open(DOCS + "/tracing.md") as f:
        return {name: len(arguments.split(", "))
                for name, arguments in re.findall(r"^\| `(\w+)` \| (.*?) \|", f.read(), re.M)}


@test(needs=("readelf",))
def documented_trace_points():
    "each trace point of docs/tracing.md is in the program, with its arguments and a semaphore, and no other"
    equal(trace_points(), {name: {(n, True)} for name, n in documented().items()})
    equal(max(documented().values()) <= 6, True, "bpftrace can read 6 arguments on x86_64")


@test
def scripts():
    "the scripts use trace points that there are, and arguments that these have"
    known = documented()
    equal(len(SCRIPTS), 3)
    for script in SCRIPTS:
        with open("%s/bpftrace/%s" % (DOCS, script)) as f:
            blocks = re.findall(r"^usdt:/usr/bin/tidemarkd:tidemark:(\w+)\n(?:/[^\n]*/\n)?\{(.*?)^\}", f.read(), re.M | re.S)
        equal(len(blocks) >= 2, True, script)
        for name, body in blocks:
            used = max((int(n) for n in re.findall(r"\barg(\d)", body)), default=-1)
            equal(used < known[name], True, "%s: arguments of %s" % (script, name))


@test(needs=("bpftrace",))
def scripts_compile(tmp):
    "bpftrace accepts the scripts"
    trace_points()
    for script in SCRIPTS:
        with open("%s/bpftrace/%s" % (DOCS, script)) as f:
            text = f.read().replace("/usr/bin/tidemarkd", TIDEMARKD)
        with open(tmp + "/s.bt", "w") as f:
            f.write(text)
        done = run("bpftrace", "-d", tmp + "/s.bt", "20", check=False)
        if "only supports running as the root user" in done.stderr:
            skip("bpftrace needs root")
        equal(done.returncode, 0, script + ": " + done.stderr[-500:])


POINTS = (("session_begin", "export=%s", "$_probe_arg1"),
          ("request_begin", "export=%s op=%s offset=%lu length=%lu", "$_probe_arg2,$_probe_arg3,$_probe_arg4,$_probe_arg5"),
          ("request_end", "export=%s op=%s length=%lu errno=%d", "$_probe_arg2,$_probe_arg3,$_probe_arg4,$_probe_arg5"),
          ("io_begin", "node=%s op=%s length=%lu", "$_probe_arg1,$_probe_arg2,$_probe_arg4"),
          ("io_lane", "lane=%s", "$_probe_arg1"),
          ("sync_end", "node=%s errno=%d", "$_probe_arg0,$_probe_arg1"),
          ("drain_begin", "node=%s", "$_probe_arg0"),
          ("intent_end", "offset=%lu length=%lu errno=%d", "$_probe_arg1,$_probe_arg2,$_probe_arg3"),
          ("commit_end", "success=%d", "(int)$_probe_arg1"))


def debugged(tmp):
    """The daemon's command line under a debugger that prints each trace point as it is passed."""
    with open(tmp + "/gdb", "w") as f:
        f.write("set pagination off\nset breakpoint pending off\nset confirm off\n"
                "handle SIGTERM SIGPIPE nostop noprint pass\n")
        for name, form, arguments in POINTS:
            f.write('break -probe-stap tidemark:%s\ncommands\nsilent\nprintf "TRACE %s %s\\n",%s\ncontinue\nend\n'
                    % (name, name, form, arguments))
        f.write("run\n")
    with open(tmp + "/wrapper", "w") as f:
        f.write("#!/bin/sh\nexec gdb -q -batch -nx -x %s/gdb --args %s \"$@\"\n" % (tmp, TIDEMARKD))
    os.chmod(tmp + "/wrapper", 0o755)
    return tmp + "/wrapper"


@test(needs=("gdb", "readelf"))
def passed(tmp):
    "gdb stops at the trace points of a request, of a first touch, a flush and a change of bitmaps, with their arguments"
    trace_points()
    if "__asan_init" in run("readelf", "-Ws", TIDEMARKD).stdout or "__tsan_init" in run("readelf", "-Ws", TIDEMARKD).stdout:
        skip("the debugger and the sanitizer disagree")
    probe = run("gdb", "-q", "-batch", "-nx", "-ex", "run", "--args", "/bin/true", check=False)
    if "exited normally" not in probe.stdout:
        skip("gdb can't run programs here")
    with Daemon(tmp, *disk(tmp, "disk0", M), "--sandbox", "off", binary=debugged(tmp)) as d:
        d.qmp("block-dirty-bitmap-add", node="disk0", name="b", persistent=True)
        h = d.nbd()
        h.pwrite(b"x" * 4096, 65536)
        h.flush()
        h.shutdown()
        d.qmp("quit")
        d.wait()
        log = d.log()
    for line in ("session_begin export=exp-disk0",
                 "request_begin export=exp-disk0 op=write offset=65536 length=4096",
                 "request_end export=exp-disk0 op=write length=4096 errno=0",
                 "request_end export=exp-disk0 op=flush length=0 errno=0",
                 "io_begin node=disk0 op=write length=4096",
                 "io_lane lane=worker",
                 "sync_end node=disk0 errno=0",
                 "drain_begin node=disk0",
                 "intent_end offset=65536 length=4096 errno=0",
                 "commit_end success=1"):
        equal("TRACE " + line in log, True, "the log has '%s': %s" % (line, log[-3000:]))


main()
