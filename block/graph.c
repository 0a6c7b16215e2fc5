/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* block/graph.c: the nodes by name.
 *
 * Invariants:
 *  - names are unique; nodes made by blockdev-add are owned by the monitor, nested ones by their
 *    users: they go with the last of these;
 *  - in the list children stand before their parents: it is in order of creation, but for nodes
 *    that a reopening has given to older ones. */
#include "block/bitmaps.h"
#include "block/disk.h"
#include "block/losses.h"
#include "block/node_internal.h"
#include "block/parents.h"

#include "util/boot.h"
#include "util/error.h"
#include "util/identifier.h"

#include <errno.h>
#include <string.h>

#define NODE_NAME_MAX 31 /* bytes, as QEMU */

struct BlkGraph {
    BlkRegistry *registry; /* borrowed */
    BlkEngine *engine;     /* borrowed */
    const TmSys *sys;      /* borrowed */
    GPtrArray *nodes;      /* references */
    pthread_mutex_t permissions;
    uint8_t boot_id[16];
    BlkLosses *losses;
    unsigned auto_names;
    unsigned chain; /* images being opened one for the other */
    BlkEventFn emit;
    void *emit_opaque;
    void (*log)(void *opaque, const char *line);
    void *log_opaque;
    void (*heal)(void *opaque);
    void *heal_opaque;
    bool without_stores;
    bool behind; /* what a node that was closed had in memory could not be kept */
};

BlkGraph *blk_graph_new(BlkRegistry *registry, BlkEngine *engine, const TmSys *sys)
{
    BlkGraph *graph = g_new0(BlkGraph, 1);

    graph->registry = registry;
    graph->engine = engine;
    graph->sys = sys;
    graph->nodes = g_ptr_array_new();
    graph->losses = blk_losses_new();
    tm_boot_id(graph->boot_id);
    pthread_mutex_init(&graph->permissions, NULL);
    return graph;
}

/* Takes references. Parents first. What a driver writes when it closes belongs to what the stores
 * of the bitmaps below say, and changes the files that they are to know again: they close last, and
 * meanwhile nobody writes from below. */
static void close_nodes(BlkGraph *graph, const GPtrArray *going)
{
    GPtrArray *held = blk_nodes_hold((BlkNode *const *)going->pdata, going->len);

    for (guint i = 0; i < going->len; i++)
        graph->behind |= !blk_bitmaps_settle(going->pdata[i]);
    for (guint i = 0; i < going->len; i++)
        blk_node_close_driver(going->pdata[i]);
    for (guint i = 0; i < going->len; i++)
        graph->behind |= !blk_bitmaps_close(going->pdata[i], going);
    blk_nodes_release(held);
    for (guint i = 0; i < going->len; i++) {
        blk_parents_disconnect(going->pdata[i]);
        blk_node_unref(going->pdata[i]);
    }
}

bool blk_graph_free(BlkGraph *graph)
{
    g_autoptr(GPtrArray) going = g_ptr_array_new();
    bool kept;

    if (!graph)
        return true;
    for (guint i = graph->nodes->len; i-- > 0;)
        g_ptr_array_add(going, graph->nodes->pdata[i]);
    close_nodes(graph, going);
    g_ptr_array_unref(graph->nodes);
    kept = !graph->behind;
    blk_losses_free(graph->losses);
    pthread_mutex_destroy(&graph->permissions);
    g_free(graph);
    return kept;
}

void blk_graph_set_behind(BlkGraph *graph)
{
    graph->behind = true;
}

void blk_graph_set_events(BlkGraph *graph, BlkEventFn emit, void *opaque)
{
    graph->emit = emit;
    graph->emit_opaque = opaque;
}

void blk_graph_emit(BlkGraph *graph, const char *name, json_object *data)
{
    if (graph->emit)
        graph->emit(graph->emit_opaque, name, data);
    else
        json_object_put(data);
}

void blk_graph_set_log(BlkGraph *graph, void (*log)(void *opaque, const char *line), void *opaque)
{
    graph->log = log;
    graph->log_opaque = opaque;
}

void blk_graph_set_heal(BlkGraph *graph, void (*heal)(void *opaque), void *opaque)
{
    graph->heal = heal;
    graph->heal_opaque = opaque;
}

void blk_graph_ask_heal(BlkGraph *graph)
{
    if (graph->heal)
        graph->heal(graph->heal_opaque);
}

void blk_graph_log(BlkGraph *graph, const char *format, ...)
{
    g_autofree char *line = NULL;
    va_list arguments;

    if (!graph->log)
        return;
    va_start(arguments, format);
    line = g_strdup_vprintf(format, arguments);
    va_end(arguments);
    graph->log(graph->log_opaque, line);
}

void blk_graph_set_stores(BlkGraph *graph, bool by_default)
{
    graph->without_stores = !by_default;
}

void blk_graph_set_boot_id(BlkGraph *graph, const uint8_t id[16])
{
    memcpy(graph->boot_id, id, sizeof(graph->boot_id));
}

const uint8_t *blk_graph_boot_id(const BlkGraph *graph)
{
    return graph->boot_id;
}

BlkEngine *blk_graph_engine(BlkGraph *graph)
{
    return graph->engine;
}

pthread_mutex_t *blk_graph_permissions(BlkGraph *graph)
{
    return &graph->permissions;
}

BlkLosses *blk_graph_losses(BlkGraph *graph)
{
    return graph->losses;
}

BlkRegistry *blk_graph_registry(BlkGraph *graph)
{
    return graph->registry;
}

const TmSys *blk_graph_sys(BlkGraph *graph)
{
    return graph->sys;
}

/* ---- names */

static BlkNode *find(BlkGraph *graph, const char *name)
{
    for (guint i = 0; i < graph->nodes->len; i++) {
        BlkNode *node = graph->nodes->pdata[i];

        if (g_str_equal(node->name, name))
            return node;
    }
    return NULL;
}

BlkNode *blk_graph_find(BlkGraph *graph, const char *node_name, GError **error)
{
    BlkNode *node = find(graph, node_name);

    if (!node)
        tm_error_set(error, "Failed to find node with node-name='%s'", node_name);
    return node;
}

BlkNode *blk_graph_lookup(BlkGraph *graph, const char *device, const char *node_name,
                          GError **error)
{
    BlkNode *node = node_name ? find(graph, node_name) : NULL;

    if (!node)
        tm_error_set(error, "Cannot find device='%s' nor node-name='%s'", device ? device : "",
                     node_name ? node_name : "");
    return node;
}

BmpBitmap *blk_graph_find_bitmap(BlkGraph *graph, const char *node_name, const char *name,
                                 GError **error)
{
    BlkNode *node = find(graph, node_name);

    if (node)
        return bmp_set_find(node->bitmaps, name, error);
    tm_error_set(error, "Node '%s' not found", node_name);
    return NULL;
}

GPtrArray *blk_graph_nodes(BlkGraph *graph)
{
    return g_ptr_array_copy(graph->nodes, NULL, NULL);
}

/* The name that @options ask for: free and well-formed. NULL in *name if they ask for none. */
static bool check_name(BlkGraph *graph, json_object *options, const char **name, GError **error)
{
    json_object *value;

    *name = NULL;
    if (!json_object_object_get_ex(options, "node-name", &value) ||
        !json_object_is_type(value, json_type_string))
        return true;
    *name = json_object_get_string(value);
    if (!tm_identifier(*name))
        return tm_error_set(error, "Invalid node-name: '%s'", *name);
    if (strlen(*name) > NODE_NAME_MAX)
        return tm_error_set(error, "Node name too long");
    if (find(graph, *name))
        return tm_error_set(error, "Duplicate nodes with node-name='%s'", *name);
    return true;
}

/* ---- adding and deleting */

static guint users_among(const GPtrArray *nodes, const BlkNode *child)
{
    guint n = 0;

    for (guint i = 0; i < nodes->len; i++) {
        const BlkNode *node = nodes->pdata[i];

        for (unsigned k = 0; k < node->n_children; k++)
            n += blk_node_child_at(node, k) == child;
    }
    return n;
}

/* Nested nodes that nobody uses but those that are @going go too. Closes them all. */
static void drop(BlkGraph *graph, GPtrArray *going)
{
    for (guint i = graph->nodes->len; i-- > 0;) {
        BlkNode *node = graph->nodes->pdata[i];

        if (!node->monitor_owned && blk_node_users(node) == users_among(going, node)) {
            g_ptr_array_remove_index(graph->nodes, i);
            g_ptr_array_add(going, node);
        }
    }
    close_nodes(graph, going);
}

static void drop_orphans(BlkGraph *graph)
{
    g_autoptr(GPtrArray) going = g_ptr_array_new();

    drop(graph, going);
}

/* Below @node first. */
static void list_below_first(GPtrArray *listed, GHashTable *seen, BlkNode *node)
{
    if (!g_hash_table_add(seen, node))
        return;
    for (unsigned i = 0; i < node->n_children; i++) {
        if (node->children[i])
            list_below_first(listed, seen, node->children[i]->node);
    }
    g_ptr_array_add(listed, node);
}

void blk_graph_settle(BlkGraph *graph)
{
    g_autoptr(GHashTable) seen = g_hash_table_new(NULL, NULL);
    GPtrArray *listed = g_ptr_array_new();

    for (guint i = 0; i < graph->nodes->len; i++)
        list_below_first(listed, seen, graph->nodes->pdata[i]);
    g_ptr_array_unref(graph->nodes);
    graph->nodes = listed;
    drop_orphans(graph);
}

/* From the moment that they are compared with the disk on they see what changes it. */
static bool open_bitmaps(BlkNode *node, bool by_default, GError **error)
{
    GPtrArray *held = blk_nodes_hold(&node, 1);
    bool ok = blk_bitmaps_open(node, by_default, error);

    if (ok)
        blk_parents_connect(node);
    blk_nodes_release(held);
    return ok;
}

/* Opens a node and lists it; a reference. */
static BlkNode *open_listed(BlkGraph *graph, json_object *options, bool monitor_owned,
                            GError **error)
{
    g_autofree char *auto_name = NULL;
    const char *name;
    BlkNode *node;

    if (!check_name(graph, options, &name, error))
        return NULL;
    if (!name)
        auto_name = g_strdup_printf("#block%03u", graph->auto_names++);
    node = blk_node_open(graph, options, auto_name, error);
    if (!node)
        return NULL;
    if (find(graph, node->name)) { /* a nested child took the name meanwhile */
        tm_error_set(error, "Duplicate nodes with node-name='%s'", node->name);
        blk_node_unref(node);
        return NULL;
    }
    if (!open_bitmaps(node, monitor_owned && !graph->without_stores, error)) {
        blk_node_unref(node);
        return NULL;
    }
    node->monitor_owned = monitor_owned;
    g_ptr_array_add(graph->nodes, blk_node_ref(node));
    return node;
}

unsigned blk_graph_chain(BlkGraph *graph, int change)
{
    return graph->chain += (unsigned)change;
}

BlkNode *blk_graph_open_child(BlkGraph *graph, json_object *options, GError **error)
{
    return open_listed(graph, options, false, error);
}

BlkNode *blk_graph_add(BlkGraph *graph, json_object *options, GError **error)
{
    BlkNode *node;

    if (!json_object_object_get_ex(options, "node-name", NULL)) {
        tm_error_set(error, "'node-name' must be specified for the root node");
        return NULL;
    }
    node = open_listed(graph, options, true, error);
    if (!node) {
        drop_orphans(graph);
        return NULL;
    }
    blk_node_unref(node); /* the list holds one */
    return node;
}

bool blk_graph_del(BlkGraph *graph, const char *node_name, GError **error)
{
    BlkNode *node = blk_graph_find(graph, node_name, error);
    g_autoptr(GPtrArray) going = g_ptr_array_new();

    if (!node)
        return false;
    if (!node->monitor_owned)
        return tm_error_set(error, "Node %s is not owned by the monitor", node_name);
    /* An export of another node may offer a bitmap of this one. */
    if (blk_node_users(node) || bmp_set_busy(node->bitmaps))
        return tm_error_set(error, "Node %s is in use", node_name);
    g_ptr_array_remove(graph->nodes, node);
    blk_inflight_drain(&node->inflight);
    blk_inflight_drain_end(&node->inflight);
    g_ptr_array_add(going, node);
    drop(graph, going);
    return true;
}

/* ---- all of them */

/* What shows what is below has marks of who writes there, too: held until they fit its new size. */
static bool resize(BlkNode *node, uint64_t size, GError **error)
{
    GPtrArray *held = blk_nodes_hold(&node, 1);
    int ret = blk_node_resize(node, size);
    g_autofree char *why = g_strdup(node->error);

    blk_nodes_release(held);
    if (ret == 0)
        return true;
    if (why)
        return tm_error_set(error, "%s", why);
    if (ret == -ENOTSUP)
        return tm_error_set(error, "Image format driver does not support resize");
    return tm_error_set_errno(error, -ret, "Failed to resize node '%s'", node->name);
}

bool blk_graph_resize(BlkGraph *graph, BlkNode *node, uint64_t size, GError **error)
{
    BlkUser *user;
    bool ok;

    if (blk_node_read_only(node))
        return tm_error_set(error, "Image is read-only");
    user = blk_node_use(node, BLK_USER_UNNAMED, BLK_PERM_RESIZE, BLK_PERM_ALL, error);
    if (!user)
        return false;
    ok = blk_bitmaps_may_resize(node, size, error) && blk_disk_claim(node, error) &&
         resize(node, size, error);
    blk_node_release(user);
    return ok;
}

bool blk_graph_flush_all(BlkGraph *graph, GError **error)
{
    bool ok = true;

    for (guint i = graph->nodes->len; i-- > 0;) { /* parents before children */
        BlkNode *node = graph->nodes->pdata[i];
        int ret = blk_node_read_only(node) ? 0 : blk_node_flush(node);

        if (ret < 0 && ok)
            ok = tm_error_set_errno(error, -ret, "Error flushing node '%s'", node->name);
    }
    return ok;
}
