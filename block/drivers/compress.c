/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* block/drivers/compress.c: a filter whose writes are stored compressed by the format below, in
 * whole clusters: what is written of a cluster is put together with the rest of it.
 *
 * The cluster size is reported as the alignment of requests, so that the core keeps others away
 * from the clusters that are read, changed and written (block/io/blocking.c). Reads, zeroes and
 * discards pass through.
 *
 * Options and messages as QEMU's (qapi BlockdevOptionsGenericFormat, block/filter-compress.c). */
#include "block/drivers/drivers.h"
#include "block/registry.h"
#include "util/error.h"
#include "util/range.h"

#include <errno.h>
#include <glib.h>
#include <string.h>

typedef struct Compress {
    struct tidemark_node *node; /* the host's */
    uint64_t cluster;
} Compress;

static int compress_open(struct tidemark_node *node, void **handle)
{
    struct tidemark_info info = { .struct_size = sizeof(info) };
    Compress c = { .node = node };
    int ret = blk_host.child_info(node, BLK_BELOW, &info);

    if (ret < 0) {
        blk_host.error(node, "Could not get image size: %s", tm_strerror(-ret));
        return ret;
    }
    if (!(info.flags & TIDEMARK_INFO_COMPRESS) || !info.cluster_size) {
        blk_host.error(node, "Compression is not supported for the format of 'file'");
        return -ENOTSUP;
    }
    c.cluster = info.cluster_size;
    *handle = g_memdup2(&c, sizeof(c));
    return 0;
}

static void compress_close(void *handle)
{
    g_free(handle);
}

static int compress_get_info(void *handle, struct tidemark_info *info)
{
    const Compress *c = handle;
    int ret = blk_host.child_info(c->node, BLK_BELOW, info);

    info->request_alignment = (uint32_t)c->cluster;
    info->flags &= ~(uint32_t)TIDEMARK_INFO_COMPRESS;
    return ret;
}

static int compress_map(void *handle, uint64_t offset, uint64_t length, uint32_t purpose,
                        struct tidemark_mapping *m)
{
    blk_filter_map(handle, offset, length, purpose, m);
    if (purpose == TIDEMARK_MAP_FOR_WRITE)
        m->kind = TIDEMARK_MAP_SELF;
    return 0;
}

/* A part of one cluster. */
static int write_part(Compress *c, const uint8_t *buf, uint64_t offset, uint64_t length)
{
    uint64_t first = tm_align_down(offset, c->cluster);
    uint64_t n = tm_min(c->cluster, blk_host.child_size(c->node, BLK_BELOW) - first);
    g_autofree uint8_t *whole = NULL;
    int ret = 0;

    if (length == n)
        return blk_host.child_pwrite(c->node, BLK_BELOW, buf, offset, length, TIDEMARK_COMPRESSED);
    whole = g_try_malloc(n);
    ret = whole ? blk_host.child_pread(c->node, BLK_BELOW, whole, first, n, 0) : -ENOMEM;
    if (ret < 0)
        return ret;
    memcpy(whole + (offset - first), buf, length);
    return blk_host.child_pwrite(c->node, BLK_BELOW, whole, first, n, TIDEMARK_COMPRESSED);
}

static int compress_pwrite(void *handle, const void *buf, uint64_t offset, uint64_t length,
                           uint32_t flags)
{
    Compress *c = handle;
    const uint8_t *at = buf;

    while (length) {
        uint64_t within = offset & (c->cluster - 1);
        uint64_t n = within || length < c->cluster ? tm_min(length, c->cluster - within)
                                                   : tm_align_down(length, c->cluster);
        int ret = n >= c->cluster ? blk_host.child_pwrite(c->node, BLK_BELOW, at, offset, n,
                                                          TIDEMARK_COMPRESSED)
                                  : write_part(c, at, offset, n);

        if (ret < 0)
            return ret;
        at += n;
        offset += n;
        length -= n;
    }
    return 0;
}

static int compress_write_zeroes(void *handle, uint64_t offset, uint64_t length, uint32_t flags)
{
    Compress *c = handle;

    return blk_host.child_write_zeroes(c->node, BLK_BELOW, offset, length, flags);
}

static int compress_discard(void *handle, uint64_t offset, uint64_t length)
{
    Compress *c = handle;

    return blk_host.child_discard(c->node, BLK_BELOW, offset, length);
}

static int compress_resize(void *handle, uint64_t size)
{
    Compress *c = handle;

    return blk_host.child_resize(c->node, BLK_BELOW, size);
}

static const struct tidemark_child compress_children[] = { { "file", 1 }, { 0 } };

const struct tidemark_driver blk_driver_compress = {
    .abi = TIDEMARK_ABI,
    .struct_size = sizeof(struct tidemark_driver),
    .name = "compress",
    .help = "a filter whose writes are stored compressed in its qcow2 child",
    .children = compress_children,
    .open = compress_open,
    .close = compress_close,
    .get_info = compress_get_info,
    .map = compress_map,
    .pwrite = compress_pwrite,
    .write_zeroes = compress_write_zeroes,
    .discard = compress_discard,
    .resize = compress_resize,
};
