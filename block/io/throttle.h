/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* block/io/throttle.h: requests wait until the limits of a throttle group let them go.
 *
 * A throttle node is a member of a group, an object that several nodes may share
 * (object/throttle_group.c). Reads and writes, discards and zeroing being writes, queue up at their
 * member while the group's limits are used up. The members that have some waiting take turns, one
 * request each, so that none starves another.
 *
 * Who waits: a request that reaches throttle nodes as a whole, through filters and windows only, is
 * put off before it begins: it holds no stripe, keeps no thread, and a timer of the engine lets it
 * go (blk_throttle_admit()). What comes through a format, or from a job, waits on the worker or job
 * that does it (blk_throttle_pass()). The main thread never waits. Nobody waits while the graph is
 * drained, or when the request has been canceled; what goes then counts all the same. */
#pragma once
#include "block/node.h"
#include "object/objects.h"

typedef struct BlkThrottle BlkThrottle; /* a member of a group */
typedef struct BlkRequest BlkRequest;

/* Makes a member of @group (a reference is taken to it). Errors: no timer. Main thread. */
BlkThrottle *blk_throttle_new(BlkGraph *graph, TmObject *group, GError **error);
/* Lets all that waits go. Main thread; NULL is fine. */
void blk_throttle_free(BlkThrottle *throttle);

/* One that waits. */
typedef struct BlkWaiter BlkWaiter;
struct BlkWaiter {
    void (*go)(BlkWaiter *waiter); /* on an engine thread or the main one */
    const bool *cancel;            /* atomic, or NULL */
    bool write;
    uint64_t bytes;
    /* the throttle's */
    BlkWaiter *next;
};

/* Whether one may go; else @waiter is queued, and go() will be called. It counts then. Any thread;
 * the caller is in flight on the throttle's node. */
bool blk_throttle_try(BlkThrottle *throttle, BlkWaiter *waiter);

/* What this thread does from now on is for a request that has passed these throttles (borrowed,
 * ends with NULL), and may be canceled. NULL: no more. */
bool blk_throttle_passed(BlkThrottle *const *passed, const BlkThrottle *throttle);
void blk_throttle_carry(BlkThrottle *const *passed, const bool *cancel);
/* For the blocking lane, before it takes stripes of @node: waits if that is a throttle's that was
 * not passed. */
void blk_throttle_pass(BlkNode *node, uint64_t offset, uint64_t length, bool write);
