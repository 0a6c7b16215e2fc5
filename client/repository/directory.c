/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* client/repository/directory.c: repositories that are directories. Links are followed nowhere
 * inside. */
#include "client/repository/merge.h"
#include "client/repository/repository_internal.h"
#include "util/file.h"
#include <errno.h>
#include <glib/gstdio.h>
#include <string.h>
#include <unistd.h>

/* ---- the repository as a whole */

static bool is(const char *path)
{
    g_autofree char *file = g_build_filename(path, TC_REPO_FILE, NULL);

    return g_file_test(file, G_FILE_TEST_EXISTS);
}

static bool is_empty(const TcRepository *repo, GError **error)
{
    g_autoptr(GDir) dir = NULL;
    const char *name;

    if (!g_file_test(repo->path, G_FILE_TEST_IS_DIR))
        return tm_error_set(error, "'%s' is not a directory", repo->path);
    dir = g_dir_open(repo->path, 0, error);
    while (dir && (name = g_dir_read_name(dir)))
        if (strcmp(name, TC_REPO_LOCK) && strcmp(name, TC_REPO_FILE TM_FILE_PARTIAL) &&
            strcmp(name, "lost+found"))
            return tm_error_set(error,
                                "'%s' is neither a repository nor an empty directory: it has '%s' "
                                "and no " TC_REPO_FILE,
                                repo->path, name);
    return dir != NULL;
}

static bool make_directory(const TcRepository *repo, GError **error)
{
    if (g_mkdir(repo->path, 0700) == 0)
        return tc_repo_sync_name(repo->sys, repo->path, error);
    if (errno == EEXIST)
        return is(repo->path) || is_empty(repo, error);
    return tm_error_set_errno(error, errno, "Could not create directory '%s'", repo->path);
}

static bool prepare(TcRepository *repo, bool create, GError **error)
{
    GStatBuf st;

    if (create && !make_directory(repo, error))
        return false;
    if (g_stat(repo->path, &st) < 0)
        return tm_error_set_errno(error, errno, "Could not open repository '%s'", repo->path);
    return S_ISDIR(st.st_mode) || tm_error_set(error, "'%s' is not a directory", repo->path);
}

/* ---- names and small files */

static GPtrArray *list(const TcRepository *repo, const char *path, GError **error)
{
    g_autoptr(GDir) dir = g_dir_open(path, 0, error);
    GPtrArray *names = dir ? g_ptr_array_new_with_free_func(g_free) : NULL;
    const char *name;

    while (dir && (name = g_dir_read_name(dir)))
        g_ptr_array_add(names, g_strdup(name));
    return names;
}

static bool exists(const TcRepository *repo, const char *path)
{
    return tc_repo_exists(path);
}

static bool is_readable(const TcRepository *repo, const char *path)
{
    return access(path, R_OK) == 0;
}

static bool is_directory(const TcRepository *repo, const char *path)
{
    return tc_repo_is_directory(path);
}

static uint64_t occupied(const TcRepository *repo, const char *path)
{
    GStatBuf st;

    return g_lstat(path, &st) == 0 && S_ISREG(st.st_mode) ? (uint64_t)st.st_blocks * 512
                                                          : UINT64_MAX;
}

static bool read_file(const TcRepository *repo, const char *path, size_t max, char **text,
                      size_t *length, GError **error)
{
    return tc_repo_read_file(path, max, text, length, error);
}

static bool replace(const TcRepository *repo, const char *path, const char *text, GError **error)
{
    return tm_file_replace(repo->sys, path, text, 0600, error);
}

/* ---- points */

/* The directory, with the file that says what it is. */
static bool begin_point(const TcRepository *repo, const char *path, bool *made, GError **error)
{
    g_autofree char *partial = g_build_filename(path, TC_MANIFEST_PARTIAL, NULL);
    g_autofree char *name = g_path_get_basename(path);
    int fd;

    if (g_mkdir(path, 0700) < 0)
        return errno == EEXIST ? tc_repo_name_taken(repo, name, error)
                               : tm_error_set_errno(error, errno, "Could not create '%s'", path);
    *made = true;
    fd = repo->sys->open(partial, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    if (fd < 0)
        return tm_error_set_errno(error, errno, "Could not create '%s'", partial);
    repo->sys->close(fd);
    return true;
}

static char *work_path(const TcRepository *repo, const char *path)
{
    return g_strdup(path);
}

/* The names of the files, and that of the directory. */
static bool end_point(const TcRepository *repo, const char *path, const GPtrArray *files,
                      GError **error)
{
    g_autofree char *partial = g_build_filename(path, TC_MANIFEST_PARTIAL, NULL);

    return tc_repo_sync_name(repo->sys, partial, error) &&
           tc_repo_sync_name(repo->sys, path, error);
}

static bool withdraw(const TcRepository *repo, const char *point, GError **error)
{
    g_autofree char *manifest = tc_repo_file(repo, point, NULL, TC_MANIFEST_NAME);
    g_autofree char *partial = tc_repo_file(repo, point, NULL, TC_MANIFEST_PARTIAL);

    if (repo->sys->rename(manifest, partial) < 0 && errno != ENOENT)
        return tm_error_set_errno(error, errno, "Could not remove '%s'", manifest);
    return tc_repo_sync_name(repo->sys, manifest, error);
}

static bool remove_point(const TcRepository *repo, const char *path, GError **error)
{
    return tc_repo_remove_directory(repo->sys, path, error);
}

/* ---- images and hashes */

static int open_head(const TcRepository *repo, const char *path, struct stat *st, GError **error)
{
    return tc_repo_open_file(path, st, error);
}

static json_object *image(const TcRepository *repo, const char *path)
{
    return tc_repo_file_options(path, false);
}

static TcHashes *open_hashes(const TcRepository *repo, const char *path, const char *tree,
                             uint64_t size, GError **error)
{
    return tc_hashes_open(repo->sys, path, tree, size, error);
}

const TcRepoPlace tc_repo_directory = {
    .merges = true,
    .is = is,
    .prepare = prepare,
    .is_empty = is_empty,
    .lock = tc_directory_lock,
    .unlock = tc_directory_unlock,
    .relock = tc_directory_relock,
    .is_written = tc_directory_is_written,
    .tag = tc_directory_tag,
    .list = list,
    .exists = exists,
    .is_readable = is_readable,
    .is_directory = is_directory,
    .occupied = occupied,
    .read = read_file,
    .replace = replace,
    .begin_point = begin_point,
    .work_path = work_path,
    .end_point = end_point,
    .withdraw = withdraw,
    .remove_point = remove_point,
    .open_head = open_head,
    .image = image,
    .open_hashes = open_hashes,
};
