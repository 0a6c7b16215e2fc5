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

/* Where a range could be sent from. */
static bool enter(BlkPlace *p, BlkNode *node, uint64_t offset, uint64_t length, bool wait)
{
    if (!blk_place_enter(p, node, offset, length, wait))
        return false;
    if (!(p->mapping.flags & TIDEMARK_MAPPED_DIRECT))
        return true;
    blk_place_leave(p);
    return false;
}

/* Punching beyond the end of a file, which does not grow meanwhile, changes nothing and shows
 * whether it works. */
static bool can_punch(const TmSys *sys, const BlkPlace *p)
{
    const uint64_t page = (uint64_t)sysconf(_SC_PAGESIZE);
    off_t beyond = (off_t)tm_align_up(blk_node_size(p->node) + (1u << 20), 1u << 20);

    return p->mapping.offset % page == 0 && sys->cached &&
           sys->cached(p->mapping.fd, 0, page, true) >= 0 &&
           sys->fallocate(p->mapping.fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
                          (off_t)p->mapping.offset + beyond, (off_t)page) == 0;
}

/* What can't be asked now is asked again. */
static int probe(BlkNode *node)
{
    int invalidates;
    BlkPlace p;

    if (!enter(&p, node, 0, 1, false))
        return CAN_NOT;
    invalidates = can_punch(node->graph_sys, &p) ? CAN : CAN_NOT;
    blk_place_leave(&p);
    __atomic_store_n(&node->invalidates, invalidates, __ATOMIC_RELAXED);
    return invalidates;
}

bool blk_node_can_invalidate(BlkNode *node, uint64_t cluster)
{
    int invalidates = __atomic_load_n(&node->invalidates, __ATOMIC_RELAXED);

    if (invalidates == UNKNOWN)
        invalidates = probe(node);
    return invalidates == CAN && cluster >= (uint64_t)sysconf(_SC_PAGESIZE);
}

/* Whether none of a range is in the page cache. */
static bool is_gone(BlkNode *node, uint64_t offset, uint64_t length)
{
    const TmSys *sys = node->graph_sys;
    BlkPlace p;
    bool gone;

    if (!sys->cached || !enter(&p, node, offset, length, true))
        return false;
    gone = sys->cached(p.mapping.fd, (off_t)p.mapping.offset, length, false) == 0;
    blk_place_leave(&p);
    return gone;
}

int blk_node_invalidate(BlkNode *node, uint64_t offset, uint64_t length, uint32_t flags)
{
    int ret;

    if (!__atomic_load_n(&node->sendfile_used, __ATOMIC_ACQUIRE))
        return -ENODATA;
    ret = blk_node_write_zeroes(node, offset, length,
                                TIDEMARK_FAST_ZERO | TIDEMARK_MAY_UNMAP | BLK_INVALIDATE);
    if (ret < 0)
        return ret;
    if (!is_gone(node, offset, length))
        return -EBUSY;
    if (!(flags & TIDEMARK_MAY_UNMAP && __atomic_load_n(&node->unmap, __ATOMIC_RELAXED)))
        blk_node_reserve(node, offset, length); /* where discards are ignored; advice */
    return 0;
}
