/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* block/drivers/preallocate.c: a filter between a format and its file: when the format needs a
 * longer file, it gets more than that at once, with its space.
 *
 * The file is longer than the disk that is presented by what is not used yet. That part has never
 * been written, so it reads as zeroes. It is cut off when the node is closed or resized; after a
 * crash it stays, and belongs to the disk.
 *
 * Options and messages as QEMU's (qapi BlockdevOptionsPreallocate, block/preallocate.c). */
#include "block/drivers/drivers.h"
#include "block/node.h"
#include "block/registry.h"
#include "util/error.h"
#include "util/range.h"

#include <errno.h>
#include <glib.h>
#include <inttypes.h>

#define SECTOR 512u

typedef struct Preallocate {
    struct tidemark_node *node; /* the host's */
    uint64_t align, more;       /* the file ends at a multiple of it; bytes beyond what is needed */
    uint64_t size;              /* atomic; changes with the node drained */
} Preallocate;

static int check_align(struct tidemark_node *node, uint64_t align, uint32_t request_alignment)
{
    if (align % SECTOR) {
        blk_host.error(node, "prealloc-align parameter of preallocate filter is not aligned to %u",
                       SECTOR);
        return -EINVAL;
    }
    if (align % request_alignment) {
        blk_host.error(node,
                       "prealloc-align parameter of preallocate filter is not aligned to "
                       "underlying node request alignment (%" PRIu32 ")",
                       request_alignment);
        return -EINVAL;
    }
    return 0;
}

static int preallocate_open(struct tidemark_node *node, void **handle)
{
    struct tidemark_info info = { .struct_size = sizeof(info) };
    Preallocate p = { .node = node };
    int ret = blk_host.child_info(node, BLK_BELOW, &info);

    if (ret < 0) {
        blk_host.error(node, "Could not get image size: %s", tm_strerror(-ret));
        return ret;
    }
    p.align = blk_host.option_uint(node, "prealloc-align");
    p.more = blk_host.option_uint(node, "prealloc-size");
    ret = check_align(node, p.align, info.request_alignment);
    if (ret < 0)
        return ret;
    p.align = tm_max(p.align, info.request_alignment);
    p.size = info.size;
    *handle = g_memdup2(&p, sizeof(p));
    return 0;
}

/* What the disk doesn't use. */
static int cut_off(Preallocate *p)
{
    return blk_host.child_size(p->node, BLK_BELOW) > p->size
               ? blk_host.child_resize(p->node, BLK_BELOW, p->size)
               : 0;
}

static void preallocate_close(void *handle)
{
    Preallocate *p = handle;
    int ret = cut_off(p);

    if (ret < 0)
        blk_host_log(p->node, "the space that was preallocated could not be cut off: %s",
                     tm_strerror(-ret));
    g_free(p);
}

static int preallocate_get_info(void *handle, struct tidemark_info *info)
{
    const Preallocate *p = handle;
    int ret = blk_filter_get_info(p->node, info);

    info->size = __atomic_load_n(&p->size, __ATOMIC_RELAXED);
    return ret;
}

static int set_size(Preallocate *p, int ret, uint64_t size)
{
    if (ret == 0)
        __atomic_store_n(&p->size, size, __ATOMIC_RELAXED);
    return ret;
}

static int preallocate_resize(void *handle, uint64_t size)
{
    Preallocate *p = handle;
    int ret = cut_off(p);

    return set_size(p, ret == 0 ? blk_host.child_resize(p->node, BLK_BELOW, size) : ret, size);
}

/* Where the file is to end; @size: there is no room for more. */
static uint64_t end_for(const Preallocate *p, uint64_t size)
{
    uint64_t end;

    if (!tm_range_end(size, p->more, &end) || end > TM_SIZE_MAX - p->align)
        return size;
    return (end + p->align - 1) / p->align * p->align;
}

/* A file that is longer, and has the space. What can't be had so is not needed. */
static bool extend(Preallocate *p, uint64_t from, uint64_t end)
{
    int ret = blk_host.child_grow(p->node, BLK_BELOW, end);

    if (ret == 0)
        ret = blk_node_reserve(blk_node_child(p->node, BLK_BELOW), from, end - from);
    return ret == 0 || ret == -ENOTSUP;
}

int blk_preallocate_grow(void *handle, uint64_t size)
{
    Preallocate *p = handle;
    uint64_t there = blk_host.child_size(p->node, BLK_BELOW), end = end_for(p, size);
    int ret = 0;

    if (size > there && !(end > size && extend(p, there, end))) {
        ret = cut_off(p);
        if (ret == 0)
            ret = blk_host.child_grow(p->node, BLK_BELOW, size);
    }
    return set_size(p, ret, size);
}

static const struct tidemark_option preallocate_options[] = {
    { .name = "prealloc-align",
      .type = TIDEMARK_OPTION_SIZE,
      .default_value = "1048576",
      .help = "the file ends at a multiple of this, of 512 bytes at least" },
    { .name = "prealloc-size",
      .type = TIDEMARK_OPTION_SIZE,
      .default_value = "134217728",
      .help = "bytes that a file gets beyond what is needed, when it must become longer" },
    { 0 },
};

static const struct tidemark_child preallocate_children[] = { { "file", 1 }, { 0 } };

const struct tidemark_driver blk_driver_preallocate = {
    .abi = TIDEMARK_ABI,
    .struct_size = sizeof(struct tidemark_driver),
    .name = "preallocate",
    .help = "a filter that reserves space ahead for the format above it",
    .options = preallocate_options,
    .children = preallocate_children,
    .open = preallocate_open,
    .close = preallocate_close,
    .get_info = preallocate_get_info,
    .map = blk_filter_map,
    .resize = preallocate_resize,
};
