#!/usr/bin/python3
# SPDX-FileCopyrightText: 2026 The Tidemark authors
# SPDX-License-Identifier: GPL-2.0-or-later
"""The HTTP server of metrics: what it shows, whom it answers, and that hostile clients cost it little."""
import base64
import errno
import hashlib
import json
import os
import re
import signal
import socket
import ssl
import sys
import time
import urllib.parse

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from harness import *  # noqa: E402,F403
import metrics_kit as kit  # noqa: E402
import tls  # noqa: E402

KIB, MIB = 1 << 10, 1 << 20
TOKEN = "a token of some length"


@test
def off_until_started(tmp):
    "nothing listens before metrics-server-start, nor after metrics-server-stop"
    with kit.daemon(tmp, start=False) as d:
        equal(d.qmp("query-metrics-server"), {"running": False})
        raises(QMPError, d.qmp, "metrics-server-stop", match=": Metrics server not running$")
        d.qmp("metrics-server-start", addr=kit.inet())
        raises(QMPError, d.qmp, "metrics-server-start", addr=kit.inet(), match=": Metrics server already running$")
        info = d.qmp("query-metrics-server")
        equal((info["running"], info["tls"], info["token"]), (True, False, False))
        equal(kit.get(d, "/metrics").status, 200)
        port = int(info["addresses"][0]["port"])
        d.qmp("metrics-server-stop")
        raises(ConnectionRefusedError, socket.create_connection, ("127.0.0.1", port))
        d.qmp("metrics-server-start", addr=kit.inet("localhost"))
        equal(kit.get(d, "/metrics").status, 200)


@test
def unix_socket_of_the_command_line(tmp):
    "--metrics takes a unix socket, whose file has the mode 0600"
    kit.daemon(tmp, start=False, name="probe").kill()
    path = os.path.join(tmp, "m.sock")
    with kit.daemon(tmp, "--metrics", "addr.type=unix,addr.path=" + path) as d:
        equal(os.stat(path).st_mode & 0o777, 0o600)
        equal(kit.get(d, "/metrics", headers={"Host": "any.example"}).status, 200)
    equal(os.path.exists(path), False)


@test
def started_by_a_configuration_file(tmp):
    "the list 'metrics' of a configuration file has the arguments of metrics-server-start"
    kit.daemon(tmp, start=False, name="probe").kill()
    path = os.path.join(tmp, "c.conf")
    with open(path, "w") as f:
        f.write('{"metrics": [{"addr": {"type": "unix", "data": {"path": "%s/m"}}}]}' % tmp)
    with kit.daemon(tmp, "--config", path) as d:
        equal(kit.get(d, "/metrics").status, 200)
        equal(d.qmp("query-configuration")["metrics"][0]["addr"]["data"]["path"], tmp + "/m")
        with open(path, "r+") as f:
            text = f.read().replace("/m", "/other")
            f.seek(0)
            f.write(text)
        d.process.send_signal(signal.SIGHUP)
        wait_until(lambda: d.qmp("query-metrics-server").get("addresses", [{}])[0].get("path") == tmp + "/other",
                   "the other address")
        equal((kit.get(d, "/metrics").status, os.path.exists(tmp + "/m")), (200, False))
        with open(path, "w") as f:
            f.write("{}")
        d.process.send_signal(signal.SIGHUP)
        wait_until(lambda: not d.qmp("query-metrics-server")["running"], "the end of the server")
        equal("metrics" in d.qmp("query-configuration"), False)


@test
def figures_are_those_of_the_queries(tmp):
    "requests, bytes, bitmaps, sessions and servers show as OpenMetrics text"
    with kit.daemon(tmp) as d:
        d.qmp("block-dirty-bitmap-add", node="disk0", name="b0", granularity=64 * KIB)
        h = d.nbd()
        for i in range(3):
            h.pwrite(b"x" * 4096, i * MIB)
        h.pread(512, 0)
        h.flush()
        wait_until(lambda: kit.sample(d, "tidemark_export_operations_total", operation="flush") == 1, "the flush")
        for kind, what in ("export", {"export": "exp-disk0"}), ("node", {"node": "disk0"}):
            for operation, n, size in ("read", 1, 512), ("write", 3, 3 * 4096), ("discard", 0, 0):
                equal(kit.sample(d, "tidemark_%s_operations_total" % kind, operation=operation, **what), n)
                equal(kit.sample(d, "tidemark_%s_bytes_total" % kind, operation=operation, **what), size)
        at = {"node": "disk0", "bitmap": "b0"}
        equal(kit.sample(d, "tidemark_bitmap_dirty_bytes", **at), 3 * 64 * KIB)
        equal(kit.sample(d, "tidemark_bitmap_dirty_granules", **at), 3)
        equal(kit.sample(d, "tidemark_bitmap_inconsistent", **at), 0)
        equal(kit.sample(d, "tidemark_export_sessions", export="exp-disk0"), 1)
        equal(kit.sample(d, "tidemark_export_info", export="exp-disk0", name="disk0", node="disk0"), 1)
        equal(kit.sample(d, "tidemark_server_connections", server="default"), 1)
        equal(kit.sample(d, "tidemark_node_size_bytes", node="disk0"), 4 * MIB)
        equal(kit.sample(d, "process_threads") >= 1, True)
        equal(abs(kit.sample(d, "process_start_time_seconds") - time.time()) < 3600, True)
        h.shutdown()


@test
def latencies_are_histograms(tmp):
    "every request is in one bucket, and the slow ones in that of their time"
    with kit.daemon(tmp, "--blockdev", "driver=null-co,node-name=slow,size=1M,latency-ns=30000000", "--export",
                    "type=nbd,id=slow,node-name=slow") as d:
        h, slow = d.nbd(), d.nbd("slow")
        for i in range(64):
            h.pwrite(b"x" * 4096, i * 4096)
        slow.pread(512, 0)
        slow.pread(512, 0)
        for kind, name in ("export", "slow"), ("node", "slow"):
            at = {kind: name, "operation": "read"}
            wait_until(lambda: kit.sample(d, "tidemark_%s_request_seconds_count" % kind, **at) == 2, "both")
            metric = "tidemark_%s_request_seconds_bucket" % kind
            for le, n in ("0.016777216", 0), ("1.073741824", 2), ("+Inf", 2):
                equal((le, kit.sample(d, metric, le=le, **at)), (le, n))
            equal(kit.sample(d, "tidemark_%s_request_seconds_sum" % kind, **at) >= 0.06, True)
        writes = kit.sample(d, "tidemark_export_request_seconds_count", export="exp-disk0", operation="write")
        equal(1 <= writes <= 64, True, writes)
        equal("rd_latency_histogram" in d.qmp("query-blockstats")[0]["stats"], False)


@test
def failures_by_error(tmp):
    "requests that fail are counted by what they failed with"
    path = image(os.path.join(tmp, "e.img"), MIB)
    debug = ('{"driver": "blkdebug", "node-name": "e", "image": {"driver": "file", "filename": "%s"}, "inject-error": '
             '[{"event": "none", "iotype": "write", "errno": %d}]}')
    with kit.daemon(tmp, "--blockdev", debug % (path, errno.ENOSPC), "--export",
                    "type=nbd,id=e,node-name=e,writable=on") as d:
        h = d.nbd("e")
        for _ in range(3):
            raises(Exception, h.pwrite, b"x" * 512, 0)
        for kind in "export", "node":
            at = {kind: "e", "operation": "write"}
            wait_until(lambda: kit.sample(d, "tidemark_%s_failures_total" % kind, **at) == 3, "the failures")
            equal(kit.sample(d, "tidemark_%s_errors_total" % kind, errno="ENOSPC", **at), 3)


@test
def names_are_escaped(tmp):
    "a name with quotes, backslashes and newlines is one label with that value"
    name = 'a"b\\c\nd \u00e4 } 1'
    with kit.daemon(tmp) as d:
        d.qmp("block-dirty-bitmap-add", node="disk0", name=name)
        equal(kit.sample(d, "tidemark_bitmap_dirty_bytes", bitmap=name), 0)
        equal('bitmap="a\\"b\\\\c\\nd \u00e4 } 1"} 0\n' in kit.get(d, "/metrics").text, True)


@test
def rows_are_bounded(tmp):
    "of 1100 bitmaps 1000 have metrics, and the others are counted; nodes without a name have none"
    with kit.daemon(tmp, "--blockdev", "driver=raw,node-name=r,file.driver=null-co,file.size=1M") as d:
        for i in range(0, 1100, 100):
            d.qmp("transaction", actions=[
                {"type": "block-dirty-bitmap-add", "data": {"node": "disk0", "name": "b%04d" % k}}
                for k in range(i, i + 100)])
        text = kit.get(d, "/metrics").text
        equal(text.count("tidemark_bitmap_dirty_bytes{"), 1000)
        equal(kit.sample(d, "tidemark_rows_omitted"), 100)
        equal(('node="r"' in text, "#block" in text), (True, False))


@test
def events_and_refusals_are_counted(tmp):
    "events, refused clients and the time of the last good backup"
    with kit.daemon(tmp) as d:
        equal([n for n, _, _ in kit.samples(d) if n == "tidemark_last_backup_timestamp_seconds"], [])
        equal(kit.sample(d, "tidemark_events_total", event="BACKUP_ENDED"), 0)
        raises(Exception, d.nbd, "nosuch")
        wait_until(lambda: kit.sample(d, "tidemark_server_refused_total", server="default", reason="export") >= 1,
                   "the refusal")
        for success in False, True:
            d.qmp("backup-begin", id="k", disks=[{"node": "disk0"}], scratch={"directory": tmp})
            equal(kit.sample(d, "tidemark_backup_disks", backup="k"), 1)
            d.qmp("backup-end", id="k", success=success)
            equal([n for n, _, _ in kit.samples(d) if n == "tidemark_last_backup_timestamp_seconds"] != [], success)
        equal(abs(kit.sample(d, "tidemark_last_backup_timestamp_seconds") - time.time()) < 3600, True)
        equal(kit.sample(d, "tidemark_events_total", event="BACKUP_ENDED"), 2)
        equal(kit.sample(d, "tidemark_jobs_failed_total"), 0)


def names(d, name):
    return [labels for n, labels, _ in kit.samples(d) if n == name]


@test
def each_disk_has_its_last_backup(tmp):
    "a backup that succeeds, and a backup job, give the disks that they copied a time, and no others"
    when = "tidemark_node_last_backup_timestamp_seconds"
    with kit.daemon(tmp, *disk(tmp, "disk1", MIB)[:2], "--blockdev", "driver=null-co,node-name=t,size=1M") as d:
        equal(names(d, when), [])
        for success in False, True:
            d.qmp("backup-begin", id="k", disks=[{"node": "disk0"}], scratch={"directory": tmp})
            d.qmp("backup-end", id="k", success=success)
            equal([n["node"] for n in names(d, when)], ["disk0"] * success)
        equal(abs(kit.sample(d, when, node="disk0") - time.time()) < 3600, True)
        d.qmp("blockdev-backup", **{"job-id": "j", "device": "disk1", "target": "t", "sync": "full"})
        wait_until(lambda: not d.qmp("query-jobs"), "the end of the job")
        equal([n["node"] for n in names(d, when)], ["disk0", "disk1"])


@test
def bitmaps_have_an_age(tmp):
    "since they were created or cleared; one that a store brings back has none until it is cleared"
    age, at = "tidemark_bitmap_age_seconds", {"node": "disk0", "bitmap": "b"}
    with kit.daemon(tmp) as d:
        d.qmp("block-dirty-bitmap-add", node="disk0", name="b", persistent=True)
        equal(0 <= kit.sample(d, age, **at) < 3600, True)
        wait_until(lambda: kit.sample(d, age, **at) >= 2, "its third second")
        d.qmp("transaction", actions=[{"type": "block-dirty-bitmap-clear", "data": {"node": "disk0", "name": "b"}}])
        old = kit.sample(d, age, **at)
        raises(QMPError, d.qmp, "transaction", actions=[
            {"type": "block-dirty-bitmap-clear", "data": {"node": "disk0", "name": "b"}},
            {"type": "block-dirty-bitmap-add", "data": {"node": "disk0", "name": "b"}}])
        equal(kit.sample(d, age, **at) >= old, True)
        reopen = {"driver": "file", "node-name": "disk0", "filename": os.path.join(tmp, "disk0.img")}
        d.qmp("block-export-del", id="exp-disk0")
        d.qmp("blockdev-del", **{"node-name": "disk0"})
        d.qmp("blockdev-add", **reopen)
        equal((names(d, age), kit.sample(d, "tidemark_bitmap_persistent", **at)), ([], 1))
        d.qmp("block-dirty-bitmap-clear", node="disk0", name="b")
        equal(0 <= kit.sample(d, age, **at) < 3600, True)


@test
def stores_count_their_syncs(tmp):
    "the first write into a range opens an intent, and syncs the store"
    with kit.daemon(tmp) as d:
        equal(kit.sample(d, "tidemark_store_syncs_total", node="disk0"), 0)
        d.qmp("block-dirty-bitmap-add", node="disk0", name="b", persistent=True)
        before = kit.sample(d, "tidemark_store_syncs_total", node="disk0")
        equal((before > 0, kit.sample(d, "tidemark_store_intents_total", node="disk0")), (True, 0))
        h = d.nbd()
        h.pwrite(b"x" * 512, 0)
        equal(kit.sample(d, "tidemark_store_syncs_total", node="disk0") > before, True)
        equal(kit.sample(d, "tidemark_store_intents_total", node="disk0") > 0, True)
        equal(kit.sample(d, "tidemark_store_sync_seconds_total", node="disk0") > 0, True)
        equal(kit.sample(d, "tidemark_store_failed_syncs_total", node="disk0"), 0)
        h.shutdown()


@test
def queues_show_what_waits(tmp):
    "requests that a slow disk has not answered are in flight; more than it may have workers for wait"
    import nbd
    with kit.daemon(tmp, "--blockdev", "driver=null-co,node-name=slow,size=1M,latency-ns=600000000000",
                    "--export", "type=nbd,id=slow,node-name=slow") as d:
        idle = [kit.sample(d, "tidemark_%s" % n, **at) for n, at in (
            ("export_in_flight", {"export": "slow"}), ("node_in_flight", {"node": "slow"}),
            ("node_waiting", {"node": "slow"}), ("workers_waiting", {"pool": "foreground"}))]
        equal(idle, [0, 0, 0, 0])
        h = d.nbd("slow")
        for i in range(24):
            h.aio_pread(nbd.Buffer(512), i * 512)
        wait_until(lambda: [kit.sample(d, "tidemark_node_" + n, node="slow")
                            for n in ("in_flight", "on_workers", "waiting")] == [24, 16, 8], "all of them")
        equal(kit.sample(d, "tidemark_export_in_flight", export="slow"), 24)
        wait_until(lambda: kit.sample(d, "tidemark_workers_busy", pool="foreground") >= 16, "the workers")
        d.kill()


@test
def what_watches_uses_metrics_that_exist(tmp):
    "the alerts, the dashboard and the page of the manual name no other metrics than there are, the page all of them"
    with kit.daemon(tmp) as d:
        text = kit.get(d, "/metrics").text
    there = set()
    for name, kind in re.findall(r"^# TYPE (\S+) (\S+)", text, re.M):
        there |= {name + suffix for suffix in kit.SUFFIXES[kind]}
    used = {}
    for path in "packaging/prometheus/tidemark.rules.yml", "packaging/grafana/tidemark.json":
        with open(os.path.join(SRCDIR, path)) as f:
            used[path] = set(re.findall(r"\b(?:tidemark|process)_[a-z_]+", f.read()))
        equal(sorted(used[path] - there), [], path)
    with open(os.path.join(SRCDIR, "docs", "metrics.md")) as f:
        listed = set(re.findall(r"^\| `(\w+)`", f.read(), re.M))
    equal(sorted(listed ^ {n + {"counter": "_total", "info": "_info"}.get(k, "")
                           for n, k in re.findall(r"^# TYPE (\S+) (\S+)", text, re.M)}), [])


@test
def the_page_allows_itself_alone(tmp):
    "the page at / has a policy with the hashes of its own style and script, and its figures are at /api/state"
    with kit.daemon(tmp) as d:
        answer = kit.get(d, "/")
        equal((answer.status, answer.headers["content-type"]), (200, "text/html; charset=utf-8"))
        policy = answer.headers["content-security-policy"]
        for tag in "style", "script":
            text = re.search("<%s>(.*?)</%s>" % (tag, tag), answer.text, re.S).group(1)
            digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
            equal("%s-src 'sha256-%s';" % (tag, digest) in policy, True)
        equal("unsafe" in policy or "http" in policy, False)
        equal(re.findall(r"(?:src|href)=\"([^\"]*)|innerHTML|url\(", answer.text), ["/metrics"])
        answer = kit.get(d, "/api/state")
        equal(answer.headers["content-type"], "application/json")
        state = json.loads(answer.text)
        equal([n["node"] for n in state["nodes"]], ["disk0"])
        equal(state["exports"][0]["name"], "disk0")


def map_of(d, node, start=0, **query):
    """The cells of a map from the byte @start on, and their size, all pieces joined."""
    rising, cells, dirty, offset = "?.o=", {}, {}, start
    while offset is not None:
        answer = kit.get(d, "/api/map?" + urllib.parse.urlencode(dict(query, node=node, offset=offset)))
        equal((answer.status, answer.headers["content-type"]), (200, "application/json"))
        piece = json.loads(answer.text)
        equal(len(piece.get("dirty", piece["cells"])), len(piece["cells"]))
        for i, cell in enumerate(piece["cells"], piece["first"]):
            cells[i] = max(cells.get(i, "?"), cell, key=rising.index)
            dirty[i] = min(dirty.get(i, "."), piece.get("dirty", "." * (i + 1))[i - piece["first"]])
        equal(piece.get("next", offset + 1) > offset, True)
        offset = piece.get("next")
    equal(list(cells), list(range(start // piece["cell-size"], -(-piece["size"] // piece["cell-size"]))))
    return "".join(cells.values()), "".join(dirty.values()), piece["cell-size"]


def cells_of(d, node, size, cell, letters, *options):
    """The same from the extents of tidemark map; @letters: the more important, the later."""
    meaning = {"clean": 0, "dirty": 1, "hole": 1, "hole,zero": 1, "zero": 2, "data": 3}
    cells = [0] * -(-size // cell)
    for extent in json.loads(tidemark("map", d.uri(node), "--json", *options).stdout):
        for i in range(extent["offset"] // cell, (extent["offset"] + extent["length"] - 1) // cell + 1):
            cells[i] = max(cells[i], meaning[extent["description"]])
    return "".join(letters[c] for c in cells)


@test
def maps_are_those_of_the_command(tmp):
    "every cell of /api/map is what the extents of tidemark map make it, for the allocation and for a bitmap"
    size = 8 * MIB - 4096
    qcow2 = os.path.join(tmp, "disk1.qcow2")
    tidemark("image", "create", "--format", "qcow2", qcow2, str(size))
    with kit.daemon(tmp, *disk(tmp, "raw", size)) as d:
        d.qmp("blockdev-add", {"driver": "qcow2", "node-name": "image", "file": {"driver": "file", "filename": qcow2}})
        d.qmp("block-export-add", {"type": "nbd", "id": "exp-image", "node-name": "image", "writable": True})
        for node in "raw", "image":
            d.qmp("block-dirty-bitmap-add", node=node, name="a & b", granularity=4096)
            d.qmp("block-export-dirty-bitmap", id="exp-" + node, bitmaps=["a & b"])
            h = d.nbd(node)
            for at in range(0, size, 600 * KIB):
                h.pwrite(b"x" * 4096, at)
            h.zero(100 * KIB, 2 * MIB)
            h.zero(64 * KIB, 5 * MIB, 2)  # which is NBD_CMD_FLAG_NO_HOLE
            h.pwrite(b"y" * 4096, size - 4096)
            h.flush()
            h.shutdown()
            cells, dirty, cell = map_of(d, node, bitmap="a & b")
            equal((cell, len(cells)), (16 * KIB, 512))
            equal(cells, cells_of(d, node, size, cell, "?.o="))
            equal(dirty, cells_of(d, node, size, cell, ".#", "--bitmap", "a & b"))
            equal((dirty.count("#") > 20, dirty.count(".") > 400), (True, True))
            equal(map_of(d, node)[:2], (cells, "." * 512))


@test
def pieces_of_maps(tmp):
    "a piece begins with the cell of its offset; what is no disk, bitmap or offset is not found"
    with kit.daemon(tmp) as d:
        equal(json.loads(kit.get(d, "/api/map?node=disk0&offset=%d" % (MIB + 4096)).text)["first"], 128)
        # How much one answer has depends on the machine: the next ones have the rest.
        equal(len(map_of(d, "disk0", MIB + 4096)[0]), 384)
        equal(json.loads(kit.get(d, "/api/map?node=disk0&offset=%d" % (1 << 60)).text)["cells"], "")
        for query in ("", "?node=none", "?node=", "?node=disk0&bitmap=none", "?node=disk0&offset=-1",
                      "?node=disk0&offset=x", "?node=disk0&offset=99999999999999999999", "?node=%00", "?node=%ff"):
            equal((query, kit.get(d, "/api/map" + query).status), (query, 404))
        for i in range(300):  # more than are kept
            equal(kit.get(d, "/api/map?node=disk0&offset=%d" % i).status, 200)


@test
def maps_wait_for_no_server(tmp):
    "the allocation that a server would have to be asked for is unknown, even if it does not answer; dirt is shown"
    with Daemon(tmp, name="far") as far, kit.daemon(tmp) as d:
        far.qmp("blockdev-add", {"driver": "null-co", "node-name": "n", "size": MIB})
        far.qmp("block-export-add", {"type": "nbd", "id": "n", "node-name": "n", "writable": True})
        d.qmp("blockdev-add", {"driver": "nbd", "node-name": "remote", "export": "n",
                               "server": {"type": "unix", "path": far.nbd_path}})
        d.qmp("block-dirty-bitmap-add", node="remote", name="b")
        d.qmp("block-export-add", {"type": "nbd", "id": "r", "node-name": "remote", "writable": True})
        h = d.nbd("remote")
        h.pwrite(b"x" * 65536, 0)
        h.shutdown()
        os.kill(far.pid, signal.SIGSTOP)
        try:
            cells, dirty, cell = map_of(d, "remote", bitmap="b")
        finally:
            os.kill(far.pid, signal.SIGCONT)
        equal((cells, dirty, cell), ("?" * 512, "#" * 32 + "." * 480, 2048))


@test
def only_reading(tmp):
    "GET and HEAD alone, without a body and of bounded length"
    with kit.daemon(tmp) as d:
        equal(kit.get(d, "/metrics", "HEAD").text, "")
        for method in "POST", "PUT", "DELETE", "OPTIONS", "TRACE", "PATCH", "BREW":
            answer = kit.get(d, "/metrics", method)
            equal((method, answer.status, answer.headers.get("allow")), (method, 405, "GET, HEAD"))
        equal(kit.get(d, "/metrics", headers={"Content-Length": "5"}).status, 413)
        equal(kit.get(d, "/metrics", headers={"Transfer-Encoding": "chunked"}).status, 413)
        for path in "/nosuch", "/metrics/", "/../etc/passwd", "//metrics", "/%01":
            equal((path, kit.get(d, path).status), (path, 404))
        long = [kit.raw(d, b"GET /" + b"x" * 20000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n"),
                kit.raw(d, b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nX: " + b"x" * 20000 + b"\r\n\r\n")]
        equal([answer[:12] in (b"", b"HTTP/1.1 414", b"HTTP/1.1 431", b"HTTP/1.1 413") for answer in long], [True] * 2)
        for garbage in b"\x16\x03\x01\x02\x00\x01\x00", b"\0" * 4096, b"GET\r\n\r\n":
            with kit.connect(d) as s:
                s.sendall(garbage)
        answer = kit.get(d, "/metrics")
        equal(answer.status, 200)
        equal(answer.headers["x-content-type-options"], "nosniff")
        matches(answer.headers["content-security-policy"], "^default-src 'none'")


@test
def other_names_are_not_answered(tmp):
    "a page of elsewhere whose name leads to this machine reads nothing"
    with kit.daemon(tmp) as d:
        for host in "evil.example", "evil.example:9810", "127.0.0.1.evil.example", "[::2]", "10.0.0.1", "x@localhost":
            equal((host, kit.get(d, "/metrics", headers={"Host": host}).status), (host, 421))
        for host in "localhost", "LOCALHOST:1", "127.0.0.1", "127.9.9.9:80", "[::1]", "[::1]:9810":
            equal((host, kit.get(d, "/metrics", headers={"Host": host}).status), (host, 200))


@test
def places_are_given_back(tmp):
    "a 33rd client waits until one of the 32 has gone, and then is answered"
    with kit.daemon(tmp) as d:
        idle = [kit.connect(d) for _ in range(32)]
        wait_until(lambda: d.qmp("query-metrics-server")["connections"] == 32, "32 connections")
        late = kit.connect(d)
        late.sendall(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n")
        equal(d.qmp("query-metrics-server")["connections"] <= 32, True)
        idle.pop().close()
        equal(late.recv(12), b"HTTP/1.1 200")
        for s in idle + [late]:
            s.close()
        wait_until(lambda: d.qmp("query-metrics-server")["connections"] == 0, "no connection")


@test
def slow_clients_are_cut_off(tmp):
    "a client that sends nothing, and one that sends a byte now and then, lose their places"
    with kit.daemon(tmp) as d:
        silent, slow = kit.connect(d), kit.connect(d)
        slow.settimeout(0.2)
        slow.sendall(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nX: ")

        def cut():
            try:
                slow.sendall(b"x")
                return slow.recv(1000) != b"?"
            except socket.timeout:
                return False
            except OSError:
                return True
        wait_until(cut, "the slow client to be cut off")
        equal(silent.recv(1), b"")
        equal(kit.get(d, "/metrics").status, 200)


@test
def other_machines_need_both(tmp):
    "an address that others reach is refused without TLS and a token, whichever is missing"
    with kit.daemon(tmp, "--object", "secret,id=s0,data=" + TOKEN, "--object", "secret,id=short,data=abc",
                    start=False) as d:
        both = "need both tls-creds and token-secret$"
        raises(QMPError, d.qmp, "metrics-server-start", addr=kit.inet("0.0.0.0"),
               match=": Metrics on '0.0.0.0', which other machines reach, " + both)
        for host in "0.0.0.0", "":
            raises(QMPError, d.qmp, "metrics-server-start", {"addr": kit.inet(host), "token-secret": "s0"}, match=both)
        for wrong, message in ({"token-secret": "short"}, ": Secret 'short' has 3 bytes, a token needs at least 16$"), \
                ({"token-secret": "none"}, "none"), ({"tls-creds": "s0"}, "s0"):
            raises(QMPError, d.qmp, "metrics-server-start", dict(wrong, addr=kit.inet()), match=message)
        equal(d.qmp("query-metrics-server"), {"running": False})


def basic(token):
    return {"Authorization": "Basic " + base64.b64encode(b"me:" + token.encode()).decode()}


def bearer(token):
    return {"Authorization": "Bearer " + token}


def check_tokens(d, **how):
    for headers in ({}, bearer(TOKEN[:-1]), bearer(TOKEN + "x"), bearer(""), {"Authorization": TOKEN},
                    {"Authorization": "Basic !"}, basic(TOKEN[1:]), basic("")):
        answer = kit.get(d, "/metrics", headers=headers, **how)
        equal((headers, answer.status, answer.text), (headers, 401, "A token is needed.\n"))
    for headers in bearer(TOKEN), {"Authorization": "bearer " + TOKEN}, basic(TOKEN):
        equal(kit.get(d, "/metrics", headers=headers, **how).status, 200)


@test
def tokens_are_demanded(tmp):
    "with a token-secret, only requests with that token are answered, whatever name they use"
    path = os.path.join(tmp, "token")
    with open(path, "w") as f:
        f.write(TOKEN + "\n")
    with kit.daemon(tmp, "--object", "secret,id=s0,file=" + path, start=False) as d:
        d.qmp("metrics-server-start", {"addr": kit.inet(), "token-secret": "s0"})
        check_tokens(d)
        equal(kit.get(d, "/metrics", headers=dict(bearer(TOKEN), Host="proxy.example")).status, 200)
        raises(QMPError, d.qmp, "object-del", id="s0", match="in use")
        d.qmp("metrics-server-stop")
        d.qmp("object-del", id="s0")


@test(needs=["certtool"])
def https_with_a_token(tmp):
    "with both, every address is allowed; the certificate may be renewed while it runs"
    at = os.path.join(tmp, "pki")
    ca = tls.Authority(os.path.join(tmp, "ca"))
    ca.issue(at, "server")
    with kit.daemon(tmp, "--object", "secret,id=s0,data=" + TOKEN, "--object", tls.x509(at, verify_peer="off"),
                    start=False) as d:
        d.qmp("metrics-server-start", {"addr": kit.inet("0.0.0.0"), "token-secret": "s0", "tls-creds": "t0"})
        context = ssl.create_default_context(cafile=ca.cert)
        check_tokens(d, tls=context)
        raises(OSError, kit.get, d, "/metrics", tls=ssl.create_default_context())
        equal(kit.raw(d, b"GET /metrics HTTP/1.1\r\n\r\n").startswith(b"HTTP"), False)

        def serial():
            with context.wrap_socket(kit.connect(d), server_hostname="localhost") as s:
                return s.getpeercert()["serialNumber"]
        before = serial()
        ca.issue(at, "server")
        d.qmp("object-reload", id="t0")
        equal(serial() != before, True)


@test(needs=["certtool"])
def https_with_client_certificates(tmp):
    "with verify-peer, a client without a certificate of the authority is refused"
    at, own = os.path.join(tmp, "pki"), os.path.join(tmp, "alice")
    ca = tls.Authority(os.path.join(tmp, "ca"))
    ca.issue(at, "server")
    ca.issue(own, "client")
    with kit.daemon(tmp, "--object", tls.x509(at), start=False) as d:
        d.qmp("metrics-server-start", {"addr": kit.inet(), "tls-creds": "t0"})
        context = ssl.create_default_context(cafile=ca.cert)
        raises(OSError, kit.get, d, "/metrics", tls=context)
        context.load_cert_chain(os.path.join(own, "client-cert.pem"), os.path.join(own, "client-key.pem"))
        equal(kit.get(d, "/metrics", tls=context).status, 200)


main()
