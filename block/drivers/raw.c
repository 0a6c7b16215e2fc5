/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* block/drivers/raw.c: the format without a format: the child's bytes, or a window of them.
 *
 * Everything is a mapping to the child: offset is added, size limits. There is nothing to do in a
 * blocking callback, so there are none but resize.
 *
 * Invariants: offset + size <= INT64_MAX; size changes by resize only. Immutable otherwise: no
 * locks. Options and messages as QEMU's qapi BlockdevOptionsRaw. */
#include "block/drivers/drivers.h"
#include "block/registry.h"
#include "util/error.h"
#include "util/range.h"

#include <errno.h>
#include <glib.h>
#include <inttypes.h>
#include <stdbool.h>
#include <string.h>

#define RAW_CHILD  0u
#define RAW_SECTOR 512u

typedef struct RawDisk {
    struct tidemark_node *node; /* the host's */
    uint64_t offset, size;
    bool fixed; /* size was given: it doesn't follow the child */
} RawDisk;

static int raw_check(struct tidemark_node *node, const RawDisk *raw, uint64_t whole)
{
    if (raw->offset > whole) {
        blk_host.error(node,
                       "Offset (%" PRIu64 ") cannot be greater than size of the containing file "
                       "(%" PRIu64 ")",
                       raw->offset, whole);
        return -EINVAL;
    }
    if (raw->fixed && raw->size > whole - raw->offset) {
        /* two spaces, as QEMU says it */
        blk_host.error(node,
                       "The sum of offset (%" PRIu64 ") and size (%" PRIu64
                       ") has to be smaller or equal to the  actual size of the containing file "
                       "(%" PRIu64 ")",
                       raw->offset, raw->size, whole);
        return -EINVAL;
    }
    if (raw->fixed && raw->size % RAW_SECTOR) {
        blk_host.error(node, "Specified size is not multiple of %u", RAW_SECTOR);
        return -EINVAL;
    }
    return 0;
}

static int raw_open(struct tidemark_node *node, void **handle)
{
    struct tidemark_info info = { .struct_size = sizeof(info) };
    RawDisk raw = { .node = node };
    int ret = blk_host.child_info(node, RAW_CHILD, &info);

    if (ret < 0) {
        blk_host.error(node, "Could not get image size: %s", tm_strerror(-ret));
        return ret;
    }
    raw.offset = blk_host.option_uint(node, "offset");
    raw.fixed = blk_host.option_is_set(node, "size");
    raw.size = blk_host.option_uint(node, "size");
    ret = raw_check(node, &raw, info.size);
    if (ret < 0)
        return ret;
    if (!raw.fixed)
        raw.size = info.size - raw.offset;
    *handle = g_memdup2(&raw, sizeof(raw));
    return 0;
}

static void raw_close(void *handle)
{
    g_free(handle);
}

static int raw_get_info(void *handle, struct tidemark_info *info)
{
    const RawDisk *raw = handle;
    struct tidemark_info child = { .struct_size = sizeof(child) };
    int ret = blk_host.child_info(raw->node, RAW_CHILD, &child);

    if (ret < 0)
        return ret;
    *info = child;
    info->size = __atomic_load_n(&raw->size, __ATOMIC_RELAXED);
    return 0;
}

static int raw_map(void *handle, uint64_t offset, uint64_t length, uint32_t purpose,
                   struct tidemark_mapping *mapping)
{
    const RawDisk *raw = handle;

    memset(mapping, 0, sizeof(*mapping));
    mapping->kind = TIDEMARK_MAP_CHILD;
    mapping->child = RAW_CHILD;
    mapping->offset = raw->offset + offset;
    mapping->length = length;
    return 0;
}

static int raw_resize(void *handle, uint64_t size)
{
    RawDisk *raw = handle;
    uint64_t end;
    int ret;

    if (raw->fixed) {
        blk_host.error(raw->node, "Cannot resize fixed-size raw disks");
        return -ENOTSUP;
    }
    if (!tm_range_end(raw->offset, size, &end) || end > TM_SIZE_MAX) {
        blk_host.error(raw->node, "Disk size too large for the chosen offset");
        return -EINVAL;
    }
    ret = blk_host.child_resize(raw->node, RAW_CHILD, end);
    if (ret == 0)
        __atomic_store_n(&raw->size, size, __ATOMIC_RELAXED);
    return ret;
}

static const struct tidemark_option raw_options[] = {
    { .name = "offset",
      .type = TIDEMARK_OPTION_SIZE,
      .default_value = "0",
      .help = "offset of the disk in the child" },
    { .name = "size",
      .type = TIDEMARK_OPTION_SIZE,
      .help = "size of the disk (default: up to the end of the child)" },
    { 0 },
};

static const struct tidemark_child raw_children[] = { { "file", 1 }, { 0 } };

const struct tidemark_driver blk_driver_raw = {
    .abi = TIDEMARK_ABI,
    .struct_size = sizeof(struct tidemark_driver),
    .name = "raw",
    .help = "the bytes of another node, or a range of them",
    .flags = TIDEMARK_DRIVER_FORMAT,
    .options = raw_options,
    .children = raw_children,
    .open = raw_open,
    .close = raw_close,
    .get_info = raw_get_info,
    .map = raw_map,
    .resize = raw_resize,
};
