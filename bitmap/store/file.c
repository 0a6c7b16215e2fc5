/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* bitmap/store/file.c: the file of a store: opened and locked, made, named, removed.
 *
 * A file gets its name when it is whole and synced, and every change of a name is followed by a
 * sync of the directory: a crash finds the old file, the new one, or none. */
#include "bitmap/store/store_internal.h"

#include "util/error.h"
#include "util/file.h"

#include <errno.h>
#include <string.h>
#include <unistd.h>

#define TRIES 8 /* to lock a file that is being replaced */

static void close_fd(const TmSys *sys, int *fd)
{
    if (*fd >= 0)
        sys->close(*fd);
    *fd = -1;
}

static int in_use(const char *path, GError **error)
{
    tm_error_set(error, "Bitmap store '%s' is in use by another process", path);
    return -EAGAIN;
}

static int lock(const TmSys *sys, int fd, const char *path, GError **error)
{
    struct flock range = { .l_type = F_WRLCK, .l_whence = SEEK_SET };
    int err;

    if (sys->lock(fd, F_OFD_SETLK, &range) == 0)
        return 0;
    err = errno;
    if (err == EAGAIN || err == EACCES)
        return in_use(path, error);
    tm_error_set_errno(error, err, "Could not lock bitmap store '%s'", path);
    return -err;
}

bool bmp_store_file_locked(const TmSys *sys, int fd)
{
    struct flock range = { .l_type = F_RDLCK, .l_whence = SEEK_SET };

    return sys->lock(fd, F_OFD_GETLK, &range) == 0 && range.l_type != F_UNLCK;
}

bool bmp_store_file_named(const TmSys *sys, int fd, const char *path)
{
    struct stat mine, there;
    int other = sys->open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK, 0);
    bool same = other >= 0 && sys->fstat(fd, &mine) == 0 && sys->fstat(other, &there) == 0 &&
                mine.st_dev == there.st_dev && mine.st_ino == there.st_ino;

    close_fd(sys, &other);
    return same;
}

/* 1: locked; 0: it was replaced meanwhile; or -errno. */
static int open_once(const TmSys *sys, const char *path, bool read_only, int *fd, GError **error)
{
    int opened = sys->open(path, (read_only ? O_RDONLY : O_RDWR) | O_CLOEXEC | O_NONBLOCK, 0);
    struct stat st;
    int ret = -errno;

    if (opened < 0) {
        tm_error_set_errno(error, -ret, "Could not open bitmap store '%s'", path);
        return ret;
    }
    if (sys->fstat(opened, &st) < 0 || !S_ISREG(st.st_mode)) {
        tm_error_set(error, "Bitmap store '%s' is not a regular file", path);
        ret = -EINVAL;
    } else {
        ret = read_only ? 0 : lock(sys, opened, path, error);
        if (ret == 0)
            ret = bmp_store_file_named(sys, opened, path);
    }
    if (ret == 1)
        *fd = opened;
    else
        sys->close(opened);
    return ret;
}

bool bmp_store_file_open(const TmSys *sys, const char *path, bool read_only, int *fd,
                         GError **error)
{
    for (int i = 0; i < TRIES; i++) {
        g_autoptr(GError) problem = NULL;
        int ret = open_once(sys, path, read_only, fd, &problem);

        if (ret == 1)
            return true;
        if (ret == -ENOENT || ret == -ENOTDIR) {
            *fd = -1;
            return true;
        }
        if (ret < 0) {
            *fd = ret;
            g_propagate_error(error, g_steal_pointer(&problem));
            return false;
        }
    }
    *fd = in_use(path, error);
    return false;
}

static char *temporary(const char *path)
{
    return g_strconcat(path, ".tmp", NULL);
}

/* What a crash has left under that name is emptied, but nothing that has another name, too: not
 * what is a link to something else, nor what another process has just made a store of. */
static bool take_temporary(const TmSys *sys, int fd, const char *name, const char *path,
                           GError **error)
{
    struct stat st;

    if (sys->fstat(fd, &st) < 0 || !S_ISREG(st.st_mode) || st.st_nlink > 1)
        return tm_error_set(error, "'%s' exists and was not left by a bitmap store: move it away",
                            name);
    if (lock(sys, fd, path, error) < 0)
        return false;
    if (!bmp_store_file_named(sys, fd, name)) {
        in_use(path, error);
        return false;
    }
    return sys->ftruncate(fd, 0) == 0 ||
           tm_error_set_errno(error, errno, "Could not create bitmap store '%s'", name);
}

bool bmp_store_file_create(const TmSys *sys, const char *path, int *fd, GError **error)
{
    g_autofree char *name = temporary(path);
    int opened = sys->open(name, O_RDWR | O_CREAT | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC, 0600);

    if (opened < 0)
        return tm_error_set_errno(error, errno, "Could not create bitmap store '%s'", name);
    if (!take_temporary(sys, opened, name, path, error)) {
        close_fd(sys, &opened);
        return false;
    }
    *fd = opened;
    return true;
}

bool bmp_store_file_absent(const TmSys *sys, const char *path, GError **error)
{
    int fd = sys->open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK, 0);

    if (fd < 0)
        return errno == ENOENT || tm_error_set_errno(error, errno,
                                                     "Bitmap store '%s' can't be checked before "
                                                     "it is replaced",
                                                     path);
    close_fd(sys, &fd);
    return tm_error_set(error, "Bitmap store '%s' was created by another program meanwhile", path);
}

bool bmp_store_file_publish(const TmSys *sys, const char *path, GError **error)
{
    g_autofree char *name = temporary(path);
    int ret = sys->rename(name, path) < 0 ? -errno : tm_file_sync_name(sys, path);

    return ret == 0 || tm_error_set_errno(error, -ret, "Could not create bitmap store '%s'", path);
}

bool bmp_store_file_remove(const TmSys *sys, const char *path, GError **error)
{
    int ret = sys->unlink(path) < 0 && errno != ENOENT ? -errno : tm_file_sync_name(sys, path);

    return ret == 0 || tm_error_set_errno(error, -ret, "Could not remove bitmap store '%s'", path);
}

uint64_t bmp_store_read(const TmSys *sys, int fd, void *data, uint64_t length, uint64_t offset)
{
    uint64_t done;

    tm_read_all(sys, fd, data, length, offset, &done);
    return done;
}

/* ---- with a keeper, or without */

static bool kept(const BmpStore *store, int ret, const char *what, GError **error)
{
    return ret == 0 ||
           tm_error_set_errno(error, -ret, "Could not %s bitmap store '%s'", what, store->path);
}

bool bmp_store_find(const BmpStore *store, int *fd, GError **error)
{
    bool read_only = store->o.read_only;
    int ret;

    if (store->mirror) {
        ret = bmp_mirror_open(store->mirror, read_only, fd);
        return ret == -EBUSY ? in_use(store->path, error) == 0 : kept(store, ret, "open", error);
    }
    return bmp_store_file_open(store->o.sys, store->path, read_only, fd, error);
}

bool bmp_store_is_written(const BmpStore *store)
{
    return store->mirror ? bmp_mirror_is_written(store->mirror)
                         : bmp_store_file_locked(store->o.sys, store->fd);
}

bool bmp_store_create(const BmpStore *store, int *fd, GError **error)
{
    if (store->mirror)
        return kept(store, bmp_mirror_create(store->mirror, fd), "create", error);
    return bmp_store_file_create(store->o.sys, store->path, fd, error);
}

bool bmp_store_is_named(const BmpStore *store, int fd)
{
    return store->mirror || bmp_store_file_named(store->o.sys, fd, store->path);
}

bool bmp_store_publish(const BmpStore *store, int fd, GError **error)
{
    if (store->mirror)
        return kept(store, bmp_mirror_replace(store->mirror, fd), "create", error);
    return bmp_store_file_publish(store->o.sys, store->path, error);
}

bool bmp_store_remove(const BmpStore *store, GError **error)
{
    if (store->mirror)
        return kept(store, bmp_mirror_replace(store->mirror, -1), "remove", error);
    return bmp_store_file_remove(store->o.sys, store->path, error);
}

int bmp_store_write(const BmpStore *store, int fd, const void *data, uint64_t length,
                    uint64_t offset)
{
    return bmp_file_write(store->o.sys, store->mirror, fd, data, length, offset);
}

int bmp_store_sync(const BmpStore *store, int fd)
{
    return bmp_file_sync(store->o.sys, store->mirror, fd);
}

int bmp_store_write_super(const BmpStore *store, int fd, unsigned copy, const BmpSuper *super)
{
    uint8_t bytes[BMP_SUPER_SIZE];

    bmp_super_encode(super, bytes);
    return bmp_store_write(store, fd, bytes, sizeof(bytes), copy * BMP_STORE_ALIGN);
}
