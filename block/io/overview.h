/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* block/io/overview.h: a whole disk as a few cells, each a range, for people.
 *
 * A cell shows what matters most in its range, as in pictures of `tidemark map`: then the rest of
 * the range is not read. One call works for a few milliseconds at most, and the next one
 * continues, so that a disk of any size can be shown by a thread that others wait for. */
#pragma once
#include "block/node.h"

#define BLK_OVERVIEW_CELLS 512u

/* Of a cell: not known, no place is used, reads as zeroes, has data; and in a bitmap. */
#define BLK_CELL_UNKNOWN '?'
#define BLK_CELL_HOLE    '.'
#define BLK_CELL_ZERO    'o'
#define BLK_CELL_DATA    '='
#define BLK_CELL_DIRTY   '#'
#define BLK_CELL_CLEAN   '.'

typedef struct BlkOverview {
    uint64_t size;         /* bytes of the disk */
    uint64_t cell;         /* bytes of a cell, a power of two; the last one may be cut off */
    uint64_t next;         /* the offset to continue from; the size: all has been seen */
    unsigned first, count; /* cells that are described */
    char cells[BLK_OVERVIEW_CELLS + 1]; /* NUL-terminated */
    char dirty[BLK_OVERVIEW_CELLS + 1]; /* the same; empty: no bitmap was given */
} BlkOverview;

/* From @offset on, beyond the end of which there is nothing. A range that continues a cell says
 * nothing of the cell's beginning. Allocation that a server would have to be asked for is not
 * known; neither is what the driver fails to report. @bitmap: of the node; or NULL. Any thread. */
void blk_node_overview(BlkNode *node, BmpBitmap *bitmap, uint64_t offset, BlkOverview *overview);
