/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* server/servers.h: the NBD servers, as the daemon sees them.
 *
 * They serve the exports of a registry (block/export/export.h) of type "nbd" on unix and TCP
 * sockets. The registry starts and stops them. Main thread. */
#pragma once
#include "block/export/export.h"

typedef struct NbdsServers NbdsServers;

/* Registers itself with @exports (borrowed, outlives the servers) as the servers of type "nbd".
 * @inherited: the sockets that addresses of type fd mean; borrowed, outlives the servers; or
 * NULL. */
NbdsServers *nbds_servers_new(BlkExports *exports, TmInherited *inherited);
/* Takes clients from now on: those of servers that were started before it waited, not greeted
 * yet. */
void nbds_servers_serve(NbdsServers *servers);
/* How many there are, those that are being accepted among them. */
unsigned nbds_servers_clients(NbdsServers *servers);
/* Stops listening, ends the sessions that are left and waits until they are gone. The engine must
 * still run. NULL is fine. */
void nbds_servers_free(NbdsServers *servers);
