/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* block/bitmaps_internal.h: what block/bitmaps.c asks of nodes whose images keep bitmaps themselves
 * (block/bitmaps_image.c). Main thread. */
#pragma once
#include "bitmap/store/store.h"
#include "block/bitmaps.h"
#include "block/node_internal.h"

/* What keeps the bitmaps of the node's image; NULL: they have only a store. */
const BlkKeptBitmaps *blk_bitmaps_kept(const BlkNode *node);
/* The node that keeps the bitmaps of what the node's data is in; NULL: none. */
BlkNode *blk_bitmaps_image_below(const BlkNode *node);
/* The node's image, for its set; the node is the opaque pointer. */
BmpImage blk_bitmaps_image(BlkNode *node);
/* Before the first write: the image says where its bitmaps are. */
bool blk_bitmaps_image_begin(BlkNode *node, GError **error);
/* Everything into the image; then the store goes. @flush_error: how flushing the node went, 0 or
 * -errno. false: it stays, and that was reported. */
bool blk_bitmaps_image_keep(BlkNode *node, int flush_error);
/* Within a change, before its commit: the store that this may make counts from the beginning. */
bool blk_bitmaps_image_announce(BlkNode *node, GError **error);
/* After a change, committed or not: the image follows, and forgets bitmaps of those names. */
void blk_bitmaps_image_follow(BlkNode *node, const GPtrArray *removed);
/* A store that has failed is not to be believed any more. */
void blk_bitmaps_image_tick(BlkNode *node);
