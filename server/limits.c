/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* server/limits.c: what a server's clients may take, and the clock that says when they took too
 * long.
 *
 * The clock is a source of the engine, once a second, so that it goes on whatever the main thread
 * waits for. It reads what sessions count anyway: a session that neither received nor sent a byte
 * since the last time, and is not waiting for a disk, has been quiet.
 *
 * A client that holds much and does not move costs no other one: each has bounds of its own, and
 * where all of them together hold more than the server may, those that are quiet are cut off. */
#include "server/nbd/nbd_internal.h"

#include "util/error.h"

#include <errno.h>
#include <poll.h>
#include <sys/epoll.h>
#include <sys/timerfd.h>
#include <unistd.h>

/* How long a client may stand still where it is in the way (it said goodbye but leaves its replies
 * unread, or the server's memory is used up): as long as for a handshake, or if that has no end
 * this long. */
#define PATIENCE_SECONDS 10
#define HASTE            5

/* ---- options */

static bool within(uint64_t value, uint64_t min, uint64_t max, const char *name, GError **error)
{
    return (value >= min && value <= max) ||
           tm_error_set(error,
                        "Parameter '%s' is %" G_GUINT64_FORMAT ", expected %" G_GUINT64_FORMAT
                        " to %" G_GUINT64_FORMAT,
                        name, value, min, max);
}

bool nbds_limits_check(const BlkServerLimits *l, GError **error)
{
    return within(l->request_size, 64 << 10, 64 << 20, "max-request-size", error) &&
           within(l->option_size, 16 << 10, 64 << 20, "max-option-size", error) &&
           within(l->option_count, 16, 1 << 20, "max-options", error) &&
           within(l->bytes_in_flight, 0, INT64_MAX, "max-bytes-in-flight", error) &&
           within(l->bytes_in_flight_total, 0, INT64_MAX, "max-bytes-in-flight-total", error);
}

/* ---- the clock */

/* Whether requests of @s are with the disk. */
static bool working(const NbdsSession *s, bool ended)
{
    return __atomic_load_n(&s->active, __ATOMIC_RELAXED) ||
           (__atomic_load_n(&s->refs, __ATOMIC_RELAXED) > (ended ? 0 : 2) &&
            !__atomic_load_n(&s->blocked, __ATOMIC_RELAXED));
}

static bool crammed(const NbdsSession *s)
{
    const BlkServerLimits *l = nbds_limits(s->server);

    return l->bytes_in_flight_total && __atomic_load_n(&s->held, __ATOMIC_RELAXED) &&
           __atomic_load_n(&s->server->held, __ATOMIC_RELAXED) > (int64_t)l->bytes_in_flight_total;
}

static int64_t patience(const BlkServerLimits *l)
{
    return (l->handshake_seconds ? l->handshake_seconds : PATIENCE_SECONDS) * G_USEC_PER_SEC;
}

/* A session that waits for room in its socket does not see the end of its input. */
static bool hung_up(const NbdsSession *s)
{
    struct pollfd p = { .fd = s->source.fd, .events = POLLRDHUP };

    return __atomic_load_n(&s->blocked, __ATOMIC_RELAXED) && poll(&p, 1, 0) > 0;
}

/* Under the lock: whether it is time that @s has opened an export. While others wait for its place
 * there is less of it: whoever fills a server without opening anything does not keep it. */
static bool overdue(const NbdsSession *s, int64_t now)
{
    int64_t limit = nbds_limits(s->server)->handshake_seconds * G_USEC_PER_SEC;

    if (nbds_server_full(s->server))
        limit /= HASTE;
    return limit && now - s->born >= limit;
}

/* Under the lock. */
static void check(NbdsSession *s, int64_t now)
{
    const BlkServerLimits *l = nbds_limits(s->server);
    bool ended = __atomic_load_n(&s->ended, __ATOMIC_RELAXED);
    uint64_t moved = __atomic_load_n(&s->received, __ATOMIC_RELAXED) +
                     __atomic_load_n(&s->sent, __ATOMIC_RELAXED);
    int64_t quiet;

    if (__atomic_load_n(&s->dead, __ATOMIC_RELAXED))
        return;
    if (moved != s->moved || working(s, ended)) {
        s->moved = moved;
        s->moved_at = now;
    }
    quiet = now - s->moved_at;
    if (!s->open && overdue(s, now))
        nbds_session_cut(s, NBDS_REASON_HANDSHAKE);
    else if (l->idle_seconds && quiet >= l->idle_seconds * G_USEC_PER_SEC)
        nbds_session_cut(s, NBDS_REASON_IDLE);
    else if (!s->open && crammed(s)) /* a stranger does not get the last of the memory */
        nbds_session_cut(s, NBDS_REASON_STALLED);
    else if (quiet >= patience(l) && (ended || crammed(s) || hung_up(s)))
        nbds_session_cut(s, NBDS_REASON_STALLED);
}

/* Under the lock: those that wait for room in their sockets and have no descriptor for it. They
 * stay alive, as they hold the writer's reference. */
static GPtrArray *writers(NbdsServers *servers)
{
    GPtrArray *found = g_ptr_array_new();

    for (guint i = 0; i < servers->sessions->len; i++) {
        NbdsSession *s = servers->sessions->pdata[i];

        if (__atomic_exchange_n(&s->retry, false, __ATOMIC_ACQUIRE))
            g_ptr_array_add(found, s);
    }
    return found;
}

static void clock_ready(BlkSource *source, uint32_t events)
{
    NbdsServers *servers = (NbdsServers *)((char *)source - offsetof(NbdsServers, clock));
    int64_t now = g_get_monotonic_time();
    g_autoptr(GPtrArray) again = NULL;
    bool stopping;
    uint64_t n;

    if (read(source->fd, &n, sizeof(n)) < 0 && errno != EAGAIN)
        return; /* not with a timer */
    pthread_mutex_lock(&servers->lock);
    for (guint i = 0; i < servers->sessions->len; i++)
        check(servers->sessions->pdata[i], now);
    nbds_listen_resume(servers);
    servers->events_left = NBDS_EVENTS_MAX;
    again = writers(servers);
    pthread_mutex_unlock(&servers->lock);
    for (guint i = 0; i < again->len; i++) {
        NbdsSession *s = again->pdata[i];

        nbds_output_ready(&s->writer, EPOLLOUT);
    }
    nbds_chunks_trim(servers);
    pthread_mutex_lock(&servers->lock);
    stopping = servers->clock_stopping;
    if (!stopping)
        blk_engine_arm(servers->engine, source, EPOLLIN);
    pthread_mutex_unlock(&servers->lock);
    if (!stopping)
        return;
    blk_engine_remove(servers->engine, source);
    pthread_mutex_lock(&servers->lock);
    close(source->fd);
    source->fd = -1;
    pthread_cond_broadcast(&servers->changed);
    pthread_mutex_unlock(&servers->lock);
}

bool nbds_clock_start(NbdsServers *servers, GError **error)
{
    const struct itimerspec second = { { 1, 0 }, { 1, 0 } };
    int err = 0;

    if (servers->clock.fd >= 0)
        return true;
    servers->events_left = NBDS_EVENTS_MAX;
    servers->clock.ready = clock_ready;
    servers->clock.fd = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
    if (servers->clock.fd < 0 || timerfd_settime(servers->clock.fd, 0, &second, NULL) < 0)
        err = -errno;
    if (!err)
        err = blk_engine_add(servers->engine, &servers->clock, EPOLLIN);
    if (!err)
        return true;
    if (servers->clock.fd >= 0)
        close(servers->clock.fd);
    servers->clock.fd = -1;
    return tm_error_set_errno(error, -err, "Could not create a timer for the NBD servers");
}

void nbds_clock_stop(NbdsServers *servers)
{
    const struct itimerspec now = { .it_value = { 0, 1 } };
    TM_GUARD(&servers->lock);

    if (servers->clock.fd < 0)
        return;
    servers->clock_stopping = true;
    timerfd_settime(servers->clock.fd, 0, &now, NULL);
    while (servers->clock.fd >= 0)
        pthread_cond_wait(&servers->changed, &servers->lock);
}
