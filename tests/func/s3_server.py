# SPDX-FileCopyrightText: 2026 The Tidemark authors
# SPDX-License-Identifier: GPL-2.0-or-later
"""A server of S3 for tests, in memory: objects, ranges, lists in pages, uploads in parts, conditional writes.

It checks the signature (Version 4) of every request and the hash of every body. A test plans what goes wrong:
`fault(method, path)` is called for each request before it is carried out, and says one of FAULTS or nothing.
"""
import hashlib
import hmac
import http.server
import re
import socket
import struct
import threading
import urllib.parse
from xml.sax.saxutils import escape

ID, SECRET, REGION, BUCKET = "tidemark", "a secret", "us-east-1", "backups"
FAULTS = {
    "500": "the request is not carried out, and the answer is an error of the server",
    "503": "the same, with another code",
    "403": "the same, an error of the client",
    "lost": "the request is carried out, and the connection is cut before the answer",
    "cut": "the connection is cut before the request is carried out",
    "short": "the body of the answer is cut in the middle",
    "silent": "there is no answer, until the client has gone",
}


CODES = {"500": "InternalError", "503": "SlowDown", "403": "AccessDenied"}


def hexhash(data):
    return hashlib.sha256(data).hexdigest()


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def log_message(self, *args):
        pass

    # ---- the signature, as the documentation of AWS has it

    def check_signature(self, path, query, body):
        m = re.fullmatch(r"AWS4-HMAC-SHA256 Credential=([^/]+)/(\d{8})/([^/]+)/s3/aws4_request, "
                         r"SignedHeaders=([a-z0-9;-]+), Signature=([0-9a-f]{64})", self.headers.get("authorization", ""))
        if not m:
            return "AccessDenied"
        who, day, region, names, signature = m.groups()
        if who != ID or region != REGION:
            return "InvalidAccessKeyId"
        names = names.split(";")
        for name in self.headers:
            if name.lower().startswith("x-amz-") and name.lower() not in names:
                return "unsigned header " + name
        if names != sorted(names) or "host" not in names:
            return "AccessDenied"
        pairs = sorted(q.partition("=")[::2] for q in query.split("&") if q)
        canonical = "\n".join([
            self.command, path, "&".join("%s=%s" % p for p in pairs),
            *("%s:%s" % (n, " ".join(self.headers[n].split())) for n in names), "", ";".join(names),
            self.headers["x-amz-content-sha256"]])
        scope = "%s/%s/s3/aws4_request" % (day, region)
        text = "\n".join(["AWS4-HMAC-SHA256", self.headers["x-amz-date"], scope, hexhash(canonical.encode())])
        key = ("AWS4" + SECRET).encode()
        for part in (day, region, "s3", "aws4_request"):
            key = hmac.new(key, part.encode(), hashlib.sha256).digest()
        if hmac.new(key, text.encode(), hashlib.sha256).hexdigest() != signature:
            return "SignatureDoesNotMatch"
        return None if self.headers["x-amz-content-sha256"] == hexhash(body) else "XAmzContentSHA256Mismatch"

    # ---- answers

    def answer(self, status, body=b"", **headers):
        if isinstance(body, str):
            body = ('<?xml version="1.0" encoding="UTF-8"?>' + body).encode()
        short = self.fault == "short" and len(body) > 1
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        if status != 204:
            self.send_header("content-length", headers.get("size", len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body[:len(body) // 2] if short else body)
        if short:
            self.cut()

    def error(self, status, code):
        self.answer(status, "" if self.command == "HEAD" else
                    "<Error><Code>%s</Code><Message>said the test</Message></Error>" % code)

    def cut(self):
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close_connection = True
        self.wfile.flush()
        self.connection.close()

    # ---- requests

    def do(self):
        s = self.server.store
        path, _, query = self.path.partition("?")
        body = self.rfile.read(int(self.headers.get("content-length", 0)))
        s.requests.append((self.command, self.path))
        self.fault = s.fault(self.command, self.path)  # which may wait
        wrong = self.check_signature(path, query, body)
        if wrong:
            return self.error(403, wrong)
        if self.fault in CODES:
            return self.error(int(self.fault), CODES[self.fault])
        if self.fault == "cut":
            return self.cut()
        if self.fault == "silent":
            self.rfile.read(1)
            self.close_connection = True
            return None
        if self.fault == "lost":
            self.answer = lambda *args, **kwargs: None
        with s.lock:
            self.carry_out(s, urllib.parse.unquote(path), dict(urllib.parse.parse_qsl(query, True)), body)
        return self.cut() if self.fault == "lost" else None

    do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = do

    def carry_out(self, s, path, query, body):
        bucket, _, key = path[1:].partition("/")
        if bucket != BUCKET:
            return self.error(404, "NoSuchBucket")
        if not key:
            return self.list_uploads(s, query) if "uploads" in query else self.list_objects(s, query)
        if "uploads" in query or "uploadId" in query:
            return self.upload(s, key, query, body)
        return getattr(self, "on_" + self.command)(s, key, body)

    def holds(self, s, key):
        etag = s.etag(key)
        match, none = self.headers.get("if-match"), self.headers.get("if-none-match")
        if not s.conditions and self.command == "PUT":
            return True
        if match is not None and (etag is None or match.strip('"') != etag.strip('"')):
            return False
        return none is None or etag is None

    def on_PUT(self, s, key, body):
        if not self.holds(s, key):
            return self.error(412, "PreconditionFailed")
        s.objects[key] = body
        return self.answer(200, etag=s.etag(key))

    def on_GET(self, s, key, body):
        data = s.objects.get(key)
        if data is None:
            return self.error(404, "NoSuchKey")
        if not self.holds(s, key):
            return self.error(412, "PreconditionFailed")
        m = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("range", ""))
        if not m:
            return self.answer(200, data, etag=s.etag(key), size=len(data))
        first, last = int(m.group(1)), min(int(m.group(2)), len(data) - 1)
        if first >= len(data):
            return self.error(416, "InvalidRange")
        return self.answer(206, data[first:last + 1], etag=s.etag(key),
                           content_range="bytes %d-%d/%d" % (first, last, len(data)))

    on_HEAD = on_GET

    def on_DELETE(self, s, key, body):
        s.objects.pop(key, None)
        return self.answer(204)

    def upload(self, s, key, query, body):
        if self.command == "POST" and "uploads" in query:
            s.last += 1
            s.uploads["id/%d+" % s.last] = (key, {})
            return self.answer(200, "<InitiateMultipartUploadResult><UploadId>id/%d+</UploadId>"
                               "</InitiateMultipartUploadResult>" % s.last)
        if query["uploadId"] not in s.uploads:
            return self.error(404, "NoSuchUpload")
        parts = s.uploads[query["uploadId"]][1]
        if self.command == "PUT":
            parts[int(query["partNumber"])] = body
            return self.answer(200, etag='"%s"' % hashlib.md5(body).hexdigest())
        if self.command == "POST":
            want = re.findall(rb"<PartNumber>(\d+)</PartNumber><ETag>&quot;(\w+)&quot;</ETag>", body)
            if [(int(n), t.decode()) for n, t in want] != [(n, hashlib.md5(p).hexdigest())
                                                           for n, p in sorted(parts.items())]:
                return self.error(400, "InvalidPart")
            s.objects[key] = b"".join(p for _, p in sorted(parts.items()))
            s.parts[key] = len(parts)
            del s.uploads[query["uploadId"]]
            return self.answer(200, "<CompleteMultipartUploadResult><ETag>&quot;x-%d&quot;</ETag>"
                               "</CompleteMultipartUploadResult>" % len(parts))
        del s.uploads[query["uploadId"]]
        return self.answer(204)

    def list_objects(self, s, query):
        keys = [k for k in sorted(s.objects) if k.startswith(query["prefix"])]
        start = int(query.get("continuation-token", "0"))
        page = keys[start:start + s.page]
        more = start + s.page < len(keys)
        self.answer(200, s.garble("<ListBucketResult><IsTruncated>%s</IsTruncated>%s%s</ListBucketResult>" % (
            "true" if more else "false",
            "<NextContinuationToken>%d</NextContinuationToken>" % (start + s.page) if more else "",
            "".join("<Contents><Key>%s</Key><Size>%d</Size></Contents>" % (urllib.parse.quote(k), len(s.objects[k]))
                    for k in page))))

    def list_uploads(self, s, query):
        rows = [(k, u) for u, (k, _) in sorted(s.uploads.items()) if k.startswith(query["prefix"])]
        self.answer(200, "<ListMultipartUploadsResult><IsTruncated>false</IsTruncated>%s</ListMultipartUploadsResult>" %
                    "".join("<Upload><Key>%s</Key><UploadId>%s</UploadId></Upload>" % (escape(k), escape(u))
                            for k, u in rows))


class Server(http.server.ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request, address):
        pass  # a connection that was cut


class Store:
    """The server, which runs until .stop(). `page`: objects in a page of a list; `conditions`: of PUT are heeded."""

    def __init__(self, page=1000, conditions=True):
        self.page, self.conditions = page, conditions
        self.objects, self.uploads, self.parts, self.digests, self.requests, self.last = {}, {}, {}, {}, [], 0
        self.lock = threading.Lock()
        self.fault = lambda method, path: None
        self.garble = lambda xml: xml
        self.server = Server(("127.0.0.1", 0), Handler)
        self.server.store = self
        threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True).start()
        self.url = "http://127.0.0.1:%d" % self.server.server_address[1]
        self.env = {"AWS_ENDPOINT_URL": self.url, "AWS_ACCESS_KEY_ID": ID, "AWS_SECRET_ACCESS_KEY": SECRET,
                    "AWS_REGION": REGION}

    def etag(self, key):
        if key not in self.objects:
            return None
        data = self.objects[key]
        if self.digests.get(key, (None,))[0] is not data:
            self.digests[key] = (data, hashlib.md5(data).hexdigest())
        digest = self.digests[key][1]
        return '"%s-%d"' % (digest, self.parts[key]) if key in self.parts else '"%s"' % digest

    def stop(self):
        self.server.shutdown()
        self.server.server_close()
