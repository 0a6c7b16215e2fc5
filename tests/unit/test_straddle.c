/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* tests/unit/test_straddle.c: writes that are in the kernel while the set of bitmaps changes. The
 * call that changes the disk is held, a bitmap is cleared meanwhile, and afterwards it says that
 * the disk has changed: on each path that a write can take through the block layer. */
#include "block/bitmaps.h"
#include "block/graph.h"
#include "block/io/request.h"
#include "tests/asserts.h"

#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define MIB UINT64_C(1048576)

/* Calls that are held: a table of calls can't be given an argument. */
static struct {
    pthread_mutex_t lock;
    pthread_cond_t changed;
    bool holding, held; /* what comes is to wait; something does */
} hold_point = { .lock = PTHREAD_MUTEX_INITIALIZER, .changed = PTHREAD_COND_INITIALIZER };

static void pass(void)
{
    pthread_mutex_lock(&hold_point.lock);
    hold_point.held |= hold_point.holding;
    pthread_cond_broadcast(&hold_point.changed);
    while (hold_point.holding)
        pthread_cond_wait(&hold_point.changed, &hold_point.lock);
    hold_point.held = false;
    pthread_mutex_unlock(&hold_point.lock);
}

static void hold(bool holding)
{
    pthread_mutex_lock(&hold_point.lock);
    hold_point.holding = holding;
    pthread_cond_broadcast(&hold_point.changed);
    pthread_mutex_unlock(&hold_point.lock);
}

static void wait_for_call(void)
{
    pthread_mutex_lock(&hold_point.lock);
    while (!hold_point.held)
        pthread_cond_wait(&hold_point.changed, &hold_point.lock);
    pthread_mutex_unlock(&hold_point.lock);
}

static bool is_held(void)
{
    pthread_mutex_lock(&hold_point.lock);
    bool held = hold_point.held;
    pthread_mutex_unlock(&hold_point.lock);
    return held;
}

static ssize_t held_pwritev2(int fd, const struct iovec *iov, int iovcnt, off_t offset, int flags)
{
    pass();
    return pwritev2(fd, iov, iovcnt, offset, flags);
}

static int held_fallocate(int fd, int mode, off_t offset, off_t length)
{
    pass();
    return fallocate(fd, mode, offset, length);
}

typedef struct Disk {
    TmSys sys;
    char *dir;
    BlkRegistry *registry;
    BlkEngine *engine;
    BlkGraph *graph;
    BlkNode *node; /* raw over file, or the file */
    BmpSet *set;
    BmpBitmap *bitmap;
} Disk;

static BlkNode *add(Disk *d, const char *text)
{
    json_object *options = json_tokener_parse(text);
    BlkNode *node = blk_graph_add(d->graph, options, NULL);

    ck_assert_ptr_nonnull(node);
    json_object_put(options);
    return node;
}

static void disk_open(Disk *d, bool alone)
{
    BlkEngineOptions options = { .io = BLK_IO_THREADS };
    BmpAddOptions bitmap = { .granularity = 65536 };
    g_autofree char *path = NULL, *file = NULL;

    *d = (Disk){ .sys = tm_sys_kernel, .dir = g_dir_make_tmp("tm-straddle-XXXXXX", NULL) };
    d->sys.pwritev2 = held_pwritev2;
    d->sys.fallocate = held_fallocate;
    path = g_build_filename(d->dir, "disk", NULL);
    ck_assert(g_file_set_contents(path, "x", 1, NULL));
    ck_assert_int_eq(truncate(path, 4 * MIB), 0);
    d->registry = blk_registry_new(&d->sys);
    d->engine = blk_engine_new(&options, NULL);
    ck_assert_ptr_nonnull(d->engine);
    d->graph = blk_graph_new(d->registry, d->engine, &d->sys);
    file = g_strdup_printf("{\"driver\":\"file\",\"node-name\":\"f\",\"filename\":\"%s\","
                           "\"discard\":\"unmap\"}",
                           path);
    d->node = add(d, file);
    if (!alone)
        d->node = add(d, "{\"driver\":\"raw\",\"node-name\":\"r\",\"file\":\"f\","
                         "\"discard\":\"unmap\"}");
    d->set = blk_node_bitmaps(d->node);
    bmp_set_change_begin(&d->set, 1);
    d->bitmap = bmp_set_add(d->set, "b", &bitmap, NULL);
    bmp_set_change_end(&d->set, 1);
    ck_assert_ptr_nonnull(d->bitmap);
}

static void disk_close(Disk *d)
{
    g_autofree char *command = g_strdup_printf("rm -rf '%s'", d->dir);

    bmp_bitmap_unref(d->bitmap);
    blk_graph_free(d->graph);
    blk_engine_free(d->engine);
    blk_registry_free(d->registry);
    ck_assert_int_eq(system(command), 0);
    g_free(d->dir);
}

/* A request, submitted on a thread of its own and waited for there. */
typedef struct Writer {
    BlkRequest request;
    Disk *disk;
    pthread_mutex_t lock;
    pthread_cond_t changed;
    bool done;
    int result;
    pthread_t thread;
} Writer;

static void writer_done(BlkRequest *request, int result)
{
    Writer *w = (Writer *)request;

    pthread_mutex_lock(&w->lock);
    w->done = true;
    w->result = result;
    pthread_cond_signal(&w->changed);
    pthread_mutex_unlock(&w->lock);
}

static void *write_it(void *opaque)
{
    Writer *w = opaque;
    int result = blk_submit(w->disk->node, &w->request);

    if (result != -EINPROGRESS) { /* else it may be done by now */
        w->result = result;
        return NULL;
    }
    blk_engine_kick(w->disk->engine);
    pthread_mutex_lock(&w->lock);
    while (!w->done)
        pthread_cond_wait(&w->changed, &w->lock);
    pthread_mutex_unlock(&w->lock);
    return NULL;
}

static const struct {
    BlkOp op;
    uint32_t flags;
} paths[] = {
    { BLK_OP_WRITE, 0 },            /* the fast lane */
    { BLK_OP_WRITE, TIDEMARK_FUA }, /* the others: the slow one */
    { BLK_OP_WRITE_ZEROES, 0 },
    { BLK_OP_DISCARD, 0 },
};

static void start(Writer *w, Disk *d, unsigned path)
{
    static char data[4096];

    *w = (Writer){ .request = { .op = paths[path].op,
                                .flags = paths[path].flags,
                                .offset = MIB,
                                .length = sizeof(data),
                                .buf = data,
                                .done = writer_done },
                   .disk = d,
                   .lock = PTHREAD_MUTEX_INITIALIZER,
                   .changed = PTHREAD_COND_INITIALIZER };
    hold(true);
    ck_assert_int_eq(pthread_create(&w->thread, NULL, write_it, w), 0);
    wait_for_call();
}

static void end(Writer *w)
{
    hold(false);
    pthread_join(w->thread, NULL);
    ck_assert_int_eq(w->result, 0);
}

/* What goes through a parent is marked by it and by the paths up from the child; what does not, by
 * the child alone. */
START_TEST(a_write_in_flight_is_in_both_epochs)
{
    Writer w;
    Disk d;

    disk_open(&d, _i % 2);
    start(&w, &d, _i / 2);
    ck_assert_uint_eq(bmp_bitmap_count(d.bitmap), 65536); /* it may reach the disk any time */
    bmp_set_change_begin(&d.set, 1);
    ck_assert(bmp_bitmap_clear(d.bitmap, NULL));
    bmp_set_change_end(&d.set, 1);
    ck_assert_uint_eq(bmp_bitmap_count(d.bitmap), 0);
    end(&w);
    ck_assert_uint_eq(bmp_bitmap_count(d.bitmap), 65536);
    disk_close(&d);
}
END_TEST

static void *release(void *opaque)
{
    usleep(50000); /* in which a change that does not wait would have begun */
    hold(false);
    return opaque;
}

/* What a store is to call clean is on the disk before: the change waits for it. */
START_TEST(a_change_with_a_store_waits_for_writes_in_flight)
{
    Writer w;
    Disk d;
    pthread_t thread;
    BlkNode *file;

    disk_open(&d, false);
    file = blk_graph_find(d.graph, "f", NULL);
    ck_assert_ptr_nonnull(file);
    start(&w, &d, _i);
    ck_assert_int_eq(pthread_create(&thread, NULL, release, NULL), 0);
    blk_bitmaps_change_begin(&file, 1);
    ck_assert(!is_held());
    blk_bitmaps_change_end(&file, 1);
    pthread_join(thread, NULL);
    end(&w);
    disk_close(&d);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("straddle");
    TCase *tc = tcase_create("straddle");
    SRunner *runner = srunner_create(suite);
    int failed;

    tcase_set_timeout(tc, 60);
    tcase_add_loop_test(tc, a_write_in_flight_is_in_both_epochs, 0, 2 * G_N_ELEMENTS(paths));
    tcase_add_loop_test(tc, a_change_with_a_store_waits_for_writes_in_flight, 0,
                        G_N_ELEMENTS(paths));
    suite_add_tcase(suite, tc);
    srunner_run_all(runner, CK_ENV);
    failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
