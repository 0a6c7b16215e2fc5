#!/usr/bin/python3
# SPDX-FileCopyrightText: 2026 The Tidemark authors
# SPDX-License-Identifier: GPL-2.0-or-later
"""The page of the metrics server as Chromium shows it: by its accessibility tree, and by pictures of it."""
from chromium import Chromium, pixels
from harness import *
import metrics_kit as kit

KIB, MIB = 1 << 10, 1 << 20
EVIL = '<img src=x onerror="document.title=1">'


def page(tmp, d):
    port = d.qmp("query-metrics-server")["addresses"][0]["port"]
    browser = Chromium(tmp, "http://127.0.0.1:%s/" % port)
    wait_until(lambda: browser.value("document.getElementById('state')?.textContent") == "live", "the first answer",
               3 * PATIENCE)
    return browser


@test(needs=["chromium"])
def people_and_screen_readers_find_all(tmp):
    "disks, bitmaps, sessions, jobs and backups have headings, tables and meters with names; names stay text"
    with kit.daemon(tmp) as d:
        d.qmp("block-dirty-bitmap-add", node="disk0", name=EVIL)
        h = d.nbd()
        h.pwrite(b"x" * MIB, 0)
        d.qmp("backup-begin", id="nightly", disks=[{"node": "disk0", "from": EVIL}], scratch={"directory": tmp})
        with page(tmp, d) as browser:
            browser.look(1200, 1000)
            wait_until(lambda: ("cell", "nightly") in browser.tree(), "the backup")
            tree = browser.tree()
            for node in (("heading", "Tidemark"), ("heading", "Disks"), ("heading", "disk0"), ("heading", "Sessions"),
                         ("heading", "Jobs"), ("heading", "Backups"), ("meter", "allocated"),
                         ("meter", "dirty in " + EVIL), ("table", "sessions"), ("columnheader", "Client"),
                         ("cell", "exp-disk0"), ("status", ""), ("link", "/metrics")):
                equal((node, any(n[0] == node[0] and n[1].lower() == node[1].lower() for n in tree)), (node, True))
            equal(("StaticText", "last backup: none since it was opened") in tree, True)
            equal(browser.value("document.title"), "Tidemark")
            equal(browser.value("document.querySelectorAll('img, iframe').length"), 0)
            h.shutdown()
            wait_until(lambda: ("StaticText", "no sessions") in browser.tree(), "the end of the session")
            d.qmp("backup-end", id="nightly", success=True)
            wait_until(lambda: ("StaticText", "no backups in progress") in browser.tree(), "the end of the backup")
            d.qmp("metrics-server-stop")
            wait_until(lambda: browser.value("document.getElementById('state').textContent") ==
                       "no answer from tidemarkd", "the end of the server")


@test(needs=["chromium"])
def maps_of_disks(tmp):
    "each cell has the colour of its state, the totals are its name, and a table has the same ranges"
    with kit.daemon(tmp) as d:
        d.qmp("block-dirty-bitmap-add", node="disk0", name=EVIL)
        h = d.nbd()
        h.pwrite(b"x" * 100 * KIB, MIB)
        h.pwrite(b"x" * 512, 3 * MIB)
        d.qmp("block-dirty-bitmap-disable", node="disk0", name=EVIL)
        h.pwrite(b"x" * 64 * KIB, 0)
        h.shutdown()
        with page(tmp, d) as browser:
            browser.look(1200, 1000)
            name = "Map of disk0, 512 cells of 8.0 KiB: %s"
            wait_until(lambda: ("image", name % "24 dirty, 8 data, 480 hole") in browser.tree(), "the map")
            equal(("combobox", "Map of") in [(r, n.strip()) for r, n in browser.tree()], True)
            state = ("(() => { const s = document.querySelector('svg'), box = s.getBoundingClientRect();"
                     "return cells => cells.map(i => getComputedStyle(document.elementFromPoint("
                     "box.x + (i %% 64 + .5) * box.width / 64, box.y + (Math.floor(i / 64) + .5) * box.height / 8)).fill);"
                     "})()(%s)")
            for dark, colours in (False, ("rgb(76, 147, 201)", "rgb(230, 235, 240)", "rgb(122, 34, 0)")), \
                    (True, ("rgb(77, 182, 226)", "rgb(38, 49, 60)", "rgb(255, 224, 181)")):
                browser.look(1200, 1000, dark)
                equal(browser.value(state % [0, 7, 8, 127, 128, 143, 384, 391, 392]),
                      [colours[i] for i in (0, 0, 1, 1, 2, 2, 2, 2, 1)])
            browser.value("document.querySelector('details').open = true")
            rows = [["0", "65536", "64 KiB", "data"], ["65536", "1048576", "960 KiB", "hole"],
                    ["1048576", "1179648", "128 KiB", "dirty"], ["1179648", "3145728", "1.9 MiB", "hole"],
                    ["3145728", "3211264", "64 KiB", "dirty"], ["3211264", "4194304", "960 KiB", "hole"]]
            shown_rows = ("[...document.querySelectorAll('.map tbody tr')].map(r => [...r.cells].map(c => c.textContent))")
            wait_until(lambda: browser.value(shown_rows) == rows, "the table")
            browser.value("(() => { const s = document.querySelector('select'); s.focus(); s.value = '';"
                          "s.dispatchEvent(new Event('change')); })()")
            cells = json.loads(kit.get(d, "/api/map?node=disk0").text)["cells"]
            name %= "%d data, %d hole" % (cells.count("="), cells.count("."))
            wait_until(lambda: ("image", name) in browser.tree(), "the map without the bitmap")
            equal(browser.value("document.activeElement.tagName"), "SELECT")


@test(needs=["chromium"])
def light_dark_wide_narrow(tmp):
    "the picture is not empty, has another background in the dark, and nothing sticks out of a narrow window"
    with kit.daemon(tmp) as d, page(tmp, d) as browser:
        corner = {}
        for dark in False, True:
            browser.look(800, 600, dark)
            rows = pixels(browser.screenshot())
            corner[dark] = rows[-1][0]
            equal((len(rows), len(rows[0])), (600, 800))
            equal(len({colour for row in rows for colour in row}) > 20, True)
        equal((sum(corner[False]) > 600, sum(corner[True]) < 150), (True, True), corner)
        for width in 1400, 320:
            browser.look(width, 900)
            equal((width, browser.value("document.documentElement.scrollWidth")), (width, width))
        browser.value("document.body.focus()")
        for _ in range(6):
            for kind in "keyDown", "keyUp":
                browser.call("Input.dispatchKeyEvent", type=kind, key="Tab", code="Tab", windowsVirtualKeyCode=9)
        equal(browser.value("document.activeElement.getAttribute('href')"), "/metrics")


main()
