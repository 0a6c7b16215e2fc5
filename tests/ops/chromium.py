# SPDX-FileCopyrightText: 2026 The Tidemark authors
# SPDX-License-Identifier: GPL-2.0-or-later
"""A headless Chromium with one page, controlled over the pipe of its developer tools."""
import base64
import fcntl
import struct
import zlib

from harness import *


class Chromium:
    """@url is opened in it; .call() is a command of the protocol, on that page."""

    def __init__(self, tmp, url):
        to_read, self._to = os.pipe()
        self._from, to_write = os.pipe()
        ends = [fcntl.fcntl(end, fcntl.F_DUPFD_CLOEXEC, 5) for end in (to_read, to_write)]
        command = ["chromium", "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage",
                   "--hide-scrollbars", "--no-first-run", "--user-data-dir=" + os.path.join(tmp, "chromium"),
                   "--remote-debugging-pipe", "about:blank"]
        self._process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, close_fds=False,
            preexec_fn=lambda: [os.dup2(end, fd) for end, fd in zip(ends, (3, 4))])
        for end in to_read, to_write, *ends:
            os.close(end)
        self._buffer, self._n, self._session = b"", 0, None
        target = self.call("Target.createTarget", url=url)["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._session = None
        try:
            self.call("Browser.close")
        finally:
            os.close(self._to)
            os.close(self._from)
            self._process.kill()
            self._process.wait()

    def _read(self):
        while b"\0" not in self._buffer:
            if not select.select([self._from], [], [], 3 * PATIENCE)[0]:
                fail("Chromium does not answer")
            data = os.read(self._from, 1 << 20)
            if not data:
                fail("Chromium has ended")
            self._buffer += data
        message, _, self._buffer = self._buffer.partition(b"\0")
        return json.loads(message)

    def call(self, method, **params):
        self._n += 1
        message = {"id": self._n, "method": method, "params": params}
        if self._session:
            message["sessionId"] = self._session
        data = json.dumps(message).encode() + b"\0"
        while data:
            data = data[os.write(self._to, data):]
        while True:
            answer = self._read()
            if answer.get("id") == self._n:
                if "error" in answer:
                    fail("%s: %s" % (method, answer["error"]))
                return answer["result"]

    def value(self, expression):
        """The value of a JavaScript expression."""
        return self.call("Runtime.evaluate", expression=expression, returnByValue=True)["result"].get("value")

    def look(self, width, height, dark=False):
        """Gives the page that size and colour scheme."""
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)
        self.call("Emulation.setEmulatedMedia",
                  features=[{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}])

    def tree(self):
        """The accessibility tree as (role, name) of its nodes, in order."""
        nodes = self.call("Accessibility.getFullAXTree")["nodes"]
        return [(n["role"]["value"], n.get("name", {}).get("value", "")) for n in nodes if not n["ignored"]]

    def screenshot(self):
        """PNG."""
        return base64.b64decode(self.call("Page.captureScreenshot", format="png")["data"])


def pixels(png):
    """The rows of an 8-bit RGB or RGBA picture without interlacing, as lists of colours."""
    width, height, depth, kind, _, _, interlace = struct.unpack(">IIBBBBB", png[16:29])
    size = {2: 3, 6: 4}[kind]
    equal((depth, interlace), (8, 0))
    data, at = b"", 8
    while at < len(png):
        length, name = struct.unpack(">I4s", png[at:at + 8])
        data += png[at + 8:at + 8 + length] if name == b"IDAT" else b""
        at += length + 12
    data, rows, above = zlib.decompress(data), [], bytearray(width * size)
    for y in range(height):
        start = y * (width * size + 1)
        kind, row = data[start], bytearray(data[start + 1:start + 1 + width * size])
        for i in range(len(row) if kind else 0):
            left, up = row[i - size] if i >= size else 0, above[i]
            corner = above[i - size] if i >= size else 0
            if kind == 4:
                guess = left + up - corner
                near = min((abs(guess - v), n) for n, v in enumerate((left, up, corner)))[1]
                row[i] = (row[i] + (left, up, corner)[near]) & 255
            else:
                row[i] = (row[i] + (0, left, up, (left + up) // 2)[kind]) & 255
        rows.append([tuple(row[i:i + 3]) for i in range(0, len(row), size)])
        above = row
    return rows
