/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* block/drivers/throttle.c: a filter that applies the limits of a throttle group to requests. It
 * maps everything to its child; who has to wait waits in block/io/throttle.c.
 *
 * Options and messages as QEMU's (qapi BlockdevOptionsThrottle, block/throttle.c). */
#include "block/io/throttle.h"
#include "block/drivers/drivers.h"
#include "block/graph.h"
#include "block/registry.h"
#include "util/error.h"

#include <errno.h>

typedef struct Throttle {
    struct tidemark_node *node; /* the host's */
    BlkThrottle *member;
} Throttle;

BlkThrottle *blk_throttle_of(void *handle)
{
    return ((Throttle *)handle)->member;
}

static BlkThrottle *join_group(struct tidemark_node *node, GError **error)
{
    BlkGraph *graph = blk_node_graph(node);
    g_autoptr(TmObject) group =
        tm_objects_get(blk_graph_objects(graph), blk_host.option_string(node, "throttle-group"),
                       TM_OBJECT_THROTTLE_GROUP, error);

    return group ? blk_throttle_new(graph, group, error) : NULL;
}

static int throttle_open(struct tidemark_node *node, void **handle)
{
    g_autoptr(GError) error = NULL;
    BlkThrottle *member = join_group(node, &error);
    Throttle *t;

    if (!member) {
        blk_host.error(node, "%s", error->message);
        return -EINVAL;
    }
    t = g_new0(Throttle, 1);
    t->node = node;
    t->member = member;
    *handle = t;
    return 0;
}

static void throttle_close(void *handle)
{
    Throttle *t = handle;

    blk_throttle_free(t->member);
    g_free(t);
}

static int throttle_get_info(void *handle, struct tidemark_info *info)
{
    const Throttle *t = handle;

    return blk_filter_get_info(t->node, info);
}

static int throttle_resize(void *handle, uint64_t size)
{
    const Throttle *t = handle;

    return blk_host.child_resize(t->node, BLK_BELOW, size);
}

static const struct tidemark_option throttle_options[] = {
    { .name = "throttle-group",
      .type = TIDEMARK_OPTION_STRING,
      .required = 1,
      .help = "id of the throttle-group object that has the limits" },
    { 0 },
};

static const struct tidemark_child throttle_children[] = { { "file", 1 }, { 0 } };

const struct tidemark_driver blk_driver_throttle = {
    .abi = TIDEMARK_ABI,
    .struct_size = sizeof(struct tidemark_driver),
    .name = "throttle",
    .help = "a filter that applies the limits of a throttle group to requests",
    .options = throttle_options,
    .children = throttle_children,
    .open = throttle_open,
    .close = throttle_close,
    .get_info = throttle_get_info,
    .map = blk_filter_map,
    .resize = throttle_resize,
};
