/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* server/vhost/inflight.c: the memory in which a queue notes what is in flight. It is the client's
 * as well, which gives it to the next daemon when this one has ended in any way.
 *
 * Source: vhost-user.rst, "Inflight I/O tracking". The order of the stores is the specification's:
 * a process may end between any two of them. */
#include "server/vhost/vhost_internal.h"

#include "util/range.h"
#include "util/sync.h"

#include <stdlib.h>

#define VERSION 1

uint64_t vhost_inflight_stride(uint16_t queue_size)
{
    return tm_align_up(sizeof(VhostQueueState) + queue_size * sizeof(VhostDescState), 64);
}

/* The process ended after the ring had said that some are used, and before they were left. */
static void settle_last_batch(VhostQueue *q, uint16_t used_idx)
{
    VhostQueueState *state = q->state;
    uint16_t n = (uint16_t)(used_idx - vhost_load16(&state->used_idx));
    uint16_t head = vhost_load16(&state->last_batch_head);

    for (uint16_t i = 0; i < MIN(n, q->size) && head < q->size; i++) {
        uint16_t next = vhost_load16(&state->desc[head].next);

        __atomic_store_n(&state->desc[head].inflight, 0, __ATOMIC_RELEASE);
        head = next;
    }
    vhost_store16(&state->used_idx, used_idx);
}

typedef struct Entered {
    uint64_t counter;
    uint16_t head;
} Entered;

static int by_counter(const void *a, const void *b)
{
    const Entered *x = a, *y = b;

    return x->counter < y->counter ? -1 : x->counter > y->counter;
}

/* In the order in which they were entered. */
static void find_again(VhostQueue *q)
{
    g_autofree Entered *all = g_new(Entered, q->size);
    unsigned n = 0;

    for (uint16_t i = 0; i < q->size; i++) {
        if (__atomic_load_n(&q->state->desc[i].inflight, __ATOMIC_RELAXED))
            all[n++] =
                (Entered){ __atomic_load_n(&q->state->desc[i].counter, __ATOMIC_RELAXED), i };
    }
    qsort(all, n, sizeof(*all), by_counter);
    g_free(q->again);
    q->again = g_new(uint16_t, n + 1);
    q->n_again = n;
    for (unsigned i = 0; i < n; i++)
        q->again[i] = all[n - 1 - i].head; /* taken from the end */
    q->counter = n ? all[n - 1].counter + 1 : 0;
}

void vhost_inflight_begin(VhostQueue *q)
{
    VhostSession *s = q->session;
    VhostQueueState *state;

    q->state = NULL;
    q->n_again = 0;
    if (!s->inflight_at || q->index >= s->inflight_queues || s->inflight_size < q->size)
        return;
    q->state = state =
        (VhostQueueState *)(s->inflight_at + q->index * vhost_inflight_stride(s->inflight_size));
    if (vhost_load16(&state->version) != VERSION || vhost_load16(&state->desc_num) != q->size) {
        memset(state, 0, sizeof(*state) + q->size * sizeof(VhostDescState));
        vhost_store16(&state->desc_num, q->size);
        vhost_store16(&state->used_idx, q->used_idx);
        vhost_store16(&state->version, VERSION);
        return;
    }
    if (vhost_load16(&state->used_idx) != q->used_idx)
        settle_last_batch(q, q->used_idx);
    find_again(q);
    q->last_avail = (uint16_t)(q->used_idx + q->n_again);
}

void vhost_inflight_enter(VhostQueue *q, uint16_t head)
{
    VhostDescState *desc;

    if (!q->state)
        return;
    /* Whoever pushed the last request with this head has left it by then. */
    TM_GUARD(&q->lock);
    desc = &q->state->desc[head];
    __atomic_store_n(&desc->counter, q->counter++, __ATOMIC_RELAXED);
    __atomic_store_n(&desc->inflight, 1, __ATOMIC_RELEASE);
}

void vhost_inflight_leaving(VhostQueue *q, uint16_t head)
{
    if (!q->state)
        return;
    vhost_store16(&q->state->desc[head].next, vhost_load16(&q->state->last_batch_head));
    __atomic_store_n(&q->state->last_batch_head, head, __ATOMIC_RELEASE);
}

void vhost_inflight_left(VhostQueue *q, VhostRequest *const *r, unsigned n)
{
    if (!q->state)
        return;
    for (unsigned i = 0; i < n; i++)
        __atomic_store_n(&q->state->desc[r[i]->head].inflight, 0, __ATOMIC_RELEASE);
    __atomic_store_n(&q->state->used_idx, q->used_idx, __ATOMIC_RELEASE);
}
