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
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/sysinfo.h>
#include <unistd.h>

#define LOOPS_MIN   9
#define LOOPS_SPARE 2 /* that never linger */
#define LOOPS_MAX   64
#define WORKERS     64 /* several times a node's quota (block/engine/worker_quota.h) */
#define WORKERS_MAX 256

#define CLASSES          2u /* [background] */
#define LOOPS_BACKGROUND 2u
#define BACKGROUND_NICE  10     /* a tenth of what others get where processors are short, */
#define KEEP_POLICY      8      /* SCHED_FLAG_KEEP_POLICY */
#define BACKGROUND_TURN  100000 /* ns, after which they get it, at the latest (Linux 6.12) */

typedef struct Pool {
    bool background;
    pthread_mutex_t lock; /* guards the rest; a leaf: nothing is called under it */
    pthread_cond_t wake;
    BlkWork *first, **last;
    unsigned idle, queued, n, max;
    bool stopping;
    pthread_t threads[WORKERS_MAX];
} Pool;

typedef struct Loops {
    bool background;
    int epoll;
    BlkSource *stop; /* borrowed */
    unsigned n;
    pthread_t threads[LOOPS_MAX];
} Loops;

struct BlkEngine {
    BlkSource stop; /* an eventfd that stays readable once the engine ends */
    Loops loops[CLASSES];
    int may_linger; /* atomic: how many more loops may; the next, too */
    int may_spin;
    BlkRing *ring;    /* NULL: no io_uring */
    BlkSource reaper; /* the ring's completions */

    Pool pools[CLASSES];
};

/* ---- loops */

static int control(BlkEngine *engine, int op, BlkSource *source, uint32_t events)
{
    struct epoll_event event = { .events = events, .data.ptr = source };

    return epoll_ctl(engine->loops[source->background].epoll, op, source->fd, &event) < 0 ? -errno
                                                                                          : 0;
}

int blk_engine_add(BlkEngine *engine, BlkSource *source, uint32_t events)
{
    return control(engine, EPOLL_CTL_ADD, source, events | EPOLLONESHOT);
}

int blk_engine_arm(BlkEngine *engine, BlkSource *source, uint32_t events)
{
    struct epoll_event event = { .events = events | EPOLLONESHOT, .data.ptr = source };
    int fd = source->fd, epoll = engine->loops[source->background].epoll;
    int op = source->moves ? EPOLL_CTL_ADD : EPOLL_CTL_MOD;

    source->moves = false;
    __atomic_store_n(&source->sync_point, 1, __ATOMIC_RELEASE);
    /* From here on the next owner may close it. The thread sanitizer takes the library's function
     * for a use of the descriptor, and does not see that it hands the source over. */
    return syscall(SYS_epoll_ctl, epoll, op, fd, &event) < 0 ? -errno : 0;
}

void blk_engine_remove(BlkEngine *engine, BlkSource *source)
{
    control(engine, EPOLL_CTL_DEL, source, 0);
}

void blk_engine_move_to_background(BlkEngine *engine, BlkSource *source)
{
    if (source->background)
        return;
    blk_engine_remove(engine, source);
    source->background = source->moves = true;
}

bool blk_engine_linger(BlkEngine *engine, const BlkSource *source)
{
    if (source->background)
        return false;
    if (__atomic_sub_fetch(&engine->may_linger, 1, __ATOMIC_RELAXED) >= 0)
        return true;
    blk_engine_linger_end(engine);
    return false;
}

void blk_engine_linger_end(BlkEngine *engine)
{
    __atomic_add_fetch(&engine->may_linger, 1, __ATOMIC_RELAXED);
}

bool blk_engine_spin(BlkEngine *engine, const BlkSource *source)
{
    bool spins = __atomic_sub_fetch(&engine->may_spin, 1, __ATOMIC_RELAXED) >= 0;

    if (spins && blk_engine_linger(engine, source))
        return true;
    __atomic_add_fetch(&engine->may_spin, 1, __ATOMIC_RELAXED);
    return false;
}

void blk_engine_spin_end(BlkEngine *engine)
{
    blk_engine_linger_end(engine);
    __atomic_add_fetch(&engine->may_spin, 1, __ATOMIC_RELAXED);
}

/* Of this thread; where that is not allowed, it is one as the others. Who has even less priority
 * waits so long on a busy machine that the writes to a file that it reads wait, too. */
static void give_way(void)
{
    int nice = getpriority(PRIO_PROCESS, (id_t)gettid());
    struct {
        uint32_t size, policy;
        uint64_t flags;
        int32_t nice;
        uint32_t priority;
        uint64_t runtime, deadline, period;
    } attr = { /* sched_setattr(2)'s, which not every C library declares */
               .size = sizeof(attr),
               .flags = KEEP_POLICY,
               .nice = MIN(nice + BACKGROUND_NICE, 19),
               .runtime = BACKGROUND_TURN
    };

    syscall(SYS_sched_setattr, 0, &attr, 0);
}

static void *loop_main(void *arg)
{
    Loops *loops = arg;

    pthread_setname_np(pthread_self(), loops->background ? "background loop" : "loop");
    if (loops->background)
        give_way();
    for (;;) {
        struct epoll_event event;
        int n = epoll_wait(loops->epoll, &event, 1, -1);

        if (n < 0 && errno != EINTR)
            return NULL;
        if (n <= 0)
            continue;
        BlkSource *source = event.data.ptr;
        if (source == loops->stop)
            return NULL;
        __atomic_load_n(&source->sync_point, __ATOMIC_ACQUIRE); /* pairs with arming */
        source->ready(source, event.events);
    }
}

/* ---- workers */

static void *worker_main(void *arg)
{
    Pool *pool = arg;

    pthread_setname_np(pthread_self(), pool->background ? "background" : "worker");
    if (pool->background)
        give_way();
    pthread_mutex_lock(&pool->lock);
    for (;;) {
        while (!pool->first && !pool->stopping) {
            pool->idle++;
            pthread_cond_wait(&pool->wake, &pool->lock);
            pool->idle--;
        }
        BlkWork *work = pool->first;
        if (!work)
            break;
        pool->first = work->next;
        pool->queued--;
        if (!pool->first)
            pool->last = &pool->first;
        pthread_mutex_unlock(&pool->lock);
        work->run(work);
        pthread_mutex_lock(&pool->lock);
    }
    pthread_mutex_unlock(&pool->lock);
    return NULL;
}

void blk_engine_work(BlkEngine *engine, BlkWork *work)
{
    Pool *pool = &engine->pools[work->background];
    TM_GUARD(&pool->lock);

    work->next = NULL;
    *pool->last = work;
    pool->last = &work->next;
    pool->queued++;
    if (pool->idle)
        pthread_cond_signal(&pool->wake);
    /* An idle worker that was woken for the work before counts until it runs. */
    if (pool->idle < pool->queued && pool->n < pool->max &&
        !pthread_create(&pool->threads[pool->n], NULL, worker_main, pool))
        pool->n++; /* the first was made by _new(): work never waits for nobody */
}

void blk_engine_count_pool(BlkEngine *engine, bool background, BlkPoolCounts *counts)
{
    Pool *pool = &engine->pools[background];
    TM_GUARD(&pool->lock);

    *counts = (BlkPoolCounts){
        .threads = pool->n, .max = pool->max, .busy = pool->n - pool->idle, .queued = pool->queued
    };
}

static void pool_init(Pool *pool, bool background, unsigned max)
{
    *pool = (Pool){ .background = background, .max = max };
    pool->last = &pool->first;
    pthread_mutex_init(&pool->lock, NULL);
    pthread_cond_init(&pool->wake, NULL);
}

static int pool_start(Pool *pool)
{
    int err = pthread_create(&pool->threads[0], NULL, worker_main, pool);

    pool->n = !err;
    return err;
}

static void pool_destroy(Pool *pool)
{
    pthread_mutex_lock(&pool->lock);
    pool->stopping = true;
    pthread_cond_broadcast(&pool->wake);
    pthread_mutex_unlock(&pool->lock);
    for (unsigned i = 0; i < pool->n; i++)
        pthread_join(pool->threads[i], NULL);
    pthread_cond_destroy(&pool->wake);
    pthread_mutex_destroy(&pool->lock);
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

static int loops_start(Loops *loops, unsigned n)
{
    int err = 0;

    while (!err && loops->n < n) {
        err = pthread_create(&loops->threads[loops->n], NULL, loop_main, loops);
        loops->n += !err;
    }
    return err;
}

static bool start_threads(BlkEngine *engine, unsigned loops, GError **error)
{
    int err = 0;

    for (unsigned i = 0; !err && i < CLASSES; i++)
        err = pool_start(&engine->pools[i]);
    for (unsigned i = 0; !err && i < CLASSES; i++)
        err = loops_start(&engine->loops[i], i ? MAX(loops / 4, LOOPS_BACKGROUND) : loops);
    return err ? tm_error_set_errno(error, err, "cannot start the I/O threads") : true;
}

/* Every loop sees when the engine ends. 0 or errno. */
static int loops_init(Loops *loops, bool background, BlkSource *stop)
{
    struct epoll_event event = { .events = EPOLLIN, .data.ptr = stop };

    *loops = (Loops){ .background = background, .stop = stop };
    loops->epoll = epoll_create1(EPOLL_CLOEXEC);
    return loops->epoll < 0 || epoll_ctl(loops->epoll, EPOLL_CTL_ADD, stop->fd, &event) < 0 ? errno
                                                                                            : 0;
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
    unsigned workers = CLAMP(options->workers ? options->workers : WORKERS, 1, WORKERS_MAX);
    int err;

    engine->may_linger = MAX((int)loops - LOOPS_SPARE, 0);
    engine->may_spin = MAX(get_nprocs() / 2, 1);
    engine->stop.fd = eventfd(0, EFD_CLOEXEC);
    err = engine->stop.fd < 0 ? errno : 0;
    for (unsigned i = 0; i < CLASSES; i++) {
        int failed = loops_init(&engine->loops[i], i, &engine->stop);

        err = err ? err : failed;
        pool_init(&engine->pools[i], i, workers);
    }
    if (err)
        tm_error_set_errno(error, err, "cannot create the I/O event queue");
    else if (open_ring(engine, options->io, error) && start_threads(engine, loops, error))
        return engine;
    blk_engine_free(engine);
    return NULL;
}

void blk_engine_free(BlkEngine *engine)
{
    if (!engine)
        return;
    if (engine->stop.fd >= 0 && eventfd_write(engine->stop.fd, 1) < 0)
        g_error("eventfd: %s", tm_strerror(errno)); /* cannot happen: the counter is 0 */
    for (unsigned i = 0; i < CLASSES; i++) {
        for (unsigned j = 0; j < engine->loops[i].n; j++)
            pthread_join(engine->loops[i].threads[j], NULL);
    }
    for (unsigned i = 0; i < CLASSES; i++)
        pool_destroy(&engine->pools[i]);
    blk_ring_free(engine->ring);
    for (unsigned i = 0; i < CLASSES; i++) {
        if (engine->loops[i].epoll >= 0)
            close(engine->loops[i].epoll);
    }
    if (engine->stop.fd >= 0)
        close(engine->stop.fd);
    g_free(engine);
}
