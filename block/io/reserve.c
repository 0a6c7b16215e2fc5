/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* block/io/reserve.c: the descriptor that a range of a node is in, and space there that is promised
 * before it is written to. */
#include "block/node_internal.h"

#include <errno.h>
#include <linux/falloc.h>

BlkNode *blk_node_descriptor(BlkNode *node, uint64_t offset, uint64_t length,
                             struct tidemark_mapping *m)
{
    while (blk_node_map(node, offset, length, TIDEMARK_MAP_FOR_READ, m) == 0 &&
           m->length == length) {
        if (m->kind == TIDEMARK_MAP_FD)
            return node;
        if (m->kind != TIDEMARK_MAP_CHILD)
            return NULL;
        node = blk_node_child_at(node, m->child);
        offset = m->offset;
    }
    return NULL;
}

/* EINVAL: a device, asked for a part of a sector. */
static bool lacks(int err)
{
    return err == EOPNOTSUPP || err == ENOSYS || err == ENODEV || err == EINVAL;
}

/* A request in flight on @place, as others are: whoever resizes the node waits for it. */
static int reserve(BlkNode *place, const TmSys *sys, const struct tidemark_mapping *m)
{
    int ret = 0;

    blk_inflight_shared(&place->inflight, m->offset, m->length);
    do {
        ret = sys->fallocate(m->fd, FALLOC_FL_KEEP_SIZE, (off_t)m->offset, (off_t)m->length);
    } while (ret < 0 && errno == EINTR);
    if (ret < 0)
        ret = lacks(errno) ? -ENOTSUP : -errno;
    else if (place->driver->wrote)
        place->driver->wrote(place->handle, m->offset, m->length);
    blk_inflight_shared_end(&place->inflight, m->offset, m->length);
    return ret;
}

int blk_node_reserve(BlkNode *node, uint64_t offset, uint64_t length)
{
    struct tidemark_mapping m;
    BlkNode *place = blk_node_descriptor(node, offset, length, &m);

    return place ? reserve(place, node->graph_sys, &m) : -ENOTSUP;
}
