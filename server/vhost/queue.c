/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* server/vhost/queue.c: turns: what a kick wakes takes all that is in the queue, in batches, and
 * gives back what has completed with one update of the ring and one notification for a batch.
 *
 * A turn that finds no more waits a moment for the next request, which spares a kick and a wake-up,
 * if the last kicks came that soon after a turn. So a queue that is idle costs nothing. */
#include "server/vhost/vhost_internal.h"

#include "util/clock.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#define BATCH      64u
#define TURN       4096u /* requests, after which others get the thread */
#define POLL_LEAST 4000u /* ns */
#define POLL_MOST  50000u
#define CHECKS     16u /* of the ring, for one of the clock */

/* ---- within a turn */

/* Under the lock. */
static bool may_run(const VhostQueue *q)
{
    return !q->broken && (!q->paused || (q->n_again && !q->ended));
}

static bool stops(VhostQueue *q)
{
    bool stop;

    pthread_mutex_lock(&q->lock);
    stop = !may_run(q);
    pthread_mutex_unlock(&q->lock);
    return stop;
}

static void break_queue(VhostQueue *q)
{
    pthread_mutex_lock(&q->lock);
    q->broken = true;
    q->n_again = 0;
    pthread_mutex_unlock(&q->lock);
    if (q->err)
        vhost_event_signal(q->err);
    vhost_session_fail(q->session, "queue %u is damaged", q->index);
}

/* How many it took. */
static unsigned run_batch(VhostQueue *q)
{
    VhostRequest *done[BATCH], *r;
    unsigned n = 0, taken = 0;
    bool broken = false;

    while (taken < BATCH && (r = vhost_ring_pop(q, &broken))) {
        taken++;
        if (vhost_request_start(r))
            done[n++] = r;
    }
    blk_engine_kick(q->session->engine);
    if (n)
        vhost_ring_push(q, done, n);
    if (broken)
        break_queue(q);
    else if (vhost_memory_broken(&q->session->memory) || tm_mapping_broken(&q->session->inflight))
        vhost_session_fail(q->session, "memory that it shared is no longer there");
    return taken;
}

/* For a loop that waits for another processor. */
static void relax(void)
{
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

/* Whether there is more before it has waited in vain. */
static bool wait_for_more(VhostQueue *q, const BlkSource *source)
{
    VhostSession *s = q->session;
    uint64_t end = tm_now_ns() + q->poll_ns;
    bool any = false;

    if (!q->poll_ns || !blk_engine_spin(s->engine, source))
        return false;
    while (!any && tm_now_ns() < end && !__atomic_load_n(&q->paused, __ATOMIC_RELAXED)) {
        for (unsigned i = 0; i < CHECKS && !any; i++) {
            any = vhost_ring_any(q);
            relax();
        }
    }
    blk_engine_spin_end(s->engine);
    if (!any)
        q->poll_ns = q->poll_ns / 2 < POLL_LEAST ? 0 : q->poll_ns / 2;
    return any;
}

static void poke(VhostKick *kick)
{
    __atomic_store_n(&kick->poked, true, __ATOMIC_RELEASE);
    eventfd_write(kick->wake, 1);
}

static void turn(VhostQueue *q, VhostKick *kick)
{
    unsigned taken = 0;

    vhost_ring_kicks(q, false);
    for (;;) {
        unsigned n = run_batch(q);

        taken += n;
        if (stops(q) || taken >= TURN)
            break;
        if (n || wait_for_more(q, &kick->source))
            continue;
        vhost_ring_kicks(q, true);
        if (!vhost_ring_any(q))
            return;
        vhost_ring_kicks(q, false);
    }
    vhost_ring_kicks(q, true);
    poke(kick); /* more may be there, which nobody kicks for, and a paused queue goes on */
}

/* ---- kicks */

/* The next one came soon enough to wait for. */
static void adapt(VhostQueue *q)
{
    if (tm_now_ns() - (uint64_t)q->left < POLL_MOST)
        q->poll_ns = CLAMP(q->poll_ns * 2, 2 * POLL_LEAST, POLL_MOST);
}

/* The client may have made it a descriptor that waits. */
static void drain(int fd)
{
    uint64_t count;
    struct iovec iov = { &count, sizeof(count) };

    if (preadv2(fd, &iov, 1, -1, RWF_NOWAIT) < 0 && errno == EOPNOTSUPP)
        eventfd_read(fd, &count);
}

static void kick_close(VhostKick *kick)
{
    if (kick->source.fd >= 0)
        close(kick->source.fd);
    if (kick->wake >= 0)
        close(kick->wake);
    vhost_close(kick->fd);
    g_free(kick);
}

static void kick_free(VhostKick *kick)
{
    VhostSession *s = kick->queue->session;

    blk_engine_remove(s->engine, &kick->source);
    kick_close(kick);
    vhost_session_unref(s);
}

/* While it is paused the main thread's. */
static bool ready(const VhostQueue *q)
{
    return q->enabled && q->started && q->size && q->desc && q->avail && q->used;
}

/* Under the lock. */
static bool live(const VhostQueue *q)
{
    return may_run(q) && ready(q);
}

/* Under the lock. */
static void arm(VhostQueue *q, VhostKick *kick)
{
    kick->armed = true;
    blk_engine_arm(q->session->engine, &kick->source, EPOLLIN);
}

static void kicked(BlkSource *source, uint32_t events)
{
    VhostKick *kick = (VhostKick *)source;
    VhostQueue *q = kick->queue;
    VhostSession *s = q->session;
    bool runs, closing;
    eventfd_t count;

    pthread_mutex_lock(&q->lock);
    kick->armed = false;
    closing = kick->closing;
    kick->owned = runs = !closing && live(q);
    q->running = q->running || runs;
    pthread_mutex_unlock(&q->lock);
    if (closing)
        kick_free(kick);
    if (!runs)
        return;
    vhost_session_ref(s);
    drain(kick->fd);
    if (__atomic_exchange_n(&kick->poked, false, __ATOMIC_ACQ_REL))
        eventfd_read(kick->wake, &count);
    adapt(q);
    turn(q, kick);
    q->left = (int64_t)tm_now_ns();
    pthread_mutex_lock(&q->lock);
    q->running = kick->owned = false;
    closing = kick->closing;
    vhost_queue_settle(q);
    if (!closing && live(q))
        arm(q, kick);
    pthread_mutex_unlock(&q->lock);
    if (closing)
        kick_free(kick);
    vhost_session_unref(s);
}

/* ---- the main thread */

/* NULL: it is no eventfd, or can't be waited for. */
static VhostKick *kick_new(VhostQueue *q, int fd)
{
    struct epoll_event event = { .events = EPOLLIN };
    VhostKick *kick = g_new0(VhostKick, 1);

    kick->fd = fd;
    kick->queue = q;
    kick->wake = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    kick->source = (BlkSource){ .fd = epoll_create1(EPOLL_CLOEXEC), .ready = kicked };
    if (vhost_is_eventfd(fd) && fcntl(fd, F_SETFL, O_NONBLOCK) == 0 && kick->wake >= 0 &&
        kick->source.fd >= 0 && !epoll_ctl(kick->source.fd, EPOLL_CTL_ADD, fd, &event) &&
        !epoll_ctl(kick->source.fd, EPOLL_CTL_ADD, kick->wake, &event) &&
        !blk_engine_add(q->session->engine, &kick->source, 0))
        return kick;
    kick_close(kick);
    return NULL;
}

static void drop_kick(VhostQueue *q)
{
    VhostKick *kick = q->kick;
    bool owned;

    if (!kick)
        return;
    q->kick = NULL;
    pthread_mutex_lock(&q->lock);
    kick->closing = true;
    owned = kick->armed || kick->owned;
    if (kick->armed)
        eventfd_write(kick->wake, 1);
    pthread_mutex_unlock(&q->lock);
    if (!owned)
        kick_free(kick);
}

bool vhost_queue_set_kick(VhostQueue *q, int fd)
{
    VhostKick *kick;

    drop_kick(q);
    q->started = q->begun = false;
    if (fd < 0)
        return true;
    kick = kick_new(q, fd);
    if (!kick)
        return false;
    vhost_session_ref(q->session);
    q->kick = kick;
    q->started = true;
    return true;
}

void vhost_queue_pause(VhostQueue *q)
{
    pthread_mutex_lock(&q->lock);
    __atomic_store_n(&q->paused, true, __ATOMIC_RELAXED);
    pthread_mutex_unlock(&q->lock);
}

bool vhost_queue_idle(VhostQueue *q)
{
    bool idle;

    pthread_mutex_lock(&q->lock);
    idle = vhost_queue_idle_locked(q);
    pthread_mutex_unlock(&q->lock);
    return idle;
}

void vhost_queue_end(VhostQueue *q)
{
    pthread_mutex_lock(&q->lock);
    __atomic_store_n(&q->paused, true, __ATOMIC_RELAXED);
    q->ended = true;
    pthread_mutex_unlock(&q->lock);
    vhost_queue_set_kick(q, -1);
}

void vhost_queue_resume(VhostQueue *q)
{
    pthread_mutex_lock(&q->lock);
    if (!q->begun && ready(q)) {
        vhost_inflight_begin(q);
        q->begun = true;
        poke(q->kick); /* there may be something from before */
    }
    __atomic_store_n(&q->paused, false, __ATOMIC_RELAXED);
    if (q->kick && !q->kick->armed && live(q))
        arm(q, q->kick);
    pthread_mutex_unlock(&q->lock);
}

void vhost_queue_init(VhostQueue *q, VhostSession *s, unsigned index)
{
    q->session = s;
    q->index = index;
    pthread_mutex_init(&q->lock, NULL);
}
