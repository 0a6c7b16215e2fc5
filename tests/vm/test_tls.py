#!/usr/bin/python3
# SPDX-FileCopyrightText: 2026 The Tidemark authors
# SPDX-License-Identifier: GPL-2.0-or-later
# timeout: 900
"""NBD within TLS where the kernel encrypts (kTLS): in a guest, since the machine's own kernel may not have it.

The guest also measures, see tests/vm/guest/tls. Lines that begin with # say what it has found. An emulated processor
takes many times longer for AES than for all else: the figures compare the two ways of TLS, not TLS with none."""
from harness import *
from guest import BOOT, Guest, System, disk_of, file_disk, install, tree
from tls import psk

MIB = 16
MODULES = ["gf128mul", "ghash-generic", "ctr", "gcm", "cryptd", "crypto_simd", "aesni-intel", "ghash-clmulni-intel",
           "tls"]


def root_disk(tmp, system):
    top = tree(os.path.join(tmp, "tls.d"), "tls", "proc", "tmp", "modules", "keys", "etc")
    install(top, TIDEMARKD, shutil.which("nbdcopy"))
    psk(os.path.join(top, "keys"), "alice")
    for module in MODULES:
        path = os.path.join(system.modules, module + ".ko")
        if os.path.exists(path):
            shutil.copy(path, os.path.join(top, "modules"))
    with open(os.path.join(top, "mib"), "w") as f:
        f.write(str(MIB))
    return disk_of(tmp, top, "tls.img")


@test(needs=["psktool"])
def kernel(tmp):
    "what the kernel encrypts arrives, in TLS 1.2 and 1.3; without its module the library encrypts"
    system = System(tmp)
    with Guest(system, "tls", "tls", file_disk(root_disk(tmp, system)), memory=512) as guest:
        wait_until(lambda: guest.well() or "ended" in guest.reports(), "the guest", timeout=BOOT)
    reports = guest.reports()
    for line in reports:
        print("# " + line)
    equal([line for line in reports if line.startswith("right")], ["right 10813", "right 10813", "right 10812"])
    took = {how: min(int(line.split()[2]) for line in reports if line.startswith("took %s " % how))
            for how in ("plain", "user", "kernel")}
    print("# %d MiB: in the clear %.2f s, encrypted by the library %.2f s, by the kernel %.2f s" % (
        MIB, took["plain"] / 100, took["user"] / 100, took["kernel"] / 100))
    sessions = [int(line.split()[1]) for line in reports if line.startswith("sessions ")]
    if not sessions or sessions[0] < 4 + 3:  # each copy has one or more
        fail("the kernel encrypted for %s sessions" % sessions)


main()
