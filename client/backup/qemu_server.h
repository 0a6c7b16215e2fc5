/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* client/backup/qemu_server.h: the NBD server of a QEMU process, of which it has at most one.
 *
 * Ours listens on a socket that is made here and passed on, so that it needs no directory that both
 * processes can write to. One that runs already is used where it can be reached through a unix
 * socket. Threads: one at a time. */
#pragma once
#include "client/daemon/qmp_client.h"

typedef struct TcQemuServer {
    char *path;      /* of the socket */
    char *directory; /* made for it; NULL: the server was there before */
} TcQemuServer;

/* tc_qemu_clean() stops what this starts. @server is zero before, and is to be cleared in any
 * case. */
bool tc_qemu_server_start(TcQemuServer *server, TcQmp *qmp, GError **error);
/* Removes the socket and its directory. */
void tc_qemu_server_clear(TcQemuServer *server);
/* Only one backup of a QEMU process can run: a descriptor that says so until it is closed, -1 with
 * an error if there is another. No other user can take it. */
int tc_qemu_lock(const TcQmp *qmp, GError **error);
