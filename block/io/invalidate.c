/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* block/io/invalidate.c: takes pages away from the page cache that sockets may still read
 * (blk_send()).
 *
 * A socket refers to pages that were sent from the page cache for as long as its client likes.
 * Before a place in a node gets other data, its pages must leave the page cache: then the sockets
 * keep them as they are.
 *
 * Invariant: a range is invalidated only if none of it is in the page cache afterwards. This is
 * checked, not assumed, because the kernel zeroes a large folio that somebody holds rather than
 * dropping it. */
#include "block/node_internal.h"
#include "util/range.h"

#include <errno.h>
#include <linux/falloc.h>
#include <unistd.h>

enum { UNKNOWN, CAN, CAN_NOT }; /* BlkNode.invalidates */

/* The descriptor that a range could be sent from. */
static BlkNode *find_descriptor(BlkNode *node, uint64_t offset, uint64_t length,
                                struct tidemark_mapping *m)
{
    BlkNode *place = blk_node_descriptor(node, offset, length, m);

    return place && !(m->flags & TIDEMARK_MAPPED_DIRECT) ? place : NULL;
}

/* Punching beyond the end of a file changes nothing and shows whether it works. */
static bool can_punch(BlkNode *node)
{
    const TmSys *sys = node->graph_sys;
    const uint64_t page = (uint64_t)sysconf(_SC_PAGESIZE);
    off_t beyond = (off_t)tm_align_up(blk_node_size(node) + (1u << 20), 1u << 20);
    struct tidemark_mapping m;

    return find_descriptor(node, 0, 1, &m) && m.offset % page == 0 && sys->cached &&
           sys->cached(m.fd, 0, page, true) >= 0 &&
           sys->fallocate(m.fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
                          (off_t)m.offset + beyond, (off_t)page) == 0;
}

bool blk_node_can_invalidate(BlkNode *node, uint64_t cluster)
{
    int invalidates = __atomic_load_n(&node->invalidates, __ATOMIC_RELAXED);

    if (invalidates == UNKNOWN) {
        invalidates = can_punch(node) ? CAN : CAN_NOT;
        __atomic_store_n(&node->invalidates, invalidates, __ATOMIC_RELAXED);
    }
    return invalidates == CAN && cluster >= (uint64_t)sysconf(_SC_PAGESIZE);
}

int blk_node_invalidate(BlkNode *node, uint64_t offset, uint64_t length, uint32_t flags)
{
    const TmSys *sys = node->graph_sys;
    struct tidemark_mapping m;
    int ret;

    if (!__atomic_load_n(&node->lent, __ATOMIC_ACQUIRE))
        return -ENODATA;
    ret = blk_node_write_zeroes(node, offset, length,
                                TIDEMARK_FAST_ZERO | TIDEMARK_MAY_UNMAP | BLK_INVALIDATE);
    if (ret < 0)
        return ret;
    if (!find_descriptor(node, offset, length, &m) || !sys->cached ||
        sys->cached(m.fd, (off_t)m.offset, length, false) != 0)
        return -EBUSY;
    if (!(flags & TIDEMARK_MAY_UNMAP && __atomic_load_n(&node->unmap, __ATOMIC_RELAXED)))
        blk_node_reserve(node, offset, length); /* where discards are ignored; advice */
    return 0;
}
