/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* client/report/daemon.c: what a daemon answers about itself. */
#include "client/report/gather.h"

#include <errno.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

/* Those that change nothing, and show neither contents of disks nor secrets. A daemon that has not
 * a command, such as qemu-storage-daemon, reports that. */
static const char *const commands[] = {
    "query-version",
    "query-status",
    "query-named-block-nodes",
    "query-block-exports",
    "query-nbd-servers",
    "query-nbd-sessions",
    "query-block-export-contexts",
    "query-blockstats",
    "query-objects",
    "query-iothreads",
    "query-chardev",
    "query-jobs",
    "query-block-jobs",
    "query-backups",
    "query-log-levels",
    "query-log",
    NULL,
};

/* The time that a conversation has. */
typedef struct Time {
    gint64 until; /* monotonic */
    unsigned seconds;
    bool over;
} Time;

/* A TcQmpWait. */
static bool wait_in_time(int fd, void *opaque, GError **error)
{
    struct pollfd p = { .fd = fd, .events = POLLIN };
    Time *time = opaque;
    int ready = 0;

    while (ready <= 0 && !time->over) {
        gint64 left = (time->until - g_get_monotonic_time()) / 1000;

        time->over = left <= 0;
        ready = time->over ? 0 : poll(&p, 1, (int)left);
    }
    return !time->over || tm_error_set(error, "no answer within %u seconds", time->seconds);
}

json_object *tc_report_queries(const char *socket, unsigned seconds, GError **error)
{
    Time time = { .until = g_get_monotonic_time() + (gint64)seconds * G_USEC_PER_SEC,
                  .seconds = seconds };
    g_autoptr(TcQmp) qmp = tc_qmp_open_waiting(socket, wait_in_time, &time, error);
    json_object *answers = qmp ? json_object_new_object() : NULL;

    for (unsigned i = 0; qmp && commands[i] && !time.over; i++) {
        g_autoptr(GError) why = NULL;
        json_object *answer = tc_qmp_execute(qmp, commands[i], NULL, &why);

        json_object_object_add(answers, commands[i],
                               answer ? answer : tc_report_error(why->message));
    }
    return answers;
}

pid_t tc_report_listener(const char *socket_path, GError **error)
{
    struct sockaddr_un address = { .sun_family = AF_UNIX };
    struct timeval limit = { .tv_sec = 1 };
    struct ucred peer = { 0 };
    socklen_t size = sizeof(peer);
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

    g_strlcpy(address.sun_path, socket_path, sizeof(address.sun_path));
    if (fd < 0 || setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof(limit)) < 0 ||
        connect(fd, (struct sockaddr *)&address, sizeof(address)) < 0)
        tm_error_set_errno(error, errno, "no daemon at socket '%s'", socket_path);
    else
        getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &size);
    if (fd >= 0)
        close(fd);
    return peer.pid;
}

static void add_path(GPtrArray *paths, const char *name, const char *cwd)
{
    g_autofree char *path = NULL;

    if (!name || !*name || strstr(name, "://") || g_str_has_prefix(name, "json:"))
        return;
    if (!g_path_is_absolute(name) && !cwd)
        return;
    path = g_path_is_absolute(name) ? g_strdup(name) : g_build_filename(cwd, name, NULL);
    for (guint i = 0; i < paths->len; i++) {
        if (!strcmp(paths->pdata[i], path))
            return;
    }
    g_ptr_array_add(paths, g_steal_pointer(&path));
}

void tc_report_paths(json_object *queries, const char *cwd, GPtrArray *paths)
{
    json_object *nodes = tc_json_get(queries, "query-named-block-nodes", NULL);

    for (size_t i = 0;
         json_object_is_type(nodes, json_type_array) && i < json_object_array_length(nodes); i++)
        add_path(paths,
                 tc_json_string(tc_json_get(json_object_array_get_idx(nodes, i), "image", NULL),
                                "filename"),
                 cwd);
}
