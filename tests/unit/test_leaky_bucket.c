/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* tests/unit/test_leaky_bucket.c: how much I/O may be done when, with the clock given. */
#include "object/leaky_bucket.h"
#include "tests/asserts.h"

#include <stdlib.h>

#define MS INT64_C(1000000)
#define S  (1000 * MS)

static TmBuckets buckets;

static void begin(void)
{
    tm_buckets_init(&buckets);
    tm_buckets_empty(&buckets, 1 * S);
}

/* How many of @n requests go at once at @now. */
static unsigned go(unsigned n, bool write, uint64_t bytes, int64_t now)
{
    unsigned gone = 0;

    while (gone < n && !tm_buckets_wait(&buckets, write, now)) {
        tm_buckets_account(&buckets, write, bytes);
        gone++;
    }
    return gone;
}

/* How many go within @ms from @now on, each as soon as it may. */
static unsigned go_within(int64_t ms, bool write, uint64_t bytes, int64_t now)
{
    int64_t end = now + ms * MS;
    unsigned gone = 0;

    for (;;) {
        int64_t wait = tm_buckets_wait(&buckets, write, now);

        now += wait ? wait + 1 : 0;
        if (now >= end)
            return gone;
        tm_buckets_account(&buckets, write, bytes);
        gone++;
    }
}

START_TEST(without_limits_nothing_waits)
{
    begin();
    ck_assert_uint_eq(go(1000, true, UINT64_MAX, 1 * S), 1000);
    ck_assert_int_eq(tm_buckets_wait(&buckets, false, 1 * S), 0);
}
END_TEST

START_TEST(the_average_holds_after_a_tenth_of_a_second_of_it)
{
    begin();
    buckets.bucket[TM_IOPS_TOTAL].avg = 100;
    ck_assert_uint_eq(go(1000, false, 4096, 1 * S), 11); /* until more than 10 are in it */
    ck_assert_int_eq(tm_buckets_wait(&buckets, true, 1 * S), 10 * MS);
    ck_assert_int_le(llabs(tm_buckets_wait(&buckets, true, 1 * S + 4 * MS) - 6 * MS), 1);
    ck_assert_uint_eq(go(1000, true, 4096, 1 * S + 10 * MS), 1);
    ck_assert_uint_eq(go_within(10000, true, 4096, 2 * S), 1010);
}
END_TEST

START_TEST(reads_and_writes_have_buckets_of_their_own)
{
    begin();
    buckets.bucket[TM_BPS_READ].avg = 1000;
    buckets.bucket[TM_IOPS_WRITE].avg = 10;
    ck_assert_uint_eq(go(100, false, 100, 1 * S), 2);
    ck_assert_uint_eq(go(100, true, 1 << 30, 1 * S), 2);
    ck_assert_int_eq(tm_buckets_wait(&buckets, false, 1 * S), 100 * MS);
    ck_assert_int_eq(tm_buckets_wait(&buckets, true, 1 * S), 100 * MS);
}
END_TEST

START_TEST(a_burst_is_max_for_its_length_then_the_average)
{
    begin();
    buckets.bucket[TM_IOPS_TOTAL].avg = 10;
    buckets.bucket[TM_IOPS_TOTAL].max = 100;
    ck_assert_uint_eq(go(1000, false, 1, 1 * S), 101);
    ck_assert_int_eq(tm_buckets_wait(&buckets, false, 1 * S), 100 * MS);
    begin();
    buckets.bucket[TM_IOPS_TOTAL].avg = 10;
    buckets.bucket[TM_IOPS_TOTAL].max = 100;
    buckets.bucket[TM_IOPS_TOTAL].burst_length = 5;
    ck_assert_uint_eq(go(1000, false, 1, 1 * S), 11); /* max holds within the burst */
    ck_assert_int_eq(tm_buckets_wait(&buckets, false, 1 * S), 10 * MS);
    /* 500 in all at 100 a second, less what leaks at 10 a second, then 10 a second */
    unsigned n = go_within(5000, false, 1, 1 * S);
    ck_assert_uint_ge(n, 480);
    ck_assert_uint_le(n, 500);
    n = go_within(10000, false, 1, 11 * S);
    ck_assert_uint_ge(n, 99);
    ck_assert_uint_le(n, 300);
}
END_TEST

START_TEST(large_requests_count_as_several)
{
    begin();
    buckets.bucket[TM_IOPS_TOTAL].avg = 10;
    buckets.op_size = 4096;
    ck_assert_uint_eq(go(10, false, 40960, 1 * S), 1);
    ck_assert_int_eq(tm_buckets_wait(&buckets, false, 1 * S), 900 * MS);
    tm_buckets_empty(&buckets, 1 * S);
    ck_assert_uint_eq(go(10, false, 1, 1 * S), 2);
}
END_TEST

START_TEST(the_longest_wait_counts_and_is_bounded)
{
    begin();
    buckets.bucket[TM_BPS_TOTAL].avg = 1;
    buckets.bucket[TM_IOPS_TOTAL].avg = 1000000;
    tm_buckets_account(&buckets, true, 1000);
    ck_assert_int_ge(tm_buckets_wait(&buckets, true, 1 * S), 999 * S);
    for (int i = 0; i < 100; i++)
        tm_buckets_account(&buckets, true, UINT64_MAX);
    ck_assert_int_eq(tm_buckets_wait(&buckets, true, 1 * S), INT64_MAX / 2);
    ck_assert_int_eq(tm_buckets_wait(&buckets, true, 0),
                     INT64_MAX / 2); /* a clock that went back */
}
END_TEST

static const struct {
    TmBucketKind kind;
    uint64_t avg, max, length, op_size;
    const char *says; /* NULL: fine */
} checks[] = {
    { TM_BPS_READ, 1, 0, 1, 0, NULL },
    { TM_BPS_READ, UINT64_C(1000000000000000), 0, 1, 0, NULL },
    { TM_BPS_READ, UINT64_C(1000000000000001), 0, 1, 0,
      "bps/iops/max values must be within [0, 1000000000000000]" },
    { TM_IOPS_READ, 0, 1, 1, 0, "bps_max/iops_max require corresponding bps/iops values" },
    { TM_IOPS_READ, 2, 1, 1, 0, "bps_max/iops_max cannot be lower than bps/iops" },
    { TM_IOPS_READ, 1, 2, 0, 0, "the burst length cannot be 0" },
    { TM_IOPS_READ, 1, 0, 2, 0, "burst length set without burst rate" },
    { TM_IOPS_READ, 1, UINT64_C(1000000000000000), 2, 0,
      "burst length too high for this burst rate" },
    { TM_BPS_READ, 1, 0, 1, 512, "iops size requires an iops value to be set" },
    { TM_IOPS_READ, 1, 0, 1, 512, NULL },
    { TM_IOPS_TOTAL, 0, 0, 1, 0, NULL },
};

START_TEST(limits_that_make_no_sense_are_refused)
{
    g_autoptr(GError) error = NULL;
    TmBucket *b = &buckets.bucket[checks[_i].kind];

    begin();
    b->avg = checks[_i].avg;
    b->max = checks[_i].max;
    b->burst_length = checks[_i].length;
    buckets.op_size = checks[_i].op_size;
    ck_assert_int_eq(tm_buckets_check(&buckets, &error), checks[_i].says == NULL);
    if (checks[_i].says)
        ck_assert_str_eq(error->message, checks[_i].says);
}
END_TEST

START_TEST(totals_go_not_with_reads_or_writes)
{
    begin();
    buckets.bucket[TM_IOPS_TOTAL].avg = 1;
    buckets.bucket[TM_BPS_WRITE].avg = 1;
    ck_assert(tm_buckets_check(&buckets, NULL));
    buckets.bucket[TM_BPS_TOTAL].avg = 1;
    ck_assert(!tm_buckets_check(&buckets, NULL));
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("leaky_bucket");
    TCase *tc = tcase_create("buckets");
    SRunner *runner = srunner_create(suite);
    int failed;

    tcase_add_test(tc, without_limits_nothing_waits);
    tcase_add_test(tc, the_average_holds_after_a_tenth_of_a_second_of_it);
    tcase_add_test(tc, reads_and_writes_have_buckets_of_their_own);
    tcase_add_test(tc, a_burst_is_max_for_its_length_then_the_average);
    tcase_add_test(tc, large_requests_count_as_several);
    tcase_add_test(tc, the_longest_wait_counts_and_is_bounded);
    tcase_add_loop_test(tc, limits_that_make_no_sense_are_refused, 0, G_N_ELEMENTS(checks));
    tcase_add_test(tc, totals_go_not_with_reads_or_writes);
    suite_add_tcase(suite, tc);
    srunner_run_all(runner, CK_ENV);
    failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
