#!/usr/bin/python3
"""Block devices: a loop device served over NBD. Needs the right to make one."""
import os
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from harness import *  # noqa: E402,F403


class Loop:
    """A loop device over a file, for as long as the block runs."""

    def __init__(self, path):
        p = run("losetup", "--find", "--show", path, check=False)
        if p.returncode:
            skip("no loop device: " + p.stderr.strip())
        self.device = p.stdout.strip()

    def __enter__(self):
        return self.device

    def __exit__(self, *_):
        run("losetup", "--detach", self.device)


def serve(tmp, driver, device, more=""):
    return Daemon(tmp, "--blockdev", "driver=%s,node-name=disk0,filename=%s,discard=unmap%s"
                  % (driver, device, more),
                  "--export", "type=nbd,id=e0,node-name=disk0,name=disk0,writable=on")


def exercise(d, path):
    data = os.urandom(3 << 20)
    h = d.nbd()
    equal(h.get_size(), 4 << 20)
    h.pwrite(data, 1000)
    h.zero(5000, 70000)
    h.trim(1 << 20, 2 << 20)
    h.flush()
    equal(bytes(h.pread(69000, 1000)), data[:69000])
    equal(bytes(h.pread(5000, 70000)), bytes(5000))
    equal(bytes(h.pread(100000, 75000)), data[74000:174000])
    h.shutdown()
    with open(path, "rb") as f:
        f.seek(1000)
        equal(f.read(69000) == data[:69000], True, "what was flushed is in the file below")


@test(needs=["losetup"])
def page_cache(tmp):
    "a loop device through the page cache"
    path = image(os.path.join(tmp, "back"), 4 << 20)
    with Loop(path) as device, serve(tmp, "file", device) as d:
        exercise(d, path)


@test(needs=["losetup"])
def direct(tmp):
    "a loop device with cache.direct=on, by QEMU's name for such a driver"
    path = image(os.path.join(tmp, "back"), 4 << 20)
    with Loop(path) as device, serve(tmp, "host_device", device, ",cache.direct=on") as d:
        exercise(d, path)


main()
