#!/usr/bin/python3
# SPDX-FileCopyrightText: 2026 The Tidemark authors
# SPDX-License-Identifier: GPL-2.0-or-later
"""tidemark map --svg, --png and --points: drawings are parsed, and each cell compared with the extents."""
import struct
import xml.etree.ElementTree as ET
import zlib

from backup_kit import *

SVG = "{http://www.w3.org/2000/svg}"
UNITS = {"B": 1, "KiB": KIB, "MiB": MIB}


def said(*args, **kwargs):
    return tidemark("map", *args, **kwargs).stdout


class Drawing:
    """An SVG: .cells is the index of each cell's class, .legend the names, sizes and colours of the classes."""

    def __init__(self, text):
        root = ET.fromstring(text)
        self.title, self.words = root.find(SVG + "title").text, root.find(SVG + "desc").text
        equal((root.get("role"), root.get("aria-labelledby")), ("img", "title words"))
        self.size = int(root.get("width")), int(root.get("height"))
        self.colors = dict(re.findall(r"\.c(\d+)\{fill:#([0-9a-f]{6})\}", root.find(SVG + "style").text))
        self.lines = [t.text for t in root.findall(SVG + "text")]
        number, unit = re.search(r"Each square stands for (\d+) (\w+)", self.words).groups()
        self.cell = int(number) * UNITS[unit]
        self.legend = re.findall(r"[.;] ([^.;]*?): ([\d.]+ \w+) \([^)]*\)", self.words)
        self.cells, self.places = [], []
        for rect in root.findall(SVG + "rect"):
            if rect.get("class"):
                x, y, width, side = (int(rect.get(k)) for k in ("x", "y", "width", "height"))
                self.cells += [int(rect.get("class")[1:])] * (width // side)
                self.places += [(x + i * side, y) for i in range(width // side)]

    def names(self):
        return [name for name, _ in self.legend]


def most_important(drawing, extents, size):
    """The class of each cell, if extents are (offset, length, class)."""
    cells = [99] * ((size + drawing.cell - 1) // drawing.cell)
    for offset, length, which in extents:
        for i in range(offset // drawing.cell, (offset + length - 1) // drawing.cell + 1):
            cells[i] = min(cells[i], which)
    return cells


def chunks(data):
    """The chunks of a PNG, whose checksums hold."""
    equal(data[:8], b"\x89PNG\r\n\x1a\n")
    at, found = 8, []
    while at < len(data):
        length, = struct.unpack_from(">I", data, at)
        kind, body = data[at + 4:at + 8], data[at + 8:at + 8 + length]
        equal(struct.unpack_from(">I", data, at + 8 + length)[0], zlib.crc32(kind + body))
        found.append((kind, body))
        at += 12 + length
    return found


class Pixels:
    def __init__(self, data):
        parts = chunks(data)
        equal([k for k, _ in parts], [b"IHDR", b"iTXt", b"iTXt", b"IDAT", b"IEND"])
        self.size = struct.unpack_from(">II", parts[0][1])
        equal(parts[0][1][8:], b"\x08\x02\x00\x00\x00")
        self.rows = zlib.decompress(parts[3][1])
        equal(len(self.rows), (3 * self.size[0] + 1) * self.size[1])
        self.texts = dict(body.split(b"\0\0\0\0\0") for kind, body in parts if kind == b"iTXt")

    def at(self, x, y):
        start = y * (3 * self.size[0] + 1) + 1 + 3 * x
        return self.rows[start:start + 3].hex()


def mapped(tmp):
    """A daemon whose disk has data, zeroes and dirt, some of them small."""
    d = Daemon(tmp, *disk(tmp, "disk0", 9 * MIB + 512))
    h = d.nbd("disk0")
    h.pwrite(b"x" * MIB, MIB)
    h.pwrite(b"x" * 512, 9 * MIB)
    d.qmp("block-dirty-bitmap-add", node="disk0", name="a<b&c", granularity=512)
    d.qmp("block-export-dirty-bitmap", id="exp-disk0", bitmaps=["a<b&c"])
    h.pwrite(b"x" * 512, MIB + 5 * 512)
    h.pwrite(b"x" * 300 * KIB, 5 * MIB)
    h.trim(64 * KIB, MIB + 512 * KIB)
    h.shutdown()
    return d


@test
def drawings_have_what_the_map_has(tmp):
    "an SVG and a PNG show the most important state of each cell, the totals, and both in words"
    with mapped(tmp) as d:
        args = ("--socket", d.qmp_path, "disk0")
        size = 9 * MIB + 512
        allocation = [(e["offset"], e["length"], {0: 1, 2: 2}.get(e["type"], 3))
                      for e in json.loads(said(*args, "--json"))]
        dirt = [(e["offset"], e["length"], 0)
                for e in json.loads(said(*args, "--json", "--bitmap", "a<b&c")) if e["type"]]
        svg, png = os.path.join(tmp, "map.svg"), os.path.join(tmp, "map.png")
        equal(said(*args, "--bitmap", "a<b&c", "--svg", svg, "--png", png), "")
        with open(svg) as f:
            drawing = Drawing(f.read())
        equal(drawing.title, "Map of disk0")
        equal(drawing.lines[1], "disk of 9.0 MiB; dirty in bitmap a<b&c")
        equal(drawing.names(), ["dirty", "data", "zero", "hole"])
        equal(len(dirt) > 1 and len(allocation) > 3, True)
        equal(drawing.cells, most_important(drawing, allocation + dirt, size))
        human = {n: said_size for n, said_size in drawing.legend}
        equal(human["dirty"], "%.1f KiB" % (sum(n for _, n, _ in dirt) / KIB))
        with open(png, "rb") as f:
            pixels = Pixels(f.read())
        equal(pixels.size, drawing.size)
        equal([pixels.at(x + 3, y + 3) for x, y in drawing.places],
              [drawing.colors[str(c)] for c in drawing.cells])
        equal(pixels.texts[b"Title"].decode(), drawing.title)
        equal(pixels.texts[b"Description"].decode(), drawing.words)
        plain = Drawing(said(*args, "--svg", "-"))
        equal(plain.names(), ["data", "zero", "hole"])
        equal(plain.cells, most_important(plain, [(o, n, c - 1) for o, n, c in allocation], size))


@test
def image_files(tmp):
    "an image without a daemon is drawn as well"
    path = image(os.path.join(tmp, "disk.img"), 4 * MIB, [(MIB, b"x" * MIB)])
    drawing = Drawing(tidemark("image", "map", path, "--svg", "-").stdout)
    equal((drawing.title, drawing.lines[1]), ("Map of disk.img", "disk of 4 MiB"))
    equal(drawing.cells, most_important(drawing, [(0, MIB, 2), (MIB, MIB, 0), (2 * MIB, 2 * MIB, 2)], 4 * MIB))
    png = os.path.join(tmp, "disk.png")
    tidemark("image", "map", path, "--png", png)
    with open(png, "rb") as f:
        equal(Pixels(f.read()).size, drawing.size)
    p = tidemark("image", "map", path, "--png", png, "--json", check=False)
    matches(p.stderr, "--png and --json exclude each other")


@test
def readable_without_colours(tmp):
    "classes get darker in the order of the legend"
    with mapped(tmp) as d:
        drawing = Drawing(said("--socket", d.qmp_path, "disk0", "--bitmap", "a<b&c", "--svg", "-"))

        def light(color):
            linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4
                      for c in (int(color[i:i + 2], 16) / 255 for i in (0, 2, 4))]
            return sum(a * b for a, b in zip(linear, (0.2126, 0.7152, 0.0722)))

        shades = [light(drawing.colors[str(i)]) for i in range(4)]
        equal([b / a > 1.3 for a, b in zip(shades, shades[1:])], [True] * 3)


@test
def files_that_cannot_be_written(tmp):
    "a drawing that can't be written is an error, and misuse is refused"
    with mapped(tmp) as d:
        args = ("--socket", d.qmp_path, "disk0")
        for path, why in ((tmp + "/none/map.svg", "No such file"), ("/dev/full", "No space left")):
            p = tidemark("map", *args, "--svg", path, check=False)
            equal((p.returncode, p.stdout), (1, ""))
            matches(p.stderr, "^tidemark: could not write '%s': %s" % (path, why))
        for more, why in ((("--svg", "a", "--json"), "--svg and --json exclude"),
                          (("--png", "a", "--picture"), "--picture and --png exclude"),
                          (("--svg", "a", "--context", "qemu:allocation-depth"), "a picture can show"),
                          (("--points", tmp), "--points and the export 'disk0' exclude"),
                          (("--disk", "a"), "--disk is for --points")):
            p = tidemark("map", *args, *more, check=False)
            equal(p.returncode, 2)
            matches(p.stderr, why)
        equal(tidemark("map", check=False).returncode, 2)


def history(tmp, *names):
    """Points: a full, then increments that change block 0 always, block 2 + i once, block 40 twice."""
    k = Kit(tmp, *names, size=4 * MIB + 512)
    block = 64 * KIB
    k.backup()
    for i in range(4):
        for name in names:
            k.write(name, (0, b"x" * 512), ((2 + i) * block, b"y" * block),
                    *[(40 * block, None)] * (i < 2))
        k.backup()
    return k


@test
def heat_of_points(tmp):
    "--points counts the increments that store each part, as JSON, SVG, PNG and text"
    k = history(tmp, "disk0")
    block, size = 64 * KIB, 4 * MIB + 512
    heat = json.loads(said("--points", k.repo, "--json"))
    equal((heat["disk"], heat["size"], heat["fulls"]), ("disk0", size, 1))
    equal([p["point"] for p in heat["points"]], k.points()[1:])
    equal([p["changed"] for p in heat["points"]], [3 * block, 3 * block, 2 * block, 2 * block])
    equal([(e["offset"] // block, e["length"], e["changes"]) for e in heat["extents"]],
          [(0, block, 4), (1, block, 0), (2, 4 * block, 1), (6, 34 * block, 0), (40, block, 2),
           (41, 23 * block + 512, 0)])
    drawing = Drawing(said("--points", k.repo, "--svg", "-"))
    equal(drawing.legend, [("changed in 4 of 4 increments", "64 KiB"), ("changed in 3 of 4 increments", "0 B"),
                           ("changed in 2 of 4 increments", "64 KiB"), ("changed in 1 of 4 increments", "256 KiB"),
                           ("not changed", "3.6 MiB")])
    equal(drawing.cells, most_important(
        drawing, [(e["offset"], e["length"], 4 - e["changes"]) for e in heat["extents"]], size))
    png = os.path.join(tmp, "heat.png")
    said("--points", k.repo, "--disk", "disk0", "--png", png)
    with open(png, "rb") as f:
        pixels = Pixels(f.read())
    equal([pixels.at(x + 3, y + 3) for x, y in drawing.places], [drawing.colors[str(c)] for c in drawing.cells])
    out = said("--points", k.repo, "--width=80", env={"LC_ALL": "C"})
    matches(out, r"(?m)^ +0 B #\.::::\.{34}\+\.{23}$")
    matches(out, r"(?m)^ +# changed in 4 of 4 increments +64 KiB +1\.6 %$")
    matches(out, "4 increments, ")
    matches(out, "1 full backup is not counted")
    k.d.stop()


@test
def heat_of_many_increments(tmp):
    "more increments than levels share them: one change has its own"
    k = Kit(tmp, "disk0", size=MIB)
    k.backup()
    for i in range(7):
        k.write("disk0", *((b * 64 * KIB, b"x" * 512) for b in range(7 - i)))
        k.backup()
    drawing = Drawing(said("--points", k.repo, "--svg", "-"))
    equal(drawing.names(), ["changed in 6 to 7 of 7 increments", "changed in 4 to 5 of 7 increments",
                            "changed in 2 to 3 of 7 increments", "changed in 1 of 7 increments", "not changed"])
    equal(drawing.cells, [0, 0, 1, 1, 2, 2, 3] + [4] * 9)
    k.d.stop()


@test
def heat_without_all_of_it(tmp):
    "a disk has to be chosen among several; a damaged point is left out, with status 5"
    k = history(tmp, "disk0", "disk1")
    p = tidemark("map", "--points", k.repo, check=False)
    equal((p.returncode, p.stderr), (
        1, "tidemark: option --disk is needed, as '%s' has several: disk0, disk1\n" % k.repo))
    p = tidemark("map", "--points", k.repo, "--disk", "disk7", check=False)
    equal((p.returncode, p.stderr), (1, "tidemark: no disk 'disk7' in '%s': it has disk0, disk1\n" % k.repo))
    with open(os.path.join(k.repo, k.points()[2], "disk1.hashes"), "r+b") as f:
        f.write(b"damaged")
    p = tidemark("map", "--points", k.repo, "--disk", "disk1", "--json", check=False)
    equal((p.returncode, len(json.loads(p.stdout)["points"])), (5, 3))
    matches(p.stderr, "warning: point '%s' is not counted: " % k.points()[2])
    equal(len(json.loads(said("--points", k.repo, "--disk", "disk0", "--json"))["points"]), 4)
    k.d.stop()
    other = os.path.join(tmp, "other")
    os.mkdir(other)
    k = Kit(other, "disk0", size=MIB)
    k.backup()
    p = tidemark("map", "--points", k.repo, check=False)
    equal(p.returncode, 1)
    matches(p.stderr, "disk 'disk0' has no increment in ")
    k.d.stop()


main()
