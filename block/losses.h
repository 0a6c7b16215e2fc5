/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* block/losses.h: disks of which a flush has failed.
 *
 * The kernel drops what it could not write, reports that once, and goes on: what is read is not
 * what is on the medium any more, and later flushes work again for whoever opens the file anew. So
 * it is remembered, by file, as long as the graph lives, and passed to bitmaps (bmp_set_lose()). */
#pragma once
#include "block/node.h"

/* Of a graph; begins as zeroes. */
typedef struct BlkLosses {
    int failed;    /* atomic: a flush has, once */
    GArray *files; /* those that stay known; main thread; NULL: none */
} BlkLosses;

void blk_losses_clear(BlkLosses *losses);

/* A flush of a node without children has failed, or of one that fails by itself. Any thread. */
void blk_losses_note(BlkNode *node);
/* Before a node's driver is closed: its file stays known. Main. */
void blk_losses_remember(BlkNode *node);
/* Marks the bitmaps of all nodes whose data is, be it in part, in such a file. Main, not within a
 * change. Cheap where no flush has failed. */
void blk_losses_apply(BlkGraph *graph);
