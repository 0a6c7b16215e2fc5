/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* tests/unit/test_bits.c: the sparse set of bits, against an array of bytes.
 *
 * Random operations, seeded (TM_TEST_SEED, default 1), on sizes around every boundary that the
 * representation has: words, lists, pages, nodes, 2^32. Allocation failures are made here, by a
 * g_try_malloc of our own. */
#include "bitmap/bitmap.h"
#include "bitmap/bits.h"
#include "tests/asserts.h"
#include "tests/rounds.h"

#include <stdlib.h>
#include <string.h>

/* How many more allocations succeed; -1: all. */
static long allocations_left = -1;

gpointer g_try_malloc(gsize n)
{
    if (!allocations_left)
        return NULL;
    if (allocations_left > 0)
        allocations_left--;
    return malloc(n);
}

static GRand *rand_new(void)
{
    const char *seed = g_getenv("TM_TEST_SEED");

    return g_rand_new_with_seed(seed ? atoi(seed) : 1);
}

static uint64_t rand_below(GRand *rand, uint64_t n)
{
    return (((uint64_t)g_rand_int(rand) << 32) | g_rand_int(rand)) % n;
}

/* ---- the model: bytes, in windows of a space that may be huge -------------------------------- */

#define WINDOWS 8

typedef struct Model {
    uint64_t base[WINDOWS], length[WINDOWS];
    unsigned windows;
    uint8_t *set[WINDOWS];
} Model;

static Model model_new(uint64_t nbits)
{
    Model m = { .windows = 1 };

    m.length[0] = nbits;
    m.set[0] = g_malloc0(nbits + 1);
    return m;
}

static void model_free(Model *m)
{
    for (unsigned i = 0; i < m->windows; i++)
        g_free(m->set[i]);
}

static void assert_equal(const BmpBits *bits, const Model *m, bool superset)
{
    BmpBitsIter iter = bmp_bits_iter(bits);
    uint64_t first, end = 0, from = 0, count = 0, total = 0;

    while (bmp_bits_next(&iter, from, UINT64_MAX, &first, &end)) {
        ck_assert_uint_lt(first, end);
        ck_assert(first >= from);
        ck_assert_uint_le(end, bits->nbits);
        /* maximal: the bit after a run is clear */
        ck_assert(end == bits->nbits || !bmp_bits_test(bits, end));
        total += end - first;
        for (unsigned w = 0; w < m->windows; w++) {
            for (uint64_t b = MAX(first, m->base[w]); b < MIN(end, m->base[w] + m->length[w]); b++)
                count += m->set[w][b - m->base[w]];
        }
        if (!superset && m->windows == 1)
            ck_assert_ptr_null(memchr(m->set[0] + first, 0, end - first));
        from = end;
    }
    ck_assert_uint_eq(total, bmp_bits_count(bits));
    /* every bit of the model is in some run, and without superset there is no other */
    for (unsigned w = 0; w < m->windows; w++) {
        for (uint64_t i = 0; i < m->length[w]; i++)
            count -= m->set[w][i];
    }
    ck_assert_uint_eq(count, 0);
    if (!superset) {
        uint64_t wanted = 0;

        for (unsigned w = 0; w < m->windows; w++) {
            for (uint64_t i = 0; i < m->length[w]; i++)
                wanted += m->set[w][i];
        }
        ck_assert_uint_eq(total, wanted);
    }
}

/* The edges say the same as walking from bit to bit, from anywhere to anywhere, in parts or
 * whole. */
static void assert_edges(const BmpBits *bits, GRand *rand, uint64_t near)
{
    uint64_t from = rand_below(rand, bits->nbits), edges[8], reached;
    uint64_t limit, length = 1 + rand_below(rand, 3000);
    size_t max = (size_t)g_rand_int_range(rand, 1, G_N_ELEMENTS(edges) + 1);

    if (g_rand_boolean(rand))
        from = MIN(near, bits->nbits - 1);
    limit = MIN(from + length, bits->nbits);
    for (uint64_t at = from; at < limit; at = reached) {
        bool set, now;
        size_t n = bmp_bits_edges(bits, at, limit, edges, max, &set, &reached);
        size_t k = 0;

        ck_assert_uint_le(n, max);
        ck_assert_uint_gt(reached, at);
        ck_assert(reached == limit || (n == max && reached == edges[n - 1] >> bits->shift));
        now = set;
        for (uint64_t bit = at; bit < reached; bit++) {
            if (k < n && edges[k] == bit << bits->shift) {
                now = !now;
                k++;
            }
            ck_assert(now == bmp_bits_test(bits, bit));
        }
        ck_assert(k == n || (k == n - 1 && edges[k] >> bits->shift == reached));
    }
}

/* A range in a window: mostly short, sometimes long, at times all of it. */
static void rand_range(GRand *rand, uint64_t n, uint64_t *first, uint64_t *last)
{
    uint64_t most = g_rand_int_range(rand, 0, 4) ? 40 : g_rand_int_range(rand, 0, 4) ? 5000 : n;

    *first = rand_below(rand, n);
    *last = *first + rand_below(rand, most);
    *last = MIN(*last, n - 1);
    if (!g_rand_int_range(rand, 0, 100)) {
        *first = 0;
        *last = n - 1;
    }
}

static void random_op(GRand *rand, BmpBits *bits, Model *m)
{
    unsigned w = g_rand_int_range(rand, 0, m->windows);
    bool set = g_rand_int_range(rand, 0, 3);
    uint64_t first, last;

    rand_range(rand, m->length[w], &first, &last);
    memset(m->set[w] + first, set, last - first + 1);
    (set ? bmp_bits_set : bmp_bits_clear)(bits, m->base[w] + first, m->base[w] + last);
}

static const uint64_t SIZES[] = { 1,     2,     63,     64,     65,     127,    4095,  65535,
                                  65536, 65537, 100000, 131072, 131073, 200001, 262145 };

START_TEST(random_operations_equal_an_array_of_bytes)
{
    GRand *rand = rand_new();

    for (unsigned s = 0; s < G_N_ELEMENTS(SIZES); s++) {
        Model m = model_new(SIZES[s]);
        BmpBits bits;

        bmp_bits_init(&bits, SIZES[s], 0);
        for (int i = 0; i < ROUNDS(400); i++) {
            uint64_t b = rand_below(rand, SIZES[s]);

            random_op(rand, &bits, &m);
            ck_assert_int_eq(bmp_bits_test(&bits, b), m.set[0][b]);
            assert_edges(&bits, rand, b);
            if (i % 8 == 0)
                assert_equal(&bits, &m, false);
        }
        bmp_bits_clear(&bits, 0, UINT64_MAX);
        ck_assert(bmp_bits_empty(&bits));
        model_free(&m);
    }
    g_rand_free(rand);
}
END_TEST

START_TEST(random_operations_are_right_beyond_2_to_the_32)
{
    static const uint64_t BASES[WINDOWS] = { 0,
                                             65536 - 1500,
                                             (UINT64_C(1) << 25) - 1500,
                                             (UINT64_C(1) << 32) - 1500,
                                             (UINT64_C(1) << 34) - 1500,
                                             (UINT64_C(1) << 43) + 12345,
                                             (UINT64_C(1) << 44) - 3000 + 77 };
    GRand *rand = rand_new();
    Model m = { .windows = 7 };
    BmpBits bits;
    uint64_t nbits = (UINT64_C(1) << 44) + 77;

    bmp_bits_init(&bits, nbits << 9, 9);
    ck_assert_uint_eq(bits.nbits, nbits);
    for (unsigned w = 0; w < m.windows; w++) {
        m.base[w] = BASES[w];
        m.length[w] = 3000;
        m.set[w] = g_malloc0(3000);
    }
    for (int i = 0; i < ROUNDS(4000); i++) {
        random_op(rand, &bits, &m);
        assert_edges(&bits, rand, BASES[i % 7] + (uint64_t)i % 3000);
        if (i % 16 == 0)
            assert_equal(&bits, &m, false);
    }
    /* a range across windows, and a hole in it */
    bmp_bits_set(&bits, 5, UINT64_C(1) << 40);
    bmp_bits_clear(&bits, 5000, (UINT64_C(1) << 40) - 1);
    for (unsigned w = 0; w < m.windows; w++) {
        for (uint64_t i = 0; i < m.length[w]; i++) {
            uint64_t b = m.base[w] + i;

            if (b >= 5 && b <= UINT64_C(1) << 40)
                m.set[w][i] = b < 5000;
        }
    }
    bmp_bits_clear(&bits, 3000, 4999);
    bmp_bits_clear(&bits, UINT64_C(1) << 40, UINT64_C(1) << 40);
    assert_equal(&bits, &m, false);
    bmp_bits_set(&bits, 0, UINT64_MAX);
    ck_assert_uint_eq(bmp_bits_count(&bits), nbits);
    bmp_bits_clear_all(&bits);
    model_free(&m);
    g_rand_free(rand);
}
END_TEST

/* A copy does not see what happens to the original, nor the other way round. */
START_TEST(clones_are_independent)
{
    GRand *rand = rand_new();
    uint64_t n = 200001;
    Model m = model_new(n), old = model_new(n);
    BmpBits bits, clone = { 0 };

    bmp_bits_init(&bits, n, 0);
    for (int i = 0; i < ROUNDS(300); i++) {
        bmp_bits_clear_all(&clone);
        bmp_bits_clone(&clone, &bits);
        memcpy(old.set[0], m.set[0], n);
        for (int j = 0; j < 5; j++)
            random_op(rand, &bits, &m);
        assert_equal(&clone, &old, false);
        random_op(rand, &clone, &old);
        assert_equal(&clone, &old, false);
        assert_equal(&bits, &m, false);
    }
    bmp_bits_clear_all(&bits);
    bmp_bits_clear_all(&clone);
    model_free(&m);
    model_free(&old);
    g_rand_free(rand);
}
END_TEST

static void model_or(Model *to, unsigned to_shift, const Model *from, unsigned from_shift)
{
    for (uint64_t i = 0; i < from->length[0]; i++) {
        uint64_t first = (i << from_shift) >> to_shift;
        uint64_t last = (((i + 1) << from_shift) - 1) >> to_shift;

        if (!from->set[0][i])
            continue;
        for (uint64_t b = first; b <= MIN(last, to->length[0] - 1); b++)
            to->set[0][b] = 1;
    }
}

START_TEST(or_rounds_granules_outward)
{
    GRand *rand = rand_new();

    for (unsigned a = 9; a <= 21; a++) {
        for (unsigned b = 9; b <= 21; b++) {
            uint64_t size = rand_below(rand, UINT64_C(60) << 20) + 1;
            BmpBits to, from;
            Model mto, mfrom;

            bmp_bits_init(&to, size, a);
            bmp_bits_init(&from, size, b);
            ck_assert_uint_eq(to.nbits, (size + (UINT64_C(1) << a) - 1) >> a);
            mto = model_new(to.nbits);
            mfrom = model_new(from.nbits);
            for (int i = 0; i < 12; i++) {
                random_op(rand, &to, &mto);
                random_op(rand, &from, &mfrom);
            }
            bmp_bits_or(&to, &from);
            model_or(&mto, a, &mfrom, b);
            assert_equal(&to, &mto, false);
            assert_equal(&from, &mfrom, false);
            bmp_bits_clear_all(&to);
            bmp_bits_clear_all(&from);
            model_free(&mto);
            model_free(&mfrom);
        }
    }
    g_rand_free(rand);
}
END_TEST

/* Many rounds with the same geometry, where pages are shared between the two. */
START_TEST(or_with_shared_pages_equals_the_model)
{
    GRand *rand = rand_new();
    uint64_t n = 262145;
    Model m = model_new(n), mfrom = model_new(n);
    BmpBits to, from;

    bmp_bits_init(&to, n, 0);
    bmp_bits_init(&from, n, 0);
    for (int i = 0; i < ROUNDS(300); i++) {
        random_op(rand, &to, &m);
        for (int j = 0; j < 3; j++)
            random_op(rand, &from, &mfrom);
        bmp_bits_or(&to, &from);
        model_or(&m, 0, &mfrom, 0);
        assert_equal(&to, &m, false);
        assert_equal(&from, &mfrom, false);
        if (i % 10 == 0) {
            bmp_bits_clear_all(&to);
            memset(m.set[0], 0, n);
        }
    }
    bmp_bits_clear_all(&to);
    bmp_bits_clear_all(&from);
    model_free(&m);
    model_free(&mfrom);
    g_rand_free(rand);
}
END_TEST

START_TEST(resize_keeps_what_is_inside_and_drops_the_rest)
{
    GRand *rand = rand_new();

    for (int i = 0; i < 60; i++) {
        uint64_t from = SIZES[g_rand_int_range(rand, 0, G_N_ELEMENTS(SIZES))];
        uint64_t to = SIZES[g_rand_int_range(rand, 0, G_N_ELEMENTS(SIZES))];
        Model m = model_new(from), after = model_new(to), again = model_new(from);
        BmpBits bits;

        bmp_bits_init(&bits, from, 0);
        for (int j = 0; j < 20; j++)
            random_op(rand, &bits, &m);
        memcpy(after.set[0], m.set[0], MIN(from, to));
        memcpy(again.set[0], m.set[0], MIN(from, to));
        bmp_bits_resize(&bits, to);
        assert_equal(&bits, &after, false);
        bmp_bits_resize(&bits, from);
        assert_equal(&bits, &again, false);
        bmp_bits_clear_all(&bits);
        model_free(&m);
        model_free(&after);
        model_free(&again);
    }
    g_rand_free(rand);
}
END_TEST

START_TEST(runs_are_cut_at_both_ends)
{
    BmpBitsIter iter;
    BmpBits bits;
    uint64_t first = 1, end = 2;

    bmp_bits_init(&bits, 1000000, 0);
    iter = bmp_bits_iter(&bits);
    ck_assert(!bmp_bits_next(&iter, 0, 1000000, &first, &end));
    ck_assert_uint_eq(first, 1); /* untouched */
    ck_assert_uint_eq(end, 2);
    bmp_bits_set(&bits, 70000, 500000);
    iter = bmp_bits_iter(&bits);
    ck_assert(bmp_bits_next(&iter, 100000, 300000, &first, &end));
    ck_assert_uint_eq(first, 100000);
    ck_assert_uint_eq(end, 300000);
    ck_assert(!bmp_bits_next(&iter, 0, 70000, &first, &end));
    ck_assert(bmp_bits_next(&iter, 0, 70001, &first, &end));
    ck_assert_uint_eq(first, 70000);
    ck_assert_uint_eq(end, 70001);
    ck_assert(!bmp_bits_next(&iter, 500001, UINT64_MAX, &first, &end));
    ck_assert(!bmp_bits_next(&iter, UINT64_MAX, UINT64_MAX, &first, &end));
    bmp_bits_clear_all(&bits);
}
END_TEST

static void collect(void *opaque, const void *data, size_t length)
{
    g_byte_array_append(opaque, data, length);
}

START_TEST(export_is_little_endian_words)
{
    GRand *rand = rand_new();

    for (unsigned s = 0; s < G_N_ELEMENTS(SIZES); s++) {
        GByteArray *bytes = g_byte_array_new();
        Model m = model_new(SIZES[s]);
        BmpBits bits;

        bmp_bits_init(&bits, SIZES[s], 0);
        for (int i = 0; i < 15; i++)
            random_op(rand, &bits, &m);
        bmp_bits_export(&bits, collect, bytes);
        ck_assert_uint_eq(bytes->len, (SIZES[s] + 63) / 64 * 8);
        for (uint64_t i = 0; i < bytes->len * UINT64_C(8); i++)
            ck_assert_int_eq(bytes->data[i / 8] >> (i % 8) & 1, i < SIZES[s] ? m.set[0][i] : 0);
        g_byte_array_unref(bytes);
        bmp_bits_clear_all(&bits);
        model_free(&m);
    }
    g_rand_free(rand);
}
END_TEST

START_TEST(a_disk_of_no_bytes_has_no_bits)
{
    GByteArray *bytes = g_byte_array_new();
    BmpBits bits;

    bmp_bits_init(&bits, 0, 16);
    bmp_bits_set(&bits, 0, 10);
    bmp_bits_set_bytes(&bits, 0, 10);
    bmp_bits_clear(&bits, 0, 10);
    ck_assert(bmp_bits_empty(&bits));
    ck_assert_uint_eq(bmp_bits_count(&bits), 0);
    bmp_bits_export(&bits, collect, bytes);
    ck_assert_uint_eq(bytes->len, 8);
    bmp_bits_resize(&bits, 100);
    bmp_bits_set_bytes(&bits, 99, 1);
    ck_assert_uint_eq(bmp_bits_count(&bits), 1);
    bmp_bits_resize(&bits, 0);
    ck_assert_uint_eq(bmp_bits_count(&bits), 0);
    bmp_bits_clear_all(&bits);
    g_byte_array_unref(bytes);
}
END_TEST

static size_t memory(const BmpBits *bits)
{
    g_autoptr(GHashTable) seen = g_hash_table_new(NULL, NULL);

    return bmp_page_tree_memory(bits->root, seen);
}

START_TEST(memory_is_proportional_to_what_is_set)
{
    GRand *rand = rand_new();
    BmpBits bits;

    bmp_bits_init(&bits, UINT64_C(1) << 50, 16);
    ck_assert_uint_eq(memory(&bits), 0);
    bmp_bits_set(&bits, 0, UINT64_MAX);
    ck_assert_uint_eq(memory(&bits), 0);
    bmp_bits_clear(&bits, 1, UINT64_MAX);
    ck_assert_uint_le(memory(&bits), 32 * 1024);
    for (int i = 0; i < 100000; i++) {
        uint64_t b = rand_below(rand, bits.nbits);

        bmp_bits_set(&bits, b, b);
    }
    ck_assert_uint_gt(bmp_bits_count(&bits), 99900);
    ck_assert_uint_lt(memory(&bits), 8 << 20);
    bmp_bits_clear_all(&bits);
    g_rand_free(rand);
}
END_TEST

/* Whatever allocation fails, nothing that was set is lost. */
START_TEST(a_failed_allocation_only_over_reports)
{
    GRand *rand = rand_new();
    uint64_t n = 262145;
    bool over = false;

    for (int round = 0; round < 400; round++) {
        Model m = model_new(n), mfrom = model_new(n);
        BmpBits bits, from, clone;

        bmp_bits_init(&bits, n, 0);
        bmp_bits_init(&from, n, 0);
        for (int i = 0; i < 6; i++)
            random_op(rand, &from, &mfrom);
        bmp_bits_clone(&clone, &from);
        allocations_left = g_rand_int_range(rand, 0, 12);
        for (int i = 0; i < 6; i++)
            random_op(rand, &bits, &m);
        bmp_bits_or(&bits, &from);
        model_or(&m, 0, &mfrom, 0);
        for (int i = 0; i < 6; i++)
            random_op(rand, &bits, &m);
        if (round % 3 == 0)
            bmp_bits_resize(&bits, n);
        allocations_left = -1;
        assert_equal(&bits, &m, true);
        assert_equal(&clone, &mfrom, false);
        for (uint64_t i = 0; i < n; i += 997)
            over |= bmp_bits_test(&bits, i) > m.set[0][i];
        /* with memory again it can be cleared */
        bmp_bits_clear(&bits, 1, n - 1);
        ck_assert_uint_le(bmp_bits_count(&bits), 1);
        bmp_bits_clear_all(&bits);
        bmp_bits_clear_all(&from);
        bmp_bits_clear_all(&clone);
        model_free(&m);
        model_free(&mfrom);
    }
    ck_assert(over); /* or else no failure hit anything */
    g_rand_free(rand);
}
END_TEST

/* The same for what writes mark, and for what a query makes of it. */
START_TEST(a_failed_allocation_loses_no_mark)
{
    GRand *rand = rand_new();
    uint64_t size = UINT64_C(1) << 44;
    BmpAddOptions options = { .granularity = 4096 };

    for (int round = 0; round < 300; round++) {
        BmpSet *set = bmp_set_new("n", size);
        uint64_t offsets[200];
        BmpBitmap *a;

        bmp_set_change_begin(&set, 1);
        a = bmp_set_add(set, "a", &options, NULL);
        bmp_set_change_end(&set, 1);
        allocations_left = round % 100;
        for (unsigned i = 0; i < G_N_ELEMENTS(offsets); i++) {
            uint64_t epoch;

            offsets[i] = i % 4 ? (i % 100) << 12 << 16 << (i % 3) : rand_below(rand, size);
            epoch = bmp_set_mark_begin(set, offsets[i], 1);
            bmp_set_mark_end(set, offsets[i], 1, epoch);
            if (i % 64 == 0)
                ck_assert_uint_ge(bmp_bitmap_count(a), 4096);
        }
        for (unsigned i = 0; i < G_N_ELEMENTS(offsets); i++) {
            TmExtent extent = { 0 };
            TmExtents out = { .list = &extent, .max = 1 };

            ck_assert_uint_eq(bmp_bitmap_extents(a, offsets[i], 1, &out), 1);
            ck_assert_uint_eq(extent.flags, TM_STATE_DIRTY);
        }
        allocations_left = -1;
        bmp_bitmap_unref(a);
        bmp_set_free(set);
    }
    g_rand_free(rand);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("bits");
    TCase *tc = tcase_create("bits");
    SRunner *runner = srunner_create(suite);
    int failed;

    tcase_set_timeout(tc, 120);
    tcase_add_test(tc, random_operations_equal_an_array_of_bytes);
    tcase_add_test(tc, random_operations_are_right_beyond_2_to_the_32);
    tcase_add_test(tc, clones_are_independent);
    tcase_add_test(tc, or_rounds_granules_outward);
    tcase_add_test(tc, or_with_shared_pages_equals_the_model);
    tcase_add_test(tc, resize_keeps_what_is_inside_and_drops_the_rest);
    tcase_add_test(tc, runs_are_cut_at_both_ends);
    tcase_add_test(tc, export_is_little_endian_words);
    tcase_add_test(tc, a_disk_of_no_bytes_has_no_bits);
    tcase_add_test(tc, memory_is_proportional_to_what_is_set);
    tcase_add_test(tc, a_failed_allocation_only_over_reports);
    tcase_add_test(tc, a_failed_allocation_loses_no_mark);
    suite_add_tcase(suite, tc);
    srunner_run_all(runner, CK_ENV);
    failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
