/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* util/log.h: lines on standard error. Only the daemon, the client and tests log; libraries return
 * errors or call a callback that they were given.
 *
 * Threads: any; a line is written with one write(2). */
#pragma once
#include <glib.h>

typedef enum { TM_LOG_ERROR, TM_LOG_WARNING, TM_LOG_INFO, TM_LOG_DEBUG, TM_LOG_LEVELS } TmLogLevel;

/* The one mutable global of the project. The default is TM_LOG_INFO. */
void tm_log_set_level(TmLogLevel level);
/* "PROGRAM: [warning: ]message\n", where PROGRAM is g_get_prgname(), and control characters in the
 * message are question marks. */
void tm_log(TmLogLevel level, const char *format, ...) G_GNUC_PRINTF(2, 3);
