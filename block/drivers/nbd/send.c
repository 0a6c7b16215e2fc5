/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* block/drivers/nbd/send.c: the connections of a disk together: which one a command takes, and who
 * waits for one to come back.
 *
 * As with QEMU's reconnect-delay, the time that requests wait begins with the first one that finds
 * no connection; when it is over, they and all later ones fail until there is one again. */
#include "block/drivers/nbd/nbd.h"
#include "util/error.h"
#include "util/sync.h"

#include <errno.h>

/* ---- waiting for them */

/* Until something changes, or the time @until. false: it is then. d->lock. */
static bool wait_change(BlkNbd *d, int64_t until)
{
    int64_t left = until - g_get_monotonic_time();
    struct timespec at;

    if (left <= 0)
        return false;
    clock_gettime(CLOCK_MONOTONIC, &at);
    left = MIN(left, G_USEC_PER_SEC); /* that it is to end is looked for */
    at.tv_sec += (at.tv_nsec / 1000 + left) / G_USEC_PER_SEC;
    at.tv_nsec = (at.tv_nsec / 1000 + left) % G_USEC_PER_SEC * 1000;
    pthread_cond_timedwait(&d->changed, &d->lock, &at);
    return true;
}

bool blk_nbd_wait_open(BlkNbd *d, int64_t until, GError **error)
{
    TM_GUARD(&d->lock);

    while (!d->up) {
        bool again = g_get_monotonic_time() < until;

        if (d->attempts && !again)
            return tm_error_set(error, "%s", d->why);
        wait_change(d, again && d->attempts ? until : G_MAXINT64 / 2);
    }
    d->known = true;
    return true;
}

static bool is_over(BlkNbd *d)
{
    int64_t at = __atomic_load_n(&d->end_at, __ATOMIC_ACQUIRE);

    return at && g_get_monotonic_time() >= at;
}

/* Somebody wants them. */
static void want(BlkNbd *d)
{
    unsigned n = __atomic_load_n(&d->n, __ATOMIC_ACQUIRE);

    for (unsigned i = 0; i < n; i++)
        blk_nbd_connection_wake(d->connections[i], true);
}

/* false: there is none up to the time @until, or nobody waits any more. */
static bool wait_up(BlkNbd *d, int64_t until)
{
    TM_GUARD(&d->lock);

    if (!d->up && !d->give_up)
        d->give_up = g_get_monotonic_time() + d->reconnect_us;
    while (!d->up) {
        if (__atomic_load_n(&d->end_at, __ATOMIC_ACQUIRE) ||
            !wait_change(d, MIN(until, d->give_up)))
            return false;
    }
    return !is_over(d);
}

/* ---- sending */

int blk_nbd_send(BlkNbd *d, BlkNbdCommand *c)
{
    unsigned n = __atomic_load_n(&d->n, __ATOMIC_ACQUIRE), best = 0;
    int ret = -ENOTCONN;

    for (unsigned i = 1; i < n; i++) {
        if (blk_nbd_connection_load(d->connections[i]) <
            blk_nbd_connection_load(d->connections[best]))
            best = i;
    }
    c->era = __atomic_load_n(&d->era, __ATOMIC_ACQUIRE);
    for (unsigned i = 0; i < n && ret == -ENOTCONN; i++) {
        unsigned k = (best + i) % n;

        if (!c->born || __atomic_load_n(&d->born[k], __ATOMIC_ACQUIRE) - 1 < c->born)
            ret = blk_nbd_connection_send(d->connections[k], c);
    }
    return ret;
}

typedef struct Waited {
    BlkNbdCommand *command;
    pthread_mutex_t lock; /* guards the rest; a leaf */
    pthread_cond_t done;
    bool over;
    int result;
} Waited;

static void waited_done(BlkNbdCommand *c, int result)
{
    Waited *w = c->opaque;
    TM_GUARD(&w->lock);

    w->result = result;
    w->over = true;
    pthread_cond_signal(&w->done);
}

static int once(BlkNbd *d, BlkNbdCommand *c, Waited *w)
{
    int ret;

    w->over = false;
    ret = blk_nbd_send(d, c);
    if (ret < 0)
        return ret;
    pthread_mutex_lock(&w->lock);
    while (!w->over)
        pthread_cond_wait(&w->done, &w->lock);
    pthread_mutex_unlock(&w->lock);
    return w->result;
}

int blk_nbd_run(BlkNbd *d, BlkNbdCommand *c)
{
    Waited w = { .lock = PTHREAD_MUTEX_INITIALIZER, .done = PTHREAD_COND_INITIALIZER };
    int64_t until = 0;
    int ret;

    c->done = waited_done;
    c->opaque = &w;
    do {
        if (is_over(d) || (c->born && blk_nbd_lost(d)))
            return -ENOTCONN;
        ret = once(d, c, &w);
        if (ret != -ENOTCONN)
            return ret;
        want(d);
        if (!until)
            until = g_get_monotonic_time() + d->reconnect_us;
    } while (g_get_monotonic_time() < until && wait_up(d, until));
    return -ENOTCONN;
}
