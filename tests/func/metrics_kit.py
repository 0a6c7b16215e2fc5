# SPDX-FileCopyrightText: 2026 The Tidemark authors
# SPDX-License-Identifier: GPL-2.0-or-later
"""A daemon with metrics, a client of its HTTP server, and a strict parser of what it answers."""
import http.client
import re
import socket

from harness import *

SAMPLE = re.compile(r'^([a-z_]+)(?:\{(.*)\})? ([^ ]+)$')
LABEL = re.compile(r'([a-z_]+)="((?:[^"\\\n]|\\["\\n])*)"(?:,|$)')
SUFFIXES = {"counter": ["_total"], "gauge": [""], "info": ["_info"], "histogram": ["_bucket", "_count", "_sum"]}


def inet(host="127.0.0.1"):
    return {"type": "inet", "data": {"host": host, "port": "0"}}


def daemon(tmp, *args, start=True, **options):
    """A daemon with the disk "disk0" of 4 MiB, and with @start its metrics on a port of its own."""
    d = Daemon(tmp, *args, *disk(tmp, "disk0", 4 << 20), **options)
    try:
        if not d.qmp("query-metrics-server")["running"]:
            d.qmp("metrics-server-start", addr=inet())
            if not start:
                d.qmp("metrics-server-stop")
    except QMPError as e:
        d.kill()
        if "libmicrohttpd" in str(e):
            skip(str(e))
        raise
    return d


class Answer:
    def __init__(self, response):
        self.status, self.text = response.status, response.read().decode()
        self.headers = {name.lower(): value for name, value in response.getheaders()}


def connect(d):
    """A socket that is connected to the first address."""
    address = d.qmp("query-metrics-server")["addresses"][0]
    if address["type"] == "unix":
        s = socket.socket(socket.AF_UNIX)
        s.settimeout(PATIENCE)
        s.connect(address["path"])
        return s
    host = "127.0.0.1" if address["host"] in ("0.0.0.0", "::") else address["host"]
    return socket.create_connection((host, int(address["port"])), timeout=PATIENCE)


def get(d, path, method="GET", headers=None, tls=None):
    """The answer to one request; @tls: a context."""
    c = http.client.HTTPConnection("localhost", timeout=PATIENCE)
    c.sock = connect(d)
    try:
        if tls:
            c.sock = tls.wrap_socket(c.sock, server_hostname="localhost")
        c.putrequest(method, path, skip_host="Host" in (headers or {}), skip_accept_encoding=True)
        for name, value in (headers or {}).items():
            c.putheader(name, value)
        c.endheaders()
        return Answer(c.getresponse())
    finally:
        c.close()


def raw(d, data):
    """What is answered to bytes."""
    with connect(d) as s:
        answer = b""
        try:
            s.sendall(data)
            s.shutdown(socket.SHUT_WR)
            while more := s.recv(65536):
                answer += more
        except (BrokenPipeError, ConnectionResetError):
            pass
        return answer


def _labels(text):
    labels, end = {}, 0
    for match in LABEL.finditer(text or ""):
        equal((match.start(), match.group(1) in labels), (end, False), text)
        end = match.end()
        labels[match.group(1)] = re.sub(
            r"\\(.)", lambda m: {"n": "\n"}.get(m.group(1), m.group(1)), match.group(2))
    equal(end, len(text or ""), text)
    return labels


def parse(text):
    """The samples of OpenMetrics text, as (name, labels, value); the text is checked against the standard, by
    prometheus_client as well if it is there."""
    equal(text.endswith("\n# EOF\n"), True)
    samples, kinds, family, seen = [], {}, None, set()
    for line in text.split("\n")[:-2]:
        if line.startswith("# "):
            _, what, name, *rest = line.split(" ", 3)
            equal(what in ("TYPE", "UNIT", "HELP"), True, line)
            if what == "TYPE":
                equal(name in kinds, False, line)
                kinds[name], family = rest[0], name
            equal(name, family, line)
            if what == "UNIT":
                equal(name.endswith("_" + rest[0]), True, line)
            continue
        match = SAMPLE.match(line)
        equal(match is not None, True, line)
        name, labels = match.group(1), _labels(match.group(2))
        equal(name in [family + s for s in SUFFIXES[kinds[family]]], True, line)
        key = (name, tuple(sorted(labels.items())))
        equal(key in seen, False, line)
        seen.add(key)
        samples.append((name, labels, float(match.group(3))))
    try:
        from prometheus_client.openmetrics.parser import text_string_to_metric_families
    except ImportError:
        return samples
    equal(len([s for f in text_string_to_metric_families(text) for s in f.samples]), len(samples))
    return samples


def samples(d):
    answer = get(d, "/metrics")
    equal((answer.status, answer.headers["content-type"]),
          (200, "application/openmetrics-text; version=1.0.0; charset=utf-8"))
    return parse(answer.text)


def sample(d, metric, **labels):
    """The value of the one sample that has these labels, among others."""
    found = [value for n, l, value in samples(d) if n == metric and labels.items() <= l.items()]
    equal(len(found), 1, "%s%s" % (metric, labels))
    return found[0]
