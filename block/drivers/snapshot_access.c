/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* block/drivers/snapshot_access.c: the disk as it was at the instant of the copy-before-write
 * filter below. A discard releases: what nobody will read any more needs no copy.
 *
 * As QEMU's block/snapshot-access.c. */
#include "block/drivers/copy_before_write/cbw.h"
#include "block/drivers/drivers.h"
#include "block/registry.h"
#include "util/error.h"

#include <errno.h>
#include <glib.h>

#define FILTER 0u

static int snapshot_open(struct tidemark_node *node, void **handle)
{
    *handle = node;
    return 0;
}

static void snapshot_close(void *handle)
{
}

static int snapshot_get_info(void *handle, struct tidemark_info *info)
{
    int ret = blk_host.child_info(handle, FILTER, info);

    info->size = blk_cbw_snapshot_size(blk_node_child(handle, FILTER), info->size);
    info->flags &=
        ~(uint32_t)(TIDEMARK_INFO_FUA | TIDEMARK_INFO_FAST_ZERO | TIDEMARK_INFO_COMPRESS);
    info->flags |= TIDEMARK_INFO_DISCARD;
    info->request_alignment = 1;
    info->allocated = UINT64_MAX;
    return ret;
}

static int snapshot_map(void *handle, uint64_t offset, uint64_t length, uint32_t purpose,
                        struct tidemark_mapping *m)
{
    if (purpose == TIDEMARK_MAP_FOR_STATUS)
        return blk_cbw_snapshot_status(blk_node_child(handle, FILTER), offset, length, m);
    *m = (struct tidemark_mapping){ .kind = TIDEMARK_MAP_SELF, .fd = -1, .length = length };
    return 0;
}

static int snapshot_pread(void *handle, void *buf, uint64_t offset, uint64_t length, uint32_t flags)
{
    return blk_cbw_snapshot_pread(blk_node_child(handle, FILTER), buf, offset, length);
}

static int snapshot_pwrite(void *handle, const void *buf, uint64_t offset, uint64_t length,
                           uint32_t flags)
{
    return -EOPNOTSUPP;
}

static int snapshot_discard(void *handle, uint64_t offset, uint64_t length)
{
    return blk_cbw_release(blk_node_child(handle, FILTER), offset, length);
}

static int snapshot_flush(void *handle)
{
    return 0;
}

static const struct tidemark_child snapshot_children[] = { { "file", 1 }, { 0 } };

const struct tidemark_driver blk_driver_snapshot_access = {
    .abi = TIDEMARK_ABI,
    .struct_size = sizeof(struct tidemark_driver),
    .name = "snapshot-access",
    .help = "the disk as it was when its copy-before-write child was inserted",
    .children = snapshot_children,
    .open = snapshot_open,
    .close = snapshot_close,
    .get_info = snapshot_get_info,
    .map = snapshot_map,
    .pread = snapshot_pread,
    .pwrite = snapshot_pwrite,
    .flush = snapshot_flush,
    .discard = snapshot_discard,
};
