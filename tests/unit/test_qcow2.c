/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* tests/unit/test_qcow2.c: what of qcow2 images takes a moment to be met on purpose: two requests
 * that come in each other's way. */
#include "block/bitmaps.h"
#include "block/image/image.h"
#include "tests/unit/drivers_util.h"
#include "util/endian.h"

#include <pthread.h>

#define CLUSTER 1024u
#define COVERED ((uint64_t)CLUSTER * CLUSTER / 8) /* by an L2 table */

static BlkNode *reopen(const char *name, const char *more)
{
    g_autofree char *path = path_of(name);

    return add("{'driver':'qcow2','node-name':'q','discard':'unmap','backing':null%s,"
               "'file':{'driver':'file','filename':'%s'}}",
               more, path);
}

/* An image of 1 MiB in the file of that name, and a node on it. */
static BlkNode *new_image(const char *name, const char *create, const char *more)
{
    g_autofree char *path = path_of(name);
    g_autofree char *text = NULL;
    json_object *options;
    g_autoptr(GError) error = NULL;
    bool ok;

    make_file(name, 0);
    text = g_strdup_printf("{'driver':'qcow2','file':{'driver':'file','filename':'%s'},"
                           "'size':1048576,'cluster-size':%u%s}",
                           path, CLUSTER, create);
    g_strdelimit(text, "'", '"');
    options = json_tokener_parse(text);
    ok = blk_image_create(graph, options, NULL, NULL, &error);
    json_object_put(options);
    ck_assert_msg(ok, "%s", error ? error->message : "?");
    return reopen(name, more);
}

/* ---- a read that takes long */

static struct {
    uint64_t offset; /* in the file; 0: none */
    pthread_mutex_t lock;
    pthread_cond_t changed;
    bool there, go_on;
} slow = { .lock = PTHREAD_MUTEX_INITIALIZER, .changed = PTHREAD_COND_INITIALIZER };

/* The first read at that place has its bytes, and doesn't return before it is allowed to. */
static void hold_read(off_t offset, size_t length)
{
    pthread_mutex_lock(&slow.lock);
    if (slow.offset && (uint64_t)offset == slow.offset && !slow.there) {
        slow.there = true;
        pthread_cond_broadcast(&slow.changed);
        while (!slow.go_on)
            pthread_cond_wait(&slow.changed, &slow.lock);
    }
    pthread_mutex_unlock(&slow.lock);
}

static void wait_for_read(void)
{
    pthread_mutex_lock(&slow.lock);
    while (!slow.there)
        pthread_cond_wait(&slow.changed, &slow.lock);
    pthread_mutex_unlock(&slow.lock);
}

static void let_read_go_on(void)
{
    pthread_mutex_lock(&slow.lock);
    slow.go_on = true;
    pthread_cond_broadcast(&slow.changed);
    pthread_mutex_unlock(&slow.lock);
}

static void *read_start(void *node)
{
    char buf[CLUSTER];

    return GINT_TO_POINTER(blk_node_pread(node, buf, 0, sizeof(buf)));
}

static void put64(const char *name, uint64_t at, uint64_t value)
{
    g_autofree char *path = path_of(name);
    uint8_t bytes[8];
    int fd = open(path, O_RDWR);

    ck_assert_int_ge(fd, 0);
    tm_put_be64(bytes, value);
    ck_assert_int_eq(pwrite(fd, bytes, sizeof(bytes), (off_t)at), sizeof(bytes));
    close(fd);
}

static uint64_t get64(const char *name, uint64_t at)
{
    g_autofree char *path = path_of(name);
    uint8_t bytes[8];
    int fd = open(path, O_RDONLY);

    ck_assert_int_ge(fd, 0);
    ck_assert_int_eq(pread(fd, bytes, sizeof(bytes), (off_t)at), sizeof(bytes));
    close(fd);
    return tm_get_be64(bytes);
}

/* Where the L2 table @index is. */
static uint64_t table_at(const char *name, unsigned index)
{
    return get64(name, get64(name, 40) + index * 8) & UINT64_C(0x00fffffffffffe00);
}

/* While one request reads a table, others read it, too, change it and put it on the medium, and it
 * goes from the cache: what the first has read is not what the table says. */
START_TEST(a_table_changed_while_it_is_read_is_not_stale)
{
    BlkNode *node = new_image("i", "", ",'l2-cache-size':1");
    pthread_t reader;
    void *ret;

    for (unsigned i = 0; i < 4; i++)
        write_pattern(node, i * COVERED, CLUSTER, i);
    ck_assert_int_eq(blk_node_flush(node), 0);
    fake.after_read = hold_read;
    slow.offset = table_at("i", 0);
    ck_assert_int_eq(pthread_create(&reader, NULL, read_start, node), 0);
    wait_for_read();
    write_pattern(node, CLUSTER, CLUSTER, 7);
    ck_assert_int_eq(blk_node_flush(node), 0);
    for (unsigned i = 1; i < 4; i++)
        ck_assert(reads_pattern(node, i * COVERED, CLUSTER, i));
    let_read_go_on();
    pthread_join(reader, &ret);
    ck_assert_int_eq(GPOINTER_TO_INT(ret), 0);
    ck_assert(reads_pattern(node, CLUSTER, CLUSTER, 7));
}
END_TEST

/* Tables that can't go make a commit when the cache is full; when it is done they can, and the
 * next write in one of them takes no other. */
START_TEST(a_full_table_cache_makes_room_by_a_commit)
{
    BlkNode *node = new_image("i", "", ",'l2-cache-size':4096");
    int syncs;

    for (unsigned i = 0; i < 5; i++)
        write_pattern(node, i * COVERED, CLUSTER, i);
    ck_assert_int_gt(fake.syncs, 0);
    syncs = fake.syncs;
    for (unsigned i = 1; i < 20; i++)
        write_pattern(node, 4 * COVERED + i * CLUSTER, CLUSTER, i);
    ck_assert_int_le(fake.syncs, syncs + 3);
    for (unsigned i = 0; i < 5; i++)
        ck_assert(reads_pattern(node, i * COVERED, CLUSTER, i));
}
END_TEST

/* Reads go on when it is full of what can't be written. */
START_TEST(reads_go_on_with_a_cache_full_of_failed_tables)
{
    BlkNode *node = new_image("i", "", ",'l2-cache-size':1");

    for (unsigned i = 0; i < 3; i++)
        write_pattern(node, i * COVERED, CLUSTER, i);
    ck_assert_int_eq(blk_node_flush(node), 0);
    write_pattern(node, CLUSTER, CLUSTER, 7);
    fake.write_error = EIO;
    for (unsigned i = 0; i < 3; i++)
        ck_assert(reads_pattern(node, i * COVERED, CLUSTER, i));
    ck_assert(reads_pattern(node, CLUSTER, CLUSTER, 7));
    ck_assert_int_eq(blk_node_flush(node), -EIO);
    fake.write_error = 0;
    ck_assert_int_eq(blk_node_flush(node), 0);
    ck_assert(reads_pattern(node, CLUSTER, CLUSTER, 7));
}
END_TEST

/* A node that goes writes what was not flushed: if it can't, it reports that. */
START_TEST(closing_reports_what_could_not_be_written)
{
    BlkNode *node = new_image("i", "", "");
    TmLog *log = tm_log_new(NULL);
    g_autoptr(GPtrArray) logged = NULL;

    blk_graph_set_log(graph, log);
    write_pattern(node, 0, CLUSTER, 1);
    fake.write_error = EIO;
    del("q");
    fake.write_error = 0;
    logged = tm_log_last(log, 1);
    ck_assert_int_eq(logged->len, 1);
    ck_assert_str_eq(((TmLogEntry *)logged->pdata[0])->text,
                     "node 'q': data that was not flushed could not be written when it was closed: "
                     "Input/output error");
    ck_assert(!blk_graph_free(graph));
    graph = NULL;
    tm_log_free(log);
}
END_TEST

/* Version 2 has no entry for it: the clusters would be nobody's. */
START_TEST(discard_no_unref_is_refused_in_version_2)
{
    g_autofree char *path = path_of("i");

    new_image("i", ",'version':'v2'", "");
    del("q");
    assert_refused("discard-no-unref is only supported since qcow2 version 3",
                   "{'driver':'qcow2','node-name':'q','discard-no-unref':true,"
                   "'file':{'driver':'file','filename':'%s'}}",
                   path);
}
END_TEST

/* ---- a header in doubt */

static int header_fails(off_t offset)
{
    return offset == 0 ? EIO : 0;
}

static bool resize(BlkNode *node, uint64_t size)
{
    return blk_graph_resize(graph, node, size, NULL);
}

/* Writing the header fails, but it has been written: it names another L1 than we do, or another
 * size. What is written and flushed afterwards is there. */
START_TEST(a_failed_header_write_loses_nothing_written_later)
{
    BlkNode *node = new_image("i", "", "");
    uint64_t l1 = get64("i", 40);

    write_pattern(node, 0, CLUSTER, 1);
    fake.after_write = header_fails;
    ck_assert(!resize(node, _i ? MIB / 2 : 2 * MIB));
    ck_assert_int_eq(get64("i", 24) == MIB && get64("i", 40) == l1, false);
    write_pattern(node, 6 * COVERED, CLUSTER, 2);
    ck_assert_int_eq(blk_node_flush(node), -EIO);
    fake.after_write = NULL;
    ck_assert_int_eq(blk_node_flush(node), 0);
    ck_assert_uint_eq(get64("i", 24), MIB);
    ck_assert_uint_eq(get64("i", 40), l1);
    del("q");
    node = reopen("i", "");
    ck_assert_uint_eq(blk_node_size(node), MIB);
    ck_assert(reads_pattern(node, 0, CLUSTER, 1));
    ck_assert(reads_pattern(node, 6 * COVERED, CLUSTER, 2));
}
END_TEST

/* ---- bitmaps */

static void add_bitmap(BlkNode *node)
{
    BmpAddOptions options = { .persistent = true };

    blk_bitmaps_change_begin(&node, 1);
    bmp_bitmap_unref(bmp_set_add(blk_node_bitmaps(node), "b", &options, NULL));
    ck_assert(blk_bitmaps_commit(&node, 1, NULL));
    blk_bitmaps_change_end(&node, 1);
}

/* Of the first entry in the bitmap directory. */
static uint64_t flags_at(const char *name)
{
    uint64_t at = get64(name, 96) & UINT32_MAX; /* where the header's extensions begin */

    while (get64(name, at) >> 32 != 0x23852875)
        at += 8 + (((get64(name, at) & UINT32_MAX) + 7) & ~UINT64_C(7));
    return get64(name, at + 24) + 12;
}

static struct {
    uint64_t at;
    int syncs; /* before the flags were written */
} in_use;

static int note_flags(off_t offset)
{
    if ((uint64_t)offset == in_use.at)
        in_use.syncs = __atomic_load_n(&fake.syncs, __ATOMIC_RELAXED);
    return 0;
}

/* When an image is open for writing its bitmaps are in use for whoever reads the medium. */
START_TEST(bitmaps_are_in_use_before_anything_is_written)
{
    BlkNode *node = new_image("i", "", "");

    add_bitmap(node);
    del("q");
    in_use.at = flags_at("i");
    ck_assert_uint_eq(get64("i", in_use.at) >> 32 & 1, 0);
    in_use.syncs = -1;
    fake.after_write = note_flags;
    reopen("i", "");
    ck_assert_uint_eq(get64("i", in_use.at) >> 32 & 1, 1);
    ck_assert_int_ge(in_use.syncs, 0);
    ck_assert_int_gt(fake.syncs, in_use.syncs);
    fake.after_write = NULL;
}
END_TEST

/* ---- what is let go and can't be */

/* Entries that say that metadata, or what is no cluster, holds data: discarding it doesn't make it
 * free, to be given to other data. */
START_TEST(discarding_does_not_free_metadata)
{
    BlkNode *node = new_image("i", "", "");
    uint64_t table, places[4];

    write_pattern(node, 0, CLUSTER, 1);
    write_pattern(node, COVERED, CLUSTER, 2);
    del("q");
    table = table_at("i", 0);
    places[0] = get64("i", get64("i", 48));      /* a refcount block */
    places[1] = get64("i", 40);                  /* L1 */
    places[2] = table_at("i", 1);                /* an L2 table */
    places[3] = get64("i", table) + CLUSTER / 2; /* unaligned */
    put64("i", table + 8, places[_i] | UINT64_C(1) << 63);

    node = reopen("i", "");
    ck_assert_int_eq(blk_node_discard(node, CLUSTER, CLUSTER, 0), 0);
    ck_assert_int_eq(blk_node_flush(node), -EIO);
    ck_assert_int_eq(blk_node_write_zeroes(node, 2 * CLUSTER, CLUSTER, 0), -EIO);
    del("q");
    ck_assert_uint_eq(get64("i", 72) & 2, 2);
    ck_assert_uint_eq(get64("i", table + 8), places[_i] | UINT64_C(1) << 63);
}
END_TEST

/* Tables that the header places over others: the image is not opened to be written. */
START_TEST(an_image_with_overlapping_tables_is_not_written)
{
    BlkNode *node = new_image("i", "", "");
    g_autofree char *path = path_of("i");

    ck_assert_ptr_nonnull(node);
    del("q");
    if (_i == 0) {
        put64("i", 40, 0); /* L1 over the header */
    } else {
        put64("i", 56, UINT64_C(1) << 32 | 1); /* one cluster of refcount table, one snapshot */
        put64("i", 64, get64("i", _i == 1 ? 40 : 48)); /* in L1, in the refcount table */
    }
    assert_refused(_i < 2 ? "qcow2: the L1 table or the snapshot table overlaps other metadata: "
                            "the image is corrupt; repair it, or open it read-only"
                          : "qcow2: the refcount table at 1024 overlaps other metadata",
                   "{'driver':'qcow2','node-name':'q','file':{'driver':'file','filename':'%s'}}",
                   path);
}
END_TEST

/* What a filter, or the part of an image, shows is a hole where the image says so. */
START_TEST(holes_show_through_a_filter)
{
    static const char *const drivers[] = { "raw", "compress" };
    BlkNode *node;

    ck_assert_ptr_nonnull(new_image("i", "", ""));
    node = add("{'driver':'%s','node-name':'r','file':'q'}", drivers[_i]);
    write_pattern(node, 65536, 65536, 1);
    assert_status(node, "hole,zero 65536, data 65536, hole,zero 917504");
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("qcow2");
    TCase *tests = tcase_create("qcow2");
    SRunner *runner;
    int failed;

    tcase_add_checked_fixture(tests, open_on_disk, close_graph);
    tcase_set_timeout(tests, 60);
    tcase_add_test(tests, a_table_changed_while_it_is_read_is_not_stale);
    tcase_add_test(tests, a_full_table_cache_makes_room_by_a_commit);
    tcase_add_test(tests, reads_go_on_with_a_cache_full_of_failed_tables);
    tcase_add_test(tests, closing_reports_what_could_not_be_written);
    tcase_add_test(tests, discard_no_unref_is_refused_in_version_2);
    tcase_add_loop_test(tests, a_failed_header_write_loses_nothing_written_later, 0, 2);
    tcase_add_test(tests, bitmaps_are_in_use_before_anything_is_written);
    tcase_add_loop_test(tests, discarding_does_not_free_metadata, 0, 4);
    tcase_add_loop_test(tests, an_image_with_overlapping_tables_is_not_written, 0, 3);
    tcase_add_loop_test(tests, holes_show_through_a_filter, 0, 2);
    suite_add_tcase(suite, tests);
    runner = srunner_create(suite);
    srunner_run_all(runner, CK_ENV);
    failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed ? 1 : 0;
}
