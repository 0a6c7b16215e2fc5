/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* server/fuse/mounter.c: the daemon's end of the process that mounts (mount.c). */
#define FUSE_USE_VERSION 34
#include "server/fuse/fuse_internal.h"

#include "util/error.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <unistd.h>

#define PATIENCE 30   /* seconds that an order may take */
#define END_MS   5000 /* that the process may take to end, before it is left alone */

struct FexpMounter {
    int socket; /* -1: there is no process, or it is lost */
    pid_t process;
    int err;            /* without a process: why */
    const char *sealed; /* why nothing is mounted any more; or NULL */
    GPtrArray *paths;   /* where something is mounted */
};

/* Whether /dev/fuse can be opened; -errno. */
static int check_device(void)
{
    int fd = open("/dev/fuse", O_RDWR | O_CLOEXEC);

    if (fd < 0)
        return -errno;
    close(fd);
    return 0;
}

FexpMounter *fexp_mounter_new(void)
{
    struct timeval patience = { .tv_sec = PATIENCE };
    FexpMounter *m = g_new0(FexpMounter, 1);
    int ends[2];

    m->socket = -1;
    m->paths = g_ptr_array_new_with_free_func(g_free);
    m->err = -check_device();
    if (m->err)
        return m;
    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends) < 0) {
        m->err = errno;
        return m;
    }
    m->process = fork();
    if (m->process == 0)
        fexp_mount_serve(ends[1]);
    m->err = m->process < 0 ? errno : 0;
    close(ends[1]);
    m->socket = ends[0];
    setsockopt(m->socket, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience));
    if (m->err) {
        close(m->socket);
        m->socket = -1;
    }
    return m;
}

void fexp_mounter_free(FexpMounter *m)
{
    if (!m)
        return;
    if (m->socket >= 0)
        close(m->socket);
    for (int i = 0; m->process > 0 && i < END_MS && !waitpid(m->process, NULL, WNOHANG); i++)
        g_usleep(1000);
    g_ptr_array_unref(m->paths);
    g_free(m);
}

/* ---- orders */

/* The descriptor that came along, or -1. */
static int passed_fd(struct msghdr *message)
{
    struct cmsghdr *head = CMSG_FIRSTHDR(message);
    int fd = -1;

    if (head && head->cmsg_level == SOL_SOCKET && head->cmsg_type == SCM_RIGHTS)
        memcpy(&fd, CMSG_DATA(head), sizeof(int));
    return fd;
}

/* *fd: what came with the answer, or -1. */
static bool order(FexpMounter *m, const FexpAsk *ask, FexpAnswer *answer, int *fd, GError **error)
{
    union {
        char space[CMSG_SPACE(sizeof(int))];
        struct cmsghdr head; /* for its alignment */
    } control;
    struct iovec iov = { answer, sizeof(*answer) };
    struct msghdr message = { .msg_iov = &iov,
                              .msg_iovlen = 1,
                              .msg_control = control.space,
                              .msg_controllen = sizeof(control.space) };

    if (m->socket >= 0 && send(m->socket, ask, sizeof(*ask), MSG_NOSIGNAL) == sizeof(*ask) &&
        recvmsg(m->socket, &message, MSG_CMSG_CLOEXEC) == sizeof(*answer)) {
        *fd = passed_fd(&message);
        answer->text[sizeof(answer->text) - 1] = '\0';
        return answer->ok || tm_error_set(error, "%s", answer->text);
    }
    if (m->socket >= 0) /* a late answer would be taken for that of the next order */
        close(m->socket);
    m->socket = -1;
    return tm_error_set(error, "the process that mounts does not answer any more");
}

int fexp_mount(FexpMounter *m, const char *path, const char *id, bool others, bool *removed,
               GError **error)
{
    FexpAsk ask = { .order = FEXP_MOUNT, .others = others };
    FexpAnswer answer = { .ok = false };
    int fd = -1;

    if (m->sealed || m->err) {
        m->sealed ? tm_error_set(error, "%s", m->sealed)
                  : tm_error_set_errno(error, m->err, "/dev/fuse can't be used");
        return -1;
    }
    g_strlcpy(ask.id, id, sizeof(ask.id));
    if (g_strlcpy(ask.path, path, sizeof(ask.path)) >= sizeof(ask.path)) {
        tm_error_set_errno(error, ENAMETOOLONG, "'%s'", path);
        return -1;
    }
    if (order(m, &ask, &answer, &fd, error) && fd < 0)
        tm_error_set(error, "no descriptor came from the process that mounts");
    *removed = answer.removed;
    if (fd >= 0)
        g_ptr_array_add(m->paths, g_strdup(path));
    return fd;
}

bool fexp_is_mounted(const FexpMounter *m, const char *path)
{
    return g_ptr_array_find_with_equal_func(m->paths, path, g_str_equal, NULL);
}

bool fexp_unmount(FexpMounter *m, const char *path, GError **error)
{
    FexpAsk ask = { .order = FEXP_UNMOUNT };
    FexpAnswer answer;
    int fd = -1;
    guint i;

    if (g_ptr_array_find_with_equal_func(m->paths, path, g_str_equal, &i))
        g_ptr_array_remove_index(m->paths, i);
    g_strlcpy(ask.path, path, sizeof(ask.path));
    return order(m, &ask, &answer, &fd, error);
}

void fexp_mounter_seal(FexpMounter *m, const char *why)
{
    FexpAsk ask = { .order = FEXP_SEAL };
    FexpAnswer answer;
    int fd = -1;

    if (!m || m->sealed || m->err)
        return;
    m->sealed = why;
    order(m, &ask, &answer, &fd, NULL);
}
