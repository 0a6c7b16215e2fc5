/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* The engine's two classes of threads. */
#include "block/engine/engine.h"
#include "tests/asserts.h"

#include <pthread.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/resource.h>
#include <unistd.h>

static BlkEngine *engine;

static int priority(void)
{
    return getpriority(PRIO_PROCESS, (id_t)gettid());
}

static int of_background(void)
{
    return MIN(priority() + 19, 19);
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
    tcase_add_test(tcase, a_source_moves_to_the_background);
    suite_add_tcase(suite, tcase);
    srunner_run_all(runner, CK_ENV);
    failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
