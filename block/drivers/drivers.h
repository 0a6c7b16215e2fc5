/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* block/drivers/drivers.h: the built-in drivers, for the table in builtin.c.
 *
 * Static descriptions; any thread. */
#pragma once
#include "block/options.h"
#include "include/tidemark/driver.h"

extern const struct tidemark_driver blk_driver_blkdebug;          /* blkdebug.c */
extern const struct tidemark_driver blk_driver_compress;          /* compress.c */
extern const struct tidemark_driver blk_driver_copy_before_write; /* copy_before_write/driver.c */
extern const struct tidemark_driver blk_driver_copy_on_read;      /* copy_on_read.c */
extern const struct tidemark_driver blk_driver_file; /* file/file.c: files and block devices */
extern const struct tidemark_driver
    blk_driver_host_device;                              /* file/file.c: the same, devices only */
extern const struct tidemark_driver blk_driver_nbd;      /* nbd/nbd.c */
extern const struct tidemark_driver blk_driver_null_aio; /* null.c */
extern const struct tidemark_driver blk_driver_null_co;  /* null.c */
extern const struct BlkLocks blk_locks_file;             /* file/file.c */
extern const struct BlkFormat blk_format_qcow2;          /* qcow2/describe.c */
extern const struct tidemark_driver blk_driver_preallocate;     /* preallocate.c */
extern const struct tidemark_driver blk_driver_qcow2;           /* qcow2/qcow2.c */
extern const struct tidemark_driver blk_driver_raw;             /* raw.c */
extern const struct tidemark_driver blk_driver_scratch;         /* scratch.c */
extern const struct tidemark_driver blk_driver_snapshot_access; /* snapshot_access.c */
extern const struct tidemark_driver blk_driver_throttle;        /* throttle.c */

/* The permissions of a blkdebug filter on its child, besides a filter's. blkdebug_rules.c */
void blk_blkdebug_permit(const BlkOptions *options, unsigned *needs, unsigned *shares);
/* The same of a copy-on-read filter. copy_on_read.c */
void blk_copy_on_read_permit(const BlkOptions *options, unsigned *needs, unsigned *shares);
/* A preallocate node grows for the format above it. preallocate.c */
int blk_preallocate_grow(void *handle, uint64_t size);
/* What the handle of a throttle node is a member by. throttle.c */
struct BlkThrottle *blk_throttle_of(void *handle);

/* ---- filter.c: for filters, whose child is their only one */

#define BLK_BELOW 0u

/* The map of a filter that passes requests on: all is in the child. The handle may be any. */
int blk_filter_map(void *handle, uint64_t offset, uint64_t length, uint32_t purpose,
                   struct tidemark_mapping *m);
/* Its get_info: the child's, without what concerns a descriptor, which a filter has none of. The
 * child's errors. */
int blk_filter_get_info(struct tidemark_node *node, struct tidemark_info *info);
