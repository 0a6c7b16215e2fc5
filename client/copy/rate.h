/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* client/copy/rate.h: a limit in bytes a second that several transfers share. Threads: any. */
#pragma once
#include <glib.h>
#include <inttypes.h>

typedef struct TcRate TcRate;

/* @bytes a second, not 0. */
TcRate *tc_rate_new(uint64_t bytes);
/* Takes @length bytes if it is their time, and returns 0; else the milliseconds to wait before the
 * next try. NULL: no limit. */
int tc_rate_take(TcRate *rate, uint64_t length);
void tc_rate_free(TcRate *rate);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(TcRate, tc_rate_free)
