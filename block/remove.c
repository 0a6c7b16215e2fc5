/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* block/remove.c: nodes are closed, parents first, and leave the graph: blockdev-del, nested nodes
 * that nobody uses any more, the end of the graph. */
#include "block/bitmaps.h"
#include "block/graph_internal.h"
#include "block/parents.h"
#include "block/users.h"

#include "util/error.h"

/* Takes references. Parents first. What a driver writes when it closes belongs to what the stores
 * of the bitmaps below say, and changes the files that they are to know again: they close last, and
 * meanwhile nobody writes from below. */
static void close_nodes(BlkGraph *graph, const GPtrArray *going)
{
    GPtrArray *held = blk_nodes_hold((BlkNode *const *)going->pdata, going->len);

    for (guint i = 0; i < going->len; i++)
        graph->unsaved |= !blk_bitmaps_settle(going->pdata[i]);
    for (guint i = 0; i < going->len; i++) {
        graph->unsaved |= !blk_bitmaps_close_beside(going->pdata[i], going);
        blk_node_close_driver(going->pdata[i]);
    }
    for (guint i = 0; i < going->len; i++)
        graph->unsaved |= !blk_bitmaps_close(going->pdata[i], going);
    blk_nodes_release(held);
    /* A write below may be marking all of them, one through the other, until the last is
     * disconnected. */
    for (guint i = going->len; i-- > 0;)
        blk_parents_disconnect(going->pdata[i]);
    for (guint i = 0; i < going->len; i++)
        blk_node_unref(going->pdata[i]);
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
    g_hash_table_unref(graph->names);
    g_hash_table_unref(graph->places);
    kept = !graph->unsaved;
    blk_losses_clear(&graph->losses);
    pthread_mutex_destroy(&graph->permissions);
    g_free(graph);
    return kept;
}

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

        if (!node->monitor_owned && !node->kept &&
            blk_node_users(node) == users_among(going, node)) {
            blk_graph_unlist(graph, node);
            g_ptr_array_add(going, node);
        }
    }
    close_nodes(graph, going);
}

void blk_graph_drop_orphans(BlkGraph *graph)
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

void blk_graph_sort(BlkGraph *graph)
{
    g_autoptr(GHashTable) seen = g_hash_table_new(NULL, NULL);
    GPtrArray *listed = g_ptr_array_new();

    for (guint i = 0; i < graph->nodes->len; i++)
        list_below_first(listed, seen, graph->nodes->pdata[i]);
    g_ptr_array_unref(graph->nodes);
    graph->nodes = listed;
    graph->last_rank = 0;
    for (guint i = 0; i < listed->len; i++)
        ((BlkNode *)listed->pdata[i])->rank = ++graph->last_rank;
}

void blk_graph_settle(BlkGraph *graph)
{
    blk_graph_sort(graph);
    blk_graph_drop_orphans(graph);
}

/* Exports and the like. */
static bool has_outer_user(BlkNode *node)
{
    g_autoptr(GPtrArray) users = blk_users_list(node);
    bool has = false;

    for (guint i = 0; i < users->len && !has; i++)
        has = !((BlkUser *)users->pdata[i])->parent;
    return has;
}

bool blk_graph_del(BlkGraph *graph, const char *node_name, GError **error)
{
    BlkNode *node = blk_graph_find(graph, node_name, error);
    g_autoptr(GPtrArray) going = g_ptr_array_new();

    if (!node)
        return false;
    if (!blk_node_check_free(node, error))
        return false;
    if (has_outer_user(node))
        return tm_error_set(error, "Node %s is in use", node_name);
    if (!blk_node_check_no_backing(node, error))
        return false;
    if (!node->monitor_owned)
        return tm_error_set(error, "Node %s is not owned by the monitor", node_name);
    /* An export of another node may offer a bitmap of this one. */
    if (blk_node_users(node) || bmp_set_busy(node->bitmaps))
        return tm_error_set(error, "Block device %s is in use", node_name);
    blk_graph_unlist(graph, node);
    blk_inflight_drain(&node->inflight);
    blk_inflight_drain_end(&node->inflight);
    g_ptr_array_add(going, node);
    drop(graph, going);
    return true;
}
