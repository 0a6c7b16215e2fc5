/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* block/snapshot.h: external snapshots: a node stays as it is, and what is written from now on goes
 * to an overlay, which those who use the node use instead.
 *
 * The overlay is an image without a backing; the node becomes its backing. Bitmaps stay with their
 * nodes, as in QEMU: those of the node say what was written up to now. New ones of the overlay
 * begin in the same transaction.
 *
 * Main thread. */
#pragma once
#include "block/node.h"

/* Whether @overlay can be put above @node. Messages are QEMU's where it has some. */
bool blk_snapshot_check(BlkNode *node, BlkNode *overlay, GError **error);

/* What will read otherwise is dirty: in bitmaps of the overlay where it will show its backing, in
 * those of nodes above @node where the overlay has data of its own. Before the change of bitmaps
 * that belongs to the snapshot, within the same hold (block/filters.h). */
void blk_snapshot_mark(BlkNode *node, BlkNode *overlay);

/* Takes it, within a hold of both nodes, when the node has been flushed. NULL: nothing has
 * changed. */
typedef struct BlkSnapshot BlkSnapshot;
BlkSnapshot *blk_snapshot_take(BlkNode *node, BlkNode *overlay, GError **error);
/* As if it had not been taken: within that hold, the last one first. Frees it. */
void blk_snapshot_take_back(BlkSnapshot *snapshot);
/* After the hold: the node becomes read-only, so that other programs can read its image, if that
 * works. Frees it. */
void blk_snapshot_keep(BlkSnapshot *snapshot);
