/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* client/repository/keep.c: see keep.h. */
#include "client/repository/keep.h"
#include "client/text.h"
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
    closest = tc_closest(name, names);
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

static void apply(TcKeepKind kind, uint64_t count, const uint64_t *instants, size_t n, char **why)
{
    g_autofree char *last = NULL;

    for (size_t i = n; i-- > 0 && count;) {
        g_autofree char *period = kind == TC_KEEP_LAST ? NULL : period_of(kind, instants[i]);

        if (period && !g_strcmp0(period, last))
            continue;
        stay(&why[i], kinds[kind].name);
        count -= count != UINT64_MAX;
        g_free(last);
        last = g_steal_pointer(&period);
    }
}

void tc_keep_apply(const TcKeep *keep, const uint64_t *instants, size_t n, char **why)
{
    memset(why, 0, n * sizeof(*why));
    for (int k = 0; k < TC_KEEP_KINDS; k++)
        apply((TcKeepKind)k, keep->count[k], instants, n, why);
    if (n && !why[n - 1])
        stay(&why[n - 1], "newest");
}
