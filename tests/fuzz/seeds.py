# SPDX-FileCopyrightText: 2026 The Tidemark authors
# SPDX-License-Identifier: GPL-2.0-or-later
"""Writes the hand-made inputs of the fuzzers' corpora: /usr/bin/python3 tests/fuzz/seeds.py"""
import os
import struct

HERE = os.path.join(os.path.dirname(os.path.abspath(__file__)), "corpus")


def save(fuzzer, name, data):
    with open(os.path.join(HERE, fuzzer, name), "wb") as f:
        f.write(data)


JSON = {
    "command": b'{"execute":"query-version","id":{"a":[1,2.5,null,true]}}\n[1,2]\n',
    "quotes": b"{'a':'\\x', 'b': 'it\\'s'} \"\\ud83d\\ude00\\u0000\" ",
    "malformed": b'}{"a":}\n[1,,2] tRue nul 01 1. -\n{"a":1,"a":2}{"ok":1}',
    "utf8": b'"\xc3\xa9" "\xc3" "\xf4\x90\x80\x80" \xff{"a":1}',
    "numbers": b"[0,-0,1e400,9223372036854775808,18446744073709551616,-9223372036854775809,0.1e-5]",
    "deep": b"[" * 1030 + b"]" * 1030 + b"{}",
    "open": b'{"a":[1,{"b":"c',
    "comments": b'# one\n{ // two\n "a": /* three\n */ [ "#//", \'/*\', {"b\\"//": 1} ],\n\n "c": {"d": [[2]]} } # end',
    "comment-open": b'{"a": 1, /* \n "b": 2}',
}
OPTIONS = {
    "file": b"driver=file,node-name=n,filename=/a,,b,cache.direct=on",
    "implied": b"null-co,node-name=n,size=1k,read-zeroes=on",
    "nested": b"driver=raw,node-name=r,file.driver=file,file.filename=x,offset=512,size=4096",
    "json": b'{"driver":"raw","node-name":"r","file":{"driver":"null-co","size":1}}',
    "export": b"nbd,id=e,node-name=n,bitmaps.0=a,bitmaps.1.node=n,bitmaps.1.name=b,writable=on",
    "server": b"addr.type=inet,addr.host=::1,addr.port=10809,max-connections=2",
    "configuration": b'{"objects":[{"qom-type":"secret","id":3,"a.b[0]":1}],"exports":[{"type":"nbd","id":"a",'
                     b'"node-name":"n","bitmaps":["x"],"bitmaps[":1,"a]":{}},7],"log-level":null,"x":[]}',
    "odd": b"a.0=1,a.2=3,=x,a..b=c,.=,b.c.d.e.f=,,,size=99999999999E",
}
DESCRIBED = {
    "file": b'json:{"driver":"qcow2","file":{"driver":"file","filename":"base"},"backing":null}',
    "dotted": b'json:{"file.driver":"file","file":{"filename":"base"},"offset":512,"size":4096}',
    "window": b'json:{"driver":"raw","file":"b","offset":null,"size":-1}',
    "server": b'json:{"driver":"raw","file":{"driver":"nbd","server":{"type":"inet","host":null,"port":1}}}',
    "path-null": b'json:{"driver":"raw","file":{"driver":"nbd","path":null}}',
    "host-null": b'json:{"driver":"raw","file":{"driver":"nbd","host":null,"port":{}}}',
    "export-array": b'json:{"driver":"raw","file":{"driver":"nbd","path":"s","export":["e",null]}}',
    "odd-keys": b'json:{".":1,"a.":{},"":{"":[]},"file..filename":null}',
    "inet": b"nbd://user:secret@[::1]:10809/e%20x",
    "unix": b"nbd+unix:///e?socket=/s&socket=t",
    "colons": b"nbd:[::1]:10809:exportname=e",
    "colons-unix": b"nbd:unix:/s:exportname=",
    "file-colon": b"file:/base",
    "rbd": b"rbd:p\\/q/n/i@s",
    "rbd-members": b'json:{"driver":"raw","file":{"driver":"rbd","pool":"p","image":"i","snapshot":"s"}}',
    "other": b"http://localhost/x",
}


def option(number, data=b""):
    return b"IHAVEOPT" + struct.pack(">II", number, len(data)) + data


def meta(number, *queries, export=b"d"):
    data = struct.pack(">I", len(export)) + export + struct.pack(">I", len(queries))
    return option(number, data + b"".join(struct.pack(">I", len(q)) + q for q in queries))


def go(number=7, *infos, export=b"d"):
    return option(number, struct.pack(">I", len(export)) + export + struct.pack(
        ">H%dH" % len(infos), len(infos), *infos))


def request(kind, offset=0, length=512, flags=0, data=b""):
    return struct.pack(">IHHQQI", 0x25609513, flags, kind, 0x1122334455667788 + kind, offset, length) + data


def extended(kind, offset=0, length=512, flags=0, data=b""):
    return struct.pack(">IHHQQQ", 0x21e41c71, flags | (32 if data else 0), kind, 0x8877665544332211 + kind, offset,
                       len(data) or length) + data


def chosen(length, *ids):
    return struct.pack(">Q%dI" % len(ids), length, *ids)


FLAGS = struct.pack(">I", 3)
READ, WRITE, DISC, FLUSH, TRIM, CACHE, ZERO, STATUS = range(8)
EVERY = (request(READ) + request(WRITE, 100, 6, 1, b"abcdef") + request(FLUSH, 0, 0) + request(TRIM, 4096, 4096)
         + request(CACHE) + request(ZERO, 8192, 8192, 2) + request(ZERO, 0, 4096, 16)
         + request(STATUS, 0, 1 << 20) + request(STATUS, 0, 1 << 20, 8) + request(READ, 0, 200000)
         + request(READ, 0, 200000, 4) + request(99) + request(READ, 1 << 60) + request(WRITE, 1 << 20, 1024, 0,
                                                                                     b"x" * 1024))
CONTEXTS = meta(10, b"base:allocation", b"qemu:dirty-bitmap:b", b"qemu:allocation-depth")
OWN = meta(10, b"x-tidemark:backup:b", b"x-tidemark:user:w", b"x-tidemark:user:u")
WIDE = (extended(READ) + extended(WRITE, 100, data=b"abcdef") + extended(FLUSH, 0, 0) + extended(TRIM, 4096, 1 << 19)
        + extended(ZERO, 0, (1 << 20) + 777) + extended(CACHE, 0, 1 << 40) + extended(STATUS, 0, (1 << 20) + 777)
        + extended(STATUS, 4096, data=chosen(1 << 20, 3, 5)) + extended(STATUS, 0, data=chosen(9, 1, 1))
        + extended(STATUS, 0, data=chosen(9)) + extended(STATUS, 7, 1 << 60) + extended(READ, 0, 64, 0, b"wrong"))
NBD = {
    "plain": FLAGS + go(7, 0, 1, 2, 3) + EVERY + request(DISC, 0, 0),
    "structured": FLAGS + option(8) + CONTEXTS + go() + EVERY + request(DISC, 0, 0),
    "export-name": FLAGS + option(1, b"d") + EVERY,
    "old-flags": struct.pack(">I", 0) + option(1, b"d") + request(READ),
    "extended": FLAGS + option(11) + CONTEXTS + go() + WIDE + extended(DISC, 0, 0),
    "extended-transmission": WIDE + extended(DISC, 0, 0),
    "own": FLAGS + option(8) + meta(9, b"x-tidemark:") + meta(9, b"x-tidemark:user:") + OWN + go() + EVERY,
    "own-wide": FLAGS + option(11) + meta(9, b"x-tidemark:") + OWN + option(8) + option(11) + go() + WIDE,
    "list": FLAGS + option(8) + option(3) + meta(9) + meta(9, b"qemu:") + meta(9, b"base:", b"x:y") + option(2),
    "info": FLAGS + go(6, 3) + go(6, export=b"nope") + go(6, export=b"") + option(42, b"abc") + option(2),
    "bad-lengths": FLAGS + option(7, b"\xff\xff\xff\xffd\0\0") + meta(10) + option(10, b"\0") + option(
        10, b"\0\0\0\1d\xff\xff\xff\xff") + option(8, b"x"),
    "bad-magic": FLAGS + go() + b"\0" * 28,
    "huge-option": FLAGS + b"IHAVEOPT" + struct.pack(">II", 7, 0xffffffff) + b"x" * 100,
    "transmission": EVERY + request(DISC, 0, 0),
    "one-write": request(WRITE, 1000, 6, 0, b"abcdef"),
    "status": request(STATUS, 0, (1 << 20) + 777) + request(STATUS, 4095, 2, 8),
    "cut": FLAGS + go() + request(WRITE, 0, 4096, 0, b"half"),
}

# fuzz_store.c: flags, a good store's number, edits of 14 bytes (operation, argument, offset, value).
WHOLE, FORGED, POWER, ACCEPT, READONLY, REPAIR, PROCESS = (1 << i for i in range(7))


def edits(flags, variant, *some):
    return bytes([flags, variant]) + b"".join(struct.pack("<BBIQ", *edit) for edit in some)


XOR, ZEROES, ONES, CUT = range(4)
FIELD, ENTRY, WORD, CATALOGUE, MOVE, SEALED = range(6)
STORE = {
    "good-%d" % i: edits(0, i) for i in range(4)
}
STORE.update({
    "power-lost": edits(POWER, 0),
    "process-power-lost": edits(POWER | PROCESS, 2),
    "read-only": edits(READONLY, 0, (XOR, 1, 8300, 0)),
    "no-super": edits(0, 1, (ZEROES, 0, 0, 1023)),
    "one-super": edits(0, 0, (ZEROES, 0, 0, 511)),
    "no-superblocks-repaired": edits(REPAIR, 1, (ONES, 0, 0, 63), (ONES, 0, 4096, 63)),
    "cut": edits(0, 0, (CUT, 0, 9000, 0)),
    "empty": edits(0, 2, (CUT, 0, 0, 0)),
    "bytes": edits(0, 0, *((XOR, i + 1, 700 * i, 0) for i in range(40))),
    "bytes-power-lost": edits(POWER, 2, *((XOR, i + 1, 8192 + 500 * i, 0) for i in range(40))),
    "repaired": edits(REPAIR, 0, *((XOR, i + 1, 8192 + 300 * i, 0) for i in range(30))),
    "fields": edits(FORGED, 0, *((FIELD, i << 1 | 1, 0, 0xffff) for i in range(23))),
    "epoch": edits(FORGED, 0, (FIELD, 9, 0, 5), (FIELD, 8, 0, 5)),
    "size": edits(FORGED, 1, (FIELD, 5, 0, 1 << 20), (FIELD, 4, 0, 1 << 20)),
    "bigger": edits(FORGED | POWER, 0, (FIELD, 5, 0, 1 << 29), (FIELD, 4, 0, 1 << 29)),
    "entries": edits(FORGED, 0, *((ENTRY, i, i, (i // 4 - 2) & 0xff) for i in range(20))),
    "words": edits(FORGED, 2, *((WORD, 0, 7 * i, (0xff00ff << i) & 0xffffffff) for i in range(20))),
    "catalogue": edits(FORGED, 1, *((CATALOGUE, 1 << (i % 8), 9 * i, 0) for i in range(40))),
    "moved": edits(FORGED, 0, (MOVE, 255, 4096, 0), (MOVE, 64, 8192, 12288)),
    "sealed": edits(FORGED, 3, *((SEALED, 3, 64 * i, 8) for i in range(30))),
    "garbage": edits(WHOLE, 0) + b"TIDEMARK" + b"\1\0\0\0\0\2\0\0" + b"x" * 9000,
    "garbage-sealed": edits(WHOLE | FORGED, 0) + b"TIDEMARK" + b"\1\0\0\0\0\2\0\0" + b"\1" * 9000,
})

HEAD = b'{"format": "tidemark-bitmap", "version": 1, "name": "b", "size": 1048576, "granularity": 65536}\n'
BITMAP = {
    "empty": HEAD,
    "runs": HEAD + b"0 1 3 4\n7 1\n",
    "beyond": HEAD + b"0 16\n0 1\n",
    "huge": HEAD + b"9999999999999999 9999999999999999\n",
    "odd": HEAD + b"1 2 3\n",
    "granularity": HEAD.replace(b"65536", b"3") + b"0 1\n",
    "largest": HEAD.replace(b"1048576", b"9223372036854775807").replace(b"65536", b"512") + b"18014398509481983 1\n",
    "negative": HEAD.replace(b"1048576", b"-1"),
    "no-json": b"{\n0 1\n",
    "no-name": HEAD.replace(b'"name"', b'"game"'),
    "version": HEAD.replace(b"1,", b"2,", 1),
}

# fuzz_vhost.c: steps. A message: its number, flags, descriptors (three bits each), payload.
MEMORY_FD, AREA_FD, KICK_FD, CALL_FD, SOCKET_FD = 6, 1, 2, 4, 5  # as the fuzzer numbers them
EVENT_INDEX, NOTED = 1, 2
LATER = 128  # a kick that nobody waits for; a table of descriptors
FEATURES = 1 << 32 | 1 << 30 | 1 << 28 | 1 << 9
GUEST, USER, DATA_AT = 0x10000, 0x100000, 0x2000


def say(number, payload=b"", *fds, flags=0):
    kinds = sum(fd << 3 * i for i, fd in enumerate(fds))
    return struct.pack("<BBBHB", 0, number, flags, kinds, len(payload)) + payload


def vring(number, queue=0, value=0):
    return say(number, struct.pack("<II", queue, value))


def rings(queue=0, desc=USER, avail=USER + 1024, used=USER + 2048):
    return say(9, struct.pack("<IIQQQQ", queue, 0, desc, used, avail, 0))


def poke(at, data, noted=False):
    return b"\1" + (at | noted << 23).to_bytes(3, "little") + bytes([len(data)]) + data


def kick(queue=0):
    return bytes([2, queue])


def begin(how=EVENT_INDEX | NOTED):
    return bytes([3, how])


def ask(kind, sector=0, length=512, flags=0, queue=0):
    return struct.pack("<BBBHHB", 4, queue, kind, sector, length, flags)


def scribbling(seed, at, length):
    return b"\5" + seed.to_bytes(3, "little") + struct.pack("<HH", at, length)


AGAIN, SHRUNK = b"\6", b"\7\0"
U64, SLOT = struct.Struct("<Q").pack, struct.Struct("<QQQQQ").pack
IN, OUT, SYNC, ID, UNMAP, ZEROES = 0, 1, 4, 8, 11, 13


def chain(*descriptors, head=0):
    table = b"".join(struct.pack("<QIHH", *d) for d in descriptors)
    return poke(0, table) + poke(1024, struct.pack("<HHH", 0, 1, head))


TRAFFIC = b"".join(ask(kind, 8 * i, 4096, i % 2) + ask(kind, 8 * i + 4, 512, 1, LATER) + ask(OUT, 9 * i, 512, 0, 1) +
                   kick() + kick(1) for i, kind in enumerate((OUT, IN, SYNC, ID, UNMAP, ZEROES, 99)))
BATCH = ask(OUT, 0, 4096) + ask(OUT, 8, 4096, 0, LATER) + ask(IN, 3, 1024, 0, 1) + ask(UNMAP, 16, 4096)
VHOST = {
    "requests": begin() + b"".join(ask(kind, 16 * kind, 4096) + kick() for kind in (OUT, IN, SYNC, ID, UNMAP, ZEROES)),
    "tables": begin() + b"".join(ask(kind, 1, 1024, 0, LATER) + kick() for kind in (OUT, IN, ID, ZEROES)),
    "queues": begin(0) + TRAFFIC + BATCH + kick(LATER) + kick(1) + kick(0),
    "not-noted": begin(EVENT_INDEX) + ask(OUT) + kick() + vring(11) + ask(IN) + begin(0) + kick(),
    "odd-lengths": begin() + b"".join(ask(OUT, 7, n) + ask(IN, 7, n) + kick() for n in (0, 1, 511, 513, 65535)),
    "edges": begin() + b"".join(ask(kind, 511, 1024) + kick() for kind in (IN, OUT, UNMAP, ZEROES)),
    "loop": begin() + chain((GUEST + DATA_AT, 0, 1, 0)) + kick(),
    "outside": begin() + chain((GUEST + (128 << 10) - 8, 16, 1, 1), (GUEST, 1, 2, 0)) + kick(),
    "wraps": begin() + chain((2 ** 64 - 8, 0xffffffff, 1, 1), (GUEST, 1, 2, 0)) + kick(),
    "head": begin() + chain((GUEST, 16, 0, 0), head=5000) + kick(),
    "order": begin() + chain((GUEST, 16, 3, 1), (GUEST, 16, 0, 0)) + kick(),
    "nested": begin() + chain((GUEST, 16, 4, 0)) + kick(),
    "no-status": begin() + chain((GUEST + DATA_AT, 16, 0, 0)) + kick(),
    "index": begin() + poke(1026, b"\xff\x7f") + kick(),
    "scribbled-rings": begin() + scribbling(77, 0, 4096) + TRAFFIC + kick() + kick(1),
    "scribbled-data": begin() + scribbling(5, DATA_AT, 16384) + TRAFFIC + kick() + TRAFFIC + kick(1) + TRAFFIC + kick(),
    "scribbled-index": begin() + TRAFFIC + scribbling(9, 1026, 1) + kick() + kick() + kick(1),
    "reconnected": begin() + BATCH + kick(LATER) + AGAIN + begin() + kick() + TRAFFIC + kick(1),
    "in-flight": poke(0, struct.pack("<QHHHH", 0, 1, 16, 3, 0) + b"".join(
        struct.pack("<B5xHQ", i % 4 == 0, i, 17 - i) for i in range(13)), True) + ask(OUT, 0, 4096) * 4 + begin() + kick(),
    "in-flight-odd": poke(0, b"\xff" * 255, True) + poke(8, b"\1\0\20\0", True) + begin() + TRAFFIC + kick(),
    "shrunk": begin() + ask(OUT) + kick() + ask(OUT) + SHRUNK + kick(),
    "messages": say(1) + say(15) + say(17) + say(3) + say(24, struct.pack("<III", 0, 60, 0) + bytes(60)) + say(
        31, struct.pack("<QQHHI", 0, 0, 2, 16, 0)) + say(2, U64(FEATURES)) + say(21, b"", SOCKET_FD) + say(200),
    "any-order": say(18, struct.pack("<II", 0, 1)) + say(12, U64(0), KICK_FD) + say(13, U64(0), CALL_FD) + vring(
        8, 0, 16) + say(5, struct.pack("<IIQQQQ", 1, 0, GUEST, 128 << 10, USER, 0), MEMORY_FD) + rings() + say(
            32, struct.pack("<QQHHI", 1024, 0, 2, 16, 0), AREA_FD) + ask(OUT) + kick(),
    "another-area": begin() + TRAFFIC + kick() + say(32, struct.pack("<QQHHI", 1024, 0, 1, 16, 0), AREA_FD) + TRAFFIC +
    kick() + kick(1),
    "another-size": begin() + TRAFFIC + kick() + vring(8, 0, 32) + rings() + vring(10) + TRAFFIC + kick() + vring(
        8, 0, 1024) + rings() + kick(),
    "no-memory": begin() + TRAFFIC + say(5, struct.pack("<II", 0, 0)) + kick() + TRAFFIC + kick(),
    "regions": begin() + say(5, struct.pack("<IIQQQQQQQQ", 2, 0, GUEST, 65536, USER, 0, GUEST + 65536, 65536,
                                            USER + 65536, 65536), MEMORY_FD, MEMORY_FD) + TRAFFIC + kick() + kick(1),
    "overlapping": say(5, struct.pack("<IIQQQQQQQQ", 2, 0, GUEST, 65536, USER, 0, GUEST + 4096, 65536, USER + 65536, 0),
                       MEMORY_FD, MEMORY_FD),
    "slots": begin() + say(36) + say(38, SLOT(0, GUEST, 128 << 10, USER, 0)) + b"".join(
        say(37, SLOT(0, GUEST + at, 16384, USER + at, at), MEMORY_FD) for at in range(0, 128 << 10, 16384)) + rings() +
    say(12, U64(0), KICK_FD) + TRAFFIC + say(38, SLOT(0, GUEST + 16384, 16384, USER + 16384, 0), MEMORY_FD) + TRAFFIC,
    "reset": begin() + TRAFFIC + say(34) + TRAFFIC + begin(0) + TRAFFIC,
    "not-an-event": begin() + say(13, U64(0), MEMORY_FD),
    "stopped-in-turn": begin() + BATCH + kick(LATER) + vring(11) + vring(11, 1) + begin() + BATCH + kick(LATER) +
    say(18, struct.pack("<II", 0, 0)) + say(18, struct.pack("<II", 0, 1)) + kick(),
    "wrong-sizes": b"".join(say(n, b"\xff" * 3) + AGAIN for n in range(2, 34)),
    "wrong-flags": say(1, b"", flags=2) + AGAIN + say(1, b"", flags=4) + AGAIN + say(1, b"", flags=8),
}

for fuzzer, inputs, prefix in (("json", JSON, b"\2"), ("options", OPTIONS, b""), ("described", DESCRIBED, b""),
                               ("nbd", NBD, b""), ("store", STORE, b""), ("bitmap", BITMAP, b""),
                               ("vhost", VHOST, b"")):
    os.makedirs(os.path.join(HERE, fuzzer), exist_ok=True)
    for name_, data_ in inputs.items():
        save(fuzzer, name_, prefix + data_)
