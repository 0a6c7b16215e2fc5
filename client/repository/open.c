/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* client/repository/open.c: repositories are made, opened and brought in order. */
#include "client/json.h"
#include "client/repository/last.h"
#include "client/repository/merge.h"
#include "client/repository/repository_internal.h"
#include "util/json.h"
#include "util/log.h"
#include "util/range.h"
#include <glib/gstdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>

#define FORMAT   "tidemark-repository"
#define VERSION  1u
#define FILE_MAX (64u << 10)

/* ---- what a repository says that it is */

static char *file_of(const TcRepository *repo)
{
    return g_build_filename(repo->path, TC_REPO_FILE, NULL);
}

static bool check(TcRepository *repo, const char *path, json_object *o, GError **error)
{
    const char *format = tc_json_string(o, "format"), *id = tc_json_string(o, "id");
    uint64_t version = tc_json_number(o, "version");

    if (g_strcmp0(format, FORMAT) || !version || !id || !g_uuid_string_is_valid(id))
        return tc_repo_error_set(error, TC_REPO_ERROR_DAMAGED,
                                 "'%s' is damaged: it has no format '%s' with a version and an id",
                                 path, FORMAT);
    if (version != VERSION)
        return tm_error_set(error,
                            "repository '%s' has version %" PRIu64
                            ", and this program knows version %u only: use a newer one",
                            repo->path, version, VERSION);
    repo->id = g_strdup(id);
    return true;
}

static bool identify(TcRepository *repo, GError **error)
{
    g_autofree char *path = file_of(repo), *text = NULL;
    g_autoptr(json_object) o = NULL;
    size_t length;

    if (!tc_repo_is(repo->path))
        return tm_error_set(error, "'%s' is not a repository: it has no " TC_REPO_FILE, repo->path);
    if (!repo->place->read(repo, path, FILE_MAX, &text, &length, error))
        return false;
    o = tc_repo_parse(text, length, path, error);
    return o && check(repo, path, o, error);
}

/* ---- making one */

/* Locked. */
static bool found(const TcRepository *repo, GError **error)
{
    g_autofree char *path = file_of(repo), *id = g_uuid_string_random();
    g_autofree char *text = g_strdup_printf(
        "{ \"format\": \"%s\", \"version\": %u, \"id\": \"%s\" }\n", FORMAT, VERSION, id);

    return tc_repo_is(repo->path) ||
           (repo->place->is_empty(repo, error) && repo->place->replace(repo, path, text, error));
}

/* ---- bringing it in order */

/* What can't be removed stays named, and harms nobody. */
static void remove_debris(TcRepository *repo)
{
    for (guint i = 0; i < repo->debris->len;) {
        const char *point = repo->debris->pdata[i];
        g_autofree char *path = g_build_filename(repo->path, point, NULL);
        g_autoptr(GError) error = NULL;

        if (repo->place->remove_point(repo, path, &error)) {
            tm_log(TM_LOG_INFO, "removed '%s', a point that was never completed", path);
            g_ptr_array_remove_index(repo->debris, i);
        } else {
            tm_log(TM_LOG_WARNING, "what is left of a point that was never completed stays: %s",
                   error->message);
            i++;
        }
    }
}

/* Whoever adds a point or reads can do without, but for what is half renamed. */
static bool complete_merge(TcRepository *repo, GError **error)
{
    g_autoptr(GError) failure = NULL;
    TcMergeState state = tc_merge_state(repo);
    bool needed = repo->use == TC_REPO_CHANGE || state == TC_MERGE_ENDING ||
                  (repo->use == TC_REPO_ADD && state == TC_MERGE_DAMAGED);

    if (!needed && (repo->use == TC_REPO_READ || state == TC_MERGE_NONE))
        return true;
    if (!repo->place->relock(repo, TC_REPO_CHANGE)) {
        tc_repo_error_set(
            &failure, TC_REPO_ERROR_LOCKED,
            "the removal of a point from repository '%s' was interrupted and can't go "
            "on while another process uses the repository, or without the permission "
            "to write",
            repo->path);
    } else {
        bool done = tc_merge_recover(repo, &failure);

        repo->place->relock(repo, repo->use);
        if (done)
            return true;
    }
    if (needed) {
        g_propagate_error(error, g_steal_pointer(&failure));
        return false;
    }
    tm_log(TM_LOG_WARNING, "%s", failure->message);
    return true;
}

static bool recover(TcRepository *repo, GError **error)
{
    if (repo->place->merges && !complete_merge(repo, error))
        return false;
    if (repo->use == TC_REPO_ADD || repo->use == TC_REPO_CHANGE) {
        tc_repo_settle_last(repo);
        remove_debris(repo);
    }
    return true;
}

/* ---- opening */

/* Each image of a chain takes some descriptors. */
static void raise_file_limit(void)
{
    struct rlimit limit;

    if (getrlimit(RLIMIT_NOFILE, &limit) == 0 && limit.rlim_cur < limit.rlim_max) {
        limit.rlim_cur = limit.rlim_max;
        setrlimit(RLIMIT_NOFILE, &limit);
    }
}

static bool open_all(TcRepository *repo, const TcRepoOptions *options, GError **error)
{
    /* Nothing is made in what may be no repository. */
    if (!repo->place->prepare(repo, options->create, error) ||
        (!options->create && !identify(repo, error)) || !repo->place->lock(repo, options, error) ||
        (options->create && !found(repo, error)))
        return false;
    return (repo->id || identify(repo, error)) && tc_repo_scan(repo, error) &&
           (repo->use == TC_REPO_LIST || recover(repo, error));
}

/* The path of the directory itself, if @path is a link: inside it, none is followed. Returned. */
static char *directory_of(const char *path)
{
    g_autofree char *name = g_strdup(path);
    GStatBuf st;
    char *real;

    for (size_t n = strlen(name); n > 1 && name[n - 1] == '/'; n--)
        name[n - 1] = '\0';
    if (g_lstat(name, &st) < 0 || !S_ISLNK(st.st_mode))
        return g_steal_pointer(&name);
    real = realpath(name, NULL);
    if (!real)
        return g_steal_pointer(&name);
    g_free(g_steal_pointer(&name));
    name = g_strdup(real);
    free(real);
    return g_steal_pointer(&name);
}

TcRepository *tc_repo_open(const char *path, const TcRepoOptions *options, GError **error)
{
    g_autoptr(TcRepository) repo = g_new0(TcRepository, 1);

    repo->sys = options->sys ? options->sys : &tm_sys_nofollow;
    repo->place = tc_repo_place_of(path);
    repo->path = directory_of(path);
    repo->use = options->use;
    repo->lock_fd = -1;
    raise_file_limit();
    return open_all(repo, options, error) ? g_steal_pointer(&repo) : NULL;
}

void tc_repo_close(TcRepository *repo)
{
    if (!repo)
        return;
    repo->place->unlock(repo);
    if (repo->place->close)
        repo->place->close(repo);
    g_clear_pointer(&repo->points, g_ptr_array_unref);
    g_clear_pointer(&repo->damaged, g_ptr_array_unref);
    g_clear_pointer(&repo->debris, g_ptr_array_unref);
    g_clear_pointer(&repo->foreign, g_ptr_array_unref);
    tc_manifest_free(repo->going);
    g_free(repo->path);
    g_free(repo->id);
    g_free(repo);
}
