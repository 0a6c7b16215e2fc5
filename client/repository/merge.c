/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* client/repository/merge.c: the removal of a point, step by step.
 *
 *   1  CHILD/DISK.hashes.merged is written, of each disk that has a child
 *   2  merge.json is written: from now on the point is going
 *   3  the child's blocks are written into POINT/DISK.qcow2, of each disk
 *   4  POINT/DISK.qcow2 is renamed to CHILD/DISK.qcow2, and CHILD/DISK.hashes.merged likewise
 *   5  the child's manifest is replaced
 *   6  the point's manifest and files are removed
 *   7  merge.json is removed
 *
 * Each is durable before the next one begins. What is done already is seen by the files: a
 * POINT/DISK.qcow2 that is not there any more has been renamed. */
#include "client/repository/merge.h"
#include "client/json.h"
#include "client/repository/merge_internal.h"
#include "client/repository/repository_internal.h"
#include "util/json.h"
#include "util/log.h"
#include "util/range.h"
#include <errno.h>
#include <glib/gstdio.h>
#include <string.h>
#include <sys/statvfs.h>

#define FORMAT   "tidemark-merge"
#define VERSION  1u
#define FILE_MAX (UINT64_C(64) << 20)

enum { /* as of a manifest */
       TEXT_FLAGS =
           JSON_C_TO_STRING_PRETTY | JSON_C_TO_STRING_SPACED | JSON_C_TO_STRING_NOSLASHESCAPE
};

/* A disk of the point that another point's stands on. */
typedef struct MergeDisk {
    char *name, *child;
} MergeDisk;

typedef struct Merge {
    TcRepository *repo;  /* borrowed, as watch */
    TcMergeWatch *watch; /* or NULL */
    char *point, *id;    /* id NULL: that was not recorded */
    GPtrArray *disks;    /* MergeDisk */
    GPtrArray *children; /* TcManifest: as they will be; NULL of those that are in the repository */
} Merge;

static void disk_free(void *data)
{
    MergeDisk *d = data;

    g_free(d->name);
    g_free(d->child);
    g_free(d);
}

static void merge_begin(Merge *m, TcRepository *repo, const char *point, const char *id,
                        TcMergeWatch *watch)
{
    *m = (Merge){ .repo = repo, .watch = watch, .point = g_strdup(point), .id = g_strdup(id) };
    m->disks = g_ptr_array_new_with_free_func(disk_free);
    m->children = g_ptr_array_new_with_free_func((GDestroyNotify)tc_manifest_free);
}

static void merge_clear(Merge *m)
{
    g_clear_pointer(&m->disks, g_ptr_array_unref);
    g_clear_pointer(&m->children, g_ptr_array_unref);
    g_clear_pointer(&m->point, g_free);
    g_clear_pointer(&m->id, g_free);
}
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC(Merge, merge_clear)

static void add_disk(Merge *m, const char *name, const char *child)
{
    MergeDisk *d = g_new0(MergeDisk, 1);

    d->name = g_strdup(name);
    d->child = g_strdup(child);
    g_ptr_array_add(m->disks, d);
}

/* As it will be, or NULL. */
static TcManifest *child(const Merge *m, const char *name)
{
    for (guint i = 0; i < m->children->len; i++) {
        TcManifest *c = m->children->pdata[i];

        if (!strcmp(c->point, name))
            return c;
    }
    return NULL;
}

/* ---- merge.json */

static char *merge_path(const char *repository)
{
    return g_build_filename(repository, TC_REPO_MERGE, NULL);
}

static bool write_merge(const Merge *m, GError **error)
{
    g_autofree char *path = merge_path(m->repo->path), *text = NULL;
    json_object *disks = json_object_new_array(), *children = json_object_new_array();
    g_autoptr(json_object) o = json_object_new_object();

    tm_json_add_string(o, "format", FORMAT);
    tm_json_add_uint(o, "version", VERSION);
    tm_json_add_string(o, "point", m->point);
    tm_json_add_string(o, "id", m->id);
    for (guint i = 0; i < m->disks->len; i++) {
        const MergeDisk *d = m->disks->pdata[i];
        json_object *disk = json_object_new_object();

        tm_json_add_string(disk, "name", d->name);
        tm_json_add_string(disk, "child", d->child);
        json_object_array_add(disks, disk);
    }
    json_object_object_add(o, "disks", disks);
    for (guint i = 0; i < m->children->len; i++) {
        g_autofree char *manifest = tc_manifest_text(m->children->pdata[i]);

        json_object_array_add(children, json_tokener_parse(manifest));
    }
    json_object_object_add(o, "children", children);
    text = g_strconcat(json_object_to_json_string_ext(o, TEXT_FLAGS), "\n", NULL);
    return tm_file_replace(m->repo->sys, path, text, 0600, error);
}

static bool damaged(const char *path, const char *what, GError **error)
{
    return tc_repo_error_set(error, TC_REPO_ERROR_DAMAGED, "'%s' is damaged: %s", path, what);
}

/* NULL and no error: there is none. */
static json_object *read_file(const char *path, GError **error)
{
    g_autofree char *text = NULL;
    g_autoptr(json_object) o = NULL;
    const char *point;
    size_t length;

    if (!tc_repo_exists(path) || !tc_repo_read_file(path, FILE_MAX, &text, &length, error))
        return NULL;
    o = tc_repo_parse(text, length, path, error);
    if (!o)
        return NULL;
    point = tc_json_string(o, "point");
    if (g_strcmp0(tc_json_string(o, "format"), FORMAT) || tc_json_number(o, "version") != VERSION)
        damaged(path, "it has no format '" FORMAT "' with version 1", error);
    else if (!point || !tc_point_check_name("point", point, NULL))
        damaged(path, "it names no point", error);
    else
        return g_steal_pointer(&o);
    return NULL;
}

char *tc_merge_pending(const char *repository, GError **error)
{
    g_autofree char *path = merge_path(repository);
    g_autoptr(json_object) o = read_file(path, error);

    return o ? g_strdup(tc_json_string(o, "point")) : NULL;
}

static bool read_children(Merge *m, const char *path, json_object *list, GError **error)
{
    size_t n = json_object_is_type(list, json_type_array) ? json_object_array_length(list) : 0;

    for (size_t i = 0; i < n; i++) {
        json_object *o = json_object_array_get_idx(list, i);
        const char *name = tc_json_string(o, "point");
        g_autofree char *text =
            g_strconcat(json_object_to_json_string_ext(o, TEXT_FLAGS), "\n", NULL);
        TcManifest *c = name ? tc_manifest_parse(text, strlen(text), path, name, error) : NULL;

        if (!c)
            return name ? false : damaged(path, "a child has no name", error);
        g_ptr_array_add(m->children, c);
    }
    return true;
}

static bool read_disks(Merge *m, const char *path, json_object *list, GError **error)
{
    size_t n = json_object_is_type(list, json_type_array) ? json_object_array_length(list) : 0;

    for (size_t i = 0; i < n; i++) {
        json_object *o = json_object_array_get_idx(list, i);
        const char *name = tc_json_string(o, "name"), *of = tc_json_string(o, "child");
        const TcManifest *after = name && of ? child(m, of) : NULL;
        const TcManifest *before = after ? tc_repo_point(m->repo, of) : NULL;

        if (!before || !tc_manifest_disk(after, name) || !tc_manifest_disk(before, name))
            return damaged(path, "it names a disk or a child that is not there", error);
        add_disk(m, name, of);
    }
    return n > 0 || damaged(path, "it names no disks", error);
}

/* The children are, as points that were found; the point may be gone already. */
static bool check_directory(const Merge *m, GError **error)
{
    g_autofree char *directory = g_build_filename(m->repo->path, m->point, NULL);

    return !tc_repo_exists(directory) || tc_repo_is_directory(directory) ||
           tc_repo_error_set(error, TC_REPO_ERROR_DAMAGED, "'%s' is damaged: it is not a directory",
                             directory);
}

/* Whether @point is the one with which the merge began, and none that was put in its place. */
static bool check_id(const TcManifest *point, const char *id, const char *path, GError **error)
{
    return !point || !id || !strcmp(point->id, id) ||
           tc_repo_error_set(error, TC_REPO_ERROR_DAMAGED,
                             "'%s' is about another point '%s' than the one that is there: its id "
                             "was %s, not %s",
                             path, point->point, id, point->id);
}

/* What the manifests say of the child is what it was before the merge, or what it will be. */
static bool check_child(const Merge *m, const MergeDisk *d, const char *path, GError **error)
{
    const TcManifest *before = tc_repo_point(m->repo, d->child), *after = child(m, d->child);
    const TcManifest *point = tc_repo_standing(m->repo, m->point);
    const TcPointDisk *disk = tc_manifest_disk(before, d->name);
    g_autofree char *now = tc_manifest_text(before), *then = tc_manifest_text(after);
    bool stands = point ? tc_point_disk_stands_on(disk, point) : !g_strcmp0(disk->parent, m->point);

    if (!check_id(before, after->id, path, error))
        return false;
    return stands || !strcmp(now, then) ||
           tc_repo_error_set(error, TC_REPO_ERROR_DAMAGED,
                             "'%s' is damaged: disk '%s' of point '%s' does not stand on point "
                             "'%s'",
                             path, d->name, d->child, m->point);
}

static bool check_merge(const Merge *m, const char *path, GError **error)
{
    if (!check_id(tc_repo_standing(m->repo, m->point), m->id, path, error))
        return false;
    for (guint i = 0; i < m->disks->len; i++)
        if (!check_child(m, m->disks->pdata[i], path, error))
            return false;
    return check_directory(m, error);
}

static bool read_merge(Merge *m, json_object *o, const char *path, GError **error)
{
    return read_children(m, path, tc_json_get(o, "children", NULL), error) &&
           read_disks(m, path, tc_json_get(o, "disks", NULL), error) && check_merge(m, path, error);
}

/* ---- steps that may be repeated */

static bool exists(const TcRepository *repo, const char *point, const char *disk,
                   const char *suffix)
{
    g_autofree char *path = tc_repo_file(repo, point, disk, suffix);

    return tc_repo_exists(path);
}

static bool copy_blocks(const Merge *m, const MergeDisk *d, GError **error)
{
    const TcManifest *point = tc_repo_standing(m->repo, m->point);
    TcMergeCopy copy = { m->repo, point, tc_repo_point(m->repo, d->child), d->name, m->watch };

    if (!exists(m->repo, m->point, d->name, "qcow2"))
        return true;
    if (!point || !tc_manifest_disk(point, d->name))
        return tc_repo_error_set(error, TC_REPO_ERROR_DAMAGED,
                                 "point '%s' has no manifest of disk '%s'", m->point, d->name);
    return tc_merge_copy_run(&copy, error);
}

/* Unless it was done. */
static bool rename_file(const Merge *m, const char *from, const char *to, GError **error)
{
    if (m->repo->sys->rename(from, to) < 0)
        return errno == ENOENT ||
               tm_error_set_errno(error, errno, "Could not rename '%s' to '%s'", from, to);
    return tc_repo_sync_name(m->repo->sys, to, error) &&
           tc_repo_sync_name(m->repo->sys, from, error);
}

/* Before anybody goes by the new manifest. */
static bool check_hashes(const Merge *m, const MergeDisk *d, GError **error)
{
    g_autoptr(TcHashes) hashes = tc_merge_open_hashes(m->repo, child(m, d->child), d->name, error);

    return hashes != NULL;
}

static bool take_over(const Merge *m, const MergeDisk *d, GError **error)
{
    g_autofree char *from = tc_repo_file(m->repo, m->point, d->name, "qcow2");
    g_autofree char *to = tc_repo_file(m->repo, d->child, d->name, "qcow2");
    g_autofree char *hashes = tc_repo_file(m->repo, d->child, d->name, "hashes");
    g_autofree char *merged = tc_repo_file(m->repo, d->child, d->name, TC_MERGED_HASHES);
    g_autofree char *verified = tc_repo_file(m->repo, d->child, NULL, TC_REPO_VERIFIED);

    m->repo->sys->unlink(verified); /* that was about other files */
    return rename_file(m, from, to, error) && rename_file(m, merged, hashes, error) &&
           check_hashes(m, d, error);
}

static bool replace_children(Merge *m, GError **error)
{
    for (guint i = 0; i < m->children->len; i++) {
        if (!tc_repo_replace(m->repo, m->children->pdata[i], error))
            return false;
        m->children->pdata[i] = NULL; /* the repository's */
    }
    return true;
}

/* merge.json. */
static bool drop_merge(const Merge *m, GError **error)
{
    g_autofree char *path = merge_path(m->repo->path);

    if (m->repo->sys->unlink(path) < 0 && errno != ENOENT)
        return tm_error_set_errno(error, errno, "Could not remove '%s'", path);
    return tc_repo_sync_name(m->repo->sys, path, error);
}

static bool end_merge(const Merge *m, GError **error)
{
    g_autofree char *directory = g_build_filename(m->repo->path, m->point, NULL);

    return (!tc_repo_exists(directory) || tc_repo_remove(m->repo, m->point, error)) &&
           drop_merge(m, error);
}

/* From merge.json on. */
static bool carry_out(Merge *m, GError **error)
{
    for (guint i = 0; i < m->disks->len; i++)
        if (!copy_blocks(m, m->disks->pdata[i], error))
            return false;
    for (guint i = 0; i < m->disks->len; i++)
        if (!take_over(m, m->disks->pdata[i], error))
            return false;
    return replace_children(m, error) && end_merge(m, error);
}

/* ---- beginning */

static TcManifest *copy_manifest(const TcManifest *m)
{
    g_autofree char *text = tc_manifest_text(m);

    return tc_manifest_parse(text, strlen(text), m->point, m->point, NULL);
}

/* The disks with a child, and those children. */
static bool find_disks(Merge *m, const TcManifest *point, GError **error)
{
    for (guint i = 0; i < point->disks->len; i++) {
        const TcPointDisk *disk = point->disks->pdata[i];
        g_autoptr(GPtrArray) list = tc_repo_children(m->repo, point, disk->name);
        const TcManifest *c = list->len ? list->pdata[0] : NULL;
        g_autofree char *why = NULL;

        if (list->len > 1) {
            why =
                tc_merge_two_children(c->point, ((TcManifest *)list->pdata[1])->point, disk->name);
            return tm_error_set(error, "point '%s' can't be removed: %s", m->point, why);
        }
        if (!c)
            continue;
        if (tc_manifest_disk(c, disk->name)->size != disk->size)
            return tc_repo_error_set(error, TC_REPO_ERROR_DAMAGED,
                                     "disk '%s' of points '%s' and '%s' has two sizes", disk->name,
                                     m->point, c->point);
        add_disk(m, disk->name, c->point);
        if (!child(m, c->point))
            g_ptr_array_add(m->children, copy_manifest(c));
    }
    return true;
}

/* What is written may need space of its own: as much as the child's file has at most. */
static bool check_space(const Merge *m, const TcManifest *point, GError **error)
{
    uint64_t needed = 0, free;
    struct statvfs fs;

    for (guint i = 0; i < m->disks->len; i++) {
        const MergeDisk *d = m->disks->pdata[i];
        g_autofree char *path = tc_repo_file(m->repo, d->child, d->name, "qcow2");
        GStatBuf st;

        needed += g_stat(path, &st) == 0 ? (uint64_t)st.st_blocks * 512 : 0;
    }
    if (statvfs(m->repo->path, &fs) < 0)
        return true;
    free = (uint64_t)fs.f_bavail * fs.f_frsize;
    return needed <= free ||
           tm_error_set(error,
                        "there is not enough space in '%s' to remove point '%s': that takes up to "
                        "%" PRIu64 " bytes for a while, and %" PRIu64 " are free",
                        m->repo->path, point->point, needed, free);
}

/* Everything that can fail without harm. */
static bool prepare(Merge *m, const TcManifest *point, GError **error)
{
    if (!check_space(m, point, error))
        return false;
    for (guint i = 0; i < m->disks->len; i++) {
        const MergeDisk *d = m->disks->pdata[i];
        const TcManifest *before = tc_repo_point(m->repo, d->child);
        TcPointDisk *entry = tc_manifest_disk(child(m, d->child), d->name);
        TcMergeCopy copy = { m->repo, point, before, d->name, m->watch };

        if (!tc_merge_copy_check(&copy, error) ||
            !tc_merge_write_hashes(m->repo, point, before, d->name, entry, error))
            return false;
    }
    for (guint i = 0; i < m->disks->len; i++) {
        const MergeDisk *d = m->disks->pdata[i];
        g_autofree char *path = tc_repo_file(m->repo, d->child, d->name, TC_MERGED_HASHES);

        if (!tc_repo_sync_name(m->repo->sys, path, error))
            return false;
    }
    return true;
}

static void remove_merged_hashes(const TcRepository *repo, const char *point, const char *disk)
{
    g_autofree char *path = tc_repo_file(repo, point, disk, TC_MERGED_HASHES);

    repo->sys->unlink(path);
}

/* There was no merge. */
static bool undo(const Merge *m)
{
    for (guint i = 0; i < m->disks->len; i++) {
        const MergeDisk *d = m->disks->pdata[i];

        remove_merged_hashes(m->repo, d->child, d->name);
    }
    return false;
}

static void goes_on(GError **error, const Merge *m)
{
    if (error && *error)
        g_prefix_error(error,
                       "the removal of point '%s' was interrupted and goes on with the next "
                       "command that changes repository '%s', all other points are as before: ",
                       m->point, m->repo->path);
}

bool tc_merge_run(TcRepository *repo, const char *point, TcMergeWatch *watch, GError **error)
{
    TcManifest *manifest = tc_repo_point(repo, point);
    g_auto(Merge) m = { 0 };
    bool written;

    if (!manifest)
        return tm_error_set(error, "repository '%s' has no point '%s'", repo->path, point);
    merge_begin(&m, repo, point, manifest->id, watch);
    if (!find_disks(&m, manifest, error))
        return false;
    if (!m.disks->len)
        return tc_repo_remove(repo, point, error);
    if (!repo->place->merges) /* a plan leaves it */
        return tm_error_set(error,
                            "points stand on point '%s' of '%s', and images in a bucket are "
                            "not merged",
                            point, repo->path);
    if (!prepare(&m, manifest, error))
        return undo(&m);
    written = write_merge(&m, error);
    if (!written && drop_merge(&m, NULL))
        return undo(&m);
    if (written && carry_out(&m, error))
        return true;
    goes_on(error, &m);
    return false;
}

/* ---- going on */

/* A child whose manifest says that it stands on what was renamed. */
static bool is_half(const Merge *m, const MergeDisk *d)
{
    const TcPointDisk *before = tc_manifest_disk(tc_repo_point(m->repo, d->child), d->name);

    return !g_strcmp0(before->parent, m->point) && !exists(m->repo, m->point, d->name, "qcow2");
}

void tc_merge_show(TcRepository *repo)
{
    g_autofree char *path = merge_path(repo->path);
    g_autoptr(json_object) o = read_file(path, NULL);
    g_auto(Merge) m = { 0 };

    if (!o)
        return;
    merge_begin(&m, repo, tc_json_string(o, "point"), tc_json_string(o, "id"), NULL);
    if (!read_merge(&m, o, path, NULL))
        return;
    for (guint i = 0; i < m.disks->len; i++) {
        const MergeDisk *d = m.disks->pdata[i];
        TcManifest *after = child(&m, d->child);
        guint k;

        if (after && is_half(&m, d)) {
            g_ptr_array_find(m.children, after, &k);
            tc_repo_add_point(repo, g_ptr_array_steal_index(m.children, k));
        }
    }
}

TcMergeState tc_merge_state(const TcRepository *repo)
{
    g_autofree char *path = merge_path(repo->path);
    g_autoptr(GError) error = NULL;
    g_autoptr(json_object) o = read_file(path, &error);
    g_auto(Merge) m = { 0 };

    if (!o)
        return error ? TC_MERGE_DAMAGED : TC_MERGE_NONE;
    merge_begin(&m, (TcRepository *)repo, tc_json_string(o, "point"), tc_json_string(o, "id"),
                NULL);
    if (!read_merge(&m, o, path, NULL))
        return TC_MERGE_DAMAGED;
    for (guint i = 0; i < m.disks->len; i++)
        if (is_half(&m, m.disks->pdata[i]))
            return TC_MERGE_ENDING;
    return TC_MERGE_COPYING;
}

/* Of merges that did not begin. */
static void remove_left_over(const TcRepository *repo)
{
    for (guint i = 0; i < repo->points->len; i++) {
        const TcManifest *m = repo->points->pdata[i];

        for (guint j = 0; j < m->disks->len; j++)
            remove_merged_hashes(repo, m->point, ((TcPointDisk *)m->disks->pdata[j])->name);
    }
}

bool tc_merge_recover(TcRepository *repo, GError **error)
{
    g_autofree char *path = merge_path(repo->path);
    GError *failure = NULL;
    g_autoptr(json_object) o = read_file(path, &failure);
    g_auto(Merge) m = { 0 };

    if (failure) {
        g_propagate_error(error, failure);
        return false;
    }
    if (!o) {
        remove_left_over(repo);
        return true;
    }
    merge_begin(&m, repo, tc_json_string(o, "point"), tc_json_string(o, "id"), NULL);
    tm_log(TM_LOG_INFO, "going on with the removal of point '%s', which was interrupted", m.point);
    if (read_merge(&m, o, path, error) && carry_out(&m, error))
        return true;
    goes_on(error, &m);
    return false;
}
