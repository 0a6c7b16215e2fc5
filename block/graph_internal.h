/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* block/graph_internal.h: what a graph is made of, for graph.c, add.c, remove.c and losses.c. */
#pragma once
#include "block/losses.h"
#include "block/node_internal.h"

struct BlkGraph {
    BlkRegistry *registry; /* borrowed */
    BlkEngine *engine;     /* borrowed */
    const TmSys *sys;      /* borrowed */
    GPtrArray *nodes;      /* references */
    GHashTable *names;     /* the same by name; borrowed */
    GHashTable *places;    /* path of a store -> GPtrArray of BlkNode (bitmaps_place.c) */
    uint64_t last_rank;    /* of a node in the list */
    pthread_mutex_t permissions;
    uint8_t boot_id[16];
    BlkLosses losses;
    BlkTraffic traffic;
    TmObjects *objects; /* borrowed */
    unsigned auto_names;
    unsigned idle_tick; /* bitmaps_tick.c */
    unsigned chain;     /* images being opened one for the other */
    BlkEventFn emit;
    void *emit_opaque;
    TmLog *log; /* borrowed; or NULL */
    void (*heal)(void *opaque);
    void *heal_opaque;
    bool without_stores;
    bool names_files; /* in messages, not nodes */
    bool unsaved;     /* what a node that was closed had in memory could not be kept */
};

/* At the end of the list, which takes the caller's reference; out of it, and then the caller has
 * it. graph.c */
void blk_graph_list(BlkGraph *graph, BlkNode *node);
void blk_graph_unlist(BlkGraph *graph, BlkNode *node);

/* Closes nested nodes that nobody uses. remove.c */
void blk_graph_drop_orphans(BlkGraph *graph);
