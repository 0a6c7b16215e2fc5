/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* tests/unit/test_store_order.c: what has to be durable before what: the disk before a record that
 * calls it clean, a store before it is believed, and a change of several disks in all of them,
 * wherever their stores are by then. */
#include "tests/unit/store_util.h"

static ino_t inode_of(const char *path)
{
    struct stat st;

    return stat(path, &st) < 0 ? 0 : st.st_ino;
}

/* ---- the disk first */

static struct {
    unsigned flushes, calls_then;
    bool fails;
} flushed;

static bool on_flush(void *opaque, GError **error)
{
    flushed.flushes++;
    flushed.calls_then = io.calls;
    if (flushed.fails)
        g_set_error(error, 1, 1, "the disk can't be flushed");
    return !flushed.fails;
}

static void flush_init(Disk *d)
{
    memset(&flushed, 0, sizeof(flushed));
    disk_init(d, 64 * MIB);
    d->o.flush = on_flush;
    disk_open(d);
}

static void expect_flushed_first(void)
{
    ck_assert_uint_eq(flushed.flushes, 1);
    ck_assert_uint_eq(flushed.calls_then, 0); /* nothing was written before */
    ck_assert_uint_gt(io.calls, 0);
    flushed.flushes = 0;
    io_fail(0, 0, 0);
}

START_TEST(a_record_begins_after_its_data)
{
    Disk d;

    flush_init(&d);
    ck_assert_uint_eq(flushed.flushes, 0);
    disk_must_add(&d, "a", 65536, false);
    expect_flushed_first();
    disk_mark(&d, 0, 1);
    io_fail(0, 0, 0);
    disk_must(&d, "a", bmp_bitmap_clear);
    expect_flushed_first();
    disk_must(&d, "a", bmp_bitmap_disable);
    expect_flushed_first();
    disk_must(&d, "a", bmp_bitmap_enable);
    expect_flushed_first();
    bmp_set_change_begin(&d.set, 1);
    bmp_set_resize(d.set, 32 * MIB);
    ck_assert(bmp_set_commit(&d.set, 1, NULL));
    bmp_set_change_end(&d.set, 1);
    expect_flushed_first();
    d.size = 32 * MIB;
    ck_assert(bmp_set_close_store(d.set));
    ck_assert_uint_eq(flushed.flushes, 1);
    disk_kill(&d);
    disk_fini(&d);
}
END_TEST

START_TEST(no_record_begins_if_the_flush_fails)
{
    g_autoptr(GError) error = NULL, again = NULL;
    Disk d;

    flush_init(&d);
    disk_must_add(&d, "a", 65536, false);
    disk_mark(&d, 0, 1);
    flushed.fails = true;
    io_fail(0, 0, 0);
    ck_assert(!disk_change(&d, "a", bmp_bitmap_clear, &error));
    ck_assert_str_eq(error->message, "the disk can't be flushed");
    ck_assert(!disk_add(&d, "b", 65536, false, &again));
    ck_assert_uint_eq(io.calls, 0);
    ck_assert(disk_is_dirty(&d, "a", 0));
    /* What ends like that has not ended well. */
    ck_assert(!bmp_set_close_store(d.set));
    disk_kill(&d);
    flushed.fails = false;
    disk_open(&d);
    ck_assert(disk_is_dirty(&d, "a", 0) && disk_is_dirty(&d, "a", 40 * MIB) && !has(&d, "b"));
    disk_fini(&d);
}
END_TEST

/* ---- a sync that fails */

START_TEST(a_failed_sync_fails_the_store)
{
    for (unsigned k = 1; k <= 3; k++) { /* contents, and the two superblocks */
        bool killed = _i;
        ino_t before;
        Disk d;

        disk_init(&d, 64 * MIB);
        disk_open(&d);
        disk_must_add(&d, "a", 65536, false);
        disk_mark(&d, 0, 1);
        before = inode_of(d.store);
        io_fail(k, 1, EIO);
        io.syncs_only = true;
        ck_assert(!disk_add(&d, "b", 65536, false, NULL));
        io_fail(0, 0, 0);
        ck_assert_msg(bmp_set_wants_commit(d.set), "sync %u is forgotten", k);
        if (!killed) {
            ck_assert(disk_heal(&d));
            ck_assert_msg(inode_of(d.store) != before, "sync %u: the old file is used", k);
            disk_mark(&d, 9 * MIB, 1);
        }
        disk_kill(&d);
        disk_open(&d);
        ck_assert(disk_is_dirty(&d, "a", 0) && !has(&d, "b"));
        ck_assert(disk_is_dirty(&d, "a", 9 * MIB));
        ck_assert(disk_is_dirty(&d, "a", 33 * MIB) == killed); /* distrusted */
        disk_fini(&d);
    }
}
END_TEST

/* Nothing can be written to the store, and its name can't be changed, but beside it. */
static ino_t stuck;

static bool is_stuck(int fd)
{
    struct stat st;

    errno = EIO;
    return fstat(fd, &st) == 0 && st.st_ino == stuck;
}

static ssize_t stuck_pwritev2(int fd, const struct iovec *iov, int n, off_t offset, int flags)
{
    return is_stuck(fd) ? -1 : pwritev2(fd, iov, n, offset, flags);
}

static int stuck_fdatasync(int fd)
{
    return is_stuck(fd) ? -1 : 0;
}

static int stuck_rename(const char *from, const char *to)
{
    (void)from;
    (void)to;
    errno = EIO;
    return -1;
}

static int stuck_unlink(const char *path)
{
    struct stat st;

    if (stat(path, &st) < 0 || st.st_ino != stuck)
        return unlink(path);
    errno = EIO;
    return -1;
}

/* The last thing that can be said of it is said by the disk, and not taken back. */
START_TEST(a_stale_store_stays_distrusted)
{
    g_autoptr(BmpBitmap) bitmap = NULL;
    Disk d;

    disk_begin(&d, 64 * MIB);
    disk_mark(&d, 0, 1);
    stuck = inode_of(d.store);
    d.sys.pwritev2 = stuck_pwritev2;
    d.sys.fdatasync = stuck_fdatasync;
    d.sys.rename = stuck_rename;
    d.sys.unlink = stuck_unlink;
    disk_mark(&d, 40 * MIB, 1);
    ck_assert(strstr(d.reasons->str, "could not be synced") != NULL);
    ck_assert(strstr(d.reasons->str, "can't be marked as out of date") == NULL);
    disk_heal(&d);
    ck_assert(bmp_set_wants_commit(d.set));
    disk_mark(&d, 50 * MIB, 1);
    disk_kill(&d);
    d.sys.pwritev2 = io_pwritev2;
    d.sys.fdatasync = io_fdatasync;
    d.sys.rename = io_rename;
    d.sys.unlink = io_unlink;
    disk_open(&d);
    bitmap = bmp_set_find(d.set, "a", NULL);
    ck_assert(bitmap && bmp_bitmap_inconsistent(bitmap));
    disk_fini(&d);
}
END_TEST

/* An error not reported to the last process is reported to the first sync of the next. */
START_TEST(a_store_that_cant_be_synced_counts_as_a_power_loss)
{
    ino_t before;
    Disk d;

    disk_init(&d, 64 * MIB);
    d.o.region_shift_min = 22;
    disk_open(&d);
    disk_must_add(&d, "a", 65536, false);
    disk_mark(&d, 0, 1);
    disk_mark(&d, 65536, 1); /* that opens what lies beside it */
    disk_kill(&d);
    before = inode_of(d.store);
    io_fail(1, 1, EIO);
    io.syncs_only = true;
    disk_open(&d);
    ck_assert_msg(strstr(d.reasons->str, "could not be synced") != NULL, "%s", d.reasons->str);
    ck_assert(disk_is_dirty(&d, "a", 0) && disk_is_dirty(&d, "a", 65536));
    ck_assert(disk_is_dirty(&d, "a", 2 * 65536));
    ck_assert(!disk_is_dirty(&d, "a", 40 * MIB));
    ck_assert(inode_of(d.store) != before);
    disk_fini(&d);
}
END_TEST

/* For the look that a repair takes at its disk first, the image is a device, whose first sync
 * fails: the kernel reports that once. */
static struct {
    ino_t ino;
    bool seen, failed;
} device;

static int device_fstat(int fd, struct stat *st)
{
    int ret = fstat(fd, st);

    if (ret == 0 && st->st_ino == device.ino && !device.seen) {
        device.seen = true;
        st->st_mode = S_IFBLK | 0600;
    }
    return ret;
}

static int device_fsync(int fd)
{
    struct stat st;

    if (fstat(fd, &st) == 0 && st.st_ino == device.ino && !device.failed) {
        device.failed = true;
        errno = EIO;
        return -1;
    }
    return io_fsync(fd);
}

enum { STORE_UNSYNCED, STUCK_AS_WELL, DEVICE_UNSYNCED, UNSYNCED };

START_TEST(a_repair_without_a_sync_counts_as_a_power_loss)
{
    g_autoptr(GError) error = NULL;
    bool fails = _i == STUCK_AS_WELL;
    Disk d;

    disk_begin(&d, 64 * MIB);
    disk_mark(&d, 0, 1);
    disk_mark(&d, 65536, 1);
    disk_kill(&d);
    if (_i == DEVICE_UNSYNCED) {
        device.ino = inode_of(d.image);
        d.sys.fstat = device_fstat;
        d.sys.fsync = device_fsync;
    } else {
        io_fail(1, 1, EIO);
        io.syncs_only = true;
    }
    d.sys.rename = fails ? stuck_rename : io_rename;
    ck_assert_msg(bmp_store_repair(&d.sys, d.store, d.image, d.o.boot_id, &error) != fails, "%s",
                  error ? error->message : "no error");
    ck_assert(_i != DEVICE_UNSYNCED || device.failed);
    d.sys.rename = io_rename;
    d.sys.fsync = io_fsync;
    disk_open(&d);
    if (fails) { /* the error was reported to a process that could not keep it */
        g_autoptr(BmpBitmap) bitmap = bmp_set_find(d.set, "a", NULL);

        ck_assert(bitmap && bmp_bitmap_inconsistent(bitmap));
        disk_fini(&d);
        return;
    }
    ck_assert(disk_is_dirty(&d, "a", 0) && disk_is_dirty(&d, "a", 65536));
    ck_assert(disk_is_dirty(&d, "a", 2 * 65536)); /* it was opened ahead */
    ck_assert(!disk_is_dirty(&d, "a", 40 * MIB));
    disk_fini(&d);
}
END_TEST

/* ---- a flush that failed */

/* The store says to the next process that what is read need not be on the medium; a loss of power
 * ends that. */
START_TEST(a_disk_that_has_lost_data_stays_so)
{
    bool power_lost = _i;
    Disk d;

    disk_begin(&d, 64 * MIB);
    disk_mark(&d, 0, 1);
    ck_assert(!bmp_set_lossy(d.set));
    bmp_set_lose(d.set);
    assert_dirty(&d, "a", "0-64");
    for (unsigned i = 0; i < 3; i++) { /* killed; killed after a commit; closed */
        disk_mark(&d, MIB, 1);
        if (i == 2)
            disk_close(&d);
        else
            disk_kill(&d);
        d.o.boot_id[0] += power_lost;
        disk_open(&d);
        ck_assert(bmp_set_lossy(d.set) != power_lost);
        ck_assert(power_lost || i || !disk_is_dirty(&d, "a", 40 * MIB));
        disk_must(&d, "a", bmp_bitmap_clear);
        ck_assert(disk_is_dirty(&d, "a", 40 * MIB) != power_lost);
    }
    disk_fini(&d);
}
END_TEST

/* ---- changes of several disks */

static struct {
    unsigned at;
    const char *paths[2];
    char *bytes[2]; /* NULL: there is no such file */
    gsize length[2];
} cut;

/* What a kill at that call leaves. */
static void cut_take(void)
{
    if (!cut.at || --cut.at)
        return;
    for (int i = 0; i < 2; i++) {
        if (!g_file_get_contents(cut.paths[i], &cut.bytes[i], &cut.length[i], NULL))
            cut.bytes[i] = NULL;
    }
}

static void cut_show(void)
{
    for (int i = 0; i < 2; i++) {
        if (cut.bytes[i])
            ck_assert(g_file_set_contents_full(cut.paths[i], cut.bytes[i], (gssize)cut.length[i],
                                               G_FILE_SET_CONTENTS_NONE, 0600,
                                               NULL)); /* in place */
        else
            unlink(cut.paths[i]);
        g_clear_pointer(&cut.bytes[i], g_free);
    }
}

/* a's bitmap is merged into b's and cleared. */
static void group_change(Disk *a, Disk *b)
{
    g_autoptr(BmpBitmap) from = bmp_set_find(a->set, "a", NULL);
    g_autoptr(BmpBitmap) to = bmp_set_find(b->set, "acc", NULL);
    BmpSet *sets[2] = { a->set, b->set };

    bmp_set_change_begin(sets, 2);
    ck_assert(bmp_bitmap_merge(to, from, NULL) && bmp_bitmap_clear(from, NULL));
    ck_assert(bmp_set_commit(sets, 2, NULL));
    bmp_set_change_end(sets, 2);
}

static void group_of(Disk *a, Disk *b, const char *name)
{
    BmpAddOptions options = { .granularity = 65536, .persistent = true };
    BmpSet *sets[2] = { a->set, b->set };

    bmp_set_change_begin(sets, 2);
    for (int i = 0; i < 2; i++)
        bmp_bitmap_unref(bmp_set_add(sets[i], name, &options, NULL));
    ck_assert(bmp_set_commit(sets, 2, NULL));
    bmp_set_change_end(sets, 2);
}

typedef enum { MOVED, LINKED, OTHER_GROUPS, REPLACED, BETWEENS } Between;

/* The leader's store, before the follower is opened. */
static void between(Disk *a, Disk *c, Between how)
{
    g_autofree char *moved = g_strconcat(a->store, ".moved", NULL);

    if (how == MOVED || how == LINKED || how == REPLACED)
        ck_assert_int_eq(rename(a->store, moved), 0);
    if (how == LINKED)
        ck_assert_int_eq(symlink(moved, a->store), 0);
    if (how == REPLACED)
        ck_assert(g_file_set_contents(a->store, "not a store", -1, NULL));
    if (how != OTHER_GROUPS)
        return;
    disk_open(a);
    disk_open(c);
    for (unsigned i = 0; i < 20; i++) {
        g_autofree char *name = g_strdup_printf("g%u", i);

        group_of(a, c, name);
    }
    disk_kill(a);
    disk_kill(c);
}

static void back(Disk *a, Between how)
{
    g_autofree char *moved = g_strconcat(a->store, ".moved", NULL);

    if (how == OTHER_GROUPS)
        return;
    unlink(a->store);
    ck_assert_int_eq(rename(moved, a->store), 0);
}

/* Whether the cut came before the end. */
static bool cut_at(unsigned k, Between how)
{
    Disk d[3];
    bool taken, inexact;

    for (int i = 0; i < 3; i++) {
        disk_init(&d[i], 64 * MIB);
        disk_open(&d[i]);
    }
    disk_must_add(&d[0], "a", 65536, false);
    disk_must_add(&d[1], "acc", 65536, true);
    disk_mark(&d[0], 0, 1);
    for (int i = 0; i < 2; i++)
        cut.paths[i] = d[i].store;
    cut.at = k;
    io.before = cut_take;
    group_change(&d[0], &d[1]);
    io.before = NULL;
    taken = !cut.at;
    for (int i = 0; i < 3; i++)
        disk_kill(&d[i]);
    if (taken)
        cut_show();
    between(&d[0], &d[2], how);
    disk_open(&d[1]);
    inexact = strstr(d[1].reasons->str, "it is not known whether") != NULL;
    back(&d[0], how);
    disk_open(&d[0]);
    ck_assert_msg(disk_is_dirty(&d[0], "a", 0) || disk_is_dirty(&d[1], "acc", 0),
                  "call %u: dirty in neither: %s%s", k, d[0].reasons->str, d[1].reasons->str);
    /* All or nothing, where the leader could be asked. */
    ck_assert_msg(inexact || disk_is_dirty(&d[0], "a", 0) != disk_is_dirty(&d[1], "acc", 0),
                  "call %u: dirty in both", k);
    ck_assert(!inexact || how == MOVED || how == REPLACED);
    ck_assert(!disk_is_dirty(&d[1], "acc", 33 * MIB));
    for (int i = 0; i < 3; i++)
        disk_fini(&d[i]);
    return taken;
}

START_TEST(f9_a_moved_leader_is_still_asked)
{
    unsigned k = 1;

    while (cut_at(k, _i))
        k++;
    ck_assert_uint_gt(k, 8);
}
END_TEST

/* Two new stores, in a change whose call @fails fails, and a kill at the @k-th. Whether that came
 * before the end. */
static bool cut_after_failure(unsigned fails, unsigned k, bool *came)
{
    BmpAddOptions options = { .granularity = 65536, .persistent = true };
    BmpSet *sets[2];
    bool taken, done;
    Disk d[2];

    for (int i = 0; i < 2; i++) {
        disk_init(&d[i], 64 * MIB);
        disk_open(&d[i]);
        sets[i] = d[i].set;
        cut.paths[i] = d[i].store;
    }
    io_fail(fails, 1, EIO);
    cut.at = k;
    io.before = cut_take;
    bmp_set_change_begin(sets, 2);
    for (int i = 0; i < 2; i++)
        bmp_bitmap_unref(bmp_set_add(sets[i], "a", &options, NULL));
    done = bmp_set_commit(sets, 2, NULL);
    io.before = NULL;
    taken = !cut.at;
    *came = io.calls >= fails;
    io_fail(0, 0, 0);
    bmp_set_change_end(sets, 2);
    for (int i = 0; i < 2; i++)
        disk_kill(&d[i]);
    if (taken)
        cut_show();
    for (int i = 2; i-- > 0;) /* who is asked comes last */
        disk_open(&d[i]);
    ck_assert(taken || has(&d[0], "a") == done);
    ck_assert_msg(has(&d[0], "a") == has(&d[1], "a"), "call %u failed, killed at %u: %s%s%s", fails,
                  k, has(&d[0], "a") ? "only the leader's" : "only the follower's",
                  d[0].reasons->str, d[1].reasons->str);
    for (int i = 0; i < 2; i++)
        disk_fini(&d[i]);
    return taken;
}

START_TEST(f9_a_change_taken_back_reaches_no_disk)
{
    unsigned fails, k, most = 0;
    bool came = true;

    for (fails = 1; came; fails++) {
        for (k = 1; cut_after_failure(fails, fails + k, &came); k++)
            most = MAX(most, k);
    }
    ck_assert_uint_gt(fails, 20);
    ck_assert_uint_gt(most, 8);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("store_order");
    TCase *tc = tcase_create("store_order");
    SRunner *runner = srunner_create(suite);
    int failed;

    tcase_set_timeout(tc, 60);
    tcase_add_test(tc, a_record_begins_after_its_data);
    tcase_add_test(tc, no_record_begins_if_the_flush_fails);
    tcase_add_loop_test(tc, a_failed_sync_fails_the_store, 0, 2);
    tcase_add_test(tc, a_stale_store_stays_distrusted);
    tcase_add_test(tc, a_store_that_cant_be_synced_counts_as_a_power_loss);
    tcase_add_loop_test(tc, a_repair_without_a_sync_counts_as_a_power_loss, 0, UNSYNCED);
    tcase_add_loop_test(tc, a_disk_that_has_lost_data_stays_so, 0, 2);
    tcase_add_loop_test(tc, f9_a_moved_leader_is_still_asked, 0, BETWEENS);
    tcase_add_test(tc, f9_a_change_taken_back_reaches_no_disk);
    suite_add_tcase(suite, tc);
    srunner_run_all(runner, CK_ENV);
    failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
