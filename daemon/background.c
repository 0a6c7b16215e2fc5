/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* daemon/background.c: see the header. */
#include "daemon/daemon.h"

#include "util/error.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <unistd.h>

int background_start(GError **error)
{
    int fds[2];
    pid_t child;

    if (pipe2(fds, O_CLOEXEC) < 0 || (child = fork()) < 0) {
        tm_error_set_errno(error, errno, "--daemonize: cannot fork");
        return -1;
    }
    if (child) {
        char up;
        ssize_t n;

        close(fds[1]);
        do
            n = read(fds[0], &up, 1);
        while (n < 0 && errno == EINTR);
        _exit(n == 1 ? EXIT_SUCCESS : EXIT_FAILURE); /* the child has said why */
    }
    close(fds[0]);
    setsid();
    return fds[1];
}

bool background_ready(int fd, GError **error)
{
    int null = open("/dev/null", O_RDWR | O_CLOEXEC);

    if (null < 0 || chdir("/") < 0)
        return tm_error_set_errno(error, errno, "--daemonize: cannot detach");
    for (int i = 0; i < 3; i++)
        dup2(null, i);
    close(null);
    if (write(fd, "", 1) != 1)
        return tm_error_set_errno(error, errno, "--daemonize: the parent is gone");
    close(fd);
    return true;
}
