/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* client/progress.h: one line on a terminal that is rewritten in place.
 *
 * Nothing is drawn where standard error is no terminal. Threads: a progress belongs to one. */
#pragma once
#include <glib.h>
#include <inttypes.h>
#include <stdbool.h>

/* "  42 % [#####.......]  1.2 GiB of 4 GiB  512 MiB/s  0:07 left", no wider than @columns; what
 * fits least is left out. @rate is bytes a second, 0 if it is not known. Returned. */
char *tc_progress_line(const char *what, uint64_t done, uint64_t total, double rate,
                       unsigned columns, bool utf8);

typedef struct TcProgress TcProgress;

/* @wanted: false draws nothing at all. Returned. */
TcProgress *tc_progress_new(bool wanted);
/* Draws, if the last time was a moment ago. @total 0: only @what is shown. */
void tc_progress_show(TcProgress *progress, const char *what, uint64_t done, uint64_t total);
/* Wipes the line away, so that something else can be printed. */
void tc_progress_clear(TcProgress *progress);
/* The same and the end of it. */
void tc_progress_free(TcProgress *progress);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(TcProgress, tc_progress_free)
