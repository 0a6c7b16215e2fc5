/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* tests/plugin/faulty.c: a driver that fails, for the tests of errors on their way to a client.
 *
 * Of its disk every other MiB, from the first on, is a hole; the rest is bytes 0xdd that writes
 * don't change. Whatever touches [bad-offset, bad-offset + bad-length) fails with error number
 * errno: requests, or with status=on the question where the data are, or with flush=on every
 * flush. With descriptor=on, reads find all of it in a descriptor, and don't fail, up to the first
 * flush. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <tidemark/driver.h>
#include <unistd.h>

#define MIB ((uint64_t)1 << 20)

static const struct tidemark_host *host;

struct faulty {
    uint64_t size, bad, bad_length;
    int error, status, flush;
    int fd, descriptor; /* atomic: whether reads are to be done there */
};

static int make_descriptor(struct faulty *disk)
{
    static unsigned char data[MIB];

    disk->fd = memfd_create("faulty", MFD_CLOEXEC);
    if (disk->fd < 0 || ftruncate(disk->fd, (off_t)disk->size) < 0)
        return -errno;
    memset(data, 0xdd, MIB);
    for (uint64_t at = MIB; at < disk->size; at += 2 * MIB) {
        size_t length = disk->size - at < MIB ? disk->size - at : MIB;

        if (pwrite(disk->fd, data, length, (off_t)at) != (ssize_t)length)
            return -EIO;
    }
    disk->descriptor = 1;
    return 0;
}

static int faulty_open(struct tidemark_node *node, void **handle)
{
    struct faulty *disk = calloc(1, sizeof(*disk));

    if (!disk)
        return -ENOMEM;
    disk->size = host->option_uint(node, "size");
    disk->bad = host->option_uint(node, "bad-offset");
    disk->bad_length = host->option_uint(node, "bad-length");
    disk->error = -(int)host->option_uint(node, "errno");
    disk->status = host->option_bool(node, "status");
    disk->flush = host->option_bool(node, "flush");
    disk->fd = -1;
    if (host->option_bool(node, "descriptor")) {
        int ret = make_descriptor(disk);

        if (ret < 0) {
            host->error(node, "no descriptor: %s", strerror(-ret));
            if (disk->fd >= 0)
                close(disk->fd);
            free(disk);
            return ret;
        }
    }
    *handle = disk;
    return 0;
}

static void faulty_close(void *handle)
{
    struct faulty *disk = handle;

    if (disk->fd >= 0)
        close(disk->fd);
    free(disk);
}

static int faulty_get_info(void *handle, struct tidemark_info *info)
{
    const struct faulty *disk = handle;

    info->size = disk->size;
    info->request_alignment = 1;
    info->flags = TIDEMARK_INFO_FAST_ZERO | TIDEMARK_INFO_FUA;
    return 0;
}

static int touch(const struct faulty *disk, uint64_t offset, uint64_t length)
{
    return offset < disk->bad + disk->bad_length && disk->bad < offset + length ? disk->error : 0;
}

static int faulty_map(void *handle, uint64_t offset, uint64_t length, uint32_t purpose,
                      struct tidemark_mapping *mapping)
{
    const struct faulty *disk = handle;
    uint64_t left = MIB - offset % MIB;

    memset(mapping, 0, sizeof(*mapping));
    if (purpose == TIDEMARK_MAP_FOR_READ && __atomic_load_n(&disk->descriptor, __ATOMIC_RELAXED)) {
        mapping->kind = TIDEMARK_MAP_FD;
        mapping->fd = disk->fd;
        mapping->offset = offset;
        mapping->length = length;
        return 0;
    }
    mapping->length = length < left ? length : left;
    mapping->kind = TIDEMARK_MAP_SELF;
    if (purpose == TIDEMARK_MAP_FOR_STATUS && offset / MIB % 2 == 0) {
        mapping->kind = TIDEMARK_MAP_ZERO;
        mapping->flags = TIDEMARK_MAPPED_HOLE;
    }
    return purpose == TIDEMARK_MAP_FOR_STATUS && disk->status ? touch(disk, offset, mapping->length)
                                                              : 0;
}

static int faulty_pread(void *handle, void *buf, uint64_t offset, uint64_t length, uint32_t flags)
{
    unsigned char *bytes = buf;

    for (uint64_t i = 0; i < length; i++)
        bytes[i] = (offset + i) / MIB % 2 ? 0xdd : 0;
    return touch(handle, offset, length);
}

static int faulty_pwrite(void *handle, const void *buf, uint64_t offset, uint64_t length,
                         uint32_t flags)
{
    return touch(handle, offset, length);
}

static int faulty_flush(void *handle)
{
    struct faulty *disk = handle;

    __atomic_store_n(&disk->descriptor, 0, __ATOMIC_RELAXED);
    return disk->flush ? disk->error : 0;
}

static int faulty_write_zeroes(void *handle, uint64_t offset, uint64_t length, uint32_t flags)
{
    return touch(handle, offset, length);
}

static int faulty_range(void *handle, uint64_t offset, uint64_t length)
{
    return touch(handle, offset, length);
}

static const struct tidemark_option faulty_options[] = {
    { .name = "size", .type = TIDEMARK_OPTION_SIZE, .required = 1 },
    { .name = "bad-offset", .type = TIDEMARK_OPTION_SIZE },
    { .name = "bad-length", .type = TIDEMARK_OPTION_SIZE },
    { .name = "errno", .type = TIDEMARK_OPTION_UINT, .default_value = "5" },
    { .name = "status", .type = TIDEMARK_OPTION_BOOL },
    { .name = "flush", .type = TIDEMARK_OPTION_BOOL },
    { .name = "descriptor", .type = TIDEMARK_OPTION_BOOL },
    { .name = NULL },
};

static const struct tidemark_driver faulty_driver = {
    .abi = TIDEMARK_ABI,
    .struct_size = sizeof(struct tidemark_driver),
    .name = "faulty",
    .help = "fails as it is told to",
    .options = faulty_options,
    .open = faulty_open,
    .close = faulty_close,
    .get_info = faulty_get_info,
    .map = faulty_map,
    .pread = faulty_pread,
    .pwrite = faulty_pwrite,
    .flush = faulty_flush,
    .write_zeroes = faulty_write_zeroes,
    .discard = faulty_range,
    .cache = faulty_range,
};

const struct tidemark_driver *tidemark_driver_init(const struct tidemark_host *given);

const struct tidemark_driver *tidemark_driver_init(const struct tidemark_host *given)
{
    host = given;
    return &faulty_driver;
}
