/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* tests/unit/test_store_identity.c: whether a disk is the one that its store was left with:
 * replaced, put back from a copy, written in another way or within one time stamp. */
#include "tests/unit/store_util.h"

static const uint64_t size = 64 * MIB;

/* A disk with a bitmap and a mark in it. */
static void begin(Disk *d)
{
    disk_init(d, size);
    disk_open(d);
    disk_must_add(d, "a", 65536, false);
    disk_mark(d, 0, 1);
}

static bool has_marks(Disk *d)
{
    char value[512];

    return fgetxattr(d->fd, BMP_STORE_XATTR, value, sizeof(value)) > 0;
}

static void write_disk(Disk *d)
{
    ck_assert_int_eq(pwrite(d->fd, "z", 1, 5 * MIB), 1);
}

/* ---- the mark */

START_TEST(without_its_mark_after_a_kill_a_store_is_distrusted)
{
    Disk d;

    begin(&d);
    disk_kill(&d);
    if (has_marks(&d)) {
        ck_assert_int_eq(fremovexattr(d.fd, BMP_STORE_XATTR), 0);
        disk_open(&d);
        ck_assert(inconsistent(&d, "a"));
        ck_assert(has_marks(&d)); /* again */
        disk_must(&d, "a", bmp_bitmap_remove);
        disk_must_add(&d, "a", 65536, false);
        disk_mark(&d, MIB, 1);
        disk_kill(&d);
        disk_open(&d);
        assert_dirty(&d, "a", "1024-1088");
    }
    disk_fini(&d);
}
END_TEST

static bool is_its(void *set, const uint8_t uuid[16])
{
    return bmp_set_follows(set, uuid);
}

static bool is_nobodys(void *unused, const uint8_t uuid[16])
{
    return false;
}

/* Who is going to write without the store takes the mark away; who has it open does not. */
START_TEST(a_writer_without_the_store_removes_the_mark)
{
    bool with_store = _i;
    Disk d;

    begin(&d);
    if (with_store)
        ck_assert(bmp_disk_claim(&d.sys, d.fd, is_its, d.set, NULL));
    disk_kill(&d);
    if (!with_store)
        ck_assert(bmp_disk_claim(&d.sys, d.fd, is_nobodys, NULL, NULL));
    ck_assert_uint_eq(io.unsynced_marks, 0);
    if (with_store || !has_marks(&d)) {
        disk_open(&d);
        ck_assert_int_eq(inconsistent(&d, "a"), !with_store && d.degraded);
        if (with_store)
            assert_dirty(&d, "a", "0-64");
    }
    disk_fini(&d);
}
END_TEST

/* A claim that can't be made durable is none. */
START_TEST(a_claim_that_is_not_durable_fails)
{
    Disk d;

    begin(&d);
    disk_kill(&d);
    if (has_marks(&d)) {
        io_fail(1, 1, EIO);
        ck_assert(!bmp_disk_claim(&d.sys, d.fd, is_nobodys, NULL, NULL));
    }
    disk_fini(&d);
}
END_TEST

/* A mark that could not be synced is not counted upon. */
static int no_attributes(int fd, const char *name, const void *value, size_t length)
{
    errno = ENOSPC;
    return -1;
}

START_TEST(without_extended_attributes_a_kill_is_exact)
{
    Disk d;

    disk_init(&d, size);
    d.sys.fsetxattr = no_attributes;
    disk_open(&d);
    disk_must_add(&d, "a", 65536, false);
    ck_assert(!has_marks(&d));
    disk_kill(&d);
    disk_open(&d);
    ck_assert(!inconsistent(&d, "a"));
    disk_fini(&d);
}
END_TEST

static struct stat failing; /* the file of which one sync fails */

static int one_sync_fails(int fd)
{
    struct stat st;

    if (fstat(fd, &st) < 0 || st.st_ino != failing.st_ino)
        return io_fsync(fd);
    failing.st_ino = 0;
    errno = EIO;
    return -1;
}

/* The disk can't be synced when its store is to be listed, and lists another one, that is gone. No
 * store goes without its mark then: after a crash it would pass for that of another disk. */
START_TEST(no_store_begins_before_its_mark_is_durable)
{
    static const char other[] = "000102030405060708090a0b0c0d0e0f";
    bool at_opening = _i;
    Disk d;

    begin(&d);
    if (at_opening)
        disk_close(&d);
    else
        disk_must(&d, "a", bmp_bitmap_remove);
    if (fsetxattr(d.fd, BMP_STORE_XATTR, other, strlen(other), 0) == 0) {
        ck_assert_int_eq(fstat(d.fd, &failing), 0);
        d.sys.fsync = one_sync_fails;
        if (at_opening)
            disk_open(&d);
        else
            ck_assert(!disk_add(&d, "a", 65536, false, NULL));
        ck_assert_uint_eq(failing.st_ino, 0);
        if (at_opening)
            ck_assert(bmp_set_wants_commit(d.set) && disk_heal(&d));
        else
            disk_must_add(&d, "a", 65536, false);
        disk_mark(&d, MIB, 1);
        disk_kill(&d);
        disk_open(&d);
        ck_assert_msg(!inconsistent(&d, "a"), "%s", d.reasons->str);
        ck_assert(disk_is_dirty(&d, "a", MIB));
    }
    disk_fini(&d);
}
END_TEST

/* Parts of one disk have a store each. */
START_TEST(two_parts_of_a_disk_have_a_store_each)
{
    bool killed = _i;
    Disk a, b;

    begin(&a);
    begin(&b);
    close(b.fd);
    unlink(b.image);
    disk_kill(&b);
    unlink(b.store);
    b.fd = fcntl(a.fd, F_DUPFD_CLOEXEC, 0);
    b.o.layer = "raw+1000";
    disk_open(&b);
    disk_must_add(&b, "a", 65536, false);
    if (!killed) {
        bmp_set_close_store(a.set);
        bmp_set_close_store(b.set);
    }
    disk_kill(&a);
    disk_kill(&b);
    disk_open(&a);
    disk_open(&b);
    ck_assert(!inconsistent(&a, "a") && !inconsistent(&b, "a"));
    ck_assert_uint_eq(a.degraded + b.degraded, 0);
    disk_fini(&a);
    disk_fini(&b);
}
END_TEST

/* ---- the file */

/* Another file takes the disk's place, with its times and its mark. */
static void replace_disk(Disk *d)
{
    g_autofree char *other = g_strconcat(d->image, ".new", NULL);
    char mark[512];
    ssize_t n = fgetxattr(d->fd, BMP_STORE_XATTR, mark, sizeof(mark));
    int fd = open(other, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    struct stat st;

    ck_assert_int_ge(fd, 0);
    ck_assert_int_eq(fstat(d->fd, &st), 0);
    ck_assert_int_eq(ftruncate(fd, (off_t)d->size), 0);
    if (n > 0)
        ck_assert_int_eq(fsetxattr(fd, BMP_STORE_XATTR, mark, (size_t)n, 0), 0);
    ck_assert_int_eq(futimens(fd, (struct timespec[]){ st.st_atim, st.st_mtim }), 0);
    ck_assert_int_eq(rename(other, d->image), 0);
    close(d->fd);
    d->fd = fd;
}

/* Closed, a copy that has kept its times is as good; not closed, it is another disk. */
START_TEST(after_a_kill_a_replaced_disk_is_noticed)
{
    bool killed = _i;
    Disk d;

    begin(&d);
    (killed ? disk_kill : disk_close)(&d);
    replace_disk(&d);
    disk_open(&d);
    ck_assert_int_eq(inconsistent(&d, "a"), killed);
    disk_fini(&d);
}
END_TEST

static int born_later(int fd, struct timespec *time)
{
    struct stat st;

    *time = (struct timespec){ fstat(fd, &st) < 0 ? 0 : 17 + st.st_mode % 2, 5 };
    return 0;
}

/* The inode number of a file that was removed is given again: the time when it was made shows
 * that. */
START_TEST(a_new_file_with_the_old_inode_number_is_noticed)
{
    bool killed = _i;
    Disk d;

    disk_init(&d, size);
    d.sys.birth = born_later;
    disk_open(&d);
    disk_must_add(&d, "a", 65536, false);
    (killed ? disk_kill : disk_close)(&d);
    ck_assert_int_eq(fchmod(d.fd, 0601), 0);
    disk_open(&d);
    ck_assert_int_eq(inconsistent(&d, "a"), killed);
    disk_fini(&d);
}
END_TEST

/* What changes nothing of the content is no change: mode, name, links. */
START_TEST(changes_of_metadata_alone_are_no_change)
{
    bool killed = _i;
    Disk d;

    begin(&d);
    (killed ? disk_kill : disk_close)(&d);
    g_autofree char *link_name = g_strconcat(d.image, ".link", NULL);

    ck_assert_int_eq(fchmod(d.fd, 0640), 0);
    ck_assert_int_eq(link(d.image, link_name), 0);
    ck_assert_int_eq(unlink(link_name), 0);
    disk_open(&d);
    ck_assert_uint_eq(d.degraded, 0);
    assert_dirty(&d, "a", "0-64");
    disk_fini(&d);
}
END_TEST

/* ---- the store's own file */

static void copy_store(Disk *d)
{
    g_autofree char *bytes = NULL, *copy = g_strconcat(d->store, ".copy", NULL);
    gsize n;

    ck_assert(g_file_get_contents(d->store, &bytes, &n, NULL));
    ck_assert(g_file_set_contents(copy, bytes, (gssize)n, NULL));
    ck_assert_int_eq(rename(copy, d->store), 0);
}

/* A copy of a store that was open may be older than the disk. */
START_TEST(a_copy_of_an_open_store_counts_as_a_power_loss)
{
    bool killed = _i;
    Disk d;

    begin(&d);
    (killed ? disk_kill : disk_close)(&d);
    copy_store(&d);
    disk_open(&d);
    ck_assert(!inconsistent(&d, "a"));
    if (killed)
        ck_assert(disk_is_dirty(&d, "a", 40 * MIB));
    else
        assert_dirty(&d, "a", "0-64");
    disk_fini(&d);
}
END_TEST

/* A copy of both is what a loss of power leaves: what was marked is dirty, and hardly more. */
START_TEST(a_copy_of_disk_and_store_counts_as_a_power_loss)
{
    Disk d;

    begin(&d);
    disk_kill(&d);
    copy_store(&d);
    replace_disk(&d);
    disk_open(&d);
    ck_assert(!inconsistent(&d, "a"));
    ck_assert(disk_is_dirty(&d, "a", 0));
    ck_assert(!disk_is_dirty(&d, "a", 40 * MIB));
    disk_fini(&d);
}
END_TEST

static int other_device(int fd, struct stat *st)
{
    int ret = fstat(fd, st);

    st->st_dev += 7;
    return ret;
}

/* In the same boot, but mounted anew: the page cache did not survive. */
START_TEST(a_new_mount_counts_as_a_power_loss)
{
    Disk d;

    disk_init(&d, size);
    d.o.durability = BMP_DURABLE_PROCESS;
    disk_open(&d);
    disk_must_add(&d, "a", 65536, false);
    disk_mark(&d, 0, 1);
    disk_kill(&d);
    d.sys.fstat = other_device;
    disk_open(&d);
    if (!inconsistent(&d,
                      "a")) /* as where nobody knows when the file was made, nor has it a mark */
        ck_assert_msg(disk_is_dirty(&d, "a", 40 * MIB), "what was not synced counts as exact");
    disk_fini(&d);
}
END_TEST

/* Somebody removes it: the next change writes it anew, and says so. */
START_TEST(a_store_deleted_while_open_is_written_anew)
{
    Disk d;

    begin(&d);
    ck_assert_int_eq(unlink(d.store), 0);
    disk_must_add(&d, "b", 65536, false);
    ck_assert_int_eq(access(d.store, F_OK), 0);
    ck_assert_uint_eq(d.degraded, 1);
    assert_says(d.reasons->str, "deleted");
    ck_assert_uint_eq(d.healed, 1);
    disk_kill(&d);
    disk_open(&d);
    ck_assert(!inconsistent(&d, "a"));
    assert_dirty(&d, "a", "0-64");
    disk_fini(&d);
}
END_TEST

/* ---- readers */

START_TEST(a_reader_does_not_lock_out_writers)
{
    Disk d, reader;

    begin(&d);
    disk_close(&d);
    reader = d;
    reader.reasons = g_string_new(NULL);
    reader.o.read_only = true;
    disk_open(&reader);
    assert_dirty(&reader, "a", "0-64");
    disk_open(&d);
    assert_dirty(&d, "a", "0-64");
    disk_kill(&reader);
    disk_open(&reader); /* what is being written is not shown */
    ck_assert_uint_eq(bmp_set_length(reader.set), 0);
    assert_says(reader.reasons->str, "in use");
    disk_kill(&reader);
    g_string_free(reader.reasons, TRUE);
    disk_fini(&d);
}
END_TEST

/* ---- times */

static int whole_seconds(int fd, struct stat *st)
{
    int ret = fstat(fd, st);

    st->st_mtim.tv_nsec = st->st_ctim.tv_nsec = 0;
    return ret;
}

/* Whoever writes right after a clean end gives the disk another time, whatever the clock's
 * grain. */
START_TEST(a_write_right_after_a_clean_close_is_noticed)
{
    bool coarse = _i;

    for (int i = 0; i < (coarse ? 1 : 30); i++) {
        Disk d;

        disk_init(&d, size);
        if (coarse)
            d.sys.fstat = whole_seconds;
        disk_open(&d);
        disk_must_add(&d, "a", 65536, false);
        write_disk(&d);
        disk_close(&d);
        write_disk(&d);
        disk_open(&d);
        ck_assert_msg(inconsistent(&d, "a"), "round %d", i);
        disk_fini(&d);
    }
}
END_TEST

/* Stamps of whole seconds don't distinguish a copy from another file of that second. */
START_TEST(a_copy_made_within_the_same_second_is_noticed)
{
    bool copy = _i;
    Disk d;

    disk_init(&d, size);
    d.sys.fstat = whole_seconds;
    disk_open(&d);
    disk_must_add(&d, "a", 65536, false);
    disk_close(&d);
    bool marked = has_marks(&d);

    replace_disk(&d);
    if (!copy)
        fremovexattr(d.fd, BMP_STORE_XATTR);
    disk_open(&d);
    ck_assert_int_eq(inconsistent(&d, "a"), !copy || !marked);
    disk_fini(&d);
}
END_TEST

/* ---- while it is away */

START_TEST(a_change_during_opening_is_noticed)
{
    BmpIdentity before, now;
    g_autofree char *why = NULL;
    Disk d;

    begin(&d);
    bmp_identity_settle(&d.sys, d.fd);
    bmp_identity_read(&d.sys, d.fd, &before);
    ck_assert_int_eq(fchmod(d.fd, 0640), 0);
    bmp_identity_read(&d.sys, d.fd, &now);
    ck_assert_ptr_null(bmp_identity_changed(&before, &now));
    write_disk(&d);
    bmp_identity_read(&d.sys, d.fd, &now);
    why = bmp_identity_changed(&before, &now);
    assert_says(why, "changed by somebody else");
    disk_fini(&d);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("store_identity");
    TCase *tc = tcase_create("store_identity");
    SRunner *runner = srunner_create(suite);
    int failed;

    tcase_set_timeout(tc, 100);
    tcase_add_test(tc, without_its_mark_after_a_kill_a_store_is_distrusted);
    tcase_add_loop_test(tc, a_writer_without_the_store_removes_the_mark, 0, 2);
    tcase_add_test(tc, a_claim_that_is_not_durable_fails);
    tcase_add_test(tc, without_extended_attributes_a_kill_is_exact);
    tcase_add_loop_test(tc, no_store_begins_before_its_mark_is_durable, 0, 2);
    tcase_add_loop_test(tc, two_parts_of_a_disk_have_a_store_each, 0, 2);
    tcase_add_loop_test(tc, after_a_kill_a_replaced_disk_is_noticed, 0, 2);
    tcase_add_loop_test(tc, a_new_file_with_the_old_inode_number_is_noticed, 0, 2);
    tcase_add_loop_test(tc, changes_of_metadata_alone_are_no_change, 0, 2);
    tcase_add_test(tc, a_copy_of_disk_and_store_counts_as_a_power_loss);
    tcase_add_loop_test(tc, a_copy_of_an_open_store_counts_as_a_power_loss, 0, 2);
    tcase_add_test(tc, a_new_mount_counts_as_a_power_loss);
    tcase_add_test(tc, a_store_deleted_while_open_is_written_anew);
    tcase_add_test(tc, a_reader_does_not_lock_out_writers);
    tcase_add_loop_test(tc, a_write_right_after_a_clean_close_is_noticed, 0, 2);
    tcase_add_loop_test(tc, a_copy_made_within_the_same_second_is_noticed, 0, 2);
    tcase_add_test(tc, a_change_during_opening_is_noticed);
    suite_add_tcase(suite, tc);
    srunner_run_all(runner, CK_ENV);
    failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
