/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* tests/crash/test_medium.c: the simulated medium loses what a real one may lose, and nothing
 * else. */
#include "tests/asserts.h"
#include "tests/crash/medium.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static Medium *m, *after;
static const TmSys *sys = &medium_sys;

static void set_up(void)
{
    m = medium_new(true);
    after = medium_new(true);
    medium_use(m);
    medium_make_disk(m, 0, 1 << 20);
}

static void tear_down(void)
{
    ck_assert_ptr_null(m->violation);
    medium_use(NULL);
    medium_free(m);
    medium_free(after);
}

static int make(const char *path)
{
    int fd = sys->open(path, O_RDWR | O_CREAT | O_EXCL, 0600);

    ck_assert_int_ge(fd, 0);
    return fd;
}

static ssize_t put(int fd, int byte, uint64_t offset, size_t length)
{
    g_autofree uint8_t *data = g_malloc(length);
    struct iovec iov = { data, length };

    memset(data, byte, length);
    return sys->pwritev2(fd, &iov, 1, offset, 0);
}

static void sync_directory(void)
{
    int fd = sys->open("/m", O_RDONLY | O_DIRECTORY, 0);

    ck_assert_int_ge(fd, 0);
    ck_assert_int_eq(sys->fsync(fd), 0);
    ck_assert_int_eq(sys->close(fd), 0);
}

/* A file of 8192 ones, durable. */
static int make_durable(void)
{
    int fd = make("/m/a");

    ck_assert_int_eq(put(fd, 1, 0, 8192), 8192);
    ck_assert_int_eq(sys->fdatasync(fd), 0);
    sync_directory();
    ck_assert_uint_eq(m->changes->len, 0);
    return fd;
}

static Image *cut(const uint8_t *kept)
{
    medium_cut(after, m, kept);
    return medium_file(after, "a");
}

static const uint8_t nothing[4096];

START_TEST(a_file_without_a_sync_may_be_gone)
{
    int fd = make("/m/a");

    ck_assert_int_eq(put(fd, 1, 0, 600), 600);
    ck_assert_int_eq(sys->fdatasync(fd), 0);
    ck_assert_ptr_null(cut(nothing)); /* its name is not durable */
    ck_assert_uint_eq(cut(NULL)->size, 600);
    sync_directory();
    ck_assert_uint_eq(cut(nothing)->size, 600);
    ck_assert_int_eq(cut(nothing)->data[599], 1);
}
END_TEST

START_TEST(each_sector_is_kept_or_dropped_by_itself)
{
    int fd = make_durable();

    ck_assert_int_eq(put(fd, 2, 512, 1024), 1024);
    ck_assert_uint_eq(m->changes->len, 2);
    for (unsigned i = 0; i < 4; i++) {
        uint8_t kept[] = { i & 1, i >> 1 };
        const Image *image = cut(kept);

        ck_assert_int_eq(image->data[511], 1);
        ck_assert_int_eq(image->data[512], i & 1 ? 2 : 1);
        ck_assert_int_eq(image->data[1535], i >> 1 ? 2 : 1);
        ck_assert_int_eq(image->data[1536], 1);
    }
    ck_assert_int_eq(sys->fdatasync(fd), 0);
    ck_assert_int_eq(cut(nothing)->data[512], 2);
}
END_TEST

START_TEST(older_versions_may_be_the_last_kept)
{
    int fd = make_durable();
    uint8_t first[] = { 1, 0 };

    put(fd, 2, 0, 512);
    put(fd, 3, 0, 512);
    ck_assert_int_eq(cut(first)->data[0], 2);
    ck_assert_int_eq(cut(NULL)->data[0], 3);
}
END_TEST

START_TEST(stores_through_a_mapping_are_changes)
{
    int fd = make_durable();
    uint8_t *map = sys->mmap(fd, 4096, 4096);

    map[0] = map[600] = 9;
    medium_observe(m, "test");
    ck_assert_uint_eq(m->changes->len, 2);
    ck_assert_int_eq(cut(nothing)->data[4096], 1);
    ck_assert_int_eq(cut(NULL)->data[4696], 9);
    map[1] = 9;
    ck_assert_int_eq(sys->fdatasync(fd), 0);
    ck_assert_int_eq(cut(nothing)->data[4097], 9);
    ck_assert_int_eq(sys->munmap(map, 4096), 0);
}
END_TEST

START_TEST(a_store_through_a_mapping_into_a_hole_is_a_violation)
{
    int fd = make_durable();
    uint8_t *map;

    ck_assert_int_eq(sys->ftruncate(fd, 16384), 0);
    map = sys->mmap(fd, 0, 16384);
    ck_assert_int_eq(sys->fallocate(fd, 0, 8192, 4096), 0);
    map[8192] = 1;
    medium_observe(m, "test");
    ck_assert_ptr_null(m->violation);
    map[12288] = 1;
    medium_observe(m, "test");
    ck_assert_ptr_nonnull(m->violation);
    g_clear_pointer(&m->violation, g_free);
}
END_TEST

START_TEST(a_length_and_its_data_are_kept_or_dropped_apart)
{
    int fd = make_durable();
    uint8_t length[] = { 1, 0 }, data[] = { 0, 1 };

    put(fd, 2, 8192, 512);
    ck_assert_uint_eq(m->changes->len, 2);
    ck_assert_uint_eq(cut(nothing)->size, 8192);
    ck_assert_uint_eq(cut(length)->size, 8704);
    ck_assert_int_eq(cut(length)->data[8192], 0);
    ck_assert_uint_eq(cut(data)->size, 8192);
    sys->ftruncate(fd, 100);
    sys->fdatasync(fd);
    ck_assert_uint_eq(cut(nothing)->size, 100);
    sys->ftruncate(fd, 200);
    ck_assert_int_eq(cut(NULL)->data[150], 0);
}
END_TEST

START_TEST(what_a_failed_sync_lost_stays_in_doubt)
{
    int fd = make_durable();

    put(fd, 2, 0, 1024);
    m->fault = (MediumFault){ .calls = CALL_SYNC, .times = 1, .error = EIO };
    ck_assert_int_eq(sys->fdatasync(fd), -1);
    ck_assert_int_eq(errno, EIO);
    ck_assert_int_eq(sys->fdatasync(fd), 0);
    ck_assert_int_eq(cut(nothing)->data[0], 1);
    ck_assert_int_eq(cut(NULL)->data[0], 2);
    put(fd, 2, 0, 512); /* the same again */
    ck_assert_int_eq(sys->fdatasync(fd), 0);
    ck_assert_int_eq(cut(nothing)->data[0], 2);
    ck_assert_int_eq(cut(nothing)->data[512], 1);
}
END_TEST

START_TEST(what_was_not_written_back_is_reported_once)
{
    int fd = make_durable();

    for (unsigned i = 0; i < MEDIUM_INODES; i++)
        m->inodes[i].unwritten = m->inodes[i].used;
    ck_assert_int_eq(sys->fdatasync(fd), -1);
    ck_assert_int_eq(errno, EIO);
    ck_assert_int_eq(sys->fdatasync(fd), 0);
}
END_TEST

/* A state takes the place of another one, whose error nobody heard of. */
START_TEST(what_was_not_written_back_is_not_of_the_next_state)
{
    make_durable();
    cut(NULL);
    for (unsigned i = 0; i < MEDIUM_INODES; i++)
        after->inodes[i].unwritten = after->inodes[i].used;
    cut(NULL);
    medium_use(after);
    ck_assert_int_eq(sys->fdatasync(sys->open("/m/a", O_RDWR, 0)), 0);
}
END_TEST

START_TEST(a_rename_is_one_change)
{
    int fd = make_durable(), other = make("/m/b");
    uint8_t last[] = { 0, 0, 0, 1 };

    put(other, 2, 0, 512);
    ck_assert_int_eq(sys->rename("/m/b", "/m/a"), 0);
    ck_assert_uint_eq(m->changes->len, 4);
    ck_assert_uint_eq(cut(nothing)->size, 8192);
    ck_assert_uint_eq(cut(last)->size, 0);
    ck_assert_ptr_null(medium_file(after, "b"));
    ck_assert_int_eq(cut(NULL)->data[0], 2);
    ck_assert_int_eq(sys->unlink("/m/a"), 0);
    ck_assert_ptr_null(cut(NULL));
    ck_assert_ptr_nonnull(cut(nothing));
    ck_assert_int_eq(sys->close(fd), 0);
    ck_assert_int_eq(sys->close(other), 0);
    ck_assert_uint_eq(medium_open_count(m), 0);
}
END_TEST

START_TEST(a_disk_has_times_sizes_and_attributes)
{
    int disk = dup(medium_disk_fd(0));
    struct stat before, now;

    ck_assert_int_eq(sys->fstat(disk, &before), 0);
    ck_assert_int_eq(before.st_size, 1 << 20);
    medium_disk_written(m, 0);
    medium_disk_resize(m, 0, 2 << 20);
    sys->fsetxattr(disk, "user.x", "1", 1);
    ck_assert_int_eq(sys->fstat(disk, &now), 0);
    ck_assert_int_eq(now.st_size, 2 << 20);
    ck_assert_int_ne(now.st_mtim.tv_nsec, before.st_mtim.tv_nsec);
    ck_assert_int_eq(sys->fdatasync(disk), 0);
    medium_cut(after, m, nothing);
    ck_assert_uint_eq(medium_disk_size(after, 0), 2 << 20);
    ck_assert_int_eq(medium_file(after, "disk0")->xattr, -1);
    ck_assert_int_ne(medium_file(after, "disk0")->mtime, medium_file(m, "disk0")->mtime);
    ck_assert_int_eq(sys->fsync(disk), 0);
    medium_cut(after, m, nothing);
    ck_assert_int_eq(medium_file(after, "disk0")->xattr, 1);
    ck_assert_int_eq(medium_file(after, "disk0")->mtime, medium_file(m, "disk0")->mtime);
    ck_assert_int_eq(sys->close(disk), 0);
}
END_TEST

START_TEST(a_lock_excludes_until_its_descriptors_close)
{
    int a = make_durable(), b = sys->open("/m/a", O_RDWR, 0);
    struct flock lock = { .l_type = F_WRLCK };

    ck_assert_int_eq(sys->lock(a, F_OFD_SETLK, &lock), 0);
    lock.l_type = F_RDLCK;
    ck_assert_int_eq(sys->lock(b, F_OFD_SETLK, &lock), -1);
    medium_close_all(m);
    b = sys->open("/m/a", O_RDWR, 0);
    ck_assert_int_eq(sys->lock(b, F_OFD_SETLK, &lock), 0);
}
END_TEST

/* What is left goes on as a medium of its own. */
START_TEST(what_a_cut_leaves_is_a_medium_of_its_own)
{
    int fd = make_durable();

    put(fd, 2, 0, 512);
    cut(nothing);
    medium_use(after);
    fd = sys->open("/m/a", O_RDWR, 0);
    put(fd, 3, 512, 512);
    ck_assert_uint_eq(after->changes->len, 1);
    medium_cut(m, after, nothing);
    ck_assert_int_eq(medium_file(m, "a")->data[512], 1);
    medium_cut(m, after, NULL);
    ck_assert_int_eq(medium_file(m, "a")->data[512], 3);
    ck_assert_int_eq(medium_file(m, "a")->data[0], 1);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("medium");
    TCase *tc = tcase_create("medium");
    SRunner *runner = srunner_create(suite);
    int failed;

    tcase_add_checked_fixture(tc, set_up, tear_down);
    tcase_add_test(tc, a_file_without_a_sync_may_be_gone);
    tcase_add_test(tc, each_sector_is_kept_or_dropped_by_itself);
    tcase_add_test(tc, older_versions_may_be_the_last_kept);
    tcase_add_test(tc, stores_through_a_mapping_are_changes);
    tcase_add_test(tc, a_store_through_a_mapping_into_a_hole_is_a_violation);
    tcase_add_test(tc, a_length_and_its_data_are_kept_or_dropped_apart);
    tcase_add_test(tc, what_a_failed_sync_lost_stays_in_doubt);
    tcase_add_test(tc, what_was_not_written_back_is_reported_once);
    tcase_add_test(tc, what_was_not_written_back_is_not_of_the_next_state);
    tcase_add_test(tc, a_rename_is_one_change);
    tcase_add_test(tc, a_disk_has_times_sizes_and_attributes);
    tcase_add_test(tc, a_lock_excludes_until_its_descriptors_close);
    tcase_add_test(tc, what_a_cut_leaves_is_a_medium_of_its_own);
    suite_add_tcase(suite, tc);
    srunner_run_all(runner, CK_ENV);
    failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
