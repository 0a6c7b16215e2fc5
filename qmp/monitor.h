/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* qmp/monitor.h: QMP sessions, on a channel (qmp/chardev/chardev.h) or on two descriptors.
 *
 * A session is greeted, negotiates capabilities (out-of-band is not offered), and then has its
 * commands run in order, one at a time; replies come in that order and carry the command's id.
 * Events go to every session that has negotiated.
 *
 * Bounds: the input by qmp/json/json.h's limits; no command is read while 1 MiB of output waits; a
 * client that lets 64 MiB of it (events, that is) pile up is cut off. A client over a network must
 * negotiate within 10 seconds and 64 KiB.
 *
 * Threads: main thread. */
#pragma once
#include "qmp/chardev/chardev.h"
#include "qmp/context.h"

typedef struct QmpMonitor QmpMonitor;

typedef struct QmpMonitorOptions {
    bool pretty;           /* indented output */
    unsigned negotiate_ms; /* that a client has for it, with limits as over a network; 0: no limit,
                              or that of the network */
} QmpMonitorOptions;

/* Uses @chardev (borrowed, outlives the monitor): a session for each of its connections. */
QmpMonitor *qmp_monitor_new(QmpContext *ctx, QmpChardev *chardev, const QmpMonitorOptions *options,
                            GError **error);
/* One session at once, on descriptors that are not closed with it. Their flags stay as they are. */
QmpMonitor *qmp_monitor_new_stdio(QmpContext *ctx, int in, int out,
                                  const QmpMonitorOptions *options);
/* Ends the sessions. Replies that wait are sent first, for up to a second in all. NULL is fine. */
void qmp_monitor_free(QmpMonitor *monitor);
/* How many sessions there are. */
unsigned qmp_monitor_sessions(const QmpMonitor *monitor);
