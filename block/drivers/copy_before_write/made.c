/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* copy_before_write/made.c: filters that are made in code. */
#include "block/drivers/copy_before_write/cbw_internal.h"
#include "block/node_internal.h"
#include "util/json.h"

static json_object *definition(const BlkCbwOptions *o)
{
    json_object *options = json_object_new_object();

    tm_json_add_string(options, "driver", "copy-before-write");
    if (o->node_name)
        tm_json_add_string(options, "node-name", o->node_name);
    tm_json_add_string(options, "file", blk_node_name(o->source));
    tm_json_add_string(options, "target", blk_node_name(o->target));
    tm_json_add_string(options, "on-cbw-error",
                       o->on_error == BLK_CBW_BREAK_SNAPSHOT ? "break-snapshot"
                                                             : "break-guest-write");
    tm_json_add_string(options, "discard",
                       "unmap"); /* what a client says reaches its disk as before */
    tm_json_add_uint(options, "cbw-timeout", o->timeout);
    if (o->min_cluster_size)
        tm_json_add_uint(options, "min-cluster-size", o->min_cluster_size);
    return options;
}

BlkNode *blk_cbw_new(BlkGraph *graph, const BlkCbwOptions *o, GError **error)
{
    json_object *options = definition(o);
    BlkNode *node = blk_graph_open_child(graph, options, error);

    json_object_put(options);
    if (!node)
        return NULL;
    node->kept = true;
    cbw_of(node)->copy_flags = o->copy_flags;
    cbw_of(node)->failed = o->failed;
    cbw_of(node)->opaque = o->opaque;
    blk_node_unref(node); /* the list holds one */
    return node;
}

void blk_cbw_drop(BlkNode *filter)
{
    filter->kept = false;
    blk_graph_settle(blk_node_graph(filter));
}
