/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* client/repository/merge_hashes.c: two files of hashes made into one. No block is read for it. */
#include "client/repository/images.h"
#include "client/repository/merge_internal.h"
#include "client/repository/repository_internal.h"
#include "util/range.h"
#include <errno.h>

enum { MANY = 1024 }; /* hashes at a time */

TcHashes *tc_merge_open_hashes(const TcRepository *repo, const TcManifest *point, const char *disk,
                               GError **error)
{
    const TcPointDisk *entry = tc_manifest_disk(point, disk);

    return tc_repo_open_hashes(repo, point->point, entry, error);
}

/* Of the runs that it will have. */
static TcHashes *create(const TcRepository *repo, const char *path, const TcMergeLayer *merged,
                        GError **error)
{
    g_autoptr(TcRuns) runs = tc_runs_new(merged->size);
    TcHashes *hashes;

    for (guint i = 0; i < merged->runs->len; i++) {
        const TcMergeRun *run = &g_array_index(merged->runs, TcMergeRun, i);

        if (!tc_runs_add(runs, run->offset, run->length, run->kind, error))
            return NULL;
    }
    if (!tc_runs_end(runs, error))
        return NULL;
    repo->sys->unlink(path); /* of a merge that never began */
    hashes = tc_hashes_create(repo->sys, path, runs, merged->size, error);
    if (hashes)
        g_steal_pointer(&runs);
    return hashes;
}

static int copy(const TcHashes *from, TcHashes *to, const TcMergeRun *run)
{
    uint64_t blocks = run->length / TC_BLOCK + (run->length % TC_BLOCK != 0);
    g_autofree uint8_t *values = g_malloc(MANY * TC_HASH_SIZE);
    int ret = 0;

    for (uint64_t i = 0; i < blocks && ret == 0; i += MANY) {
        size_t n = tm_min(MANY, blocks - i);

        ret = tc_hashes_get(from, run->offset + i * TC_BLOCK, values, n);
        if (ret == 0)
            ret = tc_hashes_set(to, run->offset + i * TC_BLOCK, values, n);
    }
    return ret;
}

/* An image has one way of compression, and that of the point stays. */
static char *compression(const TcPointDisk *point, const TcPointDisk *child)
{
    return g_strdup(point->compression ? point->compression : child->compression ? "zlib" : NULL);
}

bool tc_merge_write_hashes(const TcRepository *repo, const TcManifest *point,
                           const TcManifest *child, const char *disk, TcPointDisk *entry,
                           GError **error)
{
    const TcPointDisk *below = tc_manifest_disk(point, disk);
    g_autofree char *path = tc_repo_file(repo, child->point, disk, TC_MERGED_HASHES);
    g_autoptr(TcHashes) lower = tc_merge_open_hashes(repo, point, disk, error), hashes = NULL;
    g_autoptr(TcHashes) upper = lower ? tc_merge_open_hashes(repo, child, disk, error) : NULL;
    g_autoptr(TcMergeLayer) l = NULL, u = NULL, merged = NULL;
    int ret = 0;

    if (!upper)
        return false;
    l = tc_merge_layer_new(lower, below);
    u = tc_merge_layer_new(upper, tc_manifest_disk(child, disk));
    merged = tc_merge_layers(u, l);
    hashes = create(repo, path, merged, error);
    for (guint i = 0; hashes && i < merged->runs->len && ret == 0; i++) {
        const TcMergeRun *run = &g_array_index(merged->runs, TcMergeRun, i);

        if (run->kind == TC_RUN_DATA)
            ret = copy(run->upper ? upper : lower, hashes, run);
    }
    if (ret < 0)
        return tm_error_set_errno(error, -ret, "Could not write '%s'", path);
    if (!hashes || !tc_hashes_finish(hashes, entry->tree, error))
        return false;
    g_free(entry->parent);
    g_free(entry->parent_id);
    g_free(entry->compression);
    entry->parent = g_strdup(below->parent);
    entry->parent_id = g_strdup(below->parent_id);
    entry->compression = compression(below, tc_manifest_disk(child, disk));
    entry->stored = tc_merge_layer_bytes(merged, TC_RUN_DATA);
    entry->zero = tc_merge_layer_bytes(merged, TC_RUN_ZERO);
    return true;
}
