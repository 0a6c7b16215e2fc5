/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* block/bitmaps_keeper.c: stores that the driver of a node keeps beside its disk (the callbacks
 * store_... of tidemark/driver.h). */
#include "block/bitmaps_internal.h"
#include "util/error.h"

static int keeper_open(void *opaque, bool read_only, uint64_t *size)
{
    BlkNode *node = opaque;

    (void)read_only; /* the driver knows how it was opened */
    return node->driver->store_open(node->handle, size);
}

static int keeper_read(void *opaque, void *data, uint64_t length, uint64_t offset)
{
    BlkNode *node = opaque;

    return node->driver->store_read(node->handle, data, offset, length);
}

static int keeper_write(void *opaque, const BmpPiece *pieces, size_t n, uint64_t size, bool replace)
{
    BlkNode *node = opaque;

    return node->driver->store_write(node->handle, pieces, (uint32_t)n, size,
                                     replace ? TIDEMARK_STORE_REPLACE : 0);
}

static void keeper_abandon(void *opaque)
{
    BlkNode *node = opaque;

    node->driver->store_abandon(node->handle);
}

bool blk_bitmaps_beside(const BlkNode *node)
{
    return g_str_equal(blk_options_string(node->options, "bitmap-place"), "disk");
}

bool blk_bitmaps_keeper(BlkNode *node, BmpKeeper *keeper, GError **error)
{
    if (blk_options_is_set(node->options, "bitmap-store"))
        return tm_error_set(error,
                            "Node '%s' has the options bitmap-store, which names a file, and "
                            "bitmap-place=disk: expected one of them",
                            node->name);
    if (!node->driver->store_open)
        return tm_error_set(error,
                            "Node '%s' can't have bitmap-place=disk: its driver '%s' can't keep "
                            "bitmaps beside its disk",
                            node->name, node->driver->name);
    *keeper = (BmpKeeper){ .opaque = node,
                           .open = keeper_open,
                           .read = keeper_read,
                           .write = keeper_write,
                           .abandon = keeper_abandon };
    return true;
}
