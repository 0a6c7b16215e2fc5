# SPDX-FileCopyrightText: 2026 The Tidemark authors
# SPDX-License-Identifier: GPL-2.0-or-later
"""Scripts that are played to qemu-storage-daemon and to tidemarkd, and what each of them says, to be compared."""
import random

from harness import *

M = 1 << 20
K = 1 << 10
CLUSTER = 64 * K
NEEDS = ["qemu-storage-daemon", "qemu-img"]


def fill(path, size, seed):
    """Data in the first half of each MiB."""
    rnd = random.Random(seed)
    return image(path, size, [(at, rnd.randbytes(M // 2)) for at in range(0, size, M)])


class Stage:
    """One daemon, source a (exported) and target b, and all that it said."""

    def __init__(self, tmp, name, binary, size=4 * M, target="file"):
        self.tmp, self.name, self.size = tmp, name, size
        self.said = []
        self.source, self.target = fill(self.path("a"), size, 1), image(self.path("b"), size)
        third = image(self.path("c"), size // 2)
        self.d = Daemon(
            tmp, "--blockdev", "file,node-name=fa,filename=" + self.source, "--blockdev", "raw,node-name=a,file=fa",
            "--blockdev", "file,node-name=fb,filename=" + self.target, "--blockdev", "raw,node-name=b,file=fb",
            "--blockdev", "file,node-name=c,filename=" + third,
            "--export", "nbd,id=e,node-name=a,name=disk0,writable=on", binary=binary, name=name)
        self.h = self.d.nbd()

    def path(self, what):
        return os.path.join(self.tmp, self.name + what)

    def __call__(self, command, arguments=None, **more):
        """Does it and notes the answer."""
        try:
            answer = self.d.qmp(command, arguments, **more)
        except QMPError as e:
            answer = e.cls, re.sub("(?<=#block)[0-9]+|Could not (create|replace) node: (?=Permission)", "", e.bare)
        self.said.append((command, answer))
        return answer

    def backup(self, **more):
        return self("blockdev-backup", dict(dict(device="a", target="b", sync="full"), **{"job-id": "j"}), **more)

    def until(self, status, job="j"):
        self.d.monitor.wait_event("JOB_STATUS_CHANGE", status=status, id=job)

    def note(self, *values):
        self.said.append(values)

    def bitmap(self, name="b0"):
        self.said.append({k: v for k, v in self.d.bitmap("a", name).items() if k in (
            "name", "count", "recording", "busy", "persistent", "granularity")})

    def jobs(self, progress=True):
        for info in self.d.qmp("query-block-jobs"):
            self.said.append({k: v for k, v in info.items() if progress or k not in ("offset", "len")})

    def same(self, before=None):
        """Whether the target is what the source was."""
        with open(self.source, "rb") as f, open(self.target, "rb") as g:
            self.said.append((before or f.read()) == g.read())

    def content(self):
        with open(self.source, "rb") as f:
            return f.read()


def events(stage, last="null", count=1):
    """Notes them up to the end of @count jobs, but for pauses, whose number differs, and how far a canceled one was."""
    seen = []
    while sum(e[0] == last for e in seen) < count:
        queue = stage.d.monitor.events
        event = queue.pop(0) if queue else stage.d.monitor.read()
        data = event["data"]
        if not event["event"].startswith(("JOB_", "BLOCK_JOB_")) or data.get("status") in ("running", "paused"):
            continue
        if event["event"] != "BLOCK_JOB_COMPLETED" or "error" in data:
            data.pop("offset", None)
        seen.append((data.pop("status", event["event"]), sorted(data.items())))
    stage.said += seen


def both(tmp, play, ways=(None,), **more):
    """Plays to each and compares. @ways: of doing it, of which QSD has the first one only; the stage has it as .way."""
    results = []
    for name, binary, way in [("q", QSD, ways[0])] + [("t%d" % i, None, way) for i, way in enumerate(ways)]:
        stage = Stage(tmp, name, binary, **more)
        stage.way = way
        play(stage)
        stage.h.shutdown()
        stage.d.stop()
        results.append(stage.said)
    for ours in results[1:]:
        for i, (mine, other) in enumerate(zip(ours, results[0])):
            equal(mine, other, "at %d, after %s" % (i, shown(results[0][max(0, i - 2):i])))
        equal(len(ours), len(results[0]))
