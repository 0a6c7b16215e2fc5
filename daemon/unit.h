/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* daemon/unit.h: what to change in a systemd unit that is in the way of a file. Any thread. */
#pragma once
#include <stdbool.h>

/* What @unit has to allow so that this process can write @path, or read it at least, as text in
 * brackets after an error; returned (g_free). NULL: nothing of the unit is in the way. */
char *unit_advice(const char *unit, const char *path);
