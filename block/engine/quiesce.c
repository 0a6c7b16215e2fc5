/* block/engine/quiesce.c: see the header.
 *
 * The state is a count with a bit, as a stripe of block/engine/inflight.c is. That a thread is
 * inside is known to the thread alone. */
#include "block/engine/quiesce.h"

#include "util/sync.h"

#define CLOSED 0x80000000u

static _Thread_local unsigned depth;

/* Whether it is closed, and not by this thread. Under the lock. */
static bool shut(const BlkQuiesce *gate)
{
    return __atomic_load_n(&gate->state, __ATOMIC_ACQUIRE) & CLOSED &&
           !pthread_equal(gate->closer, pthread_self());
}

static void leave(BlkQuiesce *gate)
{
    if (__atomic_sub_fetch(&gate->state, 1, __ATOMIC_ACQ_REL) != CLOSED)
        return;
    TM_GUARD(&gate->lock);
    pthread_cond_broadcast(&gate->changed);
}

/* Whoever comes while it is closed. */
static void wait_outside(BlkQuiesce *gate)
{
    TM_GUARD(&gate->lock);

    while (shut(gate))
        pthread_cond_wait(&gate->changed, &gate->lock);
    /* Under the lock, so that nobody closes it in between. */
    __atomic_add_fetch(&gate->state, 1, __ATOMIC_ACQ_REL);
}

void blk_quiesce_enter(BlkQuiesce *gate)
{
    if (__atomic_add_fetch(&gate->state, 1, __ATOMIC_ACQ_REL) & CLOSED) {
        leave(gate);
        wait_outside(gate);
    }
    depth++;
}

void blk_quiesce_leave(BlkQuiesce *gate)
{
    depth--;
    leave(gate);
}

bool blk_quiesce_inside(void)
{
    return depth > 0;
}

void blk_quiesce_close(BlkQuiesce *gate)
{
    TM_GUARD(&gate->lock);

    gate->closer = pthread_self();
    __atomic_fetch_or(&gate->state, CLOSED, __ATOMIC_ACQ_REL);
    while (__atomic_load_n(&gate->state, __ATOMIC_ACQUIRE) != CLOSED)
        pthread_cond_wait(&gate->changed, &gate->lock);
}

void blk_quiesce_open(BlkQuiesce *gate)
{
    TM_GUARD(&gate->lock);

    __atomic_fetch_and(&gate->state, ~CLOSED, __ATOMIC_RELEASE);
    pthread_cond_broadcast(&gate->changed);
}

void blk_quiesce_init(BlkQuiesce *gate)
{
    gate->state = 0;
    pthread_mutex_init(&gate->lock, NULL);
    pthread_cond_init(&gate->changed, NULL);
}

void blk_quiesce_destroy(BlkQuiesce *gate)
{
    pthread_cond_destroy(&gate->changed);
    pthread_mutex_destroy(&gate->lock);
}
