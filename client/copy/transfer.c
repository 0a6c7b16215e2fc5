/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* client/copy/transfer.c: see transfer.h.
 *
 * A connection's thread reads. It also stores what has arrived, unless there are writers: then it
 * hands the slot to them, and is woken when one is done with it.
 *
 * Locks: TcTransfer.lock guards the plan's cursor, what is released, the first error and the
 * writers' queue; it is held for neither I/O nor callbacks. Counters and the state of a slot are
 * atomic. */
#include "client/copy/transfer.h"
#include "client/copy/release.h"
#include "util/range.h"
#include <errno.h>
#include <poll.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

/* A piece to zero is as long as a stop may have to wait for. */
#define ZERO_SIZE (UINT64_C(256) << 20)
/* NBD's lengths have 32 bits. */
#define TRIM_SIZE (UINT64_C(1) << 30)

typedef enum { SLOT_FREE, SLOT_IN_FLIGHT, SLOT_ARRIVED, SLOT_QUEUED, SLOT_STORED } SlotState;

/* As long as a connection more is waited for. */
enum { CONNECT_MS = 2000 };

/* One request. */
typedef struct Slot {
    atomic_int state;
    int error;   /* errno, once arrived */
    bool stored; /* it was not in vain */
    struct Worker *worker;
    struct Slot *next; /* in the writers' queue */
    TcStep step;
    TcWindow *window; /* that it is in; NULL: nothing is released */
    char *buf;
} Slot;

/* One connection and its thread. */
typedef struct Worker {
    TcTransfer *transfer;
    struct nbd_handle *nbd; /* borrowed from the source by the first, owned by the others */
    GThread *thread;
    Slot *slots;
    char *bufs;
    int wake_fd;    /* readable when a writer is done with a slot */
    unsigned busy;  /* requests in flight */
    int wait_ms;    /* for the limit of the rate; 0: not */
    TcStep delayed; /* what waits for it: length 0: nothing */
    TcWindow *delayed_in;
} Worker;

struct TcTransfer {
    TcSource *source;
    TcPlan *plan;
    TcSink *sink;
    const char *name; /* of the sink */
    TcTransferOptions options;
    unsigned connections, requests;
    uint64_t read_size;
    Worker *workers;
    int stop_fd; /* readable when all shall stop */
    atomic_bool stop;
    atomic_uint_fast64_t done, read, zeroed;
    GMutex lock;
    GError *error;
    TcRelease *release; /* NULL: nothing is released */
    GThread **writers;
    Slot *first, *last; /* that wait for a writer */
    GCond wait;         /* for that, or for all_read */
    bool all_read;
};

TcTransfer *tc_transfer_new(TcSource *source, TcPlan *plan, const TcTransferOptions *options)
{
    TcTransfer *t = g_new0(TcTransfer, 1);
    int64_t max = nbd_get_block_size(tc_source_handle(source), LIBNBD_SIZE_MAXIMUM);

    t->source = source;
    t->plan = plan;
    t->options = *options;
    t->requests = options->requests;
    t->connections = nbd_can_multi_conn(tc_source_handle(source)) == 1 ? options->connections : 1;
    t->workers = g_new0(Worker, t->connections);
    t->read_size = TC_READ_SIZE;
    while (max > 0 && t->read_size > (uint64_t)max)
        t->read_size /= 2;
    t->stop_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    t->release = options->release ? tc_release_new() : NULL;
    g_mutex_init(&t->lock);
    g_cond_init(&t->wait);
    return t;
}

void tc_transfer_cancel(TcTransfer *t)
{
    uint64_t one = 1;

    atomic_store(&t->stop, true);
    if (write(t->stop_fd, &one, sizeof(one)) < 0)
        return; /* full: it is readable already */
}

/* Keeps the first error, with the meaning of @errnum if it is not 0, and stops everybody. The error
 * is made under the lock: GLib's bookkeeping of errors is nothing that thread sanitizers see. */
static void G_GNUC_PRINTF(3, 4) fail(TcTransfer *t, int errnum, const char *format, ...)
{
    va_list ap;

    va_start(ap, format);
    g_mutex_lock(&t->lock);
    if (!t->error) {
        g_autofree char *text = g_strdup_vprintf(format, ap);

        if (errnum)
            tm_error_set_errno(&t->error, errnum, "%s", text);
        else
            tm_error_set(&t->error, "%s", text);
    }
    g_mutex_unlock(&t->lock);
    va_end(ap);
    tc_transfer_cancel(t);
}

static void fail_at(TcTransfer *t, const char *doing, const char *name, const TcStep *step,
                    int errnum)
{
    fail(t, errnum, "%s %s at offset %" PRIu64, doing, name, step->offset);
}

static void fail_connection(Worker *w)
{
    g_autofree char *why = tc_nbd_error();

    fail(w->transfer, 0, "%s: connection lost: %s", tc_source_uri(w->transfer->source), why);
}

static bool next_step(TcTransfer *t, TcStep *step, TcWindow **window)
{
    bool any;

    g_mutex_lock(&t->lock);
    any = tc_plan_next(t->plan, t->read_size, ZERO_SIZE, step);
    *window = any && t->release && step->action == TC_DO_READ
                  ? tc_release_take(t->release, step->offset, step->length)
                  : NULL;
    g_mutex_unlock(&t->lock);
    return any;
}

static void zero_step(TcTransfer *t, const TcStep *step)
{
    int r = t->sink->zero(t->sink, step->offset, step->length, step->action == TC_DO_HOLE);

    if (r < 0) {
        fail_at(t, "zeroing", t->name, step, -r);
        return;
    }
    atomic_fetch_add(&t->zeroed, step->length);
    atomic_fetch_add(&t->done, step->length);
}

static bool all_zero(const char *buf, size_t length)
{
    return !length || (!buf[0] && !memcmp(buf, buf + 1, length - 1));
}

/* Stores what has arrived. The server may not have said, or not have known, that it is zero. */
static bool store_slot(TcTransfer *t, const Slot *slot)
{
    const TcStep *step = &slot->step;
    bool zero = all_zero(slot->buf, step->length);
    int r = 0;

    if (!zero)
        r = t->sink->write(t->sink, step->offset, slot->buf, step->length);
    else if (!t->options.fresh)
        r = t->sink->zero(t->sink, step->offset, step->length, true);
    if (r < 0) {
        fail_at(t, "writing", t->name, step, -r);
        return false;
    }
    if (zero)
        atomic_fetch_add(&t->zeroed, step->length);
    atomic_fetch_add(&t->read, step->length);
    atomic_fetch_add(&t->done, step->length);
    return true;
}

static int released(void *opaque, int *error)
{
    Worker *w = opaque;

    w->busy--;
    return 1;
}

/* The server need not keep what has been stored any more. That it can't forget it costs it space
 * only. */
static void release(Worker *w, const Slot *slot)
{
    TcTransfer *t = w->transfer;
    uint64_t offset, left, n;
    bool any;

    g_mutex_lock(&t->lock);
    any = tc_release_back(t->release, slot->window, slot->step.length, &offset, &left);
    g_mutex_unlock(&t->lock);
    for (; any && left; offset += n, left -= n) {
        nbd_completion_callback callback = { .callback = released, .user_data = w };

        n = tm_min(left, TRIM_SIZE);
        if (nbd_aio_trim(w->nbd, n, offset, callback, 0) != -1)
            w->busy++;
    }
}

static int read_arrived(void *opaque, int *error)
{
    Slot *slot = opaque;

    slot->error = *error;
    atomic_store(&slot->state, SLOT_ARRIVED);
    return 1; /* retires the command */
}

/* The next piece to read; what is to be zeroed before it, is. False: none, or
 * none yet (wait_ms). */
static bool next_read(Worker *w, TcStep *step, TcWindow **window)
{
    TcTransfer *t = w->transfer;

    *step = w->delayed;
    *window = w->delayed_in;
    while (!step->length) {
        if (atomic_load(&t->stop) || !next_step(t, step, window))
            return false;
        if (step->action != TC_DO_READ) {
            zero_step(t, step);
            step->length = 0;
        }
    }
    w->wait_ms = tc_rate_take(t->options.rate, step->length);
    w->delayed = *step;
    w->delayed_in = *window;
    if (w->wait_ms)
        return false;
    w->delayed.length = 0;
    return true;
}

/* Starts as many reads as there are free slots; false when there is nothing left to start. */
static bool start_reads(Worker *w)
{
    TcTransfer *t = w->transfer;

    w->wait_ms = 0;
    for (unsigned i = 0; i < t->requests && !atomic_load(&t->stop); i++) {
        Slot *slot = &w->slots[i];
        nbd_completion_callback callback = { .callback = read_arrived, .user_data = slot };

        if (atomic_load(&slot->state) != SLOT_FREE)
            continue;
        if (!next_read(w, &slot->step, &slot->window))
            return w->wait_ms > 0;
        atomic_store(&slot->state, SLOT_IN_FLIGHT);
        w->busy++;
        if (nbd_aio_pread(w->nbd, slot->buf, slot->step.length, slot->step.offset, callback, 0) ==
            -1) {
            fail_connection(w);
            return false;
        }
    }
    return true;
}

/* ---- the writers */

static void queue_slot(TcTransfer *t, Slot *slot)
{
    slot->next = NULL;
    atomic_store(&slot->state, SLOT_QUEUED);
    g_mutex_lock(&t->lock);
    if (t->first)
        t->last->next = slot;
    else
        t->first = slot;
    t->last = slot;
    g_cond_signal(&t->wait);
    g_mutex_unlock(&t->lock);
}

/* NULL: there will be none any more. */
static Slot *take_queued(TcTransfer *t)
{
    Slot *slot;

    g_mutex_lock(&t->lock);
    while (!t->first && !t->all_read)
        g_cond_wait(&t->wait, &t->lock);
    slot = t->first;
    if (slot)
        t->first = slot->next;
    g_mutex_unlock(&t->lock);
    return slot;
}

static void *writer(void *opaque)
{
    TcTransfer *t = opaque;
    Slot *slot;

    while ((slot = take_queued(t))) {
        slot->stored = !atomic_load(&t->stop) && store_slot(t, slot);
        atomic_store(&slot->state, SLOT_STORED);
        eventfd_write(slot->worker->wake_fd, 1);
    }
    return NULL;
}

static void start_writers(TcTransfer *t)
{
    t->writers = g_new0(GThread *, t->options.writers);
    for (unsigned i = 0; i < t->options.writers; i++)
        t->writers[i] = g_thread_new("write", writer, t);
}

static void join_writers(TcTransfer *t)
{
    g_mutex_lock(&t->lock);
    t->all_read = true;
    g_cond_broadcast(&t->wait);
    g_mutex_unlock(&t->lock);
    for (unsigned i = 0; i < t->options.writers; i++)
        g_thread_join(t->writers[i]);
    g_free(t->writers);
}

/* ---- a connection */

static void take_arrived(Worker *w, Slot *slot)
{
    TcTransfer *t = w->transfer;

    if (slot->error)
        fail_at(t, "reading", tc_source_uri(t->source), &slot->step, slot->error);
    if (t->options.writers && !slot->error) {
        queue_slot(t, slot);
        return;
    }
    slot->stored = !slot->error && !atomic_load(&t->stop) && store_slot(t, slot);
    atomic_store(&slot->state, SLOT_STORED);
}

static void finish_reads(Worker *w)
{
    for (unsigned i = 0; i < w->transfer->requests; i++) {
        Slot *slot = &w->slots[i];

        if (atomic_load(&slot->state) == SLOT_ARRIVED)
            take_arrived(w, slot);
        if (atomic_load(&slot->state) != SLOT_STORED)
            continue;
        if (slot->stored && slot->window)
            release(w, slot);
        atomic_store(&slot->state, SLOT_FREE);
        w->busy--;
    }
}

static bool is_lost(const Worker *w)
{
    return nbd_aio_is_dead(w->nbd) == 1 || nbd_aio_is_closed(w->nbd) == 1;
}

/* Waits for the connection and moves it on. */
static void turn(Worker *w)
{
    unsigned direction = nbd_aio_get_direction(w->nbd);
    struct pollfd fds[] = {
        { .fd = nbd_aio_get_fd(w->nbd) },
        { .fd = w->transfer->stop_fd, .events = POLLIN },
        { .fd = w->wake_fd, .events = POLLIN },
    };
    eventfd_t times;
    int r = 0;

    /* Issuing a command may meet the end of the connection without saying so; then there is no
     * descriptor left to wait for. */
    if (is_lost(w)) {
        fail_connection(w);
        return;
    }
    if (direction & LIBNBD_AIO_DIRECTION_READ)
        fds[0].events |= POLLIN;
    if (direction & LIBNBD_AIO_DIRECTION_WRITE)
        fds[0].events |= POLLOUT;
    if (poll(fds, G_N_ELEMENTS(fds), w->wait_ms ? w->wait_ms : -1) < 0)
        return; /* EINTR */
    if (fds[2].revents)
        eventfd_read(w->wake_fd, &times);
    if (direction & LIBNBD_AIO_DIRECTION_READ && fds[0].revents & (POLLIN | POLLHUP | POLLERR))
        r = nbd_aio_notify_read(w->nbd);
    else if (direction & LIBNBD_AIO_DIRECTION_WRITE && fds[0].revents & (POLLOUT | POLLERR))
        r = nbd_aio_notify_write(w->nbd);
    if (r == -1 || is_lost(w))
        fail_connection(w);
}

static void *work(void *opaque)
{
    Worker *w = opaque;
    TcTransfer *t = w->transfer;

    while (!atomic_load(&t->stop)) {
        if (!start_reads(w) && !w->busy)
            break;
        if (w->busy || w->wait_ms)
            turn(w);
        finish_reads(w);
    }
    return NULL;
}

static bool prepare_worker(TcTransfer *t, Worker *w, GError **error)
{
    w->transfer = t;
    /* A read-only export may accept NBD_CMD_TRIM all the same. */
    if (t->options.release)
        nbd_set_strict_mode(w->nbd, 0);
    w->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    w->slots = g_new0(Slot, t->requests);
    w->bufs = g_try_malloc_n(t->requests, t->read_size);
    if (!w->bufs)
        return tm_error_set(error, "out of memory for %u buffers of %" PRIu64 " bytes", t->requests,
                            t->read_size);
    for (unsigned i = 0; i < t->requests; i++)
        w->slots[i] = (Slot){ .worker = w, .buf = w->bufs + i * t->read_size };
    return true;
}

/* Connects as many workers as are wanted, useful and to be had; at least the first is. */
static void connect_workers(TcTransfer *t)
{
    uint64_t pieces = tc_plan_bytes(t->plan) / t->read_size + 1;
    unsigned wanted = (unsigned)tm_min(t->connections, pieces), have = 1;

    t->workers[0].nbd = tc_source_handle(t->source);
    while (have < wanted && !atomic_load(&t->stop)) {
        t->workers[have].nbd = tc_source_another(t->source, CONNECT_MS);
        if (!t->workers[have].nbd)
            break;
        have++;
    }
    t->connections = have;
}

bool tc_transfer_run(TcTransfer *t, TcSink *sink, const char *name, GError **error)
{
    t->sink = sink;
    t->name = name;
    connect_workers(t);
    if (t->options.writers <= t->connections)
        t->options.writers = 0;
    t->requests = MAX(t->requests, 2 * t->options.writers / t->connections);
    for (unsigned i = 0; i < t->connections; i++)
        if (!prepare_worker(t, &t->workers[i], error))
            return false;
    start_writers(t);
    for (unsigned i = 0; i < t->connections; i++)
        t->workers[i].thread = g_thread_new("copy", work, &t->workers[i]);
    for (unsigned i = 0; i < t->connections; i++)
        g_thread_join(t->workers[i].thread);
    join_writers(t);
    if (t->error) {
        g_propagate_error(error, g_steal_pointer(&t->error));
        return false;
    }
    return !atomic_load(&t->stop);
}

void tc_transfer_counts(TcTransfer *t, TcTransferCounts *counts)
{
    counts->done = atomic_load(&t->done);
    counts->read = atomic_load(&t->read);
    counts->zeroed = atomic_load(&t->zeroed);
}

unsigned tc_transfer_connections(const TcTransfer *t)
{
    return t->connections;
}

void tc_transfer_free(TcTransfer *t)
{
    if (!t)
        return;
    for (unsigned i = 0; i < t->connections; i++) {
        Worker *w = &t->workers[i];

        /* Reads may still be in flight: nothing arrives any more once nobody turns the handle.
         * The first worker's belongs to the source, which may only be freed from now on. */
        if (i && w->nbd && nbd_aio_is_ready(w->nbd) == 1 && !nbd_aio_in_flight(w->nbd))
            nbd_shutdown(w->nbd, 0);
        if (i)
            nbd_close(w->nbd);
        if (w->slots)
            close(w->wake_fd);
        g_free(w->slots);
        g_free(w->bufs);
    }
    g_free(t->workers);
    close(t->stop_fd);
    tc_release_free(t->release);
    g_clear_error(&t->error);
    g_mutex_clear(&t->lock);
    g_cond_clear(&t->wait);
    g_free(t);
}
