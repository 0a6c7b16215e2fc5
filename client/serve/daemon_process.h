/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* client/serve/daemon_process.h: a tidemarkd of one's own.
 *
 * It runs below the command, which waits for its end and which it does not outlive, or detached.
 * From tc_daemon_signals() on, the signals that end a command and SIGCHLD come only where they are
 * waited for, here. Threads: main. */
#pragma once
#include "client/daemon/qmp_client.h"

typedef struct TcDaemon {
    char *dir, *qmp_path, *nbd_path;
    const char *plugin; /* that it needs, or NULL; borrowed, set before it starts */
    bool started;       /* here, not before */
    int pid;            /* 0: it is detached, or not ours */
    TcQmp *qmp;
} TcDaemon;

/* Blocks the signals. */
void tc_daemon_signals(void);
/* Starts one with a monitor and an NBD server in the directory @dir, and connects to it. @keep_fd
 * (-1: none) stays open in it. If one listens in @dir already, that one is used, unless @alone.
 * Nobody else starts one there meanwhile. */
bool tc_daemon_start(TcDaemon *daemon, const char *dir, bool detach, bool alone, int keep_fd,
                     GError **error);
/* Waits until it has ended, which a signal makes it do. */
bool tc_daemon_wait(TcDaemon *daemon, GError **error);
/* Removes its directory, which nobody else needs, once it has ended. */
void tc_daemon_remove_dir(const TcDaemon *daemon);
/* Makes it end, if it was started here. */
void tc_daemon_stop(TcDaemon *daemon);
void tc_daemon_clear(TcDaemon *daemon);
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC(TcDaemon, tc_daemon_clear)
