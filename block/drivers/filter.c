/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* block/drivers/filter.c: what filters answer alike. */
#include "block/drivers/drivers.h"
#include "block/registry.h"

int blk_filter_map(void *handle, uint64_t offset, uint64_t length, uint32_t purpose,
                   struct tidemark_mapping *m)
{
    *m = (struct tidemark_mapping){
        .kind = TIDEMARK_MAP_CHILD,
        .child = BLK_BELOW,
        .offset = offset,
        .length = length,
    };
    return 0;
}

int blk_filter_get_info(struct tidemark_node *node, struct tidemark_info *info)
{
    int ret = blk_host.child_info(node, BLK_BELOW, info);

    info->flags &= ~(uint32_t)(TIDEMARK_INFO_WOULD_BLOCK | TIDEMARK_INFO_IO_URING);
    return ret;
}
