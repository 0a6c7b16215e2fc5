#!/usr/bin/python3
# SPDX-FileCopyrightText: 2026 The Tidemark authors
# SPDX-License-Identifier: GPL-2.0-or-later
"""The alerts for Prometheus: its own tool checks them, and tries when each is raised."""
from harness import *

RULES = os.path.join(SRCDIR, "packaging", "prometheus", "tidemark.rules")


@test(needs=["promtool"])
def rules_are_valid():
    "promtool check rules"
    run("promtool", "check", "rules", RULES + ".yml")


@test(needs=["promtool"])
def rules_raise_alerts():
    "promtool test rules: each alert is raised by what it is for, and by nothing before"
    run("promtool", "test", "rules", RULES + ".test.yml")


main()
