/* block/engine/quiesce.h: who is looking at a node's driver without holding stripes
 * (block/engine/inflight.h).
 *
 * Questions about a node, its status for one, and flushes wait for no request; all they need is
 * that the driver's handle, the children and what is remembered of them stay. Whoever asks is
 * inside the gate meanwhile; whoever takes the handle away closes it first.
 *
 * A node is closed for that in two steps: its stripes are drained with blk_inflight_drain_gated(),
 * and, when all that is to be closed is drained, the gates are closed, parents first. Those who are
 * inside a gate go through such drains, so nobody inside waits for who waits for him; and those who
 * wait at a closed gate, a loop for example, have nothing in flight that the drains wait for.
 *
 * Threads: any; close and open the main thread, for which its own closed gates are open. */
#pragma once
#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

typedef struct BlkQuiesce {
    uint32_t state;       /* atomic: how many are inside | CLOSED */
    pthread_mutex_t lock; /* guards closer, and waiting for state; a leaf */
    pthread_cond_t changed;
    pthread_t closer; /* while it is closed */
} BlkQuiesce;

void blk_quiesce_init(BlkQuiesce *gate);
void blk_quiesce_destroy(BlkQuiesce *gate);

void blk_quiesce_enter(BlkQuiesce *gate); /* waits while it is closed; gates nest, parents first */
void blk_quiesce_leave(BlkQuiesce *gate);
bool blk_quiesce_inside(void); /* whether this thread is inside of any */

void blk_quiesce_close(BlkQuiesce *gate); /* waits until nobody is inside */
void blk_quiesce_open(BlkQuiesce *gate);
