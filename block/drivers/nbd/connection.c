/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* block/drivers/nbd/connection.c: one connection to a server, and the thread that it has.
 *
 * The thread connects, receives, completes commands, and when the connection is lost begins again,
 * after a pause that grows; somebody who wants it cuts the pause short. Commands are sent by the
 * threads that have them; the thread goes on where a socket is full.
 *
 * Invariants:
 *  - x->lock is held around every call of libnbd with a handle that others can see, so what libnbd
 *    calls back is under it and only notes the result: commands complete afterwards, on the thread,
 *    with no lock held;
 *  - a command is in exactly one of the lists, in_flight and finished, until done() is called;
 *  - when a handle is closed, nothing reads or writes a command's buffer any more, and only then
 *    what was under way is given back. */
#include "block/drivers/nbd/nbd.h"
#include "util/error.h"
#include "util/range.h"
#include "util/sync.h"

#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#define ATTEMPT_US (10 * G_USEC_PER_SEC) /* for connecting and negotiating, once */
/* While somebody waits for requests (blk_host_awaited()), without a byte of an answer. */
#define SILENCE_US (20 * G_USEC_PER_SEC)
#define LOOK_US    G_USEC_PER_SEC /* how often that is looked for */
/* Between attempts: however much it is wanted; at first; after many. */
#define PAUSE_LEAST (G_USEC_PER_SEC / 50)
#define PAUSE_MIN   (G_USEC_PER_SEC / 10)
#define PAUSE_MAX   (10 * G_USEC_PER_SEC)

struct BlkNbdConnection {
    BlkNbd *disk;   /* borrowed */
    unsigned index; /* of the disk's */
    pthread_t thread;
    int wake;               /* an eventfd */
    bool ending, wanted;    /* atomic */
    unsigned load;          /* atomic; commands under way or finished */
    bool shut_down;         /* the thread's: the server is about to end */
    int64_t heard;          /* the thread's: of the server, or nobody waited for it */
    int64_t up_since;       /* the thread's */
    pthread_mutex_t lock;   /* guards all below */
    struct nbd_handle *nbd; /* while it is up; else NULL */
    BlkNbdCommand *in_flight, *finished;
};

/* ---- lists */

static void list_add(BlkNbdCommand **list, BlkNbdCommand *c)
{
    c->next = *list;
    c->link = list;
    if (c->next)
        c->next->link = &c->next;
    *list = c;
}

static void list_remove(BlkNbdCommand *c)
{
    *c->link = c->next;
    if (c->next)
        c->next->link = c->link;
}

/* All of @list, which is empty then. x->lock. */
static BlkNbdCommand *list_take(BlkNbdCommand **list)
{
    BlkNbdCommand *all = *list;

    *list = NULL;
    return all;
}

static void complete(BlkNbdConnection *x, BlkNbdCommand *list, bool lost)
{
    while (list) {
        BlkNbdCommand *c = list;

        list = c->next;
        __atomic_sub_fetch(&x->load, 1, __ATOMIC_RELAXED);
        /* A server that is shutting down carries out nothing more; another one may come. */
        if (c->error == ESHUTDOWN)
            x->shut_down = lost = true;
        /* What failed when the connection broke has no answer of the server's. */
        c->done(c, lost && c->error ? -ENOTCONN : -c->error);
    }
}

/* ---- waking */

static void wake(BlkNbdConnection *x)
{
    const uint64_t one = 1;
    ssize_t n = write(x->wake, &one, sizeof(one));

    (void)n; /* full: it is awake */
}

static void woken(BlkNbdConnection *x)
{
    uint64_t count;
    ssize_t n = read(x->wake, &count, sizeof(count));

    (void)n; /* there was nothing */
}

void blk_nbd_connection_wake(BlkNbdConnection *x, bool wanted)
{
    if (wanted && __atomic_exchange_n(&x->wanted, true, __ATOMIC_RELAXED))
        return; /* it knows */
    wake(x);
}

static bool ending(const BlkNbdConnection *x)
{
    return __atomic_load_n(&x->ending, __ATOMIC_ACQUIRE);
}

/* When what is under way is to be broken off; INT64_MAX: never. */
static int64_t end_at(const BlkNbdConnection *x)
{
    int64_t at = __atomic_load_n(&x->disk->end_at, __ATOMIC_ACQUIRE);

    return at ? at : INT64_MAX;
}

/* ---- sending */

static int note_result(void *opaque, int *error)
{
    BlkNbdCommand *c = opaque;

    c->error = *error;
    list_remove(c);
    list_add(&c->on->finished, c);
    return 1; /* libnbd forgets it */
}

/* One as the server gives it. */
static void add_extent(BlkNbdExtents *e, uint64_t length, uint64_t flags)
{
    uint64_t left = e->most - e->length;

    if (!length)
        e->bad = true;
    if (e->bad || e->end || !left || e->x.count == e->x.max)
        return;
    length = tm_min(length, left);
    if (length % e->min) { /* nothing behind it can be right */
        e->end = true;
        flags = length > e->min ? flags : 0;
        length = tm_max(tm_align_down(length, e->min), e->min);
    }
    e->x.list[e->x.count++] = (TmExtent){ length, flags };
    e->length += length;
}

#if LIBNBD_HAVE_NBD_AIO_BLOCK_STATUS_64
static int note_extents_64(void *opaque, const char *context, uint64_t offset, nbd_extent *entries,
                           size_t n, int *error)
{
    BlkNbdExtents *e = ((BlkNbdCommand *)opaque)->extents;

    e->bad |= e->got || !n;
    e->got = true;
    for (size_t i = 0; i < n && !e->bad; i++)
        add_extent(e, entries[i].length, entries[i].flags);
    return 0;
}
#else
/* Extents of one context, in pairs of 32 bits. */
static int note_extents(void *opaque, const char *context, uint64_t offset, uint32_t *entries,
                        size_t n, int *error)
{
    BlkNbdExtents *e = ((BlkNbdCommand *)opaque)->extents;

    if (e->got || n < 2 || n % 2)
        e->bad = true;
    e->got = true;
    for (size_t i = 0; i + 1 < n && !e->bad; i += 2)
        add_extent(e, entries[i], entries[i + 1]);
    return 0;
}
#endif

static int64_t ask_status(struct nbd_handle *nbd, BlkNbdCommand *c, nbd_completion_callback done)
{
    BlkNbdExtents *e = c->extents;

    /* A part of the answer may have come by a connection that broke. */
    e->got = e->end = e->bad = false;
    e->x.count = e->length = 0;
#if LIBNBD_HAVE_NBD_AIO_BLOCK_STATUS_64
    nbd_extent64_callback extents = { .callback = note_extents_64, .user_data = c };

    return nbd_aio_block_status_64(nbd, c->length, c->offset, extents, done, c->flags);
#else
    nbd_extent_callback extents = { .callback = note_extents, .user_data = c };

    return nbd_aio_block_status(nbd, c->length, c->offset, extents, done, c->flags);
#endif
}

static int64_t issue(struct nbd_handle *nbd, BlkNbdCommand *c)
{
    nbd_completion_callback done = { .callback = note_result, .user_data = c };

    switch (c->op) {
    case BLK_NBD_READ:
        return nbd_aio_pread(nbd, c->buf, c->length, c->offset, done, c->flags);
    case BLK_NBD_WRITE:
        return nbd_aio_pwrite(nbd, c->buf, c->length, c->offset, done, c->flags);
    case BLK_NBD_FLUSH:
        return nbd_aio_flush(nbd, done, c->flags);
    case BLK_NBD_TRIM:
        return nbd_aio_trim(nbd, c->length, c->offset, done, c->flags);
    case BLK_NBD_ZERO:
        return nbd_aio_zero(nbd, c->length, c->offset, done, c->flags);
    case BLK_NBD_CACHE:
        return nbd_aio_cache(nbd, c->length, c->offset, done, c->flags);
    case BLK_NBD_STATUS:
        return ask_status(nbd, c, done);
    }
    return -1;
}

int blk_nbd_connection_send(BlkNbdConnection *x, BlkNbdCommand *c)
{
    bool needed; /* by what the thread has to do */
    TM_GUARD(&x->lock);

    if (!x->nbd || nbd_aio_is_dead(x->nbd) || nbd_aio_is_closed(x->nbd))
        return -ENOTCONN;
    c->on = x;
    c->error = 0;
    list_add(&x->in_flight, c);
    if (issue(x->nbd, c) < 0) {
        list_remove(c);
        return -(nbd_get_errno() ? nbd_get_errno() : EIO);
    }
    __atomic_add_fetch(&x->load, 1, __ATOMIC_RELAXED);
    needed = x->finished || nbd_aio_get_direction(x->nbd) != LIBNBD_AIO_DIRECTION_READ;
    if (needed)
        wake(x);
    return 0;
}

unsigned blk_nbd_connection_load(const BlkNbdConnection *x)
{
    return __atomic_load_n(&x->load, __ATOMIC_RELAXED);
}

/* ---- the thread */

static bool over(struct nbd_handle *nbd)
{
    return nbd_aio_is_dead(nbd) || nbd_aio_is_closed(nbd);
}

/* Waits for the socket of @nbd, for being woken, or until @until. Returns the events of the
 * socket. */
static short wait_socket(BlkNbdConnection *x, int fd, unsigned direction, int64_t until)
{
    struct pollfd p[2] = { { .fd = x->wake, .events = POLLIN }, { .fd = fd } };
    int64_t left = until == INT64_MAX ? -1 : MAX(until - g_get_monotonic_time(), 0);

    if (direction & LIBNBD_AIO_DIRECTION_READ)
        p[1].events |= POLLIN;
    if (direction & LIBNBD_AIO_DIRECTION_WRITE)
        p[1].events |= POLLOUT;
    if (poll(p, fd < 0 ? 1 : 2, left < 0 ? -1 : (int)MIN(left / 1000 + 1, 60000)) <= 0)
        return 0;
    if (p[0].revents)
        woken(x);
    return fd < 0 ? 0 : p[1].revents;
}

/* One at a time: the first may change what is waited for. false: that broke it. */
static bool notify(struct nbd_handle *nbd, short events)
{
    unsigned direction = nbd_aio_get_direction(nbd);

    if (events & (POLLIN | POLLHUP | POLLERR) && direction & LIBNBD_AIO_DIRECTION_READ)
        return nbd_aio_notify_read(nbd) == 0;
    if (events & (POLLOUT | POLLHUP | POLLERR) && direction & LIBNBD_AIO_DIRECTION_WRITE)
        return nbd_aio_notify_write(nbd) == 0;
    return true;
}

/* A peer that is gone without a word is noticed. Where it isn't TCP this fails. */
static void keep_alive(int fd)
{
    const int on = 1, idle = 30, interval = 10, count = 3;

    setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof(on));
    setsockopt(fd, IPPROTO_TCP, TCP_KEEPIDLE, &idle, sizeof(idle));
    setsockopt(fd, IPPROTO_TCP, TCP_KEEPINTVL, &interval, sizeof(interval));
    setsockopt(fd, IPPROTO_TCP, TCP_KEEPCNT, &count, sizeof(count));
}

static bool give_up(BlkNbdConnection *x, GError **error)
{
    return tm_error_set(error, "Failed to connect to '%s': %s",
                        blk_nbd_server_text(x->disk->server),
                        ending(x) ? "the node is being closed" : "no answer in time");
}

/* Nobody else sees the handle yet. */
static bool negotiate(BlkNbdConnection *x, struct nbd_handle *nbd, int64_t until, GError **error)
{
    while (nbd_aio_is_ready(nbd) != 1) {
        if (over(nbd)) {
            blk_nbd_server_failed(x->disk->server, error);
            return false;
        }
        if (ending(x) || g_get_monotonic_time() >= until)
            return give_up(x, error);
        notify(nbd, wait_socket(x, nbd_aio_get_fd(nbd), nbd_aio_get_direction(nbd), until));
    }
    if (blk_nbd_server_probed(x->disk->server))
        keep_alive(nbd_aio_get_fd(nbd));
    return true;
}

/* Connects, and lets others see it. */
static bool attempt(BlkNbdConnection *x, GError **error)
{
    int64_t until = MIN(g_get_monotonic_time() + ATTEMPT_US, end_at(x));
    struct nbd_handle *nbd = blk_nbd_server_connect(x->disk->server, error);
    BlkNbdFacts facts;

    if (!nbd || !negotiate(x, nbd, until, error) ||
        !blk_nbd_facts(nbd, x->disk->server, &facts, error) ||
        !blk_nbd_accepts(x->disk, &facts, error)) {
        nbd_close(nbd);
        return false;
    }
    pthread_mutex_lock(&x->lock);
    x->nbd = nbd;
    pthread_mutex_unlock(&x->lock);
    blk_nbd_is_up(x->disk, x->index);
    return true;
}

/* Whether it is no use to wait for the server. *until: when to look again. x->lock. */
static bool is_overdue(BlkNbdConnection *x, int64_t *until)
{
    int64_t now = g_get_monotonic_time(), *silent_at = &x->disk->silent_at;

    if (!x->in_flight || !blk_host_awaited(x->disk->node))
        x->heard = now;
    *until = MIN(end_at(x), now + LOOK_US); /* who sends does not wake the thread */
    if (now >= x->heard + SILENCE_US)
        __atomic_store_n(silent_at, now, __ATOMIC_RELEASE);
    return __atomic_load_n(silent_at, __ATOMIC_ACQUIRE) >= x->up_since ||
           (x->in_flight && now >= end_at(x));
}

/* What is there to do: to complete those commands, *lost: after the connection was; to wait for
 * what *direction says, up to *until; or, if false is returned, to end. */
static bool next_work(BlkNbdConnection *x, BlkNbdCommand **finished, bool *lost,
                      unsigned *direction, int64_t *until)
{
    bool overdue;
    TM_GUARD(&x->lock);

    *lost = over(x->nbd);
    *direction = nbd_aio_get_direction(x->nbd);
    *finished = list_take(&x->finished);
    overdue = is_overdue(x, until);
    return *finished || !(*lost || x->shut_down || ending(x) || overdue);
}

/* Until the connection is lost, or is to end. Returns why. */
static char *serve(BlkNbdConnection *x)
{
    int fd = nbd_aio_get_fd(x->nbd); /* only this thread takes the handle away */
    BlkNbdCommand *finished;
    unsigned direction;
    char *why = NULL;
    int64_t until;
    bool lost;

    x->shut_down = false;
    x->heard = x->up_since = g_get_monotonic_time();
    while (next_work(x, &finished, &lost, &direction, &until)) {
        short events;

        complete(x, finished, lost);
        if (finished)
            continue;
        events = wait_socket(x, fd, direction, until);
        if (events & POLLIN)
            x->heard = g_get_monotonic_time();
        pthread_mutex_lock(&x->lock);
        if (!notify(x->nbd, events) && !why)
            why = g_strdup(nbd_get_error());
        pthread_mutex_unlock(&x->lock);
    }
    if (why)
        return why;
    return g_strdup(x->shut_down ? "the server is shutting down"
                    : lost       ? "the server closed it"
                                 : "no answer in time");
}

/* Closes it, and gives back what was under way. */
static void hang_up(BlkNbdConnection *x, const char *why)
{
    struct nbd_handle *nbd;
    BlkNbdCommand *list;

    blk_nbd_is_down(x->disk, x->index, why);
    pthread_mutex_lock(&x->lock);
    nbd = x->nbd;
    x->nbd = NULL;
    pthread_mutex_unlock(&x->lock);
    if (!over(nbd))
        nbd_aio_disconnect(nbd, 0); /* as far as the socket takes it */
    nbd_close(nbd);
    list = list_take(&x->in_flight);
    for (BlkNbdCommand *c = list; c; c = c->next)
        c->error = ENOTCONN;
    complete(x, list, true);
    complete(x, list_take(&x->finished), true);
}

/* For @pause, or until somebody wants the connection; but a while in any case. */
static void rest(BlkNbdConnection *x, int64_t pause)
{
    int64_t now = g_get_monotonic_time();

    for (int64_t least = now + PAUSE_LEAST; !ending(x) && now < least;) {
        wait_socket(x, -1, 0, least);
        now = g_get_monotonic_time();
    }
    for (int64_t until = now + pause; !ending(x) && now < until;) {
        if (__atomic_load_n(&x->wanted, __ATOMIC_RELAXED))
            break;
        wait_socket(x, -1, 0, until);
        now = g_get_monotonic_time();
    }
}

static void *run(void *opaque)
{
    BlkNbdConnection *x = opaque;
    int64_t pause = PAUSE_MIN, since;

    while (!ending(x)) {
        g_autoptr(GError) error = NULL;
        g_autofree char *why = NULL;

        __atomic_store_n(&x->wanted, false, __ATOMIC_RELAXED);
        since = g_get_monotonic_time();
        if (attempt(x, &error)) {
            why = serve(x);
            hang_up(x, why);
            if (g_get_monotonic_time() - since > PAUSE_MAX / 10) { /* it was of use */
                pause = PAUSE_MIN;
                continue;
            }
        } else {
            blk_nbd_attempt_failed(x->disk, error->message);
        }
        rest(x, pause);
        pause = MIN(2 * pause, PAUSE_MAX);
    }
    return NULL;
}

/* ---- life */

BlkNbdConnection *blk_nbd_connection_new(BlkNbd *disk, unsigned index)
{
    BlkNbdConnection *x = g_new0(BlkNbdConnection, 1);

    x->disk = disk;
    x->index = index;
    pthread_mutex_init(&x->lock, NULL);
    x->wake = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (x->wake >= 0 && pthread_create(&x->thread, NULL, run, x) == 0)
        return x;
    if (x->wake >= 0)
        close(x->wake);
    pthread_mutex_destroy(&x->lock);
    g_free(x);
    return NULL;
}

void blk_nbd_connection_end(BlkNbdConnection *x)
{
    __atomic_store_n(&x->ending, true, __ATOMIC_RELEASE);
    wake(x);
}

void blk_nbd_connection_free(BlkNbdConnection *x)
{
    pthread_join(x->thread, NULL);
    close(x->wake);
    pthread_mutex_destroy(&x->lock);
    g_free(x);
}
