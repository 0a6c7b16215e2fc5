# SPDX-FileCopyrightText: 2026 The Tidemark authors
# SPDX-License-Identifier: GPL-2.0-or-later
"""A daemon with a disk that is backed up into a bucket."""
from backup_kit import *
from harness import *


class BucketKit(Kit):
    """As Kit; the server is what the environment says."""

    def __init__(self, tmp, repo, size=SIZE):
        os.environ["TMPDIR"] = os.path.join(tmp, "spools")
        os.mkdir(os.environ["TMPDIR"])
        super().__init__(tmp, "disk0", size=size)
        self.repo = repo
        self.models = {}

    def point(self, name, *args):
        self.backup("--name", name, *args)
        self.models[name] = self.content("disk0")

    def restored(self, point, name):
        out = os.path.join(self.tmp, "restored.raw")
        tidemark("restore", "--force", "--at", point, self.repo, "%s=%s" % (name, out))
        with open(out, "rb") as f:
            return f.read()

    def listed(self):
        return json.loads(tidemark("list", "--json", self.repo).stdout)

    def points(self):
        return [p["point"] for p in self.listed()["points"]]

    def check_all(self):
        "Every point is as the disk was; and nothing is left on this machine."
        equal(self.points(), list(self.models))
        for name, content in self.models.items():
            self.check(name, "disk0", content)
        equal(os.listdir(os.environ["TMPDIR"]), [])


def life_of_a_repository(kit, keys):
    """A full and increments; listed, verified, served, restored and removed. keys(): the names of the objects."""
    kit.write("disk0", (MIB, pattern(1, 3 * MIB)), (7 * MIB + 123, b"x"))
    for i, args in enumerate(([], [], ["--compress=zstd"], ["--full"])):
        kit.point("p%d" % i, *args)
        kit.write("disk0", (MIB + i * 131072, None), (6 * MIB + i * 4096, pattern(i, 5000)))
    kit.check_all()
    point = json.loads(tidemark("info", "--json", kit.repo, "p1").stdout)
    equal([d["kind"] for d in point["disks"]], ["incremental"])
    tidemark("verify", kit.repo)
    equal([p["verified"]["whole"] for p in kit.listed()["points"]], [True] * 4)
    serve(kit, "p2")
    p = tidemark("prune", "--keep=last=2", kit.repo)
    matches(p.stdout, r"p1.*can't be removed \(point 'p2' stands on its disk 'disk0'")
    p = tidemark("forget", kit.repo, "p0", check=False)
    equal(p.returncode, 1)
    matches(p.stderr, "point 'p1' stands on its disk 'disk0', and images in a bucket are not merged; nothing was changed")
    kit.check_all()
    tidemark("forget", kit.repo, "p0", "p1", "p2")
    for name in ("p0", "p1", "p2"):
        del kit.models[name]
    kit.check_all()
    equal(sorted(keys()), ["last.json", "lock", "p3/disk0.hashes", "p3/disk0.qcow2", "p3/manifest.json",
                           "p3/verified.json", "tidemark-repository.json"])
    tidemark("copy-points", kit.repo, os.path.join(kit.tmp, "copy"))
    tidemark("verify", os.path.join(kit.tmp, "copy"))


def serve(kit, point):
    sockets = os.path.join(kit.tmp, "sv")
    p = subprocess.Popen([TIDEMARK, "serve", "--socket-dir", sockets, "--at", point, kit.repo],
                         stdout=subprocess.PIPE, text=True)
    line = p.stdout.readline()
    matches(line, "disk0")
    h = nbd_of(os.path.join(sockets, "nbd.sock"), "disk0")
    got = b"".join(bytes(h.pread(MIB, at)) for at in range(0, h.get_size(), MIB))
    h.shutdown()
    equal(got == kit.models[point], True, "what is served is the point")
    p.terminate()
    p.communicate(timeout=PATIENCE)
    equal(p.returncode, 0)


def nbd_of(path, export):
    import nbd
    h = nbd.NBD()
    h.set_export_name(export)
    h.connect_unix(path)
    return h
