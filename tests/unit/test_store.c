/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* tests/unit/test_store.c: persistent bitmaps over a life, a kill, a power loss, a change of the
 * disk. R1 to R7 are those of bitmap/store/store.h. (test_store_damage.c has damage and repair,
 * test_store_cut.c what happens within a change.)
 *
 * The files are real. A kill is a set that is freed without being closed; a power loss is another
 * boot's identity. */
#include "store_util.h"

static const uint64_t size = 64 * MIB;

/* ---- life */

START_TEST(without_a_store_persistent_bitmaps_are_refused)
{
    g_autoptr(GError) error = NULL;
    Disk d;

    disk_init(&d, size);
    d.set = bmp_set_new("disk", size);
    ck_assert(!disk_add(&d, "a", 65536, false, &error));
    ck_assert_str_eq(error->message,
                     "Can't store persistent bitmaps to disk: Operation not supported (it has no "
                     "place for them: see the option bitmap-store)");
    disk_fini(&d);
}
END_TEST

START_TEST(r1_bitmaps_are_as_they_were_after_a_clean_close)
{
    Disk d;

    disk_init(&d, size);
    disk_open(&d);
    ck_assert(!bmp_set_store_exists(d.set));
    disk_must_add(&d, "a", 65536, false);
    ck_assert(bmp_set_store_exists(d.set));
    ck_assert_int_eq(access(d.store, F_OK), 0);
    disk_mark(&d, 1, 1);
    for (int i = 0; i < 3; i++) {
        disk_close(&d);
        disk_open(&d);
        ck_assert_uint_eq(d.degraded, 0);
        assert_dirty(&d, "a", "0-64");
    }
    disk_must(&d, "a", bmp_bitmap_clear);
    disk_close(&d);
    disk_open(&d);
    assert_dirty(&d, "a", "");
    disk_must(&d, "a", bmp_bitmap_remove);
    ck_assert(!bmp_set_store_exists(d.set));
    ck_assert_int_ne(access(d.store, F_OK), 0);
    disk_close(&d);
    disk_open(&d);
    ck_assert_uint_eq(bmp_set_length(d.set), 0);
    ck_assert_uint_eq(d.degraded, 0);
    disk_fini(&d);
}
END_TEST

START_TEST(transient_bitmaps_are_not_kept)
{
    BmpAddOptions options = { .granularity = 65536 };
    Disk d;

    disk_begin(&d, size);
    bmp_set_change_begin(&d.set, 1);
    bmp_bitmap_unref(bmp_set_add(d.set, "t", &options, NULL));
    ck_assert(bmp_set_commit(&d.set, 1, NULL));
    bmp_set_change_end(&d.set, 1);
    disk_close(&d);
    disk_open(&d);
    ck_assert(has(&d, "a"));
    ck_assert(!has(&d, "t"));
    disk_fini(&d);
}
END_TEST

static void add_checkpoint(Disk *d, const char *name, bool commit)
{
    BmpAddOptions options = { .granularity = 65536, .persistent = true, .unfinished = true };

    bmp_set_change_begin(&d->set, 1);
    bmp_bitmap_unref(bmp_set_add(d->set, name, &options, NULL));
    ck_assert(!commit || bmp_set_commit(&d->set, 1, NULL));
    bmp_set_change_end(&d->set, 1);
}

/* A checkpoint that a backup has begun, as it begins: beside a bitmap that it rests on. */
static void begin_checkpoint(Disk *d, const char *name)
{
    add_checkpoint(d, name, true);
}

/* The same, and the store only has a note of it. */
static void note_checkpoint(Disk *d, const char *name)
{
    ck_assert(bmp_set_note_backup(d->set, name));
    add_checkpoint(d, name, false);
}

static bool finish(BmpBitmap *bitmap, GError **error)
{
    bmp_bitmap_finish(bitmap);
    return true;
}

START_TEST(a_checkpoint_of_a_backup_that_did_not_end_is_left_out)
{
    BmpStoreInfo info;
    Disk d;

    disk_init(&d, size);
    for (int power = 0; power < 2; power++) {
        disk_open(&d);
        if (!power)
            disk_must_add(&d, "from", 65536, false);
        disk_mark(&d, (uint64_t)power * MIB, 1);
        begin_checkpoint(&d, "checkpoint");
        disk_mark(&d, (uint64_t)(power + 8) * MIB, 1);
        if (power)
            disk_power_loss(&d);
        else
            disk_kill(&d);
        ck_assert(bmp_store_inspect(&d.sys, d.store, NULL, d.o.boot_id, &info, NULL));
        ck_assert_uint_eq(info.records->len, 1);
        bmp_store_info_clear(&info);
        disk_open(&d);
        ck_assert_uint_ge(d.degraded, 1);
        assert_says(d.reasons->str, "[checkpoint] the backup that began this checkpoint did not");
        ck_assert(!has(&d, "checkpoint"));
        disk_kill(&d); /* what was found is what the store says from then on */
        disk_open(&d);
        ck_assert(!has(&d, "checkpoint"));
        disk_close(&d);
    }
    disk_open(&d);
    assert_dirty(&d, "from", "0-64 1024-1088 8192-8256 9216-9280");
    disk_fini(&d);
}
END_TEST

/* Noted only; twice; in the next commit, whatever it is for; when the disk has lost data. */
START_TEST(a_checkpoint_that_was_only_noted_is_reported)
{
    Disk d;

    disk_init(&d, size);
    disk_open(&d);
    disk_must_add(&d, "from", 65536, false);
    for (unsigned i = 0; i < 4; i++) {
        note_checkpoint(&d, "one");
        if (i == 1)
            note_checkpoint(&d, "two");
        if (i == 2)
            disk_must_add(&d, "other", 65536, false);
        if (i == 3)
            bmp_set_lose(d.set);
        disk_mark(&d, i * MIB, 1);
        disk_kill(&d);
        disk_open(&d);
        assert_says(d.reasons->str, "[one] the backup that began this checkpoint did not end");
        ck_assert(i != 1 || strstr(d.reasons->str, "[two] the backup"));
        ck_assert(!has(&d, "one") && !has(&d, "two"));
        disk_kill(&d);
        disk_open(&d);
        ck_assert_ptr_null(strstr(d.reasons->str, "the backup"));
    }
    assert_dirty(&d, "from", "0-64 1024-1088 2048-2112 3072-3136");
    disk_fini(&d);
}
END_TEST

START_TEST(what_was_noted_and_has_ended_is_not_reported)
{
    Disk d;

    disk_init(&d, size);
    disk_open(&d);
    disk_must_add(&d, "from", 65536, false);
    for (unsigned i = 0; i < 3; i++) { /* with success, without, it never began */
        if (i < 2)
            note_checkpoint(&d, "checkpoint");
        else
            ck_assert(bmp_set_note_backup(d.set, "checkpoint") && bmp_set_note_backup(d.set, NULL));
        disk_mark(&d, 0, 1);
        if (i == 0)
            disk_must(&d, "checkpoint", finish);
        if (i == 1)
            disk_must(&d, "checkpoint", bmp_bitmap_remove);
        disk_kill(&d);
        disk_open(&d);
        ck_assert_uint_eq(d.degraded, 0);
        if (i == 0) {
            assert_dirty(&d, "checkpoint", "0-64");
            disk_must(&d, "checkpoint", bmp_bitmap_remove);
        }
        ck_assert(!has(&d, "checkpoint"));
    }
    disk_fini(&d);
}
END_TEST

/* It did not begin after a flush, as those do that are stored. */
START_TEST(a_checkpoint_that_was_only_noted_is_dirty_when_its_disk_loses_data)
{
    Disk d;

    disk_init(&d, size);
    disk_open(&d);
    disk_must_add(&d, "from", 65536, false);
    disk_mark(&d, 0, 1);
    note_checkpoint(&d, "checkpoint");
    bmp_set_lose(d.set);
    disk_must(&d, "checkpoint", finish);
    ck_assert(disk_is_dirty(&d, "checkpoint", 40 * MIB));
    assert_dirty(&d, "from", "0-64");
    disk_kill(&d);
    disk_open(&d);
    ck_assert(disk_is_dirty(&d, "checkpoint", 0) && disk_is_dirty(&d, "checkpoint", 40 * MIB));
    disk_fini(&d);
}
END_TEST

START_TEST(only_a_sound_store_takes_a_note)
{
    g_autofree char *longest = g_strnfill(1023, 'n');
    char name[] = "a";
    Disk d;

    disk_init(&d, size);
    disk_open(&d);
    ck_assert(!bmp_set_note_backup(d.set, "checkpoint")); /* there is none */
    disk_must_add(&d, "from", 65536, false);
    for (; *name < 'd'; ++*name) {
        longest[0] = *name;
        note_checkpoint(&d, longest);
    }
    ck_assert(!bmp_set_note_backup(d.set, longest)); /* no room */
    bmp_set_distrust_store(d.set, "a test");
    ck_assert(!bmp_set_note_backup(d.set, "checkpoint"));
    disk_fini(&d);
}
END_TEST

START_TEST(a_checkpoint_that_was_finished_stays)
{
    Disk d;

    disk_init(&d, size);
    disk_open(&d);
    begin_checkpoint(&d, "checkpoint");
    disk_mark(&d, 0, 1);
    disk_must(&d, "checkpoint", finish);
    disk_kill(&d);
    disk_open(&d);
    ck_assert_uint_eq(d.degraded, 0);
    assert_dirty(&d, "checkpoint", "0-64");
    disk_fini(&d);
}
END_TEST

START_TEST(a_checkpoint_stays_while_its_disk_is_opened_anew)
{
    Disk d;

    disk_init(&d, size);
    disk_open(&d);
    disk_must_add(&d, "from", 65536, false);
    (_i ? note_checkpoint : begin_checkpoint)(&d, "checkpoint");
    if (!_i) /* else there is nothing else to store */
        disk_mark(&d, 0, 1);
    for (int i = 0; i < 2; i++) { /* to reading only, and back */
        ck_assert(bmp_set_rest_store(d.set, false));
        ck_assert(bmp_set_wake_store(d.set, !i, false, NULL));
    }
    disk_mark(&d, 0, 1);
    assert_dirty(&d, "checkpoint", "0-64");
    ck_assert_uint_eq(d.degraded, 0);
    disk_kill(&d);
    disk_open(&d);
    assert_says(d.reasons->str, "[checkpoint] the backup that began this checkpoint did not end");
    ck_assert(!has(&d, "checkpoint"));
    disk_fini(&d);
}
END_TEST

START_TEST(a_read_only_opening_writes_nothing)
{
    g_autofree char *before = NULL, *after = NULL;
    gsize n, m;
    Disk d;

    disk_begin(&d, size);
    disk_mark(&d, 0, 1);
    disk_kill(&d);
    ck_assert(g_file_get_contents(d.store, &before, &n, NULL));
    d.o.read_only = true;
    disk_open(&d);
    assert_dirty(&d, "a", "0-64");
    disk_close(&d);
    ck_assert(g_file_get_contents(d.store, &after, &m, NULL));
    ck_assert_uint_eq(n, m);
    ck_assert_mem_eq(before, after, n);
    disk_fini(&d);
}
END_TEST

START_TEST(a_store_has_one_writer)
{
    g_autoptr(GError) error = NULL;
    Disk d, other;

    disk_begin(&d, size);
    other = d;
    other.set = NULL;
    ck_assert(!disk_try_open(&other, &error));
    ck_assert_ptr_nonnull(error);
    assert_says(error->message, "is in use by another process");
    disk_close(&d);
    disk_open(&d);
    disk_fini(&d);
}
END_TEST

/* ---- kill and power */

START_TEST(r2_a_kill_is_exact)
{
    Disk d;

    disk_init(&d, size);
    disk_open(&d);
    disk_must_add(&d, "fine", 4096, false);
    disk_must_add(&d, "coarse", 1 * MIB, false);
    disk_must_add(&d, "off", 65536, false);
    disk_mark(&d, 8 * KIB, 1);
    disk_must(&d, "off", bmp_bitmap_disable);
    disk_mark(&d, 40 * MIB + 1, 4096);
    disk_kill(&d);
    for (int i = 0; i < 3; i++) {
        disk_open(&d);
        ck_assert_uint_eq(d.degraded, 0);
        assert_dirty(&d, "fine", "8-12 40960-40968");
        assert_dirty(&d, "coarse", "0-1024 40960-41984");
        assert_dirty(&d, "off", "0-64");
        disk_kill(&d);
    }
    disk_open(&d);
    disk_mark(&d, 20 * MIB, 1);
    disk_kill(&d);
    disk_open(&d);
    assert_dirty(&d, "fine", "8-12 20480-20484 40960-40968");
    assert_dirty(&d, "off", "0-64");
    ck_assert_uint_eq(recovered(&d, "fine"), 0);
    disk_fini(&d);
}
END_TEST

START_TEST(r2_changes_before_a_kill_are_exact)
{
    g_autoptr(BmpBitmap) a = NULL, b = NULL;
    Disk d;

    disk_begin(&d, size);
    disk_must_add(&d, "b", 65536, true);
    disk_mark(&d, 0, 1);
    a = bmp_set_find(d.set, "a", NULL);
    b = bmp_set_find(d.set, "b", NULL);
    bmp_set_change_begin(&d.set, 1);
    ck_assert(bmp_bitmap_merge(b, a, NULL));
    ck_assert(bmp_bitmap_clear(a, NULL));
    ck_assert(bmp_bitmap_enable(b, NULL));
    ck_assert(bmp_set_commit(&d.set, 1, NULL));
    bmp_set_change_end(&d.set, 1);
    bmp_bitmap_unref(g_steal_pointer(&a));
    bmp_bitmap_unref(g_steal_pointer(&b));
    disk_mark(&d, 1 * MIB, 1);
    disk_kill(&d);
    disk_open(&d);
    assert_dirty(&d, "a", "1024-1088");
    assert_dirty(&d, "b", "0-64 1024-1088");
    disk_must(&d, "a", bmp_bitmap_remove);
    disk_kill(&d);
    disk_open(&d);
    ck_assert(!has(&d, "a"));
    assert_dirty(&d, "b", "0-64 1024-1088");
    disk_fini(&d);
}
END_TEST

/* Finer granules than the journal had need a new one, with what the old one said kept. */
START_TEST(r2_a_finer_bitmap_keeps_what_was_marked)
{
    Disk d;

    disk_begin(&d, size);
    disk_mark(&d, 0, 1);
    disk_must_add(&d, "b", 512, false);
    disk_mark(&d, 1 * MIB + 512, 1);
    disk_kill(&d);
    disk_open(&d);
    assert_dirty(&d, "a", "0-64 1024-1088");
    ck_assert(!disk_is_dirty(&d, "b", 1 * MIB));
    ck_assert(disk_is_dirty(&d, "b", 1 * MIB + 512));
    ck_assert(!disk_is_dirty(&d, "b", 1 * MIB + 1024));
    disk_must(&d, "b", bmp_bitmap_remove);
    disk_mark(&d, 2 * MIB, 1);
    disk_kill(&d);
    disk_open(&d);
    assert_dirty(&d, "a", "0-64 1024-1088 2048-2112");
    disk_fini(&d);
}
END_TEST

START_TEST(r3_a_power_loss_makes_intents_dirty)
{
    g_autofree char *reason = NULL;
    uint64_t first;
    Disk d;

    disk_begin(&d, size);
    disk_must_add(&d, "off", 65536, true);
    disk_mark(&d, 0, 1);
    disk_mark(&d, 65536, 1); /* that opens what lies beside it */
    disk_power_loss(&d);
    disk_open(&d);
    ck_assert(disk_is_dirty(&d, "a", 0) && disk_is_dirty(&d, "a", 65536));
    ck_assert(!disk_is_dirty(&d, "a", 32 * MIB));
    assert_dirty(&d, "off", "");
    first = recovered(&d, "a");
    ck_assert_uint_gt(first, 0);
    ck_assert_uint_le(first, size / 200);
    reason = reason_of(&d, "a");
    assert_says(reason, "power was lost");
    ck_assert_uint_gt(d.degraded, 0);
    disk_close(&d);
    disk_open(&d);
    ck_assert_uint_eq(recovered(&d, "a"), first);
    disk_must(&d, "a", bmp_bitmap_clear);
    ck_assert_uint_eq(recovered(&d, "a"), 0);
    disk_kill(&d);
    disk_open(&d);
    assert_dirty(&d, "a", "");
    ck_assert_uint_eq(recovered(&d, "a"), 0);
    disk_fini(&d);
}
END_TEST

START_TEST(r3_without_intents_a_power_loss_makes_all_dirty)
{
    Disk d;

    disk_init(&d, size);
    d.o.durability = BMP_DURABLE_PROCESS;
    disk_open(&d);
    disk_must_add(&d, "a", 65536, false);
    disk_mark(&d, 0, 1);
    disk_kill(&d);
    disk_open(&d);
    assert_dirty(&d, "a", "0-64");
    disk_power_loss(&d);
    disk_open(&d);
    assert_dirty(&d, "a", "0-65536");
    ck_assert_uint_eq(recovered(&d, "a"), size - 64 * KIB);
    disk_fini(&d);
}
END_TEST

/* ---- the disk */

START_TEST(r4_a_changed_disk_makes_enabled_bitmaps_inconsistent)
{
    g_autoptr(GError) error = NULL;
    g_autofree char *reason = NULL;
    Disk d;

    disk_begin(&d, size);
    disk_must_add(&d, "off", 65536, true);
    disk_close(&d);
    touch_disk(&d, 1000);
    disk_open(&d);
    ck_assert(inconsistent(&d, "a"));
    ck_assert(!inconsistent(&d, "off"));
    reason = reason_of(&d, "a");
    assert_says(reason, "modification time");
    ck_assert_uint_gt(d.degraded, 0);
    ck_assert(!disk_change(&d, "a", bmp_bitmap_clear, &error));
    assert_says(error->message, "Bitmap 'a' is inconsistent and cannot be used");
    ck_assert(!disk_add(&d, "a", 65536, false, NULL));
    disk_close(&d);
    disk_open(&d); /* a second look makes it no better */
    ck_assert(inconsistent(&d, "a"));
    disk_must(&d, "a", bmp_bitmap_remove);
    disk_must_add(&d, "a", 65536, false);
    ck_assert(!inconsistent(&d, "a"));
    disk_fini(&d);
}
END_TEST

START_TEST(r4_an_accepted_change_keeps_the_bitmaps)
{
    Disk d;

    disk_begin(&d, size);
    disk_mark(&d, 0, 1);
    disk_close(&d);
    touch_disk(&d, 1000);
    d.o.accept_changed = true;
    disk_open(&d);
    ck_assert(!inconsistent(&d, "a"));
    assert_dirty(&d, "a", "0-64");
    disk_fini(&d);
}
END_TEST

START_TEST(r4_another_size_counts_as_a_change)
{
    Disk d;

    disk_begin(&d, size);
    disk_close(&d);
    ck_assert_int_eq(ftruncate(d.fd, (off_t)(size + MIB)), 0);
    d.size += MIB;
    disk_open(&d);
    ck_assert(inconsistent(&d, "a"));
    disk_fini(&d);
}
END_TEST

/* The image moved under another name, with its store. */
START_TEST(a_disk_moved_with_its_store_is_unchanged)
{
    g_autofree char *image = NULL;
    Disk d;

    disk_begin(&d, size);
    disk_mark(&d, 0, 1);
    disk_kill(&d);
    image = g_build_filename(d.dir, "moved", NULL);
    ck_assert_int_eq(rename(d.image, image), 0);
    g_free(d.image);
    d.image = g_steal_pointer(&image);
    image = g_strconcat(d.image, BMP_STORE_SUFFIX, NULL);
    ck_assert_int_eq(rename(d.store, image), 0);
    g_free(d.store);
    d.store = g_steal_pointer(&image);
    disk_open(&d);
    ck_assert_uint_eq(d.degraded, 0);
    assert_dirty(&d, "a", "0-64");
    disk_fini(&d);
}
END_TEST

/* A copy: a new file for the disk, and for the store. */
static void copy_both(Disk *d, bool keep_times)
{
    g_autofree char *bytes = NULL;
    struct stat st;
    gsize n;

    ck_assert_int_eq(fstat(d->fd, &st), 0);
    close(d->fd);
    g_autofree char *old = g_strconcat(d->image, ".old", NULL); /* keeps its inode meanwhile */
    ck_assert_int_eq(rename(d->image, old), 0);
    ck_assert(g_file_get_contents(d->store, &bytes, &n, NULL));
    unlink(d->store);
    ck_assert(g_file_set_contents(d->store, bytes, (gssize)n, NULL));

    d->fd = open(d->image, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    ck_assert_int_ge(d->fd, 0);
    unlink(old);
    ck_assert_int_eq(ftruncate(d->fd, (off_t)d->size), 0);
    if (keep_times)
        ck_assert_int_eq(futimens(d->fd, (struct timespec[]){ st.st_atim, st.st_mtim }), 0);
    else
        touch_disk(d, 1000);
}

START_TEST(only_a_copy_with_its_times_counts_as_unchanged)
{
    bool keep_times = _i;
    Disk d;

    disk_begin(&d, size);
    disk_mark(&d, 0, 1);
    disk_close(&d);
    copy_both(&d, keep_times);
    disk_open(&d);
    ck_assert_int_eq(inconsistent(&d, "a"), !keep_times);
    if (keep_times)
        assert_dirty(&d, "a", "0-64");
    disk_fini(&d);
}
END_TEST

START_TEST(r5_a_store_not_closed_on_another_disk_is_distrusted)
{
    Disk d;

    disk_begin(&d, size);
    disk_kill(&d);
    copy_both(&d, true);
    disk_open(&d);
    ck_assert(inconsistent(&d, "a"));
    disk_fini(&d);
}
END_TEST

START_TEST(a_missing_store_is_noticed)
{
    Disk d;

    disk_begin(&d, size);
    disk_close(&d);
    char value[64];
    bool marked = fgetxattr(d.fd, BMP_STORE_XATTR, value, sizeof(value)) == 32;

    ck_assert_int_eq(unlink(d.store), 0);
    disk_open(&d);
    ck_assert_uint_eq(bmp_set_length(d.set), 0);
    ck_assert_uint_eq(d.degraded, marked ? 1 : 0); /* where there are attributes */
    if (marked)
        assert_says(d.reasons->str, "missing");
    disk_fini(&d);
}
END_TEST

/* ---- resize */

START_TEST(resizes_up_and_down_keep_marks)
{
    Disk d;

    disk_begin(&d, size);
    disk_mark(&d, 0, 1);
    for (int i = 0; i < 2; i++) {
        d.size = i ? 16 * MIB : size + MIB;
        ck_assert_int_eq(ftruncate(d.fd, (off_t)d.size), 0);
        bmp_set_change_begin(&d.set, 1);
        bmp_set_resize(d.set, d.size);
        ck_assert(bmp_set_commit(&d.set, 1, NULL));
        bmp_set_change_end(&d.set, 1);
        disk_kill(&d);
        disk_open(&d);
        assert_dirty(&d, "a", i ? "0-64" : "0-64 65536-66560");
        ck_assert_uint_eq(d.degraded, 0);
    }
    disk_fini(&d);
}
END_TEST

START_TEST(r5_a_resize_cut_short_by_a_kill_is_completed)
{
    bool grow = _i;
    Disk d;

    disk_begin(&d, size);
    disk_mark(&d, 0, 1);
    disk_kill(&d);
    d.size = grow ? size + MIB : 16 * MIB;
    ck_assert_int_eq(ftruncate(d.fd, (off_t)d.size), 0);
    disk_open(&d);
    assert_dirty(&d, "a", grow ? "0-64 65536-66560" : "0-64");
    ck_assert(!inconsistent(&d, "a"));
    disk_fini(&d);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("store");
    TCase *tc = tcase_create("store");
    SRunner *runner = srunner_create(suite);
    int failed;

    tcase_set_timeout(tc, 100);
    tcase_add_test(tc, without_a_store_persistent_bitmaps_are_refused);
    tcase_add_test(tc, r1_bitmaps_are_as_they_were_after_a_clean_close);
    tcase_add_test(tc, transient_bitmaps_are_not_kept);
    tcase_add_test(tc, a_read_only_opening_writes_nothing);
    tcase_add_test(tc, a_checkpoint_of_a_backup_that_did_not_end_is_left_out);
    tcase_add_test(tc, a_checkpoint_that_was_only_noted_is_reported);
    tcase_add_test(tc, what_was_noted_and_has_ended_is_not_reported);
    tcase_add_test(tc, a_checkpoint_that_was_only_noted_is_dirty_when_its_disk_loses_data);
    tcase_add_test(tc, only_a_sound_store_takes_a_note);
    tcase_add_test(tc, a_checkpoint_that_was_finished_stays);
    tcase_add_loop_test(tc, a_checkpoint_stays_while_its_disk_is_opened_anew, 0, 2);
    tcase_add_test(tc, a_store_has_one_writer);
    tcase_add_test(tc, r2_a_kill_is_exact);
    tcase_add_test(tc, r2_changes_before_a_kill_are_exact);
    tcase_add_test(tc, r2_a_finer_bitmap_keeps_what_was_marked);
    tcase_add_test(tc, r3_a_power_loss_makes_intents_dirty);
    tcase_add_test(tc, r3_without_intents_a_power_loss_makes_all_dirty);
    tcase_add_test(tc, r4_a_changed_disk_makes_enabled_bitmaps_inconsistent);
    tcase_add_test(tc, r4_an_accepted_change_keeps_the_bitmaps);
    tcase_add_test(tc, r4_another_size_counts_as_a_change);
    tcase_add_test(tc, a_disk_moved_with_its_store_is_unchanged);
    tcase_add_loop_test(tc, only_a_copy_with_its_times_counts_as_unchanged, 0, 2);
    tcase_add_test(tc, r5_a_store_not_closed_on_another_disk_is_distrusted);
    tcase_add_test(tc, a_missing_store_is_noticed);
    tcase_add_test(tc, resizes_up_and_down_keep_marks);
    tcase_add_loop_test(tc, r5_a_resize_cut_short_by_a_kill_is_completed, 0, 2);
    suite_add_tcase(suite, tc);
    srunner_run_all(runner, CK_ENV);
    failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
