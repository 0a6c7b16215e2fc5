# SPDX-FileCopyrightText: 2026 The Tidemark authors
# SPDX-License-Identifier: GPL-2.0-or-later
"""A repository of backups as docs/repository.md has it, written without Tidemark: for tests of what reads one."""
import hashlib
import json
import os
import struct
import uuid
from harness import run

BLOCK = 65536
NONE, DATA, ZERO = 0, 1, 2


class Repository:
    """Makes one at .path; .disks has the content of each disk at each point: {(point, disk): bytes}."""

    def __init__(self, path):
        self.path, self.contents, self.instant = path, {}, 1700000000 * 10 ** 9
        os.makedirs(path)
        self.id = str(uuid.uuid4())
        self.write("tidemark-repository.json", json.dumps(
            {"format": "tidemark-repository", "version": 1, "id": self.id}, indent=2) + "\n")
        self.write("lock", "")

    def checkpoint(self, point):
        """What the bitmap is called that began with it."""
        return "%s@%s-00000014" % (point, self.id[:8])

    def write(self, name, data):
        with open(os.path.join(self.path, name), "wb") as f:
            f.write(data if isinstance(data, bytes) else data.encode())

    def file(self, point, disk, suffix="qcow2"):
        return os.path.join(self.path, point, disk + "." + suffix)

    def add(self, point, parent=None, **disks):
        """A point of these disks (bytes), each an increment to @parent or a full. Returns the manifest."""
        os.makedirs(os.path.join(self.path, point))
        entries = [self._add_disk(point, parent, name, content) for name, content in sorted(disks.items())]
        self.instant += 60 * 10 ** 9
        manifest = {"format": "tidemark-point", "version": 1, "point": point, "id": str(uuid.uuid4()),
                    "instant": self.instant, "time": self._time(), "tool": "test 1", "disks": entries}
        text = json.dumps(manifest, indent=2) + "\n"
        manifest["sha256"] = hashlib.sha256(text.encode()).hexdigest()
        self.write(os.path.join(point, "manifest.json"), json.dumps(manifest, indent=2) + "\n")
        return manifest

    def _time(self):
        import datetime
        return datetime.datetime.fromtimestamp(self.instant // 10 ** 9, datetime.timezone.utc).strftime(
            "%Y-%m-%dT%H:%M:%S.000000000Z")

    def _add_disk(self, point, parent, name, content):
        self.contents[point, name] = content
        before = self.contents[parent, name] if parent else None
        kinds = []
        for at in range(0, len(content), BLOCK):
            block = content[at:at + BLOCK]
            zero = not block.strip(b"\0")
            same = before is not None and block == before[at:at + BLOCK]
            kinds.append(NONE if same or zero and before is None else ZERO if zero else DATA)
        self._image(point, parent, name, content, kinds)
        tree = self._hashes(point, name, content, kinds)
        sizes = {kind: sum(min(BLOCK, len(content) - i * BLOCK) for i, k in enumerate(kinds) if k == kind)
                 for kind in (DATA, ZERO)}
        entry = {"name": name, "size": len(content), "kind": "incremental" if parent else "full",
                 "file": name + ".qcow2", "hashes": name + ".hashes"}
        if parent:
            entry["parent"] = parent
        return dict(entry, stored=sizes[DATA], zero=sizes[ZERO], tree=tree,
                    source={"type": "test", "checkpoint": self.checkpoint(point)})

    def _image(self, point, parent, name, content, kinds):
        path = self.file(point, name)
        size = -(-len(content) // 512) * 512
        backing = ["-b", "../%s/%s.qcow2" % (parent, name), "-F", "qcow2"] if parent else []
        run("qemu-img", "create", "-q", "-f", "qcow2", *backing, path, size)
        raw = os.path.join(self.path, "raw.tmp")
        commands = []
        for i, kind in enumerate(kinds):
            length = min(BLOCK, size - i * BLOCK)
            if kind == DATA:
                part = "%s.%d" % (raw, i)
                with open(part, "wb") as f:
                    f.write(content[i * BLOCK:i * BLOCK + BLOCK].ljust(length, b"\0"))
                commands += ["-c", "write -s %s %d %d" % (part, i * BLOCK, length)]
            elif kind == ZERO:
                commands += ["-c", "write -z %d %d" % (i * BLOCK, length)]
        for at in range(0, len(commands), 200):
            run("qemu-io", "-f", "qcow2", *commands[at:at + 200], path)
        for i in range(len(kinds)):
            if os.path.exists("%s.%d" % (raw, i)):
                os.unlink("%s.%d" % (raw, i))

    def _hashes(self, point, name, content, kinds):
        runs = []
        for i, kind in enumerate(kinds):
            length = min(BLOCK, len(content) - i * BLOCK)
            if kind != NONE and runs and runs[-1][2] == kind and sum(runs[-1][:2]) == i * BLOCK:
                runs[-1][1] += length
            elif kind != NONE:
                runs.append([i * BLOCK, length, kind])
        data = struct.pack("<8sIIQQ32x", b"TMHASHES", 1, BLOCK, len(content), len(runs))
        data += b"".join(struct.pack("<QQII", *r, 0) for r in runs)
        for i, kind in enumerate(kinds):
            if kind == DATA:
                data += hashlib.sha256(content[i * BLOCK:i * BLOCK + BLOCK]).digest()
        self.write(os.path.join(point, name + ".hashes"), data)
        return hashlib.sha256(data).hexdigest()
