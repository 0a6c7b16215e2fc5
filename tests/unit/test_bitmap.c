/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* tests/unit/test_bitmap.c: named bitmaps: messages, numbers and checksums as QEMU's, the
 * invariants I1 to I3 of bitmap.h, and a model that every bitmap must equal exactly (TM_TEST_SEED,
 * default 1).
 *
 * The expected messages, counts and checksums were read from qemu-storage-daemon 7.2.22 with the
 * same writes sent through its NBD export. */
#include "bitmap/bitmap.h"
#include "bitmap/set_internal.h"
#include "tests/asserts.h"

#include <stdlib.h>
#include <string.h>

#define KIB UINT64_C(1024)
#define TIB (UINT64_C(1) << 40)

static void begin(BmpSet *set)
{
    bmp_set_change_begin(&set, 1);
}

static void end(BmpSet *set)
{
    bmp_set_change_end(&set, 1);
}

static void mark(BmpSet *set, uint64_t offset, uint64_t length)
{
    uint64_t epoch = bmp_set_mark_begin(set, offset, length);

    bmp_set_mark_end(set, offset, length, epoch);
}

/* A bitmap added in a change of its own; the set keeps it. */
static BmpBitmap *add(BmpSet *set, const char *name, uint64_t granularity, bool disabled)
{
    BmpAddOptions options = { .granularity = granularity, .disabled = disabled };
    BmpBitmap *bitmap;
    GError *error = NULL;

    begin(set);
    bitmap = bmp_set_add(set, name, &options, &error);
    end(set);
    ck_assert_msg(bitmap != NULL, "%s", error ? error->message : "");
    bmp_bitmap_unref(bitmap);
    return bitmap;
}

typedef bool (*Change)(BmpBitmap *bitmap, GError **error);

static void change(BmpSet *set, BmpBitmap *bitmap, Change f)
{
    begin(set);
    ck_assert(f(bitmap, NULL));
    end(set);
}

static void assert_refused(BmpSet *set, BmpBitmap *bitmap, Change f, const char *message)
{
    GError *error = NULL;

    begin(set);
    ck_assert(!f(bitmap, &error));
    end(set);
    ck_assert_str_eq(error->message, message);
    g_error_free(error);
}

static size_t deltas(BmpSet *set)
{
    size_t n = 0;

    for (BmpDelta *delta = set->head; delta != set->tail; delta = delta->next) {
        ck_assert_uint_gt(delta->holders, 0); /* S1 */
        n++;
    }
    return n;
}

/* ---- as QEMU -------------------------------------------------------------------------------- */

static void assert_add_fails(BmpSet *set, const char *name, BmpAddOptions options,
                             const char *message)
{
    GError *error = NULL;

    begin(set);
    ck_assert_ptr_null(bmp_set_add(set, name, &options, &error));
    end(set);
    ck_assert_str_eq(error->message, message);
    g_error_free(error);
}

START_TEST(messages_are_qemus)
{
    BmpSet *set = bmp_set_new("n", 1000448), *other = bmp_set_new("nc", 12345 * 512);
    BmpSet *both[] = { other, set };
    const char *granularity = "Granularity must be power of 2 and at least 512";
    const char *busy = "Bitmap 'a' is currently in use by another operation and cannot be used";
    g_autofree char *longest = g_strnfill(1023, 'x'), *too_long = g_strnfill(1024, 'x');
    g_autofree char *long_message = g_strconcat("Bitmap name too long: ", too_long, NULL);
    BmpBitmap *a = add(set, "a", 0, false), *b = add(set, "b", 0, false);
    BmpBitmap *o = add(other, "o", 0, false);
    GError *error = NULL;

    add(set, longest, 0, false);
    assert_add_fails(set, "", (BmpAddOptions){ 0 }, "Bitmap name cannot be empty");
    assert_add_fails(set, "a", (BmpAddOptions){ 0 }, "Bitmap already exists: a");
    assert_add_fails(set, too_long, (BmpAddOptions){ 0 }, long_message);
    for (uint64_t g = 1; g <= UINT64_C(1) << 33; g = g * 2 + 1)
        assert_add_fails(set, "g", (BmpAddOptions){ .granularity = g }, granularity);
    assert_add_fails(set, "g", (BmpAddOptions){ .granularity = 256 }, granularity);
    assert_add_fails(set, "g", (BmpAddOptions){ .granularity = UINT64_C(1) << 32 }, granularity);
    assert_add_fails(set, "p", (BmpAddOptions){ .persistent = true },
                     "Can't store persistent bitmaps to n: Operation not supported (it has no "
                     "place for them: see the option bitmap-store)");
    ck_assert_ptr_null(bmp_set_find(set, "nope", &error));
    ck_assert_str_eq(error->message, "Dirty bitmap 'nope' not found");
    g_clear_error(&error);

    bmp_set_change_begin(both, 2);
    ck_assert(!bmp_bitmap_merge(a, o, &error));
    ck_assert_str_eq(error->message, "Bitmaps are of different sizes (destination size is 1000448, "
                                     "source size is 6320640) and can't be merged");
    g_clear_error(&error);
    ck_assert(bmp_bitmap_merge(a, a, NULL));
    bmp_bitmap_busy_begin(a);
    ck_assert(!bmp_bitmap_merge(a, b, &error));
    ck_assert_str_eq(error->message, busy);
    g_clear_error(&error);
    ck_assert(!bmp_bitmap_merge(b, a, &error));
    ck_assert_str_eq(error->message, busy);
    g_clear_error(&error);
    bmp_set_change_end(both, 2);

    bmp_bitmap_busy_begin(a);
    bmp_bitmap_busy_end(a); /* counted */
    assert_refused(set, a, bmp_bitmap_remove, busy);
    assert_refused(set, a, bmp_bitmap_clear, busy);
    assert_refused(set, a, bmp_bitmap_enable, busy);
    assert_refused(set, a, bmp_bitmap_disable, busy);
    bmp_bitmap_busy_end(a);
    change(set, a, bmp_bitmap_clear);
    ck_assert_uint_eq(bmp_default_granularity(0), 64 * KIB);
    ck_assert_uint_eq(bmp_default_granularity(512), 4 * KIB);
    ck_assert_uint_eq(bmp_default_granularity(32 * KIB), 32 * KIB);
    ck_assert_uint_eq(bmp_default_granularity(2048 * KIB), 64 * KIB);
    bmp_set_free(set);
    bmp_set_free(other);
}
END_TEST

static void assert_sha256(BmpBitmap *bitmap, const char *sum)
{
    g_autofree char *have = bmp_bitmap_sha256(bitmap);

    ck_assert_str_eq(have, sum);
}

/* 1000448 bytes: what a raw file of 1000000 reads as. Every granularity's last granule ends
 * beyond. */
START_TEST(odd_sizes_count_and_hash_as_qemu)
{
    BmpSet *set = bmp_set_new("n", 1000448);
    BmpBitmap *def = add(set, "def", 0, false), *g512 = add(set, "g512", 512, false);
    BmpBitmap *g2g = add(set, "g2g", UINT64_C(1) << 31, false), *fine, *coarse, *t1, *t2;

    mark(set, 999424, 512);
    ck_assert_uint_eq(bmp_bitmap_count(def), 65536);
    ck_assert_uint_eq(bmp_bitmap_count(g512), 512);
    ck_assert_uint_eq(bmp_bitmap_count(g2g), 2147483648);
    assert_sha256(def, "b54b1a339e9f1b672af88b397362d05c99e30d790835dbfd74fc9117a6de76d3");
    assert_sha256(g512, "7368744f847c2d0cb8b9810f22e64b167ae29cc7829de6250004f994a1170a68");
    assert_sha256(g2g, "7c9fa136d4413fa6173637e883b6998d32e1d675f88cddff9dcbcf331820f4b8");

    fine = add(set, "fine", 512, false);
    coarse = add(set, "coarse", 262144, false);
    mark(set, 512 * 5, 512);
    t1 = add(set, "t1", 4096, true);
    t2 = add(set, "t2", 4096, true);
    begin(set);
    ck_assert(bmp_bitmap_merge(t1, coarse, NULL));
    ck_assert(bmp_bitmap_merge(t2, fine, NULL));
    ck_assert(bmp_bitmap_merge(coarse, g512, NULL));
    ck_assert(bmp_bitmap_merge(t2, coarse, NULL));
    ck_assert(bmp_bitmap_merge(t2, g2g, NULL));
    end(set);
    ck_assert_uint_eq(bmp_bitmap_count(t1), 262144);
    ck_assert_uint_eq(bmp_bitmap_count(t2), 1003520);
    ck_assert_uint_eq(bmp_bitmap_count(coarse), 524288);
    ck_assert_uint_eq(bmp_bitmap_count(def), 131072);
    assert_sha256(t1, "3f41425439d6b0fea00cf2f3551bafca85ead4bfc8f1726d7c33d9c738a344d6");
    assert_sha256(t2, "868ff345aea88270204371eb2002a9ec3ce884d57a313651b4fcc5209efb1e8c");
    assert_sha256(coarse, "cbbd5f990c53684d7ae650b40fcb5656e02261b53da5f6a7d8c819c92f2828f8");
    assert_sha256(g512, "80bc4d53d70677f1bf941acbef59b708a53e1bb86c132930af94de9ba4967ee5");
    bmp_set_free(set);
}
END_TEST

static const struct {
    uint64_t size;
    const char *empty64k, *empty512, *full64k, *full512;
} VECTORS[] = {
    { 65536 * 64, "af5570f5a1810b7af78caf4bc70a660f0df51e42baf91d4de5b2328de0e83dfc",
      "5f70bf18a086007016e948b04aed3b82103a36bea41755b6cddfaf10ace3c6ef",
      "d87889f87ef983fda90dbb99c7e876a9673c035b3f3f4a32b3effcd8846b967d",
      "49659ac8826f949da5016d184c0adbdca5bdc37ab95c0d4ff046881c1f328a9f" },
    { 65536 * 65, "374708fff7719dd5979ec875d56cd2286f6d3cf7ec317a3b25632aab28ec37bb",
      "256fb9c4796b15a7ec4b0d5319e9e493ca4cffda658310420bdfd31e1c59da79",
      "9fe4bef17327ebbf2955719d19e787edba51267f8ad5ffe18a598f3fec2505b5",
      "c08ba2d4a0565039a68dd793265cfb69041a8146790dfc6e85985ee95e06cb8b" },
    { 65536 * 1000 + 512, "38723a2e5e8a17aa7950dc008209944e898f69a7bd10a23c839d341e935fd5ca",
      "ca24d654ef0e68b09cf44bcae69a4cb19182dc0696eaa6c8b31c1af965116ee2",
      "9f8e034671f2a844a2788417b4f5ed341ae175952fe9de1ce3b54b6acaae1fca",
      "542035fca0d84b1c9f0856728b2ab62daac3939f5b47e40c87014ff6c267f716" },
    { 1 << 30, "e5a00aa9991ac8a5ee3109844d84a55583bd20572ad3ffcd42792f3c36b183ad",
      "8a39d2abd3999ab73c34db2476849cddf303ce389b35826850f9a700589b4a90",
      "2897b8b73c04f33d27947e564425f6460cb79323ac7429ae505b0f3b000f8c81",
      "0ea3946928a5d14b05df35c097ed8f6749ce07a2390d0b426f5675e5e6e44917" },
};

START_TEST(hashes_are_qemus)
{
    BmpSet *set = bmp_set_new("n", VECTORS[_i].size);
    BmpBitmap *a = add(set, "a", 0, false), *b = add(set, "b", 512, false);

    assert_sha256(a, VECTORS[_i].empty64k);
    assert_sha256(b, VECTORS[_i].empty512);
    mark(set, 70000, 1000);
    mark(set, 1000000, 200000);
    mark(set, VECTORS[_i].size - 512, 512);
    ck_assert_uint_eq(bmp_bitmap_count(a), 393216);
    ck_assert_uint_eq(bmp_bitmap_count(b), 202240);
    assert_sha256(a, VECTORS[_i].full64k);
    assert_sha256(b, VECTORS[_i].full512);
    bmp_set_free(set);
}
END_TEST

/* ---- I1 ------------------------------------------------------------------------------------- */

/* A write that is in flight while @during happens; whether @bitmap has it afterwards. */
START_TEST(a_write_in_flight_is_in_a_bitmap_that_begins_or_ends)
{
    BmpSet *set = bmp_set_new("n", 1000 * KIB);
    BmpBitmap *a, *b;
    uint64_t before, epoch;

    /* before there was any bitmap */
    before = bmp_set_mark_begin(set, 0, 1);
    a = add(set, "a", 4096, false);
    bmp_set_mark_end(set, 0, 1, before);
    ck_assert_uint_eq(bmp_bitmap_count(a), 4096);

    /* across a clear: dirty again */
    epoch = bmp_set_mark_begin(set, 8192, 1);
    change(set, a, bmp_bitmap_clear);
    ck_assert_uint_eq(bmp_bitmap_count(a), 0);
    bmp_set_mark_end(set, 8192, 1, epoch);
    ck_assert_uint_eq(bmp_bitmap_count(a), 4096);

    /* disabled before it ends: it was enabled when it began */
    epoch = bmp_set_mark_begin(set, 16384, 1);
    change(set, a, bmp_bitmap_disable);
    ck_assert_uint_eq(bmp_bitmap_count(a), 8192);
    bmp_set_mark_end(set, 16384, 1, epoch);
    ck_assert_uint_eq(bmp_bitmap_count(a), 8192);

    /* enabled after it began and disabled before it ends, with and without others enabled */
    for (int other = 0; other < 2; other++) {
        epoch = bmp_set_mark_begin(set, 32768 + other * 4096, 1);
        change(set, a, bmp_bitmap_enable);
        change(set, a, bmp_bitmap_disable);
        ck_assert_uint_eq(bmp_bitmap_count(a), 8192 + other * 4096);
        bmp_set_mark_end(set, 32768 + other * 4096, 1, epoch);
        ck_assert_uint_eq(bmp_bitmap_count(a), 12288 + other * 4096);
        if (!other)
            add(set, "other", 0, false);
    }
    /* not enabled at any moment in between: not dirty (I2) */
    epoch = bmp_set_mark_begin(set, 65536, 1);
    b = add(set, "b", 4096, true);
    bmp_set_mark_end(set, 65536, 1, epoch);
    ck_assert_uint_eq(bmp_bitmap_count(a), 16384);
    ck_assert_uint_eq(bmp_bitmap_count(b), 0);

    /* a query between the two moves the epoch and loses nothing */
    b = add(set, "c", 512, false);
    epoch = bmp_set_mark_begin(set, 0, 512);
    ck_assert_uint_eq(bmp_bitmap_count(b), 512);
    bmp_set_mark_end(set, 0, 512, epoch);
    ck_assert_uint_eq(bmp_bitmap_count(b), 512);
    bmp_set_free(set);
}
END_TEST

/* All that a change does happens at its beginning, at any granularity. */
START_TEST(a_change_takes_effect_at_one_instant)
{
    BmpSet *set = bmp_set_new("n", 1000 * KIB);
    BmpBitmap *a = add(set, "a", 0, false), *gone = add(set, "gone", 0, false), *b;
    BmpAddOptions options = { .granularity = 512 };

    mark(set, 0, 1);
    bmp_bitmap_ref(gone);
    begin(set);
    mark(set, 100 * KIB, 1); /* by another thread, in effect: after the change */
    ck_assert_uint_eq(bmp_bitmap_count(a), 65536);
    ck_assert(bmp_bitmap_clear(a, NULL));
    b = bmp_set_add(set, "b", &options, NULL);
    mark(set, 200 * KIB, 1);
    ck_assert(bmp_bitmap_remove(gone, NULL));
    ck_assert_uint_eq(bmp_bitmap_count(a), 0);
    end(set);
    ck_assert_uint_eq(bmp_bitmap_count(a), 131072);
    ck_assert_uint_eq(bmp_bitmap_count(b), 1024);
    /* what was removed shows what it had, and records no more */
    mark(set, 900 * KIB, 1);
    ck_assert_uint_eq(bmp_bitmap_count(gone), 65536);
    assert_refused(set, gone, bmp_bitmap_enable, "Dirty bitmap 'gone' not found");
    bmp_bitmap_unref(b);
    bmp_set_free(set);
    ck_assert_uint_eq(bmp_bitmap_count(gone), 65536);
    bmp_bitmap_unref(gone);
}
END_TEST

/* ---- take back ------------------------------------------------------------------------------- */

START_TEST(restore_takes_everything_back)
{
    BmpSet *set = bmp_set_new("n", 1000 * KIB);
    BmpBitmap *a = add(set, "a", 4096, false), *b = add(set, "b", 4096, true), *at;
    BmpBackup *backup[6];

    add(set, "c", 4096, false);
    mark(set, 0, 1);
    begin(set);
    mark(set, 4096, 1);
    backup[0] = bmp_bitmap_backup(a);
    ck_assert(bmp_bitmap_clear(a, NULL));
    backup[1] = bmp_bitmap_backup(a);
    ck_assert(bmp_bitmap_disable(a, NULL));
    backup[2] = bmp_bitmap_backup(b);
    ck_assert(bmp_bitmap_enable(b, NULL));
    backup[3] = bmp_bitmap_backup(b);
    ck_assert(bmp_bitmap_merge(b, a, NULL));
    mark(set, 8192, 1);
    ck_assert(bmp_bitmap_remove(a, NULL));
    ck_assert_uint_eq(bmp_set_length(set), 2);
    bmp_bitmap_unremove(a);
    bmp_bitmap_restore(b, backup[3]);
    bmp_bitmap_restore(b, backup[2]);
    bmp_bitmap_restore(a, backup[1]);
    bmp_bitmap_restore(a, backup[0]);
    end(set);
    at = bmp_set_nth(set, 0);
    ck_assert_ptr_eq(at, a);
    bmp_bitmap_unref(at);
    ck_assert(bmp_bitmap_enabled(a));
    ck_assert(!bmp_bitmap_enabled(b));
    ck_assert_uint_eq(bmp_bitmap_count(a), 3 * 4096);
    ck_assert_uint_eq(bmp_bitmap_count(b), 0);
    mark(set, 16384, 1);
    ck_assert_uint_eq(bmp_bitmap_count(a), 4 * 4096);
    ck_assert_uint_eq(bmp_bitmap_count(b), 0);

    /* kept: the change stays */
    begin(set);
    backup[0] = bmp_bitmap_backup(a);
    ck_assert(bmp_bitmap_clear(a, NULL));
    end(set);
    bmp_backup_free(backup[0]);
    bmp_backup_free(NULL);
    ck_assert_uint_eq(bmp_bitmap_count(a), 0);
    ck_assert_uint_le(deltas(set), 3);
    bmp_set_free(set);
}
END_TEST

START_TEST(a_bitmap_is_as_old_as_what_it_records)
{
    const uint64_t minute = UINT64_C(60000000000);
    BmpSet *set = bmp_set_new("n", 1 << 20);
    BmpBitmap *bitmap = add(set, "b", 64 * KIB, false);
    uint64_t age;

    ck_assert(bmp_bitmap_age(bitmap, &age));
    ck_assert_uint_lt(age, 60);
    bitmap->began -= 3 * minute;
    begin(set);
    ck_assert(bmp_bitmap_freeze(bitmap, true, NULL));
    end(set);
    bitmap->frozen_at -= 2 * minute; /* so long does the job take */
    ck_assert(bmp_bitmap_age(bitmap, &age) && age >= 180);
    begin(set);
    bmp_bitmap_thaw(bitmap, false);
    end(set);
    ck_assert(bmp_bitmap_age(bitmap, &age) && age >= 120 && age < 180);
    change(set, bitmap, bmp_bitmap_clear);
    ck_assert(bmp_bitmap_age(bitmap, &age) && age < 60);
    bitmap->began = 0; /* as one that a store brings */
    ck_assert(!bmp_bitmap_age(bitmap, &age));
    bmp_set_free(set);
}
END_TEST

START_TEST(resize_makes_the_grown_part_dirty)
{
    BmpSet *set = bmp_set_new("n", 100 * KIB);
    BmpBitmap *a = add(set, "a", 65536, false), *b = add(set, "b", 512, true);
    uint64_t epoch;

    mark(set, 0, 1);
    epoch = bmp_set_mark_begin(set, 99 * KIB, KIB);
    begin(set);
    bmp_set_resize(set, 1000 * KIB);
    end(set);
    bmp_set_mark_end(set, 99 * KIB, KIB, epoch);
    ck_assert_uint_eq(bmp_bitmap_count(a), 16 * 65536);
    ck_assert_uint_eq(bmp_bitmap_count(b), 900 * KIB);
    begin(set);
    ck_assert(bmp_bitmap_clear(a, NULL) && bmp_bitmap_clear(b, NULL));
    end(set);
    mark(set, 999 * KIB, KIB);
    mark(set, 0, 1);
    ck_assert_uint_eq(bmp_bitmap_count(a), 2 * 65536);
    /* a write that was in flight while the disk shrank ends beyond it */
    epoch = bmp_set_mark_begin(set, 700 * KIB, KIB);
    begin(set);
    bmp_set_resize(set, 65537);
    end(set);
    bmp_set_mark_end(set, 700 * KIB, KIB, epoch);
    ck_assert_uint_eq(bmp_bitmap_count(a), 65536);
    mark(set, 65536, 1);
    ck_assert_uint_eq(bmp_bitmap_count(a), 131072);
    bmp_set_free(set);
}
END_TEST

START_TEST(extents_are_cut_to_the_range_and_bounded)
{
    BmpSet *set = bmp_set_new("n", 1000 * KIB + 1);
    BmpBitmap *a = add(set, "a", 4096, false);
    TmExtent list[3];
    TmExtents out = { .list = list, .max = 3 };

    ck_assert_uint_eq(bmp_bitmap_extents(a, 0, 1000 * KIB + 1, &out), 1000 * KIB + 1);
    ck_assert_uint_eq(out.count, 1);
    ck_assert_uint_eq(list[0].flags, 0);
    mark(set, 10000, 1);
    mark(set, 1000 * KIB, 1);
    out = (TmExtents){ .list = list, .max = 3 };
    ck_assert_uint_eq(bmp_bitmap_extents(a, 8193, 1000 * KIB + 1 - 8193, &out),
                      1000 * KIB + 1 - 8193);
    ck_assert_uint_eq(out.count, 3);
    ck_assert_uint_eq(list[0].length, 4095);
    ck_assert_uint_eq(list[0].flags, TM_STATE_DIRTY);
    ck_assert_uint_eq(list[1].length, 1000 * KIB - 12288);
    ck_assert_uint_eq(list[1].flags, 0);
    ck_assert_uint_eq(list[2].length, 1);
    ck_assert_uint_eq(list[2].flags, TM_STATE_DIRTY);
    /* full: what fitted is described, and how far it reaches */
    out = (TmExtents){ .list = list, .max = 2 };
    ck_assert_uint_eq(bmp_bitmap_extents(a, 0, 1000 * KIB + 1, &out), 12288);
    ck_assert_uint_eq(out.count, 2);
    ck_assert_uint_eq(list[0].length, 8192);
    ck_assert_uint_eq(list[1].length, 4096);
    out = (TmExtents){ .list = list, .max = 1 };
    ck_assert_uint_eq(bmp_bitmap_extents(a, 8200, 100, &out), 100);
    ck_assert_uint_eq(bmp_bitmap_extents(a, 0, 0, &out), 0);
    bmp_set_free(set);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("bitmap");
    TCase *tc = tcase_create("bitmap");
    SRunner *runner = srunner_create(suite);
    int failed;

    tcase_set_timeout(tc, 120);
    tcase_add_test(tc, messages_are_qemus);
    tcase_add_test(tc, odd_sizes_count_and_hash_as_qemu);
    tcase_add_loop_test(tc, hashes_are_qemus, 0, G_N_ELEMENTS(VECTORS));
    tcase_add_test(tc, a_write_in_flight_is_in_a_bitmap_that_begins_or_ends);
    tcase_add_test(tc, a_change_takes_effect_at_one_instant);
    tcase_add_test(tc, restore_takes_everything_back);
    tcase_add_test(tc, a_bitmap_is_as_old_as_what_it_records);
    tcase_add_test(tc, resize_makes_the_grown_part_dirty);
    tcase_add_test(tc, extents_are_cut_to_the_range_and_bounded);
    suite_add_tcase(suite, tc);
    srunner_run_all(runner, CK_ENV);
    failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
