/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* client/repository/merge_runs.c: two images of a chain as one, by their runs of blocks: where the
 * upper one has a block, that counts; else the lower one's. */
#include "client/repository/merge_internal.h"
#include "util/range.h"

static TcMergeLayer *layer_new(uint64_t size, const char *parent)
{
    TcMergeLayer *layer = g_new0(TcMergeLayer, 1);

    layer->size = size;
    layer->parent = g_strdup(parent);
    layer->runs = g_array_new(FALSE, FALSE, sizeof(TcMergeRun));
    return layer;
}

void tc_merge_layer_free(TcMergeLayer *layer)
{
    if (!layer)
        return;
    g_array_unref(layer->runs);
    g_free(layer->parent);
    g_free(layer);
}

/* What is in no run of a full one reads as zeroes anyhow. */
static void append(TcMergeLayer *layer, TcMergeRun run)
{
    GArray *runs = layer->runs;
    TcMergeRun *last = runs->len ? &g_array_index(runs, TcMergeRun, runs->len - 1) : NULL;

    if (run.kind == TC_RUN_NONE || (run.kind == TC_RUN_ZERO && !layer->parent))
        return;
    if (last && last->kind == run.kind && last->upper == run.upper &&
        last->offset + last->length == run.offset)
        last->length += run.length;
    else
        g_array_append_val(runs, run);
}

TcMergeLayer *tc_merge_layer_new(const TcHashes *hashes, const TcPointDisk *disk)
{
    TcMergeLayer *layer = layer_new(disk->size, disk->parent);

    for (TcMergeRun run = { 0 }; run.offset < disk->size; run.offset += run.length) {
        run.kind = tc_hashes_find(hashes, run.offset, &run.length);
        append(layer, run);
    }
    return layer;
}

uint64_t tc_merge_layer_bytes(const TcMergeLayer *layer, TcRunKind kind)
{
    uint64_t bytes = 0;

    for (guint i = 0; i < layer->runs->len; i++) {
        const TcMergeRun *run = &g_array_index(layer->runs, TcMergeRun, i);

        bytes += run->kind == kind ? run->length : 0;
    }
    return bytes;
}

/* ---- merging */

/* Going through a layer, in order. */
typedef struct Cursor {
    const TcMergeLayer *layer;
    guint i;
} Cursor;

/* What is at @offset, and *length how far that goes on. */
static TcRunKind at(Cursor *c, uint64_t offset, uint64_t *length)
{
    const GArray *runs = c->layer->runs;
    const TcMergeRun *run = NULL;

    for (; c->i < runs->len; c->i++) {
        run = &g_array_index(runs, TcMergeRun, c->i);
        if (run->offset + run->length > offset)
            break;
    }
    if (c->i == runs->len || run->offset > offset) {
        *length = (c->i == runs->len ? c->layer->size : run->offset) - offset;
        return TC_RUN_NONE;
    }
    *length = run->offset + run->length - offset;
    return run->kind;
}

TcMergeLayer *tc_merge_layers(const TcMergeLayer *upper, const TcMergeLayer *lower)
{
    TcMergeLayer *merged = layer_new(upper->size, lower->parent);
    Cursor u = { .layer = upper }, l = { .layer = lower };

    for (TcMergeRun run = { 0 }; run.offset < upper->size; run.offset += run.length) {
        uint64_t length;

        run.kind = at(&u, run.offset, &run.length);
        run.upper = run.kind != TC_RUN_NONE;
        if (!run.upper) {
            run.kind = at(&l, run.offset, &length);
            run.length = tm_min(run.length, length);
        }
        append(merged, run);
    }
    return merged;
}

void tc_merge_layers_cost(const TcMergeLayer *upper, const TcMergeLayer *lower,
                          const TcMergeLayer *merged, TcMergeCost *cost)
{
    uint64_t written = tc_merge_layer_bytes(upper, TC_RUN_DATA);

    cost->written += written;
    cost->freed += written + tc_merge_layer_bytes(lower, TC_RUN_DATA) -
                   tc_merge_layer_bytes(merged, TC_RUN_DATA);
}
