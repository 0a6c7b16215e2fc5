/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* tests/unit/test_repository.c: a repository keeps what it was given: points are there whole or not
 * at all, wherever writing them is cut, and what differs from its hashes is found and named. */
#include "client/repository/images.h"
#include "client/repository/merge.h"
#include "client/repository/point_reader.h"
#include "client/repository/repository_internal.h"
#include "repository_util.h"
#include "util/file.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* ---- helpers */

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

/* Checked at the opening, and a link when it is used. */
START_TEST(a_directory_that_becomes_a_link_is_not_followed)
{
    g_autoptr(GError) error = NULL;
    g_autofree char *point = g_build_filename(path, "p0", NULL);
    g_autofree char *outside = g_build_filename(dir, "outside", NULL), *text = NULL;
    g_autofree char *manifest = g_build_filename(point, TC_MANIFEST_NAME, NULL);
    g_autoptr(TcRepository) repo = NULL;
    g_auto(TcImage) image = { 0 };
    g_autofree char *name = NULL;
    const TcPointDisk *disk;
    size_t length;

    add("p0", NULL, "abcd", 4 * B);
    repo = repo_for(TC_REPO_CHANGE);
    disk = tc_manifest_disk(tc_repo_point(repo, "p0"), "disk0");
    ck_assert_int_eq(g_rename(point, outside), 0);
    ck_assert_int_eq(symlink("../outside", point), 0);
    ck_assert(!tc_repo_read_file(manifest, 1 << 20, &text, &length, &error));
    ck_assert(g_error_matches(error, TC_REPO_ERROR, TC_REPO_ERROR_DAMAGED));
    g_clear_error(&error);
    name = tc_repo_file(repo, "p0", "disk0", "hashes");
    ck_assert_ptr_null(tc_hashes_open(tc_repo_sys(repo), name, disk->tree, 4 * B, &error));
    g_clear_error(&error);
    image.sys = tc_repo_sys(repo);
    ck_assert(tc_image_begin(&image, NULL));
    ck_assert_ptr_null(tc_repo_image_change(repo, &image, "p0", disk, &error));
    ck_assert(g_error_matches(error, TC_REPO_ERROR, TC_REPO_ERROR_DAMAGED));
}
END_TEST

START_TEST(the_path_of_a_repository_may_be_a_link)
{
    g_autofree char *real = g_strdup(path), *link = g_build_filename(dir, "link", NULL);

    add("p0", NULL, "abcd", 4 * B);
    ck_assert_int_eq(symlink("repo", link), 0);
    g_free(path);
    path = g_strconcat(link, "/", NULL);
    add("p1", "p0", "x..y", 4 * B);
    expect("p1", "xbcy", 4 * B);
    g_free(path);
    path = g_steal_pointer(&real);
    expect("p1", "xbcy", 4 * B);
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
    ck_assert_ptr_nonnull(strstr(error->message, "its oldest one is 'p0'"));
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
    tcase_add_test(tests, a_repository_is_made_in_an_empty_directory_only);
    tcase_add_test(tests, a_directory_that_becomes_a_link_is_not_followed);
    tcase_add_test(tests, the_path_of_a_repository_may_be_a_link);
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
