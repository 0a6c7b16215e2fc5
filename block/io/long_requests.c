/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* block/io/long_requests.c: see the header.
 *
 * Invariant: of a node's requests at most one, which has the turn, is queued for a worker or runs;
 * if none has it, none is waiting. */
#include "block/io/long_requests.h"

#include "block/io/request.h"
#include "block/node_internal.h"
#include "util/range.h"
#include "util/sync.h"

#include <errno.h>

#define PIECE_MIN ((uint64_t)64 << 20)
#define PIECE_US  20000 /* a piece is to take less */

static void run_piece(BlkWork *work);

bool blk_long_requests_wanted(const BlkRequest *r)
{
    return r->length > PIECE_MIN &&
           (r->op == BLK_OP_DISCARD || r->op == BLK_OP_WRITE_ZEROES || r->op == BLK_OP_CACHE);
}

/* ---- turns */

static bool given_up(const BlkRequest *r)
{
    return r->cancel && __atomic_load_n(r->cancel, __ATOMIC_RELAXED);
}

static void append(BlkLongRequests *x, BlkRequest *r)
{
    r->pieces.next = NULL;
    *x->last = r;
    x->last = &r->pieces.next;
}

/* Takes out those that were given up, in a list. */
static BlkRequest *take_given_up(BlkLongRequests *x)
{
    BlkRequest *taken = NULL;

    x->last = &x->first;
    for (BlkRequest *r = x->first, *next; r; r = next) {
        next = r->pieces.next;
        if (given_up(r)) {
            r->pieces.next = taken;
            taken = r;
        } else {
            *x->last = r;
            x->last = &r->pieces.next;
        }
    }
    *x->last = NULL;
    return taken;
}

static BlkRequest *pop(BlkLongRequests *x)
{
    BlkRequest *r = x->first;

    if (r)
        x->first = r->pieces.next;
    if (!x->first)
        x->last = &x->first;
    return r;
}

static void start(BlkRequest *r)
{
    r->work.run = run_piece;
    r->work.background = r->node->quota.background;
    blk_engine_work(blk_graph_engine(r->node->graph), &r->work);
}

/* Gives the turn to the next one. @again, or NULL, wants another one. */
static void pass_on(BlkLongRequests *x, BlkRequest *again)
{
    BlkRequest *next, *gone;

    pthread_mutex_lock(&x->lock);
    if (again)
        append(x, again);
    gone = take_given_up(x);
    next = pop(x);
    x->busy = next != NULL;
    pthread_mutex_unlock(&x->lock);
    if (next)
        start(next);
    while (gone) {
        BlkRequest *r = gone;

        gone = r->pieces.next;
        blk_request_done(r, -ESHUTDOWN);
    }
}

void blk_long_requests_add(BlkRequest *r)
{
    BlkLongRequests *x = &r->node->long_requests;
    bool first;

    r->pieces.done = 0;
    r->pieces.size = PIECE_MIN;
    pthread_mutex_lock(&x->lock);
    first = !x->busy;
    x->busy = true;
    if (!first)
        append(x, r);
    pthread_mutex_unlock(&x->lock);
    if (first)
        start(r);
}

/* ---- a piece */

static int run(BlkRequest *r, uint64_t offset, uint64_t length)
{
    uint32_t flags = r->flags & ~TIDEMARK_FUA; /* one flush at the end is enough */

    switch (r->op) {
    case BLK_OP_DISCARD:
        return blk_node_discard(r->node, offset, length, flags);
    case BLK_OP_WRITE_ZEROES:
        return blk_node_write_zeroes(r->node, offset, length, flags);
    default:
        return blk_node_cache(r->node, offset, length);
    }
}

/* The length of the next piece. It ends at a round offset, so that no block is split there. */
static uint64_t next_length(const BlkRequest *r)
{
    uint64_t left = r->length - r->pieces.done, at = r->offset + r->pieces.done;

    return left <= r->pieces.size ? left : tm_align_down(at + r->pieces.size, PIECE_MIN) - at;
}

static void adapt(BlkRequest *r, int64_t took)
{
    if (took < PIECE_US / 4 && r->pieces.size < TM_SIZE_MAX / 8)
        r->pieces.size *= 4;
    else if (took > PIECE_US)
        r->pieces.size = tm_max(r->pieces.size / 4, PIECE_MIN);
}

static void run_piece(BlkWork *work)
{
    BlkRequest *r = (BlkRequest *)((char *)work - offsetof(BlkRequest, work));
    BlkLongRequests *x = &r->node->long_requests;
    uint64_t length = next_length(r);
    int64_t began = g_get_monotonic_time();
    int ret;

    blk_throttle_carry(r->passed, r->cancel);
    ret = given_up(r) ? -ESHUTDOWN : run(r, r->offset + r->pieces.done, length);
    blk_throttle_carry(NULL, NULL);
    r->pieces.done += length;
    if (ret == 0 && r->pieces.done < r->length) {
        adapt(r, g_get_monotonic_time() - began);
        pass_on(x, r);
        return;
    }
    pass_on(x, NULL);
    if (ret == 0 && (r->flags & TIDEMARK_FUA))
        ret = blk_node_flush(r->node);
    blk_request_done(r, ret);
}
