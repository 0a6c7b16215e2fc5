/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* block/io/overview.c: see the header. Most cells need one look-up, as data ends the search. */
#include "block/io/overview.h"

#include "util/clock.h"
#include "util/extent.h"
#include "util/range.h"

#include <string.h>

#define CELL_MIN UINT64_C(512)
#define WORK_NS  UINT64_C(5000000) /* of one call, beyond which no more look-ups are begun */

static uint64_t cell_size(uint64_t size)
{
    uint64_t cell = CELL_MIN;

    while (size / cell + (size % cell != 0) > BLK_OVERVIEW_CELLS)
        cell *= 2;
    return cell;
}

static char cell_of(uint32_t flags)
{
    return flags & TM_STATE_HOLE   ? BLK_CELL_HOLE
           : flags & TM_STATE_ZERO ? BLK_CELL_ZERO
                                   : BLK_CELL_DATA;
}

static bool matters_more(char cell, char than)
{
    static const char rising[] = { BLK_CELL_UNKNOWN, BLK_CELL_HOLE, BLK_CELL_ZERO, BLK_CELL_DATA,
                                   0 };

    return strchr(rising, cell) > strchr(rising, than);
}

/* What is in [@offset, @stop), as far as there is time; returns where it ended. */
static uint64_t look(BlkNode *node, uint64_t offset, uint64_t stop, uint64_t deadline, char *cell)
{
    *cell = BLK_CELL_UNKNOWN;
    do {
        uint64_t described;
        uint32_t flags;

        if (blk_node_status_at(node, offset, stop - offset, &described, &flags) < 0)
            return stop;
        if (matters_more(cell_of(flags), *cell))
            *cell = cell_of(flags);
        offset += described;
    } while (*cell != BLK_CELL_DATA && offset < stop && tm_now_ns() < deadline);
    return *cell == BLK_CELL_DATA ? stop : offset;
}

static char dirty_in(BmpBitmap *bitmap, uint64_t offset, uint64_t stop)
{
    uint64_t edge, described;
    bool dirty;
    size_t n = bmp_bitmap_edges(bitmap, offset, stop - offset, &edge, 1, &dirty, &described);

    return dirty || n ? BLK_CELL_DIRTY : BLK_CELL_CLEAN;
}

void blk_node_overview(BlkNode *node, BmpBitmap *bitmap, uint64_t offset, BlkOverview *o)
{
    uint64_t size = blk_node_size(node), deadline = tm_now_ns() + WORK_NS,
             at = tm_min(offset, size);
    bool waits = blk_node_status_waits(node);

    *o = (BlkOverview){ .size = size, .cell = cell_size(size) };
    o->first = (unsigned)(at / o->cell);
    while (at < size && (!o->count || tm_now_ns() < deadline)) {
        uint64_t stop = tm_min(tm_align_down(at, o->cell) + o->cell, size);
        uint64_t end = stop;

        o->cells[o->count] = BLK_CELL_UNKNOWN;
        if (!waits)
            end = look(node, at, stop, deadline, &o->cells[o->count]);
        if (bitmap)
            o->dirty[o->count] = dirty_in(bitmap, at, stop);
        o->count++;
        at = end;
    }
    o->next = at;
}
