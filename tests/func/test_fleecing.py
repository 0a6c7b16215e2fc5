#!/usr/bin/python3
# SPDX-FileCopyrightText: 2026 The Tidemark authors
# SPDX-License-Identifier: GPL-2.0-or-later
"""Fleecing by hand: copy-before-write put under a live export, and its snapshot read."""
from harness import *

import nbd


@test
def fleece(tmp):
    "a snapshot stays as it was while its export is written, and a trim releases"
    open(tmp+"/d","wb").write(b"a"*(1<<20)); open(tmp+"/t","wb").truncate(1<<20)
    with Daemon(tmp, "--blockdev","file,node-name=disk,filename=%s/d,discard=unmap"%tmp,"--blockdev","file,node-name=t,filename=%s/t"%tmp) as d:
        d.qmp("nbd-server-start", id="n2", addr={"type":"unix","data":{"path":tmp+"/n"}})
        d.qmp("block-export-add", type="nbd", id="e", writable=True, **{"node-name":"disk"})
        h=nbd.NBD(); h.connect_uri("nbd+unix:///disk?socket="+tmp+"/n")
        h.pwrite(b"b"*4096,0)
        d.qmp("blockdev-add", driver="copy-before-write", **{"node-name":"cbw","file":"disk","target":"t"})
        d.qmp("qom-set", path="/exports/e", property="drive", value="cbw")
        equal(d.qmp("qom-get", path="/exports/e", property="drive"), "cbw")
        d.qmp("blockdev-add", driver="snapshot-access", discard="unmap", **{"node-name":"s","file":"cbw"})
        d.qmp("block-export-add", type="nbd", id="s", writable=True, **{"node-name":"s"})
        g=nbd.NBD(); g.connect_uri("nbd+unix:///s?socket="+tmp+"/n")
        h.pwrite(b"c"*100,2000)
        equal(g.pread(4096,0), b"b"*4096); equal(h.pread(2,2000), b"cc")
        equal(g.pread(4096,500000), b"a"*4096)
        g.trim(1<<16, 1<<16); raises(nbd.Error, g.pread, 512, 1<<16)
        g.shutdown(); d.qmp("block-export-del", id="s"); time.sleep(.3)
        d.qmp("blockdev-del", **{"node-name":"s"})
        d.qmp("qom-set", path="/exports/e", property="drive", value="disk")
        d.qmp("blockdev-del", **{"node-name":"cbw"})
        h.pwrite(b"d"*100,2000); equal(h.pread(1,2000), b"d")
main()
