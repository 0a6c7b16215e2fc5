/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* daemon/notify_none.c: notify.c without libsystemd: no service manager learns anything. */
#include "daemon/notify.h"

void daemon_notify_ready(void)
{
}

void daemon_notify_reloading(void)
{
}

void daemon_notify_stopping(void)
{
}

void daemon_notify_status(const char *format, ...)
{
}

Watchdog *watchdog_start(BlkGraph *graph)
{
    return NULL;
}

void watchdog_stop(Watchdog *watchdog)
{
}
