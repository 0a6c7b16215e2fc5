/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* client/backup/freeze_record.c: see freeze_record.h. */
#include "client/backup/freeze_record.h"
#include <errno.h>
#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

enum { FLAGS = O_RDWR | O_CREAT | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC };

static char *path_of(const char *socket)
{
    return g_strconcat(socket, TC_FREEZE_RECORD, NULL);
}

/* Whether @fd, which is locked, has not been removed before that. */
static bool is_there(int fd)
{
    struct stat st;

    return fstat(fd, &st) == 0 && st.st_nlink > 0;
}

bool tc_freeze_record_take(const char *socket, int *fd, bool *left, GError **error)
{
    g_autofree char *path = path_of(socket);

    for (;;) {
        *left = false;
        *fd = open(path, FLAGS | O_EXCL, 0600);
        if (*fd < 0 && errno == EEXIST) {
            *left = true;
            *fd = open(path, FLAGS, 0600);
        }
        if (*fd < 0) {
            *left = false;
            return true;
        }
        if (flock(*fd, LOCK_EX | LOCK_NB) < 0)
            break;
        if (is_there(*fd))
            return true;
        close(*fd);
    }
    close(*fd);
    *fd = -1;
    return tm_error_set(error,
                        "guest agent '%s': another backup has frozen the guest, or is about to "
                        "('%s' is locked)",
                        socket, path);
}

void tc_freeze_record_remove(const char *socket, int fd)
{
    g_autofree char *path = path_of(socket);

    if (fd < 0)
        return;
    unlink(path);
    close(fd);
}

void tc_freeze_record_leave(int fd)
{
    if (fd >= 0)
        close(fd);
}
