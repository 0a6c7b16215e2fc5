/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* block/engine/inflight.c: see the header.
 *
 * A stripe's word counts its shared holders; the top bit says that an exclusive holder has it or
 * waits for the count to reach zero. Whoever adds itself and finds the bit takes itself back. */
#include "block/engine/inflight.h"

#include "block/engine/quiesce.h"
#include "util/sync.h"

#define EXCLUSIVE    0x80000000u
#define REGION_SHIFT 20

/* The stripes of a range: @first and then @count - 1 more, in ring order; below, visited
 * ascending. */
typedef struct Span {
    unsigned first, count;
} Span;

static Span span_of(uint64_t offset, uint64_t length)
{
    uint64_t first = offset >> REGION_SHIFT;
    uint64_t last = (offset + (length ? length - 1 : 0)) >> REGION_SHIFT;

    if (last - first >= BLK_STRIPES - 1)
        return (Span){ 0, BLK_STRIPES };
    return (Span){ first % BLK_STRIPES, (unsigned)(last - first) + 1 };
}

/* Whether ascending index @i is in the span. */
static bool in_span(Span span, unsigned i)
{
    return (i - span.first) % BLK_STRIPES < span.count;
}

static void wake(BlkInflight *x)
{
    TM_GUARD(&x->lock);

    pthread_cond_broadcast(&x->changed);
}

static void leave(BlkInflight *x, unsigned i)
{
    if (__atomic_sub_fetch(&x->stripe[i].state, 1, __ATOMIC_ACQ_REL) == EXCLUSIVE)
        wake(x);
}

static bool try_enter(BlkInflight *x, unsigned i)
{
    if (!(__atomic_add_fetch(&x->stripe[i].state, 1, __ATOMIC_ACQ_REL) & EXCLUSIVE))
        return true;
    leave(x, i);
    return false;
}

bool blk_inflight_try_shared(BlkInflight *x, uint64_t offset, uint64_t length)
{
    Span span = span_of(offset, length);

    if (span.count == 1)
        return try_enter(x, span.first);
    for (unsigned i = 0; i < BLK_STRIPES; i++) {
        if (in_span(span, i) && !try_enter(x, i)) {
            while (i--) {
                if (in_span(span, i))
                    leave(x, i);
            }
            return false;
        }
    }
    return true;
}

/* Whether a drain does not keep the caller out. It holds as long as the drain does: for the thread
 * that drains, and for one inside of a node that it is going to close. Under the lock. */
static bool passes(const BlkInflight *x)
{
    return x->drained &&
           (pthread_equal(x->drainer, pthread_self()) || (x->quiesces && blk_quiesce_inside()));
}

/* Waits to hold a stripe shared; true: it is held. Under the lock. */
static bool pass_or_wait(BlkInflight *x, uint32_t *state)
{
    while (__atomic_load_n(state, __ATOMIC_ACQUIRE) & EXCLUSIVE) {
        if (passes(x)) {
            __atomic_add_fetch(state, 1, __ATOMIC_ACQ_REL);
            return true;
        }
        pthread_cond_wait(&x->changed, &x->lock);
    }
    return false;
}

static void waited_enough(BlkInflight *x)
{
    TM_GUARD(&x->lock);

    x->waiting--;
    if (x->first && --x->first == 0)
        pthread_cond_broadcast(&x->changed);
}

void blk_inflight_shared(BlkInflight *x, uint64_t offset, uint64_t length)
{
    Span span = span_of(offset, length);
    bool waited = false;

    for (unsigned i = 0; i < BLK_STRIPES; i++) {
        bool held = !in_span(span, i);

        while (!held && !try_enter(x, i)) {
            TM_GUARD(&x->lock);

            x->waiting += !waited;
            waited = true;
            held = pass_or_wait(x, &x->stripe[i].state);
        }
    }
    if (waited)
        waited_enough(x);
}

void blk_inflight_shared_end(BlkInflight *x, uint64_t offset, uint64_t length)
{
    Span span = span_of(offset, length);

    if (span.count == 1) {
        leave(x, span.first);
        return;
    }
    for (unsigned i = 0; i < BLK_STRIPES; i++) {
        if (in_span(span, i))
            leave(x, i);
    }
}

/* Under the lock. Who passes holds nothing: a drain holds every stripe, and so nobody else any. */
static void hold_exclusive(BlkInflight *x, Span span)
{
    while (x->first && !passes(x))
        pthread_cond_wait(&x->changed, &x->lock);
    for (unsigned i = 0; i < BLK_STRIPES; i++) {
        uint32_t *state = &x->stripe[i].state;

        if (!in_span(span, i))
            continue;
        while (__atomic_fetch_or(state, EXCLUSIVE, __ATOMIC_ACQ_REL) & EXCLUSIVE) {
            if (passes(x))
                return;
            pthread_cond_wait(&x->changed, &x->lock);
        }
        while (__atomic_load_n(state, __ATOMIC_ACQUIRE) != EXCLUSIVE)
            pthread_cond_wait(&x->changed, &x->lock);
    }
}

/* Under the lock. */
static void let_go_exclusive(BlkInflight *x, Span span)
{
    for (unsigned i = 0; i < BLK_STRIPES; i++) {
        if (in_span(span, i))
            __atomic_fetch_and(&x->stripe[i].state, ~EXCLUSIVE, __ATOMIC_RELEASE);
    }
    x->first = x->waiting;
    pthread_cond_broadcast(&x->changed);
}

void blk_inflight_exclusive(BlkInflight *x, uint64_t offset, uint64_t length)
{
    TM_GUARD(&x->lock);

    hold_exclusive(x, span_of(offset, length));
}

void blk_inflight_exclusive_end(BlkInflight *x, uint64_t offset, uint64_t length)
{
    TM_GUARD(&x->lock);

    if (!passes(x))
        let_go_exclusive(x, span_of(offset, length));
}

static void drain(BlkInflight *x, bool quiesces)
{
    if (x->drains)
        __atomic_add_fetch(x->drains, 1, __ATOMIC_RELEASE);
    TM_GUARD(&x->lock);

    hold_exclusive(x, (Span){ 0, BLK_STRIPES });
    if (x->drained++)
        return;
    x->drainer = pthread_self();
    x->quiesces = quiesces;
    if (quiesces)
        pthread_cond_broadcast(&x->changed); /* who came meanwhile may pass */
}

void blk_inflight_drain(BlkInflight *x)
{
    drain(x, false);
}

void blk_inflight_drain_to_quiesce(BlkInflight *x)
{
    drain(x, true);
}

void blk_inflight_drain_end(BlkInflight *x)
{
    TM_GUARD(&x->lock);

    if (--x->drained == 0)
        let_go_exclusive(x, (Span){ 0, BLK_STRIPES });
    if (x->drains)
        __atomic_sub_fetch(x->drains, 1, __ATOMIC_RELEASE);
}

void blk_inflight_init(BlkInflight *x, int *drains)
{
    x->drains = drains;
    for (unsigned i = 0; i < BLK_STRIPES; i++)
        x->stripe[i].state = 0;
    x->waiting = x->first = x->drained = 0;
    x->quiesces = false;
    pthread_mutex_init(&x->lock, NULL);
    pthread_cond_init(&x->changed, NULL);
}

void blk_inflight_destroy(BlkInflight *x)
{
    pthread_cond_destroy(&x->changed);
    pthread_mutex_destroy(&x->lock);
}
