# SPDX-FileCopyrightText: 2026 The Tidemark authors
# SPDX-License-Identifier: GPL-2.0-or-later
"""Loop devices, for tests."""
from harness import *


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
