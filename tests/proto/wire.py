# SPDX-FileCopyrightText: 2026 The Tidemark authors
# SPDX-License-Identifier: GPL-2.0-or-later
"""NBD at the level of bytes, for the tests of the protocol: no library in between.

Names are the specification's (doc/proto.md) without NBD_. A Wire is one connection; what it does not
offer is sent with send() and read with read().
"""
import os
import socket
import struct
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "func"))
from harness import *  # noqa: F401,F403

INIT, IHAVEOPT, REPLY = 0x4e42444d41474943, 0x49484156454f5054, 0x3e889045565a9
REQUEST, SIMPLE, STRUCTURED = 0x25609513, 0x67446698, 0x668e33ef
EXT_REQUEST, EXT_REPLY = 0x21e41c71, 0x6e8a278c

(OPT_EXPORT_NAME, OPT_ABORT, OPT_LIST, OPT_PEEK, OPT_STARTTLS, OPT_INFO, OPT_GO, OPT_STRUCTURED,
 OPT_LIST_META, OPT_SET_META, OPT_EXTENDED) = range(1, 12)
REP_ACK, REP_SERVER, REP_INFO, REP_META = 1, 2, 3, 4
ERR_UNSUP, ERR_POLICY, ERR_INVALID, ERR_PLATFORM, ERR_TLS, ERR_UNKNOWN, ERR_SHUTDOWN, \
    ERR_BLOCK_SIZE, ERR_TOO_BIG, ERR_EXT_HEADER = (0x80000000 + i for i in range(1, 11))
INFO_EXPORT, INFO_NAME, INFO_DESCRIPTION, INFO_BLOCK_SIZE = range(4)
READ, WRITE, DISC, FLUSH, TRIM, CACHE, ZEROES, STATUS = range(8)
FUA, NO_HOLE, DF, REQ_ONE, FAST_ZERO, PAYLOAD_LEN = (1 << i for i in range(6))
EPERM, EIO, ENOMEM, EINVAL, ENOSPC, EOVERFLOW, ENOTSUP = 1, 5, 12, 22, 28, 75, 95
T_NONE, T_DATA, T_HOLE, T_STATUS, T_STATUS_EXT, T_ERROR, T_ERROR_OFFSET = \
    0, 1, 2, 5, 6, 0x8001, 0x8002
HAS_FLAGS, READ_ONLY, SEND_FLUSH, SEND_FUA, SEND_TRIM, SEND_ZEROES, SEND_DF, MULTI_CONN, \
    SEND_CACHE, SEND_FAST_ZERO, STATUS_PAYLOAD = \
    (1 << i for i in (0, 1, 2, 3, 5, 6, 7, 8, 10, 11, 12))
MAX = 32 << 20


class Closed(Exception):
    """The server ended the connection."""


def text(s):
    """A string with its 32-bit length."""
    s = s.encode() if isinstance(s, str) else s
    return struct.pack(">I", len(s)) + s


def option(number, data=b"", length=None):
    return struct.pack(">QII", IHAVEOPT, number, len(data) if length is None else length) + data


def request(command, cookie, offset=0, length=0, flags=0, data=b"", magic=REQUEST):
    return struct.pack(">IHHQQI", magic, flags, command, cookie, offset, length) + data


def extended(command, cookie, offset=0, length=0, flags=0, data=b"", magic=EXT_REQUEST):
    """An extended request. With data, the flag and the length of the payload are added."""
    if data:
        flags |= PAYLOAD_LEN
        length = length or len(data)
    return struct.pack(">IHHQQQ", magic, flags, command, cookie, offset, length) + data


def info_data(name, *infos):
    return text(name) + struct.pack(">H%dH" % len(infos), len(infos), *infos)


def meta_data(name, *queries):
    return text(name) + struct.pack(">I", len(queries)) + b"".join(text(q) for q in queries)


class Wire:
    """A connection. flags=None: the client flags are not sent."""

    def __init__(self, where, flags=3, greet=True):
        if isinstance(where, tuple):
            self.s = socket.create_connection(where)
        else:
            self.s = socket.socket(socket.AF_UNIX)
            self.s.connect(where)
        self.s.settimeout(PATIENCE)
        self.structured = self.extended = False
        self.offsets = {}
        self.sorted = []  # chunks that sort_replies has read
        if greet:
            equal(self.unpack(">QQH"), (INIT, IHAVEOPT, 3), "greeting")
        if flags is not None:
            self.send(struct.pack(">I", flags))

    def send(self, data):
        try:
            self.s.sendall(data)
        except (BrokenPipeError, ConnectionResetError):
            raise Closed()

    def read(self, n):
        got = b""
        while len(got) < n:
            try:
                data = self.s.recv(n - len(got))
            except ConnectionResetError:
                data = b""
            except socket.timeout:
                fail("no answer; %d of %d bytes came" % (len(got), n))
            if not data:
                raise Closed("after %d of %d bytes" % (len(got), n))
            got += data
        return got

    def unpack(self, form):
        return struct.unpack(form, self.read(struct.calcsize(form)))

    def ended(self, what="the connection"):
        """The server closes, without a further byte."""
        try:
            data = self.read(1)
        except Closed:
            return
        fail("%s should have ended, got %r" % (what, data))

    def close(self):
        self.s.close()

    # -- handshake

    def reply(self, number):
        """One reply to an option: (type, data)."""
        magic, opt, kind, length = self.unpack(">QIII")
        equal((hex(magic), opt), (hex(REPLY), number), "option reply")
        return kind, self.read(length)

    def replies(self, number):
        """All replies to an option: [(type, data)], the final one last."""
        found = [self.reply(number)]
        while found[-1][0] not in (REP_ACK,) and not found[-1][0] & 0x80000000:
            found.append(self.reply(number))
        return found

    def opt(self, number, data=b"", length=None):
        self.send(option(number, data, length))
        return self.replies(number)

    def verdict(self, number, data=b"", length=None):
        """The type of the final reply."""
        return self.opt(number, data, length)[-1][0]

    def go(self, name="disk0", structured=True, contexts=(), extended=False):
        """Into transmission. Returns self; .size, .flags and .contexts are set."""
        if extended:
            equal(self.verdict(OPT_EXTENDED), REP_ACK, "extended headers")
            self.structured = self.extended = True
        elif structured:
            equal(self.verdict(OPT_STRUCTURED), REP_ACK, "structured replies")
            self.structured = True
        self.contexts = {}
        if contexts:
            for kind, data in self.opt(OPT_SET_META, meta_data(name, *contexts)):
                if kind == REP_META:
                    self.contexts[struct.unpack(">I", data[:4])[0]] = data[4:].decode()
        found = self.opt(OPT_GO, info_data(name))
        equal(found[-1], (REP_ACK, b""), "GO")
        for kind, data in found:
            if kind == REP_INFO and data[:2] == b"\0\0":
                self.size, self.flags = struct.unpack(">QH", data[2:])
        return self

    # -- transmission

    def request(self, command, cookie, offset=0, length=0, flags=0, data=b""):
        """Sends a request of the form negotiated. A payload belongs to it."""
        self.offsets[cookie] = offset
        form = extended if self.extended else request
        if self.extended and command == WRITE:
            flags |= PAYLOAD_LEN
        self.send(form(command, cookie, offset, length, flags, data))

    def simple(self, cookie, length=0):
        """A simple reply: (error, data)."""
        magic, error, got = self.unpack(">IIQ")
        equal((hex(magic), got), (hex(SIMPLE), cookie), "simple reply")
        return error, self.read(0 if error else length)

    def chunk(self):
        """A chunk: (flags, type, cookie, payload)."""
        if self.sorted:
            return self.sorted.pop(0)
        if self.extended:
            magic, flags, kind, cookie, offset, length = self.unpack(">IHHQQQ")
            equal(hex(magic), hex(EXT_REPLY), "chunk")
            if cookie in self.offsets:
                equal(offset, self.offsets[cookie], "the request's offset")
            return flags, kind, cookie, self.read(length)
        magic, flags, kind, cookie, length = self.unpack(">IHHQI")
        equal(hex(magic), hex(STRUCTURED), "chunk")
        return flags, kind, cookie, self.read(length)

    def sort_replies(self, n):
        """Reads n extended replies, which come in an order of the server's; they are then there by cookie."""
        found, final = [], 0
        while final < n:
            found.append(self.chunk())
            final += found[-1][0] & 1
        self.sorted = sorted(found, key=lambda chunk: chunk[2])

    def chunks(self, cookie):
        """A whole structured reply: [(type, payload)]."""
        found = []
        while True:
            flags, kind, got, payload = self.chunk()
            equal(got, cookie, "cookie")
            equal(flags & ~1, 0, "reply flags")
            found.append((kind, payload))
            if flags & 1:
                return found

    def answer(self):
        """Any reply without payload: (cookie, error, message)."""
        if not self.extended:
            magic, = self.unpack(">I")
            if magic == SIMPLE:
                error, cookie = self.unpack(">IQ")
                return cookie, error, ""
            equal(hex(magic), hex(STRUCTURED), "reply")
            flags, kind, cookie, length = self.unpack(">HHQI")
            payload = self.read(length)
        else:
            flags, kind, cookie, payload = self.chunk()
        equal(flags, 1, "the only chunk")
        if kind == T_NONE:
            equal(payload, b"")
            return cookie, 0, ""
        equal(kind, T_ERROR, "chunk type")
        error, n = struct.unpack(">IH", payload[:6])
        equal(len(payload), 6 + n, "error message length")
        return cookie, error, payload[6:].decode()

    def do(self, command, offset=0, length=0, flags=0, data=b"", cookie=0x1122334455667788):
        """A command without payload in its reply: its error."""
        self.request(command, cookie, offset, length or len(data), flags, data)
        got, error, message = self.answer()
        equal(got, cookie, "cookie")
        if error and self.structured and not message:
            fail("a structured error carries a message")
        return error

    def pread(self, offset, length, flags=0, cookie=7):
        """The bytes of a successful read, holes filled in."""
        self.request(READ, cookie, offset, length, flags)
        return self.read_reply(offset, length, cookie)

    def read_reply(self, offset, length, cookie):
        if not self.structured:
            error, data = self.simple(cookie, length)
            equal(error, 0, "read")
            return data
        out, covered = bytearray(length), 0
        for kind, payload in self.chunks(cookie):
            if kind == T_DATA:
                at, data = struct.unpack(">Q", payload[:8])[0], payload[8:]
            elif kind == T_HOLE:
                at, n = struct.unpack(">QI", payload)
                data = bytes(n)
            elif kind == T_NONE:
                continue
            else:
                fail("read failed: chunk %x %r" % (kind, payload))
            if at < offset or at + len(data) > offset + length or not data:
                fail("a chunk outside the range")
            out[at - offset:at - offset + len(data)] = data
            covered += len(data)
        equal(covered, length, "bytes described")
        return bytes(out)

    def status(self, offset, length, flags=0, cookie=9, ids=None):
        """{context id: [(length, flags)]}; ids: a payload that chooses among the contexts."""
        data = b"" if ids is None else struct.pack(">Q%dI" % len(ids), length, *ids)
        if ids is not None:
            flags, length = flags | PAYLOAD_LEN, len(data)
        self.request(STATUS, cookie, offset, length, flags, data)
        return self.status_reply(cookie)

    def status_reply(self, cookie):
        found = {}
        for kind, payload in self.chunks(cookie):
            equal(kind, T_STATUS_EXT if self.extended else T_STATUS, "chunk type")
            if self.extended:
                context, n = struct.unpack(">II", payload[:8])
                words = struct.unpack(">%dQ" % ((len(payload) - 8) // 8), payload[8:])
                equal(n, len(words) // 2, "the count of descriptors")
            else:
                context, *words = struct.unpack(">%dI" % (len(payload) // 4), payload)
            if context in found:
                fail("two chunks for context %d" % context)
            found[context] = list(zip(words[0::2], words[1::2]))
            if not found[context] or 0 in words[0::2]:
                fail("no extent, or an empty one")
        return found


def sanitized():
    """Whether the daemon was built with a sanitizer that has memory of its own."""
    with open(TIDEMARKD, "rb") as f:
        program = f.read()
    return b"__asan_init" in program or b"__tsan_init" in program


def serve(tmp, *more, size=1 << 20, **kw):
    """A daemon with a writable export disk0."""
    return Daemon(tmp, *disk(tmp, "disk0", size), *more, **kw)
