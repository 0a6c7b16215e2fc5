/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* block/add.c: blockdev-add: nodes are opened from their options, children first, and listed. */
#include "block/bitmaps.h"
#include "block/graph_internal.h"
#include "block/parents.h"

#include "util/error.h"
#include "util/identifier.h"

#include <string.h>

#define NODE_NAME_MAX 31 /* bytes, as QEMU */

/* ---- children */

/* A nested definition inherits what QEMU lets a child inherit unless it says so itself. */
json_object *blk_node_child_options(json_object *parent, json_object *child, bool backing)
{
    static const char *const inherited[] = { "read-only",   "auto-read-only", "discard",
                                             "force-share", "cache",          "active" };
    json_object *options = NULL;

    if (json_object_deep_copy(child, &options, NULL) < 0)
        return NULL;
    /* What is below is not written, unless it is said that it is. */
    if (backing && !json_object_object_get_ex(options, "read-only", NULL))
        json_object_object_add(options, "read-only", json_object_new_boolean(true));
    for (size_t i = 0; i < G_N_ELEMENTS(inherited); i++) {
        json_object *value;

        if (json_object_object_get_ex(parent, inherited[i], &value) &&
            !json_object_object_get_ex(options, inherited[i], NULL))
            json_object_object_add(options, inherited[i], json_object_get(value));
    }
    return options;
}

static bool open_child(BlkNode *node, unsigned index, json_object *options, GError **error)
{
    const struct tidemark_child *kind = &node->driver->children[index];
    g_autoptr(BlkNode) own = NULL;
    json_object *value = NULL;
    BlkNode *child;

    if (!blk_options_child(node->options, kind->name, &value) || !value) {
        if (kind->required)
            return tm_error_set(error, "Parameter '%s' is missing", kind->name);
        return true;
    }
    if (json_object_is_type(value, json_type_string)) {
        const char *name = json_object_get_string(value);

        child = blk_graph_lookup(node->graph, name, name, error);
        if (!child)
            return false;
    } else {
        json_object *nested = blk_node_child_options(options, value, (int)index == node->backing);

        child = own = blk_graph_open_child(node->graph, nested, error);
        json_object_put(nested);
        if (!child)
            return false;
    }
    if ((int)index != node->backing && blk_node_read_only(child))
        node->read_only = true; /* until the driver says */
    node->children[index] = blk_node_use_child(node, index, child, error);
    return node->children[index] != NULL;
}

static bool open_children(BlkNode *node, json_object *options, GError **error)
{
    const struct tidemark_child *kinds = node->driver->children;
    unsigned n = 0;

    while (kinds && kinds[n].name)
        n++;
    node->n_children = n;
    node->children = g_new0(BlkUser *, n);
    for (unsigned i = 0; i < n; i++) {
        if (g_str_equal(kinds[i].name, "backing"))
            node->backing = (int)i;
        if (!open_child(node, i, options, error))
            return false;
    }
    return true;
}

/* ---- nodes */

/* Opens a node and its children; monitor-owned nodes are named in the options. */
static BlkNode *node_open(BlkGraph *graph, json_object *object, const char *auto_name,
                          GError **error)
{
    const struct tidemark_driver *driver;
    g_autoptr(BlkNode) node = NULL;
    json_object *name = NULL;
    BlkOptions *options;

    if (!json_object_object_get_ex(object, "driver", &name)) {
        tm_error_set(error, "Parameter 'driver' is missing");
        return NULL;
    }
    driver = blk_registry_find(blk_graph_registry(graph), json_object_get_string(name));
    if (!driver) {
        tm_error_set(error, "Parameter 'driver' does not accept value '%s'",
                     json_object_get_string(name));
        return NULL;
    }
    options = blk_options_parse(driver, object, error);
    if (!options)
        return NULL;
    node = blk_node_new(graph, driver, options, auto_name);
    node->read_only = blk_options_bool(options, "read-only");
    if (!open_children(node, object, error) || !blk_node_open_driver(node, error))
        return NULL;
    node->bitmaps = bmp_set_new(node->name, node->size);
    return g_steal_pointer(&node);
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
    if (blk_graph_find(graph, *name, NULL))
        return tm_error_set(error, "Duplicate nodes with node-name='%s'", *name);
    return true;
}

/* From the moment that they are compared with the disk on they see what changes it. */
static bool open_bitmaps(BlkNode *node, GError **error)
{
    GPtrArray *held = blk_nodes_hold(&node, 1);
    bool ok = blk_bitmaps_open(node, error);

    node->bitmaps_closed = !blk_node_active(node);
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
    node = node_open(graph, options, auto_name, error);
    if (!node)
        return NULL;
    if (blk_graph_find(graph, node->name, NULL)) { /* a nested child took the name meanwhile */
        tm_error_set(error, "Duplicate nodes with node-name='%s'", node->name);
        blk_node_unref(node);
        return NULL;
    }
    node->monitor_owned = monitor_owned;
    if (!open_bitmaps(node, error)) {
        blk_node_unref(node);
        return NULL;
    }
    blk_graph_list(graph, blk_node_ref(node));
    return node;
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
        blk_graph_drop_orphans(graph);
        return NULL;
    }
    blk_node_unref(node); /* the list holds one */
    return node;
}
