#!/usr/bin/python3
# SPDX-FileCopyrightText: 2026 The Tidemark authors
# SPDX-License-Identifier: GPL-2.0-or-later
"""The page of the metrics server as Chromium shows it: by its accessibility tree, and by pictures of it."""
from chromium import Chromium, pixels
from harness import *
import metrics_kit as kit

MIB = 1 << 20
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
        for _ in range(4):
            for kind in "keyDown", "keyUp":
                browser.call("Input.dispatchKeyEvent", type=kind, key="Tab", code="Tab", windowsVirtualKeyCode=9)
        equal(browser.value("document.activeElement.getAttribute('href')"), "/metrics")


main()
