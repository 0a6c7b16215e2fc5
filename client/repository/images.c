/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* client/repository/images.c: see the header. */
#include "client/repository/images.h"
#include "block/image/image.h"
#include "client/repository/hashes.h"
#include "client/repository/repository_internal.h"
#include "util/json.h"
#include "util/range.h"
#include <errno.h>
#include <glib/gstdio.h>
#include <string.h>
#include <unistd.h>

#define SECTOR     512u
#define QCOW2_NODE "image"

uint64_t tc_repo_image_size(uint64_t size)
{
    return tm_align_up(size, SECTOR);
}

char *tc_repo_backing_name(const TcPointDisk *disk)
{
    return disk->parent ? g_strdup_printf("../%s/%s.qcow2", disk->parent, disk->name) : NULL;
}

json_object *tc_repo_file_options(const char *path, bool writable)
{
    json_object *file = json_object_new_object();

    tm_json_add_string(file, "driver", "file");
    tm_json_add_string(file, "filename", path);
    tm_json_add_bool(file, "read-only", !writable);
    if (writable) /* what is discarded is to be free */
        tm_json_add_string(file, "discard", "unmap");
    return file;
}

/* A disk that has something everywhere, as far as anybody knows. */
static json_object *unknown_options(uint64_t size)
{
    json_object *unknown = json_object_new_object();

    tm_json_add_string(unknown, "driver", "null-co");
    tm_json_add_uint(unknown, "size", size);
    tm_json_add_bool(unknown, "read-zeroes", false);
    tm_json_add_bool(unknown, "read-only", true);
    return unknown;
}

/* @o is taken. */
static BlkNode *add_node(TcImage *image, json_object *o, bool writable, GError **error)
{
    g_autoptr(GPtrArray) nodes = blk_graph_nodes(image->graph);
    g_autofree char *name = g_strdup_printf(QCOW2_NODE "%u", nodes->len);
    BlkUser *user;
    BlkNode *node;

    tm_json_add_string(o, "node-name", name);
    node = blk_graph_add(image->graph, o, error);
    json_object_put(o);
    if (!node)
        return NULL;
    user = blk_node_use(node, "this program",
                        BLK_PERM_CONSISTENT_READ | (writable ? BLK_PERM_WRITE : 0),
                        BLK_PERM_CONSISTENT_READ, error);
    if (!user)
        return NULL;
    g_ptr_array_add(image->users, user);
    return node;
}

/* @file is taken: the node that has its bytes. */
static BlkNode *add(TcImage *image, json_object *file, const TcPointDisk *disk, bool writable,
                    GError **error)
{
    json_object *o = json_object_new_object();

    tm_json_add_string(o, "driver", "qcow2");
    tm_json_add_bool(o, "read-only", !writable);
    if (writable)
        tm_json_add_string(o, "discard", "unmap");
    json_object_object_add(o, "file", file);
    json_object_object_add(o, "backing",
                           disk->parent ? unknown_options(tc_repo_image_size(disk->size)) : NULL);
    return add_node(image, o, writable, error);
}

/* ---- making one */

static json_object *create_options(const char *path, const TcPointDisk *disk)
{
    json_object *o = json_object_new_object();
    g_autofree char *backing = tc_repo_backing_name(disk);

    tm_json_add_string(o, "driver", "qcow2");
    json_object_object_add(o, "file", tc_repo_file_options(path, true));
    tm_json_add_uint(o, "size", tc_repo_image_size(disk->size));
    tm_json_add_uint(o, "cluster-size", TC_BLOCK);
    if (disk->compression)
        tm_json_add_string(o, "compression-type", disk->compression);
    if (backing) {
        tm_json_add_string(o, "backing-file", backing);
        tm_json_add_string(o, "backing-fmt", "qcow2");
    }
    return o;
}

static bool make_file(TcImage *image, const char *path, GError **error)
{
    json_object *o = tc_repo_file_options(path, true);
    bool ok;

    json_object_object_del(o, "read-only");
    tm_json_add_uint(o, "size", 0);
    ok = blk_image_create(image->graph, o, NULL, NULL, error);
    json_object_put(o);
    if (ok && g_chmod(path, 0600) < 0)
        ok = tm_error_set_errno(error, errno, "Could not create '%s'", path);
    return ok;
}

static bool make(TcImage *image, const char *path, const TcPointDisk *disk, GError **error)
{
    json_object *o;
    bool ok;

    if (tc_repo_exists(path))
        return tm_error_set(error, "'%s' exists already", path);
    if (!make_file(image, path, error))
        return false;
    o = create_options(path, disk);
    ok = blk_image_create(image->graph, o, NULL, NULL, error);
    json_object_put(o);
    return ok;
}

BlkNode *tc_repo_image_create(const TcRepository *repo, TcImage *image, const char *point,
                              const TcPointDisk *disk, GError **error)
{
    g_autofree char *name = tc_repo_file(repo, point, disk->name, "qcow2");
    g_autofree char *path = repo->place->work_path(repo, name);

    return make(image, path, disk, error)
               ? add(image, tc_repo_file_options(path, true), disk, true, error)
               : NULL;
}

/* ---- opening one */

TcHashes *tc_repo_open_hashes(const TcRepository *repo, const char *point, const TcPointDisk *disk,
                              GError **error)
{
    g_autofree char *path = tc_repo_file(repo, point, disk->name, "hashes");

    return repo->place->open_hashes(repo, path, disk->tree, disk->size, error);
}

static bool damaged(GError **error, const char *path, const char *what)
{
    return tc_repo_error_set(error, TC_REPO_ERROR_DAMAGED, "'%s' is damaged: %s", path, what);
}

/* Whether it says nothing of what is in the file that it can't be opened. */
static bool is_elsewhere(int errnum)
{
    static const int errnums[] = { EMFILE, ENFILE, ENOMEM, EACCES, EPERM, EAGAIN, EBUSY };

    for (size_t i = 0; i < G_N_ELEMENTS(errnums); i++)
        if (errnum == errnums[i])
            return true;
    return false;
}

/* @why is taken. */
static bool not_opened(const char *path, GError *why, GError **error)
{
    if (is_elsewhere(tm_error_errno(why))) {
        g_propagate_error(error, why);
        return false;
    }
    tc_repo_error_set(error, TC_REPO_ERROR_DAMAGED, "'%s' can't be used: %s", path, why->message);
    g_error_free(why);
    return false;
}

static bool check_names(int fd, const char *path, const TcPointDisk *disk, GError **error)
{
    g_autofree char *backing = tc_repo_backing_name(disk);
    g_auto(TcImageNames) names = { 0 };
    GError *why = NULL;

    if (!tc_image_names_of(fd, path, &names, &why))
        return not_opened(path, why, error);
    if (g_strcmp0(names.backing, backing))
        return tc_repo_error_set(
            error, TC_REPO_ERROR_DAMAGED, "'%s' is damaged: its backing file is '%s', not '%s'",
            path, names.backing ? names.backing : "none", backing ? backing : "none");
    if (backing && g_strcmp0(names.backing_format, "qcow2"))
        return damaged(error, path, "the format of its backing file is not recorded as qcow2");
    return !names.data_file || damaged(error, path, "its data are in another file");
}

/* What has another name may be in a copy of the repository that was made with hard links. */
static bool check_file(const TcRepository *repo, const char *path, const TcPointDisk *disk,
                       bool writable, GError **error)
{
    struct stat st;
    int fd = repo->place->open_head(repo, path, &st, error);
    bool ok;

    if (fd < 0)
        return false;
    ok = check_names(fd, path, disk, error);
    close(fd);
    if (!ok || !writable || st.st_nlink == 1)
        return ok;
    return tm_error_set(error,
                        "'%s' can't be changed: it has %u names, and would change under all of "
                        "them; give it a file of its own ('cp -a' to another name, and 'mv' back), "
                        "then run the same command again",
                        path, (unsigned)st.st_nlink);
}

bool tc_repo_image_check(const TcRepository *repo, const char *point, const TcPointDisk *disk,
                         GError **error)
{
    g_autofree char *path = tc_repo_file(repo, point, disk->name, "qcow2");

    return check_file(repo, path, disk, false, error);
}

static BlkNode *open_image(const TcRepository *repo, TcImage *image, const char *point,
                           const TcPointDisk *disk, bool writable, GError **error)
{
    g_autofree char *path = tc_repo_file(repo, point, disk->name, "qcow2");
    struct tidemark_info info = { .struct_size = sizeof(info) };
    GError *why = NULL;
    json_object *file;
    BlkNode *node;

    if (!check_file(repo, path, disk, writable, error))
        return NULL;
    file = writable ? tc_repo_file_options(path, true) : repo->place->image(repo, path);
    node = add(image, file, disk, writable, &why);
    if (!node && writable)
        g_propagate_prefixed_error(error, why, "'%s' can't be changed: ", path);
    else if (!node)
        not_opened(path, why, error);
    if (!node)
        return NULL;
    blk_node_info(node, &info);
    if (blk_node_size(node) != tc_repo_image_size(disk->size))
        damaged(error, path, "its disk has another size than the manifest says");
    else if (info.cluster_size != TC_BLOCK)
        damaged(error, path, "its clusters are not of 65536 bytes");
    else
        return node;
    return NULL;
}

BlkNode *tc_repo_image_open(const TcRepository *repo, TcImage *image, const char *point,
                            const TcPointDisk *disk, GError **error)
{
    return open_image(repo, image, point, disk, false, error);
}

json_object *tc_repo_image_file(const TcRepository *repo, const char *point,
                                const TcPointDisk *disk)
{
    g_autofree char *name = tc_repo_file(repo, point, disk->name, "qcow2"), *path = NULL;

    if (!tc_repo_is_bucket(name))
        path = g_canonicalize_filename(name, NULL);
    return repo->place->image(repo, path ? path : name);
}

BlkNode *tc_repo_image_bytes(const TcRepository *repo, TcImage *image, const char *point,
                             const TcPointDisk *disk, GError **error)
{
    g_autofree char *path = tc_repo_file(repo, point, disk->name, "qcow2");

    return add_node(image, repo->place->image(repo, path), false, error);
}

BlkNode *tc_repo_image_change(const TcRepository *repo, TcImage *image, const char *point,
                              const TcPointDisk *disk, GError **error)
{
    return open_image(repo, image, point, disk, true, error);
}
