/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* block/drivers/null.c: a disk that stores nothing, to measure everything above it.
 *
 * Writes are dropped. Reads give zero bytes even with read-zeroes=off: that option only decides
 * whether the disk *promises* zeroes in block status; memory that is not the client's never leaves
 * the process. Without latency-ns nothing here blocks, so the fast lane may call straight in.
 * Immutable after open: no locks. */
#include "block/drivers/drivers.h"
#include "block/registry.h"

#include <errno.h>
#include <glib.h>
#include <stdbool.h>
#include <string.h>
#include <time.h>

/* The longest disk that QEMU opens: what fits off_t in whole GiB. */
#define NULL_SIZE_MAX ((uint64_t)INT64_MAX & ~(((uint64_t)1 << 30) - 1))

typedef struct NullDisk {
    uint64_t size;
    uint64_t latency_ns;
    bool read_zeroes;
} NullDisk;

static int null_open(struct tidemark_node *node, void **handle)
{
    uint64_t size = blk_host.option_uint(node, "size");
    uint64_t latency = blk_host.option_uint(node, "latency-ns");
    NullDisk *disk;

    if (latency > INT64_MAX) {
        blk_host.error(node, "latency-ns is invalid");
        return -EINVAL;
    }
    if (size > NULL_SIZE_MAX) {
        blk_host.error(node, "Could not refresh total sector count: File too large");
        return -EFBIG;
    }
    disk = g_new0(NullDisk, 1);
    disk->size = size;
    disk->latency_ns = latency;
    disk->read_zeroes = blk_host.option_bool(node, "read-zeroes");
    *handle = disk;
    return 0;
}

static void null_close(void *handle)
{
    g_free(handle);
}

static int null_get_info(void *handle, struct tidemark_info *info)
{
    const NullDisk *disk = handle;

    info->flags = TIDEMARK_INFO_FAST_ZERO | TIDEMARK_INFO_FUA;
    info->size = disk->size;
    info->request_alignment = 1;
    info->preferred_block = 0;
    info->allocated = 0;
    info->cluster_size = 0;
    return 0;
}

static int null_map(void *handle, uint64_t offset, uint64_t length, uint32_t purpose,
                    struct tidemark_mapping *mapping)
{
    const NullDisk *disk = handle;

    memset(mapping, 0, sizeof(*mapping));
    mapping->length = length;
    mapping->kind = TIDEMARK_MAP_SELF;
    if (purpose == TIDEMARK_MAP_FOR_STATUS) {
        mapping->kind = disk->read_zeroes ? TIDEMARK_MAP_ZERO : TIDEMARK_MAP_SELF;
        mapping->flags = TIDEMARK_MAPPED_HOLE;
    } else if (!disk->latency_ns) {
        mapping->flags = TIDEMARK_MAPPED_INLINE;
    }
    return 0;
}

static int null_wait(const NullDisk *disk)
{
    struct timespec left = {
        .tv_sec = (time_t)(disk->latency_ns / 1000000000u),
        .tv_nsec = (long)(disk->latency_ns % 1000000000u),
    };

    if (disk->latency_ns)
        while (clock_nanosleep(CLOCK_MONOTONIC, 0, &left, &left) == EINTR)
            ;
    return 0;
}

static int null_pread(void *handle, void *buf, uint64_t offset, uint64_t length, uint32_t flags)
{
    memset(buf, 0, length);
    return null_wait(handle);
}

static int null_pwrite(void *handle, const void *buf, uint64_t offset, uint64_t length,
                       uint32_t flags)
{
    return null_wait(handle);
}

static int null_flush(void *handle)
{
    return null_wait(handle);
}

static int null_write_zeroes(void *handle, uint64_t offset, uint64_t length, uint32_t flags)
{
    return null_wait(handle);
}

static int null_discard(void *handle, uint64_t offset, uint64_t length)
{
    return null_wait(handle);
}

static int null_cache(void *handle, uint64_t offset, uint64_t length)
{
    return null_wait(handle);
}

static const struct tidemark_option null_options[] = {
    { .name = "size",
      .type = TIDEMARK_OPTION_SIZE,
      .default_value = "1073741824",
      .help = "size of the disk in bytes" },
    { .name = "latency-ns",
      .type = TIDEMARK_OPTION_UINT,
      .default_value = "0",
      .help = "duration of each request, in nanoseconds" },
    { .name = "read-zeroes",
      .type = TIDEMARK_OPTION_BOOL,
      .default_value = "off",
      .help = "promise that the disk reads as zeroes" },
    { 0 },
};

/* QEMU's two differ in how they wait. */
#define NULL_DRIVER(driver_name)                                                                   \
    {                                                                                              \
        .abi = TIDEMARK_ABI, .struct_size = sizeof(struct tidemark_driver), .name = driver_name,   \
        .help = "a disk that stores nothing", .options = null_options, .open = null_open,          \
        .close = null_close, .get_info = null_get_info, .map = null_map, .pread = null_pread,      \
        .pwrite = null_pwrite, .flush = null_flush, .write_zeroes = null_write_zeroes,             \
        .discard = null_discard, .cache = null_cache                                               \
    }

const struct tidemark_driver blk_driver_null_aio = NULL_DRIVER("null-aio");
const struct tidemark_driver blk_driver_null_co = NULL_DRIVER("null-co");
