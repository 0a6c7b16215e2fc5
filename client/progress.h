/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* client/progress.h: how far long work has come, a line for each part of it.
 *
 * On a terminal the lines are on standard error and rewritten in place. Elsewhere a line of text
 * goes there now and then, or, for programs, an event a line to standard output. What is over in a
 * moment shows nothing. A part that has not come further for seconds is shown as stalled.
 * Threads: main, but where it says otherwise. */
#pragma once
#include <glib.h>
#include <inttypes.h>
#include <json-c/json.h>
#include <stdbool.h>

/* "  42 % [#####.......]  1.2 GiB of 4 GiB  512 MiB/s  0:07 left", no wider than @columns; what
 * fits least is left out. @rate is bytes a second, 0 if it is not known. Returned. */
char *tc_progress_line(const char *what, uint64_t done, uint64_t total, double rate,
                       unsigned columns, bool utf8);

typedef enum {
    TC_PROGRESS_NONE,
    TC_PROGRESS_TERMINAL, /* nothing where there is none */
    TC_PROGRESS_TEXT,     /* the same, plain lines where there is none */
    TC_PROGRESS_JSON,
} TcProgressStyle;

typedef struct TcProgress TcProgress;
/* A part of the work, a disk for example, with its line. */
typedef struct TcPart TcPart;

TcProgress *tc_progress_new(TcProgressStyle style); /* returned */
TcProgress *tc_progress_on_terminal(bool wanted);   /* the same: TERMINAL or NONE */
/* Draws the lines again, prints or reports, if the last time was long enough ago. */
void tc_progress_draw(TcProgress *progress);
/* Wipes the lines away, so that something else can be printed. */
void tc_progress_clear(TcProgress *progress);
/* The same, and nothing is drawn until tc_progress_release(). Threads: any. */
void tc_progress_hold(TcProgress *progress);
void tc_progress_release(TcProgress *progress);
/* The same and the end of it. */
void tc_progress_free(TcProgress *progress);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(TcProgress, tc_progress_free)

/* One more part. @name is copied; "" where there is only one. Borrowed. Threads: any. */
TcPart *tc_progress_part(TcProgress *progress, const char *name);
/* What it is doing, a string that lasts, and how far that is; @total 0: not known. Threads: any. */
void tc_part_set(TcPart *part, const char *what, uint64_t done, uint64_t total);
/* The part is at its end: its line says only @what. Threads: any. */
void tc_part_end(TcPart *part, const char *what);

/* For work with one part: sets and draws it. */
void tc_progress_show(TcProgress *progress, const char *what, uint64_t done, uint64_t total);

/* Prints @event (taken) as a line that begins with "event": @name, if the style is JSON. Threads:
 * any. */
void tc_progress_event(TcProgress *progress, const char *name, json_object *event);
