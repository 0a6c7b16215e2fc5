/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* tests/unit/test_store_damage.c: stores that can't be believed or used (R6 of
 * bitmap/store/store.h), and what is reported and made of them without a daemon. */
#include "store_util.h"

#include "tests/rounds.h"

static const uint64_t size = 64 * MIB;

/* ---- damage */

static void damage(Disk *d, off_t offset, size_t length, uint8_t value)
{
    g_autofree uint8_t *bytes = g_malloc(length);
    int fd = open(d->store, O_RDWR | O_CLOEXEC);

    memset(bytes, value, length);
    ck_assert_int_ge(fd, 0);
    ck_assert_int_eq(pwrite(fd, bytes, length, offset), (ssize_t)length);
    close(fd);
}

START_TEST(r6_one_damaged_superblock_costs_nothing)
{
    bool closed = _i & 1;
    unsigned copy = _i >> 1;
    Disk d;

    disk_begin(&d, size);
    disk_mark(&d, 0, 1);
    if (closed)
        disk_close(&d);
    else
        disk_kill(&d);
    damage(&d, copy * 4096, 512, 0x5a);
    disk_open(&d);
    assert_dirty(&d, "a", "0-64");
    ck_assert_uint_gt(d.degraded, 0);
    disk_kill(&d);
    disk_open(&d); /* it was made good */
    ck_assert_uint_eq(d.degraded, 0);
    assert_dirty(&d, "a", "0-64");
    disk_fini(&d);
}
END_TEST

START_TEST(r6_without_superblocks_bitmaps_are_inconsistent)
{
    Disk d;

    disk_begin(&d, size);
    disk_kill(&d);
    damage(&d, 20, 100, 0x5a);
    damage(&d, 4096 + 20, 100, 0x5a);
    disk_open(&d);
    ck_assert(has(&d, "a"));
    ck_assert(inconsistent(&d, "a"));
    ck_assert_uint_gt(d.degraded, 0);
    disk_must(&d, "a", bmp_bitmap_remove);
    disk_must_add(&d, "a", 65536, false);
    disk_kill(&d);
    disk_open(&d);
    assert_dirty(&d, "a", "");
    disk_fini(&d);
}
END_TEST

/* Any one byte: the disk opens, and what was dirty is, or says that it can't be used, or is
 * gone. */
START_TEST(r6_any_damaged_byte_never_loses_dirtiness)
{
    g_autofree char *good = NULL;
    gsize n;
    Disk d;

    disk_init(&d, 8 * MIB);
    d.o.durability = BMP_DURABLE_PROCESS;
    disk_open(&d);
    disk_must_add(&d, "a", 65536, false);
    disk_mark(&d, 0, 1);
    disk_must_add(&d, "b", 65536, false);
    disk_mark(&d, 5 * MIB, 1);
    disk_kill(&d);
    ck_assert(g_file_get_contents(d.store, &good, &n, NULL));
    for (gsize at = 0; at < n; at += (at < 8192 + 4096 ? 1 : 7) * STRIDE) {
        int fd = open(d.store, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
        uint8_t bad;

        if ((at & 4095) > 511 && at < 8192)
            continue;
        ck_assert_int_eq(pwrite(fd, good, n, 0), (ssize_t)n);
        ck_assert_int_eq(ftruncate(fd, (off_t)n), 0);
        bad = (uint8_t)~good[at];
        ck_assert_int_eq(pwrite(fd, &bad, 1, (off_t)at), 1);
        close(fd);
        d.o.read_only = true; /* what would be found */
        disk_open(&d);
        ck_assert_msg(has(&d, "a") && (inconsistent(&d, "a") || (disk_is_dirty(&d, "a", 0) &&
                                                                 disk_is_dirty(&d, "a", 5 * MIB))),
                      "byte %zu: a", (size_t)at);
        ck_assert_msg(has(&d, "b") && (inconsistent(&d, "b") || disk_is_dirty(&d, "b", 5 * MIB)),
                      "byte %zu: b", (size_t)at);
        disk_kill(&d);
    }
    disk_fini(&d);
}
END_TEST

START_TEST(a_foreign_file_is_left_alone)
{
    g_autofree char *after = NULL;
    Disk d;

    disk_init(&d, size);
    ck_assert(g_file_set_contents(d.store, "my diary", -1, NULL));
    disk_open(&d);
    ck_assert_uint_gt(d.degraded, 0);
    ck_assert(!disk_add(&d, "a", 65536, false, NULL));
    disk_close(&d);
    ck_assert(g_file_get_contents(d.store, &after, NULL, NULL));
    ck_assert_str_eq(after, "my diary");
    disk_fini(&d);
}
END_TEST

/* 0: a disk of zeroes that the option names by mistake. 1: a store that was wiped. */
START_TEST(zeroes_are_a_wiped_store_only_under_the_default_name)
{
    struct stat before, after;
    g_autofree char *other = NULL;
    Disk d;

    disk_init(&d, size);
    other = g_build_filename(d.dir, "other.img", NULL);
    if (!_i) {
        g_free(d.store);
        d.store = g_strdup(other);
    }
    int fd = open(d.store, O_RDWR | O_CREAT | O_CLOEXEC, 0600);

    ck_assert_int_eq(ftruncate(fd, (off_t)size), 0);
    ck_assert_int_eq(fstat(fd, &before), 0);
    close(fd);
    disk_open(&d);
    ck_assert_uint_gt(d.degraded, 0);
    ck_assert_int_eq(disk_add(&d, "a", 65536, false, NULL), _i);
    disk_close(&d);
    ck_assert_int_eq(stat(d.store, &after), 0);
    ck_assert_int_eq(before.st_ino == after.st_ino && before.st_size == after.st_size, !_i);
    disk_fini(&d);
}
END_TEST

START_TEST(a_foreign_file_named_tmp_is_left_alone)
{
    g_autofree char *tmp = NULL, *victim = NULL, *after = NULL;
    Disk d;

    disk_init(&d, size);
    tmp = g_strconcat(d.store, ".tmp", NULL);
    victim = g_build_filename(d.dir, "victim", NULL);
    ck_assert(g_file_set_contents(victim, "my diary", -1, NULL));
    ck_assert_int_eq(link(victim, tmp), 0);
    disk_open(&d);
    ck_assert(!disk_add(&d, "a", 65536, false, NULL));
    ck_assert(g_file_get_contents(victim, &after, NULL, NULL));
    ck_assert_str_eq(after, "my diary");
    unlink(victim); /* what a crash has left has one name */
    disk_must_add(&d, "a", 65536, false);
    disk_close(&d);
    disk_fini(&d);
}
END_TEST

/* Each page of the file looks like the beginning of a catalogue that goes on to the end. */
START_TEST(searching_a_damaged_file_takes_bounded_time)
{
    g_autofree char *bytes = g_malloc0(64 * MIB);
    gint64 start;
    Disk d;

    disk_init(&d, size);
    for (size_t at = 0; at < 64 * MIB; at += 4096)
        memcpy(bytes + at, at < 8192 ? "TIDEMARK" : "TMINDEX1", 8);
    ck_assert(g_file_set_contents(d.store, bytes, 64 * MIB, NULL));
    start = g_get_monotonic_time();
    disk_open(&d);
    ck_assert_int_lt(g_get_monotonic_time() - start, 30 * G_USEC_PER_SEC);
    ck_assert_uint_gt(d.degraded, 0);
    disk_close(&d);
    disk_fini(&d);
}
END_TEST

START_TEST(another_version_is_left_alone)
{
    g_autofree char *before = NULL, *after = NULL;
    uint8_t super[BMP_SUPER_SIZE];
    gsize n, m;
    Disk d;

    disk_begin(&d, size);
    disk_close(&d);
    ck_assert(g_file_get_contents(d.store, &before, &n, NULL));
    memcpy(super, before, sizeof(super));
    super[8] = 9; /* the version */
    uint64_t sum = GUINT64_TO_LE(bmp_checksum(super, sizeof(super) - 8, 0));

    memcpy(super + sizeof(super) - 8, &sum, 8);
    memcpy(before, super, sizeof(super));
    memcpy(before + 4096, super, sizeof(super));
    ck_assert(g_file_set_contents(d.store, before, (gssize)n, NULL));
    disk_open(&d);
    ck_assert_uint_eq(bmp_set_length(d.set), 0);
    assert_says(d.reasons->str, "is of version 9");
    ck_assert(!disk_add(&d, "a", 65536, false, NULL));
    disk_close(&d);
    ck_assert(g_file_get_contents(d.store, &after, &m, NULL));
    ck_assert_uint_eq(n, m);
    ck_assert_mem_eq(before, after, n);
    disk_fini(&d);
}
END_TEST

static int refuse_open(const char *path, int flags, mode_t mode)
{
    if (g_str_has_suffix(path, BMP_STORE_SUFFIX)) {
        errno = EACCES;
        return -1;
    }
    return open(path, flags, mode);
}

/* What would be written must not pass a store that will be believed later. */
START_TEST(a_disk_whose_store_cant_be_opened_is_read_only)
{
    g_autoptr(GError) error = NULL;
    Disk d;

    disk_begin(&d, size);
    disk_kill(&d);
    d.sys.open = refuse_open;
    ck_assert(!disk_try_open(&d, &error));
    assert_says(error->message, d.store);
    d.o.read_only = true;
    disk_open(&d);
    ck_assert_uint_gt(d.degraded, 0);
    disk_fini(&d);
}
END_TEST

/* Nor replaced, if it came there meanwhile. */
START_TEST(a_store_that_cant_be_opened_is_not_replaced)
{
    g_autofree char *after = NULL;
    g_autoptr(GError) error = NULL;
    Disk d;

    disk_init(&d, size);
    disk_open(&d);
    ck_assert(g_file_set_contents(d.store, "my diary", -1, NULL));
    d.sys.open = refuse_open;
    ck_assert(!disk_add(&d, "a", 65536, false, &error));
    assert_says(error->message, "Permission denied");
    ck_assert(g_file_get_contents(d.store, &after, NULL, NULL));
    ck_assert_str_eq(after, "my diary");
    disk_fini(&d);
}
END_TEST

/* A bitmap that is held by somebody does not hold the store. */
START_TEST(a_reference_holds_no_lock)
{
    BmpBitmap *bitmap;
    Disk d;

    disk_begin(&d, size);
    bitmap = bmp_set_find(d.set, "a", NULL);
    disk_kill(&d);
    disk_open(&d);
    bmp_bitmap_unref(bitmap);
    disk_fini(&d);
}
END_TEST

/* ---- without a daemon */

START_TEST(a_store_is_inspected_and_repaired_without_a_daemon)
{
    uint8_t boot[16] = { 9 }; /* another: the power was lost */
    g_autoptr(GError) error = NULL;
    BmpStoreInfo info;
    Disk d;

    disk_begin(&d, size);
    disk_mark(&d, 0, 1);
    ck_assert(bmp_store_inspect(&d.sys, d.store, d.image, d.o.boot_id, &info, NULL));
    ck_assert(info.usable && info.in_use);
    ck_assert_uint_eq(info.records->len, 1);
    bmp_store_info_clear(&info);
    ck_assert(!bmp_store_repair(&d.sys, d.store, d.image, d.o.boot_id, &error));
    assert_says(error->message, "in use");
    disk_kill(&d);
    ck_assert(bmp_store_repair(&d.sys, d.store, d.image, boot, NULL));
    ck_assert(bmp_store_inspect(&d.sys, d.store, d.image, boot, &info, NULL));
    ck_assert_uint_eq(info.super.state, BMP_STORE_CLOSED);
    ck_assert(info.usable && !info.in_use);
    bmp_store_info_clear(&info);
    disk_open(&d);
    ck_assert(disk_is_dirty(&d, "a", 0));
    ck_assert(!disk_is_dirty(&d, "a", 65536)); /* nothing was opened beside it */
    disk_fini(&d);
}
END_TEST

START_TEST(a_changed_disk_is_repaired_to_all_dirty)
{
    uint8_t boot[16] = { 1 };
    Disk d;

    disk_begin(&d, size);
    disk_close(&d);
    touch_disk(&d, 1000);
    if (_i) { /* a daemon has opened it meanwhile */
        disk_open(&d);
        disk_close(&d);
    }
    ck_assert(bmp_store_repair(&d.sys, d.store, d.image, boot, NULL));
    disk_open(&d);
    ck_assert(!inconsistent(&d, "a"));
    assert_dirty(&d, "a", "0-65536");
    g_autoptr(BmpBitmap) bitmap = bmp_set_find(d.set, "a", NULL);

    ck_assert(bmp_bitmap_enabled(bitmap)); /* as it was */
    disk_fini(&d);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("store_damage");
    TCase *tc = tcase_create("store_damage");
    SRunner *runner = srunner_create(suite);
    int failed;

    tcase_set_timeout(tc, 100);
    tcase_add_loop_test(tc, r6_one_damaged_superblock_costs_nothing, 0, 4);
    tcase_add_test(tc, r6_without_superblocks_bitmaps_are_inconsistent);
    tcase_add_test(tc, r6_any_damaged_byte_never_loses_dirtiness);
    tcase_add_test(tc, a_foreign_file_is_left_alone);
    tcase_add_loop_test(tc, zeroes_are_a_wiped_store_only_under_the_default_name, 0, 2);
    tcase_add_test(tc, a_foreign_file_named_tmp_is_left_alone);
    tcase_add_test(tc, searching_a_damaged_file_takes_bounded_time);
    tcase_add_test(tc, another_version_is_left_alone);
    tcase_add_test(tc, a_disk_whose_store_cant_be_opened_is_read_only);
    tcase_add_test(tc, a_store_that_cant_be_opened_is_not_replaced);
    tcase_add_test(tc, a_reference_holds_no_lock);
    tcase_add_test(tc, a_store_is_inspected_and_repaired_without_a_daemon);
    tcase_add_loop_test(tc, a_changed_disk_is_repaired_to_all_dirty, 0, 2);
    suite_add_tcase(suite, tc);
    srunner_run_all(runner, CK_ENV);
    failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
