/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* util/unix_socket.c: see the header. */
#include "util/unix_socket.h"

#include "util/error.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#define LOCK_WAIT (G_USEC_PER_SEC / 100) /* between attempts */
#define LOCK_MAX  100                    /* attempts: who holds it for longer is no server */

/* A descriptor to close, or -1: then it goes without. */
static int lock_directory(const char *path)
{
    g_autofree char *directory = g_path_get_dirname(path);
    int fd = open(directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC);

    for (int i = 0; fd >= 0 && flock(fd, LOCK_EX | LOCK_NB) < 0; i++) {
        if (errno != EWOULDBLOCK || i == LOCK_MAX) {
            close(fd);
            return -1;
        }
        g_usleep(LOCK_WAIT);
    }
    return fd;
}

/* Whether nobody listens there: in doubt it counts as used. */
static bool is_stale(const struct sockaddr_un *address)
{
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    bool stale = fd >= 0 && connect(fd, (const struct sockaddr *)address, sizeof(*address)) < 0 &&
                 errno == ECONNREFUSED;

    if (fd >= 0)
        close(fd);
    return stale;
}

/* Whether the path is free to bind; another error than that it isn't is bind's to report. */
static bool make_way(const struct sockaddr_un *address, GError **error)
{
    const char *path = address->sun_path;
    struct stat st;

    if (lstat(path, &st) < 0 || !S_ISSOCK(st.st_mode))
        return true;
    if (!is_stale(address))
        return tm_error_set(error,
                            "Failed to bind socket to %s: Address already in use: another process "
                            "listens there",
                            path);
    if (unlink(path) < 0 && errno != ENOENT)
        return tm_error_set_errno(error, errno, "Failed to unlink socket %s", path);
    return true;
}

/* The file gets the mode of the socket: there is no moment when others may connect. */
static bool bind_it(int fd, const struct sockaddr_un *address, int backlog, TmSocketFile *file,
                    GError **error)
{
    const char *path = address->sun_path;
    struct stat st;

    if (!make_way(address, error))
        return false;
    if (fchmod(fd, 0600) < 0 || bind(fd, (const struct sockaddr *)address, sizeof(*address)) < 0)
        return tm_error_set_errno(error, errno, "Failed to bind socket to %s", path);
    if (lstat(path, &st) < 0 || listen(fd, backlog) < 0) {
        tm_error_set_errno(error, errno, "Failed to listen on socket %s", path);
        unlink(path);
        return false;
    }
    file->path = g_canonicalize_filename(path, NULL); /* --daemonize changes directory */
    file->dev = st.st_dev;
    file->ino = st.st_ino;
    return true;
}

int tm_unix_listen(const char *path, int backlog, TmSocketFile *file, GError **error)
{
    struct sockaddr_un address = { .sun_family = AF_UNIX };
    int fd, lock;

    if (!*path || strlen(path) >= sizeof(address.sun_path)) {
        tm_error_set(error,
                     "UNIX socket path '%s' is too %s: it has %zu bytes, at most %zu are allowed",
                     path, *path ? "long" : "short", strlen(path), sizeof(address.sun_path) - 1);
        return -1;
    }
    strcpy(address.sun_path, path);
    fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0) {
        tm_error_set_errno(error, errno, "Failed to create Unix socket");
        return -1;
    }
    lock = lock_directory(path);
    if (!bind_it(fd, &address, backlog, file, error)) {
        close(fd);
        fd = -1;
    }
    if (lock >= 0)
        close(lock);
    return fd;
}

void tm_socket_file_remove(TmSocketFile *file)
{
    struct stat st;

    if (file->path && !lstat(file->path, &st) && st.st_dev == file->dev && st.st_ino == file->ino)
        unlink(file->path);
    g_clear_pointer(&file->path, g_free);
}
