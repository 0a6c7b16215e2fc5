# SPDX-FileCopyrightText: 2026 The Tidemark authors
# SPDX-License-Identifier: GPL-2.0-or-later
"""A terminal for the tests of programs that draw on one: a pty, and the screen that it would show.

It knows the escape sequences that client/top/screen.c sends; any other one fails the case."""
import codecs
import errno
import fcntl
import os
import pty
import re
import select
import struct
import termios
import time
import unicodedata

from harness import *

SEQUENCE = re.compile(r"\x1b\[(\??)([0-9;]*)([A-Za-z])")


def width(char):
    """The columns that a character takes."""
    if unicodedata.combining(char):
        return 0
    return 2 if unicodedata.east_asian_width(char) in "WF" else 1


class Screen:
    """What is shown: .cells[row][column] is (text, attributes), attributes a frozenset of SGR numbers."""

    def __init__(self, columns, rows):
        self.columns, self.rows = columns, rows
        self.modes = set()  # private modes that are set
        self.pending = ""
        self.overflow = False  # since the last cursor home, a line was wider than the screen
        self.clear()

    def clear(self):
        self.cells = [[(" ", frozenset())] * self.columns for _ in range(self.rows)]
        self.at, self.attributes = [0, 0], frozenset()

    def resize(self, columns, rows):
        self.columns, self.rows = columns, rows
        self.clear()

    def text(self):
        return "\n".join("".join(c for c, _ in row).rstrip() for row in self.cells)

    def feed(self, text):
        text = self.pending + text
        at = 0
        while at < len(text):
            if text[at] == "\x1b":
                found = SEQUENCE.match(text, at)
                if not found:
                    if len(text) - at > 20:
                        fail("unknown escape sequence: %r" % text[at:at + 20])
                    break
                self.control(*found.groups())
                at = found.end()
                continue
            self.put(text[at])
            at += 1
        self.pending = text[at:]

    def control(self, private, numbers, final):
        values = [int(n or 0) for n in numbers.split(";")]
        if private:
            self.modes.add(values[0]) if final == "h" else self.modes.discard(values[0])
        elif final == "H":
            self.at = [0, 0]
            self.overflow = False
        elif final == "J":
            self.cells = [[(" ", frozenset())] * self.columns for _ in range(self.rows)]
        elif final == "K" and values == [2]:
            self.cells[self.at[0]] = [(" ", frozenset())] * self.columns
        elif final == "m":
            for value in values:
                self.attributes = frozenset() if not value else self.attributes | {value}
        else:
            fail("unknown escape sequence: %s%s%s" % (private, numbers, final))

    def put(self, char):
        row, column = self.at
        if char == "\r":
            self.at[1] = 0
        elif char == "\n":
            self.at[0] = min(row + 1, self.rows - 1)
        elif ord(char) < 32:
            fail("control character %r on the screen" % char)
        elif not width(char):
            text, attributes = self.cells[row][max(column - 1, 0)]
            self.cells[row][max(column - 1, 0)] = (text + char, attributes)
        else:
            if column + width(char) > self.columns:
                self.overflow = True
                return
            self.cells[row][column] = (char, self.attributes)
            if width(char) == 2:
                self.cells[row][column + 1] = ("", self.attributes)
            self.at[1] = column + width(char)


class Terminal:
    """A program on a terminal of its own."""

    def __init__(self, *command, columns=80, rows=24, env=None, cwd=None):
        self.screen = Screen(columns, rows)
        self.raw = b""
        self.decoder = codecs.getincrementaldecoder("utf-8")("replace")
        settings = {**os.environ, "TERM": "xterm-256color", "LC_ALL": "C.UTF-8", **(env or {})}
        settings = {k: v for k, v in settings.items() if v is not None}
        self.master, self.slave = pty.openpty()
        self._size(columns, rows)
        self.modes = termios.tcgetattr(self.slave)
        self.process = subprocess.Popen([str(c) for c in command], stdin=self.slave, stdout=self.slave,
                                        stderr=self.slave, env=settings, cwd=cwd, start_new_session=True,
                                        preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0))

    def _size(self, columns, rows):
        fcntl.ioctl(self.master, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def resize(self, columns, rows):
        self.read()
        self.screen.resize(columns, rows)
        self._size(columns, rows)  # the kernel sends SIGWINCH

    def read(self, timeout=0):
        """Takes what there is to read."""
        while select.select([self.master], [], [], timeout)[0]:
            try:
                data = os.read(self.master, 65536)
            except OSError as e:
                if e.errno != errno.EIO:
                    raise
                return
            self.raw += data
            self.screen.feed(self.decoder.decode(data))
            timeout = 0

    def type(self, keys):
        os.write(self.master, keys.encode())

    def sees(self, pattern):
        """Waits until the screen matches; returns the match."""
        deadline = time.monotonic() + PATIENCE
        while True:
            found = re.search(pattern, self.screen.text(), re.M)
            if found and not self.screen.overflow:  # one that was drawn for another size is on its way
                return found
            if time.monotonic() > deadline or self.process.poll() is not None:
                fail("no %r on the screen (status %s):\n%s" % (pattern, self.process.poll(), self.screen.text()))
            self.read(0.05)

    def end(self, status=0):
        """Waits for its end, and checks that the terminal is as it was."""
        deadline = time.monotonic() + PATIENCE
        while self.process.poll() is None:
            if time.monotonic() > deadline:
                self.kill()
                fail("the program did not end:\n%s" % self.screen.text())
            self.read(0.05)
        self.read()
        equal(self.process.returncode, status, "status; %r" % self.raw[-300:])
        equal(self.restored(), True, "the terminal is as it was: modes %s" % self.screen.modes)
        self.close()

    def restored(self):
        return termios.tcgetattr(self.slave) == self.modes and self.screen.modes <= {7, 25} and \
            b"\x1b[?1049h" not in self.raw[self.raw.rfind(b"\x1b[?1049l") + 1:]

    def kill(self):
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()

    def close(self):
        self.kill()
        os.close(self.master)
        os.close(self.slave)

    def __enter__(self):
        return self

    def __exit__(self, kind, value, tb):
        if self.process.poll() is None:
            self.kill()
