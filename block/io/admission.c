/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* block/io/admission.c: see the header.
 *
 * The walk goes down where the fast lane does: hand over hand, a stripe each, as long as map says
 * that one child has all of the range. */
#include "block/io/admission.h"

#include "block/io/request.h"
#include "block/node_internal.h"
#include "util/range.h"

static bool is_change(const BlkRequest *r)
{
    return r->op == BLK_OP_WRITE || r->op == BLK_OP_WRITE_ZEROES || r->op == BLK_OP_DISCARD;
}

static bool enter(BlkNode *node, uint64_t offset, uint64_t length)
{
    if (!blk_inflight_try_shared(&node->inflight, offset, length))
        return false;
    if (node->open && tm_range_within(offset, length, blk_node_size(node)))
        return true;
    blk_inflight_shared_end(&node->inflight, offset, length);
    return false;
}

/* The child that has all of the range. NULL: none. */
static BlkNode *child_below(BlkNode *node, bool change, uint64_t *offset, uint64_t length)
{
    uint32_t purpose = change ? TIDEMARK_MAP_FOR_WRITE : TIDEMARK_MAP_FOR_READ;
    struct tidemark_mapping m;

    if (node->driver->flags & TIDEMARK_DRIVER_SERIALIZED || (change && node->read_only) ||
        blk_node_map(node, *offset, length, purpose, &m) < 0 || m.kind != TIDEMARK_MAP_CHILD ||
        m.length < length)
        return NULL;
    *offset = m.offset;
    return blk_node_child_at(node, m.child);
}

/* In flight on the node. false: it waits, and may be on its way again: it is not touched any
 * more. */
static bool pass(BlkRequest *r, BlkNode *node)
{
    BlkThrottle **end = r->passed;

    if (!node->throttle || blk_throttle_passed(r->passed, node->throttle))
        return true;
    while (*end)
        end++;
    end[0] = node->throttle;
    end[1] = NULL;
    return blk_throttle_try(node->throttle, &r->waiter);
}

bool blk_admit(BlkRequest *r)
{
    BlkNode *node = r->node;
    uint64_t offset = r->offset, length = r->length;
    bool change = is_change(r), admitted = true;

    if (!__atomic_load_n(&node->traffic->throttles, __ATOMIC_ACQUIRE) || r->op == BLK_OP_FLUSH)
        return true;
    r->waiter.cancel = r->cancel;
    r->waiter.write = change;
    r->waiter.bytes = length;
    for (unsigned hop = 0; node && hop < BLK_HOPS && enter(node, offset, length); hop++) {
        uint64_t below = offset;
        BlkNode *child = NULL;

        admitted = pass(r, node);
        if (admitted && !(change && r->op == BLK_OP_DISCARD && !node->unmap))
            child = child_below(node, change, &below, length);
        blk_inflight_shared_end(&node->inflight, offset, length);
        node = child;
        offset = below;
    }
    return admitted;
}
