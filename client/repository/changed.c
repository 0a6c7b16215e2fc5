/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* client/repository/changed.c: see the header. Layers are laid one over the other, the oldest
 * first: each sweep joins what was found so far with the runs of the next one. */
#include "client/repository/changed.h"

#include "client/repository/hashes.h"
#include "util/range.h"

static void append(GArray *runs, uint64_t offset, uint64_t end)
{
    TcChangedRun *last = runs->len ? &g_array_index(runs, TcChangedRun, runs->len - 1) : NULL;
    TcChangedRun run = { offset, end - offset };

    if (offset >= end)
        return;
    if (last && last->offset + last->length == offset)
        last->length += run.length;
    else
        g_array_append_val(runs, run);
}

/* The part of @below from *@next on that is before @end, and not before @at. */
static void keep_until(GArray *to, const GArray *below, guint *next, uint64_t at, uint64_t end)
{
    for (; *next < below->len; (*next)++) {
        const TcChangedRun *run = &g_array_index(below, TcChangedRun, *next);

        if (run->offset >= end)
            return;
        append(to, tm_max(run->offset, at), tm_min(run->offset + run->length, end));
        if (run->offset + run->length > end)
            return;
    }
}

/* @below with a layer over it, whose runs replace what is below: those of zeroes by nothing, unless
 * they @count, too. Returned. */
static GArray *lay_over(const GArray *below, const TcRuns *runs, bool count)
{
    GArray *to = g_array_new(FALSE, FALSE, sizeof(TcChangedRun));
    uint64_t at = 0;
    guint next = 0;

    for (size_t i = 0; i < tc_runs_count(runs); i++) {
        const TcRun *run = tc_runs_get(runs, i);

        if (run->kind == TC_RUN_NONE)
            continue;
        keep_until(to, below, &next, at, run->offset);
        at = run->offset + run->length;
        if (count || run->kind == TC_RUN_DATA)
            append(to, run->offset, at);
    }
    keep_until(to, below, &next, at, UINT64_MAX);
    return to;
}

static bool add_layer(TcChanged *changed, const TcRepository *repo, const TcManifest *point,
                      const char *name, bool count, GError **error)
{
    const TcPointDisk *disk = tc_manifest_disk(point, name);
    g_autofree char *path = tc_repo_file(repo, point->point, name, "hashes");
    g_autoptr(TcHashes) hashes =
        tc_hashes_open(tc_repo_sys(repo), path, disk->tree, disk->size, error);
    GArray *runs;

    if (!hashes)
        return false;
    runs = lay_over(changed->runs, tc_hashes_runs(hashes), count);
    g_array_unref(changed->runs);
    changed->runs = runs;
    return true;
}

/* How many layers of @chain, the newest first, came after @since; -1: it is not in the chain. */
static int layers_after(const GPtrArray *chain, const TcManifest *since)
{
    guint i = 0;

    while (i < chain->len && chain->pdata[i] != since)
        i++;
    return i < chain->len ? (int)i : -1;
}

TcChanged *tc_changed_new(const TcRepository *repo, const TcManifest *point,
                          const TcManifest *since, const char *disk, GError **error)
{
    g_autoptr(TcChanged) changed = g_new0(TcChanged, 1);
    g_autoptr(GPtrArray) chain = NULL;
    int layers;

    if (!tc_manifest_disk(point, disk)) {
        tm_error_set(error, "point '%s' has no disk '%s'", point->point, disk);
        return NULL;
    }
    chain = tc_repo_chain(repo, point, disk, error);
    if (!chain)
        return NULL;
    layers = since ? layers_after(chain, since) : (int)chain->len;
    if (layers < 0) {
        tm_error_set(error,
                     "disk '%s' of point '%s' does not stand on point '%s': what changed in "
                     "between is not known, so take what has data",
                     disk, point->point, since->point);
        return NULL;
    }
    changed->size = tc_manifest_disk(point, disk)->size;
    changed->runs = g_array_new(FALSE, FALSE, sizeof(TcChangedRun));
    while (layers-- > 0)
        if (!add_layer(changed, repo, chain->pdata[layers], disk, since != NULL, error))
            return NULL;
    return g_steal_pointer(&changed);
}

void tc_changed_free(TcChanged *changed)
{
    if (!changed)
        return;
    if (changed->runs)
        g_array_unref(changed->runs);
    g_free(changed);
}
