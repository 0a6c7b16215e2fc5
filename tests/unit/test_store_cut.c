/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* tests/unit/test_store_cut.c: changes of persistent bitmaps in which each call fails in its turn,
 * and which are cut before each call: all or nothing, nothing lost, and well again when there is
 * room. F9 is the commit over several stores.
 *
 * The files are real; the cuts are the files as they were before each call that changes one. */
#include "store_util.h"

static const uint64_t size = 64 * MIB;

/* ---- calls that fail */

static unsigned calls_of_add(void)
{
    unsigned n;
    Disk d;

    disk_begin(&d, size);
    disk_mark(&d, 0, 1);
    io_fail(0, 0, 0);
    disk_must_add(&d, "b", 4096, false);
    n = io.calls;
    disk_fini(&d);
    return n;
}

/* The @k-th call of a change fails, alone or with all that follow. The command fails, or it holds;
 * what is marked later is found after a kill, and it heals. */
static void fail_in_add(unsigned k, unsigned n, int err)
{
    bool added, lost;
    Disk d;

    disk_begin(&d, size);
    disk_mark(&d, 0, 1);
    io_fail(k, n, err);
    added = disk_add(&d, "b", 4096, false, NULL);
    ck_assert_int_eq(has(&d, "b"), added);
    assert_dirty(&d, "a", "0-64");
    disk_mark(&d, 9 * MIB, 1);
    io_fail(0, 0, 0);
    lost = k % 2 == 0 && strstr(d.reasons->str, "can't be marked as out of date");
    if (k % 2) {
        disk_heal(&d);
        ck_assert_msg(!bmp_set_wants_commit(d.set), "call %u: not healed", k);
    }
    disk_mark(&d, 17 * MIB, 1);
    disk_kill(&d);
    disk_open(&d);
    if (lost) { /* nothing could be said to the medium; it was reported */
        ck_assert(k % 2 == 0);
    } else if (has(&d, "a") && !inconsistent(&d, "a")) {
        ck_assert_msg(disk_is_dirty(&d, "a", 0), "call %u", k);
        ck_assert_msg(disk_is_dirty(&d, "a", 9 * MIB), "call %u", k);
        ck_assert_msg(disk_is_dirty(&d, "a", 17 * MIB), "call %u", k);
    } else {
        ck_assert_msg(has(&d, "a") || access(d.store, F_OK) < 0, "call %u", k);
    }
    if (k % 2) {
        assert_dirty(&d, "a", "0-64 9216-9280 17408-17472");
        ck_assert_int_eq(has(&d, "b"), added);
    }
    disk_fini(&d);
}

START_TEST(a_change_with_a_failing_call_is_made_or_taken_back)
{
    static const int errors[] = { ENOSPC, EIO };
    unsigned n = calls_of_add();

    ck_assert_uint_gt(n, 5);
    for (unsigned k = 1; k <= n; k++) {
        fail_in_add(k, 1, errors[_i]);
        fail_in_add(k, 2, errors[_i]);
        fail_in_add(k, 1000, errors[_i]);
    }
}
END_TEST

START_TEST(a_failing_call_at_creation_leaves_no_half_store)
{
    for (unsigned k = 1; k < 30; k++) {
        bool added;
        Disk d;

        disk_init(&d, size);
        disk_open(&d);
        io_fail(k, 1000, ENOSPC);
        added = disk_add(&d, "a", 65536, false, NULL);
        ck_assert_int_eq(has(&d, "a"), added);
        io_fail(0, 0, 0);
        if (!added)
            disk_must_add(&d, "a", 65536, false);
        disk_mark(&d, 0, 1);
        disk_kill(&d);
        disk_open(&d);
        assert_dirty(&d, "a", "0-64");
        disk_fini(&d);
    }
}
END_TEST

START_TEST(r7_a_failed_sync_degrades_once)
{
    Disk d;

    disk_begin(&d, size);
    io_fail(1, 1, EIO);
    io.syncs_only = true;
    disk_mark(&d, 0, 1);
    ck_assert(bmp_set_wants_commit(d.set));
    disk_mark(&d, 30 * MIB, 1);
    ck_assert_uint_eq(d.degraded, 1);
    g_autofree char *reason = reason_of(&d, "a");

    ck_assert_ptr_nonnull(reason);
    disk_kill(&d);
    disk_open(&d);
    assert_dirty(&d, "a", "0-65536");
    disk_mark(&d, 0, 1);
    ck_assert(!bmp_set_wants_commit(d.set));
    disk_fini(&d);
}
END_TEST

START_TEST(a_store_heals_when_calls_work_again)
{
    Disk d;

    disk_begin(&d, size);
    io_fail(1, 1, EIO);
    io.syncs_only = !_i; /* or the region becomes full */
    disk_mark(&d, 0, 1);
    ck_assert(bmp_set_wants_commit(d.set));
    bmp_set_tick(d.set);
    bmp_set_tick(d.set);
    ck_assert_uint_eq(d.degraded, 1);
    ck_assert(disk_heal(&d));
    ck_assert(!bmp_set_wants_commit(d.set));
    ck_assert_uint_eq(d.healed, 1);
    disk_mark(&d, 30 * MIB, 1);
    disk_kill(&d);
    disk_open(&d);
    ck_assert_uint_eq(d.degraded, 0);
    assert_dirty(&d, "a", "0-64 30720-30784");
    disk_fini(&d);
}
END_TEST

/* A full store is no reason to refuse what isn't kept there. */
START_TEST(a_transient_bitmap_needs_no_store)
{
    BmpAddOptions options = { .granularity = 65536 };
    g_autoptr(GError) error = NULL;
    bool failed = _i;
    Disk d;

    disk_begin(&d, size);
    io_fail(1, 1000000, failed ? EIO : ENOSPC);
    if (failed)
        disk_mark(&d, 0, 1);
    else
        ck_assert(!disk_add(&d, "b", 4096, false, NULL));
    bmp_set_change_begin(&d.set, 1);
    bmp_bitmap_unref(bmp_set_add(d.set, "t", &options, NULL));
    ck_assert_msg(bmp_set_commit(&d.set, 1, &error), "%s", error ? error->message : "");
    bmp_set_change_end(&d.set, 1);
    disk_fini(&d);
}
END_TEST

/* ---- cut at every call */

typedef struct Snapshot {
    char *bytes[4]; /* of each path; NULL: no such file */
    gsize length[4];
    char marks[4][64]; /* of the disk beside a store */
} Snapshot;

static struct {
    char *paths[4]; /* the store and its .tmp, of one disk or two */
    unsigned n;
    GArray *taken;
} film;

/* The disk of the store at @path. */
static int film_disk(const char *path)
{
    g_autofree char *image = g_strndup(path, strlen(path) - strlen(BMP_STORE_SUFFIX));

    return g_str_has_suffix(path, BMP_STORE_SUFFIX) ? open(image, O_RDONLY | O_CLOEXEC) : -1;
}

static void film_take(void)
{
    Snapshot s = { .length = { 0 } };

    for (unsigned i = 0; i < film.n; i++) {
        if (!g_file_get_contents(film.paths[i], &s.bytes[i], &s.length[i], NULL))
            s.bytes[i] = NULL;
        int disk = film_disk(film.paths[i]);

        if (disk >= 0) {
            ssize_t n = fgetxattr(disk, BMP_STORE_XATTR, s.marks[i], sizeof(s.marks[i]) - 1);

            s.marks[i][MAX(n, 0)] = '\0';
            close(disk);
        }
    }
    g_array_append_val(film.taken, s);
}

static void film_begin(Disk *disks, unsigned n)
{
    film.n = 0;
    film.taken = g_array_new(FALSE, FALSE, sizeof(Snapshot));
    for (unsigned i = 0; i < n; i++) {
        film.paths[film.n++] = g_strdup(disks[i].store);
        film.paths[film.n++] = g_strconcat(disks[i].store, ".tmp", NULL);
    }
    io.before = film_take;
}

/* The files as they were then. */
static void film_show(unsigned shot)
{
    const Snapshot *s = &g_array_index(film.taken, Snapshot, shot);

    for (unsigned i = 0; i < film.n; i++) {
        int fd = film_disk(film.paths[i]);

        if (fd >= 0) {
            if (!*s->marks[i] ||
                fsetxattr(fd, BMP_STORE_XATTR, s->marks[i], strlen(s->marks[i]), 0) < 0)
                fremovexattr(fd, BMP_STORE_XATTR);
            close(fd);
        }
        if (!s->bytes[i]) {
            unlink(film.paths[i]);
            continue;
        }
        fd = open(film.paths[i], O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
        ck_assert_int_ge(fd, 0);
        ck_assert_int_eq(write(fd, s->bytes[i], s->length[i]), (ssize_t)s->length[i]);
        close(fd);
    }
}

static void film_end(void)
{
    for (unsigned i = 0; i < film.taken->len; i++) {
        for (unsigned j = 0; j < film.n; j++)
            g_free(g_array_index(film.taken, Snapshot, i).bytes[j]);
    }
    for (unsigned i = 0; i < film.n; i++)
        g_free(film.paths[i]);
    g_array_unref(film.taken);
}

START_TEST(r7_a_cut_while_healing_loses_nothing)
{
    Disk d;

    disk_begin(&d, 8 * MIB);
    disk_mark(&d, 0, 1);
    io_fail(1, 1, EIO);
    io.syncs_only = true;
    disk_mark(&d, 5 * MIB, 1);
    ck_assert(bmp_set_wants_commit(d.set));
    film_begin(&d, 1);
    ck_assert(disk_heal(&d));
    film_take();
    io.before = NULL;
    disk_kill(&d);
    for (unsigned i = 0; i < film.taken->len; i++) {
        film_show(i);
        disk_open(&d);
        ck_assert_msg(has(&d, "a") && !inconsistent(&d, "a"), "shot %u: %s", i, d.reasons->str);
        ck_assert_msg(disk_is_dirty(&d, "a", 0) && disk_is_dirty(&d, "a", 5 * MIB), "shot %u", i);
        disk_kill(&d);
    }
    film_end();
    disk_fini(&d);
}
END_TEST

START_TEST(f3_a_cut_in_a_change_leaves_the_old_or_the_new)
{
    Disk d;

    disk_begin(&d, 8 * MIB);
    disk_mark(&d, 0, 1);
    film_begin(&d, 1);
    disk_must_add(&d, "b", 4096, false);
    disk_must(&d, "a", bmp_bitmap_clear);
    disk_must(&d, "b", bmp_bitmap_disable);
    io.before = NULL;
    disk_kill(&d);
    ck_assert_uint_gt(film.taken->len, 8);
    for (unsigned i = 0; i < film.taken->len; i++) {
        film_show(i);
        disk_open(&d);
        ck_assert_msg(has(&d, "a"), "shot %u: %s", i, d.reasons->str);
        ck_assert_msg(!inconsistent(&d, "a"), "shot %u: %s", i, d.reasons->str);
        /* Cleared only after b was added. */
        ck_assert_msg(disk_is_dirty(&d, "a", 0) || has(&d, "b"), "shot %u", i);
        ck_assert_msg(!disk_is_dirty(&d, "a", 6 * MIB), "shot %u: %s", i, d.reasons->str);
        disk_kill(&d);
    }
    film_end();
    disk_fini(&d);
}
END_TEST

static bool group_add(Disk *d, const char *name, GError **error)
{
    BmpAddOptions options = { .granularity = 65536, .persistent = true };
    BmpSet *sets[2] = { d[0].set, d[1].set };
    BmpBitmap *bitmaps[2];
    bool ok;

    bmp_set_change_begin(sets, 2);
    for (int i = 0; i < 2; i++) {
        bitmaps[i] = bmp_set_add(sets[i], name, &options, NULL);
        ck_assert_ptr_nonnull(bitmaps[i]);
    }
    ok = bmp_set_commit(sets, 2, error);
    for (int i = 0; i < 2; i++) {
        if (!ok)
            ck_assert(bmp_bitmap_remove(bitmaps[i], NULL));
        bmp_bitmap_unref(bitmaps[i]);
    }
    bmp_set_change_end(sets, 2);
    return ok;
}

static void group_init(Disk d[2], bool first, bool second)
{
    disk_init(&d[0], 8 * MIB);
    disk_init(&d[1], 8 * MIB);
    disk_open(&d[0]);
    disk_open(&d[1]);
    if (first)
        disk_must_add(&d[0], "a", 65536, false);
    if (second)
        disk_must_add(&d[1], "a", 65536, false);
}

START_TEST(f9_a_cut_in_a_group_leaves_all_old_or_all_new)
{
    enum { LEADER_FIRST, FOLLOWER_FIRST, LEADER_TWICE } order = _i / 4;
    bool first = _i & 1, second = _i & 2, follower_first = order == FOLLOWER_FIRST;
    Disk d[2];

    group_init(d, first, second);
    if (first)
        disk_mark(&d[0], 0, 1);
    film_begin(d, 2);
    ck_assert(group_add(d, "new", NULL));
    film_take(); /* and the end */
    io.before = NULL;
    disk_kill(&d[0]);
    disk_kill(&d[1]);
    for (unsigned i = 0; i < film.taken->len; i++) {
        bool end = i + 1 == film.taken->len;

        film_show(i);
        if (order == LEADER_TWICE) {
            disk_open(&d[0]);
            disk_kill(&d[0]);
        }
        disk_open(&d[follower_first]);
        disk_open(&d[!follower_first]);
        ck_assert_msg(has(&d[0], "new") == has(&d[1], "new"), "shot %u: %d and %d\n%s%s", i,
                      has(&d[0], "new"), has(&d[1], "new"), d[0].reasons->str, d[1].reasons->str);
        ck_assert_msg(!end || has(&d[0], "new"), "the group is lost");
        ck_assert(has(&d[0], "a") == first && has(&d[1], "a") == second);
        ck_assert(!first || disk_is_dirty(&d[0], "a", 0));
        /* What was found is settled: it stays, and records. */
        bool found = has(&d[1], "new");

        if (found)
            disk_mark(&d[1], 5 * MIB, 1);
        disk_kill(&d[0]);
        disk_kill(&d[1]);
        disk_open(&d[1]);
        disk_open(&d[0]);
        ck_assert_msg(has(&d[1], "new") == found && has(&d[0], "new") == found, "shot %u", i);
        if (found)
            ck_assert_msg(disk_is_dirty(&d[1], "new", 5 * MIB), "shot %u", i);
        disk_kill(&d[0]);
        disk_kill(&d[1]);
    }
    film_end();
    disk_fini(&d[0]);
    disk_fini(&d[1]);
}
END_TEST

/* The last bitmap of each goes, and its store with it. */
START_TEST(f9_a_group_that_removes_the_last_bitmaps_is_whole)
{
    bool follower_first = _i;
    BmpSet *sets[2];
    Disk d[2];

    group_init(d, true, true);
    film_begin(d, 2);
    for (int i = 0; i < 2; i++)
        sets[i] = d[i].set;
    bmp_set_change_begin(sets, 2);
    for (int i = 0; i < 2; i++) {
        g_autoptr(BmpBitmap) bitmap = bmp_set_find(sets[i], "a", NULL);

        ck_assert(bmp_bitmap_remove(bitmap, NULL));
    }
    ck_assert(bmp_set_commit(sets, 2, NULL));
    bmp_set_change_end(sets, 2);
    film_take();
    io.before = NULL;
    disk_kill(&d[0]);
    disk_kill(&d[1]);
    for (unsigned i = 0; i < film.taken->len; i++) {
        film_show(i);
        disk_open(&d[follower_first]);
        disk_open(&d[!follower_first]);
        ck_assert_msg(has(&d[0], "a") == has(&d[1], "a"), "shot %u of %u: %d and %d", i,
                      film.taken->len, has(&d[0], "a"), has(&d[1], "a"));
        disk_kill(&d[0]);
        disk_kill(&d[1]);
    }
    film_end();
    disk_fini(&d[0]);
    disk_fini(&d[1]);
}
END_TEST

/* The k-th call fails: all or none here, and after every cut of what follows. Either store may be
 * made by the group. */
START_TEST(f9_a_group_with_a_failing_call_is_all_or_none)
{
    bool first = _i & 1, second = _i & 2;

    for (unsigned k = 1; k < 40; k++) {
        Disk d[2];
        bool ok;

        group_init(d, first, second);
        io_fail(k, 1, EIO);
        film_begin(d, 2);
        ok = group_add(d, "new", NULL);
        film_take();
        io.before = NULL;
        io_fail(0, 0, 0);
        ck_assert(has(&d[0], "new") == ok && has(&d[1], "new") == ok);
        disk_kill(&d[0]);
        disk_kill(&d[1]);
        for (unsigned i = 0; i < film.taken->len; i++) {
            bool follower_first = (k + i) % 2;

            film_show(i);
            disk_open(&d[follower_first]);
            disk_open(&d[!follower_first]);
            ck_assert_msg(has(&d[0], "new") == has(&d[1], "new"), "call %u, shot %u: %d and %d", k,
                          i, has(&d[0], "new"), has(&d[1], "new"));
            ck_assert(has(&d[0], "a") == first && has(&d[1], "a") == second);
            disk_kill(&d[0]);
            disk_kill(&d[1]);
        }
        film_end();
        disk_fini(&d[0]);
        disk_fini(&d[1]);
    }
}
END_TEST

/* ---- the word that a failed store leaves */

static unsigned supers[2]; /* writes of each copy */

/* The second can't be written when it is to have the new state, the first ever since it has it. */
static ssize_t copies_fail_in_turn(int fd, const struct iovec *iov, int n, off_t offset, int flags)
{
    unsigned copy = offset != 0;

    if (iov->iov_len == BMP_SUPER_SIZE && offset <= (off_t)BMP_STORE_ALIGN &&
        (++supers[copy] == 1) == copy) {
        errno = EIO;
        return -1;
    }
    return pwritev2(fd, iov, n, offset, flags);
}

static int never_unlink(const char *path)
{
    (void)path;
    errno = EROFS;
    return -1;
}

/* A commit fails, and so does taking it back, so that its superblock stays on the medium beside the
 * word: the word is newer. */
START_TEST(a_note_of_distrust_outlives_a_failed_commit)
{
    Disk d;

    disk_begin(&d, 64 * MIB);
    d.sys.pwritev2 = copies_fail_in_turn;
    d.sys.unlink = never_unlink;
    ck_assert(!disk_change(&d, "a", bmp_bitmap_clear, NULL));
    ck_assert_uint_ge(supers[1], 3);
    disk_mark(&d, 3 * MIB, 1); /* recorded in memory only */
    disk_kill(&d);
    d.sys.pwritev2 = io_pwritev2;
    d.sys.unlink = io_unlink;
    disk_open(&d);
    ck_assert(disk_is_dirty(&d, "a", 3 * MIB));
    disk_fini(&d);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("store_cut");
    TCase *tc = tcase_create("store_cut");
    SRunner *runner = srunner_create(suite);
    int failed;

    tcase_set_timeout(tc, 100);
    tcase_add_loop_test(tc, a_change_with_a_failing_call_is_made_or_taken_back, 0, 2);
    tcase_add_test(tc, a_failing_call_at_creation_leaves_no_half_store);
    tcase_add_test(tc, r7_a_failed_sync_degrades_once);
    tcase_add_loop_test(tc, a_store_heals_when_calls_work_again, 0, 2);
    tcase_add_loop_test(tc, a_transient_bitmap_needs_no_store, 0, 2);
    tcase_add_test(tc, r7_a_cut_while_healing_loses_nothing);
    tcase_add_test(tc, f3_a_cut_in_a_change_leaves_the_old_or_the_new);
    tcase_add_loop_test(tc, f9_a_cut_in_a_group_leaves_all_old_or_all_new, 0, 12);
    tcase_add_loop_test(tc, f9_a_group_that_removes_the_last_bitmaps_is_whole, 0, 2);
    tcase_add_loop_test(tc, f9_a_group_with_a_failing_call_is_all_or_none, 0, 4);
    tcase_add_test(tc, a_note_of_distrust_outlives_a_failed_commit);
    suite_add_tcase(suite, tc);
    srunner_run_all(runner, CK_ENV);
    failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
