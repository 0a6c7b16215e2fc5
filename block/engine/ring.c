/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* block/engine/ring.c: io_uring for what would wait for the medium.
 *
 * Submissions are collected under a lock and handed over by blk_ring_submit(), once a batch.
 * Completions arrive through an eventfd, which the engine watches; one thread at a time owns the
 * completion queue. */
#include "block/engine/engine_internal.h"

#include "util/error.h"
#include "util/sync.h"
#include "util/trace.h"

#include <errno.h>
#include <liburing.h>
#include <sys/eventfd.h>
#include <unistd.h>

#define ENTRIES 256
#define REAP    64

struct BlkRing {
    int event;            /* an eventfd */
    pthread_mutex_t lock; /* guards the submission queue and held; a leaf */
    unsigned held;        /* prepared, not yet handed to the kernel; read without the lock too */
    struct io_uring uring;
};

static void prepare(struct io_uring_sqe *sqe, BlkAio *aio)
{
    switch (aio->op) {
    case BLK_AIO_READ:
        if (aio->buf)
            io_uring_prep_read(sqe, aio->fd, aio->buf, (unsigned)aio->length, aio->offset);
        else
            io_uring_prep_readv(sqe, aio->fd, aio->iov, aio->n_iov, aio->offset);
        break;
    case BLK_AIO_WRITE:
        if (aio->buf)
            io_uring_prep_write(sqe, aio->fd, aio->buf, (unsigned)aio->length, aio->offset);
        else
            io_uring_prep_writev(sqe, aio->fd, aio->iov, aio->n_iov, aio->offset);
        break;
    }
    io_uring_sqe_set_data(sqe, aio);
}

/* Hands over what is held, or what the kernel takes of it: full of completions that nobody has
 * reaped yet (EBUSY), it takes none, and blk_ring_reap() tries again. */
static void submit_locked(BlkRing *ring)
{
    while (ring->held) {
        int n = io_uring_submit(&ring->uring);

        if (n > 0)
            __atomic_store_n(&ring->held, ring->held - MIN(ring->held, (unsigned)n),
                             __ATOMIC_RELAXED);
        else if (n == -EBUSY)
            return;
        else if (n != -EINTR && n != -EAGAIN)
            g_error("io_uring_submit: %s", tm_strerror(-n)); /* the ring itself is broken */
    }
}

bool blk_ring_add(BlkRing *ring, BlkAio *aio)
{
    TM_GUARD(&ring->lock);
    struct io_uring_sqe *sqe;

    if (aio->length > INT32_MAX)
        return false;
    sqe = io_uring_get_sqe(&ring->uring);
    if (!sqe) {
        submit_locked(ring);
        sqe = io_uring_get_sqe(&ring->uring);
        if (!sqe)
            return false;
    }
    prepare(sqe, aio);
    TM_TRACE(uring_submit, aio, aio->op == BLK_AIO_WRITE ? "write" : "read", aio->fd, aio->offset,
             aio->length);
    __atomic_store_n(&ring->held, ring->held + 1, __ATOMIC_RELAXED);
    return true;
}

void blk_ring_submit(BlkRing *ring)
{
    if (!__atomic_load_n(&ring->held, __ATOMIC_RELAXED))
        return;
    TM_GUARD(&ring->lock);
    submit_locked(ring);
}

int blk_ring_event(const BlkRing *ring)
{
    return ring->event;
}

void blk_ring_reap(BlkRing *ring)
{
    eventfd_t count;

    eventfd_read(ring->event, &count); /* before the queue is read, lest a wake-up be lost */
    for (;;) {
        struct io_uring_cqe *cqes[REAP];
        struct {
            BlkAio *aio;
            int result;
        } ready[REAP];
        unsigned n = io_uring_peek_batch_cqe(&ring->uring, cqes, REAP);

        if (!n) {
            blk_ring_submit(ring);
            return;
        }
        /* What the submitters wrote happened before: say so to the language, the kernel's way of
         * ordering it is not visible to it. */
        pthread_mutex_lock(&ring->lock);
        pthread_mutex_unlock(&ring->lock);
        for (unsigned i = 0; i < n; i++) {
            ready[i].aio = io_uring_cqe_get_data(cqes[i]);
            ready[i].result = cqes[i]->res;
        }
        io_uring_cq_advance(&ring->uring, n);
        for (unsigned i = 0; i < n; i++) {
            TM_TRACE(uring_complete, ready[i].aio, ready[i].result);
            ready[i].aio->done(ready[i].aio, ready[i].result);
        }
    }
}

BlkRing *blk_ring_new(GError **error)
{
    BlkRing *ring = g_new0(BlkRing, 1);
    int err;

    pthread_mutex_init(&ring->lock, NULL);
    err = io_uring_queue_init(ENTRIES, &ring->uring, IORING_SETUP_CLAMP);
    if (err < 0) {
        tm_error_set_errno(error, -err, "io_uring is not available here");
        g_free(ring);
        return NULL;
    }
    io_uring_ring_dontfork(&ring->uring);
    ring->event = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    err = ring->event < 0 ? -errno : io_uring_register_eventfd(&ring->uring, ring->event);
    if (err < 0) {
        tm_error_set_errno(error, -err, "io_uring cannot be used here");
        blk_ring_free(ring);
        return NULL;
    }
    return ring;
}

void blk_ring_free(BlkRing *ring)
{
    if (!ring)
        return;
    io_uring_queue_exit(&ring->uring);
    if (ring->event >= 0)
        close(ring->event);
    pthread_mutex_destroy(&ring->lock);
    g_free(ring);
}
