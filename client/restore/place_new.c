/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* client/restore/place_new.c: a file that did not exist is written under NAME.partial, and gets its
 * name once it is complete and durable: what has the name is whole, whatever ended the command.
 *
 * What an earlier run left is emptied. A lock (flock) shows whether that run still goes on; it is
 * held until the file has its name. */
#include "client/restore/place_internal.h"
#include "util/file.h"
#include "util/sys.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/file.h>
#include <unistd.h>

/* Whether it still is what has the path: who had the lock may have given it its name. */
static bool has_path(int fd, const char *path)
{
    struct stat is, named;

    return !fstat(fd, &is) && !lstat(path, &named) && is.st_dev == named.st_dev &&
           is.st_ino == named.st_ino;
}

static bool own(TcPlace *d, int fd, GError **error)
{
    struct stat st;

    if (fstat(fd, &st) || !S_ISREG(st.st_mode))
        return tm_error_set(error, "'%s' is no regular file: expected none, or what a restore left",
                            d->path);
    if (flock(fd, LOCK_EX | LOCK_NB) && errno == EWOULDBLOCK)
        return tm_error_set(error, "target '%s' is in use by another restore", d->name);
    if (!has_path(fd, d->path))
        return tm_error_set(error, "target '%s' was made by another restore", d->name);
    return !ftruncate(fd, 0) || tm_error_set_errno(error, errno, "Could not empty '%s'", d->path);
}

bool tc_place_make(TcPlace *d, GError **error)
{
    struct stat st;
    int fd;

    if (!lstat(d->name, &st)) /* a link to nowhere */
        return tm_error_set_errno(error, EEXIST, "target '%s'", d->name);
    g_free(d->path);
    d->path = g_strconcat(d->name, ".partial", NULL);
    fd = open(d->path, O_RDWR | O_CREAT | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC, 0666);
    if (fd < 0)
        return tm_error_set_errno(error, errno, "target '%s'", d->path);
    if (!own(d, fd, error)) {
        close(fd);
        return false;
    }
    d->made_fd = fd;
    d->made = true;
    return true;
}

/* Nothing that has come meanwhile is replaced, where the file system can do so. */
static bool rename_new(const char *from, const char *to)
{
    if (!renameat2(AT_FDCWD, from, AT_FDCWD, to, RENAME_NOREPLACE))
        return true;
    if (errno != EINVAL && errno != ENOSYS)
        return false;
    if (!access(to, F_OK)) {
        errno = EEXIST;
        return false;
    }
    return !rename(from, to);
}

static void unlock(TcPlace *d)
{
    close(d->made_fd);
    d->made = false;
}

bool tc_place_name_made(TcPlace *d, GError **error)
{
    int r;

    if (!d->made)
        return true;
    if (!rename_new(d->path, d->name))
        return tm_error_set_errno(error, errno, "Could not rename '%s' to '%s'", d->path, d->name);
    g_free(d->path);
    d->path = g_strdup(d->name);
    r = tm_file_sync_name(&tm_sys_kernel, d->name);
    if (r)
        return tm_error_set_errno(error, -r, "Could not sync the directory of target '%s'",
                                  d->name);
    unlock(d);
    return true;
}

void tc_place_unmake(TcPlace *d)
{
    if (!d->made)
        return;
    unlink(d->path);
    unlock(d);
}
