# SPDX-FileCopyrightText: 2026 The Tidemark authors
# SPDX-License-Identifier: GPL-2.0-or-later
"""A daemon with disks that are backed up into a repository, and an agent in a guest."""
import random

from harness import *

KIB, MIB = 1 << 10, 1 << 20
SIZE = 8 * MIB
TAG_RE = r"@[0-9a-f]{8}-[0-9a-f]{16}$"


def pattern(seed, length):
    return random.Random(str(seed)).randbytes(length)


class Kit:
    """A daemon with disks, and a repository for them."""

    def __init__(self, tmp, *disks, size=SIZE, **options):
        self.tmp, self.disks = tmp, disks
        self.repo = os.path.join(tmp, "repo")
        self.args = [a for name in disks for a in disk(tmp, name, size, **options)]
        self.start()

    def start(self):
        self.d = Daemon(self.tmp, *self.args)

    def write(self, name, *pieces):
        h = self.d.nbd(name)
        for offset, data in pieces:
            if data is None:
                h.zero(64 * KIB, offset)
            else:
                h.pwrite(data, offset)
        h.flush()
        h.shutdown()

    def content(self, name):
        with open(os.path.join(self.tmp, name + ".img"), "rb") as f:
            return f.read()

    def command(self, *args, disks=None):
        return [TIDEMARK, "backup", "--socket", self.d.qmp_path, *args, *(disks or self.disks), self.repo]

    def backup(self, *args, check=True, disks=None):
        return run(*self.command(*args, disks=disks), check=check)

    def events(self, *args, check=True, disks=None):
        out = self.backup("--json", *args, check=check, disks=disks).stdout
        return [json.loads(line) for line in out.splitlines()]

    def points(self):
        """The names of the points that are there, the oldest first."""
        found = []
        for name in os.listdir(self.repo) if os.path.isdir(self.repo) else []:
            path = os.path.join(self.repo, name, "manifest.json")
            if os.path.exists(path):
                with open(path) as f:
                    found.append((json.load(f)["instant"], name))
        return [name for _, name in sorted(found)]

    def manifest(self, point):
        with open(os.path.join(self.repo, point, "manifest.json")) as f:
            return json.load(f)

    def kinds(self, point=None):
        return [d["kind"] for d in self.manifest(point or self.points()[-1])["disks"]]

    def checkpoints(self, node):
        info = next(n for n in self.d.qmp("query-named-block-nodes", flat=True) if n["node-name"] == node)
        return [b["name"] for b in info.get("dirty-bitmaps", [])]

    def restored(self, point, name):
        """The disk at that point, by qemu-img alone."""
        out = os.path.join(self.tmp, "out.raw")
        run("qemu-img", "convert", "-O", "raw", os.path.join(self.repo, point, name + ".qcow2"), out)
        with open(out, "rb") as f:
            return f.read()

    def check(self, point, name, expected):
        got = self.restored(point, name)
        if got != expected:
            wrong = [i for i in range(0, len(expected), 4096) if got[i:i + 4096] != expected[i:i + 4096]]
            fail("point %s, disk %s: %d bytes, expected %d; differs at %s" % (
                point, name, len(got), len(expected), wrong[:8]))


class Agent(threading.Thread):
    """A guest agent, as far as it matters. silent: commands that it does not answer."""

    def __init__(self, path, silent=(), failing=()):
        super().__init__(daemon=True)
        self.frozen, self.log, self.silent, self.failing = False, [], set(silent), set(failing)
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(path)
        self.listener.listen(1)
        self.start()

    def run(self):
        while True:
            c, _ = self.listener.accept()
            with c:
                c.sendall(b'{"return": 99}\n{"return"')  # left over from somebody else
                try:
                    for line in c.makefile("rb"):
                        request = json.loads(line.lstrip(b"\xff"))
                        self.answer(c, request["execute"], request.get("arguments", {}))
                except ConnectionError:
                    pass  # killed before it has read the answer

    def answer(self, c, command, arguments):
        self.log.append(command)
        if command in self.silent:
            return
        if command in self.failing:
            c.sendall(b'{"error": {"class": "GenericError", "desc": "can not"}}\n')
        elif command == "guest-sync-delimited":
            c.sendall(b"\xff" + json.dumps({"return": arguments["id"]}).encode() + b"\n")
        elif command == "guest-fsfreeze-status":
            c.sendall(b'{"return": "%s"}\n' % (b"frozen" if self.frozen else b"thawed"))
        elif command == "guest-fsfreeze-freeze" and self.frozen:
            c.sendall(b'{"error": {"class": "CommandNotFound", "desc": "the agent is in frozen state"}}\n')
        else:
            self.frozen = command == "guest-fsfreeze-freeze"
            c.sendall(b'{"return": 2}\n')
