/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* server/server.h: the NBD server, as the daemon sees it.
 *
 * It serves the exports of a registry (block/export/export.h) of type "nbd" on unix and TCP
 * sockets. The registry starts and stops it. Main thread. */
#pragma once
#include "block/export/export.h"

typedef struct NbdServer NbdServer;

/* Registers itself with @exports (borrowed, outlives the server) as the server of type "nbd". */
NbdServer *nbds_server_new(BlkExports *exports);
/* Takes clients from now on: those of servers that were started before it waited, not greeted
 * yet. */
void nbds_server_serve(NbdServer *server);
/* Stops listening, ends the sessions that are left and waits until they are gone. The engine must
 * still run. NULL is fine. */
void nbds_server_free(NbdServer *server);
