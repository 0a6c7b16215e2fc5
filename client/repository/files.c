/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* client/repository/files.c: the files of a repository, written and removed for good. */
#include "client/repository/repository_internal.h"
#include "util/file.h"
#include <errno.h>
#include <fcntl.h>
#include <glib/gstdio.h>
#include <string.h>
#include <unistd.h>

bool tc_repo_exists(const char *path)
{
    GStatBuf st;

    return g_lstat(path, &st) == 0;
}

bool tc_repo_is_directory(const char *path)
{
    GStatBuf st;

    return g_lstat(path, &st) == 0 && S_ISDIR(st.st_mode);
}

int tc_repo_open_file(const char *path, struct stat *st, GError **error)
{
    int fd = tm_sys_nofollow.open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY, 0);
    int errnum = errno;

    if (fd >= 0 && fstat(fd, st) == 0 && S_ISREG(st->st_mode))
        return fd;
    if (fd >= 0)
        close(fd);
    if (fd < 0 && (errnum == ENOENT || errnum == ENOTDIR))
        tc_repo_error_set(error, TC_REPO_ERROR_DAMAGED, "'%s' is not there", path);
    else if (fd < 0 && errnum != ELOOP)
        tm_error_set_errno(error, errnum, "Could not open '%s'", path);
    else
        tc_repo_error_set(error, TC_REPO_ERROR_DAMAGED, "'%s' is damaged: it is not a regular file",
                          path);
    return -1;
}

bool tc_repo_read_file(const char *path, size_t max, char **text, size_t *length, GError **error)
{
    g_autofree char *buf = NULL;
    struct stat st;
    int fd = tc_repo_open_file(path, &st, error);
    ssize_t n = -1;

    if (fd < 0)
        return false;
    if ((uint64_t)st.st_size > max || !(buf = g_try_malloc((size_t)st.st_size + 1)))
        tm_error_set(error, "Unable to read '%s': it has %" PRIu64 " bytes, expected at most %zu",
                     path, (uint64_t)st.st_size, max);
    else
        n = tm_file_fill(fd, path, buf, (size_t)st.st_size, error);
    close(fd);
    if (n < 0)
        return false;
    buf[n] = '\0';
    *text = g_steal_pointer(&buf);
    *length = (size_t)n;
    return true;
}

bool tc_repo_sync_name(const TmSys *sys, const char *path, GError **error)
{
    int ret = tm_file_sync_name(sys, path);

    return ret == 0 || tm_error_set_errno(error, -ret, "Could not make '%s' durable", path);
}

bool tc_repo_is_own_file(const char *name)
{
    static const char *const whole[] = { TC_MANIFEST_NAME, TC_MANIFEST_PARTIAL, TC_REPO_VERIFIED,
                                         TC_REPO_VERIFIED TM_FILE_PARTIAL, NULL };
    static const char *const suffixes[] = { ".qcow2", ".hashes", ".hashes.merged", NULL };

    if (g_strv_contains(whole, name))
        return true;
    for (const char *const *s = suffixes; *s; s++) {
        if (g_str_has_suffix(name, *s)) {
            g_autofree char *disk = g_strndup(name, strlen(name) - strlen(*s));

            return tc_point_check_name("disk", disk, NULL);
        }
    }
    return false;
}

/* Our files but the one that says what the directory is, which goes last. */
static bool remove_files(const TmSys *sys, const char *path, GError **error)
{
    g_autoptr(GDir) dir = g_dir_open(path, 0, error);
    const char *name;

    while (dir && (name = g_dir_read_name(dir))) {
        g_autofree char *file = g_build_filename(path, name, NULL);

        if (!strcmp(name, TC_MANIFEST_PARTIAL) || !tc_repo_is_own_file(name))
            continue;
        if (sys->unlink(file) < 0 && errno != ENOENT)
            return tm_error_set_errno(error, errno, "Could not remove '%s'", file);
    }
    return dir != NULL;
}

bool tc_repo_remove_directory(const TmSys *sys, const char *path, GError **error)
{
    g_autofree char *partial = g_build_filename(path, TC_MANIFEST_PARTIAL, NULL);

    if (!tc_repo_is_directory(path))
        return tc_repo_error_set(error, TC_REPO_ERROR_DAMAGED,
                                 "'%s' is damaged: it is not a directory", path);
    if (!remove_files(sys, path, error))
        return false;
    if (sys->unlink(partial) < 0 && errno != ENOENT)
        return tm_error_set_errno(error, errno, "Could not remove '%s'", partial);
    if (g_rmdir(path) < 0)
        return tm_error_set_errno(error, errno, "Could not remove '%s'", path);
    return tc_repo_sync_name(sys, path, error);
}
