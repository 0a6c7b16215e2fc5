/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* util/log.h: what the programs report: lines on standard error, or entries of systemd's journal.
 *
 * Libraries return errors. What they notice outside of a call goes, with its facts, to the TmLog
 * that they were given. Only the daemon and the client make one, and only they and tests call
 * tm_log().
 *
 * Bounds: a message has TM_LOG_TEXT_MAX bytes, a name of its facts TM_LOG_NAME_MAX; what is longer
 * is cut and ends in an ellipsis. Control characters and bytes that are no UTF-8 are shown as \xNN,
 * so that a message is one line. Of each kind of message, which is a format and the node or export
 * that it is about, so many appear in TM_LOG_WINDOW seconds; then one message says how many more
 * there were.
 *
 * Threads: any, except where it says otherwise. A line is written with one write(2). */
#pragma once
#include <glib.h>
#include <stdbool.h>
#include <stdint.h>

#define TM_LOG_TEXT_MAX 1024u
#define TM_LOG_NAME_MAX 256u
#define TM_LOG_LAST_MAX 500u /* messages that are kept */
#define TM_LOG_WINDOW   10u  /* seconds */

typedef enum { TM_LOG_ERROR, TM_LOG_WARNING, TM_LOG_INFO, TM_LOG_DEBUG, TM_LOG_LEVELS } TmLogLevel;

/* The subject of a message. */
typedef enum {
    TM_LOG_DAEMON, /* the process: start, sandbox, end */
    TM_LOG_QMP,
    TM_LOG_NBD,
    TM_LOG_TLS,
    TM_LOG_BLOCK,
    TM_LOG_BITMAP,
    TM_LOG_STORE,
    TM_LOG_JOB,
    TM_LOG_BACKUP,
    TM_LOG_AREAS
} TmLogArea;

/* NULL-terminated. */
extern const char *const tm_log_level_names[TM_LOG_LEVELS + 1];
extern const char *const tm_log_area_names[TM_LOG_AREAS + 1];

/* What a message is about. Strings are borrowed for the call; NULL and 0: nothing. */
typedef struct TmLogFacts {
    TmLogArea area;
    TmLogLevel level;
    const char *node;   /* name of a node */
    const char *export; /* id of an export */
    const char *client; /* address of a client */
    uint64_t session;   /* id of the client's session */
} TmLogFacts;

typedef struct TmLog TmLog;

/* The path of the journal's socket if standard error is connected to the journal, else NULL. */
const char *tm_log_journal(void);
/* A log of level info that writes to the journal at the socket @journal (copied), or if that is
 * NULL or can't be reached, to standard error. Returned: tm_log_free. */
TmLog *tm_log_new(const char *journal);
/* Nobody uses it any more. Reports what was left out. NULL is fine. */
void tm_log_free(TmLog *log);

/* Logs one message. NULL: there is no log. */
void tm_log_note(TmLog *log, const TmLogFacts *facts, const char *format, ...) G_GNUC_PRINTF(3, 4);
/* Time passes: about once a second. Reports what was left out. */
void tm_log_tick(TmLog *log);

/* ---- levels: the worst ones are always shown */
void tm_log_set_level(TmLog *log, TmLogArea area, TmLogLevel level);
TmLogLevel tm_log_level(const TmLog *log, TmLogArea area);
/* "LEVEL", "AREA=LEVEL", or several, with commas between them; in their order. Errors: no such area
 * or level; then nothing is set. */
bool tm_log_set_levels(TmLog *log, const char *text, GError **error);
/* How many messages of an area were logged, and how many were left out for their number. */
void tm_log_counts(TmLog *log, TmLogArea area, uint64_t *logged, uint64_t *dropped);

/* ---- the last messages */
typedef struct TmLogEntry {
    int64_t time; /* since 1970, in microseconds */
    TmLogFacts facts;
    const char *text;
} TmLogEntry;

/* The last @max, oldest first; g_ptr_array_unref. */
GPtrArray *tm_log_last(TmLog *log, unsigned max);

/* ---- without a log */
/* "PROGRAM: [warning: ]message\n" on standard error, where PROGRAM is g_get_prgname(). */
void tm_log(TmLogLevel level, const char *format, ...) G_GNUC_PRINTF(2, 3);
