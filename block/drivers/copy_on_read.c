/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* block/drivers/copy_on_read.c: a filter whose reads copy what comes from a backing image into the
 * image below the filter (block/io/copy_up.h). What the image has itself is mapped.
 *
 * Options and messages as QEMU's (qapi BlockdevOptionsCor, block/copy-on-read.c). What differs: the
 * chain down to the bottom may change, and nothing is copied while the bottom is not in it. */
#include "block/disk.h"
#include "block/drivers/drivers.h"
#include "block/graph.h"
#include "block/io/copy_up.h"
#include "block/registry.h"

#include <errno.h>
#include <glib.h>

typedef struct CopyOnRead {
    struct tidemark_node *node; /* the host's */
    char *bottom;               /* NULL: none */
} CopyOnRead;

static int check_bottom(struct tidemark_node *node, const char *name)
{
    BlkNode *bottom = name ? blk_graph_find(blk_node_graph(node), name, NULL) : NULL;

    if (name && !bottom) {
        blk_host.error(node, "Bottom node '%s' not found", name);
        return -EINVAL;
    }
    if (bottom && blk_copy_up_filtered(bottom)) {
        blk_host.error(node, "Bottom node '%s' is a filter", name);
        return -EINVAL;
    }
    return 0;
}

/* It writes, whoever uses it. */
static int claim(struct tidemark_node *node)
{
    g_autoptr(GError) error = NULL;

    if (blk_disk_claim(blk_node_child(node, BLK_BELOW), &error))
        return 0;
    blk_host.error(node, "%s", error->message);
    return -EIO;
}

static int cor_open(struct tidemark_node *node, void **handle)
{
    const char *bottom = blk_host.option_string(node, "bottom");
    int ret = check_bottom(node, bottom);
    CopyOnRead *cor;

    if (ret == 0)
        ret = claim(node);
    if (ret < 0)
        return ret;
    cor = g_new0(CopyOnRead, 1);
    cor->node = node;
    cor->bottom = g_strdup(bottom);
    *handle = cor;
    return 0;
}

static void cor_close(void *handle)
{
    CopyOnRead *cor = handle;

    g_free(cor->bottom);
    g_free(cor);
}

static int cor_get_info(void *handle, struct tidemark_info *info)
{
    const CopyOnRead *cor = handle;

    return blk_filter_get_info(cor->node, info);
}

static int cor_map(void *handle, uint64_t offset, uint64_t length, uint32_t purpose,
                   struct tidemark_mapping *m)
{
    const CopyOnRead *cor = handle;

    blk_filter_map(handle, offset, length, purpose, m);
    if (purpose == TIDEMARK_MAP_FOR_READ &&
        blk_copy_up_due(blk_node_child(cor->node, BLK_BELOW), offset, &m->length))
        m->kind = TIDEMARK_MAP_SELF;
    return 0;
}

static int copy_up(const CopyOnRead *cor, uint64_t offset, uint64_t length)
{
    return blk_copy_up(blk_node_child(cor->node, BLK_BELOW), cor->bottom, offset, length);
}

static int cor_pread(void *handle, void *buf, uint64_t offset, uint64_t length, uint32_t flags)
{
    const CopyOnRead *cor = handle;
    int ret = copy_up(cor, offset, length);

    return ret < 0 ? ret : blk_host.child_pread(cor->node, BLK_BELOW, buf, offset, length, flags);
}

static int cor_cache(void *handle, uint64_t offset, uint64_t length)
{
    const CopyOnRead *cor = handle;
    int ret = copy_up(cor, offset, length);

    return ret < 0 ? ret : blk_host.child_cache(cor->node, BLK_BELOW, offset, length);
}

static int cor_resize(void *handle, uint64_t size)
{
    const CopyOnRead *cor = handle;

    return blk_host.child_resize(cor->node, BLK_BELOW, size);
}

void blk_copy_on_read_permit(const BlkOptions *options, unsigned *needs, unsigned *shares)
{
    *needs |= BLK_PERM_WRITE_UNCHANGED;
    *shares |= BLK_PERM_WRITE_UNCHANGED;
}

static const struct tidemark_option cor_options[] = {
    { .name = "bottom",
      .type = TIDEMARK_OPTION_STRING,
      .help = "node of the backing chain: nothing is copied that comes from below it" },
    { 0 },
};

static const struct tidemark_child cor_children[] = { { "file", 1 }, { 0 } };

const struct tidemark_driver blk_driver_copy_on_read = {
    .abi = TIDEMARK_ABI,
    .struct_size = sizeof(struct tidemark_driver),
    .name = "copy-on-read",
    .help = "a filter whose reads copy data from backing images into the image below it",
    .options = cor_options,
    .children = cor_children,
    .open = cor_open,
    .close = cor_close,
    .get_info = cor_get_info,
    .map = cor_map,
    .pread = cor_pread,
    .cache = cor_cache,
    .resize = cor_resize,
};
