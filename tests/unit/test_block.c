/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* tests/unit/test_block.c: the graph, both lanes of a request, and the stripes, on real files. */
#include "block/engine/inflight.h"
#include "block/graph.h"
#include "block/io/request.h"
#include "tests/asserts.h"
#include "util/range.h"

#include <fcntl.h>
#include <glib/gstdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define MIB (UINT64_C(1) << 20)

/* ---- a graph over a temporary directory */

static char *dir;
static BlkRegistry *registry;
static BlkEngine *engine;
static BlkGraph *graph;

static void open_with(const BlkEngineOptions *options, const TmSys *sys)
{
    dir = g_dir_make_tmp("tm-block-XXXXXX", NULL);
    registry = blk_registry_new(sys);
    engine = blk_engine_new(options, NULL);
    ck_assert_ptr_nonnull(engine);
    graph = blk_graph_new(registry, engine, sys);
}

static void open_all(BlkIoEngine io)
{
    BlkEngineOptions options = { .io = io };

    open_with(&options, &tm_sys_kernel);
}

static void close_all(void)
{
    g_autofree char *command = g_strdup_printf("rm -rf '%s'", dir);

    blk_graph_free(graph);
    blk_engine_free(engine);
    blk_registry_free(registry);
    ck_assert_int_eq(system(command), 0);
    g_clear_pointer(&dir, g_free);
}

static BlkNode *add(const char *format, ...) G_GNUC_PRINTF(1, 2);

/* Adds a node; "%s" of a file name within the directory is up to the caller. */
static BlkNode *add(const char *format, ...)
{
    g_autofree char *text = NULL;
    g_autoptr(GError) error = NULL;
    json_object *options;
    BlkNode *node;
    va_list ap;

    va_start(ap, format);
    text = g_strdup_vprintf(format, ap);
    va_end(ap);
    options = json_tokener_parse(text);
    ck_assert_ptr_nonnull(options);
    node = blk_graph_add(graph, options, &error);
    json_object_put(options);
    if (!node)
        ck_assert_msg(error != NULL, "no error for %s", text);
    return node;
}

static void make_file(const char *name, uint64_t size)
{
    g_autofree char *path = g_build_filename(dir, name, NULL);
    int fd = open(path, O_CREAT | O_RDWR, 0600);

    ck_assert_int_ge(fd, 0);
    ck_assert_int_eq(ftruncate(fd, (off_t)size), 0);
    close(fd);
}

/* ---- requests that are waited for */

typedef struct Waited {
    BlkRequest request;
    pthread_mutex_t lock;
    pthread_cond_t changed;
    bool done;
    int result;
} Waited;

static void waited_done(BlkRequest *request, int result)
{
    Waited *w = (Waited *)request;

    pthread_mutex_lock(&w->lock);
    w->done = true;
    w->result = result;
    pthread_cond_signal(&w->changed);
    pthread_mutex_unlock(&w->lock);
}

static Waited waited(BlkOp op, void *buf, uint64_t offset, uint64_t length, uint32_t flags)
{
    return (Waited){ .request = { .op = op,
                                  .flags = flags,
                                  .offset = offset,
                                  .length = length,
                                  .buf = buf,
                                  .done = waited_done },
                     .lock = PTHREAD_MUTEX_INITIALIZER,
                     .changed = PTHREAD_COND_INITIALIZER };
}

static int result_of(Waited *w)
{
    pthread_mutex_lock(&w->lock);
    while (!w->done)
        pthread_cond_wait(&w->changed, &w->lock);
    pthread_mutex_unlock(&w->lock);
    return w->result;
}

static int run(BlkNode *node, BlkOp op, void *buf, uint64_t offset, uint64_t length, uint32_t flags)
{
    Waited w = waited(op, buf, offset, length, flags);
    int ret = blk_submit(node, &w.request);

    if (ret != -EINPROGRESS)
        return ret;
    blk_engine_kick(engine);
    return result_of(&w);
}

static BmpBitmap *add_bitmap(BlkNode *node, const char *name, uint64_t granularity)
{
    BmpSet *set = blk_node_bitmaps(node);
    BmpAddOptions options = { .granularity = granularity };
    BmpBitmap *bitmap;

    bmp_set_change_begin(&set, 1);
    bitmap = bmp_set_add(set, name, &options, NULL);
    bmp_set_change_end(&set, 1);
    ck_assert_ptr_nonnull(bitmap);
    return bitmap;
}

/* ---- the lanes */

/* The same requests with io_uring and without, direct and cached: what is written is read back, and
 * both nodes' bitmaps know it. */
static void lanes(BlkIoEngine io, bool direct)
{
    g_autofree char *path = NULL;
    g_autoptr(BmpBitmap) upper = NULL;
    g_autoptr(BmpBitmap) lower = NULL;
    g_autofree char *buf = g_aligned_alloc(1, MIB, 4096);
    BlkNode *node, *file;

    g_setenv("TMPDIR", "/var/tmp", TRUE); /* where O_DIRECT works */
    open_all(io);
    make_file("disk", 8 * MIB + 1000 * !direct);
    path = g_build_filename(dir, "disk", NULL);
    file = add("{\"driver\":\"file\",\"node-name\":\"f\",\"filename\":\"%s\",\"discard\":\"unmap\","
               "\"cache\":{\"direct\":%s}}",
               path, direct ? "true" : "false");
    if (!file) { /* a file system without O_DIRECT */
        ck_assert(direct);
        close_all();
        return;
    }
    node = add("{\"driver\":\"raw\",\"node-name\":\"r\",\"file\":\"f\",\"offset\":1048576,"
               "\"discard\":\"unmap\"}");
    ck_assert_ptr_nonnull(node);
    upper = add_bitmap(node, "u", 65536);
    lower = add_bitmap(file, "l", 65536);

    memset(buf, 0x5a, MIB);
    ck_assert_int_eq(run(node, BLK_OP_WRITE, buf, 4096, 8192, 0), 0);
    ck_assert_int_eq(run(node, BLK_OP_WRITE, buf, 3 * MIB + 4096, 4096, TIDEMARK_FUA), 0);
    ck_assert_int_eq(run(node, BLK_OP_WRITE, buf, MIB + 511, 3, 0), 0);
    ck_assert_int_eq(run(node, BLK_OP_FLUSH, NULL, 0, 0, 0), 0);
    memset(buf, 0, MIB);
    ck_assert_int_eq(run(node, BLK_OP_READ, buf, 4095, 8194, 0), 0);
    ck_assert_int_eq(buf[0], 0);
    ck_assert_int_eq(buf[1], 0x5a);
    ck_assert_int_eq(buf[8192], 0x5a);
    ck_assert_int_eq(buf[8193], 0);
    ck_assert_int_eq(run(node, BLK_OP_READ, buf, MIB + 510, 5, 0), 0);
    ck_assert_mem_eq(buf, "\0\x5a\x5a\x5a\0", 5);
    ck_assert_uint_eq(bmp_bitmap_count(upper), 3 * 65536);
    ck_assert_uint_eq(bmp_bitmap_count(lower), 3 * 65536);

    ck_assert_int_eq(run(node, BLK_OP_WRITE_ZEROES, NULL, 4096, 4096, 0), 0);
    ck_assert_int_eq(run(node, BLK_OP_DISCARD, NULL, 2 * MIB, MIB / 2, 0), 0);
    ck_assert_int_eq(run(node, BLK_OP_READ, buf, 4096, 8192, 0), 0);
    ck_assert_int_eq(buf[4095], 0);
    ck_assert_int_eq(buf[4096], 0x5a);
    ck_assert_uint_eq(bmp_bitmap_count(upper), 3 * 65536 + MIB / 2);
    ck_assert_uint_eq(bmp_bitmap_count(lower), 3 * 65536 + MIB / 2);

    ck_assert_int_eq(run(node, BLK_OP_READ, buf, blk_node_size(node), 1, 0), -EINVAL);
    ck_assert_int_eq(run(node, BLK_OP_WRITE, buf, blk_node_size(node) - 1, 2, 0), -ENOSPC);
    ck_assert_int_eq(run(node, BLK_OP_WRITE, buf, UINT64_MAX, 2, 0), -ENOSPC);
    g_clear_pointer(&upper, bmp_bitmap_unref);
    g_clear_pointer(&lower, bmp_bitmap_unref);
    close_all();
    g_aligned_free(g_steal_pointer(&buf));
}

START_TEST(both_lanes_keep_data_with_io_uring)
{
    lanes(BLK_IO_AUTO, false);
}
END_TEST

START_TEST(both_lanes_keep_data_with_io_uring_and_o_direct)
{
    lanes(BLK_IO_AUTO, true);
}
END_TEST

START_TEST(both_lanes_keep_data_with_threads)
{
    lanes(BLK_IO_THREADS, false);
}
END_TEST

START_TEST(both_lanes_keep_data_with_threads_and_o_direct)
{
    lanes(BLK_IO_THREADS, true);
}
END_TEST

/* A file that somebody else cut short reads as zeroes and takes nobody down. */
START_TEST(a_shrunk_file_reads_as_zeroes)
{
    g_autofree char *path = NULL;
    char buf[8192];
    BlkNode *node;

    open_all(BLK_IO_AUTO);
    make_file("disk", MIB);
    path = g_build_filename(dir, "disk", NULL);
    node = add("{\"driver\":\"file\",\"node-name\":\"f\",\"filename\":\"%s\"}", path);
    ck_assert_ptr_nonnull(node);
    ck_assert_int_eq(truncate(path, 6000), 0);
    memset(buf, 1, sizeof(buf));
    ck_assert_int_eq(run(node, BLK_OP_READ, buf, 0, 8192, 0), 0);
    for (size_t i = 0; i < sizeof(buf); i++)
        ck_assert_int_eq(buf[i], 0);
    close_all();
}
END_TEST

START_TEST(resize_marks_what_has_grown)
{
    g_autofree char *path = NULL;
    g_autoptr(BmpBitmap) bitmap = NULL;
    g_autoptr(GError) error = NULL;
    BlkUser *user;
    BlkNode *node;

    open_all(BLK_IO_AUTO);
    make_file("disk", MIB);
    path = g_build_filename(dir, "disk", NULL);
    node = add("{\"driver\":\"file\",\"node-name\":\"f\",\"filename\":\"%s\"}", path);
    bitmap = add_bitmap(node, "b", 65536);
    user = blk_node_use(node, "a test", 0, BLK_PERM_ALL & ~(BLK_PERM_RESIZE | BLK_PERM_GROW), NULL);
    ck_assert_ptr_nonnull(user);
    ck_assert(!blk_graph_resize(graph, node, 2 * MIB, &error));
    ck_assert_ptr_nonnull(strstr(error->message, "a test"));
    ck_assert(blk_user_set(user, 0, BLK_PERM_ALL & ~BLK_PERM_RESIZE, NULL));
    ck_assert(!blk_graph_resize(graph, node, MIB / 2, NULL));
    ck_assert(blk_graph_resize(graph, node, 2 * MIB, NULL));
    blk_node_release(user);
    ck_assert_uint_eq(blk_node_size(node), 2 * MIB);
    ck_assert_uint_eq(bmp_bitmap_count(bitmap), MIB);
    ck_assert(blk_graph_resize(graph, node, MIB / 2, NULL));
    ck_assert_uint_eq(bmp_bitmap_count(bitmap), 0);
    g_clear_pointer(&bitmap, bmp_bitmap_unref);
    close_all();
}
END_TEST

/* ---- the graph */

START_TEST(node_names_are_unique_and_well_formed)
{
    g_autoptr(GError) error = NULL;
    g_autoptr(GPtrArray) nodes = NULL;

    open_all(BLK_IO_THREADS);
    ck_assert_ptr_nonnull(add("{\"driver\":\"null-co\",\"node-name\":\"n0\"}"));
    ck_assert_ptr_null(add("{\"driver\":\"null-co\",\"node-name\":\"n0\"}"));
    ck_assert_ptr_null(add("{\"driver\":\"null-co\",\"node-name\":\"0n\"}"));
    ck_assert_ptr_null(add("{\"driver\":\"null-co\",\"node-name\":\"%s\"}",
                           "a123456789012345678901234567890123456789"));
    ck_assert_ptr_null(add("{\"driver\":\"null-co\"}"));
    ck_assert_ptr_null(add("{\"driver\":\"no-such\",\"node-name\":\"n1\"}"));
    ck_assert_ptr_null(add("{\"driver\":\"null-co\",\"node-name\":\"n1\",\"bogus\":1}"));

    /* nested: it goes with its parent; and with a parent that fails to open */
    ck_assert_ptr_nonnull(add("{\"driver\":\"raw\",\"node-name\":\"r\",\"file\":"
                              "{\"driver\":\"null-co\",\"size\":4096}}"));
    ck_assert_ptr_null(add("{\"driver\":\"raw\",\"node-name\":\"s\",\"offset\":8192,\"file\":"
                           "{\"driver\":\"null-co\",\"node-name\":\"left\",\"size\":4096}}"));
    ck_assert_ptr_null(blk_graph_find(graph, "left", NULL));
    nodes = blk_graph_nodes(graph);
    ck_assert_uint_eq(nodes->len, 3);
    ck_assert_ptr_nonnull(add("{\"driver\":\"raw\",\"node-name\":\"t\",\"file\":\"n0\"}"));
    ck_assert(!blk_graph_del(graph, "n0", &error));
    ck_assert_str_eq(error->message, "Block device n0 is in use");
    ck_assert(blk_graph_del(graph, "t", NULL));
    ck_assert(blk_graph_del(graph, "n0", NULL));
    ck_assert(blk_graph_del(graph, "r", NULL));
    g_ptr_array_unref(g_steal_pointer(&nodes));
    nodes = blk_graph_nodes(graph);
    ck_assert_uint_eq(nodes->len, 0);
    close_all();
}
END_TEST

/* ---- stripes */

START_TEST(exclusive_ranges_exclude_all_others)
{
    BlkInflight x;

    blk_inflight_init(&x, NULL);
    ck_assert(blk_inflight_try_shared(&x, 0, 4096));
    ck_assert(blk_inflight_try_shared(&x, 100, 4096)); /* shared with itself */
    blk_inflight_exclusive(&x, 4 * MIB, 2 * MIB);      /* elsewhere */
    ck_assert(!blk_inflight_try_shared(&x, 5 * MIB, 1));
    ck_assert(!blk_inflight_try_shared(&x, 4 * MIB - 1, 2)); /* its second stripe is held */
    ck_assert(blk_inflight_try_shared(&x, 3 * MIB, 1));      /* and the first was given back */
    blk_inflight_shared_end(&x, 3 * MIB, 1);
    blk_inflight_exclusive_end(&x, 4 * MIB, 2 * MIB);
    ck_assert(blk_inflight_try_shared(&x, 4 * MIB - 1, 2));
    blk_inflight_shared_end(&x, 4 * MIB - 1, 2);
    blk_inflight_shared_end(&x, 0, 4096);
    blk_inflight_shared_end(&x, 100, 4096);
    blk_inflight_drain(&x);
    ck_assert(!blk_inflight_try_shared(&x, 63 * MIB, 1));
    blk_inflight_drain_end(&x);
    for (unsigned i = 0; i < BLK_STRIPES; i++)
        ck_assert_uint_eq(x.stripe[i].state, 0);
    blk_inflight_destroy(&x);
}
END_TEST

typedef struct Racer {
    BlkInflight *x;
    uint64_t *cells; /* one a MiB; a shared holder sees it even, an exclusive one makes it odd
                        meanwhile */
    unsigned seed;
} Racer;

static void *race(void *arg)
{
    Racer *r = arg;

    for (int i = 0; i < 4000; i++) {
        uint64_t first = (uint64_t)rand_r(&r->seed) % 100, n = 1 + (uint64_t)rand_r(&r->seed) % 3;

        if (rand_r(&r->seed) % 4) {
            blk_inflight_shared(r->x, first * MIB, n * MIB);
            for (uint64_t k = first; k < first + n; k++)
                ck_assert_uint_eq(r->cells[k] & 1, 0);
            blk_inflight_shared_end(r->x, first * MIB, n * MIB);
        } else {
            blk_inflight_exclusive(r->x, first * MIB, n * MIB);
            for (uint64_t k = first; k < first + n; k++)
                ck_assert_uint_eq(r->cells[k]++ & 1, 0);
            for (uint64_t k = first; k < first + n; k++)
                r->cells[k]++;
            blk_inflight_exclusive_end(r->x, first * MIB, n * MIB);
        }
    }
    return NULL;
}

typedef struct Turns {
    BlkInflight x;
    bool stop; /* atomic */
} Turns;

static void *come_again(void *opaque)
{
    Turns *t = opaque;

    while (!__atomic_load_n(&t->stop, __ATOMIC_RELAXED)) {
        blk_inflight_exclusive(&t->x, 0, 1000 * MIB);
        usleep(1000);
        blk_inflight_exclusive_end(&t->x, 0, 1000 * MIB);
    }
    return NULL;
}

/* An exclusive holder that comes back at once does not keep the others out. */
START_TEST(an_exclusive_holder_lets_others_have_their_turn)
{
    Turns t = { .stop = false };
    pthread_t thread;

    blk_inflight_init(&t.x, NULL);
    ck_assert_int_eq(pthread_create(&thread, NULL, come_again, &t), 0);
    for (int i = 0; i < 200; i++) {
        blk_inflight_shared(&t.x, MIB / 2, 3 * MIB);
        blk_inflight_shared_end(&t.x, MIB / 2, 3 * MIB);
    }
    __atomic_store_n(&t.stop, true, __ATOMIC_RELAXED);
    pthread_join(thread, NULL);
    ck_assert_uint_eq(t.x.waiting + t.x.first, 0);
    blk_inflight_destroy(&t.x);
}
END_TEST

START_TEST(exclusive_ranges_exclude_under_a_race)
{
    BlkInflight x;
    uint64_t cells[103] = { 0 };
    pthread_t threads[4];
    Racer racers[4];

    blk_inflight_init(&x, NULL);
    for (unsigned i = 0; i < 4; i++) {
        racers[i] = (Racer){ &x, cells, i + 1 };
        ck_assert_int_eq(pthread_create(&threads[i], NULL, race, &racers[i]), 0);
    }
    for (unsigned i = 0; i < 4; i++)
        pthread_join(threads[i], NULL);
    blk_inflight_destroy(&x);
}
END_TEST

/* ---- workers */

typedef struct Meeting {
    pthread_mutex_t lock;
    pthread_cond_t changed;
    unsigned here, met;
} Meeting;

typedef struct Guest {
    BlkWork work;
    Meeting *meeting;
} Guest;

/* Blocks until the other one runs too. */
static void meet(BlkWork *work)
{
    Meeting *m = ((Guest *)work)->meeting;
    struct timespec until;
    int err = 0;

    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_sec += 10;
    pthread_mutex_lock(&m->lock);
    m->here++;
    pthread_cond_broadcast(&m->changed);
    while (m->here < 2 && !err)
        err = pthread_cond_timedwait(&m->changed, &m->lock, &until);
    if (!err)
        m->met++;
    pthread_mutex_unlock(&m->lock);
}

/* Work that comes in a burst does not wait for work that blocks while there may be more workers,
 * whether the first one is idle by then (often) or not. */
/* ---- pieces */

static struct {
    pthread_mutex_t lock; /* held: the next piece waits */
    useconds_t each;      /* what a piece takes */
    uint64_t next;        /* where it is to begin */
    uint64_t longest, at_sync;
    unsigned calls, cancel_after;
    bool cancel;
} pieces = { .lock = PTHREAD_MUTEX_INITIALIZER };

static int piece(int fd, int mode, off_t offset, off_t length)
{
    pthread_mutex_lock(&pieces.lock);
    ck_assert_uint_eq((uint64_t)offset, pieces.next);
    pieces.next += (uint64_t)length;
    pieces.longest = tm_max(pieces.longest, (uint64_t)length);
    if (++pieces.calls == pieces.cancel_after)
        __atomic_store_n(&pieces.cancel, true, __ATOMIC_RELAXED);
    pthread_mutex_unlock(&pieces.lock);
    usleep(pieces.each);
    return 0;
}

static int pieces_sync(int fd)
{
    pthread_mutex_lock(&pieces.lock);
    pieces.at_sync = pieces.next;
    pthread_mutex_unlock(&pieces.lock);
    return 0;
}

static void expect_pieces(uint64_t offset, useconds_t each, unsigned cancel_after)
{
    pieces.each = each;
    pieces.next = offset;
    pieces.longest = pieces.calls = 0;
    pieces.cancel_after = cancel_after;
    pieces.cancel = false;
}

/* What spans a large disk is done in pieces, in order: larger ones if they take no time. Another
 * request comes between them though there is one worker, and they can be given up. */
START_TEST(long_requests_are_done_in_pieces)
{
    BlkEngineOptions options = { .io = BLK_IO_THREADS, .workers = 1 };
    const uint64_t size = 1024 * 1024 * MIB;
    g_autofree char *path = NULL;
    TmSys sys = tm_sys_kernel;
    Waited trim, flush;
    BlkNode *node;

    sys.fallocate = piece;
    sys.fdatasync = pieces_sync;
    open_with(&options, &sys);
    make_file("disk", size);
    path = g_build_filename(dir, "disk", NULL);
    node = add("{\"driver\":\"file\",\"node-name\":\"f\",\"filename\":\"%s\","
               "\"discard\":\"unmap\"}",
               path);
    ck_assert_ptr_nonnull(node);

    expect_pieces(4096, 0, 0);
    ck_assert_int_eq(run(node, BLK_OP_DISCARD, NULL, 4096, size - 8192, TIDEMARK_FUA), 0);
    ck_assert_uint_eq(pieces.next, size - 4096);
    ck_assert_uint_gt(pieces.longest, 64 * MIB);
    ck_assert_uint_gt(pieces.calls, 1);
    ck_assert_uint_eq(pieces.at_sync, pieces.next);

    expect_pieces(0, 25000, 0);
    ck_assert_int_eq(run(node, BLK_OP_WRITE_ZEROES, NULL, 0, 320 * MIB, TIDEMARK_MAY_UNMAP), 0);
    ck_assert_uint_eq(pieces.next, 320 * MIB);
    ck_assert_uint_eq(pieces.calls, 5);
    ck_assert_uint_eq(pieces.longest, 64 * MIB);

    expect_pieces(0, 1000, 0);
    trim = waited(BLK_OP_DISCARD, NULL, 0, size, 0);
    flush = waited(BLK_OP_FLUSH, NULL, 0, 0, 0);
    pthread_mutex_lock(&pieces.lock);
    ck_assert_int_eq(blk_submit(node, &trim.request), -EINPROGRESS);
    ck_assert_int_eq(blk_submit(node, &flush.request), -EINPROGRESS);
    pthread_mutex_unlock(&pieces.lock);
    ck_assert_int_eq(result_of(&flush), 0);
    ck_assert_int_eq(result_of(&trim), 0);
    ck_assert_uint_lt(pieces.at_sync, size);
    ck_assert_uint_eq(pieces.next, size);

    expect_pieces(0, 0, 3);
    trim = waited(BLK_OP_DISCARD, NULL, 0, size, 0);
    trim.request.cancel = &pieces.cancel;
    ck_assert_int_eq(blk_submit(node, &trim.request), -EINPROGRESS);
    ck_assert_int_eq(result_of(&trim), -ESHUTDOWN);
    ck_assert_uint_eq(pieces.calls, 3);
    close_all();
}
END_TEST

START_TEST(a_burst_of_work_starts_enough_workers)
{
    for (int round = 0; round < 20; round++) {
        BlkEngineOptions options = { .io = BLK_IO_THREADS, .loops = 1 };
        BlkEngine *fresh = blk_engine_new(&options, NULL);
        Meeting m = { .lock = PTHREAD_MUTEX_INITIALIZER, .changed = PTHREAD_COND_INITIALIZER };
        Guest guests[2] = { { { .run = meet }, &m }, { { .run = meet }, &m } };

        ck_assert_ptr_nonnull(fresh);
        blk_engine_work(fresh, &guests[0].work);
        blk_engine_work(fresh, &guests[1].work);
        blk_engine_free(fresh);
        ck_assert_uint_eq(m.met, 2);
    }
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("block");
    TCase *tcase = tcase_create("block");
    SRunner *runner;
    int failed;

    tcase_set_timeout(tcase, 60);
    tcase_add_test(tcase, both_lanes_keep_data_with_io_uring);
    tcase_add_test(tcase, both_lanes_keep_data_with_io_uring_and_o_direct);
    tcase_add_test(tcase, both_lanes_keep_data_with_threads);
    tcase_add_test(tcase, both_lanes_keep_data_with_threads_and_o_direct);
    tcase_add_test(tcase, a_shrunk_file_reads_as_zeroes);
    tcase_add_test(tcase, resize_marks_what_has_grown);
    tcase_add_test(tcase, node_names_are_unique_and_well_formed);
    tcase_add_test(tcase, exclusive_ranges_exclude_all_others);
    tcase_add_test(tcase, an_exclusive_holder_lets_others_have_their_turn);
    tcase_add_test(tcase, exclusive_ranges_exclude_under_a_race);
    tcase_add_test(tcase, long_requests_are_done_in_pieces);
    tcase_add_test(tcase, a_burst_of_work_starts_enough_workers);
    suite_add_tcase(suite, tcase);
    runner = srunner_create(suite);
    srunner_run_all(runner, CK_ENV);
    failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
