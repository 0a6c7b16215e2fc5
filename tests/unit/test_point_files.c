/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* tests/unit/test_point_files.c: runs of blocks, manifests and files of hashes: what was written is
 * read, and nothing that was changed, or can't be, is believed. */
#include "client/repository/hashes.h"
#include "client/repository/manifest.h"
#include "repository_util.h"
#include "util/file.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* ---- runs */

static void check_runs(const TcRuns *runs, const char *blocks)
{
    g_autoptr(GString) text = g_string_new(NULL);

    for (size_t i = 0; i < tc_runs_count(runs); i++) {
        const TcRun *run = tc_runs_get(runs, i);

        while (text->len < run->offset / B)
            g_string_append_c(text, '.');
        for (uint64_t at = 0; at < run->length; at += B)
            g_string_append_c(text, run->kind == TC_RUN_DATA ? 'd' : 'z');
    }
    ck_assert_str_eq(text->str, blocks);
}

START_TEST(runs_are_rounded_to_blocks)
{
    g_autoptr(TcRuns) runs = tc_runs_new(8 * B + 100);

    ck_assert(tc_runs_add(runs, 10, 1, TC_RUN_DATA, NULL));        /* in block 0 */
    ck_assert(tc_runs_add(runs, 100, B - 100, TC_RUN_ZERO, NULL)); /* the same */
    ck_assert(tc_runs_add(runs, B, 2 * B, TC_RUN_ZERO, NULL));     /* 1 and 2 */
    ck_assert(tc_runs_add(runs, 3 * B, B / 2, TC_RUN_ZERO, NULL)); /* half of 3 */
    ck_assert(tc_runs_add(runs, 5 * B - 1, 2, TC_RUN_DATA, NULL)); /* 4 and 5 */
    ck_assert(tc_runs_add(runs, 8 * B, 50, TC_RUN_ZERO, NULL));    /* the last one, twice */
    ck_assert(tc_runs_add(runs, 8 * B + 50, 50, TC_RUN_ZERO, NULL));
    ck_assert(!tc_runs_add(runs, 8 * B, 1, TC_RUN_ZERO, NULL));       /* going back */
    ck_assert(!tc_runs_add(runs, 8 * B + 100, 1, TC_RUN_ZERO, NULL)); /* beyond the end */
    ck_assert(tc_runs_end(runs, NULL));
    check_runs(runs, "dzzddd..z");
    ck_assert_uint_eq(tc_runs_bytes(runs, TC_RUN_DATA), 4 * B);
    ck_assert_uint_eq(tc_runs_bytes(runs, TC_RUN_ZERO), 2 * B + 100);
    ck_assert_uint_eq(tc_runs_count(runs), 4);
}
END_TEST

/* ---- manifests */

static TcManifest *sample(void)
{
    TcManifest *m = tc_manifest_new("p1");
    TcPointDisk *a = tc_point_disk_new("b-disk", 3 * B), *b = tc_point_disk_new("a.disk", 7);

    m->instant = UINT64_C(1764342245000000001);
    memset(a->tree, 'a', 64);
    memset(b->tree, '0', 64);
    a->parent = g_strdup("p0");
    a->parent_id = g_strdup("8a3e4c0e-4d5b-4c8e-9d6e-1f2a3b4c5d6e");
    a->compression = g_strdup("zstd");
    a->stored = 2 * B;
    a->zero = B;
    b->why = g_strdup("there was no \"bitmap\"");
    b->source = json_tokener_parse("{\"type\": \"nbd\", \"uri\": \"nbd://x/y\"}");
    g_ptr_array_add(m->disks, a);
    g_ptr_array_add(m->disks, b);
    return m;
}

START_TEST(a_manifest_comes_back_as_it_was)
{
    g_autoptr(TcManifest) m = sample();
    g_autofree char *text = tc_manifest_text(m), *again = NULL;
    g_autoptr(GError) error = NULL;
    g_autoptr(TcManifest) read = tc_manifest_parse(text, strlen(text), "file", "p1", &error);

    no_error(error);
    again = tc_manifest_text(read);
    ck_assert_str_eq(text, again);
    ck_assert_str_eq(((TcPointDisk *)read->disks->pdata[0])->name, "a.disk");
    ck_assert_str_eq(tc_manifest_disk(read, "b-disk")->parent, "p0");
    ck_assert_ptr_nonnull(strstr(text, "\"uri\": \"nbd://x/y\""));
    ck_assert_ptr_nonnull(strstr(text, "\"time\": \"2025-11-28T15:04:05.000000001Z\""));
    ck_assert_ptr_null(tc_manifest_parse(text, strlen(text), "file", "p2", NULL));
}
END_TEST

START_TEST(no_byte_of_a_manifest_changes_unnoticed)
{
    g_autoptr(TcManifest) m = sample();
    g_autofree char *text = tc_manifest_text(m);
    size_t length = strlen(text);

    for (size_t i = 0; i < length; i++) {
        g_autoptr(GError) error = NULL;
        g_autofree char *cut = g_strndup(text, i), *bad = g_strdup(text);
        g_autoptr(TcManifest) read = tc_manifest_parse(cut, i, "file", "p1", &error);

        /* But for the newline at the end, and white space that becomes another one. */
        ck_assert(!read || i == length - 1);
        g_clear_error(&error);
        bad[i] ^= 1;
        if (g_ascii_isspace(bad[i]) || g_ascii_isspace(text[i]))
            continue;
        ck_assert_msg(!tc_manifest_parse(bad, length, "file", "p1", &error), "byte %zu", i);
        ck_assert(g_error_matches(error, TC_REPO_ERROR, TC_REPO_ERROR_DAMAGED));
    }
}
END_TEST

/* The digest is right, so each member is what is checked. */
static void expect_refused(const char *from, const char *to, const char *message)
{
    g_autoptr(TcManifest) m = sample();
    g_autofree char *text = tc_manifest_text(m);
    g_autoptr(GError) error = NULL;
    GString *changed = g_string_new(text);
    json_object *o;
    uint8_t hash[TC_HASH_SIZE];
    g_autofree char *whole = NULL, *rest = NULL;
    const int flags =
        JSON_C_TO_STRING_PRETTY | JSON_C_TO_STRING_SPACED | JSON_C_TO_STRING_NOSLASHESCAPE;
    char hex[65];

    ck_assert_msg(g_string_replace(changed, from, to, 1) == 1, "%s", from);
    o = json_tokener_parse(changed->str);
    ck_assert_msg(o, "%s", changed->str);
    json_object_object_del(o, "sha256");
    rest = g_strconcat(json_object_to_json_string_ext(o, flags), "\n", NULL);
    tc_hash(rest, strlen(rest), hash);
    tc_hash_text(hash, hex);
    json_object_object_add(o, "sha256", json_object_new_string(hex));
    whole = g_strconcat(json_object_to_json_string_ext(o, flags), "\n", NULL);
    ck_assert_msg(!tc_manifest_parse(whole, strlen(whole), "file", "p1", &error), "%s", to);
    ck_assert_msg(strstr(error->message, message), "%s", error->message);
    json_object_put(o);
    g_string_free(changed, TRUE);
}

START_TEST(impossible_manifests_are_refused)
{
    static const char *const cases[][3] = {
        { "\"tidemark-point\"", "\"x\"", "'format'" },
        { "\"version\": 1", "\"version\": 2", "version 2" },
        { "\"version\": 1", "\"version\": \"1\"", "'version'" },
        { "\"point\": \"p1\"", "\"point\": \"p2\"", "'point'" },
        { "\"id\": \"", "\"id\": \"x", "'id'" },
        { "\"instant\": 1764342245000000001", "\"instant\": -1", "'instant'" },
        { "\"instant\": 1764342245000000001", "\"instant\": 1764342245000000002", "'time'" },
        { "\"tool\"", "\"tools\"", "'tool'" },
        { "\"name\": \"a.disk\"", "\"name\": \"../x\"", "'name'" },
        { "\"name\": \"a.disk\"", "\"name\": \"a.disk\\u0000\"", "'name'" },
        { "\"a.disk.qcow2\"", "\"../../etc/passwd\"", "'file'" },
        { "\"a.disk.hashes\"", "\"b.hashes\"", "'hashes'" },
        { "\"size\": 7", "\"size\": -7", "'size'" },
        { "\"size\": 7", "\"size\": 9223372036854775808", "'size'" },
        { "\"size\": 7", "\"size\": 7.5", "'size'" },
        { "\"kind\": \"full\"", "\"kind\": \"incremental\"", "'kind'" },
        { "\"parent\": \"p0\"", "\"parent\": \"p1\"", "'parent'" },
        { "\"parent\": \"p0\"", "\"parent\": \"../p0\"", "'parent'" },
        { "\"parent\": \"p0\"", "\"parent\": null", "'parent'" },
        { "\"parent-id\": \"8", "\"parent-id\": \"", "'parent-id'" },
        { "\"reason\"", "\"parent-id\": \"8a3e4c0e-4d5b-4c8e-9d6e-1f2a3b4c5d6e\", \"reason\"",
          "'parent-id'" },
        { "\"zstd\"", "\"lzma\"", "'compression'" },
        { "\"stored\": 0", "\"stored\": 8", "'stored'" },
        { "\"zero\": 65536", "\"zero\": 65537", "'zero'" },
        { "\"tree\": \"a", "\"tree\": \"g", "'tree'" },
        { "\"tree\": \"a", "\"tree\": \"", "'tree'" },
        { "\"b-disk\"", "\"A-disk\"", "'file'" },
        { "\"source\": {", "\"source\": 1, \"sources\": {", "'source'" },
        { "\"disks\": [", "\"disks\": [], \"others\": [", "'disks'" },
        { "\"disks\": [", "\"disks\": [ 1,", "'disks'" },
    };

    for (size_t i = 0; i < G_N_ELEMENTS(cases); i++)
        expect_refused(cases[i][0], cases[i][1], cases[i][2]);
}
END_TEST

START_TEST(names_are_checked)
{
    g_autofree char *longest = g_strnfill(100, 'x'), *longer = g_strnfill(101, 'x');
    const char *const good[] = { "a", "0", "disk.0_A-b", "_", longest };
    const char *const bad[] = {
        "", ".", "..", ".a", "-a", "a/b", "a b", "\xc3\xa4", "a\n", longer
    };

    for (size_t i = 0; i < G_N_ELEMENTS(good); i++)
        ck_assert(tc_point_check_name("point", good[i], NULL));
    for (size_t i = 0; i < G_N_ELEMENTS(bad); i++)
        ck_assert(!tc_point_check_name("point", bad[i], NULL));
}
END_TEST

/* ---- files of hashes */

START_TEST(no_byte_of_a_file_of_hashes_changes_unnoticed)
{
    uint64_t size = 6 * B - 10;
    g_autofree char *file = g_build_filename(dir, "hashes", NULL), *text = NULL;
    TcHashes *h = tc_hashes_create(&tm_sys_kernel, file, runs_of("dd.z.d", size), size, NULL);
    uint8_t values[2 * TC_HASH_SIZE] = { 1 };
    uint64_t length;
    char tree[65];
    size_t n;

    ck_assert_int_eq(tc_hashes_set(h, 0, values, 2), 0);
    ck_assert_int_eq(tc_hashes_set(h, 5 * B, values, 1), 0);
    ck_assert_int_eq(tc_hashes_set(h, B, values, 2), -EINVAL);
    ck_assert_int_eq(tc_hashes_set(h, 3 * B, values, 1), -EINVAL);
    ck_assert(tc_hashes_finish(h, tree, NULL));
    tc_hashes_free(h);
    h = tc_hashes_open(&tm_sys_kernel, file, tree, size, NULL);
    ck_assert_ptr_nonnull(h);
    ck_assert_int_eq(tc_hashes_find(h, 10, &length), TC_RUN_DATA);
    ck_assert_uint_eq(length, B - 10);
    ck_assert_int_eq(tc_hashes_find(h, B, &length), TC_RUN_ZERO); /* it was found to be */
    ck_assert_int_eq(tc_hashes_run(h, B, &length), TC_RUN_DATA);
    ck_assert_int_eq(tc_hashes_find(h, 2 * B, &length), TC_RUN_NONE);
    ck_assert_int_eq(tc_hashes_find(h, 5 * B, &length), TC_RUN_DATA);
    ck_assert_uint_eq(length, B - 10);
    tc_hashes_free(h);
    ck_assert_ptr_null(tc_hashes_open(&tm_sys_kernel, file, tree, size + 1, NULL));
    ck_assert(tm_file_read(file, 1 << 20, &text, &n, NULL));
    ck_assert_uint_eq(n, 64 + 3 * 24 + 3 * 32);
    for (size_t i = 0; i <= n; i++) {
        g_autofree char *bad = g_memdup2(text, n + 1);
        g_autoptr(GError) error = NULL;

        bad[i] ^= 0x10;
        ck_assert(g_file_set_contents(file, bad, (gssize)(i == n ? n - 1 : n), NULL));
        ck_assert_ptr_null(tc_hashes_open(&tm_sys_kernel, file, tree, size, &error));
        ck_assert(g_error_matches(error, TC_REPO_ERROR, TC_REPO_ERROR_DAMAGED));
    }
}
END_TEST

/* They are written in pages, of which these are several, the last one not a whole one. */
START_TEST(hashes_are_set_in_any_order)
{
    enum { BLOCKS = 5000, MOST = 7 };
    uint64_t size = BLOCKS * B;
    g_autofree char *file = g_build_filename(dir, "hashes", NULL);
    TcRuns *runs = tc_runs_new(size);
    uint8_t values[MOST * TC_HASH_SIZE];
    TcHashes *h;
    char tree[65];

    ck_assert(tc_runs_add(runs, 0, size, TC_RUN_DATA, NULL) && tc_runs_end(runs, NULL));
    h = tc_hashes_create(&tm_sys_kernel, file, runs, size, NULL);
    for (unsigned end = BLOCKS, n; end; end -= n) {
        n = MIN(end, MOST);
        for (unsigned i = 0; i < n; i++)
            memset(values + i * TC_HASH_SIZE, (int)((end - n + i) % 251), TC_HASH_SIZE);
        ck_assert_int_eq(tc_hashes_set(h, (end - n) * B, values, n), 0);
    }
    ck_assert(tc_hashes_finish(h, tree, NULL));
    tc_hashes_free(h);
    h = tc_hashes_open(&tm_sys_kernel, file, tree, size, NULL);
    ck_assert_ptr_nonnull(h);
    for (unsigned i = 0; i < BLOCKS; i++) {
        ck_assert_int_eq(tc_hashes_get(h, i * B, values, 1), 0);
        for (unsigned k = 0; k < TC_HASH_SIZE; k++)
            ck_assert_uint_eq(values[k], i % 251);
    }
    tc_hashes_free(h);
}
END_TEST

/* As above, with a digest that is right. */
START_TEST(impossible_files_of_hashes_are_refused)
{
    uint64_t size = 6 * B - 10;
    g_autofree char *file = g_build_filename(dir, "hashes", NULL), *text = NULL;
    TcHashes *h = tc_hashes_create(&tm_sys_kernel, file, runs_of("dd.z.d", size), size, NULL);
    char tree[65];
    size_t n;

    ck_assert(tc_hashes_finish(h, tree, NULL));
    tc_hashes_free(h);
    ck_assert(tm_file_read(file, 1 << 20, &text, &n, NULL));
    for (size_t i = 0; i < 64 + 3 * 24; i++) {
        g_autofree char *bad = g_memdup2(text, n);
        uint8_t hash[TC_HASH_SIZE];

        for (int bit = 0; bit < 8; bit++) {
            bad[i] = (char)(text[i] ^ (1 << bit));
            tc_hash(bad, n, hash);
            tc_hash_text(hash, tree);
            ck_assert(g_file_set_contents(file, bad, (gssize)n, NULL));
            h = tc_hashes_open(&tm_sys_kernel, file, tree, size, NULL);
            /* Some make another file that is possible, of as many hashes. */
            ck_assert_msg(!h || i >= 64, "byte %zu", i);
            ck_assert(!h || tc_runs_count(tc_hashes_runs(h)) == 3);
            tc_hashes_free(h);
        }
    }
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("point_files");
    TCase *tests = tcase_create("point_files");
    SRunner *runner;
    int failed;

    tcase_add_checked_fixture(tests, make_dir, remove_dir);
    tcase_set_timeout(tests, 60);
    tcase_add_test(tests, runs_are_rounded_to_blocks);
    tcase_add_test(tests, a_manifest_comes_back_as_it_was);
    tcase_add_test(tests, no_byte_of_a_manifest_changes_unnoticed);
    tcase_add_test(tests, impossible_manifests_are_refused);
    tcase_add_test(tests, names_are_checked);
    tcase_add_test(tests, no_byte_of_a_file_of_hashes_changes_unnoticed);
    tcase_add_test(tests, hashes_are_set_in_any_order);
    tcase_add_test(tests, impossible_files_of_hashes_are_refused);
    suite_add_tcase(suite, tests);
    runner = srunner_create(suite);
    srunner_run_all(runner, CK_ENV);
    failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed ? 1 : 0;
}
