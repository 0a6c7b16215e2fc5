# SPDX-FileCopyrightText: 2026 The Tidemark authors
# SPDX-License-Identifier: GPL-2.0-or-later
"""What the Python tests share: cases and their TAP, daemons, QMP and NBD clients, commands.

    from harness import *

    @test
    def a_write_marks_its_granule(tmp):
        "writing one byte marks one granule"
        with Daemon(tmp, *disk(tmp, "disk0", 1 << 20)) as d:
            d.qmp("block-dirty-bitmap-add", node="disk0", name="b0")
            ...
            equal(d.qmp("query-version")["package"], "")

    main()

A case takes `tmp`, an empty directory of its own with a path short enough for sockets, or nothing. It
fails by raising, is skipped by skip(reason) or by @test(needs=["qemu-img"]). Daemons must end with
status 0 and without a word from a sanitizer, also those that a case left running.
"""
import importlib.util
import json
import os
import re
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import traceback

PYTHON = "/usr/bin/python3"  # where distributions put libnbd's module, whatever PATH says
if not importlib.util.find_spec("nbd") and os.path.exists(PYTHON) and not os.path.samefile(
        PYTHON, os.path.realpath(sys.executable)):
    os.execv(PYTHON, [PYTHON] + sys.argv)

SRCDIR = os.environ.get("SRCDIR") or os.path.dirname(
    os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
BUILDDIR = os.environ.get("BUILDDIR") or os.path.join(SRCDIR, "build")
TIDEMARKD = os.environ.get("TIDEMARKD") or os.path.join(BUILDDIR, "daemon", "tidemarkd")
TIDEMARK = os.environ.get("TIDEMARK") or os.path.join(BUILDDIR, "client", "tidemark")
QSD = "qemu-storage-daemon"
PATIENCE = 30 * float(os.environ.get("TEST_TIMEOUT_MULTIPLIER") or 1)  # seconds for any one wait
os.environ["PATH"] = os.environ.get("PATH", "") + ":/usr/sbin:/sbin"
# Leaks are looked for in daemons. In a client, which ends at once, that would take as long as all else that it does.
LEAKS = {"ASAN_OPTIONS": os.environ.get("ASAN_OPTIONS", "")}
os.environ["ASAN_OPTIONS"] = LEAKS["ASAN_OPTIONS"] + ":detect_leaks=0"

_cases = []
_daemons = []


class Skip(Exception):
    """Ends a case without a verdict; the text says why."""


class Failure(AssertionError):
    """An expectation that did not hold; the text says which, without a stack."""


def skip(reason):
    raise Skip(reason)


def fail(message):
    raise Failure(message)


def shown(value, limit=2000):
    """The value's repr, without the middle of a very long one."""
    text = repr(value)
    if len(text) <= limit:
        return text
    return "%s … %s (%d characters)" % (text[:limit // 2], text[-limit // 2:], len(text))


def equal(got, expected, what=""):
    """Fails unless got == expected, and shows both."""
    if got != expected:
        fail("%s\n  got      %s\n  expected %s" % (what or "not equal", shown(got), shown(expected)))


def matches(text, pattern):
    """Fails unless the regular expression occurs in the text."""
    if not re.search(pattern, text):
        fail("no match\n  got      %r\n  expected %r" % (text, pattern))


def raises(error, function, *args, match="", **kwargs):
    """Fails unless function(...) raises; returns the exception."""
    try:
        result = function(*args, **kwargs)
    except error as e:
        matches(str(e), match)
        return e
    return fail("%s was expected, got %r" % (error.__name__, result))


def have(command):
    return shutil.which(command) is not None


def need_fuse():
    """Skips the case where nobody can mount files through FUSE."""
    if not os.access("/dev/fuse", os.R_OK | os.W_OK):
        skip("/dev/fuse can't be opened")
    if os.geteuid() and not have("fusermount3"):
        skip("fusermount3 is not installed")


def test(function=None, *, needs=()):
    """Registers a case. Its name is the docstring's first line, or the function's name."""

    def register(f):
        name = (f.__doc__ or f.__name__.replace("_", " ")).strip().splitlines()[0].replace("#", "")
        _cases.append((name, f, needs))
        return f

    return register(function) if function else register


def _run_case(function, needs):
    for command in needs:
        if not have(command):
            skip("%s is not installed" % command)
    tmp = tempfile.mkdtemp(prefix="t")
    try:
        function(tmp) if function.__code__.co_argcount else function()
        for daemon in list(_daemons):
            daemon.stop()
    finally:
        for daemon in list(_daemons):
            daemon.kill()
            sys.stderr.write(daemon.log())
        shutil.rmtree(tmp, ignore_errors=True)


def named(words):
    """The cases of which a word is a part of the name, or all; ends the program if a word names none."""
    chosen = {word: [c for c in _cases if word in c[0] or word in c[1].__name__] for word in words}
    missing = [word for word in words if not chosen[word]]
    if missing:
        sys.exit("\n".join(["%s: no such test: %s. There are:" % (sys.argv[0], ", ".join(missing))]
                           + ["  %s: %s" % (c[1].__name__, c[0]) for c in _cases]))
    return [c for c in _cases if not words or any(c in found for found in chosen.values())]


def main():
    """Runs the cases in order, prints TAP and exits. Arguments choose cases by a part of the name."""
    chosen = named(sys.argv[1:])
    bad = 0
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that daemons are killed on the way out
    print("1..%d" % len(chosen), flush=True)
    for number, (name, function, needs) in enumerate(chosen, 1):
        verdict, tail = "ok", ""
        try:
            _run_case(function, needs)
        except Skip as reason:
            tail = " # SKIP %s" % reason
        except Exception as e:  # whatever a case raises is its failure; the others still run
            verdict = "not ok"
            bad += 1
            tb = traceback.format_exc()
            frames = traceback.extract_tb(e.__traceback__)
            here = [f for f in frames if f.filename == os.path.abspath(sys.argv[0])]
            text = tb if not isinstance(e, Failure) else "line %d: %s" % (
                (here or frames)[-1].lineno, e)
            print("\n".join("# " + line for line in text.splitlines()))
        print("%s %d - %s%s" % (verdict, number, name, tail), flush=True)
    sys.exit(1 if bad else 0)


def run(*command, timeout=None, check=True, input=None, env=None, cwd=None, text=True):
    """Runs a command to its end; returns it with stdout and stderr (text). With check, a status other
    than 0 fails the case and shows what was said."""
    command = [str(c) for c in command]
    p = subprocess.Popen(command, stdin=subprocess.PIPE if input is not None else subprocess.DEVNULL,
                         stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=text, cwd=cwd,
                         errors="replace" if text else None,
                         env=dict(os.environ, **env) if env else None)
    try:
        out, err = p.communicate(input, timeout or PATIENCE * 2)
    except subprocess.TimeoutExpired:
        p.kill()
        out, err = p.communicate()
        fail("%s did not end in time\n%s%s" % (" ".join(command), out, err))
    if check and p.returncode != 0:
        fail("%s: status %d\n%s%s" % (" ".join(command), p.returncode, out, err))
    if "Sanitizer" in str(err):
        fail("%s:\n%s" % (" ".join(command), err))
    return subprocess.CompletedProcess(command, p.returncode, out, err)


def tidemark(*args, **kwargs):
    """run() of the client."""
    return run(TIDEMARK, *args, **kwargs)


def wait_until(condition, what, timeout=None):
    """Waits for condition() to be true and returns its value."""
    deadline = time.monotonic() + (timeout or PATIENCE)
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > deadline:
            fail("waited in vain for %s" % what)
        time.sleep(0.01)


class QMPError(Exception):
    """An error reply: .cls and .desc; .bare is .desc without the values that are known, which QEMU leaves out."""

    def __init__(self, error):
        super().__init__("%s: %s" % (error["class"], error["desc"]))
        self.cls, self.desc = error["class"], error["desc"]
        self.bare = re.sub("(?<='|d): (expected one of|did you mean) .*", "", self.desc)


class QMP:
    """A client of one monitor, by its socket's path or (host, port), or on a connected socket. Events that arrive are
    kept in .events, oldest first."""

    def __init__(self, where, negotiate=True, peer=False):
        self.peer = peer  # QSD may greet twice if somebody connects while it starts
        self.sock = where
        if not isinstance(where, socket.socket):
            self.sock = socket.socket(socket.AF_UNIX) if isinstance(where, str) else socket.socket(
                socket.AF_INET6 if ":" in where[0] else socket.AF_INET)
        self.sock.settimeout(PATIENCE)
        try:
            if self.sock is not where:
                self.sock.connect(where)
        except OSError:
            self.sock.close()
            raise
        self.buffer = b""
        self.events = []
        self.greeting = self.read()
        if negotiate:
            self("qmp_capabilities")

    def send(self, data):
        """Sends bytes, or an object as JSON."""
        self.sock.sendall(data if isinstance(data, bytes) else json.dumps(data).encode() + b"\n")

    def read(self):
        """The next message, whatever it is; None at the end of the stream."""
        while b"\n" not in self.buffer:
            try:
                data = self.sock.recv(65536)
            except socket.timeout:
                fail("no answer from the monitor")
            except ConnectionResetError:
                data = b""
            if not data:
                return None
            self.buffer += data
        line, _, self.buffer = self.buffer.partition(b"\n")
        return json.loads(line)

    def reply(self):
        """The next message that is not an event; None at the end of the stream."""
        while True:
            message = self.read()
            if message is None or not ("event" in message or self.peer and "QMP" in message):
                return message
            self.events += [message] if "event" in message else []

    def __call__(self, command, arguments=None, **more):
        """Executes a command and returns its result, or raises QMPError. Underscores in keyword
        arguments stand for dashes; names that have real ones go into the arguments object."""
        arguments = dict(arguments or {}, **{k.replace("_", "-"): v for k, v in more.items()})
        request = {"execute": command}
        if arguments:
            request["arguments"] = arguments
        self.send(request)
        reply = self.reply()
        if reply is None:
            fail("the monitor closed the connection during %s" % command)
        if "error" in reply:
            raise QMPError(reply["error"])
        if "return" not in reply:
            fail("%s is answered by %s" % (command, shown(reply)))
        return reply["return"]

    def wait_event(self, name, timeout=None, **data):
        """The oldest event of that name with these data (subset), taken out of .events."""
        deadline = time.monotonic() + (timeout or PATIENCE)
        while True:
            for event in self.events:
                if event["event"] == name and data.items() <= event.get("data", {}).items():
                    self.events.remove(event)
                    return event
            if b"\n" not in self.buffer and not select.select(
                    [self.sock], [], [], max(0, deadline - time.monotonic()))[0]:
                fail("no event %s %s; there were %s" % (name, data, self.events))
            message = self.read()
            if message is None:
                fail("the monitor closed the connection before event %s" % name)
            self.events.append(message)

    def close(self):
        self.sock.close()


def _alive(path):
    """Whether somebody accepts on a unix socket."""
    with socket.socket(socket.AF_UNIX) as s:
        try:
            s.connect(path)
        except OSError:
            return False
    return True


def listens(path):
    """Whether somebody listens on a unix socket. Its file is there a moment earlier. No connection is made: some servers
    serve one only."""
    with open("/proc/net/unix") as f:
        return any(words[3] == "00010000" and words[-1] == path for words in map(str.split, f))


class Daemon:
    """tidemarkd, or with binary=QSD its peer, with an NBD server on .nbd_path and a monitor on
    .qmp_path, each unless switched off. The arguments follow; see disk().

    server: further options of that server. qmp() has a monitor of its own, because QSD's serve one client at a time."""

    def __init__(self, tmp, *args, binary=None, nbd=True, qmp=True, env=None, name="d",
                 max_connections=None, server="", pass_fds=()):
        self.nbd_path = os.path.join(tmp, name + ".nbd") if nbd else None
        self.qmp_path = os.path.join(tmp, name + ".qmp") if qmp else None
        self.own_path = os.path.join(tmp, name + ".own")
        self.log_path = os.path.join(tmp, name + ".log")
        self.peer = binary is not None
        command = [binary or TIDEMARKD]
        if nbd:
            more = ",max-connections=%d" % max_connections if max_connections is not None else ""
            more += "," + server if server else ""
            command += ["--nbd-server", "addr.type=unix,addr.path=" + self.nbd_path + more]
        if qmp:
            for i, path in enumerate((self.qmp_path, self.own_path)):
                command += ["--chardev", "socket,id=c%d,server=on,wait=off,path=%s" % (i, path),
                            "--monitor", "chardev=c%d" % i]
        self.command = command + [str(a) for a in args]
        self._qmp = None
        with open(self.log_path, "ab") as out:
            self.process = subprocess.Popen(self.command, stdin=subprocess.DEVNULL, stdout=out,
                                            stderr=out, env={**os.environ, **LEAKS, **(env or {})},
                                            pass_fds=pass_fds)
        self.pid = self.process.pid
        _daemons.append(self)
        try:
            # The monitor's socket listens before later options are acted on, so an answer is awaited.
            if qmp:
                wait_until(lambda: self._answers(), "the monitor of %s" % self.command[0])
            elif nbd:
                wait_until(lambda: self._running() and _alive(self.nbd_path), "the NBD socket")
        except BaseException:
            self.kill()
            raise

    def _running(self):
        if self.process.poll() is not None:
            _daemons.remove(self)
            fail("%s: status %d\n%s" % (" ".join(self.command), self.process.returncode, self.log()))
        return True

    def _answers(self):
        self._running()
        try:
            self._qmp = QMP(self.own_path, peer=self.peer)
        except OSError:  # not there yet
            return False
        return True

    def log(self):
        """What it wrote to standard output and error so far."""
        try:
            with open(self.log_path, errors="replace") as f:
                return f.read()
        except FileNotFoundError:
            return ""

    @property
    def monitor(self):
        """The QMP client that qmp() uses."""
        return self._qmp

    def qmp(self, command, arguments=None, **more):
        """Executes a command, see QMP.__call__."""
        return self._qmp(command, arguments, **more)

    def unexport(self, export):
        """Deletes an export, clients or not, and waits for its end: until then what it uses is busy."""
        self.qmp("block-export-del", id=export, mode="hard")
        self.monitor.wait_event("BLOCK_EXPORT_DELETED", id=export)

    def new_monitor(self, negotiate=True):
        """One more QMP client."""
        return QMP(self.qmp_path, negotiate)

    def uri(self, export="disk0"):
        return "nbd+unix:///%s?socket=%s" % (export, self.nbd_path)

    def nbd(self, export="disk0", contexts=(), **settings):
        """A connected libnbd handle; settings are its set_ functions (strict_mode=0, ...)."""
        import nbd
        h = nbd.NBD()
        for context in contexts:
            h.add_meta_context(context)
        for key, value in settings.items():
            getattr(h, "set_" + key)(value)
        h.connect_uri(self.uri(export))
        return h

    def bitmap(self, node, name):
        """What query-named-block-nodes says of a bitmap; None if there is none."""
        for info in self.qmp("query-named-block-nodes", flat=True):
            if info["node-name"] == node:
                for bitmap in info.get("dirty-bitmaps", []):
                    if bitmap.get("name") == name:
                        return bitmap
        return None

    def _end(self):
        if self in _daemons:
            _daemons.remove(self)
        if self._qmp:
            self._qmp.close()

    def wait(self, status=0):
        """Waits for the end that something else caused, and checks the status."""
        try:
            got = self.process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            self.kill()
            fail("%s did not end\n%s" % (self.command[0], self.log()))
        self._end()
        if got != status or "Sanitizer" in self.log():
            fail("%s ended with status %d, expected %d\n%s" % (self.command[0], got, status,
                                                               self.log()))

    def stop(self, signum=signal.SIGTERM):
        """Asks it to end, and checks that it does so well."""
        if self.process.poll() is None:
            self.process.send_signal(signum)
        if self in _daemons:
            self.wait()

    def kill(self):
        """kill -9; nothing is checked but what a sanitizer had said before."""
        self.process.kill()
        self.process.wait()
        self._end()
        if "Sanitizer" in self.log():
            fail(self.log())

    def __enter__(self):
        return self

    def __exit__(self, kind, value, tb):
        if kind is None:
            self.stop()


def image(path, size, data=()):
    """Makes a sparse raw file; data is a list of (offset, bytes). Returns the path."""
    with open(path, "wb") as f:
        f.truncate(size)
        for offset, content in data:
            f.seek(offset)
            f.write(content)
    return path


def disk(tmp, node, size=None, path=None, writable=True, export=True, bitmaps=(), **options):
    """Daemon arguments for a raw file exported under its node's name. Makes the file if size is
    given. Options are added to --blockdev: aio="io_uring" (dots as __, dashes as _)."""
    path = path or os.path.join(tmp, node + ".img")
    if size is not None:
        image(path, size)
    more = "".join(",%s=%s" % (k.replace("__", ".").replace("_", "-"), v)
                   for k, v in options.items())
    args = ["--blockdev", "driver=file,node-name=%s,filename=%s%s" % (node, path, more)]
    if export:
        args += ["--export", "type=nbd,id=exp-%s,node-name=%s,name=%s,writable=%s%s" % (
            node, node, node, "on" if writable else "off",
            "".join(",bitmaps.%d=%s" % b for b in enumerate(bitmaps)))]
    return args


def extents(handle, context, size=None, start=0):
    """All extents of a context as (offset, length, flags), equal neighbours merged."""
    size = handle.get_size() if size is None else size
    found = []

    def one(name, offset, entries, error):
        if name == context:
            for length, flags in zip(entries[::2], entries[1::2]):
                length = min(length, size - offset)
                if found and found[-1][2] == flags and sum(found[-1][:2]) == offset:
                    found[-1] = (found[-1][0], found[-1][1] + length, flags)
                elif length:
                    found.append((offset, length, flags))
                offset += length
        return 0

    at = start
    while at < size:
        handle.block_status(min(size - at, 2 << 30), at, one)
        if not found or sum(found[-1][:2]) <= at:
            fail("block status of %s at %d made no progress" % (context, at))
        at = sum(found[-1][:2])
    return found


def dirty(handle, bitmap, size=None):
    """The dirty extents of a bitmap as (offset, length)."""
    return [(o, n) for o, n, flags in extents(handle, "qemu:dirty-bitmap:" + bitmap, size)
            if flags & 1]


def in_threads(*functions):
    """Runs functions at the same time; raises the first exception of any."""
    errors = []

    def guard(f):
        try:
            f()
        except Exception as e:  # carried over to the caller's thread
            errors.append(e)

    threads = [threading.Thread(target=guard, args=(f,)) for f in functions]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]
