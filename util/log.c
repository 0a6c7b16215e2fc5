/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* util/log.c: what is logged, in which form, and what is kept of it; see the header. */
#include "util/log.h"
#include "util/error.h"
#include "util/log_internal.h"
#include "util/sync.h"
#include "util/text.h"

#include <string.h>

const char *const tm_log_level_names[TM_LOG_LEVELS + 1] = { "error", "warning", "info", "debug",
                                                            NULL };
const char *const tm_log_area_names[TM_LOG_AREAS + 1] = {
    "daemon", "qmp", "nbd", "tls", "block", "bitmap", "store", "job", "backup", NULL,
};

struct TmLog {
    TmLogSink sink;           /* constant */
    int levels[TM_LOG_AREAS]; /* atomic */
    pthread_mutex_t lock;     /* guards the rest; a leaf, nothing is written under it */
    GHashTable *kinds;        /* TmLogKind */
    GQueue last;              /* TmLogEntry, oldest first */
    uint64_t logged[TM_LOG_AREAS], dropped[TM_LOG_AREAS];
};

/* ---- text */

/* Names that are logged may come from an image or a client. NULL stays NULL. */
static char *one_line(const char *text, size_t max)
{
    return text ? tm_text_line(text, max) : NULL;
}

static char *format_line(const char *format, va_list ap)
{
    g_autofree char *text = g_strdup_vprintf(format, ap);

    return one_line(text, TM_LOG_TEXT_MAX);
}

void tm_log(TmLogLevel level, const char *format, ...)
{
    g_autofree char *text = NULL;
    va_list ap;

    va_start(ap, format);
    text = format_line(format, ap);
    va_end(ap);
    tm_log_sink_write(&(TmLogSink){ .fd = -1 }, &(TmLogFacts){ .level = level }, text);
}

/* ---- the last ones */

static void entry_free(void *data)
{
    TmLogEntry *entry = data;

    g_free((char *)entry->facts.node);
    g_free((char *)entry->facts.export);
    g_free((char *)entry->facts.client);
    g_free((char *)entry->text);
    g_free(entry);
}

/* Takes @text. */
static TmLogEntry *entry_new(const TmLogFacts *facts, char *text)
{
    TmLogEntry *entry = g_new0(TmLogEntry, 1);

    entry->time = g_get_real_time();
    entry->facts = *facts;
    entry->facts.node = one_line(facts->node, TM_LOG_NAME_MAX);
    entry->facts.export = one_line(facts->export, TM_LOG_NAME_MAX);
    entry->facts.client = one_line(facts->client, TM_LOG_NAME_MAX);
    entry->text = text;
    return entry;
}

static TmLogEntry *entry_copy(const TmLogEntry *from)
{
    TmLogEntry *entry = g_memdup2(from, sizeof(*from));

    entry->facts.node = g_strdup(from->facts.node);
    entry->facts.export = g_strdup(from->facts.export);
    entry->facts.client = g_strdup(from->facts.client);
    entry->text = g_strdup(from->text);
    return entry;
}

GPtrArray *tm_log_last(TmLog *log, unsigned max)
{
    GPtrArray *list = g_ptr_array_new_with_free_func(entry_free);
    TM_GUARD(&log->lock);
    unsigned n = g_queue_get_length(&log->last);

    for (GList *link = g_queue_peek_nth_link(&log->last, n > max ? n - max : 0); link;
         link = link->next)
        g_ptr_array_add(list, entry_copy(link->data));
    return list;
}

/* ---- logging */

/* Takes @entry. */
static void keep(TmLog *log, TmLogEntry *entry)
{
    TM_GUARD(&log->lock);

    log->logged[entry->facts.area]++;
    g_queue_push_tail(&log->last, entry);
    if (g_queue_get_length(&log->last) > TM_LOG_LAST_MAX)
        entry_free(g_queue_pop_head(&log->last));
}

/* Takes @text. */
static void put(TmLog *log, const TmLogFacts *facts, char *text)
{
    TmLogEntry *entry = entry_new(facts, text);

    tm_log_sink_write(&log->sink, &entry->facts, entry->text);
    keep(log, entry);
}

static bool is_admitted(TmLog *log, const TmLogFacts *facts, const char *format, const char *text)
{
    TM_GUARD(&log->lock);

    if (tm_log_kinds_admit(log->kinds, facts, format, text, g_get_monotonic_time()))
        return true;
    log->dropped[facts->area]++;
    return false;
}

void tm_log_note(TmLog *log, const TmLogFacts *facts, const char *format, ...)
{
    g_autofree char *text = NULL;
    va_list ap;

    if (!log || facts->level > tm_log_level(log, facts->area))
        return;
    va_start(ap, format);
    text = format_line(format, ap);
    va_end(ap);
    if (is_admitted(log, facts, format, text))
        put(log, facts, g_steal_pointer(&text));
}

static void report_dropped(TmLog *log, bool all)
{
    g_autoptr(GPtrArray) kinds = NULL;

    pthread_mutex_lock(&log->lock);
    kinds = tm_log_kinds_expire(log->kinds, g_get_monotonic_time(), all);
    pthread_mutex_unlock(&log->lock);
    for (guint i = 0; i < kinds->len; i++) {
        const TmLogKind *kind = kinds->pdata[i];

        if (kind->level > tm_log_level(log, kind->area)) /* nobody wants to know any more */
            continue;
        put(log, &(TmLogFacts){ .area = kind->area, .level = kind->level },
            g_strdup_printf("... %u more of these in the last %u s: %s", kind->dropped,
                            TM_LOG_WINDOW, kind->text));
    }
}

void tm_log_tick(TmLog *log)
{
    report_dropped(log, false);
}

void tm_log_counts(TmLog *log, TmLogArea area, uint64_t *logged, uint64_t *dropped)
{
    TM_GUARD(&log->lock);

    *logged = log->logged[area];
    *dropped = log->dropped[area];
}

/* ---- levels */

void tm_log_set_level(TmLog *log, TmLogArea area, TmLogLevel level)
{
    __atomic_store_n(&log->levels[area], level, __ATOMIC_RELAXED);
}

TmLogLevel tm_log_level(const TmLog *log, TmLogArea area)
{
    return __atomic_load_n(&log->levels[area], __ATOMIC_RELAXED);
}

static int index_of(const char *const *names, const char *name)
{
    int i = 0;

    while (names[i] && !g_str_equal(names[i], name))
        i++;
    return names[i] ? i : -1;
}

/* "LEVEL" or "AREA=LEVEL". */
static bool parse_level(const char *text, TmLogLevel levels[TM_LOG_AREAS], GError **error)
{
    g_auto(GStrv) parts = g_strsplit(text, "=", 2);
    const char *name = parts[0] && parts[1] ? parts[1] : text;
    int level = index_of(tm_log_level_names, name);
    int area = parts[0] && parts[1] ? index_of(tm_log_area_names, parts[0]) : TM_LOG_AREAS;

    if (area < 0) {
        g_autofree char *names = g_strjoinv(", ", (char **)tm_log_area_names);

        return tm_error_set(error, "no area '%s', expected one of %s", parts[0], names);
    }
    if (level < 0)
        return tm_error_set(error, "%s%sexpected error, warning, info or debug",
                            g_str_equal(name, text) ? "" : name,
                            g_str_equal(name, text) ? "" : ": ");
    for (int i = 0; i < TM_LOG_AREAS; i++) {
        if (area == TM_LOG_AREAS || area == i)
            levels[i] = (TmLogLevel)level;
    }
    return true;
}

bool tm_log_set_levels(TmLog *log, const char *text, GError **error)
{
    g_auto(GStrv) parts = g_strsplit(text, ",", -1);
    TmLogLevel levels[TM_LOG_AREAS];

    if (!parts[0])
        return tm_error_set(error, "expected error, warning, info or debug");
    for (int i = 0; i < TM_LOG_AREAS; i++)
        levels[i] = tm_log_level(log, (TmLogArea)i);
    for (guint i = 0; parts[i]; i++) {
        if (!parse_level(parts[i], levels, error))
            return false;
    }
    for (int i = 0; i < TM_LOG_AREAS; i++)
        tm_log_set_level(log, (TmLogArea)i, levels[i]);
    return true;
}

/* ---- beginning and end */

TmLog *tm_log_new(const char *journal)
{
    TmLog *log = g_new0(TmLog, 1);

    tm_log_sink_open(&log->sink, journal);
    for (int i = 0; i < TM_LOG_AREAS; i++)
        log->levels[i] = TM_LOG_INFO;
    pthread_mutex_init(&log->lock, NULL);
    log->kinds = tm_log_kinds_new();
    g_queue_init(&log->last);
    return log;
}

void tm_log_free(TmLog *log)
{
    if (!log)
        return;
    report_dropped(log, true);
    g_hash_table_unref(log->kinds);
    g_queue_clear_full(&log->last, entry_free);
    pthread_mutex_destroy(&log->lock);
    tm_log_sink_close(&log->sink);
    g_free(log);
}
