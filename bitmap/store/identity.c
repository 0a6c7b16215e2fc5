/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* bitmap/store/identity.c: whether a disk is the one that a store was left with.
 *
 * The rules are a table in docs/bitmap-store.md. The change time is not asked: a rename, a chown or
 * a chmod changes it. */
#include "bitmap/store/store_internal.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>
#include <sys/sysmacros.h>
#include <time.h>
#include <unistd.h>

#define TEXT 32u /* of a uuid */

/* ---- reading */

static bool uuid_parse(const char *text, uint8_t uuid[16])
{
    for (unsigned i = 0; i < 16; i++) {
        int high = g_ascii_xdigit_value(text[2 * i]);
        int low = high < 0 ? -1 : g_ascii_xdigit_value(text[2 * i + 1]);

        if (low < 0)
            return false;
        uuid[i] = (uint8_t)(high << 4 | low);
    }
    return true;
}

static void marks_read(const TmSys *sys, int fd, BmpIdentity *disk)
{
    char text[BMP_MARKS_MAX * (TEXT + 1)] = "";
    ssize_t n = sys->fgetxattr(fd, BMP_STORE_XATTR, text, sizeof(text) - 1);

    disk->n_marks = 0;
    for (ssize_t at = 0; at + (ssize_t)TEXT <= n; at += TEXT + 1) {
        if (uuid_parse(text + at, disk->marks[disk->n_marks]))
            disk->n_marks++;
    }
}

bool bmp_identity_has(const BmpIdentity *disk, const uint8_t uuid[16])
{
    for (unsigned i = 0; i < disk->n_marks; i++) {
        if (!memcmp(disk->marks[i], uuid, 16))
            return true;
    }
    return false;
}

static void read_file(const TmSys *sys, int fd, const struct stat *st, BmpIdentity *disk)
{
    struct timespec birth = { 0 };

    disk->dev = st->st_dev;
    disk->ino = st->st_ino;
    disk->size = (uint64_t)st->st_size;
    disk->mtime_sec = st->st_mtim.tv_sec;
    disk->mtime_nsec = (uint32_t)st->st_mtim.tv_nsec;
    if (sys->birth && sys->birth(fd, &birth) == 0) {
        disk->birth_sec = birth.tv_sec;
        disk->birth_nsec = (uint32_t)birth.tv_nsec;
    }
    marks_read(sys, fd, disk);
}

int bmp_identity_open(const TmSys *sys, int disk_fd, BmpIdentity *disk)
{
    struct stat st;
    int fd = disk_fd;

    *disk = (BmpIdentity){ .known = false };
    if (fd < 0 || sys->fstat(fd, &st) < 0)
        return fd;
    if (S_ISBLK(st.st_mode)) {
        int file = bmp_device_loop_file(sys, fd, st.st_rdev);

        fd = file >= 0 ? file : fd;
        if (file >= 0 && sys->fstat(file, &st) < 0)
            return fd;
    }
    disk->known = true;
    disk->device = !S_ISREG(st.st_mode);
    if (disk->device)
        bmp_device_read(sys, st.st_rdev, disk);
    else
        read_file(sys, fd, &st, disk);
    return fd;
}

void bmp_identity_close(const TmSys *sys, int disk_fd, int fd)
{
    if (fd >= 0 && fd != disk_fd)
        sys->close(fd);
}

void bmp_identity_read(const TmSys *sys, int disk_fd, BmpIdentity *disk)
{
    bmp_identity_close(sys, disk_fd, bmp_identity_open(sys, disk_fd, disk));
}

void bmp_identity_put(const BmpIdentity *disk, BmpSuper *s)
{
    s->disk_kind = !disk->known ? BMP_DISK_UNKNOWN : disk->device ? BMP_DISK_DEVICE : BMP_DISK_FILE;
    s->disk_mtime_sec = disk->mtime_sec;
    s->disk_mtime_nsec = disk->mtime_nsec;
    s->disk_dev = disk->dev;
    s->disk_ino = disk->ino;
    s->disk_birth_sec = disk->birth_sec;
    s->disk_birth_nsec = disk->birth_nsec;
    s->disk_serial = disk->serial;
    s->disk_instance = disk->instance;
    s->disk_written = disk->written;
}

int bmp_identity_sync(const TmSys *sys, int disk_fd)
{
    struct stat st;

    if (disk_fd < 0 || sys->fstat(disk_fd, &st) < 0 || !S_ISBLK(st.st_mode))
        return 0;
    return tm_fsync(sys, disk_fd);
}

/* What a superblock knows of its disk, as if it had been read then. */
static BmpIdentity identity_of(const BmpSuper *s)
{
    return (BmpIdentity){ .known = s->disk_kind != BMP_DISK_UNKNOWN,
                          .device = s->disk_kind == BMP_DISK_DEVICE,
                          .dev = s->disk_dev,
                          .ino = s->disk_ino,
                          .mtime_sec = s->disk_mtime_sec,
                          .mtime_nsec = s->disk_mtime_nsec,
                          .birth_sec = s->disk_birth_sec,
                          .birth_nsec = s->disk_birth_nsec,
                          .serial = s->disk_serial,
                          .instance = s->disk_instance,
                          .written = s->disk_written };
}

/* ---- times */

#define TICK  INT64_C(10000000)   /* ns: the kernel's clock moves at least so often */
#define GRAIN INT64_C(2000000000) /* the coarsest time stamps there are */

/* How far apart two different stamps of that file system are at least, by the look of one. */
static int64_t grain_of(const BmpIdentity *disk)
{
    if (disk->mtime_nsec % 1000000)
        return 1;
    if (disk->mtime_nsec)
        return TICK;
    return disk->mtime_sec % 2 ? GRAIN / 2 : GRAIN;
}

void bmp_identity_settle(const TmSys *sys, int disk_fd)
{
    for (int64_t waited = 0; waited <= GRAIN + TICK; waited += TICK / 4) {
        struct timespec now;
        BmpIdentity disk;
        int64_t age;

        bmp_identity_read(sys, disk_fd, &disk);
        if (!disk.known || disk.device || clock_gettime(CLOCK_REALTIME_COARSE, &now) < 0)
            return;
        if (disk.mtime_sec < now.tv_sec - 10 || disk.mtime_sec > now.tv_sec + 10)
            return; /* long ago, or not of this clock */
        age = (now.tv_sec - disk.mtime_sec) * INT64_C(1000000000) + now.tv_nsec - disk.mtime_nsec;
        if (age >= grain_of(&disk))
            return;
        g_usleep(TICK / 4 / 1000);
    }
}

static bool same_time(const BmpIdentity *a, const BmpIdentity *b)
{
    return a->mtime_sec == b->mtime_sec && a->mtime_nsec == b->mtime_nsec;
}

/* ---- comparing */

static bool births_known(const BmpIdentity *a, const BmpIdentity *b)
{
    return (a->birth_sec || a->birth_nsec) && (b->birth_sec || b->birth_nsec);
}

/* Device numbers of file systems may change when they are mounted again. */
static bool same_file(const BmpIdentity *a, const BmpIdentity *b)
{
    if (a->ino != b->ino)
        return false;
    if (births_known(a, b))
        return a->birth_sec == b->birth_sec && a->birth_nsec == b->birth_nsec;
    return a->dev == b->dev;
}

static char *closed_file_differs(const BmpSuper *s, const BmpIdentity *was, const BmpIdentity *disk)
{
    if (!same_time(was, disk))
        return g_strdup("the disk was changed by somebody else: its modification time has changed");
    if (same_file(was, disk) || bmp_identity_has(disk, s->uuid))
        return NULL;
    if (disk->n_marks)
        return g_strdup("the disk has another bitmap store, this one is of another disk");
    if (!disk->mtime_nsec)
        return g_strdup("the disk is another file, and its file system's times are too coarse to "
                        "show whether it is a copy");
    return NULL;
}

static char *open_file_differs(const BmpSuper *s, const BmpIdentity *was, const BmpIdentity *disk)
{
    bool mine = bmp_identity_has(disk, s->uuid);

    if (!mine && disk->n_marks && !s->disk_marked)
        return g_strdup("the disk has another bitmap store, this one is of another disk");
    if (mine && was->ino == disk->ino && !births_known(was, disk))
        return NULL;
    if (!same_file(was, disk))
        return g_strdup(
            "its store was not closed, and the disk is not the file that the store was open with");
    if (s->disk_marked && !mine)
        return g_strdup("its store was not closed, and since then the disk was opened for writing "
                        "without the store, or restored from a copy");
    return NULL;
}

static char *device_differs(const BmpIdentity *was, const BmpIdentity *disk, bool closed,
                            bool same_boot)
{
    bool known = was->instance && disk->instance, same = was->instance == disk->instance;

    if (was->serial && disk->serial && was->serial != disk->serial)
        return g_strdup("the disk is another block device");
    if (!same_boot || !known)
        return NULL;
    if (!same && !was->serial)
        return g_strdup("the disk is another block device, or was set up again and has no serial "
                        "number");
    if (closed && same && was->written != disk->written)
        return g_strdup("the disk was changed by somebody else: the kernel has counted other "
                        "writes to it");
    return NULL;
}

bool bmp_identity_moved_with(const BmpSuper *s, const BmpIdentity *disk, uint64_t store_ino)
{
    BmpIdentity was = identity_of(s);

    return store_ino != s->store_ino && s->disk_marked && was.known && disk->known && !was.device &&
           !disk->device && !same_file(&was, disk) && bmp_identity_has(disk, s->uuid);
}

char *bmp_identity_differs(const BmpSuper *s, const BmpIdentity *disk, uint64_t disk_size,
                           uint64_t store_ino, const uint8_t boot_id[16])
{
    BmpIdentity was = identity_of(s);
    bool closed = s->state == BMP_STORE_CLOSED;

    if (closed && s->disk_size != disk_size)
        return g_strdup_printf("the disk was changed by somebody else: it had %" PRIu64
                               " bytes and has %" PRIu64,
                               s->disk_size, disk_size);
    if (!disk->known)
        return NULL;
    if (!was.known)
        return g_strdup("its store has no record of the disk");
    if (was.device != disk->device)
        return g_strdup_printf("the disk was a %s and is a %s",
                               was.device ? "block device" : "file",
                               disk->device ? "block device" : "file");
    if (disk->device)
        return device_differs(&was, disk, closed, !memcmp(s->boot_id, boot_id, 16));
    if (!closed && bmp_identity_moved_with(s, disk, store_ino))
        return NULL;
    return closed ? closed_file_differs(s, &was, disk) : open_file_differs(s, &was, disk);
}

char *bmp_identity_changed(const BmpIdentity *was, const BmpIdentity *now)
{
    if (!was->known || !now->known)
        return NULL;
    if (was->device != now->device || (!now->device && !same_file(was, now)))
        return g_strdup("the disk is another file than before it was reopened");
    if (now->device)
        return device_differs(was, now, true, true);
    if (!same_time(was, now) || was->size != now->size)
        return g_strdup("the disk was changed by somebody else while it was not open for writing");
    return NULL;
}

static bool both_files(const BmpIdentity *a, const BmpIdentity *b)
{
    return a->known && b->known && !a->device && !b->device;
}

bool bmp_identity_unchanged(const BmpIdentity *before, const BmpIdentity *now)
{
    return both_files(before, now) && before->size == now->size && same_time(before, now) &&
           (before->mtime_sec || before->mtime_nsec) &&
           (same_file(before, now) || before->mtime_nsec);
}

bool bmp_identity_same(const BmpIdentity *before, const BmpIdentity *now)
{
    return both_files(before, now) &&
           (same_file(before, now) || bmp_identity_unchanged(before, now));
}
