/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* block/io/copy_up.c: see the header.
 *
 * A piece is read from the backing and written while the node's clusters are held exclusively, and
 * what is to be copied is looked up once they are: so it never replaces what somebody wrote. */
#include "block/io/copy_up.h"

#include "block/io/change.h"
#include "util/range.h"
#include "util/zeroes.h"

#include <errno.h>
#include <string.h>

#define CHUNK (UINT64_C(1) << 20)

BlkNode *blk_copy_up_filtered(const BlkNode *node)
{
    BlkChildRole role = blk_node_child_role(node, 0);

    return role == BLK_ROLE_FILTER ? blk_node_child_at(node, 0) : NULL;
}

/* The child that the answer leads to, if the node only shows it. */
static BlkNode *shown(const BlkNode *node, const struct tidemark_mapping *m)
{
    return m->kind == TIDEMARK_MAP_CHILD && blk_node_shows(node, m->child)
               ? blk_node_child_at(node, m->child)
               : NULL;
}

bool blk_copy_up_due(BlkNode *node, uint64_t offset, uint64_t *length)
{
    struct tidemark_mapping m;
    uint64_t held = *length;
    BlkNode *below;
    bool due = true;

    if (!blk_inflight_try_shared(&node->inflight, offset, held))
        return true;
    if (tm_range_within(offset, held, blk_node_size(node)) &&
        blk_node_map(node, offset, held, TIDEMARK_MAP_FOR_READ, &m) == 0) {
        *length = m.length;
        below = shown(node, &m);
        due = below ? blk_copy_up_due(below, m.offset, length)
                    : m.kind == TIDEMARK_MAP_BACKING ||
                          (m.kind == TIDEMARK_MAP_SELF && node->backing >= 0);
    }
    blk_inflight_shared_end(&node->inflight, offset, held);
    return due;
}

/* ---- layers */

static BlkNode *unfiltered(BlkNode *node)
{
    BlkNode *below;

    while (node && (below = blk_copy_up_filtered(node)))
        node = below;
    return node;
}

static bool has_layer(BlkNode *node, const char *name)
{
    for (node = unfiltered(node); node; node = unfiltered(blk_node_backing(node))) {
        if (g_str_equal(node->name, name))
            return true;
    }
    return false;
}

/* Whether a layer from @node down to @bottom has the first of the range; what can't be looked up,
 * it has. */
static bool has_data(BlkNode *node, const char *bottom, uint64_t offset, uint64_t *length)
{
    for (node = unfiltered(node); node; node = unfiltered(blk_node_backing(node))) {
        struct tidemark_mapping m;
        uint64_t size = blk_node_size(node);

        if (offset >= size)
            return true;
        if (blk_node_map(node, offset, tm_min(*length, size - offset), TIDEMARK_MAP_FOR_STATUS,
                         &m) < 0)
            return true;
        *length = m.length;
        if (m.kind != TIDEMARK_MAP_BACKING || g_str_equal(node->name, bottom))
            return m.kind != TIDEMARK_MAP_BACKING;
    }
    return false;
}

/* ---- copying */

/* What is beyond the end of the backing reads as zeroes. */
static int copy_piece(const BlkChange *c, uint64_t offset, uint64_t length, char *buf)
{
    BlkNode *backing = blk_node_backing(c->node);
    uint64_t size = backing ? blk_node_size(backing) : 0;
    uint64_t there = offset < size ? tm_min(length, size - offset) : 0;
    int ret = there ? blk_node_pread(backing, buf, offset, there) : 0;

    memset(buf + there, 0, length - there);
    if (ret < 0)
        return ret;
    return tm_all_zero(buf, length)
               ? blk_change_zero(c, offset, length, 0)
               : blk_change_write(c, &(BlkPayload){ .buf = buf }, 0, offset, length, 0);
}

static int copy_held(const BlkChange *c, const char *bottom, char *buf)
{
    uint64_t end = c->offset + c->length;
    int ret = 0;

    for (uint64_t at = c->offset; ret == 0 && at < end;) {
        struct tidemark_mapping m;

        ret = blk_node_map(c->node, at, end - at, TIDEMARK_MAP_FOR_STATUS, &m);
        if (ret == 0 && m.kind == TIDEMARK_MAP_BACKING &&
            (!bottom || has_data(blk_node_backing(c->node), bottom, at, &m.length)))
            ret = copy_piece(c, at, m.length, buf);
        at += m.length;
    }
    return ret;
}

/* The clusters of a range that was in the backing a moment ago. */
static int copy_clusters(BlkNode *node, const char *bottom, uint64_t offset, uint64_t length)
{
    uint32_t cluster = __atomic_load_n(&node->cluster, __ATOMIC_RELAXED);
    uint64_t at = tm_align_down(offset, cluster);
    uint64_t end = tm_min(tm_align_up(offset + length, cluster), blk_node_size(node));
    uint64_t chunk = tm_max(CHUNK, cluster);
    g_autofree char *buf = g_try_malloc(tm_min(chunk, end - at));
    int ret = buf ? 0 : -ENOMEM;

    while (ret == 0 && at < end) {
        BlkChange c = { .node = node, .offset = at, .exclusive = true, .unchanged = true };

        c.length = tm_min(chunk, end - at);
        ret = blk_change_begin(&c);
        if (ret < 0)
            break;
        ret = copy_held(&c, bottom, buf);
        blk_change_end(&c);
        at += c.length;
    }
    return ret;
}

static int map_status(BlkNode *node, uint64_t offset, uint64_t length, struct tidemark_mapping *m)
{
    int ret;

    blk_inflight_shared(&node->inflight, offset, length);
    ret = tm_range_within(offset, length, blk_node_size(node))
              ? blk_node_map(node, offset, length, TIDEMARK_MAP_FOR_STATUS, m)
              : -EINVAL;
    blk_inflight_shared_end(&node->inflight, offset, length);
    return ret;
}

int blk_copy_up(BlkNode *node, const char *bottom, uint64_t offset, uint64_t length)
{
    int ret = 0;

    while (ret == 0 && length) {
        struct tidemark_mapping m;
        BlkNode *below;

        ret = map_status(node, offset, length, &m);
        if (ret < 0)
            return ret;
        below = shown(node, &m);
        if (below)
            ret = blk_copy_up(below, bottom, m.offset, m.length);
        else if (m.kind == TIDEMARK_MAP_BACKING &&
                 (!bottom || has_layer(blk_node_backing(node), bottom)))
            ret = copy_clusters(node, bottom, offset, m.length);
        offset += m.length;
        length -= m.length;
    }
    return ret;
}
