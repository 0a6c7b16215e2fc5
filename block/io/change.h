/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* block/io/change.h: one change of a node's range on its way: what every kind of change has in
 * common around its pieces. Private to block/io.
 *
 * Threads: the blocking lane; one change is one thread's. */
#pragma once
#include "block/node_internal.h"
#include "block/parents.h"

typedef struct BlkChange {
    BlkNode *node;
    uint64_t offset, length;
    bool exclusive;
    bool unchanged; /* what is read stays the same, so no bitmap is marked */
    /* its own */
    uint64_t first, held; /* what is held exclusively */
    uint64_t epoch;
    BlkMarked *above; /* in the bitmaps of the nodes that show it, too */
} BlkChange;

/* Holds the range, with all of its clusters if exclusively, and marks it. -EIO, -EPERM, -ENOSPC: it
 * can't be changed, and nothing is held. change.c */
int blk_change_begin(BlkChange *c);
void blk_change_end(BlkChange *c);

#define BLK_WANTS_EXCLUSIVE 1 /* neither done nor failed */
/* Writes a part of it; @at: in the payload. 0, -errno, or BLK_WANTS_EXCLUSIVE: the change is not.
 * blocking.c */
int blk_change_write(const BlkChange *c, const BlkPayload *payload, uint64_t at, uint64_t offset,
                     uint64_t length, uint32_t flags);
/* Zeroes a part of one that is exclusive. blocking.c */
int blk_change_zero(const BlkChange *c, uint64_t offset, uint64_t length, uint32_t flags);
