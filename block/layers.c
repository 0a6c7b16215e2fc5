/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* block/layers.c: see the header. */
#include "block/layers.h"

#include "block/node_internal.h"
#include "util/range.h"

#include <errno.h>

#define DEPTH_MAX 1000

/* How a node without clusters of its own says it: as its file does, down to the descriptor. */
static int file_run(BlkNode *node, uint64_t offset, uint64_t length, BlkLayerRun *run)
{
    struct tidemark_mapping m;
    int ret;

    for (unsigned level = 0; level < DEPTH_MAX; level++) {
        ret = blk_node_map(node, offset, length, TIDEMARK_MAP_FOR_STATUS, &m);
        if (ret < 0)
            return ret;
        length = m.length;
        if (m.kind != TIDEMARK_MAP_CHILD)
            break;
        node = blk_node_child_at(node, m.child);
        offset = m.offset;
        if (offset >= blk_node_size(node))
            return -EIO;
        length = tm_min(length, blk_node_size(node) - offset);
    }
    *run = (BlkLayerRun){ .length = length, .present = true };
    run->zero = m.kind == TIDEMARK_MAP_ZERO || m.kind == TIDEMARK_MAP_BACKING;
    run->data = !run->zero;
    run->has_offset = m.kind == TIDEMARK_MAP_FD || node->driver->map;
    run->offset = offset;
    run->file = node;
    return 0;
}

/* Whether so many clusters are in use that the file can't hold them all: then data clusters may be
 * holes. QEMU counts refcounts; here whatever the file is long counts as used. */
static bool seems_preallocated(BlkNode *node)
{
    struct tidemark_info info = { .struct_size = sizeof(info) };
    uint64_t real, cluster = __atomic_load_n(&node->cluster, __ATOMIC_RELAXED);

    blk_node_info(blk_node_child_at(node, 0), &info);
    if (info.allocated == UINT64_MAX)
        return false;
    real = info.allocated / cluster;
    return info.size / cluster >= tm_max(real * 10 / 9, real + 2);
}

/* Clusters of data in a child. */
static int data_run(BlkNode *node, const struct tidemark_mapping *m, BlkLayerRun *run)
{
    BlkNode *child = blk_node_child_at(node, m->child);
    BlkLayerRun below;
    int ret;

    *run = (BlkLayerRun){ .length = m->length, .present = true, .data = true, .has_offset = true };
    run->offset = m->offset;
    run->file = child;
    if (m->offset >= blk_node_size(child))
        return 0;
    if (!seems_preallocated(node))
        return 0;
    ret = file_run(child, m->offset, tm_min(m->length, blk_node_size(child) - m->offset), &below);
    if (ret < 0)
        return ret;
    run->length = below.length;
    run->zero = below.zero;
    return 0;
}

/* What one image says. */
static int image_run(BlkNode *node, uint64_t offset, uint64_t length, BlkLayerRun *run)
{
    struct tidemark_mapping m;
    int ret;

    if (__atomic_load_n(&node->cluster, __ATOMIC_RELAXED) == 1)
        return file_run(node, offset, length, run);
    ret = blk_node_map(node, offset, length, TIDEMARK_MAP_FOR_STATUS, &m);
    if (ret < 0)
        return ret;
    if (m.kind == TIDEMARK_MAP_CHILD)
        return data_run(node, &m, run);
    *run = (BlkLayerRun){ .length = m.length, .present = m.kind != TIDEMARK_MAP_BACKING };
    run->zero = m.kind == TIDEMARK_MAP_ZERO;
    run->data = m.kind == TIDEMARK_MAP_SELF;
    if (m.kind != TIDEMARK_MAP_SELF && !(m.flags & TIDEMARK_MAPPED_HOLE)) {
        run->has_offset = true;
        run->offset = m.offset;
        run->file = blk_node_child_at(node, m.child);
    }
    return 0;
}

int blk_node_layer_run(BlkNode *node, uint64_t offset, uint64_t length, BlkLayerRun *run)
{
    for (unsigned depth = 0; depth < DEPTH_MAX; depth++) {
        BlkNode *backing;
        uint64_t size = blk_node_size(node);
        int ret;

        if (offset >= size)
            return -EINVAL;
        blk_quiesce_enter(&node->quiesce);
        ret = image_run(node, offset, tm_min(length, size - offset), run);
        backing = blk_node_backing(node);
        blk_quiesce_leave(&node->quiesce);
        if (ret < 0)
            return ret;
        run->depth = depth;
        if (run->present)
            return 0;
        if (!backing || offset >= blk_node_size(backing)) {
            run->zero = true;
            run->end = !backing;
            return 0;
        }
        length = run->length;
        node = backing;
    }
    return -ELOOP;
}
