/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* block/bitmap_changes.h: changes of bitmaps that can be taken back: what transactions consist of.
 *
 * Everything here happens within a change (block/bitmaps.h) of all nodes concerned. Main thread. */
#pragma once
#include "bitmap/copy.h"
#include "block/node.h"

typedef struct BlkBitmapChanges BlkBitmapChanges;

BlkBitmapChanges *blk_bitmap_changes_new(void);
void blk_bitmap_changes_free(BlkBitmapChanges *changes); /* keeps what was done; NULL is fine */
G_DEFINE_AUTOPTR_CLEANUP_FUNC(BlkBitmapChanges, blk_bitmap_changes_free)

/* Each does one thing and notes how to take it back, or fails and does nothing. Errors: as those of
 * bitmap/bitmap.h, and bmp_bitmap_check_usable() for all but add and remove. */

/* With granularity 0 that of the node's clusters. */
bool blk_bitmap_changes_add(BlkBitmapChanges *changes, BlkNode *node, const char *name,
                            const BmpAddOptions *options, GError **error);
bool blk_bitmap_changes_remove(BlkBitmapChanges *changes, BmpBitmap *bitmap, GError **error);
/* @fn: bmp_bitmap_clear, _enable or _disable. */
bool blk_bitmap_changes_apply(BlkBitmapChanges *changes, BmpBitmap *bitmap,
                              bool (*fn)(BmpBitmap *bitmap, GError **error), GError **error);
bool blk_bitmap_changes_merge(BlkBitmapChanges *changes, BmpBitmap *target, BmpBitmap *source,
                              GError **error);
/* bmp_bitmap_add_copy() */
bool blk_bitmap_changes_add_copy(BlkBitmapChanges *changes, BmpBitmap *bitmap, const BmpCopy *copy,
                                 GError **error);
/* bmp_bitmap_freeze(). And what is thawed is only what was marked since then. */
bool blk_bitmap_changes_freeze(BlkBitmapChanges *changes, BmpBitmap *bitmap, bool to_change,
                               GError **error);
/* bmp_bitmap_finish() */
void blk_bitmap_changes_finish(BlkBitmapChanges *changes, BmpBitmap *bitmap);
void blk_bitmap_changes_thaw(BlkBitmapChanges *changes, BmpBitmap *bitmap);

/* All of them, the last one first. A bitmap that was thawed is then whole, and stays thawed. */
void blk_bitmap_changes_take_back(BlkBitmapChanges *changes);
