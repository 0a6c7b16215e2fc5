/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* client/repository/bucket_spool.c: see bucket.h. */
#include "client/repository/bucket.h"
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <glib/gstdio.h>
#include <string.h>
#include <sys/file.h>
#include <unistd.h>

#define BEGIN "tidemark-spool-"

static const char *parent(void)
{
    const char *dir = g_getenv("TMPDIR");

    return dir && *dir ? dir : "/var/tmp";
}

static int remove_one(const char *path, const struct stat *st, int type, struct FTW *where)
{
    return remove(path);
}

static void remove_tree(const char *path)
{
    nftw(path, remove_one, 16, FTW_DEPTH | FTW_PHYS | FTW_MOUNT);
}

/* A directory of ours, itself. The descriptor, or -1. */
static int open_own(const char *path)
{
    int fd = open(path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    struct stat st;

    if (fd >= 0 && fstat(fd, &st) == 0 && st.st_uid == geteuid())
        return fd;
    if (fd >= 0)
        close(fd);
    return -1;
}

/* Those that nobody keeps. */
static void remove_left_over(void)
{
    g_autoptr(GDir) dir = g_dir_open(parent(), 0, NULL);
    const char *name;

    while (dir && (name = g_dir_read_name(dir))) {
        g_autofree char *path = g_build_filename(parent(), name, NULL);
        int fd = g_str_has_prefix(name, BEGIN) ? open_own(path) : -1;

        if (fd >= 0 && flock(fd, LOCK_EX | LOCK_NB) == 0)
            remove_tree(path);
        if (fd >= 0)
            close(fd);
    }
}

char *tc_spool_new(int *fd, GError **error)
{
    enum { TRIES = 10 };

    remove_left_over();
    for (int i = 0; i < TRIES; i++) {
        g_autofree char *path = g_build_filename(parent(), BEGIN "XXXXXX", NULL);
        struct stat st;

        if (!g_mkdtemp(path)) {
            tm_error_set_errno(error, errno, "Could not make a directory in '%s'", parent());
            return NULL;
        }
        *fd = open_own(path);
        /* somebody may have taken it for left over before it was locked */
        if (*fd >= 0 && flock(*fd, LOCK_EX | LOCK_NB) == 0 && stat(path, &st) == 0)
            return g_steal_pointer(&path);
        if (*fd >= 0)
            close(*fd);
    }
    tm_error_set(error, "Could not keep a directory in '%s'", parent());
    return NULL;
}

void tc_spool_free(char *path, int fd)
{
    if (!path)
        return;
    remove_tree(path);
    close(fd);
    g_free(path);
}
