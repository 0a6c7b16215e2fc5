/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* tests/unit/test_bitmap_model.c: random writes, changes, freezings, resizes and queries on a disk,
 * against arrays of bytes for each bitmap, which must be equal at every granularity (I1, I2); that
 * deltas stay bounded (I3), and memory with what is dirty. TM_TEST_SEED, default 1. */
#include "bitmap/bitmap.h"
#include "bitmap/set_internal.h"
#include "tests/asserts.h"

#include <stdlib.h>
#include <string.h>

#define MAX_BITMAPS 12
#define MAX_SIZE    (UINT64_C(6) << 20)
#define SET_SIZE    (MAX_SIZE / 512 + 1)

typedef struct Twin {
    BmpBitmap *bitmap; /* a reference */
    bool enabled;
    uint8_t *set; /* a byte per granule, room for MAX_SIZE */
    bool frozen;
    uint8_t *shown, *later; /* while it is frozen */
} Twin;

typedef struct World {
    GRand *rand;
    BmpSet *set;
    uint64_t size;
    Twin twins[MAX_BITMAPS];
    unsigned n, created;
} World;

static uint64_t below(World *w, uint64_t n)
{
    return g_rand_int(w->rand) % n;
}

static size_t granules(const Twin *t, uint64_t size)
{
    uint64_t g = bmp_bitmap_granularity(t->bitmap);

    return (size + g - 1) / g;
}

static void twin_mark(Twin *t, uint64_t offset, uint64_t length)
{
    uint64_t g = bmp_bitmap_granularity(t->bitmap);

    for (uint64_t i = offset / g; length && i <= (offset + length - 1) / g; i++)
        t->set[i] = 1;
    for (uint64_t i = offset / g; t->frozen && length && i <= (offset + length - 1) / g; i++)
        t->later[i] = 1;
}

static void world_write(World *w)
{
    uint64_t offset = below(w, w->size), most = below(w, 8) ? 10000 : w->size;
    uint64_t length = 1 + below(w, MIN(most, w->size - offset)), epoch;

    epoch = bmp_set_mark_begin(w->set, offset, length);
    bmp_set_mark_end(w->set, offset, length, epoch);
    for (unsigned i = 0; i < w->n; i++) {
        if (w->twins[i].enabled)
            twin_mark(&w->twins[i], offset, length);
    }
}

static void world_add(World *w)
{
    BmpAddOptions options = { .granularity = UINT64_C(512) << below(w, 13),
                              .disabled = !below(w, 3) };
    g_autofree char *name = g_strdup_printf("b%u", w->created++);
    Twin *t = &w->twins[w->n];

    if (w->n == MAX_BITMAPS)
        return;
    t->bitmap = bmp_set_add(w->set, name, &options, NULL);
    ck_assert_ptr_nonnull(t->bitmap);
    t->enabled = !options.disabled;
    t->set = g_malloc0(SET_SIZE);
    t->shown = g_malloc0(SET_SIZE);
    t->later = g_malloc0(SET_SIZE);
    t->frozen = false;
    w->n++;
}

static void twin_free(Twin *t)
{
    bmp_bitmap_unref(t->bitmap);
    g_free(t->set);
    g_free(t->shown);
    g_free(t->later);
}

static void world_remove(World *w, unsigned i)
{
    ck_assert(bmp_bitmap_remove(w->twins[i].bitmap, NULL) == !w->twins[i].frozen);
    if (w->twins[i].frozen)
        return;
    twin_free(&w->twins[i]);
    memmove(&w->twins[i], &w->twins[i + 1], (--w->n - i) * sizeof(Twin));
}

static void twin_merge(Twin *to, const Twin *from, uint64_t size)
{
    uint64_t g = bmp_bitmap_granularity(from->bitmap);

    for (size_t i = 0; i < granules(from, size); i++) {
        if (from->set[i])
            twin_mark(to, i * g, MIN(g, size - i * g));
    }
}

static void world_resize(World *w)
{
    uint64_t size = 1 + below(w, MAX_SIZE);

    bmp_set_resize(w->set, size);
    for (unsigned i = 0; i < w->n; i++) {
        Twin *t = &w->twins[i];

        memset(t->set + granules(t, size), 0, SET_SIZE - granules(t, size));
        memset(t->shown + granules(t, size), 0, SET_SIZE - granules(t, size));
        memset(t->later + granules(t, size), 0, SET_SIZE - granules(t, size));
        if (size > w->size)
            twin_mark(t, w->size, size - w->size);
    }
    w->size = size;
}

/* A change of a bitmap, half of them taken back. */
static void alter(World *w, Twin *t, const Twin *other)
{
    bool keep = below(w, 2);
    g_autofree uint8_t *old = g_memdup2(t->set, SET_SIZE);
    bool enabled = t->enabled;
    BmpBackup *backup = bmp_bitmap_backup(t->bitmap);

    switch (below(w, 4)) {
    case 0:
        ck_assert(bmp_bitmap_clear(t->bitmap, NULL));
        memset(t->set, 0, SET_SIZE);
        break;
    case 1:
        ck_assert(bmp_bitmap_enable(t->bitmap, NULL));
        t->enabled = true;
        break;
    case 2:
        ck_assert(bmp_bitmap_disable(t->bitmap, NULL));
        t->enabled = false;
        break;
    case 3:
        ck_assert(bmp_bitmap_merge(t->bitmap, other->bitmap, NULL));
        twin_merge(t, other, w->size);
        break;
    }
    if (keep) {
        bmp_backup_free(backup);
        return;
    }
    if (below(w, 2)) {
        ck_assert(bmp_bitmap_remove(t->bitmap, NULL));
        bmp_bitmap_unremove(t->bitmap);
    }
    bmp_bitmap_restore(t->bitmap, backup);
    memcpy(t->set, old, SET_SIZE);
    t->enabled = enabled;
}

static void world_alter(World *w, Twin *t, const Twin *other)
{
    if (!t->frozen && !other->frozen) {
        alter(w, t, other);
        return;
    }
    ck_assert(!bmp_bitmap_merge(t->bitmap, other->bitmap, NULL));
    ck_assert(!t->frozen || !bmp_bitmap_clear(t->bitmap, NULL));
}

static void world_freeze(World *w, Twin *t)
{
    if (!t->frozen) {
        ck_assert(bmp_bitmap_freeze(t->bitmap, true, NULL));
        memcpy(t->shown, t->set, SET_SIZE);
        memset(t->later, 0, SET_SIZE);
        t->frozen = true;
        return;
    }
    ck_assert(!bmp_bitmap_freeze(t->bitmap, true, NULL));
    t->frozen = false;
    if (below(w, 2)) {
        bmp_bitmap_thaw(t->bitmap, true);
        return;
    }
    bmp_bitmap_thaw(t->bitmap, false);
    memcpy(t->set, t->later, SET_SIZE);
}

static void world_change(World *w)
{
    bmp_set_change_begin(&w->set, 1);
    for (uint64_t i = 1 + below(w, 4); i; i--) {
        uint64_t what = below(w, 12);

        if (what < 2 || !w->n)
            world_add(w);
        else if (what == 2)
            world_remove(w, below(w, w->n));
        else if (what == 3)
            world_resize(w);
        else if (what < 6)
            world_freeze(w, &w->twins[below(w, w->n)]);
        else
            world_alter(w, &w->twins[below(w, w->n)], &w->twins[below(w, w->n)]);
    }
    bmp_set_change_end(&w->set, 1);
}

static void twin_check(World *w, Twin *t)
{
    uint64_t g = bmp_bitmap_granularity(t->bitmap), offset = below(w, w->size), count = 0;
    uint64_t length = w->size - offset, at = offset;
    g_autofree TmExtent *list = g_new(TmExtent, 20000);
    TmExtents out = { .list = list, .max = 20000 };
    const uint8_t *set = t->frozen ? t->shown : t->set;

    for (size_t i = 0; i < granules(t, w->size); i++)
        count += set[i];
    ck_assert_uint_eq(bmp_bitmap_count(t->bitmap), count * g);
    ck_assert(bmp_bitmap_enabled(t->bitmap) == t->enabled);
    ck_assert_uint_eq(bmp_bitmap_extents(t->bitmap, offset, length, &out), length);
    for (size_t i = 0; i < out.count; i++) {
        uint64_t last = at + list[i].length - 1;

        ck_assert(!i || list[i].flags != list[i - 1].flags);
        for (uint64_t b = at / g; b <= last / g; b++)
            ck_assert_uint_eq(set[b], list[i].flags);
        at = last + 1;
    }
    ck_assert_uint_eq(at, w->size);
}

static size_t deltas(BmpSet *set)
{
    size_t n = 0;

    for (BmpDelta *delta = set->head; delta; delta = delta->next)
        n++;
    return n;
}

START_TEST(every_bitmap_equals_its_model)
{
    World w = { .rand = g_rand_new_with_seed(1), .size = 3000000 + _i };

    if (g_getenv("TM_TEST_SEED"))
        g_rand_set_seed(w.rand, atoi(g_getenv("TM_TEST_SEED")) + _i);
    else
        g_rand_set_seed(w.rand, 1 + _i);
    w.set = bmp_set_new("n", w.size);
    for (int step = 0; step < 1500; step++) {
        uint64_t what = below(&w, 10);

        if (what < 6)
            world_write(&w);
        else if (what < 8)
            world_change(&w);
        else if (w.n)
            twin_check(&w, &w.twins[below(&w, w.n)]);
        ck_assert_uint_le(deltas(w.set), w.n + 1); /* I3 */
    }
    for (unsigned i = 0; i < w.n; i++) {
        twin_check(&w, &w.twins[i]);
        twin_free(&w.twins[i]);
    }
    bmp_set_free(w.set);
    g_rand_free(w.rand);
}
END_TEST

/* ---- memory and many bitmaps ----------------------------------------------------------------- */

static BmpBitmap *add(BmpSet *set, const char *name, uint64_t granularity)
{
    BmpAddOptions options = { .granularity = granularity };
    BmpBitmap *bitmap;

    bmp_set_change_begin(&set, 1);
    bitmap = bmp_set_add(set, name, &options, NULL);
    bmp_set_change_end(&set, 1);
    ck_assert_ptr_nonnull(bitmap);
    bmp_bitmap_unref(bitmap);
    return bitmap;
}

static void mark(BmpSet *set, uint64_t offset, uint64_t length)
{
    uint64_t epoch = bmp_set_mark_begin(set, offset, length);

    bmp_set_mark_end(set, offset, length, epoch);
}

static void mark_at_random(BmpSet *set, uint64_t size, unsigned n, uint32_t seed)
{
    GRand *rand = g_rand_new_with_seed(seed);

    while (n--) {
        uint64_t r = ((uint64_t)g_rand_int(rand) << 32) | g_rand_int(rand);

        mark(set, r % (size / 4096) * 4096, 4096);
    }
    g_rand_free(rand);
}

START_TEST(a_pebibyte_takes_little_memory)
{
    uint64_t size = UINT64_C(1) << 50;
    BmpSet *set = bmp_set_new("n", size);
    BmpBitmap *a = add(set, "a", 65536);

    ck_assert_uint_lt(bmp_set_memory(set), 16384);
    mark_at_random(set, size, 100000, 1);
    ck_assert_uint_lt(bmp_set_memory(set), 16 << 20);
    ck_assert_uint_gt(bmp_bitmap_count(a), 99900 * UINT64_C(65536));
    ck_assert_uint_lt(bmp_set_memory(set), 16 << 20);
    bmp_set_free(set);
}
END_TEST

/* A thousand bitmaps, added at different times, each asked: they share what they have in common. */
START_TEST(a_thousand_bitmaps_share_memory)
{
    uint64_t size = UINT64_C(1) << 40;
    BmpSet *set = bmp_set_new("n", size);
    BmpCounted *counted;
    uint64_t count = 0;
    size_t one, n;

    for (int i = 0; i < 1000; i++) {
        g_autofree char *name = g_strdup_printf("b%d", i);

        add(set, name, 65536);
    }
    mark_at_random(set, size, 100000, 1);
    one = bmp_set_memory(set);
    for (int round = 0; round < 4; round++) {
        n = bmp_set_count_all(set, &counted);
        ck_assert_uint_eq(n, 1000);
        for (size_t i = 0; i < n; i++) {
            ck_assert(!i || counted[i].count == counted[0].count);
            ck_assert_uint_eq(bmp_bitmap_count(counted[i].bitmap), counted[i].count);
        }
        ck_assert_uint_gt(counted[0].count, count);
        count = counted[0].count;
        bmp_counted_free(counted, n);
        ck_assert_uint_eq(deltas(set), 1);
        mark_at_random(set, size, 1000, 2 + round);
    }
    ck_assert_uint_lt(bmp_set_memory(set), 3 * one + 1000 * 4096);
    bmp_set_free(set);
}
END_TEST

/* One bitmap asked again and again, another never: what waits for it does not pile up. */
START_TEST(deltas_that_no_bitmap_separates_are_merged)
{
    uint64_t size = UINT64_C(1) << 40;
    BmpSet *set = bmp_set_new("n", size);
    BmpBitmap *asked = add(set, "asked", 65536), *never = add(set, "never", 1 << 20);

    for (int i = 0; i < 2000; i++) {
        mark(set, (uint64_t)i * 65536, 1);
        ck_assert_uint_eq(bmp_bitmap_count(asked), (i + 1) * UINT64_C(65536));
        ck_assert_uint_le(deltas(set), 3);
    }
    ck_assert_uint_lt(bmp_set_memory(set), 200000);
    ck_assert_uint_eq(bmp_bitmap_count(never), UINT64_C(125) << 20);
    bmp_set_free(set);
}
END_TEST

START_TEST(a_reference_outlives_its_set)
{
    BmpSet *set = bmp_set_new("n", 1 << 20);
    BmpBitmap *a = bmp_bitmap_ref(add(set, "a", 0));

    mark(set, 0, 1);
    ck_assert_uint_eq(bmp_bitmap_count(a), 65536);
    bmp_set_free(set);
    ck_assert_uint_eq(bmp_bitmap_count(a), 0);
    ck_assert_str_eq(bmp_bitmap_name(a), "a");
    ck_assert(!bmp_bitmap_enabled(a));
    bmp_bitmap_unref(a);
    bmp_set_free(NULL);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("bitmap_model");
    TCase *tc = tcase_create("bitmap_model");
    SRunner *runner = srunner_create(suite);
    int failed;

    tcase_set_timeout(tc, 120);
    tcase_add_loop_test(tc, every_bitmap_equals_its_model, 0, 8);
    tcase_add_test(tc, a_pebibyte_takes_little_memory);
    tcase_add_test(tc, a_thousand_bitmaps_share_memory);
    tcase_add_test(tc, deltas_that_no_bitmap_separates_are_merged);
    tcase_add_test(tc, a_reference_outlives_its_set);
    suite_add_tcase(suite, tc);
    srunner_run_all(runner, CK_ENV);
    failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
