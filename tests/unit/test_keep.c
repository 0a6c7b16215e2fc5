/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* tests/unit/test_keep.c: which points a rule keeps. */
#include "client/repository/keep.h"
#include "tests/asserts.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>

static void set_place(void)
{
    g_setenv("TZ", "Europe/Berlin", TRUE);
}

static uint64_t instant_of(const char *text)
{
    struct tm time = { .tm_isdst = -1 };
    time_t seconds;

    if (strchr(text, '+')) {
        g_autoptr(GDateTime) exact = g_date_time_new_from_iso8601(text, NULL);

        seconds = g_date_time_to_unix(exact);
    } else {
        ck_assert_ptr_nonnull(strptime(text, "%Y-%m-%dT%H:%M:%S", &time));
        seconds = mktime(&time);
    }
    return (uint64_t)seconds * UINT64_C(1000000000) + 5;
}

/* Points at local @times; a line "TIME: why" for each that stays. */
static void keeps(const char *rule, const char *const *times, const char *expected)
{
    g_autoptr(GString) text = g_string_new(NULL);
    g_autoptr(GError) error = NULL;
    uint64_t instants[32];
    char *why[32];
    TcKeep keep = { 0 };
    size_t n = 0;

    for (; times[n]; n++)
        instants[n] = instant_of(times[n]);
    ck_assert_msg(tc_keep_parse(rule, &keep, &error), "%s", error ? error->message : "");
    tc_keep_apply(&keep, instants, n, why);
    for (size_t i = 0; i < n; i++) {
        if (why[i])
            g_string_append_printf(text, "%s: %s\n", times[i], why[i]);
        g_free(why[i]);
    }
    ck_assert_str_eq(text->str, expected);
}

START_TEST(the_newest_of_each_period_stays)
{
    static const char *const times[] = {
        "2024-12-31T23:59:59", "2025-01-01T00:00:00",
        "2025-11-23T12:00:00", "2025-11-26T08:00:00",
        "2025-11-27T08:00:00", "2025-11-27T23:59:00",
        "2025-11-28T00:01:00", "2025-11-28T00:30:00",
        "2025-11-28T01:00:00", NULL,
    };

    keeps("last=2", times, "2025-11-28T00:30:00: last\n2025-11-28T01:00:00: last\n");
    keeps("daily=3", times,
          "2025-11-26T08:00:00: daily\n2025-11-27T23:59:00: daily\n2025-11-28T01:00:00: daily\n");
    keeps("hourly=3", times,
          "2025-11-27T23:59:00: hourly\n2025-11-28T00:30:00: hourly\n"
          "2025-11-28T01:00:00: hourly\n");
    keeps("weekly=2,yearly=all,last=1", times,
          "2024-12-31T23:59:59: yearly\n2025-11-23T12:00:00: weekly\n"
          "2025-11-28T01:00:00: last, weekly, yearly\n");
    keeps("monthly=9", times,
          "2024-12-31T23:59:59: monthly\n2025-01-01T00:00:00: monthly\n"
          "2025-11-28T01:00:00: monthly\n");
    keeps("last=0", times, "2025-11-28T01:00:00: newest\n");
}
END_TEST

START_TEST(the_hour_that_comes_twice_is_two)
{
    static const char *const times[] = { "2025-10-26T02:30:00+02:00", "2025-10-26T02:30:00+01:00",
                                         NULL };

    keeps("hourly=2", times,
          "2025-10-26T02:30:00+02:00: hourly\n2025-10-26T02:30:00+01:00: hourly\n");
    keeps("daily=2", times, "2025-10-26T02:30:00+01:00: daily\n");
}
END_TEST

START_TEST(a_week_goes_over_the_end_of_the_year)
{
    static const char *const times[] = { "2024-12-30T12:00:00", "2025-01-05T12:00:00",
                                         "2025-01-06T12:00:00", NULL };

    keeps("weekly=5", times, "2025-01-05T12:00:00: weekly\n2025-01-06T12:00:00: weekly\n");
}
END_TEST

/* In the order in which they were made. */
START_TEST(a_clock_that_was_wrong_removes_nothing_that_is_named)
{
    static const char *const back[] = { "2025-11-24T10:00:00", "2025-11-25T10:00:00",
                                        "2025-11-24T12:00:00", "2025-11-26T10:00:00", NULL };
    static const char *const hour_back[] = { "2025-11-24T10:10:00", "2025-11-24T11:20:00",
                                             "2025-11-24T10:40:00", "2025-11-24T11:10:00", NULL };
    static const char *const future[] = { "2025-11-23T10:00:00", "2025-11-24T10:00:00",
                                          "2099-01-01T10:00:00", "2099-01-02T10:00:00",
                                          "2099-01-03T10:00:00", "2025-11-25T10:00:00",
                                          "2025-11-26T10:00:00", NULL };

    keeps("daily=2", back,
          "2025-11-25T10:00:00: daily\n2025-11-24T12:00:00: daily\n2025-11-26T10:00:00: daily\n");
    keeps("daily=3", back,
          "2025-11-25T10:00:00: daily\n2025-11-24T12:00:00: daily\n2025-11-26T10:00:00: daily\n");
    keeps("hourly=2", hour_back,
          "2025-11-24T11:20:00: hourly\n2025-11-24T10:40:00: hourly\n"
          "2025-11-24T11:10:00: hourly\n");
    keeps("daily=2", future,
          "2099-01-02T10:00:00: daily\n2099-01-03T10:00:00: daily\n"
          "2025-11-25T10:00:00: daily\n2025-11-26T10:00:00: daily\n");
    keeps("last=2", future,
          "2099-01-02T10:00:00: last\n2099-01-03T10:00:00: last\n"
          "2025-11-25T10:00:00: last\n2025-11-26T10:00:00: last\n");
}
END_TEST

START_TEST(what_is_no_rule_is_refused)
{
    static const char *const rules[][2] = {
        { "", "it is not said" },
        { "daily", "'daily' does not say how many" },
        { "dayly=3", "unknown kind 'dayly' of points to keep: did you mean 'daily'?" },
        { "nothing=3", "last, hourly, daily, weekly, monthly and yearly are known" },
        { "last=-1", "'-1' is not a number" },
        { "last=", "'' is not a number" },
        { "last=99999999999999999999", "is not a number" },
        { "last=3,", "'' does not say" },
        { "last=3,last=4", "'last' comes twice" },
    };

    for (size_t i = 0; i < G_N_ELEMENTS(rules); i++) {
        g_autoptr(GError) error = NULL;
        TcKeep keep = { 0 };

        ck_assert_msg(!tc_keep_parse(rules[i][0], &keep, &error), "%s", rules[i][0]);
        ck_assert_msg(strstr(error->message, rules[i][1]) != NULL, "%s", error->message);
    }
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("keep");
    TCase *tests = tcase_create("keep");
    SRunner *runner;
    int failed;

    tcase_add_checked_fixture(tests, set_place, NULL);
    tcase_add_test(tests, the_newest_of_each_period_stays);
    tcase_add_test(tests, the_hour_that_comes_twice_is_two);
    tcase_add_test(tests, a_week_goes_over_the_end_of_the_year);
    tcase_add_test(tests, a_clock_that_was_wrong_removes_nothing_that_is_named);
    tcase_add_test(tests, what_is_no_rule_is_refused);
    suite_add_tcase(suite, tests);
    runner = srunner_create(suite);
    srunner_run_all(runner, CK_ENV);
    failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed ? 1 : 0;
}
