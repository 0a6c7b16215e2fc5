/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: 0BSD */
/* examples/driver-ramdisk.c: a disk in memory, the simplest driver there is.
 *
 *     cc -shared -fPIC $(pkg-config --cflags tidemark) -o ramdisk.so driver-ramdisk.c
 *     tidemarkd --module ./ramdisk.so --blockdev driver=ramdisk,node-name=disk,size=1M ...
 *
 * It has no map: every request comes to the callbacks below, on worker threads, several at once.
 * They touch only the bytes that they were asked for, so no lock is needed: requests that overlap
 * are the client's own business, as on any disk. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <tidemark/driver.h>

#define RAMDISK_MAX ((uint64_t)1 << 30)

static const struct tidemark_host *host;

struct ramdisk {
    char *bytes;
    uint64_t size;
};

static int ramdisk_open(struct tidemark_node *node, void **handle)
{
    struct ramdisk *disk = calloc(1, sizeof(*disk));

    if (!disk)
        return -ENOMEM;
    disk->size = host->option_uint(node, "size");
    disk->bytes = calloc(1, disk->size ? disk->size : 1);
    if (!disk->bytes) {
        host->error(node, "No memory for a ramdisk of %llu bytes", (unsigned long long)disk->size);
        free(disk);
        return -ENOMEM;
    }
    *handle = disk;
    return 0;
}

static void ramdisk_close(void *handle)
{
    struct ramdisk *disk = handle;

    free(disk->bytes);
    free(disk);
}

static int ramdisk_get_info(void *handle, struct tidemark_info *info)
{
    const struct ramdisk *disk = handle;

    info->size = disk->size;
    info->request_alignment = 1;
    info->allocated = disk->size;
    info->flags = TIDEMARK_INFO_FAST_ZERO | TIDEMARK_INFO_FUA;
    return 0;
}

static int ramdisk_pread(void *handle, void *buf, uint64_t offset, uint64_t length, uint32_t flags)
{
    const struct ramdisk *disk = handle;

    memcpy(buf, disk->bytes + offset, length);
    return 0;
}

static int ramdisk_pwrite(void *handle, const void *buf, uint64_t offset, uint64_t length,
                          uint32_t flags)
{
    struct ramdisk *disk = handle;

    memcpy(disk->bytes + offset, buf, length);
    return 0;
}

static int ramdisk_flush(void *handle)
{
    return 0;
}

static int ramdisk_write_zeroes(void *handle, uint64_t offset, uint64_t length, uint32_t flags)
{
    struct ramdisk *disk = handle;

    memset(disk->bytes + offset, 0, length);
    return 0;
}

static int ramdisk_resize(void *handle, uint64_t size)
{
    struct ramdisk *disk = handle;
    char *bytes;

    if (size > RAMDISK_MAX)
        return -EFBIG;
    bytes = realloc(disk->bytes, size ? size : 1);
    if (!bytes)
        return -ENOMEM;
    if (size > disk->size)
        memset(bytes + disk->size, 0, size - disk->size);
    disk->bytes = bytes;
    disk->size = size;
    return 0;
}

static const struct tidemark_option ramdisk_options[] = {
    { .name = "size",
      .type = TIDEMARK_OPTION_SIZE,
      .required = 1,
      .max = RAMDISK_MAX,
      .help = "bytes, at most 1 GiB" },
    { .name = NULL },
};

static const struct tidemark_driver ramdisk_driver = {
    .abi = TIDEMARK_ABI,
    .struct_size = sizeof(struct tidemark_driver),
    .name = "ramdisk",
    .help = "a disk in memory, empty whenever it is opened",
    .options = ramdisk_options,
    .open = ramdisk_open,
    .close = ramdisk_close,
    .get_info = ramdisk_get_info,
    .pread = ramdisk_pread,
    .pwrite = ramdisk_pwrite,
    .flush = ramdisk_flush,
    .write_zeroes = ramdisk_write_zeroes,
    .resize = ramdisk_resize,
};

const struct tidemark_driver *tidemark_driver_init(const struct tidemark_host *table);
const struct tidemark_driver *tidemark_driver_init(const struct tidemark_host *table)
{
    host = table;
    return &ramdisk_driver;
}
