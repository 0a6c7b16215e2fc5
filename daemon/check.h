/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* daemon/check.h: what is wrong with options and configuration files, found without carrying them
 * out. Main thread.
 *
 * Each function appends a line (g_free) for each problem to @problems. */
#pragma once
#include "daemon/option.h"

/* Whether all members of the file are known, and of their types. */
void check_types(Daemon *daemon, const Config *config, GPtrArray *problems);
/* Whether names are unique, and what is referred to is there, and before. */
void check_names(Daemon *daemon, const GArray *options, GPtrArray *problems);
/* Makes the objects, and checks the files that are named: as far as that can be known without
 * opening them to write. */
void check_files(Daemon *daemon, const GArray *options, GPtrArray *problems);
