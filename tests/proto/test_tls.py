#!/usr/bin/python3
# SPDX-FileCopyrightText: 2026 The Tidemark authors
# SPDX-License-Identifier: GPL-2.0-or-later
"""NBD_OPT_STARTTLS at the level of bytes. Sections are those of the NBD specification's "TLS support"."""
import os
import socket
import ssl
import struct

from wire import *
from tls import *

NEEDS = ["certtool"]


class Pki:
    """An authority, a server's certificates and a client's."""

    def __init__(self, tmp):
        self.ca = Authority(os.path.join(tmp, "ca"))
        self.server = self.ca.issue(os.path.join(tmp, "server"), "server")
        self.client = self.ca.issue(os.path.join(tmp, "client"), "client", "alice")

    def context(self, client=True, version=None):
        c = ssl.create_default_context(cafile=self.ca.cert)
        c.check_hostname = False
        if client:
            c.load_cert_chain(os.path.join(self.client, "client-cert.pem"),
                              os.path.join(self.client, "client-key.pem"))
        if version:
            c.minimum_version = c.maximum_version = version
        return c


def upgrade(w, pki, **kwargs):
    """STARTTLS and the handshake; @w goes on within."""
    equal(w.opt(OPT_STARTTLS), [(REP_ACK, b"")], "STARTTLS")
    w.s = pki.context(**kwargs).wrap_socket(w.s)
    return w


@test(needs=NEEDS)
def no_tls(tmp):
    "NOTLS mode: STARTTLS is answered with ERR_POLICY, and nothing with ERR_TLS_REQD"
    with Daemon(tmp, *disk(tmp, "disk0", 1 << 20)) as d:
        w = Wire(d.nbd_path)
        equal(w.verdict(OPT_STARTTLS), ERR_POLICY)
        equal(w.verdict(OPT_STARTTLS, b"x"), ERR_INVALID, "STARTTLS has no data")
        equal(w.verdict(OPT_LIST), REP_ACK)
        w.go()
        equal(w.do(WRITE, data=b"x" * 512), 0)


@test(needs=NEEDS)
def forced(tmp):
    "FORCEDTLS mode: before TLS only STARTTLS and ABORT are answered, all else is ERR_TLS_REQD"
    pki = Pki(tmp)
    with tls_server(tmp, x509(pki.server)) as d:
        w = Wire(d.nbd_path)
        for number, data in ((OPT_LIST, b""), (OPT_INFO, info_data("disk0")), (OPT_GO, info_data("disk0")),
                             (OPT_GO, info_data("none")), (OPT_STRUCTURED, b""), (OPT_EXTENDED, b""),
                             (OPT_LIST_META, meta_data("disk0")), (OPT_SET_META, meta_data("disk0")),
                             (OPT_PEEK, b""), (12345, b"x" * 100), (OPT_LIST, b"x" * 100000)):
            equal((number, [hex(k) for k, _ in w.opt(number, data)]), (number, [hex(ERR_TLS)]))
        equal(w.verdict(OPT_STARTTLS, b"x"), ERR_INVALID)
        equal(w.opt(OPT_ABORT), [(REP_ACK, b"")])
        w.ended("ABORT")
        w = Wire(d.nbd_path)
        w.send(option(OPT_EXPORT_NAME, b"disk0"))
        w.ended("EXPORT_NAME without TLS")
        w = upgrade(Wire(d.nbd_path), pki)
        equal(w.verdict(OPT_STARTTLS), ERR_INVALID, "TLS within TLS")
        equal(w.verdict(OPT_PEEK), ERR_UNSUP)
        equal(w.verdict(OPT_LIST), REP_ACK)
        w.go(extended=True)
        equal(w.do(WRITE, data=b"x" * 512), 0)
        w.request(READ, 7, 0, 1024)
        equal(w.chunks(7), [(T_DATA, struct.pack(">Q", 0) + b"x" * 512 + bytes(512))])
        w.request(DISC, 8)
        w.ended("DISC")


@test(needs=NEEDS)
def versions(tmp):
    "TLS versions: 1.2 and 1.3 are spoken, older ones are not"
    pki = Pki(tmp)
    with tls_server(tmp, x509(pki.server)) as d:
        for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
            w = upgrade(Wire(d.nbd_path), pki, version=version).go()
            equal(w.do(FLUSH), 0)
            w.close()
        w = Wire(d.nbd_path)
        equal(w.verdict(OPT_STARTTLS), REP_ACK)
        # A ClientHello of TLS 1.0 that offers nothing newer.
        body = b"\3\1" + os.urandom(32) + b"\0" + struct.pack(">HHH", 4, 0x2f, 0x35) + b"\1\0"
        hello = b"\1" + struct.pack(">I", len(body))[1:] + body
        w.send(b"\x16\3\1" + struct.pack(">H", len(hello)) + hello)
        equal(w.read(5)[0], 21, "an alert")
        equal(w.read(2)[0], 2, "a fatal one")
        w.ended("a client of TLS 1.0")


@test(needs=NEEDS)
def selective(tmp):
    "SELECTIVETLS mode: what was negotiated before TLS is discarded, and the rest works either way"
    pki = Pki(tmp)
    with tls_server(tmp, x509(pki.server), more="tls-creds=t0,tls-required=off",
                    size=1 << 20) as d:
        equal(Wire(d.nbd_path).go().do(FLUSH), 0)
        w = Wire(d.nbd_path)
        equal(w.verdict(OPT_EXTENDED), REP_ACK)
        equal(w.verdict(OPT_SET_META, meta_data("disk0", "base:allocation")), REP_ACK)
        upgrade(w, pki)
        equal(w.verdict(OPT_SET_META, meta_data("disk0", "base:allocation")), ERR_INVALID,
              "contexts without structured replies, which were agreed on in the clear")
        w.go(structured=False)
        w.request(READ, 5, 0, 512)
        equal(w.simple(5, 512), (0, bytes(512)))
        equal(w.do(STATUS, length=512), EINVAL, "a context that was selected in the clear")


@test(needs=NEEDS)
def injected(tmp):
    "what came with STARTTLS in the clear is not carried over: the session ends"
    pki = Pki(tmp)
    with tls_server(tmp, x509(pki.server)) as d:
        for after in (option(OPT_LIST), option(OPT_GO, info_data("disk0")), b"\x16"):
            w = Wire(d.nbd_path)
            w.send(option(OPT_STARTTLS) + after)
            w.ended("STARTTLS with %r behind it" % after)
        # The same in a packet of its own is taken for a ClientHello.
        w = Wire(d.nbd_path)
        equal(w.verdict(OPT_STARTTLS), REP_ACK)
        w.send(option(OPT_LIST))
        try:
            while True:
                w.read(1)
        except Closed:
            pass
        equal(upgrade(Wire(d.nbd_path), pki).go().do(FLUSH), 0)


@test(needs=NEEDS)
def broken_handshakes(tmp):
    "handshakes that break off, stall or make no sense cost their session only"
    pki = Pki(tmp)
    with tls_server(tmp, x509(pki.server)) as d:
        stalled = [Wire(d.nbd_path) for _ in range(20)]
        for i, w in enumerate(stalled):
            equal(w.verdict(OPT_STARTTLS), REP_ACK)
            w.send(b"\x16\3\1\2\0\1"[:i % 7])
        for junk in (b"\0" * 1000, b"\xff" * 70000, os.urandom(4096), b"\x16\3\1\0\0" * 100,
                     b"\x16\3\1\x40\0" + bytes(0x4000), b"\x15\3\1\0\2\2\0"):
            w = Wire(d.nbd_path)
            equal(w.verdict(OPT_STARTTLS), REP_ACK)
            try:
                w.send(junk)
                w.s.shutdown(socket.SHUT_WR)
                while True:
                    w.read(1)
            except (Closed, OSError):
                pass
        equal(upgrade(Wire(d.nbd_path), pki).go().do(FLUSH), 0)
        for w in stalled:
            w.close()


@test(needs=NEEDS)
def certificates(tmp):
    "a client without a certificate, or with a stranger's, does not get in; verify-peer=off lets all in"
    pki = Pki(tmp)
    other = Pki(os.path.join(tmp, "other"))
    other.ca.cert = pki.ca.cert  # it believes the server
    with tls_server(tmp, x509(pki.server), x509(pki.server, "t1", verify_peer="off")) as d:
        for who in (dict(client=False), None):
            w = Wire(d.nbd_path)
            try:
                upgrade(w, *((pki,) if who else (other,)), **(who or {}))
                w.verdict(OPT_LIST)
                fail("a client without a good certificate got in")
            except (ssl.SSLError, Closed) as e:
                matches(str(e), "alert|EOF|after 0")
        wait_until(lambda: d.log().count("refused client unix:") >= 2, "the log to say so")
        matches(d.log(), "refused client unix:.*: TLS: ")
        d.qmp("nbd-server-stop")
        d.qmp("nbd-server-start", addr={"type": "unix", "data": {"path": d.nbd_path}}, tls_creds="t1")
        equal(upgrade(Wire(d.nbd_path), pki, client=False).verdict(OPT_LIST), REP_ACK)


@test(needs=NEEDS)
def large(tmp):
    "payloads of every size pass unharmed in both directions, also when the client is slow to read"
    pki = Pki(tmp)
    size = 24 << 20
    with tls_server(tmp, x509(pki.server), size=size) as d:
        w = upgrade(Wire(d.nbd_path), pki).go()
        data = os.urandom(size)
        at = 0
        for n in (1, 511, 16383, 16384, 16385, 1 << 20, (5 << 20) + 3):
            equal(w.do(WRITE, at, data=data[at:at + n]), 0)
            at += n
        equal(w.do(WRITE, at, data=data[at:]), 0)
        for i in range(6):  # more than any buffer holds, none of it read yet
            w.request(READ, i, i * 4 << 20, 4 << 20)
        w.request(READ, 6, 16383, 16385)
        for i in range(6):
            got = b"".join(p[8:] for k, p in w.chunks(i) if k == T_DATA)
            equal(got == data[i * 4 << 20:(i + 1) * 4 << 20], True, "read %d" % i)
        equal(w.chunks(6), [(T_DATA, struct.pack(">Q", 16383) + data[16383:32768])])
        for first in range(0, 2000, 50):
            for i in range(first, first + 50):
                w.request(READ, i, i * 512, 512)
            for i in range(first, first + 50):
                equal(w.chunks(i)[0][1][8:] == data[i * 512:(i + 1) * 512], True)


@test(needs=NEEDS)
def known(tmp):
    "query-nbd-sessions and the event show that it is TLS, and the name in the certificate"
    pki = Pki(tmp)
    with tls_server(tmp, x509(pki.server)) as d:
        w = upgrade(Wire(d.nbd_path), pki)
        equal(w.verdict(OPT_LIST), REP_ACK)
        w.go()
        session, = d.qmp("query-nbd-sessions")
        equal((session["tls"], session["identity"]), (True, "O=Tests,CN=alice"))
        event = d.monitor.wait_event("NBD_CLIENT_CONNECTED")["data"]
        equal((event["tls"], event["identity"]), (True, "O=Tests,CN=alice"))
        equal(d.qmp("query-nbd-servers")[0]["tls"], True)
        d.qmp("nbd-session-disconnect", id=session["id"])
        equal(d.monitor.wait_event("NBD_CLIENT_DISCONNECTED")["data"]["reason"], "requested")


@test(needs=NEEDS)
def slow_to_shake_hands(tmp):
    "handshake-max-seconds holds for TLS, begun or not, and idle-max-seconds within it"
    pki = Pki(tmp)
    with tls_server(tmp, x509(pki.server),
                    more="tls-creds=t0,handshake-max-seconds=1,idle-max-seconds=2") as d:
        begun, half, within = Wire(d.nbd_path), Wire(d.nbd_path), Wire(d.nbd_path)
        for w in (begun, half):
            equal(w.opt(OPT_STARTTLS), [(REP_ACK, b"")])
        half.send(bytes.fromhex("160301020001"))  # a record that does not go on
        upgrade(within, pki)
        idle, busy = (upgrade(Wire(d.nbd_path), pki).go() for _ in range(2))
        for w in (begun, half):
            w.ended()
        try:
            within.read(1)
            fail("not cut off")
        except (Closed, ssl.SSLError):
            pass
        until = time.monotonic() + 3.5
        while time.monotonic() < until:
            equal(busy.do(FLUSH), 0)
            time.sleep(0.05)
        equal([s["requests"]["flush"] > 0 for s in d.qmp("query-nbd-sessions")], [True])
        equal(d.monitor.wait_event("NBD_CLIENT_DISCONNECTED")["data"]["reason"], "idle")


@test(needs=NEEDS)
def apart(tmp):
    "one server with TLS and one without serve the same exports"
    pki = Pki(tmp)
    with tls_server(tmp, x509(pki.server)) as d:
        d.qmp("nbd-server-start", {"id": "plain", "addr": {"type": "unix", "data": {"path": tmp + "/p"}}})
        equal(Wire(tmp + "/p").go().do(FLUSH), 0)
        equal(Wire(tmp + "/p").verdict(OPT_STARTTLS), ERR_POLICY)
        equal(Wire(d.nbd_path).verdict(OPT_LIST), ERR_TLS)
        equal(upgrade(Wire(d.nbd_path), pki).go().do(FLUSH), 0)


main()
