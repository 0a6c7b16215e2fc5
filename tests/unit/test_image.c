/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* tests/unit/test_image.c: images as files: what is made survives being cut short, snapshot tables
 * and headers that can't be are refused by name, checks and repairs write nothing where they should
 * not. */
#include "block/drivers/qcow2/check.h"
#include "block/image/image.h"
#include "block/rbd_name.h"
#include "tests/unit/drivers_util.h"
#include "util/endian.h"
#include "util/range.h"

#define CLUSTER 512u

static json_object *parse_json(const char *format, ...) G_GNUC_PRINTF(1, 2);
static json_object *parse_json(const char *format, ...)
{
    g_autofree char *text = NULL;
    va_list ap;

    va_start(ap, format);
    text = g_strdup_vprintf(format, ap);
    va_end(ap);
    g_strdelimit(text, "'", '"');
    return json_tokener_parse(text);
}

/* An image in the node @name, its file being there. */
static bool create(const char *name, const char *more, BlkProgressFn progress, void *opaque,
                   GError **error)
{
    json_object *options =
        parse_json("{'driver':'qcow2','file':'%s','size':1048576%s}", name, more);
    bool ok = blk_image_create(graph, options, progress, opaque, error);

    json_object_put(options);
    return ok;
}

static BlkNode *new_image(const char *name, const char *more)
{
    g_autoptr(GError) error = NULL;
    BlkNode *node;

    make_file(name, 0);
    node = add_file(name, "");
    ck_assert_msg(create(name, more, NULL, NULL, &error), "%s", error ? error->message : "?");
    return node;
}

static void put(BlkNode *node, uint64_t at, const void *bytes, uint64_t length)
{
    ck_assert_int_eq(blk_node_grow(node, at + length), 0);
    ck_assert_int_eq(blk_node_pwrite(node, bytes, at, length, 0), 0);
}

static void put64(BlkNode *node, uint64_t at, uint64_t value)
{
    uint8_t bytes[8];

    tm_put_be64(bytes, value);
    put(node, at, bytes, sizeof(bytes));
}

static uint64_t get64(BlkNode *node, uint64_t at)
{
    uint8_t bytes[8];

    ck_assert_int_eq(blk_node_pread(node, bytes, at, sizeof(bytes)), 0);
    return tm_get_be64(bytes);
}

static BlkImageCheck checked(BlkNode *node, unsigned fix)
{
    BlkImageCheckOptions options = { .fix = fix };
    BlkImageCheck result;
    g_autoptr(GError) error = NULL;

    ck_assert_msg(blk_image_check(node, NULL, &options, &result, &error), "%s",
                  error ? error->message : "?");
    return result;
}

/* ---- making */

static bool stop_at(void *opaque, uint64_t done, uint64_t total)
{
    ck_assert_uint_le(done, total);
    return done < *(uint64_t *)opaque;
}

/* Wherever it stops, what is there is no image. */
START_TEST(creation_cut_anywhere_leaves_no_image)
{
    static const char more[] = ",'cluster-size':512,'preallocation':'full'";
    bool done = false;

    make_file("f", 0);
    BlkNode *node = add_file("f", "");
    for (uint64_t limit = 1; !done; limit = limit * 3 + 4000) {
        g_autoptr(GError) error = NULL;
        char magic[4] = "";

        put(node, 0, "QFI\xfb\0\0\0\3", 8); /* what was there before is gone first */
        done = create("f", more, stop_at, &limit, &error);
        if (blk_node_size(node) >= 4)
            ck_assert_int_eq(blk_node_pread(node, magic, 0, 4), 0);
        ck_assert_int_eq(!memcmp(magic, "QFI\xfb", 4), done);
        if (!done)
            ck_assert_str_eq(error->message, "Operation canceled");
    }
    BlkImageCheck r = checked(node, 0);
    ck_assert_uint_eq(r.leaks + r.corruptions + r.check_errors, 0);
    ck_assert_uint_eq(r.allocated_clusters, 2048);
}
END_TEST

START_TEST(creation_reports_write_errors)
{
    g_autoptr(GError) error = NULL;

    make_file("f", 0);
    add_file("f", "");
    fake.write_error = ENOSPC;
    ck_assert(!create("f", "", NULL, NULL, &error));
    ck_assert_msg(strstr(error->message, "No space left") != NULL, "%s", error->message);
    g_clear_error(&error);
    fake.write_error = 0;
    fake.sync_error = EIO;
    ck_assert(!create("f", "", NULL, NULL, &error));
}
END_TEST

/* What can't be made shorter, as a device, is written over: nothing of it shows. */
START_TEST(creation_on_a_device_overwrites_old_content)
{
    static const char *const kinds[] = { "", ",'preallocation':'metadata'",
                                         ",'preallocation':'metadata','version':'v2'",
                                         ",'preallocation':'metadata','extended-l2':true",
                                         ",'preallocation':'falloc','cluster-size':512" };
    g_autofree char *junk = g_malloc(4 * MIB);
    g_autoptr(GError) error = NULL;

    memset(junk, 0xff, 4 * MIB);
    make_file("f", 4 * MIB);
    BlkNode *file = add_file("f", "");
    BlkNode *node =
        add("{'driver':'raw','node-name':'r','file':'f','offset':0,'size':%d}", (int)(4 * MIB));
    for (size_t i = 0; i < G_N_ELEMENTS(kinds); i++) {
        put(file, 0, junk, 4 * MIB);
        ck_assert_msg(create("r", kinds[i], NULL, NULL, &error), "%s",
                      error ? error->message : "?");
        BlkImageCheck r = checked(node, 0);
        ck_assert_uint_eq(r.leaks + r.corruptions + r.check_errors, 0);
        BlkNode *q = add("{'driver':'qcow2','node-name':'q','file':'r','read-only':true}");
        ck_assert(reads_zero(q, 0, MIB));
        del("q");
    }
    put(file, 0, junk, 4 * MIB);
    ck_assert(!create("r", ",'preallocation':'full','cluster-size':2097152", NULL, NULL, &error));
    ck_assert_uint_ne(get64(file, 0) >> 32, 0x514649fb); /* no room: and no image */
}
END_TEST

START_TEST(a_file_that_could_not_be_created_is_removed)
{
    g_autofree char *path = path_of("new");
    json_object *options =
        parse_json("{'driver':'file','filename':'%s','size':1000,'preallocation':'full'}", path);
    g_autoptr(GError) error = NULL;
    GPtrArray *nodes;

    fake.write_error = EIO;
    ck_assert(!blk_image_create(graph, options, NULL, NULL, &error));
    ck_assert(!g_file_test(path, G_FILE_TEST_EXISTS)); /* it was not there before */
    blk_image_create_end(blk_image_create_begin(graph, options, NULL)); /* canceled before it ran */
    ck_assert(!g_file_test(path, G_FILE_TEST_EXISTS));
    fake.write_error = 0;
    ck_assert(blk_image_create(graph, options, NULL, NULL, NULL));
    ck_assert_int_eq(stat_of("new").st_size, 1000);
    nodes = blk_graph_nodes(graph);
    ck_assert_uint_eq(nodes->len, 0);
    g_ptr_array_unref(nodes);
    json_object_put(options);
}
END_TEST

/* Messages that qemu-storage-daemon, which blockdev-create is compared with, has no part in. */
START_TEST(wrong_creation_options_are_refused)
{
    static const char *const refused[][2] = {
        { ",'encrypt':{}", "qcow2: encrypted images are not supported" },
        { ",'backing-file':'x','backing-fmt':'sixteen-letters.'",
          "Unknown backing file format 'sixteen-letters.'" },
        { ",'foo':1", "Parameter 'foo' is unexpected" },
    };

    make_file("f", 0);
    add_file("f", "");
    for (size_t i = 0; i < G_N_ELEMENTS(refused); i++) {
        g_autoptr(GError) error = NULL;

        ck_assert(!create("f", refused[i][0], NULL, NULL, &error));
        ck_assert_str_eq(error->message, refused[i][1]);
    }
}
END_TEST

/* ---- snapshot tables */

#define TABLE 65536u /* where the test's table is */

/* An entry with an id and a name; returns its length, a multiple of 8. */
static uint64_t put_entry(BlkNode *node, uint64_t at, const char *id, const char *name,
                          uint32_t extra)
{
    g_autofree uint8_t *e = g_malloc0(40 + extra + 200);
    uint64_t length = 40 + extra + strlen(id) + strlen(name);

    tm_put_be64(e, 512);
    tm_put_be32(e + 8, 1);
    tm_put_be16(e + 12, (uint16_t)strlen(id));
    tm_put_be16(e + 14, (uint16_t)strlen(name));
    tm_put_be32(e + 16, 1234);
    tm_put_be32(e + 32, 77);
    tm_put_be32(e + 36, extra);
    if (extra >= 16) {
        tm_put_be64(e + 40, UINT64_C(1) << 40);
        tm_put_be64(e + 48, 4096);
    }
    memcpy(e + 40 + extra, id, strlen(id));
    memcpy(e + 40 + extra + strlen(id), name, strlen(name));
    put(node, TABLE + at, e, tm_align_up(length, 8));
    return tm_align_up(length, 8);
}

static Qcow2Header header(uint32_t n)
{
    return (Qcow2Header){
        .version = 3, .cluster_bits = 9, .size = 9999, .n_snapshots = n, .snapshots_offset = TABLE
    };
}

static char *read_error(BlkNode *node, const Qcow2Header *h)
{
    g_autoptr(GError) error = NULL;
    uint64_t bytes;
    GArray *list = qcow2_snapshots_read(node, h, &bytes, NULL, &error);

    ck_assert_ptr_null(list);
    ck_assert_ptr_nonnull(error);
    return g_strdup(error->message);
}

#define assert_unreadable(node, h, message)                                                        \
    do {                                                                                           \
        g_autofree char *says_ = read_error(node, h);                                              \
        ck_assert_msg(g_str_has_prefix(says_, message), "%s", says_);                              \
    } while (0)

START_TEST(snapshots_are_listed)
{
    Qcow2Header h = header(3);
    uint64_t bytes, at;
    g_autoptr(GError) error = NULL;

    make_file("f", 0);
    BlkNode *node = add_file("f", "");
    at = put_entry(node, 0, "1", "first", 16);
    at += put_entry(node, at, "2", "1", 0); /* its name is another one's id */
    at += put_entry(node, at, "3", "\xff\xfe", 1024);
    g_autoptr(GArray) list = qcow2_snapshots_read(node, &h, &bytes, NULL, &error);
    ck_assert_msg(list != NULL, "%s", error ? error->message : "?");
    ck_assert_uint_eq(list->len, 3);
    ck_assert_uint_eq(tm_align_up(bytes, 8), at);
    const Qcow2Snapshot *s = qcow2_snapshots_find(list, "1", NULL);
    ck_assert_str_eq(s->name, "first");
    ck_assert_uint_eq(s->vm_state_size, UINT64_C(1) << 40);
    ck_assert_uint_eq(s->disk_size, 4096);
    ck_assert_uint_eq(s->icount, UINT64_MAX);
    s = qcow2_snapshots_find(list, "2", NULL);
    ck_assert_uint_eq(s->vm_state_size, 77);
    ck_assert_uint_eq(s->disk_size, 9999);
    ck_assert_uint_eq(s->date_seconds, 1234);
    s = qcow2_snapshots_find(list, "3", NULL);
    ck_assert(g_utf8_validate(s->name, -1, NULL));
    ck_assert_ptr_null(qcow2_snapshots_find(list, "4", &error));
    ck_assert_str_eq(error->message, "Can't find snapshot '4'");
}
END_TEST

START_TEST(malformed_snapshot_tables_are_refused)
{
    Qcow2Header h = header(1);
    uint8_t bytes[4];

    make_file("f", 0);
    BlkNode *node = add_file("f", "");
    put_entry(node, 0, "1", "first", 16);
    h.n_snapshots = 65537;
    assert_unreadable(node, &h, "Snapshot table too large: 65537 snapshots");
    h = header(1);
    h.snapshots_offset = TABLE + 8;
    assert_unreadable(node, &h, "Snapshot table offset invalid: 65544");
    h.snapshots_offset = UINT64_MAX & ~UINT64_C(511);
    assert_unreadable(node, &h, "Snapshot table offset invalid");
    h = header(2);
    assert_unreadable(node, &h, "Failed to read snapshot table: it extends beyond the end");
    h = header(1);
    for (unsigned i = 0; i < 4; i++)
        bytes[i] = 0xff;
    put(node, TABLE + 36, bytes, 4);
    assert_unreadable(node, &h, "Too much extra metadata in snapshot table entry 0");
    put_entry(node, 0, "1", "first", 16);
    put(node, TABLE + 12, bytes, 2);
    assert_unreadable(node, &h, "Failed to read snapshot table: it extends beyond the end");
    put_entry(node, 0, "1", "first", 16);
    put(node, TABLE + 14, bytes, 2);
    assert_unreadable(node, &h, "Failed to read snapshot table: it extends beyond the end");
}
END_TEST

START_TEST(a_snapshot_with_too_small_an_l1_is_refused)
{
    Qcow2Header h = header(1);
    Qcow2Snapshot s = { .l1_offset = 512, .l1_size = 1, .disk_size = 64 * 512 };

    ck_assert(qcow2_snapshot_check(&h, &s, 1024, NULL));
    ck_assert(!qcow2_snapshot_check(&h, &s, 519, NULL));
    s.disk_size++;
    ck_assert(!qcow2_snapshot_check(&h, &s, 1024, NULL));
    s.disk_size = UINT64_MAX;
    ck_assert(!qcow2_snapshot_check(&h, &s, 1024, NULL));
    s.disk_size = 512;
    s.l1_offset = 513;
    ck_assert(!qcow2_snapshot_check(&h, &s, 4096, NULL));
    s.l1_offset = UINT64_MAX & ~UINT64_C(511);
    ck_assert(!qcow2_snapshot_check(&h, &s, 4096, NULL));
    s.l1_offset = 512;
    s.l1_size = UINT32_MAX;
    ck_assert(!qcow2_snapshot_check(&h, &s, INT64_MAX, NULL));
}
END_TEST

/* ---- checks */

/* The reference of each table and what a repair makes of it. */
START_TEST(repair_fixes_leaks_and_refcounts)
{
    BlkNode *node = new_image("f", ",'cluster-size':512,'preallocation':'metadata'");
    uint64_t reftable = get64(node, 48), block = get64(node, reftable), l1 = get64(node, 40);
    uint64_t l2 = get64(node, l1) & QCOW2_OFFSET_MASK;
    BlkImageCheck r;

    put64(node, block + 8, UINT64_C(0x0001000100050001)); /* a leak */
    r = checked(node, 0);
    ck_assert_uint_eq(r.leaks, 1);
    r = checked(node, BLK_IMAGE_FIX_LEAKS);
    ck_assert_uint_eq(r.leaks, 0);
    ck_assert_uint_eq(r.leaks_fixed, 1);
    put64(node, l2, get64(node, l2) & ~QCOW2_COPIED);
    ck_assert_uint_eq(checked(node, 0).corruptions, 1);
    r = checked(node, BLK_IMAGE_FIX_ALL);
    ck_assert_uint_eq(r.corruptions, 0);
    ck_assert_uint_eq(r.corruptions_fixed, 1);
    ck_assert_uint_eq(get64(node, l2) >> 63, 1);
    put64(node, reftable, 0); /* all of the first block's refcounts */
    r = checked(node, 0);
    ck_assert_uint_gt(r.corruptions, 200);
    r = checked(node, BLK_IMAGE_FIX_ALL);
    ck_assert_uint_eq(r.corruptions + r.leaks, 0);
    ck_assert_uint_ne(get64(node, 48), reftable);
}
END_TEST

/* A table that lies over the header is not repaired by writing there. */
START_TEST(repair_never_writes_over_the_header)
{
    BlkNode *node = new_image("f", ",'cluster-size':512,'preallocation':'metadata'");
    uint64_t l1 = get64(node, 40), magic = get64(node, 0);
    BlkImageCheck r;

    put64(node, l1, 0x40); /* at 0, with a reserved bit */
    r = checked(node, BLK_IMAGE_FIX_ALL);
    ck_assert_uint_gt(r.corruptions, 0);
    ck_assert_uint_eq(get64(node, 0), magic);
}
END_TEST

/* One L2 table for all of a big L1, and one L1 for many snapshots: given up, at once. */
START_TEST(checking_shared_tables_takes_bounded_time)
{
    BlkNode *node = new_image("f", ",'cluster-size':512,'preallocation':'metadata'");
    uint64_t l1 = get64(node, 40), entry = get64(node, l1);
    BlkImageCheck result;
    g_autoptr(GError) error = NULL;
    uint8_t entries[4];

    put64(node, 40, 1 << 20);
    tm_put_be32(entries, 100000);
    put(node, 36, entries, 4);
    for (unsigned i = 0; i < 100000; i++)
        put64(node, (1 << 20) + i * 8, entry);
    ck_assert(!blk_image_check(node, NULL, NULL, &result, &error));
    ck_assert_msg(strstr(error->message, "too many references") != NULL, "%s", error->message);
}
END_TEST

/* What a directory of bitmaps that can't be refers to is not given away as leaks. */
START_TEST(clusters_of_damaged_bitmaps_are_no_leaks)
{
    BlkNode *node = new_image("f", ",'cluster-size':512,'refcount-bits':8");
    uint8_t extension[32] = { 0x23, 0x85, 0x28, 0x75, 0, 0, 0, 24, 0, 0, 0, 1 };
    BlkImageCheckOptions options = { .fix = BLK_IMAGE_FIX_LEAKS };
    BlkImageCheck result;
    g_autoptr(GError) error = NULL;

    tm_put_be64(extension + 16, 32);
    tm_put_be64(extension + 24, 512 * 1000);
    put(node, 112, extension, sizeof(extension));
    put64(node, 112 + sizeof(extension), 0);
    put64(node, 88, 1); /* the bit that says that they are right */
    ck_assert_uint_gt(checked(node, 0).corruptions, 0);
    ck_assert(!blk_image_check(node, NULL, &options, &result, &error));
    ck_assert_msg(strstr(error->message, "a directory of 1 bitmaps") != NULL, "%s", error->message);
}
END_TEST

START_TEST(info_shows_backing_and_cluster_size)
{
    BlkNode *node = new_image("f", ",'backing-file':'b','backing-fmt':'raw','cluster-size':4096");
    json_object *info = blk_image_info(node, NULL, NULL), *value;
    g_autofree char *path = path_of("b");

    ck_assert(json_object_object_get_ex(info, "full-backing-filename", &value));
    ck_assert_str_eq(json_object_get_string(value), path);
    ck_assert(json_object_object_get_ex(info, "cluster-size", &value));
    ck_assert_int_eq(json_object_get_int(value), 4096);
    json_object_put(info);
    info = blk_image_info(node, "raw", NULL);
    ck_assert(json_object_object_get_ex(info, "virtual-size", &value));
    ck_assert_uint_eq(json_object_get_uint64(value), blk_node_size(node));
    json_object_put(info);
    put(node, 0, "KDMV", 4);
    ck_assert_str_eq(blk_image_probe(node, NULL), "vmdk");
    ck_assert_ptr_null(blk_image_info(node, NULL, NULL));
    put(node, 0, "abcd", 4);
    ck_assert_str_eq(blk_image_probe(node, NULL), "raw");
}
END_TEST

static int fsync_errno;

static int fake_fsync(int fd)
{
    return fails(fsync_errno) ? -1 : tm_sys_kernel.fsync(fd);
}

/* A new file whose name may go with the power is not said to be made. */
START_TEST(creation_fails_if_the_name_is_not_durable)
{
    g_autofree char *path = path_of("r");
    g_autoptr(GError) error = NULL;
    json_object *options = parse_json("{'driver':'file','filename':'%s','size':65536}", path);

    fake_sys.fsync = fake_fsync;
    fsync_errno = EIO;
    ck_assert(!blk_image_create(graph, options, NULL, NULL, &error));
    ck_assert_ptr_nonnull(strstr(error->message, "directory"));
    ck_assert_int_ne(access(path, F_OK), 0);
    fsync_errno = EINVAL; /* a file system that has no such thing */
    ck_assert(blk_image_create(graph, options, NULL, NULL, NULL));
    ck_assert_int_eq(access(path, F_OK), 0);
    json_object_put(options);
}
END_TEST

/* NULL: refused. */
static const struct {
    const char *name, *members;
    bool options;
} rbd_names[] = {
    { "rbd:p/i", "'pool':'p','image':'i'", false },
    { "rbd:p/n/i@s", "'pool':'p','namespace':'n','image':'i','snapshot':'s'", false },
    { "rbd:p/i@s:conf=/a b:id=u", "'pool':'p','image':'i','snapshot':'s','conf':'/a b','user':'u'",
      true },
    { "rbd:p/i:id=a=b", "'pool':'p','image':'i','user':'a=b'", true },
    { "rbd:p\\/q/i\\@x\\:y\\\\@s\\:t", "'pool':'p/q','image':'i@x:y\\\\','snapshot':'s:t'", false },
    { "rbd:p/n/i/j@s@t", "'pool':'p','namespace':'n','image':'i/j','snapshot':'s@t'", false },
    { "rbd:", NULL, true },
    { "rbd:p", NULL, true },
    { "rbd:/i", NULL, true },
    { "rbd:p/", NULL, true },
    { "rbd:p//i", NULL, true },
    { "rbd:p/n/", NULL, true },
    { "rbd:p/i@", NULL, true },
    { "rbd:p/i:", NULL, true },
    { "rbd:p/i:conf", NULL, true },
    { "rbd:p/i:conf=", NULL, true },
    { "rbd:p/i:key=secret", NULL, true },
    { "rbd:p/i:conf=/etc/shadow", NULL, false }, /* an image says so */
};

START_TEST(names_of_images_in_clusters)
{
    g_autoptr(GError) error = NULL;
    json_object *got = blk_rbd_definition(rbd_names[_i].name, rbd_names[_i].options, &error);
    json_object *wanted =
        rbd_names[_i].members ? parse_json("{'driver':'rbd',%s}", rbd_names[_i].members) : NULL;

    ck_assert(blk_is_rbd_name(rbd_names[_i].name));
    ck_assert_int_eq(!got, !wanted);
    ck_assert_int_eq(!got, !!error);
    if (got)
        ck_assert_str_eq(json_object_to_json_string(got), json_object_to_json_string(wanted));
    json_object_put(got);
    json_object_put(wanted);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("image");
    TCase *tests = tcase_create("image");
    SRunner *runner;
    int failed;

    tcase_add_checked_fixture(tests, open_on_disk, close_graph);
    tcase_set_timeout(tests, 60);
    tcase_add_test(tests, creation_cut_anywhere_leaves_no_image);
    tcase_add_test(tests, creation_fails_if_the_name_is_not_durable);
    tcase_add_test(tests, creation_reports_write_errors);
    tcase_add_test(tests, creation_on_a_device_overwrites_old_content);
    tcase_add_test(tests, a_file_that_could_not_be_created_is_removed);
    tcase_add_test(tests, wrong_creation_options_are_refused);
    tcase_add_test(tests, snapshots_are_listed);
    tcase_add_test(tests, malformed_snapshot_tables_are_refused);
    tcase_add_test(tests, a_snapshot_with_too_small_an_l1_is_refused);
    tcase_add_test(tests, repair_fixes_leaks_and_refcounts);
    tcase_add_test(tests, repair_never_writes_over_the_header);
    tcase_add_test(tests, checking_shared_tables_takes_bounded_time);
    tcase_add_test(tests, clusters_of_damaged_bitmaps_are_no_leaks);
    tcase_add_test(tests, info_shows_backing_and_cluster_size);
    tcase_add_loop_test(tests, names_of_images_in_clusters, 0, G_N_ELEMENTS(rbd_names));
    suite_add_tcase(suite, tests);
    runner = srunner_create(suite);
    srunner_run_all(runner, CK_ENV);
    failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed ? 1 : 0;
}
