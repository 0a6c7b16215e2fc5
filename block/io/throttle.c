/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* block/io/throttle.c: see the header. How much may go when is the group's (tm_throttle_wait()).
 *
 * Invariants:
 *  - while somebody waits the timer is set, for the time that the next one may go, or for a tick:
 *    then limits may have changed, requests been canceled, or a drain begun;
 *  - who comes while others of the same direction wait, waits after them. */
#include "block/io/throttle.h"

#include "block/node_internal.h"
#include "util/clock.h"
#include "util/error.h"
#include "util/sync.h"

#include <errno.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/timerfd.h>
#include <unistd.h>

#define TICK_NS INT64_C(20000000)

/* What the members of a group share. */
typedef struct Shared {
    BlkSource timer; /* fd -1: it has gone */
    BlkEngine *engine;
    BlkTraffic *traffic;
    TmObject *group;      /* a reference */
    pthread_t main;       /* never waits */
    pthread_mutex_t lock; /* guards the rest; before the group's own */
    pthread_cond_t gone;
    GPtrArray *members; /* BlkThrottle */
    guint turn[2];      /* of reads, of writes: the member that is next */
    unsigned waiting[2];
    bool ending;
} Shared;

struct BlkThrottle {
    Shared *shared;
    BlkWaiter *first[2], **last[2];
};

/* ---- the queues; under the lock */

static void append(BlkThrottle *t, BlkWaiter *w)
{
    w->next = NULL;
    *t->last[w->write] = w;
    t->last[w->write] = &w->next;
    t->shared->waiting[w->write]++;
}

/* Appends the first one of a direction to @list; returns where the list ends. */
static BlkWaiter **pop(BlkThrottle *t, bool write, BlkWaiter **list)
{
    BlkWaiter *w = t->first[write];

    t->first[write] = w->next;
    if (!w->next)
        t->last[write] = &t->first[write];
    t->shared->waiting[write]--;
    w->next = NULL;
    *list = w;
    return &w->next;
}

static BlkWaiter **pop_all(BlkThrottle *t, bool write, BlkWaiter **list)
{
    while (t->first[write]) {
        tm_throttle_account(t->shared->group, write, t->first[write]->bytes);
        list = pop(t, write, list);
    }
    return list;
}

static bool canceled(const BlkWaiter *w)
{
    return w->cancel && __atomic_load_n(w->cancel, __ATOMIC_RELAXED);
}

static BlkWaiter **pop_canceled(BlkThrottle *t, bool write, BlkWaiter **list)
{
    BlkWaiter *from = t->first[write];

    t->first[write] = NULL;
    t->last[write] = &t->first[write];
    for (BlkWaiter *w = from, *next; w; w = next) {
        next = w->next;
        t->shared->waiting[write]--;
        if (!canceled(w)) {
            append(t, w);
            continue;
        }
        w->next = NULL;
        *list = w;
        list = &w->next;
    }
    return list;
}

/* Whose turn it is of those that wait, of which there is one. */
static BlkThrottle *next_member(Shared *s, bool write)
{
    for (;;) {
        BlkThrottle *t = s->members->pdata[s->turn[write] % s->members->len];

        s->turn[write] = (s->turn[write] + 1) % s->members->len;
        if (t->first[write])
            return t;
    }
}

static bool drains(const Shared *s)
{
    return __atomic_load_n(&s->traffic->drains, __ATOMIC_ACQUIRE) > 0;
}

/* Those that may go now, in a list. */
static BlkWaiter *take(Shared *s)
{
    BlkWaiter *list = NULL, **last = &list;
    bool all = drains(s), any = true;
    int64_t now = (int64_t)tm_now_ns();

    for (guint i = 0; i < s->members->len; i++) {
        for (unsigned write = 0; write < 2; write++)
            last = (all ? pop_all : pop_canceled)(s->members->pdata[i], write, last);
    }
    while (any) {
        any = false;
        for (unsigned write = 0; write < 2; write++) {
            if (!s->waiting[write] || tm_throttle_wait(s->group, write, now))
                continue;
            BlkThrottle *t = next_member(s, write);
            tm_throttle_account(s->group, write, t->first[write]->bytes);
            last = pop(t, write, last);
            any = true;
        }
    }
    return list;
}

static void go(BlkWaiter *list)
{
    while (list) {
        BlkWaiter *w = list;

        list = w->next; /* with go() it may go */
        w->go(w);
    }
}

/* ---- the timer */

static void set_timer(Shared *s, int64_t ns)
{
    struct itimerspec t = { .it_value.tv_nsec = CLAMP(ns, 1, TICK_NS) };

    timerfd_settime(s->timer.fd, 0, &t, NULL);
}

static void set_for_next(Shared *s)
{
    int64_t now = (int64_t)tm_now_ns(), wait = TICK_NS;

    for (unsigned write = 0; write < 2; write++) {
        if (s->waiting[write])
            wait = MIN(wait, tm_throttle_wait(s->group, write, now));
    }
    if (s->waiting[0] || s->waiting[1])
        set_timer(s, wait);
}

static void timer_ready(BlkSource *source, uint32_t events)
{
    Shared *s = (Shared *)((char *)source - offsetof(Shared, timer));
    BlkWaiter *list = NULL;
    uint64_t n;

    if (read(source->fd, &n, sizeof(n)) < 0 && errno != EAGAIN)
        return; /* not with a timer */
    pthread_mutex_lock(&s->lock);
    if (s->ending) {
        blk_engine_remove(s->engine, source);
        close(source->fd);
        source->fd = -1;
        pthread_cond_signal(&s->gone);
    } else {
        list = take(s);
        set_for_next(s);
        blk_engine_arm(s->engine, source, EPOLLIN);
    }
    pthread_mutex_unlock(&s->lock); /* then it may go */
    go(list);
}

/* ---- members */

static void shared_clear(Shared *s)
{
    tm_object_unref(s->group);
    g_ptr_array_unref(s->members);
    pthread_cond_destroy(&s->gone);
    pthread_mutex_destroy(&s->lock);
    g_free(s);
}

static Shared *shared_new(BlkGraph *graph, TmObject *group, GError **error)
{
    Shared *s = g_new0(Shared, 1);
    int err;

    s->engine = blk_graph_engine(graph);
    s->traffic = blk_graph_traffic(graph);
    s->group = tm_object_ref(group);
    s->main = pthread_self();
    pthread_mutex_init(&s->lock, NULL);
    pthread_cond_init(&s->gone, NULL);
    s->members = g_ptr_array_new();
    s->timer.ready = timer_ready;
    s->timer.fd = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
    /* Last: another thread may have it then. */
    err = s->timer.fd < 0 ? -errno : blk_engine_add(s->engine, &s->timer, EPOLLIN);
    if (err) {
        tm_error_set_errno(error, -err, "Could not create a timer for throttling");
        if (s->timer.fd >= 0)
            close(s->timer.fd);
        shared_clear(s);
        return NULL;
    }
    *tm_throttle_shared(group) = s;
    return s;
}

static void shared_free(Shared *s)
{
    pthread_mutex_lock(&s->lock);
    s->ending = true;
    set_timer(s, 0);
    while (s->timer.fd >= 0)
        pthread_cond_wait(&s->gone, &s->lock);
    pthread_mutex_unlock(&s->lock);
    *tm_throttle_shared(s->group) = NULL;
    shared_clear(s);
}

BlkThrottle *blk_throttle_new(BlkGraph *graph, TmObject *group, GError **error)
{
    BlkTraffic *traffic = blk_graph_traffic(graph);
    Shared *s = *tm_throttle_shared(group);
    BlkThrottle *t;

    if (!s)
        s = shared_new(graph, group, error);
    if (!s)
        return NULL;
    t = g_new0(BlkThrottle, 1);
    t->shared = s;
    for (unsigned write = 0; write < 2; write++)
        t->last[write] = &t->first[write];
    pthread_mutex_lock(&s->lock);
    g_ptr_array_add(s->members, t);
    pthread_mutex_unlock(&s->lock);
    __atomic_add_fetch(&traffic->throttles, 1, __ATOMIC_RELEASE);
    return t;
}

void blk_throttle_free(BlkThrottle *t)
{
    BlkWaiter *list = NULL, **last = &list;
    Shared *s;
    bool end;

    if (!t)
        return;
    s = t->shared;
    pthread_mutex_lock(&s->lock);
    last = pop_all(t, false, last);
    pop_all(t, true, last);
    g_ptr_array_remove(s->members, t);
    end = s->members->len == 0;
    pthread_mutex_unlock(&s->lock);
    __atomic_sub_fetch(&s->traffic->throttles, 1, __ATOMIC_RELEASE);
    go(list);
    g_free(t);
    if (end)
        shared_free(s);
}

bool blk_throttle_try(BlkThrottle *t, BlkWaiter *w)
{
    Shared *s = t->shared;
    TM_GUARD(&s->lock);
    int64_t wait =
        s->waiting[w->write] ? TICK_NS : tm_throttle_wait(s->group, w->write, (int64_t)tm_now_ns());

    if (!wait || pthread_equal(s->main, pthread_self()) || canceled(w) || drains(s)) {
        tm_throttle_account(s->group, w->write, w->bytes);
        return true;
    }
    append(t, w);
    if (s->waiting[w->write] == 1)
        set_timer(s, s->waiting[!w->write] ? 0 : wait);
    return false;
}

/* ---- the blocking lane */

static _Thread_local struct {
    BlkThrottle *const *passed; /* ends with NULL */
    const bool *cancel;
} carried;

void blk_throttle_carry(BlkThrottle *const *passed, const bool *cancel)
{
    carried.passed = passed;
    carried.cancel = cancel;
}

bool blk_throttle_passed(BlkThrottle *const *passed, const BlkThrottle *throttle)
{
    while (passed && *passed && *passed != throttle)
        passed++;
    return passed && *passed;
}

typedef struct Sleeper {
    BlkWaiter waiter;
    pthread_mutex_t lock;
    pthread_cond_t changed;
    bool may_go;
} Sleeper;

static void wake(BlkWaiter *w)
{
    Sleeper *x = (Sleeper *)((char *)w - offsetof(Sleeper, waiter));
    TM_GUARD(&x->lock);

    x->may_go = true;
    pthread_cond_signal(&x->changed);
}

static void sleep_until_woken(Sleeper *x)
{
    pthread_mutex_lock(&x->lock);
    while (!x->may_go)
        pthread_cond_wait(&x->changed, &x->lock);
    pthread_mutex_unlock(&x->lock);
}

void blk_throttle_pass(BlkNode *node, uint64_t offset, uint64_t length, bool write)
{
    Sleeper x = { .waiter = { wake, carried.cancel, write, length } };
    BlkThrottle *t;
    bool may_go;

    if (!__atomic_load_n(&node->traffic->throttles, __ATOMIC_ACQUIRE))
        return;
    pthread_mutex_init(&x.lock, NULL);
    pthread_cond_init(&x.changed, NULL);
    /* In flight: then it stays a throttle's. Not while it sleeps: what changes it lets it go. */
    blk_inflight_shared(&node->inflight, offset, length);
    t = node->throttle;
    may_go = !t || blk_throttle_passed(carried.passed, t) || blk_throttle_try(t, &x.waiter);
    blk_inflight_shared_end(&node->inflight, offset, length);
    if (!may_go)
        sleep_until_woken(&x);
    pthread_cond_destroy(&x.changed);
    pthread_mutex_destroy(&x.lock);
}
