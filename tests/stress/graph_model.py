#!/usr/bin/python3
# SPDX-FileCopyrightText: 2026 The Tidemark authors
# SPDX-License-Identifier: GPL-2.0-or-later
# timeout: 120
"""Random changes of the graph against a model of what must be dirty.

Images are opened, put above each other by snapshots and reopenings, get filters and lose them, are closed and opened
again, while clients write to all exports. Bitmaps begin, end, are cleared and merged meanwhile, in transactions
that may fail. The daemon is stopped or killed. After each change every bitmap that records must be dirty wherever its
node shows something else than when the bitmap began.

STRESS_SECONDS: for so long, from seeds at random. STRESS_SEED: the round of that seed. Writers race with the changes, so
a seed repeats what is tried, but not when. A failure names the seed of its round and its last changes."""
import itertools
import random

from harness import *
import nbd

LONG = float(os.environ.get("STRESS_SECONDS") or 0)
SEED = os.environ.get("STRESS_SEED")
STEPS, SHOWN = 60, 40
KIB = 1 << 10
SIZE, UNIT = 256 * KIB, 4 * KIB
IMAGES = 7
FILTERS = "raw", "window", "copy-on-read", "preallocate", "compress", "throttle"


class Mark:
    """What the model knows of a bitmap: the units that must be dirty, and what its node showed when last compared."""

    def __init__(self, home, persistent, enabled=True):
        self.home = home  # the file of the disk that it was made for
        self.persistent, self.enabled = persistent, enabled
        self.content, self.must = None, set()

    def see(self, content):
        """The node shows this now."""
        if self.enabled and self.content is not None:
            self.must |= {at for at in range(0, max(len(content), len(self.content)), UNIT)
                          if content[at:at + UNIT] != self.content[at:at + UNIT]}
        self.content = content


def path_of(nodes, node):
    d = nodes[node]
    return d["filename"] if "filename" in d else path_of(nodes, d["file"])


class Round:
    def __init__(self, tmp, seed):
        self.tmp, self.random = tmp, random.Random(seed)
        self.nodes = {}    # name: its definition, with names of children
        self.exports = {}  # name of a writable one: the node
        self.handles = {}
        self.marks = {}    # (node, bitmap)
        self.closed = {}   # (path, bitmap): of those that were closed with their disk
        self.log, self.names = [], 0
        self.free, self.images = [], set()  # paths; of qcow2 images
        self.shifted = set()  # nodes that a snapshot put above another file than their bitmaps are kept for
        for i in range(IMAGES):
            path = os.path.join(tmp, "i%d" % i)
            if i % 3 == 0:
                image(path, SIZE, [(at, self.data(UNIT)) for at in range(0, SIZE, 3 * UNIT)])
            else:
                run("qemu-img", "create", "-q", "-f", "qcow2", "-o", self.random.choice(
                    ["cluster_size=4k", "cluster_size=16k", "cluster_size=64k"]), path, SIZE)
                self.images.add(path)
            self.free.append(path)
        self.d = Daemon(tmp, *self.objects())

    @staticmethod
    def objects():
        return ["--object", "throttle-group,id=g"]

    # ---- small things

    def data(self, n):
        return bytes(self.random.getrandbits(8) for _ in range(16)) * (n // 16)

    def name(self, what):
        self.names += 1
        return "%s%d" % (what, self.names)

    def path(self, node):
        """Of the file that has the node's data."""
        return path_of(self.nodes, node)

    def children(self, node):
        return [c for c in (self.nodes[node].get("file"), self.nodes[node].get("backing")) if c]

    def stands_on(self, node, below):
        return node == below or any(self.stands_on(c, below) for c in self.children(node))

    def try_to(self, command, arguments):
        """Whether it worked."""
        try:
            self.d.qmp(command, arguments)
        except QMPError as e:
            self.log.append("%s %s: %s" % (command, json.dumps(arguments), e.desc))
            return False
        self.log.append("%s %s" % (command, json.dumps(arguments)))
        return True

    # ---- clients

    def write(self, name, plan):
        h = self.handles[name]
        for kind, at, n, data in plan:
            try:
                if kind == "write":
                    h.pwrite(data, at)
                elif kind == "zero":
                    h.zero(n, at)
                elif kind == "trim":
                    h.trim(n, at)
                elif kind == "flush":
                    h.flush()
                else:
                    h.pread(n, at)
            except nbd.Error as e:
                if e.errno not in ("EIO", "EPERM", "EINVAL", "ENOSPC", "ENOTSUP"):
                    return

    def plans(self):
        for name in self.handles:
            size = self.handles[name].get_size()
            plan = []
            for _ in range(self.random.randrange(8)):
                at = self.random.randrange(size // 512) * 512
                n = min(self.random.choice([512, UNIT, UNIT, 5 * UNIT]), size - at)
                kind = self.random.choice(["write", "write", "write", "zero", "trim", "read", "flush"])
                plan.append((kind, at, n, self.data(n)))
            yield name, plan

    # ---- changes of the graph

    def add(self, node, definition):
        if self.try_to("blockdev-add", dict(definition, **{"node-name": node})):
            self.nodes[node] = definition
            return True
        return False

    def open_image(self):
        if not self.free:
            return
        path = self.free.pop(self.random.randrange(len(self.free)))
        f = self.name("f")
        if not self.add(f, {"driver": "file", "filename": path, "discard": "unmap"}) or path not in self.images:
            return
        if self.random.random() < 0.2:
            p = self.name("p")
            f = p if self.add(p, {"driver": "preallocate", "file": f, "prealloc-size": 65536,
                                  "prealloc-align": 4096}) else f
        q = self.name("q")
        backing = self.random.choice([None, None, *self.tops()])
        self.add(q, {"driver": "qcow2", "file": f, "backing": backing, "discard": "unmap"}) or \
            self.add(q, {"driver": "qcow2", "file": f, "backing": None, "discard": "unmap"})

    def tops(self):
        """Nodes that present disks."""
        return [n for n, d in self.nodes.items() if d["driver"] != "preallocate" and self.shown(n)]

    def shown(self, node):
        """Whether it presents a disk: it is no file of an image."""
        d = self.nodes[node]
        return d["filename"] not in self.images if "filename" in d else d["driver"] == "qcow2" or self.shown(d["file"])

    def any_node(self):
        return self.random.choice(self.tops() or [None])

    def open_filter(self):
        below, kind = self.any_node(), self.random.choice(FILTERS)
        if not below:
            return
        d = {"driver": "raw" if kind == "window" else kind, "file": below}
        if kind == "window":
            d.update(offset=UNIT, size=SIZE // 2)
        if kind == "throttle":
            d["throttle-group"] = "g"
        self.add(self.name(kind[0]), d)

    def close(self):
        node = self.random.choice(list(self.nodes) or [None])
        if not node or not self.try_to("blockdev-del", {"node-name": node}):
            return
        self.keep(node)
        d = self.nodes.pop(node)
        if "filename" in d:
            self.free.append(d["filename"])

    def keep(self, node):
        """Its bitmaps are closed with its disk."""
        for key in [k for k in self.marks if k[0] == node]:
            mark = self.marks.pop(key)
            if mark.persistent:
                self.closed[mark.home, key[1]] = mark

    def reopen(self):
        changed, definitions = {}, []
        for _ in range(self.random.choice([1, 1, 2])):
            node = self.random.choice([n for n, d in self.nodes.items() if "file" in d] or [None])
            if not node:
                return
            d = dict(changed.get(node) or self.nodes[node])
            if "backing" in d and self.random.random() < 0.7:
                d["backing"] = self.random.choice([None, *self.tops()])
            elif self.random.random() < 0.8:
                near = [n for n in self.nodes if n == d["file"] or d["file"] in self.children(n)
                        or n in self.children(d["file"])]
                d["file"] = self.random.choice(near if self.random.random() < 0.7 else list(self.nodes))
            else:
                d["read-only"] = not d.get("read-only", False)
            changed[node] = d
        definitions = [dict(d, **{"node-name": n}) for n, d in changed.items()]
        if not self.try_to("blockdev-reopen", {"options": definitions}):
            return
        homes = {k: self.path(k[0]) for k in self.marks}
        self.nodes.update(changed)
        for key, home in homes.items():
            if self.path(key[0]) != home:
                mark = self.marks.pop(key)
                if mark.persistent:
                    self.closed[mark.home, key[1]] = mark

    def moved(self, node, overlay):
        """A snapshot was taken."""
        for n, d in self.nodes.items():
            for child in ("file", "backing"):
                if d.get(child) == node and not self.stands_on(overlay, n):
                    self.nodes[n] = dict(d, **{child: overlay})
                    self.shifted |= {k for k in self.nodes if self.stands_on(k, n)}
        self.nodes[overlay] = dict(self.nodes[overlay], backing=node)
        for e, n in self.exports.items():
            self.exports[e] = overlay if n == node else n

    def snapshot_action(self):
        overlays = [n for n, d in self.nodes.items() if d["driver"] == "qcow2" and not d["backing"]]
        node = self.any_node()
        overlay = self.random.choice(overlays or [None])
        return node and overlay and {"type": "blockdev-snapshot", "data": {"node": node, "overlay": overlay}}

    def bitmap_action(self):
        known = list(self.marks)
        kind = self.random.choice(["add", "add", "add", "clear", "merge", "enable", "disable", "remove"])
        if kind == "add" or not known:
            node = self.any_node()
            return node and {"type": "block-dirty-bitmap-add", "data": {
                "node": node, "name": self.name("b"), "granularity": self.random.choice([512, 4096, 16384]),
                "persistent": self.random.random() < 0.6}}
        node, name = self.random.choice(known)
        data = {"node": node, "name": name}
        if kind == "merge":
            other = self.random.choice(known)
            data = {"node": node, "target": name, "bitmaps": [{"node": other[0], "name": other[1]}]}
        return {"type": "block-dirty-bitmap-" + kind, "data": data}

    def transact(self):
        actions = [self.snapshot_action() if self.random.random() < 0.4 else self.bitmap_action()
                   for _ in range(self.random.choice([1, 1, 2, 3, 4]))]
        if self.random.random() < 0.1:
            actions.append({"type": "abort", "data": {}})
        actions = [a for a in actions if a]
        if actions and self.try_to("transaction", {"actions": actions}):
            homes = {n: self.path(n) for n in self.nodes}
            for a in actions:
                self.acted(a["type"], a["data"], homes)

    def acted(self, kind, data, homes):
        if kind == "blockdev-snapshot":
            return self.moved(data["node"], data["overlay"])
        if kind == "block-dirty-bitmap-merge":
            source = self.marks.get((data["bitmaps"][0]["node"], data["bitmaps"][0]["name"]))
            self.marks[data["node"], data["target"]].must |= source.must if source else set()
            return None
        key = data["node"], data["name"]
        if kind.endswith("add"):
            self.marks[key] = Mark(homes[data["node"]], data["persistent"])
        elif kind.endswith("remove"):
            self.marks.pop(key, None)
        elif kind.endswith("clear"):
            self.marks[key].must.clear()
            self.marks[key].content = None
        else:
            self.marks[key].enabled = kind.endswith("enable")
            self.marks[key].content = None
        return None

    def export(self):
        node = self.any_node()
        if self.exports and self.random.random() < 0.3:
            name = self.random.choice(list(self.exports))
            self.handles.pop(name).shutdown()
            if self.try_to("block-export-del", {"id": name, "mode": "hard"}):
                self.d.monitor.wait_event("BLOCK_EXPORT_DELETED", id=name)
                del self.exports[name]
        elif node and len(self.exports) < 4:
            name = self.name("e")
            if self.try_to("block-export-add", {"type": "nbd", "id": name, "name": name, "node-name": node,
                                                "writable": True}):
                self.exports[name] = node
                self.handles[name] = self.d.nbd(name)

    def above(self, n, above, nodes):
        d = nodes.get(above)
        return n == above or d and any(self.above(n, c, nodes) for c in (d.get("file"), d.get("backing")) if c)

    def restart(self):
        self.handles.clear()
        how = self.random.choice(["stop", "kill"])
        self.log.append("restart " + how)
        getattr(self.d, how)()
        nodes, exports = self.nodes, self.exports
        self.nodes, self.exports = {}, {}
        sure = set()
        for (node, bitmap), mark in self.marks.items():
            if mark.persistent:
                self.closed[mark.home, bitmap] = mark
                if mark.home == path_of(nodes, node) and node not in self.shifted:
                    sure.add((mark.home, bitmap))
        before, self.marks = self.marks, {}
        self.d = Daemon(self.tmp, *self.objects())
        while nodes:
            ready = [n for n, d in nodes.items() if not any(c in nodes for c in (d.get("file"), d.get("backing")))]
            for n in ready:
                d = nodes.pop(n, None)
                if not d:
                    continue
                if self.try_to("blockdev-add", dict(d, **{"node-name": n})):
                    self.nodes[n] = d
                    continue
                sure -= {(m.home, k[1]) for k, m in before.items() if self.above(n, k[0], nodes)}
                nodes = {k: v for k, v in nodes.items() if not self.above(n, k, nodes)}
        infos = self.infos()
        lost = sure - {(self.path(n), b) for n in infos if n in self.nodes for b in infos[n]}
        if lost:
            fail("not there after %s: %s" % (how, lost))
        for name, n in exports.items():
            if self.try_to("block-export-add", {"type": "nbd", "id": name, "name": name, "node-name": n,
                                                "writable": True}):
                self.exports[name] = n
                self.handles[name] = self.d.nbd(name)

    # ---- comparing

    def infos(self):
        return {i["node-name"]: {b["name"]: b for b in i.get("dirty-bitmaps", [])}
                for i in self.d.qmp("query-named-block-nodes", flat=True)}

    def learn(self, infos):
        """Bitmaps that came with a disk, and those that went with one."""
        for node in self.nodes:
            for name, info in infos[node].items():
                if (node, name) in self.marks or not name:
                    continue
                mark = self.closed.pop((self.path(node), name), None)
                if mark and mark.persistent:
                    layered = any("backing" in self.nodes[n] for n in self.nodes if self.stands_on(node, n))
                    if layered or (mark.content is not None and self.size(node) != len(mark.content)):
                        mark.content = None
                    self.marks[node, name] = mark
                else:
                    self.marks[node, name] = Mark(self.path(node), info["persistent"], info["recording"])
        for key in list(self.marks):
            if key[1] not in infos.get(key[0], {}):
                self.log.append("gone: %s %s" % key)
                del self.marks[key]

    def size(self, node):
        i, = [i for i in self.d.qmp("query-named-block-nodes", flat=True) if i["node-name"] == node]
        return i["image"]["virtual-size"]

    def look(self, node, bitmaps):
        """What it shows, and what is dirty in each of them; None: it can't be exported."""
        try:
            self.d.qmp("block-export-add", {"type": "nbd", "id": "look", "name": "look", "node-name": node,
                                            "bitmaps": [{"node": node, "name": b} for b in bitmaps]})
        except QMPError as e:
            self.log.append("look at %s %s: %s" % (node, bitmaps, e.desc))
            return None
        h = self.d.nbd("look", ["qemu:dirty-bitmap:" + b for b in bitmaps])
        content = bytes(h.pread(h.get_size(), 0))
        shown = {b: dirty(h, b) for b in bitmaps}
        h.shutdown()
        self.d.unexport("look")
        return content, shown

    def compare(self):
        infos = self.infos()
        self.learn(infos)
        for node in {n for n, _ in self.marks}:
            names = [b for n, b in self.marks if n == node and not infos[n][b].get("inconsistent")]
            seen = self.look(node, names) if names else None
            if not seen:
                continue
            content, shown = seen
            for b in names:
                mark = self.marks[node, b]
                mark.see(content)
                covered = {u for at, n in shown[b] for u in range(at // UNIT * UNIT, at + n, UNIT)}
                missing = sorted(at for at in mark.must - covered if at < len(content))
                if missing:
                    fail("bitmap %s of %s is not dirty at %s; path %s" % (b, node, missing, self.path(node)))

    # ---- all of it

    def step(self):
        change = self.random.choice([self.open_image, self.open_image, self.open_filter, self.close, self.reopen,
                                     self.reopen, self.transact, self.transact, self.transact, self.export])
        if self.random.random() < 0.03:
            change = self.restart
        writers = [threading.Thread(target=self.write, args=plan) for plan in self.plans()]
        if change in (self.restart, self.export):
            for w in writers:
                w.start()
            for w in writers:
                w.join()
            writers = []
        for w in writers:
            w.start()
        try:
            change()
        finally:
            for w in writers:
                w.join()
        self.compare()

    def play(self):
        for _ in range(STEPS):
            self.step()
        self.handles.clear()
        self.d.stop()


def play(tmp, seed):
    folder = tempfile.mkdtemp(dir=tmp)
    r = None
    try:
        r = Round(folder, seed)
        r.play()
    except Exception as e:
        fail("seed %d: %s\n%s\n%s\n%s" % (seed, e, "\n".join(r.log[-SHOWN:] if r else []),
                                    json.dumps(r.nodes) if r else "", traceback.format_exc()))
    shutil.rmtree(folder)


@test(needs=["qemu-img"])
def graph_model(tmp):
    "whatever becomes of the graph, bitmaps are dirty where their nodes show something else"
    if SEED:
        play(tmp, int(SEED))
        return
    end = time.monotonic() + LONG
    seeds = itertools.count(random.randrange(1 << 30)) if LONG else range(3)
    for seed in seeds:
        if LONG and time.monotonic() > end:
            return
        play(tmp, seed)


main()
