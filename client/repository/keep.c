/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* client/repository/keep.c: see keep.h. */
#include "client/repository/keep.h"
#include "client/text.h"
#include "util/text.h"
#include <string.h>

static const struct {
    const char *name, *period; /* of two points in one period, the text is the same */
} kinds[TC_KEEP_KINDS] = {
    [TC_KEEP_LAST] = { "last", NULL },          [TC_KEEP_HOURLY] = { "hourly", "%Y-%m-%dT%H%z" },
    [TC_KEEP_DAILY] = { "daily", "%Y-%m-%d" },  [TC_KEEP_WEEKLY] = { "weekly", "%G-%V" },
    [TC_KEEP_MONTHLY] = { "monthly", "%Y-%m" }, [TC_KEEP_YEARLY] = { "yearly", "%Y" },
};

/* ---- parsing */

static bool parse_count(const char *text, uint64_t *count)
{
    if (strcmp(text, "all"))
        return g_ascii_string_to_unsigned(text, 10, 0, INT32_MAX, count, NULL);
    *count = UINT64_MAX;
    return true;
}

static bool unknown(const char *name, GError **error)
{
    const char *names[TC_KEEP_KINDS + 1] = { NULL }, *closest;

    for (int k = 0; k < TC_KEEP_KINDS; k++)
        names[k] = kinds[k].name;
    closest = tm_text_nearest(name, names);
    if (closest)
        return tm_error_set(error, "unknown kind '%s' of points to keep: did you mean '%s'?", name,
                            closest);
    return tm_error_set(error,
                        "unknown kind '%s' of points to keep: last, hourly, daily, weekly, monthly "
                        "and yearly are known",
                        name);
}

static bool parse_one(const char *text, TcKeep *keep, GError **error)
{
    const char *equals = strchr(text, '=');
    g_autofree char *name = equals ? g_strndup(text, (size_t)(equals - text)) : NULL;
    uint64_t count;
    int k = 0;

    if (!name)
        return tm_error_set(error, "'%s' does not say how many points to keep: KIND=N", text);
    while (k < TC_KEEP_KINDS && strcmp(kinds[k].name, name))
        k++;
    if (k == TC_KEEP_KINDS)
        return unknown(name, error);
    if (!parse_count(equals + 1, &count))
        return tm_error_set(error, "'%s' is not a number of points to keep, or all", equals + 1);
    if (keep->count[k])
        return tm_error_set(error, "'%s' comes twice", name);
    keep->count[k] = count;
    return true;
}

bool tc_keep_parse(const char *text, TcKeep *keep, GError **error)
{
    g_auto(GStrv) parts = g_strsplit(text, ",", -1);

    for (char **part = parts; *part; part++)
        if (!parse_one(*part, keep, error))
            return false;
    return *text || tm_error_set(error, "it is not said which points to keep: KIND=N,...");
}

/* ---- applying */

static char *period_of(TcKeepKind kind, uint64_t instant)
{
    g_autoptr(GDateTime) time =
        g_date_time_new_from_unix_local((gint64)(instant / (G_USEC_PER_SEC * 1000)));

    return time ? g_date_time_format(time, kinds[kind].period) : NULL;
}

static void stay(char **why, const char *name)
{
    char *all = *why ? g_strconcat(*why, ", ", name, NULL) : g_strdup(name);

    g_free(*why);
    *why = all;
}

/* Goes through the points, the newest of @order last, and keeps the first of each period that it
 * meets. */
static void choose(TcKeepKind kind, uint64_t count, const uint64_t *instants, const size_t *order,
                   size_t n, bool *stays)
{
    g_autoptr(GHashTable) met = g_hash_table_new_full(g_str_hash, g_str_equal, g_free, NULL);

    for (size_t i = n; i-- > 0 && count;) {
        char *period = kind == TC_KEEP_LAST ? NULL : period_of(kind, instants[order[i]]);

        if (period && !g_hash_table_add(met, period))
            continue;
        stays[order[i]] = true;
        count -= count != UINT64_MAX;
    }
}

static int by_instant(gconstpointer a, gconstpointer b, gpointer instants)
{
    const size_t *x = a, *y = b;
    const uint64_t *at = instants;

    if (at[*x] != at[*y])
        return at[*x] < at[*y] ? -1 : 1;
    return *x < *y ? -1 : 1;
}

void tc_keep_apply(const TcKeep *keep, const uint64_t *instants, size_t n, char **why)
{
    g_autofree size_t *made = g_new(size_t, n + 1), *timed = g_new(size_t, n + 1);
    g_autofree bool *stays = g_new(bool, n + 1);

    memset(why, 0, n * sizeof(*why));
    for (size_t i = 0; i < n; i++)
        made[i] = timed[i] = i;
    g_qsort_with_data(timed, (gint)n, sizeof(*timed), by_instant, (gpointer)instants);
    for (int k = 0; k < TC_KEEP_KINDS; k++) {
        memset(stays, 0, n * sizeof(*stays));
        choose((TcKeepKind)k, keep->count[k], instants, made, n, stays);
        choose((TcKeepKind)k, keep->count[k], instants, timed, n, stays);
        for (size_t i = 0; i < n; i++)
            if (stays[i])
                stay(&why[i], kinds[k].name);
    }
    if (n && !why[n - 1])
        stay(&why[n - 1], "newest");
}
