/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* block/flush.c: making completed writes durable, of a node, and of all when the end is near. */
#include "block/losses.h"
#include "block/node_internal.h"
#include "block/registry.h"

#include "util/error.h"
#include "util/trace.h"

#include <errno.h>

/* Inside of the node (block/engine/quiesce.h). */
static int flush(BlkNode *node)
{
    int ret = 0;

    if (!node->open)
        return -EIO;
    if (node->driver->flush) {
        blk_node_serial_begin(node);
        ret = node->driver->flush(node->handle);
        blk_node_serial_end(node);
        if (ret < 0 && (!node->n_children || blk_builtin_of(node->driver)->fails))
            blk_losses_note(node);
        return ret;
    }
    for (unsigned i = 0; ret == 0 && i < node->n_children; i++) {
        BlkNode *child = blk_node_child_at(node, i);

        if (child && !blk_node_read_only(child))
            ret = blk_node_flush(child);
    }
    return ret;
}

int blk_node_flush(BlkNode *node)
{
    uint64_t began = tm_now_ns();
    int ret;

    blk_quiesce_enter(&node->quiesce);
    TM_TRACE(sync_begin, node->name);
    ret = flush(node);
    TM_TRACE(sync_end, node->name, -ret);
    blk_quiesce_leave(&node->quiesce);
    blk_counters_add(&node->counters, BLK_COUNT_FLUSH, 0, 0, ret,
                     (BlkTook){ tm_now_ns() - began, 1 });
    return ret;
}

void blk_graph_hurry(BlkGraph *graph)
{
    g_autoptr(GPtrArray) nodes = blk_graph_nodes(graph);

    for (guint i = 0; i < nodes->len; i++) {
        BlkNode *node = nodes->pdata[i];

        if (node->open && node->builtin->hurry)
            node->builtin->hurry(node->handle);
    }
}

bool blk_graph_flush_all(BlkGraph *graph, GError **error)
{
    g_autoptr(GPtrArray) nodes = blk_graph_nodes(graph);
    bool ok = true;

    for (guint i = nodes->len; i-- > 0;) { /* parents before children */
        BlkNode *node = nodes->pdata[i];
        int ret = blk_node_read_only(node) ? 0 : blk_node_flush(node);

        if (ret < 0 && ok)
            ok = tm_error_set_errno(error, -ret, "Error flushing node '%s'", node->name);
    }
    return ok;
}
