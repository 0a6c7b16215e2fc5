/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* client/top/histogram.c: see histogram.h. */
#include "client/top/histogram.h"
#include "client/json.h"
#include "util/json.h"

enum { BINS_MAX = 4096 };

static uint64_t at(json_object *array, size_t i)
{
    return json_object_get_uint64(json_object_array_get_idx(array, i));
}

/* How much bin @i grew; a counter that began anew has only what it has now. */
static uint64_t grown(json_object *before, json_object *now, size_t i)
{
    uint64_t new = at(now, i), old = i < tc_json_length(before) ? at(before, i) : 0;

    return new >= old ? new - old : new;
}

/* The end of bin @i, or its beginning if it has no end. */
static uint64_t end_of(json_object *boundaries, size_t i)
{
    size_t n = tc_json_length(boundaries);

    return n ? at(boundaries, MIN(i, n - 1)) : 0;
}

static double percentile(json_object *boundaries, const uint64_t *bins, size_t n, uint64_t total,
                         double part)
{
    double wanted = (double)total * part, seen = 0;
    size_t i = 0;

    while (i + 1 < n && seen + (double)bins[i] < wanted)
        seen += (double)bins[i++];
    {
        double from = i ? (double)at(boundaries, i - 1) : 0, to = (double)end_of(boundaries, i);

        return bins[i] ? from + (to - from) * (wanted - seen) / (double)bins[i] : from;
    }
}

void tc_top_percentiles(json_object *figures, json_object *before, json_object *now)
{
    json_object *boundaries = tc_json_get(now, "boundaries", NULL);
    json_object *bins = tc_json_get(now, "bins", NULL), *old = tc_json_get(before, "bins", NULL);
    size_t n = tc_json_length(bins), worst = 0;
    g_autofree uint64_t *growth = NULL;
    uint64_t total = 0;

    if (!n || n > BINS_MAX || tc_json_length(boundaries) + 1 != n)
        return;
    growth = g_new(uint64_t, n);
    for (size_t i = 0; i < n; i++) {
        growth[i] = grown(old, bins, i);
        total += growth[i];
        worst = growth[i] ? i : worst;
    }
    if (!total)
        return;
    tm_json_add_uint(figures, "p50-ns", (uint64_t)percentile(boundaries, growth, n, total, 0.5));
    tm_json_add_uint(figures, "p99-ns", (uint64_t)percentile(boundaries, growth, n, total, 0.99));
    tm_json_add_uint(figures, "worst-ns", end_of(boundaries, worst));
}
