/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* block/definition.c: see the header. */
#include "block/definition.h"

#include "block/filters.h"
#include "block/node_internal.h"
#include "block/users.h"

#include <string.h>

/* The name was made by the graph: nobody can give it. */
static bool is_unnamed(const BlkNode *node)
{
    return node->name[0] == '#';
}

static json_object *define(BlkNode *node, GHashTable *defined);

/* Its name, if it is defined elsewhere; else its definition. */
static json_object *refer(BlkNode *node, GHashTable *defined)
{
    if (node->monitor_owned || (!is_unnamed(node) && g_hash_table_contains(defined, node)))
        return json_object_new_string(node->name);
    return define(node, defined);
}

/* @defined: the nodes that have been defined so far. */
static json_object *define(BlkNode *node, GHashTable *defined)
{
    json_object *definition = blk_options_given(node->options);

    g_hash_table_add(defined, node);
    for (unsigned i = 0; i < node->n_children; i++) {
        const char *name = node->driver->children[i].name;
        BlkNode *child = blk_node_child_at(node, i);
        json_object *value;
        bool given = blk_options_child(node->options, name, &value);

        child = child ? blk_filters_below(child) : NULL;
        if (child && (given || !is_unnamed(child))) /* else the image names it */
            json_object_object_add(definition, name, refer(child, defined));
        else if (!child && given && !value)
            json_object_object_add(definition, name, NULL);
    }
    return definition;
}

static bool has_parent(BlkNode *node)
{
    g_autoptr(GPtrArray) users = blk_users_list(node);
    bool has = false;

    for (guint i = 0; i < users->len && !has; i++)
        has = ((BlkUser *)users->pdata[i])->parent != NULL;
    return has;
}

json_object *blk_graph_definitions(BlkGraph *graph)
{
    g_autoptr(GPtrArray) nodes = blk_graph_nodes(graph);
    g_autoptr(GHashTable) defined = g_hash_table_new(NULL, NULL);
    json_object *all = json_object_new_array();

    for (guint i = 0; i < nodes->len; i++) {
        BlkNode *node = nodes->pdata[i];

        if (node->monitor_owned || (!is_unnamed(node) && !node->kept && !has_parent(node)))
            json_object_array_add(all, define(node, defined));
    }
    return all;
}
