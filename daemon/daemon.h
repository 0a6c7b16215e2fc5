/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* daemon/daemon.h: everything that one tidemarkd is made of, made and unmade in order. Main
 * thread. */
#pragma once
#include "daemon/cmdline.h"
#include "daemon/sandbox.h"
#include "qmp/monitor.h"
#include "server/server.h"

typedef struct Daemon {
    GMainLoop *loop;
    BlkRegistry *registry;
    BlkEngine *engine;
    BlkGraph *graph;
    BlkExports *exports;
    NbdServer *server;
    QmpContext *qmp;
    GHashTable *chardevs; /* id -> Chardev, see chardev.h */
    GPtrArray *monitors;  /* QmpMonitor */
    guint tick;           /* the timer that lets time pass for the nodes' bitmaps */
} Daemon;

/* The drivers and plug-ins that @options name, the I/O threads, the servers; nothing is open yet.
 * @sandbox (borrowed, outlives the daemon) has a word on errors of permission. */
bool daemon_init(Daemon *daemon, const GArray *options, const Sandbox *sandbox, GError **error);
/* Carries out one option, in the order of the command line; the ones of daemon_init() are passed
 * over. */
bool daemon_apply(Daemon *daemon, const CmdOption *option, GError **error);
/* All of them are carried out, and the rights given up: takes clients. */
void daemon_serve(Daemon *daemon);
/* Ends in order: no new clients, what is in flight finished, everything flushed and closed. Whether
 * the flush succeeded, and bitmaps were kept. */
bool daemon_finish(Daemon *daemon, GError **error);
