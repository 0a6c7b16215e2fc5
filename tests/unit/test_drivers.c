/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* tests/unit/test_drivers.c: the drivers raw, null-co and null-aio, and the example plug-ins,
 * through a real graph. The file driver has test_file.c. */
#include "block/bitmaps.h"
#include "block/node_internal.h"
#include "tests/unit/drivers_util.h"

/* The tests that loop over it run once on a disk's file system and once on tmpfs. */
static const char *const places[] = { "/var/tmp", "/dev/shm" };

/* ---- raw */

/* What is written to the store when raw is opened anew: meanwhile somebody writes below it. */
static BlkNode *below;
static bool wrote_below; /* atomic */
static pthread_t writer;

static void *write_below(void *unused)
{
    write_pattern(below, 512 * KIB, 4096, 1);
    __atomic_store_n(&wrote_below, true, __ATOMIC_RELEASE);
    return unused;
}

static int write_meanwhile(off_t offset)
{
    fake.after_write = NULL;
    ck_assert_int_eq(pthread_create(&writer, NULL, write_below, NULL), 0);
    g_usleep(100000);
    ck_assert(!__atomic_load_n(&wrote_below, __ATOMIC_ACQUIRE));
    (void)offset;
    return 0;
}

START_TEST(raw_reopened_while_written_below)
{
    g_autofree char *options =
        g_strdelimit(g_strdup("[{'driver':'raw','node-name':'r','file':'f'}]"), "'", '"');
    json_object *list = json_tokener_parse(options);
    g_autoptr(BmpBitmap) bitmap = NULL;
    BlkNode *raw;

    open_on_disk();
    make_file("f", MIB);
    below = add_file("f", "");
    raw = add("{'driver':'raw','node-name':'r','file':'f'}");
    blk_bitmaps_change_begin(&raw, 1);
    bitmap = bmp_set_add(blk_node_bitmaps(raw), "b",
                         &(BmpAddOptions){ .granularity = 4096, .persistent = true }, NULL);
    ck_assert(bitmap && blk_bitmaps_commit(&raw, 1, NULL));
    blk_bitmaps_change_end(&raw, 1);
    fake.after_write = write_meanwhile;
    ck_assert(blk_graph_reopen(graph, list, NULL));
    ck_assert_ptr_null(fake.after_write);
    pthread_join(writer, NULL);
    ck_assert_uint_eq(bmp_bitmap_count(bitmap), 4096);
    json_object_put(list);
    close_graph();
}
END_TEST

START_TEST(raw_shows_a_window_of_its_file)
{
    BlkNode *file, *raw;

    open_graph(places[_i]);
    make_file("f", MIB);
    file = add_file("f", ",'discard':'unmap'");
    write_pattern(file, 0, MIB, 1);
    raw = add("{'driver':'raw','node-name':'r','file':'f','offset':1000,'size':65536,"
              "'discard':'unmap'}");
    ck_assert_uint_eq(blk_node_size(raw), 65536);
    g_autofree char *got = g_malloc(65536);
    g_autofree char *want = g_malloc(65536);
    pattern(want, 1000, 65536, 1);
    ck_assert_int_eq(blk_node_pread(raw, got, 0, 65536), 0);
    ck_assert_mem_eq(got, want, 65536);
    write_pattern(raw, 0, 65536, 2);
    ck_assert(reads_pattern(file, 0, 1000, 1));
    ck_assert(reads_pattern(file, 66536, 1000, 1));
    ck_assert_int_eq(blk_node_write_zeroes(raw, 0, 65536, TIDEMARK_MAY_UNMAP), 0);
    ck_assert(reads_zero(file, 1000, 65536));
    ck_assert(reads_pattern(file, 66536, 1000, 1));
    ck_assert_int_eq(blk_node_discard(raw, 0, 65536, 0), 0);
    assert_status(raw, "data 3096, hole,zero 61440, data 1000");
    ck_assert_int_eq(blk_node_pread(raw, got, 65536, 1), -EINVAL);
    ck_assert_int_eq(blk_node_flush(raw), 0);
    ck_assert_int_eq(blk_node_cache(raw, 0, 65536), 0);
    close_graph();
}
END_TEST

START_TEST(raw_refuses_wrong_windows)
{
    open_on_disk();
    make_file("f", MIB);
    add_file("f", "");
    assert_refused("Parameter 'file' is missing", "{'driver':'raw','node-name':'r'}");
    assert_refused("Offset (2097152) cannot be greater than size of the containing file (1048576)",
                   "{'driver':'raw','node-name':'r','file':'f','offset':2097152,'size':512}");
    assert_refused("The sum of offset (512) and size (1048576) has to be smaller or equal to the  "
                   "actual size of the containing file (1048576)",
                   "{'driver':'raw','node-name':'r','file':'f','offset':512,'size':1048576}");
    assert_refused("Specified size is not multiple of 512",
                   "{'driver':'raw','node-name':'r','file':'f','size':513}");
    ck_assert_uint_eq(
        blk_node_size(add("{'driver':'raw','node-name':'r','file':'f','offset':1048576}")), 0);
    close_graph();
}
END_TEST

START_TEST(raw_without_a_size_resizes_its_file)
{
    g_autoptr(GError) error = NULL;
    BlkNode *raw;

    open_on_disk();
    make_file("f", MIB);
    g_autofree char *f = path_of("f");
    raw = add("{'driver':'raw','node-name':'r','offset':512,'file':{'driver':'file',"
              "'filename':'%s'}}",
              f);
    ck_assert_uint_eq(blk_node_size(raw), MIB - 512);
    ck_assert_msg(blk_graph_resize(graph, raw, 2 * MIB, &error), "%s", error ? error->message : "");
    ck_assert_uint_eq(blk_node_size(raw), 2 * MIB);
    ck_assert_int_eq(stat_of("f").st_size, 2 * MIB + 512);
    ck_assert(!blk_graph_resize(graph, raw, INT64_MAX, &error));
    ck_assert_str_eq(error->message, "Disk size too large for the chosen offset");
    g_clear_error(&error);
    del("r");
    raw = add("{'driver':'raw','node-name':'r','size':512,'file':{'driver':'file',"
              "'filename':'%s'}}",
              f);
    ck_assert(!blk_graph_resize(graph, raw, 1024, &error));
    ck_assert_str_eq(error->message, "Cannot resize fixed-size raw disks");
    close_graph();
}
END_TEST

/* ---- null-co, null-aio */

static const char *const nulls[] = { "null-co", "null-aio" };

START_TEST(null_reads_zeroes_and_drops_writes)
{
    const char *name = nulls[_i];
    g_autofree char *filename = NULL;
    BlkNode *node;
    gint64 began;

    open_on_disk();
    node = add("{'driver':'%s','node-name':'n'}", name);
    ck_assert_uint_eq(blk_node_size(node), GIB);
    write_pattern(node, 0, 4096, 1);
    ck_assert(reads_zero(node, 0, 4096)); /* whatever the option says, no stray memory */
    assert_status(node, "hole 1073741824");
    ck_assert_int_eq(blk_node_write_zeroes(node, 0, GIB, TIDEMARK_FAST_ZERO), 0);
    node = add("{'driver':'%s','node-name':'z','size':4097,'read-zeroes':true}", name);
    assert_status(node, "hole,zero 4097");
    filename = blk_node_filename(node);
    ck_assert(g_str_has_prefix(filename, "json:{") && strstr(filename, name));
    node = add("{'driver':'%s','node-name':'slow','latency-ns':20000000}", name);
    began = g_get_monotonic_time();
    ck_assert_int_eq(blk_node_flush(node), 0);
    ck_assert_int_ge(g_get_monotonic_time() - began, 20000);
    assert_refused("Could not refresh total sector count: File too large",
                   "{'driver':'%s','node-name':'x','size':9223372036854775807}", name);
    close_graph();
}
END_TEST

/* ---- growing, as a format lets its file grow, while time passes */

#define GROWTHS 60u

static void *grow(void *opaque)
{
    BlkNode *node = opaque;

    for (unsigned i = 0; i < GROWTHS; i++)
        ck_assert_int_eq(blk_node_grow(node, blk_node_size(node) + MIB), 0);
    return NULL;
}

static void add_persistent(BlkNode *node)
{
    const BmpAddOptions options = { .persistent = true };
    g_autoptr(BmpBitmap) bitmap = NULL;

    blk_bitmaps_change_begin(&node, 1);
    bitmap = bmp_set_add(blk_node_bitmaps(node), "b", &options, NULL);
    ck_assert_ptr_nonnull(bitmap);
    ck_assert(blk_bitmaps_commit(&node, 1, NULL));
    blk_bitmaps_change_end(&node, 1);
}

/* What the thread sanitizer is for. */
START_TEST(a_file_that_grows_under_load_marks_its_growth)
{
    g_autoptr(BmpBitmap) bitmap = NULL;
    pthread_t threads[2];
    BlkNode *file;

    open_graph("/tmp");
    make_file("f", MIB);
    file = add_file("f", "");
    add_persistent(file);
    for (unsigned i = 0; i < 2; i++)
        ck_assert_int_eq(pthread_create(&threads[i], NULL, grow, file), 0);
    while (blk_node_size(file) < MIB * (GROWTHS + 1)) {
        blk_bitmaps_tick(graph);
        g_usleep(100);
    }
    for (unsigned i = 0; i < 2; i++)
        ck_assert_int_eq(pthread_join(threads[i], NULL), 0);
    bitmap = bmp_set_find(blk_node_bitmaps(file), "b", NULL);
    ck_assert_uint_eq(bmp_bitmap_count(bitmap), blk_node_size(file) - MIB);
    close_graph();
}
END_TEST

static struct {
    BlkNode *file;
    pthread_t thread;
    unsigned calls;
    uint64_t size; /* of the file, while its space was being changed */
} growing;

static void *grow_once(void *opaque)
{
    ck_assert_int_eq(blk_node_grow(growing.file, 64 * MIB), 0);
    return opaque;
}

/* A worker of the format above has the file grow just now. */
static void grow_in_between(void)
{
    if (growing.calls++)
        return;
    ck_assert_int_eq(pthread_create(&growing.thread, NULL, grow_once, NULL), 0);
    g_usleep(50000);
    growing.size = blk_node_size(growing.file);
}

/* What is punched beyond its end to see whether that works could be data by then; and the driver
 * drops what it remembers of the file when that is resized, while it is notified of a change. */
START_TEST(a_file_does_not_grow_while_its_space_is_changed)
{
    open_graph("/var/tmp");
    make_file("f", MIB);
    growing.file = add_file("f", "");
    growing.calls = 0;
    fake.before_fallocate = grow_in_between;
    if (_i)
        ck_assert_int_eq(blk_node_reserve(growing.file, 0, MIB), 0);
    else
        blk_node_can_invalidate(growing.file, 64 * KIB);
    fake.before_fallocate = NULL;
    if (growing.calls) { /* else the kernel can't show what is in the page cache */
        ck_assert_uint_eq(growing.size, MIB);
        ck_assert_int_eq(pthread_join(growing.thread, NULL), 0);
        ck_assert_uint_eq(blk_node_size(growing.file), 64 * MIB);
    }
    ck_assert(growing.calls || !_i);
    close_graph();
}
END_TEST

/* ---- the example plug-ins, by the way a plug-in is loaded */

static void load_plugins(void)
{
    g_autoptr(GPtrArray) refused = g_ptr_array_new_with_free_func(g_free);
    g_autoptr(GError) error = NULL;

    ck_assert_msg(blk_registry_load_dir(registry, TEST_PLUGIN_DIR "/modules", refused, &error),
                  "%s", error ? error->message : "");
    ck_assert_uint_eq(refused->len, 0);
}

START_TEST(the_ramdisk_plugin_keeps_what_is_written)
{
    BlkNode *node;

    open_on_disk();
    load_plugins();
    node = add("{'driver':'ramdisk','node-name':'m','size':1000001}");
    ck_assert_uint_eq(blk_node_size(node), 1000001);
    ck_assert(reads_zero(node, 0, 1000001));
    write_pattern(node, 777, 500000, 1);
    ck_assert(reads_pattern(node, 777, 500000, 1));
    ck_assert_int_eq(blk_node_write_zeroes(node, 1000, 1000, TIDEMARK_FUA), 0);
    ck_assert(reads_zero(node, 1000, 1000));
    ck_assert_int_eq(blk_node_discard(node, 0, 4096, 0), 0);
    assert_status(node, "data 1000001");
    ck_assert(blk_graph_resize(graph, node, 2 * MIB, NULL));
    ck_assert(reads_pattern(node, 2000, 400000, 1));
    ck_assert(reads_zero(node, 1000001, 2 * MIB - 1000001));
    assert_refused("Parameter 'size' expects a value from 0 to 1073741824, not 1073741825",
                   "{'driver':'ramdisk','node-name':'x','size':1073741825}");
    close_graph();
}
END_TEST

START_TEST(the_reverse_plugin_reverses_its_child)
{
    BlkNode *node, *file;

    open_on_disk();
    load_plugins();
    make_file("f", MIB);
    make_file("g", MIB);
    file = add_file("f", ",'discard':'unmap'");
    node = add("{'driver':'reverse','node-name':'r','file':'f','block':4096,'discard':'unmap'}");
    write_pattern(node, 4000, 10000, 1);
    ck_assert(reads_pattern(node, 4000, 10000, 1));
    ck_assert(reads_zero(node, 0, 4000));
    /* byte 4000 is in the first block, which is the child's last */
    g_autofree char *want = g_malloc(96);
    g_autofree char *got = g_malloc(96);
    pattern(want, 4000, 96, 1);
    ck_assert_int_eq(blk_node_pread(file, got, MIB - 96, 96), 0);
    ck_assert_mem_eq(want, got, 96);
    assert_status(node, "data 16384, hole,zero 1032192");
    ck_assert_int_eq(blk_node_write_zeroes(node, 0, 16384, TIDEMARK_MAY_UNMAP), 0);
    assert_status(file, "hole,zero 1048576");
    add_file("g", "");
    assert_refused("Parameter 'block' expects a power of two, not 5000",
                   "{'driver':'reverse','node-name':'x','file':'g','block':5000}");
    close_graph();
}
END_TEST

/* What is allocated below shows through a filter that changes bytes, what reads as zeroes does not;
 * and discards go down. */
START_TEST(the_invert_plugin_passes_block_status_and_discards)
{
    BlkNode *node, *file;
    char byte;

    open_on_disk();
    load_plugins();
    make_file("f", MIB);
    file = add_file("f", ",'discard':'unmap'");
    node = add("{'driver':'invert','node-name':'i','file':'f','discard':'unmap'}");
    assert_status(node, "hole 1048576");
    ck_assert_int_eq(blk_node_pread(node, &byte, 5, 1), 0);
    ck_assert_int_eq((unsigned char)byte, 0xff);
    write_pattern(node, 4000, 100000, 1);
    ck_assert(reads_pattern(node, 4000, 100000, 1));
    assert_status(node, "data 106496, hole 942080");
    ck_assert_int_eq(blk_node_write_zeroes(node, 131072, 65536, 0), 0);
    ck_assert(reads_zero(node, 131072, 65536));
    assert_status(file, "data 106496, hole,zero 24576, data 65536, hole,zero 851968");
    ck_assert_int_eq(blk_node_discard(node, 0, MIB, 0), 0);
    assert_status(file, "hole,zero 1048576");
    close_graph();
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("drivers");
    TCase *cases = tcase_create("drivers");
    SRunner *runner = srunner_create(suite);
    int failed;

    tcase_set_timeout(cases, 60);
    tcase_add_loop_test(cases, raw_shows_a_window_of_its_file, 0, 2);
    tcase_add_test(cases, raw_reopened_while_written_below);
    tcase_add_test(cases, raw_refuses_wrong_windows);
    tcase_add_test(cases, raw_without_a_size_resizes_its_file);
    tcase_add_loop_test(cases, null_reads_zeroes_and_drops_writes, 0, G_N_ELEMENTS(nulls));
    tcase_add_test(cases, a_file_that_grows_under_load_marks_its_growth);
    tcase_add_loop_test(cases, a_file_does_not_grow_while_its_space_is_changed, 0, 2);
    tcase_add_test(cases, the_ramdisk_plugin_keeps_what_is_written);
    tcase_add_test(cases, the_reverse_plugin_reverses_its_child);
    tcase_add_test(cases, the_invert_plugin_passes_block_status_and_discards);
    suite_add_tcase(suite, cases);
    srunner_run_all(runner, CK_ENV);
    failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
