/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* tests/unit/test_copy.c: copies of bitmaps, as text and back. */
#include "bitmap/copy.h"
#include "tests/asserts.h"

#include <stdlib.h>

#define SIZE UINT64_C(1000000)
#define G    UINT64_C(4096)
#define LAST (SIZE / G)

static BmpSet *set_with(const char *name, uint64_t granularity, BmpBitmap **bitmap)
{
    BmpSet *set = bmp_set_new("n", SIZE);
    BmpAddOptions options = { .granularity = granularity };

    bmp_set_change_begin(&set, 1);
    *bitmap = bmp_set_add(set, name, &options, NULL);
    bmp_set_change_end(&set, 1);
    return set;
}

static void write_to(BmpSet *set, uint64_t offset, uint64_t length)
{
    bmp_set_mark_end(set, offset, length, bmp_set_mark_begin(set, offset, length));
}

static bool add_copy(BmpSet *set, BmpBitmap *bitmap, const BmpCopy *copy, GError **error)
{
    bool ok;

    bmp_set_change_begin(&set, 1);
    ok = bmp_bitmap_add_copy(bitmap, copy, error);
    bmp_set_change_end(&set, 1);
    return ok;
}

START_TEST(text_and_back_is_the_same)
{
    g_autoptr(BmpBitmap) from = NULL, to = NULL;
    BmpSet *a = set_with("a", G, &from), *b = set_with("b", G, &to);
    g_autoptr(GString) text = g_string_new(NULL);
    g_autoptr(BmpCopy) copy = NULL, parsed = bmp_copy_new(SIZE, G, NULL);
    g_autofree char *is = NULL, *was = NULL;
    uint64_t at = 0, there = 0;

    write_to(a, 0, 1);
    write_to(a, 3 * G, 2 * G);
    write_to(a, SIZE - 1, 1);
    copy = bmp_copy_of(from);
    write_to(a, 10 * G, 1); /* after the instant */
    ck_assert_uint_eq(bmp_copy_count(copy), 4 * G);
    ck_assert(bmp_copy_print(copy, &at, 2, text));
    ck_assert_str_eq(text->str, "0 1 2 2");
    ck_assert(bmp_copy_parse(parsed, &there, text->str, NULL));
    ck_assert_uint_eq(there, at);
    g_string_truncate(text, 0);
    ck_assert(!bmp_copy_print(copy, &at, 2, text));
    ck_assert(bmp_copy_parse(parsed, &there, text->str, NULL));
    ck_assert_uint_eq(there, LAST + 1);
    ck_assert(add_copy(b, to, parsed, NULL));
    write_to(b, 10 * G, 1);
    was = bmp_bitmap_sha256(from);
    is = bmp_bitmap_sha256(to);
    ck_assert_str_eq(is, was);
    bmp_set_free(a);
    bmp_set_free(b);
}
END_TEST

START_TEST(another_granularity_is_dirty_outward)
{
    g_autoptr(BmpBitmap) fine = NULL, coarse = NULL;
    BmpSet *a = set_with("fine", 512, &fine), *b = set_with("coarse", 65536, &coarse);
    g_autoptr(BmpCopy) copy = bmp_copy_new(SIZE, G, NULL);
    uint64_t at = 0;

    ck_assert(bmp_copy_parse(copy, &at, "1 1 14 1", NULL));
    ck_assert(add_copy(a, fine, copy, NULL) && add_copy(b, coarse, copy, NULL));
    ck_assert_uint_eq(bmp_bitmap_count(fine), 2 * G);
    ck_assert_uint_eq(bmp_bitmap_count(coarse), 2 * 65536);
    bmp_set_free(a);
    bmp_set_free(b);
}
END_TEST

START_TEST(what_is_wrong_is_refused)
{
    static const char *const wrong[] = { "1",   "1 0",  " 1 1",       "1  1",  "1 1 1", "a 1",
                                         "1 a", "-1 1", "0 245 0 1 ", "245 1", "0 246" };
    g_autoptr(BmpBitmap) bitmap = NULL;
    BmpSet *set = set_with("b", G, &bitmap);
    g_autoptr(BmpCopy) other = bmp_copy_new(SIZE + 1, G, NULL);
    g_autoptr(GError) error = NULL;

    for (size_t i = 0; i < G_N_ELEMENTS(wrong); i++) {
        g_autoptr(BmpCopy) copy = bmp_copy_new(SIZE, G, NULL);
        uint64_t at = 0;

        ck_assert_msg(!bmp_copy_parse(copy, &at, wrong[i], NULL), "'%s'", wrong[i]);
        ck_assert_uint_eq(at, 0);
    }
    ck_assert(!add_copy(set, bitmap, other, &error));
    ck_assert_str_eq(error->message,
                     "Node 'n' has 1000000 bytes, and the bitmap is of a disk of 1000001 bytes");
    ck_assert_uint_eq(bmp_bitmap_count(bitmap), 0);
    ck_assert(!bmp_copy_new(SIZE, 100, NULL) && !bmp_copy_new(SIZE, 256, NULL));
    ck_assert(!bmp_copy_new(UINT64_MAX, G, NULL));
    bmp_set_free(set);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("copy");
    TCase *tc = tcase_create("copy");
    SRunner *runner = srunner_create(suite);
    int failed;

    tcase_set_timeout(tc, 60);
    tcase_add_test(tc, text_and_back_is_the_same);
    tcase_add_test(tc, another_granularity_is_dirty_outward);
    tcase_add_test(tc, what_is_wrong_is_refused);
    suite_add_tcase(suite, tc);
    srunner_run_all(runner, CK_ENV);
    failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
