/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* block/flush.c: making a node's completed writes durable. */
#include "block/losses.h"
#include "block/node_internal.h"

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
        if (ret < 0 && !node->n_children)
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
    int ret;

    blk_quiesce_enter(&node->quiesce);
    ret = flush(node);
    blk_quiesce_leave(&node->quiesce);
    return ret;
}
