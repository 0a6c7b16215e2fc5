/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* client/repository/heat.c: see heat.h. */
#include "client/repository/heat.h"
#include "client/repository/hashes.h"
#include "client/repository/images.h"
#include "client/repository/view.h"
#include "client/text.h"
#include "util/log.h"
#include "util/range.h"
#include <string.h>

/* Where so many increments begin to have a block, or cease to. */
typedef struct Step {
    uint64_t at;
    int by;
} Step;

/* Besides "never". */
static const struct {
    const char *ascii, *utf8, *ansi;
    uint32_t rgb;
} levels[] = {
    { ".", "\u00b7", "\033[90m", 0xeef1f4 },   { ":", "\u2591", "\033[36m", 0xf6c667 },
    { "+", "\u2592", "\033[33m", 0xe5803a },   { "x", "\u2593", "\033[35m", 0xc44a2c },
    { "#", "\u2588", "\033[1;31m", 0x6a1415 },
};
enum { LEVELS = G_N_ELEMENTS(levels) - 1 };

static int compare_steps(gconstpointer a, gconstpointer b)
{
    const Step *x = a, *y = b;

    return x->at < y->at ? -1 : x->at > y->at;
}

/* The bytes that are stored. */
static uint64_t add_steps(GArray *steps, const TcRuns *runs, uint64_t size)
{
    uint64_t bytes = 0;

    for (size_t i = 0; i < tc_runs_count(runs); i++) {
        const TcRun *run = tc_runs_get(runs, i);
        uint64_t end = tm_min(run->offset + run->length, size);
        Step begin = { run->offset, 1 }, cease = { end, -1 };

        bytes += run->length;
        if (run->kind == TC_RUN_NONE || run->offset >= end)
            continue;
        g_array_append_val(steps, begin);
        g_array_append_val(steps, cease);
    }
    return bytes;
}

static void add_extent(TcHeat *heat, uint64_t offset, uint64_t end, unsigned changes)
{
    TcHeatExtent extent = { offset, end - offset, changes };
    TcHeatExtent *last = heat->extents->len
                             ? &g_array_index(heat->extents, TcHeatExtent, heat->extents->len - 1)
                             : NULL;

    if (offset == end)
        return;
    if (last && last->changes == changes)
        last->length += extent.length;
    else
        g_array_append_val(heat->extents, extent);
}

static void sweep(TcHeat *heat, GArray *steps)
{
    uint64_t at = 0;
    int changes = 0;

    g_array_sort(steps, compare_steps);
    for (guint i = 0; i < steps->len; i++) {
        const Step *step = &g_array_index(steps, Step, i);

        add_extent(heat, at, step->at, (unsigned)changes);
        at = step->at;
        changes += step->by;
    }
    add_extent(heat, at, heat->size, 0);
}

static void add_increment(TcHeat *heat, const TcRepository *repo, const TcManifest *point,
                          const TcPointDisk *disk, GArray *steps)
{
    g_autoptr(GError) problem = NULL;
    g_autoptr(TcHashes) hashes = tc_repo_open_hashes(repo, point->point, disk, &problem);
    TcHeatPoint entry = { .point = point };

    if (!hashes) {
        tm_log(TM_LOG_WARNING, "point '%s' is not counted: %s", point->point, problem->message);
        heat->damaged++;
        return;
    }
    entry.changed = add_steps(steps, tc_hashes_runs(hashes), heat->size);
    g_array_append_val(heat->points, entry);
}

TcHeat *tc_heat_new(const TcRepository *repo, const char *name, GError **error)
{
    const GPtrArray *points = tc_repo_points(repo);
    g_autoptr(TcHeat) heat = g_new0(TcHeat, 1);
    g_autoptr(GArray) steps = g_array_new(FALSE, FALSE, sizeof(Step));

    heat->size = tc_manifest_disk(tc_repo_newest(repo, name), name)->size;
    heat->points = g_array_new(FALSE, FALSE, sizeof(TcHeatPoint));
    heat->extents = g_array_new(FALSE, FALSE, sizeof(TcHeatExtent));
    for (guint i = 0; i < points->len; i++) {
        const TcPointDisk *disk = tc_manifest_disk(points->pdata[i], name);

        if (disk && disk->parent)
            add_increment(heat, repo, points->pdata[i], disk, steps);
        else
            heat->fulls += disk != NULL;
    }
    if (!heat->points->len) {
        tm_error_set(error,
                     "disk '%s' has no increment in '%s' that can be read: it is not known "
                     "what changed",
                     name, tc_repo_path(repo));
        return NULL;
    }
    sweep(heat, steps);
    return g_steal_pointer(&heat);
}

void tc_heat_free(TcHeat *heat)
{
    if (!heat)
        return;
    g_array_unref(heat->points);
    g_array_unref(heat->extents);
    g_free(heat);
}

/* ---- the chart */

/* The first level is for one change, and the others share the rest: most parts changed once, and
 * what matters is how often the rest did. @n: levels; 0: it never changed. */
static unsigned level_of(unsigned changes, unsigned n, unsigned increments)
{
    return changes < 2 ? changes : 2 + (changes - 2) * (n - 1) / (increments - 1);
}

/* "changed in 4 to 6 of 12 increments". Returned. */
static char *level_name(unsigned level, unsigned n, unsigned increments)
{
    unsigned from = increments + 1, to = 0;

    for (unsigned changes = 1; changes <= increments; changes++)
        if (level_of(changes, n, increments) == level) {
            from = MIN(from, changes);
            to = changes;
        }
    if (!level)
        return g_strdup("not changed");
    return from == to
               ? g_strdup_printf("changed in %u of %u increments", to, increments)
               : g_strdup_printf("changed in %u to %u of %u increments", from, to, increments);
}

static void add_levels(const TcHeat *heat, TcChart *chart, unsigned n)
{
    uint64_t bytes[LEVELS + 1] = { 0 };

    for (guint i = 0; i < heat->extents->len; i++) {
        const TcHeatExtent *e = &g_array_index(heat->extents, TcHeatExtent, i);

        bytes[level_of(e->changes, n, heat->points->len)] += e->length;
    }
    for (unsigned i = n + 1; i--;) {
        /* the darkest is that of the most frequent changes */
        unsigned shade = i ? LEVELS - n + i : 0;

        tc_chart_add_class(chart, (TcChartClass){
                                      .name = level_name(i, n, heat->points->len),
                                      .ascii = levels[shade].ascii,
                                      .utf8 = levels[shade].utf8,
                                      .ansi = levels[shade].ansi,
                                      .rgb = levels[shade].rgb,
                                      .bytes = bytes[i],
                                  });
    }
}

/* "disk of 1 GiB; 12 increments from 2026-11-01 01:00:00 to 2026-11-12 01:00:00". Returned. */
static char *period(const TcHeat *heat)
{
    unsigned n = heat->points->len;
    g_autofree char *size = tc_human_size(heat->size);
    g_autofree char *from =
        tc_repo_time_text(g_array_index(heat->points, TcHeatPoint, 0).point->instant);
    g_autofree char *to =
        tc_repo_time_text(g_array_index(heat->points, TcHeatPoint, n - 1).point->instant);

    return n == 1 ? g_strdup_printf("disk of %s; 1 increment, %s", size, to)
                  : g_strdup_printf("disk of %s; %u increments, %s to %s", size, n, from, to);
}

TcChart *tc_heat_chart(const TcHeat *heat, const char *title, unsigned columns, unsigned rows)
{
    uint64_t cell = tc_chart_cell(heat->size, columns, rows, TC_BLOCK);
    TcChart *chart = tc_chart_new(heat->size, cell, columns, (heat->size + cell - 1) / cell);
    unsigned n = MIN(LEVELS, heat->points->len);

    chart->title = g_strdup(title);
    chart->subtitle = period(heat);
    chart->rule = "shows its part that changed most often";
    memset(chart->cells, (int)n, chart->count);
    for (guint i = 0; i < heat->extents->len; i++) {
        const TcHeatExtent *e = &g_array_index(heat->extents, TcHeatExtent, i);
        uint8_t class = (uint8_t)(n - level_of(e->changes, n, heat->points->len));

        for (uint64_t at = e->offset / cell; at <= (e->offset + e->length - 1) / cell; at++)
            chart->cells[at] = MIN(chart->cells[at], class);
    }
    add_levels(heat, chart, n);
    return chart;
}
