/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* client/repository/scan.c: what there is in a repository.
 *
 * A directory with a manifest is a point, or a damaged one. One that has only the manifest's
 * partial file, or nothing, is what an interrupted command left. One that has images and neither
 * has lost its manifest. Links are followed nowhere. */
#include "client/repository/merge.h"
#include "client/repository/repository_internal.h"
#include <errno.h>
#include <string.h>

#define MANIFEST_MAX (UINT64_C(16) << 20)

static void damaged_free(void *data)
{
    TcDamaged *d = data;

    g_free(d->point);
    g_free(d->why);
    g_free(d);
}

static void add_damaged(TcRepository *repo, const char *point, const char *why)
{
    TcDamaged *d = g_new0(TcDamaged, 1);

    d->point = g_strdup(point);
    d->why = g_strdup(why);
    g_ptr_array_add(repo->damaged, d);
}

static bool exists(const TcRepository *repo, const char *point, const char *name)
{
    g_autofree char *path = g_build_filename(repo->path, point, name, NULL);

    return tc_repo_has(repo, path);
}

/* The manifest, or why there is none. */
static TcManifest *load(const TcRepository *repo, const char *point, GError **error)
{
    g_autofree char *path = tc_repo_file(repo, point, NULL, TC_MANIFEST_NAME);
    g_autofree char *text = NULL;
    size_t length;

    return repo->place->read(repo, path, MANIFEST_MAX, &text, &length, error)
               ? tc_manifest_parse(text, length, path, point, error)
               : NULL;
}

/* Of a directory without a manifest. */
static void sort_out(TcRepository *repo, const char *point)
{
    g_autofree char *path = g_build_filename(repo->path, point, NULL);
    g_autoptr(GPtrArray) names = repo->place->list(repo, path, NULL);
    bool ours = false;

    for (guint i = 0; names && i < names->len; i++)
        ours = ours || tc_repo_is_own_file(names->pdata[i]);
    if (exists(repo, point, TC_MANIFEST_PARTIAL) || (names && !names->len))
        g_ptr_array_add(repo->debris, g_strdup(point));
    else if (!names || ours)
        add_damaged(repo, point, names ? "it has no " TC_MANIFEST_NAME : "it can't be read");
    else
        g_ptr_array_add(repo->foreign, g_strdup(point));
}

/* Whether there was no room to read it, which says nothing of the point. */
static bool is_want(const GError *error)
{
    int errnum = tm_error_errno(error);

    return errnum == EMFILE || errnum == ENFILE || errnum == ENOMEM;
}

static bool take_point(TcRepository *repo, const char *point, GError **error)
{
    g_autoptr(GError) why = NULL;
    TcManifest *manifest;

    if (!exists(repo, point, TC_MANIFEST_NAME)) {
        sort_out(repo, point);
        return true;
    }
    manifest = load(repo, point, &why);
    if (manifest) {
        g_ptr_array_add(repo->points, manifest);
    } else if (is_want(why)) {
        g_propagate_error(error, g_steal_pointer(&why));
        return false;
    } else {
        add_damaged(repo, point, why->message);
    }
    return true;
}

static bool take(TcRepository *repo, const char *name, GError **error)
{
    static const char *const ours[] = { TC_REPO_FILE,
                                        TC_REPO_FILE TM_FILE_PARTIAL,
                                        TC_REPO_LOCK,
                                        TC_REPO_MERGE,
                                        TC_REPO_MERGE TM_FILE_PARTIAL,
                                        TC_REPO_LAST,
                                        TC_REPO_LAST TM_FILE_PARTIAL,
                                        NULL };
    g_autofree char *path = g_build_filename(repo->path, name, NULL);

    if (repo->place->is_directory(repo, path) && tc_point_check_name("point", name, NULL))
        return take_point(repo, name, error);
    if (!g_strv_contains(ours, name))
        g_ptr_array_add(repo->foreign, g_strdup(name));
    return true;
}

static int by_text(gconstpointer a, gconstpointer b)
{
    const char *const *x = a, *const *y = b;

    return strcmp(*x, *y);
}

static int by_point(gconstpointer a, gconstpointer b)
{
    const TcDamaged *const *x = a, *const *y = b;

    return strcmp((*x)->point, (*y)->point);
}

static void renew(GPtrArray **array, GDestroyNotify destroy)
{
    g_clear_pointer(array, g_ptr_array_unref);
    *array = g_ptr_array_new_with_free_func(destroy);
}

/* The point that is going is none any more. Whoever has no lock sees the child as it will be, where
 * its files are that already. */
static void hide_going(TcRepository *repo)
{
    g_autoptr(GError) error = NULL;
    g_autofree char *name = tc_merge_pending(repo->path, &error);
    TcManifest *point = name ? tc_repo_point(repo, name) : NULL;
    guint i;

    g_clear_pointer(&repo->going, tc_manifest_free);
    if (error)
        add_damaged(repo, TC_REPO_MERGE, error->message);
    if (name && repo->use == TC_REPO_LIST)
        tc_merge_show(repo);
    if (point && g_ptr_array_find(repo->points, point, &i))
        repo->going = g_ptr_array_steal_index(repo->points, i);
}

static bool scan(TcRepository *repo, GError **error)
{
    g_autoptr(GPtrArray) names = repo->place->list(repo, repo->path, error);

    if (!names)
        return false;
    renew(&repo->points, (GDestroyNotify)tc_manifest_free);
    renew(&repo->damaged, damaged_free);
    renew(&repo->debris, g_free);
    renew(&repo->foreign, g_free);
    for (guint i = 0; i < names->len; i++)
        if (!take(repo, names->pdata[i], error))
            return false;
    if (repo->place->merges)
        hide_going(repo);
    tc_repo_sort(repo);
    g_ptr_array_sort(repo->damaged, by_point);
    g_ptr_array_sort(repo->debris, by_text);
    g_ptr_array_sort(repo->foreign, by_text);
    return true;
}

/* Once more if a merge began or ended meanwhile. */
bool tc_repo_scan(TcRepository *repo, GError **error)
{
    enum { TRIES = 5 };

    if (!repo->place->merges)
        return scan(repo, error);
    for (int i = 0; i < TRIES; i++) {
        g_autofree char *before = tc_merge_pending(repo->path, NULL), *after = NULL;

        if (!scan(repo, error))
            return false;
        after = tc_merge_pending(repo->path, NULL);
        if (!g_strcmp0(before, after))
            break;
    }
    return true;
}
