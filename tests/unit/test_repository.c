/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* tests/unit/test_repository.c: a repository keeps what it was given: points are there whole or not
 * at all, wherever writing them is cut; what differs from its hashes is found and named; nothing
 * that a file says is believed unchecked. */
#include "client/repository/merge.h"
#include "client/repository/new_point.h"
#include "client/repository/point_reader.h"
#include "client/repository/repository.h"
#include "tests/asserts.h"
#include "util/file.h"
#include "util/range.h"

#include <errno.h>
#include <fcntl.h>
#include <glib/gstdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define KIB UINT64_C(1024)
#define B   TC_BLOCK

static char *dir, *path; /* a directory of the test, and the repository in it */

static void make_dir(void)
{
    dir = g_dir_make_tmp("tidemark-repository-XXXXXX", NULL);
    ck_assert_ptr_nonnull(dir);
    path = g_build_filename(dir, "repo", NULL);
}

static void remove_all(const char *name)
{
    g_autoptr(GDir) d = g_dir_open(name, 0, NULL);
    const char *entry;

    while (d && (entry = g_dir_read_name(d))) {
        g_autofree char *below = g_build_filename(name, entry, NULL);

        if (g_file_test(below, G_FILE_TEST_IS_DIR) && !g_file_test(below, G_FILE_TEST_IS_SYMLINK))
            remove_all(below);
        else
            g_unlink(below);
    }
    g_rmdir(name);
}

static void remove_dir(void)
{
    remove_all(dir);
    g_free(dir);
    g_free(path);
}

/* ---- helpers */

static void no_error(const GError *error)
{
    ck_assert_msg(!error, "%s", error ? error->message : "");
}

static TcRepository *open_repo(TcRepoUse use, const TmSys *sys, GError **error)
{
    TcRepoOptions options = {
        .use = use, .create = use == TC_REPO_ADD, .what = "a test", .sys = sys
    };

    return tc_repo_open(path, &options, error);
}

static TcRepository *repo_for(TcRepoUse use)
{
    g_autoptr(GError) error = NULL;
    TcRepository *repo = open_repo(use, NULL, &error);

    no_error(error);
    return repo;
}

/* A disk is written as a letter a block: its bytes, '0' for zeroes, '.' for nothing. */
static void fill(uint8_t *buf, char letter, uint64_t block, uint64_t length)
{
    for (uint64_t i = 0; i < length; i++)
        buf[i] = letter == '0' ? 0 : (uint8_t)(letter + i * 7 + i / 251 + block);
}

static TcRuns *runs_of(const char *blocks, uint64_t size)
{
    TcRuns *runs = tc_runs_new(size);

    for (uint64_t i = 0; blocks[i]; i++) {
        TcRunKind kind = blocks[i] == '.'   ? TC_RUN_NONE
                         : blocks[i] == 'z' ? TC_RUN_ZERO
                                            : TC_RUN_DATA;

        ck_assert(tc_runs_add(runs, i * B, tm_min(B, size - i * B), kind, NULL));
    }
    ck_assert(tc_runs_end(runs, NULL));
    return runs;
}

static int write_blocks(TcNewDisk *disk, const char *blocks, uint64_t size)
{
    uint8_t buf[B];
    int ret = 0;

    for (uint64_t i = 0; blocks[i] && ret == 0; i++) {
        uint64_t n = tm_min(B, size - i * B);

        fill(buf, blocks[i], i, n);
        if (blocks[i] != '.' && blocks[i] != 'z')
            ret = tc_new_disk_write(disk, i * B, buf, n);
    }
    return ret;
}

static bool add_point(TcRepository *repo, const char *name, const char *parent, const char *blocks,
                      uint64_t size, const char *compression, GError **error)
{
    g_autoptr(TcNewPoint) point = tc_new_point(repo, name, error);
    TcPointDisk *entry = tc_point_disk_new("disk0", size);
    static uint64_t instant = UINT64_C(1764342245123456789);
    TcNewDisk *disk;
    int ret;

    entry->parent = g_strdup(parent);
    entry->compression = g_strdup(compression);
    if (!point) {
        tc_point_disk_free(entry);
        return false;
    }
    disk = tc_new_point_add(point, entry, runs_of(blocks, size), error);
    ret = disk ? write_blocks(disk, blocks, size) : -EIO;
    if (ret < 0)
        return disk ? tm_error_set_errno(error, -ret, "write") : false;
    return tc_new_point_commit(point, instant++, error);
}

static void add(const char *name, const char *parent, const char *blocks, uint64_t size)
{
    g_autoptr(TcRepository) repo = repo_for(TC_REPO_ADD);
    g_autoptr(GError) error = NULL;

    add_point(repo, name, parent, blocks, size, NULL, &error);
    no_error(error);
}

static int read_point(const char *name, const char *blocks, uint64_t size, uint64_t *bad,
                      char **where)
{
    g_autoptr(TcRepository) repo = repo_for(TC_REPO_READ);
    g_autoptr(TcPointReader) reader = NULL;
    g_autoptr(GError) error = NULL;
    g_autofree uint8_t *buf = g_malloc(size), *expected = g_malloc(size);
    const TcManifest *point = NULL;
    int ret;

    reader = tc_point_reader_open(repo, tc_repo_point(repo, name), "disk0", false, &error);
    no_error(error);
    ck_assert_uint_eq(tc_point_reader_size(reader), size);
    ret = tc_point_reader_read(reader, buf, 0, size, bad, &point);
    if (where)
        *where = point ? g_strdup(point->point) : NULL;
    for (uint64_t i = 0; ret == 0 && blocks[i]; i++) {
        uint64_t n = tm_min(B, size - i * B);

        fill(expected, blocks[i] == '.' || blocks[i] == 'z' ? '0' : blocks[i], i, n);
        ck_assert_msg(!memcmp(buf + i * B, expected, n), "block %" PRIu64 " of %s", i, name);
    }
    return ret;
}

static void expect(const char *name, const char *blocks, uint64_t size)
{
    uint64_t bad;

    ck_assert_int_eq(read_point(name, blocks, size, &bad, NULL), 0);
}

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

/* ---- repositories */

START_TEST(a_repository_is_made_in_an_empty_directory_only)
{
    g_autoptr(GError) error = NULL;
    g_autofree char *other = g_build_filename(path, "other", NULL);
    TcRepository *repo = open_repo(TC_REPO_READ, NULL, &error);

    ck_assert_ptr_null(repo);
    g_clear_error(&error);
    ck_assert_int_eq(g_mkdir(path, 0755), 0);
    ck_assert(g_file_set_contents(other, "x", 1, NULL));
    ck_assert_ptr_null(open_repo(TC_REPO_ADD, NULL, &error));
    ck_assert_ptr_nonnull(strstr(error->message, "'other'"));
    g_clear_error(&error);
    g_unlink(other);
    repo = open_repo(TC_REPO_ADD, NULL, &error);
    no_error(error);
    ck_assert(g_uuid_string_is_valid(tc_repo_id(repo)));
    tc_repo_close(repo);
    ck_assert(tc_repo_is(path));
}
END_TEST

START_TEST(a_newer_repository_is_refused)
{
    g_autoptr(GError) error = NULL;
    g_autofree char *file = NULL, *text = NULL, *newer = NULL;

    tc_repo_close(repo_for(TC_REPO_ADD));
    file = g_build_filename(path, "tidemark-repository.json", NULL);
    ck_assert(tm_file_read(file, 1000, &text, NULL, NULL));
    newer = g_strdup(text);
    *(strstr(newer, "\"version\": ") + 11) = '2';
    ck_assert(g_file_set_contents(file, newer, -1, NULL));
    ck_assert_ptr_null(open_repo(TC_REPO_LIST, NULL, &error));
    ck_assert_ptr_nonnull(strstr(error->message, "version 2"));
    g_clear_error(&error);
    ck_assert(g_file_set_contents(file, text + 1, -1, NULL));
    ck_assert_ptr_null(open_repo(TC_REPO_LIST, NULL, &error));
    ck_assert(g_error_matches(error, TC_REPO_ERROR, TC_REPO_ERROR_DAMAGED));
}
END_TEST

START_TEST(locks_keep_apart_what_can_not_go_on_together)
{
    static const TcRepoUse uses[] = { TC_REPO_LIST, TC_REPO_READ, TC_REPO_ADD, TC_REPO_CHANGE };
    static const bool together[4][4] = {
        { true, true, true, true },
        { true, true, true, false },
        { true, true, false, false },
        { true, false, false, false },
    };

    tc_repo_close(repo_for(TC_REPO_ADD));
    for (int a = 0; a < 4; a++) {
        for (int b = 0; b < 4; b++) {
            g_autoptr(TcRepository) first = repo_for(uses[a]);
            g_autoptr(GError) error = NULL;
            g_autoptr(TcRepository) second = open_repo(uses[b], NULL, &error);

            ck_assert_msg(!second == !together[a][b], "%d and %d", a, b);
            ck_assert(second || g_error_matches(error, TC_REPO_ERROR, TC_REPO_ERROR_LOCKED));
            ck_assert(second || a == TC_REPO_READ || b == TC_REPO_READ ||
                      strstr(error->message, "a test (process "));
            ck_assert(tc_repo_is_written(first) == (a >= 2 || (second && b >= 2)));
        }
    }
}
END_TEST

static void *close_later(void *repo)
{
    g_usleep(G_USEC_PER_SEC / 4);
    tc_repo_close(repo);
    return NULL;
}

START_TEST(waiting_for_a_lock_ends_when_it_is_free)
{
    TcRepoOptions options = { .use = TC_REPO_CHANGE, .wait_s = -1 };
    GThread *thread = g_thread_new("closes", close_later, repo_for(TC_REPO_ADD));
    g_autoptr(GError) error = NULL;
    g_autoptr(TcRepository) repo = tc_repo_open(path, &options, &error);

    no_error(error);
    ck_assert_ptr_nonnull(repo);
    g_thread_join(thread);
}
END_TEST

START_TEST(points_are_read_back_through_their_chain)
{
    static const char *const compressions[] = { NULL, "zlib", "zstd" };
    uint64_t size = 10 * B - 300;

    for (size_t i = 0; i < G_N_ELEMENTS(compressions); i++) {
        const char *compression = compressions[i];
        g_autoptr(TcRepository) repo = repo_for(TC_REPO_ADD);
        g_autoptr(GError) error = NULL;
        const TcPointDisk *d;

        ck_assert(add_point(repo, "p0", NULL, "aaazz0aaza", size, compression, &error));
        ck_assert(add_point(repo, "p1", "p0", ".bz0b...zz", size, compression, &error));
        ck_assert(add_point(repo, "p2", "p1", "cc...0.c..", size, compression, &error));
        no_error(error);
        d = tc_manifest_disk(tc_repo_point(repo, "p1"), "disk0");
        ck_assert_uint_eq(d->stored, 2 * B);
        ck_assert_uint_eq(d->zero, 4 * B - 300);
        tc_repo_close(g_steal_pointer(&repo));
        expect("p0", "aaazz0aaza", size);
        expect("p1", "abzzbzaazz", size);
        expect("p2", "cczzbzaczz", size);
        remove_all(path);
    }
}
END_TEST

START_TEST(increments_record_zeroes_and_say_what_they_stand_on)
{
    g_autofree char *image = NULL, *text = NULL;

    add("p0", NULL, "aaaaa", 5 * B - 100);
    add("p1", "p0", "z0b.z", 5 * B - 100);
    image = g_build_filename(path, "p1", "disk0.qcow2", NULL);
    ck_assert(tm_file_read(image, 100 * B, &text, NULL, NULL));
    ck_assert_ptr_nonnull(memmem(text, B, "../p0/disk0.qcow2", 17));
    expect("p1", "zzbaz", 5 * B - 100);
}
END_TEST

START_TEST(damaged_blocks_are_named_with_their_point)
{
    uint64_t size = 4 * B, bad = 0;
    g_autofree char *image = NULL, *where = NULL, *data = NULL;
    size_t n;
    char *at;

    add("p0", NULL, "aaaa", size);
    add("p1", "p0", ".b..", size);
    image = g_build_filename(path, "p0", "disk0.qcow2", NULL);
    ck_assert(tm_file_read(image, 100 * B, &data, &n, NULL));
    for (at = data + n - B; (uint8_t)*at != 'a' + 2; at -= B)
        ;
    at[100] ^= 1;
    ck_assert(g_file_set_contents(image, data, (gssize)n, NULL));
    ck_assert_int_eq(read_point("p1", "abaa", size, &bad, &where), -EBADMSG);
    ck_assert_uint_eq(bad, 2 * B);
    ck_assert_str_eq(where, "p0");
}
END_TEST

START_TEST(what_is_not_written_is_not_committed)
{
    g_autoptr(TcRepository) repo = repo_for(TC_REPO_ADD);
    g_autoptr(TcNewPoint) point = tc_new_point(repo, "p", NULL);
    g_autoptr(GError) error = NULL;
    TcNewDisk *disk =
        tc_new_point_add(point, tc_point_disk_new("d", 2 * B), runs_of("a.", 2 * B), &error);
    static const uint8_t buf[2 * B];

    no_error(error);
    ck_assert_int_eq(tc_new_disk_write(disk, B, buf, B), -EINVAL);
    ck_assert_int_eq(tc_new_disk_write(disk, 0, buf, 10), -EINVAL);
    ck_assert(!tc_new_point_commit(point, 1, &error));
    ck_assert_ptr_nonnull(strstr(error->message, "not complete"));
    tc_new_point_free(g_steal_pointer(&point));
    ck_assert_uint_eq(tc_repo_points(repo)->len, 0);
    ck_assert_uint_eq(tc_repo_debris(repo)->len, 0);
}
END_TEST

START_TEST(points_are_found_by_name_and_time)
{
    g_autoptr(TcRepository) repo = NULL;
    g_autoptr(GError) error = NULL;

    g_setenv("TZ", "UTC", TRUE);
    add("p0", NULL, "a", B); /* 2025-11-28T15:04:05 */
    add("p1", NULL, "a", B);
    repo = repo_for(TC_REPO_READ);
    ck_assert_str_eq(tc_repo_find(repo, "p0", NULL)->point, "p0");
    ck_assert_str_eq(tc_repo_find(repo, "latest", NULL)->point, "p1");
    ck_assert_str_eq(tc_repo_find(repo, "2025-11-28", NULL)->point, "p1");
    ck_assert_str_eq(tc_repo_find(repo, "2025-11-28 15:04", NULL)->point, "p1");
    ck_assert_str_eq(tc_repo_find(repo, "2025-11-28 15:04:05", NULL)->point, "p1");
    ck_assert_str_eq(tc_repo_find(repo, "2025-11-28T16:04:05+01:00", NULL)->point, "p1");
    ck_assert_str_eq(tc_repo_find(repo, "2025-11-28T15:04:05.123Z", NULL)->point, "p1");
    ck_assert_ptr_null(tc_repo_find(repo, "2025-11-28 15:04:04", &error));
    ck_assert_ptr_nonnull(strstr(error->message, "p0 and p1"));
    g_clear_error(&error);
    ck_assert_ptr_null(tc_repo_find(repo, "p2", &error));
    ck_assert_ptr_nonnull(strstr(error->message, "p0 and p1"));
    ck_assert_ptr_null(tc_repo_find(repo, "2025-13-28", NULL));
    ck_assert_ptr_null(tc_repo_find(repo, "2025-11-28 25:00", NULL));
    ck_assert_ptr_null(tc_repo_find(repo, "2025-11-28x", NULL));
}
END_TEST

START_TEST(removed_points_are_gone)
{
    g_autoptr(TcRepository) repo = NULL;
    g_autoptr(GError) error = NULL;

    add("p0", NULL, "a", B);
    add("p1", NULL, "b", B);
    repo = repo_for(TC_REPO_CHANGE);
    ck_assert(tc_repo_remove(repo, "p0", &error));
    ck_assert(!tc_repo_remove(repo, "../repo", NULL));
    tc_repo_close(g_steal_pointer(&repo));
    repo = repo_for(TC_REPO_LIST);
    ck_assert_uint_eq(tc_repo_points(repo)->len, 1);
    ck_assert_uint_eq(tc_repo_debris(repo)->len + tc_repo_damaged(repo)->len, 0);
}
END_TEST

START_TEST(directories_are_sorted_out)
{
    static const char *const names[] = { "empty",
                                         "partial/manifest.json.partial",
                                         "partial/x.qcow2",
                                         "lost/x.qcow2",
                                         "foreign/x.txt",
                                         "bad/manifest.json",
                                         "a b/manifest.json" };
    g_autoptr(TcRepository) repo = NULL;
    g_autofree char *link = NULL;

    add("p0", NULL, "a", B);
    for (size_t i = 0; i < G_N_ELEMENTS(names); i++) {
        g_autofree char *file = g_build_filename(path, names[i], NULL);
        g_autofree char *parent = g_path_get_dirname(file);

        g_mkdir(i ? parent : file, 0755);
        ck_assert(!i || g_file_set_contents(file, "{}", -1, NULL));
    }
    link = g_build_filename(path, "link", NULL);
    ck_assert_int_eq(symlink("p0", link), 0);
    repo = repo_for(TC_REPO_LIST);
    ck_assert_uint_eq(tc_repo_points(repo)->len, 1);
    ck_assert_uint_eq(tc_repo_debris(repo)->len, 2);
    ck_assert_str_eq(tc_repo_debris(repo)->pdata[0], "empty");
    ck_assert_str_eq(tc_repo_debris(repo)->pdata[1], "partial");
    ck_assert_uint_eq(tc_repo_damaged(repo)->len, 2);
    ck_assert_str_eq(((TcDamaged *)tc_repo_damaged(repo)->pdata[0])->point, "bad");
    ck_assert_str_eq(((TcDamaged *)tc_repo_damaged(repo)->pdata[1])->point, "lost");
    ck_assert_uint_eq(tc_repo_foreign(repo)->len, 3);
    tc_repo_close(g_steal_pointer(&repo));
    repo = repo_for(TC_REPO_ADD);
    ck_assert_uint_eq(tc_repo_debris(repo)->len, 0);
    ck_assert_uint_eq(tc_repo_damaged(repo)->len, 2);
}
END_TEST

START_TEST(chains_that_can_not_be_are_damaged)
{
    g_autoptr(TcRepository) repo = NULL;
    g_autoptr(GError) error = NULL;
    TcManifest *p1;

    add("p0", NULL, "aa", 2 * B);
    add("p1", "p0", "b.", 2 * B);
    repo = repo_for(TC_REPO_READ);
    p1 = tc_repo_point(repo, "p1");
    tc_manifest_disk(p1, "disk0")->parent[1] = '1';
    ck_assert_ptr_null(tc_repo_chain(repo, p1, "disk0", &error));
    ck_assert_ptr_nonnull(strstr(error->message, "a circle"));
    g_clear_error(&error);
    tc_manifest_disk(p1, "disk0")->parent[1] = '2';
    ck_assert_ptr_null(tc_repo_chain(repo, p1, "disk0", &error));
    ck_assert_ptr_nonnull(strstr(error->message, "not there"));
    g_clear_error(&error);
    tc_manifest_disk(p1, "disk0")->parent[1] = '0';
    tc_manifest_disk(p1, "disk0")->size++;
    ck_assert_ptr_null(tc_repo_chain(repo, p1, "disk0", &error));
    ck_assert(g_error_matches(error, TC_REPO_ERROR, TC_REPO_ERROR_DAMAGED));
    /* The image of the full says what it stands on, too. */
    g_clear_error(&error);
    tc_manifest_disk(p1, "disk0")->size--;
    g_clear_pointer(&tc_manifest_disk(p1, "disk0")->parent, g_free);
    ck_assert_ptr_null(tc_point_reader_open(repo, p1, "disk0", false, &error));
    ck_assert(g_error_matches(error, TC_REPO_ERROR, TC_REPO_ERROR_DAMAGED));
    ck_assert_ptr_nonnull(strstr(error->message, "backing file"));
}
END_TEST

START_TEST(a_point_stands_on_no_other_of_that_name)
{
    g_autoptr(TcRepository) repo = NULL;
    g_autoptr(GPtrArray) children = NULL;
    g_autoptr(GError) error = NULL;
    TcMergeCost cost = { 0 };
    g_autofree char *kept = NULL;
    g_autoptr(TcMergePlan) plan = NULL;

    add("p0", NULL, "aa", 2 * B);
    add("p1", "p0", "b.", 2 * B);
    expect("p1", "ba", 2 * B);
    repo = repo_for(TC_REPO_CHANGE);
    ck_assert_str_eq(tc_manifest_disk(tc_repo_point(repo, "p1"), "disk0")->parent_id,
                     tc_repo_point(repo, "p0")->id);
    ck_assert(tc_repo_remove(repo, "p0", NULL));
    tc_repo_close(g_steal_pointer(&repo));
    add("p0", NULL, "cc", 2 * B);
    repo = repo_for(TC_REPO_CHANGE);
    ck_assert_ptr_null(tc_repo_chain(repo, tc_repo_point(repo, "p1"), "disk0", &error));
    ck_assert(g_error_matches(error, TC_REPO_ERROR, TC_REPO_ERROR_DAMAGED));
    ck_assert_ptr_nonnull(strstr(error->message, "another point 'p0'"));
    /* Nor is it merged with it, which would hide that. */
    plan = tc_merge_plan(repo);
    ck_assert(tc_merge_plan_remove(plan, "p0", &cost, &kept, NULL));
    ck_assert_uint_eq(cost.written, 0);
    children = tc_repo_children(repo, tc_repo_point(repo, "p0"), "disk0");
    ck_assert_uint_eq(children->len, 0);
}
END_TEST

/* ---- the end of the program at any system call */

static struct {
    unsigned calls, last; /* those that change something, and the last that is carried out */
    bool off;
} cut;

static bool is_cut(void)
{
    errno = EIO;
    return !cut.off && __atomic_add_fetch(&cut.calls, 1, __ATOMIC_RELAXED) > cut.last;
}

static int cut_open(const char *name, int flags, mode_t mode)
{
    return flags & O_CREAT && is_cut() ? -1 : tm_sys_kernel.open(name, flags, mode);
}

static ssize_t cut_pwritev2(int fd, const struct iovec *iov, int n, off_t offset, int flags)
{
    return is_cut() ? -1 : tm_sys_kernel.pwritev2(fd, iov, n, offset, flags);
}

static int cut_fdatasync(int fd)
{
    return is_cut() ? -1 : fcntl(fd, F_GETFD) < 0;
}

static int cut_fsync(int fd)
{
    return is_cut() ? -1 : fcntl(fd, F_GETFD) < 0;
}

static int cut_ftruncate(int fd, off_t length)
{
    return is_cut() ? -1 : tm_sys_kernel.ftruncate(fd, length);
}

static int cut_rename(const char *from, const char *to)
{
    return is_cut() ? -1 : tm_sys_kernel.rename(from, to);
}

static int cut_unlink(const char *name)
{
    return is_cut() ? -1 : tm_sys_kernel.unlink(name);
}

/* Writes a point on the first one; how many calls that takes. */
static bool cut_at(unsigned last)
{
    TmSys sys = tm_sys_kernel;
    g_autoptr(GError) error = NULL;
    g_autoptr(TcRepository) repo = NULL;
    bool ok;

    sys.open = cut_open;
    sys.pwritev2 = cut_pwritev2;
    sys.fdatasync = cut_fdatasync;
    sys.fsync = cut_fsync;
    sys.ftruncate = cut_ftruncate;
    sys.rename = cut_rename;
    sys.unlink = cut_unlink;
    cut.off = true;
    cut.calls = 0;
    cut.last = last;
    repo = open_repo(TC_REPO_ADD, &sys, &error);
    no_error(error);
    cut.off = false;
    ok = add_point(repo, "p1", "p0", "b0z.", 4 * B, NULL, &error);
    ck_assert(ok || error);
    return ok;
}

START_TEST(a_point_that_is_cut_is_there_whole_or_not_at_all)
{
    bool done = false;
    unsigned last;

    add("p0", NULL, "aaaa", 4 * B);
    for (last = 0; !done; last++) {
        g_autoptr(TcRepository) repo = NULL;

        done = cut_at(last);
        repo = repo_for(TC_REPO_LIST);
        ck_assert_uint_eq(tc_repo_damaged(repo)->len + tc_repo_foreign(repo)->len, 0);
        if (tc_repo_points(repo)->len == 2) {
            tc_repo_close(g_steal_pointer(&repo));
            expect("p1", "bzza", 4 * B);
            repo = repo_for(TC_REPO_CHANGE);
            ck_assert(tc_repo_remove(repo, "p1", NULL));
        } else {
            ck_assert(!done);
        }
        tc_repo_close(g_steal_pointer(&repo));
        repo = repo_for(TC_REPO_ADD); /* which removes debris */
        ck_assert_uint_eq(tc_repo_debris(repo)->len, 0);
        ck_assert_uint_eq(tc_repo_points(repo)->len, 1);
    }
    ck_assert_uint_gt(last, 20);
    expect("p0", "aaaa", 4 * B);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("repository");
    TCase *tests = tcase_create("repository");
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
    tcase_add_test(tests, impossible_files_of_hashes_are_refused);
    tcase_add_test(tests, a_repository_is_made_in_an_empty_directory_only);
    tcase_add_test(tests, a_newer_repository_is_refused);
    tcase_add_test(tests, locks_keep_apart_what_can_not_go_on_together);
    tcase_add_test(tests, waiting_for_a_lock_ends_when_it_is_free);
    tcase_add_test(tests, points_are_read_back_through_their_chain);
    tcase_add_test(tests, increments_record_zeroes_and_say_what_they_stand_on);
    tcase_add_test(tests, damaged_blocks_are_named_with_their_point);
    tcase_add_test(tests, what_is_not_written_is_not_committed);
    tcase_add_test(tests, points_are_found_by_name_and_time);
    tcase_add_test(tests, removed_points_are_gone);
    tcase_add_test(tests, directories_are_sorted_out);
    tcase_add_test(tests, chains_that_can_not_be_are_damaged);
    tcase_add_test(tests, a_point_stands_on_no_other_of_that_name);
    tcase_add_test(tests, a_point_that_is_cut_is_there_whole_or_not_at_all);
    suite_add_tcase(suite, tests);
    runner = srunner_create(suite);
    srunner_run_all(runner, CK_ENV);
    failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed ? 1 : 0;
}
