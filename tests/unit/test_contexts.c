/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* tests/unit/test_contexts.c: the maps that the management attaches to exports: against an array of
 * values, at their limits, and while others walk them.
 *
 * Random changes are seeded (TM_TEST_SEED, default 1). Allocation failures are made here, by a
 * g_try_malloc_n of our own. */
#include "block/export/contexts.h"
#include "tests/asserts.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#define SIZE 200u /* of the model's disk */
#define HUGE ((uint64_t)INT64_MAX)

static bool no_memory;

gpointer g_try_malloc_n(gsize n, gsize size)
{
    return no_memory ? NULL : calloc(n, size);
}

static BlkContexts *contexts;

static void setup(void)
{
    contexts = blk_contexts_new();
    no_memory = false;
}

static void teardown(void)
{
    blk_contexts_free(contexts);
}

static bool set(const char *name, unsigned width, bool append, const BlkContextRange *ranges,
                size_t n, uint64_t size, GError **error)
{
    BlkContextChange change = {
        .name = name, .width = width, .append = append, .ranges = ranges, .n = n
    };

    return blk_contexts_set(contexts, size, &change, error);
}

static void sets(const char *name, unsigned width, bool append, const BlkContextRange *ranges,
                 size_t n)
{
    GError *error = NULL;

    if (!set(name, width, append, ranges, n, HUGE, &error))
        ck_abort_msg("%s", error->message);
}

static void refused(const char *name, unsigned width, bool append, const BlkContextRange *ranges,
                    size_t n, const char *why)
{
    g_autoptr(GError) error = NULL;

    ck_assert(!set(name, width, append, ranges, n, SIZE, &error));
    if (!strstr(error->message, why))
        ck_abort_msg("\"%s\" instead of \"%s\"", error->message, why);
    ck_assert(!strchr(error->message, '\n'));
}

static BlkContext *get(const char *name)
{
    g_autoptr(GPtrArray) list = blk_contexts_list(contexts);

    for (guint i = 0; i < list->len; i++) {
        if (!strcmp(blk_context_name(list->pdata[i]), name))
            return blk_context_ref(list->pdata[i]);
    }
    return NULL;
}

static BlkContextMap *map_of(const char *name)
{
    g_autoptr(BlkContext) context = get(name);

    return context ? blk_context_map(context) : NULL;
}

/* ---- against a model */

static void assert_map(const BlkContextMap *map, const uint64_t *model)
{
    uint64_t bytes = 0, count = 0;

    for (unsigned i = 0; i < SIZE; i++) {
        bytes += model[i] != 0;
        count += model[i] && (!i || model[i - 1] != model[i]);
    }
    ck_assert_uint_eq(blk_context_map_bytes(map), bytes);
    ck_assert_uint_eq(blk_context_map_count(map), count);
}

/* Any part, by answers of at most @max extents: each one as long as it can be. */
static void assert_part(const BlkContextMap *map, const uint64_t *model, uint64_t from, uint64_t to,
                        size_t max)
{
    while (from < to) {
        TmExtent list[SIZE];
        TmExtents x = { .list = list, .max = max };
        uint64_t described = blk_context_map_extents(map, from, to - from, &x),
                 end = from + described;

        ck_assert(x.count && x.count <= max && end <= to);
        ck_assert(x.count == max || end == to);
        for (size_t i = 0; i < x.count; i++) {
            ck_assert_uint_gt(list[i].length, 0);
            ck_assert(!i || list[i].flags != list[i - 1].flags);
            for (uint64_t k = 0; k < list[i].length; k++)
                ck_assert_uint_eq(list[i].flags, model[from + k]);
            from += list[i].length;
        }
        ck_assert_uint_eq(from, end);
        ck_assert(from == to || model[from] != model[from - 1]);
    }
}

/* Random ranges that don't overlap, in random order, into @ranges and @model. */
static size_t invent(GRand *rand, BlkContextRange *ranges, uint64_t *model)
{
    size_t n = 0;

    for (uint64_t at = 0; n < 20;) {
        uint64_t begin =
            at + (uint64_t)g_rand_int_range(rand, 0, 40) * g_rand_int_range(rand, 0, 2);
        uint64_t length = (uint64_t)g_rand_int_range(rand, 1, 30);
        uint64_t value = (uint64_t)g_rand_int_range(rand, 0, 3)
                         << g_rand_int_range(rand, 0, 2) * 40;

        if (begin + length > SIZE)
            break;
        ranges[n++] = (BlkContextRange){ begin, length, value };
        for (uint64_t i = begin; i < begin + length; i++)
            model[i] = value;
        at = begin + length;
    }
    for (size_t i = n; i > 1; i--) {
        size_t k = (size_t)g_rand_int_range(rand, 0, (gint32)i);
        BlkContextRange other = ranges[k];

        ranges[k] = ranges[i - 1];
        ranges[i - 1] = other;
    }
    return n;
}

START_TEST(ranges_equal_a_model)
{
    const char *seed = g_getenv("TM_TEST_SEED");
    GRand *rand = g_rand_new_with_seed(seed ? (guint32)atoi(seed) : 1);

    for (int i = 0; i < 1000; i++) {
        uint64_t values[SIZE] = { 0 };

        for (int k = 0; k < 4; k++) {
            BlkContextRange ranges[20];
            size_t n = invent(rand, ranges, values);
            g_autoptr(BlkContextMap) map = NULL;
            uint64_t from = (uint64_t)g_rand_int_range(rand, 0, SIZE);

            sets("m", 64, k > 0, ranges, n);
            map = map_of("m");
            assert_map(map, values);
            assert_part(map, values, 0, SIZE, SIZE);
            assert_part(map, values, from, SIZE, 1 + (size_t)i % 5);
            assert_part(map, values, from, from + 1, 1);
        }
    }
    g_rand_free(rand);
}
END_TEST

START_TEST(ranges_reach_the_last_byte)
{
    const BlkContextRange all = { 0, HUGE, UINT64_MAX }, last = { HUGE - 1, 1, 1 };
    TmExtent list[4];
    TmExtents x = { .list = list, .max = 4 };
    g_autoptr(BlkContextMap) map = NULL;

    sets("m", 64, false, &all, 1);
    sets("m", 0, true, &last, 1);
    map = map_of("m");
    ck_assert_uint_eq(blk_context_map_bytes(map), HUGE);
    ck_assert_uint_eq(blk_context_map_extents(map, HUGE - 3, 3, &x), 3);
    ck_assert_uint_eq(x.count, 2);
    ck_assert(list[0].length == 2 && list[0].flags == UINT64_MAX && list[1].flags == 1);
}
END_TEST

/* ---- what is refused, and that it changes nothing */

START_TEST(wrong_ranges_and_names_are_refused)
{
    const BlkContextRange good = { 10, 10, 7 }, empty = { 10, 0, 7 };
    const BlkContextRange beyond = { SIZE - 1, 2, 1 }, overflow = { UINT64_MAX, 2, 1 };
    const BlkContextRange full = { 0, UINT64_MAX, 1 }, large = { 0, 1, (uint64_t)1 << 32 };
    const BlkContextRange twice[] = { { 50, 10, 1 }, { 0, 1, 1 }, { 40, 11, 1 } };
    const BlkContextRange nested[] = { { 5, 1, 1 }, { 0, 100, 1 } };
    g_autofree char *long_name = g_strnfill(BLK_CONTEXT_NAME_MAX + 1, 'n');
    g_autoptr(BlkContextMap) map = NULL;
    GError *error = NULL;

    sets("m", 32, false, &good, 1);
    for (int append = 0; append < 2; append++) {
        refused("m", 0, append, &empty, 1, "'m': the range at offset 10 is empty");
        refused("m", 0, append, &beyond, 1, "2 bytes at offset 199 is not within");
        refused("m", 0, append, &overflow, 1, "not within the disk of 200 bytes");
        refused("m", 0, append, &full, 1, "not within the disk");
        refused("m", 0, append, &large, 1, "4294967296 at offset 0 does not fit");
        refused("m", 0, append, twice, 3, "offsets 40 and 50 overlap");
        refused("m", 0, append, nested, 2, "offsets 0 and 5 overlap");
        refused("m", 33, append, &good, 1, "32 or 64, not 33");
        refused("", 0, append, &good, 1, "empty");
        refused("\xff", 0, append, &good, 1, "UTF-8");
        refused(long_name, 0, append, &good, 1, "1024 bytes, expected at most 1023");
    }
    refused("m", 64, true, &good, 1, "values of 32 bits, not of 64");
    refused("other", 0, true, &good, 1, "'other' not found");
    no_memory = true;
    refused("m", 0, false, &good, 1, "out of memory");
    refused("new", 0, false, &good, 1, "out of memory");
    no_memory = false;
    ck_assert_ptr_null(get("new"));
    map = map_of("m");
    ck_assert(blk_context_map_count(map) == 1 && blk_context_map_bytes(map) == 10);
    ck_assert(!blk_contexts_remove(contexts, "other", &error));
    ck_assert_str_eq(error->message, "Metadata context 'other' not found");
    g_error_free(error);
    long_name[BLK_CONTEXT_NAME_MAX] = 0;
    sets(long_name, 0, false, &good, 1);
}
END_TEST

START_TEST(the_number_of_contexts_is_bounded)
{
    const BlkContextRange one = { 0, 1, 1 };
    g_autoptr(GPtrArray) list = NULL;

    for (unsigned i = 0; i < BLK_CONTEXTS_MAX; i++) {
        g_autofree char *name = g_strdup_printf("c%u", i);

        sets(name, 0, false, &one, 1);
    }
    refused("more", 0, false, &one, 1, "'more': the export already has the maximum of 64");
    sets("c5", 64, false, &one, 1); /* takes its place */
    list = blk_contexts_list(contexts);
    ck_assert_str_eq(blk_context_name(list->pdata[5]), "c5");
    ck_assert(blk_context_wide(list->pdata[5]));
    ck_assert(blk_contexts_remove(contexts, "c0", NULL));
    sets("more", 0, false, &one, 1);
}
END_TEST

/* @n ranges of a byte, every other one. */
static BlkContextRange *comb(size_t n)
{
    BlkContextRange *ranges = g_new(BlkContextRange, n);

    for (size_t i = 0; i < n; i++)
        ranges[i] = (BlkContextRange){ 2 * i, 1, 1 };
    return ranges;
}

START_TEST(the_number_of_ranges_is_bounded)
{
    const size_t max = BLK_CONTEXT_RANGES_MAX;
    g_autofree BlkContextRange *ranges = comb(max + 1);
    const BlkContextRange more = { 2 * max, 1, 1 }, hole = { 0, 1, 0 }, inside = { 10, 1, 2 };
    const BlkContextRange split[] = { { 0, 9, 1 }, { 9, 1, 2 }, { 11, HUGE - 11, 1 } };
    g_autoptr(GError) error = NULL;
    BlkContextMap *old[4];

    ck_assert(!set("m", 0, false, ranges, max + 1, HUGE, &error));
    ck_assert_str_eq(error->message, "Metadata context 'm': more than 1000000 ranges");
    g_clear_error(&error);
    ck_assert_ptr_null(get("m"));
    sets("m", 0, false, ranges, max);
    ck_assert(!set("m", 0, true, &more, 1, HUGE, NULL));
    sets("m", 0, true, &inside, 1);
    sets("m", 0, true, &hole, 1);
    sets("m", 0, true, &more, 1);
    sets("m", 0, true, split, 3);
    old[0] = map_of("m");
    ck_assert_uint_eq(blk_context_map_count(old[0]), 3); /* the 2s touch */
    ck_assert_uint_eq(blk_context_map_bytes(old[0]), HUGE);
    blk_context_map_unref(old[0]);

    /* those that somebody still holds count */
    for (int i = 0; i < 4; i++) {
        sets("m", 0, false, ranges, max);
        old[i] = map_of("m");
    }
    ck_assert(!set("m", 0, false, ranges, 1, HUGE, &error));
    ck_assert_ptr_nonnull(
        strstr(error->message, "the export and its sessions have 4000000 already"));
    sets("m", 0, false, NULL, 0);
    blk_context_map_unref(old[2]);
    sets("m", 0, false, ranges, max);
    for (int i = 0; i < 4; i++)
        blk_context_map_unref(i == 2 ? NULL : old[i]);
}
END_TEST

/* ---- while others walk */

typedef struct Walkers {
    bool stop; /* atomic */
    unsigned walks;
} Walkers;

/* Every map that is ever set has one value in the even bytes, and 0 in the odd ones. */
static void *walk(void *opaque)
{
    Walkers *w = opaque;

    while (!__atomic_load_n(&w->stop, __ATOMIC_ACQUIRE)) {
        g_autoptr(BlkContext) context = get("m");
        g_autoptr(BlkContextMap) map = context ? blk_context_map(context) : NULL;
        TmExtent list[40];
        TmExtents x = { .list = list, .max = 40 };

        if (!map)
            continue;
        ck_assert_uint_eq(blk_context_map_extents(map, 0, 40, &x), 40);
        ck_assert_uint_eq(x.count, 40);
        for (size_t i = 0; i < x.count; i++)
            ck_assert_uint_eq(list[i].flags, i % 2 ? 0 : list[0].flags);
        ck_assert(blk_context_wide(context) == (list[0].flags > UINT32_MAX));
        __atomic_add_fetch(&w->walks, 1, __ATOMIC_RELAXED);
    }
    return NULL;
}

START_TEST(readers_see_whole_maps_while_they_change)
{
    g_autofree BlkContextRange *ranges = comb(20);
    pthread_t threads[2];
    Walkers w = { 0 };

    for (int i = 0; i < 2; i++)
        ck_assert_int_eq(pthread_create(&threads[i], NULL, walk, &w), 0);
    for (unsigned round = 1; round < 500 || __atomic_load_n(&w.walks, __ATOMIC_RELAXED) < 1000;
         round++) {
        unsigned width = round % 3 ? 32 : 64;

        for (int i = 0; i < 20; i++)
            ranges[i].value = width == 64 ? (uint64_t)round << 32 : round;
        sets("m", width, false, ranges, 20);
        if (round % 5 == 0)
            ck_assert(blk_contexts_remove(contexts, "m", NULL));
    }
    __atomic_store_n(&w.stop, true, __ATOMIC_RELEASE);
    for (int i = 0; i < 2; i++)
        pthread_join(threads[i], NULL);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("contexts");
    TCase *tcase = tcase_create("contexts");
    SRunner *runner;
    int failed;

    tcase_add_checked_fixture(tcase, setup, teardown);
    tcase_set_timeout(tcase, 60);
    tcase_add_test(tcase, ranges_equal_a_model);
    tcase_add_test(tcase, ranges_reach_the_last_byte);
    tcase_add_test(tcase, wrong_ranges_and_names_are_refused);
    tcase_add_test(tcase, the_number_of_contexts_is_bounded);
    tcase_add_test(tcase, the_number_of_ranges_is_bounded);
    tcase_add_test(tcase, readers_see_whole_maps_while_they_change);
    suite_add_tcase(suite, tcase);
    runner = srunner_create(suite);
    srunner_run_all(runner, CK_ENV);
    failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
