/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* qmp/monitor.h: QMP sessions, on a listening unix socket or on standard input and output.
 *
 * A session is greeted, negotiates capabilities (out-of-band is not offered), and then has its
 * commands run in order, one at a time; replies come in that order and carry the command's id.
 * Events go to every session that has negotiated.
 *
 * Bounds: the input by qmp/json/json.h's limits; no command is read while 1 MiB of output waits; a
 * client that lets 64 MiB of it (events, that is) pile up is cut off.
 *
 * Threads: main thread. */
#pragma once
#include "qmp/context.h"

typedef struct QmpMonitor QmpMonitor;

typedef struct QmpMonitorOptions {
    bool pretty;                                    /* indented output */
    void (*log)(void *opaque, const char *message); /* what befalls sessions; may be NULL */
    void *opaque;
} QmpMonitorOptions;

/* Listens on a unix socket made at @path with mode 0600, where a stale one may be; any number of
 * clients. The socket is removed with the monitor. */
QmpMonitor *qmp_monitor_new_unix(QmpContext *ctx, const char *path,
                                 const QmpMonitorOptions *options, GError **error);
/* One session at once, on descriptors that are not closed with it. Their flags stay as they are. */
QmpMonitor *qmp_monitor_new_stdio(QmpContext *ctx, int in, int out,
                                  const QmpMonitorOptions *options);
/* Ends the sessions. Replies that wait are sent first, for up to a second in all. NULL is fine. */
void qmp_monitor_free(QmpMonitor *monitor);
/* How many sessions there are. */
unsigned qmp_monitor_sessions(const QmpMonitor *monitor);
