/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* tests/unit/test_losses.c: what bitmaps say once a flush of their disk has failed: what was read
 * since may not be on the medium, also where the file was opened anew and flushes work again. */
#include "tests/unit/drivers_util.h"

#include "bitmap/store/store.h"
#include "block/bitmaps.h"
#include "block/image/image.h"

#define SIZE (64 * MIB)

static const uint8_t this_boot[16] = { 1 }, next_boot[16] = { 2 };

static BlkNode *add_raw(const char *name)
{
    g_autofree char *path = path_of(name);

    return add("{'driver':'raw','node-name':'%s','file':{'driver':'file','filename':'%s'}}", name,
               path);
}

static BlkNode *begin(void)
{
    open_graph("/tmp");
    blk_graph_set_boot_id(graph, this_boot);
    make_file("a", SIZE);
    make_file("b", SIZE);
    return add_raw("a");
}

/* Another daemon, in that boot. */
static void restart(const uint8_t boot[16])
{
    BlkEngineOptions options = { .io = BLK_IO_THREADS, .loops = 1, .workers = 1 };

    blk_graph_free(graph);
    blk_engine_free(engine);
    engine = blk_engine_new(&options, NULL);
    graph = blk_graph_new(registry, engine, &fake_sys);
    blk_graph_set_boot_id(graph, boot);
}

static BmpBitmap *bitmap(BlkNode *node, const char *name)
{
    return bmp_set_find(blk_node_bitmaps(node), name, NULL);
}

static bool make(BlkNode *node, const char *name, bool persistent)
{
    BmpAddOptions options = { .granularity = 65536, .persistent = persistent };
    g_autoptr(BmpBitmap) made = NULL;
    bool ok;

    blk_bitmaps_change_begin(&node, 1);
    made = bmp_set_add(blk_node_bitmaps(node), name, &options, NULL);
    ck_assert_ptr_nonnull(made);
    ok = blk_bitmaps_commit(&node, 1, NULL);
    if (!ok)
        bmp_bitmap_remove(made, NULL);
    blk_bitmaps_change_end(&node, 1);
    return ok;
}

static void apply(BlkNode *node, const char *name, bool (*fn)(BmpBitmap *bitmap, GError **error))
{
    g_autoptr(BmpBitmap) b = bitmap(node, name);

    blk_bitmaps_change_begin(&node, 1);
    ck_assert(fn(b, NULL) && blk_bitmaps_commit(&node, 1, NULL));
    blk_bitmaps_change_end(&node, 1);
}

static uint64_t dirty(BlkNode *node, const char *name)
{
    g_autoptr(BmpBitmap) b = bitmap(node, name);

    ck_assert_ptr_nonnull(b);
    return bmp_bitmap_count(b);
}

static void fail_flush(BlkNode *node)
{
    fake.sync_error = EIO;
    ck_assert_int_eq(blk_node_flush(node), -EIO);
    fake.sync_error = 0;
    ck_assert_int_eq(blk_node_flush(node), -EIO);
}

START_TEST(after_a_failed_flush_bitmaps_of_its_node_are_dirty)
{
    BlkNode *node = begin(), *other = add_raw("b");

    write_pattern(node, 0, 4096, 1);
    ck_assert(make(node, "m", false) && make(node, "kept", true) && make(other, "m", false));
    write_pattern(node, MIB, 4096, 1);
    fail_flush(node);
    blk_bitmaps_heal(graph);
    ck_assert_uint_eq(dirty(node, "m"), SIZE); /* it began before the flush that failed */
    ck_assert_uint_eq(dirty(node, "kept"), 65536);
    ck_assert_uint_eq(dirty(other, "m"), 0);
    ck_assert(!make(node, "p", true));
    ck_assert(make(node, "late", false) && make(other, "p", true));
    ck_assert_uint_eq(dirty(node, "late"), SIZE);
    ck_assert_uint_eq(dirty(other, "p"), 0);
    close_graph();
}
END_TEST

/* Whether the main thread has heard of it or not. */
START_TEST(after_a_failed_flush_a_reopened_file_begins_dirty)
{
    BlkNode *node = begin();
    g_autoptr(BmpBitmap) b = NULL;
    g_autofree char *why = NULL;

    write_pattern(node, 0, 4096, 1);
    fail_flush(node);
    if (_i)
        blk_bitmaps_heal(graph);
    del("a");
    node = add_raw("a");
    ck_assert_int_eq(blk_node_flush(node), 0);
    ck_assert(make(node, "p", true) && make(node, "m", false));
    ck_assert_uint_eq(dirty(node, "p"), SIZE);
    ck_assert_uint_eq(dirty(node, "m"), SIZE);
    b = bitmap(node, "p");
    why = bmp_bitmap_reason(b);
    ck_assert_str_eq(why, BMP_LOSS);
    ck_assert_uint_eq(bmp_bitmap_recovered(b), SIZE);
    /* A backup was read from the page cache again. */
    apply(node, "p", bmp_bitmap_clear);
    ck_assert_uint_eq(dirty(node, "p"), SIZE);
    apply(node, "p", bmp_bitmap_disable);
    apply(node, "p", bmp_bitmap_clear);
    ck_assert_uint_eq(dirty(node, "p"), 0);
    apply(node, "p", bmp_bitmap_enable);
    ck_assert_uint_eq(dirty(node, "p"), SIZE);
    close_graph();
}
END_TEST

/* The store of one that had bitmaps says it; the page cache is gone with the next boot. */
START_TEST(after_a_failed_flush_the_next_daemon_begins_dirty)
{
    bool rebooted = _i;
    BlkNode *node = begin();

    write_pattern(node, 0, 4096, 1);
    ck_assert(make(node, "p", true));
    write_pattern(node, MIB, 4096, 1);
    fail_flush(node);
    blk_bitmaps_heal(graph);
    restart(rebooted ? next_boot : this_boot);
    node = add_raw("a");
    ck_assert_uint_eq(dirty(node, "p"), SIZE); /* it could not be closed */
    apply(node, "p", bmp_bitmap_clear);
    ck_assert(make(node, "q", true));
    ck_assert_uint_eq(dirty(node, "p"), rebooted ? 0 : SIZE);
    ck_assert_uint_eq(dirty(node, "q"), rebooted ? 0 : SIZE);
    restart(rebooted ? next_boot : this_boot); /* and once more, after a clean end */
    node = add_raw("a");
    apply(node, "p", bmp_bitmap_clear);
    ck_assert_uint_eq(dirty(node, "p"), rebooted ? 0 : SIZE);
    close_graph();
}
END_TEST

static int disk_fdatasync(int fd)
{
    struct stat st;

    errno = EIO;
    return fstat(fd, &st) == 0 && st.st_size == SIZE ? -1 : 0;
}

/* Also where only the last flush of all fails, and the main thread hears of it then. */
START_TEST(a_failed_flush_at_the_end_is_noted_for_the_next_daemon)
{
    BlkNode *node = begin();

    ck_assert(make(node, "p", true));
    write_pattern(node, 0, 4096, 1);
    fake_sys.fdatasync = disk_fdatasync;
    restart(this_boot);
    fake_sys.fdatasync = fake_fdatasync;
    node = add_raw("a");
    apply(node, "p", bmp_bitmap_clear);
    ck_assert_uint_eq(dirty(node, "p"), SIZE);
    close_graph();
}
END_TEST

/* ---- what shows through */

static struct {
    ino_t ino;
    unsigned syncs;
} below;

static int count_fdatasync(int fd)
{
    struct stat st;

    below.syncs += fstat(fd, &st) == 0 && st.st_ino == below.ino;
    return 0;
}

/* An image over "b", which is written by others. */
static BlkNode *add_overlay(void)
{
    g_autofree char *path = path_of("q");
    g_autofree char *text =
        g_strdup_printf("{'driver':'qcow2','file':{'driver':'file','filename':'%s'},'size':%u}",
                        path, (unsigned)SIZE);
    json_object *options;

    make_file("q", 0);
    g_strdelimit(text, "'", '"');
    options = json_tokener_parse(text);
    ck_assert(blk_image_create(graph, options, NULL, NULL, NULL));
    json_object_put(options);
    return add("{'driver':'qcow2','node-name':'q','backing':'b',"
               "'file':{'driver':'file','filename':'%s'}}",
               path);
}

START_TEST(a_record_begins_after_the_data_of_backings)
{
    BlkNode *base, *node;

    begin();
    base = add_raw("b");
    node = add_overlay();
    below.ino = stat_of("b").st_ino;
    below.syncs = 0;
    fake_sys.fdatasync = count_fdatasync;
    write_pattern(base, MIB, 4096, 1);
    ck_assert(make(node, "p", true));
    ck_assert_uint_gt(below.syncs, 0);
    write_pattern(base, MIB, 4096, 2);
    ck_assert_uint_eq(dirty(node, "p"), 65536);
    below.syncs = 0;
    apply(node, "p", bmp_bitmap_clear);
    ck_assert_uint_gt(below.syncs, 0);
    ck_assert_uint_eq(dirty(node, "p"), 0);
    fake_sys.fdatasync = fake_fdatasync;
    fail_flush(base);
    blk_bitmaps_heal(graph);
    ck_assert(make(node, "m", false)); /* it shows what may go */
    ck_assert_uint_eq(dirty(node, "m"), SIZE);
    ck_assert_uint_eq(dirty(node, "p"), 0);
    close_graph();
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("losses");
    TCase *tc = tcase_create("losses");
    SRunner *runner = srunner_create(suite);
    int failed;

    tcase_add_test(tc, after_a_failed_flush_bitmaps_of_its_node_are_dirty);
    tcase_add_loop_test(tc, after_a_failed_flush_a_reopened_file_begins_dirty, 0, 2);
    tcase_add_loop_test(tc, after_a_failed_flush_the_next_daemon_begins_dirty, 0, 2);
    tcase_add_test(tc, a_failed_flush_at_the_end_is_noted_for_the_next_daemon);
    tcase_add_test(tc, a_record_begins_after_the_data_of_backings);
    suite_add_tcase(suite, tc);
    srunner_run_all(runner, CK_ENV);
    failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
