/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* block/engine/engine.c: loop threads over one epoll set, the worker pool, and the ring between
 * them.
 *
 * Invariants:
 *  - a source is one-shot: between its event and its next arm only one thread knows it;
 *  - queued work runs exactly once, in order of queueing per worker that picks it;
 *  - the pool grows on demand to its bound and keeps its threads. */
#include "block/engine/engine.h"

#include "block/engine/engine_internal.h"
#include "util/error.h"
#include "util/sync.h"

#include <errno.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/syscall.h>
#include <sys/sysinfo.h>
#include <unistd.h>

#define LOOPS_MIN   9
#define LOOPS_SPARE 2 /* that never linger */
#define LOOPS_MAX   64
#define WORKERS     64 /* several times a node's quota (block/engine/worker_quota.h) */
#define WORKERS_MAX 256

struct BlkEngine {
    int epoll;
    BlkSource stop; /* an eventfd that stays readable once the engine ends */
    unsigned n_loops;
    int may_linger; /* atomic: how many more loops may */
    pthread_t *loops;
    BlkRing *ring;    /* NULL: no io_uring */
    BlkSource reaper; /* the ring's completions */

    pthread_mutex_t lock; /* guards the rest; a leaf: nothing is called under it */
    pthread_cond_t wake;
    BlkWork *first, **last;
    unsigned idle, queued, n_workers, max_workers;
    bool stopping;
    pthread_t workers[WORKERS_MAX];
};

/* ---- loops */

static int control(BlkEngine *engine, int op, BlkSource *source, uint32_t events)
{
    struct epoll_event event = { .events = events, .data.ptr = source };

    return epoll_ctl(engine->epoll, op, source->fd, &event) < 0 ? -errno : 0;
}

int blk_engine_add(BlkEngine *engine, BlkSource *source, uint32_t events)
{
    return control(engine, EPOLL_CTL_ADD, source, events | EPOLLONESHOT);
}

int blk_engine_arm(BlkEngine *engine, BlkSource *source, uint32_t events)
{
    struct epoll_event event = { .events = events | EPOLLONESHOT, .data.ptr = source };
    int fd = source->fd;

    __atomic_store_n(&source->sync_point, 1, __ATOMIC_RELEASE);
    /* From here on the next owner may close it. The thread sanitizer takes the library's function
     * for a use of the descriptor, and does not see that it hands the source over. */
    return syscall(SYS_epoll_ctl, engine->epoll, EPOLL_CTL_MOD, fd, &event) < 0 ? -errno : 0;
}

void blk_engine_remove(BlkEngine *engine, BlkSource *source)
{
    control(engine, EPOLL_CTL_DEL, source, 0);
}

bool blk_engine_linger(BlkEngine *engine)
{
    if (__atomic_sub_fetch(&engine->may_linger, 1, __ATOMIC_RELAXED) >= 0)
        return true;
    blk_engine_linger_end(engine);
    return false;
}

void blk_engine_linger_end(BlkEngine *engine)
{
    __atomic_add_fetch(&engine->may_linger, 1, __ATOMIC_RELAXED);
}

static void *loop_main(void *arg)
{
    BlkEngine *engine = arg;

    pthread_setname_np(pthread_self(), "loop");
    for (;;) {
        struct epoll_event event;
        int n = epoll_wait(engine->epoll, &event, 1, -1);

        if (n < 0 && errno != EINTR)
            return NULL;
        if (n <= 0)
            continue;
        BlkSource *source = event.data.ptr;
        if (source == &engine->stop)
            return NULL;
        __atomic_load_n(&source->sync_point, __ATOMIC_ACQUIRE); /* pairs with arming */
        source->ready(source, event.events);
    }
}

/* ---- workers */

static void *worker_main(void *arg)
{
    BlkEngine *engine = arg;

    pthread_setname_np(pthread_self(), "worker");
    pthread_mutex_lock(&engine->lock);
    for (;;) {
        while (!engine->first && !engine->stopping) {
            engine->idle++;
            pthread_cond_wait(&engine->wake, &engine->lock);
            engine->idle--;
        }
        BlkWork *work = engine->first;
        if (!work)
            break;
        engine->first = work->next;
        engine->queued--;
        if (!engine->first)
            engine->last = &engine->first;
        pthread_mutex_unlock(&engine->lock);
        work->run(work);
        pthread_mutex_lock(&engine->lock);
    }
    pthread_mutex_unlock(&engine->lock);
    return NULL;
}

void blk_engine_work(BlkEngine *engine, BlkWork *work)
{
    TM_GUARD(&engine->lock);

    work->next = NULL;
    *engine->last = work;
    engine->last = &work->next;
    engine->queued++;
    if (engine->idle)
        pthread_cond_signal(&engine->wake);
    /* An idle worker that was woken for the work before counts until it runs. */
    if (engine->idle < engine->queued && engine->n_workers < engine->max_workers &&
        !pthread_create(&engine->workers[engine->n_workers], NULL, worker_main, engine))
        engine->n_workers++; /* the first was made by _new(): work never waits for nobody */
}

/* ---- the medium */

static void reap(BlkSource *source, uint32_t events)
{
    BlkEngine *engine = (BlkEngine *)((char *)source - offsetof(BlkEngine, reaper));

    blk_ring_reap(engine->ring);
    blk_engine_arm(engine, source, EPOLLIN);
}

bool blk_engine_aio(BlkEngine *engine, BlkAio *aio)
{
    return engine->ring && blk_ring_add(engine->ring, aio);
}

void blk_engine_kick(BlkEngine *engine)
{
    if (engine->ring)
        blk_ring_submit(engine->ring);
}

const char *blk_engine_io_name(const BlkEngine *engine)
{
    return engine->ring ? "io_uring" : "threads";
}

/* ---- life */

static bool start_threads(BlkEngine *engine, unsigned loops, GError **error)
{
    int err = pthread_create(&engine->workers[0], NULL, worker_main, engine);

    if (!err)
        engine->n_workers = 1;
    engine->loops = g_new0(pthread_t, loops);
    while (!err && engine->n_loops < loops) {
        err = pthread_create(&engine->loops[engine->n_loops], NULL, loop_main, engine);
        if (!err)
            engine->n_loops++;
    }
    return err ? tm_error_set_errno(error, err, "cannot start the I/O threads") : true;
}

static bool watch_ring(BlkEngine *engine, GError **error)
{
    int err;

    engine->reaper = (BlkSource){ .fd = blk_ring_event(engine->ring), .ready = reap };
    err = blk_engine_add(engine, &engine->reaper, EPOLLIN);
    return err == 0 || tm_error_set_errno(error, -err, "io_uring cannot be used here");
}

static bool open_ring(BlkEngine *engine, BlkIoEngine io, GError **error)
{
    g_autoptr(GError) local = NULL;

    if (io == BLK_IO_THREADS)
        return true;
    engine->ring = blk_ring_new(&local);
    if (engine->ring && watch_ring(engine, &local))
        return true;
    g_clear_pointer(&engine->ring, blk_ring_free);
    if (io == BLK_IO_AUTO)
        return true;
    g_propagate_error(error, g_steal_pointer(&local));
    return false;
}

BlkEngine *blk_engine_new(const BlkEngineOptions *options, GError **error)
{
    BlkEngine *engine = g_new0(BlkEngine, 1);
    unsigned loops = MIN(
        options->loops ? options->loops : MAX(2 * (unsigned)get_nprocs(), LOOPS_MIN), LOOPS_MAX);

    pthread_mutex_init(&engine->lock, NULL);
    pthread_cond_init(&engine->wake, NULL);
    engine->last = &engine->first;
    engine->max_workers = CLAMP(options->workers ? options->workers : WORKERS, 1, WORKERS_MAX);
    engine->may_linger = MAX((int)loops - LOOPS_SPARE, 0);
    engine->stop.fd = eventfd(0, EFD_CLOEXEC);
    engine->epoll = epoll_create1(EPOLL_CLOEXEC);
    if (engine->stop.fd < 0 || engine->epoll < 0) {
        tm_error_set_errno(error, errno, "cannot create the I/O event queue");
    } else if (control(engine, EPOLL_CTL_ADD, &engine->stop, EPOLLIN) == 0 &&
               open_ring(engine, options->io, error) && start_threads(engine, loops, error)) {
        return engine;
    }
    blk_engine_free(engine);
    return NULL;
}

void blk_engine_free(BlkEngine *engine)
{
    if (!engine)
        return;
    if (engine->stop.fd >= 0 && eventfd_write(engine->stop.fd, 1) < 0)
        g_error("eventfd: %s", tm_strerror(errno)); /* cannot happen: the counter is 0 */
    for (unsigned i = 0; i < engine->n_loops; i++)
        pthread_join(engine->loops[i], NULL);
    pthread_mutex_lock(&engine->lock);
    engine->stopping = true;
    pthread_cond_broadcast(&engine->wake);
    pthread_mutex_unlock(&engine->lock);
    for (unsigned i = 0; i < engine->n_workers; i++)
        pthread_join(engine->workers[i], NULL);
    blk_ring_free(engine->ring);
    if (engine->epoll >= 0)
        close(engine->epoll);
    if (engine->stop.fd >= 0)
        close(engine->stop.fd);
    pthread_cond_destroy(&engine->wake);
    pthread_mutex_destroy(&engine->lock);
    g_free(engine->loops);
    g_free(engine);
}
