/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* client/serve/served_point.c: the disks of a point of a repository, read-only, or with a scratch
 * over them. */
#include "block/image/image.h"
#include "client/image/image.h"
#include "client/repository/images.h"
#include "client/serve/served_disk.h"
#include "util/json.h"
#include "util/range.h"

#include <errno.h>
#include <unistd.h>

#define SECTOR 512u

static void disk_free(void *disk)
{
    tc_served_disk_free(disk);
}

static void file_free(void *file)
{
    json_object_put(file);
}

static bool find_chain(TcServedDisk *disk, const TcRepository *repo, const TcManifest *point,
                       GError **error)
{
    g_autoptr(GPtrArray) chain = tc_repo_chain(repo, point, disk->name, error);

    if (!chain)
        return false;
    disk->chain = g_ptr_array_new_with_free_func(g_free);
    disk->files = g_ptr_array_new_with_free_func(file_free);
    for (guint i = 0; i < chain->len; i++) {
        const TcManifest *layer = chain->pdata[i];
        g_autofree char *path = tc_repo_file(repo, layer->point, disk->name, "qcow2");

        if (!tc_repo_image_check(repo, layer->point, tc_manifest_disk(layer, disk->name), error))
            return false;
        g_ptr_array_add(disk->chain, tc_repo_is_bucket(path) ? g_steal_pointer(&path)
                                                             : g_canonicalize_filename(path, NULL));
        g_ptr_array_add(disk->files, tc_repo_image_file(repo, layer->point,
                                                        tc_manifest_disk(layer, disk->name)));
    }
    disk->path = g_strdup(disk->chain->pdata[0]);
    return true;
}

/* An empty image, which is gone when the daemon that opened it ends. */
static bool make_scratch(TcServedDisk *disk, GError **error)
{
    g_autofree char *path = g_build_filename(g_get_tmp_dir(), "tidemark-XXXXXX.qcow2", NULL);
    json_object *create = json_object_new_object(), *file = json_object_new_object();
    g_auto(TcImage) maker = { 0 };
    int fd = g_mkstemp(path);
    bool ok;

    if (fd >= 0) {
        close(fd);
        disk->scratch = g_steal_pointer(&path);
    }
    tm_json_add_string(file, "driver", "file");
    tm_json_add_string(file, "filename", disk->scratch ? disk->scratch : "");
    tm_json_add_string(create, "driver", "qcow2");
    json_object_object_add(create, "file", file);
    json_object_object_add(create, "size", json_object_new_uint64(tm_align_up(disk->size, SECTOR)));
    if (!disk->scratch)
        ok = tm_error_set_errno(error, errno, "Could not make a scratch in '%s'", g_get_tmp_dir());
    else
        ok = tc_image_begin(&maker, error) &&
             blk_image_create(maker.graph, create, NULL, NULL, error);
    json_object_put(create);
    return ok;
}

static bool add_disk(GPtrArray *disks, const TcRepository *repo, const TcManifest *point,
                     const TcPointDisk *entry, bool writable, GError **error)
{
    TcServedDisk *disk = g_new0(TcServedDisk, 1);

    disk->name = g_strdup(entry->name);
    disk->node = g_strdup_printf("image%u", disks->len); /* its own name may be none of a node */
    disk->format = "qcow2";
    disk->read_only = !writable;
    disk->size = entry->size;
    g_ptr_array_add(disks, disk);
    return find_chain(disk, repo, point, error) && (!writable || make_scratch(disk, error));
}

GPtrArray *tc_served_point(const TcRepository *repo, const TcManifest *point, bool writable,
                           GError **error)
{
    g_autoptr(GPtrArray) disks = g_ptr_array_new_with_free_func(disk_free);

    for (guint i = 0; i < point->disks->len; i++)
        if (!add_disk(disks, repo, point, point->disks->pdata[i], writable, error))
            return NULL;
    return g_steal_pointer(&disks);
}
