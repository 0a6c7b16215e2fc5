/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* block/engine/gate.c: see the header. The state is a count with a bit, as in
 * block/engine/quiesce.c. */
#include "block/engine/gate.h"

#include "util/sync.h"

#define CLOSED 0x80000000u

void blk_gate_leave(BlkGate *gate)
{
    if (__atomic_sub_fetch(&gate->state, 1, __ATOMIC_ACQ_REL) != CLOSED)
        return;
    TM_GUARD(&gate->lock);
    pthread_cond_broadcast(&gate->empty);
}

unsigned blk_gate_inside(const BlkGate *gate)
{
    return __atomic_load_n(&gate->state, __ATOMIC_RELAXED) & ~CLOSED;
}

static bool enter_or_park(BlkGate *gate, BlkWork *work)
{
    TM_GUARD(&gate->lock);

    if (!gate->closed) {
        __atomic_add_fetch(&gate->state, 1, __ATOMIC_ACQ_REL);
        return true;
    }
    work->next = NULL;
    *gate->last = work;
    gate->last = &work->next;
    return false;
}

bool blk_gate_enter(BlkGate *gate, BlkWork *work)
{
    if (!(__atomic_add_fetch(&gate->state, 1, __ATOMIC_ACQ_REL) & CLOSED))
        return true;
    blk_gate_leave(gate);
    return enter_or_park(gate, work);
}

void blk_gate_close(BlkGate *gate)
{
    TM_GUARD(&gate->lock);

    gate->closed++;
    __atomic_fetch_or(&gate->state, CLOSED, __ATOMIC_ACQ_REL);
}

void blk_gate_wait(BlkGate *gate)
{
    TM_GUARD(&gate->lock);

    while (__atomic_load_n(&gate->state, __ATOMIC_ACQUIRE) != CLOSED)
        pthread_cond_wait(&gate->empty, &gate->lock);
}

BlkWork *blk_gate_open(BlkGate *gate)
{
    BlkWork *parked;
    uint32_t n = 0;
    TM_GUARD(&gate->lock);

    if (--gate->closed)
        return NULL;
    parked = gate->first;
    for (BlkWork *w = parked; w; w = w->next)
        n++;
    gate->first = NULL;
    gate->last = &gate->first;
    __atomic_add_fetch(&gate->state, n, __ATOMIC_ACQ_REL);
    __atomic_fetch_and(&gate->state, ~CLOSED, __ATOMIC_RELEASE);
    return parked;
}

void blk_gate_init(BlkGate *gate)
{
    *gate = (BlkGate){ .state = 0 };
    gate->last = &gate->first;
    pthread_mutex_init(&gate->lock, NULL);
    pthread_cond_init(&gate->empty, NULL);
}

void blk_gate_destroy(BlkGate *gate)
{
    pthread_cond_destroy(&gate->empty);
    pthread_mutex_destroy(&gate->lock);
}
