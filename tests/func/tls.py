# SPDX-FileCopyrightText: 2026 The Tidemark authors
# SPDX-License-Identifier: GPL-2.0-or-later
"""Certificates and keys for the tests: made once a case by certtool and psktool, as QEMU's documentation
shows it."""
import os

from harness import *

TEMPLATES = {
    "ca": "cn = Test CA %s\nca\ncert_signing_key\n",
    "server": "organization = Tests\ncn = localhost\ndns_name = localhost\nip_address = 127.0.0.1\n"
              "tls_www_server\nencryption_key\nsigning_key\n",
    "client": "organization = Tests\ncn = %s\ntls_www_client\nencryption_key\nsigning_key\n",
}


def certtool(*args):
    run("certtool", *args, "--no-text", timeout=60)


class Authority:
    """A certificate authority in @directory, called after it; @signed_by: an intermediate one of that."""

    def __init__(self, directory, signed_by=None):
        self.directory = directory
        os.makedirs(directory, exist_ok=True)
        self.key, self.cert = self.path("ca-key.pem"), self.path("ca-cert.pem")
        self._private(self.key)
        how = ["--generate-self-signed"] if not signed_by else [
            "--generate-certificate", "--load-ca-certificate", signed_by.cert,
            "--load-ca-privkey", signed_by.key]
        certtool(*how, "--load-privkey", self.key, "--template",
                 self._template("ca", TEMPLATES["ca"] % os.path.basename(directory)),
                 "--outfile", self.cert)

    def path(self, name):
        return os.path.join(self.directory, name)

    def _template(self, name, text):
        path = self.path(name + ".info")
        with open(path, "w") as f:
            f.write(text)
        return path

    def _private(self, path):
        certtool("--generate-privkey", "--key-type", "ecdsa", "--curve", "secp256r1",
                 "--outfile", path)

    def issue(self, directory, side, name="client", days=None, extra=""):
        """A directory as tls-creds-x509 takes it, for @side "server" or "client"."""
        os.makedirs(directory, exist_ok=True)
        text = TEMPLATES[side].replace("%s", name) + extra
        text += "expiration_days = %d\n" % days if days is not None else ""
        key, cert = (os.path.join(directory, "%s-%s.pem" % (side, kind)) for kind in ("key", "cert"))
        self._private(key)
        certtool("--generate-certificate", "--load-ca-certificate", self.cert,
                 "--load-ca-privkey", self.key, "--load-privkey", key,
                 "--template", self._template(side, text), "--outfile", cert)
        with open(self.cert) as source, open(os.path.join(directory, "ca-cert.pem"), "w") as f:
            f.write(source.read())
        return directory


def psk(directory, *names):
    """A directory as tls-creds-psk takes it; returns it and the path of its file."""
    os.makedirs(directory, exist_ok=True)
    path = os.path.join(directory, "keys.psk")
    with open(path, "a") as f:
        for name in names:
            f.write("%s:%s\n" % (name, os.urandom(32).hex()))
    return directory, path


def tls_server(tmp, *objects, more="tls-creds=t0", node="disk0", size=1 << 20, export="", **options):
    """A Daemon whose NBD server is told @more, with the --object options given; it serves a disk.
    .nbd_path is set."""
    path = os.path.join(tmp, "d.nbd")
    args = [a for o in objects for a in ("--object", o)]
    nodes = disk(tmp, node, size, **options)
    nodes[-1] += export
    d = Daemon(tmp, *args, "--nbd-server", "addr.type=unix,addr.path=%s%s" % (path, more and "," + more),
               *nodes, nbd=False)
    d.nbd_path = path
    return d


def x509(directory, name="t0", **more):
    """The --object of a server's certificates."""
    return "tls-creds-x509,id=%s,endpoint=server,dir=%s%s" % (
        name, directory, "".join(",%s=%s" % (k.replace("_", "-"), v) for k, v in more.items()))
