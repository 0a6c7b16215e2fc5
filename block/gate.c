/* block/gate.c: see the header.
 *
 * The state is a count with a bit, as a stripe of block/inflight.c is. That a thread is inside is
 * known to the thread alone. */
#include "block/gate.h"

#include "util/sync.h"

#define CLOSED 0x80000000u

static _Thread_local unsigned depth;

/* Whether it is closed, and not by this thread. Under the lock. */
static bool shut(const BlkGate *gate)
{
    return __atomic_load_n(&gate->state, __ATOMIC_ACQUIRE) & CLOSED &&
           !pthread_equal(gate->closer, pthread_self());
}

static void leave(BlkGate *gate)
{
    if (__atomic_sub_fetch(&gate->state, 1, __ATOMIC_ACQ_REL) != CLOSED)
        return;
    TM_GUARD(&gate->lock);
    pthread_cond_broadcast(&gate->changed);
}

/* Whoever comes while it is closed. */
static void wait_outside(BlkGate *gate)
{
    TM_GUARD(&gate->lock);

    while (shut(gate))
        pthread_cond_wait(&gate->changed, &gate->lock);
    /* Under the lock, so that nobody closes it in between. */
    __atomic_add_fetch(&gate->state, 1, __ATOMIC_ACQ_REL);
}

void blk_gate_enter(BlkGate *gate)
{
    if (__atomic_add_fetch(&gate->state, 1, __ATOMIC_ACQ_REL) & CLOSED) {
        leave(gate);
        wait_outside(gate);
    }
    depth++;
}

void blk_gate_leave(BlkGate *gate)
{
    depth--;
    leave(gate);
}

bool blk_gate_inside(void)
{
    return depth > 0;
}

void blk_gate_close(BlkGate *gate)
{
    TM_GUARD(&gate->lock);

    gate->closer = pthread_self();
    __atomic_fetch_or(&gate->state, CLOSED, __ATOMIC_ACQ_REL);
    while (__atomic_load_n(&gate->state, __ATOMIC_ACQUIRE) != CLOSED)
        pthread_cond_wait(&gate->changed, &gate->lock);
}

void blk_gate_open(BlkGate *gate)
{
    TM_GUARD(&gate->lock);

    __atomic_fetch_and(&gate->state, ~CLOSED, __ATOMIC_RELEASE);
    pthread_cond_broadcast(&gate->changed);
}

void blk_gate_init(BlkGate *gate)
{
    gate->state = 0;
    pthread_mutex_init(&gate->lock, NULL);
    pthread_cond_init(&gate->changed, NULL);
}

void blk_gate_destroy(BlkGate *gate)
{
    pthread_cond_destroy(&gate->changed);
    pthread_mutex_destroy(&gate->lock);
}
