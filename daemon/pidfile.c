/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* daemon/pidfile.c: see the header. The lock distinguishes a live daemon from a file left by a
 * killed one, so nothing is written, and nothing removed, but under it. */
#include "daemon/daemon.h"

#include "util/error.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define ATTEMPTS 1000u /* to get hold of what others remove and make */

struct Pidfile {
    char *path;
    int fd;
};

/* Whether @fd is what is at @path. */
static bool is_at(int fd, const char *path)
{
    struct stat here, there;

    return !fstat(fd, &here) && !lstat(path, &there) && here.st_dev == there.st_dev &&
           here.st_ino == there.st_ino;
}

static int open_file(const char *path, GError **error)
{
    /* Not to be led elsewhere by a link, nor held up by a FIFO. */
    int fd = open(path, O_CREAT | O_RDWR | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY | O_CLOEXEC, 0644);

    if (fd < 0 && errno == ELOOP)
        tm_error_set(error, "cannot create PID file: '%s' is a symbolic link", path);
    else if (fd < 0)
        tm_error_set_errno(error, errno, "cannot create PID file: Could not create '%s'", path);
    return fd;
}

/* A descriptor of what is at @path, with the lock; or -1. */
static int open_locked(const char *path, GError **error)
{
    for (unsigned i = 0; i < ATTEMPTS; i++) {
        struct flock lock = { .l_type = F_WRLCK, .l_whence = SEEK_SET };
        int fd = open_file(path, error);

        if (fd < 0)
            return -1;
        if (fcntl(fd, F_OFD_SETLK, &lock) < 0) {
            if (errno == EAGAIN || errno == EACCES)
                tm_error_set(error, "cannot create PID file: '%s' is locked by another process",
                             path);
            else
                tm_error_set_errno(error, errno, "cannot create PID file: Could not lock '%s'",
                                   path);
            close(fd);
            return -1;
        }
        if (is_at(fd, path))
            return fd;
        close(fd); /* whose it was has ended meanwhile, and removed it */
    }
    tm_error_set(error, "cannot create PID file: other programs keep replacing '%s'", path);
    return -1;
}

/* A number, or what a crash makes of one. */
static bool looks_like_pid(int fd)
{
    char text[32];
    ssize_t n = pread(fd, text, sizeof(text), 0);

    for (ssize_t i = 0; i < n; i++) {
        if (text[i] && !g_ascii_isdigit(text[i]) && !g_ascii_isspace(text[i]))
            return false;
    }
    return n >= 0 && n < (ssize_t)sizeof(text);
}

static bool fill(int fd, const char *path, GError **error)
{
    char text[32];
    int n = snprintf(text, sizeof(text), "%ld\n", (long)getpid());
    struct stat st;

    if (fstat(fd, &st) < 0 || !S_ISREG(st.st_mode) || st.st_nlink > 1 || !looks_like_pid(fd))
        return tm_error_set(error, "cannot create PID file: '%s' exists and is not a PID file",
                            path);
    if (ftruncate(fd, 0) < 0 || pwrite(fd, text, (size_t)n, 0) != n)
        return tm_error_set_errno(error, errno, "cannot create PID file: Could not write '%s'",
                                  path);
    return true;
}

Pidfile *pidfile_create(const char *path, GError **error)
{
    int fd = open_locked(path, error);
    Pidfile *pidfile;

    if (fd < 0)
        return NULL;
    if (!fill(fd, path, error)) {
        close(fd);
        return NULL;
    }
    pidfile = g_new0(Pidfile, 1);
    pidfile->fd = fd;
    pidfile->path = g_canonicalize_filename(path, NULL); /* --daemonize changes directory */
    return pidfile;
}

void pidfile_remove(Pidfile *pidfile)
{
    if (!pidfile)
        return;
    if (is_at(pidfile->fd, pidfile->path))
        unlink(pidfile->path);
    close(pidfile->fd);
    g_free(pidfile->path);
    g_free(pidfile);
}
