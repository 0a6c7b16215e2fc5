/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* block/io/change.c: see the header. */
#include "block/io/change.h"

#include "util/range.h"

#include <errno.h>

static void wrote(const BlkChange *c)
{
    if (c->node->driver->wrote)
        c->node->driver->wrote(c->node->handle, c->offset, c->length);
}

/* Exclusive: with all of the clusters that the range is in, as a change may move them. */
static void hold(BlkChange *c)
{
    uint64_t mask = __atomic_load_n(&c->node->cluster, __ATOMIC_RELAXED) - UINT64_C(1);

    c->first = c->offset & ~mask;
    c->held = ((c->offset + c->length + mask) & ~mask) - c->first;
    if (c->exclusive)
        blk_inflight_exclusive(&c->node->inflight, c->first, c->held);
    else
        blk_inflight_shared(&c->node->inflight, c->offset, c->length);
}

static void let_go(BlkChange *c)
{
    if (c->exclusive)
        blk_inflight_exclusive_end(&c->node->inflight, c->first, c->held);
    else
        blk_inflight_shared_end(&c->node->inflight, c->offset, c->length);
}

int blk_change_begin(BlkChange *c)
{
    BlkNode *node = c->node;
    int ret = 0;

    hold(c);
    if (!node->open)
        ret = -EIO;
    else if (node->read_only)
        ret = -EPERM;
    else if (!tm_range_within(c->offset, c->length, blk_node_size(node)))
        ret = -ENOSPC;
    if (ret < 0) {
        let_go(c);
        return ret;
    }
    if (!c->unchanged) {
        c->above = blk_parents_mark_begin(node, c->offset, c->length);
        c->epoch = bmp_set_mark_begin(node->bitmaps, c->offset, c->length);
    }
    wrote(c);
    return 0;
}

void blk_change_end(BlkChange *c)
{
    wrote(c);
    if (!c->unchanged) {
        bmp_set_mark_end(c->node->bitmaps, c->offset, c->length, c->epoch);
        blk_parents_mark_end(c->above);
    }
    let_go(c);
}
