/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* daemon/notify.h: what the service manager learns: the protocol of sd_notify(3).
 *
 * Without a service manager (NOTIFY_SOCKET), or built without libsystemd, all of it does nothing.
 * Threads: the main one. */
#pragma once
#include "block/graph.h"

/* The daemon takes clients; also again, after daemon_notify_reloading(). */
void daemon_notify_ready(void);
/* The configuration is being read again; daemon_notify_ready() must follow. */
void daemon_notify_reloading(void);
/* The daemon ends. From here on the unit's TimeoutStopSec= counts, no watchdog. */
void daemon_notify_stopping(void);
/* The line that `systemctl status` shows. */
void daemon_notify_status(const char *format, ...) G_GNUC_PRINTF(1, 2);

/* The signs of life that WatchdogSec= demands. They come from the main loop, so that one that hangs
 * is noticed. While the main thread waits for a medium (in a system call), or for requests to end
 * (blk_graph_awaited()), they come from a thread instead: these waits are as long as the disk is
 * slow, and a daemon that is killed then has no faster one. */
typedef struct Watchdog Watchdog;

/* @graph (borrowed) outlives it. NULL: nobody expects signs of life. */
Watchdog *watchdog_start(BlkGraph *graph);
/* NULL is fine. */
void watchdog_stop(Watchdog *watchdog);
