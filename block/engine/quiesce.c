/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* block/engine/quiesce.c: see the header.
 *
 * The state is a count with a bit, as a stripe of block/engine/inflight.c is. That a thread is
 * inside is known to the thread alone. */
#include "block/engine/quiesce.h"

#include "util/sync.h"

#define CLOSED 0x80000000u

static _Thread_local unsigned depth;

/* Whether it is closed, and not by this thread. Under the lock. */
static bool shut(const BlkQuiesce *node)
{
    return __atomic_load_n(&node->state, __ATOMIC_ACQUIRE) & CLOSED &&
           !pthread_equal(node->closer, pthread_self());
}

static void leave(BlkQuiesce *node)
{
    if (__atomic_sub_fetch(&node->state, 1, __ATOMIC_ACQ_REL) != CLOSED)
        return;
    TM_GUARD(&node->lock);
    pthread_cond_broadcast(&node->changed);
}

/* Whoever comes while it is closed. */
static void wait_outside(BlkQuiesce *node)
{
    TM_GUARD(&node->lock);

    while (shut(node))
        pthread_cond_wait(&node->changed, &node->lock);
    /* Under the lock, so that nobody closes it in between. */
    __atomic_add_fetch(&node->state, 1, __ATOMIC_ACQ_REL);
}

void blk_quiesce_enter(BlkQuiesce *node)
{
    if (__atomic_add_fetch(&node->state, 1, __ATOMIC_ACQ_REL) & CLOSED) {
        leave(node);
        wait_outside(node);
    }
    depth++;
}

void blk_quiesce_leave(BlkQuiesce *node)
{
    depth--;
    leave(node);
}

bool blk_quiesce_inside(void)
{
    return depth > 0;
}

void blk_quiesce_close(BlkQuiesce *node)
{
    TM_GUARD(&node->lock);

    if (node->closed++)
        return;
    node->closer = pthread_self();
    __atomic_fetch_or(&node->state, CLOSED, __ATOMIC_ACQ_REL);
    while (__atomic_load_n(&node->state, __ATOMIC_ACQUIRE) != CLOSED)
        pthread_cond_wait(&node->changed, &node->lock);
}

void blk_quiesce_open(BlkQuiesce *node)
{
    TM_GUARD(&node->lock);

    if (--node->closed)
        return;
    __atomic_fetch_and(&node->state, ~CLOSED, __ATOMIC_RELEASE);
    pthread_cond_broadcast(&node->changed);
}

void blk_quiesce_init(BlkQuiesce *node)
{
    node->state = 0;
    node->closed = 0;
    pthread_mutex_init(&node->lock, NULL);
    pthread_cond_init(&node->changed, NULL);
}

void blk_quiesce_destroy(BlkQuiesce *node)
{
    pthread_cond_destroy(&node->changed);
    pthread_mutex_destroy(&node->lock);
}
