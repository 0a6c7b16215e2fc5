/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* daemon/reload.h: SIGHUP: the configuration files are read again, and what they have is there, as
 * far as that can be done while clients are served. Main thread.
 *
 * A file that can't be read, or has a problem that check_types() or check_names() finds, changes
 * nothing. Then each item is added, changed or removed as a whole, or stays as it is and the log
 * says why. Only what files have, or had, is touched: not what the command line or QMP made. */
#pragma once
#include "daemon/daemon.h"

typedef struct Reload Reload;

/* The daemon has done what @options say, which came from the command line @given by
 * config_expand() with @configs. All are borrowed and outlive it. Returned: reload_free. */
Reload *reload_new(Daemon *daemon, const GArray *given, const GArray *options,
                   const GPtrArray *configs);
void reload_free(Reload *reload); /* NULL is fine */
void reload_run(Reload *reload);
