/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* block/users.c: see the header. */
#include "block/users.h"

#include "block/node_internal.h"
#include "block/permissions.h"
#include "util/error.h"
#include "util/sync.h"

void blk_user_follow(BlkUser *user)
{
    user->follows = true;
}

BlkNode *blk_user_enter(BlkUser *user)
{
    blk_quiesce_enter(&user->quiesce);
    return user->node;
}

void blk_user_leave(BlkUser *user)
{
    blk_quiesce_leave(&user->quiesce);
}

void blk_user_done(BlkUser *user)
{
    blk_gate_leave(&user->gate);
}

unsigned blk_user_inside(const BlkUser *user)
{
    return blk_gate_inside(&user->gate);
}

void blk_node_queue(BlkNode *node, BlkNodeQueue *queue)
{
    *queue = (BlkNodeQueue){ 0 };
    blk_worker_quota_count(&node->quota, &queue->running, &queue->waiting);
    TM_GUARD(blk_graph_permissions(node->graph));

    for (guint i = 0; i < node->users->len; i++)
        queue->inside += blk_user_inside(node->users->pdata[i]);
}

void blk_user_block(BlkUser *user, const char *why)
{
    TM_GUARD(blk_graph_permissions(user->graph));

    user->blocker = why;
}

void blk_user_allow_inactive(BlkUser *user)
{
    TM_GUARD(blk_graph_permissions(user->graph));

    user->allows_inactive = true;
}

bool blk_node_check_free(BlkNode *node, GError **error)
{
    TM_GUARD(blk_graph_permissions(node->graph));

    for (guint i = 0; i < node->users->len; i++) {
        const BlkUser *user = node->users->pdata[i];

        if (user->blocker)
            return tm_error_set(error, "Node '%s' is busy: %s", node->name, user->blocker);
    }
    return true;
}

bool blk_node_check_no_backing(BlkNode *node, GError **error)
{
    TM_GUARD(blk_graph_permissions(node->graph));

    for (guint i = 0; i < node->users->len; i++) {
        const BlkUser *user = node->users->pdata[i];

        if (user->parent && (int)user->index == user->parent->backing)
            return tm_error_set(error, "Node '%s' is busy: node is used as backing hd of '%s'",
                                node->name, user->parent->name);
    }
    return true;
}

GPtrArray *blk_users_list(BlkNode *node)
{
    GPtrArray *users = g_ptr_array_new_with_free_func((GDestroyNotify)blk_user_unref);
    TM_GUARD(blk_graph_permissions(node->graph));

    for (guint i = 0; i < node->users->len; i++)
        g_ptr_array_add(users, blk_user_ref(node->users->pdata[i]));
    return users;
}

bool blk_users_move(GPtrArray *users, BlkNode *to, GError **error)
{
    g_autofree BlkNode **others = g_new(BlkNode *, users->len + 1);
    bool ok;

    for (guint i = 0; i < users->len; i++)
        others[i] = blk_node_ref(to);
    ok = !users->len || blk_permissions_exchange(users, others, error);
    for (guint i = 0; i < users->len; i++)
        blk_node_unref(others[i] ? others[i] : to);
    return ok;
}
