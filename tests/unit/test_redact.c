/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* tests/unit/test_redact.c: what is taken out of a report, and what stays. */
#include "client/report/redact.h"
#include "tests/asserts.h"

#include <string.h>

static TcRedactor *redactor;

static void setup(void)
{
    redactor = tc_redactor_new();
}

static void teardown(void)
{
    tc_redactor_free(redactor);
}

static const struct {
    const char *text, *left;
} texts[] = {
    { "nothing to see", "nothing to see" },
    { "nbd://bob:hunter2@host:10809/disk", "nbd://(removed)@host:10809/disk" },
    { "(nbds+unix://bob@/disk?socket=/run/s)", "(nbds+unix://(removed)@/disk?socket=/run/s)" },
    { "ssh://a:p@ss@host/f and nbd://c:d@h", "ssh://(removed)@host/f and nbd://(removed)@h" },
    { "nbd://bob:hun/ter2@host/disk", "nbd://(removed)@host/disk" },
    { "nbd://host:10809/disk0@backup1", "nbd://host:10809/disk0@backup1" },
    { "nbd+unix:///disk0@b?socket=/s", "nbd+unix:///disk0@b?socket=/s" },
    { "key password=hunter2,id=x", "key password=(removed),id=x" },
    { "password=with,,comma,id=x", "password=(removed),id=x" },
    { "PASSWORD: hunter2 end", "PASSWORD: (removed) end" },
    { "{\"passphrase\": \"a \\\" b\", \"x\": 1}", "{\"passphrase\": (removed), \"x\": 1}" },
    { "json:{\\\"data\\\": \\\"hunter2\\\"}", "json:{\\\"data\\\": (removed)}" },
    { "?token=abc&x=1", "?token=(removed)&x=1" },
    { "addr.data.path and metadata", "addr.data.path and metadata" },
    { "\"data\": {\"path\": 1}", "\"data\": {\"path\": 1}" },
    { "data-file=x.raw", "data-file=x.raw" },
    { "a\xff|", "a\xef\xbf\xbd|" },
};

START_TEST(secrets_leave_texts)
{
    g_autofree char *left = tc_redact_text(redactor, texts[_i].text);

    ck_assert_str_eq(left, texts[_i].left);
}
END_TEST

/* What is in the command line as a secret is one everywhere. */
START_TEST(objects_keep_what_is_harmless)
{
    static const char *const argv[] = { "tidemarkd",
                                        "--object",
                                        "secret,id=s,data=hunter2,,x,format=raw",
                                        "--object=qom-type=secret,id=t,data=second-one",
                                        "-ob",
                                        "{'qom-type':'secret','data':'third-one','new':'fourth'}",
                                        "--object",
                                        "{'qom-type':'secret','data':'fi",
                                        "--object",
                                        "secret,data=a,sixth-one",
                                        "--blockdev",
                                        "nbd,server.path=hunter2,x,node-name=n",
                                        "--monitor=third-one",
                                        NULL };
    json_object *left = tc_redact_arguments(redactor, argv), *log, *clean;

    ck_assert_str_eq(
        json_object_to_json_string_ext(left, JSON_C_TO_STRING_PLAIN),
        "[\"tidemarkd\",\"--object\",\"secret,id=s,data=(removed),format=raw\","
        "\"--object=qom-type=secret,id=t,data=(removed)\",\"-ob\","
        "\"{\\\"qom-type\\\":\\\"secret\\\",\\\"data\\\":\\\"(removed)\\\",\\\"new\\\":\\\"("
        "removed)\\\"}\","
        "\"--object\",\"(removed)\",\"--object\",\"secret,data=(removed),(removed)\","
        "\"--blockdev\",\"nbd,server.path=(removed),node-name=n\",\"--monitor=(removed)\"]");
    log =
        json_tokener_parse("{'log':['got second-one'],'fourth':[1,{'password':7,'data':{'a':2}}]}");
    clean = tc_redact_json(redactor, log);
    ck_assert_str_eq(json_object_to_json_string_ext(clean, JSON_C_TO_STRING_PLAIN),
                     "{\"log\":[\"got (removed)\"],\"(removed)\":[1,{\"password\":\"(removed)\","
                     "\"data\":{\"a\":2}}]}");
    json_object_put(left);
    json_object_put(log);
    json_object_put(clean);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("redact");
    TCase *tc = tcase_create("redact");
    SRunner *runner;
    int failed;

    tcase_add_checked_fixture(tc, setup, teardown);
    tcase_add_loop_test(tc, secrets_leave_texts, 0, G_N_ELEMENTS(texts));
    tcase_add_test(tc, objects_keep_what_is_harmless);
    suite_add_tcase(suite, tc);
    runner = srunner_create(suite);
    srunner_run_all(runner, CK_ENV);
    failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed != 0;
}
