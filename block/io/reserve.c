/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* block/io/reserve.c: the descriptor that a range of a node is in, and space there that is promised
 * before it is written to. */
#include "block/node_internal.h"

#include <errno.h>
#include <linux/falloc.h>

static bool enter(BlkPlace *p, bool wait)
{
    BlkInflight *inflight = &p->node->inflight;

    if (!wait)
        return blk_inflight_try_shared(inflight, p->offset, p->length);
    blk_inflight_shared(inflight, p->offset, p->length);
    return true;
}

/* To the child that has all of it; false: it is nowhere any more. */
static bool descend(BlkPlace *p, bool wait)
{
    BlkPlace below = { .length = p->length, .offset = p->mapping.offset };
    bool entered;

    if (p->mapping.kind != TIDEMARK_MAP_CHILD) {
        blk_place_leave(p);
        return false;
    }
    below.node = blk_node_child_at(p->node, p->mapping.child);
    entered = enter(&below, wait);
    blk_place_leave(p);
    *p = below;
    return entered;
}

bool blk_place_enter(BlkPlace *p, BlkNode *node, uint64_t offset, uint64_t length, bool wait)
{
    bool entered;

    *p = (BlkPlace){ .node = node, .offset = offset, .length = length };
    entered = enter(p, wait);
    while (entered) {
        if (blk_node_map(p->node, p->offset, length, TIDEMARK_MAP_FOR_READ, &p->mapping) < 0 ||
            p->mapping.length < length) {
            blk_place_leave(p);
            return false;
        }
        if (p->mapping.kind == TIDEMARK_MAP_FD)
            return true;
        entered = descend(p, wait);
    }
    return false;
}

void blk_place_leave(BlkPlace *p)
{
    blk_inflight_shared_end(&p->node->inflight, p->offset, p->length);
}

/* EINVAL: a device, asked for a part of a sector. */
static bool lacks(int err)
{
    return err == EOPNOTSUPP || err == ENOSYS || err == ENODEV || err == EINVAL;
}

int blk_node_reserve(BlkNode *node, uint64_t offset, uint64_t length)
{
    const TmSys *sys = node->graph_sys;
    BlkPlace p;
    int ret;

    if (!blk_place_enter(&p, node, offset, length, true))
        return -ENOTSUP;
    do {
        ret = sys->fallocate(p.mapping.fd, FALLOC_FL_KEEP_SIZE, (off_t)p.mapping.offset,
                             (off_t)length);
    } while (ret < 0 && errno == EINTR);
    if (ret < 0)
        ret = lacks(errno) ? -ENOTSUP : -errno;
    else if (p.node->driver->wrote)
        p.node->driver->wrote(p.node->handle, p.offset, length);
    blk_place_leave(&p);
    return ret;
}
