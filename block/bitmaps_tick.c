/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* block/bitmaps_tick.c: time passing for the stores of nodes: what was marked is synced, what has
 * failed is tried again. */
#include "block/bitmaps_internal.h"
#include "block/losses.h"
#include "util/sync.h"

#define HEAL_MAX   60u /* seconds between attempts, at most */
#define IDLE_TICKS 64u /* stores that are idle and that a second looks after */

void blk_bitmaps_tick_run(BlkWork *work)
{
    BlkBitmaps *b = (BlkBitmaps *)((char *)work - offsetof(BlkBitmaps, work));

    bmp_set_tick(b->node->bitmaps);
    TM_GUARD(&b->lock);
    b->ticking = false;
    pthread_cond_broadcast(&b->ticked);
}

void blk_bitmaps_tick_wait(BlkBitmaps *b)
{
    TM_GUARD(&b->lock);

    while (b->ticking)
        pthread_cond_wait(&b->ticked, &b->lock);
}

static void heal(BlkNode *node)
{
    BlkBitmaps *b = node->store;

    if (!bmp_set_wants_commit(node->bitmaps)) {
        b->wait = 0;
        b->interval = 1;
        return;
    }
    if (b->wait) {
        b->wait--;
        return;
    }
    b->wait = b->interval;
    b->interval = MIN(b->interval * 2, HEAL_MAX);
    blk_bitmaps_change_begin(&node, 1);
    blk_bitmaps_commit(&node, 1, NULL);
    blk_bitmaps_change_end(&node, 1);
}

/* Whether time passes for the node's bitmaps. */
static bool is_kept(BlkNode *node)
{
    return node->store && !blk_node_read_only(node) && bmp_set_store_path(node->bitmaps);
}

void blk_bitmaps_heal(BlkGraph *graph)
{
    g_autoptr(GPtrArray) nodes = blk_graph_nodes(graph);

    blk_losses_apply(graph);
    for (guint i = 0; i < nodes->len; i++) {
        if (is_kept(nodes->pdata[i]))
            heal(nodes->pdata[i]);
    }
}

/* What may wait for a medium: on a worker. */
static void queue(BlkNode *node)
{
    BlkBitmaps *b = node->store;
    TM_GUARD(&b->lock);

    if (b->ticking)
        return;
    b->ticking = true;
    blk_engine_work(blk_graph_engine(node->graph), &b->work);
}

/* Those that are idle take turns: whether their files are still there is all that a tick of theirs
 * would show. So thousands of disks that nobody writes to keep no worker busy. */
void blk_bitmaps_tick(BlkGraph *graph)
{
    g_autoptr(GPtrArray) nodes = blk_graph_nodes(graph);
    unsigned *next = blk_graph_idle_tick(graph), idle = 0;
    guint first = nodes->len ? *next % nodes->len : 0;

    for (guint i = 0; i < nodes->len; i++) {
        guint at = (first + i) % nodes->len;
        BlkNode *node = nodes->pdata[at];
        bool due;

        if (!is_kept(node))
            continue;
        heal(node);
        if (blk_bitmaps_has_image(node))
            blk_bitmaps_image_tick(node);
        due = bmp_set_tick_due(node->bitmaps);
        if (!due && idle < IDLE_TICKS) {
            idle++;
            *next = at + 1;
            due = true;
        }
        if (due)
            queue(node);
    }
}
