/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* block/drivers/file/file.c: the file driver: a disk that is a regular file or a block device.
 *
 * map gives out the descriptor for reads and writes without looking anything up, so the fast lane
 * does page-cache I/O itself; for block status it answers from extents.c. The file's other
 * parts are listed in file.h.
 *
 * Options and messages as QEMU's (qapi BlockdevOptionsFile). What differs:
 *  - the driver "file" takes block devices too; "host_device" is there for QEMU's command lines,
 *    and takes nothing else;
 *  - a disk presents its exact size, not one rounded up to sectors;
 *  - a disk that is written through has no other writer, see block/permissions.h;
 *  - aio=native is io_uring. */
#include "block/drivers/file/file.h"
#include "block/drivers/drivers.h"
#include "block/permissions.h"
#include "block/registry.h"
#include "util/error.h"
#include "util/range.h"

#include <errno.h>
#include <linux/fs.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define ALIGN_MAX 4096u

/* ---- opening */

/* QEMU's file driver opens what auto-read-only allows read-only in these cases. */
static bool means_read_only(int errnum)
{
    return errnum == EACCES || errnum == EROFS || errnum == EPERM;
}

static int open_path(FileDisk *file)
{
    int flags = O_CLOEXEC | O_NOCTTY | (file->direct ? O_DIRECT : 0);

    flags |= file->read_only ? O_RDONLY : O_RDWR;
    file->fd = file->sys->open(file->path, flags, 0);
    return file->fd < 0 ? -errno : 0;
}

/* A device may be set read-only in the kernel, which open(2) doesn't notice. */
static bool device_is_writable(const FileDisk *file)
{
    struct stat st;
    int read_only = 0;

    if (file->sys->fstat(file->fd, &st) < 0 || !S_ISBLK(st.st_mode))
        return true;
    return file->sys->ioctl(file->fd, BLKROGET, &read_only) < 0 || !read_only;
}

static int open_once(FileDisk *file)
{
    int ret = open_path(file);

    if (ret < 0)
        return ret;
    if (file->read_only || device_is_writable(file))
        return 0;
    file->sys->close(file->fd);
    file->fd = -1;
    return -EACCES;
}

static int open_file(FileDisk *file)
{
    int ret = open_once(file);

    if (ret < 0 && !file->read_only && means_read_only(-ret) &&
        blk_host.option_bool(file->node, "auto-read-only")) {
        file->read_only = true;
        ret = open_once(file);
    }
    if (ret == -EINVAL && file->direct)
        blk_host.error(file->node, "Could not open '%s': the file system does not support O_DIRECT",
                       file->path);
    else if (ret < 0)
        blk_host.error(file->node, "Could not open '%s': %s", file->path, tm_strerror(-ret));
    return ret;
}

/* ---- what it is */

static int find_size(FileDisk *file, bool device_only)
{
    struct stat st;

    if (file->sys->fstat(file->fd, &st) < 0) {
        int ret = -errno;

        blk_host.error(file->node, "Could not stat '%s': %s", file->path, tm_strerror(-ret));
        return ret;
    }
    file->device = S_ISBLK(st.st_mode);
    if (!file->device && (device_only || !S_ISREG(st.st_mode))) {
        blk_host.error(file->node, "'%s' driver requires '%s' to be %s",
                       device_only ? "host_device" : "file", file->path,
                       device_only ? "a block device" : "a regular file or a block device");
        return -EINVAL;
    }
    file->size = (uint64_t)st.st_size;
    if (file->device && file->sys->ioctl(file->fd, BLKGETSIZE64, &file->size) < 0) {
        int ret = -errno;

        blk_host.error(file->node, "Could not get the size of '%s': %s", file->path,
                       tm_strerror(-ret));
        return ret;
    }
    return 0;
}

/* Whether O_DIRECT takes a read of @length into memory at @buf; other errors than EINVAL are for
 * whoever reads in earnest. */
static bool takes(const FileDisk *file, void *buf, size_t length)
{
    struct iovec iov = { buf, length };

    return file->sys->preadv2(file->fd, &iov, 1, 0, 0) >= 0 || errno != EINVAL;
}

/* The alignment of offsets, lengths and memory in one: the greater of what the two need. */
static int probe_alignment(FileDisk *file)
{
    int logical = 0;
    char *buf;
    uint32_t align;

    if (file->device && file->sys->ioctl(file->fd, BLKSSZGET, &logical) == 0 && logical > 0 &&
        tm_is_pow2((uint64_t)logical))
        file->sector = (uint32_t)logical;
    if (!file->direct)
        return 0;
    if (posix_memalign((void **)&buf, ALIGN_MAX, 2 * ALIGN_MAX))
        return -ENOMEM;
    for (align = MAX(file->sector, 512u); align <= ALIGN_MAX; align *= 2)
        if (takes(file, buf, align) && takes(file, buf + align, ALIGN_MAX))
            break;
    free(buf);
    if (align > ALIGN_MAX) {
        blk_host.error(file->node, "Could not find working O_DIRECT alignment for '%s'",
                       file->path);
        return -EINVAL;
    }
    file->align = align;
    return 0;
}

/* Asked at the end of the file, so that nothing is read: pages in the cache make reserved space
 * count as data. */
static int probe_nowait(FileDisk *file)
{
    off_t end = (off_t)tm_align_up(file->size, file->align);
    struct iovec iov = { .iov_len = file->align };

    if (posix_memalign(&iov.iov_base, MAX(file->align, sizeof(void *)), file->align))
        return -ENOMEM;
    file->nowait = file->sys->preadv2(file->fd, &iov, 1, end, RWF_NOWAIT) >= 0 || errno == EAGAIN;
    free(iov.iov_base);
    return 0;
}

static int set_locking(FileDisk *file)
{
    const char *locking = blk_host.option_string(file->node, "locking");
    int ret;

    if (g_str_equal(locking, "off"))
        return 0;
    ret = blk_file_locks_probe(file);
    file->locking = ret == 0;
    return ret == -ENOTSUP && g_str_equal(locking, "auto") ? 0 : ret;
}

static int set_up(FileDisk *file, bool device_only)
{
    int ret = open_file(file);

    if (ret == 0)
        ret = find_size(file, device_only);
    if (ret == 0)
        ret = set_locking(file);
    if (ret == 0)
        ret = probe_alignment(file);
    if (ret == 0)
        ret = probe_nowait(file);
    if (ret == 0) {
        ret = blk_file_open_tail(file);
        if (ret < 0)
            blk_host.error(file->node, "Could not open '%s': %s", file->path, tm_strerror(-ret));
    }
    return ret;
}

static void destroy(FileDisk *file)
{
    if (file->tail_fd >= 0)
        file->sys->close(file->tail_fd);
    if (file->fd >= 0)
        file->sys->close(file->fd);
    pthread_mutex_destroy(&file->bounce_lock);
    pthread_mutex_destroy(&file->sync_lock);
    pthread_cond_destroy(&file->synced);
    g_free(file->path);
    g_free(file);
}

static int open_kind(struct tidemark_node *node, void **handle, bool device_only)
{
    const char *aio = blk_host.option_string(node, "aio");
    FileDisk *file;
    int ret;

    if (!g_strcmp0(aio, "native") && !blk_host.option_bool(node, "cache.direct")) {
        blk_host.error(node, "aio=native was specified, but it requires cache.direct=on, which was "
                             "not specified.");
        return -EINVAL;
    }
    file = g_new0(FileDisk, 1);
    file->sys = blk_host_sys(node);
    file->node = node;
    file->path = g_strdup(blk_host.option_string(node, "filename"));
    file->fd = file->tail_fd = -1;
    file->align = file->sector = 1;
    file->read_only = blk_host.option_bool(node, "read-only");
    file->direct = blk_host.option_bool(node, "cache.direct");
    file->no_flush = blk_host.option_bool(node, "cache.no-flush");
    file->unmap = !g_strcmp0(blk_host.option_string(node, "discard"), "unmap");
    file->uring = !aio || !g_str_equal(aio, "threads");
    pthread_mutex_init(&file->bounce_lock, NULL);
    pthread_mutex_init(&file->sync_lock, NULL);
    pthread_cond_init(&file->synced, NULL);
    ret = set_up(file, device_only);
    if (ret < 0) {
        destroy(file);
        return ret;
    }
    blk_file_extents_init(&file->extents, file->sys, file->fd, file->size);
    *handle = file;
    return 0;
}

static int file_open(struct tidemark_node *node, void **handle)
{
    return open_kind(node, handle, false);
}

static int device_open(struct tidemark_node *node, void **handle)
{
    return open_kind(node, handle, true);
}

static void file_close(void *handle)
{
    FileDisk *file = handle;

    blk_file_extents_free(&file->extents);
    destroy(file);
}

/* ---- facts and places */

static int file_get_info(void *handle, struct tidemark_info *info)
{
    const FileDisk *file = handle;
    struct stat st;

    info->flags = TIDEMARK_INFO_FAST_ZERO | (file->read_only ? TIDEMARK_INFO_READ_ONLY : 0) |
                  (file->nowait ? TIDEMARK_INFO_WOULD_BLOCK : 0) |
                  (file->uring ? TIDEMARK_INFO_IO_URING : 0) |
                  (file->unmap ? TIDEMARK_INFO_DISCARD : 0);

    info->size = __atomic_load_n(&file->size, __ATOMIC_RELAXED);
    info->request_alignment = file->align;
    info->preferred_block = 0;
    info->cluster_size = 0;
    info->allocated =
        file->sys->fstat(file->fd, &st) < 0 ? UINT64_MAX : (uint64_t)st.st_blocks * 512;
    return 0;
}

static int map_status(FileDisk *file, uint64_t offset, uint64_t length,
                      struct tidemark_mapping *mapping)
{
    bool data = true;
    int ret = 0;

    if (!file->device) /* devices don't show it */
        ret = blk_file_extents_lookup(&file->extents, offset, length, &data, &mapping->length);
    if (ret == 0 && !data) {
        mapping->kind = TIDEMARK_MAP_ZERO;
        mapping->flags = TIDEMARK_MAPPED_HOLE;
    }
    return ret;
}

static int file_map(void *handle, uint64_t offset, uint64_t length, uint32_t purpose,
                    struct tidemark_mapping *mapping)
{
    FileDisk *file = handle;

    mapping->kind = TIDEMARK_MAP_FD;
    mapping->flags = 0;
    mapping->child = 0;
    mapping->fd = file->fd;
    mapping->offset = offset;
    mapping->length = length;
    if (purpose == TIDEMARK_MAP_FOR_STATUS)
        return map_status(file, offset, length, mapping);
    if (file->direct) {
        uint64_t end = blk_file_direct_end(file);

        mapping->flags = TIDEMARK_MAPPED_DIRECT;
        if (offset >= end) {
            mapping->kind = TIDEMARK_MAP_SELF;
            mapping->flags = 0;
        } else {
            mapping->length = tm_min(length, end - offset);
        }
    }
    return 0;
}

static void file_wrote(void *handle, uint64_t offset, uint64_t length)
{
    FileDisk *file = handle;

    blk_file_extents_wrote(&file->extents, offset, length);
}

/* ---- descriptions */

static const char *const aio_choices[] = { "threads", "native", "io_uring", NULL };
static const char *const locking_choices[] = { "auto", "on", "off", NULL };

static const struct tidemark_option file_options[] = {
    { .name = "filename",
      .type = TIDEMARK_OPTION_STRING,
      .required = 1,
      .help = "path of the image" },
    { .name = "aio",
      .type = TIDEMARK_OPTION_ENUM,
      .choices = aio_choices,
      .help = "the engine for I/O that waits for the medium (default: io_uring if available)" },
    { .name = "aio-max-batch",
      .type = TIDEMARK_OPTION_UINT,
      .default_value = "0",
      .help = "accepted for compatibility; batches need no limit" },
    { .name = "drop-cache",
      .type = TIDEMARK_OPTION_BOOL,
      .default_value = "on",
      .help = "accepted for compatibility; there is no migration" },
    { .name = "locking",
      .type = TIDEMARK_OPTION_ENUM,
      .choices = locking_choices,
      .default_value = "auto",
      .help = "lock the image against other users; auto: if the file system supports it" },
    { 0 },
};

#define FILE_CALLBACKS                                                                             \
    .options = file_options, .close = file_close, .get_info = file_get_info, .map = file_map,      \
    .pread = blk_file_pread, .pwrite = blk_file_pwrite, .flush = blk_file_flush,                   \
    .write_zeroes = blk_file_write_zeroes, .discard = blk_file_discard, .cache = blk_file_cache,   \
    .resize = blk_file_resize, .wrote = file_wrote

const struct tidemark_driver blk_driver_file = {
    .abi = TIDEMARK_ABI,
    .struct_size = sizeof(struct tidemark_driver),
    .name = "file",
    .help = "a regular file or a block device",
    .open = file_open,
    FILE_CALLBACKS,
};

const struct tidemark_driver blk_driver_host_device = {
    .abi = TIDEMARK_ABI,
    .struct_size = sizeof(struct tidemark_driver),
    .name = "host_device",
    .help = "a block device",
    .open = device_open,
    FILE_CALLBACKS,
};

const struct BlkLocks blk_locks_file = { blk_file_locks_take, blk_file_locks_keep };
