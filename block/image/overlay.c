/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* block/image/overlay.c: see the header. */
#include "block/image/overlay.h"

#include "block/disk.h"
#include "block/image/image.h"
#include "block/node_internal.h"
#include "util/error.h"
#include "util/json.h"

#include <string.h>
#include <unistd.h>

struct BlkOverlay {
    BlkGraph *graph; /* borrowed */
    BlkUser *user;   /* so that it stays open */
    char *made;      /* the file that was not there before; or NULL */
};

/* ---- the image */

/* As the overlay names it, from wherever it is opened. */
static char *name_of(BlkNode *node)
{
    g_autofree char *name = blk_node_filename(node);

    return g_strcmp0(name, blk_disk_path(node)) ? g_steal_pointer(&name)
                                                : g_canonicalize_filename(name, NULL);
}

/* A raw disk is one with or without a node for its format. */
static const char *format_of(BlkNode *node)
{
    return node->n_children ? node->driver->name : "raw";
}

static bool create(BlkGraph *graph, json_object *options, GError **error)
{
    bool ok = blk_image_create(graph, options, NULL, NULL, error);

    json_object_put(options);
    return ok;
}

static json_object *file_of(const char *path)
{
    json_object *file = json_object_new_object();

    tm_json_add_string(file, "driver", "file");
    tm_json_add_string(file, "filename", path);
    return file;
}

static bool make_file(BlkOverlay *o, const char *path, GError **error)
{
    json_object *options = file_of(path);
    bool there = access(path, F_OK) == 0;

    tm_json_add_uint(options, "size", 0);
    if (!create(o->graph, options, error))
        return false;
    o->made = there ? NULL : g_strdup(path);
    return true;
}

static bool make_image(BlkOverlay *o, BlkNode *node, const char *path, GError **error)
{
    json_object *options;
    g_autofree char *name = name_of(node);

    if (!make_file(o, path, error))
        return false;
    options = json_object_new_object();
    tm_json_add_string(options, "driver", "qcow2");
    json_object_object_add(options, "file", file_of(path));
    tm_json_add_uint(options, "size", blk_node_size(node));
    tm_json_add_string(options, "backing-file", name);
    tm_json_add_string(options, "backing-fmt", format_of(node));
    return create(o->graph, options, error);
}

/* ---- its node */

static json_object *definition(BlkNode *node, const BlkOverlayOptions *o)
{
    json_object *options = json_object_new_object(), *cache = json_object_new_object();

    tm_json_add_string(options, "driver", o->format);
    if (o->node_name)
        tm_json_add_string(options, "node-name", o->node_name);
    tm_json_add_bool(options, "read-only", blk_options_bool(node->options, "read-only"));
    tm_json_add_string(options, "discard", blk_options_string(node->options, "discard"));
    tm_json_add_bool(cache, "direct", blk_options_bool(node->options, "cache.direct"));
    tm_json_add_bool(cache, "no-flush", blk_options_bool(node->options, "cache.no-flush"));
    json_object_object_add(options, "cache", cache);
    json_object_object_add(options, "file", file_of(o->file));
    return options;
}

static bool has_backing(const struct tidemark_driver *driver)
{
    const struct tidemark_child *child = driver->children;

    while (child && child->name && !g_str_equal(child->name, "backing"))
        child++;
    return child && child->name;
}

static bool open_node(BlkOverlay *o, BlkNode *node, const BlkOverlayOptions *how, GError **error)
{
    json_object *options = definition(node, how);
    g_autoptr(BlkNode) overlay = NULL;

    if (has_backing(blk_registry_find(blk_graph_registry(o->graph), how->format)))
        json_object_object_add(options, "backing", NULL);
    overlay = blk_graph_open_child(o->graph, options, error);
    json_object_put(options);
    o->user = overlay ? blk_node_use(overlay, BLK_USER_UNNAMED, 0, BLK_PERM_ALL, error) : NULL;
    return o->user != NULL;
}

/* ---- all of it */

static bool check(BlkNode *node, const BlkOverlayOptions *o, GError **error)
{
    if (o->node_name && blk_graph_find(node->graph, o->node_name, NULL))
        return tm_error_set(error, "New overlay node-name already in use");
    if (!blk_registry_find(blk_graph_registry(node->graph), o->format))
        return tm_error_set(error, "Unknown file format '%s'", o->format);
    return o->existing || g_str_equal(o->format, "qcow2") ||
           tm_error_set(error, "Backing file not supported for file format '%s'", o->format);
}

BlkOverlay *blk_overlay_new(BlkNode *node, const BlkOverlayOptions *options, GError **error)
{
    BlkOverlay *o;

    if (!check(node, options, error))
        return NULL;
    o = g_new0(BlkOverlay, 1);
    o->graph = node->graph;
    if ((options->existing || make_image(o, node, options->file, error)) &&
        open_node(o, node, options, error))
        return o;
    blk_overlay_end(o, false);
    return NULL;
}

BlkNode *blk_overlay_node(const BlkOverlay *o)
{
    return blk_user_node(o->user);
}

void blk_overlay_end(BlkOverlay *o, bool keep)
{
    if (!o)
        return;
    blk_node_release(o->user);
    blk_graph_settle(o->graph);
    if (o->made && !keep)
        blk_graph_sys(o->graph)->unlink(o->made);
    g_free(o->made);
    g_free(o);
}
