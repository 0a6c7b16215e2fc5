/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* tests/unit/test_client_store.c: how the client shows a store of bitmaps, for what a store made
 * by a daemon can't easily be brought to, and for lines that are hard to get right. */
#include "client/store/store_view.h"
#include "tests/asserts.h"

#include <stdlib.h>
#include <string.h>

static json_object *parse(const char *json)
{
    json_object *object = json_tokener_parse(json);

    ck_assert_ptr_nonnull(object);
    return object;
}

/* Returned by the caller with free(). */
static char *head_of(const char *json)
{
    g_autoptr(json_object) store = parse(json);
    char *text = NULL;
    size_t size;
    FILE *out = open_memstream(&text, &size);

    tc_store_print_head(store, out);
    fclose(out);
    return text;
}

static char *verdict_of(const char *json)
{
    g_autoptr(json_object) store = parse(json);
    char *text = NULL;
    size_t size;
    FILE *out = open_memstream(&text, &size);

    tc_store_print_verdict(store, out, false);
    fclose(out);
    return text;
}

static void has(char *text, const char *part)
{
    if (!strstr(text, part))
        ck_abort_msg("'%s' is not in:\n%s", part, text);
    free(text);
}

#define STORE(state, durability)                                                                   \
    "{\"store\": \"d.bitmaps\", \"disk\": \"d\", \"state\": \"" state                              \
    "\", \"durability\": \"" durability                                                            \
    "\", \"generation\": 7, \"size\": 1048576, \"bitmaps\": [], \"problems\": []}"

START_TEST(the_head_shows_path_disk_state_and_durability)
{
    has(head_of(STORE("closed", "power-loss")), "store       d.bitmaps\n"
                                                "disk        d (1 MiB)\n"
                                                "state       closed cleanly\n"
                                                "durability  survives power loss\n"
                                                "generation  7\n");
    has(head_of(STORE("closed", "process-death")), "survives the daemon, not power loss");
    has(head_of(STORE("in-use", "power-loss")), "in use by a daemon");
    has(head_of(STORE("killed", "process-death")), "the bitmaps have every write");
    has(head_of(STORE("crashed", "power-loss")),
        "ranges that may have been written count as dirty");
    has(head_of(STORE("crashed", "process-death")), "enabled bitmaps are all dirty");
    has(head_of(STORE("distrusted", "power-loss")), "enabled bitmaps are all dirty");
    has(head_of("{\"store\": \"d.bitmaps\", \"disk\": \"d\", \"state\": \"none\"}"),
        "disk        d\nstate       there is no store");
    has(head_of("{\"store\": \"d.bitmaps\", \"disk\": null, \"state\": \"damaged\"}"),
        "disk        not known\nstate       damaged");
    /* a state of a later version is shown as it is; names don't control the terminal */
    has(head_of("{\"store\": \"d\\u001b[2J\", \"disk\": \"d\", \"state\": \"new\"}"),
        "store       d?[2J\ndisk        d\nstate       new\n");
}
END_TEST

#define BITMAPS(list, problems) "{\"bitmaps\": [" list "], \"problems\": [" problems "]}"
#define SOUND                   "{\"name\": \"a\", \"count\": 0}"
#define RECOVERED               "{\"name\": \"r\", \"recovered\": 65536, \"reason\": \"so\"}"
#define INCONSISTENT            "{\"name\": \"i\", \"inconsistent\": true, \"recovered\": 1}"
#define DEGRADED                "{\"name\": \"g\", \"reason\": \"so\"}"

START_TEST(the_verdict_says_what_is_wrong)
{
    g_autoptr(json_object) sound = parse(BITMAPS(SOUND, "")), bad = parse(BITMAPS(SOUND, "\"p\""));
    g_autoptr(json_object) unusable = parse(BITMAPS(SOUND "," INCONSISTENT, ""));
    g_autoptr(json_object) recovered = parse(BITMAPS(RECOVERED, ""));

    ck_assert(!tc_store_bad(sound));
    ck_assert(tc_store_bad(bad));
    ck_assert(tc_store_bad(unusable));
    ck_assert(!tc_store_bad(recovered));
    has(verdict_of(BITMAPS("", "")), "\nNo problems\n");
    has(verdict_of(BITMAPS(SOUND, "")), "\nNo problems\n");
    has(verdict_of(BITMAPS(SOUND, "\"one\"")), "\n1 problem\n  one\n");
    has(verdict_of(BITMAPS("", "\"one\", \"two\"")),
        "\n2 problems\n  one\n  two\n\nWhat that means\n  No bitmap is left.");
    has(verdict_of(BITMAPS(SOUND "," INCONSISTENT, "")), "\nThe store is sound, but not all");
    has(verdict_of(BITMAPS(SOUND "," INCONSISTENT, "")),
        "\nWhat that means\n  i: can't be used: remove it and start again with a full copy; "
        "a repair makes all of it dirty\n"
        "  1 other: as it was\n");
    has(verdict_of(BITMAPS(RECOVERED "," SOUND "," SOUND, "\"one\"")),
        "\n  r: usable; up to 64 KiB more than was written will be copied");
    has(verdict_of(BITMAPS(RECOVERED "," SOUND "," SOUND, "\"one\"")),
        "(so)\n  2 others: as they were\n");
    has(verdict_of(BITMAPS(DEGRADED, "\"bitmap 'g': so\"")),
        "  g: usable; it may contain more than was written, never less\n");
    has(verdict_of(BITMAPS(DEGRADED, "\"one\"")),
        "  g: usable; it may contain more than was written, never less (so)\n");
}
END_TEST

START_TEST(one_bitmap_can_be_chosen)
{
    g_autoptr(json_object) store = parse(BITMAPS(SOUND "," RECOVERED, "\"one\""));
    g_autoptr(GError) error = NULL;

    json_object_object_add(store, "store", json_object_new_string("d.bitmaps"));
    ck_assert(!tc_store_only(store, "xyz", &error));
    ck_assert_str_eq(error->message, "no bitmap 'xyz' in 'd.bitmaps'");
    ck_assert_uint_eq(json_object_array_length(tc_json_get(store, "bitmaps", NULL)), 2);
    ck_assert(tc_store_only(store, "r", NULL));
    ck_assert_uint_eq(json_object_array_length(tc_json_get(store, "bitmaps", NULL)), 1);
    ck_assert_uint_eq(json_object_array_length(tc_json_get(store, "problems", NULL)), 1);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("client_store");
    TCase *tcase = tcase_create("client_store");
    SRunner *runner;
    int failed;

    tcase_add_test(tcase, the_head_shows_path_disk_state_and_durability);
    tcase_add_test(tcase, the_verdict_says_what_is_wrong);
    tcase_add_test(tcase, one_bitmap_can_be_chosen);
    suite_add_tcase(suite, tcase);
    runner = srunner_create(suite);
    srunner_run_all(runner, CK_ENV);
    failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
