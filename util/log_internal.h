/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* util/log_internal.h: where the messages of util/log.c go, and what of them is left out. */
#pragma once
#include "util/log.h"

/* ---- log_sink.c */

typedef struct TmLogSink {
    int fd; /* a datagram socket; -1: standard error */
    char *journal;
} TmLogSink;

void tm_log_sink_open(TmLogSink *sink, const char *journal);
void tm_log_sink_close(TmLogSink *sink);
/* @text and the names of @facts are one line each. */
void tm_log_sink_write(const TmLogSink *sink, const TmLogFacts *facts, const char *text);

/* ---- log_limit.c: of each kind of message so many in a time. Under the log's lock. */

typedef struct TmLogKind {
    TmLogArea area;
    TmLogLevel level;
    int64_t until;    /* the end of its window; monotonic, in microseconds */
    unsigned shown;   /* in this window */
    unsigned dropped; /* in this window */
    char *text;       /* the first one dropped */
} TmLogKind;

/* Kinds by their keys. Freed with g_hash_table_unref. */
GHashTable *tm_log_kinds_new(void);
/* Whether the message @text appears at @now; if not, it has been counted. */
bool tm_log_kinds_admit(GHashTable *kinds, const TmLogFacts *facts, const char *format,
                        const char *text, int64_t now);
/* Forgets the kinds whose window has ended (@all: all kinds) and returns the ones of which
 * something was left out: TmLogKind; g_ptr_array_unref. */
GPtrArray *tm_log_kinds_expire(GHashTable *kinds, int64_t now, bool all);
