#!/usr/bin/python3
# SPDX-FileCopyrightText: 2026 The Tidemark authors
# SPDX-License-Identifier: GPL-2.0-or-later
"""What the shells complete: the program's answers, and each shell's script in that shell."""
import os
import pty
import select
import socket
import subprocess
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from harness import *

SCRIPTS = os.path.join(SRCDIR, "packaging", "completion")
MIB = 1 << 20
NO_DAEMON = {"TIDEMARK_SOCKET": "/nosuch"}


def answers(*words, env=NO_DAEMON, cwd=None):
    """Whether files fit, and the words; without what they mean."""
    p = run(TIDEMARK, "--complete", *words, env=env, cwd=cwd)
    equal(p.stderr, "")
    first, *rest = p.stdout.splitlines()
    return first == "files", [line.split("\t")[0] for line in rest]


@test
def tables(tmp):
    "commands, options, values, QMP's commands, arguments and events come from the tables, points from a repository"
    def words(*line):
        files, found = answers(*line, cwd=tmp)
        equal(files, False, line)
        return found

    equal(words("im"), ["image"])
    equal(set(words("bitmap", "")) >= {"add", "remove", "merge", "check"}, True)
    equal(words("bitmap", "check", "--re"), ["--repair"])
    equal(words("image", "map", "--back"), ["--backing-names"])
    equal(words("image", "map", "--backing-names", ""), ["directory", "none", "any"])
    equal(words("image", "map", "--backing-names=n"), ["--backing-names=none"])
    equal(words("image", "map", "-f", ""), ["raw", "qcow2"])
    equal(words("image", "check", "-r", "l"), ["leaks"])
    equal(words("map", "--x"), [])
    equal(words("qmp", "blockdev-a"), ["blockdev-add"])
    equal(words("qmp", "block-export-del", "m"), ["mode="])
    equal(set(words("qmp", "blockdev-add", "cache.")), {"cache.direct=", "cache.no-flush="})
    equal(words("qmp", "nbd-server-start", "addr.type=inet", "addr.data.h"), ["addr.data.host="])
    equal(words("qmp", "nope", "x"), [])
    equal(words("events", "NBD_CLIENT_C"), ["NBD_CLIENT_CONNECTED"])
    equal(words("events", "JOB_STATUS_CHANGE", "NBD_CLIENT_C"), ["NBD_CLIENT_CONNECTED"])
    equal(words("nosuch", "x"), [])
    for early in (["--json", "--socket", "sock"], ["--socket=sock"]):
        equal(words(*early, "im"), ["image"])
        equal(words(*early, "bitmap", "rot"), ["rotate"])
        equal(words(*early, "qmp", "block-export-del", "m"), ["mode="])
    for line in ("image", "map", ""), ("image", "map", "-f", "raw", ""), ("copy", "a", ""), ("--socket", ""), \
                ("backup", "a", "b", ""), ("verify", ""), ("map", "--socket="):
        equal(answers(*line), (True, []), line)
    for name in ("repo/tidemark-repository.json", "repo/monday/manifest.json", "repo/muddle/manifest.json.partial"):
        os.makedirs(os.path.join(tmp, os.path.dirname(name)), exist_ok=True)
        with open(os.path.join(tmp, name), "w"):
            pass
    equal(words("verify", "repo", "m"), ["monday"])
    equal(words("restore", "repo", "--at", ""), ["monday", "latest"])
    equal(words("backup", "disk0", "repo", "--name", ""), [])


@test
def daemon(tmp):
    "nodes, exports and bitmaps are those of the daemon; without one, or with one that hangs, there are none, soon"
    with Daemon(tmp, *disk(tmp, "disk0", size=MIB), *disk(tmp, "disk1", size=MIB, export=False)) as d:
        env = {"TIDEMARK_SOCKET": d.qmp_path}
        for node, name in ("disk0", "monday"), ("disk0", "muddle"), ("disk1", "other"):
            d.qmp("block-dirty-bitmap-add", node=node, name=name)
        for line, expected in {("bitmap", "list", "di"): (True, ["disk0", "disk1"]),
                               ("bitmap", "clear", ""): (False, ["disk0", "disk1"]),
                               ("bitmap", "clear", "disk0", "mo"): (False, ["monday"]),
                               ("bitmap", "clear", "disk1", ""): (False, ["other"]),
                               ("bitmap", "merge", "disk0", "monday", "m"): (False, ["monday", "muddle"]),
                               ("bitmap", "rotate", "disk0", "mo"): (False, ["monday"]),
                               ("bitmap", "rotate", "disk0", "monday", ""): (False, []),
                               ("bitmap", "add", "disk0", ""): (False, []),
                               ("bitmap", "offer", ""): (False, ["disk0"]),
                               ("bitmap", "offer", "disk0", "--node", ""): (False, ["disk0", "disk1"]),
                               ("map", ""): (False, ["disk0"]),
                               ("map", "disk0", "--bitmap", "mo"): (False, ["monday"]),
                               ("map", "disk0", "--bitmap=mo"): (False, ["--bitmap=monday"]),
                               ("copy", "disk0", "--bitmap", ""): (False, ["monday", "muddle"]),
                               ("copy", "d"): (True, ["disk0"]),
                               ("qmp", "block-dirty-bitmap-clear", "node=disk1"): (False, ["node=disk1"])}.items():
            files, found = answers(*line, env=env)
            equal((files, sorted(found)), expected, line)
        equal(answers("--socket", d.qmp_path, "map", ""), (False, ["disk0"]))
    equal(answers("map", "", env=env), (False, []))
    with socket.socket(socket.AF_UNIX) as s:
        s.bind(os.path.join(tmp, "deaf"))
        s.listen()
        p = run(TIDEMARK, "--complete", "map", "", env={"TIDEMARK_SOCKET": os.path.join(tmp, "deaf")})
        equal((p.stdout, p.stderr), ("", ""))


class Shell:
    """An interactive shell on a terminal. line(): what it makes of the keys @text and a tab."""

    def __init__(self, tmp, *command, setup):
        self.out = os.path.join(tmp, "line")
        env = {**os.environ, **NO_DAEMON, "PATH": os.path.dirname(TIDEMARK) + ":" + os.environ["PATH"], "TERM": "dumb",
               "OUT": self.out, "SCRIPTS": SCRIPTS, "HOME": tmp}
        self.master, slave = pty.openpty()
        self.process = subprocess.Popen(command, stdin=slave, stdout=slave, stderr=slave, env=env, cwd=tmp,
                                        start_new_session=True)
        os.close(slave)
        self.type(setup + "\n")

    def type(self, text):
        os.write(self.master, text.encode())

    def line(self, text):
        self.type(text + "\t\x18")
        wait_until(self.said, "what '%s' becomes" % text)
        with open(self.out) as f:
            said = f.read()
        os.unlink(self.out)
        self.type("\x15")
        return said

    def said(self):
        "Whether the line is there; what the shell echoes is read, so that it never waits for that."
        while select.select([self.master], [], [], 0)[0]:
            os.read(self.master, 4096)
        return os.path.exists(self.out)

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.process.kill()
        self.process.wait()
        os.close(self.master)


def completes(tmp, shell):
    image(os.path.join(tmp, "disk.img"), MIB)
    os.symlink(TIDEMARK, os.path.join(tmp, "tidemark"))  # HOME
    for text, becomes in (("tidemark im", "tidemark image "), ("~/tidemark im", "~/tidemark image "),
                          ("$HOME/tidemark im", "$HOME/tidemark image "), ("tidemark bitmap rot", "tidemark bitmap rotate "),
                          ("tidemark image map --back", "tidemark image map --backing-names "),
                          ("tidemark image map --backing-names=no", "tidemark image map --backing-names=none "),
                          ("tidemark image map di", "tidemark image map disk.img "),
                          ("tidemark qmp block-export-del m", "tidemark qmp block-export-del mode="),
                          ("tidemark events NBD_CLIENT_C", "tidemark events NBD_CLIENT_CONNECTED ")):
        equal(shell.line(text), becomes, text)


@test(needs=["bash"])
def bash(tmp):
    "bash completes words, values after '=', files and arguments without a space"
    with Shell(tmp, "bash", "--norc", "--noprofile", "-i", setup="""source "$SCRIPTS/tidemark.bash";
               line() { printf %s "$READLINE_LINE" >"$OUT.new"; mv "$OUT.new" "$OUT"; }; bind -x '"\\C-x": line'""") as shell:
        completes(tmp, shell)


@test(needs=["zsh"])
def zsh(tmp):
    "zsh does, too"
    with Shell(tmp, "zsh", "-f", "-i", setup="""fpath=("$SCRIPTS" $fpath); autoload -Uz compinit; compinit -u -D;
               line() { print -rn -- "$BUFFER" >"$OUT.new"; mv "$OUT.new" "$OUT"; }; zle -N line; bindkey -e;
               bindkey '^X' line""") as shell:
        completes(tmp, shell)


@test(needs=["fish"])
def fish(tmp):
    "fish does, and shows what the words mean"
    image(os.path.join(tmp, "disk.img"), MIB)

    def complete(line):
        p = run("fish", "--no-config", "-c", "source %s/tidemark.fish; complete -C %r" % (SCRIPTS, line), cwd=tmp,
                env={**NO_DAEMON, "HOME": tmp, "PATH": os.path.dirname(TIDEMARK) + ":" + os.environ["PATH"]})
        equal(p.stderr, "")
        return p.stdout.splitlines()

    equal(complete("tidemark im"),
          ["image\tCreates, inspects, changes and repairs image files, without a daemon"])
    equal([w.split("\t")[0] for w in complete("tidemark bitmap ro")], ["rotate"])
    os.symlink(TIDEMARK, os.path.join(tmp, "tidemark"))
    equal([w.split("\t")[0] for w in complete("~/tidemark bitmap ro")], ["rotate"])
    equal(sorted(complete("tidemark image map -f ")), ["qcow2", "raw"])
    equal(complete("tidemark image map --backing-names=no"), ["--backing-names=none"])
    equal([w.split("\t")[0] for w in complete("tidemark image map di")], ["disk.img"])
    equal(complete("tidemark qmp block-export-del m"), ["mode="])
    equal(complete("tidemark nosuch x"), [])


main()
