/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* block/reopen_state.c: reopenings that keep all options but one: nodes that become read-only,
 * inactive or active.
 *
 * An inactive node is open as one that is read-only and lets others do what they like, and it has
 * no persistent bitmaps: whoever has the image meanwhile has them. When it is active again, they
 * are read anew, and what else it has is dirty. */
#include "block/disk.h"
#include "block/parents.h"
#include "block/reopen_internal.h"
#include "block/users.h"

#include "util/error.h"

#include <errno.h>

/* ---- read-only */

/* Whether opening it anew would give the same disk. */
static bool is_in_place(BlkNode *node)
{
    bool is =
        !blk_builtin_of(node->driver)->stateful && (node->n_children || blk_disk_is_in_place(node));

    for (unsigned i = 0; i < node->n_children && is; i++) {
        BlkNode *child = (int)i == node->backing ? NULL : blk_node_child_at(node, i);

        is = !child || is_in_place(child);
    }
    return is;
}

/* Those that were defined within it inherit that. */
static void add_read_only(BlkReopen *r, BlkNode *node)
{
    blk_reopen_add(r, node, "read-only", true);
    for (unsigned i = 0; i < node->n_children; i++) {
        BlkNode *child = (int)i == node->backing ? NULL : blk_node_child_at(node, i);

        if (child && !child->monitor_owned && blk_node_users(child) == 1)
            add_read_only(r, child);
    }
}

void blk_graph_make_read_only(BlkNode *node)
{
    g_autoptr(GError) error = NULL;
    BlkReopen r;

    if (blk_node_meant_read_only(node))
        return;
    if (!is_in_place(node)) {
        BLK_NODE_WARN(node, "node '%s' stays writable: its file is not where it was opened",
                      node->name);
        return;
    }
    blk_reopen_begin(&r, node->graph);
    add_read_only(&r, node);
    if (!blk_reopen_check_writers(&r, node, true, &error) || !blk_reopen_run(&r, &error))
        BLK_NODE_WARN(node, "node '%s' stays writable: %s", node->name, error->message);
    blk_reopen_end(&r);
}

/* ---- active and inactive */

static bool has_parent(BlkNode *node, const GPtrArray *going)
{
    g_autoptr(GPtrArray) users = blk_users_list(node);
    bool has = false;

    for (guint i = 0; i < users->len && !has; i++) {
        BlkNode *parent = ((BlkUser *)users->pdata[i])->parent;

        has = parent && blk_node_active(parent) &&
              !g_ptr_array_find((GPtrArray *)going, parent, NULL);
    }
    return has;
}

/* With those below that no other active node uses. */
static void add_inactive(GPtrArray *nodes, BlkNode *node)
{
    if (!blk_node_active(node) || has_parent(node, nodes) || g_ptr_array_find(nodes, node, NULL))
        return;
    g_ptr_array_add(nodes, node);
    for (unsigned i = 0; i < node->n_children; i++) {
        if (blk_node_child_at(node, i))
            add_inactive(nodes, blk_node_child_at(node, i));
    }
}

/* With all below. */
static void add_active(GPtrArray *nodes, BlkNode *node)
{
    for (unsigned i = 0; i < node->n_children; i++) {
        if (blk_node_child_at(node, i))
            add_active(nodes, blk_node_child_at(node, i));
    }
    if (!blk_node_active(node) && !g_ptr_array_find(nodes, node, NULL))
        g_ptr_array_add(nodes, node);
}

/* Who writes would get errors, unless it knows that it may. */
static bool check_writers(BlkNode *node, GError **error)
{
    g_autoptr(GPtrArray) users = blk_users_list(node);

    for (guint i = 0; i < users->len; i++) {
        const BlkUser *user = users->pdata[i];

        if (!user->parent && !user->allows_inactive &&
            user->needs & ~(unsigned)BLK_PERM_CONSISTENT_READ)
            return tm_error_set(error,
                                "Operation not permitted: %s writes to node '%s', and was not "
                                "added with allow-inactive",
                                user->what, node->name);
    }
    return true;
}

static bool check_inactive(BlkNode *node, GError **error)
{
    if (blk_builtin_of(node->driver)->stateful)
        return tm_error_set(error, "node '%s' keeps what others can't see", node->name);
    if (bmp_set_busy(node->bitmaps))
        return tm_error_set(error, "bitmaps of node '%s' are in use", node->name);
    return blk_node_check_free(node, error) && check_writers(node, error);
}

static bool check_all_inactive(const GPtrArray *nodes, GError **error)
{
    for (guint i = 0; i < nodes->len; i++) {
        if (!check_inactive(nodes->pdata[i], error))
            return false;
    }
    return true;
}

static bool set_active(BlkGraph *graph, const GPtrArray *nodes, bool active, GError **error)
{
    BlkReopen r;
    bool ok;

    if (!nodes->len)
        return true;
    blk_reopen_begin(&r, graph);
    for (guint i = 0; i < nodes->len; i++) {
        blk_reopen_add(&r, nodes->pdata[i], "active", active);
        g_ptr_array_add(r.moved, nodes->pdata[i]);
    }
    ok = blk_reopen_run(&r, error);
    blk_reopen_end(&r);
    return ok;
}

bool blk_graph_set_active(BlkGraph *graph, BlkNode *node, bool active, GError **error)
{
    g_autoptr(GPtrArray) nodes = g_ptr_array_new(), all = NULL;

    if (node && !active && blk_node_active(node) && has_parent(node, nodes))
        return tm_error_set(error, "Node has active parent node");
    if (!node)
        all = blk_graph_nodes(graph);
    for (guint i = all ? all->len : 0; i-- > 0;) /* parents first */
        (active ? add_active : add_inactive)(nodes, all->pdata[i]);
    if (node)
        (active ? add_active : add_inactive)(nodes, node);
    if (!active && !check_all_inactive(nodes, error)) {
        g_prefix_error(error, "Failed to inactivate %s: ", node ? "node" : "all nodes");
        return false;
    }
    return set_active(graph, nodes, active, error);
}
