/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* client/serve/served_node.c: a disk in the daemon: its nodes and its export. */
#include "client/daemon/daemon_view.h"
#include "client/serve/served_disk.h"

#include <errno.h>
#include <string.h>

static void add_string(json_object *object, const char *key, const char *value)
{
    json_object_object_add(object, key, json_object_new_string(value));
}

/* The bitmaps of a device, or of an image in a cluster, can't be beside it. */
static bool add_store(json_object *node, const TcServedDisk *disk, GError **error)
{
    g_autofree char *dir = g_build_filename(g_get_user_state_dir(), "tidemark", NULL);
    g_autofree char *escaped = g_strdup(disk->path + (*disk->path == '/'));
    g_autofree char *name = NULL, *path = NULL;

    if (g_mkdir_with_parents(dir, 0700))
        return tm_error_set_errno(error, errno, "Could not make the directory '%s' for bitmaps",
                                  dir);
    g_strdelimit(escaped, "/", '-');
    name = g_strconcat(escaped, ".bitmaps", NULL);
    path = g_build_filename(dir, name, NULL);
    add_string(node, "bitmap-store", path);
    return true;
}

static json_object *file_options(const char *path, bool is_block)
{
    json_object *file = json_object_new_object();

    add_string(file, "driver", is_block ? "host_device" : "file");
    add_string(file, "filename", path);
    add_string(file, "discard", "unmap");
    return file;
}

/* The node of the disk's bytes. */
static json_object *bytes_options(const TcServedDisk *disk)
{
    json_object *bytes = NULL;

    if (!disk->rbd)
        return file_options(disk->path, disk->is_block);
    json_object_deep_copy(disk->rbd, &bytes, NULL);
    add_string(bytes, "discard", "unmap");
    return bytes;
}

/* An image in @file, which is taken, on the node @backing: NULL for none, "" for the one that it
 * names itself. */
static json_object *image_options(const char *name, json_object *file, const char *backing,
                                  bool read_only)
{
    json_object *node = json_object_new_object();

    add_string(node, "driver", "qcow2");
    add_string(node, "node-name", name);
    add_string(node, "discard", "unmap");
    json_object_object_add(node, "read-only", json_object_new_boolean(read_only));
    json_object_object_add(node, "file", file);
    if (!backing || *backing)
        json_object_object_add(node, "backing", backing ? json_object_new_string(backing) : NULL);
    return node;
}

static json_object *raw_options(const TcServedDisk *disk, GError **error)
{
    g_autoptr(json_object) node = bytes_options(disk);
    bool beside = !disk->is_block && !disk->rbd;

    add_string(node, "node-name", disk->node);
    json_object_object_add(node, "read-only", json_object_new_boolean(disk->read_only));
    return beside || add_store(node, disk, error) ? g_steal_pointer(&node) : NULL;
}

static json_object *export_options(const TcServedDisk *disk)
{
    json_object *export = json_object_new_object();

    add_string(export, "type", "nbd");
    add_string(export, "id", disk->node);
    add_string(export, "node-name", disk->node);
    add_string(export, "name", disk->name);
    json_object_object_add(export, "writable", json_object_new_boolean(!disk->read_only));
    return export;
}

static bool execute(TcQmp *qmp, const char *command, json_object *arguments, GError **error)
{
    g_autoptr(json_object) result =
        arguments ? tc_qmp_execute(qmp, command, arguments, error) : NULL;

    return result != NULL;
}

static bool find_size(TcServedDisk *disk, TcQmp *qmp, GError **error)
{
    g_autoptr(json_object) nodes = tc_view_nodes(qmp, error);

    for (size_t i = 0; nodes && i < json_object_array_length(nodes); i++) {
        json_object *node = json_object_array_get_idx(nodes, i);

        if (!g_strcmp0(tc_json_string(node, "node-name"), disk->node))
            disk->size = json_object_get_uint64(tc_json_get(node, "image", "virtual-size", NULL));
    }
    return nodes != NULL;
}

static char *layer_name(const TcServedDisk *disk, guint i)
{
    return i ? g_strdup_printf("%s.%u", disk->node, i) : g_strdup(disk->node);
}

/* From the full up. With a scratch, all images of the point are below. */
static bool add_chain(const TcServedDisk *disk, TcQmp *qmp, GError **error)
{
    guint top = disk->scratch ? 1 : 0;

    for (guint i = disk->chain->len + top; i-- > 0;) {
        bool last = i + 1 == disk->chain->len + top;
        g_autofree char *name = layer_name(disk, i);
        g_autofree char *below = last ? NULL : layer_name(disk, i + 1);
        json_object *file = i < top ? file_options(disk->scratch, false)
                                    : json_object_get(disk->files->pdata[i - top]);
        g_autoptr(json_object) node = image_options(name, file, below, i >= top);

        if (!execute(qmp, "blockdev-add", node, error))
            return false;
    }
    return true;
}

static bool add_nodes(const TcServedDisk *disk, TcQmp *qmp, GError **error)
{
    g_autoptr(json_object) node = NULL;

    if (disk->chain)
        return add_chain(disk, qmp, error);
    if (!strcmp(disk->format, "raw"))
        node = raw_options(disk, error);
    else
        node = image_options(disk->node, bytes_options(disk), "", disk->read_only);
    if (node && disk->backing_names && strcmp(disk->format, "raw"))
        add_string(node, "backing-names", disk->backing_names);
    return execute(qmp, "blockdev-add", node, error);
}

bool tc_served_disk_add(TcServedDisk *disk, TcQmp *qmp, GError **error)
{
    g_autoptr(json_object) export = export_options(disk);

    if (add_nodes(disk, qmp, error) && execute(qmp, "block-export-add", export, error) &&
        (disk->size || find_size(disk, qmp, error)))
        return true;
    g_prefix_error(error, "disk '%s': ", disk->path);
    tc_served_disk_remove(disk, qmp);
    return false;
}

void tc_served_disk_remove(const TcServedDisk *disk, TcQmp *qmp)
{
    g_autoptr(json_object) export = json_object_new_object();
    guint layers = disk->chain ? disk->chain->len + (disk->scratch ? 1 : 0) : 1;

    add_string(export, "id", disk->node);
    add_string(export, "mode", "hard");
    execute(qmp, "block-export-del", export, NULL);
    for (guint i = 0; i < layers; i++) {
        g_autoptr(json_object) node = json_object_new_object();
        g_autofree char *name = layer_name(disk, i);

        add_string(node, "node-name", name);
        execute(qmp, "blockdev-del", node, NULL);
    }
}
