/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* client/daemon/runtime_dir.c: see runtime_dir.h. */
#include "client/daemon/runtime_dir.h"

#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

bool tc_runtime_dir_ours(const char *dir)
{
    struct stat st;

    return !lstat(dir, &st) && S_ISDIR(st.st_mode) && st.st_uid == geteuid() &&
           !(st.st_mode & (S_IWGRP | S_IWOTH));
}

char *tc_runtime_dir(void)
{
    const char *given = g_getenv("XDG_RUNTIME_DIR");
    g_autofree char *run = g_strdup_printf("/run/user/%u", (unsigned)geteuid());

    if (given && *given)
        return g_build_filename(given, "tidemark", NULL);
    if (tc_runtime_dir_ours(run))
        return g_build_filename(run, "tidemark", NULL);
    return g_strdup_printf("/tmp/tidemark-%u", (unsigned)geteuid());
}

bool tc_runtime_dir_make(const char *dir, GError **error)
{
    if (g_mkdir_with_parents(dir, 0700))
        return tm_error_set_errno(
            error, errno,
            "Could not make the directory '%s' for sockets (--socket-dir names another)", dir);
    if (!tc_runtime_dir_ours(dir))
        return tm_error_set(error,
                            "'%s' is no directory that only you can write to, so sockets are not "
                            "safe there: use --socket-dir DIR",
                            dir);
    return true;
}

bool tc_socket_listens(const char *path)
{
    struct sockaddr_un address = { .sun_family = AF_UNIX };
    int fd = -1;
    bool listens = false;

    if (strlen(path) < sizeof(address.sun_path)) {
        strcpy(address.sun_path, path);
        fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    }
    if (fd >= 0) {
        /* EAGAIN: it listens, and has many who wait */
        listens = !connect(fd, (struct sockaddr *)&address, sizeof(address)) || errno == EAGAIN;
        close(fd);
    }
    return listens;
}
