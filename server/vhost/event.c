/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* server/vhost/event.c: the eventfds by which a client is notified.
 *
 * A write to an eventfd waits while its counter is at the maximum. The client controls both the
 * counter and O_NONBLOCK, and could stop a loop that way. The kernel's own signals never wait, so
 * it signals: when a request of a ring of ours completes, one that does nothing. That costs what
 * the write does. Where io_uring is not available, an empty read through the older asynchronous
 * I/O has the same effect, a little slower. */
#include "server/vhost/vhost_internal.h"

#include "util/sync.h"

#include <errno.h>
#include <liburing.h>
#include <linux/aio_abi.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#define AIO_EVENTS 64

struct VhostEvent {
    pthread_mutex_t lock; /* guards the rest; a leaf */
    bool uses_uring;
    struct io_uring uring;
    int fd; /* without io_uring: the eventfd */
    int empty;
    aio_context_t aio;
};

/* Takes @fd. */
static bool begin_uring(VhostEvent *event, int fd)
{
    if (io_uring_queue_init(1, &event->uring, 0) < 0)
        return false;
    io_uring_ring_dontfork(&event->uring);
    if (io_uring_register_eventfd(&event->uring, fd) < 0) {
        io_uring_queue_exit(&event->uring);
        return false;
    }
    close(fd); /* the ring has it */
    event->uses_uring = true;
    return true;
}

/* Takes @fd. */
static bool begin_aio(VhostEvent *event, int fd)
{
    event->empty = memfd_create("tidemark-empty", MFD_CLOEXEC);
    if (event->empty < 0)
        return false;
    if (syscall(SYS_io_setup, AIO_EVENTS, &event->aio) < 0) {
        close(event->empty);
        return false;
    }
    event->fd = fd;
    return true;
}

VhostEvent *vhost_event_new(BlkEngine *engine, int fd)
{
    VhostEvent *event;
    bool uring = g_str_equal(blk_engine_io_name(engine), "io_uring");

    if (!vhost_is_eventfd(fd)) {
        vhost_close(fd);
        return NULL;
    }
    event = g_new0(VhostEvent, 1);
    pthread_mutex_init(&event->lock, NULL);
    if ((uring && begin_uring(event, fd)) || begin_aio(event, fd))
        return event;
    close(fd);
    pthread_mutex_destroy(&event->lock);
    g_free(event);
    return NULL;
}

static bool signal_uring(VhostEvent *event)
{
    struct io_uring_sqe *sqe = io_uring_get_sqe(&event->uring);
    int n;

    if (sqe) /* else one is there that the kernel did not take */
        io_uring_prep_nop(sqe);
    do
        n = io_uring_submit(&event->uring);
    while (n == -EINTR);
    io_uring_cq_advance(&event->uring, io_uring_cq_ready(&event->uring));
    return n > 0;
}

static bool signal_aio(VhostEvent *event)
{
    struct iocb iocb = { .aio_lio_opcode = IOCB_CMD_PREAD,
                         .aio_fildes = (uint32_t)event->empty,
                         .aio_flags = IOCB_FLAG_RESFD,
                         .aio_resfd = (uint32_t)event->fd };
    struct iocb *list[] = { &iocb };
    struct io_event done[AIO_EVENTS];
    struct timespec now = { 0 };

    if (syscall(SYS_io_submit, event->aio, 1, list) == 1)
        return true;
    /* It has no room for one more result. */
    return syscall(SYS_io_getevents, event->aio, 0, AIO_EVENTS, done, &now) > 0 &&
           syscall(SYS_io_submit, event->aio, 1, list) == 1;
}

bool vhost_event_signal(VhostEvent *event)
{
    TM_GUARD(&event->lock);

    return event->uses_uring ? signal_uring(event) : signal_aio(event);
}

void vhost_event_free(VhostEvent *event)
{
    if (!event)
        return;
    if (event->uses_uring) {
        io_uring_queue_exit(&event->uring);
    } else {
        syscall(SYS_io_destroy, event->aio);
        close(event->empty);
        close(event->fd);
    }
    pthread_mutex_destroy(&event->lock);
    g_free(event);
}
