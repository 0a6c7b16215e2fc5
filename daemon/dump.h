/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* daemon/dump.h: --dump-config: the configuration of a daemon that runs. Main thread. */
#pragma once
#include <glib.h>
#include <stdbool.h>

/* Asks the daemon whose monitor listens on the unix socket @path, and prints what it says on
 * standard output as a configuration file. */
bool dump_config(const char *path, GError **error);
