/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* util/log_limit.c: nobody fills the log: of each kind of message so many appear in a window of
 * time, and the rest is counted.
 *
 * A kind is a format, of which the program has finitely many, and the node or export, which the
 * operator named. What a client can choose makes no kinds. If there are too many all the same, the
 * later ones of an area and level share one. */
#include "util/log_internal.h"

#define KINDS_MAX   4096u
#define DEBUG_TIMES 10u /* who asks for debug messages wants to see them */

/* Messages of one kind in a window. Clients cause the ones with a low limit. */
static const unsigned limits[TM_LOG_AREAS] = {
    [TM_LOG_DAEMON] = 100, [TM_LOG_QMP] = 20,   [TM_LOG_NBD] = 10,
    [TM_LOG_TLS] = 10,     [TM_LOG_BLOCK] = 10, [TM_LOG_BITMAP] = 100,
    [TM_LOG_STORE] = 20,   [TM_LOG_JOB] = 100,  [TM_LOG_BACKUP] = 100,
};

static void kind_free(void *data)
{
    TmLogKind *kind = data;

    g_free(kind->text);
    g_free(kind);
}

GHashTable *tm_log_kinds_new(void)
{
    return g_hash_table_new_full(g_str_hash, g_str_equal, g_free, kind_free);
}

static TmLogKind *kind_of(GHashTable *kinds, const TmLogFacts *facts, const char *format,
                          int64_t now)
{
    bool full = g_hash_table_size(kinds) >= KINDS_MAX;
    g_autofree char *key =
        full ? g_strdup_printf("others/%d/%d", facts->area, facts->level)
             : g_strdup_printf("%p/%s/%s", (const void *)format, facts->node ? facts->node : "",
                               facts->export ? facts->export : "");
    TmLogKind *kind = g_hash_table_lookup(kinds, key);

    if (kind)
        return kind;
    kind = g_new0(TmLogKind, 1);
    kind->area = facts->area;
    kind->level = facts->level;
    kind->until = now + (int64_t)TM_LOG_WINDOW * G_USEC_PER_SEC;
    g_hash_table_insert(kinds, g_steal_pointer(&key), kind);
    return kind;
}

bool tm_log_kinds_admit(GHashTable *kinds, const TmLogFacts *facts, const char *format,
                        const char *text, int64_t now)
{
    TmLogKind *kind = kind_of(kinds, facts, format, now);
    unsigned limit = limits[facts->area] * (facts->level == TM_LOG_DEBUG ? DEBUG_TIMES : 1);

    if (kind->shown < limit) {
        kind->shown++;
        return true;
    }
    if (!kind->dropped++)
        kind->text = g_strdup(text);
    return false;
}

GPtrArray *tm_log_kinds_expire(GHashTable *kinds, int64_t now, bool all)
{
    GPtrArray *cut = g_ptr_array_new_with_free_func(kind_free);
    GHashTableIter iter;
    void *key, *data;

    g_hash_table_iter_init(&iter, kinds);
    while (g_hash_table_iter_next(&iter, &key, &data)) {
        TmLogKind *kind = data;

        if (!all && kind->until > now)
            continue;
        g_free(key);
        g_hash_table_iter_steal(&iter);
        if (kind->dropped)
            g_ptr_array_add(cut, kind);
        else
            kind_free(kind);
    }
    return cut;
}
