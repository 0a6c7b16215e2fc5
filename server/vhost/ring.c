/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* server/vhost/ring.c: split virtqueues: chains of descriptors become parts of memory, and what is
 * done goes back in batches.
 *
 * Nothing in the rings is believed: an index is less than the size of its table, a chain is no
 * longer than the queue, an address is in the guest's memory. What is not so breaks the queue. (A
 * head that is in flight already, too: its request has one place.)
 *
 * Source: Virtio 1.2, "Split Virtqueues". */
#include "server/vhost/vhost_internal.h"

#include "util/sync.h"

#include <linux/virtio_ring.h>

/* At any alignment, read once. */
static VhostDesc load_desc(const uint8_t *at)
{
    typedef struct {
        uint64_t v;
    } __attribute__((packed, may_alias)) Word;
    const volatile Word *word = (const volatile Word *)at;
    uint64_t w[2] = { word[0].v, word[1].v };
    VhostDesc desc;

    memcpy(&desc, w, sizeof(desc));
    return desc;
}

static bool add_part(VhostRequest *r, uint8_t *at, uint64_t length, bool joins)
{
    struct iovec *last = r->n && joins ? &r->parts[r->n - 1] : NULL;

    if (last && (uint8_t *)last->iov_base + last->iov_len == at) {
        last->iov_len += length;
        return true;
    }
    if (r->n == VHOST_PARTS_MAX)
        return false;
    if (r->n == r->cap) {
        unsigned cap = MIN(r->cap * 4, VHOST_PARTS_MAX);
        struct iovec *more = g_try_new(struct iovec, cap);

        if (!more)
            return false;
        memcpy(more, r->parts, r->n * sizeof(*more));
        if (r->parts != r->few)
            g_free(r->parts);
        r->parts = more;
        r->cap = cap;
    }
    r->parts[r->n++] = (struct iovec){ at, length };
    return true;
}

static bool add_desc(VhostRequest *r, const VhostDesc *desc)
{
    const VhostMemory *memory = &r->queue->session->memory;
    bool write = desc->flags & VRING_DESC_F_WRITE;
    uint64_t left = desc->len, address = desc->addr;

    if (!write && r->n > r->n_out)
        return false; /* what is read comes first */
    while (left) {
        uint64_t length;
        uint8_t *at = vhost_memory_at(memory, address, &length);

        if (!at)
            return false;
        length = MIN(length, left);
        if (!add_part(r, at, length, r->n > (write ? r->n_out : 0)))
            return false;
        if (!write)
            r->n_out = r->n;
        address += length;
        left -= length;
    }
    return true;
}

/* The chain that begins at @i of a table of @n; an @inner one is that of an indirect descriptor,
 * which drivers make as long as the device permits, even if that is more than the queue has. */
static bool walk(VhostRequest *r, const uint8_t *table, unsigned n, unsigned i, bool inner)
{
    VhostQueue *q = r->queue;

    for (unsigned seen = 0; seen < MIN(n, VHOST_PARTS_MAX); seen++) {
        VhostDesc desc;

        if (i >= n)
            return false;
        desc = load_desc(table + i * sizeof(desc));
        if (desc.flags & VRING_DESC_F_INDIRECT) {
            uint64_t length;
            uint8_t *at = vhost_memory_at(&q->session->memory, desc.addr, &length);

            return !inner && VHOST_HAS(q->session, VIRTIO_RING_F_INDIRECT_DESC) && at &&
                   !(desc.flags & VRING_DESC_F_NEXT) && desc.len && desc.len <= length &&
                   desc.len % sizeof(desc) == 0 &&
                   walk(r, at, desc.len / (unsigned)sizeof(desc), 0, true);
        }
        if (!add_desc(r, &desc))
            return false;
        if (!(desc.flags & VRING_DESC_F_NEXT))
            return true;
        i = desc.next;
    }
    return false;
}

VhostRequest *vhost_ring_take(VhostQueue *q, uint16_t head, bool *broken)
{
    VhostRequest *r = head < q->size ? &q->requests[head] : NULL;

    *broken = true;
    if (!r || __atomic_load_n(&r->busy, __ATOMIC_ACQUIRE))
        return NULL;
    VHOST_TAKEN(q->session);
    r->n = r->n_out = 0;
    if (!r->parts) {
        r->parts = r->few;
        r->cap = G_N_ELEMENTS(r->few);
    }
    if (!walk(r, (const uint8_t *)q->desc, q->size, head, false))
        return NULL;
    r->busy = true;
    *broken = false;
    return r;
}

bool vhost_ring_any(const VhostQueue *q)
{
    return q->n_again || __atomic_load_n(&q->avail->idx, __ATOMIC_ACQUIRE) != q->last_avail;
}

VhostRequest *vhost_ring_pop(VhostQueue *q, bool *broken)
{
    uint16_t n, head;
    VhostRequest *r;

    *broken = false;
    if (q->n_again)
        return vhost_ring_take(q, q->again[--q->n_again], broken);
    n = (uint16_t)(__atomic_load_n(&q->avail->idx, __ATOMIC_ACQUIRE) - q->last_avail);
    if (!n)
        return NULL;
    *broken = n > q->size;
    if (*broken)
        return NULL;
    head = vhost_load16(&q->avail->ring[q->last_avail & (q->size - 1)]);
    r = vhost_ring_take(q, head, broken);
    if (!r)
        return NULL;
    vhost_inflight_enter(q, head);
    q->last_avail++;
    return r;
}

/* Under the lock, after the index was stored. */
static bool wants_call(VhostQueue *q, uint16_t before)
{
    uint16_t event;

    __atomic_thread_fence(__ATOMIC_SEQ_CST);
    if (!VHOST_HAS(q->session, VIRTIO_RING_F_EVENT_IDX))
        return !(vhost_load16(&q->avail->flags) & VRING_AVAIL_F_NO_INTERRUPT);
    event = vhost_load16(&q->avail->ring[q->size]);
    return (uint16_t)(q->used_idx - event - 1) < (uint16_t)(q->used_idx - before);
}

void vhost_ring_push(VhostQueue *q, VhostRequest *const *r, unsigned n)
{
    uint16_t before;
    bool call;

    VHOST_USED(q->session);
    pthread_mutex_lock(&q->lock);
    before = q->used_idx;
    for (unsigned i = 0; i < n; i++) {
        unsigned at = (uint16_t)(before + i) & (q->size - 1);

        __atomic_store_n(&q->used->ring[at].id, r[i]->head, __ATOMIC_RELAXED);
        __atomic_store_n(&q->used->ring[at].len, r[i]->written, __ATOMIC_RELAXED);
        vhost_inflight_leaving(q, r[i]->head);
        __atomic_store_n(&r[i]->busy, false, __ATOMIC_RELEASE); /* before the client may use it */
    }
    q->used_idx = (uint16_t)(before + n);
    __atomic_store_n(&q->used->idx, q->used_idx, __ATOMIC_RELEASE);
    vhost_inflight_left(q, r, n);
    call = wants_call(q, before);
    pthread_mutex_unlock(&q->lock);
    if (call && q->call && !vhost_event_signal(q->call))
        vhost_session_fail(q->session, "queue %u can't be notified", q->index);
}

void vhost_ring_kicks(VhostQueue *q, bool wanted)
{
    if (VHOST_HAS(q->session, VIRTIO_RING_F_EVENT_IDX)) {
        if (wanted)
            vhost_store16(&q->used->ring[q->size], q->last_avail);
    } else {
        vhost_store16(&q->used->flags, wanted ? 0 : VRING_USED_F_NO_NOTIFY);
    }
    if (wanted)
        __atomic_thread_fence(__ATOMIC_SEQ_CST);
}
