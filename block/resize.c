/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* block/resize.c: nodes of another size: block_resize, and files that grow for their format. */
#include "bitmap/store/store.h"
#include "block/bitmaps.h"
#include "block/disk.h"
#include "block/filters.h"
#include "block/node_internal.h"
#include "block/parents.h"

#include "util/error.h"
#include "util/range.h"

#include <errno.h>

static int resize_by(BlkNode *node, uint64_t size, int (*resize)(void *handle, uint64_t size))
{
    const BlkFormat *format;
    int ret;

    if (size > TM_SIZE_MAX)
        return -EFBIG;
    if (!node->open)
        return -EIO;
    if (!resize)
        return -ENOTSUP;
    /* Of a format what is cut off may be gone before the size says so, and stay so after a
     * crash. */
    format = blk_builtin_of(node->driver)->format;
    if (format && format->bitmaps && size < node->size)
        bmp_set_cut_begin(node->bitmaps, size);
    ret = resize(node->handle, size);
    if (ret < 0)
        bmp_set_cut_failed(node->bitmaps);
    if (ret < 0)
        return ret;
    ret = blk_node_refresh(node);
    if (ret < 0)
        return ret;
    blk_bitmaps_store(node, true);
    return 0;
}

int blk_node_resize(BlkNode *node, uint64_t size)
{
    return resize_by(node, size, node->driver->resize);
}

int blk_node_grow(BlkNode *node, uint64_t size)
{
    int (*grow)(void *handle, uint64_t size) =
        node->builtin->grow ? node->builtin->grow : node->driver->resize;
    int ret = 0;

    if (blk_node_size(node) >= size)
        return 0;
    if (blk_node_read_only(node))
        return -EPERM;
    blk_inflight_drain(&node->inflight);
    if (blk_node_size(node) < size)
        ret = resize_by(node, size, grow);
    blk_inflight_drain_end(&node->inflight);
    return ret;
}

/* A filter above is as long as what it shows, and so are its bitmaps. false: on to the next one. */
static bool follow(BlkNode *parent)
{
    uint64_t size = blk_node_size(parent);

    if (parent->open && blk_node_refresh(parent) == 0 && blk_node_size(parent) != size) {
        blk_bitmaps_store(parent, true);
        blk_parents_any_up(parent, follow);
    }
    return false;
}

/* What shows what is below has marks of who writes there, too: held until they fit its new size. So
 * is what stands on the node. */
static bool resize(BlkNode *node, uint64_t size, GError **error)
{
    g_autoptr(GPtrArray) below = blk_nodes_below(&node, 1);
    BlkHold *above = blk_hold_begin((BlkNode *const *)below->pdata, below->len);
    GPtrArray *held = blk_nodes_hold(&node, 1);
    g_autofree char *why = NULL;
    int ret;

    g_clear_pointer(&node->error, g_free);
    ret = blk_node_resize(node, size);
    why = g_strdup(node->error);
    for (guint i = below->len; ret == 0 && i-- > 0;)
        blk_parents_any_up(below->pdata[i], follow);
    blk_nodes_release(held);
    blk_hold_end(above);
    if (ret == 0)
        return true;
    if (why)
        return tm_error_set_cause(error, -ret, "%s", why);
    if (ret == -ENOTSUP)
        return tm_error_set_cause(error, ENOTSUP, "Image format driver does not support resize");
    return tm_error_set_errno(error, -ret, "Failed to resize node '%s'", node->name);
}

bool blk_graph_resize(BlkGraph *graph, BlkNode *node, uint64_t size, GError **error)
{
    unsigned needs = size < blk_node_size(node) ? BLK_PERM_RESIZE : BLK_PERM_GROW;
    BlkUser *user;
    bool ok;

    if (blk_node_read_only(node))
        return tm_error_set(error, "Image is read-only");
    user = blk_node_use(node, BLK_USER_UNNAMED, needs, BLK_PERM_ALL, error);
    if (!user)
        return false;
    ok = blk_bitmaps_may_resize(node, size, error) && blk_disk_claim(node, error) &&
         resize(node, size, error);
    blk_node_release(user);
    return ok;
}
