/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* block/node_life.c: a node from its making to its end: its driver opened and closed, and the users
 * that keep it. */
#include "block/losses.h"
#include "block/node_internal.h"

#include "bitmap/store/store.h"

#include "block/users.h"
#include "util/error.h"
#include "util/sync.h"

void blk_node_unref(BlkNode *node)
{
    if (!node || !tm_unref(&node->refs))
        return;
    blk_node_close_driver(node);
    for (unsigned i = 0; i < node->n_children; i++)
        blk_node_release(node->children[i]);
    bmp_set_free(node->bitmaps);
    blk_inflight_destroy(&node->inflight);
    blk_quiesce_destroy(&node->quiesce);
    blk_long_requests_destroy(&node->long_requests);
    blk_worker_quota_destroy(&node->quota);
    pthread_mutex_destroy(&node->serial);
    blk_counters_clear(&node->counters);
    g_ptr_array_unref(node->users);
    blk_options_free(node->options);
    g_free(node->children);
    g_free(node->up);
    g_free(node->error);
    g_free(node->lost);
    g_free(node->seen);
    g_free(node->rest);
    g_free(node->name);
    g_aligned_free(node);
}

void blk_node_read_options(BlkNode *node)
{
    const char *discard = blk_options_string(node->options, "discard");
    const char *detect = blk_options_string(node->options, "detect-zeroes");

    __atomic_store_n(&node->unmap, g_str_equal(discard, "unmap"), __ATOMIC_RELAXED);
    __atomic_store_n(&node->detect,
                     g_str_equal(detect, "unmap") ? BLK_DETECT_UNMAP
                     : g_str_equal(detect, "on")  ? BLK_DETECT_ON
                                                  : BLK_DETECT_OFF,
                     __ATOMIC_RELAXED);
}

BlkNode *blk_node_new(BlkGraph *graph, const struct tidemark_driver *driver, BlkOptions *options,
                      const char *auto_name)
{
    BlkNode *node = g_aligned_alloc0(1, sizeof(BlkNode), 64);

    node->refs = 1;
    node->graph = graph;
    node->graph_sys = blk_graph_sys(graph);
    node->traffic = blk_graph_traffic(graph);
    node->driver = driver;
    node->builtin = blk_builtin_of(driver);
    node->options = options;
    node->name =
        g_strdup(blk_options_is_set(options, "node-name") ? blk_options_string(options, "node-name")
                                                          : auto_name);
    node->backing = -1;
    node->users = g_ptr_array_new();
    blk_node_read_options(node);
    blk_inflight_init(&node->inflight, &blk_graph_traffic(graph)->drains);
    blk_quiesce_init(&node->quiesce);
    blk_long_requests_init(&node->long_requests);
    blk_worker_quota_init(&node->quota, blk_graph_engine(graph), node->builtin->background);
    pthread_mutex_init(&node->serial, NULL);
    return node;
}

/* ---- its driver */

static void set_open(BlkNode *node, bool open)
{
    blk_permissions_lock(node);
    node->open = open;
    blk_permissions_unlock(node);
}

void blk_node_close_driver(BlkNode *node)
{
    if (!node->open)
        return;
    blk_losses_remember(node);
    set_open(node, false);
    node->throttle = NULL;
    node->driver->close(node->handle);
    node->handle = NULL;
}

void blk_node_predict(BlkNode *node)
{
    bool read_only = blk_options_bool(node->options, "read-only");

    for (unsigned i = 0; i < node->n_children; i++) {
        const BlkNode *child = blk_node_child_at(node, i);

        read_only |= child && (int)i != node->backing && blk_node_read_only(child);
    }
    __atomic_store_n(&node->read_only, read_only, __ATOMIC_RELAXED);
}

bool blk_node_open_driver(BlkNode *node, GError **error)
{
    int ret;

    /* A format may write as soon as it is open. */
    blk_node_predict(node);
    if (!blk_permissions_refresh(&node, 1, error))
        return false;
    g_clear_pointer(&node->error, g_free);
    ret = node->driver->open(node, &node->handle);

    if (ret == 0) {
        set_open(node, true);
        if (node->builtin->throttle)
            node->throttle = node->builtin->throttle(node->handle);
        __atomic_store_n(&node->invalidates, 0, __ATOMIC_RELAXED);
        ret = blk_node_refresh(node);
        if (ret == 0)
            return blk_permissions_refresh(&node, 1, error);
    }
    if (node->error)
        return tm_error_set_cause(error, -ret, "%s", node->error);
    return tm_error_set_errno(error, -ret, "Could not open node '%s'", node->name);
}

/* ---- its users */

BlkUser *blk_user_ref(BlkUser *user)
{
    tm_ref(&user->refs);
    return user;
}

void blk_user_unref(BlkUser *user)
{
    if (!tm_unref(&user->refs))
        return;
    blk_gate_destroy(&user->gate);
    blk_quiesce_destroy(&user->quiesce);
    g_free(user->what);
    g_free(user);
}

static BlkUser *use(BlkNode *node, BlkUser what, GError **error)
{
    BlkUser *user = g_memdup2(&what, sizeof(what));

    user->refs = 1;
    user->graph = node->graph;
    user->node = blk_node_ref(node);
    blk_gate_init(&user->gate);
    blk_quiesce_init(&user->quiesce);
    if (blk_permissions_join(user, error))
        return user;
    blk_node_release(user);
    return NULL;
}

BlkUser *blk_node_use(BlkNode *node, const char *what, unsigned needs, unsigned shares,
                      GError **error)
{
    return use(node, (BlkUser){ .what = g_strdup(what), .needs = needs, .shares = shares }, error);
}

bool blk_node_check_activity(const BlkNode *parent, unsigned index, const BlkNode *child,
                             GError **error)
{
    return !blk_node_active(parent) || blk_node_active(child) ||
           tm_error_set(error, "Inactive '%s' can't be a %s child of active '%s'", child->name,
                        parent->driver->children[index].name, parent->name);
}

BlkUser *blk_node_use_child(BlkNode *parent, unsigned index, BlkNode *child, GError **error)
{
    if (!blk_node_check_activity(parent, index, child, error))
        return NULL;
    return use(child,
               (BlkUser){ .parent = parent,
                          .index = index,
                          .what = g_strdup_printf("node '%s'", parent->name) },
               error);
}

void blk_node_release(BlkUser *user)
{
    if (!user)
        return;
    blk_permissions_leave(user);
    blk_node_unref(user->node);
    blk_user_unref(user);
}
