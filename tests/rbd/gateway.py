# SPDX-FileCopyrightText: 2026 The Tidemark authors
# SPDX-License-Identifier: GPL-2.0-or-later
"""Ceph's gateway for S3, radosgw, on the cluster of cluster.py: its own user, and one bucket."""
import hashlib
import os
import urllib.request

import cluster as cluster_module
from harness import PATIENCE, fail, have, run, skip, wait_until

BUCKET = "backups"


class Gateway:
    def __init__(self):
        for command in ("radosgw", "radosgw-admin", "curl"):
            if not have(command):
                skip("%s is not installed: see scripts/setup rbd" % command)
        self.cluster = c = cluster_module.Cluster(module=False)
        run("ceph-authtool", c.keyring, "--gen-key", "-n", "client.gateway", "--cap", "mon", "allow rw", "--cap", "osd",
            "allow rwx")
        c.ceph("auth", "add", "client.gateway", "-i", c.keyring)
        self.port = cluster_module.free_port("127.0.0.1")
        self.url = "http://127.0.0.1:%d" % self.port
        c.daemon("radosgw", "-n", "client.gateway", "-f", "--rgw_frontends",
                 "beast endpoint=127.0.0.1:%d" % self.port, "--osd_pool_default_pg_num", "1",
                 "--rgw_rados_pool_pg_num_min", "1")
        wait_until(self.answers, "radosgw to answer")
        run("radosgw-admin", "-c", c.conf, "-n", "client.gateway", "user", "create", "--uid=t", "--display-name=t",
            "--access-key=tidemark", "--secret-key=secret", timeout=PATIENCE * 4)
        os.environ.update(AWS_ENDPOINT_URL=self.url, AWS_ACCESS_KEY_ID="tidemark", AWS_SECRET_ACCESS_KEY="secret",
                          AWS_REGION="us-east-1")
        self.curl("PUT", "/" + BUCKET)

    def answers(self):
        try:
            urllib.request.urlopen(self.url, timeout=PATIENCE).close()
        except OSError:
            return False
        return True

    def curl(self, method, path):
        """A request without a body; what the server answers."""
        p = run("curl", "--silent", "--show-error", "--fail", "-X", method, "--user", "tidemark:secret", "--aws-sigv4",
                "aws:amz:us-east-1:s3", "-H", "x-amz-content-sha256: " + hashlib.sha256().hexdigest(), self.url + path)
        return p.stdout

    def keys(self, prefix):
        """The names of the objects that begin with it, without it; and of uploads that have not ended."""
        import re
        quoted = prefix.replace("/", "%2F")
        found = re.findall("<Key>([^<]*)</Key>", self.curl("GET", "/%s?list-type=2&prefix=%s" % (BUCKET, quoted)))
        uploads = re.findall("<Key>([^<]*)</Key>", self.curl("GET", "/%s?prefix=%s&uploads=" % (BUCKET, quoted)))
        if uploads:
            fail("uploads that have not ended: %s" % uploads)
        return [key[len(prefix):] for key in found]
