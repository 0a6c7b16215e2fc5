/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* The engine's two classes of threads. */
#include "block/engine/engine.h"
#include "block/engine/worker_quota.h"
#include "tests/asserts.h"

#include <pthread.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/resource.h>
#include <sys/sysinfo.h>
#include <unistd.h>

static BlkEngine *engine;

static int priority(void)
{
    return getpriority(PRIO_PROCESS, (id_t)gettid());
}

static int of_background(void)
{
    return MIN(priority() + 10, 19);
}

/* What threads say, one after the other. */
static struct {
    pthread_mutex_t lock;
    pthread_cond_t changed;
    unsigned n;
    int nice[8];
} said = { PTHREAD_MUTEX_INITIALIZER, PTHREAD_COND_INITIALIZER, 0, { 0 } };

static void say(void)
{
    pthread_mutex_lock(&said.lock);
    said.nice[said.n++] = priority();
    pthread_cond_signal(&said.changed);
    pthread_mutex_unlock(&said.lock);
}

static void hear(unsigned n)
{
    pthread_mutex_lock(&said.lock);
    while (said.n < n)
        pthread_cond_wait(&said.changed, &said.lock);
    pthread_mutex_unlock(&said.lock);
}

static void open_engine(void)
{
    BlkEngineOptions options = { .io = BLK_IO_THREADS, .loops = 1, .workers = 1 };

    said.n = 0;
    engine = blk_engine_new(&options, NULL);
    ck_assert_ptr_nonnull(engine);
}

/* ---- work */

static void run(BlkWork *work)
{
    say();
}

/* The one worker of its class holds this up until it is let go. */
static pthread_mutex_t held = PTHREAD_MUTEX_INITIALIZER;

static void wait_and_run(BlkWork *work)
{
    pthread_mutex_lock(&held);
    pthread_mutex_unlock(&held);
    say();
}

START_TEST(work_in_the_background_holds_nobody_up)
{
    BlkWork last = { .run = wait_and_run, .background = true }, first = { .run = run };

    open_engine();
    pthread_mutex_lock(&held);
    blk_engine_work(engine, &last);
    blk_engine_work(engine, &first);
    hear(1);
    pthread_mutex_unlock(&held);
    hear(2);
    ck_assert_int_eq(said.nice[0], priority());
    ck_assert_int_eq(said.nice[1], of_background());
    blk_engine_free(engine);
}
END_TEST

/* ---- work of a node */

static struct {
    BlkWorkerQuota quota;
    unsigned running, most, left; /* atomic, but for most */
} node;

static void run_a_while(BlkWork *work)
{
    unsigned n = __atomic_add_fetch(&node.running, 1, __ATOMIC_SEQ_CST);

    pthread_mutex_lock(&said.lock);
    node.most = MAX(node.most, n);
    pthread_mutex_unlock(&said.lock);
    g_usleep(10000);
    __atomic_sub_fetch(&node.running, 1, __ATOMIC_SEQ_CST);
    blk_worker_quota_end(&node.quota);
    __atomic_sub_fetch(&node.left, 1, __ATOMIC_SEQ_CST);
}

/* How many of them ran at once. */
static unsigned run_many(bool background)
{
    BlkWork work[24] = { { .run = run_a_while } };
    BlkEngineOptions options = { .io = BLK_IO_THREADS, .loops = 1, .workers = 64 };

    engine = blk_engine_new(&options, NULL);
    ck_assert_ptr_nonnull(engine);
    node.most = 0;
    node.left = G_N_ELEMENTS(work);
    blk_worker_quota_init(&node.quota, engine, background);
    for (size_t i = 0; i < G_N_ELEMENTS(work); i++) {
        work[i].run = run_a_while;
        blk_worker_quota_add(&node.quota, &work[i]);
    }
    while (__atomic_load_n(&node.left, __ATOMIC_SEQ_CST))
        g_usleep(1000);
    blk_engine_free(engine);
    blk_worker_quota_destroy(&node.quota);
    return node.most;
}

START_TEST(a_node_of_the_background_has_few_workers)
{
    unsigned processors = (unsigned)get_nprocs();

    ck_assert_uint_le(run_many(true), MAX(processors / 2, 1));
    ck_assert_uint_le(run_many(false), BLK_WORKER_QUOTA);
}
END_TEST

/* ---- sources */

static void ready(BlkSource *source, uint32_t events)
{
    eventfd_t count;

    eventfd_read(source->fd, &count);
    say();
    if (said.n == 1)
        blk_engine_move_to_background(engine, source);
    if (said.n < 3)
        blk_engine_arm(engine, source, EPOLLIN);
    else
        blk_engine_remove(engine, source);
}

START_TEST(a_source_moves_to_the_background)
{
    BlkSource source = { .fd = eventfd(0, EFD_CLOEXEC), .ready = ready };

    open_engine();
    ck_assert_int_eq(blk_engine_add(engine, &source, EPOLLIN), 0);
    for (unsigned i = 1; i <= 3; i++) {
        ck_assert_int_eq(eventfd_write(source.fd, 1), 0);
        hear(i);
    }
    blk_engine_free(engine);
    ck_assert_int_eq(said.nice[0], priority());
    ck_assert_int_eq(said.nice[1], of_background());
    ck_assert_int_eq(said.nice[2], of_background());
    ck_assert(!source.moves);
    close(source.fd);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("engine");
    TCase *tcase = tcase_create("engine");
    SRunner *runner = srunner_create(suite);
    int failed;

    tcase_add_test(tcase, work_in_the_background_holds_nobody_up);
    tcase_add_test(tcase, a_node_of_the_background_has_few_workers);
    tcase_add_test(tcase, a_source_moves_to_the_background);
    suite_add_tcase(suite, tcase);
    srunner_run_all(runner, CK_ENV);
    failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
