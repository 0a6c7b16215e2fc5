/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* block/filters.c: see the header.
 *
 * Holding takes three steps, from those who begin requests down: gates are closed, and what is
 * inside comes to its end; nodes are drained; then users and nodes are quiesced, parents first
 * (block/engine/quiesce.h), as nobody inside waits for anything any more. */
#include "block/filters.h"

#include "block/node_internal.h"
#include "block/parents.h"
#include "block/permissions.h"
#include "block/users.h"

struct BlkHold {
    GPtrArray *nodes; /* BlkNode, references; parents first */
    GPtrArray *users; /* BlkUser, references: those that follow one of them */
};

#define FIRST 0u

/* ---- holding */

static bool stands_on_any(const BlkNode *node, GHashTable *held)
{
    for (unsigned i = 0; i < node->n_children; i++) {
        BlkNode *child = blk_node_child_at(node, i);

        if (child && g_hash_table_contains(held, child))
            return true;
    }
    return false;
}

/* The list of the graph has children before their parents. */
static GPtrArray *list_up(BlkNode *const *nodes, size_t n)
{
    g_autoptr(GPtrArray) all = blk_graph_nodes(nodes[0]->graph);
    g_autoptr(GHashTable) held = g_hash_table_new(NULL, NULL);
    GPtrArray *up = g_ptr_array_new_with_free_func((GDestroyNotify)blk_node_unref);

    for (size_t i = 0; i < n; i++)
        g_hash_table_add(held, nodes[i]);
    for (guint i = 0; i < all->len; i++) {
        BlkNode *node = all->pdata[i];

        if (!g_hash_table_contains(held, node) && !stands_on_any(node, held))
            continue;
        g_hash_table_add(held, node);
        g_ptr_array_insert(up, 0, blk_node_ref(node));
    }
    return up;
}

static GPtrArray *list_followers(const GPtrArray *nodes)
{
    GPtrArray *followers = g_ptr_array_new_with_free_func((GDestroyNotify)blk_user_unref);

    for (guint i = 0; i < nodes->len; i++) {
        g_autoptr(GPtrArray) users = blk_users_list(nodes->pdata[i]);

        for (guint k = 0; k < users->len; k++) {
            if (((BlkUser *)users->pdata[k])->follows)
                g_ptr_array_add(followers, blk_user_ref(users->pdata[k]));
        }
    }
    return followers;
}

/* A request that a throttle delays is inside of its gate, so limits end as for a drain. */
static void close_gates(const GPtrArray *users)
{
    for (guint i = 0; i < users->len; i++)
        blk_gate_close(&((BlkUser *)users->pdata[i])->gate);
    for (guint i = 0; i < users->len; i++) {
        BlkUser *user = users->pdata[i];
        int *drains = &blk_graph_traffic(user->node->graph)->drains;

        __atomic_add_fetch(drains, 1, __ATOMIC_RELEASE);
        blk_gate_wait(&user->gate);
        __atomic_sub_fetch(drains, 1, __ATOMIC_RELEASE);
    }
}

static void open_gates(const GPtrArray *users)
{
    for (guint i = 0; i < users->len; i++) {
        BlkUser *user = users->pdata[i];
        BlkWork *next, *parked = blk_gate_open(&user->gate);

        for (; parked; parked = next) {
            next = parked->next;
            blk_worker_quota_add(&user->node->quota, parked);
        }
    }
}

BlkHold *blk_hold_begin(BlkNode *const *nodes, size_t n)
{
    BlkHold *h = g_new0(BlkHold, 1);

    h->nodes = list_up(nodes, n);
    h->users = list_followers(h->nodes);
    blk_nodes_trace_drain(h->nodes, true);
    close_gates(h->users);
    for (guint i = 0; i < h->nodes->len; i++)
        blk_inflight_drain_to_quiesce(&((BlkNode *)h->nodes->pdata[i])->inflight);
    for (guint i = 0; i < h->users->len; i++)
        blk_quiesce_close(&((BlkUser *)h->users->pdata[i])->quiesce);
    for (guint i = 0; i < h->nodes->len; i++)
        blk_quiesce_close(&((BlkNode *)h->nodes->pdata[i])->quiesce);
    return h;
}

void blk_hold_end(BlkHold *h)
{
    if (!h)
        return;
    for (guint i = h->nodes->len; i-- > 0;) {
        BlkNode *node = h->nodes->pdata[i];

        blk_quiesce_open(&node->quiesce);
        blk_inflight_drain_end(&node->inflight);
    }
    for (guint i = 0; i < h->users->len; i++)
        blk_quiesce_open(&((BlkUser *)h->users->pdata[i])->quiesce);
    open_gates(h->users);
    blk_nodes_trace_drain(h->nodes, false);
    g_ptr_array_unref(h->users);
    g_ptr_array_unref(h->nodes);
    g_free(h);
}

/* ---- filters */

GPtrArray *blk_users_above(BlkNode *from, const BlkNode *to)
{
    GPtrArray *users = blk_users_list(from);

    for (guint i = users->len; i-- > 0;) {
        const BlkUser *user = users->pdata[i];

        if (user->parent ? blk_node_stands_on(to, user->parent) : !user->follows)
            g_ptr_array_remove_index(users, i);
    }
    return users;
}

static void for_parents(const GPtrArray *users, void (*fn)(BlkNode *parent))
{
    for (guint i = 0; i < users->len; i++) {
        const BlkUser *user = users->pdata[i];

        if (user->parent)
            fn(user->parent);
    }
}

/* What the parent knows of its child. */
static void refresh(BlkNode *parent)
{
    if (parent->open)
        blk_node_refresh(parent);
}

bool blk_users_lift(GPtrArray *users, BlkNode *to, GError **error)
{
    bool ok;

    for_parents(users, blk_parents_disconnect);
    ok = blk_users_move(users, to, error);
    for_parents(users, blk_parents_connect);
    for_parents(users, refresh);
    return ok;
}

static bool move(BlkNode *from, BlkNode *to, GError **error)
{
    g_autoptr(GPtrArray) users = blk_users_above(from, to);

    return blk_users_lift(users, to, error);
}

bool blk_filters_insert(BlkNode *const *filters, size_t n, GError **error)
{
    g_autoptr(GPtrArray) below = g_ptr_array_new();
    BlkHold *hold;
    size_t done = 0;

    if (!n)
        return true;
    for (size_t i = 0; i < n; i++)
        g_ptr_array_add(below, blk_node_child_at(filters[i], FIRST));
    hold = blk_hold_begin((BlkNode *const *)below->pdata, n);
    while (done < n && move(blk_node_child_at(filters[done], FIRST), filters[done], error))
        done++;
    for (size_t i = done; done < n && i-- > 0;)
        move(filters[i], blk_node_child_at(filters[i], FIRST), NULL);
    blk_graph_sort(filters[0]->graph);
    blk_hold_end(hold);
    return done == n;
}

void blk_filters_remove(BlkNode *const *filters, size_t n)
{
    BlkHold *hold;

    if (!n)
        return;
    hold = blk_hold_begin(filters, n);
    for (size_t i = 0; i < n; i++)
        move(filters[i], blk_node_child_at(filters[i], FIRST), NULL);
    blk_graph_sort(filters[0]->graph);
    blk_hold_end(hold);
}

static BlkNode *filter_above(BlkNode *node)
{
    g_autoptr(GPtrArray) users = blk_users_list(node);
    BlkNode *above = NULL;

    for (guint i = 0; i < users->len && !above; i++) {
        const BlkUser *user = users->pdata[i];

        if (user->parent && user->parent->kept && user->index == FIRST)
            above = user->parent;
    }
    return above;
}

BlkNode *blk_filters_top(BlkNode *node)
{
    BlkNode *above;

    while ((above = filter_above(node)))
        node = above;
    return node;
}

BlkNode *blk_filters_below(BlkNode *node)
{
    while (node->kept && blk_node_child_at(node, FIRST))
        node = blk_node_child_at(node, FIRST);
    return node;
}

bool blk_user_move(BlkUser *user, BlkNode *to, GError **error)
{
    g_autoptr(GPtrArray) users = g_ptr_array_new_with_free_func((GDestroyNotify)blk_user_unref);
    bool ok;

    g_ptr_array_add(users, blk_user_ref(user));
    close_gates(users);
    blk_quiesce_close(&user->quiesce);
    ok = blk_users_move(users, to, error);
    blk_quiesce_open(&user->quiesce);
    open_gates(users);
    return ok;
}
