/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* block/bitmaps_internal.h: what the files of block/bitmaps.h share. Main thread, but for what says
 * otherwise. */
#pragma once
#include "bitmap/store/store.h"
#include "block/bitmaps.h"
#include "block/node_internal.h"

struct BlkBitmaps {
    BlkNode *node; /* borrowed */
    BlkWork work;
    pthread_mutex_t lock; /* guards ticking; a leaf */
    pthread_cond_t ticked;
    bool ticking; /* bmp_set_tick() is queued or running */
    char *place;  /* its store's path, if there is something, or about to be; NULL: there is not */
    bool dropped; /* resting: everything is in the image */
    bool flushed; /* it was, as drained as it is: @flush_error is how it went */
    int held;     /* what keeps the disk's locks until the store is closed; or -1 */
    int flush_error;         /* -errno, or 0 */
    GPtrArray *removed;      /* within a change of an image's: names that it is to drop */
    GError *unannounced;     /* within a change: the image could not note its store; or NULL */
    unsigned wait, interval; /* seconds to the next attempt to heal; and after it */
};

/* ---- bitmaps_place.c */

/* Where the node's store would be; g_free; NULL: it has no place for one. */
char *blk_bitmaps_store_path(BlkNode *node, const char *disk, bool regular, bool by_default);
/* What the bitmaps are of: of another part of the same file they say nothing. At most 31 bytes;
 * g_free. */
char *blk_bitmaps_layer(BlkNode *node);
/* Whether there is something now. Not within a change, where the sets of others are not to be
 * locked. */
void blk_bitmaps_note_place(BlkNode *node);
/* Before the store is closed. */
void blk_bitmaps_leave_place(BlkNode *node);

/* ---- bitmaps_keeper.c */

/* Of a node with bitmap-place=disk: its driver, as the keeper of its store. */
bool blk_bitmaps_keeper(BlkNode *node, BmpKeeper *keeper, GError **error);

/* ---- bitmaps_commit.c */

/* Of the node's set, before a commit; @opaque is the node. */
bool blk_bitmaps_flush(void *opaque, GError **error);
/* Notes how it went: what follows until the node is let go of rests on this flush. */
void blk_bitmaps_flush_now(BlkNode *node);

/* ---- bitmaps_tick.c */

void blk_bitmaps_tick_run(BlkWork *work); /* on a worker */
void blk_bitmaps_tick_wait(BlkBitmaps *b);

/* ---- bitmaps_image.c: nodes whose images keep bitmaps themselves */

/* What keeps the bitmaps of the node's image; NULL: they have only a store. */
const BlkKeptBitmaps *blk_bitmaps_kept(const BlkNode *node);
/* The node that keeps the bitmaps of what the node's data is in; NULL: none. */
BlkNode *blk_bitmaps_image_below(const BlkNode *node);
/* Whether it has them open for writing. */
bool blk_bitmaps_has_image(const BlkNode *node);
/* The node's image, for its set; the node is the opaque pointer. */
BmpImage blk_bitmaps_image(BlkNode *node);
/* Before the first write: the image says where its bitmaps are. */
bool blk_bitmaps_image_begin(BlkNode *node, GError **error);
/* Everything into the image; then the store goes. @flush_error: how flushing the node went, 0 or
 * -errno. false: it stays, and that was reported. */
bool blk_bitmaps_image_keep(BlkNode *node, int flush_error);
/* Within a change, before its commit: the store that this may make counts from the beginning. */
bool blk_bitmaps_image_announce(BlkNode *node, GError **error);
/* After a change, committed or not: the image follows, and drops bitmaps of those names. */
void blk_bitmaps_image_follow(BlkNode *node, const GPtrArray *removed);
/* A store that has failed is not to be believed any more. */
void blk_bitmaps_image_tick(BlkNode *node);
