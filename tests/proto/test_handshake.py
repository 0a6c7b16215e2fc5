#!/usr/bin/python3
# SPDX-FileCopyrightText: 2026 The Tidemark authors
# SPDX-License-Identifier: GPL-2.0-or-later
"""The handshake, byte by byte. Sections named are those of the NBD specification, doc/proto.md."""
from wire import *


@test
def greeting(tmp):
    "the greeting is fixed newstyle with no-zeroes (Newstyle negotiation)"
    with serve(tmp) as d:
        w = Wire(d.nbd_path, flags=None, greet=False)
        equal(w.read(18), b"NBDMAGIC" b"IHAVEOPT" b"\0\3")


@test
def unknown_client_flags(tmp):
    "unknown client flags end the connection (Client flags)"
    with serve(tmp) as d:
        for flags in (4, 7, 0x80000000):
            Wire(d.nbd_path, flags=flags).ended()
        equal(Wire(d.nbd_path).verdict(OPT_LIST), REP_ACK)


@test
def not_fixed(tmp):
    "without fixed newstyle only EXPORT_NAME is taken (NBD_OPT_EXPORT_NAME)"
    with serve(tmp) as d:
        w = Wire(d.nbd_path, flags=0)
        w.send(option(OPT_LIST))
        w.ended()
        w = Wire(d.nbd_path, flags=0)
        w.send(option(OPT_EXPORT_NAME, b"disk0"))
        size, flags, zeroes = w.unpack(">QH124s")
        equal((size, zeroes), (1 << 20, bytes(124)))
        equal(w.pread(0, 512), bytes(512))


@test
def export_name(tmp):
    "EXPORT_NAME with and without NO_ZEROES; an unknown one ends the session"
    with serve(tmp) as d:
        for client in (1, 3):
            w = Wire(d.nbd_path, flags=client)
            w.send(option(OPT_EXPORT_NAME, b"disk0") + request(FLUSH, 5))
            size, flags = w.unpack(">QH")
            equal(size, 1 << 20)
            equal(flags & SEND_DF, 0, "DF without structured replies (Transmission flags, bit 7)")
            if client == 1:
                equal(w.read(124), bytes(124))
            equal(w.simple(5), (0, b""))
        for name in (b"nope", b"", b"disk0\0", b"x" * 4097, b"y" * 300000):
            w = Wire(d.nbd_path)
            try:
                w.send(option(OPT_EXPORT_NAME, name))
            except Closed:
                continue
            w.ended("the session of %r" % name[:8])


@test
def transmission_flags(tmp):
    "transmission flags say what works (Transmission flags)"
    both = HAS_FLAGS | SEND_FLUSH | SEND_FUA | SEND_CACHE | MULTI_CONN
    with Daemon(tmp, *disk(tmp, "disk0", 4096), *disk(tmp, "ro", 4096, writable=False)) as d:
        equal(Wire(d.nbd_path).go(structured=False).flags,
              both | SEND_TRIM | SEND_ZEROES | SEND_FAST_ZERO)
        equal(Wire(d.nbd_path).go().flags, both | SEND_TRIM | SEND_ZEROES | SEND_FAST_ZERO | SEND_DF)
        equal(Wire(d.nbd_path).go("ro").flags, both | READ_ONLY | SEND_DF)


@test
def abort(tmp):
    "ABORT is acknowledged, data or not, and the session ends (NBD_OPT_ABORT)"
    with serve(tmp) as d:
        for data in (b"", b"bye"):
            w = Wire(d.nbd_path)
            equal(w.opt(OPT_ABORT, data), [(REP_ACK, b"")])
            w.ended()


@test
def list_exports(tmp):
    "LIST sends names and descriptions, and takes no data (NBD_OPT_LIST, NBD_REP_SERVER)"
    with serve(tmp, "--export", "type=nbd,id=e2,node-name=disk0,name=naïve,description=second disk") \
            as d:
        w = Wire(d.nbd_path)
        equal(w.opt(OPT_LIST), [(REP_SERVER, text("disk0")),
                                (REP_SERVER, text("naïve") + b"second disk"), (REP_ACK, b"")])
        equal(w.verdict(OPT_LIST, b"x"), ERR_INVALID)
        equal(w.verdict(OPT_LIST), REP_ACK)


@test
def info_and_go(tmp):
    "INFO and GO send export, name, description and block sizes (NBD_REP_INFO)"
    with serve(tmp, "--export", "type=nbd,id=e2,node-name=disk0,name=x,description=words") as d:
        for number in (OPT_INFO, OPT_GO):
            w = Wire(d.nbd_path)
            found = w.opt(number, info_data("x", INFO_NAME, INFO_DESCRIPTION, INFO_BLOCK_SIZE, 99))
            equal(found[-1], (REP_ACK, b""))
            infos = dict((struct.unpack(">H", data[:2])[0], data[2:]) for kind, data in found[:-1])
            equal(len(infos), len(found) - 1, "each information once")
            equal(infos[INFO_NAME], b"x")
            equal(infos[INFO_DESCRIPTION], b"words")
            equal(struct.unpack(">QH", infos[INFO_EXPORT])[0], 1 << 20)
            low, preferred, high = struct.unpack(">III", infos[INFO_BLOCK_SIZE])
            equal((low, high), (1, MAX))
            equal(preferred >= 512 and preferred & (preferred - 1), 0)
            if number == OPT_INFO:
                equal(w.opt(OPT_GO, info_data("x", INFO_NAME, INFO_DESCRIPTION, INFO_BLOCK_SIZE,
                                              99)), found, "GO after INFO tells the same")
            equal(w.do(FLUSH), 0)


@test
def unknown_export(tmp):
    "INFO and GO of an unknown export: ERR_UNKNOWN, and the session lives"
    with serve(tmp) as d:
        w = Wire(d.nbd_path)
        for number in (OPT_INFO, OPT_GO):
            for name in ("nope", "", "disk", "disk00"):
                found = w.opt(number, info_data(name))
                equal((len(found), found[0][0]), (1, ERR_UNKNOWN))
        w.go()


@test
def malformed_info(tmp):
    "malformed INFO and GO: ERR_INVALID, and the session lives (NBD_OPT_INFO)"
    bad = [b"", b"\0", b"\0\0\0\0", b"\0\0\0\0\0", struct.pack(">I", 5) + b"disk0",
           struct.pack(">I", 6) + b"disk0\0\0", struct.pack(">I", 0xffffffff) + b"disk0\0\0",
           text("disk0") + b"\0\1", text("disk0") + b"\0\1\0\0\0", text("disk0") + b"\0\0\0\0",
           text("disk0") + b"\xff\xff\0\0", info_data("disk0\0x"), info_data("z" * 4097),
           info_data(b"disk\xff"), info_data(b"\xc3")]
    with serve(tmp) as d:
        w = Wire(d.nbd_path)
        for number in (OPT_INFO, OPT_GO):
            for data in bad:
                equal(w.verdict(number, data), ERR_INVALID, "%d %r" % (number, data[:20]))
        equal(w.verdict(OPT_INFO, info_data("z" * 4096)), ERR_UNKNOWN, "the longest name")
        w.go()


@test
def error_messages(tmp):
    "the texts of errors are strings: UTF-8, not too long (Conventions, NBD_REP_ERR_UNKNOWN)"
    with serve(tmp) as d:
        w = Wire(d.nbd_path)
        for name in ("nope", "ü" * 2048, "x" + "ü" * 2000, "€" * 1365, "xx" + "€" * 300):
            (kind, message), = w.opt(OPT_INFO, info_data(name))
            equal(kind, ERR_UNKNOWN)
            equal(0 < len(message) <= 256, True, "a short message")
            matches(message.decode(), name[:50])


@test
def repeated_requests(tmp):
    "information asked for twice is sent once (NBD_REP_INFO)"
    with serve(tmp) as d:
        w = Wire(d.nbd_path)
        found = w.opt(OPT_INFO, info_data("disk0", *[INFO_NAME, INFO_BLOCK_SIZE] * 1000))
        equal(sorted(data[:2] for kind, data in found if kind == REP_INFO),
              [b"\0\0", b"\0\1", b"\0\3"])


@test
def structured(tmp):
    "STRUCTURED_REPLY takes no data (NBD_OPT_STRUCTURED_REPLY)"
    with serve(tmp) as d:
        w = Wire(d.nbd_path)
        equal(w.verdict(OPT_STRUCTURED, b"x"), ERR_INVALID)
        equal(w.opt(OPT_STRUCTURED), [(REP_ACK, b"")])
        equal(w.verdict(OPT_STRUCTURED), ERR_INVALID, "a second time")


@test
def unknown_options(tmp):
    "unknown options, with any data: ERR_UNSUP, and the session lives (NBD_REP_ERR_UNSUP)"
    with serve(tmp) as d:
        w = Wire(d.nbd_path)
        for number in (0, OPT_PEEK, 12, 0x7fffffff, 0xffffffff):
            for data in (b"", b"abc", bytes(1 << 20)):
                equal(w.verdict(number, data), ERR_UNSUP, "option %d" % number)
        w.go()



@test
def oversized_options(tmp):
    "known options with too much data: ERR_TOO_BIG, and the session lives (NBD_REP_ERR_TOO_BIG)"
    with serve(tmp) as d:
        w = Wire(d.nbd_path)
        for number in (OPT_LIST, OPT_INFO, OPT_GO, OPT_LIST_META, OPT_SET_META, OPT_STRUCTURED):
            equal(w.verdict(number, bytes(300 << 10)), ERR_TOO_BIG, "option %d" % number)
        w.go()


@test
def wrong_option_magic(tmp):
    "a wrong magic of an option ends the session"
    with serve(tmp) as d:
        w = Wire(d.nbd_path)
        w.send(struct.pack(">QII", IHAVEOPT + 1, OPT_LIST, 0))
        w.ended()


@test
def option_count(tmp):
    "the number of options is bounded"
    with serve(tmp) as d:
        w = Wire(d.nbd_path)

        def flood():
            for _ in range(10000):
                w.verdict(OPT_LIST, b"x")
        raises(Closed, flood)


@test
def fragmented(tmp):
    "a handshake may arrive byte by byte"
    with serve(tmp) as d:
        w = Wire(d.nbd_path, flags=None)
        stream = struct.pack(">I", 3) + option(99, b"zz") + option(OPT_STRUCTURED) + \
            option(OPT_SET_META, meta_data("disk0", "base:allocation")) + \
            option(OPT_GO, info_data("disk0", INFO_BLOCK_SIZE)) + request(WRITE, 1, 3, 4, 0, b"abcd")
        w.s.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        for i in range(len(stream)):
            w.send(stream[i:i + 1])
        equal(w.replies(99)[-1][0], ERR_UNSUP)
        equal(w.replies(OPT_STRUCTURED), [(REP_ACK, b"")])
        equal(w.replies(OPT_SET_META), [(REP_META, struct.pack(">I", 0) + b"base:allocation"),
                                        (REP_ACK, b"")])
        equal(w.replies(OPT_GO)[-1], (REP_ACK, b""))
        w.structured = True
        equal(w.answer(), (1, 0, ""))
        equal(w.pread(2, 6), b"\0abcd\0")


@test
def pipelined(tmp):
    "a handshake and requests may arrive at once"
    with serve(tmp) as d:
        w = Wire(d.nbd_path, flags=None)
        w.send(struct.pack(">I", 3) + option(OPT_LIST) + option(OPT_STRUCTURED) +
               option(OPT_GO, info_data("disk0")) + request(READ, 2, 0, 512))
        equal(w.replies(OPT_LIST)[-1], (REP_ACK, b""))
        equal(w.replies(OPT_STRUCTURED)[-1], (REP_ACK, b""))
        equal(w.replies(OPT_GO)[-1], (REP_ACK, b""))
        w.structured = True
        equal(w.read_reply(0, 512, 2), bytes(512))


@test
def vanishing(tmp):
    "clients that vanish anywhere in the handshake do no harm"
    stream = struct.pack(">I", 3) + option(OPT_STRUCTURED) + option(OPT_GO, info_data("disk0"))
    with serve(tmp) as d:
        for cut in range(0, len(stream) + 1, 3):
            w = Wire(d.nbd_path, flags=None)
            w.send(stream[:cut])
            w.close()
        Wire(d.nbd_path).go()


main()
