/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* tests/unit/test_extents.c: the file driver's memory of data and holes: exact, bounded, and cheap.
 *
 * Most tests look through a node, as a client does; the races go to the cache itself, with the
 * change made at the worst moment. */
#include "block/drivers/file/extents.h"
#include "tests/rounds.h"
#include "tests/unit/drivers_util.h"

#include <sys/statvfs.h>

#define BLOCK ((uint64_t)4096)

/* ---- walking */

/* A directory that has room for 400 MB of fragments; tmpfs is quicker, but small in containers. */
static const char *roomy_place(void)
{
    struct statvfs vfs;

    return statvfs("/dev/shm", &vfs) == 0 && vfs.f_bavail * vfs.f_frsize >= GIB ? "/dev/shm"
                                                                                : "/var/tmp";
}

/* Every other block written, through the back door: @count extents of data. */
static void make_fragments(const char *name, unsigned count)
{
    g_autofree char *path = path_of(name);
    char block[BLOCK];
    int fd;

    make_file(name, 2 * BLOCK * count);
    fd = open(path, O_RDWR);
    memset(block, 5, sizeof(block));
    for (unsigned i = 0; i < count; i++)
        ck_assert_int_eq(pwrite(fd, block, BLOCK, (off_t)(2 * BLOCK * i)), BLOCK);
    close(fd);
}

static unsigned count_runs(BlkNode *node)
{
    g_autofree char *text = status_text(node);
    unsigned n = 1;

    for (const char *at = text; (at = strchr(at, ',')); at++)
        n += at[1] == ' '; /* not the comma of "hole,zero" */
    return n;
}

START_TEST(a_second_walk_asks_nothing)
{
    BlkNode *node;

    open_graph(roomy_place());
    make_fragments("a", 100000);
    node = add_file("a", ",'discard':'unmap'");
    ck_assert_uint_eq(count_runs(node), 200000);
    ck_assert_int_le(fake.lseeks, 300000);
    fake.lseeks = 0;
    for (int i = 0; i < 2; i++)
        ck_assert_uint_eq(count_runs(node), 200000);
    ck_assert_int_eq(fake.lseeks, 0);
    /* overwriting data costs nothing either */
    write_pattern(node, 200 * BLOCK, BLOCK, 1);
    write_pattern(node, 202 * BLOCK + 7, 100, 1);
    ck_assert_uint_eq(count_runs(node), 200000);
    ck_assert_int_le(fake.lseeks, 600);
    /* filling a hole drops its window, not the file */
    fake.lseeks = 0;
    write_pattern(node, 201 * BLOCK, BLOCK, 1);
    ck_assert_uint_eq(count_runs(node), 199998);
    ck_assert_int_gt(fake.lseeks, 0);
    ck_assert_int_le(fake.lseeks, 600);
    close_graph();
}
END_TEST

/* Overwriting what is known to be data doesn't drop even the window. */
START_TEST(overwriting_data_keeps_what_is_cached)
{
    BlkNode *node;

    open_on_disk();
    make_file("a", 64 * MIB);
    node = add_file("a", "");
    write_pattern(node, 0, 48 * MIB, 1);
    assert_status(node, "data 50331648, hole,zero 16777216");
    fake.lseeks = 0;
    write_pattern(node, 0, 4096, 2);
    write_pattern(node, 20 * MIB + 5, 3 * MIB, 3);
    write_pattern(node, 48 * MIB - 1, 1, 4);
    assert_status(node, "data 50331648, hole,zero 16777216");
    ck_assert_int_eq(fake.lseeks, 0);
    close_graph();
}
END_TEST

START_TEST(a_single_extent_takes_one_question)
{
    BlkNode *node;

    open_graph("/dev/shm");
    make_file("a", 1024 * GIB);
    node = add_file("a", "");
    assert_status(node, "hole,zero 1099511627776");
    ck_assert_int_le(fake.lseeks, 2);
    fake.lseeks = 0;
    write_pattern(node, 600 * GIB, BLOCK, 1);
    assert_status(node, "hole,zero 644245094400, data 4096, hole,zero 455266529280");
    ck_assert_int_le(fake.lseeks, 8);
    close_graph();
}
END_TEST

START_TEST(extents_are_exact_after_every_change)
{
    static const char *const parents[] = { "/dev/shm", "/var/tmp" };
    BlkNode *node;

    open_graph(parents[_i]);
    make_file("a", 8 * MIB);
    node = add_file("a", ",'discard':'unmap'");
    assert_status(node, "hole,zero 8388608");
    write_pattern(node, MIB, 2 * MIB, 1);
    assert_status(node, "hole,zero 1048576, data 2097152, hole,zero 5242880");
    ck_assert_int_eq(blk_node_discard(node, 3 * MIB / 2, MIB, 0), 0);
    assert_status(node, "hole,zero 1048576, data 524288, hole,zero 1048576, data 524288, "
                        "hole,zero 5242880");
    ck_assert_int_eq(blk_node_write_zeroes(node, MIB, 2 * MIB, TIDEMARK_MAY_UNMAP), 0);
    assert_status(node, "hole,zero 8388608");
    write_pattern(node, 8 * MIB - 1, 1, 1);
    assert_status(node, "hole,zero 8384512, data 4096");
    close_graph();
}
END_TEST

/* Reserved but never written space is a hole that reads as zeroes, as in QEMU. */
START_TEST(preallocated_space_is_a_hole_that_reads_as_zeroes)
{
    BlkNode *node;
    int fd;

    open_on_disk();
    make_file("a", MIB);
    g_autofree char *a = path_of("a");
    fd = open(a, O_RDWR);
    ck_assert_int_eq(fallocate(fd, 0, 0, MIB), 0);
    close(fd);
    node = add_file("a", "");
    assert_status(node, "hole,zero 1048576");
    write_pattern(node, 64 * KIB, 64 * KIB, 1);
    assert_status(node, "hole,zero 65536, data 65536, hole,zero 917504");
    close_graph();
}
END_TEST

/* ---- the cache itself, on a file system that is all fragments */

static TmSys sys;

static off_t striped_lseek(int fd, off_t offset, int whence)
{
    bool data = offset / (off_t)BLOCK % 2 == 0;
    off_t next = (offset / (off_t)BLOCK + 1) * (off_t)BLOCK;

    return data == (whence == SEEK_DATA) ? offset : next;
}

START_TEST(memory_for_extents_is_bounded)
{
    uint64_t size = ROUNDS(8) * GIB, offset = 0; /* 2 million runs */
    FileExtents x;

    sys = tm_sys_kernel;
    sys.lseek = striped_lseek;
    blk_file_extents_init(&x, &sys, -1, size);
    while (offset < size) {
        uint64_t run;
        bool data;

        ck_assert_int_eq(blk_file_extents_lookup(&x, offset, size - offset, &data, &run), 0);
        ck_assert_uint_eq(run, BLOCK);
        ck_assert_int_eq(data, offset / BLOCK % 2 == 0);
        ck_assert_uint_le(x.runs, FILE_EXTENTS_MAX);
        offset += run;
    }
    ck_assert_uint_gt(x.runs, FILE_EXTENTS_MAX / 4); /* it did remember */
    blk_file_extents_free(&x);
}
END_TEST

static off_t no_lseek(int fd, off_t offset, int whence)
{
    errno = EINVAL;
    return -1;
}

START_TEST(a_file_system_without_seek_hole_has_only_data)
{
    FileExtents x;
    uint64_t run;
    bool data;

    sys = tm_sys_kernel;
    sys.lseek = no_lseek;
    blk_file_extents_init(&x, &sys, -1, MIB);
    ck_assert_int_eq(blk_file_extents_lookup(&x, 100, 5000, &data, &run), 0);
    ck_assert(data);
    ck_assert_uint_eq(run, 5000);
    blk_file_extents_free(&x);
}
END_TEST

/* ---- races */

static FileExtents raced;
static int raced_fd;
static uint64_t raced_offset;
static bool raced_write; /* or a discard */

/* Changes the file as the driver does. */
static void change_file(int fd, FileExtents *x, uint64_t offset, bool write_it)
{
    static const char block[4096] = { 1 };

    if (write_it) {
        blk_file_extents_wrote(x, offset, BLOCK);
        ck_assert_int_eq(pwrite(fd, block, BLOCK, (off_t)offset), BLOCK);
        blk_file_extents_wrote(x, offset, BLOCK);
    } else {
        blk_file_extents_invalidate(x, offset, BLOCK);
        ck_assert_int_eq(
            fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)offset, BLOCK), 0);
        blk_file_extents_invalidate(x, offset, BLOCK);
    }
}

static off_t racing_lseek(int fd, off_t offset, int whence)
{
    off_t answer = lseek(fd, offset, whence);

    change_file(raced_fd, &raced, raced_offset, raced_write);
    return answer;
}

/* The file changes after the kernel has answered and before the answer is remembered. */
static void stale_answer(uint64_t at, bool write_it)
{
    uint64_t size = 16 * MIB, run;
    bool data;

    open_graph("/dev/shm");
    make_file("a", size);
    g_autofree char *a = path_of("a");
    raced_fd = open(a, O_RDWR);
    raced_offset = at;
    raced_write = write_it;
    if (!write_it)
        ck_assert_int_eq(fallocate(raced_fd, 0, 0, (off_t)size), 0);
    for (uint64_t i = 0; !write_it && i < size; i += BLOCK)
        ck_assert_int_eq(pwrite(raced_fd, "x", 1, (off_t)i), 1);
    sys = tm_sys_kernel;
    sys.lseek = racing_lseek;
    blk_file_extents_init(&raced, &sys, raced_fd, size);
    ck_assert_int_eq(blk_file_extents_lookup(&raced, 0, size, &data, &run), 0);
    sys.lseek = lseek;
    ck_assert_int_eq(blk_file_extents_lookup(&raced, at, size - at, &data, &run), 0);
    ck_assert_int_eq(data, write_it);
    ck_assert_uint_eq(run, BLOCK);
    /* what that look-up said of other windows was kept: a hole goes on after the change, data
     * before */
    uint64_t elsewhere = write_it ? 12 * MIB : at / 2;

    fake.lseeks = 0;
    sys.lseek = fake_lseek;
    ck_assert_int_eq(blk_file_extents_lookup(&raced, elsewhere, BLOCK, &data, &run), 0);
    ck_assert_int_eq(data, elsewhere != at && !write_it);
    ck_assert_int_eq(fake.lseeks, 0);
    blk_file_extents_free(&raced);
    close(raced_fd);
    close_graph();
}

START_TEST(a_write_during_a_lookup_is_not_missed)
{
    stale_answer(0, true);
}
END_TEST

START_TEST(a_write_elsewhere_during_a_lookup_is_not_missed)
{
    stale_answer(5 * MIB + 3 * BLOCK, true);
}
END_TEST

START_TEST(a_discard_during_a_lookup_is_not_missed)
{
    stale_answer(0, false);
}
END_TEST

START_TEST(a_discard_elsewhere_during_a_lookup_is_not_missed)
{
    stale_answer(5 * MIB + 3 * BLOCK, false);
}
END_TEST

/* Threads change blocks of their own while others walk; when all is quiet the walk agrees with the
 * kernel, and what a thread changed last is what it sees itself at once. */
#define STORM_SIZE    (8 * MIB)
#define STORM_THREADS 3

typedef struct Storm {
    int index;
    GThread *thread;
} Storm;

static bool storm_over; /* atomic */

static void *storm_changes(void *data)
{
    Storm *storm = data;
    g_autoptr(GRand) rand = g_rand_new_with_seed((guint32)storm->index + 77);

    for (int i = 0; i < ROUNDS(3000); i++) {
        uint64_t n = (uint64_t)g_rand_int_range(rand, 0, STORM_SIZE / BLOCK / STORM_THREADS);
        uint64_t offset = (n * STORM_THREADS + (uint64_t)storm->index) * BLOCK, run;
        bool write_it = g_rand_boolean(rand), is_data;

        change_file(raced_fd, &raced, offset, write_it);
        ck_assert_int_eq(blk_file_extents_lookup(&raced, offset, BLOCK, &is_data, &run), 0);
        if (is_data != write_it || run != BLOCK)
            return (void *)"a change was not seen by who made it";
    }
    return NULL;
}

static void *storm_walks(void *data)
{
    while (!__atomic_load_n(&storm_over, __ATOMIC_RELAXED)) {
        for (uint64_t offset = 0, run; offset < STORM_SIZE; offset += run) {
            bool is_data;

            if (blk_file_extents_lookup(&raced, offset, STORM_SIZE - offset, &is_data, &run) < 0)
                return (void *)"a look-up failed";
        }
        g_usleep(100); /* others get the lock, also where threads outnumber processors */
    }
    return NULL;
}

START_TEST(concurrent_changes_leave_extents_exact)
{
    Storm storms[STORM_THREADS];
    GThread *walkers[2];

    open_graph("/dev/shm");
    make_file("a", STORM_SIZE);
    g_autofree char *a = path_of("a");
    raced_fd = open(a, O_RDWR);
    storm_over = false;
    blk_file_extents_init(&raced, &tm_sys_kernel, raced_fd, STORM_SIZE);
    for (int i = 0; i < STORM_THREADS; i++) {
        storms[i].index = i;
        storms[i].thread = g_thread_new("changes", storm_changes, &storms[i]);
    }
    for (int i = 0; i < 2; i++)
        walkers[i] = g_thread_new("walks", storm_walks, NULL);
    for (int i = 0; i < STORM_THREADS; i++)
        ck_assert_pstr_eq(g_thread_join(storms[i].thread), NULL);
    __atomic_store_n(&storm_over, true, __ATOMIC_RELAXED);
    for (int i = 0; i < 2; i++)
        ck_assert_pstr_eq(g_thread_join(walkers[i]), NULL);
    for (uint64_t offset = 0, run; offset < STORM_SIZE; offset += BLOCK) {
        bool is_data;

        ck_assert_int_eq(blk_file_extents_lookup(&raced, offset, BLOCK, &is_data, &run), 0);
        ck_assert_int_eq(is_data, lseek(raced_fd, (off_t)offset, SEEK_DATA) == (off_t)offset);
    }
    blk_file_extents_free(&raced);
    close(raced_fd);
    close_graph();
}
END_TEST

/* A format makes its file longer while others ask about it. On a busy machine these keep the lock
 * from it for long: fewer rounds then. */
START_TEST(extents_follow_concurrent_resizes)
{
    static const uint64_t sizes[] = { MIB, 3 * MIB, STORM_SIZE, 512 * MIB, 7 * BLOCK };
    gint64 until = g_get_monotonic_time() + 15 * G_USEC_PER_SEC;
    GThread *walkers[2];

    open_graph("/dev/shm");
    make_file("a", STORM_SIZE);
    g_autofree char *a = path_of("a");
    raced_fd = open(a, O_RDWR);
    storm_over = false;
    blk_file_extents_init(&raced, &tm_sys_kernel, raced_fd, STORM_SIZE);
    for (int i = 0; i < 2; i++)
        walkers[i] = g_thread_new("walks", storm_walks, NULL);
    for (unsigned i = 0; i < ROUNDS(500) && g_get_monotonic_time() < until; i++) {
        uint64_t size = sizes[i % G_N_ELEMENTS(sizes)];

        ck_assert_int_eq(ftruncate(raced_fd, (off_t)size), 0);
        blk_file_extents_resize(&raced, size);
        if (i % 3 == 0)
            change_file(raced_fd, &raced, BLOCK * (i % 7), i % 2);
    }
    __atomic_store_n(&storm_over, true, __ATOMIC_RELAXED);
    for (int i = 0; i < 2; i++)
        ck_assert_pstr_eq(g_thread_join(walkers[i]), NULL);
    for (uint64_t offset = 0, run; offset < raced.size; offset += BLOCK) {
        bool is_data;

        ck_assert_int_eq(blk_file_extents_lookup(&raced, offset, BLOCK, &is_data, &run), 0);
        ck_assert_int_eq(is_data, lseek(raced_fd, (off_t)offset, SEEK_DATA) == (off_t)offset);
    }
    blk_file_extents_free(&raced);
    close(raced_fd);
    close_graph();
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("extents");
    TCase *walks = tcase_create("walks");
    TCase *races = tcase_create("races");
    SRunner *runner = srunner_create(suite);
    int failed;

    tcase_set_timeout(walks, 60);
    tcase_add_test(walks, a_second_walk_asks_nothing);
    tcase_add_test(walks, overwriting_data_keeps_what_is_cached);
    tcase_add_test(walks, a_single_extent_takes_one_question);
    tcase_add_loop_test(walks, extents_are_exact_after_every_change, 0, 2);
    tcase_add_test(walks, preallocated_space_is_a_hole_that_reads_as_zeroes);
    tcase_add_test(walks, memory_for_extents_is_bounded);
    tcase_add_test(walks, a_file_system_without_seek_hole_has_only_data);
    suite_add_tcase(suite, walks);
    tcase_set_timeout(races, 60);
    tcase_add_test(races, a_write_during_a_lookup_is_not_missed);
    tcase_add_test(races, a_write_elsewhere_during_a_lookup_is_not_missed);
    tcase_add_test(races, a_discard_during_a_lookup_is_not_missed);
    tcase_add_test(races, a_discard_elsewhere_during_a_lookup_is_not_missed);
    tcase_add_test(races, concurrent_changes_leave_extents_exact);
    tcase_add_test(races, extents_follow_concurrent_resizes);
    suite_add_tcase(suite, races);
    srunner_run_all(runner, CK_ENV);
    failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
