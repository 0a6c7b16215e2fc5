/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* tests/unit/store_util.h: a disk, its store, and a model of what its bitmaps must say; for the
 * tests of bitmap/store/store.h. The system calls are counted, and one of them can be made to fail.
 * */
#pragma once
#include "bitmap/bitmap.h"
#include "bitmap/store/format.h"
#include "bitmap/store/store.h"
#include "tests/asserts.h"
#include "util/extent.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/xattr.h>
#include <unistd.h>

#define KIB UINT64_C(1024)
#define MIB (UINT64_C(1) << 20)

/* What a table of calls can't be given as an argument. */
static struct {
    unsigned calls;   /* that change a file, so far */
    unsigned fail_at; /* the number of the first that fails; 0: none */
    unsigned fail_n;  /* how many fail, from there on */
    bool syncs_only;
    int err;
    unsigned unsynced_marks; /* changes of extended attributes since the last sync that worked */
    void (*before)(void);    /* each of them: what a kill would leave just then */
} io;

static bool io_fails(bool sync)
{
    unsigned call;

    if (io.before)
        io.before();
    if (io.syncs_only && !sync)
        return false;
    call = ++io.calls;
    if (!io.fail_at || call < io.fail_at || call - io.fail_at >= io.fail_n)
        return false;
    errno = io.err;
    return true;
}

static inline ssize_t io_pwritev2(int fd, const struct iovec *iov, int n, off_t offset, int flags)
{
    return io_fails(false) ? -1 : pwritev2(fd, iov, n, offset, flags);
}

static inline int io_ftruncate(int fd, off_t length)
{
    return io_fails(false) ? -1 : ftruncate(fd, length);
}

static inline int io_fallocate(int fd, int mode, off_t offset, off_t length)
{
    return io_fails(false) ? -1 : fallocate(fd, mode, offset, length);
}

/* A kill loses nothing that was written: waiting for the medium would show nothing here. */
static inline int io_fdatasync(int fd)
{
    return io_fails(true) ? -1 : fcntl(fd, F_SETFD, FD_CLOEXEC);
}

static inline int io_fsync(int fd)
{
    if (io_fails(true))
        return -1;
    io.unsynced_marks = 0;
    return fcntl(fd, F_SETFD, FD_CLOEXEC);
}

static inline int io_rename(const char *from, const char *to)
{
    ck_assert_msg(!io.unsynced_marks, "a store gets its name before the disk's mark is synced");
    return io_fails(false) ? -1 : rename(from, to);
}

static inline int io_unlink(const char *path)
{
    return io_fails(false) ? -1 : unlink(path);
}

static inline void io_fail(unsigned at, unsigned n, int err)
{
    io.calls = 0;
    io.syncs_only = false;
    io.fail_at = at;
    io.fail_n = n;
    io.err = err;
}

typedef struct Disk {
    char *dir, *image, *store;
    int fd;
    uint64_t size;
    BmpSet *set;
    TmSys sys;
    BmpStoreOptions o;
    unsigned degraded, healed; /* reports */
    GString *reasons;
} Disk;

static inline void on_report(void *opaque, const BmpReport *report)
{
    Disk *d = opaque;

    if (report->healed)
        d->healed++;
    else
        d->degraded++;
    g_string_append_printf(d->reasons, "[%s] %s\n", report->bitmap ? report->bitmap : "-",
                           report->reason);
}

static inline int io_fsetxattr(int fd, const char *name, const void *value, size_t length)
{
    io.unsynced_marks++;
    return fsetxattr(fd, name, value, length, 0);
}

static inline int io_fremovexattr(int fd, const char *name)
{
    io.unsynced_marks++;
    return fremovexattr(fd, name);
}

static inline void disk_init(Disk *d, uint64_t size)
{
    *d = (Disk){ .size = size, .sys = tm_sys_kernel };
    d->dir = g_dir_make_tmp("test-store-XXXXXX", NULL);
    ck_assert_ptr_nonnull(d->dir);
    d->image = g_build_filename(d->dir, "disk", NULL);
    d->store = g_strconcat(d->image, BMP_STORE_SUFFIX, NULL);
    d->fd = open(d->image, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    ck_assert_int_ge(d->fd, 0);
    ck_assert_int_eq(ftruncate(d->fd, (off_t)size), 0);
    d->reasons = g_string_new(NULL);
    d->sys.pwritev2 = io_pwritev2;
    d->sys.ftruncate = io_ftruncate;
    d->sys.fallocate = io_fallocate;
    d->sys.fdatasync = io_fdatasync;
    d->sys.fsync = io_fsync;
    d->sys.fsetxattr = io_fsetxattr;
    d->sys.fremovexattr = io_fremovexattr;
    d->sys.rename = io_rename;
    d->sys.unlink = io_unlink;
    d->o = (BmpStoreOptions){
        .layer = "raw", .durability = BMP_DURABLE_POWER, .boot_id = { 1 }, .report = on_report
    };
    io_fail(0, 0, 0);
}

static inline bool disk_try_open(Disk *d, GError **error)
{
    d->o.sys = &d->sys;
    d->o.path = d->store;
    d->o.disk_fd = d->fd;
    d->o.opaque = d;
    d->degraded = d->healed = 0;
    g_string_truncate(d->reasons, 0);
    d->set = bmp_set_new("disk", d->size);
    if (bmp_set_open_store(d->set, &d->o, error))
        return true;
    bmp_set_free(g_steal_pointer(&d->set));
    return false;
}

static inline void disk_open(Disk *d)
{
    g_autoptr(GError) error = NULL;

    ck_assert_msg(disk_try_open(d, &error), "%s", error ? error->message : "no error");
}

static inline void disk_kill(Disk *d)
{
    bmp_set_free(g_steal_pointer(&d->set));
}

static inline void disk_close(Disk *d)
{
    bmp_set_close_store(d->set);
    disk_kill(d);
}

/* The power goes: what the page cache had is kept, but nobody may count on it. */
static inline void disk_power_loss(Disk *d)
{
    disk_kill(d);
    d->o.boot_id[0]++;
}

static inline void disk_fini(Disk *d)
{
    g_autofree char *tmp = g_strconcat(d->store, ".tmp", NULL);

    io_fail(0, 0, 0);
    bmp_set_free(d->set);
    close(d->fd);
    unlink(tmp);
    unlink(d->store);
    unlink(d->image);
    rmdir(d->dir);
    g_free(d->dir);
    g_free(d->image);
    g_free(d->store);
    g_string_free(d->reasons, TRUE);
}

static inline void disk_mark(Disk *d, uint64_t offset, uint64_t length)
{
    uint64_t epoch = bmp_set_mark_begin(d->set, offset, length);

    bmp_set_mark_end(d->set, offset, length, epoch);
}

/* As a command does it: a change, the commit, and all taken back if that fails. */
static inline bool disk_add(Disk *d, const char *name, uint64_t granularity, bool disabled,
                            GError **error)
{
    BmpAddOptions options = { .granularity = granularity,
                              .persistent = true,
                              .disabled = disabled };
    g_autoptr(BmpBitmap) bitmap = NULL;
    bool ok = false;

    bmp_set_change_begin(&d->set, 1);
    bitmap = bmp_set_add(d->set, name, &options, error);
    if (bitmap) {
        ok = bmp_set_commit(&d->set, 1, error);
        if (!ok)
            ck_assert(bmp_bitmap_remove(bitmap, NULL));
    }
    bmp_set_change_end(&d->set, 1);
    return ok;
}

static inline void disk_must_add(Disk *d, const char *name, uint64_t granularity, bool disabled)
{
    g_autoptr(GError) error = NULL;

    ck_assert_msg(disk_add(d, name, granularity, disabled, &error), "%s",
                  error ? error->message : "no error");
}

/* What most begin with: the store is open, and has the enabled bitmap "a" of 64 KiB. */
static inline void disk_begin(Disk *d, uint64_t size)
{
    disk_init(d, size);
    disk_open(d);
    disk_must_add(d, "a", 65536, false);
}

typedef bool (*Change)(BmpBitmap *bitmap, GError **error);

static inline bool disk_change(Disk *d, const char *name, Change change, GError **error)
{
    g_autoptr(BmpBitmap) bitmap = bmp_set_find(d->set, name, NULL);
    BmpBackup *backup = NULL;
    bool ok;

    ck_assert_ptr_nonnull(bitmap);
    bmp_set_change_begin(&d->set, 1);
    backup = bmp_bitmap_backup(bitmap);
    ok = change(bitmap, error);
    if (ok && !bmp_set_commit(&d->set, 1, error)) {
        ok = false;
        if (change == bmp_bitmap_remove)
            bmp_bitmap_unremove(bitmap);
        bmp_bitmap_restore(bitmap, g_steal_pointer(&backup));
    }
    bmp_backup_free(backup);
    bmp_set_change_end(&d->set, 1);
    return ok;
}

static inline void disk_must(Disk *d, const char *name, Change change)
{
    g_autoptr(GError) error = NULL;

    ck_assert_msg(disk_change(d, name, change, &error), "%s", error ? error->message : "no error");
}

static inline bool disk_heal(Disk *d)
{
    bool ok;

    bmp_set_change_begin(&d->set, 1);
    ok = bmp_set_commit(&d->set, 1, NULL);
    bmp_set_change_end(&d->set, 1);
    return ok;
}

/* The dirty runs of a bitmap as text, in KiB: "0-64 128-192"; "none" without such a bitmap. */
static inline char *disk_dirty(Disk *d, const char *name)
{
    g_autoptr(BmpBitmap) bitmap = bmp_set_find(d->set, name, NULL);
    GString *text = g_string_new(NULL);
    uint64_t from = 0, last = 0;
    bool in = false;

    if (!bitmap)
        return g_string_free(g_string_assign(text, "none"), FALSE);
    for (uint64_t at = 0; at <= d->size;) {
        TmExtent runs[64];
        TmExtents out = { .list = runs, .max = G_N_ELEMENTS(runs) };

        if (at == d->size)
            break;
        ck_assert_uint_gt(bmp_bitmap_extents(bitmap, at, d->size - at, &out), 0);
        for (size_t i = 0; i < out.count; i++) {
            bool dirty = runs[i].flags & TM_STATE_DIRTY;

            if (dirty && !in)
                from = at;
            if (!dirty && in)
                g_string_append_printf(text, "%s%" G_GUINT64_FORMAT "-%" G_GUINT64_FORMAT,
                                       text->len ? " " : "", from / KIB, last / KIB);
            in = dirty;
            at += runs[i].length;
            last = at;
        }
    }
    if (in)
        g_string_append_printf(text, "%s%" G_GUINT64_FORMAT "-%" G_GUINT64_FORMAT,
                               text->len ? " " : "", from / KIB, last / KIB);
    return g_string_free(text, FALSE);
}

#define assert_dirty(d, name, expected)                                                            \
    do {                                                                                           \
        g_autofree char *dirty_text = disk_dirty(d, name);                                         \
        ck_assert_str_eq(dirty_text, expected);                                                    \
    } while (0)

static inline bool disk_is_dirty(Disk *d, const char *name, uint64_t offset)
{
    g_autoptr(BmpBitmap) bitmap = bmp_set_find(d->set, name, NULL);
    TmExtent run[1];
    TmExtents out = { .list = run, .max = 1 };

    ck_assert_ptr_nonnull(bitmap);
    bmp_bitmap_extents(bitmap, offset, 1, &out);
    return out.count && (run[0].flags & TM_STATE_DIRTY);
}

static inline void assert_says(const char *text, const char *part)
{
    ck_assert_msg(text && strstr(text, part), "'%s' does not say '%s'", text ? text : "(null)",
                  part);
}

/* ---- what a bitmap says */

static inline char *reason_of(Disk *d, const char *name)
{
    g_autoptr(BmpBitmap) bitmap = bmp_set_find(d->set, name, NULL);

    ck_assert_ptr_nonnull(bitmap);
    return bmp_bitmap_reason(bitmap);
}

static inline bool inconsistent(Disk *d, const char *name)
{
    g_autoptr(BmpBitmap) bitmap = bmp_set_find(d->set, name, NULL);

    ck_assert_ptr_nonnull(bitmap);
    return bmp_bitmap_inconsistent(bitmap);
}

static inline uint64_t recovered(Disk *d, const char *name)
{
    g_autoptr(BmpBitmap) bitmap = bmp_set_find(d->set, name, NULL);

    ck_assert_ptr_nonnull(bitmap);
    return bmp_bitmap_recovered(bitmap);
}

static inline bool has(Disk *d, const char *name)
{
    g_autoptr(BmpBitmap) bitmap = bmp_set_find(d->set, name, NULL);

    return bitmap != NULL;
}

static inline void touch_disk(Disk *d, int64_t seconds)
{
    struct timespec times[2] = { { .tv_sec = seconds }, { .tv_sec = seconds } };

    ck_assert_int_eq(futimens(d->fd, times), 0);
}
