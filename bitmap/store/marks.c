/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* bitmap/store/marks.c: the extended attribute of a disk's file that lists the stores which have
 * seen every write to it.
 *
 * A store puts its uuid there when it is made, and remembers that it did. Whoever opens the disk
 * for writing without the store takes it away before the first write (bmp_disk_claim()), by which
 * the store's next opening knows. A change is synced before anything that rests on it: an old list
 * that came back would vouch for a store that is out of date. */
#include "bitmap/store/store_internal.h"

#include "util/error.h"

#include <errno.h>
#include <string.h>

char *bmp_uuid_text(const uint8_t uuid[16])
{
    GString *text = g_string_new(NULL);

    for (unsigned i = 0; i < 16; i++)
        g_string_append_printf(text, "%02x", uuid[i]);
    return g_string_free(text, FALSE);
}

static int marks_set(const TmSys *sys, int fd, const BmpIdentity *disk)
{
    g_autoptr(GString) text = g_string_new(NULL);
    int ret;

    for (unsigned i = 0; i < disk->n_marks; i++) {
        g_autofree char *uuid = bmp_uuid_text(disk->marks[i]);

        g_string_append_printf(text, "%s%s", i ? " " : "", uuid);
    }
    ret = text->len ? sys->fsetxattr(fd, BMP_STORE_XATTR, text->str, text->len)
                    : sys->fremovexattr(fd, BMP_STORE_XATTR);
    return ret < 0 ? -errno : 0;
}

static int marks_sync(const TmSys *sys, int fd)
{
    return tm_fsync(sys, fd);
}

static int marks_write(const TmSys *sys, int fd, const BmpIdentity *disk)
{
    int ret = marks_set(sys, fd, disk);

    return ret < 0 ? ret : marks_sync(sys, fd);
}

/* How many are left. */
static unsigned remove_mark(BmpIdentity *disk, const uint8_t uuid[16])
{
    unsigned kept = 0;

    for (unsigned i = 0; i < disk->n_marks; i++) {
        if (memcmp(disk->marks[i], uuid, 16))
            memmove(disk->marks[kept++], disk->marks[i], 16);
    }
    return kept;
}

int bmp_identity_mark(const TmSys *sys, int disk_fd, const uint8_t uuid[16], bool *marked)
{
    BmpIdentity disk;
    int fd = bmp_identity_open(sys, disk_fd, &disk), ret = 0;
    BmpIdentity before = disk;
    bool set = false;

    if (disk.known && !disk.device) {
        if (bmp_identity_has(&disk, uuid))
            disk.n_marks = remove_mark(&disk, uuid);
        if (disk.n_marks ==
            BMP_MARKS_MAX) /* the oldest store goes without: it will be distrusted */
            memmove(disk.marks[0], disk.marks[1], --disk.n_marks * sizeof(disk.marks[0]));
        memcpy(disk.marks[disk.n_marks++], uuid, 16);
        set = marks_set(sys, fd, &disk) == 0;
        ret = set ? marks_sync(sys, fd) : 0;
        if (!set || ret < 0)
            marks_write(sys, fd, &before); /* what was not synced must not be seen later */
    }
    bmp_identity_close(sys, disk_fd, fd);
    if (ret == 0)
        *marked = set;
    return ret;
}

bool bmp_identity_unmark(const TmSys *sys, int disk_fd, const uint8_t uuid[16])
{
    BmpIdentity disk;
    int fd = bmp_identity_open(sys, disk_fd, &disk);
    unsigned kept = remove_mark(&disk, uuid);
    bool gone = false;

    if (kept < disk.n_marks) {
        disk.n_marks = kept;
        gone = marks_write(sys, fd, &disk) == 0; /* one that stays names a store that is gone */
    }
    bmp_identity_close(sys, disk_fd, fd);
    return gone;
}

bool bmp_set_follows(const BmpSet *set, const uint8_t uuid[16])
{
    const BmpStore *store = set->store;

    return store && store->fd >= 0 && !store->o.read_only && !memcmp(store->super.uuid, uuid, 16);
}

bool bmp_disk_claim(const TmSys *sys, int disk_fd,
                    bool (*open)(void *opaque, const uint8_t uuid[16]), void *opaque,
                    GError **error)
{
    BmpIdentity disk;
    int fd = bmp_identity_open(sys, disk_fd, &disk), ret = 0;
    unsigned kept = 0;

    for (unsigned i = 0; i < disk.n_marks; i++) {
        if (open(opaque, disk.marks[i]))
            memmove(disk.marks[kept++], disk.marks[i], 16);
    }
    if (kept < disk.n_marks) {
        disk.n_marks = kept;
        ret = marks_write(sys, fd, &disk);
    }
    bmp_identity_close(sys, disk_fd, fd);
    return ret == 0 || tm_error_set_errno(error, -ret,
                                          "Could not record in the disk's attributes that it is "
                                          "written without its bitmap store");
}
