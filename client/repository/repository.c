/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* client/repository/repository.c: the points of a repository: found, replaced and removed. */
#include "client/repository/repository.h"
#include "block/node.h"
#include "client/repository/repository_internal.h"
#include "util/range.h"
#include <string.h>

const char *tc_repo_path(const TcRepository *repo)
{
    return repo->path;
}

const char *tc_repo_id(const TcRepository *repo)
{
    return repo->id;
}

const TmSys *tc_repo_sys(const TcRepository *repo)
{
    return repo->sys;
}

const GPtrArray *tc_repo_points(const TcRepository *repo)
{
    return repo->points;
}

const GPtrArray *tc_repo_damaged(const TcRepository *repo)
{
    return repo->damaged;
}

const GPtrArray *tc_repo_debris(const TcRepository *repo)
{
    return repo->debris;
}

const GPtrArray *tc_repo_foreign(const TcRepository *repo)
{
    return repo->foreign;
}

char *tc_repo_file(const TcRepository *repo, const char *point, const char *disk,
                   const char *suffix)
{
    g_autofree char *name = disk ? g_strconcat(disk, ".", suffix, NULL) : g_strdup(suffix);

    return g_build_filename(repo->path, point, name, NULL);
}

bool tc_repo_has(const TcRepository *repo, const char *path)
{
    return repo->place->exists(repo, path);
}

bool tc_repo_is_readable(const TcRepository *repo, const char *path)
{
    return repo->place->is_readable(repo, path);
}

/* ---- the place */

const TcRepoPlace *tc_repo_place_of(const char *path)
{
    return tc_repo_is_bucket(path) ? &tc_repo_bucket : &tc_repo_directory;
}

bool tc_repo_is_bucket(const char *path)
{
    return g_str_has_prefix(path, "s3://");
}

bool tc_repo_is(const char *path)
{
    return tc_repo_place_of(path)->is(path);
}

int tc_repo_lock_fd(const TcRepository *repo)
{
    return repo->lock_fd;
}

char *tc_repo_place(const TcRepository *repo)
{
    return repo->place->tag(repo);
}

bool tc_repo_is_written(const TcRepository *repo)
{
    return repo->place->is_written(repo);
}

void tc_repo_sent(const TcRepository *repo, uint64_t *done, uint64_t *total)
{
    *done = *total = 0;
    if (repo->place->sent)
        repo->place->sent(repo, done, total);
}

bool tc_repo_name_taken(const TcRepository *repo, const char *point, GError **error)
{
    return tm_error_set(error, "repository '%s' has '%s' already: choose another --name",
                        repo->path, point);
}

/* ---- finding */

TcManifest *tc_repo_point(const TcRepository *repo, const char *name)
{
    for (guint i = 0; i < repo->points->len; i++) {
        TcManifest *m = repo->points->pdata[i];

        if (!strcmp(m->point, name))
            return m;
    }
    return NULL;
}

TcManifest *tc_repo_standing(const TcRepository *repo, const char *name)
{
    return repo->going && !strcmp(repo->going->point, name) ? repo->going
                                                            : tc_repo_point(repo, name);
}

static TcManifest *find_time(const TcRepository *repo, uint64_t end)
{
    for (guint i = repo->points->len; i-- > 0;) {
        TcManifest *m = repo->points->pdata[i];

        if (m->instant < end)
            return m;
    }
    return NULL;
}

/* "it has a, b and c", or the newest of many. Returned. */
static char *what_there_is(const TcRepository *repo)
{
    const guint many = 5;
    GString *text = g_string_new(NULL);
    guint n = repo->points->len;

    if (!n)
        g_string_append(text, "it has no points");
    for (guint i = n > many ? n - many : 0; i < n; i++)
        g_string_append_printf(text, "%s%s",
                               text->len  ? i + 1 == n ? " and " : ", "
                               : n > many ? "its newest points are "
                                          : "it has ",
                               ((TcManifest *)repo->points->pdata[i])->point);
    return g_string_free(text, FALSE);
}

static const char *why_damaged(const TcRepository *repo, const char *point)
{
    for (guint i = 0; i < repo->damaged->len; i++) {
        const TcDamaged *d = repo->damaged->pdata[i];

        if (!strcmp(d->point, point))
            return d->why;
    }
    return NULL;
}

bool tc_repo_fail_name(const TcRepository *repo, const char *name, GError **error)
{
    g_autofree char *there = what_there_is(repo);
    const char *why = why_damaged(repo, name);

    return why ? tc_repo_error_set(error, TC_REPO_ERROR_DAMAGED, "point '%s' is damaged: %s", name,
                                   why)
               : tm_error_set(error, "repository '%s' has no point '%s': %s", repo->path, name,
                              there);
}

TcManifest *tc_repo_find(const TcRepository *repo, const char *at, GError **error)
{
    TcManifest *m = tc_repo_point(repo, at);
    g_autofree char *there = what_there_is(repo);
    bool latest = !strcmp(at, "latest");
    uint64_t end;

    if (m)
        return m;
    if (why_damaged(repo, at)) {
        tc_repo_fail_name(repo, at, error);
        return NULL;
    }
    if (!latest && !tc_repo_parse_time(at, &end)) {
        tm_error_set(error,
                     "repository '%s' has no point '%s', and that is not a time such as "
                     "'2026-11-28 13:00': %s",
                     repo->path, at, there);
        return NULL;
    }
    m = find_time(repo, latest ? UINT64_MAX : end);
    if (!m && !latest && repo->points->len)
        tm_error_set(error, "repository '%s' has no point at or before %s: its oldest one is '%s'",
                     repo->path, at, ((TcManifest *)repo->points->pdata[0])->point);
    else if (!m)
        tm_error_set(error, "repository '%s' has no point that can be used: %s", repo->path, there);
    return m;
}

TcManifest *tc_repo_newest(const TcRepository *repo, const char *name)
{
    for (guint i = repo->points->len; i-- > 0;)
        if (tc_manifest_disk(repo->points->pdata[i], name))
            return repo->points->pdata[i];
    return NULL;
}

GPtrArray *tc_repo_children(const TcRepository *repo, const TcManifest *point, const char *name)
{
    GPtrArray *children = g_ptr_array_new();

    for (guint i = 0; i < repo->points->len; i++) {
        TcPointDisk *d = tc_manifest_disk(repo->points->pdata[i], name);

        if (d && tc_point_disk_stands_on(d, point))
            g_ptr_array_add(children, repo->points->pdata[i]);
    }
    return children;
}

/* ---- chains */

static bool in_chain(const GPtrArray *chain, const TcManifest *m)
{
    return g_ptr_array_find((GPtrArray *)chain, m, NULL);
}

/* What @disk of the last point of @chain stands on. */
static TcManifest *step(const TcRepository *repo, const GPtrArray *chain, const TcPointDisk *disk,
                        GError **error)
{
    const char *top = ((TcManifest *)chain->pdata[0])->point;
    TcManifest *m = tc_repo_standing(repo, disk->parent);
    const TcPointDisk *below = m ? tc_manifest_disk(m, disk->name) : NULL;

    if (!m)
        tc_repo_error_set(error, TC_REPO_ERROR_DAMAGED,
                          "disk '%s' of point '%s' stands on point '%s', which %s", disk->name, top,
                          disk->parent,
                          why_damaged(repo, disk->parent) ? "is damaged" : "is not there");
    else if (!below)
        tc_repo_error_set(error, TC_REPO_ERROR_DAMAGED,
                          "disk '%s' of point '%s' stands on point '%s', which has no such disk",
                          disk->name, top, disk->parent);
    else if (below->size != disk->size)
        tc_repo_error_set(error, TC_REPO_ERROR_DAMAGED,
                          "disk '%s' of point '%s' has %" PRIu64 " bytes, and %" PRIu64
                          " in point '%s', on which it stands",
                          disk->name, top, disk->size, below->size, m->point);
    else if (in_chain(chain, m) || chain->len >= BLK_IMAGE_CHAIN_MAX)
        tc_repo_error_set(error, TC_REPO_ERROR_DAMAGED,
                          "the chain of disk '%s' of point '%s' is %s", disk->name, top,
                          in_chain(chain, m) ? "a circle" : "too long");
    else if (!tc_point_disk_stands_on(disk, m))
        tc_repo_error_set(error, TC_REPO_ERROR_DAMAGED,
                          "disk '%s' of point '%s' stands on another point '%s' than the one that "
                          "is there: its id was %s, not %s",
                          disk->name, top, m->point, disk->parent_id, m->id);
    else
        return m;
    return NULL;
}

GPtrArray *tc_repo_chain(const TcRepository *repo, const TcManifest *point, const char *disk,
                         GError **error)
{
    g_autoptr(GPtrArray) chain = g_ptr_array_new();
    const TcPointDisk *d = tc_manifest_disk(point, disk);

    if (!d) {
        tm_error_set(error, "point '%s' has no disk '%s'", point->point, disk);
        return NULL;
    }
    g_ptr_array_add(chain, (gpointer)point);
    while (d->parent) {
        TcManifest *m = step(repo, chain, d, error);

        if (!m)
            return NULL;
        g_ptr_array_add(chain, m);
        d = tc_manifest_disk(m, disk);
    }
    return g_steal_pointer(&chain);
}

/* ---- changing */

/* The oldest first. */
static int by_order(gconstpointer a, gconstpointer b)
{
    const TcManifest *const *x = a, *const *y = b;

    if ((*x)->order != (*y)->order)
        return (*x)->order < (*y)->order ? -1 : 1;
    return strcmp((*x)->point, (*y)->point);
}

void tc_repo_sort(TcRepository *repo)
{
    g_ptr_array_sort(repo->points, by_order);
}

void tc_repo_add_point(TcRepository *repo, TcManifest *manifest)
{
    TcManifest *old = tc_repo_point(repo, manifest->point);

    if (old)
        g_ptr_array_remove(repo->points, old);
    g_ptr_array_add(repo->points, manifest);
    tc_repo_sort(repo);
}

bool tc_repo_replace(TcRepository *repo, TcManifest *manifest, GError **error)
{
    g_autofree char *path = tc_repo_file(repo, manifest->point, NULL, TC_MANIFEST_NAME);
    g_autofree char *text = tc_manifest_text(manifest);

    if (!repo->place->replace(repo, path, text, error))
        return false;
    tc_repo_add_point(repo, manifest);
    return true;
}

static void drop_debris(TcRepository *repo, const char *point)
{
    guint i;

    if (g_ptr_array_find_with_equal_func(repo->debris, point, g_str_equal, &i))
        g_ptr_array_remove_index(repo->debris, i);
}

bool tc_repo_remove(TcRepository *repo, const char *point, GError **error)
{
    g_autofree char *path = g_build_filename(repo->path, point, NULL);
    TcManifest *m;

    if (!tc_point_check_name("point", point, error))
        return false;
    if (!repo->place->withdraw(repo, point, error) || !repo->place->remove_point(repo, path, error))
        return false;
    drop_debris(repo, point);
    m = tc_repo_point(repo, point);
    if (m)
        g_ptr_array_remove(repo->points, m);
    if (repo->going && !strcmp(repo->going->point, point))
        g_clear_pointer(&repo->going, tc_manifest_free);
    return true;
}
