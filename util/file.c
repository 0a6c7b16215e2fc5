/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* util/file.c: see the header. */
#include "util/file.h"

#include "util/error.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <linux/openat2.h>
#include <poll.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#define TRIES_MAX 100 /* of a path whose directories are being renamed */

#define PATIENCE (2 * G_USEC_PER_SEC) /* with a pipe */

int tm_file_open(const char *path, uint64_t *size, GError **error)
{
    int fd = open(path, O_RDONLY | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
    struct stat st;

    if (fd < 0 || fstat(fd, &st) < 0) {
        tm_error_set_errno(error, errno, "Unable to read '%s'", path);
    } else if (!S_ISREG(st.st_mode) && !S_ISFIFO(st.st_mode)) {
        tm_error_set(error, "Unable to read '%s': it is neither a regular file nor a pipe", path);
    } else {
        *size = S_ISREG(st.st_mode) ? (uint64_t)st.st_size : UINT64_MAX;
        return fd;
    }
    if (fd >= 0)
        close(fd);
    return -1;
}

/* Until there is something to read, or the time has come. */
static bool wait_for(int fd, gint64 until)
{
    struct pollfd poll_fd = { .fd = fd, .events = POLLIN };
    gint64 left = (until - g_get_monotonic_time()) / 1000;

    return left > 0 && (poll(&poll_fd, 1, (int)left) > 0 || errno == EINTR);
}

ssize_t tm_file_fill(int fd, const char *path, void *buf, size_t size, GError **error)
{
    gint64 until = g_get_monotonic_time() + PATIENCE;
    size_t done = 0;

    while (done < size) {
        ssize_t n = read(fd, (char *)buf + done, size - done);

        if (n == 0)
            break;
        if (n > 0) {
            done += (size_t)n;
        } else if (errno == EAGAIN && !wait_for(fd, until)) {
            tm_error_set_errno(error, ETIMEDOUT, "Unable to read '%s'", path);
            return -1;
        } else if (errno != EAGAIN && errno != EINTR) {
            tm_error_set_errno(error, errno, "Unable to read '%s'", path);
            return -1;
        }
    }
    return (ssize_t)done;
}

bool tm_file_read(const char *path, size_t max, char **text, size_t *length, GError **error)
{
    g_autofree char *buf = NULL;
    ssize_t n = -1;
    uint64_t size;
    int fd = tm_file_open(path, &size, error);

    if (fd < 0)
        return false;
    if (size == UINT64_MAX)
        tm_error_set(error, "Unable to read '%s': it is not a regular file", path);
    else if (size > max || !(buf = g_try_malloc(size + 1)))
        tm_error_set(error, "Unable to read '%s': it has %" PRIu64 " bytes, expected at most %zu",
                     path, size, max);
    else
        n = tm_file_fill(fd, path, buf, size, error);
    close(fd);
    if (n < 0)
        return false;
    buf[n] = '\0';
    *text = g_steal_pointer(&buf);
    if (length)
        *length = (size_t)n;
    return true;
}

int tm_file_find_beneath(const char *directory, const char *name)
{
    struct open_how how = { .flags = O_PATH | O_CLOEXEC,
                            .resolve = RESOLVE_BENEATH | RESOLVE_NO_MAGICLINKS };
    int dir = open(directory, O_PATH | O_DIRECTORY | O_CLOEXEC), fd = -1, err = errno;

    for (int i = 0; dir >= 0 && i < TRIES_MAX; i++) {
        fd = (int)syscall(SYS_openat2, dir, name, &how, sizeof(how));
        err = errno;
        if (fd >= 0 || err != EAGAIN)
            break;
    }
    if (dir >= 0)
        close(dir);
    errno = err;
    return fd;
}

int tm_file_sync_name(const TmSys *sys, const char *path)
{
    g_autofree char *directory = g_path_get_dirname(path);
    int fd = sys->open(directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC, 0), ret = 0;

    if (fd < 0)
        return errno == EACCES || errno == EPERM ? 0 : -errno;
    ret = tm_fsync(sys, fd);
    if (ret == -EINVAL || ret == -ENOTSUP)
        ret = 0;
    sys->close(fd);
    return ret;
}

/* A link at @path is not followed. */
static bool write_new(const TmSys *sys, const char *path, const char *text, mode_t mode,
                      GError **error)
{
    int fd =
        sys->open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK, mode);
    int ret;

    if (fd < 0)
        return tm_error_set_errno(error, errno, "Could not create '%s'", path);
    ret = tm_write_all(sys, fd, text, strlen(text), 0);
    ret = ret ? ret : tm_fsync(sys, fd);
    sys->close(fd);
    if (ret)
        sys->unlink(path);
    return ret == 0 || tm_error_set_errno(error, -ret, "Could not write '%s'", path);
}

bool tm_file_replace(const TmSys *sys, const char *path, const char *text, mode_t mode,
                     GError **error)
{
    g_autofree char *partial = g_strconcat(path, TM_FILE_PARTIAL, NULL);
    int ret;

    if (!write_new(sys, partial, text, mode, error))
        return false;
    if (sys->rename(partial, path) < 0) {
        tm_error_set_errno(error, errno, "Could not rename '%s'", partial);
        sys->unlink(partial);
        return false;
    }
    ret = tm_file_sync_name(sys, path);
    return ret == 0 || tm_error_set_errno(error, -ret, "Could not make '%s' durable", path);
}
