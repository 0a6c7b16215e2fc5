/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* util/unix_socket.c: see the header. */
#include "util/unix_socket.h"

#include "util/error.h"

#include <errno.h>
#include <fcntl.h>
#include <stddef.h>
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

/* Of the file at @path that bind() has just made, and of no other that takes its place: a link
 * would lead to what is not ours. */
static bool give(const char *path, const TmSocketRights *rights, GError **error)
{
    int fd = open(path, O_PATH | O_NOFOLLOW | O_CLOEXEC);
    g_autofree char *same = g_strdup_printf("/proc/self/fd/%d", fd);
    mode_t mode = rights && rights->mode ? rights->mode : TM_SOCKET_MODE;
    uid_t owner = rights && rights->has_owner ? rights->owner : (uid_t)-1;
    gid_t group = rights && rights->has_group ? rights->group : (gid_t)-1;
    struct stat st;
    bool ok = true;

    if (fd < 0 || fstat(fd, &st) < 0)
        ok = tm_error_set_errno(error, errno, "Failed to open socket %s", path);
    else if (!S_ISSOCK(st.st_mode) || st.st_uid != geteuid() || st.st_nlink != 1)
        ok = tm_error_set(error, "Failed to use socket %s: another file is there by now", path);
    else if ((owner != (uid_t)-1 || group != (gid_t)-1) &&
             fchownat(fd, "", owner, group, AT_EMPTY_PATH) < 0)
        ok = tm_error_set_errno(error, errno, "Failed to change the owner of socket %s", path);
    else if ((st.st_mode & 07777) != mode && chmod(same, mode) < 0)
        ok = tm_error_set_errno(error, errno, "Failed to change the mode of socket %s", path);
    if (fd >= 0)
        close(fd);
    return ok;
}

/* The file gets the mode of the socket, and more rights before anybody can connect. */
static bool bind_it(int fd, const struct sockaddr_un *address, const TmSocketRights *rights,
                    int backlog, TmSocketFile *file, GError **error)
{
    const char *path = address->sun_path;
    struct stat st;

    if (!make_way(address, error))
        return false;
    if (fchmod(fd, TM_SOCKET_MODE) < 0 ||
        bind(fd, (const struct sockaddr *)address, sizeof(*address)) < 0)
        return tm_error_set_errno(error, errno, "Failed to bind socket to %s", path);
    if (!give(path, rights, error)) {
        unlink(path);
        return false;
    }
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

socklen_t tm_unix_address(struct sockaddr_un *address, const char *path, bool abstract, bool padded,
                          GError **error)
{
    size_t first = abstract ? 1 : 0, length = strlen(path);

    *address = (struct sockaddr_un){ .sun_family = AF_UNIX };
    if (!length || length + 1 > sizeof(address->sun_path)) {
        tm_error_set(error,
                     "UNIX socket path '%s' is too %s: it has %zu bytes, at most %zu are allowed",
                     path, length ? "long" : "short", length, sizeof(address->sun_path) - 1);
        return 0;
    }
    memcpy(address->sun_path + first, path, length);
    return abstract && !padded
               ? (socklen_t)(offsetof(struct sockaddr_un, sun_path) + first + length)
               : sizeof(*address);
}

static int new_socket(GError **error)
{
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

    if (fd < 0)
        tm_error_set_errno(error, errno, "Failed to create Unix socket");
    return fd;
}

int tm_unix_listen(const char *path, const TmSocketRights *rights, int backlog, TmSocketFile *file,
                   GError **error)
{
    struct sockaddr_un address;
    int fd, lock;

    if (!tm_unix_address(&address, path, false, false, error))
        return -1;
    fd = new_socket(error);
    if (fd < 0)
        return -1;
    lock = lock_directory(path);
    if (!bind_it(fd, &address, rights, backlog, file, error)) {
        close(fd);
        fd = -1;
    }
    if (lock >= 0)
        close(lock);
    return fd;
}

int tm_unix_listen_abstract(const char *name, bool padded, int backlog, GError **error)
{
    struct sockaddr_un address;
    socklen_t length = tm_unix_address(&address, name, true, padded, error);
    int fd = length ? new_socket(error) : -1;

    if (fd < 0)
        return -1;
    if (!bind(fd, (const struct sockaddr *)&address, length) && !listen(fd, backlog))
        return fd;
    tm_error_set_errno(error, errno, "Failed to bind socket to abstract address %s", name);
    close(fd);
    return -1;
}

void tm_socket_file_remove(TmSocketFile *file)
{
    struct stat st;

    if (file->path && !lstat(file->path, &st) && st.st_dev == file->dev && st.st_ino == file->ino)
        unlink(file->path);
    g_clear_pointer(&file->path, g_free);
}

ssize_t tm_unix_send(int socket, const struct iovec *iov, size_t n, int fd, int flags)
{
    union {
        char bytes[CMSG_SPACE(sizeof(int))];
        struct cmsghdr header; /* for its alignment */
    } control = { 0 };
    struct msghdr message = { .msg_iov = (struct iovec *)iov, .msg_iovlen = n };

    if (fd >= 0) {
        message.msg_control = &control;
        message.msg_controllen = sizeof(control.bytes);
        control.header = (struct cmsghdr){ .cmsg_len = CMSG_LEN(sizeof(int)),
                                           .cmsg_level = SOL_SOCKET,
                                           .cmsg_type = SCM_RIGHTS };
        memcpy(CMSG_DATA(&control.header), &fd, sizeof(fd));
    }
    return sendmsg(socket, &message, flags | MSG_NOSIGNAL);
}
