/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* block/engine/quiesce.h: quiesces a node that threads use without holding stripes
 * (block/engine/inflight.h).
 *
 * Block status and flushes wait for no request. All they need is that the driver's handle, the
 * children and what is remembered of them stay. So a thread enters the node before it asks and
 * leaves it afterwards, and a thread that takes the handle away closes the node first.
 *
 * Quiescing takes two steps. The stripes of all nodes concerned are drained with
 * blk_inflight_drain_to_quiesce(). Then the nodes are closed, parents first. A thread inside of a
 * node passes such drains, so it never waits for a thread that waits for it. A thread that waits
 * at a closed node, a loop for example, has nothing in flight that the drains wait for.
 *
 * Threads: any; close and open the main thread, which may enter what it has closed itself. */
#pragma once
#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

typedef struct BlkQuiesce {
    uint32_t state;       /* atomic: how many are inside | CLOSED */
    pthread_mutex_t lock; /* guards closer, closed, and waiting for state; a leaf */
    pthread_cond_t changed;
    pthread_t closer; /* while it is closed */
    unsigned closed;  /* how often over, by the one who closes */
} BlkQuiesce;

void blk_quiesce_init(BlkQuiesce *node);
void blk_quiesce_destroy(BlkQuiesce *node);

void blk_quiesce_enter(BlkQuiesce *node); /* waits while it is closed; nests, parents first */
void blk_quiesce_leave(BlkQuiesce *node);
bool blk_quiesce_inside(void); /* whether this thread is inside of any */

void blk_quiesce_close(BlkQuiesce *node); /* waits until nobody is inside; nests */
void blk_quiesce_open(BlkQuiesce *node);
