/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* tests/vhost/guest.c: the memory of a guest, and its driver of the virtio block device.
 *
 * Source: Virtio 1.2, "Split Virtqueues", "Block Device". */
#include "tests/vhost/client.h"

#include <err.h>
#include <linux/virtio_blk.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <unistd.h>

#define PAGE       4096u
#define HEADER     16u
#define CHAIN_ENDS 2u /* descriptors of a chain, but for those of its data */
#define QUEUE_MIN  64u
#define QUEUE_MAX  1024u

/* ---- memory */

static void *allocate(size_t n, size_t size)
{
    void *p = calloc(n, size);

    if (!p)
        err(2, "memory");
    return p;
}

/* Of the memory of the guest; before it is there, counts only. */
static void *reserve(VcGuest *guest, uint64_t size, uint64_t align)
{
    uint64_t at = (guest->reserved + align - 1) & ~(align - 1);

    guest->reserved = at + size;
    return guest->host ? guest->host + at : NULL;
}

static unsigned descriptors(const VcOptions *o)
{
    return CHAIN_ENDS + (o->block + o->segment - 1) / o->segment;
}

static void lay_out_request(VcGuest *guest, VcQueue *q, VcRequest *r, unsigned index)
{
    const VcOptions *o = &guest->options;

    r->header = reserve(guest, HEADER, 64);
    r->status = reserve(guest, 1, 1);
    r->data = reserve(guest, o->block, PAGE);
    r->head = (uint16_t)(o->indirect ? index : index * descriptors(o));
    r->first = o->indirect ? 0 : r->head;
    r->chain = o->indirect ? reserve(guest, descriptors(o) * sizeof(*r->chain), 16) : q->desc;
}

static void lay_out(VcGuest *guest)
{
    guest->reserved = 0;
    for (unsigned i = 0; i < guest->options.queues; i++) {
        VcQueue *q = &guest->queues[i];

        q->desc = reserve(guest, sizeof(*q->desc) * q->size, PAGE);
        q->avail = reserve(guest, 6 + UINT64_C(2) * q->size, PAGE);
        q->used = reserve(guest, 6 + UINT64_C(8) * q->size, PAGE);
        for (unsigned j = 0; j < guest->options.depth; j++)
            lay_out_request(guest, q, &q->requests[j], j);
    }
}

static void queue_init(VcGuest *guest, VcQueue *q)
{
    const VcOptions *o = &guest->options;
    unsigned needed = o->indirect ? o->depth : o->depth * descriptors(o), size = QUEUE_MIN;

    while (size < needed)
        size *= 2;
    if (size > QUEUE_MAX)
        errx(2, "%u descriptors are too many for a queue", needed);
    q->guest = guest;
    q->index = (unsigned)(q - guest->queues);
    q->size = (uint16_t)size;
    q->kick = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    q->call = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (q->kick < 0 || q->call < 0)
        err(2, "eventfd");
    q->requests = allocate(o->depth, sizeof(*q->requests));
    q->in_flight = allocate(size, sizeof(VcRequest *));
    for (unsigned i = 0; i < o->depth; i++)
        vc_release(q, &q->requests[i]);
}

VcGuest *vc_guest_new(const VcOptions *options)
{
    VcGuest *guest = allocate(1, sizeof(*guest) + options->queues * sizeof(VcQueue));

    guest->options = *options;
    guest->socket = guest->inflight = -1;
    for (unsigned i = 0; i < options->queues; i++)
        queue_init(guest, &guest->queues[i]);
    lay_out(guest);
    guest->size = (guest->reserved + PAGE - 1) & ~(uint64_t)(PAGE - 1);
    guest->memory = memfd_create("guest", MFD_CLOEXEC);
    if (guest->memory < 0 || ftruncate(guest->memory, (off_t)guest->size) < 0)
        err(2, "the guest's memory");
    guest->host = mmap(NULL, guest->size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE,
                       guest->memory, 0);
    if (guest->host == MAP_FAILED)
        err(2, "the guest's memory");
    lay_out(guest);
    return guest;
}

void vc_guest_free(VcGuest *guest)
{
    vc_disconnect(guest);
    for (unsigned i = 0; i < guest->options.queues; i++) {
        close(guest->queues[i].kick);
        close(guest->queues[i].call);
        free(guest->queues[i].requests);
        free(guest->queues[i].in_flight);
    }
    munmap(guest->host, guest->size);
    close(guest->memory);
    if (guest->inflight >= 0)
        close(guest->inflight);
    free(guest);
}

/* ---- requests */

VcRequest *vc_take(VcQueue *q)
{
    VcRequest *r = q->free;

    if (r)
        q->free = r->next;
    return r;
}

void vc_release(VcQueue *q, VcRequest *r)
{
    r->next = q->free;
    q->free = r;
}

/* An address in the guest, which has its memory at 0. */
static uint64_t address(const VcGuest *guest, const void *at)
{
    return (uint64_t)((const uint8_t *)at - guest->host);
}

static void add(const VcGuest *guest, VcRequest *r, unsigned i, const void *at, uint32_t length,
                uint16_t flags)
{
    uint16_t next = (uint16_t)(r->first + i + 1);

    r->chain[r->first + i] = (struct vring_desc){ address(guest, at), length, flags, next };
}

/* How many descriptors it has. */
static unsigned fill_chain(VcGuest *guest, VcRequest *r, uint32_t length, bool written)
{
    uint16_t flags = VRING_DESC_F_NEXT | (written ? VRING_DESC_F_WRITE : 0);
    uint32_t segment = guest->options.segment;
    unsigned n = 0;

    add(guest, r, n++, r->header, HEADER, VRING_DESC_F_NEXT);
    for (uint32_t at = 0; at < length; at += segment)
        add(guest, r, n++, r->data + at, length - at < segment ? length - at : segment, flags);
    add(guest, r, n++, r->status, 1, VRING_DESC_F_WRITE);
    return n;
}

static void enqueue(VcQueue *q, VcRequest *r, uint64_t sector, uint32_t data, bool written)
{
    VcGuest *guest = q->guest;
    struct virtio_blk_outhdr header = { .type = r->type, .sector = sector };
    unsigned n;

    memcpy(r->header, &header, sizeof(header));
    *r->status = 0xff;
    n = fill_chain(guest, r, data, written);
    if (guest->options.indirect)
        q->desc[r->head] =
            (struct vring_desc){ address(guest, r->chain), n * (uint32_t)sizeof(*r->chain),
                                 VRING_DESC_F_INDIRECT, 0 };
    __atomic_store_n(&q->avail->ring[q->added++ & (q->size - 1)], r->head, __ATOMIC_RELAXED);
    q->in_flight[r->head] = r;
}

void vc_submit(VcQueue *q, VcRequest *r, uint32_t type, uint64_t offset, uint32_t length)
{
    r->type = type;
    r->offset = offset;
    r->length = length;
    enqueue(q, r, offset / VC_SECTOR, length, type != VIRTIO_BLK_T_OUT);
}

void vc_submit_range(VcQueue *q, VcRequest *r, uint32_t type, uint64_t offset, uint32_t length)
{
    struct virtio_blk_discard_write_zeroes range = { .sector = offset / VC_SECTOR,
                                                     .num_sectors = length / VC_SECTOR };

    memcpy(r->data, &range, sizeof(range));
    r->type = type;
    r->offset = offset;
    r->length = length;
    enqueue(q, r, 0, sizeof(range), false);
}

/* ---- the queue */

static bool has_event_idx(const VcQueue *q)
{
    return __atomic_load_n(&q->guest->event_idx, __ATOMIC_RELAXED);
}

void vc_publish(VcQueue *q)
{
    uint16_t before = q->published, event;

    if (q->added == before)
        return;
    __atomic_store_n(&q->avail->idx, q->added, __ATOMIC_RELEASE);
    q->published = q->added;
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
    event = __atomic_load_n((uint16_t *)&q->used->ring[q->size], __ATOMIC_RELAXED);
    if (has_event_idx(q)
            ? !vring_need_event(event, q->added, before)
            : __atomic_load_n(&q->used->flags, __ATOMIC_RELAXED) & VRING_USED_F_NO_NOTIFY)
        return;
    q->kicks++;
    eventfd_write(q->kick, 1);
}

static bool any_done(const VcQueue *q)
{
    return __atomic_load_n(&q->used->idx, __ATOMIC_ACQUIRE) != q->seen;
}

VcRequest *vc_reap(VcQueue *q)
{
    VcRequest *r;
    uint32_t id;

    if (!any_done(q))
        return NULL;
    id = __atomic_load_n(&q->used->ring[q->seen & (q->size - 1)].id, __ATOMIC_RELAXED);
    r = id < q->size ? q->in_flight[id] : NULL;
    if (!r)
        errx(1, "queue %u: descriptor %u is used, and was not in flight", q->index, id);
    q->in_flight[id] = NULL;
    q->seen++;
    return r;
}

/* Whether the server is to call. */
static void want_calls(VcQueue *q, bool wanted)
{
    if (has_event_idx(q))
        __atomic_store_n(&q->avail->ring[q->size], wanted ? q->seen : (uint16_t)(q->seen - 1),
                         __ATOMIC_RELAXED);
    else
        __atomic_store_n(&q->avail->flags, wanted ? 0 : VRING_AVAIL_F_NO_INTERRUPT,
                         __ATOMIC_RELAXED);
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
}

void vc_wait(VcQueue *q, int ms)
{
    struct pollfd p = { .fd = q->call, .events = POLLIN };
    eventfd_t count;

    want_calls(q, true);
    if (!any_done(q)) {
        q->waits++;
        poll(&p, 1, ms);
        eventfd_read(q->call, &count);
    }
    want_calls(q, false);
}
